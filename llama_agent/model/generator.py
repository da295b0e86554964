"""`MetaLlamaChatGenerator`: a Haystack chat generator for Llama and other open-weight models."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any, Literal, TypeVar, cast, get_args

from haystack import component, default_from_dict, default_to_dict
from haystack.components.generators.chat.openai import OpenAIChatGenerator
from haystack.core.serialization import allow_deserialization_module
from haystack.dataclasses import (
    ChatMessage,
    ComponentInfo,
    StreamingCallbackT,
    select_streaming_callback,
)
from haystack.tools import (
    ToolsType,
    deserialize_tools_or_toolset_inplace,
    flatten_tools_or_toolsets,
    serialize_tools_or_toolset,
)
from haystack.utils.auth import Secret
from haystack.utils.callable_serialization import (
    deserialize_callable,  # pyright: ignore[reportUnknownVariableType]
    serialize_callable,  # pyright: ignore[reportUnknownVariableType]
)
from openai import pydantic_function_tool
from openai._types import RequestOptions
from pydantic import BaseModel

from llama_agent.errors import ConfigurationError, EndpointError
from llama_agent.events import ToolCallsRecovered, ToolModeChanged, emit
from llama_agent.model.asking import Ask, Fetch, ModeFlow, ModelCall, Switch, Tell
from llama_agent.model.attempts import Answer, Attempts
from llama_agent.model.clients import Clients
from llama_agent.model.constrained import constrained
from llama_agent.model.early_calls import EarlyCalls, ReplyListener
from llama_agent.model.encoding import MessageEncoder
from llama_agent.model.modes import adaptive, native, prompted
from llama_agent.model.pacing import RateLimit, check_rate_limit
from llama_agent.model.profiles import (
    PUBLISHED_BASE_URL,
    PUBLISHED_KEY_VARIABLE,
    PUBLISHED_MODEL,
    ToolModeSetting,
)
from llama_agent.model.published_package import warn_if_installed
from llama_agent.model.replies import ChunkMaker, message_of
from llama_agent.model.retry import RetryPolicy, check_policy
from llama_agent.model.small_model import small_model
from llama_agent.model.streams import Json, Reply
from llama_agent.model.text_calls import Shown
from llama_agent.model.wire import LIST_MODELS, Transport
from llama_agent.output_room import is_output_shared
from llama_agent.redaction import redact
from llama_agent.tool_names import check_tool_names

# What `to_dict` names here may be loaded again: nothing else of this package, and no user's functions.
allow_deserialization_module(__name__)

T = TypeVar("T")

_LEAST_OUTPUT = 16
"""Tokens that a request is given, though nothing is left: with fewer a reply says nothing."""
_CLIENT_OPTIONS: dict[str, Literal["headers", "params", "timeout"]] = {
    "extra_headers": "headers",
    "extra_query": "params",
    "timeout": "timeout",
}
"""What the `openai` client's `create` takes beside the body's fields, and what it makes of it."""
_RESPONSE_FORMATS = frozenset({"text", "json_object", "json_schema", "grammar", "regex"})


@component
class MetaLlamaChatGenerator(OpenAIChatGenerator):
    """
    Chat generator for Llama and other open-weight models behind any OpenAI-compatible server.

    Its parameters are those of the published `meta-llama-haystack` integration; those after `tools` are new.
    Meta's hosted Llama API, its default endpoint, was retired on 2026-07-06: choose another by
    `api_base_url=` or by the environment variable `LLAMA_AGENT_ENDPOINT`, each a preset's name (`ollama`,
    `vllm`, `llama.cpp`, `groq`, …) or the base URL of a server.

    ```python
    from haystack.dataclasses import ChatMessage
    from llama_agent import MetaLlamaChatGenerator

    generator = MetaLlamaChatGenerator(api_base_url="ollama", model="llama3.2")
    print(generator.run([ChatMessage.from_user("What is a llama?")])["replies"][0].text)
    ```
    """

    def __init__(
        self,
        *,
        api_key: Secret | None = Secret.from_env_var(PUBLISHED_KEY_VARIABLE),  # noqa: B008 - the published signature
        model: str | None = PUBLISHED_MODEL,
        streaming_callback: StreamingCallbackT | None = None,
        api_base_url: str | None = PUBLISHED_BASE_URL,
        generation_kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        tools: ToolsType | None = None,
        tools_strict: bool = False,
        http_client_kwargs: dict[str, Any] | None = None,
        tool_mode: ToolModeSetting = "auto",
        retry: RetryPolicy | None = None,
        rate_limit: RateLimit | None = None,
        calls_after_prose: bool = False,
    ) -> None:
        """
        Store the settings; nothing is read from the environment or opened before `warm_up`.

        :param api_key: The endpoint's key. The default, `LLAMA_API_KEY`, is only ever sent to `*.llama.com`;
            other endpoints use `LLAMA_AGENT_API_KEY` or their preset's own variable (`GROQ_API_KEY`, …).
        :param model: Model name. None, and the default on any other host, mean: `LLAMA_AGENT_MODEL`, the
            preset's model, or the only one that the server lists.
        :param streaming_callback: Called with each `StreamingChunk`; makes the reply stream.
        :param api_base_url: A preset's name or a base URL. `LLAMA_AGENT_ENDPOINT` takes the place of the
            default. None means: `LLAMA_AGENT_ENDPOINT`, else the embedded model if it is installed.
        :param generation_kwargs: Fields for the request's body: `max_tokens`, `temperature`, `top_p`,
            `stream`, `response_format` (a pydantic model or a JSON schema), and whatever else the server
            knows.
        :param timeout: Seconds the server may be silent before the attempt counts as failed. Default: the
            environment's `OPENAI_TIMEOUT`, else 300.
        :param max_retries: Further attempts after a transient failure; n retries are n+1 attempts. Default:
            the environment's `OPENAI_MAX_RETRIES`, else 5.
        :param tools: Tools the model may call: Haystack Tools or Toolsets.
        :param tools_strict: Ask the server to hold arguments to the tools' schemas.
        :param http_client_kwargs: Settings for `httpx2.Client` and `httpx2.AsyncClient`: proxies, TLS.
        :param tool_mode: How tool calls come about: `native` (the server's own), `prompted` (tools described
            in the system message, calls read in the reply's text), `constrained` (replies held to a JSON
            schema), or `auto`: what suits the endpoint, and `prompted` once it refuses tools. Calls that
            arrive as text are read in each of them.
        :param retry: When a failed request is sent again. It wins over `max_retries`.
        :param rate_limit: How fast the endpoint may be asked, by all generators of this process that have one
            of these for the same endpoint and key. Default: as fast as can be.
        :param calls_after_prose: Whether a call that is written as plain JSON or Python behind some prose
            counts, where it is the last thing in the reply, stands on lines of its own, and its arguments
            fit. Off, since an answer may end in an example.
        :raises ConfigurationError: Two tools have one name, or `max_retries` is negative.
        """
        check_policy(retry)
        check_rate_limit(rate_limit)
        if max_retries is not None and max_retries < 0:
            raise ConfigurationError(f"max_retries must be 0 or more, not {max_retries}")
        if (tool_mode := tool_mode or "auto") not in get_args(ToolModeSetting):
            modes = ", ".join(f"'{mode}'" for mode in get_args(ToolModeSetting))
            raise ConfigurationError(f"tool_mode must be one of {modes}, not {tool_mode!r}")
        check_tool_names(flatten_tools_or_toolsets(tools))
        warn_if_installed()
        super(MetaLlamaChatGenerator, self).__init__(  # noqa: UP008 - @component re-creates the class
            api_key=cast("Secret", api_key),
            model=cast("str", model),
            streaming_callback=streaming_callback,
            api_base_url=api_base_url,
            generation_kwargs=generation_kwargs,
            timeout=timeout,
            max_retries=max_retries,
            tools=tools,
            tools_strict=tools_strict,
            http_client_kwargs=http_client_kwargs,
        )
        self.tool_mode: ToolModeSetting = tool_mode
        self.calls_after_prose = calls_after_prose
        self._learned: dict[str, str] = {}
        self._without_choice: set[str] = set()
        self._shown = Shown()
        self.retry = retry
        self.rate_limit = rate_limit
        self._clients = Clients(api_base_url, model, api_key, timeout, http_client_kwargs)
        self._transport = Transport(MessageEncoder())

    @property
    def context_tokens(self) -> int | None:
        """
        Size of the model's window, in tokens; None when it isn't known. `llama-agent probe --save` finds out.

        :raises ConfigurationError: No endpoint is chosen, or its key is missing.
        """
        return self._clients.traits(self._clients.known_model).context_tokens

    def holds_to_schema(self, *, beside_tools: bool) -> bool:
        """
        Whether the server holds a reply to a JSON schema (`response_format`), as far as its profile says.

        :param beside_tools: Whether also while tools are on offer. Then it is only so in constrained mode,
            which asks for calls and answers in separate requests: servers refuse the two together (Groq), or
            make no more calls (vLLM).
        :returns: True then.
        :raises ConfigurationError: No endpoint is chosen, or its key is missing.
        """
        model = self._clients.known_model
        is_constrained = self._mode(model) == "constrained"
        return is_constrained or (not beside_tools and self._clients.traits(model).json_schema is True)

    def warm_up(self) -> None:
        """
        Resolve the endpoint and open the client; does nothing when that has been done.

        :raises ConfigurationError: No endpoint is chosen, or its key is missing.
        """
        self.client = self._clients.sync_client()

    async def warm_up_async(self) -> None:
        """
        Resolve the endpoint and open the running event loop's client.

        :raises ConfigurationError: No endpoint is chosen, or its key is missing.
        """
        self.async_client = await self._clients.async_client()

    def close(self) -> None:
        """Close the sync client. A later `run` opens another."""
        self.client = None
        self._clients.close()

    async def close_async(self) -> None:
        """Close the running event loop's client and the sync one."""
        self.client = self.async_client = None
        await self._clients.close_async()

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
        tools_strict: bool | None = None,
        retry: RetryPolicy | None = None,
        withheld: Collection[str] = (),
        listener: ReplyListener | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """
        Ask the model.

        :param messages: The conversation; a string is one user message.
        :param streaming_callback: Called with each chunk; wins over the constructor's. When a stream breaks
            and the model is asked again, an empty chunk comes first: its `meta["superseded"]` is the number
            of characters shown so far that no longer count.
        :param generation_kwargs: Fields for the request's body; each wins over the constructor's, None leaves
            it out.
            `extra_body`, `extra_headers`, `extra_query` and `timeout` (seconds) mean what they mean to the
            `openai` client.
        :param tools: Tools for this call, in place of the constructor's.
        :param tools_strict: For this call, in place of the constructor's.
        :param retry: For this call, in place of the constructor's. An `Agent` gives its own here.
        :param withheld: Names among the tools that aren't on offer in this call; a reply that calls one all
            the same is still understood. For a loop that keeps a tool back for a turn.
        :param listener: Told of a streamed reply's calls as each is complete. For a loop that runs them
            early.
        :returns: `replies`: one assistant message per choice. Its `meta` holds `model`, `finish_reason` and
            `usage`.
        :raises EndpointError: The server failed, retries included, or its answer is no reply.
        :raises ConfigurationError: No endpoint, key or model can be found, or a setting can't be sent.
        """
        if isinstance(messages, list) and not messages:
            return {"replies": []}
        callback = select_streaming_callback(
            self.streaming_callback, streaming_callback, requires_async=False
        )
        self.client = client = self._clients.sync_client()
        attempts = self._attempts(retry, callback)
        model = self._clients.known_model
        if model is None:
            model = self._clients.choose_model(cast("Json", attempts.perform(client, Fetch(LIST_MODELS))))
        streams = callback is not None
        call = self._model_call(messages, streams, generation_kwargs, tools, tools_strict, model, withheld)
        attempts = self._told_early(attempts, call, listener)
        flow, outcome, failure, room = self._flow(call), None, None, _Room(call)
        while True:
            try:
                effect = flow.send(outcome) if failure is None else flow.throw(failure)
            except StopIteration as end:
                return self._output(end.value, call)
            outcome, failure = None, None
            try:
                if isinstance(effect, Ask | Fetch):
                    effect = self._with_options(room.left(effect), generation_kwargs)
                    outcome = room.took(attempts.perform(client, effect))
                elif isinstance(effect, Tell):
                    attempts.tell(effect.reply)
                else:
                    self._switch(call, effect)
            except EndpointError as error:
                failure = error

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
        tools_strict: bool | None = None,
        retry: RetryPolicy | None = None,
        withheld: Collection[str] = (),
        listener: ReplyListener | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """
        Ask the model, on the running event loop.

        :param messages: As in `run`.
        :param streaming_callback: As in `run`; may be a coroutine function.
        :param generation_kwargs: As in `run`.
        :param tools: As in `run`.
        :param tools_strict: As in `run`.
        :param retry: As in `run`.
        :param withheld: As in `run`.
        :param listener: As in `run`.
        :returns: As `run`.
        :raises EndpointError: As `run`.
        :raises ConfigurationError: As `run`.
        """
        if isinstance(messages, list) and not messages:
            return {"replies": []}
        callback = select_streaming_callback(self.streaming_callback, streaming_callback, requires_async=True)
        self.async_client = client = await self._clients.async_client()
        attempts = self._attempts(retry, callback)
        model = self._clients.known_model
        if model is None:
            listed = await attempts.perform_async(client, Fetch(LIST_MODELS))
            model = self._clients.choose_model(cast("Json", listed))
        streams = callback is not None
        call = self._model_call(messages, streams, generation_kwargs, tools, tools_strict, model, withheld)
        attempts = self._told_early(attempts, call, listener)
        flow, outcome, failure, room = self._flow(call), None, None, _Room(call)
        while True:
            try:
                effect = flow.send(outcome) if failure is None else flow.throw(failure)
            except StopIteration as end:
                return self._output(end.value, call)
            outcome, failure = None, None
            try:
                if isinstance(effect, Ask | Fetch):
                    effect = self._with_options(room.left(effect), generation_kwargs)
                    outcome = room.took(await attempts.perform_async(client, effect))
                elif isinstance(effect, Tell):
                    await attempts.tell_async(effect.reply)
                else:
                    self._switch(call, effect)
            except EndpointError as error:
                failure = error

    def to_dict(self) -> dict[str, Any]:
        """
        Serialize the component.

        :returns: Data for `from_dict`.
        :raises ConfigurationError: A setting holds a password or key; saved files are no place for one.
        :raises ValueError: The key is a token: use `Secret.from_env_var`.
        """
        generation_kwargs = _without_secrets("generation_kwargs", dict(self.generation_kwargs))
        if "response_format" in generation_kwargs:
            generation_kwargs["response_format"] = _response_format(generation_kwargs["response_format"])
        return default_to_dict(
            self,
            api_key=self.api_key.to_dict() if self.api_key else None,
            model=self.model,
            streaming_callback=serialize_callable(self.streaming_callback)
            if self.streaming_callback
            else None,
            api_base_url=_without_secrets("api_base_url", self.api_base_url),
            generation_kwargs=generation_kwargs,
            timeout=self.timeout,
            max_retries=self.max_retries,
            tools=serialize_tools_or_toolset(self.tools),
            tools_strict=self.tools_strict,
            http_client_kwargs=_without_secrets("http_client_kwargs", self.http_client_kwargs),
            tool_mode=self.tool_mode,
            retry=asdict(self.retry) if self.retry else None,
            rate_limit=asdict(self.rate_limit) if self.rate_limit else None,
            calls_after_prose=self.calls_after_prose,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MetaLlamaChatGenerator:
        """
        Deserialize the component.

        :param data: Made by `to_dict`, or by the published integration. It isn't changed.
        :returns: The component.
        """
        data = deepcopy(data)
        settings = cast("dict[str, Any]", data.setdefault("init_parameters", {}))
        deserialize_tools_or_toolset_inplace(settings, key="tools")
        if (callback := settings.get("streaming_callback")) is not None:
            settings["streaming_callback"] = deserialize_callable(callback)
        if (retry := settings.get("retry")) is not None:
            settings["retry"] = RetryPolicy(**retry)
        if (limit := settings.get("rate_limit")) is not None:
            settings["rate_limit"] = RateLimit(**limit)
        return cast("MetaLlamaChatGenerator", default_from_dict(cls, data))

    def _flow(self, call: ModelCall) -> ModeFlow:
        model = str(call.fields["model"])
        traits = self._clients.traits(model)
        self._transport.suit(traits)
        is_auto = self.tool_mode == "auto"
        match self._mode(model):
            case "native":
                return adaptive(call) if is_auto else native(call)
            case "prompted":
                return prompted(call)
            case _ if is_auto and self._clients.endpoint.profile.small_model:
                return small_model(call)
            case _:
                return constrained(call)

    def _mode(self, model: str | None) -> str:
        """How tool calls come about."""
        if self.tool_mode != "auto":
            return self.tool_mode
        return self._learned.get(model or "", self._clients.traits(model).tool_mode)

    def _switch(self, call: ModelCall, to: Switch) -> None:
        model = str(call.fields["model"])
        if to.mode is None:
            self._without_choice.add(model)
        else:
            self._learned[model] = to.mode
            emit(ToolModeChanged, mode=to.mode, reason=to.reason)

    def _output(self, replies: list[Reply], call: ModelCall) -> dict[str, list[ChatMessage]]:
        names = [tool.name for tool in call.known_tools]
        for reply in replies:
            if reply.recovered:
                called = tuple(text_call.name for text_call in reply.calls)
                emit(ToolCallsRecovered, format=reply.recovered, tool_names=called)
        taken = self._transport.ids(call.messages) if any(reply.calls for reply in replies) else ()
        return {"replies": [message_of(reply, names, taken) for reply in replies]}

    def _model_call(
        self,
        messages: list[ChatMessage] | str,
        streams: bool,
        generation_kwargs: dict[str, Any] | None,
        tools: ToolsType | None,
        tools_strict: bool | None,
        model: str,
        withheld: Collection[str],
    ) -> ModelCall:
        given = {**self.generation_kwargs, **(generation_kwargs or {})}
        fields: Json = {"model": model, **{name: value for name, value in given.items() if value is not None}}
        fields.update(fields.pop("extra_body", None) or {})
        for name in _CLIENT_OPTIONS:
            fields.pop(name, None)
        stream = bool(fields.pop("stream", False)) or streams
        if stream and fields.get("n", 1) != 1:
            raise ConfigurationError(
                "several replies can't be streamed: leave out n, or the streaming callback"
            )
        response_format = _response_format(fields.pop("response_format", None))
        if response_format is not None:
            fields["response_format"] = response_format
        offered = flatten_tools_or_toolsets(self.tools if tools is None else tools)
        check_tool_names(offered)
        if _chosen(fields.get("tool_choice")) in withheld:
            del fields["tool_choice"]
        conversation = [ChatMessage.from_user(messages)] if isinstance(messages, str) else messages
        for message in conversation:
            if not isinstance(message, ChatMessage):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
                raise ConfigurationError(f"messages must be ChatMessages, not {type(message).__name__}")
        return ModelCall(
            messages=tuple(conversation),
            tools=tuple(tool for tool in offered if tool.name not in withheld),
            fields=fields,
            stream=stream,
            strict=self.tools_strict if tools_strict is None else tools_strict,
            after_prose=self.calls_after_prose,
            shown=self._shown,
            sends_choice=model not in self._without_choice,
            withheld=tuple(tool for tool in offered if tool.name in withheld),
        )

    def _with_options(self, effect: Ask | Fetch, generation_kwargs: dict[str, Any] | None) -> Ask | Fetch:
        given = {**self.generation_kwargs, **(generation_kwargs or {})}
        options = RequestOptions()
        for name, option in _CLIENT_OPTIONS.items():
            if given.get(name) is not None:
                options[option] = given[name]
        return replace(effect, request=replace(effect.request, options=options)) if options else effect

    def _attempts(self, retry: RetryPolicy | None, callback: StreamingCallbackT | None) -> Attempts:
        return Attempts(
            transport=self._transport,
            policy=self.retry_policy(retry),
            pacer=self._clients.pacer,
            limit=self.rate_limit,
            callback=callback,
            maker=ChunkMaker(ComponentInfo.from_component(self)),
        )

    def _told_early(self, attempts: Attempts, call: ModelCall, listener: ReplyListener | None) -> Attempts:
        if listener is None or not call.stream:
            return attempts
        names = [tool.name for tool in call.known_tools]
        early = EarlyCalls(listener, names, lambda: self._transport.ids(call.messages))
        return replace(attempts, early=early)

    def retry_policy(self, given: RetryPolicy | None = None) -> RetryPolicy:
        """
        When a failed request is sent again.

        :param given: A call's own policy.
        :returns: It, else the generator's `retry`, else what its `max_retries` or the environment says.
        :raises ConfigurationError: `OPENAI_MAX_RETRIES` is no number.
        """
        if (policy := given or self.retry) is not None:
            return policy
        if self.max_retries is not None:
            return RetryPolicy(max_retries=self.max_retries)
        text = os.environ.get("OPENAI_MAX_RETRIES", "")
        if not text:
            return RetryPolicy()
        if not text.isdecimal():
            raise ConfigurationError(f"OPENAI_MAX_RETRIES must be a whole number, not {text!r}")
        return RetryPolicy(max_retries=int(text))


class _Room:
    """The output tokens that the requests of one model call share, where they do."""

    def __init__(self, call: ModelCall) -> None:
        limits = (call.fields.get(name) for name in ("max_completion_tokens", "max_tokens"))
        self._most = next((limit for limit in limits if isinstance(limit, int)), None)
        self._used = 0

    def left(self, effect: Ask | Fetch) -> Ask | Fetch:
        """The request, with no more than is left."""
        if self._most is None or not self._used or not is_output_shared() or isinstance(effect, Fetch):
            return effect
        left = max(_LEAST_OUTPUT, self._most - self._used)
        fields = dict(effect.request.fields)
        for name in ("max_completion_tokens", "max_tokens"):
            if isinstance(fields.get(name), int):
                fields[name] = min(fields[name], left)
        return replace(effect, request=replace(effect.request, fields=fields))

    def took(self, outcome: Answer) -> Answer:
        """The outcome; what it took is counted."""
        for reply in outcome if isinstance(outcome, list) else ():
            count = reply.usage.get("completion_tokens")
            self._used += count if isinstance(count, int) else 0
        return outcome


def _chosen(tool_choice: object) -> object:
    """The tool that has to be called; None where the choice is another."""
    function = cast("Json", tool_choice).get("function") if isinstance(tool_choice, dict) else None
    return cast("Json", function).get("name") if isinstance(function, dict) else None


def _without_secrets(name: str, value: T) -> T:
    """Refuse to save a setting that holds a secret: masked, it would no longer work."""
    text = json.dumps(value, default=repr)
    if redact(text) != text or re.search(
        r'"(?:[^"]*[-_])?(?:authorization|api[-_]?key|cookie)"\s*:', text, re.I
    ):
        raise ConfigurationError(
            f"{name} holds a secret, which can't be saved: give keys as api_key=Secret.from_env_var(...)"
        )
    return value


def _response_format(value: object) -> Json | None:
    """
    `response_format` as it goes on the wire: a pydantic model or a bare JSON schema becomes a `json_schema`.
    """
    if value is None:
        return None
    if isinstance(value, type) and issubclass(value, BaseModel):
        schema = cast("Json", pydantic_function_tool(value)["function"].get("parameters"))
        return {
            "type": "json_schema",
            "json_schema": {"name": value.__name__, "strict": True, "schema": schema},
        }
    if not isinstance(value, dict):
        raise ConfigurationError(
            "response_format must be a pydantic model, a JSON schema or OpenAI's own form"
        )
    given = cast("Json", value)
    kind = given.get("type")
    if isinstance(kind, str) and kind in _RESPONSE_FORMATS:
        return given
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(given.get("title") or "answer"))[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": given}}
