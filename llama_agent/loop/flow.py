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

from llama_agent.loop.mistakes import LAST_ANSWER, Mistakes
from llama_agent.loop.state import RunState


@dataclass(frozen=True)
class CallModel:
    """Effect: ask the model. Outcome: its replies."""

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool]


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


@dataclass(frozen=True)
class AddNote:
    """Effect: tell the model something that no user said. Outcome: the message."""

    text: str


Effect: TypeAlias = CallModel | CallTools | RunHooks | ReadTools | AddNote
Outcome: TypeAlias = list[ChatMessage] | list[Tool] | None
Flow: TypeAlias = Generator[Effect, Outcome, None]


@dataclass(frozen=True)
class LoopPolicy:
    """
    The rules of one agent's loop.

    :param max_steps: Most steps.
    :param exit_conditions: Names of tools that end the run once they have run well; `text` is always one.
    """

    max_steps: int
    exit_conditions: Sequence[str]


def agent_flow(run: RunState, policy: LoopPolicy) -> Flow:
    """
    Decide what happens next; perform nothing.

    :param run: The run so far. A `before_run` hook may restore an earlier one, its step count included.
    :param policy: The agent's rules.
    :returns: Effects to perform, each to be answered with its outcome.
    """
    yield RunHooks("before_run")
    while run.step_count < policy.max_steps:
        tools = cast("list[Tool]", (yield ReadTools()))
        run.state.set("tools", tools, handler_override=_replace)
        yield RunHooks("before_llm")
        if (reason := run.stop_requested) is not None:
            run.stop(reason)
            break
        replies = cast("list[ChatMessage]", (yield CallModel(run.messages, tools)))
        run.record_replies(replies)
        ending = reason_to_end(replies, has_tools=bool(tools))
        if ending is None:
            ending = yield from tool_step(run, policy, tools)
        run.count_step()
        if ending is None and run.mistakes.is_enough:
            ending = yield from last_answer(run)
        if ending is not None and (yield from ends(run, ending)):
            break
    else:
        run.stop("max_agent_steps")
    yield RunHooks("after_run")


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
    run.record_results(run.mistakes.hinted(calls, results, tools))
    run.mistakes = run.mistakes.after(calls, results)
    yield RunHooks("after_tool")
    return exit_tool(calls, results, policy.exit_conditions)


def last_answer(run: RunState) -> Generator[Effect, Outcome, str | None]:
    """
    Have the model answer without tools: its calls go wrong again and again.

    :param run: The run so far.
    :returns: Why the run ends.
    """
    text = LAST_ANSWER.format(count=run.mistakes.count)
    run.mistakes = Mistakes()
    run.state.set("messages", cast("list[ChatMessage]", (yield AddNote(text))))
    yield RunHooks("before_llm")
    if (reason := run.stop_requested) is not None:
        return reason
    run.record_replies(cast("list[ChatMessage]", (yield CallModel(run.messages, ()))))
    run.count_step()
    return "mistakes"


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
