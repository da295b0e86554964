"""An agent that hands parts of its task to another one."""

from llama_agent import Agent, Event, Limits, SubAgentEvent, ToolFinished, tool


@tool(read_only=True)
def train_hours(town: str) -> float:
    """
    Tell how many hours the train to a town takes.

    Args:
        town: Name of the town.

    """
    return {"Bern": 3.5, "Lyon": 6.0}.get(town, 12.0)


def show(event: Event) -> None:
    """Print what the other agent's tools gave."""
    if isinstance(event, SubAgentEvent) and isinstance(event.event, ToolFinished):
        print(f"[travel agent: {event.event.tool_name} gave {event.event.result}]")


if __name__ == "__main__":
    travel = Agent(tools=[train_hours], system_prompt="You know the trains. Answer in one sentence.")
    desk = travel.as_tool("ask_travel_agent", "Find out how to get to a town.")
    with travel, Agent(tools=[desk], limits=Limits(model_calls=20)) as agent:  # for both together
        print(agent.run("How long does it take to get to Bern?", on_event=show).text)
