"""Tool calls in the texts of replies: read, unless they only repeat what the model was shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from haystack.dataclasses import ChatMessage, ChatRole, TextContent

from llama_agent.model.formats.cursor import Found, Offered
from llama_agent.model.formats.reader import TextReader
from llama_agent.model.streams import CallDelta, CallText, Delta, Json, Reply, arguments_text

_NOT_COMPARED = re.compile(r"<\|[a-z_]{1,20}\|>|\\[nrt]|[\s\\]")
"""
What may differ between a block and its echo: white space, control tokens, and escapes, for a tool's result
may be JSON.
"""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class TextCalls:
    """
    Reads the calls in the texts of one request's replies.

    :param offered: Tools on offer.
    :param conversation: What the model was shown; a call that stands in it is an echo.
    :param after_prose: Whether an untagged call behind prose counts.
    """

    offered: Offered
    conversation: Sequence[ChatMessage]
    after_prose: bool = False

    def reading(self) -> ReplyReading:
        """
        Begin with a reply.

        :returns: Takes its deltas.
        """
        return ReplyReading(TextReader(self.offered, self._is_echo, after_prose=self.after_prose))

    def read(self, reply: Reply) -> None:
        """
        Read a whole reply: calls in its text become its calls.

        :param reply: It is changed.
        """
        reading = self.reading()
        reading.shown(Delta(reply.text or ""))
        reading.end(reply)

    def _is_echo(self, found: Found, block: str) -> bool:
        sources = [call.source for call in found.calls if call.source.startswith("{")]
        return any(self._was_shown(text) for text in (block, *sources))

    def _was_shown(self, text: str) -> bool:
        # Most texts don't have the longest word of it: comparing is for those that do.
        word = max(_WORD.findall(text), key=len, default="")
        wanted = _NOT_COMPARED.sub("", text.replace("```json", "").replace("```", ""))
        return any(
            word in shown and wanted in _NOT_COMPARED.sub("", shown)
            for message in self.conversation
            for shown in _texts_shown(message)
        )


class ReplyReading:
    """
    One reply, as it comes.

    :param reader: Reads its text.
    """

    def __init__(self, reader: TextReader) -> None:
        self._reader = reader
        self._finish_reason: str | None = None
        self._usage: Json | None = None

    def shown(self, delta: Delta) -> Delta:
        """
        Take a delta.

        :param delta: What an event added.
        :returns: What of it can be shown now. The end of the reply comes by `end`.
        """
        self._finish_reason = delta.finish_reason or self._finish_reason
        self._usage = delta.usage or self._usage
        text = self._reader.feed(delta.text) if delta.text else ""
        return replace(delta, text=text, finish_reason=None, usage=None)

    def end(self, reply: Reply) -> Delta:
        """
        The reply is complete: calls in its text become its calls, where it has no others.

        :param reply: It is changed.
        :returns: What is still to be shown.
        """
        reader, rest = self._reader, self._reader.end()
        if reply.calls:
            return Delta(rest + "".join(reader.block_texts), "", (), self._finish_reason, self._usage)
        reply.echoes = tuple(call.name for found in reader.echoes for call in found.calls)
        if not reader.found:
            reply.text = reader.outside or None
            return Delta(rest, "", (), self._finish_reason, self._usage)
        reply.text = reader.outside.strip() or None
        reply.recovered = reader.found[0].format
        reply.calls = [
            CallText(f"call_{uuid4().hex[:24]}", call.name, call.arguments, call.error)
            for found in reader.found
            for call in found.calls
        ]
        if reply.finish_reason in (None, "stop"):
            reply.finish_reason = "tool_calls"
        pieces = tuple(
            CallDelta(place, True, call.id, call.name, arguments_text(call.arguments))
            for place, call in enumerate(reply.calls)
        )
        return Delta(rest, "", pieces, self._finish_reason and reply.finish_reason, self._usage)


def _texts_shown(message: ChatMessage) -> Iterator[str]:
    """What a user or a tool said."""
    if message.is_from(ChatRole.USER):
        yield from message.texts
    for result in message.tool_call_results:
        if isinstance(result.result, str):
            yield result.result
        else:
            yield from (part.text for part in result.result if isinstance(part, TextContent))
