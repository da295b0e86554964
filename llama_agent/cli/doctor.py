"""`llama-agent doctor`: whether a run could work here, and what to do if not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from llama_agent.cli.exit_codes import FAILED
from llama_agent.errors import ConfigurationError, LlamaAgentError

if TYPE_CHECKING:
    from llama_agent.model.clients import Clients

_SECONDS = 10.0


@dataclass(frozen=True)
class _Line:
    """`good`: None for what is neither good nor bad."""

    what: str
    good: bool | None
    told: str


def doctor(
    endpoint: Annotated[
        str | None,
        typer.Option(help="Preset or base URL. Default: LLAMA_AGENT_ENDPOINT, else the embedded model."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name at the endpoint.")] = None,
) -> None:
    """
    Say whether a run could work here: versions, the endpoint, its key, the embedded model, and what to do.

    Exit codes: 0 it could, 1 it couldn't.
    """
    from rich.console import Console
    from rich.text import Text

    from llama_agent.cli.display import printable

    console = Console(highlight=False)
    marks = {True: ("ok", "green"), False: ("no", "red"), None: ("--", "dim")}
    works = True
    for line in (*_versions(), *_embedded(), *_endpoint(endpoint, model)):
        mark, style = marks[line.good]
        text = Text.assemble((f"{mark:3}", style), f"{line.what}: {printable(line.told)}")
        console.print(text, soft_wrap=True)
        works = works and line.good is not False
    if not works:
        raise typer.Exit(FAILED)


def _versions() -> Iterator[_Line]:
    from importlib.metadata import version

    yield _Line("python", None, sys.version.split()[0])
    for package in ("llama-agent-haystack", "haystack-ai", "openai"):
        yield _Line(package, None, version(package))


def _embedded() -> Iterator[_Line]:
    import importlib.util
    from importlib.metadata import version

    from llama_agent.model.model_files import MODEL_MEGABYTES, small_model_path

    if importlib.util.find_spec("xllamacpp") is None:
        told = "not installed; pip install 'llama-agent-haystack[embedded]' brings it"
    else:
        path = small_model_path()
        fetched = (
            f"its file is {path}"
            if path.exists()
            else f"its {MODEL_MEGABYTES} MB are fetched when first used"
        )
        told = f"xllamacpp {version('xllamacpp')}; {fetched}"
    yield _Line("embedded model", None, told)


def _endpoint(endpoint: str | None, model: str | None) -> Iterator[_Line]:
    from llama_agent.model.clients import Clients
    from llama_agent.model.endpoints import is_retired_host, retired_text
    from llama_agent.model.model_files import small_model_path

    clients = Clients(endpoint, model, None, _SECONDS, None)
    try:
        chosen = clients.endpoint
    except ConfigurationError as error:
        yield _Line("endpoint", False, str(error))
        return
    by = "--endpoint" if endpoint else "LLAMA_AGENT_ENDPOINT"
    if not endpoint and not os.environ.get("LLAMA_AGENT_ENDPOINT"):
        by = "nothing else: it is installed"
    where = f"{chosen.identity} (preset {chosen.profile.name})"
    yield _Line("endpoint", None, f"{where}, chosen by {by}")
    if chosen.embedded is None:
        yield _Line("key", None, "found" if chosen.api_key else "none; LLAMA_AGENT_API_KEY sets one")
    elif not chosen.embedded and not small_model_path().exists():
        yield _Line("answers", None, "not tried: the model would have to be fetched")
        return
    if is_retired_host(chosen.base_url):
        yield _Line("retired", False, retired_text())
        return
    try:
        yield from _answers(clients)
    finally:
        clients.close()


def _answers(clients: Clients) -> Iterator[_Line]:
    from llama_agent.model.clients import names_in
    from llama_agent.model.encoding import MessageEncoder
    from llama_agent.model.saved_profiles import saved_profile
    from llama_agent.model.wire import LIST_MODELS, Transport

    try:
        listed = Transport(MessageEncoder()).send_json(clients.sync_client(), LIST_MODELS)
        names = names_in(listed)
    except LlamaAgentError as error:
        yield _Line("answers", False, str(error))
        return
    yield _Line("answers", True, f"yes, and lists {len(names)} model{'s' * (len(names) != 1)}")
    try:
        model = clients.known_model or clients.choose_model(listed)
    except ConfigurationError as error:
        yield _Line("model", False, str(error))
        return
    is_listed = not names or model in names or clients.endpoint.embedded is not None
    unlisted = (
        f"{model} isn't among them: llama-agent models shows them, --model or LLAMA_AGENT_MODEL names one"
    )
    yield _Line("model", is_listed, model if is_listed else unlisted)
    saved = saved_profile(clients.endpoint.identity, model)
    told = (
        f"probed {saved.probed}"
        if saved
        else "not probed yet: llama-agent probe --save finds out what it can"
    )
    yield _Line("profile", None, told)
