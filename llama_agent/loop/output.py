"""Structured answers: how a model is brought to give one, and what it is told when it doesn't fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from haystack.dataclasses import ChatMessage, ChatRole, ToolCall
from haystack.tools.tool import Tool

from llama_agent.arguments import MALFORMED, MISTAKE, NOTE, SUMMARY

MOST_TRIES = 3
"""How often the model is told what is wrong, before the run ends without the answer's object."""
Means: TypeAlias = Literal["schema", "tool", "prompt"]
"""
How the model comes to the form: the server holds its reply to a schema; a tool whose arguments are the
answer; or it is only told.
"""
_FORM = "Give the answer as JSON alone, without other words, in the form of this schema:\n{schema}"
_NOW = "Now give this answer in its final form. " + _FORM
_WRONG = "The answer doesn't have the right form:\n{problems}\n"
TAKEN = "The answer was taken."
_CALL = "Give it by calling '{name}'."
_ALONE = (
    "Not taken yet: it came together with other calls, before their results were known. Call it again, "
    "alone, once they are enough for the answer."
)


class AnswerReader(Protocol):
    """Knows what the answer has to look like. Its answers are an object, and what is wrong with it."""

    name: str
    schema: dict[str, Any]

    def read(self, given: Mapping[str, Any]) -> tuple[object, list[str]]:
        """Read an answer that came as a call's arguments."""
        ...

    def read_text(self, text: str) -> tuple[object, list[str]]:
        """Read an answer that came as text."""
        ...


@dataclass(frozen=True)
class OutputPlan:
    """
    How the answer of a run gets its form.

    :param reader: What it has to look like.
    :param means: How the model is brought to it.
    :param otherwise: How, once the server has refused that.
    :param beside_tools: Whether a schema holds the reply also while tools are on offer.
    :param tool: By which the answer may be given.
    """

    reader: AnswerReader
    means: Means
    otherwise: Means
    beside_tools: bool
    tool: Tool

    @property
    def form(self) -> str:
        """What a model is told of the form."""
        return _FORM.format(schema=json.dumps(self.reader.schema, ensure_ascii=False))

    @property
    def now(self) -> str:
        """Asks for an answer that was given in words."""
        return _NOW.format(schema=json.dumps(self.reader.schema, ensure_ascii=False))

    def correction(self, problems: Sequence[str], means: Means) -> str:
        """
        What a model is told whose answer doesn't fit.

        :param problems: What is wrong.
        :param means: How it should give it.
        :returns: The note.
        """
        how = _CALL.format(name=self.tool.name) if means == "tool" else self.form
        return _WRONG.format(problems="\n".join(f"- {problem}" for problem in problems)) + how

    def read_call(self, call: ToolCall) -> tuple[object, list[str]]:
        """
        Read the answer of a call of its tool.

        :param call: The call.
        :returns: The answer's object; what is wrong with it.
        """
        if (error := (call.extra or {}).get(MALFORMED)) is not None:
            return None, [str(error)]
        return self.reader.read(call.arguments)

    def told(self, messages: Sequence[ChatMessage], *, at_end: bool) -> list[ChatMessage]:
        """
        A conversation with the form in a user message: a server that holds a reply to it needn't show it to
        the model.

        :param messages: The conversation; it stays as it is.
        :param at_end: Whether in the last message that isn't the model's, or a tool's; else in the user's own
            last one.
        :returns: What to send.
        """
        said = (
            place
            for place, message in enumerate(messages)
            if message.is_from(ChatRole.USER) and (at_end or not message.meta.keys() & {NOTE, SUMMARY})
        )
        place = max(said, default=-1)
        if place < 0 or self.form in ((last := messages[place]).text or ""):
            return list(messages)
        if last.text is None or len(last.texts) > 1 or last.images:
            return [*messages[: place + 1], ChatMessage.from_user(self.form), *messages[place + 1 :]]
        told = ChatMessage.from_user(f"{last.text}\n\n{self.form}", meta=dict(last.meta), name=last.name)
        return [*messages[:place], told, *messages[place + 1 :]]


def refusal(call: ToolCall, problems: Sequence[str]) -> str:
    """
    What the model is told of an answer that isn't taken.

    :param call: A call of the answer's tool.
    :param problems: What is wrong with it; nothing, where it came beside other calls.
    :returns: The text.
    """
    lines = "\n".join(f"- {problem}" for problem in problems)
    return f"The answer doesn't fit:\n{lines}\nCall '{call.tool_name}' again." if problems else _ALONE


def refused(call: ToolCall, text: str) -> ChatMessage:
    """
    The tool message for an answer that isn't taken.

    :param call: A call of the answer's tool.
    :param text: What the model is told.
    :returns: The message.
    """
    return ChatMessage.from_tool(text, origin=call, error=True, meta={MISTAKE: True})


def as_text(call: ToolCall, reply: ChatMessage) -> ChatMessage:
    """
    The answer as the conversation keeps it: with no call of a tool that another run doesn't have.

    :param call: Of the answer's tool.
    :param reply: The reply that it stood in.
    :returns: An assistant message with the answer as JSON.
    """
    text = json.dumps(call.arguments, ensure_ascii=False)
    return ChatMessage.from_assistant(text, meta={**reply.meta, "finish_reason": "stop"})
