"""
How full the model's window is, and what goes when it gets full: first the texts of old tool results, then, by
a summary of the model's own, whole old steps.

What stays: everything before the model's first reply (system prompt and task), what the user said last, and
the last steps. Calls and their results go together. Between two compactions nothing before the newest message
changes, so that a server's prefix cache works.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from haystack.dataclasses import ChatMessage, ChatRole, TextContent
from haystack.tools.tool import Tool

from llama_agent.arguments import NOTE, SUMMARY
from llama_agent.loop.limits import expected_tokens

_ANSWER_SHARE = 0.2
_MOST_FOR_ANSWER = 2_048
"""Tokens kept for the reply: this share of the window, at most so many."""
_LOW_SHARE = 0.5
"""Of the window: compacted down to this, so that the next compaction is far away."""
KEPT = (3, 1, 0, 0)
"""
How many of the last steps stay as they are: fewer where that isn't enough. With none left, the results of the
last step are cut to the window, but nothing of it goes.
"""
_LEAST_PER_MESSAGE = 4
"""Tokens; a server that counts fewer doesn't count the conversation."""
_READING = re.compile(r"characters are left out here.*?(\w+\(id='[^']{1,40}')", re.DOTALL)
"""What stands in a result that was too large, and is kept whole."""
_BYTES_PER_TOKEN = 3
_SHORT = 200
"""Characters that are left of an old result."""
_NEWEST_SHARE = 0.5
"""Of what is aimed at, for the results of the last step."""
_TRANSCRIPT_SHARE = 0.5
"""Of the window, for what is to be summed up."""
_PART_CHARACTERS = 600
_WORTH_IT = 0.15
"""Of the window: what a summary has to stand for, at least, to be asked for."""
_CHARACTERS_PER_WORD = 10
SUMMING_UP = (
    "The conversation gets too long, so its older part is replaced by a summary. Write it, in at most "
    "{words} words, for yourself to go on with: what was asked, what was done and found out (with names, "
    "numbers and ids that may still be needed), and what is left to do. This is the older part:\n\n"
    "{transcript}"
)
INTRODUCTION = "Summary of the earlier steps of this task, whose messages were removed:\n"


@dataclass(frozen=True)
class Room:
    """
    The model's window.

    :param window: Its size in tokens.
    """

    window: int

    @property
    def most(self) -> int:
        """Tokens that a request may take."""
        return self.window - min(_MOST_FOR_ANSWER, int(self.window * _ANSWER_SHARE))

    @property
    def enough(self) -> int:
        """Tokens that shortened results alone may leave: more, and the next compaction would be near."""
        return (self.low + self.most) // 2

    @property
    def words(self) -> int:
        """Words that a summary may have."""
        return max(50, min(400, self.window // 20))

    @property
    def low(self) -> int:
        """Tokens that a conversation is brought down to."""
        return int(self.window * _LOW_SHARE)


def tokens_of(messages: Sequence[ChatMessage], tools: Sequence[Tool], counted: int, used: int) -> int:
    """
    About how many tokens a request will take.

    :param messages: The conversation.
    :param tools: Tools on offer.
    :param counted: How many of the messages the server has counted, the last reply included.
    :param used: Tokens that it counted; 0 when it didn't.
    :returns: Tokens; of what it didn't count, rather too many than too few.
    """
    is_known = used >= counted * _LEAST_PER_MESSAGE and 0 < counted <= len(messages)
    if is_known and messages[counted - 1].is_from(ChatRole.ASSISTANT):
        return used + expected_tokens(messages[counted:], ())
    return expected_tokens(messages, tools)


def old_part(messages: Sequence[ChatMessage], keep: int) -> tuple[int, int]:
    """
    Between which messages some may go: all but the user's newest.

    :param messages: The conversation.
    :param keep: How many of the last steps stay.
    :returns: Where they begin and end; the same place twice when there are none.
    """
    replies = [place for place, message in enumerate(messages) if message.is_from(ChatRole.ASSISTANT)]
    if len(replies) <= keep:
        return 0, 0
    sums = [place for place, message in enumerate(messages) if SUMMARY in message.meta]
    return min(replies[0], *sums, len(messages)), replies[-keep] if keep else len(messages)


def newest_request(messages: Sequence[ChatMessage]) -> ChatMessage | None:
    """
    What the user said last.

    :param messages: The conversation.
    :returns: A user message that the run didn't write itself.
    """
    said = (m for m in reversed(messages) if m.is_from(ChatRole.USER) and not m.meta.keys() & {NOTE, SUMMARY})
    return next(said, None)


def has_old_part(messages: Sequence[ChatMessage], keep: int) -> bool:
    """
    Whether anything of a conversation may go.

    :param messages: The conversation.
    :param keep: How many of the last steps stay.
    :returns: False for one that is all task and last steps, and for results that are short already.
    """
    start, end = old_part(messages, keep)
    if keep:
        return start < end
    return any(_short(message, _SHORT) is not None for message in messages[start:end])


def shortened(
    messages: Sequence[ChatMessage], too_many: int, room: Room, keep: int, share: float
) -> tuple[list[ChatMessage], int]:
    """
    A conversation with the oldest tool results cut short.

    :param messages: The conversation.
    :param too_many: Tokens that are to go.
    :param room: The window.
    :param keep: How many of the last steps stay; of the very last, where it is 0, more is left.
    :param share: Of what is aimed at.
    :returns: It, and the tokens that are still too many.
    """
    start, end = old_part(messages, keep)
    last = max((i for i, m in enumerate(messages) if m.is_from(ChatRole.ASSISTANT)), default=0)
    newest = int(room.low * _NEWEST_SHARE * share) // max(1, end - last - 1)
    kept = list(messages)
    for place in range(start, end):
        if too_many <= 0:
            break
        is_newest = keep == 0 and place > last
        most = characters(newest, _text_of(kept[place])) if is_newest else _SHORT
        short = _short(kept[place], max(_SHORT, most))
        if short is not None:
            too_many -= expected_tokens([kept[place]], ()) - expected_tokens([short], ())
            kept[place] = short
    return kept, too_many


def request_for_summary(messages: Sequence[ChatMessage], room: Room, keep: int) -> list[ChatMessage] | None:
    """
    What asks the model to sum the old part up.

    :param messages: The conversation.
    :param room: The window.
    :param keep: How many of the last steps stay.
    :returns: A conversation of its own; None when there is next to nothing to sum up.
    """
    start, end = old_part(messages, keep)
    newest = newest_request(messages)
    if expected_tokens([m for m in messages[start:end] if m is not newest], ()) < room.window * _WORTH_IT:
        return None
    transcript = "\n".join(_line_of(message) for message in messages[max(0, start - 1) : end])
    most = characters(int(room.window * _TRANSCRIPT_SHARE), transcript)
    if len(transcript) > most:
        transcript = f"{transcript[: most // 2]}\n…\n{transcript[-most // 2 :]}"
    return [ChatMessage.from_user(SUMMING_UP.format(words=room.words, transcript=transcript))]


def list_of_steps(messages: Sequence[ChatMessage], room: Room, keep: int) -> str:
    """
    What stands for a summary where the model gives none.

    :param messages: The conversation.
    :param room: The window.
    :param keep: How many of the last steps stay.
    :returns: The calls of the old part, without their results; the newest where they are many.
    """
    start, end = old_part(messages, keep)
    calls = [f"{c.tool_name}({c.arguments})" for message in messages[start:end] for c in message.tool_calls]
    text = "; ".join(call[:_SHORT] for call in calls)
    return f"These calls were made, whose results are gone: {text[-room.window // 4 :]}"


def with_summary(messages: Sequence[ChatMessage], text: str, room: Room, keep: int) -> list[ChatMessage]:
    """
    A conversation whose old part is a summary.

    :param messages: The conversation.
    :param text: The summary; a part of one that is too long.
    :param room: The window.
    :param keep: How many of the last steps stay.
    :returns: It, with one message in the place of the old part.
    """
    start, end = old_part(messages, keep)
    text = INTRODUCTION + text[: room.words * _CHARACTERS_PER_WORD]
    newest = newest_request(messages)
    kept = [message for message in messages[start:end] if message is newest]
    return [*messages[:start], ChatMessage.from_user(text, meta={SUMMARY: True}), *kept, *messages[end:]]


def _short(message: ChatMessage, most: int) -> ChatMessage | None:
    """A tool message with so many characters; None when it is no tool message, or short already."""
    results, text = message.tool_call_results, _text_of(message)
    if len(results) != 1 or len(text) <= most + _SHORT:
        return None
    reading = _READING.search(text)
    note = f"{text[:most]}… [an old result, shortened: {len(text):,} characters]"
    if reading is not None:
        note += f" The whole can be read with {reading[1]})."
    return ChatMessage.from_tool(
        note, origin=results[0].origin, error=results[0].error, meta=dict(message.meta)
    )


def characters(tokens: int, text: str) -> int:
    """
    How many characters of a text take about so many tokens.

    :param tokens: Tokens.
    :param text: The text; of some scripts, each character is several bytes.
    :returns: Characters.
    """
    return tokens * _BYTES_PER_TOKEN * len(text) // max(1, len(text.encode(errors="replace")))


def _text_of(message: ChatMessage) -> str:
    """The text of a tool message."""
    texts: list[str] = []
    for part in message.tool_call_results:
        if isinstance(part.result, str):
            texts.append(part.result)
        else:
            texts += [content.text for content in part.result if isinstance(content, TextContent)]
    return "\n".join(texts)


def _line_of(message: ChatMessage) -> str:
    parts = [message.text or ""]
    parts += [f"calls {call.tool_name}({call.arguments})" for call in message.tool_calls]
    parts += [f"{part.origin.tool_name} gave: {part.result}" for part in message.tool_call_results]
    text = " ".join(part for part in parts if part)
    return f"{message.role.value}: {text if SUMMARY in message.meta else text[:_PART_CHARACTERS]}"
