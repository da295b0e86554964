"""
Waiting before requests, so that a server's rate limits aren't hit: `RateLimit`, and the book that is kept of
each endpoint.

One `Pacer` per endpoint serves all generators of the process, in threads and event loops alike. Who comes
first goes first. It decides under a lock and waits outside of it: a waiter is a `Ticket` with a way to be
woken, and asks again when woken or when its time has come.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import partial

from llama_agent.cancel import current_cancel
from llama_agent.errors import ConfigurationError, EndpointError
from llama_agent.events import RequestDelayed, emit
from llama_agent.model.rate_headers import Kind, remaining_in

_MINUTE = 60.0
_SLICE = 0.2
"""Seconds after which a wait looks at the run's token."""
_LOOK_AGAIN = 5.0


@dataclass(frozen=True)
class RateLimit:
    """
    How fast an endpoint may be asked, by all agents of this process together.

    What the server says in its `x-ratelimit-remaining-*` headers and by `Retry-After` is heeded as well, so
    that `RateLimit()` alone just follows the server.

    :param requests_per_minute: Most requests begun within any 60 seconds. None for no bound.
    :param tokens_per_minute: Most tokens of the requests begun within any 60 seconds: an estimate of the
        prompt's and `max_tokens` at first, the server's own count once the reply is there. None for no bound.
    :param concurrent: Most requests under way at a time. None for no bound.
    :raises ConfigurationError: A number is below 1.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            number = getattr(self, item.name)
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigurationError(f"{item.name} must be a whole number of 1 or more, not {number!r}")


def check_rate_limit(given: object) -> None:
    """
    Make sure that what was given as `rate_limit=` is one.

    :param given: What a caller passed; None for none.
    :raises ConfigurationError: It is something else.
    """
    if not isinstance(given, RateLimit | None):
        raise ConfigurationError(
            f"rate_limit must be a RateLimit, such as RateLimit(requests_per_minute=30), not {given!r}"
        )


@dataclass(frozen=True)
class Patience:
    """
    How long a request may wait for its turn.

    :param until: When its answer would come too late, on `time.monotonic`'s clock.
    :param longest: Longest wait that a server may ask for, in seconds.
    """

    until: float = math.inf
    longest: float = math.inf

    def bounded(self, wait: _Wait) -> float:
        """
        Seconds to wait before looking again.

        :param wait: What a request waits for.
        :returns: At most a few seconds: what else can happen (an event loop that dies) tells nobody.
        :raises EndpointError: It would wait too long.
        """
        left = self.until - time.monotonic()
        if left <= 0 or (math.isfinite(wait.seconds) and wait.seconds > left):
            raise EndpointError(
                f"the request's turn comes after RetryPolicy's deadline ({wait.reason}): raise the deadline "
                "or the RateLimit"
            )
        if wait.by_server and wait.seconds > self.longest:
            raise EndpointError(
                f"{wait.reason} for the next {wait.seconds:,.0f} seconds, longer than RetryPolicy's "
                f"max_retry_after of {self.longest:,.0f}"
            )
        return max(0.0, min(wait.seconds, left, _LOOK_AGAIN))


@dataclass(eq=False)
class Ticket:
    """
    One request's place in the book.

    :param limit: What it has to keep to.
    :param tokens: What it takes of the tokens: estimated, later counted.
    :param wake: Has its waiter ask again; may be called from any thread.
    :param loop: Its event loop; None for a thread that waits.
    :param owner: The thread (its number) or task that waits, and then has its request under way.
    """

    limit: RateLimit
    tokens: int
    wake: Callable[[], object]
    loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
    owner: object = None
    number: int = field(default=0, init=False)
    admitted_at: float = field(default=math.inf, init=False)
    server_counted: bool = field(default=False, init=False)

    @property
    def is_dead(self) -> bool:
        """Whether nobody waits any more, and never will: its event loop is closed."""
        running = self.loop() if self.loop is not None else None
        return self.loop is not None and (running is None or running.is_closed())

    @property
    def is_awake(self) -> bool:
        """Whether it can go when it is its turn: an event loop may be stopped, and run again later."""
        running = self.loop() if self.loop is not None else None
        return self.loop is None or (running is not None and running.is_running())


@dataclass
class _Left:
    """What the server has left of a kind, until it gives more."""

    count: int
    until: float


@dataclass(frozen=True)
class _Wait:
    seconds: float
    reason: str
    by_server: bool = False


class Pacer:
    """
    The book of one endpoint: who waits, who is under way, what was sent within the last minute.

    A request may leave it at any moment, even while this thread has the book open: an abandoned coroutine is
    collected when the interpreter likes. So those who leave only say so, and whoever has the book strikes
    them out.
    """

    _books: dict[tuple[str, str], Pacer] = {}  # noqa: RUF012 - one per endpoint and process is the point
    _books_lock = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaving: deque[Ticket] = deque()
        self._queue: deque[Ticket] = deque()
        self._sent: deque[Ticket] = deque()
        self._under_way: set[Ticket] = set()
        self._admitted = 0
        self._left: dict[Kind, _Left] = {}
        self._not_before = 0.0

    @classmethod
    def of(cls, endpoint: str, api_key: str | None) -> Pacer:
        """
        The book of an endpoint.

        :param endpoint: Its `identity`.
        :param api_key: Servers count by key.
        :returns: The same one for the same endpoint, as long as the process lives.
        """
        account = hashlib.sha256((api_key or "").encode()).hexdigest()
        with cls._books_lock:
            return cls._books.setdefault((endpoint, account), cls())

    @classmethod
    def forget_all(cls) -> None:
        """Begin anew, in a forked process: who waited in the other one doesn't here."""
        cls._books, cls._books_lock = {}, threading.Lock()

    @contextmanager
    def admitted(self, limit: RateLimit, tokens: int, patience: Patience) -> Generator[Ticket]:
        """
        Wait for a request's turn on the caller's thread; it is under way within the block.

        :param limit: What it has to keep to.
        :param tokens: What it will probably take.
        :param patience: How long it may wait.
        :returns: A context manager that gives the ticket.
        :raises EndpointError: Its turn would come too late.
        """
        woken = threading.Event()
        ticket, told = Ticket(limit, tokens, woken.set, owner=threading.get_ident()), ""
        cancel = current_cancel()
        try:
            self._join(ticket)
            while (wait := self._wait_of(ticket)) is not None:
                told = _tell(wait, told)
                self._check_not_stuck(ticket, wait, _loop_here())
                woken.wait(patience.bounded(wait) if cancel is None else min(_SLICE, patience.bounded(wait)))
                if cancel is not None:
                    cancel.check()
                woken.clear()
            yield ticket
        finally:
            self._leave(ticket)

    @asynccontextmanager
    async def admitted_async(
        self, limit: RateLimit, tokens: int, patience: Patience
    ) -> AsyncGenerator[Ticket]:
        """`admitted`, on the running event loop."""
        woken = asyncio.Event()
        # A ticket outlives its request by a minute, its loop is not to.
        loop = weakref.ref(asyncio.get_running_loop())
        ticket = Ticket(limit, tokens, partial(_wake, loop, woken), loop, _task_here())
        told = ""
        try:
            self._join(ticket)
            while (wait := self._wait_of(ticket)) is not None:
                told = _tell(wait, told)
                self._check_not_stuck(ticket, wait, None)
                try:
                    async with asyncio.timeout(patience.bounded(wait)):
                        await woken.wait()
                except TimeoutError:
                    pass
                woken.clear()
            ticket.wake = _nobody  # and so isn't the event, which knows the loop
            yield ticket
        finally:
            self._leave(ticket)

    def heard(self, ticket: Ticket, headers: Mapping[str, str]) -> None:
        """
        Take note of what a server has left.

        :param ticket: The request that it answered.
        :param headers: Of the answer.
        """
        now = time.monotonic()
        with self._opened():
            later = [other for other in self._sent if other.number > ticket.number]
            for kind, (count, seconds) in remaining_in(headers).items():
                # Those sent since aren't in the server's count yet.
                taken = len(later) if kind == "requests" else sum(other.tokens for other in later)
                self._left[kind] = _Left(count - taken, now + (_MINUTE if seconds is None else seconds))
                ticket.server_counted = ticket.server_counted or kind == "tokens"

    def refused(self, seconds: float) -> None:
        """
        The server wants to be left alone: nobody asks it before.

        :param seconds: How long.
        """
        with self._opened():
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def used(self, ticket: Ticket, tokens: int) -> None:
        """
        Put a request's real count in the place of the estimate.

        :param ticket: The request.
        :param tokens: Prompt and reply.
        """
        with self._opened():
            if (left := self._left.get("tokens")) is not None and not ticket.server_counted:
                left.count += ticket.tokens - tokens
            ticket.tokens = tokens

    @contextmanager
    def _opened(self) -> Generator[None]:
        """The book, for this thread alone; whoever is first in the queue looks at it afterwards."""
        with self._lock:
            self._strike_out()
            yield
            self._wake_first()
        self._tidy()

    def _join(self, ticket: Ticket) -> None:
        with self._opened():
            self._queue.append(ticket)

    def _leave(self, ticket: Ticket) -> None:
        self._leaving.append(ticket)
        self._tidy()

    def _tidy(self) -> None:
        """Strike out those who left, unless somebody has the book: then that one will."""
        while self._leaving and self._lock.acquire(blocking=False):
            try:
                self._strike_out()
                self._wake_first()
            finally:
                self._lock.release()

    def _strike_out(self) -> None:
        while self._leaving:
            ticket = self._leaving.popleft()
            self._under_way.discard(ticket)
            if ticket in self._queue:
                self._queue.remove(ticket)
        while self._queue and self._queue[0].is_dead:
            self._queue.popleft()

    def _first(self) -> Ticket | None:
        return next((ticket for ticket in self._queue if ticket.is_awake), None)

    def _wake_first(self) -> None:
        if (first := self._first()) is not None:
            with suppress(RuntimeError):  # its event loop was closed just now
                first.wake()

    def _check_not_stuck(
        self, ticket: Ticket, wait: _Wait, loop_here: asyncio.AbstractEventLoop | None
    ) -> None:
        """
        Notice a wait for something that this very wait keeps from happening.

        :raises EndpointError: A streaming callback asks in the midst of its own request, or a sync call on an
            event loop's thread waits for a request of that loop.
        """
        if math.isfinite(wait.seconds):
            return
        with self._lock:
            ahead = list(self._under_way) or [first for first in [self._first()] if first is not None]
        if not ahead or not all(
            other is not ticket
            and (other.owner == ticket.owner or (loop_here is not None and _is_of(other, loop_here)))
            for other in ahead
        ):
            return
        raise EndpointError(
            f"the request waits ({wait.reason}) for one that can't go on before it: ask after the reply, not "
            "in its streaming callback, and by run_async where an event loop runs, or raise the RateLimit"
        )

    def _wait_of(self, ticket: Ticket) -> _Wait | None:
        """How long a ticket has to wait; None when it is admitted."""
        with self._lock:
            self._strike_out()
            wait = self._look(ticket, time.monotonic())
            if wait is None:
                self._wake_first()
        self._tidy()
        return wait

    def _look(self, ticket: Ticket, now: float) -> _Wait | None:
        if self._first() is not ticket:
            return _Wait(math.inf, "requests before it")
        while self._sent and self._sent[0].admitted_at < now - _MINUTE:
            self._sent.popleft()
        longest = max(self._waits(ticket, now), key=lambda wait: wait.seconds)
        if longest.seconds > 0:
            return longest
        self._queue.remove(ticket)
        self._admitted += 1
        ticket.number, ticket.admitted_at = self._admitted, now
        self._sent.append(ticket)
        self._under_way.add(ticket)
        for kind, left in self._left.items():
            left.count -= 1 if kind == "requests" else ticket.tokens
        return None

    def _waits(self, ticket: Ticket, now: float) -> Generator[_Wait]:
        limit = ticket.limit
        yield _Wait(self._not_before - now, "the server asked to be left alone", by_server=True)
        if limit.concurrent is not None and len(self._under_way) >= limit.concurrent:
            self._under_way = {other for other in self._under_way if not other.is_dead}
            if len(self._under_way) >= limit.concurrent:
                yield _Wait(math.inf, f"concurrent={limit.concurrent}")
        if limit.requests_per_minute is not None:
            count = limit.requests_per_minute
            seconds = self._until_room([1] * len(self._sent), count - 1, now)
            yield _Wait(seconds, f"requests_per_minute={count}")
        if limit.tokens_per_minute is not None:
            count = limit.tokens_per_minute
            # One that is larger than the whole limit goes alone; the server may refuse it.
            room = count - min(ticket.tokens, count)
            spent = [sent.tokens for sent in self._sent]
            yield _Wait(self._until_room(spent, room, now), f"tokens_per_minute={count}")
        for kind, left in self._left.items():
            if left.count < (1 if kind == "requests" else ticket.tokens):
                reason = f"the server has {max(left.count, 0)} {kind} left"
                yield _Wait(left.until - now, reason, by_server=True)

    def _until_room(self, spent: list[int], room: int, now: float) -> float:
        """Seconds until what was spent within the last minute is at most `room`."""
        total = sum(spent)
        if total <= room:
            return 0.0
        for sent, amount in zip(self._sent, spent, strict=True):
            total -= amount
            if total <= room:
                return sent.admitted_at + _MINUTE - now
        return 0.0


os.register_at_fork(after_in_child=Pacer.forget_all)


def _tell(wait: _Wait, told: str) -> str:
    """Say what a request waits for, each reason once; `told` is the last one."""
    if wait.reason != told:
        emit(RequestDelayed, wait=wait.seconds if math.isfinite(wait.seconds) else None, reason=wait.reason)
    return wait.reason


def _wake(loop: weakref.ref[asyncio.AbstractEventLoop], woken: asyncio.Event) -> None:
    if (running := loop()) is not None:
        running.call_soon_threadsafe(woken.set)


def _is_of(ticket: Ticket, loop: asyncio.AbstractEventLoop) -> bool:
    return ticket.loop is not None and ticket.loop() is loop


def _task_here() -> object:
    """The running task, to compare with; a ticket outlives it, and isn't to keep it."""
    task = asyncio.current_task()
    return None if task is None else weakref.ref(task)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _nobody() -> None:
    """Wake nobody."""
