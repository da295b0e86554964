"""
How many tool calls run at the same time, over a run and the runs of its sub-agents.

A call that runs a sub-agent lends its place to the sub-agent's calls, one after the other: they work for it,
and it only waits. So a limit of 1 orders everything, and holds nothing up for ever, even where an event loop
is blocked by one of the calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeAlias

from llama_agent.cancel import Cancelled, CancelToken
from llama_agent.tooling.threads import wait_for_any


class Slots:
    """
    The places of one run's tool calls.

    :param limit: How many there are.
    :param above: The place of the tool call that this run works for; None for none.
    """

    def __init__(self, limit: int, above: Place | None = None) -> None:
        self.limit = limit
        self.above = above
        self.used = 0
        self._queue: _Queue = above.slots._queue if above else _Queue()

    @contextmanager
    def place(self, cancel: CancelToken) -> Generator[None]:
        """
        Wait for a place, and have it within the block.

        :param cancel: Ends the wait.
        :raises Cancelled: It was cancelled.
        """
        request = self._queue.join(self)
        try:
            if not request.turn.done() and not wait_for_any([request.turn], cancel=cancel):
                raise Cancelled
            with _holding(Place(self)):
                yield
        finally:
            self._queue.leave(request)

    @asynccontextmanager
    async def place_async(self) -> AsyncGenerator[None]:
        """`place`, on the running event loop."""
        request = self._queue.join(self)
        try:
            if not request.turn.done():
                # Shielded: cancelling the wait would cancel the turn under its giver's hands.
                await asyncio.shield(asyncio.wrap_future(request.turn))
            with _holding(Place(self)):
                yield
        finally:
            self._queue.leave(request)


@dataclass(eq=False)
class Place:
    """
    One call's place. `is_lent`: whether a call of its sub-agent has it now.

    :param slots: Those of its run.
    """

    slots: Slots
    is_lent: bool = False


_Claims: TypeAlias = list[Slots | Place]


@dataclass(eq=False)
class _Request:
    """Somebody who wants a place; `claims`: what it takes up once it has one."""

    slots: Slots
    turn: Future[None] = field(default_factory=Future[None])
    claims: _Claims = field(default_factory=list[Slots | Place])


class _Queue:
    """Who waits, over all runs that share places."""

    def __init__(self) -> None:
        self._waiting: list[_Request] = []
        self._lock = threading.Lock()

    def join(self, slots: Slots) -> _Request:
        """Ask for a place; its turn is done once it is had."""
        request = _Request(slots)
        with self._lock:
            self._waiting.append(request)
        self._admit()
        return request

    def leave(self, request: _Request) -> None:
        """Give a place back, or wait no longer for it."""
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)
            for claim in request.claims:
                if isinstance(claim, Place):
                    claim.is_lent = False
                else:
                    claim.used -= 1
            request.claims = []
        self._admit()

    def _admit(self) -> None:
        admitted: list[_Request] = []
        with self._lock:
            for request in list(self._waiting):
                if (claims := _claims_of(request.slots)) is None:
                    continue
                for claim in claims:
                    if isinstance(claim, Place):
                        claim.is_lent = True
                    else:
                        claim.used += 1
                request.claims = claims
                self._waiting.remove(request)
                admitted.append(request)
        for request in admitted:
            request.turn.set_result(None)


def _claims_of(slots: Slots) -> _Claims | None:
    """What a call would take up: a place in its run, and that of the call above, or another one there."""
    claims: _Claims = []
    while slots.used < slots.limit:
        claims.append(slots)
        if slots.above is None:
            return claims
        if not slots.above.is_lent:
            return [*claims, slots.above]
        slots = slots.above.slots
    return None


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
