"""A read-only call of a streamed reply starts as soon as it is complete; nothing else changes."""

import asyncio
import gc
import json
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from haystack.components.agents.state.state import State
from haystack.dataclasses import StreamingChunk
from haystack.hooks import hook
from haystack.tools.tool import Tool

from llama_agent import (
    Agent,
    CancelToken,
    EndpointError,
    Event,
    Limits,
    ModelReplied,
    ModelRequested,
    RetryPolicy,
    RunContext,
    RunResult,
    ToolCallReceived,
    ToolFailedError,
    ToolFinished,
    ToolStarted,
    tool,
)
from tests import process_tools
from tests.calling import agent_on
from tests.endpoint import Always, Endpoint, Reply, Request
from tests.gated_endpoint import BRIEF, END, PATIENCE, Gate, GatedEndpoint, called, said, stream
from tests.in_process_model import event

BROKEN = [b": the stream ends here, without an end of the reply\n\n"]
AT_ONCE = RetryPolicy(max_retries=1, initial_wait=0.0)
Json = dict[str, Any]
Go = Callable[..., RunResult]


@pytest.fixture
def endpoint() -> Iterator[GatedEndpoint]:
    with GatedEndpoint() as running:
        yield running


def ignore(chunk: StreamingChunk) -> None:
    pass


def run(
    endpoint: Endpoint, tools: Any, *, agent: Json | None = None, callback: Any = ignore, **settings: Any
) -> RunResult:
    """A run whose replies are streamed."""
    with agent_on(endpoint, tools, **(agent or {})) as running:
        return running.run("go", streaming_callback=callback, **settings)


def run_async(
    endpoint: Endpoint, tools: Any, *, agent: Json | None = None, callback: Any = ignore, **settings: Any
) -> RunResult:
    async def show(chunk: StreamingChunk) -> None:
        callback(chunk)

    async def main() -> RunResult:
        async with agent_on(endpoint, tools, **(agent or {})) as running:
            return await running.run_async("go", streaming_callback=show, **settings)

    return asyncio.run(main())


both_modes = pytest.mark.parametrize("go", [run, run_async], ids=["sync", "async"])


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def roles(result: RunResult) -> list[str]:
    return [message.role.value for message in result.messages]


def calls_of(result: RunResult) -> list[tuple[str, Json]]:
    return [(call.tool_name, call.arguments) for m in result.messages for call in m.tool_calls]


class Looking:
    """
    A read-only tool `look(place)` that tells when it is at work.

    :param gates: Opened when a place is looked at.
    :param hints: Of the tool.
    """

    def __init__(self, gates: dict[str, Gate] | None = None, **hints: Any) -> None:
        self.gates = gates or {}
        self.looked: list[str] = []
        self._hints = {"read_only": True, **hints}

    def __call__(self, place: str) -> str:
        self.looked.append(place)
        if place in self.gates:
            self.gates[place].open()
        return f"seen {place}"

    @property
    def tool(self) -> Any:
        def look(place: str) -> str:
            """Look at a place."""
            return self(place)

        return tool(**self._hints)(look)

    @property
    def async_tool(self) -> Any:
        async def look(place: str) -> str:
            """Look at a place."""
            return self(place)

        return tool(**self._hints)(look)


def look(index: int, place: str, **how: Any) -> list[bytes]:
    """A call of `look`, as it is streamed."""
    return called(index, "look", {"place": place}, **how)


# Early.


@both_modes
@pytest.mark.parametrize("kind", ["sync tool", "async tool"])
def test_each_read_only_call_runs_before_anything_behind_it_was_sent(
    endpoint: GatedEndpoint, go: Go, kind: str
) -> None:
    gates = {"a": Gate(), "b": Gate()}
    looking = Looking(gates)
    endpoint.script(stream(look(0, "a"), gates["a"], look(1, "b"), gates["b"], END), Reply("done"))
    result = go(endpoint, [looking.tool if kind == "sync tool" else looking.async_tool])
    assert [name for name, gate in gates.items() if gate.was_late] == []
    assert looking.looked == ["a", "b"]
    assert told(result) == ["seen a", "seen b"]
    assert [m["content"] for m in endpoint.requests[1].messages if m["role"] == "tool"] == told(result)
    assert roles(result) == ["user", "assistant", "tool", "tool", "assistant"]
    assert (result.text, result.stop_reason) == ("done", "answered")
    assert result.usage.tool_calls == 2


@both_modes
def test_the_calls_run_beside_each_other(endpoint: GatedEndpoint, go: Go) -> None:
    meeting = threading.Barrier(2)

    @tool(read_only=True)
    def look(place: str) -> str:
        """Look at a place."""
        meeting.wait(PATIENCE)
        return place

    begun = Gate(BRIEF)
    endpoint.script(
        stream(called(0, "look", {"place": "a"}), called(1, "look", {"place": "b"}), begun, END),
        Reply("done"),
    )
    assert told(go(endpoint, [look])) == ["a", "b"]


SERVERS: dict[str, list[list[bytes]]] = {
    "arguments in one piece": [look(0, "a", size=100), look(1, "b", size=100)],
    "one character at a time": [look(0, "a", size=1), look(1, "b", size=1)],
    "one id for both": [look(0, "a", id="x"), look(1, "b", id="x")],
    "index 0 for both": [look(0, "a", id="x"), look(0, "b", id="y")],
    "no index, no id": [
        [event(tool_calls=[{"function": {"name": "look", "arguments": json.dumps({"place": place})}}])]
        for place in "ab"
    ],
    "arguments as an object": [
        [event(tool_calls=[{"index": index, "function": {"name": "look", "arguments": {"place": place}}}])]
        for index, place in enumerate("ab")
    ],
    "arguments with braces in a text": [
        called(0, "look", '{"place": "a"}'),
        called(1, "look", '{ "place" : "}{\\"}" }'),
    ],
    "as text": [
        said('<tool_call>{"name": "look", "arguments": {"place": "a"}}</tool_call>'),
        said('\n<tool_call>{"name": "look", "arguments": {"place": "b"}}</tool_call>'),
    ],
}


@pytest.mark.parametrize("calls", SERVERS.values(), ids=SERVERS)
def test_a_call_starts_early_however_the_server_streams_it(
    endpoint: GatedEndpoint, calls: list[list[bytes]]
) -> None:
    places = ["a", '}{"}' if b"}{" in b"".join(calls[1]) else "b"]
    gates = {places[0]: Gate(), places[1]: Gate()}
    looking = Looking(gates)
    first, second = gates.values()
    endpoint.script(stream(calls[0], first, calls[1], second, END), Reply("done"))
    result = run(endpoint, [looking.tool])
    assert [name for name, gate in gates.items() if gate.was_late] == []
    assert told(result) == [f"seen {place}" for place in places]
    assert looking.looked == places
    ids = [call.id for call in result.messages[1].tool_calls]
    assert len(set(ids)) == 2
    assert [m.tool_call_results[0].origin.id for m in result.messages if m.tool_call_results] == ids


@both_modes
def test_it_knows_the_run_that_it_works_for(endpoint: GatedEndpoint, go: Go) -> None:
    begun, seen = Gate(), []

    @tool(read_only=True)
    def look(place: str, context: RunContext[str]) -> str:
        """Look at a place."""
        context.progress("looking")
        seen.append((context.run_id, context.step, context.call_id, context.tool_name, context.deps))
        begun.open()
        return place

    endpoint.script(stream(called(0, "look", {"place": "a"}, id="x"), begun, END), Reply("done"))
    result = go(endpoint, [look], deps="mine")
    assert not begun.was_late
    assert seen == [(result.run_id, 1, result.messages[1].tool_calls[0].id, "look", "mine")]


def test_a_tool_in_a_process_of_its_own_starts_early_too(endpoint: GatedEndpoint) -> None:
    made = tool(read_only=True, isolation="process", name="look")(process_tools.double)
    events: list[Event] = []
    begun = Gate()

    def listen(happened: Event) -> None:
        events.append(happened)
        if isinstance(happened, ToolStarted):
            begun.open()

    endpoint.script(stream(called(0, "look", {"value": 21}), begun, END), Reply("done"))
    result = run(endpoint, [made], on_event=listen)
    assert not begun.was_late
    assert told(result) == ["42"]


def test_an_approval_that_isnt_needed_holds_nothing_up(endpoint: GatedEndpoint) -> None:
    gate = Gate()
    looking = Looking({"a": gate})
    endpoint.script(stream(look(0, "a"), gate, END), Reply("done"))
    run(endpoint, [looking.tool], agent={"approval": Asking("nothing")})
    assert not gate.was_late


# Not early.


class Asking:
    """Wants to be asked of calls of one tool; allows all."""

    def __init__(self, name: str) -> None:
        self.name = name

    def needs(self, call: Any, tool: Any) -> bool:
        return call.tool_name == self.name

    def ask(self, call: Any, tool: Any) -> None:
        return None


@hook
def watch(state: State) -> None:
    """See each call before it runs."""


@dataclass
class Patient:
    """
    A reply whose last call must wait for its end.

    :param make: Makes a tool `look` of a function of a place.
    :param before: What comes before the call.
    :param agent: Settings.
    :param run: Settings.
    """

    make: Callable[[Callable[[str], str]], Any]
    before: Sequence[bytes] = ()
    agent: Json = field(default_factory=dict)
    run: Json = field(default_factory=dict)


def plain(function: Callable[[str], str]) -> Any:
    def look(place: str) -> str:
        """Look at a place."""
        return function(place)

    return look


def read_only(function: Callable[[str], str], **options: Any) -> Any:
    return tool(read_only=True, **options)(plain(function))


def with_state(function: Callable[[str], str]) -> Any:
    @tool(read_only=True)
    def look(place: str, state: State) -> str:
        """Look at a place."""
        return function(place)

    return look


def with_callback(function: Callable[[str], str]) -> Any:
    @tool(read_only=True)
    def look(place: str, streaming_callback: Any = None) -> str:
        """Look at a place."""
        return function(place)

    return look


def from_state(function: Callable[[str], str]) -> Any:
    @tool(read_only=True, inputs_from_state={"home": "place"})
    def look(place: str) -> str:
        """Look at a place."""
        return function("a")

    return look


def of_haystack(function: Callable[[str], str]) -> Any:
    schema = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    return Tool(name="look", description="Look.", parameters=schema, function=plain(function))


NOTE = called(0, "note", {"text": "x"})
PATIENT = {
    "it says nothing of itself": Patient(plain),
    "it says nothing of itself, in Haystack": Patient(of_haystack),
    "it is idempotent only": Patient(lambda f: tool(idempotent=True)(plain(f))),
    "the switch is off": Patient(read_only, agent={"eager_start": False}),
    "somebody must be asked": Patient(read_only, agent={"approval": Asking("look")}),
    "a hook looks at calls": Patient(read_only, agent={"hooks": {"before_tool": [watch]}}),
    "it gets the State": Patient(with_state),
    "it gets the callback": Patient(with_callback, agent={"tool_streaming_callback_passthrough": True}),
    "it gets a value of the State": Patient(
        from_state, agent={"state_schema": {"home": {"type": str}}}, run={"home": "a"}
    ),
    "an earlier call is no read-only one": Patient(read_only, NOTE),
    "an earlier call is of no tool": Patient(read_only, called(0, "nothing", {})),
    "an earlier call is no JSON": Patient(read_only, called(0, "look", '{"place": "b"')),
    "somebody must be asked of an earlier call": Patient(
        read_only, called(0, "peek", {}), agent={"approval": Asking("peek")}
    ),
    "the call is not complete": Patient(read_only),
}


@pytest.mark.parametrize("case", PATIENT)
def test_a_call_waits_for_the_end_of_the_reply_when(endpoint: GatedEndpoint, case: str) -> None:
    go = (run, run_async)[list(PATIENT).index(case) % 2]
    patient, gate, sent_before = PATIENT[case], Gate(BRIEF), []

    def work(place: str) -> str:
        sent_before.append(gate.is_open)
        return f"seen {place}"

    def note(text: str) -> str:
        """Note something."""
        sent_before.append(gate.is_open)
        return text

    def peek() -> str:
        """Take a look."""
        sent_before.append(gate.is_open)
        return "peeked"

    asked = {} if "value of the State" in case else {"place": "a"}
    call = called(1 if patient.before else 0, "look", asked)
    behind = [call.pop()] if "not complete" in case else []
    endpoint.script(stream(patient.before, call, gate, behind, END), Reply("done"))
    tools = [patient.make(work), note, tool(read_only=True)(peek)]
    result = go(endpoint, tools, agent=patient.agent, **patient.run)
    assert told(result)[-1] == "seen a"
    assert sent_before and all(sent_before)


@both_modes
def test_a_call_whose_arguments_come_behind_the_next_call_is_not_begun_without_them(
    endpoint: GatedEndpoint, go: Go
) -> None:
    looked: list[str] = []

    @tool(read_only=True)
    def look(place: str = "anywhere") -> str:
        """Look at a place."""
        looked.append(place)
        return f"seen {place}"

    heads = [called(number, "look", "") for number in (0, 1)]
    arguments = [
        event(tool_calls=[{"index": number, "function": {"arguments": json.dumps({"place": place})}}])
        for number, place in enumerate("ab")
    ]
    endpoint.script(stream(*heads, Gate(BRIEF), arguments, END), Reply("done"))
    result = go(endpoint, [look])
    assert told(result) == ["seen a", "seen b"]
    assert sorted(looked) == ["a", "b"]


def test_a_reply_that_isnt_streamed_starts_nothing_early(endpoint: GatedEndpoint) -> None:
    looking = Looking()
    endpoint.script(Reply(calls=[("look", {"place": "a"})]), Reply("done"))
    result = run(endpoint, [looking.tool], callback=None)
    assert "stream" not in endpoint.requests[0].json or not endpoint.requests[0].json["stream"]
    kinds = [type(e) for e in result.events]
    assert kinds.index(ModelReplied) < kinds.index(ToolStarted)


def test_of_two_equal_calls_one_starts_early(endpoint: GatedEndpoint) -> None:
    first, second = Gate(), Gate(BRIEF)
    sent_before: list[bool] = []

    @tool(read_only=True)
    def look(place: str, near: bool = False) -> str:
        """Look at a place."""
        sent_before.append(second.is_open)
        first.open()
        return f"seen {place}"

    endpoint.script(
        stream(
            called(0, "look", {"place": "a", "near": True}),
            first,
            called(1, "look", {"near": True, "place": "a"}),
            second,
            END,
        ),
        Reply("done"),
    )
    result = run_async(endpoint, [look])
    assert not first.was_late
    assert told(result) == ["seen a", "seen a"]
    assert sent_before == [False, True]


def test_calls_beyond_a_limit_never_start(endpoint: GatedEndpoint) -> None:
    gate = Gate(BRIEF)
    looking = Looking()
    calls = [look(0, "a"), look(1, "b"), look(2, "c"), gate, END]
    endpoint.script(stream(*calls), Always(Reply("done")))
    result = run_async(endpoint, [looking.tool], limits=Limits(tool_calls=2))
    assert sorted(looking.looked) == ["a", "b"]
    assert told(result)[:2] == ["seen a", "seen b"]
    assert "limit" in told(result)[2]
    assert result.usage.tool_calls == 2


def test_a_limit_of_one_tool_is_kept_too(endpoint: GatedEndpoint) -> None:
    looking = Looking()
    endpoint.script(stream(look(0, "a"), look(1, "b"), Gate(BRIEF), END), Always(Reply("done")))
    result = run(endpoint, [looking.tool], limits=Limits(calls_per_tool={"look": 1}))
    assert looking.looked == ["a"]
    assert told(result)[0] == "seen a"
    assert "limit" in told(result)[1]


def test_what_only_looks_like_a_call_starts_nothing(endpoint: GatedEndpoint) -> None:
    call = '{"name": "look", "arguments": {"place": "a"}}'
    shown = (
        f"To look, a model writes for instance:\n\n```\n<tool_call>{call}</tool_call>\n```\n\n"
        f"or `<tool_call>{call}</tool_call>`. That is all."
    )
    looking = Looking()
    end = [event("stop"), b"data: [DONE]\n\n"]
    endpoint.script(stream(said(shown), Gate(BRIEF), end))
    result = run(endpoint, [looking.tool])
    assert (looking.looked, result.text) == ([], shown)


# Order.


class Store:
    """A value, and whatever was done with it."""

    def __init__(self) -> None:
        self.value = "old"
        self.log: list[str] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.at_work = 0
        self.most_at_work = 0
        self._lock = threading.Lock()

    def work(self, name: str) -> None:
        with self._lock:
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
            self.log.append(f"{name} begins")
        self.begun.set()
        self.go_on.wait(PATIENCE)
        with self._lock:
            self.log.append(f"{name} ends")
            self.at_work -= 1

    def write(self, value: str) -> str:
        """Write the value."""
        self.work("write")
        self.value = value
        return "written"

    @tool(read_only=True)
    def read(self, note: str = "") -> str:
        """Read the value."""
        return self.read_value(note)

    def read_value(self, note: str = "") -> str:
        self.work(f"read{note}")
        return self.value


@pytest.mark.parametrize(
    ("how", "go"),
    [("one object", run), ("one object, with a gate", run_async), ("sequential", run_async)],
    ids=["one object", "with a gate between", "sequential"],
)
def test_a_read_never_overtakes_the_write_before_it(endpoint: GatedEndpoint, go: Go, how: str) -> None:
    store = Store()

    @tool(sequential=True)
    def write(value: str) -> str:
        """Write the value."""
        return store.write(value)

    @tool(read_only=True)
    def read() -> str:
        """Read the value."""
        return store.read_value()

    tools = [store.write, store.read] if "one object" in how else [write, read]
    between = [Gate(BRIEF)] if "gate" in how else []
    calls = [called(0, "write", {"value": "new"}), *between, called(1, "read", {}), Gate(BRIEF), END]
    endpoint.script(stream(*calls), Reply("done"))
    result = go(endpoint, tools)
    assert told(result) == ["written", "new"]
    assert store.log == ["write begins", "write ends", "read begins", "read ends"]


@both_modes
def test_a_write_waits_for_the_read_that_started_early(endpoint: GatedEndpoint, go: Go) -> None:
    store, begun, end = Store(), Gate(), Gate(BRIEF)
    store.go_on.clear()

    def listen(happened: Event) -> None:
        if isinstance(happened, ToolStarted) and happened.tool_name == "read":
            begun.open()
        if isinstance(happened, ModelReplied) and happened.tool_names:
            # The read is still at work when the reply is over.
            threading.Timer(BRIEF, store.go_on.set).start()

    endpoint.script(
        stream(called(0, "read", {}), begun, called(1, "write", {"value": "new"}), end, END), Reply("done")
    )
    result = go(endpoint, [store.write, store.read], on_event=listen)
    assert not begun.was_late
    assert told(result) == ["old", "written"]
    assert store.log == ["read begins", "read ends", "write begins", "write ends"]


@both_modes
def test_early_calls_that_share_an_object_keep_their_order(endpoint: GatedEndpoint, go: Go) -> None:
    store, begun = Store(), Gate()
    store.go_on.clear()

    def listen(happened: Event) -> None:
        if isinstance(happened, ToolStarted):
            begun.open()
            threading.Timer(BRIEF, store.go_on.set).start()

    reads = [called(number, "read", {"note": str(number)}) for number in range(3)]
    endpoint.script(stream(reads[0], begun, reads[1], reads[2], Gate(BRIEF), END), Reply("done"))
    result = go(endpoint, [store.read], on_event=listen)
    assert not begun.was_late
    assert told(result) == ["old"] * 3
    assert store.log == [f"read{number} {what}" for number in range(3) for what in ("begins", "ends")]


def test_a_sequential_tool_is_never_beside_another_call(endpoint: GatedEndpoint) -> None:
    store = Store()

    @tool(read_only=True, sequential=True)
    def alone() -> str:
        """Be alone."""
        store.work("alone")
        return "alone"

    @tool(read_only=True)
    def look(place: str) -> str:
        """Look at a place."""
        store.work(place)
        return place

    endpoint.script(
        stream(
            called(0, "look", {"place": "a"}),
            called(1, "alone", {}),
            called(2, "look", {"place": "b"}),
            Gate(BRIEF),
            END,
        ),
        Reply("done"),
    )
    assert told(run_async(endpoint, [alone, look])) == ["a", "alone", "b"]
    assert store.most_at_work == 1


@both_modes
def test_no_more_calls_run_at_a_time_than_allowed(endpoint: GatedEndpoint, go: Go) -> None:
    store = Store()

    @tool(read_only=True)
    def look(place: str) -> str:
        """Look at a place."""
        store.work(place)
        return place

    calls = [called(number, "look", {"place": place}) for number, place in enumerate("abcde")]
    endpoint.script(stream(*calls, Gate(BRIEF), END), Reply("done"))
    assert told(go(endpoint, [look], agent={"tool_concurrency_limit": 1})) == list("abcde")
    assert store.most_at_work == 1


# What is told of it.


@both_modes
def test_events_and_chunks_come_in_order(endpoint: GatedEndpoint, go: Go) -> None:
    gates = {"a": Gate(), "b": Gate()}
    looking = Looking(gates)
    events: list[Event] = []
    chunks: list[str] = []

    def show(chunk: StreamingChunk) -> None:
        if chunk.finish_reason:
            chunks.append(chunk.finish_reason)
        if chunk.tool_call_result is not None:
            chunks.append(str(chunk.tool_call_result.result))

    endpoint.script(stream(look(0, "a"), gates["a"], look(1, "b"), gates["b"], END), Reply("done"))
    result = go(endpoint, [looking.tool], callback=show, on_event=events.append)
    ids = [call.id for call in result.messages[1].tool_calls]
    happened = [type(e) for e in events]
    assert happened.index(ModelRequested) < happened.index(ToolStarted) < happened.index(ModelReplied)
    for number, (id_, place) in enumerate(zip(ids, "ab", strict=True)):
        of_it = [e for e in events if getattr(e, "call_id", None) == id_]
        assert [type(e) for e in of_it] == [ToolCallReceived, ToolStarted, ToolFinished], number
        assert of_it[0].arguments == of_it[1].arguments == {"place": place}  # type: ignore[attr-defined]
        assert of_it[0].tool_name == "look"  # type: ignore[attr-defined]
        assert of_it[2].result == f"seen {place}"  # type: ignore[attr-defined]
        assert {e.step for e in of_it} == {1}
    # The results, in the calls' order, once the reply has ended.
    results = [said_ for said_ in chunks if said_.startswith("seen")]
    assert results == ["seen a", "seen b"]
    assert chunks[0] == "tool_calls"


@both_modes
def test_a_call_is_told_when_it_is_complete_though_it_has_to_wait(endpoint: GatedEndpoint, go: Go) -> None:
    gates = {"a": Gate(), "b": Gate()}
    looking = Looking(read_only=False)

    def listen(happened: Event) -> None:
        if isinstance(happened, ToolCallReceived):
            gates[happened.arguments["place"]].open()

    endpoint.script(stream(look(0, "a"), gates["a"], look(1, "b"), gates["b"], END), Reply("done"))
    go(endpoint, [looking.tool], on_event=listen)
    assert [name for name, gate in gates.items() if gate.was_late] == []


@pytest.mark.parametrize("streamed", [False, True])
def test_each_call_is_told_once(endpoint: GatedEndpoint, streamed: bool) -> None:
    looking = Looking(read_only=False)
    endpoint.script(Reply(calls=[("look", {"place": "a"}), ("look", {"place": "b"})]), Reply("done"))
    with agent_on(endpoint, [looking.tool]) as agent:
        result = agent.run("go", streaming_callback=ignore if streamed else None)
    received = [e for e in result.events if isinstance(e, ToolCallReceived)]
    assert [(e.tool_name, e.arguments) for e in received] == calls_of(result)
    assert [e.call_id for e in received] == [call.id for call in result.messages[1].tool_calls]
    kinds = [type(e) for e in result.events]
    last = len(kinds) - 1 - kinds[::-1].index(ToolCallReceived)
    assert kinds.index(ModelRequested) < kinds.index(ToolCallReceived)
    assert last < kinds.index(ToolStarted)


# Failures.


def test_a_failure_is_told_to_the_model_at_its_place(endpoint: GatedEndpoint) -> None:
    begun = Gate()

    @tool(read_only=True)
    def look(place: str) -> str:
        """Look at a place."""
        begun.open()
        if place == "a":
            raise ValueError("it is dark")
        return place

    endpoint.script(
        stream(called(0, "look", {"place": "a"}), begun, called(1, "look", {"place": "b"}), END),
        Reply("done"),
    )
    result = run(endpoint, [look])
    assert not begun.was_late
    assert told(result) == ["Tool 'look' failed: ValueError: it is dark", "b"]
    assert [m.tool_call_results[0].error for m in result.messages if m.tool_call_results] == [True, False]


@both_modes
def test_a_failure_that_ends_the_run_leaves_a_whole_conversation(endpoint: GatedEndpoint, go: Go) -> None:
    begun = Gate()

    @tool(read_only=True)
    def look(place: str) -> str:
        """Look at a place."""
        begun.open()
        raise ValueError("it is dark")

    endpoint.script(stream(called(0, "look", {"place": "a"}), begun, END))
    with pytest.raises(ToolFailedError, match="it is dark") as caught:
        go(endpoint, [look], agent={"raise_on_tool_invocation_failure": True})
    assert not begun.was_late
    assert caught.value.result is not None
    assert roles(caught.value.result) == ["user", "assistant", "tool"]
    assert "it is dark" in told(caught.value.result)[0]


@both_modes
def test_its_time_limit_holds(endpoint: GatedEndpoint, go: Go) -> None:
    begun = Gate()

    @tool(read_only=True, timeout=0.1)
    def look(place: str, context: RunContext) -> str:
        """Look at a place."""
        begun.open()
        context.cancel.wait(PATIENCE)
        return place

    endpoint.script(stream(called(0, "look", {"place": "a"}), begun, END), Reply("done"))
    result = go(endpoint, [look])
    assert not begun.was_late
    assert "0.1" in told(result)[0]
    assert result.stop_reason == "answered"


def test_it_can_end_the_run(endpoint: GatedEndpoint) -> None:
    gate = Gate()
    looking = Looking({"a": gate})
    endpoint.script(stream(look(0, "a"), gate, END))
    result = run_async(endpoint, [looking.tool], agent={"exit_conditions": ["look"]})
    assert not gate.was_late
    assert (result.stop_reason, told(result)) == ("tool", ["seen a"])


def test_a_reply_that_its_limit_cut_loses_only_the_call_that_was_cut(endpoint: GatedEndpoint) -> None:
    gate = Gate()
    looking = Looking({"a": gate})
    cut = called(1, "look", {"place": "b"})[:-1]
    endpoint.script(stream(look(0, "a"), gate, cut, [event("length"), b"data: [DONE]\n\n"]), Reply("done"))
    result = run(endpoint, [looking.tool])
    assert not gate.was_late
    assert looking.looked == ["a"]
    assert told(result)[0] == "seen a"
    assert "cut off" in told(result)[1]


# Broken streams.


@pytest.mark.parametrize(
    ("when", "go"),
    [("finished", run), ("at work", run), ("at work", run_async)],
    ids=["finished, sync", "at work, sync", "at work, async"],
)
def test_a_result_is_taken_when_the_same_call_comes_again(endpoint: GatedEndpoint, go: Go, when: str) -> None:
    begun, looked = Gate(), []

    @tool(read_only=True)
    def look(place: str, near: bool) -> str:
        """Look at a place."""
        looked.append(place)
        if when == "at work":
            begun.open()
            assert endpoint.wait_for_requests(2, PATIENCE)
        return f"seen {place} {len(looked)}"

    def listen(happened: Event) -> None:
        if isinstance(happened, ToolFinished):
            begun.open()

    again = called(0, "look", {"near": True, "place": "a"}, id="second")
    endpoint.script(
        stream(called(0, "look", {"place": "a", "near": True}, id="first"), begun, BROKEN),
        stream(again, END),
        Reply("done"),
    )
    result = go(endpoint, [look], agent={"retry": AT_ONCE}, on_event=listen)
    assert not begun.was_late
    assert looked == ["a"]
    assert told(result) == ["seen a 1"]
    (call,) = result.messages[1].tool_calls
    assert call.arguments == {"place": "a", "near": True}
    assert [e.call_id for e in result.events if isinstance(e, ToolStarted)] == [call.id]
    assert [m["content"] for m in endpoint.requests[2].messages if m["role"] == "tool"] == ["seen a 1"]
    assert endpoint.requests[2].messages[-1]["tool_call_id"] == call.id
    assert result.usage.tool_calls == 1


@both_modes
def test_what_was_read_before_a_write_doesnt_count_behind_it(endpoint: GatedEndpoint, go: Go) -> None:
    store = Store()

    @tool
    def write(value: str) -> str:
        """Write the value."""
        return store.write(value)

    @tool(read_only=True)
    def read(key: str) -> str:
        """Read the value."""
        return store.read_value()

    read_it, gate = called(0, "read", {"key": "x"}), Gate(BRIEF)
    again = called(1, "read", {"key": "x"})
    endpoint.script(
        stream(read_it, gate, BROKEN), stream(called(0, "write", {"value": "new"}), again, END), Reply("done")
    )
    result = go(endpoint, [read, write], agent={"retry": AT_ONCE, "tool_concurrency_limit": 1})
    assert told(result) == ["written", "new"]


def test_a_run_that_is_cancelled_at_the_end_of_a_reply_ends_what_started_early(
    endpoint: GatedEndpoint,
) -> None:
    begun, ended, token = Gate(), [], CancelToken()

    @tool(read_only=True)
    async def look(place: str) -> str:
        """Look at a place."""
        begun.open()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.append(place)
        return "seen"

    def listen(happened: Event) -> None:
        if isinstance(happened, ModelReplied):
            token.cancel()

    endpoint.script(stream(called(0, "look", {"place": "a"}), begun, END))

    async def main() -> set[str]:
        async with agent_on(endpoint, [look]) as agent:
            result = await agent.run_async("go", ignore, on_event=listen, cancel=token)
            assert (result.stop_reason, ended) == ("cancelled", ["a"])
            return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    assert asyncio.run(main()) == set()


def test_a_call_that_comes_twice_in_the_second_stream_takes_the_result_once(endpoint: GatedEndpoint) -> None:
    gate = Gate()
    looking = Looking({"a": gate})
    endpoint.script(
        stream(look(0, "a"), gate, BROKEN), stream(look(0, "a"), look(1, "a"), END), Reply("done")
    )
    result = run(endpoint, [looking.tool], agent={"retry": AT_ONCE})
    assert not gate.was_late
    assert told(result) == ["seen a", "seen a"]
    assert looking.looked == ["a", "a"]


@both_modes
def test_a_call_that_doesnt_come_again_is_dropped(endpoint: GatedEndpoint, go: Go) -> None:
    begun, cancelled = Gate(), []

    @tool(read_only=True)
    def look(place: str, context: RunContext) -> str:
        """Look at a place."""
        if place == "a":
            begun.open()
            cancelled.append(context.cancel.wait(PATIENCE))
        return f"seen {place}"

    endpoint.script(
        stream(called(0, "look", {"place": "a"}), begun, BROKEN),
        stream(called(0, "look", {"place": "b"}), END),
        Reply("done"),
    )
    result = go(endpoint, [look], agent={"retry": AT_ONCE})
    assert not begun.was_late
    assert calls_of(result) == [("look", {"place": "b"})]
    assert told(result) == ["seen b"]
    assert cancelled == [True]


@both_modes
@pytest.mark.parametrize("ending", ["text", "failure"])
def test_when_no_call_comes_again_all_are_dropped(endpoint: GatedEndpoint, go: Go, ending: str) -> None:
    begun, cancelled = Gate(), []
    over = threading.Event()

    @tool(read_only=True)
    async def look(place: str, context: RunContext) -> str:
        """Look at a place."""
        begun.open()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            cancelled.append(context.cancel.cancelled)
            over.set()
        return place

    broken = stream(called(0, "look", {"place": "a"}), begun, BROKEN)
    endpoint.script(broken, Reply("No need.") if ending == "text" else stream(said("Hm"), BROKEN))
    if ending == "text":
        result = go(endpoint, [look], agent={"retry": AT_ONCE})
        assert (result.text, roles(result)) == ("No need.", ["user", "assistant"])
    else:
        with pytest.raises(EndpointError) as caught:
            go(endpoint, [look], agent={"retry": AT_ONCE})
        assert caught.value.result is not None
        assert roles(caught.value.result) == ["user"]
    assert not begun.was_late
    assert over.wait(PATIENCE)
    assert cancelled == [True]


@both_modes
def test_a_dropped_call_may_fail_as_it_likes(
    endpoint: GatedEndpoint, go: Go, caplog: pytest.LogCaptureFixture
) -> None:
    begun = Gate()

    @tool(read_only=True)
    def look(place: str) -> str:
        """Look at a place."""
        raise ValueError("it is dark")

    def listen(happened: Event) -> None:
        if isinstance(happened, ToolFinished):
            begun.open()

    endpoint.script(stream(called(0, "look", {"place": "a"}), begun, BROKEN), Reply("No need."))
    agent = {"retry": AT_ONCE, "raise_on_tool_invocation_failure": True}
    result = go(endpoint, [look], agent=agent, on_event=listen)
    assert not begun.was_late
    assert (result.text, result.stop_reason, roles(result)) == ("No need.", "answered", ["user", "assistant"])
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


# Broken off.


@both_modes
def test_a_run_that_is_cancelled_cancels_what_started_early(endpoint: GatedEndpoint, go: Go) -> None:
    token, held, cancelled = CancelToken(), Gate(), []

    @tool(read_only=True)
    def look(place: str, context: RunContext) -> str:
        """Look at a place."""
        token.cancel()
        cancelled.append(context.cancel.wait(PATIENCE))
        return place

    endpoint.script(stream(called(0, "look", {"place": "a"}), held, END))
    result = go(endpoint, [look], cancel=token)
    assert (result.stop_reason, roles(result)) == ("cancelled", ["user"])
    assert cancelled == [True]
    assert endpoint.wait_for_disconnect(PATIENCE)


def test_a_task_that_is_cancelled_cancels_what_started_early(endpoint: GatedEndpoint) -> None:
    ended: list[str] = []

    async def main() -> RunResult:
        begun = asyncio.Event()

        @tool(read_only=True)
        async def look(place: str) -> str:
            """Look at a place."""
            begun.set()
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return place

        async def show(chunk: StreamingChunk) -> None:
            pass

        async with agent_on(endpoint, [look]) as agent:
            task = asyncio.create_task(agent.run_async("go", streaming_callback=show))
            await asyncio.wait_for(begun.wait(), PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert ended == ["cancelled"]
            return caught.value.result  # type: ignore[attr-defined]

    endpoint.script(stream(called(0, "look", {"place": "a"}), Gate(), END))
    result = asyncio.run(main())
    assert (result.stop_reason, roles(result)) == ("cancelled", ["user"])
    assert endpoint.wait_for_disconnect(PATIENCE)


@both_modes
def test_a_callback_that_raises_cancels_what_started_early(endpoint: GatedEndpoint, go: Go) -> None:
    begun, cancelled = threading.Event(), []

    @tool(read_only=True)
    def look(place: str, context: RunContext) -> str:
        """Look at a place."""
        begun.set()
        cancelled.append(context.cancel.wait(PATIENCE))
        return place

    def show(chunk: StreamingChunk) -> None:
        if chunk.content:
            raise RuntimeError("I have seen enough")

    gate = Gate()

    def listen(happened: Event) -> None:
        if isinstance(happened, ToolStarted):
            gate.open()

    endpoint.script(stream(called(0, "look", {"place": "a"}), gate, said("So."), Gate(), END))
    with pytest.raises(RuntimeError, match="seen enough") as caught:
        go(endpoint, [look], callback=show, on_event=listen)
    assert not gate.was_late
    assert begun.wait(PATIENCE)
    assert roles(caught.value.result) == ["user"]  # type: ignore[attr-defined]
    assert cancelled == [True]


# Nothing else changes.


def transcript(result: RunResult) -> list[Any]:
    """What the conversation says; ids apart."""
    return [
        (
            message.role.value,
            message.text,
            [(call.tool_name, call.arguments) for call in message.tool_calls],
            [(r.result, r.error, r.origin.tool_name) for r in message.tool_call_results],
        )
        for message in result.messages
    ]


class World:
    """Tools of all kinds, and a count of what was called."""

    def __init__(self) -> None:
        self.store = Store()
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()

        @tool(read_only=True)
        def look(place: str) -> str:
            """Look at a place."""
            self._count(f"look {place}")
            if place == "dark":
                raise ValueError("it is dark")
            return f"seen {place}"

        @tool(sequential=True)
        def count(what: str) -> str:
            """Count something."""
            self._count(what)
            return f"{what}: {self.counts[what]}"

        def note(text: str) -> str:
            """Note something."""
            self._count(f"note {text}")
            return text

        self.tools = [look, count, note, self.store.read, self.store.write]

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + 1


CALLS: list[tuple[str, Json | str]] = [
    ("look", {"place": "a"}),
    ("look", {"place": "b"}),
    ("look", {"place": "dark"}),
    ("look", {"place": 7}),
    ("look", '{"place": "a"'),
    ("look", '{"plaice": "a"}'),
    ("Look", {"place": "a"}),
    ("read", {}),
    ("read", ""),
    ("read", {"note": "!"}),
    ("write", {"value": "x"}),
    ("write", {"value": "y"}),
    ("count", {"what": "sheep"}),
    ("note", {"text": "n"}),
    ("nobody", {"x": 1}),
]


def play(seed: int, *, eager: bool) -> tuple[list[Any], dict[str, int], str, Any]:
    """A run of a few steps, with calls by chance; what is said, what was done, and how it ended."""
    dice = random.Random(seed)
    favourites = dice.sample(CALLS, 4)
    script = [
        Reply(
            dice.choice([None, "Let me see."]),
            calls=[dice.choice(favourites if dice.random() < 0.6 else CALLS) for _ in range(size)],
            chunk_size=dice.choice([1, 4, 30]),
            finish_reason=dice.choice(["tool_calls", "tool_calls", "stop", "length"]),
        )
        for size in (dice.randint(1, 5) for _ in range(dice.randint(2, 5)))
    ]
    limits = Limits(tool_calls=dice.choice([None, 3, 6]), repeats=dice.choice([None, 2]))
    world = World()

    def next_reply(request: Request) -> Reply:
        return script.pop(0) if script else Reply("done")

    with GatedEndpoint() as endpoint:
        endpoint.script(Always(next_reply))
        go = run if seed % 2 else run_async
        result = go(endpoint, world.tools, agent={"eager_start": eager, "limits": limits})
    done = (world.counts, world.store.value, world.store.log)
    return transcript(result), result.usage.tool_calls, result.stop_reason, done


@pytest.mark.parametrize("seed", range(6))
def test_a_conversation_is_the_same_with_and_without(seed: int) -> None:
    assert play(seed, eager=True) == play(seed, eager=False)


def test_a_call_that_is_made_too_often_is_not_made_by_eagerness(endpoint: GatedEndpoint) -> None:
    made: dict[bool, int] = {}
    for eager in (True, False):
        looking = Looking()
        with GatedEndpoint() as own:
            own.script(Always(lambda request: Reply("done") if "tools" not in request.json else AGAIN))
            result = run(own, [looking.tool], agent={"eager_start": eager, "max_agent_steps": 12})
        made[eager] = len(looking.looked)
        assert result.text == "done"
    assert 2 < made[True] == made[False] < 12


AGAIN = Reply(calls=[("look", {"place": "a"})])


# The switch.


def test_the_switch_is_on_saved_and_cloned(endpoint: GatedEndpoint) -> None:
    assert agent_on(endpoint, []).eager_start is True
    agent = agent_on(endpoint, [], eager_start=False)
    assert agent.eager_start is False
    assert agent.clone().eager_start is False
    assert agent.clone(eager_start=True).eager_start is True
    assert Agent.from_dict(agent.to_dict()).eager_start is False
    old = agent_on(endpoint, []).to_dict()
    del old["init_parameters"]["eager_start"]  # saved before there was such a thing
    assert Agent.from_dict(old).eager_start is True
