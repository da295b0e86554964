"""Run a flow: perform each effect, send the outcome back. Twins, one sync, one async."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from llama_agent.loop.effects import Effect, Flow, Outcome


def drive(flow: Flow, perform: Callable[[Effect], Outcome]) -> None:
    """
    Run a flow to its end on the caller's thread.

    :param flow: The flow.
    :param perform: Performs an effect. What it raises ends the flow and goes to the caller.
    """
    outcome: Outcome = None
    while True:
        try:
            effect = flow.send(outcome)
        except StopIteration:
            return
        # Outside the try: a StopIteration of a tool's is the tool's own, not the flow's end.
        outcome = perform(effect)


async def drive_async(flow: Flow, perform: Callable[[Effect], Awaitable[Outcome]]) -> None:
    """
    Run a flow to its end on the running event loop.

    :param flow: The flow.
    :param perform: Performs an effect. What it raises ends the flow and goes to the caller.
    """
    outcome: Outcome = None
    while True:
        try:
            effect = flow.send(outcome)
        except StopIteration:
            return
        outcome = await perform(effect)
