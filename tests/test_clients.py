"""Connections: shared, used again, closed; proxies and certificates; and keys, which are told to nobody."""

import asyncio
import gc
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.utils import Secret

from llama_agent import EndpointError, LlamaAgentError, MetaLlamaChatGenerator, RateLimit, RetryPolicy
from tests.conftest import Maker
from tests.endpoint import Always, Drop, Endpoint, Item, Raw, Reply, Request, Status

QUESTION = [ChatMessage.from_user("2+3?")]
KEY = "sk-very-secret-0123456789"
EVENTS = "text/event-stream"
PATIENCE = 20.0
"""Seconds until a test gives up on something that takes milliseconds."""
CROWD = RetryPolicy(max_retries=5, initial_wait=0.05)
"""For hundreds that connect at once: a system may turn some away, as the endpoint's queue is shorter."""

every_way = pytest.mark.parametrize(
    ("way", "stream"), [("sync", False), ("sync", True), ("async", False), ("async", True)]
)


class Relay:
    """
    Stands before an endpoint and counts its connections; speaks TLS, or as a proxy, when told to.

    :param port: Where it hands connections on to. As a proxy: those that don't name a server (CONNECT).
    :param tls: Its certificate.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, proxy: bool = False) -> None:
        self._target, self._tls, self._proxy = port, tls, proxy
        self.connections = 0
        self.heads: list[bytes] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "Relay":
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        for side in list(self._open):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._socket.close()

    _closing = False

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            client, _ = self._socket.accept()
            if self._closing:
                return client.close()
            self.connections += 1
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            target, begun = self._target, b""
            if self._proxy:
                while b"\r\n\r\n" not in begun:
                    begun += client.recv(65536) or b"\r\n\r\n"
                self.heads.append(begun.partition(b"\r\n\r\n")[0])
                if begun.startswith(b"CONNECT"):
                    target, begun = int(begun.split()[1].rpartition(b":")[2]), b""
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            server = socket.create_connection(("127.0.0.1", target))
            server.sendall(begun)
        except OSError:
            return client.close()
        self._open |= {client, server}
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)
        back.join(PATIENCE)
        self._open -= {client, server}
        client.close()
        server.close()
        return None

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def port_of(endpoint: Endpoint) -> int:
    found = re.search(r":(\d+)", endpoint.url)
    assert found
    return int(found[1])


@pytest.fixture
def relay(endpoint: Endpoint) -> Iterator[Relay]:
    with Relay(port_of(endpoint)) as running:
        yield running


def connections_to(port: int) -> int:
    """How many connections to a port this process holds open, on the client's side."""
    inodes: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):  # noqa: PTH115
                inodes.add(found[1])
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2] == f"0100007F:{port:04X}" and line[9] in inodes for line in lines)


def ask(
    generator: MetaLlamaChatGenerator, way: str = "sync", stream: bool = False, *, close: bool = True
) -> ChatMessage:
    async def asked() -> ChatMessage:
        try:
            return await ask_async(generator, stream)
        finally:
            if close:
                await generator.close_async()

    if way == "async":
        return asyncio.run(asked())
    return generator.run(QUESTION, generation_kwargs={"stream": stream})["replies"][0]


async def ask_async(generator: MetaLlamaChatGenerator, stream: bool = False) -> ChatMessage:
    return (await generator.run_async(QUESTION, generation_kwargs={"stream": stream}))["replies"][0]


# Connections are used again


@pytest.mark.parametrize("stream", [False, True])
def test_questions_one_after_the_other_take_one_connection(
    make: Maker, endpoint: Endpoint, relay: Relay, stream: bool
) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make(api_base_url=relay.url)
    for _ in range(5):
        ask(generator, stream=stream)
    assert relay.connections == 1


@pytest.mark.parametrize("stream", [False, True])
def test_questions_one_after_the_other_on_one_loop_take_one_connection(
    make: Maker, endpoint: Endpoint, relay: Relay, stream: bool
) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make(api_base_url=relay.url)

    async def several() -> None:
        for _ in range(5):
            await ask_async(generator, stream)
        await generator.close_async()

    asyncio.run(several())
    assert relay.connections == 1


def test_generators_of_one_endpoint_share_its_connections(
    make: Maker, endpoint: Endpoint, relay: Relay
) -> None:
    endpoint.script(Always(Reply("5")))
    for number in range(5):
        ask(make(api_base_url=relay.url, model=f"m{number}"))
    assert relay.connections == 1


def test_generators_of_one_endpoint_share_its_connections_on_a_loop(
    make: Maker, endpoint: Endpoint, relay: Relay
) -> None:
    endpoint.script(Always(Reply("5")))
    generators = [make(api_base_url=relay.url, model=f"m{number}") for number in range(5)]

    async def all_of_them() -> None:
        for generator in generators:
            await ask_async(generator)
        for generator in generators:
            await generator.close_async()

    asyncio.run(all_of_them())
    assert relay.connections == 1


def test_generators_with_other_http_settings_have_connections_of_their_own(
    make: Maker, endpoint: Endpoint, relay: Relay
) -> None:
    endpoint.script(Always(Reply("5")))
    for timeout in (50, 60):
        settings = {"verify": False, "headers": {"X-Timeout": str(timeout)}}
        ask(make(api_base_url=relay.url, http_client_kwargs=settings))
    assert relay.connections == 2
    assert [request.headers["x-timeout"] for request in endpoint.requests] == ["50", "60"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_each_generator_sends_its_own_key_over_shared_connections(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Always(Reply("5")))
    for key in ("key-of-ada", "key-of-lin"):
        ask(make(api_key=Secret.from_token(key)), way)
    sent = [request.headers["authorization"] for request in endpoint.requests]
    assert sent == ["Bearer key-of-ada", "Bearer key-of-lin"]


def test_a_cookie_given_to_one_key_is_not_sent_with_another(make: Maker, endpoint: Endpoint) -> None:
    completion = {"choices": [{"message": {"content": "5"}, "finish_reason": "stop"}]}
    endpoint.script(Status(200, completion, {"Set-Cookie": "session=of-ada"}), Reply("5"))
    ask(make(api_key=Secret.from_token("key-of-ada")))
    ask(make(api_key=Secret.from_token("key-of-lin")))
    assert "cookie" not in endpoint.requests[1].headers


def test_a_cookie_given_to_one_user_of_a_url_is_not_sent_with_another(
    make: Maker, endpoint: Endpoint
) -> None:
    completion = {"choices": [{"message": {"content": "5"}, "finish_reason": "stop"}]}
    endpoint.script(Status(200, completion, {"Set-Cookie": "session=of-ada"}), Reply("5"))
    for user in ("ada", "lin"):
        ask(make(api_base_url=endpoint.url.replace("://", f"://{user}:pw-of-{user}@")))
    assert "cookie" not in endpoint.requests[1].headers


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_reply_does_not_wait_for_a_stream_that_never_ends(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"5"},"finish_reason":"stop"}]}\n\n'
    endpoint.script(Raw([piece + b"data: [DONE]\n\n", b": still here\n\n"], EVENTS, pause=2 * PATIENCE))
    assert ask(make(), way, stream=True).text == "5"
    assert endpoint.wait_for_disconnect(PATIENCE), "the client hangs up"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_stream_that_breaks_behind_its_end_is_a_whole_reply(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"5"},"finish_reason":"stop"}]}\n\n'

    def broken(request: Request) -> Item:
        whole = piece + b"data: [DONE]\n\n"
        head = {"Content-Type": EVENTS, "Content-Length": str(len(whole) + 100)}
        return Status(200, whole.decode(), {**head, "Connection": "close"})

    endpoint.script(broken, Reply("6"))
    generator = make()
    assert [ask(generator, way, stream=True).text for _ in range(2)] == ["5", "6"]


# Closing leaves nothing


@every_way
def test_close_leaves_no_connection(make: Maker, endpoint: Endpoint, way: str, stream: bool) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make()
    ask(generator, way, stream)
    generator.close()
    assert connections_to(port_of(endpoint)) == 0


@every_way
def test_an_open_generator_keeps_a_connection_for_the_next_question(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    """Else the other tests of this section would see nothing."""
    endpoint.script(Reply("5"))
    generator = make()

    async def asked() -> int:
        await ask_async(generator, stream)
        kept = connections_to(port_of(endpoint))
        await generator.close_async()
        return kept

    if way == "sync":
        ask(generator, stream=stream)
    assert (asyncio.run(asked()) if way == "async" else connections_to(port_of(endpoint))) == 1


def test_the_first_to_close_leaves_the_connections_to_the_others(
    make: Maker, endpoint: Endpoint, relay: Relay
) -> None:
    endpoint.script(Always(Reply("5")))
    first, second = make(api_base_url=relay.url), make(api_base_url=relay.url)
    ask(first)
    ask(second)
    first.close()
    ask(second)
    assert relay.connections == 1


def test_the_last_to_close_closes_the_connections(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    generators = [make() for _ in range(3)]
    for generator in generators:
        ask(generator)
    for generator in generators:
        generator.close()
    assert connections_to(port_of(endpoint)) == 0


def test_closing_one_generator_twice_does_not_take_the_connections_from_another(
    make: Maker, endpoint: Endpoint, relay: Relay
) -> None:
    endpoint.script(Always(Reply("5")))
    first, second = make(api_base_url=relay.url), make(api_base_url=relay.url)
    ask(first)
    ask(second)
    first.close()
    first.close()
    ask(second)
    assert relay.connections == 1


def test_the_last_to_close_on_a_loop_closes_its_connections(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    generators = [make() for _ in range(3)]

    async def all_of_them() -> list[int]:
        counts = []
        await asyncio.gather(*(ask_async(generator) for generator in generators))
        for generator in generators:
            await generator.close_async()
            counts.append(connections_to(port_of(endpoint)))
        return counts

    first, second, third = asyncio.run(all_of_them())
    assert first > 0
    assert second > 0
    assert third == 0


@every_way
@pytest.mark.parametrize(
    "fault", [Status(400), Status(503), Drop(), Raw(b"no JSON"), Reply("cut", cut_after=1)], ids=repr
)
def test_close_leaves_no_connection_after_a_fault(
    make: Maker, endpoint: Endpoint, fault: Item, way: str, stream: bool
) -> None:
    endpoint.script(fault)
    generator = make()
    with pytest.raises(EndpointError):
        ask(generator, way, stream)
    generator.close()
    assert connections_to(port_of(endpoint)) == 0


@pytest.mark.parametrize("way", ["sync", "async"])
def test_close_leaves_no_connection_after_a_callback_that_raised(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Reply("a long answer", pause=0.01))

    def show(chunk: StreamingChunk) -> None:
        raise LookupError("enough")

    async def show_async(chunk: StreamingChunk) -> None:
        show(chunk)

    async def asked(generator: MetaLlamaChatGenerator) -> None:
        try:
            await generator.run_async(QUESTION, show_async)
        finally:
            await generator.close_async()

    generator = make()
    with pytest.raises(LookupError):
        asyncio.run(asked(generator)) if way == "async" else generator.run(QUESTION, show)
    generator.close()
    assert connections_to(port_of(endpoint)) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_question_leaves_no_connection(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    endpoint.script(Reply("late", first_pause=2 * PATIENCE))
    generator = make()

    async def cancelled() -> int:
        task = asyncio.create_task(ask_async(generator, stream))
        await asyncio.to_thread(endpoint.wait_for_requests, 1, PATIENCE)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return connections_to(port_of(endpoint))

    assert asyncio.run(cancelled()) == 0


def test_a_forgotten_generator_leaves_no_connection(endpoint: Endpoint) -> None:
    endpoint.script(Reply("5"))
    settings = {"verify": False}
    generator = MetaLlamaChatGenerator(api_base_url=endpoint.url, model="m", http_client_kwargs=settings)
    ask(generator)
    del generator
    gc.collect()
    assert connections_to(port_of(endpoint)) == 0


# Event loops that end


@pytest.mark.parametrize("stream", [False, True])
def test_loops_that_end_without_close_leave_no_connection(
    make: Maker, endpoint: Endpoint, stream: bool
) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make()
    for _ in range(5):
        ask(generator, "async", stream, close=False)
    assert connections_to(port_of(endpoint)) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_loops_that_end_without_close_leave_nothing_that_python_warns_of(
    make: Maker, endpoint: Endpoint, stream: bool
) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make()
    gc.collect()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            ask(generator, "async", stream, close=False)
        generator.close()
        del generator
        gc.collect()
    assert [str(warning.message) for warning in told] == []


def test_loops_that_have_ended_are_forgotten(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make()
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def asked() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await ask_async(generator)

    for _ in range(3):
        asyncio.run(asked())
    generator.close()
    generator.async_client = None
    gc.collect()
    # The last one may be looked at when the generator is asked again.
    assert [loop() for loop in loops[:-1]] == [None, None]


def test_loops_of_a_paced_generator_are_forgotten(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    generator = make(rate_limit=RateLimit(concurrent=5))
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def asked() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await ask_async(generator)
        await generator.close_async()

    for _ in range(3):
        asyncio.run(asked())
    gc.collect()
    assert [loop() for loop in loops] == [None, None, None]


def test_one_generator_serves_the_loops_of_many_threads(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    generator, gate = make(), threading.Barrier(16)

    def work(_: int) -> list[str | None]:
        gate.wait(PATIENCE)
        with ExitStack() as loops:
            # They stay open until the thread's end: the more there are, the more is to be looked through.
            runners = [loops.enter_context(asyncio.Runner()) for _ in range(8)]
            return [runner.run(ask_async(generator)).text for runner in runners]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(work, range(16)))
    finally:
        sys.setswitchinterval(before)
    assert answers == [["5"] * 8] * 16


# Many at once


@pytest.mark.parametrize("stream", [False, True])
def test_300_threads_share_a_generator_and_leave_nothing(
    make: Maker, endpoint: Endpoint, stream: bool
) -> None:
    endpoint.script(Always(lambda request: Reply(f"echo {request.messages[0]['content']}")))
    generator, gate = make(retry=CROWD), threading.Barrier(300)
    known = set(threading.enumerate())
    answers: dict[int, str | None] = {}

    def work(number: int) -> None:
        gate.wait(PATIENCE)
        settings = {"generation_kwargs": {"stream": stream}}
        answers[number] = generator.run(f"q{number}", **settings)["replies"][0].text

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    generator.close()
    assert answers == {number: f"echo q{number}" for number in range(300)}
    assert connections_to(port_of(endpoint)) == 0
    left = [t for t in threading.enumerate() if t not in known and not t.name.startswith("endpoint")]
    for thread in left:
        thread.join(PATIENCE)  # a time limit that was called off takes a moment to go
    assert [thread for thread in left if thread.is_alive()] == []


@pytest.mark.parametrize("stream", [False, True])
def test_300_tasks_share_a_generator_and_leave_nothing(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    endpoint.script(Always(lambda request: Reply(f"echo {request.messages[0]['content']}")))
    generator = make(retry=CROWD)
    known = set(threading.enumerate())

    async def work(number: int) -> str | None:
        settings = {"generation_kwargs": {"stream": stream}}
        return (await generator.run_async(f"q{number}", **settings))["replies"][0].text

    async def many() -> tuple[list[str | None], int, int]:
        answers = await asyncio.gather(*(work(number) for number in range(300)))
        await generator.close_async()
        return answers, len(asyncio.all_tasks()) - 1, connections_to(port_of(endpoint))

    answers, tasks, connections = asyncio.run(many())
    assert answers == [f"echo q{number}" for number in range(300)]
    assert (tasks, connections) == (0, 0)
    left = [t for t in threading.enumerate() if t not in known and not t.name.startswith("endpoint")]
    assert left == []


def test_threads_that_ask_while_others_close_are_all_answered(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Always(Reply("5")))
    gate = threading.Barrier(16)

    def work(_: int) -> list[str | None]:
        gate.wait(PATIENCE)
        texts = []
        for _ in range(10):
            generator = make()
            texts.append(ask(generator).text)
            generator.close()
        return texts

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(work, range(16)))
    assert answers == [["5"] * 10] * 16
    assert connections_to(port_of(endpoint)) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_generator_closed_while_it_is_asked_answers_or_fails_with_an_error_of_ours(
    make: Maker, endpoint: Endpoint, stream: bool
) -> None:
    def closing(request: Request) -> Item:
        generator.close()
        return Reply("5")

    endpoint.script(Always(closing))
    generator = make(retry=RetryPolicy(max_retries=1, initial_wait=0.001, max_wait=0.002))
    with suppress(EndpointError):
        assert ask(generator, stream=stream).text == "5"


def test_a_generator_closed_while_it_is_asked_says_so(make: Maker, endpoint: Endpoint) -> None:
    def slow(request: Request) -> Item:
        generator.close()
        return Status(503)

    endpoint.script(slow)
    generator = make(retry=RetryPolicy(max_retries=3, initial_wait=0.001, max_wait=0.002))
    with pytest.raises(EndpointError) as caught:
        ask(generator)
    assert "closed" in str(caught.value)
    assert "Is the server running" not in str(caught.value)


def test_a_generator_is_asked_again_after_it_was_closed_by_another_thread(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(Reply("5"), Reply("6"))
    generator = make()
    ask(generator)
    closer = threading.Thread(target=generator.close)
    closer.start()
    closer.join()
    assert ask(generator).text == "6"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("whose", ["its own generator", "its parent's"])
def test_a_forked_process_has_connections_of_its_own(
    make: Maker, endpoint: Endpoint, relay: Relay, whose: str
) -> None:
    """Two processes that write to one connection read each other's replies."""
    endpoint.script(Always(Reply("5")))
    generator = make(api_base_url=relay.url)
    ask(generator)
    child = os.fork()
    if child == 0:
        failed = True
        with suppress(BaseException):
            used = make(api_base_url=relay.url) if whose == "its own generator" else generator
            failed = ask(used).text != "5"
        os._exit(failed)
    arrived = endpoint.wait_for_requests(2, PATIENCE)
    if not arrived:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert relay.connections == 2


# Proxies and certificates


@pytest.fixture
def proxied() -> Iterator[Endpoint]:
    """A server that is known behind a proxy only, and is asked for whole URLs there."""
    with Endpoint(base_path="http://model.test/v1") as running:
        yield running


@every_way
def test_a_proxy_is_used(make: Maker, proxied: Endpoint, way: str, stream: bool) -> None:
    proxied.script(Reply("5"))
    with Relay(port_of(proxied), proxy=True) as proxy:
        settings = {"verify": False, "proxy": f"http://127.0.0.1:{proxy.port}"}
        generator = make(api_base_url="http://model.test/v1", http_client_kwargs=settings)
        assert ask(generator, way, stream).text == "5"
        generator.close()
    assert proxy.heads[0].startswith(b"POST http://model.test/v1/chat/completions ")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_proxy_in_the_environment_is_used(
    make: Maker, proxied: Endpoint, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    proxied.script(Reply("5"))
    with Relay(port_of(proxied), proxy=True) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        generator = make(api_base_url="http://model.test/v1")
        assert ask(generator, way).text == "5"
        generator.close()
    assert proxy.connections == 1


def test_a_proxys_password_is_in_no_error(make: Maker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = {"verify": False, "proxy": f"http://ada:{KEY}@127.0.0.1:{port}"}
    with pytest.raises(EndpointError) as caught:
        ask(make(api_base_url="http://model.test/v1", http_client_kwargs=settings))
    assert_nowhere(KEY, caught.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def secure(endpoint: Endpoint, certificate: Path) -> Iterator[Relay]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    with Relay(port_of(endpoint), tls=tls) as running:
        yield running


@every_way
def test_a_certificate_that_is_made_known_is_trusted(
    make: Maker, endpoint: Endpoint, secure: Relay, certificate: Path, way: str, stream: bool
) -> None:
    endpoint.script(Reply("5"))
    known = ssl.create_default_context(cafile=certificate / "certificate.pem")
    generator = make(api_base_url=secure.url, http_client_kwargs={"verify": known})
    assert ask(generator, way, stream).text == "5"


def test_streams_over_tls_take_one_connection(
    make: Maker, endpoint: Endpoint, secure: Relay, certificate: Path
) -> None:
    endpoint.script(Always(Reply("5")))
    known = ssl.create_default_context(cafile=certificate / "certificate.pem")
    generator = make(api_base_url=secure.url, http_client_kwargs={"verify": known})
    for _ in range(3):
        ask(generator, stream=True)
    assert secure.connections == 1


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_certificate_that_is_not_known_is_refused_at_once_and_the_cure_is_named(
    make: Maker, secure: Relay, way: str
) -> None:
    generator = make(api_base_url=secure.url, max_retries=3, http_client_kwargs=None)
    with pytest.raises(EndpointError, match="certificate") as caught:
        ask(generator, way)
    assert "http_client_kwargs" in str(caught.value)
    assert secure.connections == 1


def test_a_generator_that_trusts_nobody_does_not_use_the_connections_of_one_that_trusts_all(
    make: Maker, endpoint: Endpoint, secure: Relay
) -> None:
    endpoint.script(Reply("5"))
    ask(make(api_base_url=secure.url, http_client_kwargs={"verify": False}))
    with pytest.raises(EndpointError, match="certificate"):
        ask(make(api_base_url=secure.url, http_client_kwargs=None))


def test_tls_through_a_proxy_works(make: Maker, endpoint: Endpoint, secure: Relay, certificate: Path) -> None:
    endpoint.script(Reply("5"))
    known = ssl.create_default_context(cafile=certificate / "certificate.pem")
    with Relay(0, proxy=True) as proxy:
        settings = {"verify": known, "proxy": f"http://127.0.0.1:{proxy.port}"}
        generator = make(api_base_url=secure.url, http_client_kwargs=settings)
        assert ask(generator).text == "5"
        generator.close()
    assert proxy.heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"uthorization: Bearer" not in proxy.heads[0]


def test_a_bound_of_connections_is_kept(make: Maker, endpoint: Endpoint, relay: Relay) -> None:
    endpoint.script(Always(Reply("5")))
    settings = {"verify": False, "limits": httpx2.Limits(max_connections=2)}
    generator = make(api_base_url=relay.url, http_client_kwargs=settings)
    with ThreadPoolExecutor(10) as threads:
        list(threads.map(lambda _: ask(generator), range(20)))
    assert relay.connections <= 2


def test_a_bound_of_connections_may_be_written_as_in_a_saved_file(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("5"))
    assert ask(make(http_client_kwargs={"verify": False, "limits": {"max_connections": 2}})).text == "5"


def test_a_setting_that_the_http_client_does_not_know_is_an_error_of_ours_that_names_it(
    make: Maker, endpoint: Endpoint
) -> None:
    with pytest.raises(LlamaAgentError, match="proxies"):
        ask(make(http_client_kwargs={"proxies": {}}))


# Keys


def assert_nowhere(secret: str, error: BaseException) -> None:
    """The secret is neither in an error, nor in what led to it, nor in the traceback."""
    pending, seen = [error], list[BaseException]()
    while pending:
        one = pending.pop()
        seen.append(one)
        assert secret not in str(one)
        assert secret not in repr(one)
        led = (one.__cause__, one.__context__)
        pending += [cause for cause in led if cause is not None and cause not in seen]
    assert secret not in str(vars(error))
    assert secret not in "".join(traceback.format_exception(error))


def said_in(records: list[logging.LogRecord]) -> str:
    shown = logging.Formatter("%(name)s %(message)s")
    return "\n".join(f"{shown.format(record)} {record.args!r} {vars(record)!r}" for record in records)


@every_way
@pytest.mark.parametrize(
    "fault",
    [
        Reply("5"),
        Status(401, {"error": f"bad key {KEY}"}),
        Status(503, f"<p>{KEY}</p>"),
        Status(200, {"error": {"message": f"Bearer {KEY}"}}),
        Status(307, "", {"Location": f"http://elsewhere.test/?key={KEY}"}),
        Drop(),
    ],
    ids=["fine", "401", "503", "in 200", "redirect", "reset"],
)
def test_the_key_is_in_no_log_and_no_error(
    make: Maker, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, fault: Item, way: str, stream: bool
) -> None:
    endpoint.script(fault)
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    with caplog.at_level(logging.DEBUG):
        for logger in loggers:
            caplog.set_level(logging.DEBUG, logger.name)
        try:
            ask(make(api_key=Secret.from_token(KEY)), way, stream)
        except EndpointError as error:
            assert_nowhere(KEY, error)
    if not isinstance(fault, Drop):
        assert caplog.records, "what the clients log is looked at"
    echoed = isinstance(fault, Status) and fault.code == 307  # httpcore logs what a server sends as headers
    said = said_in([r for r in caplog.records if not (echoed and r.name.startswith("httpcore"))])
    assert KEY not in said


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_password_in_the_base_url_is_in_no_log(
    make: Maker, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    endpoint.script(Reply("5"))
    with caplog.at_level(logging.DEBUG):
        for name in list(logging.root.manager.loggerDict):
            caplog.set_level(logging.DEBUG, name)
        ask(make(api_base_url=endpoint.url.replace("://", f"://ada:{KEY}@")), way)
    assert KEY not in said_in(caplog.records)


@pytest.mark.parametrize(
    "settings", [{"extra_headers": {"X-Api-Key": KEY}}, {"extra_query": {"api_key": KEY}}], ids=str
)
def test_a_key_in_extra_headers_or_in_the_query_is_in_no_log(
    make: Maker, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    endpoint.script(Reply("5"))
    with caplog.at_level(logging.DEBUG):
        for name in list(logging.root.manager.loggerDict):
            caplog.set_level(logging.DEBUG, name)
        make(generation_kwargs=settings).run(QUESTION)
    assert KEY not in said_in(caplog.records)


def test_the_key_is_not_in_the_generators_repr(make: Maker) -> None:
    generator = make(api_key=Secret.from_token(KEY))
    generator.warm_up()
    assert KEY not in repr(generator)
