"""Performs the effects of one run: asks the generator, runs tools and hooks; and sees to the run's ending."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from haystack.components.generators.chat.types import ChatGenerator
from haystack.dataclasses import ChatMessage, StreamingCallbackT, StreamingChunk, ToolCall
from haystack.hooks.protocol import Hook, HookPoint
from haystack.tools.tool import Tool
from haystack.tracing.tracer import Span, tracer

from llama_agent.cancel import Cancelled, CancelToken, cancellable
from llama_agent.errors import (
    ConfigurationError,
    ContextOverflow,
    EndpointError,
    RunInterrupted,
)
from llama_agent.events import (
    ContextCompacted,
    EventSink,
    LandingStarted,
    LastAnswerFailed,
    ModelReplied,
    ModelRequested,
    NoteAdded,
    ReasoningDelta,
    RunStarted,
    TextDelta,
    TextSuperseded,
    collecting,
)
from llama_agent.haystack_compat import run_hooks, run_hooks_async
from llama_agent.listener import StreamListener, tell_call
from llama_agent.loop.effects import (
    CUT_BY,
    CallModel,
    CallTools,
    Effect,
    Outcome,
    OutputRefused,
    Overflow,
    ReadTools,
    Refusal,
    RunHooks,
    SchemaRefused,
    TellCompaction,
    TellLanding,
    TellNote,
)
from llama_agent.loop.flow import LoopPolicy
from llama_agent.loop.limits import Budget, Grant, LimitName, Limits, expected_tokens, spending
from llama_agent.loop.odd_replies import is_answer
from llama_agent.loop.state import RunResult, RunState, StopReason, token_counts
from llama_agent.model.generator import MetaLlamaChatGenerator
from llama_agent.model.replies import is_told
from llama_agent.model.retry import RetryPolicy, within
from llama_agent.output_room import shared_output
from llama_agent.redaction import redact
from llama_agent.request_settings import is_refused, refuses_schema, settings_of
from llama_agent.tooling.approval import Approval
from llama_agent.tooling.big_results import BigResults
from llama_agent.tooling.early import EarlyCalls, may_be_early
from llama_agent.tooling.execution import Batch, Execution, NotCalled, unfinished
from llama_agent.tooling.slots import Slots


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
    :param budget: What the run may use.
    :param slots: The places of its tool calls.
    :param tool_timeout: Seconds for a call of a tool that has no limit of its own.
    :param big_results: Takes results that are too large for the window.
    :param eager_start: Whether calls may begin before the reply that they are part of has ended.
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
    budget: Budget = field(default_factory=lambda: Budget(Limits()))
    slots: Slots = field(default_factory=lambda: Slots(4))
    tool_timeout: float | None = None
    big_results: BigResults | None = None
    eager_start: bool = True


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
    _read: int = field(default=0, init=False)
    """Tokens of the conversation up to the last reply, as the server counted them."""
    _counted: list[ChatMessage] = field(default_factory=list[ChatMessage], init=False)
    _cancel: CancelToken = field(default_factory=CancelToken, init=False)
    """Of the run's tools: cancelled whichever way the run is broken off."""
    _upstream: CancelToken | None = field(default=None, init=False)
    _threads: set[Future[Any]] = field(default_factory=set[Future[Any]], init=False)
    _is_async: bool = field(default=False, init=False)
    _listener: StreamListener | None = field(default=None, init=False)
    """Hears of the reply that is being streamed, or was last."""

    def perform(self, effect: Effect) -> Outcome:
        """
        Perform an effect on the caller's thread.

        :param effect: What the flow wants done.
        :returns: Its outcome.
        :raises Cancelled: The run's token was cancelled.
        """
        self._check_cancelled()
        match effect:
            case CallModel():
                return self._call_model(effect)
            case CallTools():
                with self._kept(self._batch(effect)) as batch:
                    if self._listener is not None:
                        self._count_dropped(self._listener.early.drop())
                    return self.settings.execution.run(batch)
            case ReadTools():
                return list(self.read_tools())
            case TellNote(text):
                return self.sink.emit(NoteAdded, text=text)
            case TellCompaction():
                return self.sink.emit(ContextCompacted, **asdict(effect))
            case TellLanding(reason):
                return self.sink.emit(LandingStarted, reason=reason)
            case RunHooks(point):
                if point in self.settings.hooks:
                    run_hooks(self.settings.hooks, point, self.run.state)
                return None

    async def perform_async(self, effect: Effect) -> Outcome:
        """
        Perform an effect on the running event loop.

        :param effect: What the flow wants done.
        :returns: Its outcome.
        :raises Cancelled: The run's token was cancelled.
        """
        self._check_cancelled()
        self._is_async = True
        if self.sink.ready is not None:
            await self.sink.ready()
        match effect:
            case CallModel():
                return await self._call_model_async(effect)
            case CallTools():
                with self._kept(self._batch(effect)) as batch:
                    if self._listener is not None:
                        self._count_dropped(await self._listener.early.drop_async())
                    return await self.settings.execution.run_async(batch)
            case ReadTools():
                return list(self.read_tools())
            case TellNote(text):
                return self.sink.emit(NoteAdded, text=text)
            case TellCompaction():
                return self.sink.emit(ContextCompacted, **asdict(effect))
            case TellLanding(reason):
                return self.sink.emit(LandingStarted, reason=reason)
            case RunHooks(point):
                if point in self.settings.hooks:
                    await run_hooks_async(self.settings.hooks, point, self.run.state)
                return None

    @contextmanager
    def watched(self, span: Any, upstream: CancelToken | None, work: CancelToken | None) -> Generator[None]:
        """
        Surround the run: its events, its tracing span, and the endings that aren't answers.

        :param span: Haystack's span of the run, a context manager.
        :param upstream: Breaks the run off; None where only Ctrl-C and a cancelled task do.
        :param work: Breaks off what the run is part of, as a sub-agent's of a tool call: then that ends too,
            with `Cancelled`.
        :returns: A context manager.
        """
        self._upstream = upstream
        with (
            (upstream or CancelToken()).linked() as self._cancel,
            cancellable(upstream),
            collecting(self.sink),
            spending(self.settings.budget),
            span as opened,
        ):
            self._span = opened
            opened.set_content_tag("haystack.agent.input", {"messages": list(self.run.messages)})
            try:
                self.sink.emit(RunStarted, tools=tuple(tool.name for tool in self.read_tools()))
                yield
            except Cancelled:
                self.run.stop("cancelled")
                if work is not None and work.cancelled:
                    self.result()
                    raise
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

    @contextmanager
    def early_calls_ended(self) -> Generator[None]:
        """
        Surround a sync run's loop: no early call goes on when the run is broken off before it took it.

        :returns: A context manager.
        """
        try:
            yield
        finally:
            if self._listener is not None:
                self._listener.early.drop()

    @asynccontextmanager
    async def early_calls_ended_async(self) -> AsyncGenerator[None]:
        """`early_calls_ended`, on the running event loop."""
        try:
            yield
        finally:
            if self._listener is not None and self._listener.early.has_begun:
                ending = asyncio.ensure_future(self._listener.early.drop_async())
                try:
                    await asyncio.shield(ending)
                except asyncio.CancelledError:  # a token's, that was on its way
                    await ending
                    raise

    def result(self, stop_reason: StopReason | None = None) -> RunResult:
        """
        The run's result, and the event that ends it.

        :param stop_reason: Why it ended, when that isn't in the state.
        :returns: The result.
        """
        if open_calls := self.run.pending_calls():
            # Broken off before they were run, or by a hook: a history has to have an answer to each.
            self.run.record_results([unfinished(call) for call in open_calls], unfinished=len(open_calls))
        self.run.usage = replace(self.run.usage, cost=self.run.spent.cost)
        leaked = sum(not thread.done() for thread in list(self._threads))
        return self.sink.finish(
            lambda: self.run.result(self.sink.events, stop_reason, leaked_threads=leaked),
            stop_reason=stop_reason or self.run.stop_reason,
            steps=self.run.step_count,
        )

    def _call_model(self, effect: CallModel) -> Outcome:
        share = self._granted(effect)
        if share.limit is not None:
            return self._refused(effect, share.limit)
        for chunk in self._taken_back(effect):
            self._show(chunk)
        listener = self._listener = self._listening(effect)
        call = _ModelCall(self.settings.generator)
        try:
            with self._settled(effect, share, call), self._asked(effect, call):
                call.take(cast("Any", self.settings.generator).run(**self._inputs(effect, share)))
        finally:
            if listener is not None and not call.has_calls:
                self._count_dropped(listener.early.drop())
        for chunk in self._given_back(effect, call):
            self._show(chunk)
        return call.outcome

    async def _call_model_async(self, effect: CallModel) -> Outcome:
        share = self._granted(effect)
        if share.limit is not None:
            return self._refused(effect, share.limit)
        for chunk in self._taken_back(effect):
            await self._show_async(chunk)
        listener = self._listener = self._listening(effect)
        call = _ModelCall(self.settings.generator)
        try:
            with self._settled(effect, share, call), self._asked(effect, call):
                async with asyncio.timeout(share.seconds):
                    call.take(await self._ask_async(self._inputs(effect, share)))
        finally:
            if listener is not None and not call.has_calls:
                self._count_dropped(await listener.early.drop_async())
        for chunk in self._given_back(effect, call):
            await self._show_async(chunk)
        return call.outcome

    def _count_dropped(self, calls: int) -> None:
        """Calls that were begun for a reply that broke off were made, and count."""
        if calls:
            self.run.usage = replace(self.run.usage, tool_calls=self.run.usage.tool_calls + calls)

    def _check_cancelled(self) -> None:
        if self._upstream is not None:
            self._upstream.check()

    async def _ask_async(self, inputs: dict[str, Any]) -> object:
        generator = cast("Any", self.settings.generator)
        if hasattr(generator, "run_async"):
            return await generator.run_async(**inputs)
        return await asyncio.to_thread(generator.run, **inputs)

    def _taken_back(self, effect: CallModel) -> Iterator[StreamingChunk]:
        """Says of a text that was shown, and is asked for again, that it doesn't count."""
        characters = sum(len(reply.text or "") for reply in effect.supersedes)
        if characters:
            self.sink.emit(TextSuperseded, characters=characters)
            yield StreamingChunk("", meta={"superseded": characters})

    def _given_back(self, effect: CallModel, call: _ModelCall) -> Iterator[StreamingChunk]:
        """A text that counts after all, since nothing better came of asking again."""
        text = "".join(reply.text or "" for reply in effect.supersedes)
        if text and not any(is_answer(reply) or reply.tool_calls for reply in call.replies):
            self.sink.emit(TextDelta, text=text)
            yield StreamingChunk(text)

    def _show(self, chunk: StreamingChunk) -> None:
        if self.settings.streaming_callback is not None:
            self.settings.streaming_callback(chunk)

    async def _show_async(self, chunk: StreamingChunk) -> None:
        callback = self.settings.streaming_callback
        if callback is not None and inspect.isawaitable(answer := callback(chunk)):
            await answer

    def _granted(self, effect: CallModel) -> Grant:
        """The call's share of what the run may use."""
        budget = self.settings.budget
        expected = self._expected(effect) if budget.counts_input else 0
        share = budget.grant(self._model, expected, is_last=effect.is_last)
        if effect.is_last and share.limit is None:
            self.sink.emit(NoteAdded, text=effect.note)
        return share

    def _refused(self, effect: CallModel, limit: LimitName) -> LimitName:
        if effect.is_last:
            self.sink.emit(LastAnswerFailed, reason=f"there is nothing left of the limit {limit}")
        return limit

    def _expected(self, effect: CallModel) -> int:
        """Tokens that a request will take: what the server counted, and what has joined since."""
        counted = {id(message) for message in self._counted}
        joined = [message for message in effect.messages if id(message) not in counted]
        if not self._counted:
            return expected_tokens(joined, effect.tools)
        return self._read + expected_tokens(joined, ())

    @contextmanager
    def _settled(self, effect: CallModel, share: Grant, call: _ModelCall) -> Generator[None]:
        """Around a call: what it took is written down; where the time ran out, its outcome is the limit."""
        budget = self.settings.budget
        started, model = time.perf_counter(), self._model
        try:
            with shared_output(share.output_tokens is not None), self._hidden(effect):
                yield
        except BaseException as error:
            budget.settle(model, share, failed=True)
            is_late = share.seconds is not None and time.perf_counter() - started >= share.seconds * 0.99
            if effect.schema is not None and refuses_schema(error):
                call.outcome = SchemaRefused()
            elif effect.raises_output and not effect.supersedes and is_refused(error):
                call.outcome = OutputRefused()
            elif effect.may_overflow and isinstance(error, ContextOverflow):
                call.outcome = Overflow(error.limit)
            elif (effect.supersedes or effect.summary_words is not None) and isinstance(error, EndpointError):
                call.outcome = []  # the reply that was cut stands; a conversation without a summary goes on
            elif (
                effect.is_last and isinstance(error, Exception) and not isinstance(error, ConfigurationError)
            ):
                self.sink.emit(LastAnswerFailed, reason=redact(str(error) or "the time is over"))
                call.outcome = []
            elif is_late and isinstance(error, EndpointError | TimeoutError):
                call.outcome = "max_seconds"
            else:
                raise
            return
        if call.is_cut and share.bound_by is not None:
            call.replies[-1].meta[CUT_BY] = share.bound_by
        read, written = call.usage()
        if budget.counts_input and effect.summary_words is None:
            self._read = (read or share.input_tokens) + written
            self._counted = [*effect.messages, *call.replies]
        budget.settle(
            model,
            share,
            read=read or share.input_tokens,
            written=written,
            seconds=time.perf_counter() - started,
        )

    @contextmanager
    def _hidden(self, effect: CallModel) -> Generator[None]:
        """A summary is no part of what the run says."""
        self.sink.hides_deltas = effect.summary_words is not None
        try:
            yield
        finally:
            self.sink.hides_deltas = False

    @property
    def _model(self) -> str | None:
        """Name of the model, as the caller gave it."""
        name = getattr(self.settings.generator, "model", None)
        return name if isinstance(name, str) else None

    def _inputs(self, effect: CallModel, share: Grant) -> dict[str, Any]:
        inputs: dict[str, Any] = {"messages": effect.messages}
        is_ours = isinstance(self.settings.generator, MetaLlamaChatGenerator)
        if effect.withheld and is_ours:
            inputs["withheld"] = effect.withheld
        tools = [tool for tool in effect.tools if is_ours or tool.name not in effect.withheld]
        if tools:
            inputs["tools"] = tools
        if effect.summary_words is not None:
            if (own := getattr(self.settings.generator, "streaming_callback", None)) is not None:
                is_async = inspect.iscoroutinefunction(own)
                inputs["streaming_callback"] = _unheard_async if is_async else _unheard
        elif is_ours and self.settings.streaming_callback is not None:
            inputs["streaming_callback"] = self.settings.streaming_callback
        elif not is_ours and self._streams and self._takes_callback:
            inputs["streaming_callback"] = self._telling_callback()
        if self._listener is not None:
            inputs["listener"] = self._listener
        kwargs = settings_of(
            effect,
            share,
            self.settings.generator,
            self.settings.generation_kwargs,
            streams=self._listener is not None,
        )
        if kwargs is not None:
            inputs["generation_kwargs"] = kwargs
        retry = self.settings.retry
        if share.seconds is not None and isinstance(self.settings.generator, MetaLlamaChatGenerator):
            retry = within(self.settings.generator.retry_policy(retry), share.seconds)
        if retry is not None:
            inputs["retry"] = retry
        return inputs

    @property
    def _takes_callback(self) -> bool:
        """Haystack's protocol doesn't ask a generator to stream."""
        if self.settings.streaming_callback is not None:
            return True  # the caller's word
        parameters = inspect.signature(self.settings.generator.run).parameters
        return "streaming_callback" in parameters

    @property
    def _streams(self) -> bool:
        return self.sink.streams or self._callback is not None

    @property
    def _callback(self) -> StreamingCallbackT | None:
        """The run's, else the generator's own."""
        own = getattr(self.settings.generator, "streaming_callback", None)
        return self.settings.streaming_callback or own

    def _telling_callback(self) -> StreamingCallbackT:
        """The run's callback; it tells the chunks of a generator that isn't ours in events."""
        callback, ready = self._callback, self.sink.ready

        def tell(chunk: StreamingChunk) -> object:
            if not is_told(chunk):
                if chunk.reasoning is not None and chunk.reasoning.reasoning_text:
                    self.sink.emit(ReasoningDelta, text=chunk.reasoning.reasoning_text)
                if chunk.content:
                    self.sink.emit(TextDelta, text=chunk.content)
            return callback(chunk) if callback is not None else None

        async def tell_async(chunk: StreamingChunk) -> None:
            if inspect.isawaitable(answer := tell(chunk)):
                await answer
            if ready is not None:
                await ready()

        if self._is_async and hasattr(self.settings.generator, "run_async"):
            return tell_async
        return cast("StreamingCallbackT", tell)

    def _listening(self, effect: CallModel) -> StreamListener | None:
        """What hears of the reply that is asked for; None for one that isn't streamed."""
        if effect.summary_words is not None or not self._streams:
            return None
        if not isinstance(self.settings.generator, MetaLlamaChatGenerator):
            return None
        settings, tools = self.settings, {tool.name: tool for tool in effect.tools}
        is_possible = settings.eager_start and "before_tool" not in settings.hooks

        def may_start(call: ToolCall) -> bool:
            if not is_possible or call.tool_name in effect.withheld:
                return False
            tool = tools.get(call.tool_name)
            return may_be_early(call, tool, settings.approval) and all(
                settings.budget.grant_tools([call.tool_name])
            )

        batch = self._batch_of((), tools)
        early = EarlyCalls(settings.execution, batch, may_start, is_async=self._is_async)
        return StreamListener(self.sink, early, self.sink.ready)

    def _batch(self, effect: CallTools) -> Batch:
        early = self._listener.early.take(effect.calls) if self._listener is not None else {}
        not_called = self._not_called(effect, early)
        batch = self._batch_of(effect.calls, {tool.name: tool for tool in effect.tools})
        return replace(
            batch,
            not_called=not_called,
            early={place: call for place, call in early.items() if place not in not_called},
            streaming_callback=self.settings.streaming_callback,
            approval=self.settings.approval,
        )

    def _batch_of(self, calls: Sequence[ToolCall], tools: Mapping[str, Tool]) -> Batch:
        settings = self.settings
        return Batch(
            calls=calls,
            tools=tools,
            state=self.run.state,
            limit=settings.concurrency_limit,
            pass_callback_on=settings.pass_callback_on,
            raise_on_failure=settings.raise_on_failure,
            deps=settings.deps,
            slots=settings.slots,
            tool_timeout=settings.tool_timeout,
            until=settings.budget.until,
            cancel=self._cancel,
            is_watched=self._upstream is not None,
            threads=self._threads,
            big_results=settings.big_results,
        )

    def _not_called(self, effect: CallTools, early: Collection[int]) -> dict[int, NotCalled]:
        """Calls that aren't to be run, by place; early ones were granted when they were begun."""
        kept_back: dict[int, NotCalled] = {}
        for place, call in enumerate(effect.calls):
            if place in effect.answers:
                kept_back[place] = NotCalled("answer", effect.answers[place])
            elif call.tool_name in effect.withheld:
                kept_back[place] = NotCalled("turn", f"Tool '{call.tool_name}' can't be called in this turn.")
            elif place in effect.beyond:
                text = f"Tool '{call.tool_name}' was not called: this very call was made too often."
                kept_back[place] = NotCalled("repeat", text)
        places = [
            place for place in range(len(effect.calls)) if place not in kept_back and place not in early
        ]
        allowed = self.settings.budget.grant_tools([effect.calls[place].tool_name for place in places])
        for place, may in zip(places, allowed, strict=True):
            if not may:
                name = effect.calls[place].tool_name
                text = f"Tool '{name}' was not called: the run's limit of tool calls is reached."
                kept_back[place] = NotCalled("limit", text)
        return kept_back

    @contextmanager
    def _kept(self, batch: Batch) -> Generator[Batch]:
        """When a batch is broken off, what had finished is kept, and each call has its answer."""
        try:
            yield batch
        except BaseException:
            self.run.record_results(batch.messages(), unfinished=len(batch.calls) - len(batch.finished))
            raise

    @contextmanager
    def _asked(self, effect: CallModel, answer: _ModelCall) -> Generator[None]:
        self.sink.step = self.run.step_count + 1
        names = tuple(tool.name for tool in effect.tools if tool.name not in effect.withheld)
        self.sink.emit(ModelRequested, message_count=len(effect.messages), tools=names)
        started = time.perf_counter()
        with tracer.trace("haystack.agent.step.llm", parent_span=self._span) as span:
            span.set_content_tag(
                "haystack.agent.step.llm.input", {"messages": effect.messages, "tools": names}
            )
            yield
            span.set_content_tag("haystack.agent.step.llm.output", {"replies": answer.replies})
        last = answer.replies[-1] if answer.replies else None
        told = self._listener.told if self._listener is not None else ()
        for call in (call for reply in answer.replies for call in reply.tool_calls):
            if call.id is None or call.id not in told:
                tell_call(self.sink, call)
        self.sink.emit(
            ModelReplied,
            text=last.text if last else None,
            tool_names=tuple(call.tool_name for reply in answer.replies for call in reply.tool_calls),
            finish_reason=cast("str | None", last.meta.get("finish_reason")) if last else None,
            seconds=time.perf_counter() - started,
        )


def _unheard(chunk: StreamingChunk) -> None:
    """A callback for what is nobody's business."""


async def _unheard_async(chunk: StreamingChunk) -> None:
    """Likewise."""


def _kind(output: object) -> str:
    return f"a {type(output).__name__} without replies"


class _ModelCall:
    """What came of a model call: its replies, checked; or the limit that ended it."""

    def __init__(self, generator: ChatGenerator) -> None:
        self._generator = generator
        self.replies: list[ChatMessage] = []
        self.outcome: list[ChatMessage] | LimitName | Overflow | Refusal = self.replies

    def take(self, output: object) -> None:
        replies = cast("Mapping[str, object]", output).get("replies") if isinstance(output, Mapping) else None
        if not isinstance(replies, Sequence):
            raise ConfigurationError(
                f"{type(self._generator).__name__}.run must return {{'replies': [ChatMessage, ...]}}, "
                f"not {_kind(cast('object', output))}"
            )
        self.replies = self.outcome = list(cast("Sequence[ChatMessage]", replies))

    @property
    def has_calls(self) -> bool:
        return any(reply.tool_calls for reply in self.replies)

    @property
    def is_cut(self) -> bool:
        """Whether the last reply was cut by its token limit."""
        return bool(self.replies) and self.replies[-1].meta.get("finish_reason") == "length"

    def usage(self) -> tuple[int, int]:
        """Tokens read and written; an estimate of the latter where the server doesn't count."""
        read = written = 0
        for reply in self.replies:
            usage = cast("Mapping[str, Any]", reply.meta.get("usage") or {})
            sent, got = token_counts(usage)
            thoughts = len(str(reply.meta.get("reasoning") or "")) // 3
            read, written = read + sent, written + (got or expected_tokens([reply], ()) + thoughts)
        return read, written
