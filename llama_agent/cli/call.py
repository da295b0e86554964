"""`llama-agent call`: run one tool by hand, as a model's call would."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from llama_agent.cli.exit_codes import ANSWERED, FAILED
from llama_agent.errors import ConfigurationError


def call(
    tool: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:NAME|MODULE:NAME|NAME", help="The tool; NAME alone with --workspace."
        ),
    ],
    args: Annotated[str, typer.Option("--args", metavar="JSON", help="Its arguments, a JSON object.")] = "{}",
    workspace: Annotated[
        Path | None, typer.Option("--workspace", metavar="DIR", help="Call a file tool for this folder.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Let a destructive tool run without asking.")] = False,
) -> None:
    """
    Run one tool by hand, its arguments checked as a model's are. What a model would read goes to standard
    output.

    Exit codes: 0 it ran, 1 it failed or its arguments don't fit, 2 wrong usage.
    """
    from haystack.components.agents.state.state import State
    from haystack.dataclasses import ToolCall
    from haystack.tools import flatten_tools_or_toolsets, warm_up_tools

    from llama_agent.arguments import nearest, read_arguments
    from llama_agent.cli.display import TerminalApproval, printable
    from llama_agent.cli.tool_files import load_tools, state_of
    from llama_agent.tooling.execution import Batch, Execution
    from llama_agent.tooling.results import text_of

    sources = [] if workspace is not None and ":" not in tool else [tool]
    with redirect_stdout(sys.stderr):  # what the files and the tool print
        loaded = {each.name: each for each in flatten_tools_or_toolsets(load_tools(sources, workspace))}
        own_name = tool.rpartition(":")[2].rpartition(".")[2]
        name = next(iter(loaded)) if len(loaded) == 1 else own_name if ":" in tool else tool
        if name not in loaded:
            near = f" Did you mean '{meant}'?" if (meant := nearest(name, loaded)) else ""
            raise ConfigurationError(
                f"name one tool: {tool} has {', '.join(loaded)}.{near} Write e.g. FILE.py:NAME"
            )
        arguments, unreadable = read_arguments(args)
        if unreadable is not None:
            raise ConfigurationError(f"--args: {unreadable}")
        execution = Execution()
        try:
            warm_up_tools(list(loaded.values()))
            called = ToolCall(name, arguments)
            approval = TerminalApproval(yes=yes)
            (message,) = execution.run(
                Batch([called], loaded, State(state_of(loaded.values())), approval=approval)
            )
        finally:
            execution.close()
    result = message.tool_call_results[0]
    print(printable(text_of(result.result)), file=sys.stderr if result.error else sys.stdout)
    raise typer.Exit(FAILED if result.error else ANSWERED)
