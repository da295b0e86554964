"""
What the process of a tool does: unpack the call, make it, answer.

It imports little, since each call waits for that.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterable, Callable, Iterator, Mapping, Sequence
from functools import reduce
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.connection import Connection
from types import FunctionType, ModuleType
from typing import Any, TypeAlias, cast

Answer: TypeAlias = tuple[bool, bytes, tuple[str, str], str]
"""
Whether it returned; the value or the exception, pickled; the exception's class and text, and its traceback.
"""


def serve(sender: Connection, task: bytes, prints_to_stderr: bool) -> None:
    """
    Lead a process group of its own, make a call, answer.

    :param sender: For the answer.
    :param task: Function, positional and named arguments, by `pickled`.
    :param prints_to_stderr: Whether what the tool prints goes to standard error.
    """
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prints_to_stderr:
        os.dup2(2, 1)
    try:
        function, positional, keyword = pickle.loads(task)
        answer: Answer = (True, pickled(_called(function, positional, keyword)), ("", ""), "")
    except (Exception, SystemExit) as error:
        answer = _failure(error)
    sys.stdout.flush()
    sender.send_bytes(pickle.dumps(answer))


def pickled(thing: object, *, is_being_defined: bool = False) -> bytes:
    """
    Pickle something, its functions as import paths.

    :param thing: Any.
    :param is_being_defined: Whether a function's own name may not mean it yet.
    :returns: The pickle.
    """
    buffer = io.BytesIO()
    kind = _LenientPickler if is_being_defined else _Pickler
    kind(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(thing)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    """Writes functions as paths, though in their module a tool may stand in their place."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, FunctionType) or obj is _found:
            return NotImplemented
        module, path = obj.__module__, obj.__qualname__
        if "<" in path:
            raise pickle.PicklingError(f"'{path}' is defined within a function, or a lambda")
        if module == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
            raise pickle.PicklingError("it was typed in, and stands in no file")
        self.check_path(obj)
        return _found, (module, path, getattr(sys.modules.get(module), "__file__", None))

    def check_path(self, function: FunctionType) -> None:
        """Make sure that a path leads to the function, or to the tool that was made of it."""
        if _at_path(function) is not function:
            raise pickle.PicklingError(
                f"'{function.__qualname__}' of {function.__module__} is another function"
            )


class _LenientPickler(_Pickler):
    """For a function that is being defined: its name may mean nothing yet, or an earlier one."""

    def check_path(self, function: FunctionType) -> None:
        found = _at_path(function)
        is_later = (
            isinstance(found, FunctionType)
            and found.__code__.co_filename == function.__code__.co_filename
            and found.__code__.co_firstlineno > function.__code__.co_firstlineno
        )
        wraps_it = getattr(found, "__wrapped__", None) is function
        if found is not function and (is_later or wraps_it):
            super().check_path(function)


def _at_path(function: FunctionType) -> object:
    """What stands where a function says that it stands; None for nothing."""
    try:
        home = cast("Any", sys.modules[function.__module__])
        return _function_of(reduce(getattr, function.__qualname__.split("."), home))
    except (KeyError, AttributeError):
        return None


def _found(module: str, path: str, file: str | None) -> Callable[..., Any]:
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module or file is None:
            raise
        home = _loaded(module, file)
    return _function_of(reduce(getattr, path.split("."), cast("Any", home)))


def _loaded(module: str, file: str) -> ModuleType:
    """A module that was loaded from a file, as the command line loads those of `--tools`."""
    spec = spec_from_file_location(module, file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{file} can't be loaded", name=module)
    loaded = sys.modules[module] = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _function_of(found: Any) -> Callable[..., Any]:
    """The function of a tool that stands where the function stood."""
    is_tool = f"{type(found).__module__}.{type(found).__name__}" == "llama_agent.tooling.tool.FunctionTool"
    return found.target if is_tool else found


def _called(function: Callable[..., Any], positional: Sequence[Any], keyword: Mapping[str, Any]) -> Any:
    value = _function_of(function)(*positional, **keyword)
    if inspect.isawaitable(value) or isinstance(value, AsyncIterable):
        return asyncio.run(_finished(value))
    if not isinstance(value, Iterator):
        return value
    from llama_agent.tooling.results import collected

    return collected(value)


async def _finished(value: Any) -> Any:
    while inspect.isawaitable(value):
        value = await value
    if not isinstance(value, AsyncIterable):
        return value
    from llama_agent.tooling.results import collected_async

    return await collected_async(cast("AsyncIterable[object]", value))


def _failure(error: BaseException) -> Answer:
    trace = "".join(traceback.format_exception(error))
    try:
        value = pickle.dumps(error)
        pickle.loads(value)
    except Exception:
        value = b""  # what it was called and said is all that can be told
    return False, value, (type(error).__name__, _text_of(error)), trace


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "no details"


def _end_with_parent() -> None:
    """When the program is killed, its tools aren't to go on without it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
