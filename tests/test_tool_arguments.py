"""A model's arguments are held to the schema, mended only where they can be read in one way, else refused."""

import asyncio
import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from haystack import component
from haystack.components.agents import Agent as HaystackAgent
from haystack.dataclasses import ChatMessage
from haystack.tools import ComponentTool
from haystack.tools.tool import Tool
from pydantic import BaseModel, Field

from llama_agent import ToolDenied, ToolFailedError, ToolFinished, ToolRetry, tool
from tests.calling import Go, agent_on, both_modes, call, failed, generator, outcomes, told
from tests.endpoint import Endpoint, Reply

Json = dict[str, Any]

both_kinds = pytest.mark.parametrize("kind", ["function", "schema"])
MOST_LINES = 10
"""Problems that a model is told of at once."""
MOST_CHARACTERS = 4000
"""Of one message to the model about its arguments."""


INTEGER, NUMBER, STRING = {"type": "integer"}, {"type": "number"}, {"type": "string"}
BOOLEAN, NULL = {"type": "boolean"}, {"type": "null"}
INTEGERS, STRINGS = {"type": "array", "items": INTEGER}, {"type": "array", "items": STRING}


def mapping(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


def an_object(required: bool = True, **properties: Any) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties) if required else []}


def schema_tool(parameters: Json, received: list[Json]) -> Tool:
    """A Haystack Tool with a bare JSON schema, which notes what it is called with."""

    def function(**arguments: Any) -> str:
        received.append(arguments)
        return "ran"

    return Tool(name="note", description="Note.", parameters=parameters, function=function)


def function_tool(annotation: Any, received: list[Json]) -> Callable[..., str]:
    """A function with one parameter, which notes what it is called with."""

    def note(value: annotation) -> str:  # type: ignore[valid-type]
        """Note."""
        received.append({"value": value})
        return "ran"

    return note


def noting_tool(kind: str, received: list[Json], annotation: Any = int, schema: Any = INTEGER) -> Any:
    if kind == "function":
        return function_tool(annotation, received)
    return schema_tool(an_object(value=schema), received)


def problems(result: Any) -> list[str]:
    """The lines about arguments that a model was told of its only call."""
    assert failed(result)
    heading, *lines = told(result).splitlines()
    assert "note" in heading
    return lines


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Item(BaseModel):
    quantity: int
    label: str | None = None


@dataclass
class Point:
    x: int
    y: int = 0


ITEM = {
    "type": "object",
    "properties": {"quantity": {"type": "integer"}, "label": {"type": "string"}},
    "required": ["quantity"],
}

# What is mended, by a function's types and by a bare schema alike: (annotation, schema, sent, arrives).
MENDED = {
    "a whole number in a string": (int, INTEGER, "3", 3),
    "a negative number in a string": (int, INTEGER, "-3", -3),
    "a fraction in a string": (float, NUMBER, "2.5", 2.5),
    "an exponent in a string": (float, NUMBER, "1e3", 1000.0),
    "true in a string": (bool, BOOLEAN, "true", True),
    "false in a string": (bool, BOOLEAN, "false", False),
    "Python's False in a string": (bool, BOOLEAN, "False", False),
    "a list in a string": (list[int], INTEGERS, "[1, 2]", [1, 2]),
    "a list of texts in a string": (list[str], STRINGS, '["a", "b"]', ["a", "b"]),
    "an object in a string": (dict[str, int], {"type": "object"}, '{"a": 1}', {"a": 1}),
    "numbers in strings in a list": (list[int], INTEGERS, ["1", 2], [1, 2]),
    "numbers in strings in a list in a string": (list[int], INTEGERS, '["1"]', [1]),
    "a number in a string that may be null": (int | None, {"anyOf": [INTEGER, NULL]}, "3", 3),
    "a number in a string, types in a list": (int | None, {"type": ["integer", "null"]}, "3", 3),
    "a choice of numbers in a string": (Literal[1, 2], {"type": "integer", "enum": [1, 2]}, "2", 2),
    "a bounded number in a string": (
        Annotated[int, Field(ge=1, le=9)],
        {**INTEGER, "minimum": 1, "maximum": 9},
        "9",
        9,
    ),
    "deep inside": (
        dict[str, list[dict[str, int]]],
        mapping({"type": "array", "items": mapping(INTEGER)}),
        {"a": [{"b": "3"}]},
        {"a": [{"b": 3}]},
    ),
}

# What already fits is left alone: (annotation, schema, value).
LEFT_ALONE = {
    "digits for a text": (str, STRING, "007"),
    "null as a word for a text": (str, STRING, "null"),
    "None as a word for a text that may be null": (str | None, {"anyOf": [STRING, NULL]}, "None"),
    "true as a word for a text": (str, STRING, "true"),
    "a list in a text": (str, STRING, "[1, 2]"),
    "an object in a text": (str, STRING, '{"a": 1}'),
    "an empty text": (str, STRING, ""),
    "spaces around a text": (str, STRING, "  a \n"),
    "digits for a number or text": (int | str, {"anyOf": [INTEGER, STRING]}, "3"),
    "a number for a number or text": (int | str, {"anyOf": [INTEGER, STRING]}, 3),
    "a list in a text for a list or text": (list[int] | str, {"anyOf": [INTEGERS, STRING]}, "[1]"),
    "a choice that exists as text and number": (Literal[1, "1"], {"enum": [1, "1"]}, "1"),
    "null that is allowed": (int | None, {"anyOf": [INTEGER, NULL]}, None),
    "a huge whole number": (int, INTEGER, 10**40),
    "anything": (Any, {}, {"a": ["1", None, "true"]}),
    "zero": (int, INTEGER, 0),
    "false": (bool, BOOLEAN, False),
    "an empty list": (list[int], INTEGERS, []),
}

# What is refused: (annotation, schema, sent). The message names what is expected, and what came.
REFUSED = {
    "a fraction for a whole number": (int, INTEGER, 3.5, "integer"),
    "a fraction in a string for a whole number": (int, INTEGER, "3.5", "integer"),
    "a word for a number": (int, INTEGER, "three", "integer"),
    "a number with a unit": (int, INTEGER, "3 apples", "integer"),
    "Python's underscores in a number": (int, INTEGER, "1_000", "integer"),
    "a thousands separator": (int, INTEGER, "1,000", "integer"),
    "hexadecimal digits": (int, INTEGER, "0x10", "integer"),
    "an empty string for a number": (int, INTEGER, "", "integer"),
    "true for a number": (int, INTEGER, True, "integer"),
    "true for a choice of numbers": (Literal[1, 2], {"enum": [1, 2]}, True, "1"),
    "a list for a number": (int, INTEGER, [3], "integer"),
    "None as a word where null is allowed": (
        int | None,
        {"anyOf": [INTEGER, NULL]},
        "None",
        "integer",
    ),
    "null for a number": (int, INTEGER, None, "required|integer"),
    "not a number": (float, NUMBER, "NaN", "number"),
    "infinity": (float, NUMBER, "Infinity", "number"),
    "a number too large for a float": (float, NUMBER, "1e999", "number"),
    "a long number too large for a float": (float, NUMBER, "1" * 400, "number"),
    "yes for true": (bool, BOOLEAN, "yes", "boolean"),
    "two for true": (bool, BOOLEAN, 2, "boolean"),
    "a word for true": (bool, BOOLEAN, "maybe", "boolean"),
    "a list for a text": (str, STRING, ["a"], "string"),
    "an object for a text": (str, STRING, {"a": 1}, "string"),
    "words with commas for a list": (list[str], STRINGS, "a, b", "array"),
    "an object for a list": (list[int], INTEGERS, {"a": 1}, "array"),
    "an object in a string for a list": (list[int], INTEGERS, '{"a": 1}', "array"),
    "a list for an object": (
        dict[str, int],
        mapping(INTEGER),
        [1],
        "object",
    ),
    "half a list in a string": (list[int], INTEGERS, "[1, 2", "array"),
    "no choice": (Literal["small", "large"], {"enum": ["small", "large"]}, "medium", "'small'"),
    "a choice in capitals": (Size, {"enum": ["small", "large"]}, "Small", "'small'"),
    "too large": (Annotated[int, Field(le=9)], {**INTEGER, "maximum": 9}, 10, "9"),
    "too large, in a string": (Annotated[int, Field(le=9)], {**INTEGER, "maximum": 9}, "10", "9"),
    "too small": (Annotated[int, Field(gt=0)], {**INTEGER, "exclusiveMinimum": 0}, 0, "0"),
    "too long": (Annotated[str, Field(max_length=2)], {**STRING, "maxLength": 2}, "abc", "2"),
    "too few": (Annotated[list[int], Field(min_length=2)], {**INTEGERS, "minItems": 2}, [1], "2"),
    "no match": (
        Annotated[str, Field(pattern="^[a-z]$")],
        {**STRING, "pattern": "^[a-z]$"},
        "A1",
        r"\[a-z\]",
    ),
    "no multiple": (Annotated[int, Field(multiple_of=5)], {**INTEGER, "multipleOf": 5}, 7, "5"),
}


def table(rows: dict[str, Any], columns: str) -> Any:
    return pytest.mark.parametrize(columns, rows.values(), ids=rows)


@table(MENDED, "annotation, schema, sent, arrives")
@both_kinds
def test_what_can_be_read_in_one_way_is_mended(
    endpoint: Endpoint, kind: str, annotation: Any, schema: Json, sent: Any, arrives: Any
) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received, annotation, schema)
    result = call(endpoint, [noting], "note", {"value": sent})
    assert told(result) == "ran"
    assert received == [{"value": arrives}]
    assert type(received[0]["value"]) is type(arrives)


@table(LEFT_ALONE, "annotation, schema, value")
@both_kinds
def test_what_fits_is_left_alone(
    endpoint: Endpoint, kind: str, annotation: Any, schema: Json, value: Any
) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received, annotation, schema)
    result = call(endpoint, [noting], "note", {"value": value})
    assert told(result) == "ran"
    assert received == [{"value": value}]
    assert type(received[0]["value"]) is type(value)


@table(REFUSED, "annotation, schema, sent, expected")
@both_kinds
def test_what_doesnt_fit_is_refused_with_place_expectation_and_value(
    endpoint: Endpoint, kind: str, annotation: Any, schema: Json, sent: Any, expected: str
) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received, annotation, schema)
    (line,) = problems(call(endpoint, [noting], "note", {"value": sent}))
    place, _, text = line.partition(": ")
    assert place == "value"
    assert re.search(expected, text)
    if sent is not None:
        assert repr(sent)[:50].strip("'") in text
    assert received == []


# A function's own types are held to the schema before pydantic reads them.


@pytest.mark.parametrize(
    ("annotation", "sent"),
    [
        (date, 1_700_000_000),
        (date, "23.11.2026"),
        (Path, 3),
        (set[int], "abc"),
        (tuple[int, str], [1]),
        (tuple[int, str], [1, "a", 2]),
        (Point, [1, 2]),
        (Item, {"quantity": 1.5}),
        (Item, {"label": "x"}),
        (list[Item], {"quantity": 1}),
        (bytes, "not base64!"),
    ],
    ids=str,
)
def test_a_type_takes_only_its_own_json(endpoint: Endpoint, annotation: Any, sent: Any) -> None:
    received: list[Json] = []
    result = call(endpoint, [function_tool(annotation, received)], "note", {"value": sent})
    assert problems(result)
    assert received == []


@pytest.mark.parametrize(
    ("annotation", "sent", "arrives"),
    [
        (Point, {"x": "1"}, Point(1)),
        (Point, '{"x": 1, "y": "2"}', Point(1, 2)),
        (Item, {"quantity": "2"}, Item(quantity=2)),
        (list[Item], [{"quantity": "2", "label": None}], [Item(quantity=2)]),
        (list[Item], '[{"quantity": 2}]', [Item(quantity=2)]),
        (dict[str, Point], {"a": '{"x": "1"}'}, {"a": Point(1)}),
        (Item | None, '{"quantity": "2"}', Item(quantity=2)),
        (Size, "small", Size.SMALL),
        (set[int], ["1", "1"], {1}),
        (tuple[int, str], ["1", "2"], (1, "2")),
        (date, "2026-11-23", date(2026, 11, 23)),
    ],
    ids=str,
)
def test_mended_arguments_arrive_as_the_functions_types(
    endpoint: Endpoint, annotation: Any, sent: Any, arrives: Any
) -> None:
    received: list[Json] = []
    assert told(call(endpoint, [function_tool(annotation, received)], "note", {"value": sent})) == "ran"
    assert received == [{"value": arrives}]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_bytes_arrive_from_either_alphabet_of_base64(endpoint: Endpoint, encode: Any) -> None:
    received: list[Json] = []
    data = bytes(range(256))
    noting = function_tool(bytes, received)
    assert told(call(endpoint, [noting], "note", {"value": encode(data).decode()})) == "ran"
    assert received == [{"value": data}]


# Null, and what is left out.


def book(city: str, nights: int = 1, guest: str | None = "Ann") -> str:
    """Book.

    Args:
        city: Where.
        nights: How many.
        guest: Who.
    """
    return f"{city} {nights} {guest}"


BOOK = {
    "type": "object",
    "properties": {"city": STRING, "nights": INTEGER, "guest": {"anyOf": [STRING, NULL]}},
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"city": "Oslo"}, "Oslo 1 Ann"),
        ({"city": "Oslo", "nights": None}, "Oslo 1 Ann"),
        ({"city": "Oslo", "guest": None}, "Oslo 1 None"),
        ({"city": "Oslo", "nights": None, "guest": None}, "Oslo 1 None"),
        ({"city": "Oslo", "nights": "2", "guest": "null"}, "Oslo 2 null"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "noting",
    [book, Tool(name="book", description="Book.", parameters=BOOK, function=book)],
    ids=["function", "schema"],
)
def test_null_is_kept_where_allowed_and_dropped_where_optional(
    endpoint: Endpoint, noting: Any, arguments: Json, text: str
) -> None:
    assert told(call(endpoint, [noting], "book", arguments)) == text


def test_null_for_an_optional_key_deep_inside_is_dropped(endpoint: Endpoint) -> None:
    received: list[Json] = []
    noting = schema_tool(an_object(items={"type": "array", "items": ITEM}), received)
    call(endpoint, [noting], "note", {"items": [{"quantity": 1, "label": None}]})
    assert received == [{"items": [{"quantity": 1}]}]


# Names that the model invents.


@pytest.mark.parametrize("value", [None, "", [], {}], ids=repr)
@both_kinds
def test_an_invented_argument_without_a_value_is_dropped(endpoint: Endpoint, kind: str, value: Any) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received)
    assert told(call(endpoint, [noting], "note", {"value": 1, "dry_run": value})) == "ran"
    assert received == [{"value": 1}]


@pytest.mark.parametrize("value", [True, False, 0, "x", [0], {"a": None}], ids=repr)
@both_kinds
def test_an_invented_argument_with_a_value_is_refused_with_the_accepted_names(
    endpoint: Endpoint, kind: str, value: Any
) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received)
    (line,) = problems(call(endpoint, [noting], "note", {"value": 1, "dry_run": value}))
    assert line.startswith("dry_run: ")
    assert "value" in line.removeprefix("dry_run: ")
    assert received == []


@pytest.mark.parametrize(
    "schema",
    [
        {**an_object(value=INTEGER), "additionalProperties": True},
        {**an_object(value=INTEGER), "additionalProperties": {}},
        {**an_object(value=INTEGER), "additionalProperties": INTEGER},
        {**an_object(value=INTEGER), "patternProperties": {"^dry": INTEGER}},
        {"type": "object"},
        {},
    ],
    ids=str,
)
def test_an_open_schema_takes_further_arguments(endpoint: Endpoint, schema: Json) -> None:
    received: list[Json] = []
    assert told(call(endpoint, [schema_tool(schema, received)], "note", {"value": 1, "dry_run": 2})) == "ran"
    assert received == [{"value": 1, "dry_run": 2}]


@pytest.mark.parametrize("further", [mapping(INTEGER), {"patternProperties": {"^dry": INTEGER}}], ids=str)
def test_further_arguments_are_mended_and_checked_by_their_schema(endpoint: Endpoint, further: Json) -> None:
    received: list[Json] = []
    noting = schema_tool({**further, **an_object(value=INTEGER)}, received)
    assert told(call(endpoint, [noting], "note", {"value": 1, "dry_run": "2"})) == "ran"
    assert received == [{"value": 1, "dry_run": 2}]
    (line,) = problems(call(endpoint, [noting], "note", {"value": 1, "dry_run": "x"}))
    assert line.startswith("dry_run: ")


@both_kinds
def test_a_misspelt_name_is_answered_with_the_likely_one(endpoint: Endpoint, kind: str) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received)
    lines = problems(call(endpoint, [noting], "note", {"valeu": 1}))
    assert {line.partition(":")[0] for line in lines} == {"value", "valeu"}
    assert any("did you mean value" in line for line in lines)


@both_kinds
def test_arguments_wrapped_in_parameters_are_unwrapped(endpoint: Endpoint, kind: str) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received)
    assert told(call(endpoint, [noting], "note", {"parameters": {"value": "1"}})) == "ran"
    assert received == [{"value": 1}]


@pytest.mark.parametrize(
    "arguments",
    [
        {"parameters": {"value": "one"}},
        {"parameters": {"value": 1}, "value": 2},
        {"parameters": {"value": 1, "dry_run": True}},
        {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]},
        {"type": "integer", "value": 1},
    ],
    ids=str,
)
@both_kinds
def test_a_wrong_wrapping_or_an_echo_of_the_schema_is_refused(
    endpoint: Endpoint, kind: str, arguments: Json
) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received)
    assert problems(call(endpoint, [noting], "note", arguments))
    assert received == []


def test_a_parameter_that_is_called_parameters_isnt_unwrapped(endpoint: Endpoint) -> None:
    received: list[Json] = []
    noting = schema_tool(an_object(parameters={"type": "object"}), received)
    assert told(call(endpoint, [noting], "note", {"parameters": {"parameters": {}}})) == "ran"
    assert received == [{"parameters": {"parameters": {}}}]


# What the message looks like.


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"items": [{"quantity": 1}, {"quantity": "two"}]}, "items.1.quantity"),
        ({"items": [{"quantity": 1}, {}]}, "items.1.quantity"),
        ({"items": [3]}, "items.0"),
        ({"items": [{"quantity": 1, "label": [1]}]}, "items.0.label"),
        ({"items": "[1]"}, "items.0"),
    ],
    ids=str,
)
@both_kinds
def test_a_problem_deep_inside_is_named_by_its_path(
    endpoint: Endpoint, kind: str, arguments: Json, place: str
) -> None:
    def note(items: list[Item]) -> str:
        """Note."""
        return "ran"

    by_schema = schema_tool(an_object(items={"type": "array", "items": ITEM}), [])
    (line,) = problems(call(endpoint, [note if kind == "function" else by_schema], "note", arguments))
    assert line.startswith(f"{place}: ")


def many_problems(kind: str) -> Any:
    def note(items: list[int]) -> str:
        """Note."""
        return "ran"

    return note if kind == "function" else schema_tool(an_object(items=INTEGERS), [])


@pytest.mark.parametrize("count", [1, 2, MOST_LINES, MOST_LINES + 1, 1000])
@both_kinds
def test_each_problem_is_one_line_up_to_ten(endpoint: Endpoint, kind: str, count: int) -> None:
    result = call(endpoint, [many_problems(kind)], "note", {"items": ["x"] * count})
    lines = problems(result)
    shown = [line for line in lines if line.startswith("items.")]
    assert len(shown) == min(count, MOST_LINES)
    if count > MOST_LINES:
        assert str(count - MOST_LINES) in "".join(lines[len(shown) :])
    assert len(lines) <= MOST_LINES + 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"items": "x" * 50_000},
        {"items": ["x" * 50_000] * 50},
        {"items": [["x"] * 50_000]},
        {"items": [{"k": "x" * 50_000}]},
        {"items": [1], "x" * 50_000: 1},
        {"items": [1], **{f"invented{n}": 1 for n in range(500)}},
        {"items": [{"x" * 50_000: 1}]},
    ],
    ids=["text", "texts", "list", "object", "name", "names", "key"],
)
@both_kinds
def test_whatever_was_wrong_the_message_is_short(endpoint: Endpoint, kind: str, arguments: Json) -> None:
    result = call(endpoint, [many_problems(kind)], "note", arguments)
    assert len(problems(result)) <= MOST_LINES + 1
    assert len(told(result)) < MOST_CHARACTERS


@pytest.mark.parametrize("breaking", ["\n", "\r\n", "\u2028", "\x0b"], ids=ascii)
@both_kinds
def test_line_breaks_of_the_model_stay_on_their_line(endpoint: Endpoint, kind: str, breaking: str) -> None:
    arguments = {"items": [f"a{breaking}b"], f"c{breaking}d": 1}
    assert len(problems(call(endpoint, [many_problems(kind)], "note", arguments))) == 2


def test_many_accepted_names_and_choices_are_shortened(endpoint: Endpoint) -> None:
    choices = {"enum": [f"choice number {n}" for n in range(200)]}
    strings = {f"parameter_{n}": STRING for n in range(100)}
    parameters = an_object(required=False, **strings, choice=choices)
    result = call(endpoint, [schema_tool(parameters, [])], "note", {"choice": "none", "invented": 1})
    assert len(problems(result)) == 2
    assert len(told(result)) < MOST_CHARACTERS


# Haystack Tools and their schemas.


@both_modes
def test_a_haystack_tool_with_an_async_function_is_mended_and_checked(endpoint: Endpoint, go: Go) -> None:
    async def double(value: int) -> str:
        return str(2 * value)

    doubling = Tool(
        name="note", description="Double.", parameters=an_object(value=INTEGER), async_function=double
    )
    assert told(go(endpoint, [doubling], "note", {"value": "3"})) == "6"
    assert problems(go(endpoint, [doubling], "note", {"value": "x"}))


def test_a_component_as_a_tool_is_mended_and_checked(endpoint: Endpoint) -> None:
    @component
    class Doubler:
        """Doubles."""

        @component.output_types(value=int)
        def run(self, value: int) -> Json:
            """
            Double.

            :param value: The number.
            """
            return {"value": 2 * value}

    doubling = ComponentTool(component=Doubler(), name="note")
    assert told(call(endpoint, [doubling], "note", {"value": "3"})) == '{"value":6}'
    assert problems(call(endpoint, [doubling], "note", {"value": "x"}))


@pytest.mark.parametrize(
    ("schema", "value", "ok"),
    [
        ({"const": "x"}, "x", True),
        ({"const": "x"}, "y", False),
        ({**INTEGERS, "uniqueItems": True}, [1, 1], False),
        ({**INTEGERS, "contains": {"const": 3}}, [1], False),
        ({"type": "array", "prefixItems": [INTEGER, STRING], "items": False}, [1, "a"], True),
        ({"type": "array", "prefixItems": [INTEGER, STRING], "items": False}, [1, "a", 2], False),
        ({"not": INTEGER}, 3, False),
        ({"oneOf": [INTEGER, NUMBER]}, 3, False),
        ({"oneOf": [INTEGER, STRING]}, 3, True),
        ({"allOf": [INTEGER, {"maximum": 3}]}, 4, False),
        ({"type": "object", "minProperties": 1}, {}, False),
        ({"type": "object", "propertyNames": {"maxLength": 1}}, {"ab": 1}, False),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, {"a": 1}, False),
        ({"if": {"const": 1}, "then": {"const": 2}}, 1, False),
        ({**an_object(a=INTEGER), "additionalProperties": False}, {"a": 1, "b": 2}, False),
        ({"enum": [1]}, True, False),
        ({"enum": [False]}, 0, False),
        (True, 3, True),
        (False, 3, False),
    ],
    ids=str,
)
def test_every_keyword_of_json_schema_counts(endpoint: Endpoint, schema: Any, value: Any, ok: bool) -> None:
    received: list[Json] = []
    result = call(endpoint, [schema_tool(an_object(value=schema), received)], "note", {"value": value})
    if ok:
        assert received == [{"value": value}]
    else:
        assert all(line.startswith("value") for line in problems(result))
        assert received == []


NODE = {
    "type": "object",
    "properties": {"value": INTEGER, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    "required": ["value"],
}


@pytest.mark.parametrize(
    ("schema", "arguments", "arrives"),
    [
        (
            {**an_object(value={"$ref": "#/$defs/count"}), "$defs": {"count": INTEGER}},
            {"value": "3"},
            {"value": 3},
        ),
        (
            {**an_object(value={"$ref": "#/definitions/a/b"}), "definitions": {"a": {"b": INTEGER}}},
            {"value": "3"},
            {"value": 3},
        ),
        (
            {**an_object(value={"$ref": "#/$defs/a~1b"}), "$defs": {"a/b": INTEGER}},
            {"value": "3"},
            {"value": 3},
        ),
        (
            {**an_object(value={"$ref": "#/$defs/a"}), "$defs": {"a": {"$ref": "#/$defs/b"}, "b": INTEGER}},
            {"value": "3"},
            {"value": 3},
        ),
        (
            {**an_object(value={"allOf": [{"$ref": "#/$defs/count"}]}), "$defs": {"count": INTEGER}},
            {"value": "3"},
            {"value": 3},
        ),
        ({"$ref": "#/$defs/all", "$defs": {"all": an_object(value=INTEGER)}}, {"value": "3"}, {"value": 3}),
        (
            {**an_object(value={"$ref": "#/$defs/node"}), "$defs": {"node": NODE}},
            {"value": {"value": "1", "children": '[{"value": "2"}]'}},
            {"value": {"value": 1, "children": [{"value": 2}]}},
        ),
    ],
    ids=["defs", "definitions", "escaped", "chain", "allOf", "root", "recursive"],
)
def test_references_within_a_schema_are_followed(
    endpoint: Endpoint, schema: Json, arguments: Json, arrives: Json
) -> None:
    received: list[Json] = []
    assert told(call(endpoint, [schema_tool(schema, received)], "note", arguments)) == "ran"
    assert received == [arrives]


def test_a_problem_in_a_recursive_schema_is_named_by_its_path(endpoint: Endpoint) -> None:
    schema = {**an_object(value={"$ref": "#/$defs/node"}), "$defs": {"node": NODE}}
    arguments = {"value": {"value": 1, "children": [{"value": 2, "children": [{"value": "x"}]}]}}
    (line,) = problems(call(endpoint, [schema_tool(schema, [])], "note", arguments))
    assert line.startswith("value.children.0.children.0.value: ")


# Hostile schemas.


@pytest.mark.parametrize("place", ["property", "defs", "items", "root"])
def test_a_reference_to_another_server_is_never_fetched(endpoint: Endpoint, place: str) -> None:
    reference = {"$ref": f"{endpoint.url}/schema.json"}
    schema = {
        "property": an_object(value=reference),
        "defs": {**an_object(value={"$ref": "#/$defs/far"}), "$defs": {"far": reference}},
        "items": an_object(value={"type": "array", "items": reference}),
        "root": {**an_object(value={}), "allOf": [reference]},
    }[place]
    result = call(endpoint, [schema_tool(schema, [])], "note", {"value": ["3"]})
    assert result.text == "done"
    assert {request.path for request in endpoint.all_requests} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    "reference",
    [
        "http://example.com/schema.json",
        "https://example.com/schema.json#/a",
        "//example.com/schema.json",
        "file:///etc/hostname",
        "schema.json",
        "#/$defs/missing",
        "#missing",
        "#/properties/value",
        "#",
        "urn:x",
        "http://[",
    ],
)
def test_a_reference_that_leads_nowhere_harms_neither_the_run_nor_other_checks(
    endpoint: Endpoint, reference: str
) -> None:
    received: list[Json] = []
    schema = {
        "type": "object",
        "properties": {"value": {"$ref": reference}, "count": INTEGER},
        "required": ["count"],
    }
    result = call(endpoint, [schema_tool(schema, received)], "note", {"count": "3"})
    assert (received, result.text) == ([{"count": 3}], "done")
    lines = problems(call(endpoint, [schema_tool(schema, received)], "note", {"count": "x", "invented": 1}))
    assert {line.partition(":")[0] for line in lines} == {"count", "invented"}


@pytest.mark.parametrize(
    "value",
    [
        {"$ref": "#/$defs/loop"},
        {"$ref": "#/properties/value"},
        {"allOf": [{"$ref": "#/$defs/loop"}]},
        {"anyOf": [{"$ref": "#/$defs/loop"}, INTEGER]},
        {"anyOf": [{"$ref": "#/properties/value"}, INTEGER]},
        {"$ref": "#/$defs/ping"},
    ],
    ids=str,
)
def test_references_in_a_circle_dont_hang_or_end_the_run(endpoint: Endpoint, value: Json) -> None:
    defs = {
        "loop": {"$ref": "#/$defs/loop"},
        "ping": {"$ref": "#/$defs/pong"},
        "pong": {"allOf": [{"$ref": "#/$defs/ping"}]},
    }
    schema = {**an_object(value=value), "$defs": defs}
    assert call(endpoint, [schema_tool(schema, [])], "note", {"value": "1"}).text == "done"


def test_a_schema_with_hundreds_of_alternatives_is_no_burden(endpoint: Endpoint) -> None:
    alternatives = [an_object(**{f"key{n}": INTEGER}) for n in range(100)]
    schema = an_object(value={"anyOf": alternatives})
    received: list[Json] = []
    result = call(endpoint, [schema_tool(schema, received)], "note", {"value": {"key99": 1}})
    assert (told(result), received) == ("ran", [{"value": {"key99": 1}}])
    result = call(endpoint, [schema_tool(schema, [])], "note", {"value": {"key": "x"}})
    assert problems(result)
    assert len(told(result)) < MOST_CHARACTERS


def test_alternatives_within_alternatives_dont_multiply(endpoint: Endpoint) -> None:
    defs: Json = {"level0": INTEGER}
    arguments: Any = "x"
    for level in range(25):
        deeper = {"$ref": f"#/$defs/level{level}"}
        defs[f"level{level + 1}"] = {"anyOf": [an_object(a=deeper), an_object(b=deeper)]}
        arguments = {"a": arguments}
    schema = {**an_object(value={"$ref": "#/$defs/level25"}), "$defs": defs}
    result = call(endpoint, [schema_tool(schema, [])], "note", {"value": arguments})
    assert problems(result)
    assert len(told(result)) < MOST_CHARACTERS


# Deep arguments.


def deep_list(levels: int) -> str:
    return '{"value": ' + "[" * levels + "]" * levels + "}"


def deep_nodes(levels: int, last: str) -> str:
    node = f'{{"value": {last}}}'
    for _ in range(levels):
        node = f'{{"value": 1, "children": [{node}]}}'
    return f'{{"value": {node}}}'


class Node(BaseModel):
    value: int
    children: list["Node"] = []


def deep_tools(received: list[Json]) -> Iterator[tuple[Any, Any]]:
    schema = {**an_object(value={"$ref": "#/$defs/node"}), "$defs": {"node": NODE}}
    yield function_tool(Any, received), function_tool(Node, received)
    yield schema_tool(an_object(value={}), received), schema_tool(schema, received)


@pytest.mark.parametrize("kind", [0, 1], ids=["function", "schema"])
def test_deep_arguments_arrive_and_problems_in_them_are_found(endpoint: Endpoint, kind: int) -> None:
    received: list[Json] = []
    anything, nodes = list(deep_tools(received))[kind]
    assert told(call(endpoint, [anything], "note", deep_list(150))) == "ran"
    assert json.dumps(received[0]) == deep_list(150)
    assert told(call(endpoint, [nodes], "note", deep_nodes(10, '"7"'))) == "ran"
    assert told(call(endpoint, [nodes], "note", deep_nodes(45, "7"))) == "ran"
    for levels in (10, 45):
        (line,) = problems(call(endpoint, [nodes], "note", deep_nodes(levels, '"x"')))
        assert line.startswith("value.children.0.")
        assert "'x'" in line


@pytest.mark.parametrize("levels", [200, 1000, 100_000])
@pytest.mark.parametrize("kind", [0, 1], ids=["function", "schema"])
def test_arguments_of_absurd_depth_dont_end_the_run(endpoint: Endpoint, kind: int, levels: int) -> None:
    received: list[Json] = []
    anything, nodes = list(deep_tools(received))[kind]
    for noting, arguments in [(anything, deep_list(levels)), (nodes, deep_nodes(min(levels, 2000), "1"))]:
        result = call(endpoint, [noting], "note", arguments)
        assert result.text == "done"
        assert received if told(result) == "ran" else "'note' was not called" in told(result)
        assert len(told(result)) < MOST_CHARACTERS
        received.clear()


# A tool that asks for other arguments, or refuses.


def asks_again(value: int) -> str:
    """Note."""
    if value < 10:
        raise ToolRetry("value is too small: give 10 or more")
    return "ran"


def refuses(value: int) -> str:
    """Note."""
    raise ToolDenied("value is a secret")


async def asks_again_async(value: int) -> str:
    """Note."""
    return asks_again(value)


async def refuses_async(value: int) -> str:
    """Note."""
    return refuses(value)


def asks_again_while_it_counts(value: int) -> Iterator[int]:
    """Note."""
    yield 1
    asks_again(value)


def by_schema(function: Any) -> Tool:
    return Tool(name="note", description="Note.", parameters=an_object(value=INTEGER), function=function)


RETRIES = {
    "function": tool(name="note")(asks_again),
    "async function": tool(name="note")(asks_again_async),
    "generator": tool(name="note")(asks_again_while_it_counts),
    "schema": by_schema(asks_again),
}
DENIALS = {
    "function": tool(name="note")(refuses),
    "async function": tool(name="note")(refuses_async),
    "schema": by_schema(refuses),
}
SAYS = [(noting, "value is too small: give 10 or more") for noting in RETRIES.values()]
SAYS += [(noting, "value is a secret") for noting in DENIALS.values()]


@both_modes
@pytest.mark.parametrize("raising", [False, True], ids=["telling", "raising"])
@pytest.mark.parametrize(
    ("noting", "text"), SAYS, ids=[f"retry by {k}" for k in RETRIES] + [f"denial by {k}" for k in DENIALS]
)
def test_what_a_tool_says_to_the_model_reaches_it_and_never_the_caller(
    endpoint: Endpoint, go: Go, noting: Tool, text: str, raising: bool
) -> None:
    settings = {"raise_on_tool_invocation_failure": raising}
    result = go(endpoint, [noting], "note", {"value": 3}, agent=settings)
    assert failed(result)
    assert text in told(result)
    assert "Traceback" not in told(result)
    (finished,) = (event for event in result.events if isinstance(event, ToolFinished))
    assert (finished.error, finished.traceback) == (True, None)
    assert result.text == "done"


def test_a_retry_lets_the_model_try_again(endpoint: Endpoint) -> None:
    endpoint.script(*(Reply(calls=[("note", {"value": value})]) for value in (3, 11)), Reply("done"))
    with agent_on(endpoint, [RETRIES["function"]]) as agent:
        result = agent.run("go")
    assert [(outcome.error, outcome.result == "ran") for outcome in outcomes(result)] == [
        (True, False),
        (False, True),
    ]


def test_a_retry_and_a_denial_read_differently(endpoint: Endpoint) -> None:
    def say(error: Exception) -> str:
        def note() -> str:
            """Note."""
            raise error

        return told(call(endpoint, [note], "note"))

    assert say(ToolRetry("the same words")) != say(ToolDenied("the same words"))


def test_a_tool_that_asks_again_doesnt_end_the_run_as_an_exit_condition(endpoint: Endpoint) -> None:
    result = call(endpoint, [RETRIES["function"]], "note", {"value": 3}, agent={"exit_conditions": ["note"]})
    assert (result.stop_reason, result.text) == ("answered", "done")


@pytest.mark.parametrize("error", [ToolRetry(), ToolDenied(), ToolRetry("a\nb")], ids=repr)
def test_a_tool_may_say_nothing_or_several_lines(endpoint: Endpoint, error: Exception) -> None:
    def note() -> str:
        """Note."""
        raise error

    result = call(endpoint, [note], "note")
    assert failed(result)
    assert told(result)
    assert result.text == "done"


def test_any_other_exception_keeps_its_traceback_and_can_be_raised(endpoint: Endpoint) -> None:
    def note() -> str:
        """Note."""
        raise ValueError("broken")

    result = call(endpoint, [note], "note")
    (finished,) = (event for event in result.events if isinstance(event, ToolFinished))
    assert "Traceback" in str(finished.traceback)
    endpoint.script(Reply(calls=[("note", {})]))
    with (
        agent_on(endpoint, [note], raise_on_tool_invocation_failure=True) as agent,
        pytest.raises(ToolFailedError, match="broken"),
    ):
        agent.run("go")


@both_kinds
def test_wrong_arguments_raise_only_where_that_is_asked_for(endpoint: Endpoint, kind: str) -> None:
    received: list[Json] = []
    noting = noting_tool(kind, received)
    endpoint.script(Reply(calls=[("note", {"value": "x"})]))
    with (
        agent_on(endpoint, [noting], raise_on_tool_invocation_failure=True) as agent,
        pytest.raises(ToolFailedError, match="value: "),
    ):
        agent.run("go")
    assert received == []


@pytest.mark.parametrize(
    ("noting", "text"),
    [(RETRIES["function"], "give 10 or more"), (DENIALS["function"], "value is a secret")],
    ids=["retry", "denial"],
)
def test_haystacks_own_agent_tells_the_model_as_well(endpoint: Endpoint, noting: Tool, text: str) -> None:
    endpoint.script(Reply(calls=[("note", {"value": 3})]), Reply("done"))
    agent = HaystackAgent(chat_generator=generator(endpoint), tools=[noting])
    try:
        result = agent.run(messages=[ChatMessage.from_user("go")])
    finally:
        agent.close()
    (outcome,) = (outcome for message in result["messages"] for outcome in message.tool_call_results)
    assert outcome.error
    assert text in outcome.result


# Arguments belong to one call.


def test_calls_beside_each_other_dont_share_their_arguments(endpoint: Endpoint) -> None:
    barrier = threading.Barrier(2)
    received: list[list[int]] = []

    def note(values: list[int]) -> str:
        """Note."""
        barrier.wait(5)
        values.append(0)
        received.append(values)
        return "ran"

    endpoint.script(Reply(calls=[("note", {"values": [1]}), ("note", {"values": [1]})]), Reply("done"))
    with agent_on(endpoint, [note]) as agent:
        result = agent.run("go")
    assert received == [[1, 0], [1, 0]]
    sent = endpoint.requests[-1].messages[1]["tool_calls"]
    assert [json.loads(each["function"]["arguments"]) for each in sent] == [{"values": [1]}] * 2
    assert result.text == "done"


def test_the_same_check_holds_when_a_tool_is_invoked_by_hand() -> None:
    received: list[Json] = []
    noting = tool(function_tool(int, received))
    assert noting.invoke(value="3") == "ran"
    assert asyncio.run(noting.invoke_async(value="4")) == "ran"
    assert received == [{"value": 3}, {"value": 4}]
