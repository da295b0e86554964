"""Where tools run that don't run on the caller's thread: daemon threads, and an event loop in one."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from llama_agent.cancel import Cancelled, CancelToken, current_cancel
from llama_agent.logs import logger_of

logger = logger_of(__name__)

T = TypeVar("T")

# What a tool may end with that is its own failure and not the run's. SystemExit: a tool that calls a
# command-line program's main() must not end a run of hours.
TOOL_FAILURES = (Exception, SystemExit)
CANCEL_SECONDS = 0.5
"""How long a task that was cancelled is waited for."""
_SIGNAL_SECONDS = 0.2


@dataclass(frozen=True)
class Captured:
    """A return value or an exception: StopIteration and SystemExit can't pass through a future."""

    returned: Any = None
    raised: BaseException | None = None

    def value(self) -> Any:
        """Return or raise what was captured."""
        if self.raised is not None:
            raise self.raised
        return self.returned


async def captured(awaitable: Awaitable[Any]) -> Captured:
    """
    Await, and capture a tool's own failure; a cancellation passes.

    :param awaitable: A tool's coroutine.
    :returns: What came of it.
    """
    try:
        return Captured(await awaitable)
    except TOOL_FAILURES as error:
        return Captured(raised=error)


def in_thread(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """
    Run in a daemon thread, with the caller's context variables: a hanging tool can't hold the program.

    :param function: What to run.
    :param arguments: Its arguments.
    :returns: Its outcome, in time.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from here on it can't be cancelled under the thread's hands
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(function, *arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="llama-agent-tool", daemon=True).start()
    return future


def wait_for_any(
    futures: Collection[Future[T]], *, until: float | None = None, cancel: CancelToken | None = None
) -> set[Future[T]]:
    """
    Wait until one of several is done, and for Ctrl-C.

    :param futures: At least one.
    :param until: How long, on `time.monotonic`'s clock; None for as long as it takes.
    :param cancel: Ends the wait too.
    :returns: Those that are done; none when the time is over, or the token cancelled.
    """
    woken: Future[Any] = Future()
    remove = cancel.on_cancel(lambda: woken.done() or woken.set_result(None)) if cancel else None
    awaited = cast("set[Future[T]]", {*futures, woken} if cancel else {*futures})
    try:
        while True:
            # Not without a bound: a signal that comes just before Python goes to sleep is only looked at when
            # it wakes up, and that could be when the slowest tool ends.
            left = _SIGNAL_SECONDS if until is None else min(_SIGNAL_SECONDS, until - time.monotonic())
            done = wait(awaited, timeout=max(0.0, left), return_when=FIRST_COMPLETED).done - {woken}
            if done or woken.done() or left <= 0:
                return done
    finally:
        if remove is not None:
            remove()


async def end_tasks(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """
    Cancel what still runs, and wait for it.

    :param tasks: Tool calls. One that swallows its cancellation is left behind after a second, with a
        warning.
    """
    unfinished = [task for task in tasks if not task.done()]
    for task in unfinished:
        task.cancel()
    if unfinished:
        _, stubborn = await asyncio.wait(unfinished, timeout=CANCEL_SECONDS)
        for task in stubborn:
            logger.warning("a tool did not end when it was cancelled: %s", task.get_name())
            # Else asyncio prints it again when the program ends, whatever the logging says.
            task._log_destroy_pending = False  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # seen: else asyncio complains of it


async def wait_for_threads(futures: Collection[Future[Any]], seconds: float) -> None:
    """
    Give threads a moment to end; what comes of them is for others.

    :param futures: What they work for.
    :param seconds: How long.
    """
    waiting = [asyncio.wrap_future(future) for future in futures if not future.done()]
    for future in waiting:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
    if waiting:
        await asyncio.wait(waiting, timeout=seconds)


class LoopThread:
    """An event loop in a daemon thread, for async tools of sync runs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="llama-agent-async-tools", daemon=True
        )
        self._thread.start()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """
        Await on that loop, and block until it is done.

        :param awaitable: A tool's coroutine.
        :returns: What it returns. What it raises is raised here.
        """
        future = asyncio.run_coroutine_threadsafe(captured(awaitable), self._loop)
        cancel = current_cancel()
        try:
            if not wait_for_any([future], cancel=cancel):
                raise Cancelled
            return future.result().value()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """
        Cancel what runs, end the thread, close the loop. Where a tool blocks the loop, it is left behind.
        """
        future = asyncio.run_coroutine_threadsafe(self._end_all(), self._loop)
        if not wait([future], timeout=2 * CANCEL_SECONDS).done:
            logger.warning("an async tool blocks its event loop: the loop's thread is left behind")
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_all(self) -> None:
        await end_tasks([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])
        # Connections that tools opened here are closed so (PEP 525), as `asyncio.run` does it.
        await self._loop.shutdown_asyncgens()
