"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Tools: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--tools",
        metavar="FILE.py|MODULE[:NAME]",
        help="Functions the model may call: public functions with docstrings. Repeatable.",
    ),
]
WorkspaceFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option("--workspace", metavar="DIR", help="Give tools for the files of this folder."),
]
Endpoint: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Preset or base URL. Default: LLAMA_AGENT_ENDPOINT, else the embedded model."),
]
Model: TypeAlias = Annotated[str | None, typer.Option(help="Model name at the endpoint.")]
System: TypeAlias = Annotated[str | None, typer.Option(help="System message, taken literally.")]
MaxSteps: TypeAlias = Annotated[int, typer.Option(min=1, help="Most model calls.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", help="Let destructive tools run without asking.")]
