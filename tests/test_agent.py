"""The agent by its public door: from a task to a result, and all that a caller may hook into it."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from haystack import Pipeline, component
from haystack.components.agents import Agent as HaystackAgent
from haystack.components.agents.state.state import State
from haystack.components.agents.state.state_utils import replace_values
from haystack.components.builders import ChatPromptBuilder, PromptBuilder
from haystack.core.serialization import allow_deserialization_module
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCall
from haystack.hooks import hook
from haystack.tools import AgentTool, Toolset
from haystack.tools.tool import Tool

from llama_agent import (
    Agent,
    ConfigurationError,
    EndpointError,
    Event,
    LlamaAgentError,
    MetaLlamaChatGenerator,
    ModelReplied,
    ModelRequested,
    RunFinished,
    RunResult,
    RunStarted,
    TextDelta,
    ToolCallReceived,
    ToolFailedError,
    ToolFinished,
    ToolStarted,
    tool,
)
from tests.endpoint import Always, Drop, Endpoint, Raw, Reply, Status

T = TypeVar("T")
PATIENCE = 5.0
"""Seconds after which something that should have happened counts as never happening."""


def generator(endpoint: Endpoint, **settings: Any) -> MetaLlamaChatGenerator:
    settings = {"max_retries": 0, "timeout": 10, **settings}
    return MetaLlamaChatGenerator(api_base_url=endpoint.url, model="test-model", **settings)


def agent_on(endpoint: Endpoint, **settings: Any) -> Agent:
    return Agent(chat_generator=generator(endpoint), **settings)


def run(endpoint: Endpoint, *args: Any, settings: dict[str, Any] | None = None, **kwargs: Any) -> RunResult:
    with agent_on(endpoint, **(settings or {})) as agent:
        return agent.run(*args, **kwargs)


def run_async(
    endpoint: Endpoint, *args: Any, settings: dict[str, Any] | None = None, **kwargs: Any
) -> RunResult:
    async def main() -> RunResult:
        async with agent_on(endpoint, **(settings or {})) as agent:
            return await asyncio.wait_for(agent.run_async(*args, **kwargs), PATIENCE)

    return asyncio.run(main())


both_modes = pytest.mark.parametrize("go", [run, run_async], ids=["sync", "async"])


def in_time(action: Callable[[], T]) -> T:
    """What `action` gives; a failure instead of a test run that hangs when it never does."""
    outcome: list[Any] = []

    def perform() -> None:
        try:
            outcome.append(action())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=perform, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert outcome, f"nothing came back within {PATIENCE} s"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def roles(messages: list[ChatMessage]) -> list[str]:
    return [message.role.value for message in messages]


def sent_roles(endpoint: Endpoint, request: int = -1) -> list[str]:
    return [message["role"] for message in endpoint.requests[request].messages]


def told(result: RunResult) -> list[str]:
    """What the model was told of its calls."""
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def errors(result: RunResult) -> list[bool]:
    return [r.error for message in result.messages for r in message.tool_call_results]


def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


def subtract(a: int, b: int) -> int:
    """Subtract b from a."""
    return a - b


@tool
async def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    await asyncio.sleep(0)
    return a * b


def fail() -> str:
    """Fail."""
    raise ValueError("the disk is full")


# From a task to a result.


@both_modes
def test_a_task_goes_through_calls_to_an_answer(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    endpoint.script(
        Reply(calls=[("add", {"a": 2, "b": 3})]),
        Reply(calls=[("multiply", {"a": 5, "b": 4})]),
        Reply("It is 20."),
    )
    result = go(endpoint, "What is (2+3)*4?", settings={"tools": [add, multiply]})
    assert (result.text, result.stop_reason, told(result)) == ("It is 20.", "answered", ["5", "20"])
    assert sent_roles(endpoint) == ["user", "assistant", "tool", "assistant", "tool"]
    last = endpoint.requests[-1].messages
    assert last[-1]["tool_call_id"] == last[-2]["tool_calls"][0]["id"]


@both_modes
def test_a_run_without_tools_sends_none(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    endpoint.script(Reply("Hello."))
    assert go(endpoint, "Hi").text == "Hello."
    assert "tools" not in endpoint.requests[0].json


def test_the_result_is_a_dictionary_with_attributes(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})], usage=(10, 5)), Reply("5", usage=(20, 1)))
    result = run(endpoint, "2+3?", settings={"tools": [add, subtract]})
    assert isinstance(result, dict)
    assert result["messages"] is result.messages
    assert result["last_message"].text == result.text == result.output == "5"
    assert result["step_count"] == 2
    assert result["tool_call_counts"] == {"add": 1, "subtract": 0}
    assert result["token_usage"]["prompt_tokens"] == result.usage.input_tokens == 30
    assert result["token_usage"]["completion_tokens"] == result.usage.output_tokens == 6
    assert (result.usage.model_calls, result.usage.tool_calls, result.usage.total_tokens) == (2, 1, 36)
    assert (result["exit_reason"], result.stop_reason) == ("text", "answered")
    assert {event.run_id for event in result.events} == {result.run_id}


def test_the_result_has_what_haystacks_own_agent_gives(endpoint: Endpoint) -> None:
    replies = [Reply(calls=[("add", {"a": 2, "b": 3})], ids=["call_1"]), Reply("5")]
    endpoint.script(*replies, *replies)
    ours = run(endpoint, "2+3?", settings={"tools": [add], "state_schema": {"note": {"type": str}}}, note="n")
    theirs_agent = HaystackAgent(
        chat_generator=generator(endpoint), tools=[tool(add)], state_schema={"note": {"type": str}}
    )
    theirs = theirs_agent.run([ChatMessage.from_user("2+3?")], note="n")
    theirs_agent.close()
    assert set(ours) == set(theirs)
    for key in set(theirs) - {"messages", "last_message"}:
        assert ours[key] == theirs[key], key
    assert [m.to_dict() for m in ours.messages] == [m.to_dict() for m in theirs["messages"]]


def test_a_task_may_be_a_list_of_messages(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    run(endpoint, [ChatMessage.from_system("Be brief."), ChatMessage.from_user("Hi")])
    assert sent_roles(endpoint) == ["system", "user"]


@pytest.mark.parametrize("nothing", [{}, {"messages": []}, {"messages": [ChatMessage.from_system("x")]}])
def test_a_run_without_a_task_is_refused(endpoint: Endpoint, nothing: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="nothing to do"):
        run(endpoint, **nothing)


def test_generation_kwargs_of_a_run_reach_the_request(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    run(endpoint, "Hi", generation_kwargs={"temperature": 0.25})
    assert endpoint.requests[0].json["temperature"] == 0.25


def test_run_works_inside_a_running_event_loop(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("multiply", {"a": 2, "b": 3}), ("add", {"a": 1, "b": 1})]), Reply("done"))

    async def cell() -> RunResult:
        return run(endpoint, "go", settings={"tools": [add, multiply]})

    assert told(asyncio.run(cell())) == ["6", "2"]


def test_one_agent_serves_two_event_loops_one_after_the_other(endpoint: Endpoint) -> None:
    endpoint.script(Reply("one"), Reply("two"))
    agent = agent_on(endpoint)

    async def ask() -> str:
        async with agent:
            return (await agent.run_async("Hi")).text

    assert [asyncio.run(ask()), asyncio.run(ask())] == ["one", "two"]


def test_concurrent_runs_of_one_agent_keep_apart(endpoint: Endpoint) -> None:
    endpoint.script(Always(lambda request: Reply(request.messages[-1]["content"])))

    async def main() -> list[RunResult]:
        async with agent_on(endpoint) as agent:
            return await asyncio.gather(*(agent.run_async(f"task {i}") for i in range(8)))

    results = asyncio.run(main())
    assert [result.text for result in results] == [f"task {i}" for i in range(8)]
    for result in results:
        assert {event.run_id for event in result.events} == {result.run_id}
        assert [type(event) for event in result.events] == [
            RunStarted,
            ModelRequested,
            ModelReplied,
            RunFinished,
        ]


def test_an_empty_reply_isnt_an_answer(endpoint: Endpoint) -> None:
    endpoint.script(Reply(""), Reply("done"))
    assert run(endpoint, "Hi", settings={"tools": [add]}).text == "done"


def test_a_reply_that_was_filtered_ends_the_run_with_the_reason(endpoint: Endpoint) -> None:
    endpoint.script(Reply("It is", finish_reason="content_filter"))
    result = run(endpoint, "Hi", settings={"tools": [add]})
    assert (result["exit_reason"], result.stop_reason) == ("content_filter", "content_filter")
    assert result.text == "It is"


def test_a_reply_that_was_cut_twice_ends_the_run_with_the_reason(endpoint: Endpoint) -> None:
    endpoint.script(Reply("It", finish_reason="length"), Reply("It is", finish_reason="length"))
    result = run(endpoint, "Hi", settings={"tools": [add]})
    assert (result["exit_reason"], result.stop_reason, result.text) == ("length", "length", "It is")


# Going on.


@both_modes
def test_a_conversation_goes_on_without_a_second_system_prompt(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    endpoint.script(Reply("Sunny."), Reply("Snow."), Reply("Bye."))
    settings = {"system_prompt": "Be brief."}
    first = go(endpoint, "Paris?", settings=settings)
    second = go(endpoint, "And Oslo?", messages=first.messages, settings=settings)
    third = go(endpoint, "Thanks", messages=second.messages, settings=settings)
    assert roles(third.messages) == ["system", "user", "assistant", "user", "assistant", "user", "assistant"]
    assert sent_roles(endpoint) == roles(third.messages)[:-1]
    assert len(first.messages) == 3, "going on must not change the earlier result"


def test_a_conversation_from_elsewhere_gets_the_system_prompt(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    history = [ChatMessage.from_user("Hi"), ChatMessage.from_assistant("Hello")]
    run(endpoint, "Go on", messages=history, settings={"system_prompt": "Be brief."})
    assert sent_roles(endpoint) == ["system", "user", "assistant", "user"]
    assert len(history) == 2


# Prompts are templates; a task's text isn't.


@both_modes
@pytest.mark.parametrize("text", ["Explain {{ user }} and {% if x %}", "{{", "{% raw %}", "{# gone #} stays"])
def test_a_tasks_text_is_taken_literally(endpoint: Endpoint, go: Callable[..., RunResult], text: str) -> None:
    endpoint.script(Reply("ok"))
    settings = {"system_prompt": "Serve {{ name }}.", "user_prompt": "Answer in {{ language }}."}
    go(endpoint, text, settings=settings, name="Ann", language="German")
    contents = [message["content"] for message in endpoint.requests[0].messages]
    assert contents == ["Serve Ann.", text, "Answer in German."]


def test_a_history_is_taken_literally(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    run(endpoint, "Hi", messages=[ChatMessage.from_user("{{ a }}")], settings={"system_prompt": "x"})
    assert [m["content"] for m in endpoint.requests[0].messages] == ["x", "{{ a }}", "Hi"]


def test_a_user_prompt_alone_is_a_task(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    run(endpoint, settings={"user_prompt": "Summarise {{ topic }}."}, topic="llamas")
    assert [m["content"] for m in endpoint.requests[0].messages] == ["Summarise llamas."]


def test_a_missing_template_variable_is_named(endpoint: Endpoint) -> None:
    with pytest.raises(ValueError, match="name"):
        run(endpoint, "Hi", settings={"system_prompt": "Serve {{ name }}."})


# Limits and exits.


@both_modes
def test_the_step_limit_ends_the_run(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    endpoint.script(Always(Reply(calls=[("add", {"a": 1, "b": 1})])))
    result = go(endpoint, "go", settings={"tools": [add], "max_agent_steps": 3})
    assert (result["step_count"], result["exit_reason"], result.stop_reason) == (
        3,
        "max_agent_steps",
        "max_steps",
    )
    assert told(result) == ["2", "2", "2"]


@pytest.mark.parametrize("name", ["max_agent_steps", "tool_concurrency_limit"])
def test_a_limit_below_one_is_refused(endpoint: Endpoint, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a whole number of 1 or more, not 0"):
        agent_on(endpoint, **{name: 0})


@both_modes
def test_an_exit_tool_ends_the_run(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    endpoint.script(Reply(calls=[("subtract", {"a": 5, "b": 1}), ("add", {"a": 2, "b": 3})]))
    result = go(endpoint, "go", settings={"tools": [add, subtract], "exit_conditions": ["add"]})
    assert (result["exit_reason"], result.stop_reason, told(result)) == ("add", "tool", ["4", "5"])
    assert result["step_count"] == 1


def test_an_exit_tool_that_failed_doesnt_end_the_run(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("fail", {})]), Reply("I gave up."))
    result = run(endpoint, "go", settings={"tools": [fail], "exit_conditions": ["fail"]})
    assert (result.text, result.stop_reason) == ("I gave up.", "answered")


def test_text_ends_the_run_also_beside_exit_tools(endpoint: Endpoint) -> None:
    endpoint.script(Reply("No need."))
    assert (
        run(endpoint, "go", settings={"tools": [add], "exit_conditions": ["add"]}).stop_reason == "answered"
    )


# Tools of one run.


def test_tools_of_a_run_take_the_place_of_the_constructors(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("subtract", {"a": 5, "b": 1})]), Reply("done"))
    result = run(endpoint, "go", settings={"tools": [add]}, tools=[[subtract]])
    assert [item["function"]["name"] for item in endpoint.requests[0].json["tools"]] == ["subtract"]
    assert told(result) == ["4"]


def test_tools_of_a_run_can_be_chosen_by_name(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    run(endpoint, "go", settings={"tools": [add, Toolset([tool(subtract), multiply])]}, tools=["subtract"])
    assert [item["function"]["name"] for item in endpoint.requests[0].json["tools"]] == ["subtract"]


def test_an_empty_list_of_tools_means_none(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    run(endpoint, "go", settings={"tools": [add]}, tools=[])
    assert "tools" not in endpoint.requests[0].json


def test_an_unknown_name_among_a_runs_tools_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ValueError, match="divide"):
        run(endpoint, "go", settings={"tools": [add]}, tools=["divide"])


def test_a_runs_tools_dont_stay(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"), Reply("ok"))
    with agent_on(endpoint, tools=[add]) as agent:
        agent.run("go", tools=[subtract])
        agent.run("go")
    assert [item["function"]["name"] for item in endpoint.requests[1].json["tools"]] == ["add"]


def test_state_goes_to_tools_and_comes_back(endpoint: Endpoint) -> None:
    fetch = Tool(
        name="fetch",
        description="Fetch.",
        parameters={"type": "object", "properties": {}},
        function=lambda user: {"record": f"record of {user}"},
        inputs_from_state={"user": "user"},
        outputs_to_state={"record": {"source": "record"}},
    )
    endpoint.script(Reply(calls=[("fetch", {})]), Reply("done"))
    schema = {"user": {"type": str}, "record": {"type": str}}
    result = run(endpoint, "go", settings={"tools": [fetch], "state_schema": schema}, user="Ann")
    assert (result["user"], result["record"]) == ("Ann", "record of Ann")


# Hooks.

POINTS = ["before_run", "before_llm", "before_tool", "after_tool", "on_exit", "after_run"]


@both_modes
def test_hooks_run_at_all_six_points_in_order(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    seen: list[tuple[str, int]] = []

    def at(point: str) -> Any:
        @hook
        def note(state: State) -> None:
            seen.append((point, len(state.data["messages"])))

        return note

    endpoint.script(Reply(calls=[("add", {"a": 1, "b": 1})]), Reply("done"))
    go(endpoint, "go", settings={"tools": [add], "hooks": {point: [at(point)] for point in POINTS}})
    assert seen == [
        ("before_run", 1),
        ("before_llm", 1),
        ("before_tool", 2),
        ("after_tool", 3),
        ("before_llm", 3),
        ("on_exit", 4),
        ("after_run", 4),
    ]


def test_async_hooks_run_at_all_six_points(endpoint: Endpoint) -> None:
    seen: list[str] = []

    def at(point: str) -> Any:
        @hook
        async def note(state: State) -> None:
            await asyncio.sleep(0)
            seen.append(point)

        return note

    endpoint.script(Reply(calls=[("add", {"a": 1, "b": 1})]), Reply("done"))
    run_async(endpoint, "go", settings={"tools": [add], "hooks": {point: [at(point)] for point in POINTS}})
    assert seen == [
        "before_run",
        "before_llm",
        "before_tool",
        "after_tool",
        "before_llm",
        "on_exit",
        "after_run",
    ]


@both_modes
def test_a_hook_can_stop_the_run_before_another_model_call(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    @hook
    def enough(state: State) -> None:
        if state.data["step_count"] == 1:
            state.set("stop_run", "budget spent")

    endpoint.script(Reply(calls=[("add", {"a": 1, "b": 1})]))
    result = go(endpoint, "go", settings={"tools": [add], "hooks": {"before_llm": [enough]}})
    assert (result["exit_reason"], result.stop_reason, told(result)) == ("budget spent", "hook", ["2"])
    assert "stop_run" not in result


@both_modes
def test_a_hook_can_make_the_run_go_on(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    @hook
    def insist(state: State) -> None:
        if not state.data["tool_call_counts"]["add"]:
            state.set("messages", [ChatMessage.from_user("Use the tool.")])
            state.set("continue_run", True)

    endpoint.script(Reply("It is 2."), Reply(calls=[("add", {"a": 1, "b": 1})]), Reply("It is 2, checked."))
    result = go(endpoint, "1+1?", settings={"tools": [add], "hooks": {"on_exit": [insist]}})
    assert (result.text, result["step_count"], result["exit_reason"]) == ("It is 2, checked.", 3, "text")
    assert endpoint.requests[1].messages[-1] == {"role": "user", "content": "Use the tool."}


@both_modes
def test_a_hook_can_replace_the_conversation(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    @hook
    def forget(state: State) -> None:
        if len(state.data["messages"]) > 1:
            shorter = [ChatMessage.from_user("Sum so far: 2.")]
            state.set("messages", shorter, handler_override=replace_values)

    endpoint.script(Reply(calls=[("add", {"a": 1, "b": 1})]), Reply("done"))
    result = go(endpoint, "go", settings={"tools": [add], "hooks": {"before_llm": [forget]}})
    assert endpoint.requests[1].messages == [{"role": "user", "content": "Sum so far: 2."}]
    assert roles(result.messages) == ["user", "assistant"]


@both_modes
def test_a_message_that_a_hook_edited_is_sent_edited(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    @hook
    def redact(state: State) -> None:
        if state.data["step_count"] == 1:
            state.data["messages"][0] = ChatMessage.from_user("[removed]")

    endpoint.script(Reply(calls=[("add", {"a": 1, "b": 1})]), Reply("done"))
    go(endpoint, "My PIN is 1234", settings={"tools": [add], "hooks": {"before_llm": [redact]}})
    assert [request.messages[0]["content"] for request in endpoint.requests] == [
        "My PIN is 1234",
        "[removed]",
    ]


@both_modes
def test_a_hook_can_change_calls_before_they_run(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    @hook
    def double(state: State) -> None:
        messages = list(state.data["messages"])
        old = messages[-1].tool_calls[0]
        new = ToolCall("add", {"a": 100, "b": old.arguments["b"]}, id=old.id)
        messages[-1] = ChatMessage.from_assistant(tool_calls=[new])
        state.set("messages", messages, handler_override=replace_values)

    endpoint.script(Reply(calls=[("add", {"a": 1, "b": 1})]), Reply("done"))
    result = go(endpoint, "go", settings={"tools": [add], "hooks": {"before_tool": [double]}})
    assert told(result) == ["101"]
    sent = endpoint.requests[1].messages[-2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"a": 100, "b": 1}


def test_a_hook_can_read_the_runs_context_and_tools(endpoint: Endpoint) -> None:
    seen: list[Any] = []

    @hook
    def look(state: State) -> None:
        seen.extend([state.data["hook_context"], [item.name for item in state.data["tools"]]])

    endpoint.script(Reply("ok"))
    result = run(
        endpoint, "go", hook_context={"user": 7}, settings={"tools": [add], "hooks": {"before_llm": [look]}}
    )
    assert seen == [{"user": 7}, ["add"]]
    assert "hook_context" not in result


def test_a_before_run_hook_can_restore_an_earlier_step_count(endpoint: Endpoint) -> None:
    @hook
    def restore(state: State) -> None:
        state.set("step_count", 2)

    endpoint.script(Reply(calls=[("add", {"a": 1, "b": 1})]), Reply("Two, I think."))
    settings = {"tools": [add], "max_agent_steps": 3, "hooks": {"before_run": [restore]}}
    result = run(endpoint, "go", settings=settings)
    assert (result["step_count"], result.stop_reason, result.text) == (3, "max_steps", "Two, I think.")


# Watching.


def test_a_streaming_callback_gets_text_calls_and_tool_results(endpoint: Endpoint) -> None:
    chunks: list[StreamingChunk] = []
    endpoint.script(
        Reply(calls=[("add", {"a": 2, "b": 3}), ("subtract", {"a": 2, "b": 3})]), Reply("It is five.")
    )
    run(endpoint, "go", chunks.append, settings={"tools": [add, subtract]})
    assert "".join(chunk.content for chunk in chunks) == "It is five."
    assert [c.tool_call_result.result for c in chunks if c.tool_call_result] == ["5", "-1"]
    assert [c.finish_reason for c in chunks if c.finish_reason] == ["tool_calls", "tool_call_results", "stop"]
    names = [delta.tool_name for c in chunks for delta in c.tool_calls or [] if delta.tool_name]
    assert names == ["add", "subtract"]
    assert endpoint.requests[0].json["stream"] is True


def test_an_async_streaming_callback_is_awaited(endpoint: Endpoint) -> None:
    chunks: list[StreamingChunk] = []

    async def collect(chunk: StreamingChunk) -> None:
        await asyncio.sleep(0)
        chunks.append(chunk)

    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Reply("It is five."))
    result = run_async(endpoint, "go", streaming_callback=collect, settings={"tools": [add]})
    assert "".join(chunk.content for chunk in chunks) == result.text == "It is five."
    assert [c.tool_call_result.result for c in chunks if c.tool_call_result] == ["5"]


def test_a_runs_callback_wins_over_the_constructors(endpoint: Endpoint) -> None:
    of_agent: list[StreamingChunk] = []
    of_run: list[StreamingChunk] = []
    endpoint.script(Reply("one"), Reply("two"))
    with agent_on(endpoint, streaming_callback=of_agent.append) as agent:
        agent.run("go", of_run.append)
        agent.run("go")
    assert "".join(chunk.content for chunk in of_run) == "one"
    assert "".join(chunk.content for chunk in of_agent) == "two"


def test_an_async_callback_in_a_sync_run_is_refused(endpoint: Endpoint) -> None:
    async def collect(chunk: StreamingChunk) -> None:
        raise AssertionError("never called")

    with pytest.raises(ValueError, match="coroutine"):
        run(endpoint, "go", collect)


def test_usage_is_counted_also_when_streaming(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok", usage=(7, 3)))
    result = run(endpoint, "go", lambda chunk: None)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 3)


@both_modes
def test_events_tell_the_run_in_order(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    heard: list[Event] = []
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Reply("5"))
    result = go(endpoint, "2+3?", on_event=heard.append, settings={"tools": [add]})
    assert list(result.events) == heard
    kinds = [(type(event), event.step) for event in heard]
    assert kinds == [
        (RunStarted, 0),
        (ModelRequested, 1),
        (ToolCallReceived, 1),
        (ModelReplied, 1),
        (ToolStarted, 1),
        (ToolFinished, 1),
        (ModelRequested, 2),
        (ModelReplied, 2),
        (RunFinished, 2),
    ]
    started, finished = heard[4], heard[5]
    assert isinstance(started, ToolStarted)
    assert isinstance(finished, ToolFinished)
    assert (started.tool_name, started.arguments, started.call_id) == (
        "add",
        {"a": 2, "b": 3},
        finished.call_id,
    )
    assert (finished.result, finished.error, finished.traceback) == ("5", False, None)
    assert [event.time for event in heard] == sorted(event.time for event in heard)
    json.dumps([event.to_dict() for event in heard])
    assert heard[-1].to_dict()["stop_reason"] == "answered"


def test_text_arrives_in_events_while_it_streams(endpoint: Endpoint) -> None:
    heard: list[Event] = []
    endpoint.script(Reply("It is five.", chunk_size=3))
    run(endpoint, "go", lambda chunk: None, on_event=heard.append)
    pieces = [event.text for event in heard if isinstance(event, TextDelta)]
    assert len(pieces) == 4
    assert "".join(pieces) == "It is five."


def test_a_listener_that_raises_doesnt_touch_the_run(endpoint: Endpoint) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("the listener broke")

    endpoint.script(Reply("ok"))
    assert run(endpoint, "go", on_event=broken).text == "ok"


@both_modes
def test_a_failed_tool_is_told_in_an_event_with_its_traceback(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    endpoint.script(Reply(calls=[("fail", {})]), Reply("sorry"))
    result = go(endpoint, "go", settings={"tools": [fail]})
    (finished,) = (event for event in result.events if isinstance(event, ToolFinished))
    assert finished.error
    assert "the disk is full" in finished.result
    assert 'raise ValueError("the disk is full")' in (finished.traceback or "")


# A model's mistakes, and tools' failures.


@both_modes
def test_an_unknown_tool_is_answered_with_the_nearest_name(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    endpoint.script(Reply(calls=[("ad", {"a": 2, "b": 3}), ("add", {"a": 2, "b": 3})]), Reply("done"))
    result = go(endpoint, "go", settings={"tools": [add, subtract]})
    assert errors(result) == [True, False]
    assert "'ad'" in told(result)[0]
    assert "'add'" in told(result)[0]
    assert "subtract" in told(result)[0]
    sent = endpoint.requests[1].messages
    assert [m["tool_call_id"] for m in sent[-2:]] == [c["id"] for c in sent[-3]["tool_calls"]]


@both_modes
@pytest.mark.parametrize("arguments", ['{"a": 2, "b":', "[1, 2]", '"text"', "{a: 2}", '{"a": 1}{"b": 2}'])
def test_malformed_arguments_are_answered_and_the_run_goes_on(
    endpoint: Endpoint, go: Callable[..., RunResult], arguments: str
) -> None:
    endpoint.script(Reply(calls=[("add", arguments)]), Reply("done"))
    result = go(endpoint, "go", settings={"tools": [add]})
    assert (errors(result), result.text) == ([True], "done")
    assert "JSON" in told(result)[0]
    assistant, answer = endpoint.requests[1].messages[-2:]
    assert isinstance(json.loads(assistant["tool_calls"][0]["function"]["arguments"]), dict)
    assert answer["tool_call_id"] == assistant["tool_calls"][0]["id"]


@pytest.mark.parametrize("arguments", ["", "{}", "null"])
def test_missing_arguments_mean_none(endpoint: Endpoint, arguments: str) -> None:
    def now() -> str:
        """Tell the time."""
        return "noon"

    endpoint.script(Reply(calls=[("now", arguments)]), Reply("done"))
    assert told(run(endpoint, "go", settings={"tools": [now]})) == ["noon"]


def raising(error: BaseException, *, is_async: bool) -> Any:
    def boom() -> str:
        """Go boom."""
        raise error

    async def boom_async() -> str:
        """Go boom."""
        await asyncio.sleep(0)
        raise error

    return tool(name="boom")(boom_async if is_async else boom)


@both_modes
@pytest.mark.parametrize("is_async", [False, True], ids=["sync-tool", "async-tool"])
@pytest.mark.parametrize("together", [False, True], ids=["alone", "beside"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such row"),
        StopIteration("no such row"),
        StopAsyncIteration("no such row"),
        SystemExit("no such row"),
        asyncio.CancelledError("no such row"),
        TimeoutError("no such row"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_tool_raises_becomes_a_message(
    endpoint: Endpoint, go: Callable[..., RunResult], error: BaseException, is_async: bool, together: bool
) -> None:
    calls = [("boom", {}), ("add", {"a": 1, "b": 1})] if together else [("boom", {})]
    endpoint.script(Reply(calls=calls), Reply("I see."))
    result = in_time(lambda: go(endpoint, "go", settings={"tools": [raising(error, is_async=is_async), add]}))
    assert result.text == "I see."
    assert errors(result) == [True, False][: len(calls)]
    assert "boom" in told(result)[0]


@both_modes
def test_a_failure_says_the_tool_the_exception_and_its_text(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    endpoint.script(Reply(calls=[("fail", {})]), Reply("sorry"))
    result = go(endpoint, "go", settings={"tools": [fail]})
    (text,) = told(result)
    assert "fail" in text
    assert "ValueError" in text
    assert "the disk is full" in text
    assert "Traceback" not in text


@both_modes
def test_failures_raise_when_the_caller_wants_them_to(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    endpoint.script(Reply(calls=[("fail", {})]))
    settings = {"tools": [fail], "raise_on_tool_invocation_failure": True}
    with pytest.raises(ToolFailedError, match="the disk is full") as caught:
        go(endpoint, "go", settings=settings)
    assert caught.value.tool_name == "fail"
    assert isinstance(caught.value, LlamaAgentError)
    assert caught.value.result is not None
    assert roles(caught.value.result.messages)[:2] == ["user", "assistant"]
    assert caught.value.result.stop_reason == "failed"


@both_modes
def test_a_raised_failure_has_the_tools_own_exception_as_its_cause(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    endpoint.script(Reply(calls=[("fail", {})]))
    settings = {"tools": [fail], "raise_on_tool_invocation_failure": True}
    with pytest.raises(ToolFailedError) as caught:
        go(endpoint, "go", settings=settings)
    assert isinstance(caught.value.__cause__, ValueError)


@both_modes
def test_results_of_tools_that_had_finished_arent_lost_when_another_raises(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3}), ("fail", {})]))
    settings = {"tools": [tool(sequential=True)(add), fail], "raise_on_tool_invocation_failure": True}
    with pytest.raises(ToolFailedError) as caught:
        go(endpoint, "go", settings=settings)
    assert caught.value.result is not None
    assert "5" in told(caught.value.result)


# An endpoint's failures.


@both_modes
@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(400), Drop(), Raw(b"<html>"), Raw(b'{"choices": []}')],
    ids=lambda f: repr(f)[:24],
)
def test_an_endpoint_error_carries_all_messages_so_far(
    endpoint: Endpoint, go: Callable[..., RunResult], fault: Any
) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})]), fault)
    heard: list[Event] = []
    with pytest.raises(EndpointError) as caught:
        go(endpoint, "2+3?", on_event=heard.append, settings={"tools": [add], "system_prompt": "Be brief."})
    result = caught.value.result
    assert result is not None
    assert roles(result.messages) == ["system", "user", "assistant", "tool"]
    assert (told(result), result["step_count"], result.stop_reason) == (["5"], 1, "failed")
    assert (result.usage.model_calls, result.usage.tool_calls) == (1, 1)
    assert isinstance(heard[-1], RunFinished)
    assert list(result.events) == heard


def test_a_failed_run_can_be_gone_on_with(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Status(500), Reply("5"))
    with agent_on(endpoint, tools=[add]) as agent:
        with pytest.raises(EndpointError) as caught:
            agent.run("2+3?")
        assert caught.value.result is not None
        result = agent.run(messages=caught.value.result.messages)
    assert result.text == "5"
    assert sent_roles(endpoint) == ["user", "assistant", "tool"]


def test_a_hooks_exception_reaches_the_caller(endpoint: Endpoint) -> None:
    @hook
    def broken(state: State) -> None:
        raise RuntimeError("the hook broke")

    with pytest.raises(RuntimeError, match="the hook broke"):
        run(endpoint, "go", settings={"hooks": {"before_llm": [broken]}})


# Generators that aren't ours.


@component
class Scripted:
    """A foreign generator: sync only."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.threads: list[int] = []

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: Any = None) -> dict[str, Any]:
        self.threads.append(threading.get_ident())
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, dict) else {"replies": [reply]}


@component
class WithoutTools:
    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, Any]:
        return {"replies": [ChatMessage.from_assistant("plain")]}


def foreign(generator: Any, *, is_async: bool, **settings: Any) -> RunResult:
    agent = Agent(chat_generator=generator, **settings)
    if not is_async:
        with agent:
            return agent.run("go")

    async def main() -> RunResult:
        async with agent:
            return await agent.run_async("go")

    return asyncio.run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_foreign_generator_works_in_both_modes(is_async: bool) -> None:
    call = ChatMessage.from_assistant(tool_calls=[ToolCall("add", {"a": "2", "b": 3}, id="x")])
    scripted = Scripted(call, ChatMessage.from_assistant("done"))
    result = foreign(scripted, is_async=is_async, tools=[add])
    assert (result.text, told(result)) == ("done", ["5"])
    assert (threading.get_ident() in scripted.threads) is not is_async


def test_a_foreign_generator_without_tools_answers() -> None:
    assert foreign(WithoutTools(), is_async=False).text == "plain"


def test_a_foreign_generator_that_takes_no_tools_is_refused_some() -> None:
    with pytest.raises((ConfigurationError, TypeError), match="tools"):
        Agent(chat_generator=WithoutTools(), tools=[add])


@pytest.mark.parametrize("is_async", [False, True])
def test_a_foreign_generators_exception_reaches_the_caller_with_the_messages_so_far(is_async: bool) -> None:
    call = ChatMessage.from_assistant(tool_calls=[ToolCall("add", {"a": 2, "b": 3}, id="x")])
    with pytest.raises(LookupError, match="no model") as caught:
        foreign(Scripted(call, LookupError("no model")), is_async=is_async, tools=[add])
    assert told(caught.value.result) == ["5"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("output", [{}, {"replies": None}])
def test_a_foreign_generator_without_replies_is_named(output: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Scripted"):
        foreign(Scripted(output), is_async=False)


# Copies, files, pipelines, agents as tools.


@pytest.fixture
def _trusted() -> None:
    allow_deserialization_module(__name__)


def test_a_clone_is_configured_alike_and_runs(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    original = agent_on(endpoint, tools=[add], system_prompt="Be brief.", max_agent_steps=7)
    with original.clone(max_agent_steps=3) as copy:
        assert isinstance(copy, Agent)
        assert (copy.max_agent_steps, original.max_agent_steps) == (3, 7)
        copy.run("Hi")
    assert sent_roles(endpoint) == ["system", "user"]
    assert [item["function"]["name"] for item in endpoint.requests[0].json["tools"]] == ["add"]


def test_a_clone_of_an_agent_without_a_generator_has_none_of_its_own() -> None:
    original = Agent(tools=[add])
    copy = original.clone()
    assert copy.chat_generator is not original.chat_generator
    assert copy.to_dict()["init_parameters"]["chat_generator"] is None


@pytest.mark.usefixtures("_trusted")
def test_an_agent_survives_saving_as_json(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": "3"}), ("multiply", {"a": 2, "b": 3})]), Reply("done"))
    original = agent_on(
        endpoint,
        tools=[add, multiply],
        system_prompt="Serve {{ name }}.",
        exit_conditions=["text"],
        max_agent_steps=9,
    )
    text = json.dumps(original.to_dict())
    data = json.loads(text)
    with Agent.from_dict(data) as loaded:
        assert json.dumps(data) == text, "from_dict must not change what it is given"
        assert loaded.max_agent_steps == 9
        assert isinstance(loaded.chat_generator, MetaLlamaChatGenerator)
        result = loaded.run("go", name="Ann")
    assert told(result) == ["5", "6"]
    assert result.messages[0].text == "Serve Ann."


@pytest.mark.usefixtures("_trusted")
def test_an_agent_without_a_generator_is_saved_without_one(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Agent(tools=[add]).to_dict()
    assert data["init_parameters"]["chat_generator"] is None
    endpoint.script(Reply("here"))
    monkeypatch.setenv("LLAMA_AGENT_ENDPOINT", endpoint.url)
    with Agent.from_dict(data) as loaded:
        assert loaded.run("Hi").text == "here"
        assert loaded.to_dict() == data


def test_an_agent_without_functions_loads_with_no_module_trusted_by_hand(endpoint: Endpoint) -> None:
    data = json.loads(json.dumps(agent_on(endpoint).to_dict()))
    assert isinstance(Agent.from_dict(data), Agent)


def test_a_pipeline_with_an_agent_survives_yaml(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script(Reply("Hello."))
    pipeline = Pipeline()
    pipeline.add_component("agent", agent_on(endpoint, system_prompt="Be brief."))
    file = tmp_path / "pipeline.yaml"
    file.write_text(pipeline.dumps(), "utf-8")
    loaded = Pipeline.loads(file.read_text("utf-8"))
    assert (
        loaded.run({"agent": {"messages": [ChatMessage.from_user("Hi")]}})["agent"]["last_message"].text
        == "Hello."
    )
    loaded.get_component("agent").close()


@component
class TextOf:
    @component.output_types(text=str)
    def run(self, message: ChatMessage) -> dict[str, str]:
        return {"text": message.text or ""}


@pytest.mark.parametrize("socket", ["messages", "user_message"])
def test_in_a_pipeline_the_task_may_come_as_messages(endpoint: Endpoint, socket: str) -> None:
    endpoint.script(Reply("Bonjour."))
    pipeline = Pipeline()
    pipeline.add_component(
        "prompt", ChatPromptBuilder(template=[ChatMessage.from_user("Greet in {{ language }}.")])
    )
    pipeline.add_component("agent", agent_on(endpoint))
    pipeline.add_component("text", TextOf())
    pipeline.connect("prompt.prompt", f"agent.{socket}")
    pipeline.connect("agent.last_message", "text.message")
    output = pipeline.run({"prompt": {"language": "French"}}, include_outputs_from={"agent"})
    assert output["text"]["text"] == "Bonjour."
    assert output["agent"]["exit_reason"] == "text"
    assert endpoint.requests[0].messages == [{"role": "user", "content": "Greet in French."}]
    pipeline.get_component("agent").close()


@pytest.mark.parametrize("socket", ["messages", "user_message"])
def test_in_a_pipeline_the_task_may_come_as_text(endpoint: Endpoint, socket: str) -> None:
    endpoint.script(Reply("Bonjour."))
    pipeline = Pipeline()
    pipeline.add_component("prompt", PromptBuilder(template="Greet in {{ language }}."))
    pipeline.add_component("agent", agent_on(endpoint))
    pipeline.connect("prompt.prompt", f"agent.{socket}")
    output = pipeline.run({"prompt": {"language": "French"}})
    assert output["agent"]["last_message"].text == "Bonjour."
    assert endpoint.requests[0].messages == [{"role": "user", "content": "Greet in French."}]
    pipeline.get_component("agent").close()


@both_modes
@pytest.mark.parametrize("outer_class", [Agent, HaystackAgent], ids=["ours", "haystacks"])
def test_an_agent_is_a_tool_of_another(
    endpoint: Endpoint, go: Callable[..., RunResult], outer_class: type
) -> None:
    inner = agent_on(endpoint, tools=[add])
    research = AgentTool(agent=inner, name="research", description="Delegate sums.")
    delegated = {"messages": [{"role": "user", "content": "2+3?"}]}
    endpoint.script(
        Reply(calls=[("research", delegated)]),
        Reply(calls=[("add", {"a": 2, "b": 3})]),
        Reply("5"),
        Reply("Five."),
    )
    if outer_class is Agent:
        result: dict[str, Any] = go(endpoint, "go", settings={"tools": [research]})
    else:
        outer = HaystackAgent(chat_generator=generator(endpoint), tools=[research])
        result = outer.run([ChatMessage.from_user("go")])
        outer.close()
    inner.close()
    assert result["last_message"].text == "Five."
    assert [r.result for m in result["messages"] for r in m.tool_call_results] == ["5"]
    assert endpoint.requests[1].messages == [{"role": "user", "content": "2+3?"}]


def test_an_agent_tool_says_when_the_inner_agent_hit_its_limit(endpoint: Endpoint) -> None:
    inner = agent_on(endpoint, tools=[add], max_agent_steps=1)
    research = AgentTool(agent=inner, name="research", description="Delegate sums.")
    endpoint.script(
        Reply(calls=[("research", {"messages": [{"role": "user", "content": "2+3?"}]})]),
        Reply(calls=[("add", {"a": 2, "b": 3})]),
        Reply("Five, as far as I can tell."),
        Reply("Not sure."),
    )
    result = run(endpoint, "go", settings={"tools": [research]})
    inner.close()
    assert "max_agent_steps" in told(result)[0]
    assert "Five, as far as I can tell." in told(result)[0]


# Opening and closing.


def test_leaving_the_block_closes_the_connections(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))
    with agent_on(endpoint) as agent:
        agent.run("Hi")
        client = agent.chat_generator.client
        assert not client.is_closed()
    assert client.is_closed()


def test_leaving_an_async_block_closes_the_connections(endpoint: Endpoint) -> None:
    endpoint.script(Reply("ok"))

    async def main() -> bool:
        async with agent_on(endpoint) as agent:
            await agent.run_async("Hi")
            client = agent.chat_generator.async_client
            assert not client.is_closed()
        return client.is_closed()

    assert asyncio.run(main())


def test_a_closed_agent_opens_again_when_it_is_used(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("multiply", {"a": 2, "b": 2})]), Reply("one"), Reply("two"))
    agent = agent_on(endpoint, tools=[multiply])
    with agent:
        agent.run("Hi")
    with agent:
        assert agent.run("Hi").text == "two"


def test_building_an_agent_opens_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_AGENT_ENDPOINT", raising=False)
    before = threading.active_count()
    agent = Agent(tools=[add, multiply])
    assert threading.active_count() == before
    agent.close()


def test_a_refusal_is_the_last_word(endpoint: Endpoint) -> None:
    endpoint.script(Reply(None, extra={"refusal": "I can't help with that."}))
    result = run(endpoint, "Do it", settings={"tools": [add]})
    assert (result.stop_reason, result.text) == ("refused", "I can't help with that.")


def test_a_call_cut_off_by_the_token_limit_is_never_executed(endpoint: Endpoint) -> None:
    ran: list[str] = []

    def wipe(name: str = "everything") -> str:
        """Wipe."""
        ran.append(name)
        return "wiped"

    endpoint.script(Reply(calls=[("wipe", "")], finish_reason="length"), Reply("Sorry."))
    result = run(endpoint, "Wipe the slate", settings={"tools": [wipe]})
    assert ran == []
    assert "cut off by the token limit" in told(result)[0]


def test_a_tool_that_does_not_start_is_not_told_as_started(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("nothing", {}), ("add", {"a": "x", "b": 1})]), Reply("Sorry."))
    result = run(endpoint, "Go", settings={"tools": [add]})
    assert [type(e).__name__ for e in result.events if isinstance(e, ToolStarted | ToolFinished)] == [
        "ToolFinished",
        "ToolFinished",
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_agent_steps": "5"}, "max_agent_steps must be a whole number"),
        ({"approval": lambda call: None}, "approval must be an object with needs"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_said_when_the_agent_is_made(settings: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Agent(**settings)


@pytest.mark.parametrize(
    ("given", "settings", "said"),
    [
        ("", {}, "the task is empty"),
        (" \n ", {}, "the task is empty"),
        (5, {}, "a text or a list of ChatMessages, not int"),
        ("go", {"tools": ["nope"]}, "not valid: {'nope'}"),
        ("go", {"nonsense": 1}, "run\\(\\) got 'nonsense'"),
        ("go", {"hook_contxt": {}}, "Did you mean 'hook_context'"),
    ],
)
def test_a_run_that_can_not_be_meant_so_is_refused(
    endpoint: Endpoint, given: Any, settings: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        run(endpoint, given, settings={"tools": [add]}, **settings)


def test_an_async_listener_is_refused_and_not_left_unawaited(endpoint: Endpoint) -> None:
    async def listen(event: Event) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="on_event must be a plain function"):
        run(endpoint, "go", on_event=listen)


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: Agent(eager_start="no"), "eager_start must be True or False"),  # type: ignore[arg-type]
        (lambda: Agent(output_type={}), "doesn't say what the answer looks like"),
        (lambda: Agent(output_type="City"), "a type or a JSON schema"),
        (lambda: Agent().as_tool("helper", " "), "say in the description"),
        (lambda: Agent().stream("go", on_event=3), "on_event must be a function"),  # type: ignore[arg-type]
    ],
)
def test_what_cant_be_meant_is_refused_at_once(make_it: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_it()
