"""Messages → OpenAI's format, as bytes, each message encoded once."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from itertools import count
from typing import cast

from haystack.dataclasses import (
    ChatMessage,
    FileContent,
    ImageContent,
    ReasoningContent,
    TextContent,
    ToolCall,
)
from haystack.dataclasses.chat_message import ToolCallResult

from llama_agent.arguments import MALFORMED
from llama_agent.errors import ConfigurationError
from llama_agent.lenient_json import is_finite
from llama_agent.model.streams import Json


class MessageEncoder:
    """
    ChatMessages → wire bytes, each encoded once.

    What was encoded is remembered by the message's identity. Only a weak reference is kept: a generator
    serves many runs, and mustn't keep their conversations alive. A message that was edited since is noticed
    by its parts, and encoded anew.

    `null_content` says whether an assistant message without text is sent with null, and not with "".
    """

    def __init__(self) -> None:
        self.null_content = False
        self._known: dict[int, tuple[weakref.ref[ChatMessage], tuple[object, ...], bytes, int]] = {}
        self._serials = count()

    @property
    def no_content(self) -> str | None:
        """What stands for no text in a message with calls."""
        return None if self.null_content else ""

    def encode(self, message: ChatMessage) -> bytes:
        """
        Encode a message.

        :param message: Any message that has content, or an assistant's.
        :returns: UTF-8 JSON of the object in OpenAI's format.
        :raises ConfigurationError: The format has no place for such a message.
        """
        return self._encoded(message)[0]

    def serial(self, message: ChatMessage) -> int:
        """
        A number for a message as it is now: another one once it is edited, or replaced by an equal one.

        :param message: As in `encode`.
        :returns: The number.
        :raises ConfigurationError: As `encode`.
        """
        return self._encoded(message)[1]

    def _encoded(self, message: ChatMessage) -> tuple[bytes, int]:
        key = id(message)
        parts = (self.null_content, *_parts_of(message))
        known = self._known.get(key)
        if known is not None and known[0]() is message and known[1] == parts:
            return known[2], known[3]
        encoded, serial = dumps(self.wire(message)), next(self._serials)
        forget = self._known.pop
        self._known[key] = (weakref.ref(message, lambda _: forget(key, None)), parts, encoded, serial)
        return encoded, serial

    def wire(self, message: ChatMessage) -> Json:
        """
        A message in OpenAI's format, as this server takes it.

        :param message: As in `encode`.
        :returns: The object.
        :raises ConfigurationError: As `encode`.
        """
        wire = wire_message(message)
        if not wire["content"] and wire.get("tool_calls"):
            wire["content"] = self.no_content
        return wire


def wire_message(message: ChatMessage) -> Json:
    """
    A message in OpenAI's format.

    :param message: Any message that has content, or an assistant's.
    :returns: The object. Content is never null (Ollama answers 400 to that: pydantic/pydantic-ai#5206), and a
        call whose arguments could not be read is sent with `{}`.
    :raises ConfigurationError: The format has no place for such a message.
    """
    if len(results := message.tool_call_results) == 1 and not isinstance(results[0].result, str):
        # The format has nothing but text for results (OpenAI's API reference, tool messages).
        text = _text_of_parts(results[0].result)
        return {"role": "tool", "content": text, "tool_call_id": results[0].origin.id or ""}
    try:
        wire = message.to_openai_dict_format(require_tool_call_ids=False)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"a {message.role.value} message can't be sent: {error}") from error
    wire.setdefault("content", "")
    for call, sent in zip(message.tool_calls, wire.get("tool_calls", ()), strict=False):
        if replayed_arguments(call) is not call.arguments:
            sent["function"]["arguments"] = json.dumps(replayed_arguments(call), ensure_ascii=False)
    return wire


def _text_of_parts(parts: Sequence[TextContent | ImageContent | FileContent]) -> str:
    """Content parts as text: what can't be said in it is named, so that the model knows that it is there."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, TextContent):
            lines.append(part.text)
        else:
            kind = part.mime_type or ("image" if isinstance(part, ImageContent) else "file")
            lines.append(f"[{kind}: a tool's result can't show it here]")
    return "\n".join(lines)


def replayed_arguments(call: ToolCall) -> Json:
    """
    Arguments of an earlier call as a server is told of them.

    :param call: Any call of the conversation.
    :returns: Its arguments; none where they could not be read. Numbers that JSON doesn't know are null.
    """
    if MALFORMED in (call.extra or {}) or not isinstance(call.arguments, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - a user's own messages
        return {}
    return call.arguments if is_finite(call.arguments) else cast("Json", _finite(call.arguments))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("Json", value).items()}
    if isinstance(value, list):
        return [_finite(item) for item in cast("list[object]", value)]
    return value if is_finite(value) else None


def _parts_of(message: ChatMessage) -> tuple[object, ...]:
    """What a message's encoding depends on, cheap to compare with an earlier look."""
    parts: list[object] = [message._role, message._name, message._meta.get("refusal")]  # pyright: ignore[reportPrivateUsage] - the properties copy
    for part in message._content:  # pyright: ignore[reportPrivateUsage]
        parts.append(_part_key(part))
    return tuple(parts)


def _part_key(part: object) -> object:
    match part:
        case TextContent():
            return part.text
        case ToolCall():
            return (
                part.id,
                part.tool_name,
                json.dumps(part.arguments, default=repr),
                MALFORMED in (part.extra or {}),
            )
        case ToolCallResult():
            content = (
                part.result if isinstance(part.result, str) else tuple(_part_key(p) for p in part.result)
            )
            return content, part.origin.id
        case ImageContent():
            return part.base64_image, part.mime_type, part.detail
        case FileContent():
            return part.base64_data, part.mime_type, part.filename
        case ReasoningContent():
            return None
        case _:
            return object()


def dumps(value: object) -> bytes:
    """
    JSON as it goes on the wire.

    :param value: What JSON knows.
    :returns: UTF-8, compact; what isn't text in Unicode's sense (half a surrogate pair) becomes `?`.
    :raises ConfigurationError: JSON doesn't know it.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
            "utf-8", "replace"
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the request can't be written as JSON: {error}") from error
