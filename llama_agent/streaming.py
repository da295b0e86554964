"""`agent.stream` and `agent.stream_async`: a run as its events, one after the other."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Self

from llama_agent.cancel import CancelToken
from llama_agent.errors import RunInterrupted
from llama_agent.events import Event, OnEvent, RunFinished
from llama_agent.loop.state import RunResult

_MOST_WAITING = 64
"""Events that wait to be taken, after which the run waits too."""
_SIGNAL_SECONDS = 0.2
"""A signal that comes just before Python goes to sleep is only looked at when it wakes up."""


class Channel:
    """
    Takes the events of a run, for somebody else to have: an `on_event` of its own kind.

    `result`: the run's, once it has ended.

    :param on_event: Called with each event too.
    """

    def __init__(self, on_event: OnEvent | None) -> None:
        self.result: RunResult | None = None
        self._on_event = on_event
        self._events: deque[Event] = deque()
        self._is_closed = False
        self._telling = threading.local()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, RunFinished):
            self.result = event.result
        if not self._is_closed:
            self.put(event)
        if self._on_event is None:
            return
        self._telling.now = True
        try:
            self._on_event(event)
        finally:
            self._telling.now = False

    @property
    def is_telling(self) -> bool:
        """Whether this thread is in the listener now: the run waits for that."""
        return getattr(self._telling, "now", False)

    def put(self, event: Event) -> None:
        """Keep an event until somebody takes it."""
        raise NotImplementedError

    async def ready(self) -> None:
        """Wait, in an async run, until there is room for more."""


class _ThreadChannel(Channel):
    """Between two threads: the run's waits where nobody takes its events."""

    def __init__(self, on_event: OnEvent | None) -> None:
        super().__init__(on_event)
        self.run_thread: int | None = None
        self._changed = threading.Condition()
        self._is_over = False

    def put(self, event: Event) -> None:
        with self._changed:
            # Other threads, as that of the agent's async tools, may work for other runs too: none is held up.
            if threading.get_ident() == self.run_thread:
                self._changed.wait_for(lambda: len(self._events) < _MOST_WAITING or self._is_closed)
            self._events.append(event)
            self._changed.notify_all()

    def take(self) -> Event | None:
        """The next event; None when there are no more."""
        with self._changed:
            while not self._events and not self._is_over:
                self._changed.wait(_SIGNAL_SECONDS)
            event = self._events.popleft() if self._events else None
            self._changed.notify_all()
            return event

    def end(self, _: object = None) -> None:
        """The run has ended."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody takes events any more."""
        with self._changed:
            self._is_closed = True
            self._events.clear()
            self._changed.notify_all()


class _LoopChannel(Channel):
    """Within an event loop; events come from other threads too."""

    def __init__(self, on_event: OnEvent | None) -> None:
        super().__init__(on_event)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._changed = asyncio.Event()
        self._is_over = False

    def put(self, event: Event) -> None:
        self._events.append(event)
        if threading.get_ident() == self._thread:
            self._changed.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    async def take(self) -> Event | None:
        """The next event; None when there are no more."""
        while not self._events and not self._is_over:
            self._changed.clear()
            await self._changed.wait()
        event = self._events.popleft() if self._events else None
        self._changed.set()
        return event

    async def ready(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            return  # a sub-agent's run elsewhere
        while len(self._events) >= _MOST_WAITING and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()

    def end(self, _: object = None) -> None:
        """The run has ended."""
        self._is_over = True
        self._changed.set()

    def close(self) -> None:
        """Nobody takes events any more."""
        self._is_closed = True
        self._events.clear()
        self._changed.set()


def _seen(task: asyncio.Task[RunResult]) -> None:
    """A failure that is told by the last event needn't be complained of, where nobody asks for more."""
    if not task.cancelled():
        task.exception()


class RunStream(Iterator[Event]):
    """
    The events of a run, which begins when the first is asked for and works in a thread of its own.

    Order: `RunStarted` is the first, `RunFinished` the last; in each step `ModelRequested`, what comes of the
    reply, `ModelReplied`; for each call `ToolCallReceived`, `ToolStarted`, `ToolFinished`. Calls of one reply
    run beside each other, and those that may begin early do so before `ModelReplied`. After `TextSuperseded`
    the reply begins anew: a call that comes again is received again, and not started again.

    A run that isn't followed to its end is cancelled: by `close()`, at the end of a `with` block, or when the
    stream is forgotten. One whose events nobody takes waits. Ctrl-C ends it with `RunInterrupted` while the
    next event is waited for; in the code around it, that is yours to handle.
    """

    def __init__(
        self,
        run: Callable[[Channel, CancelToken], RunResult],
        cancel: CancelToken | None,
        on_event: OnEvent | None,
    ) -> None:
        self._run = run
        self._channel = _ThreadChannel(on_event)
        self._cancel = CancelToken()
        self._unlink = cancel.on_cancel(self._cancel.cancel) if cancel is not None else None
        self._outcome: Future[RunResult] | None = None
        self._starting = threading.Lock()
        self._is_told = False

    @property
    def result(self) -> RunResult | None:
        """What the run gives back; None before its end."""
        return self._channel.result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._is_told:
            raise StopIteration
        try:
            with self._starting:
                if self._outcome is None:
                    self._outcome = self._start()
            event = self._channel.take()
        except KeyboardInterrupt as error:
            self.close()
            if self.result is None:
                raise
            self.result.stop_reason = "interrupted"
            raise RunInterrupted(self.result) from error
        if event is not None:
            return event
        self._is_told = True
        self._end()
        self._outcome.result()
        raise StopIteration

    def close(self) -> None:
        """
        End the run, if it hasn't ended, and wait until it has: `result` is what it had got to then.

        Called by the run itself, as in a callback or an approval, it doesn't wait.
        """
        self._end()
        is_own = self._channel.is_telling or threading.get_ident() == self._channel.run_thread
        if self._outcome is not None and not self._is_told and not is_own:
            self._outcome.exception()
        self._is_told = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._is_told:
            self._end()

    def _start(self) -> Future[RunResult]:
        outcome: Future[RunResult] = Future()
        outcome.add_done_callback(self._channel.end)
        run, channel, cancel = self._run, self._channel, self._cancel  # not `self`: it may be forgotten

        def work() -> None:
            channel.run_thread = threading.get_ident()
            try:
                outcome.set_result(run(channel, cancel))
            except BaseException as error:
                outcome.set_exception(error)

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work,), name="llama-agent-run", daemon=True).start()
        return outcome

    def _end(self) -> None:
        if self._unlink is not None:
            self._unlink()
        self._cancel.cancel()
        self._channel.close()


class AsyncRunStream(AsyncIterator[Event]):
    """
    The events of a run, which begins when the first is asked for, as a task of the running event loop.

    Order and endings are those of `RunStream`. A run whose events nobody takes waits: it doesn't read on what
    the server sends.
    """

    def __init__(
        self,
        run: Callable[[Channel, CancelToken], Coroutine[Any, Any, RunResult]],
        cancel: CancelToken | None,
        on_event: OnEvent | None,
    ) -> None:
        self._run = run
        self._on_event = on_event
        self._channel: _LoopChannel | None = None
        self._cancel = CancelToken()
        self._unlink = cancel.on_cancel(self._cancel.cancel) if cancel is not None else None
        self._task: asyncio.Task[RunResult] | None = None
        self._is_told = False

    @property
    def result(self) -> RunResult | None:
        """What the run gives back; None before its end."""
        return self._channel.result if self._channel is not None else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._is_told:
            raise StopAsyncIteration
        if self._channel is None or self._task is None:
            self._channel = _LoopChannel(self._on_event)
            self._task = asyncio.create_task(self._run(self._channel, self._cancel))
            self._task.add_done_callback(self._channel.end)
            self._task.add_done_callback(_seen)
        try:
            event = await self._channel.take()
        except asyncio.CancelledError as error:
            await self.aclose()
            error.result = self.result  # type: ignore[attr-defined]
            raise
        if event is not None:
            return event
        self._is_told = True
        self._end()
        await self._task
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """
        End the run, if it hasn't ended, and wait until it has: `result` is what it had got to then.
        """
        self._end()
        if self._task is not None and not self._is_told and self._task is not asyncio.current_task():
            await asyncio.wait({self._task})
        self._is_told = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._is_told:
            self._end()

    def _end(self) -> None:
        if self._unlink is not None:
            self._unlink()
        self._cancel.cancel()
        if self._channel is not None:
            self._channel.close()
