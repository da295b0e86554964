"""A run that is broken off ends at once, wherever it is: nothing done is lost, and nothing goes on."""

import asyncio
import gc
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import pytest
from haystack import Pipeline
from haystack.components.agents import Agent as HaystackAgent
from haystack.components.agents.state.state import State
from haystack.components.generators.chat import FallbackChatGenerator, OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.hooks import hook
from haystack.tools import AgentTool
from haystack.tools.tool import Tool
from haystack.utils import Secret

from llama_agent import (
    Agent,
    ApprovalRequested,
    CancelToken,
    ConfigurationError,
    Event,
    Limits,
    MetaLlamaChatGenerator,
    ModelReplied,
    ModelRequested,
    RateLimit,
    RequestDelayed,
    RetryPolicy,
    RetryScheduled,
    RunContext,
    RunFinished,
    RunResult,
    RunStarted,
    ToolFinished,
    ToolRetryScheduled,
    ToolStarted,
    ToolTimedOut,
    tool,
)
from tests import process_tools
from tests.endpoint import Always, Endpoint, Item, Raw, Reply, Request, Status
from tests.in_process_model import event
from tests.process_tools import Witness
from tests.strict_server import faults, strictly

HOLD = 40.0
"""Seconds that something holds which nobody ends."""
BOUND = 10.0
"""Seconds within which a run ends that was broken off."""
PATIENCE = 15.0
"""Seconds after which something that should have happened counts as never happening."""
BRIEF = 0.2
"""Seconds that something wrong is left to show itself. Right code never depends on it."""

NO_PARAMETERS = {"type": "object", "properties": {}}
Json = dict[str, Any]


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


ADD = Reply(calls=[("add", {"a": 2, "b": 3})])
SILENT = Reply("too late", first_pause=HOLD)


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def errors(result: RunResult) -> list[bool]:
    return [r.error for message in result.messages for r in message.tool_call_results]


def roles(result: RunResult) -> list[str]:
    return [message.role.value for message in result.messages]


def of(result: RunResult, kind: type) -> list[Any]:
    return [event for event in result.events if isinstance(event, kind)]


# The token.


def test_a_token_says_whether_it_was_cancelled() -> None:
    token = CancelToken()
    assert token.cancelled is False
    token.cancel()
    assert token.cancelled is True


def test_a_callback_is_called_once_however_often_a_token_is_cancelled() -> None:
    token, calls = CancelToken(), []
    token.on_cancel(lambda: calls.append("called"))
    assert calls == []
    token.cancel()
    token.cancel()
    assert calls == ["called"]


def test_every_callback_is_called() -> None:
    token, calls = CancelToken(), []
    for number in range(5):
        token.on_cancel(lambda number=number: calls.append(number))  # type: ignore[misc]
    token.cancel()
    assert sorted(calls) == [0, 1, 2, 3, 4]


def test_a_callback_of_a_token_that_is_cancelled_already_is_called_at_once() -> None:
    token, calls = CancelToken(), []
    token.cancel()
    remove = token.on_cancel(lambda: calls.append("called"))
    assert calls == ["called"]
    remove()
    token.cancel()
    assert calls == ["called"]


def test_a_callback_that_was_removed_isnt_called() -> None:
    token, calls = CancelToken(), []
    remove = token.on_cancel(lambda: calls.append("removed"))
    token.on_cancel(lambda: calls.append("kept"))
    remove()
    remove()
    token.cancel()
    remove()
    assert calls == ["kept"]


def test_one_callback_given_twice_is_called_twice_and_removed_once() -> None:
    token, calls = CancelToken(), []

    def callback() -> None:
        calls.append("called")

    token.on_cancel(callback)
    token.on_cancel(callback)()
    token.cancel()
    assert calls == ["called"]


def test_a_callback_sees_that_the_token_is_cancelled() -> None:
    token, seen = CancelToken(), []
    token.on_cancel(lambda: seen.append((token.cancelled, token.wait(0))))
    token.cancel()
    assert seen == [(True, True)]


def test_a_callback_may_use_the_token_itself() -> None:
    token, calls = CancelToken(), []

    def callback() -> None:
        calls.append("called")
        token.cancel()
        token.on_cancel(lambda: calls.append("from within"))
        remove()

    remove = token.on_cancel(callback)
    thread = threading.Thread(target=token.cancel, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for itself"
    assert calls == ["called", "from within"]


def test_a_callback_that_fails_keeps_no_other_from_being_called() -> None:
    token, calls = CancelToken(), []

    def fail() -> None:
        calls.append("failed")
        raise ValueError("in a callback")

    token.on_cancel(lambda: calls.append("before"))
    token.on_cancel(fail)
    token.on_cancel(lambda: calls.append("after"))
    with suppress(ValueError):
        token.cancel()
    assert sorted(calls) == ["after", "before", "failed"]
    assert token.cancelled


def test_a_cancelled_token_wakes_those_who_wait() -> None:
    token, woken = CancelToken(), []
    threads = [threading.Thread(target=lambda: woken.append(token.wait(HOLD))) for _ in range(3)]
    for thread in threads:
        thread.start()
    token.cancel()
    for thread in threads:
        thread.join(PATIENCE)
    assert woken == [True] * 3


def test_callbacks_that_come_while_threads_cancel_are_called_once_each() -> None:
    for _ in range(100):
        token, calls, together = CancelToken(), [], threading.Barrier(6)

        def cancel(token: CancelToken = token, together: threading.Barrier = together) -> None:
            together.wait(PATIENCE)
            token.cancel()

        def register(token: CancelToken = token, calls: list[int] = calls, b: Any = together) -> None:
            b.wait(PATIENCE)
            for number in range(10):
                token.on_cancel(lambda number=number: calls.append(number))  # type: ignore[misc]

        threads = [threading.Thread(target=target) for target in [cancel, register] * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(calls) == sorted(list(range(10)) * 3)


# Places in a run at which it can be broken off.


class Scene:
    """An endpoint, and what a run on it uses; all is let go and closed when the block is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reached = threading.Event()
        self.release = threading.Event()
        self.ended: list[str] = []
        self.generators: list[MetaLlamaChatGenerator] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Scene":
        self.endpoint = self._stack.enter_context(Endpoint())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        for generator in self.generators:
            generator.close()
        self._stack.__exit__(kind, error, trace)

    def generator(self, **settings: Any) -> MetaLlamaChatGenerator:
        usual = {
            "api_base_url": self.endpoint.url,
            "model": "m",
            "max_retries": 0,
            "timeout": HOLD,
            "http_client_kwargs": {"verify": False},
        }
        self.generators.append(MetaLlamaChatGenerator(**{**usual, **settings}))
        return self.generators[-1]

    def agent(self, tools: Sequence[Any] = (), *, generator: Json | None = None, **settings: Any) -> Agent:
        settings.setdefault("chat_generator", self.generator(**(generator or {})))
        return Agent(tools=list(tools), **settings)

    def witness(self) -> Witness:
        return self._stack.enter_context(Witness(self.folder))

    def other_endpoint(self) -> Endpoint:
        return self._stack.enter_context(Endpoint())

    def on_event(self, kind: type[Event]) -> Callable[[Event], None]:
        """A listener that notes when something happens."""

        def listen(event: Event) -> None:
            if isinstance(event, kind):
                self.reached.set()

        return listen

    def hold(self) -> str:
        """Hold this thread until the test is over."""
        self.reached.set()
        self.release.wait(HOLD)
        return "too late"

    async def hold_async(self) -> str:
        self.reached.set()
        try:
            await asyncio.sleep(HOLD)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return "too late"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path) as made:
        yield made


@dataclass
class Stage:
    """
    A run, up to where it is broken off.

    :param script: What the model answers until then.
    :param reached: Waits for that moment, so many seconds at most.
    :param roles: Of the messages that the result has then.
    :param failed: Whether each call has failed by then; None where it may be either.
    :param hangs_up: Whether a request was under way.
    :param leaks: Whether a thread can't be ended.
    :param lingers: Whether a thread ends, but later than the run by a moment.
    :param ended: What the scene was told of async tools.
    """

    script: Sequence[Any]
    reached: Callable[[float], object]
    roles: Sequence[str] = ("user",)
    failed: Sequence[bool] | None = ()
    tools: Sequence[Any] = (add,)
    generator: Json = field(default_factory=dict)
    agent: Json = field(default_factory=dict)
    run: Json = field(default_factory=dict)
    hangs_up: bool = False
    leaks: bool = False
    lingers: bool = False
    ended: Sequence[str] = ()
    requests: int = 1


CALLED = ("user", "assistant", "tool")


def requests(scene: Scene, number: int) -> Callable[[float], bool]:
    return lambda seconds: scene.endpoint.wait_for_requests(number, seconds)


def headers_awaited(scene: Scene) -> Stage:
    return Stage([SILENT], requests(scene, 1), hangs_up=True)


def headers_awaited_with_retries(scene: Scene) -> Stage:
    retry = RetryPolicy(max_retries=5, initial_wait=0.0)
    return Stage([SILENT], requests(scene, 1), hangs_up=True, agent={"retry": retry})


def second_request(scene: Scene) -> Stage:
    return Stage([ADD, SILENT], requests(scene, 2), CALLED, [False], hangs_up=True, requests=2)


def half_a_body(scene: Scene) -> Stage:
    body = Raw([b'{"id": "1", "choices": [', b"too late"], pause=HOLD)
    return Stage([body], requests(scene, 1), hangs_up=True)


def _listening(scene: Scene) -> Json:
    def listen(chunk: StreamingChunk) -> None:
        if chunk.content:
            scene.reached.set()

    return {"streaming_callback": listen}


def stream_that_flows(scene: Scene) -> Stage:
    story = Reply("a long story " * 500, chunk_size=1, pause=0.02)
    return Stage([story], scene.reached.wait, run=_listening(scene), hangs_up=True)


def stream_that_stalls(scene: Scene) -> Stage:
    stalled = Raw([event(content="Once upon"), event(content=" a time")], "text/event-stream", pause=HOLD)
    return Stage([stalled], scene.reached.wait, run=_listening(scene), hangs_up=True)


def stream_nobody_listens_to(scene: Scene) -> Stage:
    stalled = Raw([event(content="Once upon"), event(content=" a time")], "text/event-stream", pause=HOLD)
    kwargs = {"generation_kwargs": {"stream": True}}
    return Stage([stalled], requests(scene, 1), run=kwargs, hangs_up=True)


def back_off(scene: Scene) -> Stage:
    busy = Status(503, headers={"Retry-After": str(int(HOLD))})
    run = {"on_event": scene.on_event(RetryScheduled)}
    agent = {"retry": RetryPolicy(max_retries=5)}
    return Stage([busy], scene.reached.wait, run=run, agent=agent)


def pacing(scene: Scene) -> Stage:
    run = {"on_event": scene.on_event(RequestDelayed)}
    generator = {"rate_limit": RateLimit(requests_per_minute=1)}
    return Stage([ADD], scene.reached.wait, CALLED, [False], run=run, generator=generator)


def sync_tool(scene: Scene) -> Stage:
    @tool
    def work() -> str:
        """Work."""
        return scene.hold()

    script = [Reply(calls=[("work", {})])]
    return Stage(script, scene.reached.wait, CALLED, [True], [work, add], leaks=True)


def sync_tool_with_a_time_limit(scene: Scene) -> Stage:
    @tool(timeout=HOLD)
    def work() -> str:
        """Work."""
        return scene.hold()

    script = [Reply(calls=[("work", {})])]
    return Stage(script, scene.reached.wait, CALLED, [True], [work, add], leaks=True)


def sync_tool_that_listens(scene: Scene) -> Stage:
    @tool
    def work(context: RunContext[None]) -> str:
        """Work."""
        scene.reached.set()
        if context.cancel.wait(HOLD) and context.cancel.cancelled:
            scene.ended.append("cancelled")
            # It never ends before the run has: what it returns is too late in any case.
            scene.release.wait(BRIEF)
        raise ValueError("stopped")

    script = [Reply(calls=[("work", {})])]
    return Stage(script, scene.reached.wait, CALLED, [True], [work, add], lingers=True, ended=["cancelled"])


def async_tool(scene: Scene) -> Stage:
    @tool
    async def work() -> str:
        """Work."""
        return await scene.hold_async()

    script = [Reply(calls=[("work", {})])]
    return Stage(script, scene.reached.wait, CALLED, [True], [work, add], ended=["cancelled"])


def async_tool_that_swallows_it(scene: Scene) -> Stage:
    @tool
    async def work() -> str:
        """Work."""
        with suppress(asyncio.CancelledError):
            return await scene.hold_async()
        return "never mind"

    script = [Reply(calls=[("work", {})])]
    return Stage(script, scene.reached.wait, CALLED, None, [work, add], ended=["cancelled"])


def foreign_sync_tool(scene: Scene) -> Stage:
    work = Tool("work", "Work.", NO_PARAMETERS, function=scene.hold)
    script = [Reply(calls=[("work", {})])]
    return Stage(script, scene.reached.wait, CALLED, [True], [work, add], leaks=True)


def foreign_async_tool(scene: Scene) -> Stage:
    work = Tool("work", "Work.", NO_PARAMETERS, async_function=scene.hold_async)
    script = [Reply(calls=[("work", {})])]
    return Stage(script, scene.reached.wait, CALLED, [True], [work, add], ended=["cancelled"])


def process_tool(scene: Scene) -> Stage:
    witness = scene.witness()
    work = tool(isolation="process")(process_tools.hold_with_grandchildren)
    script = [Reply(calls=[("hold_with_grandchildren", {"witness": witness.path})])]
    return Stage(script, witness.line, CALLED, [True], [work, add])


def back_off_of_a_tool(scene: Scene) -> Stage:
    @tool(retry_on=(ConnectionError,), retries=10_000)
    def work() -> str:
        """Work."""
        raise ConnectionError("down")

    script = [Reply(calls=[("work", {})])]
    run = {"on_event": scene.on_event(ToolRetryScheduled)}
    return Stage(script, scene.reached.wait, CALLED, [True], [work, add], run=run)


def back_off_of_an_async_tool(scene: Scene) -> Stage:
    @tool(retry_on=(ConnectionError,), retries=10_000)
    async def work() -> str:
        """Work."""
        raise ConnectionError("down")

    script = [Reply(calls=[("work", {})])]
    run = {"on_event": scene.on_event(ToolRetryScheduled)}
    return Stage(script, scene.reached.wait, CALLED, [True], [work, add], run=run)


def several_calls(scene: Scene) -> Stage:
    done = threading.Event()

    @tool
    def first() -> str:
        """Finish."""
        done.set()
        return "finished"

    @tool
    async def work() -> str:
        """Work."""
        assert await asyncio.to_thread(done.wait, PATIENCE)
        return await scene.hold_async()

    @tool(sequential=True)
    def later() -> str:
        """Come later."""
        scene.ended.append("started")
        return "later"

    def listen(event: Event) -> None:
        if isinstance(event, ToolFinished):
            finished.set()

    finished = threading.Event()
    script = [Reply(calls=[("first", {}), ("work", {}), ("later", {})])]
    return Stage(
        script,
        lambda seconds: scene.reached.wait(seconds) and finished.wait(seconds),
        ("user", "assistant", "tool", "tool", "tool"),
        [False, True, True],
        [first, work, later],
        run={"on_event": listen},
        ended=["cancelled"],
    )


def approval(scene: Scene) -> Stage:
    class Asking:
        def needs(self, call: Any, tool: Any) -> bool:
            return True

        async def ask(self, call: Any, tool: Any) -> None:
            await scene.hold_async()

    agent = {"approval": Asking()}
    return Stage([ADD], scene.reached.wait, CALLED, [True], agent=agent, ended=["cancelled"])


def last_answer(scene: Scene) -> Stage:
    agent = {"limits": Limits(steps=1)}
    # The message that asks for the last answer may stay, or go with the answer that it didn't get.
    return Stage([ADD, SILENT], requests(scene, 2), CALLED, [False], agent=agent, hangs_up=True, requests=2)


def sub_agent_of(scene: Scene, *tools: Any, generator: Json | None = None, **settings: Any) -> AgentTool:
    inner = scene.agent(tools, generator=generator, **settings)
    return AgentTool(agent=inner, name="research", description="Delegate to another.")


DELEGATE = Reply(calls=[("research", {"messages": [{"role": "user", "content": "Find out."}]})])


def sub_agents_request(scene: Scene) -> Stage:
    tools = [sub_agent_of(scene, add), add]
    return Stage([DELEGATE, SILENT], requests(scene, 2), CALLED, [True], tools, hangs_up=True, requests=2)


def sub_agents_second_request(scene: Scene) -> Stage:
    tools = [sub_agent_of(scene, add), add]
    script = [DELEGATE, ADD, SILENT]
    return Stage(script, requests(scene, 3), CALLED, [True], tools, hangs_up=True, requests=3)


def sub_agents_async_tool(scene: Scene) -> Stage:
    inner = async_tool(scene)
    tools = [sub_agent_of(scene, *inner.tools), add]
    script = [DELEGATE, *inner.script]
    return Stage(script, scene.reached.wait, CALLED, [True], tools, ended=["cancelled"], requests=2)


def sub_agents_sync_tool(scene: Scene) -> Stage:
    inner = sync_tool(scene)
    tools = [sub_agent_of(scene, *inner.tools), add]
    script = [DELEGATE, *inner.script]
    return Stage(script, scene.reached.wait, CALLED, [True], tools, leaks=True, requests=2)


def sub_agents_process_tool(scene: Scene) -> Stage:
    inner = process_tool(scene)
    tools = [sub_agent_of(scene, *inner.tools), add]
    return Stage([DELEGATE, *inner.script], inner.reached, CALLED, [True], tools, requests=2)


def sub_agents_back_off(scene: Scene) -> Stage:
    busy = Status(503, headers={"Retry-After": str(int(HOLD))})
    tools = [sub_agent_of(scene, add, retry=RetryPolicy(max_retries=5)), add]

    def answer(request: Request) -> Item:
        scene.reached.set()
        return busy

    # Whether the wait has begun, or is about to, makes no difference.
    return Stage([DELEGATE, answer], scene.reached.wait, CALLED, [True], tools, requests=2)


def sub_agent_of_a_sub_agent(scene: Scene) -> Stage:
    innermost = sub_agent_of(scene, add)
    tools = [sub_agent_of(scene, sub_agent_of(scene, innermost)), add]
    script = [DELEGATE, DELEGATE, DELEGATE, SILENT]
    return Stage(script, requests(scene, 4), CALLED, [True], tools, hangs_up=True, requests=4)


def sub_agents_side_by_side(scene: Scene) -> Stage:
    one, two = sub_agent_of(scene, add), sub_agent_of(scene, add)
    two.name = "check"
    calls = [DELEGATE.calls[0], ("check", DELEGATE.calls[0][1])]
    script = [Reply(calls=calls), SILENT, SILENT]
    expected = ("user", "assistant", "tool", "tool")
    return Stage(
        script, requests(scene, 3), expected, [True, True], [one, two, add], hangs_up=True, requests=3
    )


def haystack_sub_agent_of(scene: Scene, *tools: Any) -> AgentTool:
    """A sub-agent that runs Haystack's own loop, with our generator and tools."""
    inner = HaystackAgent(chat_generator=scene.generator(), tools=list(tools))
    return AgentTool(agent=inner, name="research", description="Delegate to another.")


def haystack_sub_agents_request(scene: Scene) -> Stage:
    tools = [haystack_sub_agent_of(scene, add), add]
    return Stage([DELEGATE, SILENT], requests(scene, 2), CALLED, [True], tools, hangs_up=True, requests=2)


def haystack_sub_agents_process_tool(scene: Scene) -> Stage:
    inner = process_tool(scene)
    tools = [haystack_sub_agent_of(scene, inner.tools[0]), add]
    return Stage([DELEGATE, *inner.script], inner.reached, CALLED, [True], tools, requests=2)


def sub_agent_that_a_tool_opens_and_closes(scene: Scene) -> Stage:
    @tool
    async def work() -> str:
        """Work."""
        return await scene.hold_async()

    @tool
    def delegate() -> str:
        """Delegate."""
        with scene.agent([work, add]) as inner:
            return inner.run("find out").text

    script = [Reply(calls=[("delegate", {})]), Reply(calls=[("work", {})])]
    return Stage(script, scene.reached.wait, CALLED, [True], [delegate, add], ended=["cancelled"], requests=2)


def fallback(scene: Scene) -> Stage:
    other = scene.generator(api_base_url=scene.other_endpoint().url)  # that is never asked: it has no script
    generators = FallbackChatGenerator([scene.generator(), other])
    return Stage(
        [SILENT], requests(scene, 1), tools=[add], agent={"chat_generator": generators}, hangs_up=True
    )


STAGES: dict[str, Callable[[Scene], Stage]] = {
    function.__name__.replace("_", " "): function
    for function in (
        headers_awaited,
        headers_awaited_with_retries,
        second_request,
        half_a_body,
        stream_that_flows,
        stream_that_stalls,
        stream_nobody_listens_to,
        back_off,
        pacing,
        sync_tool,
        sync_tool_with_a_time_limit,
        sync_tool_that_listens,
        async_tool,
        async_tool_that_swallows_it,
        foreign_sync_tool,
        foreign_async_tool,
        process_tool,
        back_off_of_a_tool,
        back_off_of_an_async_tool,
        several_calls,
        approval,
        last_answer,
        sub_agents_request,
        sub_agents_second_request,
        sub_agents_async_tool,
        sub_agents_sync_tool,
        sub_agents_process_tool,
        sub_agents_back_off,
        sub_agent_of_a_sub_agent,
        sub_agents_side_by_side,
        haystack_sub_agents_request,
        haystack_sub_agents_process_tool,
        sub_agent_that_a_tool_opens_and_closes,
        fallback,
    )
}


# Ways to break it off.


@dataclass
class Broken:
    """
    A run that was broken off.

    :param result: What it had got to.
    :param seconds: How long it went on.
    :param then: The result of another run of the agent, which continued it.
    :param heard: The run's events, as a listener heard them.
    """

    result: RunResult
    seconds: float
    then: RunResult | None
    heard: list[Event]


Way = Callable[..., Broken]


def _listener(stage: Stage, heard: list[Event]) -> Json:
    own = stage.run.get("on_event")

    def listen(event: Event) -> None:
        heard.append(event)
        if own is not None:
            own(event)

    return {**stage.run, "on_event": listen}


def by_token(scene: Scene, stage: Stage, continued: bool = False) -> Broken:
    """A sync run, and a token that another thread cancels."""
    token, when, heard = CancelToken(), [], []

    def cancel() -> None:
        if stage.reached(PATIENCE):
            when.append(monotonic())
        token.cancel()

    scene.endpoint.script(*stage.script)
    helper = threading.Thread(target=cancel)
    with scene.agent(stage.tools, generator=stage.generator, **stage.agent) as agent:
        helper.start()
        result = agent.run("go", cancel=token, **_listener(stage, heard))
        end = monotonic()
        helper.join()
        assert when, "the run never got there"
        then = agent.run("go on", messages=result.messages) if continued else None
    return Broken(result, end - when[0], then, heard)


async def _broken_off(
    scene: Scene,
    stage: Stage,
    continued: bool,
    token: CancelToken | None,
    end_it: Callable[["asyncio.Task[RunResult]"], Awaitable[object] | None],
) -> Broken:
    heard: list[Event] = []
    scene.endpoint.script(*stage.script)
    async with scene.agent(stage.tools, generator=stage.generator, **stage.agent) as agent:
        given = _listener(stage, heard) if token is None else {**_listener(stage, heard), "cancel": token}
        run = asyncio.create_task(agent.run_async("go", **given))
        reached = await asyncio.to_thread(stage.reached, PATIENCE)
        begin = monotonic()
        if (ending := end_it(run)) is not None:
            await ending
        assert reached, "the run never got there"
        if token is not None:
            result = await run
        else:
            with pytest.raises(asyncio.CancelledError) as caught:
                await run
            result = caught.value.result  # type: ignore[attr-defined]
        seconds = monotonic() - begin
        left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        if left:  # such as the end of a generator, which the event loop sees to
            left = (await asyncio.wait(left, timeout=PATIENCE))[1]
        assert not left
        then = await agent.run_async("go on", messages=result.messages) if continued else None
    return Broken(result, seconds, then, heard)


def by_token_of_a_thread(scene: Scene, stage: Stage, continued: bool = False) -> Broken:
    """An async run, and a token that a thread cancels."""
    token = CancelToken()
    ending = lambda run: asyncio.to_thread(token.cancel)  # noqa: E731
    return asyncio.run(_broken_off(scene, stage, continued, token, ending))


def by_token_of_a_task(scene: Scene, stage: Stage, continued: bool = False) -> Broken:
    """An async run, and a token that another task cancels."""
    token = CancelToken()
    return asyncio.run(_broken_off(scene, stage, continued, token, lambda run: token.cancel()))


def by_cancelling(scene: Scene, stage: Stage, continued: bool = False) -> Broken:
    """An async run whose task is cancelled."""

    def cancel(run: "asyncio.Task[RunResult]") -> None:
        run.cancel()

    return asyncio.run(_broken_off(scene, stage, continued, None, cancel))


each_stage = pytest.mark.parametrize("make", STAGES.values(), ids=STAGES)
each_way = pytest.mark.parametrize(
    "way",
    [by_token, by_token_of_a_thread, by_token_of_a_task, by_cancelling],
    ids=["token", "async, token from a thread", "async, token from a task", "async, task"],
)
two_ways = pytest.mark.parametrize("way", [by_token, by_token_of_a_task], ids=["sync", "async"])
async_ways = pytest.mark.parametrize(
    "way", [by_token_of_a_thread, by_token_of_a_task, by_cancelling], ids=["thread", "token", "task"]
)


@each_stage
@each_way
def test_a_run_that_is_broken_off_ends_at_once_with_what_it_had(
    scene: Scene, make: Callable[[Scene], Stage], way: Way
) -> None:
    stage = make(scene)
    broken = way(scene, stage)
    result = broken.result
    assert broken.seconds < BOUND
    assert isinstance(result, RunResult)
    assert result.stop_reason == "cancelled"
    assert way is by_cancelling or result["exit_reason"] == "cancelled"
    assert roles(result)[: len(stage.roles)] == list(stage.roles)
    assert set(roles(result)[len(stage.roles) :]) <= {"user"}
    assert stage.failed is None or errors(result) == list(stage.failed)
    assert len(scene.endpoint.requests) == stage.requests
    assert scene.ended == list(stage.ended)
    (finished,) = of(result, RunFinished)
    assert (finished.stop_reason, broken.heard[-1]) == ("cancelled", finished)
    assert (scene.endpoint.disconnects > 0) == stage.hangs_up or scene.endpoint.wait_for_disconnect(PATIENCE)


@pytest.mark.parametrize(
    "make",
    [make for make in STAGES.values() if make is not pacing],  # its next turn would come in a minute
    ids=[name for name, make in STAGES.items() if make is not pacing],
)
@two_ways
def test_a_run_that_was_broken_off_can_be_continued(
    scene: Scene, make: Callable[[Scene], Stage], way: Way
) -> None:
    stage = make(scene)
    stage.script = [*stage.script, *strictly(Reply("went on"))]
    broken = way(scene, stage, continued=True)
    assert broken.then is not None
    assert (broken.then.text, broken.then.stop_reason) == ("went on", "answered")
    assert list(faults(scene.endpoint.requests[-1].messages)) == []


def sockets() -> int:
    """Open sockets of this process."""
    gc.collect()
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(entry.readlink()).startswith("socket:")
    return found


def threads_left(before: set[threading.Thread]) -> list[str]:
    """Threads of ours that don't end. The endpoint's own live as long as it does."""
    ours = [t for t in threading.enumerate() if t not in before and not t.name.startswith("endpoint-")]
    for thread in ours:
        thread.join(PATIENCE)
    return [thread.name for thread in ours if thread.is_alive()]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
@each_stage
@two_ways
def test_a_run_that_was_broken_off_leaves_no_thread_and_no_socket(
    tmp_path: Path, make: Callable[[Scene], Stage], way: Way
) -> None:
    threads, files = set(threading.enumerate()), sockets()
    with Scene(tmp_path) as scene:
        stage = make(scene)
        result = way(scene, stage).result
        if not stage.leaks:
            assert threads_left(threads) == []
        assert result.leaked_threads in ((0, 1) if stage.leaks or stage.lingers else (0,))
    assert threads_left(threads) == []
    assert sockets() <= files


@two_ways
def test_a_thread_that_cant_be_ended_is_counted(scene: Scene, way: Way) -> None:
    assert way(scene, sync_tool(scene)).result.leaked_threads == 1


def full_house() -> tuple[socket.socket, list[socket.socket]]:
    """A server whose queue is full, so that connecting to it takes for ever; and those that fill it."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    waiting: list[socket.socket] = []
    while len(waiting) < 50:
        client = socket.socket()
        client.settimeout(0.3)
        waiting.append(client)
        try:
            client.connect(server.getsockname())
        except TimeoutError:
            return server, waiting
    raise AssertionError("this system takes every connection")


@each_way
def test_a_run_ends_at_once_while_it_connects(scene: Scene, way: Way) -> None:
    server, waiting = full_house()

    def reached(seconds: float) -> bool:
        came = scene.reached.wait(seconds)
        threading.Event().wait(BRIEF)  # so that it has begun to connect
        return came

    stage = Stage(
        [],
        reached,
        generator={"api_base_url": f"http://127.0.0.1:{server.getsockname()[1]}/v1"},
        run={"on_event": scene.on_event(ModelRequested)},
    )
    try:
        broken = way(scene, stage)
    finally:
        for client in [*waiting, server]:
            client.close()
    assert broken.seconds < BOUND
    assert (broken.result.stop_reason, roles(broken.result)) == ("cancelled", ["user"])


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """A server that takes connections, and says nothing ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def begun(scene: Scene) -> Callable[[float], bool]:
    def reached(seconds: float) -> bool:
        came = scene.reached.wait(seconds)
        threading.Event().wait(BRIEF)  # so that the network is waited for
        return came

    return reached


# httpcore2 leaves the socket of a handshake that is cancelled in async to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@each_way
@pytest.mark.parametrize("what", ["TLS", "a proxy", "a proxy to TLS"])
def test_a_run_ends_at_once_while_it_waits_for_tls_or_a_proxy(
    scene: Scene, way: Way, silent_server: socket.socket, what: str
) -> None:
    here = f"127.0.0.1:{silent_server.getsockname()[1]}"
    scheme = "http" if what == "a proxy" else "https"
    kwargs = {"verify": False} if what == "TLS" else {"verify": False, "proxy": f"http://{here}"}
    address = f"{scheme}://{here}/v1" if what == "TLS" else f"{scheme}://127.0.0.1:9/v1"
    stage = Stage(
        [],
        begun(scene),
        generator={"api_base_url": address, "http_client_kwargs": kwargs},
        run={"on_event": scene.on_event(ModelRequested)},
        requests=0,
    )
    broken = way(scene, stage)
    gc.collect()
    assert broken.seconds < BOUND
    assert (broken.result.stop_reason, roles(broken.result)) == ("cancelled", ["user"])


@each_way
def test_a_run_ends_at_once_while_it_asks_for_the_model(tmp_path: Path, way: Way) -> None:
    stalled = Raw([b'{"object": "list", ', b"too late"], pause=HOLD)
    with Endpoint(routes={("GET", "/v1/models"): stalled}) as other, Scene(tmp_path) as scene:

        def reached(seconds: float) -> bool:
            end = monotonic() + seconds
            while not other.all_requests and monotonic() < end:
                threading.Event().wait(0.01)
            return bool(other.all_requests)

        broken = way(scene, Stage([], reached, generator={"api_base_url": other.url, "model": None}))
    assert broken.seconds < BOUND
    assert (broken.result.stop_reason, roles(broken.result)) == ("cancelled", ["user"])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_cancelled_token_doesnt_even_ask_for_the_model(scene: Scene, mode: str) -> None:
    token = CancelToken()
    token.cancel()
    result = _run(scene.agent([add], generator={"model": None}), mode, cancel=token)
    assert (result.stop_reason, scene.endpoint.all_requests) == ("cancelled", [])


@async_ways
def test_a_run_ends_at_once_in_an_async_callback(scene: Scene, way: Way) -> None:
    async def show(chunk: StreamingChunk) -> None:
        if chunk.content:
            await scene.hold_async()

    story = Reply("a long story " * 500, chunk_size=1, pause=0.02)
    stage = Stage([story], scene.reached.wait, run={"streaming_callback": show}, hangs_up=True)
    broken = way(scene, stage)
    assert broken.seconds < BOUND
    assert (broken.result.stop_reason, scene.ended) == ("cancelled", ["cancelled"])
    assert scene.endpoint.wait_for_disconnect(PATIENCE)


@async_ways
@pytest.mark.parametrize("point", ["before_run", "before_llm", "before_tool", "after_tool", "on_exit"])
def test_a_run_ends_at_once_in_an_async_hook(scene: Scene, way: Way, point: Any) -> None:
    @hook
    async def wait(state: State) -> None:
        await scene.hold_async()

    early = point in ("before_run", "before_llm")
    script = [] if early else [Reply("5")] if point == "on_exit" else [ADD]
    stage = Stage(script, scene.reached.wait, agent={"hooks": {point: [wait]}})
    broken = way(scene, stage)
    assert broken.seconds < BOUND
    assert (broken.result.stop_reason, scene.ended) == ("cancelled", ["cancelled"])
    assert len(scene.endpoint.requests) == len(script)
    if point == "after_tool":
        assert told(broken.result) == ["5"]
    assert list(faults([_wire(message) for message in broken.result.messages])) == []


def _wire(message: ChatMessage) -> Json:
    return {"content": "", **message.to_openai_dict_format()}


@pytest.mark.parametrize("point", ["before_run", "before_llm", "before_tool", "after_tool"])
def test_after_a_sync_hook_a_cancelled_run_does_nothing_more(scene: Scene, point: Any) -> None:
    token, runs = CancelToken(), []

    @hook
    def cancel(state: State) -> None:
        token.cancel()

    @tool
    def work() -> str:
        """Work."""
        runs.append("ran")
        return "worked"

    script = [] if point in ("before_run", "before_llm") else [Reply(calls=[("work", {})])]
    scene.endpoint.script(*script)
    with scene.agent([work], hooks={point: [cancel]}) as agent:
        result = agent.run("go", cancel=token)
    assert result.stop_reason == "cancelled"
    assert runs == (["ran"] if point == "after_tool" else [])
    assert list(faults([_wire(message) for message in result.messages])) == []


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_person_who_says_yes_too_late_starts_nothing(scene: Scene, mode: str) -> None:
    token, runs = CancelToken(), []

    class Asking:
        def needs(self, call: Any, tool: Any) -> bool:
            return True

        def ask(self, call: Any, tool: Any) -> None:
            token.cancel()

    @tool
    def work() -> str:
        """Work."""
        runs.append("ran")
        return "worked"

    scene.endpoint.script(Reply(calls=[("work", {}), ("work", {})]))
    result = _run(scene.agent([work], approval=Asking()), mode, cancel=token)
    assert (result.stop_reason, runs, errors(result)) == ("cancelled", [], [True, True])


def _run(agent: Agent, mode: str, task: str = "go", **given: Any) -> RunResult:
    async def main() -> RunResult:
        async with agent:
            return await agent.run_async(task, **given)

    if mode == "async":
        return asyncio.run(main())
    with agent:
        return agent.run(task, **given)


both_modes = pytest.mark.parametrize("mode", ["sync", "async"])


# Before the run, and from within.


@both_modes
def test_a_token_that_is_cancelled_before_the_run_means_no_request(scene: Scene, mode: str) -> None:
    token, heard = CancelToken(), []
    token.cancel()
    result = _run(scene.agent([add]), mode, cancel=token, on_event=heard.append)
    assert (result.stop_reason, result["exit_reason"], roles(result)) == ("cancelled", "cancelled", ["user"])
    assert (result.usage.model_calls, scene.endpoint.all_requests) == (0, [])
    assert of(result, ModelRequested) == []
    assert (type(heard[-1]), heard[-1].stop_reason) == (RunFinished, "cancelled")


@both_modes
def test_a_cancelled_token_runs_no_open_call_of_a_history(scene: Scene, mode: str) -> None:
    token = CancelToken()
    token.cancel()
    with Endpoint() as other:
        other.script(ADD)
        agent = scene.agent(
            [add], generator={"api_base_url": other.url}, limits=Limits(steps=1, landing=False)
        )
        earlier = _run(agent, mode)
    result = _run(scene.agent([add]), mode, "go on", messages=earlier.messages, cancel=token)
    assert roles(result) == ["user", "assistant", "tool", "user"]
    assert (result.stop_reason, told(result)) == ("cancelled", ["5"])


@both_modes
def test_one_token_ends_every_run_that_it_was_given_to(scene: Scene, mode: str) -> None:
    token = CancelToken()
    scene.endpoint.script(Always(SILENT))
    agent = scene.agent([add])
    results: list[RunResult] = []

    def run() -> None:
        results.append(agent.run("go", cancel=token))

    async def main() -> None:
        async with agent:
            runs = [asyncio.create_task(agent.run_async("go", cancel=token)) for _ in range(3)]
            assert await asyncio.to_thread(scene.endpoint.wait_for_requests, 3, PATIENCE)
            token.cancel()
            results.extend(await asyncio.wait_for(asyncio.gather(*runs), BOUND))

    if mode == "async":
        asyncio.run(main())
    else:
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert scene.endpoint.wait_for_requests(3, PATIENCE)
        token.cancel()
        for thread in threads:
            thread.join(BOUND)
        agent.close()
    assert [result.stop_reason for result in results] == ["cancelled"] * 3


EVENTS: dict[type[Event], tuple[Sequence[Any], int]] = {
    RunStarted: ([], 0),
    ModelRequested: ([SILENT], 1),
    ModelReplied: ([ADD], 1),
    ApprovalRequested: ([ADD], 1),
    ToolStarted: ([ADD], 1),
    ToolFinished: ([ADD], 1),
    RetryScheduled: ([Status(503, headers={"Retry-After": str(int(HOLD))})], 1),
    RequestDelayed: ([ADD], 1),
    ToolRetryScheduled: ([Reply(calls=[("flaky", {})])], 1),
    ToolTimedOut: ([Reply(calls=[("slow", {})])], 1),
}


class Yes:
    """Somebody who allows everything."""

    def needs(self, call: Any, tool: Any) -> bool:
        return True

    def ask(self, call: Any, tool: Any) -> None:
        """Yes."""


@both_modes
@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_a_listener_may_cancel_the_run_that_it_hears(mode: str, kind: type[Event], tmp_path: Path) -> None:
    token = CancelToken()
    script, most = EVENTS[kind]

    @tool(retry_on=(ConnectionError,), retries=10_000)
    def flaky() -> str:
        """Fail."""
        raise ConnectionError("down")

    @tool(timeout=0.3)
    async def slow() -> str:
        """Hold."""
        await asyncio.sleep(HOLD)
        return "too late"

    def listen(event: Event) -> None:
        if isinstance(event, kind):
            token.cancel()

    with Scene(tmp_path) as scene:
        # Whether a request still goes out when it was told is all the same.
        scene.endpoint.script(*[Always(item) for item in script])
        generator = {"rate_limit": RateLimit(requests_per_minute=1)} if kind is RequestDelayed else {}
        settings: Json = {"approval": Yes()} if kind is ApprovalRequested else {}
        settings["retry"] = RetryPolicy(max_retries=5)
        agent = scene.agent([add, flaky, slow], generator=generator, **settings)
        begin = monotonic()
        result = _run(agent, mode, cancel=token, on_event=listen)
        assert monotonic() - begin < BOUND
        assert len(scene.endpoint.requests) <= most
    assert (result.stop_reason, len(of(result, kind)) >= 1) == ("cancelled", True)
    assert list(faults([_wire(message) for message in result.messages])) == []
    if kind in (ToolFinished, RequestDelayed):
        assert told(result) == ["5"]


@both_modes
def test_a_callback_may_cancel_the_run_whose_text_it_shows(scene: Scene, mode: str) -> None:
    token = CancelToken()

    def show(chunk: StreamingChunk) -> None:
        if chunk.content:
            token.cancel()

    scene.endpoint.script(Reply("a long story " * 500, chunk_size=1, pause=0.02))
    begin = monotonic()
    result = _run(scene.agent([add]), mode, cancel=token, streaming_callback=show)
    assert monotonic() - begin < BOUND
    assert (result.stop_reason, roles(result)) == ("cancelled", ["user"])
    assert scene.endpoint.wait_for_disconnect(PATIENCE)


@both_modes
@pytest.mark.parametrize("is_async", [False, True], ids=["function", "async function"])
def test_a_tool_may_cancel_the_run_that_it_works_for(scene: Scene, mode: str, is_async: bool) -> None:
    token = CancelToken()

    def give_up() -> str:
        """Give up."""
        token.cancel()
        return "gave up"

    async def give_up_async() -> str:
        """Give up."""
        return give_up()

    scene.endpoint.script(Reply(calls=[("give_up", {})]))
    made = tool(name="give_up")(give_up_async if is_async else give_up)
    result = _run(scene.agent([made]), mode, cancel=token)
    assert (result.stop_reason, roles(result)) == ("cancelled", list(CALLED))
    assert len(scene.endpoint.requests) == 1


@both_modes
def test_an_answer_that_has_come_stays(scene: Scene, mode: str) -> None:
    token = CancelToken()

    def listen(event: Event) -> None:
        if isinstance(event, ModelReplied):
            token.cancel()

    scene.endpoint.script(Reply("5"))
    result = _run(scene.agent([add]), mode, cancel=token, on_event=listen)
    assert result.text == "5"
    assert of(result, RunFinished)[0].stop_reason == result.stop_reason


# After the run.


@both_modes
def test_a_token_that_nobody_cancels_changes_nothing(scene: Scene, mode: str) -> None:
    token = CancelToken()
    scene.endpoint.script(ADD, Reply("5"))
    result = _run(scene.agent([add]), mode, cancel=token)
    assert (result.text, result.stop_reason, told(result)) == ("5", "answered", ["5"])
    assert result.leaked_threads == 0


@both_modes
def test_a_token_may_be_cancelled_when_the_run_is_long_over(scene: Scene, mode: str) -> None:
    # An async run's event loop is closed by then.
    token = CancelToken()
    scene.endpoint.script(ADD, Reply("5"))
    result = _run(scene.agent([add]), mode, cancel=token)
    token.cancel()
    assert (token.cancelled, result.stop_reason) == (True, "answered")


def test_a_token_that_ended_a_run_leaves_the_task_as_it_was(scene: Scene) -> None:
    token = CancelToken()

    async def main() -> str:
        async with scene.agent([add]) as agent:
            task = asyncio.current_task()
            assert task is not None
            helper = asyncio.create_task(asyncio.to_thread(_cancel_at_request, scene, token))
            async with asyncio.timeout(PATIENCE + BOUND):
                result = await agent.run_async("go", cancel=token)
            await helper
            assert (result.stop_reason, task.cancelling(), task.cancelled()) == ("cancelled", 0, False)
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
                again = group.create_task(agent.run_async("again"))
            return again.result().text

    scene.endpoint.script(SILENT, Reply("again"))
    assert asyncio.run(main()) == "again"


def _cancel_at_request(scene: Scene, token: CancelToken, number: int = 1) -> None:
    assert scene.endpoint.wait_for_requests(number, PATIENCE)
    token.cancel()


def test_an_agent_serves_on_after_its_run_was_cancelled(scene: Scene) -> None:
    scene.endpoint.script(SILENT, Reply("one"), SILENT, Reply("two"))
    with scene.agent([add]) as agent:
        for number, text in ((1, "one"), (3, "two")):
            token = CancelToken()
            helper = threading.Thread(target=_cancel_at_request, args=[scene, token, number])
            helper.start()
            assert agent.run("go", cancel=token).stop_reason == "cancelled"
            helper.join()
            assert agent.run("go").text == text


def _by_task(request: Request) -> Item:
    """Silence for one run; for the other, an answer that comes when the first has gone."""
    return SILENT if "hopeless" in str(request.messages[0]["content"]) else Reply("well", first_pause=1.0)


def test_the_other_sync_runs_of_an_agent_go_on(scene: Scene) -> None:
    token, results = CancelToken(), {}
    scene.endpoint.script(Always(_by_task))
    with scene.agent([add]) as agent:

        def run(task: str, **given: Any) -> None:
            results[task] = agent.run(task, **given)

        threads = [
            threading.Thread(target=run, args=["hopeless"], kwargs={"cancel": token}),
            threading.Thread(target=run, args=["hopeful"]),
            threading.Thread(target=run, args=["hopeful too"], kwargs={"cancel": CancelToken()}),
        ]
        for thread in threads:
            thread.start()
        assert scene.endpoint.wait_for_requests(3, PATIENCE)
        token.cancel()
        for thread in threads:
            thread.join(PATIENCE)
    assert {task: result.stop_reason for task, result in results.items()} == {
        "hopeless": "cancelled",
        "hopeful": "answered",
        "hopeful too": "answered",
    }
    assert len(scene.endpoint.requests) == 3


@pytest.mark.parametrize("ending", ["token", "task"])
def test_the_other_async_runs_of_an_agent_go_on(scene: Scene, ending: str) -> None:
    token = CancelToken()

    async def main() -> list[str]:
        async with scene.agent([add]) as agent:
            hopeless = asyncio.create_task(agent.run_async("hopeless", cancel=token))
            others = [
                asyncio.create_task(agent.run_async("hopeful")),
                asyncio.create_task(agent.run_async("hopeful too", cancel=CancelToken())),
            ]
            assert await asyncio.to_thread(scene.endpoint.wait_for_requests, 3, PATIENCE)
            if ending == "token":
                token.cancel()
            else:
                hopeless.cancel()
            await asyncio.wait([hopeless])
            return [result.stop_reason for result in await asyncio.gather(*others)]

    scene.endpoint.script(Always(_by_task))
    assert asyncio.run(main()) == ["answered", "answered"]
    assert len(scene.endpoint.requests) == 3


def test_sync_runs_in_one_process_can_be_cancelled_from_threads_at_any_moment(tmp_path: Path) -> None:
    """Each run ends well, and says truly how: answered when it has the answer, else cancelled."""
    dice = random.Random(6)

    def answer(request: Request) -> Item:
        if request.messages[-1]["role"] == "tool":
            return Reply("5", first_pause=0.01)
        return Reply(calls=ADD.calls, first_pause=0.01)

    with Scene(tmp_path) as scene, scene.agent([add]) as agent:
        scene.endpoint.script(Always(answer))
        for _ in range(60):
            token = CancelToken()
            timer = threading.Timer(dice.uniform(0, 0.06), token.cancel)
            timer.start()
            result = agent.run("go", cancel=token)
            timer.join()
            assert result.stop_reason in ("answered", "cancelled")
            assert (result.text == "5") or result.stop_reason == "cancelled"
            assert result.stop_reason == of(result, RunFinished)[0].stop_reason
            assert list(faults([_wire(message) for message in result.messages])) == []


@pytest.mark.parametrize("ending", ["token", "task"])
def test_async_runs_can_be_cancelled_at_any_moment(tmp_path: Path, ending: str) -> None:
    """As for sync runs; and cancelled tasks always raise."""
    dice = random.Random(7)

    def answer(request: Request) -> Item:
        if request.messages[-1]["role"] == "tool":
            return Reply("5", first_pause=0.01)
        return Reply(calls=[*ADD.calls, ("double", {"value": 1})], first_pause=0.01)

    @tool
    async def double(value: int) -> int:
        """Double a number."""
        await asyncio.sleep(0.005)
        return 2 * value

    async def one(agent: Agent) -> RunResult:
        token = CancelToken()
        run = asyncio.create_task(agent.run_async("go", cancel=token if ending == "token" else None))
        timer = threading.Timer(
            dice.uniform(0, 0.08), *_ender(run, token, asyncio.get_running_loop(), ending)
        )
        timer.start()
        try:
            return await run
        except asyncio.CancelledError as error:
            assert ending == "task"
            return error.result  # type: ignore[attr-defined]
        finally:
            await asyncio.to_thread(timer.join)

    async def main(scene: Scene) -> list[RunResult]:
        async with scene.agent([add, double]) as agent:
            return [
                result for _ in range(12) for result in await asyncio.gather(*(one(agent) for _ in "12345"))
            ]

    with Scene(tmp_path) as scene:
        scene.endpoint.script(Always(answer))
        results = asyncio.run(main(scene))
    for result in results:
        assert result.stop_reason in ("answered", "cancelled")
        assert (result.text == "5") or result.stop_reason == "cancelled"
        assert list(faults([_wire(message) for message in result.messages])) == []


def _ender(
    run: "asyncio.Task[RunResult]", token: CancelToken, loop: asyncio.AbstractEventLoop, ending: str
) -> tuple[Callable[..., object], list[Any]]:
    if ending == "token":
        return token.cancel, []
    return loop.call_soon_threadsafe, [run.cancel]


# Twice, and two at a time.


@each_way
@pytest.mark.parametrize("make", [headers_awaited, async_tool, async_tool_that_swallows_it, sync_tool])
def test_cancelling_again_changes_nothing(scene: Scene, make: Callable[[Scene], Stage], way: Way) -> None:
    stage = make(scene)
    if way is by_token:
        token = CancelToken()

        def cancel() -> None:
            stage.reached(PATIENCE)
            for _ in range(3):
                token.cancel()

        scene.endpoint.script(*stage.script)
        helper = threading.Thread(target=cancel)
        with scene.agent(stage.tools) as agent:
            helper.start()
            result = agent.run("go", cancel=token)
        helper.join()
    else:
        again = CancelToken()
        token_ = None if way is by_cancelling else again

        async def twice(run: "asyncio.Task[RunResult]") -> None:
            for _ in range(3):
                if way is by_cancelling:
                    run.cancel()
                elif way is by_token_of_a_thread:
                    await asyncio.to_thread(again.cancel)
                else:
                    again.cancel()
                await asyncio.sleep(0)

        result = asyncio.run(_broken_off(scene, stage, False, token_, twice)).result
    assert (result.stop_reason, roles(result)) == ("cancelled", list(stage.roles))


@pytest.mark.parametrize("order", ["token, then task", "task, then token"])
@pytest.mark.parametrize("make", [headers_awaited, async_tool, sync_tool, back_off, approval])
def test_a_cancelled_task_raises_though_a_token_was_cancelled_too(
    scene: Scene, make: Callable[[Scene], Stage], order: str
) -> None:
    stage, token = make(scene), CancelToken()

    async def main() -> RunResult:
        async with scene.agent(stage.tools, generator=stage.generator, **stage.agent) as agent:
            run = asyncio.create_task(agent.run_async("go", cancel=token, **stage.run))
            assert await asyncio.to_thread(stage.reached, PATIENCE)
            enders: list[Callable[[], object]] = [token.cancel, run.cancel]
            for end in enders if order == "token, then task" else reversed(enders):
                end()
            with pytest.raises(asyncio.CancelledError) as caught:
                await run
            assert run.cancelled()
            return caught.value.result  # type: ignore[attr-defined]

    scene.endpoint.script(*stage.script)
    result = asyncio.run(main())
    assert (result.stop_reason, roles(result)) == ("cancelled", list(stage.roles))


def test_a_time_out_of_asyncio_beside_a_token_is_still_a_time_out(scene: Scene) -> None:
    async def main() -> RunResult:
        async with scene.agent([add]) as agent:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.5):
                    await agent.run_async("go", cancel=CancelToken())
            return caught.value.__cause__.result  # type: ignore[union-attr]

    scene.endpoint.script(SILENT)
    assert asyncio.run(main()).stop_reason == "cancelled"


def test_the_same_cancellation_is_raised_again(scene: Scene) -> None:
    async def main() -> BaseException:
        async with scene.agent([add]) as agent:
            run = asyncio.create_task(agent.run_async("go", cancel=CancelToken()))
            assert await asyncio.to_thread(scene.endpoint.wait_for_requests, 1, PATIENCE)
            run.cancel("enough of it")
            with pytest.raises(asyncio.CancelledError) as caught:
                await run
            return caught.value

    scene.endpoint.script(SILENT)
    error = asyncio.run(main())
    assert (type(error), error.args) == (asyncio.CancelledError, ("enough of it",))


def test_a_task_group_that_fails_ends_its_runs(scene: Scene) -> None:
    async def fail() -> None:
        assert await asyncio.to_thread(scene.endpoint.wait_for_requests, 1, PATIENCE)
        raise ZeroDivisionError

    async def main() -> None:
        async with scene.agent([add]) as agent, asyncio.TaskGroup() as group:
            group.create_task(agent.run_async("go", cancel=CancelToken()))
            group.create_task(fail())

    scene.endpoint.script(SILENT)
    begin = monotonic()
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert monotonic() - begin < BOUND + PATIENCE
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
    assert scene.endpoint.wait_for_disconnect(PATIENCE)


@both_modes
def test_a_token_ends_a_run_that_waits_for_tools_that_ran_out_of_time(scene: Scene, mode: str) -> None:
    token = CancelToken()
    leaked = threading.Event()

    @tool(timeout=0.3)
    def leak() -> str:
        """Leak."""
        return scene.hold()

    def listen(event: Event) -> None:
        if isinstance(event, ToolTimedOut):
            leaked.set()

    @tool
    async def work() -> str:
        """Work."""
        assert await asyncio.to_thread(leaked.wait, PATIENCE)
        token.cancel()
        await asyncio.sleep(HOLD)
        return "too late"

    scene.endpoint.script(Reply(calls=[("leak", {}), ("work", {})]))
    begin = monotonic()
    result = _run(scene.agent([leak, work]), mode, cancel=token, on_event=listen)
    assert monotonic() - begin < BOUND
    assert (result.stop_reason, errors(result), result.leaked_threads) == ("cancelled", [True, True], 1)
    assert "did not finish within" in told(result)[0]


# What tools see and leave.


@each_way
def test_a_tool_in_a_thread_sees_that_the_run_was_broken_off(scene: Scene, way: Way) -> None:
    way(scene, sync_tool_that_listens(scene))
    assert scene.ended == ["cancelled"]


@each_way
def test_calls_that_wait_for_their_turn_never_start(scene: Scene, way: Way) -> None:
    started: list[str] = []

    @tool
    def work() -> str:
        """Work."""
        started.append("started")
        return scene.hold()

    script = [Reply(calls=[("work", {})] * 5)]
    expected = ("user", "assistant", *["tool"] * 5)
    stage = Stage(
        script, scene.reached.wait, expected, [True] * 5, [work], agent={"tool_concurrency_limit": 1}
    )
    broken = way(scene, stage)
    scene.release.set()
    threading.Event().wait(BRIEF)
    assert (started, errors(broken.result)) == (["started"], [True] * 5)


@each_way
def test_what_a_tool_returns_after_the_end_counts_nowhere(scene: Scene, way: Way) -> None:
    threads: list[threading.Thread] = []

    def work() -> dict[str, str]:
        """Work."""
        threads.append(threading.current_thread())
        return {"text": scene.hold()}

    made = tool(outputs_to_state={"note": {"source": "text"}})(work)
    stage = Stage(
        [Reply(calls=[("work", {})])],
        scene.reached.wait,
        tools=[made],
        agent={"state_schema": {"note": {"type": str}}},
    )
    broken = way(scene, stage)
    scene.release.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert broken.result.get("note") is None
    assert "too late" not in str(broken.result.messages)
    assert isinstance(broken.heard[-1], RunFinished)


@each_way
def test_unfinished_calls_are_told_as_such(scene: Scene, way: Way) -> None:
    result = way(scene, several_calls(scene)).result
    assert told(result)[0] == "finished"
    assert all("did not finish" in text or "was not called" in text for text in told(result)[1:])
    assert result.usage.tool_calls == 1


@each_way
def test_with_raise_on_failure_a_cancellation_is_no_failure(scene: Scene, way: Way) -> None:
    stage = async_tool(scene)
    stage.agent = {"raise_on_tool_invocation_failure": True}
    assert way(scene, stage).result.stop_reason == "cancelled"


@each_way
@pytest.mark.parametrize(
    "make", [headers_awaited, sync_tool, async_tool, process_tool, several_calls, sub_agents_process_tool]
)
def test_a_cancellation_prints_nothing(
    scene: Scene,
    make: Callable[[Scene], Stage],
    way: Way,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = set(threading.enumerate())
    way(scene, make(scene))
    scene.release.set()
    assert threads_left(before) == []
    gc.collect()
    assert capfd.readouterr() == ("", "")
    # Without a handler, as in most programs, Python prints these.
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@each_way
def test_what_a_tool_raises_after_the_end_prints_nothing(
    scene: Scene, way: Way, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(threading.enumerate())

    @tool
    def work() -> str:
        """Work."""
        scene.hold()
        raise ValueError("after the end")

    way(scene, Stage([Reply(calls=[("work", {})])], scene.reached.wait, tools=[work]))
    scene.release.set()
    assert threads_left(before) == []
    gc.collect()
    assert capfd.readouterr() == ("", "")


# Sub-agents.


@each_way
def test_a_sub_agents_events_say_that_it_was_cancelled_before_the_run_above_ends(
    scene: Scene, way: Way
) -> None:
    seen: list[str] = []

    @hook
    def note(state: State) -> None:
        seen.append("after")

    inner = sub_agent_of(scene, add, hooks={"after_tool": [note]})
    stage = Stage([DELEGATE, ADD, SILENT], requests(scene, 3), CALLED, [True], [inner], hangs_up=True)
    broken = way(scene, stage)
    assert (broken.result.stop_reason, seen) == ("cancelled", ["after"])
    assert "too late" not in str(broken.result.messages)


@both_modes
def test_a_token_that_is_cancelled_reaches_sub_agents_that_begin_later(scene: Scene, mode: str) -> None:
    token = CancelToken()

    def listen(event: Event) -> None:
        if isinstance(event, ToolStarted):
            token.cancel()

    scene.endpoint.script(DELEGATE)
    result = _run(scene.agent([sub_agent_of(scene, add)]), mode, cancel=token, on_event=listen)
    assert (result.stop_reason, errors(result)) == ("cancelled", [True])
    assert len(scene.endpoint.requests) == 1


@both_modes
def test_a_sub_agent_in_a_tool_of_the_users_is_cancelled_too(scene: Scene, mode: str) -> None:
    token = CancelToken()
    inner = scene.agent([add])

    @tool
    def delegate() -> str:
        """Delegate."""
        return inner.run("find out").text

    @tool
    async def delegate_async() -> str:
        """Delegate."""
        return (await inner.run_async("find out")).text

    scene.endpoint.script(Reply(calls=[("delegate_async" if mode == "async" else "delegate", {})]), SILENT)
    helper = threading.Thread(target=_cancel_at_request, args=[scene, token, 2])
    helper.start()
    begin = monotonic()
    result = _run(scene.agent([delegate, delegate_async]), mode, cancel=token)
    helper.join()
    assert monotonic() - begin < BOUND + PATIENCE
    assert result.stop_reason == "cancelled"
    assert scene.endpoint.wait_for_disconnect(PATIENCE)


@both_modes
def test_a_token_of_a_sub_agents_own_ends_the_sub_agent_only(scene: Scene, mode: str) -> None:
    inner, own = scene.agent([add]), CancelToken()

    @tool
    def delegate() -> str:
        """Delegate."""
        return inner.run("find out", cancel=own).stop_reason

    @tool
    async def delegate_async() -> str:
        """Delegate."""
        return (await inner.run_async("find out", cancel=own)).stop_reason

    name = "delegate_async" if mode == "async" else "delegate"
    scene.endpoint.script(Reply(calls=[(name, {})]), SILENT, Reply("done"))
    helper = threading.Thread(target=_cancel_at_request, args=[scene, own, 2])
    helper.start()
    result = _run(scene.agent([delegate, delegate_async]), mode, cancel=CancelToken())
    helper.join()
    assert (result.stop_reason, told(result), result.text) == ("answered", ["cancelled"], "done")


# Other generators, pipelines, and what can't be a token.


@pytest.mark.parametrize("way", [by_token_of_a_thread, by_token_of_a_task, by_cancelling])
def test_another_generator_is_cancelled_in_async_runs(scene: Scene, way: Way) -> None:
    other = OpenAIChatGenerator(
        api_key=Secret.from_token("x"), api_base_url=scene.endpoint.url, model="m", max_retries=0
    )
    stage = Stage([SILENT], requests(scene, 1), agent={"chat_generator": other}, hangs_up=True)
    broken = way(scene, stage)
    assert (broken.seconds < BOUND, broken.result.stop_reason) == (True, "cancelled")
    assert scene.endpoint.wait_for_disconnect(PATIENCE)


def test_another_generator_doesnt_hold_a_sync_run_up(scene: Scene) -> None:
    other = OpenAIChatGenerator(
        api_key=Secret.from_token("x"), api_base_url=scene.endpoint.url, model="m", max_retries=0
    )
    token = CancelToken()
    scene.endpoint.script(Reply("late", first_pause=3.0))
    helper = threading.Thread(target=_cancel_at_request, args=[scene, token])
    helper.start()
    with scene.agent([add], chat_generator=other) as agent:
        result = agent.run("go", cancel=token)
    helper.join()
    # Its request can't be ended from outside; but nothing comes after it.
    assert result.stop_reason == "cancelled"
    assert len(scene.endpoint.requests) == 1


@both_modes
def test_a_pipeline_hands_the_token_on(scene: Scene, mode: str) -> None:
    token = CancelToken()
    pipeline = Pipeline()
    pipeline.add_component("agent", scene.agent([add]))
    scene.endpoint.script(SILENT)
    data = {"agent": {"messages": [ChatMessage.from_user("go")], "cancel": token}}
    helper = threading.Thread(target=_cancel_at_request, args=[scene, token])
    helper.start()
    begin = monotonic()
    outputs = asyncio.run(pipeline.run_async(data)) if mode == "async" else pipeline.run(data)
    helper.join()
    assert monotonic() - begin < BOUND + PATIENCE
    assert outputs["agent"]["exit_reason"] == "cancelled"


@both_modes
@pytest.mark.parametrize(
    "wrong", [True, threading.Event(), CancelToken, "now"], ids=["True", "an Event", "the class", "a text"]
)
def test_what_is_no_token_is_refused(scene: Scene, mode: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="cancel"):
        _run(scene.agent([add]), mode, cancel=wrong)


def test_a_key_of_the_state_cant_have_the_tokens_name() -> None:
    with pytest.raises(ConfigurationError, match="cancel"):
        Agent(tools=[add], state_schema={"cancel": {"type": str}})


def test_a_cancelled_run_in_a_thread_of_its_own_ends(scene: Scene) -> None:
    token, results = CancelToken(), []
    scene.endpoint.script(SILENT)
    with scene.agent([add]) as agent:
        thread = threading.Thread(target=lambda: results.append(agent.run("go", cancel=token)), daemon=True)
        thread.start()
        assert scene.endpoint.wait_for_requests(1, PATIENCE)
        token.cancel()  # by the main thread
        thread.join(BOUND)
    assert [result.stop_reason for result in results] == ["cancelled"]


def test_a_sync_run_inside_a_running_event_loop_ends(scene: Scene) -> None:
    token = CancelToken()

    async def cell() -> RunResult:
        with scene.agent([add]) as agent:
            return agent.run("go", cancel=token)

    scene.endpoint.script(SILENT)
    helper = threading.Thread(target=_cancel_at_request, args=[scene, token])
    helper.start()
    begin = monotonic()
    result = asyncio.run(cell())
    helper.join()
    assert (monotonic() - begin < BOUND + PATIENCE, result.stop_reason) == (True, "cancelled")
