"""DeepSeek's markers (R1-Distill-Llama): a name, and its arguments, fenced or not."""

from __future__ import annotations

import re

from llama_agent.model.formats.cursor import Cursor

MARKERS = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>")  # noqa: RUF001 - the tokens' own letters
_CALL_END, _CALLS_END = "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001
_END = "<｜end▁of▁sentence｜>"  # noqa: RUF001
_HEAD = re.compile(
    r"\s*<｜tool▁call▁begin｜>\s*(?:function\s*<｜tool▁sep｜>)?\s*"  # noqa: RUF001
    r"([A-Za-z_][\w.\-/]{0,127})\s*(?:<｜tool▁sep｜>)?\s*(?:```(?:json)?\s*)?(?=\{)"  # noqa: RUF001
)


def read_deepseek(cursor: Cursor) -> None:
    """
    The calls between the markers.

    :param cursor: Stands before the first.
    :raises NoCall: There is something else, or no such tool.
    :raises Cut: The text ends before they do.
    """
    cursor.take(MARKERS[0])
    while True:
        begin = cursor.at
        name = cursor.named(cursor.match(_HEAD)[1])
        cursor.arguments_of(name, begin)
        cursor.close("```")
        cursor.close(_CALL_END)
        cursor.end = place = cursor.at
        cursor.skip_blanks()
        if not cursor.begins(MARKERS[1]):
            cursor.at = place
            break
    cursor.close(_CALLS_END)
    cursor.close(_END)
    cursor.end = cursor.at
