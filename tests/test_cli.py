"""The command `llama-agent` as a person or a script starts it: a process of its own, a real endpoint."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.endpoint import Endpoint, Item, Raw, Reply, Request, Status

COMMAND = [sys.executable, "-m", "llama_agent"]
ROOT = Path(__file__).parent.parent
PATIENCE = 60.0
"""Seconds after which a process counts as hanging."""
HIDDEN = ("LLAMA_", "OPENAI_", "GROQ_", "TOGETHER_", "FIREWORKS_", "OPENROUTER_", "HF_", "HAYSTACK_")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\x90q\x08\x7f"
BIDI = "\u202e\u202d\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
EVIL = f"{ESCAPES}{BIDI}\rfaked"
FORBIDDEN = ["\x1b", "\x07", "\x9b", "\x90", "\x08", "\x7f", *BIDI, "\r"]

GUARD = '''
import ipaddress, os, sys

def watch(event, arguments):
    """Loopback only; and a list of who was called, for the test that asks."""
    if event != "socket.connect" or not isinstance(arguments[1], tuple):
        return
    host, port = arguments[1][:2]
    if not (host == "localhost" or ipaddress.ip_address(host).is_loopback):
        os.write(2, f"tried to reach {host}\\n".encode())
        os._exit(99)
    if where := os.environ.get("CALLED"):
        with open(where, "a") as file:
            file.write(f"{port}\\n")

sys.addaudithook(watch)
'''

TOOLS = '''
import sys
from pathlib import Path
from llama_agent import tool

def add(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
        a: First number.
        b: Second number.

    """
    return a + b

def echo(text: str) -> str:
    """Say a text back."""
    return text

def fail(text: str) -> str:
    """Fail with a text."""
    raise ValueError(text)

def chatter() -> str:
    """Print something while it works."""
    print("printed by the tool")
    return "done"

def odd_file_name() -> str:
    """Give a file name as Python reads it from a disk that has other encodings."""
    return "caf\\udce9"

def pause(pipe: str) -> str:
    """Wait until the other end of a pipe says something, which it never does."""
    with open(pipe, "w") as out, open(pipe + ".back") as back:
        return back.read()

@tool(destructive=True)
def delete(path: str) -> str:
    """Delete a file."""
    Path(path).unlink()
    return "deleted"

def undocumented(a: int) -> int:
    return a

def _private() -> str:
    """It begins with an underscore."""
    return ""
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
    path = tmp_path_factory.mktemp("cli")
    (path / "guard").mkdir()
    (path / "guard" / "sitecustomize.py").write_text(GUARD)
    (path / "tools.py").write_text(TOOLS)
    return path


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


def environment(folder: Path, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(HIDDEN) and name.lower() not in PROXIES
    }
    path = os.pathsep.join([str(folder / "guard"), str(ROOT)])
    return {**kept, "PYTHONPATH": path, "PYTHONUTF8": "1", "HOME": str(folder), **(changes or {})}


@contextmanager
def started(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, **streams: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process; what the block leaves running is killed."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    command = [*COMMAND, *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment(folder, env), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[bytes], stdin: bytes | None = None) -> Done:
    out, err = process.communicate(stdin, timeout=PATIENCE)
    return Done(process.returncode, (out or b"").decode(), (err or b"").decode())


def llama_agent(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> Done:
    source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    with started(folder, *arguments, env=env, stdin=source) as process:
        return ended(process, stdin)


def run(folder: Path, endpoint: Endpoint, *arguments: str) -> Done:
    """`llama-agent run` against the endpoint, without second attempts."""
    settings = {"OPENAI_MAX_RETRIES": "0"}
    return llama_agent(folder, "run", "--endpoint", endpoint.url, *arguments, env=settings)


def tool_names(request: Request) -> list[str]:
    return [tool["function"]["name"] for tool in request.json.get("tools", [])]


def unsafe_in(text: str) -> list[str]:
    return [f"U+{ord(character):04X}" for character in FORBIDDEN if character in text]


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON (RFC 8259)")


# Runs that nobody watches: all begun together, two at a time, since starting a process takes seconds


@dataclass(frozen=True)
class Scene:
    """
    A run to be.

    :param arguments: Behind `llama-agent run --endpoint URL`.
    :param script: What the endpoint answers.
    :param env: Changes of the environment.
    :param stdin: What is piped in, if anything.
    :param models: What the endpoint lists.
    """

    arguments: Sequence[str]
    script: Sequence[Item]
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    models: Sequence[str] = ("test-model",)

    def play(self, folder: Path) -> "Played":
        with Endpoint(models=self.models) as endpoint:
            endpoint.script(*self.script)
            arguments = ["run", "--endpoint", endpoint.url, *self.arguments]
            env = {"OPENAI_MAX_RETRIES": "0", **self.env}
            done = llama_agent(folder, *arguments, env=env, stdin=self.stdin)
            return Played(done, endpoint.requests, urlsplit(endpoint.url).port)


@dataclass(frozen=True)
class Played:
    """How a run went, and what it asked the endpoint at `port`."""

    done: Done
    requests: Sequence[Request]
    port: int | None


EVIL_CALLS = [(f"tool{EVIL}", {}), ("echo", {"text": EVIL}), ("fail", {"text": EVIL})]
HALF_A_PAIR = (
    b'{"model": "m", "choices": [{"index": 0, "finish_reason": "stop", '
    b'"message": {"role": "assistant", "content": "half \\ud83d done"}}]}'
)
SCENES = {
    "good": Scene(
        ["Use {{ add }} {% for", "--tools", "tools.py", "--system", "Say {{ x }} {% if"],
        [Reply(calls=[("add", {"a": 17, "b": 25})]), Reply("It is 42.")],
        env={"CALLED": "called"},
    ),
    "dash": Scene(["-", "--model", "chosen"], [Reply("ok")], stdin=b"What is up?\nTell me."),
    "other endpoint in the environment": Scene(
        [],
        [Reply("ok")],
        stdin=b"Piped.",
        env={
            "LLAMA_AGENT_ENDPOINT": "http://127.0.0.1:9/v1",
            "LLAMA_AGENT_API_KEY": "for-port-nine",
            "LLAMA_AGENT_MODEL": "of-port-nine",
            "LLAMA_API_KEY": "for-llama-com",
        },
    ),
    "step limit": Scene(
        ["Add", "--tools", "tools.py:add", "--max-steps", "2", "--json"],
        [*(Reply(calls=[("add", {"a": 1, "b": n})]) for n in range(2)), Reply("About 3.")],
    ),
    "cut off": Scene(["Hi"], [Reply("The answer is", finish_reason="length")] * 2),
    "quiet": Scene(
        ["Add", "--tools", "tools:add", "--quiet"], [Reply(calls=[("add", {"a": 1, "b": 2})]), Reply("3")]
    ),
    "json": Scene(
        ["Add", "--tools", "tools", "--json"],
        [Reply(calls=[("add", {"a": 1, "b": 2})], usage=(10, 5)), Reply("Drei: ③", usage=(20, 2))],
    ),
    "infinite": Scene(
        ["Add", "--tools", "tools.py", "--json"],
        [Reply(calls=[("add", '{"a": 1e999, "b": 2}')]), Reply("Too big.")],
    ),
    "chatter": Scene(["Chat", "--tools", "tools.py"], [Reply(calls=[("chatter", {})]), Reply("Done.")]),
    "two tools": Scene(["Hi", "--tools", "tools.py:add", "--tools", "tools.py:delete"], [Reply("ok")]),
    "attack": Scene(
        ["Hi", "--tools", "tools.py"],
        [
            Status(503, {"error": {"message": f"busy {EVIL}"}}),
            Reply(calls=EVIL_CALLS),
            Reply(f"end {EVIL}"),
        ],
        env={"OPENAI_MAX_RETRIES": "1"},
    ),
    "attack by error": Scene(["Hi"], [Status(400, {"error": {"message": f"the moon is wrong {EVIL}"}})]),
    "attack by model names": Scene(["Hi"], [], models=[f"one{EVIL}", f"two{EVIL}"]),
    "attack as json": Scene(
        ["Hi", "--tools", "tools.py", "--json"],
        [Reply(calls=[("echo", {"text": EVIL})]), Reply(f"end {EVIL}")],
    ),
    "half a pair": Scene(["Hi"], [Raw(HALF_A_PAIR)]),
    "a name that is no text": Scene(
        ["Hi", "--tools", "tools.py"], [Reply(calls=[("odd_file_name", {})]), Reply("Odd.")]
    ),
    "ascii terminal": Scene(["Hi"], [Reply("42 €")], env={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}),
}


@pytest.fixture(scope="module")
def played(folder: Path) -> Iterator[Callable[[str], Played]]:
    """Plays all of `SCENES`, and gives one by name as soon as it has ended."""
    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(scene.play, folder) for name, scene in SCENES.items()}
        yield lambda name: futures[name].result()


@pytest.fixture
def good(played: Callable[[str], Played]) -> Played:
    """A task with template braces, a system message with some, a tool call, an answer."""
    return played("good")


def test_the_answer_alone_goes_to_stdout_and_the_exit_code_is_0(good: Played) -> None:
    assert good.done.out == "It is 42.\n"
    assert good.done.code == 0


def test_the_call_with_its_arguments_and_its_result_are_shown_on_stderr(good: Played) -> None:
    lines = good.done.err.splitlines()
    call = next(i for i, line in enumerate(lines) if "add(a=17, b=25)" in line)
    assert "42" in lines[call + 1]
    assert any("model" in line and " s" in line for line in lines[:call])


def test_the_system_message_and_the_task_are_taken_literally(good: Played) -> None:
    assert [(m["role"], m["content"]) for m in good.requests[0].messages] == [
        ("system", "Say {{ x }} {% if"),
        ("user", "Use {{ add }} {% for"),
    ]


def test_a_files_public_functions_with_docstrings_are_the_tools(good: Played) -> None:
    names = ["add", "chatter", "delete", "echo", "fail", "odd_file_name", "pause"]
    assert sorted(tool_names(good.requests[0])) == names


def test_the_tools_result_went_back_to_the_model(good: Played) -> None:
    assert good.requests[1].messages[-1]["role"] == "tool"
    assert good.requests[1].messages[-1]["content"] == "42"


def test_nobody_but_the_endpoint_is_talked_to(good: Played, folder: Path) -> None:
    assert set((folder / "called").read_text().split()) == {str(good.port)}


# Where the task, the model and the endpoint come from


def test_dash_reads_the_task_from_stdin_and_the_model_is_the_named_one(
    played: Callable[[str], Played],
) -> None:
    request = played("dash").requests[0]
    assert request.messages[-1]["content"].strip() == "What is up?\nTell me."
    assert request.json["model"] == "chosen"


def test_without_a_task_stdin_is_read(played: Callable[[str], Played]) -> None:
    run = played("other endpoint in the environment")
    assert run.done.code == 0
    assert run.requests[0].messages[-1]["content"].strip() == "Piped."


def test_the_endpoint_option_wins_over_the_environment_and_gets_nothing_of_the_others(
    played: Callable[[str], Played],
) -> None:
    request = played("other endpoint in the environment").requests[0]
    assert "for-" not in request.headers.get("authorization", "")
    assert request.json["model"] == "test-model"


def test_the_task_comes_from_a_file_and_the_endpoint_from_the_environment(
    folder: Path, endpoint: Endpoint
) -> None:
    (folder / "task.txt").write_text("Größe?", encoding="utf-8")
    endpoint.script(Reply("groß"))
    env = {
        "LLAMA_AGENT_ENDPOINT": endpoint.url,
        "LLAMA_AGENT_MODEL": "from-env",
        "LLAMA_AGENT_API_KEY": "key-from-env",
    }
    done = llama_agent(folder, "run", "--file", "task.txt", env=env)
    assert done.out == "groß\n"
    request = endpoint.requests[0]
    assert request.messages[-1]["content"] == "Größe?"
    assert request.json["model"] == "from-env"
    assert request.headers["authorization"] == "Bearer key-from-env"


# Exit codes


def test_a_failing_endpoint_is_exit_1_with_what_it_said(played: Callable[[str], Played]) -> None:
    done = played("attack by error").done
    assert done.code == 1
    assert done.out == ""
    assert "the moon is wrong" in done.err
    assert "Traceback" not in done.err


def test_the_step_limit_is_exit_3_and_said_in_json_too(played: Callable[[str], Played]) -> None:
    run = played("step limit")
    assert run.done.code == 3
    assert "max_steps" in run.done.err
    said = json.loads(run.done.out)
    assert (said["stop_reason"], said["text"]) == ("max_steps", "About 3.")
    assert tool_names(run.requests[0]) == ["add"]


def test_an_answer_cut_off_by_the_token_limit_is_exit_3(played: Callable[[str], Played]) -> None:
    done = played("cut off").done
    assert done.code == 3
    assert "length" in done.err


USAGE: dict[str, tuple[list[str], str]] = {
    "max steps of 0": (["run", "Hi", "--max-steps", "0"], "max-steps"),
    "an unknown option": (["run", "Hi", "--nonsense"], "--nonsense"),
    "an unknown command": (["walk"], "walk"),
    "an empty task": (["run", "  "], "empty"),
    "a task file that isn't there": (["run", "--file", "no.txt"], "no.txt"),
    "a task file that is no text": (["run", "--file", "noise.bin"], "noise.bin"),
    "a task and a task file": (["run", "Hi", "--file", "tools.py"], "--file"),
    "an unknown preset": (["run", "Hi", "--endpoint", "nonsense"], "nonsense"),
    "a tool file that isn't there": (["tools", "no_such.py"], "no_such.py"),
    "a module that isn't there": (["tools", "no_such_module"], "no_such_module"),
    "a name that isn't in the file": (["run", "Hi", "--tools", "tools.py:substract"], "substract"),
    "a file with a syntax error": (["tools", "syntax.py"], "syntax.py"),
    "a file that raises": (["tools", "raises.py"], "raises.py:2"),
    "a file that raises, said": (["tools", "raises.py"], "no moon today"),
    "a file that exits": (["tools", "exits.py"], "exits.py"),
    "a file without tools": (["tools", "bare.py"], "docstring"),
    "a name that is no tool": (["tools", "bare.py:NUMBER"], "can't be a tool"),
    "one tool twice": (
        ["run", "Hi", "--tools", "tools.py:add", "--tools", "other.py"],
        "two tools are named",
    ),
}


@pytest.fixture(scope="module")
def refusals(folder: Path) -> dict[str, Done]:
    """All of `USAGE`, two at a time."""
    (folder / "noise.bin").write_bytes(b"\xff\xfe\x00task")
    (folder / "syntax.py").write_text("def add(a, b:\n    return\n")
    (folder / "raises.py").write_text("import os\nraise RuntimeError('no moon today')\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "bare.py").write_text("NUMBER = 3\ndef add(a: int) -> int:\n    return a\n")
    (folder / "other.py").write_text('def add(a: int) -> int:\n    """Add one."""\n    return a + 1\n')
    env = {"LLAMA_AGENT_ENDPOINT": "http://127.0.0.1:9/v1", "OPENAI_MAX_RETRIES": "0"}
    with ThreadPoolExecutor(2) as pool:
        distinct = {tuple(arguments) for arguments, _ in USAGE.values()}
        done = dict(
            zip(distinct, pool.map(lambda a: llama_agent(folder, *a, env=env), distinct), strict=True)
        )
    return {case: done[tuple(arguments)] for case, (arguments, _) in USAGE.items()}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_exit_2_and_says_what_is_wrong_without_a_traceback(
    case: str, refusals: dict[str, Done]
) -> None:
    done = refusals[case]
    assert done.code == 2, done.err
    assert USAGE[case][1] in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_task_from_stdin_that_is_no_text_is_exit_2_without_a_traceback(folder: Path) -> None:
    # As in every UTF-8 locale but C's, where Python reads anything.
    env = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8:strict"}
    done = llama_agent(folder, "run", "--endpoint", "http://127.0.0.1:9/v1", env=env, stdin=b"caf\xe9")
    assert "Traceback" not in done.err
    assert done.code == 2


def test_without_a_task_on_a_terminal_it_says_how_to_give_one(folder: Path) -> None:
    with on_terminal(folder, "run") as (process, ours):
        shown = read_until(ours, "llama-agent run")
        done = ended(process)
    assert done.code == 2
    assert "task" in shown


# Options


def test_version_is_printed(folder: Path) -> None:
    done = llama_agent(folder, "--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("llama-agent 0.")


def test_help_names_the_options_and_the_exit_codes(folder: Path) -> None:
    shown = llama_agent(folder, "run", "--help", env={"COLUMNS": "200"}).out
    for text in ("--tools", "--yes", "--json", "0 answered", "3 ended early"):
        assert text in shown


def test_quiet_shows_the_answer_and_nothing_else(played: Callable[[str], Played]) -> None:
    assert played("quiet").done == Done(0, "3\n", "")


def test_a_module_of_the_current_folder_and_a_name_in_it_is_one_tool(
    played: Callable[[str], Played],
) -> None:
    assert tool_names(played("quiet").requests[0]) == ["add"]


def test_a_module_without_a_name_is_all_its_tools(played: Callable[[str], Played]) -> None:
    assert {"add", "delete", "echo"} < set(tool_names(played("json").requests[0]))


def test_json_tells_what_happened(played: Callable[[str], Played]) -> None:
    done = played("json").done
    told = json.loads(done.out, parse_constant=no_constants)
    assert done.code == 0
    assert told["text"] == "Drei: ③"
    assert told["stop_reason"] == "answered"
    assert told["steps"] == 2
    assert told["usage"]["input_tokens"] == 30
    assert told["usage"]["output_tokens"] == 7
    assert told["usage"]["total_tokens"] == 37
    assert told["tool_call_counts"]["add"] == 1
    assert [message["role"] for message in told["messages"]] == ["user", "assistant", "tool", "assistant"]


def test_json_stays_json_when_arguments_hold_numbers_beyond_all_bounds(
    played: Callable[[str], Played],
) -> None:
    told = json.loads(played("infinite").done.out, parse_constant=no_constants)
    assert told["text"] == "Too big."


def test_what_a_tool_prints_does_not_mix_with_the_answer(played: Callable[[str], Played]) -> None:
    done = played("chatter").done
    assert done.out == "Done.\n"
    assert "printed by the tool" in done.err


def test_tools_prints_the_definitions_as_a_model_sees_them(
    folder: Path, played: Callable[[str], Played]
) -> None:
    printed = json.loads(llama_agent(folder, "tools", "tools.py:add", "tools.py:delete", "--json").out)[
        "tools"
    ]
    assert printed == played("two tools").requests[0].json["tools"]
    assert printed[0]["function"]["description"] == "Add two numbers."
    assert printed[0]["function"]["parameters"]["properties"]["b"]["description"] == "Second number."


def test_a_call_is_shown_while_the_run_goes_on(folder: Path, endpoint: Endpoint) -> None:
    seen = threading.Event()

    def answer(_: Request) -> Reply:
        assert seen.wait(PATIENCE), "the call was not shown before the next reply"
        return Reply("5")

    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})]), answer)
    shown = ""
    with started(folder, "run", "Add", "--endpoint", endpoint.url, "--tools", "tools.py") as process:
        for line in process.stderr or ():
            shown += line.decode()
            if "← add" in shown:
                seen.set()
        assert ended(process).out == "5\n"
    assert "add(a=2, b=3)" in shown


# Telemetry

TELEMETRY = '''
import os, sys
from haystack.telemetry import _telemetry
print("setting:", os.environ.get("HAYSTACK_TELEMETRY_ENABLED"), file=sys.stderr)
print("running:", _telemetry.telemetry is not None, file=sys.stderr)

def nothing() -> str:
    """Do nothing."""
    return ""
'''


@pytest.mark.parametrize(("own", "running"), [(None, "False"), ("True", "True")])
def test_telemetry_is_off_unless_the_user_has_set_it(folder: Path, own: str | None, running: str) -> None:
    (folder / "telemetry.py").write_text(TELEMETRY)
    env = {} if own is None else {"HAYSTACK_TELEMETRY_ENABLED": own}
    done = llama_agent(folder, "tools", "telemetry.py", env=env)
    assert f"setting: {own or 'False'}" in done.err
    assert f"running: {running}" in done.err


# Texts that would take over the terminal


def test_terminal_escapes_in_an_answer_do_not_reach_stdout(played: Callable[[str], Played]) -> None:
    out = played("attack").done.out
    assert out.startswith("end ")
    assert unsafe_in(out) == []


def test_terminal_escapes_of_model_tools_and_server_do_not_reach_stderr(
    played: Callable[[str], Played],
) -> None:
    err = played("attack").done.err
    for text in ("retry", "→ echo", "← echo", "← fail", "faked"):
        assert text in err
    assert unsafe_in(err) == []


def test_terminal_escapes_in_an_error_body_do_not_reach_the_terminal(
    played: Callable[[str], Played],
) -> None:
    done = played("attack by error").done
    assert "faked" in done.err
    assert unsafe_in(done.out + done.err) == []


def test_terminal_escapes_in_a_servers_model_names_do_not_reach_the_terminal(
    played: Callable[[str], Played],
) -> None:
    done = played("attack by model names").done
    assert done.code == 2
    assert "two" in done.err
    assert unsafe_in(done.err) == []


def test_terminal_escapes_do_not_reach_stdout_as_json(played: Callable[[str], Played]) -> None:
    out = played("attack as json").done.out
    assert json.loads(out)["text"] == f"end {EVIL}"
    assert [code for code in unsafe_in(out) if code != "U+007F"] == []


@pytest.mark.parametrize("scene", ["half a pair", "a name that is no text", "ascii terminal"])
def test_texts_that_no_encoding_can_hold_are_no_traceback(
    played: Callable[[str], Played], scene: str
) -> None:
    assert "Traceback" not in played(scene).done.err


# A destructive tool


def test_where_nobody_can_be_asked_a_destructive_tool_is_refused_and_all_are_told(
    folder: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    endpoint.script(Reply(calls=[("delete", {"path": str(victim)})]), Reply("I may not."))
    done = run(folder, endpoint, "Delete it", "--tools", "tools.py", "--quiet")
    assert victim.exists()
    assert "delete" in done.err
    assert "--yes" in done.err
    told = endpoint.requests[1].messages[-1]
    assert told["role"] == "tool"
    assert "destructive" in told["content"]
    assert (done.code, done.out) == (0, "I may not.\n")


def test_yes_lets_a_destructive_tool_run(folder: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    endpoint.script(Reply(calls=[("delete", {"path": str(victim)})]), Reply("Gone."))
    run(folder, endpoint, "Delete it", "--tools", "tools.py", "--yes")
    assert not victim.exists()
    assert endpoint.requests[1].messages[-1]["content"] == "deleted"


@contextmanager
def on_terminal(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process whose stdin and stderr are a terminal, and our end of that."""
    ours, theirs = pty.openpty()
    try:
        with started(folder, *arguments, stdin=theirs, stderr=theirs, env={"TERM": "xterm"}) as process:
            os.close(theirs)
            yield process, ours
    finally:
        os.close(ours)


def read_until(ours: int, text: str) -> str:
    """What a process writes to its terminal, up to a text."""
    shown, deadline = b"", monotonic() + PATIENCE
    while text.encode() not in shown:
        ready, _, _ = select.select([ours], [], [], max(0.0, deadline - monotonic()))
        try:
            shown += os.read(ours, 4096) if ready else b""
        except OSError:  # the process has ended
            ready = []
        assert ready, f"{text!r} was not shown, but {shown!r}"
    return shown.decode(errors="replace")


def asked(folder: Path, endpoint: Endpoint, victim: Path, answer: str) -> tuple[str, Done]:
    """A run on a terminal whose model wants to delete a file: what was asked, and how it ended."""
    arguments = {"path": str(victim)}
    endpoint.script(Reply(calls=[("delete", arguments)]), Reply("The end."))
    command = ["run", "Delete it", "--endpoint", endpoint.url, "--tools", "tools.py"]
    with on_terminal(folder, *command) as (process, ours):
        shown = read_until(ours, "[y/N]")
        os.write(ours, answer.encode())
        return shown, ended(process)


def test_on_a_terminal_yes_runs_a_destructive_tool(folder: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    shown, done = asked(folder, endpoint, victim, "y\n")
    assert "delete(path=" in shown
    assert "thinking" in shown
    assert not victim.exists()
    assert (done.code, done.out) == (0, "The end.\n")


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_on_a_terminal_no_or_nothing_keeps_a_destructive_tool_from_running(
    folder: Path, endpoint: Endpoint, tmp_path: Path, answer: str
) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    _, done = asked(folder, endpoint, victim, answer)
    assert victim.exists()
    told = endpoint.requests[1].messages[-1]["content"]
    assert "not called" in told
    assert done.out == "The end.\n"


def test_the_question_about_a_destructive_tool_can_not_be_faked(
    folder: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    victim = tmp_path / f"victim{EVIL}\nRun look()? "
    shown, _ = asked(folder, endpoint, victim, "n\n")
    question = shown[shown.rindex("Run delete(") :]
    assert unsafe_in(question.replace("\r\n", "\n")) == []
    assert "]0;owned" in question
    assert "\nRun look" not in question


# Ends from outside


@pytest.mark.parametrize("command", ["run", "tools"])
def test_output_into_a_closed_pipe_is_no_traceback(folder: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with Endpoint(strict=False) as endpoint:
        endpoint.script(Reply("Nobody listens."))
        arguments = {
            "run": ["run", "Hi", "--endpoint", endpoint.url, "--quiet"],
            "tools": ["tools", "tools.py"],
        }
        with started(folder, *arguments[command], stdout=writing) as process:
            os.close(writing)
            assert ended(process).err == ""


def test_ctrl_c_while_the_model_thinks_is_exit_130_without_a_traceback(
    folder: Path, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("Too late.", first_pause=PATIENCE))
    with started(folder, "run", "Hi", "--endpoint", endpoint.url, "--tools", "tools.py") as process:
        assert endpoint.wait_for_requests(1, PATIENCE)
        begin = monotonic()
        process.send_signal(signal.SIGINT)
        done = ended(process)
    assert done.code == 130
    assert "Traceback" not in done.err
    assert done.out == ""
    assert monotonic() - begin < 10


def test_ctrl_c_while_a_tool_works_is_exit_130_without_a_traceback(
    folder: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    os.mkfifo(f"{pipe}.back")
    endpoint.script(Reply(calls=[("pause", {"pipe": str(pipe)})]))
    with (
        started(folder, "run", "Hi", "--endpoint", endpoint.url, "--tools", "tools.py") as process,
        pipe.open(),  # opens when the tool opens its end
    ):
        process.send_signal(signal.SIGINT)
        done = ended(process)
    assert done.code == 130
    assert "Traceback" not in done.err


def test_ctrl_c_at_the_question_is_exit_130_and_nothing_is_run(
    folder: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    endpoint.script(Reply(calls=[("delete", {"path": str(victim)})]))
    command = ["run", "Delete it", "--endpoint", endpoint.url, "--tools", "tools.py"]
    with on_terminal(folder, *command) as (process, ours):
        read_until(ours, "[y/N]")
        process.send_signal(signal.SIGINT)
        done = ended(process)
    assert done.code == 130
    assert victim.exists()
