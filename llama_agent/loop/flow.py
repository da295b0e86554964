"""
The decision loop: what happens next, without doing any of it.

It yields effects and is sent their outcomes; a driver performs them, sync or async. No clock, no randomness
and no I/O in here: so a run can be replayed by feeding its outcomes back.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from haystack.dataclasses import ChatMessage, ChatRole, ToolCall
from haystack.hooks.protocol import HookPoint
from haystack.tools.tool import Tool

from llama_agent.arguments import WITHHELD
from llama_agent.loop.limits import LimitName
from llama_agent.loop.mistakes import MISTAKEN, Mistakes
from llama_agent.loop.state import EXIT_REASONS, RunState

CUT_BY = "cut_by"
"""In a reply's `meta`: the run's limit that cut it."""
LIMITED = (
    "You have reached the limit of this run, so no more tools can be called. Answer now as well as you can "
    "with what you know, and say what is missing."
)


@dataclass(frozen=True)
class CallModel:
    """
    Effect: ask the model. Outcome: its replies; the limit that forbids it, or that ended it.

    `is_last`: whether it is the last answer, within what was kept for it; `note`: the message that asks for
    it.
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool]
    is_last: bool = False
    note: str = ""


@dataclass(frozen=True)
class CallTools:
    """Effect: run the tool calls of one reply. Outcome: one tool message per call, in the calls' order."""

    calls: Sequence[ToolCall]
    tools: Sequence[Tool]


@dataclass(frozen=True)
class RunHooks:
    """Effect: run the hooks of a point. Its outcome is the change that they made to the state."""

    point: HookPoint


@dataclass(frozen=True)
class ReadTools:
    """Effect: see which tools are on offer now: a dynamic toolset may have changed. Outcome: the tools."""


Effect: TypeAlias = CallModel | CallTools | RunHooks | ReadTools
Outcome: TypeAlias = list[ChatMessage] | list[Tool] | LimitName | None
Flow: TypeAlias = Generator[Effect, Outcome, None]


@dataclass(frozen=True)
class LoopPolicy:
    """
    The rules of one agent's loop.

    :param max_steps: Most steps.
    :param exit_conditions: Names of tools that end the run once they have run well; `text` is always one.
    :param lands: Whether a run that a limit ends asks for a last answer.
    """

    max_steps: int
    exit_conditions: Sequence[str]
    lands: bool = True


def agent_flow(run: RunState, policy: LoopPolicy) -> Flow:
    """
    Decide what happens next; perform nothing.

    :param run: The run so far. A `before_run` hook may restore an earlier one, its step count included.
    :param policy: The agent's rules.
    :returns: Effects to perform, each to be answered with its outcome.
    """
    yield RunHooks("before_run")
    while (limit := limit_of_steps(run, policy)) is None:
        tools = cast("list[Tool]", (yield ReadTools()))
        run.state.set("tools", tools, handler_override=_replace)
        yield RunHooks("before_llm")
        if (reason := run.stop_requested) is not None:
            run.stop(reason)
            break
        replies = yield CallModel(run.messages, tools)
        if not isinstance(replies, list):
            limit = cast("LimitName", replies)
            break
        answers = cast("list[ChatMessage]", replies)
        run.record_replies(answers)
        ending = reason_to_end(answers, has_tools=bool(tools))
        if ending == "length" and (cut_by := answers[-1].meta.get(CUT_BY)) is not None:
            run.limit_reached, ending = cast("LimitName", cut_by), None
        elif ending is None:
            ending = yield from tool_step(run, policy, tools)
        run.count_step()
        if ending is None and run.mistakes.is_enough:
            yield from land(run, policy, "mistakes", MISTAKEN.format(count=run.mistakes.count))
            ending = "mistakes"
        if ending is not None and (yield from ends(run, ending)):
            break
    if limit is not None:
        yield from land(run, policy, limit, LIMITED)
    yield RunHooks("after_run")


def limit_of_steps(run: RunState, policy: LoopPolicy) -> LimitName | None:
    """
    The limit that the next step would exceed.

    :param run: The run so far.
    :param policy: The agent's rules.
    :returns: Its name, or None.
    """
    if run.limit_reached is not None:
        return run.limit_reached
    return "max_steps" if run.step_count >= policy.max_steps else None


def tool_step(
    run: RunState, policy: LoopPolicy, tools: Sequence[Tool]
) -> Generator[Effect, Outcome, str | None]:
    """
    Run the calls of the last reply.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param tools: Tools on offer in this step.
    :returns: Name of the tool that ends the run, or None.
    """
    yield RunHooks("before_tool")
    calls = run.pending_calls()
    results = cast("list[ChatMessage]", (yield CallTools(calls, tools)) if calls else [])
    withheld = sum(bool(result.meta.get(WITHHELD)) for result in results)
    run.record_results(run.mistakes.hinted(calls, results, tools), unfinished=withheld)
    run.mistakes = run.mistakes.after(calls, results)
    if withheld:
        run.limit_reached = "max_tool_calls"
    yield RunHooks("after_tool")
    return exit_tool(calls, results, policy.exit_conditions)


def land(run: RunState, policy: LoopPolicy, reason: str, note: str) -> Generator[Effect, Outcome, None]:
    """
    End the run with the best answer that there is: the model is asked once more, without tools.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param reason: Why it ends.
    :param note: What the model is told of it.
    """
    run.mistakes = Mistakes()
    if policy.lands:
        request = ChatMessage.from_user(note)
        run.state.set("messages", [request])
        yield RunHooks("before_llm")
        replies = None
        if run.stop_requested is None:
            replies = yield CallModel(run.messages, (), is_last=True, note=note)
        if isinstance(replies, list) and replies:
            run.record_replies(without_calls(cast("list[ChatMessage]", replies)))
        else:
            left = [message for message in run.messages if message is not request]
            run.state.set("messages", left, handler_override=_replace)
    run.stop(EXIT_REASONS.get(reason, reason))


def without_calls(replies: Sequence[ChatMessage]) -> list[ChatMessage]:
    """
    Replies of a model that had no tools to call.

    :param replies: As they came.
    :returns: Them, without the calls that it made all the same.
    """
    return [
        ChatMessage.from_assistant(reply.text, meta=dict(reply.meta)) if reply.tool_calls else reply
        for reply in replies
    ]


def ends(run: RunState, reason: str) -> Generator[Effect, Outcome, bool]:
    """
    Let `on_exit` hooks have their say.

    :param run: The run so far.
    :param reason: Why it would end.
    :returns: Whether it does.
    """
    run.stop(reason)
    run.take_continue_request()
    yield RunHooks("on_exit")
    return not run.take_continue_request()


def reason_to_end(replies: Sequence[ChatMessage], *, has_tools: bool) -> str | None:
    """
    Whether a reply is the last word.

    An empty reply isn't one: the model is asked again.

    :param replies: What the model answered.
    :param has_tools: Whether it could have called a tool.
    :returns: Haystack's exit reason, or None when the run goes on.
    """
    if any(reply.tool_calls for reply in replies) and has_tools:
        return None
    last = replies[-1] if replies else None
    if last is not None and last.is_from(ChatRole.ASSISTANT):
        finish_reason = last.meta.get("finish_reason")
        if finish_reason in ("length", "content_filter"):
            return str(finish_reason)
        if last.text or last.meta.get("refusal"):
            return "text"
    return None if has_tools else "text"


def exit_tool(
    calls: Sequence[ToolCall], results: Sequence[ChatMessage], exit_conditions: Sequence[str]
) -> str | None:
    """
    Which tool ends the run.

    :param calls: The calls of a reply.
    :param results: Their tool messages.
    :param exit_conditions: Names that end a run.
    :returns: The first that was called, unless one of them failed; None when none was.
    """
    called = [call.tool_name for call in calls if call.tool_name in exit_conditions]
    failed = {r.origin.tool_name for m in results for r in m.tool_call_results if r.error}
    return called[0] if called and failed.isdisjoint(called) else None


def _replace(_old: object, new: object) -> object:
    return new
