"""
Results that are too large for the model's window: cut in the message, kept whole for the run, and read by the
model in parts.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, MutableMapping
from typing import Annotated

from haystack.dataclasses import TextContent
from haystack.dataclasses.chat_message import ToolCallResultContentT
from haystack.tools.tool import Tool
from pydantic import Field

from llama_agent.errors import ToolRetry
from llama_agent.tooling.tool import ToolHints, function_tool

MOST_CHARACTERS = 100_000
"""No result is longer in a message, however large the window."""
_SHARE = 0.25
"""Of the window, for one result."""
_CHARACTERS_PER_TOKEN = 3
"""Rather too few than too many."""
_LINE_CHARACTERS = 500
"""Longer lines are read in pieces of this: the text of a whole table may be one line."""
_HEAD_SHARE = 0.7
"""Of what is shown: a text usually says at its beginning what it is."""
_NUMBER = re.compile(r"\(id='result_(\d{1,9})'")
_NAMES = ("read_result", "read_tool_result", "read_whole_result")


class BigResults:
    """
    The results of one run that were too large.

    :param window: Tokens that the model can read at once.
    :param texts: The whole texts by id; kept by whoever keeps the run.
    :param first: Number of the first; smaller ones are those of earlier runs of the conversation.
    """

    def __init__(self, window: int, texts: MutableMapping[str, str], first: int = 1) -> None:
        self._first = first
        self._most = min(MOST_CHARACTERS, int(window * _SHARE) * _CHARACTERS_PER_TOKEN)
        self._texts = texts
        self._lines: dict[str, list[str]] = {}
        self._readers: dict[str, Tool] = {}
        self._lock = threading.Lock()
        self._name = _NAMES[0]

    def fit(self, content: ToolCallResultContentT) -> ToolCallResultContentT:
        """
        Content for a message; what is too long of it is kept, and cut.

        :param content: A tool's.
        :returns: The content, its texts together at most a quarter of the window.
        """
        if isinstance(content, str):
            return self._fit(content)
        texts = [part.text for part in content if isinstance(part, TextContent)]
        whole = "\n".join(texts)
        if (fitting := self._fit(whole)) == whole:
            return content
        # Many parts share one room: they become one.
        return [TextContent(fitting), *(part for part in content if not isinstance(part, TextContent))]

    def tools(self, names: Collection[str]) -> list[Tool]:
        """
        What the model reads them with.

        :param names: Of the tools on offer.
        :returns: A tool once there is something to read; its name is none of theirs.
        """
        self._name = next((name for name in _NAMES if name not in names), _NAMES[-1])
        if not self._texts:
            return []
        if self._name not in self._readers:
            hints = ToolHints(read_only=True, open_world=False)
            self._readers[self._name] = function_tool(self.read, name=self._name, hints=hints)
        return [self._readers[self._name]]

    def is_reader(self, tool: Tool) -> bool:
        """
        Whether a tool is the one that reads them: what it gives is never cut again.

        :param tool: Any.
        :returns: True for that one.
        """
        return tool is self._readers.get(tool.name)

    def read(
        self,
        id: str,
        offset: Annotated[int, Field(ge=0)] = 0,
        lines: Annotated[int, Field(ge=1, le=1000)] = 100,
    ) -> str:
        """
        Read a part of an earlier tool result that was too long to be shown whole.

        Args:
            id: As the cut result says it, such as "result_1".
            offset: The first line, counted from 0.
            lines: How many lines; fewer come where they are long.

        """
        if id not in self._texts:
            known = ", ".join(self._texts)
            raise ToolRetry(f"there is no result '{id}' in this run. There are: {known}")
        every = self._lines_of(id)
        if offset >= len(every):
            raise ToolRetry(f"{id} has {len(every):,} lines: offset must be below that")
        shown: list[str] = []
        room = self._most * len(self._texts[id]) // max(1, len(self._texts[id].encode(errors="replace")))
        for line in every[offset : offset + lines]:
            room -= len(line)
            if room < 0 and shown:
                break
            shown.append(line)
        end = offset + len(shown)
        rest = f"go on with offset={end}" if end < len(every) else "the end"
        return f"[{id}, lines {offset:,} to {end - 1:,} of {len(every):,}; {rest}]\n{''.join(shown)}"

    def _fit(self, text: str) -> str:
        # Of some scripts a character is several bytes, and takes as many tokens more.
        most = self._most * len(text) // max(1, len(text.encode(errors="replace")))
        if len(text) <= most:
            return text
        with self._lock:
            id = f"result_{len(self._texts) + self._first}"
            self._texts[id] = text
        every = self._lines_of(id)
        head = _fitting(every, int(most * _HEAD_SHARE))
        tail = _fitting(every[:head:-1], most - int(most * _HEAD_SHARE))
        last = len(every) - tail
        missing = sum(map(len, every[head:last]))
        note = (
            f"\n[… {missing:,} of {len(text):,} characters are left out here: lines {head:,} to {last - 1:,} "
            f"of {len(every):,}. Read them with {self._name}(id='{id}', offset={head}).]\n"
        )
        return "".join(every[:head]) + note + "".join(every[last:])

    def _lines_of(self, id: str) -> list[str]:
        """Its lines with their ends, long ones in pieces."""
        if id not in self._lines:
            most = min(_LINE_CHARACTERS, self._most)
            self._lines[id] = [
                line[start : start + most]
                for line in self._texts[id].splitlines(keepends=True)
                for start in range(0, len(line), most)
            ]
        return self._lines[id]


def first_number(texts: Iterable[str]) -> int:
    """
    The number that a run's first big result has, so that it isn't taken for an earlier run's.

    :param texts: Of the tool results of the conversation before.
    :returns: One more than the highest that they name.
    """
    return max((int(number) for text in texts for number in _NUMBER.findall(text)), default=0) + 1


def _fitting(lines: list[str], room: int) -> int:
    """How many lines fit, from the first on."""
    for count, line in enumerate(lines):
        room -= len(line)
        if room < 0:
            return count
    return len(lines)
