"""
Function + docstring → what a model reads, and how its arguments are checked.

Types are pydantic's trade, texts are docstring-parser's; this file joins them.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticSerializationError, core_schema, to_json, to_jsonable_python

from llama_agent.arguments import nearest, place_text, problems_of, shorten
from llama_agent.coercion import can_be_misread, coerce, fits, misread, nesting_of
from llama_agent.errors import ConfigurationError
from llama_agent.json_schema import Json, has_recursive_choice, mapped, readable
from llama_agent.tooling.callables import CallableTypes, types_of
from llama_agent.tooling.constraints import check_constraints, check_lengths
from llama_agent.tooling.docstrings import Documentation, documentation_of

_DEEPEST_CHOICE = 12
"""Levels of objects where each may be of several recursive types: pydantic takes twice as long for each."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Names that servers accept for tools (OpenAI's API reference, function names)."""


@dataclass(frozen=True)
class BoundArguments:
    """
    Arguments ready for the call.

    :param values: By name, without those left to their defaults.
    :param positional_only: Parameters that can't be given by name, in the function's order.
    """

    values: Mapping[str, Any]
    positional_only: tuple[inspect.Parameter, ...] = ()

    def with_values(self, values: Mapping[str, Any]) -> BoundArguments:
        """
        The same with more.

        :param values: What the run fills in, by parameter name.
        :returns: New arguments.
        """
        return BoundArguments({**self.values, **values}, self.positional_only) if values else self

    def call(self, function: Callable[..., Any]) -> Any:
        """
        Call a function with them.

        :param function: The one that they were bound for.
        :returns: What it returns.
        """
        positional, keyword = self.split()
        return function(*positional, **keyword)

    def split(self) -> tuple[list[Any], Mapping[str, Any]]:
        """
        The arguments as a call takes them.

        :returns: By position, and by name.
        """
        if not self.positional_only:
            return [], self.values
        keyword = dict(self.values)
        positional = [keyword.pop(parameter.name, parameter.default) for parameter in self.positional_only]
        return positional, keyword


@dataclass(frozen=True)
class Signature:
    """
    What a function accepts from a model.

    :param description: Summary and body of the docstring, without its sections.
    :param parameters: JSON schema of the arguments, an object: what a model reads.
    :param misspelt: Names that the docstring documents, and what parameters without a text they are like.
    :param types: Resolved type hints of all parameters, those that a model doesn't see too.
    """

    description: str
    parameters: Json
    types: Mapping[str, Any]
    misspelt: Mapping[str, str]
    _model: type[BaseModel]
    _accepted: Json
    _can_be_misread: bool
    _has_recursive_choice: bool
    _parameters: Mapping[str, inspect.Parameter]
    _positional_only: tuple[inspect.Parameter, ...]

    @property
    def names(self) -> list[str]:
        """Names of the parameters a model may give."""
        return [parameter.name for parameter in self._parameters.values()]

    def bind(self, arguments: Mapping[str, Any]) -> BoundArguments | list[str]:
        """
        Check and coerce arguments.

        They are held to the JSON schema, as pydantic's strict mode for JSON does. Those that don't fit are
        brought into shape, where only one reading is possible, and checked again.

        :param arguments: As the model sent them, by name.
        :returns: The call's arguments, of the annotated types, without those left to their defaults; or what
            is wrong, one line per problem.
        """
        if self._has_recursive_choice and nesting_of(arguments) > _DEEPEST_CHOICE:
            return [f"arguments: nested more than {_DEEPEST_CHOICE} deep, and can't be read. Split the task."]
        if not self._misread(arguments):
            with suppress(ValidationError):
                return self._bound(self._validated(arguments))
        coerced = coerce(arguments, self._accepted)
        unmeant = [f"{place_text(path)}: {text}" for path, text in self._misread(coerced)]
        try:
            checked = self._validated(coerced)
            return unmeant or self._bound(checked)
        except ValidationError as error:
            found = error
        # What a type's own validators have had in their hands is no JSON to pydantic any more, and strictly
        # it takes no text for a date then. Where a value has the types of the schema, it can be laxer.
        try:
            checked = self._validated(coerced, strict=False)
            wrong: set[object] = set()
        except ValidationError as error:
            checked = None
            wrong = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
        properties = self._accepted["properties"]
        fitting = {
            name
            for name, value in coerced.items()
            if name in properties and name not in wrong and fits(value, properties[name], self._accepted)
        }
        if checked is not None and fitting.issuperset(coerced):
            return unmeant or self._bound(checked)
        lines = problems_of(found, coerced, self.names, passed_over=fitting)
        told = {line.partition(":")[0] for line in lines}
        return [*lines, *(line for line in unmeant if line.partition(":")[0] not in told)]

    def _misread(self, arguments: Mapping[str, Any]) -> list[tuple[list[int | str], str]]:
        return misread(arguments, self._accepted) if self._can_be_misread else []

    def _validated(self, arguments: Mapping[str, Any], *, strict: bool = True) -> BaseModel:
        try:
            text = to_json(dict(arguments), inf_nan_mode="constants", bytes_mode="base64")
        except PydanticSerializationError:
            # A caller's own objects (`tool.invoke(thing=...)`): a model sends nothing but JSON.
            return self._model.model_validate(dict(arguments))
        return self._model.model_validate_json(text, strict=strict)

    def _bound(self, checked: BaseModel) -> BoundArguments:
        values = {
            parameter.name: getattr(checked, field)
            for field, parameter in self._parameters.items()
            if field in checked.model_fields_set or parameter.default is parameter.empty
        }
        return BoundArguments(values, self._positional_only)


def signature_of(
    function: Callable[..., Any], *, hidden: Callable[[str, Any], bool] | None = None
) -> Signature:
    """
    Read a function's signature and docstring.

    :param function: Anything that can be called, with type hints.
    :param hidden: Says of a parameter, by name and type hint, whether somebody else fills it in; a model
        doesn't see those.
    :returns: What a model reads, and the check of what it sends.
    :raises ConfigurationError: A parameter has no type hint, a hint can't be resolved or has no JSON schema,
        a name can't go to a server, or the function takes `*args` or `**kwargs`.
    """
    source = types_of(function)
    shown = [p for p in source.parameters if not (hidden and hidden(p.name, source.hints.get(p.name)))]
    names = [parameter.name for parameter in shown]
    documentation = documentation_of(source.docstring, names)
    fields: dict[str, Any] = {}
    parameters: dict[str, inspect.Parameter] = {}
    for parameter in shown:
        _check_parameter(source, parameter)
        # Fields have names of their own: a parameter may be called `schema`, `_x` or `model_config`.
        field = f"argument_{len(parameters)}"
        hint = source.hints[parameter.name]
        if isinstance(parameter.default, FieldInfo):
            # `x: int = Field(default=1, ge=0)`, as in a model: pydantic fills its default in.
            hint = Annotated[hint, parameter.default]
            parameter = parameter.replace(default=inspect.Parameter.empty)
        check_lengths(source.where, parameter.name, hint)
        parameters[field] = parameter
        fields[field] = _field(parameter, hint, documentation)
    model, schema = _described(source, fields, parameters)
    for field, parameter in parameters.items():
        if parameter.name not in schema["properties"]:
            name = parameter.name
            raise ConfigurationError(f"{source.where}: the type of parameter '{name}' has no JSON schema.")
        check_constraints(
            source.where, parameter.name, fields[field][0], schema["properties"][parameter.name]
        )
    _state_defaults(schema, parameters)
    return Signature(
        description=documentation.description,
        parameters=_with_properties(readable(_as_shown(schema))),
        types=source.hints,
        misspelt={
            other: meant
            for other in documentation.others
            if (meant := nearest(other, [n for n in names if n not in documentation.parameters]))
        },
        _model=model,
        _accepted=schema,
        _can_be_misread=can_be_misread(schema),
        _has_recursive_choice=has_recursive_choice(schema),
        _parameters=parameters,
        _positional_only=tuple(p for p in source.parameters if p.kind is p.POSITIONAL_ONLY),
    )


class _JsonSchema(GenerateJsonSchema):
    # A default that isn't JSON is the function's own business: the model just doesn't see it.
    ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}  # noqa: RUF012 - pydantic's declaration

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """Marked, so that it can be told from a union of number and text that a user wrote."""
        return {**super().decimal_schema(schema), "format": _DECIMAL}

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        """Base64, and it says so."""
        full = super().bytes_schema(schema)
        return {**{key: value for key, value in full.items() if key != "format"}, "contentEncoding": "base64"}

    def named_tuple_schema(self, schema: core_schema.NamedTupleSchema) -> JsonSchemaValue:
        """A NamedTuple as an object, which says what its items are; an array is taken as well."""
        fields = {field["name"]: field["schema"] for field in schema["fields"]}
        return {
            "type": "object",
            "properties": {name: self.generate_inner(inner) for name, inner in fields.items()},
            "required": [name for name, inner in fields.items() if inner["type"] != "default"],
        }

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        """With the names, where the values alone say nothing."""
        full = super().enum_schema(schema)
        if all(isinstance(member.value, str) for member in schema["members"]):
            return full
        named = ", ".join(f"{member.value!r} is {member.name}" for member in schema["members"])
        return {**full, "description": full.get("description", named)}

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        """A union of nothing that JSON can say, which pydantic leaves empty, can't be said either."""
        union = super().union_schema(schema)
        return union if union.get("anyOf") != [] else self.handle_invalid_for_json_schema(schema, "a union")

    def is_subclass_schema(self, schema: core_schema.IsSubclassSchema) -> JsonSchemaValue:
        """A class can't be said in JSON, though pydantic lets it pass as anything."""
        return self.handle_invalid_for_json_schema(schema, "a class")


_DECIMAL = "decimal"


def _as_shown(schema: Json) -> Json:
    """What a model needs to see of a schema: a Decimal is a number; texts of types are read as docstrings."""

    def show(node: Json) -> Json:
        if node.get("format") == _DECIMAL and "anyOf" in node:
            beside = {key: value for key, value in node.items() if key not in ("anyOf", "format")}
            return {**node["anyOf"][0], **beside}
        properties = cast("dict[str, Json]", node.get("properties", {}))
        if properties and (text := node.get("description")):
            documentation = documentation_of(text, list(properties))
            properties = {
                name: {"description": documentation.parameters[name], **value}
                if name in documentation.parameters
                else value
                for name, value in properties.items()
            }
            node = {**node, "properties": properties, "description": documentation.description}
            if not documentation.description:
                del node["description"]
        return node

    return mapped(schema, show)


def _described(
    source: CallableTypes, fields: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> tuple[type[BaseModel], Json]:
    try:
        return _model_of(fields)
    except Exception as error:
        # pydantic runs code of the user's types, which may raise anything.
        culprit, cause = _culprit_of(fields, parameters) or ("", error)
        said = cause.message if isinstance(cause, PydanticUserError) else str(cause) or type(cause).__name__
        raise ConfigurationError(
            f"{source.where}: the type of parameter{culprit} has no JSON schema "
            f"({shorten(' '.join(said.split()), 200)}). Use JSON types, dataclasses, TypedDicts or pydantic "
            "models, with constraints that suit them."
        ) from (None if isinstance(cause, PydanticUserError) else cause)


def _culprit_of(
    fields: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> tuple[str, Exception] | None:
    """The parameter that alone is enough to fail, and how."""
    for field, parameter in parameters.items():
        try:
            _model_of({field: fields[field]})
        except Exception as cause:
            return f" '{parameter.name}'", cause
    return None


def _model_of(fields: Mapping[str, Any]) -> tuple[type[BaseModel], Json]:
    settings = ConfigDict(extra="forbid", val_json_bytes="base64")
    model = create_model("Arguments", __config__=settings, **cast("dict[str, Any]", fields))
    return model, model.model_json_schema(by_alias=True, schema_generator=_JsonSchema)


def _check_parameter(source: CallableTypes, parameter: inspect.Parameter) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        raise ConfigurationError(
            f"{source.where}: '{stars}{parameter.name}' can't be described to a model. "
            "Give the tool named parameters, or wrap it in a function that has them; a decorator needs "
            "functools.wraps."
        )
    if parameter.name in ("self", "cls") and parameter.name not in source.hints:
        raise ConfigurationError(
            f"{source.where}: a method has to be taken from an instance: pass thing.method, not Class.method."
        )
    if parameter.name not in source.hints:
        raise ConfigurationError(
            f"{source.where}: parameter '{parameter.name}' has no type hint. "
            f"Write e.g. '{parameter.name}: str'."
        )
    if not NAME_PATTERN.fullmatch(parameter.name):
        raise ConfigurationError(
            f"{source.where}: servers accept 1 to 64 of A-Z, a-z, 0-9, '_' and '-' in names: rename the "
            f"parameter '{parameter.name}'."
        )


def _field(parameter: inspect.Parameter, hint: Any, documentation: Documentation) -> tuple[Any, Any]:
    """
    A pydantic field under the parameter's own name. `Annotated[..., "text"]` and `Field(description=)` win
    over the docstring.
    """
    settings: dict[str, Any] = {"alias": parameter.name}
    own_text, is_field = _own_text(hint)
    text = documentation.parameters.get(parameter.name)
    if not is_field and (own_text or text):
        settings["description"] = own_text or text
    if parameter.default is not inspect.Parameter.empty:
        # A stand-in: the function fills in its default itself, and some can't be copied.
        settings["default"] = None
    if choices := documentation.choices.get(parameter.name):
        hint = _narrowed(hint, choices)
    return hint, Field(**settings)


def _own_text(hint: Any) -> tuple[str | None, bool]:
    """The text in `Annotated`, and whether pydantic finds it by itself."""
    for item in getattr(hint, "__metadata__", ()):
        if isinstance(item, FieldInfo) and item.description:
            return item.description, True
        if isinstance(item, str):
            return inspect.cleandoc(item), False
        if isinstance(text := getattr(item, "documentation", None), str):  # PEP 727's Doc
            return text, False
    return None, False


def _narrowed(hint: Any, choices: Collection[object]) -> Any:
    """A plain `str` or `int`, optional or not, narrowed to the values that the docstring lists."""
    for kind in (str, int):
        if all(type(choice) is kind for choice in choices):
            if hint == kind:
                return Literal[tuple(choices)]
            if hint == kind | None:
                return cast("Any", Literal)[(*choices, None)]
    return hint


def _state_defaults(schema: Json, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Write the functions' own defaults where pydantic saw stand-ins."""
    properties = cast("dict[str, Json]", schema.get("properties", {}))
    for parameter in parameters.values():
        if parameter.default is parameter.empty:
            continue
        stated = properties[parameter.name]
        stated.pop("default", None)
        default = _as_json(parameter.default, stated)
        if default is not None:
            stated["default"] = default


def _as_json(default: object, stated: Json) -> object | None:
    """A default as JSON; None for one that JSON can't hold, or that says nothing."""
    try:
        value = cast("object", to_jsonable_python(default, bytes_mode="base64"))
        if isinstance(default, set | frozenset):  # their order differs from process to process
            value = sorted(cast("list[object]", value), key=json.dumps)
        if stated.get("format") == _DECIMAL and isinstance(value, str):
            value = float(value)
        # Haystack writes schemas as JSON too, where nothing infinite has a place.
        json.dumps(value, allow_nan=False)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        return None
    return value


def _with_properties(schema: Json) -> Json:
    """Also where there are none: some servers want the key (OpenAI's API reference, parameters)."""
    return schema if "properties" in schema else {**schema, "properties": {}}
