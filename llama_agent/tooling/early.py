"""
Tool calls that run while the model still writes its reply.

Only calls that change nothing are begun early, and only behind others that were: so nothing is overtaken, and
a call that never becomes part of a reply, since the stream broke, has done no harm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools.tool import Tool

from llama_agent.arguments import MALFORMED
from llama_agent.cancel import CancelToken
from llama_agent.tooling.approval import Approval
from llama_agent.tooling.execution import Batch, EarlyCall, Execution
from llama_agent.tooling.order import injections_in, waits_of
from llama_agent.tooling.threads import end_tasks, in_thread, wait_for_any
from llama_agent.tooling.tool import hints_of

_LEFT_SECONDS = 0.2
"""How long threads are waited for that were told to stop."""


def may_be_early(call: ToolCall, tool: Tool | None, approval: Approval | None) -> bool:
    """
    Whether a call changes nothing and needs nobody's word.

    :param call: What the model wrote.
    :param tool: The tool on offer that it names.
    :param approval: Who is asked before calls run.
    :returns: False also for a tool that touches the run's State, or is given the streaming callback.
    """
    if tool is None or not hints_of(tool).read_only or MALFORMED in (call.extra or {}):
        return False
    if tool.inputs_from_state or tool.outputs_to_state or set(injections_in(tool).values()) - {"context"}:
        return False
    return approval is None or not approval.needs(call, tool)


class EarlyCalls:
    """
    The early calls of one model call.

    :param execution: Runs them.
    :param batch: What each is run with; its calls are put in.
    :param may_start: Whether a call may be begun; it is counted in the limits then.
    :param is_async: Whether the run is.
    """

    def __init__(
        self,
        execution: Execution,
        batch: Batch,
        may_start: Callable[[ToolCall], bool],
        *,
        is_async: bool,
    ) -> None:
        self._execution = execution
        self._batch = batch
        self._may_start = may_start
        self._is_async = is_async
        # Not that of the request: what a tool asks or measures is no part of it.
        self._context = copy_context()
        self._begun: list[EarlyCall] = []
        self._superseded: list[EarlyCall] = []
        self._is_open = True

    @property
    def has_begun(self) -> bool:
        """Whether any calls were begun that nobody has taken."""
        return bool(self._begun or self._superseded)

    def begins(self) -> None:
        """A reply begins, maybe anew: then the calls of the one before may come again."""
        self._superseded += self._begun
        self._begun, self._is_open = [], True

    def known(self, call: ToolCall) -> str | None:
        """
        The id under which a call was begun in a reply that broke off.

        :param call: It comes again, maybe with another id.
        :returns: The id; None for a call that is new.
        """
        same = _same(call, self._superseded) if self._is_open else None
        return None if same is None else same.call.id

    def offer(self, call: ToolCall) -> None:
        """
        Begin a call, if it may be: the calls before it in the reply have all been.

        :param call: It is complete.
        """
        if not self._is_open:
            return
        if (same := _same(call, self._superseded)) is not None:
            self._superseded.remove(same)
            self._begun.append(same)
            return
        tool = self._batch.tools.get(call.tool_name)
        self._is_open = tool is not None and _same(call, self._begun) is None and self._may_start(call)
        if self._is_open and tool is not None:
            self._begun.append(self._start(call, tool))

    def take(self, calls: Sequence[ToolCall]) -> dict[int, EarlyCall]:
        """
        The reply is over: find its calls among those that were begun. The others are for `drop`.

        :param calls: In the reply's order.
        :returns: Early calls by the place of the call that they are.
        """
        found: dict[int, EarlyCall] = {}
        for place, call in enumerate(calls):
            if (same := _same(call, self._begun)) is not None:
                self._begun.remove(same)
                found[place] = same
        return found

    def drop(self) -> int:
        """
        End the calls that are no part of a reply.

        :returns: How many there were.
        """
        left = self._cancelled()
        if threads := [early.outcome for early in left if isinstance(early.outcome, Future)]:
            wait(threads, timeout=_LEFT_SECONDS)
        return len(left)

    async def drop_async(self) -> int:
        """As `drop`, on the running event loop."""
        left = self._cancelled()
        await end_tasks([early.outcome for early in left if isinstance(early.outcome, asyncio.Task)])
        return len(left)

    def _cancelled(self) -> list[EarlyCall]:
        left = [*self._begun, *self._superseded]
        self._begun, self._superseded, self._is_open = [], [], False
        for early in left:
            early.cancel.cancel()
        return left

    def _start(self, call: ToolCall, tool: Tool) -> EarlyCall:
        cancel = CancelToken()
        remove = self._batch.cancel.on_cancel(cancel.cancel)
        batch = replace(self._batch, calls=[call], cancel=cancel, is_watched=False, finished={})
        pairs = [(early.call, early.tool) for early in self._begun]
        waits = waits_of([*pairs, (call, tool)], one_by_one=batch.limit == 1)[-1]
        before = [self._begun[place].outcome for place in waits]
        outcome: Future[ChatMessage] | asyncio.Task[ChatMessage]
        if self._is_async:
            work = self._run_async(batch, before)
            outcome = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        else:
            outcome = self._context.copy().run(in_thread, self._run, batch, before)
            self._batch.threads.add(outcome)
            outcome.add_done_callback(self._batch.threads.discard)
        outcome.add_done_callback(lambda _: remove())
        return EarlyCall(call, tool, outcome, cancel, batch.finished)

    def _run(self, batch: Batch, before: Sequence[Any]) -> ChatMessage:
        for future in before:
            wait_for_any([future], cancel=batch.cancel)
            batch.cancel.check()
        return self._execution.run(batch)[0]

    async def _run_async(self, batch: Batch, before: Sequence[Any]) -> ChatMessage:
        if before:
            await asyncio.wait(before)
        batch.cancel.check()
        return (await self._execution.run_async(batch))[0]


def _same(call: ToolCall, among: Sequence[EarlyCall]) -> EarlyCall | None:
    """The one with the same tool and arguments; that with the same id first."""
    text = _content(call)
    alike = [early for early in among if _content(early.call) == text]
    return next((early for early in alike if early.call.id == call.id), alike[0] if alike else None)


def _content(call: ToolCall) -> tuple[str, str]:
    return call.tool_name, json.dumps(call.arguments, sort_keys=True, default=str)
