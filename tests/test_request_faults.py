"""Refusals that the request itself is to blame for: errors of their own, with numbers, names and cures."""

import asyncio
import json
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest
from haystack.dataclasses import ChatMessage

from llama_agent import (
    Agent,
    ContextOverflow,
    EndpointError,
    MetaLlamaChatGenerator,
    ParameterRefused,
    RetryPolicy,
)
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Raw, Reply, Request, Status
from tests.endpoint import Maker as ItemMaker

QUESTION = [ChatMessage.from_user("2+3?")]
QUICK = RetryPolicy(max_retries=3, initial_wait=0.001, max_wait=0.002)
EVENTS = "text/event-stream"

Json: TypeAlias = dict[str, Any]

every_way = pytest.mark.parametrize(
    ("way", "stream"), [("sync", False), ("sync", True), ("async", False), ("async", True)]
)


def ask(
    generator: MetaLlamaChatGenerator, way: str = "sync", stream: bool = False, **kwargs: Any
) -> ChatMessage:
    settings = {"generation_kwargs": {"stream": stream, **kwargs}}

    async def asked() -> ChatMessage:
        try:
            return (await generator.run_async(QUESTION, **settings))["replies"][0]
        finally:
            await generator.close_async()

    return asyncio.run(asked()) if way == "async" else generator.run(QUESTION, **settings)["replies"][0]


def failure(
    generator: MetaLlamaChatGenerator, way: str = "sync", stream: bool = False, **kwargs: Any
) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        ask(generator, way, stream, **kwargs)
    return caught.value


def openai_error(message: str, **fields: object) -> Json:
    return {"error": {"message": message, "type": "invalid_request_error", **fields}}


def flat_error(message: str, code: int = 400) -> Json:
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": code}


def forbidden(*place: str | int) -> Json:
    detail = {"type": "extra_forbidden", "loc": ["body", *place], "msg": "Extra inputs are not permitted"}
    return {"detail": [{**detail, "input": True}]}


# Context overflow: status, body, limit, requested

OVERFLOWS: dict[str, tuple[int, Json | str, int | None, int | None]] = {
    "llama.cpp": (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size. try increasing the context size",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5000,
                "n_ctx": 4096,
            }
        },
        4096,
        5000,
    ),
    "llama.cpp in words": (
        400,
        openai_error(
            "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it"
        ),
        4096,
        5000,
    ),
    "vLLM": (
        400,
        openai_error(
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 "
            "in the "
            "messages, 1000 in the completion). Please reduce the length of the messages or completion.",
            code=400,
        ),
        4096,
        5000,
    ),
    "vLLM flat": (
        400,
        flat_error(
            "This model's maximum context length is 16384 tokens. However, you requested 122946 tokens "
            "(112946 in "
            "the messages, 10000 in the completion). Please reduce the length of the messages or completion."
        ),
        16384,
        122946,
    ),
    "vLLM, input only": (
        400,
        openai_error(
            "This model's maximum context length is 200 tokens. However, your request has 203 input tokens. "
            "Please reduce the length of the input messages."
        ),
        200,
        203,
    ),
    "vLLM, max_tokens": (
        400,
        openai_error(
            "'max_tokens' or 'max_completion_tokens' is too large: 1000. This model's maximum context "
            "length is "
            "1000 tokens and your request has 203 input tokens (1000 > 1000 - 203)."
        ),
        1000,
        1203,
    ),
    "vLLM since 2026": (
        400,
        openai_error(
            "You passed 98305 input tokens and requested 32768 output tokens. However, the model's "
            "context length "
            "is only 131072 tokens, resulting in a maximum input length of 98304 tokens. Please reduce "
            "the length "
            "of the input prompt. (parameter=input_tokens, value=98305)",
            param="input_tokens",
            code=400,
        ),
        131072,
        131073,
    ),
    "vLLM, the decoder prompt": (
        400,
        flat_error(
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure "
            "that "
            "`max_model_len` is no smaller than the number of text tokens."
        ),
        4096,
        5000,
    ),
    "SGLang": (
        400,
        flat_error("The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        4096,
        5000,
    ),
    "SGLang, a total": (
        400,
        flat_error(
            "Requested token count exceeds the model's maximum context length of 4096 tokens. You "
            "requested a "
            "total of 5000 tokens: 4000 tokens from the input messages and 1000 tokens for the completion."
        ),
        4096,
        5000,
    ),
    "TGI": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
            "Given: 4000 `inputs` tokens and 1000 `max_new_tokens`",
            "error_type": "validation",
        },
        4096,
        5000,
    ),
    "TGI without quotes": (
        422,
        {
            "error": "Input validation error: inputs tokens + max_new_tokens must be <= 4096. "
            "Given: 4000 inputs tokens and 1000 max_new_tokens",
            "error_type": "validation",
        },
        4096,
        5000,
    ),
    "TGI, inputs": (
        422,
        {
            "error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
            "error_type": "validation",
        },
        1024,
        2000,
    ),
    "Groq 413": (
        413,
        openai_error(
            "Request too large for model `llama-3.3-70b-versatile` in organization `org_01` service tier "
            "`on_demand` on tokens per minute (TPM): Limit 6000, Requested 7012, please reduce your "
            "message size "
            "and try again.",
            type="tokens",
            code="rate_limit_exceeded",
        ),
        6000,
        7012,
    ),
    "Groq 429": (
        429,
        openai_error(
            "Request too large for model `llama-3.3-70b-versatile` in organization `org_01` on tokens per "
            "minute "
            "(TPM): Limit 6000, Requested 7012, please reduce your message size and try again.",
            code="rate_limit_exceeded",
        ),
        6000,
        7012,
    ),
    "only too large": (413, openai_error("Request too large"), None, None),
    "OpenAI's code": (400, openai_error("Too long.", code="context_length_exceeded"), None, None),
    "too long": (400, openai_error("prompt is too long: 210000 tokens > 200000 maximum"), 200000, 210000),
    "with commas": (
        400,
        openai_error("This model's maximum context length is 131,072 tokens. You requested 140,000 tokens."),
        131072,
        140000,
    ),
    "as text": (400, "the request exceeds the available context size", None, None),
}

overflows = pytest.mark.parametrize(
    ("status", "body", "limit", "requested"), OVERFLOWS.values(), ids=OVERFLOWS.keys()
)


@every_way
@overflows
def test_a_request_that_is_too_long_for_the_window_has_an_error_of_its_own(
    make: Maker,
    endpoint: Endpoint,
    status: int,
    body: Json | str,
    limit: int,
    requested: int,
    way: str,
    stream: bool,
) -> None:
    endpoint.script(Status(status, body))
    error = failure(make(), way, stream)
    assert type(error) is ContextOverflow
    assert error.status == status


@overflows
def test_an_overflow_tells_the_limit_and_what_was_requested(
    make: Maker, endpoint: Endpoint, status: int, body: Json | str, limit: int | None, requested: int | None
) -> None:
    endpoint.script(Status(status, body))
    error = failure(make())
    assert isinstance(error, ContextOverflow)
    assert (error.limit, error.requested) == (limit, requested)


NUMBERED = {name: case for name, case in OVERFLOWS.items() if isinstance(case[1], dict)}


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("form", ["200", "200 streamed", "event", "event behind text"])
@pytest.mark.parametrize("name", ["llama.cpp", "vLLM", "SGLang", "TGI", "Groq 429", "OpenAI's code"])
def test_an_overflow_told_in_a_200_or_a_stream_is_one(
    make: Maker, endpoint: Endpoint, name: str, form: str, way: str
) -> None:
    _, body, limit, requested = OVERFLOWS[name]
    assert isinstance(body, dict)
    event = f"data: {json.dumps(body)}\n\n".encode()
    begun = b'data: {"choices":[{"index":0,"delta":{"content":"Well"}}]}\n\n'
    items: dict[str, Item] = {
        "200": Status(200, body),
        "200 streamed": Status(200, body),
        "event": Raw([event], EVENTS),
        "event behind text": Raw([begun, event], EVENTS),
    }
    endpoint.script(items[form])
    error = failure(make(retry=QUICK), way, stream=form != "200")
    assert isinstance(error, ContextOverflow)
    assert (error.limit, error.requested) == (limit, requested)


@every_way
@pytest.mark.parametrize("name", ["llama.cpp", "Groq 413", "Groq 429"])
def test_an_overflow_is_never_sent_again(
    make: Maker, endpoint: Endpoint, name: str, way: str, stream: bool
) -> None:
    status, body, _, _ = OVERFLOWS[name]
    endpoint.script(Status(status, body, {"Retry-After": "0"}))
    assert not failure(make(retry=QUICK), way, stream).retryable
    assert len(endpoint.requests) == 1


def test_an_overflow_says_what_can_be_done(make: Maker, endpoint: Endpoint) -> None:
    status, body, _, _ = OVERFLOWS["vLLM"]
    endpoint.script(Status(status, body))
    text = str(failure(make()))
    assert "4096" in text, "what the server said"
    assert "shorten" in text
    assert "max_tokens" in text


def test_an_agents_overflow_holds_what_the_run_had_got_to(make: Maker, endpoint: Endpoint) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    status, body, _, _ = OVERFLOWS["SGLang"]
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Always(Status(status, body)))
    with pytest.raises(ContextOverflow) as caught:
        Agent(chat_generator=make(), tools=[add]).run("2+3?")
    assert caught.value.result is not None
    assert [message.role for message in caught.value.result.messages] == ["user", "assistant", "tool"]


NO_OVERFLOWS: dict[str, tuple[int, Json]] = {
    "a rate limit": (
        429,
        openai_error(
            "Rate limit reached for model `x` in organization `org_01` on tokens per minute (TPM): Limit "
            "6000, "
            "Used 5800, Requested 700. Please try again in 5s.",
            code="rate_limit_exceeded",
        ),
    ),
    "a bad value": (400, openai_error("max_tokens must be at least 1, got 0")),
    "a limit of something else": (400, openai_error("temperature must be <= 2")),
    "a model": (404, openai_error("The model `x` does not exist")),
    "a page": (413, openai_error("upload too large")),
}


@pytest.mark.parametrize(("status", "body"), NO_OVERFLOWS.values(), ids=NO_OVERFLOWS.keys())
def test_another_refusal_is_no_overflow(make: Maker, endpoint: Endpoint, status: int, body: Json) -> None:
    endpoint.script(Status(status, body))
    assert type(failure(make())) is EndpointError


def test_words_of_the_conversation_that_a_server_echoes_are_no_overflow(
    make: Maker, endpoint: Endpoint
) -> None:
    detail = {
        "type": "missing",
        "loc": ["body", "messages", 0, "name"],
        "msg": "Field required",
        "input": {"role": "user", "content": "Why does vLLM say: maximum context length is 4096 tokens?"},
    }
    endpoint.script(Status(422, {"detail": [detail]}))
    assert not isinstance(failure(make()), ContextOverflow)


# Refused parameters: status, body, parameter

REFUSALS: dict[str, tuple[int, Json | str, str]] = {
    "OpenAI, unrecognized": (
        400,
        openai_error("Unrecognized request argument supplied: logit_bias"),
        "logit_bias",
    ),
    "OpenAI, unknown": (
        400,
        openai_error("Unknown parameter: 'logit_bias'.", param="logit_bias"),
        "logit_bias",
    ),
    "OpenAI, unsupported": (
        400,
        openai_error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' "
            "instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
        "max_tokens",
    ),
    "named by `param` only": (
        400,
        openai_error("Not supported with this model.", param="logit_bias", code="unsupported_parameter"),
        "logit_bias",
    ),
    "Groq": (400, openai_error("property 'logit_bias' is unsupported"), "logit_bias"),
    "llama.cpp": (500, openai_error("Unsupported param: logit_bias", code=500), "logit_bias"),
    "TGI": (
        422,
        "Failed to deserialize the JSON body into the target type: unknown field `logit_bias`, expected "
        "one of "
        "`model`, `messages` at line 1 column 20",
        "logit_bias",
    ),
    "FastAPI": (422, forbidden("parallel_tool_calls"), "parallel_tool_calls"),
    "vLLM before 0.7": (
        400,
        flat_error(
            "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs "
            "are not "
            "permitted', 'input': 800}]"
        ),
        "max_completion_tokens",
    ),
    "Fireworks": (400, openai_error("Extra inputs are not permitted, field: 'logit_bias'"), "logit_bias"),
    "Azure": (
        400,
        openai_error("Validation error at #/logit_bias: Extra inputs are not permitted"),
        "logit_bias",
    ),
    "pydantic's text": (400, openai_error("logit_bias: Extra inputs are not permitted"), "logit_bias"),
    "in words": (400, openai_error("This model does not support the parameter logit_bias"), "logit_bias"),
}

refusals = pytest.mark.parametrize(("status", "body", "parameter"), REFUSALS.values(), ids=REFUSALS.keys())


@refusals
def test_a_parameter_that_a_server_refuses_is_named(
    make: Maker, endpoint: Endpoint, status: int, body: Json | str, parameter: str
) -> None:
    endpoint.script(Status(status, body))
    error = failure(make(), logit_bias={}, max_tokens=9, max_completion_tokens=9, parallel_tool_calls=True)
    assert isinstance(error, ParameterRefused)
    assert error.parameter == parameter


@every_way
def test_a_refused_parameter_is_the_same_error_in_every_way_of_asking(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Status(400, openai_error("Unknown parameter: 'top_k'.")))
    error = failure(make(retry=QUICK), way, stream, top_k=3)
    assert isinstance(error, ParameterRefused)
    assert (error.parameter, error.status, error.retryable) == ("top_k", 400, False)


@pytest.mark.parametrize("form", ["200", "event"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_refusal_told_in_a_200_or_a_stream_is_one(
    make: Maker, endpoint: Endpoint, form: str, way: str
) -> None:
    body = openai_error("Unknown parameter: 'top_k'.")
    event = Raw([f"data: {json.dumps(body)}\n\n".encode()], EVENTS)
    endpoint.script(Status(200, body) if form == "200" else event)
    error = failure(make(retry=QUICK), way, stream=form == "event", top_k=3)
    assert isinstance(error, ParameterRefused)


@pytest.mark.parametrize(
    ("message", "cure"),
    [
        ("Unsupported parameter: 'top_k'", "Leave 'top_k' out of generation_kwargs"),
        ("Unsupported parameter: 'max_tokens'", "max_completion_tokens"),
        ("Unsupported parameter: 'max_completion_tokens'", "max_tokens"),
        ("Unsupported parameter: 'tools'", "tool_mode='constrained'"),
        ("Unsupported parameter: 'tool_choice'", "tool_mode='constrained'"),
        ("Unsupported parameter: 'strict'", "tools_strict=False"),
    ],
)
def test_a_refused_parameter_comes_with_the_cure(
    make: Maker, endpoint: Endpoint, message: str, cure: str
) -> None:
    endpoint.script(Status(400, openai_error(message)))
    text = str(failure(make(), top_k=3))
    assert message in text
    assert cure in text


@pytest.mark.parametrize(
    ("status", "said", "cure"),
    [
        (500, "tools param requires --jinja flag", "--jinja"),
        (
            400,
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            "--enable-auto-tool-choice",
        ),
        (400, "registry.ollama.ai/library/gemma:latest does not support tools", "tool_mode='constrained'"),
        (400, "json mode cannot be combined with tool/function calling", "response_format"),
        (500, "This model only supports single tool-calls at once!", "tool_mode='constrained'"),
    ],
)
def test_a_server_that_is_not_set_up_for_tools_comes_with_the_cure(
    make: Maker, endpoint: Endpoint, status: int, said: str, cure: str
) -> None:
    endpoint.script(Status(status, openai_error(said, code=status)))
    error = failure(make(retry=QUICK))
    assert cure in str(error).replace(said, "")
    assert len(endpoint.requests) == 1


def test_a_field_within_the_messages_is_not_called_a_generation_argument(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Status(422, forbidden("messages", 0, "reasoning_content")))
    assert "Leave 'messages' out" not in str(failure(make()))


def test_strictness_that_a_server_refuses_within_a_tool_is_not_a_refusal_of_tools(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Status(422, forbidden("tools", 0, "function", "strict")))
    assert "tools_strict=False" in str(failure(make()))


NO_REFUSALS: dict[str, tuple[int, Json]] = {
    "a model": (
        400,
        openai_error("The requested model 'gpt2' is not supported by any provider you have enabled."),
    ),
    "a method (Spring)": (405, {"title": "Method Not Allowed", "detail": "Method 'POST' is not supported."}),
    "a role": (400, openai_error("'developer' is not supported as a role")),
    "a value": (400, openai_error("Value 'xhigh' is not supported. Use low, medium or high.")),
    "a key": (401, openai_error("Unknown parameter: 'top_k'.")),
}


@pytest.mark.parametrize(("status", "body"), NO_REFUSALS.values(), ids=NO_REFUSALS.keys())
def test_what_is_no_field_of_the_request_is_not_called_a_refused_parameter(
    make: Maker, endpoint: Endpoint, status: int, body: Json
) -> None:
    endpoint.script(Status(status, body))
    assert not isinstance(failure(make()), ParameterRefused)


# `stream_options`, which we add ourselves

OPTIONS_REFUSED: dict[str, tuple[int, Mapping[str, Any] | str]] = {
    "unrecognized": (400, openai_error("Unrecognized request argument supplied: stream_options")),
    "nested": (400, openai_error("Unknown parameter: 'stream_options.include_usage'.")),
    "FastAPI": (422, forbidden("stream_options")),
    "FastAPI, nested": (422, forbidden("stream_options", "include_usage")),
    "TGI": (422, "Failed to deserialize the JSON body: unknown field `stream_options`, expected `model`"),
    "vLLM 0.5": (
        400,
        flat_error(
            "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not "
            "permitted', 'input': {}}]"
        ),
    ),
    "Fireworks": (400, {"error": "Extra inputs are not permitted, field: 'stream_options'"}),
    "Azure": (400, openai_error("Validation error at #/stream_options: Extra inputs are not permitted")),
}


def refusing(status: int, body: Mapping[str, Any] | str) -> ItemMaker:
    return lambda request: Status(status, body) if "stream_options" in request.json else Reply("5")


def sent_options(requests: list[Request]) -> list[bool]:
    return ["stream_options" in request.json for request in requests]


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(("status", "body"), OPTIONS_REFUSED.values(), ids=OPTIONS_REFUSED.keys())
def test_a_server_that_refuses_stream_options_is_asked_without_them(
    make: Maker, endpoint: Endpoint, status: int, body: Mapping[str, Any] | str, way: str
) -> None:
    endpoint.script(Always(refusing(status, body)))
    assert ask(make(), way, stream=True).text == "5"
    assert sent_options(endpoint.requests) == [True, False]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_stream_options_that_were_refused_once_are_not_sent_again(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Always(refusing(*OPTIONS_REFUSED["unrecognized"])))
    generator = make()
    assert [ask(generator, way, stream=True).text for _ in range(3)] == ["5", "5", "5"]
    assert sent_options(endpoint.requests) == [True, False, False, False]


def test_stream_options_are_sent_while_nobody_refuses_them(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make()
    for _ in range(2):
        ask(generator, stream=True)
    assert sent_options(endpoint.requests) == [True, True]


def test_stream_options_that_the_caller_asked_for_are_not_left_out(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(refusing(*OPTIONS_REFUSED["unrecognized"])))
    error = failure(make(), stream=True, stream_options={"include_usage": True})
    assert isinstance(error, ParameterRefused)
    assert error.parameter == "stream_options"
    assert len(endpoint.requests) == 1


def test_a_server_that_refuses_what_was_not_sent_is_asked_twice_at_most(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Always(Status(*OPTIONS_REFUSED["unrecognized"])))
    assert isinstance(failure(make(retry=QUICK), stream=True), ParameterRefused)
    assert len(endpoint.requests) == 2


def test_asking_without_stream_options_needs_no_retry(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(refusing(*OPTIONS_REFUSED["FastAPI"])))
    assert ask(make(retry=RetryPolicy(max_retries=0)), stream=True).text == "5"


def test_a_fault_that_may_pass_behind_the_refusal_is_tried_again_without_stream_options(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Status(*OPTIONS_REFUSED["FastAPI"]), Status(503), Reply("5"))
    assert ask(make(retry=QUICK), stream=True).text == "5"
    assert sent_options(endpoint.requests) == [True, False, False]


def test_a_refusal_within_the_stream_shows_the_callback_the_reply_once(
    make: Maker, endpoint: Endpoint
) -> None:
    event = (
        f"data: {json.dumps(openai_error(chr(39).join(['Unknown parameter: ', 'stream_options', ''])))}\n\n"
    )
    endpoint.script(Raw([event.encode()], EVENTS), Reply("five"))
    shown: list[str] = []
    make().run(QUESTION, lambda chunk: shown.append(chunk.content))
    assert "".join(shown) == "five"


def test_many_threads_at_once_are_all_answered_by_a_server_that_refuses_stream_options(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Always(refusing(*OPTIONS_REFUSED["FastAPI"])))
    generator = make()
    with ThreadPoolExecutor(16) as threads:
        texts = list(threads.map(lambda _: ask(generator, stream=True).text, range(16)))
    assert texts == ["5"] * 16


# As exceptions


@pytest.mark.parametrize(
    "item", [Status(*OVERFLOWS["llama.cpp"][:2]), Status(400, openai_error("Unknown parameter: 'top_k'."))]
)
def test_the_error_survives_the_way_to_another_process(make: Maker, endpoint: Endpoint, item: Status) -> None:
    endpoint.script(item)
    error = failure(make(), top_k=3)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
