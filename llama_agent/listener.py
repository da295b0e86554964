"""Hears of a reply while it is streamed: its calls are told in events, and begun early where they may be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from haystack.dataclasses import ToolCall

from llama_agent.events import EventSink, ToolCallReceived
from llama_agent.tooling.early import EarlyCalls


class StreamListener:
    """
    Hears of a streamed reply: tells its calls in events, and has them begun early.

    `told`: ids of the calls that were told.

    :param sink: Where events go.
    :param early: Begins calls.
    :param ready: Awaited, in an async run, before the reply is read on.
    """

    def __init__(
        self, sink: EventSink, early: EarlyCalls, ready: Callable[[], Awaitable[None]] | None
    ) -> None:
        self.early = early
        self._ready = ready
        self._sink = sink
        self.told: set[str | None] = set()

    def begins(self) -> None:
        """A reply begins, maybe anew."""
        self.told = set()
        self.early.begins()

    def completed(self, call: ToolCall) -> str | None:
        """
        A call is complete.

        :param call: The call.
        :returns: The id that it is known by.
        """
        call = replace(call, id=self.early.known(call) or call.id)
        self.told.add(call.id)
        tell_call(self._sink, call)
        self.early.offer(call)
        return call.id

    async def ready(self) -> None:
        """Wait until whoever takes the run's events has room for more."""
        if self._ready is not None:
            await self._ready()


def tell_call(sink: EventSink, call: ToolCall) -> None:
    """
    Tell that a call was received.

    :param sink: Where events go.
    :param call: The call.
    """
    sink.emit(ToolCallReceived, tool_name=call.tool_name, call_id=call.id, arguments=call.arguments)
