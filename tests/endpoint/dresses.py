"""
Dresses: each makes the loopback endpoint behave as one kind of real server does.

    with worn(VLLM()) as endpoint:
        ...  # point a client at endpoint.url

What a dress answers follows from what a request asks for (tools, tool_choice, response_format, grammar,
stream, messages), never from the order of requests. The model behind each is the same, and simple: it calls
the tools that a question names, a call for each place in it, and answers once it has their results. What
differs is what the servers make of that, and what they refuse.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

from tests.endpoint.script import CREATED, Always, Item, Json, Maker, Reply, Request, Status
from tests.endpoint.server import Endpoint

Routes: TypeAlias = Mapping[tuple[str, str], Item | Maker]
Call: TypeAlias = tuple[str, Json]

BYTES_PER_TOKEN = 4
"""The dresses count as many tokens as English takes."""
_PLACE = re.compile(r"(?<![.?!] )(?<!^)\b[A-Z][a-z]+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Dress:
    """
    A server that takes everything, does everything, and speaks OpenAI's format.

    :param key: The key that it demands, if any.
    :param window: Size of the model's window, in tokens.
    """

    models: ClassVar[Sequence[str]] = ("llama",)
    several_calls: ClassVar[bool] = True
    """Whether a reply may have several calls."""
    piece: ClassVar[int] = 4
    """Characters per piece of a streamed text or argument string."""

    def __init__(self, *, key: str | None = None, window: int = 131_072) -> None:
        self.key = key
        self.window = window

    def routes(self) -> Routes:
        """What it answers beside chat completions."""
        return {("GET", "/v1/models"): self._list_models}

    def entry(self, name: str) -> Json:
        """A model as its list shows it."""
        return {"id": name, "object": "model", "created": CREATED, "owned_by": "owner"}

    def error(self, code: int, message: str) -> Status:
        """An error in its own shape."""
        return Status(code, {"error": {"message": message, "type": "invalid_request_error"}})

    def refused(self, asked: Json) -> Status | None:
        """What it refuses beside what every server does."""
        return None

    def answered(self, asked: Json) -> Reply:
        """Its answer to a request that it takes."""
        if (format_ := schema_asked_for(asked)) is not None:
            return self.reply(asked, json.dumps(instance(format_, asked)))
        calls = calls_wanted(asked)
        calls = calls if self.several_calls else calls[:1]
        return self.reply(asked, calls=calls) if calls else self.reply(asked, text_wanted(asked))

    def reply(self, asked: Json, text: str | None = None, calls: Sequence[Call] = ()) -> Reply:
        """A reply, with its tokens counted."""
        written = len(text or "") + sum(len(json.dumps(call)) for call in calls)
        usage = (tokens_in(asked), -(-written // BYTES_PER_TOKEN))
        return Reply(text, calls=calls, usage=usage, chunk_size=self.piece)

    def __call__(self, request: Request) -> Item:
        """The answer to a chat request."""
        if (unauthorized := self._unauthorized(request)) is not None:
            return unauthorized
        asked = request.json
        return self._refused_by_all(asked) or self.refused(asked) or self.answered(asked)

    def knows(self, model: object) -> bool:
        """Whether it has a model."""
        return model in self.models

    def _refused_by_all(self, asked: Json) -> Status | None:
        if not self.knows(asked.get("model")):
            return self.error(404, f"The model `{asked.get('model')}` does not exist.")
        if not isinstance(asked.get("temperature", 0), int | float):
            return self.error(400, "temperature: Input should be a valid number")
        return None

    def _unauthorized(self, request: Request) -> Status | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return self.error(401, "Invalid API Key")

    def _list_models(self, request: Request) -> Item:
        listed = {"object": "list", "data": [self.entry(name) for name in self.models]}
        return self._unauthorized(request) or Status(200, listed)


class VLLM(Dress):
    """vLLM; without its flags for tool calls, it refuses tools (vllm#9986, #30613)."""

    def __init__(self, *, tool_parser: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.tool_parser = tool_parser

    def entry(self, name: str) -> Json:
        return {**super().entry(name), "owned_by": "vllm", "max_model_len": self.window}

    def error(self, code: int, message: str) -> Status:
        return Status(
            code, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}
        )

    def refused(self, asked: Json) -> Status | None:
        choice = asked.get("tool_choice", "auto")
        if asked.get("tools") and not self.tool_parser and choice != "none":
            named = '"auto"' if choice == "auto" else json.dumps(choice)
            flags = "--enable-auto-tool-choice and --tool-call-parser"
            return self.error(400, f"{named} tool choice requires {flags} to be set")
        if broken_arguments(asked):
            return self.error(400, "Unterminated string starting at: line 1 column 10 (char 9)")
        return None


class SingleCallTemplate(VLLM):
    """vLLM with Llama 3.x's own template, which knows one call a turn (unsloth#7426)."""

    several_calls = False

    def refused(self, asked: Json) -> Status | None:
        if any(len(calls) > 1 for calls in calls_in_history(asked)):
            return self.error(400, "This model only supports single tool-calls at once!")
        return super().refused(asked)


class Thinking(VLLM):
    """A reasoning model on vLLM: it thinks for a while, and what it thinks counts as output."""

    thoughts: ClassVar[int] = 300
    """Tokens that it takes to think."""

    def answered(self, asked: Json) -> Reply:
        limit = asked.get("max_tokens") or asked.get("max_completion_tokens") or self.window
        if limit <= self.thoughts:
            usage = (tokens_in(asked), limit)
            return Reply(reasoning="Hmm. " * limit, finish_reason="length", usage=usage, chunk_size=200)
        return replace(super().answered(asked), reasoning="Hmm. " * self.thoughts, chunk_size=200)


class LlamaCpp(Dress):
    """
    llama.cpp's server: `grammar`, the window in `/props`, status 500 for broken arguments (llama.cpp#25510),
    several calls in a reply only when `parallel_tool_calls` asks for them.
    """

    def routes(self) -> Routes:
        props = {"default_generation_settings": {"n_ctx": self.window}, "total_slots": 1}
        return {**super().routes(), ("GET", "/props"): Status(200, props)}

    def entry(self, name: str) -> Json:
        return {**super().entry(name), "owned_by": "llamacpp", "meta": {"n_ctx_train": 131_072}}

    def error(self, code: int, message: str) -> Status:
        kind = "server_error" if code >= 500 else "invalid_request_error"
        return Status(code, {"error": {"code": code, "message": message, "type": kind}})

    def refused(self, asked: Json) -> Status | None:
        if broken_arguments(asked):
            return self.error(
                500, "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101]"
            )
        if asked.get("grammar") and asked.get("tools"):
            return self.error(400, "Cannot use custom grammar constraints with tools.")
        if tokens_in(asked) > self.window:
            told = {"n_prompt_tokens": tokens_in(asked), "n_ctx": self.window}
            said = "the request exceeds the available context size, try increasing it"
            return Status(
                400, {"error": {"code": 400, "message": said, "type": "exceed_context_size_error", **told}}
            )
        return None

    def answered(self, asked: Json) -> Reply:
        if literal := re.fullmatch(r'root ::= "([^"]*)"', str(asked.get("grammar"))):
            return self.reply(asked, literal[1])
        reply = super().answered(asked)
        return reply if asked.get("parallel_tool_calls") is True else replace(reply, calls=reply.calls[:1])


class Ollama(Dress):
    """
    Ollama: `tool_choice` is passed over, null content refused (pydantic-ai#5206), calls come in one piece,
    and what is beyond `num_ctx` is cut from the front without a word (ollama#18107).

    Models have tags: `llama3.2` is `llama3.2:latest`, and that is what its list says.
    """

    models = ("llama3.2:latest",)
    piece = 10_000

    def __init__(self, *, window: int = 4096, **settings: Any) -> None:
        super().__init__(window=window, **settings)

    def routes(self) -> Routes:
        loaded = [{"name": name, "model": name, "context_length": self.window} for name in self.models]
        return {
            **super().routes(),
            ("GET", "/api/version"): Status(200, {"version": "0.12.6"}),
            ("GET", "/api/ps"): Status(200, {"models": loaded}),
        }

    def knows(self, model: object) -> bool:
        return model in self.models or f"{model}:latest" in self.models

    def error(self, code: int, message: str) -> Status:
        kind = "not_found_error" if code == 404 else "invalid_request_error"
        return Status(code, {"error": {"message": message, "type": kind, "param": None, "code": None}})

    def refused(self, asked: Json) -> Status | None:
        if any(message.get("content", "") is None for message in asked["messages"]):
            return self.error(400, "invalid message content type: <nil>")
        return self.error(400, "invalid tool call arguments") if broken_arguments(asked) else None

    def answered(self, asked: Json) -> Reply:
        reply = super().answered({name: value for name, value in asked.items() if name != "tool_choice"})
        read, written = reply.usage
        return replace(reply, usage=(min(read, self.window), written))


class SGLang(Dress):
    """SGLang: as OpenAI, but for errors, which are flat."""

    def entry(self, name: str) -> Json:
        return {**super().entry(name), "owned_by": "sglang", "max_model_len": self.window}

    def error(self, code: int, message: str) -> Status:
        kind = "BadRequestError"
        return Status(
            code, {"object": "error", "message": message, "type": kind, "param": None, "code": code}
        )


class Groq(Dress):
    """Groq: strict in what it takes, and no `response_format` beside tools (agno#1065)."""

    FIELDS: ClassVar = frozenset(
        "messages model max_tokens max_completion_tokens temperature top_p stream stream_options stop seed n"
        " user tools tool_choice parallel_tool_calls response_format".split()
    )

    def entry(self, name: str) -> Json:
        return {**super().entry(name), "active": True, "context_window": self.window}

    def refused(self, asked: Json) -> Status | None:
        for name in asked.keys() - self.FIELDS:
            return self.error(400, f"property '{name}' is unsupported")
        if asked.get("tools") and schema_asked_for(asked) is not None:
            return self.error(
                400, "response_format `json_schema` cannot be combined with tool/function calling"
            )
        if broken_arguments(asked):
            return self.error(400, "messages.1.tool_calls.0.function.arguments: invalid JSON")
        return None


class TGI(Dress):
    """Text Generation Inference: errors of its own shape, one call a reply, in one piece, no schemas."""

    several_calls = False
    piece = 10_000

    def error(self, code: int, message: str) -> Status:
        code = 422 if code == 400 else code
        return Status(code, {"error": message, "error_type": "validation"})

    def refused(self, asked: Json) -> Status | None:
        format_ = asked.get("response_format")
        if isinstance(format_, dict) and "value" not in format_:
            return self.error(400, "Input validation error: grammar is not valid: missing field `value`")
        if tokens_in(asked) + asked.get("max_tokens", 100) > self.window:
            given = f"{tokens_in(asked)} `inputs` tokens and {asked.get('max_tokens', 100)} `max_new_tokens`"
            must = f"`inputs` tokens + `max_new_tokens` must be <= {self.window}"
            return self.error(400, f"Input validation error: {must}. Given: {given}")
        return None


class NoTools(Dress):
    """
    A server that knows nothing of tools: it passes `tools` over, and calls come as text.

    :param schemas: Whether it holds replies to a JSON schema.
    """

    def __init__(self, *, schemas: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.schemas = schemas

    def answered(self, asked: Json) -> Reply:
        if not self.schemas:
            asked = {name: value for name, value in asked.items() if name != "response_format"}
        reply = super().answered(
            {k: v for k, v in asked.items() if k not in ("tool_choice", "stream_options")}
        )
        texts = [json.dumps({"name": name, "parameters": arguments}) for name, arguments in reply.calls]
        as_text = replace(reply, text="; ".join(texts) or reply.text, calls=())
        return replace(as_text, no_usage=bool(asked.get("stream")))


class BedrockLike(Dress):
    """
    A host in front of Bedrock: no empty text in a message (vercel/ai#14888), and no history of calls without
    tools (pydantic-ai#1966); schemas are passed over.
    """

    def error(self, code: int, message: str) -> Status:
        return Status(code, {"message": message})

    def refused(self, asked: Json) -> Status | None:
        if any(message.get("content") == "" for message in asked["messages"]):
            return self.error(400, "messages: text content blocks must be non-empty")
        if any(calls_in_history(asked)) and not asked.get("tools"):
            blocks = "toolUse and toolResult content blocks"
            return self.error(400, f"The toolConfig field must be defined when using {blocks}.")
        return None

    def answered(self, asked: Json) -> Reply:
        return super().answered({k: v for k, v in asked.items() if k != "response_format"})


class FastAPILike(Dress):
    """A server that checks requests with pydantic, like Mistral's: it refuses unknown fields."""

    FIELDS: ClassVar = frozenset(
        "messages model max_tokens temperature top_p stream stop tools tool_choice response_format".split()
    )

    def error(self, code: int, message: str) -> Status:
        detail: list[Json] | str = message
        if code in (400, 422):
            code, detail = 422, [{"type": "value_error", "loc": ["body"], "msg": message, "input": None}]
        return Status(code, {"detail": detail})

    def refused(self, asked: Json) -> Status | None:
        unknown = sorted(asked.keys() - self.FIELDS)
        detail = [
            {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
            for name in unknown
        ]
        return Status(422, {"detail": detail}) if unknown else None


class TogetherLike(Dress):
    """Together: its list of models is a bare JSON array (together-python's `Models.list`)."""

    def routes(self) -> Routes:
        entries = [{**self.entry(name), "context_length": self.window} for name in self.models]
        body = json.dumps(entries)
        return {("GET", "/v1/models"): Status(200, body, headers={"Content-Type": "application/json"})}


class Troubled(Dress):
    """
    Any server, when requests with a field meet trouble that passes: a rate limit, an overload.

    :param dress: The server.
    :param field: The field.
    :param trouble: What such requests get.
    """

    def __init__(self, dress: Dress, field: str, trouble: Item) -> None:
        super().__init__()
        self.dress, self.field, self.trouble = dress, field, trouble

    def routes(self) -> Routes:
        return self.dress.routes()

    def __call__(self, request: Request) -> Item:
        return self.trouble if self.field in request.json else self.dress(request)


@contextmanager
def worn(dress: Dress, **settings: Any) -> Iterator[Endpoint]:
    """An endpoint that wears a dress."""
    with Endpoint(dress.models, routes=dress.routes(), **settings) as endpoint:
        endpoint.script(Always(dress))
        yield endpoint


# The model behind the dresses, and what a request asks for


def tokens_in(asked: Json) -> int:
    """Tokens of the messages and the tools."""
    sent = json.dumps([asked.get("messages"), asked.get("tools")], ensure_ascii=False).encode()
    return -(-len(sent) // BYTES_PER_TOKEN)


def calls_in_history(asked: Json) -> list[list[Json]]:
    """The calls of each earlier message that has some."""
    return [message["tool_calls"] for message in asked["messages"] if message.get("tool_calls")]


def broken_arguments(asked: Json) -> bool:
    """Whether an earlier call has arguments that are no JSON object."""
    texts = [call["function"]["arguments"] for calls in calls_in_history(asked) for call in calls]
    return not all(_is_object(text) for text in texts)


def schema_asked_for(asked: Json) -> Json | None:
    """The JSON schema that the reply is to be held to."""
    format_ = asked.get("response_format") or {}
    return format_["json_schema"]["schema"] if format_.get("type") == "json_schema" else None


def calls_wanted(asked: Json) -> list[Call]:
    """The calls that the model makes: those of `tool_choice`, else those that the question names."""
    tools = {tool["function"]["name"]: tool["function"] for tool in asked.get("tools") or ()}
    choice, question = asked.get("tool_choice", "auto"), _question(asked)
    if isinstance(choice, dict):
        return _calls_of(tools[choice["function"]["name"]], question)
    if choice == "none" or not tools:
        return []
    named = [tool for name, tool in tools.items() if re.search(rf"\b{name}\b", question)]
    if not named and choice == "required":
        named = [next(iter(tools.values()))]
    return [call for tool in named for call in _calls_of(tool, question)]


def text_wanted(asked: Json) -> str:
    """The model's answer."""
    results = _results(asked)
    return f"It is {' and '.join(results)}." if results else "Hello there!"


def instance(schema: Json, asked: Json) -> Any:
    """What the model writes where a schema holds it."""
    if "enum" in schema:
        # With a result in hand, it answers: the last of what it may pick.
        return schema["enum"][-1 if _results(asked) else 0]
    question = _question(asked)
    match schema.get("type"):
        case "object":
            numbers = iter(_NUMBER.findall(question))
            return {
                name: _number(next(numbers, "0"), part) if _is_numeric(part) else instance(part, asked)
                for name, part in schema.get("properties", {}).items()
            }
        case "array":
            return [instance(schema.get("items", {}), asked)]
        case "integer" | "number":
            return _number(next(iter(_NUMBER.findall(question)), "0"), schema)
        case "boolean":
            return True
        case _:
            return next(iter(_PLACE.findall(question)), "nothing")


def _calls_of(function: Json, question: str) -> list[Call]:
    properties = function["parameters"].get("properties", {})
    required = function["parameters"].get("required", list(properties))
    numbers, places = iter(_NUMBER.findall(question)), _PLACE.findall(question) or ["nowhere"]
    values = {
        name: _number(next(numbers, "0"), properties[name]) if _is_numeric(properties[name]) else None
        for name in required
    }
    open_ = [name for name, value in values.items() if value is None]
    per_place = places if open_ else places[:1]
    return [(function["name"], {**values, **dict.fromkeys(open_, place)}) for place in per_place]


def _question(asked: Json) -> str:
    """What the model is asked; nothing once there are results."""
    if asked["messages"][-1]["role"] == "tool":
        return ""
    texts = [_text(m) for m in asked["messages"] if m["role"] == "user" and "Reply with" not in _text(m)]
    return texts[-1] if texts else ""


def _results(asked: Json) -> list[str]:
    results = [_text(message) for message in asked["messages"] if message["role"] == "tool"]
    told = [_text(m) for m in asked["messages"] if m["role"] == "user" and _text(m).startswith("Result of ")]
    return results + [text.partition(": ")[2] for text in told]


def _text(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _is_numeric(schema: Json) -> bool:
    return schema.get("type") in ("integer", "number")


def _number(text: str, schema: Json) -> float | int:
    return int(float(text)) if schema.get("type") == "integer" else float(text)


def _is_object(text: object) -> bool:
    try:
        return isinstance(json.loads(str(text)), dict)
    except ValueError:
        return False
