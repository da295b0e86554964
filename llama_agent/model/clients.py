"""The `openai` clients of one endpoint: one for sync use, one per event loop, made when first needed."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import httpx2
from haystack.utils import Secret
from openai import AsyncOpenAI, Omit, OpenAI

from llama_agent.errors import ConfigurationError
from llama_agent.model.embedded import EmbeddedServer
from llama_agent.model.endpoints import Endpoint, resolve_endpoint
from llama_agent.model.pacing import Pacer
from llama_agent.model.pools import AsyncPool, borrow, borrow_async
from llama_agent.model.profiles import PUBLISHED_MODEL, Traits
from llama_agent.model.saved_profiles import saved_profile
from llama_agent.model.streams import Json
from llama_agent.redaction import remember_secret

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection."""
DEFAULT_TIMEOUT = 300.0
"""
Seconds a server may be silent. Local models on a CPU read a long prompt for minutes before the first byte.
"""


@dataclass(frozen=True)
class _LoopClient:
    """An event loop's client. `generation`: how often `close` had been called before."""

    generation: int
    client: AsyncOpenAI
    pool: AsyncPool


_all: weakref.WeakSet[Clients] = weakref.WeakSet()


def _forget_parents() -> None:
    for clients in list(_all):
        clients.forget_parent()


os.register_at_fork(after_in_child=_forget_parents)


class Clients:
    """
    Resolves the endpoint when first used, and keeps its clients.

    Safe to use from many threads. An async client belongs to the event loop that it first ran on ("Event loop
    is closed" otherwise), so each loop has its own. Connections are shared with other generators
    (`model/pools.py`).

    :param api_base_url: As in `resolve_endpoint`.
    :param model: As in `resolve_endpoint`.
    :param api_key: As in `resolve_endpoint`.
    :param timeout: Seconds a server may be silent; None for `OPENAI_TIMEOUT`, else `DEFAULT_TIMEOUT`.
    :param http_client_kwargs: Settings for `httpx2.Client` and `httpx2.AsyncClient`: proxies, TLS, limits.
    """

    def __init__(
        self,
        api_base_url: str | None,
        model: str | None,
        api_key: Secret | None,
        timeout: float | None,
        http_client_kwargs: dict[str, Any] | None,
    ) -> None:
        self._chosen = (api_base_url, model, api_key)
        self._timeout = timeout
        self._http_client_kwargs = http_client_kwargs or {}
        self._lock = threading.RLock()
        self._endpoint: Endpoint | None = None
        self._embedded: EmbeddedServer | None = None
        self._model: str | None = None
        self._traits: dict[str | None, Traits] = {}
        self._client: OpenAI | None = None
        self._give_back: weakref.finalize[..., Clients] | None = None
        self._async_clients: dict[asyncio.AbstractEventLoop, _LoopClient] = {}
        self._generation = 0
        _all.add(self)

    def forget_parent(self) -> None:
        """In a forked process: leave the parent's connections to it."""
        self._lock = threading.RLock()
        if self._give_back is not None:
            self._give_back.detach()
        self._client = self._give_back = None
        self._async_clients = {}

    @property
    def endpoint(self) -> Endpoint:
        """
        The endpoint, resolved on first use.

        :raises ConfigurationError: None can be found, or its key is missing.
        """
        with self._lock:
            if self._endpoint is None:
                self._endpoint = resolve_endpoint(*self._chosen)
                if self._endpoint.api_key:
                    remember_secret(self._endpoint.api_key)
            return self._endpoint

    @property
    def pacer(self) -> Pacer:
        """The book of this endpoint's requests."""
        user = urlsplit(self.endpoint.base_url).netloc.rpartition("@")[0]
        return Pacer.of(self.endpoint.identity, f"{user}@{self.endpoint.api_key}")

    def sync_client(self) -> OpenAI:
        """
        The client for sync use; the embedded model is started when that is the endpoint.

        :returns: The same client each time, until `close`.
        """
        with self._lock:
            if self._client is None:
                settings = self._settings()
                pool = borrow(settings["base_url"], _account_of(settings), self._http_settings())
                # Also when nobody calls `close`: connections are shared, and outlive a forgotten generator.
                self._give_back = weakref.finalize(self, pool.give_back)
                self._client = OpenAI(http_client=pool.client, **settings)
            return self._client

    async def async_client(self) -> AsyncOpenAI:
        """
        The client for the running event loop.

        :returns: The same client each time on one loop, until `close_async`.
        """
        loop = asyncio.get_running_loop()
        for gone in [known for known in list(self._async_clients) if known.is_closed()]:
            self._async_clients.pop(gone, None)  # its connections were closed with it
        known = self._async_clients.get(loop)
        if known is None or known.generation != self._generation:
            generation = self._generation
            is_embedded = self.endpoint.embedded is not None
            # Starting the embedded model takes a second; a download takes longer.
            settings = await asyncio.to_thread(self._settings) if is_embedded else self._settings()
            pool = await borrow_async(settings["base_url"], _account_of(settings), self._http_settings())
            client = AsyncOpenAI(http_client=pool.client, **settings)
            before = self._async_clients.get(loop)
            if before is not None and before.generation == generation:
                await pool.give_back()
                return before.client  # another task of this loop was quicker
            known = self._async_clients[loop] = _LoopClient(generation, client, pool)
            if before is not None:
                await before.pool.give_back()
        return known.client

    def traits(self, model: str | None) -> Traits:
        """
        What the endpoint does with a model.

        :param model: Its name; None when nobody has said it yet.
        :returns: As a probe found out, else as its kind usually does.
        :raises ConfigurationError: The saved profiles can't be read.
        """
        known = self._traits.get(model)
        if known is None:
            saved = saved_profile(self.endpoint.identity, model)
            known = self._traits[model] = saved.traits if saved else self.endpoint.profile.traits
        return known

    @property
    def known_model(self) -> str | None:
        """Name of the model to ask for; None when the server has to be asked first."""
        return self._model or self.endpoint.model

    def choose_model(self, listed: Json) -> str:
        """
        Take the server's only model.

        :param listed: The server's answer to `GET /models`.
        :returns: The name, kept from now on: the published default if the server has it, else its only one.
        :raises ConfigurationError: It lists none, or several.
        """
        names = names_in(listed)
        where = self.endpoint.base_url
        if PUBLISHED_MODEL not in names and len(names) != 1:
            shown = "\n".join(f"  - {name}" for name in names[:50])
            problem = f"has several models:\n{shown}\n" if names else "lists no model. "
            raise ConfigurationError(f"{where} {problem}Name one: model=, --model or LLAMA_AGENT_MODEL.")
        self._model = PUBLISHED_MODEL if PUBLISHED_MODEL in names else names[0]
        return self._model

    def close(self) -> None:
        """Give the sync connections back, and stop the embedded model if no other generator uses it."""
        with self._lock:
            self._client = None
            give_back, self._give_back = self._give_back, None
            embedded, self._embedded = self._embedded, None
            self._endpoint = None
            self._model = None
            self._traits = {}
            # Async clients can't be closed from here, but mustn't go on to an endpoint that may be gone.
            self._generation += 1
        if give_back is not None:
            give_back()
        if embedded is not None:
            embedded.release()

    async def close_async(self) -> None:
        """Give the running loop's connections back, and what `close` gives back."""
        known = self._async_clients.pop(asyncio.get_running_loop(), None)
        if known is not None:
            await known.pool.give_back()
        await asyncio.to_thread(self.close)

    def _settings(self) -> dict[str, Any]:
        with self._lock:
            endpoint = self.endpoint
            base_url, api_key = endpoint.base_url, endpoint.api_key
            if endpoint.embedded is not None:
                if self._embedded is None:
                    self._embedded = EmbeddedServer.acquire(endpoint.embedded)
                base_url, api_key = self._embedded.base_url, self._embedded.api_key
        base_url, user = _without_user(base_url)
        return {
            "base_url": base_url,
            # The client demands a key, and takes OPENAI_API_KEY without one; servers that need none ignore
            # it.
            "api_key": api_key or "none",
            # Else the client would tell every server what OPENAI_ORG_ID and OPENAI_PROJECT_ID say.
            "default_headers": {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit(), **user},
            # Retries are ours (model/retry.py): the client's own would multiply them.
            "max_retries": 0,
            "timeout": httpx2.Timeout(self._seconds(), connect=min(CONNECT_TIMEOUT, self._seconds())),
        }

    def _http_settings(self) -> dict[str, Any]:
        # A redirect to another origin would post the whole conversation there: model/wire.py follows them
        # itself.
        own = (
            {"trust_env": False} if self.endpoint.embedded is not None else {}
        )  # no proxy stands before loopback
        return {**own, **self._http_client_kwargs, "follow_redirects": False}

    def _seconds(self) -> float:
        if self._timeout is not None:
            return self._timeout
        text = os.environ.get("OPENAI_TIMEOUT", "")
        try:
            return float(text) if text else DEFAULT_TIMEOUT
        except ValueError as error:
            raise ConfigurationError(f"OPENAI_TIMEOUT must be a number of seconds, not {text!r}") from error


def _account_of(settings: Mapping[str, Any]) -> str:
    """Whom the server knows us as."""
    return str(settings["default_headers"].get("Authorization") or settings["api_key"])


def _without_user(base_url: str) -> tuple[str, dict[str, str]]:
    """A URL without `user:password@`, which would be shown with it, and the header that says the same."""
    parts = urlsplit(base_url)
    if "@" not in parts.netloc:
        return base_url, {}
    user, _, host = parts.netloc.rpartition("@")
    told = unquote(user)
    remember_secret(told.partition(":")[2])
    basic = b64encode(told.encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {basic}"}


def names_in(body: Json) -> list[str]:
    """
    Names of models.

    :param body: The answer to `GET /models`.
    :returns: The names, in the server's order.
    """
    data = body.get("data")
    items = cast("list[object]", data) if isinstance(data, list) else []
    names = [cast("Json", item).get("id") for item in items if isinstance(item, dict)]
    return [name for name in names if isinstance(name, str)]
