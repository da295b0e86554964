"""
Calls as Python: `[add(a=1, b=2), now()]` (Llama 3.2, Llama 4), with literal keyword arguments only.

Nothing is ever evaluated: the text is parsed, and its literals are read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from llama_agent.lenient_json import is_text, object_of
from llama_agent.model.formats.cursor import Cursor, Cut, NoCall, Offered, end_of_brackets

Json: TypeAlias = dict[str, Any]

_CALL = re.compile(r"\s*([A-Za-z_][\w.\-/]{0,127})\s*\(")
_BEGUN = re.compile(r"\[\s*(?P<name>[A-Za-z_][\w.\-/]{0,127})?\s*(?P<paren>\(?)")
_KEYWORD = re.compile(r"\(\s*(?:\)|[A-Za-z_]\w{0,63}\s*(?:=|\Z)|\Z)")
_STRING = re.compile(
    r'("""|\'\'\')((?:[^\\]|\\.)*?)\1|(["\'])((?:(?!\3)[^\\]|\\.)*+)\3|([^"\']+)|.', re.DOTALL
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_KNOWN_ESCAPES = frozenset("\n\\'\"abfnrtv01234567xuU")
_PLAIN = re.compile(r"(?:[\w\s.,:=()\[\]{}]|[-+](?=[\d.]))*")
_GLUED = re.compile(r"\b\d[\d_.]*+(?:[eE][-+]?\d+)?+[A-Za-z_]")
"""A number with a word stuck to it, of which Python warns."""
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_LONGEST = 200_000


def read_python_calls(cursor: Cursor) -> None:
    """
    Calls in a list.

    :param cursor: Stands before its bracket.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before the list does.
    """
    if not cursor.take("["):
        raise NoCall
    while True:
        read_python_call(cursor)
        cursor.skip_blanks()
        mark = cursor.peek()
        cursor.at += 1
        if mark == "]":
            return _end_list(cursor)
        cursor.skip_blanks()
        if mark != ",":
            raise NoCall
        if cursor.peek() == "]":
            cursor.at += 1
            return _end_list(cursor)


def _end_list(cursor: Cursor) -> None:
    """Behind the list's bracket."""
    if cursor.is_weak and cursor.begins("(", "[", ":"):
        raise NoCall  # a link of Markdown
    if cursor.is_weak and not cursor.is_all and cursor.at == len(cursor.text):
        raise Cut
    cursor.end = cursor.at


def read_python_call(cursor: Cursor, bare_name: Callable[[str], str] = str) -> None:
    """
    One call.

    :param cursor: Stands before its name.
    :param bare_name: Takes from the name what isn't the tool's.
    :raises NoCall: There is something else.
    :raises Cut: The text ends before the call does.
    """
    cursor.skip_blanks()
    begin = cursor.at
    head = cursor.match(_CALL)
    parenthesis = head.end() - 1
    if not _KEYWORD.match(cursor.text, parenthesis):
        raise NoCall
    name = cursor.named(bare_name(head[1]))
    end = end_of_brackets(cursor.text, parenthesis)
    if end is None:
        raise Cut
    arguments = keywords_in(cursor.text[parenthesis:end])
    if arguments is None:
        raise NoCall(end)
    cursor.at = end
    cursor.add(name, arguments, begin)


def read_bare_call(cursor: Cursor) -> None:
    """
    A call of a built-in tool that is the whole message: `brave_search.call(query="…")`.

    :param cursor: Stands before its name.
    :raises NoCall: There is something else, or more.
    :raises Cut: The text ends before the call does.
    """
    if not may_be_bare_call(cursor.text, cursor.at, cursor.offered):
        raise NoCall
    read_python_call(cursor, lambda name: name.removesuffix(".call"))
    if not cursor.is_at_end():
        raise NoCall


def may_be_bare_call(text: str, at: int, offered: Offered) -> bool:
    """
    Whether a text can be a call of a built-in tool.

    :param text: As far as it has come.
    :param at: Where it begins.
    :param offered: Tools on offer.
    :returns: False once it says something else.
    """
    beginnings = [f"{name}.call(" for name in offered.names]
    longest = max(map(len, beginnings), default=0)
    begun = text[at : at + longest]
    return any(begun.startswith(beginning) or beginning.startswith(begun) for beginning in beginnings)


def may_be_python_calls(text: str, at: int, offered: Offered) -> bool:
    """
    Whether a list that isn't complete yet can still turn out to be one of calls.

    :param text: Ends within the list.
    :param at: Place of its bracket.
    :param offered: Tools on offer.
    :returns: False once it says something else.
    """
    begun = _BEGUN.match(text, at)
    if begun is None:
        return False
    if not begun["paren"]:
        return begun.end() == len(text)
    return begun["name"] is not None and offered.name(begun["name"]) is not None


def keywords_in(text: str) -> Json | None:
    """
    The keyword arguments between a call's parentheses.

    :param text: Parentheses included.
    :returns: By name; None when there is anything but keywords with literals.
    """
    if len(text) > _LONGEST or (source := _clean(text)) is None:
        return None
    try:
        call = ast.parse(f"f{source}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        arguments = {_keyword(item.arg): _literal(item.value) for item in call.keywords}
        return arguments if len(arguments) == len(call.keywords) and is_text(arguments) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _clean(text: str) -> str | None:
    """The text with its strings as Python takes them; None where there is more than literals."""
    pieces: list[str] = []
    for piece in _STRING.finditer(text):
        long, plain, other = piece[2], piece[4], piece[5]
        if other is None and pieces and (pieces[-1][-1].isalnum() or pieces[-1][-1] == "_"):
            return None  # a string with a prefix means something else than its text
        if long is not None:
            pieces.append(piece[1] + _ESCAPE.sub(_known, long) + piece[1])
        elif plain is not None:
            inside = _ESCAPE.sub(_known, plain).replace("\n", "\\n").replace("\r", "\\r")
            pieces.append(piece[3] + inside + piece[3])
        elif other is not None and _PLAIN.fullmatch(other) and not _GLUED.search(other):
            pieces.append(other)
        else:
            return None
    return "".join(pieces)


def _known(match: re.Match[str]) -> str:
    """An escape that Python knows, or its backslash itself: it would warn of others."""
    return match[0] if match[1] in _KNOWN_ESCAPES else "\\" + match[0]


def _keyword(name: str | None) -> str:
    if name is None:
        raise ValueError("a double star")
    return name


def _literal(node: ast.expr) -> object:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return cast("object", value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return object_of([(_key(key), _literal(value)) for key, value in pairs])
        case _:
            raise ValueError("no literal")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("no text as a key")
