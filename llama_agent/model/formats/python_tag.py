"""
`<|python_tag|>` (Llama 3.1 and later): JSON calls, calls of built-in tools as `name.call(query="…")`, or
Python code for a code interpreter.
"""

from __future__ import annotations

from typing import cast

from llama_agent.model.formats.cursor import Cursor, Cut, Json, NoCall
from llama_agent.model.formats.json_calls import read_json_calls
from llama_agent.model.formats.pythonic import read_python_call, read_python_calls

MARKER = "<|python_tag|>"
ENDS = ("<|eom_id|>", "<|eot_id|>", "<|python_end|>")
_INTERPRETERS = ("code_interpreter", "python", "ipython")


def read_python_tag(cursor: Cursor) -> None:
    """
    The calls behind the tag.

    :param cursor: Stands before the tag.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before they do.
    """
    begins_line = cursor.text[cursor.at - 1 : cursor.at] in ("", "\n")
    cursor.at += len(MARKER)
    inside = cursor.at
    cursor.skip_blanks()
    try:
        read_tagged_calls(cursor)
        cursor.close(*ENDS)
    except NoCall:
        if cursor.calls or not begins_line:
            raise
        cursor.at = inside
        _read_code(cursor)


def read_tagged_calls(cursor: Cursor) -> None:
    """
    Calls as JSON or as Python.

    :param cursor: Stands before them.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before they do.
    """
    place = cursor.at
    if cursor.peek() == "{":
        return read_json_calls(cursor)
    if cursor.peek() == "[":
        try:
            return read_python_calls(cursor)
        except NoCall:
            if cursor.calls:
                raise
            cursor.at = place
            return read_json_calls(cursor)
    return read_python_call(cursor, lambda name: name.removesuffix(".call"))


def _read_code(cursor: Cursor) -> None:
    """Code, up to the end, for a tool that takes code and nothing else."""
    tool = next((name for name in _INTERPRETERS if cursor.offered.name(name) == name), None)
    properties = cursor.offered.properties(tool) if tool else {}
    if tool is None or len(properties) != 1:
        raise NoCall
    ((parameter, schema),) = properties.items()
    if not isinstance(schema, dict) or cast("Json", schema).get("type") != "string":
        raise NoCall
    begin = cursor.at
    ends = [place for end in ENDS if (place := cursor.text.find(end, begin)) >= 0]
    if not ends and not cursor.is_all:
        raise Cut
    cursor.at = min(ends, default=len(cursor.text))
    code = cursor.text[begin : cursor.at].strip()
    if not code:
        raise NoCall
    cursor.add_from("", tool, {parameter: code})
    cursor.close(*ENDS)
