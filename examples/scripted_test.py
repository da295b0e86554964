"""A test of a tool and a prompt that needs no model: run it with pytest, or as it is."""

from haystack.dataclasses import ToolCall

from llama_agent import Agent
from llama_agent.testing import ScriptedGenerator


def add(a: int, b: int) -> int:
    """
    Add two whole numbers.

    Args:
        a: One.
        b: The other.

    """
    return a + b


def test_the_model_reads_the_sum() -> None:
    """The tool gets what the model wrote, and the model gets what the tool gave."""
    with ScriptedGenerator(ToolCall("add", {"a": "2", "b": 3}), "It is 5.") as model:
        result = Agent(chat_generator=model, tools=[add]).run("What is 2 plus 3?")
    assert result.text == "It is 5."
    assert model.requests[1].messages[-1].tool_call_results[0].result == "5"


if __name__ == "__main__":
    test_the_model_reads_the_sum()
    print("passed")
