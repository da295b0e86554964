"""The command `llama-agent` through its own door, in this process."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from llama_agent.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def llama_agent(*arguments: str) -> Done:
    """Run a command; what would be a traceback is raised."""
    out, err = _stream(), _stream()
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["llama-agent", *arguments]):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(code, _text(out), _text(err))


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
