"""Which calls of one reply wait for which: those that could get in each other's way keep their order."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast, get_type_hints

from haystack.dataclasses import ToolCall
from haystack.tools.component_tool import ComponentTool
from haystack.tools.tool import Tool

from llama_agent.tooling.run_context import Injection, injections_of
from llama_agent.tooling.tool import FunctionTool, functions_of, hints_of


def waits_of(calls: Sequence[tuple[ToolCall, Tool | None]], *, one_by_one: bool = False) -> list[list[int]]:
    """
    Find the order that calls must keep.

    Calls wait for earlier ones that share an object or keys of the State with them, or where one of the two
    is `sequential` or `destructive`.

    :param calls: In the model's order, each with its tool, if there is one.
    :param one_by_one: Whether each waits for all before it.
    :returns: For each call, the places of those that it waits for.
    """
    claims = [_Claims.of(call, tool) for call, tool in calls]
    return [
        [place for place in range(later) if one_by_one or claim.conflicts_with(claims[place])]
        for later, claim in enumerate(claims)
    ]


def injections_in(tool: Tool) -> Mapping[str, Injection]:
    """
    Parameters of any Haystack tool that the run fills in.

    :param tool: Any.
    :returns: What each of those parameters gets.
    """
    if isinstance(tool, FunctionTool):
        return cast("FunctionTool[..., Any]", tool).injections
    return injections_of(_parameter_types(tool))


def _target_of(tool: Tool) -> Callable[..., Any]:
    function, async_function = functions_of(tool)
    return cast("Callable[..., Any]", function or async_function)


def _parameter_types(tool: Tool) -> Mapping[str, Any]:
    if isinstance(tool, ComponentTool):
        return dict.fromkeys(tool.parameters.get("properties", {}))
    target = _target_of(tool)
    try:
        return get_type_hints(target, include_extras=True)
    except (NameError, TypeError):
        return {name: p.annotation for name, p in inspect.signature(target).parameters.items()}


@dataclass(frozen=True)
class _Claims:
    """What a call touches, as far as code can see. `reads`/`writes`: State keys; None means all of them."""

    alone: bool
    owner: int | None
    reads: frozenset[str] | None
    writes: frozenset[str] | None

    @classmethod
    def of(cls, call: ToolCall, tool: Tool | None) -> _Claims:
        if tool is None:
            return cls(False, None, frozenset(), frozenset())
        hints = hints_of(tool)
        alone = hints.sequential or hints.destructive
        if "state" in injections_in(tool).values():
            return cls(alone, _owner_of(tool), None, None)
        sources = tool.inputs_from_state or {}
        reads = frozenset(key for key, name in sources.items() if name not in call.arguments)
        return cls(alone, _owner_of(tool), reads, frozenset(tool.outputs_to_state or {}))

    def conflicts_with(self, other: _Claims) -> bool:
        return (
            self.alone
            or other.alone
            or (self.owner is not None and self.owner == other.owner)
            or _overlap(self.writes, other.writes)
            or _overlap(self.writes, other.reads)
            or _overlap(self.reads, other.writes)
        )


def _overlap(a: frozenset[str] | None, b: frozenset[str] | None) -> bool:
    if a is None or b is None:
        return (a is None or bool(a)) and (b is None or bool(b))
    return bool(a & b)


def _owner_of(tool: Tool) -> int | None:
    """Identity of the object that a tool's bound method belongs to."""
    target = _target_of(tool)
    while isinstance(target, functools.partial):
        target = cast("Callable[..., Any]", target.func)
    owner = getattr(target, "__self__", None)
    return None if owner is None or isinstance(owner, ModuleType) else id(owner)
