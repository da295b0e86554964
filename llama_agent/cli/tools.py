"""`llama-agent tools`: the definitions as a model sees them, and what is wrong with them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from haystack.tools.tool import Tool


def tools(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="FILE.py|MODULE[:NAME]...", help="Where the tools are.")
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option("--workspace", metavar="DIR", help="The tools for the files of this folder."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print JSON: `tools` as they are sent to a server, `tokens`, `warnings`."
        ),
    ] = False,
) -> None:
    """Show tools as a model sees them, with the size of each definition, and warnings."""
    import json
    import warnings

    from haystack.tools import flatten_tools_or_toolsets

    from llama_agent.cli.tool_files import load_tools
    from llama_agent.errors import ConfigurationError
    from llama_agent.model.asking import definition_of
    from llama_agent.tool_sizes import definition_tokens, size_warning

    if not sources and workspace is None:
        raise ConfigurationError("say where the tools are: llama-agent tools FILE.py, or --workspace DIR")
    with redirect_stdout(sys.stderr), warnings.catch_warnings(record=True) as caught:  # what the files print
        warnings.simplefilter("always")
        loaded = flatten_tools_or_toolsets(load_tools(sources or [], workspace))
    told = [*(str(warning.message) for warning in caught), *filter(None, [size_warning(loaded)])]
    if as_json:
        sizes = {tool.name: definition_tokens(tool) for tool in loaded}
        shown = {"tools": [definition_of(tool) for tool in loaded], "tokens": sizes, "warnings": told}
        print(json.dumps(shown, indent=2))
    else:
        _print_table(loaded)
    for text in told:
        print(f"llama-agent: warning: {text}", file=sys.stderr)


def _print_table(loaded: list[Tool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from llama_agent.cli.display import printable
    from llama_agent.tool_sizes import definition_tokens
    from llama_agent.tooling.tool import hints_of

    table = Table("tool", "arguments", "hints", "tokens", show_lines=True)
    table.columns[3].justify = "right"
    for tool in loaded:
        summary = tool.description.partition("\n")[0]
        hints = hints_of(tool)
        named = ("read_only", "destructive", "idempotent", "sequential")
        table.add_row(
            Text(printable(f"{tool.name}\n{summary}")),
            Text(printable("\n".join(_arguments(tool.parameters)))),
            Text(", ".join(name for name in named if getattr(hints, name))),
            str(definition_tokens(tool)),
        )
    total = sum(definition_tokens(tool) for tool in loaded)
    count = f"{len(loaded)} tools" if len(loaded) != 1 else "1 tool"
    table.caption = f"{count}, about {total} tokens in each request"
    Console().print(table)


def _arguments(parameters: dict[str, Any]) -> list[str]:
    """`name: type`, with `= default` for those that may be left out."""
    required = cast("list[str]", parameters.get("required", []))
    lines: list[str] = []
    for name, schema in cast("dict[str, dict[str, Any]]", parameters.get("properties", {})).items():
        default = f" = {schema['default']!r}" if "default" in schema else " (optional)"
        lines.append(f"{name}: {_kind(schema)}{'' if name in required else default}")
    return lines


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(repr(value) for value in schema["enum"])
    if branches := schema.get("anyOf"):
        return " | ".join(_kind(branch) for branch in branches)
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"array of {_kind(schema['items'])}" if schema.get("items") else "array"
    return f"{kind} ({schema['format']})" if "format" in schema else kind
