"""However a run ends early, what it had got to is kept, and nothing goes on behind the caller."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from haystack.components.agents.state.state import State
from haystack.hooks import hook

from llama_agent import (
    Agent,
    Event,
    LlamaAgentError,
    MetaLlamaChatGenerator,
    RunFinished,
    RunInterrupted,
    RunResult,
    ToolFinished,
    tool,
)
from tests.endpoint import Endpoint, Reply

PATIENCE = 10.0
"""Seconds after which something that should have happened counts as never happening."""
ROOT = Path(__file__).parents[1]


def agent_on(endpoint: Endpoint, *tools: Any, **settings: Any) -> Agent:
    generator = MetaLlamaChatGenerator(
        api_base_url=endpoint.url, model="test-model", max_retries=0, timeout=60
    )
    return Agent(chat_generator=generator, tools=list(tools), **settings)


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


ADD = Reply(calls=[("add", {"a": 2, "b": 3})])
SLOW = Reply("too late", first_pause=60)


def roles(messages: list[Any]) -> list[str]:
    return [message.role.value for message in messages]


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def result_of(error: BaseException) -> RunResult:
    return error.result  # type: ignore[attr-defined]


async def arrived(endpoint: Endpoint, count: int) -> None:
    assert await asyncio.to_thread(endpoint.wait_for_requests, count, PATIENCE)


class Hanging:
    """An async tool that never ends by itself."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = "no"

    @tool
    async def hang(self) -> str:
        """Never end."""
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        return "ended"


# Cancellation.


async def cancelled(run: asyncio.Task[RunResult], when: Awaitable[object]) -> asyncio.CancelledError:
    """Cancel a run at a moment, and give what it raised."""
    await asyncio.wait_for(when, PATIENCE)
    run.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await run
    return caught.value


def test_a_run_cancelled_in_the_middle_of_a_model_call_keeps_what_it_had(endpoint: Endpoint) -> None:
    heard: list[Event] = []

    async def main() -> asyncio.CancelledError:
        async with agent_on(endpoint, add, system_prompt="Be brief.") as agent:
            run = asyncio.create_task(agent.run_async("2+3?", on_event=heard.append))
            return await cancelled(run, arrived(endpoint, 2))

    endpoint.script(ADD, SLOW)
    error = asyncio.run(main())
    assert type(error) is asyncio.CancelledError
    assert error.args == ("enough",)
    result = result_of(error)
    assert isinstance(result, RunResult)
    assert roles(result.messages) == ["system", "user", "assistant", "tool"]
    assert (told(result), result.stop_reason, result["step_count"]) == (["5"], "cancelled", 1)
    assert (result.usage.model_calls, result.usage.tool_calls) == (1, 1)
    assert isinstance(heard[-1], RunFinished)
    assert heard[-1].stop_reason == "cancelled"


def test_cancelling_a_run_hangs_up_on_the_model(endpoint: Endpoint) -> None:
    async def main() -> None:
        async with agent_on(endpoint) as agent:
            await cancelled(asyncio.create_task(agent.run_async("go")), arrived(endpoint, 1))
            assert await asyncio.to_thread(endpoint.wait_for_disconnect, PATIENCE)

    endpoint.script(SLOW)
    asyncio.run(main())
    assert endpoint.disconnects == 1


def test_a_run_cancelled_in_the_middle_of_a_stream_keeps_what_it_had(endpoint: Endpoint) -> None:
    async def main() -> asyncio.CancelledError:
        first_text = asyncio.Event()

        async def listen(chunk: Any) -> None:
            if chunk.content:
                first_text.set()

        async with agent_on(endpoint, add) as agent:
            run = asyncio.create_task(agent.run_async("2+3?", listen))
            return await cancelled(run, first_text.wait())

    endpoint.script(ADD, Reply("a long story " * 50, chunk_size=1, pause=0.1))
    assert roles(result_of(asyncio.run(main())).messages) == ["user", "assistant", "tool"]


def test_a_run_cancelled_in_the_middle_of_an_async_tool_ends_the_tool(endpoint: Endpoint) -> None:
    async def main() -> tuple[asyncio.CancelledError, str]:
        hanging = Hanging()
        async with agent_on(endpoint, hanging.hang) as agent:
            error = await cancelled(asyncio.create_task(agent.run_async("go")), hanging.started.wait())
        return error, hanging.ended

    endpoint.script(Reply("Let me see.", calls=[("hang", {})]))
    error, ended = asyncio.run(main())
    assert ended == "cancelled"
    result = result_of(error)
    assert (result.stop_reason, result.text) == ("cancelled", "Let me see.")
    assert roles(result.messages)[:2] == ["user", "assistant"]
    (finished,) = (event for event in result.events if isinstance(event, ToolFinished))
    assert finished.error


def test_results_of_tools_that_had_finished_arent_lost_by_a_cancellation(endpoint: Endpoint) -> None:
    async def main() -> asyncio.CancelledError:
        hanging = Hanging()
        async with agent_on(endpoint, tool(sequential=True)(add.target), hanging.hang) as agent:
            return await cancelled(asyncio.create_task(agent.run_async("go")), hanging.started.wait())

    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3}), ("hang", {})]))
    assert "5" in told(result_of(asyncio.run(main())))


def test_a_cancellation_reaches_every_tool_that_runs(endpoint: Endpoint) -> None:
    async def main() -> list[str]:
        one, two = Hanging(), Hanging()
        tools = [tool(name="one")(one.hang.target), tool(name="two")(two.hang.target)]
        async with agent_on(endpoint, *tools) as agent:
            both = asyncio.gather(one.started.wait(), two.started.wait())
            await cancelled(asyncio.create_task(agent.run_async("go")), both)
        return [one.ended, two.ended]

    endpoint.script(Reply(calls=[("one", {}), ("two", {})]))
    assert asyncio.run(main()) == ["cancelled", "cancelled"]


def test_calls_that_wait_for_their_turn_never_start_after_a_cancellation(endpoint: Endpoint) -> None:
    started: list[str] = []

    @tool(sequential=True)
    async def later() -> str:
        """Come later."""
        started.append("later")
        return "later"

    async def main() -> None:
        hanging = Hanging()
        async with agent_on(endpoint, hanging.hang, later) as agent:
            await cancelled(asyncio.create_task(agent.run_async("go")), hanging.started.wait())
            await asyncio.sleep(0)

    endpoint.script(Reply(calls=[("hang", {}), ("later", {})]))
    asyncio.run(main())
    assert started == []


def test_a_tool_that_swallows_its_cancellation_doesnt_keep_the_run_going(endpoint: Endpoint) -> None:
    started = threading.Event()

    @tool
    async def stubborn() -> str:
        """Catch everything."""
        started.set()
        try:
            await asyncio.Event().wait()
        except BaseException:
            return "never mind"
        return "unreachable"

    async def main() -> asyncio.CancelledError:
        async with agent_on(endpoint, stubborn) as agent:
            run = asyncio.create_task(agent.run_async("go"))
            return await cancelled(run, asyncio.to_thread(started.wait, PATIENCE))

    endpoint.script(Reply(calls=[("stubborn", {})]))
    assert result_of(asyncio.run(main())).stop_reason == "cancelled"


def test_a_run_cancelled_in_a_hook_keeps_what_it_had(endpoint: Endpoint) -> None:
    async def main() -> asyncio.CancelledError:
        reached = asyncio.Event()

        @hook
        async def wait(state: State) -> None:
            reached.set()
            await asyncio.Event().wait()

        async with agent_on(endpoint, add, hooks={"after_tool": [wait]}) as agent:
            return await cancelled(asyncio.create_task(agent.run_async("go")), reached.wait())

    endpoint.script(ADD)
    assert told(result_of(asyncio.run(main()))) == ["5"]


def test_a_timeout_of_asyncio_carries_the_result_as_its_cause(endpoint: Endpoint) -> None:
    async def main() -> TimeoutError:
        hanging = Hanging()
        async with agent_on(endpoint, hanging.hang) as agent:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(None) as limit:
                    hanging_up = asyncio.create_task(hanging.started.wait())
                    hanging_up.add_done_callback(
                        lambda _: limit.reschedule(asyncio.get_running_loop().time())
                    )
                    await agent.run_async("go")
            return caught.value

    endpoint.script(Reply(calls=[("hang", {})]))
    error = asyncio.run(main())
    assert isinstance(error.__cause__, asyncio.CancelledError)
    result = result_of(error.__cause__)
    assert (result.stop_reason, roles(result.messages)[:2]) == ("cancelled", ["user", "assistant"])


def test_wait_for_carries_the_result_as_its_cause(endpoint: Endpoint) -> None:
    async def main() -> TimeoutError:
        async with agent_on(endpoint, add) as agent:
            run = asyncio.create_task(agent.run_async("go"))
            await arrived(endpoint, 1)
            with pytest.raises(TimeoutError) as caught:
                await asyncio.wait_for(run, 0.01)
            return caught.value

    endpoint.script(SLOW)
    error = asyncio.run(main())
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert roles(result_of(error.__cause__).messages) == ["user"]


def test_except_exception_doesnt_swallow_a_cancellation(endpoint: Endpoint) -> None:
    async def careless(agent: Agent) -> str:
        try:
            return (await agent.run_async("go")).text
        except Exception:
            return "swallowed"

    async def main() -> None:
        async with agent_on(endpoint) as agent:
            run = asyncio.create_task(careless(agent))
            await arrived(endpoint, 1)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    endpoint.script(SLOW)
    asyncio.run(main())


def test_an_agent_serves_on_after_a_cancelled_run(endpoint: Endpoint) -> None:
    async def main() -> str:
        async with agent_on(endpoint, add) as agent:
            error = await cancelled(asyncio.create_task(agent.run_async("2+3?")), arrived(endpoint, 2))
            return (await agent.run_async(messages=result_of(error).messages)).text

    endpoint.script(ADD, SLOW, Reply("5"))
    assert asyncio.run(main()) == "5"
    assert [m["role"] for m in endpoint.requests[-1].messages] == ["user", "assistant", "tool"]


def test_a_cancelled_run_leaves_the_others_of_its_agent_alone(endpoint: Endpoint) -> None:
    async def main() -> str:
        hanging = Hanging()
        async with agent_on(endpoint, hanging.hang, add) as agent:
            await cancelled(asyncio.create_task(agent.run_async("one")), hanging.started.wait())
            return (await agent.run_async("two")).text

    endpoint.script(Reply(calls=[("hang", {})]), ADD, Reply("5"))
    assert asyncio.run(main()) == "5"


def test_an_interruption_is_no_error_of_ours_and_no_exception() -> None:
    assert issubclass(RunInterrupted, KeyboardInterrupt)
    assert not issubclass(RunInterrupted, Exception)
    assert not issubclass(RunInterrupted, LlamaAgentError)


# Ctrl-C, in a real process.

HEADER = """
import asyncio, os, sys, threading
from llama_agent import Agent, MetaLlamaChatGenerator, RunInterrupted, tool

def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())  # whole lines, whichever thread speaks

def add(a: int, b: int) -> int:
    "Add two whole numbers."
    return a + b

def hang() -> str:
    "Never end."
    say("hanging")
    threading.Event().wait()

async def hang_async() -> str:
    "Never end."
    say("hanging")
    try:
        await asyncio.Event().wait()
    finally:
        say("tool ended")

generator = MetaLlamaChatGenerator(api_base_url=sys.argv[1], model="test-model", max_retries=0, timeout=60)
agent = Agent(chat_generator=generator, tools=[add, hang, hang_async, tool(name="hang_too")(hang)])
"""

CAREFUL = """
try:
    with agent:
        try:
            agent.run("go")
        except Exception:
            say("swallowed")
except RunInterrupted as interrupted:
    result = interrupted.result
    say("interrupted", result.stop_reason, *(message.role.value for message in result.messages))
say("bye")
"""


class Script:
    """A Python program in a process of its own."""

    def __init__(self, endpoint: Endpoint, code: str) -> None:
        program = textwrap.dedent(HEADER) + textwrap.dedent(code)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, endpoint.url],
            cwd=ROOT,
            env={**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def rest(self) -> tuple[list[str], str, int]:
        """What it still printed, on both channels, and its exit code. Fails when it doesn't end."""
        try:
            out, err = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            pytest.fail(f"the process went on after Ctrl-C; it printed {out!r} {err!r}")
        return out.splitlines(), err, self._process.returncode


def test_ctrl_c_in_the_middle_of_a_model_call_raises_with_the_result(endpoint: Endpoint) -> None:
    endpoint.script(ADD, SLOW)
    with Script(endpoint, CAREFUL) as script:
        assert endpoint.wait_for_requests(2, PATIENCE)
        script.interrupt()
        out, err, code = script.rest()
    assert out == ["interrupted interrupted user assistant tool", "bye"]
    assert (code, err) == (0, "")


def test_ctrl_c_in_the_middle_of_a_sync_tool_raises_with_the_result(endpoint: Endpoint) -> None:
    endpoint.script(ADD, Reply(calls=[("hang", {})]))
    with Script(endpoint, CAREFUL) as script:
        assert script.line() == "hanging"
        script.interrupt()
        out, err, code = script.rest()
    assert out[-1] == "bye"
    assert out[0].startswith("interrupted interrupted user assistant tool assistant")
    assert (code, err) == (0, "")


def test_ctrl_c_in_the_middle_of_an_async_tool_of_a_sync_run_ends_the_tool(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("hang_async", {})]))
    with Script(endpoint, CAREFUL) as script:
        assert script.line() == "hanging"
        script.interrupt()
        out, err, code = script.rest()
    assert out[0] == "tool ended"
    assert out[1].startswith("interrupted interrupted user assistant")
    assert (out[2], code, err) == ("bye", 0, "")


def test_ctrl_c_isnt_held_up_by_tools_that_hang_in_threads(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("hang", {}), ("hang_too", {})]))
    with Script(endpoint, CAREFUL) as script:
        assert [script.line(), script.line()] == ["hanging", "hanging"]
        script.interrupt()
        assert script.line().startswith("interrupted interrupted user assistant")
        assert script.line() == "bye"


def test_the_process_ends_after_ctrl_c_though_tools_hang_in_threads(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("hang", {}), ("hang_too", {})]))
    with Script(endpoint, CAREFUL) as script:
        assert [script.line(), script.line()] == ["hanging", "hanging"]
        script.interrupt()
        _, err, code = script.rest()
    assert (code, err) == (0, "")


def test_ctrl_c_that_nobody_catches_ends_the_process(endpoint: Endpoint) -> None:
    endpoint.script(SLOW)
    with Script(endpoint, "agent.run('go')") as script:
        assert endpoint.wait_for_requests(1, PATIENCE)
        script.interrupt()
        _, err, code = script.rest()
    assert code != 0
    assert err.rstrip().splitlines()[-1].startswith("llama_agent.errors.RunInterrupted")


def test_ctrl_c_in_an_async_run_ends_it_with_the_result_at_hand(endpoint: Endpoint) -> None:
    endpoint.script(ADD, SLOW)
    code = """
    async def main():
        async with agent:
            try:
                await agent.run_async("go")
            except asyncio.CancelledError as error:
                say(error.result.stop_reason, *(message.role.value for message in error.result.messages))
                raise
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        say("bye")
    """
    with Script(endpoint, code) as script:
        assert endpoint.wait_for_requests(2, PATIENCE)
        script.interrupt()
        out, err, exit_code = script.rest()
    assert (out, err, exit_code) == (["cancelled user assistant tool", "bye"], "", 0)


def test_ctrl_c_in_a_run_inside_a_running_event_loop_raises_with_the_result(endpoint: Endpoint) -> None:
    endpoint.script(ADD, Reply(calls=[("hang_async", {})]))
    code = """
    async def cell():
        try:
            agent.run("go")
        except RunInterrupted as interrupted:
            say("interrupted", interrupted.result.stop_reason)
    loop = asyncio.new_event_loop()  # as a notebook's: it leaves SIGINT to Python
    loop.run_until_complete(cell())
    loop.close()
    agent.close()
    """
    with Script(endpoint, code) as script:
        assert script.line() == "hanging"
        script.interrupt()
        out, err, exit_code = script.rest()
    assert sorted(out) == ["interrupted interrupted", "tool ended"]
    assert (err, exit_code) == ("", 0)


# Nothing stays behind.


def new_threads(before: set[threading.Thread]) -> list[str]:
    """Threads of ours that don't end. The endpoint's own live as long as it does."""
    ours = [t for t in threading.enumerate() if t not in before and not t.name.startswith("endpoint-")]
    for thread in ours:
        thread.join(PATIENCE)
    return [thread.name for thread in ours if thread.is_alive()]


@tool
async def double(value: int) -> int:
    """Double a number."""
    await asyncio.sleep(0)
    return 2 * value


CALLS = Reply(calls=[("add", {"a": 2, "b": 3}), ("add", {"a": 1, "b": 1}), ("double", {"value": 4})])


def test_no_thread_is_left_after_a_sync_agent_is_closed(endpoint: Endpoint) -> None:
    before = set(threading.enumerate())
    endpoint.script(CALLS, Reply("done"))
    with agent_on(endpoint, add, double) as agent:
        assert told(agent.run("go")) == ["5", "2", "8"]
    assert new_threads(before) == []


def test_no_thread_is_left_after_an_async_agent_is_closed(endpoint: Endpoint) -> None:
    before = set(threading.enumerate())

    async def main() -> RunResult:
        async with agent_on(endpoint, add, double) as agent:
            return await agent.run_async("go")

    endpoint.script(CALLS, Reply("done"))
    assert told(asyncio.run(main())) == ["5", "2", "8"]
    assert new_threads(before) == []


def test_no_thread_is_left_when_the_block_is_left_by_an_exception(endpoint: Endpoint) -> None:
    before = set(threading.enumerate())
    endpoint.script(CALLS, Reply("done"))
    with pytest.raises(ZeroDivisionError), agent_on(endpoint, add, double) as agent:
        agent.run("go")
        raise ZeroDivisionError
    assert new_threads(before) == []


def test_no_task_is_left_after_a_cancelled_run(endpoint: Endpoint) -> None:
    async def main() -> set[Any]:
        hanging = Hanging()
        async with agent_on(endpoint, hanging.hang) as agent:
            await cancelled(asyncio.create_task(agent.run_async("go")), hanging.started.wait())
        return asyncio.all_tasks() - {asyncio.current_task()}

    endpoint.script(Reply(calls=[("hang", {})]))
    assert asyncio.run(main()) == set()


@pytest.mark.parametrize(
    "close", [Agent.close, lambda agent: asyncio.run(agent.close_async())], ids=["sync", "async"]
)
def test_closing_twice_or_unused_does_nothing(endpoint: Endpoint, close: Callable[[Agent], Any]) -> None:
    agent = agent_on(endpoint, add)
    close(agent)
    close(agent)


def test_a_run_cancelled_beside_a_working_thread_prints_no_traceback(
    endpoint: Endpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    started, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> str:
        """Work."""
        started.set()
        assert go_on.wait(PATIENCE)
        ended.set()
        return "done"

    async def main() -> None:
        async with agent_on(endpoint, work) as agent:
            run = asyncio.create_task(agent.run_async("go"))
            await cancelled(run, asyncio.to_thread(started.wait, PATIENCE))

    endpoint.script(Reply(calls=[("work", {})]))
    asyncio.run(main())
    threads = [thread for thread in threading.enumerate() if thread.name == "llama-agent-tool"]
    go_on.set()
    assert ended.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert "Traceback" not in capfd.readouterr().err
