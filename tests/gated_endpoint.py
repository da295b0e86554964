"""
An endpoint whose streams wait at gates: so a test knows, without a clock, what was done before what was sent.

    gate = Gate()
    endpoint.script(stream(called(0, "look", {"place": "a"}), gate, called(1, "look", {"place": "b"}), END))

What is before the gate is sent; what is behind it is sent once `gate.open()` was called.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from threading import Event, Lock
from time import monotonic
from typing import Any, ClassVar, TypeAlias, cast

from tests.endpoint import Endpoint, Raw, Request
from tests.endpoint.script import Wire
from tests.in_process_model import event

PATIENCE = 6.0
"""Seconds after which a gate opens in any case: what it waited for never comes."""
BRIEF = 0.15
"""Seconds that something wrong is left to show itself. Right code never depends on it."""
_POLL = 0.01
_MARK = re.compile(rb": gate (\d+)\n\n")


class Gate:
    """
    A place in a stream.

    :param seconds: After which it opens by itself, which is no failure then.
    """

    _numbers: ClassVar = count()
    _all: ClassVar[dict[int, "Gate"]] = {}
    _lock: ClassVar = Lock()

    def __init__(self, seconds: float | None = None) -> None:
        self.reached = Event()
        """What is before the gate was sent."""
        self.was_late = False
        """Nobody opened it."""
        self._seconds = seconds
        self._open = Event()
        with self._lock:
            self._number = next(self._numbers)
            self._all[self._number] = self

    def open(self) -> None:
        """Let the rest be sent."""
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether the rest may be on its way."""
        return self._open.is_set()

    @property
    def mark(self) -> bytes:
        """In a stream: a comment, which clients pass over."""
        return f": gate {self._number}\n\n".encode()

    @classmethod
    def find(cls, piece: bytes) -> "Gate | None":
        """The gate that is marked in a piece of a stream."""
        found = _MARK.search(piece)
        return cls._all[int(found[1])] if found else None

    def waited_for(self) -> Iterator[bytes]:
        """Nothing to send, again and again, until it is open: so that a client that leaves is noticed."""
        self.reached.set()
        end = monotonic() + (PATIENCE if self._seconds is None else self._seconds)
        while not self._open.wait(_POLL):
            if monotonic() > end:
                self.was_late = self._seconds is None
                self._open.set()
            yield b""


class GatedEndpoint(Endpoint):
    """An endpoint whose `Raw` streams may have gates."""

    def _answer(self, request: Request) -> Wire:
        wire = super()._answer(request)
        return replace(wire, pieces=cast("Any", _held(wire.pieces)))


def _held(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        if (gate := Gate.find(piece)) is not None:
            yield from gate.waited_for()


# Streams

Part: TypeAlias = bytes | Gate | Iterable[bytes]
END = [event("tool_calls"), b"data: [DONE]\n\n"]
"""A reply with calls is over. A stream without an end is broken."""
STOP = [event("stop"), b"data: [DONE]\n\n"]


def stream(*parts: Part) -> Raw:
    """A streamed reply."""
    return Raw([piece for part in parts for piece in _pieces(part)], "text/event-stream")


def called(
    index: int, name: str, arguments: Mapping[str, Any] | str, *, id: str | None = None, size: int = 5
) -> list[bytes]:
    """A call, its arguments in pieces."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    head = {"index": index, "id": id or f"call_{index}", "type": "function"}
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    return [
        event(tool_calls=[{**head, "function": {"name": name, "arguments": ""}}]),
        *(event(tool_calls=[{"index": index, "function": {"arguments": piece}}]) for piece in pieces),
    ]


def said(text: str, size: int = 5) -> list[bytes]:
    """Text, in pieces."""
    return [event(content=text[start : start + size]) for start in range(0, len(text), size)]


def _pieces(part: Part) -> Iterable[bytes]:
    if isinstance(part, Gate):
        return [part.mark]
    return [part] if isinstance(part, bytes) else part
