"""`RateLimit`: requests wait for their turn, in order, for all agents of a process, and can be called off."""

import asyncio
import gc
import json
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from haystack import Pipeline
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.utils import Secret

from llama_agent import (
    Agent,
    ConfigurationError,
    EndpointError,
    Event,
    MetaLlamaChatGenerator,
    RateLimit,
    RequestDelayed,
    RetryPolicy,
    RetryScheduled,
    RunInterrupted,
)
from llama_agent.events import EventSink, collecting
from tests.conftest import Maker
from tests.endpoint import Always, Drop, Endpoint, Item, Reply, Request, Status

PATIENCE = 20.0
"""Seconds until a test gives up on something that takes milliseconds."""
IMPATIENT = RetryPolicy(max_retries=0, deadline=5)
"""Nobody who has to wait for a minute's end waits with it: it fails at once."""

every_way = pytest.mark.parametrize(
    ("way", "stream"), [("sync", False), ("sync", True), ("async", False), ("async", True)]
)
both_ways = pytest.mark.parametrize("way", ["sync", "async"])


@pytest.fixture
def make(make: Maker) -> Maker:
    """Generators of one key, so that no book of an earlier test on the same port is found."""
    key = Secret.from_token(f"key-{uuid4()}")
    return lambda **settings: make(**{"api_key": key, **settings})


class Watched:
    """The events of one question, or of several; `delayed` is let go for each that waits for its turn."""

    def __init__(self) -> None:
        self.delayed = threading.Semaphore(0)
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, RequestDelayed):
            self.delayed.release()

    def wait_for_delays(self, number: int = 1) -> None:
        for _ in range(number):
            assert self.delayed.acquire(timeout=PATIENCE)

    async def delays_came(self, number: int = 1) -> None:
        await asyncio.to_thread(self.wait_for_delays, number)

    @property
    def delays(self) -> list[RequestDelayed]:
        return [event for event in self.events if isinstance(event, RequestDelayed)]


def ask(
    generator: MetaLlamaChatGenerator,
    text: str = "2+3?",
    way: str = "sync",
    stream: bool = False,
    *,
    watched: Watched | None = None,
    retry: RetryPolicy | None = None,
    **kwargs: Any,
) -> str | None:
    asked = ask_async(generator, text, stream, watched=watched, retry=retry, **kwargs)
    if way == "async":
        return asyncio.run(asked)
    asked.close()
    settings = {"generation_kwargs": {"stream": stream, **kwargs}, "retry": retry}
    with collecting(EventSink("run", watched)):
        return generator.run([ChatMessage.from_user(text)], **settings)["replies"][0].text


async def ask_async(
    generator: MetaLlamaChatGenerator,
    text: str = "2+3?",
    stream: bool = False,
    *,
    watched: Watched | None = None,
    retry: RetryPolicy | None = None,
    **kwargs: Any,
) -> str | None:
    settings = {"generation_kwargs": {"stream": stream, **kwargs}, "retry": retry}
    with collecting(EventSink("run", watched)):
        return (await generator.run_async([ChatMessage.from_user(text)], **settings))["replies"][0].text


def refused_a_turn(
    generator: MetaLlamaChatGenerator, way: str = "sync", stream: bool = False, **kwargs: Any
) -> RequestDelayed:
    """Ask somebody who won't wait for a minute; its event."""
    watched = Watched()
    with pytest.raises(EndpointError, match="turn"):
        ask(generator, "no time", way, stream, watched=watched, retry=IMPATIENT, **kwargs)
    (event,) = watched.delays
    return event


def goes_at_once(generator: MetaLlamaChatGenerator, way: str = "sync", **kwargs: Any) -> bool:
    watched = Watched()
    ask(generator, "at once", way, watched=watched, retry=IMPATIENT, **kwargs)
    return watched.delays == []


def texts(endpoint: Endpoint) -> list[str]:
    return [request.messages[-1]["content"] for request in endpoint.requests]


def answer(headers: Mapping[str, str], *, total: int = 15, stream: bool = False) -> Status:
    """A good answer with headers."""
    usage = {"prompt_tokens": total - 5, "completion_tokens": 5, "total_tokens": total}
    if not stream:
        choice = {"index": 0, "message": {"content": "5"}, "finish_reason": "stop"}
        return Status(200, {"choices": [choice], "usage": usage}, headers)
    chunk = {"choices": [{"index": 0, "delta": {"content": "5"}, "finish_reason": "stop"}], "usage": usage}
    events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    return Status(200, events, {"Content-Type": "text/event-stream", **headers})


# Requests of a minute


@every_way
def test_a_request_beyond_those_of_a_minute_is_not_sent(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Reply("1"), Reply("2"))
    generator = make(rate_limit=RateLimit(requests_per_minute=2))
    assert [ask(generator, str(i), way, stream) for i in range(2)] == ["1", "2"]
    refused_a_turn(generator, way, stream)
    assert len(endpoint.requests) == 2


@every_way
def test_a_wait_for_the_minutes_end_is_told_with_its_length_and_reason(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Reply("1"))
    generator = make(rate_limit=RateLimit(requests_per_minute=1))
    ask(generator, "1", way, stream)
    event = refused_a_turn(generator, way, stream)
    assert event.wait is not None
    assert 0 < event.wait <= 60
    assert "requests_per_minute=1" in event.reason


def test_a_deadline_that_a_turn_would_miss_says_what_holds_the_request_up(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("1"))
    generator = make(rate_limit=RateLimit(requests_per_minute=1))
    ask(generator)
    with pytest.raises(EndpointError) as caught:
        ask(generator, retry=IMPATIENT)
    assert "deadline" in str(caught.value)
    assert "requests_per_minute=1" in str(caught.value)


def test_requests_within_the_limit_are_not_held_up(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make(rate_limit=RateLimit(requests_per_minute=5, concurrent=1, tokens_per_minute=10_000))
    assert [goes_at_once(generator) for _ in range(5)] == [True] * 5


@both_ways
def test_each_attempt_counts_as_a_request(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Status(503), Reply("5"))
    generator = make(rate_limit=RateLimit(requests_per_minute=2))
    ask(generator, way=way, retry=RetryPolicy(max_retries=1, initial_wait=0.001, max_wait=0.002))
    refused_a_turn(generator, way)
    assert len(endpoint.requests) == 2


def test_asking_again_without_stream_options_counts_as_a_request(make: Maker, endpoint: Endpoint) -> None:
    refusal = {"error": {"message": "Unrecognized request argument supplied: stream_options"}}
    endpoint.script(Always(lambda r: Status(400, refusal) if "stream_options" in r.json else Reply("5")))
    generator = make(rate_limit=RateLimit(requests_per_minute=1))
    with suppress(EndpointError):
        ask(generator, stream=True, retry=IMPATIENT)
    assert len(endpoint.requests) == 1


# Tokens of a minute


@every_way
def test_the_servers_count_of_tokens_fills_the_minute(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Reply("5", usage=(900, 100)))
    generator = make(rate_limit=RateLimit(tokens_per_minute=1000))
    ask(generator, way=way, stream=stream)
    assert "tokens_per_minute=1000" in refused_a_turn(generator, way, stream).reason


@every_way
def test_the_servers_count_takes_the_place_of_the_estimate(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Always(Reply("5", usage=(10, 5))))
    generator = make(rate_limit=RateLimit(tokens_per_minute=1000))
    for _ in range(3):
        ask(generator, way=way, stream=stream, retry=IMPATIENT, max_tokens=900)
    assert len(endpoint.requests) == 3


@both_ways
def test_the_estimate_counts_where_a_server_does_not(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("5", no_usage=True))
    generator = make(rate_limit=RateLimit(tokens_per_minute=1000))
    ask(generator, way=way, max_tokens=900)
    refused_a_turn(generator, way, max_tokens=900)


def test_a_long_prompt_counts_before_it_is_sent(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5", no_usage=True))
    generator = make(rate_limit=RateLimit(tokens_per_minute=1000))
    ask(generator, "word " * 600)
    with pytest.raises(EndpointError, match="tokens_per_minute"):
        ask(generator, "word " * 600, retry=IMPATIENT)


@both_ways
def test_a_request_that_was_turned_away_took_no_tokens(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Status(400), Reply("5"))
    generator = make(rate_limit=RateLimit(tokens_per_minute=1000))
    with pytest.raises(EndpointError):
        ask(generator, way=way, max_tokens=900)
    assert goes_at_once(generator, way, max_tokens=900)


@both_ways
def test_a_request_larger_than_the_whole_limit_goes_alone(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply("5", usage=(4000, 1000)))
    generator = make(rate_limit=RateLimit(tokens_per_minute=100))
    assert goes_at_once(generator, way, max_tokens=5000)
    refused_a_turn(generator, way)


# Requests at a time


class Counted:
    """A script's function: counts those under way, and lets none go before `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Item:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.gate.wait(PATIENCE)
        with self._lock:
            self._now -= 1
        return Reply("5")


@pytest.mark.parametrize("stream", [False, True])
def test_threads_keep_to_the_number_at_a_time(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    counted, watched = Counted(), Watched()
    endpoint.script(Always(counted))
    generator = make(rate_limit=RateLimit(concurrent=3))
    with ThreadPoolExecutor(10) as threads:
        answers = [threads.submit(ask, generator, stream=stream, watched=watched) for _ in range(10)]
        assert endpoint.wait_for_requests(3, PATIENCE)
        watched.wait_for_delays(7)
        counted.gate.set()
        assert [answer.result(PATIENCE) for answer in answers] == ["5"] * 10
    assert counted.most == 3


@pytest.mark.parametrize("stream", [False, True])
def test_tasks_keep_to_the_number_at_a_time(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    counted, watched = Counted(), Watched()
    endpoint.script(Always(counted))
    generator = make(rate_limit=RateLimit(concurrent=3))

    async def many() -> list[str | None]:
        asked = [ask_async(generator, stream=stream, watched=watched) for _ in range(10)]
        tasks = [asyncio.create_task(one) for one in asked]
        await asyncio.to_thread(endpoint.wait_for_requests, 3, PATIENCE)
        await watched.delays_came(7)
        counted.gate.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(many()) == ["5"] * 10
    assert counted.most == 3


def test_threads_and_loops_keep_to_the_number_at_a_time_together(make: Maker, endpoint: Endpoint) -> None:
    counted = Counted()
    counted.gate.set()
    endpoint.script(Always(counted))
    generator, gate = make(rate_limit=RateLimit(concurrent=2)), threading.Barrier(12)

    def work(number: int) -> list[str | None]:
        gate.wait(PATIENCE)
        return [ask(generator, way="async" if number % 2 else "sync") for _ in range(4)]

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(work, range(12))) == [["5"] * 4] * 12
    assert counted.most <= 2


@every_way
@pytest.mark.parametrize("fault", [Status(400), Status(503), Drop(), Status(200, {"error": "no"})], ids=repr)
def test_a_request_that_failed_makes_room(
    make: Maker, endpoint: Endpoint, fault: Item, way: str, stream: bool
) -> None:
    endpoint.script(fault, Reply("5"))
    generator = make(rate_limit=RateLimit(concurrent=1))
    with pytest.raises(EndpointError):
        ask(generator, way=way, stream=stream)
    assert goes_at_once(generator, way)


def test_a_stream_whose_callback_raised_makes_room(make: Maker, endpoint: Endpoint) -> None:
    def show(chunk: StreamingChunk) -> None:
        raise LookupError("enough")

    endpoint.script(Reply("a long answer"), Reply("5"))
    generator = make(rate_limit=RateLimit(concurrent=1))
    with pytest.raises(LookupError):
        generator.run("2+3?", show)
    assert goes_at_once(generator)


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_request_makes_room(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    endpoint.script(Reply("late", first_pause=2 * PATIENCE), Reply("5"))
    generator = make(rate_limit=RateLimit(concurrent=1))

    async def cancelled() -> str | None:
        task = asyncio.create_task(ask_async(generator, stream=stream))
        await asyncio.to_thread(endpoint.wait_for_requests, 1, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await ask_async(generator, retry=IMPATIENT)

    assert asyncio.run(cancelled()) == "5"


def test_a_request_that_waits_to_be_sent_again_makes_room(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(503), Reply("in between"), Reply("again"))
    generator = make(rate_limit=RateLimit(concurrent=1))
    between: list[str | None] = []

    def on_event(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            between.append(ask(generator, "in between", retry=IMPATIENT))

    agent = Agent(chat_generator=generator, retry=RetryPolicy(max_retries=1, initial_wait=0.001))
    assert agent.run("2+3?", on_event=on_event).text == "again"
    assert between == ["in between"]


# In order


def test_threads_go_in_the_order_they_asked(make: Maker, endpoint: Endpoint) -> None:
    counted = Counted()
    endpoint.script(Always(counted))
    generator = make(rate_limit=RateLimit(concurrent=1))
    with ThreadPoolExecutor(8) as threads:
        threads.submit(ask, generator, "0")
        assert endpoint.wait_for_requests(1, PATIENCE)
        for number in range(1, 8):
            watched = Watched()
            threads.submit(ask, generator, str(number), watched=watched)
            watched.wait_for_delays()
        counted.gate.set()
    assert texts(endpoint) == [str(number) for number in range(8)]


def test_threads_and_tasks_go_in_the_order_they_asked(make: Maker, endpoint: Endpoint) -> None:
    counted = Counted()
    endpoint.script(Always(counted))
    generator = make(rate_limit=RateLimit(concurrent=1))

    async def many() -> None:
        asking = [asyncio.create_task(ask_async(generator, "0"))]
        await asyncio.to_thread(endpoint.wait_for_requests, 1, PATIENCE)
        for number in range(1, 8):
            watched = Watched()
            asked = (
                asyncio.to_thread(ask, generator, str(number), watched=watched)
                if number % 2
                else ask_async(generator, str(number), watched=watched)
            )
            asking.append(asyncio.create_task(asked))
            await watched.delays_came()
        counted.gate.set()
        await asyncio.gather(*asking)

    asyncio.run(many())
    assert texts(endpoint) == [str(number) for number in range(8)]


def test_a_small_request_does_not_overtake_a_large_one_that_waits(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5", usage=(500, 100)))
    generator = make(rate_limit=RateLimit(tokens_per_minute=1000))
    ask(generator)

    async def both() -> Watched:
        large, small = Watched(), Watched()
        first = asyncio.create_task(ask_async(generator, watched=large, max_tokens=900))
        await large.delays_came()
        second = asyncio.create_task(ask_async(generator, watched=small, max_tokens=1))
        await small.delays_came()
        for task in (second, first):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return small

    assert asyncio.run(both()).delays[0].wait is None, "it depends on the one before it"
    assert len(endpoint.requests) == 1


def test_a_waiter_that_is_called_off_is_passed_over(make: Maker, endpoint: Endpoint) -> None:
    counted = Counted()
    endpoint.script(Always(counted))
    generator = make(rate_limit=RateLimit(concurrent=1))

    async def many() -> None:
        tasks = [asyncio.create_task(ask_async(generator, "0"))]
        await asyncio.to_thread(endpoint.wait_for_requests, 1, PATIENCE)
        for number in range(1, 6):
            watched = Watched()
            tasks.append(asyncio.create_task(ask_async(generator, str(number), watched=watched)))
            await watched.delays_came()
        for number in (1, 3, 5):
            tasks[number].cancel()
        counted.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(many())
    assert texts(endpoint) == ["0", "2", "4"]


# For all agents of the process and endpoint


def test_generators_of_one_endpoint_and_key_share_the_minute(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("1"), Reply("2"))
    limit = RateLimit(requests_per_minute=2)
    ask(make(rate_limit=limit))
    ask(make(rate_limit=limit), way="async")
    refused_a_turn(make(rate_limit=limit))
    assert len(endpoint.requests) == 2


def test_agents_share_the_minute(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("1"))
    first, second = (
        Agent(chat_generator=make(rate_limit=RateLimit(requests_per_minute=1)), retry=IMPATIENT)
        for _ in range(2)
    )
    first.run("2+3?")
    with pytest.raises(EndpointError) as caught:
        second.run("2+3?")
    assert caught.value.result is not None
    assert [type(e) for e in caught.value.result.events if isinstance(e, RequestDelayed)] == [RequestDelayed]


@pytest.mark.parametrize("spelling", ["{url}/", "{upper}"])
def test_another_spelling_of_the_url_is_the_same_endpoint(
    make: Maker, endpoint: Endpoint, spelling: str
) -> None:
    endpoint.script(Reply("1"))
    limit = RateLimit(requests_per_minute=1)
    ask(make(rate_limit=limit))
    spelt = spelling.format(url=endpoint.url, upper=endpoint.url.replace("http", "HTTP"))
    refused_a_turn(make(api_base_url=spelt, rate_limit=limit))


def test_another_key_has_a_minute_of_its_own(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    limit = RateLimit(requests_per_minute=1)
    ask(make(rate_limit=limit))
    assert goes_at_once(make(rate_limit=limit, api_key=Secret.from_token(f"other-{uuid4()}")))


def test_a_generator_without_a_limit_is_not_held_up(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    ask(make(rate_limit=RateLimit(requests_per_minute=1)))
    assert goes_at_once(make())


def test_a_closed_generator_leaves_the_minute_as_it_was(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("1"))
    generator = make(rate_limit=RateLimit(requests_per_minute=1))
    ask(generator)
    generator.close()
    refused_a_turn(generator)


# What the server has left


RESET = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "200ms"}
USED_UP = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}


@every_way
def test_a_server_that_has_nothing_left_is_waited_for(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(answer(RESET, stream=stream), answer({}, stream=stream))
    generator, watched = make(rate_limit=RateLimit()), Watched()
    first = make(rate_limit=RateLimit())

    async def both() -> None:
        await ask_async(first, stream=stream)
        await ask_async(generator, stream=stream, watched=watched)

    if way == "async":
        asyncio.run(both())
    else:
        ask(first, stream=stream)
        ask(generator, stream=stream, watched=watched)
    (event,) = watched.delays
    assert event.wait is not None
    assert 0 < event.wait <= 0.2
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "headers",
    [
        USED_UP,
        {"X-RateLimit-Remaining-Requests": "0", "X-RateLimit-Reset-Requests": "60"},
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"},
        {"x-ratelimit-remaining-requests-minute": "0", "x-ratelimit-reset-requests-minute": "59.5"},
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "60s"},
        {"x-ratelimit-remaining-tokens": "3", "x-ratelimit-reset-tokens": "60s"},
    ],
    ids=str,
)
@both_ways
def test_nothing_left_is_heeded_in_all_its_forms(
    make: Maker, endpoint: Endpoint, headers: dict[str, str], way: str
) -> None:
    endpoint.script(answer(headers))
    generator = make(rate_limit=RateLimit())
    ask(generator, way=way)
    assert "left" in refused_a_turn(generator, way).reason
    assert len(endpoint.requests) == 1


def test_tokens_that_a_server_has_not_left_are_not_made_up_for_by_an_estimate_that_was_too_high(
    make: Maker, endpoint: Endpoint
) -> None:
    """What it says in an answer is what is left behind that answer."""
    endpoint.script(answer({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "60s"}))
    generator = make(rate_limit=RateLimit())
    ask(generator, max_tokens=1000)
    refused_a_turn(generator, max_tokens=1)


def test_a_request_that_was_turned_away_gives_a_server_no_tokens_back(
    make: Maker, endpoint: Endpoint
) -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "60s"}
    endpoint.script(Status(400, headers=headers))
    generator = make(rate_limit=RateLimit())
    with pytest.raises(EndpointError):
        ask(generator, max_tokens=1000)
    refused_a_turn(generator, max_tokens=1)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "60s"},
        {"x-ratelimit-remaining-requests": "-1"},
        {"x-ratelimit-remaining-requests": "none"},
        {"x-ratelimit-remaining-requests": ""},
        {"x-ratelimit-remaining-tokens": "9" * 40},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "0s"},
        {"x-ratelimit-limit-requests": "0"},
    ],
    ids=str,
)
def test_headers_that_say_nothing_of_the_kind_hold_nobody_up(
    make: Maker, endpoint: Endpoint, headers: dict[str, str]
) -> None:
    endpoint.script(answer(headers), Reply("5"))
    generator = make(rate_limit=RateLimit())
    ask(generator)
    assert goes_at_once(generator)


def test_what_is_left_is_counted_down_by_what_is_sent(make: Maker, endpoint: Endpoint) -> None:
    left = {"x-ratelimit-remaining-requests": "2", "x-ratelimit-reset-requests": "60s"}
    endpoint.script(answer(left), Always(Reply("5")))
    generator = make(rate_limit=RateLimit())
    ask(generator)
    assert [goes_at_once(generator) for _ in range(2)] == [True, True]
    refused_a_turn(generator)


def test_a_request_sent_before_an_answer_came_is_counted_against_what_that_answer_leaves(
    make: Maker, endpoint: Endpoint
) -> None:
    left = {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "60s"}
    second_arrived, first_answered = threading.Event(), threading.Event()

    def first(request: Request) -> Item:
        second_arrived.wait(PATIENCE)
        return answer(left)

    def second(request: Request) -> Item:
        second_arrived.set()
        first_answered.wait(PATIENCE)
        return answer({})

    endpoint.script(first, second)
    generator = make(rate_limit=RateLimit())
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(ask, generator, "1")
        assert endpoint.wait_for_requests(1, PATIENCE)
        threads.submit(ask, generator, "2")
        one.result(PATIENCE)
        refused_a_turn(generator)
        first_answered.set()


@pytest.mark.parametrize("status", [400, 401, 404])
def test_an_error_that_has_nothing_to_do_with_limits_holds_nobody_up(
    make: Maker, endpoint: Endpoint, status: int
) -> None:
    """OpenAI and Groq say in every answer when a limit will be whole again: that asks nobody to wait."""
    plenty = {
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-reset-requests": "2m59.56s",
        "x-ratelimit-remaining-tokens": "17997",
        "x-ratelimit-reset-tokens": "7.66s",
    }
    endpoint.script(Status(status, headers=plenty), Reply("5"))
    generator = make(rate_limit=RateLimit())
    with pytest.raises(EndpointError):
        ask(generator)
    assert goes_at_once(generator)


def test_headers_of_an_error_are_heeded_too(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(400, headers=USED_UP))
    generator = make(rate_limit=RateLimit())
    with pytest.raises(EndpointError):
        ask(generator)
    refused_a_turn(generator)


@every_way
def test_a_server_that_asks_one_to_wait_is_left_alone_by_all(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Status(429, headers={"Retry-After": "60"}))
    with pytest.raises(EndpointError):
        ask(make(rate_limit=RateLimit()), way=way, stream=stream)
    refused_a_turn(make(rate_limit=RateLimit()), way, stream)
    assert len(endpoint.requests) == 1


def test_an_older_answer_does_not_bring_back_what_a_newer_one_took(make: Maker, endpoint: Endpoint) -> None:
    gate = threading.Event()

    def slow(request: Request) -> Item:
        gate.wait(PATIENCE)
        return answer({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "60s"})

    endpoint.script(slow, answer(USED_UP))
    generator = make(rate_limit=RateLimit())
    with ThreadPoolExecutor(1) as threads:
        older = threads.submit(ask, generator, "older")
        assert endpoint.wait_for_requests(1, PATIENCE)
        ask(generator, "newer")
        gate.set()
        older.result(PATIENCE)
    refused_a_turn(generator)


@both_ways
def test_a_wait_for_one_turn_is_no_part_of_an_attempts_time(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    reset = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1000ms"}
    endpoint.script(answer(reset), answer({}))
    generator = make(rate_limit=RateLimit())
    ask(generator)
    assert ask(generator, way=way, retry=RetryPolicy(max_retries=0, attempt_timeout=0.95)) == "5"


# Called off


def full(make: Maker, endpoint: Endpoint) -> MetaLlamaChatGenerator:
    """A generator whose minute is full."""
    endpoint.script(Reply("1"))
    generator = make(rate_limit=RateLimit(requests_per_minute=1))
    ask(generator)
    return generator


def test_a_cancelled_waiter_sends_nothing(make: Maker, endpoint: Endpoint) -> None:
    generator, watched = full(make, endpoint), Watched()

    async def cancelled() -> None:
        task = asyncio.create_task(ask_async(generator, watched=watched))
        await watched.delays_came()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert len(endpoint.requests) == 1


def test_a_callers_time_limit_ends_a_wait(make: Maker, endpoint: Endpoint) -> None:
    generator = full(make, endpoint)

    async def limited() -> None:
        async with asyncio.timeout(0.1):
            await ask_async(generator)

    with pytest.raises(TimeoutError):
        asyncio.run(limited())
    assert len(endpoint.requests) == 1


@both_ways
def test_a_deadline_ends_a_wait_whose_end_nobody_knows(make: Maker, endpoint: Endpoint, way: str) -> None:
    counted = Counted()
    endpoint.script(counted)
    generator = make(rate_limit=RateLimit(concurrent=1))
    with ThreadPoolExecutor(1) as threads:
        threads.submit(ask, generator)
        assert endpoint.wait_for_requests(1, PATIENCE)
        with pytest.raises(EndpointError, match="concurrent=1"):
            ask(generator, way=way, retry=RetryPolicy(deadline=0.1))
        counted.gate.set()


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_ends_a_wait_and_the_queue_goes_on(make: Maker, endpoint: Endpoint, times: int) -> None:
    agent = Agent(chat_generator=full(make, endpoint))
    main = threading.main_thread().ident
    assert main is not None

    def on_event(event: Event) -> None:
        if isinstance(event, RequestDelayed):
            threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGINT)).start()

    for _ in range(times):
        with pytest.raises(RunInterrupted) as caught:
            agent.run("2+3?", on_event=on_event)
        assert [type(e) for e in caught.value.result.events if isinstance(e, RequestDelayed)]
    endpoint.script(Reply("5"))
    assert goes_at_once(make(rate_limit=RateLimit(requests_per_minute=2)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_waiter_whose_loop_was_closed_holds_nobody_up(make: Maker, endpoint: Endpoint) -> None:
    generator, watched = full(make, endpoint), Watched()
    loop = asyncio.new_event_loop()
    with collecting(EventSink("run", watched)):
        task = loop.create_task(generator.run_async("2+3?"))
    loop.run_until_complete(watched.delays_came())
    loop.close()
    try:
        event = refused_a_turn(generator)
        assert event.wait is not None, "the next one waits for the minute's end, not for a task that is gone"
    finally:
        del task
        gc.collect()


def test_300_waiters_of_threads_and_tasks_leave_nothing_when_called_off(
    make: Maker, endpoint: Endpoint
) -> None:
    generator = full(make, endpoint)
    known = set(threading.enumerate())

    async def many() -> list[type[BaseException]]:
        watched = Watched()
        tasks = [asyncio.create_task(ask_async(generator, watched=watched)) for _ in range(300)]
        await watched.delays_came(300)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await generator.close_async()
        return [type(one) for one in ended if isinstance(one, BaseException)]

    assert asyncio.run(many()) == [asyncio.CancelledError] * 300
    left = [t for t in threading.enumerate() if t not in known and not t.name.startswith("endpoint")]
    assert left == []
    endpoint.script(Reply("5"))
    assert goes_at_once(make(rate_limit=RateLimit(requests_per_minute=2)))


def test_300_threads_and_300_tasks_are_all_answered_under_a_limit(make: Maker, endpoint: Endpoint) -> None:
    counted = Counted()
    counted.gate.set()
    endpoint.script(Always(counted))
    generator = make(rate_limit=RateLimit(concurrent=20))
    gate = threading.Barrier(300)
    answers: list[str | None] = []

    def work() -> None:
        gate.wait(PATIENCE)
        answers.append(ask(generator))

    async def many() -> list[str | None]:
        return await asyncio.gather(*(ask_async(generator) for _ in range(300)))

    workers = [threading.Thread(target=work, daemon=True) for _ in range(300)]
    for worker in workers:
        worker.start()
    assert asyncio.run(many()) == ["5"] * 300
    for worker in workers:
        worker.join(PATIENCE)
    assert answers == ["5"] * 300
    assert counted.most <= 20


def test_threads_and_tasks_together_do_not_send_one_more_than_a_minutes_requests(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Always(Reply("5")))
    generator, gate = make(rate_limit=RateLimit(requests_per_minute=20)), threading.Barrier(8)

    def work(number: int) -> int:
        gate.wait(PATIENCE)
        answered = 0
        for _ in range(5):
            with suppress(EndpointError):
                answered += ask(generator, way="async" if number % 2 else "sync", retry=IMPATIENT) == "5"
        return answered

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 20
    assert len(endpoint.requests) == 20


# Settings


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "concurrent"])
@pytest.mark.parametrize("number", [0, -1, 1.5, "30", True])
def test_a_number_that_is_no_limit_is_refused_by_name(name: str, number: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        RateLimit(**{name: number})


@pytest.mark.parametrize("given", [30, {"requests_per_minute": 30}, "fast"])
def test_what_is_no_rate_limit_is_refused_with_an_example(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"RateLimit\("):
        MetaLlamaChatGenerator(rate_limit=given)


@pytest.mark.parametrize(
    "limit", [None, RateLimit(), RateLimit(30, 6000, 4), RateLimit(concurrent=1)], ids=str
)
def test_a_rate_limit_is_saved_and_loaded(limit: RateLimit | None) -> None:
    saved = MetaLlamaChatGenerator(rate_limit=limit).to_dict()
    assert MetaLlamaChatGenerator.from_dict(json.loads(json.dumps(saved))).rate_limit == limit


def test_a_rate_limit_goes_through_yaml_with_its_pipeline() -> None:
    pipeline = Pipeline()
    pipeline.add_component("llm", MetaLlamaChatGenerator(rate_limit=RateLimit(30, concurrent=4)))
    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=["llama_agent"])
    assert loaded.get_component("llm").rate_limit == RateLimit(30, concurrent=4)


def test_a_rate_limit_goes_with_an_agent_that_is_cloned(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("1"))
    agent = Agent(chat_generator=make(rate_limit=RateLimit(requests_per_minute=1)), retry=IMPATIENT)
    agent.run("2+3?")
    with pytest.raises(EndpointError, match="requests_per_minute"):
        agent.clone().run("2+3?")


def test_a_saved_rate_limit_with_an_unknown_setting_is_refused_by_name() -> None:
    saved = MetaLlamaChatGenerator(rate_limit=RateLimit(30)).to_dict()
    saved["init_parameters"]["rate_limit"]["requests_per_hour"] = 5
    with pytest.raises(Exception, match="requests_per_hour"):
        MetaLlamaChatGenerator.from_dict(saved)


def test_a_server_that_has_nothing_left_for_a_day_is_not_waited_for(make: Maker, endpoint: Endpoint) -> None:
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "24h0m0s"}
    endpoint.script(Status(200, {"choices": [{"message": {"content": "5"}}]}, used_up))
    generator = make(rate_limit=RateLimit(), retry=RetryPolicy(max_retry_after=300))
    generator.run("2+3?")
    with pytest.raises(EndpointError, match="longer than RetryPolicy's max_retry_after of 300"):
        generator.run("2+3?")


def test_a_request_whose_loop_was_closed_makes_room(make: Maker) -> None:
    with Endpoint(strict=False) as endpoint:
        endpoint.script(Reply("late", first_pause=PATIENCE), Reply("5"))
        limit = RateLimit(concurrent=1)
        left = make(api_base_url=endpoint.url, rate_limit=limit)
        loop = asyncio.new_event_loop()
        task = loop.create_task(left.run_async("2+3?"))
        loop.run_until_complete(asyncio.to_thread(endpoint.wait_for_requests, 1, PATIENCE))
        loop.close()
        del task, loop, left
        gc.collect()
        other = make(api_base_url=endpoint.url, rate_limit=limit, retry=IMPATIENT)
        assert other.run("2+3?")["replies"][0].text == "5"


@both_ways
def test_a_callback_that_asks_within_its_own_request_is_told_so(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    generator = make(rate_limit=RateLimit(concurrent=1))

    def ask_again(chunk: StreamingChunk) -> None:
        generator.run("3+4?")

    async def ask_again_async(chunk: StreamingChunk) -> None:
        await generator.run_async("3+4?")

    endpoint.script(Reply("5"))
    with pytest.raises(EndpointError, match="not in its streaming callback"):
        if way == "sync":
            generator.run("2+3?", ask_again)
        else:
            asyncio.run(generator.run_async("2+3?", ask_again_async))


def test_a_sync_call_that_stops_the_loop_it_waits_for_is_told_so(make: Maker, endpoint: Endpoint) -> None:
    generator = make(rate_limit=RateLimit(concurrent=1))

    async def main() -> None:
        asking = asyncio.create_task(generator.run_async("2+3?"))
        await asyncio.to_thread(endpoint.wait_for_requests, 1, PATIENCE)
        with pytest.raises(EndpointError, match="by run_async where an event loop runs"):
            generator.run("3+4?")
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await generator.close_async()

    endpoint.script(Reply("5", first_pause=PATIENCE))
    asyncio.run(main())


def test_a_waiter_whose_loop_is_stopped_is_passed_over(make: Maker, endpoint: Endpoint) -> None:
    limit = RateLimit(requests_per_minute=1)
    endpoint.script(Reply("5"), Reply("6"))
    make(rate_limit=limit).run("2+3?")
    loop, watched, waiting = asyncio.new_event_loop(), Watched(), make(rate_limit=limit)

    async def ask() -> None:
        with collecting(EventSink("run", watched)):
            await waiting.run_async("waits")

    task = loop.create_task(ask())
    loop.run_until_complete(watched.delays_came())  # and then it is stopped
    other = make(rate_limit=RateLimit(concurrent=1), retry=IMPATIENT)
    assert other.run("3+4?")["replies"][0].text == "6"
    task.cancel()
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
