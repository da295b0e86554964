"""`Action:` and a fenced list of `{"tool_name": …, "parameters": {…}}` (Command-R)."""

from __future__ import annotations

import re

from llama_agent.model.formats.cursor import Cursor
from llama_agent.model.formats.json_calls import read_json_calls

MARKER = "Action:"
_HEAD = re.compile(r"Action:\s*```(?:json)?\s*(?=[\[{])")


def read_command_r(cursor: Cursor) -> None:
    """
    The calls in the fence.

    :param cursor: Stands before the marker.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before they do.
    """
    cursor.match(_HEAD)
    read_json_calls(cursor)
    cursor.close("```")
