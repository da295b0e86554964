"""What the formats read with: a place in a reply's text, and what was found up to there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from haystack.tools.tool import Tool

from llama_agent.lenient_json import NotJson, is_text, object_of, read_json
from llama_agent.tool_names import offered_name

Json: TypeAlias = dict[str, Any]

CUT = "The call was cut off before its end. Send it again, in smaller parts if its arguments are long."
_BROKEN = "The call could not be read: its JSON is broken. Send it again, with one complete JSON object."
CONTROL_TOKENS = re.compile(r"<\|(?:eom_id|eot_id|eot|eom|python_end|end_of_text|im_end)\|>")
"""Tokens that end a turn; some servers leave them in the text."""
_BLANKS = re.compile(rf"(?:\s|{CONTROL_TOKENS.pattern})*+")
_LONGEST_TOKEN = 16
MOST_CALLS = 128
"""In one reply; a model that writes more has lost its way."""
_TWO_OBJECTS = "There is a second object behind the arguments. Send the call again, with one JSON object."
_GLUE = re.compile(r"[\s,;]*")
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=object_of)
_HEAD_CHARACTERS = 256
"""A format's head, names included, is shorter than this."""
_DEEPEST = 60
_BRACKETS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\\?\Z)'
    r"|'''(?:[^'\\]|\\.|'(?!''))*+(?:'''|\\?\Z)"
    r'|"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
    r"|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)"
    r"|[\[\](){}]",
    re.DOTALL,
)
_HEAD = re.compile(
    r"\{\s*(?:[\"']type[\"']\s*:\s*[\"']function[\"']\s*,\s*)?(?:[\"']function[\"']\s*:\s*\{\s*)?"
    r"[\"'](?:name|tool_name)[\"']\s*:\s*[\"'](?P<name>[^\"'\\]{1,128})[\"']\s*,\s*"
    r"[\"'](?:parameters|arguments)[\"']\s*:\s*"
)
_SCHEMA_BEGUN = re.compile(r"\{\s*[\"'](?:type[\"']\s*:\s*[\"']object[\"']|properties[\"']\s*:\s*\{)")
_CLOSERS = re.compile(r"(?:[\s}\]]|```|</\w{1,20}>|<\|[a-z_]{1,20}\|>)*+\Z")


@dataclass(frozen=True)
class TextCall:
    """
    A call that was written as text.

    :param name: The offered tool that is meant.
    :param arguments: An object, or the text of one; what stood there when there is an error.
    :param source: The call's own text, by which an echo is known; empty where only its mark makes it one.
    :param error: Why it can't run, for the model; None when it can.
    """

    name: str
    arguments: str | Mapping[str, Any]
    source: str
    error: str | None = None


@dataclass(frozen=True)
class Found:
    """
    A block of calls in a text.

    :param calls: At least one.
    :param end: Where the text goes on.
    :param format: Name of the format.
    """

    calls: tuple[TextCall, ...]
    end: int
    format: str = ""


@dataclass(frozen=True)
class Unread:
    """
    What stands at a place is no block of calls.

    :param is_unfinished: It may become one with the text that follows.
    :param is_cut: The whole text ends before it can be said what it is.
    :param end: Where to look on; None for right behind the marker.
    """

    is_unfinished: bool = False
    is_cut: bool = False
    end: int | None = None


class Cut(Exception):
    """The text ends before the call does."""


class NoCall(Exception):
    """
    What stands here is no call.

    :param end: Where to look on; None for right behind the marker.
    """

    def __init__(self, end: int | None = None) -> None:
        super().__init__()
        self.end = end


class Offered:
    """
    The tools on offer.

    :param tools: Any Haystack tools.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._schemas: dict[str, Json] = {tool.name: tool.parameters for tool in tools}

    @property
    def names(self) -> Iterable[str]:
        """Their names."""
        return self._schemas

    def name(self, written: str) -> str | None:
        """
        The tool that is meant.

        :param written: A name as the model wrote it.
        :returns: The offered name, or None.
        """
        return offered_name(written, self._schemas)

    def schema(self, name: str) -> Json:
        """
        Schema of a tool's arguments.

        :param name: Of an offered tool.
        :returns: The schema.
        """
        return self._schemas[name]

    def properties(self, name: str) -> Json:
        """
        A tool's parameters.

        :param name: Of an offered tool.
        :returns: Their schemas by name.
        """
        return cast("Json", self._schemas[name].get("properties") or {})


@dataclass
class Cursor:
    """
    A place in a text, which moves on as a format reads.

    :param text: The reply's text, as far as it has come.
    :param at: The place.
    :param offered: Tools on offer.
    :param is_all: Whether no more text will come.
    :param is_weak: Whether nothing but the call's own form says that it is one.
    """

    text: str
    at: int
    offered: Offered
    is_all: bool
    is_weak: bool = False
    calls: list[TextCall] = field(default_factory=list[TextCall])
    end: int = -1
    """Where the last whole call ended."""
    _open: tuple[str, int] | None = None
    _value_at: int | None = None

    def skip_blanks(self) -> None:
        """Move to the next character that isn't white space."""
        text, at = self.text, self.at
        while at < len(text) and text[at].isspace():
            at += 1
        self.at = at

    def peek(self) -> str:
        """
        The next character.

        :returns: It.
        :raises Cut: There is none.
        """
        if self.at >= len(self.text):
            raise Cut
        return self.text[self.at]

    def take(self, literal: str) -> bool:
        """
        Move past a text, if it comes next.

        :param literal: The text.
        :returns: Whether it did.
        :raises Cut: It can't be said yet.
        """
        if self.begins(literal):
            self.at += len(literal)
            return True
        return False

    def begins(self, *literals: str) -> bool:
        """
        Whether one of some texts comes next.

        :param literals: The texts.
        :returns: True when one does.
        :raises Cut: It can't be said yet.
        """
        if self.text.startswith(literals, self.at):
            return True
        rest = self.text[self.at : self.at + max(map(len, literals))]
        may_grow = not self.is_all and self.at + len(rest) == len(self.text)
        if may_grow and any(literal.startswith(rest) for literal in literals):
            raise Cut
        return False

    def match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """
        Move past a head.

        :param pattern: Matches less than 256 characters.
        :returns: The match.
        :raises NoCall: Something else comes next.
        :raises Cut: It can't be said yet.
        """
        found = pattern.match(self.text, self.at, self.at + _HEAD_CHARACTERS)
        may_grow = not self.is_all and len(self.text) - self.at < _HEAD_CHARACTERS
        if found is None:
            raise Cut if may_grow else NoCall
        if may_grow and found.end() == len(self.text):
            raise Cut
        self.at = found.end()
        return found

    def named(self, written: str) -> str:
        """
        The tool that is being called; from here to the end of its arguments.

        :param written: The name as the model wrote it.
        :returns: The offered name.
        :raises NoCall: There is no such tool.
        """
        if (name := self.offered.name(written)) is None:
            raise NoCall
        self._open = (name, self.at)
        return name

    def add(
        self, name: str, arguments: str | Mapping[str, Any], begin: int, error: str | None = None
    ) -> None:
        """
        A call has been read up to here.

        :param name: The offered tool.
        :param arguments: As in `TextCall`.
        :param begin: Where its source begins.
        :param error: As in `TextCall`.
        """
        self.add_from(self.text[begin : self.at], name, arguments, error)

    def add_from(
        self, source: str, name: str, arguments: str | Mapping[str, Any], error: str | None = None
    ) -> None:
        """
        A call has been read up to here.

        :param source: Its own text.
        :param name: The offered tool.
        :param arguments: As in `TextCall`.
        :param error: As in `TextCall`.
        """
        if len(self.calls) >= MOST_CALLS:
            raise NoCall(self.end if self.end > 0 else None)
        self.calls.append(TextCall(name, arguments, source, error))
        self._open, self.end = None, self.at

    def arguments_of(self, name: str, begin: int) -> None:
        """
        Read the object of a call's arguments, and add the call.

        :param name: The offered tool.
        :param begin: Where the call's source begins.
        :raises NoCall: There is something else.
        :raises Cut: The text ends before it does.
        """
        at = self.at
        value = self.value("{[\"'")
        self._value_at = None
        if self._goes_on():
            end = end_of_brackets(self.text, self.at)
            if end is None:
                raise Cut
            self.at = end
            self.add(name, self.text[at:end], begin, _TWO_OBJECTS)
        elif isinstance(value, Unreadable):
            self.add(name, self.text[at : self.at], begin, _BROKEN)
        elif isinstance(value, dict):
            self.add(name, cast("Json", value), begin)
        else:
            self.add(name, value if isinstance(value, str) else self.text[at : self.at], begin)

    def _goes_on(self) -> bool:
        """Whether a second object follows: then it can't be said which one is meant."""
        behind = _GLUE.match(self.text, self.at)
        place = behind.end() if behind else self.at
        if place >= len(self.text):
            if not self.is_all:
                raise Cut
            return False
        if self.text[place] != "{":
            return False
        self.at = place
        return True

    def value(self, starts: str = "{") -> object:
        """
        Move past a JSON value.

        :param starts: Characters that it may begin with.
        :returns: The value; `Unreadable` when brackets close and it is no JSON.
        :raises NoCall: It begins with another character.
        :raises Cut: The text ends before it does.
        """
        if self.peek() not in starts:
            raise NoCall
        self._value_at = self.at
        try:
            value, end = _DECODER.raw_decode(self.text, self.at)
        except (ValueError, RecursionError):
            end = end_of_brackets(self.text, self.at)
            if end is None:
                raise Cut from None
            try:
                value = read_json(self.text[self.at : end])
            except NotJson:
                value = Unreadable(self.text[self.at : end])
        source = self.text[self.at : end]
        if _is_deep(self.text, self.at, end) or (
            "\\ud" in source.lower() and not isinstance(value, Unreadable) and not is_text(value)
        ):
            value = Unreadable(self.text[self.at : end])
        self.at = end
        return cast("object", value)

    def value_done(self) -> None:
        """The value that was read last is whole: what is cut later isn't it."""
        self._value_at = None

    def close(self, *ends: str) -> None:
        """
        Move past white space and an end tag, where one comes; a model may leave it out.

        :param ends: The tags that it may be.
        :raises Cut: It can't be said yet.
        """
        place = self.at
        self.skip_blanks()
        if self.at >= len(self.text) and not self.is_all:
            raise Cut
        if not any(self.take(end) for end in ends):
            self.at = place

    def is_at_end(self) -> bool:
        """
        Whether nothing but white space and control tokens follows.

        :returns: True at the end of the whole text.
        :raises Cut: It can't be said yet.
        """
        behind = end_of_blanks(self.text, self.at)
        rest = self.text[behind : behind + _LONGEST_TOKEN]
        if not self.is_all and (not rest or (len(rest) < _LONGEST_TOKEN and rest.startswith("<"))):
            raise Cut
        return not rest

    def conclude_cut(self) -> None:
        """At the end of a text that was cut: what can be said of the call that isn't whole."""
        text = self.text
        if self._open is not None:
            name, at = self._open
            self.at = len(text)
            self.add(name, text[at:], at, CUT)
        elif self._value_at is not None:
            head = _HEAD.match(text, self._value_at)
            name = self.offered.name(head["name"]) if head else None
            if head is not None and name is not None and not self._is_definition(name, head.end()):
                self._conclude_value(name, self._value_at, head.end())
        self.at = len(text)

    def _is_definition(self, name: str, at: int) -> bool:
        """Whether it is the tool's schema that was being written down."""
        return is_definition_begun(self.text, at, self.offered.properties(name))

    def _conclude_value(self, name: str, begin: int, at: int) -> None:
        """A call whose own brackets aren't closed: whole arguments are enough (vllm-project/vllm#11786)."""
        try:
            arguments, end = _DECODER.raw_decode(self.text, at)
        except (ValueError, RecursionError):
            arguments, end = None, at
        self.at = len(self.text)
        if isinstance(arguments, dict) and _CLOSERS.match(self.text, end):
            self.add(name, cast("Json", arguments), begin)
        else:
            self.add(name, self.text[at:], begin, CUT)


@dataclass(frozen=True)
class Unreadable:
    """Text within brackets that is no JSON."""

    text: str

    def name_in(self, offered: Offered) -> tuple[str, str] | None:
        """
        The tool that it calls, and the text of the arguments, where it clearly is a call.

        :param offered: Tools on offer.
        :returns: Both, or None.
        """
        head = _HEAD.match(self.text)
        name = offered.name(head["name"]) if head else None
        if head is None or name is None:
            return None
        if is_definition_begun(self.text, head.end(), offered.properties(name)):
            return None
        return name, self.text[head.end() :]

    @property
    def error(self) -> str:
        """What to tell the model."""
        return _BROKEN


def is_definition_begun(text: str, at: int, properties: Json) -> bool:
    """
    Whether an object that isn't whole is a tool's schema, and no arguments.

    :param text: Where it stands.
    :param at: Where it begins.
    :param properties: The tool's parameters.
    :returns: True for one that begins as a schema does.
    """
    return "properties" not in properties and bool(_SCHEMA_BEGUN.match(text, at))


def end_of_blanks(text: str, start: int) -> int:
    """
    Where white space and control tokens end.

    :param text: A reply's text.
    :param start: Where they begin.
    :returns: The place behind.
    """
    match = _BLANKS.match(text, start)
    return match.end() if match else start


def end_of_brackets(text: str, start: int) -> int | None:
    """
    Where the bracket at `start` is closed. Brackets within strings don't count.

    :param text: JSON or Python.
    :param start: Place of a bracket, or of a quotation mark.
    :returns: The place behind; None when it isn't closed.
    """
    depth = 0
    for token in _BRACKETS.finditer(text, start):
        mark = text[token.start()]
        if mark in "\"'":
            if token.start() == start:
                return token.end() if token.end() - start > 1 and text[token.end() - 1] == mark else None
            continue
        depth += 1 if mark in "[({" else -1
        if depth <= 0:
            return token.end()
    return None


def _is_deep(text: str, start: int, end: int) -> bool:
    if text.count("{", start, end) + text.count("[", start, end) <= _DEEPEST:
        return False
    depth = deepest = 0
    for token in _BRACKETS.finditer(text, start, end):
        mark = text[token.start()]
        depth += (mark in "[({") - (mark in "])}")
        deepest = max(deepest, depth)
    return deepest > _DEEPEST
