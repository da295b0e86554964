"""
How tool calls come about: by the server's own tool calling, or by replies held to a JSON schema.

A mode is a sans-I/O generator: it yields what to ask the server and is sent the answer. The generator
component performs it, sync or async.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from haystack.dataclasses import ChatMessage, TextContent
from haystack.tools.tool import Tool

from llama_agent import json_schema
from llama_agent.errors import ConfigurationError, EndpointError
from llama_agent.model.encoding import replayed_arguments, wire_message
from llama_agent.model.streams import CallText, Json, Reply, parse_object
from llama_agent.model.wire import WireRequest

ANSWER = "answer"
"""
What the model picks, beside the tools' names, to answer. No tool may have this name in constrained mode.
"""

# Fields that shape the final text: they would bend the replies that pick a tool and write its arguments.
_ANSWER_FIELDS = frozenset({"stop", "n", "response_format", "logprobs", "tool_choice"})
_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
_DEFAULT_LIMIT = 1024
"""Tokens for a pick or for arguments, where the caller sets no limit: a model may write a string for ever."""


@dataclass(frozen=True)
class ModelCall:
    """
    One call of a model, as the agent or a pipeline asks for it.

    :param messages: The conversation.
    :param tools: Tools on offer.
    :param fields: `model` and the generation settings: fields of the request's body.
    :param stream: Whether the answer's text is streamed.
    :param strict: Whether tool schemas are sent as strict.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...]
    fields: Json
    stream: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Ask:
    """Effect: send a chat request. Outcome: `list[Reply]`."""

    request: WireRequest


@dataclass(frozen=True)
class Fetch:
    """Effect: send any other request of the same server. Outcome: the answer's JSON."""

    request: WireRequest


ModeFlow: TypeAlias = Generator[Ask | Fetch, Any, list[Reply]]


@dataclass
class UsageSum:
    """Token counts over the requests of one call."""

    total: Json = field(default_factory=Json)

    def add(self, usage: Json) -> None:
        """
        Add one request's counts.

        :param usage: As the server sent them.
        """
        for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
            if isinstance(count := usage.get(key), int):
                self.total[key] = self.total.get(key, 0) + count


def native(call: ModelCall) -> ModeFlow:
    """
    The server's own tool calling.

    :param call: What is asked.
    :returns: One reply per choice.
    """
    fields = dict(call.fields)
    if call.tools:
        fields["tools"] = [definition_of(tool, strict=call.strict) for tool in call.tools]
    return (yield Ask(WireRequest(fields, call.messages, stream=call.stream)))


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
    conversation = plain_conversation(call.messages, call.tools)
    if not call.tools:
        return (yield Ask(WireRequest(call.fields, conversation, stream=call.stream)))
    if any(tool.name == ANSWER for tool in call.tools):
        raise ConfigurationError(
            f"in constrained mode no tool may be named '{ANSWER}': rename it with @tool(name=...)"
        )
    usage = UsageSum()
    writing = {key: value for key, value in call.fields.items() if key not in _ANSWER_FIELDS}
    if not writing.keys() & _LIMITS:
        writing["max_tokens"] = _DEFAULT_LIMIT
    # The caller's limit is for arguments and answers; a pick is as long as a name.
    picking = {**{k: v for k, v in writing.items() if k not in _LIMITS}, "max_tokens": _DEFAULT_LIMIT}
    options = options_of(call.tools, call.fields.get("tool_choice"))
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
        return [Reply(calls=[called], finish_reason=finish_reason, usage=usage.total, model=reply.model)]
    fields = {key: value for key, value in call.fields.items() if key != "tool_choice"}
    replies = yield Ask(WireRequest(fields, conversation, stream=call.stream))
    usage.add(replies[0].usage)
    replies[0].usage = usage.total
    return replies


def definition_of(tool: Tool, *, strict: bool = False) -> Json:
    """
    A tool as it goes on the wire.

    :param tool: Any Haystack tool.
    :param strict: Ask the server to hold arguments to the schema.
    :returns: OpenAI's form.
    """
    function: Json = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    if strict:
        function["parameters"] = json_schema.strict(tool.parameters)
        function["strict"] = True
    return {"type": "function", "function": function}


def plain_conversation(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> tuple[Json, ...]:
    """
    A conversation for a server that knows nothing of tools: calls and results are told in plain text.

    :param messages: The conversation.
    :param tools: Tools to describe in the system message.
    :returns: Messages of the roles system, user and assistant only.
    """
    wire: list[Json] = [_plain(message) for message in messages]
    if tools:
        described = "\n".join(
            f"- {tool.name}: {tool.description} Arguments: {json.dumps(tool.parameters, ensure_ascii=False)}"
            for tool in tools
        )
        text = f"You can use these tools, one at a time:\n{described}\nAnswer when you know enough."
        if wire and wire[0]["role"] == "system":
            wire[0] = {**wire[0], "content": f"{wire[0]['content']}\n\n{text}"}
        else:
            wire.insert(0, {"role": "system", "content": text})
    return tuple(wire)


def result_text(message: ChatMessage) -> str:
    """
    Text of a tool message.

    :param message: A message with one tool result.
    :returns: The result; parts that aren't text are left out.
    """
    result = message.tool_call_results[0].result
    if isinstance(result, str):
        return result
    return "\n".join(part.text for part in result if isinstance(part, TextContent))


def _plain(message: ChatMessage) -> Json:
    if message.tool_call_results:
        name = message.tool_call_results[0].origin.tool_name
        return {"role": "user", "content": f"Result of {name}: {result_text(message)}"}
    if message.tool_calls:
        calls = [
            json.dumps({call.tool_name: replayed_arguments(call)}, ensure_ascii=False)
            for call in message.tool_calls
        ]
        return {"role": "assistant", "content": "\n".join([message.text or "", *calls]).strip()}
    return wire_message(message)


def options_of(tools: Sequence[Tool], choice: object) -> list[str]:
    """
    What a model may do next.

    :param tools: Tools on offer.
    :param choice: `tool_choice` in OpenAI's form: `auto`, `none`, `required`, or a function by name.
    :returns: Tool names, and `ANSWER` where it may answer.
    :raises ConfigurationError: It names a tool that isn't on offer.
    """
    names = [tool.name for tool in tools]
    if choice == "none":
        return [ANSWER]
    if choice == "required":
        return names
    if isinstance(choice, dict):
        function = cast("Json", choice).get("function")
        name = cast("Json", function).get("name") if isinstance(function, dict) else None
        if name not in names:
            raise ConfigurationError(
                f"tool_choice names '{name}', which is not among the tools: {', '.join(names)}"
            )
        return [str(name)]
    return [*names, ANSWER]


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
