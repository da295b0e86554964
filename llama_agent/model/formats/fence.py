"""A fence around bare JSON, as small Llama models on Ollama write it (ollama/ollama#13519)."""

from __future__ import annotations

import re

from llama_agent.model.formats.cursor import Cursor, NoCall, Offered
from llama_agent.model.formats.json_calls import may_be_calls, read_json_calls

_OPENING = re.compile(r"```[ \t]*(?:json|JSON|tool_calls?|tool_code)?[ \t]*\r?\n\s*")
_BEGUN = re.compile(r"```[ \t]*(?P<kind>\w*)[ \t]*(?P<line>\r?\n\s*)?")
_KINDS = ("json", "JSON", "tool_call", "tool_calls", "tool_code")


def read_fenced_calls(cursor: Cursor) -> None:
    """
    Calls in a fence that is the whole message.

    :param cursor: Stands before the fence.
    :raises NoCall: It holds something else, or there is more than the fence.
    :raises Cut: The text ends before it does.
    """
    cursor.match(_OPENING)
    read_json_calls(cursor)
    cursor.close("```")
    if not cursor.is_at_end():
        raise NoCall


def may_be_fenced_calls(text: str, at: int, offered: Offered) -> bool:
    """
    Whether a fence that isn't complete yet can still turn out to hold calls.

    :param text: Ends within the fence.
    :param at: Where it begins.
    :param offered: Tools on offer.
    :returns: False once it says something else.
    """
    begun = _BEGUN.match(text, at)
    if begun is None:
        return "```".startswith(text[at:])
    if begun.end() == len(text):
        return any(kind.startswith(begun["kind"]) for kind in _KINDS)
    if begun["line"] is None or begun["kind"] not in ("", *_KINDS):
        return False
    inside = begun.end()
    if text[inside] == "[":
        inside = next((i for i in range(inside + 1, len(text)) if not text[i].isspace()), len(text))
        return inside == len(text) or (text[inside] == "{" and may_be_calls(text, inside, offered))
    return text[inside] == "{" and may_be_calls(text, inside, offered)
