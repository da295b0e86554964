"""`llama_agent.testing`: a generator for users' own tests says its script, and fails on all beyond it."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCall

from llama_agent import Agent, EndpointError, RunResult, ToolFailedError, tool
from llama_agent.testing import ScriptedGenerator

QUESTION = [ChatMessage.from_user("2+3?")]
ADD = ToolCall("add", {"a": 2, "b": 3})
Ask = Callable[..., ChatMessage]


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a generator, and gives its one reply."""

    def ask(generator: ScriptedGenerator, **given: Any) -> ChatMessage:
        given = {"messages": QUESTION, **given}
        output = (
            generator.run(**given) if request.param == "sync" else asyncio.run(generator.run_async(**given))
        )
        (reply,) = output["replies"]
        return reply

    return ask


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[..., RunResult]:
    """Runs an agent of ours with a scripted generator."""

    def run(generator: ScriptedGenerator, *tools: Any, task: str = "2+3?", **settings: Any) -> RunResult:
        agent = Agent(chat_generator=generator, tools=list(tools), **settings)

        async def main() -> RunResult:
            async with agent:
                return await agent.run_async(task)

        if request.param == "async":
            return asyncio.run(main())
        with agent:
            return agent.run(task)

    return run


# What a reply may be.


def test_a_text_is_a_text(ask: Ask) -> None:
    with ScriptedGenerator("It is 5.") as generator:
        reply = ask(generator)
    assert (reply.role.value, reply.text, reply.tool_calls) == ("assistant", "It is 5.", [])


@pytest.mark.parametrize("reply", [ADD, [ADD]], ids=["one", "a-list"])
def test_a_call_is_a_call_with_an_id(ask: Ask, reply: Any) -> None:
    with ScriptedGenerator(reply) as generator:
        (call,) = ask(generator).tool_calls
    assert (call.tool_name, call.arguments) == ("add", {"a": 2, "b": 3})
    assert call.id


def test_ids_are_given_where_they_are_missing_and_are_all_different(ask: Ask) -> None:
    named = ToolCall("add", {"a": 1, "b": 1}, id="mine")
    with ScriptedGenerator([ADD, named, ADD], ADD) as generator:
        ids = [call.id for _ in range(2) for call in ask(generator).tool_calls]
    assert ids[1] == "mine"
    assert all(ids)
    assert len(set(ids)) == 4


def test_the_caller_s_own_call_stays_as_it_is(ask: Ask) -> None:
    with ScriptedGenerator(ADD) as generator:
        ask(generator)
    assert ToolCall("add", {"a": 2, "b": 3}) == ADD
    assert ADD.id is None


def test_a_message_is_given_as_it_is(ask: Ask) -> None:
    message = ChatMessage.from_assistant("Let me see.", tool_calls=[ADD], meta={"finish_reason": "length"})
    with ScriptedGenerator(message) as generator:
        reply = ask(generator)
    assert (reply.text, reply.meta["finish_reason"]) == ("Let me see.", "length")
    assert [call.tool_name for call in reply.tool_calls] == ["add"]


def test_pieces_are_one_text(ask: Ask) -> None:
    with ScriptedGenerator(["It ", "is ", "5."]) as generator:
        assert ask(generator).text == "It is 5."


def test_an_exception_is_raised(ask: Ask) -> None:
    busy = EndpointError("the server is busy", status=503)
    with ScriptedGenerator(busy, "It is 5.") as generator:
        with pytest.raises(EndpointError) as caught:
            ask(generator)
        assert caught.value is busy
        assert ask(generator).text == "It is 5."


@pytest.mark.parametrize(
    ("made", "said"),
    [("said", "said"), (["sa", "id"], "said"), (ChatMessage.from_assistant("said"), "said")],
    ids=["text", "pieces", "message"],
)
def test_a_function_is_called_for_the_reply(ask: Ask, made: Any, said: str) -> None:
    seen: list[Any] = []

    def reply(messages: list[ChatMessage], tools: Any) -> Any:
        seen.append((messages[-1].text, [each.name for each in tools or []]))
        return made

    with ScriptedGenerator(reply) as generator:
        assert ask(generator, tools=[add]).text == said
    assert seen == [("2+3?", ["add"])]


def test_a_function_may_give_calls_which_get_their_ids(ask: Ask) -> None:
    with ScriptedGenerator(lambda messages, tools: [ADD, ADD]) as generator:
        one, two = ask(generator).tool_calls
    assert one.id
    assert two.id
    assert one.id != two.id


def test_an_exception_that_a_function_gives_is_raised(ask: Ask) -> None:
    with (
        ScriptedGenerator(lambda messages, tools: ValueError("no")) as generator,
        pytest.raises(ValueError, match="no"),
    ):
        ask(generator)


@pytest.mark.parametrize("nonsense", [5, None, {"text": "5"}, b"bytes"], ids=repr)
def test_what_can_be_no_reply_is_refused_where_the_script_is_written(nonsense: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        ScriptedGenerator("good", nonsense)


def test_replies_come_in_their_order(ask: Ask) -> None:
    with ScriptedGenerator("one", "two", "three") as generator:
        assert [ask(generator).text for _ in range(3)] == ["one", "two", "three"]


# What it was asked.


def test_what_it_was_asked_is_kept(ask: Ask) -> None:
    with ScriptedGenerator("It is 5.", "Bye.") as generator:
        ask(generator, tools=[add], generation_kwargs={"temperature": 0})
        ask(generator, messages=[*QUESTION, ChatMessage.from_user("Bye?")])
    first, second = generator.requests
    assert [message.text for message in first.messages] == ["2+3?"]
    assert [each.name for each in first.tools] == ["add"]
    assert first.generation_kwargs == {"temperature": 0}
    assert [message.text for message in second.messages] == ["2+3?", "Bye?"]
    assert not second.tools
    assert not second.generation_kwargs


def test_what_it_was_asked_stays_as_it_was(ask: Ask) -> None:
    messages, settings = list(QUESTION), {"temperature": 0}
    with ScriptedGenerator("It is 5.") as generator:
        ask(generator, messages=messages, generation_kwargs=settings)
    messages.append(ChatMessage.from_user("later"))
    settings["temperature"] = 1
    assert len(generator.requests[0].messages) == 1
    assert generator.requests[0].generation_kwargs == {"temperature": 0}


def test_what_an_agent_asks_grows_from_request_to_request(run: Callable[..., RunResult]) -> None:
    with ScriptedGenerator(ADD, "It is 5.") as generator:
        run(generator, add)
    roles = [[message.role.value for message in request.messages] for request in generator.requests]
    assert roles == [["user"], ["user", "assistant", "tool"]]


def test_a_request_that_failed_is_kept_too(ask: Ask) -> None:
    with ScriptedGenerator(ValueError("no")) as generator, pytest.raises(ValueError, match="no"):
        ask(generator)
    assert len(generator.requests) == 1


# What isn't in the script.


def test_a_reply_that_is_left_over_fails_at_the_end_of_the_block(ask: Ask) -> None:
    with pytest.raises(AssertionError, match="never said"), ScriptedGenerator("one", "never said") as gen:
        ask(gen)


def test_a_reply_that_is_left_over_fails_when_asked_for(ask: Ask) -> None:
    generator = ScriptedGenerator("one", "never said")
    ask(generator)
    with pytest.raises(AssertionError, match="never said"):
        generator.assert_finished()
    ask(generator)
    generator.assert_finished()


def test_a_script_that_was_never_begun_is_left_over() -> None:
    with pytest.raises(AssertionError), ScriptedGenerator("one"):
        pass


def test_an_empty_script_that_nobody_asks_is_finished() -> None:
    with ScriptedGenerator() as generator:
        pass
    generator.assert_finished()


def test_a_call_beyond_the_script_fails(ask: Ask) -> None:
    generator = ScriptedGenerator("one")
    ask(generator)
    with pytest.raises(AssertionError):
        ask(generator)


def test_a_call_beyond_the_script_fails_also_at_the_end_though_somebody_swallowed_it(ask: Ask) -> None:
    with pytest.raises(AssertionError), ScriptedGenerator() as generator, suppress(AssertionError):
        ask(generator)
    with pytest.raises(AssertionError):
        generator.assert_finished()


def test_a_last_answer_that_isnt_in_the_script_fails_though_a_run_forgives_it(
    run: Callable[..., RunResult],
) -> None:
    results: list[RunResult] = []
    with pytest.raises(AssertionError), ScriptedGenerator(ADD) as generator:
        # The agent asks once more when its steps are used up; that this fails doesn't end the run.
        results.append(run(generator, add, max_agent_steps=1))
    assert [result.stop_reason for result in results] == ["max_steps"]


def test_a_failure_of_the_block_itself_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), ScriptedGenerator("left over"):
        raise ZeroDivisionError


def test_a_call_beyond_the_script_of_an_agent_reaches_the_test(run: Callable[..., RunResult]) -> None:
    with pytest.raises(AssertionError):
        run(ScriptedGenerator(ADD), add)


# Streams.


def streamed(
    ask: Ask, request: pytest.FixtureRequest, reply: Any
) -> tuple[ChatMessage, list[StreamingChunk]]:
    chunks: list[StreamingChunk] = []

    async def listen(chunk: StreamingChunk) -> None:
        chunks.append(chunk)

    callback = listen if "async" in request.node.name else chunks.append
    with ScriptedGenerator(reply) as generator:
        return ask(generator, streaming_callback=callback), chunks


def test_a_text_streams_to_a_callback(ask: Ask, request: pytest.FixtureRequest) -> None:
    text = "It is five, and that is all that there is to say."
    reply, chunks = streamed(ask, request, text)
    assert reply.text == "".join(chunk.content for chunk in chunks) == text
    assert len([chunk for chunk in chunks if chunk.content]) > 1


def test_pieces_stream_as_they_are_written(ask: Ask, request: pytest.FixtureRequest) -> None:
    reply, chunks = streamed(ask, request, ["It ", "is", " 5."])
    assert [chunk.content for chunk in chunks if chunk.content] == ["It ", "is", " 5."]
    assert reply.text == "It is 5."


def test_calls_stream_as_deltas_that_make_the_same_calls(ask: Ask, request: pytest.FixtureRequest) -> None:
    reply, chunks = streamed(ask, request, [ADD, ToolCall("add", {"a": 4, "b": 5}, id="mine")])
    names: dict[int, str] = {}
    ids: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for delta in (delta for chunk in chunks for delta in chunk.tool_calls or []):
        names.setdefault(delta.index, delta.tool_name or "")
        ids.setdefault(delta.index, delta.id or "")
        arguments[delta.index] = arguments.get(delta.index, "") + (delta.arguments or "")
    made = [(names[place], json.loads(arguments[place]), ids[place]) for place in sorted(names)]
    assert made == [(call.tool_name, call.arguments, call.id) for call in reply.tool_calls]
    assert [call.id for call in reply.tool_calls][1] == "mine"


def test_a_message_of_text_and_calls_streams_both(ask: Ask, request: pytest.FixtureRequest) -> None:
    message = ChatMessage.from_assistant("Let me see.", tool_calls=[ADD])
    _, chunks = streamed(ask, request, message)
    assert "".join(chunk.content for chunk in chunks) == "Let me see."
    assert [d.tool_name for chunk in chunks for d in chunk.tool_calls or [] if d.tool_name] == ["add"]


def test_the_last_chunk_says_why_it_is_the_last(ask: Ask, request: pytest.FixtureRequest) -> None:
    _, chunks = streamed(ask, request, "It is 5.")
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]


def test_a_plain_callback_works_in_an_async_call_too() -> None:
    chunks: list[StreamingChunk] = []
    with ScriptedGenerator("It is 5.") as generator:
        asyncio.run(generator.run_async(QUESTION, streaming_callback=chunks.append))
    assert "".join(chunk.content for chunk in chunks) == "It is 5."


# In agents.


def test_it_drives_an_agent_of_ours(run: Callable[..., RunResult]) -> None:
    with ScriptedGenerator([ADD, ADD], "It is 5.") as generator:
        result = run(generator, add)
    assert (result.text, result.stop_reason, result.usage.tool_calls) == ("It is 5.", "answered", 2)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_it_drives_haystacks_agent(way: str) -> None:
    with ScriptedGenerator(ADD, "It is 5.") as generator:
        agent = HaystackAgent(chat_generator=generator, tools=[add])
        result = (
            agent.run(messages=QUESTION) if way == "sync" else asyncio.run(agent.run_async(messages=QUESTION))
        )
        agent.close()
    assert result["last_message"].text == "It is 5."
    assert generator.requests[1].messages[-1].tool_call_results[0].result == "5"


def test_a_stream_reaches_the_callback_of_an_agent() -> None:
    chunks: list[StreamingChunk] = []
    with (
        ScriptedGenerator(ADD, ["It is", " 5."]) as generator,
        Agent(chat_generator=generator, tools=[add]) as agent,
    ):
        agent.run("2+3?", chunks.append)
    assert "".join(chunk.content for chunk in chunks) == "It is 5."
    assert [chunk.tool_call_result.result for chunk in chunks if chunk.tool_call_result] == ["5"]


def test_an_error_ends_a_run_with_what_it_had(run: Callable[..., RunResult]) -> None:
    with (
        ScriptedGenerator(ADD, EndpointError("busy", status=503)) as generator,
        pytest.raises(EndpointError) as caught,
    ):
        run(generator, add)
    result = caught.value.result
    assert result is not None
    assert [message.role.value for message in result.messages] == ["user", "assistant", "tool"]


def test_a_tools_failure_can_be_tested_without_a_server(run: Callable[..., RunResult]) -> None:
    @tool
    def fail() -> str:
        """Fail."""
        raise ValueError("the disk is full")

    with (
        ScriptedGenerator(ToolCall("fail", {})) as generator,
        pytest.raises(ToolFailedError, match="the disk is full"),
    ):
        run(generator, fail, raise_on_tool_invocation_failure=True)


def test_threads_that_ask_at_one_time_share_the_script() -> None:
    count = 40
    with ScriptedGenerator(*[str(n) for n in range(count)]) as generator, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: generator.run(QUESTION)["replies"][0].text, range(count)))
    assert sorted(replies, key=int) == [str(n) for n in range(count)]
    assert len(generator.requests) == count
