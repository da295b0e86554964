"""Every block of the README runs, as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endpoint import Always, Endpoint, Reply, Request

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [text for language, text in BLOCKS if language == "sh"]
ELSEWHERE = [text for text in COMMANDS if "--endpoint" in text]
ARGUMENTS = {
    "a": 17,
    "b": 25,
    "title": "groceries",
    "country": "Peru",
    "name": "Ada",
    "folder": ".",
    "city": "Lima",
}


def a_model_that_calls_the_first_tool(request: Request) -> Reply:
    """Calls the first tool on offer, once per question; answers with its result."""
    last = request.messages[-1]
    if request.json.get("tools") and last["role"] == "user":
        function = request.json["tools"][0]["function"]
        arguments = {name: ARGUMENTS[name] for name in function["parameters"]["properties"]}
        return Reply(calls=[(function["name"], arguments)])
    return Reply(f"It is {last['content']}")


def environment(**more: str) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        **more,
    }


def in_a_shell(command: str) -> subprocess.CompletedProcess[str]:
    shell = ["bash", "-ec", command]
    return subprocess.run(shell, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.split("\n")[0])
def test_a_program_runs_as_it_stands(program: str) -> None:
    with Endpoint() as endpoint:
        endpoint.script(Always(a_model_that_calls_the_first_tool))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            env=environment(LLAMA_AGENT_ENDPOINT=endpoint.url),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "It is " in done.stdout
        assert done.stderr == ""


@pytest.mark.parametrize("command", ELSEWHERE, ids=lambda text: re.findall(r"--endpoint (\S+)", text)[0])
def test_the_same_question_elsewhere(command: str) -> None:
    with Endpoint() as endpoint:
        endpoint.script(Always(a_model_that_calls_the_first_tool))
        # The one change: the preset's address becomes that of the endpoint that plays it.
        command = re.sub(r"--endpoint \S+", f"--endpoint {endpoint.url}", command)
        done = in_a_shell(command)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "It is 42\n"
        assert "add(a=17, b=25)" in done.stderr


def test_tools_are_shown_and_called_by_hand() -> None:
    (command,) = [text for text in COMMANDS if text.startswith("llama-agent tools")]
    done = in_a_shell(command)
    assert done.returncode == 0, done.stderr
    assert "a: integer" in done.stdout
    assert done.stdout.endswith("\n42\n")


def test_the_doctor_the_models_and_the_probe() -> None:
    (command,) = [text for text in COMMANDS if text.startswith("llama-agent doctor")]
    with Endpoint(["m"]) as endpoint:
        endpoint.script(Always(a_model_that_calls_the_first_tool))
        done = in_a_shell(f"export LLAMA_AGENT_ENDPOINT={endpoint.url}\n{command}")
    assert done.returncode == 0, done.stderr
    assert "ok answers" in done.stdout
    assert "\nm\n" in done.stdout
    assert "saved in" in done.stdout


def test_the_chat_answers() -> None:
    (command,) = [text for text in COMMANDS if "llama-agent chat" in text]
    with Endpoint(["m"]) as endpoint:
        endpoint.script(Always(a_model_that_calls_the_first_tool))
        done = in_a_shell(f"export LLAMA_AGENT_ENDPOINT={endpoint.url}\n{command}")
    assert (done.returncode, done.stdout) == (0, "It is 42\n"), done.stderr


def test_the_main_job_runs_on_the_embedded_model() -> None:
    # What comes before the last `&&` makes the environment; .ci/run pastes the whole line.
    command = COMMANDS[0].rpartition("&& .venv/bin/")[2]
    done = in_a_shell(command)
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout
    assert "add(a=17, b=25)" in done.stderr


def test_the_two_commands_are_one_line_each_and_make_the_same_environment() -> None:
    main_job, tests = COMMANDS[:2]
    assert main_job.count("\n") == tests.count("\n") == 1
    assert main_job.split("install")[0] == tests.split("install")[0]


def test_the_readme_names_every_preset() -> None:
    from llama_agent.model.endpoints import PRESETS

    text = (ROOT / "README.md").read_text()
    assert [name for name in PRESETS if f"`{name}`" not in text and name != "llama-api"] == []


@pytest.mark.parametrize(("split", "label"), [("held_out", "set aside"), ("tune", "tuned on")])
def test_the_figures_are_those_of_the_evaluation(split: str, label: str) -> None:
    figures = json.loads((ROOT / f"tests/embedded/{split}_figures.json").read_text())
    text = (ROOT / "README.md").read_text()
    counts = " | ".join(str(figures["with a tool"][key]) for key in ("choice", "arguments", "answer"))
    assert f"| {label}, needs a tool (24) | {counts} |" in text
    assert f"| {label}, needs none (6) | {figures['without']['choice']} |" in text
