"""
Whatever a server answers, a reply comes or a typed error, no warning, in time that grows as the answer does.

100,000 cases: `python -m tests.fuzzing 100000`.
"""

import gc
import json
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import httpx2
import pytest

from llama_agent import EndpointError, MetaLlamaChatGenerator
from tests.endpoint import Always, Endpoint, Raw
from tests.fuzzing import Asking, Case, Pieces, Streaming, Violation, case_of
from tests.hostile_answers import ORIGIN, Answer, Header

CASES, BLOCKS = 3000, 10
OVER_SOCKETS = range(1_000_000, 1_000_300)
JSON: Header = (b"Content-Type", b"application/json")
EVENTS: Header = (b"Content-Type", b"text/event-stream")
FIVE = json.dumps({"choices": [{"message": {"content": "five"}, "finish_reason": "stop"}]}).encode()
Way = Literal["sync", "async"]

both_ways = pytest.mark.parametrize("way", ["sync", "async"])
streamed_or_not = pytest.mark.parametrize("streaming", ["no", "asked for"])


def violations_in(asking: Asking, cases: Iterable[Case]) -> list[str]:
    found: list[str] = []
    for case in cases:
        try:
            asking.outcome_of(case)
        except Violation as violation:
            found.append(str(violation))
    return found


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_a_server_answers_a_reply_comes_or_a_typed_error(block: int) -> None:
    with Asking() as asking:
        assert violations_in(asking, map(case_of, range(block, CASES, BLOCKS))) == []


def test_so_it_is_over_real_sockets() -> None:
    with (
        Endpoint(strict=False, routes={("GET", "/v1/models"): lambda _: said()}) as endpoint,
        Asking(api_base_url=endpoint.url, http_client_kwargs={"verify": False}, timeout=10) as asking,
    ):

        def said() -> Raw:
            answer = asking.next_answer()
            kinds = [value for name, value in answer.headers if name.lower() == b"content-type"]
            # A status below 200 announces another answer, which never comes.
            status = max(answer.status, 200)
            pieces = answer.pieces[0] if len(answer.pieces) == 1 else answer.pieces
            return Raw(pieces, kinds[0].decode() if kinds else "", status)

        endpoint.script(Always(lambda _: said()))
        assert violations_in(asking, map(case_of, OVER_SOCKETS)) == []


def test_a_case_is_made_of_its_seed_alone() -> None:
    assert [case_of(seed) for seed in range(50)] == [case_of(seed) for seed in range(50)]


def test_the_cases_are_of_all_kinds() -> None:
    with Asking() as asking:
        outcomes = {outcome_or_violation(asking, case_of(seed)) for seed in range(500)}
    assert outcomes > {
        "reply",
        "reply with calls",
        "EndpointError, no status, may pass",
        "EndpointError, no status, lasts",
        "EndpointError, 3xx, lasts",
        "EndpointError, 4xx, lasts",
        "EndpointError, 4xx, may pass",
        "EndpointError, 5xx, may pass",
    }


def outcome_or_violation(asking: Asking, case: Case) -> str:
    try:
        return asking.outcome_of(case)
    except Violation:
        return "violation"


# What the cases found, each in its smallest form


def outcome_of(
    *answers: Answer, way: Way = "sync", streaming: Streaming = "no", goes_on: bool = False, **others: Any
) -> str:
    with Asking() as asking:
        return asking.outcome_of(
            Case(seed=-1, way=way, streaming=streaming, answers=answers, goes_on=goes_on, **others)
        )


@both_ways
@streamed_or_not
@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_body_that_isnt_packed_as_announced(way: Way, streaming: Streaming, status: int) -> None:
    answer = Answer(status, (JSON, (b"Content-Encoding", b"gzip")), (FIVE,))
    assert outcome_of(answer, way=way, streaming=streaming).startswith("EndpointError")


@both_ways
def test_an_event_stream_that_isnt_packed_as_announced(way: Way) -> None:
    answer = Answer(200, (EVENTS, (b"Content-Encoding", b"gzip")), (b"data: {}\n\n", b"data: [DONE]\n\n"))
    assert outcome_of(answer, way=way, streaming="watched").startswith("EndpointError")


@pytest.mark.parametrize(
    "location",
    [
        "http://[",
        "//[",
        "http://a\u2100b/",
        "http://127.0.0.1:99999/v1",
        "http://127.0.0.1:1a/v1",
        "http://127.0.0.1:-1/",
        "/\x01",
        "/\x00",
        "/\x7f",
        "/" + "a" * 70_000,
    ],
    ids=lambda location: location[:20].encode("unicode_escape").decode(),
)
@both_ways
def test_a_redirect_to_something_that_is_no_url(location: str, way: Way) -> None:
    answer = Answer(307, (JSON, (b"Location", location.encode())), (b"{}",))
    assert outcome_of(answer, way=way).startswith("EndpointError")


@pytest.mark.parametrize(
    "charset",
    ["hex", "base64", "zlib", "bz2", "uu", "quopri", "rot13", "undefined", "idna", "punycode", "utf-16",
     "utf-32", "unicode_escape", "raw_unicode_escape", "utf-8\0", "mbcs", "\u00fc", "x" * 1000],
    ids=lambda charset: charset[:20].encode("unicode_escape").decode(),
)  # fmt: skip
@both_ways
def test_an_error_in_a_charset_that_it_isnt_in(charset: str, way: Way) -> None:
    headers = ((b"Content-Type", f"application/json; charset={charset}".encode()),)
    answer = Answer(400, headers, (b'{"error": {"message": "no \\x \xff"}}',))
    assert outcome_of(answer, way=way) == "EndpointError, 4xx, lasts"


@pytest.mark.parametrize(
    "wait",
    [
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
        "Wed, 21 Oct 2035 07:28:00 -99999999999",
        "Wed, 21 Oct 2035 07:28:00 +99999999999999999999999",
        "Wed, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "1e400",
        "nan",
        "-inf",
        "\u0661\u0662",
    ],
)
@pytest.mark.parametrize("header", ["Retry-After", "Retry-After-Ms", "x-ratelimit-reset-requests"])
def test_a_wait_that_is_none(header: str, wait: str) -> None:
    answer = Answer(429, (JSON, (header.encode(), wait.encode())), (b"{}",))
    assert outcome_of(answer) == "EndpointError, 4xx, may pass"


@pytest.mark.parametrize("cookie", ["a=\u00fc", "\u00fc=b", "a=b; Domain=.; Path=\u00fc", "a=\x01"])
@both_ways
def test_a_cookie_that_cant_be_sent_back(way: Way, cookie: str) -> None:
    answer = Answer(200, (JSON, (b"Set-Cookie", cookie.encode())), (FIVE,))
    assert outcome_of(answer, way=way, goes_on=True) == "reply"


@pytest.mark.parametrize("code", [True, -1, 0, 10**30, 1000])
def test_a_code_that_is_no_status_isnt_told_as_one(code: object) -> None:
    body = json.dumps({"error": {"message": "no", "code": code}}).encode()
    assert outcome_of(Answer(200, (JSON,), (body,))).startswith("EndpointError, no status")


# Time


QUADRATIC = 24
"""Of 8 and 64: how much longer an answer of eight times the size takes in linear and in quadratic time."""


def events(*payloads: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(payload).encode() + b"\n\n" for payload in payloads)


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def call(name: str | None = None, arguments: str = "", **given: Any) -> dict[str, Any]:
    return {**given, "function": {"arguments": arguments, **({} if name is None else {"name": name})}}


def streamed(body: bytes, piece_size: int = 65_536) -> Answer:
    whole = body + events(chunk("stop")) + b"data: [DONE]\n\n"
    pieces = tuple(whole[start : start + piece_size] for start in range(0, len(whole), piece_size))
    return Answer(200, (EVENTS,), pieces)


def calls_streamed(*deltas: list[dict[str, Any]]) -> Answer:
    return streamed(events(*(chunk(tool_calls=delta) for delta in deltas)))


def refused(body: bytes, *headers: Header) -> Answer:
    return Answer(429, (JSON, *headers), (body,))


SHAPES: dict[str, tuple[int, Callable[[int], Answer]]] = {
    "one huge line": (400_000, lambda n: streamed(events(chunk(content="x" * n)), 4096)),
    "a line byte by byte": (8_000, lambda n: streamed(events(chunk(content="x" * n)), 1)),
    "a stream byte by byte": (300, lambda n: streamed(events(chunk(content="x")) * n, 1)),
    "a whole reply byte by byte": (
        30_000,
        lambda n: Answer(200, (JSON,), tuple(bytes([b]) for b in FIVE.replace(b"five", b"x" * n))),
    ),
    "carriage returns byte by byte": (20_000, lambda n: streamed(b"\r" * n, 1)),
    "tiny events": (2_000, lambda n: streamed(events(chunk(content="x")) * n)),
    "tiny thoughts": (2_000, lambda n: streamed(events(chunk(reasoning_content="x")) * n)),
    "empty lines": (200_000, lambda n: streamed(b"\n" * n)),
    "comments": (100_000, lambda n: streamed(b": ping\n\n" * n)),
    "an event of many lines": (100_000, lambda n: streamed(b"data: \n" * n + b"\n")),
    "tiny deltas of one call": (
        2_000,
        lambda n: calls_streamed([call("f", index=0, id="a")], *[[call(None, "x", index=0)]] * n),
    ),
    "tiny deltas of one call without index": (
        2_000,
        lambda n: calls_streamed([call("f", id="a")], *[[call(None, "x")]] * n),
    ),
    "tiny deltas that repeat the name": (4_000, lambda n: calls_streamed(*[[call("f", "x", index=0)]] * n)),
    "tiny deltas that repeat the name and may be complete": (
        4_000,
        lambda n: calls_streamed([call("f", '{"a": "', index=0)], *[[call("f", "}", index=0)]] * n),
    ),
    "tiny deltas that repeat id and name": (
        2_000,
        lambda n: calls_streamed(*[[call("f", "x", index=0, id="a")]] * n),
    ),
    "many calls with an index": (
        1_000,
        lambda n: calls_streamed(*([call("f", "{}", index=i, id=f"c{i}")] for i in range(n))),
    ),
    "many calls without an index": (
        1_000,
        lambda n: calls_streamed(*([call("f", "{}", id=f"c{i}")] for i in range(n))),
    ),
    "many calls without index and id": (1_000, lambda n: calls_streamed(*[[call("f", "{}")]] * n)),
    "many calls of one id": (
        1_000,
        lambda n: calls_streamed(*([call(f"f{i % 2}", "{}", id="a")] for i in range(n))),
    ),
    "many calls in one delta": (
        1_000,
        lambda n: calls_streamed([call("f", "{}", id=f"c{i}") for i in range(n)]),
    ),
    "deep nesting": (1_000_000, lambda n: Answer(200, (JSON,), (b"[" * n,))),
    "deep nesting in an error": (200_000, lambda n: refused(b"[" * n)),
    "a huge error text": (100_000, lambda n: refused(json.dumps({"error": {"message": "a b" * n}}).encode())),
    "a huge list of errors": (10_000, lambda n: refused(json.dumps({"detail": [{"loc": [1]}] * n}).encode())),
    "an error of schemes without credentials": (20_000, lambda n: refused(b"bearer " * n)),
    "an error of a scheme and blanks": (200_000, lambda n: refused(b"bearer" + b" " * n)),
    "an error of URLs": (40_000, lambda n: refused(b"://a:" * n)),
    "an error of digits": (500_000, lambda n: refused(b"1" * n)),
    "a huge Retry-After": (2_000_000, lambda n: refused(b"{}", (b"Retry-After", b"a " * n))),
    "a huge reset time": (1_000_000, lambda n: refused(b"{}", (b"x-ratelimit-reset-a", b"1d1h1m1s" * n))),
    "many headers": (16_000, lambda n: refused(b"{}", *((b"x-a%d" % i, b"v") for i in range(n)))),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_times_the_answer_takes_about_eight_times_as_long(shape: str) -> None:
    size, made = SHAPES[shape]
    small, large = made(size), made(8 * size)
    # A busy machine makes some measurements longer, and none shorter.
    shortest = min(cpu_seconds(small) for _ in range(4))
    ratio = cpu_seconds(large) / shortest
    if ratio >= QUADRATIC:
        ratio = min(ratio, cpu_seconds(large) / shortest)
    assert ratio < QUADRATIC


def cpu_seconds(answer: Answer) -> float:
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(answer.status, headers=list(answer.headers), stream=Pieces(answer))
    )
    generator = MetaLlamaChatGenerator(
        api_base_url=f"{ORIGIN}/v1", model="m", max_retries=0, http_client_kwargs={"transport": transport}
    )
    generator.warm_up()
    gc.collect()
    gc.disable()
    began = time.process_time()
    try:
        generator.run("2+3?", generation_kwargs={"stream": answer.headers[0] == EVENTS})
    except EndpointError:
        pass
    finally:
        taken = time.process_time() - began
        gc.enable()
        generator.close()
    return taken
