"""When a failed model request is sent again, and how long to wait before."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import cast

import tenacity
from tenacity.stop import StopBaseT

from llama_agent.errors import ConfigurationError, EndpointError
from llama_agent.events import RetryScheduled, emit

RETRYABLE_STATUS = frozenset({408, 409, 429})
"""
Client-error statuses that may pass by themselves; every 5xx is one too, except those of `REQUEST_FAULTS`.
"""

_RESET, _REMAINING = "x-ratelimit-reset-", "x-ratelimit-remaining-"
_NUMBER = r"(\d{1,9}(?:\.\d{0,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
_LASTING = re.compile(
    r"not.?found|no such|does.?n.?t exist|invalid|unauthori[sz]ed|forbidden|unsupported|not supported|quota"
    r"|credit|billing|api.?key",
    re.IGNORECASE,
)
# A number of seconds that large is no wait, but a time.
_SECONDS_SINCE_1970 = 1e9
_MILLISECONDS_SINCE_1970 = 1e12

TOO_LARGE = "request too large"
"""Groq's status 429 for a request beyond the whole limit of a minute: waiting never helps."""

REQUEST_FAULTS = ("failed to parse tool call arguments", "jinja", "raise_exception", "tools param")
"""Texts of llama.cpp's status 500 that blame the request: waiting never helps (ggml-org/llama.cpp#25510)."""


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
    :param attempt_timeout: Seconds that one attempt may take as a whole, however steadily it sends; looked at
        whenever bytes arrive. None for no bound.
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


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """
    How long a server asks to be left alone.

    :param headers: Of its response, names in any case: `Retry-After`, `retry-after-ms` (OpenAI), else the
        `x-ratelimit-reset-*` of what is used up.
    :returns: Seconds from now; None when it doesn't say.
    """
    given = {name.lower(): value for name, value in headers.items()}
    if (wait := _milliseconds(given.get("retry-after-ms"))) is not None:
        return wait
    if (wait := retry_after_seconds(given.get("retry-after"))) is not None:
        return wait
    resets = {
        name.removeprefix(_RESET): wait
        for name, value in given.items()
        if name.startswith(_RESET) and (wait := reset_seconds(value)) is not None
    }
    used_up = [wait for kind, wait in resets.items() if given.get(_REMAINING + kind, "").strip() == "0"]
    return max(used_up) if used_up else min(resets.values(), default=None)


def reset_seconds(value: str) -> float | None:
    """
    Read an `x-ratelimit-reset-*` header, in the forms that servers write.

    :param value: `1.5s`, `6m0s`, `120ms`, `1h2m3s` (OpenAI, Groq), seconds, seconds since 1970 in seconds or
        milliseconds (OpenRouter), or an ISO 8601 time.
    :returns: Seconds from now, at least 0; None when it is none of these.
    """
    text = value.strip().lower()
    if (match := _DURATION.fullmatch(text)) and text:
        days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + milliseconds / 1000
    try:
        number = float(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        number = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):
        return None
    if number > _MILLISECONDS_SINCE_1970:
        number /= 1000
    return max(0.0, number - time.time() if number > _SECONDS_SINCE_1970 else number)


def _milliseconds(value: str | None) -> float | None:
    try:
        wait = float(value or "") / 1000
    except ValueError:
        return None
    return wait if math.isfinite(wait) and wait >= 0 else None


def blames_the_request(text: str) -> bool:
    """
    Whether an error that came without a status says that the request itself can't work.

    :param text: What the server said, codes and all.
    :returns: True for a model that isn't there, a key that isn't known, credit that is used up, and the like.
    """
    return bool(_LASTING.search(text))


def is_retryable(status: int, body: str) -> bool:
    """
    Whether an HTTP error may pass by itself.

    :param status: HTTP status.
    :param body: The response's body.
    :returns: True for 408, 409, 429 and 5xx, unless the body blames the request or its size.
    """
    if status >= 500:
        lowered = body.lower()
        return not any(fault in lowered for fault in REQUEST_FAULTS)
    if status == 429 and TOO_LARGE in body.lower():
        return False
    return status in RETRYABLE_STATUS


def _tell(state: tenacity.RetryCallState) -> None:
    wait = state.next_action.sleep if state.next_action else 0.0
    emit(RetryScheduled, attempt=state.attempt_number, wait=wait, reason=str(_error_of(state)))


def _error_of(state: tenacity.RetryCallState) -> EndpointError:
    return cast("EndpointError", state.outcome.exception() if state.outcome else None)
