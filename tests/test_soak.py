"""A small share of the soak (`python -m tests.soak`), and that its judge can find fault."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_agent import Agent, RunResult, tool
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Reply
from tests.soak import Company, Footprint, Outcome, Record, World, case_of, complaints_of, left_over

ROOT = Path(__file__).parents[1]
PATIENCE = 240.0
"""Seconds after which the runs count as hanging."""
SOON = 10.0
"""Seconds after which a thread that should end counts as one that never does."""
SERVER = "endpoint-connection"
CALLS_AND_ANSWERS = 187
"""Number of a run that calls tools of all kinds, and is not cancelled."""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it counts in /proc")
def test_whatever_happens_runs_end_within_their_limits_for_the_reason_they_name_and_leave_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--runs", "60", "--warm-up", "30"],
        cwd=ROOT,
        env={
            **os.environ,
            "HAYSTACK_TELEMETRY_ENABLED": "False",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tools")]),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "90 runs" in done.stdout


def test_a_run_to_be_is_made_of_its_number_alone() -> None:
    assert [case_of(n, "sync") for n in range(50)] == [case_of(n, "sync") for n in range(50)]


def performed(number: int) -> tuple[Record, Outcome]:
    case = case_of(number, "sync")
    world = World([case])
    with Endpoint(strict=False) as endpoint:
        endpoint.script(Always(world.answer))
        company = Company(endpoint.url, world)
        outcome = company.run(case)
        asyncio.run(company.close())
    return world.records[number], outcome


def untruthful(result: RunResult) -> None:
    result.stop_reason = "max_cost"


def too_many_steps(result: RunResult) -> None:
    result["step_count"] = 100


def without_an_end(result: RunResult) -> None:
    result.events = result.events[:-1]


def without_a_start(result: RunResult) -> None:
    result.events = tuple(event for event in result.events if type(event).__name__ != "ToolStarted")


def without_results(result: RunResult) -> None:
    result["messages"] = [message for message in result.messages if not message.tool_call_results]


def with_threads_left(result: RunResult) -> None:
    result.leaked_threads = 99


@pytest.mark.parametrize(
    "change",
    [untruthful, too_many_steps, without_an_end, without_a_start, without_results, with_threads_left],
    ids=lambda change: change.__name__,
)
def test_what_is_wrong_with_a_run_is_found(change: Callable[[RunResult], None]) -> None:
    record, outcome = performed(CALLS_AND_ANSWERS)
    assert outcome.result is not None
    assert complaints_of(record, outcome) == []
    change(outcome.result)
    assert complaints_of(record, outcome) != []


def test_a_run_that_did_more_than_it_says_is_found() -> None:
    record, outcome = performed(CALLS_AND_ANSWERS)
    record.sent.extend(record.sent[:1] * 100)
    record.executions["echo"] += 100
    assert complaints_of(record, outcome) != []


def test_what_is_left_behind_is_found() -> None:
    clean = Footprint(threads=1, sockets=0, files=5, objects=100_000, megabytes=100)
    warm = Footprint(threads=7, sockets=2, files=8, objects=110_000, megabytes=120)
    assert left_over(clean, warm, warm, clean, 2000) == []
    for more in (
        Footprint(threads=8, sockets=2, files=8, objects=110_000, megabytes=120),
        Footprint(threads=7, sockets=3, files=8, objects=110_000, megabytes=120),
        Footprint(threads=7, sockets=2, files=8, objects=120_000, megabytes=120),
        Footprint(threads=7, sockets=2, files=8, objects=110_000, megabytes=220),
    ):
        assert left_over(clean, warm, more, clean, 2000) != []
    assert left_over(clean, warm, warm, warm, 2000) != []


# What it found, in its smallest form.


def test_an_event_loop_that_a_tool_blocked_ends_once_the_tool_does(make: Maker, endpoint: Endpoint) -> None:
    gate = threading.Event()

    @tool(timeout=0.1)
    async def block() -> str:
        """Hold the event loop up."""
        gate.wait(PATIENCE)
        return "too late"

    before = set(threading.enumerate())
    endpoint.script(Reply(calls=[("block", {})]), Reply("done"))
    with Agent(chat_generator=make(), tools=[block]) as agent:
        agent.run("go")
    # The agent is closed, though the tool still blocks the loop that async tools of sync runs share.
    ours = [thread for thread in threading.enumerate() if thread not in before and thread.name != SERVER]
    assert ours, "the tool has ended too early for this test"
    gate.set()
    for thread in ours:
        thread.join(SOON)
    assert [thread.name for thread in ours if thread.is_alive()] == []
