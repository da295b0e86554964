"""Our generator as a member of Haystack's `FallbackChatGenerator`: alone, in our Agent and in Haystack's."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from haystack import Pipeline
from haystack.components.agents import Agent as HaystackAgent
from haystack.components.generators.chat import FallbackChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.tools import Tool
from haystack.utils import Secret

from llama_agent import Agent, ConfigurationError, MetaLlamaChatGenerator, RateLimit, RetryPolicy, tool
from tests.endpoint import Always, Drop, Endpoint, Item, Raw, Reply, Status
from tests.endpoint.dresses import (
    VLLM,
    BedrockLike,
    FastAPILike,
    LlamaCpp,
    NoTools,
    SingleCallTemplate,
    worn,
)

QUESTION = [ChatMessage.from_user("What is 2 plus 3?")]
TOO_LONG = Status(
    400,
    {"error": {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000"}},
)
FAULTS: dict[str, Item] = {
    "rate limit": Status(429),
    "rate limit with a wait": Status(429, headers={"Retry-After": "100000"}),
    "overload": Status(503),
    "no connection": Drop(),
    "time-out": Reply("late", first_pause=20),
    "wrong key": Status(401, {"error": {"message": "Invalid API Key"}}),
    "overflow": TOO_LONG,
    "unknown model": Status(404),
    "bad request": Status(400),
    "no JSON": Raw(b"<html>"),
    "empty reply": Raw(b'{"choices": []}'),
    "cut off stream": Reply("half", cut_after=1),
}
MISCONFIGURED: dict[str, dict[str, Any]] = {
    "no key": {"api_base_url": "groq"},
    "a key of ones own that is not set": {"api_key": Secret.from_env_var("NOT_SET_AT_ALL")},
    "an unknown preset": {"api_base_url": "olama"},
    "the retired host": {"api_base_url": "https://api.llama.com/compat/v1/"},
    "a model file that is not there": {"api_base_url": "embedded:/no/such/file.gguf"},
}

Ways = pytest.mark.parametrize("way", ["sync", "async"])
Maker = Callable[..., MetaLlamaChatGenerator]


@pytest.fixture
def first() -> Iterator[Endpoint]:
    with Endpoint(strict=False) as running:
        yield running


@pytest.fixture
def second() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def make() -> Iterator[Maker]:
    made: list[MetaLlamaChatGenerator] = []

    def make(endpoint: Endpoint | None = None, **settings: Any) -> MetaLlamaChatGenerator:
        usual: dict[str, Any] = {"model": "m", "max_retries": 0, "http_client_kwargs": {"verify": False}}
        if endpoint is not None:
            usual["api_base_url"] = endpoint.url
        made.append(MetaLlamaChatGenerator(**{**usual, **settings}))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: First number.
        b: Second number.
    """
    return a + b


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: Name of the city.
    """
    return f"sunny in {city}"


def ask(fallback: FallbackChatGenerator, way: str, **settings: Any) -> dict[str, Any]:
    async def asked() -> dict[str, Any]:
        try:
            return await fallback.run_async(QUESTION, **settings)
        finally:
            await fallback.close_async()

    return asyncio.run(asked()) if way == "async" else fallback.run(QUESTION, **settings)


# The next one takes over


@pytest.mark.parametrize("fault", FAULTS)
@Ways
def test_the_second_answers_when_the_first_fails(
    first: Endpoint, second: Endpoint, make: Maker, fault: str, way: str
) -> None:
    first.script(Always(FAULTS[fault]))
    second.script(Reply("5"))
    timeout = 0.2 if fault == "time-out" else 10.0
    fallback = FallbackChatGenerator([make(first, timeout=timeout), make(second)])
    assert ask(fallback, way)["replies"][0].text == "5"


@pytest.mark.parametrize("problem", MISCONFIGURED)
@pytest.mark.parametrize("position", [0, 1])
@Ways
def test_what_is_not_configured_is_told_at_once_and_not_when_it_is_needed(
    first: Endpoint, make: Maker, problem: str, position: int, way: str
) -> None:
    # Haystack warms all members up before it asks the first.
    members = [make(first)]
    members.insert(position, make(first, **MISCONFIGURED[problem]))
    with pytest.raises(ConfigurationError):
        ask(FallbackChatGenerator(members), way)
    assert first.all_requests == []


@Ways
def test_the_first_makes_all_its_attempts_before(
    first: Endpoint, second: Endpoint, make: Maker, way: str
) -> None:
    first.script(Always(Status(503)))
    second.script(Reply("5"))
    ask(FallbackChatGenerator([make(first, max_retries=2), make(second)]), way)
    assert len(first.requests) == 3


@Ways
def test_a_first_that_recovers_keeps_the_call(
    first: Endpoint, second: Endpoint, make: Maker, way: str
) -> None:
    first.script(Status(503), Reply("5 from the first"))
    result = ask(FallbackChatGenerator([make(first, max_retries=1), make(second)]), way)
    assert result["meta"]["successful_chat_generator_index"] == 0


@Ways
def test_an_overflow_is_not_tried_again_before_the_next_is_asked(
    first: Endpoint, second: Endpoint, make: Maker, way: str
) -> None:
    first.script(Always(TOO_LONG))
    second.script(Reply("5"))
    ask(FallbackChatGenerator([make(first, max_retries=5), make(second)]), way)
    assert len(first.requests) == 1


def test_the_meta_names_who_failed(first: Endpoint, second: Endpoint, make: Maker) -> None:
    first.script(Always(Status(429)))
    second.script(Reply("5"))
    result = ask(FallbackChatGenerator([make(first), make(second)]), "sync")
    assert result["meta"]["failed_chat_generators"] == ["MetaLlamaChatGenerator"]


@Ways
def test_when_all_fail_the_error_says_why(first: Endpoint, second: Endpoint, make: Maker, way: str) -> None:
    first.script(Always(Status(429)))
    second.script(Status(401, {"error": {"message": "Invalid API Key"}}))
    with pytest.raises(RuntimeError, match="Check the key"):
        ask(FallbackChatGenerator([make(first), make(second)]), way)


def test_a_key_is_not_shown_when_all_fail(first: Endpoint, make: Maker) -> None:
    first.script(Always(Status(401, {"error": {"message": "no such key: sk-very-secret-0123456789"}})))
    key = Secret.from_token("sk-very-secret-0123456789")
    with pytest.raises(RuntimeError) as caught:
        ask(FallbackChatGenerator([make(first, api_key=key)]), "sync")
    assert "sk-very-secret" not in str(caught.value)


def test_a_rate_limit_of_ours_does_not_keep_the_second_waiting(
    first: Endpoint, second: Endpoint, make: Maker
) -> None:
    first.script(Always(Status(429, headers={"Retry-After": "100000"})))
    second.script(Reply("5"))
    limited = make(first, rate_limit=RateLimit(requests_per_minute=6000))
    fallback = FallbackChatGenerator([limited, make(second)])
    assert ask(fallback, "sync")["replies"][0].text == "5"


# Streams


@Ways
def test_a_stream_goes_on_with_the_second(first: Endpoint, second: Endpoint, make: Maker, way: str) -> None:
    shown: list[str] = []

    def show(chunk: StreamingChunk) -> None:
        shown.append(chunk.content)

    async def show_async(chunk: StreamingChunk) -> None:
        shown.append(chunk.content)

    first.script(Always(Status(503)))
    second.script(Reply("The answer is 5."))
    callback = show_async if way == "async" else show
    ask(FallbackChatGenerator([make(first), make(second)]), way, streaming_callback=callback)
    assert "".join(shown) == "The answer is 5."


@Ways
def test_a_stream_that_breaks_is_answered_whole_by_the_second(
    first: Endpoint, second: Endpoint, make: Maker, way: str
) -> None:
    def ignore(chunk: StreamingChunk) -> None: ...

    async def ignore_async(chunk: StreamingChunk) -> None: ...

    first.script(Always(Reply("The answer is 6.", cut_after=3)))
    second.script(Reply("The answer is 5."))
    callback = ignore_async if way == "async" else ignore
    result = ask(FallbackChatGenerator([make(first), make(second)]), way, streaming_callback=callback)
    assert result["replies"][0].text == "The answer is 5."


# Tools


@Ways
def test_tools_reach_the_second(first: Endpoint, second: Endpoint, make: Maker, way: str) -> None:
    first.script(Always(Status(503)))
    second.script(Reply(calls=[("add", {"a": 2, "b": 3})]))
    result = ask(FallbackChatGenerator([make(first), make(second)]), way, tools=[tool(add)])
    assert result["replies"][0].tool_calls[0].arguments == {"a": 2, "b": 3}


def test_generation_kwargs_reach_the_second(first: Endpoint, second: Endpoint, make: Maker) -> None:
    first.script(Always(Status(503)))
    second.script(Reply("5"))
    fallback = FallbackChatGenerator([make(first), make(second)])
    ask(fallback, "sync", generation_kwargs={"temperature": 0.5})
    assert second.requests[0].json["temperature"] == 0.5


@Ways
def test_our_agent_goes_on_with_the_second(first: Endpoint, second: Endpoint, make: Maker, way: str) -> None:
    first.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Always(Status(429)))
    second.script(Reply("It is 5."))
    agent = Agent(chat_generator=FallbackChatGenerator([make(first), make(second)]), tools=[add])

    async def run() -> Any:
        async with agent:
            return await agent.run_async("What is 2 plus 3?")

    if way == "async":
        result = asyncio.run(run())
    else:
        with agent:
            result = agent.run("What is 2 plus 3?")
    assert (result.text, result.stop_reason) == ("It is 5.", "answered")


def test_the_second_sees_what_the_first_had_done(first: Endpoint, second: Endpoint, make: Maker) -> None:
    first.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Always(Status(429)))
    second.script(Reply("It is 5."))
    fallback = FallbackChatGenerator([make(first), make(second)])
    with Agent(chat_generator=fallback, tools=[add]) as agent:
        agent.run("What is 2 plus 3?")
    assert [message["role"] for message in second.requests[0].messages] == ["user", "assistant", "tool"]


def test_our_agent_counts_the_tokens_of_both(first: Endpoint, second: Endpoint, make: Maker) -> None:
    first.script(Reply(calls=[("add", {"a": 2, "b": 3})], usage=(10, 5)), Always(Status(429)))
    second.script(Reply("It is 5.", usage=(20, 2)))
    fallback = FallbackChatGenerator([make(first), make(second)])
    with Agent(chat_generator=fallback, tools=[add]) as agent:
        assert agent.run("What is 2 plus 3?").usage.total_tokens == 37


def test_our_agent_streams_from_the_second(first: Endpoint, second: Endpoint, make: Maker) -> None:
    shown: list[str] = []
    first.script(Always(Status(503)))
    second.script(Reply("It is 5."))
    fallback = FallbackChatGenerator([make(first), make(second)])
    with Agent(
        chat_generator=fallback, tools=[add], streaming_callback=lambda chunk: shown.append(chunk.content)
    ) as agent:
        agent.run("What is 2 plus 3?")
    assert "".join(shown) == "It is 5."


def test_an_agents_run_whose_generators_all_fail_keeps_what_it_had_got_to(
    first: Endpoint, make: Maker
) -> None:
    first.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Always(Status(400)))
    with (
        Agent(chat_generator=FallbackChatGenerator([make(first)]), tools=[add]) as agent,
        pytest.raises(Exception, match="chat generators failed") as caught,
    ):
        agent.run("What is 2 plus 3?")
    assert caught.value.result.messages[-1].tool_call_results  # type: ignore[attr-defined]


@Ways
def test_haystacks_own_agent_goes_on_with_the_second(
    first: Endpoint, second: Endpoint, make: Maker, way: str
) -> None:
    first.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Always(Status(429)))
    second.script(Reply("It is 5."))
    fallback = FallbackChatGenerator([make(first), make(second)])
    agent = HaystackAgent(chat_generator=fallback, tools=[tool(add)])
    if way == "async":
        result = asyncio.run(agent.run_async(messages=QUESTION))
    else:
        result = agent.run(messages=QUESTION)
    assert result["last_message"].text == "It is 5."


def test_an_agents_retries_are_told_to_belong_to_the_members(first: Endpoint, make: Maker) -> None:
    with pytest.raises(ConfigurationError, match="FallbackChatGenerator retries by its own settings"):
        Agent(chat_generator=FallbackChatGenerator([make(first)]), retry=RetryPolicy(max_retries=1)).run("Hi")


# Servers of two kinds


def test_the_second_is_asked_in_its_own_way(make: Maker) -> None:
    """A history of native calls goes on in constrained mode."""
    with Endpoint(strict=False) as broken, worn(NoTools()) as plain:
        broken.script(
            Reply(calls=[("weather", {"city": "Paris"}), ("weather", {"city": "Oslo"})]), Always(Status(503))
        )
        fallback = FallbackChatGenerator([make(broken), make(plain, model="llama", tool_mode="constrained")])
        with Agent(chat_generator=fallback, tools=[weather]) as agent:
            text = agent.run("Compare the weather of Paris and Oslo.").text
    assert text == "It is sunny in Paris and sunny in Oslo."


def test_a_server_with_limits_of_its_own_is_skipped_for_one_without(make: Maker) -> None:
    with worn(LlamaCpp(window=50)) as small, worn(VLLM()) as large:
        fallback = FallbackChatGenerator([make(small, model="llama"), make(large, model="llama")])
        result = fallback.run([ChatMessage.from_user("Hi " * 200)])
    assert result["meta"]["successful_chat_generator_index"] == 1


@pytest.mark.parametrize("dress", [FastAPILike(), BedrockLike()], ids=["fastapi", "bedrock"])
def test_a_particular_server_is_a_good_first(make: Maker, second: Endpoint, dress: Any) -> None:
    with worn(dress) as particular:
        fallback = FallbackChatGenerator([make(particular, model="llama"), make(second)])
        result = fallback.run(QUESTION)
    assert result["meta"]["successful_chat_generator_index"] == 0


def test_a_template_for_single_calls_takes_a_history_of_several(make: Maker) -> None:
    """The facts' rule: the turn is sent again as single calls, each with its result (unsloth#7426)."""
    with Endpoint(strict=False) as broken, worn(SingleCallTemplate()) as single:
        broken.script(
            Reply(calls=[("weather", {"city": "Paris"}), ("weather", {"city": "Oslo"})]), Always(Status(503))
        )
        fallback = FallbackChatGenerator([make(broken), make(single, model="llama")])
        with Agent(chat_generator=fallback, tools=[weather]) as agent:
            assert agent.run("Compare the weather of Paris and Oslo.").stop_reason == "answered"


# Kept and opened


def test_a_fallback_of_ours_survives_being_saved(second: Endpoint) -> None:
    members = [
        MetaLlamaChatGenerator(api_base_url="http://127.0.0.1:9/v1", model="m", max_retries=0),
        MetaLlamaChatGenerator(api_base_url=second.url, model="m", max_retries=0),
    ]
    pipeline = Pipeline()
    pipeline.add_component("llm", FallbackChatGenerator(members))
    loaded = Pipeline.loads(pipeline.dumps())
    second.script(Reply("5"))
    result = loaded.run({"llm": {"messages": QUESTION}})
    assert result["llm"]["replies"][0].text == "5"


def test_a_fallback_can_be_used_again_after_close(first: Endpoint, second: Endpoint, make: Maker) -> None:
    first.script(Always(Status(503)))
    second.script(Reply("5"), Reply("6"))
    fallback = FallbackChatGenerator([make(first), make(second)])
    fallback.run(QUESTION)
    fallback.close()
    assert fallback.run(QUESTION)["replies"][0].text == "6"


def test_plain_haystack_tools_work_through_a_fallback(first: Endpoint, second: Endpoint, make: Maker) -> None:
    plain = Tool("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}}, lambda a: a)
    first.script(Always(Drop()))
    second.script(Reply(calls=[("add", {"a": 1})]))
    result = ask(FallbackChatGenerator([make(first), make(second)]), "sync", tools=[plain])
    assert result["replies"][0].tool_calls[0].tool_name == "add"
