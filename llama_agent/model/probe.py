"""
Asks an endpoint what it can do: about a dozen short requests, each a question that has a yes and a no.

The model's text is never taken for an answer; only what the server does with it: whether a call arrives as
one, whether a schema holds, what is refused. Trouble that may pass, and a model that thinks until its tokens
are used up, leave a question open, and what was known before stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

from haystack.dataclasses import ComponentInfo, StreamingCallbackT, StreamingChunk
from openai import OpenAI
from openai._types import RequestOptions

from llama_agent.arguments import read_arguments
from llama_agent.errors import EndpointError
from llama_agent.model.asking import Ask, Fetch
from llama_agent.model.attempts import Attempts
from llama_agent.model.clients import Clients
from llama_agent.model.encoding import MessageEncoder
from llama_agent.model.profiles import ErrorShape, ToolChoice, Traits
from llama_agent.model.replies import ChunkMaker
from llama_agent.model.retry import RetryPolicy
from llama_agent.model.streams import Json, Reply, parse_object
from llama_agent.model.wire import LIST_MODELS, Transport, WireRequest

Verdict: TypeAlias = bool | None
"""Yes, no, or that it can't be said."""

_WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the current weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name of the city."}},
            "required": ["city"],
        },
    },
}
_TIME: Json = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Tell the current time of a city.",
        "parameters": _WEATHER["function"]["parameters"],
    },
}
_TOOLS = [_WEATHER, _TIME]
_ONE_CITY = "What is the weather in Paris? Call get_weather."
_TWO_CITIES = "What is the weather in Paris, and what is it in Oslo? Call get_weather once for each city."
_SCHEMA: Json = {
    "type": "object",
    "properties": {"colour": {"enum": ["violet", "orange"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
_WORD = "violet"
_SHOWN = 80
_FEW_TOKENS = 100
_MANY_TOKENS = 1000
"""Most tokens of a reply, and of one by a model that spends the few on thinking."""
_WINDOWS = ("n_ctx", "max_model_len", "context_window", "context_length", "max_context_length")
"""What servers call the window's size in their list of models; what was set comes before what is possible."""


@dataclass(frozen=True)
class Finding:
    """
    The answer to one question.

    :param question: What was asked.
    :param verdict: Yes, no, or None when it can't be said.
    :param seen: What the verdict rests on.
    """

    question: str
    verdict: Verdict
    seen: str


@dataclass(frozen=True)
class ProbeReport:
    """
    What was found out.

    :param endpoint: The endpoint's `identity`.
    :param kind: Name of the preset that it is, or `custom`.
    :param model: The model that was asked.
    :param findings: One for each question, in their order.
    :param traits: What follows from them.
    :param requests: How many chat requests it took.
    :param seconds: How long it took.
    """

    endpoint: str
    kind: str
    model: str
    findings: tuple[Finding, ...]
    traits: Traits
    requests: int
    seconds: float


def probe(clients: Clients, seconds_per_request: float) -> ProbeReport:
    """
    Find out what an endpoint does with a model.

    :param clients: Of the endpoint.
    :param seconds_per_request: Most time that one request may take.
    :returns: The report.
    :raises EndpointError: The server can't be reached, or doesn't answer a plain question.
    :raises ConfigurationError: No endpoint, key or model can be found.
    """
    started = time.monotonic()
    probing = _Probing(clients, seconds_per_request)
    findings = tuple(probing.findings())
    return ProbeReport(
        endpoint=clients.endpoint.identity,
        kind=clients.endpoint.profile.name,
        model=probing.model,
        findings=findings,
        traits=probing.traits,
        requests=probing.requests,
        seconds=time.monotonic() - started,
    )


class _Probing:
    """One probe: asks question after question, and keeps what follows in `traits`."""

    def __init__(self, clients: Clients, seconds: float) -> None:
        self.requests = 0
        self._clients = clients
        self._client: OpenAI = clients.sync_client()
        self._seconds = seconds
        self._most_tokens = _FEW_TOKENS
        self._transport = Transport(MessageEncoder())
        self._profile = clients.endpoint.profile
        self.traits = self._profile.traits
        self._listed = self._fetch("/models", must=clients.known_model is None) or {}
        self.model = clients.known_model or clients.choose_model(self._listed)
        self._refusal: EndpointError | None = None
        self._takes_tools = True

    def findings(self) -> Iterator[Finding]:
        """All questions, one after the other."""
        yield self._plain()
        yield from self._window()
        yield from self._native_tools()
        yield from self._stream()
        yield from self._tool_choices()
        yield self._schema()
        yield self._grammar()
        yield from self._history()
        yield self._errors()
        self._choose_tool_mode()

    def _plain(self) -> Finding:
        reply = self._ask("Say hello.")
        if isinstance(reply, EndpointError):
            raise reply
        return _counted("tokens are counted", reply)

    def _window(self) -> Iterator[Finding]:
        is_local = not self._clients.endpoint.base_url.startswith("https:")
        # Only Ollama has such a list of loaded models. Of other people's servers nothing else is asked.
        loaded = _list(((self._fetch("//api/ps") or {}) if is_local else {}).get("models"))
        entry = next((item for item in loaded if self._is_meant(item.get("model"))), Json())
        sizes = _sizes_in(entry, "Ollama's /api/ps")
        is_ollama = bool(loaded) or self._profile.traits.cuts_silently
        if not sizes:
            entry = next(
                (item for item in _list(self._listed.get("data")) if self._is_meant(item.get("id"))), Json()
            )
            sizes = [
                *_sizes_in(_object(entry.get("meta")), "its list"),
                *_sizes_in(entry, "its list of models"),
            ]
        if not sizes and is_local:
            props = self._fetch("//props") or {}
            sizes = _sizes_in(_object(props.get("default_generation_settings")), "llama.cpp's /props")
        known = self.traits.context_tokens
        size, where = sizes[0] if sizes else (known, "")
        self.traits = replace(self.traits, context_tokens=size, cuts_silently=is_ollama)
        unknown = f"{known:,} tokens are assumed" if known else "nowhere; 8,000 tokens are assumed"
        yield Finding("window is told", bool(sizes), f"{size:,} tokens: {where}" if sizes else unknown)
        yield Finding(
            "long prompts are cut silently",
            is_ollama,
            "as Ollama does" if is_ollama else "it isn't Ollama",
        )

    def _native_tools(self) -> Iterator[Finding]:
        reply = self._ask(_TWO_CITIES, tools=[_WEATHER])
        asks = _good_calls(reply) < 2
        if asks and not _is_open(reply):
            asked = self._ask(_TWO_CITIES, tools=[_WEATHER], parallel_tool_calls=True)
            reply = asked if _good_calls(asked) > _good_calls(reply) else reply
        several = _good_calls(reply) > 1
        if not _good_calls(reply) and isinstance(reply, Reply):
            reply = self._ask(_ONE_CITY, tools=[_WEATHER])
        self._takes_tools = isinstance(reply, Reply)
        works = None if _is_open(reply) else _good_calls(reply) > 0
        if works is not None:
            self.traits = replace(
                self.traits,
                native_tools=works,
                parallel_calls=several if works else None,
                asks_parallel=asks if several else self.traits.asks_parallel,
            )
        yield Finding("native tool calls", works, _told_of_calls(reply))
        seen = "two calls in one reply" if several else "one call where two were asked for"
        if several and asks:
            seen += ", with parallel_tool_calls only"
        yield Finding("several calls in a reply", several if works else None, seen if works else "not tried")

    def _stream(self) -> Iterator[Finding]:
        pieces: list[str] = []

        def collect(chunk: StreamingChunk) -> None:
            pieces.extend(call.arguments for call in chunk.tool_calls or [] if call.arguments)

        settings: Json = {"tools": [_WEATHER]} if self.traits.native_tools else {}
        reply = self._ask(_ONE_CITY, callback=collect, **settings)
        if isinstance(reply, EndpointError):
            yield Finding("tokens are counted in streams", None, _refused(reply))
            yield Finding("calls are streamed in pieces", None, "not tried")
            return
        called = bool(_good_calls(reply))
        streamed = len(pieces) > 1 if called else None
        takes_option = "stream_options" not in self._transport.refused
        self.traits = replace(self.traits, streamed_calls=streamed, stream_usage=takes_option)
        yield _counted("tokens are counted in streams", reply)
        seen = f"arguments in {len(pieces)} pieces" if called else "no call came in the stream"
        yield Finding("calls are streamed in pieces", streamed, seen)

    def _tool_choices(self) -> Iterator[Finding]:
        before = self.traits.tool_choice
        held: list[ToolChoice] = []
        named: Json = {"type": "function", "function": {"name": "get_time"}}
        asked: tuple[tuple[ToolChoice, str | Json, str], ...] = (
            ("required", "required", "Say hello."),
            ("named", named, _ONE_CITY),
            ("none", "none", _ONE_CITY),
        )
        for kind, choice, question in asked:
            if kind == "none" and not self.traits.native_tools:
                yield Finding("tool_choice none", None, "not tried: there are no calls to keep it from")
                continue
            reply = self._ask(question, tools=_TOOLS, tool_choice=choice)
            names = [call.name for call in reply.calls] if isinstance(reply, Reply) else []
            holds = None if _is_open(reply) else isinstance(reply, Reply) and _choice_holds(kind, names)
            if holds or (holds is None and kind in (before or ())):
                held.append(kind)
            yield Finding(f"tool_choice {kind}", holds, _told_of_calls(reply))
        self.traits = replace(self.traits, tool_choice=tuple(sorted(held)))

    def _schema(self) -> Finding:
        wanted: Json = {"name": "reply", "strict": True, "schema": _SCHEMA}
        reply = self._ask("Say hello.", response_format={"type": "json_schema", "json_schema": wanted})
        if _is_open(reply):
            return Finding("JSON schema holds", None, _told_of_text(reply))
        holds = False
        if isinstance(reply, Reply):
            with suppress(EndpointError):
                answer = parse_object((reply.text or "").encode())
                holds = list(answer) == ["colour"] and answer["colour"] in ("violet", "orange")
        self.traits = replace(self.traits, json_schema=holds)
        return Finding("JSON schema holds", holds, _told_of_text(reply))

    def _grammar(self) -> Finding:
        reply = self._ask("Say hello.", grammar=f'root ::= "{_WORD}"')
        holds = isinstance(reply, Reply) and (reply.text or "").strip() == _WORD
        if _is_open(reply):
            return Finding("llama.cpp's grammar holds", None, _told_of_text(reply))
        self.traits = replace(self.traits, grammar=holds)
        return Finding("llama.cpp's grammar holds", holds, _told_of_text(reply))

    def _history(self) -> Iterator[Finding]:
        tools: Json = {"tools": [_WEATHER]} if self._takes_tools else {}
        replies = {content: self._ask(_conversation(1, content), **tools) for content in ("", None)}
        taken = [content for content, reply in replies.items() if isinstance(reply, Reply)]
        yield _accepts("history with empty content", replies[""])
        yield _accepts("history with null content", replies[None])
        if not taken:
            yield Finding("several calls in one message of history", None, "not tried")
            yield Finding("history with broken arguments is refused", None, "not tried")
            return
        content = taken[0]
        several = _accepts(
            "several calls in one message of history", self._ask(_conversation(2, content), **tools)
        )
        yield several
        broken = _accepts(
            "history with broken arguments is refused",
            self._ask(_conversation(1, content, arguments='{"city": "Par'), **tools),
        )
        strict = None if broken.verdict is None else not broken.verdict
        yield replace(broken, verdict=strict)
        self.traits = replace(
            self.traits,
            null_content=content is None,
            several_calls_in_history=several.verdict,
            strict_history=self.traits.strict_history if strict is None else strict,
        )

    def _errors(self) -> Finding:
        reply = self._ask("Say hello.", temperature="hot")
        refusal = reply if isinstance(reply, EndpointError) else self._refusal
        if refusal is None:
            return Finding("errors can be read", None, "nothing was refused, not even a temperature of 'hot'")
        shape = _shape_of(refusal.body or "")
        self.traits = replace(self.traits, error_shape=shape)
        return Finding(
            "errors can be read", shape is not None, f"{shape or 'no known'} shape: {_refused(refusal)}"
        )

    def _choose_tool_mode(self) -> None:
        # The helps for the small embedded model are better than its own calls, whatever the server can do.
        if self.traits.native_tools is not None and not self._profile.small_model:
            mode = "constrained" if self.traits.json_schema else "prompted"
            self.traits = replace(self.traits, tool_mode="native" if self.traits.native_tools else mode)

    def _is_meant(self, name: object) -> bool:
        return name in (self.model, f"{self.model}:latest")

    def _ask(
        self, conversation: str | list[Json], callback: StreamingCallbackT | None = None, **fields: object
    ) -> Reply | EndpointError:
        """One short chat request; a refusal is an answer too."""
        messages = (
            [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
        )
        reply = self._ask_once(messages, callback, fields)
        if isinstance(reply, Reply) and _is_open(reply) and self._most_tokens == _FEW_TOKENS:
            self._most_tokens = _MANY_TOKENS  # it thinks before it answers
            reply = self._ask_once(messages, callback, fields)
        return reply

    def _ask_once(
        self, messages: list[Json], callback: StreamingCallbackT | None, fields: Json
    ) -> Reply | EndpointError:
        body: Json = {"model": self.model, "max_tokens": self._most_tokens, "temperature": 0, **fields}
        options = RequestOptions(timeout=self._seconds)
        request = WireRequest(
            body, tuple(messages), stream=callback is not None, options=options, heard=self._count
        )
        try:
            answer = self._attempts(callback, retries=1).perform(self._client, Ask(request))
        except EndpointError as error:
            self._refusal = error if error.status in (400, 422, 500) else self._refusal
            return error
        return cast("list[Reply]", answer)[0]

    def _count(self, headers: object) -> None:
        self.requests += 1

    def _fetch(self, path: str, *, must: bool = False) -> Json | None:
        """What the server tells of itself; None when it doesn't."""
        try:
            answer = self._attempts(None).perform(self._client, Fetch(replace(LIST_MODELS, path=path)))
        except EndpointError:
            if must:
                raise
            return None
        return cast("Json", answer)

    def _attempts(self, callback: StreamingCallbackT | None, retries: int = 0) -> Attempts:
        return Attempts(
            transport=self._transport,
            policy=RetryPolicy(max_retries=retries, max_wait=5, attempt_timeout=self._seconds),
            pacer=self._clients.pacer,
            limit=None,
            callback=callback,
            maker=ChunkMaker(ComponentInfo("llama_agent.model.probe")),
        )


def _conversation(calls: Literal[1, 2], content: str | None, arguments: str | None = None) -> list[Json]:
    cities = ("Paris", "Oslo")[:calls]
    called = [
        {
            "id": f"call{position}",
            "type": "function",
            "function": {"name": "get_weather", "arguments": arguments or json.dumps({"city": city})},
        }
        for position, city in enumerate(cities)
    ]
    results = [
        {"role": "tool", "tool_call_id": f"call{position}", "content": "sunny"} for position in range(calls)
    ]
    question = {"role": "user", "content": f"What is the weather in {' and '.join(cities)}?"}
    return [question, {"role": "assistant", "content": content, "tool_calls": called}, *results]


def _good_calls(reply: Reply | EndpointError) -> int:
    """How many calls arrived as calls, with arguments that can be read."""
    if isinstance(reply, EndpointError):
        return 0
    calls = [call for call in reply.calls if call.name == "get_weather"]
    read = [read_arguments(cast("str", call.arguments)) for call in calls]
    return sum(error is None and "city" in arguments for arguments, error in read)


def _choice_holds(kind: ToolChoice, names: list[str]) -> bool:
    match kind:
        case "required":
            return bool(names)
        case "named":
            return bool(names) and set(names) == {"get_time"}
        case "none":
            return not names


def _told_of_calls(reply: Reply | EndpointError) -> str:
    if isinstance(reply, EndpointError):
        return _refused(reply)
    if reply.calls:
        return "called " + ", ".join(call.name or "?" for call in reply.calls)
    if "get_weather" in (reply.text or ""):
        return f"the call came as text: {_cut(reply.text or '')}"
    return f"no call, but text: {_cut(reply.text or '')}"


def _told_of_text(reply: Reply | EndpointError) -> str:
    return _refused(reply) if isinstance(reply, EndpointError) else f"it wrote {_cut(reply.text or '')}"


def _refused(error: EndpointError) -> str:
    _, colon, said = str(error).partition(" answered ")
    return _cut(said if colon else str(error), quoted=False)


def _cut(text: str, *, quoted: bool = True) -> str:
    line = " ".join(text.split())
    shown = line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
    return repr(shown) if quoted else shown


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Json]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [_object(item) for item in items]


def _sizes_in(entry: Json, where: str) -> list[tuple[int, str]]:
    """Sizes of the window in a model's entry, the best first, with where each was found."""
    found = [(entry.get(name), name) for name in _WINDOWS]
    return [(size, f"{name} in {where}") for size, name in found if type(size) is int and size > 0]


def _is_open(reply: Reply | EndpointError) -> bool:
    """Whether a reply answers nothing: trouble that may pass, or tokens that were used up by thinking."""
    if isinstance(reply, EndpointError):
        return reply.retryable or reply.status in (None, 401, 403)
    return reply.finish_reason == "length" and not reply.calls and not (reply.text or "").strip()


def _counted(question: str, reply: Reply) -> Finding:
    prompt, completion = reply.usage.get("prompt_tokens"), reply.usage.get("completion_tokens")
    if not isinstance(prompt, int):
        return Finding(question, False, "no usage in the reply")
    return Finding(question, True, f"{prompt} of the prompt, {completion} of the reply")


def _accepts(question: str, reply: Reply | EndpointError) -> Finding:
    if isinstance(reply, Reply):
        return Finding(question, True, "accepted")
    return Finding(question, None if _is_open(reply) else False, _refused(reply))


def _shape_of(body: str) -> ErrorShape | None:
    try:
        parsed = parse_object(body.encode())
    except EndpointError:
        return None
    error, detail = parsed.get("error"), parsed.get("detail")
    if isinstance(error, dict):
        return "openai"
    if isinstance(error, str):
        return "text"
    if isinstance(detail, list):
        return "fastapi"
    if isinstance(detail, str) or isinstance(parsed.get("title"), str):
        return "rfc7807"
    return "flat" if isinstance(parsed.get("message"), str) else None
