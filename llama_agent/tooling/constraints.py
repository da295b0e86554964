"""Constraints of `Annotated` and `Field` that can't be applied: pydantic says so only at each call."""

from __future__ import annotations

from typing import Any

import annotated_types
from pydantic.fields import FieldInfo

from llama_agent.errors import ConfigurationError
from llama_agent.json_schema import Json

_AMOUNTS = (
    annotated_types.Gt,
    annotated_types.Ge,
    annotated_types.Lt,
    annotated_types.Le,
    annotated_types.MultipleOf,
)
_LENGTHS = (annotated_types.MinLen, annotated_types.MaxLen)


def check_lengths(where: str, name: str, hint: Any) -> None:
    """
    Make sure that lengths are whole numbers, before pydantic sees them.

    :param where: The function, for the error's text.
    :param name: The parameter.
    :param hint: Its type hint.
    :raises ConfigurationError: One isn't.
    """
    for item in _constraints(hint):
        if isinstance(item, _LENGTHS) and not _is_length(item):
            raise ConfigurationError(f"{where}: {item!r} of parameter '{name}' must be a whole number")


def check_constraints(where: str, name: str, hint: Any, schema: Json) -> None:
    """
    Make sure that constraints suit the type.

    :param where: The function, for the error's text.
    :param name: The parameter.
    :param hint: Its type hint.
    :param schema: The type's JSON schema.
    :raises ConfigurationError: A length of a number, or an amount of a text or list.
    """
    kind = schema.get("type")
    unsuited: tuple[type, ...] = ()
    if kind in ("integer", "number", "boolean", "null"):
        unsuited += _LENGTHS
    if kind in ("array", "object", "boolean") or (kind == "string" and "format" not in schema):
        unsuited += _AMOUNTS
    for item in _constraints(hint):
        if isinstance(item, unsuited):
            raise ConfigurationError(
                f"{where}: {item!r} doesn't suit the type of parameter '{name}' ({kind})"
            )


def _constraints(hint: Any) -> list[Any]:
    """What is demanded of the whole value, and not of what is in it."""
    found: list[Any] = []
    for item in getattr(hint, "__metadata__", ()):
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    return found


def _is_length(item: annotated_types.MinLen | annotated_types.MaxLen) -> bool:
    return type(item.min_length if isinstance(item, annotated_types.MinLen) else item.max_length) is int
