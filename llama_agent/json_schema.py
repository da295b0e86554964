"""
JSON schemas in the forms that readers of them want: short for a small model, closed for a grammar, strict for
servers that hold arguments to the schema.

Every function takes a schema and gives a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, cast

Json: TypeAlias = dict[str, Any]

_EXAMPLE_DEPTH = 6
_NULL: Json = {"type": "null"}
_REFERENCE = "#/$defs/"
_INLINED_NODES = 400
"""Most nodes of a definition that is written in place: nested ones may double in size at each level."""

# What a reader wants to know first.
_KEY_ORDER = (
    "type",
    "description",
    "enum",
    "const",
    "format",
    "$ref",
    "anyOf",
    "oneOf",
    "allOf",
    "properties",
    "required",
    "items",
    "prefixItems",
    "additionalProperties",
)
_LAST_KEYS = ("default", "examples", "$defs")
# Under these, the keys are names that somebody chose, and no keywords.
_NAMED = frozenset({"properties", "$defs", "patternProperties", "dependentSchemas"})
# The values of these are data, and no schemas.
_DATA = frozenset({"default", "examples", "enum", "const", "required", "discriminator"})


def readable(schema: Json) -> Json:
    """
    The shortest form that says the same: what a small model reads.

    No `title`s and discriminators; `$ref`s written in place, except recursive and very large ones; no null
    for a property that may as well be left out, and no default of null; `additionalProperties` only where it
    is a schema; keys in one order.

    :param schema: As pydantic makes it, definitions under `$defs`.
    :returns: The form to show. What was refused by `schema` for extra keys alone is allowed by it.
    """
    definitions = cast("Json", schema.get("$defs", {}))
    kept = _kept_references(definitions)
    shown = _shortened({k: v for k, v in schema.items() if k != "$defs"}, definitions, kept)
    if used := _reachable(shown, definitions, kept):
        shown["$defs"] = {name: _shortened(definitions[name], definitions, kept) for name in sorted(used)}
    return shown


def closed(schema: Json) -> Json:
    """
    The form for a grammar: no keys beside the named ones.

    :param schema: Any.
    :returns: With `additionalProperties: false` in each object that names its properties, and says nothing
        else of others.
    """

    def close(node: Json) -> Json:
        if "properties" in node and "additionalProperties" not in node:
            return {**node, "additionalProperties": False}
        return node

    return mapped(schema, close)


def strict(schema: Json) -> Json:
    """
    The form that servers want with `strict: true` (OpenAI, Structured Outputs, supported schemas): objects
    that name their properties are closed, each property is required, and one that may be left out may be null
    instead. Dictionaries of any keys stay as they are, though OpenAI itself refuses them.

    :param schema: Any.
    :returns: The strict form. A null for a property that isn't nullable means that it was left out.
    """

    def tighten(node: Json) -> Json:
        node = {key: value for key, value in node.items() if key != "default"}
        if "properties" not in node:
            return node
        required = cast("list[str]", node.get("required", []))
        properties = {
            name: value
            if name in required or not isinstance(value, dict)
            else _nullable(cast("Json", value), schema)
            for name, value in cast("Json", node["properties"]).items()
        }
        return {
            **node,
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    return mapped(schema, tighten)


def has_recursive_choice(schema: Json) -> bool:
    """
    Whether values of a schema may be of several types at each of any number of levels: `And | Or`, each with
    `And | Or` in it.

    :param schema: Definitions under `$defs`.
    :returns: True where a union has two or more definitions that lead back to themselves.
    """
    recursive = _recursive(cast("Json", schema.get("$defs", {})))
    found: list[bool] = []

    def look(node: Json) -> Json:
        chosen = [branch for branch in branches_of(node) if _referred(branch) in recursive]
        # With a discriminator, only one of them is tried.
        found.append(len(chosen) > 1 and "discriminator" not in node)
        return node

    mapped(schema, look)
    return any(found)


def is_nullable(schema: Json, root: Json) -> bool:
    """
    Whether a schema admits null.

    :param schema: Any.
    :param root: The schema whose `$defs` it refers to.
    :returns: True for one that names the type, or no type at all.
    """
    schema = resolved(schema, root)
    if "anyOf" in schema or "oneOf" in schema:
        return any(is_nullable(branch, root) for branch in branches_of(schema))
    if "enum" in schema:
        return None in schema["enum"]
    if "const" in schema:
        return schema["const"] is None
    kind = schema.get("type")
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)


def branches_of(schema: Json) -> list[Json]:
    """
    The schemas that a union chooses from.

    :param schema: Any.
    :returns: Those of `anyOf` or `oneOf`; none for a schema that is no union.
    """
    return cast("list[Json]", schema.get("anyOf") or schema.get("oneOf") or [])


def resolved(schema: Json, root: Json) -> Json:
    """
    What a schema says, its reference followed.

    :param schema: Any, maybe a `$ref` within `root`.
    :param root: The schema whose `$defs` it refers to.
    :returns: The definition, with the keywords beside the reference; of one that isn't found, those alone.
    """
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str) and reference not in seen:
        seen.add(reference)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        found = _look_up(reference, root)
        if found is None:
            return {"type": "unknown", **beside}
        schema = {**found, **beside}
    return schema


def mapped(schema: Json, change: Callable[[Json], Json]) -> Json:
    """
    Change each schema within a schema, from the inside out.

    :param schema: Any.
    :param change: Takes a schema, and gives the one to put in its place.
    :returns: The new schema.
    """

    def changed(key: str, value: object) -> object:
        if key in _DATA:
            return value
        if isinstance(value, list):
            return [changed("", item) for item in cast("list[object]", value)]
        if not isinstance(value, dict):
            return value
        if key in _NAMED:
            return {name: changed("", item) for name, item in cast("Json", value).items()}
        return mapped(cast("Json", value), change)

    return change({key: changed(key, value) for key, value in schema.items()})


def estimated_tokens(characters: int) -> int:
    """
    About how many tokens a JSON text takes.

    :param characters: Its length.
    :returns: Tokens, at 4 characters each.
    """
    return -(-characters // 4)


def example_of(schema: object, root: Json | None = None, depth: int = 0) -> object:
    """
    A value that a schema accepts, to show what one looks like.

    :param schema: Any.
    :param root: The schema whose definitions it refers to; itself by default.
    :param depth: How deep within the root it stands.
    :returns: Its first example, default or choice where it names one; else a value of its type, with the
        required properties only.
    """
    if not isinstance(schema, dict):
        return "…"
    whole = root if root is not None else cast("Json", schema)
    node = resolved(cast("Json", schema), whole)
    for key in ("examples", "enum"):
        if choices := cast("list[object]", node.get(key)):
            return choices[0]
    for key in ("const", "default"):
        if node.get(key) is not None:
            return node[key]
    if branches := branches_of(node):
        return example_of(branches[0], whole, depth + 1)
    kinds = cast("list[str] | str | None", node.get("type"))
    match kinds[0] if isinstance(kinds, list) and kinds else kinds:
        case "object" if depth < _EXAMPLE_DEPTH:
            properties = cast("Json", node.get("properties", {}))
            names = cast(
                "list[str]", node.get("required", []) if depth else node.get("required") or properties
            )
            return {name: example_of(properties.get(name, {}), whole, depth + 1) for name in names}
        case "array" if depth < _EXAMPLE_DEPTH and node.get("minItems", 1) and "items" in node:
            return [example_of(cast("object", node["items"]), whole, depth + 1)]
        case "integer":
            return node.get("minimum", 1)
        case "number":
            return node.get("minimum", 1.5)
        case "boolean":
            return True
        case "null":
            return None
        case "object":
            return {}
        case "array":
            return []
        case _:
            return str(node.get("description") or "text")[:60]


def _look_up(reference: str, root: Json) -> Json | None:
    node: object = root
    if not reference.startswith("#"):
        return None
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            key = part.replace("~1", "/").replace("~0", "~")
            node = cast("Json", node).get(key) if isinstance(node, dict) else None
    return cast("Json", node) if isinstance(node, dict) else None


def _shortened(schema: Json, definitions: Json, kept: frozenset[str]) -> Json:
    """One schema without noise; references to definitions that aren't in `kept` written in place."""
    if (name := _referred(schema)) is not None and name in definitions and name not in kept:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**cast("Json", definitions[name]), **beside}
    short: Json = {}
    for key, value in schema.items():
        if key in ("title", "discriminator") or (key == "additionalProperties" and isinstance(value, bool)):
            continue
        # With a discriminator, one branch at most can fit: any is as good as one, and more servers know it.
        shown_key = "anyOf" if key == "oneOf" and "discriminator" in schema else key
        short[shown_key] = _shortened_value(key, value, definitions, kept)
    if "properties" in short:
        required = cast("list[str]", short.get("required", []))
        for name, value in short["properties"].items():
            if name not in required and isinstance(value, dict):
                short["properties"][name] = _without_null(cast("Json", value))
    for union in ("anyOf", "allOf"):
        if len(only := cast("list[Json]", short.get(union, []))) == 1:
            short = {**only[0], **{key: value for key, value in short.items() if key != union}}
    return _ordered(short)


def _shortened_value(key: str, value: object, definitions: Json, kept: frozenset[str]) -> object:
    if key in _DATA:
        return value
    if key in _NAMED:
        return {
            name: _shortened(cast("Json", schema), definitions, kept) if isinstance(schema, dict) else schema
            for name, schema in cast("Json", value).items()
        }
    if isinstance(value, dict):
        return _shortened(cast("Json", value), definitions, kept)
    if isinstance(value, list):
        return [
            _shortened(cast("Json", item), definitions, kept) if isinstance(item, dict) else item
            for item in cast("list[object]", value)
        ]
    return value


def _without_null(schema: Json) -> Json:
    """A property that may be left out needs no null: the same, with one way less to say nothing."""
    if schema.get("default") is not None:
        return schema  # here null says something else than nothing
    schema = {key: value for key, value in schema.items() if key != "default"}
    if None in cast("list[object]", choices := schema.get("enum", [])):
        return _ordered(_with_type({**schema, "enum": [choice for choice in choices if choice is not None]}))
    branches = cast("list[Json]", schema.get("anyOf", []))
    others = [branch for branch in branches if branch != _NULL]
    if not others or len(others) == len(branches):
        return schema
    beside = {key: value for key, value in schema.items() if key != "anyOf"}
    return _ordered({**others[0], **beside} if len(others) == 1 else {"anyOf": others, **beside})


def _with_type(schema: Json) -> Json:
    """An enumeration with the type of its values, where they have one."""
    kinds = {type(choice) for choice in cast("list[object]", schema["enum"])}
    names: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return {**schema, "type": names[kind]} if len(kinds) == 1 and (kind := kinds.pop()) in names else schema


def _nullable(schema: Json, root: Json) -> Json:
    if is_nullable(schema, root):
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], _NULL]}
    description = {key: value for key, value in schema.items() if key == "description"}
    return {**description, "anyOf": [{k: v for k, v in schema.items() if k != "description"}, _NULL]}


def _ordered(schema: Json) -> Json:
    first = {key: schema[key] for key in _KEY_ORDER if key in schema}
    last = {key: schema[key] for key in _LAST_KEYS if key in schema}
    rest = {key: schema[key] for key in sorted(schema) if key not in first and key not in last}
    return {**first, **rest, **last}


def _referred(schema: Mapping[str, object]) -> str | None:
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(_REFERENCE):
        return reference.removeprefix(_REFERENCE)
    return None


def _references_in(node: object) -> Iterator[str]:
    """Names of definitions that a schema refers to; a name that occurs twice comes twice."""
    if isinstance(node, dict):
        schema = cast("Json", node)
        if (name := _referred(schema)) is not None:
            yield name
        for key, value in schema.items():
            if key not in _DATA:
                yield from _references_in(value)
    elif isinstance(node, list):
        for item in cast("list[object]", node):
            yield from _references_in(item)


def _nodes(node: object) -> int:
    if isinstance(node, dict):
        return 1 + sum(_nodes(value) for value in cast("Json", node).values())
    if isinstance(node, list):
        return 1 + sum(_nodes(item) for item in cast("list[object]", node))
    return 1


def _recursive(definitions: Json) -> set[str]:
    """Definitions that lead back to themselves."""
    found: set[str] = set()
    seen: set[str] = set()

    def follow(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            found.update(above[above.index(name) :])
        elif name not in seen:
            for other in set(_references_in(definitions.get(name, {}))):
                follow(other, (*above, name))
            seen.add(name)

    for name in definitions:
        follow(name, ())
    return found


def _kept_references(definitions: Json) -> frozenset[str]:
    """Definitions that stay references: those that lead back to themselves, and those too large in place."""
    kept = _recursive(definitions)
    sizes: dict[str, int] = {}

    def size(name: str, above: tuple[str, ...]) -> int:
        if name in kept:
            return 1
        if name not in sizes:
            inner = (size(other, (*above, name)) for other in _references_in(definitions.get(name, {})))
            total = _nodes(definitions.get(name, {})) + sum(inner)
            if total > _INLINED_NODES:
                kept.add(name)
            sizes[name] = 1 if name in kept else total
        return sizes[name]

    for name in definitions:
        size(name, ())
    return frozenset(kept)


def _reachable(shown: Json, definitions: Json, kept: frozenset[str]) -> set[str]:
    """Kept definitions that are referred to, also by each other."""
    found: set[str] = set()
    waiting = list(_references_in(shown))
    while waiting:
        name = waiting.pop()
        if name in definitions and name not in found:
            found.add(name)
            waiting.extend(_references_in(_shortened(definitions[name], definitions, kept)))
    return found
