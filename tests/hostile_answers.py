"""
Answers that no sane server gives, made from a seed: good completions and streams, then spoilt.

    Hostile(random.Random(7)).answer()  # the same `Answer` each time
"""

import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, TypeAlias

import httpx2

Json: TypeAlias = dict[str, Any]
Header: TypeAlias = tuple[bytes, bytes]
ORIGIN = "http://127.0.0.1:1"
"""Where all requests of the cases go: nothing listens there, and nothing is sent."""

_ANY_VALUE = (
    None, "", "text", "ü🦙\u2028", 0, 1, -1, 1.5, True, False, [], {}, [[]], [None], [{}], ["text"],
    [1, "a"], {"": ""}, {"text": "a"}, {"message": "no"}, {"error": {}}, {"a": [{"b": [None, {}]}]},
    [{"type": "text", "text": "part"}],
)  # fmt: skip
_ODD_JSON = (
    "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1e-999", "-0", "0.1e1", "9" * 25, "-" + "9" * 400,
    "9" * 4300, "1e308", "1." + "3" * 5000, "1e" + "9" * 400, r'"\ud83e\udd99"', r'"\u0000"',
    r'"\u001b[2J"', r'"\/"', r'"\uffff\ufffe"', '"\x7f\x85"', '{"a":1,"a":2}', '{"":{"":{}}}',
    "[[[[[[]]]]]]", '{"__class__":1}', '[1,"a",null,true,{}]', ' \t[ 1 ]\n', "true", "4294967296",
    "18446744073709551616",
)  # fmt: skip
_BROKEN_JSON = (
    r'"\ud800"', r'"\udc00\ud800"', '"\0"', '"\x01\x1f"', r'"\x"', r'"\u12"', "9" * 4301, "9" * 50_000,
    "01", "1.", ".5", "+1", "0x1", '"', "'a'", "tru", "undefined", "[", "{", "]", "}", ",", "{,}", "[1,]",
    '{"a":1,}', '{"a"}', "{1:2}", "/* a */ 1",
)  # fmt: skip
_RAW_VALUES = _ODD_JSON + _BROKEN_JSON
_DEPTHS = (10, 190, 201, 1_000, 20_000, 100_000)
_BYTES = (
    b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80",
    b"\x80", b"\xe2\x80", b"\n", b"\r", b"\r\n", b"\n\n", b"\\", b'"', b"{", b"}", b"[", b"]", b":", b",",
    b"data:", b"data: ", b"\x1b[2J", b" " * 50, b"data: [DONE]\n\n", b"data: {}\n\n", b"data: null\n\n",
    b": ping\n\n", b"event: error\n", b"\x85", "\u2028".encode(),
)  # fmt: skip
_CHARSETS = (
    "utf-8", "UTF8", "ascii", "latin-1", "utf-16", "utf-32", "utf-7", "utf-8-sig", "cp1252", "shift_jis",
    "gb18030", "hz", "iso2022_jp", "idna", "punycode", "hex", "base64", "zlib", "bz2", "uu", "quopri",
    "rot13", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "none", "", '"', '"utf-8',
    "x" * 5000, "\u00fc", "utf-8\0", "../../etc", "charmap", "utf_8;q=1",
)  # fmt: skip
_TYPES = (
    "application/json", "application/json", "application/json", "text/event-stream", "text/event-stream",
    "text/event-stream", "text/html", "text/plain", "application/problem+json", "application/x-ndjson",
    "application/octet-stream", "multipart/x; boundary=a", "TEXT/EVENT-STREAM", "", ";", "json", "/",
    "application/json, text/event-stream", "text/event-stream\t; a=b", "x" * 3000,
)  # fmt: skip
_ENCODINGS = (
    "gzip", "deflate", "br", "zstd", "identity", "gzip, gzip", "gzip,deflate,br,zstd", "x-gzip", "compress",
    "", ",", "\u00fc", "gzip;q=0",
)  # fmt: skip
_WAITS = (
    "0", "1", "30", "1.5", "-5", "1e400", "-1e400", "nan", "inf", "-inf", "\u0661\u0662", "\u00b2", "", " ",
    "1_0", "0x10", "1e-400", "1s", "6m0s", "120ms", "1h2m3s", "1d" * 40, "999999999d", "9" * 400,
    "9" * 5000, "1." + "0" * 5000, "1" * 100_000, "1,5", "1 s", "soon", "NaNs", "1700000000",
    "1700000000000", "1" + "0" * 30, "1e308", "Wed, 21 Oct 2035 07:28:00 GMT", "Wed, 21 Oct 2035 07:28:00",
    "Wed, 21 Oct 2035 07:28:00 +9999", "Wed, 21 Oct 2035 07:28:00 -99999999999",
    "Wed, 21 Oct 99999999999999999999 07:28:00 GMT", "Wed, 99 Foo 2035 99:99:99 GMT",
    "Wed, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 0001 00:00:00 +2359",
    "Wed, 21 Oct " + "9" * 5000 + " 07:28:00 GMT", "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "21 Oct", ",", "(" * 2000, '"' * 500,
    "2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59", "0001-01-01", "2026-W05-6", "2026-01-31T12:00:00+99:99", "\0",
)  # fmt: skip
_WAIT_HEADERS = (
    "Retry-After", "retry-after", "Retry-After-Ms", "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens", "X-RateLimit-Reset-", "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens", "x-should-retry",
)  # fmt: skip
_LOCATIONS = (
    "", "/", "/v1/chat/completions", "/v1/chat/completions/", "?a=b", "#a", "chat", "../..",
    f"{ORIGIN}/v1/x", "http://127.0.0.1/v1", "https://127.0.0.1:1/v1", "http://example.com/v1",
    "//example.com/v1", "//127.0.0.1:1/v1", "http://[", "http://[::1", "http://[::1]:1/", "//[",
    "http://127.0.0.1:99999/v1", f"{ORIGIN}a/v1", "http://127.0.0.1:-1/", "http://127.0.0.1:\u0661/v1",
    "http://u:p@127.0.0.1:1/v1", "http://127.0.0.1:1@example.com/", "http:///v1", "http:v1", "http:", "://",
    ":", "mailto:a@b", "file:///etc/passwd", "javascript:1", "data:,", "/\u00fc", "/%zz", "/%00", "/\0",
    "/a b", "/\x7f", "/\x01", "\\\\127.0.0.1\\x", "http:\\\\127.0.0.1:1\\v1", "/" + "a" * 70_000,
    "http://" + "a" * 300 + "/", "http://xn--/", "http://\u00fc.example/", "http://\u2100.example/",
    "http://a\u2100b/", "http://127.0.0.1:1\u2100/", "http://-/", "http://*/", "http://127.0.0.1:1/\u2028",
    "HTTP://127.0.0.1:1/V1", " /v1", "/v1 ", "\t/v1", "http://0177.0.0.1:1/", "http://2130706433:1/",
    "http://127.0.0.1:01/v1", "http://127.0.0.1:1:1/v1", "http://%31%32%37.0.0.1:1/",
    "/v1?" + "a=b&" * 2000, "/{}", "/[", "//", "///", "////x",
)  # fmt: skip
_COOKIES = (
    "a=b", "a=\u00fc", "a=b; Max-Age=1e999", "a=b; Max-Age=" + "9" * 5000,
    "a=b; Expires=Wed, 21 Oct 99999 07:28:00 GMT", "a=b; Version=x", "a=b; Port=\"x\"; Version=1", "=", ";",
    "a", "a=\0", "a=b; Domain=.; Path=\u00fc", "a=\x01", "a=" + "b" * 20_000, 'a="b',
    "a=b; Expires=" + "9" * 5000, "a=b, c=d", "\u00fc=\u00fc", "a=b; Domain=[::1",
    "a=b; Version=" + "9" * 5000,
)  # fmt: skip
_OTHER_HEADERS = (
    "x-request-id", "Content-Length", "Transfer-Encoding", "Connection", "Date", "Server", "Link",
    "openai-processing-ms", "openai-version", "WWW-Authenticate", "Content-Disposition", "Keep-Alive",
    "Upgrade", "Content-Range",
)  # fmt: skip
_HEADER_VALUES = (
    "", "0", "-1", "abc", "chunked", "nan", "\u00fc", "\0", "a" * 20_000, "1, 2", "9" * 400, '"', "close",
)  # fmt: skip
_STATUSES = (
    *(200,) * 120, 201, 202, 204, 205, 206, 226, 299, 300, 301, 301, 302, 303, 304, 305, 307, 307, 308, 308,
    399, *(400,) * 3, 401, 402, 403, 404, 405, 408, 409, 410, 413, 418, 422, *(429,) * 4, 431, 451, 499,
    *(500,) * 3, 501, 502, 503, 503, 504, 511, 520, 529, 599, 600, 700, 999, 100, 101, 103,
)  # fmt: skip
_BREAKS = (
    httpx2.ReadError, httpx2.ReadTimeout, httpx2.RemoteProtocolError, httpx2.CloseError, httpx2.PoolTimeout,
)  # fmt: skip
_NAMES = ("add", "größe", "look_up", "", "a" * 300, "answer")
_TEXTS = (
    "", "five", "größer 🦙", "a\n\nb", "data: x", "\u2028", "{", "}", '{"a": 1}', "null", "[DONE]",
    "bearer abc12345678", "authorization: ", "://a:b@", "\\", "x" * 3000, "\x00", "<html>", "jinja",
    '{"next": "add"}', '{"next": null}', '{"a": 17, "b": 25}',
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """
    One response.

    :param pieces: The body, as it arrives.
    :param breaks: What the connection fails with after the last piece, if it does.
    """

    status: int
    headers: tuple[Header, ...]
    pieces: tuple[bytes, ...]
    breaks: type[httpx2.TransportError] | None = None


class Hostile:
    """
    Makes answers.

    :param random: What all choices come from.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._raw: list[str] = []

    def answer(self, *, streamed: bool) -> Answer:
        """
        One response, more often nearly good than mere noise.

        :param streamed: What was asked for, and so what is likely to come.
        """
        status = self._pick(_STATUSES)
        body, kind = self._body(status, streamed != self._chance(0.04))
        for _ in range(self._pick((0,) * 14 + (1, 1, 2, 5))):
            body = self._bytes_spoilt(body)
        headers, body = self._headers(status, kind, body)
        breaks = self._pick(_BREAKS) if self._chance(0.03) else None
        return Answer(status, headers, self._cut(body), breaks)

    def _body(self, status: int, streamed: bool) -> tuple[bytes, str]:
        """A body, and the content type that suits it."""
        choice = self._random.random()
        if choice < (0.6 if status >= 400 else 0.06):
            return self._error_body(), "application/json"
        if choice > 0.94:
            return self._noise(), self._pick(("text/html", "application/json", "text/event-stream"))
        if choice > 0.91:
            return self._written(self._spoilt(self._models())), "application/json"
        if streamed:
            return self._stream(), "text/event-stream"
        completion = self._completion()
        return self._written(
            self._spoilt(completion) if self._chance(0.7) else completion
        ), "application/json"

    # Good answers

    def _completion(self) -> Json:
        choices = [self._choice(index) for index in range(self._pick((1, 1, 1, 2, 5)))]
        body = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": choices,
        }
        return {**body, "usage": self._usage()} if self._chance(0.7) else body

    def _choice(self, index: int) -> Json:
        message: Json = {"role": "assistant", "content": self._text()}
        if self._chance(0.3):
            message["tool_calls"] = [self._call(index) for index in range(self._pick((1, 1, 2, 7)))]
        self._decorate(message)
        reason = self._pick(("stop", "tool_calls", "length", "content_filter", "function_call", None, ""))
        choice: Json = {"index": index, "message": message, "finish_reason": reason}
        if self._chance(0.1):
            choice["logprobs"] = {
                "content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]
            }
        return choice

    def _decorate(self, message: Json) -> None:
        for name in ("reasoning", "reasoning_content", "refusal", "annotations", "audio", "function_call"):
            if self._chance(0.08):
                message[name] = self._text() if self._chance(0.8) else self._pick(_ANY_VALUE)

    def _call(self, index: int) -> Json:
        function = {"name": self._pick(_NAMES), "arguments": self._arguments()}
        call: Json = {"id": f"call_{self._pick((index, 0))}", "type": "function", "function": function}
        return {**call, "index": index} if self._chance(0.2) else call

    def _arguments(self) -> Any:
        given = {"a": 17, "b": self._pick(_ANY_VALUE)}
        if self._chance(0.12):
            return self._spoilt(given) if self._chance(0.5) else given
        text = json.dumps(given, ensure_ascii=self._chance(0.5))
        if self._chance(0.15):
            return self._bytes_spoilt(text.encode()).decode(errors="replace")
        if self._chance(0.1):
            return self._pick((*_RAW_VALUES, f'{{"a": {self._pick(_RAW_VALUES)}}}', self._nested()))
        return text

    def _usage(self) -> Json:
        return {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "details": {"cached": 1}}

    def _models(self) -> Json:
        return {"object": "list", "data": [{"id": self._pick(("m", "n", "ü")), "object": "model"}]}

    def _text(self) -> Any:
        if self._chance(0.1):
            return [{"type": "text", "text": self._pick(_TEXTS)} for _ in range(self._pick((0, 1, 3)))]
        return (
            self._pick((None, *_TEXTS)) if self._chance(0.6) else self._pick(_TEXTS) * self._pick((1, 2, 20))
        )

    def _chunks(self) -> list[Json]:
        deltas: list[Json] = [{"role": "assistant", "content": ""}] if self._chance(0.8) else []
        deltas += [{"reasoning_content": self._text()} for _ in range(self._pick((0, 0, 1, 3)))]
        deltas += [{"content": self._text()} for _ in range(self._pick((0, 1, 3, 10)))]
        for index in range(self._pick((0, 0, 1, 2, 4))):
            deltas += self._call_deltas(index)
        if self._chance(0.1):
            deltas.append({"refusal": self._text()})
        if self._chance(0.1):
            self._random.shuffle(deltas)
        reason = self._pick(("stop", "tool_calls", "length"))
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        if self._chance(0.9):
            chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if self._chance(0.6):
            chunks.append({"choices": [], "usage": self._usage()})
        if self._chance(0.05):
            chunks.insert(self._random.randrange(len(chunks) + 1), {"error": self._error()})
        return [
            {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", **item} for item in chunks
        ]

    def _call_deltas(self, index: int) -> list[Json]:
        call = self._call(index)
        function = call.pop("function")
        arguments, name = function["arguments"], function["name"]
        if not isinstance(arguments, str):
            return [{"tool_calls": [{**call, "index": index, "function": function}]}]
        size = self._pick((1, 3, 10, 1000)) if len(arguments) < 500 else 5000
        parts = [arguments[start : start + size] for start in range(0, len(arguments), size)]
        numbered: Json = self._pick(
            ({"index": index}, {"index": index}, {}, {"index": 0}, {"index": str(index)})
        )
        repeated: Json = self._pick(({}, {}, {"id": call["id"]}))
        named: Json = self._pick(({}, {}, {"name": name}))
        first = {"tool_calls": [{**call, **numbered, "function": {"name": name, "arguments": ""}}]}
        return [first] + [
            {"tool_calls": [{**numbered, **repeated, "function": {**named, "arguments": part}}]}
            for part in parts
        ]

    def _stream(self) -> bytes:
        end = self._pick(("\n", "\n", "\r\n", "\r"))
        payloads = [
            self._written(self._spoilt(chunk) if self._chance(0.03) else chunk).decode()
            for chunk in self._chunks()
        ]
        if self._chance(0.8):
            payloads.append("[DONE]")
        if self._chance(0.1):
            payloads.append(self._written(self._spoilt(self._completion())).decode())
        events = [self._event(payload, end) for payload in payloads]
        start = self._pick(("", "", "", "\ufeff", end, f": hello{end}{end}", "\ufeff\ufeff"))
        return (start + "".join(events)).encode()

    def _event(self, payload: str, end: str) -> str:
        before = after = ""
        if self._chance(0.1):
            before = (
                self._pick(
                    (": ping", "event: chunk", "event: error", "id: \0", "retry: 1e999", "data", "x", ":")
                )
                + end
            )
        if self._chance(0.05):
            after = self._pick(("id: 7", "retry: 10", ": bye", "event:", "data:", "data: ")) + end
        if self._chance(0.03):
            payload = payload.replace(",", f",{end}data: ", 2)
        if self._chance(0.01):
            end = self._pick(("\n", "\r\n", "\r", "\x85", "\u2028", ""))
        return f"{before}data:{self._pick((' ', ' ', '', '  '))}{payload}{end}{after}{end}"

    # Errors and noise

    def _error(self) -> Any:
        error = {"message": self._pick(_TEXTS), "type": "server_error", "param": None, "code": self._code()}
        return error if self._chance(0.7) else self._pick((*_ANY_VALUE, *_TEXTS))

    def _code(self) -> Any:
        return self._pick(
            (None, 400, 429, 500, 503, 200, 0, -1, 10**30, 1.5, True, "429", "model_not_found", [], {})
        )

    def _error_body(self) -> bytes:
        body: Any = self._pick((
            {"error": self._error()},
            {"error": self._error(), "code": self._code(), "status": self._code()},
            {"type": "about:blank", "title": self._text(), "status": self._code(), "detail": self._text()},
            {"detail": [{"loc": ["body", 0], "msg": self._pick(_TEXTS), "type": "missing", "ctx": {}}]},
            {"detail": [self._pick(_ANY_VALUE)] * 200},
            {"object": "error", "message": self._text(), "code": self._code()},
            {"errors": [{"message": "a"}]}, [{"error": self._error()}],
            self._pick(_TEXTS), self._pick(_ANY_VALUE),
        ))  # fmt: skip
        return self._written(self._spoilt(body) if self._chance(0.4) else body)

    def _noise(self) -> bytes:
        match self._random.randrange(8):
            case 0:
                return b""
            case 1:
                return self._random.randbytes(self._pick((1, 10, 1000, 20_000)))
            case 2:
                return b"<!doctype html><html><body>502 Bad Gateway</body></html>" * self._pick((1, 1, 500))
            case 3:
                return self._pick(_BYTES) * self._pick((1, 2, 100, 3000))
            case 4:
                return self._nested().encode()
            case 5:
                return b"".join(self._pick(_BYTES) for _ in range(self._pick((3, 30, 300))))
            case 6:
                return self._pick(_RAW_VALUES).encode(errors="surrogatepass")
            case _:
                return b" " * self._pick((1, 5000)) + self._written(self._completion()).replace(b" ", b"\n")

    def _nested(self) -> str:
        depth = self._pick(_DEPTHS)
        opened, closed = self._pick(
            (("[", "]"), ('{"a":', "}"), ('[{"choices":', "}]"), ("[", ""), ('{"error":', "}"))
        )
        return opened * depth + self._pick(("1", "", "null")) + closed * depth

    # Values in the place of others

    def _spoilt(self, value: Any) -> Any:
        """The value with some of its parts replaced, missing or doubled, at any depth."""
        for _ in range(self._pick((0, 0, 1, 1, 1, 2, 8))):
            value = self._spoilt_once(value)
        return value

    def _spoilt_once(self, value: Any) -> Any:
        inside = value if isinstance(value, dict | list) and value else None
        if inside is None or self._chance(0.12):
            return self._other_value()
        keys: Sequence[Any] = list(inside) if isinstance(inside, dict) else range(len(inside))
        key = self._pick(keys)
        copy: Any = inside.copy()
        if self._chance(0.75):
            copy[key] = self._spoilt_once(copy[key])
        elif self._chance(0.5):
            del copy[key]
        elif isinstance(copy, dict):
            copy[self._as_raw(json.dumps(key))] = self._other_value()  # the same key once more
        else:
            copy.insert(key, self._other_value())
        return copy

    def _other_value(self) -> Any:
        choice = self._random.random()
        if choice < 0.6:
            return self._pick(_ANY_VALUE)
        if choice < 0.86:
            return self._as_raw(self._pick(_ODD_JSON))
        if choice < 0.9:
            return self._as_raw(self._pick(_BROKEN_JSON))
        if choice < 0.93:
            return self._as_raw(self._nested())
        return self._pick(("x", "ü", "\\", "}", " ", "bearer ", "://")) * self._pick((100, 5000, 50_000))

    def _as_raw(self, text: str) -> str:
        """A string that stands for JSON text which `json` wouldn't write."""
        self._raw.append(text)
        return f"@raw{len(self._raw) - 1}@"

    def _written(self, value: Any) -> bytes:
        text = json.dumps(value, ensure_ascii=self._chance(0.3))
        if self._raw:
            for number, raw in reversed(list(enumerate(self._raw))):
                text = text.replace(f'"@raw{number}@"', raw)
        return text.encode(errors="surrogatepass")

    # Bytes

    def _bytes_spoilt(self, body: bytes) -> bytes:
        start = self._random.randrange(len(body) + 1)
        end = min(len(body), start + self._pick((1, 1, 2, 10, 100, 1000)))
        spoilers: tuple[Callable[[], bytes], ...] = (
            lambda: bytes(byte ^ (1 << self._random.randrange(8)) for byte in body[start:end]),
            lambda: b"",
            lambda: body[start:end] * 2,
            lambda: self._pick(_BYTES) + body[start:end],
            lambda: self._random.randbytes(end - start),
            lambda: self._pick(_RAW_VALUES).encode(),
            lambda: body[end:][:200] + body[start:end],
        )
        if self._chance(0.2):
            return body[:start]
        return body[:start] + self._pick(spoilers)() + body[end:]

    def _cut(self, body: bytes) -> tuple[bytes, ...]:
        choice = self._random.random()
        if choice < 0.4 or not body:
            return (body,)
        if choice < 0.55 and len(body) < 3000:
            return tuple(body[at : at + 1] for at in range(len(body)))
        count = self._pick((1, 2, 10, 50))
        places = sorted({0, len(body), *(self._random.randrange(len(body)) for _ in range(count))})
        pieces = [body[start:end] for start, end in pairwise(places)]
        if self._chance(0.1):
            pieces.insert(self._random.randrange(len(pieces)), b"")
        return tuple(pieces)

    # Headers

    def _headers(self, status: int, kind: str, body: bytes) -> tuple[tuple[Header, ...], bytes]:
        headers = self._content_type(kind)
        if self._chance(0.06):
            encoding = self._pick(_ENCODINGS)
            headers.append(_header("Content-Encoding", encoding))
            body = self._compressed(body, encoding)
        if 300 <= status < 400 and self._chance(0.9):
            headers.append(_header("Location", self._pick(_LOCATIONS)))
        for _ in range(self._pick((1, 2, 5)) if status >= 400 and self._chance(0.6) else 0):
            headers.append(_header(self._pick(_WAIT_HEADERS), self._pick(_WAITS)))
        if self._chance(0.08):
            headers.append(_header("Set-Cookie", self._pick(_COOKIES)))
        for _ in range(self._pick((1, 3, 100)) if self._chance(0.1) else 0):
            headers.append(_header(self._pick(_OTHER_HEADERS), self._pick(_HEADER_VALUES)))
        return tuple(headers), body

    def _content_type(self, suitable: str) -> list[Header]:
        choice = self._random.random()
        if choice < 0.8:
            return [_header("Content-Type", suitable)]
        if choice < 0.84:
            return []
        kind = suitable if choice < 0.92 else self._pick(_TYPES)
        if self._chance(0.5):
            kind += f"; charset={self._pick(_CHARSETS)}"
        return [_header("content-type", kind)]

    def _compressed(self, body: bytes, encoding: str) -> bytes:
        if self._chance(0.5):
            return body
        packed = gzip.compress(body, mtime=0) if encoding.startswith("gzip") else zlib.compress(body)
        return self._bytes_spoilt(packed) if self._chance(0.4) else packed

    def _chance(self, of_one: float) -> bool:
        return self._random.random() < of_one

    def _pick(self, among: Sequence[Any]) -> Any:
        return self._random.choice(among)


def _header(name: str, value: str) -> Header:
    return name.encode(), value.encode()
