"""The published class path, which saved YAML names."""

from haystack import component

from llama_agent.model.generator import MetaLlamaChatGenerator as _MetaLlamaChatGenerator


@component
class MetaLlamaChatGenerator(_MetaLlamaChatGenerator):
    """`llama_agent.MetaLlamaChatGenerator` under its published path."""
