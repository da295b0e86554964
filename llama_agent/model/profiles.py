"""
What is known of each kind of server, as data: a new server, or a quirk of one, is a row or a column here.

A row is what holds by default. `llama-agent probe --save` finds out what holds for one endpoint and model,
and keeps it (`model/saved_profiles.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PUBLISHED_BASE_URL = "https://api.llama.com/compat/v1/"
PUBLISHED_MODEL = "Llama-4-Scout-17B-16E-Instruct-FP8"
PUBLISHED_KEY_VARIABLE = "LLAMA_API_KEY"

ToolMode = Literal["native", "prompted", "constrained"]
"""
How tool calls come about: the server's own tool calling, tools described in the prompt, or replies held to
a JSON schema.
"""
ToolModeSetting = Literal["auto", "native", "prompted", "constrained"]
"""What a caller chooses; `auto` is what suits the endpoint."""
ToolChoice = Literal["none", "required", "named"]
"""Values of `tool_choice` beside `auto`; `named` is a function by name."""
ErrorShape = Literal["openai", "flat", "rfc7807", "fastapi", "text"]
"""
Shape of error bodies: `{"error": {"message"}}`, `{"message"}`, `{"title", "detail"}`, a list of `detail`s, or
`{"error": "text"}`.
"""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """
    What a server does with a model. None stands for unknown.

    :param tool_mode: How tool calls come about there.
    :param native_tools: Whether it makes tool calls of what the model writes.
    :param parallel_calls: Whether a reply may have several calls.
    :param asks_parallel: Whether several calls in a reply have to be asked for (`parallel_tool_calls`), as
        with llama.cpp.
    :param streamed_calls: Whether a call's arguments are streamed in pieces.
    :param tool_choice: The kinds of `tool_choice` that hold.
    :param json_schema: Whether `response_format` with a JSON schema holds.
    :param grammar: Whether llama.cpp's `grammar` field holds.
    :param stream_usage: Whether `stream_options` is sent, for the token counts of a streamed reply.
    :param strict_history: Whether earlier calls with broken arguments are refused.
    :param several_calls_in_history: Whether one assistant message may hold several calls.
    :param null_content: Whether an assistant message without text is sent with null, and not with "".
    :param context_tokens: Size of the window, in tokens.
    :param cuts_silently: Whether a prompt beyond the window is cut without an error, as Ollama does.
    :param error_shape: Shape of its errors.
    """

    tool_mode: ToolMode = "native"
    native_tools: bool | None = None
    parallel_calls: bool | None = None
    asks_parallel: bool = False
    streamed_calls: bool | None = None
    tool_choice: tuple[ToolChoice, ...] | None = None
    json_schema: bool | None = None
    grammar: bool | None = None
    stream_usage: bool = True
    strict_history: bool | None = None
    several_calls_in_history: bool | None = None
    null_content: bool = False
    context_tokens: int | None = None
    cuts_silently: bool = False
    error_shape: ErrorShape | None = None


@dataclass(frozen=True)
class EndpointProfile:
    """
    A kind of server.

    :param name: The preset's name; `custom` for any other.
    :param base_url: Where it usually listens; empty for the embedded model, which has no fixed address.
    :param key_variable: Environment variable that holds its key; None when it needs none.
    :param model: Model to use when none is named; None to ask the server.
    :param traits: What it does by default.
    :param small_model: Whether the little helps for a very small model apply (`model/small_model.py`).
    """

    name: str
    base_url: str
    key_variable: str | None = None
    model: str | None = None
    traits: Traits = Traits()
    small_model: bool = False


# What isn't known for sure is left unknown here, and found by a probe.
_EVERY_CHOICE: tuple[ToolChoice, ...] = ("none", "required", "named")
_LLAMA_CPP = Traits(
    asks_parallel=True,
    tool_choice=_EVERY_CHOICE,
    json_schema=True,
    grammar=True,
    strict_history=True,  # ggml-org/llama.cpp#25510
    error_shape="openai",
)
_GROQ = Traits(native_tools=True, parallel_calls=True, tool_choice=_EVERY_CHOICE, error_shape="openai")

PRESETS: Mapping[str, EndpointProfile] = {
    profile.name: profile
    for profile in (
        EndpointProfile(
            "embedded",
            "",
            model="embedded",
            # Other models than the small one may do more; the probe tells.
            traits=Traits(
                tool_mode="constrained",
                json_schema=True,
                grammar=True,
                context_tokens=8192,
                error_shape="openai",
            ),
            small_model=True,
        ),
        EndpointProfile(
            "ollama",
            "http://localhost:11434/v1",
            # tool_choice is passed over, and a long prompt cut from the front (ollama/ollama#18107).
            # 4,096 tokens is what it gives a model when nobody says more.
            traits=Traits(tool_choice=(), cuts_silently=True, context_tokens=4096, error_shape="openai"),
        ),
        EndpointProfile("llama.cpp", "http://localhost:8080/v1", traits=_LLAMA_CPP),
        EndpointProfile(
            "vllm",
            "http://localhost:8000/v1",
            traits=Traits(json_schema=True, strict_history=True, error_shape="openai"),
        ),
        EndpointProfile("lmstudio", "http://localhost:1234/v1"),
        EndpointProfile(
            "sglang",
            "http://localhost:30000/v1",
            traits=Traits(tool_choice=("required", "named"), json_schema=True, error_shape="flat"),
        ),
        EndpointProfile(
            "groq",
            "https://api.groq.com/openai/v1",
            "GROQ_API_KEY",
            "llama-3.3-70b-versatile",
            traits=_GROQ,
        ),
        EndpointProfile(
            "together",
            "https://api.together.xyz/v1",
            "TOGETHER_API_KEY",
            "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        ),
        EndpointProfile(
            "fireworks",
            "https://api.fireworks.ai/inference/v1",
            "FIREWORKS_API_KEY",
            "accounts/fireworks/models/llama-v3p3-70b-instruct",
        ),
        EndpointProfile(
            "openrouter",
            "https://openrouter.ai/api/v1",
            "OPENROUTER_API_KEY",
            "meta-llama/llama-3.3-70b-instruct",
        ),
        EndpointProfile("llama-api", PUBLISHED_BASE_URL, PUBLISHED_KEY_VARIABLE, PUBLISHED_MODEL),
    )
}
