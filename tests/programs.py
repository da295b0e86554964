"""A Python program in a process group of its own, as a terminal starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE = 30.0
"""Seconds after which a process counts as hanging."""


class Program:
    """
    A program that runs until the block is left, which kills it.

    :param code: Python.
    :param arguments: Its `sys.argv`, from 1.
    :param folder: Its current folder.
    :param module: Instead of code: the module to run.
    :param stdin: As for `subprocess.Popen`.
    """

    def __init__(
        self,
        code: str,
        *arguments: str,
        folder: Path = ROOT,
        module: str | None = None,
        stdin: int = subprocess.DEVNULL,
        file: Path | None = None,
    ) -> None:
        what = ["-m", module] if module else [str(file)] if file else ["-c", textwrap.dedent(code)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
        search = os.pathsep.join([str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, *what, *arguments],
            cwd=folder,
            env={**environment, "HAYSTACK_TELEMETRY_ENABLED": "False", "PYTHONPATH": search},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._watchdog = threading.Timer(2 * PATIENCE, self.process.kill)
        self._watchdog.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._watchdog.join()
        self.process.kill()
        self.process.communicate()

    def send(self, number: int) -> None:
        """A signal to this process only."""
        self.process.send_signal(number)

    def ctrl_c(self) -> None:
        """What a terminal sends: SIGINT, to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def line(self) -> str:
        """The next line that it prints; "" when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def rest(self) -> tuple[list[str], str, int]:
        """What it still printed, on both channels, and its exit code. Fails when it doesn't end."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            out, err = self.process.communicate()
            pytest.fail(f"the process did not end; it printed {out!r} {err!r}")
        return out.splitlines(), err, self.process.returncode
