"""`tool_concurrency_limit` holds over a run and all sub-agents below it; and no limit can lock them up."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.tools import AgentTool, ComponentTool

from llama_agent import Agent, LlamaAgentError, RunContext, RunResult, ToolFailedError, tool
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request, Status

Json = dict[str, Any]

PATIENCE = 20.0
"""Seconds after which a run counts as locked up."""
BRIEF = 0.03
"""Seconds that a tool leaves a wrongly started partner to show itself. Right code never depends on it."""
LONG = 60.0
"""Seconds that a tool would hang, if nobody ended it."""


class Gauge:
    """How many tools are at work at a time: now, at most, and all told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.total = 0
        self._rung = threading.Event()

    def work(self) -> str:
        """Work."""
        with self:
            self._rung.wait(BRIEF)
        return "worked"

    async def work_async(self) -> str:
        """Work."""
        with self:
            await asyncio.sleep(BRIEF)
        return "worked"

    @property
    def tools(self) -> list[Any]:
        """A sync and an async one; they may run beside each other."""
        sync, as_async = self.work, self.work_async

        def work() -> str:
            return sync()

        async def work_async() -> str:
            return await as_async()

        return [
            tool(name="work", description="Work.")(work),
            tool(name="work_async", description="Work.")(work_async),
        ]

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.total += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


class Meeting:
    """A tool that returns only once so many of its calls run at the same time."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)

    @property
    def tool(self) -> Any:
        def work() -> str:
            self._barrier.wait(PATIENCE)
            return "met"

        return tool(name="work", description="Work.")(work)


# A model that calls whatever is on offer, so many times each, and then answers.


def offered(request: Request) -> list[str]:
    return [each["function"]["name"] for each in request.json.get("tools", [])]


def arguments_for(request: Request, name: str) -> Json:
    """Arguments that delegate a task, in the words of that tool."""
    (schema,) = (
        each["function"]["parameters"] for each in request.json["tools"] if each["function"]["name"] == name
    )
    names = schema.get("properties", {})
    if "messages" in names and "user_message" not in names:
        return {"messages": [{"role": "user", "content": "go"}]}
    return {"user_message": "go"} if "user_message" in names else {}


def has_results(request: Request) -> bool:
    return any(message["role"] == "tool" for message in request.messages)


def busy(times: dict[str, int] | None = None) -> Callable[[Request], Item]:
    """
    A model that calls each tool once or so many times, in one reply, and answers when it has the results.

    :param times: By tool.
    """

    def answer(request: Request) -> Item:
        if has_results(request):
            return Reply("done")
        names = [name for name in offered(request) for _ in range((times or {}).get(name, 1))]
        return Reply(calls=[(name, arguments_for(request, name)) for name in names])

    return answer


# Ways to run an agent within a tool.


def by_agent_tool(inner: Agent, name: str) -> Any:
    return AgentTool(agent=inner, name=name, description="Delegate.")


def by_component_tool(inner: Agent, name: str) -> Any:
    parameters = {"type": "object", "properties": {"user_message": {"type": "string"}}}
    return ComponentTool(component=inner, name=name, description="Delegate.", parameters=parameters)


def by_function(inner: Agent, name: str) -> Any:
    def delegate() -> str:
        return inner.run("go").text

    return tool(name=name, description="Delegate.")(delegate)


def by_async_function(inner: Agent, name: str) -> Any:
    async def delegate() -> str:
        return (await inner.run_async("go")).text

    return tool(name=name, description="Delegate.")(delegate)


def by_async_function_in_a_thread(inner: Agent, name: str) -> Any:
    async def delegate() -> str:
        return (await asyncio.to_thread(inner.run, "go")).text

    return tool(name=name, description="Delegate.")(delegate)


def by_async_function_that_blocks(inner: Agent, name: str) -> Any:
    async def delegate() -> str:
        return inner.run("go").text

    return tool(name=name, description="Delegate.")(delegate)


def by_function_with_a_loop(inner: Agent, name: str) -> Any:
    def delegate() -> str:
        return asyncio.run(inner.run_async("go")).text

    return tool(name=name, description="Delegate.")(delegate)


WAYS = {
    "AgentTool": by_agent_tool,
    "ComponentTool": by_component_tool,
    "function": by_function,
    "async-function": by_async_function,
    "async-function-in-a-thread": by_async_function_in_a_thread,
    "async-function-that-blocks": by_async_function_that_blocks,
    "function-with-a-loop": by_function_with_a_loop,
}
each_delegation = pytest.mark.parametrize("delegation", WAYS.values(), ids=WAYS)
each_way = pytest.mark.parametrize("way", ["sync", "async"])
Family = Callable[..., Agent]


@pytest.fixture
def family(make: Maker) -> Iterator[Family]:
    """Makes agents, and closes them after the test."""
    made: list[Agent] = []

    def agent(*tools: Any, **settings: Any) -> Agent:
        made.append(Agent(chat_generator=make(), tools=list(tools), **settings))
        return made[-1]

    yield agent
    for each in made:
        each.close()


def run(agent: Agent, way: str) -> RunResult:
    """Run it in a thread of its own, since a run that is locked up would hold the test for ever."""
    ended: list[RunResult | BaseException] = []

    async def main() -> RunResult:
        try:
            return await agent.run_async("go")
        finally:
            await agent.close_async()

    def work() -> None:
        try:
            ended.append(asyncio.run(main()) if way == "async" else agent.run("go"))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert ended, "the run is locked up"
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def told(result: Any) -> list[str]:
    return [str(r.result) for message in result["messages"] for r in message.tool_call_results]


@each_way
@each_delegation
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_never_more_tools_at_a_time_than_the_limit_over_all_sub_agents(
    family: Family, endpoint: Endpoint, way: str, delegation: Any, limit: int
) -> None:
    gauge = Gauge()
    inner = [family(*gauge.tools) for _ in range(3)]
    names = [f"delegate_{n}" for n in range(3)]
    delegates = [delegation(agent, name) for agent, name in zip(inner, names, strict=True)]
    endpoint.script(Always(busy({"work": 2, "work_async": 2})))
    result = run(family(*gauge.tools, *delegates, tool_concurrency_limit=limit), way)
    assert result.text == "done"
    assert gauge.total == 4 + 3 * 4
    assert gauge.most <= limit
    assert told(result)[:4] == ["worked"] * 4
    assert all("done" in text for text in told(result)[4:])


@each_way
@each_delegation
def test_sub_agents_side_by_side_do_run_their_tools_together(
    family: Family, endpoint: Endpoint, way: str, delegation: Any
) -> None:
    if delegation is by_async_function_that_blocks:
        pytest.skip("it holds the event loop up, which is its author's doing")
    meeting = Meeting(2)
    inner = [family(meeting.tool) for _ in range(2)]
    delegates = [delegation(agent, f"delegate_{n}") for n, agent in enumerate(inner)]
    endpoint.script(Always(busy()))
    result = run(family(*delegates, tool_concurrency_limit=2), way)
    assert len(told(result)) == 2
    assert all("done" in text for text in told(result))


@each_way
@each_delegation
def test_a_sub_agent_alone_uses_the_place_of_its_call_and_the_free_ones(
    family: Family, endpoint: Endpoint, way: str, delegation: Any
) -> None:
    inner = family(Meeting(3).tool)
    endpoint.script(Always(busy({"work": 3})))
    result = run(family(delegation(inner, "delegate"), tool_concurrency_limit=3), way)
    assert "done" in told(result)[0]


@each_way
@each_delegation
def test_a_sub_agents_own_limit_holds_too(
    family: Family, endpoint: Endpoint, way: str, delegation: Any
) -> None:
    gauges = [Gauge(), Gauge()]
    inner = [family(*gauge.tools, tool_concurrency_limit=1) for gauge in gauges]
    delegates = [delegation(agent, f"delegate_{n}") for n, agent in enumerate(inner)]
    endpoint.script(Always(busy({"work": 2, "work_async": 2})))
    run(family(*delegates, tool_concurrency_limit=8), way)
    assert [(gauge.total, gauge.most) for gauge in gauges] == [(4, 1), (4, 1)]


@each_way
@each_delegation
@pytest.mark.parametrize("limit", [1, 2])
def test_three_levels_keep_within_the_limit_at_the_top(
    family: Family, endpoint: Endpoint, way: str, delegation: Any, limit: int
) -> None:
    gauge = Gauge()
    lowest = [delegation(family(*gauge.tools), f"low_{n}") for n in range(2)]
    middle = [delegation(family(each, *gauge.tools), f"middle_{n}") for n, each in enumerate(lowest)]
    endpoint.script(Always(busy()))
    result = run(family(*middle, *gauge.tools, tool_concurrency_limit=limit), way)
    assert result.text == "done"
    assert (gauge.total, gauge.most <= limit) == (10, True)


@each_way
@each_delegation
def test_one_agent_delegated_to_several_times_at_once_keeps_within_the_limit(
    family: Family, endpoint: Endpoint, way: str, delegation: Any
) -> None:
    gauge = Gauge()
    delegate = delegation(family(*gauge.tools), "delegate")
    endpoint.script(Always(busy({"delegate": 4})))
    result = run(family(delegate, tool_concurrency_limit=2), way)
    assert len(told(result)) == 4
    assert (gauge.total, gauge.most <= 2) == (8, True)


@each_way
def test_sub_agents_of_different_kinds_share_one_limit(family: Family, endpoint: Endpoint, way: str) -> None:
    gauge = Gauge()
    delegates = [make(family(*gauge.tools), f"delegate_{n}") for n, make in enumerate(WAYS.values())]
    endpoint.script(Always(busy({"work": 2, "work_async": 2})))
    result = run(family(*delegates, *gauge.tools, tool_concurrency_limit=2), way)
    assert result.text == "done"
    assert (gauge.total, gauge.most <= 2) == (4 * len(WAYS) + 4, True)


@each_way
def test_with_haystacks_agent_in_the_middle_nothing_is_locked_up(
    family: Family, make: Maker, endpoint: Endpoint, way: str
) -> None:
    gauge = Gauge()
    lowest = by_agent_tool(family(*gauge.tools), "low")
    middle = HaystackAgent(chat_generator=make(), tools=[lowest])
    endpoint.script(Always(busy({"work": 2})))
    result = run(family(AgentTool(agent=middle, name="middle", description="Delegate.")), way)
    middle.close()
    assert (result.text, gauge.total) == ("done", 3)


# Places come back.


@each_way
@each_delegation
def test_a_sub_agent_that_failed_gives_its_place_back(
    family: Family, endpoint: Endpoint, way: str, delegation: Any
) -> None:
    usual = busy()

    def answer(request: Request) -> Item:
        is_inner = "delegate" not in offered(request)
        return Status(400) if is_inner and has_results(request) else usual(request)

    gauge = Gauge()
    delegate = delegation(family(*gauge.tools), "delegate")
    endpoint.script(Always(answer))
    result = run(family(delegate, *gauge.tools, tool_concurrency_limit=1), way)
    assert told(result)[1:] == ["worked", "worked"]
    assert (gauge.total, gauge.most) == (4, 1)


@each_way
@each_delegation
def test_a_sub_agents_failing_tool_gives_its_place_back(
    family: Family, endpoint: Endpoint, way: str, delegation: Any
) -> None:
    gauge = Gauge()

    @tool
    def fail() -> str:
        """Fail."""
        raise ValueError("the disk is full")

    inner = family(fail, *gauge.tools, raise_on_tool_invocation_failure=True, tool_concurrency_limit=1)
    endpoint.script(Always(busy()))
    result = run(family(delegation(inner, "delegate"), *gauge.tools, tool_concurrency_limit=1), way)
    assert "the disk is full" in told(result)[0]
    assert told(result)[1:] == ["worked", "worked"]
    assert gauge.total == 2


@each_way
def test_a_call_that_is_over_its_time_gives_its_place_back(
    family: Family, endpoint: Endpoint, way: str
) -> None:
    gauge = Gauge()
    inner_ended = threading.Event()

    @tool(timeout=0.2)
    def hang(context: RunContext) -> str:
        """Hang."""
        context.cancel.wait(LONG)
        inner_ended.set()
        return "too late"

    inner = family(hang, *gauge.tools)
    delegate = by_agent_tool(inner, "delegate")
    endpoint.script(Always(busy()))
    result = run(family(delegate, *gauge.tools, tool_concurrency_limit=1), way)
    assert told(result)[1:] == ["worked", "worked"]
    assert (gauge.total, gauge.most) == (4, 1)
    assert inner_ended.wait(PATIENCE)


@each_delegation
def test_a_cancelled_run_gives_the_places_back(family: Family, endpoint: Endpoint, delegation: Any) -> None:
    gauge = Gauge()
    started = threading.Event()
    hanging = threading.Event()

    @tool
    def hang(context: RunContext) -> str:
        """Hang, until it isn't wanted any more."""
        started.set()
        if not hanging.is_set():
            context.cancel.wait(PATIENCE)
        return "hung"

    inner = family(hang, *gauge.tools, tool_concurrency_limit=1)
    outer = family(delegation(inner, "delegate"), *gauge.tools, tool_concurrency_limit=1)

    strays: list[str] = []

    async def main() -> RunResult:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: strays.append(str(context)))
        one = asyncio.create_task(outer.run_async("go"))
        assert await asyncio.to_thread(started.wait, PATIENCE)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        hanging.set()
        try:
            return await asyncio.wait_for(outer.run_async("go"), PATIENCE)
        finally:
            await outer.close_async()
            await inner.close_async()
            gc.collect()  # what nobody asked for is told now

    if delegation is by_async_function_that_blocks:
        pytest.skip("it holds the event loop up, which is its author's doing")
    endpoint.script(Always(busy()))
    result = asyncio.run(main())
    assert told(result)[1:] == ["worked", "worked"]
    assert strays == []


@each_way
def test_a_failure_that_raises_within_sub_agents_gives_the_places_back_for_the_next_run(
    family: Family, endpoint: Endpoint, way: str
) -> None:
    gauge = Gauge()
    fails = [True]

    @tool
    def maybe() -> str:
        """Fail the first time."""
        if fails and fails.pop():
            raise ValueError("the disk is full")
        return "well"

    inner = family(maybe, *gauge.tools, tool_concurrency_limit=1, raise_on_tool_invocation_failure=True)
    outer = family(
        by_function(inner, "delegate"), tool_concurrency_limit=1, raise_on_tool_invocation_failure=True
    )
    endpoint.script(Always(busy()))
    with pytest.raises(ToolFailedError):
        run(outer, way)
    assert told(run(outer, way)) == ["done"]
    assert gauge.total == 2


# What has nothing to do with each other.


def test_runs_that_know_nothing_of_each_other_have_a_limit_each(family: Family, endpoint: Endpoint) -> None:
    meeting = Meeting(2)
    agent = family(meeting.tool, tool_concurrency_limit=1)
    endpoint.script(Always(busy()))
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(agent.run("go").text), daemon=True) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert texts == ["done", "done"]


def test_tasks_of_one_loop_that_know_nothing_of_each_other_have_a_limit_each(
    family: Family, endpoint: Endpoint
) -> None:
    meeting = Meeting(2)
    agent = family(meeting.tool, tool_concurrency_limit=1)
    endpoint.script(Always(busy()))

    async def main() -> list[str]:
        try:
            results = await asyncio.gather(agent.run_async("go"), agent.run_async("go"))
        finally:
            await agent.close_async()
        return [result.text for result in results]

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == ["done", "done"]


def test_a_run_that_a_tool_left_behind_in_a_task_of_its_own_doesnt_lock_anything_up(
    family: Family, endpoint: Endpoint
) -> None:
    gauge = Gauge()
    inner = family(*gauge.tools)
    left: list[asyncio.Task[RunResult]] = []

    @tool
    async def begin() -> str:
        """Begin another run, and don't wait for it."""
        left.append(asyncio.create_task(inner.run_async("go")))
        return "begun"

    outer = family(begin, tool_concurrency_limit=1)

    async def main() -> tuple[str, str]:
        try:
            result = await asyncio.wait_for(outer.run_async("go"), PATIENCE)
            return result.text, (await asyncio.wait_for(left[0], PATIENCE)).text
        finally:
            await outer.close_async()
            await inner.close_async()

    endpoint.script(Always(busy()))
    assert asyncio.run(main()) == ("done", "done")
    assert gauge.total == 2


def test_a_run_left_behind_in_a_thread_doesnt_lock_anything_up(family: Family, endpoint: Endpoint) -> None:
    gauge = Gauge()
    inner = family(*gauge.tools)
    texts: list[str] = []
    threads: list[threading.Thread] = []

    @tool
    def begin() -> str:
        """Begin another run, and don't wait for it."""
        threads.append(threading.Thread(target=lambda: texts.append(inner.run("go").text), daemon=True))
        threads[-1].start()
        return "begun"

    endpoint.script(Always(busy()))
    assert run(family(begin, tool_concurrency_limit=1), "sync").text == "done"
    threads[0].join(PATIENCE)
    assert (texts, gauge.total) == (["done"], 2)


def test_an_error_of_the_endpoint_within_a_sub_agent_is_told_and_doesnt_end_the_run_above(
    family: Family, endpoint: Endpoint
) -> None:
    def answer(request: Request) -> Item:
        if "delegate" not in offered(request):
            return Status(400)
        return busy()(request)

    endpoint.script(Always(answer))
    outer = family(by_function(family(Gauge().tools[0]), "delegate"), tool_concurrency_limit=1)
    try:
        result = run(outer, "sync")
    except LlamaAgentError as error:
        pytest.fail(f"the run above ended: {error}")
    assert "400" in told(result)[0]


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            count += "socket:" in str(entry.readlink())
    return count


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@each_way
@each_delegation
def test_what_sub_agents_opened_is_closed_with_the_agents(
    family: Family, make: Maker, way: str, delegation: Any
) -> None:
    with Endpoint() as server:
        server.script(Always(busy()))
        before = sockets()
        inner = Agent(chat_generator=make(api_base_url=server.url), tools=Gauge().tools)
        outer = Agent(chat_generator=make(api_base_url=server.url), tools=[delegation(inner, "delegate")])
        assert run(outer, way).text == "done"
        outer.close()
        inner.close()
        # The server's own ends of the connections close when ours do.
        ends = threading.Event()
        deadline = time.monotonic() + PATIENCE
        while sockets() > before and time.monotonic() < deadline:
            ends.wait(0.02)
        assert sockets() <= before
