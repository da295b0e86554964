"""Whatever a user passes as `tools=` → Haystack's Tools and Toolsets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from haystack.tools.tool import Tool
from haystack.tools.toolset import Toolset

from llama_agent.errors import ConfigurationError
from llama_agent.tool_names import check_tool_names
from llama_agent.tooling.members import has_members, members_of
from llama_agent.tooling.tool import function_tool, unbound_name


def as_tools(tools: object) -> list[Tool | Toolset] | Toolset | None:
    """
    Make tools of whatever a user may pass as `tools=`.

    :param tools: None, a Toolset, or a list (nested as one likes) of functions, bound methods, objects and
        modules with public documented functions, Haystack Tools and Toolsets.
    :returns: What Haystack accepts; a single Toolset stays itself.
    :raises ConfigurationError: Something in it can't be a tool, or two tools have one name.
    """
    if tools is None or isinstance(tools, Toolset):
        return tools
    given = cast("Iterable[object]", tools if isinstance(tools, list | tuple) else [tools])
    flat = list(_flatten(given))
    # A toolset of another class may connect somewhere when it is read: those are checked in the run.
    check_tool_names(t for item in flat for t in (item if type(item) is Toolset else [item]))
    return flat


def _flatten(items: Iterable[object]) -> Iterable[Tool | Toolset]:
    for item in items:
        if isinstance(item, Tool | Toolset):
            yield item
        elif isinstance(item, list | tuple):
            yield from _flatten(cast("Iterable[object]", item))
        elif (name := unbound_name(item)) is not None:
            raise ConfigurationError(
                f"{name}: a method has to be taken from an instance: pass thing.{name}, not Class.{name}"
            )
        elif callable(item) and not isinstance(item, type):
            yield function_tool(item)
        elif isinstance(item, type):
            raise ConfigurationError(
                f"{item!r} can't be a tool: it is a class. Pass an object of it: {item.__name__}(...)"
            )
        elif has_members(item):
            yield from _tools_of_members(item)
        else:
            raise ConfigurationError(
                f"{item!r} can't be a tool: give a function, a bound method, an object or module with "
                "documented functions, a Haystack Tool or a Toolset"
            )


def _tools_of_members(thing: object) -> Iterable[Tool | Toolset]:
    found = [
        member if isinstance(member, Tool | Toolset) else function_tool(cast("Any", member), name=name)
        for name, member in members_of(thing)
    ]
    if not found:
        raise ConfigurationError(
            f"{thing!r} has no public function or method with a docstring. A tool needs one: it is what the "
            "model reads."
        )
    return found
