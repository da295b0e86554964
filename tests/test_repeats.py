"""A model that goes in circles is told so, then goes without the tool for a turn, then answers."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import pytest
from haystack.components.agents.state.state import State
from haystack.dataclasses import ChatMessage
from haystack.hooks import hook
from haystack.tools import create_tool_from_function
from haystack.tools.tool import Tool

from llama_agent import (
    Agent,
    ConfigurationError,
    LastAnswerFailed,
    Limits,
    ModelRequested,
    NoteAdded,
    RunFinished,
    RunResult,
    tool,
)
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request, Status
from tests.strict_server import faults, strictly

Json = dict[str, Any]
Call = tuple[str, Json]

MOST = 6
"""Executions of one call, all told."""
SEVERAL = 30
"""Steps of a run that is long, and goes on well."""


class Desk:
    """Tools that write down what was done with them. `look` never sees anything new."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    @tool
    def look(self, place: str = "here") -> str:
        """
        Look somewhere.

        Args:
            place: Where.

        """
        self.ran.append(f"look {place}")
        return f"Nothing in {place}."

    @tool
    def count(self) -> int:
        """Count how often this is called."""
        self.ran.append("count")
        return self.ran.count("count")

    @tool
    def fail(self) -> str:
        """Fail, in the same way each time."""
        self.ran.append("fail")
        raise OSError("the disk is full")

    @tool
    def fail_anew(self) -> str:
        """Fail, in another way each time."""
        self.ran.append("fail_anew")
        raise OSError(f"only {len(self.ran)} bytes are left")

    @tool(repeatable=True)
    def poll(self) -> str:
        """See whether it is done."""
        self.ran.append("poll")
        return "still running"

    def most_of(self) -> str:
        """Do something else."""
        self.ran.append("another")
        return "something else"

    @property
    def tools(self) -> list[Any]:
        return [self.look, self.count, self.fail, self.fail_anew, self.poll]

    @property
    def most(self) -> int:
        """How often the call was run that was run most."""
        return max(Counter(self.ran).values())


@pytest.fixture
def desk() -> Desk:
    return Desk()


LOOK: Call = ("look", {})
COUNT: Call = ("count", {})
FAIL: Call = ("fail", {})
POLL: Call = ("poll", {})
CIRCLE: list[Call] = [("look", {"place": place}) for place in ("attic", "cellar", "shed", "yard", "roof")]
DONE = Reply("I found nothing.")


def made(*calls: Call) -> Reply:
    return Reply(calls=calls)


def one_by_one(*calls: Call) -> list[Reply]:
    return [made(call) for call in calls]


def rounds(calls: Sequence[Call], times: int) -> list[Reply]:
    return one_by_one(*calls * times)


def stubborn(*replies: Reply) -> Always:
    """A model that makes these calls, round and round, for as long as any tool is on offer."""
    turns = cycle(replies)
    return Always(lambda request: next(turns) if "tools" in request.json else DONE)


def as_text(*calls: Call) -> Reply:
    """Calls as a model without native ones writes them."""
    return Reply("".join(f"<function={name}>{_json(arguments)}</function>" for name, arguments in calls))


def _json(arguments: Json) -> str:
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in arguments.items()) + "}"


def run(
    make: Maker,
    endpoint: Endpoint,
    tools: Sequence[Any],
    *replies: Any,
    way: str = "sync",
    stream: bool = False,
    generator: Json | None = None,
    kwargs: Json | None = None,
    limits: Limits | None = None,
    **settings: Any,
) -> RunResult:
    endpoint.script(*replies)
    model = make(generation_kwargs={"stream": stream, **(kwargs or {})}, **(generator or {}))
    agent = Agent(chat_generator=model, tools=list(tools), **settings)

    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("Find it.", limits=limits)

    if way == "async":
        return asyncio.run(main())
    with agent:
        return agent.run("Find it.", limits=limits)


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def notes(result: RunResult) -> list[str]:
    return [event.text for event in result.events if isinstance(event, NoteAdded)]


def offered(request: Request) -> list[str]:
    return [one["function"]["name"] for one in request.json.get("tools", [])]


def users(request: Request) -> list[str]:
    """What the model was told by users, beside the task."""
    return [message["content"] for message in request.messages if message["role"] == "user"][1:]


each_way = pytest.mark.parametrize("way", ["sync", "async"])
each_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
each_length = pytest.mark.parametrize("length", [1, 2, 3, 4])


# The course.


@each_way
@each_stream
def test_the_whole_course(make: Maker, endpoint: Endpoint, desk: Desk, way: str, stream: bool) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 6, DONE), way=way, stream=stream)
    assert (result.text, result.stop_reason, result["exit_reason"]) == (DONE.text, "repeating", "repeating")
    assert ["look" in offered(request) for request in endpoint.requests] == [True] * 4 + [False, True, False]
    assert desk.ran == ["look here"] * 5
    assert len(notes(result)) == 3
    assert (result["step_count"], result.usage.model_calls) == (6, 7)


@each_way
def test_the_third_time_is_answered_by_a_note(make: Maker, endpoint: Endpoint, desk: Desk, way: str) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 3, DONE), way=way)
    assert [len(users(request)) for request in endpoint.requests] == [0, 0, 0, 1]
    (note,) = notes(result)
    assert "look" in note
    assert endpoint.requests[-1].messages[-1] == {"role": "user", "content": note}
    assert (result.text, result.stop_reason) == (DONE.text, "answered")


def test_a_model_that_heeds_the_note_goes_on_with_all_tools(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    replies = [*[made(LOOK)] * 3, made(COUNT), made(COUNT), DONE]
    result = run(make, endpoint, desk.tools, *strictly(*replies))
    assert result.stop_reason == "answered"
    assert all("look" in offered(request) for request in endpoint.requests)
    assert len(notes(result)) == 1


def test_the_tool_is_withheld_for_one_turn(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    replies = [*[made(LOOK)] * 4, made(COUNT), made(CIRCLE[0]), DONE]
    result = run(make, endpoint, desk.tools, *strictly(*replies))
    without = [name for name in offered(endpoint.requests[0]) if name != "look"]
    assert offered(endpoint.requests[4]) == without
    assert "look" in offered(endpoint.requests[5])
    seen = [event.tools for event in result.events if isinstance(event, ModelRequested)]
    assert seen[4] == tuple(without)
    assert told(result)[-1] == "Nothing in attic."
    assert result.stop_reason == "answered"


def test_the_model_is_told_that_the_tool_is_withheld(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 4, DONE))
    last = endpoint.requests[-1].messages[-1]
    assert last["role"] == "user"
    assert "look" in last["content"]
    assert "turn" in last["content"]


@each_way
@each_stream
def test_a_withheld_tool_that_is_called_all_the_same_isnt_run(
    make: Maker, endpoint: Endpoint, desk: Desk, way: str, stream: bool
) -> None:
    replies = [*[made(LOOK)] * 4, made(COUNT, LOOK, CIRCLE[0]), DONE]
    result = run(make, endpoint, desk.tools, *strictly(*replies), way=way, stream=stream)
    assert desk.ran == [*["look here"] * 4, "count"]
    counted, *refused = [r for message in result.messages for r in message.tool_call_results][-3:]
    assert (counted.result, counted.error) == ("1", False)
    for part in refused:
        assert part.error
        assert "can't be called in this turn" in str(part.result)
    assert result.stop_reason == "answered"


def test_a_refused_call_of_a_withheld_tool_is_no_mistake(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    replies = [*[made(LOOK)] * 4, made(*[LOOK] * 8), DONE]
    assert run(make, endpoint, desk.tools, *strictly(*replies)).stop_reason == "answered"


def test_the_only_tool_can_be_withheld(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, [desk.look], *strictly(*[made(LOOK)] * 6, DONE))
    assert offered(endpoint.requests[4]) == []
    assert (result.stop_reason, len(desk.ran)) == ("repeating", 5)


def test_the_last_answer_is_asked_for_without_tools(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 6, DONE))
    last = endpoint.requests[-1]
    assert "tools" not in last.json
    assert last.messages[-1]["role"] == "user"
    assert "answer" in last.messages[-1]["content"].lower()


def test_calls_in_the_last_answer_arent_run(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    last = Reply("I'd look again.", calls=[LOOK])
    result = run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 6, last))
    assert (result.text, result.stop_reason) == ("I'd look again.", "repeating")
    assert len(desk.ran) == 5
    assert not result.messages[-1].tool_calls


def test_without_a_landing_the_run_ends_at_once(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *[made(LOOK)] * 6, limits=Limits(landing=False))
    assert (result.stop_reason, len(endpoint.requests)) == ("repeating", 6)
    assert told(result)[-1] == "Nothing in here."


@each_way
def test_a_last_answer_that_fails_loses_nothing(
    make: Maker, endpoint: Endpoint, desk: Desk, way: str
) -> None:
    result = run(make, endpoint, desk.tools, *[made(LOOK)] * 6, Status(500), way=way)
    assert result.stop_reason == "repeating"
    assert len(told(result)) == 6
    assert [event for event in result.events if isinstance(event, LastAnswerFailed)]


def test_the_events_say_why_the_run_ended(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 6, DONE))
    (event,) = [event for event in result.events if isinstance(event, RunFinished)]
    assert event.stop_reason == "repeating"


def test_notes_are_part_of_the_conversation(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 6, DONE))
    texts = [message.text for message in result.messages if message.role.value == "user"]
    assert texts == ["Find it.", *notes(result)]


# What is a circle.


@each_length
@each_way
def test_a_cycle_of_up_to_four_calls_is_found(
    make: Maker, endpoint: Endpoint, desk: Desk, length: int, way: str
) -> None:
    replies = rounds(CIRCLE[:length], 3)
    result = run(make, endpoint, desk.tools, *strictly(*replies, DONE), way=way)
    assert len(notes(result)) == 1
    assert users(endpoint.requests[-2]) == []
    assert len(users(endpoint.requests[-1])) == 1


@each_length
def test_two_rounds_are_no_cycle(make: Maker, endpoint: Endpoint, desk: Desk, length: int) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*rounds(CIRCLE[:length], 2), DONE))
    assert notes(result) == []


@pytest.mark.parametrize("length", [2, 3, 4])
def test_three_rounds_less_one_call_are_no_cycle(
    make: Maker, endpoint: Endpoint, desk: Desk, length: int
) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*rounds(CIRCLE[:length], 3)[:-1], DONE))
    assert notes(result) == []


def test_a_cycle_of_five_calls_isnt_found(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*rounds(CIRCLE, 4), DONE))
    assert (notes(result), result.stop_reason) == ([], "answered")


@each_length
@each_way
def test_a_cycle_ends_the_run(make: Maker, endpoint: Endpoint, desk: Desk, length: int, way: str) -> None:
    result = run(
        make, endpoint, desk.tools, stubborn(*one_by_one(*CIRCLE[:length])), way=way, max_agent_steps=60
    )
    assert (result.text, result.stop_reason) == (DONE.text, "repeating")
    assert desk.most <= MOST
    assert list(faults(endpoint.requests[-1].messages)) == []


def test_a_cycle_of_several_tools_names_them(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*rounds([LOOK, FAIL], 3), DONE))
    (note,) = notes(result)
    assert "look" in note
    assert "fail" in note
    assert "count" not in note


def test_only_the_tool_that_is_called_again_is_withheld(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    run(make, endpoint, desk.tools, *strictly(*rounds([LOOK, FAIL], 3), made(FAIL), DONE))
    assert "fail" not in offered(endpoint.requests[-1])
    assert "look" in offered(endpoint.requests[-1])


def test_a_cycle_that_begins_after_other_calls_is_found(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    replies = [*one_by_one(COUNT, *CIRCLE, COUNT), *rounds([LOOK, FAIL], 3), DONE]
    assert len(notes(run(make, endpoint, desk.tools, *strictly(*replies)))) == 1


def test_another_call_between_ends_a_row(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    replies = one_by_one(LOOK, LOOK, COUNT, LOOK, LOOK, COUNT, LOOK, LOOK)
    assert notes(run(make, endpoint, desk.tools, *strictly(*replies, DONE))) == []


def test_the_errors_of_a_failing_tool_are_results_too(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(FAIL)] * 6, DONE))
    assert (result.stop_reason, len(desk.ran)) == ("repeating", 5)


def test_errors_that_differ_are_no_circle(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    replies = [made(("fail_anew", {}))] * 12
    result = run(make, endpoint, desk.tools, *strictly(*replies, DONE))
    assert (notes(result), result.stop_reason) == ([], "answered")


def test_results_that_differ_are_no_circle(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(COUNT)] * 12, DONE))
    assert (notes(result), result.stop_reason, len(desk.ran)) == ([], "answered", 12)


def test_arguments_that_differ_are_no_circle(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    @tool
    def search(page: int) -> str:
        """
        Search.

        Args:
            page: Which page.

        """
        return "nothing"

    replies = [made(("search", {"page": n})) for n in range(12)]
    result = run(make, endpoint, [search], *strictly(*replies, DONE))
    assert (notes(result), result.stop_reason) == ([], "answered")


SAME: dict[str, list[str]] = {
    "other order": ['{"a": "x", "b": {"c": 1, "d": 2}}', '{"b": {"d": 2, "c": 1}, "a": "x"}'],
    "other spaces": ['{"a":"x","b":{"c":1,"d":2}}', '{\n  "a": "x",\n  "b": {"c": 1, "d": 2}\n}'],
    "escapes": ['{"a": "\\u0078", "b": {"c": 1, "d": 2}}', '{"a": "x", "b": {"c": 1, "d": 2}}'],
    "a number as text": ['{"a": "x", "b": {"c": "1", "d": 2}}', '{"a": "x", "b": {"c": 1, "d": 2}}'],
    "an object as text": ['{"a": "x", "b": "{\\"c\\": 1, \\"d\\": 2}"}', '{"a": "x", "b": {"c": 1, "d": 2}}'],
    "broken JSON": ["{'a': 'x', 'b': {'c': 1, 'd': 2},}", '{"a": "x", "b": {"c": 1, "d": 2}}'],
}


@pytest.mark.parametrize("ways_to_write", SAME.values(), ids=SAME)
def test_the_same_arguments_written_otherwise_are_the_same(
    make: Maker, endpoint: Endpoint, ways_to_write: list[str]
) -> None:
    ran: list[Json] = []

    @tool
    def note(a: str, b: dict[str, int]) -> str:
        """
        Note something.

        Args:
            a: What.
            b: How.

        """
        ran.append({"a": a, "b": b})
        return "noted"

    replies = [Reply(calls=[("note", raw)]) for raw in islice(cycle(ways_to_write), 3)]
    result = run(make, endpoint, [note], *strictly(*replies, DONE))
    assert ran == [{"a": "x", "b": {"c": 1, "d": 2}}] * 3
    assert len(notes(result)) == 1


@pytest.mark.parametrize("mode", ["native", "prompted"])
@each_stream
def test_calls_that_were_read_from_text_count_alike(
    make: Maker, endpoint: Endpoint, desk: Desk, mode: str, stream: bool
) -> None:
    replies = [*[as_text(LOOK)] * 4, as_text(COUNT), as_text(LOOK), DONE]
    result = run(make, endpoint, desk.tools, *replies, generator={"tool_mode": mode}, stream=stream)
    assert (result.text, result.stop_reason) == (DONE.text, "repeating")
    assert len(desk.ran) == 6


@pytest.mark.parametrize("mode", ["native", "prompted"])
@pytest.mark.parametrize("others", [False, True], ids=["the only tool", "one of several"])
@each_stream
def test_a_withheld_tool_that_is_called_by_text_is_no_answer(
    make: Maker, endpoint: Endpoint, desk: Desk, mode: str, others: bool, stream: bool
) -> None:
    tools = desk.tools if others else [desk.look]
    replies = [*[as_text(LOOK)] * 5, DONE]
    result = run(make, endpoint, tools, *replies, generator={"tool_mode": mode}, stream=stream)
    assert (result.text, len(desk.ran)) == (DONE.text, 4)
    assert "can't be called in this turn" in told(result)[-1]


def test_a_call_of_a_withheld_tool_isnt_taken_for_one_of_another(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    others = [tool(name=name)(desk.most_of) for name in ("Look", "look_", "lookup")]
    result = run(make, endpoint, [desk.look, *others], *strictly(*[made(LOOK)] * 5, DONE))
    assert desk.ran == ["look here"] * 4
    assert "can't be called in this turn" in told(result)[-1]


CHOICES: dict[str, Any] = {
    "by name": {"type": "function", "function": {"name": "look"}},
    "required": "required",
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_a_tool_that_isnt_offered_isnt_demanded(
    make: Maker, endpoint: Endpoint, desk: Desk, choice: Any
) -> None:
    """A server answers 400 to a `tool_choice` that no tool on offer can satisfy."""
    result = run(make, endpoint, [desk.look], *[made(LOOK)] * 4, DONE, kwargs={"tool_choice": choice})
    assert result.text == DONE.text
    assert offered(endpoint.requests[4]) == []
    assert "tool_choice" not in endpoint.requests[4].json


def test_another_tool_isnt_demanded_by_the_name_of_the_withheld_one(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    kwargs = {"tool_choice": CHOICES["by name"]}
    run(make, endpoint, desk.tools, *[made(LOOK)] * 4, DONE, kwargs=kwargs)
    assert offered(endpoint.requests[4])
    assert endpoint.requests[4].json.get("tool_choice") in (None, "auto", "required")


@pytest.mark.parametrize("mode", ["native", "prompted"])
def test_a_withheld_tool_isnt_offered_in_any_mode(
    make: Maker, endpoint: Endpoint, desk: Desk, mode: str
) -> None:
    replies = [*[as_text(LOOK)] * 4, DONE]
    run(make, endpoint, desk.tools, *replies, generator={"tool_mode": mode})
    before, withheld = (request.body.decode() for request in (endpoint.requests[3], endpoint.requests[4]))
    assert "Look somewhere." in before
    assert "Look somewhere." not in withheld
    assert "Count how often this is called." in withheld


def test_mistakes_arent_counted(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    wrong = made(("look", {"place": ["x"], "depth": {}}))
    result = run(make, endpoint, desk.tools, *strictly(*[wrong] * 5, DONE))
    assert (notes(result), result.stop_reason, desk.ran) == ([], "answered", [])


# Several calls in one reply.


def test_the_same_call_three_times_in_one_reply_is_found(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(made(LOOK, LOOK, LOOK), DONE))
    assert len(notes(result)) == 1
    assert [message["role"] for message in endpoint.requests[-1].messages][-4:] == [*["tool"] * 3, "user"]


@pytest.mark.parametrize("length", [2, 3, 4])
def test_replies_with_the_same_calls_are_a_cycle(
    make: Maker, endpoint: Endpoint, desk: Desk, length: int
) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(*CIRCLE[:length])] * 3, DONE))
    assert len(notes(result)) == 1
    assert users(endpoint.requests[-2]) == []


def test_a_call_beside_others_that_give_something_new_is_none(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(LOOK, COUNT)] * 8, DONE))
    assert (notes(result), result.stop_reason) == ([], "answered")


BURSTS = {
    "one a reply": [made(LOOK)],
    "two a reply": [made(LOOK, LOOK)],
    "three a reply": [made(LOOK, LOOK, LOOK)],
    "five a reply": [made(*[LOOK] * 5)],
    "seven a reply": [made(*[LOOK] * 7)],
    "thirty a reply": [made(*[LOOK] * 30)],
    "one, then five": [made(LOOK), made(*[LOOK] * 5)],
    "a pair a reply": [made(*CIRCLE[:2])],
    "two pairs a reply": [made(*CIRCLE[:2] * 2)],
    "four a reply": [made(*CIRCLE[:4])],
    "four rounds of four a reply": [made(*CIRCLE[:4] * 4)],
    "a failing tool": [made(FAIL)],
    "a failing tool, five a reply": [made(*[FAIL] * 5)],
    "one of two, then the other twice": [made(LOOK), made(*CIRCLE[:2])],
    "as text": [as_text(LOOK)],
    "as text, five a reply": [as_text(*[LOOK] * 5)],
    "as text and as calls": [as_text(LOOK), made(LOOK)],
}


@pytest.mark.parametrize("burst", BURSTS.values(), ids=BURSTS)
@each_way
def test_no_call_is_run_more_than_six_times(
    make: Maker, endpoint: Endpoint, desk: Desk, burst: list[Reply], way: str
) -> None:
    tools = [desk.look, desk.fail, desk.count]
    result = run(make, endpoint, tools, stubborn(*burst), way=way, max_agent_steps=60)
    assert result.stop_reason == "repeating"
    assert result.text == DONE.text
    ran = Counter(name for name in desk.ran if name != "count")
    assert max(ran.values()) <= MOST
    assert list(faults(endpoint.requests[-1].messages)) == []


@pytest.mark.parametrize("seed", range(12))
def test_no_call_is_run_more_than_six_times_in_any_circle(
    make: Maker, endpoint: Endpoint, desk: Desk, seed: int
) -> None:
    chance = random.Random(seed)
    circle = chance.sample([LOOK, FAIL, *CIRCLE], chance.randint(1, 4))
    endless = cycle(circle)
    bursts = [made(*islice(endless, chance.randint(1, 6))) for _ in range(len(circle) * 12)]
    result = run(make, endpoint, [desk.look, desk.fail], stubborn(*bursts), max_agent_steps=60)
    assert result.text == DONE.text
    # Where both of its tools are withheld, such a model answers.
    assert result.stop_reason in ("repeating", "answered")
    assert desk.most <= MOST


@pytest.mark.parametrize("circle", [[0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 1]], ids=str)
def test_a_call_that_comes_twice_in_a_circle_ends_the_run_too(
    make: Maker, endpoint: Endpoint, desk: Desk, circle: list[int]
) -> None:
    replies = stubborn(*one_by_one(*(CIRCLE[place] for place in circle)))
    result = run(make, endpoint, desk.tools, replies, max_agent_steps=60)
    assert (result.text, result.stop_reason) == (DONE.text, "repeating")


def test_every_call_of_a_reply_is_answered(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    run(make, endpoint, desk.tools, *strictly(made(*[LOOK] * 10), DONE))
    roles = [message["role"] for message in endpoint.requests[-1].messages]
    assert roles == ["user", "assistant", *["tool"] * 10, "user"]


# What is none.


def test_a_long_run_that_gets_on_isnt_stopped(make: Maker, endpoint: Endpoint) -> None:
    done: list[str] = []

    @tool
    def list_files() -> str:
        """List the files."""
        return "a.py b.py"

    @tool
    def edit(file: str, line: int) -> str:
        """
        Edit a file.

        Args:
            file: Its name.
            line: Which line.

        """
        done.append(file)
        return "edited"

    @tool
    def run_tests() -> str:
        """Run the tests."""
        return f"{SEVERAL - len(done)} tests fail"

    replies: list[Reply] = []
    for n in range(SEVERAL):
        replies += one_by_one(("list_files", {}), ("edit", {"file": "a.py", "line": n}), ("run_tests", {}))
    result = run(make, endpoint, [list_files, edit, run_tests], *replies, DONE, max_agent_steps=200)
    assert (notes(result), result.stop_reason) == ([], "answered")


def test_the_same_edit_with_results_that_differ_isnt_stopped(make: Maker, endpoint: Endpoint) -> None:
    done: list[str] = []

    @tool
    def fix_next() -> str:
        """Fix the next one."""
        done.append("x")
        return "fixed"

    @tool
    def run_tests() -> str:
        """Run the tests."""
        return f"{SEVERAL - len(done)} tests fail"

    replies = rounds([("fix_next", {}), ("run_tests", {})], SEVERAL)
    result = run(make, endpoint, [fix_next, run_tests], *replies, DONE, max_agent_steps=200)
    assert (notes(result), result.stop_reason) == ([], "answered")


@each_length
def test_a_file_that_is_read_again_between_other_steps_isnt_stopped(
    make: Maker, endpoint: Endpoint, desk: Desk, length: int
) -> None:
    replies = rounds([*CIRCLE[:length], COUNT], 10)
    result = run(make, endpoint, desk.tools, *replies, DONE, max_agent_steps=200)
    assert (notes(result), result.stop_reason) == ([], "answered")


def test_a_model_that_heeded_the_note_long_ago_isnt_stopped(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    replies = [*[made(LOOK)] * 3, *rounds([COUNT, COUNT, COUNT, COUNT, LOOK], 6)]
    result = run(make, endpoint, desk.tools, *replies, DONE, max_agent_steps=200)
    assert (result.text, result.stop_reason) == (DONE.text, "answered")


def test_a_tool_that_polls_may_be_called_again_and_again(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(POLL)] * 20, DONE))
    assert (notes(result), result.stop_reason, len(desk.ran)) == ([], "answered", 20)


def test_many_polls_in_one_reply_are_none(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(made(*[POLL] * 10), DONE))
    assert (notes(result), len(desk.ran)) == ([], 10)


def test_a_circle_around_a_poll_names_the_other_tool_alone(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    replies = [*rounds([POLL, LOOK], 4), DONE]
    result = run(make, endpoint, desk.tools, *strictly(*replies))
    assert notes(result)
    assert all("poll" not in note for note in notes(result))
    assert "poll" in offered(endpoint.requests[-1])
    assert "look" not in offered(endpoint.requests[-1])


def test_a_plain_function_can_be_made_one_that_polls(make: Maker, endpoint: Endpoint) -> None:
    def status() -> str:
        """See how it goes."""
        return "running"

    polling = tool(repeatable=True)(status)
    result = run(make, endpoint, [polling], *strictly(*[made(("status", {}))] * 12, DONE))
    assert (notes(result), result.stop_reason) == ([], "answered")


# Tools of all kinds.


def plain(ran: list[str]) -> Any:
    def look() -> str:
        """Look."""
        ran.append("look")
        return "nothing"

    return look


def async_plain(ran: list[str]) -> Any:
    async def look() -> str:
        """Look."""
        ran.append("look")
        return "nothing"

    return look


def haystacks_own(ran: list[str]) -> Any:
    return Tool(
        name="look",
        description="Look.",
        parameters={"type": "object", "properties": {}},
        function=plain(ran),
    )


def haystacks_from_a_function(ran: list[str]) -> Any:
    return create_tool_from_function(plain(ran))


def one_that_gives_data(ran: list[str]) -> Any:
    def look() -> dict[str, Any]:
        """Look."""
        ran.append("look")
        return {"found": [], "places": {"here": 1}}

    return look


def one_that_gives_nothing(ran: list[str]) -> Any:
    def look() -> None:
        """Look."""
        ran.append("look")

    return look


KINDS: list[Callable[[list[str]], Any]] = [
    plain,
    async_plain,
    haystacks_own,
    haystacks_from_a_function,
    one_that_gives_data,
    one_that_gives_nothing,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@each_way
def test_tools_of_all_kinds_are_watched(
    make: Maker, endpoint: Endpoint, kind: Callable[[list[str]], Any], way: str
) -> None:
    ran: list[str] = []
    result = run(make, endpoint, [kind(ran)], *strictly(*[made(LOOK)] * 6, DONE), way=way)
    assert (result.text, result.stop_reason, len(ran)) == (DONE.text, "repeating", 5)


# Settings.


@pytest.mark.parametrize("times", [2, 3, 5])
def test_the_number_can_be_set(make: Maker, endpoint: Endpoint, desk: Desk, times: int) -> None:
    replies = [made(LOOK)] * times
    result = run(make, endpoint, desk.tools, *strictly(*replies, DONE), limits=Limits(repeats=times))
    assert len(notes(result)) == 1
    assert users(endpoint.requests[-2]) == []


@pytest.mark.parametrize("times", [2, 5])
def test_the_number_holds_for_cycles_too(make: Maker, endpoint: Endpoint, desk: Desk, times: int) -> None:
    replies = rounds(CIRCLE[:3], times)
    result = run(make, endpoint, desk.tools, *strictly(*replies, DONE), limits=Limits(repeats=times))
    assert len(notes(result)) == 1
    assert users(endpoint.requests[-2]) == []


@pytest.mark.parametrize("where", ["agent", "run"])
def test_it_can_be_switched_off(make: Maker, endpoint: Endpoint, desk: Desk, where: str) -> None:
    off = Limits(repeats=0)
    at = {"limits": off} if where == "run" else {}
    endpoint.script(*strictly(*[made(LOOK)] * 12, DONE))
    agent = Agent(chat_generator=make(), tools=desk.tools, limits=off if where == "agent" else None)
    with agent:
        result = agent.run("Find it.", **at)  # type: ignore[arg-type]
    assert (notes(result), result.stop_reason, len(desk.ran)) == ([], "answered", 12)


def test_the_runs_number_wins_over_the_agents(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    endpoint.script(*strictly(*[made(LOOK)] * 2, DONE))
    with Agent(chat_generator=make(), tools=desk.tools, limits=Limits(repeats=0)) as agent:
        result = agent.run("Find it.", limits=Limits(repeats=2))
    assert len(notes(result)) == 1


def test_limits_of_another_kind_leave_the_agents_number_alone(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    endpoint.script(*strictly(*[made(LOOK)] * 8, DONE))
    with Agent(chat_generator=make(), tools=desk.tools, limits=Limits(repeats=0)) as agent:
        result = agent.run("Find it.", limits=Limits(steps=20))
    assert (notes(result), result.stop_reason) == ([], "answered")


@pytest.mark.parametrize("number", [-1, 2.5, "3", True])
def test_a_number_that_cant_be_is_refused(number: Any) -> None:
    with pytest.raises(ConfigurationError, match="repeats"):
        Limits(repeats=number)


def test_the_number_is_saved_with_the_agent(make: Maker, desk: Desk) -> None:
    agent = Agent(chat_generator=make(), limits=Limits(repeats=5))
    with agent, Agent.from_dict(agent.to_dict()) as again:
        assert again.limits.repeats == 5


# Runs beside and after each other.


def test_each_run_begins_anew(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    with Agent(chat_generator=make(), tools=desk.tools) as agent:
        for _ in range(3):
            endpoint.script(*strictly(*[made(LOOK)] * 2, DONE))
            assert notes(agent.run("Find it.")) == []


def test_runs_side_by_side_dont_mix(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    def twice(request: Request) -> Item:
        calls = sum(message["role"] == "assistant" for message in request.messages)
        return made(LOOK) if calls < 2 else DONE

    async def main() -> list[RunResult]:
        async with Agent(chat_generator=make(), tools=desk.tools) as agent:
            return await asyncio.gather(*(agent.run_async("Find it.") for _ in range(5)))

    endpoint.script(Always(twice))
    results = asyncio.run(main())
    assert [(notes(result), result.stop_reason) for result in results] == [([], "answered")] * 5


def test_the_result_can_be_gone_on_with(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 6, DONE))
    endpoint.script(*strictly(made(LOOK), made(LOOK), Reply("done")))
    with Agent(chat_generator=make(), tools=desk.tools) as agent:
        again = agent.run([*result.messages, ChatMessage.from_user("Try again.")])
    assert (again.text, again.stop_reason, notes(again)) == ("done", "answered", [])


# Beside limits and hooks.


def test_the_step_limit_comes_first_where_it_is_lower(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 5, DONE), max_agent_steps=5)
    assert (result.text, result.stop_reason) == (DONE.text, "max_steps")


@pytest.mark.parametrize("most", [4, 5, 6, 7])
def test_a_limit_of_model_calls_holds_with_the_last_answer(
    make: Maker, endpoint: Endpoint, desk: Desk, most: int
) -> None:
    result = run(make, endpoint, desk.tools, stubborn(made(LOOK)), limits=Limits(model_calls=most))
    assert len(endpoint.requests) == most
    assert (result.text, result.stop_reason) == (DONE.text, "repeating" if most >= 7 else "max_model_calls")


def test_a_withheld_call_is_none_of_the_limits_tool_calls(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    replies = [*[made(LOOK)] * 4, made(LOOK), made(COUNT), DONE]
    result = run(make, endpoint, desk.tools, *strictly(*replies), limits=Limits(tool_calls=5))
    assert desk.ran == [*["look here"] * 4, "count"]
    assert result.text == DONE.text


def test_an_exit_tool_ends_the_run_before_any_note(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    result = run(make, endpoint, desk.tools, made(LOOK, LOOK, LOOK), exit_conditions=["look"])
    assert (notes(result), result.stop_reason) == ([], "tool")


@each_way
def test_hooks_see_the_ending(make: Maker, endpoint: Endpoint, desk: Desk, way: str) -> None:
    seen: list[tuple[str, Any]] = []

    def watch(point: str) -> Any:
        @hook
        def watching(state: State) -> None:
            seen.append((point, state.data.get("exit_reason")))

        return watching

    hooks = {point: [watch(point)] for point in ("on_exit", "after_run")}
    run(make, endpoint, desk.tools, *strictly(*[made(LOOK)] * 6, DONE), way=way, hooks=hooks)
    assert seen == [("on_exit", "repeating"), ("after_run", "repeating")]


def test_a_hook_may_let_a_run_go_on_that_went_in_circles(make: Maker, endpoint: Endpoint, desk: Desk) -> None:
    asked: list[bool] = []

    @hook
    def once(state: State) -> None:
        if not asked:
            asked.append(True)
            state.set("continue_run", True)

    replies = [*[made(LOOK)] * 6, DONE, made(COUNT), Reply("done")]
    result = run(make, endpoint, desk.tools, *strictly(*replies), hooks={"on_exit": [once]})
    assert (result.text, result.stop_reason) == ("done", "answered")


def test_a_hook_that_lets_it_go_on_each_time_is_held_by_the_step_limit(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    @hook
    def always(state: State) -> None:
        state.set("continue_run", True)

    result = run(
        make, endpoint, desk.tools, stubborn(made(LOOK)), hooks={"on_exit": [always]}, max_agent_steps=20
    )
    assert (result.text, result.stop_reason) == (DONE.text, "max_steps")


def test_a_hook_that_takes_calls_away_leaves_nothing_to_find(
    make: Maker, endpoint: Endpoint, desk: Desk
) -> None:
    @hook
    def drop(state: State) -> None:
        messages = list(state.data["messages"])
        messages[-1] = ChatMessage.from_assistant("Never mind.")
        state.set("messages", messages, handler_override=lambda _, new: new)

    result = run(make, endpoint, desk.tools, *[made(LOOK)] * 5, DONE, hooks={"before_tool": [drop]})
    assert (notes(result), result.stop_reason, desk.ran) == ([], "answered", [])
