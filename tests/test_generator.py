"""`MetaLlamaChatGenerator` as its users see it: what is sent, what comes back, and what stays open."""

import asyncio
import gc
import inspect
import json
import re
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import wraps
from threading import Barrier
from typing import Any
from unittest.mock import patch

import pytest
from haystack import Pipeline
from haystack.components.generators.utils import print_streaming_chunk
from haystack.dataclasses import ChatMessage, ImageContent, StreamingChunk, TextContent, ToolCall
from haystack.tools import Tool, Toolset
from haystack.utils import Secret
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from llama_agent import ConfigurationError, EndpointError, MetaLlamaChatGenerator
from tests.endpoint import Always, Endpoint, Raw, Reply, Request, Status

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
PLAIN_HTTP = {"verify": False}
"""No certificates are loaded for each client: that would take most of these tests' time."""
QUESTION = [ChatMessage.from_user("2+3?")]
TYPE_NAME = "llama_agent.model.generator.MetaLlamaChatGenerator"

Maker = Callable[..., MetaLlamaChatGenerator]


class Weather(BaseModel):
    city: str
    celsius: float


def add(a: int, b: int) -> int:
    return a + b


def keep_chunk(chunk: StreamingChunk) -> None:
    """A callback that can be found by name when a generator is loaded."""


ADD = Tool(
    name="add",
    description="Add two numbers.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
    function=add,
)


async def ask_async(generator: MetaLlamaChatGenerator, *args: Any, **kwargs: Any) -> list[ChatMessage]:
    try:
        return (await generator.run_async(*args, **kwargs))["replies"]
    finally:
        await generator.close_async()


def ask(generator: MetaLlamaChatGenerator, *args: Any, way: str = "sync", **kwargs: Any) -> list[ChatMessage]:
    if way == "async":
        return asyncio.run(ask_async(generator, *args, **kwargs))
    return generator.run(*args, **kwargs)["replies"]


both_ways = pytest.mark.parametrize("way", ["sync", "async"])


# The published signature


def test_the_published_parameters_come_first_with_the_published_defaults() -> None:
    parameters = list(inspect.signature(MetaLlamaChatGenerator.__init__).parameters.values())[1:]
    assert [(parameter.name, parameter.default) for parameter in parameters[:8]] == [
        ("api_key", Secret.from_env_var("LLAMA_API_KEY")),
        ("model", "Llama-4-Scout-17B-16E-Instruct-FP8"),
        ("streaming_callback", None),
        ("api_base_url", "https://api.llama.com/compat/v1/"),
        ("generation_kwargs", None),
        ("timeout", None),
        ("max_retries", None),
        ("tools", None),
    ]


def test_every_parameter_is_keyword_only_and_has_a_default() -> None:
    parameters = list(inspect.signature(MetaLlamaChatGenerator.__init__).parameters.values())[1:]
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty] == []


def test_settings_can_be_read_back_as_attributes() -> None:
    generator = MetaLlamaChatGenerator(
        generation_kwargs={"temperature": 0}, timeout=7, max_retries=2, tools=[ADD]
    )
    assert generator.model == "Llama-4-Scout-17B-16E-Instruct-FP8"
    assert generator.api_base_url == "https://api.llama.com/compat/v1/"
    assert (generator.generation_kwargs, generator.timeout, generator.max_retries, generator.tools) == (
        {"temperature": 0},
        7,
        2,
        [ADD],
    )


def test_construction_opens_and_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", "no such preset")
    generator = MetaLlamaChatGenerator()
    assert generator.client is None
    assert generator.async_client is None


def test_a_negative_number_of_retries_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="max_retries"):
        MetaLlamaChatGenerator(max_retries=-1)


def test_two_tools_of_one_name_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="add"):
        MetaLlamaChatGenerator(tools=[ADD, ADD])


def test_two_tools_of_one_name_given_to_run_are_refused_before_anything_is_sent(
    make: Maker, endpoint: Endpoint
) -> None:
    with pytest.raises(ValueError, match="add"):
        make().run(QUESTION, tools=[ADD, ADD])
    assert endpoint.requests == []


# One question, one answer


@both_ways
def test_a_question_is_answered(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("5", usage=(11, 1)))
    (reply,) = ask(make(), QUESTION, way=way)
    assert reply.text == "5"
    assert reply.meta == {
        "model": "m",
        "index": 0,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 11, "completion_tokens": 1, "total_tokens": 12},
    }
    assert endpoint.requests[0].json == {"model": "m", "messages": [{"role": "user", "content": "2+3?"}]}


@both_ways
def test_a_string_is_one_user_message(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("5"))
    assert ask(make(), "2+3?", way=way)[0].text == "5"
    assert endpoint.requests[0].messages == [{"role": "user", "content": "2+3?"}]


@both_ways
def test_no_messages_give_no_replies_and_no_request(make: Maker, endpoint: Endpoint, way: str) -> None:
    assert ask(make(), [], way=way) == []
    assert endpoint.all_requests == []


def test_it_answers_in_a_haystack_pipeline(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5"))
    pipeline = Pipeline()
    pipeline.add_component("llm", make())
    assert pipeline.run({"llm": {"messages": QUESTION}})["llm"]["replies"][0].text == "5"


def test_no_usage_in_the_answer_leaves_the_meta_empty_there(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5", no_usage=True))
    assert ask(make(), QUESTION)[0].meta["usage"] == {}


@both_ways
def test_several_choices_are_several_replies(make: Maker, endpoint: Endpoint, way: str) -> None:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(["five", "5"])
    ]
    endpoint.script(Raw(json.dumps({"model": "m", "choices": choices}).encode()))
    replies = ask(make(), QUESTION, generation_kwargs={"n": 2}, way=way)
    assert [(reply.text, reply.meta["index"]) for reply in replies] == [("five", 0), ("5", 1)]
    assert endpoint.requests[0].json["n"] == 2


def test_several_streamed_choices_are_refused_before_anything_is_sent(
    make: Maker, endpoint: Endpoint
) -> None:
    with pytest.raises(ConfigurationError, match="n"):
        make(streaming_callback=keep_chunk).run(QUESTION, generation_kwargs={"n": 2})
    assert endpoint.requests == []


def test_thinking_is_kept_apart_from_the_answer(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5", reasoning="2 and 3"))
    (reply,) = ask(make(), QUESTION)
    assert reply.text == "5"
    assert reply.meta["reasoning"] == "2 and 3"


# What is sent


def test_every_generation_argument_goes_into_the_body_also_those_openai_does_not_know(
    make: Maker, endpoint: Endpoint
) -> None:
    fields = {
        "max_tokens": 7,
        "temperature": 0.1,
        "top_p": 0.9,
        "safe_prompt": True,
        "random_seed": 42,
        "repetition_penalty": 1.1,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    endpoint.script(Reply("5"))
    ask(make(generation_kwargs=fields), QUESTION)
    body = endpoint.requests[0].json
    assert {name: body.get(name) for name in fields} == fields
    assert "stream" not in body


def test_arguments_of_run_win_one_by_one_over_those_of_the_constructor(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("5"), Reply("5"))
    generator = make(generation_kwargs={"max_tokens": 7, "temperature": 0.1})
    ask(generator, QUESTION, generation_kwargs={"temperature": 0.9})
    ask(generator, QUESTION)
    assert [(r.json["max_tokens"], r.json["temperature"]) for r in endpoint.requests] == [(7, 0.9), (7, 0.1)]


@both_ways
def test_stream_true_without_a_callback_streams_and_gives_the_whole_reply(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Reply("five and more", usage=(3, 4)))
    (reply,) = ask(make(generation_kwargs={"stream": True}), QUESTION, way=way)
    assert reply.text == "five and more"
    assert reply.meta["usage"]["total_tokens"] == 7
    assert endpoint.requests[0].json["stream"] is True


@pytest.mark.parametrize("where", ["constructor", "run"])
def test_a_response_format_of_none_is_never_sent(make: Maker, endpoint: Endpoint, where: str) -> None:
    endpoint.script(Reply("5"))
    nothing = {"response_format": None}
    if where == "constructor":
        ask(make(generation_kwargs=nothing), QUESTION)
    else:
        ask(make(generation_kwargs={"response_format": Weather}), QUESTION, generation_kwargs=nothing)
    assert "response_format" not in endpoint.requests[0].json


@both_ways
def test_a_pydantic_model_as_response_format_is_sent_as_a_strict_schema(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Reply('{"city": "Paris", "celsius": 20}'))
    (reply,) = ask(make(), QUESTION, generation_kwargs={"response_format": Weather}, way=way)
    sent = endpoint.requests[0].json["response_format"]
    assert (sent["type"], sent["json_schema"]["name"], sent["json_schema"]["strict"]) == (
        "json_schema",
        "Weather",
        True,
    )
    schema = sent["json_schema"]["schema"]
    assert (schema["required"], schema["additionalProperties"]) == (["city", "celsius"], False)
    assert Weather.model_validate_json(reply.text or "").city == "Paris"


def test_a_pydantic_model_as_response_format_works_in_a_stream(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply('{"city": "Paris", "celsius": 20}'))
    (reply,) = ask(
        make(streaming_callback=keep_chunk), QUESTION, generation_kwargs={"response_format": Weather}
    )
    assert Weather.model_validate_json(reply.text or "").celsius == 20
    assert endpoint.requests[0].json["response_format"]["json_schema"]["name"] == "Weather"


def test_a_bare_json_schema_as_response_format_is_wrapped(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("{}"))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    ask(make(), QUESTION, generation_kwargs={"response_format": schema})
    sent = endpoint.requests[0].json["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"] == schema


def test_a_schema_with_a_title_of_several_words_gets_a_name_that_servers_take(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("{}"))
    schema = {"type": "object", "title": "Report: today's weather", "properties": {}}
    ask(make(), QUESTION, generation_kwargs={"response_format": schema})
    name = endpoint.requests[0].json["response_format"]["json_schema"]["name"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    ],
)
def test_a_response_format_in_openais_form_is_sent_as_it_is(
    make: Maker, endpoint: Endpoint, given: dict[str, Any]
) -> None:
    endpoint.script(Reply("{}"))
    ask(make(), QUESTION, generation_kwargs={"response_format": given})
    assert endpoint.requests[0].json["response_format"] == given


def test_what_cannot_be_a_response_format_is_refused(make: Maker, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="response_format"):
        ask(make(), QUESTION, generation_kwargs={"response_format": "json"})
    assert endpoint.requests == []


@both_ways
def test_images_of_user_messages_are_sent_between_their_texts(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Reply("white"))
    image = ImageContent(base64_image=PIXEL, mime_type="image/png", detail="low")
    ask(make(), [ChatMessage.from_user(content_parts=["Which", image, "colour?"])], way=way)
    assert endpoint.requests[0].messages[0]["content"] == [
        {"type": "text", "text": "Which"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
        {"type": "text", "text": "colour?"},
    ]


def test_texts_outside_ascii_arrive_unharmed_in_both_directions(make: Maker, endpoint: Endpoint) -> None:
    text = 'größer 🦙 \u2028 "quoted" \\ \n end'
    endpoint.script(Reply(text), Reply(text))
    generator = make()
    assert ask(generator, text)[0].text == text
    assert ask(generator, text, streaming_callback=keep_chunk)[0].text == text
    assert [request.messages[0]["content"] for request in endpoint.requests] == [text, text]


def test_content_is_never_null_and_the_conversation_keeps_its_order(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5"))
    call = ToolCall("add", {"a": 2, "b": 3}, id="c1")
    conversation = [
        ChatMessage.from_system("Be brief."),
        *QUESTION,
        ChatMessage.from_assistant(tool_calls=[call]),
        ChatMessage.from_tool("5", origin=call),
        ChatMessage.from_assistant("It is 5."),
    ]
    ask(make(), conversation)
    sent = endpoint.requests[0].messages
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool", "assistant"]
    assert [message["content"] for message in sent] == ["Be brief.", "2+3?", "", "5", "It is 5."]
    assert sent[2]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    ]
    assert sent[3]["tool_call_id"] == "c1"


def test_a_user_message_without_content_is_a_configuration_error(make: Maker, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="user"):
        ask(
            make(),
            [ChatMessage.from_user(content_parts=[ImageContent(PIXEL, "image/png")]), _emptied_message()],
        )
    assert endpoint.requests == []


def _emptied_message() -> ChatMessage:
    message = ChatMessage.from_user("x")
    message._content.clear()
    return message


def test_a_setting_that_is_no_json_is_a_configuration_error(make: Maker, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="JSON"):
        ask(make(), QUESTION, generation_kwargs={"stop": object()})
    assert endpoint.requests == []


def test_the_clients_own_environment_is_not_told_to_other_servers(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "openai-only")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    endpoint.script(Reply("5"))
    ask(make(), QUESTION)
    assert "openai-only" not in str(endpoint.requests[0].headers)


# Messages are encoded once


def test_a_message_is_encoded_once_over_the_requests_of_a_conversation(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str | None] = []
    original = ChatMessage.to_openai_dict_format

    @wraps(original)
    def counting(message: ChatMessage, *args: Any, **kwargs: Any) -> dict[str, Any]:
        encoded.append(message.text)
        return original(message, *args, **kwargs)

    monkeypatch.setattr(ChatMessage, "to_openai_dict_format", counting)
    endpoint.script(Reply("one"), Reply("two"), Reply("three"))
    generator, conversation = make(), list(QUESTION)
    for _ in range(3):
        conversation += [*ask(generator, conversation), ChatMessage.from_user("again")]
    assert encoded == ["2+3?", "one", "again", "two", "again"]
    assert [len(request.messages) for request in endpoint.requests] == [1, 3, 5]


def _edit_text(message: ChatMessage) -> None:
    message._content[0] = TextContent("edited")


def _edit_text_in_place(message: ChatMessage) -> None:
    message._content[0].text = "edited"  # type: ignore[union-attr]


def _add_image(message: ChatMessage) -> None:
    message._content.append(ImageContent(PIXEL, "image/png", validation=False))


def _rename(message: ChatMessage) -> None:
    message._name = "Ada"


def _edit_argument_deep_inside(message: ChatMessage) -> None:
    message.tool_calls[0].arguments["where"]["city"] = "Oslo"


def _edit_call_id(message: ChatMessage) -> None:
    message.tool_calls[0].id = "other"


def _edit_result(message: ChatMessage) -> None:
    part = message._content[0]
    object.__setattr__(part, "result", "edited")


def _refuse(message: ChatMessage) -> None:
    message.meta["refusal"] = "I won't."


def _user() -> ChatMessage:
    return ChatMessage.from_user("original")


def _assistant() -> ChatMessage:
    return ChatMessage.from_assistant("original")


def _call() -> ChatMessage:
    return ChatMessage.from_assistant(tool_calls=[ToolCall("look", {"where": {"city": "Paris"}}, id="c1")])


def _result() -> ChatMessage:
    return ChatMessage.from_tool("original", origin=ToolCall("look", {}, id="c1"))


@pytest.mark.parametrize(
    ("message", "edit"),
    [
        (_user, _edit_text),
        (_user, _edit_text_in_place),
        (_user, _add_image),
        (_user, _rename),
        (_call, _edit_argument_deep_inside),
        (_call, _edit_call_id),
        (_result, _edit_result),
        (_assistant, _refuse),
    ],
)
@pytest.mark.filterwarnings("ignore:Mutating attribute")
def test_a_message_edited_between_two_requests_is_sent_as_it_is_now(
    make: Maker, endpoint: Endpoint, message: Callable[[], ChatMessage], edit: Callable[[ChatMessage], None]
) -> None:
    endpoint.script(Reply("one"), Reply("two"))
    before = [_call()] if message is _result else []
    generator, conversation = make(), [*before, message()]
    ask(generator, conversation)
    edit(conversation[-1])
    ask(generator, conversation)
    first, second = (request.messages[len(before)] for request in endpoint.requests)
    assert second == {"content": "", **conversation[-1].to_openai_dict_format()}
    assert second != first


def test_conversations_are_not_kept_alive_by_the_generator(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5"))
    generator, message = make(), ChatMessage.from_user("2+3?")
    ask(generator, [message])
    seen = weakref.ref(message)
    del message
    gc.collect()
    assert seen() is None


# Streams


@both_ways
def test_a_callback_sees_the_text_in_pieces_and_the_reply_is_whole(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Reply("five and more", usage=(11, 4)))
    chunks: list[StreamingChunk] = []
    generator = make(streaming_callback=chunks.append)
    (reply,) = ask(generator, QUESTION, way=way)
    assert [chunk.content for chunk in chunks if chunk.content] == ["five", " and", " mor", "e"]
    assert reply.text == "five and more"
    assert reply.meta["finish_reason"] == "stop"
    assert reply.meta["usage"] == {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
    assert reply.meta["model"] == "m"
    body = endpoint.requests[0].json
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_the_chunks_tell_where_text_starts_and_why_it_ends(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("five and", finish_reason="length"))
    chunks: list[StreamingChunk] = []
    ask(make(), QUESTION, streaming_callback=chunks.append)
    assert [chunk.start for chunk in chunks if chunk.content] == [True, False]
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]


def test_an_async_callback_is_awaited(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("five and more"))
    seen: list[str] = []

    async def callback(chunk: StreamingChunk) -> None:
        await asyncio.sleep(0)
        seen.append(chunk.content)

    assert ask(make(), QUESTION, streaming_callback=callback, way="async")[0].text == "five and more"
    assert "".join(seen) == "five and more"


def test_an_async_callback_is_refused_by_run(make: Maker, endpoint: Endpoint) -> None:
    async def callback(chunk: StreamingChunk) -> None: ...

    with pytest.raises(ValueError, match="coroutine"):
        ask(make(), QUESTION, streaming_callback=callback)
    assert endpoint.requests == []


def test_the_callback_of_run_wins_over_the_constructors(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("five"))
    constructors: list[StreamingChunk] = []
    runs: list[StreamingChunk] = []
    ask(make(streaming_callback=constructors.append), QUESTION, streaming_callback=runs.append)
    assert constructors == []
    assert runs[0].content == "five"


@both_ways
def test_what_a_callback_raises_reaches_the_caller_and_hangs_up(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Reply("five and more", pause=0.01))

    def callback(chunk: StreamingChunk) -> None:
        raise LookupError("the callback's own")

    with pytest.raises(LookupError, match="the callback's own"):
        ask(make(max_retries=3), QUESTION, streaming_callback=callback, way=way)
    gc.collect()
    assert endpoint.wait_for_disconnect(2)
    assert len(endpoint.requests) == 1


@both_ways
def test_streamed_tool_calls_arrive_whole_and_in_pieces(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("Let me see", calls=[("add", {"a": 2, "b": 3}), ("add", {"a": 4, "b": 5})]))
    chunks: list[StreamingChunk] = []
    (reply,) = ask(make(tools=[ADD]), QUESTION, streaming_callback=chunks.append, way=way)
    assert reply.text == "Let me see"
    assert [(call.id, call.tool_name, call.arguments) for call in reply.tool_calls] == [
        ("call_1", "add", {"a": 2, "b": 3}),
        ("call_2", "add", {"a": 4, "b": 5}),
    ]
    assert reply.meta["finish_reason"] == "tool_calls"
    pieces = [piece for chunk in chunks for piece in chunk.tool_calls or ()]
    for index in (0, 1):
        text = "".join(piece.arguments or "" for piece in pieces if piece.index == index)
        assert json.loads(text) == reply.tool_calls[index].arguments
    assert [(piece.index, piece.tool_name) for piece in pieces if piece.tool_name] == [(0, "add"), (1, "add")]


def test_haystacks_own_printer_understands_the_chunks(
    make: Maker, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.script(Reply("Let me see", reasoning="hm", calls=[("add", {"a": 2})]))
    ask(make(tools=[ADD]), QUESTION, streaming_callback=print_streaming_chunk)
    out = capsys.readouterr().out
    assert "Let me see" in out
    assert "add" in out
    assert '{"a": 2}' in out or '{"a":2}' in out


# Tools


@both_ways
def test_native_tool_calls_are_asked_for_and_read(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})], ids=["xyz"]))
    (reply,) = ask(make(tools=[ADD]), QUESTION, way=way)
    assert reply.tool_calls == [ToolCall("add", {"a": 2, "b": 3}, id="xyz")]
    assert reply.meta["finish_reason"] == "tool_calls"
    assert endpoint.requests[0].json["tools"] == [
        {
            "type": "function",
            "function": {"name": "add", "description": "Add two numbers.", "parameters": ADD.parameters},
        }
    ]


@pytest.mark.parametrize("given", [[ADD], Toolset([ADD]), [Toolset([ADD])]])
def test_tools_and_toolsets_given_to_run_replace_the_constructors(
    make: Maker, endpoint: Endpoint, given: Any
) -> None:
    other = Tool(name="other", description="Another.", parameters={"type": "object"}, function=add)
    endpoint.script(Reply("5"), Reply("5"))
    generator = make(tools=[other])
    ask(generator, QUESTION, tools=given)
    ask(generator, QUESTION, tools=[])
    assert [tool["function"]["name"] for tool in endpoint.requests[0].json["tools"]] == ["add"]
    assert "tools" not in endpoint.requests[1].json


def test_strict_tools_say_so(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5"), Reply("5"))
    generator = make(tools=[ADD], tools_strict=True)
    ask(generator, QUESTION)
    ask(generator, QUESTION, tools_strict=False)
    assert [r.json["tools"][0]["function"].get("strict", False) for r in endpoint.requests] == [True, False]


@both_ways
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("raw", ['{"a": 2, "b":', "[1, 2]", "not json", '{"a": NaN}'])
def test_malformed_arguments_are_marked_and_the_call_is_not_dropped(
    make: Maker, endpoint: Endpoint, raw: str, streamed: bool, way: str
) -> None:
    endpoint.script(Reply(calls=[("add", raw), ("add", {"a": 1, "b": 1})]))
    generator = make(tools=[ADD], generation_kwargs={"stream": streamed})
    (reply,) = ask(generator, QUESTION, way=way)
    bad, good = reply.tool_calls
    assert (bad.tool_name, bad.id) == ("add", "call_1")
    assert raw in bad.arguments.values(), "the raw text is kept"
    assert not {"a", "b"} & set(bad.arguments), "no tool can run with it by accident"
    assert bad.extra
    assert good.arguments == {"a": 1, "b": 1}
    assert not good.extra


def test_malformed_arguments_are_replayed_as_an_empty_object(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("add", '{"a": 2,')]), Reply("sorry"))
    generator = make(tools=[ADD])
    (reply,) = ask(generator, QUESTION)
    ask(
        generator,
        [*QUESTION, reply, ChatMessage.from_tool("bad JSON", origin=reply.tool_calls[0], error=True)],
    )
    assert endpoint.requests[1].messages[1]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize("raw", ["", "null", "  ", "{}"])
def test_no_arguments_may_be_written_in_any_way(make: Maker, endpoint: Endpoint, raw: str) -> None:
    endpoint.script(Reply(calls=[("now", raw)]))
    (reply,) = ask(make(), QUESTION)
    assert [(call.tool_name, call.arguments) for call in reply.tool_calls] == [("now", {})]


@pytest.mark.parametrize("ids", [["same", "same"], ["", ""], ["a", ""]])
@pytest.mark.parametrize("streamed", [False, True])
def test_calls_get_ids_of_their_own_when_the_server_repeats_or_forgets_them(
    make: Maker, endpoint: Endpoint, ids: list[str], streamed: bool
) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 1}), ("add", {"a": 2})], ids=ids))
    (reply,) = ask(make(generation_kwargs={"stream": streamed}), QUESTION)
    first, second = reply.tool_calls
    assert (first.arguments, second.arguments) == ({"a": 1}, {"a": 2})
    assert first.id
    assert second.id
    assert first.id != second.id


def test_arguments_sent_as_an_object_are_taken(make: Maker, endpoint: Endpoint) -> None:
    call = {"function": {"name": "add", "arguments": {"a": 2}}}
    endpoint.script(Reply(extra={"tool_calls": [call]}))
    (reply,) = ask(make(), QUESTION)
    assert reply.tool_calls[0].arguments == {"a": 2}


# Saving and loading


@pytest.fixture
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", "tests.*,llama_agent.*")


trusted = pytest.mark.usefixtures("_trusted")


def _load(data: dict[str, Any]) -> MetaLlamaChatGenerator:
    return MetaLlamaChatGenerator.from_dict(data)


@trusted
def test_a_generator_comes_back_from_its_dict() -> None:
    original = MetaLlamaChatGenerator(
        api_key=Secret.from_env_var("MY_KEY"),
        model="m",
        streaming_callback=keep_chunk,
        api_base_url="http://127.0.0.1:1/v1",
        generation_kwargs={"max_tokens": 7, "safe_prompt": True},
        timeout=3.5,
        max_retries=2,
        tools=[ADD],
        tools_strict=True,
        http_client_kwargs={"trust_env": False},
        tool_mode="constrained",
    )
    data = original.to_dict()
    loaded = _load(json.loads(json.dumps(data)))
    assert loaded.to_dict() == data
    assert loaded.api_key == Secret.from_env_var("MY_KEY")
    assert (loaded.model, loaded.timeout, loaded.max_retries, loaded.tools_strict, loaded.tool_mode) == (
        "m",
        3.5,
        2,
        True,
        "constrained",
    )
    assert loaded.streaming_callback is keep_chunk
    assert isinstance(loaded.tools, list)
    assert [tool.name for tool in loaded.tools] == ["add"]


def test_every_parameter_is_saved() -> None:
    saved = MetaLlamaChatGenerator().to_dict()["init_parameters"]
    assert set(saved) == set(inspect.signature(MetaLlamaChatGenerator.__init__).parameters) - {"self"}


def test_the_published_defaults_are_saved_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", "ollama")
    data = MetaLlamaChatGenerator().to_dict()
    assert data["type"] == TYPE_NAME
    assert data["init_parameters"]["api_base_url"] == "https://api.llama.com/compat/v1/"
    assert data["init_parameters"]["model"] == "Llama-4-Scout-17B-16E-Instruct-FP8"
    assert data["init_parameters"]["api_key"] == {
        "type": "env_var",
        "env_vars": ["LLAMA_API_KEY"],
        "strict": True,
    }


@trusted
def test_loading_leaves_the_data_as_it_was() -> None:
    data = MetaLlamaChatGenerator(streaming_callback=keep_chunk, tools=[ADD]).to_dict()
    before = deepcopy(data)
    assert _load(data).to_dict() == _load(data).to_dict() == before
    assert data == before


def test_data_of_the_published_integration_without_our_parameters_is_loaded() -> None:
    data = MetaLlamaChatGenerator().to_dict()
    ours = ("tools_strict", "http_client_kwargs", "tool_mode")
    data["init_parameters"] = {k: v for k, v in data["init_parameters"].items() if k not in ours}
    assert _load(data).to_dict() == MetaLlamaChatGenerator().to_dict()


def test_a_pydantic_response_format_is_saved_as_its_schema_and_sent_alike_afterwards(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("{}"), Reply("{}"))
    original = make(generation_kwargs={"response_format": Weather})
    loaded = _load(json.loads(json.dumps(original.to_dict())))
    ask(original, QUESTION)
    ask(loaded, QUESTION)
    loaded.close()
    assert original.generation_kwargs == {"response_format": Weather}
    first, second = (request.json["response_format"] for request in endpoint.requests)
    assert first == second


def test_a_key_given_as_a_token_is_not_written_out() -> None:
    with pytest.raises(ValueError, match=r"[Tt]oken"):
        MetaLlamaChatGenerator(api_key=Secret.from_token("sk-secret")).to_dict()


@trusted
def test_a_pipeline_with_it_goes_through_yaml(make: Maker, endpoint: Endpoint) -> None:
    pipeline = Pipeline()
    pipeline.add_component("llm", make(tools=[ADD]))
    loaded = Pipeline.loads(pipeline.dumps())
    endpoint.script(Reply("5"))
    generator = loaded.get_component("llm")
    assert isinstance(generator, MetaLlamaChatGenerator)
    assert loaded.run({"llm": {"messages": QUESTION}})["llm"]["replies"][0].text == "5"
    generator.close()


# Clients, loops, threads


def test_two_asyncio_runs_in_one_script_work(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("one"), Reply("two"), Reply("three"))
    generator = make()

    async def closing() -> str | None:
        return (await ask_async(generator, QUESTION))[0].text

    assert [asyncio.run(closing()), generator.run(QUESTION)["replies"][0].text, asyncio.run(closing())] == [
        "one",
        "two",
        "three",
    ]


async def _ask_and_leave_open(generator: MetaLlamaChatGenerator) -> str | None:
    return (await generator.run_async(QUESTION))["replies"][0].text


# Python says of each socket that nobody closed that it was left open; the test leaves them open on purpose.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_two_asyncio_runs_work_though_nobody_closes(endpoint: Endpoint) -> None:
    endpoint.script(Reply("one"), Reply("two"))
    generator = MetaLlamaChatGenerator(api_base_url=endpoint.url, model="m", max_retries=0)
    texts = [asyncio.run(_ask_and_leave_open(generator)) for _ in range(2)]
    del generator
    gc.collect()
    assert texts == ["one", "two"]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_loop_that_has_gone_is_not_kept_alive_by_its_client(endpoint: Endpoint) -> None:
    endpoint.script(Reply("one"), Reply("two"))
    generator = MetaLlamaChatGenerator(api_base_url=endpoint.url, model="m", max_retries=0)
    loop = asyncio.new_event_loop()
    first_loop = weakref.ref(loop)
    loop.run_until_complete(_ask_and_leave_open(generator))
    loop.close()
    del loop
    asyncio.run(_ask_and_leave_open(generator))
    gc.collect()
    kept = first_loop() is not None
    del generator
    gc.collect()
    assert not kept


def test_the_client_of_a_loop_is_used_again_on_that_loop(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("one"), Reply("two"))
    generator = make()

    async def twice() -> bool:
        await generator.run_async(QUESTION)
        first = generator.async_client
        await generator.run_async(QUESTION)
        same = generator.async_client is first
        await generator.close_async()
        return same

    assert asyncio.run(twice())


def test_many_questions_at_once_on_one_loop(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(lambda request: Reply(f"echo {request.messages[0]['content']}")))
    generator = make()

    async def many() -> list[str | None]:
        results = await asyncio.gather(*(generator.run_async(f"q{i}") for i in range(10)))
        await generator.close_async()
        return [result["replies"][0].text for result in results]

    assert asyncio.run(many()) == [f"echo q{i}" for i in range(10)]


def test_a_closed_generator_opens_again_when_asked(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("one"), Reply("two"))
    generator = make()
    assert ask(generator, QUESTION)[0].text == "one"
    generator.close()
    assert generator.client is None
    generator.close()
    assert ask(generator, QUESTION)[0].text == "two"


def test_close_async_closes_on_its_loop_and_asking_opens_again(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("one"), Reply("two"))
    generator = make()

    async def reopened() -> list[str | None]:
        texts = []
        for _ in range(2):
            texts.append((await generator.run_async(QUESTION))["replies"][0].text)
            await generator.close_async()
            await generator.close_async()
        return texts

    assert asyncio.run(reopened()) == ["one", "two"]
    assert generator.async_client is None


def test_warm_up_may_be_called_many_times_and_asks_the_server_nothing(
    make: Maker, endpoint: Endpoint
) -> None:
    generator = make()
    generator.warm_up()
    first = generator.client
    generator.warm_up()
    assert generator.client is first
    assert endpoint.all_requests == []


def test_one_generator_serves_several_threads(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(lambda request: Reply(f"echo {request.messages[-1]['content']}")))
    generator, shared, gate = make(), ChatMessage.from_system("Echo."), Barrier(8)

    def work(number: int) -> list[str | None]:
        gate.wait()
        return [
            ask(
                generator,
                [shared, ChatMessage.from_user(f"{number}.{i}")],
                generation_kwargs={"stream": i % 2 > 0},
            )[0].text
            for i in range(5)
        ]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))
    assert answers == [[f"echo {number}.{i}" for i in range(5)] for number in range(8)]


# Instrumented clients


def _completion(text: str) -> ChatCompletion:
    return ChatCompletion.model_validate(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"},
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        }
    )


def _spied(original: Callable[..., Any], seen: list[dict[str, Any]]) -> Callable[..., Any]:
    def create(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return original(*args, **kwargs)

    return create


@both_ways
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("unwrappable", [False, True])
def test_requests_go_through_a_create_that_somebody_has_wrapped(
    make: Maker,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    streamed: bool,
    unwrappable: bool,
) -> None:
    seen: list[dict[str, Any]] = []
    owner = AsyncCompletions if way == "async" else Completions
    spied = _spied(owner.create, seen)
    monkeypatch.setattr(owner, "create", wraps(owner.create)(spied) if unwrappable else spied)
    endpoint.script(Reply("five and more", calls=[("add", {"a": 2})], usage=(3, 4)))
    chunks: list[StreamingChunk] = []
    (reply,) = ask(
        make(tools=[ADD]),
        QUESTION,
        streaming_callback=chunks.append if streamed else None,
        generation_kwargs={"max_tokens": 7, "safe_prompt": True},
        way=way,
    )
    (call,) = seen
    assert (call.get("model"), call.get("max_tokens")) == ("m", 7), "observers read these keywords"
    assert call["messages"] == [{"role": "user", "content": "2+3?"}]
    assert call.get("stream", False) is streamed
    assert call["extra_body"] == {"safe_prompt": True}
    body = endpoint.requests[0].json
    assert (body["max_tokens"], body["safe_prompt"], body["tools"][0]["function"]["name"]) == (7, True, "add")
    assert (reply.text, reply.tool_calls[0].arguments) == ("five and more", {"a": 2})
    assert reply.meta["usage"]["total_tokens"] == 7
    assert "".join(chunk.content for chunk in chunks) == ("five and more" if streamed else "")


def test_a_mock_in_the_place_of_create_sees_the_keywords_that_the_published_tests_look_at(
    make: Maker,
) -> None:
    with patch("openai.resources.chat.completions.Completions.create") as create:
        create.return_value = _completion("mocked")
        (reply,) = ask(make(generation_kwargs={"max_tokens": 10, "temperature": 0.5}), QUESTION)
    assert reply.text == "mocked"
    assert reply.meta["usage"]["total_tokens"] == 3
    kwargs = create.call_args.kwargs
    assert (kwargs.get("model"), kwargs.get("max_tokens"), kwargs.get("temperature")) == ("m", 10, 0.5)


def test_requests_go_through_a_create_that_was_put_on_the_client_itself(make: Maker) -> None:
    generator = make()
    generator.warm_up()
    assert generator.client is not None
    with patch.object(generator.client.chat.completions, "create") as create:
        create.return_value = _completion("mocked")
        assert ask(generator, QUESTION)[0].text == "mocked"
    assert create.call_args.kwargs["messages"] == [{"role": "user", "content": "2+3?"}]


def test_when_the_wrapper_has_gone_requests_go_their_own_way_again(make: Maker, endpoint: Endpoint) -> None:
    seen: list[dict[str, Any]] = []
    generator = make()
    endpoint.script(Reply("one"), Reply("two"))
    with patch.object(Completions, "create", _spied(Completions.create, seen)):
        assert ask(generator, QUESTION)[0].text == "one"
    assert ask(generator, QUESTION)[0].text == "two"
    assert len(seen) == 1


@pytest.mark.parametrize("patched", [False, True])
def test_failures_are_our_own_errors_through_a_wrapped_create_too(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, patched: bool
) -> None:
    if patched:
        monkeypatch.setattr(Completions, "create", _spied(Completions.create, []))
    endpoint.script(Status(400, {"error": {"message": "no such field"}}))
    with pytest.raises(EndpointError, match="no such field") as caught:
        ask(make(), QUESTION)
    assert caught.value.status == 400


@both_ways
@pytest.mark.parametrize("patched", [False, True])
def test_the_clients_own_retries_are_off(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, patched: bool, way: str
) -> None:
    if patched:
        owner = AsyncCompletions if way == "async" else Completions
        monkeypatch.setattr(owner, "create", _spied(owner.create, []))
    endpoint.script(Always(Status(503, headers={"Retry-After": "0"})))
    with pytest.raises(EndpointError):
        ask(make(max_retries=0), QUESTION, way=way)
    assert len(endpoint.requests) == 1


def test_each_request_is_json_and_names_its_key(make: Maker, endpoint: Endpoint) -> None:
    requests: list[Request] = []

    def answer(request: Request) -> Reply:
        requests.append(request)
        return Reply("5")

    endpoint.script(answer)
    ask(make(api_key=Secret.from_token("sk-given")), QUESTION)
    headers = requests[0].headers
    assert (headers["content-type"], headers["authorization"]) == ("application/json", "Bearer sk-given")


def test_a_reply_that_is_streamed_again_is_announced_to_the_callback(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("Hello world", cut_after=3), Reply("Hello world"))
    chunks: list[StreamingChunk] = []
    generator = make(max_retries=1)
    reply = generator.run("hi", streaming_callback=chunks.append)["replies"][0]
    assert reply.text == "Hello world"
    told = ["".join(chunk.content for chunk in chunks[:place]) for place in range(len(chunks))]
    (place,) = [place for place, chunk in enumerate(chunks) if "superseded" in chunk.meta]
    assert chunks[place].meta["superseded"] == len(told[place]) > 0
    assert "".join(chunk.content for chunk in chunks[place:]) == "Hello world"


@pytest.mark.parametrize(
    "settings",
    [
        {"http_client_kwargs": {"headers": {"Authorization": "Bearer sk-1234567890"}}},
        {"http_client_kwargs": {"headers": {"X-Api-Key": "abc"}}},
        {"http_client_kwargs": {"proxy": "http://user:hunter22@proxy"}},
        {"api_base_url": "http://user:hunter22@host/v1"},
        {"generation_kwargs": {"extra_headers": {"Cookie": "session=1"}}},
    ],
)
def test_a_setting_that_holds_a_secret_is_not_saved(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(settings))} holds a secret"):
        MetaLlamaChatGenerator(**settings).to_dict()


def test_the_clients_own_settings_of_a_request_are_not_put_into_its_body(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("ok"))
    settings = {"extra_body": {"top_k": 5}, "extra_headers": {"X-Team": "blue"}, "timeout": 3}
    make().run("hi", generation_kwargs=settings)
    request = endpoint.requests[0]
    assert request.json == {"messages": [{"role": "user", "content": "hi"}], "model": "m", "top_k": 5}
    assert request.headers["x-team"] == "blue"


@pytest.mark.parametrize("arguments", ["", "{", '{"a": 1, "b'])
def test_a_call_cut_off_by_the_token_limit_is_marked(make: Maker, endpoint: Endpoint, arguments: str) -> None:
    endpoint.script(Reply(calls=[("wipe", {}), ("wipe", arguments)], finish_reason="length"))
    whole, cut = make().run("hi")["replies"][0].tool_calls
    assert whole.arguments == {}
    assert cut.arguments == {"malformed_arguments": arguments}
    assert "cut off by the token limit" in (cut.extra or {})["malformed_arguments"]


def test_a_generator_closed_between_two_runs_of_a_loop_opens_another_client(
    make: Maker, endpoint: Endpoint
) -> None:
    async def main() -> list[str | None]:
        generator = make()
        first = (await generator.run_async("hi"))["replies"][0].text
        generator.close()
        second = (await generator.run_async("hi"))["replies"][0].text
        await generator.close_async()
        return [first, second]

    endpoint.script(Reply("one"), Reply("two"))
    assert asyncio.run(main()) == ["one", "two"]
