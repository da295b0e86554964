"""A program that is interrupted ends at once, with what its run had, and leaves no process."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.endpoint import Endpoint, Raw, Reply, Status
from tests.in_process_model import event
from tests.process_tools import Witness
from tests.programs import PATIENCE, Program

HOLD = 40.0
"""Seconds that something holds which nobody ends."""
BOUND = 10.0
"""Seconds within which a program ends."""

ADD = Reply(calls=[("add", {"a": 2, "b": 3})])
SILENT = Reply("too late", first_pause=HOLD)
DELEGATE = Reply(calls=[("research", {"messages": [{"role": "user", "content": "Find out."}]})])


HEADER = """
import asyncio, os, signal, sys, threading
from haystack.tools import AgentTool
from llama_agent import (
    Agent, CancelToken, MetaLlamaChatGenerator, RateLimit, RetryPolicy, RetryScheduled, RequestDelayed,
    RunInterrupted, ToolRetryScheduled, tool,
)
from tests import process_tools

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # whole lines, whichever thread speaks

def add(a: int, b: int) -> int:
    "Add two whole numbers."
    return a + b

def hang() -> str:
    "Never end."
    say("there")
    threading.Event().wait(60)

@tool(timeout=50)
def hang_limited() -> str:
    "Never end."
    hang()

async def hang_async() -> str:
    "Never end."
    say("there")
    try:
        await asyncio.sleep(60)
    finally:
        say("tool ended")

@tool(retry_on=(ConnectionError,), retries=10_000)
def flaky() -> str:
    "Fail."
    raise ConnectionError("down")

class Asking:
    def needs(self, call, tool):
        return call.tool_name == "add"
    async def ask(self, call, tool):
        await hang_async()

def listen(event):
    if isinstance(event, (RetryScheduled, RequestDelayed, ToolRetryScheduled)):
        say("there")

def show(chunk):
    if chunk.content:
        say("there")

def generator(**settings):
    return MetaLlamaChatGenerator(
        api_base_url=sys.argv[1], model="m", timeout=60, **{"max_retries": 0, **settings}
    )

process_tool = tool(name="work", isolation="process")(process_tools.hold_with_grandchildren)
inner = Agent(chat_generator=generator(), tools=[add, hang, hang_async, process_tool])
research = AgentTool(agent=inner, name="research", description="Delegate.")
TOOLS = [add, hang, hang_limited, hang_async, flaky, process_tool, research]

def told(result):
    say(result.stop_reason, *(message.role.value for message in result.messages))
"""

SYNC = """
with Agent(chat_generator=generator(**GENERATOR), tools=TOOLS, **AGENT) as agent:
    try:
        agent.run("go", on_event=listen, **RUN)
        say("ended")
    except RunInterrupted as interrupted:
        told(interrupted.result)
inner.close()
say("bye")
"""
TOKEN = """
token = CancelToken()
signal.signal(signal.SIGTERM, lambda *_: token.cancel())
with Agent(chat_generator=generator(**GENERATOR), tools=TOOLS, **AGENT) as agent:
    told(agent.run("go", on_event=listen, cancel=token, **RUN))
inner.close()
say("bye")
"""
ASYNC = """
async def main():
    async with Agent(chat_generator=generator(**GENERATOR), tools=TOOLS, **AGENT) as agent:
        try:
            await agent.run_async("go", on_event=listen, **RUN)
            say("ended")
        except asyncio.CancelledError as error:
            told(error.result)
            raise
try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
inner.close()
say("bye")
"""


@dataclass(frozen=True)
class Situation:
    """
    A moment of a program's run.

    :param script: What the model answers.
    :param settings: Of generator, agent and run, as Python.
    :param roles: Of the messages in the end.
    :param requests: How many of them there are when the moment has come; else the program says "there".
    """

    script: Sequence[Any]
    settings: str = ""
    roles: str = "user assistant tool"
    requests: int = 0
    has_process: bool = False


BUSY = Status(503, headers={"Retry-After": "50"})
STALLED = Raw([event(content="Once upon"), event(content=" a time")], "text/event-stream", pause=HOLD)
SITUATIONS: dict[str, Situation] = {
    "headers awaited": Situation([SILENT], roles="user", requests=1),
    "second request": Situation([ADD, SILENT], requests=2),
    "stream": Situation([STALLED], "RUN = {'streaming_callback': show}", "user"),
    "back-off": Situation([BUSY], "AGENT = {'retry': RetryPolicy(max_retries=5)}", "user"),
    "pacing": Situation([ADD], "GENERATOR = {'rate_limit': RateLimit(requests_per_minute=1)}"),
    "sync tool": Situation([Reply(calls=[("hang", {})])]),
    "sync tool with a time limit": Situation([Reply(calls=[("hang_limited", {})])]),
    "two sync tools": Situation(
        [Reply(calls=[("hang", {}), ("hang_limited", {})])], roles="user assistant tool tool"
    ),
    "async tool": Situation([Reply(calls=[("hang_async", {})])]),
    "process tool": Situation([Reply(calls=[("work", {"witness": "W"})])], has_process=True),
    "back-off of a tool": Situation([Reply(calls=[("flaky", {})])]),
    "async approval": Situation([ADD], "AGENT = {'approval': Asking()}"),
    "sub-agent's request": Situation([DELEGATE, SILENT], requests=2),
    "sub-agent's sync tool": Situation([DELEGATE, Reply(calls=[("hang", {})])]),
    "sub-agent's async tool": Situation([DELEGATE, Reply(calls=[("hang_async", {})])]),
    "sub-agent's process tool": Situation(
        [DELEGATE, Reply(calls=[("work", {"witness": "W"})])], has_process=True
    ),
}


def in_situations(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("situation", [SITUATIONS[name] for name in names], ids=names)


class Playing:
    """A program in a situation."""

    def __init__(self, endpoint: Endpoint, folder: Path, situation: Situation, ending: str) -> None:
        self._witness = Witness(folder)
        self.situation, self._endpoint = situation, endpoint
        script = [_with_witness(item, self._witness.path) for item in situation.script]
        endpoint.script(*script)
        code = f"{HEADER}\nGENERATOR, AGENT, RUN = {{}}, {{}}, {{}}\n{situation.settings}\n{ending}"
        self.program = Program(code, endpoint.url)

    def __enter__(self) -> "Playing":
        self.program.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.program.__exit__(*error)
        self._witness.__exit__(*error)

    def get_there(self) -> None:
        if self.situation.has_process:
            assert self._witness.line(2 * PATIENCE), self.program.rest()
        elif self.situation.requests:
            there = self._endpoint.wait_for_requests(self.situation.requests, 2 * PATIENCE)
            assert there, self.program.rest()
        else:
            assert self.program.line() == "there", self.program.rest()

    @property
    def has_left_a_process(self) -> bool:
        return self.situation.has_process and not self._witness.is_over()


def _with_witness(item: Any, path: str) -> Any:
    if isinstance(item, Reply) and item.calls and item.calls[0][0] == "work":
        return Reply(calls=[("work", {"witness": path})])
    return item


@in_situations(
    "headers awaited",
    "stream",
    "back-off",
    "pacing",
    "two sync tools",
    "async tool",
    "process tool",
    "async approval",
    "sub-agent's process tool",
)
def test_ctrl_c_ends_a_program_with_what_its_run_had(
    endpoint: Endpoint, tmp_path: Path, situation: Situation
) -> None:
    check_that_it_ends(Playing(endpoint, tmp_path, situation, SYNC), Program.ctrl_c, "interrupted")


@in_situations("headers awaited", "sync tool", "async tool", "process tool")
def test_ctrl_c_ends_a_program_whose_run_is_async(
    endpoint: Endpoint, tmp_path: Path, situation: Situation
) -> None:
    check_that_it_ends(Playing(endpoint, tmp_path, situation, ASYNC), Program.ctrl_c, "cancelled")


@in_situations("headers awaited", "back-off", "two sync tools", "process tool", "sub-agent's request")
def test_a_signal_handler_may_cancel_a_token(
    endpoint: Endpoint, tmp_path: Path, situation: Situation
) -> None:
    def terminate(program: Program) -> None:
        program.send(signal.SIGTERM)

    check_that_it_ends(Playing(endpoint, tmp_path, situation, TOKEN), terminate, "cancelled")


def check_that_it_ends(playing: "Playing", end: Callable[[Program], None], reason: str) -> None:
    situation = playing.situation
    with playing:
        playing.get_there()
        begin = monotonic()
        end(playing.program)
        out, err, code = playing.program.rest()
        took = monotonic() - begin
        assert not playing.has_left_a_process
    said = [line for line in out if line not in ("there", "tool ended")]
    assert (said, code, err) == ([f"{reason} {situation.roles}", "bye"], 0, "")
    assert took < BOUND
    assert ("tool ended" in out) == ("async" in str(situation.script) or "Asking" in situation.settings)


@in_situations("sync tool", "process tool")
def test_ctrl_c_twice_ends_a_program(endpoint: Endpoint, tmp_path: Path, situation: Situation) -> None:
    with Playing(endpoint, tmp_path, situation, SYNC) as playing:
        playing.get_there()
        begin = monotonic()
        for _ in range(2):
            with suppress(ProcessLookupError):
                playing.program.ctrl_c()
        playing.program.rest()
        assert monotonic() - begin < BOUND
        assert not playing.has_left_a_process


def test_a_token_and_ctrl_c_at_once_end_a_program(endpoint: Endpoint, tmp_path: Path) -> None:
    with Playing(endpoint, tmp_path, SITUATIONS["sync tool"], TOKEN) as playing:
        playing.get_there()
        os.kill(playing.program.process.pid, signal.SIGTERM)
        with suppress(ProcessLookupError):
            playing.program.ctrl_c()
        begin = monotonic()
        playing.program.rest()
        assert monotonic() - begin < BOUND


HANDLER = """
import random, signal, sys
from llama_agent import CancelToken

dice, token = random.Random(6), CancelToken()
signal.signal(signal.SIGALRM, lambda *_: token.cancel())
for _ in range(5_000):
    token = CancelToken()
    signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00001, 0.0003))
    while not token.cancelled:
        token.on_cancel(int)()
        token.wait(0)
print("done")
"""


def test_a_signal_handler_may_cancel_a_token_while_it_is_in_use() -> None:
    # Python runs the handler between any two steps of the main thread, in the middle of the token's own too.
    with Program(HANDLER) as program:
        assert program.rest() == (["done"], "", 0)


@in_situations("process tool", "sub-agent's process tool")
def test_a_program_that_is_killed_leaves_no_process(
    endpoint: Endpoint, tmp_path: Path, situation: Situation
) -> None:
    with Playing(endpoint, tmp_path, situation, SYNC) as playing:
        playing.get_there()
        playing.program.send(signal.SIGKILL)
        playing.program.rest()
        assert not playing.has_left_a_process
