"""What comes after `[DONE]`: the end of the body. Once that is read, the connection can be used again."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import Protocol, cast

import httpx2

_SECONDS = 0.25
"""How long the end may take: it usually comes with `[DONE]`, or right behind."""

_MOST_MISSED = 3


class _NetworkStream(Protocol):
    """What is used of httpcore2's network stream, which a response carries as an extension."""

    def get_extra_info(self, info: str) -> object: ...


class RestOfStream:
    """Reads to the end of streams that are done, unless a server keeps them open again and again."""

    def __init__(self) -> None:
        self._missed = 0
        self._lock = threading.Lock()

    def read(self, response: httpx2.Response, pieces: Iterable[bytes]) -> None:
        """
        Read to the end of the body, if it comes soon; else the connection is given up.

        :param response: Its stream has said `[DONE]`.
        :param pieces: The rest of its body.
        """
        connection = _socket_of(response)
        if connection is None or not self._is_worth_it(response):
            return
        # A read can't be given another time limit once the body has begun: hanging up ends it.
        ended = threading.Event()
        timer = threading.Timer(_SECONDS, self._hang_up, (connection, ended))
        timer.daemon = True
        timer.start()
        try:
            with suppress(Exception):  # the reply is whole, whatever happens now
                for _ in pieces:
                    pass
                self._missed = self._missed if timer.finished.is_set() else 0
        finally:
            with self._lock:
                ended.set()
            timer.cancel()

    async def read_async(self, response: httpx2.Response, pieces: AsyncIterable[bytes]) -> None:
        """`read`, on the running event loop."""
        if not self._is_worth_it(response):
            return
        try:
            with suppress(httpx2.HTTPError):
                async with asyncio.timeout(_SECONDS):
                    async for _ in pieces:
                        pass
                self._missed = 0
        except TimeoutError:
            self._missed += 1

    def _is_worth_it(self, response: httpx2.Response) -> bool:
        # A connection of HTTP/2 is shared, and needs no reading to its end.
        return self._missed < _MOST_MISSED and response.http_version != "HTTP/2"

    def _hang_up(self, connection: socket.socket, ended: threading.Event) -> None:
        with self._lock:
            # Once it has ended, the connection may be somebody else's.
            if ended.is_set():
                return
            self._missed += 1
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _socket_of(response: httpx2.Response) -> socket.socket | None:
    stream = cast("_NetworkStream | None", response.extensions.get("network_stream"))
    found = stream.get_extra_info("socket") if stream is not None else None
    return found if isinstance(found, socket.socket) else None
