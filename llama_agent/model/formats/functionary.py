"""`>>>name` and a line of JSON (Functionary 3.2, on Llama 3)."""

from __future__ import annotations

import re

from llama_agent.model.formats.cursor import Cursor, NoCall

MARKER = ">>>"
_HEAD = re.compile(r">>>([A-Za-z_][\w.\-/]{0,127})\r?\n[ \t]*")


def read_functionary(cursor: Cursor) -> None:
    """
    One call.

    :param cursor: Stands before the marker.
    :raises NoCall: There is something else, or no such tool.
    :raises Cut: The text ends before it does.
    """
    begin = cursor.at
    name = cursor.named(cursor.match(_HEAD)[1])
    if cursor.peek() != "{":
        raise NoCall
    cursor.arguments_of(name, begin)
