"""The endpoint: what was scripted and what arrived (`Endpoint`), above sockets and threads (`_Listener`)."""

import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException, parse_headers
from threading import Condition, Event, Lock, Thread
from time import monotonic
from types import TracebackType
from typing import BinaryIO

from tests.endpoint.script import (
    CREATED,
    Always,
    Drop,
    Item,
    Maker,
    Numbers,
    Raw,
    Reply,
    Request,
    Status,
    Wire,
    render,
)

JOIN_TIMEOUT = 5.0
"""Seconds that closing waits for a thread. Only a script's function that blocks can use them up."""


class Endpoint:
    """
    An OpenAI-compatible model endpoint that answers POST {base_path}/chat/completions by script.

    Use it in a `with` block. Leaving the block closes every connection, joins every thread and, unless the
    block raised, raises `AssertionError` when a function of the script failed or, if `strict`, when a request
    found the script used up or when items are left over.

    :param models: What GET {base_path}/models lists.
    :param base_path: The path that `url` ends in.
    :param routes: Answers to other requests, by method and whole path ("/x", without a query). They are not
        used up. They may replace the list of models, but not the chat completions. Anything else gets a 404.
    :param strict: Whether unexpected requests and items left over are errors.
    """

    def __init__(
        self,
        models: Sequence[str] = ("test-model",),
        *,
        base_path: str = "/v1",
        routes: Mapping[tuple[str, str], Item | Maker] | None = None,
        strict: bool = True,
    ) -> None:
        """Nothing is opened before the `with` block is entered."""
        self._base_path = base_path
        self._chat = ("POST", f"{base_path}/chat/completions")
        self._routes = {("GET", f"{base_path}/models"): _model_list(models), **(routes or {})}
        self._strict = strict
        self._listener: _Listener | None = None
        # It guards all that follows, and is notified when a request arrives and when a client leaves.
        self._changed = Condition()
        self._numbers = Numbers()
        self._script: deque[Item | Maker | Always] = deque()
        self._all_requests: list[Request] = []
        self._requests: list[Request] = []
        self._unexpected: list[str] = []
        self._failures: list[BaseException] = []
        self._disconnects = 0

    def __enter__(self) -> "Endpoint":
        """Listen on a free port of 127.0.0.1."""
        self._listener = _Listener(answer=self._answer, client_left=self._count_disconnect)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, then judge the script, unless the block has already failed for a reason of its own."""
        stuck = self._open_listener().close()
        if error is None:
            self._judge(stuck)

    @property
    def url(self) -> str:
        """The base URL for a client, such as "http://127.0.0.1:49152/v1"."""
        return f"http://127.0.0.1:{self._open_listener().port}{self._base_path}"

    def script(self, *items: Item | Maker | Always) -> None:
        """
        Append answers. Each is for one POST to the chat completions, in order of arrival.

        :raises ValueError: When an item follows an `Always`, since no request could reach it.
        """
        with self._changed:
            for item in items:
                if self._script and isinstance(self._script[-1], Always):
                    raise ValueError(f"{item!r} would never be used: put it before {self._script[-1]!r}")
                self._script.append(item)

    @property
    def requests(self) -> list[Request]:
        """The POSTs to the chat completions so far, in order of arrival. The list is a copy."""
        with self._changed:
            return list(self._requests)

    @property
    def all_requests(self) -> list[Request]:
        """Every request so far, in order of arrival. The list is a copy."""
        with self._changed:
            return list(self._all_requests)

    @property
    def disconnects(self) -> int:
        """
        How often a client closed its connection before its reply was written in full, pauses included.

        A client that has only shut down its sending side counts too: the two look alike from here.
        """
        with self._changed:
            return self._disconnects

    def wait_for_disconnect(self, timeout: float) -> bool:
        """
        Wait until `disconnects` is at least 1.

        :param timeout: In seconds.
        :returns: False when the time ran out.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._disconnects > 0, timeout)

    def wait_for_requests(self, n: int, timeout: float) -> bool:
        """
        Wait until `requests` holds at least `n`.

        :param timeout: In seconds.
        :returns: False when the time ran out.
        """
        with self._changed:
            return self._changed.wait_for(lambda: len(self._requests) >= n, timeout)

    def _open_listener(self) -> "_Listener":
        if self._listener is None:
            raise RuntimeError("the endpoint is not running: use it as `with Endpoint() as endpoint:`")
        return self._listener

    def _answer(self, request: Request) -> Wire:
        item = self._item_for(request)
        try:
            # Outside the lock: a script's function may block, or look at `requests`.
            made = item if isinstance(item, Reply | Status | Drop | Raw) else item(request)
            with self._changed:
                return render(made, request, self._numbers)
        except BaseException as error:  # not Exception: pytest.fail() and pytest.skip() raise past it
            with self._changed:
                self._failures.append(error)
                return render(_refusal(500, f"the script failed: {error!r}"), request, self._numbers)

    def _item_for(self, request: Request) -> Item | Maker:
        route = (request.method, request.path.partition("?")[0])
        with self._changed:
            self._all_requests.append(request)
            if route != self._chat:
                return self._routes.get(route) or _refusal(404, f"no {request.method} {request.path} here")
            self._requests.append(request)
            self._changed.notify_all()
            return self._next_scripted(request)

    def _next_scripted(self, request: Request) -> Item | Maker:
        if not self._script:
            number, end = len(self._requests), request.body[-200:]
            self._unexpected.append(f"the script was used up at request {number}, whose body ends in {end!r}")
            return _refusal(500, "the endpoint's script is used up")
        item = self._script[0]
        if isinstance(item, Always):
            return item.item
        self._script.popleft()
        return item

    def _count_disconnect(self) -> None:
        with self._changed:
            self._disconnects += 1
            self._changed.notify_all()

    def _judge(self, stuck: int) -> None:
        complaints = [f"the script failed: {error!r}" for error in self._failures]
        if stuck:
            complaints.append(f"{stuck} threads still run {JOIN_TIMEOUT} s after closing: a function blocks")
        if self._strict:
            complaints += self._unexpected
            complaints += [f"left over: {item!r}" for item in self._script if not isinstance(item, Always)]
        if complaints:
            raise AssertionError("\n".join(complaints)) from next(iter(self._failures), None)


class _Listener:
    """
    Accepts connections and serves each in a thread of its own, until closed.

    :param answer: Called in that thread, once for each request.
    :param client_left: Called when a client went away before its answer was written in full.
    """

    def __init__(self, *, answer: Callable[[Request], Wire], client_left: Callable[[], None]) -> None:
        self._answer = answer
        self._client_left = client_left
        self._closing = Event()
        self._lock = Lock()
        self._live: set[socket.socket] = set()
        self._threads: list[Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self._acceptor = Thread(target=self._accept, name="endpoint-accept", daemon=True)
        self._acceptor.start()

    def close(self) -> int:
        """
        Stop listening, shut every connection down and join the threads.

        :returns: How many threads would not end.
        """
        self._closing.set()
        # Closing a listening socket does not wake accept() on every system; a connection does.
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._acceptor.join()
        self._socket.close()
        with self._lock:
            for connection in self._live:
                with suppress(OSError):  # the client may have reset it
                    connection.shutdown(socket.SHUT_RDWR)
        deadline = monotonic() + JOIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            if self._closing.is_set():
                connection.close()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._live.add(connection)
            thread = Thread(target=self._serve, args=(connection,), name="endpoint-connection", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            try:
                self._converse(connection, stream)
            finally:
                # Out of `_live` first, lest close() shuts down a descriptor that has been given to another.
                with self._lock:
                    self._live.discard(connection)
                connection.close()

    def _converse(self, connection: socket.socket, stream: BinaryIO) -> None:
        while (request := _read_request(stream)) is not None:
            wire = self._answer(request)
            try:
                self._write(connection, wire)
            except OSError:
                if not self._closing.is_set():
                    self._client_left()
                return
            if wire.ending == "reset":
                # Linger on, for no time: close() then drops the connection with an RST.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if wire.ending != "keep" or request.headers.get("connection", "").lower() == "close":
                return

    def _write(self, connection: socket.socket, wire: Wire) -> None:
        for number, piece in enumerate(wire.pieces):
            self._pause(connection, wire.pause if number else wire.first_pause)
            connection.sendall(piece)

    def _pause(self, connection: socket.socket, seconds: float) -> None:
        """
        Wait, and raise `OSError` as soon as the connection ends, by the client or by `close`.

        A wait of 0 seconds only looks: without it, the first write after a client has gone would succeed.
        """
        end = monotonic() + seconds
        connection.settimeout(seconds)
        try:
            if not connection.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError("the connection was closed in the middle of a reply")
        except (TimeoutError, BlockingIOError):
            return
        finally:
            connection.settimeout(None)
        self._closing.wait(end - monotonic())  # the client has sent its next request already


def _read_request(stream: BinaryIO) -> Request | None:
    """Read the next request of a connection; None when the client closed it or does not speak HTTP."""
    try:
        words = stream.readline(65537).decode("latin-1").split()
        if len(words) != 3:
            return None
        received = parse_headers(stream)
        headers = {name.lower(): ", ".join(received.get_all(name, [])) for name in received}
        body = _read_body(stream, headers)
    except (OSError, HTTPException, ValueError):
        return None
    return None if body is None else Request(method=words[0], path=words[1], headers=headers, body=body)


def _read_body(stream: BinaryIO, headers: Mapping[str, str]) -> bytes | None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _read_chunks(stream)
    size = int(headers.get("content-length", "0"))
    body = stream.read(size)
    return body if len(body) == size else None


def _read_chunks(stream: BinaryIO) -> bytes | None:
    body = bytearray()
    while size := int(stream.readline().partition(b";")[0] or b"0", 16):
        body += stream.read(size)
        stream.readline()
    return bytes(body) if stream.readline() == b"\r\n" else None


def _model_list(models: Sequence[str]) -> Status:
    listed = [{"id": name, "object": "model", "created": CREATED, "owned_by": "test"} for name in models]
    return Status(200, {"object": "list", "data": listed})


def _refusal(code: int, message: str) -> Status:
    kind = "server_error" if code >= 500 else "invalid_request_error"
    return Status(code, {"error": {"message": message, "type": kind}})
