"""Text as it is written, and events as they happen."""

from haystack.dataclasses import StreamingChunk

from llama_agent import Agent, Event, ToolFinished, tool


@tool(read_only=True)
def moon_phase(day: int) -> str:
    """
    Tell the phase of the moon on a day of this month.

    Args:
        day: Day of the month, 1 to 31.

    """
    return ["new", "waxing", "full", "waning"][day // 8 % 4]


def show_text(chunk: StreamingChunk) -> None:
    """Print a piece of text as soon as it arrives."""
    print(chunk.content, end="", flush=True)


def show_tools(event: Event) -> None:
    """Print each tool's result."""
    if isinstance(event, ToolFinished):
        print(f"[{event.tool_name} gave {event.result}]")


if __name__ == "__main__":
    with Agent(tools=[moon_phase], streaming_callback=show_text) as agent:
        agent.run("What is the phase of the moon on day 17?", on_event=show_tools)
    print()
