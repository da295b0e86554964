"""
Two Python functions as tools. Run: `llama-agent run "What is 17 plus 25?" --tools examples/hello_tool.py`.
"""

from llama_agent import Agent


def add(a: int, b: int) -> int:
    """
    Add two numbers: a plus b.

    Args:
        a: First number.
        b: Second number.

    """
    return a + b


def reverse_text(text: str) -> str:
    """
    Reverse a text, so that it reads backwards.

    Args:
        text: The text to reverse.

    """
    return text[::-1]


if __name__ == "__main__":
    with Agent(tools=[add, reverse_text]) as agent:
        result = agent.run("What is 17 plus 25?")
        print(result.text)
        print(result.stop_reason, result.usage, sep="\n")
