"""Calls of one reply that could get in each other's way keep the model's order; the others run together."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from haystack.components.agents.state.state import State
from haystack.dataclasses import StreamingChunk
from haystack.tools.tool import Tool

from llama_agent import (
    Agent,
    Event,
    MetaLlamaChatGenerator,
    RunResult,
    ToolFailedError,
    ToolFinished,
    ToolStarted,
    tool,
)
from llama_agent.events import OnEvent
from tests.endpoint import Always, Endpoint, Reply

PATIENCE = 5.0
"""Seconds that a tool waits for its partners; after that the calls weren't together."""
BRIEF = 0.05
"""Seconds that a tool leaves a wrongly started partner to show itself. Right code never depends on it."""

NO_PARAMETERS = {"type": "object", "properties": {}}
WHO: ContextVar[str] = ContextVar("who", default="nobody")


def agent_on(endpoint: Endpoint, tools: Any, **settings: Any) -> Agent:
    generator = MetaLlamaChatGenerator(
        api_base_url=endpoint.url, model="test-model", max_retries=0, timeout=10
    )
    return Agent(chat_generator=generator, tools=tools, **settings)


def run(
    endpoint: Endpoint, calls: list[str], tools: Any, on_event: OnEvent | None = None, **settings: Any
) -> RunResult:
    endpoint.script(Reply(calls=[(name, {}) for name in calls]), Reply("done"))
    with agent_on(endpoint, tools, **settings) as agent:
        return agent.run("go", on_event=on_event)


def run_async(
    endpoint: Endpoint, calls: list[str], tools: Any, on_event: OnEvent | None = None, **settings: Any
) -> RunResult:
    async def main() -> RunResult:
        async with agent_on(endpoint, tools, **settings) as agent:
            return await agent.run_async("go", on_event=on_event)

    endpoint.script(Reply(calls=[(name, {}) for name in calls]), Reply("done"))
    return asyncio.run(main())


both_modes = pytest.mark.parametrize("go", [run, run_async], ids=["sync", "async"])


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


class Log:
    """Notes who starts and ends, and whether anybody else was at work meanwhile."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.overlaps: list[str] = []
        self._at_work: set[str] = set()
        self._lock = threading.Lock()
        self._somebody_else = threading.Event()

    def work(self, name: str) -> str:
        with self._lock:
            self.entries.append(name)
            if self._at_work:
                self.overlaps.append(f"{name} beside {sorted(self._at_work)}")
                self._somebody_else.set()
            self._at_work.add(name)
        self._somebody_else.wait(BRIEF)
        with self._lock:
            self._at_work.discard(name)
        return name

    def tool(self, name: str, **hints: Any) -> Any:
        def logged() -> str:
            return self.work(name)

        return tool(name=name, description=name, **hints)(logged)

    def async_tool(self, name: str, **hints: Any) -> Any:
        async def logged() -> str:
            return await asyncio.to_thread(self.work, name)

        return tool(name=name, description=name, **hints)(logged)


def meeting(names: list[str]) -> list[Any]:
    """Sync tools each of which returns only once all of them are running."""
    barrier = threading.Barrier(len(names))

    def member(name: str) -> Any:
        def meet() -> str:
            barrier.wait(PATIENCE)
            return name

        return tool(name=name, description=name)(meet)

    return [member(name) for name in names]


def async_meeting(names: list[str]) -> list[Any]:
    """As `meeting`, of async tools."""
    barrier = asyncio.Barrier(len(names))

    def member(name: str) -> Any:
        async def meet() -> str:
            await asyncio.wait_for(barrier.wait(), PATIENCE)
            return name

        return tool(name=name, description=name)(meet)

    return [member(name) for name in names]


# Together.


@both_modes
def test_calls_that_share_nothing_run_together(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    assert told(go(endpoint, ["c", "a", "b"], meeting(["a", "b", "c"]))) == ["c", "a", "b"]


@both_modes
def test_async_calls_that_share_nothing_run_together(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    assert told(go(endpoint, ["c", "a", "b"], async_meeting(["a", "b", "c"]))) == ["c", "a", "b"]


@both_modes
def test_a_sync_and_an_async_call_run_together(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    barrier = threading.Barrier(2)

    @tool
    def one() -> str:
        """One."""
        barrier.wait(PATIENCE)
        return "one"

    @tool
    async def two() -> str:
        """Two."""
        await asyncio.to_thread(barrier.wait, PATIENCE)
        return "two"

    assert told(go(endpoint, ["one", "two"], [one, two])) == ["one", "two"]


@both_modes
def test_two_calls_of_one_function_run_together(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    barrier = threading.Barrier(2)

    def meet() -> str:
        """Meet."""
        barrier.wait(PATIENCE)
        return "met"

    assert told(go(endpoint, ["meet", "meet"], [meet])) == ["met", "met"]


@both_modes
@pytest.mark.parametrize("make", [meeting, async_meeting], ids=["sync-tools", "async-tools"])
def test_as_many_calls_run_together_as_the_limit_says(
    endpoint: Endpoint, go: Callable[..., RunResult], make: Callable[[list[str]], list[Any]]
) -> None:
    names = [f"t{i}" for i in range(24)]
    assert told(go(endpoint, names, make(names), tool_concurrency_limit=24)) == names


@both_modes
def test_a_free_call_isnt_held_up_by_calls_that_wait_for_their_turn(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    barrier = threading.Barrier(2)

    class Account:
        def first(self) -> str:
            """First of its kind."""
            barrier.wait(PATIENCE)
            return "first"

        def second(self) -> str:
            """Second of its kind."""
            return "second"

    def free() -> str:
        """Shares nothing."""
        barrier.wait(PATIENCE)
        return "free"

    account = Account()
    calls = ["first", "second", "free"]
    assert told(go(endpoint, calls, [account.first, account.second, free], tool_concurrency_limit=2)) == calls


@both_modes
def test_methods_of_different_instances_run_together(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    barrier = threading.Barrier(2)

    class Account:
        def meet(self) -> str:
            """Meet."""
            barrier.wait(PATIENCE)
            return "met"

    tools = [tool(name="one")(Account().meet), tool(name="two")(Account().meet)]
    assert told(go(endpoint, ["one", "two"], tools)) == ["met", "met"]


# In the model's order.


@both_modes
@pytest.mark.parametrize("decorated", [False, True], ids=["plain", "decorated"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync-tools", "async-tools"])
def test_methods_of_one_instance_keep_the_models_order(
    endpoint: Endpoint, go: Callable[..., RunResult], decorated: bool, is_async: bool
) -> None:
    log = Log()

    class Plain:
        def deposit(self) -> str:
            """Deposit."""
            return log.work("deposit")

        def withdraw(self) -> str:
            """Withdraw."""
            return log.work("withdraw")

    class PlainAsync:
        async def deposit(self) -> str:
            """Deposit."""
            return await asyncio.to_thread(log.work, "deposit")

        async def withdraw(self) -> str:
            """Withdraw."""
            return await asyncio.to_thread(log.work, "withdraw")

    class Decorated:
        deposit = tool(Plain.deposit)
        withdraw = tool(Plain.withdraw)

    class DecoratedAsync:
        deposit = tool(PlainAsync.deposit)
        withdraw = tool(PlainAsync.withdraw)

    kinds = {
        (False, False): Plain,
        (False, True): PlainAsync,
        (True, False): Decorated,
        (True, True): DecoratedAsync,
    }
    account: Any = kinds[decorated, is_async]()
    calls = ["withdraw", "deposit", "withdraw", "deposit"]
    result = go(endpoint, calls, [account.deposit, account.withdraw])
    assert (log.entries, log.overlaps, told(result)) == (calls, [], calls)


@both_modes
def test_a_sync_and_an_async_method_of_one_instance_keep_the_models_order(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    log = Log()

    class Account:
        def deposit(self) -> str:
            """Deposit."""
            return log.work("deposit")

        async def withdraw(self) -> str:
            """Withdraw."""
            return await asyncio.to_thread(log.work, "withdraw")

    account = Account()
    calls = ["withdraw", "deposit", "withdraw"]
    go(endpoint, calls, [account.deposit, account.withdraw])
    assert (log.entries, log.overlaps) == (calls, [])


@both_modes
def test_calls_of_one_callable_object_keep_the_models_order(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    log = Log()

    class Step:
        def __call__(self) -> str:
            """Step."""
            return log.work("step")

    go(endpoint, ["step", "step", "step"], [tool(name="step")(Step())])
    assert log.overlaps == []


@both_modes
@pytest.mark.parametrize("hint", ["sequential", "destructive"])
@pytest.mark.parametrize("kind", ["tool", "async_tool"])
def test_a_call_that_must_be_alone_is(
    endpoint: Endpoint, go: Callable[..., RunResult], hint: str, kind: str
) -> None:
    log = Log()
    make = getattr(log, kind)
    tools = [make("before"), make("alone", **{hint: True}), make("after")]
    result = go(endpoint, ["before", "alone", "after"], tools)
    assert (log.entries, log.overlaps) == (["before", "alone", "after"], [])
    assert told(result) == ["before", "alone", "after"]


@both_modes
def test_calls_on_either_side_of_one_that_must_be_alone_still_run_together(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    tools = meeting(["a", "b"])
    order: list[str] = []

    @tool(sequential=True)
    def alone() -> str:
        """Alone."""
        order.append("alone")
        return "alone"

    result = go(endpoint, ["a", "b", "alone", "a", "b"], [*tools, alone])
    assert told(result) == ["a", "b", "alone", "a", "b"]
    assert order == ["alone"]


def state_tool(log: Log, name: str, **mapping: Any) -> Tool:
    def work(**_: Any) -> dict[str, str]:
        log.work(name)
        return {"value": name}

    return Tool(name=name, description=name, parameters=NO_PARAMETERS, function=work, **mapping)


@both_modes
def test_a_call_that_reads_a_state_key_comes_after_one_that_writes_it(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    seen: list[str] = []
    read_twice = threading.Event()

    def write() -> dict[str, str]:
        read_twice.wait(BRIEF)
        return {"value": "new"}

    def read(note: str = "old") -> str:
        seen.append(note)
        if len(seen) == 2:
            read_twice.set()
        return note

    tools = [
        Tool("write", "Write.", NO_PARAMETERS, write, outputs_to_state={"note": {"source": "value"}}),
        Tool("read", "Read.", NO_PARAMETERS, read, inputs_from_state={"note": "note"}),
    ]
    result = go(endpoint, ["read", "write", "read"], tools, state_schema={"note": {"type": str}})
    assert seen == ["old", "new"]
    assert result["note"] == "new"


@both_modes
def test_calls_that_write_one_state_key_keep_the_models_order(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    log = Log()
    mapping = {"outputs_to_state": {"note": {"source": "value"}}}
    tools = [state_tool(log, "one", **mapping), state_tool(log, "two", **mapping)]
    result = go(endpoint, ["two", "one", "two"], tools, state_schema={"note": {"type": str}})
    assert (log.entries, log.overlaps) == (["two", "one", "two"], [])
    assert result["note"] == "two"


@both_modes
def test_calls_that_only_read_a_state_key_run_together(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    barrier = threading.Barrier(2)

    def look(note: str = "") -> str:
        barrier.wait(PATIENCE)
        return "seen"

    tools = [Tool(n, n, NO_PARAMETERS, look, inputs_from_state={"note": "note"}) for n in ("one", "two")]
    assert told(go(endpoint, ["one", "two"], tools, state_schema={"note": {"type": str}})) == ["seen", "seen"]


@both_modes
def test_a_call_that_takes_the_whole_state_is_beside_no_writer(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    log = Log()

    def whole(state: State) -> str:
        return log.work("whole")

    tools = [
        Tool("whole", "Whole.", NO_PARAMETERS, whole),
        state_tool(log, "write", outputs_to_state={"note": {"source": "value"}}),
    ]
    go(endpoint, ["write", "whole", "write"], tools, state_schema={"note": {"type": str}})
    assert (log.entries, log.overlaps) == (["write", "whole", "write"], [])


@both_modes
def test_a_limit_of_one_orders_everything(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    log = Log()
    calls = ["c", "a", "d", "b"]
    go(endpoint, calls, [log.tool(name) for name in "abcd"], tool_concurrency_limit=1)
    assert (log.entries, log.overlaps) == (calls, [])


@both_modes
def test_a_limit_of_one_orders_also_calls_that_wait_for_one_another(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    log = Log()

    class Account:
        def deposit(self) -> str:
            """Deposit."""
            return log.work("deposit")

        def withdraw(self) -> str:
            """Withdraw."""
            return log.work("withdraw")

    account = Account()
    calls = ["withdraw", "deposit", "free"]
    tools = [account.deposit, account.withdraw, log.tool("free")]
    go(endpoint, calls, tools, tool_concurrency_limit=1)
    assert (log.entries, log.overlaps) == (calls, [])


@both_modes
def test_never_more_calls_at_a_time_than_the_limit(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    lock = threading.Lock()
    at_work, most = 0, 0
    pair = threading.Barrier(2)  # each pair proves that two do run together

    def work() -> str:
        """Work."""
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        pair.wait(PATIENCE)
        with lock:
            at_work -= 1
        return "ok"

    assert told(go(endpoint, ["work"] * 6, [work], tool_concurrency_limit=2)) == ["ok"] * 6
    assert most == 2


# Results.


@both_modes
def test_results_come_in_the_calls_order_whichever_ends_first(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    last_is_done = threading.Event()

    def slow() -> str:
        """Slow."""
        assert last_is_done.wait(PATIENCE)
        return "slow"

    def quick() -> str:
        """Quick."""
        return "quick"

    def watch(event: Event) -> None:
        if isinstance(event, ToolFinished):
            last_is_done.set()

    chunks: list[StreamingChunk] = []
    result = go(endpoint, ["slow", "quick"], [slow, quick], watch, streaming_callback=chunks.append)
    assert told(result) == ["slow", "quick"]
    assert [c.tool_call_result.result for c in chunks if c.tool_call_result] == ["slow", "quick"]
    sent = endpoint.requests[1].messages
    assert [m["tool_call_id"] for m in sent[-2:]] == [c["id"] for c in sent[-3]["tool_calls"]]
    finished = [event.tool_name for event in result.events if isinstance(event, ToolFinished)]
    assert finished == ["quick", "slow"], "events tell what happened when it happened"


@both_modes
def test_a_failure_doesnt_keep_the_calls_after_it_from_running(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    class Account:
        def deposit(self) -> str:
            """Deposit."""
            raise ValueError("closed")

        def withdraw(self) -> str:
            """Withdraw."""
            return "ok"

    account = Account()
    result = go(endpoint, ["deposit", "withdraw"], [account.deposit, account.withdraw])
    assert told(result)[1] == "ok"
    assert "closed" in told(result)[0]


@both_modes
def test_an_unknown_call_keeps_its_place_among_the_results(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    results = told(go(endpoint, ["a", "nonsense", "b"], meeting(["a", "b"])))
    assert (results[0], results[2]) == ("a", "b")
    assert "nonsense" in results[1]


@both_modes
def test_each_call_starts_once_and_ends_once_in_the_events(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    result = go(endpoint, ["a", "b", "c"], meeting(["a", "b", "c"]))
    started = [event.call_id for event in result.events if isinstance(event, ToolStarted)]
    finished = [event.call_id for event in result.events if isinstance(event, ToolFinished)]
    assert sorted(started) == sorted(finished) == sorted(set(started))
    assert len(started) == 3


# Context variables, threads and event loops.


@both_modes
@pytest.mark.parametrize("is_async", [False, True], ids=["sync-tool", "async-tool"])
@pytest.mark.parametrize("count", [1, 3])
def test_context_variables_reach_tools(
    endpoint: Endpoint, go: Callable[..., RunResult], is_async: bool, count: int
) -> None:
    def who() -> str:
        """Who."""
        return WHO.get()

    async def who_async() -> str:
        """Who."""
        await asyncio.sleep(0)
        return WHO.get()

    token = WHO.set("Ann")
    try:
        result = go(endpoint, ["who"] * count, [tool(name="who")(who_async if is_async else who)])
    finally:
        WHO.reset(token)
    assert told(result) == ["Ann"] * count


@both_modes
def test_calls_that_run_together_dont_see_each_others_context(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    barrier = threading.Barrier(2)

    def member(name: str) -> Any:
        def claim() -> str:
            WHO.set(name)
            barrier.wait(PATIENCE)
            return WHO.get()

        return tool(name=name, description=name)(claim)

    assert told(go(endpoint, ["a", "b"], [member("a"), member("b")])) == ["a", "b"]
    assert WHO.get() == "nobody"


def test_a_single_sync_call_of_a_sync_run_stays_on_the_callers_thread(endpoint: Endpoint) -> None:
    def where() -> str:
        """Where."""
        return threading.current_thread().name

    assert told(run(endpoint, ["where"], [where])) == [threading.current_thread().name]


def test_a_sync_tool_doesnt_hold_the_event_loop_up(endpoint: Endpoint) -> None:
    loop_went_on = threading.Event()

    def block() -> str:
        """Block until the event loop has gone on."""
        return str(loop_went_on.wait(PATIENCE))

    async def main() -> RunResult:
        async with agent_on(endpoint, [block]) as agent:
            run = asyncio.create_task(agent.run_async("go"))
            assert await asyncio.to_thread(endpoint.wait_for_requests, 1, PATIENCE)
            asyncio.get_running_loop().call_soon(loop_went_on.set)
            return await run

    endpoint.script(Reply(calls=[("block", {})]), Reply("done"))
    assert told(asyncio.run(main())) == ["True"]


def test_async_tools_of_sync_runs_share_one_event_loop_from_run_to_run(endpoint: Endpoint) -> None:
    loops: set[int] = set()
    names: set[str] = set()

    @tool
    async def note() -> str:
        """Note the loop."""
        loops.add(id(asyncio.get_running_loop()))
        names.add(threading.current_thread().name)
        return "ok"

    endpoint.script(*[Reply(calls=[("note", {}), ("note", {})]), Reply("done")] * 2)
    with agent_on(endpoint, [note]) as agent:
        agent.run("go")
        agent.run("go")
    assert len(loops) == 1
    assert threading.current_thread().name not in names


def test_async_tools_of_async_runs_run_on_the_callers_loop(endpoint: Endpoint) -> None:
    @tool
    async def note() -> str:
        """Note the thread."""
        return threading.current_thread().name

    assert told(run_async(endpoint, ["note"], [note])) == [threading.current_thread().name]


def test_runs_of_one_agent_in_many_threads_keep_apart(endpoint: Endpoint) -> None:
    count = 6
    barrier = threading.Barrier(count)

    @tool
    async def echo(text: str) -> str:
        """Echo."""
        await asyncio.to_thread(barrier.wait, PATIENCE)  # all runs are within their tool at one time
        return text

    def answer(request: Any) -> Reply:
        last = request.messages[-1]
        return (
            Reply(last["content"])
            if last["role"] == "tool"
            else Reply(calls=[("echo", {"text": last["content"]})])
        )

    endpoint.script(Always(answer))
    texts: dict[int, str] = {}
    with agent_on(endpoint, [echo]) as agent:

        def one(number: int) -> None:
            texts[number] = agent.run(f"task {number}").text

        threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
    assert texts == {i: f"task {i}" for i in range(count)}


@both_modes
def test_a_call_does_not_run_when_the_one_before_it_ended_the_batch(go: Callable[..., RunResult]) -> None:
    log: list[str] = []

    class Database:
        def check(self) -> str:
            """Check."""
            log.append("check")
            raise ValueError("not sound")

        def wipe(self) -> str:
            """Wipe."""
            log.append("wipe")
            return "wiped"

    database = Database()
    tools = [database.check, database.wipe, Log().tool("free")]
    with Endpoint(strict=False) as forgiving, pytest.raises(ToolFailedError, match="not sound"):
        go(forgiving, ["check", "free", "wipe"], tools, raise_on_tool_invocation_failure=True)
    assert "wipe" not in log
