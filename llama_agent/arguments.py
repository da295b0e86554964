"""Raw argument text of a tool call → arguments, or what to tell the model."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import jiter
from pydantic import ValidationError

MALFORMED = "malformed_arguments"
"""
Marks a call that could not be read. In `ToolCall.arguments` it is the key of the raw text, so that no tool
can run with it by accident, wherever the call goes; in `ToolCall.extra`, of the error's text. The wire
replays such a call with `{}`: a history that isn't valid JSON makes servers fail for ever (ggml-
org/llama.cpp#25510).
"""

_SHOWN = 120


def read_arguments(raw: str | Mapping[str, object] | None) -> tuple[dict[str, Any], str | None]:
    """
    Read the argument text of a call.

    :param raw: What the server sent: JSON text, an object, or nothing (which means no arguments).
    :returns: The arguments and None, or, when they can't be read, `{MALFORMED: text}` and the error to tell
        the model.
    """
    if raw is None or isinstance(raw, Mapping):
        return dict(raw or {}), None
    text = raw.strip()
    if text in ("", "null"):
        return {}, None
    try:
        value = jiter.from_json(text.encode(), allow_inf_nan=False)
    except ValueError as error:
        return {MALFORMED: raw}, f"The arguments are not valid JSON ({error}). Send one complete JSON object."
    if not isinstance(value, dict):
        return {MALFORMED: raw}, f"The arguments must be a JSON object, not {_kind(value)}: {shorten(text)}"
    if not _is_finite(cast("object", value)):
        return {MALFORMED: raw}, f"The arguments hold a number beyond all bounds: {shorten(text)}"
    return cast("dict[str, Any]", value), None


def problems_of(error: ValidationError, accepted: Iterable[str]) -> list[str]:
    """
    Say what is wrong with arguments, one short line per problem.

    :param error: pydantic's finding.
    :param accepted: Names that the tool accepts.
    :returns: Lines that name the place, what is expected and what was received.
    """
    names = list(accepted)
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False):
        place = ".".join(str(part) for part in problem["loc"]) or "arguments"
        match problem["type"]:
            case "missing" | "missing_argument":
                lines.append(f"{place}: required, but missing")
            case "extra_forbidden" if len(problem["loc"]) > 1:
                lines.append(f"{place}: not a key of this object")
            case "extra_forbidden":
                near = f"; did you mean {suggestion}" if (suggestion := nearest(place, names)) else ""
                lines.append(f"{place}: not a parameter{near}. Accepted: {', '.join(names) or 'none'}")
            case _:
                message = problem["msg"][:1].lower() + problem["msg"][1:]
                lines.append(f"{place}: {message}, received {shorten(repr(problem['input']))}")
    return lines


def nearest(name: str, names: Iterable[str]) -> str | None:
    """
    The offered name that is most like a wrong one.

    :param name: What was written.
    :param names: What could have been meant.
    :returns: The best match, or None when nothing is near.
    """
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return matches[0] if matches else None


def shorten(text: str, limit: int = _SHOWN) -> str:
    """
    Cut a text for a message to the model.

    :param text: Any text.
    :param limit: Most characters to keep.
    :returns: The text, its end replaced by `…` when it was longer.
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_is_finite(item) for item in cast("dict[str, object]", value).values())
    return not isinstance(value, list) or all(_is_finite(item) for item in cast("list[object]", value))


def _kind(value: object) -> str:
    names: dict[type, str] = {list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
