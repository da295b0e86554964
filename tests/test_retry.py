"""When a failed request is sent again, how often, and after which wait."""

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from time import monotonic
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage
from hypothesis import given
from hypothesis import strategies as st

from llama_agent import ConfigurationError, EndpointError, MetaLlamaChatGenerator, RetryScheduled
from llama_agent.events import EventSink, collecting
from llama_agent.model.retry import RetryPolicy
from tests.endpoint import Always, Drop, Endpoint, Item, Raw, Reply, Status

PLAIN_HTTP = {"verify": False}
"""No certificates are loaded for each client: that would take most of these tests' time."""
QUESTION = [ChatMessage.from_user("2+3?")]
AT_ONCE = {"Retry-After": "0"}
BAD_HISTORY = "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] parse error"

Maker = Callable[..., MetaLlamaChatGenerator]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy as it is, but for smaller defaults of its public fields."""
    defaults = {
        "max_retries": 5,
        "initial_wait": 0.002,
        "max_wait": 0.01,
        "max_retry_after": 300.0,
        "deadline": None,
        "attempt_timeout": None,
    }
    assert list(RetryPolicy.__dataclass_fields__) == list(defaults)
    monkeypatch.setattr(RetryPolicy.__init__, "__defaults__", tuple(defaults.values()))


@pytest.fixture
def make(make: Maker) -> Maker:
    return lambda **settings: make(**{"max_retries": None, **settings})


def ask(generator: MetaLlamaChatGenerator, *, way: str = "sync", stream: bool = False) -> ChatMessage:
    settings: dict[str, Any] = {"generation_kwargs": {"stream": stream}}

    async def asked() -> ChatMessage:
        try:
            return (await generator.run_async(QUESTION, **settings))["replies"][0]
        finally:
            await generator.close_async()

    return asyncio.run(asked()) if way == "async" else generator.run(QUESTION, **settings)["replies"][0]


def failure(generator: MetaLlamaChatGenerator, *, way: str = "sync", stream: bool = False) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        ask(generator, way=way, stream=stream)
    return caught.value


every_way = pytest.mark.parametrize(
    ("way", "stream"), [("sync", False), ("sync", True), ("async", False), ("async", True)]
)


# What is sent again


@every_way
@pytest.mark.parametrize(
    "fault",
    [
        *(Status(code) for code in (408, 409, 429, 500, 502, 503, 504, 507, 529)),
        Status(503, "<html>overloaded</html>"),
        Drop(),
    ],
    ids=lambda fault: f"{getattr(fault, 'code', 'reset')}",
)
def test_a_fault_that_may_pass_is_tried_again(
    make: Maker, endpoint: Endpoint, fault: Item, way: str, stream: bool
) -> None:
    endpoint.script(fault, Reply("5"))
    assert ask(make(max_retries=1), way=way, stream=stream).text == "5"
    first, second = endpoint.requests
    assert second.body == first.body


@every_way
@pytest.mark.parametrize("code", [400, 401, 402, 403, 404, 405, 410, 413, 415, 418, 422])
def test_a_fault_of_the_request_is_not_tried_again(
    make: Maker, endpoint: Endpoint, code: int, way: str, stream: bool
) -> None:
    endpoint.script(Status(code, headers=AT_ONCE))
    error = failure(make(max_retries=3), way=way, stream=stream)
    assert (error.status, error.retryable) == (code, False)
    assert len(endpoint.requests) == 1


@every_way
@pytest.mark.parametrize("wrapped", [True, False])
def test_llama_cpps_500_about_a_bad_history_is_not_tried_again(
    make: Maker, endpoint: Endpoint, wrapped: bool, way: str, stream: bool
) -> None:
    fault = {"code": 500, "message": BAD_HISTORY, "type": "server_error"}
    endpoint.script(Status(500, {"error": fault} if wrapped else fault, AT_ONCE))
    error = failure(make(max_retries=3), way=way, stream=stream)
    assert BAD_HISTORY in str(error)
    assert not error.retryable
    assert len(endpoint.requests) == 1


def test_a_bad_history_told_in_the_midst_of_a_stream_is_not_tried_again(
    make: Maker, endpoint: Endpoint
) -> None:
    event = f'data: {{"error": {{"code": 500, "message": "{BAD_HISTORY}"}}}}\n\n'
    endpoint.script(Always(Raw([event.encode()], "text/event-stream")))
    assert BAD_HISTORY in str(failure(make(max_retries=3), stream=True))
    assert len(endpoint.requests) == 1


@every_way
def test_a_refused_connection_is_tried_again_as_often_as_allowed(make: Maker, way: str, stream: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sink = EventSink("run")
    with collecting(sink):
        failure(make(api_base_url=f"http://127.0.0.1:{port}/v1", max_retries=2), way=way, stream=stream)
    assert [type(event) for event in sink.events] == [RetryScheduled, RetryScheduled]
    assert [event.attempt for event in sink.events if isinstance(event, RetryScheduled)] == [1, 2]
    assert all(str(port) in event.reason for event in sink.events if isinstance(event, RetryScheduled))


@every_way
def test_silence_is_tried_again(make: Maker, endpoint: Endpoint, way: str, stream: bool) -> None:
    endpoint.script(Reply("late", first_pause=5), Reply("5"))
    assert ask(make(max_retries=1, timeout=0.15), way=way, stream=stream).text == "5"
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("way", ["sync", "async"])
def test_silence_in_the_midst_of_a_stream_is_tried_again(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("first and late", pause=5), Reply("second"))
    assert ask(make(max_retries=1, timeout=0.15), way=way, stream=True).text == "second"


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("events", [0, 1, 3])
def test_a_stream_that_is_cut_is_tried_again_and_nothing_of_it_is_left(
    make: Maker, endpoint: Endpoint, events: int, way: str
) -> None:
    endpoint.script(Reply("first and much more", calls=[("add", {})], cut_after=events), Reply("second"))
    reply = ask(make(max_retries=1), way=way, stream=True)
    assert (reply.text, reply.tool_calls) == ("second", [])


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_stream_that_just_stops_is_broken_and_tried_again(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    half = b'data: {"choices": [{"index": 0, "delta": {"content": "half"}}]}\n\n'
    endpoint.script(Raw([half], "text/event-stream"), Reply("whole"))
    assert ask(make(max_retries=1), way=way, stream=True).text == "whole"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_body_that_is_cut_is_tried_again(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("first and much more", cut_after=20), Reply("second"))
    assert ask(make(max_retries=1), way=way).text == "second"


def test_an_error_in_200_that_says_429_is_tried_again(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(200, {"error": {"message": "slow down", "code": 429}}), Reply("5"))
    assert ask(make(max_retries=1)).text == "5"


@pytest.mark.parametrize(
    "answer",
    [
        Status(200, {"error": "model 'x' not found"}),
        Status(200, {"error": {"message": "no credits", "code": 402}}),
        Status(200, {"error": {"message": "no such model", "code": "model_not_found"}}),
    ],
    ids=["words", "402", "named"],
)
def test_an_answer_that_is_no_listed_fault_is_not_tried_again(
    make: Maker, endpoint: Endpoint, answer: Status
) -> None:
    endpoint.script(Always(answer))
    failure(make(max_retries=2))
    assert len(endpoint.requests) == 1


# How often


@every_way
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_n_retries_are_n_plus_1_requests(
    make: Maker, endpoint: Endpoint, retries: int, way: str, stream: bool
) -> None:
    endpoint.script(*[Status(503, {"error": f"fault {i + 1}"}) for i in range(retries + 1)])
    error = failure(make(max_retries=retries), way=way, stream=stream)
    assert f"fault {retries + 1}" in str(error), "the last fault is the one that is told"
    assert (error.status, error.retryable) == (503, True)
    assert len(endpoint.requests) == retries + 1


def test_it_is_tried_five_times_more_when_nothing_is_said(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Status(503)))
    failure(make())
    assert len(endpoint.requests) == 6


def test_haystacks_environment_variable_says_how_often(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_MAX_RETRIES", "1")
    endpoint.script(Always(Status(503)))
    failure(make())
    assert len(endpoint.requests) == 2


def test_an_argument_wins_over_haystacks_environment_variable(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_MAX_RETRIES", "7")
    endpoint.script(Always(Status(503)))
    failure(make(max_retries=0))
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("name", "value"), [("OPENAI_MAX_RETRIES", "many"), ("OPENAI_TIMEOUT", "long")])
def test_nonsense_in_haystacks_environment_variables_is_a_configuration_error(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        ask(make())
    assert endpoint.requests == []


def test_haystacks_environment_variable_says_how_long_silence_may_be(
    make: Maker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_TIMEOUT", "0.1")
    endpoint.script(Reply("late", first_pause=5))
    assert "in time" in str(failure(make(max_retries=0)))


def test_each_question_has_all_its_retries(make: Maker, endpoint: Endpoint) -> None:
    generator = make(max_retries=1)
    endpoint.script(Status(503), Reply("one"), Status(503), Reply("two"))
    assert [ask(generator).text, ask(generator).text] == ["one", "two"]


# How long


def test_a_wait_that_the_server_asks_for_is_waited(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(429, headers={"Retry-After": "1"}), Reply("5"))
    start = monotonic()
    ask(make(max_retries=1))
    assert 1.0 <= monotonic() - start < 3.0


def _in(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        (" 7 ", 7, 7),
        (_in(3600), 1800, 3600),  # made when the tests are collected, maybe long before
        (_in(-3600), 0, 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0, 0),
        ("Sun Nov  6 08:49:37 1994", 0, 0),
    ],
    ids=["seconds", "zero", "blanks", "date ahead", "date past", "old date", "older date"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_retry_after_is_read_as_seconds_and_as_a_date(
    make: Maker, endpoint: Endpoint, value: str, least: float, most: float, stream: bool
) -> None:
    endpoint.script(Status(429, headers={"Retry-After": value}))
    error = failure(make(max_retries=0), stream=stream)
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


@pytest.mark.parametrize("value", ["", "soon", "nan", "-1", "Mon, 99 Foo 2026 99:99:99 GMT", "1, 2"])
def test_a_retry_after_that_is_no_time_does_no_harm(make: Maker, endpoint: Endpoint, value: str) -> None:
    endpoint.script(Status(429, headers={"Retry-After": value}), Reply("5"))
    assert ask(make(max_retries=1)).text == "5"


@pytest.mark.parametrize("value", ["3600", "1e30", "inf", _in(86400)], ids=["hour", "huge", "inf", "date"])
def test_a_wait_that_is_too_long_ends_the_retries_and_is_told(
    make: Maker, endpoint: Endpoint, value: str
) -> None:
    endpoint.script(Status(429, headers={"Retry-After": value}))
    error = failure(make(max_retries=3))
    assert len(endpoint.requests) == 1
    assert (error.retry_after or 0) > 300


def test_a_run_that_is_cancelled_while_it_waits_ends_at_once(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Status(429, headers={"Retry-After": "60"})))
    generator = make(max_retries=3)

    async def impatient() -> None:
        try:
            await asyncio.wait_for(generator.run_async(QUESTION), 0.3)
        finally:
            await generator.close_async()

    start = monotonic()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(impatient())
    assert monotonic() - start < 5
    assert len(endpoint.requests) == 1


@given(attempt=st.integers(1, 60), first=st.floats(0, 10), longest=st.floats(0, 100))
def test_the_wait_is_a_jitter_between_nothing_and_a_bound_that_doubles(
    attempt: int, first: float, longest: float
) -> None:
    policy = RetryPolicy(initial_wait=first, max_wait=longest)
    wait = policy.wait_before(attempt, EndpointError("x"))
    assert 0 <= wait <= min(longest, first * 2.0 ** (attempt - 1))


@given(attempt=st.integers(1, 20), asked=st.floats(0, 300))
def test_the_wait_is_never_below_what_the_server_asked_for(attempt: int, asked: float) -> None:
    assert RetryPolicy().wait_before(attempt, EndpointError("x", retry_after=asked)) >= asked


def test_the_jitter_is_full_so_that_many_clients_spread_out() -> None:
    policy = RetryPolicy(initial_wait=1.0, max_wait=8.0)
    waits = [policy.wait_before(4, EndpointError("x")) for _ in range(2000)]
    assert min(waits) < 0.8
    assert max(waits) > 7.2
    assert 3.5 < sum(waits) / len(waits) < 4.5


def test_a_policy_of_very_many_attempts_still_has_a_bound() -> None:
    assert RetryPolicy(max_wait=20.0).wait_before(5000, EndpointError("x")) <= 20.0
