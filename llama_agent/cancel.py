"""Telling code in another thread or task that its work is no longer wanted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Self

from llama_agent.errors import ConfigurationError
from llama_agent.logs import logger_of

logger = logger_of(__name__)


class Cancelled(BaseException):
    """
    Ends the work of a run whose token was cancelled. `Agent.run` catches it.

    No `Exception`, so that nobody between swallows it.
    """


class CancelToken:
    """
    Breaks a run off: give it as `agent.run(..., cancel=token)`, and call `cancel` from any thread or task. A
    tool that works for long finds its call's own in `RunContext.cancel`, looks at it now and then, and stops.

    Once cancelled, it stays so. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._cancelled = False
        # Re-entrant: a signal handler may cancel it while this very thread has it in use.
        self._changed = threading.Condition(threading.RLock())
        self._callbacks: dict[object, Callable[[], object]] = {}

    @property
    def cancelled(self) -> bool:
        """Whether the work is no longer wanted."""
        return self._cancelled

    def cancel(self) -> None:
        """Say that the work is no longer wanted. A signal handler may do so too."""
        with self._changed:
            self._cancelled = True
            callbacks, self._callbacks = list(self._callbacks.values()), {}
            self._changed.notify_all()
        for callback in callbacks:
            _call(callback)

    def wait(self, seconds: float) -> bool:
        """
        Sleep, but wake up when cancelled.

        :param seconds: Longest time to sleep.
        :returns: Whether it is cancelled.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._cancelled, seconds)

    def on_cancel(self, callback: Callable[[], object]) -> Callable[[], None]:
        """
        Have a function called once it is cancelled: at once when it is already.

        :param callback: Called without arguments, in the thread that cancels; it must be quick. What it
            raises is logged.
        :returns: Call it when the callback isn't needed any more.
        """
        key = object()
        with self._changed:
            self._callbacks[key] = callback

        def remove() -> None:
            with self._changed:
                self._callbacks.pop(key, None)

        if self._cancelled:
            with self._changed:
                missed = self._callbacks.pop(key, None)
            if missed is not None:
                _call(missed)
        return remove

    def check(self) -> None:
        """
        Go no further when cancelled.

        :raises Cancelled: It is.
        """
        if self._cancelled:
            raise Cancelled

    @contextmanager
    def linked(self) -> Generator[CancelToken]:
        """
        A token for a part of the work: cancelled with this one, or by itself alone.

        :returns: A context manager that gives it.
        """
        part = CancelToken()
        remove = self.on_cancel(part.cancel)
        try:
            yield part
        finally:
            remove()


def _call(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("what was to be called on cancellation failed")


@contextmanager
def joined(*tokens: CancelToken | None) -> Generator[CancelToken | None]:
    """
    One token for several: cancelled with any of them.

    :param tokens: None among them for none.
    :returns: A context manager that gives it; None when there is none.
    """
    given = [token for token in tokens if token is not None]
    if len(given) < 2:
        yield given[0] if given else None
        return
    both = CancelToken()
    removes = [token.on_cancel(both.cancel) for token in given]
    try:
        yield both
    finally:
        for remove in removes:
            remove()


class ended_by:
    """
    Ends the running task's work within the block when a token is cancelled.

    :param token: From any thread. None for none.
    :raises Cancelled: It was cancelled. When the task itself is cancelled too, its `CancelledError` passes.
    """

    def __init__(self, token: CancelToken | None) -> None:
        self._token = token
        self._is_over = self._has_fired = False

    async def __aenter__(self) -> Self:
        if self._token is not None:
            self._token.check()
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
            self._cancelling = self._task.cancelling() if self._task else 0
            self._remove = self._token.on_cancel(self._tell_loop)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._is_over = True
        if self._token is None:
            return
        self._remove()
        if self._has_fired and self._task is not None:
            others = self._task.uncancel() > self._cancelling
            if isinstance(error, asyncio.CancelledError) and not others:
                raise Cancelled from error

    def _tell_loop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing runs on it
            self._loop.call_soon_threadsafe(self._cancel_task)

    def _cancel_task(self) -> None:
        if not self._is_over and self._task is not None:
            self._has_fired = True
            self._task.cancel()


def check_token(given: object) -> None:
    """
    Make sure that what was given as `cancel=` is a token.

    :param given: What a caller passed; None for none.
    :raises ConfigurationError: It is something else.
    """
    if not isinstance(given, CancelToken | None):
        raise ConfigurationError(f"cancel must be a CancelToken, not {given!r}")


_current: ContextVar[CancelToken | None] = ContextVar("llama_agent_cancel", default=None)


def current_cancel() -> CancelToken | None:
    """
    The token of the work that this code is part of: a run's, or a tool call's.

    :returns: It, or None where nobody can cancel it by one.
    """
    return _current.get()


@contextmanager
def cancellable(token: CancelToken | None) -> Generator[None]:
    """
    Make a token the current one within the block, in this thread or task and those it starts.

    :param token: The token; None leaves the current one.
    """
    if token is None:
        yield
        return
    reset = _current.set(token)
    try:
        yield
    finally:
        _current.reset(reset)


def pause(seconds: float) -> None:
    """
    Sleep, but no longer than until the current work is cancelled.

    :param seconds: How long.
    :raises Cancelled: It is.
    """
    token = current_cancel() or CancelToken()
    if token.wait(seconds):
        raise Cancelled
