"""`llama-agent models`: what an endpoint has to offer."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    endpoint: Annotated[
        str | None,
        typer.Option(help="Preset or base URL. Default: LLAMA_AGENT_ENDPOINT, else the embedded model."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's own list.")] = False,
) -> None:
    """List the models of an endpoint, a name a line."""
    import json

    from llama_agent.cli.display import printable
    from llama_agent.errors import EndpointError
    from llama_agent.model.clients import Clients, names_in
    from llama_agent.model.encoding import MessageEncoder
    from llama_agent.model.wire import LIST_MODELS, Transport

    clients = Clients(endpoint, None, None, None, None)
    try:
        listed = Transport(MessageEncoder()).send_json(clients.sync_client(), LIST_MODELS)
    finally:
        clients.close()
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    names = names_in(listed)
    if not names:
        raise EndpointError("the server lists no model")
    for name in sorted(names):
        print(printable(name))
