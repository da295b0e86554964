"""Names of tools: unique, for a model's call says nothing else; and what a model makes of them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import Any, cast

from haystack.tools.tool import Tool

from llama_agent.errors import ConfigurationError

_PREFIXES = ("functions.", "tools/", "default_api.")


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


def offered_name(written: str, offered: Collection[str]) -> str | None:
    """
    The tool that a model means by a name.

    Names come with prefixes (openclaw/openclaw#39328), in another case, with `-` for `_`
    (microsoft/autogen#7786). Nothing is guessed beyond that.

    :param written: As the model wrote it.
    :param offered: Names of the tools on offer.
    :returns: The one name that it can mean; None when there is none, or more than one.
    """
    if written in offered:
        return written
    bare = written.strip()
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    readings = dict.fromkeys((bare, bare.rpartition(".")[2]))
    if exact := [reading for reading in readings if reading in offered]:
        return exact[0]
    alike = {_plain(reading) for reading in readings}
    matches = [name for name in offered if _plain(name) in alike]
    return matches[0] if len(matches) == 1 else None


def _plain(name: str) -> str:
    return name.replace("-", "_").casefold()


def _place_of(tool: Tool) -> str:
    """Name, file and line of a tool's function, as far as it has source."""
    function = cast("Any", tool).function or cast("Any", tool).async_function
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{function.__qualname__}, {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
