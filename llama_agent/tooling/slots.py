"""
How many tool calls run at the same time, over a run and the runs of its sub-agents.

A call that runs a sub-agent lends its place while the sub-agent's own calls run: they work for it, and it
only waits. So a limit of 1 orders everything, and holds nothing up for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from llama_agent.cancel import Cancelled, CancelToken
from llama_agent.tooling.threads import wait_for_any


class Slots:
    """
    The places of one run's tool calls.

    :param limit: How many there are.
    :param above: The place of the tool call that this run works for; None for none.
    """

    def __init__(self, limit: int, above: Place | None = None) -> None:
        self._levels: tuple[_Level, ...] = (_Level(limit), *(above.levels if above else ()))
        self._above = above

    @contextmanager
    def place(self, cancel: CancelToken) -> Generator[None]:
        """
        Wait for a place, and have it within the block.

        :param cancel: Ends the wait.
        :raises Cancelled: It was cancelled.
        """
        place = Place(self._levels)
        try:
            place.take(cancel)
            with _holding(place):
                yield
        finally:
            place.leave()

    @asynccontextmanager
    async def place_async(self) -> AsyncGenerator[None]:
        """`place`, on the running event loop."""
        place = Place(self._levels)
        try:
            await place.take_async()
            with _holding(place):
                yield
        finally:
            place.leave()

    @contextmanager
    def borrowed(self, cancel: CancelToken) -> Generator[None]:
        """
        Let the calls of a batch have the place of the call that they work for.

        :param cancel: Ends the wait for it afterwards.
        """
        if self._above is None:
            yield
            return
        self._above.lend()
        try:
            yield
        finally:
            if self._above.is_back():
                self._above.take(cancel)

    @asynccontextmanager
    async def borrowed_async(self) -> AsyncGenerator[None]:
        """`borrowed`, on the running event loop."""
        if self._above is None:
            yield
            return
        self._above.lend()
        try:
            yield
        finally:
            if self._above.is_back():
                await self._above.take_async()


class Place:
    """
    One call's place: in its own run, and in those above.

    :param levels: Where it counts, its own run first.
    """

    def __init__(self, levels: Sequence[_Level]) -> None:
        self.levels = tuple(levels)
        self._held: list[_Level] = []
        self._lent = 0
        self._is_left = False
        self._lock = threading.Lock()

    def take(self, cancel: CancelToken) -> None:
        """
        Wait for it.

        :param cancel: Ends the wait.
        :raises Cancelled: It was cancelled.
        """
        for level in self.levels:
            turn = level.ask()
            try:
                is_mine = bool(wait_for_any([turn], cancel=cancel)) if not turn.done() else True
            except BaseException:
                level.give_up(turn)
                raise
            if not is_mine:
                level.give_up(turn)
                raise Cancelled
            self._has(level)

    async def take_async(self) -> None:
        """`take`, on the running event loop."""
        for level in self.levels:
            turn = level.ask()
            if not turn.done():
                try:
                    # Not the future itself: cancelling the wait would cancel it under the giver's hands.
                    await asyncio.shield(asyncio.wrap_future(turn))
                except BaseException:
                    level.give_up(turn)
                    raise
            self._has(level)

    def leave(self) -> None:
        """Give it back for good."""
        with self._lock:
            self._is_left = True
            held, self._held = self._held, []
        for level in held:
            level.give()

    def lend(self) -> None:
        """Give it to those who work for its call."""
        with self._lock:
            self._lent += 1
            held, self._held = (self._held, []) if self._lent == 1 else ([], self._held)
        for level in held:
            level.give()

    def is_back(self) -> bool:
        """
        Say that one of those no longer needs it.

        :returns: Whether nobody does, and its call goes on: then it has to be taken again.
        """
        with self._lock:
            self._lent -= 1
            return self._lent == 0 and not self._is_left

    def _has(self, level: _Level) -> None:
        with self._lock:
            if not self._is_left:
                self._held.append(level)
                return
        level.give()  # its call was given up in between


class _Level:
    """The places of one run."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def ask(self) -> Future[None]:
        """A future that is done once a place is had."""
        turn: Future[None] = Future()
        with self._lock:
            if self._free > 0:
                self._free -= 1
                turn.set_result(None)
            else:
                self._waiting.append(turn)
        return turn

    def give(self) -> None:
        """Give a place to whoever has waited longest."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            turn = self._waiting.popleft()
        turn.set_result(None)

    def give_up(self, turn: Future[None]) -> None:
        """Wait no longer; a place that came all the same goes on."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return
        self.give()


_current: ContextVar[Place | None] = ContextVar("llama_agent_place", default=None)


@contextmanager
def _holding(place: Place) -> Generator[None]:
    reset = _current.set(place)
    try:
        yield
    finally:
        _current.reset(reset)


def current_place() -> Place | None:
    """
    The place of the tool call that this code runs in.

    :returns: It, or None outside of a tool call.
    """
    return _current.get()
