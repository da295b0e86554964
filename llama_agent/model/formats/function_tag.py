"""
`<function=name>{…}</function>` (Llama 3.1's custom format, Groq, Functionary 3.1), `<function name="name">`
(Hermes-like), and `<parameter=key>value</parameter>` within (Qwen3-Coder).
"""

from __future__ import annotations

import re

from llama_agent.coercion import coerce
from llama_agent.model.formats.cursor import Cursor, Cut, NoCall

MARKERS = ("<function=", "<function name=")
_END = "</function>"
_LONGEST_TEXT = 2_000
"""Characters within which the end tag of something else than JSON has to stand."""
_HEAD = re.compile(r"<function(?:=| name=)\s*[\"']?([\w.\-/:]{1,128})[\"']?\s*(>|(?=\{))")
_PARAMETER = re.compile(r"\s*<parameter(?:=| name=)\s*[\"']?([^\"'>\n]{1,128}?)[\"']?\s*>")
_PARAMETER_END = re.compile(r"</parameter>(?=\s*(?:<parameter|</function>|</tool_call>|\Z))")


def read_function_tag(cursor: Cursor) -> None:
    """
    One call.

    :param cursor: Stands before the tag.
    :raises NoCall: There is something else, or no such tool.
    :raises Cut: The text ends before it does.
    """
    begin = cursor.at
    head = cursor.match(_HEAD)
    name = cursor.named(head[1])
    cursor.skip_blanks()
    if cursor.peek() == "<":
        _read_parameters(cursor, name, begin)
    elif cursor.peek() in "{[\"'":
        cursor.arguments_of(name, begin)
        place = cursor.at
        cursor.skip_blanks()
        if not cursor.take(">"):
            cursor.at = place
    else:
        _read_text(cursor, name, begin)
    cursor.close(_END, "<function>")
    cursor.end = cursor.at


def _read_text(cursor: Cursor, name: str, begin: int) -> None:
    """Whatever else stands between the tags: fenced JSON, null, or what the model has to be told of."""
    window = cursor.at + _LONGEST_TEXT
    end = cursor.text.find(_END, cursor.at, window)
    if end < 0 and not cursor.is_all and len(cursor.text) < window:
        raise Cut
    if end < 0 or cursor.text.find("<function", cursor.at, end) >= 0:
        raise NoCall  # somebody speaks of the tag
    text, cursor.at = cursor.text[cursor.at : end], end
    cursor.add(name, text, begin)


def _read_parameters(cursor: Cursor, name: str, begin: int) -> None:
    """Values without types, brought into those of the tool's schema."""
    values: dict[str, str] = {}
    while True:
        cursor.skip_blanks()
        if cursor.take(_END):
            break
        if values and cursor.take("</tool_call>"):
            cursor.at -= len("</tool_call>")
            break
        cursor.peek()
        key = cursor.match(_PARAMETER)[1]
        end = _PARAMETER_END.search(cursor.text, cursor.at)
        if end is None or (end.end() == len(cursor.text) and not cursor.is_all):
            raise Cut
        values[key] = _inside(cursor.text[cursor.at : end.start()])
        cursor.at = end.end()
    cursor.add(name, coerce(values, cursor.offered.schema(name)), begin)


def _inside(value: str) -> str:
    """A value without the line ends that set it off from its tags."""
    return value.removeprefix("\n").removesuffix("\n")
