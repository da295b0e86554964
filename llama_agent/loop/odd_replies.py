"""Replies that are no answer: empty ones, thoughts alone, texts that were cut; what is done about each."""

from __future__ import annotations

from collections.abc import Sequence

from haystack.dataclasses import ChatMessage, ChatRole

MOST_NOTES = 2
"""How often in a row the model is asked again for something to read."""
EMPTY = "Your reply was empty. Call a tool, or answer in words."
ONLY_THOUGHTS = "You thought, but said nothing. Call a tool, or answer in words."
_THOUGHT_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"))
"""Around thoughts that a server without a reasoning parser leaves in the text."""


def note_on(replies: Sequence[ChatMessage]) -> str | None:
    """
    What to tell a model that said nothing.

    :param replies: What it answered.
    :returns: The note; None when there is something to read, or a reason why there isn't.
    """
    last = replies[-1] if replies else None
    if last is None or not last.is_from(ChatRole.ASSISTANT):
        return EMPTY
    if is_answer(last) or last.tool_calls or last.meta.get("finish_reason") == "content_filter":
        return None
    thought = last.meta.get("reasoning") or last.reasoning or (last.text or "").strip()
    return ONLY_THOUGHTS if thought else EMPTY


def is_answer(reply: ChatMessage) -> bool:
    """
    Whether there is something to read in a reply, beside thoughts.

    :param reply: What the model answered.
    :returns: True for a text, and for a refusal.
    """
    text = (reply.text or "").strip()
    for opened, closed in _THOUGHT_TAGS:
        if text.startswith(opened):
            text = text.partition(closed)[2].strip()
    return bool(text or reply.meta.get("refusal"))


def is_cut(replies: Sequence[ChatMessage]) -> bool:
    """
    Whether the last reply was cut by its token limit.

    :param replies: What the model answered.
    :returns: True then.
    """
    return bool(replies) and replies[-1].meta.get("finish_reason") == "length"
