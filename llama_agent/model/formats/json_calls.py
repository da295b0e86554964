"""
Calls as bare JSON: `{"name": …, "parameters": {…}}` and its relatives (Llama 3.x, Llama 4 JSON, xLAM).

An object is a call when it names an offered tool and has arguments, and nothing else beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from llama_agent.lenient_json import NotJson, read_json
from llama_agent.model.formats.cursor import Cursor, Cut, NoCall, Offered, Unreadable

Json: TypeAlias = dict[str, Any]
Named: TypeAlias = tuple[str, str | Mapping[str, Any]]

_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("parameters", "arguments")
_BESIDE = frozenset({"type", "id", "index", "tool_call_id"})
_KEYS = frozenset({*_NAMES, *_ARGUMENTS, *_BESIDE, "tool_calls", "function_call"})
_SEPARATORS = re.compile(r"[\s;,]*")
_FIRST_KEY = re.compile(r"\{\s*\{?\s*(?:(?P<quote>[\"'])(?P<key>\w*)(?:(?P=quote)\s*(?P<colon>:?)\s*)?)?")
_TEXT = re.compile(r"([\"'])([^\"'\\]*)(\1?)")
_TYPE = "function"


def read_json_calls(cursor: Cursor) -> None:
    """
    Calls one after the other, or in a list.

    :param cursor: Stands before them.
    :raises NoCall: There is none; in a weak form also: something else is among them.
    :raises Cut: The text ends before they do.
    """
    cursor.skip_blanks()
    in_list = cursor.peek() == "["
    if in_list:
        cursor.at += 1
    while True:
        cursor.skip_blanks()
        if in_list and cursor.calls and cursor.peek() == "]":
            cursor.at += 1
            cursor.end = cursor.at
            return
        before = cursor.end
        _read_call(cursor, in_list=in_list)
        if before == cursor.end and not in_list:
            return
        behind = cursor.at
        separator = _SEPARATORS.match(cursor.text, cursor.at)
        cursor.at = separator.end() if separator else cursor.at
        if cursor.at >= len(cursor.text):
            if not cursor.is_all or in_list:
                raise Cut
            cursor.at = behind
            return
        if not in_list and cursor.text[cursor.at] != "{":
            cursor.at = behind
            return


def _read_call(cursor: Cursor, *, in_list: bool) -> None:
    """One object; where it is no call and others came before, the cursor stands behind those."""
    begin = cursor.at
    value = cursor.value()
    named: list[Named] | None = None
    if isinstance(value, Unreadable):
        if (broken := value.name_in(cursor.offered)) is not None:
            cursor.add(*broken, begin, value.error)
            cursor.value_done()
            return
    else:
        named = calls_in(value, cursor.offered, is_weak=cursor.is_weak)
    cursor.value_done()
    if named is None:
        if cursor.calls and not in_list:
            cursor.at = cursor.end
        elif cursor.is_weak or not in_list:
            raise NoCall(cursor.at)
        return
    for name, arguments in named:
        cursor.add(name, arguments, begin)


def calls_in(value: object, offered: Offered, *, is_weak: bool) -> list[Named] | None:
    """
    The calls that an object stands for.

    :param value: Parsed JSON.
    :param offered: Tools on offer.
    :param is_weak: Whether nothing but its form says that it is a call.
    :returns: Names and arguments; None when it is something else.
    """
    if not isinstance(value, dict):
        return None
    call = cast("Json", value)
    for key in ("tool_calls", "function_call"):
        inner = call.get(key)
        if inner and call.keys() <= {key, "content", "role"}:
            return _all_of(
                cast("list[object]", inner if isinstance(inner, list) else [inner]), offered, is_weak
            )
    if isinstance(function := call.get("function"), dict) and call.keys() <= {"function", *_BESIDE}:
        return calls_in(cast("object", function), offered, is_weak=is_weak)
    if not call.keys() <= {*_NAMES, *_ARGUMENTS, *_BESIDE} or call.get("type", _TYPE) != _TYPE:
        return None
    named = _named(call, offered)
    return None if named is None or (is_weak and not _has_object(*named, offered)) else [named]


def _all_of(items: list[object], offered: Offered, is_weak: bool) -> list[Named] | None:
    found = [calls_in(item, offered, is_weak=is_weak) for item in items]
    if is_weak and None in found:
        return None
    return [named for calls in found for named in calls or ()] or None


def _named(call: Json, offered: Offered) -> Named | None:
    names = [call[key] for key in _NAMES if key in call]
    given = [call[key] for key in _ARGUMENTS if key in call]
    if len(names) != 1 or len(given) != 1 or not isinstance(names[0], str):
        return None
    name = offered.name(names[0])
    if name is None or _is_schema(given[0], offered.properties(name)):
        return None
    if given[0] is None:
        return None if offered.schema(name).get("required") else (name, {})
    return (name, cast("Json", given[0])) if isinstance(given[0], str | dict) else None


def _has_object(name: str, arguments: object, offered: Offered) -> bool:
    """Whether the arguments are an object, maybe within a text."""
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments) if arguments.strip() else {}
        except NotJson:
            return False
        return isinstance(arguments, dict) and not _is_schema(
            cast("object", arguments), offered.properties(name)
        )
    return isinstance(arguments, dict)


def _is_schema(value: object, properties: Json) -> bool:
    """Whether it is the tool's own definition that was written down, and no arguments."""
    if not isinstance(value, dict):
        return False
    given = cast("Json", value)
    return given.get("type") == "object" and "properties" in given and "properties" not in properties


def may_be_calls(text: str, at: int, offered: Offered) -> bool:
    """
    Whether JSON that isn't complete yet can still turn out to be a call.

    :param text: Ends within the JSON.
    :param at: Place of its first brace.
    :param offered: Tools on offer.
    :returns: False once a key or a name says that it is something else.
    """
    first = _FIRST_KEY.match(text, at)
    if first is None or first["key"] is None:
        return first is not None and (first.end() == len(text))
    key, rest = first["key"], first.end()
    if first["colon"] is None:
        return rest == len(text) and any(known.startswith(key) for known in _KEYS)
    if key not in _KEYS or not (first["colon"] or rest == len(text)):
        return False
    if rest == len(text) or key not in {*_NAMES, "type"}:
        return True
    if key == "function" and text[rest] == "{":
        return may_be_calls(text, rest, offered)
    value = _TEXT.match(text, rest)
    if value is None:
        return False
    if not value[3]:
        return value.end() == len(text)
    return value[2] == _TYPE if key == "type" else offered.name(value[2]) is not None
