"""Calls that go in circles: noticed by what they call, with what, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from haystack.dataclasses import ChatMessage, ToolCall

from llama_agent.arguments import MISTAKE, WITHHELD, WithheldBy

TIMES = 3
"""How often the same call with the same result is made before the model is told."""
MOST = 6
"""Executions of one call with the same result, all told."""
_LONGEST_CYCLE = 4
_ONCE_MORE = 2
"""A call counts as made once before progress; made once more after it, it's not yet a circle again."""
_LAPSE = 8
"""Calls that make progress, after which what was found before is forgotten."""
REPEATED = (
    "You have called {names} with the same arguments several times, and each time got the same result. It "
    "won't change: use what you have, try something else, or answer."
)
NOT_NOW = (
    "You keep calling {names} with the same arguments, and the result stays the same, so it can't be called "
    "in this turn. Go on without it, or answer."
)
CIRCLING = (
    "You are going in circles, so no more tools can be called. Answer now as well as you can with what you "
    "know, and say what is missing."
)


@dataclass(frozen=True)
class Finding:
    """
    What a step's calls say.

    :param names: Tools that are called in circles; empty when none is.
    :param strike: The how-manieth time that this is found of one of the calls.
    """

    names: tuple[str, ...] = ()
    strike: int = 0


@dataclass(frozen=True)
class Repeats:
    """
    The last calls of a run. A call that wasn't among them is progress: others may be repeated after it.

    :param recent: Signatures of the last calls, the newest last: the tool's name, and a digest of its
        arguments and result.
    :param counts: How often each was made since the last progress, that before counted as once.
    :param strikes: How often each was found in a circle.
    :param made: The last signature of each call, by the tool's name and a digest of its arguments.
    :param progress: Calls that made progress since the last finding.
    """

    recent: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    strikes: Mapping[str, int] = field(default_factory=dict[str, int])
    made: Mapping[str, str] = field(default_factory=dict[str, str])
    progress: int = 0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Repeats:
        """
        The calls as they were.

        :param data: Made by `dataclasses.asdict`, maybe with lists for tuples, as JSON has them.
        :returns: The calls.
        """
        known: dict[str, Any] = {**data, "recent": tuple(data["recent"])}
        return cls(**known)

    def beyond(self, calls: Sequence[ToolCall], polling: Collection[str], times: int) -> frozenset[int]:
        """
        Calls that were made so often that another time would be one too many.

        :param calls: A reply's calls.
        :param polling: Names of tools whose calls may repeat.
        :param times: As in `after`.
        :returns: Their places.
        """
        most = max(MOST, times * 2)
        counts: dict[str, int] = {}
        places: list[int] = []
        for place, call in enumerate(calls):
            if call.tool_name in polling:
                continue
            key = _key(call)
            counts[key] = counts.get(key, self.counts.get(self.made.get(key, ""), 0)) + 1
            if counts[key] > most:
                places.append(place)
        return frozenset(places)

    def after(
        self,
        calls: Sequence[ToolCall],
        results: Sequence[ChatMessage],
        polling: Collection[str],
        times: int = TIMES,
    ) -> tuple[Repeats, Finding]:
        """
        The calls after another step, and what they say.

        :param calls: The step's calls.
        :param results: Their tool messages, in the same order.
        :param polling: Names of tools whose calls may repeat.
        :param times: How often the same call is made before it is found.
        :returns: Both.
        """
        recent, counts = list(self.recent), dict(self.counts)
        strikes, made, progress = dict(self.strikes), dict(self.made), self.progress
        found: dict[str, int] = {}
        most = max(MOST, times * 2)
        for call, result in zip(calls, results, strict=False):
            withheld = cast("WithheldBy | None", result.meta.get(WITHHELD))
            if call.tool_name in polling or result.meta.get(MISTAKE) or withheld not in (None, "repeat"):
                continue
            key = _key(call)
            if withheld == "repeat" and counts.get(made.get(key, ""), 0) < most:
                continue  # there were too many in one reply; but each had another result
            signature = made.get(key, key) if withheld == "repeat" else _signature(call, result)
            if signature not in recent and signature not in strikes:
                counts, progress = dict.fromkeys(counts, 1), progress + 1
                if progress >= _LAPSE:
                    strikes.clear()
            made[key] = signature
            counts[signature] = counts.get(signature, 0) + 1
            recent.append(signature)
            circle = _circle(recent, times)
            if signature in strikes and (strikes[signature] > 1 or counts[signature] > _ONCE_MORE):
                circle = {signature}
            for one in circle:
                if one not in found:
                    progress = 0
                    strikes[one] = found[one] = strikes.get(one, 0) + 1
        kept = tuple(recent[-_LONGEST_CYCLE * times :])
        known = {key: one for key, one in made.items() if one in kept or one in strikes}
        names = tuple(dict.fromkeys(one.partition(" ")[0] for one in found))
        return Repeats(kept, counts, strikes, known, progress), Finding(names, max(found.values(), default=0))


def _circle(recent: Sequence[str], times: int) -> set[str]:
    """The calls of the shortest cycle that the last calls are `times` rounds of; empty when they are none."""
    for length in range(1, _LONGEST_CYCLE + 1):
        last = recent[-length * times :]
        if len(last) == length * times and all(
            last[place] == last[place % length] for place in range(length, len(last))
        ):
            return set(last)
    return set()


def _key(call: ToolCall) -> str:
    return f"{call.tool_name} {_digest(_arguments_of(call))}"


def _signature(call: ToolCall, result: ChatMessage) -> str:
    said = "\n".join(str(part.result) for part in result.tool_call_results)
    return f"{call.tool_name} {_digest(_arguments_of(call) + said)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()


def _arguments_of(call: ToolCall) -> str:
    try:
        return json.dumps(_canonical(call.arguments), sort_keys=True, default=repr)
    except RecursionError:
        return "nested too deeply to be compared"


def _canonical(value: Any) -> Any:
    """
    A value as it is compared: a model that writes 1, 1.0 and "1" in turn means the same, and its tool gets
    the same; likewise an object, and its JSON as a text.
    """
    if isinstance(value, Mapping):
        return {str(name): _canonical(part) for name, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in cast("Sequence[Any]", value)]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            return _canonical(json.loads(value))
    return str(value).strip().lower() if isinstance(value, str | int | float) or value is None else value
