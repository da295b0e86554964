"""How a tool's calls are run: how long, how often, where, and how much of what they give is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, cast

from haystack.utils.type_serialization import deserialize_type, serialize_type

from llama_agent.errors import ConfigurationError

Isolation: TypeAlias = Literal["process"]


@dataclass(frozen=True)
class CallOptions:
    """
    How the calls of one tool are run.

    :param timeout: Seconds for a call, its retries included; None for no limit of its own.
    :param retry_on: Exceptions that may pass by themselves.
    :param retries: Further attempts after one of those; None for as many as suit the tool.
    :param max_result_chars: Most characters of a result that the model gets; None for what the window
        has room for, see `tooling/big_results.py`.
    :param isolation: `process` to run it in a process of its own, which can be killed; None for a thread.
    :raises ConfigurationError: A value is out of range.
    """

    timeout: float | None = None
    retry_on: tuple[type[Exception], ...] = ()
    retries: int | None = None
    max_result_chars: int | None = None
    isolation: Isolation | None = None

    def __post_init__(self) -> None:
        check_seconds("timeout", self.timeout)
        kinds = cast("Sequence[object]", self.retry_on)
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise ConfigurationError(
                f"retry_on must be exceptions, such as (ConnectionError, TimeoutError), not {kinds!r}"
            )
        if self.retries is not None and (type(self.retries) is not int or self.retries < 0):
            raise ConfigurationError(f"retries must be a whole number of 0 or more, not {self.retries!r}")
        if self.retries and not self.retry_on:
            raise ConfigurationError(
                "retries= needs retry_on=: the exceptions that may pass by themselves, such as "
                "(ConnectionError, TimeoutError)"
            )
        most = self.max_result_chars
        if most is not None and (type(most) is not int or most < 1):
            raise ConfigurationError(f"max_result_chars must be a whole number of 1 or more, not {most!r}")
        if self.isolation not in (None, "process"):
            raise ConfigurationError(f"isolation must be 'process' or None, not {self.isolation!r}")

    def to_dict(self) -> dict[str, Any]:
        """
        The options as data.

        :returns: Data for `from_dict`.
        """
        return {**asdict(self), "retry_on": [serialize_type(kind) for kind in self.retry_on]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CallOptions:
        """
        The options that `to_dict` described.

        :param data: Made by `to_dict`. Modules of exceptions must be on Haystack's deserialization allowlist.
        :returns: The options.
        """
        kinds = [deserialize_type(name) for name in data.get("retry_on", ())]
        options: dict[str, Any] = {**data, "retry_on": tuple(kinds)}
        return cls(**options)


def check_seconds(name: str, value: object) -> None:
    """
    Make sure that a limit of time is one.

    :param name: What it is called.
    :param value: What was given; None for no limit.
    :raises ConfigurationError: It is no number above 0.
    """
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < cast("float", value) < math.inf:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
