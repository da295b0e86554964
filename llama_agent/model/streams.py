"""
Server-sent events → one reply, from regular and irregular servers.

Irregular deltas were seen in the wild: calls without an index (ollama/ollama#7881), index 0 for all
(ollama/ollama#15457), ids and names repeated in each delta.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import jiter

from llama_agent.errors import EndpointError
from llama_agent.model.object_end import ObjectEnd
from llama_agent.model.request_faults import blames_the_request, is_retryable, request_fault
from llama_agent.redaction import redact

_DONE = b"[DONE]"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Json = dict[str, Any]
"""A JSON object as it came from the server: untrusted, its fields checked where they are read."""


@dataclass
class CallText:
    """
    One tool call as the server wrote it.

    :param id: The server's id, or None.
    :param name: Name of the tool.
    :param arguments: Text of the arguments, or an object where the server sent one.
    :param error: Why it can't run, for the model, where that is known already.
    """

    id: str | None = None
    name: str = ""
    arguments: str | Mapping[str, Any] = ""
    error: str | None = None


@dataclass
class Reply:
    """
    One choice of a model's answer, read but not yet judged.

    :param text: Content, or None.
    :param calls: Tool calls.
    :param usage: Token counts in OpenAI's names, as the server sent them; empty when it sent none.
    :param reasoning: Thinking text, kept apart from the answer.
    :param context_tokens: Tokens of the longest request that it took, itself included, where it took several.
    :param recovered: Format of the text that the calls were read from; None for native calls.
    :param echoes: Tools named by calls in the text that only repeat what the model was shown.
    """

    text: str | None = None
    calls: list[CallText] = field(default_factory=list[CallText])
    finish_reason: str | None = None
    usage: Json = field(default_factory=Json)
    model: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    index: int = 0
    logprobs: object = None
    context_tokens: int | None = None
    recovered: str | None = None
    echoes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallDelta:
    """
    What one event added to a tool call.

    :param position: Which call of the reply, from 0.
    :param is_new: Whether the call began with it.
    :param id: The call's id, when it became known; else None.
    :param name: The tool's name, when it became known; else None.
    :param arguments: New text of the arguments, maybe empty.
    """

    position: int
    is_new: bool
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class Delta:
    """
    What one event added.

    :param text: New text, maybe empty.
    :param reasoning: New thinking text, maybe empty.
    :param calls: Pieces of calls: position in the reply, whether it is a new call, and the new arguments
        text.
    :param finish_reason: Set by the event that ends the reply.
    :param usage: Set by the event that carries the token counts.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Json | None = None


class EventDecoder:
    """
    Bytes → payloads of server-sent events (WHATWG HTML, section 9.2), fed in any pieces.

    Only `data` fields count; comments, blank keep-alives and other fields are passed over.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._begun = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """
        Take the next bytes.

        :param piece: Any number of bytes, cut anywhere.
        :returns: The payloads of the events that are complete now, without the empty ones that keep
            a connection alive.
        """
        may_end_line = b"\n" in piece or b"\r" in piece or (self._rest and self._rest[-1].endswith(b"\r"))
        self._rest.append(piece)
        if self._begun and not may_end_line:
            return  # a long line in many pieces is joined once
        text = b"".join(self._rest)
        self._rest = [text]
        if not self._begun:
            if len(text) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(text):
                return
            self._begun, text = True, text.removeprefix(_BYTE_ORDER_MARK)
        # A CR ends a line, but the next piece may begin with its LF: keep it back until then.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = [lines.pop() + held]
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                payload = b"\n".join(self._data)
                self._data.clear()
                if payload.strip():
                    yield payload

    def end(self) -> Iterator[bytes]:
        """
        The stream is over.

        :returns: The last payload, when the server didn't end it with a blank line. It may be cut.
        """
        yield from self.feed(b"\n\n")


class ReplyAssembler:
    """Deltas → one `Reply`."""

    def __init__(self) -> None:
        self.reply = Reply()
        self.done = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._arguments: list[list[str]] = []
        self._ends: list[ObjectEnd] = []
        self._by_index: dict[int, int] = {}
        self._by_id: dict[str, int] = {}
        self._repeating: set[int] = set()

    def feed(self, payload: bytes, *, may_be_cut: bool = False) -> Delta | None:
        """
        Take one event.

        :param payload: The event's data.
        :param may_be_cut: Pass over data that isn't whole: the stream ended in its midst; `finish` says so.
        :returns: What it added; None when it added nothing.
        :raises EndpointError: It isn't JSON, or it carries an error.
        """
        if payload.strip() == _DONE:
            self.done = True
            return None
        if may_be_cut and not _is_json(payload):
            return None
        return self.add(parse_object(payload))

    def take_whole(self, body: bytes) -> Delta:
        """
        Take a whole reply, from a server that doesn't stream.

        :param body: The body of a `chat.completion`.
        :returns: All of it, as one delta.
        :raises EndpointError: It is none.
        """
        reply = parse_completion(parse_object(body))[0]
        self.reply, self.done = reply, True
        self._text, self._reasoning = [reply.text or ""], [reply.reasoning or ""]
        self._arguments = [
            [call.arguments] if isinstance(call.arguments, str) else [] for call in reply.calls
        ]
        calls = tuple(
            CallDelta(position, True, call.id, call.name, arguments_text(call.arguments))
            for position, call in enumerate(reply.calls)
        )
        return Delta(reply.text or "", reply.reasoning or "", calls, reply.finish_reason, reply.usage or None)

    def add(self, chunk: Json) -> Delta:
        """
        Take one chunk.

        :param chunk: A `chat.completion.chunk` object.
        :returns: What it added.
        :raises EndpointError: It carries an error.
        """
        raise_error_in_body(chunk)
        if isinstance(model := chunk.get("model"), str):
            self.reply.model = model
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.reply.usage = cast("Json", usage)
        choice = _first_object(chunk.get("choices"))
        delta = _object(choice.get("delta"))
        text, reasoning = _text(delta.get("content")), reasoning_of(delta) or ""
        self._text.append(text)
        self._reasoning.append(reasoning)
        self.reply.refusal = _string(delta.get("refusal")) or self.reply.refusal
        pieces = tuple(self._call_piece(_object(item)) for item in _list(delta.get("tool_calls")))
        finish_reason = _string(choice.get("finish_reason")) or None
        self.reply.finish_reason = finish_reason or self.reply.finish_reason
        return Delta(
            text, reasoning, pieces, finish_reason, self.reply.usage if isinstance(usage, dict) else None
        )

    def finish(self) -> Reply:
        """
        The reply, once the stream is over.

        :returns: The whole reply.
        :raises EndpointError: The stream had neither a `finish_reason` nor `[DONE]`: it broke off, though a
            connection that is just closed looks like an end.
        """
        if not self.done and self.reply.finish_reason is None:
            raise EndpointError("the stream broke off before the reply was complete", retryable=True)
        self.reply.text = "".join(self._text) or None
        self.reply.reasoning = "".join(self._reasoning) or None
        for call, pieces in zip(self.reply.calls, self._arguments, strict=True):
            if isinstance(call.arguments, str):
                call.arguments = "".join(pieces)
        return self.reply

    def complete_calls(self, first: int) -> list[CallText]:
        """
        Calls that are complete, though the reply may not be.

        :param first: Where to begin; calls before it are passed over.
        :returns: They and their arguments, up to the first that isn't complete. Their `id` may be set.
        """
        found: list[CallText] = []
        for place in range(first, len(self.reply.calls)):
            call = self.reply.calls[place]
            if not call.name or not self._is_complete(place):
                break
            if isinstance(call.arguments, str):
                call.arguments = "".join(self._arguments[place])
            found.append(call)
        return found

    def _call_piece(self, piece: Json) -> CallDelta:
        function = _object(piece.get("function"))
        call_id, name = _string(piece.get("id")), _string(function.get("name"))
        arguments = function.get("arguments")
        index = piece.get("index")
        position = self._position(index, call_id, name, arguments)
        is_new = position is None
        if position is None:
            position = len(self.reply.calls)
            self.reply.calls.append(CallText())
            self._arguments.append([])
            self._ends.append(ObjectEnd())
        if isinstance(index, int):
            self._by_index[index] = position
        call = self.reply.calls[position]
        if not is_new and name and name == call.name:
            self._repeating.add(position)
        # Set once, never added to: servers repeat both in each delta, and none cuts a name in pieces.
        new_id, new_name = (call_id if not call.id else ""), (name if not call.name else "")
        call.id, call.name = call.id or call_id or None, call.name or name
        if new_id:
            self._by_id[new_id] = position
        text = arguments_text(cast("Json", arguments)) if isinstance(arguments, dict) else _string(arguments)
        if isinstance(arguments, dict):
            call.arguments = cast("Json", arguments)
        else:
            self._arguments[position].append(text)
            self._ends[position].feed(text)
        return CallDelta(position, is_new, new_id or None, new_name or None, text)

    def _position(self, index: object, call_id: str, name: str, arguments: object) -> int | None:
        """Which call a piece belongs to; None for a new one."""
        calls = self.reply.calls
        if isinstance(index, int):
            position = self._by_index.get(index)
        else:
            position = self._by_id.get(call_id, len(calls) - 1 if calls else None)
        if position is None:
            return None
        call = calls[position]
        if (call_id and call.id and call_id != call.id) or (name and call.name and name != call.name):
            return None
        if name and call.name and not (call_id and call_id == call.id) and self._is_complete(position):
            # The name comes again after complete arguments: another call of the same tool, unless this server
            # repeats the name in each delta and has nothing more to say.
            begins = isinstance(arguments, dict) or _string(arguments).lstrip().startswith("{")
            if begins or position not in self._repeating:
                return None
        return position

    def _is_complete(self, position: int) -> bool:
        is_whole = self.done or isinstance(self.reply.calls[position].arguments, dict)
        return is_whole or self._ends[position].reached


def parse_completion(body: Json) -> list[Reply]:
    """
    Read a `chat.completion` object.

    :param body: The response's JSON.
    :returns: One reply per choice.
    :raises EndpointError: It carries an error, or no choice.
    """
    raise_error_in_body(body)
    choices = [_object(item) for item in _list(body.get("choices"))]
    if not choices:
        raise EndpointError("the server's answer has no choices", body=str(body), retryable=True)
    return [_reply_of(body, choice, position) for position, choice in enumerate(choices)]


def parse_listing(payload: bytes) -> Json:
    """
    Parse a list, such as that of the models.

    :param payload: UTF-8 text.
    :returns: OpenAI's `{"data": [...]}`, also where a server sends the bare array (Together).
    :raises EndpointError: It is neither an object nor an array.
    """
    if payload.lstrip()[:1] != b"[":
        return parse_object(payload)
    return parse_object(b'{"data":' + payload + b"}")


def parse_object(payload: bytes) -> Json:
    """
    Parse JSON that has to be an object.

    :param payload: UTF-8 text.
    :returns: The object.
    :raises EndpointError: It is something else: cut, empty, a proxy's page. That may pass.
    """
    try:
        value = jiter.from_json(payload, partial_mode=False)
    except ValueError as error:
        shown = redact(payload.decode(errors="replace"), limit=200)
        text = f"the server's answer is not JSON ({error}): {shown!r}"
        if not payload.strip():
            text = "the server's answer is empty"
        elif payload.lstrip()[:1] == b"<":
            text = f"the server's answer is a page and no JSON: is the base URL complete (/v1)? {shown!r}"
        raise EndpointError(text, retryable=True) from None
    if not isinstance(value, dict):
        shown = redact(payload.decode(errors="replace"), limit=200)
        raise EndpointError(f"the server's answer is not a JSON object: {shown}", retryable=True)
    return cast("Json", value)


def raise_error_in_body(body: Json) -> None:
    """
    Notice an error that arrives with status 200 or within a stream.

    :param body: A parsed body or event.
    :raises EndpointError: It has neither choices nor usage, and says that something is wrong, in any shape.
    """
    if body.get("choices") or body.get("usage"):
        return
    error = body.get("error")
    said = error_text(body) or (str(cast("object", error)) if error else None)
    if said is None:
        return
    code = _object(cast("object", error)).get("code", body.get("code", body.get("status")))
    status = code if type(code) is int and 100 <= code <= 599 else None
    told, text = f"the server answered with an error: {said}", json.dumps(body, default=str)
    if (fault := request_fault(told, status=status, body=body, text=text, said=said)) is not None:
        raise fault
    raise EndpointError(
        told,
        status=status,
        body=text,
        # Without a status it is like a 500: it may pass, unless it blames the request.
        retryable=is_retryable(500, said) and not blames_the_request(f"{code} {said}")
        if status is None
        else is_retryable(status, said),
    )


def error_text(body: object) -> str | None:
    """
    What a server's error body says, whatever its shape.

    :param body: Parsed JSON: OpenAI's `{"error": {"message"}}`, `{"error": "text"}`, RFC 7807's `detail` and
        `title`, flat `{"message"}` (vLLM, SGLang), or FastAPI's list of `detail`s.
    :returns: The text, or None when there is none.
    """
    fields = _object(body)
    for value in (_object(fields.get("error")).get("message"), fields.get("error"), fields.get("detail"),
                  fields.get("message"), fields.get("title")):  # fmt: skip
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and value:
            return "; ".join(map(_detail_text, cast("list[object]", value)))[:500]
    return None


def _detail_text(detail: object) -> str:
    """One of FastAPI's details: what and where, without the input that it repeats."""
    fields = _object(detail)
    if not isinstance(message := fields.get("msg"), str):
        return str(detail)
    place = ".".join(str(part) for part in _list(fields.get("loc")))
    return f"{place}: {message}" if place else message


def arguments_text(arguments: str | Mapping[str, Any]) -> str:
    """
    Arguments as text.

    :param arguments: Text, or an object where a server sent one.
    :returns: The text; JSON of an object.
    """
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def reasoning_of(message: Json) -> str | None:
    """
    Thinking text of a message or delta.

    :param message: The object; vLLM writes `reasoning`, llama.cpp and SGLang `reasoning_content`.
    :returns: The text, or None.
    """
    return _string(message.get("reasoning_content")) or _string(message.get("reasoning")) or None


def _reply_of(body: Json, choice: Json, position: int) -> Reply:
    message = _object(choice.get("message"))
    calls = [_object(item) for item in _list(message.get("tool_calls"))]
    index = choice.get("index")
    return Reply(
        text=_text(message.get("content")) or None,
        calls=[_call_of(call) for call in calls],
        finish_reason=_string(choice.get("finish_reason")) or None,
        usage=_object(body.get("usage")),
        model=_string(body.get("model")) or None,
        reasoning=reasoning_of(message),
        refusal=_string(message.get("refusal")) or None,
        index=index if isinstance(index, int) else position,
        logprobs=choice.get("logprobs"),
    )


def _call_of(call: Json) -> CallText:
    function = _object(call.get("function"))
    arguments = function.get("arguments")
    return CallText(
        id=_string(call.get("id")) or None,
        name=_string(function.get("name")),
        arguments=cast("Json", arguments) if isinstance(arguments, dict) else _string(arguments),
    )


def _is_json(text: bytes) -> bool:
    try:
        jiter.from_json(text)
    except ValueError:
        return False
    return True


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _first_object(value: object) -> Json:
    items = _list(value)
    return _object(items[0]) if items else {}


def _text(content: object) -> str:
    """Content as text: a string, or a list of text parts."""
    if isinstance(content, list):
        return "".join(_string(_object(part).get("text")) for part in cast("list[object]", content))
    return _string(content)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
