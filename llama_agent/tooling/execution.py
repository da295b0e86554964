"""
Performs the tool calls of one reply: in a safe order, beside each other where they may be, each ending in a
message to the model.

This is the one boundary where a tool's exception becomes a message.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from haystack.components.agents.state.state import State
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCall
from haystack.dataclasses.streaming_chunk import StreamingCallbackT
from haystack.tools.errors import ToolInvocationError
from haystack.tools.tool import Tool
from haystack.tracing.tracer import tracer

from llama_agent.arguments import MALFORMED, MISTAKE, WITHHELD, WithheldBy, nearest, shorten
from llama_agent.cancel import Cancelled, CancelToken, cancellable
from llama_agent.errors import ConfigurationError, ToolDenied, ToolFailedError, ToolRetry
from llama_agent.events import ApprovalRequested, ToolFinished, ToolStarted, emit
from llama_agent.logs import logger_of
from llama_agent.redaction import redact
from llama_agent.tooling.approval import Approval, Refused
from llama_agent.tooling.big_results import BigResults
from llama_agent.tooling.calling import Call, TimedOut, finished
from llama_agent.tooling.order import injections_in, waits_of
from llama_agent.tooling.results import content_of, text_of, within
from llama_agent.tooling.run_context import context_of
from llama_agent.tooling.schema import BoundArguments
from llama_agent.tooling.slots import Slots
from llama_agent.tooling.threads import (
    TOOL_FAILURES,
    LoopThread,
    end_tasks,
    in_thread,
    wait_for_any,
    wait_for_threads,
)
from llama_agent.tooling.tool import (
    FunctionTool,
    bind,
    failure_text,
    functions_of,
    is_function_tool,
    options_of,
    rejection_text,
    retries_of,
)

logger = logger_of(__name__)

_LEFT_SECONDS = 0.2
"""How long threads are waited for that were told to stop."""


@dataclass(frozen=True)
class NotCalled:
    """
    Says of a call that it isn't run.

    :param reason: For the loop.
    :param text: For the model.
    """

    reason: WithheldBy
    text: str


@dataclass(frozen=True)
class EarlyCall:
    """
    A call that was begun early.

    :param call: As the model wrote it.
    :param tool: The tool.
    :param outcome: Its tool message, in time.
    :param cancel: Its own token.
    :param finished: Has its tool message under 0, once there is one.
    """

    call: ToolCall
    tool: Tool
    outcome: Future[ChatMessage] | asyncio.Task[ChatMessage]
    cancel: CancelToken
    finished: Mapping[int, ChatMessage]

    def conclude(self, batch: Batch, job: _Job) -> None:
        """
        Hand its message over, once the outcome is there.

        :param batch: The calls of the reply.
        :param job: The call as it stands there.
        :raises ToolFailedError: As the call did.
        """
        if (message := self.finished.get(0)) is not None:
            result, meta = message.tool_call_results[0], dict(message.meta)
            batch.finished[job.place] = ChatMessage.from_tool(
                result.result, origin=job.call, error=result.error, meta=meta
            )
        self.outcome.result()


@dataclass(frozen=True)
class Batch:
    """
    The tool calls of one reply, and what they run with.

    :param calls: In the model's order.
    :param tools: The tools on offer, by name.
    :param state: The run's Haystack State.
    :param limit: Most calls that run at the same time.
    :param streaming_callback: Gets a chunk per result, in the calls' order.
    :param pass_callback_on: Whether tools with a `streaming_callback` parameter get it.
    :param raise_on_failure: Whether a failure raises instead of going to the model.
    :param approval: Who is asked before calls run.
    :param deps: The caller's object, for tools that ask for the run's context.
    :param not_called: Calls that aren't run, by their place.
    :param early: Calls that run already, by their place.
    :param slots: The places of calls that run at the same time, over the run and its sub-agents.
    :param tool_timeout: Seconds for a call of a tool that has no limit of its own; None for no limit.
    :param until: When the run's time is over, on `time.monotonic`'s clock; None for no limit.
    :param cancel: Set when the run is broken off.
    :param is_watched: Whether it may be broken off from elsewhere.
    :param threads: Those that tools run in.
    :param big_results: Takes results that are too large for the window.
    :param finished: Filled as calls end: tool messages by the call's place; holds them also when the batch
        is broken off.
    """

    calls: Sequence[ToolCall]
    tools: Mapping[str, Tool]
    state: State
    limit: int = 4
    streaming_callback: StreamingCallbackT | None = None
    pass_callback_on: bool = False
    raise_on_failure: bool = False
    approval: Approval | None = None
    deps: object = None
    not_called: Mapping[int, NotCalled] = field(default_factory=dict[int, NotCalled])
    early: Mapping[int, EarlyCall] = field(default_factory=dict[int, EarlyCall])
    slots: Slots = field(default_factory=lambda: Slots(4))
    tool_timeout: float | None = None
    until: float | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    is_watched: bool = False
    threads: set[Future[Any]] = field(default_factory=set[Future[Any]])
    big_results: BigResults | None = None
    finished: dict[int, ChatMessage] = field(default_factory=dict[int, ChatMessage])

    def messages(self) -> list[ChatMessage]:
        """
        One tool message per call, in the calls' order, though not all have finished.

        :returns: The messages; those of unfinished calls say so, so that the history stays whole.
        """
        return [self.finished.get(place) or unfinished(call) for place, call in enumerate(self.calls)]


@dataclass
class _Job:
    """One call of a batch. `after`: places of those it waits for; `verdict`: why it doesn't run at all."""

    place: int
    call: ToolCall
    tool: Tool | None
    after: list[int] = field(default_factory=list[int])
    verdict: str | None = None


class Execution:
    """
    Runs batches of tool calls, sync and async. One serves all runs of an agent.

    In sync runs, async tools run on one event loop in a thread of its own, so that what they hold (a client,
    a lock) lives from call to call; `close` ends it.
    """

    def __init__(self) -> None:
        self._loop_thread: LoopThread | None = None
        self._lock = threading.Lock()

    def run(self, batch: Batch) -> list[ChatMessage]:
        """
        Perform a batch; calls that can't run beside each other run on the caller's thread.

        :param batch: The calls.
        :returns: One tool message per call, in the calls' order.
        :raises ToolFailedError: A call failed and `raise_on_failure` is set.
        """
        with _ending_threads(batch):
            jobs = _plan(batch)
            for job in jobs:
                if _needs_approval(batch, job):
                    answer = cast("Approval", batch.approval).ask(job.call, cast("Tool", job.tool))
                    _record_verdict(job, self._await(answer) if inspect.isawaitable(answer) else answer)
                    batch.cancel.check()
            told = 0
            performed = self._in_threads if _may_overlap(batch, jobs) else self._in_turn
            for _ in performed(batch, jobs):
                # Results are told in the calls' order, each as soon as those before it are there.
                while batch.streaming_callback is not None and told in batch.finished:
                    batch.streaming_callback(_result_chunk(batch.finished[told], told))
                    told += 1
        if batch.streaming_callback is not None:
            batch.streaming_callback(_last_chunk())
        return batch.messages()

    async def run_async(self, batch: Batch) -> list[ChatMessage]:
        """
        Perform a batch on the running event loop; sync tools run in threads.

        :param batch: The calls.
        :returns: One tool message per call, in the calls' order.
        :raises ToolFailedError: A call failed and `raise_on_failure` is set.
        """
        jobs = _plan(batch)
        for job in jobs:
            if _needs_approval(batch, job):
                answer = cast("Approval", batch.approval).ask(job.call, cast("Tool", job.tool))
                _record_verdict(job, await answer if inspect.isawaitable(answer) else answer)
                batch.cancel.check()
        await self._together(batch, jobs)
        await _send(batch.streaming_callback, _last_chunk())
        return batch.messages()

    def close(self) -> None:
        """End the thread that async tools of sync runs use. A later run starts another."""
        with self._lock:
            thread, self._loop_thread = self._loop_thread, None
        if thread is not None:
            thread.stop()

    async def _together(self, batch: Batch, jobs: Sequence[_Job]) -> None:
        """A task for each job, begun once those it waits for have ended."""
        tasks: list[asyncio.Task[None]] = []

        async def perform(job: _Job) -> None:
            before = [tasks[place] for place in job.after]
            if before:
                await asyncio.wait(before)
            if any(task.cancelled() or task.exception() for task in before):
                return  # the batch is being broken off
            await self._perform_async(batch, job)

        tasks.extend(asyncio.create_task(perform(job)) for job in jobs)
        told, pending = 0, set(tasks)
        try:
            while pending:
                # Not `await task`: a tool that swallows its cancellation would swallow the run's.
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                while told in batch.finished:
                    await _send(batch.streaming_callback, _result_chunk(batch.finished[told], told))
                    told += 1
        except BaseException:
            batch.cancel.cancel()  # what runs in threads looks at it
            begun = [early.outcome for early in batch.early.values()]
            await end_tasks([*tasks, *(task for task in begun if isinstance(task, asyncio.Task))])
            await wait_for_threads(list(batch.threads), _LEFT_SECONDS)
            raise

    def _in_turn(self, batch: Batch, jobs: Sequence[_Job]) -> Iterator[None]:
        for job in jobs:
            self._perform(batch, job)
            yield

    def _in_threads(self, batch: Batch, jobs: Sequence[_Job]) -> Iterator[None]:
        """Start each job in a thread once those it waits for have ended; yields whenever some have."""
        waiting = list(jobs)
        running: dict[Future[None], _Job] = {}
        ended: set[int] = set()
        try:
            while waiting or running:
                for job in [job for job in waiting if ended.issuperset(job.after)][
                    : batch.limit - len(running)
                ]:
                    waiting.remove(job)
                    running[thread := in_thread(self._perform, batch, job)] = job
                    batch.threads.add(thread)
                    thread.add_done_callback(batch.threads.discard)
                for future in wait_for_any(running):
                    ended.add(running.pop(future).place)
                    future.result()
                yield
        except BaseException:
            batch.cancel.cancel()
            wait(running, timeout=_LEFT_SECONDS * 2)
            raise

    def _perform(self, batch: Batch, job: _Job) -> None:
        if (early := batch.early.get(job.place)) is not None:
            if not wait_for_any([cast("Future[ChatMessage]", early.outcome)], cancel=batch.cancel):
                raise Cancelled
            early.conclude(batch, job)
            return
        with batch.cancel.linked() as cancel, batch.slots.place(cancel):
            with cancellable(cancel), _Watched(batch, job) as watched:
                if (call := watched.prepare(cancel)) is not None:
                    value = call.run(self._await)
                    cancel.check()  # a run that is over takes nothing any more
                    watched.returned(value)
            watched.conclude()

    async def _perform_async(self, batch: Batch, job: _Job) -> None:
        if (early := batch.early.get(job.place)) is not None:
            await asyncio.wait({cast("asyncio.Task[ChatMessage]", early.outcome)})
            early.conclude(batch, job)
            return
        async with batch.slots.place_async():
            with batch.cancel.linked() as cancel, cancellable(cancel), _Watched(batch, job) as watched:
                if (call := watched.prepare(cancel)) is not None:
                    watched.returned(await call.run_async())
            watched.conclude()

    def _await(self, value: Any) -> Any:
        with self._lock:
            if self._loop_thread is not None and self._loop_thread.is_blocked:
                self._loop_thread.end_later()
                self._loop_thread = None
            if self._loop_thread is None:
                self._loop_thread = LoopThread()
            thread = self._loop_thread
        return thread.run(finished(value))


class _Watched:
    """One call: told in events and a tracing span, its exception caught, its outcome made into a message."""

    def __init__(self, batch: Batch, job: _Job) -> None:
        self._batch = batch
        self._job = job
        self._message: ChatMessage | None = None
        self._error: BaseException | None = None
        self._traceback: str | None = None
        self._is_mistake = False

    def __enter__(self) -> _Watched:
        call = self._job.call
        self._started = time.perf_counter()
        description = self._job.tool.description if self._job.tool else ""
        self._span_context = tracer.trace(
            "haystack.agent.step.tool",
            tags={"haystack.tool.name": call.tool_name, "haystack.tool.description": description},
            parent_span=tracer.current_span(),
        )
        self._span = self._span_context.__enter__()
        self._span.set_content_tag("haystack.agent.step.tool.input", call.arguments)
        return self

    def prepare(self, cancel: CancelToken) -> Call | None:
        """
        The call, or None when it can't run, for which the model was given the reason.

        :param cancel: The call's own token.
        :returns: The call, checked and complete.
        """
        job = self._job
        if (not_called := self._batch.not_called.get(job.place)) is not None:
            self._failed(not_called.text, withheld_by=not_called.reason)
            return None
        if job.verdict is not None:
            self._failed(job.verdict)
            return None
        self._is_mistake = True
        if (error := _unreadable(job.call)) is not None:
            self._failed(error)
        elif (tool := job.tool) is None:
            self._failed(_unknown_text(job.call.tool_name, self._batch.tools))
        else:
            call, state_values = job.call, _from_state(self._batch, tool, job.call.arguments)
            bound = bind(tool, call.arguments, filled=state_values)
            problems = bound if isinstance(bound, list) else _not_in_state(self._batch, tool, state_values)
            if isinstance(bound, BoundArguments) and not problems:
                self._is_mistake = False
                given = {**state_values, **_injected(self._batch, tool, call, cancel)}
                return _call_of(self._batch, tool, call, bound.with_values(given), cancel, given)
            self._failed(rejection_text(tool.name, problems))
        return None

    def returned(self, value: Any) -> None:
        """Take the tool's return value."""
        tool = cast("Tool", self._job.tool)
        _merge_into_state(tool, value, self._batch.state)
        content, most = content_of(tool, value), options_of(tool).max_result_chars
        big_results = self._batch.big_results
        if most is not None:
            content = within(content, most)
        elif big_results is not None and not big_results.is_reader(tool):
            content = big_results.fit(content)
        self._message = ChatMessage.from_tool(content, origin=self._job.call)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        caught = isinstance(error, TOOL_FAILURES) or _tool_cancelled_itself(error)
        if isinstance(error, ToolInvocationError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # what a Haystack Tool's function raised
        if error is not None and caught:
            self._error = error
            if not isinstance(error, ToolRetry | ToolDenied | TimedOut):
                self._traceback = redact("".join(traceback.format_exception(error)))
            self._is_mistake = isinstance(error, ToolRetry)
            text = (
                str(error)
                if isinstance(error, ToolInvocationError | TimedOut)
                else failure_text(self._job.call.tool_name, error)
            )
            self._failed(shorten(redact(text), 2000))
        message = self._message
        failed = message is None or bool(message.tool_call_results[0].error)
        self._span.set_tag("haystack.tool.error", failed)
        if message is not None:
            self._span.set_content_tag("haystack.agent.step.tool.output", message.tool_call_results[0].result)
        self._span_context.__exit__(None, None, None)
        emit(
            ToolFinished,
            tool_name=self._job.call.tool_name,
            call_id=self._job.call.id,
            result=text_of(message.tool_call_results[0].result) if message else "interrupted",
            error=failed,
            seconds=time.perf_counter() - self._started,
            traceback=self._traceback,
        )
        return caught

    def conclude(self) -> None:
        """Hand the message over; raise for the caller who asked for exceptions."""
        message = cast("ChatMessage", self._message)
        self._batch.finished[self._job.place] = message
        result = message.tool_call_results[0]
        spoken = isinstance(self._error, ToolRetry | ToolDenied)  # the tool's word to the model
        is_called = WITHHELD not in message.meta
        if result.error and self._batch.raise_on_failure and not spoken and is_called:
            raise ToolFailedError(str(result.result), tool_name=self._job.call.tool_name) from self._error

    def _failed(self, text: str, *, withheld_by: WithheldBy | None = None) -> None:
        if self._traceback is not None:
            logger.warning("%s\n%s", text, self._traceback)
        else:
            logger.info("%s", text)
        meta: dict[str, Any] | None = {MISTAKE: True} if self._is_mistake else None
        if withheld_by is not None:
            meta = {WITHHELD: withheld_by}
        self._message = ChatMessage.from_tool(text, origin=self._job.call, error=True, meta=meta)


@contextmanager
def _ending_threads(batch: Batch) -> Generator[None]:
    """When a batch is broken off, its threads are told, and given a moment."""
    try:
        yield
    except BaseException:
        batch.cancel.cancel()
        wait(list(batch.threads), timeout=_LEFT_SECONDS)
        raise


def _plan(batch: Batch) -> list[_Job]:
    pairs = [(call, batch.tools.get(call.tool_name)) for call in batch.calls]
    waits = waits_of(pairs, one_by_one=batch.limit == 1)
    return [_Job(place, call, tool, waits[place]) for place, (call, tool) in enumerate(pairs)]


def _may_overlap(batch: Batch, jobs: list[_Job]) -> bool:
    if batch.limit < 1:
        raise ConfigurationError("tool_concurrency_limit must be 1 or more")
    return batch.limit > 1 and any(len(job.after) < i for i, job in enumerate(jobs))


def _needs_approval(batch: Batch, job: _Job) -> bool:
    approval, tool, call = batch.approval, job.tool, job.call
    is_settled = job.place in batch.not_called or job.place in batch.early
    if approval is None or tool is None or is_settled or _unreadable(call) is not None:
        return False
    if not approval.needs(call, tool):
        return False
    try:
        # Whatever the State fills in may be there by then.
        bound = bind(tool, call.arguments, filled=(tool.inputs_from_state or {}).values())
    except Exception:
        return False  # it fails in the same way when its turn comes, and the model is told
    if not isinstance(bound, BoundArguments):
        return False  # it won't run as it is: nobody has to be asked
    emit(ApprovalRequested, tool_name=call.tool_name, call_id=call.id, arguments=call.arguments)
    return True


def _record_verdict(job: _Job, answer: object) -> None:
    """Note a refusal. A bare yes or no is understood too: it is what everybody writes first."""
    if answer is None or answer is True:
        return
    if answer is False:
        answer = Refused("it was not allowed.")
    if not isinstance(answer, Refused):
        raise ConfigurationError(
            f"approval.ask() must return None to let '{job.call.tool_name}' run, or Refused('why'), "
            f"not {answer!r}"
        )
    job.verdict = f"Tool '{job.call.tool_name}' was not called: {answer.reason}"


def _unreadable(call: ToolCall) -> str | None:
    """Why a call's arguments could not be read, if so: found by the generator, told to the model here."""
    error = (call.extra or {}).get(MALFORMED)
    return None if error is None else f"Tool '{call.tool_name}' was not called. {error}"


def _unknown_text(name: str, tools: Mapping[str, Tool]) -> str:
    near = nearest(name, tools)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"There is no tool '{name}'.{hint} Available tools: {', '.join(tools) or 'none'}."


def _from_state(batch: Batch, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that get their values from the State; what the model sent for them wins, as in Haystack."""
    ours = is_function_tool(tool)
    return {
        name: batch.state.get(key)
        for key, name in (tool.inputs_from_state or {}).items()
        if batch.state.has(key) and (ours or name not in arguments)
    }


def _not_in_state(batch: Batch, tool: Tool, found: Mapping[str, Any]) -> list[str]:
    """Parameters of a function that can't go without a value of the State, which isn't there."""
    if not isinstance(tool, FunctionTool):
        return []
    missing = {name: key for key, name in (tool.inputs_from_state or {}).items() if name not in found}
    if not missing:
        return []
    parameters = inspect.signature(cast("FunctionTool[..., Any]", tool).target).parameters
    return [
        f"{name}: the run's state has no value for '{key}' yet"
        for name, key in missing.items()
        if parameters[name].default is inspect.Parameter.empty
    ]


def _call_of(
    batch: Batch,
    tool: Tool,
    call: ToolCall,
    arguments: BoundArguments,
    cancel: CancelToken,
    given: Mapping[str, Any],
) -> Call:
    function, async_function = functions_of(tool)
    if not is_function_tool(tool):
        function = tool.invoke if function is not None else None
        async_function = tool.invoke_async if async_function is not None else None
    options = options_of(tool)
    seconds = batch.tool_timeout if options.timeout is None else options.timeout
    left = None if batch.until is None else batch.until - time.monotonic()
    attempts = iter((arguments,))

    def renewed() -> BoundArguments:
        if (first := next(attempts, None)) is not None:
            emit(ToolStarted, tool_name=call.tool_name, call_id=call.id, arguments=call.arguments)
            return first
        bound = bind(tool, call.arguments, filled=given)
        return arguments if isinstance(bound, list) else bound.with_values(given)

    return Call(
        name=tool.name,
        call_id=call.id,
        function=function,
        async_function=async_function,
        arguments=renewed,
        options=options,
        retries=retries_of(tool),
        seconds=min((time for time in (seconds, left) if time is not None), default=None),
        cancel=cancel,
        is_watched=batch.is_watched,
        threads=batch.threads,
    )


def _injected(batch: Batch, tool: Tool, call: ToolCall, cancel: CancelToken) -> dict[str, Any]:
    """What the run itself fills in: its context, the State, the streaming callback."""
    values: dict[str, Any] = {}
    for name, injection in injections_in(tool).items():
        match injection:
            case "context":
                values[name] = context_of(tool.name, call.id, batch.deps, cancel)
            case "state":
                values[name] = batch.state
            case "callback":
                if batch.pass_callback_on and batch.streaming_callback is not None:
                    values[name] = batch.streaming_callback
    return values


def _merge_into_state(tool: Tool, value: Any, state: State) -> None:
    if not isinstance(value, Mapping):
        return
    values = cast("Mapping[str, Any]", value)
    for key, config in (tool.outputs_to_state or {}).items():
        source = config.get("source")
        if not source or source in values:
            state.set(key, values[source] if source else value, handler_override=config.get("handler"))


def _tool_cancelled_itself(error: BaseException | None) -> bool:
    """Whether a CancelledError comes from within the tool, and nobody is cancelling the run."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True
    return task is not None and not task.cancelling()


def unfinished(call: ToolCall) -> ChatMessage:
    """
    The answer to a call of a run that was broken off.

    :param call: It didn't finish.
    :returns: A tool message that says so: with one for each call, a history can be continued.
    """
    text = f"Tool '{call.tool_name}' did not finish: the run was broken off."
    return ChatMessage.from_tool(text, origin=call, error=True)


def _result_chunk(message: ChatMessage, index: int) -> StreamingChunk:
    result = message.tool_call_results[0]
    meta = {"tool_result": result.result, "tool_call": result.origin}
    return StreamingChunk(content="", index=index, tool_call_result=result, start=True, meta=meta)


def _last_chunk() -> StreamingChunk:
    meta = {"finish_reason": "tool_call_results"}
    return StreamingChunk(content="", finish_reason="tool_call_results", meta=meta)


async def _send(callback: StreamingCallbackT | None, chunk: StreamingChunk) -> None:
    if callback is not None and inspect.isawaitable(answer := callback(chunk)):
        await answer
