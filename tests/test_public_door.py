"""The public door: its names are a promise, and each says what it is."""

import inspect
import subprocess
import sys

import pytest

import llama_agent

NAMES = """
Agent Approval ApprovalRequested CancelToken ConfigurationError ContextCompacted LandingStarted
AsyncRunStream RunStream SubAgentEvent ToolCallReceived
ContextOverflow EndpointError Event
FunctionTool LastAnswerFailed Limits NoteAdded ToolCallsRecovered ToolModeChanged register_text_format
LlamaAgentError MetaLlamaChatGenerator ModelReplied ModelRequested ParameterRefused
RateLimit ReasoningDelta Refused RequestDelayed RetiredEndpointError RetryPolicy RetryScheduled
RunContext RunFinished RunInterrupted RunResult RunStarted StopReason TextDelta TextSuperseded
ToolDefinitionWarning ToolDenied ToolFailedError ToolFinished ToolHints ToolProgress ToolRetry
ToolRetryScheduled ToolStarted ToolTimedOut Usage tool
""".split()


def test_the_public_names_are_these() -> None:
    assert sorted(llama_agent.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(llama_agent))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "StopReason"])
def test_a_public_name_documents_itself_and_its_parameters(name: str) -> None:
    thing = getattr(llama_agent, name)
    assert inspect.getdoc(thing)
    for method_name, method in [(name, thing), *inspect.getmembers(thing, inspect.isfunction)]:
        if method_name.startswith("_") or not getattr(method, "__module__", "").startswith("llama_agent"):
            continue
        documentation = inspect.getdoc(method)
        assert documentation, f"{name}.{method_name} has no docstring"
        if method is thing and inspect.isclass(thing):
            continue
        for parameter in inspect.signature(method).parameters:
            if parameter not in ("self", "cls", "args"):
                assert f":param {parameter}:" in documentation, (
                    f"{name}.{method_name}: {parameter} isn't described"
                )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = llama_agent.Nonsense


def test_importing_the_package_imports_neither_haystack_nor_openai() -> None:
    code = "import sys, llama_agent; print([m for m in ('haystack', 'openai', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WINGS = {"tooling": ("model", "loop"), "model": ("tooling", "loop"), "loop": ("model", "tooling")}


@pytest.mark.parametrize("wing", WINGS)
def test_the_wings_do_not_import_each_other(wing: str) -> None:
    code = (
        f"import sys, pkgutil, importlib, llama_agent.{wing} as wing\n"
        "for m in pkgutil.walk_packages(wing.__path__, wing.__name__ + '.'):\n"
        "    importlib.import_module(m.name)\n"
        "print(*[m for m in sys.modules if m.startswith('llama_agent.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for other in (*WINGS[wing], "agent", "performer", "haystack_compat", "cli"):
        assert f"llama_agent.{other}" not in done.stdout
