"""Raw argument text of a tool call → arguments, or what to tell the model."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from pydantic import ValidationError

from llama_agent.lenient_json import NotJson, is_finite, read_json

if TYPE_CHECKING:
    import jsonschema
    from pydantic_core import ErrorDetails

Json: TypeAlias = dict[str, Any]

MALFORMED = "malformed_arguments"
"""
Marks a call that could not be read. In `ToolCall.arguments` it is the key of the raw text, so that no tool
can run with it by accident, wherever the call goes; in `ToolCall.extra`, of the error's text. The wire
replays such a call with `{}`: a history that isn't valid JSON makes servers fail for ever (ggml-
org/llama.cpp#25510).
"""

MISTAKE = "mistake"
"""In a tool message's `meta`: the call couldn't be run as it was written; it is for the model to mend it."""

WITHHELD = "withheld"
"""In a tool message's `meta`: why the call was kept from being run, a `WithheldBy`."""
WithheldBy: TypeAlias = Literal["limit", "turn", "repeat", "answer"]
"""
The run's limits; its tool can't be called in this turn; the same call has been made too often; it gives the
answer, and is no tool's.
"""
NOTE = "note"
"""In a user message's `meta`: the run tells the model something, and no user did."""

SUMMARY = "summary"
"""In a user message's `meta`: it stands for earlier steps, and nobody but the model wrote it."""

_SHOWN = 120
_LINES = 10
_LINE_CHARACTERS = 400

# What a text of each kind looks like, by the beginning of pydantic's error types.
_FORMS = (
    ("datetime", ", such as 2026-01-31T12:00:00Z"),
    ("date", ", such as 2026-01-31"),
    ("time_delta", ", such as PT1H30M"),
    ("time", ", such as 12:30:00"),
    ("bytes", ", in base64"),
)


def read_arguments(raw: str | Mapping[str, object] | None) -> tuple[dict[str, Any], str | None]:
    """
    Read the argument text of a call.

    :param raw: What the server sent: JSON text, an object, or nothing (which means no arguments).
    :returns: The arguments and None, or, when they can't be read, `{MALFORMED: text}` and the error to tell
        the model.
    """
    if raw is None:
        return {}, None
    if isinstance(raw, Mapping):
        if is_finite(dict(raw)):
            return dict(raw), None
        raw = json.dumps(dict(raw))
    text = raw.strip()
    if text in ("", "null"):
        return {}, None
    try:
        value = read_json(text)
    except NotJson as error:
        return {MALFORMED: raw}, f"The arguments are not valid JSON: {error}. Send one complete JSON object."
    if value is None:
        return {}, None
    if not isinstance(value, dict):
        return {MALFORMED: raw}, f"The arguments must be a JSON object, not {_kind(value)}: {shorten(text)}"
    return cast("dict[str, Any]", value), None


def problems_of(
    error: ValidationError, arguments: object, accepted: Iterable[str], passed_over: Collection[str] = ()
) -> list[str]:
    """
    Say what is wrong with arguments, one short line per problem.

    :param error: pydantic's finding.
    :param arguments: What was checked.
    :param accepted: Names that the tool accepts.
    :param passed_over: Names of arguments that are right all the same.
    :returns: At most 10 lines that name the place, what is expected and what was received.
    """
    names = list(accepted)
    # The branches of a union report one problem each: they are told together, as its place's.
    told: dict[str, list[str]] = {}
    received: dict[str, object] = {}
    right = {(name,) for name in passed_over}
    problems = error.errors(include_url=False, include_context=False)
    meant = [problem for problem in problems if problem["loc"][:1] not in right]
    for problem, path in _of_likely_branches(meant, arguments):
        place = place_text(path)
        match problem["type"]:
            case "missing" | "missing_argument":
                text = "required, but missing"
            case "extra_forbidden":
                text = _extra_text(path, names)
            case kind:
                text = problem["msg"][:1].lower() + problem["msg"][1:] + _form_of(kind)
                # Not the problem's own input: a validator of the user's may have changed it before.
                received[place] = _value_at(arguments, path)
        if text not in told.setdefault(place, []):
            told[place].append(text)
    lines = [
        f"{place}: {', or '.join(texts)}" + _received(received.get(place, ...))
        for place, texts in told.items()
    ]
    return _bounded(lines)


def schema_problems_of(errors: Iterable[jsonschema.ValidationError], accepted: Iterable[str]) -> list[str]:
    """
    Say what is wrong with arguments, for a tool that has nothing but a JSON schema.

    :param errors: jsonschema's findings.
    :param accepted: Names that the tool accepts.
    :returns: Lines as `problems_of` gives them.
    """
    names = list(accepted)
    lines: list[str] = []
    listed: set[tuple[str, str]] = set()
    for error in errors:
        path = list(error.absolute_path)
        if error.validator in ("required", "additionalProperties", "unevaluatedProperties"):
            # There is an error for each name, and each is told with all the others.
            key = (str(error.validator), str(list(error.absolute_schema_path)) + str(path))
            if key in listed:
                continue
            listed.add(key)
        value = cast("object", error.instance)
        wanted = cast("object", error.validator_value)
        match str(error.validator):
            case "required":
                missing = [name for name in cast("list[str]", wanted) if name not in cast("Json", value)]
                lines += [f"{place_text([*path, name])}: required, but missing" for name in missing]
            case "additionalProperties" | "unevaluatedProperties" if isinstance(value, dict):
                known = cast("Json", cast("Json", error.schema).get("properties", {}))
                extras = [name for name in cast("Json", value) if name not in known]
                lines += [
                    f"{place_text([*path, name])}: {_extra_text([*path, name], names)}" for name in extras
                ]
            case "type":
                kinds = cast("list[str]", wanted if isinstance(wanted, list) else [wanted])
                lines.append(f"{place_text(path)}: must be of type {' or '.join(kinds)}{_received(value)}")
            case "enum" | "const":
                choices = cast("list[object]", wanted if isinstance(wanted, list) else [wanted])
                shown = shorten(", ".join(map(repr, choices)))
                lines.append(f"{place_text(path)}: must be one of {shown}{_received(value)}")
            case "None":  # the schema `false`
                lines.append(f"{place_text(path)}: no value is accepted here")
            case keyword:
                expected = f"must fit {keyword} {shorten(json.dumps(wanted, default=str))}"
                lines.append(f"{place_text(path)}: {expected}{_received(value)}")
    return _bounded(list(dict.fromkeys(lines)))


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


def _kind(value: object) -> str:
    names: dict[type, str] = {list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def _of_likely_branches(
    problems: Iterable[ErrorDetails], arguments: object
) -> list[tuple[ErrorDetails, list[int | str]]]:
    """
    Problems with their paths, without those of union branches that were not meant: where another branch takes
    the value of a field that has but one (`kind: "dog"`).
    """
    found: list[tuple[ErrorDetails, list[int | str]]] = []
    branches: list[tuple[str, str] | None] = []
    unmeant: set[tuple[str, str]] = set()
    for problem in problems:
        location = problem["loc"]
        is_key = problem["type"] in ("missing", "missing_argument", "extra_forbidden")
        path = _path_in(arguments, location, ends_in_key=is_key)
        steps = next(
            (i for i, step in enumerate(location) if i >= len(path) or path[i] != step), len(location)
        )
        branch = (place_text(location[:steps]), str(location[steps])) if steps < len(location) else None
        if branch is not None and problem["type"] == "literal_error":
            unmeant.add(branch)
        found.append((problem, path))
        branches.append(branch)
    meant = {branch[0] for branch in branches if branch is not None and branch not in unmeant}
    return [
        pair
        for pair, branch in zip(found, branches, strict=True)
        if branch is None or branch not in unmeant or branch[0] not in meant
    ]


def _path_in(value: object, location: Sequence[int | str], *, ends_in_key: bool) -> list[int | str]:
    """The steps of a location that lead into the value: pydantic also names union branches and validators."""
    path: list[int | str] = []
    for place, step in enumerate(location):
        if isinstance(value, dict) and step in value:
            value = cast("Json", value)[str(step)]
        elif isinstance(value, list) and isinstance(step, int) and step < len(cast("list[object]", value)):
            value = cast("list[object]", value)[step]
        elif not (ends_in_key and place == len(location) - 1):
            continue
        path.append(step)
    return path


def _value_at(value: object, path: Sequence[int | str]) -> object:
    for step in path:
        value = cast("Any", value)[step]
    return value


def _form_of(kind: str) -> str:
    """What a value of the wanted kind looks like, where a model may not know."""
    return next((form for start, form in _FORMS if kind.startswith(start)), "")


def place_text(path: Sequence[int | str]) -> str:
    """
    A place in arguments, for a message to the model.

    :param path: Keys and indexes that lead there.
    :returns: They, with dots between.
    """
    # The model writes keys too: one with a line break must not look like a line of ours.
    steps = [text if (text := str(step)).isprintable() else repr(text) for step in path]
    return shorten(".".join(steps)) or "arguments"


def _extra_text(path: Sequence[int | str], names: list[str]) -> str:
    if len(path) > 1:
        return "not a key of this object"
    near = nearest(str(path[-1]), names) if path else None
    hint = f"; did you mean {near}" if near else ""
    return f"not a parameter{hint}. Accepted: {', '.join(names) or 'none'}"


def _received(value: object) -> str:
    return "" if value is ... else f", received {shorten(repr(value))}"


def _bounded(lines: list[str]) -> list[str]:
    shown = [shorten(line, _LINE_CHARACTERS) for line in lines[:_LINES]]
    return shown if len(lines) <= _LINES else [*shown, f"… and {len(lines) - _LINES} more"]
