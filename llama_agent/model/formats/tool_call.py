"""`<tool_call>{…}</tool_call>` (Hermes, Qwen, Llama-3-Groq) and `<tool_call><function=…>` (Qwen3-Coder)."""

from __future__ import annotations

from llama_agent.model.formats.cursor import Cursor, NoCall
from llama_agent.model.formats.function_tag import MARKERS as FUNCTION_TAGS
from llama_agent.model.formats.function_tag import read_function_tag
from llama_agent.model.formats.json_calls import read_json_calls
from llama_agent.model.formats.pythonic import read_python_calls

MARKER = "<tool_call>"
_END = "</tool_call>"


def read_tool_call(cursor: Cursor) -> None:
    """
    The calls between the tags.

    :param cursor: Stands before the first tag.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before they do.
    """
    cursor.at += len(MARKER)
    cursor.skip_blanks()
    if cursor.begins(*FUNCTION_TAGS):
        place = cursor.at
        while cursor.begins(*FUNCTION_TAGS):
            read_function_tag(cursor)
            place = cursor.at
            cursor.skip_blanks()
        cursor.at = place
    else:
        _read_json_or_python(cursor)
    cursor.close(_END)
    cursor.end = cursor.at


def _read_json_or_python(cursor: Cursor) -> None:
    place = cursor.at
    try:
        read_json_calls(cursor)
    except NoCall:
        if cursor.calls or cursor.text[place] != "[":
            raise
        cursor.at = place
        read_python_calls(cursor)
