"""Ctrl-C ends `llama-agent run` at once wherever it is, tells what was done, and leaves no process behind."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.endpoint import Endpoint, Item, Raw, Reply, Request, Status

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
"""Seconds after which something that should have happened counts as never happening."""
AT_ONCE = 3.0
"""Seconds from Ctrl-C to the end. It takes less than one, but the machine may be busy."""
MARK = "LLAMA_AGENT_TEST_MARK"
"""In the environment of the process and of all that it starts."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="it looks into /proc")

TOOLS = '''
import asyncio, time
from pathlib import Path
from llama_agent import RunContext

def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b

def hold(pipe: str) -> str:
    """Sleep."""
    Path(pipe).write_text("here")
    time.sleep(600)
    return ""

def count(pipe: str) -> str:
    """Be busy."""
    Path(pipe).write_text("here")
    number, end = 0, time.monotonic() + 600
    while time.monotonic() < end:
        number += 1
    return str(number)

def obey(pipe: str, context: RunContext) -> str:
    """Wait until nobody wants it any more."""
    Path(pipe).write_text("here")
    context.cancel.wait(600)
    return "obeyed"

async def hold_async(pipe: str) -> str:
    """Sleep."""
    Path(pipe).write_text("here")
    await asyncio.sleep(600)
    return ""

async def block(pipe: str) -> str:
    """Sleep, and hold the event loop up."""
    Path(pipe).write_text("here")
    time.sleep(600)
    return ""

async def swallow(pipe: str) -> str:
    """Don't be cancelled."""
    Path(pipe).write_text("here")
    end = time.monotonic() + 600
    while time.monotonic() < end:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass
    return ""
'''

APART = '''
import asyncio, signal, subprocess, sys, time
from pathlib import Path
from llama_agent import tool

def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b

@tool(isolation="process")
def hold(pipe: str) -> str:
    """Sleep."""
    Path(pipe).write_text("here")
    time.sleep(600)
    return ""

@tool(isolation="process")
async def hold_async(pipe: str) -> str:
    """Sleep."""
    Path(pipe).write_text("here")
    await asyncio.sleep(600)
    return ""

@tool(isolation="process")
def ignore(pipe: str) -> str:
    """Don't listen to anybody."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(pipe).write_text("here")
    time.sleep(600)
    return ""

@tool(isolation="process")
def child(pipe: str) -> str:
    """Have another process do it."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]):
        Path(pipe).write_text("here")
    return ""

@tool(isolation="process")
def grandchild(pipe: str) -> str:
    """Have another process do it, which ignores signals, and don't wait for it."""
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code])
    Path(pipe).write_text("here")
    time.sleep(600)
    return ""
'''

ADD = Reply(calls=[("add", {"a": 2, "b": 3})])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of all processes."""
    path = tmp_path_factory.mktemp("interrupt")
    (path / "tools.py").write_text(TOOLS)
    (path / "apart.py").write_text(APART)
    return path


class Pipe:
    """Tells the test that a tool is at work: the tool writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def heard(self) -> bool:
        """Whether something is written to it; waits for that."""
        ready, _, _ = select.select([self._reading], [], [], PATIENCE)
        return bool(ready) and os.read(self._reading, 100) == b"here"

    def close(self) -> None:
        os.close(self._reading)


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[list[Pipe]]:
    """One for each of three tools."""
    made = [Pipe(tmp_path / f"pipe{number}") for number in range(3)]
    yield made
    for pipe in made:
        pipe.close()


@dataclass(frozen=True)
class End:
    """How the process ended, and how many seconds after Ctrl-C."""

    code: int
    out: str
    err: str
    seconds: float


class Process:
    """A `llama-agent run`, in a process group of its own, and all that it starts."""

    def __init__(self, folder: Path, endpoint: Endpoint, *arguments: str) -> None:
        self.mark = uuid4().hex
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HAYSTACK_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llama_agent", "run", "Go.", "--endpoint", endpoint.url, *arguments],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "HOME": str(folder), MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def interrupt(self, *, group: bool = False) -> End:
        """
        Press Ctrl-C.

        :param group: Whether the whole process group gets it, as from a terminal; otherwise the process.
        """
        began = time.monotonic()
        if group:
            os.killpg(self._process.pid, signal.SIGINT)
        else:
            self._process.send_signal(signal.SIGINT)
        try:
            out, err = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            pytest.fail(f"it went on after Ctrl-C: {self._process.communicate()}")
        return End(self._process.returncode, out, err, time.monotonic() - began)

    def left(self) -> list[str]:
        """Commands of processes that it started and that go on."""
        return [command for _, command in marked(self.mark)]

    def clean_up(self) -> None:
        for pid, _ in marked(self.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()


def marked(mark: str) -> Iterator[tuple[int, str]]:
    """Processes with a mark in their environment: those that have ended have none any more."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    yield int(folder.name), command


@contextmanager
def started(folder: Path, endpoint: Endpoint, *arguments: str) -> Iterator[Process]:
    process = Process(folder, endpoint, *arguments)
    try:
        yield process
    finally:
        process.clean_up()


def check(end: End, process: Process, *, ran: Sequence[str] = ("add",)) -> None:
    """What holds after every Ctrl-C."""
    assert end.code == 130, end.err
    assert end.out == ""
    assert "Traceback" not in end.err
    assert process.left() == []
    assert end.seconds < AT_ONCE
    assert "Task was destroyed" not in end.err
    assert "llama-agent: interrupted" in end.err
    for name in ran:
        assert f"← {name}" in end.err


# In the middle of a model call.

WAITS: dict[str, Item] = {
    "before the reply": Reply("too late", first_pause=600),
    "within the reply": Raw([b" "] * 1_000, pause=0.5),
    "before another attempt": Status(429, headers={"Retry-After": "100"}),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_ctrl_c_in_the_middle_of_a_model_call(folder: Path, endpoint: Endpoint, wait: Item) -> None:
    endpoint.script(ADD, wait)
    with started(folder, endpoint, "--tools", "tools.py") as process:
        assert endpoint.wait_for_requests(2, PATIENCE)
        end = process.interrupt()
        check(end, process)


def test_ctrl_c_in_the_middle_of_a_model_call_hangs_up_on_the_server(
    folder: Path, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("too late", first_pause=600))
    with started(folder, endpoint, "--tools", "tools.py") as process:
        assert endpoint.wait_for_requests(1, PATIENCE)
        check(process.interrupt(), process, ran=())
        assert endpoint.wait_for_disconnect(PATIENCE)
    assert len(endpoint.requests) == 1


# In the middle of a tool.


def in_the_middle(
    folder: Path, endpoint: Endpoint, pipes: Sequence[Pipe], source: str, *names: str, group: bool = False
) -> End:
    """Ctrl-C once these tools, all called in one reply, are at work."""
    asked = list(zip(names, pipes, strict=False))
    calls = [(name, {"pipe": pipe.path}) for name, pipe in asked]
    endpoint.script(ADD, Reply("Let me see.", calls=calls))
    with started(folder, endpoint, "--tools", source) as process:
        for name, pipe in asked:
            assert pipe.heard(), f"{name} didn't begin"
        end = process.interrupt(group=group)
        check(end, process)
        return end


@pytest.mark.parametrize("name", ["hold", "count", "obey"])
def test_ctrl_c_in_the_middle_of_a_sync_tool(
    folder: Path, endpoint: Endpoint, pipes: list[Pipe], name: str
) -> None:
    in_the_middle(folder, endpoint, pipes, "tools.py", name)


def test_ctrl_c_in_the_middle_of_sync_tools_side_by_side(
    folder: Path, endpoint: Endpoint, pipes: list[Pipe]
) -> None:
    in_the_middle(folder, endpoint, pipes, "tools.py", "hold", "count")


@pytest.mark.parametrize("name", ["hold_async", "block", "swallow"])
def test_ctrl_c_in_the_middle_of_an_async_tool(
    folder: Path, endpoint: Endpoint, pipes: list[Pipe], name: str
) -> None:
    in_the_middle(folder, endpoint, pipes, "tools.py", name)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("hold", False),
        ("hold", True),
        ("hold_async", False),
        ("ignore", True),
        ("child", False),
        ("grandchild", True),
    ],
)
def test_ctrl_c_in_the_middle_of_a_process_tool(
    folder: Path, endpoint: Endpoint, pipes: list[Pipe], name: str, group: bool
) -> None:
    in_the_middle(folder, endpoint, pipes, "apart.py", name, group=group)


def test_ctrl_c_in_the_middle_of_process_tools_side_by_side(
    folder: Path, endpoint: Endpoint, pipes: list[Pipe]
) -> None:
    in_the_middle(folder, endpoint, pipes, "apart.py", "hold", "grandchild", "hold_async")


# What it says.


def test_the_tool_that_didnt_finish_is_told_apart_from_the_one_that_did(
    folder: Path, endpoint: Endpoint, pipes: list[Pipe]
) -> None:
    end = in_the_middle(folder, endpoint, pipes, "tools.py", "hold")
    finished = [line for line in end.err.splitlines() if line.startswith("←") and "hold" in line]
    assert "5" in end.err
    assert not [line for line in finished if "interrupted" not in line and "did not finish" not in line]


def test_nothing_was_done_before_the_first_reply_and_nothing_is_claimed(
    folder: Path, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("too late", first_pause=600))
    with started(folder, endpoint, "--tools", "tools.py") as process:
        assert endpoint.wait_for_requests(1, PATIENCE)
        end = process.interrupt()
        check(end, process, ran=())
    assert "add" not in end.err


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_also_with_other_output_it_says_that_it_was_interrupted(
    folder: Path, endpoint: Endpoint, option: str
) -> None:
    endpoint.script(ADD, Reply("too late", first_pause=600))
    with started(folder, endpoint, "--tools", "tools.py", option) as process:
        assert endpoint.wait_for_requests(2, PATIENCE)
        end = process.interrupt()
        assert (end.code, process.left()) == (130, [])
        assert "interrupted" in end.err
        assert "Traceback" not in end.err


# More than once.


def test_ctrl_c_twice_in_a_row_is_no_traceback_either(
    folder: Path, endpoint: Endpoint, pipes: list[Pipe]
) -> None:
    endpoint.script(ADD, Reply(calls=[("hold", {"pipe": pipes[0].path})]))
    with started(folder, endpoint, "--tools", "tools.py") as process:
        assert pipes[0].heard()
        process._process.send_signal(signal.SIGINT)
        end = process.interrupt()
        assert end.code in (130, -signal.SIGINT)
        assert process.left() == []
        assert end.seconds < AT_ONCE


def test_a_call_that_waited_for_its_turn_never_starts(
    folder: Path, endpoint: Endpoint, pipes: list[Pipe], tmp_path: Path
) -> None:
    later = tmp_path / "later.py"
    later.write_text(
        "from pathlib import Path\nfrom llama_agent import tool\n\n"
        "@tool(sequential=True)\ndef later(path: str) -> str:\n"
        '    """Come later."""\n    Path(path).touch()\n    return ""\n'
    )
    touched = tmp_path / "touched"
    calls = [("hold", {"pipe": pipes[0].path}), ("later", {"path": str(touched)})]
    endpoint.script(Reply(calls=calls))
    with started(folder, endpoint, "--tools", "tools.py", "--tools", str(later)) as process:
        assert pipes[0].heard()
        check(process.interrupt(), process, ran=())
    assert not touched.exists()


def test_without_ctrl_c_a_process_tool_leaves_nothing_either(
    folder: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    file = tmp_path / "quick.py"
    file.write_text(
        "from llama_agent import tool\n\n"
        '@tool(isolation="process")\ndef double(number: int) -> int:\n'
        '    """Double a number."""\n    return 2 * number\n'
    )
    seen: list[object] = []

    def answer(request: Request) -> Item:
        seen.append(request.messages[-1]["content"])
        return Reply("42")

    endpoint.script(Reply(calls=[("double", {"number": 21})]), answer)
    with started(folder, endpoint, "--tools", str(file)) as process:
        out, err = process._process.communicate(timeout=PATIENCE)
        assert (out, process._process.returncode) == ("42\n", 0), err
        assert process.left() == []
    assert seen == ["42"]
