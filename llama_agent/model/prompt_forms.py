"""
A conversation in plain text, for servers that know nothing of tools: tools are described in the system
message, calls and results told in the messages, in the form that the model's family was trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from haystack.dataclasses import ChatMessage, TextContent, ToolCall
from haystack.tools.tool import Tool

from llama_agent.model.encoding import replayed_arguments, wire_message
from llama_agent.model.streams import Json


@dataclass(frozen=True)
class PromptForm:
    """
    How a family of models is told of tools.

    :param name: Of the form.
    :param describe: Tools → what the system message says of them.
    :param calls: Calls of one message → its text.
    :param result: Tool name and result → the text of a user message.
    :param joins_neighbours: Whether two messages of one role in a row become one: many templates refuse them.
    """

    name: str
    describe: Callable[[Sequence[Tool]], str]
    calls: Callable[[Sequence[ToolCall]], str]
    result: Callable[[str, str], str]
    joins_neighbours: bool = True


def form_for(model: str) -> PromptForm:
    """
    The form that a model was trained on.

    :param model: Its name.
    :returns: Meta's for Llama (JSON; a Python list for Llama 4), else that of Hermes, which Qwen and most
        others know: `<tool_call>` and JSON.
    """
    if re.search(r"llama[-_ ]?4", model, re.IGNORECASE):
        return LLAMA_4
    if re.search(r"llama", model, re.IGNORECASE) and not re.search(
        r"hermes|groq.*tool", model, re.IGNORECASE
    ):
        return LLAMA_3
    return HERMES


def told(messages: Sequence[ChatMessage], tools: Sequence[Tool], form: PromptForm) -> tuple[Json, ...]:
    """
    A conversation in plain text.

    :param messages: The conversation.
    :param tools: Tools to describe in the system message.
    :param form: How.
    :returns: Messages of the roles system, user and assistant only.
    """
    wire: list[Json] = []
    for message in messages:
        for said in _said(message, form):
            before = wire[-1] if wire and form.joins_neighbours else Json()
            both = (before.get("content"), said["content"])
            if before.get("role") == said["role"] and all(isinstance(text, str) for text in both):
                wire[-1] = {**before, "content": "\n".join(cast("tuple[str, str]", both))}
            else:
                wire.append(said)
    if tools:
        text = form.describe(tools)
        if wire and wire[0]["role"] == "system":
            wire[0] = {**wire[0], "content": f"{wire[0]['content']}\n\n{text}"}
        else:
            wire.insert(0, {"role": "system", "content": text})
    return tuple(wire)


def _said(message: ChatMessage, form: PromptForm) -> list[Json]:
    """A message; none of an assistant's that says nothing."""
    if message.tool_call_results:
        name = message.tool_call_results[0].origin.tool_name
        return [{"role": "user", "content": form.result(name, result_text(message))}]
    if message.tool_calls:
        text = f"{message.text or ''}\n{form.calls(message.tool_calls)}".strip()
        return [{"role": "assistant", "content": text}]
    plain = wire_message(message)
    return [plain] if plain["role"] != "assistant" or plain["content"] else []


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


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)


def _signature(tool: Tool) -> Json:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}


def _lines(tools: Sequence[Tool]) -> str:
    return "\n".join(_dumps({"type": "function", "function": _signature(tool)}) for tool in tools)


def _describe_plain(tools: Sequence[Tool]) -> str:
    described = "\n".join(
        f"- {tool.name}: {tool.description} Arguments: {_dumps(tool.parameters)}" for tool in tools
    )
    return f"You can use these tools, one at a time:\n{described}\nAnswer when you know enough."


def _calls_plain(calls: Sequence[ToolCall]) -> str:
    return "\n".join(_dumps({call.tool_name: replayed_arguments(call)}) for call in calls)


def _result_plain(name: str, text: str) -> str:
    return f"Result of {name}: {text}"


def _describe_hermes(tools: Sequence[Tool]) -> str:
    return (
        "You may call functions to find out what you need. Their signatures, one a line, as JSON schemas:\n"
        f"<tools>\n{_lines(tools)}\n</tools>\n"
        "For each call, write a JSON object with the function's name and its arguments between tags, and "
        "then wait for the result:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <arguments-object>}\n</tool_call>\n'
        "When you know enough, answer in plain text without a call."
    )


def _calls_hermes(calls: Sequence[ToolCall]) -> str:
    texts = [_dumps({"name": call.tool_name, "arguments": replayed_arguments(call)}) for call in calls]
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


def _result_hermes(name: str, text: str) -> str:
    return f"<tool_response>\n{_dumps({'name': name, 'content': text})}\n</tool_response>"


def _describe_llama_3(tools: Sequence[Tool]) -> str:
    return (
        "You have access to these functions:\n"
        f"{_lines(tools)}\n"
        "To call one, reply with nothing but a JSON object in this form, its values literal: "
        '{"name": function name, "parameters": dictionary of argument name and its value}\n'
        "Several calls are joined by '; '. When you know enough, answer in plain text without a call."
    )


def _calls_llama_3(calls: Sequence[ToolCall]) -> str:
    return "; ".join(
        _dumps({"name": call.tool_name, "parameters": replayed_arguments(call)}) for call in calls
    )


def _describe_llama_4(tools: Sequence[Tool]) -> str:
    return (
        "You have access to these functions:\n"
        f"{_dumps([_signature(tool) for tool in tools])}\n"
        "To call some, reply with nothing but a Python list of calls with literal keyword arguments: "
        "[function_name(argument=value, other=value), other_function(argument=value)]\n"
        "When you know enough, answer in plain text without a call."
    )


def _calls_llama_4(calls: Sequence[ToolCall]) -> str:
    texts = [
        f"{call.tool_name}({', '.join(f'{k}={v!r}' for k, v in replayed_arguments(call).items())})"
        for call in calls
    ]
    return f"[{', '.join(texts)}]"


PLAIN = PromptForm("plain", _describe_plain, _calls_plain, _result_plain, joins_neighbours=False)
"""For replies that are held to a schema: how a call is written doesn't matter."""
HERMES = PromptForm("hermes", _describe_hermes, _calls_hermes, _result_hermes)
LLAMA_3 = PromptForm("llama-3", _describe_llama_3, _calls_llama_3, _result_plain)
LLAMA_4 = PromptForm("llama-4", _describe_llama_4, _calls_llama_4, _result_plain)
