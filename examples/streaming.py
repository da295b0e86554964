"""A run as it happens: text as it is written, tools as they work, and the result at the end."""

from llama_agent import Agent, RunFinished, TextDelta, TextSuperseded, ToolFinished, tool


@tool(read_only=True)
def moon_phase(day: int) -> str:
    """
    Tell the phase of the moon on a day of this month.

    Args:
        day: Day of the month, 1 to 31.

    """
    return ["new", "waxing", "full", "waning"][day // 8 % 4]


if __name__ == "__main__":
    with Agent(tools=[moon_phase]) as agent:
        for event in agent.stream("What is the phase of the moon on day 17?"):
            match event:
                case TextDelta(text=text):
                    print(text, end="", flush=True)
                case TextSuperseded():
                    print("\n[the answer broke off, and begins anew]")
                case ToolFinished(tool_name=name, result=result):
                    print(f"[{name} gave {result}]")
                case RunFinished(result=result) if result is not None:
                    print(f"\n{result.stop_reason}, {result.usage.total_tokens} tokens")
                case _:
                    pass
