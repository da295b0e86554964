"""`functools[{…}]` (Firefunction v2, on Llama 3)."""

from __future__ import annotations

from llama_agent.model.formats.cursor import Cursor
from llama_agent.model.formats.json_calls import read_json_calls

MARKER = "functools["


def read_firefunction(cursor: Cursor) -> None:
    """
    The list of calls.

    :param cursor: Stands before the marker.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before it does.
    """
    cursor.at += len(MARKER) - 1
    read_json_calls(cursor)
