"""Ordinary answers stay answers: whatever the tools are named, no text of the corpus becomes a call."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias
from zlib import crc32

import pytest
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.tools.tool import Tool

from llama_agent import MetaLlamaChatGenerator
from tests.endpoint import Always, Endpoint, Item, Reply, Request
from tests.prose_corpus import KINDS, Message, messages

Ask: TypeAlias = Callable[[Endpoint, Iterable[Message]], Mapping[str, str]]
"""Asks for each message, and says what is wrong with the reply, by the message's id."""

COMMON_WORDS = """
    get set print search add list name function type read run len main json open call python write find
    filter map sum max min sort text data value key id item file path load dump loads dumps copy help
    test string array object description parameters arguments tool tools action result all note code
    query main_loop
""".split()
TEXT = {"type": "string"}
OPTIONAL = {"type": "object", "properties": {"value": TEXT, "name": TEXT}}
REQUIRED = {**OPTIONAL, "required": ["value"]}
CODE = {"type": "object", "properties": {"code": TEXT}, "required": ["code"]}


def never() -> str:
    raise AssertionError("a generator runs no tool")


def tools_named(names: Iterable[str], parameters: Mapping[str, Any]) -> list[Tool]:
    """Tools of these names; `python` takes code in any case, as a code interpreter."""
    return [
        Tool(name, f"Does {name}.", CODE if name == "python" else dict(parameters), never) for name in names
    ]


LOOSE_TOOLS = tools_named(COMMON_WORDS, OPTIONAL)
STRICT_TOOLS = tools_named(COMMON_WORDS, REQUIRED)


def generator_on(endpoint: Endpoint, **settings: Any) -> MetaLlamaChatGenerator:
    # No certificates are loaded for each client.
    return MetaLlamaChatGenerator(
        api_base_url=endpoint.url, model="m", max_retries=0, http_client_kwargs={"verify": False}, **settings
    )


def question(message: Message) -> list[ChatMessage]:
    """What is asked for a message: it must hold nothing of it, else a call in it were an echo."""
    return [ChatMessage.from_user(f"Question {crc32(message.id.encode())}")]


def serve(endpoint: Endpoint, asked: Iterable[Message]) -> None:
    """Answer each question with its message, in pieces whose size depends on the message only."""
    answers = {question(message)[0].text: message for message in asked}

    def answer(request: Request) -> Item:
        message = answers[request.messages[-1]["content"]]
        size = random.Random(message.id).choice((1, 4, 9, 25, 80)) + len(message.text) // 100
        return Reply(message.text, finish_reason=message.finish_reason, chunk_size=size)

    endpoint.script(Always(answer))


def wrong_with(reply: ChatMessage, message: Message, shown: str | None = None) -> str | None:
    """What makes the reply another than the message's text; `shown` is what was streamed of it."""
    if reply.tool_calls:
        return f"called {[(call.tool_name, call.arguments) for call in reply.tool_calls]}"
    if reply.text != message.text:
        return f"came as {reply.text!r}"
    if shown is not None and shown != message.text:
        return f"was shown as {shown!r}"
    if "recovered" in reply.meta or "tool_call_format" in reply.meta:
        return f"is marked as recovered: {reply.meta}"
    if reply.meta["finish_reason"] != message.finish_reason:
        return f"ended by {reply.meta['finish_reason']!r}"
    return None


def collected(found: Mapping[str, str | None]) -> dict[str, str]:
    return {id_: wrong for id_, wrong in found.items() if wrong is not None}


def at_once(tools: list[Tool] | None = None, **settings: Any) -> Ask:
    """Asks without streaming; with no tools given, each message's own words are the tools' names."""

    def ask(endpoint: Endpoint, asked: Iterable[Message]) -> Mapping[str, str]:
        serve(endpoint, asked)
        generator = generator_on(endpoint, **settings)
        found: dict[str, str | None] = {}
        for message in asked:
            offered = tools or tools_named(message.mentioned or ["get"], OPTIONAL)
            (reply,) = generator.run(question(message), tools=offered)["replies"]
            found[message.id] = wrong_with(reply, message)
        generator.close()
        return collected(found)

    return ask


def streamed(endpoint: Endpoint, asked: Iterable[Message]) -> Mapping[str, str]:
    serve(endpoint, asked)
    generator = generator_on(endpoint)
    found: dict[str, str | None] = {}
    for message in asked:
        shown: list[str] = []

        def show(chunk: StreamingChunk, shown: list[str] = shown) -> None:
            shown.append(chunk.content)

        (reply,) = generator.run(question(message), show, tools=LOOSE_TOOLS)["replies"]
        found[message.id] = wrong_with(reply, message, "".join(shown))
    generator.close()
    return collected(found)


def streamed_async(endpoint: Endpoint, asked: Iterable[Message]) -> Mapping[str, str]:
    serve(endpoint, asked)

    async def main() -> dict[str, str | None]:
        generator = generator_on(endpoint)
        found: dict[str, str | None] = {}
        for message in asked:
            shown: list[str] = []

            async def show(chunk: StreamingChunk, shown: list[str] = shown) -> None:
                shown.append(chunk.content)

            asked_for = generator.run_async(question(message), show, tools=STRICT_TOOLS)
            (reply,) = (await asked_for)["replies"]
            found[message.id] = wrong_with(reply, message, "".join(shown))
        await generator.close_async()
        return found

    return collected(asyncio.run(main()))


WAYS: dict[str, tuple[Ask, slice]] = {
    "tools without required parameters": (at_once(LOOSE_TOOLS), slice(0, None, 2)),
    "tools with required parameters": (at_once(STRICT_TOOLS), slice(1, None, 2)),
    "tools named as in the message": (at_once(), slice(None)),
    "prompted": (at_once(LOOSE_TOOLS[:30], tool_mode="prompted"), slice(0, None, 3)),
    "streamed": (streamed, slice(None)),
    "streamed, async": (streamed_async, slice(1, None, 4)),
}
"""How it is asked, and for which of a kind's messages: for all in all ways it would take too long."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_an_ordinary_answer_stays_as_it_is(endpoint: Endpoint, way: str, kind: str) -> None:
    ask, some = WAYS[way]
    asked = messages(kind)[some]
    assert ask(endpoint, asked) == {}
    assert len(endpoint.requests) == len(asked)


def test_the_corpus_is_large_and_of_many_kinds() -> None:
    sizes = {kind: len(messages(kind)) for kind in KINDS}
    assert sum(sizes.values()) >= 1500
    assert min(sizes.values()) >= 10


def test_most_of_the_corpus_speaks_of_the_tools_on_offer() -> None:
    every = [message for kind in KINDS for message in messages(kind)]
    words = set(COMMON_WORDS)
    speaking = sum(not words.isdisjoint(message.text.replace('"', " ").split()) for message in every)
    assert speaking > len(every) // 2
