"""
Prompts that a server cut without saying so: Ollama takes away from the front what is beyond `num_ctx`, system
prompt and tools first (ollama/ollama#18107). All that tells is the number of tokens that it says it read.
"""

from __future__ import annotations

import re

from llama_agent.errors import ContextOverflow
from llama_agent.model.streams import Json

_MOST_BYTES_PER_TOKEN = 6
"""English takes 4 to 5 bytes a token, code 3 to 4, once repeated characters are counted once."""
_SMALLEST_WINDOW = 1024
"""Windows are larger; a smaller count is something else, such as the part of a prompt that wasn't cached."""
_REPEATED = re.compile(rb"(.)\1+", re.DOTALL)


def check_not_cut(messages: bytes, usage: Json) -> None:
    """
    Compare what was sent with what the server says that it read.

    :param messages: The messages as they were sent, without the tools. Those with images aren't judged.
    :param usage: The reply's token counts.
    :raises ContextOverflow: It must have been more, however few tokens the text takes.
    """
    read = usage.get("prompt_tokens")
    if not isinstance(read, int) or read < _SMALLEST_WINDOW or len(messages) < read * _MOST_BYTES_PER_TOKEN:
        return
    if b'"image_url"' in messages:
        return
    sent = len(_REPEATED.sub(rb"\1", messages)) // _MOST_BYTES_PER_TOKEN
    if sent > read:
        raise ContextOverflow(
            f"the server read {read:,} tokens of a prompt of more than {sent:,}, and cut the rest from its "
            "front without saying so: the system prompt and the task are gone. Give the model a larger "
            "window (Ollama: OLLAMA_CONTEXT_LENGTH=32768 ollama serve, or PARAMETER num_ctx in a Modelfile), "
            "or shorten the conversation.",
            limit=read,
            requested=sent,
        )
