"""What a server's headers say of its rate limits: how long to wait, and how much is left."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

_PREFIX = "x-ratelimit-"
_RESET, _REMAINING = "x-ratelimit-reset-", "x-ratelimit-remaining-"
_NUMBER = r"(\d{1,9}(?:\.\d{0,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
Kind = Literal["requests", "tokens"]
"""What servers count."""
# A number of seconds that large is no wait, but a time.
_SECONDS_SINCE_1970 = 1e9
_MILLISECONDS_SINCE_1970 = 1e12


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
        now = datetime.fromtimestamp(time.time(), UTC)
        return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds())
    except (ValueError, OverflowError):  # a year or an offset that no date has
        return None


def wait_asked_for(headers: Mapping[str, str], *, limited: bool) -> float | None:
    """
    How long a server asks to be left alone.

    :param headers: Of its response, names in any case: `Retry-After`, `retry-after-ms` (OpenAI), else the
        `x-ratelimit-reset-*` of what is used up.
    :param limited: Whether a limit was hit (status 429): then the soonest reset counts, where no header says
        what is used up.
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
    if used_up:
        return max(used_up)
    return min(resets.values(), default=None) if limited else None


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


def remaining_in(headers: Mapping[str, str]) -> dict[Kind, tuple[int, float | None]]:
    """
    What a server has left for us.

    :param headers: Of its response, names in any case: `x-ratelimit-remaining-requests` and `-tokens`, maybe
        with something behind (Cerebras: `-tokens-minute`), or without either (Together, OpenRouter).
    :returns: For each kind how many, and the seconds until there are more, or None when it doesn't say. Of
        several of one kind the smallest.
    """
    given = {name.lower(): value for name, value in headers.items() if name.lower().startswith(_PREFIX)}
    found: dict[Kind, tuple[int, float | None]] = {}
    for name, value in given.items():
        if not name.startswith(_REMAINING.rstrip("-")) or not value.strip().isdecimal() or len(value) > 18:
            continue
        what = name.removeprefix(_REMAINING.rstrip("-"))
        kind: Kind = "tokens" if what.startswith("-tokens") else "requests"
        left = (int(value), reset_seconds(given.get(_RESET.rstrip("-") + what, "")))
        if kind not in found or left[0] < found[kind][0]:
            found[kind] = left
    return found
