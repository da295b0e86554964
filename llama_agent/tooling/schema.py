"""
Function + docstring → what a model reads, and how its arguments are checked.

Types are pydantic's trade, texts are docstring-parser's; this file only joins them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_type_hints

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from llama_agent.arguments import problems_of
from llama_agent.errors import ConfigurationError

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Names that servers accept for tools (OpenAI's API reference, function names)."""


@dataclass(frozen=True)
class BoundArguments:
    """Validated arguments, ready for the call: `function(*positional, **keyword)`."""

    positional: tuple[Any, ...]
    keyword: dict[str, Any]


@dataclass(frozen=True)
class Signature:
    """
    What a function accepts from a model.

    :param description: Summary and body of the docstring, without its sections.
    :param parameters: JSON schema of the arguments, an object.
    """

    description: str
    parameters: dict[str, Any]
    _model: type[BaseModel]
    _names: dict[str, str]
    _positional_only: frozenset[str]

    @property
    def names(self) -> list[str]:
        """Names of the parameters a model may give."""
        return list(self._names.values())

    def bind(self, arguments: Mapping[str, Any]) -> BoundArguments | list[str]:
        """
        Check and coerce arguments.

        :param arguments: As the model sent them, by name.
        :returns: The call's arguments, of the annotated types, without those left to their defaults; or what
            is wrong, one line per problem.
        """
        try:
            values = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            return problems_of(error, self.names)
        positional: list[Any] = []
        keyword: dict[str, Any] = {}
        for field, name in self._names.items():
            if name in self._positional_only:
                positional.append(getattr(values, field))
            elif field in values.model_fields_set:
                keyword[name] = getattr(values, field)
        return BoundArguments(tuple(positional), keyword)


def signature_of(function: Callable[..., Any], *, hidden: frozenset[str] = frozenset()) -> Signature:
    """
    Read a function's signature and docstring.

    :param function: Any Python function or bound method with type hints.
    :param hidden: Parameters that somebody else fills in; a model doesn't see them.
    :returns: What a model reads, and the check of what it sends.
    :raises ConfigurationError: A parameter has no type hint, a hint can't be resolved or has no JSON schema,
        or the function takes `*args` or `**kwargs`.
    """
    hints = _hints_of(function)
    documentation = docstring_parser.parse(inspect.getdoc(function) or "")
    texts = {item.arg_name.lstrip("*"): (item.description or "").strip() for item in documentation.params}
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    positional_only: set[str] = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in hidden:
            continue
        _check_parameter(function, parameter, hints)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional_only.add(parameter.name)
        # Fields have names of their own: a parameter may be called `schema`, `_x` or `model_config`.
        field = f"argument_{len(names)}"
        names[field] = parameter.name
        fields[field] = (
            hints[parameter.name],
            _field(parameter, hints[parameter.name], texts.get(parameter.name)),
        )
    try:
        model, parameters = _model_of(fields)
    except PydanticUserError as error:
        raise ConfigurationError(_no_schema_text(function, names, fields, error)) from error
    return Signature(
        description=_description(documentation),
        parameters=cast("dict[str, Any]", _without_titles(parameters)),
        _model=model,
        _names=names,
        _positional_only=frozenset(positional_only),
    )


class _JsonSchema(GenerateJsonSchema):
    # A default that isn't JSON is the function's own business: the model just doesn't see it.
    ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}  # noqa: RUF012 - pydantic's declaration


def _model_of(fields: Mapping[str, Any]) -> tuple[type[BaseModel], dict[str, Any]]:
    settings = ConfigDict(extra="forbid")
    model = create_model("Arguments", __config__=settings, **cast("dict[str, Any]", fields))
    return model, model.model_json_schema(by_alias=True, schema_generator=_JsonSchema)


def _no_schema_text(
    function: Callable[..., Any],
    names: Mapping[str, str],
    fields: Mapping[str, Any],
    error: PydanticUserError,
) -> str:
    culprit = ""
    for field, name in names.items():
        try:
            _model_of({field: fields[field]})
        except PydanticUserError as cause:
            culprit, error = f" '{name}'", cause
            break
    return (
        f"{_where(function)}: the type of parameter{culprit} has no JSON schema "
        f"({error.message.splitlines()[0]}). Use JSON types, dataclasses, TypedDicts or pydantic models."
    )


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        return get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        missing = getattr(error, "name", None)
        texts = {name: str(hint) for name, hint in getattr(target, "__annotations__", {}).items()}
        culprits = [name for name, text in texts.items() if missing and missing in text] or list(texts)
        shown = ", ".join(f"'{name}'" for name in culprits)
        raise ConfigurationError(
            f"{_where(function)}: the type hint of parameter {shown} can't be resolved ({error}). "
            "Import its type at the top of the module, not only for type checking."
        ) from error


def _check_parameter(
    function: Callable[..., Any], parameter: inspect.Parameter, hints: Mapping[str, Any]
) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise ConfigurationError(
            f"{_where(function)}: '{parameter}' can't be described to a model. "
            "Give the tool named parameters, or wrap it in a function that has them."
        )
    if parameter.name in ("self", "cls") and parameter.name not in hints:
        raise ConfigurationError(
            f"{_where(function)}: a method has to be taken from an instance: "
            "pass thing.method, not Class.method."
        )
    if parameter.name not in hints:
        raise ConfigurationError(
            f"{_where(function)}: parameter '{parameter.name}' has no type hint. "
            f"Write e.g. '{parameter.name}: str'."
        )


def _field(parameter: inspect.Parameter, hint: Any, text: str | None) -> Any:
    """
    A pydantic field under the parameter's own name. `Annotated[..., Field(description=)]` wins over `text`.
    """
    settings: dict[str, Any] = {"alias": parameter.name}
    if text and not _described(hint):
        settings["description"] = text
    if parameter.default is not inspect.Parameter.empty:
        settings["default"] = parameter.default
    return Field(**settings)


def _described(hint: Any) -> bool:
    metadata = getattr(hint, "__metadata__", ())
    return any(getattr(item, "description", None) for item in metadata)


def _description(documentation: docstring_parser.Docstring) -> str:
    parts = (documentation.short_description, documentation.long_description)
    return "\n\n".join(part.strip() for part in parts if part and part.strip())


def _without_titles(schema: object, *, names: bool = False) -> object:
    """
    Drop pydantic's `title`s: noise to a model. Under `names` the keys are names, and one may be `title`.
    """
    if isinstance(schema, list):
        return [_without_titles(item) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value, names=key in ("properties", "$defs") and not names)
        for key, value in cast("dict[str, object]", schema).items()
        if names or key != "title"
    }


def _where(function: Callable[..., Any]) -> str:
    """`name (file:line)`, for messages to the developer."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else str(name)
