"""`llama-agent chat` as a person or a script uses it: a process, an endpoint, a terminal, all real."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.endpoint import Item, Reply, Request, Status
from tests.gated_endpoint import STOP, Gate, GatedEndpoint, said, stream

ROOT = Path(__file__).parent.parent
PATIENCE = 40.0
"""Seconds after which a process counts as hanging."""
CTRL_C, CTRL_D = b"\x03", b"\x04"
HIDDEN = ("LLAMA_", "OPENAI_", "GROQ_", "TOGETHER_", "FIREWORKS_", "OPENROUTER_", "HF_", "HAYSTACK_")
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\x08\x7f\u202e\rfaked"
FORBIDDEN = "\x1b\x07\x9b\x08\x7f\u202e\r"

TOOLS = '''
from pathlib import Path
from llama_agent import RunContext, tool

def add(a: int, b: int) -> int:
    """Add two numbers."""
    print("printed by the tool")
    return a + b

def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b

def hold(path: str, context: RunContext) -> str:
    """Wait until nobody wants it any more."""
    Path(path).write_text("here")
    context.cancel.wait(600)
    return "obeyed"

@tool(destructive=True)
def delete(path: str) -> str:
    """Delete a file."""
    Path(path).unlink()
    return "deleted"
'''


@dataclass(frozen=True)
class Done:
    """A process that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of all processes; `tools.py` is in it."""
    path = tmp_path_factory.mktemp("chat")
    (path / "tools.py").write_text(TOOLS)
    return path


@pytest.fixture
def endpoint() -> Iterator[GatedEndpoint]:
    with GatedEndpoint() as running:
        yield running


class Chat:
    """
    A `llama-agent chat`; what the block leaves running is killed.

    :param folder: Its current folder.
    :param url: Of the endpoint.
    :param arguments: Further ones.
    :param terminal: Which of its streams are a terminal; the others are pipes.
    """

    def __init__(self, folder: Path, url: str, *arguments: str, terminal: Sequence[str] = ()) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
        changes = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "HOME": str(folder), "OPENAI_MAX_RETRIES": "0"}
        command = [sys.executable, "-m", "llama_agent", "chat", "--endpoint", url, *arguments]
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._shown = b""
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**kept, **changes, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=_take_terminal if terminal else None,  # so that Ctrl-C becomes a signal
            **{**streams, **dict.fromkeys(terminal, theirs)},
        )
        os.close(theirs)
        self._write_to = self._read_from = self._ours
        if not terminal:
            assert self.process.stdin is not None and self.process.stdout is not None
            self._write_to, self._read_from = self.process.stdin.fileno(), self.process.stdout.fileno()

    def __enter__(self) -> "Chat":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)

    def type(self, text: str | bytes) -> None:
        """Write to it, a text with the end of its line."""
        os.write(self._write_to, text if isinstance(text, bytes) else f"{text}\n".encode())

    def until(self, text: str) -> str:
        """What it shows next, up to a text: on its terminal, if it has one, else on stdout."""
        end = monotonic() + PATIENCE
        while text.encode() not in self._shown:
            assert self._read(end - monotonic()), f"{text!r} was not shown, but {self._shown!r}"
        shown, _, self._shown = self._shown.partition(text.encode())
        return (shown + text.encode()).decode(errors="replace")

    def press_until(self, key: bytes, text: str) -> None:
        """
        Press a key, and again after a while of silence, until it shows a text: Python is late to notice
        a signal that comes just before it reads a line.
        """
        end = monotonic() + PATIENCE
        while text.encode() not in self._shown:
            assert monotonic() < end, f"{text!r} was not shown, but {self._shown!r}"
            self.type(key)
            while text.encode() not in self._shown and self._read(2.0):
                pass
        self.until(text)

    def _read(self, seconds: float) -> bool:
        """Read what it shows within some seconds; False where there is nothing more."""
        ready, _, _ = select.select([self._read_from], [], [], max(0.0, seconds))
        piece = b""
        with suppress(OSError):  # the process has ended
            piece = os.read(self._read_from, 4096) if ready else b""
        self._shown += piece
        return bool(piece)

    def ctrl_c(self) -> None:
        """SIGINT to its whole process group, as from a terminal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, rest: bytes | None = None) -> Done:
        """Close its stdin, if that is a pipe, after some more lines, and wait for its end."""
        out, err = self.process.communicate(rest, timeout=PATIENCE)
        shown = self._shown if self._read_from != self._ours else b""
        return Done(self.process.returncode, (shown + (out or b"")).decode(), (err or b"").decode())


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


# Chats whose lines are all there from the beginning; one chat serves several tests, since it takes seconds.


@dataclass(frozen=True)
class Scene:
    """
    A chat to be.

    :param arguments: Behind `llama-agent chat --endpoint URL`.
    :param lines: What is piped in.
    :param script: What the endpoint answers.
    """

    arguments: Sequence[str]
    lines: Sequence[str]
    script: Sequence[Item]

    def play(self, folder: Path) -> "Played":
        with GatedEndpoint() as endpoint:
            endpoint.script(*self.script)
            with Chat(folder, endpoint.url, *self.arguments) as chat:
                done = chat.end("".join(f"{line}\n" for line in self.lines).encode())
            return Played(done, endpoint.requests)


@dataclass(frozen=True)
class Played:
    """How a chat went, and what it asked the endpoint."""

    done: Done
    requests: Sequence[Request]


SYSTEM = "Say {{ x }} {% if"
SCENES: Mapping[str, Scene] = {
    "good": Scene(
        ["--tools", "tools.py", "--system", SYSTEM, "--model", "chosen"],
        [
            "Hello {{ you }}.",
            "",
            "   ",
            "/tools",
            "What is 17 plus 25?",
            "Größe?",
            "/reset",
            "Do you remember?",
            "/exit",
            "Never said.",
        ],
        [
            Reply("Hi."),
            Reply(calls=[("add", {"a": 17, "b": 25})]),
            Reply("It is 42."),
            Reply("groß"),
            Reply("No."),
        ],
    ),
    "destructive": Scene(
        ["--tools", "tools.py"],
        ["Delete it.", "y", "Now you."],
        [
            Reply(calls=[("delete", {"path": "precious.txt"})]),
            Reply("I may not."),
            Reply("Why?"),
            Reply("Bye."),
        ],
    ),
    "destructive, allowed": Scene(
        ["--tools", "tools.py:delete", "--yes"],
        ["Delete it."],
        [Reply(calls=[("delete", {"path": "rubbish.txt"})]), Reply("Gone.")],
    ),
    "trouble": Scene(
        ["--tools", "tools.py:multiply"],
        ["One.", "Two.", "Three.", "Four."],
        [
            Reply("Fine."),
            Status(400, {"error": {"message": f"the moon is wrong {ESCAPES}"}}),
            stream(said(f"end {ESCAPES}", 1), STOP),
            Reply(calls=[(f"tool{ESCAPES}", {"x": ESCAPES})]),
            Reply("Good."),
        ],
    ),
    "bad tools": Scene(["--tools", "no_such.py"], ["Hi."], []),
}


@pytest.fixture(scope="module")
def played(folder: Path) -> Callable[[str], Played]:
    """Plays a scene when it is first asked for."""
    for name in ("precious.txt", "rubbish.txt"):
        (folder / name).touch()
    return cache(lambda name: SCENES[name].play(folder))


@pytest.fixture
def good(played: Callable[[str], Played]) -> Played:
    return played("good")


def conversation(request: Request) -> list[tuple[str, str | None]]:
    return [(message["role"], message["content"]) for message in request.messages]


def test_the_answers_go_to_stdout_and_nothing_else_does(good: Played) -> None:
    assert good.done.out == "Hi.\nIt is 42.\ngroß\nNo.\n"
    assert "printed by the tool" in good.done.err
    assert good.done.code == 0


def test_the_conversation_goes_on_from_line_to_line(good: Played) -> None:
    assert conversation(good.requests[0]) == [("system", SYSTEM), ("user", "Hello {{ you }}.")]
    second = [("system", SYSTEM), ("user", "Hello {{ you }}."), ("assistant", "Hi.")]
    assert conversation(good.requests[1]) == [*second, ("user", "What is 17 plus 25?")]
    assert [role for role, _ in conversation(good.requests[3])] == [
        *("system", "user", "assistant", "user", "assistant", "tool", "assistant", "user")
    ]
    assert conversation(good.requests[3])[-2:] == [("assistant", "It is 42."), ("user", "Größe?")]


def test_reset_forgets_the_conversation_and_not_the_system_message(good: Played) -> None:
    assert conversation(good.requests[4]) == [("system", SYSTEM), ("user", "Do you remember?")]


def test_empty_lines_and_commands_are_no_tasks(good: Played) -> None:
    assert len(good.requests) == 5
    said_by_user = [
        text for request in good.requests for role, text in conversation(request) if role == "user"
    ]
    assert not [text for text in said_by_user if not text or not text.strip() or text.startswith("/")]


def test_the_tools_are_offered_and_listed(good: Played) -> None:
    offered = {tool["function"]["name"] for tool in good.requests[0].json["tools"]}
    assert offered == {"add", "multiply", "hold", "delete"}
    assert all(name in good.done.err for name in offered)


def test_replies_are_streamed_from_the_model_that_was_chosen(good: Played) -> None:
    assert {request.json["model"] for request in good.requests} == {"chosen"}
    assert all(request.json["stream"] for request in good.requests)


def test_the_call_and_its_result_are_shown_on_stderr(good: Played) -> None:
    lines = good.done.err.splitlines()
    call = next(number for number, line in enumerate(lines) if "add(a=17, b=25)" in line)
    assert any("42" in line for line in lines[call + 1 :])


def test_where_nobody_can_be_asked_the_next_line_is_no_answer(
    played: Callable[[str], Played], folder: Path
) -> None:
    scene = played("destructive")
    assert (folder / "precious.txt").exists()
    assert "--yes" in scene.done.err
    assert "destructive" in scene.requests[1].messages[-1]["content"]
    assert scene.requests[2].messages[-1]["content"] == "y"
    assert scene.done.out == "I may not.\nWhy?\nBye.\n"
    assert scene.done.code == 0


def test_yes_lets_a_destructive_tool_run(played: Callable[[str], Played], folder: Path) -> None:
    scene = played("destructive, allowed")
    assert not (folder / "rubbish.txt").exists()
    assert (scene.done.out, scene.done.code) == ("Gone.\n", 0)


def test_a_run_that_fails_is_told_and_the_chat_goes_on(played: Callable[[str], Played]) -> None:
    scene = played("trouble")
    assert "the moon is wrong" in scene.done.err
    assert "Traceback" not in scene.done.err
    assert scene.done.out.startswith("Fine.\nend ")
    assert scene.done.out.endswith("\nGood.\n")
    assert scene.done.code == 0
    third = conversation(scene.requests[2])
    assert third[:2] == [("user", "One."), ("assistant", "Fine.")]
    assert third[-1] == ("user", "Three.")


def test_terminal_escapes_reach_neither_stream(played: Callable[[str], Played]) -> None:
    done = played("trouble").done
    assert [character for character in FORBIDDEN if character in done.out] == []
    assert [character for character in FORBIDDEN if character in done.err] == []


def test_tools_that_cant_be_loaded_are_wrong_usage(played: Callable[[str], Played]) -> None:
    scene = played("bad tools")
    assert scene.done.code == 2
    assert scene.done.out == ""
    assert "no_such.py" in scene.done.err
    assert "Traceback" not in scene.done.err


# As it is typed.


def test_on_a_terminal_answers_stream_and_ctrl_c_stops_the_run_alone(
    folder: Path, endpoint: GatedEndpoint
) -> None:
    seen, never = Gate(PATIENCE), Gate(PATIENCE)
    endpoint.script(
        stream(said("Once upon", 20), seen, said(" a time.", 20), STOP),
        stream(said("And then", 20), never, said(" they died.", 20), STOP),
        Reply("Good night."),
    )
    whole = ("stdin", "stdout", "stderr")
    with Chat(folder, endpoint.url, "--tools", "tools.py", terminal=whole) as chat:
        chat.until(">")
        chat.type("A story.")
        chat.until("Once upon")
        assert not seen.is_open
        seen.open()
        chat.until("a time.")
        chat.until(">")
        chat.type("Another.")
        chat.until("And then")
        chat.type(CTRL_C)
        assert endpoint.wait_for_disconnect(PATIENCE)
        assert not never.is_open
        chat.until("interrupted")
        chat.until(">")
        chat.type("Sleep well.")
        assert endpoint.wait_for_requests(3, PATIENCE)
        chat.until("Good night.")
        chat.until(">")
        chat.press_until(CTRL_C, ">")  # at the prompt there is nothing to stop
        chat.type(CTRL_D)
        assert chat.end().code == 0
    third = conversation(endpoint.requests[2])
    assert third[:2] == [("user", "A story."), ("assistant", "Once upon a time.")]
    assert third[-1] == ("user", "Sleep well.")


def test_on_a_terminal_one_is_asked_though_the_answers_go_elsewhere(
    folder: Path, endpoint: GatedEndpoint, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("refused", "interrupted", "gone")]
    for path in files:
        path.touch()
    calls = [Reply(calls=[("delete", {"path": str(path)})]) for path in files]
    endpoint.script(calls[0], Reply("It stays."), calls[1], calls[2], Reply("It is gone."))
    asking = ("stdin", "stderr")  # as in `llama-agent chat > answers`
    with Chat(folder, endpoint.url, "--tools", "tools.py", terminal=asking) as chat:
        for answer in (b"n\n", CTRL_C, b"y\n"):
            chat.type("Delete it.")
            chat.until("[y/N]")
            chat.type(answer)
            if answer == CTRL_C:
                chat.until("interrupted")
        chat.type("/exit")
        done = chat.end()
    assert [path.exists() for path in files] == [True, True, False]
    assert done == Done(0, "It stays.\nIt is gone.\n", "")


def test_ctrl_c_in_the_midst_of_a_tool_leaves_a_whole_conversation(
    folder: Path, endpoint: GatedEndpoint, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    calls = [("add", {"a": 2, "b": 3}), ("hold", {"path": str(pipe)})]
    endpoint.script(Reply(calls=calls), Reply("Well."))
    with Chat(folder, endpoint.url, "--tools", "tools.py") as chat:
        chat.type("Wait.")
        assert select.select([reading], [], [], PATIENCE)[0]
        chat.ctrl_c()
        chat.type("How are you?")
        assert chat.until("Well.") == "Well."
        done = chat.end()
    os.close(reading)
    assert done.code == 0
    assert "interrupted" in done.err
    assert "Traceback" not in done.err
    messages = endpoint.requests[1].messages
    called_ids = [call["id"] for m in messages for call in m.get("tool_calls") or ()]
    answered_ids = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
    assert called_ids == answered_ids
    assert messages[-1] == {"role": "user", "content": "How are you?"}
