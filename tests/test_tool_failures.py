"""A tool's failure: short and clean to the model, whole in the event and the log, and nowhere a secret."""

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from haystack.tools.tool import Tool
from haystack.utils import Secret

from llama_agent import (
    Agent,
    ConfigurationError,
    Event,
    RunResult,
    ToolDenied,
    ToolFailedError,
    ToolFinished,
    ToolRetry,
    tool,
)
from tests.conftest import Maker
from tests.endpoint import Endpoint, Item, Reply, Status
from tests.strict_server import strictly

Run = Callable[..., RunResult]

PATIENCE = 10.0
MOST_CHARACTERS = 2000
"""Of what the model is told."""
RAISING: Any = {"raise_on_tool_invocation_failure": True}
KEY = "sk-live-0123456789abcdef"
ROOT = Path(__file__).parents[1]
NO_PARAMETERS = {"type": "object", "properties": {}}


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


def sync_tool(work: Callable[[], Any]) -> Any:
    def boom() -> str:
        return str(work())

    return tool(name="boom", description="Fail.")(boom)


def async_tool(work: Callable[[], Any]) -> Any:
    async def boom() -> str:
        await asyncio.sleep(0)
        return str(work())

    return tool(name="boom", description="Fail.")(boom)


def haystack_tool(work: Callable[[], Any]) -> Any:
    def boom() -> str:
        return str(work())

    return Tool(name="boom", description="Fail.", parameters=NO_PARAMETERS, function=boom)


KINDS = {"sync": sync_tool, "async": async_tool, "haystacks": haystack_tool}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=[f"{name}-tool" for name in KINDS])
BOOM = ("boom", {})
ADD = ("add", {"a": 2, "b": 3})
I_SEE = Reply("I see.")


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, make: Maker, endpoint: Endpoint) -> Run:
    """
    Runs an agent whose model makes these calls in one reply, and then says "I see.".

    `last` is what it says then; None where it isn't asked again.
    """

    def run(
        *calls: Any, tools: Any, on_event: Any = None, last: Item | None = I_SEE, **settings: Any
    ) -> RunResult:
        endpoint.script(*strictly(Reply(calls=calls), *([last] if last else [])))
        agent = Agent(chat_generator=make(api_key=Secret.from_token(KEY)), tools=tools, **settings)

        async def main() -> RunResult:
            async with agent:
                return await agent.run_async("go", on_event=on_event)

        if request.param == "async":
            return asyncio.run(main())
        with agent:
            return agent.run("go", on_event=on_event)

    return run


def told(result: RunResult) -> list[str]:
    return [str(r.result) for message in result.messages for r in message.tool_call_results]


def finished(result: RunResult) -> ToolFinished:
    return next(event for event in result.events if isinstance(event, ToolFinished) and event.error)


def raising(error: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise error

    return work


# What the model is told.


class Mute(Exception):
    """Its text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def deep() -> None:
    deep()


def chained() -> None:
    try:
        raise KeyError("the inner reason")
    except KeyError as error:
        raise ValueError("the outer reason") from error


def circular() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def noted() -> None:
    error = ValueError("the disk is full")
    error.add_note("a note " * 2000)
    raise error


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "an ordinary failure": (raising(ValueError("the disk is full")), "the disk is full"),
    "a failure without a text": (raising(ValueError()), "ValueError"),
    "a failure of blanks": (raising(ValueError(" \n ")), "ValueError"),
    "a text of many lines": (raising(ValueError("line one\n" * 5000)), "line one"),
    "a text of a megabyte": (raising(ValueError("disk " * 200_000)), "disk"),
    "a failure whose text fails": (raising(Mute()), "boom"),
    "half a pair of surrogates": (raising(ValueError("caf\udce9")), "caf"),
    "control characters": (raising(ValueError("a\x00b\x1b[2J")), "[2J"),
    "endless recursion": (deep, "recursion"),
    "a failure with a cause": (chained, "the outer reason"),
    "failures that cause each other": (circular, "first"),
    "a failure with notes": (noted, "the disk is full"),
    "a group": (raising(ExceptionGroup("several", [ValueError("one"), KeyError("two")])), "several"),
    "an exit": (raising(SystemExit("usage: nothing")), "boom"),
    "a missing key": (raising(KeyError("city")), "city"),
    "a failure of the operating system": (raising(FileNotFoundError(2, "No such file", "/x/y")), "/x/y"),
    "an assertion": (raising(AssertionError("never")), "never"),
}
each_odd = pytest.mark.parametrize(("work", "said"), ODD.values(), ids=ODD)


@each_kind
@each_odd
def test_the_model_is_told_in_short_what_went_wrong(
    run: Run, endpoint: Endpoint, kind: Any, work: Callable[[], Any], said: str
) -> None:
    result = run(BOOM, tools=[kind(work)])
    (text,) = told(result)
    assert said in text
    assert "boom" in text
    assert len(text) <= MOST_CHARACTERS
    for noise in ("Traceback", 'File "', __file__, "site-packages"):
        assert noise not in text
    assert finished(result).result == text
    assert endpoint.requests[1].messages[-1]["role"] == "tool"
    assert result.text == "I see."


@each_kind
def test_what_a_tool_itself_says_to_the_model_is_bounded_and_clean_too(run: Run, kind: Any) -> None:
    result = run(BOOM, tools=[kind(raising(ToolRetry(f"use {KEY} " + "other arguments " * 5000)))])
    (text,) = told(result)
    assert "other arguments" in text
    assert len(text) <= MOST_CHARACTERS
    assert KEY not in text


# The event.


def inner_function_of_the_tool() -> None:
    raise ValueError("the disk is full")


@each_kind
def test_the_event_has_the_whole_traceback(run: Run, kind: Any) -> None:
    shown = finished(run(BOOM, tools=[kind(inner_function_of_the_tool)])).traceback
    assert shown is not None
    assert "Traceback (most recent call last)" in shown
    assert Path(__file__).name in shown
    assert "in inner_function_of_the_tool" in shown
    assert shown.rstrip().endswith("the disk is full")


@each_kind
def test_the_traceback_of_a_long_failure_isnt_cut(run: Run, kind: Any) -> None:
    shown = finished(run(BOOM, tools=[kind(raising(ValueError("x" * 10_000 + "the end")))])).traceback
    assert shown is not None
    assert "x" * 10_000 + "the end" in shown


@each_kind
def test_the_traceback_tells_the_cause(run: Run, kind: Any) -> None:
    shown = finished(run(BOOM, tools=[kind(chained)])).traceback
    assert shown is not None
    assert "the inner reason" in shown
    assert "the outer reason" in shown


def test_a_call_that_went_well_or_never_ran_has_no_traceback(run: Run) -> None:
    result = run(ADD, ("add", {"a": "two"}), ("nonsense", {}), tools=[add])
    events = [event for event in result.events if isinstance(event, ToolFinished)]
    assert len(events) == 3
    assert [event.traceback for event in events] == [None, None, None]


# Secrets.


def with_cause() -> None:
    try:
        raise KeyError(f"key {KEY}")
    except KeyError as error:
        raise ValueError("no access") from error


def with_note() -> None:
    error = ValueError("no access")
    error.add_note(f"key {KEY}")
    raise error


def within_a_group() -> None:
    raise ExceptionGroup(f"several with {KEY}", [ValueError(f"one with {KEY}")])


LEAKS: dict[str, tuple[Callable[[], Any], str]] = {
    "the key of the endpoint": (raising(PermissionError(f"no access with {KEY}")), KEY),
    "in a cause": (with_cause, KEY),
    "in a note": (with_note, KEY),
    "in a group": (within_a_group, KEY),
    "in the argument of a KeyError": (raising(KeyError(KEY)), KEY),
    "behind 2,000 characters": (raising(ValueError("x" * 1995 + KEY)), KEY[:8]),
    "a header": (raising(ValueError("Authorization: Bearer eyJhbGciOi.J9.x1")), "eyJhbGciOi"),
    "in a URL": (raising(ValueError("GET https://host/v1?api_key=hunter22&x=1 failed")), "hunter22"),
    "a password in a URL": (raising(ValueError("postgres://ann:hunter22@db:5432 is down")), "hunter22"),
}
each_leak = pytest.mark.parametrize(("work", "secret"), LEAKS.values(), ids=LEAKS)


class Collected(logging.Handler):
    """Takes in all that is logged, and notes it in each form that a user's handler could give it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self.shown: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.shown.append(self.format(record))
        self.shown.append(f"{record.msg} {record.args!r} {record.exc_text}")
        if record.exc_info and record.exc_info[0] is not None:
            # As a handler that writes JSON does.
            self.shown.append("".join(traceback.format_exception(*record.exc_info)))

    @property
    def text(self) -> str:
        return "\n".join(self.shown)

    @property
    def ours(self) -> list[logging.LogRecord]:
        return [record for record in self.records if record.name.startswith("llama_agent")]

    def warnings_of(self, text: str) -> list[logging.LogRecord]:
        """Warnings and worse of ours that have a text in them."""
        plain = logging.Formatter()
        return [
            record
            for record in self.ours
            if record.levelno >= logging.WARNING and text in plain.format(record)
        ]


@pytest.fixture(params=["root", "llama_agent"])
def log(request: pytest.FixtureRequest) -> Iterator[Collected]:
    """All that reaches a handler at the root, or at our own logger."""
    handler = Collected()
    name = None if request.param == "root" else request.param
    logger, ours = logging.getLogger(name), logging.getLogger("llama_agent")
    levels = logger.level, ours.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    ours.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(levels[0])
    ours.setLevel(levels[1])


@each_kind
@each_leak
def test_a_secret_in_a_failure_goes_nowhere(
    run: Run, endpoint: Endpoint, log: Collected, kind: Any, work: Callable[[], Any], secret: str
) -> None:
    heard: list[Event] = []
    result = run(BOOM, tools=[kind(work)], on_event=heard.append)
    assert secret not in endpoint.requests[1].body.decode()
    assert secret not in str([message.to_dict() for message in result.messages])
    assert secret not in str([event.to_dict() for event in (*result.events, *heard)])
    assert log.warnings_of("boom"), "what is logged of the failure is looked at"
    assert secret not in log.text


@each_kind
@each_leak
def test_a_secret_in_a_failure_isnt_in_the_error_that_is_raised(
    run: Run, endpoint: Endpoint, log: Collected, kind: Any, work: Callable[[], Any], secret: str
) -> None:
    with pytest.raises(ToolFailedError) as caught:
        run(BOOM, tools=[kind(work)], last=None, **RAISING)
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value)
    assert secret not in str([message.to_dict() for message in result_of(caught.value).messages])
    assert secret not in str([event.to_dict() for event in result_of(caught.value).events])
    assert secret not in log.text


def result_of(error: ToolFailedError) -> RunResult:
    assert error.result is not None
    return error.result


def test_a_secret_in_a_listeners_failure_isnt_logged(run: Run, log: Collected) -> None:
    def listen(_: Event) -> None:
        raise ValueError(f"can't write with {KEY}")

    result = run(ADD, tools=[add], on_event=listen)
    assert result.text == "I see."
    assert log.warnings_of("can't write")
    assert KEY not in log.text


def test_no_record_of_ours_has_a_secret_whatever_goes_wrong(run: Run, log: Collected) -> None:
    calls = [BOOM, ("nonsense", {"key": KEY}), ("add", {"a": KEY}), ("add", f'{{"a": "{KEY}')]
    run(*calls, tools=[sync_tool(raising(ValueError(KEY))), add])
    assert log.ours
    assert all(KEY not in line for record in log.ours for line in (record.getMessage(), str(record.args)))


# The log.


@each_kind
def test_a_failure_is_logged_once_as_a_warning_with_its_traceback(
    run: Run, log: Collected, kind: Any
) -> None:
    run(BOOM, tools=[kind(inner_function_of_the_tool)])
    (record,) = log.warnings_of("the disk is full")
    assert record.levelno == logging.WARNING
    shown = logging.Formatter().format(record)
    assert "boom" in shown
    assert "Traceback (most recent call last)" in shown
    assert "in inner_function_of_the_tool" in shown


def test_failures_side_by_side_are_logged_each(run: Run, log: Collected) -> None:
    barrier = threading.Barrier(2)

    def member(name: str) -> Any:
        def work() -> None:
            barrier.wait(PATIENCE)
            raise ValueError(f"{name} failed here")

        return tool(name=name, description=name)(work)

    run(("one", {}), ("two", {}), tools=[member("one"), member("two")])
    for name in ("one", "two"):
        assert len(log.warnings_of(f"{name} failed here")) == 1


def test_a_run_that_goes_well_logs_no_warning(run: Run, log: Collected) -> None:
    run(ADD, tools=[add])
    assert [record for record in log.ours if record.levelno >= logging.WARNING] == []


QUIET = """
import asyncio, logging, sys
from llama_agent import Agent, MetaLlamaChatGenerator, tool
from haystack.utils import Secret

KEY = {key!r}
{setup}

def boom() -> str:
    "Fail."
    raise ValueError(f"no access with {{KEY}}")

async def boom_async() -> str:
    "Fail."
    raise ValueError(f"no access with {{KEY}}")

def listen(event):
    raise ValueError(f"the listener fails with {{KEY}}")

generator = MetaLlamaChatGenerator(
    api_base_url=sys.argv[1], model="m", max_retries=0, api_key=Secret.from_token(KEY)
)
with Agent(chat_generator=generator, tools=[boom, boom_async]) as agent:
    print(agent.run("go", on_event=listen).text)

async def main():
    async with Agent(chat_generator=generator, tools=[boom, boom_async]) as agent:
        print((await agent.run_async("go", on_event=listen)).text)

asyncio.run(main())
"""


def process(endpoint: Endpoint, setup: str = "") -> tuple[str, str]:
    """What a program prints that has two runs with failing tools."""
    both = Reply(calls=[("boom", {}), ("boom_async", {}), ("nonsense", {})])
    endpoint.script(*strictly(*[both, Reply("I see.")] * 2))
    program = textwrap.dedent(QUIET).format(key=KEY, setup=setup)
    done = subprocess.run(
        [sys.executable, "-c", program, endpoint.url],
        cwd=ROOT,
        env={**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_where_nobody_set_up_logging_nothing_is_printed(endpoint: Endpoint) -> None:
    assert process(endpoint) == ("I see.\nI see.\n", "")


def test_where_logging_is_set_up_failures_are_printed_with_traceback_and_without_secrets(
    endpoint: Endpoint,
) -> None:
    out, err = process(endpoint, "logging.basicConfig()")
    assert out == "I see.\nI see.\n"
    assert "WARNING:llama_agent" in err
    assert "Traceback" in err
    assert err.count("ValueError: no access with ***") >= 4
    assert "the listener fails with ***" in err
    assert KEY not in err


def test_all_that_can_be_logged_is_without_secrets(endpoint: Endpoint) -> None:
    _, err = process(endpoint, "logging.basicConfig(level=logging.DEBUG)")
    assert "DEBUG:" in err
    assert KEY not in err


# Where failures are to raise.


@each_kind
@each_odd
def test_a_failure_raises_where_that_is_wanted(
    run: Run, endpoint: Endpoint, kind: Any, work: Callable[[], Any], said: str
) -> None:
    with pytest.raises(ToolFailedError) as caught:
        run(BOOM, tools=[kind(work)], last=None, **RAISING)
    error = caught.value
    assert error.tool_name == "boom"
    assert said in str(error)
    assert error.__cause__ is not None
    assert result_of(error).stop_reason == "failed"
    assert finished(result_of(error)).tool_name == "boom"
    assert len(endpoint.requests) == 1


@each_kind
def test_the_cause_is_the_tools_own_exception_or_has_it(run: Run, endpoint: Endpoint, kind: Any) -> None:
    full = OSError(28, "No space left on device")
    with pytest.raises(ToolFailedError) as caught:
        run(BOOM, tools=[kind(raising(full))], last=None, **RAISING)
    causes: list[BaseException | None] = [caught.value.__cause__]
    causes.append(causes[0].__cause__ if causes[0] else None)
    assert full in causes


@each_kind
def test_a_run_that_raised_can_be_gone_on_with(run: Run, make: Maker, endpoint: Endpoint, kind: Any) -> None:
    with pytest.raises(ToolFailedError) as caught:
        run(
            ADD,
            BOOM,
            ADD,
            tools=[add, kind(inner_function_of_the_tool)],
            tool_concurrency_limit=1,
            **RAISING,
        )
    result = result_of(caught.value)
    assert told(result)[0] == "5"
    assert "the disk is full" in told(result)[1]
    assert len(told(result)) == 3
    with Agent(chat_generator=make(), tools=[add]) as agent:
        # The strict server answers only a history in which each call has its result.
        assert agent.run("And?", messages=result.messages).text == "I see."


@pytest.mark.parametrize(
    "said", [ToolRetry("give a city"), ToolDenied("not on Sundays")], ids=["retry", "no"]
)
@each_kind
def test_what_a_tool_says_to_the_model_raises_nothing(run: Run, kind: Any, said: Exception) -> None:
    result = run(BOOM, tools=[kind(raising(said))], **RAISING)
    assert str(said) in told(result)[0]
    assert result.text == "I see."


def test_a_failure_raises_at_once_and_no_later_call_of_the_reply_starts(run: Run, endpoint: Endpoint) -> None:
    started: list[str] = []

    @tool(sequential=True)
    def later() -> str:
        """Come later."""
        started.append("later")
        return "later"

    with pytest.raises(ToolFailedError):
        run(
            BOOM,
            ("later", {}),
            tools=[sync_tool(inner_function_of_the_tool), later],
            last=None,
            **RAISING,
        )
    assert started == []


def test_an_endpoints_failure_after_a_tools_isnt_taken_for_it(run: Run, endpoint: Endpoint) -> None:
    with pytest.raises(Exception, match="400") as caught:
        run(BOOM, tools=[sync_tool(inner_function_of_the_tool)], last=Status(400))
    assert not isinstance(caught.value, ToolFailedError | ConfigurationError)
    assert "the disk is full" in told(caught.value.result)[0]  # type: ignore[attr-defined]
