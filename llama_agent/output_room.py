"""
Whether the requests of one model call share its limit of output tokens: in a run with such limits they do,
for a model that is asked again within a call mustn't write as much once more.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_shared: ContextVar[bool] = ContextVar("llama_agent_output_room", default=False)


@contextmanager
def shared_output(is_shared: bool) -> Generator[None]:
    """
    Say for the model calls within the block whether their requests share a limit.

    :param is_shared: Whether they do.
    """
    token = _shared.set(is_shared)
    try:
        yield
    finally:
        _shared.reset(token)


def is_output_shared() -> bool:
    """
    Whether the requests of the current model call share its limit.

    :returns: True within `shared_output(True)`.
    """
    return _shared.get()
