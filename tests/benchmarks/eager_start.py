"""
What eager start gains: two read-only calls, streamed 1.5 s apart, whose tool takes 1 s.

Run: `python -m tests.benchmarks.eager_start [rounds]`. The loopback endpoint paces the stream. For each call,
the seconds from its last piece being sent to its tool's start are printed, and the run's wall time, with
eager start on and off, sync and async. Nothing is asserted.

Beyond the stream, the wall time has the last call's work, which can't begin earlier; with eager start off,
that of all calls. Two at a time take as long as one does; one at a time, they take twice as long.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

from llama_agent import Agent, MetaLlamaChatGenerator, tool
from tests.endpoint import Endpoint, Raw, Reply, Request
from tests.endpoint.script import Wire
from tests.in_process_model import event

APART = 1.5
"""Seconds that each call takes to be streamed."""
WORK = 1.0
"""Seconds that a tool takes."""
PIECES = 15
"""Of each call's arguments."""


class Paced(Endpoint):
    """Sends an event each 0.1 s, and notes when it has sent the last of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def _answer(self, request: Request) -> Wire:
        wire = super()._answer(request)
        return replace(wire, pieces=cast("Any", self._paced(wire.pieces)))

    def _paced(self, pieces: Any) -> Iterator[bytes]:
        for piece in pieces:
            if b'"arguments"' in piece:
                time.sleep(APART / PIECES)
            yield piece
            if b'\\"}' in piece:  # the writer asks for the next once this one is sent
                self.ends.append(time.perf_counter())


def call(index: int, place: str) -> list[bytes]:
    """A call that is streamed in pieces of equal size."""
    text = json.dumps({"place": place * 60})
    size = -(-len(text) // PIECES)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    head = {"index": index, "id": f"call_{index}", "function": {"name": "look"}}
    first = event(tool_calls=[head])
    return [first, *(event(tool_calls=[{"index": index, "function": {"arguments": p}}]) for p in pieces)]


@dataclass
class Measured:
    """One run: seconds from each call's end to its tool's start, and all in all."""

    waits: list[float] = field(default_factory=list[float])
    wall: float = 0.0


def measure(*, eager: bool, is_async: bool, at_once: int) -> Measured:
    """Let a model make two calls."""
    starts: dict[str, float] = {}

    @tool(read_only=True)
    def look(place: str) -> str:
        """Look at a place."""
        starts[place[0]] = time.perf_counter()
        time.sleep(WORK)
        return place[0]

    with Paced() as endpoint:
        body = [*call(0, "a"), *call(1, "b"), event("tool_calls"), b"data: [DONE]\n\n"]
        endpoint.script(Raw(body, "text/event-stream"), Reply("done"))
        generator = MetaLlamaChatGenerator(api_base_url=endpoint.url, model="m", max_retries=0)
        agent = Agent(
            chat_generator=generator, tools=[look], eager_start=eager, tool_concurrency_limit=at_once
        )
        agent.warm_up()
        begin = time.perf_counter()
        result = asyncio.run(_run_async(agent)) if is_async else agent.run("go", lambda chunk: None)
        wall = time.perf_counter() - begin
        agent.close()
    assert result.text == "done"
    return Measured([starts[p] - end for p, end in zip("ab", endpoint.ends, strict=True)], wall)


async def _run_async(agent: Agent) -> Any:
    async def show(chunk: object) -> None:
        pass

    return await agent.run_async("go", show)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"two calls, each streamed in {APART} s, tool {WORK} s; medians of {rounds} rounds")
    for at_once, is_async, eager in itertools.product((2, 1), (False, True), (True, False)):
        runs = [measure(eager=eager, is_async=is_async, at_once=at_once) for _ in range(rounds)]
        first, second = (statistics.median(run.waits[n] for run in runs) for n in (0, 1))
        worst = max(wait for run in runs for wait in run.waits)
        wall = statistics.median(run.wall for run in runs)
        print(
            f"{'async' if is_async else 'sync':5} {at_once} at a time "
            f"eager start {'on ' if eager else 'off'}: tools start {first:+.3f} s and {second:+.3f} s after "
            f"their own end (worst {worst:+.3f} s), wall {wall:.2f} s"
        )


if __name__ == "__main__":
    main()
