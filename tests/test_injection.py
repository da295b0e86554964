"""A tool gets what its developer asks of the run, and the model neither sees nor gives it."""

import asyncio
import functools
import json
import signal
import threading
from dataclasses import dataclass, field
from datetime import date
from operator import attrgetter
from typing import Annotated, Any, Optional

import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.components.agents.state import State
from haystack.core.serialization import allow_deserialization_module
from haystack.dataclasses import ChatMessage

from llama_agent import (
    CancelToken,
    ConfigurationError,
    Event,
    FunctionTool,
    RunContext,
    RunInterrupted,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    tool,
)
from tests.calling import Go, agent_on, both_modes, call, definitions, failed, generator, outcomes, told
from tests.endpoint import Endpoint, Reply

PATIENCE = 20.0
"""Seconds until a tool that waits for its partner gives up."""

WORD = {"state_schema": {"word": {"type": str}}}


@dataclass
class Shop:
    """What a caller gives as `deps`: a thing that can't be copied."""

    name: str
    lock: threading.Lock = field(default_factory=threading.Lock)


# The run's context.


@both_modes
@pytest.mark.parametrize("is_async", [False, True], ids=["function", "async function"])
def test_a_tool_knows_its_run_step_call_and_name(endpoint: Endpoint, go: Go, is_async: bool) -> None:
    seen: list[tuple[Any, ...]] = []

    def look(context: RunContext[None]) -> str:
        """Look."""
        seen.append((context.run_id, context.step, context.call_id, context.tool_name))
        return "seen"

    async def look_async(context: RunContext[None]) -> str:
        """Look."""
        return look(context)

    looking = tool(name="look")(look_async if is_async else look)
    result = go(endpoint, [looking], "look")
    assert result.run_id
    assert seen == [(result.run_id, 1, "call_1", "look")]


def test_the_step_counts_up_and_the_run_stays(endpoint: Endpoint) -> None:
    seen: list[tuple[str, int, str | None]] = []

    def look(context: RunContext[None]) -> str:
        """Look."""
        seen.append((context.run_id, context.step, context.call_id))
        return "seen"

    endpoint.script(*(Reply(calls=[("look", {})]) for _ in range(3)), Reply("done"))
    with agent_on(endpoint, [look]) as agent:
        result = agent.run("go")
    assert seen == [(result.run_id, step, f"call_{step}") for step in (1, 2, 3)]


def test_calls_beside_each_other_each_have_their_own_context(endpoint: Endpoint) -> None:
    barrier = threading.Barrier(2)
    calls: dict[str, str | None] = {}

    def look(place: str, context: RunContext[None]) -> str:
        """Look."""
        barrier.wait(PATIENCE)
        calls[place] = context.call_id
        return place

    endpoint.script(Reply(calls=[("look", {"place": "a"}), ("look", {"place": "b"})]), Reply("done"))
    with agent_on(endpoint, [look]) as agent:
        agent.run("go")
    assert calls == {"a": "call_1", "b": "call_2"}


@both_modes
def test_deps_are_the_callers_own_object(endpoint: Endpoint, go: Go) -> None:
    seen: list[object] = []

    def look(context: RunContext[Shop]) -> str:
        """Look."""
        seen.append(context.deps)
        return context.deps.name

    shop = Shop("bakery")
    assert told(go(endpoint, [look], "look", deps=shop)) == "bakery"
    assert seen[0] is shop


def test_deps_are_none_when_the_caller_gives_none(endpoint: Endpoint) -> None:
    def look(context: RunContext[Shop | None]) -> str:
        """Look."""
        return repr(context.deps)

    assert told(call(endpoint, [look], "look")) == "None"


class Wallet:
    """Its method takes a context."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @tool
    def pay(self, amount: int, context: RunContext[Shop]) -> str:
        """Pay.

        Args:
            amount: How much.
            context: Secret of the developer.
        """
        self.seen.append(context.deps.name)
        return f"{amount} to {context.deps.name}"


class Loaded:
    """A callable object that takes a context."""

    def __call__(self, amount: int, context: RunContext[Shop]) -> str:
        """Pay."""
        return f"{amount} to {context.deps.name}"


def bare(amount: int, context: RunContext) -> str:  # type: ignore[type-arg]
    """Pay."""
    return f"{amount} to {context.deps.name}"


def with_a_type(amount: int, context: RunContext[Shop]) -> str:
    """Pay."""
    return f"{amount} to {context.deps.name}"


def with_a_text(amount: int, context: Annotated[RunContext[Shop], "the run"]) -> str:
    """Pay."""
    return f"{amount} to {context.deps.name}"


def in_quotes(amount: int, context: "RunContext[Shop]") -> str:
    """Pay."""
    return f"{amount} to {context.deps.name}"


def optional(amount: int, context: RunContext[Shop] | None = None) -> str:
    """Pay."""
    return f"{amount} to {context.deps.name if context else 'nobody'}"


def optional_in_the_old_way(amount: int, context: Optional[RunContext[Shop]] = None) -> str:  # noqa: UP045
    """Pay."""
    return f"{amount} to {context.deps.name if context else 'nobody'}"


def by_keyword(amount: int, *, context: RunContext[Shop]) -> str:
    """Pay."""
    return f"{amount} to {context.deps.name}"


def by_position(context: RunContext[Shop], amount: int, /) -> str:
    """Pay."""
    return f"{amount} to {context.deps.name}"


async def not_at_once(amount: int, context: RunContext[Shop]) -> str:
    """Pay."""
    return f"{amount} to {context.deps.name}"


def documented(amount: int, context: RunContext[Shop]) -> str:
    """Pay.

    :param amount: How much.
    :param context: Secret of the developer.
    """
    return f"{amount} to {context.deps.name}"


def with_a_note(note: str, amount: int, context: RunContext[Shop]) -> str:
    """Pay."""
    return f"{amount} to {context.deps.name}"


TAKES_A_CONTEXT = [
    *map(
        tool,
        [
            bare,
            with_a_type,
            with_a_text,
            in_quotes,
            optional,
            optional_in_the_old_way,
            by_keyword,
            by_position,
            not_at_once,
            documented,
        ],
    ),
    Wallet().pay,
    tool(name="loaded")(Loaded()),
    tool(name="partial")(functools.partial(with_a_note, "a note")),
]
each_taker = pytest.mark.parametrize("taker", TAKES_A_CONTEXT, ids=attrgetter("name"))


@each_taker
def test_a_context_arrives_however_its_parameter_is_written(endpoint: Endpoint, taker: Any) -> None:
    assert told(call(endpoint, [taker], taker.name, {"amount": 3}, deps=Shop("bakery"))) == "3 to bakery"


@each_taker
def test_a_context_isnt_shown_to_the_model(endpoint: Endpoint, taker: Any) -> None:
    (definition,) = definitions(endpoint, [taker]).values()
    assert list(definition["parameters"]["properties"]) == ["amount"]
    assert definition["parameters"]["required"] == ["amount"]
    assert "context" not in json.dumps(definition)
    assert "Secret" not in json.dumps(definition)


@each_taker
def test_a_context_cant_be_given_by_the_model(endpoint: Endpoint, taker: Any) -> None:
    arguments = {"amount": 3, "context": {"deps": {"name": "thief"}}}
    result = call(endpoint, [taker], taker.name, arguments, deps=Shop("bakery"))
    assert failed(result)
    (line,) = told(result).splitlines()[1:]
    assert line.startswith("context: ")
    assert line.endswith("Accepted: amount")


def test_a_tool_may_take_its_context_twice_and_the_state_as_well(endpoint: Endpoint) -> None:
    def look(one: RunContext[Shop], state: State, other: RunContext[Shop]) -> str:
        """Look."""
        return f"{one.call_id} {other.call_id} {state.get('word')}"

    result = call(endpoint, [look], "look", agent=WORD, word="x", deps=Shop("bakery"))
    assert told(result) == "call_1 call_1 x"


def test_a_run_without_the_object_that_a_tool_needs_is_refused_at_once(endpoint: Endpoint) -> None:
    def look(context: RunContext[Shop]) -> str:
        """Look."""
        return str(context.deps)

    with agent_on(endpoint, [look]) as agent, pytest.raises(ConfigurationError, match=r"look need .*deps="):
        agent.run("go")
    assert endpoint.requests == []


def test_parameters_that_only_sound_injected_are_the_models(endpoint: Endpoint) -> None:
    def look(context: str, state: str, deps: int) -> str:
        """Look."""
        return f"{context} {state} {deps}"

    arguments = {"context": "a", "state": "b", "deps": 1}
    assert list(definitions(endpoint, [look])["look"]["parameters"]["properties"]) == list(arguments)
    assert told(call(endpoint, [look], "look", arguments, deps=Shop("bakery"))) == "a b 1"


@pytest.mark.parametrize(
    "annotation",
    [list[RunContext[None]], dict[str, State], RunContext[None] | int],
    ids=["list of contexts", "states by name", "context or number"],
)
def test_a_context_or_state_inside_another_type_is_refused(annotation: Any) -> None:
    def look(where: annotation) -> str:  # type: ignore[valid-type]
        """Look."""
        return str(where)

    with pytest.raises(ConfigurationError, match="'where'"):
        tool(look)


def test_what_is_injected_stays_out_of_events_and_messages(endpoint: Endpoint) -> None:
    @tool(inputs_from_state={"word": "word"})
    def look(place: str, word: str, context: RunContext[Shop], state: State) -> str:
        """Look."""
        return "seen"

    result = call(endpoint, [look], "look", {"place": "x"}, agent=WORD, word="quiet", deps=Shop("bakery"))
    (started,) = (event for event in result.events if isinstance(event, ToolStarted))
    assert started.arguments == {"place": "x"}
    assert told(result) == "seen"
    sent = json.dumps([event.to_dict() for event in result.events]) + endpoint.requests[-1].body.decode()
    assert "quiet" not in sent
    assert "bakery" not in sent


# Progress.


@both_modes
@pytest.mark.parametrize("is_async", [False, True], ids=["function", "async function"])
def test_progress_is_seen_while_the_tool_runs(endpoint: Endpoint, go: Go, is_async: bool) -> None:
    def work(context: RunContext[None]) -> str:
        """Work."""
        context.progress("half")
        context.progress("whole")
        return "done"

    async def work_async(context: RunContext[None]) -> str:
        """Work."""
        return work(context)

    heard: list[Event] = []
    working = tool(name="work")(work_async if is_async else work)
    result = go(endpoint, [working], "work", on_event=heard.append)
    told_of = [event for event in heard if isinstance(event, ToolStarted | ToolProgress | ToolFinished)]
    assert [type(event) for event in told_of] == [ToolStarted, ToolProgress, ToolProgress, ToolFinished]
    first, second = (event for event in result.events if isinstance(event, ToolProgress))
    assert [first, second] == told_of[1:3]
    assert (first.tool_name, first.call_id, first.text) == ("work", "call_1", "half")
    assert (first.run_id, first.step, second.text) == (result.run_id, 1, "whole")
    assert first.to_dict()["type"] == "ToolProgress"
    assert b"half" not in endpoint.requests[-1].body


def test_progress_is_heard_at_once_and_not_only_at_the_end(endpoint: Endpoint) -> None:
    arrived = threading.Event()

    def work(context: RunContext[None]) -> str:
        """Work."""
        context.progress("half")
        return str(arrived.wait(PATIENCE))

    def listen(event: Event) -> None:
        if isinstance(event, ToolProgress):
            arrived.set()

    assert told(call(endpoint, [work], "work", on_event=listen)) == "True"


def test_progress_may_come_from_a_thread_of_the_tools_own(endpoint: Endpoint) -> None:
    def work(context: RunContext[None]) -> str:
        """Work."""
        helper = threading.Thread(target=context.progress, args=["from a thread"])
        helper.start()
        helper.join()
        return "done"

    result = call(endpoint, [work], "work")
    assert [event.text for event in result.events if isinstance(event, ToolProgress)] == ["from a thread"]


# Cancellation.


def test_in_a_run_that_ends_well_nothing_is_cancelled(endpoint: Endpoint) -> None:
    def work(context: RunContext[None]) -> str:
        """Work."""
        assert isinstance(context.cancel, CancelToken)
        return f"{context.cancel.cancelled} {context.cancel.wait(0)}"

    assert told(call(endpoint, [work], "work")) == "False False"


def test_a_cancelled_async_run_tells_a_tool_in_its_thread(endpoint: Endpoint) -> None:
    started, ended = threading.Event(), threading.Event()
    seen: list[bool] = []

    def work(context: RunContext[None]) -> str:
        """Work."""
        started.set()
        seen.extend([context.cancel.wait(PATIENCE), context.cancel.cancelled])
        ended.set()
        return "ended"

    async def main() -> None:
        async with agent_on(endpoint, [work]) as agent:
            run = asyncio.create_task(agent.run_async("go"))
            assert await asyncio.to_thread(started.wait, PATIENCE)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert await asyncio.to_thread(ended.wait, PATIENCE)

    endpoint.script(Reply(calls=[("work", {})]))
    asyncio.run(main())
    assert seen == [True, True]


def test_an_interrupt_tells_the_tools_of_a_sync_run(endpoint: Endpoint) -> None:
    together, ended = threading.Barrier(2), threading.Barrier(3)
    seen: list[bool] = []

    def work(context: RunContext[None]) -> str:
        """Work."""
        if together.wait(PATIENCE) == 0:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        seen.append(context.cancel.wait(PATIENCE))
        ended.wait(PATIENCE)
        return "ended"

    endpoint.script(Reply(calls=[("work", {}), ("work", {})]))
    with agent_on(endpoint, [work]) as agent, pytest.raises(RunInterrupted):
        agent.run("go")
    ended.wait(PATIENCE)
    assert seen == [True, True]


# Outside our agent.


def in_haystack(endpoint: Endpoint, tools: Any, name: str, arguments: Any, **run: Any) -> dict[str, Any]:
    """As `call`, in Haystack's own agent; `run` declares the state's keys as well."""
    endpoint.script(Reply(calls=[(name, arguments)]), Reply("done"))
    schema = {key: {"type": type(value)} for key, value in run.items()}
    agent = HaystackAgent(chat_generator=generator(endpoint), tools=tools, state_schema=schema)
    try:
        return agent.run(messages=[ChatMessage.from_user("go")], **run)
    finally:
        agent.close()


def told_in_haystack(result: dict[str, Any]) -> str:
    (outcome,) = (outcome for message in result["messages"] for outcome in message.tool_call_results)
    return str(outcome.result)


def test_haystacks_own_agent_gives_an_empty_context(endpoint: Endpoint) -> None:
    @tool
    def look(amount: int, context: RunContext[Shop]) -> str:
        """Look."""
        context.progress("nobody listens")
        return f"{amount} {context.run_id!r} {context.step} {context.deps} {context.cancel.cancelled}"

    assert told_in_haystack(in_haystack(endpoint, [look], "look", {"amount": 1})) == "1 '' 0 None False"


def test_a_tool_invoked_by_hand_gets_an_empty_context() -> None:
    seen: list[Any] = []

    @tool
    def look(amount: int, context: RunContext[Shop]) -> int:
        """Look."""
        seen.append((context.run_id, context.step, context.deps, context.tool_name))
        return amount

    assert look.invoke(amount="1") == 1
    assert asyncio.run(look.invoke_async(amount="2")) == 2
    assert seen == [("", 0, None, "look")] * 2


# The state.


@both_modes
def test_a_tool_reads_and_writes_the_runs_state(endpoint: Endpoint, go: Go) -> None:
    def look(state: State) -> str:
        """Look."""
        before = str(state.get("word"))
        state.set("word", "after")
        return before

    result = go(endpoint, [look], "look", agent=WORD, word="before")
    assert told(result) == "before"
    assert result["word"] == "after"


def takes_state(amount: int, state: State) -> str:
    """Look."""
    return f"{amount} {state.get('word')}"


def takes_state_maybe(amount: int, state: State | None = None) -> str:
    """Look."""
    return f"{amount} {state.get('word') if state else 'none'}"


def takes_state_with_a_text(state: Annotated[State, "the run's"], amount: int) -> str:
    """Look."""
    return f"{amount} {state.get('word')}"


async def takes_state_async(amount: int, *, state: "State") -> str:
    """Look."""
    return f"{amount} {state.get('word')}"


@pytest.mark.parametrize(
    "function",
    [takes_state, takes_state_maybe, takes_state_with_a_text, takes_state_async],
    ids=lambda function: function.__name__,
)
def test_the_state_arrives_unseen_in_our_agent_and_in_haystacks(endpoint: Endpoint, function: Any) -> None:
    name = function.__name__
    definition = definitions(endpoint, [function])[name]
    assert list(definition["parameters"]["properties"]) == ["amount"]
    assert told(call(endpoint, [function], name, {"amount": "1"}, agent=WORD, word="x")) == "1 x"
    if not asyncio.iscoroutinefunction(function):
        result = in_haystack(endpoint, [tool(function)], name, {"amount": "1"}, word="x")
        assert told_in_haystack(result) == "1 x"


# Keys of the state as parameters.


@tool(inputs_from_state={"word": "text"})
def repeat(times: int, text: str) -> str:
    """Repeat a text.

    Args:
        times: How often.
        text: Secret of the developer.
    """
    return text * times


@both_modes
def test_a_parameter_is_filled_from_the_state(endpoint: Endpoint, go: Go) -> None:
    assert told(go(endpoint, [repeat], "repeat", {"times": "2"}, agent=WORD, word="ab")) == "abab"


def test_a_parameter_is_filled_from_the_state_in_haystacks_own_agent(endpoint: Endpoint) -> None:
    assert told_in_haystack(in_haystack(endpoint, [repeat], "repeat", {"times": 2}, word="ab")) == "abab"


def test_a_parameter_filled_from_the_state_isnt_shown_to_the_model(endpoint: Endpoint) -> None:
    definition = definitions(endpoint, [repeat], **WORD)["repeat"]
    assert list(definition["parameters"]["properties"]) == ["times"]
    assert definition["parameters"]["required"] == ["times"]
    assert "Secret" not in json.dumps(definition)


def test_the_model_cant_give_a_parameter_that_is_filled_from_the_state(endpoint: Endpoint) -> None:
    result = call(endpoint, [repeat], "repeat", {"times": 1, "text": "evil"}, agent=WORD, word="good")
    assert failed(result)
    assert told(result).splitlines()[1:] == ["text: not a parameter. Accepted: times"]


def test_a_value_of_the_state_keeps_its_type(endpoint: Endpoint) -> None:
    @tool(inputs_from_state={"day": "day"})
    def look(day: date) -> str:
        """Look."""
        return f"{type(day).__name__} {day.year}"

    schema = {"state_schema": {"day": {"type": date}}}
    assert told(call(endpoint, [look], "look", agent=schema, day=date(2026, 11, 23))) == "date 2026"


def test_a_default_serves_when_the_state_has_no_value(endpoint: Endpoint) -> None:
    @tool(inputs_from_state={"word": "text"})
    def look(text: str = "nothing") -> str:
        """Look."""
        return text

    assert told(call(endpoint, [look], "look", agent=WORD)) == "nothing"


def test_a_value_that_the_state_hasnt_yet_is_named(endpoint: Endpoint) -> None:
    result = call(endpoint, [repeat], "repeat", {"times": 1}, agent=WORD)
    assert failed(result)
    assert "'word'" in told(result)


@pytest.mark.parametrize("inputs", [{"word": "nothing"}, {"word": "context"}, {"word": 3}], ids=str)
def test_a_key_for_no_parameter_or_an_injected_one_is_refused(inputs: Any) -> None:
    def look(text: str, context: RunContext[None]) -> str:
        """Look."""
        return text

    with pytest.raises(ConfigurationError, match=r"look .*inputs_from_state"):
        tool(inputs_from_state=inputs)(look)


# Results into the state.


def measure(size: int) -> dict[str, int]:
    """Measure."""
    return {"width": size, "height": 2 * size}


def measure_badly(size: int) -> dict[str, int]:
    """Measure."""
    raise ValueError("no ruler")


@both_modes
@pytest.mark.parametrize(
    ("outputs", "kept"),
    [
        ({"source": "width"}, 3),
        ({"source": "height", "handler": lambda old, new: (old or 0) + new}, 16),
        ({"handler": lambda old, new: old * new["width"]}, 30),
    ],
    ids=["source", "source and handler", "handler"],
)
def test_a_result_goes_into_the_state(endpoint: Endpoint, go: Go, outputs: Any, kept: int) -> None:
    noted = tool(outputs_to_state={"size": outputs})(measure)
    schema = {"state_schema": {"size": {"type": int}}}
    result = go(endpoint, [noted], "measure", {"size": 3}, agent=schema, size=10)
    assert told(result) == '{"width":3,"height":6}'
    assert result["size"] == kept


def test_a_failed_call_leaves_the_state_as_it_was(endpoint: Endpoint) -> None:
    noted = tool(outputs_to_state={"size": {"source": "width"}})(measure_badly)
    schema = {"state_schema": {"size": {"type": int}}}
    result = call(endpoint, [noted], "measure_badly", {"size": 3}, agent=schema, size=10)
    assert failed(result)
    assert result["size"] == 10


def test_what_one_tool_noted_another_reads(endpoint: Endpoint) -> None:
    @tool(outputs_to_state={"word": {"source": "word"}})
    def note(word: str) -> dict[str, str]:
        """Note."""
        return {"word": word.upper()}

    endpoint.script(
        Reply(calls=[("note", {"word": "ab"}), ("repeat", {"times": 2})]),
        Reply("done"),
    )
    with agent_on(endpoint, [note, repeat], **WORD) as agent:
        result = agent.run("go")
    assert outcomes(result)[1].result == "ABAB"


# What the model reads of a result.


@both_modes
@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"source": "width"}, "3"),
        ({"handler": lambda size: f"{size['width']} by {size['height']}"}, "3 by 6"),
        ({"source": "height", "handler": lambda height: f"{height} high"}, "6 high"),
    ],
    ids=["source", "handler", "source and handler"],
)
def test_a_tool_says_what_the_model_reads(endpoint: Endpoint, go: Go, outputs: Any, text: str) -> None:
    said = tool(outputs_to_string=outputs)(measure)
    assert told(go(endpoint, [said], "measure", {"size": 3})) == text


def test_a_tool_says_several_things_that_the_model_reads(endpoint: Endpoint) -> None:
    outputs = {
        "wide": {"source": "width"},
        "high": {"source": "height", "handler": lambda high: f"{high} m"},
    }
    said = tool(outputs_to_string=outputs)(measure)
    read = json.loads(told(call(endpoint, [said], "measure", {"size": 3})))
    assert {name: str(value) for name, value in read.items()} == {"wide": "3", "high": "6 m"}


def _fail(result: object) -> str:
    raise ZeroDivisionError("no such size")


@both_modes
def test_a_handler_that_fails_doesnt_end_the_run(endpoint: Endpoint, go: Go) -> None:
    said = tool(outputs_to_string={"handler": _fail})(measure)
    result = go(endpoint, [said], "measure", {"size": 3})
    assert failed(result)
    assert "no such size" in told(result)
    assert result.text == "done"


@pytest.mark.parametrize(
    "outputs",
    [{"handler": lambda size: size}, {"source": "width", "raw_result": True}],
    ids=["handler", "raw result"],
)
def test_a_handler_that_gives_no_text_doesnt_end_the_run(endpoint: Endpoint, outputs: Any) -> None:
    said = tool(outputs_to_string=outputs)(measure)
    assert call(endpoint, [said], "measure", {"size": 3}).text == "done"


# Saved and loaded.


@tool(inputs_from_state={"word": "text"}, outputs_to_state={"word": {"source": "text"}})
def enlarge(text: str, context: RunContext[Shop]) -> dict[str, str]:
    """Enlarge."""
    return {"text": text.upper()}


def test_a_tool_with_injected_parameters_survives_saving(endpoint: Endpoint) -> None:
    allow_deserialization_module(__name__)
    loaded = FunctionTool.from_dict(json.loads(json.dumps(enlarge.to_dict())))
    result = call(endpoint, [loaded], "enlarge", agent=WORD, word="ab", deps=Shop("bakery"))
    assert (told(result), result["word"]) == ('{"text":"AB"}', "AB")


def test_a_decorated_function_is_still_called_with_its_context() -> None:
    @tool
    def look(context: RunContext[Shop]) -> object:
        """Look."""
        return context

    marker: Any = object()
    assert look(marker) is marker
    assert look(context=marker) is marker
