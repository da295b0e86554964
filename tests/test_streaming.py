"""`agent.stream` gives a run's events as they happen, in a known order; who leaves early ends the run."""

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from time import monotonic
from typing import Any, cast

import pytest
from haystack import component
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCall
from haystack.utils import Secret

from llama_agent import (
    Agent,
    ApprovalRequested,
    CancelToken,
    ConfigurationError,
    EndpointError,
    Event,
    LandingStarted,
    LastAnswerFailed,
    Limits,
    ModelReplied,
    ModelRequested,
    NoteAdded,
    ReasoningDelta,
    RetryPolicy,
    RetryScheduled,
    RunContext,
    RunFinished,
    RunResult,
    RunStarted,
    TextDelta,
    TextSuperseded,
    ToolCallReceived,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    tool,
)
from llama_agent.testing import ScriptedGenerator
from tests.calling import agent_on
from tests.endpoint import Reply, Status
from tests.gated_endpoint import END, PATIENCE, STOP, Gate, GatedEndpoint, called, said, stream
from tests.in_process_model import event
from tests.programs import Program

Json = dict[str, Any]
See = Callable[[Event], object]
BROKEN = [b": the stream ends here, without an end of the reply\n\n"]
AT_ONCE = RetryPolicy(max_retries=2, initial_wait=0.0)
WHO: ContextVar[str] = ContextVar("who", default="nobody")


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


ADD = Reply(calls=[("add", {"a": 2, "b": 3})])


@pytest.fixture
def endpoint() -> Iterator[GatedEndpoint]:
    with GatedEndpoint() as running:
        yield running


class Watched:
    """A stream to its end: its events, its result, and what it raised."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.result: RunResult | None = None
        self.error: BaseException | None = None

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(happened) for happened in self.events]

    def of(self, kind: type) -> list[Any]:
        return [happened for happened in self.events if isinstance(happened, kind)]

    @property
    def text(self) -> str:
        """What somebody sees who shows the deltas, and takes back what no longer counts."""
        shown = ""
        for happened in self.events:
            if isinstance(happened, TextDelta):
                shown += happened.text
            if isinstance(happened, TextSuperseded):
                shown = shown[: len(shown) - happened.characters]
        return shown


def nothing(happened: Event) -> None:
    pass


def watch(agent: Agent, see: See = nothing, task: Any = "go", **settings: Any) -> Watched:
    watched = Watched()
    running = agent.stream(task, **settings)
    try:
        for happened in running:
            watched.events.append(happened)
            see(happened)
    except Exception as error:
        watched.error = error
    watched.result = running.result
    assert list(running) == []
    return watched


def watch_async(agent: Agent, see: See = nothing, task: Any = "go", **settings: Any) -> Watched:
    async def main() -> Watched:
        watched = Watched()
        running = agent.stream_async(task, **settings)
        try:
            async for happened in running:
                watched.events.append(happened)
                see(happened)
        except Exception as error:
            watched.error = error
        watched.result = running.result
        assert [happened async for happened in running] == []
        await agent.close_async()
        return watched

    return asyncio.run(main())


both_modes = pytest.mark.parametrize("go", [watch, watch_async], ids=["sync", "async"])


def check_order(watched: Watched) -> None:
    """What holds in every run."""
    events, kinds = watched.events, watched.kinds
    assert kinds[0] is RunStarted
    assert kinds[-1] is RunFinished
    assert (kinds.count(RunStarted), kinds.count(RunFinished)) == (1, 1)
    assert len({happened.run_id for happened in events}) == 1
    steps = [happened.step for happened in events]
    assert steps == sorted(steps)
    in_reply = False
    for happened in events:
        match happened:
            case ModelRequested():
                assert not in_reply
                in_reply = True
            case TextDelta() | ReasoningDelta() | TextSuperseded():
                assert in_reply
            case ModelReplied():
                assert in_reply
                in_reply = False
            case _:
                pass
    for received in watched.of(ToolCallReceived):
        of_it = [type(e) for e in events if getattr(e, "call_id", None) == received.call_id]
        assert [of_it[0], of_it[1], of_it[-1]] == [ToolCallReceived, ToolStarted, ToolFinished]
        assert (of_it.count(ToolStarted), of_it.count(ToolFinished)) == (1, 1)
    for happened in events:
        json.dumps(happened.to_dict())
    assert "result" not in events[-1].to_dict()


# What comes, and in which order.


@both_modes
def test_events_come_in_order_and_say_everything(endpoint: GatedEndpoint, go: Any) -> None:
    first = Reply("Let me see. ", reasoning="Two and three.", calls=[("add", {"a": 2, "b": 3})] * 2)
    endpoint.script(first, Reply("It is 5.", reasoning="Five."))
    with agent_on(endpoint, [add]) as agent:
        watched = go(agent)
    assert watched.error is None
    check_order(watched)
    result = watched.result
    assert result is not None
    assert watched.of(RunFinished)[0].result is result
    assert (result.text, result.stop_reason, result.run_id) == (
        "It is 5.",
        "answered",
        watched.events[0].run_id,
    )
    by_step = ["".join(e.text for e in watched.of(TextDelta) if e.step == step) for step in (1, 2)]
    assert by_step == ["Let me see. ", "It is 5."]
    assert [e.text for e in watched.of(ModelReplied)] == by_step
    thoughts = ["".join(e.text for e in watched.of(ReasoningDelta) if e.step == step) for step in (1, 2)]
    assert thoughts == ["Two and three.", "Five."]
    assert len(watched.of(TextDelta)) > 3
    assert [e.call_id for e in watched.of(ToolCallReceived)] == [c.id for c in result.messages[1].tool_calls]
    assert [e.arguments for e in watched.of(ToolCallReceived)] == [{"a": 2, "b": 3}] * 2
    # The result keeps all of them but the deltas.
    assert list(result.events) == [e for e in watched.events if not isinstance(e, TextDelta | ReasoningDelta)]


@both_modes
def test_the_run_is_the_same_as_without_a_stream(endpoint: GatedEndpoint, go: Any) -> None:
    endpoint.script(*[ADD, Reply("It is 5.")] * 2)
    with agent_on(endpoint, [add]) as agent:
        plain = agent.run("go")
        streamed = go(agent).result
    assert [m.text for m in streamed.messages] == [m.text for m in plain.messages]
    assert [r.result for m in streamed.messages for r in m.tool_call_results] == ["5"]
    assert (streamed.stop_reason, streamed["step_count"]) == (plain.stop_reason, plain["step_count"])
    sent = [[(m["role"], m["content"]) for m in request.messages] for request in endpoint.requests]
    assert sent[:2] == sent[2:]


@component
class Foreign:
    """A generator of somebody else's, that streams words."""

    @component.output_types(replies=list[ChatMessage])
    def run(
        self, messages: list[ChatMessage], streaming_callback: Any = None, tools: Any = None
    ) -> dict[str, list[ChatMessage]]:
        for word in ["It ", "is ", "5."] if streaming_callback else ():
            streaming_callback(StreamingChunk(word))
        return {"replies": [ChatMessage.from_assistant("It is 5.")]}


@component
class Silent:
    """A generator of somebody else's, that can't stream."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: Any = None) -> dict[str, list[ChatMessage]]:
        return {"replies": [ChatMessage.from_assistant("It is 5.")]}


@pytest.mark.parametrize(
    ("kind", "go"),
    [
        *(("scripted", go) for go in (watch, watch_async)),
        *(("OpenAI's", go) for go in (watch, watch_async)),
        ("foreign", watch_async),
        ("silent", watch),
    ],
    ids=["scripted, sync", "scripted, async", "OpenAI's, sync", "OpenAI's, async", "foreign", "silent"],
)
def test_other_generators_stream_too(endpoint: GatedEndpoint, go: Any, kind: str) -> None:
    generator: Any
    match kind:
        case "scripted":
            generator = ScriptedGenerator(ToolCall("add", {"a": 2, "b": 3}), ["It ", "is ", "5."])
        case "OpenAI's":
            endpoint.script(ADD, Reply("It is 5."))
            generator = OpenAIChatGenerator(
                api_key=Secret.from_token("none"), api_base_url=endpoint.url, model="m", max_retries=0
            )
        case _:
            generator = Foreign() if kind == "foreign" else Silent()
    with Agent(chat_generator=generator, tools=[add]) as agent:
        watched = go(agent)
    assert watched.error is None
    check_order(watched)
    assert watched.result is not None and watched.result.text == "It is 5."
    assert watched.of(ModelReplied)[-1].text == "It is 5."
    if kind != "silent":
        assert watched.text == "It is 5."
        assert len(watched.of(TextDelta)) >= 2
    if kind in ("scripted", "OpenAI's"):
        assert [e.result for e in watched.of(ToolFinished)] == ["5"]
        assert [e.arguments for e in watched.of(ToolCallReceived)] == [{"a": 2, "b": 3}]


@both_modes
def test_what_broke_off_is_taken_back(endpoint: GatedEndpoint, go: Any) -> None:
    endpoint.script(
        stream(said("It is fo"), BROKEN),
        Status(503),
        stream(said("It is 5."), STOP),
    )
    with agent_on(endpoint, [add], retry=AT_ONCE) as agent:
        watched = go(agent)
    check_order(watched)
    assert watched.text == "It is 5."
    assert [e.characters for e in watched.of(TextSuperseded)] == [len("It is fo")]
    assert len(watched.of(RetryScheduled)) == 2
    last_retry = watched.events.index(watched.of(RetryScheduled)[-1])
    assert last_retry < watched.kinds.index(ModelReplied)


@both_modes
def test_a_text_that_is_asked_for_again_is_taken_back(endpoint: GatedEndpoint, go: Any) -> None:
    # Cut by its limit, it is asked for once more with a higher one.
    endpoint.script(Reply("It is f", finish_reason="length"), Reply("It is five."))
    with agent_on(endpoint, [add]) as agent:
        watched = go(agent)
    assert watched.text == watched.result.text == "It is five."


@both_modes
def test_notes_and_the_landing_are_told(endpoint: GatedEndpoint, go: Any) -> None:
    endpoint.script(ADD, Reply("About 5."))
    with agent_on(endpoint, [add], max_agent_steps=1) as agent:
        watched = go(agent)
    check_order(watched)
    assert [e.reason for e in watched.of(LandingStarted)] == ["max_steps"]
    assert watched.of(NoteAdded)
    assert watched.kinds.index(ToolFinished) < watched.kinds.index(LandingStarted)
    assert watched.of(RunFinished)[0].stop_reason == "max_steps"
    assert watched.text == "About 5."


@both_modes
def test_a_last_answer_that_fails_is_told(endpoint: GatedEndpoint, go: Any) -> None:
    endpoint.script(ADD, Status(400))
    with agent_on(endpoint, [add], max_agent_steps=1) as agent:
        watched = go(agent)
    assert watched.error is None
    assert len(watched.of(LastAnswerFailed)) == 1
    assert watched.kinds[-1] is RunFinished
    assert watched.result.stop_reason == "max_steps"


@both_modes
def test_a_run_that_fails_says_so_and_then_raises(endpoint: GatedEndpoint, go: Any) -> None:
    endpoint.script(ADD, Status(400))
    with agent_on(endpoint, [add]) as agent:
        watched = go(agent)
    assert isinstance(watched.error, EndpointError)
    assert watched.kinds[-1] is RunFinished
    assert watched.of(RunFinished)[0].stop_reason == "failed"
    assert watched.result is watched.error.result is watched.of(RunFinished)[0].result
    assert [m.role.value for m in watched.result.messages] == ["user", "assistant", "tool"]


@both_modes
def test_what_cant_run_is_refused(endpoint: GatedEndpoint, go: Any) -> None:
    with agent_on(endpoint, [add]) as agent:
        for task, settings in (("", {}), ("go", {"nonsense": 1}), ("go", {"cancel": 5})):
            try:
                watched = go(agent, task=task, **settings)
            except ConfigurationError:
                continue  # at once
            assert isinstance(watched.error, ConfigurationError)
    assert endpoint.requests == []


# At once, not afterwards.


@both_modes
def test_text_and_thoughts_come_while_the_reply_is_on_its_way(endpoint: GatedEndpoint, go: Any) -> None:
    thought, text = Gate(), Gate()

    def see(happened: Event) -> None:
        if isinstance(happened, ReasoningDelta):
            thought.open()
        if isinstance(happened, TextDelta):
            text.open()

    endpoint.script(stream(event(reasoning_content="Hm."), thought, said("It is 5."), text, STOP))
    with agent_on(endpoint, []) as agent:
        watched = go(agent, see)
    assert not thought.was_late
    assert not text.was_late
    assert watched.text == "It is 5."


@both_modes
def test_a_call_and_its_early_start_come_while_the_reply_is_on_its_way(
    endpoint: GatedEndpoint, go: Any
) -> None:
    complete, finished = Gate(), Gate()

    @tool(read_only=True)
    def look(place: str) -> str:
        """Look at a place."""
        return place

    def see(happened: Event) -> None:
        if isinstance(happened, ToolCallReceived):
            complete.open()
        if isinstance(happened, ToolFinished):
            finished.open()

    call = called(0, "look", {"place": "a"})
    endpoint.script(stream(call, complete, finished, END), Reply("done"))
    with agent_on(endpoint, [look]) as agent:
        watched = go(agent, see)
    check_order(watched)
    assert not complete.was_late
    assert not finished.was_late
    assert watched.kinds.index(ToolFinished) < watched.kinds.index(ModelReplied)


class Asking:
    """Asks of every call, until somebody answers."""

    def __init__(self) -> None:
        self.answered = threading.Event()

    def needs(self, call: Any, tool: Any) -> bool:
        return True

    def ask(self, call: Any, tool: Any) -> None:
        assert self.answered.wait(PATIENCE), "nobody saw the question"


class AskingAsync(Asking):
    async def ask(self, call: Any, tool: Any) -> None:  # type: ignore[override]
        assert await asyncio.to_thread(self.answered.wait, PATIENCE), "nobody saw the question"


@both_modes
def test_a_question_a_start_and_progress_come_while_the_tool_works(endpoint: GatedEndpoint, go: Any) -> None:
    asking = Asking() if go is watch else AskingAsync()
    started, heard = threading.Event(), threading.Event()

    @tool
    def work(context: RunContext) -> str:
        """Work."""
        assert started.wait(PATIENCE), "nobody saw the start"
        context.progress("half")
        assert heard.wait(PATIENCE), "nobody saw the progress"
        return "worked"

    def see(happened: Event) -> None:
        match happened:
            case ApprovalRequested():
                asking.answered.set()
            case ToolStarted():
                started.set()
            case ToolProgress():
                heard.set()
            case _:
                pass

    endpoint.script(Reply(calls=[("work", {})]), Reply("done"))
    with agent_on(endpoint, [work], approval=asking) as agent:
        watched = go(agent, see)
    check_tool_events = [ToolCallReceived, ApprovalRequested, ToolStarted, ToolProgress, ToolFinished]
    assert [kind for kind in watched.kinds if kind in check_tool_events] == check_tool_events
    assert [e.result for e in watched.of(ToolFinished)] == ["worked"]


# What a stream takes, and beside whom it works.


@both_modes
def test_settings_of_the_run_are_kept(endpoint: GatedEndpoint, go: Any) -> None:
    @tool
    def who(context: RunContext[str]) -> str:
        """Say who is there."""
        return f"{context.deps} and {WHO.get()}"

    before = [ChatMessage.from_user("Hello."), ChatMessage.from_assistant("Hi.")]
    endpoint.script(Reply(calls=[("who", {})]), Reply("done"))
    token = WHO.set("somebody")
    try:
        with agent_on(endpoint, [who, add]) as agent:
            watched = go(
                agent,
                messages=before,
                tools=["who"],
                deps="mine",
                limits=Limits(model_calls=2),
                generation_kwargs={"temperature": 0.5},
            )
    finally:
        WHO.reset(token)
    assert [m["content"] for m in endpoint.requests[0].messages] == ["Hello.", "Hi.", "go"]
    assert endpoint.requests[0].json["temperature"] == 0.5
    assert [t["function"]["name"] for t in endpoint.requests[0].json["tools"]] == ["who"]
    assert [e.result for e in watched.of(ToolFinished)] == ["mine and somebody"]
    assert watched.events[0].tools == ("who",)


@both_modes
def test_a_listener_and_a_callback_may_listen_too(endpoint: GatedEndpoint, go: Any) -> None:
    heard: list[Event] = []
    chunks: list[StreamingChunk] = []

    async def show_async(chunk: StreamingChunk) -> None:
        chunks.append(chunk)

    endpoint.script(ADD, Reply("It is 5."))
    with agent_on(endpoint, [add]) as agent:
        callback = chunks.append if go is watch else show_async
        watched = go(agent, on_event=heard.append, streaming_callback=callback)
    assert heard == watched.events
    assert "".join(chunk.content for chunk in chunks) == "It is 5."
    assert [str(c.tool_call_result.result) for c in chunks if c.tool_call_result] == ["5"]


@both_modes
def test_a_token_ends_it_without_an_error(endpoint: GatedEndpoint, go: Any) -> None:
    token = CancelToken()

    def see(happened: Event) -> None:
        if isinstance(happened, TextDelta):
            token.cancel()

    endpoint.script(stream(said("It is 5."), Gate(), STOP))
    with agent_on(endpoint, []) as agent:
        watched = go(agent, see, cancel=token)
    assert watched.error is None
    assert watched.of(RunFinished)[0].stop_reason == watched.result.stop_reason == "cancelled"
    assert endpoint.wait_for_disconnect(PATIENCE)


@both_modes
def test_a_token_that_is_cancelled_already_lets_nothing_begin(endpoint: GatedEndpoint, go: Any) -> None:
    token = CancelToken()
    token.cancel()
    with agent_on(endpoint, [add]) as agent:
        watched = go(agent, cancel=token)
    assert watched.error is None
    assert watched.result.stop_reason == "cancelled"
    assert endpoint.requests == []


def test_two_streams_of_one_agent_are_apart(endpoint: GatedEndpoint) -> None:
    endpoint.script(*[Reply("done")] * 2)
    with agent_on(endpoint, [add]) as agent, agent.stream("one") as one, agent.stream("two") as two:
        events = [(a, b) for a, b in zip(one, two, strict=True)]
    ids = [{pair[place].run_id for pair in events} for place in (0, 1)]
    assert ids[0] != ids[1]
    assert [len(each) for each in ids] == [1, 1]
    assert one.result is not None and two.result is not None
    assert one.result.run_id != two.result.run_id
    asked = sorted(request.messages[-1]["content"] for request in endpoint.requests)
    assert asked == ["one", "two"]


def test_a_sync_stream_works_in_an_event_loop(endpoint: GatedEndpoint) -> None:
    async def main() -> Watched:
        with agent_on(endpoint, [add]) as agent:
            return watch(agent)

    endpoint.script(ADD, Reply("It is 5."))
    assert asyncio.run(main()).text == "It is 5."


def test_a_stream_may_be_taken_from_several_threads_in_turn(endpoint: GatedEndpoint) -> None:
    # As a web server does that answers in pieces.
    endpoint.script(ADD, Reply("It is 5."))
    events: list[Event] = []
    with agent_on(endpoint, [add]) as agent, agent.stream("go") as running:
        while not events or not isinstance(events[-1], RunFinished):
            thread = threading.Thread(target=lambda: events.append(next(running)))
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "It is 5."


# Nothing before the first event is asked for.


def test_nothing_starts_before_the_first_event_is_asked_for(endpoint: GatedEndpoint) -> None:
    heard: list[Event] = []
    with agent_on(endpoint, [add]) as agent:
        before = threading.active_count()
        never = agent.stream("go", on_event=heard.append)
        assert never.result is None
        assert threading.active_count() == before
        never.close()
        never.close()
        assert list(never) == []
        del never
        with agent.stream("go", on_event=heard.append) as unused:
            pass
        assert unused.result is None
        gc.collect()
    assert (heard, endpoint.all_requests) == ([], [])


def test_nothing_starts_before_the_first_event_is_awaited(endpoint: GatedEndpoint) -> None:
    heard: list[Event] = []

    async def main() -> None:
        async with agent_on(endpoint, [add]) as agent:
            never = agent.stream_async("go", on_event=heard.append)
            await asyncio.sleep(0)
            assert never.result is None
            assert len(asyncio.all_tasks()) == 1
            await never.aclose()
            await never.aclose()
            assert [happened async for happened in never] == []
            async with agent.stream_async("go", on_event=heard.append) as unused:
                pass
            assert unused.result is None

    asyncio.run(main())
    assert (heard, endpoint.all_requests) == ([], [])


# Leaving early.


def new_threads(before: set[threading.Thread]) -> list[str]:
    """Threads that live on, the endpoint's own apart. Those that were told to end get a moment."""
    end = monotonic() + 2
    while True:
        alive = [t for t in threading.enumerate() if t not in before and not t.name.startswith("endpoint")]
        if not alive or monotonic() > end:
            return [thread.name for thread in alive]
        alive[0].join(0.02)


class Held:
    """A run that is held up in the midst of a reply, or of a tool."""

    def __init__(self, endpoint: GatedEndpoint, where: str) -> None:
        self.where = where
        self.cancelled: list[bool] = []
        self.heard: list[Event] = []

        @tool
        def work(context: RunContext) -> str:
            """Work until nobody wants it any more."""
            context.progress("here")
            self.cancelled.append(context.cancel.wait(PATIENCE))
            return "too late"

        @tool
        async def work_async(context: RunContext) -> str:
            """Work until nobody wants it any more."""
            context.progress("here")
            try:
                await asyncio.sleep(PATIENCE)
                self.cancelled.append(False)
            except asyncio.CancelledError:
                self.cancelled.append(True)
                raise
            return "too late"

        @tool(read_only=True)
        def look(context: RunContext) -> str:
            """Look until nobody wants it any more."""
            context.progress("here")
            self.cancelled.append(context.cancel.wait(PATIENCE))
            return "too late"

        self.tools = [work, work_async, look]
        held: dict[str, Any] = {
            "reply": stream(said("It is 5."), Gate(), STOP),
            "sync tool": Reply(calls=[("work", {})]),
            "async tool": Reply(calls=[("work_async", {})]),
            "early tool": stream(called(0, "look", {}), Gate(), END),
        }
        endpoint.script(held[where])

    def is_there(self, happened: Event) -> bool:
        return isinstance(happened, TextDelta if self.where == "reply" else ToolProgress)

    def check(self, endpoint: GatedEndpoint, result: RunResult | None) -> None:
        """What holds once the stream was left."""
        assert self.cancelled == ([] if self.where == "reply" else [True])
        if self.where in ("reply", "early tool"):
            assert endpoint.wait_for_disconnect(PATIENCE)
        assert len(endpoint.requests) == 1
        finished = self.heard[-1]
        assert isinstance(finished, RunFinished)
        assert finished.stop_reason == "cancelled"
        if result is not None:
            assert result.stop_reason == "cancelled"
            whole = ["user"] if self.where in ("reply", "early tool") else ["user", "assistant", "tool"]
            assert [m.role.value for m in result.messages] == whole


PLACES = ["reply", "sync tool", "async tool", "early tool"]


@pytest.mark.parametrize(
    ("where", "way"),
    [
        *((where, "close") for where in PLACES),
        ("early tool", "with"),
        *(("reply", w) for w in ("error", "collected")),
    ],
)
def test_who_leaves_a_stream_ends_the_run(endpoint: GatedEndpoint, where: str, way: str) -> None:
    held = Held(endpoint, where)
    before = set(threading.enumerate())
    result: RunResult | None = None
    with agent_on(endpoint, held.tools) as agent:
        running = agent.stream("go", on_event=held.heard.append)
        if way == "error":
            with pytest.raises(KeyError), running:
                for happened in running:
                    if held.is_there(happened):
                        raise KeyError("of the caller's own")
            result = running.result
        elif way == "with":
            with running:
                for happened in running:
                    if held.is_there(happened):
                        break
            result = running.result
        else:
            for happened in running:
                if held.is_there(happened):
                    break
            if way == "close":
                running.close()
                result = running.result
                assert list(running) == []
                running.close()
            else:
                del running
                gc.collect()
        assert (result is None) == (way == "collected")
        held.check(endpoint, result)
    assert new_threads(before) == []


@pytest.mark.parametrize(
    ("where", "way"),
    [
        *((where, "aclose") for where in PLACES),
        *((where, "task") for where in PLACES),
        ("reply", "with"),
        ("reply", "error"),
    ],
)
def test_who_leaves_an_async_stream_ends_the_run(endpoint: GatedEndpoint, where: str, way: str) -> None:
    held = Held(endpoint, where)
    before = set(threading.enumerate())

    async def until_there(running: Any) -> None:
        async for happened in running:
            if held.is_there(happened):
                return

    async def main() -> None:
        async with agent_on(endpoint, held.tools) as agent:
            running = agent.stream_async("go", on_event=held.heard.append)
            match way:
                case "aclose":
                    await until_there(running)
                    await running.aclose()
                case "with":
                    async with running:
                        await until_there(running)
                case "error":
                    with pytest.raises(KeyError):
                        async with running:
                            await until_there(running)
                            raise KeyError("of the caller's own")
                case _:
                    there = asyncio.Event()

                    async def consume() -> None:
                        async for happened in running:
                            if held.is_there(happened):
                                there.set()

                    task = asyncio.create_task(consume())
                    await asyncio.wait_for(there.wait(), PATIENCE)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            assert len(asyncio.all_tasks()) == 1
            held.check(endpoint, running.result)
            assert running.result is not None
            assert [happened async for happened in running] == []

    asyncio.run(main())
    assert new_threads(before) == []


@pytest.mark.parametrize("who", ["listener", "callback", "another thread"])
def test_others_may_close_a_stream_that_is_being_taken(endpoint: GatedEndpoint, who: str) -> None:
    endpoint.script(stream(said("It is 5."), Gate(), STOP))
    taken: list[Event] = []

    def listen(happened: Event) -> None:
        if isinstance(happened, TextDelta):
            closer.start() if who == "another thread" else running.close()

    def show(chunk: StreamingChunk) -> None:
        running.close()

    with agent_on(endpoint, []) as agent:
        heard: dict[str, Any] = {"on_event": listen} if who != "callback" else {"streaming_callback": show}
        running = agent.stream("go", **heard)
        closer = threading.Thread(target=running.close)
        taker = threading.Thread(target=lambda: taken.extend(running), daemon=True)
        taker.start()
        taker.join(PATIENCE / 2)
        assert not taker.is_alive(), "it waits for itself"
        assert running.result is not None
        assert running.result.stop_reason == "cancelled"
    if who == "another thread":
        closer.join()


def test_an_async_stream_that_is_forgotten_ends_the_run(endpoint: GatedEndpoint) -> None:
    held = Held(endpoint, "async tool")

    async def main() -> None:
        async with agent_on(endpoint, held.tools) as agent:
            running = agent.stream_async("go", on_event=held.heard.append)
            async for happened in running:
                if held.is_there(happened):
                    break
            del running
            gc.collect()
            if others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others, timeout=PATIENCE)
            held.check(endpoint, None)

    asyncio.run(main())


@pytest.mark.parametrize("go", ["sync", "async"])
def test_a_chatty_tool_is_no_reason_not_to_leave(endpoint: GatedEndpoint, go: str) -> None:
    ended = threading.Event()

    @tool
    def chat(context: RunContext) -> str:
        """Say a lot."""
        try:
            for number in range(100_000):
                if context.cancel.cancelled:
                    break
                context.progress(str(number))
        finally:
            ended.set()
        return "said"

    async def leave_early(agent: Agent) -> RunResult | None:
        async with agent.stream_async("go") as running:
            async for happened in running:
                if isinstance(happened, ToolProgress):
                    break
        return running.result

    endpoint.script(Reply(calls=[("chat", {})]))
    with agent_on(endpoint, [chat]) as agent:
        if go == "async":
            result = asyncio.run(leave_early(agent))
        else:
            with agent.stream("go") as running:
                for happened in running:
                    if isinstance(happened, ToolProgress):
                        break
            result = running.result
        assert ended.wait(PATIENCE)
    assert result is not None
    assert result.stop_reason == "cancelled"


@both_modes
def test_all_that_a_chatty_tool_says_comes_in_order(endpoint: GatedEndpoint, go: Any) -> None:
    @tool
    def chat(context: RunContext) -> str:
        """Say a lot."""
        for number in range(2_000):
            context.progress(str(number))
        return "said"

    @tool
    async def chat_async(context: RunContext) -> str:
        """Say a lot."""
        for number in range(2_000):
            context.progress(str(number))
        return "said"

    endpoint.script(Reply(calls=[("chat", {}), ("chat_async", {})]), Reply("done"))
    with agent_on(endpoint, [chat, chat_async]) as agent:
        watched = go(agent)
    for name in ("chat", "chat_async"):
        said_ = [int(e.text) for e in watched.of(ToolProgress) if e.tool_name == name]
        assert said_ == list(range(2_000))
    check_order(watched)


# Back-pressure.


class Counting(GatedEndpoint):
    """Counts the pieces that it has sent."""

    sent = 0

    def _answer(self, request: Any) -> Any:
        wire = super()._answer(request)

        def counted() -> Iterator[bytes]:
            for piece in wire.pieces:
                yield piece
                self.sent += 1

        return replace(wire, pieces=cast("Any", counted()))


def test_who_takes_no_events_holds_the_reply_up() -> None:
    pieces = 2_000
    flood = [event(content="x" * 16_000)] * pieces

    async def main(endpoint: Counting) -> int:
        async with agent_on(endpoint, []) as agent, agent.stream_async("go") as running:
            async for happened in running:
                if isinstance(happened, TextDelta):
                    break
            end, last = monotonic() + PATIENCE, -1
            while last != endpoint.sent and monotonic() < end:
                last = endpoint.sent
                await asyncio.sleep(0.4)
            return endpoint.sent

    with Counting() as endpoint:
        endpoint.script(stream(flood, STOP))
        sent = asyncio.run(main(endpoint))
        assert 0 < sent < pieces, "it was read on, though nobody took it"
        assert endpoint.wait_for_disconnect(PATIENCE)


def test_a_slow_consumer_gets_everything(endpoint: GatedEndpoint) -> None:
    text = " ".join(map(str, range(400)))
    endpoint.script(Reply(text, chunk_size=2))

    async def main() -> str:
        taken = ""
        async with agent_on(endpoint, []) as agent, agent.stream_async("go") as running:
            async for happened in running:
                if isinstance(happened, TextDelta):
                    taken += happened.text
                    await asyncio.sleep(0)
        return taken

    assert asyncio.run(main()) == text


# Ctrl-C.

PROGRAM = """
import os, sys, threading, time, traceback
from llama_agent import Agent, MetaLlamaChatGenerator, RunInterrupted, TextDelta, ToolStarted

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def hang() -> str:
    "Never end."
    threading.Event().wait(60)

def tell_when_it_waits(main):
    # Ctrl-C in the midst of the loop's body would be the caller's own.
    names = []
    while names[:1] != ["wait"] or "__next__" not in names:
        time.sleep(0.01)
        names = [frame.f_code.co_name for frame, _ in traceback.walk_stack(sys._current_frames()[main])]
    say("there")

generator = MetaLlamaChatGenerator(api_base_url=sys.argv[1], model="m", max_retries=0, timeout=60)
with Agent(chat_generator=generator, tools=[hang]) as agent:
    running = agent.stream("go")
    try:
        for event in running:
            if isinstance(event, (TextDelta, ToolStarted)):
                threading.Thread(target=tell_when_it_waits, args=[threading.get_ident()]).start()
        say("ended")
    except RunInterrupted as interrupted:
        result = interrupted.result
        say(result.stop_reason, result is running.result, *(m.role.value for m in result.messages))
say("bye")
"""


@pytest.mark.parametrize("where", ["reply", "tool"])
def test_ctrl_c_ends_a_stream_with_what_its_run_had(endpoint: GatedEndpoint, where: str) -> None:
    held = stream([event(content="It")], Gate(60), STOP) if where == "reply" else Reply(calls=[("hang", {})])
    endpoint.script(held)
    roles = "user" if where == "reply" else "user assistant tool"
    with Program(PROGRAM, endpoint.url) as program:
        assert program.line() == "there", program.rest()
        begin = monotonic()
        program.ctrl_c()
        assert program.rest() == ([f"interrupted True {roles}", "bye"], "", 0)
        assert monotonic() - begin < PATIENCE


def test_who_takes_no_events_holds_no_other_run_up(endpoint: GatedEndpoint) -> None:
    chatting = threading.Event()

    @tool
    async def chat(count: int, context: RunContext) -> str:
        """Say much."""
        for number in range(count):
            context.progress(str(number))
            chatting.set() if number > 200 else None
        return "said"

    calls = [Reply(calls=[("chat", {"count": count})]) for count in (500, 1)]
    endpoint.script(*calls, Reply("ok"))
    with agent_on(endpoint, [chat]) as agent:
        slow = agent.stream("go")
        next(slow)
        while not isinstance(next(slow), ToolStarted):
            pass
        assert chatting.wait(PATIENCE)
        assert agent.run("go").text == "ok"
        slow.close()
