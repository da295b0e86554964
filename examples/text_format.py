"""A model that writes its tool calls in a way of its own: `<<call {"tool": …, "input": {…}} call>>`."""

import json
from typing import Any

from llama_agent import Agent, ToolCallsRecovered, register_text_format


def parse(inner: str) -> list[tuple[str, dict[str, Any]]]:
    call = json.loads(inner)
    return [(call["tool"], call["input"])]


register_text_format("acme", begin="<<call", end="call>>", parse=parse)


def letter_count(word: str) -> int:
    """
    Count the letters of a word.

    Args:
        word: The word.

    """
    return sum(letter.isalpha() for letter in word)


if __name__ == "__main__":
    with Agent(tools=[letter_count]) as agent:
        result = agent.run('How many letters has "llama"?')
        print(result.text)
        recovered = [event.format for event in result.events if isinstance(event, ToolCallsRecovered)]
        print("calls read from text:", *recovered)
