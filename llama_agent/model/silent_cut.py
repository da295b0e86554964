"""
Prompts that a server cut without saying so: Ollama takes away from the front what is beyond `num_ctx`, system
prompt and tools first (ollama/ollama#18107). All that tells is the number of tokens that it says it read.

The estimate is a lower bound, so that it never cries wolf: a token for each word, and one for each 12 bytes
once repetitions are counted once. Measured with the tokenizers of Llama 3 and gpt-oss on 22 kinds of text,
prose takes 5 to 7 bytes a token, Java 8, Hindi 10. So prose is noticed from 1.1 times the window on, JSON
from 3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from haystack.dataclasses import ChatMessage, ImageContent, TextContent

from llama_agent.errors import ContextOverflow
from llama_agent.model.streams import Json

_MOST_BYTES_PER_TOKEN = 12
_SMALLEST_WINDOW = 1024
"""Windows are larger; a smaller count is something else, such as the part of a prompt that wasn't cached."""
_WORD = re.compile(r"\S*[^\W_]\S*")
_REPEATED = re.compile(r"(.{1,4}?)\1+", re.DOTALL)


def check_not_cut(messages: Iterable[ChatMessage | Json], tools: object, usage: Json) -> None:
    """
    Compare what was sent with what the server says that it read.

    :param messages: What was sent. A conversation with images isn't judged: their tokens can't be told.
    :param tools: The definitions that were sent, in OpenAI's form, or None.
    :param usage: The reply's token counts.
    :raises ContextOverflow: It must have been more, however few tokens the text takes.
    """
    read = usage.get("prompt_tokens")
    if not isinstance(read, int) or read < _SMALLEST_WINDOW:
        return
    texts = [*_texts(messages), *_descriptions(tools)]
    # No word is shorter than a character and a blank: below that nothing has to be counted.
    if None in texts or sum(len(text or "") for text in texts) < 2 * read:
        return
    sent = sum(_fewest_tokens(text or "") for text in texts)
    if sent > read:
        raise ContextOverflow(
            f"the server read {read:,} tokens of a prompt of more than {sent:,}, and cut the rest from its "
            "front without saying so: the system prompt and the task are gone. Give the model a larger "
            "window (Ollama: OLLAMA_CONTEXT_LENGTH=32768 ollama serve, or PARAMETER num_ctx in a Modelfile), "
            "or shorten the conversation.",
            limit=read,
            requested=sent,
        )


def _fewest_tokens(text: str) -> int:
    words = sum(1 for _ in _WORD.finditer(text))
    return max(words, len(_REPEATED.sub(r"\1", text).encode("utf-8", "replace")) // _MOST_BYTES_PER_TOKEN)


def _texts(messages: Iterable[ChatMessage | Json]) -> Iterator[str | None]:
    """What a model reads of messages; None for an image."""
    for message in messages:
        if not isinstance(message, ChatMessage):
            content = message.get("content")
            yield content if isinstance(content, str) else None
            continue
        yield from (None if isinstance(part, ImageContent) else "" for part in message._content)  # pyright: ignore[reportPrivateUsage] - the property copies
        yield from message.texts
        for call in message.tool_calls:
            yield call.tool_name
            yield json.dumps(call.arguments, ensure_ascii=False, default=str)
        for result in message.tool_call_results:
            parts = [TextContent(result.result)] if isinstance(result.result, str) else result.result
            yield from (part.text for part in parts if isinstance(part, TextContent))


def _descriptions(tools: object) -> Iterator[str]:
    for tool in cast("list[object]", tools) if isinstance(tools, list) else []:
        yield from _described(tool)


def _described(schema: object) -> Iterator[str]:
    """The descriptions in a definition: what else of it a template shows can't be known."""
    if isinstance(schema, Mapping):
        for key, value in cast("Mapping[str, Any]", schema).items():
            yield from [value] if key == "description" and isinstance(value, str) else _described(value)
    elif isinstance(schema, list):
        for item in cast("list[object]", schema):
            yield from _described(item)
