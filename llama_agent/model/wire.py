"""
The request path: messages encoded once, bytes joined, sent by the `openai` client; what goes wrong becomes an
`EndpointError` that shows what the server said.

The client's typed `create` walks the whole conversation each time (70 % of its cost, quadratic over a run),
so requests go through its documented `post` for custom requests instead, with its auth, headers and
time-outs. Where `Completions.create` has been patched or wrapped (Langfuse, OpenInference, ddtrace, tests),
requests go through it.
"""

from __future__ import annotations

import inspect
import json
import weakref
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, cast

import httpx2
import openai
from haystack.dataclasses import (
    ChatMessage,
    FileContent,
    ImageContent,
    ReasoningContent,
    TextContent,
    ToolCall,
)
from haystack.dataclasses.chat_message import ToolCallResult
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai._types import RequestOptions
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from llama_agent.arguments import MALFORMED
from llama_agent.errors import ConfigurationError
from llama_agent.model.faults import (
    MAX_REDIRECTS,
    in_time,
    redirectable,
    saying_retired,
    too_many_redirects,
    translated,
)
from llama_agent.model.streams import (
    Delta,
    EventDecoder,
    Json,
    Reply,
    ReplyAssembler,
    parse_completion,
    parse_object,
)

_BODY_FIELDS = CompletionCreateParamsBase.__required_keys__ | CompletionCreateParamsBase.__optional_keys__
_CREATE_OPTIONS = {"headers": "extra_headers", "params": "extra_query", "timeout": "timeout"}
_JSON = {"Content-Type": "application/json"}
_OPENAI_FOLDER = str(Path(inspect.getfile(openai)).parent)


@dataclass(frozen=True)
class WireRequest:
    """
    One request to `/chat/completions`, or to another path of the same server.

    :param fields: The body's fields, without `messages` and `stream`.
    :param messages: The conversation; already encoded messages may be dicts. None for a body without
        messages.
    :param stream: Whether the reply is streamed.
    :param path: Path below the base URL, or, with two slashes, at the server's root (`//completion`).
    :param method: `GET` sends no body.
    :param options: The client's own settings of one request: `headers`, `params`, `timeout` (seconds).
    :param until: When the attempt has to be over, on `time.monotonic`'s clock; looked at when bytes arrive.
    """

    fields: Mapping[str, Any]
    messages: tuple[ChatMessage | Json, ...] | None
    stream: bool = False
    path: str = "/chat/completions"
    method: Literal["POST", "GET"] = "POST"
    options: RequestOptions = field(default_factory=RequestOptions)
    until: float | None = None


LIST_MODELS = WireRequest({}, None, path="/models", method="GET")


class MessageEncoder:
    """
    ChatMessages → wire bytes, each encoded once.

    What was encoded is remembered by the message's identity. Only a weak reference is kept: a generator
    serves many runs, and mustn't keep their conversations alive. A message that was edited since is noticed
    by its parts, and encoded anew.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[ChatMessage], tuple[object, ...], bytes]] = {}

    def encode(self, message: ChatMessage) -> bytes:
        """
        Encode a message.

        :param message: Any message that has content, or an assistant's.
        :returns: UTF-8 JSON of the object in OpenAI's format.
        :raises ConfigurationError: The format has no place for such a message.
        """
        key = id(message)
        parts = _parts_of(message)
        known = self._known.get(key)
        if known is not None and known[0]() is message and known[1] == parts:
            return known[2]
        encoded = _dumps(wire_message(message))
        forget = self._known.pop
        self._known[key] = (weakref.ref(message, lambda _: forget(key, None)), parts, encoded)
        return encoded


class Transport:
    """
    Sends requests to one endpoint, sync and async.

    :param encoder: Remembers encoded messages from request to request.
    """

    def __init__(self, encoder: MessageEncoder) -> None:
        self._encoder = encoder

    def body(self, request: WireRequest) -> bytes:
        """
        The bytes of a request.

        :param request: The request.
        :returns: UTF-8 JSON.
        """
        fields = dict(request.fields)
        if request.stream:
            fields["stream"] = True
            fields.setdefault("stream_options", {"include_usage": True})
        if request.messages is None:
            return _dumps(fields)
        messages = (m if isinstance(m, ChatMessage) else _dumps(m) for m in request.messages)
        joined = b",".join(self._encoder.encode(m) if isinstance(m, ChatMessage) else m for m in messages)
        rest = _dumps(fields)[1:]
        return b'{"messages":[' + joined + (b"]," + rest if len(rest) > 1 else b"]}")

    def send(self, client: OpenAI, request: WireRequest) -> list[Reply]:
        """
        Send a request and read the whole answer.

        :param client: The client to send it with.
        :param request: Not streamed.
        :returns: One reply per choice.
        :raises EndpointError: The server failed, or its answer is no reply.
        """
        with saying_retired(client):
            if not _is_patched(client.chat.completions, Completions):
                return parse_completion(self._send_json(client, request))
            create = cast("Callable[..., ChatCompletion]", client.chat.completions.create)
            with translated(client):
                return parse_completion(create(**self._typed(request)).model_dump())

    async def send_async(self, client: AsyncOpenAI, request: WireRequest) -> list[Reply]:
        """`send`, on the running event loop."""
        with saying_retired(client):
            if not _is_patched(client.chat.completions, AsyncCompletions):
                return parse_completion(await self._send_json_async(client, request))
            create = cast("Callable[..., Awaitable[ChatCompletion]]", client.chat.completions.create)
            with translated(client):
                return parse_completion((await create(**self._typed(request))).model_dump())

    def send_json(self, client: OpenAI, request: WireRequest) -> Json:
        """
        Send a request and parse the answer's JSON.

        :param client: The client to send it with.
        :param request: Not streamed.
        :returns: The answer.
        :raises EndpointError: The server failed, or its answer is no JSON object.
        """
        with saying_retired(client):
            return self._send_json(client, request)

    async def send_json_async(self, client: AsyncOpenAI, request: WireRequest) -> Json:
        """`send_json`, on the running event loop."""
        with saying_retired(client):
            return await self._send_json_async(client, request)

    def stream(self, client: OpenAI, request: WireRequest, assembler: ReplyAssembler) -> Iterator[Delta]:
        """
        Send a request and read the answer as it comes.

        :param client: The client to send it with.
        :param request: Streamed.
        :param assembler: Collects the reply; call its `finish` afterwards.
        :returns: What each event added.
        :raises EndpointError: The server failed, or the stream broke.
        """
        with saying_retired(client), translated(client):
            if _is_patched(client.chat.completions, Completions):
                create = cast("Callable[..., Iterable[ChatCompletionChunk]]", client.chat.completions.create)
                for chunk in create(**self._typed(request), stream=True):
                    yield assembler.add(chunk.model_dump())
                assembler.done = True
                return
            with closing(self._open(client, request)) as response:
                if not _is_event_stream(response):
                    yield assembler.take_whole(b"".join(in_time(response.iter_bytes(), request.until)))
                    return
                decoder = EventDecoder()
                for piece in in_time(response.iter_bytes(), request.until):
                    yield from _deltas(decoder.feed(piece), assembler)
                    if assembler.done:
                        return
                yield from _deltas(decoder.end(), assembler, may_be_cut=True)

    async def stream_async(
        self, client: AsyncOpenAI, request: WireRequest, assembler: ReplyAssembler
    ) -> AsyncIterator[Delta]:
        """`stream`, on the running event loop."""
        with saying_retired(client), translated(client):
            if _is_patched(client.chat.completions, AsyncCompletions):
                create = cast(
                    "Callable[..., Awaitable[AsyncIterable[ChatCompletionChunk]]]",
                    client.chat.completions.create,
                )
                async for chunk in await create(**self._typed(request), stream=True):
                    yield assembler.add(chunk.model_dump())
                assembler.done = True
                return
            async with aclosing(await self._open_async(client, request)) as response:
                if not _is_event_stream(response):
                    yield assembler.take_whole(await response.aread())
                    return
                decoder = EventDecoder()
                async for piece in response.aiter_bytes():
                    for delta in _deltas(decoder.feed(piece), assembler):
                        yield delta
                    if assembler.done:
                        return
                for delta in _deltas(decoder.end(), assembler, may_be_cut=True):
                    yield delta

    def _send_json(self, client: OpenAI, request: WireRequest) -> Json:
        url = _url_of(client, request.path)
        body = self.body(request) if request.method == "POST" else None
        for _ in range(MAX_REDIRECTS):
            with redirectable(client) as redirect:
                if body is None:
                    return parse_object(client.get(url, cast_to=httpx2.Response).content)
                if request.until is not None:
                    with closing(self._open(client, request)) as opened:
                        return parse_object(b"".join(in_time(opened.iter_bytes(), request.until)))
                return parse_object(
                    client.post(url, content=body, cast_to=httpx2.Response, options=_options(request)).content
                )
            url = redirect.target
        raise too_many_redirects(url)

    async def _send_json_async(self, client: AsyncOpenAI, request: WireRequest) -> Json:
        url = _url_of(client, request.path)
        body = self.body(request) if request.method == "POST" else None
        for _ in range(MAX_REDIRECTS):
            with redirectable(client) as redirect:
                if body is None:
                    return parse_object((await client.get(url, cast_to=httpx2.Response)).content)
                response = await client.post(
                    url, content=body, cast_to=httpx2.Response, options=_options(request)
                )
                return parse_object(response.content)
            url = redirect.target
        raise too_many_redirects(url)

    def _open(self, client: OpenAI, request: WireRequest) -> httpx2.Response:
        url, body = _url_of(client, request.path), self.body(request)
        for _ in range(MAX_REDIRECTS):
            with redirectable(client) as redirect:
                stream = client.post(
                    url,
                    content=body,
                    cast_to=object,
                    options=_options(request),
                    stream=True,
                    stream_cls=Stream[object],
                )
                return stream.response
            url = redirect.target
        raise too_many_redirects(url)

    async def _open_async(self, client: AsyncOpenAI, request: WireRequest) -> httpx2.Response:
        url, body = _url_of(client, request.path), self.body(request)
        for _ in range(MAX_REDIRECTS):
            with redirectable(client) as redirect:
                stream = await client.post(
                    url,
                    content=body,
                    cast_to=object,
                    options=_options(request),
                    stream=True,
                    stream_cls=AsyncStream[object],
                )
                return stream.response
            url = redirect.target
        raise too_many_redirects(url)

    def _typed(self, request: WireRequest) -> dict[str, Any]:
        """Keyword arguments for `create`: what it doesn't know goes into `extra_body`."""
        messages = [m if isinstance(m, dict) else wire_message(m) for m in request.messages or ()]
        fields = dict(request.fields)
        if request.stream:
            fields.setdefault("stream_options", {"include_usage": True})
        unknown = {name: fields.pop(name) for name in list(fields) if name not in _BODY_FIELDS}
        options = {_CREATE_OPTIONS[name]: value for name, value in request.options.items()}
        return {"messages": messages, **fields, **options, **({"extra_body": unknown} if unknown else {})}


def wire_message(message: ChatMessage) -> Json:
    """
    A message in OpenAI's format.

    :param message: Any message that has content, or an assistant's.
    :returns: The object. Content is never null (Ollama answers 400 to that: pydantic/pydantic-ai#5206), and a
        call whose arguments could not be read is sent with `{}`.
    :raises ConfigurationError: The format has no place for such a message.
    """
    if len(results := message.tool_call_results) == 1 and not isinstance(results[0].result, str):
        # The format has nothing but text for results (OpenAI's API reference, tool messages).
        text = _text_of_parts(results[0].result)
        return {"role": "tool", "content": text, "tool_call_id": results[0].origin.id or ""}
    try:
        wire = message.to_openai_dict_format(require_tool_call_ids=False)
    except ValueError as error:
        raise ConfigurationError(f"a {message.role.value} message can't be sent: {error}") from error
    wire.setdefault("content", "")
    for call, sent in zip(message.tool_calls, wire.get("tool_calls", ()), strict=False):
        if replayed_arguments(call) is not call.arguments:
            sent["function"]["arguments"] = "{}"
    return wire


def _text_of_parts(parts: Sequence[TextContent | ImageContent | FileContent]) -> str:
    """Content parts as text: what can't be said in it is named, so that the model knows that it is there."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, TextContent):
            lines.append(part.text)
        else:
            kind = part.mime_type or ("image" if isinstance(part, ImageContent) else "file")
            lines.append(f"[{kind}: a tool's result can't show it here]")
    return "\n".join(lines)


def replayed_arguments(call: ToolCall) -> Json:
    """
    Arguments of an earlier call as a server is told of them.

    :param call: Any call of the conversation.
    :returns: Its arguments; none where they could not be read.
    """
    return {} if MALFORMED in (call.extra or {}) else call.arguments


def _is_event_stream(response: httpx2.Response) -> bool:
    """Whether the answer is a stream, and not an error or a whole reply as JSON, or a page."""
    kind = response.headers.get("content-type", "").lower()
    return "json" not in kind and "html" not in kind


def _options(request: WireRequest) -> RequestOptions:
    return {**request.options, "headers": {**_JSON, **request.options.get("headers", {})}}


def _url_of(client: OpenAI | AsyncOpenAI, path: str) -> str:
    """`/x` is below the base URL, which the client adds; `//x` is at the server's root."""
    return str(client.base_url.copy_with(raw_path=path[1:].encode())) if path.startswith("//") else path


def _deltas(
    payloads: Iterator[bytes], assembler: ReplyAssembler, *, may_be_cut: bool = False
) -> Iterator[Delta]:
    for payload in payloads:
        if assembler.done:
            return
        if (delta := assembler.feed(payload, may_be_cut=may_be_cut)) is not None:
            yield delta


def _is_patched(
    completions: Completions | AsyncCompletions, own: type[Completions | AsyncCompletions]
) -> bool:
    """Whether somebody has put something in the place of the package's own `create`."""
    create = own.__dict__.get("create")
    if "create" in vars(completions) or type(completions) is not own or not isinstance(create, FunctionType):
        return True
    return not create.__code__.co_filename.startswith(_OPENAI_FOLDER)


def _parts_of(message: ChatMessage) -> tuple[object, ...]:
    """What a message's encoding depends on, cheap to compare with an earlier look."""
    parts: list[object] = [message._role, message._name, message._meta.get("refusal")]  # pyright: ignore[reportPrivateUsage] - the properties copy
    for part in message._content:  # pyright: ignore[reportPrivateUsage]
        parts.append(_part_key(part))
    return tuple(parts)


def _part_key(part: object) -> object:
    match part:
        case TextContent():
            return part.text
        case ToolCall():
            return (
                part.id,
                part.tool_name,
                json.dumps(part.arguments, default=repr),
                MALFORMED in (part.extra or {}),
            )
        case ToolCallResult():
            content = (
                part.result if isinstance(part.result, str) else tuple(_part_key(p) for p in part.result)
            )
            return content, part.origin.id
        case ImageContent():
            return part.base64_image, part.mime_type, part.detail
        case FileContent():
            return part.base64_data, part.mime_type, part.filename
        case ReasoningContent():
            return None
        case _:
            return object()


def _dumps(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
            "utf-8", "replace"
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the request can't be written as JSON: {error}") from error
