"""`agent.as_tool`: an agent that works for another one, as one of its tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, cast

from haystack.core.serialization import allow_deserialization_module, generate_qualified_class_name
from haystack.tools import flatten_tools_or_toolsets
from pydantic_core import to_json

from llama_agent.errors import ConfigurationError
from llama_agent.loop.state import RunResult
from llama_agent.tooling.call_options import CallOptions
from llama_agent.tooling.results import text_of
from llama_agent.tooling.run_context import RunContext
from llama_agent.tooling.tool import FunctionTool, ToolHints, function_tool, hints_of

if TYPE_CHECKING:
    from llama_agent.agent import Agent

# What `to_dict` names here may be loaded again: nothing else of this package, and no user's functions.
allow_deserialization_module(__name__)

_TASK = "What to do, with all that has to be known for it: nothing else of this conversation is seen."
_WHOLE = ("answered", "tool")
"""Endings of a run that did what it was to do."""


@dataclass
class SubAgentTool(FunctionTool[..., Any]):
    """
    An agent as a tool of another one.

    The run above it lends it its limits, its cancellation, its places for tool calls and its `deps`, and gets
    its events as `SubAgentEvent`s.
    """

    agent: Agent = field(kw_only=True, repr=False, compare=False)

    def warm_up(self) -> None:
        """Get the agent ready."""
        self.agent.warm_up()

    def close(self) -> None:
        """Release what the agent holds; a later run opens it again."""
        self.agent.close()

    async def close_async(self) -> None:
        """As `close`, on the running event loop."""
        await self.agent.close_async()

    def to_dict(self) -> dict[str, Any]:
        """
        The tool as data.

        :returns: Data for `from_dict`.
        :raises ConfigurationError: The agent can't be saved.
        """
        data = {
            "agent": self.agent.to_dict(),
            "name": self.name,
            "description": self.description,
            "max_result_chars": self.options.max_result_chars,
        }
        return {"type": generate_qualified_class_name(type(self)), "data": data}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SubAgentTool:
        """
        The tool that `to_dict` described.

        :param data: Made by `to_dict`.
        :returns: The tool.
        """
        from llama_agent.agent import Agent

        settings = dict(data["data"])
        return sub_agent_tool(Agent.from_dict(settings.pop("agent")), **settings)


def sub_agent_tool(
    agent: Agent, name: str, description: str, max_result_chars: int | None = None
) -> SubAgentTool:
    """
    Make an agent a tool.

    :param agent: The agent.
    :param name: Name that the model sees.
    :param description: What the model reads of it.
    :param max_result_chars: Most characters of a result.
    :returns: The tool.
    :raises ConfigurationError: The description is empty, or its prompts have variables, which a task alone
        doesn't fill.
    """
    if isinstance(description, str) and not description.strip():  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        raise ConfigurationError("as_tool: say in the description when the agent is to be given a task")
    if wanted := agent.required_names():
        raise ConfigurationError(
            f"as_tool: the agent's prompts need {', '.join(wanted)}, and a tool gives it a task alone. Use "
            "Haystack's AgentTool, which has parameters for them."
        )

    def work(task: Annotated[str, _TASK], context: RunContext[Any]) -> str:
        return _told(agent.run(task, deps=context.deps))

    async def work_async(task: str, context: RunContext[Any]) -> str:
        return _told(await agent.run_async(task, deps=context.deps))

    made = function_tool(
        work,
        name=name,
        description=description,
        hints=_hints(agent),
        options=CallOptions(max_result_chars=max_result_chars),
    )
    tool = SubAgentTool(
        name=made.name,
        description=made.description,
        parameters=made.parameters,
        function=work,
        hints=made.hints,
        options=made.options,
        signature=made.signature,
        agent=agent,
    )
    tool.async_function = work_async
    return tool


def _hints(agent: Agent) -> ToolHints:
    """What its tools do, it does."""
    hints = [hints_of(tool) for tool in flatten_tools_or_toolsets(agent.tools)]
    return ToolHints(
        read_only=all(hint.read_only for hint in hints),
        destructive=any(hint.destructive for hint in hints),
    )


def _told(result: RunResult) -> str:
    """What the model above gets of a run."""
    output = cast("object", result.output)
    text = output if isinstance(output, str) else result.text if output is None else to_json(output).decode()
    last = result.messages[-1].tool_call_results
    if not text and result.stop_reason == "tool" and last:
        text = text_of(last[0].result)
    if result.stop_reason in _WHOLE:
        return text
    how = "" if text else ", without an answer"
    return f"{text}\n[ended early: {result.stop_reason}{how}]".lstrip()
