"""Which tool calls need a person's word, and who is asked."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from haystack.dataclasses import ToolCall
from haystack.tools.tool import Tool


@dataclass(frozen=True)
class Refused:
    """
    A person, or a rule, said no.

    :param reason: Said to the model, as one sentence.
    """

    reason: str


class Approval(Protocol):
    """
    Decides on a call before it runs. A run asks for one call at a time, in the model's order.

    `needs` must be quick; `ask` may wait for a person. `ask` may be a coroutine function in async runs.
    """

    def needs(self, call: ToolCall, tool: Tool) -> bool:
        """
        Whether somebody has to be asked.

        :param call: The model's call.
        :param tool: The tool it names.
        :returns: True to be asked.
        """
        ...

    def ask(self, call: ToolCall, tool: Tool) -> Refused | Awaitable[Refused | None] | None:
        """
        Get the word.

        :param call: The model's call.
        :param tool: The tool it names.
        :returns: None to let it run, or why not.
        """
        ...
