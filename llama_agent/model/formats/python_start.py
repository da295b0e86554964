"""`<|python_start|>` … `<|python_end|>` (Llama 4: vllm-project/vllm#16214, sgl-project/sglang#6679)."""

from __future__ import annotations

from llama_agent.model.formats.cursor import Cursor
from llama_agent.model.formats.python_tag import ENDS, read_tagged_calls

MARKER = "<|python_start|>"


def read_python_start(cursor: Cursor) -> None:
    """
    The calls between the tags, as Python or JSON.

    :param cursor: Stands before the first tag.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before they do.
    """
    cursor.at += len(MARKER)
    cursor.skip_blanks()
    read_tagged_calls(cursor)
    cursor.close(*ENDS)
