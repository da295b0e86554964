"""Redirects, followed within a server's own origin only: elsewhere the whole conversation would go along."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
from openai import AsyncOpenAI, OpenAI

from llama_agent.errors import EndpointError
from llama_agent.model.faults import redirect_target, translated

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 307, 308})

T = TypeVar("T")
Heard = Callable[[httpx2.Headers], object]
"""Called with the headers of each answer, good or bad."""


def follow(
    client: OpenAI | AsyncOpenAI, path: str, send: Callable[[str], T], heard: Heard | None = None
) -> T:
    """
    Send a request, and again to where it is redirected.

    :param client: Sends it.
    :param path: Below the base URL; with two slashes, at the server's root.
    :param send: Sends it to a path or URL.
    :param heard: Told the headers of an error.
    :returns: What `send` returned.
    :raises EndpointError: The server failed, or there are more redirects than `MAX_REDIRECTS`.
    """
    url = _url_of(client, path)
    for _ in range(MAX_REDIRECTS):
        with _Hop(client, heard) as hop:
            return send(url)
        url = hop.target
    raise _too_many_redirects(url)


async def follow_async(
    client: OpenAI | AsyncOpenAI, path: str, send: Callable[[str], Awaitable[T]], heard: Heard | None = None
) -> T:
    """`follow`, on the running event loop."""
    url = _url_of(client, path)
    for _ in range(MAX_REDIRECTS):
        with _Hop(client, heard) as hop:
            return await send(url)
        url = hop.target
    raise _too_many_redirects(url)


class _Hop(translated):
    """As `translated`; but a redirect within the origin ends the block quietly, its target in `target`."""

    def __init__(self, client: OpenAI | AsyncOpenAI, heard: Heard | None) -> None:
        super().__init__(client)
        self.target = ""
        self._heard = heard

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(error, openai.APIStatusError):
            if error.status_code in _REDIRECTS and (target := _same_origin_target(error)):
                self.target = target
                return True
            if self._heard is not None:
                self._heard(error.response.headers)
        super().__exit__(kind, error, trace)
        return False


def _too_many_redirects(url: str) -> EndpointError:
    return EndpointError(f"more than {MAX_REDIRECTS} redirects, the last to {url}")


def _url_of(client: OpenAI | AsyncOpenAI, path: str) -> str:
    """`/x` is below the base URL, which the client adds; `//x` is at the server's root."""
    return str(client.base_url.copy_with(raw_path=path[1:].encode())) if path.startswith("//") else path


def _same_origin_target(error: openai.APIStatusError) -> str | None:
    source, target = str(error.request.url), redirect_target(error)
    try:
        return target if target and _origin(str(httpx2.URL(target))) == _origin(source) else None
    except (ValueError, httpx2.InvalidURL):
        return None  # nothing can be sent there


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
