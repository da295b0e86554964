"""
JSON as models write it: read strictly first, else with those defects mended that allow but one reading.

Mended are Python's quotes and constants, trailing commas, raw line ends in strings, escaped ones between
tokens, bad escapes, objects encoded twice or with doubled braces, and what is stuck to the edges (a code
fence, a byte order mark, end tokens). All else is refused: a text that is cut is never completed, and of two
objects none is chosen. It takes linear time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import NoReturn, cast

import jiter

_FRONT = re.compile(r"(?:\ufeff|\s|```[a-zA-Z]{0,10}\s|<\|[a-z_]{1,20}\|>)*+")
_BACK = re.compile(r"(?:```|<\|[a-z_]{1,20}\|>|</[a-z_]{1,20}>)\Z")
_LONGEST_EDGE = 30
_TOKENS = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'  # a text, or one that is cut, to the end
    r"|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)"
    r"|\\[nrt]"  # white space that was escaped with the rest
    r"|[\]}{\[,:]"
    r"|[^\s\"'\\\]}{\[,:]+"
    r"|\s+"
    r"|.",
    re.DOTALL,
)
_IN_STRING = re.compile(r'\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)|"', re.DOTALL)
_JSON_ESCAPES = frozenset('"\\/bfnrt')
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_MOST_ENCODINGS = 4


class NotJson(ValueError):
    """A text that can't be read as JSON in one way only; the error's text says what is wrong with it."""


def read_json(text: str) -> object:
    """
    Read JSON as a model wrote it.

    :param text: The text.
    :returns: The value. Text that holds an object is read as that object, up to four times.
    :raises NotJson: It can't be read, or not in one way only.
    """
    try:
        value = _value_of(text.strip())
        for _ in range(_MOST_ENCODINGS):
            if not (isinstance(value, str) and value.lstrip()[:1] in ("{", '"')):
                break
            value = _value_of(value.strip())
        finite = is_finite(value)
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    if not finite:
        raise NotJson("a number in it is beyond all bounds")
    return value


def is_finite(value: object) -> bool:
    """
    Whether JSON can hold all numbers of a value.

    :param value: Parsed JSON.
    :returns: False when there is a NaN or an infinity.
    """
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(is_finite(item) for item in cast("dict[str, object]", value).values())
    return not isinstance(value, list) or all(is_finite(item) for item in cast("list[object]", value))


def is_same(one: object, other: object) -> bool:
    """
    Whether two values are the same JSON: `true` isn't 1, and 1 isn't 1.0.

    :param one: JSON.
    :param other: JSON.
    :returns: True then; the order of keys doesn't matter.
    """
    return json.dumps(one, sort_keys=True, default=repr) == json.dumps(other, sort_keys=True, default=repr)


def is_text(value: object) -> bool:
    """
    Whether all texts of a value can be written: half of a surrogate pair alone can't.

    :param value: Parsed JSON.
    :returns: True when they can.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """
    An object of its keys and values: for parsers of JSON.

    :param pairs: As they stand there.
    :returns: The object.
    :raises NotJson: One key has two values: either could be meant.
    """
    made: dict[str, object] = {}
    for key, value in pairs:
        if key in made and not is_same(made[key], value):
            raise NotJson(f"the key {key[:60]!r} is there twice, with different values")
        made[key] = value
    return made


def _value_of(text: str) -> object:
    try:
        return cast("object", jiter.from_json(text.encode(), allow_inf_nan=False, catch_duplicate_keys=True))
    except ValueError:
        return _mended(_without_edges(text))


def _without_edges(text: str) -> str:
    begin, end = cast("re.Match[str]", _FRONT.match(text)).end(), len(text)
    while end > begin:
        if text[end - 1].isspace():
            end -= 1
        elif match := _BACK.search(text, max(begin, end - _LONGEST_EDGE), end):
            end = match.start()
        else:
            break
    return text[begin:end]


def _mended(text: str) -> object:
    tokens = _TOKENS.findall(text)
    try:
        value = json.loads(
            "".join(_as_json(tokens)),
            strict=False,
            parse_constant=_refuse_constant,
            object_pairs_hook=object_of,
        )
    except json.JSONDecodeError as error:
        raise NotJson(_what_is_wrong(tokens, error)) from None
    except NotJson:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise NotJson(str(error)) from None
    if not is_text(value):
        raise NotJson("a text in it holds half of a surrogate pair")
    return value


def _as_json(tokens: list[str]) -> Iterator[str]:
    comma = before = ""
    for token in _single_braces([token for token in tokens if not _is_blank(token)]):
        if comma and token not in ("}", "]"):
            yield comma
        comma = ""
        if token == "," and before not in ("{", "["):
            comma = token
        elif token[0] in "\"'" and not _is_cut(token):
            escape = _escape if token[0] == '"' else _python_escape
            yield f'"{_IN_STRING.sub(escape, token[1:-1])}"'
        else:
            yield _CONSTANTS.get(token, token) + " "
        before = token
    yield comma


def _single_braces(tokens: list[str]) -> Iterator[str]:
    """`{{ }}` as `{ }`: some models copy them from a template's source. No key is an object, so it's sure."""
    doubled: list[bool] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        if token == "{":
            doubled.append(following == "{")
            place += doubled[-1]
        elif token == "}" and doubled and doubled.pop():
            if following != "}":
                raise NotJson("it begins with two braces and ends with one")
            place += 1
        yield token
        place += 1


def _is_blank(token: str) -> bool:
    return token.isspace() or (token[0] == "\\" and len(token) == 2)


def _is_cut(token: str) -> bool:
    return len(token) < 2 or token[-1] != token[0] or _ends_in_escape(token)


def _ends_in_escape(token: str) -> bool:
    """Whether the last quote is escaped."""
    inside = token[:-1]
    return (len(inside) - len(inside.rstrip("\\"))) % 2 == 1


def _escape(match: re.Match[str]) -> str:
    """An escape as one of JSON's; a backslash before anything else is a backslash."""
    what = match[1]
    if what is None:
        return '\\"'
    if (what[0] == "u" and len(what) == 5) or what in _JSON_ESCAPES:
        return match[0]
    return "'" if what == "'" else f"\\\\{what}"


def _python_escape(match: re.Match[str]) -> str:
    """An escape in Python's single quotes."""
    what = match[1]
    return f"\\u00{what[1:]}" if what and what[0] == "x" and len(what) == 3 else _escape(match)


def _what_is_wrong(tokens: list[str], error: json.JSONDecodeError) -> str:
    opened = sum(token in "{[" for token in tokens if len(token) == 1)
    closed = sum(token in "}]" for token in tokens if len(token) == 1)
    cut = [place for place, token in enumerate(tokens) if token[0] in "\"'" and _is_cut(token)]
    if cut and (opened > closed or cut[0] == 0):
        return "it is cut off within a text"
    if opened > closed:
        return "it is cut off, or a bracket isn't closed"
    if error.msg == "Extra data":
        return "there is something behind its end, such as a second object"
    return f"{error.msg.lower().removesuffix(' at')} at character {error.pos}"


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is no JSON number")
