"""How much of a model's window the tools' definitions take."""

from __future__ import annotations

import json
from collections.abc import Sequence

from haystack.tools.tool import Tool

from llama_agent.json_schema import estimated_tokens

ASSUMED_WINDOW = 8_000
"""Tokens of a window whose size nobody has told: what local servers give by default is often less."""
_MOST_OF_WINDOW = 0.5


def definition_tokens(tool: Tool) -> int:
    """
    About how many tokens a tool's definition takes in each request.

    :param tool: Any Haystack tool.
    :returns: Tokens, estimated from the length of the JSON text.
    """
    return estimated_tokens(len(json.dumps(tool.tool_spec, ensure_ascii=False, default=str)))


def size_warning(tools: Sequence[Tool], window: int = ASSUMED_WINDOW) -> str | None:
    """
    What to say of a set of tools that leaves a model little room for its work.

    :param tools: All tools on offer.
    :param window: Tokens that the model can read at once.
    :returns: A sentence, or None when they take less than half of the window.
    """
    sizes = {tool.name: definition_tokens(tool) for tool in tools}
    total = sum(sizes.values())
    if total < window * _MOST_OF_WINDOW:
        return None
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    named = ", ".join(f"{name} ({sizes[name]})" for name in largest)
    return (
        f"the definitions of the tools ({len(sizes)}) take about {total:,} tokens of each request, "
        f"{total / window:.0%} of a window of {window:,} tokens. Offer fewer, or "
        f"shorten their texts; the largest: {named}"
    )
