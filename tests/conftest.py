"""For every test: no telemetry, nothing of the developer's environment, nothing beyond loopback."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before Haystack is imported: it decides then.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

from llama_agent import MetaLlamaChatGenerator
from tests.endpoint import Endpoint

# Side by side, each of pytest-xdist's workers has a core of its own, with its embedded model and commands:
# llama.cpp's threads wait for each other in a loop, and two servers on the same cores starve each other.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: many tests wait for processes, time limits and servers, and need no core for it."""
    return 2 * (os.cpu_count() or 1)


_PREFIXES = ("LLAMA_", "OPENAI_", "HF_")
_SUFFIXES = ("_API_KEY", "_PROXY")

Maker = Callable[..., MetaLlamaChatGenerator]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # no profiles that the developer saved
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name.upper().endswith(_SUFFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def make(endpoint: Endpoint) -> Iterator[Maker]:
    """Makes generators for the endpoint, and closes them after the test."""
    made: list[MetaLlamaChatGenerator] = []

    def make(**settings: Any) -> MetaLlamaChatGenerator:
        usual = {
            "api_base_url": endpoint.url,
            "model": "m",
            "max_retries": 0,
            # No certificates are loaded for each client: that would take most of these tests' time.
            "http_client_kwargs": {"verify": False},
        }
        made.append(MetaLlamaChatGenerator(**{**usual, **settings}))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails at once, instead of passing where there is one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
