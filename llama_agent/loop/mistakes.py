"""Calls that couldn't be run as the model wrote them: what it is told, and when it is enough."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools.tool import Tool

from llama_agent.arguments import MISTAKE, WITHHELD, shorten
from llama_agent.json_schema import example_of

ALLOWED = 6
"""Mistakes in a row, after which the model is asked to answer with what it has."""
MISTAKEN = (
    "Your tool calls failed too many times in a row, so no more tools can be called. Answer now as well as "
    "you can with what you know, and say what is missing."
)
_CHARACTERS = 2000

Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Mistakes:
    """
    The model's mistakes since its last good call.

    :param count: How many.
    :param steps: In how many steps; one is no reason to give up, however many calls it had.
    :param last: The calls of the last step that were mistakes: name, and arguments as JSON.
    """

    count: int = 0
    steps: int = 0
    last: frozenset[Key] = frozenset()

    @property
    def is_enough(self) -> bool:
        """Whether the model won't get it right."""
        return self.count >= ALLOWED and self.steps > 1

    def after(self, calls: Sequence[ToolCall], results: Sequence[ChatMessage]) -> Mistakes:
        """
        The mistakes after another step.

        :param calls: The step's calls.
        :param results: Their tool messages, in the same order.
        :returns: The new count; none once a call has run.
        """
        wrong = [call for call, result in zip(calls, results, strict=False) if _is_mistake(result)]
        withheld = sum(WITHHELD in result.meta for result in results)
        if len(wrong) + withheld < len(results):
            return Mistakes(last=frozenset(map(_key, wrong)))
        return Mistakes(self.count + len(wrong), self.steps + 1, frozenset(map(_key, wrong)))

    def hinted(
        self, calls: Sequence[ToolCall], results: Sequence[ChatMessage], tools: Sequence[Tool]
    ) -> list[ChatMessage]:
        """
        Help with the mistakes that were made in the last step too.

        :param calls: This step's calls.
        :param results: Their tool messages.
        :param tools: Tools on offer.
        :returns: The messages; where a call repeats a mistake, with the tool's schema and an example.
        """
        by_name = {tool.name: tool for tool in tools}
        hinted = list(results)
        for place, (call, result) in enumerate(zip(calls, results, strict=False)):
            if _is_mistake(result) and _key(call) in self.last:
                text = f"{result.tool_call_results[0].result}\n{_hint(by_name.get(call.tool_name))}"
                hinted[place] = ChatMessage.from_tool(
                    text, origin=result.tool_call_results[0].origin, error=True, meta=dict(result.meta)
                )
        return hinted


def _is_mistake(result: ChatMessage) -> bool:
    return bool(result.meta.get(MISTAKE))


def _key(call: ToolCall) -> Key:
    return call.tool_name, json.dumps(call.arguments, sort_keys=True, default=repr)


def _hint(tool: Tool | None) -> str:
    if tool is None:
        return "The same call won't work the next time either: use one of the tools above, or answer."
    schema, example = _dumps(tool.parameters), _dumps(example_of(tool.parameters))
    text = f"This is the same mistake as before. JSON schema of the arguments: {shorten(schema, _CHARACTERS)}"
    if len(example) > _CHARACTERS:
        return text
    return f"{text}\nArguments that would be accepted look like this: {example}"


def _dumps(value: Mapping[str, Any] | object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
