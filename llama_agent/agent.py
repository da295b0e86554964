"""`Agent`: a Haystack Agent with a loop of its own. Joins the three wings: tools, model, loop."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any, Literal, Self, TypeAlias, cast
from uuid import uuid4

from haystack import component
from haystack.components.agents import Agent as HaystackAgent
from haystack.components.agents.state.state import State
from haystack.components.generators.chat.types import ChatGenerator
from haystack.core.serialization import allow_deserialization_module
from haystack.dataclasses import ChatMessage, ChatRole, StreamingCallbackT, select_streaming_callback
from haystack.hooks.protocol import Hook, HookPoint
from haystack.tools import ToolsType, flatten_tools_or_toolsets, warm_up_tools, warm_up_tools_async
from haystack.tools.tool import Tool
from haystack.tools.toolset import Toolset

from llama_agent.arguments import nearest
from llama_agent.cancel import CancelToken, check_token, current_cancel, ended_by, joined
from llama_agent.errors import ConfigurationError, ToolDefinitionWarning
from llama_agent.events import EventSink, OnEvent, current_sink
from llama_agent.haystack_compat import render_prompt_messages
from llama_agent.loop.drivers import drive, drive_async
from llama_agent.loop.flow import LoopPolicy, agent_flow
from llama_agent.loop.limits import Budget, Limits, current_budget
from llama_agent.loop.output import OutputPlan
from llama_agent.loop.repeats import TIMES
from llama_agent.loop.state import RunResult, RunState
from llama_agent.model.generator import MetaLlamaChatGenerator
from llama_agent.model.retry import RetryPolicy, check_policy
from llama_agent.performer import Performer, RunSettings
from llama_agent.streaming import AsyncRunStream, Channel, RunStream
from llama_agent.sub_agents import SubAgentTool, sub_agent_tool
from llama_agent.tool_names import check_tool_names
from llama_agent.tool_sizes import ASSUMED_WINDOW, size_warning
from llama_agent.tooling.approval import Approval
from llama_agent.tooling.big_results import BigResults, first_number
from llama_agent.tooling.call_options import check_seconds
from llama_agent.tooling.execution import Execution
from llama_agent.tooling.given_tools import as_tools
from llama_agent.tooling.output_type import OutputType, loaded_type, saved_type
from llama_agent.tooling.processes import check_not_in_import
from llama_agent.tooling.slots import Slots, current_place
from llama_agent.tooling.tool import FunctionTool, hints_of, is_function_tool

# What `to_dict` names here may be loaded again: nothing else of this package, and no user's functions.
allow_deserialization_module(__name__)

Messages: TypeAlias = str | list[ChatMessage]


@component
class Agent(HaystackAgent):
    """
    Lets a model call tools until it can answer.

    A Haystack `Agent` in every place that takes one; the loop, the tool execution and the default generator
    are ours.

    ```python
    from llama_agent import Agent


    def add(a: int, b: int) -> int:
        \"\"\"Add two whole numbers.\"\"\"
        return a + b


    with Agent(tools=[add]) as agent:
        result = agent.run("What is 17 plus 25?")
        print(result.text, result.usage, result.stop_reason)
    ```
    """

    def __init__(
        self,
        *,
        chat_generator: ChatGenerator | None = None,
        tools: Any = None,
        system_prompt: str | None = None,
        user_prompt: str | None = None,
        required_variables: list[str] | Literal["*"] | None = "*",
        exit_conditions: list[str] | None = None,
        state_schema: dict[str, Any] | None = None,
        max_agent_steps: int = 100,
        streaming_callback: StreamingCallbackT | None = None,
        raise_on_tool_invocation_failure: bool = False,
        tool_concurrency_limit: int = 4,
        tool_streaming_callback_passthrough: bool = False,
        hooks: dict[HookPoint, list[Hook]] | None = None,
        approval: Approval | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        tool_timeout: float | None = None,
        eager_start: bool = True,
        output_type: Any = None,
    ) -> None:
        """
        Configure an agent; nothing is opened before the first run.

        :param chat_generator: The model. Default: `MetaLlamaChatGenerator` for the endpoint in the
            environment (`LLAMA_AGENT_ENDPOINT`), else the embedded model if it is installed.
        :param tools: Functions, bound methods, objects and modules (their public documented methods and
            functions), Haystack Tools and Toolsets; one of these, or a list nested as one likes.
        :param system_prompt: Jinja template of the system message.
        :param user_prompt: Jinja template of a user message that is appended to each run's messages.
        :param required_variables: Template variables a run must give; `"*"` for all.
        :param exit_conditions: Names of tools that end the run once they have run well. An answer always ends
            it.
        :param state_schema: Keys that tools and hooks share during a run, each with its type.
        :param max_agent_steps: Most steps of a run. A step is a model call and the tool calls that it asks
            for.
        :param streaming_callback: Called with each `StreamingChunk` of text, calls and tool results.
        :param raise_on_tool_invocation_failure: Raise `ToolFailedError` when a tool fails, instead of telling
            the model.
        :param tool_concurrency_limit: Most tool calls at a time. Calls that share an object or State keys,
            and those of `sequential` or `destructive` tools, keep the model's order in any case.
        :param tool_streaming_callback_passthrough: Give the callback to tools with such a parameter.
        :param hooks: Haystack hooks by hook point.
        :param approval: Who is asked before a tool runs: an object with `needs(call, tool)` and
            `ask(call, tool)`, see `Approval`. Default: nobody.
        :param retry: When a failed model request is sent again, in place of the generator's own policy. Only
            for a `MetaLlamaChatGenerator`: others keep theirs.
        :param limits: How much a run may use, see `Limits`. At a limit the model is asked once more, without
            tools, for the best answer; also at `max_agent_steps`.
        :param tool_timeout: Seconds for each call of a tool that has no `timeout` of its own; see `tool`.
        :param eager_start: While a reply is streamed, begin calls of `read_only` tools as soon as each is
            complete, behind others that were begun so too. Not where a `before_tool` hook or an approval has
            a say, or a tool uses the run's State.
        :param output_type: What the answer has to be: a pydantic model, dataclass, TypedDict, `Literal`,
            enum, a list of those, or a JSON schema. `result.output` is then such an object, or None with a
            `stop_reason` that says why. What doesn't fit goes back to the model, three times at most.
        :raises ConfigurationError: A tool can't be made of something in `tools`, or a number is out of range.
        :raises ValueError: Haystack's own checks of prompts, state schema and hooks.
        """
        for name, number in (
            ("max_agent_steps", max_agent_steps),
            ("tool_concurrency_limit", tool_concurrency_limit),
        ):
            if not isinstance(number, int) or number < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"{name} must be a whole number of 1 or more, not {number!r}")
        check_seconds("tool_timeout", tool_timeout)
        if not isinstance(eager_start, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise ConfigurationError(f"eager_start must be True or False, not {eager_start!r}")
        for name in ("cancel", "deps", "limits", "on_event", "output_type", "user_message"):
            if name in (state_schema or {}):
                raise ConfigurationError(
                    f"state_schema can't have a key '{name}': run() has a parameter of that name"
                )
        if approval is not None and not (hasattr(approval, "needs") and hasattr(approval, "ask")):
            raise ConfigurationError("approval must be an object with needs(call, tool) and ask(call, tool)")
        if chat_generator is not None and (
            isinstance(chat_generator, type) or not hasattr(chat_generator, "run")
        ):
            raise ConfigurationError(
                f"chat_generator must be a generator object, not {chat_generator!r}: "
                "MetaLlamaChatGenerator(api_base_url='ollama', model='llama3.2')"
            )
        check_policy(retry)
        if retry is not None and not isinstance(chat_generator, MetaLlamaChatGenerator | None):
            raise ConfigurationError(
                "retry= is for MetaLlamaChatGenerator: "
                f"{type(chat_generator).__name__} retries by its own settings"
            )
        self._has_own_generator = chat_generator is None
        super(Agent, self).__init__(  # noqa: UP008 - @component re-creates the class
            chat_generator=chat_generator or MetaLlamaChatGenerator(api_base_url=None),
            tools=as_tools(tools),
            system_prompt=system_prompt,
            user_prompt=user_prompt,
            required_variables=required_variables,
            exit_conditions=exit_conditions,
            state_schema=state_schema,
            max_agent_steps=max_agent_steps,
            streaming_callback=streaming_callback,
            raise_on_tool_invocation_failure=raise_on_tool_invocation_failure,
            tool_concurrency_limit=tool_concurrency_limit,
            tool_streaming_callback_passthrough=tool_streaming_callback_passthrough,
            hooks=hooks,
        )
        self.approval = approval
        self.retry = retry
        self.limits = _checked_limits(limits) or Limits()
        self.tool_timeout = tool_timeout
        self.eager_start = eager_start
        self.output_type = output_type
        self._output = None if output_type is None else OutputType(output_type)
        self._execution = Execution()
        self._sizes_told = False

    def run(  # pyright: ignore[reportIncompatibleMethodOverride] - `user_message` comes before Haystack's `messages`
        self,
        user_message: Messages | None = None,
        streaming_callback: StreamingCallbackT | None = None,
        *,
        messages: Messages | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        tools: Any = None,
        hook_context: dict[str, Any] | None = None,
        on_event: OnEvent | None = None,
        deps: object = None,
        limits: Limits | None = None,
        cancel: CancelToken | None = None,
        output_type: Any = None,
        **kwargs: Any,
    ) -> RunResult:
        """
        Run until the model answers, or something else ends it.

        Works inside a running event loop too (Jupyter); it holds that loop up until it returns.

        :param user_message: What the user says: a text, taken literally, or messages.
        :param streaming_callback: Called with each `StreamingChunk`; wins over the constructor's.
        :param messages: The conversation before it, e.g. an earlier result's `messages`. When it begins with
            a system message, the agent's own isn't added again.
        :param generation_kwargs: Settings for the model calls; each wins over the generator's.
        :param tools: Tools for this run in place of the constructor's, or names of some of those.
        :param hook_context: For hooks to read, by `state.data["hook_context"]`.
        :param on_event: A plain function, called with each event as it happens.
        :param deps: Any object, for tools with a parameter annotated `RunContext[T]`: its `.deps`.
        :param limits: For this run; each that is named wins over the agent's.
        :param cancel: Breaks the run off, from any thread: it returns what it has got to, with the
            `stop_reason` "cancelled". A sub-agent is broken off with the run above it. Sync tools run in
            threads then, so that they can be left behind; your own sync hooks, callbacks and approvals are
            waited for.
        :param output_type: In place of the agent's own.
        :param kwargs: Template variables, and values for the state's keys.
        :returns: The result; a dictionary in Haystack's form, with attributes.
        :raises LlamaAgentError: The endpoint failed for good, or the configuration can't work. What had been
            got to is in its `.result`.
        :raises RunInterrupted: Ctrl-C; `.result` as above.
        """
        check_token(cancel)
        self.warm_up()
        offered = _runtime_tools(tools)
        warm_up_tools(_tools_only(offered))
        callback = select_streaming_callback(
            self.streaming_callback, streaming_callback, requires_async=False
        )
        conversation = self._conversation(user_message, messages, kwargs)
        with joined(cancel, work := current_cancel()) as token:
            performer = self._begin(
                conversation,
                offered,
                callback,
                generation_kwargs,
                hook_context,
                on_event,
                deps,
                limits,
                output_type,
                kwargs,
            )
            span = self._create_agent_span(list(performer.read_tools()))
            with performer.watched(span, token, work), performer.early_calls_ended():
                drive(agent_flow(performer.run, performer.policy), performer.perform)
        return performer.result()

    async def run_async(  # pyright: ignore[reportIncompatibleMethodOverride] - as `run`
        self,
        user_message: Messages | None = None,
        streaming_callback: StreamingCallbackT | None = None,
        *,
        messages: Messages | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        tools: Any = None,
        hook_context: dict[str, Any] | None = None,
        on_event: OnEvent | None = None,
        deps: object = None,
        limits: Limits | None = None,
        cancel: CancelToken | None = None,
        output_type: Any = None,
        **kwargs: Any,
    ) -> RunResult:
        """
        Run on the running event loop until the model answers, or something else ends it.

        :param user_message: As in `run`.
        :param streaming_callback: As in `run`; may be a coroutine function.
        :param messages: As in `run`.
        :param generation_kwargs: As in `run`.
        :param tools: As in `run`.
        :param hook_context: As in `run`.
        :param on_event: As in `run`.
        :param deps: As in `run`.
        :param limits: As in `run`.
        :param cancel: As in `run`.
        :param output_type: As in `run`.
        :param kwargs: As in `run`.
        :returns: As `run`.
        :raises LlamaAgentError: As `run`.
        :raises asyncio.CancelledError: The run was cancelled; what had been got to is in its `.result`.
        """
        check_token(cancel)
        await self.warm_up_async()
        offered = _runtime_tools(tools)
        await warm_up_tools_async(_tools_only(offered))
        callback = select_streaming_callback(self.streaming_callback, streaming_callback, requires_async=True)
        conversation = self._conversation(user_message, messages, kwargs)
        with joined(cancel, work := current_cancel()) as token:
            performer = self._begin(
                conversation,
                offered,
                callback,
                generation_kwargs,
                hook_context,
                on_event,
                deps,
                limits,
                output_type,
                kwargs,
            )
            with performer.watched(self._create_agent_span(list(performer.read_tools())), token, work):
                async with ended_by(token), performer.early_calls_ended_async():
                    await drive_async(agent_flow(performer.run, performer.policy), performer.perform_async)
        return performer.result()

    def stream(
        self,
        user_message: Messages | None = None,
        streaming_callback: StreamingCallbackT | None = None,
        *,
        messages: Messages | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        tools: Any = None,
        hook_context: dict[str, Any] | None = None,
        on_event: OnEvent | None = None,
        deps: object = None,
        limits: Limits | None = None,
        cancel: CancelToken | None = None,
        output_type: Any = None,
        **kwargs: Any,
    ) -> RunStream:
        """
        Run, and give the events as they happen; replies are streamed.

        ```python
        for event in agent.stream("What is 17 plus 25?"):
            if isinstance(event, TextDelta):
                print(event.text, end="", flush=True)
            elif isinstance(event, RunFinished):
                print(event.result.usage)
        ```

        :param user_message: As in `run`.
        :param streaming_callback: As in `run`; called in the run's own thread.
        :param messages: As in `run`.
        :param generation_kwargs: As in `run`.
        :param tools: As in `run`.
        :param hook_context: As in `run`.
        :param on_event: As in `run`; likewise.
        :param deps: As in `run`.
        :param limits: As in `run`.
        :param cancel: As in `run`.
        :param output_type: As in `run`.
        :param kwargs: As in `run`.
        :returns: The events; see `RunStream` for their order. The run begins when the first is asked for, in
            a thread of its own. Leaving early cancels it.
        :raises ConfigurationError: `cancel` or `on_event` is something else.
        """
        check_token(cancel)
        _check_listener(on_event)

        def run(channel: Channel, token: CancelToken) -> RunResult:
            return self.run(
                user_message,
                streaming_callback,
                messages=messages,
                generation_kwargs=generation_kwargs,
                tools=tools,
                hook_context=hook_context,
                on_event=channel,
                deps=deps,
                limits=limits,
                cancel=token,
                output_type=output_type,
                **kwargs,
            )

        return RunStream(run, cancel, on_event)

    def stream_async(
        self,
        user_message: Messages | None = None,
        streaming_callback: StreamingCallbackT | None = None,
        *,
        messages: Messages | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        tools: Any = None,
        hook_context: dict[str, Any] | None = None,
        on_event: OnEvent | None = None,
        deps: object = None,
        limits: Limits | None = None,
        cancel: CancelToken | None = None,
        output_type: Any = None,
        **kwargs: Any,
    ) -> AsyncRunStream:
        """
        Run on the running event loop, and give the events as they happen; replies are streamed.

        :param user_message: As in `run`.
        :param streaming_callback: As in `run_async`.
        :param messages: As in `run`.
        :param generation_kwargs: As in `run`.
        :param tools: As in `run`.
        :param hook_context: As in `run`.
        :param on_event: As in `run`.
        :param deps: As in `run`.
        :param limits: As in `run`.
        :param cancel: As in `run`.
        :param output_type: As in `run`.
        :param kwargs: As in `run`.
        :returns: The events, for `async for`; see `RunStream` for their order. The run waits for whoever
            takes them. Leave early by `async with` or `aclose()`.
        :raises ConfigurationError: As `stream`.
        """
        check_token(cancel)
        _check_listener(on_event)

        async def run(channel: Channel, token: CancelToken) -> RunResult:
            return await self.run_async(
                user_message,
                streaming_callback,
                messages=messages,
                generation_kwargs=generation_kwargs,
                tools=tools,
                hook_context=hook_context,
                on_event=channel,
                deps=deps,
                limits=limits,
                cancel=token,
                output_type=output_type,
                **kwargs,
            )

        return AsyncRunStream(run, cancel, on_event)

    def as_tool(self, name: str, description: str, *, max_result_chars: int | None = None) -> SubAgentTool:
        """
        Make the agent a tool of another one: it is given a task, and its answer is the result.

        It shares the limits, the cancellation, the places for tool calls and the `deps` of the run that it
        works for, which gets its events as `SubAgentEvent`s. It has an approval of its own, or none; with a
        destructive tool it is destructive itself. Several of its calls run beside each other.

        :param name: Name that the model sees.
        :param description: When to hand it a task.
        :param max_result_chars: Most characters of its answer that the model gets; see `tool`.
        :returns: A tool with one parameter, `task`. A run that ended early says so in its result.
        :raises ConfigurationError: The name can't go to a server, or the agent's prompts have variables.
        """
        return sub_agent_tool(self, name, description, max_result_chars)

    def close(self) -> None:
        """Release the generator, the tools, the hooks, and the thread that async tools of sync runs use."""
        super(Agent, self).close()  # noqa: UP008
        self._execution.close()

    async def close_async(self) -> None:
        """As `close`, on the running event loop."""
        await super(Agent, self).close_async()  # noqa: UP008
        self._execution.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_async()

    def clone(self, **overrides: Any) -> Agent:
        """
        An agent configured like this one.

        :param overrides: Init parameters to replace.
        :returns: The new agent. An agent without a generator of its own gives one without.
        """
        if self._has_own_generator:
            overrides.setdefault("chat_generator", None)
        return cast("Agent", super(Agent, self).clone(**overrides))  # noqa: UP008

    def to_dict(self) -> dict[str, Any]:
        """
        Serialize the agent.

        :returns: Data for `from_dict`. Without a generator of its own, the endpoint is chosen anew where it
            is loaded.
        :raises ConfigurationError: It has an `approval`, which can't be saved.
        """
        if self.approval is not None:
            raise ConfigurationError("an agent with approval= can't be saved: clone(approval=None) can")
        data = super(Agent, self).to_dict()  # noqa: UP008
        if self._has_own_generator:
            data["init_parameters"]["chat_generator"] = None
        data["init_parameters"]["retry"] = asdict(self.retry) if self.retry else None
        data["init_parameters"]["limits"] = asdict(self.limits) if self.limits != Limits() else None
        data["init_parameters"]["tool_timeout"] = self.tool_timeout
        data["init_parameters"]["eager_start"] = self.eager_start
        data["init_parameters"]["output_type"] = saved_type(self.output_type)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Agent:
        """
        Deserialize an agent.

        :param data: Made by `to_dict`. It isn't changed.
        :returns: The agent.
        """
        data = deepcopy(data)
        settings = cast("dict[str, Any]", data.get("init_parameters", {}))
        if (retry := settings.get("retry")) is not None:
            settings["retry"] = RetryPolicy(**retry)
        if (limits := settings.get("limits")) is not None:
            settings["limits"] = Limits(**limits)
        settings["output_type"] = loaded_type(settings.get("output_type"))
        if settings.get("chat_generator", ...) is None:
            # Haystack demands a generator there: give it one, and take it away again.
            settings["chat_generator"] = MetaLlamaChatGenerator(api_base_url=None).to_dict()
            agent = cast("Agent", super(Agent, cls).from_dict(data))  # noqa: UP008
            return agent.clone(chat_generator=None)
        return cast("Agent", super(Agent, cls).from_dict(data))  # noqa: UP008

    def _conversation(
        self, user_message: Messages | None, messages: Messages | None, variables: dict[str, Any]
    ) -> list[ChatMessage]:
        """
        The messages a run begins with. Only the prompts are templates; a task's text is taken literally.
        """
        conversation = [*_as_messages(messages), *_as_messages(user_message)]
        if self._user_chat_prompt_builder is not None:
            conversation += render_prompt_messages(
                prompt_builder=self._user_chat_prompt_builder,
                expected_role=ChatRole.USER,
                prompt_label="user_prompt",
                kwargs=variables,
            )
        goes_on = bool(conversation) and conversation[0].is_from(ChatRole.SYSTEM)
        if self._system_chat_prompt_builder is not None and not goes_on:
            conversation[:0] = render_prompt_messages(
                prompt_builder=self._system_chat_prompt_builder,
                expected_role=ChatRole.SYSTEM,
                prompt_label="system_prompt",
                kwargs=variables,
            )
        if not any(not message.is_from(ChatRole.SYSTEM) for message in conversation):
            raise ConfigurationError("there is nothing to do: give run() a text or messages")
        return conversation

    def _check_state_keys(self, tools: Sequence[Tool]) -> None:
        """A key that isn't in the schema would fail at the end of each call, and be told to the model."""
        for tool in tools:
            read = (tool.inputs_from_state or {}) if is_function_tool(tool) else {}
            for key in (*(tool.outputs_to_state or {}), *read):
                if key not in self.resolved_state_schema:
                    known = ", ".join(self.resolved_state_schema)
                    raise ConfigurationError(
                        f"tool '{tool.name}' uses '{key}' of the run's state, which isn't in the agent's "
                        f"state_schema: add it there, with its type. Known: {known}"
                    )

    def _warn_of_size(self, tools: Sequence[Tool]) -> None:
        """Once for an agent: definitions that fill the window are seen as nothing but a model's confusion."""
        if self._sizes_told:
            return
        if (text := size_warning(tools, self._window)) is not None:
            self._sizes_told = True
            warnings.warn(text, ToolDefinitionWarning, stacklevel=4)

    @property
    def _window(self) -> int:
        """Tokens that the model can read at once."""
        return getattr(self.chat_generator, "context_tokens", None) or ASSUMED_WINDOW

    def _output_plan(self, output_type: Any, names: Sequence[str]) -> OutputPlan | None:
        """How the answer gets its form, with this generator and these tools."""
        reader = self._output if output_type is None else OutputType(output_type)
        if reader is None:
            return None
        generator, otherwise = (
            self.chat_generator,
            "tool" if self._chat_generator_supports_tools else "prompt",
        )
        is_ours = isinstance(generator, MetaLlamaChatGenerator)
        return OutputPlan(
            reader,
            means="schema" if is_ours and generator.holds_to_schema(beside_tools=False) else otherwise,
            otherwise=otherwise,
            beside_tools=is_ours and generator.holds_to_schema(beside_tools=True),
            tool=reader.tool(names),
        )

    def required_names(self) -> list[str]:
        """
        Variables of the prompts that each run has to be given.

        :returns: Their names.
        """
        names: set[str] = set()
        for builder in (self._system_chat_prompt_builder, self._user_chat_prompt_builder):
            if builder is not None:
                required = builder.required_variables
                names.update(builder.variables if required == "*" else required or ())
        return sorted(names)

    def _check_names(self, values: dict[str, Any]) -> None:
        builders = (self._system_chat_prompt_builder, self._user_chat_prompt_builder)
        variables = {name for builder in builders if builder is not None for name in builder.variables}
        known = [*self.resolved_state_schema, *variables, *inspect.signature(Agent.run).parameters]
        for name in values:
            if name not in known:
                near = nearest(name, known)
                hint = f" Did you mean '{near}'?" if near else ""
                raise ConfigurationError(
                    f"run() got '{name}', which is neither a parameter, nor a key of state_schema, nor "
                    f"a variable of a prompt.{hint}"
                )

    def _begin(
        self,
        conversation: list[ChatMessage],
        offered: ToolsType | list[str] | None,
        streaming_callback: StreamingCallbackT | None,
        generation_kwargs: dict[str, Any] | None,
        hook_context: dict[str, Any] | None,
        on_event: OnEvent | None,
        deps: object,
        limits: Limits | None,
        output_type: Any,
        values: dict[str, Any],
    ) -> Performer:
        check_not_in_import()
        self._check_names(values)
        _check_listener(on_event)
        try:
            selected = self._select_tools(offered)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        tools_now = _tools_on_offer(selected)
        on_offer = tools_now()
        self._warn_of_size(on_offer)
        self._check_state_keys(on_offer)
        if deps is None and (
            wanting := [t.name for t in on_offer if isinstance(t, FunctionTool) and t.needs_deps]
        ):
            raise ConfigurationError(
                f"the tools {', '.join(wanting)} need an object of yours: run(..., deps=...)"
            )
        names = [tool.name for tool in on_offer]
        if names and not self._chat_generator_supports_tools:
            raise ConfigurationError(
                f"{type(self.chat_generator).__name__}.run takes no tools, but the run has some"
            )
        state = State(
            self.resolved_state_schema, {k: values[k] for k in self.resolved_state_schema if k in values}
        )
        beginning: dict[str, Any] = {
            "messages": conversation,
            "step_count": 0,
            "token_usage": {},
            "context_tokens": 0,
            "tool_call_counts": dict.fromkeys(names, 0),
            "exit_reason": None,
            "continue_run": False,
            "tools": [],
            "hook_context": hook_context or {},
        }
        for key, value in beginning.items():
            state.set(key, value)
        run = RunState(state, run_id=uuid4().hex)
        earlier = (part.result for message in conversation for part in message.tool_call_results)
        first = first_number(text for text in earlier if isinstance(text, str))
        big_results = BigResults(self._window, run.big_results, first)
        allowed = self.limits.overridden(_checked_limits(limits))
        allowed.check()
        policy = LoopPolicy(
            max_steps=allowed.steps or self.max_agent_steps,
            exit_conditions=[name for name in self.exit_conditions if name != "text"],
            lands=allowed.landing is not False,
            repeats=TIMES if allowed.repeats is None else allowed.repeats,
            is_repeatable=lambda tool: hints_of(tool).repeatable,
            window=getattr(self.chat_generator, "context_tokens", None),
            output=self._output_plan(output_type, names),
        )
        run.is_structured = policy.output is not None
        settings = RunSettings(
            generator=self.chat_generator,
            execution=self._execution,
            hooks=self.hooks,
            streaming_callback=streaming_callback,
            generation_kwargs=generation_kwargs,
            concurrency_limit=self.tool_concurrency_limit,
            pass_callback_on=self.tool_streaming_callback_passthrough,
            raise_on_failure=self.raise_on_tool_invocation_failure,
            approval=self.approval,
            deps=deps,
            retry=self.retry,
            budget=Budget(allowed, current_budget(), run.spent),
            slots=Slots(self.tool_concurrency_limit, current_place()),
            tool_timeout=self.tool_timeout,
            big_results=big_results,
            eager_start=self.eager_start,
        )
        streams = isinstance(on_event, Channel)
        ready = on_event.ready if isinstance(on_event, Channel) else None
        sink = EventSink(run.run_id, on_event, above=current_sink(), streams=streams, ready=ready)

        def with_reader() -> Sequence[Tool]:
            tools = tools_now()
            return [*tools, *big_results.tools({tool.name for tool in tools})]

        return Performer(run, policy, settings, sink, with_reader)


def _checked_limits(limits: object) -> Limits | None:
    if limits is not None and not isinstance(limits, Limits):
        raise ConfigurationError(f"limits must be Limits(...), not {limits!r}")
    return limits


def _check_listener(on_event: object) -> None:
    if on_event is not None and not callable(on_event):
        raise ConfigurationError(f"on_event must be a function that takes an event, not {on_event!r}")
    if inspect.iscoroutinefunction(on_event):
        raise ConfigurationError("on_event must be a plain function: it is called, not awaited")


def _as_messages(given: Messages | None) -> list[ChatMessage]:
    if given is None:
        return []
    if isinstance(given, str):
        if not given.strip():
            raise ConfigurationError("the task is empty")
        return [ChatMessage.from_user(given)]
    if not isinstance(given, list):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        raise ConfigurationError(f"give run() a text or a list of ChatMessages, not {type(given).__name__}")
    messages = list(given)
    for message in messages:
        if not isinstance(message, ChatMessage):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise ConfigurationError(f"messages must be ChatMessages, not {type(message).__name__}")
    return messages


def _runtime_tools(tools: Any) -> ToolsType | list[str] | None:
    """Tools given to a run: names stay names."""
    if (
        isinstance(tools, list)
        and tools
        and all(isinstance(item, str) for item in cast("list[object]", tools))
    ):
        return cast("list[str]", tools)
    return as_tools(cast("object", tools))


def _tools_only(tools: ToolsType | list[str] | None) -> ToolsType:
    if isinstance(tools, Toolset):
        return tools
    return [tool for tool in tools or [] if not isinstance(tool, str)]


def _tools_on_offer(selected: ToolsType) -> Callable[[], Sequence[Tool]]:
    """Reads the tools anew each time: a dynamic toolset may have found more since."""

    def read() -> Sequence[Tool]:
        tools = flatten_tools_or_toolsets(selected)
        check_tool_names(tools)
        return tools

    return read
