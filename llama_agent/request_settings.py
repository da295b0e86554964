"""The generation settings of one model call: the caller's, held to the run's limits and to what is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from haystack.components.generators.chat.types import ChatGenerator

from llama_agent.errors import ContextOverflow, EndpointError, ParameterRefused
from llama_agent.json_schema import strict
from llama_agent.loop.effects import CallModel
from llama_agent.loop.limits import Grant
from llama_agent.loop.output import AnswerReader
from llama_agent.model.generator import MetaLlamaChatGenerator

_ABOUT_SCHEMA = re.compile(r"response_format|json_schema|schema|grammar", re.IGNORECASE)
_SHAPING = frozenset(
    {"response_format", "stop", "n", "grammar", "json_schema", "guided_json", "logprobs", "top_logprobs"}
    | {"tool_choice", "parallel_tool_calls", "logit_bias", "prediction"}
)
"""Settings of a request that say what its reply looks like."""
_TOKENS_PER_WORD = 4
"""Of a summary: enough for any language, and for some thinking."""
_RAISED_OUTPUT = 4096
"""Tokens that a reply may have at least, once one was cut; else four times the usual."""


def settings_of(
    effect: CallModel,
    share: Grant,
    generator: ChatGenerator,
    given: Mapping[str, Any] | None,
    *,
    streams: bool,
) -> dict[str, Any] | None:
    """
    The settings of a model call.

    :param effect: What is asked.
    :param share: What it may use.
    :param generator: The model.
    :param given: The run's own settings.
    :param streams: Whether the reply is to be streamed.
    :returns: The generator's `generation_kwargs`; None for nothing but its own.
    """
    is_ours = isinstance(generator, MetaLlamaChatGenerator)
    own = cast("dict[str, Any]", getattr(generator, "generation_kwargs", None) or {})
    wanted = dict(given or {})
    if effect.summary_words is not None:
        # What shapes the run's answers would bend a summary.
        wanted = {name: value for name, value in wanted.items() if name not in _SHAPING}
        if is_ours:
            wanted |= dict.fromkeys(_SHAPING & own.keys())
    both = {**own, **wanted}
    name = next((n for n in ("max_completion_tokens", "max_tokens") if both.get(n)), "max_tokens")
    if (most := _most_tokens(effect, share, cast("int | None", both.get(name)))) is not None:
        wanted[name] = most
    if streams:
        wanted["stream"] = True
    if effect.schema is not None:
        wanted["response_format"] = _response_format(effect.schema)
    if share.seconds is not None and isinstance(generator, MetaLlamaChatGenerator):
        usual = both.get("timeout") or generator.timeout
        wanted["timeout"] = min(share.seconds, usual) if isinstance(usual, int | float) else share.seconds
    return wanted or None


def is_refused(error: BaseException) -> bool:
    """
    Whether the request itself was at fault.

    :param error: What came of it.
    :returns: True for a server's refusal.
    """
    return isinstance(error, EndpointError) and error.status in (400, 413, 422)


def refuses_schema(error: BaseException) -> bool:
    """
    Whether the server won't hold a reply to a schema, or can't make anything of this one.

    :param error: What came of a request with one.
    :returns: True then.
    """
    if not is_refused(error) or isinstance(error, ContextOverflow):
        return False
    if isinstance(error, ParameterRefused):
        return error.parameter == "response_format"
    return bool(_ABOUT_SCHEMA.search(str(error)))


def _most_tokens(effect: CallModel, share: Grant, usual: int | None) -> int | None:
    """Tokens that the reply may have; None for as many as usual."""
    most = None
    if effect.summary_words is not None:
        most = effect.summary_words * _TOKENS_PER_WORD
    if effect.raises_output:
        most = max(_RAISED_OUTPUT, 4 * (usual or 0))
    if share.output_tokens is not None:
        most = min(share.output_tokens, most or usual or share.output_tokens)
    return most


def _response_format(reader: AnswerReader) -> dict[str, Any]:
    schema = {"name": reader.name, "strict": True, "schema": strict(reader.schema)}
    return {"type": "json_schema", "json_schema": schema}
