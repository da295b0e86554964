"""The one function that takes secrets out of texts before they are logged, raised or shown."""

from __future__ import annotations

import re
import threading

_MASK = "***"
_known: set[str] = set()
_known_lock = threading.Lock()

# Bounded repeats only: these run over untrusted text.
_PATTERNS = (
    # A header by its name; or a scheme before what looks like a credential, and not like a word.
    (
        re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer |basic )?)[^\s\"',]{1,4096}"),
        r"\1" + _MASK,
    ),
    (
        re.compile(r"(?i)\b(bearer|basic)\s+(?=[^\s\d]{0,256}\d)[A-Za-z0-9._~+/=-]{8,4096}"),
        r"\1 " + _MASK,
    ),
    (
        re.compile(r"(?i)([?&](?:api[_-]?key|key|token|access_token|sig|signature)=)[^&\s\"'<>]{1,4096}"),
        r"\1" + _MASK,
    ),
    (re.compile(r"(?i)(://)[^/\s:@]{1,256}:[^/\s@]{1,256}@"), r"\1" + _MASK + "@"),
)


def remember_secret(value: str) -> None:
    """
    Have `redact` mask this value from now on.

    :param value: A resolved secret. Values below 6 characters aren't remembered: masking them would tear
        ordinary words apart.
    """
    if len(value) >= 6:
        with _known_lock:
            _known.add(value)


def redact(text: str, *, limit: int | None = None) -> str:
    """
    Mask secrets in a text: remembered values, authorization values, keys in URLs.

    :param text: Any text.
    :param limit: Most characters to keep. It is cut afterwards: cut before, half a secret would go unnoticed.
    :returns: The text with each secret replaced by `***`.
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text[:limit]
