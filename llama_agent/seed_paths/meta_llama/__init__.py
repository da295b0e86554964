"""The published import path of `MetaLlamaChatGenerator`, forwarded to `llama_agent`."""

from haystack_integrations.components.generators.meta_llama.chat.chat_generator import MetaLlamaChatGenerator

__all__ = ["MetaLlamaChatGenerator"]
