"""
How much a run may use, and the book that is kept of it.

A sub-agent's run keeps within its own limits and those of the runs above it: each `Budget` knows its parent,
and what is spent is spent in all of them. Before a model call its share is set aside, with what the last
answer will take, so that calls beside each other exceed nothing.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeAlias, cast

from haystack.dataclasses import ChatMessage
from haystack.tools.tool import Tool

from llama_agent.errors import ConfigurationError

LimitName: TypeAlias = Literal[
    "max_steps",
    "max_model_calls",
    "max_tool_calls",
    "max_input_tokens",
    "max_output_tokens",
    "max_total_tokens",
    "max_cost",
    "max_seconds",
]
"""Which limit ended a run."""

LAST_OUTPUT = 512
"""Tokens that are kept for the last answer."""
_LEAST_OUTPUT = 16
"""A reply of fewer tokens says nothing."""
_MOST_OUTPUT = 4096
"""Tokens set aside for one reply, where its length counts: calls beside each other share what is left."""
_NOTE = 64
"""Tokens of the note that asks for the last answer."""
_LEAST_GROWTH = 128
"""Tokens by which a conversation may grow before the last answer: a reply, and the results of its calls."""
_ANSWER = 256
"""Tokens that a sub-agent's answer takes in the conversation above it, beside its text."""
_PER_MESSAGE = 30
"""Bytes that a chat template adds to a message."""
_LEAST_SECONDS = 2.0
"""Kept for the last answer, of a limit that has them."""
_PER_MILLION = 1_000_000
_WHOLE = ("steps", "model_calls", "tool_calls", "input_tokens", "output_tokens", "total_tokens", "repeats")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    How much a run may use; None for as much as it takes.

    At a limit the model is asked once more, without tools, for the best answer from what is known: one call
    beyond a limit of steps, within all others. `stop_reason` names the limit.

    :param steps: Steps; in place of the agent's `max_agent_steps`. A step is a model call and the tool calls
        that it asks for.
    :param model_calls: Calls of the model, retries not counted.
    :param tool_calls: Calls of tools, also those that failed.
    :param calls_per_tool: Calls of single tools, by name.
    :param input_tokens: Tokens sent to the model, over all calls.
    :param output_tokens: Tokens that it writes.
    :param total_tokens: Both together.
    :param cost: In the unit of `prices`.
    :param prices: Price of a million input tokens and of a million output tokens, by the model's name; `"*"`
        for any other.
    :param seconds: Wall time from the run's beginning.
    :param repeats: How often the same call with the same result is made before the model is told; at twice as
        often the run ends. 0 for never. None for 3. See also `tool(repeatable=True)`.
    :param landing: Whether the last answer is asked for. None for yes.
    :raises ConfigurationError: A number is out of range.
    """

    steps: int | None = None
    model_calls: int | None = None
    tool_calls: int | None = None
    calls_per_tool: Mapping[str, int] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cost: float | None = None
    prices: Mapping[str, tuple[float, float]] | None = None
    seconds: float | None = None
    repeats: int | None = None
    landing: bool | None = None

    def __post_init__(self) -> None:
        for name in _WHOLE:
            _check_whole(
                f"Limits.{name}", getattr(self, name), least=0 if name in ("tool_calls", "repeats") else 1
            )
        if self.repeats == 1:
            raise ConfigurationError("Limits.repeats must be 2 or more, or 0 for never: 1 is no repeat")
        for name in ("calls_per_tool", "prices"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise ConfigurationError(f"Limits.{name} must be a dictionary, not {value!r}")
        if self.landing not in (None, True, False):
            raise ConfigurationError(f"Limits.landing must be True or False, not {self.landing!r}")
        for tool, most in (self.calls_per_tool or {}).items():
            _check_whole(f"Limits.calls_per_tool['{tool}']", most, least=0)
        for name in ("cost", "seconds"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and math.isfinite(value) and value > 0):
                raise ConfigurationError(f"Limits.{name} must be a number above 0, not {value!r}")
        for model, price in (self.prices or {}).items():
            pair = cast("Sequence[object]", price) if isinstance(price, list | tuple) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
            if len(pair) != 2 or not all(_is_price(part) for part in pair):
                raise ConfigurationError(
                    f"Limits.prices['{model}'] must be two numbers, for a million input tokens and a million "
                    f"output tokens, not {price!r}"
                )
        if self.prices is not None:
            pairs = {model: (price[0], price[1]) for model, price in self.prices.items()}
            object.__setattr__(self, "prices", pairs)  # from JSON they come as lists

    def check(self) -> None:
        """
        Make sure that these limits can be kept.

        :raises ConfigurationError: A cost has no prices.
        """
        if self.cost is not None and not self.prices:
            raise ConfigurationError('Limits.cost needs prices={"model": (per million in, per million out)}')

    def overridden(self, by: Limits | None) -> Limits:
        """
        These limits, with those of one run in their place where it names some.

        :param by: The run's; None for none.
        :returns: Both together.
        """
        if by is None:
            return self
        named = {item.name: getattr(by, item.name) for item in fields(by)}
        return replace(self, **{name: value for name, value in named.items() if value is not None})


@dataclass
class Spent:
    """What a run has used, or set aside."""

    model_calls: int = 0
    tool_calls: int = 0
    by_tool: dict[str, int] = field(default_factory=dict[str, int])
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Grant:
    """
    Whether a model call may be made, and how large.

    :param limit: The limit that forbids it; None when it may.
    :param input_tokens: Tokens set aside for what is sent.
    :param output_tokens: Most tokens of the reply; None for as many as it takes.
    :param seconds: Most seconds that it may take; None likewise.
    :param bound_by: The limit that `output_tokens` comes from.
    """

    limit: LimitName | None = None
    input_tokens: int = 0
    output_tokens: int | None = None
    seconds: float | None = None
    bound_by: LimitName | None = None


class Budget:
    """
    The book of one run.

    :param limits: Its limits.
    :param parent: The run within one of whose tools it runs.
    :param spent: What it has used so far; it is kept up to date.
    """

    def __init__(self, limits: Limits, parent: Budget | None = None, spent: Spent | None = None) -> None:
        self.limits = limits
        self.spent = spent or Spent()
        self._parent = parent
        self._aside = Spent()
        self._lock: threading.RLock = parent._lock if parent else threading.RLock()
        self._began = time.monotonic()
        self._longest_call = 0.0
        self._sent = 0
        self._growth = _LEAST_GROWTH
        self._joining: dict[int, int] = {}
        """What the answers of the sub-agents that run now will add to the conversation, by sub-agent."""

    def grant(self, model: str | None, input_tokens: int, *, is_last: bool) -> Grant:
        """
        Set a model call's share aside.

        :param model: Name of the model.
        :param input_tokens: What will be sent, as far as can be said.
        :param is_last: Whether it is the last answer, for which nothing has to be kept.
        :returns: The share. Unless a limit forbids it, give it to `settle` once the call is over.
        :raises ConfigurationError: There is a limit of cost, and the model has no price.
        """
        with self._lock:
            self._note_size(input_tokens)
            grants = [
                budget._grant(model, input_tokens, is_last=is_last and budget is self)
                for budget in self._chain()
            ]
            if (refused := next((grant for grant in grants if grant.limit), None)) is not None:
                return refused
            bounds = [grant for grant in grants if grant.output_tokens is not None]
            tightest = min(bounds, key=lambda grant: grant.output_tokens or 0, default=Grant())
            seconds = [grant.seconds for grant in grants if grant.seconds is not None]
            share = Grant(
                None, input_tokens, tightest.output_tokens, min(seconds, default=None), tightest.bound_by
            )
            self._move(model, share, 1)
            return share

    def settle(
        self,
        model: str | None,
        share: Grant,
        *,
        read: int = 0,
        written: int = 0,
        seconds: float = 0.0,
        failed: bool = False,
    ) -> None:
        """
        A model call is over.

        :param model: Name of the model.
        :param share: What was set aside for it.
        :param read: Tokens that it read.
        :param written: Tokens that it wrote.
        :param seconds: How long it took.
        :param failed: Whether there was no answer; then nothing was spent.
        """
        with self._lock:
            self._move(model, share, -1)
            if failed:
                return
            for budget in self._chain():
                budget.spent.model_calls += 1
                if budget is not self:
                    budget._joining[id(self)] = max(budget._joining.get(id(self), 0), written + _ANSWER)
                budget.spent.input_tokens += read
                budget.spent.output_tokens += written
                budget.spent.cost += budget._cost(model, read, written)
                budget._longest_call = max(budget._longest_call, seconds)

    def grant_tools(self, names: Sequence[str]) -> list[bool]:
        """
        Spend tool calls.

        :param names: The tools that are to be called, in order.
        :returns: Which of the calls may be made.
        """
        with self._lock:
            return [self._grant_tool(name) for name in names]

    @property
    def counts_input(self) -> bool:
        """Whether it matters how much is sent."""
        return any(
            limit is not None
            for budget in self._chain()
            for limit in (budget.limits.input_tokens, budget.limits.total_tokens, budget.limits.cost)
        )

    @property
    def until(self) -> float | None:
        """When tools have to be done, on `time.monotonic`'s clock; None without a limit of time."""
        ends = [
            budget._began
            + budget.limits.seconds
            - (0.0 if budget.limits.landing is False else budget._seconds_kept())
            for budget in self._chain()
            if budget.limits.seconds is not None
        ]
        return min(ends, default=None)

    def _chain(self) -> Iterator[Budget]:
        budget: Budget | None = self
        while budget is not None:
            yield budget
            budget = budget._parent

    def _note_size(self, sent: int) -> None:
        """How long the run's own conversation is, and by how much it grows from call to call."""
        if self._sent:
            self._growth = max(self._growth, sent - self._sent)
        self._sent = sent
        self._joining.clear()
        for budget in self._chain():
            if budget is not self:
                budget._joining.setdefault(id(self), _ANSWER)

    def _grant(self, model: str | None, sent: int, *, is_last: bool) -> Grant:
        limits, spent, aside = self.limits, self.spent, self._aside
        keeps = limits.landing is not False and not is_last
        kept_in, kept_out = (
            (self._sent + self._growth + sum(self._joining.values()) + _NOTE, LAST_OUTPUT)
            if keeps
            else (0, 0)
        )
        used_in, used_out = spent.input_tokens + aside.input_tokens, spent.output_tokens + aside.output_tokens
        if limits.model_calls is not None and (
            spent.model_calls + aside.model_calls + 1 + keeps > limits.model_calls
        ):
            return Grant("max_model_calls")
        if limits.input_tokens is not None and used_in + sent + kept_in > limits.input_tokens:
            return Grant("max_input_tokens")
        # What is written now is read again for the last answer: it counts twice.
        times = 2 if keeps else 1
        rooms: list[tuple[LimitName, float]] = []
        if limits.output_tokens is not None:
            rooms.append(("max_output_tokens", limits.output_tokens - used_out - kept_out))
        if limits.total_tokens is not None:
            left = limits.total_tokens - used_in - used_out - sent - kept_in - kept_out
            rooms.append(("max_total_tokens", left / times))
        if limits.cost is not None:
            price_in, price_out = self._price(model)
            left = limits.cost - spent.cost - aside.cost
            left -= ((sent + kept_in) * price_in + kept_out * price_out) / _PER_MILLION
            each = (price_out + (price_in if keeps else 0)) / _PER_MILLION
            rooms.append(("max_cost", left / each if each else (math.inf if left >= 0 else -1)))
        for name, room in rooms:
            if room < _LEAST_OUTPUT:
                return Grant(name)
        seconds = self._seconds_left() - (self._seconds_kept() if keeps else 0)
        if seconds <= 0:
            return Grant("max_seconds")
        bound_by, most = min(rooms, key=lambda room: room[1], default=(None, math.inf))
        return Grant(
            None,
            sent,
            None if math.isinf(most) else min(int(most), _MOST_OUTPUT),
            None if math.isinf(seconds) else seconds,
            bound_by,
        )

    def _move(self, model: str | None, share: Grant, sign: int) -> None:
        written = share.output_tokens or 0
        for budget in self._chain():
            aside = budget._aside
            aside.model_calls += sign
            aside.input_tokens += sign * share.input_tokens
            aside.output_tokens += sign * written
            aside.cost += sign * budget._cost(model, share.input_tokens, written)

    def _grant_tool(self, name: str) -> bool:
        chain = list(self._chain())
        if not all(budget._has_tool_call(name) for budget in chain):
            return False
        for budget in chain:
            budget.spent.tool_calls += 1
            budget.spent.by_tool[name] = budget.spent.by_tool.get(name, 0) + 1
        return True

    def _has_tool_call(self, name: str) -> bool:
        limits = self.limits
        if limits.tool_calls is not None and self.spent.tool_calls >= limits.tool_calls:
            return False
        most = (limits.calls_per_tool or {}).get(name)
        return most is None or self.spent.by_tool.get(name, 0) < most

    def _seconds_left(self) -> float:
        if self.limits.seconds is None:
            return math.inf
        return self.limits.seconds - (time.monotonic() - self._began)

    def _seconds_kept(self) -> float:
        """For the last answer: as long as the longest call so far, with some room, but no more than half."""
        if self.limits.seconds is None:
            return 0.0
        least = max(self._longest_call * 2, self.limits.seconds * 0.1, _LEAST_SECONDS)
        return min(least, self.limits.seconds / 2)

    def _cost(self, model: str | None, read: int, written: int) -> float:
        if not self.limits.prices:
            return 0.0
        price_in, price_out = self._price(model)
        return (read * price_in + written * price_out) / _PER_MILLION

    def _price(self, model: str | None) -> tuple[float, float]:
        prices = self.limits.prices or {}
        price = prices.get(model or "", prices.get("*"))
        if price is None:
            if self.limits.cost is None:
                return 0.0, 0.0
            raise ConfigurationError(
                f"Limits.prices has no price for the model '{model}': add it, or one for '*'"
            )
        return price


def expected_tokens(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> int:
    """
    Tokens that messages will take, rather too many than too few.

    :param messages: Any.
    :param tools: Definitions that are sent with them.
    :returns: Tokens, at 3 bytes each.
    """
    size = 0
    for message in messages:
        size += _PER_MESSAGE + sum(len(text.encode("utf-8", "replace")) for text in message.texts)
        for call in message.tool_calls:
            size += len(call.tool_name) + len(json.dumps(call.arguments, default=str))
        for result in message.tool_call_results:
            size += len(str(result.result).encode("utf-8", "replace"))
    size += sum(len(tool.description) + len(json.dumps(tool.parameters, default=str)) for tool in tools)
    return -(-size // 3)


_current: ContextVar[Budget | None] = ContextVar("llama_agent_budget", default=None)


def current_budget() -> Budget | None:
    """
    The budget of the run that this code runs in, as a sub-agent does in a tool.

    :returns: It, or None outside of a run.
    """
    return _current.get()


@contextmanager
def spending(budget: Budget) -> Generator[None]:
    """
    Make a budget that of the runs that begin within the block, in this thread or task and those it starts.

    :param budget: The budget.
    """
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)


def _check_whole(name: str, value: object, *, least: int) -> None:
    if value is not None and (type(value) is not int or value < least):
        raise ConfigurationError(f"{name} must be a whole number of {least} or more, not {value!r}")


def _is_price(value: object) -> bool:
    return _is_number(value) and 0 <= cast("float", value) < math.inf


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
