"""
The decision loop: what happens next, without doing any of it.

It yields effects and is sent their outcomes; a driver performs them, sync or async. No clock, no randomness
and no I/O in here: so a run can be replayed by feeding its outcomes back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import cast

from haystack.dataclasses import ChatMessage, ChatRole, ToolCall
from haystack.tools.tool import Tool

from llama_agent.arguments import NOTE, WITHHELD
from llama_agent.loop.context import (
    KEPT,
    Room,
    has_old_part,
    list_of_steps,
    request_for_summary,
    shortened,
    with_summary,
)
from llama_agent.loop.effects import (
    CUT_BY,
    CallModel,
    CallTools,
    Effect,
    Flow,
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
from llama_agent.loop.limits import LimitName
from llama_agent.loop.mistakes import MISTAKEN, Mistakes
from llama_agent.loop.odd_replies import MOST_NOTES, is_answer, is_cut, note_on
from llama_agent.loop.output import (
    MOST_TRIES,
    TAKEN,
    AnswerReader,
    OutputPlan,
    as_text,
    refusal,
    refused,
)
from llama_agent.loop.repeats import CIRCLING, NOT_NOW, REPEATED, TIMES, Finding, Repeats
from llama_agent.loop.state import RunState

LIMITED = (
    "You have reached the limit of this run, so no more tools can be called. Answer now as well as you can "
    "with what you know, and say what is missing."
)

NO_ANSWERS: Mapping[int, str] = MappingProxyType({})
LANDING_NOTES = {"mistakes": MISTAKEN, "repeating": CIRCLING}
"""What a model is told that has to answer without tools, by what went wrong too often."""


@dataclass(frozen=True)
class LoopPolicy:
    """
    The rules of one agent's loop.

    :param max_steps: Most steps.
    :param exit_conditions: Names of tools that end the run once they have run well; `text` is always one.
    :param lands: Whether a run that a limit ends asks for a last answer.
    :param repeats: How often the same call is made before the model is told; 0 for never.
    :param is_repeatable: Whether a tool is one that polls: its calls may repeat.
    :param window: Tokens that the model can read at once; None when nobody knows.
    :param output: What form the answer has to have; None for words.
    """

    max_steps: int
    exit_conditions: Sequence[str]
    lands: bool = True
    repeats: int = TIMES
    is_repeatable: Callable[[Tool], bool] = lambda tool: False
    window: int | None = None
    output: OutputPlan | None = None


def agent_flow(run: RunState, policy: LoopPolicy) -> Flow:
    """
    Decide what happens next; perform nothing.

    :param run: The run so far. A `before_run` hook may restore an earlier one, its step count included.
    :param policy: The agent's rules.
    :returns: Effects to perform, each to be answered with its outcome.
    """
    yield RunHooks("before_run")
    while (limit := limit_of_steps(run, policy)) is None:
        tools = offered(run, policy, cast("list[Tool]", (yield ReadTools())))
        run.state.set("tools", tools, handler_override=_replace)
        yield RunHooks("before_llm")
        if (reason := run.stop_requested) is not None:
            run.stop(reason)
            break
        replies = yield from ask(run, policy, tools)
        if isinstance(replies, SchemaRefused):
            run.schema_refused, run.wants_form = True, False
            continue
        if not isinstance(replies, list):
            limit = replies
            break
        ending = reason_to_end(replies, has_tools=bool(tools))
        is_call = bool(tools) and bool(run.pending_calls())
        if not is_call and (cut_by := replies[-1].meta.get(CUT_BY) if replies else None) is not None:
            run.limit_reached, ending = cast("LimitName", cut_by), None
        elif ending is None and (note := note_on(replies)) is not None:
            ending = yield from ask_for_words(run, note)
        elif ending is None:
            ending = yield from tool_step(run, policy, tools)
        elif ending in ("text", "length") and policy.output is not None:
            ending = yield from read_answer(run, policy.output, replies, has_tools=bool(tools))
        run.count_step()
        if ending in LANDING_NOTES:
            yield from land(run, policy, ending, LANDING_NOTES[ending])
        if ending is not None:
            if (yield from ends(run, ending)):
                break
            run.output, run.output_tries = None, 0
    if limit is not None:
        yield from land(run, policy, limit, LIMITED)
    yield RunHooks("after_run")


def offered(run: RunState, policy: LoopPolicy, tools: list[Tool]) -> list[Tool]:
    """
    What the model may call in this step.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param tools: The run's tools.
    :returns: They, and the one by which the answer is given; none where the answer was, and has to get its
        form.
    """
    if policy.output is None:
        return tools
    if run.wants_form:
        return []
    return [*tools, policy.output.tool] if run.means(policy.output) == "tool" else tools


def schema_for(run: RunState, policy: LoopPolicy, tools: Sequence[Tool]) -> AnswerReader | None:
    """
    What the server is to hold the next reply to.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param tools: Tools on offer.
    :returns: The answer's form; None where a reply may be something else.
    """
    plan = policy.output
    if plan is None or run.means(plan) != "schema" or (tools and not plan.beside_tools):
        return None
    return plan.reader


def ask(
    run: RunState, policy: LoopPolicy, tools: Sequence[Tool]
) -> Generator[Effect, Outcome, list[ChatMessage] | LimitName | SchemaRefused]:
    """
    Ask the model; a text that its token limit cut is asked for once more, with a higher limit.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param tools: Tools on offer.
    :returns: Its replies, which are part of the run now; or the limit that forbids it; or that the server
        won't hold them to a schema.
    """
    schema = schema_for(run, policy, tools)
    call = CallModel(run.messages, tools, run.withheld, raises_output=run.raises_output, schema=schema)
    outcome = yield from call_in_room(run, policy, call)
    if isinstance(outcome, OutputRefused):
        run.raises_output, run.output_refused = False, True
        outcome = yield from call_in_room(run, policy, replace(call, raises_output=False))
    if not isinstance(outcome, list):
        return cast("LimitName | SchemaRefused", outcome)
    asked, replies = list(run.messages), outcome
    if not tools:
        replies = without_calls(replies)
    run.record_replies(replies)
    if not is_cut(replies) or run.raises_output or run.output_refused or CUT_BY in replies[-1].meta:
        return replies
    run.raises_output = not run.output_refused
    if replies[-1].tool_calls:
        return replies
    sent = as_sent(run, policy, asked, tools)
    again = CallModel(sent, tools, run.withheld, raises_output=True, supersedes=replies, schema=schema)
    outcome = yield again
    if isinstance(outcome, list) and outcome:
        longer = cast("list[ChatMessage]", outcome)
        run.record_usage(longer)
        if longer[-1].tool_calls or is_answer(longer[-1]) or not is_answer(replies[-1]):
            replies = longer
            run.state.set("messages", [*asked, *longer], handler_override=_replace)
    return replies


def as_sent(
    run: RunState, policy: LoopPolicy, messages: Sequence[ChatMessage], tools: Sequence[Tool]
) -> Sequence[ChatMessage]:
    """
    A conversation as the model gets it: with the answer's form, where no tool says it.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param messages: The conversation.
    :param tools: Tools on offer.
    :returns: The messages of the request.
    """
    plan = policy.output
    if plan is None:
        return messages
    if tools and not (plan.beside_tools and run.means(plan) == "schema"):
        run.is_asked_freely = True
        return messages
    # Told from the first request on, it stays in its place: what was sent is sent again as it was.
    return plan.told(messages, at_end=run.is_asked_freely)


def call_in_room(
    run: RunState, policy: LoopPolicy, call: CallModel
) -> Generator[Effect, Outcome, list[ChatMessage] | LimitName | Refusal]:
    """
    Call the model with a conversation that fits into its window, as far as can be said before; else again.

    :param run: The run so far. Its conversation may become shorter.
    :param policy: The agent's rules.
    :param call: What is asked, of the run's conversation.
    :returns: The replies; the limit that forbids them; or what the server refuses of the request.
    """
    window = run.window or policy.window
    for keep in KEPT:
        if window is not None and run.tokens_for(call.tools) > Room(window).most:
            yield from make_room(run, call.tools, Room(window), keep)
    for attempt, keep in enumerate(KEPT, start=1):
        if not has_old_part(run.messages, keep):
            continue
        sent = as_sent(run, policy, run.messages, call.tools)
        outcome = yield replace(call, messages=sent, may_overflow=True)
        if not isinstance(outcome, Overflow):
            return cast("list[ChatMessage] | LimitName | Refusal", outcome)
        # What the server says; else it is smaller than what was just sent, by who knows how much.
        run.counted = 0  # whatever was counted, it is too much
        tokens = run.tokens_for(call.tools)
        run.window = outcome.window or min(run.window or policy.window or tokens, tokens)
        yield from make_room(run, call.tools, Room(run.window), keep, share=1 / attempt)
    outcome = yield replace(call, messages=as_sent(run, policy, run.messages, call.tools))
    return cast("list[ChatMessage] | LimitName | Refusal", outcome)


def make_room(
    run: RunState, tools: Sequence[Tool], room: Room, keep: int, *, share: float = 1.0
) -> Generator[Effect, Outcome, None]:
    """
    Shorten the conversation: old tool results first; when that isn't enough, the model sums old steps up.

    :param run: The run so far.
    :param tools: Tools on offer.
    :param room: The window.
    :param keep: How many of the last steps stay as they are.
    :param share: Of what is aimed at: less of it after a request that was too long all the same.
    """
    before = run.tokens_for(tools)
    low, enough = int(room.low * share), int(room.enough * share)
    messages, too_many = shortened(run.messages, before - low, room, keep, share)
    wants_summary = keep > 0 and low + too_many > enough
    request = request_for_summary(messages, room, keep) if wants_summary else None
    if request is not None:
        outcome = yield CallModel(request, (), summary_words=room.words)
        replies = cast("list[ChatMessage]", outcome) if isinstance(outcome, list) else []
        if replies:
            run.record_usage(replies, is_part=False)
        text = (replies[-1].text or "").strip() if replies else ""
        messages = with_summary(messages, text or list_of_steps(messages, room, keep), room, keep)
    run.replace_messages(messages)
    if (after := run.tokens_for(tools)) < before:
        yield TellCompaction(before, after, is_summed_up=request is not None)


def ask_for_words(run: RunState, note: str) -> Generator[Effect, Outcome, str | None]:
    """
    Ask a model again that said nothing.

    :param run: The run so far.
    :param note: What it is told.
    :returns: Why the run ends, when it was asked often enough; else None.
    """
    run.silent_replies += 1
    if run.silent_replies > MOST_NOTES:
        return "no_answer"
    run.add_note(note)
    yield TellNote(note)
    return None


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
    :returns: Why the run ends: the name of a tool, or what went wrong too often; None when it goes on.
    """
    yield RunHooks("before_tool")
    calls = run.pending_calls()
    name = policy.output.tool.name if policy.output is not None else None
    if policy.output is not None and any(call.tool_name == name for call in calls):
        return (yield from answer_step(run, policy, policy.output, tools))
    return (yield from call_step(run, policy, tools, calls))


def answer_step(
    run: RunState, policy: LoopPolicy, plan: OutputPlan, tools: Sequence[Tool]
) -> Generator[Effect, Outcome, str | None]:
    """
    Take the answer that was given by a call.

    One that comes beside other calls was given before their results were known: it isn't taken at first.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param plan: What form the answer has to have.
    :param tools: Tools on offer in this step.
    :returns: Why the run ends; None when it goes on.
    """
    reply, calls = run.messages[-1], run.pending_calls()
    answers = [call for call in calls if call.tool_name == plan.tool.name]
    others = [call for call in calls if call.tool_name != plan.tool.name]
    read = [plan.read_call(call) for call in answers]
    fitting = next((place for place, (_, problems) in enumerate(read) if not problems), None)
    if not others and fitting is not None:
        said = as_text(answers[fitting], reply)
        run.replace_messages([*run.messages[:-1], said], keep_counted=True)
        run.conclude(read[fitting][0])
        return "text"
    is_taken = fitting is not None and run.is_told_alone
    texts = [
        TAKEN if is_taken else refusal(call, problems)
        for call, (_, problems) in zip(answers, read, strict=True)
    ]
    if others:
        places = [place for place, call in enumerate(calls) if call.tool_name == plan.tool.name]
        ending = yield from call_step(run, policy, tools, calls, dict(zip(places, texts, strict=True)))
        if ending is not None:
            return ending
        run.is_told_alone = True
    else:
        run.state.set("messages", [refused(call, text) for call, text in zip(answers, texts, strict=True)])
    if is_taken and fitting is not None:
        run.state.set("messages", [as_text(answers[fitting], reply)])
        run.conclude(read[fitting][0])
        return "text"
    run.output_tries += 1
    return "no_output" if run.output_tries > MOST_TRIES else None


def read_answer(
    run: RunState, plan: OutputPlan, replies: Sequence[ChatMessage], *, has_tools: bool
) -> Generator[Effect, Outcome, str | None]:
    """
    Take the answer that was given as text; else say what is wrong with it.

    :param run: The run so far.
    :param plan: What form the answer has to have.
    :param replies: The model's.
    :param has_tools: Whether it could have called a tool.
    :returns: Why the run ends; None when it goes on.
    """
    value, problems = plan.reader.read_text(replies[-1].text or "")
    if not problems:
        run.conclude(value)
        return "text"
    means = run.means(plan)
    if means == "schema" and has_tools and not plan.beside_tools:
        note, run.wants_form = plan.now, True  # it has said what it had to say, and only lacks the form
    elif run.output_tries >= MOST_TRIES:
        return "no_output"
    else:
        note, run.output_tries = plan.correction(problems, means), run.output_tries + 1
    run.add_note(note)
    yield TellNote(note)
    return None


def call_step(
    run: RunState,
    policy: LoopPolicy,
    tools: Sequence[Tool],
    calls: Sequence[ToolCall],
    answers: Mapping[int, str] = NO_ANSWERS,
) -> Generator[Effect, Outcome, str | None]:
    """
    Run the calls of the last reply.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param tools: Tools on offer in this step.
    :param calls: Those of the reply.
    :param answers: Those that give the answer, and aren't run, by place: what the model is told of each.
    :returns: As `tool_step`.
    """
    polling = {tool.name for tool in tools if policy.is_repeatable(tool)}
    beyond = run.repeats.beyond(calls, polling, policy.repeats) if policy.repeats else frozenset[int]()
    effect = CallTools(calls, tools, run.withheld, beyond, answers)
    results = cast("list[ChatMessage]", (yield effect) if calls else [])
    withheld = [result.meta[WITHHELD] for result in results if WITHHELD in result.meta]
    run.record_results(run.mistakes.hinted(calls, results, tools), unfinished=len(withheld))
    run.mistakes = run.mistakes.after(calls, results)
    run.silent_replies, run.withheld = 0, frozenset()
    if "limit" in withheld:
        run.limit_reached = "max_tool_calls"
    yield RunHooks("after_tool")
    if (ending := exit_tool(calls, results, policy.exit_conditions)) is not None:
        return ending
    if run.mistakes.is_enough:
        return "mistakes"
    if not policy.repeats:
        return None
    run.repeats, found = run.repeats.after(calls, results, polling, policy.repeats)
    return (yield from break_circle(run, found))


def break_circle(run: RunState, found: Finding) -> Generator[Effect, Outcome, str | None]:
    """
    See to a model that makes the same calls again and again: first a note, then without the tool for a turn,
    then the last answer.

    :param run: The run so far.
    :param found: What the last step's calls say.
    :returns: Why the run ends, or None.
    """
    names = ", ".join(f"'{name}'" for name in found.names)
    match found.strike:
        case 0:
            return None
        case 1:
            note = REPEATED.format(names=names)
        case 2:
            run.withheld = frozenset(found.names)
            note = NOT_NOW.format(names=names)
        case _:
            return "repeating"
    run.add_note(note)
    yield TellNote(note)
    return None


def land(run: RunState, policy: LoopPolicy, reason: str, note: str) -> Generator[Effect, Outcome, None]:
    """
    End the run with the best answer that there is: the model is asked once more, without tools.

    :param run: The run so far.
    :param policy: The agent's rules.
    :param reason: Why it ends.
    :param note: What the model is told of it.
    """
    run.mistakes, run.repeats, run.withheld = Mistakes(), Repeats(), frozenset()
    if policy.lands:
        yield TellLanding(reason)
        request = ChatMessage.from_user(note, meta={NOTE: True})
        run.state.set("messages", [request])
        yield RunHooks("before_llm")
        replies = None
        if run.stop_requested is None:
            last = CallModel(run.messages, (), is_last=True, note=note, schema=schema_for(run, policy, ()))
            replies = yield from call_in_room(run, policy, last)
            if isinstance(replies, SchemaRefused):
                replies = yield from call_in_room(run, policy, replace(last, schema=None))
        if isinstance(replies, list) and replies:
            run.record_replies(without_calls(replies))
            if policy.output is not None:
                value, problems = policy.output.reader.read_text(replies[-1].text or "")
                if not problems:
                    run.conclude(value)
        else:
            left = [message for message in run.messages if message is not request]
            run.state.set("messages", left, handler_override=_replace)
    run.stop(reason)


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

    One that says nothing isn't: the model is asked again.

    :param replies: What the model answered.
    :param has_tools: Whether it could have called a tool.
    :returns: Haystack's exit reason, or None when the run goes on.
    """
    if any(reply.tool_calls for reply in replies) and has_tools:
        return None
    last = replies[-1] if replies else None
    if last is None or not last.is_from(ChatRole.ASSISTANT):
        return None
    if last.meta.get("refusal"):
        return "refused"
    if (finish_reason := last.meta.get("finish_reason")) == "content_filter":
        return "content_filter"
    if not is_answer(last):
        return None
    return "length" if finish_reason == "length" else "text"


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
