"""The items of a script, and the bytes that each becomes in answer to a request."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from http.client import responses as reason_phrases
from itertools import count
from typing import Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]

CREATED = 1_700_000_000
"""The `created` time of everything that the endpoint sends: fixed, so that two runs send equal bytes."""

LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """
    A request as it arrived.

    `path` is the target as sent, with its query if it had one. Header names are in lower case; the values of
    a header sent twice are joined by ", ".
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body, parsed anew at each use. Raises `ValueError` when it is not JSON."""
        return json.loads(self.body)

    @property
    def messages(self) -> list[Json]:
        """The conversation that was sent."""
        return self.json["messages"]


@dataclass(frozen=True)
class Reply:
    """
    A good answer: server-sent events when the request has `"stream": true`, else one JSON body.

    :param text: The message's content.
    :param calls: Tool calls as (name, arguments). A dict is dumped to JSON; a str is sent as it is, so that
        malformed arguments can be scripted.
    :param reasoning: Sent as `reasoning_content`, before the text. For another name, use `extra`.
    :param finish_reason: By default "tool_calls" when there are calls, else "stop".
    :param usage: Prompt and completion tokens. A stream carries them only when the request asked for it.
    :param model: By default the model that was asked for.
    :param chunk_size: Characters per piece of a streamed text or argument string.
    :param pause: Seconds between two events of a stream.
    :param first_pause: Seconds before the headers, streamed or not.
    :param cut_after: Close the connection after this many events of a stream (never with `[DONE]`), or after
        this many bytes of a body whose Content-Length promised all of it.
    :param ids: One id for each call. By default "call_1", "call_2", ... counted over the endpoint's life.
    :param extra: Merged into the message, or into the first delta of a stream.
    :param no_usage: Leave the usage out, as some servers do, even when it was asked for.
    """

    text: str | None = None
    _: KW_ONLY
    calls: Sequence[tuple[str, Mapping[str, Any] | str]] = ()
    reasoning: str | None = None
    finish_reason: str | None = None
    usage: tuple[int, int] = (10, 5)
    model: str | None = None
    chunk_size: int = 4
    pause: float = 0.0
    first_pause: float = 0.0
    cut_after: int | None = None
    ids: Sequence[str] | None = None
    extra: Mapping[str, Any] | None = None
    no_usage: bool = False

    def __post_init__(self) -> None:
        """Refuse, where the test wrote it, a reply that could not be sent."""
        if self.ids is not None and len(self.ids) != len(self.calls):
            raise ValueError(f"{len(self.ids)} ids for {len(self.calls)} calls: give one id for each call")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size is {self.chunk_size}: a piece has at least one character")


@dataclass(frozen=True)
class Status:
    """
    A plain answer with this status code.

    :param body: A dict is sent as JSON, a str as text/html. By default an error in OpenAI's shape.
    :param headers: Added to the usual ones, or instead of those of the same name.
    """

    code: int
    body: Mapping[str, Any] | str | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Drop:
    """Reset the TCP connection (RST, not FIN) without an answer."""


@dataclass(frozen=True)
class Raw:
    """
    These bytes as they are: one body, or, for a sequence, one HTTP chunk for each.

    :param pause: Seconds between two chunks.
    """

    body: bytes | Sequence[bytes]
    content_type: str = "application/json"
    status: int = 200
    pause: float = 0.0


Item: TypeAlias = Reply | Status | Drop | Raw
Maker: TypeAlias = Callable[[Request], Item]


@dataclass(frozen=True)
class Always:
    """Answers every further request, so it must be a script's last item. It is never left over."""

    item: Item | Maker


@dataclass(frozen=True)
class Wire:
    """
    A rendered answer.

    :param pieces: Each one is one write. The last one completes the answer (or is where it is cut).
    :param ending: What happens to the connection then. "close" is an orderly FIN, so that what was written is
        sure to arrive; "reset" is an RST.
    """

    pieces: Sequence[bytes]
    first_pause: float = 0.0
    pause: float = 0.0
    ending: Literal["keep", "close", "reset"] = "keep"


@dataclass(frozen=True)
class Numbers:
    """The running numbers of one endpoint, from which ids are made."""

    replies: Iterator[int] = field(default_factory=lambda: count(1))
    calls: Iterator[int] = field(default_factory=lambda: count(1))


def render(item: Item, request: Request, numbers: Numbers) -> Wire:
    """
    Turn an item into bytes.

    :raises TypeError: When `item` is not one, as when a script's function forgot to return.
    """
    match item:
        case Reply():
            return _render_reply(item, json.loads(request.body or b"{}"), numbers)
        case Status():
            return Wire([_render_status(item)])
        case Drop():
            return Wire([], ending="reset")
        case Raw():
            return _render_raw(item)
        case _:
            raise TypeError(f"a script's function returned {item!r}, not a Reply, Status, Drop or Raw")


def _render_raw(raw: Raw) -> Wire:
    if isinstance(raw.body, bytes):
        return Wire([_whole(raw.status, raw.content_type, raw.body)])
    head = _chunked_head(raw.status, raw.content_type)
    chunks = [_chunk(part) for part in raw.body if part]  # an empty chunk would be read as the last one
    return Wire(_joined(head, chunks, LAST_CHUNK), pause=raw.pause)


def _render_status(status: Status) -> bytes:
    body = status.body
    if isinstance(body, str):
        return _whole(status.code, "text/html; charset=utf-8", body.encode(), status.headers)
    if body is None:
        body = {"error": {"message": f"scripted status {status.code}", "type": "server_error"}}
    return _whole(status.code, "application/json", _dump(body), status.headers)


def _render_reply(reply: Reply, asked: Json, numbers: Numbers) -> Wire:
    envelope: Json = {
        "id": f"chatcmpl-{next(numbers.replies)}",
        "created": CREATED,
        "model": reply.model or asked.get("model") or "test-model",
    }
    calls = _tool_calls(reply, numbers)
    if asked.get("stream"):
        return _streamed(reply, _events(reply, envelope, calls, with_usage=_asks_for_usage(asked)))
    return _unstreamed(reply, _completion(reply, envelope, calls))


def _unstreamed(reply: Reply, completion: Json) -> Wire:
    body = _dump(completion)
    whole = _whole(200, "application/json", body)
    if reply.cut_after is None:
        return Wire([whole], first_pause=reply.first_pause)
    head_size = len(whole) - len(body)
    return Wire([whole[: head_size + reply.cut_after]], first_pause=reply.first_pause, ending="close")


def _streamed(reply: Reply, events: Iterable[Json]) -> Wire:
    head = _chunked_head(200, "text/event-stream; charset=utf-8")
    chunks = [_chunk(b"data: " + _dump(event) + b"\n\n") for event in events]
    if reply.cut_after is None:
        pieces = _joined(head, [*chunks, _chunk(b"data: [DONE]\n\n")], LAST_CHUNK)
        return Wire(pieces, first_pause=reply.first_pause, pause=reply.pause)
    pieces = _joined(head, chunks[: reply.cut_after], b"")
    return Wire(pieces, first_pause=reply.first_pause, pause=reply.pause, ending="close")


def _completion(reply: Reply, envelope: Json, calls: Sequence[Json]) -> Json:
    message: Json = {"role": "assistant", "content": reply.text}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if calls:
        message["tool_calls"] = calls
    message |= reply.extra or {}
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(reply)}
    completion = {**envelope, "object": "chat.completion", "choices": [choice]}
    return completion if reply.no_usage else {**completion, "usage": _usage(reply)}


def _events(reply: Reply, envelope: Json, calls: Sequence[Json], *, with_usage: bool) -> Iterator[Json]:
    chunk = {**envelope, "object": "chat.completion.chunk"}
    for delta in _deltas(reply, calls):
        yield {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish_reason(reply)}]}
    if with_usage and not reply.no_usage:
        yield {**chunk, "choices": [], "usage": _usage(reply)}


def _deltas(reply: Reply, calls: Sequence[Json]) -> Iterator[Json]:
    yield {"role": "assistant", "content": None if reply.text is None else "", **(reply.extra or {})}
    for piece in _split(reply.reasoning or "", reply.chunk_size):
        yield {"reasoning_content": piece}
    for piece in _split(reply.text or "", reply.chunk_size):
        yield {"content": piece}
    for index, call in enumerate(calls):
        function = call["function"]
        yield {"tool_calls": [{"index": index, **call, "function": {**function, "arguments": ""}}]}
        for piece in _split(function["arguments"], reply.chunk_size):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _tool_calls(reply: Reply, numbers: Numbers) -> list[Json]:
    ids = reply.ids if reply.ids is not None else [f"call_{next(numbers.calls)}" for _ in reply.calls]
    return [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": _arguments(arguments)}}
        for id_, (name, arguments) in zip(ids, reply.calls, strict=True)
    ]


def _arguments(arguments: Mapping[str, Any] | str) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _finish_reason(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.calls else "stop")


def _usage(reply: Reply) -> Json:
    prompt, completion = reply.usage
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _asks_for_usage(asked: Json) -> bool:
    options: Json = asked.get("stream_options") or {}
    return bool(options.get("include_usage"))


def _split(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def _dump(value: Mapping[str, Any]) -> bytes:
    # As UTF-8 and not as \u escapes: it is what servers send, and so what a client has to decode.
    return json.dumps(value, ensure_ascii=False).encode()


def _whole(status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    usual = {"Content-Type": content_type, "Content-Length": str(len(body))}
    return _head(status, usual, headers or {}) + body


def _chunked_head(status: int, content_type: str) -> bytes:
    return _head(status, {"Content-Type": content_type, "Transfer-Encoding": "chunked"}, {})


def _head(status: int, usual: Mapping[str, str], scripted: Mapping[str, str]) -> bytes:
    overridden = {name.lower() for name in scripted}
    kept = {name: value for name, value in usual.items() if name.lower() not in overridden}
    lines = [f"HTTP/1.1 {status} {reason_phrases.get(status, 'Scripted')}"]
    lines += [f"{name}: {value}" for name, value in {**kept, **scripted}.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _joined(head: bytes, chunks: Sequence[bytes], end: bytes) -> list[bytes]:
    """
    Put the head before the first chunk and the end behind the last one.

    The end is in the last write because a client may rightly hang up as soon as it has read `[DONE]`; that
    must not look like a reply that it did not wait for.
    """
    pieces = list(chunks) or [b""]
    pieces[0] = head + pieces[0]
    pieces[-1] += end
    return pieces
