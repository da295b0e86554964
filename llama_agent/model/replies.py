"""A server's reply → Haystack's `ChatMessage` and `StreamingChunk`s."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast
from uuid import uuid4

from haystack.dataclasses import ChatMessage, ComponentInfo, StreamingChunk, ToolCall
from haystack.dataclasses.streaming_chunk import FinishReason, ToolCallDelta

from llama_agent.arguments import MALFORMED, read_arguments
from llama_agent.events import ReasoningDelta, TextDelta, TextSuperseded, emit
from llama_agent.lenient_json import is_same
from llama_agent.model.streams import CallDelta, CallText, Delta, Reply, arguments_text
from llama_agent.tool_names import offered_name

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}

_TOLD = "_told_in_events"

_CUT_OFF = (
    "The call was cut off by the token limit. Send it again, in smaller parts if its arguments are long."
)


def message_of(reply: Reply, offered: Collection[str] = (), taken: Collection[str] = ()) -> ChatMessage:
    """
    Make a reply a message.

    Each call gets an id of its own: servers leave them out (continuedev/continue#13225) or repeat them.

    :param reply: What the server answered.
    :param offered: Names of the tools on offer; a name that means one of them becomes it.
    :param taken: Ids of earlier calls of the conversation.
    :returns: An assistant message. `meta` holds `model`, `index`, `finish_reason`, `usage`, and `reasoning`,
        `refusal` and `logprobs` where there are any; `recovered` and `tool_call_format` where calls were read
        from its text. A call whose arguments can't be read is marked, never dropped.
    """
    meta: dict[str, Any] = {
        "model": reply.model,
        "index": reply.index,
        "finish_reason": reply.finish_reason,
        "usage": reply.usage,
    }
    extras = {
        "reasoning": reply.reasoning,
        "refusal": reply.refusal,
        "logprobs": reply.logprobs,
        "context_tokens": reply.context_tokens,
    }
    meta.update({key: value for key, value in extras.items() if value})
    if reply.recovered:
        meta |= {"recovered": True, "tool_call_format": reply.recovered}
    calls = _tool_calls(reply.calls, offered, taken)
    if calls and reply.finish_reason == "length" and _may_be_cut(reply.calls[-1]):
        raw = {MALFORMED: reply.calls[-1].arguments}
        calls[-1] = replace(calls[-1], arguments=raw, extra={MALFORMED: _CUT_OFF})
    return ChatMessage.from_assistant(reply.text, tool_calls=calls, meta=meta)


class ChunkMaker:
    """
    Deltas of one reply → chunks as Haystack's streaming callbacks expect them.

    :param component_info: Which component streams.
    """

    def __init__(self, component_info: ComponentInfo) -> None:
        self._info = component_info
        self._text_started = False
        self._shown = False
        self._characters = 0

    def restart(self) -> Iterator[StreamingChunk]:
        """
        The reply begins, maybe once more after a broken stream.

        :returns: Nothing at first; later a chunk that says how many characters of text no longer count. An
            event says the same.
        """
        if self._shown:
            emit(TextSuperseded, characters=self._characters)
            yield StreamingChunk("", meta={"superseded": self._characters}, component_info=self._info)
        self._text_started = self._shown = False
        self._characters = 0

    @contextmanager
    def forgotten_on_error(self) -> Generator[None]:
        """Around a callback: one that raises isn't called again, to take back what it was shown."""
        try:
            yield
        except BaseException:
            self._shown = False
            raise

    def note(self, delta: Delta) -> None:
        """
        Tell a delta in events, and remember that it was shown.

        :param delta: What an event added.
        """
        self._shown = self._shown or bool(delta.text or delta.calls)
        self._characters += len(delta.text)
        if delta.reasoning:
            emit(ReasoningDelta, text=delta.reasoning)
        if delta.text:
            emit(TextDelta, text=delta.text)

    def told(self, delta: Delta, reply: Reply) -> Iterator[StreamingChunk]:
        """
        Note a delta, and make its chunks.

        :param delta: What an event added.
        :param reply: The reply so far.
        :returns: As `chunks`.
        """
        self.note(delta)
        return self.chunks(delta, reply)

    def chunks(self, delta: Delta, reply: Reply) -> Iterator[StreamingChunk]:
        """
        The chunks of one delta.

        :param delta: What an event added.
        :param reply: The reply so far.
        :returns: One chunk per kind of content, and one that ends the reply; see `is_told`.
        """
        for chunk in self._chunks(delta, reply):
            setattr(chunk, _TOLD, True)
            yield chunk

    def _chunks(self, delta: Delta, reply: Reply) -> Iterator[StreamingChunk]:
        meta: dict[str, Any] = {"model": reply.model}
        if delta.text:
            start, self._text_started = not self._text_started, True
            yield StreamingChunk(delta.text, meta=meta, component_info=self._info, index=0, start=start)
        for call in delta.calls:
            piece = ToolCallDelta(call.position, call.name, call.arguments or None, call.id)
            yield StreamingChunk(
                "",
                meta=meta,
                component_info=self._info,
                index=call.position,
                tool_calls=[piece],
                start=call.is_new,
            )
        if delta.finish_reason or delta.usage:
            end = {**meta, "finish_reason": delta.finish_reason, "usage": delta.usage}
            reason = _FINISH_REASONS.get(delta.finish_reason or "")
            yield StreamingChunk("", meta=end, component_info=self._info, finish_reason=reason)


def is_told(chunk: StreamingChunk) -> bool:
    """
    Whether events have told of a chunk: those of our generators, whatever stands between them and the agent.

    :param chunk: Any.
    :returns: False for a chunk of another generator's.
    """
    return hasattr(chunk, _TOLD)


def whole(reply: Reply) -> Delta:
    """
    A whole reply as one delta.

    :param reply: The reply.
    :returns: All of it.
    """
    pieces = tuple(
        CallDelta(place, True, call.id, call.name, arguments_text(call.arguments))
        for place, call in enumerate(reply.calls)
    )
    return Delta(reply.text or "", reply.reasoning or "", pieces, reply.finish_reason, reply.usage or None)


def _may_be_cut(call: CallText) -> bool:
    """Whether a call at the token limit may be missing something: all but an object that is closed."""
    return isinstance(call.arguments, str) and read_arguments(call.arguments.strip() or "{")[1] is not None


def _tool_calls(
    calls: Sequence[CallText], offered: Collection[str], taken: Collection[str]
) -> list[ToolCall]:
    made: list[ToolCall] = []
    by_id: dict[str, list[ToolCall]] = {}
    for text in calls:
        call = call_of(text, offered)
        sent = (text.id or "").strip()
        same = by_id.setdefault(sent, []) if sent else []
        if any(o.tool_name == call.tool_name and is_same(o.arguments, call.arguments) for o in same):
            continue  # the same call, sent twice
        call_id = sent if sent and not same and sent not in taken else f"call_{uuid4().hex[:24]}"
        made.append(replace(call, id=call_id))
        same.append(made[-1])
    return made


def call_of(text: CallText, offered: Collection[str]) -> ToolCall:
    """
    Read a call.

    :param text: As the server sent it.
    :param offered: Names of the tools on offer; a name that means one of them becomes it.
    :returns: The call, without an id; marked where its arguments can't be read.
    """
    arguments, error = read_arguments(cast("Any", text.arguments))
    if text.error is not None:
        arguments, error = {MALFORMED: arguments_text(text.arguments)}, text.error
    name = offered_name(text.name, offered) or text.name
    return ToolCall(name, arguments, extra={MALFORMED: error} if error else None)
