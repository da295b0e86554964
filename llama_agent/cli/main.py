"""The command line's door: what all commands share."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, cast

import typer

from llama_agent.cli.call import call
from llama_agent.cli.chat import chat
from llama_agent.cli.doctor import doctor
from llama_agent.cli.exit_codes import FAILED, INTERRUPTED, USAGE
from llama_agent.cli.models import models
from llama_agent.cli.probe import probe
from llama_agent.cli.run import run
from llama_agent.cli.tools import tools
from llama_agent.errors import ConfigurationError, LlamaAgentError

app = typer.Typer(
    name="llama-agent",
    help="Runs tasks with tools on Llama and other open-weight models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(chat)
app.command()(tools)
app.command()(call)
app.command()(probe)
app.command()(models)
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"llama-agent {version('llama-agent-haystack')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Runs tasks with tools on Llama and other open-weight models."""


def main() -> None:
    """Run the command line. It talks to the chosen endpoint and to nobody else."""
    # Haystack decides on its telemetry when it is imported: before that, so that a user's own setting still
    # wins.
    os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
    # A model's answer may hold what the terminal's encoding can't.
    cast("io.TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    try:
        app()
    except ConfigurationError as error:
        _fail(str(error), USAGE)
    except LlamaAgentError as error:
        _fail(str(error), FAILED)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Nobody reads our output any more (`| head`): not an error, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def _fail(text: str, code: int) -> None:
    from llama_agent.cli.display import printable

    print(f"llama-agent: {printable(text)}", file=sys.stderr)
    sys.exit(code)
