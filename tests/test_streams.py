"""Server-sent events become one reply: however cut, and however irregular the server's deltas are."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage, StreamingChunk
from hypothesis import given
from hypothesis import strategies as st

from llama_agent import EndpointError, MetaLlamaChatGenerator
from llama_agent.model.streams import EventDecoder, Reply, ReplyAssembler
from tests.endpoint import Endpoint, Raw

PLAIN_HTTP = {"verify": False}
"""No certificates are loaded for each client: that would take most of these tests' time."""
QUESTION = [ChatMessage.from_user("2+3?")]
Json = dict[str, Any]
Call = tuple[str, dict[str, Any]]


@pytest.fixture
def generator(endpoint: Endpoint) -> Iterator[MetaLlamaChatGenerator]:
    made = MetaLlamaChatGenerator(
        api_base_url=endpoint.url, model="m", max_retries=0, http_client_kwargs=PLAIN_HTTP
    )
    yield made
    made.close()


def ask(
    generator: MetaLlamaChatGenerator,
    *,
    way: str = "sync",
    callback: Callable[[StreamingChunk], None] | None = None,
) -> ChatMessage:
    settings: Json = {"generation_kwargs": {"stream": True}, "streaming_callback": callback}

    async def asked() -> ChatMessage:
        try:
            return (await generator.run_async(QUESTION, **settings))["replies"][0]
        finally:
            await generator.close_async()

    return asyncio.run(asked()) if way == "async" else generator.run(QUESTION, **settings)["replies"][0]


def sse(*payloads: Json | str, end: str = "\n\n") -> bytes:
    texts = (payload if isinstance(payload, str) else json.dumps(payload) for payload in payloads)
    return "".join(f"data: {text}{end}" for text in texts).encode()


def chunk(finish_reason: str | None = None, **delta: Any) -> Json:
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def piece(
    name: str | None = None, arguments: Any = None, *, index: int | None = None, id: str | None = None
) -> Json:
    """A piece of a call with only those fields that are given."""
    function = {k: v for k, v in {"name": name, "arguments": arguments}.items() if v is not None}
    call = {k: v for k, v in {"index": index, "id": id}.items() if v is not None}
    return chunk(tool_calls=[{**call, "function": function}])


def script(endpoint: Endpoint, *payloads: Json | str) -> None:
    endpoint.script(Raw([sse(payload) for payload in payloads], "text/event-stream"))


def calls_of(message: ChatMessage) -> list[Call]:
    return [(call.tool_name, call.arguments) for call in message.tool_calls]


def decoded(pieces: Sequence[bytes]) -> list[bytes]:
    decoder = EventDecoder()
    events = [event for part in pieces for event in decoder.feed(part)]
    return [*events, *decoder.end()]


def assembled(pieces: Sequence[bytes]) -> Reply:
    assembler = ReplyAssembler()
    for payload in decoded(pieces):
        assembler.feed(payload)
    return assembler.finish()


both_ways = pytest.mark.parametrize("way", ["sync", "async"])


# Bytes to events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a \n\n", [b" a "]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\n\r\ndata: b\r\n\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": keep-alive\n\ndata: a\n\n: bye\n\n", [b"a"]),
        (b"data: a\n: in between\ndata: b\n\n", [b"a\nb"]),
        (b"event: message\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"event: ping\n\ndata: a\n\n", [b"a"]),
        (b"\n\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b"data: a", [b"a"]),
        (b"data: a\n", [b"a"]),
        (b"data: a\n\ndata: b\n", [b"a", b"b"]),
        (b"data\n\ndata: a\n\n", [b"a"]),
        (b"data:\n\ndata: a\n\n", [b"a"]),
        (b"data: \n\ndata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"database: x\nDATA: x\n data: x\n\ndata: a\n\n", [b"a"]),
        ("data: größer\u2028\x85x\n\n".encode(), ["größer\u2028\x85x".encode()]),
        (b"", []),
        (b"\n", []),
        (b": only a comment", []),
    ],
)
def test_bytes_are_read_as_the_standard_says_and_an_unfinished_last_event_is_given(
    stream: bytes, events: list[bytes]
) -> None:
    assert decoded([stream]) == events
    assert decoded([stream[i : i + 1] for i in range(len(stream))]) == events


def test_an_event_is_given_as_soon_as_its_blank_line_has_come() -> None:
    decoder = EventDecoder()
    assert list(decoder.feed(b"data: a\n")) == []
    assert list(decoder.feed(b"\n")) == [b"a"]


# The same stream, cut anywhere


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ARGUMENTS = st.dictionaries(
    TEXTS, st.one_of(TEXTS, st.integers(-99, 99), st.none(), st.booleans()), max_size=3
)


@st.composite
def replies(draw: st.DrawFn) -> tuple[list[Json], Json]:
    """Chunks in OpenAI's form, and what they say together."""
    texts = draw(st.lists(TEXTS, max_size=4))
    thoughts = draw(st.lists(TEXTS, max_size=2))
    calls = draw(st.lists(st.tuples(st.sampled_from(["add", "größe", "look_up"]), ARGUMENTS), max_size=3))
    usage = draw(
        st.one_of(st.none(), st.just({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}))
    )
    chunks = [chunk(role="assistant", content="")]
    chunks += [chunk(reasoning_content=text) for text in thoughts]
    chunks += [chunk(content=text) for text in texts]
    for index, (name, arguments) in enumerate(calls):
        written = json.dumps(arguments, ensure_ascii=draw(st.booleans()))
        cut = draw(st.integers(0, len(written)))
        chunks.append(piece(name, "", index=index, id=f"c{index}"))
        chunks += [piece(arguments=part, index=index) for part in (written[:cut], written[cut:])]
    reason = "tool_calls" if calls else "stop"
    chunks.append(chunk(reason))
    if usage:
        chunks.append({"choices": [], "usage": usage})
    said = {
        "text": "".join(texts) or None,
        "reasoning": "".join(thoughts) or None,
        "calls": calls,
        "finish_reason": reason,
        "usage": usage or {},
    }
    return chunks, said


@st.composite
def written_streams(draw: st.DrawFn) -> tuple[bytes, Json]:
    chunks, said = draw(replies())
    line_end = draw(st.sampled_from(["\n", "\r\n"]))
    noise = st.sampled_from(["", f": keep-alive{line_end}{line_end}", f"event: chunk{line_end}", line_end])
    ascii_only, blank = draw(st.booleans()), draw(st.sampled_from(["", " "]))
    lines = [
        f"{draw(noise)}data:{blank}{json.dumps(item, ensure_ascii=ascii_only)}{line_end}{line_end}"
        for item in chunks
    ]
    done = draw(st.sampled_from(["", f"data: [DONE]{line_end}{line_end}", "data: [DONE]"]))
    return ("".join(lines) + done).encode(), said


def _as_said(reply: Reply) -> Json:
    return {
        "text": reply.text,
        "reasoning": reply.reasoning,
        "calls": [(call.name, json.loads(str(call.arguments))) for call in reply.calls],
        "finish_reason": reply.finish_reason,
        "usage": reply.usage,
    }


@given(written_streams(), st.data())
def test_the_same_stream_cut_at_any_byte_gives_the_same_reply(
    stream: tuple[bytes, Json], data: st.DataObject
) -> None:
    body, said = stream
    cut = data.draw(st.integers(0, len(body)))
    assert _as_said(assembled([body[:cut], body[cut:]])) == said


@given(written_streams())
def test_the_same_stream_byte_by_byte_gives_the_same_reply(stream: tuple[bytes, Json]) -> None:
    body, said = stream
    assert _as_said(assembled([body[i : i + 1] for i in range(len(body))])) == said


@given(replies())
def test_the_deltas_together_are_the_reply(reply: tuple[list[Json], Json]) -> None:
    chunks, said = reply
    assembler = ReplyAssembler()
    deltas = [assembler.add(item) for item in chunks]
    assembler.finish()
    assert "".join(delta.text for delta in deltas) == (said["text"] or "")
    assert "".join(delta.reasoning for delta in deltas) == (said["reasoning"] or "")
    arguments = ["" for _ in said["calls"]]
    for delta in deltas:
        for call in delta.calls:
            arguments[call.position] += call.arguments
    assert [json.loads(text) for text in arguments] == [
        given_arguments for _, given_arguments in said["calls"]
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@both_ways
def test_a_stream_in_pieces_of_any_size_over_http_is_the_same_reply(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, size: int, way: str
) -> None:
    body = sse(
        chunk(role="assistant", content=""),
        chunk(content="größer 🦙"),
        piece("add", "", index=0, id="a"),
        piece(arguments='{"where": "Zür', index=0),
        piece(arguments='ich"}', index=0),
        chunk("tool_calls"),
        {"choices": [], "usage": {"total_tokens": 7}},
        "[DONE]",
        end="\r\n\r\n",
    )
    endpoint.script(Raw([body[i : i + size] for i in range(0, len(body), size)], "text/event-stream"))
    reply = ask(generator, way=way)
    assert (reply.text, calls_of(reply)) == ("größer 🦙", [("add", {"where": "Zürich"})])
    assert reply.meta["usage"] == {"total_tokens": 7}


# Irregular deltas: each row is a defect that a server has


A, B = {"a": 1}, {"b": 2}
JA, JB = json.dumps(A), json.dumps(B)

IRREGULAR: dict[str, tuple[list[Json], list[Call]]] = {
    "regular": (
        [piece("f", "", index=0, id="x"), piece(arguments='{"a"', index=0), piece(arguments=": 1}", index=0)],
        [("f", A)],
    ),
    "two calls, their pieces interleaved": (
        [
            piece("f", '{"a"', index=0, id="x"),
            piece("g", '{"b"', index=1, id="y"),
            piece(arguments=": 1}", index=0),
            piece(arguments=": 2}", index=1),
        ],
        [("f", A), ("g", B)],
    ),
    "two calls in one delta": (
        [
            chunk(
                tool_calls=[
                    {"index": 0, "id": "x", "function": {"name": "f", "arguments": JA}},
                    {"index": 1, "id": "y", "function": {"name": "g", "arguments": JB}},
                ]
            )
        ],
        [("f", A), ("g", B)],
    ),
    "indices that begin at 1 and leave some out": (
        [piece("f", JA, index=1, id="x"), piece("g", JB, index=5, id="y")],
        [("f", A), ("g", B)],
    ),
    "no index, new ids (ollama#7881)": (
        [piece("f", JA, id="x"), piece("g", JB, id="y")],
        [("f", A), ("g", B)],
    ),
    "no index, no id, in pieces": (
        [piece("f", '{"a"'), piece(arguments=": 1}"), piece("g", '{"b"'), piece(arguments=": 2}")],
        [("f", A), ("g", B)],
    ),
    "no index, no id, the same tool twice": (
        [piece("f", JA), piece("f", JB)],
        [("f", A), ("f", B)],
    ),
    "no index, no id, both in one delta": (
        [
            chunk(
                tool_calls=[
                    {"function": {"name": "f", "arguments": JA}},
                    {"function": {"name": "g", "arguments": JB}},
                ]
            )
        ],
        [("f", A), ("g", B)],
    ),
    "no index, no id, tools without parameters": (
        [piece("f", ""), piece("g", "")],
        [("f", {}), ("g", {})],
    ),
    "no index, a known id comes back": (
        [piece("f", '{"a"', id="x"), piece("g", JB, id="y"), piece(arguments=": 1}", id="x")],
        [("f", A), ("g", B)],
    ),
    "index 0 for all, new ids (ollama#15457)": (
        [piece("f", JA, index=0, id="x"), piece("g", JB, index=0, id="y")],
        [("f", A), ("g", B)],
    ),
    "index 0 for all, new ids, the same tool in pieces": (
        [
            piece("f", "", index=0, id="x"),
            piece(arguments=JA, index=0),
            piece("f", "", index=0, id="y"),
            piece(arguments=JB, index=0),
        ],
        [("f", A), ("f", B)],
    ),
    "index 0 for all, no id": (
        [piece("f", JA, index=0), piece("g", JB, index=0)],
        [("f", A), ("g", B)],
    ),
    "index 0 for all, no id, tools without parameters": (
        [piece("f", index=0), piece("g", index=0)],
        [("f", {}), ("g", {})],
    ),
    "id and name in each delta (hermes-agent#11984)": (
        [
            piece("f", '{"a"', index=0, id="x"),
            piece("f", ": 1", index=0, id="x"),
            piece("f", "}", index=0, id="x"),
        ],
        [("f", A)],
    ),
    "id and name in each delta, also after the last brace": (
        [piece("f", JA, index=0, id="x"), piece("f", "", index=0, id="x")],
        [("f", A)],
    ),
    "the name in each delta, no id": (
        [piece("f", '{"a"', index=0), piece("f", ": 1}", index=0)],
        [("f", A)],
    ),
    "the name only in a later delta": (
        [piece(arguments="", index=0, id="x"), piece("f", '{"a"', index=0), piece(arguments=": 1}", index=0)],
        [("f", A)],
    ),
    "the id only in a later delta": (
        [piece("f", '{"a"', index=0), piece(arguments=": 1}", index=0, id="x")],
        [("f", A)],
    ),
    "an empty id and name in later deltas": (
        [piece("f", '{"a"', index=0, id="x"), piece("", ": 1}", index=0, id="")],
        [("f", A)],
    ),
    "arguments as an object": (
        [piece("f", A, index=0, id="x")],
        [("f", A)],
    ),
    "arguments as objects, two calls, no index, no ids": (
        [piece("f", A), piece("g", B)],
        [("f", A), ("g", B)],
    ),
    "arguments as objects, the same tool twice, index 0 for all": (
        [piece("f", A, index=0), piece("f", B, index=0)],
        [("f", A), ("f", B)],
    ),
    "arguments null": (
        [chunk(tool_calls=[{"index": 0, "id": "x", "function": {"name": "f", "arguments": None}}])],
        [("f", {})],
    ),
    "arguments null, then text, then null": (
        [
            chunk(tool_calls=[{"index": 0, "id": "x", "function": {"name": "f", "arguments": None}}]),
            piece(arguments=JA, index=0),
            chunk(tool_calls=[{"index": 0, "function": {"name": None, "arguments": None}, "id": None}]),
        ],
        [("f", A)],
    ),
    "arguments null, no index, no ids, two tools": (
        [chunk(tool_calls=[{"function": {"name": name, "arguments": None}}]) for name in "fg"],
        [("f", {}), ("g", {})],
    ),
    "no arguments at all": (
        [piece("f", index=0, id="x")],
        [("f", {})],
    ),
    "function null in a later delta": (
        [piece("f", JA, index=0, id="x"), chunk(tool_calls=[{"index": 0, "function": None}])],
        [("f", A)],
    ),
    "tool_calls null and empty beside": (
        [chunk(content="", tool_calls=None), piece("f", JA, index=0, id="x"), chunk(tool_calls=[])],
        [("f", A)],
    ),
    "a brace in a string is not the end": (
        [piece("f", '{"a": "}', index=0), piece("f", '"}', index=0)],
        [("f", {"a": "}"})],
    ),
}


@pytest.mark.parametrize("defect", IRREGULAR)
def test_calls_are_read_from_irregular_deltas(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, defect: str
) -> None:
    deltas, expected = IRREGULAR[defect]
    script(endpoint, *deltas, chunk("tool_calls"), "[DONE]")
    reply = ask(generator)
    assert calls_of(reply) == expected
    ids = [call.id for call in reply.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("defect", IRREGULAR)
def test_a_callback_can_build_the_same_calls_from_irregular_deltas(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, defect: str
) -> None:
    """Also where a server sends the arguments as an object: its text has to reach the callback."""
    deltas, expected = IRREGULAR[defect]
    script(endpoint, *deltas, chunk("tool_calls"), "[DONE]")
    built: dict[int, list[str]] = {}

    def build(received: StreamingChunk) -> None:
        for part in received.tool_calls or ():
            call = built.setdefault(part.index, ["", ""])
            call[0] = call[0] or part.tool_name or ""
            call[1] += part.arguments or ""

    ask(generator, callback=build)
    assert [(name, json.loads(text or "{}")) for name, text in built.values() if name] == [
        call for call in expected if call[0]
    ]


# The rest of a chunk


@both_ways
def test_the_chunk_with_the_usage_has_no_choices(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, way: str
) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    script(endpoint, chunk(content="5"), chunk("stop"), {"choices": [], "usage": usage}, "[DONE]")
    reply = ask(generator, way=way)
    assert (reply.text, reply.meta["usage"], reply.meta["finish_reason"]) == ("5", usage, "stop")


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(content="5"), {**chunk("stop"), "usage": {"total_tokens": 3}}],
        [{**chunk(content="5"), "usage": None}, chunk("stop"), {"usage": {"total_tokens": 3}}],
        [
            {**chunk(content="5"), "usage": {"total_tokens": 1}},
            {**chunk("stop"), "usage": {"total_tokens": 3}},
        ],
        [chunk(content="5"), chunk("stop"), {"choices": None, "usage": {"total_tokens": 3}}],
        [chunk(content="5"), {"choices": [], "usage": {"total_tokens": 3}}, chunk("stop")],
    ],
    ids=["with the last", "no choices field", "in each", "choices null", "before the last"],
)
def test_usage_is_found_wherever_it_comes(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, chunks: list[Json]
) -> None:
    script(endpoint, *chunks, "[DONE]")
    reply = ask(generator)
    assert (reply.text, reply.meta["usage"]) == ("5", {"total_tokens": 3})


@both_ways
@pytest.mark.parametrize(
    "end",
    [
        sse(chunk("stop")),
        sse(chunk("stop"), "[DONE]"),
        sse("[DONE]"),
        b"data: [DONE]",
        b"data:[DONE]\r\n\r\n",
    ],
    ids=["finish reason", "both", "done", "done unfinished", "done without blank"],
)
def test_a_stream_ends_with_a_finish_reason_or_with_done(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, end: bytes, way: str
) -> None:
    endpoint.script(Raw([sse(chunk(content="5")), end], "text/event-stream"))
    assert ask(generator, way=way).text == "5"


@both_ways
@pytest.mark.parametrize(
    "body",
    [sse(chunk(content="half")), b"", b": keep-alive\n\n", sse(chunk(content="half"))[:-20]],
    ids=["half", "nothing", "comment", "half an event"],
)
def test_a_stream_that_ends_with_neither_is_an_error_and_not_half_a_reply(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, body: bytes, way: str
) -> None:
    endpoint.script(Raw(body, "text/event-stream"))
    with pytest.raises(EndpointError) as caught:
        ask(generator, way=way)
    assert caught.value.retryable


@both_ways
def test_what_follows_done_is_passed_over(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, way: str
) -> None:
    whole = sse(chunk(content="5"), chunk("stop"), "[DONE]") + b"data: and then some words\n\n"
    endpoint.script(Raw([whole], "text/event-stream"))
    assert ask(generator, way=way).text == "5"


def test_comments_and_blank_events_between_chunks_are_passed_over(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator
) -> None:
    noise = [b": OPENROUTER PROCESSING\n\n", b"data:\n\n", b"event: ping\n\n", b"\r\n", b"data: {}\n\n"]
    events = [sse(chunk(content="five")), sse(chunk(content=" and")), sse(chunk("stop")), sse("[DONE]")]
    endpoint.script(Raw([part for event in events for part in (*noise, event)], "text/event-stream"))
    assert ask(generator).text == "five and"


@pytest.mark.parametrize(
    ("deltas", "text"),
    [
        ([chunk(content=None), chunk(content="5")], "5"),
        ([chunk(content=[{"type": "text", "text": "5"}])], "5"),
        ([chunk(role="assistant"), chunk()], None),
        ([{"choices": [{"index": 0, "delta": None}]}, chunk(content="5")], "5"),
        ([{"choices": [{}]}, chunk(content="5")], "5"),
        ([chunk(content="5", unknown={"x": 1})], "5"),
    ],
    ids=["null first", "list of parts", "nothing", "delta null", "empty choice", "unknown fields"],
)
def test_content_comes_in_many_shapes(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, deltas: list[Json], text: str | None
) -> None:
    script(endpoint, *deltas, chunk("stop"), "[DONE]")
    assert (ask(generator).text or None) == text


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_is_kept_apart_under_either_name(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, field: str
) -> None:
    script(
        endpoint, chunk(**{field: "h"}), chunk(**{field: "m"}), chunk(content="5"), chunk("stop"), "[DONE]"
    )
    reply = ask(generator)
    assert (reply.text, reply.meta["reasoning"]) == ("5", "hm")


@pytest.mark.parametrize("junk", ["not json", "[1]", "null", '"text"', '{"choices": '])
def test_an_event_that_is_no_json_object_is_an_endpoint_error(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, junk: str
) -> None:
    script(endpoint, chunk(content="5"), junk, chunk("stop"), "[DONE]")
    with pytest.raises(EndpointError) as caught:
        ask(generator)
    assert junk[:5] in str(caught.value)


FIELDS = (
    "choices delta tool_calls function index id name arguments content usage error message finish_reason"
).split()
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=20,
)


@given(ANY_JSON)
def test_whatever_json_a_server_sends_it_is_read_or_an_endpoint_error(value: Any) -> None:
    assembler = ReplyAssembler()
    calls = {"choices": [{"delta": {"tool_calls": value}}]}
    for made in (value, {"choices": value}, {"choices": [{"delta": value}]}, calls):
        try:
            assembler.feed(json.dumps(made).encode())
            assembler.finish()
        except EndpointError:
            continue


@pytest.mark.parametrize(
    "event", [{"object": "error", "message": "boom", "code": 500}, {"detail": "boom"}, {"error": "boom"}]
)
def test_an_error_within_a_stream_is_told_whatever_its_shape(
    endpoint: Endpoint, generator: MetaLlamaChatGenerator, event: Json
) -> None:
    events = [f"data: {json.dumps(event)}\n\n".encode(), b"data: [DONE]\n\n"]
    endpoint.script(Raw(events, content_type="text/event-stream"))
    with pytest.raises(EndpointError, match="boom"):
        ask(generator)
