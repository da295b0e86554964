"""
A reply's text, as it comes → text to show, and the calls in it.

Decisions are taken once, for streamed and whole replies alike: what may still become a call is held back;
what can't is let go at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from llama_agent.coercion import coerce, fits
from llama_agent.model.formats import Registry, read_strong, read_weak, registry, renamed
from llama_agent.model.formats.cursor import (
    CONTROL_TOKENS,
    MOST_CALLS,
    Found,
    Offered,
    TextCall,
    Unread,
    end_of_blanks,
)

AFTER_PROSE = "after_prose"
_CONTROL = re.compile(rf"(?:\s*{CONTROL_TOKENS.pattern})+")
_CONTROL_AT_END = re.compile(rf"(?:{CONTROL_TOKENS.pattern})\Z")
_LONGEST_CONTROL = 20
_JSON = re.compile(r"\{\s*\"|\[\s*[{\[\"\d]")
_THINK = re.compile(r"<(think|thinking)>")
_BEGINNINGS = frozenset(
    tag[:length]
    for tag in ("<think>", "<thinking>", "</think>", "</thinking>")
    for length in range(1, len(tag))
)
_FENCE = r"^[ \t>]*(?:[-*+] +|\d{1,3}[.)] +)?(?P<fence>`{3,}(?=[^`\n]*(?:\n|\Z))|~{3,})"
_LINE_BEGUN = re.compile(r"(?:\n[ \t]*)?\n[ \t>]*(?:[-*+] *|\d{1,3}[.)]? *)?[`~]*\Z|`+\Z")
_CONTROL_BEGUN = re.compile(rf"(?:\s|{CONTROL_TOKENS.pattern})*(?:<(?:\|[a-z_]{{0,12}}\|?)?)?\Z")
_TAIL = 200
"""Characters at the end of the text in which a line's beginning is looked for."""
_NOTHING = re.compile(r"(?!)")
_LONGEST_TICKS = 20
_MOST_CUTS = 8
"""Markers behind which nothing is whole, after which no further one is looked at."""
_EXAMINED_ALWAYS = 512
"""Characters up to which held-back text is looked at with each piece; beyond, when a quarter has joined."""


@dataclass(frozen=True)
class _Block:
    """Calls, and their text."""

    found: Found
    text: str


@dataclass(frozen=True)
class _Patterns:
    """What is looked for in a text, and within inline code."""

    anywhere: re.Pattern[str]
    in_code: re.Pattern[str]
    in_json: re.Pattern[str]
    beginnings: frozenset[str]
    longest: int


class TextReader:
    """
    Reads one reply.

    :param offered: Tools on offer.
    :param is_echo: Whether a block of calls only repeats what the model was shown, and is text.
    :param after_prose: Whether an untagged call behind prose counts: the last thing of the message, on a line
        of its own, its arguments fitting.
    """

    def __init__(
        self,
        offered: Offered,
        is_echo: Callable[[Found, str], bool] = lambda found, block: False,
        *,
        after_prose: bool = False,
    ) -> None:
        self.echoes: list[Found] = []
        self._is_echo = is_echo
        self._offered = offered
        self._formats = registry()
        self._patterns = _patterns_of(self._formats, after_prose)
        self._text = "\n"  # so that the first line begins behind a line end, as the others do
        self._at: int = 1
        self._joining: list[str] = []
        self._held = 0
        self._look_again = 0
        self._is_all = False
        self._at_start = True
        self._ending: re.Pattern[str] | None = None
        """What ends the thinking or the fence that the text is in."""
        self._depth = 0
        """Brackets that are open in JSON that is no call."""
        self._is_quoted = False
        self._cuts = self._calls = 0
        self._ticks = 0
        """Length of the run of backticks that opened inline code."""
        self._kept: list[str | _Block] = []
        self._has_blocks = False
        self._is_behind_block = False

    @property
    def found(self) -> list[Found]:
        """The blocks of calls; all of them once the reply is over."""
        return [piece.found for piece in self._kept if isinstance(piece, _Block)]

    def calls_from(self, first: int) -> list[TextCall]:
        """
        Calls of the blocks so far.

        :param first: Where to begin.
        :returns: They, in the reply's order.
        """
        if not self._has_blocks:
            return []
        return [call for found in self.found for call in found.calls][first:]

    @property
    def outside(self) -> str:
        """The text without the calls; once the reply is over."""
        return "".join(piece for piece in self._kept if isinstance(piece, str))

    def feed(self, piece: str) -> str:
        """
        Take the next piece.

        :param piece: Any number of characters.
        :returns: What can be shown now.
        """
        self._joining.append(piece)
        self._held += len(piece)
        return "" if _EXAMINED_ALWAYS < self._held < self._look_again else self._read()

    def end(self) -> str:
        """
        The reply is over.

        :returns: The rest that is to be shown.
        """
        self._is_all = True
        return self._read()

    def _read(self) -> str:
        self._text += "".join(self._joining)
        self._joining.clear()
        if self._is_all:
            self._text = _without_control_at_end(self._text)
        shown_before = len(self._kept)
        while self._at < len(self._text) and self._step():
            pass
        # One character stays, by which the beginning of a line is known.
        self._text, self._at = self._text[self._at - 1 :], 1
        self._held = len(self._text) - 1
        self._look_again = self._held * 5 // 4
        return "".join(piece for piece in self._kept[shown_before:] if isinstance(piece, str))

    def _step(self) -> bool:
        """Settle the next stretch of text; False when that takes more text."""
        if self._ending is not None:
            return self._within(self._ending)
        if self._ticks:
            return self._in_code()
        if self._depth:
            return self._in_json()
        return self._start() if self._at_start else self._anywhere()

    def _start(self) -> bool:
        """Where the message begins, thinking aside: an untagged call may stand here."""
        begin = self._at
        first = end_of_blanks(self._text, begin)
        rest = self._text[first : first + _LONGEST_CONTROL]
        if not self._is_all and (rest in _BEGINNINGS or _CONTROL_BEGUN.fullmatch(rest)):
            return False
        if thinking := _THINK.match(self._text, first):
            return self._enter(re.compile(rf"</{thinking[1]}>\s*"), thinking.end())
        found = read_weak(self._text, first, self._offered, is_all=self._is_all)
        if isinstance(found, Unread) and found.is_unfinished:
            return False
        self._at_start = False
        if CONTROL_TOKENS.search(self._text, begin, first):
            self._at = first  # leaked, and no part of the text
        if isinstance(found, Found):
            self._let_go(first)
            self._take(first, found)
        elif _JSON.match(self._text, first):
            self._let_go(first)
            self._depth = 1
            self._let_go(first + 1)
        return True

    def _in_json(self) -> bool:
        """Within JSON that is no call: what stands in its strings is none either."""
        held = 0 if self._is_quoted else self._held_at_end()
        end = len(self._text) - held
        place = self._at
        for match in self._patterns.in_json.finditer(self._text, self._at, end):
            mark, place = match[0], match.end()
            if mark == '"':
                self._is_quoted = not self._is_quoted
            elif self._is_quoted:
                if mark == "\n":  # no string of JSON goes on there
                    self._depth = 0
            elif match["marker"]:
                return self._strong(match.start(), match["marker"])
            elif mark in "{[]}":
                self._depth += 1 if mark in "{[" else -1
            if self._depth == 0:
                self._is_quoted = False
                self._let_go(place)
                return True
        if self._text[end - 1] == "\\" and place < end and not self._is_all:
            end -= 1
        self._let_go(end)
        return False

    def _between_blocks(self) -> bool:
        """What stands behind a block: control tokens, and white space before the next one, are no text."""
        if control := _CONTROL.match(self._text, self._at):
            self._at = control.end()
        first = end_of_blanks(self._text, self._at)
        if first == len(self._text) and self._is_all:
            self._at = first
        elif self._may_begin(first):
            return False
        self._is_behind_block = False
        marker = self._patterns.anywhere.match(self._text, first)
        if marker and marker["marker"]:
            self._at = first
        return True

    def _may_begin(self, place: int) -> bool:
        """Whether what comes at a place, the end of the text, may be a marker or a control token."""
        rest = self._text[place : place + max(_LONGEST_CONTROL, self._patterns.longest)]
        may_grow = not self._is_all and place + len(rest) == len(self._text)
        return may_grow and (rest in self._patterns.beginnings or bool(_CONTROL_BEGUN.fullmatch(rest)))

    def _anywhere(self) -> bool:
        if self._is_behind_block:
            return self._between_blocks()
        match = self._patterns.anywhere.search(self._text, self._at)
        if match is None:
            self._let_go(len(self._text) - self._held_at_end())
            return False
        if match["marker"]:
            return self._strong(match.start(), match["marker"])
        if match["fence"]:
            return self._fence(match)
        if match["think"]:
            return self._enter(re.compile(rf"</{match['think']}>\s*"), match.end())
        if match["thought"]:
            return self._thought(match.end())
        if match["ticks"]:
            return self._open_code(match)
        return self._untagged(match)

    def _strong(self, begin: int, marker: str) -> bool:
        format_ = self._formats.by_marker[marker]
        found = read_strong(format_, self._text, begin, self._offered, is_all=self._is_all)
        self._let_go(begin)
        if isinstance(found, Found):
            self._take(begin, found)
        elif found.is_unfinished:
            return False
        else:
            self._cuts += found.is_cut
            self._let_go(found.end or begin + len(marker) if self._cuts < _MOST_CUTS else len(self._text))
        return True

    def _untagged(self, match: re.Match[str]) -> bool:
        begin = match.end() - 1
        found = read_weak(self._text, begin, self._offered, is_all=self._is_all)
        self._let_go(match.start())
        if isinstance(found, Found):
            behind = end_of_blanks(self._text, found.end)
            is_last = behind == len(self._text)
            if self._may_begin(behind):
                return False
            if is_last and all(self._fits(call.name, call.arguments) for call in found.calls):
                self._take(begin, renamed(found, AFTER_PROSE))
                return True
        elif found.is_unfinished:
            return False
        else:
            self._cuts += found.is_cut
        end = found.end or match.end()
        self._let_go(end if self._cuts < _MOST_CUTS else len(self._text))
        return True

    def _fits(self, name: str, arguments: object) -> bool:
        schema = self._offered.schema(name)
        return isinstance(arguments, dict) and fits(coerce(arguments, schema), schema, schema)  # pyright: ignore[reportUnknownArgumentType]

    def _fence(self, match: re.Match[str]) -> bool:
        line_end = self._text.find("\n", match.end())
        if line_end < 0 and not self._is_all:
            self._let_go(match.start())
            return False
        mark = match["fence"]
        ending = re.compile(rf"^[ \t>]*{mark[0]}{{{len(mark)},}}[ \t]*$", re.MULTILINE)
        return self._enter(ending, match.end() if line_end < 0 else line_end)

    def _enter(self, ending: re.Pattern[str], at: int) -> bool:
        self._ending = ending
        self._let_go(at)
        return True

    def _within(self, ending: re.Pattern[str]) -> bool:
        """Thinking, or a fence."""
        match = ending.search(self._text, self._at)
        if match is not None and (self._is_all or match.end() < len(self._text)):
            self._ending = None
            self._let_go(match.end())
            return True
        if self._is_all:
            self._let_go(len(self._text))
        elif match is not None:
            self._let_go(match.start())
        else:
            self._let_go(len(self._text) - self._held_at_end())
        return False

    def _thought(self, end: int) -> bool:
        """The end of thinking whose beginning was in the prompt: what came before it were thoughts."""
        if self._has_blocks:
            self._kept = [piece.text if isinstance(piece, _Block) else piece for piece in self._kept]
            self._has_blocks = False
        self._let_go(end)
        self._at_start = True
        return True

    def _open_code(self, match: re.Match[str]) -> bool:
        if match.end() == len(self._text) and not self._is_all:
            self._let_go(len(self._text) - self._held_at_end())  # maybe a fence, from its line's beginning on
            return False
        self._let_go(match.end())
        self._ticks = len(match["ticks"]) if len(match["ticks"]) <= _LONGEST_TICKS else 0
        return True

    def _in_code(self) -> bool:
        """Inline code, if the paragraph closes it; else a backtick and nothing more."""
        marker = None
        for match in self._patterns.in_code.finditer(self._text, self._at):
            if match["marker"]:
                marker = match.start() if marker is None else marker
            elif match.end() == len(self._text) and not self._is_all:
                break
            elif match["blank"] or len(match["ticks"]) == self._ticks:
                self._ticks = 0
                is_code = bool(match["ticks"])
                self._let_go(match.end() if is_code else match.start() if marker is None else marker)
                return True
        if self._is_all:
            self._ticks = 0
            self._let_go(len(self._text) if marker is None else marker)
            return True
        self._let_go(len(self._text) - self._held_at_end() if marker is None else marker)
        return False

    def _held_at_end(self) -> int:
        """How much at the end of the text may be the beginning of something."""
        if self._is_all:
            return 0
        text = self._text
        begun = _LINE_BEGUN.search(text, max(self._at - 1, len(text) - _TAIL))
        held = len(text) - max(begun.start(), self._at) if begun else 0
        if "<" in text[-_TAIL:] and (token := _CONTROL_BEGUN.search(text, max(self._at, len(text) - _TAIL))):
            held = max(held, len(text) - token.start())
        for length in range(min(self._patterns.longest, len(text) - self._at), held, -1):
            if text[-length:] in self._patterns.beginnings:
                return length
        return held

    def _take(self, begin: int, found: Found) -> None:
        self._at = found.end
        block = self._text[begin : found.end]
        self._calls += len(found.calls)
        if self._is_echo(found, block):
            self.echoes.append(found)
            self._kept.append(block)
        else:
            self._kept.append(_Block(found, block))
            self._has_blocks = self._is_behind_block = True
        if self._calls >= MOST_CALLS:
            self._ending = _NOTHING

    def _let_go(self, end: int) -> None:
        if end > self._at:
            self._kept.append(self._text[self._at : end])
            self._at = end


@cache
def _patterns_of(formats: Registry, after_prose: bool) -> _Patterns:
    untagged = r"|(?P<untagged>(?<=\n)[ \t]*[{\[])" if after_prose else ""
    anywhere = (
        rf"(?P<marker>{formats.marker})|{_FENCE}|(?P<ticks>`+)|<(?P<think>think(?:ing)?)>"
        rf"|(?P<thought></think(?:ing)?>\s*){untagged}"
    )
    in_code = rf"(?P<marker>{formats.marker})|(?P<ticks>`+)|(?P<blank>\n[ \t]*\n)"
    in_json = rf"(?P<marker>{formats.marker})|\\.|[\"\n{{}}\[\]]"
    beginnings = formats.beginnings | _BEGINNINGS
    return _Patterns(
        re.compile(anywhere, re.MULTILINE),
        re.compile(in_code),
        re.compile(in_json),
        beginnings,
        max(map(len, beginnings)),
    )


def _without_control_at_end(text: str) -> str:
    """The text without the tokens that end a turn, and white space between them."""
    kept, end = len(text), len(text)
    while end > 1:
        if text[end - 1].isspace():
            end -= 1
        elif match := _CONTROL_AT_END.search(text, max(1, end - _LONGEST_CONTROL), end):
            kept = end = match.start()
        else:
            break
    return text[:kept]
