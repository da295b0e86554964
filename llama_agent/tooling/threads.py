"""Where tools run that don't run on the caller's thread: daemon threads, and an event loop in one."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

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
_CANCEL_LOOK_SECONDS = 0.05


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
    # Not without a bound: a signal that comes just before Python goes to sleep is only looked at when it
    # wakes up, and that could be when the slowest tool ends. Nor does the token wake it: a signal handler may
    # cancel, and what would wake this thread isn't made for being called within it.
    look_again = _SIGNAL_SECONDS if cancel is None else _CANCEL_LOOK_SECONDS
    while True:
        left = look_again if until is None else min(look_again, until - time.monotonic())
        done = wait(futures, timeout=max(0.0, left), return_when=FIRST_COMPLETED).done
        if done or left <= 0 or (cancel is not None and cancel.cancelled):
            return done


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
    """
    An event loop in a daemon thread, for async tools of sync runs.

    `is_blocked`: whether a tool that was given up holds the whole loop up; then others need another one.
    """

    def __init__(self) -> None:
        self.is_blocked = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="llama-agent-async-tools", daemon=True)
        self._thread.start()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """
        Await on that loop, and block until it is done.

        :param awaitable: A tool's coroutine.
        :returns: What it returns. What it raises is raised here.
        """
        ended: Future[None] = Future()

        async def finish() -> Captured:
            try:
                return await captured(awaitable)
            finally:
                ended.set_result(None)

        future = asyncio.run_coroutine_threadsafe(finish(), self._loop)
        try:
            if not wait_for_any([future], cancel=current_cancel()):
                raise Cancelled
            return future.result().value()
        except BaseException:
            if future.cancel() and not wait([ended], timeout=CANCEL_SECONDS).done:
                self._look_whether_blocked()
            raise

    def _look_whether_blocked(self) -> None:
        answer = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop)
        self.is_blocked = not wait([answer], timeout=_SIGNAL_SECONDS).done

    def stop(self) -> None:
        """
        Cancel what runs, end the thread, close the loop. Where a tool blocks the loop, it is left behind.
        """
        self.end_later()
        self._thread.join(2 * CANCEL_SECONDS)
        if self._thread.is_alive():
            logger.warning("an async tool blocks its event loop: the loop's thread is left behind")

    def end_later(self) -> None:
        """As `stop`, as soon as no tool blocks the loop; without waiting for it."""
        ending = asyncio.run_coroutine_threadsafe(self._end_all(), self._loop)
        ending.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _end_all(self) -> None:
        await end_tasks([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])
        # Connections that tools opened here are closed so (PEP 525), as `asyncio.run` does it.
        await self._loop.shutdown_asyncgens()
