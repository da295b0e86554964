"""
Waiting before requests, so that a server's rate limits aren't hit: `RateLimit`, and the book that is kept of
each endpoint.

One `Pacer` per endpoint serves all generators of the process, in threads and event loops alike. Who comes
first goes first. It decides under a lock and waits outside of it: a waiter is a `Ticket` with a way to be
woken, and asks again when woken or when its time has come.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields

from llama_agent.errors import ConfigurationError, EndpointError
from llama_agent.events import RequestDelayed, emit
from llama_agent.model.rate_headers import Kind, remaining_in

_MINUTE = 60.0


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


@dataclass(eq=False)
class Ticket:
    """
    One request's place in the book.

    :param limit: What it has to keep to.
    :param tokens: What it takes of the tokens: estimated, later counted.
    :param wake: Has its waiter ask again; may be called from any thread.
    """

    limit: RateLimit
    tokens: int
    wake: Callable[[], object]
    number: int = field(default=0, init=False)
    admitted_at: float | None = field(default=None, init=False)


@dataclass
class _Left:
    """What the server has left of a kind, until it gives more."""

    count: int
    until: float


@dataclass(frozen=True)
class _Wait:
    seconds: float
    reason: str


class Pacer:
    """The book of one endpoint: who waits, who is under way, what was sent within the last minute."""

    _books: dict[tuple[str, str | None], Pacer] = {}  # noqa: RUF012 - one per endpoint and process is the point
    _books_lock = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Ticket] = deque()
        self._sent: deque[Ticket] = deque()
        self._under_way = 0
        self._admitted = 0
        self._left: dict[Kind, _Left] = {}
        self._not_before = 0.0

    @classmethod
    def of(cls, base_url: str, api_key: str | None) -> Pacer:
        """
        The book of an endpoint.

        :param base_url: Its base URL.
        :param api_key: Servers count by key.
        :returns: The same one for the same endpoint, as long as the process lives.
        """
        with cls._books_lock:
            return cls._books.setdefault((base_url, api_key), cls())

    @contextmanager
    def admitted(self, limit: RateLimit, tokens: int, until: float = math.inf) -> Generator[Ticket]:
        """
        Wait for a request's turn on the caller's thread; it is under way within the block.

        :param limit: What it has to keep to.
        :param tokens: What it will probably take.
        :param until: When waiting makes no more sense, on `time.monotonic`'s clock.
        :returns: A context manager that gives the ticket.
        :raises EndpointError: Its turn would come too late.
        """
        woken = threading.Event()
        ticket, told = Ticket(limit, tokens, woken.set), False
        try:
            self._join(ticket)
            while (wait := self._wait_of(ticket)) is not None:
                told = told or _tell(wait)
                # In slices: an interrupt isn't seen by every system while a thread waits without end.
                woken.wait(min(_bounded(wait, until), _MINUTE))
                woken.clear()
            yield ticket
        finally:
            self._leave(ticket)

    @asynccontextmanager
    async def admitted_async(
        self, limit: RateLimit, tokens: int, until: float = math.inf
    ) -> AsyncGenerator[Ticket]:
        """`admitted`, on the running event loop."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        ticket, told = Ticket(limit, tokens, lambda: loop.call_soon_threadsafe(woken.set)), False
        try:
            self._join(ticket)
            while (wait := self._wait_of(ticket)) is not None:
                told = told or _tell(wait)
                try:
                    async with asyncio.timeout(min(_bounded(wait, until), _MINUTE)):
                        await woken.wait()
                except TimeoutError:
                    pass
                woken.clear()
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
        with self._lock:
            later = [other for other in self._sent if other.number > ticket.number]
            for kind, (count, seconds) in remaining_in(headers).items():
                # Those sent since aren't in the server's count yet.
                taken = len(later) if kind == "requests" else sum(other.tokens for other in later)
                self._left[kind] = _Left(count - taken, now + (_MINUTE if seconds is None else seconds))
            self._wake_first()

    def refused(self, seconds: float) -> None:
        """
        The server wants to be left alone: nobody asks it before.

        :param seconds: How long.
        """
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def used(self, ticket: Ticket, tokens: int) -> None:
        """
        Put a request's real count in the place of the estimate.

        :param ticket: The request.
        :param tokens: Prompt and reply.
        """
        with self._lock:
            if (left := self._left.get("tokens")) is not None:
                left.count += ticket.tokens - tokens
            ticket.tokens = tokens
            self._wake_first()

    def _join(self, ticket: Ticket) -> None:
        with self._lock:
            self._queue.append(ticket)

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket.admitted_at is not None:
                self._under_way -= 1
            elif ticket in self._queue:
                self._queue.remove(ticket)
            self._wake_first()

    def _wake_first(self) -> None:
        while self._queue:
            try:
                self._queue[0].wake()
            except RuntimeError:  # its event loop is closed: nobody waits there any more
                self._queue.popleft()
            else:
                return

    def _wait_of(self, ticket: Ticket) -> _Wait | None:
        """How long a ticket has to wait; None when it is admitted."""
        now = time.monotonic()
        with self._lock:
            if self._queue[0] is not ticket:
                return _Wait(math.inf, "requests before it")
            while self._sent and self._sent[0].admitted_at < now - _MINUTE:  # pyright: ignore[reportOptionalOperand] - those sent were admitted
                self._sent.popleft()
            longest = max(self._waits(ticket, now), key=lambda wait: wait.seconds)
            if longest.seconds > 0:
                return longest
            self._admit(ticket, now)
            return None

    def _admit(self, ticket: Ticket, now: float) -> None:
        self._queue.popleft()
        self._admitted += 1
        ticket.number, ticket.admitted_at = self._admitted, now
        self._sent.append(ticket)
        self._under_way += 1
        for kind, left in self._left.items():
            left.count -= 1 if kind == "requests" else ticket.tokens
        self._wake_first()

    def _waits(self, ticket: Ticket, now: float) -> Generator[_Wait]:
        limit = ticket.limit
        yield _Wait(self._not_before - now, "the server asked to wait")
        if limit.concurrent is not None and self._under_way >= limit.concurrent:
            yield _Wait(math.inf, f"concurrent={limit.concurrent}")
        if limit.requests_per_minute is not None:
            count = limit.requests_per_minute
            yield _Wait(
                self._until_room([1] * len(self._sent), count - 1, now), f"requests_per_minute={count}"
            )
        if limit.tokens_per_minute is not None:
            count = limit.tokens_per_minute
            # One that is larger than the whole limit goes alone; the server may refuse it.
            room = count - min(ticket.tokens, count)
            spent = [sent.tokens for sent in self._sent]
            yield _Wait(self._until_room(spent, room, now), f"tokens_per_minute={count}")
        for kind, left in self._left.items():
            if left.count < (1 if kind == "requests" else ticket.tokens):
                yield _Wait(left.until - now, f"the server has {max(left.count, 0)} {kind} left")

    def _until_room(self, spent: list[int], room: int, now: float) -> float:
        """Seconds until what was spent within the last minute is at most `room`."""
        total = sum(spent)
        for sent, amount in zip(self._sent, spent, strict=True):
            if total <= room:
                return 0.0
            total -= amount
            until = (sent.admitted_at or now) + _MINUTE
            if total <= room:
                return until - now
        return 0.0


def _bounded(wait: _Wait, until: float) -> float:
    left = until - time.monotonic()
    if left <= 0 or (wait.seconds > left and math.isfinite(wait.seconds)):
        raise EndpointError(f"the request's turn would come after the deadline ({wait.reason})")
    return min(wait.seconds, left)


def _tell(wait: _Wait) -> bool:
    emit(RequestDelayed, wait=wait.seconds if math.isfinite(wait.seconds) else None, reason=wait.reason)
    return True
