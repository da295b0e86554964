"""Replies that are no answer have a course of their own, and never become a silent empty answer."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from haystack.components.agents.state.state import State
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.hooks import hook

from llama_agent import (
    Agent,
    Limits,
    MetaLlamaChatGenerator,
    NoteAdded,
    RunFinished,
    RunResult,
    TextDelta,
    TextSuperseded,
    tool,
)
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Raw, Reply, Request, Status
from tests.endpoint.dresses import Thinking, worn
from tests.strict_server import strictly

Json = dict[str, Any]

HIGHER = 4096
"""The least that a reply may have after one was cut."""
PATIENCE = 10.0


@tool
def add(a: int, b: int) -> int:
    """
    Add two whole numbers.

    Args:
        a: One.
        b: Another.

    """
    return a + b


ADD = Reply(calls=[("add", {"a": 2, "b": 3})])
DONE = Reply("It is 5.")
EMPTY: dict[str, Reply] = {
    "nothing": Reply(None),
    "an empty text": Reply(""),
    "blanks": Reply(" \n\t "),
    "only reasoning": Reply(None, reasoning="The user wants to know."),
    "reasoning and an empty text": Reply("", reasoning="The user wants to know."),
    "reasoning and blanks": Reply("\n\n", reasoning="The user wants to know."),
    "reasoning by its other name": Reply(None, extra={"reasoning": "The user wants to know."}),
    "tool calls announced": Reply("", finish_reason="tool_calls"),
    "an empty list of calls": Reply("", extra={"tool_calls": []}),
    "an empty refusal": Reply("", extra={"refusal": ""}),
    "a null refusal": Reply("", extra={"refusal": None}),
}


def run(
    make: Maker,
    endpoint: Endpoint,
    *replies: Any,
    way: str = "sync",
    stream: bool = False,
    tools: Any = (add,),
    kwargs: Json | None = None,
    generator: Json | None = None,
    limits: Limits | None = None,
    **settings: Any,
) -> RunResult:
    endpoint.script(*replies)
    model = make(generation_kwargs={"stream": stream, **(kwargs or {})}, **(generator or {}))
    agent = Agent(chat_generator=model, tools=list(tools), **settings)

    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("2+3?", limits=limits)

    if way == "async":
        return asyncio.run(main())
    with agent:
        return agent.run("2+3?", limits=limits)


def notes(result: RunResult) -> list[str]:
    return [event.text for event in result.events if isinstance(event, NoteAdded)]


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def roles(request: Request) -> list[str]:
    return [message["role"] for message in request.messages]


each_way = pytest.mark.parametrize("way", ["sync", "async"])
each_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
each_empty = pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)


# Nothing to read.


@each_empty
@each_way
@each_stream
def test_a_reply_without_words_is_asked_for_again_with_a_note(
    make: Maker, endpoint: Endpoint, empty: Reply, way: str, stream: bool
) -> None:
    result = run(make, endpoint, *strictly(empty, DONE), way=way, stream=stream)
    assert (result.text, result.stop_reason) == ("It is 5.", "answered")
    (note,) = notes(result)
    assert endpoint.requests[-1].messages[-1] == {"role": "user", "content": note}
    assert "tools" in endpoint.requests[-1].json


@each_empty
@each_way
@each_stream
def test_a_model_that_goes_on_saying_nothing_ends_the_run(
    make: Maker, endpoint: Endpoint, empty: Reply, way: str, stream: bool
) -> None:
    result = run(make, endpoint, *strictly(empty, empty, empty), way=way, stream=stream)
    assert (result.stop_reason, result["exit_reason"]) == ("no_answer", "no_answer")
    assert len(notes(result)) == 2
    assert len(endpoint.requests) == 3
    assert not result.text.strip()


@each_way
def test_it_is_asked_again_twice(make: Maker, endpoint: Endpoint, way: str) -> None:
    result = run(make, endpoint, *strictly(Reply(""), Reply(None), DONE), way=way)
    assert (result.text, result.stop_reason, len(notes(result))) == ("It is 5.", "answered", 2)


def test_a_model_that_only_thought_is_told_so(make: Maker, endpoint: Endpoint) -> None:
    empty, thought = Reply(""), Reply("", reasoning="Hmm.")
    first, second = notes(run(make, endpoint, *strictly(empty, thought, DONE)))
    assert "empty" in first.lower()
    assert "thought" in second.lower()


def test_thoughts_between_tags_are_no_answer(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(Reply("<think>The user wants to know.</think>"), DONE))
    assert (result.text, len(notes(result))) == ("It is 5.", 1)


def test_a_call_begins_the_count_anew(make: Maker, endpoint: Endpoint) -> None:
    nothing = Reply("")
    result = run(make, endpoint, *strictly(nothing, nothing, ADD, nothing, nothing, DONE))
    assert (result.text, result.stop_reason, len(notes(result))) == ("It is 5.", "answered", 4)


def test_what_was_found_before_is_kept(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(ADD, *[Reply("")] * 3))
    assert (told(result), result.stop_reason) == (["5"], "no_answer")


def test_a_call_with_no_words_is_no_empty_reply(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(Reply("", calls=ADD.calls), DONE))
    assert (notes(result), result.text) == ([], "It is 5.")


def test_an_agent_without_tools_asks_again_too(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(Reply(""), DONE), tools=())
    assert (result.text, result.stop_reason, len(notes(result))) == ("It is 5.", "answered", 1)


def test_a_prompted_model_is_asked_again_too(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, Reply(""), DONE, generator={"tool_mode": "prompted"})
    assert (result.text, len(notes(result))) == ("It is 5.", 1)


def test_all_model_calls_are_counted(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(Reply(""), Reply(""), DONE))
    assert (result.usage.model_calls, result.usage.input_tokens) == (3, 30)


def test_the_step_limit_holds_and_asks_for_the_last_answer(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(Reply(""), DONE), max_agent_steps=1)
    assert (result.text, result.stop_reason) == ("It is 5.", "max_steps")
    assert "tools" not in endpoint.requests[-1].json


def test_a_limit_of_model_calls_holds(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(Reply(""), DONE), limits=Limits(model_calls=2))
    assert (result.text, result.stop_reason) == ("It is 5.", "max_model_calls")


def test_the_events_say_why_the_run_ended(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(*[Reply("")] * 3))
    (event,) = [event for event in result.events if isinstance(event, RunFinished)]
    assert event.stop_reason == "no_answer"


def test_a_run_without_an_answer_can_be_gone_on_with(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(*[Reply("")] * 3))
    endpoint.script(*strictly(DONE))
    with Agent(chat_generator=make(), tools=[add]) as agent:
        again = agent.run([*result.messages, ChatMessage.from_user("Well?")])
    assert (again.text, again.stop_reason) == ("It is 5.", "answered")


def test_each_run_has_notes_of_its_own(make: Maker, endpoint: Endpoint) -> None:
    with Agent(chat_generator=make(), tools=[add]) as agent:
        for _ in range(2):
            endpoint.script(*strictly(Reply(""), Reply(""), DONE))
            assert agent.run("2+3?").stop_reason == "answered"


ENDINGS: dict[str, tuple[list[Reply], str, str]] = {
    "no answer": ([Reply("")] * 3, "no_answer", "no_answer"),
    "refused": ([Reply(None, extra={"refusal": "No."})], "text", "refused"),
    "filtered": ([Reply("Well", finish_reason="content_filter")], "content_filter", "content_filter"),
    "cut": ([Reply("Well", finish_reason="length")] * 2, "length", "length"),
}
each_ending = pytest.mark.parametrize(("replies", "theirs", "ours"), ENDINGS.values(), ids=ENDINGS)


@each_ending
@each_way
def test_hooks_see_the_ending(
    make: Maker, endpoint: Endpoint, replies: list[Reply], theirs: str, ours: str, way: str
) -> None:
    seen: list[Any] = []

    @hook
    def watch(state: State) -> None:
        seen.append(state.data.get("exit_reason"))

    hooks = {"on_exit": [watch], "after_run": [watch]}
    result = run(make, endpoint, *strictly(*replies), way=way, hooks=hooks)
    assert seen == [theirs, theirs]
    assert (result["exit_reason"], result.stop_reason) == (theirs, ours)


@each_ending
def test_a_hook_may_let_the_run_go_on(
    make: Maker, endpoint: Endpoint, replies: list[Reply], theirs: str, ours: str
) -> None:
    asked: list[str] = []

    @hook
    def once(state: State) -> None:
        if not asked:
            asked.append(theirs)
            state.set("continue_run", True)

    result = run(make, endpoint, *strictly(*replies, DONE), hooks={"on_exit": [once]})
    assert (result.text, result.stop_reason, result["exit_reason"]) == ("It is 5.", "answered", "text")


# Refusals and filters.


@each_way
@each_stream
@pytest.mark.parametrize("content", [None, "", "\n"], ids=["null", "empty", "blank"])
def test_a_refusal_is_the_last_word(
    make: Maker, endpoint: Endpoint, content: str | None, way: str, stream: bool
) -> None:
    refused = Reply(content, extra={"refusal": "I can't help with that."})
    result = run(make, endpoint, *strictly(refused), way=way, stream=stream)
    assert (result.stop_reason, result["exit_reason"]) == ("refused", "text")
    assert result.text == "I can't help with that."
    assert notes(result) == []


def test_a_refusal_after_a_tool_keeps_the_results(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(ADD, Reply(None, extra={"refusal": "No."})))
    assert (told(result), result.text, result.stop_reason) == (["5"], "No.", "refused")


def test_a_refused_run_can_be_gone_on_with(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(Reply(None, extra={"refusal": "No."})))
    endpoint.script(*strictly(DONE))
    with Agent(chat_generator=make(), tools=[add]) as agent:
        again = agent.run([*result.messages, ChatMessage.from_user("Please.")])
    assert again.text == "It is 5."
    assert any("No." in str(message.get("content")) for message in endpoint.requests[-1].messages)


def test_a_no_in_words_is_an_answer(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(Reply("I can't help with that.")))
    assert result.stop_reason == "answered"


@each_way
@each_stream
@pytest.mark.parametrize("text", ["The way to", "", None], ids=["some text", "an empty text", "nothing"])
def test_a_filter_ends_the_run(
    make: Maker, endpoint: Endpoint, text: str | None, way: str, stream: bool
) -> None:
    filtered = Reply(text, finish_reason="content_filter")
    result = run(make, endpoint, *strictly(filtered), way=way, stream=stream)
    assert (result.stop_reason, result["exit_reason"]) == ("content_filter", "content_filter")
    assert result.text == (text or "")
    assert notes(result) == []


def test_a_filter_after_a_tool_keeps_the_results(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(ADD, Reply("", finish_reason="content_filter")))
    assert (told(result), result.stop_reason) == (["5"], "content_filter")


def test_a_call_that_the_filter_cut_is_never_run(make: Maker, endpoint: Endpoint) -> None:
    ran: list[str] = []

    @tool
    def wipe(name: str = "everything") -> str:
        """
        Wipe.

        Args:
            name: What.

        """
        ran.append(name)
        return "wiped"

    cut = Reply(calls=[("wipe", '{"name": "tm')], finish_reason="content_filter")
    endpoint.script(Always(lambda request: DONE if len(endpoint.requests) > 1 else cut))
    with Agent(chat_generator=make(), tools=[wipe]) as agent:
        agent.run("Wipe tmp.")
    assert ran == []


# A text that was cut.

CUT = Reply("It is the num", finish_reason="length", usage=(10, 7))


@each_way
@each_stream
def test_a_text_that_was_cut_is_asked_for_once_more(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    result = run(make, endpoint, *strictly(CUT, DONE), way=way, stream=stream)
    assert (result.text, result.stop_reason) == ("It is 5.", "answered")
    assert len(endpoint.requests) == 2
    assert endpoint.requests[1].json["max_tokens"] == HIGHER
    assert "max_tokens" not in endpoint.requests[0].json
    assert "tools" in endpoint.requests[1].json


@each_stream
def test_the_cut_text_is_no_part_of_the_history(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    result = run(make, endpoint, *strictly(CUT, ADD, DONE), stream=stream)
    assert endpoint.requests[0].messages == endpoint.requests[1].messages
    assert roles(endpoint.requests[2]) == ["user", "assistant", "tool"]
    assert not any("It is the num" in (message.text or "") for message in result.messages)
    assert notes(result) == []


@each_way
def test_a_stream_says_what_no_longer_counts(make: Maker, endpoint: Endpoint, way: str) -> None:
    shown: list[str] = []

    def take(text: str, superseded: int | None) -> None:
        if superseded is not None:
            whole = "".join(shown)
            assert superseded == len(whole)
            shown[:] = [whole[: len(whole) - superseded]]
        shown.append(text)

    def show(chunk: StreamingChunk) -> None:
        take(chunk.content, chunk.meta.get("superseded"))

    async def show_async(chunk: StreamingChunk) -> None:
        show(chunk)

    callback = show if way == "sync" else show_async
    result = run(make, endpoint, *strictly(CUT, DONE), way=way, streaming_callback=callback)
    assert "".join(shown) == result.text == "It is 5."


def test_only_the_cut_text_is_taken_back(make: Maker, endpoint: Endpoint) -> None:
    shown: list[str] = []

    def show(chunk: StreamingChunk) -> None:
        if (superseded := chunk.meta.get("superseded")) is not None:
            whole = "".join(shown)
            shown[:] = [whole[: len(whole) - superseded]]
        shown.append(chunk.content)

    first = Reply("I'll add them. ", calls=ADD.calls)
    run(make, endpoint, *strictly(first, CUT, DONE), streaming_callback=show)
    assert "".join(shown).endswith("It is 5.")
    assert "It is the num" not in "".join(shown)
    assert "".join(shown).startswith("I'll add them. ")


@each_way
@each_stream
def test_the_events_say_what_no_longer_counts(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    seen: list[Any] = []
    endpoint.script(*strictly(CUT, DONE))
    agent = Agent(chat_generator=make(generation_kwargs={"stream": stream}), tools=[add])

    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("2+3?", on_event=seen.append)

    if way == "async":
        asyncio.run(main())
    else:
        with agent:
            agent.run("2+3?", on_event=seen.append)
    text = ""
    (superseded,) = [event for event in seen if isinstance(event, TextSuperseded)]
    assert superseded.characters == len("It is the num")
    for event in seen:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, TextSuperseded):
            text = text[: len(text) - event.characters]
    assert text in ("It is 5.", "" if not stream else "It is 5.")


def test_both_calls_are_counted(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(CUT, DONE))
    assert (result.usage.model_calls, result.usage.input_tokens) == (2, 20)
    assert result.usage.output_tokens == 12
    assert result["step_count"] == 1


@each_way
@each_stream
def test_a_text_that_is_cut_again_stands(make: Maker, endpoint: Endpoint, way: str, stream: bool) -> None:
    longer = Reply("It is the number that", finish_reason="length")
    result = run(make, endpoint, *strictly(CUT, longer), way=way, stream=stream)
    assert (result.text, result.stop_reason) == ("It is the number that", "length")
    assert result["exit_reason"] == "length"
    assert [m.text for m in result.messages if m.role.value == "assistant"] == ["It is the number that"]


def test_it_is_done_once_per_run(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(CUT, ADD, CUT))
    assert (result.text, result.stop_reason, len(endpoint.requests)) == ("It is the num", "length", 3)


def test_each_run_may_do_it(make: Maker, endpoint: Endpoint) -> None:
    with Agent(chat_generator=make(), tools=[add]) as agent:
        for _ in range(2):
            endpoint.script(*strictly(CUT, DONE))
            assert agent.run("2+3?").stop_reason == "answered"
    assert "max_tokens" not in endpoint.requests[2].json


USUAL: dict[str, tuple[Json, Json]] = {
    "low": ({"max_tokens": 100}, {"max_tokens": HIGHER}),
    "at a quarter": ({"max_tokens": 1024}, {"max_tokens": HIGHER}),
    "high": ({"max_tokens": 2000}, {"max_tokens": 8000}),
    "the newer name": ({"max_completion_tokens": 2000}, {"max_completion_tokens": 8000}),
    "the newer name, low": ({"max_completion_tokens": 10}, {"max_completion_tokens": HIGHER}),
}


@pytest.mark.parametrize(("usual", "raised"), USUAL.values(), ids=USUAL)
def test_the_limit_is_four_times_the_usual_one(
    make: Maker, endpoint: Endpoint, usual: Json, raised: Json
) -> None:
    run(make, endpoint, *strictly(CUT, DONE), kwargs=usual)
    sent = [
        {name: value for name, value in request.json.items() if name.startswith("max_")}
        for request in endpoint.requests
    ]
    assert sent == [usual, raised]


def test_a_limit_given_for_the_run_is_the_usual_one(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(*strictly(CUT, DONE))
    with Agent(chat_generator=make(generation_kwargs={"max_tokens": 100}), tools=[add]) as agent:
        agent.run("2+3?", generation_kwargs={"max_tokens": 3000, "temperature": 0.5})
    assert [request.json["max_tokens"] for request in endpoint.requests] == [3000, 12_000]
    assert endpoint.requests[1].json["temperature"] == 0.5


def test_an_output_limit_of_the_run_holds_all_the_same(make: Maker, endpoint: Endpoint) -> None:
    most = 2000
    run(make, endpoint, Always(CUT), limits=Limits(output_tokens=most))
    assert all(request.json["max_tokens"] <= most for request in endpoint.requests)


def test_a_model_that_thought_too_long_gets_more_room(make: Maker, endpoint: Endpoint) -> None:
    thinking = Reply("", reasoning="Hmm. Hmm.", finish_reason="length")
    result = run(make, endpoint, *strictly(thinking, DONE), kwargs={"max_tokens": 200})
    assert endpoint.requests[1].json["max_tokens"] == HIGHER
    assert (result.text, result.stop_reason) == ("It is 5.", "answered")
    assert not [event for event in result.events if isinstance(event, TextSuperseded)]


@each_way
def test_a_thinking_model_with_little_room_comes_to_an_answer(way: str) -> None:
    def generator(url: str) -> MetaLlamaChatGenerator:
        return MetaLlamaChatGenerator(
            api_base_url=url, model="llama", max_retries=0, generation_kwargs={"max_tokens": 100}
        )

    with worn(Thinking()) as endpoint:
        agent = Agent(chat_generator=generator(endpoint.url))

        async def main() -> RunResult:
            async with agent:
                return await agent.run_async("Say hello.")

        if way == "async":
            result = asyncio.run(main())
        else:
            with agent:
                result = agent.run("Say hello.")
    assert result.stop_reason == "answered"
    assert result.text


def test_thoughts_that_never_end_are_no_silent_answer(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("", reasoning="Hmm. Hmm.", finish_reason="length")))
    with Agent(chat_generator=make(), tools=[add]) as agent:
        result = agent.run("2+3?")
    assert result.stop_reason in ("no_answer", "length")
    assert len(endpoint.requests) <= 4


def test_a_cut_text_stands_when_there_is_no_more_to_be_had(make: Maker, endpoint: Endpoint) -> None:
    """A model whose window is small refuses the higher limit."""
    too_large = {"error": {"message": "max_tokens is too large: 4096", "type": "invalid_request_error"}}
    result = run(make, endpoint, CUT, Status(400, too_large))
    assert (result.text, result.stop_reason) == ("It is the num", "length")


def test_a_cut_text_isnt_lost_when_asking_again_fails(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(CUT, Status(500))
    with Agent(chat_generator=make(), tools=[add]) as agent:
        try:
            result = agent.run("2+3?")
        except Exception as error:
            result = error.result  # type: ignore[attr-defined]
    assert result.text == "It is the num"


def test_a_cut_text_isnt_lost_when_silence_follows(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(CUT, Always(Reply("")))
    with Agent(chat_generator=make(), tools=[add]) as agent:
        result = agent.run("2+3?")
    assert result.stop_reason in ("length", "no_answer")
    assert result.text == "It is the num"


def test_a_cut_text_as_the_last_answer_isnt_asked_for_again(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(ADD, CUT), max_agent_steps=1)
    assert (result.text, result.stop_reason) == ("It is the num", "max_steps")


def test_a_limit_of_model_calls_holds_for_a_cut_text(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, Always(CUT), limits=Limits(model_calls=2))
    assert len(endpoint.requests) <= 2
    assert result.text == "It is the num"
    assert result.stop_reason in ("length", "max_model_calls")


# Calls that were cut.

SPLIT = Reply(calls=[("add", {"a": 2, "b": 3}), ("add", '{"a": 4, "b":')], finish_reason="length")
SPLIT_TEXT = Reply(
    '<function=add>{"a": 2, "b": 3}</function><function=add>{"a": 4, "b":', finish_reason="length"
)


@each_way
@each_stream
def test_complete_calls_run_and_the_cut_one_doesnt(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    result = run(make, endpoint, *strictly(SPLIT, DONE), way=way, stream=stream)
    first, second = [r for message in result.messages for r in message.tool_call_results]
    assert (first.result, first.error) == ("5", False)
    assert second.error
    assert "cut off" in str(second.result)
    assert (result.text, result.stop_reason) == ("It is 5.", "answered")


@each_stream
def test_the_limit_is_raised_from_then_on(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    run(make, endpoint, *strictly(SPLIT, ADD, DONE), stream=stream, kwargs={"max_tokens": 1500})
    assert [request.json["max_tokens"] for request in endpoint.requests] == [1500, 6000, 6000]


def test_it_is_raised_once(make: Maker, endpoint: Endpoint) -> None:
    run(make, endpoint, *strictly(SPLIT, SPLIT, DONE), kwargs={"max_tokens": 1500})
    assert [request.json["max_tokens"] for request in endpoint.requests] == [1500, 6000, 6000]


def test_a_text_that_is_cut_after_a_call_was_stands(make: Maker, endpoint: Endpoint) -> None:
    result = run(make, endpoint, *strictly(SPLIT, CUT))
    assert (result.text, result.stop_reason, len(endpoint.requests)) == ("It is the num", "length", 2)


def test_words_before_a_cut_call_arent_taken_back(make: Maker, endpoint: Endpoint) -> None:
    cut = Reply("I'll add them.", calls=[("add", '{"a": 4, "b":')], finish_reason="length")
    result = run(make, endpoint, *strictly(cut, ADD, DONE))
    assert not [event for event in result.events if isinstance(event, TextSuperseded)]
    assert "I'll add them." in [message.text for message in result.messages]
    assert "cut off" in told(result)[0]
    assert told(result)[1] == "5"


def test_complete_calls_of_a_cut_reply_all_run(make: Maker, endpoint: Endpoint) -> None:
    calls = [("add", {"a": 2, "b": 3}), ("add", {"a": 1, "b": 1})]
    result = run(make, endpoint, *strictly(Reply(calls=calls, finish_reason="length"), DONE))
    assert told(result) == ["5", "2"]


CUT_ARGUMENTS = ["", "{", '{"a"', '{"a": 4', '{"a": 4,', '{"a": 4, "b": 5']


@pytest.mark.parametrize("raw", CUT_ARGUMENTS)
@each_stream
def test_a_call_is_cut_wherever_it_is_cut(make: Maker, endpoint: Endpoint, raw: str, stream: bool) -> None:
    cut = Reply(calls=[("add", raw)], finish_reason="length")
    result = run(make, endpoint, *strictly(cut, DONE), stream=stream)
    (text,) = told(result)
    assert "cut off" in text
    assert "max_tokens" in endpoint.requests[1].json


@each_stream
@pytest.mark.parametrize("mode", ["native", "prompted"])
def test_calls_as_text_that_were_cut_go_the_same_way(
    make: Maker, endpoint: Endpoint, mode: str, stream: bool
) -> None:
    result = run(make, endpoint, SPLIT_TEXT, DONE, generator={"tool_mode": mode}, stream=stream)
    assert told(result)[0] == "5"
    assert len(told(result)) <= 2
    assert all("cut" in text for text in told(result)[1:])
    assert endpoint.requests[1].json["max_tokens"] == HIGHER
    assert result.text == "It is 5."


def test_cut_calls_without_end_end_the_run(make: Maker, endpoint: Endpoint) -> None:
    cut = Reply(calls=[("add", '{"a": 4, "b":')], finish_reason="length")
    endpoint.script(Always(lambda request: cut if "tools" in request.json else DONE))
    with Agent(chat_generator=make(), tools=[add]) as agent:
        result = agent.run("2+3?")
    assert (result.text, result.stop_reason) == ("It is 5.", "mistakes")


# Never a silent empty answer.


ODD: list[Callable[[], Reply]] = [
    lambda: Reply(""),
    lambda: Reply(None, reasoning="Hmm."),
    lambda: Reply(" "),
    lambda: Reply("", finish_reason="length"),
    lambda: Reply("", finish_reason="content_filter"),
    lambda: Reply("", finish_reason="tool_calls"),
    lambda: Reply(calls=[("add", "")], finish_reason="length"),
    lambda: Reply(calls=[("", {})]),
    lambda: Reply(calls=[("add", {"a": 2, "b": 3})], finish_reason="content_filter"),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@each_way
@each_stream
def test_a_run_of_odd_replies_ends_and_says_why(
    make: Maker, endpoint: Endpoint, odd: Callable[[], Reply], way: str, stream: bool
) -> None:
    result = run(make, endpoint, Always(odd()), way=way, stream=stream, max_agent_steps=12)
    assert result.text.strip() or result.stop_reason not in ("answered", "tool")
    assert len(endpoint.requests) <= 13


def test_a_body_without_choices_is_no_silent_answer(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Raw(b'{"id": "x", "object": "chat.completion", "model": "m", "choices": []}')))
    with Agent(chat_generator=make(), tools=[add]) as agent:
        try:
            reason = agent.run("2+3?").stop_reason
        except Exception as error:
            reason = error.result.stop_reason  # type: ignore[attr-defined]
    assert reason in ("no_answer", "failed")
