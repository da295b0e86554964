"""What can be called, of any kind: its parameters, their type hints, its docstring, where it stands."""

from __future__ import annotations

import collections.abc
import enum
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import typing_extensions
from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from llama_agent.errors import ConfigurationError


@dataclass(frozen=True)
class CallableTypes:
    """
    What the source says of a callable.

    :param where: `name (file:line)`, for messages to the developer.
    :param parameters: In order, without those that a `functools.partial` has filled.
    :param hints: Resolved type hints by parameter name.
    :param docstring: The whole docstring, or None.
    """

    where: str
    parameters: tuple[inspect.Parameter, ...]
    hints: Mapping[str, Any]
    docstring: str | None


def types_of(function: Callable[..., Any]) -> CallableTypes:
    """
    Read a callable.

    :param function: A function, method, partial, or object with `__call__`; decorated or not.
    :returns: What the source says of it.
    :raises ConfigurationError: It has no signature that Python can see, or a hint can't be resolved.
    """
    core = core_of(function)
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{where(function)}: Python can't see its parameters ({error}). "
            "Wrap it in a function with type hints."
        ) from error
    filled = _filled_by_partial(function)
    parameters = tuple(p for p in signature.parameters.values() if p.name not in filled)
    return CallableTypes(
        where=where(function),
        parameters=parameters,
        hints=_hints_of(function, core, parameters),
        docstring=inspect.getdoc(core),
    )


def core_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    The function whose source says what a callable is.

    :param function: A function, method, partial, or object with `__call__`.
    :returns: The function or method under all partials; an object's `__call__` as a bound method, unless the
        object is a decorator's and stands for the function that it wraps.
    """
    while isinstance(function, functools.partial):
        function = cast("Callable[..., Any]", function.func)
    if not is_object(function):
        return function
    if hasattr(function, "__wrapped__"):
        return cast("Callable[..., Any]", inspect.unwrap(cast("Any", function)))
    return bound_call(function)


def is_object(function: Callable[..., Any]) -> bool:
    """
    Whether a callable is an object with `__call__`.

    :param function: Anything that can be called.
    :returns: False for functions, methods, partials and classes.
    """
    return not inspect.isroutine(function) and not isinstance(function, type | functools.partial)


def bound_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    An object's `__call__` as the bound method that it is.

    :param function: An object with `__call__`.
    :returns: The method; like any other it is known for async, and whose it is.
    """
    return cast("Callable[..., Any]", types.MethodType(cast("Any", type(function)).__call__, function))


def name_of(function: Callable[..., Any]) -> str:
    """
    A callable's own name.

    :param function: Anything that can be called.
    :returns: The function's name; for an object with `__call__`, its class's.
    """
    core = core_of(function)
    if core.__name__ == "__call__" and inspect.ismethod(core):
        return type(core.__self__).__name__
    return core.__name__


def where(function: Callable[..., Any]) -> str:
    """
    Where a callable stands.

    :param function: Anything that can be called.
    :returns: `name (file:line)`, for messages to the developer; the name alone for one without source.
    """
    core = core_of(function)
    name = getattr(core, "__qualname__", None) or getattr(core, "__name__", None) or repr(core)
    code = getattr(inspect.unwrap(cast("Any", core)), "__code__", None)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else str(name)


def _filled_by_partial(function: Callable[..., Any]) -> frozenset[str]:
    """Parameters that a partial gave a value by name: Python still shows them, but they are decided."""
    filled: set[str] = set()
    while isinstance(function, functools.partial):
        filled.update(function.keywords)
        function = cast("Callable[..., Any]", function.func)
    return frozenset(filled)


def _hints_of(
    function: Callable[..., Any], core: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> dict[str, Any]:
    hints = _resolved_hints(function, core, [parameter.name for parameter in parameters])
    for parameter in parameters:
        # A decorator may state a signature of its own (`__signature__`).
        if parameter.name not in hints and parameter.annotation is not parameter.empty:
            hints[parameter.name] = parameter.annotation
    variables = _type_arguments(core)
    named = {parameter.name: hints[parameter.name] for parameter in parameters if parameter.name in hints}
    try:
        return {name: _plain(hint, variables) for name, hint in named.items()}
    except RecursionError:  # a TypedDict that holds itself: pydantic says what to do
        return named


def _resolved_hints(
    function: Callable[..., Any], core: Callable[..., Any], names: Sequence[str]
) -> dict[str, Any]:
    try:
        return get_type_hints(core, include_extras=True)
    except Exception:
        # Evaluating a hint runs what the user wrote there. One by one, to know which: the result's hint, and
        # that of a parameter that somebody else fills in, may well be for type checkers only.
        annotations = cast("dict[str, Any]", getattr(core, "__annotations__", {}))
    owner = inspect.unwrap(cast("Any", core))
    namespace = {**getattr(owner, "__globals__", {}), **_local_names(core)}
    hints: dict[str, Any] = {}
    for name in names:
        if name not in annotations:
            continue
        alone = types.SimpleNamespace(__annotations__={name: annotations[name]})
        try:
            hints.update(get_type_hints(alone, namespace, include_extras=True))
        except Exception as error:
            raise ConfigurationError(
                f"{where(function)}: the type hint of parameter '{name}' can't be resolved ({error}). "
                "Import its type at the top of the module, not only for type checking."
            ) from error
    return hints


def _local_names(core: Callable[..., Any]) -> dict[str, Any]:
    """Names that a nested function's hints may mean: of the functions that it stands in, while they run."""
    inner = inspect.unwrap(core)
    names: dict[str, Any] = {}
    outer = getattr(inner, "__qualname__", "").split(".<locals>")[:-1]
    frame: FrameType | None = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None and outer:
        if frame.f_code.co_qualname in (outer[0], ".<locals>".join(outer)):
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return {**names, **inspect.getclosurevars(inner).nonlocals} if inspect.isfunction(inner) else names


def _type_arguments(core: Callable[..., Any]) -> Mapping[TypeVar, Any]:
    """What the type variables of a method's class stand for: `Box[int]()`, or a class made of `Box[int]`."""
    owner = getattr(core, "__self__", None)
    if owner is None:
        return {}
    made_as = getattr(owner, "__orig_class__", None)
    line = (owner if isinstance(owner, type) else type(owner)).__mro__
    found: dict[type, dict[TypeVar, Any]] = {line[0]: _bound_variables(made_as, {})}
    for cls in line:
        for base in cls.__dict__.get("__orig_bases__", ()):
            found.setdefault(get_origin(base), _bound_variables(base, found.get(cls, {})))
    home = next((cls for cls in line if core.__name__ in vars(cls)), line[0])
    return found.get(home, {})


def _bound_variables(base: Any, known: Mapping[TypeVar, Any]) -> dict[TypeVar, Any]:
    variables = getattr(get_origin(base), "__parameters__", ())
    return dict(zip(variables, (_plain(argument, known) for argument in get_args(base)), strict=False))


def _plain(hint: Any, variables: Mapping[TypeVar, Any]) -> Any:
    """A hint that pydantic takes: type variables filled in, an Iterable as the list that JSON has."""
    if isinstance(hint, TypeVar):
        return variables.get(hint, hint)
    if sys.version_info < (3, 12) and type(hint) is type(_OldTypedDict):
        return _typed_dict(hint, variables)
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (collections.abc.Iterable, typing.Iterable):
        return list
    if hint in (typing.LiteralString, typing_extensions.LiteralString):
        return str
    if not arguments:
        return hint
    if origin is Annotated:
        return Annotated[(_plain(arguments[0], variables), *hint.__metadata__)]
    if origin is typing.Literal:
        return _literal(arguments)
    plain = tuple(_plain(argument, variables) for argument in arguments)
    if origin is collections.abc.Iterable:
        return list[plain[0]]
    if plain == arguments:
        return hint
    if origin in (typing.Union, types.UnionType):
        return typing.Union[plain]  # noqa: UP007 - `|` refuses some of what may stand here
    try:
        return hint.copy_with(plain) if hasattr(hint, "copy_with") else origin[plain]
    except TypeError:
        return hint


def _literal(choices: tuple[Any, ...]) -> Any:
    """A Literal of enum members by their values, which are what JSON can say."""
    by_value = {choice.value if isinstance(choice, enum.Enum) else choice: choice for choice in choices}
    plain = cast("Any", typing.Literal)[tuple(by_value)]
    if any(type(value) is int for value in by_value):
        # To pydantic, as to Python, true is 1.
        plain = Annotated[plain, BeforeValidator(functools.partial(_not_bool, tuple(by_value)))]
    if any(isinstance(choice, enum.Enum) for choice in choices):
        plain = Annotated[plain, AfterValidator(by_value.__getitem__)]
    return plain


def _not_bool(choices: tuple[object, ...], value: object) -> object:
    if isinstance(value, bool) and not any(choice is value for choice in choices):
        expected = " or ".join(map(repr, choices))
        raise PydanticCustomError("literal_error", "input should be {expected}", {"expected": expected})
    return value


class _OldTypedDict(typing.TypedDict):
    pass


def _typed_dict(hint: Any, variables: Mapping[TypeVar, Any]) -> Any:
    """`typing.TypedDict` as `typing_extensions.TypedDict`: before Python 3.12 pydantic takes only that."""
    fields = get_type_hints(hint, include_extras=True)
    wrapped = {
        name: typing_extensions.Required[_plain(field, variables)]
        if name in hint.__required_keys__
        else typing_extensions.NotRequired[_plain(field, variables)]
        for name, field in fields.items()
    }
    made = typing_extensions.TypedDict(hint.__name__, wrapped)  # type: ignore[operator]
    made.__doc__ = hint.__doc__
    return made
