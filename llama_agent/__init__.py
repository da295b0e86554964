"""
llama-agent: an agent loop for Llama and other open-weight models, on Haystack.

What is named in `__all__` is the public door; modules are private detail. The names are imported when first
used: importing Haystack takes seconds, and decides on its telemetry, which the command line switches off
before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_agent.agent import Agent
    from llama_agent.cancel import CancelToken
    from llama_agent.errors import (
        ConfigurationError,
        ContextOverflow,
        EndpointError,
        LlamaAgentError,
        ParameterRefused,
        RetiredEndpointError,
        RunInterrupted,
        ToolDefinitionWarning,
        ToolDenied,
        ToolFailedError,
        ToolRetry,
    )
    from llama_agent.events import (
        ApprovalRequested,
        ContextCompacted,
        Event,
        LandingStarted,
        LastAnswerFailed,
        ModelReplied,
        ModelRequested,
        NoteAdded,
        ReasoningDelta,
        RequestDelayed,
        RetryScheduled,
        RunFinished,
        RunStarted,
        SubAgentEvent,
        TextDelta,
        TextSuperseded,
        ToolCallReceived,
        ToolCallsRecovered,
        ToolFinished,
        ToolModeChanged,
        ToolProgress,
        ToolRetryScheduled,
        ToolStarted,
        ToolTimedOut,
    )
    from llama_agent.loop.limits import Limits
    from llama_agent.loop.state import RunResult, StopReason, Usage
    from llama_agent.model.formats import register_text_format
    from llama_agent.model.generator import MetaLlamaChatGenerator
    from llama_agent.model.pacing import RateLimit
    from llama_agent.model.retry import RetryPolicy
    from llama_agent.streaming import AsyncRunStream, RunStream
    from llama_agent.tooling.approval import Approval, Refused
    from llama_agent.tooling.run_context import RunContext
    from llama_agent.tooling.tool import FunctionTool, ToolHints, tool

__all__ = [
    "Agent",
    "Approval",
    "ApprovalRequested",
    "AsyncRunStream",
    "CancelToken",
    "ConfigurationError",
    "ContextCompacted",
    "ContextOverflow",
    "EndpointError",
    "Event",
    "FunctionTool",
    "LandingStarted",
    "LastAnswerFailed",
    "Limits",
    "LlamaAgentError",
    "MetaLlamaChatGenerator",
    "ModelReplied",
    "ModelRequested",
    "NoteAdded",
    "ParameterRefused",
    "RateLimit",
    "ReasoningDelta",
    "Refused",
    "RequestDelayed",
    "RetiredEndpointError",
    "RetryPolicy",
    "RetryScheduled",
    "RunContext",
    "RunFinished",
    "RunInterrupted",
    "RunResult",
    "RunStarted",
    "RunStream",
    "StopReason",
    "SubAgentEvent",
    "TextDelta",
    "TextSuperseded",
    "ToolCallReceived",
    "ToolCallsRecovered",
    "ToolDefinitionWarning",
    "ToolDenied",
    "ToolFailedError",
    "ToolFinished",
    "ToolHints",
    "ToolModeChanged",
    "ToolProgress",
    "ToolRetry",
    "ToolRetryScheduled",
    "ToolStarted",
    "ToolTimedOut",
    "Usage",
    "register_text_format",
    "tool",
]

_HOMES = {
    "Agent": "llama_agent.agent",
    "Approval": "llama_agent.tooling.approval",
    "ApprovalRequested": "llama_agent.events",
    "CancelToken": "llama_agent.cancel",
    "ConfigurationError": "llama_agent.errors",
    "AsyncRunStream": "llama_agent.streaming",
    "RunStream": "llama_agent.streaming",
    "ContextCompacted": "llama_agent.events",
    "SubAgentEvent": "llama_agent.events",
    "LandingStarted": "llama_agent.events",
    "ToolCallReceived": "llama_agent.events",
    "ContextOverflow": "llama_agent.errors",
    "EndpointError": "llama_agent.errors",
    "Event": "llama_agent.events",
    "FunctionTool": "llama_agent.tooling.tool",
    "LastAnswerFailed": "llama_agent.events",
    "Limits": "llama_agent.loop.limits",
    "LlamaAgentError": "llama_agent.errors",
    "MetaLlamaChatGenerator": "llama_agent.model.generator",
    "ModelReplied": "llama_agent.events",
    "ModelRequested": "llama_agent.events",
    "NoteAdded": "llama_agent.events",
    "ParameterRefused": "llama_agent.errors",
    "RateLimit": "llama_agent.model.pacing",
    "ReasoningDelta": "llama_agent.events",
    "Refused": "llama_agent.tooling.approval",
    "RequestDelayed": "llama_agent.events",
    "RetiredEndpointError": "llama_agent.errors",
    "RetryPolicy": "llama_agent.model.retry",
    "RetryScheduled": "llama_agent.events",
    "RunContext": "llama_agent.tooling.run_context",
    "RunFinished": "llama_agent.events",
    "RunInterrupted": "llama_agent.errors",
    "RunResult": "llama_agent.loop.state",
    "RunStarted": "llama_agent.events",
    "StopReason": "llama_agent.loop.state",
    "TextDelta": "llama_agent.events",
    "TextSuperseded": "llama_agent.events",
    "ToolCallsRecovered": "llama_agent.events",
    "ToolDefinitionWarning": "llama_agent.errors",
    "ToolDenied": "llama_agent.errors",
    "ToolFailedError": "llama_agent.errors",
    "ToolFinished": "llama_agent.events",
    "ToolHints": "llama_agent.tooling.tool",
    "ToolModeChanged": "llama_agent.events",
    "ToolProgress": "llama_agent.events",
    "ToolRetry": "llama_agent.errors",
    "ToolRetryScheduled": "llama_agent.events",
    "ToolStarted": "llama_agent.events",
    "ToolTimedOut": "llama_agent.events",
    "Usage": "llama_agent.loop.state",
    "register_text_format": "llama_agent.model.formats",
    "tool": "llama_agent.tooling.tool",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llama_agent' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
