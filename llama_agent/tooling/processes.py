"""
Runs a function in a process of its own, which can be killed whatever it does: with all that it has started.

The process is spawned, not forked: it begins with nothing of this one's threads, locks and connections. So
the function, its arguments and what it returns go over by pickle, a function by its import path.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

from llama_agent.cancel import CancelToken
from llama_agent.errors import ConfigurationError
from llama_agent.tooling.process_child import Answer, pickled, serve
from llama_agent.tooling.results import own_text
from llama_agent.tooling.schema import BoundArguments

_LOOK_SECONDS = 0.2
"""A signal that comes just before Python goes to sleep is only looked at when it wakes up."""
_END_SECONDS = 1.0
"""How long a process may take to end once it has answered."""


def check_can_be_sent(function: Callable[..., Any], where: str) -> None:
    """
    Make sure that another process can be given a function.

    :param function: A tool's.
    :param where: `name (file:line)`, for the message.
    :raises ConfigurationError: It can't be pickled.
    """
    try:
        pickled(function, is_being_defined=True)
    except Exception as error:
        raise ConfigurationError(
            f"{where}: isolation='process' needs a function that another process can import, with what it "
            f"is bound to: {own_text(error)}. Make it a function of a module."
        ) from error


def check_not_in_import() -> None:
    """
    Make sure that this is no process of a tool that only imports the program's script again.

    :raises ConfigurationError: It is: what the script does would be done again.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigurationError(
            "a tool with isolation='process' imports the script that it stands in: put what the script runs "
            "under  if __name__ == '__main__':"
        )


def run_in_process(function: Callable[..., Any], arguments: BoundArguments, cancel: CancelToken) -> Any:
    """
    Call a function in a process of its own, and wait for it.

    :param function: Sync or async.
    :param arguments: For it.
    :param cancel: Kills the process, and all that it has started in its process group.
    :returns: What it returns; items of a generator as a list.
    :raises ProcessEnded: The process ended without an answer.
    :raises Cancelled: The token was cancelled.
    """
    positional, keyword = arguments.split()
    task = pickled((function, positional, keyword))
    context = multiprocessing.get_context("spawn")
    answers, sender = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(sender, task, _writes_elsewhere()), name="llama-agent-tool")
    try:
        process.start()
        sender.close()
        with _killed_by(process, cancel):
            answer = _answer_of(process, answers)
            cancel.check()
        process.join(_END_SECONDS)
        return _opened(answer, process)
    finally:
        sender.close()
        answers.close()
        _kill(process)


class ProcessEnded(Exception):
    """A tool's process ended without an answer."""


class _killed_by:
    """Kills a process as soon as a token is cancelled."""

    def __init__(self, process: SpawnProcess, cancel: CancelToken) -> None:
        self._process = process
        self._cancel = cancel

    def __enter__(self) -> None:
        self._remove = self._cancel.on_cancel(lambda: _kill_all(self._process))

    def __exit__(self, *_: object) -> None:
        self._remove()


def _answer_of(process: SpawnProcess, answers: Connection) -> bytes | None:
    while True:
        ready = wait([answers, process.sentinel], timeout=_LOOK_SECONDS)
        if answers in ready or (ready and answers.poll()):
            with suppress(EOFError, OSError):
                return answers.recv_bytes()
            return None
        # A copy of the process (`os.fork`) keeps all open that it had; then only its exit code tells.
        if ready or process.exitcode is not None:
            return None


def _opened(answer: bytes | None, process: SpawnProcess) -> Any:
    if answer is None:
        process.join(_END_SECONDS)
        code = process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        _kill_all(process)
        raise ProcessEnded(f"its process ended without an answer ({how})")
    returned, value, (kind, text), trace = cast("Answer", pickle.loads(answer))
    try:
        loaded = pickle.loads(value)
    except Exception as error:
        if returned:
            raise ProcessEnded(f"what it returned can't be read: {own_text(error)}") from error
        loaded = type(kind, (Exception,), {})(text)
    if returned:
        return loaded
    raise loaded from _Remote(trace)


class _Remote(Exception):
    """Shows the traceback of another process."""

    def __init__(self, trace: str) -> None:
        super().__init__(f"in the tool's process:\n{trace}")


def _kill(process: SpawnProcess) -> None:
    """End a process for good; of one that has ended, nothing is touched."""
    if process.pid is None:
        return
    if process.is_alive():
        _kill_all(process)
        process.join()
    process.close()


def _kill_all(process: SpawnProcess) -> None:
    """Kill a process and its group, which it may not lead yet."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(cast("int", process.pid), signal.SIGKILL)
    with suppress(ValueError):  # it has been closed just now
        process.kill()


def _writes_elsewhere() -> bool:
    """Whether what tools print goes to standard error here, as on our command line."""
    with suppress(Exception):
        return sys.stdout.fileno() == sys.stderr.fileno()
    return False
