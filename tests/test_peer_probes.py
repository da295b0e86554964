"""
What other agent loops were measured with, and what comes of it here.

Each test is one probe: a server sends what servers of open-weight models do send when something goes wrong.
Of seven loops, most end with the raw text as the answer, drop the call, or raise. Here the task gets done.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llama_agent import (
    Agent,
    NoteAdded,
    RetryPolicy,
    RetryScheduled,
    RunResult,
    ToolFinished,
    ToolStarted,
    tool,
)
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Raw, Reply, Request, Status
from tests.strict_server import calls_with_results, faults, strictly

Json = dict[str, Any]
Ask = Callable[..., RunResult]

PATIENCE = 10.0
"""Seconds after which something that should have happened counts as never happening."""
MOST_EXECUTIONS = 6
"""Of one call that a model repeats for ever."""
BIG = 2_000_000


class Sums:
    """The tool `add`, which notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, object]] = []

    @tool
    def add(self, a: int, b: int) -> int:
        """Add two whole numbers."""
        self.calls.append((a, b))
        return a + b


@tool
def fail() -> str:
    """Fail."""
    raise ValueError("the disk is full")


@pytest.fixture
def sums() -> Sums:
    return Sums()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, make: Maker, endpoint: Endpoint) -> Ask:
    """Runs an agent for "2+3?" against these replies. The server refuses histories that break a rule."""

    def ask(
        *replies: Item, tools: Sequence[Any], stream: bool = False, code: int = 500, **settings: Any
    ) -> RunResult:
        endpoint.script(*strictly(*replies, code=code))
        return run(make, request.param, tools=tools, stream=stream, **settings)

    return ask


def run(make: Maker, way: str, *, tools: Sequence[Any], stream: bool = False, **settings: Any) -> RunResult:
    agent = Agent(chat_generator=make(generation_kwargs={"stream": stream}), tools=list(tools), **settings)

    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("2+3?")

    if way == "async":
        return asyncio.run(main())
    with agent:
        return agent.run("2+3?")


each_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def told(result: RunResult) -> list[tuple[str, bool]]:
    """What the model was told of its calls, and whether it was an error."""
    return [(str(r.result), r.error) for message in result.messages for r in message.tool_call_results]


def answered(result: RunResult) -> tuple[str, str]:
    return result.text, result.stop_reason


FIVE = Reply("It is 5.")
DONE = ("It is 5.", "answered")


# Calls that come as text.


@each_stream
def test_python_tag_json_is_a_call(ask: Ask, sums: Sums, stream: bool) -> None:
    text = '<|python_tag|>{"name": "add", "parameters": {"a": 2, "b": 3}}'
    result = ask(Reply(text), FIVE, tools=[sums.add], stream=stream)
    assert (sums.calls, answered(result)) == ([(2, 3)], DONE)


@each_stream
def test_a_function_object_in_the_text_is_a_call(ask: Ask, sums: Sums, stream: bool) -> None:
    text = '{"type": "function", "name": "add", "parameters": {"a": 2, "b": 3}}'
    result = ask(Reply(text), FIVE, tools=[sums.add], stream=stream)
    assert (sums.calls, answered(result)) == ([(2, 3)], DONE)


@each_stream
def test_a_pythonic_list_is_a_call(ask: Ask, sums: Sums, stream: bool) -> None:
    result = ask(Reply("[add(a=2, b=3)]"), FIVE, tools=[sums.add], stream=stream)
    assert (sums.calls, answered(result)) == ([(2, 3)], DONE)


@each_stream
def test_a_tool_call_tag_is_a_call(ask: Ask, sums: Sums, stream: bool) -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'
    result = ask(Reply(text), FIVE, tools=[sums.add], stream=stream)
    assert (sums.calls, answered(result)) == ([(2, 3)], DONE)


# Arguments.


@each_stream
def test_truncated_arguments_are_told_and_the_call_that_mends_them_runs(
    ask: Ask, sums: Sums, endpoint: Endpoint, stream: bool
) -> None:
    broken = Reply(calls=[("add", '{"a": 2, "b": 3')])
    mended = Reply(calls=[("add", {"a": 2, "b": 3})])
    result = ask(broken, mended, FIVE, tools=[sums.add], stream=stream)
    assert (sums.calls, answered(result)) == ([(2, 3)], DONE)
    refusal, is_error = told(result)[0]
    assert is_error
    assert "not valid JSON" in refusal
    assert endpoint.requests[1].messages[-1]["content"] == refusal


@each_stream
def test_a_server_that_fails_on_replayed_broken_arguments_is_not_sent_any(
    ask: Ask, sums: Sums, endpoint: Endpoint, stream: bool
) -> None:
    broken = Reply(calls=[("add", '{"a": 2, "b": 3')])
    result = ask(broken, FIVE, tools=[sums.add], stream=stream, code=500)
    assert answered(result) == DONE
    ((arguments, _),) = calls_with_results(endpoint.requests[1].messages)
    assert isinstance(arguments, dict)
    assert sums.calls == []


def test_numbers_in_quotes_reach_the_tool_as_numbers(ask: Ask, sums: Sums) -> None:
    result = ask(Reply(calls=[("add", {"a": "2", "b": "3"})]), FIVE, tools=[sums.add])
    assert [(type(a), a, b) for a, b in sums.calls] == [(int, 2, 3)]
    assert told(result) == [("5", False)]


def test_missing_and_wrong_arguments_are_told_one_by_one_in_few_words(ask: Ask, sums: Sums) -> None:
    result = ask(Reply(calls=[("add", {"a": "two"})]), FIVE, tools=[sums.add])
    ((refusal, is_error),) = told(result)
    assert is_error
    assert "'two'" in refusal or '"two"' in refusal
    assert any("b" in line and "missing" in line for line in refusal.splitlines())
    assert len(refusal) < 500
    assert "pydantic" not in refusal
    assert "https://" not in refusal
    assert sums.calls == []


def test_an_unknown_tool_is_answered_with_the_names_and_the_nearest(ask: Ask, sums: Sums) -> None:
    wrong = Reply(calls=[("ad", {"a": 2, "b": 3})])
    right = Reply(calls=[("add", {"a": 2, "b": 3})])
    result = ask(wrong, right, FIVE, tools=[sums.add, fail])
    refusal, is_error = told(result)[0]
    assert is_error
    assert "Did you mean 'add'?" in refusal
    assert "fail" in refusal
    assert (sums.calls, answered(result)) == ([(2, 3)], DONE)


# Loops.


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_identical_call_repeated_for_ever_ends_after_six_with_an_answer(
    make: Maker, endpoint: Endpoint, sums: Sums, way: str
) -> None:
    def stuck(request: Request) -> Item:
        assert list(faults(request.messages)) == []
        return Reply(calls=[("add", {"a": 2, "b": 3})]) if "tools" in request.json else FIVE

    endpoint.script(Always(stuck))
    # Another tool is on offer too: when `add` is withheld for a turn, there still are some.
    result = run(make, way, tools=[sums.add, fail])
    assert answered(result) == ("It is 5.", "repeating")
    assert 3 <= len(sums.calls) <= MOST_EXECUTIONS
    assert len(endpoint.requests) <= 2 * MOST_EXECUTIONS
    assert "tools" not in endpoint.requests[-1].json
    assert any(isinstance(event, NoteAdded) for event in result.events)


# Results.


def test_a_tool_that_raises_is_told_and_the_run_goes_on(ask: Ask) -> None:
    result = ask(Reply(calls=[("fail", {})]), Reply("It failed."), tools=[fail])
    ((said, is_error),) = told(result)
    assert is_error
    assert "the disk is full" in said
    assert "Traceback" not in said
    assert answered(result) == ("It failed.", "answered")


def test_a_result_of_two_megabytes_stays_whole_where_the_tool_lets_it(ask: Ask, endpoint: Endpoint) -> None:
    @tool(max_result_chars=BIG)
    def read() -> str:
        """Read the file."""
        return "x" * BIG

    ask(Reply(calls=[("read", {})]), FIVE, tools=[read])
    assert endpoint.requests[1].messages[-1]["content"] == "x" * BIG


def test_a_result_of_two_megabytes_can_be_read_in_parts_where_nobody_bounds_it(ask: Ask) -> None:
    lines = [f"{number:099}\n" for number in range(BIG // 100)]

    @tool
    def read() -> str:
        """Read the file."""
        return "".join(lines)

    middle = {"id": "result_1", "offset": len(lines) // 2, "lines": 2}
    result = ask(Reply(calls=[("read", {})]), Reply(calls=[("read_result", middle)]), FIVE, tools=[read])
    (cut, _), (part, _) = told(result)
    assert cut.startswith(lines[0])
    assert cut.endswith(lines[-1])
    assert len(cut) < 10_000
    assert part.splitlines(keepends=True)[1:] == lines[10_000:10_002]
    assert answered(result) == DONE


def test_a_result_of_two_megabytes_is_bounded_where_the_tool_says_so(ask: Ask, endpoint: Endpoint) -> None:
    @tool(max_result_chars=1000)
    def read() -> str:
        """Read the file."""
        return "x" * BIG

    result = ask(Reply(calls=[("read", {})]), FIVE, tools=[read])
    sent = endpoint.requests[1].messages[-1]["content"]
    assert "x" * 500 in sent
    assert sent.count("x") < 1100
    assert len(sent) < 1500
    digits = sent.replace(",", "").replace("_", "").replace(" ", "")
    assert any(number in digits for number in (str(BIG), str(BIG - sent.count("x")), str(BIG - 1000)))
    assert answered(result) == DONE


# Side by side.


def test_three_tools_of_one_reply_run_together(ask: Ask) -> None:
    barrier = threading.Barrier(3)

    @tool
    def wait(number: int) -> int:
        """Wait for the others."""
        barrier.wait(PATIENCE)
        return number

    result = ask(Reply(calls=[("wait", {"number": n}) for n in range(3)]), FIVE, tools=[wait])
    assert told(result) == [("0", False), ("1", False), ("2", False)]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_calls_that_a_stream_brings_one_after_the_other_both_run_in_order(
    make: Maker, endpoint: Endpoint, sums: Sums, way: str
) -> None:
    endpoint.script(slow_stream(("add", {"a": 2, "b": 3}), ("add", {"a": 4, "b": 5})), FIVE)
    # One at a time, so that the order of what the tool noted is that of the calls.
    result = run(make, way, tools=[sums.add], stream=True, tool_concurrency_limit=1)
    assert (sums.calls, answered(result)) == ([(2, 3), (4, 5)], DONE)
    assert told(result) == [("5", False), ("9", False)]


def slow_stream(*calls: tuple[str, Json]) -> Raw:
    """A stream whose calls come some time after one another."""
    deltas = [
        {
            "tool_calls": [
                {
                    "index": index,
                    "id": f"call_{index}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
            ]
        }
        for index, (name, arguments) in enumerate(calls)
    ]
    chunks = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    last = {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
    events = [b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n" for choice in [*chunks, last]]
    return Raw([*events, b"data: [DONE]\n\n"], "text/event-stream", pause=0.3)


# Ids.


@each_stream
@pytest.mark.parametrize("ids", [["", ""], ["same", "same"]], ids=["empty", "twice-the-same"])
def test_calls_with_an_empty_or_repeated_id_both_run_and_get_ids_of_their_own(
    ask: Ask, sums: Sums, endpoint: Endpoint, stream: bool, ids: list[str]
) -> None:
    both = Reply(calls=[("add", {"a": 2, "b": 3}), ("add", {"a": 4, "b": 5})], ids=ids)
    result = ask(both, FIVE, tools=[sums.add], stream=stream)
    assert sorted(sums.calls) == [(2, 3), (4, 5)]
    assert answered(result) == DONE
    pairs = calls_with_results(endpoint.requests[1].messages)
    assert pairs == [({"a": 2, "b": 3}, "5"), ({"a": 4, "b": 5}, "9")]


# Reasons to end.


@each_stream
def test_a_reply_that_says_stop_and_has_calls_is_not_the_last(ask: Ask, sums: Sums, stream: bool) -> None:
    calling = Reply(calls=[("add", {"a": 2, "b": 3})], finish_reason="stop")
    result = ask(calling, FIVE, tools=[sums.add], stream=stream)
    assert (sums.calls, answered(result)) == ([(2, 3)], DONE)


@each_stream
def test_after_an_empty_reply_the_model_is_asked_again_with_a_note(
    ask: Ask, sums: Sums, endpoint: Endpoint, stream: bool
) -> None:
    result = ask(Reply(""), FIVE, tools=[sums.add], stream=stream)
    assert answered(result) == DONE
    assert any(isinstance(event, NoteAdded) for event in result.events)
    assert endpoint.requests[1].messages[-1]["role"] == "user"


@each_stream
def test_empty_replies_for_ever_end_the_run_as_what_they_are(
    ask: Ask, sums: Sums, endpoint: Endpoint, stream: bool
) -> None:
    result = ask(Reply(""), Reply(""), Reply(""), tools=[sums.add], stream=stream)
    assert answered(result) == ("", "no_answer")
    assert len(endpoint.requests) == 3


@each_stream
def test_of_a_reply_cut_within_its_calls_the_complete_one_runs_and_the_cut_one_is_told(
    ask: Ask, sums: Sums, stream: bool
) -> None:
    calls = [("add", {"a": 2, "b": 3}), ("add", '{"a": 4, "b"')]
    result = ask(Reply(calls=calls, finish_reason="length"), FIVE, tools=[sums.add], stream=stream)
    assert (sums.calls, answered(result)) == ([(2, 3)], DONE)
    (good, cut) = told(result)
    assert good == ("5", False)
    assert cut[1]
    started = [event for event in result.events if isinstance(event, ToolStarted)]
    finished = [event for event in result.events if isinstance(event, ToolFinished)]
    assert (len(started), len(finished)) == (1, 2)


# Waiting.


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_429_is_waited_for_as_long_as_it_says(
    make: Maker, endpoint: Endpoint, sums: Sums, way: str
) -> None:
    times: list[float] = []

    def noted(item: Item) -> Callable[[Request], Item]:
        def answer(_: Request) -> Item:
            times.append(time.monotonic())
            return item

        return answer

    endpoint.script(noted(Status(429, headers={"Retry-After": "1"})), noted(FIVE))
    retry = RetryPolicy(max_retries=1, initial_wait=0.01)
    result = run(make, way, tools=[sums.add], retry=retry)
    assert answered(result) == DONE
    assert times[1] - times[0] >= 1.0
    (waited,) = (event for event in result.events if isinstance(event, RetryScheduled))
    assert waited.wait >= 1.0
