"""A script that works through tasks unattended, and keeps what a failed run had got to."""

import sys

from llama_agent import Agent, LlamaAgentError, RunInterrupted


def char_count(text: str) -> int:
    """
    Count the characters of a text.

    Args:
        text: The text.

    """
    return len(text)


TASKS = ['Count the characters of "llama".', 'Count the characters of "open weights".']


def main() -> int:
    """Run every task; the number of those that failed is the exit code."""
    failed = 0
    with Agent(tools=[char_count], max_agent_steps=20) as agent:
        for task in TASKS:
            try:
                result = agent.run(task)
                print(f"{task} → {result.text} ({result.stop_reason}, {result.usage.total_tokens} tokens)")
            except RunInterrupted as stop:
                print(f"interrupted after {len(stop.result.messages)} messages")
                return 130
            except LlamaAgentError as error:
                failed += 1
                print(f"{task} failed: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
