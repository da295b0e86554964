"""
How many tokens of the prompt a real llama.cpp server reads anew in each step of a run:
`python -m tests.embedded.prefix_cache [--mode constrained|prompted|native] [--steps N] [--threads N]`.

An `Agent` goes on for some steps, once as it is, and once with a clock in the system message, which is set at
each step; in constrained mode once more on a window so narrow that the conversation is made smaller on the
way. The small model is made to call by a schema or a grammar. Each run has a server of its own without a
cache of older prompts, so that nothing but the request before matters. Tokens don't depend on how busy the
machine is.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from haystack.components.agents.state.state import State
from haystack.dataclasses import ChatMessage
from haystack.hooks import hook

from llama_agent import Agent, ContextCompacted, Limits, tool
from tests.embedded.narrow_server import Exchange, NarrowServer, narrow_server

WIDE, NARROW = 4_096, 1_024
_CALL = {
    "type": "object",
    "properties": {
        "name": {"const": "look"},
        "arguments": {
            "type": "object",
            "properties": {"page": {"const": "next"}},
            "required": ["page"],
        },
    },
    "required": ["name", "arguments"],
}
_GRAMMAR = r"""
root ::= "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"page\": \"next\"}}\n</tool_call>"
"""
_FORCED: dict[str, dict[str, Any]] = {
    "constrained": {"tool_choice": "required"},
    "prompted": {"grammar": _GRAMMAR},
    "native": {"response_format": _CALL},
}
"""What makes the model call, by mode."""


@dataclass(frozen=True)
class Figures:
    """
    Tokens of one run.

    :param first: Read for the first step.
    :param steps: Read anew for each further step, but for those of `after_compaction`.
    :param summaries: Read for each summary.
    :param after_compaction: Read anew for each first step with a smaller conversation.
    :param last_prompt: Length of the last prompt.
    """

    first: int
    steps: Sequence[int]
    summaries: Sequence[int]
    after_compaction: Sequence[int]
    last_prompt: int


def figures(exchanges: Sequence[Exchange], compacted: Sequence[int]) -> Figures:
    """The figures of a run; `compacted`: steps before which the conversation was made smaller, from 1."""
    answered = [exchange for exchange in exchanges if exchange.status == 200]
    summaries = [e.evaluated for e in answered if len(e.messages) == 1]
    steps = [exchange for exchange in answered if len(exchange.messages) > 1]
    told = {number: step.evaluated for number, step in enumerate(steps, 1)}
    return Figures(
        told.pop(1),
        [tokens for number, tokens in told.items() if number not in compacted],
        summaries,
        [told[number] for number in compacted],
        steps[-1].evaluated + steps[-1].cached,
    )


def run(server: NarrowServer, mode: str, steps: int, *, clock: bool) -> Figures:
    """Let an agent look at one page in each step."""
    pages = count(1)

    @tool
    def look(page: Literal["next"]) -> str:
        """Look at a page of the book."""
        return f"Page {next(pages)}: it was a dark and stormy night, and the rain fell in torrents."

    ticks = count(1)

    @hook
    def set_clock(state: State) -> None:
        told = ChatMessage.from_system(f"It is {next(ticks):02} seconds past noon. You are careful.")
        messages: list[ChatMessage] = state.data["messages"]
        state.set("messages", [told, *messages[1:]], handler_override=lambda _, new: new)

    settings = {"temperature": 0, "max_tokens": 60, **_FORCED[mode]}
    with (
        server.generator(tool_mode=mode, generation_kwargs=settings) as generator,
        Agent(
            chat_generator=generator,
            tools=[look],
            system_prompt="It is 00 seconds past noon. You are careful.",
            max_agent_steps=steps,
            limits=Limits(landing=False),
            hooks={"before_llm": [set_clock]} if clock else None,
        ) as agent,
    ):
        result = agent.run("Look at all pages of the book.")
    if result["step_count"] != steps or result.usage.tool_calls != steps:
        raise SystemExit(f"{mode}: the run ended too early: {result!r}")
    return figures(server.exchanges, [e.step for e in result.events if isinstance(e, ContextCompacted)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.embedded.prefix_cache")
    parser.add_argument("--mode", action="append", choices=[*_FORCED], help="default: all")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp")
    parser.add_argument("--show", action="store_true", help="also the tokens of each step")
    given = parser.parse_args()
    print("| mode | run | steps | 1st step | median | max | last prompt | after a compaction | summaries |")
    print("|---|---|---|---|---|---|---|---|---|")
    for mode in given.mode or _FORCED:
        runs = [("as it is", WIDE, False), ("clock in the system message", WIDE, True)]
        if mode == "constrained":  # elsewhere the summary would be held to the form of a call
            runs.append(("as it is, with compactions", NARROW, False))
        for name, window, clock in runs:
            steps = given.steps if window == WIDE else given.steps * 2
            with narrow_server(window, given.threads) as server:
                told = run(server, mode, steps, clock=clock)
            cells = [
                mode,
                name,
                steps,
                told.first,
                statistics.median(told.steps),
                max(told.steps),
                told.last_prompt,
                " ".join(map(str, told.after_compaction)) or "-",
                " ".join(map(str, told.summaries)) or "-",
            ]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            if given.show:
                print(f"  {' '.join(map(str, told.steps))}")


if __name__ == "__main__":
    main()
