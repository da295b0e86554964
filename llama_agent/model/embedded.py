"""The embedded llama.cpp server: runs in this process, listens on loopback, needs a key that only we know."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol, cast

import httpx2

from llama_agent.errors import ConfigurationError, EndpointError
from llama_agent.model.endpoints import choices_text
from llama_agent.model.model_files import model_file
from llama_agent.redaction import remember_secret

CONTEXT_TOKENS = 8192
"""Size of the window; SmolLM2's own."""
_PROMPT_CACHE_MEBIBYTES = 64  # llama.cpp's default is 8192
_START_SECONDS = 120.0


class _Server(Protocol):
    """What is used of `xllamacpp.Server`, which has no types of its own."""

    @property
    def listening_address(self) -> str: ...


class EmbeddedServer:
    """
    One llama.cpp server in this process, shared by all generators that use the same model.

    :param base_url: Base URL of its OpenAI-compatible API.
    :param api_key: The key it demands.
    """

    _running: dict[str, EmbeddedServer] = {}  # noqa: RUF012 - one per process is the point
    _lock = threading.Lock()

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._users = 0
        self.api_key = secrets.token_urlsafe(24)
        remember_secret(self.api_key)
        llama = _llama()  # before a model is fetched for nothing
        path = model_file(spec)
        with _interrupts_held():
            self._server: _Server | None = _start(llama, path, self.api_key)
            self.base_url = f"{self._server.listening_address}/v1"
            _await_health(self._server.listening_address)

    @classmethod
    def acquire(cls, spec: str) -> EmbeddedServer:
        """
        Get the server of a model, started if it doesn't run.

        :param spec: What follows `embedded:`; see `model_file`.
        :returns: The server. Give it back with `release`.
        :raises ConfigurationError: xllamacpp isn't installed, or the model can't be had or loaded.
        """
        with cls._lock:
            if (server := cls._running.get(spec)) is None:
                server = cls._running[spec] = cls(spec)
            server._users += 1
            return server

    def release(self) -> None:
        """Give it back; the last one stops it and frees its memory."""
        with self._lock:
            self._users -= 1
            if self._users <= 0:
                self._running.pop(self._spec, None)
                # It has no close(): it stops when it is freed.
                self._server = None

    @classmethod
    def stop_all(cls) -> None:
        """Stop every server: at the interpreter's exit, while its threads can still be ended."""
        with cls._lock:
            for server in cls._running.values():
                server._server = None
            cls._running.clear()


atexit.register(EmbeddedServer.stop_all)


def _llama() -> Any:
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ConfigurationError(f"the embedded model isn't installed ({error}). {choices_text()}") from error


def _start(llama: Any, path: Path, api_key: str) -> _Server:
    parameters = llama.CommonParams()
    parameters.model.path = str(path)
    parameters.port = 0
    parameters.api_keys = [api_key]
    parameters.cors_origins = "http://127.0.0.1"
    parameters.cors_origins_explicit = True
    parameters.cache_ram_mib = _PROMPT_CACHE_MEBIBYTES
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = 1
    parameters.verbosity = 0
    parameters.warmup = False
    parameters.ui = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = _threads()
    try:
        return cast("_Server", llama.Server(parameters))
    except (RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"llama.cpp can't load {path} ({error}): is the file whole, and a model?"
        ) from error


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # About the physical cores. Measured on 2 cores: 1 thread takes 1.5 times as long as 2 on an idle machine;
    # but beside busy programs 2 were seen to take 15 times as long, since they wait for each other in a loop.
    return max(1, min(cores // 2, 8))


@contextlib.contextmanager
def _interrupts_held() -> Generator[None]:
    """
    Let Ctrl-C wait: a llama.cpp server that is freed before its loop has begun is waited for without end.

    Only the main thread gets interrupts, so only there is anything held.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _await_health(address: str) -> None:
    """Requests get 503 while the model loads."""
    deadline = time.monotonic() + _START_SECONDS
    with httpx2.Client(trust_env=False) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.TransportError):
                if client.get(f"{address}/health", timeout=5).status_code == 200:
                    return
            time.sleep(0.02)
    raise EndpointError(f"the embedded model did not start within {_START_SECONDS:.0f} seconds")
