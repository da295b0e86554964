"""The published integration's import paths, class path and signature."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from haystack import Pipeline
from haystack.dataclasses import ChatMessage

import llama_agent
from tests.endpoint import Endpoint, Reply

PUBLISHED = (
    "haystack_integrations.components.generators.meta_llama.chat.chat_generator.MetaLlamaChatGenerator"
)
YAML = f"""
components:
  llm:
    type: {PUBLISHED}
    init_parameters:
      api_base_url: https://api.llama.com/compat/v1/
      api_key: {{env_vars: [LLAMA_API_KEY], strict: true, type: env_var}}
      model: Llama-4-Scout-17B-16E-Instruct-FP8
      generation_kwargs: {{}}
      streaming_callback: null
      tools: null
connections: []
"""


def test_the_published_documentations_example_runs_against_another_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from haystack_integrations.components.generators.llama import LlamaChatGenerator

    with Endpoint() as endpoint:
        endpoint.script(Reply("Llamas are camelids."))
        monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
        client = LlamaChatGenerator()
        assert isinstance(client, llama_agent.MetaLlamaChatGenerator)
        response = client.run([ChatMessage.from_user("What are llamas?")])
        assert response["replies"][0].text == "Llamas are camelids."
        client.close()


def test_yaml_saved_with_the_published_class_path_loads_runs_and_keeps_that_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Endpoint() as endpoint:
        endpoint.script(Reply("Hello."))
        monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
        pipeline = Pipeline.loads(YAML)
        outputs = pipeline.run({"llm": {"messages": [ChatMessage.from_user("Hi")]}})
        assert outputs["llm"]["replies"][0].text == "Hello."
        assert f"type: {PUBLISHED}" in pipeline.dumps()
        pipeline.get_component("llm").close()


def test_the_published_package_beside_ours_is_noticed_once(tmp_path: Path) -> None:
    metadata = tmp_path / "meta_llama_haystack-2.2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: meta-llama-haystack\nVersion: 2.2.0\n")
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "from llama_agent import MetaLlamaChatGenerator as G\n"
        "G(); G()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("pip uninstall meta-llama-haystack") == 1
    assert "--force-reinstall --no-deps llama-agent-haystack" in done.stderr
