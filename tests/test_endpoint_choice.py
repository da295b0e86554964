"""Which endpoint, model and key a program means: by arguments, environment, presets, or the server's list."""

import asyncio
import importlib.machinery
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret

from llama_agent import ConfigurationError, EndpointError, MetaLlamaChatGenerator, RetiredEndpointError
from llama_agent.model.endpoints import PRESETS, is_retired_host, resolve_endpoint
from tests.endpoint import Always, Drop, Endpoint, Raw, Reply, Status

PUBLISHED_URL = "https://api.llama.com/compat/v1/"
PUBLISHED_MODEL = "Llama-4-Scout-17B-16E-Instruct-FP8"
PUBLISHED_KEY = Secret.from_env_var("LLAMA_API_KEY")
PLAIN_HTTP = {"verify": False}
"""No certificates are loaded for each client: that would take most of these tests' time."""
QUESTION = [ChatMessage.from_user("2+3?")]
PRESET_NAMES = {
    "embedded", "ollama", "llama.cpp", "vllm", "lmstudio", "sglang", "groq", "together", "fireworks",
    "openrouter", "llama-api",
}  # fmt: skip
KEYED_PRESETS = {
    "groq": "GROQ_API_KEY",
    "together": "TOGETHER_API_KEY",
    "fireworks": "FIREWORKS_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
}

Maker = Callable[..., MetaLlamaChatGenerator]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(["the-only-model"]) as running:
        yield running


@pytest.fixture
def meta() -> Iterator[Endpoint]:
    """Stands for http://api.llama.com: a proxy is asked for whole URLs."""
    with Endpoint(base_path="http://api.llama.com/compat/v1") as running:
        yield running


@pytest.fixture
def make() -> Iterator[Maker]:
    made: list[MetaLlamaChatGenerator] = []

    def make(**settings: Any) -> MetaLlamaChatGenerator:
        made.append(
            MetaLlamaChatGenerator(**{"max_retries": 0, "http_client_kwargs": PLAIN_HTTP, **settings})
        )
        return made[-1]

    yield make
    for generator in made:
        generator.close()


def through(proxy: Endpoint) -> dict[str, Any]:
    """Settings that lead every request to a loopback server, whatever its host."""
    found = re.match(r"http://127\.0\.0\.1:\d+", proxy.url)
    assert found
    return {"proxy": found[0], "trust_env": False, **PLAIN_HTTP}


def at_meta(proxy: Endpoint, **settings: Any) -> dict[str, Any]:
    return {
        "api_base_url": "http://api.llama.com/compat/v1/",
        "http_client_kwargs": through(proxy),
        **settings,
    }


def ask(generator: MetaLlamaChatGenerator, *, way: str = "sync") -> ChatMessage:
    async def asked() -> ChatMessage:
        try:
            return (await generator.run_async(QUESTION))["replies"][0]
        finally:
            await generator.close_async()

    return asyncio.run(asked()) if way == "async" else generator.run(QUESTION)["replies"][0]


both_ways = pytest.mark.parametrize("way", ["sync", "async"])


# The environment, for the published docs' example: a constructor without arguments


@both_ways
def test_the_published_example_runs_against_the_endpoint_of_the_environment(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
    endpoint.script(Reply("5"))
    generator = MetaLlamaChatGenerator()
    assert ask(generator, way=way).text == "5"
    assert endpoint.requests[0].json["model"] == "the-only-model"
    generator.close()


def test_the_environment_is_read_when_used_and_not_when_built(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make()
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
    endpoint.script(Reply("5"))
    assert ask(generator).text == "5"


def test_a_generator_loaded_from_published_data_follows_the_environment(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {
        "type": "llama_agent.model.generator.MetaLlamaChatGenerator",
        "init_parameters": {
            "api_key": {"type": "env_var", "env_vars": ["LLAMA_API_KEY"], "strict": True},
            "model": PUBLISHED_MODEL,
            "streaming_callback": None,
            "api_base_url": PUBLISHED_URL,
            "generation_kwargs": {},
            "timeout": None,
            "max_retries": 0,
            "tools": None,
        },
    }
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    endpoint.script(Reply("5"))
    generator = MetaLlamaChatGenerator.from_dict(data)
    assert ask(generator).text == "5"
    assert "llama-secret" not in str(endpoint.all_requests)
    generator.close()


def test_model_and_key_of_the_environment_go_with_its_endpoint(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
    monkeypatch.setenv("LLAMA_AGENT_MODEL", "from-environment")
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", "environment-key")
    endpoint.script(Reply("5"))
    ask(make())
    (request,) = endpoint.all_requests
    assert request.json["model"] == "from-environment"
    assert request.headers["authorization"] == "Bearer environment-key"


def test_arguments_win_over_the_environment(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("LLAMA_AGENT_MODEL", "from-environment")
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", "environment-key")
    endpoint.script(Reply("5"))
    ask(make(api_base_url=endpoint.url, model="given", api_key=Secret.from_token("given-key")))
    (request,) = endpoint.all_requests
    assert request.json["model"] == "given"
    assert request.headers["authorization"] == "Bearer given-key"


def test_model_and_key_of_the_environment_are_not_given_to_another_endpoint(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("LLAMA_AGENT_MODEL", "from-environment")
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", "environment-key")
    endpoint.script(Reply("5"))
    ask(make(api_base_url=endpoint.url))
    assert endpoint.requests[0].json["model"] == "the-only-model"
    assert "environment-key" not in str(endpoint.all_requests)


def test_a_key_in_the_environment_without_an_endpoint_goes_to_the_one_that_was_given(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", "environment-key")
    monkeypatch.setenv("LLAMA_AGENT_MODEL", "from-environment")
    endpoint.script(Reply("5"))
    ask(make(api_base_url=endpoint.url))
    (request,) = endpoint.all_requests
    assert request.json["model"] == "from-environment"
    assert request.headers["authorization"] == "Bearer environment-key"


def test_the_environments_key_goes_to_its_endpoint_when_an_argument_repeats_it(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", "environment-key")
    endpoint.script(Reply("5"))
    ask(make(api_base_url=endpoint.url))
    assert endpoint.requests[0].headers["authorization"] == "Bearer environment-key"


def test_a_model_given_to_run_wins_over_all(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_AGENT_MODEL", "from-environment")
    endpoint.script(Reply("5"))
    make(api_base_url=endpoint.url, model="given").run(QUESTION, generation_kwargs={"model": "just now"})
    assert endpoint.requests[0].json["model"] == "just now"


# LLAMA_API_KEY


@pytest.mark.parametrize(
    "key",
    [
        PUBLISHED_KEY,
        Secret.from_env_var(["LLAMA_API_KEY"]),
        Secret.from_env_var("LLAMA_API_KEY", strict=False),
    ],
)
@both_ways
def test_llama_api_key_is_never_sent_to_another_host(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, key: Secret, way: str
) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    endpoint.script(Reply("5"))
    ask(make(api_base_url=endpoint.url, api_key=key), way=way)
    assert len(endpoint.all_requests) == 2, "the list of models, then the chat"
    assert "llama-secret" not in str(endpoint.all_requests)


def test_llama_api_key_is_not_sent_to_the_environments_endpoint_either(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
    endpoint.script(Reply("5"))
    ask(make())
    assert "llama-secret" not in str(endpoint.all_requests)


def test_llama_api_key_is_sent_to_metas_host(
    make: Maker, meta: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    meta.script(Reply("5"))
    assert ask(make(**at_meta(meta))).text == "5"
    (request,) = meta.all_requests
    assert request.headers["authorization"] == "Bearer llama-secret"
    assert request.json["model"] == PUBLISHED_MODEL


def test_the_key_of_another_endpoint_is_not_sent_to_metas_host(
    make: Maker, meta: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", "groq")
    monkeypatch.setenv("LLAMA_AGENT_API_KEY", "environment-key")
    meta.script(Reply("5"))
    ask(make(**at_meta(meta)))
    assert meta.requests[0].headers["authorization"] == "Bearer llama-secret"


@pytest.mark.parametrize(
    ("url", "is_metas"),
    [
        (PUBLISHED_URL, True),
        ("https://API.LLAMA.COM/v1", True),
        ("https://llama.com/v1", True),
        ("http://eu.api.llama.com:8443/v1", True),
        ("https://notllama.com/v1", False),
        ("https://api.llama.com.example.org/v1", False),
        ("https://example.org/api.llama.com", False),
        ("https://api.llama.com@example.org/v1", False),
        ("https://example.org/?x=.llama.com", False),
        ("https://llama.community/v1", False),
    ],
)
def test_only_llama_com_and_what_is_below_it_is_metas_host(url: str, is_metas: bool) -> None:
    assert is_retired_host(url) is is_metas


def test_a_missing_llama_api_key_is_told_together_with_the_retirement(make: Maker) -> None:
    with pytest.raises(ConfigurationError, match="LLAMA_API_KEY") as caught:
        ask(make())
    for part in ("2026-07-06", "LLAMA_AGENT_ENDPOINT", "ollama"):
        assert part in str(caught.value)


# Keys of presets


@pytest.mark.parametrize("name", sorted(KEYED_PRESETS))
def test_a_hosted_preset_takes_its_own_key_and_names_a_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEYED_PRESETS[name], "own-key")
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    chosen = resolve_endpoint(name, PUBLISHED_MODEL, PUBLISHED_KEY)
    assert chosen.api_key == "own-key"
    assert chosen.model
    assert chosen.model != PUBLISHED_MODEL
    assert chosen.base_url.startswith("https://")


@pytest.mark.parametrize("name", sorted(KEYED_PRESETS))
def test_a_hosted_preset_without_a_key_says_where_to_put_it(make: Maker, name: str) -> None:
    with pytest.raises(ConfigurationError, match=KEYED_PRESETS[name]) as caught:
        ask(make(api_base_url=name))
    assert "LLAMA_AGENT_API_KEY" in str(caught.value)
    assert name in str(caught.value)


@both_ways
def test_a_missing_key_of_ones_own_variable_is_a_configuration_error_that_names_it(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    generator = make(api_base_url=endpoint.url, model="m", api_key=Secret.from_env_var("MY_OWN_VARIABLE"))
    with pytest.raises(ConfigurationError, match="MY_OWN_VARIABLE"):
        ask(generator, way=way)
    assert endpoint.all_requests == []


def test_the_url_of_a_preset_is_that_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "own-key")
    for url in ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1/"):
        chosen = resolve_endpoint(url, None, PUBLISHED_KEY)
        assert (chosen.profile.name, chosen.api_key) == ("groq", "own-key")


def test_a_presets_key_does_not_go_to_another_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "own-key")
    for url in ("https://api.groq.com.example.org/openai/v1", "http://api.groq.com/openai/v1"):
        assert resolve_endpoint(url, "m", PUBLISHED_KEY).api_key is None


# Presets


def test_the_presets_are_those_of_the_issue() -> None:
    assert set(PRESETS) == PRESET_NAMES


@pytest.mark.parametrize("name", ["ollama", "llama.cpp", "vllm", "lmstudio", "sglang"])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_local_preset_is_on_this_machine_and_needs_no_key(
    name: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "environment":
        monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", f" {name} ")
    chosen = resolve_endpoint(name if by == "argument" else PUBLISHED_URL, PUBLISHED_MODEL, PUBLISHED_KEY)
    assert chosen.profile.name == name
    assert urlsplit(chosen.base_url).hostname == "localhost"
    assert (chosen.api_key, chosen.model) == (None, None)


def test_ollama_is_found_at_its_own_port() -> None:
    assert resolve_endpoint("ollama", None, None).base_url == "http://localhost:11434/v1"


def test_the_retired_preset_is_the_published_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    chosen = resolve_endpoint("llama-api", None, None)
    assert (chosen.base_url, chosen.model, chosen.api_key) == (PUBLISHED_URL, PUBLISHED_MODEL, "llama-secret")


def test_the_embedded_model_may_name_a_file() -> None:
    chosen = resolve_endpoint("embedded:path/to.gguf", None, None)
    assert (chosen.profile.name, chosen.embedded) == ("embedded", "path/to.gguf")


# Nothing chosen, or nonsense


def test_nothing_chosen_and_no_embedded_model_lists_the_choices(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigurationError) as caught:
        ask(make(api_base_url=None))
    for part in ("LLAMA_AGENT_ENDPOINT", "api_base_url", "ollama", "vllm", "groq", "[embedded]"):
        assert part in str(caught.value)


def test_nothing_chosen_is_the_embedded_model_when_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ModuleType("xllamacpp")
    installed.__spec__ = importlib.machinery.ModuleSpec("xllamacpp", None)
    monkeypatch.setitem(sys.modules, "xllamacpp", installed)
    assert resolve_endpoint(None, None, None).profile.name == "embedded"


@pytest.mark.parametrize(
    "name",
    [
        "olama",
        "localhost:8080/v1",
        "ftp://127.0.0.1/v1",
        "http://",
        "http:///v1",
        "http://[::1/v1",
        "ollama:1",
    ],
)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_name_that_is_neither_a_preset_nor_a_url_lists_the_choices(
    make: Maker, name: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "environment":
        monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", name)
    with pytest.raises(ConfigurationError) as caught:
        ask(make(**({"api_base_url": name} if by == "argument" else {})))
    assert name in str(caught.value)
    assert "ollama" in str(caught.value)


# The model


@pytest.mark.parametrize("model", [None, PUBLISHED_MODEL])
@both_ways
def test_the_only_model_that_the_server_lists_is_asked_for_once(
    make: Maker, endpoint: Endpoint, model: str | None, way: str
) -> None:
    endpoint.script(Reply("5"), Reply("6"))
    generator = make(api_base_url=endpoint.url, model=model)
    assert [ask(generator).text, ask(generator).text] == ["5", "6"]
    assert [request.method for request in endpoint.all_requests] == ["GET", "POST", "POST"]
    assert [request.json["model"] for request in endpoint.requests] == ["the-only-model"] * 2


@both_ways
def test_several_models_are_listed_in_the_error(make: Maker, way: str) -> None:
    with Endpoint(["llama-small", "llama-large"]) as endpoint:
        with pytest.raises(ConfigurationError) as caught:
            ask(make(api_base_url=endpoint.url), way=way)
        assert endpoint.requests == []
    for part in ("llama-small", "llama-large", "LLAMA_AGENT_MODEL", "model="):
        assert part in str(caught.value)


def test_no_model_at_all_says_how_to_name_one(make: Maker) -> None:
    with Endpoint([]) as endpoint, pytest.raises(ConfigurationError, match="LLAMA_AGENT_MODEL"):
        ask(make(api_base_url=endpoint.url))


def test_a_named_model_needs_no_list(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5"))
    ask(make(api_base_url=endpoint.url, model="named"))
    assert [request.method for request in endpoint.all_requests] == ["POST"]


def test_the_list_of_models_is_asked_for_with_the_key(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5"))
    ask(make(api_base_url=endpoint.url, api_key=Secret.from_token("given-key")))
    assert [request.headers["authorization"] for request in endpoint.all_requests] == ["Bearer given-key"] * 2


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (Raw(b"<html>a web page</html>", content_type="text/html"), "JSON"),
        (Status(401, {"error": {"message": "who are you?"}}), "who are you?"),
        (Status(404, {"detail": "Not Found"}), "Not Found"),
    ],
)
@both_ways
def test_a_list_of_models_that_cannot_be_had_is_an_endpoint_error_that_shows_why(
    make: Maker, answer: Raw | Status, part: str, way: str
) -> None:
    with Endpoint(routes={("GET", "/v1/models"): answer}) as endpoint:
        with pytest.raises(EndpointError, match=part.replace("?", r"\?")):
            ask(make(api_base_url=endpoint.url), way=way)
        assert endpoint.requests == []


@both_ways
def test_asking_for_the_models_is_retried_like_any_request(make: Maker, way: str) -> None:
    answers = iter([Status(503, headers={"Retry-After": "0"}), Status(200, {"data": [{"id": "late"}]})])
    with Endpoint(routes={("GET", "/v1/models"): lambda request: next(answers)}) as endpoint:
        endpoint.script(Reply("5"))
        ask(make(api_base_url=endpoint.url, max_retries=1), way=way)
        assert endpoint.requests[0].json["model"] == "late"


# The retired host


@pytest.mark.parametrize(
    "answer",
    [
        Status(410, {"detail": "gone"}),
        Status(503),
        Status(403, "<html>sunset</html>"),
        Status(307, headers={"Location": "https://llama.developer.meta.com/sunset"}),
        Status(301, headers={"Location": "https://llama.developer.meta.com/sunset"}),
        Drop(),
        Raw(b"<html>The Llama API was discontinued</html>", content_type="text/html"),
        Raw(b'{"error": {"message": "sunset"}}'),
        Raw(b'{"choices": []}'),
        Reply("too late", first_pause=5),
    ],
    ids=["410", "503", "403 page", "307", "301", "reset", "page", "error in 200", "no choices", "silence"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_any_failure_of_the_retired_host_says_that_it_was_retired_and_what_to_do(
    make: Maker, monkeypatch: pytest.MonkeyPatch, answer: Any, stream: bool
) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    with Endpoint(base_path="http://api.llama.com/compat/v1") as meta:
        meta.script(Always(answer))
        generator = make(**at_meta(meta), timeout=0.3, generation_kwargs={"stream": stream})
        with pytest.raises(RetiredEndpointError) as caught:
            ask(generator)
        assert len(meta.all_requests) == 1
    for part in ("Meta retired", "2026-07-06", "LLAMA_AGENT_ENDPOINT", "api_base_url", "ollama", "groq"):
        assert part in str(caught.value)
    assert "llama-secret" not in str(caught.value)


def test_the_published_default_that_cannot_be_reached_says_that_it_was_retired(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "llama-secret")
    with Endpoint() as proxy:
        generator = make(http_client_kwargs=through(proxy), max_retries=3)
        with pytest.raises(RetiredEndpointError, match="2026-07-06"):
            ask(generator)
        assert [(request.method, request.path) for request in proxy.all_requests] == [
            ("CONNECT", "api.llama.com:443")
        ]


@pytest.mark.parametrize(
    ("name", "meant"), [("olama", "'ollama'"), ("Embedded", "'embedded'"), ("box:8000", "'http://box:8000'")]
)
def test_a_slip_in_an_endpoints_name_is_answered_with_what_was_meant(name: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Did you mean {meant}"):
        MetaLlamaChatGenerator(api_base_url=name).warm_up()


def test_an_unknown_tool_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="tool_mode must be one of 'auto', 'native'"):
        MetaLlamaChatGenerator(tool_mode="constrainted")  # type: ignore[arg-type]
