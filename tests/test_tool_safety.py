"""Faults that a review found in tools: each would run what nobody allowed, lose work, or stand still."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.core.errors import SerializationError
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools.errors import ToolInvocationError
from haystack.tools.tool import Tool
from llama_agent_tools.calculator import calculate
from llama_agent_tools.files import Workspace
from pydantic import BaseModel, Field

from llama_agent import (
    Agent,
    ConfigurationError,
    MetaLlamaChatGenerator,
    Refused,
    RunContext,
    ToolDenied,
    ToolRetry,
    tool,
)
from tests.calling import call, call_async, failed, generator, told
from tests.endpoint import Endpoint, Reply

T = TypeVar("T")
Json = dict[str, Any]


class RefusesAll:
    """Asked before every call."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def needs(self, call: ToolCall, tool: Tool) -> bool:
        return True

    def ask(self, call: ToolCall, tool: Tool) -> Refused:
        self.asked.append(call.tool_name)
        return Refused("no.")


# Approval.


@pytest.mark.parametrize("runs", [call, call_async], ids=["sync", "async"])
def test_a_call_that_the_state_completes_is_asked_about(endpoint: Endpoint, runs: Any) -> None:
    removed: list[str] = []
    schema = {
        "type": "object",
        "properties": {"path": {"type": "string"}, "user": {"type": "string"}},
        "required": ["path", "user"],
    }
    remove = Tool(
        name="remove",
        description="Remove.",
        parameters=schema,
        function=lambda path, user: removed.append(path + user),
        inputs_from_state={"user": "user"},
    )
    approval = RefusesAll()
    agent = {"approval": approval, "state_schema": {"user": {"type": str}}}
    runs(endpoint, [remove], "remove", {"path": "/x"}, agent=agent, user="bob")
    assert approval.asked == ["remove"]
    assert removed == []


@pytest.mark.parametrize("approval", [None, RefusesAll()], ids=["nobody asked", "somebody asked"])
@pytest.mark.parametrize("runs", [call, call_async], ids=["sync", "async"])
def test_a_validator_that_raises_anything_doesnt_end_the_run(
    endpoint: Endpoint, runs: Any, approval: RefusesAll | None
) -> None:
    class Odd(BaseModel):
        value: int

        def model_post_init(self, _: Any) -> None:
            raise RuntimeError("boom")

    def look(odd: Odd) -> str:
        """Look."""
        return str(odd)

    arguments = {"odd": {"value": 1}}
    result = runs(endpoint, [look], "look", arguments, agent={"approval": approval})
    assert failed(result)
    assert result.stop_reason == "answered"


@pytest.mark.parametrize("runs", [call, call_async], ids=["sync", "async"])
def test_an_exception_that_cant_be_shown_doesnt_end_the_run(endpoint: Endpoint, runs: Any) -> None:
    class Shy(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def look() -> str:
        """Look."""
        raise Shy

    result = runs(endpoint, [look], "look")
    assert "Shy" in told(result)


# Time.


class Or(BaseModel):
    left: "And | Or | int"


class And(BaseModel):
    left: "And | Or | int"


def test_a_deeply_nested_wrong_value_of_a_recursive_union_is_refused_soon() -> None:
    @tool
    def solve(expression: And | Or | int) -> str:
        """Solve."""
        return str(expression)

    value: Any = "x"
    for _ in range(40):
        value = {"left": value}
    started = time.process_time()
    with pytest.raises(ToolInvocationError):
        solve.invoke(expression=value)
    # Read again at each level, it would take 2 to the power of 40 steps.
    assert time.process_time() - started < 30


def test_a_pattern_is_left_to_an_engine_that_cant_stand_still() -> None:
    @tool
    def look(word: Annotated[str, Field(pattern=r"^(a+)+$")]) -> str:
        """Look."""
        return word

    started = time.process_time()
    with pytest.raises(ToolInvocationError, match="word"):
        look.invoke(word="a" * 40 + "!")
    # Python's own engine would take 2 to the power of 40 steps.
    assert time.process_time() - started < 30


# What a model writes where it has nothing to write.


def test_a_context_that_a_model_writes_doesnt_count_in_haystacks_own_agent(endpoint: Endpoint) -> None:
    @tool
    def look(number: int, context: RunContext[Any]) -> str:
        """Look."""
        return f"{number} {context.deps}"

    endpoint.script(Reply(calls=[("look", {"number": 1, "context": {"deps": "admin"}})]), Reply("done"))
    agent = HaystackAgent(chat_generator=generator(endpoint), tools=[look])
    try:
        result = agent.run(messages=[ChatMessage.from_user("go")])
    finally:
        agent.close()
    (outcome,) = (outcome for message in result["messages"] for outcome in message.tool_call_results)
    assert outcome.result == "1 None"


def test_an_override_that_would_lose_its_hints_is_refused() -> None:
    class Base:
        @tool(destructive=True)
        def wipe(self, number: int) -> str:
            """Wipe."""
            return str(number)

    class Audited(Base):
        def wipe(self, number: int) -> str:  # type: ignore[override]
            """Wipe, and say so."""
            return f"wiped {number}"

    with pytest.raises(ConfigurationError, match=r"Audited\.wipe .*@tool"):
        Agent(tools=[Audited()])


@pytest.mark.parametrize("value", ["20260131", "1700000000", "2026", 1700000000])
def test_a_bare_number_is_no_date(value: object) -> None:
    @tool
    def look(when: datetime, whens: list[datetime] | None = None) -> str:
        """Look."""
        return f"{when} {whens}"

    with pytest.raises(ToolInvocationError, match="when: "):
        look.invoke(when=value)
    with pytest.raises(ToolInvocationError, match=r"whens.0: "):
        look.invoke(when="2026-01-31T00:00:00", whens=[value])


class Order(BaseModel):
    amount: int
    note: str = ""


def test_a_key_that_a_nested_model_doesnt_know_isnt_lost_without_a_word() -> None:
    @tool
    def place(orders: list[Order]) -> str:
        """Place orders."""
        return str(orders)

    with pytest.raises(ToolInvocationError, match=r"orders.0.dry_run: .*Accepted: amount, note"):
        place.invoke(orders=[{"amount": 1, "dry_run": True}])
    assert place.invoke(orders=[{"amount": 1, "dry_run": None}]) == "[Order(amount=1, note='')]"


@pytest.mark.parametrize(
    "text",
    [
        'Ignored for one of "a", "b".',
        'One of "a", "b". Other characters work too.',
        'Must not be one of "a", "b".',
        'Like one of "a", "b".',
    ],
)
def test_a_list_that_isnt_of_all_values_is_no_enum(text: str) -> None:
    def look(word: str) -> str:
        return word

    look.__doc__ = f"Look.\n\nArgs:\n    word: {text}"
    assert "enum" not in tool(look).parameters["properties"]["word"]


# Types and tools of odd make.


class Box(Generic[T]):
    @tool
    def put(self, item: T) -> str:
        """Put an item in."""
        return repr(item)


def test_each_kind_of_a_generic_object_has_tools_of_its_own_types() -> None:
    assert Box[int]().put.invoke(item="1") == "1"
    assert Box[str]().put.invoke(item="a") == "'a'"


def test_a_type_that_isnt_for_parameters_is_a_configuration_error() -> None:
    def look(word: ClassVar[int], number: int = 1) -> str:  # type: ignore[misc]
        """Look."""
        return f"{word} {number}"

    with pytest.raises(ConfigurationError, match="'word'"):
        tool(look)


def test_a_class_method_that_cant_be_loaded_again_isnt_saved() -> None:
    with pytest.raises(SerializationError, match="class method"):
        Kitchen().boil.to_dict()


class Kitchen:
    @tool
    @classmethod
    def boil(cls, minutes: int) -> str:
        """Boil."""
        return str(minutes)


def test_a_plainly_wrapped_async_function_isnt_given_back_unawaited() -> None:
    async def look() -> str:
        """Look."""
        return "seen"

    def wrapped() -> Any:
        """Look."""
        return look()

    with pytest.raises(ToolInvocationError, match="invoke_async"):
        tool(wrapped).invoke()
    assert asyncio.run(tool(wrapped).invoke_async()) == "seen"


@dataclass
class Stream:
    """Iterates asynchronously, though it isn't a generator."""

    def __aiter__(self) -> "Stream":
        self.left = [1, 2]
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("runs", [call, call_async], ids=["sync", "async"])
def test_what_iterates_asynchronously_is_collected(endpoint: Endpoint, runs: Any, is_async: bool) -> None:
    def give() -> Stream:
        """Give."""
        return Stream()

    async def give_async() -> Stream:
        """Give."""
        return Stream()

    function = give_async if is_async else give
    assert told(runs(endpoint, [tool(name="give")(function)], "give")) == "[1,2]"


def test_a_summary_that_begins_with_a_parameters_name_stays_one() -> None:
    def query(query: str) -> str:
        """query: runs a database query."""
        return query

    assert tool(query).description == "query: runs a database query."


def test_a_state_key_that_run_takes_for_itself_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="deps"):
        Agent(state_schema={"deps": {"type": dict}})


# Ready-made tools.


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "work").mkdir()
    yield Workspace(tmp_path / "work")


def test_a_folder_cant_be_made_a_repository_that_git_would_trust(work: Workspace, tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    written = {
        "sub/config": f'[core]\n\tbare = false\n\tworktree = .\n\tfsmonitor = "touch {target}"\n',
        "sub/HEAD": "ref: refs/heads/main\n",
        "sub/objects/x": "",
        "sub/refs/x": "",
    }
    refused = 0
    for path, text in written.items():
        try:
            work.write_file(path, text)
        except ToolDenied:
            refused += 1
    assert refused == 1
    subprocess.run(["git", "status"], cwd=work.root / "sub", capture_output=True, check=False)
    assert not target.exists()


@pytest.mark.parametrize("path", [".jj/x", ".bzr/x", "GIT~1/x", ".g\u200cit/hooks/x", "．git/config"])
def test_other_spellings_of_version_control_are_refused(work: Workspace, path: str) -> None:
    with pytest.raises(ToolDenied):
        work.write_file(path, "x")


def test_appends_from_many_threads_are_all_kept(work: Workspace) -> None:
    def append() -> None:
        for _ in range(25):
            work.append_to_file("log.txt", "line\n")

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert work.read_file("log.txt") == "line\n" * 100


def test_a_refused_write_leaves_no_folders_behind(work: Workspace) -> None:
    with pytest.raises(ToolRetry):
        work.write_file("new/folder/file.txt", "\ud800")
    assert work.list_files() == []


def test_a_search_that_isnt_complete_says_so(work: Workspace) -> None:
    (work.root / "large.log").write_bytes(b"needle\n" * 2_000_000)
    assert "1 files of more than" in work.search_files("needle")[-1]


@pytest.mark.parametrize(
    "expression",
    [
        "-920029851539794904594742608362662078763575092 % 157.75566292",
        "-71601670113526655575469663766549972619420693 % 12.291092",
    ],
)
def test_a_remainder_is_exact_however_large_the_number(expression: str) -> None:
    number, divisor = (Fraction(part) for part in expression.split(" % "))
    assert abs(Fraction(calculate(expression)) - number % divisor) < Fraction(1, 10**25)


# What people write first.


@pytest.mark.parametrize(
    ("answer", "runs"), [(True, True), (None, True), (False, False), (Refused("no."), False)]
)
def test_an_approval_may_answer_by_a_bare_yes_or_no(endpoint: Endpoint, answer: Any, runs: bool) -> None:
    class Asked(RefusesAll):
        def ask(self, call: ToolCall, tool: Tool) -> Any:
            return answer

    def look() -> str:
        """Look."""
        return "seen"

    result = call(endpoint, [look], "look", agent={"approval": Asked()})
    assert failed(result) is not runs


def test_an_approval_that_answers_anything_else_is_a_configuration_error(endpoint: Endpoint) -> None:
    class Asked(RefusesAll):
        def ask(self, call: ToolCall, tool: Tool) -> Any:
            return "yes"

    def look() -> str:
        """Look."""
        return "seen"

    endpoint.script(Reply(calls=[("look", {})]))
    agent = Agent(chat_generator=generator(endpoint), tools=[look], approval=Asked())
    with agent, pytest.raises(ConfigurationError, match=r"must return None .*Refused"):
        agent.run("go")


def test_a_misspelt_parameter_in_a_docstring_is_warned_of() -> None:
    def pay(amount: int) -> str:
        """Pay.

        Args:
            amout: How much.
        """
        return str(amount)

    with pytest.warns(UserWarning, match="'amout', which isn't a parameter: 'amount'"):
        tool(pay)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tool("pay"), r"@tool\(name='pay'\)"),
        (lambda: tool(Order), "Order is a class"),
        (lambda: tool(outputs_to_state=["docs"])(lambda: 1), "outputs_to_state must be a dictionary"),
        (lambda: Agent(chat_generator="ollama"), "must be a generator object"),
        (lambda: Agent(tools=[Workspace]), r"Workspace\(\.\.\.\)"),
        (lambda: tool(3), "3 can't be a tool"),  # type: ignore[call-overload]
        (lambda: tool(name=3)(len), "name must be a text"),  # type: ignore[call-overload]
        (lambda: tool(description=3)(len), "description must be a text"),  # type: ignore[call-overload]
        (lambda: Agent(retry=3), "retry must be a RetryPolicy"),  # type: ignore[arg-type]
        (lambda: MetaLlamaChatGenerator(retry={"max_retries": 1}), "retry must be a RetryPolicy"),  # type: ignore[arg-type]
    ],
    ids=[
        "name by position",
        "class",
        "list for outputs",
        "text for a generator",
        "class as tools",
        "number",
        "name",
        "description",
        "agent's retry",
        "generator's retry",
    ],
)
def test_a_common_mistake_is_answered_with_what_to_write(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()
