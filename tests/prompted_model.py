"""A model that knows of tools only what its prompt says, behind servers that refuse `tools`."""

import json
import re
from typing import Any

from tests.endpoint import Item, Reply, Request, Status
from tests.endpoint.dresses import VLLM, Dress, LlamaCpp, Ollama

Json = dict[str, Any]

_PLACE = re.compile(r"(?<=in )[A-Z][a-z]+|(?<=and )[A-Z][a-z]+")


class Prompted(Dress):
    """
    Calls `weather` in the form that the system message shows, and answers once it has been told the results.

    :param front: The server before it, which may refuse requests.
    :param model: The model's name.
    """

    def __init__(self, front: Dress | None = None, model: str = "llama", **settings: Any) -> None:
        super().__init__(**settings)
        self.front = front
        self.models = (model,)  # type: ignore[misc] - each has a name of its own
        self.refusals = 0

    def __call__(self, request: Request) -> Item:
        asked = request.json
        refused = self.front.refused(asked) if self.front else None
        if refused is None and (wrong := _not_plain(asked)):
            refused = self.error(422, wrong)
        if refused is not None:
            self.refusals += 1
            return refused
        return Reply(self.written(asked))

    def written(self, asked: Json) -> str:
        """What the model writes."""
        told = "\n".join(m["content"] for m in asked["messages"] if m["role"] == "user")
        places = _PLACE.findall(asked["messages"][-1]["content"]) if "sunny" not in told else []
        if found := re.findall(r"sunny in ([A-Z][a-z]+)", told):
            return f"It is sunny in {' and '.join(dict.fromkeys(found))}."
        prompt = next((m["content"] for m in asked["messages"] if m["role"] == "system"), "")
        if not places or "weather" not in prompt:
            return "Hello there!"
        return called(form_shown(prompt), places)


class NoJinja(LlamaCpp):
    """llama.cpp's server when it was started without `--jinja`."""

    def refused(self, asked: Json) -> Status | None:
        if asked.get("tools"):
            return self.error(500, "tools param requires --jinja flag")
        return super().refused(asked)


class NoTemplate(Ollama):
    """Ollama with a model whose template has no tools (pydantic-ai#703)."""

    def refused(self, asked: Json) -> Status | None:
        if asked.get("tools"):
            return self.error(400, "registry.ollama.ai/library/gemma:2b does not support tools")
        return super().refused(asked)


def no_flags() -> Dress:
    """vLLM without its flags for tool calls."""
    return VLLM(tool_parser=False)


def form_shown(prompt: str) -> str:
    """The form of calls that a prompt shows."""
    if "<tool_call>" in prompt:
        return "tool_call"
    if "<function=" in prompt:
        return "function_tag"
    if re.search(r"\[\w+\(\w+ ?=", prompt):
        return "pythonic"
    return "json" if '"name"' in prompt and '"parameters"' in prompt else "none"


def called(form: str, places: list[str]) -> str:
    """A call of `weather` for each place."""
    cities = [{"city": place} for place in places]
    match form:
        case "tool_call":
            calls = [json.dumps({"name": "weather", "arguments": each}) for each in cities]
            return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in calls)
        case "function_tag":
            return "".join(f"<function=weather>{json.dumps(each)}</function>" for each in cities)
        case "pythonic":
            return f"[{', '.join(f'weather(city={place!r})' for place in places)}]"
        case "json":
            return "; ".join(json.dumps({"name": "weather", "parameters": each}) for each in cities)
    return "I don't know how to call a tool."


def _not_plain(asked: Json) -> str | None:
    """What a request has that such a server doesn't know."""
    if fields := {"tools", "tool_choice", "parallel_tool_calls"} & asked.keys():
        return f"unknown fields: {sorted(fields)}"
    for place, message in enumerate(asked["messages"]):
        if message["role"] not in ("system", "user", "assistant") or message.keys() != {"role", "content"}:
            return f"message {place} is not plain: {message}"
        if not message["content"]:
            return f"message {place} is empty"
        if message["role"] == "system" and place:
            return f"message {place}: the system message must be the first"
    return None
