"""Imports every module of the installed wheel, and loads YAML saved with the published class path."""

import importlib
import pkgutil
import sys
from pathlib import Path

import llama_agent_tools

import llama_agent

assert "site-packages" in llama_agent.__file__, f"not the installed package: {llama_agent.__file__}"
for package in (llama_agent, llama_agent_tools):
    assert (Path(package.__file__).parent / "py.typed").exists(), f"{package.__name__} has no py.typed"
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
for name in llama_agent.__all__:
    getattr(llama_agent, name)
assert not any(name.startswith("llama_agent.seed_paths") for name in sys.modules)

from haystack import Pipeline
from haystack_integrations.components.generators.llama import LlamaChatGenerator
from haystack_integrations.components.generators.meta_llama import MetaLlamaChatGenerator as ShortPath
from haystack_integrations.components.generators.meta_llama.chat.chat_generator import (
    MetaLlamaChatGenerator,
)

assert ShortPath is MetaLlamaChatGenerator
assert issubclass(LlamaChatGenerator, llama_agent.MetaLlamaChatGenerator)
pipeline = Pipeline()
pipeline.add_component("llm", MetaLlamaChatGenerator())
text = pipeline.dumps()
published = (
    "haystack_integrations.components.generators.meta_llama.chat.chat_generator.MetaLlamaChatGenerator"
)
assert f"type: {published}" in text, text
assert type(Pipeline.loads(text).get_component("llm")) is MetaLlamaChatGenerator
print("every path imports")
