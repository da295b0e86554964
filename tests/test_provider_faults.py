"""Groq's `tool_use_failed`: an error that carries what the model wrote, which may be a good call."""

import asyncio
import json
from typing import Any

import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.dataclasses import ChatMessage, StreamingChunk

from llama_agent import Agent, EndpointError, RunResult, ToolCallsRecovered, tool
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Raw, Reply, Status

Json = dict[str, Any]

SAID = "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details."


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


def error_of(failed_generation: str, **fields: object) -> Json:
    error = {"message": SAID, "type": "invalid_request_error", "code": "tool_use_failed", **fields}
    return {"error": {**error, "failed_generation": failed_generation}}


def by_status(failed_generation: str) -> Item:
    return Status(400, error_of(failed_generation))


def within_a_stream(failed_generation: str) -> Item:
    return events({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}, error_of(failed_generation))


def within_a_stream_by_name(failed_generation: str) -> Item:
    """As an event that is named `error`."""
    data = json.dumps(error_of(failed_generation, status_code=400))
    return Raw([f"event: error\ndata: {data}\n\n".encode()], "text/event-stream")


def events(*payloads: Json) -> Raw:
    return Raw([f"data: {json.dumps(payload)}\n\n".encode() for payload in payloads], "text/event-stream")


FAULTS: dict[str, tuple[Any, bool]] = {
    "status": (by_status, False),
    "status of a stream": (by_status, True),
    "within a stream": (within_a_stream, True),
    "within a stream, by name": (within_a_stream_by_name, True),
}
each_fault = pytest.mark.parametrize(("fault", "stream"), FAULTS.values(), ids=FAULTS)
each_way = pytest.mark.parametrize("way", ["sync", "async"])

CALL = {"a": 2, "b": 3}
FORMS: dict[str, str] = {
    "function tag": '<function=add>{"a": 2, "b": 3}</function>',
    "function tag without an end": '<function=add>{"a": 2, "b": 3}',
    "function tag without a bracket": '<function=add{"a": 2, "b": 3}</function>',
    "function tag with a late bracket": '<function=add{"a": 2, "b": 3}></function>',
    "python tag": '<|python_tag|>{"name": "add", "parameters": {"a": 2, "b": 3}}',
    "json": '{"name": "add", "parameters": {"a": 2, "b": 3}}',
    "json with a type": '{"type": "function", "name": "add", "parameters": {"a": 2, "b": 3}}',
    "json in OpenAI's form": (
        '{"type":"function","function":{"name":"add","arguments":"{\\"a\\": 2, \\"b\\": 3}"}}'
    ),
    "a list": '[{"name": "add", "parameters": {"a": 2, "b": 3}}]',
    "a list under its key": '{"tool_calls": [{"name": "add", "parameters": {"a": 2, "b": 3}}]}',
    "tool_call tag": '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>',
    "pythonic": "[add(a=2, b=3)]",
    "fence": '```json\n{"name": "add", "parameters": {"a": 2, "b": 3}}\n```',
    "a tag within prose": 'I will add them: <function=add>{"a": 2, "b": 3}</function>',
    "numbers as texts": '<function=add>{"a": "2", "b": "3"}</function>',
    "single quotes": "<function=add>{'a': 2, 'b': 3,}</function>",
    "a prefix": '{"name": "functions.add", "parameters": {"a": 2, "b": 3}}',
    "leaked tokens": '{"name": "add", "parameters": {"a": 2, "b": 3}}<|eot_id|>',
}  # fmt: skip

PROSE: dict[str, str] = {
    "an answer": "It is 5, I'd say.",
    "a call of no tool": '{"name": "divide", "parameters": {"a": 2, "b": 3}}',
    "a call in a sentence": 'You could call {"name": "add", "parameters": {"a": 2, "b": 3}} for that.',
    "other JSON": '{"sum": 5}',
    "code": "print(2 + 3)",
}


def ask(
    make: Maker, way: str = "sync", stream: bool = False, callback: Any = None, **settings: Any
) -> ChatMessage:
    generator = make(generation_kwargs={"stream": stream}, **settings)
    kwargs = {"tools": [add], "streaming_callback": callback}

    async def main() -> ChatMessage:
        try:
            return (await generator.run_async("What is 2 plus 3?", **kwargs))["replies"][0]
        finally:
            await generator.close_async()

    return (
        asyncio.run(main()) if way == "async" else generator.run("What is 2 plus 3?", **kwargs)["replies"][0]
    )


def run(make: Maker, way: str = "sync", stream: bool = False) -> RunResult:
    agent = Agent(chat_generator=make(generation_kwargs={"stream": stream}), tools=[add])

    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("What is 2 plus 3?")

    return asyncio.run(main()) if way == "async" else agent.run("What is 2 plus 3?")


def called(reply: ChatMessage) -> list[tuple[str, Json]]:
    return [(call.tool_name, call.arguments) for call in reply.tool_calls]


# Calls in what failed.


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
@each_fault
@each_way
def test_a_call_in_what_failed_runs(
    make: Maker, endpoint: Endpoint, text: str, fault: Any, stream: bool, way: str
) -> None:
    endpoint.script(fault(text), Reply("It is 5."))
    result = run(make, way, stream)
    assert result.text == "It is 5."
    assert [r.result for message in result.messages for r in message.tool_call_results] == ["5"]
    assert len(endpoint.requests) == 2


@each_fault
@each_way
def test_a_call_in_what_failed_is_an_ordinary_reply(
    make: Maker, endpoint: Endpoint, fault: Any, stream: bool, way: str
) -> None:
    endpoint.script(fault(FORMS["function tag"]))
    reply = ask(make, way, stream)
    assert called(reply) == [("add", CALL)]
    assert reply.tool_calls[0].id
    assert not reply.text
    assert reply.meta["finish_reason"] == "tool_calls"
    assert (reply.meta["recovered"], reply.meta["tool_call_format"]) == (True, "function_tag")


@each_fault
def test_several_calls_in_what_failed_all_run(
    make: Maker, endpoint: Endpoint, fault: Any, stream: bool
) -> None:
    two = '<function=add>{"a": 1, "b": 1}</function>\n<function=add>{"a": 2, "b": 2}</function>'
    endpoint.script(fault(two))
    reply = ask(make, stream=stream)
    assert called(reply) == [("add", {"a": 1, "b": 1}), ("add", {"a": 2, "b": 2})]
    assert len({call.id for call in reply.tool_calls}) == 2


def test_a_recovered_call_is_told_in_an_event(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(by_status(FORMS["function tag"]), Reply("It is 5."))
    (event,) = [event for event in run(make).events if isinstance(event, ToolCallsRecovered)]
    assert (event.format, event.tool_names) == ("function_tag", ("add",))


def test_prose_beside_a_call_stays_as_text(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(by_status(FORMS["a tag within prose"]))
    reply = ask(make)
    assert called(reply) == [("add", CALL)]
    assert (reply.text or "").strip() == "I will add them:"


def test_the_next_request_replays_the_call_natively(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(by_status(FORMS["function tag"]), Reply("It is 5."))
    run(make)
    _, call, answer = endpoint.requests[1].messages
    (sent,) = call["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == CALL
    assert (answer["tool_call_id"], answer["content"]) == (sent["id"], "5")
    assert "tools" in endpoint.requests[1].json


def test_a_call_whose_arguments_dont_fit_is_answered(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(by_status('<function=add>{"a": "two", "b": 3}</function>'), Reply("Sorry."))
    result = run(make)
    (outcome,) = [r for message in result.messages for r in message.tool_call_results]
    assert outcome.error
    assert "a: " in str(outcome.result)
    assert result.text == "Sorry."


@each_fault
def test_a_cut_call_is_never_run(make: Maker, endpoint: Endpoint, fault: Any, stream: bool) -> None:
    endpoint.script(fault('<function=add>{"a": 2, "b": 3'), Always(Reply("Sorry.")))
    result = run(make, stream=stream)
    assert result.text == "Sorry."
    assert all(r.error for message in result.messages for r in message.tool_call_results)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_each_step_of_a_run_may_fail_with_a_call(make: Maker, endpoint: Endpoint, count: int) -> None:
    endpoint.script(*[by_status(FORMS["function tag"])] * count, Reply("It is 5."))
    result = run(make)
    assert result.text == "It is 5."
    assert result["tool_call_counts"] == {"add": count}


# No calls in what failed.


@pytest.mark.parametrize("text", [*PROSE.values(), ""], ids=[*PROSE, "nothing"])
@each_fault
@each_way
def test_without_a_call_the_model_is_asked_once_more(
    make: Maker, endpoint: Endpoint, text: str, fault: Any, stream: bool, way: str
) -> None:
    endpoint.script(fault(text), Reply("It is 5."))
    assert ask(make, way, stream).text == "It is 5."
    first, second = endpoint.requests
    assert second.json == first.json


@each_fault
def test_a_native_call_at_the_second_try_runs(
    make: Maker, endpoint: Endpoint, fault: Any, stream: bool
) -> None:
    endpoint.script(fault("Hm."), Reply(calls=[("add", CALL)]), Reply("It is 5."))
    result = run(make, stream=stream)
    assert (result.text, result["tool_call_counts"]) == ("It is 5.", {"add": 1})


@each_fault
def test_a_call_in_what_failed_at_the_second_try_runs(
    make: Maker, endpoint: Endpoint, fault: Any, stream: bool
) -> None:
    endpoint.script(fault("Hm."), fault(FORMS["function tag"]), Reply("It is 5."))
    result = run(make, stream=stream)
    assert (result.text, result["tool_call_counts"]) == ("It is 5.", {"add": 1})


@pytest.mark.parametrize("text", PROSE.values(), ids=PROSE)
@each_fault
@each_way
def test_what_failed_twice_is_the_answer(
    make: Maker, endpoint: Endpoint, text: str, fault: Any, stream: bool, way: str
) -> None:
    endpoint.script(fault(text), fault(text))
    reply = ask(make, way, stream)
    assert (reply.text, reply.tool_calls) == (text, [])
    assert len(endpoint.requests) == 2


def test_the_answer_is_what_came_last(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(by_status("It is 4."), by_status("It is 5."))
    assert ask(make).text == "It is 5."


@pytest.mark.parametrize("text", ["", " \n"], ids=["empty", "blank"])
@each_fault
@each_way
def test_nothing_twice_is_an_error_that_says_what_the_server_said(
    make: Maker, endpoint: Endpoint, text: str, fault: Any, stream: bool, way: str
) -> None:
    endpoint.script(fault(text), fault(text))
    with pytest.raises(EndpointError, match="Failed to call a function"):
        ask(make, way, stream)
    assert len(endpoint.requests) == 2


def test_a_run_that_ends_with_what_failed_is_answered(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(by_status("It is 5."), by_status("It is 5."))
    result = run(make)
    assert (result.text, result.stop_reason) == ("It is 5.", "answered")


def test_retries_arent_used_up_by_it(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(by_status("Hm."), by_status("Hm."))
    assert ask(make, max_retries=5).text == "Hm."
    assert len(endpoint.requests) == 2


def test_a_failure_that_passes_is_waited_for_as_always(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(by_status("Hm."), Status(503, headers={"Retry-After": "0"}), Reply("It is 5."))
    assert ask(make, max_retries=1).text == "It is 5."


# What is shown while it streams.


def in_pieces(text: str, failed_generation: str) -> Raw:
    deltas = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in text]
    return events(*deltas, error_of(failed_generation))


def test_a_call_in_what_failed_isnt_shown_as_text(make: Maker, endpoint: Endpoint) -> None:
    shown: list[str] = []
    endpoint.script(within_a_stream(FORMS["function tag"]))

    def show(chunk: StreamingChunk) -> None:
        shown.append(chunk.content)

    assert called(ask(make, callback=show)) == [("add", CALL)]
    assert "".join(shown) == ""


def test_text_that_was_shown_before_it_failed_is_not_shown_twice(make: Maker, endpoint: Endpoint) -> None:
    text = "It is five, as far as I can tell."
    shown: list[str] = []

    def show(chunk: StreamingChunk) -> None:
        if superseded := (chunk.meta or {}).get("superseded"):
            kept = "".join(shown)[: -int(superseded)]
            shown[:] = [kept]
        shown.append(chunk.content)

    endpoint.script(in_pieces(text, text), in_pieces(text, text))
    reply = ask(make, callback=show)
    assert reply.text == text
    assert "".join(shown) == text


# Errors that are something else.


OTHERS: dict[str, Json] = {
    "another code": {"error": {"message": "no", "type": "invalid_request_error", "code": "bad_request"}},
    "a reply that is not the JSON asked for": error_of('{"n": ', code="json_validate_failed"),
    "no code": {"error": {"message": SAID, "type": "invalid_request_error"}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_are_errors(make: Maker, endpoint: Endpoint, name: str) -> None:
    endpoint.script(Status(400, OTHERS[name]), Always(Reply("The request was sent again.")))
    with pytest.raises(EndpointError):
        ask(make)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("value", [None, 7, ["x"], {"name": "add"}], ids=repr)
def test_what_failed_may_be_anything(make: Maker, endpoint: Endpoint, value: Any) -> None:
    endpoint.script(Status(400, error_of(value)), Reply("It is 5."))
    assert ask(make).text == "It is 5."


def test_what_failed_may_be_missing(make: Maker, endpoint: Endpoint) -> None:
    error = {"message": SAID, "type": "invalid_request_error", "code": "tool_use_failed"}
    endpoint.script(Status(400, {"error": error}), Reply("It is 5."))
    assert ask(make).text == "It is 5."


def test_without_tools_on_offer_what_failed_is_no_call(make: Maker, endpoint: Endpoint) -> None:
    text = FORMS["function tag"]
    endpoint.script(by_status(text), by_status(text))
    reply = make().run("What is 2 plus 3?")["replies"][0]
    assert (reply.text, reply.tool_calls) == (text, [])


# Beside our agent.


@each_fault
@each_way
def test_haystacks_own_agent_runs_a_call_in_what_failed(
    make: Maker, endpoint: Endpoint, fault: Any, stream: bool, way: str
) -> None:
    endpoint.script(fault(FORMS["json"]), Reply("It is 5."))
    agent = HaystackAgent(chat_generator=make(generation_kwargs={"stream": stream}), tools=[add])
    messages = [ChatMessage.from_user("What is 2 plus 3?")]

    async def main() -> Any:
        try:
            return await agent.run_async(messages=messages)
        finally:
            await agent.close_async()

    result = asyncio.run(main()) if way == "async" else agent.run(messages=messages)
    assert result["last_message"].text == "It is 5."
    assert [r.result for message in result["messages"] for r in message.tool_call_results] == ["5"]


@pytest.mark.parametrize("mode", ["auto", "native", "prompted"])
def test_it_is_recovered_in_each_mode_that_may_meet_it(make: Maker, endpoint: Endpoint, mode: str) -> None:
    endpoint.script(by_status(FORMS["json"]))
    assert called(ask(make, tool_mode=mode)) == [("add", CALL)]
