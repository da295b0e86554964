"""What a server's refusal says about the request: whether waiting may help, or what has to change."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from llama_agent.errors import ContextOverflow, EndpointError, ParameterRefused

_LASTING = re.compile(
    r"not.?found|no such|does.?n.?t exist|invalid|unauthori[sz]ed|forbidden|unsupported|not supported|quota"
    r"|credit|billing|api.?key",
    re.IGNORECASE,
)

RETRYABLE_STATUS = frozenset({408, 409, 429})
"""
Client-error statuses that may pass by themselves; every 5xx is one too, except those of `REQUEST_FAULTS`.
"""

TOO_LARGE = "request too large"
"""Groq's status 429 for a request beyond the whole limit of a minute: waiting never helps."""

REQUEST_FAULTS = ("failed to parse tool call arguments", "jinja", "raise_exception", "tools param")
"""Texts of llama.cpp's status 500 that blame the request: waiting never helps (ggml-org/llama.cpp#25510)."""


def blames_the_request(text: str) -> bool:
    """
    Whether an error that came without a status says that the request itself can't work.

    :param text: What the server said, codes and all.
    :returns: True for a model that isn't there, a key that isn't known, credit that is used up, and the like.
    """
    return bool(_LASTING.search(text))


def is_retryable(status: int, body: str) -> bool:
    """
    Whether an HTTP error may pass by itself.

    :param status: HTTP status.
    :param body: The response's body.
    :returns: True for 408, 409, 429 and 5xx, unless the body blames the request or its size.
    """
    if status >= 500:
        lowered = body.lower()
        return not any(fault in lowered for fault in REQUEST_FAULTS)
    if status == 429 and TOO_LARGE in body.lower():
        return False
    return status in RETRYABLE_STATUS


@dataclass(frozen=True)
class Overflow:
    """
    A request that is longer than what the server takes.

    :param limit: Tokens that it takes, where it says so.
    :param requested: Tokens that were asked of it, those of the reply included where it counts them.
    """

    limit: int | None
    requested: int | None


_OVERFLOWS = re.compile(
    r"exceed_context_size|exceeds the (?:available|maximum|model'?s?)? ?(?:maximum )?context (?:size|length)"
    r"|(?:maximum|model'?s) context length|context_length_exceeded|longer than the maximum model length"
    r"|inputs?`? tokens \+ `?max_new_tokens`? must be <=|inputs?`? must have less than \d+ tokens"
    r"|request too large|prompt is too long|context length of only \d+|context length is only \d+",
    re.IGNORECASE,
)
_N = r"(\d[\d,]{0,14})"
_LIMITS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\"n_ctx\": ?{_N}",
        rf"context (?:length|size|window)(?: of| is|:)?(?: only)? \(?{_N}",
        rf"maximum model length of {_N}",
        rf"must be <= {_N}",
        rf"must have less than {_N}",
        rf"\blimit(?: is|:)? {_N}",
        rf"> {_N} maximum",
    )
)
_REQUESTED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\"n_prompt_tokens\": ?{_N}",
        rf"too large: {_N}\D.{{0,200}}request has {_N} input",
        rf"passed {_N} input tokens and requested {_N} output",
        rf"given: {_N} `?inputs?`? tokens and {_N}",
        rf"given: {_N}",
        rf"\brequested:?(?: a total of| about)? {_N}",
        rf"request \({_N} tokens",
        rf"\bhas {_N} input tokens",
        rf"input \({_N} tokens",
        rf"prompt \(length {_N}\)",
        rf"prompt is too long: {_N}",
        rf"current length is {_N}",
        rf"keep the first {_N} tokens",
    )
)


def overflow_in(status: int | None, text: str) -> Overflow | None:
    """
    Whether a server refuses a request because it doesn't fit into the model's window.

    The texts are those of llama.cpp, vLLM, SGLang, TGI, Groq, LM Studio, OpenRouter and OpenAI.

    :param status: HTTP status; None for an error within a stream.
    :param text: The error's body.
    :returns: The numbers that it names; None when it says something else.
    """
    if status == 429 and TOO_LARGE not in text.lower():
        return None
    if not _OVERFLOWS.search(text):
        return None
    return Overflow(_sum_in(_LIMITS, text), _sum_in(_REQUESTED, text))


def _sum_in(patterns: Iterable[re.Pattern[str]], text: str) -> int | None:
    for pattern in patterns:
        if match := pattern.search(text):
            return sum(int(number.replace(",", "")) for number in match.groups())
    return None


def request_fault(
    told: str, *, status: int | None, body: object, text: str, said: str
) -> EndpointError | None:
    """
    The error for a refusal that the request itself is to blame for.

    :param told: What to say first: who answered what.
    :param status: HTTP status; None for an error within a stream.
    :param body: The error's body as parsed JSON; None when it is none.
    :param text: The error's body as text.
    :param said: The message in it.
    :returns: A `ContextOverflow`, a `ParameterRefused` or one with a `failed_generation`; None when the
        request may be all right.
    """
    if (overflow := overflow_in(status, _essence(body, said))) is not None:
        return ContextOverflow(
            f"{told} The conversation, with its tools and room for the reply, is longer than the model's "
            "window: shorten it, offer fewer tools, lower max_tokens, or start the server with a larger one.",
            limit=overflow.limit,
            requested=overflow.requested,
            status=status,
            body=text,
        )
    if (generation := _failed_generation(body)) is not None:
        return EndpointError(
            f"{told} The model's tool call could not be read by the server.",
            status=status,
            body=text,
            failed_generation=generation,
        )
    if (refusal := refusal_in(status, body, said)) is not None:
        name, cure = refusal
        return ParameterRefused(f"{told} {cure}", parameter=name, status=status, body=text)
    return None


def _failed_generation(body: object) -> str | None:
    """What the model wrote, where the server could make no call of it (langchain-ai/langchain#31440)."""
    error = _object(_object(body).get("error"))
    if error.get("code") != "tool_use_failed" and "failed_generation" not in error:
        return None
    generation = error.get("failed_generation")
    return generation if isinstance(generation, str) else ""


def _essence(body: object, said: str) -> str:
    """What an error says, its code and its numbers; not what it repeats of the request."""
    fields = _object(body)
    error = _object(fields.get("error")) or fields
    told = [f'"{key}": {error[key]}' for key in ("n_prompt_tokens", "n_ctx") if type(error.get(key)) is int]
    return " ".join([said, *(str(error.get(key, "")) for key in ("code", "type", "error_type")), *told])


_REFUSING_STATUS = frozenset({400, 404, 405, 415, 422, 500, 501})
_FIELDS = (
    CompletionCreateParamsBase.__required_keys__
    | CompletionCreateParamsBase.__optional_keys__
    | {"stream", "top_k", "min_p", "repetition_penalty", "repeat_penalty", "grammar", "chat_template_kwargs"}
)
"""Fields that requests have; others are recognised only where a server plainly speaks of a parameter."""
_NAME = r"[`'\"]?([A-Za-z_][\w.]{0,63})[`'\"]?"
_REFUSALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"argument supplied: {_NAME}",
        rf"(?:unsupported|unknown|unexpected|unrecognized) (?:parameter|param|property|argument|field|"
        rf"keyword argument|key\(s\) in object):? {_NAME}",
        rf"(?:parameter|param|property|argument|field) {_NAME} (?:is|are) (?:currently )?"
        r"(?:unsupported|not supported|unknown|not allowed|not permitted)",
        rf"{_NAME}: extra inputs are not permitted",
        rf"extra inputs are not permitted, field: {_NAME}",
        r"extra_forbidden.{1,20}loc.{1,8}body\W{1,6}(\w{1,63})",
        rf"does not support (?:the )?(?:parameter |field ){_NAME}",
        rf"does not support (?:the )?{_NAME} (?:parameter|field)",
    )
)
_VAGUE_REFUSAL = re.compile(
    r"[`'\"]([A-Za-z_][\w.]{0,63})[`'\"] (?:is|are) (?:currently )?"
    r"(?:unsupported|not supported|unknown|not allowed|not permitted)",
    re.IGNORECASE,
)
_CURES = (
    (
        r"requires --enable-auto-tool-choice",
        "tool_choice",
        "Start vLLM with --enable-auto-tool-choice and the model's --tool-call-parser, or use "
        "tool_mode='constrained'.",
    ),
    (r"requires --jinja", "tools", "Start llama.cpp with --jinja, or use tool_mode='constrained'."),
    (
        r"does not support tools",
        "tools",
        "Take a model whose template has tools, or use tool_mode='constrained'.",
    ),
    (
        r"(?:response_format|json mode|json_schema).{0,80}(?:cannot|can't|not) be (?:combined|used) with",
        "response_format",
        "Leave out response_format or the tools.",
    ),
    (
        r"only supports single tool-calls at once",
        "tool_calls",
        "The model's template knows one call per turn: use tool_mode='constrained'.",
    ),
)
_PARAMETER_CURES = {
    "tools": "Use tool_mode='constrained', or a model that knows tools.",
    "tool_choice": "Leave tool_choice out of generation_kwargs, or use tool_mode='constrained'.",
    "max_tokens": "Name it max_completion_tokens in generation_kwargs.",
    "max_completion_tokens": "Name it max_tokens in generation_kwargs.",
    "strict": "Use tools_strict=False.",
}


def refusal_in(status: int | None, body: object, said: str) -> tuple[str, str] | None:
    """
    What a server doesn't take, or isn't set up for.

    :param status: HTTP status; None for an error within a stream.
    :param body: The error's body as parsed JSON; None when it is none.
    :param said: The message in it.
    :returns: The field's name and the cure; None when the error says something else.
    """
    if status is not None and status not in _REFUSING_STATUS:
        return None
    for pattern, name, cure in _CURES:
        if re.search(pattern, said, re.IGNORECASE):
            return name, cure
    name = _refused_name(body, said)
    return None if name is None else (name, _PARAMETER_CURES.get(name) or _leave_out(name))


def _leave_out(name: str) -> str:
    return f"Leave '{name}' out of generation_kwargs."


def _refused_name(body: object, said: str) -> str | None:
    for detail in _details(body):
        if detail.get("type") == "extra_forbidden":
            return _name_at(detail.get("loc"))
    error = _object(_object(body).get("error"))
    parameter = error.get("param")
    if isinstance(parameter, str) and "unsupported" in f"{error.get('code')} {error.get('type')}":
        return parameter.partition(".")[0] or None
    for pattern in _REFUSALS:
        if match := pattern.search(said):
            name = match[1].partition(".")[0]
            return name if name != "messages" else None
    match = _VAGUE_REFUSAL.search(said)
    name = match[1].partition(".")[0] if match else ""
    return name if name in _FIELDS and name != "messages" else None


def _name_at(place: object) -> str | None:
    """The field that a place in the body belongs to; None within the messages, which are no setting."""
    names = (
        [name for name in cast("list[object]", place) if isinstance(name, str)]
        if isinstance(place, list)
        else []
    )
    names = [name for name in names if name != "body"]
    if not names or names[0] == "messages":
        return None
    return "strict" if names[0] == "tools" and names[-1] == "strict" else names[0]


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _details(body: object) -> Iterable[dict[str, object]]:
    """FastAPI's list of what is wrong with the request."""
    details = _object(body).get("detail")
    return map(_object, cast("list[object]", details)) if isinstance(details, list) else ()
