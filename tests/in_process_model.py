"""
A model within the process: it writes a text, whole or in pieces, each once the one before was dealt with. So
a test knows what was shown before which piece, without a clock, and whose CPU time it measures.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import httpx2
from haystack.dataclasses import ChatMessage, StreamingChunk

from llama_agent import MetaLlamaChatGenerator

QUESTION = [ChatMessage.from_user("Go on.")]


class Model:
    """
    A server behind `httpx2.MockTransport`, and a generator that asks it.

    :param settings: Of the generator.
    """

    def __init__(self, **settings: Any) -> None:
        self.pieces: Sequence[str] = ()
        self.finish_reason = "stop"
        self.shown: list[str] = []
        self.shown_before: list[str] = []
        """What had been shown when each piece was written."""
        self.generator = MetaLlamaChatGenerator(
            api_base_url="http://127.0.0.1:1/v1",
            model="m",
            max_retries=0,
            http_client_kwargs={"transport": httpx2.MockTransport(self._respond)},
            **settings,
        )

    def reply(self, text: str, **options: Any) -> ChatMessage:
        """What the generator makes of a text that came whole."""
        self.pieces = [text]
        return self.generator.run(QUESTION, **options)["replies"][0]

    def streamed(
        self,
        pieces: Sequence[str],
        *,
        watch: Callable[[StreamingChunk], object] | None = None,
        **options: Any,
    ) -> ChatMessage:
        """What the generator makes of a text that came in pieces; what it shows of it is in `shown`."""
        self.pieces, self.shown, self.shown_before = pieces, [], []

        def show(chunk: StreamingChunk) -> None:
            note(chunk, self.shown)
            if watch is not None:
                watch(chunk)

        return self.generator.run(QUESTION, streaming_callback=show, **options)["replies"][0]

    def _respond(self, request: httpx2.Request) -> httpx2.Response:
        if json.loads(request.content).get("stream"):
            headers = {"content-type": "text/event-stream"}
            return httpx2.Response(200, headers=headers, stream=_Stream(self._events()))
        message = {"role": "assistant", "content": "".join(self.pieces)}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return httpx2.Response(200, json={"id": "1", "model": "m", "choices": [choice]})

    def _events(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.shown_before.append("".join(self.shown))
            yield event(content=piece)
        yield event(self.finish_reason) + b"data: [DONE]\n\n"


class _Stream(httpx2.SyncByteStream):
    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return self._parts


def event(finish_reason: str | None = None, **delta: Any) -> bytes:
    """A server-sent event, as a chunk of a reply."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"id": "1", "model": "m", "choices": [choice]}).encode() + b"\n\n"


def note(chunk: StreamingChunk, shown: list[str]) -> None:
    """Add a chunk's text to what was shown, and take back what no longer counts."""
    if count := chunk.meta.get("superseded"):
        shown[:] = ["".join(shown)[:-count]]
    shown.append(chunk.content)


def pieces_of(text: str, size: int | Random) -> list[str]:
    """A text in pieces of a size, or of sizes by chance."""
    sizes = (lambda: size) if isinstance(size, int) else (lambda: size.choice((1, 1, 2, 3, 5, 8, 20, 60)))
    pieces: list[str] = []
    start = 0
    while start < len(text):
        pieces.append(text[start : start + sizes()])
        start += len(pieces[-1])
    return pieces
