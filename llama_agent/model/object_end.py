"""The end of a JSON object that comes in pieces, found by looking at each character once."""

from __future__ import annotations

import re

_MARKS = re.compile(r"[\\\"{}\[\]]")


class ObjectEnd:
    """`reached` says whether the pieces so far are one object, closed, with nothing but blanks behind it."""

    def __init__(self) -> None:
        self.reached = False
        self._closed = False
        self._depth = 0
        self._in_string = False
        self._skip = 0

    def feed(self, piece: str) -> None:
        """
        Take the next piece.

        :param piece: Any number of characters.
        """
        if self._closed:
            self.reached = self.reached and not piece.strip()
            return
        for match in _MARKS.finditer(piece):
            place, mark = match.start(), match[0]
            if place < self._skip:
                continue
            if mark == "\\":
                self._skip = place + 2  # whatever it escapes
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark in "{[" else -1
                if self._depth <= 0:
                    self._closed = True
                    self.reached = mark == "}" and not piece[place + 1 :].strip()
                    return
        self._skip = max(0, self._skip - len(piece))
