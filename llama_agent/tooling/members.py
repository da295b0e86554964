"""A whole object or module as tools: its public documented methods or functions."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import cast

from haystack.tools.tool import Tool
from haystack.tools.toolset import Toolset

from llama_agent.errors import ConfigurationError

_METHODS = (FunctionType, classmethod, staticmethod, functools.partialmethod)
_FOREIGN = frozenset({"pydantic", "haystack"})


def members_of(thing: object) -> Iterator[tuple[str, object]]:
    """
    What of an object or module can be a tool.

    Of a module: its Tools and Toolsets, and the functions that it defines (with `__all__`: those it names).
    Of an object: its methods, in the order of their definition; not those that its class has from Python's
    own library, pydantic or Haystack. In both cases public and with a docstring: it is what a model reads.

    :param thing: A module, or an object of a class of the user's.
    :returns: Names, and functions, bound methods, Tools or Toolsets.
    """
    return _of_module(thing) if isinstance(thing, ModuleType) else _of_object(thing)


def has_members(thing: object) -> bool:
    """
    Whether something can be read as a whole.

    :param thing: Anything.
    :returns: True for a module and for an object of a class that isn't Python's own.
    """
    return isinstance(thing, ModuleType) or (not isinstance(thing, type) and _is_users(type(thing)))


def _of_module(module: ModuleType) -> Iterator[tuple[str, object]]:
    named = getattr(module, "__all__", None)
    for name, value in list(vars(module).items()):
        if name not in named if named is not None else name.startswith("_"):
            continue
        if isinstance(value, Tool | Toolset) or (
            inspect.isfunction(value) and value.__doc__ and (named or value.__module__ == module.__name__)
        ):
            yield name, value


def _of_object(thing: object) -> Iterator[tuple[str, object]]:
    seen: set[str] = set()
    for cls in reversed(type(thing).__mro__):
        if not _is_users(cls):
            continue
        for name, member in vars(cls).items():
            # Looked up without running anything: a property may do work.
            found = inspect.getattr_static(thing, name, member)
            if name.startswith("_") or name in seen or not _is_method(found):
                continue
            seen.add(name)
            value = cast("object", getattr(thing, name))
            if not isinstance(value, Tool) and any(_is_tool_in(base, name) for base in type(thing).__mro__):
                raise ConfigurationError(
                    f"{type(thing).__name__}.{name} overrides a method that has @tool: give it @tool as "
                    "well, its hints (destructive, ...) aren't inherited"
                )
            if isinstance(value, Tool) or inspect.getdoc(_documented(value)):
                yield name, value


def _is_method(member: object) -> bool:
    # `@tool` on a method is a descriptor of ours, known by what it makes.
    return isinstance(member, _METHODS) or hasattr(type(member), "makes_tools")


def _is_tool_in(cls: type, name: str) -> bool:
    return hasattr(cast("object", vars(cls).get(name)), "makes_tools")


def _documented(value: object) -> object:
    while isinstance(value, functools.partial):
        value = cast("object", value.func)
    return value


def _is_users(cls: type) -> bool:
    top = cls.__module__.partition(".")[0]
    return (top not in sys.stdlib_module_names or top == "__main__") and top not in _FOREIGN
