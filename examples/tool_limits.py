"""Tools that may be slow, flaky or endless, and a run that can be told to stop."""

import signal

from llama_agent import Agent, CancelToken, tool


@tool(read_only=True, timeout=30, retry_on=(ConnectionError,), max_result_chars=2_000)
def river_level(river: str) -> str:
    """
    Tell how high a river stands.

    Args:
        river: Name of the river.

    """
    return {"Elbe": "131 cm"}.get(river, "unknown")


@tool(read_only=True, timeout=60, isolation="process")
def factors(number: int) -> list[int]:
    """
    Find the prime factors of a number; of a large one it may take too long.

    Args:
        number: The number.

    """
    found = [n for n in range(2, number + 1) if number % n == 0]
    return [n for n in found if all(n % other for other in found if other < n)]


if __name__ == "__main__":  # the process of `factors` imports this file too
    stop = CancelToken()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.cancel())
    with Agent(tools=[factors, river_level]) as agent:
        result = agent.run("What are the prime factors of 91?", cancel=stop)
        print(result.text, result.stop_reason)
