"""A model that makes mistakes is told in a few lines, then shown how, then asked for what it knows."""

import asyncio
import json
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools.tool import Tool

from llama_agent import Agent, Limits, Refused, RunFinished, RunResult, ToolStarted, tool
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request
from tests.strict_server import faults, strictly

Json = dict[str, Any]

BUDGET = 6
"""Mistakes in a row before a model is asked to answer with what it has."""
FEW_LINES = 6
"""Of an ordinary refusal."""


@tool
def book(city: str, nights: int, level: str = "standard") -> str:
    """
    Book a room.

    Args:
        city: Name of the city.
        nights: How many nights.
        level: How good the room is.

    """
    return f"{nights} nights in {city}"


@tool
def boom() -> str:
    """Fail."""
    raise ValueError("the disk is full")


MISSING = ("book", {"city": "Oslo"})
WRONG = ("book", {"city": "Oslo", "nights": "two"})
INVENTED = ("book", {"city": "Oslo", "nights": 2, "dry_run": True})
UNREADABLE = ("book", '{"city": "Oslo", "nights": ')
UNKNOWN = ("rent", {"city": "Oslo"})
GOOD = ("book", {"city": "Oslo", "nights": 2})

Call = tuple[str, Any]
MISTAKES: dict[str, Call] = {
    "a missing argument": MISSING,
    "a wrong argument": WRONG,
    "an invented argument": INVENTED,
    "unreadable arguments": UNREADABLE,
    "an unknown tool": UNKNOWN,
}
ON_BOOK = {name: call for name, call in MISTAKES.items() if call is not UNKNOWN}


def made(*calls: Call) -> Reply:
    return Reply(calls=calls)


def as_text(*calls: Call) -> Reply:
    """The same, as a model without native calls writes it."""
    raws = [(name, raw if isinstance(raw, str) else json.dumps(raw)) for name, raw in calls]
    return Reply("".join(f"<function={name}>{raw}</function>" for name, raw in raws))


def different(count: int) -> list[Reply]:
    """Replies with a mistake each, of which no two are the same."""
    return [made(("book", {"city": f"Oslo {n}"})) for n in range(count)]


def run(
    make: Maker,
    endpoint: Endpoint,
    *replies: Item,
    way: str = "sync",
    stream: bool = False,
    tools: Any = (book, boom),
    **settings: Any,
) -> RunResult:
    endpoint.script(*strictly(*replies))
    agent = Agent(chat_generator=make(generation_kwargs={"stream": stream}), tools=list(tools), **settings)

    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("Book a room.")

    if way == "async":
        return asyncio.run(main())
    with agent:
        return agent.run("Book a room.")


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def is_strong(text: str) -> bool:
    """Whether a message shows the schema, and an example of arguments."""
    return '"properties"' in text and example_in(text) is not None


def example_in(text: str) -> Json | None:
    """Arguments for `book` that stand in a text."""
    decoder = json.JSONDecoder()
    for place, character in enumerate(text):
        if character == "{":
            try:
                value, _ = decoder.raw_decode(text, place)
            except ValueError:
                continue
            if _is_example(value):
                return value
    return None


def _is_example(value: Json) -> bool:
    return {"city", "nights"} <= value.keys() <= {"city", "nights", "level"} and type(value["city"]) is str


each_way = pytest.mark.parametrize("way", ["sync", "async"])
each_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
each_mistake = pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
each_on_book = pytest.mark.parametrize("mistake", ON_BOOK.values(), ids=ON_BOOK)


# What a model is told.


@each_mistake
def test_a_first_mistake_is_told_in_a_few_lines(make: Maker, endpoint: Endpoint, mistake: Call) -> None:
    (text,) = told(run(make, endpoint, made(mistake), Reply("done")))
    assert len(text.splitlines()) <= FEW_LINES
    assert '"properties"' not in text


@each_on_book
@each_way
@each_stream
def test_the_same_mistake_again_is_told_with_schema_and_example(
    make: Maker, endpoint: Endpoint, mistake: Call, way: str, stream: bool
) -> None:
    result = run(make, endpoint, made(mistake), made(mistake), Reply("done"), way=way, stream=stream)
    assert [is_strong(text) for text in told(result)] == [False, True]
    assert result.text == "done"


@each_on_book
def test_the_same_mistake_as_text_is_told_alike(make: Maker, endpoint: Endpoint, mistake: Call) -> None:
    result = run(make, endpoint, as_text(mistake), as_text(mistake), Reply("done"))
    assert [is_strong(text) for text in told(result)] == [False, True]


def test_what_was_wrong_is_still_told_beside_the_schema(make: Maker, endpoint: Endpoint) -> None:
    first, second = told(run(make, endpoint, made(WRONG), made(WRONG), Reply("done")))
    assert "nights: " in first
    assert "nights: " in second


def test_the_schema_is_the_tools_own(make: Maker, endpoint: Endpoint) -> None:
    *_, text = told(run(make, endpoint, made(WRONG), made(WRONG), Reply("done")))
    for part in ("city", "nights", "level", "Name of the city.", "integer"):
        assert part in text


def test_the_example_fits_the_schema(make: Maker, endpoint: Endpoint) -> None:
    *_, text = told(run(make, endpoint, made(WRONG), made(WRONG), Reply("done")))
    example = example_in(text)
    assert example is not None
    endpoint.script(made(("book", example)), Reply("done"))
    with Agent(chat_generator=make(), tools=[book]) as agent:
        result = agent.run("Book a room.")
    assert not any(r.error for message in result.messages for r in message.tool_call_results)


def test_the_same_mistake_a_third_time_keeps_the_strong_hint(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *[made(WRONG)] * 3, Reply("done"))
    assert [is_strong(text) for text in told(result)] == [False, True, True]


def test_the_same_arguments_written_otherwise_are_the_same(make: Maker, endpoint: Endpoint) -> None:
    calls = [("book", '{"city": "Oslo", "nights": "two"}'), ("book", '{"nights":"two","city":"Oslo"}')]
    result = run(make, endpoint, *(made(call) for call in calls), Reply("done"))
    assert [is_strong(text) for text in told(result)] == [False, True]


def test_other_arguments_are_another_mistake(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, made(WRONG), made(MISSING), made(INVENTED), Reply("done"))
    assert [is_strong(text) for text in told(result)] == [False, False, False]


def test_the_same_mistake_after_a_good_call_is_a_first_one(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, made(WRONG), made(GOOD), made(WRONG), Reply("done"))
    assert not any(is_strong(text) for text in told(result))


def test_an_unknown_tool_twice_is_answered_with_the_names_each_time(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, made(UNKNOWN), made(UNKNOWN), Reply("done"))
    assert all("book" in text for text in told(result))
    assert result.text == "done"


@pytest.mark.filterwarnings("ignore:the definitions of the tools")
def test_a_strong_hint_for_a_huge_schema_stays_bounded(make: Maker, endpoint: Endpoint) -> None:
    properties = {f"field_{n}": {"type": "integer", "description": "x" * 500} for n in range(120)}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    huge = Tool(name="huge", description="Huge.", parameters=parameters, function=lambda **_: "ran")
    call: Call = ("huge", {"field_0": "x"})
    result = run(make, endpoint, made(call), made(call), Reply("done"), tools=[huge])
    assert all(len(text) < 20_000 for text in told(result))


def test_a_failing_tool_is_no_mistake_of_the_models(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *[made(("boom", {}))] * 8, Reply("done"), limits=Limits(repeats=0))
    assert (result.text, result.stop_reason) == ("done", "answered")
    assert not any('"properties"' in text for text in told(result))


# The budget.


@each_mistake
@each_way
@each_stream
def test_after_six_mistakes_in_a_row_the_model_is_asked_to_answer(
    make: Maker, endpoint: Endpoint, mistake: Call, way: str, stream: bool
) -> None:
    result = run(make, endpoint, *[made(mistake)] * BUDGET, Reply("I can't."), way=way, stream=stream)
    assert (result.text, result.stop_reason, result["exit_reason"]) == ("I can't.", "mistakes", "mistakes")
    assert len(endpoint.requests) == BUDGET + 1
    last = endpoint.requests[-1]
    assert "tools" not in last.json
    assert last.messages[-1]["role"] == "user"
    assert "answer" in last.messages[-1]["content"].lower()


@each_on_book
def test_after_six_mistakes_as_text_the_model_is_asked_to_answer(
    make: Maker, endpoint: Endpoint, mistake: Call
) -> None:
    result = run(make, endpoint, *[as_text(mistake)] * BUDGET, Reply("I can't."))
    assert (result.text, result.stop_reason) == ("I can't.", "mistakes")
    assert "tools" not in endpoint.requests[-1].json


def test_mistakes_of_all_kinds_count_together(make: Maker, endpoint: Endpoint) -> None:
    kinds = [MISSING, WRONG, INVENTED, UNREADABLE, UNKNOWN, MISSING]
    result = run(make, endpoint, *(made(kind) for kind in kinds), Reply("I can't."))
    assert result.stop_reason == "mistakes"


def test_mistakes_that_differ_count_too(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *different(BUDGET), Reply("I can't."))
    assert result.stop_reason == "mistakes"


def test_five_mistakes_are_forgiven(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *different(BUDGET - 1), Reply("done"))
    assert (result.text, result.stop_reason) == ("done", "answered")
    assert all("tools" in request.json for request in endpoint.requests)


def test_a_good_call_begins_the_count_anew(make: Maker, endpoint: Endpoint) -> None:
    replies = [*different(BUDGET - 1), made(GOOD), *different(BUDGET - 1), made(GOOD), Reply("done")]
    result = run(make, endpoint, *replies)
    assert (result.text, result.stop_reason) == ("done", "answered")


def test_a_good_call_between_the_mistakes_of_one_reply_begins_the_count_anew(
    make: Maker, endpoint: Endpoint
) -> None:
    replies = [made(WRONG, GOOD, MISSING)] * 4
    result = run(make, endpoint, *replies, Reply("done"))
    assert (result.text, result.stop_reason) == ("done", "answered")


def test_each_mistake_of_a_reply_counts(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *[made(WRONG, MISSING, INVENTED)] * 2, Reply("I can't."))
    assert result.stop_reason == "mistakes"
    assert len(endpoint.requests) == 3


def test_each_call_is_answered_before_the_model_is_asked_to_answer(make: Maker, endpoint: Endpoint) -> None:
    run(make, endpoint, made(WRONG), made(*[WRONG] * (BUDGET + 1)), Reply("I can't."))
    sent = endpoint.requests[-1].messages
    assert list(faults(sent)) == []
    turns = ["assistant", "tool", "assistant", *["tool"] * (BUDGET + 1)]
    assert [message["role"] for message in sent] == ["user", *turns, "user"]


def test_one_reply_of_wrong_calls_is_no_reason_to_give_up(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, made(*[WRONG] * (BUDGET + 2)), made(GOOD), Reply("Done."))
    assert result.stop_reason == "answered"


LAST_WORDS: dict[str, Reply] = {
    "a native call": made(GOOD),
    "a native call with text": Reply("I'd book a room.", calls=[GOOD]),
    "a call as text": as_text(GOOD),
    "a bare call as text": Reply(json.dumps({"name": "book", "parameters": GOOD[1]})),
    "a mistake": made(WRONG),
    "nothing": Reply(""),
    "half an answer": Reply("I would", finish_reason="length"),
}


@pytest.mark.parametrize("reply", LAST_WORDS.values(), ids=LAST_WORDS)
@each_way
def test_whatever_the_model_says_then_is_the_end(
    make: Maker, endpoint: Endpoint, reply: Reply, way: str
) -> None:
    result = run(make, endpoint, *different(BUDGET), reply, way=way)
    assert result.stop_reason == "mistakes"
    assert not [event for event in result.events if isinstance(event, ToolStarted)]
    assert len(endpoint.requests) == BUDGET + 1


def test_the_events_say_why_the_run_ended(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *different(BUDGET), Reply("I can't."))
    (event,) = [event for event in result.events if isinstance(event, RunFinished)]
    assert event.stop_reason == "mistakes"


def test_all_model_calls_are_counted(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *different(BUDGET), Reply("I can't.", usage=(100, 50)))
    assert result.usage.model_calls == BUDGET + 1
    assert result.usage.input_tokens == 10 * BUDGET + 100


def test_the_result_can_be_gone_on_with(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *different(BUDGET), Reply("I can't."))
    endpoint.script(*strictly(made(WRONG), made(GOOD), Reply("done")))
    with Agent(chat_generator=make(), tools=[book]) as agent:
        again = agent.run([*result.messages, ChatMessage.from_user("Try again.")])
    assert (again.text, again.stop_reason) == ("done", "answered")


def test_each_run_has_a_budget_of_its_own(make: Maker, endpoint: Endpoint) -> None:
    with Agent(chat_generator=make(), tools=[book]) as agent:
        for _ in range(2):
            endpoint.script(*strictly(*different(BUDGET - 1), Reply("done")))
            assert agent.run("Book a room.").stop_reason == "answered"


def test_the_step_limit_comes_first_where_it_is_lower(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *different(3), Reply("I can't."), max_agent_steps=3)
    assert (result.text, result.stop_reason) == ("I can't.", "max_steps")


def test_a_model_that_never_learns_is_stopped_long_before_the_step_limit(
    make: Maker, endpoint: Endpoint
) -> None:
    def stubborn(request: Request) -> Item:
        return made(WRONG) if "tools" in request.json else Reply("I can't.")

    endpoint.script(Always(stubborn))
    with Agent(chat_generator=make(), tools=[book]) as agent:
        assert agent.run("Book a room.").stop_reason == "mistakes"
    assert len(endpoint.requests) == BUDGET + 1


def test_a_no_of_the_user_is_no_mistake(make: Maker, endpoint: Endpoint) -> None:
    class Never:
        def needs(self, call: ToolCall, tool: Tool) -> bool:
            return True

        def ask(self, call: ToolCall, tool: Tool) -> Refused:
            return Refused("not today")

    replies = [*[made(GOOD)] * 8, Reply("done")]
    result = run(make, endpoint, *replies, approval=Never(), limits=Limits(repeats=0))
    assert (result.text, result.stop_reason) == ("done", "answered")


@pytest.mark.parametrize("mode", ["native", "prompted"])
def test_the_last_request_offers_no_tools_in_any_mode(make: Maker, endpoint: Endpoint, mode: str) -> None:
    endpoint.script(*[as_text(WRONG)] * BUDGET, Reply("I can't."))
    with Agent(chat_generator=make(tool_mode=mode), tools=[book]) as agent:
        result = agent.run("Book a room.")
    assert (result.text, result.stop_reason) == ("I can't.", "mistakes")
    last = endpoint.requests[-1]
    assert "tools" not in last.json
    prompts = [message["content"] for message in last.messages if message["role"] == "system"]
    assert not any("Name of the city." in prompt for prompt in prompts)
