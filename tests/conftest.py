"""For every test: no telemetry, nothing of the developer's environment, nothing beyond loopback."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

import pytest

# Before Haystack is imported: it decides then.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

_KEYS = (
    "LLAMA_API_KEY",
    "OPENAI_API_KEY",
    "GROQ_API_KEY",
    "TOGETHER_API_KEY",
    "FIREWORKS_API_KEY",
    "OPENROUTER_API_KEY",
)
_VARIABLES = (*_KEYS, "OPENAI_TIMEOUT", "OPENAI_MAX_RETRIES", "OPENAI_BASE_URL", "HF_ENDPOINT")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*_VARIABLES, *(name for name in os.environ if name.startswith("LLAMA_AGENT_"))]:
        monkeypatch.delenv(name, raising=False)


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
