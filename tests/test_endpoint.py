"""The scripted endpoint must be trusted before any client is tested against it."""

import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest
from openai import APIConnectionError, APITimeoutError, InternalServerError, OpenAI, RateLimitError
from openai.types.chat import ChatCompletionChunk

from tests.endpoint import Always, Drop, Endpoint, Item, Raw, Reply, Request, Status

QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "2+3?"}]}
STREAMED = {**QUESTION, "stream": True}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def http(endpoint: Endpoint) -> Iterator[HTTPConnection]:
    connection = _connect(endpoint)
    yield connection
    connection.close()


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[OpenAI]:
    with OpenAI(base_url=endpoint.url, api_key="k", max_retries=0, timeout=5) as opened:
        yield opened


def _connect(endpoint: Endpoint) -> HTTPConnection:
    return HTTPConnection("127.0.0.1", urlsplit(endpoint.url).port, timeout=5)


def _post(http: HTTPConnection, body: dict[str, Any] = QUESTION) -> HTTPResponse:
    http.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return http.getresponse()


def _get(http: HTTPConnection, path: str) -> tuple[int, bytes]:
    http.request("GET", path)
    response = http.getresponse()
    return response.status, response.read()


def _events(body: bytes) -> list[str]:
    return [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event]


def _ask(client: OpenAI) -> str | None:
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "2+3?"}])
    return answer.choices[0].message.content


def _stream(client: OpenAI) -> list[ChatCompletionChunk]:
    with client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "2+3?"}],
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        return list(chunks)


# What arrives and what is sent, seen without a client library.


def test_answers_come_in_the_order_of_the_script_over_one_connection(
    endpoint: Endpoint, http: HTTPConnection
) -> None:
    endpoint.script(Reply("one"), Reply("two"))
    texts = [json.loads(_post(http).read())["choices"][0]["message"]["content"] for _ in range(2)]
    assert texts == ["one", "two"]
    # A second connection would have a second thread.
    assert sum(thread.name == "endpoint-connection" for thread in threading.enumerate()) == 1


def test_requests_are_kept_as_they_arrived(endpoint: Endpoint, http: HTTPConnection) -> None:
    endpoint.script(Reply("x"))
    _get(http, "/v1/models?a=b")
    _post(http).read()
    assert [request.path for request in endpoint.all_requests] == ["/v1/models?a=b", "/v1/chat/completions"]
    (request,) = endpoint.requests
    assert (request.method, request.headers["content-type"]) == ("POST", "application/json")
    assert request.json == QUESTION
    assert request.messages == QUESTION["messages"]


def test_a_body_sent_in_chunks_is_read_whole(endpoint: Endpoint, http: HTTPConnection) -> None:
    endpoint.script(Reply("x"))
    parts = (part.encode() for part in (json.dumps(QUESTION)[:9], json.dumps(QUESTION)[9:]))
    http.request("POST", "/v1/chat/completions", parts, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert http.getresponse().status == 200
    assert endpoint.requests[0].json == QUESTION


def test_a_stream_is_events_of_chunk_size_characters_that_end_in_done(
    endpoint: Endpoint, http: HTTPConnection
) -> None:
    endpoint.script(Reply("größer", reasoning="hm", extra={"refusal": None}))
    response = _post(http, STREAMED)
    assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
    *events, done = _events(response.read())
    assert [json.loads(event)["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "hm"},
        {"content": "größ"},
        {"content": "er"},
        {},
    ]
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("asked", "no_usage", "expected"), [(True, False, 1), (False, False, 0), (True, True, 0)]
)
def test_a_stream_carries_usage_only_when_asked(
    endpoint: Endpoint, http: HTTPConnection, asked: bool, no_usage: bool, expected: int
) -> None:
    endpoint.script(Reply("x", no_usage=no_usage))
    body = _post(http, {**STREAMED, "stream_options": {"include_usage": asked}}).read()
    events = [json.loads(event) for event in _events(body)[:-1]]
    assert sum("usage" in event for event in events) == expected
    assert sum(event["choices"] == [] for event in events) == expected


def test_a_body_cut_short_is_less_than_its_content_length(endpoint: Endpoint, http: HTTPConnection) -> None:
    endpoint.script(Reply("hello", cut_after=7))
    with pytest.raises(IncompleteRead) as caught:
        _post(http).read()
    assert caught.value.partial == b'{"id": '


def test_a_stream_cut_short_sends_its_first_events_and_no_last_chunk(endpoint: Endpoint) -> None:
    endpoint.script(Reply("hello", cut_after=2))
    received = _exchange(endpoint, json.dumps(STREAMED).encode())
    assert received.count(b"data: ") == 2
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")


def _exchange(endpoint: Endpoint, body: bytes) -> bytes:
    """Send a POST over a bare socket and read until the endpoint closes it."""
    with socket.create_connection(("127.0.0.1", urlsplit(endpoint.url).port or 0), timeout=5) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_drop_is_a_real_reset(endpoint: Endpoint) -> None:
    endpoint.script(Drop())
    with pytest.raises(ConnectionResetError):
        _exchange(endpoint, b"{}")


@pytest.mark.parametrize(
    ("item", "status", "content_type", "body"),
    [
        (Status(502, "<h1>Bad</h1>"), 502, "text/html; charset=utf-8", b"<h1>Bad</h1>"),
        (Status(529, {"a": 1}), 529, "application/json", b'{"a": 1}'),
        (Status(200, "x", {"content-type": "text/plain"}), 200, "text/plain", b"x"),
        (Raw(b"{not json"), 200, "application/json", b"{not json"),
        (Raw([b"a", b"", b"\xff"], "text/event-stream", 201, 0.01), 201, "text/event-stream", b"a\xff"),
        (Raw([]), 200, "application/json", b""),
    ],
)
def test_status_and_raw_are_sent_as_given(
    endpoint: Endpoint, http: HTTPConnection, item: Item, status: int, content_type: str, body: bytes
) -> None:
    endpoint.script(item)
    response = _post(http)
    assert (response.status, response.getheader("Content-Type"), response.read()) == (
        status,
        content_type,
        body,
    )


def test_routes_add_paths_and_the_rest_is_not_found() -> None:
    routes = {("GET", "/x"): Status(200, "hi"), ("GET", "/api/models"): Status(401)}
    with Endpoint(base_path="/api", routes=routes) as endpoint:
        assert endpoint.url.endswith("/api")
        http = _connect(endpoint)
        assert _get(http, "/x?q=1") == (200, b"hi")
        assert _get(http, "/api/models")[0] == 401
        status, body = _get(http, "/v1/models")
        http.close()
    assert status == 404
    assert json.loads(body)["error"]["message"] == "no GET /v1/models here"


def test_the_default_call_ids_are_unique_over_the_endpoint(endpoint: Endpoint, http: HTTPConnection) -> None:
    endpoint.script(Reply(calls=[("a", {}), ("b", {})]), Reply(calls=[("c", "{")]))
    messages = [json.loads(_post(http).read())["choices"][0]["message"] for _ in range(2)]
    ids = [call["id"] for message in messages for call in message["tool_calls"]]
    assert ids == ["call_1", "call_2", "call_3"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "c", "arguments": "{"}


# What the openai client makes of it.


def test_openai_lists_the_models() -> None:
    with Endpoint(models=["a", "b"]) as endpoint, OpenAI(base_url=endpoint.url, api_key="k") as client:
        assert [model.id for model in client.models.list()] == ["a", "b"]


def test_openai_reads_a_plain_answer(endpoint: Endpoint, client: OpenAI) -> None:
    endpoint.script(Reply("5", usage=(7, 1)))
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "2+3?"}])
    assert answer.choices[0].message.content == "5"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "m"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 8


def test_openai_puts_a_streamed_call_together(endpoint: Endpoint, client: OpenAI) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})], ids=["x1"]))
    *chunks, last = _stream(client)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    functions = [call.function for call in calls if call.function]
    assert (calls[0].id, functions[0].name, functions[0].arguments) == ("x1", "add", "")
    assert json.loads("".join(function.arguments or "" for function in functions)) == {"a": 2, "b": 3}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert last.usage is not None


def test_openai_sees_the_status_and_its_headers(endpoint: Endpoint, client: OpenAI) -> None:
    endpoint.script(Status(429, headers={"Retry-After": "3"}))
    with pytest.raises(RateLimitError, match="scripted status 429") as caught:
        _ask(client)
    assert caught.value.response.headers["retry-after"] == "3"


def test_openai_retries_over_a_status_and_a_drop(endpoint: Endpoint, client: OpenAI) -> None:
    endpoint.script(Status(503, headers={"Retry-After-Ms": "1"}), Drop(), Reply("5"))
    assert _ask(client.with_options(max_retries=2)) == "5"
    assert len(endpoint.requests) == 3


def test_openai_fails_on_a_drop(endpoint: Endpoint, client: OpenAI) -> None:
    endpoint.script(Drop())
    with pytest.raises(APIConnectionError):
        _ask(client)


def test_openai_fails_on_a_stream_cut_short(endpoint: Endpoint, client: OpenAI) -> None:
    endpoint.script(Reply("hello", cut_after=2))
    chunks = client.chat.completions.create(model="m", messages=[], stream=True)
    assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "hell"]
    with pytest.raises(APIConnectionError) as caught:
        next(chunks)
    assert "incomplete chunked read" in str(caught.value.__cause__)


def test_openai_reads_whole_streams_without_counting_as_a_disconnect(
    endpoint: Endpoint, client: OpenAI
) -> None:
    endpoint.script(Always(Reply("hello", pause=0.001)))
    for _ in range(20):
        _stream(client)
    assert endpoint.disconnects == 0


# Time, threads and clients that leave.


def test_a_client_that_leaves_a_stream_is_noticed_in_the_pause(endpoint: Endpoint, client: OpenAI) -> None:
    endpoint.script(Reply("hello", pause=60))
    with client.chat.completions.create(model="m", messages=[], stream=True) as chunks:
        next(iter(chunks))
        assert not endpoint.wait_for_disconnect(0)
    assert endpoint.wait_for_disconnect(5)
    assert endpoint.disconnects == 1


def test_a_client_that_times_out_before_the_headers_is_noticed(endpoint: Endpoint, client: OpenAI) -> None:
    endpoint.script(Reply("hello", first_pause=60))
    with pytest.raises(APITimeoutError):
        _ask(client.with_options(timeout=0.1))
    assert endpoint.wait_for_disconnect(5)


def test_pauses_are_kept(endpoint: Endpoint, http: HTTPConnection) -> None:
    endpoint.script(Reply("x", first_pause=0.05, pause=0.02))
    start = monotonic()
    assert len(_events(_post(http, STREAMED).read())) == 4
    assert monotonic() - start >= 0.05 + 3 * 0.02


def test_waiting_for_requests_tells_whether_they_came(endpoint: Endpoint, http: HTTPConnection) -> None:
    endpoint.script(Reply("x"))
    sender = threading.Thread(target=lambda: _post(http).read())
    assert not endpoint.wait_for_requests(1, timeout=0.01)
    sender.start()
    assert endpoint.wait_for_requests(1, timeout=5)
    sender.join()


def test_closing_ends_pauses_and_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    start = monotonic()
    with Endpoint() as endpoint:
        endpoint.script(Reply("x", first_pause=60), Reply("x", pause=60), Reply("x"))
        connections = [_connect(endpoint) for _ in range(4)]
        for connection in connections[:3]:
            connection.request("POST", "/v1/chat/completions", json.dumps(STREAMED))
        connections[3].connect()
        assert endpoint.wait_for_requests(3, timeout=5)
    assert threading.active_count() == before
    assert monotonic() - start < 5
    assert endpoint.disconnects == 0
    for connection in connections:
        connection.close()


def test_many_clients_at_once_each_get_an_answer(endpoint: Endpoint) -> None:
    endpoint.script(*[Reply(str(number)) for number in range(32)])
    texts: list[str] = []

    def ask() -> None:
        http = _connect(endpoint)
        texts.append(json.loads(_post(http).read())["choices"][0]["message"]["content"])
        http.close()

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts, key=int) == [str(number) for number in range(32)]


# The script as a test double: what it demands, and what it complains of.


def test_a_function_answers_by_what_was_asked(endpoint: Endpoint, client: OpenAI) -> None:
    def repeat(request: Request) -> Item:
        return Reply(f"{len(endpoint.requests)}: {request.messages[-1]['content']}")

    endpoint.script(Reply("first"), Always(repeat))
    assert [_ask(client) for _ in range(3)] == ["first", "2: 2+3?", "3: 2+3?"]


def test_items_left_over_are_named() -> None:
    with pytest.raises(AssertionError, match="left over: Status") as caught, Endpoint() as endpoint:
        endpoint.script(Status(503), Drop())
    assert "left over: Drop()" in str(caught.value)


def test_a_request_beyond_the_script_gets_a_500_and_is_named() -> None:
    with pytest.raises(AssertionError, match="used up at request 1"), Endpoint() as endpoint:
        http = _connect(endpoint)
        response = _post(http)
        assert (response.status, b"the endpoint's script is used up" in response.read()) == (500, True)
        http.close()


def test_a_lenient_endpoint_does_not_complain() -> None:
    with Endpoint(strict=False) as endpoint:
        http = _connect(endpoint)
        assert _post(http).status == 500
        endpoint.script(Reply("left over"))
        http.close()


def test_the_failure_of_the_block_is_not_hidden_by_a_complaint() -> None:
    with pytest.raises(KeyError), Endpoint() as endpoint:
        endpoint.script(Reply("left over"))
        raise KeyError


@pytest.mark.parametrize("strict", [True, False])
def test_a_failed_assertion_in_a_function_fails_the_test(strict: bool) -> None:
    def check(request: Request) -> Item:
        pytest.fail(f"{len(request.messages)} messages")

    with pytest.raises(AssertionError, match="1 messages") as caught, Endpoint(strict=strict) as endpoint:
        endpoint.script(check)
        with (
            OpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client,
            pytest.raises(InternalServerError, match="the script failed"),
        ):
            _ask(client)
    assert isinstance(caught.value.__cause__, pytest.fail.Exception)


@pytest.mark.parametrize("body", [b"", b"not HTTP\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http_is_hung_up_on(endpoint: Endpoint, body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(endpoint.url).port or 0), timeout=5) as connection:
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert endpoint.all_requests == []


def test_mistakes_in_a_script_are_refused_where_they_are_written() -> None:
    with pytest.raises(ValueError, match="1 ids for 2 calls"):
        Reply(calls=[("a", {}), ("b", {})], ids=["x"])
    with pytest.raises(ValueError, match="chunk_size is 0"):
        Reply("x", chunk_size=0)
    with Endpoint() as endpoint, pytest.raises(ValueError, match="would never be used"):
        endpoint.script(Always(Reply("x")), Reply("y"))
    with pytest.raises(RuntimeError, match="with Endpoint"):
        print(Endpoint().url)
