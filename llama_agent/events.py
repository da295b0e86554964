"""
What a user can watch of a run: one frozen dataclass per kind of thing that happens.

An `EventSink` gives each event its run id, step and time, and hands it on. Code far from the agent (a retry
in the generator) reaches the sink of the current run through a context variable, so that no signature of
Haystack's has to change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from llama_agent.logs import logger_of

if TYPE_CHECKING:
    from llama_agent.loop.state import RunResult

logger = logger_of(__name__)


@dataclass(frozen=True, kw_only=True)
class Event:
    """
    Something that happened in a run.

    :param run_id: The run it belongs to.
    :param step: Number of the step it happened in, from 1; 0 before the first.
    :param time: Seconds since the epoch.
    """

    run_id: str
    step: int
    time: float

    def to_dict(self) -> dict[str, Any]:
        """
        The event as JSON-serializable data.

        :returns: Its fields, and its class name under `type`.
        """
        said: dict[str, Any] = {"type": type(self).__name__}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Event):
                said[each.name] = value.to_dict()
            elif each.name != "result" or isinstance(value, str):
                said[each.name] = deepcopy(value)
        return said


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run began. `tools`: names of the tools on offer."""

    tools: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ModelRequested(Event):
    """
    The model is asked. `message_count`: messages in the conversation; `tools`: names on offer in this step.
    """

    message_count: int
    tools: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextDelta(Event):
    """A piece of streamed text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ReasoningDelta(Event):
    """A piece of streamed thinking, which isn't part of the answer."""

    text: str


@dataclass(frozen=True, kw_only=True)
class TextSuperseded(Event):
    """
    A stream broke, and the reply is asked for again: what came of it no longer counts.

    Its calls don't count either; what was begun for them is used when they come again.

    :param characters: How many of text, at the end of what the `TextDelta`s gave.
    """

    characters: int


@dataclass(frozen=True, kw_only=True)
class ToolCallReceived(Event):
    """
    The model has written a tool call to its end; in a streamed reply, more may follow.

    :param arguments: As the model wrote them, not yet checked.
    """

    tool_name: str
    call_id: str | None
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelReplied(Event):
    """
    The model answered.

    :param text: Its text, or None.
    :param tool_names: Tools it calls, in its order.
    :param finish_reason: What the server gave as the reason, or None.
    :param seconds: How long it took, retries included.
    """

    text: str | None
    tool_names: tuple[str, ...]
    finish_reason: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ToolCallsRecovered(Event):
    """
    The model wrote its calls as text, and they were read.

    :param format: Name of the format.
    :param tool_names: Tools that are called, in its order.
    """

    format: str
    tool_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ToolModeChanged(Event):
    """
    The server doesn't take tools; from now on they are offered in another way.

    :param mode: A `tool_mode` of the generator.
    :param reason: What the server said.
    """

    mode: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class NoteAdded(Event):
    """The model is told something that no user and no tool said."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ContextCompacted(Event):
    """
    The conversation was getting too long for the model's window.

    :param tokens_before: About how many tokens it took.
    :param tokens_after: About how many it takes now.
    :param is_summed_up: Whether old steps were replaced by a summary; else old tool results were shortened.
    """

    tokens_before: int
    tokens_after: int
    is_summed_up: bool


@dataclass(frozen=True, kw_only=True)
class LandingStarted(Event):
    """The run has to end, and the model is asked for a last answer. `reason`: the run's `stop_reason`."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class LastAnswerFailed(Event):
    """A limit was reached, and the last answer couldn't be had. `reason`: what went wrong."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class RetryScheduled(Event):
    """
    A model request failed and will be sent again.

    :param attempt: The attempt that failed, from 1.
    :param wait: Seconds until the next.
    :param reason: Why it failed.
    """

    attempt: int
    wait: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class RequestDelayed(Event):
    """
    A model request waits for its turn, because of a `RateLimit`.

    :param wait: Seconds, as far as can be said now; None when it depends on others.
    :param reason: What it waits for.
    """

    wait: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class ApprovalRequested(Event):
    """A person's word is asked before a tool runs."""

    tool_name: str
    call_id: str | None
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ToolStarted(Event):
    """A tool call starts."""

    tool_name: str
    call_id: str | None
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ToolProgress(Event):
    """
    A tool says how far it is, by `RunContext.progress`.

    :param text: What it says; the model doesn't see it.
    """

    tool_name: str
    call_id: str | None
    text: str


@dataclass(frozen=True, kw_only=True)
class ToolRetryScheduled(Event):
    """
    A tool failed in a way that may pass by itself, and will be called again.

    :param attempt: The attempt that failed, from 1.
    :param wait: Seconds until the next.
    :param reason: Why it failed.
    """

    tool_name: str
    call_id: str | None
    attempt: int
    wait: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class ToolTimedOut(Event):
    """
    A tool call took longer than it may.

    :param seconds: How long it may take.
    :param leaked: Whether its thread still runs: Python can't end one.
    """

    tool_name: str
    call_id: str | None
    seconds: float
    leaked: bool


@dataclass(frozen=True, kw_only=True)
class ToolFinished(Event):
    """
    A tool call ended, well or badly.

    :param result: The text that the model gets.
    :param error: Whether it failed, or was refused.
    :param seconds: How long it took.
    :param traceback: The failure's traceback, secrets taken out; None when no exception was raised.
    """

    tool_name: str
    call_id: str | None
    result: str
    error: bool
    seconds: float
    traceback: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """
    A run ended: the last of its events.

    :param stop_reason: As in `RunResult`.
    :param steps: How many it took.
    :param result: What the run gives back; not part of `to_dict`.
    """

    stop_reason: str
    steps: int
    result: RunResult | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class SubAgentEvent(Event):
    """
    Something happened in the run of another agent that works for this one, in one of its tool calls.

    :param event: With that run's own id and step; itself a `SubAgentEvent` where it has agents of its own.
    """

    event: Event


_DELTAS = (TextDelta, ReasoningDelta)

OnEvent: TypeAlias = Callable[[Event], object]
"""Called with each event, one at a time, in the order they happen; maybe from a tool's thread."""


class EventSink:
    """
    Where the events of one run go: kept for `RunResult.events`, and handed to a listener.

    :param run_id: The run.
    :param on_event: Listener. What it raises is logged and doesn't touch the run.
    :param above: That of the run that this one works for, which gets the events too, as `SubAgentEvent`s.
    :param streams: Whether the listener wants replies to be streamed.
    :param ready: Awaited by an async run, so that it waits for whoever takes its events.
    """

    def __init__(
        self,
        run_id: str,
        on_event: OnEvent | None = None,
        *,
        above: EventSink | None = None,
        streams: bool = False,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.run_id = run_id
        self.streams = streams or (above is not None and above.streams)
        self.ready = ready or (above.ready if above is not None else None)
        self.wants_deltas = on_event is not None or (above is not None and above.wants_deltas)
        self.step = 0
        self.events: list[Event] = []
        self.hides_deltas = False
        """Whether what is being streamed is no part of what the run says."""
        self._is_over = False
        self._on_event = on_event
        self._above = above
        self._lock = threading.RLock()

    def emit(self, kind: Callable[..., Event], **fields: object) -> None:
        """
        Record an event; none after `RunFinished`, though a tool that was left behind may have some.

        Deltas go to the listener only: the text itself is in the reply's event.

        :param kind: The event's class.
        :param fields: Its fields beside run id, step and time.
        """
        is_delta = any(kind is delta for delta in _DELTAS)
        if is_delta and (not self.wants_deltas or self.hides_deltas):
            return
        event = kind(run_id=self.run_id, step=self.step, time=time.time(), **fields)
        with self._lock:
            if self._is_over:
                return
            if not is_delta:
                self.events.append(event)
            self._tell(event)
            if self._above is not None:
                self._above.relay(event)

    def finish(self, make_result: Callable[[], RunResult], *, stop_reason: str, steps: int) -> RunResult:
        """
        Record the last event, `RunFinished`.

        :param make_result: Makes what the run gives back, of the events so far.
        :param stop_reason: As in `RunResult`.
        :param steps: How many it took.
        :returns: What it made. The listener's event has it; that among the result's events would hold itself.
        """
        event = RunFinished(
            run_id=self.run_id, step=self.step, time=time.time(), stop_reason=stop_reason, steps=steps
        )
        with self._lock:
            if self._is_over:
                return make_result()
            self._is_over = True
            self.events.append(event)
            result = make_result()
            self._tell(replace(event, result=result))
            if self._above is not None:
                self._above.relay(event)
        return result

    def relay(self, event: Event) -> None:
        """
        Record an event of a run that works for this one.

        :param event: With its own run's id.
        """
        outer = SubAgentEvent(run_id=self.run_id, step=self.step, time=event.time, event=event)
        while isinstance(event, SubAgentEvent):
            event = event.event
        with self._lock:
            if self._is_over:
                return
            if not isinstance(event, _DELTAS):
                self.events.append(outer)
            self._tell(outer)
            if self._above is not None:
                self._above.relay(outer)

    def _tell(self, event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("on_event failed for %s; the run goes on", type(event).__name__)


_current: ContextVar[EventSink | None] = ContextVar("llama_agent_events", default=None)


@contextmanager
def collecting(sink: EventSink) -> Generator[None]:
    """
    Make `sink` the one that `emit` reaches within the block, in this thread or task and those it starts.

    :param sink: The current run's sink.
    """
    token = _current.set(sink)
    try:
        yield
    finally:
        _current.reset(token)


def current_sink() -> EventSink | None:
    """
    The sink of the current run.

    :returns: The sink that `collecting` set, or None outside a run.
    """
    return _current.get()


def emit(kind: Callable[..., Event], **fields: object) -> None:
    """
    Record an event of the current run, if there is one.

    :param kind: The event's class.
    :param fields: Its fields beside run id, step and time.
    """
    sink = _current.get()
    if sink is not None:
        sink.emit(kind, **fields)
