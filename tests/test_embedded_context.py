"""The embedded model, the real one, on a window that its server enforces: a run goes on beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from haystack.tools import Toolset

from llama_agent import Agent, ContextCompacted, RunResult, tool
from tests.embedded.narrow_server import NarrowServer, narrow_server

WINDOW = 512
# A reply may be short only: the small model's summaries ramble.
SETTINGS = {"temperature": 0, "tool_choice": "required", "max_tokens": 40}


class Book(Toolset):
    """
    Pages to turn; once the last is read, there is only its color to be told.

    :param pages: How many.
    :param color: What stands on the last one.
    """

    def __init__(self, pages: int, color: str) -> None:
        read = 0

        @tool
        def turn_page(to: Literal["next"]) -> str:
            """Read a page of the book."""
            nonlocal read
            read += 1
            text = f"the color is {color}." if read == pages else "It was a dark night, and it rained."
            return f"Page {read}: {text}"

        @tool
        def say_color(color: Literal["red", "green", "blue", "violet"]) -> str:
            """Say the color."""
            return f"It is {color}."

        self._on_offer = lambda: say_color if read == pages else turn_page
        super().__init__([turn_page, say_color])

    def __iter__(self) -> Iterator[Any]:
        """The one tool that is on offer now: the small model can't choose."""
        return iter([self._on_offer()])


@pytest.fixture
def server() -> Iterator[NarrowServer]:
    with narrow_server(WINDOW) as server:
        yield server


def read(server: NarrowServer, book: Book, **settings: Any) -> RunResult:
    with (
        server.generator(generation_kwargs=SETTINGS, **settings) as generator,
        Agent(chat_generator=generator, tools=book, exit_conditions=["say_color"]) as agent,
    ):
        return agent.run("Read the book to its end. Then say the color that is on its last page.")


def answer(result: RunResult) -> object:
    return result.messages[-1].tool_call_results[0].result


def refusals(server: NarrowServer) -> int:
    return sum(exchange.status == 400 for exchange in server.exchanges)


def compactions(result: RunResult) -> int:
    return sum(isinstance(event, ContextCompacted) for event in result.events)


def test_a_run_goes_on_when_the_server_says_that_its_window_is_full(server: NarrowServer) -> None:
    result = read(server, Book(13, "violet"), tool_mode="constrained")
    assert (answer(result), result["step_count"]) == ("It is violet.", 14)
    assert refusals(server) == 1
    assert compactions(result) >= 2
