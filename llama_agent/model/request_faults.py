"""What a server's refusal says about the request: whether waiting may help, or what has to change."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

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
    r"|request too large for model|prompt is too long|context length of only \d+",
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
    :returns: A `ContextOverflow`, a `ParameterRefused`, or another error that says what has to change; None
        when the request may be all right.
    """
    if (overflow := overflow_in(status, text)) is not None:
        return ContextOverflow(
            f"{told} The conversation, with its tools and room for the reply, is longer than the model's "
            "window: shorten it, offer fewer tools, lower max_tokens, or start the server with a larger one.",
            limit=overflow.limit,
            requested=overflow.requested,
            status=status,
            body=text,
        )
    if (cure := cure_of(said)) is not None:
        return EndpointError(f"{told} {cure}", status=status, body=text)
    if (parameter := refused_parameter_in(status, body, said)) is not None:
        cure = _PARAMETER_CURES.get(parameter, f"Leave '{parameter}' out of generation_kwargs.")
        return ParameterRefused(f"{told} {cure}", parameter=parameter, status=status, body=text)
    return None


_PARAMETER_CURES = {
    "tools": "Use tool_mode='constrained', or a model that knows tools.",
    "tool_choice": "Leave tool_choice out of generation_kwargs, or use tool_mode='constrained'.",
    "max_tokens": "Name it max_completion_tokens in generation_kwargs.",
    "max_completion_tokens": "Name it max_tokens in generation_kwargs.",
    "strict": "Use tools_strict=False.",
}
_REFUSING_STATUS = frozenset({400, 404, 405, 415, 422, 500, 501})
_NAME = r"[`'\"]?([A-Za-z_][\w.]{0,63})[`'\"]?"
_REFUSALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"argument supplied: {_NAME}",
        rf"(?:unsupported|unknown|unexpected|unrecognized) (?:parameter|param|property|argument|field|"
        rf"keyword argument|key\(s\) in object):? {_NAME}",
        rf"(?:parameter|param|property|argument|field) {_NAME} (?:is|are) (?:currently )?"
        r"(?:unsupported|not supported|unknown|not allowed|not permitted)",
        r"[`'\"]([A-Za-z_][\w.]{0,63})[`'\"](?: parameter| field| property)? (?:is|are) (?:currently )?"
        r"(?:unsupported|not supported|unknown|not allowed|not permitted)",
        rf"{_NAME}: extra inputs are not permitted",
        rf"does not support (?:the )?(?:parameter |field ){_NAME}",
        rf"does not support (?:the )?{_NAME} (?:parameter|field)",
    )
)
_CURES = (
    (
        r"requires --enable-auto-tool-choice",
        "Start vLLM with --enable-auto-tool-choice and the model's --tool-call-parser, or use "
        "tool_mode='constrained'.",
    ),
    (r"requires --jinja", "Start llama.cpp with --jinja, or use tool_mode='constrained'."),
    (
        r"does not support tools",
        "Take a model whose template has tools, or use tool_mode='constrained'.",
    ),
    (
        r"(?:response_format|json mode|json_schema).{0,80}(?:cannot|can't|not) be (?:combined|used) with",
        "Leave out response_format or the tools.",
    ),
    (
        r"only supports single tool-calls at once",
        "The model's template knows one call per turn: use tool_mode='constrained'.",
    ),
)


def cure_of(text: str) -> str | None:
    """
    What to do where a server says that it isn't set up for what was asked.

    :param text: The error's body.
    :returns: A sentence; None when it says something else.
    """
    for pattern, cure in _CURES:
        if re.search(pattern, text, re.IGNORECASE):
            return cure
    return None


def refused_parameter_in(status: int | None, body: object, text: str) -> str | None:
    """
    The field of the request that a server doesn't take.

    :param status: HTTP status; None for an error within a stream.
    :param body: The error's body as parsed JSON; None when it is none.
    :param text: What it says.
    :returns: The field's name; None when the error names none.
    """
    if status is not None and status not in _REFUSING_STATUS:
        return None
    for detail in _details(body):
        place = detail.get("loc")
        if detail.get("type") == "extra_forbidden" and isinstance(place, list) and place:
            names = [name for name in cast("list[object]", place) if isinstance(name, str) and name != "body"]
            return names[0] if names else None
    for pattern in _REFUSALS:
        if match := pattern.search(text):
            return match[1].rstrip(".")
    return None


def _details(body: object) -> Iterable[dict[str, Any]]:
    """FastAPI's list of what is wrong with the request."""
    if not isinstance(body, dict):
        return
    details = cast("dict[str, object]", body).get("detail")
    for item in cast("list[object]", details) if isinstance(details, list) else []:
        if isinstance(item, dict):
            yield cast("dict[str, Any]", item)
