"""`llama-agent probe` against servers of many dresses: what it finds and keeps, and what that changes."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCall
from haystack.tools import Tool

from llama_agent import Agent, ConfigurationError, MetaLlamaChatGenerator
from llama_agent.model.model_files import model_file
from tests.commands import Done, llama_agent
from tests.conftest import Maker
from tests.endpoint import Endpoint, Reply, Request, Status
from tests.endpoint.dresses import (
    TGI,
    VLLM,
    BedrockLike,
    Dress,
    FastAPILike,
    Groq,
    LlamaCpp,
    NoTools,
    Ollama,
    SGLang,
    SingleCallTemplate,
    Thinking,
    TogetherLike,
    Troubled,
    worn,
)

ROOT = Path(__file__).parent.parent
KEY = "sk-very-secret-0123456789"
MOST_REQUESTS = 16
"""The issue says about ten, the command's help about fifteen."""
ALL_CHOICES = ["named", "none", "required"]

DRESSES: dict[str, Callable[[], Dress]] = {
    "vllm": VLLM,
    "vllm without its flags": lambda: VLLM(tool_parser=False),
    "llama.cpp": lambda: LlamaCpp(window=16_384),
    "ollama": Ollama,
    "sglang": lambda: SGLang(window=32_768),
    "groq": lambda: Groq(key=KEY),
    "tgi": TGI,
    "no tools": NoTools,
    "no tools, no schemas": lambda: NoTools(schemas=False),
    "bedrock": BedrockLike,
    "single calls": SingleCallTemplate,
    "fastapi": FastAPILike,
    "thinking": Thinking,
    "together": TogetherLike,
    "plain": Dress,
}
TRAITS: dict[str, dict[str, Any]] = {
    "vllm": {
        "tool_mode": "native",
        "native_tools": True,
        "parallel_calls": True,
        "asks_parallel": False,
        "streamed_calls": True,
        "tool_choice": ALL_CHOICES,
        "json_schema": True,
        "grammar": False,
        "stream_usage": True,
        "strict_history": True,
        "several_calls_in_history": True,
        "null_content": False,
        "context_tokens": 131_072,
        "cuts_silently": False,
        "error_shape": "openai",
    },
    "vllm without its flags": {
        "tool_mode": "constrained",
        "native_tools": False,
        "parallel_calls": None,
        "tool_choice": [],
        "json_schema": True,
        "null_content": False,
    },
    "llama.cpp": {
        "tool_mode": "native",
        "parallel_calls": True,
        "asks_parallel": True,
        "tool_choice": ALL_CHOICES,
        "json_schema": True,
        "grammar": True,
        "strict_history": True,
        "context_tokens": 16_384,
        "cuts_silently": False,
        "error_shape": "openai",
    },
    "ollama": {
        "tool_mode": "native",
        "native_tools": True,
        "parallel_calls": True,
        "asks_parallel": False,
        "streamed_calls": False,
        "tool_choice": [],
        "json_schema": True,
        "grammar": False,
        "null_content": False,
        "cuts_silently": True,
        "error_shape": "openai",
    },
    "sglang": {
        "native_tools": True,
        "tool_choice": ALL_CHOICES,
        "strict_history": False,
        "context_tokens": 32_768,
        "cuts_silently": False,
        "error_shape": "flat",
    },
    "groq": {
        "tool_mode": "native",
        "parallel_calls": True,
        "json_schema": True,
        "grammar": False,
        "stream_usage": True,
        "strict_history": True,
        "context_tokens": 131_072,
        "error_shape": "openai",
    },
    "tgi": {
        "tool_mode": "native",
        "native_tools": True,
        "parallel_calls": False,
        "streamed_calls": False,
        "json_schema": False,
        "error_shape": "text",
        "context_tokens": None,
    },
    "no tools": {
        "tool_mode": "constrained",
        "native_tools": False,
        "parallel_calls": None,
        "streamed_calls": None,
        "tool_choice": [],
        "json_schema": True,
        "stream_usage": True,
    },
    "no tools, no schemas": {"tool_mode": "prompted", "native_tools": False, "json_schema": False},
    "bedrock": {
        "native_tools": True,
        "null_content": True,
        "json_schema": False,
        "strict_history": False,  # it wants tools beside such a history, and takes the arguments as they are
        "error_shape": "flat",
    },
    "single calls": {
        "tool_mode": "native",
        "native_tools": True,
        "parallel_calls": False,
        "asks_parallel": False,
        "several_calls_in_history": False,
        "null_content": False,
        "strict_history": True,
    },
    "fastapi": {
        "native_tools": True,
        "parallel_calls": True,
        "asks_parallel": False,
        "stream_usage": False,
        "grammar": False,
        "json_schema": True,
        "error_shape": "fastapi",
    },
    "together": {"native_tools": True, "context_tokens": 131_072},
}
VERDICTS: dict[str, dict[str, bool | None]] = {
    "vllm": {
        "window is told": True,
        "long prompts are cut silently": False,
        "tokens are counted": True,
        "tokens are counted in streams": True,
        "history with empty content": True,
        "history with null content": True,
    },
    "llama.cpp": {"window is told": True, "several calls in a reply": True},
    "ollama": {
        "long prompts are cut silently": True,
        "history with empty content": True,
        "history with null content": False,
        "tool_choice required": False,
        "tool_choice named": False,
        "tool_choice none": False,
        "calls are streamed in pieces": False,
    },
    "groq": {"llama.cpp's grammar holds": False},
    "tgi": {"window is told": False, "errors can be read": True},
    "no tools": {
        "native tool calls": False,
        "several calls in a reply": None,
        "tool_choice none": None,
        "tokens are counted": True,
        "tokens are counted in streams": False,
    },
    "bedrock": {"history with empty content": False, "history with null content": True},
    "single calls": {
        "several calls in a reply": False,
        "several calls in one message of history": False,
        "history with empty content": True,
    },
    "fastapi": {"tokens are counted in streams": False, "errors can be read": True},
}
# What can't be said: a no would be wrong, since what was asked isn't what was refused.
NOT_A_NO = [
    ("vllm without its flags", "several calls in one message of history"),
    ("vllm without its flags", "history with empty content"),
    ("vllm without its flags", "history with null content"),
    ("bedrock", "several calls in one message of history"),
    ("thinking", "native tool calls"),
    ("thinking", "tool_choice required"),
    ("thinking", "JSON schema holds"),
]


@dataclass(frozen=True)
class Probed:
    """A probe with `--json --save`, and what became of it."""

    done: Done
    report: dict[str, Any]
    url: str
    requests: list[Request]
    all_requests: list[Request]
    file: Path

    @property
    def verdicts(self) -> dict[str, bool | None]:
        return {finding["question"]: finding["verdict"] for finding in self.report["findings"]}


Probe = Callable[[str], Probed]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """Probes each dress when it is first asked for."""
    known: dict[str, Probed] = {}

    def probe(name: str) -> Probed:
        if name not in known:
            known[name] = probe_once(DRESSES[name](), tmp_path_factory.mktemp("config"))
        return known[name]

    return probe


def probe_once(dress: Dress, config: Path) -> Probed:
    with pytest.MonkeyPatch.context() as patch, worn(dress) as endpoint:
        patch.setenv("XDG_CONFIG_HOME", str(config))
        patch.setenv("LLAMA_AGENT_API_KEY", KEY)
        arguments = ["--endpoint", endpoint.url, "--model", dress.models[0], "--json", "--save"]
        done = llama_agent("probe", *arguments)
        assert done.code == 0, done.err
        file = config / "llama-agent" / "profiles.json"
        return Probed(
            done, json.loads(done.out), endpoint.url, endpoint.requests, endpoint.all_requests, file
        )


# What it finds


@pytest.mark.parametrize(
    ("name", "trait"), [(name, trait) for name, traits in TRAITS.items() for trait in traits]
)
def test_each_trait_is_what_the_server_does(probed: Probe, name: str, trait: str) -> None:
    assert probed(name).report["traits"][trait] == TRAITS[name][trait]


@pytest.mark.parametrize(
    ("name", "question"), [(name, question) for name, verdicts in VERDICTS.items() for question in verdicts]
)
def test_each_verdict_is_what_the_server_does(probed: Probe, name: str, question: str) -> None:
    assert probed(name).verdicts[question] is VERDICTS[name][question]


@pytest.mark.parametrize(("name", "question"), NOT_A_NO)
def test_what_could_not_be_tried_is_not_told_as_a_no(probed: Probe, name: str, question: str) -> None:
    assert probed(name).verdicts[question] is not False


def test_a_model_that_thinks_first_is_not_told_to_be_without_tools(probed: Probe) -> None:
    assert probed("thinking").report["traits"]["native_tools"] is not False


@pytest.mark.parametrize("trouble", [Status(429), Status(503)], ids=["rate limit", "overload"])
def test_trouble_that_passes_is_not_taken_for_a_no(tmp_path: Path, trouble: Status) -> None:
    found = probe_once(Troubled(VLLM(), "response_format", trouble), tmp_path)
    assert found.verdicts["JSON schema holds"] is None


def test_the_window_that_ollama_tells_of_the_loaded_model_is_found(probed: Probe) -> None:
    assert probed("ollama").report["traits"]["context_tokens"] == 4096


# How it asks


@pytest.mark.parametrize("name", DRESSES)
def test_the_number_of_requests_is_bounded(probed: Probe, name: str) -> None:
    assert len(probed(name).requests) <= MOST_REQUESTS


@pytest.mark.parametrize("name", DRESSES)
def test_the_number_of_requests_that_it_tells_is_that_of_requests_that_came(probed: Probe, name: str) -> None:
    assert probed(name).report["requests"] == len(probed(name).requests)


@pytest.mark.parametrize("name", DRESSES)
def test_every_request_bounds_the_reply(probed: Probe, name: str) -> None:
    assert all(request.json["max_tokens"] <= 1024 for request in probed(name).requests)


def test_every_request_is_short(probed: Probe) -> None:
    assert max(len(request.body) for request in probed("vllm").requests) < 4000


# What it prints


def test_json_has_the_findings_and_the_traits(probed: Probe) -> None:
    report = probed("vllm").report
    wanted = {"endpoint", "kind", "model", "findings", "traits", "requests", "seconds", "saved"}
    assert wanted <= report.keys()


def test_each_finding_in_json_has_a_question_a_verdict_and_what_was_seen(probed: Probe) -> None:
    assert all(
        finding.keys() == {"question", "verdict", "seen"} for finding in probed("groq").report["findings"]
    )


def test_nothing_but_json_goes_to_standard_output(probed: Probe) -> None:
    out = probed("vllm").done.out
    assert out.startswith("{") and out.endswith("}\n")


def test_json_says_where_the_profile_was_saved(probed: Probe) -> None:
    found = probed("vllm")
    assert found.report["saved"] == str(found.file)


def test_nothing_is_saved_without_being_asked(tmp_path: Path) -> None:
    with worn(VLLM()) as endpoint:
        llama_agent("probe", "--endpoint", endpoint.url)
    assert not (tmp_path / "config").exists()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Done:
    with pytest.MonkeyPatch.context() as patch, worn(NoTools()) as endpoint:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("COLUMNS", "160")
        return llama_agent("probe", "--endpoint", endpoint.url)


@pytest.mark.parametrize(
    "told",
    ["native tool calls", "JSON schema holds", "the call came as text", "constrained", "--save", "llama"],
)
def test_the_table_tells_the_verdicts_and_the_profile(table: Done, told: str) -> None:
    assert told in table.out


def test_a_server_that_can_do_neither_is_told_to_be_unfit_for_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with worn(NoTools(schemas=False)) as endpoint:
        assert "tools can't be used reliably" in llama_agent("probe", "--endpoint", endpoint.url).out


def test_a_servers_text_cannot_steer_the_terminal() -> None:
    class Evil(Dress):
        def answered(self, asked: dict[str, Any]) -> Reply:
            return Reply("\x1b[2J\x9b31m[bold]hi[/bold]\u202e")

    with worn(Evil()) as endpoint:
        out = llama_agent("probe", "--endpoint", endpoint.url).out
    assert not [character for character in out if character in "\x1b\x9b\u202e"]


def test_as_a_process_of_its_own_it_prints_the_table(tmp_path: Path) -> None:
    with worn(VLLM()) as endpoint:
        done = process("probe", "--endpoint", endpoint.url, config=tmp_path)
    assert (done.returncode, "native tool calls" in done.stdout) == (0, True), done.stderr


def process(*arguments: str, config: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "OPENAI_"))}
    env = {**kept, "XDG_CONFIG_HOME": str(config), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "llama_agent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


# What goes wrong


def test_an_endpoint_that_is_down_is_told() -> None:
    done = llama_agent("probe", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m")
    assert done.code == 1 and "Is the server running?" in done.err


def test_a_wrong_key_is_told_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", "wrong")
    with worn(Groq(key=KEY)) as endpoint:
        done = llama_agent("probe", "--endpoint", endpoint.url, "--model", "llama")
    assert done.code == 1 and "Check the key" in done.err


def test_an_unknown_model_is_told() -> None:
    with worn(VLLM()) as endpoint:
        done = llama_agent("probe", "--endpoint", endpoint.url, "--model", "lama")
    assert done.code == 1 and "`lama` does not exist" in done.err


def test_an_unknown_model_leaves_no_profile(tmp_path: Path) -> None:
    with worn(VLLM()) as endpoint:
        llama_agent("probe", "--endpoint", endpoint.url, "--model", "lama", "--save")
    assert not list(tmp_path.rglob("profiles.json"))


def test_of_several_models_one_has_to_be_named() -> None:
    with Endpoint(["one", "two"]) as endpoint:
        done = llama_agent("probe", "--endpoint", endpoint.url)
    assert done.code == 2
    assert all(part in done.err for part in ("one", "two", "--model"))


def test_an_unknown_preset_is_told() -> None:
    done = llama_agent("probe", "--endpoint", "olama")
    assert done.code == 2 and "ollama" in done.err


def test_a_server_that_never_answers_is_given_up() -> None:
    with Endpoint() as endpoint:
        endpoint.script(Reply("late", first_pause=30), Reply("late", first_pause=30))
        done = llama_agent("probe", "--endpoint", endpoint.url, "--model", "test-model", "--timeout", "1")
    assert done.code == 1 and "did not answer in time" in done.err


# What is kept


def test_no_key_is_in_the_file(probed: Probe) -> None:
    assert KEY not in probed("groq").file.read_text()


def test_no_key_is_printed(probed: Probe) -> None:
    done = probed("groq").done
    assert KEY not in done.out + done.err


def test_a_key_that_a_server_repeats_in_its_errors_is_neither_printed_nor_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Chatty(VLLM):
        def error(self, code: int, message: str) -> Status:
            return super().error(code, f"{KEY} sent this: {message}")

    monkeypatch.setenv("LLAMA_AGENT_API_KEY", KEY)
    with worn(Chatty()) as endpoint:
        done = llama_agent("probe", "--endpoint", endpoint.url, "--json", "--save")
    kept = (tmp_path / "config" / "llama-agent" / "profiles.json").read_text()
    assert KEY not in done.out + done.err + kept


@pytest.mark.parametrize("place", ["printed", "kept"])
def test_a_password_in_the_url_is_neither_printed_nor_kept(tmp_path: Path, place: str) -> None:
    with worn(VLLM()) as endpoint:
        url = endpoint.url.replace("://", "://user:pass-word-77@")
        done = llama_agent("probe", "--endpoint", url, "--save")
    kept = (tmp_path / "config" / "llama-agent" / "profiles.json").read_text()
    assert "pass-word-77" not in (kept if place == "kept" else done.out + done.err)


def test_the_file_is_where_the_users_settings_are(probed: Probe) -> None:
    found = probed("vllm")
    assert json.loads(found.file.read_text())["profiles"][0]["model"] == "llama"


def test_probing_again_takes_the_place_of_what_was_known(tmp_path: Path) -> None:
    config = tmp_path / "config"
    with worn(VLLM(window=1000)) as endpoint:
        for _ in range(2):
            llama_agent("probe", "--endpoint", endpoint.url, "--save")
    assert len(json.loads((config / "llama-agent" / "profiles.json").read_text())["profiles"]) == 1


def test_profiles_of_other_endpoints_stay(tmp_path: Path) -> None:
    for dress in (VLLM(), NoTools()):
        with worn(dress) as endpoint:
            llama_agent("probe", "--endpoint", endpoint.url, "--save")
    kept = json.loads((tmp_path / "config" / "llama-agent" / "profiles.json").read_text())
    assert [one["traits"]["native_tools"] for one in kept["profiles"]] == [True, False]


def test_nothing_is_left_beside_the_file(probed: Probe) -> None:
    assert [path.name for path in probed("vllm").file.parent.iterdir()] == ["profiles.json"]


def damage(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "config" / "llama-agent" / "profiles.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


DAMAGES = {
    "empty": "",
    "cut off": '{"version": 1, "profiles": [{"endpoint": "http',
    "no JSON": b"\xff\xfe\x00",
    "a list": "[]",
    "another version": '{"version": 2, "profiles": []}',
    "a wrong type": '{"version": 1, "profiles": [{"endpoint": 5, "model": "m", "probed": "", "traits": {}}]}',
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_a_clear_error(
    tmp_path: Path, endpoint: Endpoint, make: Maker, content: str | bytes
) -> None:
    file = damage(tmp_path, content)
    with pytest.raises(ConfigurationError, match=r"(?s)can't be read.*(?:[Mm]end|delete)") as caught:
        make().run("Hi")
    assert str(file) in str(caught.value)


def test_a_damaged_file_is_told_without_a_traceback_on_the_command_line(tmp_path: Path) -> None:
    file = damage(tmp_path, "{")
    with worn(VLLM()) as endpoint:
        done = llama_agent("run", "Hi", "--endpoint", endpoint.url)
    assert done.code == 2 and str(file) in done.err


def test_a_damaged_file_does_not_cost_the_findings_of_a_probe(tmp_path: Path) -> None:
    damage(tmp_path, "{")
    with worn(VLLM()) as endpoint:
        done = llama_agent("probe", "--endpoint", endpoint.url, "--save")
        assert "native tool calls" in done.out or not endpoint.requests, "it was asked for nothing"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file where the folder should be")
    with worn(VLLM()) as endpoint:
        done = llama_agent("probe", "--endpoint", endpoint.url, "--save")
    assert done.code == 2 and "llama-agent:" in done.err


# What is used from then on


QUESTION = [ChatMessage.from_user("What is the weather in Paris? Use weather.")]
HISTORY = [
    *QUESTION,
    ChatMessage.from_assistant(tool_calls=[ToolCall("weather", {"city": "Paris"}, id="c1")]),
    ChatMessage.from_tool("sunny", ToolCall("weather", {"city": "Paris"}, id="c1")),
]


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: Name of the city.
    """
    return f"sunny in {city}"


@pytest.fixture
def generators() -> Iterator[Maker]:
    made: list[MetaLlamaChatGenerator] = []

    def make(**settings: Any) -> MetaLlamaChatGenerator:
        usual: dict[str, Any] = {"max_retries": 0, "http_client_kwargs": {"verify": False}}
        made.append(MetaLlamaChatGenerator(**{**usual, **settings}))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


def saved(endpoint: Endpoint, model: str = "llama") -> None:
    done = llama_agent("probe", "--endpoint", endpoint.url, "--model", model, "--save")
    assert done.code == 0, done.err


def ignore(chunk: StreamingChunk) -> None:
    """Nothing is shown."""


def test_null_content_is_sent_where_empty_content_is_refused(generators: Maker) -> None:
    with worn(BedrockLike()) as endpoint:
        saved(endpoint)
        tool = Tool("weather", "Weather.", {"type": "object", "properties": {}}, lambda: "")
        generators(api_base_url=endpoint.url, model="llama").run(HISTORY, tools=[tool])
        assert endpoint.requests[-1].messages[1]["content"] is None


def test_an_agents_run_works_on_a_host_that_refuses_empty_content(generators: Maker) -> None:
    with worn(BedrockLike()) as endpoint:
        saved(endpoint)
        with Agent(
            chat_generator=generators(api_base_url=endpoint.url, model="llama"), tools=[weather]
        ) as agent:
            assert agent.run(QUESTION[0].text or "").text == "It is sunny in Paris."


def test_stream_options_are_not_sent_where_they_are_refused(generators: Maker) -> None:
    with worn(FastAPILike()) as endpoint:
        saved(endpoint)
        before = len(endpoint.requests)
        generators(api_base_url=endpoint.url, model="llama").run("Hi", streaming_callback=ignore)
        assert ["stream_options" in request.json for request in endpoint.requests[before:]] == [False]


def test_several_calls_are_asked_for_where_they_have_to_be(generators: Maker) -> None:
    with worn(LlamaCpp()) as endpoint:
        saved(endpoint)
        with Agent(
            chat_generator=generators(api_base_url=endpoint.url, model="llama"), tools=[weather]
        ) as agent:
            result = agent.run("Compare the weather of Paris and Oslo.")
        assert result["tool_call_counts"] == {"weather": 2}


@pytest.mark.parametrize("dress", [NoTools(), VLLM(tool_parser=False)], ids=["no tools", "no flags"])
def test_an_agents_run_works_by_schemas_where_native_calls_do_not(dress: Dress, generators: Maker) -> None:
    with worn(dress) as endpoint:
        saved(endpoint)
        with Agent(
            chat_generator=generators(api_base_url=endpoint.url, model="llama"), tools=[weather]
        ) as agent:
            assert agent.run("Tell the weather of Paris.").text == "It is sunny in Paris."


def test_a_run_on_the_command_line_uses_it_too(tmp_path: Path) -> None:
    tools = tmp_path / "weather_tool.py"
    tools.write_text('def weather(city: str) -> str:\n    """Tell the weather."""\n    return "sunny"\n')
    with worn(VLLM(tool_parser=False)) as endpoint:
        saved(endpoint)
        done = llama_agent(
            "run", "Tell the weather of Paris.", "--tools", str(tools), "--endpoint", endpoint.url
        )
    assert done.out == "It is sunny.\n", done.err


def test_a_tool_mode_that_the_caller_names_wins(generators: Maker) -> None:
    with worn(VLLM(tool_parser=False)) as endpoint:
        saved(endpoint)
        tool = Tool("weather", "Weather.", {"type": "object", "properties": {}}, lambda: "")
        generator = generators(api_base_url=endpoint.url, model="llama", tool_mode="native")
        with pytest.raises(Exception, match="--enable-auto-tool-choice"):
            generator.run(QUESTION, tools=[tool])


def long_tool(length: int) -> Tool:
    return Tool("long", "x" * length, {"type": "object", "properties": {}}, lambda: "")


def warned(endpoint: Endpoint, generator: MetaLlamaChatGenerator, length: int) -> list[str]:
    with (
        warnings.catch_warnings(record=True) as caught,
        Agent(chat_generator=generator, tools=[long_tool(length)]) as agent,
    ):
        warnings.simplefilter("always")
        agent.run("Hi")
    return [str(warning.message) for warning in caught if "window" in str(warning.message)]


def test_size_warnings_know_the_window(generators: Maker) -> None:
    with worn(VLLM(window=2000)) as endpoint:
        saved(endpoint)
        generator = generators(api_base_url=endpoint.url, model="llama")
        assert "2,000 tokens" in " ".join(warned(endpoint, generator, 6000))


def test_size_warnings_know_a_large_window_too(generators: Maker) -> None:
    with worn(VLLM(window=100_000)) as endpoint:
        saved(endpoint)
        generator = generators(api_base_url=endpoint.url, model="llama")
        assert warned(endpoint, generator, 40_000) == []


def test_size_warnings_know_the_window_of_the_only_model(generators: Maker) -> None:
    with worn(VLLM(window=100_000)) as endpoint:
        saved(endpoint)
        assert warned(endpoint, generators(api_base_url=endpoint.url, model=None), 40_000) == []


def test_the_same_server_by_another_name_of_this_machine_has_the_same_profile(generators: Maker) -> None:
    with worn(FastAPILike()) as endpoint:
        saved(endpoint)
        before = len(endpoint.requests)
        url = endpoint.url.replace("127.0.0.1", "localhost") + "/"
        generators(api_base_url=url, model="llama").run("Hi", streaming_callback=ignore)
        assert "stream_options" not in endpoint.requests[before].json


def test_another_model_of_the_server_has_a_profile_of_its_own(generators: Maker) -> None:
    class Two(BedrockLike):
        models = ("llama", "other")

    with worn(Two()) as endpoint:
        saved(endpoint)
        assert generators(api_base_url=endpoint.url, model="other").context_tokens is None
        with pytest.raises(Exception, match="non-empty"):
            generators(api_base_url=endpoint.url, model="other").run(HISTORY)


def test_a_model_named_for_one_call_has_its_own_profile(generators: Maker) -> None:
    class Two(FastAPILike):
        models = ("llama", "other")

    with worn(Two()) as endpoint:
        saved(endpoint, "other")
        before = len(endpoint.requests)
        generator = generators(api_base_url=endpoint.url, model="llama")
        generator.run("Hi", streaming_callback=ignore, generation_kwargs={"model": "other"})
        assert "stream_options" not in endpoint.requests[before].json


def test_another_endpoint_with_the_same_model_is_not_touched(generators: Maker) -> None:
    with worn(FastAPILike()) as first, worn(VLLM()) as second:
        saved(first)
        generators(api_base_url=second.url, model="llama").run("Hi", streaming_callback=ignore)
        assert second.requests[0].json["stream_options"] == {"include_usage": True}


def test_a_profile_that_is_saved_while_a_generator_lives_is_used_after_close(generators: Maker) -> None:
    with worn(FastAPILike()) as endpoint:
        generator = generators(api_base_url=endpoint.url, model="llama")
        generator.run("Hi")
        saved(endpoint)
        generator.close()
        before = len(endpoint.requests)
        generator.run("Hi", streaming_callback=ignore)
        assert "stream_options" not in endpoint.requests[before].json


# The embedded model, the real one


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Probed:
    model_file("")
    config = tmp_path_factory.mktemp("config")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(config))
        done = llama_agent("probe", "--endpoint", "embedded", "--json", "--save")
    assert done.code == 0, done.err
    return Probed(done, json.loads(done.out), "", [], [], config / "llama-agent" / "profiles.json")


TRAITS_OF_THE_EMBEDDED = {
    "tool_mode": "constrained",
    "json_schema": True,
    "grammar": True,
    "context_tokens": 8192,
    "stream_usage": True,
    "cuts_silently": False,
    "null_content": False,
    "error_shape": "openai",
}
VERDICTS_ON_THE_EMBEDDED = {
    "window is told": True,
    "tokens are counted": True,
    "tokens are counted in streams": True,
    "JSON schema holds": True,
    "llama.cpp's grammar holds": True,
    "native tool calls": False,  # its template has no tools, and llama.cpp drops them then
    "tool_choice required": False,
    "history with empty content": True,
    "errors can be read": True,
}


def test_the_embedded_model_is_probed_within_its_bound_and_still_gets_its_helps(
    embedded: Probed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One test: each worker of a parallel run would probe it anew.
    assert embedded.report["traits"] == {**embedded.report["traits"], **TRAITS_OF_THE_EMBEDDED}
    assert embedded.verdicts == {**embedded.verdicts, **VERDICTS_ON_THE_EMBEDDED}
    assert embedded.report["requests"] <= MOST_REQUESTS
    monkeypatch.setenv("XDG_CONFIG_HOME", str(embedded.file.parent.parent))
    done = llama_agent(
        "run",
        "What is 17 plus 25?",
        "--endpoint",
        "embedded",
        "--tools",
        str(ROOT / "examples" / "hello_tool.py"),
        "--quiet",
    )
    assert "42" in done.out


def test_an_account_without_a_home_runs_as_any_other(
    generators: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/dev/null")
    with worn(VLLM()) as endpoint:
        generator = generators(api_base_url=endpoint.url, model="llama")
        assert generator.run("Hi")["replies"][0].text


def test_a_disk_that_takes_no_more_is_told_and_nothing_half_is_left(tmp_path: Path) -> None:
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "from llama_agent.model.saved_profiles import save_profile, Traits\n"
        "save_profile('http://host/v1', 'm', Traits())\n"
    )
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "ConfigurationError: the profile can't be saved to" in done.stderr
    assert list((tmp_path / "llama-agent").iterdir()) == []
