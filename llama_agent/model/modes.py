"""
How tool calls come about: by the server's own tool calling, by the prompt alone, or by replies held to a JSON
schema (`model/constrained.py`).

A mode is a sans-I/O generator: it yields what to ask the server and is sent the answer. The generator
component performs it, sync or async.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from llama_agent.errors import EndpointError, ParameterRefused
from llama_agent.events import NoteAdded, emit
from llama_agent.model.asking import (
    Ask,
    ModeFlow,
    ModelCall,
    Switch,
    Tell,
    UsageSum,
    definition_of,
    wanted_tools,
)
from llama_agent.model.constrained import constrained
from llama_agent.model.prompt_forms import PLAIN, form_for, told
from llama_agent.model.streams import Json, Reply
from llama_agent.model.wire import WireRequest

_TOOL_FIELDS = frozenset({"tool_choice", "parallel_tool_calls"})


def native(call: ModelCall) -> ModeFlow:
    """
    The server's own tool calling; calls that it leaves in the text are read there.

    :param call: What is asked.
    :returns: One reply per choice.
    """
    fields = dict(call.fields)
    if call.tools:
        fields["tools"] = [definition_of(tool, strict=call.strict) for tool in call.tools]
    if not call.tools or not call.sends_choice:
        fields.pop("tool_choice", None)
    ask = Ask(WireRequest(fields, call.messages, stream=call.stream), call.text_calls())
    if call.tools and call.tool_choice == "none":
        return (yield from _without_calls(call, ask))
    return (yield from _answered(call, ask))


def prompted(call: ModelCall) -> ModeFlow:
    """
    Tools described in the system message, calls read in the reply's text: for servers that take no tools.

    :param call: What is asked.
    :returns: One reply per choice.
    """
    fields = {key: value for key, value in call.fields.items() if key not in _TOOL_FIELDS}
    form = form_for(str(fields.get("model", "")))
    tools = () if call.tool_choice == "none" else call.tools
    request = WireRequest(fields, told(call.messages, tools, form), stream=call.stream)
    ask = Ask(request, call.text_calls(), drops_calls=call.tool_choice == "none")
    return (yield from _answered(call, ask))


def adaptive(call: ModelCall) -> ModeFlow:
    """
    The server's own tool calling; where the server takes no tools, the prompt, from then on.

    :param call: What is asked.
    :returns: One reply per choice.
    """
    try:
        return (yield from native(call))
    except ParameterRefused as refused:
        if not call.tools or refused.parameter not in ("tools", "tool_choice"):
            raise
        reason, parameter = str(refused), refused.parameter
    if parameter == "tool_choice" and call.sends_choice and call.tool_choice not in (None, "auto"):
        # It may be the choice alone that isn't taken.
        yield Switch(None, reason)
        return (yield from adaptive(replace(call, sends_choice=False)))
    yield Switch("prompted", reason)
    return (yield from prompted(call))


def _answered(call: ModelCall, ask: Ask) -> ModeFlow:
    """The replies; asked for again where the model only repeats calls, or answers though it has to call."""
    replies = yield from _asked(ask)
    if len(replies) != 1 or (note := _note_on(replies[0], call)) is None:
        return [_kept(reply, call) for reply in replies]
    emit(NoteAdded, text=note)
    usage = UsageSum()
    usage.add(replies[0].usage)
    said: Json = {"role": "assistant", "content": replies[0].text or ""}
    exchange = (*([said] if replies[0].text else []), {"role": "user", "content": note})
    messages = (*(ask.request.messages or ()), *exchange)
    again = yield from _asked(replace(ask, request=replace(ask.request, messages=messages)))
    usage.add(again[0].usage)
    if _wanted(call) is not None and _note_on(again[0], call) is not None:
        try:
            again = yield from constrained(call)
        except EndpointError as error:
            if error.retryable:
                raise  # else the server takes no schema: there is nothing more to try
        else:
            usage.add(again[0].usage)
    usage.of(again[0])
    return [_kept(reply, call) for reply in again]


def _asked(ask: Ask) -> ModeFlow:
    """The replies; where the server could make no call of what the model wrote, that is read here."""
    for last_try in (False, True):
        try:
            return cast("list[Reply]", (yield ask))
        except EndpointError as error:
            if error.failed_generation is None:
                raise
            reply = Reply(error.failed_generation.strip() or None, finish_reason="stop")
            if ask.text_calls is not None:
                ask.text_calls.read(reply)
            if not reply.calls and not last_try:
                continue
            if not reply.calls and not reply.text:
                raise
        yield Tell(reply)
        return [reply]
    raise AssertionError("the last try returns or raises")


def _without_calls(call: ModelCall, ask: Ask) -> ModeFlow:
    """Replies with a text: a server may pass `tool_choice: none` over, and send nothing but calls."""
    replies = yield from _asked(replace(ask, drops_calls=True))
    if all(reply.text for reply in replies):
        return replies
    usage = UsageSum()
    usage.add(replies[0].usage)
    fields = {key: value for key, value in call.fields.items() if key not in _TOOL_FIELDS}
    plain = WireRequest(fields, told(call.messages, (), PLAIN), stream=call.stream)
    replies = yield from _asked(Ask(plain, drops_calls=True))
    usage.add(replies[0].usage)
    usage.of(replies[0])
    return replies


def _note_on(reply: Reply, call: ModelCall) -> str | None:
    """What to tell the model before it is asked again; None when its reply will do."""
    if reply.echoes and not reply.calls:
        names = ", ".join(dict.fromkeys(reply.echoes))
        return (
            f"Your reply only repeats a call of {names} that stands in an earlier message, so nothing was "
            "called. If it is needed for what was asked, say so in your own words; else answer."
        )
    wanted = _wanted(call)
    if wanted is None or any(c.name in wanted for c in _kept(reply, call).calls):
        return None
    if len(wanted) == 1:
        return f"Don't answer yet: call the tool '{wanted[0]}' first."
    return f"Don't answer yet: call one of the tools first: {', '.join(wanted)}."


def _wanted(call: ModelCall) -> Sequence[str] | None:
    return wanted_tools(call.tools, call.tool_choice)


def _kept(reply: Reply, call: ModelCall) -> Reply:
    """The reply; of a forced choice, with the calls of that tool only."""
    wanted = _wanted(call)
    if wanted is not None and len(wanted) == 1 and any(c.name == wanted[0] for c in reply.calls):
        reply.calls = [c for c in reply.calls if c.name == wanted[0]]
    return reply
