"""The calls of a streamed reply, told as each is complete: the reply itself may take much longer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import uuid4

from haystack.dataclasses import ToolCall

from llama_agent.model.replies import call_of
from llama_agent.model.streams import CallText, ReplyAssembler
from llama_agent.model.text_calls import ReplyReading


class ReplyListener(Protocol):
    """Hears of a streamed reply while it comes."""

    def begins(self) -> None:
        """A reply begins, maybe anew after a broken stream: calls told before may not come again."""
        ...

    def completed(self, call: ToolCall) -> str | None:
        """
        A call is complete, the calls before it in the reply are too.

        :param call: With its id, unless another is given back.
        :returns: The id that the call is to have; None for its own.
        """
        ...

    async def ready(self) -> None:
        """Awaited, in async runs, before the reply is read on."""
        ...


@dataclass
class EarlyCalls:
    """
    Finds the calls that are complete, and tells them in the reply's order, each once.

    :param listener: Hears of them.
    :param offered: Names of the tools that a reply may call.
    :param taken: Gives the ids of earlier calls of the conversation.
    """

    listener: ReplyListener
    offered: Collection[str]
    taken: Callable[[], Collection[str]]
    _told: list[ToolCall] = field(default_factory=list[ToolCall], init=False)

    def begins(self) -> None:
        """A reply begins."""
        self._told = []
        self.listener.begins()

    def look(self, assembler: ReplyAssembler, reading: ReplyReading | None) -> None:
        """
        Tell what has become complete.

        :param assembler: Has the server's own calls.
        :param reading: Has those that were written as text; these count where there are no others.
        """
        calls = assembler.complete_calls(len(self._told))
        if calls or assembler.reply.calls or reading is None:
            self._tell(calls)
            return
        found = reading.calls_so_far(len(self._told))
        self._tell(found)

    def _tell(self, calls: Sequence[CallText]) -> None:
        for text in calls:
            call = call_of(text, self.offered)
            used = {told.id for told in self._told}
            sent = (text.id or "").strip()
            is_usable = bool(sent) and sent not in used and sent not in self.taken()
            call = ToolCall(
                call.tool_name,
                call.arguments,
                id=sent if is_usable else f"call_{uuid4().hex[:24]}",
                extra=call.extra,
            )
            if sent in used and any(told.id == sent and _is_same(told, call) for told in self._told):
                self._told.append(call)  # the same call, sent twice
                continue
            text.id = self.listener.completed(call) or call.id
            self._told.append(ToolCall(call.tool_name, call.arguments, id=text.id))


def _is_same(call: ToolCall, other: ToolCall) -> bool:
    return call.tool_name == other.tool_name and call.arguments == other.arguments
