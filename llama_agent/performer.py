"""Performs the effects of one run: asks the generator, runs tools and hooks; and sees to the run's ending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from haystack.components.generators.chat.types import ChatGenerator
from haystack.dataclasses import ChatMessage, StreamingCallbackT
from haystack.hooks.protocol import Hook, HookPoint
from haystack.tools.tool import Tool
from haystack.tracing.tracer import Span, tracer

from llama_agent.cancel import CancelToken
from llama_agent.errors import ConfigurationError, RunInterrupted
from llama_agent.events import (
    EventSink,
    ModelReplied,
    ModelRequested,
    NoteAdded,
    RunFinished,
    RunStarted,
    collecting,
)
from llama_agent.haystack_compat import run_hooks, run_hooks_async
from llama_agent.loop.flow import (
    AddNote,
    CallModel,
    CallTools,
    Effect,
    LoopPolicy,
    Outcome,
    ReadTools,
    RunHooks,
)
from llama_agent.loop.state import RunResult, RunState, StopReason
from llama_agent.model.retry import RetryPolicy
from llama_agent.tooling.approval import Approval
from llama_agent.tooling.execution import Batch, Execution


@dataclass(frozen=True)
class RunSettings:
    """
    What one run works with.

    :param generator: The model.
    :param execution: Runs the tools.
    :param hooks: By hook point.
    :param streaming_callback: For text, calls and tool results.
    :param generation_kwargs: For the model calls of this run.
    :param concurrency_limit: Most tool calls at a time.
    :param pass_callback_on: Whether tools get the callback.
    :param raise_on_failure: Whether a tool's failure raises.
    :param approval: Who is asked before a tool runs.
    :param deps: The caller's object, for tools that ask for the run's context.
    :param retry: The agent's own policy, in place of the generator's.
    """

    generator: ChatGenerator
    execution: Execution
    hooks: dict[HookPoint, list[Hook]]
    streaming_callback: StreamingCallbackT | None = None
    generation_kwargs: dict[str, Any] | None = None
    concurrency_limit: int = 4
    pass_callback_on: bool = False
    raise_on_failure: bool = False
    approval: Approval | None = None
    deps: object = None
    retry: RetryPolicy | None = None


@dataclass
class Performer:
    """
    Performs one run's effects, sync or async.

    :param run: The run's state.
    :param policy: The agent's rules.
    :param settings: What the run works with.
    :param sink: Where its events go.
    :param read_tools: Gives the tools on offer at that moment.
    """

    run: RunState
    policy: LoopPolicy
    settings: RunSettings
    sink: EventSink
    read_tools: Callable[[], Sequence[Tool]]
    _span: Span | None = field(default=None, init=False)
    _cancel: CancelToken = field(default_factory=CancelToken, init=False)

    def perform(self, effect: Effect) -> Outcome:
        """
        Perform an effect on the caller's thread.

        :param effect: What the flow wants done.
        :returns: Its outcome.
        """
        match effect:
            case CallModel():
                with self._asked(effect) as asked:
                    answer = cast("Any", self.settings.generator).run(**self._inputs(effect))
                    return asked.take(answer)
            case CallTools():
                with self._kept(self._batch(effect)) as batch:
                    return self.settings.execution.run(batch)
            case ReadTools():
                return list(self.read_tools())
            case AddNote(text):
                return self._note(text)
            case RunHooks(point):
                if point in self.settings.hooks:
                    run_hooks(self.settings.hooks, point, self.run.state)
                return None

    async def perform_async(self, effect: Effect) -> Outcome:
        """
        Perform an effect on the running event loop.

        :param effect: What the flow wants done.
        :returns: Its outcome.
        """
        match effect:
            case CallModel():
                with self._asked(effect) as asked:
                    generator = cast("Any", self.settings.generator)
                    inputs = self._inputs(effect)
                    if hasattr(generator, "run_async"):
                        return asked.take(await generator.run_async(**inputs))
                    return asked.take(await asyncio.to_thread(generator.run, **inputs))
            case CallTools():
                with self._kept(self._batch(effect)) as batch:
                    return await self.settings.execution.run_async(batch)
            case ReadTools():
                return list(self.read_tools())
            case AddNote(text):
                return self._note(text)
            case RunHooks(point):
                if point in self.settings.hooks:
                    await run_hooks_async(self.settings.hooks, point, self.run.state)
                return None

    @contextmanager
    def watched(self, span: Any) -> Generator[None]:
        """
        Surround the run: its events, its tracing span, and the endings that aren't answers.

        :param span: Haystack's span of the run, a context manager.
        :returns: A context manager.
        """
        with collecting(self.sink), span as opened:
            self._span = opened
            opened.set_content_tag("haystack.agent.input", {"messages": list(self.run.messages)})
            try:
                self.sink.emit(RunStarted, tools=tuple(tool.name for tool in self.read_tools()))
                yield
            except asyncio.CancelledError as error:
                error.result = self.result("cancelled")  # type: ignore[attr-defined]
                raise
            except KeyboardInterrupt as error:
                raise RunInterrupted(self.result("interrupted")) from error
            except Exception as error:
                # Also a foreign generator's or a hook's: nothing that was done is lost.
                with suppress(AttributeError):
                    error.result = self.result("failed")  # type: ignore[attr-defined]
                raise
            opened.set_content_tag("haystack.agent.output", {"messages": self.run.messages})
            opened.set_tag("haystack.agent.steps_taken", self.run.step_count)

    def result(self, stop_reason: StopReason | None = None) -> RunResult:
        """
        The run's result, and the event that ends it.

        :param stop_reason: Why it ended, when that isn't in the state.
        :returns: The result.
        """
        self.sink.emit(
            RunFinished, stop_reason=stop_reason or self.run.stop_reason, steps=self.run.step_count
        )
        return self.run.result(self.sink.events, stop_reason)

    def _note(self, text: str) -> list[ChatMessage]:
        self.sink.emit(NoteAdded, text=text)
        return [ChatMessage.from_user(text)]

    def _inputs(self, effect: CallModel) -> dict[str, Any]:
        inputs: dict[str, Any] = {"messages": effect.messages}
        if effect.tools:
            inputs["tools"] = list(effect.tools)
        if self.settings.streaming_callback is not None:
            inputs["streaming_callback"] = self.settings.streaming_callback
        if self.settings.generation_kwargs is not None:
            inputs["generation_kwargs"] = self.settings.generation_kwargs
        if self.settings.retry is not None:
            inputs["retry"] = self.settings.retry
        return inputs

    def _batch(self, effect: CallTools) -> Batch:
        settings = self.settings
        return Batch(
            calls=effect.calls,
            tools={tool.name: tool for tool in effect.tools},
            state=self.run.state,
            limit=settings.concurrency_limit,
            streaming_callback=settings.streaming_callback,
            pass_callback_on=settings.pass_callback_on,
            raise_on_failure=settings.raise_on_failure,
            approval=settings.approval,
            deps=settings.deps,
            cancel=self._cancel,
        )

    @contextmanager
    def _kept(self, batch: Batch) -> Generator[Batch]:
        """When a batch is broken off, what had finished is kept, and each call has its answer."""
        try:
            yield batch
        except BaseException:
            self._cancel.cancel()  # tools that still run in threads look at it
            self.run.record_results(batch.messages(), unfinished=len(batch.calls) - len(batch.finished))
            raise

    @contextmanager
    def _asked(self, effect: CallModel) -> Generator[_Answer]:
        self.sink.step = self.run.step_count + 1
        names = tuple(tool.name for tool in effect.tools)
        self.sink.emit(ModelRequested, message_count=len(effect.messages), tools=names)
        started = time.perf_counter()
        answer = _Answer(self.settings.generator)
        with tracer.trace("haystack.agent.step.llm", parent_span=self._span) as span:
            span.set_content_tag(
                "haystack.agent.step.llm.input", {"messages": effect.messages, "tools": names}
            )
            yield answer
            span.set_content_tag("haystack.agent.step.llm.output", {"replies": answer.replies})
        last = answer.replies[-1] if answer.replies else None
        self.sink.emit(
            ModelReplied,
            text=last.text if last else None,
            tool_names=tuple(call.tool_name for reply in answer.replies for call in reply.tool_calls),
            finish_reason=cast("str | None", last.meta.get("finish_reason")) if last else None,
            seconds=time.perf_counter() - started,
        )


def _kind(output: object) -> str:
    return f"a {type(output).__name__} without replies"


class _Answer:
    """What a generator gave, checked."""

    def __init__(self, generator: ChatGenerator) -> None:
        self._generator = generator
        self.replies: list[ChatMessage] = []

    def take(self, output: object) -> list[ChatMessage]:
        replies = cast("Mapping[str, object]", output).get("replies") if isinstance(output, Mapping) else None
        if not isinstance(replies, Sequence):
            raise ConfigurationError(
                f"{type(self._generator).__name__}.run must return {{'replies': [ChatMessage, ...]}}, "
                f"not {_kind(cast('object', output))}"
            )
        self.replies = list(cast("Sequence[ChatMessage]", replies))
        return self.replies
