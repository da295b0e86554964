"""`llama-agent probe`: what an endpoint can do with a model, found out by asking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llama_agent.model.probe import ProbeReport


def probe(
    endpoint: Annotated[
        str | None,
        typer.Option(help="Preset or base URL. Default: LLAMA_AGENT_ENDPOINT, else the embedded model."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name at the endpoint.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings and the profile as JSON.")
    ] = False,
    save: Annotated[
        bool,
        typer.Option("--save", help="Keep the profile: it is used for this endpoint and model from now on."),
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Most seconds for one request.")] = 60,
) -> None:
    """
    Find out what an endpoint does with a model, by about a dozen short requests.

    Exit codes: 0 found out, 1 the endpoint doesn't answer, 2 wrong usage.
    """
    from llama_agent.model.clients import Clients
    from llama_agent.model.probe import probe as ask
    from llama_agent.model.saved_profiles import save_profile, saved_profile

    clients = Clients(endpoint, model, None, timeout, None)
    try:
        if save:
            saved_profile(clients.endpoint.identity, None)  # a damaged file is told before anything is asked
        report = ask(clients, timeout)
    finally:
        clients.close()
    saved = str(save_profile(report.endpoint, report.model, report.traits)) if save else None
    if as_json:
        _print_json(report, saved)
    else:
        _print_table(report, saved)


def _print_json(report: ProbeReport, saved: str | None) -> None:
    import json
    from dataclasses import asdict

    shown = asdict(report)
    print(json.dumps({**shown, "saved": saved}, indent=2, ensure_ascii=False))


def _print_table(report: ProbeReport, saved: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from llama_agent.cli.display import printable

    console = Console(highlight=False)
    console.print(Text(printable(f"model {report.model}, endpoint {report.endpoint}")))
    table = Table("question", "verdict", "what was seen")
    words = {True: "yes", False: "no", None: "?"}
    for finding in report.findings:
        table.add_row(finding.question, words[finding.verdict], Text(printable(finding.seen)))
    console.print(table)
    traits = report.traits
    window = (
        f"{traits.context_tokens:,} tokens" if traits.context_tokens else "unknown (8,000 tokens are assumed)"
    )
    console.print(f"{report.requests} requests in {report.seconds:.1f} s")
    kind = "no preset's" if report.kind == "custom" else f"the preset {report.kind}'s"
    console.print(
        f"profile: {kind}, with what was found. Tool calls: {_MODES[traits.tool_mode]}; window: {window}"
    )
    if not traits.native_tools and not traits.json_schema and report.kind != "embedded":
        console.print(
            "Neither the server's own tool calls nor JSON schemas work: tools can't be used reliably."
        )
    if saved is not None:
        console.print(Text(f"saved in {saved}; used for this endpoint and model from now on"))
    else:
        console.print("Not saved: --save keeps this profile, and uses it from then on.")


_MODES = {
    "native": "native, the server's own",
    "prompted": "prompted, tools described in the system message",
    "constrained": "constrained, replies held to a JSON schema",
}
