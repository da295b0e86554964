"""When a failed model request is sent again, and how long to wait before."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import cast

import tenacity

from llama_agent.errors import EndpointError
from llama_agent.events import RetryScheduled, emit

RETRYABLE_STATUS = frozenset({408, 409, 429})
"""
Client-error statuses that may pass by themselves; every 5xx is one too, except those of `REQUEST_FAULTS`.
"""

REQUEST_FAULTS = ("failed to parse tool call arguments", "jinja", "raise_exception", "tools param")
"""Texts of llama.cpp's status 500 that blame the request: waiting never helps (ggml-org/llama.cpp#25510)."""


@dataclass(frozen=True)
class RetryPolicy:
    """
    How often and after which waits a failed request is sent again.

    :param max_retries: Further attempts after the first: n retries are n+1 attempts.
    :param initial_wait: Upper bound of the first wait, in seconds; it doubles with each attempt.
    :param max_wait: Upper bound of any wait of ours, in seconds. A server's Retry-After may be longer.
    :param max_retry_after: Longest Retry-After that is waited for, in seconds; a longer one ends the retries.
    """

    max_retries: int = 5
    initial_wait: float = 0.5
    max_wait: float = 20.0
    max_retry_after: float = 300.0

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
            stop=tenacity.stop_after_attempt(self.max_retries + 1),
            wait=self._wait,
            retry=tenacity.retry_if_exception(self.should_retry),
            before_sleep=_tell,
            reraise=True,
        )

    def retrying_async(self) -> tenacity.AsyncRetrying:
        """
        A tenacity controller for async requests.

        :returns: Iterate over it with `async for`; each attempt is a context manager.
        """
        return tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.max_retries + 1),
            wait=self._wait,
            retry=tenacity.retry_if_exception(self.should_retry),
            before_sleep=_tell,
            reraise=True,
        )

    def _wait(self, state: tenacity.RetryCallState) -> float:
        return self.wait_before(state.attempt_number, _error_of(state))


def retry_after_seconds(value: str | None) -> float | None:
    """
    Read a Retry-After header (RFC 9110, section 10.2.3).

    :param value: Seconds, or an HTTP date; None when the header is missing.
    :returns: Seconds from now, at least 0; None when there is none that can be read.
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    now = datetime.fromtimestamp(time.time(), UTC)
    return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds())


def is_retryable(status: int, body: str) -> bool:
    """
    Whether an HTTP error may pass by itself.

    :param status: HTTP status.
    :param body: The response's body.
    :returns: True for 408, 409, 429 and 5xx, unless the body blames the request.
    """
    if status >= 500:
        lowered = body.lower()
        return not any(fault in lowered for fault in REQUEST_FAULTS)
    return status in RETRYABLE_STATUS


def _tell(state: tenacity.RetryCallState) -> None:
    wait = state.next_action.sleep if state.next_action else 0.0
    emit(RetryScheduled, attempt=state.attempt_number, wait=wait, reason=str(_error_of(state)))


def _error_of(state: tenacity.RetryCallState) -> EndpointError:
    return cast("EndpointError", state.outcome.exception() if state.outcome else None)
