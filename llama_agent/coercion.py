"""
Arguments as models write them → arguments as the schema wants them, where only one reading is possible.

A value that has the shape of its schema is never touched. What could mean two things is left as it is: the
check refuses it, and the model is told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, cast

import jiter
from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry

from llama_agent.json_schema import Json, branches_of, is_nullable, resolved

_INTEGER = re.compile(r"[+-]?\d{1,4000}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_WHOLE_FRACTION = re.compile(r"([+-]?\d{1,4000})\.0*")
_EXACT_FLOAT = 2.0**53
_BOOLEANS = {"true": True, "false": False}
_KINDS: dict[type, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}
_TIMES = frozenset({"date", "date-time", "time", "duration"})
_WRAPPERS = ("parameters", "arguments")
_EMPTY: tuple[object, ...] = (None, "", [], {})
_DEPTH = 50

_Finding: TypeAlias = tuple[tuple[int | str, ...], str]


def coerce(arguments: Mapping[str, Any], schema: Json) -> Json:
    """
    Bring arguments into the types of their schema.

    Numbers and booleans that were written as text, arrays and objects as JSON text, whole numbers with a
    fraction of zero, a whole number where a text is wanted; null for something optional, and null or empty
    extras, are taken for left out; so is a wrapping `parameters` around all arguments.

    :param arguments: As the model sent them, by name.
    :param schema: Of the arguments, an object.
    :returns: New arguments; the values that have no sure reading are unchanged.
    """
    coercion = _Coercion(schema)
    properties = cast("Json", resolved(schema, schema).get("properties", {}))
    for wrapper in _WRAPPERS:
        # All arguments under one key that the tool doesn't know (google/adk-python#1656).
        inner = arguments.get(wrapper)
        if len(arguments) == 1 and isinstance(inner, dict) and wrapper not in properties:
            unwrapped = coercion.object(cast("Json", inner), schema, 0)
            if coercion.shape.fits(unwrapped, schema):
                return unwrapped
    return coercion.object(dict(arguments), schema, 0)


def misread(arguments: Mapping[str, Any], schema: Json) -> list[tuple[list[int | str], str]]:
    """
    What pydantic would take without a word, and not as it was meant: keys of nested objects that no property
    has (a lost `dry_run` is dangerous), and bare numbers for dates, which it counts from 1970.

    :param arguments: By name.
    :param schema: Of the arguments, an object.
    :returns: Paths, and what is wrong there.
    """
    return [
        (list(path), text) for path, text in _Misread(schema).found(dict(arguments), schema, outermost=True)
    ]


def nesting_of(value: object) -> int:
    """
    How deep a value is nested.

    :param value: JSON.
    :returns: 0 for a number or text; one more for each array or object around it.
    """
    inner: list[object] = []
    if isinstance(value, Mapping):
        inner = list(cast("Mapping[str, object]", value).values())
    elif isinstance(value, list):
        inner = cast("list[object]", value)
    else:
        return 0
    return 1 + max(map(nesting_of, inner), default=0)


def can_be_misread(schema: Json) -> bool:
    """
    Whether `misread` can find anything.

    :param schema: Of the arguments, an object.
    :returns: False for one of numbers, plain texts and lists of them.
    """
    inner = [
        *cast("Json", schema.get("properties", {})).values(),
        *cast("Json", schema.get("$defs", {})).values(),
    ]
    return any(_has_objects_or_times(part) for part in inner)


def fits(value: object, schema: Json, root: Json) -> bool:
    """
    Whether a value has the shape of a schema: the types, keys and choices; not patterns and bounds.

    :param value: JSON.
    :param schema: Any.
    :param root: The schema whose `$defs` it refers to.
    :returns: True also where the schema's references lead nowhere.
    """
    return _Shape(root).fits(value, schema)


class Validator(Protocol):
    """What is used of jsonschema's validators."""

    def is_valid(self, instance: object) -> bool:
        """Whether a value fits."""
        ...

    def iter_errors(self, instance: object) -> Iterator[ValidationError]:
        """What doesn't fit."""
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


class _Shape:
    """
    Whether values have the shape of schemas, each pair looked at once: in a recursive union, a model's nested
    value would else be read again and again at each level.
    """

    def __init__(self, root: Json) -> None:
        self.root = root
        self._known: dict[tuple[int, int], bool] = {}
        self._alive: list[object] = []  # so that no identity is used twice

    def fits(self, value: object, schema: object) -> bool:
        """Whether a value has a schema's shape."""
        if not isinstance(schema, dict):
            return schema is not False
        node = cast("Json", schema)
        key = (id(value), id(node))
        if key not in self._known:
            self._alive += [value, node]
            self._known[key] = True  # within itself
            self._known[key] = self._looked_at(value, resolved(node, self.root))
        return self._known[key]

    def _looked_at(self, value: object, schema: Json) -> bool:
        branches = branches_of(schema)
        return (
            all(self.fits(value, part) for part in cast("list[object]", schema.get("allOf", [])))
            and (not branches or any(self.fits(value, branch) for branch in branches))
            and ("enum" not in schema or any(_equal(value, c) for c in cast("list[object]", schema["enum"])))
            and ("const" not in schema or _equal(value, schema["const"]))
            and _has_kind(value, schema)
            and self._parts_fit(value, schema)
        )

    def _parts_fit(self, value: object, schema: Json) -> bool:
        if isinstance(value, dict):
            fields = cast("Json", value)
            properties = cast("Json", schema.get("properties", {}))
            others = schema.get("additionalProperties", True)
            return all(name in fields for name in cast("list[str]", schema.get("required", []))) and all(
                self.fits(
                    item, properties[name] if name in properties else _schema_by_pattern(name, schema, others)
                )
                for name, item in fields.items()
            )
        if isinstance(value, list):
            items = cast("list[object]", value)
            return all(self.fits(item, item_schema(schema, place)) for place, item in enumerate(items))
        return True


class _Coercion:
    """Coerces values within one schema."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self.shape = _Shape(root)
        self._readings: dict[tuple[int, int], object] = {}
        self._alive: list[object] = []

    def value(self, value: object, schema: object, depth: int) -> object:
        """The value's one reading under a schema; itself where there is none, or more than one."""
        if not isinstance(schema, dict) or depth > _DEPTH:
            return value
        node = cast("Json", schema)
        key = (id(value), id(node))
        if key not in self._readings:
            self._alive += [value, node]
            fits = self.shape.fits(value, node)
            self._readings[key] = value if fits else self._read(value, resolved(node, self._root), depth)
        return self._readings[key]

    def object(self, value: Json, schema: Json, depth: int) -> Json:
        """An object, each property coerced."""
        schema = resolved(schema, self._root)
        for part in cast("list[object]", schema.get("allOf", [])):
            if isinstance(part, dict):
                value = self.object(value, cast("Json", part), depth + 1)
        properties = cast("Json", schema.get("properties", {}))
        required = cast("list[str]", schema.get("required", []))
        coerced: Json = {}
        for name, item in value.items():
            if name in properties:
                wanted = cast("object", properties[name])
                if item is None and name not in required and not self._takes_null(wanted):
                    continue
                coerced[name] = self.value(item, wanted, depth + 1)
            elif is_open(schema) or item not in _EMPTY:
                others = cast("object", schema.get("additionalProperties"))
                coerced[name] = self.value(item, _schema_by_pattern(name, schema, others), depth + 1)
        return coerced

    def _takes_null(self, schema: object) -> bool:
        return not isinstance(schema, dict) or is_nullable(cast("Json", schema), self._root)

    def _read(self, value: object, schema: Json, depth: int) -> object:
        for part in cast("list[object]", schema.get("allOf", [])):
            value = self.value(value, part, depth + 1)
        if branches := branches_of(schema):
            return self._one_of(value, branches, depth)
        if "enum" in schema or "const" in schema:
            return _choice(value, cast("list[object]", schema.get("enum") or [schema.get("const")]))
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return self._one_of(value, [{**schema, "type": k} for k in cast("list[str]", kinds)], depth)
        return self._of_kind(value, str(kinds), schema, depth)

    def _of_kind(self, value: object, kind: str, schema: Json, depth: int) -> object:
        match kind, value:
            case "array" | "object", str():
                try:
                    parsed = cast("object", jiter.from_json(value.strip().encode(), allow_inf_nan=False))
                except ValueError:
                    return value
                self._alive.append(parsed)
                if _is_kind(parsed, kind):
                    return self.value(parsed, schema, depth + 1)
                return value
            case "array", list():
                items = cast("list[object]", value)
                return [
                    self.value(item, item_schema(schema, place), depth + 1)
                    for place, item in enumerate(items)
                ]
            case "object", dict():
                return self.object(cast("Json", value), schema, depth)
            case "string", _ if schema.keys() & {"format", "contentEncoding"}:
                return value  # a number is no way to write a date
            case _:
                return _scalar(value, kind)

    def _one_of(self, value: object, branches: Sequence[Json], depth: int) -> object:
        readings: list[object] = []
        for branch in branches:
            reading = self.value(value, branch, depth + 1)
            if self.shape.fits(reading, branch) and not any(_same(reading, other) for other in readings):
                readings.append(reading)
        return readings[0] if len(readings) == 1 else value


def is_open(schema: Json) -> bool:
    """
    Whether an object may have keys beside its properties.

    :param schema: Of the object.
    :returns: False where it names its properties and says nothing of others.
    """
    if schema.get("additionalProperties") is False:
        return False
    says_more = schema.keys() & {
        "additionalProperties",
        "patternProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "$ref",
    }
    return "properties" not in schema or bool(says_more)


def item_schema(schema: Json, place: int) -> object:
    """
    The schema of an array's item.

    :param schema: Of the array.
    :param place: The item's, from 0.
    :returns: Its schema; True where nothing is said of it.
    """
    first = cast("list[object]", schema.get("prefixItems", []))
    return first[place] if place < len(first) else schema.get("items", True)


class _Misread:
    """Finds what `misread` tells; each value and schema are looked at once, as in `_Shape`."""

    def __init__(self, root: Json) -> None:
        self._shape = _Shape(root)
        self._known: dict[tuple[int, int], list[_Finding]] = {}
        self._alive: list[object] = []

    def found(self, value: object, schema: object, *, outermost: bool = False) -> list[_Finding]:
        """Findings, their paths from the value on."""
        if not isinstance(schema, dict):
            return []
        node = cast("Json", schema)
        key = (id(value), id(node))
        if key not in self._known:
            self._alive += [value, node]
            self._known[key] = []
            self._known[key] = list(self._look(value, resolved(node, self._shape.root), outermost))
        return self._known[key]

    def _look(self, value: object, schema: Json, outermost: bool) -> Iterator[_Finding]:
        if branches := branches_of(schema):
            # Of the branches that the value may be, one that takes all of it is what was meant.
            meant = [branch for branch in branches if self._shape.fits(value, branch)]
            like = [branch for branch in branches if _is_like(value, resolved(branch, self._shape.root))]
            yield from min(
                (self.found(value, branch) for branch in meant or like), key=len, default=list[_Finding]()
            )
        elif isinstance(value, dict):
            properties = cast("Json", schema.get("properties", {}))
            for name, item in cast("Json", value).items():
                if name not in properties and not outermost and not is_open(schema) and item not in _EMPTY:
                    yield (name,), f"not a key of this object. Accepted: {', '.join(properties)}"
                inner = properties[name] if name in properties else schema.get("additionalProperties")
                yield from (((name, *path), text) for path, text in self.found(item, inner))
        elif isinstance(value, list):
            for place, item in enumerate(cast("list[object]", value)):
                found = self.found(item, item_schema(schema, place))
                yield from (((place, *path), text) for path, text in found)
        elif _is_bare_number(value, schema):
            kind = schema["format"]
            yield (), f"a bare number is no {kind}: write it like 2026-01-31 or 2026-01-31T12:00:00Z"


def _has_objects_or_times(schema: object) -> bool:
    if isinstance(schema, dict):
        node = cast("Json", schema)
        own = "properties" in node or node.get("format") in _TIMES
        return own or any(_has_objects_or_times(value) for value in node.values())
    return isinstance(schema, list) and any(
        _has_objects_or_times(item) for item in cast("list[object]", schema)
    )


def _is_bare_number(value: object, schema: Json) -> bool:
    return (
        schema.get("format") in _TIMES and isinstance(value, str) and bool(_NUMBER.fullmatch(value.strip()))
    )


def _has_kind(value: object, schema: Json) -> bool:
    kinds = schema.get("type")
    if kinds is None:
        return True
    named = cast("list[str]", kinds if isinstance(kinds, list) else [kinds])
    return any(_is_kind(value, kind) for kind in named) and not _is_bare_number(value, schema)


def _is_like(value: object, schema: Json) -> bool:
    """Whether a value has the type, whatever is in it."""
    return "type" not in schema or _is_kind(value, str(schema["type"]))


def _is_kind(value: object, kind: str) -> bool:
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return type(value) is int
        case "number":
            return type(value) in (int, float)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case _:
            return True


def _schema_by_pattern(name: str, schema: Json, otherwise: object) -> object:
    for pattern, wanted in cast("Json", schema.get("patternProperties", {})).items():
        with suppress(re.error):
            if re.search(pattern, name):
                return wanted
    return otherwise


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


def _equal(a: object, b: object) -> bool:
    """Equal as JSON is: true isn't 1, but 1.0 is."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b
