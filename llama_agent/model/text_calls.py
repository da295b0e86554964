"""Tool calls in the texts of replies: read, unless they only repeat what the model was shown."""

from __future__ import annotations

import html
import json
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from haystack.dataclasses import ChatMessage, ChatRole, TextContent

from llama_agent.arguments import SUMMARY
from llama_agent.model.formats.cursor import Found, Offered, TextCall
from llama_agent.model.formats.python_tag import MARKER as PYTHON_TAG
from llama_agent.model.formats.reader import TextReader
from llama_agent.model.streams import CallDelta, CallText, Delta, Json, Reply, arguments_text

_NOT_COMPARED = re.compile(
    r"<\|[a-z_]{1,20}\|>|```(?:json)?|\\[nrt]|[\s\\\u200b-\u200f\u2060\ufeff]", re.IGNORECASE
)
"""
What may differ between a block and its echo: white space, control tokens and fences, what can't be seen, and
escapes, for a tool's result may be JSON.
"""
_ESCAPED = re.compile(r"\\+u([0-9a-fA-F]{4})")
_QUOTES = str.maketrans(dict.fromkeys("'“”‘’`", '"'))
_WORD = re.compile(r"[\w.\-/]+")
_BARE_TAG = "\x00"
"""Stands for `<|python_tag|>`, which matters for code alone."""
_NAME_WITHIN = 300
"""Characters of a call in which its name stands."""
_IN_LIST = frozenset("[,]")


class Shown:
    """
    What users and tools said, as echoes are looked for in it: made once for each message.

    Only a weak reference to the messages is kept.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[ChatMessage], list[str], list[str]]] = {}

    def texts(self, message: ChatMessage) -> list[str]:
        """
        The texts of a message, without what may differ in an echo.

        :param message: Any.
        :returns: None for an assistant's or the system's.
        """
        if message.is_from(ChatRole.ASSISTANT) or message.is_from(ChatRole.SYSTEM) or SUMMARY in message.meta:
            return []
        key, texts = id(message), list(_texts_shown(message))
        known = self._known.get(key)
        if known is not None and known[0]() is message and known[1] == texts:
            return known[2]
        bare, forget = [_bare(text) for text in texts], self._known.pop
        self._known[key] = (weakref.ref(message, lambda _: forget(key, None)), texts, bare)
        return bare


@dataclass(frozen=True)
class TextCalls:
    """
    Reads the calls in the texts of one request's replies.

    :param offered: Tools on offer.
    :param conversation: What the model was shown; a call that stands in it is an echo.
    :param after_prose: Whether an untagged call behind prose counts.
    :param shown: What was made of the conversation before.
    """

    offered: Offered
    conversation: Sequence[ChatMessage]
    after_prose: bool = False
    shown: Shown = field(default_factory=Shown)

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
        names = {call.name for call in found.calls}
        names |= {word for call in found.calls for word in self._written_names(call)}
        marks = [_bare(name) for name in names]
        if any(not call.source for call in found.calls):
            marks = [_BARE_TAG]  # code needn't name its tool
        return any(
            self._repeats(found, block, text)
            for message in self.conversation
            for text in self.shown.texts(message)
            # Most texts don't have the names in them: comparing is for those that do.
            if any(mark in text for mark in marks)
        )

    def _written_names(self, call: TextCall) -> Iterator[str]:
        """The name as the model wrote it."""
        words = _WORD.findall(call.source[:_NAME_WITHIN])
        return (word for word in words if self.offered.name(word) == call.name)

    def _repeats(self, found: Found, block: str, shown: str) -> bool:
        if any(not call.source for call in found.calls):
            # Code is what a user may well give to be run; only with its tag it is a call.
            return _bare(block) in shown
        shown = shown.replace(_BARE_TAG, "")
        bare = _bare(block).replace(_BARE_TAG, "")
        return bare in shown or any(self._stands_in(call, shown) for call in found.calls)

    def _stands_in(self, call: TextCall, shown: str) -> bool:
        source = _bare(call.source)
        if source.endswith(")") and ".call(" not in source:
            # A Python call may be spoken of; as a list's item it is one.
            places = (match.start() for match in re.finditer(re.escape(source), shown))
            return any(
                shown[place - 1 : place] in _IN_LIST and shown[place + len(source)] in _IN_LIST
                for place in places
                if 0 < place < len(shown) - len(source)
            )
        if source in shown:
            return True
        if not isinstance(call.arguments, Mapping):
            return False
        names = {call.name, *self._written_names(call)}
        return any(
            _bare(json.dumps({"name": name, key: call.arguments}, ensure_ascii=False, default=str)) in shown
            for name in names
            for key in ("parameters", "arguments")
        )


class ReplyReading:
    """
    One reply, as it comes.

    :param reader: Reads its text.
    """

    def __init__(self, reader: TextReader) -> None:
        self.starts_over = False
        """Whether what was shown isn't the beginning of the reply's text, which `end` gives anew."""
        self._reader = reader
        self._shown: list[str] = []
        self._finish_reason: str | None = None
        self._usage: Json | None = None
        self._early: list[CallText] = []

    def calls_so_far(self, first: int) -> list[CallText]:
        """
        Calls whose blocks are complete.

        :param first: Where to begin; calls before it are passed over.
        :returns: They. Their `id` may be set.
        """
        for call in self._reader.calls_from(len(self._early)):
            self._early.append(CallText(None, call.name, call.arguments, call.error))
        return self._early[first:]

    def shown(self, delta: Delta) -> Delta:
        """
        Take a delta.

        :param delta: What an event added.
        :returns: What of it can be shown now. The end of the reply comes by `end`.
        """
        self._finish_reason = delta.finish_reason or self._finish_reason
        self._usage = delta.usage or self._usage
        text = self._reader.feed(delta.text) if delta.text else ""
        self._shown.append(text)
        return replace(delta, text=text, finish_reason=None, usage=None)

    def end(self, reply: Reply) -> Delta:
        """
        The reply is complete: calls in its text become its calls, where it has no others.

        :param reply: It is changed.
        :returns: What is still to be shown.
        """
        reader = self._reader
        reader.end()
        rest = self._rest_of((reply.text or "") if reply.calls else reader.outside)
        if reply.calls:
            return Delta(rest, "", (), self._finish_reason, self._usage)
        reply.echoes = tuple(call.name for found in reader.echoes for call in found.calls)
        if not reader.found:
            reply.text = reader.outside or None
            return Delta(rest, "", (), self._finish_reason, self._usage)
        reply.text = reader.outside.strip() or None
        reply.recovered = reader.found[0].format
        ids = [call.id for call in self._early]
        reply.calls = [
            CallText(
                (ids[place] if place < len(ids) else None) or f"call_{uuid4().hex[:24]}",
                call.name,
                call.arguments,
                call.error,
            )
            for place, call in enumerate(call for found in reader.found for call in found.calls)
        ]
        if reply.finish_reason in (None, "stop"):
            reply.finish_reason = "tool_calls"
        pieces = tuple(
            CallDelta(place, True, call.id, call.name, arguments_text(call.arguments))
            for place, call in enumerate(reply.calls)
        )
        return Delta(rest, "", pieces, self._finish_reason and reply.finish_reason, self._usage)

    def _rest_of(self, text: str) -> str:
        """What of a text is still to be shown; all of it where something else was shown."""
        shown = "".join(self._shown)
        self.starts_over = not text.startswith(shown)
        return text if self.starts_over else text[len(shown) :]


def _bare(text: str) -> str:
    """A text without what may differ in an echo."""
    text = html.unescape(_ESCAPED.sub(lambda match: chr(int(match[1], 16)), text))
    return _NOT_COMPARED.sub("", text.replace(PYTHON_TAG, _BARE_TAG)).translate(_QUOTES)


def _texts_shown(message: ChatMessage) -> Iterator[str]:
    """What a user or a tool said."""
    if message.is_from(ChatRole.USER):
        yield from message.texts
    for result in message.tool_call_results:
        if isinstance(result.result, str):
            yield result.result
        else:
            yield from (part.text for part in result.result if isinstance(part, TextContent))
