"""The import path of the published documentation, forwarded to `llama_agent`."""

from haystack import component

from llama_agent.model.generator import MetaLlamaChatGenerator


@component
class LlamaChatGenerator(MetaLlamaChatGenerator):
    """`llama_agent.MetaLlamaChatGenerator` under the name that the published documentation used."""
