"""Names of tools have to be unique: a model's call says nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from haystack.tools.tool import Tool

from llama_agent.errors import ConfigurationError


def check_tool_names(tools: Iterable[object]) -> None:
    """
    Make sure that no two tools have one name.

    :param tools: Tools; other things among them are passed over.
    :raises ConfigurationError: Two have.
    """
    seen: set[str] = set()
    for tool in tools:
        if isinstance(tool, Tool):
            if tool.name in seen:
                raise ConfigurationError(
                    f"two tools are named '{tool.name}': rename one with @tool(name=...)"
                )
            seen.add(tool.name)
