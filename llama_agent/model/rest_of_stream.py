"""What comes after `[DONE]`: the end of the body. Once that is read, the connection can be used again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress

import httpx2

from llama_agent.errors import EndpointError
from llama_agent.model.interrupts import held_to, is_interruptible

_SECONDS = 0.25
"""How long the end may take: it usually comes with `[DONE]`, or right behind."""

_MOST_MISSED = 3


class RestOfStream:
    """Reads to the end of streams that are done, unless a server keeps them open again and again."""

    def __init__(self) -> None:
        self._missed = 0

    def read(self, response: httpx2.Response, pieces: Iterable[bytes]) -> None:
        """
        Read to the end of the body, if it comes soon; else the connection is given up.

        :param response: Its stream has said `[DONE]`.
        :param pieces: The rest of its body.
        """
        if not is_interruptible(response) or not self._is_worth_it(response):
            return
        try:
            with suppress(httpx2.HTTPError), held_to(time.monotonic() + _SECONDS):
                for _ in pieces:
                    pass
                self._missed = 0
                return
        except EndpointError:
            pass  # the reply is whole, whatever happens now
        self._missed += 1

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
