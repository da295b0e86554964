"""Names of tools have to be unique: a model's call says nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, cast

from haystack.tools.tool import Tool

from llama_agent.errors import ConfigurationError


def check_tool_names(tools: Iterable[object]) -> None:
    """
    Make sure that no two tools have one name.

    :param tools: Tools; other things among them are passed over.
    :raises ConfigurationError: Two have.
    """
    seen: dict[str, Tool] = {}
    for tool in tools:
        if isinstance(tool, Tool):
            if tool.name in seen:
                places = {_place_of(seen[tool.name]), _place_of(tool)} - {""}
                shown = f" ({' and '.join(sorted(places))})" if places else ""
                raise ConfigurationError(
                    f"two tools are named '{tool.name}'{shown}: give it once, or rename one with "
                    "@tool(name=...), for the methods of two objects with tool(thing.method, name=...)"
                )
            seen[tool.name] = tool


def _place_of(tool: Tool) -> str:
    """Name, file and line of a tool's function, as far as it has source."""
    function = cast("Any", tool).function or cast("Any", tool).async_function
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{function.__qualname__}, {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
