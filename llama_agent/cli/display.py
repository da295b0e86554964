"""What a person sees of a run on a terminal, and the question before a destructive tool."""

from __future__ import annotations

import json
import re
import sys
from types import TracebackType

from haystack.dataclasses import ToolCall
from haystack.tools.tool import Tool
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from llama_agent.events import (
    ApprovalRequested,
    Event,
    ModelReplied,
    ModelRequested,
    RequestDelayed,
    RetryScheduled,
    ToolFinished,
    ToolProgress,
    ToolStarted,
)
from llama_agent.tooling.approval import Refused
from llama_agent.tooling.tool import hints_of

# Control characters (C0 without newline and tab, DEL, C1) and those that reorder text on screen (Unicode UAX
# #9).
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_WIDTH = 160


def printable(text: str) -> str:
    """
    A text of the model's or a tool's that a terminal can be given: it can't move the cursor or fake other
    lines.

    :param text: Any text.
    :returns: The text; each unsafe character is replaced by `\N{REPLACEMENT CHARACTER}`.
    """
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


class Display:
    """
    Shows a run's events on stderr as they happen. A context manager: it puts the terminal in order at the
    end.

    :param quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._thinking: Progress | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.stop_thinking()

    def show(self, event: Event) -> None:
        """
        Show an event.

        :param event: Of any kind; most are shown as a line.
        """
        if self._quiet:
            return
        match event:
            case ModelRequested():
                self._start_thinking()
            case ModelReplied():
                self.stop_thinking()
                self._line(f"model {event.seconds:.1f} s", "dim")
            case RetryScheduled():
                self._line(f"retry in {event.wait:.1f} s: {event.reason}", "yellow")
            case RequestDelayed():
                wait = "" if event.wait is None else f" {event.wait:.1f} s"
                self._line(f"waiting{wait}: {event.reason}", "yellow")
            case ToolStarted():
                self._line(f"→ {event.tool_name}({_arguments(event.arguments)})", "cyan")
            case ToolProgress():
                self._line(f"… {event.tool_name}: {event.text}", "dim")
            case ToolFinished():
                style = "red" if event.error else "green"
                self._line(f"← {event.tool_name} {event.seconds:.1f} s: {event.result}", style)
            case ApprovalRequested():
                self.stop_thinking()
            case _:
                pass

    def _line(self, text: str, style: str) -> None:
        line = " ".join(printable(text).split())
        shown = line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
        self._console.print(Text(shown, style=style), soft_wrap=True)

    def _start_thinking(self) -> None:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("thinking"), TimeElapsedColumn())
            self._thinking = Progress(*columns, console=self._console, transient=True)
            self._thinking.add_task("thinking", total=None)
            self._thinking.start()

    def stop_thinking(self) -> None:
        """Show no longer that the model thinks: there is something to read."""
        if self._thinking is not None:
            self._thinking.stop()
            self._thinking = None


class TerminalApproval:
    """
    Asks y/N before a destructive tool runs; where nobody can answer, the call is refused.

    :param yes: Don't ask, allow.
    """

    def __init__(self, *, yes: bool) -> None:
        self._yes = yes

    def needs(self, call: ToolCall, tool: Tool) -> bool:
        """A destructive tool, unless `--yes` was given."""
        return hints_of(tool).destructive and not self._yes

    def ask(self, call: ToolCall, tool: Tool) -> Refused | None:
        """Ask on the terminal."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            print(
                f"llama-agent: '{printable(call.tool_name)}' is destructive and nobody can be asked: "
                "refused. Allow such tools with --yes.",
                file=sys.stderr,
            )
            return Refused("it is destructive, and nobody is there to allow it.")
        question = f"Run {call.tool_name}({_arguments(call.arguments)})? It is destructive. [y/N] "
        print(" ".join(printable(question).split()), end=" ", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return None
        return Refused("the user did not allow it.")


def _arguments(arguments: dict[str, object]) -> str:
    """`name=value` pairs. The model writes the names too: one that is no name is shown quoted."""
    shown: list[str] = []
    for name, value in arguments.items():
        plain = name if name.isidentifier() else json.dumps(name)
        shown.append(f"{plain}={json.dumps(value, ensure_ascii=False, default=str)}")
    return ", ".join(shown)
