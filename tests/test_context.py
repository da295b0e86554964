"""A conversation that grows beyond the model's window: the run goes on, and ends with the right answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from haystack.components.agents.state.state import State
from haystack.dataclasses import ChatMessage
from haystack.hooks import hook
from haystack.hooks.compaction import CompactionHook, SlidingWindowCompactor, ToolResultPruningCompactor

from llama_agent import (
    Agent,
    ContextCompacted,
    ContextOverflow,
    Event,
    Limits,
    RunResult,
    TextDelta,
    tool,
)
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request, Status
from tests.strict_server import faults

WINDOW = 4_096
Answer = Callable[[Request], Item]
Go = Callable[..., RunResult]


class Narrow:
    """
    A server that holds to a window.

    :param answer: The model's answer to a request that fits.
    :param says: Whether it says how large its window is, when it refuses.
    :param counts: Whether it counts tokens in its usage.
    :param sums_up: The model's summary; None for a server that fails when it is asked for one.
    """

    def __init__(
        self, answer: Answer, *, says: bool = True, counts: bool = True, sums_up: str | None = "All is well."
    ) -> None:
        self._answer = answer
        self._says = says
        self._counts = counts
        self._sums_up = sums_up
        self.refused = 0
        self.summaries = 0
        self.prompts: list[str] = []

    def __call__(self, request: Request) -> Item:
        tokens = len(json.dumps([request.messages, request.json.get("tools")])) // 4
        if tokens > WINDOW:
            self.refused += 1
            size = f" is {WINDOW} tokens. However, you requested {tokens} tokens"
            message = f"This model's maximum context length{size if self._says else ' is exceeded'}"
            return Status(400, {"error": {"message": message, "code": "context_length_exceeded"}})
        assert list(faults(request.messages)) == []
        if is_for_summary(request):
            self.summaries += 1
            return Status(500) if self._sums_up is None else Reply(self._sums_up, usage=(tokens, 20))
        self.prompts.append(json.dumps(request.messages))
        item = self._answer(request)
        if isinstance(item, Reply) and self._counts:
            return Reply(item.text, calls=item.calls, usage=(tokens, 20))
        return item


def is_for_summary(request: Request) -> bool:
    return "gets too long" in str(request.messages[-1]["content"])


def looking(steps: int, last: str = "The last was {last}.") -> Answer:
    """A model that looks at one page after the other, and then answers with the last."""
    turn = 0

    def answer(request: Request) -> Reply:
        nonlocal turn
        turn += 1
        if turn <= steps and "tools" in request.json:
            return Reply(calls=[("look", {"page": turn})])
        return Reply(last.format(last=str(request.messages[-1]["content"])[:20]))

    return answer


def look_of(size: int) -> Any:
    @tool
    def look(page: int) -> str:
        """Look at a page."""
        return f"page {page}: {'word ' * (size // 5)}"

    return look


@pytest.fixture(params=["sync", "async"])
def go(request: pytest.FixtureRequest, make: Maker, endpoint: Endpoint) -> Go:
    """Runs an agent against a server with a narrow window."""

    def go(server: Narrow, *tools: Any, **settings: Any) -> RunResult:
        endpoint.script(Always(server))
        settings = {"system_prompt": "You are careful.", "max_agent_steps": 400, **settings}
        agent = Agent(chat_generator=make(), tools=list(tools), **settings)

        async def main() -> RunResult:
            async with agent:
                return await agent.run_async("Look at all pages of the book.")

        if request.param == "async":
            return asyncio.run(main())
        with agent:
            return agent.run("Look at all pages of the book.")

    return go


def compactions(result: RunResult) -> list[ContextCompacted]:
    return [event for event in result.events if isinstance(event, ContextCompacted)]


@pytest.mark.parametrize("says", [True, False], ids=["says its window", "doesn't say its window"])
@pytest.mark.parametrize("counts", [True, False], ids=["counts", "doesn't count"])
def test_a_run_of_300_steps_ends_with_the_right_answer(go: Go, says: bool, counts: bool) -> None:
    server = Narrow(looking(300), says=says, counts=counts)
    result = go(server, look_of(400))
    assert (result.text, result.stop_reason) == ("The last was page 300: word word .", "answered")
    assert result["step_count"] == 301
    assert compactions(result)


def test_a_window_that_the_server_said_is_kept_to_from_then_on(go: Go) -> None:
    server = Narrow(looking(120))
    go(server, look_of(400))
    assert server.refused == 1


def test_old_results_are_shortened_before_anything_is_summed_up(go: Go) -> None:
    server = Narrow(looking(8))
    result = go(server, look_of(1_800))
    assert server.summaries == 0
    assert compactions(result)
    assert not any(event.is_summed_up for event in compactions(result))
    assert "shortened" in server.prompts[-1]


def test_the_system_prompt_the_task_and_the_last_steps_stay(go: Go) -> None:
    server = Narrow(looking(100))
    go(server, look_of(400))
    assert server.summaries
    for prompt in server.prompts:
        messages = json.loads(prompt)
        assert [message["role"] for message in messages[:2]] == ["system", "user"]
        assert messages[1]["content"] == "Look at all pages of the book."
        whole = [m for m in messages if m["role"] == "tool" and "shortened" not in m["content"]]
        assert len(whole) >= min(3, sum(m["role"] == "tool" for m in messages))


def test_a_summary_stands_in_the_place_of_old_steps(go: Go) -> None:
    server = Narrow(looking(100), sums_up="Pages 1 to 40 have only words.")
    result = go(server, look_of(400))
    assert any("Pages 1 to 40 have only words." in prompt for prompt in server.prompts)
    assert any(event.is_summed_up for event in compactions(result))
    assert all(event.tokens_after < event.tokens_before for event in compactions(result))


def test_between_compactions_the_prompt_only_grows(go: Go) -> None:
    server = Narrow(looking(100))
    result = go(server, look_of(400))
    changes = sum(
        not after.startswith(before[:-1])
        for before, after in zip(server.prompts, server.prompts[1:], strict=False)
    )
    assert changes <= len(compactions(result))
    assert len(compactions(result)) < 20


def test_a_summary_that_fails_doesnt_end_the_run(go: Go) -> None:
    server = Narrow(looking(30), sums_up=None)
    result = go(server, look_of(1_000))
    assert result.stop_reason == "answered"
    assert result.text.startswith("The last was page 30: word")
    assert all("page=" not in prompt or "results are gone" in prompt for prompt in server.prompts)


def test_summaries_count_in_the_limits(go: Go) -> None:
    server = Narrow(looking(300))
    result = go(server, look_of(400), limits=Limits(model_calls=60))
    assert result.stop_reason == "max_model_calls"
    assert len(server.prompts) + server.summaries + server.refused <= 60 + server.refused
    assert server.summaries


def test_a_task_that_doesnt_fit_by_itself_is_an_error_with_the_numbers(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Always(Narrow(looking(1))))
    with (
        Agent(chat_generator=make(), tools=[look_of(10)]) as agent,
        pytest.raises(ContextOverflow) as caught,
    ):
        agent.run("word " * 5_000)
    assert caught.value.limit == WINDOW
    assert caught.value.result is not None


def test_a_landing_fits_too(go: Go) -> None:
    server = Narrow(looking(300, last="Enough: {last}"))
    result = go(server, look_of(1_400), max_agent_steps=12)
    assert result.stop_reason == "max_steps"
    assert result.text


def test_a_hook_of_the_users_may_compact_in_its_place(make: Maker, endpoint: Endpoint) -> None:
    @hook
    def keep_few(state: State) -> None:
        messages: list[ChatMessage] = state.data["messages"]
        if len(messages) > 6:
            state.set("messages", [*messages[:2], *messages[-4:]], handler_override=lambda _, new: new)

    server = Narrow(looking(60))
    endpoint.script(Always(server))
    with Agent(
        chat_generator=make(),
        tools=[look_of(400)],
        system_prompt="You are careful.",
        hooks={"before_llm": [keep_few]},
    ) as agent:
        result = agent.run("Look at all pages.")
    assert (result.stop_reason, server.refused, compactions(result)) == ("answered", 0, [])


@pytest.mark.filterwarnings("ignore::haystack.utils.experimental.ExperimentalWarning")
@pytest.mark.parametrize("compactor", [SlidingWindowCompactor, ToolResultPruningCompactor])
def test_haystacks_own_compaction_works_in_its_place(
    go: Go, compactor: Callable[[], SlidingWindowCompactor | ToolResultPruningCompactor]
) -> None:
    server = Narrow(looking(10), says=False)
    compaction = CompactionHook(compactor(), context_window=WINDOW, compact_at=0.6)
    result = go(server, look_of(2_400), hooks={"before_llm": [compaction]})
    assert (result.text, result.stop_reason) == ("The last was page 10: word word w.", "answered")
    assert (server.refused, server.summaries, compactions(result)) == (0, 0, [])
    assert "page 1: word" not in server.prompts[-1]


def test_what_is_streamed_of_a_summary_is_nothing(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Narrow(looking(60), sums_up="a secret summary")))
    shown: list[str] = []
    with Agent(chat_generator=make(), tools=[look_of(400)]) as agent:
        agent.run("Look at all pages.", lambda chunk: shown.append(chunk.content))
    assert not re.search("secret", "".join(shown))


def test_nor_is_it_to_the_generators_own_callback_or_in_events(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Narrow(looking(60), sums_up="a secret summary")))
    shown: list[str] = []
    heard: list[str] = []
    generator = make(streaming_callback=lambda chunk: shown.append(chunk.content))

    def listen(event: Event) -> None:
        heard.append(event.text if isinstance(event, TextDelta) else "")

    with Agent(chat_generator=generator, tools=[look_of(400)]) as agent:
        agent.run("Look at all pages.", on_event=listen)
    assert "The last was" in "".join(shown) and "The last was" in "".join(heard)
    assert "secret" not in "".join(shown) + "".join(heard)


@pytest.mark.parametrize("words", [10, 200, 2_000])
def test_a_summary_takes_the_place_of_the_one_before(go: Go, words: int) -> None:
    server = Narrow(looking(300), sums_up="word " * words)
    result = go(server, look_of(400))
    assert (result.text, result.stop_reason) == ("The last was page 300: word word .", "answered")
    assert sum("Summary of the earlier" in (message.text or "") for message in result.messages) == 1
    assert server.summaries < 40


def test_the_newest_request_of_a_conversation_stays(make: Maker, endpoint: Endpoint) -> None:
    server = Narrow(looking(60))
    task = "IMPORTANT: look at all pages, and answer in French."
    endpoint.script(Always(server))
    with Agent(chat_generator=make(), tools=[look_of(400)], max_agent_steps=200) as agent:
        first = agent.run("Who are you?", limits=Limits(steps=1))
        result = agent.run(task, messages=first.messages)
    assert compactions(result)
    assert all(task in prompt for prompt in server.prompts if len(json.loads(prompt)) > 4)
    assert sum(message.text == task for message in result.messages) == 1


def test_texts_of_several_bytes_a_character_are_cut_by_their_bytes(go: Go) -> None:
    @tool
    def look(page: int) -> str:
        """Look at a page."""
        return f"page {page}: {'日本語' * 5_000}"

    result = go(Narrow(looking(4), says=False), look)
    assert (result.text, result.stop_reason) == ("The last was page 4: 日本語日本語日本語日本語.", "answered")


def test_a_users_message_that_looks_like_a_summary_stays(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Narrow(looking(100))))
    task = "Summary of the earlier steps of this task, whose messages were removed:\nLook at all pages."
    with Agent(chat_generator=make(), tools=[look_of(400)], max_agent_steps=200) as agent:
        assert agent.run(task).messages[0].text == task


def test_what_shapes_the_answers_doesnt_shape_a_summary(make: Maker, endpoint: Endpoint) -> None:
    asked: list[Request] = []
    server = Narrow(looking(60))

    def answer(request: Request) -> Item:
        asked.append(request)
        return server(request)

    endpoint.script(Always(answer))
    shaping: dict[str, Any] = {"response_format": {"type": "json_object"}, "stop": ["END"], "seed": 3}
    generator = make(generation_kwargs=shaping)
    with Agent(chat_generator=generator, tools=[look_of(400)], max_agent_steps=200) as agent:
        agent.run("Look at all pages.", generation_kwargs={"n": 1, "temperature": 0.5})
    summaries = [request.json for request in asked if is_for_summary(request)]
    assert summaries
    for body in summaries:
        assert body.keys().isdisjoint({"response_format", "stop", "n"})
        assert (body["seed"], body["temperature"]) == (3, 0.5)
        assert body["max_tokens"] > 0
    assert all("response_format" in r.json for r in asked if not is_for_summary(r))


@pytest.mark.parametrize("says", [True, False], ids=["says its window", "doesn't say its window"])
@pytest.mark.parametrize("size", [5_500, 60_000])
def test_the_last_results_are_shortened_where_nothing_else_is_left(go: Go, says: bool, size: int) -> None:
    # Nobody knows the window beforehand, and each result is let through for one of 8,000 tokens or more.
    server = Narrow(looking(3), says=says)
    look = tool(max_result_chars=100_000)(look_of(size).target)
    result = go(server, look)
    assert (result.text, result.stop_reason) == ("The last was page 3: word word wo.", "answered")
    assert result["step_count"] == 4


def test_a_request_that_cant_be_made_smaller_is_sent_once(go: Go) -> None:
    server = Narrow(looking(3))
    with pytest.raises(ContextOverflow):
        go(server, look_of(10), system_prompt="word " * 5_000)
    assert server.refused == 1
