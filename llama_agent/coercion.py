"""
Arguments as models write them → arguments as the schema wants them, where only one reading is possible.

A value that fits its schema is never touched. What could mean two things is left as it is: the check refuses
it, and the model is told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol, cast

import jiter
from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from llama_agent.json_schema import Json, branches_of, is_nullable, resolved

_INTEGER = re.compile(r"[+-]?\d{1,4000}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_EXACT_FLOAT = 2.0**53
_WHOLE_FRACTION = re.compile(r"([+-]?\d{1,4000})\.0*")
_BOOLEANS = {"true": True, "false": False}
_DEPTH = 50
_WRAPPERS = ("parameters", "arguments")
_KINDS: dict[type, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}


def coerce(arguments: Mapping[str, Any], schema: Json) -> Json:
    """
    Bring arguments into the types of their schema.

    Numbers and booleans that were written as text, arrays and objects as JSON text, whole numbers with a
    fraction of zero, a whole number where a text is wanted; null for something optional, and null or empty
    extras, are taken for left out.

    :param arguments: As the model sent them, by name.
    :param schema: Of the arguments, an object.
    :returns: New arguments; the values that have no sure reading are unchanged.
    """
    coercion = _Coercion(schema)
    for wrapper in _WRAPPERS:
        # All arguments under one key that the tool doesn't know (google/adk-python#1656).
        inner = arguments.get(wrapper)
        if len(arguments) == 1 and isinstance(inner, dict) and wrapper not in coercion.properties:
            unwrapped = cast("Json", coercion.object(cast("Json", inner), schema, 0))
            if coercion.fits(unwrapped, schema):
                return unwrapped
    return cast("Json", coercion.object(dict(arguments), schema, 0))


class Validator(Protocol):
    """What is used of jsonschema's validators."""

    def is_valid(self, instance: object) -> bool:
        """Whether a value fits."""
        ...

    def iter_errors(self, instance: object) -> Iterator[ValidationError]:
        """What doesn't fit."""
        ...

    def evolve(self, *, schema: Json) -> Validator:
        """The same for a part of the schema."""
        ...


def validator_of(schema: Json) -> Validator:
    """
    The check of a schema. It reaches for nothing beyond the schema itself.

    :param schema: A JSON schema, draft 2020-12.
    :returns: The validator.
    """
    # Without a registry, jsonschema fetches references to other hosts, and a schema may come from anywhere.
    registry: Registry[Any] = Registry()
    return cast("Validator", Draft202012Validator(schema, registry=registry))


def fits(value: object, schema: Json, root: Json) -> bool:
    """
    Whether a value has the shape of a schema.

    :param value: JSON.
    :param schema: Any.
    :param root: The schema whose `$defs` it refers to.
    :returns: False also where the schema's references lead nowhere.
    """
    try:
        return validator_of(root).evolve(schema=schema).is_valid(value)
    except (Unresolvable, RecursionError):
        return False


class _Coercion:
    """Coerces values within one schema."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._validator = validator_of(root)
        self.properties = cast("Json", resolved(root, root).get("properties", {}))

    def value(self, value: object, schema: Json, depth: int) -> object:
        """The value's one reading under a schema; itself where there is none, or more than one."""
        if depth > _DEPTH or self.fits(value, schema):
            return value
        schema = resolved(schema, self._root)
        for part in cast("list[Json]", schema.get("allOf", [])):
            value = self.value(value, part, depth + 1)
        if branches := branches_of(schema):
            return self._one_of(value, branches, depth)
        if "enum" in schema or "const" in schema:
            return _choice(value, cast("list[object]", schema.get("enum") or [schema.get("const")]))
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return self._one_of(value, [{**schema, "type": k} for k in cast("list[str]", kinds)], depth)
        return self._of_kind(value, str(kinds), schema, depth)

    def object(self, value: Json, schema: Json, depth: int) -> object:
        """An object, each property coerced."""
        schema = resolved(schema, self._root)
        for part in cast("list[Json]", schema.get("allOf", [])):
            value = cast("Json", self.object(value, resolved(part, self._root), depth + 1))
        properties = cast("Json", schema.get("properties", {}))
        required = cast("list[str]", schema.get("required", []))
        says_open = schema.keys() & {"additionalProperties", "patternProperties", "allOf"}
        is_open = "properties" not in schema or bool(says_open)
        if schema.get("additionalProperties") is False:
            is_open = False
        coerced: Json = {}
        for name, item in value.items():
            if name in properties:
                wanted = cast("Json", properties[name])
                if item is None and name not in required and not is_nullable(wanted, self._root):
                    continue
                coerced[name] = self.value(item, wanted, depth + 1)
            elif is_open or item not in (None, "", [], {}):
                others = _schema_by_pattern(name, schema) or schema.get("additionalProperties")
                coerced[name] = (
                    self.value(item, cast("Json", others), depth + 1) if isinstance(others, dict) else item
                )
        return coerced

    def _of_kind(self, value: object, kind: str, schema: Json, depth: int) -> object:
        match kind, value:
            case "array" | "object", str():
                try:
                    parsed = cast("object", jiter.from_json(value.strip().encode(), allow_inf_nan=False))
                except ValueError:
                    return value
                if isinstance(parsed, list if kind == "array" else dict):
                    return self.value(cast("object", parsed), schema, depth + 1)
                return value
            case "array", list():
                items = cast("list[object]", value)
                return [
                    self.value(item, _item_schema(schema, place), depth + 1)
                    for place, item in enumerate(items)
                ]
            case "object", dict():
                return self.object(cast("Json", value), schema, depth)
            case "string", _ if schema.keys() & {"format", "contentEncoding"}:
                return value  # a number is no way to write a date
            case _:
                return _scalar(value, kind)

    def _one_of(self, value: object, branches: list[Json], depth: int) -> object:
        readings: list[object] = []
        for branch in branches:
            reading = self.value(value, branch, depth + 1)
            if self.fits(reading, branch) and not any(_same(reading, other) for other in readings):
                readings.append(reading)
        return readings[0] if len(readings) == 1 else value

    def fits(self, value: object, schema: Json) -> bool:
        """Whether a value has a schema's shape; True where its references lead nowhere."""
        try:
            return self._validator.evolve(schema=schema).is_valid(value)
        except (Unresolvable, RecursionError):
            return True


def _item_schema(schema: Json, place: int) -> Json:
    first = cast("list[Json]", schema.get("prefixItems", []))
    if place < len(first):
        return first[place]
    items = schema.get("items")
    return cast("Json", items) if isinstance(items, dict) else {}


def _schema_by_pattern(name: str, schema: Json) -> Json | None:
    for pattern, wanted in cast("Json", schema.get("patternProperties", {})).items():
        with suppress(re.error):
            if re.search(pattern, name) and isinstance(wanted, dict):
                return cast("Json", wanted)
    return None


def _scalar(value: object, kind: str) -> object:
    text = value.strip() if isinstance(value, str) else None
    match kind:
        case "integer" if text is not None and _INTEGER.fullmatch(text):
            return int(text)
        case "integer" if text is not None and (whole := _WHOLE_FRACTION.fullmatch(text)):
            return int(whole[1])
        case "integer" if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_FLOAT:
            return int(value)
        case "number" if text is not None and _NUMBER.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                return value
            return int(text) if _INTEGER.fullmatch(text) else number
        case "boolean" if text is not None:
            return _BOOLEANS.get(text.lower(), value)
        case "boolean" if type(value) is int and value in (0, 1):
            return bool(value)
        case "string" if type(value) is int:
            return str(value)
        case _:
            return value


def _choice(value: object, choices: list[object]) -> object:
    """The choice that the value is but for quotes: `"1"` for 1, 1 for `"1"`, `"true"` for true."""
    same = [
        choice
        for choice in choices
        if (isinstance(value, str) or isinstance(choice, str))
        and _same(_scalar(value, _KINDS.get(type(choice), "")), choice)
    ]
    return same[0] if len(same) == 1 else value


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b
