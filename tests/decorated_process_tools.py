"""Tools that were made where their functions are defined, so that the functions' names are the tools'."""

from __future__ import annotations

import os
import threading

from llama_agent import ToolDenied, ToolRetry, tool
from tests.process_tools import HOLD, tell


@tool(isolation="process")
def decorated() -> int:
    """Give the number of the process."""
    return os.getpid()


@tool(name="another_name", isolation="process")
async def decorated_async() -> int:
    """Give the number of the process."""
    return os.getpid()


@tool(isolation="process", timeout=5)
def decorated_hold(witness: str) -> str:
    """Never end."""
    tell(witness, os.getpid())
    threading.Event().wait(HOLD)
    return "too late"


class Scale:
    """An object that can be sent, and has tools."""

    def __init__(self, tare: int) -> None:
        self.tare = tare

    @tool(isolation="process")
    def weigh(self, grams: int) -> dict[str, int]:
        """Weigh something."""
        return {"net": grams - self.tare, "pid": os.getpid()}


class Locked:
    """An object that can't be sent, and has tools."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    @tool(isolation="process")
    def look(self) -> str:
        """Look."""
        return "seen"


def wants_other_arguments(value: int) -> str:
    """Take large numbers."""
    raise ToolRetry("give a larger number")


def denies() -> str:
    """Refuse."""
    raise ToolDenied("not on a Sunday")
