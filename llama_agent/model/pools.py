"""
Connection pools, shared: generators with the same settings for the same server use one, per process for sync
use and per event loop for async use. The last one to give it back closes it.

An event loop that ends closes its pools by itself: `asyncio.run(generator.run_async(...))`, again and again,
leaves no connection behind. (A pool is held by an async generator, and those are closed when a loop shuts
down: PEP 525.)
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import Request
from weakref import WeakKeyDictionary, WeakSet

import httpx2
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from llama_agent.errors import ConfigurationError
from llama_agent.logs import logger_of
from llama_agent.model.interrupts import make_interruptible

Client = TypeVar("Client", httpx2.Client, httpx2.AsyncClient)


_Key: TypeAlias = tuple[str, str, Mapping[str, Any]]
"""Origin, account and settings: cookies are a server's word to one account."""


@dataclass(eq=False)
class Pool:
    """
    One server's connections for sync use.

    :param client: Holds them.
    """

    client: httpx2.Client
    _key: _Key
    _users: int = 0

    def give_back(self) -> None:
        """Say that one user less needs it; the last one closes it."""
        with _lock:
            self._users -= 1
            if self._users or self not in _pools:
                return
            _pools.remove(self)
        self.client.close()


@dataclass(eq=False)
class AsyncPool:
    """
    One server's connections for use on one event loop.

    :param client: Holds them.
    """

    client: httpx2.AsyncClient
    _key: _Key
    _loop: asyncio.AbstractEventLoop
    _guard: AsyncGenerator[None]
    _users: int = 0

    async def give_back(self) -> None:
        """Say that one user less needs it; the last one closes it."""
        self._users -= 1
        if not self._users:
            _async_pools[self._loop].discard(self)
            await self._guard.aclose()


# Taken again by a generator that is collected while it is held.
_lock = threading.RLock()
_pools: list[Pool] = []
# Weak: a pool refers to its loop, and what is forgotten with it is to go. Those who use a pool hold it.
_async_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakSet[AsyncPool]] = WeakKeyDictionary()


def borrow(base_url: str, account: str, settings: Mapping[str, Any]) -> Pool:
    """
    Get the connections to a server.

    :param base_url: A URL of the server.
    :param account: Whom the server knows us as.
    :param settings: For `httpx2.Client`.
    :returns: The pool that others with the same account and settings use; a new one if there is none. Give it
        back.
    :raises ConfigurationError: The settings can't be used.
    """
    key = (_origin(base_url), account, settings)
    with _lock:
        for pool in _pools:
            if pool._key == key:  # pyright: ignore[reportPrivateUsage] - this file's own
                pool._users += 1  # pyright: ignore[reportPrivateUsage]
                # A forgotten generator may be collected at any moment, and close the pool in between.
                if not pool.client.is_closed:
                    return pool
        client = _made(DefaultHttpxClient, settings)
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [_read_as_utf8, *hooks["response"]]}
        make_interruptible(client)
        pool = Pool(client, key, 1)
        _pools.append(pool)
        return pool


async def borrow_async(base_url: str, account: str, settings: Mapping[str, Any]) -> AsyncPool:
    """`borrow`, for the running event loop."""
    key, loop = (_origin(base_url), account, settings), asyncio.get_running_loop()
    pools = _async_pools.setdefault(loop, WeakSet())
    pool = next((pool for pool in pools if pool._key == key), None)  # pyright: ignore[reportPrivateUsage]
    if pool is None:
        client = _made(DefaultAsyncHttpxClient, settings)
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [_read_as_utf8_async, *hooks["response"]]}
        pool = AsyncPool(client, key, loop, _closed_with_the_loop(client))
        pools.add(pool)
    pool._users += 1  # pyright: ignore[reportPrivateUsage]
    if pool._users == 1:  # pyright: ignore[reportPrivateUsage]
        await anext(pool._guard)  # pyright: ignore[reportPrivateUsage] - begun, it is closed with the loop
    return pool


async def _closed_with_the_loop(client: httpx2.AsyncClient) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await client.aclose()


def _read_as_utf8(response: httpx2.Response) -> None:
    # JSON is UTF-8 (RFC 8259, section 8.1); what a header says may be no charset of text at all (`hex`).
    response.encoding = "utf-8"


async def _read_as_utf8_async(response: httpx2.Response) -> None:
    _read_as_utf8(response)


class _SendableCookies(DefaultCookiePolicy):
    """Keeps no cookie that can't be sent back: each later request would fail."""

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        text = f"{cookie.name}{cookie.value or ''}"
        return text.isascii() and text.isprintable() and super().set_ok(cookie, request)


def _made(kind: Callable[..., Client], settings: Mapping[str, Any]) -> Client:
    given = {"cookies": CookieJar(_SendableCookies()), **settings}
    if isinstance(limits := given.get("limits"), dict):  # as saved files have it
        given["limits"] = httpx2.Limits(**cast("dict[str, Any]", limits))
    for name in ("httpx2", "openai._base_client"):
        logger_of(name)  # they show URLs whole
    try:
        return kind(**given)
    except (TypeError, ValueError, OSError, AttributeError, ImportError) as error:
        verify = f" (verify={given['verify']!r})" if isinstance(given.get("verify"), str) else ""
        raise ConfigurationError(f"http_client_kwargs can't be used{verify}: {error}") from error


def _origin(base_url: str) -> str:
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _forget_all() -> None:
    """A forked process must not write on its parent's connections."""
    global _lock
    _lock = threading.RLock()
    _pools.clear()
    _async_pools.clear()


os.register_at_fork(after_in_child=_forget_all)
