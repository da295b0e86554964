"""`[TOOL_CALLS]` (Mistral, Nemo, Devstral): a list of calls, or a name with its arguments."""

from __future__ import annotations

import re

from llama_agent.model.formats.cursor import Cursor, NoCall
from llama_agent.model.formats.json_calls import read_json_calls

MARKER = "[TOOL_CALLS]"
_NAME = re.compile(r"\s*([A-Za-z_][\w.\-/]{0,127}?)\s*(?:\[CALL_ID\][\w\-]{1,64}\s*)?(?:\[ARGS\]\s*|(?=\{))")


def read_mistral(cursor: Cursor) -> None:
    """
    The calls behind the marker.

    :param cursor: Stands before it.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before they do.
    """
    while cursor.take(MARKER):
        cursor.skip_blanks()
        if cursor.peek() in "[{":
            read_json_calls(cursor)
        else:
            _read_named(cursor)
        cursor.close("</s>")
        cursor.end = place = cursor.at
        cursor.skip_blanks()
        if not cursor.begins(MARKER):
            cursor.at = place
            return


def _read_named(cursor: Cursor) -> None:
    """`name{…}`: an argument called `name` is no tool's name."""
    begin = cursor.at
    head = cursor.match(_NAME)
    name = cursor.named(head[1])
    if cursor.peek() != "{":
        raise NoCall
    cursor.arguments_of(name, begin)
