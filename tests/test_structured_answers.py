"""Answers of a type: asked for as the server allows, checked, sent back when they don't fit, and bounded."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jsonschema
import pytest
from haystack import component
from haystack.components.agents.state.state import State
from haystack.core.serialization import allow_deserialization_module
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.hooks import hook
from pydantic import BaseModel, Field, model_validator

from llama_agent import (
    Agent,
    ConfigurationError,
    EndpointError,
    Limits,
    RunFinished,
    RunResult,
    TextDelta,
    tool,
)
from llama_agent.testing import ScriptedGenerator
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request, Status
from tests.endpoint.dresses import (
    TGI,
    VLLM,
    BedrockLike,
    Dress,
    FastAPILike,
    Groq,
    LlamaCpp,
    NoTools,
    Ollama,
    SGLang,
    worn,
)

Json = dict[str, Any]

MOST_REQUESTS = 4
"""The first, and one for each time that a mistake goes back to the model."""


# The twenty types, of growing difficulty.


class Color(Enum):
    RED = "red"
    GREEN = "green"


@dataclass
class Point:
    x: int
    y: int


@dataclass
class Person:
    name: str
    age: int
    nick: str | None = None


class Place(TypedDict):
    name: str
    inhabitants: int


class Booking(TypedDict):
    room: int
    nights: int
    breakfast: NotRequired[bool]


class City(BaseModel):
    name: str
    inhabitants: int
    area: float
    is_capital: bool


class Grade(BaseModel):
    student: str = Field(min_length=1)
    percent: int = Field(ge=0, le=100)


class Customer(BaseModel):
    name: str
    mail: str = Field(pattern=r"^\S+@\S+$")


class Item_(BaseModel):
    article: str
    price: Decimal
    count: int = 1


class Order(BaseModel):
    customer: Customer
    items: list[Item_]


class Circle(BaseModel):
    kind: Literal["circle"]
    radius: float


class Rectangle(BaseModel):
    kind: Literal["rectangle"]
    width: float
    height: float


class Drawing(BaseModel):
    shapes: list[Annotated[Circle | Rectangle, Field(discriminator="kind")]]


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Stay(BaseModel):
    first: date
    last: date

    @model_validator(mode="after")
    def in_order(self) -> Stay:
        if self.last < self.first:
            raise ValueError("last must not be before first")
        return self


class Table(BaseModel):
    by_city: dict[str, City]
    colors: list[Color]


class Snippet(BaseModel):
    language: str
    code: str
    lines: int


SCHEMA: Json = {
    "title": "report",
    "type": "object",
    "$defs": {
        "finding": {
            "type": "object",
            "properties": {
                "id": {"type": "string", "pattern": "^F[0-9]{3}$"},
                "severity": {"enum": ["low", "high"]},
            },
            "required": ["id", "severity"],
            "additionalProperties": False,
        }
    },
    "properties": {"findings": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/finding"}}},
    "required": ["findings"],
    "additionalProperties": False,
}

NASTY = 'print("""}```{""")\n# a \\ and a ü: {"language": "no"}\n```\n'


@dataclass(frozen=True)
class Task:
    """
    :param type: What is wanted.
    :param answer: What a good model writes.
    :param output: What the caller gets.
    :param wrong: What a bad model writes.
    :param blamed: What the model is told of it, among other words.
    """

    type: Any
    answer: Any
    output: Any
    wrong: Any
    blamed: str = ""


PARIS = {"name": "Paris", "inhabitants": 2_100_000, "area": 105.4, "is_capital": True}
REPORT = {"findings": [{"id": "F001", "severity": "low"}, {"id": "F002", "severity": "high"}]}
TREE = {"name": "a", "children": [{"name": "b", "children": [{"name": "c", "children": []}]}]}

TASKS: dict[str, Task] = {
    "bool": Task(bool, True, True, "perhaps"),
    "int": Task(int, 42, 42, "many"),
    "float": Task(float, 3.5, 3.5, [3.5]),
    "Literal": Task(Literal["low", "high"], "high", "high", "medium", "high"),
    "enum": Task(Color, "red", Color.RED, "purple", "red"),
    "list of int": Task(list[int], [1, 2, 3], [1, 2, 3], [1, "two", 3]),
    "list of Literal": Task(list[Literal["a", "b"]], ["a", "b"], ["a", "b"], ["a", "c"]),
    "dataclass": Task(Point, {"x": 1, "y": -2}, Point(1, -2), {"x": 1}, "y"),
    "dataclass with a default": Task(
        Person,
        {"name": "Ada", "age": 36, "nick": "Countess"},
        Person("Ada", 36, "Countess"),
        {"name": "Ada", "age": "old"},
        "age",
    ),
    "TypedDict": Task(
        Place,
        {"name": "Oslo", "inhabitants": 700_000},
        {"name": "Oslo", "inhabitants": 700_000},
        {"name": "Oslo"},
        "inhabitants",
    ),
    "TypedDict with a key that may be missing": Task(
        Booking,
        {"room": 7, "nights": 2, "breakfast": True},
        {"room": 7, "nights": 2, "breakfast": True},
        {"room": 7, "nights": "some", "breakfast": True},
        "nights",
    ),
    "pydantic": Task(City, PARIS, City(**PARIS), {**PARIS, "is_capital": "of course"}, "is_capital"),
    "pydantic with bounds": Task(
        Grade,
        {"student": "Bo", "percent": 100},
        Grade(student="Bo", percent=100),
        {"student": "Bo", "percent": 150},
        "percent",
    ),
    "list of pydantic": Task(list[City], [PARIS, PARIS], [City(**PARIS)] * 2, [PARIS, {"name": "Oslo"}]),
    "nested pydantic": Task(
        Order,
        {
            "customer": {"name": "Ada", "mail": "ada@example.org"},
            "items": [{"article": "ink", "price": 2.5, "count": 3}],
        },
        Order(
            customer=Customer(name="Ada", mail="ada@example.org"),
            items=[Item_(article="ink", price=Decimal("2.5"), count=3)],
        ),
        {"customer": {"name": "Ada", "mail": "none"}, "items": [{"article": "ink", "price": 2.5}]},
        "mail",
    ),
    "one of several kinds": Task(
        Drawing,
        {"shapes": [{"kind": "circle", "radius": 1.5}, {"kind": "rectangle", "width": 2.0, "height": 3.0}]},
        Drawing(shapes=[Circle(kind="circle", radius=1.5), Rectangle(kind="rectangle", width=2, height=3)]),
        {"shapes": [{"kind": "rectangle", "radius": 1.5}]},
        "width",
    ),
    "tree": Task(
        Tree, TREE, Tree.model_validate(TREE), {"name": "a", "children": [{"children": []}]}, "name"
    ),
    "what no schema can say": Task(
        Stay,
        {"first": "2026-03-01", "last": "2026-03-05"},
        Stay(first=date(2026, 3, 1), last=date(2026, 3, 5)),
        {"first": "2026-03-05", "last": "2026-03-01"},
        "last must not be before first",
    ),
    "text full of braces and fences": Task(
        Snippet,
        {"language": "python", "code": NASTY, "lines": 3},
        Snippet(language="python", code=NASTY, lines=3),
        {"language": "python", "code": NASTY},
        "lines",
    ),
    "JSON schema": Task(
        SCHEMA, REPORT, REPORT, {"findings": [{"id": "1", "severity": "low"}, {"id": "F002"}]}, "findings"
    ),
}

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


# The dresses: servers whose model answers well, badly at first, or never as it should.


class Good(Dress):
    """A model that answers in the form that it is asked for: held to a schema, by a tool, or in its text."""

    models = ("m",)

    def __init__(self, task: Task, **settings: Any) -> None:
        super().__init__(**settings)
        self.task = task

    def answered(self, asked: Json) -> Reply:
        return self.given(asked, self.task.answer)

    def given(self, asked: Json, value: Any, around: str = "{}") -> Reply:
        """A value, in the form that is asked for."""
        schema = _schema_asked_for(asked)
        if _is_tool_asked_for(asked):
            assert schema.get("type") == "object", "servers take no other parameters"
            return self.reply(asked, calls=[("final_answer", _put_in(schema, value, self.task.answer))])
        text = json.dumps(_put_in(schema, value, self.task.answer), ensure_ascii=False)
        return self.reply(asked, around.replace("{}", text))


class Bad(Good):
    """
    A model that doesn't keep to what it is held to: it answers wrongly at first, then well, but in a fence
    and with prose around it, even where it has a tool for it.
    """

    def answered(self, asked: Json) -> Reply:
        if not _said_since(asked):
            return self.given(asked, self.task.wrong)
        # Where it has a tool for the answer, it writes what it would give to one without any wrapping.
        schema = {} if _is_tool_asked_for(asked) else _schema_asked_for(asked)
        text = json.dumps(_put_in(schema, self.task.answer, self.task.answer), ensure_ascii=False)
        return self.reply(asked, f"Sorry! Here it is:\n\n```json\n{text}\n```\n\nIs that better?")


class Stubborn(Good):
    """A model that never answers as it should."""

    def answered(self, asked: Json) -> Reply:
        return self.given(asked, self.task.wrong, around="I would say: {}")


class Silent(Good):
    """A model that talks, and never says what it is asked."""

    def answered(self, asked: Json) -> Reply:
        return self.reply(asked, "That is hard to say, but an interesting question.")


def _is_tool_asked_for(asked: Json) -> bool:
    return "final_answer" in names_offered(asked)


def _schema_asked_for(asked: Json) -> Json:
    """What a reply has to fit: of the server's own form, of the tool, or as the conversation tells it."""
    if (format_ := asked.get("response_format")) is not None:
        return format_["json_schema"]["schema"]
    if _is_tool_asked_for(asked):
        return next(
            each["function"]["parameters"]
            for each in asked["tools"]
            if each["function"]["name"] == "final_answer"
        )
    return next(_schemas_in("\n".join(str(message["content"]) for message in asked["messages"])), {})


def _schemas_in(text: str) -> Iterator[Json]:
    start = text.find("{")
    while start >= 0:
        end = start + 1
        with suppress(ValueError):
            value, end = json.JSONDecoder().raw_decode(text, start)
            if value.keys() & {"type", "enum", "anyOf", "$ref", "const"}:
                yield value
        start = text.find("{", end)


def _put_in(schema: Json, value: Any, right: Any) -> Any:
    """A value as a model writes it: as the one field of an object, where the schema wants that."""
    jsonschema.Draft202012Validator.check_schema(schema)
    if jsonschema.Draft202012Validator(schema).is_valid(right):
        return value
    (name,) = schema["properties"]
    jsonschema.Draft202012Validator(schema).validate({name: right})
    return {name: value}


def _said_since(asked: Json) -> list[Json]:
    """The conversation from the model's first answer on."""
    roles = [message["role"] for message in asked["messages"]]
    return asked["messages"][roles.index("assistant") :] if "assistant" in roles else []


def names_offered(asked: Json) -> list[str]:
    return [each["function"]["name"] for each in asked.get("tools") or []]


@component
class Plain:
    """Another's generator, which takes no tools."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], generation_kwargs: Json | None = None) -> Json:
        return self.generator.run(messages, generation_kwargs=generation_kwargs)


@tool
def look(place: str) -> str:
    """Look somewhere."""
    return f"nothing at {place}"


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


ADD = Reply(calls=[("add", {"a": 2, "b": 3})])


def known(endpoint: Endpoint, *, model: str = "m", **traits: Any) -> None:
    """What `llama-agent probe --save` would have kept of the endpoint."""
    file = Path(os.environ["XDG_CONFIG_HOME"], "llama-agent", "profiles.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    url = endpoint.url.replace("127.0.0.1", "localhost")
    entry = {"endpoint": url, "model": model, "probed": "2026-01-01T00:00:00+00:00", "traits": traits}
    file.write_text(json.dumps({"version": 1, "profiles": [entry]}))


def agent_by_schema(make: Maker, endpoint: Endpoint, **settings: Any) -> Agent:
    known(endpoint, json_schema=True)
    return Agent(chat_generator=make(api_base_url=endpoint.url), **settings)


def agent_by_tool(make: Maker, endpoint: Endpoint, **settings: Any) -> Agent:
    known(endpoint, json_schema=False)
    return Agent(chat_generator=make(api_base_url=endpoint.url), **{"tools": [look], **settings})


def agent_by_prompt(make: Maker, endpoint: Endpoint, **settings: Any) -> Agent:
    return Agent(chat_generator=Plain(make(api_base_url=endpoint.url)), **settings)


WAYS: dict[str, Callable[..., Agent]] = {
    "by schema": agent_by_schema,
    "by tool": agent_by_tool,
    "by prompt": agent_by_prompt,
}


def run(agent: Agent, question: str = "Tell me.", *, way: str = "sync", **settings: Any) -> RunResult:
    async def main() -> RunResult:
        async with agent:
            return await agent.run_async(question, **settings)

    if way == "async":
        return asyncio.run(main())
    with agent:
        return agent.run(question, **settings)


each_way = pytest.mark.parametrize("way", ["sync", "async"])


@dataclass
class Asked:
    """A run for an answer, and what the server was sent."""

    result: RunResult
    requests: list[Request]


def ask_each_way(make: Maker, dress: Callable[[Task], Dress], task: Task) -> dict[str, Asked]:
    """The same task to a server of that dress, in each way that an answer can be asked for."""
    done: dict[str, Asked] = {}
    for number, (name, agent_by) in enumerate(WAYS.items()):
        with worn(dress(task)) as endpoint:
            mode = "async" if (number + [*TASKS.values(), task].index(task)) % 2 else "sync"
            result = run(agent_by(make, endpoint, output_type=task.type), way=mode)
            done[name] = Asked(result, endpoint.requests)
    return done


def all_ways(value: Any) -> dict[str, Any]:
    return dict.fromkeys(WAYS, value)


@every_task
def test_a_good_model_is_understood_at_once(make: Maker, task: Task) -> None:
    done = ask_each_way(make, Good, task)
    assert {way: each.result.output for way, each in done.items()} == all_ways(task.output)
    assert {type(each.result.output) for each in done.values()} == {type(task.output)}
    assert {way: each.result.stop_reason for way, each in done.items()} == all_ways("answered")
    assert {way: len(each.requests) for way, each in done.items()} == all_ways(1)


@every_task
def test_a_bad_model_mends_its_answer_once_it_is_told_what_is_wrong(make: Maker, task: Task) -> None:
    done = ask_each_way(make, Bad, task)
    assert {way: each.result.output for way, each in done.items()} == all_ways(task.output)
    assert {way: each.result.stop_reason for way, each in done.items()} == all_ways("answered")
    assert {way: len(each.requests) for way, each in done.items()} == all_ways(2)
    for each in done.values():
        said = [m for m in _said_since(each.requests[1].json) if m["role"] in ("user", "tool")]
        assert said and task.blamed in str(said[-1]["content"])


@every_task
def test_a_stubborn_model_ends_the_run_without_an_output(make: Maker, task: Task) -> None:
    done = ask_each_way(make, Stubborn, task)
    assert {way: each.result.output for way, each in done.items()} == all_ways(None)
    assert {way: each.result.stop_reason for way, each in done.items()} == all_ways("no_output")
    assert {way: len(each.requests) for way, each in done.items()} == all_ways(MOST_REQUESTS)


@pytest.mark.parametrize("by", WAYS)
def test_a_model_that_only_talks_ends_the_run_without_an_output(make: Maker, by: str) -> None:
    with worn(Silent(TASKS["dataclass"])) as endpoint:
        result = run(WAYS[by](make, endpoint, output_type=Point))
    assert (result.output, result.stop_reason) == (None, "no_output")
    assert len(endpoint.requests) == MOST_REQUESTS


@pytest.mark.parametrize("by", WAYS)
def test_what_a_mended_answer_took_is_counted(make: Maker, by: str) -> None:
    with worn(Bad(TASKS["dataclass"])) as endpoint:
        usage = run(WAYS[by](make, endpoint, output_type=Point)).usage
    assert usage.model_calls == 2
    assert usage.output_tokens > 0


# Every kind of server.

SERVERS: dict[str, Callable[[], Dress]] = {
    "vLLM": VLLM,
    "llama.cpp": LlamaCpp,
    "Ollama": Ollama,
    "SGLang": SGLang,
    "Groq": Groq,
    "TGI": TGI,
    "without tools": NoTools,
    "without tools and schemas": lambda: NoTools(schemas=False),
    "Bedrock": BedrockLike,
    "FastAPI": FastAPILike,
}


class Town(BaseModel):
    town: str


@pytest.mark.parametrize("server", SERVERS)
def test_every_kind_of_server_gives_an_answer_beside_tools(make: Maker, server: str) -> None:
    holds_schemas = server not in ("TGI", "Bedrock", "without tools and schemas")
    ended: dict[bool | None, Any] = {}
    for knows in (None, holds_schemas):
        dress = SERVERS[server]()
        with worn(dress) as endpoint:
            known(endpoint, model=dress.models[0], json_schema=knows)
            generator = make(api_base_url=endpoint.url, model=dress.models[0])
            agent = Agent(chat_generator=generator, tools=[look], output_type=Town)
            result = run(agent, "Please give Paris as final_answer.")
        ended[knows] = (result.output, result.stop_reason)
    # Held to a schema, the dresses' model doesn't know any more what it was asked first.
    by_schema = (Town(town="nothing"), "answered")
    by_tool = (Town(town="Paris"), "answered")
    assert ended == {None: by_tool, holds_schemas: by_schema if holds_schemas else by_tool}


# How it is asked for.


@each_way
def test_a_server_that_holds_schemas_is_sent_the_schema(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply('{"x": 1, "y": 2}'))
    result = run(agent_by_schema(make, endpoint, output_type=Point), way=way)
    asked = endpoint.requests[0].json
    assert asked["response_format"]["type"] == "json_schema"
    assert set(asked["response_format"]["json_schema"]["schema"]["properties"]) == {"x", "y"}
    assert "tools" not in asked
    assert result.output == Point(1, 2)


@each_way
def test_beside_tools_a_text_that_fits_is_the_answer(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(ADD, Reply('{"x": 5, "y": 0}'))
    result = run(agent_by_schema(make, endpoint, tools=[add], output_type=Point), way=way)
    assert result.output == Point(5, 0)
    assert [each.json.keys() & {"tools", "response_format"} for each in endpoint.requests] == [{"tools"}] * 2


@each_way
def test_beside_tools_a_text_that_doesnt_fit_is_asked_for_again_by_schema(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(ADD, Reply("It is five."), Reply('{"x": 5, "y": 0}'))
    result = run(agent_by_schema(make, endpoint, tools=[add], output_type=Point), way=way)
    assert (result.output, result.stop_reason) == (Point(5, 0), "answered")
    last = endpoint.requests[2].json
    assert "tools" not in last and set(last["response_format"]["json_schema"]["schema"]["properties"]) == {
        "x",
        "y",
    }


@each_way
def test_elsewhere_a_final_tool_is_offered_beside_the_others(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(ADD, Reply(calls=[("final_answer", {"x": 5, "y": 0})]))
    result = run(agent_by_tool(make, endpoint, tools=[add], output_type=Point), way=way)
    assert [names_offered(each.json) for each in endpoint.requests] == [["add", "final_answer"]] * 2
    assert all("response_format" not in each.json for each in endpoint.requests)
    assert (result.output, result.stop_reason) == (Point(5, 0), "answered")


@each_way
def test_a_generator_without_tools_is_told_the_schema_in_the_conversation(
    make: Maker, endpoint: Endpoint, way: str
) -> None:
    endpoint.script(Reply('{"x": 5, "y": 0}'))
    assert run(agent_by_prompt(make, endpoint, output_type=Point), way=way).output == Point(5, 0)
    asked = endpoint.requests[0].json
    assert not asked.keys() & {"tools", "response_format"}
    (schema,) = _schemas_in("\n".join(message["content"] for message in asked["messages"]))
    assert set(schema["properties"]) == {"x", "y"}


def test_the_run_can_go_on_after_a_final_tool(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("final_answer", {"x": 5, "y": 0})]), Reply("You are welcome."))
    with agent_by_tool(make, endpoint) as agent:
        result = agent.run("Tell me.", output_type=Point)
        after = agent.run("Thanks.", messages=result.messages)
    last = result.messages[-1]
    assert last.role.value == "assistant" and last.text is not None and not last.tool_calls
    assert json.loads(last.text) == json.loads(result.text) == {"x": 5, "y": 0}
    assert (after.output, names_offered(endpoint.requests[1].json)) == ("You are welcome.", ["look"])
    calls = {c["id"] for m in endpoint.requests[1].messages for c in m.get("tool_calls", ())}
    answered = {m["tool_call_id"] for m in endpoint.requests[1].messages if m["role"] == "tool"}
    assert calls == answered


@each_way
@pytest.mark.parametrize("before", [[], [Reply("Four?")]], ids=["at once", "after a mistake"])
def test_an_answer_beside_other_calls_waits_for_their_results(
    make: Maker, endpoint: Endpoint, way: str, before: list[Reply]
) -> None:
    guess = Reply(calls=[("add", {"a": 2, "b": 3}), ("final_answer", {"x": 4, "y": 0})])
    endpoint.script(*before, guess, Reply(calls=[("final_answer", {"x": 5, "y": 0})]))
    result = run(agent_by_tool(make, endpoint, tools=[add], output_type=Point), way=way)
    assert result.output == Point(5, 0)


def test_an_answer_beside_other_calls_is_told_so_at_its_place(make: Maker, endpoint: Endpoint) -> None:
    answer = ("final_answer", {"x": 5, "y": 0})
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3}), answer]), Reply(calls=[answer]))
    run(agent_by_tool(make, endpoint, tools=[add], output_type=Point))
    told = [message["content"] for message in endpoint.requests[1].messages if message["role"] == "tool"]
    assert (len(told), told[0]) == (2, "5")


def test_an_answer_in_the_first_step_keeps_within_a_limit_of_one(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("final_answer", {"x": 5, "y": 0})]))
    result = run(agent_by_tool(make, endpoint, output_type=Point), limits=Limits(steps=1))
    assert (result.output, result.stop_reason) == (Point(5, 0), "answered")


def test_a_reply_that_says_nothing_isnt_the_end(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(""), Reply('{"x": 1, "y": 2}'))
    assert run(agent_by_schema(make, endpoint, output_type=Point)).output == Point(1, 2)


def test_a_stubborn_model_with_tools_ends_the_run_without_an_output(make: Maker) -> None:
    with worn(Stubborn(TASKS["dataclass"])) as endpoint:
        result = run(agent_by_schema(make, endpoint, tools=[look], output_type=Point))
    assert (result.output, result.stop_reason) == (None, "no_output")
    assert len(endpoint.requests) <= MOST_REQUESTS + 1, "one more, without the tools"


REFUSALS = {
    "OpenAI": VLLM().error(
        400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."
    ),
    "DeepSeek": VLLM().error(400, "This response_format type is unavailable now"),
    "TGI": TGI().error(400, "Input validation error: grammar is not valid: missing field `value`"),
    "Groq": Status(400, {"error": {"message": "property 'response_format' is unsupported"}}),
    "FastAPI": Status(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "response_format"]}]}),
}


def test_a_server_that_refuses_the_schema_late_is_given_the_tool_again(
    make: Maker, endpoint: Endpoint
) -> None:
    refusal = Status(400, {"error": {"message": "property 'response_format' is unsupported"}})
    answer = Reply(calls=[("final_answer", {"x": 5, "y": 0})])
    endpoint.script(Reply("Five and nothing."), refusal, answer)
    result = agent_by_schema(make, endpoint, tools=[look], output_type=Point).run("What is x?")
    assert (result.output, result.stop_reason) == (Point(x=5, y=0), "answered")


def test_a_schema_with_definitions_of_an_older_draft_holds(make: Maker, endpoint: Endpoint) -> None:
    point = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    schema = {"type": "array", "items": {"$ref": "#/definitions/P"}, "definitions": {"P": point}}
    endpoint.script(Reply("[1, 2]"), Reply('[{"x": "abc"}]'), Reply('[{"x": 3}]'))
    result = agent_by_schema(make, endpoint, output_type=schema).run("Which?")
    assert (result.output, len(endpoint.requests)) == ([{"x": 3}], 3)
    assert "definitions" not in json.dumps(endpoint.requests[0].json["response_format"])


def test_a_schema_that_allows_other_keys_takes_them(make: Maker, endpoint: Endpoint) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": True}
    endpoint.script(Reply('{"x": 3, "note": "so"}'))
    result = agent_by_schema(make, endpoint, output_type=schema).run("Which?")
    assert result.output == {"x": 3, "note": "so"}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_server_that_refuses_the_schema_is_asked_in_another_way(
    make: Maker, endpoint: Endpoint, refusal: Status
) -> None:
    endpoint.script(refusal, Reply(calls=[("final_answer", {"x": 5, "y": 0})]))
    result = run(agent_by_schema(make, endpoint, output_type=Point))
    assert (result.output, result.stop_reason) == (Point(5, 0), "answered")
    assert "response_format" not in endpoint.requests[1].json


def test_a_server_that_refuses_the_schema_after_tools_is_asked_in_another_way(
    make: Maker, endpoint: Endpoint
) -> None:
    endpoint.script(ADD, Reply("Five."), REFUSALS["OpenAI"], Reply('{"x": 5, "y": 0}'))
    result = run(agent_by_schema(make, endpoint, tools=[add], output_type=Point))
    assert (result.output, result.stop_reason) == (Point(5, 0), "answered")


def test_a_tool_of_the_users_may_have_that_name(make: Maker, endpoint: Endpoint) -> None:
    @tool
    def final_answer(exam: int) -> str:
        """Look up the final answer of an exam."""
        return f"of exam {exam}: 5"

    def answer(request: Request) -> Item:
        name = next(name for name in names_offered(request.json) if name != "final_answer")
        return Reply(calls=[(name, {"x": 5, "y": 0})])

    endpoint.script(Reply(calls=[("final_answer", {"exam": 3})]), answer)
    result = run(agent_by_tool(make, endpoint, tools=[final_answer], output_type=Point))
    assert result.output == Point(5, 0)
    assert endpoint.requests[1].messages[-1]["content"] == "of exam 3: 5"


def test_an_answer_is_no_call_that_is_counted_or_approved(make: Maker, endpoint: Endpoint) -> None:
    asked: list[str] = []

    class Asking:
        def needs(self, call: Any, tool: Any) -> bool:
            asked.append(call.tool_name)
            return False

        def ask(self, call: Any, tool: Any) -> None: ...

    endpoint.script(ADD, Reply(calls=[("final_answer", {"x": 5, "y": 0})]))
    agent = agent_by_tool(make, endpoint, tools=[add], output_type=Point, approval=Asking())
    result = run(agent, limits=Limits(tool_calls=1))
    assert (result.output, result.stop_reason, set(asked)) == (Point(5, 0), "answered", {"add"})
    assert result.usage.tool_calls == 1


@pytest.mark.parametrize("by", WAYS)
def test_what_was_sent_before_a_mistake_is_sent_again_as_it_was(make: Maker, by: str) -> None:
    with worn(Bad(TASKS["dataclass"])) as endpoint:
        run(WAYS[by](make, endpoint, output_type=Point))
    first, second = (request.messages for request in endpoint.requests)
    assert second[: len(first)] == first, "the server's prefix cache is of no use"


# What is understood in a text.

UNDERSTOOD = {
    "bare": '{"x": 1, "y": 2}',
    "on many lines": '\n\n{\n  "x": 1,\n  "y": 2\n}\n',
    "in a fence": '```json\n{"x": 1, "y": 2}\n```',
    "in a fence without a language": '```\n{"x": 1, "y": 2}\n```',
    "in a fence behind prose": 'Of course!\n```json\n{"x": 1, "y": 2}\n```\nAnything else?',
    "behind prose": 'The point is {"x": 1, "y": 2}',
    "before prose": '{"x": 1, "y": 2}\n\nThat is the point that you asked for.',
    "behind prose with braces": 'In the form {x, y}: {"x": 1, "y": 2}.',
    "behind a formula": "So it is " + r"\frac{1}{2} + " * 15 + 'and that gives {"x": 1, "y": 2}.',
    "behind thoughts": '<think>Is it {"x": 9, "y": 9}? No.</think>\n{"x": 1, "y": 2}',
    "behind an object that doesn't fit": 'Not {"x": 1}, but {"x": 1, "y": 2}.',
}
NOT_UNDERSTOOD = {
    "prose": "The point is 1, 2.",
    "half of it": '{"x": 1, "y": ',
    "one field": 'The point is {"x": 1}.',
    "a text in place of a number": '```json\n{"x": 1, "y": "two"}\n```',
    "null": "null",
    "a list": "[1, 2]",
}


@pytest.mark.parametrize("text", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_a_text_that_holds_the_answer_is_understood(make: Maker, endpoint: Endpoint, text: str) -> None:
    endpoint.script(*[Reply(text)] * len(WAYS))
    done = {way: run(agent_by(make, endpoint, output_type=Point)) for way, agent_by in WAYS.items()}
    assert {way: result.output for way, result in done.items()} == all_ways(Point(1, 2))


@pytest.mark.parametrize("text", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_a_text_that_doesnt_hold_it_goes_back_to_the_model(
    make: Maker, endpoint: Endpoint, text: str
) -> None:
    endpoint.script(Reply(text), Reply('{"x": 3, "y": 4}'))
    assert run(agent_by_schema(make, endpoint, output_type=Point)).output == Point(3, 4)


# Whose type, and which types.


def test_without_a_type_the_output_is_the_text(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply('{"x": 1, "y": 2}'))
    assert run(agent_by_schema(make, endpoint)).output == '{"x": 1, "y": 2}'
    assert "response_format" not in endpoint.requests[0].json


@each_way
def test_the_type_of_a_run_wins_over_that_of_the_agent(make: Maker, endpoint: Endpoint, way: str) -> None:
    endpoint.script(Reply('{"name": "Oslo", "inhabitants": 5}'))
    result = run(agent_by_schema(make, endpoint, output_type=Point), output_type=Place, way=way)
    assert result.output == {"name": "Oslo", "inhabitants": 5}


def test_the_type_of_a_run_is_for_that_run_only(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply('{"x": 1, "y": 2}'), Reply("two"))
    with agent_by_schema(make, endpoint) as agent:
        outputs = [agent.run("Tell me.", output_type=Point).output, agent.run("Tell me.").output]
    assert outputs == [Point(1, 2), "two"]


class Talkative(Good):
    """A model that says what it is asked, in words, unless it is held to a schema."""

    def answered(self, asked: Json) -> Reply:
        if "response_format" in asked:
            return super().answered(asked)
        return self.reply(asked, self.task.answer)


TEXTS = {
    "prose": "Paris, of course.",
    "that quotes JSON": 'He said {"answer": "no"} to me.',
    "with code": 'Write\n```json\n"abc"\n```\ninto the file.',
}


@pytest.mark.parametrize("said", TEXTS.values(), ids=TEXTS)
def test_any_text_is_a_text(make: Maker, said: str) -> None:
    done = ask_each_way(make, Talkative, Task(str, said, said, None))
    assert {way: each.result.output for way, each in done.items()} == all_ways(said)
    assert {way: len(each.requests) for way, each in done.items()} == all_ways(1)


def test_a_json_schema_stays_as_it_was(make: Maker) -> None:
    given = deepcopy(SCHEMA)
    task = TASKS["JSON schema"]
    with worn(Good(task)) as server:
        assert run(agent_by_schema(make, server, output_type=given)).output == REPORT
    assert given == SCHEMA


SHAPES: dict[str, tuple[Json, Any]] = {
    "array": ({"type": "array", "items": {"type": "integer"}}, [1, 2]),
    "enum": ({"enum": ["a", "b"]}, "b"),
    "number": ({"type": "number", "minimum": 0}, 1.5),
    "either": ({"anyOf": [{"type": "string"}, {"type": "object", "required": ["x"]}]}, {"x": 1}),
    "reference": ({"$ref": "#/$defs/p", "$defs": {"p": {"type": "object"}}}, {}),
    "text that looks like a date": (
        {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]},
        {"day": "2026-03-01"},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_schema_gives_plain_data_of_any_shape(make: Maker, shape: str) -> None:
    schema, answer = SHAPES[shape]
    done = ask_each_way(make, Good, Task(schema, answer, answer, None))
    assert {way: each.result.output for way, each in done.items()} == all_ways(answer)


@pytest.mark.parametrize(
    ("type_", "answer", "output"),
    [
        (Booking, {"room": 7, "nights": 2, "breakfast": None}, {"room": 7, "nights": 2}),
        (Item_, {"article": "ink", "price": 1, "count": None}, Item_(article="ink", price=Decimal(1))),
        (Tree, {"name": "a", "children": None}, Tree(name="a")),
    ],
    ids=["a key that may be missing", "a default", "a tree"],
)
def test_null_means_left_out_where_a_strict_schema_leaves_no_other_way(
    make: Maker, type_: Any, answer: Json, output: Any
) -> None:
    with worn(Good(Task(type_, answer, output, None))) as server:
        result = run(agent_by_schema(make, server, output_type=type_))
    assert result.output == output


SAVED: dict[str, Any] = {
    "a schema": SCHEMA,
    "a type": list[int],
    "a Literal": Literal["low", "high"],
    "a dataclass": Point,
    "a list of pydantic": list[City],
}


@pytest.mark.parametrize("given", SAVED.values(), ids=SAVED)
def test_an_agent_is_saved_with_its_type(given: Any) -> None:
    allow_deserialization_module(__name__)
    saved = json.loads(json.dumps(Agent(output_type=given).to_dict()))
    assert Agent.from_dict(saved).output_type == given


def test_a_type_that_cant_be_found_again_isnt_saved() -> None:
    class Local(BaseModel):
        x: int

    with pytest.raises(ConfigurationError, match="output_type"):
        Agent(output_type=Local).to_dict()


def a_function(x: int) -> int:
    return x


class NoData:
    def __init__(self, connection: object) -> None:
        self.connection = connection


UNUSABLE = {
    "a function": a_function,
    "a class that is no data": NoData,
    "a list of those": list[NoData],
    "an object": Point(1, 2),
    "a number": 5,
    "a schema that is none": {"type": "a point"},
}


@pytest.mark.parametrize("given", UNUSABLE.values(), ids=UNUSABLE)
def test_a_type_that_no_answer_can_have_is_refused_at_once(
    make: Maker, endpoint: Endpoint, given: Any
) -> None:
    with pytest.raises(ConfigurationError, match="output_type"):
        Agent(chat_generator=make(), output_type=given)
    with pytest.raises(ConfigurationError, match="output_type"):
        run(Agent(chat_generator=make()), output_type=given)
    assert endpoint.requests == []


# Runs that end early.


@each_way
@pytest.mark.parametrize(
    ("text", "output"), [('So far: {"x": 5, "y": 0}', Point(5, 0)), ("About five.", None)], ids=["fits", "no"]
)
@pytest.mark.parametrize("by", ["by schema", "by tool"])
def test_at_a_limit_the_last_answer_is_read_as_well(
    make: Maker, endpoint: Endpoint, by: str, way: str, text: str, output: object
) -> None:
    endpoint.script(ADD, Reply(text))
    agent = WAYS[by](make, endpoint, tools=[add], output_type=Point, max_agent_steps=1)
    result = run(agent, way=way)
    assert (result.output, result.stop_reason, result.text) == (output, "max_steps", text)


def test_an_answer_that_was_cut_is_asked_for_again(make: Maker, endpoint: Endpoint) -> None:
    cut = Reply('{"x": 1, "y"', finish_reason="length")
    endpoint.script(cut, cut, Reply('{"x": 1, "y": 2}'))
    result = run(agent_by_schema(make, endpoint, output_type=Point))
    assert (result.output, result.stop_reason) == (Point(1, 2), "answered")


OTHER_ENDS: dict[str, tuple[Reply, Json]] = {
    "refused": (Reply(None, extra={"refusal": "No."}), {}),
    "content_filter": (Reply("It", finish_reason="content_filter"), {}),
    "tool": (ADD, {"exit_conditions": ["add"]}),
}


@pytest.mark.parametrize("reason", OTHER_ENDS)
def test_a_run_that_ends_for_another_reason_has_no_output(
    make: Maker, endpoint: Endpoint, reason: str
) -> None:
    reply, settings = OTHER_ENDS[reason]
    endpoint.script(reply)
    result = run(agent_by_tool(make, endpoint, tools=[add], output_type=Point, **settings))
    assert (result.output, result.stop_reason) == (None, reason)


def test_an_answer_that_a_hook_sends_back_isnt_the_output_of_a_run_that_fails_later(
    make: Maker, endpoint: Endpoint
) -> None:
    sent_back: list[bool] = []

    @hook
    def send_back(state: State) -> None:
        if not sent_back:
            sent_back.append(True)
            state.set("messages", [ChatMessage.from_user("Look again.")])
            state.set("continue_run", True)

    endpoint.script(Reply('{"x": 1, "y": 2}'), *[Reply("I don't know any more.")] * MOST_REQUESTS)
    result = run(agent_by_schema(make, endpoint, output_type=Point, hooks={"on_exit": [send_back]}))
    assert (result.output, result.stop_reason) == (None, "no_output")


def test_corrections_keep_within_the_limits_of_the_run(make: Maker) -> None:
    with worn(Stubborn(TASKS["dataclass"])) as endpoint:
        result = run(agent_by_schema(make, endpoint, output_type=Point), limits=Limits(model_calls=2))
    assert (result.output, result.stop_reason, len(endpoint.requests)) == (None, "max_model_calls", 2)


def test_a_run_that_fails_has_no_output(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("Let me see: 5."), Status(400))
    with pytest.raises(EndpointError) as caught:
        run(agent_by_schema(make, endpoint, output_type=Point))
    assert caught.value.result is not None
    assert caught.value.result.output is None


# Beside other things.


@each_way
def test_the_text_streams_as_it_comes(make: Maker, endpoint: Endpoint, way: str) -> None:
    pieces: list[str] = []
    chunks: list[str] = []
    endpoint.script(Reply('{"x": 1, "y": 2}'))

    async def listen_async(chunk: Any) -> None:
        chunks.append(chunk.content)

    listen: Callable[[Any], Awaitable[None] | None] = (
        listen_async if way == "async" else lambda chunk: chunks.append(chunk.content)
    )
    result = run(
        agent_by_schema(make, endpoint, output_type=Point),
        way=way,
        streaming_callback=listen,
        on_event=lambda event: pieces.append(event.text) if isinstance(event, TextDelta) else None,
    )
    assert result.output == Point(1, 2)
    assert "".join(pieces) == "".join(chunks) == '{"x": 1, "y": 2}'
    assert len([piece for piece in pieces if piece]) > 1


@pytest.mark.parametrize("by", WAYS)
def test_a_stream_of_events_ends_with_the_output(make: Maker, by: str) -> None:
    with worn(Bad(TASKS["dataclass"])) as server, WAYS[by](make, server, output_type=Point) as agent:
        last = list(agent.stream("Tell me."))[-1]
    assert isinstance(last, RunFinished)
    assert (last.result.output, last.stop_reason) == (Point(1, -2), "answered")


def test_runs_with_types_of_their_own_dont_get_in_each_others_way(make: Maker, endpoint: Endpoint) -> None:
    answers = {"point": {"x": 1, "y": 2}, "place": {"name": "Oslo", "inhabitants": 5}}
    types: dict[str, Any] = {"point": Point, "place": Place}

    def answer(request: Request) -> Item:
        about = next(name for name in answers if name in str(request.messages[-1]["content"]))
        return Reply(calls=[("final_answer", answers[about])])

    async def main() -> Sequence[RunResult]:
        async with agent_by_tool(make, endpoint) as agent:
            runs = [agent.run_async(f"Tell me: {name}", output_type=types[name]) for name in [*types] * 4]
            return await asyncio.gather(*runs)

    endpoint.script(Always(answer))
    outputs = [asdict(r.output) if isinstance(r.output, Point) else r.output for r in asyncio.run(main())]
    assert outputs == [*answers.values()] * 4


@each_way
def test_a_scripted_generator_gives_answers_too(way: str) -> None:
    wrong, right = ToolCall("final_answer", {"x": 5}), ToolCall("final_answer", {"x": 5, "y": 0})
    with ScriptedGenerator(ToolCall("add", {"a": 2, "b": 3}), wrong, right) as generator:
        result = run(Agent(chat_generator=generator, tools=[add], output_type=Point), way=way)
    assert (result.output, result.stop_reason) == (Point(5, 0), "answered")
