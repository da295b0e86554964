"""
Runs one call of a tool within its time, again where that may help, and where nothing can hold the run.

Python can't end a thread. A sync tool that is too slow is left behind in its own; only a process can be
killed (`tooling/processes.py`).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterable, Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import tenacity
from tenacity.stop import StopBaseT

from llama_agent.cancel import Cancelled, CancelToken, pause
from llama_agent.errors import ToolDenied, ToolRetry
from llama_agent.events import ToolRetryScheduled, ToolTimedOut, emit
from llama_agent.logs import logger_of
from llama_agent.redaction import redact
from llama_agent.tooling.call_options import CallOptions
from llama_agent.tooling.processes import run_in_process
from llama_agent.tooling.results import collected, collected_async
from llama_agent.tooling.schema import BoundArguments
from llama_agent.tooling.threads import (
    CANCEL_SECONDS,
    TOOL_FAILURES,
    Captured,
    captured,
    in_thread,
    wait_for_any,
    wait_for_threads,
)

logger = logger_of(__name__)

Await: TypeAlias = Callable[[Any], Any]
"""Finishes what an async function returned (see `finished`) on an event loop elsewhere, and blocks for it."""

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0
"""Seconds between attempts: a random time below a bound that doubles."""
_LEFT_SECONDS = 0.2
"""How long a thread is waited for that was told to stop."""
_REASON_CHARACTERS = 500


class TimedOut(Exception):
    """A call took too long. Its text is for the model."""


@dataclass(frozen=True)
class Call:
    """
    One call of a tool.

    :param name: The tool's.
    :param call_id: The model's id of it.
    :param function: The sync function, where there is one.
    :param async_function: The async one.
    :param arguments: Gives its arguments, new ones each time: what an attempt did to them isn't the next's.
    :param options: How it is run.
    :param retries: Further attempts after one of `options.retry_on`.
    :param seconds: How long it may take, retries included; None for no limit.
    :param cancel: Its own token: cancelled when it takes too long, and with the run.
    :param is_watched: Whether it may be cancelled from elsewhere while the caller waits.
    :param threads: Those that tools of the run run in; a sync function's joins them.
    """

    name: str
    call_id: str | None
    function: Callable[..., Any] | None
    async_function: Callable[..., Any] | None
    arguments: Callable[[], BoundArguments]
    options: CallOptions = field(default_factory=CallOptions)
    retries: int = 0
    seconds: float | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    is_watched: bool = False
    threads: set[Future[Any]] = field(default_factory=set[Future[Any]])

    def run(self, on_loop: Await) -> Any:
        """
        Run it on the caller's thread, or, where it may be given up, in one of its own.

        :param on_loop: For async functions.
        :returns: What it returns.
        :raises TimedOut: It took too long.
        :raises Cancelled: The run is over.
        """
        if self.seconds is None and not self.is_watched:
            return self._attempts(on_loop).value()
        until = self._end()
        future = self._in_thread(lambda: self._attempts(on_loop))
        try:
            is_done = bool(wait_for_any([future], until=until, cancel=self.cancel))
        except BaseException:
            self._leave(future)
            raise
        if is_done:
            return future.result().value()
        is_cancelled = self.cancel.cancelled
        self._leave(future)
        if is_cancelled:
            raise Cancelled
        raise self._timed_out(is_left=not future.done(), leaked=not future.done())

    async def run_async(self) -> Any:
        """
        Run it on the running event loop; a sync function in a thread.

        :returns: As `run`.
        :raises TimedOut: As `run`.
        """
        threads: list[Future[Captured]] = []
        if self.seconds is None:
            return (await self._attempts_async(threads)).value()
        until = self._end()
        task = asyncio.ensure_future(self._attempts_async(threads))
        try:
            await asyncio.wait({task}, timeout=until - time.monotonic() if until else None)
        finally:
            is_done = task.done()
            if not is_done:
                self.cancel.cancel()
                task.cancel()
                await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        if is_done:
            return task.result().value()
        await wait_for_threads(threads, _LEFT_SECONDS)
        leaked = bool(threads) and not threads[-1].done()
        raise self._timed_out(is_left=leaked or not task.done(), leaked=leaked)

    def _end(self) -> float | None:
        """When it has to be over; there is no use in a call that has no time."""
        if self.seconds is None:
            return None
        if self.seconds <= 0:
            raise TimedOut(f"Tool '{self.name}' was not called: there is no time left.")
        return time.monotonic() + self.seconds

    def _attempts(self, on_loop: Await) -> Captured:
        def attempt() -> Captured:
            try:
                return Captured(self._called(on_loop))
            except TOOL_FAILURES as error:
                return Captured(raised=error)

        if not self.retries:
            return attempt()
        return tenacity.Retrying(sleep=pause, **self._retrying())(attempt)

    async def _attempts_async(self, threads: list[Future[Captured]]) -> Captured:
        async def attempt() -> Captured:
            if self.async_function is not None and self.options.isolation is None:
                return await captured(finished(self.arguments().call(self.async_function)))
            threads.append(self._in_thread(self._called_here))
            done = await asyncio.wrap_future(threads[-1])
            return done if done.raised is not None else await captured(finished(done.returned))

        if not self.retries:
            return await attempt()
        return await tenacity.AsyncRetrying(**self._retrying())(attempt)

    def _called(self, on_loop: Await) -> Any:
        if self.options.isolation is None and self.function is None and self.async_function is not None:
            return on_loop(self.arguments().call(self.async_function))
        value = self._called_here().value()
        return on_loop(value) if _has_to_be_awaited(value) else value

    def _called_here(self) -> Captured:
        try:
            if self.options.isolation == "process":
                function = cast("Callable[..., Any]", self.function or self.async_function)
                return Captured(run_in_process(function, self.arguments(), self.cancel))
            return Captured(collected(self.arguments().call(cast("Callable[..., Any]", self.function))))
        except TOOL_FAILURES as error:
            return Captured(raised=error)

    def _in_thread(self, function: Callable[[], Captured]) -> Future[Captured]:
        future = in_thread(function)
        self.threads.add(future)
        future.add_done_callback(self.threads.discard)
        return future

    def _leave(self, future: Future[Captured]) -> None:
        """Tell a thread to stop, and give it a moment to."""
        self.cancel.cancel()
        wait([future], timeout=_LEFT_SECONDS)

    def _timed_out(self, *, is_left: bool, leaked: bool) -> TimedOut:
        seconds = self.seconds or 0.0
        emit(ToolTimedOut, tool_name=self.name, call_id=self.call_id, seconds=seconds, leaked=leaked)
        if is_left:
            logger.warning("tool '%s' still runs, though its time is over", self.name)
        is_sync = self.function is not None and self.options.isolation is None
        end = "It was stopped."
        if is_left:
            end = "It may still be at work."
        elif is_sync:
            end = "It ended a moment later, so it may have done its work."
        return TimedOut(f"Tool '{self.name}' did not finish within {seconds:.3g} seconds. {end}")

    def _retrying(self) -> dict[str, Any]:
        stop: StopBaseT = tenacity.stop_after_attempt(self.retries + 1)
        if self.seconds is not None:
            stop |= tenacity.stop_before_delay(self.seconds)
        return {
            "stop": stop,
            "wait": tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
            "retry": tenacity.retry_if_result(self._may_pass),
            "before_sleep": self._tell,
            "retry_error_callback": _last_outcome,
        }

    def _may_pass(self, outcome: Captured) -> bool:
        is_word = isinstance(outcome.raised, ToolRetry | ToolDenied)  # the tool's own, to the model
        return isinstance(outcome.raised, self.options.retry_on) and not is_word and not self.cancel.cancelled

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = _last_outcome(state).raised
        emit(
            ToolRetryScheduled,
            tool_name=self.name,
            call_id=self.call_id,
            attempt=state.attempt_number,
            wait=state.next_action.sleep if state.next_action else 0.0,
            reason=redact(f"{type(error).__name__}: {error}", limit=_REASON_CHARACTERS),
        )


async def finished(value: Any) -> Any:
    """
    What comes of a call's value.

    :param value: What a function returned.
    :returns: It, awaited as long as it can be; the items of an async generator.
    """
    while inspect.isawaitable(value):
        value = await value
    if isinstance(value, AsyncIterable):
        return await collected_async(cast("AsyncIterable[object]", value))
    return value


def _has_to_be_awaited(value: object) -> bool:
    return inspect.isawaitable(value) or isinstance(value, AsyncIterable)


def _last_outcome(state: tenacity.RetryCallState) -> Captured:
    return cast("Captured", state.outcome.result() if state.outcome else Captured())
