"""
How well the embedded model answers:
`python -m tests.embedded.evaluate [tune|held_out] [auto|prompted|constrained|native] [--show] [--save]`.

Each question is asked of an `Agent` with the four tools that the question names. Counted are: the right tool
or rightly none (choice), also all arguments right (arguments), and the tool's result, when it was the right
call, word for word in the answer (answer).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haystack.dataclasses import ToolCall

from llama_agent import Agent, MetaLlamaChatGenerator, RunResult
from tests.embedded import evaluation_tools

FOLDER = Path(__file__).parent
_SETTINGS: dict[str, dict[str, Any]] = {
    mode: {"temperature": 0, "max_tokens": 200} for mode in ("prompted", "constrained", "native")
}


@dataclass
class Score:
    """One question's outcome."""

    choice: bool
    arguments: bool
    answer: bool
    seconds: float


def evaluate(split: str, mode: Any = "auto", *, show: bool = False) -> list[tuple[dict[str, Any], Score]]:
    """Ask every question of a split."""
    questions = json.loads((FOLDER / f"questions_{split}.json").read_text())
    generator = MetaLlamaChatGenerator(
        api_base_url="embedded", timeout=120, tool_mode=mode, generation_kwargs=_SETTINGS.get(mode)
    )
    scored: list[tuple[dict[str, Any], Score]] = []
    try:
        for question in questions:
            tools = [getattr(evaluation_tools, name) for name in question["tools"]]
            started = time.perf_counter()
            result = Agent(chat_generator=generator, tools=tools, max_agent_steps=3).run(question["question"])
            scored.append((question, score(question, result, time.perf_counter() - started)))
            if show:
                print(scored[-1][1], question["question"], "→", *calls_of(result), "→", result.text)
    finally:
        generator.close()
    return scored


def calls_of(result: RunResult) -> list[ToolCall]:
    return [call for message in result.messages for call in message.tool_calls]


def score(question: dict[str, Any], result: RunResult, seconds: float) -> Score:
    calls = calls_of(result)
    expected = question["expected_tool"]
    if expected is None:
        return Score(not calls, not calls, not calls and bool(result.text), seconds)
    choice = bool(calls) and calls[0].tool_name == expected
    arguments = choice and same(calls[0].arguments, question["expected_arguments"])
    value = getattr(evaluation_tools, expected)(**question["expected_arguments"])
    parts = value.values() if isinstance(value, dict) else [value]
    answer = arguments and all(str(part).lower() in result.text.lower() for part in parts)
    return Score(choice, arguments, answer, seconds)


def same(given: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Equal, but for case and for defaults that are given anyway."""
    defaults = {"unit": "celsius", "include_tax": False}

    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {k: v.lower() if isinstance(v, str) else v for k, v in values.items() if defaults.get(k) != v}

    return plain(given) == plain(expected)


def main() -> None:
    split = next((a for a in sys.argv[1:] if a in ("tune", "held_out")), "tune")
    mode = next((a for a in sys.argv[1:] if a in ("prompted", "constrained", "native")), "auto")
    scores = evaluate(split, mode, show="--show" in sys.argv)
    figures: dict[str, dict[str, int]] = {}
    for label, wanted in (("with a tool", True), ("without", False)):
        part = [s for q, s in scores if (q["expected_tool"] is not None) is wanted]
        figures[label] = {
            key: sum(getattr(s, key) for s in part) for key in ("choice", "arguments", "answer")
        }
        median = statistics.median(s.seconds for s in part)
        print(split, mode, label, len(part), figures[label], f"median {median:.2f} s")
    if "--save" in sys.argv:
        (FOLDER / f"{split}_figures.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
