"""When a failed model request is sent again, and how long to wait before."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import cast

import tenacity
from tenacity.stop import StopBaseT

from llama_agent.cancel import pause
from llama_agent.errors import ConfigurationError, EndpointError
from llama_agent.events import RetryScheduled, emit


@dataclass(frozen=True)
class RetryPolicy:
    """
    How often and after which waits a failed request is sent again.

    :param max_retries: Further attempts after the first: n retries are n+1 attempts.
    :param initial_wait: Upper bound of the first wait, in seconds; it doubles with each attempt.
    :param max_wait: Upper bound of any wait of ours, in seconds. A server's Retry-After may be longer.
    :param max_retry_after: Longest wait that a server may ask for, in seconds; a longer one ends the retries.
    :param deadline: Seconds for all attempts of one model request and the waits between; no wait is begun
        that would end after it. None for no bound.
    :param attempt_timeout: Seconds that one attempt may take as a whole, however steadily the server sends.
        None for no bound.
    :raises ConfigurationError: A number is out of range.
    """

    max_retries: int = 5
    initial_wait: float = 0.5
    max_wait: float = 20.0
    max_retry_after: float = 300.0
    deadline: float | None = None
    attempt_timeout: float | None = None

    def __post_init__(self) -> None:
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise ConfigurationError(
                f"max_retries must be a whole number of 0 or more, not {self.max_retries!r}"
            )
        for name in ("initial_wait", "max_wait", "max_retry_after", "deadline", "attempt_timeout"):
            seconds = getattr(self, name)
            bound_wanted = name in ("deadline", "attempt_timeout")
            if seconds is None and bound_wanted:
                continue
            if not isinstance(seconds, int | float) or not seconds >= 0 or (bound_wanted and not seconds):
                raise ConfigurationError(f"{name} must be a number of seconds, not {seconds!r}")

    def wait_before(self, attempt: int, error: EndpointError) -> float:
        """
        Seconds to wait before the next attempt.

        :param attempt: Number of attempts made so far, from 1.
        :param error: Why the last one failed. Its `retry_after`, when given, is the lower bound.
        :returns: Seconds: full jitter below an exponentially growing bound, so that many clients spread out.
        """
        bound = min(self.max_wait, self.initial_wait * 2 ** min(attempt - 1, 32))
        return (error.retry_after or 0.0) + random.uniform(0, bound)

    def should_retry(self, error: BaseException) -> bool:
        """
        Whether another attempt makes sense.

        :param error: Why the last one failed.
        :returns: True for faults that may pass by themselves.
        """
        return (
            isinstance(error, EndpointError)
            and error.retryable
            and (error.retry_after or 0.0) <= self.max_retry_after
        )

    def retrying(self) -> tenacity.Retrying:
        """
        A tenacity controller for sync requests.

        :returns: Iterate over it; each attempt is a context manager.
        """
        return tenacity.Retrying(
            stop=self._stop(),
            wait=self._wait,
            retry=tenacity.retry_if_exception(self.should_retry),
            before_sleep=_tell,
            sleep=pause,
            reraise=True,
        )

    def retrying_async(self) -> tenacity.AsyncRetrying:
        """
        A tenacity controller for async requests.

        :returns: Iterate over it with `async for`; each attempt is a context manager.
        """
        return tenacity.AsyncRetrying(
            stop=self._stop(),
            wait=self._wait,
            retry=tenacity.retry_if_exception(self.should_retry),
            before_sleep=_tell,
            reraise=True,
        )

    def _stop(self) -> StopBaseT:
        attempts = tenacity.stop_after_attempt(self.max_retries + 1)
        return attempts if self.deadline is None else attempts | tenacity.stop_before_delay(self.deadline)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        return self.wait_before(state.attempt_number, _error_of(state))


def within(policy: RetryPolicy, seconds: float) -> RetryPolicy:
    """
    A policy for a request that has only so much time.

    :param policy: The usual one.
    :param seconds: What is left.
    :returns: The same, with its deadline and the limit of an attempt no later than that.
    """
    limits = {
        name: seconds if (usual := getattr(policy, name)) is None else min(usual, seconds)
        for name in ("deadline", "attempt_timeout")
    }
    return replace(policy, **limits)


def check_policy(given: object) -> None:
    """
    Make sure that what was given as `retry=` is a policy.

    :param given: What a caller passed; None for none.
    :raises ConfigurationError: It is something else.
    """
    if not isinstance(given, RetryPolicy | None):
        raise ConfigurationError(
            f"retry must be a RetryPolicy, such as RetryPolicy(max_retries=3), not {given!r}"
        )


def _tell(state: tenacity.RetryCallState) -> None:
    wait = state.next_action.sleep if state.next_action else 0.0
    emit(RetryScheduled, attempt=state.attempt_number, wait=wait, reason=str(_error_of(state)))


def _error_of(state: tenacity.RetryCallState) -> EndpointError:
    return cast("EndpointError", state.outcome.exception() if state.outcome else None)
