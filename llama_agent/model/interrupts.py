"""
Ends a sync request that waits for the network: when its run is cancelled, or its time is over.

A thread can't be interrupted, its socket can. But a request's connection isn't known to its sender before the
answer begins, so the connections themselves look: each wait on the network is bounded by the time of the
request that is made in this thread, and ended by its `CancelToken`.
"""

from __future__ import annotations

import contextvars
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import httpcore2
import httpx2

from llama_agent.cancel import CancelToken, current_cancel

_LOOK_SECONDS = 0.05
"""How long a token that was cancelled may go unnoticed while a connection is made."""

_until: ContextVar[float | None] = ContextVar("llama_agent_until", default=None)


@contextmanager
def held_to(until: float | None) -> Generator[None]:
    """
    Bound all waits on the network within the block, in this thread.

    :param until: When they end, on `time.monotonic`'s clock; None leaves what there is. A wait that ends so
        is httpx2's time-out.
    """
    if until is None:
        yield
        return
    before = _until.get()
    reset = _until.set(until if before is None else min(until, before))
    try:
        yield
    finally:
        _until.reset(reset)


def make_interruptible(client: httpx2.Client) -> None:
    """
    Have a client's connections heed `held_to` and the current `CancelToken`.

    Does nothing to a transport that the user brought along, or that httpx2 builds in another way than today:
    its requests end when the server says something, or by the usual time-outs.

    :param client: Before its first request.
    """
    transports = [getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()]
    for transport in transports:
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if getattr(pool, "_http2", False):
            continue  # others have requests on the same connection
        if isinstance(transport, httpx2.HTTPTransport) and isinstance(backend, httpcore2.NetworkBackend):
            pool._network_backend = _Backend(backend)  # type: ignore[union-attr]


def is_interruptible(response: httpx2.Response) -> bool:
    """
    Whether the connection of a response heeds `held_to`.

    :param response: It is being read.
    :returns: False for one of a transport that the user brought along.
    """
    return isinstance(response.extensions.get("network_stream"), _Stream)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, inner: httpcore2.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        bounded = _bounded(timeout)
        return _Stream(
            _connected(lambda: self._inner.connect_tcp(host, port, bounded, local_address, socket_options))
        )

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(path, _bounded(timeout), socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if (token := current_cancel()) is None:
            return self._inner.read(max_bytes, _bounded(timeout))
        with self._heeding(token):
            return self._inner.read(max_bytes, _bounded(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if (token := current_cancel()) is None:
            return self._inner.write(buffer, _bounded(timeout))
        with self._heeding(token):
            return self._inner.write(buffer, _bounded(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        with self._heeding(current_cancel() or CancelToken()):
            return _Stream(self._inner.start_tls(ssl_context, server_hostname, _bounded(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    @contextmanager
    def _heeding(self, token: CancelToken) -> Generator[None]:
        remove = token.on_cancel(self._shut)
        try:
            yield
        except Exception:
            token.check()
            raise
        finally:
            remove()
        token.check()

    def _shut(self) -> None:
        connection = self._inner.get_extra_info("socket")
        if isinstance(connection, socket.socket):
            with suppress(OSError):
                # Of TLS too: the socket's own method, so that no lock of the reader is waited for.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _bounded(timeout: float | None) -> float | None:
    """What is left for a wait: zero would mean not to wait at all."""
    until = _until.get()
    if until is None:
        return timeout
    left = max(0.001, until - time.monotonic())
    return left if timeout is None else min(timeout, left)


def _connected(connect: Callable[[], httpcore2.NetworkStream]) -> httpcore2.NetworkStream:
    """A new connection. Where the run can be cancelled, another thread waits for it, and may be left to."""
    token = current_cancel()
    if token is None:
        return connect()
    token.check()
    made: Future[httpcore2.NetworkStream] = Future()
    is_given_up = threading.Event()

    def work() -> None:
        try:
            stream = connect()
        except BaseException as error:
            made.set_exception(error)
            return
        made.set_result(stream)
        if is_given_up.is_set():
            stream.close()

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="llama-agent-connect", daemon=True).start()
    try:
        while not futures.wait([made], timeout=_LOOK_SECONDS).done:
            token.check()
        token.check()
        return made.result()
    except BaseException:
        is_given_up.set()
        if made.done() and made.exception() is None:
            made.result().close()
        raise
