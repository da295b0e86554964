"""
What it costs to make a tool of a function, as a ratio to Haystack's `create_tool_from_function`.

Run: `python -m tests.benchmarks.tool_building [rounds]`. CPU time; both builders take turns on the same
functions, medians over the rounds are printed. Nothing is asserted about time. Haystack's builder reads no
docstring sections and checks no arguments; both are in our time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from haystack.tools import create_tool_from_function
from pydantic import BaseModel

from llama_agent import tool


class Address(BaseModel):
    street: str
    city: str
    zip_code: str | None = None


def add(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
        a: First number.
        b: Second number.
    """
    return a + b


def forecast(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius", days: int = 3) -> str:
    """
    Weather forecast of a city.

    :param city: Name of the city.
    :param unit: Unit of the temperature.
    :param days: How many days ahead.
    """
    return f"{city} {unit} {days}"


def ship(
    to: Address,
    items: list[str],
    weights: dict[str, float],
    express: Annotated[bool, "Whether it has to be there tomorrow."] = False,
    note: str | None = None,
) -> str:
    """
    Ship items to an address.

    Parameters
    ----------
    to : Address
        Where to.
    items : list of str
        What to ship.
    weights : dict
        Weight of each item in kilograms.
    note : str, optional
        What to write on the box.
    """
    return f"{to} {items} {weights} {express} {note}"


FUNCTIONS = (add, forecast, ship)
BUILDERS: dict[str, Callable[[Callable[..., Any]], object]] = {
    "llama-agent": tool,
    "haystack": create_tool_from_function,
}


def cpu_milliseconds(build: Callable[[Callable[..., Any]], object], function: Callable[..., Any]) -> float:
    started = time.process_time()
    for _ in range(10):
        build(function)
    return (time.process_time() - started) * 100


def main(rounds: int) -> None:
    print(f"{'CPU ms per tool':14} " + " ".join(f"{name:>12}" for name in BUILDERS) + f" {'ratio':>7}")
    for function in FUNCTIONS:
        times: dict[str, list[float]] = {name: [] for name in BUILDERS}
        for _ in range(rounds):
            for name, build in BUILDERS.items():
                times[name].append(cpu_milliseconds(build, function))
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        ratio = medians["llama-agent"] / medians["haystack"]
        print(
            f"{function.__name__:15} " + " ".join(f"{ms:12.2f}" for ms in medians.values()) + f" {ratio:7.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
