"""
Tool calls that arrive as text: the formats that models write, and the registry that a user adds to.

A *strong* format has a marker of its own, and is looked for everywhere outside thinking and code. A *weak*
one is plain JSON or Python, and counts only as the whole message or its start.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, cast

from llama_agent.errors import ConfigurationError
from llama_agent.logs import logger_of
from llama_agent.model.formats.command_r import MARKER as COMMAND_R
from llama_agent.model.formats.command_r import read_command_r
from llama_agent.model.formats.cursor import Cursor, Cut, Found, NoCall, Offered, Unread
from llama_agent.model.formats.deepseek import MARKERS as DEEPSEEK
from llama_agent.model.formats.deepseek import read_deepseek
from llama_agent.model.formats.fence import may_be_fenced_calls, read_fenced_calls
from llama_agent.model.formats.firefunction import MARKER as FIREFUNCTION
from llama_agent.model.formats.firefunction import read_firefunction
from llama_agent.model.formats.function_tag import MARKERS as FUNCTION_TAGS
from llama_agent.model.formats.function_tag import read_function_tag
from llama_agent.model.formats.functionary import MARKER as FUNCTIONARY
from llama_agent.model.formats.functionary import read_functionary
from llama_agent.model.formats.json_calls import may_be_calls, read_json_calls
from llama_agent.model.formats.mistral import MARKER as MISTRAL
from llama_agent.model.formats.mistral import read_mistral
from llama_agent.model.formats.python_start import MARKER as PYTHON_START
from llama_agent.model.formats.python_start import read_python_start
from llama_agent.model.formats.python_tag import MARKER as PYTHON_TAG
from llama_agent.model.formats.python_tag import read_python_tag
from llama_agent.model.formats.pythonic import (
    may_be_bare_call,
    may_be_python_calls,
    read_bare_call,
    read_python_calls,
)
from llama_agent.model.formats.tool_call import MARKER as TOOL_CALL
from llama_agent.model.formats.tool_call import read_tool_call

logger = logger_of(__name__)

ParseText: TypeAlias = Callable[[str], Sequence[tuple[str, str | Mapping[str, Any]]] | None]
"""The text between a format's marks → names and arguments of its calls, or None when it is no call."""
_Read: TypeAlias = Callable[[Cursor], None]

_MOST_ENDS = 20
"""How often a user's format is tried again, where its end mark may stand within a text."""


@dataclass(frozen=True)
class TextFormat:
    """
    A way to write calls as text.

    :param name: What `meta["tool_call_format"]` says.
    :param markers: What it begins with; none for a weak one.
    :param read: Reads the calls at a cursor. It raises `NoCall` or `Cut` where there are none.
    """

    name: str
    markers: tuple[str, ...]
    read: _Read


@dataclass(frozen=True, eq=False)
class Registry:
    """
    The strong formats.

    :param by_marker: Each marker's format.
    :param marker: Matches any marker.
    :param beginnings: All beginnings of markers: a text that ends in one has to wait.
    """

    by_marker: Mapping[str, TextFormat]
    marker: str
    beginnings: frozenset[str]


_STRONG = (
    TextFormat("python_tag", (PYTHON_TAG,), read_python_tag),
    TextFormat("python_start", (PYTHON_START,), read_python_start),
    TextFormat("tool_call", (TOOL_CALL,), read_tool_call),
    TextFormat("function_tag", FUNCTION_TAGS, read_function_tag),
    TextFormat("mistral", (MISTRAL,), read_mistral),
    TextFormat("functools", (FIREFUNCTION,), read_firefunction),
    TextFormat("functionary", (FUNCTIONARY,), read_functionary),
    TextFormat("command_r", (COMMAND_R,), read_command_r),
    TextFormat("deepseek", DEEPSEEK, read_deepseek),
)
_JSON = TextFormat("json", (), read_json_calls)
_FENCE = TextFormat("fence", (), read_fenced_calls)
_PYTHONIC = TextFormat("pythonic", (), read_python_calls)
_BARE = TextFormat("python_tag", (), read_bare_call)


def _registry_of(formats: Sequence[TextFormat]) -> Registry:
    by_marker = {marker: format_ for format_ in formats for marker in format_.markers}
    longest_first = sorted(by_marker, key=len, reverse=True)
    beginnings = {marker[:length] for marker in by_marker for length in range(1, len(marker))}
    return Registry(by_marker, "|".join(map(re.escape, longest_first)), frozenset(beginnings))


_registry = _registry_of(_STRONG)
_added: tuple[TextFormat, ...] = ()
_registering = threading.Lock()


def registry() -> Registry:
    """
    The strong formats, those of the user included.

    :returns: As of now.
    """
    return _registry


def register_text_format(name: str, *, begin: str, end: str, parse: ParseText) -> None:
    """
    Make known how a model writes its tool calls as text, in all generators of this process.

    ```python
    import json

    from llama_agent import register_text_format


    def parse(inner: str) -> list[tuple[str, dict]]:
        call = json.loads(inner)
        return [(call["tool"], call["input"])]


    register_text_format("acme", begin="<<call", end="call>>", parse=parse)
    ```

    :param name: Name of the format; a format of that name that was made known before is replaced.
    :param begin: What a call begins with: at least two characters that nothing else begins with. It is looked
        for everywhere in a reply, but for thinking and code.
    :param end: What it ends with.
    :param parse: Given the text between, it returns `(tool name, arguments)` for each call, arguments as
        a dictionary or JSON text; or None when this is no call, as does whatever it raises. Only names of
        tools on offer count.
    :raises ConfigurationError: The marks are too short, or belong to another format.
    """
    if len(begin.strip()) < 2 or not end.strip():
        raise ConfigurationError("a text format needs a begin of two characters or more, and an end")
    if name in (_JSON.name, _FENCE.name, _PYTHONIC.name):
        raise ConfigurationError(f"there is a text format '{name}' already: take another name")
    with _registering:
        _add(TextFormat(name, (begin,), partial(_read_between, begin, end, parse)))


def _add(new: TextFormat) -> None:
    global _registry, _added
    others = tuple(format_ for format_ in _added if format_.name != new.name)
    for other in (*_STRONG, *others):
        if new.name == other.name or new.markers[0] in other.markers:
            raise ConfigurationError(f"the text format '{other.name}' has that name or begin: take another")
    _added = (*others, new)
    _registry = _registry_of([*_added, *_STRONG])


def read_strong(format_: TextFormat, text: str, at: int, offered: Offered, *, is_all: bool) -> Found | Unread:
    """
    Read calls at a marker.

    :param format_: The marker's.
    :param text: The reply's text.
    :param at: Where the marker stands.
    :param offered: Tools on offer.
    :param is_all: Whether no more text will come.
    :returns: The calls, or why there are none.
    """
    return _read(format_, Cursor(text, at, offered, is_all))


def read_weak(text: str, at: int, offered: Offered, *, is_all: bool) -> Found | Unread:
    """
    Read calls that nothing but their form says to be calls.

    :param text: The reply's text.
    :param at: Where its first character stands, white space aside.
    :param offered: Tools on offer.
    :param is_all: Whether no more text will come.
    :returns: The calls, or why there are none.
    """
    unread = Unread()
    for format_, may_be in _weak_at(text, at):
        if not is_all and not may_be(text, at, offered):
            continue
        found = _read(format_, Cursor(text, at, offered, is_all, is_weak=True))
        if isinstance(found, Found) or found.is_unfinished:
            return found
        unread = found if found.is_cut or found.end else unread
    return unread


def _weak_at(text: str, at: int) -> Sequence[tuple[TextFormat, Callable[[str, int, Offered], bool]]]:
    match text[at : at + 1]:
        case "{":
            return ((_JSON, may_be_calls),)
        case "[":
            return ((_JSON, _may_be_list), (_PYTHONIC, may_be_python_calls))
        case "`":
            return ((_FENCE, may_be_fenced_calls),)
        case "":
            return ()
        case _:
            return ((_BARE, may_be_bare_call),)


def _may_be_list(text: str, at: int, offered: Offered) -> bool:
    inside = next((place for place in range(at + 1, len(text)) if not text[place].isspace()), len(text))
    return inside == len(text) or (text[inside] == "{" and may_be_calls(text, inside, offered))


def _read(format_: TextFormat, cursor: Cursor) -> Found | Unread:
    try:
        format_.read(cursor)
    except Cut:
        if not cursor.is_all:
            return Unread(is_unfinished=True)
        cursor.conclude_cut()
        if not cursor.calls:
            return Unread(is_cut=True)
    except NoCall as reason:
        if cursor.is_weak or not cursor.calls:
            return Unread(end=reason.end)
        # What came before stands by itself.
        cursor.at = max(cursor.end, reason.end or 0)
    if not cursor.calls:
        return Unread(end=cursor.at)
    return Found(tuple(cursor.calls), cursor.at, format_.name)


def _read_between(begin: str, end: str, parse: ParseText, cursor: Cursor) -> None:
    """A user's format: the first end at which the text between makes sense."""
    start = cursor.at
    inside = place = start + len(begin)
    for _ in range(_MOST_ENDS):
        place = cursor.text.find(end, place)
        if place < 0:
            break
        named = _named(parse, cursor.text[inside:place], cursor.offered)
        place += len(end)
        if named:
            cursor.at = place
            for name, arguments in named:
                cursor.add(name, arguments, start)
            return
    if not cursor.is_all:
        raise Cut
    raise NoCall


def _named(parse: ParseText, inner: str, offered: Offered) -> list[tuple[str, str | Mapping[str, Any]]]:
    try:
        found = parse(inner) or ()
        pairs = [(offered.name(name), _checked(arguments)) for name, arguments in found]
    except Exception as error:
        logger.debug("a text format's function raised %s: the text is no call", type(error).__name__)
        return []
    return [(name, arguments) for name, arguments in pairs if name is not None]


def _checked(arguments: object) -> str | Mapping[str, Any]:
    """Arguments as a user's function gave them: a text, or what JSON can hold."""
    return arguments if isinstance(arguments, str) else json.loads(json.dumps(dict(cast("Any", arguments))))


def renamed(found: Found, name: str) -> Found:
    """
    The same calls, as those of another format.

    :param found: The calls.
    :param name: The format's name.
    :returns: A copy.
    """
    return replace(found, format=name)
