"""`llama-agent run`: give a model a task and tools."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_agent.cli import options
from llama_agent.cli.exit_codes import ANSWERED, FAILED, INTERRUPTED, LIMIT
from llama_agent.errors import ConfigurationError, LlamaAgentError, RunInterrupted

if TYPE_CHECKING:
    from llama_agent.loop.state import RunResult

_EARLY = ("length", "mistakes", "repeating", "no_answer", "no_output")
"""Endings of a run that got somewhere, though not to its end."""


def run(
    task: Annotated[
        str | None, typer.Argument(help="What to do; '-' or nothing reads it from standard input.")
    ] = None,
    tools: options.Tools = None,
    workspace: options.WorkspaceFolder = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the task from this file.")] = None,
    endpoint: options.Endpoint = None,
    model: options.Model = None,
    system: options.System = None,
    max_steps: options.MaxSteps = 100,
    json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show nothing but the answer and errors.")] = False,
    yes: options.Yes = False,
) -> None:
    """
    Give a model a task and tools. The answer goes to standard output, all else to standard error.

    Exit codes: 0 answered, 1 failed or refused, 2 wrong usage, 3 ended early.
    """
    wanted = _task(task, file)
    from haystack.dataclasses import ChatMessage

    from llama_agent.cli.agents import agent_for
    from llama_agent.cli.display import Display, printable

    before = [ChatMessage.from_system(system)] if system else None
    # Standard output is the answer's: what tools print goes to standard error.
    with redirect_stdout(sys.stderr):
        agent = agent_for(tools, workspace, endpoint, model, max_steps=max_steps, yes=yes)
        try:
            with agent, Display(quiet=quiet) as display:
                result = agent.run(wanted, messages=before, on_event=display.show)
        except RunInterrupted as stop:
            print(f"llama-agent: interrupted {_progress(stop.result)}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except LlamaAgentError as error:
            if error.result is not None and error.result.usage.model_calls:
                print(f"llama-agent: failed {_progress(error.result)}", file=sys.stderr)
            raise
    if json:
        print(_as_json(result))
    else:
        print(printable(result.text))
    code = _exit_code(result)
    if code != ANSWERED and not quiet:
        how = "early" if result.text else "without an answer"
        print(f"llama-agent: the run ended {how}: {result.stop_reason}", file=sys.stderr)
    raise typer.Exit(code)


def _task(task: str | None, file: Path | None) -> str:
    if file is not None:
        if task is not None:
            raise ConfigurationError("give the task either as an argument or by --file, not both")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--file {file} can't be read: {error}") from error
    elif task in (None, "-"):
        if sys.stdin.isatty():
            raise ConfigurationError(
                'there is no task: llama-agent run "What is 17 plus 25?" --tools FILE.py'
            )
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"standard input is no text: {error}") from error
    else:
        text = task or ""
    if not text.strip():
        raise ConfigurationError("the task is empty")
    return text


def _progress(result: RunResult) -> str:
    return f"(model replies: {result.usage.model_calls}, tool calls: {result.usage.tool_calls})"


def _exit_code(result: RunResult) -> int:
    if result.stop_reason in ("answered", "tool"):
        return ANSWERED
    is_limit = result.stop_reason.startswith("max_") or result.stop_reason in _EARLY
    return LIMIT if is_limit else FAILED


def _as_json(result: RunResult) -> str:
    import json
    from dataclasses import asdict

    return json.dumps(
        {
            "text": result.text,
            "stop_reason": result.stop_reason,
            "run_id": result.run_id,
            "steps": result["step_count"],
            "usage": {**asdict(result.usage), "total_tokens": result.usage.total_tokens},
            "tool_call_counts": result["tool_call_counts"],
            "messages": [message.to_dict() for message in result.messages],
        },
        indent=2,
        default=str,
    )
