"""
Cases for the request path: whatever a server answers, a reply comes or a typed error.

    python -m tests.fuzzing 100000 --seed 0   # cases 0 to 99,999
    python -m tests.fuzzing 1 --seed 4711     # case 4711 once more
"""

import argparse
import asyncio
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, Self, TypeAlias

import httpx2
from haystack.dataclasses import ChatMessage, StreamingChunk

from llama_agent import ConfigurationError, EndpointError, MetaLlamaChatGenerator, RetryPolicy, tool
from tests.hostile_answers import ORIGIN, Answer, Hostile

Streaming: TypeAlias = Literal["no", "asked for", "watched"]
SLOW = 2.0
"""Seconds of CPU time that no case may take: the largest bodies are a few hundred kilobytes."""

PATIENT = RetryPolicy(max_retries=1, initial_wait=0, max_wait=0, max_retry_after=0)
BOUNDED = RetryPolicy(max_retries=0, attempt_timeout=60)
QUESTION = [ChatMessage.from_user("2+3?")]


@dataclass(frozen=True)
class Case:
    """
    What is asked, and what the server answers.

    :param answers: In order of the requests; the last one is repeated.
    :param goes_on: The reply is sent back with another question.
    :param model: None has the generator ask which there are.
    :param tool_mode: None offers no tools.
    """

    seed: int
    way: Literal["sync", "async"]
    streaming: Streaming
    answers: tuple[Answer, ...]
    goes_on: bool
    model: str | None = "m"
    tool_mode: Literal["native", "constrained"] | None = None
    retry: RetryPolicy | None = None


class Violation(Exception):
    """A case had an end that no case may have."""


class Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that arrives in pieces, sync or async, and may break off."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.pieces
        if self._answer.breaks is not None:
            raise self._answer.breaks("the connection broke")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def add(a: int, b: int) -> int:
    """
    Add two numbers.

    :param a: First.
    :param b: Second.
    """
    return a + b


ADD = tool(add)


def case_of(seed: int) -> Case:
    """
    Make a case.

    :param seed: The same one makes the same case.
    :returns: The case.
    """
    random = Random(seed)
    hostile = Hostile(random)
    streaming: Streaming = random.choice(["no", "asked for", "watched"])
    return Case(
        seed=seed,
        way=random.choice(["sync", "async"]),
        streaming=streaming,
        answers=tuple(
            hostile.answer(streamed=streaming != "no") for _ in range(random.choice([1, 1, 1, 2, 4]))
        ),
        goes_on=random.random() < 0.3,
        model=None if random.random() < 0.04 else "m",
        tool_mode=random.choice([None] * 8 + ["native", "constrained"]),
        retry=random.choice([None] * 8 + [PATIENT, BOUNDED]),
    )


class Asking:
    """
    Performs cases, one after another, each with clients of its own.

    Use it in a `with` block. By default nothing but the network is missing: `httpx2.MockTransport` gives the
    answers, and all of the client's own code runs.

    :param settings: For all generators, in the place of the usual ones.
    """

    def __init__(self, **settings: Any) -> None:
        usual = {"api_base_url": f"{ORIGIN}/v1", "max_retries": 0}
        network = {"http_client_kwargs": {"transport": httpx2.MockTransport(self._respond)}}
        self._settings = {**usual, **network, **settings}
        # To make one costs more than to ask it; what a server can leave behind goes when it is closed.
        self._generators: dict[tuple[Any, ...], MetaLlamaChatGenerator] = {}
        self._left: list[Answer] = []
        self._runner = asyncio.Runner()
        self.strays: list[str] = []

    def __enter__(self) -> Self:
        self._runner.__enter__()
        handler = lambda _, context: self.strays.append(repr(context))  # noqa: E731
        self._runner.get_loop().set_exception_handler(handler)
        return self

    def __exit__(self, *problem: Any) -> None:
        self._runner.__exit__(*problem)

    def next_answer(self) -> Answer:
        """What the current case's server says to the next request."""
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]

    def outcome_of(self, case: Case) -> str:
        """
        Perform a case.

        :param case: Any case.
        :returns: `reply`, or the kind of error.
        :raises Violation: It ended otherwise. The reason is its `__cause__`.
        """
        self._left = list(case.answers)
        generator = self._generator(case)
        began = time.process_time()
        try:
            if case.way == "async":
                replies = self._runner.run(_asked_async(generator, case))
            else:
                replies = _asked(generator, case)
            outcome = "reply with calls" if any(reply.tool_calls for reply in replies) else "reply"
        except EndpointError as error:
            outcome = _kind_of(error)
        except ConfigurationError as error:
            # A server can't make a setting wrong, except by what it lists when asked for its models.
            if case.model is not None:
                raise Violation(f"case {case.seed}: blamed on the caller: {error}"[:300]) from error
            outcome = "ConfigurationError (models)"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the JSON parser's panics are no `Exception`
            raise Violation(f"case {case.seed}: {type(error).__name__}: {error}"[:300]) from error
        if (seconds := time.process_time() - began) > SLOW:
            raise Violation(f"case {case.seed}: took {seconds:.1f} s")
        if self.strays:
            raise Violation(f"case {case.seed}: left behind {self.strays}")
        return outcome

    def _generator(self, case: Case) -> MetaLlamaChatGenerator:
        chosen = (case.model, case.tool_mode)
        if chosen not in self._generators:
            self._generators[chosen] = MetaLlamaChatGenerator(
                model=case.model, tool_mode=case.tool_mode, **self._settings
            )
        return self._generators[chosen]

    def _respond(self, _: httpx2.Request) -> httpx2.Response:
        answer = self.next_answer()
        return httpx2.Response(answer.status, headers=list(answer.headers), stream=Pieces(answer))


def _asked(generator: MetaLlamaChatGenerator, case: Case) -> list[ChatMessage]:
    try:
        replies = _checked(generator.run(QUESTION, **_options(case)))
        if case.goes_on:
            _checked(generator.run([*QUESTION, replies[0], *QUESTION], **_options(case)))
        return replies
    finally:
        generator.close()


async def _asked_async(generator: MetaLlamaChatGenerator, case: Case) -> list[ChatMessage]:
    try:
        replies = _checked(await generator.run_async(QUESTION, **_options(case)))
        if case.goes_on:
            _checked(await generator.run_async([*QUESTION, replies[0], *QUESTION], **_options(case)))
        return replies
    finally:
        await generator.close_async()


def _options(case: Case) -> dict[str, Any]:
    options: dict[str, Any] = {"retry": case.retry, "tools": [ADD] if case.tool_mode else None}
    match case.streaming:
        case "no":
            return options
        case "asked for":
            return {**options, "generation_kwargs": {"stream": True}}
        case "watched":
            return {**options, "streaming_callback": _watched_async if case.way == "async" else _watched}


def _watched(chunk: StreamingChunk) -> None:
    if not isinstance(chunk, StreamingChunk):
        raise TypeError(f"{chunk!r} was shown")


async def _watched_async(chunk: StreamingChunk) -> None:
    _watched(chunk)


def _checked(output: dict[str, list[ChatMessage]]) -> list[ChatMessage]:
    replies = output["replies"]
    if not replies or not all(isinstance(reply, ChatMessage) for reply in replies):
        raise TypeError(f"{replies!r} are no replies")
    return replies


def _kind_of(error: EndpointError) -> str:
    status = f"{str(error.status)[:1]}xx" if error.status is not None else "no status"
    return f"{type(error).__name__}, {status}, {'may pass' if error.retryable else 'lasts'}"


def _place_of(violation: Violation) -> str:
    """Where it came from: the last function of ours on the way, sync and async as one, and the module."""
    cause = violation.__cause__
    if cause is None:
        return re.sub(r"\d+", "N", str(violation))
    frames = traceback.extract_tb(cause.__traceback__)
    ours = [frame for frame in frames if "llama_agent" in frame.filename]
    function = ours[-1].name.removesuffix("_async") if ours else "tests"
    module = Path(frames[-1].filename)
    return f"{type(cause).__name__} in {function}, from {module.parent.name}/{module.name}"


def main(arguments: list[str] | None = None) -> int:
    """
    Perform cases and tell how they ended.

    :param arguments: Of the command line.
    :returns: 1 when there was a violation.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing")
    parser.add_argument("cases", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--traces", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args(arguments)
    outcomes: Counter[str] = Counter()
    violations: dict[str, list[Violation]] = {}
    warnings.simplefilter("error")
    began = time.perf_counter()
    with Asking() as asking:
        # What a destructor warns of can't be raised.
        sys.unraisablehook = lambda problem: asking.strays.append(repr(problem.exc_value))
        for seed in range(given.seed, given.seed + given.cases):
            try:
                outcomes[asking.outcome_of(case_of(seed))] += 1
            except Violation as violation:
                asking.strays.clear()
                violations.setdefault(_place_of(violation), []).append(violation)
                outcomes["VIOLATION"] += 1
    seconds = time.perf_counter() - began
    for place, found in violations.items():
        if given.traces:
            traceback.print_exception(found[0])
        print(f"{len(found):8,} x {place}\n           {found[0]}")
    for outcome, count in outcomes.most_common():
        print(f"{count:8,} {outcome}")
    speed = f"{given.cases / seconds:.0f} per second"
    print(f"{given.cases:8,} cases from seed {given.seed} in {seconds:.0f} s: {speed}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
