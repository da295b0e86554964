"""What a tool returns becomes compact text that a model can read, as JSON wherever JSON can hold it."""

import asyncio
import base64
import dataclasses
import decimal
import itertools
import json
import re
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy
import pandas
import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.dataclasses import ChatMessage, Document, ImageContent, TextContent
from haystack.tools.tool import Tool
from PIL import Image
from pydantic import BaseModel

from llama_agent import tool
from tests.calling import Go, both_modes, call, failed, generator, outcomes, told
from tests.endpoint import Endpoint, Reply

MOST_ITEMS = 1000
MOST_CHARACTERS = 100_000
MOST_BYTES = 4096
MOST_ROWS = 20
MOST_CELLS = 1000
ALL = 1_000_000
"""Characters that a tool's result may have: more than any here, so that no window cuts it."""


def giving(value: Any) -> Callable[[], Any]:
    """A tool that returns a value."""

    def give() -> Any:
        """Give."""
        return value

    return give


def text_of(endpoint: Endpoint, value: Any, most: int | None = None) -> str:
    """What the model reads of a value, which is also what was sent. `most`: the tool's `max_result_chars`."""
    give = giving(value)
    result = call(endpoint, [give if most is None else tool(max_result_chars=most)(give)], "give")
    assert not failed(result)
    assert result.text == "done"
    assert endpoint.requests[-1].messages[-1]["content"] == told(result)
    return told(result)


def json_of(endpoint: Endpoint, value: Any, most: int | None = None) -> Any:
    """As `text_of`, read as JSON that any language's parser would take."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    return json.loads(text_of(endpoint, value, most), parse_constant=refuse)


# Values of Python's own.


class Size(Enum):
    SMALL = "small"


class Rank(IntEnum):
    FIRST = 1


class Pair(NamedTuple):
    left: int
    right: "Pair | None" = None


Old = namedtuple("Old", ["left", "right"])


@dataclasses.dataclass
class Place:
    name: str
    founded: date
    parts: list["Place"] = dataclasses.field(default_factory=list)


class Reading(BaseModel):
    value: float
    at: datetime
    place: Place | None = None


class Word(str):
    """A string of another class."""


NOON = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["plain", "", "größer ✓ 日本", "a\nb\t\0", '{"a": 1}', "null", "x" * 6_000], ids=len
)
def test_a_text_is_left_as_it_is(endpoint: Endpoint, text: str) -> None:
    assert text_of(endpoint, text) == text
    assert text_of(endpoint, Word(text)) == text


def test_a_text_that_a_tool_may_give_is_left_as_it_is_however_long(endpoint: Endpoint) -> None:
    text = "x" * 200_000
    assert text_of(endpoint, text, ALL) == text
    assert text_of(endpoint, Word(text), ALL) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-(10**40), "-1" + "0" * 40),
        (1.5, "1.5"),
        ({}, "{}"),
        ([], "[]"),
        ((), "[]"),
        ({"a": [1, 2], "b": None}, '{"a":[1,2],"b":null}'),
        ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
        ({"k": "größer"}, '{"k":"größer"}'),
        ((1, "a"), '[1,"a"]'),
        ({3}, "[3]"),
        (frozenset("a"), '["a"]'),
        (deque([1, 2]), "[1,2]"),
        (OrderedDict(a=1), '{"a":1}'),
        (Counter("aab"), '{"a":2,"b":1}'),
        (defaultdict(list, a=[1]), '{"a":[1]}'),
        ({1: "a", None: "b"}, '{"1":"a","null":"b"}'),
        (Size.SMALL, '"small"'),
        (Rank.FIRST, "1"),
        ([Size.SMALL, Rank.FIRST], '["small",1]'),
        ({Size.SMALL: 1}, '{"small":1}'),
        (Pair(1, Pair(2)), '{"left":1,"right":{"left":2,"right":null}}'),
        (Old(1, "a"), '{"left":1,"right":"a"}'),
        ([Old(1, 2)], '[{"left":1,"right":2}]'),
        ({"a": Old(1, 2)}, '{"a":{"left":1,"right":2}}'),
        ({"a": [Pair(1)]}, '{"a":[{"left":1,"right":null}]}'),
        (date(2026, 11, 23), '"2026-11-23"'),
        (NOON, '"2026-11-23T12:30:00Z"'),
        (NOON.replace(tzinfo=None), '"2026-11-23T12:30:00"'),
        (time(12, 30), '"12:30:00"'),
        (timedelta(hours=1, seconds=30), '"PT1H30S"'),
        ([date(2026, 1, 1), {"a": time(1)}], '["2026-01-01",{"a":"01:00:00"}]'),
        ({date(2026, 1, 1): 1}, '{"2026-01-01":1}'),
        (decimal.Decimal("1.10"), '"1.10"'),
        ([decimal.Decimal("0.1")], '["0.1"]'),
        (uuid.UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        (PurePosixPath("/a/b"), '"/a/b"'),
        (
            Place("Oslo", date(1040, 1, 1), [Place("Gamlebyen", date(1000, 1, 1))]),
            '{"name":"Oslo","founded":"1040-01-01","parts":[{"name":"Gamlebyen","founded":"1000-01-01","parts":[]}]}',
        ),
        (
            [Reading(value=2, at=NOON)],
            '[{"value":2.0,"at":"2026-11-23T12:30:00Z","place":null}]',
        ),
        (
            {"r": Reading(value=2, at=NOON, place=Place("Oslo", date(1040, 1, 1)))},
            '{"r":{"value":2.0,"at":"2026-11-23T12:30:00Z","place":{"name":"Oslo","founded":"1040-01-01","parts":[]}}}',
        ),
    ],
    ids=lambda item: None if isinstance(item, str) else type(item).__name__,
)
def test_a_value_becomes_compact_json(endpoint: Endpoint, value: Any, text: str) -> None:
    assert text_of(endpoint, value) == text


NO_WORD = {
    "not a number": float("nan"),
    "infinity": float("inf"),
    "not a number in a dict": {"a": float("nan")},
    "infinity in a list": [float("-inf")],
    "numpy's": numpy.float64("nan"),
    "numpy's in an array": numpy.array([1.0, float("nan")]),
    "pandas's in a table": pandas.DataFrame({"a": [1.5, float("nan")]}),
    "a tuple as a key": {(1, 2): "a"},
    "bytes as a key": {b"a": 1},
    "a complex number": 1j,
    "a fraction": Fraction(1, 3),
    "an ellipsis": ...,
    "half a character": {"k": "\ud800"},
    "a byte of a file's name": ["\udcff"],
    "a set beside a fraction": {"a": {1, 2}, "b": Fraction(1, 3)},
    "a document": Document(content="c"),
    "classes and functions": [len, int],
}


@pytest.mark.parametrize("value", NO_WORD.values(), ids=NO_WORD)
def test_what_json_has_no_word_for_still_reads_as_json(endpoint: Endpoint, value: Any) -> None:
    assert json_of(endpoint, value) is not None


@pytest.mark.parametrize("value", [10**5000, [10**5000]], ids=["alone", "in a list"])
def test_a_number_of_thousands_of_digits_doesnt_end_the_run(endpoint: Endpoint, value: Any) -> None:
    result = call(endpoint, [giving(value)], "give")
    assert (failed(result), result.text) == (False, "done")


def test_a_lone_surrogate_doesnt_end_the_run(endpoint: Endpoint) -> None:
    assert call(endpoint, [giving("a\ud800b")], "give").text == "done"


def test_an_object_of_an_unknown_class_becomes_its_str(endpoint: Endpoint) -> None:
    class Odd:
        def __str__(self) -> str:
            return "an odd thing"

    assert json_of(endpoint, Odd()) == "an odd thing"
    assert json_of(endpoint, {"a": [Odd()]}) == {"a": ["an odd thing"]}


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


def circle_of_objects() -> Place:
    place = Place("Oslo", date(1040, 1, 1))
    place.parts.append(place)
    return place


class Unspeakable:
    """An object that can't even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    "make",
    [circle, circle_of_objects, lambda: deep(500), lambda: deep(5000), Unspeakable, lambda: [Unspeakable()]],
    ids=["circle", "circle of objects", "500 levels", "5000 levels", "no str", "no str in a list"],
)
def test_a_value_that_cant_be_written_down_doesnt_count_as_the_tools_failure(
    endpoint: Endpoint, make: Callable[[], Any]
) -> None:
    result = call(endpoint, [giving(make())], "give")
    assert result.text == "done"
    assert not failed(result)
    assert told(result)


@both_modes
def test_an_async_tools_value_becomes_the_same_text(endpoint: Endpoint, go: Go) -> None:
    async def give() -> list[Pair]:
        """Give."""
        return [Pair(1)]

    assert told(go(endpoint, [give], "give")) == '[{"left":1,"right":null}]'


def test_a_haystack_tools_value_becomes_the_same_text(endpoint: Endpoint) -> None:
    giver = Tool(name="give", description="Give.", parameters={"type": "object"}, function=giving([Pair(1)]))
    assert told(call(endpoint, [giver], "give")) == '[{"left":1,"right":null}]'


def test_haystacks_own_agent_gets_the_same_text(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("give", {})]), Reply("done"))
    giver = tool(giving([Pair(1), date(2026, 1, 1)]))
    agent = HaystackAgent(chat_generator=generator(endpoint), tools=[giver])
    try:
        result = agent.run(messages=[ChatMessage.from_user("go")])
    finally:
        agent.close()
    (outcome,) = (outcome for message in result["messages"] for outcome in message.tool_call_results)
    assert json.loads(outcome.result) == [{"left": 1, "right": None}, "2026-01-01"]


# Exceptions as values.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ValueError("text"), "ValueError: text"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (FileNotFoundError(2, "No such file", "a.txt"), "FileNotFoundError: [Errno 2] No such file: 'a.txt'"),
    ],
    ids=repr,
)
def test_an_exception_that_is_returned_is_a_value_like_others(
    endpoint: Endpoint, value: Exception, text: str
) -> None:
    assert text_of(endpoint, value) == text
    assert json_of(endpoint, [value]) == [text]
    assert json_of(endpoint, {"error": value, "ok": 1}) == {"error": text, "ok": 1}


# Bytes.


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"abc",
        b"\xff\xfe\xfb",
        bytes(range(256)),
        b"\xff" * MOST_BYTES,
        bytearray(b"abc"),
        memoryview(b"abc"),
    ],
    ids=lambda value: f"{len(value)} {type(value).__name__}",
)
def test_few_bytes_become_base64(endpoint: Endpoint, value: Any) -> None:
    assert base64.b64decode(json_of(endpoint, value), validate=True) == bytes(value)
    assert base64.b64decode(json_of(endpoint, {"a": [value]})["a"][0], validate=True) == bytes(value)


def test_bytes_that_a_tool_gave_are_bytes_that_a_tool_takes(endpoint: Endpoint) -> None:
    value = bytes(range(256))

    def take(data: bytes) -> str:
        """Take."""
        return str(data == value)

    assert told(call(endpoint, [take], "take", {"data": json_of(endpoint, value)})) == "True"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\0" * MOST_BYTES, "png"),
        (b"\xff\xd8\xff\xe0" + b"\0" * MOST_BYTES, "jpe?g"),
        (b"%PDF-1.7" + b"\0" * MOST_BYTES, "pdf"),
        (b"PK\x03\x04" + b"\0" * MOST_BYTES, "zip"),
        (b"some words " * MOST_BYTES, "text"),
        (b"\x01\xff" * MOST_BYTES, "."),
    ],
    ids=["PNG", "JPEG", "PDF", "ZIP", "text", "anything"],
)
def test_many_bytes_are_only_described(endpoint: Endpoint, value: bytes, kind: str) -> None:
    described = json_of(endpoint, value)
    assert described["bytes"] == len(value)
    assert re.search(kind, described["kind"].lower())
    assert len(text_of(endpoint, value)) < 100


@dataclasses.dataclass
class Download:
    name: str
    data: Any


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: [data],
        lambda data: {"a": data},
        lambda data: Download("a", data),
        lambda data: iter([data]),
    ],
    ids=["list", "dict", "dataclass", "iterator"],
)
def test_many_bytes_within_something_are_only_described_too(endpoint: Endpoint, wrap: Any) -> None:
    text = text_of(endpoint, wrap(b"\x01\xff" * MOST_BYTES))
    assert str(2 * MOST_BYTES) in text
    assert len(text) < 200


# Tables and arrays.


def frame(rows: int) -> pandas.DataFrame:
    return pandas.DataFrame({"a": range(rows), "b": ["x"] * rows})


@pytest.mark.parametrize("rows", [0, 1, MOST_ROWS])
def test_a_small_table_is_a_list_of_its_rows(endpoint: Endpoint, rows: int) -> None:
    assert json_of(endpoint, frame(rows)) == [{"a": row, "b": "x"} for row in range(rows)]


@pytest.mark.parametrize("rows", [MOST_ROWS + 1, 5000])
def test_a_large_table_is_its_shape_and_its_head(endpoint: Endpoint, rows: int) -> None:
    shown = json_of(endpoint, frame(rows))
    assert shown["shape"] == [rows, 2]
    assert shown["head"] == [{"a": row, "b": "x"} for row in range(len(shown["head"]))]
    assert 0 < len(shown["head"]) <= MOST_ROWS


@pytest.mark.parametrize(
    "wrap",
    [lambda table: [table], lambda table: {"a": table}, lambda table: iter([table])],
    ids=["list", "dict", "iterator"],
)
def test_tables_within_something_are_shortened_too(endpoint: Endpoint, wrap: Any) -> None:
    text = text_of(endpoint, wrap(frame(5000)))
    assert '"shape":[5000,2]' in text
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (pandas.to_datetime(["2026-11-23"]), ["2026-11-23T00:00:00"]),
        ([date(2026, 11, 23)], ["2026-11-23"]),
        ([decimal.Decimal("1.10")], ["1.10"]),
        ([[1, 2]], [[1, 2]]),
        (pandas.Categorical(["x"]), ["x"]),
        (numpy.array([1], dtype="uint8"), [1]),
        (pandas.array([1], dtype="Int64"), [1]),
        ([True], [True]),
        ([Pair(1)], [{"left": 1, "right": None}]),
    ],
    ids=lambda item: str(getattr(item, "dtype", "")) or repr(item),
)
def test_cells_become_what_they_are_outside_of_a_table(
    endpoint: Endpoint, column: Any, cells: list[Any]
) -> None:
    assert json_of(endpoint, pandas.DataFrame({"a": column})) == [{"a": cell} for cell in cells]


@pytest.mark.parametrize(
    "column",
    [
        pandas.to_datetime(["2026-11-23", None]),
        pandas.array([1, None], dtype="Int64"),
        ["x", None],
        [1.5, None],
    ],
    ids=["time", "whole number", "text", "fraction"],
)
def test_a_table_with_a_gap_is_still_a_list_of_rows(endpoint: Endpoint, column: Any) -> None:
    first, second = json_of(endpoint, pandas.DataFrame({"a": column}))
    assert list(first) == list(second) == ["a"]


def test_a_series_is_its_values_and_a_long_one_its_shape_and_head(endpoint: Endpoint) -> None:
    assert json_of(endpoint, pandas.Series([1, 2])) == [1, 2]
    shown = json_of(endpoint, pandas.Series(range(5000)))
    assert shown["shape"] == [5000]
    assert len(json.dumps(shown)) < 1000


def test_a_timestamp_of_pandas_is_a_time(endpoint: Endpoint) -> None:
    assert json_of(endpoint, pandas.Timestamp("2026-11-23 12:30")) == "2026-11-23T12:30:00"
    assert json_of(endpoint, [pandas.Timestamp("2026-11-23")]) == ["2026-11-23T00:00:00"]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (numpy.int64(3), 3),
        (numpy.uint8(3), 3),
        (numpy.float32(2.5), 2.5),
        (numpy.bool_(True), True),
        (numpy.str_("x"), "x"),
        (numpy.datetime64("2026-11-23"), "2026-11-23"),
        ([numpy.int64(3)], [3]),
        ({"a": numpy.float64(2.5)}, {"a": 2.5}),
        ({numpy.int64(1): 2}, {"1": 2}),
    ],
    ids=lambda item: type(item).__name__,
)
def test_a_number_of_numpy_is_a_number(endpoint: Endpoint, value: Any, read: Any) -> None:
    assert json_of(endpoint, [value]) == [read]
    assert type(json_of(endpoint, {"a": value})["a"]) is type(read)


@pytest.mark.parametrize(
    ("array", "read"),
    [
        (numpy.array([]), []),
        (numpy.array(3), 3),
        (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (numpy.array([True]), [True]),
        (numpy.array(["a"]), ["a"]),
        (numpy.array([{"a": 1}], dtype=object), [{"a": 1}]),
        (numpy.array(["2026-11-23"], dtype="datetime64[D]"), ["2026-11-23"]),
        (numpy.zeros(MOST_CELLS), [0.0] * MOST_CELLS),
    ],
    ids=lambda item: getattr(item, "dtype", None),
)
def test_a_small_array_is_a_list(endpoint: Endpoint, array: Any, read: Any) -> None:
    assert json_of(endpoint, array) == read
    assert json_of(endpoint, {"a": array}) == {"a": read}


@pytest.mark.parametrize("shape", [(MOST_CELLS + 1,), (100, 100), (2, 3, 4000)], ids=str)
def test_a_large_array_is_shape_kind_and_beginning(endpoint: Endpoint, shape: tuple[int, ...]) -> None:
    array = numpy.arange(numpy.prod(shape)).reshape(shape)
    shown = json_of(endpoint, array)
    assert shown["shape"] == list(shape)
    assert shown["dtype"] == str(array.dtype)
    first = shown["first"]
    assert first == list(range(len(first)))
    assert first
    assert len(json.dumps(shown)) < 1000


# Images and content parts.


def test_an_image_is_described(endpoint: Endpoint) -> None:
    shown = json_of(endpoint, Image.new("RGB", (300, 200)))
    assert (shown["width"], shown["height"], shown["mode"]) == (300, 200, "RGB")
    (within,) = json_of(endpoint, [Image.new("L", (3, 2))])
    assert (within["width"], within["height"], within["mode"]) == (3, 2, "L")


@both_modes
@pytest.mark.parametrize(
    "value",
    [TextContent("a word"), [TextContent("a word")], [TextContent("a word"), TextContent("another")]],
    ids=["one", "list of one", "list of two"],
)
def test_text_parts_are_passed_on_as_parts(endpoint: Endpoint, go: Go, value: Any) -> None:
    parts = value if isinstance(value, list) else [value]
    result = go(endpoint, [giving(value)], "give")
    (outcome,) = outcomes(result)
    assert outcome.result == parts
    # As one text: many servers' templates know nothing else in a tool message.
    assert endpoint.requests[-1].messages[-1]["content"] == "\n".join(part.text for part in parts)


PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


@pytest.mark.parametrize("alone", [True, False], ids=["one", "list"])
def test_an_image_part_doesnt_end_the_run(endpoint: Endpoint, alone: bool) -> None:
    image = ImageContent(base64_image=PIXEL, mime_type="image/png")
    result = call(endpoint, [giving(image if alone else [TextContent("a pixel"), image])], "give")
    assert result.text == "done"


def test_a_list_of_parts_and_something_else_is_written_as_json(endpoint: Endpoint) -> None:
    text = json.dumps(json_of(endpoint, [TextContent("a word"), 3]))
    assert "a word" in text


# Generators.


def counting(stop: int | None) -> Iterator[int]:
    """Count."""
    return iter(itertools.count() if stop is None else range(stop))


@pytest.mark.parametrize("count", [0, 1, MOST_ITEMS])
def test_a_short_iterator_is_a_list(endpoint: Endpoint, count: int) -> None:
    assert json_of(endpoint, counting(count)) == list(range(count))


@pytest.mark.parametrize("count", [MOST_ITEMS + 1, None], ids=["one more", "endless"])
def test_a_long_iterator_stops_and_says_so(endpoint: Endpoint, count: int | None) -> None:
    *items, last = json_of(endpoint, counting(count))
    assert items == list(range(MOST_ITEMS))
    assert "stopped" in last
    assert str(MOST_ITEMS) in last


def test_an_iterator_of_long_items_stops_by_size(endpoint: Endpoint) -> None:
    *items, last = json_of(endpoint, itertools.repeat("x" * 1000), ALL)
    assert MOST_CHARACTERS / 2 < sum(map(len, items)) < 1.5 * MOST_CHARACTERS
    assert "stopped" in last


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (map(str, [1, 2]), ["1", "2"]),
        (zip([1], "a", strict=True), [[1, "a"]]),
        ((place for place in [Pair(1)]), [{"left": 1, "right": None}]),
        ((error for error in [ValueError("x")]), ["ValueError: x"]),
        (iter({"a": 1}), ["a"]),
    ],
    ids=lambda item: type(item).__name__,
)
def test_items_of_an_iterator_become_what_they_are_alone(endpoint: Endpoint, value: Any, items: Any) -> None:
    assert json_of(endpoint, value) == items


class Spring:
    """Generators of two kinds, which note whether they were closed."""

    def __init__(self, stop: int | None) -> None:
        self.stop = stop
        self.given = 0
        self.closed = False

    def flow(self) -> Iterator[int]:
        """Give numbers."""
        try:
            for number in counting(self.stop):
                self.given += 1
                yield number
        finally:
            self.closed = True

    async def flow_async(self) -> AsyncIterator[int]:
        """Give numbers."""
        try:
            for number in counting(self.stop):
                self.given += 1
                yield number
                await asyncio.sleep(0)
        finally:
            self.closed = True


@both_modes
@pytest.mark.parametrize("stop", [3, None], ids=["ends", "endless"])
@pytest.mark.parametrize("name", ["flow", "flow_async"])
def test_a_tool_that_yields_gives_a_list_and_is_closed(
    endpoint: Endpoint, go: Go, name: str, stop: int | None
) -> None:
    spring = Spring(stop)
    result = go(endpoint, [getattr(spring, name)], name)
    assert not failed(result)
    items = json.loads(told(result))
    assert items[:3] == [0, 1, 2]
    assert len(items) == (stop or MOST_ITEMS + 1)
    assert spring.given <= MOST_ITEMS + 1
    assert spring.closed


@both_modes
@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_tool_that_fails_while_it_yields_has_failed(endpoint: Endpoint, go: Go, kind: str) -> None:
    def give() -> Iterator[int]:
        """Give."""
        yield 1
        raise ValueError("dried up")

    async def give_async() -> AsyncIterator[int]:
        """Give."""
        yield 1
        raise ValueError("dried up")

    result = go(endpoint, [tool(name="give")(give if kind == "generator" else give_async)], "give")
    assert failed(result)
    assert "ValueError: dried up" in told(result)
    assert result.text == "done"


@both_modes
def test_an_async_generator_returned_by_a_plain_function_is_collected(endpoint: Endpoint, go: Go) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    assert json.loads(told(go(endpoint, [giving(numbers())], "give"))) == [1, 2]


@both_modes
def test_a_coroutine_returned_by_a_plain_function_is_awaited(endpoint: Endpoint, go: Go) -> None:
    async def number() -> int:
        return 3

    assert told(go(endpoint, [tool(name="give", description="Give.")(lambda: number())], "give")) == "3"


def test_an_iterator_within_a_value_is_collected_and_bounded(endpoint: Endpoint) -> None:
    assert json_of(endpoint, {"a": counting(2)}) == {"a": [0, 1]}
    # Not endless: were it not bounded, that would never end.
    assert len(json_of(endpoint, {"a": counting(50 * MOST_ITEMS)})["a"]) == MOST_ITEMS + 1


def test_haystacks_own_agent_gets_a_generators_items(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("flow", {})]), Reply("done"))
    agent = HaystackAgent(chat_generator=generator(endpoint), tools=[tool(Spring(3).flow)])
    try:
        result = agent.run(messages=[ChatMessage.from_user("go")])
    finally:
        agent.close()
    (outcome,) = (outcome for message in result["messages"] for outcome in message.tool_call_results)
    assert json.loads(outcome.result) == [0, 1, 2]
