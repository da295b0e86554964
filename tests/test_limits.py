"""No run uses more than its limits allow, and each that a limit ends still lands with an answer."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
from haystack import Pipeline
from haystack.components.agents import Agent as HaystackAgent
from haystack.components.agents.state.state import State
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.hooks import hook
from haystack.tools import AgentTool
from haystack.utils import Secret

from llama_agent import (
    Agent,
    ConfigurationError,
    LastAnswerFailed,
    Limits,
    LlamaAgentError,
    NoteAdded,
    RetryPolicy,
    RunContext,
    RunFinished,
    RunResult,
    ToolFinished,
    ToolStarted,
    tool,
)
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request, Status
from tests.strict_server import faults

Json = dict[str, Any]
Answer = Callable[[Request], Item]

MANY = 10_000
"""Steps: so many that another limit comes first."""
BEST = "As far as I know: 5."
PRICES = {"m": (100.0, 1000.0)}


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@tool
def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


@tool
def fail() -> str:
    """Fail."""
    raise ValueError("the disk is full")


ADD = ("add", {"a": 2, "b": 3})


def fresh(request: Request) -> tuple[str, Json]:
    """A call that no request before it was answered with."""
    return ("add", {"a": len(request.messages), "b": 1})


def calling(*calls: tuple[str, Any]) -> Answer:
    """A model that calls tools as long as it may, and answers when it may not."""

    def answer(request: Request) -> Item:
        return Reply(calls=calls or [fresh(request)]) if "tools" in request.json else Reply(BEST)

    return answer


class Counting:
    """
    A server that counts what it is sent and what it writes, as its usage says, and holds to `max_tokens`.

    :param answer: The model's answer to a request.
    :param bytes_per_token: How it counts.
    :param most: Most requests that it may be sent: one more fails the test.
    :param strict: Whether a history that breaks a rule fails the test too.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        bytes_per_token: float = 4.0,
        most: int | None = None,
        strict: bool = True,
    ) -> None:
        self._answer = answer
        self._ratio = bytes_per_token
        self._most = most
        self._strict = strict
        self._lock = threading.Lock()
        self.read: list[int] = []
        self.written: list[int] = []
        self.began: list[float] = []

    def __call__(self, request: Request) -> Item:
        self.began.append(time.monotonic())
        assert not self._strict or list(faults(request.messages)) == []
        item = self._answer(request)
        with self._lock:
            number = len(self.read) + 1
            assert self._most is None or number <= self._most, f"request {number}, and {self._most} allowed"
            if not isinstance(item, Reply):
                self.read.append(0)
                self.written.append(0)
                return item
            self.read.append(self.tokens(request.json["messages"]) + self.tokens(request.json.get("tools")))
            reply = self._held(item, request.json)
            self.written.append(reply.usage[1])
            return reply

    def tokens(self, sent: object) -> int:
        """So many as there are in what is said in it: keys and punctuation come from the template."""
        return int(len(json.dumps(sent, ensure_ascii=False).encode()) / self._ratio) if sent else 0

    @property
    def total(self) -> int:
        return sum(self.read) + sum(self.written)

    def cost(self, per_in: float, per_out: float) -> float:
        return (sum(self.read) * per_in + sum(self.written) * per_out) / 1_000_000

    def _held(self, reply: Reply, asked: Json) -> Reply:
        most = asked.get("max_tokens") or asked.get("max_completion_tokens") or MANY
        size = len(reply.text or "") + sum(len(json.dumps(call)) for call in reply.calls)
        written = max(1, int(size / self._ratio))
        if written <= most:
            return Reply(
                reply.text,
                calls=reply.calls,
                usage=(self.read[-1], written),
                finish_reason=reply.finish_reason,
                first_pause=reply.first_pause,
                chunk_size=200,
            )
        text = (reply.text or "")[: int(most * self._ratio)]
        return Reply(text, usage=(self.read[-1], most), finish_reason="length", chunk_size=200)


def agent_on(make: Maker, *tools: Any, stream: bool = False, **settings: Any) -> Agent:
    generator = make(generation_kwargs={"stream": True} if stream else {})
    return Agent(
        chat_generator=generator, tools=list(tools or (add,)), **{"max_agent_steps": MANY, **settings}
    )


def run(agent: Agent, *, way: str = "sync", **given: Any) -> RunResult:
    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("Add.", **given)

    if way == "async":
        return asyncio.run(main())
    with agent:
        return agent.run("Add.", **given)


def limited(
    make: Maker,
    endpoint: Endpoint,
    server: Answer,
    *tools: Any,
    way: str = "sync",
    stream: bool = False,
    settings: Json | None = None,
    **limits: Any,
) -> RunResult:
    """A run under limits, on a server that answers for ever."""
    endpoint.script(Always(server))
    agent = agent_on(make, *tools, stream=stream, limits=Limits(**limits), **(settings or {}))
    return run(agent, way=way)


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def of(result: RunResult, kind: type) -> list[Any]:
    return [event for event in result.events if isinstance(event, kind)]


def landed(endpoint: Endpoint) -> list[bool]:
    """For each request, whether it was one for the last answer."""
    return ["tools" not in request.json for request in endpoint.requests]


each_way = pytest.mark.parametrize("way", ["sync", "async"])
each_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


# Each limit, with a model that calls tools for ever.

LIMITS: dict[str, tuple[Json, str]] = {
    "steps": ({"steps": 3}, "max_steps"),
    "model calls": ({"model_calls": 4}, "max_model_calls"),
    "tool calls": ({"tool_calls": 3}, "max_tool_calls"),
    "calls of a tool": ({"calls_per_tool": {"add": 3}}, "max_tool_calls"),
    "input tokens": ({"input_tokens": 3000}, "max_input_tokens"),
    "output tokens": ({"output_tokens": 600}, "max_output_tokens"),
    "all tokens": ({"total_tokens": 3500}, "max_total_tokens"),
    "cost": ({"cost": 1.0, "prices": PRICES}, "max_cost"),
    "seconds": ({"seconds": 1.5}, "max_seconds"),
}
each_limit = pytest.mark.parametrize(("limits", "reason"), LIMITS.values(), ids=LIMITS)


@each_limit
@each_way
@each_stream
def test_a_model_that_calls_for_ever_lands_at_the_limit(
    make: Maker, endpoint: Endpoint, limits: Json, reason: str, way: str, stream: bool
) -> None:
    result = limited(make, endpoint, Counting(calling()), way=way, stream=stream, **limits)
    assert (result.stop_reason, result.text) == (reason, BEST)
    assert result["exit_reason"] == ("max_agent_steps" if reason == "max_steps" else reason)
    assert landed(endpoint) == [False] * (len(endpoint.requests) - 1) + [True]
    assert len(endpoint.requests) > 1
    assert of(result, RunFinished)[0].stop_reason == reason


@each_limit
def test_the_last_answer_is_asked_for_by_a_note(
    make: Maker, endpoint: Endpoint, limits: Json, reason: str
) -> None:
    result = limited(make, endpoint, Counting(calling()), **limits)
    sent = endpoint.requests[-1].messages[-1]
    assert (sent["role"], "answer" in sent["content"].lower()) == ("user", True)
    (note,) = of(result, NoteAdded)
    assert note.text == sent["content"]
    assert [message.role.value for message in result.messages[-2:]] == ["user", "assistant"]


@each_limit
def test_the_landing_is_no_step(make: Maker, endpoint: Endpoint, limits: Json, reason: str) -> None:
    result = limited(make, endpoint, Counting(calling()), **limits)
    # The time may run out within a request, which is no whole step then.
    cut = result.stop_reason == "max_seconds" and result["step_count"] == len(endpoint.requests) - 2
    assert cut or result["step_count"] == len(endpoint.requests) - 1


@each_limit
@each_way
def test_landing_off_makes_no_last_call(
    make: Maker, endpoint: Endpoint, limits: Json, reason: str, way: str
) -> None:
    result = limited(make, endpoint, Counting(calling()), way=way, landing=False, **limits)
    assert (result.stop_reason, result.text) == (reason, "")
    assert not any(landed(endpoint))
    assert of(result, NoteAdded) == of(result, LastAnswerFailed) == []
    assert result.messages[-1].role.value == "tool"


@each_limit
def test_a_limit_of_one_run_is_held_like_the_agents(
    make: Maker, endpoint: Endpoint, limits: Json, reason: str
) -> None:
    endpoint.script(Always(Counting(calling())))
    result = run(agent_on(make), limits=Limits(**limits))
    assert (result.stop_reason, result.text) == (reason, BEST)


@each_limit
def test_a_run_that_keeps_within_its_limits_says_nothing_of_them(
    make: Maker, endpoint: Endpoint, limits: Json, reason: str
) -> None:
    endpoint.script(Counting(calling()), Counting(lambda _: Reply("Five.")))
    result = run(agent_on(make, limits=Limits(**limits)))
    assert (result.text, result.stop_reason, of(result, NoteAdded)) == ("Five.", "answered", [])


@each_limit
def test_no_limits_name_no_limits(make: Maker, endpoint: Endpoint, limits: Json, reason: str) -> None:
    endpoint.script(Reply(calls=[ADD]), Reply("Five."))
    assert run(agent_on(make), limits=Limits()).stop_reason == "answered"
    assert "max_tokens" not in endpoint.requests[0].json


# How far each goes.


@each_way
@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("landing", [True, False])
def test_steps_are_counted_without_the_last_answer(
    make: Maker, endpoint: Endpoint, way: str, most: int, landing: bool
) -> None:
    server = Counting(calling(), most=most + landing)
    result = limited(make, endpoint, server, way=way, steps=most, landing=landing)
    assert (len(endpoint.requests), result["step_count"]) == (most + landing, most)
    assert len(told(result)) == most


def test_steps_take_the_place_of_the_agents_own_number(make: Maker, endpoint: Endpoint) -> None:
    result = limited(make, endpoint, calling(), steps=4, settings={"max_agent_steps": 2})
    assert result["step_count"] == 4


def test_the_agents_own_number_of_steps_lands_too(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Counting(calling(), most=4)))
    result = run(agent_on(make, max_agent_steps=3))
    assert (result["step_count"], result.text, result.stop_reason) == (3, BEST, "max_steps")
    assert result["exit_reason"] == "max_agent_steps"


@each_way
@pytest.mark.parametrize("most", [2, 3, 7])
@pytest.mark.parametrize("landing", [True, False])
def test_model_calls_are_counted_with_the_last_answer(
    make: Maker, endpoint: Endpoint, way: str, most: int, landing: bool
) -> None:
    result = limited(
        make, endpoint, Counting(calling(), most=most), way=way, model_calls=most, landing=landing
    )
    assert (len(endpoint.requests), result.usage.model_calls) == (most, most)
    assert landed(endpoint)[-1] is landing


def test_a_single_model_call_is_the_last_answer(make: Maker, endpoint: Endpoint) -> None:
    result = limited(make, endpoint, Counting(calling(), most=1), model_calls=1)
    assert (result.text, landed(endpoint)) == (BEST, [True])


@each_way
def test_requests_that_are_sent_again_are_one_model_call(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(
        Status(503), Reply(calls=[ADD]), Status(503), Reply(calls=[ADD]), Status(503), Reply(BEST)
    )
    settings = {"retry": RetryPolicy(initial_wait=0.0), "limits": Limits(model_calls=3)}
    result = run(agent_on(make, **settings), way=way)
    assert (result.text, result.stop_reason, result.usage.model_calls) == (BEST, "max_model_calls", 3)


class Counted:
    """A tool that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def look(self, place: str) -> str:
        """Look at a place."""
        self.calls.append(place)
        return f"nothing at {place}"

    def dig(self, place: str) -> str:
        """Dig at a place."""
        self.calls.append(place)
        return f"gold at {place}"


def places(*names: str, of: str = "look") -> list[tuple[str, Json]]:
    return [(of, {"place": name}) for name in names]


@each_way
def test_calls_of_a_reply_beyond_the_limit_are_not_run(make: Maker, endpoint: Endpoint, way: str) -> None:
    tools = Counted()
    server = Counting(calling(*places("a", "b", "c", "d")), most=2)
    result = limited(make, endpoint, server, tools, way=way, tool_calls=2)
    assert sorted(tools.calls) == ["a", "b"]
    assert told(result)[:2] == ["nothing at a", "nothing at b"]
    errors = [r.error for message in result.messages for r in message.tool_call_results]
    assert errors == [False, False, True, True]
    assert all("limit" in text for text in told(result)[2:])
    assert (result.stop_reason, result.text) == ("max_tool_calls", BEST)


@each_way
def test_a_limit_of_one_tool_leaves_the_others(make: Maker, endpoint: Endpoint, way: str) -> None:
    tools = Counted()
    calls = [*places("a", "b"), *places("x", "y", of="dig")]
    result = limited(make, endpoint, calling(*calls), tools, way=way, calls_per_tool={"look": 1})
    assert sorted(tools.calls) == ["a", "x", "y"]
    assert result.stop_reason == "max_tool_calls"


def test_both_limits_of_tools_hold_together(make: Maker, endpoint: Endpoint) -> None:
    tools = Counted()
    calls = [*places("a", "b"), *places("x", "y", "z", of="dig")]
    limited(make, endpoint, calling(*calls), tools, tool_calls=3, calls_per_tool={"look": 1})
    assert sorted(tools.calls) == ["a", "x", "y"]


def test_calls_up_to_the_limit_are_no_reason_to_land(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[ADD, ADD]), Reply("Five, twice."))
    result = run(agent_on(make, limits=Limits(tool_calls=2)))
    assert (result.text, result.stop_reason) == ("Five, twice.", "answered")


@pytest.mark.parametrize("limits", [{"tool_calls": 0}, {"calls_per_tool": {"add": 0}}], ids=["all", "one"])
def test_no_calls_at_all(make: Maker, endpoint: Endpoint, limits: Json) -> None:
    result = limited(make, endpoint, Counting(calling(), most=2), **limits)
    assert of(result, ToolStarted) == []
    assert (result.stop_reason, result.text) == ("max_tool_calls", BEST)


def test_calls_that_fail_count(make: Maker, endpoint: Endpoint) -> None:
    result = limited(make, endpoint, calling(("fail", {})), fail, tool_calls=2)
    assert (result.stop_reason, len(endpoint.requests)) == ("max_tool_calls", 4)


def test_an_exit_tool_beyond_the_limit_doesnt_end_the_run_as_if_it_had_run(
    make: Maker, endpoint: Endpoint
) -> None:
    settings = {"exit_conditions": ["add"]}
    result = limited(make, endpoint, calling(), tool_calls=0, settings=settings)
    assert (result.stop_reason, result.text) == ("max_tool_calls", BEST)


def test_nobody_is_asked_to_approve_a_call_beyond_the_limit(make: Maker, endpoint: Endpoint) -> None:
    class Asked:
        def __init__(self) -> None:
            self.names: list[str] = []

        def needs(self, call: Any, tool: Any) -> bool:
            return True

        def ask(self, call: Any, tool: Any) -> Any:
            self.names.append(call.arguments["place"])
            return None

    asked = Asked()
    limited(
        make,
        endpoint,
        calling(*places("a", "b", "c")),
        Counted(),
        tool_calls=1,
        settings={"approval": asked},
    )
    assert asked.names == ["a"]


# Tokens and cost, as the server counts them.

BOUNDED: dict[str, tuple[Json, Callable[[Counting], float], float]] = {
    "input": ({"input_tokens": 3000}, lambda server: sum(server.read), 3000),
    "output": ({"output_tokens": 700}, lambda server: sum(server.written), 700),
    "total": ({"total_tokens": 4000}, lambda server: server.total, 4000),
    "cost": ({"cost": 1.0, "prices": PRICES}, lambda server: server.cost(*PRICES["m"]), 1.0),
}
each_bound = pytest.mark.parametrize(("limits", "counted", "most"), BOUNDED.values(), ids=BOUNDED)


def long_winded(request: Request) -> Item:
    """A model that writes as much as it may."""
    return Reply("word " * 40_000)


@each_bound
@each_way
@each_stream
def test_what_the_server_counts_is_within_the_limit(
    make: Maker, endpoint: Endpoint, limits: Json, counted: Any, most: float, way: str, stream: bool
) -> None:
    server = Counting(calling())
    result = limited(make, endpoint, server, way=way, stream=stream, **limits)
    assert 0 < counted(server) <= most
    assert result.usage.input_tokens == sum(server.read)
    assert result.usage.output_tokens == sum(server.written)
    assert result["token_usage"]["total_tokens"] == server.total


@each_bound
def test_a_model_that_never_stops_writing_is_held(
    make: Maker, endpoint: Endpoint, limits: Json, counted: Any, most: float
) -> None:
    server = Counting(long_winded)
    result = limited(make, endpoint, server, **limits)
    assert result.text
    assert counted(server) <= most or "input_tokens" not in limits


@pytest.mark.parametrize("name", ["output", "total", "cost"])
def test_an_answer_cut_short_by_a_limit_names_the_limit(make: Maker, endpoint: Endpoint, name: str) -> None:
    limits, counted, most = BOUNDED[name]
    server = Counting(long_winded)
    result = limited(make, endpoint, server, **limits)
    assert (
        result.stop_reason
        == f"max_{name.replace('total', 'total_tokens').replace('output', 'output_tokens')}"
    )
    assert counted(server) <= most


@each_bound
def test_a_model_that_writes_for_ever_at_the_landing_is_held(
    make: Maker, endpoint: Endpoint, limits: Json, counted: Any, most: float
) -> None:
    calls = calling()
    server = Counting(lambda asked: calls(asked) if "tools" in asked.json else long_winded(asked))
    result = limited(make, endpoint, server, **limits)
    assert result.stop_reason.startswith("max_")
    assert landed(endpoint)[-1]
    assert counted(server) <= most or "input_tokens" not in limits


@each_bound
def test_requests_under_a_limit_of_what_is_written_carry_max_tokens(
    make: Maker, endpoint: Endpoint, limits: Json, counted: Any, most: float
) -> None:
    limited(make, endpoint, Counting(calling()), **limits)
    bounds = [request.json.get("max_tokens") for request in endpoint.requests]
    assert all(bounds) or "input_tokens" in limits


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("where", ["generator", "run"])
def test_a_smaller_bound_of_the_callers_is_kept(
    make: Maker, endpoint: Endpoint, name: str, where: str
) -> None:
    endpoint.script(Always(Counting(calling())))
    kwargs = {name: 40}
    generator = make(generation_kwargs=kwargs if where == "generator" else {})
    agent = Agent(chat_generator=generator, tools=[add], limits=Limits(output_tokens=2000), max_agent_steps=5)
    run(agent, generation_kwargs=kwargs if where == "run" else None)
    for request in endpoint.requests:
        bounds = [request.json.get(key) for key in ("max_tokens", "max_completion_tokens")]
        assert [bound for bound in bounds if bound is not None] == [40]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_larger_bound_of_the_callers_is_lowered(make: Maker, endpoint: Endpoint, name: str) -> None:
    server = Counting(calling())
    endpoint.script(Always(server))
    agent = agent_on(make, limits=Limits(output_tokens=700))
    run(agent, generation_kwargs={name: 100_000})
    assert all(
        max(r.json.get("max_tokens") or 0, r.json.get("max_completion_tokens") or 0) <= 700
        for r in endpoint.requests
    )
    assert sum(server.written) <= 700


@each_stream
def test_a_server_that_doesnt_count_is_held_by_what_was_seen(
    make: Maker, endpoint: Endpoint, stream: bool
) -> None:
    def uncounted(request: Request) -> Item:
        calls = [fresh(request)] if "tools" in request.json else ()
        return Reply(None if calls else BEST, calls=calls, no_usage=True)

    result = limited(make, endpoint, uncounted, stream=stream, total_tokens=3500)
    assert (result.stop_reason, result.text) == ("max_total_tokens", BEST)


def test_thoughts_count_where_the_server_doesnt(make: Maker, endpoint: Endpoint) -> None:
    def uncounted(request: Request) -> Item:
        calls = [fresh(request)] if "tools" in request.json else ()
        return Reply(None if calls else BEST, calls=calls, reasoning="Hmm. " * 200, no_usage=True)

    result = limited(make, endpoint, uncounted, output_tokens=2000, settings={"max_agent_steps": 20})
    assert result.stop_reason == "max_output_tokens"


@pytest.mark.parametrize("name", ["input_tokens", "total_tokens", "cost"])
def test_a_prompt_beyond_the_limit_is_never_sent(make: Maker, endpoint: Endpoint, name: str) -> None:
    limits: Json = {"cost": 0.01, "prices": {"*": (100.0, 100.0)}} if name == "cost" else {name: 100}
    with agent_on(make, limits=Limits(**limits)) as agent:
        result = agent.run("Add " + "word " * 2000)
    assert (endpoint.requests, result.text, result.stop_reason) == ([], "", f"max_{name}")
    assert result.messages[0].text is not None


def test_a_last_answer_that_there_is_no_room_for_is_reported(make: Maker, endpoint: Endpoint) -> None:
    with agent_on(make, limits=Limits(input_tokens=100)) as agent:
        result = agent.run("Add " + "word " * 2000)
    assert len(of(result, LastAnswerFailed)) == 1
    assert [message.role.value for message in result.messages] == ["user"]


@each_bound
def test_messages_that_a_hook_puts_in_front_count(
    make: Maker, endpoint: Endpoint, limits: Json, counted: Any, most: float
) -> None:
    times = iter(range(1000))

    @hook
    def remember(state: State) -> None:
        note = ChatMessage.from_system(f"Note {next(times)}: " + "remember this. " * 20)
        state.set("messages", [note, *state.data["messages"]], handler_override=lambda _old, new: new)

    server = Counting(calling())
    settings = {"hooks": {"before_llm": [remember]}}
    result = limited(make, endpoint, server, settings=settings, **limits)
    assert result.stop_reason.startswith("max_")
    assert counted(server) <= most


def test_one_call_asked_for_twice_by_tool_choice_is_within_the_limit(make: Maker, endpoint: Endpoint) -> None:
    server = Counting(long_winded)
    endpoint.script(Always(server))
    agent = agent_on(make, limits=Limits(output_tokens=900))
    result = run(agent, generation_kwargs={"tool_choice": "required"})
    assert sum(server.written) <= 900
    assert result.stop_reason in ("max_output_tokens", "length", "answered")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_the_last_request_demands_no_tool(make: Maker, endpoint: Endpoint, choice: Any) -> None:
    endpoint.script(Always(Counting(calling(), most=3)))
    result = run(agent_on(make, limits=Limits(steps=2)), generation_kwargs={"tool_choice": choice})
    assert (result.text, result.stop_reason) == (BEST, "max_steps")
    assert endpoint.requests[-1].json.get("tool_choice") in (None, "none")


# Usage and cost.


@each_way
@each_stream
def test_the_cost_is_that_of_the_tokens(make: Maker, endpoint: Endpoint, way: str, stream: bool) -> None:
    endpoint.script(Reply(calls=[ADD], usage=(1000, 20)), Reply("Five.", usage=(2000, 30)))
    agent = agent_on(make, stream=stream, limits=Limits(prices={"m": (0.5, 2.0)}))
    assert run(agent, way=way).usage.cost == pytest.approx((3000 * 0.5 + 50 * 2.0) / 1_000_000)


def test_a_price_for_the_model_wins_over_that_for_any(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("Five.", usage=(999_999, 1)))
    prices = {"*": (9.0, 9.0), "m": (1.0, 1.0), "other": (5.0, 5.0)}
    assert run(agent_on(make, limits=Limits(prices=prices))).usage.cost == pytest.approx(1.0)


def test_a_price_for_any_model_is_for_this_too(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("Five.", usage=(999_999, 1)))
    assert run(agent_on(make, limits=Limits(prices={"*": (9.0, 9.0)}))).usage.cost == pytest.approx(9.0)


def test_without_prices_nothing_costs(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("Five."))
    assert run(agent_on(make)).usage.cost == 0


def test_prices_without_one_for_the_model_cost_nothing_unless_there_is_a_limit(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("Five."))
    assert run(agent_on(make, limits=Limits(prices={"other": (9.0, 9.0)}))).usage.cost == 0


@each_way
def test_a_limit_of_cost_without_a_price_for_the_model_is_refused_before_it_is_asked(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    agent = agent_on(make, limits=Limits(cost=1.0, prices={"other": (1.0, 1.0)}))
    with pytest.raises(ConfigurationError, match=r"price.*'m'"):
        run(agent, way=way)
    assert endpoint.requests == []


def test_a_free_model_never_reaches_a_limit_of_cost(make: Maker, endpoint: Endpoint) -> None:
    limits = {"cost": 0.001, "prices": {"m": (0, 0)}}
    result = limited(make, endpoint, calling(), settings={"max_agent_steps": 5}, **limits)
    assert (result.stop_reason, result.usage.cost) == ("max_steps", 0)


def test_the_last_answer_is_in_the_usage(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[ADD], usage=(100, 10)), Reply(BEST, usage=(200, 20)))
    usage = run(agent_on(make, limits=Limits(steps=1, prices=PRICES))).usage
    assert (usage.input_tokens, usage.output_tokens, usage.model_calls) == (300, 30, 2)
    assert usage.cost == pytest.approx((300 * 100 + 30 * 1000) / 1_000_000)


def test_calls_that_were_not_run_are_no_tool_calls_in_the_usage(make: Maker, endpoint: Endpoint) -> None:
    result = limited(make, endpoint, calling(ADD, ADD, ADD), tool_calls=2)
    assert result.usage.tool_calls == 2


def test_a_run_that_failed_tells_what_it_cost(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[ADD], usage=(999_999, 1)), Status(400))
    with pytest.raises(LlamaAgentError) as caught:
        run(agent_on(make, limits=Limits(prices={"*": (1.0, 1.0)})))
    assert caught.value.result is not None
    assert caught.value.result.usage.cost == pytest.approx(1.0)


# Time.


@each_way
@each_stream
def test_a_request_in_flight_is_cut_off_in_time(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Reply(calls=[ADD]), Reply("too late", first_pause=60), Reply(BEST))
    result = run(agent_on(make, stream=stream, limits=Limits(seconds=3)), way=way)
    assert (result.stop_reason, result.text, told(result)) == ("max_seconds", BEST, ["5"])
    assert endpoint.disconnects == 1


@each_way
def test_a_stream_that_falls_silent_is_cut_off_in_time(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("a long story", chunk_size=1, pause=1.5))
    agent = agent_on(make, stream=True, limits=Limits(seconds=2, landing=False))
    began = time.monotonic()
    assert run(agent, way=way).stop_reason == "max_seconds"
    assert time.monotonic() - began < 2 + 0.8


@each_way
def test_a_stream_that_drips_is_cut_off_in_time(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("a long story " * 1000, chunk_size=1, pause=0.02), Reply(BEST))
    result = run(agent_on(make, stream=True, limits=Limits(seconds=3)), way=way)
    assert (result.stop_reason, result.text) == ("max_seconds", BEST)


@each_way
@each_stream
def test_a_last_answer_that_takes_too_long_is_cut_off(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Reply("too late", first_pause=60), Reply("too late too", first_pause=60))
    result = run(agent_on(make, stream=stream, limits=Limits(seconds=0.6)), way=way)
    assert (result.stop_reason, result.text) == ("max_seconds", "")
    assert len(of(result, LastAnswerFailed)) == 1


@each_way
def test_a_tool_that_uses_the_time_up_is_left_behind(make: Maker, endpoint: Endpoint, way: str) -> None:
    @tool
    def work(context: RunContext) -> str:
        """Work until the time is up, and longer."""
        context.cancel.wait(60)
        time.sleep(0.4)
        return "done"

    endpoint.script(Reply(calls=[("work", {})]))
    result = run(agent_on(make, work, limits=Limits(seconds=0.3)), way=way)
    assert (result.stop_reason, result.text) == ("max_seconds", "")
    assert told(result)[0].startswith("Tool 'work' did not finish within 0.")
    assert len(of(result, LastAnswerFailed)) == 1


@each_way
def test_no_request_is_begun_after_the_time(make: Maker, endpoint: Endpoint, way: str) -> None:
    server = Counting(calling())
    began = time.monotonic()
    result = limited(make, endpoint, server, way=way, seconds=0.8)
    assert result.stop_reason == "max_seconds"
    assert all(at - began < 0.8 + 0.2 for at in server.began)


@each_way
@pytest.mark.parametrize("wait", ["retry", "pace"])
def test_a_wait_for_the_server_doesnt_go_beyond_the_time(
    make: Maker, endpoint: Endpoint, way: str, wait: str
) -> None:
    """It may end as a failure: what counts is that the run doesn't sleep on."""
    headers = {"Retry-After": "30"}
    if wait == "pace":
        headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}
    endpoint.script(Always(Status(429, headers=headers)))
    agent = agent_on(make, retry=RetryPolicy(max_retries=3), limits=Limits(seconds=1))
    began = time.monotonic()
    try:
        result = run(agent, way=way)
        assert result.stop_reason == "max_seconds"
    except LlamaAgentError:
        pass
    assert time.monotonic() - began < 5


@each_way
def test_a_limit_of_time_leaves_the_generators_own_retries(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Status(503))
    with pytest.raises(LlamaAgentError):
        run(agent_on(make, limits=Limits(seconds=30)), way=way)
    assert len(endpoint.requests) == 1


def test_a_longer_time_limit_keeps_the_generators_own_timeout(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("late", first_pause=60))
    agent = Agent(chat_generator=make(timeout=0.2), tools=[add], limits=Limits(seconds=50))
    with pytest.raises(LlamaAgentError) as caught:
        run(agent)
    assert caught.value.result is not None
    assert caught.value.result.stop_reason == "failed"


# What the model says last.

LAST_WORDS: dict[str, tuple[Reply, str]] = {
    "a native call": (Reply(calls=[ADD]), ""),
    "a native call with text": (Reply("I would add.", calls=[ADD]), "I would add."),
    "a call as text": (Reply('<function=add>{"a": 2, "b": 3}</function>'), ""),
    "a bare call as text": (Reply('{"name": "add", "parameters": {"a": 2, "b": 3}}'), ""),
    "nothing": (Reply(""), ""),
    "no content": (Reply(None), ""),
    "half an answer": (Reply("I would", finish_reason="length"), "I would"),
    "a filtered answer": (Reply("I", finish_reason="content_filter"), "I"),
    "a refusal": (Reply(None, extra={"refusal": "I won't."}), "I won't."),
    "only reasoning": (Reply(None, reasoning="Hmm."), ""),
}


@each_way
@each_stream
@pytest.mark.parametrize(("reply", "text"), LAST_WORDS.values(), ids=LAST_WORDS)
def test_whatever_the_model_says_last_is_the_end(
    make: Maker, endpoint: Endpoint, reply: Reply, text: str, way: str, stream: bool
) -> None:
    endpoint.script(Reply(calls=[ADD]), reply)
    result = run(agent_on(make, stream=stream, limits=Limits(steps=1)), way=way)
    assert (result.stop_reason, result["exit_reason"]) == ("max_steps", "max_agent_steps")
    assert len(of(result, ToolStarted)) == 1
    assert not result.messages[-1].tool_calls
    if "as text" not in str(reply):
        assert result.text in (text, reply.text or text)


FAILURES: dict[str, Item] = {
    "refused": Status(400, {"error": {"message": "no"}}),
    "unauthorized": Status(401),
    "overloaded": Status(503),
    "gone": Status(404),
    "no JSON": Status(200, "<html>"),
    "nothing in it": Status(200, {"choices": []}),
}


@each_way
@each_stream
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_last_answer_that_fails_raises_nothing(
    make: Maker, endpoint: Endpoint, failure: Item, way: str, stream: bool
) -> None:
    endpoint.script(Reply("Let me see.", calls=[ADD], usage=(70, 7)), failure)
    result = run(agent_on(make, stream=stream, limits=Limits(steps=1)), way=way)
    assert (result.stop_reason, told(result)) == ("max_steps", ["5"])
    assert (result.usage.model_calls, result.usage.input_tokens) == (1, 70)
    (event,) = of(result, LastAnswerFailed)
    assert event.reason
    assert isinstance(result.events[-1], RunFinished)


@each_way
def test_a_last_answer_of_another_generator_that_fails_raises_nothing(endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply(calls=[ADD]), Status(400))
    generator = OpenAIChatGenerator(
        api_key=Secret.from_token("k"), model="m", api_base_url=endpoint.url, max_retries=0
    )
    agent = Agent(chat_generator=generator, tools=[add], limits=Limits(steps=1))
    result = run(agent, way=way)
    assert (result.stop_reason, told(result), len(of(result, LastAnswerFailed))) == ("max_steps", ["5"], 1)


@each_limit
def test_limits_hold_for_another_generator(endpoint: Endpoint, limits: Json, reason: str) -> None:
    endpoint.script(Always(Counting(calling(), strict=False)))
    generator = OpenAIChatGenerator(
        api_key=Secret.from_token("k"), model="m", api_base_url=endpoint.url, max_retries=0
    )
    agent = Agent(chat_generator=generator, tools=[add], limits=Limits(**limits), max_agent_steps=MANY)
    result = run(agent)
    assert (result.stop_reason, result.text) == (reason, BEST)


def test_a_callback_hears_the_last_answer(make: Maker, endpoint: Endpoint) -> None:
    chunks: list[StreamingChunk] = []
    endpoint.script(Reply(calls=[ADD]), Reply(BEST))
    run(agent_on(make, limits=Limits(steps=1)), streaming_callback=chunks.append)
    assert "".join(chunk.content for chunk in chunks) == BEST


def test_a_result_that_a_limit_ended_can_be_gone_on_with(make: Maker, endpoint: Endpoint) -> None:
    with agent_on(make, limits=Limits(steps=1)) as agent:
        endpoint.script(Reply(calls=[ADD]), Reply(BEST))
        first = agent.run("Add.")
        endpoint.script(Always(Counting(calling(), most=2)))
        second = agent.run("Go on.", messages=first.messages)
    assert (second.stop_reason, second.text, second["step_count"]) == ("max_steps", BEST, 1)
    assert list(faults(endpoint.requests[-1].messages)) == []


def test_a_limit_is_no_failure_of_a_tool(make: Maker, endpoint: Endpoint) -> None:
    settings = {"raise_on_tool_invocation_failure": True}
    result = limited(make, endpoint, Counting(calling()), tool_calls=2, settings=settings)
    assert (result.stop_reason, result.text) == ("max_tool_calls", BEST)


@each_bound
@each_stream
def test_limits_hold_where_tools_are_offered_in_the_prompt(
    make: Maker, endpoint: Endpoint, limits: Json, counted: Any, most: float, stream: bool
) -> None:
    def answer(request: Request) -> Item:
        prompt = "".join(m["content"] for m in request.messages if m["role"] == "system")
        call = {"name": "add", "parameters": {"a": len(request.messages), "b": 1}}
        return Reply(json.dumps(call) if "add" in prompt else BEST)

    server = Counting(answer)
    endpoint.script(Always(server))
    generator = make(tool_mode="prompted", generation_kwargs={"stream": stream})
    agent = Agent(chat_generator=generator, tools=[add], max_agent_steps=MANY, limits=Limits(**limits))
    result = run(agent)
    assert (result.text, told(result) != []) == (BEST, True)
    assert result.stop_reason.startswith("max_")
    assert counted(server) <= most


@each_limit
def test_each_run_has_the_whole_of_its_limits(
    make: Maker, endpoint: Endpoint, limits: Json, reason: str
) -> None:
    if "seconds" in limits:
        pytest.skip("how many calls fit into half a second varies")
    endpoint.script(Always(Counting(calling())))
    with agent_on(make, limits=Limits(**limits)) as agent:
        counts = [len(agent.run("Add.").messages) for _ in range(3)]
    assert len(set(counts)) == 1


def test_runs_beside_each_other_have_limits_of_their_own(make: Maker, endpoint: Endpoint) -> None:
    async def main() -> list[RunResult]:
        async with agent_on(make, limits=Limits(model_calls=3)) as agent:
            return await asyncio.gather(*(agent.run_async("Add.") for _ in range(5)))

    endpoint.script(Always(Counting(calling(), most=15)))
    assert [result.usage.model_calls for result in asyncio.run(main())] == [3] * 5


# The agent's and the run's.


def test_what_a_run_names_wins_and_the_rest_stays(make: Maker, endpoint: Endpoint) -> None:
    agent = agent_on(make, limits=Limits(model_calls=9, tool_calls=2))
    endpoint.script(Always(calling()))
    with agent:
        assert agent.run("Add.", limits=Limits(model_calls=2)).stop_reason == "max_model_calls"
        assert agent.run("Add.", limits=Limits(steps=1)).stop_reason == "max_steps"
        assert agent.run("Add.", limits=Limits(model_calls=20)).stop_reason == "max_tool_calls"
        assert agent.run("Add.").stop_reason == "max_tool_calls"
    assert agent.limits == Limits(model_calls=9, tool_calls=2)


def test_a_run_that_says_nothing_of_landing_leaves_it_off(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Counting(calling(), most=2)))
    result = run(agent_on(make, limits=Limits(landing=False)), limits=Limits(steps=2))
    assert (result.text, len(endpoint.requests)) == ("", 2)


def test_a_run_can_switch_landing_off(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Counting(calling(), most=2)))
    result = run(agent_on(make, limits=Limits(steps=2)), limits=Limits(landing=False))
    assert (result.text, len(endpoint.requests)) == ("", 2)


def test_a_run_can_limit_its_cost_at_the_agents_prices(make: Maker, endpoint: Endpoint) -> None:
    server = Counting(calling())
    endpoint.script(Always(server))
    result = run(agent_on(make, limits=Limits(prices=PRICES, cost=50.0)), limits=Limits(cost=1.0))
    assert result.stop_reason == "max_cost"
    assert server.cost(*PRICES["m"]) <= 1.0


# Construction.

WRONG: dict[str, tuple[Json, str]] = {
    "no steps": ({"steps": 0}, "steps"),
    "negative calls": ({"model_calls": -1}, "model_calls"),
    "no model calls": ({"model_calls": 0}, "model_calls"),
    "negative tool calls": ({"tool_calls": -1}, "tool_calls"),
    "half a step": ({"steps": 1.5}, "steps"),
    "a text": ({"input_tokens": "100"}, "input_tokens"),
    "a truth": ({"output_tokens": True}, "output_tokens"),
    "no tokens": ({"total_tokens": 0}, "total_tokens"),
    "negative calls of a tool": ({"calls_per_tool": {"add": -1}}, "add"),
    "half a call of a tool": ({"calls_per_tool": {"add": 0.5}}, "add"),
    "calls of a tool as a number": ({"calls_per_tool": 3}, "calls_per_tool"),
    "calls of tools as a list": ({"calls_per_tool": ["add"]}, "calls_per_tool"),
    "no cost": ({"cost": 0, "prices": PRICES}, "cost"),
    "an infinite cost": ({"cost": float("inf"), "prices": PRICES}, "cost"),
    "a cost that is none": ({"cost": float("nan"), "prices": PRICES}, "cost"),
    "one price": ({"prices": {"m": 1.0}}, "prices"),
    "three prices": ({"prices": {"m": (1.0, 2.0, 3.0)}}, "prices"),
    "a negative price": ({"prices": {"m": (1.0, -2.0)}}, "prices"),
    "a price that is none": ({"prices": {"m": (1.0, float("nan"))}}, "prices"),
    "an infinite price": ({"prices": {"m": (float("inf"), 1.0)}}, "prices"),
    "prices as text": ({"prices": {"m": ("1", "2")}}, "prices"),
    "prices of nothing": ({"prices": (1.0, 2.0)}, "prices"),
    "no time": ({"seconds": 0}, "seconds"),
    "negative time": ({"seconds": -1.0}, "seconds"),
    "endless time": ({"seconds": float("inf")}, "seconds"),
    "time as text": ({"seconds": "60"}, "seconds"),
    "time as a truth": ({"seconds": True}, "seconds"),
    "landing as text": ({"landing": "no"}, "landing"),
}


@pytest.mark.parametrize(("given", "name"), WRONG.values(), ids=WRONG)
def test_what_cant_be_a_limit_is_refused_at_once(given: Json, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Limits(**given)


def test_limits_are_named() -> None:
    with pytest.raises(TypeError):
        Limits(3)  # type: ignore[misc]


@pytest.mark.parametrize("given", [{"steps": 3}, 3, Limits], ids=["dict", "number", "class"])
def test_an_agent_takes_limits_only(make: Maker, given: Any) -> None:
    with pytest.raises(ConfigurationError, match="Limits"):
        agent_on(make, limits=given)


@pytest.mark.parametrize("given", [{"steps": 3}, 3, Limits], ids=["dict", "number", "class"])
def test_a_run_takes_limits_only(make: Maker, given: Any) -> None:
    with agent_on(make) as agent, pytest.raises(ConfigurationError, match="Limits"):
        agent.run("Add.", limits=given)


def test_a_key_of_the_state_cant_be_called_limits(make: Maker) -> None:
    with pytest.raises(ConfigurationError, match="limits"):
        agent_on(make, state_schema={"limits": {"type": int}})


def test_limits_dont_change_with_what_they_were_made_of() -> None:
    calls = {"add": 3}
    limits = Limits(calls_per_tool=calls)
    with pytest.raises(AttributeError):
        limits.steps = 3  # type: ignore[misc]
    assert limits == Limits(calls_per_tool={"add": 3})


# Saved and loaded.

ALL = Limits(
    steps=9,
    model_calls=8,
    tool_calls=7,
    calls_per_tool={"add": 6},
    input_tokens=5000,
    output_tokens=4000,
    total_tokens=8000,
    cost=0.5,
    prices={"m": (0.1, 0.2), "*": (1, 2)},
    seconds=60,
    landing=False,
)


@pytest.mark.parametrize("limits", [ALL, Limits(landing=False), Limits(prices=PRICES), Limits(), None])
def test_limits_survive_json(make: Maker, limits: Limits | None) -> None:
    data = json.loads(json.dumps(Agent(chat_generator=make(), limits=limits).to_dict()))
    loaded = Agent.from_dict(data)
    assert loaded.limits == (limits or Limits())
    assert json.loads(json.dumps(loaded.to_dict())) == data


def test_limits_survive_yaml(make: Maker, endpoint: Endpoint) -> None:
    pipeline = Pipeline()
    pipeline.add_component("agent", Agent(chat_generator=make(), limits=ALL))
    loaded = Pipeline.loads(pipeline.dumps())
    agent = loaded.get_component("agent")
    assert agent.limits == ALL
    assert loaded.dumps() == pipeline.dumps()


def test_an_agent_that_was_loaded_keeps_within_its_limits(make: Maker, endpoint: Endpoint) -> None:
    data = Agent(chat_generator=make(), limits=Limits(cost=1.0, prices=PRICES)).to_dict()
    server = Counting(calling())
    endpoint.script(Always(server))
    with Agent.from_dict(json.loads(json.dumps(data))) as agent:
        assert agent.run("Add.", tools=[add]).stop_reason == "max_cost"
    assert server.cost(*PRICES["m"]) <= 1.0


def test_an_agent_that_was_saved_before_there_were_limits_loads(make: Maker) -> None:
    data = Agent(chat_generator=make()).to_dict()
    data["init_parameters"].pop("limits")
    assert Agent.from_dict(data).limits == Limits()


def test_a_clone_has_the_same_limits(make: Maker) -> None:
    agent = agent_on(make, limits=Limits(steps=3))
    assert agent.clone().limits == Limits(steps=3)
    assert agent.clone(limits=Limits(steps=4)).limits == Limits(steps=4)


# Hooks at a landing.


def test_before_llm_hooks_run_before_the_last_answer_too(make: Maker, endpoint: Endpoint) -> None:
    seen: list[tuple[int, str]] = []

    @hook
    def look(state: State) -> None:
        seen.append((len(state.data["messages"]), state.data["messages"][-1].role.value))

    endpoint.script(Reply(calls=[ADD]), Reply(BEST))
    run(agent_on(make, hooks={"before_llm": [look]}, limits=Limits(steps=1)))
    assert seen == [(1, "user"), (4, "user")]


def test_a_before_llm_hook_can_shorten_what_the_last_answer_is_made_of(
    make: Maker, endpoint: Endpoint
) -> None:
    @hook
    def last_only(state: State) -> None:
        state.set("messages", state.data["messages"][-1:], handler_override=lambda _old, new: new)

    endpoint.script(Reply(calls=[ADD]), Reply(BEST))
    result = run(agent_on(make, hooks={"before_llm": [last_only]}, limits=Limits(steps=1)))
    assert (len(endpoint.requests[-1].messages), result.text) == (1, BEST)


def test_a_before_llm_hook_that_stops_the_run_stops_the_last_call_too(
    make: Maker, endpoint: Endpoint
) -> None:
    @hook
    def stop(state: State) -> None:
        if len(state.data["messages"]) > 1:
            state.set("stop_run", "enough")

    endpoint.script(Reply(calls=[ADD]))
    result = run(agent_on(make, hooks={"before_llm": [stop]}, limits=Limits(steps=1)))
    assert (len(endpoint.requests), result.text) == (1, "")


def test_an_on_exit_hook_doesnt_prolong_a_run_beyond_its_limit(make: Maker, endpoint: Endpoint) -> None:
    @hook
    def again(state: State) -> None:
        state.set("continue_run", True)

    server = Counting(lambda _: Reply("Five."), most=3)
    endpoint.script(Always(server))
    result = run(agent_on(make, hooks={"on_exit": [again]}, limits=Limits(model_calls=3)))
    assert (result.stop_reason, len(endpoint.requests)) == ("max_model_calls", 3)


def test_after_run_hooks_see_why_it_ended(make: Maker, endpoint: Endpoint) -> None:
    seen: list[Any] = []

    @hook
    def look(state: State) -> None:
        seen.append((state.data["exit_reason"], state.data["messages"][-1].text))

    endpoint.script(Reply(calls=[ADD]), Reply(BEST))
    run(agent_on(make, hooks={"after_run": [look]}, limits=Limits(tool_calls=0)))
    assert seen == [("max_tool_calls", BEST)]


def test_a_step_count_that_a_hook_restored_counts(make: Maker, endpoint: Endpoint) -> None:
    @hook
    def restore(state: State) -> None:
        state.set("step_count", 2)

    endpoint.script(Reply(calls=[ADD]), Reply(BEST))
    result = run(agent_on(make, hooks={"before_run": [restore]}, limits=Limits(steps=3)))
    assert (result["step_count"], result.text) == (3, BEST)


def test_mistakes_land_within_the_limits(make: Maker, endpoint: Endpoint) -> None:
    wrong = calling(("add", {"a": "two"}))
    result = limited(make, endpoint, Counting(wrong, most=7), model_calls=7)
    assert result.text == BEST
    assert result.stop_reason in ("mistakes", "max_model_calls")


# Sub-agents.


def delegate(number: int) -> Json:
    """Arguments of an `AgentTool`."""
    return {"messages": [{"role": "user", "content": f"2+3? Task {number}."}]}


INNER = "The inner one knows: 5."


def is_inner(request: Request) -> bool:
    return any("2+3?" in str(m["content"]) for m in request.messages if m["role"] == "user")


def sub_agent(make: Maker, *tools: Any, name: str = "research", **settings: Any) -> AgentTool:
    return AgentTool(
        agent=agent_on(make, *tools, **settings), name=name, description="Delegate sums to another."
    )


def family(inner: Answer | None = None, *, calls: Sequence[str] = ("research",), times: int = MANY) -> Answer:
    """A model that delegates (so many times), to one that calls tools for ever."""
    number = count()

    def answer(request: Request) -> Item:
        tools = "tools" in request.json
        if is_inner(request):
            return inner(request) if inner else Reply(calls=[fresh(request)]) if tools else Reply(INNER)
        if not tools or (task := next(number)) >= times:
            return Reply(BEST)
        return Reply(calls=[(name, delegate(task)) for name in calls])

    return answer


def looking(request: Request) -> Item:
    """A model that looks at another place each time."""
    return Reply(calls=places(str(len(request.messages)))) if "tools" in request.json else Reply(INNER)


def inner_requests(endpoint: Endpoint) -> list[Request]:
    return [request for request in endpoint.requests if is_inner(request)]


@each_way
def test_a_sub_agent_lands_at_its_own_limit(make: Maker, endpoint: Endpoint, way: str) -> None:
    inner = sub_agent(make, limits=Limits(model_calls=3))
    endpoint.script(Always(Counting(family(times=1), most=5)))
    result = run(agent_on(make, inner), way=way)
    assert (result.text, result.stop_reason) == (BEST, "answered")
    assert INNER in told(result)[0]
    assert len(inner_requests(endpoint)) == 3


@each_way
@pytest.mark.parametrize("most", [3, 4, 6, 9])
def test_a_sub_agent_keeps_within_the_calls_left_of_the_run_above(
    make: Maker, endpoint: Endpoint, way: str, most: int
) -> None:
    endpoint.script(Always(Counting(family(), most=most)))
    result = run(agent_on(make, sub_agent(make), limits=Limits(model_calls=most)), way=way)
    assert (result.text, result.stop_reason) == (BEST, "max_model_calls")
    assert not is_inner(endpoint.requests[-1])


@each_way
@pytest.mark.parametrize("most", [2, 3, 5])
def test_tool_calls_of_a_sub_agent_count_above(make: Maker, endpoint: Endpoint, way: str, most: int) -> None:
    ran = Counted()
    server = family(looking)
    endpoint.script(Always(server))
    result = run(agent_on(make, sub_agent(make, ran), limits=Limits(tool_calls=most)), way=way)
    assert (result.text, result.stop_reason, len(ran.calls)) == (BEST, "max_tool_calls", most - 1)


def test_calls_of_a_tool_count_in_sub_agents_too(make: Maker, endpoint: Endpoint) -> None:
    ran = Counted()
    server = family(looking, times=3)
    endpoint.script(Always(server))
    result = run(agent_on(make, sub_agent(make, ran), limits=Limits(calls_per_tool={"look": 2})))
    assert len(ran.calls) == 2
    assert result.text == BEST


@each_way
@each_bound
def test_tokens_and_cost_of_a_sub_agent_count_above(
    make: Maker, endpoint: Endpoint, limits: Json, counted: Any, most: float, way: str
) -> None:
    server = Counting(family())
    endpoint.script(Always(server))
    result = run(agent_on(make, sub_agent(make), limits=Limits(**limits)), way=way)
    assert result.stop_reason.startswith("max_")
    assert result.text == BEST
    assert 0 < counted(server) <= most


@each_bound
def test_the_run_above_still_lands_where_its_conversation_is_the_longer(
    make: Maker, endpoint: Endpoint, limits: Json, counted: Any, most: float
) -> None:
    server = Counting(family())
    endpoint.script(Always(server))
    with agent_on(make, sub_agent(make), limits=Limits(**limits)) as agent:
        result = agent.run("Add. " + "word " * 600)
    assert counted(server) <= most
    assert result.text == BEST


@each_way
def test_the_time_of_a_sub_agent_is_that_of_the_run_above(make: Maker, endpoint: Endpoint, way: str) -> None:
    server = family(lambda _: Reply("too late", first_pause=60))
    endpoint.script(Always(server))
    result = run(agent_on(make, sub_agent(make), limits=Limits(seconds=2)), way=way)
    assert result.stop_reason == "max_seconds"
    assert result.text == BEST


def test_steps_of_a_sub_agent_are_its_own(make: Maker, endpoint: Endpoint) -> None:
    inner = sub_agent(make, limits=Limits(steps=5))
    endpoint.script(Always(Counting(family(), most=15)))
    result = run(agent_on(make, inner, limits=Limits(steps=2)))
    assert (result["step_count"], len(inner_requests(endpoint))) == (2, 12)


def test_a_stricter_sub_agent_keeps_its_own_limits_each_time(make: Maker, endpoint: Endpoint) -> None:
    inner = sub_agent(make, limits=Limits(model_calls=2))
    endpoint.script(Always(Counting(family(), most=11)))
    result = run(agent_on(make, inner, limits=Limits(model_calls=11)))
    assert (result.text, result.stop_reason) == (BEST, "max_model_calls")


@each_way
@pytest.mark.parametrize("most", [4, 5, 6, 8, 11])
def test_nested_sub_agents_keep_within_what_is_left_at_the_top(
    make: Maker, endpoint: Endpoint, way: str, most: int
) -> None:
    def answer(request: Request) -> Item:
        offered = [each["function"]["name"] for each in request.json.get("tools", [])]
        if not offered:
            return Reply(BEST)
        return Reply(
            calls=[fresh(request) if offered == ["add"] else (offered[0], delegate(len(request.messages)))]
        )

    lowest = sub_agent(make, name="low", limits=Limits(model_calls=3))
    middle = sub_agent(make, lowest, name="middle")
    endpoint.script(Always(Counting(answer, most=most)))
    result = run(agent_on(make, middle, limits=Limits(model_calls=most)), way=way)
    assert (result.text, result.stop_reason) == (BEST, "max_model_calls")


@each_way
@pytest.mark.parametrize("side_by_side", [2, 4])
@pytest.mark.parametrize("name", ["calls", *BOUNDED])
def test_sub_agents_side_by_side_exceed_nothing(
    make: Maker, endpoint: Endpoint, way: str, side_by_side: int, name: str
) -> None:
    names = [f"research_{number}" for number in range(side_by_side)]
    limits, counted, most = BOUNDED.get(name, ({"model_calls": 9}, lambda server: len(server.read), 9))
    server = Counting(family(calls=names))
    endpoint.script(Always(server))
    tools = [sub_agent(make, name=name) for name in names]
    agent = agent_on(make, *tools, limits=Limits(**limits), tool_concurrency_limit=side_by_side)
    result = run(agent, way=way)
    assert result.stop_reason.startswith("max_")
    assert 0 < counted(server) <= most
    assert result.text == BEST


@each_way
def test_sub_agents_side_by_side_share_the_tool_calls(make: Maker, endpoint: Endpoint, way: str) -> None:
    ran = [Counted() for _ in range(3)]
    names = [f"research_{number}" for number in range(3)]
    server = family(looking, calls=names)
    endpoint.script(Always(server))
    tools = [sub_agent(make, each, name=name) for name, each in zip(names, ran, strict=True)]
    run(agent_on(make, *tools, limits=Limits(tool_calls=10)), way=way)
    assert sum(len(each.calls) for each in ran) == 7


def test_the_cost_of_a_sub_agent_is_in_that_of_the_run_above(make: Maker, endpoint: Endpoint) -> None:
    server = Counting(family(times=1))
    endpoint.script(Always(server))
    inner = sub_agent(make, limits=Limits(steps=2))
    result = run(agent_on(make, inner, limits=Limits(prices=PRICES)))
    assert result.usage.cost == pytest.approx(server.cost(*PRICES["m"]))


def test_the_cost_of_a_sub_agent_that_ends_the_run_is_in_it_too(make: Maker, endpoint: Endpoint) -> None:
    server = Counting(family(times=1))
    endpoint.script(Always(server))
    inner = sub_agent(make, limits=Limits(steps=2))
    agent = agent_on(make, inner, limits=Limits(prices=PRICES), exit_conditions=["research"])
    result = run(agent)
    assert result.stop_reason == "tool"
    assert result.usage.cost == pytest.approx(server.cost(*PRICES["m"]))


def test_the_cost_of_a_sub_agent_is_in_it_where_the_last_answer_fails(
    make: Maker, endpoint: Endpoint
) -> None:
    family_ = family()
    server = Counting(lambda r: family_(r) if is_inner(r) or "tools" in r.json else Status(400))
    endpoint.script(Always(server))
    result = run(
        agent_on(make, sub_agent(make, limits=Limits(steps=2)), limits=Limits(steps=1, prices=PRICES))
    )
    assert len(of(result, LastAnswerFailed)) == 1
    assert result.usage.cost == pytest.approx(server.cost(*PRICES["m"]))


def test_what_a_run_spent_doesnt_count_in_the_next(make: Maker, endpoint: Endpoint) -> None:
    inner = agent_on(make, limits=Limits(model_calls=4))
    endpoint.script(Always(Counting(family())))
    tool_ = AgentTool(agent=inner, name="research", description="Delegate.")
    with agent_on(make, tool_, limits=Limits(model_calls=3)) as outer:
        outer.run("Add.")
    with inner:
        assert inner.run("2+3?").usage.model_calls == 4


def test_haystacks_own_agent_above_sets_no_limits(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Counting(family(times=1), most=5)))
    inner = sub_agent(make, limits=Limits(steps=2))
    outer = HaystackAgent(chat_generator=make(), tools=[inner])
    result = outer.run([ChatMessage.from_user("Add.")])
    outer.close()
    assert result["last_message"].text == BEST


def test_an_agent_run_by_an_ordinary_tool_is_a_sub_agent_too(make: Maker, endpoint: Endpoint) -> None:
    with agent_on(make) as inner:

        @tool
        def research() -> str:
            """Delegate to another."""
            return inner.run("2+3?").text

        def answer(request: Request) -> Item:
            if "tools" not in request.json:
                return Reply(BEST)
            return Reply(calls=[fresh(request) if is_inner(request) else ("research", {})])

        endpoint.script(Always(Counting(answer, most=6)))
        result = run(agent_on(make, research, limits=Limits(model_calls=6)))
    assert (result.text, result.stop_reason) == (BEST, "max_model_calls")


def test_a_sub_agent_that_failed_leaves_its_share(make: Maker, endpoint: Endpoint) -> None:
    calls = iter(range(100))

    def answer(request: Request) -> Item:
        if is_inner(request):
            return Status(400)
        return Reply(calls=[("research", delegate(0))]) if next(calls) < 2 else Reply("Five.")

    endpoint.script(Always(answer))
    result = run(agent_on(make, sub_agent(make), limits=Limits(total_tokens=20_000)))
    assert (result.text, result.stop_reason) == ("Five.", "answered")


def test_no_limits_are_left_over_in_the_thread(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("fail", {})]), Status(400))
    with pytest.raises(LlamaAgentError):
        run(agent_on(make, fail, limits=Limits(model_calls=2, landing=False)))
    endpoint.script(*[Reply(calls=[ADD])] * 3, Reply("Five."))
    assert run(agent_on(make)).text == "Five."


# By chance.


class Chance:
    """A model that calls tools, one or several, and writes little or much, as dice say."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Item:
        with self._lock:
            length = self.dice.choice([1, 5, 40, 400])
            tools = [each["function"]["name"] for each in request.json.get("tools", [])]
            if not tools:
                return Reply("word " * self.dice.choice([1, 20, 2000]))
            calls = [self._call(self.dice.choice(tools), length) for _ in range(self.dice.randint(1, 4))]
            return Reply(self.dice.choice([None, "Let me see. " * length]), calls=calls)

    def _call(self, name: str, length: int) -> tuple[str, Json]:
        match name:
            case "add":
                return name, {"a": self.dice.randint(0, 9), "b": self.dice.randint(0, 9)}
            case "shout":
                return name, {"text": "äh " * min(length, 20)}
            case _:
                return name, delegate(self.dice.randint(0, 99))


@pytest.mark.parametrize("seed", range(60))
def test_by_chance_no_limit_is_exceeded(make: Maker, endpoint: Endpoint, seed: int) -> None:
    dice = random.Random(seed)
    limits: Json = {
        "model_calls": dice.randint(1, 12),
        "tool_calls": dice.randint(0, 20),
        "input_tokens": dice.randint(200, 20_000),
        "output_tokens": dice.randint(50, 5000),
        "total_tokens": dice.randint(500, 25_000),
        "cost": dice.uniform(0.05, 5.0),
    }
    named = {name: limits[name] for name in dice.sample(sorted(limits), dice.randint(1, 3))}
    prices = {"m": (dice.uniform(0, 200), dice.uniform(0, 1000))}
    server = Counting(Chance(seed), bytes_per_token=dice.uniform(3.5, 6))
    endpoint.script(Always(server))
    inner = sub_agent(make, add, shout, max_agent_steps=dice.randint(1, 5))
    tools = [add, shout, *([inner] if dice.random() < 0.5 else [])]
    agent = agent_on(
        make,
        *tools,
        stream=dice.random() < 0.5,
        max_agent_steps=25,
        limits=Limits(prices=prices, landing=dice.random() < 0.7, **named),
    )
    result = run(agent, way=dice.choice(["sync", "async"]))
    spent: Json = {
        "model_calls": len(server.read),
        "input_tokens": sum(server.read),
        "output_tokens": sum(server.written),
        "total_tokens": server.total,
        "cost": server.cost(*prices["m"]),
        "tool_calls": len([e for e in of(result, ToolFinished) if "limit" not in str(e)]),
    }
    for name, most in named.items():
        assert spent[name] <= most + 1e-9, f"{name}: {spent[name]} of {most}"
