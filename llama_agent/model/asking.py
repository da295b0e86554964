"""What a mode asks of a server, and what it is asked itself: the effects and their data."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from haystack.dataclasses import ChatMessage
from haystack.tools.tool import Tool

from llama_agent import json_schema
from llama_agent.errors import ConfigurationError
from llama_agent.model.formats.cursor import Offered
from llama_agent.model.streams import Json, Reply
from llama_agent.model.text_calls import Shown, TextCalls
from llama_agent.model.wire import WireRequest

ANSWER = "answer"
"""
What the model picks, beside the tools' names, to answer. No tool may have this name in constrained mode.
"""


@dataclass(frozen=True)
class ModelCall:
    """
    One call of a model, as the agent or a pipeline asks for it.

    :param messages: The conversation.
    :param tools: Tools on offer.
    :param fields: `model` and the generation settings: fields of the request's body.
    :param stream: Whether the answer's text is streamed.
    :param strict: Whether tool schemas are sent as strict.
    :param after_prose: Whether an untagged call behind prose counts as one.
    :param shown: What was made of conversations before, to know echoes by.
    :param sends_choice: Whether the server is told of `tool_choice`. It holds in any case.
    :param withheld: Tools that aren't on offer now, though a call of one is still read as such.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...]
    fields: Json
    stream: bool = False
    strict: bool = False
    after_prose: bool = False
    shown: Shown = field(default_factory=Shown)
    sends_choice: bool = True
    withheld: tuple[Tool, ...] = ()

    @property
    def known_tools(self) -> tuple[Tool, ...]:
        """Tools that a reply may name."""
        return (*self.tools, *self.withheld)

    @property
    def tool_choice(self) -> object:
        """`tool_choice`, as the caller gave it."""
        return self.fields.get("tool_choice")

    def text_calls(self) -> TextCalls | None:
        """
        What reads calls in replies' texts.

        :returns: None where there is nothing to call.
        """
        if not self.known_tools or self.tool_choice == "none":
            return None
        return TextCalls(Offered(self.known_tools), self.messages, self.after_prose, self.shown)


@dataclass(frozen=True)
class Ask:
    """
    Effect: send a chat request. Outcome: `list[Reply]`.

    :param request: What is sent.
    :param text_calls: Reads calls in the replies' texts; None where they have none.
    :param drops_calls: Whether calls are passed over that nobody asked for.
    """

    request: WireRequest
    text_calls: TextCalls | None = None
    drops_calls: bool = False


@dataclass(frozen=True)
class Fetch:
    """Effect: send any other request of the same server. Outcome: the answer's JSON."""

    request: WireRequest


@dataclass(frozen=True)
class Tell:
    """Effect: show a reply that came in another way than a stream. Outcome: none."""

    reply: Reply


@dataclass(frozen=True)
class Switch:
    """
    Effect: ask this model in another way from now on. Outcome: none.

    :param mode: The mode; None for the same, but without telling the server of `tool_choice`.
    :param reason: What the server said.
    """

    mode: str | None
    reason: str


Effect: TypeAlias = Ask | Fetch | Tell | Switch
ModeFlow: TypeAlias = Generator[Effect, Any, list[Reply]]


@dataclass
class UsageSum:
    """Token counts over the requests of one call."""

    total: Json = field(default_factory=Json)
    largest: int = 0
    """Tokens of the request that took the most, its reply included."""

    def add(self, usage: Json) -> None:
        """
        Add one request's counts.

        :param usage: As the server sent them.
        """
        for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
            if isinstance(count := usage.get(key), int):
                self.total[key] = self.total.get(key, 0) + count
        counts = (usage.get(key) for key in ("prompt_tokens", "completion_tokens"))
        self.largest = max(self.largest, sum(count for count in counts if isinstance(count, int)))

    def of(self, reply: Reply) -> Reply:
        """
        Give a reply the counts.

        :param reply: What came of all the requests.
        :returns: It.
        """
        reply.usage, reply.context_tokens = self.total, self.largest or None
        return reply


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


def wanted_tools(tools: Sequence[Tool], choice: object) -> list[str] | None:
    """
    Tools of which one has to be called.

    :param tools: Tools on offer.
    :param choice: `tool_choice` in OpenAI's form: `auto`, `none`, `required` (or `any`), a function by name.
    :returns: Their names; None when the model is free to answer.
    :raises ConfigurationError: It names a tool that isn't on offer.
    """
    names = [tool.name for tool in tools]
    if choice in ("required", "any"):
        return names or None
    if not isinstance(choice, dict) or not names:
        return None
    function = cast("Json", choice).get("function")
    name = cast("Json", function).get("name") if isinstance(function, dict) else None
    if name not in names:
        raise ConfigurationError(
            f"tool_choice names '{name}', which is not among the tools: {', '.join(names)}"
        )
    return [str(name)]


def options_of(tools: Sequence[Tool], choice: object) -> list[str]:
    """
    What a model may do next.

    :param tools: Tools on offer.
    :param choice: As in `wanted_tools`.
    :returns: Tool names, and `ANSWER` where it may answer.
    :raises ConfigurationError: As `wanted_tools`.
    """
    if choice == "none":
        return [ANSWER]
    return wanted_tools(tools, choice) or [*(tool.name for tool in tools), ANSWER]
