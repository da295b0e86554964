"""The examples run, each at most 40 lines long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endpoint import Always, Endpoint, Reply, Request
from tests.test_readme import environment

FOLDER = Path(__file__).parent.parent / "examples"
ARGUMENTS = {
    "add": {"a": 17, "b": 25},
    "stock_level": {"product": "lamp"},
    "add_item": {"item": "oat milk"},
    "moon_phase": {"day": 17},
    "word_length": {"word": "llama"},
    "char_count": {"text": "llama"},
    "units_left": {"product": "lamp"},
    "list_files": {"folder": "."},
    "letter_count": {"word": "llama"},
    "factors": {"number": 91},
    "reviews_of": {"product": "lamp"},
    "final_answer": {"mood": "mixed", "complaints": ["dear"]},
    "ask_travel_agent": {"task": "How long to Bern?"},
    "train_hours": {"town": "Bern"},
}
SHOWN = {
    "hello_tool": "It is 42\nanswered",
    "async_tools": "It is 12\n",
    "toolset": "It is oat milk is on the list\n['oat milk']",
    "streaming": "[moon_phase gave full]\nIt is full\nanswered, ",
    "structured_answer": "mixed\n- dear\n",
    "sub_agents": "[travel agent: train_hours gave 3.5]\nIt is It is 3.5\n",
    "haystack_pipeline": "It is 5\n",
    "task_script": "It is 5 (answered",
    "run_context": "[units_left: looking for lamp]\nIt is 3\n",
    "fallback": "It is 3\n",
    "text_format": "It is 5\ncalls read from text: acme\n",
    "tool_limits": "It is [7,13] answered\n",
    "scripted_test": "passed\n",
    "workspace": 'It is ["notes.md (19 bytes)"]\n',
}


def a_model_that_calls_the_first_tool(request: Request) -> Reply:
    last = request.messages[-1]
    offered = [tool["function"]["name"] for tool in request.json["tools"]]
    if last["role"] == "tool" and "final_answer" in offered:
        return Reply(calls=[("final_answer", ARGUMENTS["final_answer"])])
    if last["role"] == "tool":
        return Reply(f"It is {last['content']}")
    name = request.json["tools"][0]["function"]["name"]
    if name == "letter_count":
        return Reply(f"<<call {json.dumps({'tool': name, 'input': ARGUMENTS[name]})} call>>")
    return Reply(calls=[(name, ARGUMENTS[name])])


def test_every_example_is_here() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 40
    with Endpoint() as endpoint:
        endpoint.script(Always(a_model_that_calls_the_first_tool))
        done = subprocess.run(
            [sys.executable, "-W", "error", str(FOLDER / f"{name}.py")],
            env=environment(LLAMA_AGENT_ENDPOINT=endpoint.url),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert SHOWN[name] in done.stdout
