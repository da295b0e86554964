"""
llama-agent: an agent loop for Llama and other open-weight models, on Haystack.

What is named in `__all__` is the public door; modules are private detail.
"""

from llama_agent.agent import Agent
from llama_agent.errors import (
    ConfigurationError,
    EndpointError,
    LlamaAgentError,
    RetiredEndpointError,
    RunInterrupted,
    ToolFailedError,
)
from llama_agent.events import (
    ApprovalRequested,
    Event,
    ModelReplied,
    ModelRequested,
    RetryScheduled,
    RunFinished,
    RunStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from llama_agent.loop.state import RunResult, StopReason, Usage
from llama_agent.model.generator import MetaLlamaChatGenerator
from llama_agent.tooling.approval import Approval, Refused
from llama_agent.tooling.tool import FunctionTool, ToolHints, tool

__all__ = [
    "Agent",
    "Approval",
    "ApprovalRequested",
    "ConfigurationError",
    "EndpointError",
    "Event",
    "FunctionTool",
    "LlamaAgentError",
    "MetaLlamaChatGenerator",
    "ModelReplied",
    "ModelRequested",
    "Refused",
    "RetiredEndpointError",
    "RetryScheduled",
    "RunFinished",
    "RunInterrupted",
    "RunResult",
    "RunStarted",
    "StopReason",
    "TextDelta",
    "ToolFailedError",
    "ToolFinished",
    "ToolHints",
    "ToolStarted",
    "Usage",
    "tool",
]
