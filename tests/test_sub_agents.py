"""An agent as another's tool: its limits, its cancellation, its events and its results."""

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.dataclasses import ChatMessage
from haystack.tools.tool import Tool

from llama_agent import (
    Agent,
    CancelToken,
    ConfigurationError,
    Event,
    Limits,
    ModelReplied,
    ModelRequested,
    RunContext,
    RunFinished,
    RunResult,
    RunStarted,
    SubAgentEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    tool,
)
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request, Status

PATIENCE = 10.0
"""Seconds after which something that should have happened counts as never happening."""
MANY = 10_000
SLOW = Reply("too late", first_pause=60)

Line = Item | Callable[[Request], Item]
Part = Sequence[Line] | Callable[[Request], Item]

each_way = pytest.mark.parametrize("way", ["sync", "async"])


def perform(endpoint: Endpoint, **parts: Part) -> None:
    """
    Give the models of several agents their parts. Each agent is known by its system prompt; in each of its
    conversations it says its lines one after another, or what a function answers.
    """

    def answer(request: Request) -> Item:
        part = parts[request.messages[0]["content"]]
        if callable(part):
            return part(request)
        line = part[sum(message["role"] == "assistant" for message in request.messages)]
        return line(request) if callable(line) else line

    endpoint.script(Always(answer))


def agent_on(make: Maker, name: str, *tools: Any, **settings: Any) -> Agent:
    return Agent(chat_generator=make(), tools=list(tools), system_prompt=name, **settings)


def researcher(make: Maker, *tools: Any, **settings: Any) -> Tool:
    return agent_on(make, "inner", *tools, **settings).as_tool("research", "Find things out.")


def run(agent: Agent, way: str = "sync", **settings: Any) -> RunResult:
    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("Go.", **settings)

    if way == "async":
        return asyncio.run(main())
    with agent:
        return agent.run("Go.", **settings)


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


def research(*tasks: str) -> Reply:
    return Reply(calls=[("research", {"task": task}) for task in tasks or ["2+3?"]])


ADD = Reply(calls=[("add", {"a": 2, "b": 3})])


def adding(request: Request) -> Item:
    """A model that adds for ever, each time something else."""
    if "tools" not in request.json:
        return Reply("About five.")
    return Reply(calls=[("add", {"a": len(request.messages), "b": 3})])


def delegating(request: Request) -> Item:
    """A model that delegates for ever."""
    return research(f"task {len(request.messages)}") if "tools" in request.json else Reply("That is all.")


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def requests_of(endpoint: Endpoint, name: str) -> list[Request]:
    return [request for request in endpoint.requests if request.messages[0]["content"] == name]


# What the model above sees.


def test_it_is_a_tool_with_a_task(make: Maker) -> None:
    made = researcher(make)
    assert isinstance(made, Tool)
    assert (made.name, made.description) == ("research", "Find things out.")
    assert (list(made.parameters["properties"]), made.parameters["required"]) == (["task"], ["task"])
    assert made.parameters["properties"]["task"]["type"] == "string"


@each_way
def test_its_text_is_the_result(make: Maker, endpoint: Endpoint, way: str) -> None:
    perform(endpoint, outer=[research("What is 2+3?"), Reply("Five.")], inner=[ADD, Reply("It is 5.")])
    result = run(agent_on(make, "outer", researcher(make, add)), way)
    assert (result.text, told(result)) == ("Five.", ["It is 5."])


@each_way
def test_it_knows_its_task_and_nothing_of_the_conversation_above(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    perform(endpoint, outer=[research("one"), research("two"), Reply("Done.")], inner=[Reply("Yes.")])
    run(agent_on(make, "outer", researcher(make)), way)
    asked = [[(m["role"], m["content"]) for m in r.messages] for r in requests_of(endpoint, "inner")]
    assert asked == [[("system", "inner"), ("user", task)] for task in ("one", "two")]


@dataclass
class Point:
    x: int
    y: int


@each_way
def test_an_answer_of_a_type_comes_as_json(make: Maker, endpoint: Endpoint, way: str) -> None:
    answer = Reply('Here:\n```json\n{"x": 1, "y": 2}\n```')
    perform(endpoint, outer=[research(), Reply("Done.")], inner=[answer])
    result = run(agent_on(make, "outer", researcher(make, output_type=Point)), way)
    assert json.loads(told(result)[0]) == {"x": 1, "y": 2}


def test_the_result_of_a_tool_that_ends_it_is_its_result(make: Maker, endpoint: Endpoint) -> None:
    perform(endpoint, outer=[research(), Reply("Done.")], inner=[ADD])
    assert told(run(agent_on(make, "outer", researcher(make, add, exit_conditions=["add"])))) == ["5"]


@each_way
def test_its_async_tools_run_on_the_loop_of_the_run_above(make: Maker, endpoint: Endpoint, way: str) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> RunResult:
        loops.append(asyncio.get_running_loop())
        async with agent_on(make, "outer", researcher(make, add)) as agent:
            return await agent.run_async("Go.")

    @tool
    async def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        loops.append(asyncio.get_running_loop())
        return a + b

    def answer(request: Request) -> Item:
        return Reply(f"It is {request.messages[-1]['content']}.")

    perform(endpoint, outer=[research(), Reply("Done.")], inner=[ADD, answer])
    sync = way == "sync"
    result = run(agent_on(make, "outer", researcher(make, add))) if sync else asyncio.run(main())
    assert told(result) == ["It is 5."]
    assert len(set(loops)) == 1, "in a sync run, whichever it is"


ENDINGS: dict[str, tuple[Part, dict[str, Any], str]] = {
    "max_steps": (adding, {"max_agent_steps": 1}, "About five."),
    "max_model_calls": (adding, {"limits": Limits(model_calls=3)}, "About five."),
    "no_answer": (lambda _: Reply(""), {}, ""),
    "no_output": (lambda _: Reply("Who knows."), {"output_type": Point}, ""),
}


@each_way
@pytest.mark.parametrize("reason", ENDINGS)
def test_a_result_says_when_it_ended_early(make: Maker, endpoint: Endpoint, way: str, reason: str) -> None:
    part, settings, text = ENDINGS[reason]
    perform(endpoint, outer=[research(), Reply("Done.")], inner=part)
    result = run(agent_on(make, "outer", researcher(make, add, **settings)), way)
    assert f"[ended early: {reason}" in told(result)[0]
    assert text in told(result)[0]
    assert (result.text, result.stop_reason) == ("Done.", "answered")


@each_way
def test_its_failure_is_told_to_the_model_above(make: Maker, endpoint: Endpoint, way: str) -> None:
    perform(endpoint, outer=[research(), Reply("Sorry.")], inner=[Status(400)])
    result = run(agent_on(make, "outer", researcher(make)), way)
    assert (result.text, result.stop_reason) == ("Sorry.", "answered")
    assert [event.error for event in result.events if isinstance(event, ToolFinished)] == [True]


def test_a_task_that_is_empty_is_a_mistake_of_the_model_above(make: Maker, endpoint: Endpoint) -> None:
    perform(endpoint, outer=[research("  "), research("2+3?"), Reply("Five.")], inner=[Reply("5.")])
    result = run(agent_on(make, "outer", researcher(make)))
    assert (result.text, told(result)[1]) == ("Five.", "5.")
    assert "empty" in told(result)[0]


# Results are bounded.

BOOK = "".join(f"line {number}: all that there is to say of it\n" for number in range(8_000))


def test_a_large_result_is_cut_and_can_be_read_on(make: Maker, endpoint: Endpoint) -> None:
    perform(endpoint, outer=[research(), Reply("Done.")], inner=[Reply(BOOK, chunk_size=MANY)])
    result = run(agent_on(make, "outer", researcher(make)))
    assert len(told(result)[0]) < 10_000
    assert told(result)[0].startswith("line 0:")
    offered = [each["function"]["name"] for each in requests_of(endpoint, "outer")[1].json["tools"]]
    assert offered == ["research", "read_result"]


@each_way
def test_a_result_has_no_more_characters_than_it_may(make: Maker, endpoint: Endpoint, way: str) -> None:
    perform(endpoint, outer=[research(), Reply("Done.")], inner=[Reply(BOOK[:3_000])])
    made = agent_on(make, "inner").as_tool("research", "Find things out.", max_result_chars=500)
    result = run(agent_on(make, "outer", made), way)
    assert 300 < len(told(result)[0]) < 500 + 300, "the text itself, and a note"
    assert told(result)[0].startswith("line 0:")


def test_a_result_that_fits_stays_as_it_is(make: Maker, endpoint: Endpoint) -> None:
    perform(endpoint, outer=[research(), Reply("Done.")], inner=[Reply("x" * 500)])
    made = agent_on(make, "inner").as_tool("research", "Find things out.", max_result_chars=500)
    assert told(run(agent_on(make, "outer", made))) == ["x" * 500]


@pytest.mark.parametrize("most", [0, -1, "many"])
def test_a_bound_that_is_none_is_refused(make: Maker, most: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_result_chars"):
        agent_on(make, "inner").as_tool("research", "Find things out.", max_result_chars=most)


# Limits and deps.


@each_way
@pytest.mark.parametrize("most", [3, 4, 7])
def test_the_limits_of_the_run_above_hold_for_both(
    make: Maker, endpoint: Endpoint, way: str, most: int
) -> None:
    perform(endpoint, outer=delegating, inner=adding)
    result = run(agent_on(make, "outer", researcher(make, add), limits=Limits(model_calls=most)), way)
    assert (result.text, result.stop_reason) == ("That is all.", "max_model_calls")
    assert len(endpoint.requests) <= most
    assert len(requests_of(endpoint, "inner")) > 0


@each_way
def test_calls_of_tools_below_count_above(make: Maker, endpoint: Endpoint, way: str) -> None:
    ran: list[int] = []

    @tool
    def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        ran.append(a)
        return a + b

    perform(endpoint, outer=delegating, inner=adding)
    result = run(agent_on(make, "outer", researcher(make, add), limits=Limits(tool_calls=4)), way)
    assert (result.stop_reason, len(ran)) == ("max_tool_calls", 3)


@each_way
def test_its_own_limits_begin_anew_with_each_task(make: Maker, endpoint: Endpoint, way: str) -> None:
    perform(endpoint, outer=[research("one"), research("two"), Reply("Done.")], inner=adding)
    run(agent_on(make, "outer", researcher(make, add, limits=Limits(model_calls=3))), way)
    assert len(requests_of(endpoint, "inner")) == 6


@each_way
def test_a_sub_agent_that_takes_too_long_is_broken_off(make: Maker, endpoint: Endpoint, way: str) -> None:
    perform(endpoint, outer=[research(), Reply("Done.")], inner=[SLOW])
    result = run(agent_on(make, "outer", researcher(make), tool_timeout=0.5), way)
    assert result.text == "Done."
    assert endpoint.wait_for_disconnect(PATIENCE), "the sub-agent still waits for its model"


class Wallet:
    pass


@each_way
def test_deps_are_passed_on_however_deep(make: Maker, endpoint: Endpoint, way: str) -> None:
    seen: list[tuple[str, Wallet]] = []

    @tool
    def pay(context: RunContext[Wallet]) -> str:
        """Pay."""
        seen.append((context.run_id, context.deps))
        return "paid"

    pays = Reply(calls=[("pay", {})])
    perform(
        endpoint,
        outer=[Reply(calls=[("middle", {"task": "Pay."})]), Reply("Done.")],
        middle=[research("Pay."), Reply("Done.")],
        inner=[pays, Reply("Done.")],
    )
    middle = agent_on(make, "middle", researcher(make, pay)).as_tool("middle", "Delegate.")
    wallet = Wallet()
    result = run(agent_on(make, "outer", middle), way, deps=wallet)
    ((run_id, deps),) = seen
    assert deps is wallet
    assert run_id != result.run_id


# Side by side.


@each_way
def test_two_tasks_of_one_sub_agent_run_beside_each_other(make: Maker, endpoint: Endpoint, way: str) -> None:
    both = threading.Barrier(2)

    def meet(request: Request) -> Item:
        both.wait(PATIENCE)
        return Reply(f"Did {request.messages[1]['content']}")

    perform(endpoint, outer=[research("one", "two"), Reply("Done.")], inner=[meet])
    result = run(agent_on(make, "outer", researcher(make)), way)
    assert told(result) == ["Did one", "Did two"]


# Cancellation.


class Waiting:
    """A tool that works until it is told that nobody waits for it."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.told: list[bool] = []

    @tool
    def wait(self, context: RunContext[None]) -> str:
        """Wait."""
        self.started.set()
        self.told.append(context.cancel.wait(PATIENCE))
        return "waited"


def cancelled(agent: Agent, way: str, reached: Callable[[], bool]) -> RunResult:
    """The result of a run that is cancelled once it has got somewhere."""
    if way == "sync":
        token = CancelToken()

        def cancel() -> None:
            reached()
            token.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        result = run(agent, cancel=token)
        thread.join(PATIENCE)
        return result

    async def main() -> RunResult:
        async with agent:
            task = asyncio.create_task(agent.run_async("Go."))
            assert await asyncio.to_thread(reached)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            return caught.value.result  # type: ignore[attr-defined]

    return asyncio.run(main())


@each_way
def test_a_request_below_is_closed_when_the_run_above_is_cancelled(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    perform(endpoint, outer=[research()], inner=[SLOW])
    agent = agent_on(make, "outer", researcher(make))
    result = cancelled(agent, way, lambda: endpoint.wait_for_requests(2, PATIENCE))
    assert result.stop_reason == "cancelled"
    assert endpoint.wait_for_disconnect(PATIENCE)


@each_way
def test_a_tool_below_is_told_when_the_run_above_is_cancelled(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    waiting = Waiting()
    perform(endpoint, outer=[research()], inner=[Reply(calls=[("wait", {})])])
    agent = agent_on(make, "outer", researcher(make, waiting.wait))
    result = cancelled(agent, way, lambda: waiting.started.wait(PATIENCE))
    assert result.stop_reason == "cancelled"
    for thread in threading.enumerate():
        if thread.name == "llama-agent-tool":
            thread.join(PATIENCE)
    assert waiting.told == [True]
    assert len(endpoint.requests) == 2


@each_way
def test_leaving_a_stream_early_ends_what_runs_below(make: Maker, endpoint: Endpoint, way: str) -> None:
    def is_reached(event: Event) -> bool:
        return isinstance(event, SubAgentEvent) and isinstance(event.event, ModelRequested)

    async def main() -> RunResult | None:
        async with agent_on(make, "outer", researcher(make)) as agent:
            async with agent.stream_async("Go.") as stream:
                async for event in stream:
                    if is_reached(event):
                        assert await asyncio.to_thread(endpoint.wait_for_requests, 2, PATIENCE)
                        break
            return stream.result

    def main_sync() -> RunResult | None:
        with agent_on(make, "outer", researcher(make)) as agent, agent.stream("Go.") as stream:
            for event in stream:
                if is_reached(event):
                    assert endpoint.wait_for_requests(2, PATIENCE)
                    break
            stream.close()
            return stream.result

    perform(endpoint, outer=[research()], inner=[SLOW])
    result = asyncio.run(main()) if way == "async" else main_sync()
    assert result is not None and result.stop_reason == "cancelled"
    assert endpoint.wait_for_disconnect(PATIENCE)


# Events.


def wrapped(events: Sequence[Event]) -> list[SubAgentEvent]:
    return [event for event in events if isinstance(event, SubAgentEvent)]


@each_way
def test_its_events_come_within_its_call_and_in_their_order(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    heard: list[Event] = []
    perform(endpoint, outer=[research(), Reply("Five.")], inner=[ADD, Reply("It is 5.")])
    result = run(agent_on(make, "outer", researcher(make, add)), way, on_event=heard.append)
    names = [
        f"inner {type(e.event).__name__}" if isinstance(e, SubAgentEvent) else type(e).__name__ for e in heard
    ]
    asking = ["ModelRequested", "ModelReplied"]
    calling = [*asking, "ToolStarted", "ToolFinished", *asking]
    expected = [
        *["RunStarted", *asking, "ToolStarted"],
        *[f"inner {name}" for name in ("RunStarted", *calling, "RunFinished")],
        *["ToolFinished", *asking, "RunFinished"],
    ]
    assert [name for name in names if name.split()[-1] in set(expected) - {"inner"}] == expected
    assert {event.run_id for event in heard} == {result.run_id}


@each_way
def test_its_events_bear_its_own_run(make: Maker, endpoint: Endpoint, way: str) -> None:
    perform(endpoint, outer=[research("one"), research("two"), Reply("Done.")], inner=[Reply("Yes.")])
    result = run(agent_on(make, "outer", researcher(make)), way)
    ids = [each.event.run_id for each in wrapped(result.events) if isinstance(each.event, RunStarted)]
    assert len({*ids, result.run_id}) == 3
    assert {each.event.run_id for each in wrapped(result.events)} == set(ids)


@each_way
def test_events_of_tasks_side_by_side_can_be_told_apart(make: Maker, endpoint: Endpoint, way: str) -> None:
    both = threading.Barrier(2)

    def meet(request: Request) -> Item:
        both.wait(PATIENCE)
        return Reply(f"Did {request.messages[1]['content']}")

    perform(endpoint, outer=[research("one", "two"), Reply("Done.")], inner=[meet])
    events = wrapped(run(agent_on(make, "outer", researcher(make)), way).events)
    by_run: dict[str, list[Event]] = {}
    for each in events:
        by_run.setdefault(each.event.run_id, []).append(each.event)
    assert [type(part[0]) for part in by_run.values()] == [RunStarted] * 2
    assert [type(part[-1]) for part in by_run.values()] == [RunFinished] * 2
    said = [e.text for part in by_run.values() for e in part if isinstance(e, ModelReplied)]
    assert sorted(said) == ["Did one", "Did two"]


def test_events_of_a_sub_agent_that_two_runs_share_reach_the_run_that_it_works_for(
    make: Maker, endpoint: Endpoint
) -> None:
    both = threading.Barrier(2)

    def meet(request: Request) -> Item:
        both.wait(PATIENCE)
        return Reply(f"Did {request.messages[1]['content']}")

    async def main() -> list[RunResult]:
        shared = researcher(make)
        async with agent_on(make, "outer one", shared) as one, agent_on(make, "outer two", shared) as two:
            return await asyncio.gather(one.run_async("Go."), two.run_async("Go."))

    first, second = [research("one"), Reply("Done.")], [research("two"), Reply("Done.")]
    perform(endpoint, **{"outer one": first, "outer two": second}, inner=[meet])
    said = [
        [e.event.text for e in wrapped(result.events) if isinstance(e.event, ModelReplied)]
        for result in asyncio.run(main())
    ]
    assert said == [["Did one"], ["Did two"]]


@each_way
def test_events_are_nested_as_deep_as_agents_are(make: Maker, endpoint: Endpoint, way: str) -> None:
    perform(
        endpoint,
        outer=[Reply(calls=[("middle", {"task": "Go on."})]), Reply("Done.")],
        middle=[research(), Reply("Done.")],
        inner=[ADD, Reply("It is 5.")],
    )
    middle = agent_on(make, "middle", researcher(make, add)).as_tool("middle", "Delegate.")
    result = run(agent_on(make, "outer", middle), way)
    deep = [
        (each.run_id, each.event.run_id, each.event.event)
        for each in wrapped(result.events)
        if isinstance(each.event, SubAgentEvent)
    ]
    assert [event.tool_name for _, _, event in deep if isinstance(event, ToolStarted)] == ["add"]
    assert {top for top, _, _ in deep} == {result.run_id}
    assert len({run_id for top, below, event in deep for run_id in (top, below, event.run_id)}) == 3


def test_events_of_a_sub_agent_become_json(make: Maker, endpoint: Endpoint) -> None:
    perform(endpoint, outer=[research(), Reply("Five.")], inner=[ADD, Reply("It is 5.")])
    result = run(agent_on(make, "outer", researcher(make, add)))
    data = json.loads(json.dumps([event.to_dict() for event in wrapped(result.events)]))
    assert {each["type"] for each in data} == {"SubAgentEvent"}
    replies = [each["event"] for each in data if each["event"]["type"] == "ModelReplied"]
    assert [reply["text"] for reply in replies] == [None, "It is 5."]


@each_way
def test_a_stream_has_its_events_and_keeps_its_text_apart(make: Maker, endpoint: Endpoint, way: str) -> None:
    async def main() -> list[Event]:
        async with agent_on(make, "outer", researcher(make)) as agent:
            return [event async for event in agent.stream_async("Go.")]

    def main_sync() -> list[Event]:
        with agent_on(make, "outer", researcher(make)) as agent:
            return list(agent.stream("Go."))

    perform(endpoint, outer=[research(), Reply("Five.")], inner=[Reply("It is 5.")])
    events = asyncio.run(main()) if way == "async" else main_sync()
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Five."
    inner = [each.event for each in wrapped(events)]
    assert "".join(event.text for event in inner if isinstance(event, TextDelta)) == "It is 5."
    assert [event.text for event in inner if isinstance(event, ModelReplied)] == ["It is 5."]


@each_way
def test_its_text_doesnt_reach_the_callback_of_the_run_above(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    pieces: list[str] = []

    def listen(chunk: Any) -> None:
        pieces.append(chunk.content)

    async def listen_async(chunk: Any) -> None:
        pieces.append(chunk.content)

    perform(endpoint, outer=[research(), Reply("Five.")], inner=[Reply("It is 5.")])
    callback = listen_async if way == "async" else listen
    run(agent_on(make, "outer", researcher(make)), way, streaming_callback=callback)
    assert "".join(pieces) == "Five."


# In other places, and afterwards.


@each_way
def test_it_works_in_haystacks_agent(make: Maker, endpoint: Endpoint, way: str) -> None:
    perform(endpoint, outer=[research(), Reply("Five.")], inner=[ADD, Reply("It is 5.")])
    agent = HaystackAgent(chat_generator=make(), tools=[researcher(make, add)], system_prompt="outer")
    messages = [ChatMessage.from_user("Go.")]
    result = agent.run(messages) if way == "sync" else asyncio.run(agent.run_async(messages))
    agent.close()
    texts = [str(r.result) for message in result["messages"] for r in message.tool_call_results]
    assert (result["last_message"].text, texts) == ("Five.", ["It is 5."])


def test_an_agent_is_saved_with_its_sub_agents(make: Maker, endpoint: Endpoint) -> None:
    outer = agent_on(make, "outer", researcher(make, max_agent_steps=1, limits=Limits(model_calls=5)))
    loaded = Agent.from_dict(json.loads(json.dumps(outer.to_dict())))
    (made,) = loaded.tools
    assert isinstance(made, Tool) and (made.name, made.description) == ("research", "Find things out.")
    perform(endpoint, outer=[research(), Reply("Five.")], inner=[Reply("It is 5.")])
    assert told(run(loaded)) == ["It is 5."]


def test_an_agent_whose_prompt_has_variables_is_refused(make: Maker) -> None:
    agent = Agent(chat_generator=make(), system_prompt="You know all of {{ topic }}.")
    with pytest.raises(ConfigurationError, match="topic"):
        agent.as_tool("research", "Find things out.")


def test_a_name_that_no_server_takes_is_refused(make: Maker) -> None:
    with pytest.raises(ConfigurationError, match="my research!"):
        run(agent_on(make, "outer", agent_on(make, "inner").as_tool("my research!", "Find things out.")))


def test_two_sub_agents_of_one_name_are_refused(make: Maker) -> None:
    with pytest.raises(ConfigurationError, match="research"):
        run(agent_on(make, "outer", researcher(make), researcher(make)))


@each_way
def test_no_thread_is_left_once_the_agent_above_is_closed(make: Maker, endpoint: Endpoint, way: str) -> None:
    before = set(threading.enumerate())
    perform(endpoint, outer=[research("one", "two"), Reply("Done.")], inner=[ADD, Reply("It is 5.")])
    assert run(agent_on(make, "outer", researcher(make, add)), way).text == "Done."
    ours = [t for t in threading.enumerate() if t not in before and not t.name.startswith("endpoint-")]
    for thread in ours:
        thread.join(PATIENCE)
    assert [thread.name for thread in ours if thread.is_alive()] == []
