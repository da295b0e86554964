"""The schemas that a model reads: only what it needs, always in one order; and their strict form."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import pytest
import typing_extensions
from haystack.tools.errors import ToolInvocationError
from haystack.tools.tool import Tool
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field

from llama_agent import Agent, ConfigurationError, tool
from tests.conftest import Maker
from tests.endpoint import Endpoint, Reply

Json = dict[str, Any]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    model_config = ConfigDict(title="An address")
    street: str = Field(title="The street")
    title: str
    number: int | None = None


class Person(BaseModel):
    name: str
    home: Address
    work: Address | None = None
    colour: Colour = Colour.RED


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


class Egg(BaseModel):
    hen: "Hen | None" = None


class Hen(BaseModel):
    eggs: list[Egg] = []


class Forest(BaseModel):
    trees: list[Tree]
    owner: Address


@dataclasses.dataclass
class Link:
    value: int
    next: "Link | None" = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Movie(TypedDict, total=False):
    title: typing_extensions.Required[str]
    year: int


class Pair(NamedTuple):
    left: int
    right: str = "r"


Nested = typing_extensions.TypeAliasType("Nested", "int | list[Nested]")

HINTS: list[Any] = [
    *(int, str | None, list[int], dict[str, Address], Colour, Address, Person, Tree, Forest, Hen, Link, Pet),
    *(Movie, Pair, Nested, list[Tree], dict[str, Link], tuple[Address, Tree], Address | Tree | None, Any),
    *(list[Pet], Tree | None, Literal["a", 1], Cat | Dog, set[Colour], Annotated[Tree, "A tree."]),
]


def taking(hint: Any, *default: Any) -> Any:
    """A tool whose only parameter, `value`, has this type; it gives back what arrived."""

    def take(value):  # type: ignore[no-untyped-def]
        """Take a value."""
        return value

    take.__annotations__ = {"value": hint}
    take.__defaults__ = default or None
    return tool(take)


def shown(hint: Any, *default: Any) -> Json:
    return taking(hint, *default).parameters["properties"]["value"]


def subschemas(schema: Any) -> Iterator[Json]:
    """A schema and every schema in it; a default or an enum holds none."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in ("properties", "$defs", "patternProperties"):
        for item in schema.get(key, {}).values():
            yield from subschemas(item)
    for key in ("items", "additionalProperties"):
        yield from subschemas(schema.get(key))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for item in schema.get(key, []):
            yield from subschemas(item)


def references(schema: Any) -> Iterator[str]:
    """Everything in a schema that points into it, under whatever key."""
    if isinstance(schema, dict):
        schema = list(schema.values())
    if isinstance(schema, list):
        for item in schema:
            yield from references(item)
    elif isinstance(schema, str) and schema.startswith("#/"):
        yield schema


def sent_strictly(make: Maker, endpoint: Endpoint, function: Any) -> Json:
    """The definition of a tool as a server gets it that wants strict ones."""
    endpoint.script(Reply("no"))
    with Agent(chat_generator=make(tools_strict=True), tools=[function]) as agent:
        agent.run("go")
    (sent,) = endpoint.requests[-1].json["tools"]
    return sent["function"]


def arrived(make: Maker, endpoint: Endpoint, function: Any, arguments: Json, **settings: Any) -> str:
    """What a model is told of one call with these arguments."""
    endpoint.script(Reply(calls=[(tool(function).name, arguments)]), Reply("done"))
    with Agent(chat_generator=make(**settings), tools=[function]) as agent:
        agent.run("go")
    return str(endpoint.requests[-1].messages[-1]["content"])


# Nothing that a model needn't read.


@pytest.mark.parametrize("hint", HINTS, ids=repr)
def test_no_schema_has_a_title(hint: Any) -> None:
    schema = taking(hint).parameters
    Draft202012Validator.check_schema(schema)
    assert [item for item in subschemas(schema) if "title" in item] == []


@pytest.mark.parametrize("hint", [Address, Movie, Person, list[Movie], Address | None])
def test_a_field_may_be_called_title(hint: Any) -> None:
    found = [
        item["properties"]["title"]
        for item in subschemas(shown(hint))
        if "title" in item.get("properties", {})
    ]
    assert found
    assert all(field["type"] == "string" for field in found)


def test_parameters_may_be_called_like_schema_keywords() -> None:
    names = ["title", "default", "type", "properties", "required", "items", "anyOf", "description", "enum"]
    space: Json = {}
    exec(f'def odd({", ".join(names)}):\n    """Odd."""\n    return locals()', space)
    space["odd"].__annotations__ = dict.fromkeys(names, int)
    made = tool(space["odd"])
    assert made.parameters == {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "required": names,
    }
    assert made.invoke(**dict.fromkeys(names, "1")) == dict.fromkeys(names, 1)


def test_fields_may_be_called_like_schema_keywords() -> None:
    names = ["title", "default", "items", "anyOf", "enum", "required", "properties", "additionalProperties"]
    made = taking(typing_extensions.TypedDict("Odd", dict.fromkeys(names, int)))  # type: ignore[operator]
    assert made.parameters["properties"]["value"] == {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "required": names,
    }
    assert made.invoke(value=dict.fromkeys(names, "1")) == dict.fromkeys(names, 1)


def test_a_default_may_hold_keys_like_schema_keywords() -> None:
    default = {"title": "T", "default": None, "additionalProperties": False, "$ref": "#/nowhere"}
    assert shown(dict[str, Any], default)["default"] == default


@pytest.mark.parametrize("hint", HINTS, ids=repr)
def test_the_ordinary_form_doesnt_say_that_objects_are_closed(hint: Any) -> None:
    assert not any(item.get("additionalProperties") is False for item in subschemas(taking(hint).parameters))


def test_a_model_without_a_docstring_has_no_description_and_one_with_has_it() -> None:
    class Told(BaseModel):
        """What it is."""

        a: int

    assert shown(Told)["description"] == "What it is."
    assert "description" not in shown(Address)


def test_a_function_without_parameters_asks_for_an_empty_object() -> None:
    def now() -> str:
        """Tell the time."""
        return "noon"

    assert tool(now).parameters == {"type": "object", "properties": {}}


# References.


@pytest.mark.parametrize(
    "hint",
    [Address, Person, list[Person], dict[str, Address], Address | Person, Movie, Pair, Colour, Cat | Dog],
)
def test_what_isnt_recursive_is_written_in_place(hint: Any) -> None:
    text = json.dumps(taking(hint).parameters)
    assert "$ref" not in text
    assert "$defs" not in text


def test_what_is_used_twice_is_written_twice() -> None:
    person = shown(Person)["properties"]
    assert list(person["home"]["properties"]) == ["street", "title", "number"]
    assert person["work"]["properties"] == person["home"]["properties"]


@pytest.mark.parametrize("hint", HINTS, ids=repr)
def test_every_reference_leads_somewhere(hint: Any) -> None:
    schema = taking(hint).parameters
    for reference in references(schema):
        assert reference.removeprefix("#/$defs/") in schema.get("$defs", {})


@pytest.mark.parametrize(
    ("hint", "recursive"),
    [
        (Tree, {"Tree"}),
        (list[Tree], {"Tree"}),
        (Link, {"Link"}),
        (Forest, {"Tree"}),
        (Nested, {"Nested"}),
        (tuple[Address, Tree], {"Tree"}),
    ],
)
def test_only_what_is_recursive_is_defined_once_and_referred_to(hint: Any, recursive: set[str]) -> None:
    assert set(taking(hint).parameters["$defs"]) == recursive


@pytest.mark.parametrize(
    ("hint", "value", "wrong"),
    [
        (Tree, {"value": 1, "children": [{"value": 2}]}, {"value": 1, "children": [{"value": "x"}]}),
        (Link, {"value": 1, "next": {"value": 2}}, {"value": 1, "next": {"next": {}}}),
        (Hen, {"eggs": [{"hen": {"eggs": [{}]}}]}, {"eggs": [{"hen": {"eggs": [{"hen": 3}]}}]}),
        (Egg, {"hen": {"eggs": [{"hen": {}}]}}, {"hen": {"eggs": [{"hen": {"eggs": 3}}]}}),
        (
            Forest,
            {"trees": [{"value": 1}], "owner": {"street": "A", "title": "B"}},
            {"trees": [{"value": 1, "children": [{}]}], "owner": {"street": "A", "title": "B"}},
        ),
        (Nested, [1, [2, [3]]], [1, [2, ["x"]]]),
    ],
)
def test_a_recursive_schema_holds_at_every_depth(hint: Any, value: Any, wrong: Any) -> None:
    made = taking(hint)
    validator = Draft202012Validator(made.parameters)
    assert validator.is_valid({"value": value})
    assert not validator.is_valid({"value": wrong})
    made.invoke(value=value)
    with pytest.raises(ToolInvocationError):
        made.invoke(value=wrong)


def test_a_parameters_text_stands_beside_its_reference() -> None:
    assert shown(Annotated[Tree, "A tree."])["description"] == "A tree."


def test_two_classes_of_one_name_keep_their_own_fields() -> None:
    def make(field: str) -> type:
        return dataclasses.make_dataclass("Same", [(field, int)])

    one, two = make("a"), make("b")

    def take(first, second):  # type: ignore[no-untyped-def]
        """Take."""
        return first, second

    take.__annotations__ = {"first": one, "second": two}
    made = tool(take)
    properties = made.parameters["properties"]
    assert [list(properties[name]["properties"]) for name in ("first", "second")] == [["a"], ["b"]]
    assert made.invoke(first={"a": 1}, second={"b": 2}) == (one(1), two(2))


# Null.


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int | None, {"type": "integer"}),
        (None | int, {"type": "integer"}),
        (str | int | None, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (list[int] | None, {"type": "array", "items": {"type": "integer"}}),
        (Colour | None, {"type": "string", "enum": ["red", "blue"]}),
        (Literal["a", "b"] | None, {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", "b", None], {"type": "string", "enum": ["a", "b"]}),
        (Annotated[int, Field(ge=1)] | None, {"type": "integer", "minimum": 1}),
        (Annotated[int | None, Field(ge=1)], {"type": "integer", "minimum": 1}),
        (Annotated[int | None, "How many."], {"type": "integer", "description": "How many."}),
    ],
)
def test_an_optional_parameter_is_shown_without_null(hint: Any, expected: Json) -> None:
    assert shown(hint, None) == expected
    made = taking(hint, None)
    assert (made.invoke(), made.invoke(value=None)) == (None, None)


def test_an_optional_recursive_parameter_is_a_plain_reference() -> None:
    assert shown(Tree | None, None) == {"$ref": "#/$defs/Tree"}


@pytest.mark.parametrize("hint", [int | None, Colour | None, Address | None, Tree | None, list[int] | None])
def test_a_required_parameter_that_may_be_null_says_so(hint: Any) -> None:
    made = taking(hint)
    assert Draft202012Validator(made.parameters).is_valid({"value": None})
    assert made.parameters["required"] == ["value"]
    assert made.invoke(value=None) is None


def test_optional_fields_are_shown_without_null_too() -> None:
    fields = shown(Person)["properties"]
    assert fields["work"]["type"] == "object"
    assert fields["home"]["properties"]["number"] == {"type": "integer"}
    assert shown(Person)["required"] == ["name", "home"]


def test_nullable_items_keep_their_null() -> None:
    assert shown(list[int | None])["items"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}


def test_a_default_of_none_isnt_shown() -> None:
    text = json.dumps([shown(int | None, None), shown(Person), shown(str, None)])
    assert '"default": null' not in text


def limited(limit: int | None = 3, page: int = 1) -> str:
    """Look."""
    return f"{limit} {page}"


@pytest.mark.parametrize("page", [2, "2", 2.0, None])
def test_null_means_the_same_whatever_the_other_arguments_need(page: Any) -> None:
    assert tool(limited).invoke(limit=None, page=page).startswith("None ")


def test_null_means_the_same_in_a_run_and_in_invoke(make: Maker, endpoint: Endpoint) -> None:
    assert arrived(make, endpoint, limited, {"limit": None}) == tool(limited).invoke(limit=None)


# Order.


def test_parameters_stand_in_the_order_of_the_signature() -> None:
    def take(zebra: int, ant: int = 1, *, yak: int, bee: int = 2) -> None:
        """Take."""

    made = tool(take)
    assert list(made.parameters) == ["type", "properties", "required"]
    assert list(made.parameters["properties"]) == ["zebra", "ant", "yak", "bee"]
    assert made.parameters["required"] == ["zebra", "yak"]


@pytest.mark.parametrize(
    ("hint", "default"),
    [
        (Annotated[int, Field(ge=1, le=5, description="D.", examples=[2])], 3),
        (Annotated[str, Field(pattern="^a", description="D.")], "a"),
        (Annotated[Colour, Field(description="D.")], Colour.RED),
        (Annotated[list[int], Field(description="D.", max_length=3)], [1]),
        (Annotated[Address, Field(description="D.")], None),
        (Annotated[date, "D."], date(2026, 1, 1)),
        (Annotated[Literal["a", "b"] | None, "D."], None),
    ],
)
def test_type_and_text_come_first_in_a_schema(hint: Any, default: Any) -> None:
    assert list(shown(hint, default))[:2] == ["type", "description"]


@pytest.mark.parametrize("hint", HINTS, ids=repr)
def test_a_schema_is_the_same_each_time_it_is_built(hint: Any) -> None:
    assert json.dumps(taking(hint).parameters) == json.dumps(taking(hint).parameters)


PROGRAM = """
import json
from typing import Literal
from llama_agent import tool

def take(words: set[str] = {"ant", "bee", "cow", "dog", "eel", "fox"},
         more: frozenset[str] = frozenset("abcdefgh"),
         which: Literal["x", "y", "z"] | None = None) -> str:
    "Take."
print(json.dumps(tool(take).tool_spec))
"""


def test_a_definition_is_the_same_in_each_process() -> None:
    def spec(seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        ).stdout

    assert spec("1") == spec("2")


# Names.


@pytest.mark.parametrize("name", ["größe", "x" * 65, "обед"])
def test_a_functions_name_that_servers_refuse_is_refused_with_a_cure(name: str) -> None:
    space: Json = {}
    exec(f'def {name}() -> str:\n    """Do."""\n    return "done"', space)
    with pytest.raises(ConfigurationError, match=r"@tool\(name="):
        tool(space[name])
    assert tool(name="x" * 64)(space[name]).invoke() == "done"


@pytest.mark.parametrize("name", ["", " ", "a b", "a.b", "a/b", "a:b", "é", "a\n", "x" * 65])
def test_a_given_name_that_servers_refuse_is_refused(name: str) -> None:
    def take() -> None:
        """Take."""

    with pytest.raises(ConfigurationError, match="1 to 64"):
        tool(name=name)(take)


@pytest.mark.parametrize("name", ["a", "A-Z_0-9", "-", "_", "9", "x" * 64])
def test_a_given_name_that_servers_take_is_the_tools(name: str) -> None:
    def take() -> None:
        """Take."""

    assert tool(name=name)(take).name == name


# The strict form.


def visit(
    person: Person,
    tree: Tree,
    movie: Movie,
    link: Link | None = None,
    days: int = 3,
    colour: Colour = Colour.BLUE,
    city: str | None = None,
    pet: Pet | None = None,
    tags: list[str] = [],  # noqa: B006
) -> str:
    """
    Visit somebody.

    :param days: How many days.
    """
    return f"{person!r} {tree!r} {movie!r} {link!r} {days!r} {colour!r} {city!r} {pet!r} {tags!r}"


def test_the_strict_form_says_so_and_has_name_and_texts(make: Maker, endpoint: Endpoint) -> None:
    sent = sent_strictly(make, endpoint, visit)
    assert (sent["strict"], sent["name"], sent["description"]) == (True, "visit", "Visit somebody.")
    assert sent["parameters"]["properties"]["days"]["description"] == "How many days."
    Draft202012Validator.check_schema(sent["parameters"])


@pytest.mark.parametrize("hint", [hint for hint in HINTS if "dict" not in repr(hint)], ids=repr)
def test_in_the_strict_form_objects_are_closed_and_ask_for_every_property(
    make: Maker, endpoint: Endpoint, hint: Any
) -> None:
    parameters = sent_strictly(make, endpoint, taking(hint, None))["parameters"]
    for item in subschemas(parameters):
        if item.get("type") == "object":
            assert item["additionalProperties"] is False
            assert item.get("required", []) == list(item["properties"])


@pytest.mark.parametrize("hint", HINTS, ids=repr)
def test_in_the_strict_form_every_reference_leads_somewhere(
    make: Maker, endpoint: Endpoint, hint: Any
) -> None:
    parameters = sent_strictly(make, endpoint, taking(hint, None))["parameters"]
    for reference in references(parameters):
        assert reference.removeprefix("#/$defs/") in parameters.get("$defs", {})


@pytest.mark.parametrize("hint", HINTS, ids=repr)
def test_in_the_strict_form_an_optional_parameter_may_be_null(
    make: Maker, endpoint: Endpoint, hint: Any
) -> None:
    parameters = sent_strictly(make, endpoint, taking(hint, None))["parameters"]
    assert parameters["required"] == ["value"]
    assert Draft202012Validator(parameters).is_valid({"value": None})


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Link, {"value": 1, "next": None}),
        (Tree, {"value": 1, "children": None}),
        (Hen, {"eggs": [{"hen": None}]}),
        (Egg, {"hen": None}),
    ],
)
def test_in_the_strict_form_a_recursive_value_can_end(
    make: Maker, endpoint: Endpoint, hint: Any, value: Any
) -> None:
    validator = Draft202012Validator(sent_strictly(make, endpoint, taking(hint))["parameters"])
    assert validator.is_valid({"value": value})


@pytest.mark.parametrize("hint", [int, Colour, Address, Tree, list[int]], ids=repr)
def test_in_the_strict_form_a_required_parameter_may_not_be_null(
    make: Maker, endpoint: Endpoint, hint: Any
) -> None:
    parameters = sent_strictly(make, endpoint, taking(hint))["parameters"]
    assert not Draft202012Validator(parameters).is_valid({"value": None})


def test_in_the_strict_form_optional_fields_may_be_null_and_required_ones_not(
    make: Maker, endpoint: Endpoint
) -> None:
    validator = Draft202012Validator(sent_strictly(make, endpoint, taking(Person))["parameters"])
    home = {"street": "A", "title": "B", "number": None}
    assert validator.is_valid({"value": {"name": "Ann", "home": home, "work": None, "colour": None}})
    assert not validator.is_valid({"value": {"name": None, "home": home, "work": None, "colour": None}})
    assert not validator.is_valid({"value": {"name": "Ann", "home": home}})


def test_null_for_what_isnt_nullable_means_left_out_at_every_depth(make: Maker, endpoint: Endpoint) -> None:
    arguments = {
        "person": {
            "name": "Ann",
            "home": {"street": "A", "title": "B", "number": None},
            "work": None,
            "colour": None,
        },
        "tree": {"value": 1, "children": [{"value": 2, "children": None}]},
        "movie": {"title": "M", "year": None},
        "link": {"value": 1, "next": None},
        **dict.fromkeys(["days", "colour", "city", "pet", "tags"]),
    }
    person = Person(name="Ann", home=Address(street="A", title="B"))
    tree = Tree(value=1, children=[Tree(value=2)])
    expected = visit(person, tree, {"title": "M"}, Link(1))
    assert arrived(make, endpoint, visit, arguments, tools_strict=True) == expected


def test_null_for_what_is_required_is_refused_also_in_the_strict_form(
    make: Maker, endpoint: Endpoint
) -> None:
    def take(number: int, more: int = 2) -> int:
        """Take."""
        return number + more

    text = arrived(make, endpoint, take, {"number": None, "more": None}, tools_strict=True)
    assert [line.partition(":")[0] for line in text.splitlines()[1:]] == ["number"]


def test_a_haystack_tools_schema_gets_its_strict_form_too(make: Maker, endpoint: Endpoint) -> None:
    plain = Tool(
        name="echo",
        description="Echo.",
        parameters={
            "type": "object",
            "properties": {"text": {"type": "string"}, "times": {"type": "integer"}},
            "required": ["text"],
        },
        function=lambda text, times=1: text * times,
    )
    parameters = sent_strictly(make, endpoint, plain)["parameters"]
    assert (parameters["additionalProperties"], parameters["required"]) == (False, ["text", "times"])
    assert Draft202012Validator(parameters).is_valid({"text": "a", "times": None})
    endpoint.script(Reply(calls=[("echo", {"text": "a", "times": None})]), Reply("done"))
    with Agent(chat_generator=make(tools_strict=True), tools=[plain]) as agent:
        agent.run("go")
    assert endpoint.requests[-1].messages[-1]["content"] == "a"


def test_asking_for_the_strict_form_leaves_the_tool_as_it_was(make: Maker, endpoint: Endpoint) -> None:
    made = tool(visit)
    before = json.dumps(made.parameters)
    sent_strictly(make, endpoint, made)
    assert json.dumps(made.parameters) == before


@pytest.mark.parametrize("hint", HINTS, ids=repr)
def test_what_goes_over_the_wire_is_what_the_tool_shows(make: Maker, endpoint: Endpoint, hint: Any) -> None:
    made = taking(hint)
    endpoint.script(Reply("no"))
    with Agent(chat_generator=make(), tools=[made]) as agent:
        agent.run("go")
    (sent,) = endpoint.requests[-1].json["tools"]
    assert sent["function"]["parameters"] == made.parameters
    assert "strict" not in sent["function"] or sent["function"]["strict"] is False
