"""
Python's `logging`, without secrets: loggers `llama_agent.…`, one per module.

They are quiet by default: a record goes where the program's own logging sends it, and nowhere without any.
"""

from __future__ import annotations

import logging
import traceback
from types import TracebackType

from llama_agent.redaction import redact

# Else Python prints warnings of its own accord.
logging.getLogger("llama_agent").addHandler(logging.NullHandler())


def logger_of(name: str) -> logging.Logger:
    """
    A logger whose records hold no secrets.

    :param name: The module's.
    :returns: The logger.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(known, _Redacting) for known in logger.filters):
        logger.addFilter(_Redacting())
    return logger


class _Redacting(logging.Filter):
    """Takes secrets out of a record: its message, and its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # a wrong format: logging must never raise where it is called
            text = f"{record.msg} {record.args}"
        record.msg, record.args = _clean(text), None
        if record.exc_info:
            # The exception itself would show them to handlers that look into it.
            record.exc_text, record.exc_info = _clean(_text_of(record.exc_info)), None
        elif record.exc_text:
            record.exc_text = _clean(record.exc_text)
        return True


def _clean(text: str) -> str:
    # Half a character can't be written to a file, and a handler would say so instead of the record.
    return redact(text).encode("utf-8", "backslashreplace").decode()


def _text_of(
    raised: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
) -> str:
    return "".join(traceback.format_exception(*raised)).rstrip()
