"""
Many runs at a time against a server that fails, answers oddly and calls slow tools, as dice say.

    python -m tests.soak                      # 2,000 runs
    python -m tests.soak --runs 200 --seed 7  # runs 7000000 to 7000199
    python -m tests.soak --only 7000042       # one of them once more, with what was said

Each run must end, within its limits, for the reason that it names: that is checked against what the server
was asked and sent, and what the tools counted. In the end threads, sockets and memory must be back to where
they were. Half of the runs are async, 100 at a time on one event loop; half are sync, in 20 threads.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import re
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeAlias

from haystack.dataclasses import ChatMessage

from llama_agent import (
    Agent,
    CancelToken,
    EndpointError,
    Limits,
    MetaLlamaChatGenerator,
    RetryPolicy,
    RunContext,
    RunFinished,
    RunResult,
    ToolStarted,
    tool,
)
from tests.endpoint import Always, Drop, Endpoint, Item, Raw, Reply, Request, Status
from tests.strict_server import faults

Json: TypeAlias = dict[str, Any]
Way: TypeAlias = Literal["async", "sync"]

RUNS = 2000
ROUND = 200
"""Runs after which everything is closed and counted."""
ASYNC_AT_ONCE, THREADS = 100, 20
MOST_STEPS, SHARED_RETRIES = 12, 3
HANGS = 60.0
"""Seconds that a tool would hang if nobody ended it."""
PATIENCE = 240.0
"""Seconds after which a run counts as one that never ends. Hundreds of them share a machine."""
SLACK = 20.0
"""Seconds that a run may take beyond its limit, since 100 others take their turns meanwhile."""
ROUND_SECONDS = 900.0
TOKEN_BYTES, MESSAGE_TOKENS = 4, 6
PRICES = (100.0, 1000.0)
HABITS = ("empty", "thoughts", "length", "mistake", "unknown", "text call", "repeated")
LEAST_SILENT, LEAST_MISTAKES, LEAST_REPEATS = 3, 6, 3


@dataclass(frozen=True)
class Case:
    """
    A run to be.

    :param number: The same one makes the same dice.
    :param fault_rate: Share of the requests that fail.
    :param odd_rate: Share that is answered oddly.
    :param habit: A kind of odd reply that the model falls back on.
    :param own_agent: Whether it has an agent to itself, which is closed after it.
    :param cancel_at: The request at which the run is cancelled from another thread.
    """

    number: int
    way: Way
    stream: bool
    limits: Limits
    max_retries: int
    fault_rate: float
    odd_rate: float
    habit: str | None
    own_agent: bool
    cancel_at: int | None

    @property
    def attempts(self) -> int:
        """How often a request is sent at most."""
        return 1 + (self.max_retries if self.own_agent else SHARED_RETRIES)


def case_of(number: int, way: Way) -> Case:
    """
    Make a case.

    :param number: Of the run.
    :param way: How it runs.
    :returns: The case.
    """
    dice = Random(number)
    return Case(
        number=number,
        way=way,
        stream=dice.random() < 0.5,
        limits=limits_of(dice),
        max_retries=dice.choice([0, 1, 3, 6]),
        fault_rate=dice.choice([0.0, 0.1, 0.3]),
        odd_rate=dice.choice([0.0, 0.15, 0.5]),
        habit=dice.choice(HABITS) if dice.random() < 0.2 else None,
        own_agent=dice.random() < 0.3,
        cancel_at=dice.randint(1, 4) if dice.random() < 0.05 else None,
    )


def limits_of(dice: Random) -> Limits:
    """Some limits, or none."""
    kinds: dict[str, Callable[[], Any]] = {
        "steps": lambda: dice.randint(1, 8),
        "model_calls": lambda: dice.randint(1, 8),
        "tool_calls": lambda: dice.randint(0, 8),
        "calls_per_tool": lambda: {"echo": dice.randint(0, 2), "research": 1},
        "input_tokens": lambda: dice.randint(1000, 30_000),
        "output_tokens": lambda: dice.randint(100, 3000),
        "total_tokens": lambda: dice.randint(2000, 40_000),
        "cost": lambda: dice.uniform(0.2, 5.0),
        "seconds": lambda: dice.uniform(0.5, 6.0),
    }
    named = {name: make() for name, make in kinds.items() if dice.random() < 0.15}
    if "cost" in named:
        named["prices"] = {"m": PRICES}
    return Limits(landing=dice.random() < 0.8, **named)


# What the server says.


@dataclass(frozen=True)
class Sent:
    """
    An answer that was sent.

    :param kind: Whether it is a reply, or no reply that could be read.
    :param tag: What is special about it.
    :param offered: Whether the request had tools.
    :param inner: Whether a sub-agent asked.
    :param calls: What it calls.
    :param tokens: Read and written.
    """

    kind: Literal["reply", "fault"]
    tag: str
    item: Item
    offered: bool
    inner: bool
    calls: tuple[tuple[str, str], ...] = ()
    tokens: tuple[int, int] = (0, 0)


@dataclass
class Record:
    """What the server and the tools saw of one run."""

    case: Case
    cancel: CancelToken | None = None
    sent: list[Sent] = field(default_factory=list)
    executions: Counter[str] = field(default_factory=Counter)
    flaky: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    cancelled: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def execute(self, name: str) -> None:
        with self.lock:
            self.executions[name] += 1

    @property
    def story(self) -> str:
        """What was sent, in a few words; in brackets what went to sub-agents."""
        words = [sent.tag if sent.offered else f"{sent.tag} (no tools)" for sent in self.sent]
        return ", ".join(f"[{word}]" if s.inner else word for s, word in zip(self.sent, words, strict=True))

    def of(self, kind: str, *, inner: bool = False, offered: bool | None = None) -> list[Sent]:
        """What was sent of a kind, to the run itself or to its sub-agents."""
        return [
            sent
            for sent in self.sent
            if sent.kind == kind and sent.inner == inner and offered in (None, sent.offered)
        ]


TASK = re.compile(r"Task (\d+)(, inner)?")
FAULTS: dict[str, Callable[[Random], Item]] = {
    "500": lambda dice: Status(500),
    "503": lambda dice: Status(503, "<html>busy</html>"),
    "429": lambda dice: Status(429, headers={"Retry-After": "0"}),
    "400": lambda dice: Status(400),
    "reset": lambda dice: Drop(),
    "cut": lambda dice: Reply("A text that is cut. " * 5, cut_after=dice.randint(0, 20)),
    "cut in a call": lambda dice: Reply(calls=[("echo", {"text": "x" * 50})], cut_after=dice.randint(1, 9)),
    "no JSON": lambda dice: Raw(b'{"choices": [{"message": {"content": "hal'),
    "no choices": lambda dice: Raw(b'{"choices": []}'),
    "error in a stream": lambda dice: Raw(
        [b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'], "text/event-stream"
    ),
}


class World:
    """
    The server's and the tools' side of a round of runs.

    :param cases: The runs.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self.records = {case.number: Record(case) for case in cases}

    def answer(self, request: Request) -> Item:
        """The answer to a request: by its run's dice, and within the request's `max_tokens`."""
        said = next(m["content"] for m in request.messages if m["role"] == "user")
        found = TASK.search(str(said))
        assert found is not None, f"no task in {said!r}"
        record = self.records[int(found[1])]
        with record.lock:
            return self._answer(record, request, inner=bool(found[2]))

    def _answer(self, record: Record, request: Request, *, inner: bool) -> Item:
        case, asked = record.case, request.json
        record.complaints += [f"sent a bad history: {fault}" for fault in faults(request.messages)]
        if record.cancelled:
            record.complaints.append("asked again after it was cancelled")
        place = len(record.sent) + 1
        dice = Random(f"{case.number}/{place}")
        offered = [each["function"]["name"] for each in asked.get("tools", ())]
        if place >= (case.cancel_at or sys.maxsize) and record.cancel is not None and not inner:
            record.cancelled = True
            record.sent.append(Sent("fault", "cancelled", Drop(), bool(offered), inner))
            record.cancel.cancel()
            return Reply("too late", first_pause=HANGS)
        luck = dice.random()
        if luck < case.fault_rate:
            tag = dice.choice(list(FAULTS))
            item = FAULTS[tag](dice)
            record.sent.append(Sent("fault", tag, item, bool(offered), inner))
            return item
        is_odd = luck < case.fault_rate + (0.8 if case.habit else case.odd_rate)
        if is_odd:
            tag, reply = odd(dice, case.number, offered, case.habit)
        else:
            tag, reply = usual(dice, case.number, offered, place)
        tag, reply = held_to(asked, tag, reply)
        calls = tuple((name, str(arguments)) for name, arguments in reply.calls)
        calls = calls or (((offered[0], "as text"),) if tag == "text call" else ())
        record.sent.append(Sent("reply", tag, reply, bool(offered), inner, calls, reply.usage))
        return reply

    def tools(self) -> list[Any]:
        """The tools of the runs; each notes for its run that it ran."""
        execute = lambda run, name: self.records[run].execute(name)  # noqa: E731

        @tool
        def echo(run: int, text: str) -> str:
            """Say a text back."""
            execute(run, "echo")
            return text

        @tool
        async def echo_async(run: int, text: str) -> str:
            """Say a text back."""
            execute(run, "echo_async")
            return text

        @tool(sequential=True)
        def alone(run: int, text: str) -> str:
            """Say a text back, with nobody beside."""
            execute(run, "alone")
            return text

        @tool
        def pause(run: int, text: str, context: RunContext) -> str:
            """Take a moment."""
            execute(run, "pause")
            context.cancel.wait(0.02)
            return text

        @tool
        async def pause_async(run: int, text: str) -> str:
            """Take a moment."""
            execute(run, "pause_async")
            await asyncio.sleep(0.02)
            return text

        @tool(timeout=0.2)
        def hang(run: int, text: str, context: RunContext) -> str:
            """Hang, until it isn't wanted any more."""
            execute(run, "hang")
            context.cancel.wait(HANGS)
            return text

        @tool(timeout=0.2)
        async def hang_async(run: int, text: str) -> str:
            """Hang."""
            execute(run, "hang_async")
            await asyncio.sleep(HANGS)
            return text

        @tool(timeout=0.2)
        def stubborn(run: int, text: str) -> str:
            """Go on for a while, whatever anybody says."""
            execute(run, "stubborn")
            time.sleep(0.8)
            return text

        @tool
        def fail(run: int, text: str) -> str:
            """Fail."""
            execute(run, "fail")
            raise ValueError(f"no {text}")

        @tool
        async def fail_async(run: int, text: str) -> str:
            """Fail."""
            execute(run, "fail_async")
            raise ValueError(f"no {text}")

        @tool(read_only=True, retry_on=(ConnectionError,), retries=2)
        def flaky(run: int, text: str) -> str:
            """Fail now and then, in a way that may pass."""
            record = self.records[run]
            with record.lock:
                record.flaky[text] += 1
                if record.flaky[text] % 3:
                    raise ConnectionError("not now")
            return text

        @tool(max_result_chars=300)
        def big(run: int, text: str) -> str:
            """Say a text back many times."""
            execute(run, "big")
            return text * 10_000

        return [
            echo, echo_async, alone, pause, pause_async, hang, hang_async, stubborn, fail, fail_async, flaky,
            big,
        ]  # fmt: skip

    def research(self, inner: Agent) -> list[Any]:
        """Tools that delegate to another agent, in both ways."""

        @tool
        def research(run: int, text: str) -> str:
            """Have another look it up."""
            self.records[run].execute("research")
            return inner.run(f"Task {run}, inner").text

        @tool
        async def research_async(run: int, text: str) -> str:
            """Have another look it up."""
            self.records[run].execute("research_async")
            return (await inner.run_async(f"Task {run}, inner")).text

        return [research, research_async]


@tool(isolation="process", timeout=20)
def apart(run: int, text: str) -> str:
    """Work in a process of its own."""
    return text


def usual(dice: Random, run: int, offered: Sequence[str], place: int) -> tuple[str, Reply]:
    """What a good model says: calls, and at some time an answer."""
    if not offered or dice.random() < 0.3 or place > 25:
        return "answer", Reply(f"The answer is {dice.randint(0, 999)}.", chunk_size=20)
    calls = [call(dice, run, offered) for _ in range(dice.choice([1, 1, 2, 4]))]
    return "calls", Reply(dice.choice([None, "Let me see."]), calls=calls, chunk_size=20)


def call(dice: Random, run: int, offered: Sequence[str]) -> tuple[str, Json]:
    """A good call. A process of its own costs much, so that it is rare."""
    rare = dice.random() < 0.01
    names = [name for name in offered if (name == "apart") == rare] or list(offered)
    return dice.choice(names), {"run": run, "text": dice.choice(["a", "b", "ä" * 30])}


def odd(dice: Random, run: int, offered: Sequence[str], habit: str | None) -> tuple[str, Reply]:
    """What a model says that isn't at its best."""
    name = offered[0] if offered else "echo"
    good = f'{{"run": {run}, "text": "a"}}'
    kinds: dict[str, Callable[[], Reply]] = {
        "empty": lambda: Reply(dice.choice(["", " \n", None])),
        "thoughts": lambda: Reply(None, reasoning="Hmm. " * 20),
        "refusal": lambda: Reply(None, extra={"refusal": "I won't."}),
        "length": lambda: Reply("A text without an en", finish_reason="length"),
        "filtered": lambda: Reply(dice.choice(["The first", None]), finish_reason="content_filter"),
    }
    if offered:
        kinds |= {
            "mistake": lambda: Reply(calls=[(name, dice.choice(["{", '{"run": "x"}', "[]", good[:-1]]))]),
            "unknown": lambda: Reply(calls=[("no_such_tool", {})]),
            "cut call": lambda: Reply(calls=[(name, good), (name, good[:9])], finish_reason="length"),
            "text call": lambda: Reply(f'<tool_call>{{"name": "{name}", "arguments": {good}}}</tool_call>'),
            "same ids": lambda: Reply(calls=[(name, good), (offered[-1], good)], ids=["x", "x"]),
            "repeated": lambda: Reply(calls=[(name, good)]),
        }
    tag = habit if habit in kinds else dice.choice(list(kinds))
    return tag, kinds[tag]()


def held_to(asked: Json, tag: str, reply: Reply) -> tuple[str, Reply]:
    """A reply with its tokens counted, cut where the request allows no more."""
    read = tokens_in(asked)
    size = len(reply.text or "") + len(reply.reasoning or "") + sum(len(str(call)) for call in reply.calls)
    written = max(1, -(-size // TOKEN_BYTES))
    most = asked.get("max_tokens") or asked.get("max_completion_tokens") or sys.maxsize
    if written <= most:
        return tag, replace(reply, usage=(read, written))
    text = (reply.text or "A")[: most * TOKEN_BYTES]
    return "length", Reply(text, finish_reason="length", usage=(read, most), chunk_size=20)


def tokens_in(asked: Json) -> int:
    """What is said in a request, and a few for each message, as chat templates take them."""
    said = [str(asked.get("tools", ""))]
    for message in asked["messages"]:
        calls = [call["function"] for call in message.get("tool_calls", ())]
        said += [str(message.get("content") or ""), *[f"{each['name']}{each['arguments']}" for each in calls]]
    size = sum(len(text.encode()) for text in said)
    return -(-size // TOKEN_BYTES) + MESSAGE_TOKENS * len(asked["messages"])


# What comes of it.


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its result, and what it raised, if so."""

    result: RunResult | None
    error: BaseException | None
    seconds: float


def complaints_of(record: Record, outcome: Outcome) -> list[str]:
    """
    What is wrong with how a run ended.

    :param record: What the server and the tools saw.
    :param outcome: What the caller saw.
    :returns: Nothing, if all is well.
    """
    result = outcome.result
    if result is None:
        lines = traceback.format_exception(outcome.error) if outcome.error else ["nothing"]
        return [*record.complaints, "ended without a result: " + "".join(lines)[-1500:]]
    return [
        *record.complaints,
        *beyond_limits(record, result, outcome.seconds),
        *untrue(record, result, outcome),
        *unsound(record, result),
    ]


def beyond_limits(record: Record, result: RunResult, seconds: float) -> Iterator[str]:
    """Limits that were exceeded."""
    limits = record.case.limits
    replies = [sent for sent in record.sent if sent.kind == "reply"]
    read, written = (sum(sent.tokens[part] for sent in replies) for part in (0, 1))
    spent: dict[str, float] = {
        "steps": result["step_count"],
        "model_calls": len(replies),
        "tool_calls": sum(record.executions.values()),
        "input_tokens": read,
        "output_tokens": written,
        "total_tokens": read + written,
        "cost": (read * PRICES[0] + written * PRICES[1]) / 1e6,
        "seconds": seconds - SLACK,
    }
    for name, used in spent.items():
        most = getattr(limits, name)
        if most is not None and used > most + 1e-9:
            yield f"{name}: {used} of {most}; sent {record.story}"
    if result["step_count"] > MOST_STEPS:
        yield f"{result['step_count']} steps of {MOST_STEPS}"
    for name, most in (limits.calls_per_tool or {}).items():
        if record.executions[name] > most:
            yield f"{name} ran {record.executions[name]} times of {most}"


def untrue(record: Record, result: RunResult, outcome: Outcome) -> Iterator[str]:
    """Where the reason for its end isn't what happened."""
    limits, reason = record.case.limits, result.stop_reason
    replies = record.of("reply", offered=True)
    tags = [sent.tag for sent in replies]
    last = tags[-1] if tags else None
    landed = any(not sent.offered and not sent.inner for sent in record.sent)
    calls = [call for sent in replies for call in sent.calls]
    inner = any(sent.inner for sent in record.sent)
    all_replies = sum(sent.kind == "reply" for sent in record.sent)
    main = [sent for sent in record.sent if sent.offered and not sent.inner]
    match reason:
        case "answered":
            text = getattr(replies[-1].item, "text", None) if replies else None
            is_true = last == "answer" and result.text == text and not landed
        case "length":
            is_true = "length" in tags[-2:]
        case "content_filter":
            is_true = last == "filtered"
        case "refused":
            is_true = last == "refusal" and result.text == "I won't."
        case "no_answer":
            silent = sum(tag in ("empty", "thoughts") for tag in tags)
            is_true = silent >= LEAST_SILENT and last in ("empty", "thoughts", "length")
        case "mistakes":
            wrong = sum(tag in ("mistake", "unknown", "cut call") for tag in tags)
            is_true = wrong >= LEAST_MISTAKES
        case "repeating":
            is_true = max(Counter(calls).values(), default=0) >= LEAST_REPEATS
        case "max_steps":
            is_true = result["step_count"] == (limits.steps or MOST_STEPS)
        case "max_model_calls":
            least = (limits.model_calls or 0) - (limits.landing is not False)
            is_true = limits.model_calls is not None and (inner or all_replies >= least)
        case "max_tool_calls":
            asked_for = Counter(name for sent in record.sent for name, _ in sent.calls)
            too_many = limits.tool_calls is not None and (inner or len(calls) > limits.tool_calls)
            too_often = any(asked_for[name] > most for name, most in (limits.calls_per_tool or {}).items())
            is_true = too_many or too_often
        case "max_input_tokens" | "max_output_tokens" | "max_total_tokens" | "max_cost":
            is_true = getattr(limits, reason.removeprefix("max_")) is not None
        case "max_seconds":
            # Of the time, a half at most is kept for the last answer.
            is_true = limits.seconds is not None and outcome.seconds >= limits.seconds * 0.49
        case "cancelled":
            is_true = record.cancelled
        case "failed":
            trailing = len(main) - max((n + 1 for n, s in enumerate(main) if s.kind == "reply"), default=0)
            is_true = isinstance(outcome.error, EndpointError) and (1 <= trailing <= record.case.attempts)
        case _:
            is_true = False
    if not is_true:
        yield f"said {reason} and {result.text[:60]!r}, but was sent {record.story}"
    if record.cancelled != (reason == "cancelled"):
        yield f"said {reason}, and was cancelled: {record.cancelled}"
    if limits.landing is False and landed:
        yield "asked for a last answer, which it was not to"


def unsound(record: Record, result: RunResult) -> Iterator[str]:
    """What doesn't fit together in a result."""
    ends = [event for event in result.events if isinstance(event, RunFinished)]
    if [event.stop_reason for event in ends] != [result.stop_reason]:
        yield f"events say {[event.stop_reason for event in ends]}, the result {result.stop_reason}"
    if not record.cancelled:
        started = Counter(e.tool_name for e in result.events if isinstance(e, ToolStarted))
        for name in record.executions.keys() | (started.keys() - {"flaky", "apart"}):
            ran = record.executions[name] - (inner_echoes(record) if name == "echo" else 0)
            if name == "echo" and any(sent.inner for sent in record.sent):
                continue  # sub-agents have it too, and events of their own
            if started[name] != ran:
                yield f"{name} ran {ran} times, and the events tell of {started[name]}"
    # On a busy machine those that do stop may need longer than a run waits for them.
    if result.leaked_threads > sum(
        record.executions[name] for name in ("stubborn", "hang", "apart", "pause")
    ):
        yield f"{result.leaked_threads} threads are said to be left behind"
    yield from (f"a call without its result: {id_}" for id_ in unanswered(result.messages))


def inner_echoes(record: Record) -> int:
    return sum(name == "echo" for sent in record.sent if sent.inner for name, _ in sent.calls)


def unanswered(messages: Sequence[ChatMessage]) -> list[str]:
    """Calls of a conversation that have no result."""
    open_: Counter[str] = Counter()
    for message in messages:
        open_.update(f"{call.tool_name} {call.arguments}" for call in message.tool_calls)
        answered = [result.origin for result in message.tool_call_results]
        open_.subtract(f"{call.tool_name} {call.arguments}" for call in answered)
    return [call for call, count in open_.items() if count]


# Running them.


@dataclass(frozen=True)
class Footprint:
    """What the process holds. `threads`: but for the event loop's own pool, which grows to its size."""

    threads: int
    sockets: int
    files: int
    objects: int
    megabytes: float

    def __str__(self) -> str:
        return (
            f"{self.threads} threads, {self.sockets} sockets, {self.files} open files, "
            f"{self.objects:,} objects, {self.megabytes:.0f} MB"
        )


def footprint() -> Footprint:
    """Count what the process holds, once what is on its way out has gone."""
    for _ in range(3):
        gc.collect()
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            targets.append(str(entry.readlink()))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Footprint(
        threads=sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate()),
        sockets=sum(target.startswith("socket:") for target in targets),
        files=len(targets),
        objects=len(gc.get_objects()),
        megabytes=pages * 4096 / 1e6,
    )


class Soak:
    """
    Performs rounds of runs. Use it in a `with` block, and look at `violations` and `reasons` then.

    :param seed: Of the first run: its number is a million times that.
    """

    def __init__(self, seed: int = 0) -> None:
        self._next = seed * 1_000_000
        self._runner = asyncio.Runner()
        self.reasons: Counter[str] = Counter()
        self.executions: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.leaked = 0
        self.longest = 0.0, 0
        self.violations: dict[int, list[str]] = {}

    def __enter__(self) -> Soak:
        self._runner.__enter__()
        self._runner.get_loop().set_exception_handler(self._stray)
        return self

    def __exit__(self, *problem: Any) -> None:
        self._runner.__exit__(*problem)

    def round(self, count: int, *, first: int | None = None) -> None:
        """
        Perform runs: the one half async, the other half sync.

        :param count: How many.
        :param first: Number of the first; otherwise they go on from the last round.
        """
        start = self._next if first is None else first
        self._next = start + count
        numbers = range(start, start + count)
        cases = [case_of(number, "async" if number % 2 else "sync") for number in numbers]
        world = World(cases)
        with Endpoint(strict=False) as endpoint:
            endpoint.script(Always(world.answer))
            company = Company(endpoint.url, world)
            halves = {way: [case for case in cases if case.way == way] for way in ("async", "sync")}
            try:
                self._runner.run(self._async_half(company, halves["async"]))
                with ThreadPoolExecutor(THREADS, thread_name_prefix="soak") as pool:
                    list(
                        pool.map(lambda case: self._judged(company, case, company.run(case)), halves["sync"])
                    )
            finally:
                self._runner.run(company.close())
        wait_for_stubborn_tools()

    async def _async_half(self, company: Company, cases: Sequence[Case]) -> None:
        places = asyncio.Semaphore(ASYNC_AT_ONCE)

        async def one(case: Case) -> None:
            async with places:
                self._judged(company, case, await company.run_async(case))

        await asyncio.gather(*[one(case) for case in cases])

    def _judged(self, company: Company, case: Case, outcome: Outcome) -> None:
        record = company.world.records[case.number]
        found = complaints_of(record, outcome)
        self.reasons[outcome.result.stop_reason if outcome.result else "none"] += 1
        self.executions += record.executions
        self.faults += Counter(sent.tag for sent in record.sent if sent.kind == "fault")
        self.requests += len(record.sent)
        self.leaked += outcome.result.leaked_threads if outcome.result else 0
        self.longest = max(self.longest, (outcome.seconds, case.number))
        if found:
            self.violations[case.number] = found

    def _stray(self, _: object, context: Json) -> None:
        self.violations.setdefault(-1, []).append(f"the event loop: {context}")


class Company:
    """
    The agents of a round: some that many runs share, and one of its own for a run that wants it.

    :param url: The endpoint's.
    :param world: Its other side.
    """

    def __init__(self, url: str, world: World) -> None:
        self.url = url
        self.world = world
        self._tools = world.tools()
        self._inner = Agent(
            chat_generator=self._generator(stream=False),
            tools=self._tools[:1],
            max_agent_steps=3,
            retry=RetryPolicy(max_retries=1, initial_wait=0.01, max_wait=0.05),
        )
        self._tools = [*self._tools, *world.research(self._inner), apart]
        self._shared = {
            stream: self._agent(stream=stream, max_retries=SHARED_RETRIES) for stream in (False, True)
        }

    async def close(self) -> None:
        """Close the shared agents, in both worlds."""
        for agent in (*self._shared.values(), self._inner):
            await agent.close_async()

    def run(self, case: Case) -> Outcome:
        """A run on this thread."""
        agent, began = self._agent_for(case), time.monotonic()
        try:
            result = agent.run(f"Task {case.number}", **self._settings(case))
        except BaseException as error:
            return ended(error, began)
        finally:
            if case.own_agent:
                agent.close()
        return Outcome(result, None, time.monotonic() - began)

    async def run_async(self, case: Case) -> Outcome:
        """A run on this event loop."""
        agent, began = self._agent_for(case), time.monotonic()
        try:
            run: Awaitable[RunResult] = agent.run_async(f"Task {case.number}", **self._settings(case))
            result = await asyncio.wait_for(run, PATIENCE)
        except BaseException as error:
            return ended(error, began)
        finally:
            if case.own_agent:
                await agent.close_async()
        return Outcome(result, None, time.monotonic() - began)

    def _agent_for(self, case: Case) -> Agent:
        if case.own_agent:
            return self._agent(stream=case.stream, max_retries=case.max_retries)
        return self._shared[case.stream]

    def _settings(self, case: Case) -> Json:
        settings: Json = {"limits": case.limits}
        if case.cancel_at is not None:
            settings["cancel"] = self.world.records[case.number].cancel = CancelToken()
        return settings

    def _agent(self, *, stream: bool, max_retries: int) -> Agent:
        return Agent(
            chat_generator=self._generator(stream=stream),
            tools=self._tools,
            max_agent_steps=MOST_STEPS,
            retry=RetryPolicy(max_retries=max_retries, initial_wait=0.01, max_wait=0.05),
        )

    def _generator(self, *, stream: bool) -> MetaLlamaChatGenerator:
        return MetaLlamaChatGenerator(
            api_base_url=self.url,
            model="m",
            timeout=HANGS,
            generation_kwargs={"stream": stream},
            http_client_kwargs={"verify": False},
        )


def ended(error: BaseException, began: float) -> Outcome:
    """A run that raised, with the result that the error has."""
    return Outcome(getattr(error, "result", None), error, time.monotonic() - began)


def wait_for_stubborn_tools() -> None:
    """Tools that nobody can end go on for a moment; they end by themselves."""
    deadline = time.monotonic() + 10
    for thread in threading.enumerate():
        if thread.name.startswith("llama-agent-tool"):
            thread.join(max(0.0, deadline - time.monotonic()))


def main(arguments: list[str] | None = None) -> int:
    """
    Perform runs, and tell how they ended and what is left of them.

    :param arguments: Of the command line.
    :returns: 1 when a run ended as it must not, or something is left.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=ROUND, help="runs before the first count")
    parser.add_argument("--only", type=int, help="number of a run to perform once more")
    given = parser.parse_args(arguments)
    warnings.simplefilter("error")
    unraisable: list[str] = []
    sys.unraisablehook = lambda problem: unraisable.append(repr(problem.exc_value))
    if given.only is not None:
        return _once_more(given.only)
    # Python's own, one for a program's life: it begins with the first process of a tool.
    resource_tracker.ensure_running()
    began, before = time.monotonic(), footprint()
    print(f"before: {before}", flush=True)
    with Soak(given.seed) as soak:
        _bounded_round(soak, given.warm_up)
        warm = footprint()
        print(f"after {given.warm_up:,} runs to warm up: {warm}", flush=True)
        done = 0
        while done < given.runs:
            count = min(ROUND, given.runs - done)
            _bounded_round(soak, count)
            done += count
            after = footprint()
            print(f"after {done:,} runs: {after}, {time.monotonic() - began:.0f} s", flush=True)
    end = footprint()
    print(f"in the end: {end}")
    # httpcore2 2.16 takes connections that are too old out of its pool, and closes them one after the other:
    # a task that is cancelled meanwhile leaves the rest to the garbage collector.
    collected = [text for text in unraisable if "unclosed" in text]
    print(f"connections closed by the garbage collector: {len(collected) // 2}")
    problems = [f"unraisable: {text}" for text in unraisable if text not in collected]
    found = [*left_over(before, warm, after, end, done), *problems]
    return _told(soak, found, time.monotonic() - began)


def left_over(before: Footprint, warm: Footprint, after: Footprint, end: Footprint, runs: int) -> list[str]:
    """
    What the runs have left behind.

    :param before: At the beginning.
    :param warm: After the warm-up.
    :param after: After all runs.
    :param end: When the event loop is closed too.
    :param runs: How many there were between `warm` and `after`.
    :returns: A line for each thing.
    """
    found = [
        f"{name}: {getattr(end, name)}, and {getattr(before, name)} at the beginning"
        for name in ("threads", "sockets", "files")
        if getattr(end, name) > getattr(before, name)
    ]
    found += [
        f"{name}: {getattr(after, name)}, and {getattr(warm, name)} after the warm-up"
        for name in ("threads", "sockets")
        if getattr(after, name) > getattr(warm, name)
    ]
    if (more := after.objects - warm.objects) > 2000 + runs / 2:
        found.append(f"{more:,} objects more than after the warm-up")
    if (grown := after.megabytes - warm.megabytes) > 20 + runs / 100:
        found.append(f"{grown:.0f} MB more than after the warm-up")
    return found


def _bounded_round(soak: Soak, count: int) -> None:
    faulthandler.dump_traceback_later(ROUND_SECONDS, exit=True)
    soak.round(count)
    faulthandler.cancel_dump_traceback_later()


def _told(soak: Soak, found: Sequence[str], seconds: float) -> int:
    for number, complaints in list(soak.violations.items())[:20]:
        print(f"run {number}: {'; '.join(complaints)}")
    for line in found:
        print(f"left behind: {line}")
    for title, counted in (
        ("ended", soak.reasons),
        ("tools ran", soak.executions),
        ("faults", soak.faults),
    ):
        print(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in counted.most_common()))
    runs = sum(soak.reasons.values())
    print(
        f"{runs:,} runs, {soak.requests:,} requests, {soak.leaked} threads left behind for a while, "
        f"the longest run {soak.longest[0]:.1f} s (number {soak.longest[1]}), "
        f"{len(soak.violations)} runs with complaints, {seconds:.0f} s"
    )
    return 1 if soak.violations or found else 0


def _once_more(number: int) -> int:
    case = case_of(number, "async" if number % 2 else "sync")
    print(case)
    with Soak() as soak:
        world = World([case])
        with Endpoint(strict=False) as endpoint:
            endpoint.script(Always(world.answer))
            company = Company(endpoint.url, world)
            outcome = asyncio.run(company.run_async(case)) if case.way == "async" else company.run(case)
            soak._runner.run(company.close())
    record = world.records[number]
    for sent in record.sent:
        print(sent)
    for event in outcome.result.events if outcome.result else ():
        print(event)
    print(outcome.result, repr(outcome.error), f"{outcome.seconds:.2f} s")
    complaints = complaints_of(record, outcome)
    print("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
