"""`@tool` and what becomes of it: a Haystack `Tool` that checks its arguments and knows its hints."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, cast, overload

from haystack.components.agents.state.state import State
from haystack.core.errors import SerializationError
from haystack.core.serialization import allow_deserialization_module, generate_qualified_class_name
from haystack.tools.errors import ToolInvocationError
from haystack.tools.tool import Tool
from haystack.utils.callable_serialization import (
    deserialize_callable,  # pyright: ignore[reportUnknownVariableType]
    serialize_callable,  # pyright: ignore[reportUnknownVariableType]
)
from referencing.exceptions import Unresolvable

from llama_agent.arguments import schema_problems_of
from llama_agent.cancel import CancelToken, cancellable, current_cancel
from llama_agent.coercion import coerce, is_open, validator_of
from llama_agent.errors import ConfigurationError, ToolDefinitionWarning, ToolDenied, ToolRetry
from llama_agent.json_schema import Json, resolved
from llama_agent.tooling.call_options import CallOptions, Isolation
from llama_agent.tooling.callables import bound_call, is_object, name_of, where
from llama_agent.tooling.calling import Call, TimedOut
from llama_agent.tooling.processes import check_can_be_sent
from llama_agent.tooling.results import is_default_output, own_text, text_of
from llama_agent.tooling.run_context import (
    Injection,
    RunContext,
    context_of,
    holds_injected,
    injection_of,
    injections_of,
    needs_deps,
)
from llama_agent.tooling.schema import NAME_PATTERN, BoundArguments, Signature, signature_of

# What `to_dict` names here may be loaded again: nothing else of this package, and no user's functions.
allow_deserialization_module(__name__)

RETRIES = 2
"""Further attempts of a tool with `retry_on`, where calling it again changes nothing more."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class ToolHints:
    """
    What a tool does to the world, in MCP's terms (Model Context Protocol, tool annotations).

    Unlike MCP, a function that says nothing isn't taken for destructive: its developer registered it.

    :param read_only: Changes nothing (`readOnlyHint`).
    :param destructive: May destroy or overwrite; a person may be asked first (`destructiveHint`).
    :param idempotent: Calling it again with the same arguments changes nothing more (`idempotentHint`).
    :param open_world: Reaches beyond this program's own data (`openWorldHint`).
    :param sequential: Never runs beside another call of the same reply.
    :param repeatable: Polls: the same call may give the same result many times.
    """

    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = True
    sequential: bool = False
    repeatable: bool = False

    def __post_init__(self) -> None:
        if self.read_only and self.destructive:
            raise ConfigurationError(
                "a tool can't be both read_only and destructive: drop one of the two hints"
            )


def functions_of(tool: Tool) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """
    The functions of any Haystack tool.

    :param tool: Any.
    :returns: The sync one and the async one; at least one isn't None.
    """
    return cast("Any", tool).function, cast("Any", tool).async_function


def is_function_tool(tool: Tool) -> bool:
    """
    Whether a tool is one of ours.

    :param tool: Any Haystack tool.
    :returns: True for those made of functions here.
    """
    return isinstance(tool, FunctionTool)


def bind(tool: Tool, arguments: Json, *, filled: Iterable[str] = ()) -> BoundArguments | list[str]:
    """
    Check a call's arguments and bring them into the tool's types.

    :param tool: Any Haystack tool. One of ours knows Python's types; any other has only its JSON schema.
    :param arguments: As the model sent them, by name.
    :param filled: Parameters that the run fills in: one that isn't ours may have them in its schema.
    :returns: The call's arguments, or what is wrong with them, one line per problem.
    """
    if isinstance(tool, FunctionTool):
        return cast("FunctionTool[..., Any]", tool).signature.bind(arguments)
    schema = _asked_of_model(_at_root(tool.parameters), [name for name in filled if name not in arguments])
    validator = validator_of(schema)
    try:
        if not validator.is_valid(arguments):
            arguments = coerce(arguments, schema)
        problems = list(validator.iter_errors(arguments))
    except (Unresolvable, RecursionError):
        return BoundArguments(arguments)  # a schema with references that lead nowhere can't be checked
    if problems:
        return schema_problems_of(problems, cast("Json", schema.get("properties", {})))
    return BoundArguments(arguments)


def _at_root(schema: Json) -> Json:
    """A schema whose root is a reference (as zod-to-json-schema writes them), the reference followed."""
    return {**resolved(schema, schema), "$defs": schema.get("$defs", {})} if "$ref" in schema else schema


def _asked_of_model(schema: Json, filled: list[str]) -> Json:
    """
    A tool's schema without the parameters that the run fills in, closed where it names its parameters: an
    argument that a model invented (`dry_run`) must not be lost without a word.
    """
    if "properties" not in schema:
        return schema
    required = [name for name in cast("list[str]", schema.get("required", [])) if name not in filled]
    properties = {
        name: asked for name, asked in cast("Json", schema["properties"]).items() if asked is not False
    }
    closed = {} if is_open(schema) else {"additionalProperties": False}
    return {**schema, "properties": properties, "required": required, **closed}


def hints_of(tool: Tool) -> ToolHints:
    """
    Hints of any Haystack tool.

    :param tool: One of ours, or any other.
    :returns: Its hints; the defaults for a tool that isn't ours.
    """
    return tool.hints if isinstance(tool, FunctionTool) else ToolHints()


def options_of(tool: Tool) -> CallOptions:
    """
    How the calls of any Haystack tool are run.

    :param tool: One of ours, or any other.
    :returns: Its options; the defaults for a tool that isn't ours.
    """
    return tool.options if isinstance(tool, FunctionTool) else CallOptions()


def retries_of(tool: Tool) -> int:
    """
    How often a call is made again that failed in a way that may pass.

    :param tool: Any Haystack tool.
    :returns: What its options say; else `RETRIES` for one that changes nothing more when called again.
    """
    options, hints = options_of(tool), hints_of(tool)
    if options.retries is not None or not options.retry_on:
        return options.retries or 0
    return RETRIES if hints.read_only or hints.idempotent else 0


@dataclass
class FunctionTool(Tool, Generic[P, R]):
    """
    A Python function as a Haystack `Tool`. It can still be called as the function that it was.

    Made by `@tool` or by passing a function in `tools=`. Works in Haystack's own `Agent` too: arguments are
    checked in `invoke`.
    """

    hints: ToolHints = field(default_factory=ToolHints)
    options: CallOptions = field(default_factory=CallOptions)
    signature: Signature = field(kw_only=True, repr=False, compare=False)

    @functools.cached_property
    def injections(self) -> Mapping[str, Injection]:
        """Parameters that the run fills in, beside those from its State: what each gets."""
        return injections_of(self.signature.types)

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise ConfigurationError(
                f"{where(self.target)}: '{self.name}' can't be a tool's name: servers accept 1 to 64 of A-Z, "
                "a-z, 0-9, '_' and '-'. Choose one with @tool(name=...)."
            )
        if self.outputs_to_string is None:
            # So that a model reads the same in Haystack's own Agent.
            self.outputs_to_string = {"handler": text_of}
        # Haystack holds the schema to its metaschema, which takes longer than all else; ours is pydantic's.
        schema, self.parameters = self.parameters, {}
        try:
            super().__post_init__()
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{where(self.target)}: {error}") from error
        finally:
            self.parameters = schema

    @property
    def needs_deps(self) -> bool:
        """Whether a run has to be given `deps=` for it."""
        types = self.signature.types
        return any(kind == "context" and needs_deps(types[name]) for name, kind in self.injections.items())

    @property
    def target(self) -> Callable[..., Any]:
        """The user's function."""
        function, async_function = functions_of(self)
        return cast("Callable[..., Any]", function or async_function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, unchecked, as its own code would."""
        return self.target(*args, **kwargs)

    def invoke(self, **kwargs: Any) -> Any:
        """
        Check the arguments and call the function.

        :param kwargs: Arguments as a model sent them.
        :returns: What the function returns.
        :raises ToolInvocationError: The arguments don't fit, the function failed or took too long, or it is
            async.
        """
        function, _ = functions_of(self)
        if function is None:
            return super().invoke(**kwargs)
        with self._called(self._checked(kwargs)) as call:
            return call.run(self._refuse_async)

    async def invoke_async(self, **kwargs: Any) -> Any:
        """
        Check the arguments and await the function; a sync one runs in a thread.

        :param kwargs: Arguments as a model sent them.
        :returns: What the function returns.
        :raises ToolInvocationError: The arguments don't fit, or the function failed or took too long.
        """
        with self._called(self._checked(kwargs)) as call:
            return await call.run_async()

    @contextmanager
    def _called(self, arguments: BoundArguments) -> Generator[Call]:
        """A call by another agent than ours, or by hand."""
        function, async_function = functions_of(self)
        work = current_cancel()
        with (work or CancelToken()).linked() as cancel, cancellable(cancel):
            try:
                yield Call(
                    name=self.name,
                    call_id=None,
                    function=function,
                    async_function=async_function,
                    arguments=lambda: arguments,
                    options=self.options,
                    retries=retries_of(self),
                    seconds=self.options.timeout,
                    cancel=cancel,
                    is_watched=work is not None,
                )
            except ToolInvocationError:
                raise
            except Exception as error:
                text = str(error) if isinstance(error, TimedOut) else failure_text(self.name, error)
                raise ToolInvocationError(text, tool_name=self.name) from error

    def _refuse_async(self, value: object) -> Any:
        if inspect.iscoroutine(value):
            value.close()
        raise ToolInvocationError(f"Tool '{self.name}' is async: use invoke_async", tool_name=self.name)

    def _checked(self, arguments: dict[str, Any]) -> BoundArguments:
        """Arguments of a caller that may have filled in State and State values, as Haystack's Agent does."""
        theirs = {*self.injections, *(self.inputs_from_state or {}).values()}
        bound = self.signature.bind({k: v for k, v in arguments.items() if k not in theirs})
        if isinstance(bound, BoundArguments):
            given = {name: value for name, value in arguments.items() if name in theirs}
            for name, kind in self.injections.items():
                # A model can write these names too: what it wrote there doesn't count.
                if name in given and not isinstance(given[name], _INJECTED[kind]):
                    del given[name]
            contexts = [name for name, kind in self.injections.items() if kind == "context"]
            return bound.with_values({**{name: context_of(self.name, None) for name in contexts}, **given})
        raise ToolInvocationError(rejection_text(self.name, bound), tool_name=self.name)

    def to_dict(self) -> dict[str, Any]:
        """
        The tool as data: the function's import path, name, description and hints.

        :returns: Data for `from_dict`.
        :raises SerializationError: The function has no import path: a lambda, a nested function, a bound
            method.
        """
        if _is_partial(self.target):
            raise SerializationError(
                f"tool '{self.name}' is a functools.partial and can't be saved: it has no import path. "
                "Make it a function of a module."
            )
        owner = getattr(self.target, "__self__", None)
        if isinstance(owner, type) and isinstance(vars(owner).get(self.target.__name__), _MethodTool):
            raise SerializationError(
                f"tool '{self.name}' is a class method under @tool and can't be saved: make it a function "
                "of a module."
            )
        if inspect.ismethod(self.target) and not isinstance(self.target.__self__, type):
            raise SerializationError(
                f"tool '{self.name}' is a method of an object and can't be saved: an object has no "
                "import path. Make it a function of a module."
            )
        data = {
            "function": serialize_callable(self.target),
            "name": self.name,
            "description": self.description,
            "hints": asdict(self.hints),
            "options": self.options.to_dict(),
            "inputs_from_state": self.inputs_from_state,
            "outputs_to_state": _with_handlers(self.outputs_to_state, _saved_handler),
            "outputs_to_string": None
            if is_default_output(self.outputs_to_string)
            else _with_handlers(self.outputs_to_string, _saved_handler),
        }
        return {"type": generate_qualified_class_name(type(self)), "data": data}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FunctionTool[..., Any]:
        """
        The tool that `to_dict` described.

        :param data: Made by `to_dict`. The function's module must be on Haystack's deserialization allowlist.
        :returns: The tool.
        """
        settings = data["data"]
        return function_tool(
            cast("Callable[..., Any]", deserialize_callable(settings["function"])),
            name=settings["name"],
            description=settings["description"],
            hints=ToolHints(**settings["hints"]),
            options=CallOptions.from_dict(settings.get("options", {})),
            inputs_from_state=settings.get("inputs_from_state"),
            outputs_to_state=_with_handlers(settings.get("outputs_to_state"), _loaded_handler),
            outputs_to_string=_with_handlers(settings.get("outputs_to_string"), _loaded_handler),
        )


_INJECTED: dict[Injection, type] = {"context": RunContext, "state": State, "callback": Callable}  # type: ignore[dict-item]


def _with_handlers(config: Json | None, change: Callable[[Any], Any]) -> Json | None:
    """A configuration of outputs, its handlers written as import paths, or read from them."""
    if config is None:
        return None
    return {
        key: change(value)
        if key == "handler"
        else _with_handlers(cast("Json", value), change)
        if isinstance(value, dict)
        else value
        for key, value in config.items()
    }


def _saved_handler(handler: Any) -> str:
    return serialize_callable(handler)


def _loaded_handler(path: str) -> Callable[..., Any]:
    return cast("Callable[..., Any]", deserialize_callable(path))


def _is_partial(function: object) -> bool:
    return isinstance(function, functools.partial)


class _MethodTool:
    """`@tool` on a method: gives a `FunctionTool` bound to the instance it is read from."""

    makes_tools: ClassVar = True

    def __init__(
        self,
        function: Callable[..., Any],
        make: Callable[[Callable[..., Any], Signature | None], FunctionTool[..., Any]],
    ):
        self._function = function
        self._make = make
        # By class: a generic one has other types for each of its arguments.
        self._signatures: dict[object, Signature] = {}
        self.name = function.__name__
        self.__doc__ = function.__doc__

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        # The signature is read once, and not before: type hints may name the class that is being defined.
        key = getattr(instance, "__orig_class__", owner)
        made = self._make(self._function.__get__(instance, owner), self._signatures.get(key))
        self._signatures[key] = made.signature
        return made


def unbound_name(thing: object) -> str | None:
    """
    The name of a method under `@tool` that was read from its class.

    :param thing: Anything.
    :returns: Its name; None for what isn't such a method.
    """
    return thing.name if isinstance(thing, _MethodTool) else None


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = True,
    sequential: bool = False,
    repeatable: bool = False,
    timeout: float | None = None,
    retry_on: type[Exception] | tuple[type[Exception], ...] = (),
    retries: int | None = None,
    max_result_chars: int | None = None,
    isolation: Isolation | None = None,
    inputs_from_state: dict[str, str] | None = None,
    outputs_to_state: dict[str, dict[str, Any]] | None = None,
    outputs_to_string: dict[str, Any] | None = None,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = True,
    sequential: bool = False,
    repeatable: bool = False,
    timeout: float | None = None,
    retry_on: type[Exception] | tuple[type[Exception], ...] = (),
    retries: int | None = None,
    max_result_chars: int | None = None,
    isolation: Isolation | None = None,
    inputs_from_state: dict[str, str] | None = None,
    outputs_to_state: dict[str, dict[str, Any]] | None = None,
    outputs_to_string: dict[str, Any] | None = None,
) -> Any:
    """
    Make a function a tool. Plain functions work as tools too; use this to give hints or another name.

    The result is a Haystack `Tool`, and can still be called like the function. On a method, each instance's
    attribute is a tool bound to that instance.

    :param function: The function, sync or async, with type hints and a docstring.
    :param name: Name the model sees; the function's own by default.
    :param description: Description the model sees; the docstring's summary and body by default.
    :param read_only: It changes nothing.
    :param destructive: It may destroy or overwrite: the command line asks a person first.
    :param idempotent: Calling it again with the same arguments changes nothing more.
    :param open_world: It reaches beyond this program's own data.
    :param sequential: It never runs beside another call of the same reply. Needed for plain functions that
        touch the same file or database, since no code can see that.
    :param repeatable: It polls: the same call may give the same result many times, and is no sign of a model
        that goes in circles.
    :param timeout: Seconds that a call may take, its retries included. An async function is cancelled then; a
        sync one goes on in its thread, without the run, since Python can't end it. Default: the agent's
        `tool_timeout`.
    :param retry_on: Exceptions that may pass by themselves (`ConnectionError`): the call is made again, after
        a wait that grows.
    :param retries: How often. Default: twice for a `read_only` or `idempotent` tool, never for others.
    :param max_result_chars: Most characters of a result that the model gets, in our Agent; a notice says what
        was left out. Default: a quarter of the model's window; the rest can be read by the model in parts.
    :param isolation: `process` to run each call in a process of its own, which is killed with all that it
        started when its time is over or the run ends. It needs a function that can be imported, and takes a
        moment to start.
    :param inputs_from_state: Keys of the run's State to parameters that get their values; a model doesn't see
        those parameters.
    :param outputs_to_state: Keys of the run's State to `{"source": key of the result, "handler": function}`,
        as in Haystack's `Tool`.
    :param outputs_to_string: What a model reads of the result, as in Haystack's `Tool`.
    :returns: The tool.
    :raises ConfigurationError: The function can't be described to a model, hints contradict each other, an
        option is out of range, or a State parameter doesn't exist.
    """

    def make(target: Callable[..., Any], signature: Signature | None = None) -> FunctionTool[..., Any]:
        try:
            hints = ToolHints(read_only, destructive, idempotent, open_world, sequential, repeatable)
            kinds = retry_on if isinstance(retry_on, tuple | list) else (retry_on,)
            options = CallOptions(timeout, tuple(kinds), retries, max_result_chars, isolation)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where(target)}: {error}") from None
        return function_tool(
            target,
            name=name,
            description=description,
            hints=hints,
            options=options,
            signature=signature,
            inputs_from_state=inputs_from_state,
            outputs_to_state=outputs_to_state,
            outputs_to_string=outputs_to_string,
        )

    def decorate(target: Callable[..., Any]) -> Any:
        return _MethodTool(target, make) if _defined_in_class(target) else make(target)

    return decorate if function is None else decorate(function)


def function_tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    hints: ToolHints | None = None,
    options: CallOptions | None = None,
    signature: Signature | None = None,
    inputs_from_state: dict[str, str] | None = None,
    outputs_to_state: dict[str, dict[str, Any]] | None = None,
    outputs_to_string: dict[str, Any] | None = None,
) -> FunctionTool[..., Any]:
    """
    Build the tool of a function.

    :param function: Anything that can be called: a function, sync or async, a bound method, a
        `functools.partial`, an object with `__call__`.
    :param name: As in `tool`.
    :param description: As in `tool`.
    :param hints: As in `tool`.
    :param options: As in `tool`.
    :param signature: The function's, where it has been read before.
    :param inputs_from_state: As in `tool`.
    :param outputs_to_state: As in `tool`.
    :param outputs_to_string: As in `tool`.
    :returns: The tool.
    :raises ConfigurationError: As in `tool`.
    """
    if isinstance(function, str):
        raise ConfigurationError(f"a tool's name is given by name: @tool(name='{function}')")
    if isinstance(function, type):
        raise ConfigurationError(
            f"{function.__name__} is a class and can't be a tool: its objects' methods can"
        )
    for option, value in (("name", name), ("description", description)):
        if not isinstance(value, str | None):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise ConfigurationError(f"{option} must be a text, not {value!r}")
    for option, value in (
        ("inputs_from_state", inputs_from_state),
        ("outputs_to_state", outputs_to_state),
        ("outputs_to_string", outputs_to_string),
    ):
        if value is not None and not isinstance(value, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise ConfigurationError(f"{option} must be a dictionary, as in Haystack's Tool, not {value!r}")
    if isinstance(function, _MethodTool):
        raise ConfigurationError(f"{function.name}: put @tool above @staticmethod or @classmethod, not below")
    if not callable(function):  # pyright: ignore[reportUnnecessaryComparison] - untyped callers
        raise ConfigurationError(f"{function!r} can't be a tool: give a function, or something else to call")
    if isinstance(function, Tool):
        raise ConfigurationError(f"'{function.name}' is a tool already: pass it as it is, or its function")
    from_state = frozenset((inputs_from_state or {}).values())

    def hidden(name: str, hint: Any) -> bool:
        injected = injection_of(name, hint) is not None
        if injected and name in from_state:
            raise ConfigurationError(
                f"{where(function)}: inputs_from_state names '{name}', which the run fills in by itself"
            )
        if not injected and name not in from_state and holds_injected(hint):
            raise ConfigurationError(
                f"{where(function)}: '{name}' has RunContext or State inside of another type. "
                "Give it that type alone, or with None."
            )
        return injected or name in from_state

    signature = signature or signature_of(function, hidden=hidden)
    target = bound_call(function) if is_object(function) else function
    is_async = inspect.iscoroutinefunction(target)
    made = FunctionTool[..., Any](
        name=name_of(function) if name is None else name,
        description=signature.description if description is None else description,
        parameters=signature.parameters,
        function=None if is_async else target,
        async_function=target if is_async else None,
        inputs_from_state=inputs_from_state,
        outputs_to_state=outputs_to_state,
        outputs_to_string=outputs_to_string,
        hints=hints or ToolHints(),
        options=options or CallOptions(),
        signature=signature,
    )
    if made.options.isolation is not None:
        _check_isolated(made)
    for written, meant in signature.misspelt.items():
        warnings.warn(
            f"{where(function)}: its docstring describes '{written}', which isn't a parameter: '{meant}'?",
            ToolDefinitionWarning,
            stacklevel=2,
        )
    if not made.description:
        warnings.warn(
            f"{where(function)} has no docstring, or none with a summary: a model reads nothing but its "
            "name. Say in one what it is for.",
            ToolDefinitionWarning,
            stacklevel=2,
        )
    return made


def _check_isolated(tool: FunctionTool[..., Any]) -> None:
    """Another process has nothing of this one's run."""
    if tool.injections:
        raise ConfigurationError(
            f"{where(tool.target)}: isolation='process' can't give it {', '.join(tool.injections)}: what the "
            "run fills in stays in this process"
        )
    check_can_be_sent(tool.target, where(tool.target))


def failure_text(name: str, error: BaseException) -> str:
    """
    What the model is told of a tool's exception.

    :param name: The tool.
    :param error: What it raised.
    :returns: One line: the tool, the exception's class and text; what the tool itself says with `ToolRetry`
        and `ToolDenied`.
    """
    said = f": {text}" if (text := own_text(error)) else "."
    if isinstance(error, ToolRetry):
        return f"Tool '{name}' wants to be called again with other arguments{said}"
    if isinstance(error, ToolDenied):
        return f"Tool '{name}' refused, don't ask again{said}"
    text = own_text(error) or "no details"
    return f"Tool '{name}' failed: {type(error).__name__}: {text}"


def rejection_text(name: str, problems: list[str]) -> str:
    """
    What the model is told of arguments that don't fit.

    :param name: The tool.
    :param problems: One line per problem.
    :returns: The lines under a heading.
    """
    return "\n".join([f"Tool '{name}' was not called: the arguments don't fit.", *problems])


def _defined_in_class(function: Callable[..., Any]) -> bool:
    """
    Whether a function is being defined in a class body, where `@tool` sees it before any instance exists.
    """
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not scope or scope.endswith("<locals>") or inspect.ismethod(function):
        return False
    frame = inspect.currentframe()
    while frame is not None:
        # Only the bodies of classes keep their names in a dictionary that has this one.
        if not frame.f_code.co_flags & inspect.CO_OPTIMIZED and "__qualname__" in frame.f_locals:
            return True
        frame = frame.f_back
    return False
