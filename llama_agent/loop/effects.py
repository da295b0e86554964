"""What the decision loop wants done, its effects, and what comes of each, their outcomes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from haystack.dataclasses import ChatMessage, ToolCall
from haystack.hooks.protocol import HookPoint
from haystack.tools.tool import Tool

from llama_agent.loop.limits import LimitName
from llama_agent.loop.output import AnswerReader

CUT_BY = "cut_by"
"""In a reply's `meta`: the run's limit that cut it."""


@dataclass(frozen=True)
class CallModel:
    """
    Effect: ask the model. Outcome: its replies; the limit that forbids it, or that ended it.

    `withheld`: tools that aren't on offer in this turn; `is_last`: whether it is the last answer, within what
    was kept for it; `note`: the message that asks for it; `raises_output`: whether it may be longer than
    usual, since one was cut; `supersedes`: replies that were shown and don't count, unless it fails;
    `summary_words`: how long a summary of the run it asks for, which is no part of it; `may_overflow`:
    whether a request that is too long has the outcome `Overflow`, and not an exception; `schema`: what the
    server is to hold the reply to; one that won't has the outcome `SchemaRefused`.
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool]
    withheld: frozenset[str] = frozenset()
    is_last: bool = False
    note: str = ""
    raises_output: bool = False
    supersedes: Sequence[ChatMessage] = ()
    summary_words: int | None = None
    may_overflow: bool = False
    schema: AnswerReader | None = None


@dataclass(frozen=True)
class Overflow:
    """Outcome: the request doesn't fit into the window. `window`: its size, where the server says it."""

    window: int | None


@dataclass(frozen=True)
class OutputRefused:
    """Outcome: the server doesn't take a request for a reply that is longer than usual."""


@dataclass(frozen=True)
class SchemaRefused:
    """Outcome: the server doesn't hold a reply to a schema, or not to this one."""


@dataclass(frozen=True)
class CallTools:
    """
    Effect: run the tool calls of one reply. Outcome: one tool message per call, in the calls' order.

    `withheld`: tools that can't be called in this turn; `beyond`: places of calls that were made too often;
    `answers`: calls that give the run's answer, by place, with what the model is told of each.
    """

    calls: Sequence[ToolCall]
    tools: Sequence[Tool]
    withheld: frozenset[str] = frozenset()
    beyond: frozenset[int] = frozenset()
    answers: Mapping[int, str] = field(default_factory=dict[int, str])


@dataclass(frozen=True)
class TellNote:
    """Effect: tell whoever watches that the model was told something that no user said."""

    text: str


@dataclass(frozen=True)
class TellCompaction:
    """Effect: tell whoever watches that old messages were shortened, or replaced by a summary."""

    tokens_before: int
    tokens_after: int
    is_summed_up: bool


@dataclass(frozen=True)
class TellLanding:
    """Effect: tell whoever watches that the run has to end, and why."""

    reason: str


@dataclass(frozen=True)
class RunHooks:
    """Effect: run the hooks of a point. Its outcome is the change that they made to the state."""

    point: HookPoint


@dataclass(frozen=True)
class ReadTools:
    """Effect: see which tools are on offer now: a dynamic toolset may have changed. Outcome: the tools."""


Effect: TypeAlias = CallModel | CallTools | RunHooks | ReadTools | TellNote | TellCompaction | TellLanding
Refusal: TypeAlias = OutputRefused | SchemaRefused
Outcome: TypeAlias = list[ChatMessage] | list[Tool] | LimitName | Overflow | Refusal | None
Flow: TypeAlias = Generator[Effect, Outcome, None]
