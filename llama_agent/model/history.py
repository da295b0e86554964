"""
Messages → what may be sent: each call has an id of its own and is answered exactly once, right behind it.

One broken turn in a history makes servers fail for ever (ggml-org/llama.cpp#25510), so none is sent, wherever
it came from. The user's messages stay as they are. Only what joined since the last request is looked at; the
whole only where something before it was replaced or edited.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from haystack.dataclasses import ChatMessage, ChatRole, ToolCall

from llama_agent.model.encoding import MessageEncoder, dumps
from llama_agent.model.streams import Json

_CONVERSATIONS = 32
"""How many are remembered; one more costs its next request a look at the whole."""
_NO_RESULT = "There is no result: this call was not run."


@dataclass
class _Settled:
    """
    The beginning of a conversation, up to its last turn: no message that joins changes it.

    `serials`: of the messages; `pieces`: what is sent of them; `ids`: of their calls; `numbers`: the last
    number that was added to an id; `late`: ids of calls that had no result; `first`: the first message, with
    which the conversation is forgotten.
    """

    serials: list[int] = field(default_factory=list[int])
    pieces: list[bytes] = field(default_factory=list[bytes])
    ids: set[str] = field(default_factory=set[str])
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    late: set[str] = field(default_factory=set[str])
    first: weakref.ref[ChatMessage] | None = None


class History:
    """
    What one generator sends of conversations.

    :param encoder: Encodes the messages.
    """

    def __init__(self, encoder: MessageEncoder) -> None:
        self.single_calls = False
        """Whether each call of a turn is sent as a turn of its own (unslothai/unsloth#7426)."""
        self._encoder = encoder
        self._known: OrderedDict[tuple[int, bool], _Settled] = OrderedDict()

    def pieces(self, messages: Sequence[ChatMessage | Json]) -> list[bytes]:
        """
        A conversation as it is sent.

        :param messages: The conversation; messages that are dicts are sent as they are.
        :returns: JSON of each message.
        """
        settled, rest = self._settled(messages)
        return settled.pieces + _Turns(self._encoder, self.single_calls, settled).sent(rest)

    def ids(self, messages: Sequence[ChatMessage | Json]) -> set[str]:
        """
        Ids that a new call can't have.

        :param messages: The conversation.
        :returns: Those of its calls.
        """
        settled = self._known_of(messages) or self._settled(messages)[0]
        rest = messages[len(settled.serials) :]
        calls = (call for m in rest if isinstance(m, ChatMessage) for call in m.tool_calls)
        return settled.ids | {call.id for call in calls if call.id}

    def _known_of(self, messages: Sequence[ChatMessage | Json]) -> _Settled | None:
        """What was found when a conversation was sent just now."""
        if not messages or not isinstance(first := messages[0], ChatMessage):
            return None
        settled = self._known.get((self._encoder.serial(first), self.single_calls))
        count = len(settled.serials) if settled else 0
        if settled is None or not 0 < count <= len(messages):
            return None
        last = messages[count - 1]
        is_it = isinstance(last, ChatMessage) and self._encoder.serial(last) == settled.serials[-1]
        return settled if is_it else None

    def _settled(
        self, messages: Sequence[ChatMessage | Json]
    ) -> tuple[_Settled, Sequence[ChatMessage | Json]]:
        """The part that was looked at before, brought up to the last turn; and the rest."""
        serials: list[int] = []
        for message in messages:
            if not isinstance(message, ChatMessage):
                break  # a dict has nothing by which it is known again
            serials.append(self._encoder.serial(message))
        if not serials:
            return _Settled(), messages
        # The first message tells conversations apart, as far as they are.
        key = (serials[0], self.single_calls)
        settled = self._known.get(key)
        count = len(settled.serials) if settled else 0
        if settled is None or serials[:count] != settled.serials or _answers_late(messages[count:], settled):
            settled, count = _Settled(), 0
        end = _last_turn(messages[: len(serials)], count)
        if end > count:
            turns = _Turns(self._encoder, self.single_calls, settled)
            settled = _Settled(
                serials[:end],
                settled.pieces + turns.sent(messages[count:end]),
                turns.ids,
                turns.numbers,
                settled.late | turns.unanswered,
            )
        forget = self._known.pop
        settled.first = weakref.ref(cast("ChatMessage", messages[0]), lambda _: forget(key, None))
        self._known[key] = settled
        self._known.move_to_end(key)
        while len(self._known) > _CONVERSATIONS:
            self._known.popitem(last=False)
        return settled, messages[end:]


_SILENCE = b'{"role":"assistant","content":"\xe2\x80\xa6"}'
"""For an empty reply before a user's message: many templates want the two to take turns."""


class _Turns:
    """Sends a stretch of a conversation, turn by turn. A turn is a message, with the results of its calls."""

    def __init__(self, encoder: MessageEncoder, single_calls: bool, settled: _Settled) -> None:
        self._encoder = encoder
        self._single_calls = single_calls
        self.ids = set(settled.ids)
        self.numbers = dict(settled.numbers)
        self.unanswered: set[str] = set()

    def sent(self, messages: Sequence[ChatMessage | Json]) -> list[bytes]:
        pieces: list[bytes] = []
        place = 0
        while place < len(messages):
            message = messages[place]
            place += 1
            if not isinstance(message, ChatMessage):
                pieces.append(dumps(message))
            elif message.tool_calls and message.is_from(ChatRole.ASSISTANT):
                end = next(
                    (i for i in range(place, len(messages)) if _begins_turn(messages[i])), len(messages)
                )
                pieces += self._turn(message, messages[place:end])
                place = end
            elif message.tool_call_results:
                pieces.append(self._orphan(message))
            elif message.is_from(ChatRole.ASSISTANT) and not _says_something(message):
                if _is_from_user(messages[place : place + 1]):
                    pieces.append(_SILENCE)
            else:
                pieces.append(self._encoder.encode(message))
        return pieces

    def _turn(self, message: ChatMessage, behind: Sequence[ChatMessage | Json]) -> list[bytes]:
        """Calls, their results, and what else was said before the next turn."""
        calls = message.tool_calls
        results = [m for m in behind if isinstance(m, ChatMessage) and m.tool_call_results]
        ids = [call.id for call in calls]
        answered = [result.tool_call_results[0].origin.id for result in results]
        is_sound = all(id_ and id_.strip() for id_ in ids) and len(set(ids)) == len(ids)
        are_first = list(behind[: len(results)]) == results if len(behind) > len(results) else True
        is_answered = sorted(map(str, ids)) == sorted(map(str, answered)) and are_first
        fits = not (self._single_calls and len(calls) > 1)
        if is_sound and is_answered and fits and self.ids.isdisjoint(map(str, ids)):
            self.ids.update(map(str, ids))
            return [self._encoder.encode(message), *self._others(behind)]
        return self._mended(message, calls, results, behind)

    def _others(self, behind: Sequence[ChatMessage | Json]) -> list[bytes]:
        return [self._encoder.encode(m) if isinstance(m, ChatMessage) else dumps(m) for m in behind]

    def _mended(
        self,
        message: ChatMessage,
        calls: Sequence[ToolCall],
        results: Sequence[ChatMessage],
        behind: Sequence[ChatMessage | Json],
    ) -> list[bytes]:
        wire = self._encoder.wire(message)
        sent_calls = cast("list[Json]", wire["tool_calls"])
        answers = _paired(calls, results)
        told: list[Json] = []
        for call, sent, answer in zip(calls, sent_calls, answers, strict=True):
            sent["id"] = self._new_id(call.id)
            text = self._encoder.wire(answer)["content"] if answer is not None else _NO_RESULT
            if answer is None and call.id:
                self.unanswered.add(call.id)
            told.append({"role": "tool", "content": text, "tool_call_id": sent["id"]})
        used = {id(answer) for answer in answers if answer is not None}
        if self._single_calls:
            pieces: list[bytes] = []
            for place, (sent, answer) in enumerate(zip(sent_calls, told, strict=True)):
                single = {**wire, "tool_calls": [sent]}
                if place:
                    single["content"] = self._encoder.no_content
                pieces += [dumps(single), dumps(answer)]
        else:
            pieces = [dumps(wire), *map(dumps, told)]
        said = {text["content"] for text in told}
        for other in behind:
            if not isinstance(other, ChatMessage):
                pieces.append(dumps(other))
            elif not other.tool_call_results:
                if not other.is_from(ChatRole.ASSISTANT) or _says_something(other):
                    pieces.append(self._encoder.encode(other))
            elif id(other) not in used and self._encoder.wire(other)["content"] not in said:
                pieces.append(self._orphan(other))
        return pieces

    def _orphan(self, message: ChatMessage) -> bytes:
        """A result without a call, told by the user: what it says isn't lost."""
        name = message.tool_call_results[0].origin.tool_name
        return dumps(
            {"role": "user", "content": f"Result of {name}: {self._encoder.wire(message)['content']}"}
        )

    def _new_id(self, wanted: str | None) -> str:
        """An id that no other call has, the same one for the same history."""
        base = wanted if wanted and wanted.strip() else "call"
        new = base if base == wanted else f"{base}_1"
        while new in self.ids:
            self.numbers[base] = self.numbers.get(base, 1) + 1
            new = f"{base}_{self.numbers[base]}"
        self.ids.add(new)
        return new


def _begins_turn(message: ChatMessage | Json) -> bool:
    if isinstance(message, ChatMessage):
        return message.is_from(ChatRole.ASSISTANT)
    return message.get("role") == "assistant"


def _says_something(message: ChatMessage) -> bool:
    return bool(message.texts and any(message.texts)) or bool(
        message.meta.get("refusal") or message.images or message.files
    )


def _last_turn(messages: Sequence[ChatMessage | Json], start: int) -> int:
    """Where the last turn begins: what joins may still belong to it."""
    for place in range(len(messages) - 1, start, -1):
        if _begins_turn(messages[place]):
            return place
    return start


def _answers_late(joined: Sequence[ChatMessage | Json], settled: _Settled) -> bool:
    """Whether a result has come of a call that was sent without one."""
    return bool(settled.late) and any(
        result.origin.id in settled.late
        for message in joined
        if isinstance(message, ChatMessage)
        for result in message.tool_call_results
    )


def _paired(calls: Sequence[ToolCall], results: Sequence[ChatMessage]) -> list[ChatMessage | None]:
    """Each call's result: by its id, else by the call that it names, else by the tool."""
    answers: list[ChatMessage | None] = [None] * len(calls)
    left = list(results)
    for is_answer in (_has_same_id, _is_same_call, _is_same_tool):
        for place, call in enumerate(calls):
            if answers[place] is None:
                answer = next((r for r in left if is_answer(call, r.tool_call_results[0].origin)), None)
                if answer is not None:
                    answers[place] = answer
                    left.remove(answer)
    return answers


def _has_same_id(call: ToolCall, origin: ToolCall) -> bool:
    return bool(call.id) and call.id == origin.id and call.tool_name == origin.tool_name


def _is_same_call(call: ToolCall, origin: ToolCall) -> bool:
    return call.tool_name == origin.tool_name and call.arguments == origin.arguments


def _is_same_tool(call: ToolCall, origin: ToolCall) -> bool:
    return call.tool_name == origin.tool_name and not (call.id and origin.id)


def _is_from_user(messages: Sequence[ChatMessage | Json]) -> bool:
    """Whether there is a message, and the first is a user's."""
    first = messages[0] if messages else None
    return isinstance(first, ChatMessage) and first.is_from(ChatRole.USER)
