"""`llama-agent tools`: the definitions as a model sees them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer


def tools(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE.py|MODULE[:NAME]...", help="Where the tools are.")
    ],
) -> None:
    """Print tool definitions as a model sees them, as JSON."""
    import json

    from haystack.tools import flatten_tools_or_toolsets

    from llama_agent.cli.tool_files import load_tools
    from llama_agent.model.modes import definition_of

    with redirect_stdout(sys.stderr):  # what the files print
        loaded = flatten_tools_or_toolsets(load_tools(sources))
    definitions = [definition_of(tool) for tool in loaded]
    print(json.dumps(definitions, indent=2))
