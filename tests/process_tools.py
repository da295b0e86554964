"""
Functions for tools that run in processes of their own: importable, and light to import.

Those that never end tell a `Witness` their process numbers through a FIFO, and keep it open: it reads its end
once the last of them has gone, however it went.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

HOLD = 60.0
"""Seconds after which what "never ends" ends all the same, so that a test that fails leaves nothing."""
PATIENCE = 15.0
"""Seconds after which something that should have happened counts as never happening."""

changed = "no"
"""A test changes it in its own process."""


class Witness:
    """Hears what processes say, and when the last of them has ended."""

    def __init__(self, folder: Path, name: str = "witness") -> None:
        self.path = str(folder / name)
        os.mkfifo(self.path)
        self._pipe = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self._heard = b""

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)

    def line(self, seconds: float = PATIENCE) -> str:
        """The next line; "" when none came in time."""
        end = monotonic() + seconds
        while b"\n" not in self._heard:
            if not self._hears(end - monotonic()):
                return ""
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def has_heard(self) -> bool:
        """Whether somebody has spoken so far."""
        return self._hears(0) or bool(self._heard)

    def is_over(self, seconds: float = PATIENCE) -> bool:
        """Whether all who spoke have ended; waits for it."""
        end = monotonic() + seconds
        while self._hears(end - monotonic()):
            pass
        return self._has_hung_up(end - monotonic())

    def _hears(self, seconds: float) -> bool:
        """Whether more came, within so many seconds."""
        if not self._poll(seconds) & select.POLLIN:
            return False
        more = os.read(self._pipe, 65_536)
        self._heard += more
        return bool(more)

    def _has_hung_up(self, seconds: float) -> bool:
        return bool(self._poll(seconds) & select.POLLHUP)

    def _poll(self, seconds: float) -> int:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        return next((event for _, event in poll.poll(max(0, int(seconds * 1000)))), 0)


class Gate:
    """Lets processes through that wait at it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gate")
        os.mkfifo(self.path)
        self._pipe = os.open(self.path, os.O_RDWR)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)

    def let_through(self, number: int) -> None:
        os.write(self._pipe, b"." * number)


def tell(witness: str, *words: object) -> int:
    """Say something to a witness; the pipe stays open as long as this process lives."""
    pipe = os.open(witness, os.O_WRONLY | os.O_NONBLOCK)  # where nobody listens any more, it fails
    os.write(pipe, (" ".join(map(str, words)) + "\n").encode())
    return pipe


# That end.


def own_pid() -> int:
    """Give the number of the process that this runs in."""
    return os.getpid()


async def own_pid_async() -> int:
    """Give the number of the process that this runs in."""
    await asyncio.sleep(0)
    return os.getpid()


def in_main_thread() -> bool:
    """Say whether this runs in its process's main thread."""
    return threading.current_thread() is threading.main_thread()


def what_was_changed() -> str:
    """Give what a test changed in another process."""
    return changed


def variable(name: str) -> str | None:
    """Give a variable of the environment."""
    return os.environ.get(name)


def folder() -> str:
    """Give the current folder."""
    return str(Path.cwd())


@dataclass
class Parcel:
    """Something that can be sent."""

    weight: int
    to: str = "me"


def double(value: int) -> int:
    """Double a number."""
    return 2 * value


async def double_async(value: int) -> int:
    """Double a number."""
    await asyncio.sleep(0)
    return 2 * value


def heavier(parcel: Parcel) -> Parcel:
    """Make a parcel heavier."""
    return Parcel(parcel.weight + 1, parcel.to)


def as_dictionary(value: int) -> dict[str, Any]:
    """Give a number under a name."""
    return {"value": value, "half": value / 2}


def nothing() -> None:
    """Do nothing."""


def counting() -> Iterator[int]:
    """Count to three."""
    yield from (1, 2, 3)


async def counting_async():  # type: ignore[no-untyped-def]
    """Count to three."""
    for number in (1, 2, 3):
        yield number


def some_bytes() -> bytes:
    """Give bytes."""
    return bytes(range(256))


def text_of_length(length: int) -> str:
    """Give a long text."""
    return "x" * length


def length_of(text: str) -> int:
    """Measure a text."""
    return len(text)


def chatter(kilobytes: int) -> str:
    """Print much, in every way that there is."""
    for _ in range(kilobytes):
        print("o" * 1023)
        print("e" * 1023, file=sys.stderr)
        os.write(1, b"O" * 1023 + b"\n")
        os.write(2, b"E" * 1023 + b"\n")
    return "said"


def from_stdin() -> str:
    """Give what can be read from standard input."""
    return f"read {sys.stdin.read()!r}" if sys.stdin else "read ''"


def leaves_a_thread() -> str:
    """Return, and leave a thread behind that never ends."""
    threading.Thread(target=threading.Event().wait, args=[HOLD]).start()
    return "returned"


def leaves_a_thread_and_tells(witness: str) -> str:
    """Return, and leave a thread behind that never ends."""
    tell(witness, os.getpid())
    return leaves_a_thread()


def leaves_a_copy(witness: str) -> str:
    """Return, and leave a copy of this process behind that never ends."""
    if os.fork() == 0:
        _tell_and_hold(witness)
    return "returned"


def _tell_and_hold(witness: str) -> None:
    """What a copy of a process does: it must never get back to what the process would do."""
    try:
        tell(witness, os.getpid())
        threading.Event().wait(HOLD)
    finally:
        os._exit(0)


def _square(number: int, results: Any) -> None:
    results.put(number * number)


def in_processes_of_its_own(number: int) -> int:
    """Compute in another process still."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=_square, args=[number, results])
    process.start()
    process.join(PATIENCE)
    return results.get()


def writes_a_note(path: str, text: str) -> str:
    """Write a file."""
    Path(path).write_text(text)
    return "written"


def fails_twice(path: str) -> str:
    """Fail at the first and the second attempt; a file holds the attempts."""
    with Path(path).open("a") as file:
        file.write("attempt\n")
    if len(Path(path).read_text().splitlines()) < 3:
        raise ConnectionResetError("try again")
    return "third time lucky"


def always_fails(path: str) -> str:
    """Fail; a file holds the attempts."""
    with Path(path).open("a") as file:
        file.write("attempt\n")
    raise ConnectionResetError("down for ever")


def read_note(note: str) -> dict[str, str]:
    """Read the note, and give another."""
    return {"text": f"{note}, read"}


def add_to(notes: list[str]) -> str:
    """Change what it was given."""
    notes.append("changed in the process")
    return "changed"


def meet(witness: str, gate: str) -> str:
    """Wait at a gate."""
    tell(witness, "here")
    pipe = os.open(gate, os.O_RDONLY)
    os.read(pipe, 1)
    return "met"


class Adder:
    """An object that can be sent."""

    def __init__(self, base: int) -> None:
        self.base = base

    def add(self, value: int) -> int:
        """Add to the base."""
        self.base += value
        return self.base

    @staticmethod
    def twice(value: int) -> int:
        """Double a number."""
        return 2 * value

    @classmethod
    def name_of(cls) -> str:
        """Give the class's name."""
        return cls.__name__

    def __call__(self, value: int) -> int:
        """Add to the base."""
        return self.base + value


class Connected:
    """An object that can't be sent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def look(self) -> str:
        """Look."""
        return "seen"

    def __call__(self) -> str:
        """Look."""
        return "seen"


def _shouted(function: Any) -> Any:
    @functools.wraps(function)
    def shout(*args: Any, **kwargs: Any) -> str:
        return str(function(*args, **kwargs)).upper()

    return shout


@_shouted
def shouted(text: str) -> str:
    """Say it loudly."""
    return f"{text}!"


def version() -> str:
    """Give the version."""
    return "the first"


first_version = version


def version() -> str:  # type: ignore[no-redef]
    """Give the version."""
    return "the second"


# That fail.


class OddError(Exception):
    """An exception whose parts aren't its arguments: by pickle it comes back wrong, or not at all."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"code {code}: {reason}")
        self.code = code


class LockedError(Exception):
    """An exception that can't be sent."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class SilentError(Exception):
    """An exception that can't say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Trap:
    """A value that is sent well, and can't be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_entry, ("the trap shut",)


def _no_entry(text: str) -> Any:
    raise RuntimeError(text)


class Quitter:
    """A value that ends the process that reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


class DiesWhenSent:
    """A value that takes its process with it."""

    def __reduce__(self) -> tuple[Any, ...]:
        os._exit(0)


def raises_value_error() -> str:
    """Fail."""
    raise ValueError("the disk is full")


async def raises_value_error_async() -> str:
    """Fail."""
    raise ValueError("the disk is full")


def raises_key_error() -> str:
    """Fail."""
    raise KeyError("nowhere")


def raises_without_words() -> str:
    """Fail."""
    raise ValueError


def raises_stop_iteration() -> str:
    """Fail."""
    raise StopIteration("over")


def raises_system_exit() -> str:
    """Fail as a program's main() does."""
    sys.exit("usage: none")


def raises_timeout_error() -> str:
    """Fail."""
    raise TimeoutError("the database did not answer")


def raises_odd_error() -> str:
    """Fail."""
    raise OddError(7, reason="the seven sleepers")


def raises_locked_error() -> str:
    """Fail."""
    raise LockedError("locked out")


def raises_silent_error() -> str:
    """Fail."""
    raise SilentError("nothing")


def raises_local_error() -> str:
    """Fail."""

    class Local(Exception):
        pass

    raise Local("local trouble")


def raises_group() -> str:
    """Fail."""
    raise ExceptionGroup("several", [ValueError("one"), LockedError("two")])


def raises_long_text() -> str:
    """Fail."""
    raise ValueError("w" * 5_000_000)


def raises_with_a_secret() -> str:
    """Fail."""
    raise ValueError("GET https://host/v1?api_key=s3cr3t failed")


def raises_deep_in_the_stack(depth: int = 800) -> str:
    """Fail."""
    if depth:
        return raises_deep_in_the_stack(depth - 1)
    raise ValueError("deep down")


def recurses() -> str:
    """Fail."""
    return recurses()


def raises_long_chain() -> str:
    """Fail."""
    error: Exception = ValueError("the first")
    for number in range(3000):
        try:
            raise ValueError(f"number {number}") from error
        except ValueError as next_error:
            error = next_error
    raise error


def exits(code: int) -> str:
    """End the process."""
    os._exit(code)


def exits_and_leaves_a_copy(witness: str) -> str:
    """End the process, but leave a copy of it, with all that it has open."""
    if os.fork() == 0:
        _tell_and_hold(witness)
    os._exit(0)


def killed_by(number: int) -> str:
    """End the process by a signal."""
    os.kill(os.getpid(), number)
    threading.Event().wait(HOLD)
    return "alive"


def aborts() -> str:
    """End the process as a fault in a C library does."""
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.abort()


def returns_a_lock() -> Any:
    """Give what can't be sent."""
    return threading.Lock()


def returns_a_lambda() -> Any:
    """Give what can't be sent."""
    return lambda: 1


def returns_a_trap() -> Any:
    """Give what can be sent but not read."""
    return Trap()


def returns_a_quitter() -> Any:
    """Give what ends the process that reads it."""
    return Quitter()


def returns_what_kills() -> Any:
    """Give what takes the process with it."""
    return DiesWhenSent()


def returns_a_local() -> Any:
    """Give an object of a class that nobody else has."""

    class Local:
        pass

    return Local()


def returns_nested(depth: int) -> Any:
    """Give a list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# That never end.


def hold(witness: str) -> str:
    """Never end."""
    tell(witness, os.getpid())
    threading.Event().wait(HOLD)
    return "too late"


async def hold_async(witness: str) -> str:
    """Never end."""
    tell(witness, os.getpid())
    await asyncio.sleep(HOLD)
    return "too late"


async def hold_and_swallow_async(witness: str) -> str:
    """Never end, whatever anybody says."""
    pipe = tell(witness, os.getpid())
    end = monotonic() + HOLD
    while monotonic() < end:
        try:
            await asyncio.sleep(HOLD)
        except BaseException:
            os.fstat(pipe)
    return "too late"


def hold_stubbornly(witness: str) -> str:
    """Never end, and take no hint."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    tell(witness, os.getpid())
    end = monotonic() + HOLD
    while monotonic() < end:
        try:
            threading.Event().wait(HOLD)
        except BaseException:
            continue
    return "too late"


def spin(witness: str) -> str:
    """Never end, and never rest."""
    tell(witness, os.getpid())
    end = monotonic() + HOLD
    while monotonic() < end:
        pass
    return "too late"


def hold_with_a_command(witness: str) -> str:
    """Never end, beside a command that never ends."""
    pipe = tell(witness, os.getpid())
    command = subprocess.Popen(["sleep", str(HOLD)], pass_fds=[pipe])
    command.wait()
    return "too late"


def hold_with_a_copy(witness: str) -> str:
    """Never end, beside a copy of this process that never ends."""
    tell(witness, os.getpid())
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _tell_and_hold(witness)
    threading.Event().wait(HOLD)
    return "too late"


def hold_with_grandchildren(witness: str) -> str:
    """Never end, beside a shell that has a command that never ends."""
    pipe = tell(witness, os.getpid())
    shell = subprocess.Popen(["sh", "-c", f"sleep {HOLD} & wait"], pass_fds=[pipe])
    shell.wait()
    return "too late"


def prints_for_ever(witness: str) -> str:
    """Never end, and never be silent."""
    tell(witness, os.getpid())
    end = monotonic() + HOLD
    while monotonic() < end:
        os.write(2, b"and another thing\n" * 100)
        threading.Event().wait(0.001)
    return "too late"
