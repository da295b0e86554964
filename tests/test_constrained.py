"""Tool calls by replies held to a schema: what the generator asks, and what comes of the answers."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCall
from haystack.tools import Tool

from llama_agent import Agent, ConfigurationError, MetaLlamaChatGenerator, tool
from tests.endpoint import Endpoint, Reply, Request

QUESTION = "What is 17 plus 25?"


@tool
def add(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
        a: First number.
        b: Second number.

    """
    return a + b


@tool
def reverse(text: str) -> str:
    """Reverse a text."""
    return text[::-1]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


def generator(endpoint: Endpoint, **settings: Any) -> MetaLlamaChatGenerator:
    return MetaLlamaChatGenerator(
        api_base_url=endpoint.url, tool_mode="constrained", max_retries=0, timeout=10, **settings
    )


def ask(endpoint: Endpoint, tools: list[Tool] | None = None, **fields: Any) -> ChatMessage:
    with_tools = [add, reverse] if tools is None else tools
    with closing(generator(endpoint)) as asked:
        return asked.run(QUESTION, generation_kwargs=fields, tools=with_tools)["replies"][0]


def pick(name: str, **settings: Any) -> Reply:
    return Reply(json.dumps({"next": name}), **settings)


def schema_of(request: Request) -> Any:
    return request.json["response_format"]["json_schema"]["schema"]


# What is asked


def test_first_the_model_picks_a_tool_or_an_answer_then_it_writes_the_tools_arguments(
    endpoint: Endpoint,
) -> None:
    endpoint.script(pick("add"), Reply('{"a": 17, "b": 25}'))
    ask(endpoint)
    first, second = endpoint.requests
    assert first.json["response_format"]["type"] == "json_schema"
    assert first.json["response_format"]["json_schema"]["strict"] is True
    assert schema_of(first)["required"] == ["next"]
    assert sorted(schema_of(first)["properties"]["next"]["enum"]) == ["add", "answer", "reverse"]
    assert schema_of(second) == {**add.parameters, "additionalProperties": False}


def test_the_server_is_given_neither_tools_nor_a_tool_choice(endpoint: Endpoint) -> None:
    endpoint.script(pick("add"), Reply('{"a": 17, "b": 25}'))
    ask(endpoint, tool_choice="auto")
    for request in endpoint.requests:
        assert {"tools", "tool_choice"}.isdisjoint(request.json)


def test_the_tools_are_described_in_the_system_message_behind_the_users_own(endpoint: Endpoint) -> None:
    endpoint.script(pick("answer"), Reply("Hello."))
    messages = [ChatMessage.from_system("Be brief."), ChatMessage.from_user(QUESTION)]
    with closing(generator(endpoint)) as asked:
        asked.run(messages, tools=[add, reverse])
    system = endpoint.requests[0].messages[0]
    assert system["role"] == "system"
    assert system["content"].startswith("Be brief.")
    for text in ("add", "Add two numbers.", "First number.", "reverse", "Reverse a text."):
        assert text in system["content"]
    assert [message["role"] for message in endpoint.requests[0].messages].count("system") == 1


def test_settings_for_the_answer_do_not_cut_the_picks_short(endpoint: Endpoint) -> None:
    endpoint.script(pick("answer"), Reply('{"n": 1}'))
    wanted = {"title": "n", "type": "object", "properties": {"n": {"type": "integer"}}}
    ask(endpoint, max_tokens=3, stop=["}"], response_format=wanted, temperature=0.5, random_seed=7)
    picking, answering = (request.json for request in endpoint.requests)
    assert "stop" not in picking
    assert picking["max_tokens"] > 100  # a bound of our own, not the answer's
    assert "next" in schema_of(endpoint.requests[0])["properties"]
    assert (answering["max_tokens"], answering["stop"]) == (3, ["}"])
    assert schema_of(endpoint.requests[1]) == wanted
    for body in (picking, answering):
        assert (body["temperature"], body["random_seed"]) == (0.5, 7)


def test_without_tools_the_model_is_simply_asked(endpoint: Endpoint) -> None:
    endpoint.script(Reply("Hello."))
    assert ask(endpoint, tools=[]).text == "Hello."
    assert "response_format" not in endpoint.requests[0].json
    assert endpoint.requests[0].messages == [{"role": "user", "content": QUESTION}]


# What comes out


def test_the_arguments_come_out_as_a_call(endpoint: Endpoint) -> None:
    endpoint.script(pick("add"), Reply('{"a": 17, "b": 25}'))
    reply = ask(endpoint)
    assert [(call.tool_name, call.arguments) for call in reply.tool_calls] == [("add", {"a": 17, "b": 25})]
    assert reply.tool_calls[0].id
    assert reply.meta["finish_reason"] == "tool_calls"
    assert not reply.text


def test_an_answer_comes_out_as_text(endpoint: Endpoint) -> None:
    endpoint.script(pick("answer"), Reply("Hello."))
    reply = ask(endpoint)
    assert (reply.text, reply.tool_calls) == ("Hello.", [])
    assert reply.meta["finish_reason"] == "stop"
    assert "response_format" not in endpoint.requests[1].json


def test_the_usage_of_all_requests_is_summed_for_a_call(endpoint: Endpoint) -> None:
    endpoint.script(pick("add", usage=(100, 5)), Reply('{"a": 1, "b": 2}', usage=(110, 7)))
    usage = ask(endpoint).meta["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (210, 12, 222)


def test_the_usage_of_all_requests_is_summed_for_an_answer(endpoint: Endpoint) -> None:
    endpoint.script(pick("answer", usage=(100, 5)), Reply("Hi.", usage=(110, 7)))
    usage = ask(endpoint).meta["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (210, 12, 222)


def test_a_server_that_counts_nothing_is_no_error(endpoint: Endpoint) -> None:
    endpoint.script(pick("add", no_usage=True), Reply('{"a": 1, "b": 2}', no_usage=True))
    assert ask(endpoint).tool_calls[0].arguments == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "text", ["I'd say 42.", "", "[1, 2]", '"add"', '{"next": "divide"}', '{"next": 7}', "{"]
)
def test_a_server_that_ignores_the_schema_gets_to_answer(endpoint: Endpoint, text: str) -> None:
    endpoint.script(Reply(text), Reply("It is 42."))
    reply = ask(endpoint)
    assert (reply.text, reply.tool_calls) == ("It is 42.", [])


@pytest.mark.parametrize("finish_reason", ["length", "stop"])
def test_arguments_that_were_cut_off_are_never_made_into_a_whole_call(
    endpoint: Endpoint, finish_reason: str
) -> None:
    ran: list[str] = []

    def note(text: str) -> str:
        """Take a note."""
        ran.append(text)
        return "noted"

    endpoint.script(
        pick("note"), Reply('{"text": "buy mi', finish_reason=finish_reason), pick("answer"), Reply("No.")
    )
    with Agent(chat_generator=generator(endpoint), tools=[note]) as agent:
        result = agent.run("Note: buy milk")
    assert ran == []
    assert result.text == "No."
    told = endpoint.requests[2].messages[-2]
    assert told["role"] == "user"
    assert "note" in told["content"]


# tool_choice


def test_tool_choice_none_asks_for_the_answer_at_once(endpoint: Endpoint) -> None:
    endpoint.script(Reply("It is 42."))
    assert ask(endpoint, tool_choice="none").text == "It is 42."
    assert {"response_format", "tool_choice"}.isdisjoint(endpoint.requests[0].json)


def test_tool_choice_required_leaves_no_answer_to_pick(endpoint: Endpoint) -> None:
    endpoint.script(pick("reverse"), Reply('{"text": "x"}'))
    assert ask(endpoint, tool_choice="required").tool_calls[0].tool_name == "reverse"
    assert schema_of(endpoint.requests[0])["properties"]["next"]["enum"] == ["add", "reverse"]


def test_tool_choice_required_with_one_tool_asks_for_its_arguments_at_once(endpoint: Endpoint) -> None:
    endpoint.script(Reply('{"a": 1, "b": 2}'))
    assert ask(endpoint, tools=[add], tool_choice="required").tool_calls[0].tool_name == "add"
    assert schema_of(endpoint.requests[0]) == {**add.parameters, "additionalProperties": False}


def test_a_named_tool_choice_asks_for_its_arguments_at_once(endpoint: Endpoint) -> None:
    endpoint.script(Reply('{"text": "x"}'))
    named = {"type": "function", "function": {"name": "reverse"}}
    assert ask(endpoint, tool_choice=named).tool_calls[0].tool_name == "reverse"
    assert schema_of(endpoint.requests[0]) == {**reverse.parameters, "additionalProperties": False}


def test_a_tool_choice_that_names_no_tool_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match=r"divide.*add, reverse"):
        ask(endpoint, tool_choice={"type": "function", "function": {"name": "divide"}})
    assert endpoint.requests == []


def test_a_tool_named_answer_is_refused(endpoint: Endpoint) -> None:
    @tool(name="answer")
    def reply(text: str) -> str:
        """Reply."""
        return text

    with pytest.raises(ConfigurationError, match=r"'answer'.*rename"):
        ask(endpoint, tools=[add, reply])
    assert endpoint.requests == []


# Conversations


def test_calls_and_results_are_told_in_plain_text(endpoint: Endpoint) -> None:
    calls = [ToolCall("add", {"a": 17, "b": 25}, id="x"), ToolCall("reverse", {"text": "öl"}, id="y")]
    conversation = [
        ChatMessage.from_user(QUESTION),
        ChatMessage.from_assistant("Let me see.", tool_calls=calls),
        ChatMessage.from_tool("42", origin=calls[0]),
        ChatMessage.from_tool("lö", origin=calls[1]),
    ]
    endpoint.script(pick("answer"), Reply("42 and lö."))
    with closing(generator(endpoint)) as asked:
        asked.run(conversation, tools=[add, reverse])
    for request in endpoint.requests:
        assert {message["role"] for message in request.messages} == {"system", "user", "assistant"}
        assert all(message.keys() == {"role", "content"} for message in request.messages)
    _, question, said, first, second = endpoint.requests[1].messages
    assert question == {"role": "user", "content": QUESTION}
    for text in ("Let me see.", '"a": 17', "öl"):
        assert text in said["content"]
    assert first["role"] == "user"
    assert "add" in first["content"]
    assert "42" in first["content"]
    assert "lö" in second["content"]


def test_the_agent_goes_on_over_several_turns(endpoint: Endpoint) -> None:
    endpoint.script(
        pick("add", usage=(10, 1)),
        Reply('{"a": 17, "b": 25}', usage=(10, 1)),
        pick("reverse", usage=(10, 1)),
        Reply('{"text": "42"}', usage=(10, 1)),
        pick("answer", usage=(10, 1)),
        Reply("It is 42, backwards 24.", usage=(10, 1)),
    )
    with Agent(chat_generator=generator(endpoint), tools=[add, reverse]) as agent:
        result = agent.run(QUESTION)
    assert (result.text, result.stop_reason) == ("It is 42, backwards 24.", "answered")
    assert [m.tool_call_results[0].result for m in result.messages if m.tool_call_results] == ["42", "24"]
    assert (result.usage.input_tokens, result.usage.output_tokens) == (60, 6)
    last = "\n".join(message["content"] for message in endpoint.requests[-1].messages)
    assert last.index("17") < last.index("Result of add: 42") < last.index("Result of reverse: 24")


async def run_async(endpoint: Endpoint) -> Any:
    async with Agent(chat_generator=generator(endpoint), tools=[add, reverse]) as agent:
        return await agent.run_async(QUESTION)


def test_the_agent_works_on_an_event_loop_too(endpoint: Endpoint) -> None:
    endpoint.script(pick("add"), Reply('{"a": 17, "b": 25}'), pick("answer"), Reply("It is 42."))
    result = asyncio.run(run_async(endpoint))
    assert result.text == "It is 42."
    assert "Result of add: 42" in json.dumps(endpoint.requests[-1].messages)


# Streaming


def test_only_the_answer_is_streamed(endpoint: Endpoint) -> None:
    chunks: list[StreamingChunk] = []
    endpoint.script(pick("answer", usage=(100, 5)), Reply("It is forty-two.", usage=(110, 7)))
    with closing(generator(endpoint, streaming_callback=chunks.append)) as asked:
        reply = asked.run(QUESTION, tools=[add])["replies"][0]
    assert "".join(chunk.content for chunk in chunks) == reply.text == "It is forty-two."
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    assert [bool(request.json.get("stream")) for request in endpoint.requests] == [False, True]
    assert reply.meta["usage"]["total_tokens"] == 222


def test_a_run_with_a_call_streams_the_answer_alone_as_text(endpoint: Endpoint) -> None:
    chunks: list[StreamingChunk] = []
    endpoint.script(pick("add"), Reply('{"a": 17, "b": 25}'), pick("answer"), Reply("It is 42."))
    with Agent(chat_generator=generator(endpoint), tools=[add], streaming_callback=chunks.append) as agent:
        agent.run(QUESTION)
    assert "".join(chunk.content for chunk in chunks) == "It is 42."
    assert any(chunk.tool_call_result and chunk.tool_call_result.result == "42" for chunk in chunks)
