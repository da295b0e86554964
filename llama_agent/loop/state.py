"""What a run has got to, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast, get_args

from haystack.components.agents.state.state import State
from haystack.dataclasses import ChatMessage, ChatRole, ToolCall
from haystack.tools.tool import Tool

from llama_agent.arguments import NOTE
from llama_agent.events import Event
from llama_agent.loop.context import tokens_of
from llama_agent.loop.limits import LimitName, Spent
from llama_agent.loop.mistakes import Mistakes
from llama_agent.loop.output import Means, OutputPlan
from llama_agent.loop.repeats import Repeats

StopReason: TypeAlias = (
    LimitName
    | Literal[
        "answered",
        "tool",
        "length",
        "content_filter",
        "refused",
        "no_answer",
        "no_output",
        "mistakes",
        "repeating",
        "hook",
        "failed",
        "interrupted",
        "cancelled",
    ]
)
"""
Why a run ended: the model answered; a tool named in `exit_conditions` ran; one of the `Limits`; the model's
text was cut off by its token limit, or by the server's content filter; it refused, or said nothing though it
was asked again; its answers didn't fit the `output_type`, though it was told; its tool calls were wrong so
often in a row, or went in circles, that it had to answer without; a hook asked for it; an exception; Ctrl-C;
cancellation.
"""

_EXIT_REASONS: Mapping[str, str] = {"max_steps": "max_agent_steps", "refused": "text"}
"""Haystack's word for one of ours, where it has one."""
_STOP_REASONS: Mapping[str, StopReason] = {
    "text": "answered",
    "max_agent_steps": "max_steps",
    **{limit: limit for limit in get_args(LimitName)},
    "length": "length",
    "content_filter": "content_filter",
    "no_answer": "no_answer",
    "no_output": "no_output",
    "mistakes": "mistakes",
    "repeating": "repeating",
    "cancelled": "cancelled",
}

_INTERNAL_KEYS = frozenset({"continue_run", "stop_run", "tools", "hook_context", "context_tokens"})
"""Haystack's run-control state keys: not outputs of an agent."""


@dataclass(frozen=True)
class Usage:
    """
    What a run has used.

    :param input_tokens: Tokens sent, over all model calls, as the server counted them; 0 when it didn't.
    :param output_tokens: Tokens received, likewise.
    :param model_calls: Model replies.
    :param tool_calls: Tool calls that were answered, well or badly; and those that were begun early for a
        reply that broke off, and didn't come again.
    :param cost: What the model calls cost, by the `prices` of the run's `Limits`; 0 without.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    cost: float = 0.0

    @property
    def total_tokens(self) -> int:
        """Tokens sent and received."""
        return self.input_tokens + self.output_tokens


class RunResult(dict[str, Any]):
    """
    What a run gives back: Haystack's output dictionary, with attributes for people.

    Attributes: `text` (the answer), `stop_reason` (see `StopReason`), `usage`, `messages`, `events` (all
    but text deltas), `output`, `run_id`, `leaked_threads` (tools that still ran, in threads that Python can't
    end). Keys: `messages`, `last_message`, `step_count`, `token_usage`,
    `tool_call_counts`, `exit_reason` (Haystack's values), and the keys of the agent's `state_schema`.
    """

    def __init__(
        self,
        outputs: Mapping[str, Any],
        *,
        run_id: str,
        stop_reason: StopReason,
        usage: Usage,
        events: Sequence[Event],
        leaked_threads: int = 0,
        output: object = ...,
    ) -> None:
        super().__init__(outputs)
        self._output = output
        self.run_id = run_id
        self.stop_reason: StopReason = stop_reason
        self.usage = usage
        self.events = tuple(events)
        self.leaked_threads = leaked_threads

    @property
    def messages(self) -> list[ChatMessage]:
        """The whole conversation. Pass it as `messages=` to go on."""
        return self["messages"]

    @property
    def text(self) -> str:
        """The answer: text, or refusal, of the last assistant message that has any; else empty."""
        for message in reversed(self.messages):
            if message.is_from(ChatRole.ASSISTANT) and (text := _words_of(message)):
                return text
            if message.is_from(ChatRole.USER):
                break
        return ""

    @property
    def output(self) -> Any:
        """The answer in the form of the run's `output_type`, or None; without one, its text."""
        return self.text if self._output is ... else self._output

    def __repr__(self) -> str:
        return (
            f"RunResult(stop_reason={self.stop_reason!r}, text={self.text!r}, steps={self.get('step_count')})"
        )


@dataclass
class RunState:
    """
    A run so far. Haystack's `State` holds what hooks and tools see; its message list is the only one.

    :param state: Haystack's State of this run.
    :param run_id: Unique id of the run.
    """

    state: State
    run_id: str
    usage: Usage = field(default_factory=Usage)
    mistakes: Mistakes = field(default_factory=Mistakes)
    spent: Spent = field(default_factory=Spent)
    limit_reached: LimitName | None = None
    """A limit that a step ran into: the run lands before the next."""
    repeats: Repeats = field(default_factory=Repeats)
    withheld: frozenset[str] = frozenset()
    """Tools that can't be called in this turn."""
    silent_replies: int = 0
    """Replies in a row that said nothing."""
    raises_output: bool = False
    """Whether replies may be longer than usual, since one was cut."""
    output_refused: bool = False
    """Whether the server takes no request for them."""
    refused: bool = False
    """Whether the last reply is a refusal, for which Haystack has no word."""
    window: int | None = None
    """Tokens that the model can read at once, as its server said when a request was too long."""
    counted: int = 0
    """Messages whose tokens the server has counted, the last reply included."""
    is_structured: bool = False
    """Whether the answer has to have a form."""
    output: object = None
    """The answer in that form, once it is there."""
    output_tries: int = 0
    """How often the model was told that its answer doesn't fit."""
    is_told_alone: bool = False
    """Whether the model was told to give its answer alone."""
    is_asked_freely: bool = False
    """Whether it was asked without being told of the answer's form."""
    wants_form: bool = False
    """Whether it has answered in words, and is only asked for the form."""
    schema_refused: bool = False
    """Whether the server holds no reply to the answer's schema."""
    big_results: dict[str, str] = field(default_factory=dict[str, str])
    """Whole texts of results that were cut in their messages, by id."""

    @property
    def messages(self) -> list[ChatMessage]:
        """The conversation: the State's own list."""
        return self.state.data.get("messages") or []

    @property
    def step_count(self) -> int:
        """Steps completed: a step is a model call and the tool calls that it asked for."""
        return self.state.data.get("step_count") or 0

    @property
    def exit_reason(self) -> str | None:
        """Haystack's word for why the run ended; None while it goes on."""
        return self.state.data.get("exit_reason")

    @property
    def stop_requested(self) -> str | None:
        """What a hook wrote to `stop_run`."""
        return self.state.data.get("stop_run")

    def count_step(self) -> None:
        """Another step is complete."""
        self.state.set("step_count", self.step_count + 1)

    def stop(self, reason: str) -> None:
        """
        Note why the run ends.

        :param reason: Haystack's word for it, or ours.
        """
        self.refused = reason == "refused"
        self.state.set("exit_reason", _EXIT_REASONS.get(reason, reason))

    def take_continue_request(self) -> bool:
        """Whether an `on_exit` hook asked to go on; asked once."""
        wanted = bool(self.state.data.get("continue_run"))
        self.state.set("continue_run", False)
        return wanted

    def record_replies(self, replies: Sequence[ChatMessage]) -> None:
        """
        Add what the model answered, and what it cost.

        :param replies: Assistant messages.
        """
        self.state.set("messages", list(replies))
        self.record_usage(replies)
        self.counted = len(self.messages)

    def add_note(self, text: str) -> None:
        """
        Tell the model something that no user said.

        :param text: The note.
        """
        self.state.set("messages", [ChatMessage.from_user(text, meta={NOTE: True})])

    def tokens_for(self, tools: Sequence[Tool]) -> int:
        """
        About how many tokens the next request will take.

        :param tools: Tools on offer.
        :returns: Tokens, by the server's count of the last one where there is one.
        """
        used = cast("int", self.state.data.get("context_tokens") or 0)
        return tokens_of(self.messages, tools, self.counted, used)

    def replace_messages(self, messages: Sequence[ChatMessage], *, keep_counted: bool = False) -> None:
        """
        Put another conversation in the place of the run's.

        :param messages: The conversation.
        :param keep_counted: Whether it takes as many tokens as before.
        """
        self.state.set("messages", list(messages), handler_override=_replace)
        self.counted = self.counted if keep_counted else 0

    def means(self, plan: OutputPlan) -> Means:
        """
        How the answer is to get its form now.

        :param plan: The run's.
        :returns: What suits the server.
        """
        return plan.otherwise if self.schema_refused else plan.means

    def conclude(self, output: object) -> None:
        """
        The answer is there, in its form.

        :param output: Its object.
        """
        self.output, self.output_tries = output, 0
        self.wants_form = self.is_told_alone = False

    def record_usage(self, replies: Sequence[ChatMessage], *, is_part: bool = True) -> None:
        """
        Count what a model call cost.

        :param replies: Its assistant messages, which needn't become part of the conversation.
        :param is_part: Whether the call was made with the run's own conversation.
        """
        total = cast("Mapping[str, Any]", self.state.data.get("token_usage") or {})
        given, received = self.usage.input_tokens, self.usage.output_tokens
        for reply in replies:
            usage = reply.meta.get("usage")
            if not isinstance(usage, Mapping) or not usage:
                continue
            counts = cast("Mapping[str, Any]", usage)
            total = _sum(total, counts)
            sent, answered = token_counts(counts)
            given, received = given + sent, received + answered
            if is_part:
                self.state.set("context_tokens", reply.meta.get("context_tokens") or sent + answered)
        self.state.set("token_usage", total)
        self.usage = replace(
            self.usage,
            input_tokens=given,
            output_tokens=received,
            model_calls=self.usage.model_calls + 1,
        )

    def pending_calls(self) -> list[ToolCall]:
        """Calls of the last message: a hook may have changed them, or taken them away."""
        return self.messages[-1].tool_calls if self.messages else []

    def record_results(self, results: list[ChatMessage], *, unfinished: int = 0) -> None:
        """
        Add what the tools gave.

        :param results: Tool messages.
        :param unfinished: How many of them only say that the call didn't finish.
        """
        self.state.set("messages", results)
        counts = dict(cast("Mapping[str, int]", self.state.data.get("tool_call_counts") or {}))
        for message in results:
            name = message.tool_call_results[0].origin.tool_name
            counts[name] = counts.get(name, 0) + 1
        self.state.set("tool_call_counts", counts)
        answered = len(results) - unfinished
        self.usage = replace(self.usage, tool_calls=self.usage.tool_calls + answered)

    def result(
        self, events: Sequence[Event], stop_reason: StopReason | None = None, *, leaked_threads: int = 0
    ) -> RunResult:
        """
        What the run gives back.

        :param events: What was watched.
        :param stop_reason: Why it ended, when that isn't in the state.
        :param leaked_threads: Threads of tools that still run.
        :returns: The result.
        """
        outputs = {key: value for key, value in self.state.data.items() if key not in _INTERNAL_KEYS}
        if self.messages:
            outputs["last_message"] = self.messages[-1]
        reason = stop_reason or self.stop_reason
        return RunResult(
            outputs,
            run_id=self.run_id,
            stop_reason=reason,
            usage=self.usage,
            events=events,
            leaked_threads=leaked_threads,
            **({"output": self.output} if self.is_structured else {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """
        The run so far as data that JSON can hold: the conversation, the state's keys, and all counters.

        :returns: Data for `from_dict`.
        """
        return {
            "run_id": self.run_id,
            "state": self.state.to_dict(skip_keys=["tools", "hook_context"]),
            "usage": asdict(self.usage),
            "spent": asdict(self.spent),
            "mistakes": {**asdict(self.mistakes), "last": sorted(map(list, self.mistakes.last))},
            "limit_reached": self.limit_reached,
            "repeats": asdict(self.repeats),
            "withheld": sorted(self.withheld),
            "silent_replies": self.silent_replies,
            "raises_output": self.raises_output,
            "output_refused": self.output_refused,
            "refused": self.refused,
            "window": self.window,
            "counted": self.counted,
            "big_results": dict(self.big_results),
            "is_structured": self.is_structured,
            "output_tries": self.output_tries,
            "is_told_alone": self.is_told_alone,
            "is_asked_freely": self.is_asked_freely,
            "wants_form": self.wants_form,
            "schema_refused": self.schema_refused,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunState:
        """
        A run as it was.

        :param data: Made by `to_dict`.
        :returns: The run; its tools have to be given anew.
        """
        mistakes = data["mistakes"]
        return cls(
            State.from_dict(data["state"]),
            data["run_id"],
            usage=Usage(**data["usage"]),
            spent=Spent(**data["spent"]),
            mistakes=Mistakes(mistakes["count"], mistakes["steps"], frozenset(map(tuple, mistakes["last"]))),
            limit_reached=data["limit_reached"],
            repeats=Repeats.from_dict(data["repeats"]),
            withheld=frozenset(data["withheld"]),
            silent_replies=data["silent_replies"],
            raises_output=data["raises_output"],
            output_refused=data["output_refused"],
            refused=data["refused"],
            window=data["window"],
            counted=data["counted"],
            big_results=dict(data["big_results"]),
            is_structured=data["is_structured"],
            output_tries=data["output_tries"],
            is_told_alone=data["is_told_alone"],
            is_asked_freely=data["is_asked_freely"],
            wants_form=data["wants_form"],
            schema_refused=data["schema_refused"],
        )

    @property
    def stop_reason(self) -> StopReason:
        """Our word for the State's `exit_reason`."""
        reason = self.exit_reason or "text"
        if self.refused and reason == _EXIT_REASONS["refused"]:
            return "refused"
        if reason in _STOP_REASONS:
            return _STOP_REASONS[reason]
        return "tool" if reason in (self.state.data.get("tool_call_counts") or {}) else "hook"


def _replace(_old: object, new: object) -> object:
    return new


def _words_of(message: ChatMessage) -> str:
    """A reply's text, else its refusal."""
    text = message.text or ""
    return text if text.strip() else str(message.meta.get("refusal") or text)


def _sum(total: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Add token counts, nested ones too (`completion_tokens_details`); what isn't a number is taken over."""
    summed = dict(total)
    for key, value in new.items():
        before = summed.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            summed[key] = _sum(cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", value))
        elif isinstance(before, int | float) and isinstance(value, int | float):
            summed[key] = before + value
        else:
            summed[key] = value
    return summed


def token_counts(usage: Mapping[str, Any]) -> tuple[int, int]:
    """
    Tokens sent and received.

    :param usage: As a server or another generator counts them.
    :returns: Both; 0 for what isn't there.
    """
    return (
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
    )


def _count(usage: Mapping[str, Any], *names: str) -> int:
    values = (usage.get(name) for name in names)
    return next((int(value) for value in values if isinstance(value, int | float)), 0)
