"""Every fault between us and a server that may pass: survived, with as many requests as it takes."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk

from llama_agent import (
    Agent,
    ConfigurationError,
    EndpointError,
    Event,
    MetaLlamaChatGenerator,
    ReasoningDelta,
    RetryPolicy,
    RetryScheduled,
    RunResult,
    TextDelta,
    TextSuperseded,
)
from llama_agent.events import EventSink, collecting
from tests.conftest import Maker
from tests.endpoint import Always, Drop, Endpoint, Item, Raw, Reply, Status

QUESTION = [ChatMessage.from_user("2+3?")]
QUICK = RetryPolicy(max_retries=5, initial_wait=0.002, max_wait=0.01)
EVENTS = "text/event-stream"
PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"no"}}]}\n\n'

every_way = pytest.mark.parametrize(
    ("way", "stream"), [("sync", False), ("sync", True), ("async", False), ("async", True)]
)


class Shown:
    """A streaming callback that keeps what still counts of what it was shown."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, chunk: StreamingChunk) -> None:
        if "superseded" in chunk.meta:
            assert chunk.meta["superseded"] == len(self.text)
            self.text = ""
        self.text += chunk.content


def ask(
    generator: MetaLlamaChatGenerator, way: str = "sync", callback: Any = None, **settings: Any
) -> ChatMessage:
    async def asked() -> ChatMessage:
        async def show(chunk: StreamingChunk) -> None:
            callback(chunk)

        try:
            shown = show if callback else None
            return (await generator.run_async(QUESTION, shown, **settings))["replies"][0]
        finally:
            await generator.close_async()

    if way == "async":
        return asyncio.run(asked())
    return generator.run(QUESTION, callback, **settings)["replies"][0]


FAULTS: dict[str, Item] = {
    "reset before the headers": Drop(),
    "reset within the body": Reply("the whole answer", cut_after=20),
    "408": Status(408),
    "409": Status(409),
    "429": Status(429),
    "500": Status(500),
    "502 as a page": Status(502, "<html>Bad Gateway</html>"),
    "503": Status(503),
    "529": Status(529),
    "empty": Raw(b""),
    "blank": Raw(b" \n"),
    "cut JSON": Raw(b'{"choices": [{"message": {"content": "fi'),
    "no JSON": Raw(b"upstream connect error"),
    "a list": Raw(b"[]"),
    "a page": Status(200, "<!doctype html><html>Please wait</html>"),
    "no choices": Raw(b'{"id": "x", "choices": []}'),
    "choices null": Raw(b'{"choices": null}'),
    "an error in 200": Status(200, {"error": {"message": "the model is loading"}}),
    "an error in 200 with a status": Status(200, {"error": {"message": "slow down", "code": 503}}),
}
STREAM_FAULTS: dict[str, Item] = {
    "no events": Raw([], EVENTS),
    "no end": Raw([PIECE], EVENTS),
    "cut within an event": Raw([PIECE, b'data: {"choices":[{"del'], EVENTS),
    "an error event": Raw([PIECE, b'data: {"error": {"message": "the worker died"}}\n\n'], EVENTS),
    "no JSON in an event": Raw([PIECE, b"data: oops\n\n"], EVENTS),
    "cut by a closed connection": Reply("a long answer", cut_after=2),
}


@every_way
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_that_may_pass_costs_one_more_request(
    make: Maker, endpoint: Endpoint, fault: Item, way: str, stream: bool
) -> None:
    endpoint.script(fault, Reply("five"))
    shown = Shown()
    reply = ask(make(retry=QUICK), way, shown if stream else None)
    assert reply.text == "five"
    assert len(endpoint.requests) == 2
    assert shown.text == ("five" if stream else "")


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("fault", STREAM_FAULTS.values(), ids=STREAM_FAULTS.keys())
def test_a_stream_that_breaks_is_asked_for_again_and_nothing_is_shown_twice(
    make: Maker, endpoint: Endpoint, fault: Item, way: str
) -> None:
    endpoint.script(fault, Reply("five"))
    shown = Shown()
    assert ask(make(retry=QUICK), way, shown).text == "five"
    assert len(endpoint.requests) == 2
    assert shown.text == "five"


@pytest.mark.parametrize("make_callback", [lambda: None, Shown], ids=["no callback", "callback"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_what_a_broken_stream_told_in_events_is_superseded(
    make: Maker, endpoint: Endpoint, way: str, make_callback: Any
) -> None:
    endpoint.script(STREAM_FAULTS["no end"], Reply("five", reasoning="hm, let me see"))
    told: list[Event] = []
    generator = make(retry=QUICK, generation_kwargs={"stream": True})
    with collecting(EventSink("run", told.append)):
        reply = ask(generator, way, make_callback())
    text = ""
    for event in told:
        if isinstance(event, TextDelta):
            text += event.text
        if isinstance(event, TextSuperseded):
            assert text == "no"
            text = text[: len(text) - event.characters]
    assert text == reply.text == "five"
    assert "".join(e.text for e in told if isinstance(e, ReasoningDelta)) == "hm, let me see"
    assert reply.meta["reasoning"] == "hm, let me see"
    kinds = [type(event) for event in told]
    assert kinds.index(RetryScheduled) < kinds.index(TextSuperseded)


@every_way
def test_four_faults_in_a_row_are_survived(make: Maker, endpoint: Endpoint, way: str, stream: bool) -> None:
    endpoint.script(Drop(), Status(503), FAULTS["no JSON"], FAULTS["a page"], Reply("five"))
    shown = Shown()
    assert ask(make(retry=QUICK), way, shown if stream else None).text == "five"
    assert len(endpoint.requests) == 5


# What waiting doesn't help.


@pytest.fixture
def no_tls() -> Iterator[tuple[str, list[object]]]:
    """A server that knows nothing of TLS and says so in plain text, and the connections it had."""
    connections: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, address = listening.accept()
                except OSError:
                    return
                with connection:
                    connections.append(address)
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/v1", connections
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_tls_fault_isnt_tried_again(make: Maker, no_tls: tuple[str, list[object]], way: str) -> None:
    url, connections = no_tls
    with pytest.raises(EndpointError, match=r"secure connection .*http_client_kwargs") as caught:
        ask(make(api_base_url=url, retry=QUICK), way)
    assert not caught.value.retryable
    assert len(connections) == 1


@contextmanager
def resets_within_the_headers() -> Iterator[tuple[str, list[bytes]]]:
    """A server that resets each connection in the midst of a header; with what was sent to it."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(65536))
                if not asked[-1]:
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Ty")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        address = server.getsockname()
        try:
            yield f"http://127.0.0.1:{address[1]}/v1", asked
        finally:
            socket.create_connection(address).close()
            thread.join()


@every_way
def test_a_reset_within_the_headers_is_tried_again(make: Maker, way: str, stream: bool) -> None:
    with resets_within_the_headers() as (url, asked):
        generator = make(api_base_url=url, retry=RetryPolicy(max_retries=2, initial_wait=0.002))
        with pytest.raises(EndpointError, match="can't be reached"):
            ask(generator, way, print if stream else None)
        assert len(asked) == 3


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_server_that_takes_no_connection_is_told_apart_and_tried_again(make: Maker, way: str) -> None:
    retries: list[Event] = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as full:
        # Linux holds one connection more than the backlog, and lets all further ones wait.
        full.enter_context(socket.create_connection(server.getsockname()))
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        generator = make(api_base_url=url, timeout=0.3, retry=RetryPolicy(max_retries=1, initial_wait=0.002))
        with (
            collecting(EventSink("run", retries.append)),
            pytest.raises(EndpointError, match="did not accept"),
        ):
            ask(generator, way)
    assert len(retries) == 1


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_name_that_isnt_known_is_told_apart_and_tried_again(make: Maker, way: str) -> None:
    with pytest.raises(EndpointError, match=r"'no-such-host.invalid' isn't known") as caught:
        ask(make(api_base_url="http://no-such-host.invalid/v1", retry=RetryPolicy(max_retries=0)), way)
    assert caught.value.retryable


@every_way
def test_a_request_that_is_too_large_for_any_minute_isnt_tried_again(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    text = "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 12000"
    endpoint.script(Status(429, {"error": {"message": text}}))
    with pytest.raises(EndpointError, match="Requested 12000"):
        ask(make(retry=QUICK), way, Shown() if stream else None)
    assert len(endpoint.requests) == 1


# How long.


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"x-ratelimit-reset-tokens": "1.5s"}, 1.5, 1.5),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360, 360),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5, 3723.5),
        ({"x-ratelimit-reset-tokens": "120ms"}, 0.12, 0.12),
        ({"x-ratelimit-reset": "30", "x-ratelimit-reset-tokens": "7"}, 7, 7),
        ({"X-RateLimit-Reset-Tokens": "2", "x-ratelimit-reset-requests": "40"}, 2, 2),
        (
            {
                "x-ratelimit-reset-tokens": "2",
                "x-ratelimit-reset-requests": "40",
                "x-ratelimit-remaining-requests": "0",
            },
            40,
            40,
        ),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25, 0.25),
        ({"retry-after": "3", "x-ratelimit-reset-tokens": "60"}, 3, 3),
    ],
    ids=str,
)
def test_a_wait_is_read_in_each_form(
    make: Maker, endpoint: Endpoint, headers: dict[str, str], least: float, most: float
) -> None:
    endpoint.script(Status(429, headers=headers))
    with pytest.raises(EndpointError) as caught:
        ask(make(retry=RetryPolicy(max_retries=0)))
    assert least <= (caught.value.retry_after or 0) <= most


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "iso"])
def test_a_wait_that_is_told_as_a_time_is_counted_from_now(
    make: Maker, endpoint: Endpoint, form: str
) -> None:
    when = datetime.now(UTC) + timedelta(seconds=1000)
    value = {
        "seconds": str(int(when.timestamp())),
        "milliseconds": str(int(when.timestamp() * 1000)),
        "iso": when.isoformat(),
    }[form]
    endpoint.script(Status(429, headers={"x-ratelimit-reset-requests": value}))
    with pytest.raises(EndpointError) as caught:
        ask(make(retry=RetryPolicy(max_retries=0)))
    assert 800 < (caught.value.retry_after or 0) <= 1000


@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "-", "1x", "s", "...s"])
def test_a_reset_that_cant_be_read_does_no_harm(make: Maker, endpoint: Endpoint, value: str) -> None:
    endpoint.script(Status(429, headers={"x-ratelimit-reset-tokens": value}), Reply("five"))
    assert ask(make(retry=QUICK)).text == "five"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_no_wait_is_begun_that_would_end_after_the_deadline(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Status(503, headers={"Retry-After": "200"}))
    started = time.monotonic()
    with pytest.raises(EndpointError):
        ask(make(retry=RetryPolicy(deadline=100)), way)
    assert time.monotonic() - started < 60
    assert len(endpoint.requests) == 1


@pytest.fixture
def dripping() -> Iterator[Raw]:
    """A whole body that comes byte by byte, never silent for long."""
    body = b'{"choices": [{"message": {"content": "five"}}]}'
    yield Raw([bytes([byte]) for byte in body] * 20, pause=0.02)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_attempt_that_drips_without_end_is_cut_off(
    make: Maker, endpoint: Endpoint, dripping: Raw, way: str
) -> None:
    endpoint.script(dripping, Reply("five"))
    policy = RetryPolicy(max_retries=1, initial_wait=0.002, attempt_timeout=0.5)
    assert ask(make(retry=policy), way).text == "five"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_stream_that_drips_without_end_is_cut_off(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Raw([PIECE] * 500, EVENTS, pause=0.02), Reply("five"))
    shown = Shown()
    policy = RetryPolicy(max_retries=1, initial_wait=0.002, attempt_timeout=0.5)
    assert ask(make(retry=policy), way, shown).text == "five"
    assert shown.text == "five"


def test_an_attempt_that_is_quick_enough_isnt_cut_off(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("five"), Reply("six"))
    generator = make(retry=RetryPolicy(attempt_timeout=60))
    assert ask(generator).text == "five"
    assert ask(generator, callback=Shown()).text == "six"


# Whose policy.


def test_a_policy_wins_over_max_retries(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(503), Reply("five"))
    assert ask(make(max_retries=0, retry=QUICK)).text == "five"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_agents_policy_replaces_its_generators(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Status(503), Status(503), Status(503), Reply("five"))
    policy = RetryPolicy(max_retries=3, initial_wait=0.002)
    agent = Agent(chat_generator=make(max_retries=0), retry=policy)

    async def asked() -> RunResult:
        async with agent:
            return await agent.run_async("2+3?")

    result = agent.run("2+3?") if way == "sync" else asyncio.run(asked())
    assert result.text == "five"
    retries = [event for event in result.events if isinstance(event, RetryScheduled)]
    assert [event.attempt for event in retries] == [1, 2, 3]
    assert all("503" in event.reason for event in retries)


def test_an_agents_policy_isnt_multiplied_with_its_generators(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Status(503)))
    with (
        Agent(
            chat_generator=make(retry=QUICK), retry=RetryPolicy(max_retries=1, initial_wait=0.002)
        ) as agent,
        pytest.raises(EndpointError),
    ):
        agent.run("2+3?")
    assert len(endpoint.requests) == 2


def test_a_policy_for_a_foreign_generator_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"MockChatGenerator retries by its own"):
        Agent(chat_generator=MockChatGenerator(), retry=QUICK)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
        {"initial_wait": -1},
        {"deadline": 0},
        {"attempt_timeout": "60"},
        {"max_wait": float("nan")},
    ],
    ids=str,
)
def test_a_policy_that_cant_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        RetryPolicy(**settings)


def test_a_policy_survives_saving() -> None:
    policy = RetryPolicy(max_retries=7, deadline=60.0)
    generator = MetaLlamaChatGenerator(api_base_url="ollama", model="m", retry=policy)
    assert MetaLlamaChatGenerator.from_dict(generator.to_dict()).retry == policy
    agent = Agent(retry=policy)
    assert Agent.from_dict(agent.to_dict()).retry == policy
    assert agent.clone().retry == policy
