"""Tool calls by replies held to a JSON schema: for servers without tool calling, or with one that fails."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llama_agent import json_schema
from llama_agent.errors import ConfigurationError, EndpointError
from llama_agent.model.asking import ANSWER, Ask, ModeFlow, ModelCall, UsageSum, options_of
from llama_agent.model.prompt_forms import PLAIN, told
from llama_agent.model.streams import CallText, Json, Reply, parse_object
from llama_agent.model.wire import WireRequest

# Fields that shape the final text: they would bend the replies that pick a tool and write its arguments.
_ANSWER_FIELDS = frozenset({"stop", "n", "response_format", "logprobs", "tool_choice"})
_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
_DEFAULT_LIMIT = 1024
"""Tokens for a pick or for arguments, where the caller sets no limit: a model may write a string for ever."""


def constrained(call: ModelCall) -> ModeFlow:
    """
    Tool calls by replies held to a schema (`response_format`): first which tool, or an answer; then its
    arguments.

    For servers whose tool calling is missing or unreliable: `tool_choice` alone often forces nothing, while a
    schema holds. One call per turn.

    :param call: What is asked.
    :returns: One reply.
    :raises ConfigurationError: A tool is named `answer`.
    """
    conversation = told(call.messages, call.tools, PLAIN)
    if not call.tools:
        return (yield Ask(WireRequest(call.fields, conversation, stream=call.stream), call.text_calls()))
    usage = UsageSum()
    writing = {key: value for key, value in call.fields.items() if key not in _ANSWER_FIELDS}
    if not writing.keys() & _LIMITS:
        writing["max_tokens"] = _DEFAULT_LIMIT
    # The caller's limit is for arguments and answers; a pick is as long as a name.
    picking = {**{k: v for k, v in writing.items() if k not in _LIMITS}, "max_tokens": _DEFAULT_LIMIT}
    options = options_of(call.tools, call.tool_choice)
    if options.count(ANSWER) > 1:
        raise ConfigurationError(
            f"in constrained mode no tool may be named '{ANSWER}': rename it with @tool(name=...)"
        )
    if len(options) > 1:
        question = f"Next step? Reply with JSON: {json.dumps({'next': '|'.join(options)})}"
        schema = _object_schema({"next": {"enum": options}})
        picked = (yield Ask(_held_to(schema, picking, conversation, question)))[0]
        usage.add(picked.usage)
        name = _field(picked.text, "next")
    else:
        name = options[0]
    tool = next((tool for tool in call.tools if tool.name == name), None)
    if tool is not None:
        question = f"You chose {tool.name}. Reply with its arguments as JSON."
        reply = (yield Ask(_held_to(json_schema.closed(tool.parameters), writing, conversation, question)))[0]
        usage.add(reply.usage)
        called = CallText(name=tool.name, arguments=reply.text or "")
        finish_reason = "tool_calls" if reply.finish_reason == "stop" else reply.finish_reason
        return [usage.of(Reply(calls=[called], finish_reason=finish_reason, model=reply.model))]
    fields = {key: value for key, value in call.fields.items() if key != "tool_choice"}
    replies = yield Ask(
        WireRequest(fields, conversation, stream=call.stream), call.text_calls(), call.tool_choice == "none"
    )
    usage.add(replies[0].usage)
    usage.of(replies[0])
    return replies


def _held_to(schema: Json, fields: Json, conversation: Sequence[Json], question: str) -> WireRequest:
    response_format = {
        "type": "json_schema",
        "json_schema": {"name": "reply", "strict": True, "schema": schema},
    }
    messages = (*conversation, {"role": "user", "content": question})
    return WireRequest({**fields, "response_format": response_format}, messages)


def _object_schema(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _field(text: str | None, name: str) -> object:
    """A field of a JSON reply; None when a server ignored the schema and the text is something else."""
    try:
        return parse_object((text or "").encode()).get(name)
    except EndpointError:
        return None
