"""The agent that a command's options ask for."""

from __future__ import annotations

from pathlib import Path

from llama_agent.agent import Agent
from llama_agent.cli.display import TerminalApproval
from llama_agent.cli.tool_files import load_tools, state_of
from llama_agent.model.generator import MetaLlamaChatGenerator


def agent_for(
    tools: list[str] | None,
    workspace: Path | None,
    endpoint: str | None,
    model: str | None,
    *,
    max_steps: int,
    yes: bool,
) -> Agent:
    """
    Make an agent; nothing is opened yet, but the tools' files are run.

    :param tools: Where its tools are.
    :param workspace: A folder to give the file tools for.
    :param endpoint: A preset or base URL; None for the environment's.
    :param model: The model there.
    :param max_steps: Most steps.
    :param yes: Whether destructive tools run without asking.
    :returns: The agent.
    :raises ConfigurationError: A tool can't be loaded.
    """
    loaded = load_tools(tools or [], workspace)
    return Agent(
        chat_generator=MetaLlamaChatGenerator(api_base_url=endpoint, model=model),
        tools=loaded,
        state_schema=state_of(loaded),
        max_agent_steps=max_steps,
        approval=TerminalApproval(yes=yes),
    )
