"""A real llama.cpp server with the small model, and a window as narrow as one likes, which it enforces."""

from __future__ import annotations

import importlib
import json
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from haystack.utils import Secret

from llama_agent import MetaLlamaChatGenerator
from llama_agent.model.model_files import model_file

MODEL = "SmolLM2-135M"


@dataclass(frozen=True)
class Exchange:
    """
    A chat request that was answered.

    :param messages: As they were sent.
    :param status: HTTP status of the answer.
    :param evaluated: Tokens of the prompt that the server read.
    :param cached: Tokens of the prompt that it had read before, and kept.
    """

    messages: list[dict[str, Any]]
    status: int
    evaluated: int = 0
    cached: int = 0


@dataclass
class NarrowServer:
    """
    The server.

    :param url: Base URL of its OpenAI-compatible API.
    :param key: The key that it demands.
    :param exchanges: What generators of `generator` asked, in order.
    """

    url: str
    key: str
    exchanges: list[Exchange] = field(default_factory=list[Exchange])

    @contextmanager
    def generator(self, **settings: Any) -> Iterator[MetaLlamaChatGenerator]:
        """Asks this server; for a block."""
        usual = {"model": MODEL, "generation_kwargs": {"temperature": 0, "tool_choice": "required"}}
        client = {"trust_env": False, "event_hooks": {"response": [self._note]}}
        generator = MetaLlamaChatGenerator(
            **{**usual, **settings},
            api_base_url=self.url,
            api_key=Secret.from_token(self.key),
            http_client_kwargs=client,
        )
        with closing(generator):
            yield generator

    def _note(self, response: httpx2.Response) -> None:
        answer = json.loads(response.read())
        request = json.loads(response.request.content or b"{}")
        if "messages" not in request or response.status_code == 503:  # it is loading
            return
        timings = answer.get("timings", {})
        self.exchanges.append(
            Exchange(
                request["messages"],
                response.status_code,
                timings.get("prompt_n", 0),
                timings.get("cache_n", 0),
            )
        )


@contextmanager
def narrow_server(window: int, threads: int = 1) -> Iterator[NarrowServer]:
    """
    Run a server for a block; requests are answered with 503 while it loads.

    :param window: Tokens, a multiple of 256: llama.cpp rounds up.
    :param threads: For llama.cpp.
    """
    llama: Any = importlib.import_module("xllamacpp")
    key = secrets.token_urlsafe(24)
    parameters = llama.CommonParams()
    parameters.model.path = str(model_file(""))
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.n_ctx = window
    parameters.n_parallel = 1
    parameters.cache_ram_mib = 0  # what is read again depends on the last request only
    parameters.verbosity = 0
    parameters.warmup = parameters.ui = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = llama.Server(parameters)
    yield NarrowServer(f"{server.listening_address}/v1", key)
    del server  # it has no close(): it stops when it is freed
