"""What can't be a tool is refused when it is made, and the text says where it is and what to change."""

import functools
import logging
import re
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, NewType

import pytest
from haystack.tools import Toolset
from haystack.tools.tool import Tool
from pydantic import BaseModel, ConfigDict, Field

from llama_agent import (
    Agent,
    ConfigurationError,
    FunctionTool,
    MetaLlamaChatGenerator,
    RunContext,
    ToolDefinitionWarning,
    tool,
)
from tests.calling import agent_on, call, told
from tests.endpoint import Endpoint


class Connection:
    """A class that has no JSON schema."""


class Colour(Enum):
    """Members that no JSON can hold."""

    RED = Connection()


@dataclass
class Parcel:
    """A dataclass with a field that has no JSON schema."""

    weight: int
    route: Connection


class Letter(BaseModel):
    """A model with a field that has no JSON schema."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    route: Connection


Route = NewType("Route", Connection)


def place(function: Callable[..., Any]) -> str:
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def complaint(function: Any, **hints: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        tool(**hints)(function)
    return str(caught.value)


# Parameters.


def no_hint(a: int, wanted) -> str:  # type: ignore[no-untyped-def]
    """Give."""
    return str(wanted)


def no_hint_but_a_default(a: int, wanted=3) -> str:  # type: ignore[no-untyped-def]
    """Give."""
    return str(wanted)


def no_hint_by_keyword(a: int, *, wanted) -> str:  # type: ignore[no-untyped-def]
    """Give."""
    return str(wanted)


def no_hint_by_position(wanted, /, a: int) -> str:  # type: ignore[no-untyped-def]
    """Give."""
    return str(wanted)


async def no_hint_async(a: int, wanted) -> str:  # type: ignore[no-untyped-def]
    """Give."""
    return str(wanted)


def star(a: int, *wanted: str) -> str:
    """Give."""
    return str(wanted)


def star_without_a_hint(*wanted) -> str:  # type: ignore[no-untyped-def]
    """Give."""
    return str(wanted)


def two_stars(a: int, **wanted: str) -> str:
    """Give."""
    return str(wanted)


def star_after_a_context(context: RunContext[None], *wanted: str) -> str:
    """Give."""
    return str(wanted)


def unknown_name(a: int, wanted: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Give."""
    return str(wanted)


def unknown_name_within(a: int, wanted: "list[Nowhere]") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Give."""
    return str(wanted)


def unknown_attribute(a: int, wanted: "logging.Nowhere") -> str:  # type: ignore[name-defined]
    """Give."""
    return str(wanted)


def not_python(a: int, wanted: "list[") -> str:  # type: ignore[syntax]  # noqa: F722
    """Give."""
    return str(wanted)


def not_a_type(a: int, wanted: 3) -> str:  # type: ignore[valid-type]
    """Give."""
    return str(wanted)


@pytest.mark.parametrize(
    ("function", "parameter", "cure"),
    [
        (no_hint, "'wanted'", "wanted: str"),
        (no_hint_but_a_default, "'wanted'", "wanted: "),
        (no_hint_by_keyword, "'wanted'", "wanted: str"),
        (no_hint_by_position, "'wanted'", "wanted: str"),
        (no_hint_async, "'wanted'", "wanted: str"),
        (star, "*wanted", "named parameters"),
        (star_without_a_hint, "*wanted", "named parameters"),
        (two_stars, "**wanted", "named parameters"),
        (star_after_a_context, "*wanted", "named parameters"),
        (unknown_name, "'wanted'", "Import"),
        (unknown_name_within, "'wanted'", "Import"),
        (unknown_attribute, "'wanted'", "Import"),
        (not_python, "'wanted'", "Write|Use|Import"),
        (not_a_type, "'wanted'", "Write|Use"),
    ],
    ids=lambda item: getattr(item, "__name__", None),
)
def test_a_parameter_that_cant_be_described_is_named_with_a_cure(
    function: Callable[..., Any], parameter: str, cure: str
) -> None:
    text = complaint(function)
    assert text.startswith(f"{function.__name__} ({place(function)})")
    assert parameter in text
    assert re.search(cure, text)
    assert "'a'" not in text


@pytest.mark.parametrize(
    "annotation",
    [
        Connection,
        Connection | None,
        Connection | int,
        list[Connection],
        dict[str, list[Connection]],
        tuple[int, Connection],
        Annotated[Connection, "a connection"],
        Callable[[int], int],
        Awaitable[int],
        socket.socket,
        logging.Logger,
        type(threading.Lock()),
        threading.Event,
        Colour,
        Parcel,
        list[Parcel],
        Letter,
        Route,
    ],
    ids=str,
)
def test_a_type_without_a_schema_is_refused_wherever_it_hides(annotation: Any) -> None:
    def look(a: int, wanted: annotation) -> str:  # type: ignore[valid-type]
        """Look."""
        return "seen"

    text = complaint(look)
    assert place(look) in text
    assert "look" in text
    assert "'wanted'" in text
    assert "Use JSON types" in text


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (Annotated[str, Field(pattern="(")], "pattern|regex"),
        (Annotated[list[str], Field(min_length="x")], "min_length"),  # type: ignore[arg-type]
        (Annotated[int, Field(max_length=3)], "max_length"),
        (Annotated[str, Field(gt=3)], "gt"),
        (Annotated[list[int], Field(multiple_of=2)], "multiple_of"),
    ],
    ids=[
        "broken pattern",
        "length that is no number",
        "length of a number",
        "size of a text",
        "parts of a list",
    ],
)
def test_a_constraint_that_doesnt_fit_its_type_is_refused(annotation: Any, reason: str) -> None:
    def look(a: int, wanted: annotation) -> str:  # type: ignore[valid-type]
        """Look."""
        return "seen"

    text = complaint(look)
    assert place(look) in text
    assert "'wanted'" in text
    assert re.search(reason, text)


class Desk:
    """Methods that can't be tools."""

    def write(self, wanted) -> str:  # type: ignore[no-untyped-def]
        """Write."""
        return str(wanted)

    @classmethod
    def open(cls, wanted) -> str:  # type: ignore[no-untyped-def]
        """Open."""
        return str(wanted)

    @staticmethod
    def close(wanted) -> str:  # type: ignore[no-untyped-def]
        """Close."""
        return str(wanted)

    def __call__(self, wanted) -> str:  # type: ignore[no-untyped-def]
        """Sit."""
        return str(wanted)


def _logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    ("thing", "name", "function"),
    [
        (Desk().write, "write", Desk.write),
        (Desk.open, "open", Desk.open),
        (Desk.close, "close", Desk.close),
        (Desk(), "Desk", Desk.__call__),
        (functools.partial(no_hint, 3), "no_hint", no_hint),
        (_logged(no_hint), "no_hint", no_hint),
        (_logged(_logged(no_hint)), "no_hint", no_hint),
    ],
    ids=["method", "class method", "static method", "object", "partial", "decorated", "decorated twice"],
)
def test_the_place_is_that_of_the_code_a_person_wrote(thing: Any, name: str, function: Any) -> None:
    text = complaint(thing)
    assert name in text
    assert place(function) in text
    assert "'wanted'" in text


def test_the_decorator_complains_where_the_function_is_defined() -> None:
    with pytest.raises(ConfigurationError) as caught:

        @tool
        def look(wanted) -> str:  # type: ignore[no-untyped-def]
            """Look."""
            return str(wanted)

    assert f"{__file__}:" in str(caught.value)


def test_an_agent_complains_when_it_is_made_and_when_a_run_gets_its_tools(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="'wanted'"):
        Agent(tools=[no_hint])
    with agent_on(endpoint, []) as agent, pytest.raises(ConfigurationError, match="'wanted'"):
        agent.run("go", tools=[no_hint])
    assert endpoint.requests == []


def test_a_complaint_is_one_short_line() -> None:
    def look(wanted: Connection) -> str:
        """Look."""
        return "seen"

    text = complaint(look)
    assert "\n" not in text
    assert len(text) < 600


# Two tools of one name.


def pay(amount: int) -> str:
    """Pay."""
    return str(amount)


def pay_again(amount: int) -> str:
    """Pay again."""
    return str(amount)


class Till:
    """An object whose methods are tools."""

    def pay(self, amount: int) -> str:
        """Pay at the till."""
        return str(amount)


PAY = [pay, tool(name="pay")(pay_again)]


@pytest.mark.parametrize(
    "tools",
    [
        PAY,
        [pay, Toolset([PAY[1]])],
        [[pay], [[PAY[1]]]],
        [pay, Till().pay],
        [pay, Till()],
        [pay, Tool(name="pay", description="Pay.", parameters={"type": "object"}, function=pay_again)],
    ],
    ids=["two functions", "a toolset", "nested lists", "a method", "an object", "a Haystack tool"],
)
def test_two_tools_of_one_name_are_refused_with_a_cure(tools: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Agent(tools=tools)
    text = str(caught.value)
    assert "'pay'" in text
    assert "name=" in text


def test_two_tools_of_one_name_are_named_with_their_places() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Agent(tools=PAY)
    assert place(pay) in str(caught.value)
    assert place(pay_again) in str(caught.value)


def test_the_same_tool_twice_is_refused_as_well() -> None:
    with pytest.raises(ConfigurationError, match="'pay'"):
        Agent(tools=[pay, pay])


# Hints and names.


def test_hints_that_contradict_each_other_are_refused_with_function_and_place() -> None:
    text = complaint(pay, read_only=True, destructive=True)
    assert "read_only" in text
    assert "destructive" in text
    assert "drop" in text
    assert f"pay ({place(pay)})" in text


@pytest.mark.parametrize("name", ["two words", "é", "a.b", "x" * 65, "new\nline", " "], ids=ascii)
def test_a_name_that_servers_refuse_is_refused_with_function_and_place(name: str) -> None:
    text = complaint(pay, name=name)
    assert "1 to 64" in text
    assert "name=" in text
    assert place(pay) in text


@pytest.mark.parametrize("name", ["a", "A-Z_09", "x" * 64])
def test_a_name_that_servers_accept_is_kept(name: str) -> None:
    assert tool(name=name)(pay).name == name


@pytest.mark.parametrize(
    "settings",
    [
        {"inputs_from_state": {"key": "nothing"}},
        {"outputs_to_state": {"key": {"source": 3}}},
        {"outputs_to_state": {"key": {"handler": "no function"}}},
        {"outputs_to_string": {"source": 3}},
        {"outputs_to_string": {"handler": "no function"}},
    ],
    ids=str,
)
def test_a_mapping_of_the_state_that_cant_work_names_function_place_and_setting(settings: Any) -> None:
    (setting,) = settings
    text = complaint(pay, **settings)
    assert f"pay ({place(pay)})" in text
    assert setting in text


# No docstring.


def undocumented(amount: int) -> str:
    return str(amount)


def documented_with_nothing(amount: int) -> str:
    """ """
    return str(amount)


def documented_without_a_summary(amount: int) -> str:
    """
    Args:
        amount: How much.
    """
    return str(amount)


NO_TEXT = [undocumented, documented_with_nothing, documented_without_a_summary]


@pytest.mark.parametrize("function", NO_TEXT, ids=lambda function: function.__name__)
def test_a_tool_without_a_text_is_warned_of_with_place_and_cure(function: Any) -> None:
    with pytest.warns(ToolDefinitionWarning) as caught:
        made = tool(function)
    assert isinstance(made, FunctionTool)
    (warning,) = caught
    text = str(warning.message)
    assert f"{function.__name__} ({place(function)})" in text
    assert re.search("docstring|description", text)
    assert re.search("Say|Write|Give", text)


def test_a_tool_that_was_warned_of_works(endpoint: Endpoint) -> None:
    with pytest.warns(ToolDefinitionWarning, match="undocumented"):
        made = tool(undocumented)
    assert told(call(endpoint, [made], "undocumented", {"amount": 3})) == "3"


def test_a_tool_is_warned_of_once_and_not_by_each_agent_again(endpoint: Endpoint) -> None:
    with pytest.warns(ToolDefinitionWarning):
        made = tool(undocumented)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent_on(endpoint, [made])


def test_an_agent_warns_of_a_plain_function_without_a_text(endpoint: Endpoint) -> None:
    with pytest.warns(ToolDefinitionWarning, match="undocumented"):
        agent_on(endpoint, [undocumented])


@pytest.mark.parametrize("function", NO_TEXT, ids=lambda function: function.__name__)
def test_a_description_given_by_hand_needs_no_docstring(function: Any) -> None:
    assert tool(description="Pay somebody.")(function).description == "Pay somebody."


def test_a_docstring_of_one_line_is_enough() -> None:
    assert tool(pay).description == "Pay."


# What must not be refused.


def test_what_isnt_the_models_needs_no_schema() -> None:
    def look(amount: int, context: RunContext[Connection]) -> Connection:
        """Look."""
        return context.deps

    assert list(tool(look).parameters["properties"]) == ["amount"]


def test_a_return_type_that_cant_be_resolved_is_no_fault() -> None:
    def look(amount: int) -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821
        """Look."""
        return amount

    assert list(tool(look).parameters["properties"]) == ["amount"]


def test_a_complaint_about_a_tool_comes_before_the_model_is_looked_for() -> None:
    generator = MetaLlamaChatGenerator(api_base_url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(ConfigurationError, match="'wanted'"):
        Agent(chat_generator=generator, tools=[no_hint])
