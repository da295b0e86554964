"""
What a step of our loop costs, as a ratio to a bare `openai` loop.

Run: `python -m tests.benchmarks.loop_cost [rounds]`. Client CPU time (user + system, all threads)
of a 10-step run, sync, against a loopback endpoint in a process of its own; the two loops take turns, medians
are printed. Nothing is asserted about time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from openai import OpenAI

from llama_agent import Agent, MetaLlamaChatGenerator
from tests.endpoint import Always, Endpoint, Reply, Request

STEPS = 10


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: First number.
        b: Second number.
    """
    return a + b


def reply_to(request: Request) -> Reply:
    """Nine calls of `add`, then an answer."""
    results = sum(message["role"] == "tool" for message in request.messages)
    return Reply("done") if results == STEPS - 1 else Reply(calls=[("add", {"a": results, "b": 1})])


def serve() -> None:
    """Be the endpoint, until standard input closes."""
    with Endpoint() as endpoint:
        endpoint.script(Always(reply_to))
        print(endpoint.url, flush=True)
        sys.stdin.read()


def bare_openai(client: OpenAI, tools: list[Any]) -> str:
    """The loop that everybody writes first."""
    messages: list[Any] = [{"role": "user", "content": "count"}]
    while True:
        completion = client.chat.completions.create(model="test-model", messages=messages, tools=tools)
        message = completion.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return message.content or ""
        for call in message.tool_calls:
            result = add(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})


def cpu_seconds(run: Callable[[], str]) -> float:
    started = time.process_time()
    answer = run()
    spent = time.process_time() - started
    if answer != "done":
        raise RuntimeError(f"the run ended with {answer!r}")
    return spent


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    command = [sys.executable, "-c", "from tests.benchmarks.loop_cost import serve; serve()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        url = server.stdout.readline().strip()
        generator = MetaLlamaChatGenerator(api_base_url=url, model="test-model")
        with (
            Agent(chat_generator=generator, tools=[add]) as agent,
            OpenAI(base_url=url, api_key="none") as client,
        ):
            from llama_agent.model.modes import definition_of

            definitions = [definition_of(tool) for tool in agent.tools]
            loops: dict[str, Callable[[], str]] = {
                "bare openai": lambda: bare_openai(client, definitions),
                "llama-agent": lambda: agent.run("count").text,
            }
            spent: dict[str, list[float]] = {name: [] for name in loops}
            for turn in range(rounds + 3):
                for name, run in loops.items():
                    seconds = cpu_seconds(run)
                    if turn >= 3:  # the first turns warm up
                        spent[name].append(seconds)
        server.stdin.close()
    per_step = {name: statistics.median(values) / STEPS * 1e6 for name, values in spent.items()}
    for name, micros in per_step.items():
        print(f"{name}: {micros:.0f} µs of CPU a step, ratio {micros / per_step['bare openai']:.2f}")


if __name__ == "__main__":
    main()
