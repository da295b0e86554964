"""`llama-agent models` and `llama-agent doctor`: what is there, whether it works, and what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Done, llama_agent
from tests.endpoint import Endpoint, Request, Status
from tests.endpoint.dresses import VLLM, Dress, Groq, LlamaCpp, Ollama, TogetherLike, worn

ROOT = Path(__file__).parent.parent
KEY = "sk-very-secret-0123456789"
DOWN = "http://127.0.0.1:9/v1"


def lines(done: Done, about: str) -> list[str]:
    return [line for line in done.out.splitlines() if line[3:].startswith(f"{about}:")]


# models


def test_models_are_listed_a_name_a_line_sorted() -> None:
    with Endpoint(["zeta", "alpha", "mid"]) as endpoint:
        assert llama_agent("models", "--endpoint", endpoint.url).out == "alpha\nmid\nzeta\n"


def test_models_as_json_are_the_servers_own_list() -> None:
    with worn(VLLM()) as endpoint:
        listed = json.loads(llama_agent("models", "--endpoint", endpoint.url, "--json").out)
    assert listed["data"][0]["max_model_len"] == 131_072


def test_models_asks_for_no_reply() -> None:
    with Endpoint(["one"]) as endpoint:
        llama_agent("models", "--endpoint", endpoint.url)
        assert [request.path for request in endpoint.all_requests] == ["/v1/models"]


def test_models_of_a_bare_list_are_listed() -> None:
    with worn(TogetherLike()) as endpoint:
        done = llama_agent("models", "--endpoint", endpoint.url)
    assert (done.out, done.code) == ("llama\n", 0), done.err


def test_the_only_model_of_a_bare_list_is_found_by_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_MAX_RETRIES", "0")
    with worn(TogetherLike()) as endpoint:
        done = llama_agent("run", "Hi", "--endpoint", endpoint.url)
    assert done.out == "Hello there!\n", done.err


def test_models_sends_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", KEY)
    with worn(Groq(key=KEY)) as endpoint:
        assert llama_agent("models", "--endpoint", endpoint.url).out == "llama\n"


def test_models_with_a_wrong_key_says_what_to_do() -> None:
    with worn(Groq(key=KEY)) as endpoint:
        done = llama_agent("models", "--endpoint", endpoint.url)
    assert done.code == 1 and "Check the key" in done.err


def test_models_of_a_server_that_is_down_says_so() -> None:
    done = llama_agent("models", "--endpoint", DOWN)
    assert done.code == 1 and "Is the server running?" in done.err


def test_models_of_a_server_without_any_says_so() -> None:
    with Endpoint([]) as endpoint:
        done = llama_agent("models", "--endpoint", endpoint.url)
    assert done.code == 1 and "no model" in done.err


def test_models_takes_the_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint(["one"]) as endpoint:
        monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
        assert llama_agent("models").out == "one\n"


def test_a_models_name_cannot_steer_the_terminal() -> None:
    with Endpoint(["evil\x1b[2J\u202e"]) as endpoint:
        out = llama_agent("models", "--endpoint", endpoint.url).out
    assert "\x1b" not in out and "\u202e" not in out


@pytest.mark.parametrize("body", ['{"data": [{"name": "x"}, 5, null]}', '{"data": "x"}', "<html></html>"])
def test_an_odd_list_of_models_is_no_traceback(body: str) -> None:
    odd = Status(200, body, headers={"Content-Type": "application/json"})
    with Endpoint(routes={("GET", "/v1/models"): odd}) as endpoint:
        done = llama_agent("models", "--endpoint", endpoint.url)
    assert done.code == 1 and done.err.startswith("llama-agent: ")


# doctor


@pytest.fixture
def healthy() -> Done:
    with worn(VLLM()) as endpoint:
        return llama_agent("doctor", "--endpoint", endpoint.url)


@pytest.mark.parametrize(
    "about",
    ["python", "llama-agent-haystack", "haystack-ai", "openai", "endpoint", "key", "embedded model", "model"],
)
def test_doctor_tells_the_parts(healthy: Done, about: str) -> None:
    assert lines(healthy, about)


def test_doctor_ends_with_0_when_a_run_could_work(healthy: Done) -> None:
    assert healthy.code == 0


def test_doctor_asks_for_no_reply() -> None:
    with worn(VLLM()) as endpoint:
        llama_agent("doctor", "--endpoint", endpoint.url)
        assert endpoint.requests == []


def test_doctor_says_that_the_endpoint_was_not_probed(healthy: Done) -> None:
    assert "llama-agent probe" in lines(healthy, "profile")[0]


def test_doctor_says_when_the_endpoint_was_probed() -> None:
    with worn(VLLM()) as endpoint:
        llama_agent("probe", "--endpoint", endpoint.url, "--save")
        done = llama_agent("doctor", "--endpoint", endpoint.url)
    assert "probed 20" in lines(done, "profile")[0]


def test_doctor_says_that_the_server_is_down_and_ends_with_1() -> None:
    done = llama_agent("doctor", "--endpoint", DOWN)
    assert done.code == 1 and "Is the server running?" in done.out


def test_doctor_says_that_the_key_is_wrong() -> None:
    with worn(Groq(key=KEY)) as endpoint:
        done = llama_agent("doctor", "--endpoint", endpoint.url)
    assert done.code == 1 and "Check the key" in done.out


def test_doctor_says_that_a_key_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", KEY)
    with worn(Groq(key=KEY)) as endpoint:
        assert "found" in lines(llama_agent("doctor", "--endpoint", endpoint.url), "key")[0]


def test_doctor_never_shows_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", KEY)
    with worn(Groq(key=KEY)) as endpoint:
        done = llama_agent("doctor", "--endpoint", endpoint.url)
    assert KEY not in done.out + done.err


def test_doctor_names_the_missing_key_of_a_hosted_preset() -> None:
    done = llama_agent("doctor", "--endpoint", "groq")
    assert done.code == 1 and "GROQ_API_KEY" in done.out


def test_doctor_says_that_several_models_need_a_choice() -> None:
    with Endpoint(["one", "two"]) as endpoint:
        done = llama_agent("doctor", "--endpoint", endpoint.url)
    assert done.code == 1 and "--model" in done.out


def test_doctor_says_that_a_model_is_not_listed() -> None:
    with worn(VLLM()) as endpoint:
        done = llama_agent("doctor", "--endpoint", endpoint.url, "--model", "lama")
    assert done.code == 1 and "lama isn't among them" in done.out


def test_doctor_knows_that_ollamas_names_need_no_tag() -> None:
    with worn(Ollama()) as endpoint:
        done = llama_agent("doctor", "--endpoint", endpoint.url, "--model", "llama3.2")
    assert done.code == 0, done.out


def test_doctor_does_not_fail_a_server_that_works_but_lists_no_models() -> None:
    class Unlisted(Dress):
        def _list_models(self, request: Request) -> Status:
            return Status(404, {"error": {"message": "Not Found"}})

    with worn(Unlisted()) as endpoint:
        assert llama_agent("run", "Hi", "--endpoint", endpoint.url, "--model", "llama").code == 0
        done = llama_agent("doctor", "--endpoint", endpoint.url, "--model", "llama")
    assert done.code == 0, done.out


def test_doctor_does_not_fail_a_server_whose_list_is_bare() -> None:
    with worn(TogetherLike()) as endpoint:
        done = llama_agent("doctor", "--endpoint", endpoint.url, "--model", "llama")
    assert done.code == 0, done.out


def test_doctor_takes_the_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with worn(LlamaCpp()) as endpoint:
        monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
        assert "LLAMA_AGENT_ENDPOINT" in lines(llama_agent("doctor"), "endpoint")[0]


def test_doctor_says_that_metas_host_was_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "k")
    done = llama_agent("doctor", "--endpoint", "llama-api")
    assert done.code == 1 and "2026-07-06" in done.out


def test_doctor_says_that_a_preset_is_misspelt() -> None:
    done = llama_agent("doctor", "--endpoint", "olama")
    assert done.code == 1 and "Did you mean 'ollama'" in done.out


def test_doctor_tells_of_a_damaged_file_of_profiles_and_ends_with_1(tmp_path: Path) -> None:
    file = tmp_path / "config" / "llama-agent" / "profiles.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with worn(VLLM()) as endpoint:
        done = llama_agent("doctor", "--endpoint", endpoint.url)
    assert done.code == 1 and "profiles.json" in done.out, done.err


def test_doctor_shows_no_password_of_the_url() -> None:
    with worn(VLLM()) as endpoint:
        url = endpoint.url.replace("://", "://user:pass-word-77@")
        done = llama_agent("doctor", "--endpoint", url)
    assert "pass-word-77" not in done.out + done.err


def test_doctor_finds_the_embedded_model_without_starting_a_run() -> None:
    done = llama_agent("doctor", "--endpoint", "embedded")
    assert (done.code, len(lines(done, "embedded model"))) == (0, 1), done.out


def test_doctor_as_a_process_of_its_own(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "OPENAI_"))}
    env = {**kept, "XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "llama_agent", "doctor", "--endpoint", DOWN]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert (done.returncode, "Is the server running?" in done.stdout) == (1, True), done.stderr
