"""Haystack's private names that we stand on: when one is gone, this says which."""

import importlib
import inspect

import pytest

PRIVATE_NAMES = [
    (
        "haystack.components.agents.utils",
        "_render_prompt_messages",
        ["prompt_builder", "expected_role", "prompt_label", "kwargs"],
    ),
    ("haystack.hooks.invocation", "_run_hooks", ["hooks", "hook_point", "state"]),
    ("haystack.hooks.invocation", "_run_hooks_async", ["hooks", "hook_point", "state"]),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "parameters"), PRIVATE_NAMES)
def test_haystack_still_has_the_private_name(module: str, name: str, parameters: list[str]) -> None:
    function = getattr(importlib.import_module(module), name, None)
    assert function is not None, f"{module}.{name} is gone: llama_agent/haystack_compat.py needs another way"
    assert list(inspect.signature(function).parameters) == parameters


@pytest.mark.parametrize("name", ["_create_agent_span", "_select_tools"])
def test_haystacks_agent_still_has_the_protected_method(name: str) -> None:
    from haystack.components.agents import Agent

    assert callable(getattr(Agent, name, None)), f"Agent.{name} is gone: llama_agent/agent.py uses it"
