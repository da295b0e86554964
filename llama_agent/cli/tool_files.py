"""`--tools FILE.py`, `FILE.py:name`, `module`, `module:name` → tools."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from haystack.tools import flatten_tools_or_toolsets
from haystack.tools.tool import Tool
from haystack.tools.toolset import Toolset

from llama_agent.arguments import nearest
from llama_agent.errors import ConfigurationError
from llama_agent.tool_names import check_tool_names
from llama_agent.tooling.given_tools import as_tools
from llama_agent.tooling.members import has_members, members_of


def load_tools(sources: Iterable[str], workspace: Path | None = None) -> list[Tool | Toolset]:
    """
    Import tools.

    :param sources: Each a Python file or a module, with `:name` for one thing in it (`:object.method` as
        well). Without a name: its public functions that have docstrings, and its Tools and Toolsets. The
        code in it runs, as with any import.
    :param workspace: A folder to give the file tools for.
    :returns: The tools.
    :raises ConfigurationError: A source can't be imported, or has nothing that can be a tool.
    """
    found: list[Tool | Toolset] = []
    for source in sources:
        where, name = _split(source)
        thing: object = _import(where)
        for part in name.split(".") if name else ():
            thing = _named(thing, part, source, where)
        found += _as_tools(source, [thing])
    if workspace is not None:
        from llama_agent_tools.files import Workspace

        found += _as_tools(f"--workspace {workspace}", [Workspace(workspace)])
    check_tool_names(found)
    return found


def _as_tools(source: str, things: list[object]) -> list[Tool | Toolset]:
    try:
        tools = as_tools(things)
    except ConfigurationError as error:
        option = "" if source.startswith("--") else "--tools "
        raise ConfigurationError(f"{option}{source}: {error}") from error
    return tools if isinstance(tools, list) else []


def _named(thing: object, name: str, source: str, where: str) -> object:
    """An attribute, or the tool that a model knows by that name."""
    if hasattr(thing, name):
        return cast("object", getattr(thing, name))
    if has_members(thing):
        members = {str(getattr(member, "name", own)): member for own, member in members_of(thing)}
        if name in members:
            return members[name]
        near = f" Did you mean '{meant}'?" if (meant := nearest(name, members)) else ""
        raise ConfigurationError(f"--tools {source}: there is no '{name}' in {where}.{near}")
    raise ConfigurationError(f"--tools {source}: there is no '{name}' in {where}")


def state_of(tools: Iterable[Tool | Toolset]) -> dict[str, dict[str, object]]:
    """
    A state schema for tools that share values: of any type, since a command line can't say which.

    :param tools: All tools.
    :returns: For `Agent(state_schema=)`.
    """
    flat = flatten_tools_or_toolsets(list(tools))
    return {
        key: {"type": Any}
        for tool in flat
        for key in (*(tool.outputs_to_state or {}), *(tool.inputs_from_state or {}))
    }


def _split(source: str) -> tuple[str, str]:
    file, dot_py, rest = source.partition(".py")
    if dot_py and (not rest or rest.startswith(":")):
        return f"{file}.py", rest[1:]
    module, _, name = source.partition(":")
    return module, name


def _import(where: str) -> ModuleType:
    is_file = where.endswith(".py")
    path = Path(where)
    if is_file and not path.is_file():
        raise ConfigurationError(f"--tools {where}: there is no such file")
    # So that the file can import its neighbours, and a module in this folder is found.
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _import_file(path) if is_file else importlib.import_module(where)
    except (Exception, SystemExit) as error:
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")
        ]
        own = [f for f in frames if f.filename != __file__]
        place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
        raise ConfigurationError(
            f"--tools {where}: importing it failed: {type(error).__name__}: {error}{place}"
        ) from error


def _import_file(path: Path) -> ModuleType:
    name = f"llama_agent_tools_of_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"--tools {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
