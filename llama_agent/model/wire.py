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
from haystack.dataclasses import ChatMessage
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai._types import RequestOptions
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from llama_agent.model.encoding import MessageEncoder, dumps
from llama_agent.model.faults import in_time, saying_retired, translated, within_time
from llama_agent.model.history import History
from llama_agent.model.profiles import Traits
from llama_agent.model.redirects import Heard, follow, follow_async
from llama_agent.model.rest_of_stream import RestOfStream
from llama_agent.model.silent_cut import check_not_cut
from llama_agent.model.streams import (
    Delta,
    EventDecoder,
    Json,
    Reply,
    ReplyAssembler,
    parse_completion,
    parse_listing,
    parse_object,
)

_BODY_FIELDS = CompletionCreateParamsBase.__required_keys__ | CompletionCreateParamsBase.__optional_keys__
_CREATE_OPTIONS = {"headers": "extra_headers", "params": "extra_query", "timeout": "timeout"}
OWN_FIELDS = frozenset({"stream_options", "parallel_tool_calls"})
"""Fields that are sent without having been asked for."""
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
    :param until: When the attempt has to be over, on `time.monotonic`'s clock: no sync wait for the server is
        longer.
    :param heard: Told the headers of each answer, good or bad; not where somebody has patched the client.
    """

    fields: Mapping[str, Any]
    messages: tuple[ChatMessage | Json, ...] | None
    stream: bool = False
    path: str = "/chat/completions"
    method: Literal["POST", "GET"] = "POST"
    options: RequestOptions = field(default_factory=RequestOptions)
    until: float | None = None
    heard: Heard | None = None

    def heard_of(self, response: httpx2.Response) -> httpx2.Response:
        """
        Tell `heard` of a good answer.

        :param response: Its headers have arrived.
        :returns: The same.
        """
        if self.heard is not None:
            self.heard(response.headers)
        return response


LIST_MODELS = WireRequest({}, None, path="/models", method="GET")


class Transport:
    """
    Sends requests to one endpoint, sync and async.

    `refused` holds the fields that it learned to leave out.

    :param encoder: Remembers encoded messages from request to request.
    """

    def __init__(self, encoder: MessageEncoder) -> None:
        self._encoder = encoder
        self._history = History(encoder)
        self._rest = RestOfStream()
        self.refused: set[str] = set()
        self._traits = Traits()

    def suit(self, traits: Traits) -> None:
        """
        Send what the server takes, from now on.

        :param traits: What is known of it.
        """
        self._traits = traits
        self._encoder.null_content = traits.null_content
        if traits.several_calls_in_history is False:
            self._history.single_calls = True

    def leave_out(self, parameter: str, request: WireRequest) -> bool:
        """
        Do without a field, or a shape of the conversation, that the server refuses, from now on.

        :param parameter: The field's name.
        :param request: What was refused.
        :returns: Whether the request can do without: what its caller asked for stays.
        """
        if parameter == "tool_calls" and _has_turn_of_several(request):
            self._history.single_calls = True  # not a field: the template takes one call a turn
            return True
        if parameter not in OWN_FIELDS or parameter in request.fields:
            return False
        self.refused.add(parameter)
        return True

    def body(self, request: WireRequest) -> bytes:
        """
        The bytes of a request.

        :param request: The request.
        :returns: UTF-8 JSON.
        """
        fields = self._fields(request)
        if request.stream:
            fields["stream"] = True
        if request.messages is None:
            return dumps(fields)
        joined = b",".join(self._history.pieces(request.messages))
        rest = dumps(fields)[1:]
        return b'{"messages":[' + joined + (b"]," + rest if len(rest) > 1 else b"]}")

    def ids(self, messages: Sequence[ChatMessage | Json]) -> set[str]:
        """
        Ids that a new call can't have.

        :param messages: The conversation.
        :returns: Those of its calls.
        """
        return self._history.ids(messages)

    def _fields(self, request: WireRequest) -> Json:
        """The caller's fields, and those of ours that the server takes."""
        fields = dict(request.fields)
        if request.stream and self._traits.stream_usage and "stream_options" not in self.refused:
            fields.setdefault("stream_options", {"include_usage": True})
        if "tools" in fields and self._traits.asks_parallel and "parallel_tool_calls" not in self.refused:
            fields.setdefault("parallel_tool_calls", True)
        return fields

    def check_not_cut(self, request: WireRequest, answer: list[Reply] | Json) -> None:
        """
        Notice a prompt that the server cut without saying so, where such servers are known to.

        :param request: What was sent.
        :param answer: What came of it.
        :raises ContextOverflow: It was cut.
        """
        if self._traits.cuts_silently and isinstance(answer, list) and answer and request.messages:
            check_not_cut(request.messages, request.fields.get("tools"), answer[0].usage)

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
                decoder, pieces = EventDecoder(), in_time(response.iter_bytes(), request.until)
                for piece in pieces:
                    yield from _deltas(decoder.feed(piece), assembler)
                    if assembler.done:
                        return self._rest.read(response, pieces)
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
                decoder, pieces = EventDecoder(), response.aiter_bytes()
                async for piece in pieces:
                    for delta in _deltas(decoder.feed(piece), assembler):
                        yield delta
                    if assembler.done:
                        await self._rest.read_async(response, pieces)
                        return
                for delta in _deltas(decoder.end(), assembler, may_be_cut=True):
                    yield delta

    def _send_json(self, client: OpenAI, request: WireRequest) -> Json:
        body = self.body(request) if request.method == "POST" else None

        def send(url: str) -> Json:
            if body is None:
                with within_time(request.until):
                    listed = client.get(url, cast_to=httpx2.Response)
                return parse_listing(request.heard_of(listed).content)
            with within_time(request.until):
                response = client.post(url, content=body, cast_to=httpx2.Response, options=_options(request))
            return parse_object(request.heard_of(response).content)

        return follow(client, request.path, send, request.heard)

    async def _send_json_async(self, client: AsyncOpenAI, request: WireRequest) -> Json:
        body = self.body(request) if request.method == "POST" else None

        async def send(url: str) -> Json:
            if body is None:
                response = await client.get(url, cast_to=httpx2.Response)
                return parse_listing(request.heard_of(response).content)
            options = _options(request)
            response = await client.post(url, content=body, cast_to=httpx2.Response, options=options)
            return parse_object(request.heard_of(response).content)

        return await follow_async(client, request.path, send, request.heard)

    def _open(self, client: OpenAI, request: WireRequest) -> httpx2.Response:
        body = self.body(request)

        def send(url: str) -> httpx2.Response:
            with within_time(request.until):
                stream = client.post(
                    url,
                    content=body,
                    cast_to=object,
                    options=_options(request),
                    stream=True,
                    stream_cls=Stream[object],
                )
            return request.heard_of(stream.response)

        return follow(client, request.path, send, request.heard)

    async def _open_async(self, client: AsyncOpenAI, request: WireRequest) -> httpx2.Response:
        body = self.body(request)

        async def send(url: str) -> httpx2.Response:
            stream = await client.post(
                url,
                content=body,
                cast_to=object,
                options=_options(request),
                stream=True,
                stream_cls=AsyncStream[object],
            )
            return request.heard_of(stream.response)

        return await follow_async(client, request.path, send, request.heard)

    def _typed(self, request: WireRequest) -> dict[str, Any]:
        """Keyword arguments for `create`: what it doesn't know goes into `extra_body`."""
        messages = [json.loads(piece) for piece in self._history.pieces(request.messages or ())]
        fields = self._fields(request)
        unknown = {name: fields.pop(name) for name in list(fields) if name not in _BODY_FIELDS}
        options = {_CREATE_OPTIONS[name]: value for name, value in request.options.items()}
        return {"messages": messages, **fields, **options, **({"extra_body": unknown} if unknown else {})}


def _has_turn_of_several(request: WireRequest) -> bool:
    return any(isinstance(m, ChatMessage) and len(m.tool_calls) > 1 for m in request.messages or ())


def _is_event_stream(response: httpx2.Response) -> bool:
    """Whether the answer is a stream, and not an error or a whole reply as JSON, or a page."""
    kind = response.headers.get("content-type", "").lower()
    return "json" not in kind and "html" not in kind


def _options(request: WireRequest) -> RequestOptions:
    return {**request.options, "headers": {**_JSON, **request.options.get("headers", {})}}


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
