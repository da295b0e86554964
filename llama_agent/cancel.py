"""Telling code in another thread or task that its work is no longer wanted."""

from __future__ import annotations

import threading


class CancelToken:
    """
    Says whether a run was broken off. A tool that works for long looks at it now and then, and stops.

    Once cancelled, it stays so. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the work is no longer wanted."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Say that the work is no longer wanted."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """
        Sleep, but wake up when cancelled.

        :param seconds: Longest time to sleep.
        :returns: Whether it is cancelled.
        """
        return self._event.wait(seconds)
