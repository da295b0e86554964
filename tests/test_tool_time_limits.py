"""A tool that holds, fails for a moment or says too much doesn't take the run with it."""

import asyncio
import gc
import json
import logging
import math
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict
from time import monotonic
from typing import Any

import pytest
from haystack.core.serialization import allow_deserialization_module
from haystack.dataclasses import StreamingChunk, TextContent
from haystack.tools import AgentTool
from haystack.tools.tool import Tool

from llama_agent import (
    Agent,
    CancelToken,
    ConfigurationError,
    Event,
    FunctionTool,
    Limits,
    RunContext,
    RunFinished,
    RunResult,
    ToolDenied,
    ToolFailedError,
    ToolFinished,
    ToolRetry,
    ToolRetryScheduled,
    ToolStarted,
    ToolTimedOut,
    tool,
)
from tests.calling import agent_on, both_modes, call, call_async, failed, generator, outcomes, told
from tests.endpoint import Always, Endpoint, Item, Reply, Request
from tests.programs import Program
from tests.strict_server import faults

HOLD = 60.0
"""Seconds that a tool holds which is never let go."""
BOUND = 20.0
"""Seconds within which a run ends whose tool would hold for so long."""
PATIENCE = 10.0
"""Seconds after which something that should have happened counts as never happening."""
SHORT = 0.3
"""A time limit that is to be reached."""
LONG = 30.0
"""A time limit that isn't."""

NO_PARAMETERS = {"type": "object", "properties": {}}
WHO: ContextVar[str] = ContextVar("who", default="nobody")

Go = Callable[..., RunResult]
Call = tuple[str, dict[str, Any]]


class Held:
    """Tools that hold until the test is over, or lets them go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.cancelled: list[bool] = []
        self._threads: list[threading.Thread] = []

    def hold(self) -> str:
        """Hold this thread."""
        self._threads.append(threading.current_thread())
        self.started.set()
        self.go_on.wait(HOLD)
        return "too late"

    def let_go(self) -> None:
        """Let all go, and wait until their threads have ended."""
        self.go_on.set()
        for thread in self._threads:
            if thread is not threading.main_thread():
                thread.join(PATIENCE)
                assert not thread.is_alive()

    def tool(self, name: str = "hold", **options: Any) -> FunctionTool[..., str]:
        def hold() -> str:
            """Hold."""
            return self.hold()

        return tool(name=name, **options)(hold)

    def async_tool(self, name: str = "hold", **options: Any) -> FunctionTool[..., Any]:
        async def hold() -> str:
            """Hold."""
            self.started.set()
            try:
                await asyncio.sleep(HOLD)
            except asyncio.CancelledError:
                self.cancelled.append(True)
                raise
            return "too late"

        return tool(name=name, **options)(hold)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.let_go()


def run(endpoint: Endpoint, tools: Any, *items: Item | Any, go: Go = call, **settings: Any) -> RunResult:
    """A run of a script."""
    given = {name: settings.pop(name) for name in ("on_event", "limits") if name in settings}

    async def main() -> RunResult:
        async with agent_on(endpoint, tools, **settings) as agent:
            return await agent.run_async("go", **given)

    endpoint.script(*items)
    began = monotonic()
    if go is call_async:
        result = asyncio.run(main())
    else:
        with agent_on(endpoint, tools, **settings) as agent:
            result = agent.run("go", **given)
    assert monotonic() - began < BOUND
    return result


def texts(result: RunResult) -> list[str]:
    return [str(outcome.result) for outcome in outcomes(result)]


def errors(result: RunResult) -> list[bool]:
    return [outcome.error for outcome in outcomes(result)]


def of(result: RunResult, kind: type) -> list[Any]:
    return [event for event in result.events if isinstance(event, kind)]


def timed_out(text: object, name: str = "hold") -> bool:
    return f"Tool '{name}' did not finish within" in str(text)


HOLD_CALL = Reply(calls=[("hold", {})])


@tool
def quick() -> str:
    """Be quick."""
    return "quick"


@tool
async def quick_async() -> str:
    """Be quick."""
    await asyncio.sleep(0)
    return "quick"


# A tool that holds.


@both_modes
@pytest.mark.parametrize("kind", ["tool", "async_tool"])
def test_a_run_goes_on_without_a_tool_that_holds(endpoint: Endpoint, held: Held, go: Go, kind: str) -> None:
    made = getattr(held, kind)(timeout=SHORT)
    result = run(endpoint, [made], HOLD_CALL, Reply("done"), go=go)
    assert told(result).startswith(f"Tool 'hold' did not finish within {SHORT} seconds")
    assert (failed(result), result.text, result.stop_reason) == (True, "done", "answered")
    assert endpoint.requests[-1].messages[-1]["content"] == told(result)


@both_modes
def test_a_leaked_thread_is_told_in_an_event_and_counted(endpoint: Endpoint, held: Held, go: Go) -> None:
    result = run(endpoint, [held.tool(timeout=SHORT)], HOLD_CALL, Reply("done"), go=go)
    (event,) = of(result, ToolTimedOut)
    assert (event.tool_name, event.call_id, event.seconds, event.leaked) == ("hold", "call_1", SHORT, True)
    assert json.loads(json.dumps(event.to_dict()))["type"] == "ToolTimedOut"
    assert result.leaked_threads == 1


@both_modes
def test_an_async_tool_leaks_nothing(endpoint: Endpoint, held: Held, go: Go) -> None:
    result = run(endpoint, [held.async_tool(timeout=SHORT)], HOLD_CALL, Reply("done"), go=go)
    (event,) = of(result, ToolTimedOut)
    assert (event.tool_name, event.seconds, event.leaked) == ("hold", SHORT, False)
    assert result.leaked_threads == 0
    assert held.cancelled == [True]


@both_modes
def test_a_run_whose_tools_keep_their_time_has_leaked_nothing(endpoint: Endpoint, go: Go) -> None:
    tools = [tool(timeout=LONG)(quick.target), tool(timeout=LONG)(quick_async.target)]
    result = run(endpoint, tools, Reply(calls=[("quick", {}), ("quick_async", {})]), Reply("done"), go=go)
    assert (texts(result), errors(result)) == (["quick", "quick"], [False, False])
    assert (result.leaked_threads, of(result, ToolTimedOut)) == (0, [])


@both_modes
def test_a_leaked_thread_is_warned_of_in_the_log(
    endpoint: Endpoint, held: Held, go: Go, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        run(endpoint, [held.tool(timeout=SHORT)], HOLD_CALL, Reply("done"), go=go)
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("llama_agent") and record.levelno >= logging.WARNING
    ]
    assert any("hold" in text for text in warnings)


@both_modes
@pytest.mark.parametrize("kind", ["tool", "async_tool"])
def test_a_time_out_prints_nothing(
    endpoint: Endpoint,
    held: Held,
    go: Go,
    kind: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(endpoint, [getattr(held, kind)(timeout=SHORT)], HOLD_CALL, Reply("done"), go=go)
    held.let_go()
    gc.collect()
    assert capfd.readouterr() == ("", "")
    # Without a handler, as in most programs, Python prints these.
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@both_modes
@pytest.mark.parametrize("kind", ["tool", "async_tool"])
def test_a_call_that_ran_out_of_time_has_one_end(endpoint: Endpoint, held: Held, go: Go, kind: str) -> None:
    heard: list[Event] = []
    made = getattr(held, kind)(timeout=SHORT)
    result = run(endpoint, [made], HOLD_CALL, Reply("done"), go=go, on_event=heard.append)
    held.let_go()
    kinds = [type(event) for event in heard if isinstance(event, ToolStarted | ToolTimedOut | ToolFinished)]
    assert kinds == [ToolStarted, ToolTimedOut, ToolFinished]
    (finished,) = of(result, ToolFinished)
    assert (finished.error, finished.result) == (True, told(result))
    assert isinstance(heard[-1], RunFinished)
    assert (result.usage.tool_calls, result["tool_call_counts"]) == (1, {"hold": 1})


@both_modes
def test_a_history_with_a_time_out_is_whole(endpoint: Endpoint, held: Held, go: Go) -> None:
    calls = Reply(calls=[("hold", {}), ("quick", {}), ("slow", {})])
    tools = [held.tool(timeout=SHORT), quick, held.async_tool("slow", timeout=SHORT)]
    run(endpoint, tools, calls, Reply("done"), go=go)
    assert list(faults(endpoint.requests[-1].messages)) == []


@both_modes
def test_with_raise_on_failure_a_time_out_raises(endpoint: Endpoint, held: Held, go: Go) -> None:
    with pytest.raises(ToolFailedError) as caught:
        run(
            endpoint,
            [held.tool(timeout=SHORT)],
            HOLD_CALL,
            go=go,
            raise_on_tool_invocation_failure=True,
        )
    assert (caught.value.tool_name, timed_out(caught.value)) == ("hold", True)
    assert caught.value.result is not None
    assert caught.value.result.leaked_threads == 1


@both_modes
def test_a_tool_that_ends_the_run_doesnt_when_it_runs_out_of_time(
    endpoint: Endpoint, held: Held, go: Go
) -> None:
    tools = [held.tool(timeout=SHORT)]
    result = run(endpoint, tools, HOLD_CALL, Reply("done"), go=go, exit_conditions=["hold", "text"])
    assert (result.stop_reason, result.text) == ("answered", "done")


@both_modes
def test_the_result_of_a_time_out_is_streamed_like_others(endpoint: Endpoint, held: Held, go: Go) -> None:
    shown: list[str] = []

    def listen(chunk: StreamingChunk) -> None:
        if chunk.tool_call_result is not None:
            shown.append(str(chunk.tool_call_result.result))

    result = run(
        endpoint, [held.tool(timeout=SHORT)], HOLD_CALL, Reply("done"), go=go, streaming_callback=listen
    )
    held.let_go()
    assert shown == [told(result)]


# What comes later counts nowhere.


def letting_go(held: Held, then: Item) -> Callable[[Request], Item]:
    """An answer of the model that comes once the leaked tool has returned."""

    def answer(request: Request) -> Item:
        held.let_go()
        return then

    return answer


@both_modes
def test_what_a_leaked_tool_returns_later_counts_nowhere(endpoint: Endpoint, held: Held, go: Go) -> None:
    def hold() -> dict[str, str]:
        """Hold."""
        return {"text": held.hold()}

    def look(note: str) -> str:
        """Look at the note."""
        return note

    tools = [
        tool(timeout=SHORT, outputs_to_state={"note": {"source": "text"}})(hold),
        tool(inputs_from_state={"note": "note"})(look),
    ]
    schema = {"note": {"type": str}}
    script = [HOLD_CALL, letting_go(held, Reply(calls=[("look", {})])), Reply("done")]

    async def main() -> RunResult:
        async with agent_on(endpoint, tools, state_schema=schema) as agent:
            return await agent.run_async("go", note="as before")

    endpoint.script(*script)
    if go is call_async:
        result = asyncio.run(main())
    else:
        with agent_on(endpoint, tools, state_schema=schema) as agent:
            result = agent.run("go", note="as before")
    assert texts(result)[1:] == ["as before"]
    assert (result["note"], len(of(result, ToolFinished))) == ("as before", 2)
    assert "too late" not in str(result.messages)


@both_modes
def test_a_leaked_thread_that_ends_before_the_run_isnt_counted(
    endpoint: Endpoint, held: Held, go: Go
) -> None:
    result = run(endpoint, [held.tool(timeout=SHORT)], HOLD_CALL, letting_go(held, Reply("done")), go=go)
    assert [event.leaked for event in of(result, ToolTimedOut)] == [True]
    assert result.leaked_threads == 0


@both_modes
@pytest.mark.parametrize("error", [ValueError("late"), StopIteration("late"), SystemExit(3)], ids=repr)
def test_what_a_leaked_tool_raises_later_counts_nowhere(
    endpoint: Endpoint, held: Held, go: Go, capfd: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def hold() -> str:
        """Hold."""
        held.hold()
        raise error

    result = run(endpoint, [tool(timeout=SHORT)(hold)], HOLD_CALL, letting_go(held, Reply("done")), go=go)
    assert (errors(result), timed_out(told(result)), result.text) == ([True], True, "done")
    assert capfd.readouterr() == ("", "")


@both_modes
def test_after_the_end_of_a_run_nothing_is_heard_of_it(endpoint: Endpoint, held: Held, go: Go) -> None:
    heard: list[Event] = []

    @tool(timeout=SHORT)
    def hold(context: RunContext[None]) -> str:
        """Hold, then say so."""
        held.hold()
        context.progress("too late")
        return "too late"

    result = run(endpoint, [hold], HOLD_CALL, Reply("done"), go=go, on_event=heard.append)
    held.let_go()
    assert isinstance(heard[-1], RunFinished)
    assert isinstance(result.events[-1], RunFinished)


@both_modes
def test_each_leaked_thread_is_counted(endpoint: Endpoint, held: Held, go: Go) -> None:
    tools = [held.tool("one", timeout=SHORT), held.tool("two", timeout=SHORT), quick]
    script = [Reply(calls=[("one", {}), ("two", {}), ("quick", {})]), Reply(calls=[("one", {})])]
    result = run(endpoint, tools, *script, Reply("done"), go=go)
    assert errors(result) == [True, True, False, True]
    assert result.leaked_threads == 3


def test_a_run_counts_its_own_leaked_threads_only(endpoint: Endpoint, held: Held) -> None:
    endpoint.script(HOLD_CALL, Reply("done"), Reply("well"))
    with agent_on(endpoint, [held.tool(timeout=SHORT)]) as agent:
        assert agent.run("go").leaked_threads == 1
        assert agent.run("go").leaked_threads == 0


LEAVES = """
import sys, threading
from llama_agent import Agent, MetaLlamaChatGenerator, tool

@tool(timeout=0.3)
def hold() -> str:
    "Hold."
    threading.Event().wait(60)

generator = MetaLlamaChatGenerator(api_base_url=sys.argv[1], model="m", max_retries=0)
with Agent(chat_generator=generator, tools=[hold]) as agent:
    print(agent.run("go").text, flush=True)
"""


def test_a_program_ends_though_a_leaked_thread_still_holds(endpoint: Endpoint) -> None:
    endpoint.script(HOLD_CALL, Reply("done"))
    with Program(LEAVES, endpoint.url) as program:
        assert program.rest() == (["done"], "", 0)


# Others beside it.


@both_modes
@pytest.mark.parametrize("kind", ["tool", "async_tool"])
@pytest.mark.parametrize("is_async", [False, True], ids=["beside sync", "beside async"])
def test_a_time_out_leaves_the_calls_beside_it_alone(
    endpoint: Endpoint, held: Held, go: Go, kind: str, is_async: bool
) -> None:
    over = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, ToolTimedOut):
            over.set()

    def outlast(context: RunContext[None]) -> str:
        """Last longer than the other's time."""
        assert over.wait(PATIENCE)
        return f"cancelled: {context.cancel.cancelled}"

    async def outlast_async(context: RunContext[None]) -> str:
        """Last longer than the other's time."""
        return await asyncio.to_thread(outlast, context)

    steady = tool(name="steady", timeout=LONG)(outlast_async if is_async else outlast)
    tools = [getattr(held, kind)(timeout=SHORT), steady]
    calls = [("steady", {}), ("hold", {}), ("steady", {})]
    result = run(endpoint, tools, Reply(calls=calls), Reply("done"), go=go, on_event=listen)
    assert errors(result) == [False, True, False]
    assert texts(result)[::2] == ["cancelled: False"] * 2


@both_modes
@pytest.mark.parametrize("hint", ["sequential", "destructive"])
def test_a_call_that_must_be_alone_comes_after_one_that_ran_out_of_time(
    endpoint: Endpoint, held: Held, go: Go, hint: str
) -> None:
    alone = tool(**{hint: True})(quick.target)  # type: ignore[call-overload]
    calls = [("hold", {}), ("quick", {}), ("hold", {}), ("quick", {})]
    result = run(endpoint, [held.tool(timeout=SHORT), alone], Reply(calls=calls), Reply("done"), go=go)
    assert errors(result) == [True, False, True, False]


@both_modes
@pytest.mark.parametrize("limit", [1, 2])
def test_a_leaked_call_gives_its_place_to_the_next(
    endpoint: Endpoint, held: Held, go: Go, limit: int
) -> None:
    calls = [("hold", {}), ("hold", {}), ("quick", {}), ("quick_async", {})]
    result = run(
        endpoint,
        [held.tool(timeout=SHORT), quick, quick_async],
        Reply(calls=calls),
        Reply("done"),
        go=go,
        tool_concurrency_limit=limit,
    )
    assert errors(result) == [True, True, False, False]


@both_modes
def test_another_method_of_the_object_comes_after_one_that_ran_out_of_time(
    endpoint: Endpoint, held: Held, go: Go
) -> None:
    class Account:
        @tool(timeout=SHORT)
        def withdraw(self) -> str:
            """Withdraw."""
            return held.hold()

        @tool(timeout=LONG)
        def balance(self) -> str:
            """Give the balance."""
            return "12"

    account = Account()
    calls = [("withdraw", {}), ("balance", {})]
    result = run(endpoint, [account.withdraw, account.balance], Reply(calls=calls), Reply("done"), go=go)
    assert (errors(result), texts(result)[1]) == ([True, False], "12")


@both_modes
def test_waiting_for_ones_turn_doesnt_count(endpoint: Endpoint, go: Go) -> None:
    def slow() -> str:
        """Take a second."""
        threading.Event().wait(1.0)
        return "slow"

    tools = [tool(sequential=True)(slow), tool(timeout=0.5)(quick.target)]
    result = run(endpoint, tools, Reply(calls=[("slow", {}), ("quick", {})]), Reply("done"), go=go)
    assert texts(result) == ["slow", "quick"]


@both_modes
def test_waiting_for_a_persons_word_doesnt_count(endpoint: Endpoint, go: Go) -> None:
    class Slow:
        def needs(self, call: Any, tool: Any) -> bool:
            return True

        def ask(self, call: Any, tool: Any) -> None:
            threading.Event().wait(1.0)

    tools = [tool(timeout=0.5)(quick.target)]
    result = run(endpoint, tools, Reply(calls=[("quick", {})]), Reply("done"), go=go, approval=Slow())
    assert texts(result) == ["quick"]


# Tools that take their time-out in all manners.


@both_modes
def test_a_tool_sees_that_its_time_is_over(endpoint: Endpoint, go: Go) -> None:
    seen: list[bool] = []
    ended = threading.Event()

    @tool(timeout=SHORT)
    def patient(context: RunContext[None]) -> str:
        """Wait until it is told."""
        seen.append(context.cancel.cancelled)
        seen.append(context.cancel.wait(HOLD))
        seen.append(context.cancel.cancelled)
        ended.set()
        return "stopped early"

    result = run(endpoint, [patient], Reply(calls=[("patient", {})]), Reply("done"), go=go)
    assert ended.wait(PATIENCE)
    assert seen == [False, True, True]
    assert timed_out(told(result), "patient")


@both_modes
def test_the_next_call_of_a_tool_begins_with_its_time_whole(endpoint: Endpoint, go: Go) -> None:
    attempts: list[bool] = []

    @tool(timeout=1.0)
    def patient(context: RunContext[None]) -> str:
        """Wait until it is told, the first time."""
        attempts.append(context.cancel.cancelled)
        if len(attempts) == 1:
            context.cancel.wait(HOLD)
        return "in time"

    again = Reply(calls=[("patient", {})])
    result = run(endpoint, [patient], again, again, Reply("done"), go=go)
    assert attempts == [False, False]
    assert (errors(result), texts(result)[1]) == ([True, False], "in time")


@both_modes
def test_a_time_out_of_a_tool_doesnt_cancel_the_run(endpoint: Endpoint, held: Held, go: Go) -> None:
    token = CancelToken()
    endpoint.script(HOLD_CALL, Reply("done"))
    tools = [held.tool(timeout=SHORT)]

    async def main() -> RunResult:
        async with agent_on(endpoint, tools) as agent:
            return await agent.run_async("go", cancel=token)

    if go is call_async:
        result = asyncio.run(main())
    else:
        with agent_on(endpoint, tools) as agent:
            result = agent.run("go", cancel=token)
    assert (result.stop_reason, token.cancelled) == ("answered", False)


@both_modes
@pytest.mark.parametrize("what", ["returns", "raises"])
def test_an_async_tool_that_swallows_its_cancellation_ran_out_of_time_all_the_same(
    endpoint: Endpoint, go: Go, what: str
) -> None:
    @tool(timeout=SHORT)
    async def stubborn() -> str:
        """Catch everything."""
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(HOLD)
        if what == "raises":
            raise ValueError("never mind")
        return "never mind"

    result = run(endpoint, [stubborn], Reply(calls=[("stubborn", {})]), Reply("done"), go=go)
    assert (timed_out(told(result), "stubborn"), failed(result)) == (True, True)
    assert "never mind" not in told(result)
    assert len(of(result, ToolTimedOut)) == len(of(result, ToolFinished)) == 1


@both_modes
def test_an_async_tool_that_wont_end_doesnt_hold_the_run_up(endpoint: Endpoint, go: Go) -> None:
    release: list[Callable[[], object]] = []

    @tool(timeout=SHORT)
    async def stubborn() -> str:
        """Catch everything, and go on."""
        loop, gone_on = asyncio.get_running_loop(), asyncio.Event()
        release.append(lambda: loop.call_soon_threadsafe(gone_on.set))
        while not gone_on.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(gone_on.wait(), HOLD)
        return "never mind"

    def answer(request: Request) -> Item:
        for let_go in release:
            let_go()
        return Reply("done")

    result = run(endpoint, [stubborn], Reply(calls=[("stubborn", {})]), answer, go=go)
    assert (timed_out(told(result), "stubborn"), result.text) == (True, "done")


@both_modes
def test_an_async_tool_that_cleans_up_for_long_doesnt_hold_the_run_up(endpoint: Endpoint, go: Go) -> None:
    @tool(timeout=SHORT)
    async def tidy() -> str:
        """Clean up for ever."""
        try:
            await asyncio.sleep(HOLD)
        finally:
            await asyncio.sleep(HOLD)
        return "tidy"

    result = run(endpoint, [tidy, quick], Reply(calls=[("tidy", {}), ("quick", {})]), Reply("done"), go=go)
    assert (errors(result), timed_out(texts(result)[0], "tidy")) == ([True, False], True)


TIMEOUT = TimeoutError("the database did not answer")


@both_modes
@pytest.mark.parametrize(
    ("is_async", "error"), [(False, TIMEOUT), (True, TIMEOUT), (True, asyncio.CancelledError())], ids=repr
)
def test_a_time_out_within_the_tool_isnt_the_tools_own(
    endpoint: Endpoint, go: Go, is_async: bool, error: BaseException
) -> None:
    def fail() -> str:
        """Fail."""
        raise error

    async def fail_async() -> str:
        """Fail."""
        raise error

    made = tool(name="fail", timeout=LONG)(fail_async if is_async else fail)
    result = run(endpoint, [made], Reply(calls=[("fail", {})]), Reply("done"), go=go)
    assert (of(result, ToolTimedOut), failed(result)) == ([], True)
    assert "did not finish within" not in told(result)
    assert type(error).__name__ in told(result)


@both_modes
def test_a_wait_for_within_the_tool_isnt_its_own_time_out(endpoint: Endpoint, go: Go) -> None:
    @tool(timeout=LONG)
    async def ask() -> str:
        """Ask somebody who doesn't answer."""
        try:
            await asyncio.wait_for(asyncio.sleep(HOLD), 0.05)
        except TimeoutError:
            return "nobody answered"
        return "answered"

    result = run(endpoint, [ask], Reply(calls=[("ask", {})]), Reply("done"), go=go)
    assert told(result) == "nobody answered"


@both_modes
def test_items_of_a_generator_are_taken_within_the_time(endpoint: Endpoint, held: Held, go: Go) -> None:
    @tool(timeout=SHORT)
    def hold() -> Iterator[str]:
        """Give an item, then hold."""
        yield "first"
        held.hold()

    assert timed_out(told(run(endpoint, [hold], HOLD_CALL, Reply("done"), go=go)))


@both_modes
def test_items_of_an_async_generator_are_taken_within_the_time(endpoint: Endpoint, go: Go) -> None:
    closed: list[str] = []

    @tool(timeout=SHORT)
    async def hold() -> AsyncIterator[str]:
        """Give an item, then hold."""
        try:
            yield "first"
            await asyncio.sleep(HOLD)
        finally:
            closed.append("closed")

    assert timed_out(told(run(endpoint, [hold], HOLD_CALL, Reply("done"), go=go)))
    assert closed == ["closed"]


@both_modes
def test_a_function_that_hides_that_it_is_async_has_its_time_limit(endpoint: Endpoint, go: Go) -> None:
    async def inner() -> str:
        await asyncio.sleep(HOLD)
        return "too late"

    @tool(timeout=SHORT)
    def hold() -> Any:
        """Hold."""
        return inner()

    result = run(endpoint, [hold], HOLD_CALL, Reply("done"), go=go)
    assert timed_out(told(result))


@both_modes
def test_a_tool_with_a_time_limit_sees_the_callers_context(endpoint: Endpoint, go: Go) -> None:
    def who() -> str:
        """Say who."""
        return WHO.get()

    token = WHO.set("somebody")
    try:
        result = run(endpoint, [tool(timeout=LONG)(who)], Reply(calls=[("who", {})]), Reply("done"), go=go)
    finally:
        WHO.reset(token)
    assert told(result) == "somebody"


@both_modes
def test_what_a_tool_within_its_time_limit_raises_is_told_as_ever(endpoint: Endpoint, go: Go) -> None:
    @tool(timeout=LONG)
    def fail() -> str:
        """Fail."""
        raise ValueError("the disk is full")

    result = run(endpoint, [fail], Reply(calls=[("fail", {})]), Reply("done"), go=go)
    assert told(result) == "Tool 'fail' failed: ValueError: the disk is full"
    (finished,) = of(result, ToolFinished)
    assert "in fail" in str(finished.traceback)


# The agent's time limit, and the run's.


def foreign(held: Held, *, is_async: bool) -> Tool:
    """A Haystack Tool that isn't ours."""

    def hold() -> str:
        return held.hold()

    async def hold_async() -> str:
        await asyncio.sleep(HOLD)
        return "too late"

    if is_async:
        return Tool("hold", "Hold.", NO_PARAMETERS, async_function=hold_async)
    return Tool("hold", "Hold.", NO_PARAMETERS, function=hold)


@both_modes
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_agents_time_limit_is_for_foreign_tools_too(
    endpoint: Endpoint, held: Held, go: Go, is_async: bool
) -> None:
    tools = [foreign(held, is_async=is_async)]
    result = run(endpoint, tools, HOLD_CALL, Reply("done"), go=go, tool_timeout=SHORT)
    assert (timed_out(told(result)), result.text) == (True, "done")
    assert [event.leaked for event in of(result, ToolTimedOut)] == [not is_async]


@both_modes
@pytest.mark.parametrize("kind", ["tool", "async_tool"])
def test_the_agents_time_limit_is_for_tools_without_their_own(
    endpoint: Endpoint, held: Held, go: Go, kind: str
) -> None:
    tools = [getattr(held, kind)()]
    result = run(endpoint, tools, HOLD_CALL, Reply("done"), go=go, tool_timeout=SHORT)
    assert told(result).startswith(f"Tool 'hold' did not finish within {SHORT} seconds")


def test_a_plain_function_has_the_agents_time_limit(endpoint: Endpoint, held: Held) -> None:
    def hold() -> str:
        """Hold."""
        return held.hold()

    result = run(endpoint, [hold], HOLD_CALL, Reply("done"), tool_timeout=SHORT)
    assert timed_out(told(result))


@both_modes
def test_a_tools_own_shorter_time_limit_wins(endpoint: Endpoint, held: Held, go: Go) -> None:
    result = run(endpoint, [held.tool(timeout=SHORT)], HOLD_CALL, Reply("done"), go=go, tool_timeout=LONG)
    assert [event.seconds for event in of(result, ToolTimedOut)] == [SHORT]


@both_modes
def test_a_tools_own_longer_time_limit_wins(endpoint: Endpoint, go: Go) -> None:
    def slow() -> str:
        """Take a second."""
        threading.Event().wait(1.0)
        return "slow"

    tools = [tool(timeout=LONG)(slow)]
    result = run(endpoint, tools, Reply(calls=[("slow", {})]), Reply("done"), go=go, tool_timeout=SHORT)
    assert told(result) == "slow"


@both_modes
@pytest.mark.parametrize("kind", ["tool", "async_tool"])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_a_tool_has_no_more_time_than_is_left_of_the_run(
    endpoint: Endpoint, held: Held, go: Go, kind: str, timeout: float | None
) -> None:
    made = getattr(held, kind)(timeout=timeout)
    result = run(endpoint, [made], HOLD_CALL, go=go, limits=Limits(seconds=2, landing=False))
    assert (result.stop_reason, timed_out(told(result))) == ("max_seconds", True)
    assert result.leaked_threads == (1 if kind == "tool" else 0)


@both_modes
def test_a_run_whose_tool_used_its_time_up_lands_with_an_answer(
    endpoint: Endpoint, held: Held, go: Go
) -> None:
    last = Reply("As far as I know: 5.")
    result = run(endpoint, [held.tool()], HOLD_CALL, last, go=go, limits=Limits(seconds=5))
    assert (result.stop_reason, result.text) == ("max_seconds", "As far as I know: 5.")
    assert "tools" not in endpoint.requests[-1].json


@both_modes
def test_a_tools_own_time_limit_holds_within_the_runs(endpoint: Endpoint, held: Held, go: Go) -> None:
    made = held.tool(timeout=SHORT)
    result = run(endpoint, [made], HOLD_CALL, Reply("done"), go=go, limits=Limits(seconds=HOLD))
    assert (result.stop_reason, result.text) == ("answered", "done")


@both_modes
@pytest.mark.parametrize("kind", ["tool", "async_tool"])
def test_a_sub_agents_tool_has_no_more_time_than_is_left_of_the_run_above(
    endpoint: Endpoint, held: Held, go: Go, kind: str
) -> None:
    inner = agent_on(endpoint, [getattr(held, kind)()])
    research = AgentTool(agent=inner, name="research", description="Delegate.")
    ask = Reply(calls=[("research", {"messages": [{"role": "user", "content": "Hold."}]})])
    result = run(endpoint, [research], ask, HOLD_CALL, go=go, limits=Limits(seconds=3, landing=False))
    inner.close()
    assert result.stop_reason == "max_seconds"


@both_modes
def test_a_sub_agent_that_ran_out_of_time_is_ended(endpoint: Endpoint, go: Go) -> None:
    inner = agent_on(endpoint, [quick])
    research = AgentTool(agent=inner, name="research", description="Delegate.")
    ask = Reply(calls=[("research", {"messages": [{"role": "user", "content": "Think."}]})])
    result = run(
        endpoint, [research], ask, Reply("too late", first_pause=HOLD), Reply("done"), go=go, tool_timeout=1
    )
    assert (timed_out(told(result), "research"), result.text) == (True, "done")
    assert endpoint.wait_for_disconnect(PATIENCE), "the sub-agent still waits for the model"
    inner.close()


# Transient failures.


class Flaky:
    """A tool that fails so many times before it succeeds."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.seen: list[tuple[str | None, list[str]]] = []

    def attempt(self, context: RunContext[None], items: list[str]) -> str:
        self.seen.append((context.call_id, list(items)))
        items.append("spoilt")
        if self.failures:
            raise self.failures.pop(0)
        return f"well, at attempt {len(self.seen)}"

    def tool(self, *, is_async: bool = False, **options: Any) -> FunctionTool[..., Any]:
        def fetch(items: list[str], context: RunContext[None]) -> str:
            """Fetch."""
            return self.attempt(context, items)

        async def fetch_async(items: list[str], context: RunContext[None]) -> str:
            """Fetch."""
            await asyncio.sleep(0)
            return self.attempt(context, items)

        return tool(name="fetch", **options)(fetch_async if is_async else fetch)


FETCH = Reply(calls=[("fetch", {"items": ["a", "b"]})])
DOWN = ConnectionError("the host is down")
either_kind = pytest.mark.parametrize("is_async", [False, True], ids=["function", "async function"])


@both_modes
@either_kind
@pytest.mark.parametrize("hint", ["read_only", "idempotent"])
def test_a_tool_that_may_be_called_again_is_after_a_transient_failure(
    endpoint: Endpoint, go: Go, is_async: bool, hint: str
) -> None:
    flaky = Flaky(DOWN, ConnectionResetError("reset"))
    made = flaky.tool(is_async=is_async, retry_on=(ConnectionError,), **{hint: True})
    result = run(endpoint, [made], FETCH, Reply("done"), go=go)
    assert (told(result), failed(result)) == ("well, at attempt 3", False)


@both_modes
@either_kind
def test_after_two_further_attempts_the_failure_is_told(endpoint: Endpoint, go: Go, is_async: bool) -> None:
    flaky = Flaky(*[DOWN] * 9)
    made = flaky.tool(is_async=is_async, retry_on=(ConnectionError,), read_only=True)
    result = run(endpoint, [made], FETCH, Reply("done"), go=go)
    assert told(result) == "Tool 'fetch' failed: ConnectionError: the host is down"
    assert (len(flaky.seen), failed(result), result.text) == (3, True, "done")


@both_modes
@pytest.mark.parametrize("hints", [{}, {"destructive": True}, {"sequential": True}], ids=str)
def test_a_tool_that_changes_something_is_not_called_again_by_default(
    endpoint: Endpoint, go: Go, hints: dict[str, bool]
) -> None:
    flaky = Flaky(DOWN)
    result = run(endpoint, [flaky.tool(retry_on=(ConnectionError,), **hints)], FETCH, Reply("done"), go=go)
    assert (len(flaky.seen), failed(result)) == (1, True)
    assert of(result, ToolRetryScheduled) == []


@both_modes
@either_kind
def test_a_number_of_retries_counts_for_any_tool(endpoint: Endpoint, go: Go, is_async: bool) -> None:
    flaky = Flaky(*[DOWN] * 9)
    made = flaky.tool(is_async=is_async, retry_on=(ConnectionError,), retries=1, destructive=True)
    run(endpoint, [made], FETCH, Reply("done"), go=go)
    assert len(flaky.seen) == 2


def test_no_retries_are_none(endpoint: Endpoint) -> None:
    flaky = Flaky(*[DOWN] * 9)
    made = flaky.tool(retry_on=(ConnectionError,), retries=0, read_only=True)
    run(endpoint, [made], FETCH, Reply("done"))
    assert len(flaky.seen) == 1


@both_modes
@either_kind
@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("no"), SystemExit(3)], ids=repr)
def test_another_failure_is_told_at_once(
    endpoint: Endpoint, go: Go, is_async: bool, error: BaseException
) -> None:
    flaky = Flaky(error)
    made = flaky.tool(is_async=is_async, retry_on=(ConnectionError,), retries=3)
    result = run(endpoint, [made], FETCH, Reply("done"), go=go)
    assert (len(flaky.seen), failed(result)) == (1, True)


@both_modes
@pytest.mark.parametrize("error", [ToolRetry("larger"), ToolDenied("not on a Sunday")], ids=repr)
def test_what_a_tool_says_to_the_model_isnt_a_transient_failure(
    endpoint: Endpoint, go: Go, error: Exception
) -> None:
    flaky = Flaky(error)
    result = run(endpoint, [flaky.tool(retry_on=(Exception,), retries=3)], FETCH, Reply("done"), go=go)
    assert (len(flaky.seen), str(error) in told(result)) == (1, True)


@both_modes
def test_a_second_failure_of_another_kind_ends_the_attempts(endpoint: Endpoint, go: Go) -> None:
    flaky = Flaky(DOWN, ValueError("no such page"))
    result = run(endpoint, [flaky.tool(retry_on=(ConnectionError,), retries=5)], FETCH, Reply("done"), go=go)
    assert told(result) == "Tool 'fetch' failed: ValueError: no such page"


@both_modes
@either_kind
def test_each_further_attempt_is_told_in_an_event(endpoint: Endpoint, go: Go, is_async: bool) -> None:
    secret = ConnectionError("GET https://host/v1?api_key=s3cr3t failed")
    flaky = Flaky(secret, DOWN)
    made = flaky.tool(is_async=is_async, retry_on=(ConnectionError,), retries=2)
    result = run(endpoint, [made], FETCH, Reply("done"), go=go)
    events = of(result, ToolRetryScheduled)
    assert [(e.tool_name, e.call_id, e.attempt) for e in events] == [("fetch", "call_1", n) for n in (1, 2)]
    assert all(isinstance(event.wait, float) and event.wait >= 0 for event in events)
    assert "the host is down" in events[1].reason
    assert "s3cr3t" not in json.dumps([event.to_dict() for event in result.events])


@both_modes
@either_kind
def test_attempts_are_one_call(endpoint: Endpoint, go: Go, is_async: bool) -> None:
    flaky = Flaky(DOWN, DOWN)
    made = flaky.tool(is_async=is_async, retry_on=(ConnectionError,), retries=2)
    result = run(endpoint, [made], FETCH, Reply("done"), go=go, limits=Limits(tool_calls=1))
    assert (result.usage.tool_calls, result["tool_call_counts"]) == (1, {"fetch": 1})
    assert (len(of(result, ToolStarted)), len(of(result, ToolFinished))) == (1, 1)
    assert result.text == "done"
    assert [call_id for call_id, _ in flaky.seen] == ["call_1"] * 3


@both_modes
@either_kind
def test_a_further_attempt_gets_the_arguments_as_the_model_sent_them(
    endpoint: Endpoint, go: Go, is_async: bool
) -> None:
    flaky = Flaky(DOWN, DOWN)
    made = flaky.tool(is_async=is_async, retry_on=(ConnectionError,), retries=2)
    run(endpoint, [made], FETCH, Reply("done"), go=go)
    assert [items for _, items in flaky.seen] == [["a", "b"]] * 3


@both_modes
@either_kind
def test_the_time_limit_is_for_all_attempts_together(endpoint: Endpoint, go: Go, is_async: bool) -> None:
    flaky = Flaky(*[DOWN] * 100_000)
    made = flaky.tool(is_async=is_async, retry_on=(ConnectionError,), retries=99_999, timeout=1.0)
    result = run(endpoint, [made], FETCH, Reply("done"), go=go)
    assert (failed(result), result.text, result.leaked_threads) == (True, "done", 0)


@both_modes
def test_an_attempt_that_holds_ends_with_the_time_limit(endpoint: Endpoint, held: Held, go: Go) -> None:
    first = threading.Event()

    @tool(retry_on=(TimeoutError,), retries=5, timeout=2.0)
    def hold() -> str:
        """Fail, then hold."""
        if not first.is_set():
            first.set()
            raise TimeoutError("the database did not answer")
        return held.hold()

    result = run(endpoint, [hold], HOLD_CALL, Reply("done"), go=go)
    assert timed_out(told(result))
    assert [event.attempt for event in of(result, ToolRetryScheduled)] == [1]


@both_modes
def test_a_time_out_is_never_tried_again(endpoint: Endpoint, held: Held, go: Go) -> None:
    made = held.tool(timeout=SHORT, retry_on=(TimeoutError, Exception), retries=3)
    result = run(endpoint, [made], HOLD_CALL, Reply("done"), go=go)
    assert (len(of(result, ToolTimedOut)), of(result, ToolRetryScheduled)) == (1, [])
    assert result.leaked_threads == 1


@both_modes
def test_a_leaked_attempt_that_fails_later_is_never_tried_again(
    endpoint: Endpoint, held: Held, go: Go
) -> None:
    attempts: list[str] = []

    @tool(timeout=SHORT, retry_on=(ConnectionError,), retries=5)
    def hold() -> str:
        """Hold, then fail."""
        attempts.append("attempt")
        held.hold()
        raise ConnectionError("down")

    result = run(endpoint, [hold], HOLD_CALL, letting_go(held, Reply("done")), go=go)
    assert (attempts, of(result, ToolRetryScheduled), result.leaked_threads) == (["attempt"], [], 0)


@both_modes
def test_attempts_of_two_calls_dont_hold_each_other_up(endpoint: Endpoint, go: Go) -> None:
    flaky = Flaky(DOWN, DOWN)
    tools = [flaky.tool(retry_on=(ConnectionError,), retries=2), quick_async]
    result = run(endpoint, tools, Reply(calls=[*FETCH.calls, ("quick_async", {})]), Reply("done"), go=go)
    assert errors(result) == [False, False]


@both_modes
def test_with_raise_on_failure_only_the_last_attempt_raises(endpoint: Endpoint, go: Go) -> None:
    flaky = Flaky(DOWN, DOWN, DOWN)
    with pytest.raises(ToolFailedError) as caught:
        run(
            endpoint,
            [flaky.tool(retry_on=(ConnectionError,), retries=2)],
            FETCH,
            go=go,
            raise_on_tool_invocation_failure=True,
        )
    assert (len(flaky.seen), caught.value.__cause__) == (3, DOWN)


@both_modes
def test_arguments_that_dont_fit_are_never_tried_again(endpoint: Endpoint, go: Go) -> None:
    flaky = Flaky()
    made = flaky.tool(retry_on=(Exception,), retries=5)
    result = run(endpoint, [made], Reply(calls=[("fetch", {"items": 3})]), Reply("done"), go=go)
    assert (flaky.seen, failed(result), of(result, ToolRetryScheduled)) == ([], True, [])


# Results that are too long.


def say(text: str) -> Callable[[], str]:
    def say() -> str:
        """Say it."""
        return text

    return say


SAY = Reply(calls=[("say", {})])
NOTICE = 300
"""Most characters of what says that a text was cut."""


def said(endpoint: Endpoint, value: Any, limit: int | None, go: Go = call, **options: Any) -> str:
    def say() -> Any:
        """Say it."""
        return value

    return told(run(endpoint, [tool(max_result_chars=limit, **options)(say)], SAY, Reply("done"), go=go))


@both_modes
@either_kind
def test_a_result_that_is_too_long_is_cut_and_says_so(endpoint: Endpoint, go: Go, is_async: bool) -> None:
    def say() -> str:
        """Say it."""
        return "x" * 50_000

    async def say_async() -> str:
        """Say it."""
        return say()

    made = tool(name="say", max_result_chars=1000)(say_async if is_async else say)
    result = run(endpoint, [made], SAY, Reply("done"), go=go)
    text = told(result)
    kept = text.count("x" * 10) * 10
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)]
    assert text.startswith("x" * 100)
    assert 500 <= kept <= 1000
    assert len(text) <= 1000 + NOTICE
    assert any(abs(number - (50_000 - text.count("x"))) <= 9 or number == 50_000 for number in numbers), text
    assert failed(result) is False
    assert endpoint.requests[-1].messages[-1]["content"] == text
    assert [event.result for event in of(result, ToolFinished)] == [text]


@pytest.mark.parametrize("length", [0, 1, 99, 100])
def test_a_result_that_just_fits_stays_whole(endpoint: Endpoint, length: int) -> None:
    assert said(endpoint, "x" * length, 100) == "x" * length


def test_a_result_one_character_too_long_is_cut(endpoint: Endpoint) -> None:
    text = said(endpoint, "x" * 101, 100)
    assert text != "x" * 101
    assert text.count("x") <= 100


def test_a_large_number_lets_a_large_result_through(endpoint: Endpoint) -> None:
    assert said(endpoint, "x" * 200_000, 200_000) == "x" * 200_000


def test_without_a_number_a_result_is_cut_only_for_the_window(endpoint: Endpoint) -> None:
    assert said(endpoint, "x" * 6_000, None) == "x" * 6_000  # a quarter of 8,000 tokens
    assert "read_result(" in said(endpoint, "x" * 6_001, None)


def test_characters_are_counted_and_not_bytes(endpoint: Endpoint) -> None:
    assert said(endpoint, "😀" * 100, 100) == "😀" * 100
    text = said(endpoint, "😀" * 1000, 100)
    assert 50 <= text.count("😀") <= 100
    assert len(text) <= 100 + NOTICE


def test_a_small_number_leaves_what_says_that_it_was_cut(endpoint: Endpoint) -> None:
    text = said(endpoint, "x" * 1000, 1)
    assert len(text) <= 1 + NOTICE
    assert "1,000" in text or "1000" in text or "999" in text


@pytest.mark.parametrize(
    "value",
    [
        {"lines": ["y" * 10] * 1000},
        ["y" * 10] * 1000,
        b"\xff" * 4000,
    ],
    ids=["dictionary", "list", "bytes"],
)
def test_any_result_is_cut_as_the_model_would_read_it(endpoint: Endpoint, value: Any) -> None:
    whole = said(endpoint, value, None)
    text = said(endpoint, value, 200)
    assert len(whole) > 200 + NOTICE
    assert len(text) <= 200 + NOTICE
    assert text[:50] == whole[:50]


def test_parts_of_text_are_cut_too(endpoint: Endpoint) -> None:
    def say() -> list[TextContent]:
        """Say it."""
        return [TextContent("x" * 5000)]

    run(endpoint, [tool(max_result_chars=100)(say)], SAY, Reply("done"))
    assert endpoint.requests[-1].body.count(b"x") < 100 + NOTICE


def test_what_a_handler_makes_of_a_result_is_cut(endpoint: Endpoint) -> None:
    options = {"outputs_to_string": {"source": "text", "handler": str.upper}}
    text = said(endpoint, {"text": "x" * 5000, "other": 1}, 100, **options)
    assert (text.startswith("X" * 50), len(text) <= 100 + NOTICE) == (True, True)


def test_the_state_gets_the_whole_result(endpoint: Endpoint) -> None:
    def say() -> dict[str, str]:
        """Say it."""
        return {"text": "x" * 5000}

    made = tool(max_result_chars=100, outputs_to_state={"note": {"source": "text"}})(say)
    result = run(endpoint, [made], SAY, Reply("done"), state_schema={"note": {"type": str}})
    assert result["note"] == "x" * 5000
    assert len(told(result)) <= 100 + NOTICE


def test_a_failure_is_told_in_few_characters_too(endpoint: Endpoint) -> None:
    def say() -> str:
        """Fail."""
        raise ValueError("x" * 1500)

    result = run(endpoint, [tool(max_result_chars=100)(say)], SAY, Reply("done"))
    assert failed(result)
    assert told(result).startswith("Tool 'say' failed: ValueError: xxx")


# Numbers that can't be.


def made_with(**options: Any) -> Any:
    return tool(**options)(quick.target)


WRONG_SECONDS: list[Any] = [0, -1, -0.5, math.nan, "5", True, [1]]
WRONG_COUNTS: list[Any] = [-1, 1.5, "2", True, math.nan]


@pytest.mark.parametrize("value", WRONG_SECONDS, ids=repr)
def test_a_time_limit_that_cant_be_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        made_with(timeout=value)


@pytest.mark.parametrize("value", WRONG_SECONDS, ids=repr)
def test_an_agents_time_limit_that_cant_be_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="tool_timeout"):
        Agent(tools=[quick], tool_timeout=value)


@pytest.mark.parametrize("value", WRONG_COUNTS, ids=repr)
def test_a_number_of_retries_that_cant_be_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="retries"):
        made_with(retries=value, retry_on=(ConnectionError,))


@pytest.mark.parametrize("value", [0, *WRONG_COUNTS], ids=repr)
def test_a_length_of_results_that_cant_be_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_result_chars"):
        made_with(max_result_chars=value)


@pytest.mark.parametrize("value", [("ConnectionError",), (int,), (DOWN,), 3, "all", [None]], ids=repr)
def test_what_is_no_exception_cant_be_retried_on(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="retry_on"):
        made_with(retry_on=value, retries=2)


def test_retries_without_exceptions_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="retry_on"):
        made_with(retries=2)


def test_a_refusal_says_where_the_function_is() -> None:
    with pytest.raises(ConfigurationError, match=r"test_tool_time_limits\.py:\d+|quick"):
        made_with(timeout=-1)


# Methods, and tools that are saved.


@both_modes
def test_a_method_has_its_options(endpoint: Endpoint, held: Held, go: Go) -> None:
    class Slow:
        @tool(timeout=SHORT, max_result_chars=5)
        def hold(self) -> str:
            """Hold."""
            return held.hold()

    assert timed_out(told(run(endpoint, [Slow().hold], HOLD_CALL, Reply("done"), go=go)))


class OfThisModule(Exception):
    """Transient, as we know."""


class Attempts:
    """How often a function of this module has been called."""

    number = 0


def saved_tool() -> str:
    """Fail once, then say much."""
    Attempts.number += 1
    if Attempts.number == 1:
        raise OfThisModule("once")
    return "x" * 1000


def saved_hold() -> str:
    """Hold for a while."""
    threading.Event().wait(PATIENCE)
    return "too late"


def test_a_saved_tool_keeps_its_options(endpoint: Endpoint) -> None:
    allow_deserialization_module(__name__)
    Attempts.number = 0
    options: dict[str, Any] = {
        "timeout": 7.5,
        "retries": 1,
        "retry_on": (OfThisModule, ConnectionError),
        "max_result_chars": 100,
        "name": "say",
    }
    saved = json.dumps(tool(**options)(saved_tool).to_dict())
    loaded = FunctionTool.from_dict(json.loads(saved))
    assert json.dumps(loaded.to_dict()) == saved
    result = run(endpoint, [loaded], SAY, Reply("done"))
    assert (failed(result), told(result).count("x") <= 100, Attempts.number) == (False, True, 2)


def test_a_saved_tool_keeps_its_time_limit(endpoint: Endpoint) -> None:
    allow_deserialization_module(__name__)
    made = tool(name="hold", timeout=SHORT)(saved_hold)
    loaded = FunctionTool.from_dict(json.loads(json.dumps(made.to_dict())))
    assert timed_out(told(run(endpoint, [loaded], HOLD_CALL, Reply("done"))))


def test_a_tool_that_was_saved_before_there_were_options_loads(endpoint: Endpoint) -> None:
    allow_deserialization_module(__name__)
    known = {"function", "name", "description", "hints", "inputs_from_state"}
    known |= {"outputs_to_state", "outputs_to_string"}
    data = tool(name="say")(saved_tool).to_dict()
    data["data"] = {name: value for name, value in data["data"].items() if name in known}
    Attempts.number = 1
    assert told(run(endpoint, [FunctionTool.from_dict(data)], SAY, Reply("done"))) == "x" * 1000


def test_a_saved_agent_keeps_its_time_limit(endpoint: Endpoint) -> None:
    allow_deserialization_module(__name__)
    agent = Agent(
        chat_generator=generator(endpoint), tools=[tool(name="hold")(saved_hold)], tool_timeout=SHORT
    )
    saved = json.dumps(agent.to_dict())
    agent.close()
    endpoint.script(HOLD_CALL, Reply("done"))
    with Agent.from_dict(json.loads(saved)) as loaded:
        assert json.dumps(loaded.to_dict()) == saved
        assert timed_out(told(loaded.run("go")))


def test_a_clone_keeps_the_time_limit(endpoint: Endpoint, held: Held) -> None:
    endpoint.script(HOLD_CALL, Reply("done"))
    with agent_on(endpoint, [held.tool()], tool_timeout=SHORT) as agent, agent.clone() as clone:
        assert timed_out(told(clone.run("go")))


def test_options_may_be_left_out_and_change_nothing(endpoint: Endpoint) -> None:
    plain, bare = tool()(quick.target), made_with(timeout=None, retries=None, max_result_chars=None)
    assert plain.to_dict() == bare.to_dict()
    assert asdict(plain.hints) == asdict(bare.hints)


# Many at once.


def test_many_runs_at_once_whose_tools_hold_all_end(endpoint: Endpoint, held: Held) -> None:
    def answer(request: Request) -> Item:
        return Reply("done") if request.messages[-1]["role"] == "tool" else HOLD_CALL

    async def main() -> list[RunResult]:
        async with agent_on(endpoint, [held.tool(timeout=1.0)]) as agent:
            return await asyncio.gather(*(agent.run_async(f"go {number}") for number in range(40)))

    endpoint.script(Always(answer))
    began = monotonic()
    results = asyncio.run(main())
    assert monotonic() - began < BOUND
    assert [(failed(r), r.text, r.leaked_threads) for r in results] == [(True, "done", 1)] * 40
