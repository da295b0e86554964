"""What a tool can be told of the run that it works for, and which parameters ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from haystack.components.agents.state.state import State

from llama_agent.cancel import CancelToken
from llama_agent.events import EventSink, ToolProgress, current_sink

Deps = TypeVar("Deps")


@dataclass(frozen=True)
class RunContext(Generic[Deps]):
    """
    The run that a tool works for. A parameter annotated `RunContext[T]` gets it; a model doesn't see that
    parameter. `T` is the type of what was given as `agent.run(..., deps=...)`.

    In another agent than ours (a Haystack Agent), `run_id` is empty, `step` 0 and `deps` None.

    :param run_id: The run; `RunResult.run_id` is the same.
    :param step: Number of the step, from 1.
    :param call_id: The model's id of this call, if it gave one.
    :param tool_name: The tool's name.
    :param deps: The caller's object, unchanged.
    :param cancel: Says whether the run was broken off: a tool that works for long looks at it.
    """

    run_id: str
    step: int
    call_id: str | None
    tool_name: str
    deps: Deps
    cancel: CancelToken = field(default_factory=CancelToken, compare=False)
    _sink: EventSink | None = field(default=None, repr=False, compare=False)

    def progress(self, text: str) -> None:
        """
        Tell whoever watches the run how far the tool is: a `ToolProgress` event. From any thread.

        :param text: For people; the model doesn't see it.
        """
        if self._sink is not None:
            self._sink.emit(ToolProgress, tool_name=self.tool_name, call_id=self.call_id, text=text)


Injection: TypeAlias = Literal["context", "state", "callback"]

_CALLBACK = "streaming_callback"
"""Haystack's name of the parameter that gets the run's callback."""


def injections_of(types: Mapping[str, Any]) -> dict[str, Injection]:
    """
    Parameters that the run fills in.

    :param types: Type hints by parameter name.
    :returns: What each of those parameters gets.
    """
    return {
        name: injection
        for name, hint in types.items()
        if name != "return" and (injection := injection_of(name, hint)) is not None
    }


def injection_of(name: str, hint: Any) -> Injection | None:
    """
    What the run fills a parameter with.

    :param name: The parameter's name.
    :param hint: Its type hint; None where it has none.
    :returns: `context` for a `RunContext`, `state` for Haystack's `State`, `callback` for one that is named
        `streaming_callback`; None for the model's own.
    """
    kind = _without_none(hint)
    if kind is RunContext or get_origin(kind) is RunContext:
        return "context"
    if kind is State:
        return "state"
    return "callback" if name == _CALLBACK else None


def needs_deps(hint: Any) -> bool:
    """
    Whether a context's type says that the caller has to give an object.

    :param hint: A parameter's type hint.
    :returns: True for `RunContext[Database]`; False for `RunContext`, `RunContext[Any]` and the like.
    """
    wanted = next(iter(get_args(_without_none(hint))), Any)
    if wanted in (Any, None, type(None), object) or isinstance(wanted, TypeVar):
        return False
    return type(None) not in get_args(wanted)


def holds_injected(hint: Any) -> bool:
    """
    Whether a type hint has what the run fills in only somewhere inside, where nobody can fill it in.

    :param hint: A parameter's type hint.
    :returns: True for `list[RunContext]` or `State | int`.
    """
    inside = any(holds_injected(argument) for argument in get_args(hint))
    return hint is RunContext or hint is State or get_origin(hint) is RunContext or inside


def context_of(
    tool_name: str, call_id: str | None, deps: object = None, cancel: CancelToken | None = None
) -> RunContext[Any]:
    """
    The context of a call in the current run.

    :param tool_name: The tool.
    :param call_id: The model's id of the call.
    :param deps: The caller's object.
    :param cancel: The run's.
    :returns: The context; outside a run, one that says nothing.
    """
    sink = current_sink()
    return RunContext(
        run_id=sink.run_id if sink else "",
        step=sink.step if sink else 0,
        call_id=call_id,
        tool_name=tool_name,
        deps=deps,
        cancel=cancel or CancelToken(),
        _sink=sink,
    )


def _without_none(hint: Any) -> Any:
    """A hint without annotations and without `| None`."""
    if get_origin(hint) is Annotated:
        return _without_none(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        others = [argument for argument in get_args(hint) if argument is not type(None)]
        return _without_none(others[0]) if len(others) == 1 else hint
    return hint
