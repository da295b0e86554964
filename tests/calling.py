"""For tests of tools: a run in which the model makes calls by script, and what it was told of them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from haystack.dataclasses import ToolCallResult

from llama_agent import Agent, MetaLlamaChatGenerator, RunResult
from tests.endpoint import Endpoint, Reply

Arguments = Mapping[str, Any] | str
Go = Callable[..., RunResult]


def generator(endpoint: Endpoint) -> MetaLlamaChatGenerator:
    # No certificates are loaded for each client: that would take most of these tests' time.
    return MetaLlamaChatGenerator(
        api_base_url=endpoint.url,
        model="test-model",
        max_retries=0,
        timeout=10,
        http_client_kwargs={"verify": False},
    )


def agent_on(endpoint: Endpoint, tools: Any, **settings: Any) -> Agent:
    return Agent(chat_generator=generator(endpoint), tools=tools, **settings)


def call(
    endpoint: Endpoint,
    tools: Any,
    name: str,
    arguments: Arguments = "{}",
    *,
    agent: Any = None,
    **run: Any,
) -> RunResult:
    """
    One run in which the model makes one call, then answers.

    :param agent: Settings of the agent.
    :param run: Settings of the run.
    """
    endpoint.script(Reply(calls=[(name, arguments)]), Reply("done"))
    with agent_on(endpoint, tools, **(agent or {})) as running:
        return running.run("go", **run)


def call_async(
    endpoint: Endpoint,
    tools: Any,
    name: str,
    arguments: Arguments = "{}",
    *,
    agent: Any = None,
    **run: Any,
) -> RunResult:
    """As `call`, in an event loop."""

    async def main() -> RunResult:
        async with agent_on(endpoint, tools, **(agent or {})) as running:
            return await running.run_async("go", **run)

    endpoint.script(Reply(calls=[(name, arguments)]), Reply("done"))
    return asyncio.run(main())


both_modes = pytest.mark.parametrize("go", [call, call_async], ids=["sync", "async"])


def outcomes(result: RunResult) -> list[ToolCallResult]:
    return [outcome for message in result.messages for outcome in message.tool_call_results]


def told(result: RunResult) -> str:
    """What the model was told of its only call."""
    (outcome,) = outcomes(result)
    return str(outcome.result)


def failed(result: RunResult) -> bool:
    (outcome,) = outcomes(result)
    return outcome.error


def definitions(endpoint: Endpoint, tools: Any, **settings: Any) -> dict[str, dict[str, Any]]:
    """Tool definitions as they went over the wire, by name."""
    endpoint.script(Reply("no"))
    with agent_on(endpoint, tools, **settings) as agent:
        agent.run("go", deps=object())
    return {item["function"]["name"]: item["function"] for item in endpoint.requests[-1].json["tools"]}
