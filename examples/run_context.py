"""A tool that is told of its run: the caller's own objects, and a way to say how far it is."""

from dataclasses import dataclass, field

from llama_agent import Agent, Event, RunContext, ToolProgress, ToolRetry


@dataclass
class Shop:
    """What the tools work on; a model never sees it."""

    stock: dict[str, int] = field(default_factory=lambda: {"lamp": 3, "chair": 0})


def units_left(run: RunContext[Shop], product: str) -> int:
    """
    Tell how many units of a product are left in the shop.

    Args:
        run: Filled in for the tool; a model does not see it.
        product: Name of the product.

    """
    run.progress(f"looking for {product}")
    if product not in run.deps.stock:
        raise ToolRetry(f"there is no product '{product}': ask for one of {', '.join(run.deps.stock)}")
    return run.deps.stock[product]


def show(event: Event) -> None:
    """Print what tools say of their progress."""
    if isinstance(event, ToolProgress):
        print(f"[{event.tool_name}: {event.text}]")


if __name__ == "__main__":
    with Agent(tools=[units_left]) as agent:
        print(agent.run('How many units of the product "lamp" are left?', deps=Shop(), on_event=show).text)
