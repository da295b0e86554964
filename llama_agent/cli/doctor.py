"""`llama-agent doctor`: whether a run could work here, and what to do if not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from llama_agent.cli.exit_codes import FAILED
from llama_agent.errors import ConfigurationError, EndpointError

if TYPE_CHECKING:
    from llama_agent.model.clients import Clients
    from llama_agent.model.streams import Json

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
    for line in chain(_versions(), _embedded(), _endpoint(endpoint, model)):
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
    by = "by --endpoint" if endpoint else "by LLAMA_AGENT_ENDPOINT"
    if not endpoint and not os.environ.get("LLAMA_AGENT_ENDPOINT"):
        by = "since it is installed and nothing else is named"
    preset = "no preset" if chosen.profile.name == "custom" else f"preset {chosen.profile.name}"
    yield _Line("endpoint", None, f"{chosen.identity} ({preset}), chosen {by}")
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

    listed: Json | None = None
    try:
        listed = Transport(MessageEncoder()).send_json(clients.sync_client(), LIST_MODELS)
        count = len(names_in(listed))
        yield _Line("answers", True, f"yes, and lists {count} model{'s' * (count != 1)}")
    except EndpointError as error:
        has_no_list = error.status in (404, 405) and clients.known_model is not None
        yield _Line("answers", None if has_no_list else False, str(error))
        if not has_no_list:
            return
    except ConfigurationError as error:
        yield _Line("answers", False, str(error))
        return
    try:
        model = clients.known_model or clients.choose_model(listed or {})
        yield _model(clients, model, listed)
        saved = saved_profile(clients.endpoint.identity, model)
    except ConfigurationError as error:
        yield _Line("model or profile", False, str(error))
        return
    told = (
        f"probed {saved.probed}"
        if saved
        else "not probed yet; llama-agent probe --save finds out what it can"
    )
    yield _Line("profile", None, told)


def _model(clients: Clients, model: str, listed: Json | None) -> _Line:
    from llama_agent.model.clients import names_in

    if listed is None or clients.endpoint.embedded is not None:
        return _Line("model", None, model)
    names = names_in(listed)
    if not names or model in names or f"{model}:latest" in names:  # Ollama needs no tag
        return _Line("model", True, model)
    cure = "llama-agent models shows those that are, --model or LLAMA_AGENT_MODEL names one"
    return _Line("model", False, f"{model} isn't among them: {cure}")
