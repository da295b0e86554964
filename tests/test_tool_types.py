"""Arguments arrive as the annotated types: JSON in, Python's values out, or a refusal of one place."""

import base64
import dataclasses
import json
import string
import types
import typing
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypeAlias, TypedDict
from uuid import UUID

import pytest
import typing_extensions
from haystack.tools.errors import ToolInvocationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, JsonValue

from llama_agent import ConfigurationError, FunctionTool, tool

Json = dict[str, Any]


def taking(hint: Any, *default: Any) -> FunctionTool[..., Any]:
    """A tool whose only parameter, `value`, has this type; it gives back what arrived."""

    def take(value):  # type: ignore[no-untyped-def]
        """Take a value."""
        return value

    take.__annotations__ = {"value": hint}
    take.__defaults__ = default or None
    return tool(take)


def schema_of(hint: Any, *default: Any) -> Json:
    return taking(hint, *default).parameters["properties"]["value"]


def problems_of(made: FunctionTool[..., Any], **arguments: Any) -> list[str]:
    """What a model is told of arguments that don't fit, without the heading."""
    with pytest.raises(ToolInvocationError) as caught:
        made.invoke(**arguments)
    return str(caught.value).splitlines()[1:]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Mixed(Enum):
    ONE = 1
    TWO = "two"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    start: date
    end: date | None = None


class Address(BaseModel):
    street: str
    number: int | None = None


class Person(BaseModel):
    name: str
    born: date
    addresses: list[Address] = []


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


class Aliased(BaseModel):
    from_: str = Field(alias="from")


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


@dataclasses.dataclass
class Link:
    value: int
    next: "Link | None" = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Pair(NamedTuple):
    left: int
    right: str = "r"


UserId = NewType("UserId", int)
Names: TypeAlias = list[str]
Numbers = typing_extensions.TypeAliasType("Numbers", list[int])
Nested = typing_extensions.TypeAliasType("Nested", "int | list[Nested]")
Even = Annotated[int, Field(ge=2, le=10, multiple_of=2)]
Word = Annotated[str, Field(pattern="^[a-z]+$", max_length=5)]
Pet = Annotated[Cat | Dog, Field(discriminator="kind")]

NOON = "2026-01-31T12:00:00"
ID = "12345678-1234-5678-1234-567812345678"


# JSON in, Python's value out.

ARRIVALS: list[tuple[Any, Any, Any]] = [
    # JSON's own.
    (int, 3, 3),
    (int, -(10**30), -(10**30)),
    (float, 1.5, 1.5),
    (float, 2, 2.0),
    (bool, False, False),
    (str, "", ""),
    (str, "3", "3"),
    (str, 'größe "x"\n', 'größe "x"\n'),
    (None, None, None),
    (list, [1, "a", None], [1, "a", None]),
    (dict, {"a": [1]}, {"a": [1]}),
    (list[Any], [1, "2", [True]], [1, "2", [True]]),
    (Any, {"a": "1"}, {"a": "1"}),
    (object, "3", "3"),
    (JsonValue, [1, {"a": None}], [1, {"a": None}]),
    # One of several.
    (int | None, None, None),
    (int | None, 3, 3),
    (typing.Optional[str], None, None),  # noqa: UP045
    (typing.Union[int, str], "3", "3"),  # noqa: UP007
    (int | str, 3, 3),
    (str | int, 3, 3),
    (float | str, "x", "x"),
    (bool | int, True, True),
    (bool | int, 1, 1),
    (int | list[int], [3], [3]),
    (str | list[str] | None, ["a"], ["a"]),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], 2, 2),
    (Literal["a", 1, True, None], None, None),
    (Colour, "blue", Colour.BLUE),
    (Level, 2, Level.HIGH),
    (Mood, "bad", Mood.BAD),
    (Mixed, "two", Mixed.TWO),
    (Mixed, 1, Mixed.ONE),
    (Literal[Colour.RED], "red", Colour.RED),
    # Collections.
    (list[int], [], []),
    (list[list[int]], [[1], []], [[1], []]),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    (tuple[()], [], ()),
    (set[int], [1, 2], {1, 2}),
    (frozenset[str], ["a"], frozenset({"a"})),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (dict[int, str], {"1": "a"}, {1: "a"}),
    (dict[Colour, list[date]], {"red": ["2026-01-31"]}, {Colour.RED: [date(2026, 1, 31)]}),
    (Sequence[int], [1], [1]),
    (Iterable[int], [1], [1]),
    (Mapping[str, int], {"a": 1}, {"a": 1}),
    (deque[int], [1], deque([1])),
    # Objects.
    (Point, {"x": 1}, Point(1)),
    (Point, {"x": 1, "y": 2, "tags": ["a"]}, Point(1, 2, ["a"])),
    (Span, {"start": "2026-01-31"}, Span(start=date(2026, 1, 31))),
    (Address, {"street": "A"}, Address(street="A")),
    (
        Person,
        {"name": "Ann", "born": "2000-02-29", "addresses": [{"street": "A", "number": 1}]},
        Person(name="Ann", born=date(2000, 2, 29), addresses=[Address(street="A", number=1)]),
    ),
    (Aliased, {"from": "x"}, Aliased(**{"from": "x"})),
    (Movie, {"title": "M"}, {"title": "M"}),
    (Movie, {"title": "M", "year": 1999}, {"title": "M", "year": 1999}),
    (Pair, [1, "a"], Pair(1, "a")),
    (Pair, {"left": 1}, Pair(1)),
    (list[Point], [{"x": 1}, {"x": 2}], [Point(1), Point(2)]),
    (dict[str, Address], {"a": {"street": "A"}}, {"a": Address(street="A")}),
    (tuple[Address, Point], [{"street": "A"}, {"x": 1}], (Address(street="A"), Point(1))),
    (Tree, {"value": 1, "children": [{"value": 2}]}, Tree(value=1, children=[Tree(value=2)])),
    (Link, {"value": 1, "next": {"value": 2}}, Link(1, Link(2))),
    (Cat | Dog, {"kind": "dog"}, Dog(kind="dog")),
    (Pet, {"kind": "cat", "lives": 9}, Cat(kind="cat", lives=9)),
    (list[Pet], [{"kind": "dog", "tricks": ["sit"]}], [Dog(kind="dog", tricks=["sit"])]),
    # What JSON writes as text.
    (datetime, NOON, datetime(2026, 1, 31, 12)),
    (datetime, NOON + "Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    (date, "2026-01-31", date(2026, 1, 31)),
    (time, "12:30:05", time(12, 30, 5)),
    (timedelta, "PT1H30M", timedelta(hours=1, minutes=30)),
    (timedelta, "P2D", timedelta(days=2)),
    (UUID, ID, UUID(ID)),
    (Path, "a/b.txt", Path("a/b.txt")),
    (PurePosixPath, "/a", PurePosixPath("/a")),
    (Decimal, "1.50", Decimal("1.50")),
    (Decimal, 0.1, Decimal("0.1")),
    (Decimal, 3, Decimal(3)),
    (Decimal, "123456789012345678901234567890.12", Decimal("123456789012345678901234567890.12")),
    (bytes, "aGk=", b"hi"),
    (bytes, base64.b64encode(bytes(range(256))).decode(), bytes(range(256))),
    (bytes, base64.urlsafe_b64encode(bytes(range(256))).decode(), bytes(range(256))),
    (IPv4Address, "127.0.0.1", IPv4Address("127.0.0.1")),
    (HttpUrl, "http://example.com/", HttpUrl("http://example.com/")),
    # Other names for types, and narrower ones.
    (UserId, 3, 3),
    (Names, ["a"], ["a"]),
    (Numbers, [1], [1]),
    (Nested, [1, [2, []]], [1, [2, []]]),
    (Even, 4, 4),
    (Word, "abc", "abc"),
    (list[Even], [2, 4], [2, 4]),
    (Annotated[list[int], Field(min_length=1)], [1], [1]),
    (Annotated[UserId, "A text."], 3, 3),
]


@pytest.mark.parametrize(("hint", "sent", "arrives"), ARRIVALS)
def test_an_argument_arrives_as_the_annotated_type(hint: Any, sent: Any, arrives: Any) -> None:
    got = taking(hint).invoke(value=sent)
    assert (got, type(got)) == (arrives, type(arrives))


@pytest.mark.parametrize(("hint", "sent"), [(hint, sent) for hint, sent, _ in ARRIVALS])
def test_what_is_accepted_fits_the_schema_that_is_shown(hint: Any, sent: Any) -> None:
    schema = taking(hint).parameters
    Draft202012Validator.check_schema(schema)
    # Sent as a collection's short form or as text: taken, though a model is shown one form only.
    if (hint, type(sent)) not in {(Pair, list), (Decimal, str)}:
        Draft202012Validator(schema).validate({"value": sent})


def test_an_arriving_union_keeps_the_json_type_that_was_sent() -> None:
    made = taking(int | float | bool | str)
    for sent in (1, 1.5, True, "1", "true", "1.5"):
        got = made.invoke(value=sent)
        assert (got, type(got)) == (sent, type(sent))


# One reading only.


@pytest.mark.parametrize(
    ("hint", "sent", "arrives"),
    [
        (int, "3", 3),
        (int, "-3", -3),
        (int, 3.0, 3),
        (float, "1.5", 1.5),
        (float, "1e3", 1000.0),
        (bool, "true", True),
        (bool, "False", False),
        (str, 3, "3"),
        (int | None, "3", 3),
        (list[int], ["1", 2.0], [1, 2]),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, int], '{"a": "1"}', {"a": 1}),
        (set[int], "[1]", {1}),
        (tuple[int, str], '["1", 2]', (1, "2")),
        (Point, '{"x": "1"}', Point(1)),
        (Address, '{"street": 5, "number": "7"}', Address(street="5", number=7)),
        (list[Point], ['{"x": 1}'], [Point(1)]),
        (Movie, '{"title": "M", "year": "1999"}', {"title": "M", "year": 1999}),
        (Level, "2", Level.HIGH),
        (Literal[1, 2], "2", 2),
        (Even, "4", 4),
        (UserId, "3", 3),
        (Tree, {"value": "1", "children": '[{"value": "2"}]'}, Tree(value=1, children=[Tree(value=2)])),
        (int | list[int], "[3]", [3]),
        (Pet, '{"kind": "cat", "lives": "9"}', Cat(kind="cat", lives=9)),
    ],
)
def test_a_slip_with_one_possible_reading_is_forgiven(hint: Any, sent: Any, arrives: Any) -> None:
    got = taking(hint).invoke(value=sent)
    assert (got, type(got)) == (arrives, type(arrives))


REFUSALS: list[tuple[Any, Any, str]] = [
    (int, "x", "value"),
    (int, 3.5, "value"),
    (int, True, "value"),
    (int, None, "value"),
    (int, [3], "value"),
    (int, "", "value"),
    (float, "1,5", "value"),
    (float, "nan", "value"),
    (float, True, "value"),
    (bool, 2, "value"),
    (bool, "maybe", "value"),
    (str, None, "value"),
    (str, ["a"], "value"),
    (str, {"a": 1}, "value"),
    (None, 0, "value"),
    (int | None, "x", "value"),
    (int | str, [1], "value"),
    (Literal["a", "b"], "c", "value"),
    (Literal["a", "b"], "A", "value"),
    (Colour, "green", "value"),
    (Colour, "RED", "value"),
    (Level, 3, "value"),
    (list[int], 1, "value"),
    (list[int], "1, 2", "value"),
    (list[int], {"a": 1}, "value"),
    (list[int], [1, "x"], "value.1"),
    (list[list[int]], [[1], [2, None]], "value.1.1"),
    (tuple[int, str], [1], "value.1"),
    (tuple[int, str], [1, "a", 2], "value"),
    (tuple[int, str], ["x", "a"], "value.0"),
    (tuple[int, ...], [1, 2, "x"], "value.2"),
    (set[int], [1, "x"], "value.1"),
    (dict[str, int], [["a", 1]], "value"),
    (dict[str, int], {"a": 1, "b": "x"}, "value.b"),
    (dict[str, list[int]], {"a": [1, 2, "x"]}, "value.a.2"),
    (Point, {"y": 1}, "value.x"),
    (Point, {"x": "one"}, "value.x"),
    (Point, {"x": 1, "tags": ["a", None]}, "value.tags.1"),
    (Point, "1, 2", "value"),
    (Person, {"name": "Ann", "born": "2000-02-30"}, "value.born"),
    (
        Person,
        {"name": "Ann", "born": "2000-01-01", "addresses": [{"street": "A"}, {"number": 1}]},
        "value.addresses.1.street",
    ),
    (Closed, {"a": 1, "b": 2}, "value.b"),
    (Aliased, {"from": None}, "value.from"),
    (Movie, {"year": 1999}, "value.title"),
    (Movie, {"title": "M", "year": "x"}, "value.year"),
    (Pair, ["x"], "value.0"),
    (
        Tree,
        {"value": 1, "children": [{"value": 2, "children": [{"value": "x"}]}]},
        "value.children.0.children.0.value",
    ),
    (Link, {"value": 1, "next": {"value": "x"}}, "value.next.value"),
    (Pet, {"kind": "cat", "lives": "x"}, "value.lives"),
    (list[Pet], [{"kind": "dog"}, {"kind": "cat"}], "value.1.lives"),
    (datetime, "tomorrow", "value"),
    (date, "31.1.2026", "value"),
    (date, NOON, "value"),
    (time, "25:00", "value"),
    (timedelta, "a while", "value"),
    (UUID, "x", "value"),
    (Path, ["a"], "value"),
    (Decimal, "much", "value"),
    (Decimal, "NaN", "value"),
    (bytes, "not base64!", "value"),
    (IPv4Address, "1.2.3", "value"),
    (HttpUrl, "nowhere", "value"),
    (Numbers, [1, "x"], "value.1"),
    (Even, 3, "value"),
    (Even, 12, "value"),
    (Word, "ABC", "value"),
    (Word, "abcdef", "value"),
    (list[Even], [2, 3], "value.1"),
    (Annotated[list[int], Field(min_length=1)], [], "value"),
    (Annotated[list[int], Field(max_length=1)], [1, 2], "value"),
]


@pytest.mark.parametrize(("hint", "sent", "place"), REFUSALS)
def test_what_cant_be_read_is_refused_in_one_line_that_names_the_place(
    hint: Any, sent: Any, place: str
) -> None:
    (line,) = problems_of(taking(hint), value=sent)
    assert line.startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("hint", "sent", "expected"),
    [
        (Literal["a", "b"], "c", ["'a'", "'b'", "'c'"]),
        (Colour, "green", ["'red'", "'blue'", "'green'"]),
        (Even, 12, ["10", "12"]),
        (date, "31.1.2026", ["2026-01-31", "'31.1.2026'"]),
        (datetime, "soon", ["2026-01-31T12:00:00", "'soon'"]),
        (timedelta, "a while", ["PT1H30M", "'a while'"]),
        (bytes, "not base64!", ["base64", "'not base64!'"]),
        (UUID, "x", ["UUID", "'x'"]),
        (list[int], "1, 2", ["array", "'1, 2'"]),
        (Pet, {"kind": "cow"}, ["'cat'", "'dog'", "cow"]),
    ],
)
def test_a_refusal_says_what_is_expected_and_what_came(hint: Any, sent: Any, expected: list[str]) -> None:
    (line,) = problems_of(taking(hint), value=sent)
    assert [part for part in expected if part not in line] == []


@pytest.mark.parametrize(("hint", "sent", "place"), REFUSALS)
def test_a_refusal_has_no_words_of_pydantics_machinery(hint: Any, sent: Any, place: str) -> None:
    (line,) = problems_of(taking(hint), value=sent)
    for noise in ("pydantic", "http", "JsonOrPython", "type=", "input_value", "is_instance", "_type"):
        assert noise not in line.partition(", received")[0]


@pytest.mark.parametrize("sent", [{"kind": "cat"}, {"kind": "cat", "lives": "x"}])
def test_a_problem_in_one_kind_of_object_isnt_told_as_a_problem_of_the_other(sent: Json) -> None:
    (line,) = problems_of(taking(Cat | Dog), value=sent)
    assert line.startswith("value.lives: ")


@pytest.mark.parametrize("count", [2, "2", 2.0])
def test_a_decimal_keeps_its_digits_whatever_the_other_arguments_need(count: Any) -> None:
    def pay(amount: Decimal, count: int) -> Decimal:
        """Pay."""
        return amount * count

    assert tool(pay).invoke(amount="677411854089.8155", count=count) == Decimal("1354823708179.6310")


# Defaults.

MARKER = object()


@pytest.mark.parametrize(
    ("hint", "default", "shown"),
    [
        (int, 3, 3),
        (str, "", ""),
        (bool, False, False),
        (list[int], [1], [1]),
        (dict[str, int], {}, {}),
        (date, date(2026, 1, 31), "2026-01-31"),
        (timedelta, timedelta(hours=1), "PT1H"),
        (Path, Path("a/b"), "a/b"),
        (UUID, UUID(ID), ID),
        (Colour, Colour.BLUE, "blue"),
        (set[int], {1}, [1]),
        (bytes, b"hi", "aGk="),
        (Point, Point(1), {"x": 1, "y": 0, "tags": []}),
        (Address, Address(street="A"), {"street": "A", "number": None}),
    ],
)
def test_a_default_is_shown_as_json_and_used_as_it_is(hint: Any, default: Any, shown: Any) -> None:
    made = taking(hint, default)
    assert made.parameters["properties"]["value"]["default"] == shown
    assert "required" not in made.parameters or made.parameters["required"] == []
    got = made.invoke()
    assert (got, type(got)) == (default, type(default))


@pytest.mark.parametrize("hint", [int, str, Any, int | None, list[str]])
@pytest.mark.parametrize("default", [MARKER, ..., float("nan"), lambda: 3, int])
def test_a_default_that_json_cant_hold_isnt_shown_but_used(hint: Any, default: Any) -> None:
    made = taking(hint, default)
    assert "default" not in made.parameters["properties"]["value"]
    json.dumps(made.parameters, allow_nan=False)
    assert made.invoke() is default


def test_a_default_that_is_a_list_isnt_shared_between_calls() -> None:
    def collect(item: str, into: list[str] = []) -> list[str]:  # noqa: B006
        """Collect."""
        return [*into, item]

    made = tool(collect)
    assert [made.invoke(item="a"), made.invoke(item="b")] == [["a"], ["b"]]


def test_a_default_factory_of_field_is_called_for_each_call() -> None:
    def collect(into: Annotated[list[str], Field(default_factory=list)]) -> list[str]:
        """Collect."""
        into.append("a")
        return into

    made = tool(collect)
    assert made.parameters.get("required", []) == []
    assert [made.invoke(), made.invoke()] == [["a"], ["a"]]


def test_a_default_given_as_field_is_read_as_one() -> None:
    def roll(sides: int = Field(default=6, ge=2, description="Faces.")) -> int:
        """Roll."""
        return sides

    made = tool(roll)
    schema = made.parameters["properties"]["sides"]
    assert schema == {"type": "integer", "description": "Faces.", "default": 6, "minimum": 2}
    assert (made.invoke(), made.invoke(sides="4")) == (6, 4)
    assert problems_of(made, sides=1)[0].startswith("sides: ")


def test_null_for_an_optional_parameter_is_none() -> None:
    made = taking(int | None, 3)
    assert (made.invoke(value=None), made.invoke(), made.invoke(value=4)) == (None, 3, 4)


# What a model is shown of a type.


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (str, {"type": "string"}),
        (Any, {}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Colour, {"type": "string", "enum": ["red", "blue"]}),
        (Level, {"type": "integer", "enum": [1, 2], "description": "1 is LOW, 2 is HIGH"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (date, {"type": "string", "format": "date"}),
        (time, {"type": "string", "format": "time"}),
        (timedelta, {"type": "string", "format": "duration"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Path, {"type": "string", "format": "path"}),
        (UserId, {"type": "integer"}),
        (Names, {"type": "array", "items": {"type": "string"}}),
        (Numbers, {"type": "array", "items": {"type": "integer"}}),
        (Even, {"type": "integer", "minimum": 2, "maximum": 10, "multipleOf": 2}),
        (Word, {"type": "string", "maxLength": 5, "pattern": "^[a-z]+$"}),
        (Annotated[int, "Faces."], {"type": "integer", "description": "Faces."}),
        (Annotated[int, Field(description="Faces.")], {"type": "integer", "description": "Faces."}),
        (Annotated[int, Field(examples=[4, 6])], {"type": "integer", "examples": [4, 6]}),
        (
            Movie,
            {
                "type": "object",
                "properties": {"title": {"type": "string"}, "year": {"type": "integer"}},
                "required": ["title"],
            },
        ),
    ],
)
def test_a_type_is_shown_in_the_plainest_schema(hint: Any, expected: Json) -> None:
    assert schema_of(hint) == expected


def test_a_model_is_told_that_bytes_are_base64() -> None:
    assert "base64" in json.dumps(schema_of(bytes))


# What no model could fill.


class Socket:
    pass


@pytest.mark.parametrize(
    "hint",
    [
        Socket,
        Callable[[int], int],
        types.ModuleType,
        list[Socket],
        dict[str, Socket],
        Socket | int,
        type[int],
    ],
    ids=repr,
)
def test_a_type_without_a_schema_is_refused_when_the_tool_is_made(hint: Any) -> None:
    with pytest.raises(ConfigurationError, match="'value'") as caught:
        taking(hint)
    assert f"{__file__}:" in str(caught.value)


# Any type, any value: drawn together, so that what must arrive is known without the library.


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A type with a value of it."""

    hint: Any
    sent: Any  # in JSON
    arrives: Any
    breaks: list[tuple[tuple[str | int, ...], Any]]  # where, and what can't stand there


def leaf(
    hint: Any, values: st.SearchStrategy[Any], write: Callable[[Any], Any], *bad: Any
) -> st.SearchStrategy[Drawn]:
    return values.map(lambda value: Drawn(hint, write(value), value, [((), item) for item in bad]))


def as_is(value: Any) -> Any:
    return value


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = st.text(string.ascii_lowercase, min_size=1, max_size=4)
WRONG = {"not": "this"}
AWARE = st.datetimes(timezones=st.just(UTC), min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1))

LEAVES = st.one_of(
    leaf(int, st.integers(), as_is, "one", None, 1.5, [1], WRONG),
    leaf(float, st.floats(allow_nan=False, allow_infinity=False), as_is, "one", None, [1.0], WRONG),
    leaf(bool, st.booleans(), as_is, "maybe", None, 7, [True]),
    leaf(str, TEXTS, as_is, None, ["a"], WRONG),
    leaf(type(None), st.none(), as_is, 0, "x"),
    leaf(int | None, st.none() | st.integers(), as_is, "one", [None]),
    leaf(Literal["a", "b"], st.sampled_from(["a", "b"]), as_is, "c", 1, None),
    leaf(Colour, st.sampled_from(Colour), lambda value: value.value, "green", None, ["red"]),
    leaf(Level, st.sampled_from(Level), lambda value: value.value, 3, "x", None),
    leaf(datetime, AWARE, lambda value: value.isoformat(), "soon", None, [1]),
    leaf(date, st.dates(), lambda value: value.isoformat(), "soon", None, "2026-02-30"),
    leaf(time, st.times(), lambda value: value.isoformat(), "soon", None, "25:00"),
    leaf(
        timedelta,
        st.integers(0, 10**6).map(lambda seconds: timedelta(seconds=seconds)),
        lambda value: f"PT{int(value.total_seconds())}S",
        *("soon", None, ["PT1H"]),
    ),
    leaf(UUID, st.uuids(), str, "x", None, 3),
    leaf(
        Path,
        TEXTS.map(lambda text: Path("a") / text.replace("/", "-")),
        str,
        None,
        ["a"],
    ),
    leaf(Decimal, st.decimals(allow_nan=False, allow_infinity=False, places=4), str, "x", None, [1]),
    leaf(
        bytes,
        st.binary(max_size=20),
        lambda value: base64.b64encode(value).decode(),
        "!",
        None,
        ["aGk="],
    ),
    leaf(UserId, st.integers(), as_is, "one", None),
    leaf(Even, st.sampled_from([2, 4, 6, 8, 10]), as_is, 3, 0, 12, "two"),
    leaf(Word, st.text(string.ascii_lowercase, min_size=1, max_size=5), as_is, "UP", "abcdef", None),
)


def below(drawn: Drawn, key: str | int) -> list[tuple[tuple[str | int, ...], Any]]:
    return [((key, *place), bad) for place, bad in drawn.breaks]


def same_type(inner: Drawn, data: list[Drawn]) -> list[Drawn]:
    return [item for item in data if item.hint is inner.hint] or [inner]


def listed(items: list[Drawn]) -> Drawn:
    """Values of one type, as a list of it."""
    items = same_type(items[0], items)
    inside = [found for at, item in enumerate(items) for found in below(item, at)]
    sent, arrives = [item.sent for item in items], [item.arrives for item in items]
    return Drawn(list[items[0].hint], sent, arrives, [*inside, ((), 5), ((), "x"), ((), None)])


def paired(items: list[Drawn]) -> Drawn:
    inside = [found for at, item in enumerate(items) for found in below(item, at)]
    hint = tuple[tuple(item.hint for item in items)]  # type: ignore[misc]
    arrives = tuple(item.arrives for item in items)
    return Drawn(hint, [item.sent for item in items], arrives, [*inside, ((), 5), ((), "x"), ((), None)])


def mapped(items: dict[str, Drawn]) -> Drawn:
    first = next(iter(items.values()))
    items = {key: item for key, item in items.items() if item.hint is first.hint}
    inside = [found for key, item in items.items() for found in below(item, key)]
    sent = {key: item.sent for key, item in items.items()}
    arrives = {key: item.arrives for key, item in items.items()}
    return Drawn(dict[str, first.hint], sent, arrives, [*inside, ((), 5), ((), "x"), ((), [])])


def as_dataclass(items: dict[str, Drawn]) -> Drawn:
    made = dataclasses.make_dataclass(
        f"Made{uuid.uuid4().hex}", [(f"f_{key}", item.hint) for key, item in items.items()]
    )
    inside = [found for key, item in items.items() for found in below(item, f"f_{key}")]
    sent = {f"f_{key}": item.sent for key, item in items.items()}
    arrives = made(**{f"f_{key}": item.arrives for key, item in items.items()})
    return Drawn(made, sent, arrives, [*inside, ((), 5), ((), "x"), ((), None)])


def as_typed_dict(items: dict[str, Drawn]) -> Drawn:
    made = typing_extensions.TypedDict(  # type: ignore[operator]
        f"Made{uuid.uuid4().hex}", {key: item.hint for key, item in items.items()}
    )
    inside = [found for key, item in items.items() for found in below(item, key)]
    sent = {key: item.sent for key, item in items.items()}
    arrives = {key: item.arrives for key, item in items.items()}
    return Drawn(made, sent, arrives, [*inside, ((), 5), ((), "x"), ((), None)])


def optional(item: Drawn) -> Drawn:
    breaks = [(place, bad) for place, bad in item.breaks if place or bad is not None]
    return Drawn(item.hint | None, item.sent, item.arrives, breaks)


DRAWN = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(listed),
        st.lists(inner, min_size=1, max_size=3).map(paired),
        st.dictionaries(KEYS, inner, min_size=1, max_size=3).map(mapped),
        st.dictionaries(KEYS, inner, min_size=1, max_size=3).map(as_dataclass),
        st.dictionaries(KEYS, inner, min_size=1, max_size=3).map(as_typed_dict),
        inner.map(optional),
    ),
    max_leaves=6,
)

often = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@often
@given(DRAWN)
def test_any_value_of_any_type_is_accepted_and_arrives_equal(drawn: Drawn) -> None:
    got = taking(drawn.hint).invoke(value=drawn.sent)
    assert got == drawn.arrives
    assert type(got) is type(drawn.arrives)


@often
@given(DRAWN)
def test_any_value_of_any_type_fits_the_schema_that_is_shown(drawn: Drawn) -> None:
    schema = taking(drawn.hint).parameters
    Draft202012Validator.check_schema(schema)
    assert '"title"' not in json.dumps(schema)
    if Decimal not in leaves_of(drawn.arrives):  # sent as text, to lose no digit
        Draft202012Validator(schema).validate({"value": drawn.sent})


def leaves_of(value: Any) -> set[type]:
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    items = list(value.values()) if isinstance(value, dict) else value
    if isinstance(items, list | tuple):
        return {kind for item in items for kind in leaves_of(item)}
    return {type(items)}


@often
@given(DRAWN)
def test_any_value_sent_as_json_text_arrives_equal_where_an_object_or_array_is_expected(
    drawn: Drawn,
) -> None:
    if isinstance(drawn.sent, list | dict):
        assert taking(drawn.hint).invoke(value=json.dumps(drawn.sent)) == drawn.arrives


def broken(sent: Any, place: Sequence[str | int], bad: Any) -> Any:
    if not place:
        return bad
    first, *rest = place
    if isinstance(sent, list):
        return [broken(item, rest, bad) if at == first else item for at, item in enumerate(sent)]
    return {key: broken(item, rest, bad) if key == first else item for key, item in sent.items()}


@often
@given(DRAWN, st.data())
def test_any_value_broken_at_one_place_is_refused_with_that_place(drawn: Drawn, data: st.DataObject) -> None:
    place, bad = data.draw(st.sampled_from(drawn.breaks))
    lines = problems_of(taking(drawn.hint), value=broken(drawn.sent, place, bad))
    named = ".".join(str(part) for part in ("value", *place))
    assert [line.partition(": ")[0] for line in lines] == [named]


@often
@given(st.dictionaries(KEYS, DRAWN, min_size=1, max_size=4), st.data())
def test_any_set_of_parameters_is_filled_and_a_broken_one_named(
    parameters: dict[str, Drawn], data: st.DataObject
) -> None:
    parameters = {f"p_{name}": drawn for name, drawn in parameters.items()}
    space: Json = {}
    exec(f'def take({", ".join(parameters)}):\n    """Take."""\n    return locals()', space)
    space["take"].__annotations__ = {name: drawn.hint for name, drawn in parameters.items()}
    made = tool(space["take"])
    sent = {name: drawn.sent for name, drawn in parameters.items()}
    assert made.invoke(**sent) == {name: drawn.arrives for name, drawn in parameters.items()}
    chosen = data.draw(st.sampled_from(sorted(parameters)))
    without = {name: value for name, value in sent.items() if name != chosen}
    (line,) = problems_of(made, **without)
    assert line.startswith(f"{chosen}: required")
    place, bad = data.draw(st.sampled_from(parameters[chosen].breaks))
    (line,) = problems_of(made, **{**sent, chosen: broken(sent[chosen], place, bad)})
    assert line.startswith(".".join(str(part) for part in (chosen, *place)) + ": ")


# Values drawn from the schema alone, as a model would make them.


def from_schema(schema: Json, root: Json, known: Json) -> st.SearchStrategy[Any]:
    """JSON values that fit a schema, of the kinds that a tool's parameters have."""
    if ref := schema.get("$ref"):
        if ref not in known:
            target = root["$defs"][ref.removeprefix("#/$defs/")]
            known[ref] = st.deferred(lambda: from_schema(target, root, known))
        return known[ref]
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return st.one_of([from_schema(item, root, known) for item in schema[key]])
    kind = schema.get("type")
    formats: dict[str, st.SearchStrategy[Any]] = {
        "date": st.dates().map(str),
        "date-time": AWARE.map(lambda value: value.isoformat()),
        "time": st.times().map(str),
        "duration": st.integers(0, 10**6).map(lambda seconds: f"PT{seconds}S"),
        "uuid": st.uuids().map(str),
        "path": KEYS,
    }
    if kind == "string":
        if schema.get("format") in formats:
            return formats[schema["format"]]
        if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True).filter(
                lambda text: len(text) <= schema.get("maxLength", 99) and "\n" not in text
            )
        return TEXTS
    if kind == "integer":
        step = schema.get("multipleOf", 1)
        low, high = schema.get("minimum"), schema.get("maximum")
        return st.integers(low and low // step, high and high // step).map(lambda number: number * step)
    if kind == "array":
        if "prefixItems" in schema:
            return st.tuples(*[from_schema(item, root, known) for item in schema["prefixItems"]]).map(list)
        unique = json.dumps if schema.get("uniqueItems") else None
        return st.lists(from_schema(schema["items"], root, known), max_size=3, unique_by=unique)
    if kind == "object" and "properties" in schema:
        fields = {name: from_schema(item, root, known) for name, item in schema["properties"].items()}
        required = set(schema.get("required", []))
        return st.fixed_dictionaries(
            {name: fields[name] for name in fields if name in required},
            optional={name: fields[name] for name in fields if name not in required},
        )
    if kind == "object":
        return st.dictionaries(KEYS, from_schema(schema["additionalProperties"], root, known), max_size=3)
    return {
        "number": st.floats(allow_nan=False, allow_infinity=False, width=32),
        "boolean": st.booleans(),
        "null": st.none(),
    }[kind]


PLAIN = [
    *(int, float, bool, str, int | None, Literal["a", 1, None], Even, Word, list[str | None]),
    *(dict[str, list[bool]], int | list[int], Numbers, Nested, list[dict[str, float | None]]),
]


@pytest.mark.parametrize("hint", PLAIN, ids=repr)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_value_drawn_from_the_schema_arrives_equal(hint: Any, data: st.DataObject) -> None:
    made = taking(hint)
    arguments = data.draw(from_schema(made.parameters, made.parameters, {}))
    got = made.invoke(**arguments)
    assert got == arguments["value"]
    assert type(got) is type(arguments["value"])


RICH = [
    *(Colour, Level, Point, Span, Address, Person, Tree, Link, Cat | Dog, Pet, Movie, Pair, datetime, date),
    *(time, timedelta, UUID, Path, Decimal, set[int], frozenset[Colour], tuple[int, str, Address]),
    *(tuple[Point, ...], dict[str, Person], list[Tree], Person | Point | None, Sequence[Span], list[UUID]),
]


@pytest.mark.parametrize("hint", RICH, ids=repr)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_value_drawn_from_the_schema_is_accepted_as_it_is_and_as_text(
    hint: Any, data: st.DataObject
) -> None:
    made = taking(hint)
    arguments = data.draw(from_schema(made.parameters, made.parameters, {}))
    got = made.invoke(**arguments)
    if isinstance(arguments["value"], dict | list):
        assert made.invoke(value=json.dumps(arguments["value"])) == got
    else:
        assert made.invoke(value=arguments["value"]) == got
