"""Python functions become tools that a model can read, and whose arguments are checked before they run."""

import asyncio
import dataclasses
import functools
import json
from collections.abc import Callable
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from haystack import component
from haystack.components.agents import Agent as HaystackAgent
from haystack.core.errors import DeserializationError, SerializationError
from haystack.core.serialization import allow_deserialization_module
from haystack.dataclasses import ChatMessage
from haystack.tools import ComponentTool, Toolset
from haystack.tools.errors import ToolInvocationError
from haystack.tools.tool import Tool
from pydantic import BaseModel, ConfigDict, Field

from llama_agent import (
    Agent,
    ConfigurationError,
    FunctionTool,
    MetaLlamaChatGenerator,
    RunResult,
    ToolHints,
    tool,
)
from tests.endpoint import Endpoint, Reply

Json = dict[str, Any]


def generator(endpoint: Endpoint) -> MetaLlamaChatGenerator:
    return MetaLlamaChatGenerator(api_base_url=endpoint.url, model="test-model", max_retries=0, timeout=10)


def call(endpoint: Endpoint, tools: Any, name: str, arguments: Json | str) -> RunResult:
    """One run in which the model makes one call, then answers."""
    endpoint.script(Reply(calls=[(name, arguments)]), Reply("done"))
    with Agent(chat_generator=generator(endpoint), tools=tools) as agent:
        return agent.run("go")


def told(result: RunResult) -> str:
    """What the model was told of its only call."""
    (message,) = (message for message in result.messages if message.tool_call_results)
    return str(message.tool_call_results[0].result)


def failed(result: RunResult) -> bool:
    (message,) = (message for message in result.messages if message.tool_call_results)
    return message.tool_call_results[0].error


def definitions(endpoint: Endpoint, tools: Any) -> dict[str, Json]:
    """Tool definitions as they went over the wire, by name."""
    endpoint.script(Reply("no"))
    with Agent(chat_generator=generator(endpoint), tools=tools) as agent:
        agent.run("go")
    return {item["function"]["name"]: item["function"] for item in endpoint.requests[-1].json["tools"]}


def line_of(function: Callable[..., Any]) -> str:
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


# What may be a tool.


def add(a: int, b: int = 10) -> int:
    """Add two whole numbers."""
    return a + b


@tool(name="weather", read_only=True, idempotent=True, open_world=False)
def get_weather(city: str) -> Json:
    """Current weather of a city."""
    return {"city": city, "sky": "clear"}


@tool
async def lookup(word: str) -> str:
    """Look a word up."""
    await asyncio.sleep(0)
    return word.upper()


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    @tool(idempotent=True)
    def raise_by(self, amount: int) -> int:
        """Raise the counter."""
        self.value += amount
        return self.value

    @tool
    async def read(self) -> int:
        """Read the counter."""
        return self.value

    def lower_by(self, amount: int) -> int:
        """Lower the counter."""
        self.value -= amount
        return self.value

    @tool
    @staticmethod
    def double(value: int) -> int:
        """Double a number."""
        return 2 * value


def test_a_plain_function_is_called_with_the_models_arguments(endpoint: Endpoint) -> None:
    result = call(endpoint, [add], "add", {"a": 2, "b": 3})
    assert (told(result), result.text) == ("5", "done")
    assert endpoint.requests[-1].messages[-1]["content"] == "5"


def test_a_parameter_that_the_model_leaves_out_keeps_its_default(endpoint: Endpoint) -> None:
    assert told(call(endpoint, [add], "add", {"a": 2})) == "12"


def test_a_single_function_needs_no_list(endpoint: Endpoint) -> None:
    assert told(call(endpoint, add, "add", {"a": 2, "b": 3})) == "5"


def test_an_async_function_is_awaited_in_a_sync_run(endpoint: Endpoint) -> None:
    assert told(call(endpoint, [lookup], "lookup", {"word": "llama"})) == "LLAMA"


def test_a_bound_method_acts_on_its_instance(endpoint: Endpoint) -> None:
    counter = Counter(5)
    assert told(call(endpoint, [counter.lower_by], "lower_by", {"amount": 2})) == "3"
    assert counter.value == 3


def test_a_decorated_method_acts_on_the_instance_it_was_read_from(endpoint: Endpoint) -> None:
    one, other = Counter(1), Counter(100)
    assert told(call(endpoint, [one.raise_by], "raise_by", {"amount": 1})) == "2"
    assert (one.value, other.value) == (2, 100)


def test_a_decorated_async_method_is_awaited(endpoint: Endpoint) -> None:
    assert told(call(endpoint, [Counter(7).read], "read", {})) == "7"


def test_a_decorated_static_method_is_a_tool(endpoint: Endpoint) -> None:
    assert told(call(endpoint, [Counter().double], "double", {"value": 4})) == "8"


def test_a_decorated_method_doesnt_show_self_to_the_model(endpoint: Endpoint) -> None:
    definition = definitions(endpoint, [Counter().raise_by])["raise_by"]
    assert list(definition["parameters"]["properties"]) == ["amount"]
    assert definition["description"] == "Raise the counter."


def test_a_decorated_method_keeps_its_hints() -> None:
    assert Counter().raise_by.hints == ToolHints(idempotent=True)


def test_an_overriding_method_reaches_the_one_it_overrides() -> None:
    class Loud(Counter):
        @tool
        def raise_by(self, amount: int) -> int:
            """Raise it by twice as much."""
            return super().raise_by(2 * amount)

    assert Loud(1).raise_by(3) == 7


def test_a_callable_object_is_a_tool(endpoint: Endpoint) -> None:
    class Greeter:
        def __call__(self, name: str) -> str:
            """Greet somebody."""
            return f"Hello {name}"

    greet = tool(name="greet")(Greeter())
    assert told(call(endpoint, [greet], "greet", {"name": "Ann"})) == "Hello Ann"


def test_a_callable_object_with_an_async_call_is_awaited(endpoint: Endpoint) -> None:
    class Greeter:
        async def __call__(self, name: str) -> str:
            """Greet somebody."""
            return f"Hello {name}"

    greet = tool(name="greet")(Greeter())
    assert told(call(endpoint, [greet], "greet", {"name": "Ann"})) == "Hello Ann"


def test_an_async_function_under_a_plain_decorator_is_awaited(endpoint: Endpoint) -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @logged
    async def shout(word: str) -> str:
        """Shout."""
        return word.upper()

    assert told(call(endpoint, [shout], "shout", {"word": "hey"})) == "HEY"


def test_tools_may_be_nested_in_lists_and_mixed(endpoint: Endpoint) -> None:
    plain = Tool(
        name="echo",
        description="Echo.",
        parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        function=lambda text: text,
    )
    kit = Toolset([tool(name="kit_add")(add)])
    found = definitions(endpoint, [add, [get_weather, (lookup, [Counter().raise_by])], [], kit, plain])
    assert set(found) == {"add", "weather", "lookup", "raise_by", "kit_add", "echo"}


def test_a_haystack_tool_runs_as_it_is(endpoint: Endpoint) -> None:
    echo = Tool(
        name="echo",
        description="Echo.",
        parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        function=lambda text: f"<{text}>",
    )
    assert told(call(endpoint, [echo], "echo", {"text": "hi"})) == "<hi>"


def test_a_haystack_tool_called_with_wrong_arguments_tells_the_model(endpoint: Endpoint) -> None:
    echo = Tool(
        name="echo",
        description="Echo.",
        parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        function=lambda text: text,
    )
    result = call(endpoint, [echo], "echo", {"txt": "hi"})
    assert failed(result)
    assert "echo" in told(result)
    assert result.text == "done"


def test_a_toolset_may_be_given_alone(endpoint: Endpoint) -> None:
    assert (
        told(call(endpoint, Toolset([get_weather]), "weather", {"city": "Oslo"}))
        == '{"city":"Oslo","sky":"clear"}'
    )


@component
class Shouter:
    @component.output_types(text=str)
    def run(self, text: str, times: int = 1) -> dict[str, str]:
        """
        Shout a text.

        :param text: What to shout.
        :param times: How often.
        """
        return {"text": text.upper() * times}


def test_a_component_tool_runs(endpoint: Endpoint) -> None:
    shout = ComponentTool(component=Shouter(), name="shout", description="Shout.")
    assert "HEYHEY" in told(call(endpoint, [shout], "shout", {"text": "hey", "times": 2}))


# What the model reads.


def google(city: str, days: int = 3) -> str:
    """
    Forecast of a city.

    Uses the national service.

    Args:
        city (str): Name of the city,
            e.g. "Paris".
        days: How many days.

    Returns:
        A text that the model needn't read about here.

    Raises:
        ValueError: Never told.
    """
    return city * days


def numpy(city: str, days: int = 3) -> str:
    """
    Forecast of a city.

    Uses the national service.

    Parameters
    ----------
    city : str
        Name of the city,
        e.g. "Paris".
    days : int
        How many days.

    Returns
    -------
    str
        A text that the model needn't read about here.
    """
    return city * days


def rest(city: str, days: int = 3) -> str:
    """
    Forecast of a city.

    Uses the national service.

    :param city: Name of the city,
        e.g. "Paris".
    :param days: How many days.
    :returns: A text that the model needn't read about here.
    :raises ValueError: Never told.
    """
    return city * days


@pytest.mark.parametrize("function", [google, numpy, rest])
def test_texts_come_from_the_docstring_in_each_style(
    endpoint: Endpoint, function: Callable[..., Any]
) -> None:
    definition = definitions(endpoint, [function])[function.__name__]
    assert definition["description"] == "Forecast of a city.\n\nUses the national service."
    properties = definition["parameters"]["properties"]
    assert " ".join(properties["city"]["description"].split()) == 'Name of the city, e.g. "Paris".'
    assert properties["days"]["description"] == "How many days."


def test_the_schema_says_types_defaults_and_what_is_required(endpoint: Endpoint) -> None:
    parameters = definitions(endpoint, [google])["google"]["parameters"]
    assert parameters["type"] == "object"
    assert parameters["required"] == ["city"]
    assert parameters["properties"]["city"]["type"] == "string"
    assert (parameters["properties"]["days"]["type"], parameters["properties"]["days"]["default"]) == (
        "integer",
        3,
    )


def test_the_schema_has_no_titles_but_a_parameter_may_be_called_title(endpoint: Endpoint) -> None:
    class Book(BaseModel):
        title: str
        pages: int

    def store(title: str, book: Book) -> str:
        """Store a book."""
        return title + book.title

    parameters = definitions(endpoint, [store])["store"]["parameters"]
    assert set(parameters["properties"]) == {"title", "book"}
    book = parameters["properties"]["book"]
    assert set(book["properties"]) == {"title", "pages"}
    assert '"title": "' not in json.dumps(parameters)


def test_a_function_without_parameters_has_an_empty_object_schema(endpoint: Endpoint) -> None:
    def now() -> str:
        """Tell the time."""
        return "noon"

    definition = definitions(endpoint, [now])["now"]
    assert (definition["parameters"]["type"], definition["parameters"]["properties"]) == ("object", {})


def test_literals_and_enumerations_list_their_values(endpoint: Endpoint) -> None:
    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    def paint(colour: Colour, coats: Literal["one", "two"]) -> str:
        """Paint."""
        return colour.value + coats

    parameters = definitions(endpoint, [paint])["paint"]["parameters"]
    assert parameters["properties"]["coats"]["enum"] == ["one", "two"]
    colour = parameters["properties"]["colour"]
    assert colour["enum"] == ["red", "blue"]


def test_constraints_of_annotated_hold_together_with_the_docstrings_text(endpoint: Endpoint) -> None:
    def roll(sides: Annotated[int, Field(ge=2, le=20)]) -> int:
        """Roll a die.

        Args:
            sides: How many sides.
        """
        return sides

    schema = definitions(endpoint, [roll])["roll"]["parameters"]["properties"]["sides"]
    assert (schema["minimum"], schema["maximum"], schema["description"]) == (2, 20, "How many sides.")


def test_a_description_in_annotated_wins_over_the_docstring(endpoint: Endpoint) -> None:
    def roll(sides: Annotated[int, Field(description="Number of faces.")]) -> int:
        """Roll a die.

        Args:
            sides: How many sides.
        """
        return sides

    schema = definitions(endpoint, [roll])["roll"]["parameters"]["properties"]["sides"]
    assert schema["description"] == "Number of faces."


def test_a_description_in_annotated_wins_also_under_postponed_annotations(endpoint: Endpoint) -> None:
    # As with `from __future__ import annotations` at the top of the user's file: hints are strings.
    def roll(sides: "Annotated[int, Field(description='Number of faces.')]") -> int:
        """Roll a die.

        Args:
            sides: How many sides.
        """
        return sides

    schema = definitions(endpoint, [roll])["roll"]["parameters"]["properties"]["sides"]
    assert schema["description"] == "Number of faces."


def test_name_and_description_given_to_the_decorator_win(endpoint: Endpoint) -> None:
    renamed = tool(name="plus", description="Sum.")(add)
    assert definitions(endpoint, [renamed])["plus"]["description"] == "Sum."


def test_parameters_may_have_names_that_pydantic_keeps_for_itself(endpoint: Endpoint) -> None:
    def odd(schema: str, model_config: int, _private: str, json: str) -> str:
        """Odd names."""
        return f"{schema} {model_config} {_private} {json}"

    arguments = {"schema": "s", "model_config": 1, "_private": "p", "json": "j"}
    assert told(call(endpoint, [odd], "odd", arguments)) == "s 1 p j"
    assert set(endpoint.requests[0].json["tools"][0]["function"]["parameters"]["properties"]) == set(
        arguments
    )


def test_a_default_that_json_cant_hold_is_no_obstacle(endpoint: Endpoint) -> None:
    class Nothing:
        pass

    marker: Any = Nothing()

    def fetch(url: str, limit: int = marker) -> str:
        """Fetch."""
        return f"{url} {limit is marker}"

    assert told(call(endpoint, [fetch], "fetch", {"url": "u"})) == "u True"


# How arguments are checked.


def test_a_number_in_a_string_reaches_the_function_as_a_number(endpoint: Endpoint) -> None:
    assert told(call(endpoint, [add], "add", {"a": "2", "b": "3"})) == "5"


def test_arguments_arrive_in_the_annotated_types(endpoint: Endpoint) -> None:
    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 0

    class Size(Enum):
        SMALL = "small"

    seen: list[Any] = []

    def draw(
        point: Point, when: date, size: Size, tags: set[str], rest: dict[str, float] | None = None
    ) -> str:
        """Draw."""
        seen.extend([point, when, size, tags, rest])
        return "ok"

    arguments = {
        "point": {"x": "1"},
        "when": "2026-11-23",
        "size": "small",
        "tags": ["a", "a"],
        "rest": {"k": 1},
    }
    assert told(call(endpoint, [draw], "draw", arguments)) == "ok"
    assert seen == [Point(1, 0), date(2026, 11, 23), Size.SMALL, {"a"}, {"k": 1.0}]


def test_positional_only_parameters_are_filled(endpoint: Endpoint) -> None:
    def power(base: int, exponent: int = 2, /) -> int:
        """Raise to a power."""
        return base**exponent

    assert told(call(endpoint, [power], "power", {"base": 3})) == "9"


def test_each_problem_with_arguments_is_one_line_to_the_model(endpoint: Endpoint) -> None:
    ran: list[object] = []

    def book(city: str, nights: int, room: Literal["single", "double"]) -> str:
        """Book a room."""
        ran.append(city)
        return "booked"

    result = call(endpoint, [book], "book", {"nights": "many", "room": "suite", "citty": "Oslo"})
    heading, *lines = told(result).splitlines()
    assert "book" in heading
    assert len(lines) == 4
    by_place = {line.partition(":")[0]: line for line in lines}
    assert "required" in by_place["city"]
    assert "integer" in by_place["nights"]
    assert "'many'" in by_place["nights"]
    assert "'single'" in by_place["room"]
    assert "'suite'" in by_place["room"]
    assert "did you mean city" in by_place["citty"]
    assert ran == []
    assert failed(result)
    assert result.text == "done"


def test_a_problem_deep_in_an_argument_names_its_place(endpoint: Endpoint) -> None:
    class Item(BaseModel):
        quantity: int

    def order(items: list[Item]) -> str:
        """Order."""
        return str(len(items))

    result = call(endpoint, [order], "order", {"items": [{"quantity": 1}, {"quantity": "two"}]})
    (line,) = told(result).splitlines()[1:]
    assert line.startswith("items.1.quantity: ")


def test_a_wrong_key_deep_in_an_argument_isnt_answered_with_names_of_parameters(endpoint: Endpoint) -> None:
    class Item(BaseModel):
        model_config = ConfigDict(extra="forbid")
        quantity: int

    def order(item: Item, address: str) -> str:
        """Order."""
        return address + str(item.quantity)

    result = call(endpoint, [order], "order", {"item": {"quantity": 1, "colour": "red"}, "address": "x"})
    (line,) = told(result).splitlines()[1:]
    assert line.startswith("item.colour: ")
    assert "address" not in line


def test_a_huge_wrong_value_isnt_sent_back_whole(endpoint: Endpoint) -> None:
    result = call(endpoint, [add], "add", {"a": "x" * 50_000})
    assert len(told(result)) < 600


def test_a_multi_line_wrong_value_stays_on_its_line(endpoint: Endpoint) -> None:
    result = call(endpoint, [add], "add", {"a": "one\ntwo\nthree"})
    assert len(told(result).splitlines()) == 2


def test_the_hidden_name_of_a_field_isnt_accepted(endpoint: Endpoint) -> None:
    assert failed(call(endpoint, [add], "add", {"argument_0": 2}))


# What the developer is told.


def complaint(tools: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Agent(tools=tools)
    return str(caught.value)


def test_a_parameter_without_a_type_names_function_file_parameter_and_cure() -> None:
    def untyped(a: int, b) -> int:  # type: ignore[no-untyped-def]
        """Add."""
        return a + b

    text = complaint([untyped])
    assert "untyped" in text
    assert line_of(untyped) in text
    assert "'b'" in text
    assert "b: str" in text


def test_star_arguments_name_function_file_parameter_and_cure() -> None:
    def many(*words: str) -> str:
        """Join."""
        return " ".join(words)

    text = complaint([many])
    assert "many" in text
    assert line_of(many) in text
    assert "*words" in text
    assert "named parameters" in text


def test_a_type_without_a_schema_names_function_file_parameter_and_cure() -> None:
    class Connection:
        pass

    def send(text: str, channel: Connection) -> str:
        """Send."""
        return text

    text = complaint([send])
    assert "send" in text
    assert line_of(send) in text
    assert "'channel'" in text
    assert "Use JSON types" in text


def test_a_callable_parameter_names_function_file_parameter_and_cure() -> None:
    def each(items: list[str], action: Callable[[str], str]) -> str:
        """Do it for each."""
        return "".join(map(action, items))

    text = complaint([each])
    assert line_of(each) in text
    assert "'action'" in text
    assert "Use JSON types" in text


def test_a_hint_that_cant_be_resolved_names_function_file_parameter_and_cure() -> None:
    def fetch(url: str, session: "MissingSession") -> str:  # type: ignore[name-defined]  # noqa: F821
        """Fetch."""
        return url

    text = complaint([fetch])
    assert line_of(fetch) in text
    assert "MissingSession" in text
    assert "'session'" in text
    assert "import" in text.lower()


def test_an_unbound_method_is_answered_with_take_it_from_an_instance() -> None:
    text = complaint([Counter.lower_by])
    assert "lower_by" in text
    assert "instance" in text


def test_an_unbound_decorated_method_is_answered_with_take_it_from_an_instance() -> None:
    text = complaint([Counter.raise_by])
    assert "raise_by" in text
    assert "instance" in text


def test_a_lambda_is_answered_with_give_it_a_name() -> None:
    text = complaint([lambda: "x"])
    assert "<lambda>" in text
    assert "name=" in text


@pytest.mark.parametrize("thing", [3, "add", Counter, date(2026, 1, 1)])
def test_what_cant_be_a_tool_is_named(thing: object) -> None:
    assert repr(thing) in complaint([thing])


def test_two_tools_of_one_name_are_refused_with_a_cure() -> None:
    text = complaint([add, tool(name="add")(get_weather.target)])
    assert "'add'" in text
    assert "@tool(name=" in text


def test_two_tools_of_one_name_are_refused_also_across_a_toolset() -> None:
    text = complaint([add, Toolset([tool(add)])])
    assert "add" in text
    assert "@tool(name=" in text


@pytest.mark.parametrize("name", ["two words", "é", "x" * 65])
def test_a_name_that_servers_refuse_is_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 64"):
        tool(name=name)(get_weather.target)


def test_hints_that_contradict_each_other_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="read_only and destructive"):
        tool(read_only=True, destructive=True)(add)


# A tool is still the function.


def test_a_decorated_function_can_be_called_as_before() -> None:
    assert isinstance(get_weather, FunctionTool)
    assert get_weather("Oslo") == {"city": "Oslo", "sky": "clear"}
    assert get_weather(city="Oslo") == {"city": "Oslo", "sky": "clear"}


def test_a_decorated_async_function_can_be_awaited_as_before() -> None:
    assert asyncio.run(lookup("x")) == "X"


def test_the_decorator_works_bare_and_with_empty_brackets() -> None:
    assert tool(add).hints == tool()(add).hints == ToolHints()


def test_invoke_checks_and_coerces() -> None:
    assert tool(add).invoke(a="2", b=3) == 5
    with pytest.raises(ToolInvocationError, match="a: required"):
        tool(add).invoke(b=3)


def test_invoke_async_serves_sync_and_async_functions() -> None:
    assert asyncio.run(tool(add).invoke_async(a="2", b=3)) == 5
    assert asyncio.run(lookup.invoke_async(word="x")) == "X"


# Results.


@dataclasses.dataclass
class Place:
    name: str
    founded: date


class Reading(BaseModel):
    value: float


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (None, "null"),
        (1.5, "1.5"),
        ({"a": [1, 2]}, '{"a":[1,2]}'),
        (Place("Oslo", date(1040, 1, 1)), '{"name":"Oslo","founded":"1040-01-01"}'),
        ([Reading(value=2)], '[{"value":2.0}]'),
        ("größer", "größer"),
        ({"k": "größer"}, '{"k":"größer"}'),
    ],
)
def test_a_return_value_becomes_compact_text(endpoint: Endpoint, value: object, text: str) -> None:
    def give() -> object:
        """Give."""
        return value

    assert told(call(endpoint, [give], "give", {})) == text


def test_a_return_value_that_json_cant_hold_becomes_its_str(endpoint: Endpoint) -> None:
    class Odd:
        def __str__(self) -> str:
            return "an odd thing"

    def give() -> object:
        """Give."""
        return Odd()

    assert "an odd thing" in told(call(endpoint, [give], "give", {}))


# Saved and loaded.


@pytest.fixture
def _trusted() -> None:
    allow_deserialization_module(__name__)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("original", [tool(add), get_weather, lookup], ids=lambda item: item.name)
def test_a_tool_survives_saving_as_json(original: FunctionTool[..., Any]) -> None:
    loaded = FunctionTool.from_dict(json.loads(json.dumps(original.to_dict())))
    assert (loaded.name, loaded.description) == (original.name, original.description)
    assert (loaded.parameters, loaded.hints) == (original.parameters, original.hints)
    assert loaded.target is original.target


@pytest.mark.usefixtures("_trusted")
def test_a_toolset_of_functions_survives_saving(endpoint: Endpoint) -> None:
    loaded = Toolset.from_dict(json.loads(json.dumps(Toolset([tool(add), get_weather]).to_dict())))
    assert told(call(endpoint, loaded, "add", {"a": 1, "b": 1})) == "2"


def test_a_tool_of_a_module_that_isnt_trusted_isnt_loaded() -> None:
    data = get_weather.to_dict()
    data["data"]["function"] = "shutil.rmtree"
    with pytest.raises(DeserializationError):
        FunctionTool.from_dict(data)


@pytest.mark.parametrize("method", ["raise_by", "lower_by"])
def test_saving_a_bound_method_says_why_it_cant_be(method: str) -> None:
    bound = getattr(Counter(), method)
    as_tool = bound if isinstance(bound, FunctionTool) else tool(bound)
    with pytest.raises(SerializationError, match=f"'{method}' is a method of an object"):
        as_tool.to_dict()


def test_saving_a_nested_function_is_refused() -> None:
    @tool
    def inner() -> str:
        """Give."""
        return "x"

    with pytest.raises(SerializationError):
        inner.to_dict()


# In Haystack's own Agent.


def test_a_function_tool_runs_in_haystacks_own_agent(endpoint: Endpoint) -> None:
    endpoint.script(
        Reply(calls=[("add", {"a": "2", "b": "3"}), ("raise_by", {"amount": "x"})]), Reply("done")
    )
    counter = Counter()
    agent = HaystackAgent(chat_generator=generator(endpoint), tools=[tool(add), counter.raise_by])
    try:
        result = agent.run(messages=[ChatMessage.from_user("go")])
    finally:
        agent.close()
    outcomes = [m.tool_call_results[0] for m in result["messages"] if m.tool_call_results]
    assert [(o.origin.tool_name, o.error) for o in outcomes] == [("add", False), ("raise_by", True)]
    assert outcomes[0].result == "5"
    assert "amount: " in outcomes[1].result
    assert counter.value == 0


def test_an_async_function_tool_runs_in_haystacks_own_agent(endpoint: Endpoint) -> None:
    async def main() -> dict[str, Any]:
        agent = HaystackAgent(chat_generator=generator(endpoint), tools=[lookup])
        try:
            return await agent.run_async(messages=[ChatMessage.from_user("go")])
        finally:
            await agent.close_async()

    endpoint.script(Reply(calls=[("lookup", {"word": "x"})]), Reply("done"))
    result = asyncio.run(main())
    assert [m.tool_call_results[0].result for m in result["messages"] if m.tool_call_results] == ["X"]
