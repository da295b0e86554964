"""A tool with `isolation="process"` runs in a process that can be killed, and else as any other tool does."""

import asyncio
import gc
import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import dedent
from time import monotonic
from typing import Any

import pytest
from haystack.components.agents.state.state import State
from haystack.core.serialization import allow_deserialization_module

from llama_agent import (
    Agent,
    CancelToken,
    ConfigurationError,
    FunctionTool,
    Limits,
    RunContext,
    RunResult,
    ToolFailedError,
    ToolFinished,
    ToolRetryScheduled,
    ToolTimedOut,
    tool,
)
from tests import decorated_process_tools as decorated
from tests import process_tools as functions
from tests.calling import agent_on, both_modes, call, call_async, failed, outcomes, told
from tests.commands import llama_agent
from tests.endpoint import Endpoint, Reply, Request
from tests.process_tools import PATIENCE, Gate, Witness
from tests.programs import Program
from tests.strict_server import faults

BOUND = 20.0
"""Seconds within which a run ends whose tool would hold for a minute."""
LIMIT = 3.0
"""Seconds that a tool gets which is to be killed: enough for its process to have begun."""

Go = Callable[..., RunResult]


def isolated(function: Callable[..., Any], **options: Any) -> Any:
    return tool(isolation="process", **options)(function)


def called(endpoint: Endpoint, function: Callable[..., Any], go: Go = call, **arguments: Any) -> RunResult:
    """A run with one call of a function in a process."""
    made = isolated(function)
    return go(endpoint, [made], made.name, arguments)


def several(endpoint: Endpoint, tools: list[Any], calls: list[tuple[str, Any]], **settings: Any) -> RunResult:
    """A run with several calls in one reply."""
    endpoint.script(Reply(calls=calls), Reply("done"))
    with agent_on(endpoint, tools, **settings) as agent:
        return agent.run("go")


def of(result: RunResult, kind: type) -> list[Any]:
    return [event for event in result.events if isinstance(event, kind)]


class Watch:
    """How long a block took."""

    def __enter__(self) -> "Watch":
        self._began = monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = monotonic() - self._began


# Where they run.


@both_modes
@pytest.mark.parametrize("function", [functions.own_pid, functions.own_pid_async])
def test_the_function_runs_in_a_process_of_its_own(
    endpoint: Endpoint, go: Go, function: Callable[..., Any]
) -> None:
    result = called(endpoint, function, go)
    assert not failed(result)
    assert int(told(result)) != os.getpid()


def test_the_process_is_a_fresh_one_and_no_copy(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "changed", "yes")
    assert told(called(endpoint, functions.what_was_changed)) == "no"


def test_the_process_has_the_environment_as_it_is_now(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THIS_TEST", "set just now")
    assert told(called(endpoint, functions.variable, name="OF_THIS_TEST")) == "set just now"


def test_the_process_is_in_the_current_folder(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told(called(endpoint, functions.folder)) == str(tmp_path)


def test_a_module_that_only_sys_path_has_is_found(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "module_of_a_test.py").write_text('def look() -> str:\n    """Look."""\n    return "found"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    import module_of_a_test  # type: ignore[import-not-found]

    assert told(called(endpoint, module_of_a_test.look)) == "found"


def test_the_function_runs_in_the_main_thread_of_its_process(endpoint: Endpoint) -> None:
    assert told(called(endpoint, functions.in_main_thread)) == "true"


def test_each_call_has_a_process_of_its_own(endpoint: Endpoint) -> None:
    result = several(endpoint, [isolated(functions.own_pid)], [("own_pid", {})] * 3)
    assert len({outcome.result for outcome in outcomes(result)} | {str(os.getpid())}) == 4


def test_a_run_in_a_thread_can_have_process_tools(endpoint: Endpoint) -> None:
    results: list[RunResult] = []
    thread = threading.Thread(
        target=lambda: results.append(called(endpoint, functions.double, value=2)), daemon=True
    )
    thread.start()
    thread.join(PATIENCE)
    assert [told(result) for result in results] == ["4"]


def test_a_sync_run_inside_a_running_event_loop_can_have_process_tools(endpoint: Endpoint) -> None:
    async def cell() -> RunResult:
        return called(endpoint, functions.double_async, value=2)

    assert told(asyncio.run(cell())) == "4"


def test_the_event_loop_goes_on_while_a_process_works(endpoint: Endpoint, tmp_path: Path) -> None:
    async def main(witness: Witness, gate: Gate) -> RunResult:
        async with agent_on(endpoint, [isolated(functions.meet)]) as agent:
            run = asyncio.create_task(agent.run_async("go"))
            assert await asyncio.to_thread(witness.line) == "here"
            gate.let_through(1)  # by the loop itself: the process waits for it
            return await run

    with Witness(tmp_path) as witness, Gate(tmp_path) as gate:
        arguments = {"witness": witness.path, "gate": gate.path}
        endpoint.script(Reply(calls=[("meet", arguments)]), Reply("done"))
        assert told(asyncio.run(main(witness, gate))) == "met"


@both_modes
def test_process_tools_run_beside_each_other(endpoint: Endpoint, go: Go, tmp_path: Path) -> None:
    with Witness(tmp_path) as witness, Gate(tmp_path) as gate:
        arguments = {"witness": witness.path, "gate": gate.path}
        endpoint.script(Reply(calls=[("meet", arguments)] * 2))  # the first of two replies

        def open_when_both_are_here() -> None:
            if witness.line() and witness.line():
                gate.let_through(2)

        helper = threading.Thread(target=open_when_both_are_here)
        helper.start()
        endpoint.script(Reply("done"))
        made = isolated(functions.meet, timeout=PATIENCE)
        result = _run(endpoint, [made], go)
        helper.join()
    assert [outcome.result for outcome in outcomes(result)] == ["met", "met"]


def _run(endpoint: Endpoint, tools: list[Any], go: Go, **settings: Any) -> RunResult:
    """A run of what is scripted."""

    async def main() -> RunResult:
        async with agent_on(endpoint, tools, **settings) as agent:
            return await agent.run_async("go")

    if go is call_async:
        return asyncio.run(main())
    with agent_on(endpoint, tools, **settings) as agent:
        return agent.run("go")


# What they can be made of.


def nested() -> Any:
    def inner() -> str:
        """Do nothing."""
        return ""

    return inner


def with_context(place: str, context: RunContext[None]) -> str:
    """Look."""
    return place


def with_state(place: str, state: State) -> str:
    """Look."""
    return place


def with_callback(place: str, streaming_callback: Any = None) -> str:
    """Look."""
    return place


async def with_context_async(place: str, context: RunContext | None = None) -> str:
    """Look."""
    return place


UNFIT: dict[str, Callable[[], Any]] = {
    "a lambda": lambda: tool(name="it", description="It.", isolation="process")(lambda: 1),
    "a nested function": lambda: isolated(nested()),
    "a nested async function": lambda: isolated(_nested_async()),
    "a method of an object with a lock": lambda: isolated(functions.Connected().look),
    "an object with a lock": lambda: isolated(functions.Connected(), name="it"),
    "a decorated method of an object with a lock": lambda: Agent(tools=[decorated.Locked().look]),
    "a partial of a lambda": lambda: tool(name="it", description="It.", isolation="process")(
        partial(lambda: 1)
    ),
    "a partial with a lock": lambda: isolated(partial(functions.double, value=threading.Lock()), name="it"),
    "a function that another took the name of": lambda: isolated(functions.first_version),
    "what a decorator hides": lambda: isolated(functions.shouted.__wrapped__),
    "a function with a context": lambda: isolated(with_context),
    "an async function with a context": lambda: isolated(with_context_async),
    "a function with the State": lambda: isolated(with_state),
    "a function with the callback": lambda: isolated(with_callback),
}


def _nested_async() -> Any:
    async def inner() -> str:
        """Do nothing."""
        return ""

    return inner


@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT)
def test_what_cant_be_sent_to_a_process_is_refused_when_the_tool_is_made(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match="process"):
        make()


@pytest.mark.parametrize("value", ["thread", "PROCESS", "", True, 1])
def test_an_isolation_that_doesnt_exist_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="isolation"):
        tool(isolation=value)(functions.double)  # type: ignore[call-overload]


def test_no_isolation_is_none(endpoint: Endpoint) -> None:
    made = tool(isolation=None)(functions.own_pid)
    assert int(told(call(endpoint, [made], "own_pid"))) == os.getpid()


FIT: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "a function": (lambda: functions.double, {"value": 4}, "8"),
    "an async function": (lambda: functions.double_async, {"value": 4}, "8"),
    "a method of an object": (lambda: functions.Adder(3).add, {"value": 4}, "7"),
    "an object": (lambda: functions.Adder(3), {"value": 4}, "7"),
    "a static method": (lambda: functions.Adder.twice, {"value": 4}, "8"),
    "a class method": (lambda: functions.Adder.name_of, {}, "Adder"),
    "a partial": (lambda: partial(functions.writes_a_note, "/dev/null"), {"text": "x"}, "written"),
    "a function under a decorator": (lambda: functions.shouted, {"text": "hey"}, "HEY!"),
    "a function that took another's name": (lambda: functions.version, {}, "the second"),
    "a function of the standard library": (lambda: os.getppid, {}, str(os.getpid())),
}


@pytest.mark.filterwarnings("ignore::llama_agent.ToolDefinitionWarning")
@both_modes
@pytest.mark.parametrize("case", FIT.values(), ids=FIT)
def test_what_can_be_sent_to_a_process_works_there(
    endpoint: Endpoint, go: Go, case: tuple[Callable[[], Any], dict[str, Any], str]
) -> None:
    make, arguments, expected = case
    made = isolated(make(), name="it", description="It.")
    if expected == str(os.getpid()):
        assert not failed(go(endpoint, [made], "it", arguments))
    else:
        assert told(go(endpoint, [made], "it", arguments)) == expected


@both_modes
def test_a_decorated_function_of_a_module_works(endpoint: Endpoint, go: Go) -> None:
    assert int(told(go(endpoint, [decorated.decorated], "decorated"))) != os.getpid()


@both_modes
def test_a_decorated_async_function_with_another_name_works(endpoint: Endpoint, go: Go) -> None:
    assert int(told(go(endpoint, [decorated.decorated_async], "another_name"))) != os.getpid()


@both_modes
def test_a_decorated_method_works(endpoint: Endpoint, go: Go) -> None:
    value = json.loads(told(go(endpoint, [decorated.Scale(5).weigh], "weigh", {"grams": 12})))
    assert (value["net"], value["pid"] == os.getpid()) == (7, False)


def test_a_decorated_function_can_still_be_called_by_its_own_code() -> None:
    assert decorated.decorated() == os.getpid()


def test_what_a_process_changes_of_an_object_isnt_seen_here(endpoint: Endpoint) -> None:
    adder = functions.Adder(3)
    result = several(endpoint, [isolated(adder.add)], [("add", {"value": 1})] * 2)
    assert [outcome.result for outcome in outcomes(result)] == ["4", "4"]
    assert adder.base == 3


# In and out.


DIFFERENT: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "a number": (functions.double, {"value": "21"}),
    "a dictionary": (functions.as_dictionary, {"value": 3}),
    "a dataclass, both ways": (functions.heavier, {"parcel": {"weight": 1, "to": "you"}}),
    "nothing": (functions.nothing, {}),
    "bytes": (functions.some_bytes, {}),
    "a generator": (functions.counting, {}),
    "an async generator": (functions.counting_async, {}),
    "a ValueError": (functions.raises_value_error, {}),
    "a ValueError of an async function": (functions.raises_value_error_async, {}),
    "a KeyError": (functions.raises_key_error, {}),
    "an exception without words": (functions.raises_without_words, {}),
    "a StopIteration": (functions.raises_stop_iteration, {}),
    "a SystemExit": (functions.raises_system_exit, {}),
    "a TimeoutError": (functions.raises_timeout_error, {}),
    "an exception that is odd to build": (functions.raises_odd_error, {}),
    "an exception with a lock": (functions.raises_locked_error, {}),
    "an exception of a local class": (functions.raises_local_error, {}),
    "an exception with a secret": (functions.raises_with_a_secret, {}),
    "a group of exceptions": (functions.raises_group, {}),
    "a long exception": (functions.raises_long_text, {}),
    "an exception deep in the stack": (functions.raises_deep_in_the_stack, {}),
    "a recursion without end": (functions.recurses, {}),
    "ToolRetry": (decorated.wants_other_arguments, {"value": 3}),
    "ToolDenied": (decorated.denies, {}),
    "arguments that don't fit": (functions.double, {"value": "many"}),
    "an unknown argument": (functions.double, {"value": 1, "twice": True}),
}


@pytest.mark.filterwarnings("ignore::llama_agent.ToolDefinitionWarning")
@pytest.mark.parametrize("case", DIFFERENT.values(), ids=DIFFERENT)
def test_the_model_reads_the_same_of_a_tool_in_a_process(
    endpoint: Endpoint, case: tuple[Callable[..., Any], dict[str, Any]]
) -> None:
    function, arguments = case
    here = call(endpoint, [tool(function)], function.__name__, arguments)
    there = called(endpoint, function, **arguments)
    assert (told(there), failed(there)) == (told(here), failed(here))


@pytest.mark.parametrize("function", [functions.raises_silent_error, functions.raises_long_chain])
def test_an_exception_that_is_hard_to_tell_is_a_failure(
    endpoint: Endpoint, function: Callable[..., Any]
) -> None:
    result = called(endpoint, function)
    assert (failed(result), result.text) == (True, "done")
    assert len(told(result)) <= 2000


def test_the_traceback_shows_where_in_the_function_it_was(endpoint: Endpoint) -> None:
    (finished,) = of(called(endpoint, functions.raises_value_error), ToolFinished)
    assert finished.traceback is not None
    assert "in raises_value_error" in finished.traceback
    assert "the disk is full" in finished.traceback


def test_secrets_in_the_traceback_are_masked(endpoint: Endpoint) -> None:
    (finished,) = of(called(endpoint, functions.raises_with_a_secret), ToolFinished)
    assert finished.traceback is not None
    assert "s3cr3t" not in finished.traceback
    assert "raises_with_a_secret" in finished.traceback


UNSENDABLE: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "a lock": (functions.returns_a_lock, {}),
    "a lambda": (functions.returns_a_lambda, {}),
    "an object of a local class": (functions.returns_a_local, {}),
    "a list nested too deep": (functions.returns_nested, {"depth": 100_000}),
    "what can't be read": (functions.returns_a_trap, {}),
    "what ends who reads it": (functions.returns_a_quitter, {}),
    "what ends who sends it": (functions.returns_what_kills, {}),
}


@both_modes
@pytest.mark.parametrize("case", UNSENDABLE.values(), ids=UNSENDABLE)
def test_a_result_that_cant_be_sent_is_a_failure_told_to_the_model(
    endpoint: Endpoint, go: Go, case: tuple[Callable[..., Any], dict[str, Any]]
) -> None:
    function, arguments = case
    result = called(endpoint, function, go, **arguments)
    assert (failed(result), result.text, result.stop_reason) == (True, "done", "answered")
    assert function.__name__ in told(result)
    assert len(told(result)) <= 2000


def test_a_large_argument_and_a_large_result_pass(endpoint: Endpoint) -> None:
    assert told(called(endpoint, functions.length_of, text="x" * 5_000_000)) == "5000000"
    made = isolated(functions.text_of_length, max_result_chars=5_000_000)
    assert told(call(endpoint, [made], "text_of_length", {"length": 5_000_000})) == "x" * 5_000_000


def test_a_result_is_cut_like_any_other(endpoint: Endpoint) -> None:
    made = isolated(functions.text_of_length, max_result_chars=100)
    text = told(call(endpoint, [made], "text_of_length", {"length": 1_000_000}))
    assert (text.startswith("x" * 50), text.count("x") <= 100, len(text) < 500) == (True, True, True)


@both_modes
def test_a_tool_that_prints_much_doesnt_get_stuck_nor_spoil_its_result(
    endpoint: Endpoint, go: Go, capfd: pytest.CaptureFixture[str]
) -> None:
    with Watch() as watch:
        result = called(endpoint, functions.chatter, go, kilobytes=1000)
    assert (told(result), failed(result)) == ("said", False)
    assert watch.seconds < BOUND
    assert "Traceback" not in capfd.readouterr().err


def test_a_tool_finds_nothing_on_standard_input(endpoint: Endpoint) -> None:
    # Where the program's own input is a pipe that stays open: the tool must neither wait for it nor take it.
    code = """
    import sys
    from llama_agent import tool, Agent, MetaLlamaChatGenerator
    from tests.process_tools import from_stdin
    generator = MetaLlamaChatGenerator(api_base_url=sys.argv[1], model="m", max_retries=0)
    with Agent(chat_generator=generator, tools=[tool(isolation="process", timeout=20)(from_stdin)]) as agent:
        result = agent.run("go")
    print(*(r.result for message in result.messages for r in message.tool_call_results))
    """
    import subprocess

    endpoint.script(Reply(calls=[("from_stdin", {})]), Reply("done"))
    with Program(code, endpoint.url, stdin=subprocess.PIPE) as program:
        assert program.line() == "read ''"


@both_modes
def test_values_come_from_the_state_and_go_there(endpoint: Endpoint, go: Go) -> None:
    made = isolated(
        functions.read_note,
        inputs_from_state={"note": "note"},
        outputs_to_state={"note": {"source": "text"}},
    )
    agent = {"state_schema": {"note": {"type": str}}}
    result = go(endpoint, [made], "read_note", agent=agent, note="milk")
    assert result["note"] == "milk, read"


def test_what_a_process_changes_of_the_state_isnt_seen_here(endpoint: Endpoint) -> None:
    made = isolated(functions.add_to, inputs_from_state={"notes": "notes"})
    agent = {"state_schema": {"notes": {"type": list[str]}}}
    result = call(endpoint, [made], "add_to", agent=agent, notes=["milk"])
    assert (told(result), result["notes"]) == ("changed", ["milk"])


def test_a_value_of_the_state_that_cant_be_sent_is_a_failure_told_to_the_model(endpoint: Endpoint) -> None:
    made = isolated(functions.read_note, inputs_from_state={"note": "note"})
    agent = {"state_schema": {"note": {"type": object}}}
    result = call(endpoint, [made], "read_note", agent=agent, note=threading.Lock())
    assert (failed(result), result.text) == (True, "done")


# Processes that die.


DYING: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "exits with 0": (functions.exits, {"code": 0}),
    "exits with 3": (functions.exits, {"code": 3}),
    "SIGKILL": (functions.killed_by, {"number": 9}),
    "SIGSEGV": (functions.killed_by, {"number": 11}),
    "SIGTERM": (functions.killed_by, {"number": 15}),
    "abort": (functions.aborts, {}),
}


@both_modes
@pytest.mark.parametrize("case", DYING.values(), ids=DYING)
def test_a_process_that_dies_is_a_failure_told_to_the_model(
    endpoint: Endpoint, go: Go, case: tuple[Callable[..., Any], dict[str, Any]]
) -> None:
    function, arguments = case
    with Watch() as watch:
        result = called(endpoint, function, go, **arguments)
    assert (failed(result), result.text, result.stop_reason) == (True, "done", "answered")
    assert function.__name__ in told(result)
    assert watch.seconds < BOUND


def test_a_process_that_dies_leaves_the_calls_beside_it_alone(endpoint: Endpoint) -> None:
    tools = [isolated(functions.exits), isolated(functions.double), tool(functions.as_dictionary)]
    calls = [("exits", {"code": 1}), ("double", {"value": 2}), ("as_dictionary", {"value": 2})]
    result = several(endpoint, tools, calls)
    assert [outcome.error for outcome in outcomes(result)] == [True, False, False]
    assert [outcome.result for outcome in outcomes(result)][1] == "4"


@both_modes
def test_a_process_that_dies_is_seen_though_a_copy_of_it_lives_on(
    endpoint: Endpoint, go: Go, tmp_path: Path
) -> None:
    with Witness(tmp_path) as witness, Watch() as watch:
        result = called(endpoint, functions.exits_and_leaves_a_copy, go, witness=witness.path)
    assert (failed(result), watch.seconds < BOUND) == (True, True)


@both_modes
def test_a_result_is_taken_though_a_copy_of_its_process_lives_on(
    endpoint: Endpoint, go: Go, tmp_path: Path
) -> None:
    with Witness(tmp_path) as witness, Watch() as watch:
        result = called(endpoint, functions.leaves_a_copy, go, witness=witness.path)
    assert (told(result), watch.seconds < BOUND) == ("returned", True)


@both_modes
def test_a_thread_that_the_function_leaves_holds_nobody_up(
    endpoint: Endpoint, go: Go, tmp_path: Path
) -> None:
    with Witness(tmp_path) as witness, Watch() as watch:
        result = called(endpoint, functions.leaves_a_thread_and_tells, go, witness=witness.path)
        assert (told(result), failed(result)) == ("returned", False)
        assert witness.is_over(), "the process is still there"
    assert watch.seconds < BOUND


def test_a_tool_may_use_processes_of_its_own(endpoint: Endpoint) -> None:
    assert told(called(endpoint, functions.in_processes_of_its_own, number=7)) == "49"


def test_with_raise_on_failure_a_dead_process_raises(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("exits", {"code": 1})]))
    settings = {"raise_on_tool_invocation_failure": True}
    with (
        agent_on(endpoint, [isolated(functions.exits)], **settings) as agent,
        pytest.raises(ToolFailedError) as caught,
    ):
        agent.run("go")
    assert caught.value.tool_name == "exits"
    assert caught.value.result is not None


def test_with_raise_on_failure_the_functions_own_exception_is_the_cause(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("raises_value_error", {})]))
    settings = {"raise_on_tool_invocation_failure": True}
    with (
        agent_on(endpoint, [isolated(functions.raises_value_error)], **settings) as agent,
        pytest.raises(ToolFailedError) as caught,
    ):
        agent.run("go")
    assert isinstance(caught.value.__cause__, ValueError)


# Time limits, and nothing left.


ENDLESS: dict[str, Callable[..., Any]] = {
    "one that waits": functions.hold,
    "an async one": functions.hold_async,
    "an async one that swallows its cancellation": functions.hold_and_swallow_async,
    "one that ignores signals": functions.hold_stubbornly,
    "one that never rests": functions.spin,
    "one with a command": functions.hold_with_a_command,
    "one with a copy of itself": functions.hold_with_a_copy,
    "one with a command of a command": functions.hold_with_grandchildren,
    "one that prints for ever": functions.prints_for_ever,
}
each_endless = pytest.mark.parametrize("function", ENDLESS.values(), ids=ENDLESS)


@both_modes
def test_a_time_out_kills_the_process_and_all_that_it_started(
    endpoint: Endpoint,
    go: Go,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    witnesses = {function.__name__: Witness(tmp_path, function.__name__) for function in ENDLESS.values()}
    calls = [(name, {"witness": witness.path}) for name, witness in witnesses.items()]
    endpoint.script(Reply(calls=calls), Reply("done"))
    tools = [isolated(function, timeout=2 * LIMIT) for function in ENDLESS.values()]
    with Watch() as watch:
        result = _run(endpoint, tools, go, tool_concurrency_limit=len(tools))
    assert [outcome.error for outcome in outcomes(result)] == [True] * len(tools)
    assert all("did not finish within" in str(outcome.result) for outcome in outcomes(result))
    assert [name for name, witness in witnesses.items() if not witness.has_heard()] == []
    assert [name for name, witness in witnesses.items() if not witness.is_over()] == []
    assert [event.leaked for event in of(result, ToolTimedOut)] == [False] * len(tools)
    assert (result.leaked_threads, result.text) == (0, "done")
    assert watch.seconds < BOUND + 2 * LIMIT
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err
    # Without a handler, as in most programs, Python prints these.
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@both_modes
def test_the_model_is_told_which_tool_took_too_long(endpoint: Endpoint, go: Go, tmp_path: Path) -> None:
    with Witness(tmp_path) as witness:
        made = isolated(functions.hold, timeout=2)
        result = go(endpoint, [made], "hold", {"witness": witness.path})
    assert told(result).startswith("Tool 'hold' did not finish within 2 seconds")
    (event,) = of(result, ToolTimedOut)
    assert (event.tool_name, event.seconds, event.leaked) == ("hold", 2, False)


def test_a_decorated_tool_has_its_time_limit_too(endpoint: Endpoint, tmp_path: Path) -> None:
    with Witness(tmp_path) as witness, Watch() as watch:
        result = call(endpoint, [decorated.decorated_hold], "decorated_hold", {"witness": witness.path})
        assert (failed(result), watch_is_over(witness)) == (True, True)
    assert watch.seconds < BOUND


def watch_is_over(witness: Witness) -> bool:
    """Whether those that have spoken, if any, have ended."""
    return not witness.has_heard() or witness.is_over()


@both_modes
def test_the_agents_time_limit_is_for_process_tools_too(endpoint: Endpoint, go: Go, tmp_path: Path) -> None:
    with Witness(tmp_path) as witness, Watch() as watch:
        agent = {"tool_timeout": 2.0}
        result = go(endpoint, [isolated(functions.hold)], "hold", {"witness": witness.path}, agent=agent)
        assert (failed(result), watch_is_over(witness)) == (True, True)
    assert watch.seconds < BOUND


@both_modes
def test_the_runs_limit_of_time_kills_a_process(endpoint: Endpoint, go: Go, tmp_path: Path) -> None:
    with Witness(tmp_path) as witness, Watch() as watch:
        endpoint.script(Reply(calls=[("hold", {"witness": witness.path})]))
        limits = Limits(seconds=LIMIT, landing=False)
        result = _run(endpoint, [isolated(functions.hold)], go, limits=limits)
        assert (result.stop_reason, failed(result)) == ("max_seconds", True)
        assert watch_is_over(witness)
    assert watch.seconds < BOUND


@each_endless
def test_a_token_kills_the_process_and_all_that_it_started(
    endpoint: Endpoint, tmp_path: Path, function: Callable[..., Any]
) -> None:
    token, ended = CancelToken(), []

    def cancel() -> None:
        witness.line()
        ended.append(monotonic())
        token.cancel()

    with Witness(tmp_path) as witness, agent_on(endpoint, [isolated(function)]) as agent:
        endpoint.script(Reply(calls=[(function.__name__, {"witness": witness.path})]))
        helper = threading.Thread(target=cancel)
        helper.start()
        result = agent.run("go", cancel=token)
        took = monotonic() - ended[0]
        helper.join()
        assert (result.stop_reason, failed(result)) == ("cancelled", True)
        assert witness.is_over()
    assert took < BOUND


@each_endless
def test_a_cancelled_task_kills_the_process_and_all_that_it_started(
    endpoint: Endpoint, tmp_path: Path, function: Callable[..., Any]
) -> None:
    async def main(witness: Witness) -> RunResult:
        async with agent_on(endpoint, [isolated(function)]) as agent:
            run = asyncio.create_task(agent.run_async("go"))
            assert await asyncio.to_thread(witness.line)
            run.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await run
            return caught.value.result  # type: ignore[attr-defined]

    with Witness(tmp_path) as witness:
        endpoint.script(Reply(calls=[(function.__name__, {"witness": witness.path})]))
        result = asyncio.run(main(witness))
        assert (result.stop_reason, failed(result)) == ("cancelled", True)
        assert witness.is_over()


CTRL_C = """
import sys
from llama_agent import Agent, MetaLlamaChatGenerator, RunInterrupted, tool
from tests import process_tools

made = tool(isolation="process")(getattr(process_tools, sys.argv[2]))
generator = MetaLlamaChatGenerator(api_base_url=sys.argv[1], model="m", max_retries=0)
with Agent(chat_generator=generator, tools=[made]) as agent:
    try:
        agent.run("go")
    except RunInterrupted as interrupted:
        print("interrupted", *(message.role.value for message in interrupted.result.messages))
"""


@each_endless
def test_ctrl_c_kills_the_process_and_all_that_it_started(
    endpoint: Endpoint, tmp_path: Path, function: Callable[..., Any]
) -> None:
    with Witness(tmp_path) as witness, Program(CTRL_C, endpoint.url, function.__name__) as program:
        endpoint.script(Reply(calls=[(function.__name__, {"witness": witness.path})]))
        assert witness.line(2 * PATIENCE)
        program.ctrl_c()
        out, err, code = program.rest()
        assert witness.is_over()
    assert (out, code) == (["interrupted user assistant tool"], 0)
    assert "Traceback" not in err


def test_closing_the_agent_early_leaves_no_process(endpoint: Endpoint, tmp_path: Path) -> None:
    async def main(witness: Witness) -> None:
        agent = agent_on(endpoint, [isolated(functions.hold)])
        run = asyncio.create_task(agent.run_async("go"))
        assert await asyncio.to_thread(witness.line)
        run.cancel()
        await agent.close_async()
        with pytest.raises(asyncio.CancelledError):
            await run

    with Witness(tmp_path) as witness:
        endpoint.script(Reply(calls=[("hold", {"witness": witness.path})]))
        asyncio.run(main(witness))
        assert witness.is_over()


def children() -> set[int]:
    """Processes that this one has started, also those that have ended and nobody has asked after."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
@both_modes
def test_calls_leave_no_process_no_zombie_and_no_open_file(
    endpoint: Endpoint, go: Go, tmp_path: Path
) -> None:
    def use_everything(number: int) -> None:
        with Witness(tmp_path, f"witness {number}") as witness:
            calls = [
                ("double", {"value": 1}),
                ("exits", {"code": 1}),
                ("returns_a_lock", {}),
                ("hold", {"witness": witness.path}),
            ]
            endpoint.script(Reply(calls=calls), Reply("done"))
            tools = [isolated(f) for f in (functions.double, functions.exits, functions.returns_a_lock)]
            result = _run(endpoint, [*tools, isolated(functions.hold, timeout=2)], go)
            assert [outcome.error for outcome in outcomes(result)] == [False, True, True, True]

    use_everything(0)  # what is opened once, and kept
    processes, files = children(), open_files()
    use_everything(1)
    use_everything(2)
    assert children() <= processes
    assert open_files() <= files + 2  # a connection of the endpoint's may still be closing


# Retries.


def attempts(path: Path) -> int:
    return len(path.read_text().splitlines())


@both_modes
def test_a_transient_failure_in_a_process_is_tried_again(endpoint: Endpoint, go: Go, tmp_path: Path) -> None:
    made = isolated(functions.fails_twice, retry_on=(ConnectionError,), retries=2)
    result = go(endpoint, [made], "fails_twice", {"path": str(tmp_path / "log")})
    assert told(result) == "third time lucky"
    assert [event.attempt for event in of(result, ToolRetryScheduled)] == [1, 2]


def test_a_failure_in_a_process_that_isnt_named_is_not_tried_again(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    made = isolated(functions.always_fails, retry_on=(TimeoutError,), retries=2)
    result = call(endpoint, [made], "always_fails", {"path": str(tmp_path / "log")})
    assert (failed(result), attempts(tmp_path / "log")) == (True, 1)


def test_a_tool_that_isnt_idempotent_is_not_tried_again_by_default(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    made = isolated(functions.always_fails, retry_on=(ConnectionError,))
    result = call(endpoint, [made], "always_fails", {"path": str(tmp_path / "log")})
    assert (failed(result), attempts(tmp_path / "log")) == (True, 1)
    assert "down for ever" in told(result)


def test_a_time_out_ends_the_attempts(endpoint: Endpoint, tmp_path: Path) -> None:
    made = isolated(functions.always_fails, retry_on=(ConnectionError,), retries=1000, timeout=LIMIT)
    with Watch() as watch:
        result = call(endpoint, [made], "always_fails", {"path": str(tmp_path / "log")})
    assert failed(result)
    assert watch.seconds < BOUND


# Saved and loaded.


def test_a_loaded_tool_still_runs_in_a_process(endpoint: Endpoint) -> None:
    allow_deserialization_module("tests.process_tools")
    saved = json.dumps(isolated(functions.own_pid).to_dict())
    loaded = FunctionTool.from_dict(json.loads(saved))
    assert int(told(call(endpoint, [loaded], "own_pid"))) != os.getpid()
    assert json.dumps(loaded.to_dict()) == saved


# Where the function is in a program of the user's.


MAIN = """
import sys
from llama_agent import Agent, MetaLlamaChatGenerator, tool

def double(value: int) -> int:
    "Double a number."
    return 2 * value

def main():
    generator = MetaLlamaChatGenerator(api_base_url=sys.argv[1], model="m", max_retries=0)
    with Agent(chat_generator=generator, tools=[tool(isolation="process", timeout=25)(double)]) as agent:
        result = agent.run("go")
    for message in result.messages:
        for answer in message.tool_call_results:
            print("failed" if answer.error else "well", answer.result)
"""
GUARDED = f"{MAIN}\nif __name__ == '__main__':\n    main()\n"
UNGUARDED = f"{MAIN}\nmain()\n"


def test_a_function_of_a_guarded_script_works(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(dedent(GUARDED))
    endpoint.script(Reply(calls=[("double", {"value": 21})]), Reply("done"))
    with Program("", endpoint.url, file=tmp_path / "script.py") as program:
        out, _, code = program.rest()
    assert (out, code) == (["well 42"], 0)


def test_a_function_of_a_script_without_a_guard_runs_the_script_only_once(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(dedent(UNGUARDED))

    def answer(request: Request) -> Reply:
        return Reply("done") if request.messages[-1]["role"] == "tool" else Reply(calls=CALLS)

    endpoint.script(answer, answer)
    with Program("", endpoint.url, file=tmp_path / "script.py") as program:
        out, _, _ = program.rest()
    assert len(endpoint.requests) == 2, "the process ran the script, and asked the model, once more"
    assert len(out) == 1


CALLS = [("double", {"value": 21})]


def test_a_function_of_code_that_is_no_file_is_refused_or_works(tmp_path: Path) -> None:
    # `python -c`, standard input, a notebook: no other process can import the function.
    with Endpoint(strict=False) as endpoint:
        endpoint.script(Reply(calls=CALLS), Reply("done"))
        with Program(UNGUARDED, endpoint.url) as program:
            out, err, code = program.rest()
        refused = code != 0 and err.rstrip().splitlines()[-1].count("ConfigurationError") == 1
        assert refused or out == ["well 42"] or (len(out) == 1 and out[0].startswith("failed"))
        assert len(endpoint.requests) in (0, 2)


TOOL_FILE = '''
import os
from llama_agent import tool

@tool(isolation="process", timeout=25)
def other_process() -> bool:
    """Say whether this is another process."""
    return os.getpid() != int(os.environ["TEST_PID"])
'''


def test_the_command_lines_tool_files_can_have_process_tools(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_PID", str(os.getpid()))
    (tmp_path / "tools_of_mine.py").write_text(TOOL_FILE)
    endpoint.script(Reply(calls=[("other_process", {})]), Reply("done"))
    file = str(tmp_path / "tools_of_mine.py")
    done = llama_agent("run", "go", "--endpoint", endpoint.url, "--model", "m", "--tools", file)
    assert (done.out, done.code) == ("done\n", 0), done.err
    assert endpoint.requests[-1].messages[-1]["content"] == "true"


def test_a_history_with_killed_processes_can_be_continued(endpoint: Endpoint, tmp_path: Path) -> None:
    with Witness(tmp_path) as witness:
        made = [isolated(functions.hold, timeout=2), isolated(functions.exits)]
        several(endpoint, made, [("hold", {"witness": witness.path}), ("exits", {"code": 1})])
    assert list(faults(endpoint.requests[-1].messages)) == []
