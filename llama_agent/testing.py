"""
For tests of what is built on this package: a generator that says what a script has.

```python
from haystack.dataclasses import ToolCall
from llama_agent import Agent
from llama_agent.testing import ScriptedGenerator


def add(a: int, b: int) -> int:
    \"\"\"Add two whole numbers.\"\"\"
    return a + b


def test_the_answer_has_the_sum() -> None:
    with ScriptedGenerator(ToolCall("add", {"a": 2, "b": 3}), "It is 5.") as generator:
        result = Agent(chat_generator=generator, tools=[add]).run("What is 2 plus 3?")
    assert result.text == "It is 5."
    assert generator.requests[1].messages[-1].tool_call_results[0].result == "5"
```
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import isawaitable
from typing import Any, Self, TypeAlias, cast

from haystack import component
from haystack.dataclasses import (
    ChatMessage,
    ComponentInfo,
    StreamingCallbackT,
    StreamingChunk,
    ToolCall,
    select_streaming_callback,
)
from haystack.tools import ToolsType, flatten_tools_or_toolsets
from haystack.tools.tool import Tool

from llama_agent.model.replies import ChunkMaker
from llama_agent.model.streams import CallDelta, Delta, Reply

Said: TypeAlias = str | ToolCall | Sequence[ToolCall] | Sequence[str] | ChatMessage | Exception
ScriptedReply: TypeAlias = Said | Callable[[Sequence[ChatMessage], Sequence[Tool]], Said]
"""
A reply: a text; a call, or calls (an id is given to one without); a text in the pieces that it streams in; a
whole assistant message; an exception, which is raised; or a function of the messages and tools that gives one
of these.
"""


@dataclass(frozen=True)
class ScriptedRequest:
    """
    What a `ScriptedGenerator` was asked.

    :param messages: The conversation, as it was then.
    :param tools: Tools on offer.
    :param generation_kwargs: Settings.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...]
    generation_kwargs: Mapping[str, Any]


@component
class ScriptedGenerator:
    """
    A Haystack chat generator for tests: each call gets the next reply of a script.

    It fails the test when it is asked more often than the script has replies, or less often: use it as a
    context manager, or call `assert_finished`. Works in our Agent and in Haystack's, sync and async, and
    streams where a callback is given. Safe to use from many threads.
    """

    def __init__(self, *replies: ScriptedReply) -> None:
        """
        Write the script.

        :param replies: In their order; see `ScriptedReply`.
        :raises TypeError: One can be no reply.
        """
        for reply in replies:
            if isinstance(reply, type) or not callable(reply):
                _check(reply)
        self.requests: list[ScriptedRequest] = []
        self._replies = list(replies)
        self._begun = 0
        self._beyond = 0
        self._calls = 0
        self._lock = threading.Lock()

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """
        Say the next reply.

        :param messages: The conversation.
        :param streaming_callback: Called with the reply's chunks.
        :param generation_kwargs: Kept in `requests`.
        :param tools: Tools on offer.
        :returns: `replies`, with the one.
        :raises AssertionError: The script has no more.
        """
        callback = select_streaming_callback(None, streaming_callback, requires_async=False)
        message, pieces = self._next(messages, generation_kwargs, tools)
        if callback is not None:
            for chunk in self._chunks(message, pieces):
                callback(chunk)
        return {"replies": [message]}

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """
        Say the next reply, on the running event loop.

        :param messages: As in `run`.
        :param streaming_callback: As in `run`; may be a coroutine function.
        :param generation_kwargs: As in `run`.
        :param tools: As in `run`.
        :returns: As `run`.
        :raises AssertionError: As `run`.
        """
        message, pieces = self._next(messages, generation_kwargs, tools)
        if streaming_callback is not None:
            for chunk in self._chunks(message, pieces):
                if isawaitable(answer := streaming_callback(chunk)):
                    await answer
        return {"replies": [message]}

    def assert_finished(self) -> None:
        """
        Make sure that the script was said to its end, and no call went beyond it.

        :raises AssertionError: It wasn't.
        """
        if self._beyond:
            raise AssertionError(self._too_often())
        if left := self._replies[self._begun :]:
            shown = "\n".join(f"  {_shown(reply)}" for reply in left)
            raise AssertionError(
                f"the model was asked {self._begun} times; these replies are left over:\n{shown}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.assert_finished()

    def _next(
        self, messages: list[ChatMessage] | str, settings: dict[str, Any] | None, tools: ToolsType | None
    ) -> tuple[ChatMessage, Sequence[str]]:
        conversation = [ChatMessage.from_user(messages)] if isinstance(messages, str) else messages
        offered = tuple(flatten_tools_or_toolsets(tools))
        with self._lock:
            self.requests.append(ScriptedRequest(tuple(conversation), offered, dict(settings or {})))
            if self._begun == len(self._replies):
                self._beyond += 1
                raise AssertionError(self._too_often())
            reply = self._replies[self._begun]
            self._begun += 1
        said = reply(conversation, offered) if callable(reply) else reply
        _check(said)
        if isinstance(said, Exception):
            raise said
        return self._message(said)

    def _too_often(self) -> str:
        last = self.requests[-1].messages[-1:]
        asked = f" The last message was: {_shown(last[0])}" if last else ""
        return (
            f"the script has {len(self._replies)} replies, and the model was asked {len(self.requests)} "
            f"times.{asked}"
        )

    def _message(self, said: Said) -> tuple[ChatMessage, Sequence[str]]:
        """The assistant message of a reply, and the pieces that its text streams in."""
        if isinstance(said, ChatMessage):
            return said, _words(said.text or "")
        if isinstance(said, str):
            return self._assistant(said), _words(said)
        parts = [said] if isinstance(said, ToolCall) else list(cast("Sequence[ToolCall | str]", said))
        calls = [part for part in parts if isinstance(part, ToolCall)]
        if calls:
            return self._assistant(None, [self._with_id(call) for call in calls]), ()
        pieces = [part for part in parts if isinstance(part, str)]
        return self._assistant("".join(pieces)), pieces

    def _assistant(self, text: str | None, calls: Sequence[ToolCall] = ()) -> ChatMessage:
        meta = {"model": "scripted", "finish_reason": "tool_calls" if calls else "stop"}
        return ChatMessage.from_assistant(text, tool_calls=list(calls), meta=meta)

    def _with_id(self, call: ToolCall) -> ToolCall:
        if call.id:
            return call
        with self._lock:
            self._calls += 1
            return replace(call, id=f"call_{self._calls}")

    def _chunks(self, message: ChatMessage, pieces: Sequence[str]) -> Iterator[StreamingChunk]:
        maker, reply = ChunkMaker(ComponentInfo.from_component(self)), Reply(model="scripted")
        for piece in pieces:
            yield from maker.told(Delta(text=piece), reply)
        for place, call in enumerate(message.tool_calls):
            arguments = json.dumps(call.arguments)
            delta = CallDelta(place, True, call.id, call.tool_name, arguments)
            yield from maker.told(Delta(calls=(delta,)), reply)
        usual = "tool_calls" if message.tool_calls else "stop"
        yield from maker.told(Delta(finish_reason=message.meta.get("finish_reason") or usual), reply)


def _check(said: object) -> None:
    if isinstance(said, str | ToolCall | ChatMessage | Exception):
        return
    parts = cast("Sequence[object]", said) if isinstance(said, list | tuple) else ()
    if (
        parts
        and all(isinstance(part, type(parts[0])) for part in parts)
        and isinstance(parts[0], str | ToolCall)
    ):
        return
    raise TypeError(
        "a scripted reply is a text, ToolCalls, a list of the pieces of a text, a ChatMessage, an exception, "
        f"or a function that gives one of these, not {said!r}"
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _shown(reply: object) -> str:
    if isinstance(reply, ChatMessage):
        return f"{reply.role.value}: {reply.text or reply.tool_calls or reply.tool_call_results}"
    return repr(reply)
