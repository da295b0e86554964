"""Anything that can be called becomes a tool. All annotations here are postponed: hints are strings."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, NamedTuple, ParamSpec, TypeVar

import pytest
from haystack.tools import Toolset, flatten_tools_or_toolsets
from haystack.tools.errors import ToolInvocationError
from haystack.tools.tool import Tool
from pydantic import BaseModel

from llama_agent import Agent, ConfigurationError, FunctionTool, ToolDefinitionWarning, tool

Json = dict[str, Any]
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Whole = TypeVar("Whole", bound=int)
Key = TypeVar("Key", int, str)


def tools_of(given: Any) -> dict[str, Tool]:
    """What an agent makes of `tools=`, by name, in its order."""
    with Agent(tools=given) as agent:
        return {item.name: item for item in flatten_tools_or_toolsets(agent.tools)}


def only_tool_of(given: Any) -> Tool:
    (found,) = tools_of([given]).values()
    return found


def shown(made: Tool) -> Json:
    return made.parameters.get("properties", {})


# One callable each.


def scale(number: int, factor: int = 2, *, offset: int = 0) -> int:
    """
    Scale a number.

    :param number: What to scale.
    :param factor: By how much.
    :param offset: Added at the end.
    """
    return number * factor + offset


async def scale_slowly(number: int, factor: int = 2) -> int:
    """
    Scale a number, slowly.

    :param number: What to scale.
    """
    await asyncio.sleep(0)
    return number * factor


def logged(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


def doubled(function: Callable[..., int]) -> Callable[..., int]:
    """A decorator that shows another signature than that of the function."""

    @functools.wraps(function)
    def wrapper(half: int) -> int:
        return function(half * 2)

    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("half", inspect.Parameter.KEYWORD_ONLY, annotation=int)]
    )
    return wrapper


class CountingDecorator:
    """A decorator written as a class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.function(*args, **kwargs)


class Scaler:
    factor: ClassVar[int] = 3

    def __init__(self, factor: int = 2) -> None:
        self.own = factor

    def times(self, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * self.own

    @classmethod
    def times_class(cls, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * cls.factor

    @staticmethod
    def times_static(number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * 4

    @logged
    def times_logged(self, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * self.own

    async def times_slowly(self, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * self.own

    def times_factor(self, factor: int, number: int) -> int:
        """
        Scale a number.

        :param factor: By how much.
        :param number: What to scale.
        """
        return number * factor * self.own

    times_five = functools.partialmethod(times_factor, 5)
    times_six = functools.partialmethod(times_factor, factor=6)


class ChildScaler(Scaler):
    factor: ClassVar[int] = 30


class Sign(enum.Enum):
    PLUS = 1
    MINUS = -1

    def times(self, number: int) -> int:
        """
        Give a number this sign.

        :param number: What to scale.
        """
        return number * self.value


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenScaler:
    factor: int

    def times(self, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * self.factor


class TupleScaler(NamedTuple):
    factor: int

    def times(self, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * self.factor


class ModelScaler(BaseModel):
    factor: int

    def times(self, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * self.factor


class CallableScaler:
    """Scales numbers for a living."""

    def __call__(self, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * 7


class AsyncCallableScaler:
    async def __call__(self, number: int) -> int:
        """
        Scale a number.

        :param number: What to scale.
        """
        return number * 7


CALLABLES: dict[str, tuple[Any, int]] = {
    "function": (scale, 20),
    "async function": (scale_slowly, 20),
    "bound method": (Scaler(2).times, 20),
    "async bound method": (Scaler(2).times_slowly, 20),
    "class method of the class": (Scaler.times_class, 30),
    "class method of an instance": (Scaler().times_class, 30),
    "class method of a subclass": (ChildScaler.times_class, 300),
    "static method of the class": (Scaler.times_static, 40),
    "static method of an instance": (Scaler().times_static, 40),
    "inherited method": (ChildScaler(5).times, 50),
    "decorated method": (Scaler(2).times_logged, 20),
    "partial by position": (functools.partial(Scaler(2).times_factor, 3), 60),
    "partial by keyword": (functools.partial(scale, factor=3), 30),
    "partial of a keyword-only parameter": (functools.partial(scale, offset=1), 21),
    "partial of a partial": (functools.partial(functools.partial(scale, factor=3), offset=1), 31),
    "partial of an async function": (functools.partial(scale_slowly, factor=3), 30),
    "partial of a decorated function": (functools.partial(logged(scale), factor=3), 30),
    "partial of a callable object": (functools.partial(CallableScaler()), 70),
    "decorated partial": (functools.wraps(scale)(functools.partial(scale, factor=3)), 30),
    "partialmethod by position": (Scaler(2).times_five, 100),
    "partialmethod by keyword": (Scaler(2).times_six, 120),
    "callable object": (CallableScaler(), 70),
    "callable object's method": (CallableScaler().__call__, 70),
    "async callable object": (AsyncCallableScaler(), 70),
    "decorated function": (logged(scale), 20),
    "twice decorated function": (logged(logged(scale)), 20),
    "decorated async function": (logged(scale_slowly), 20),
    "function decorated by a class": (CountingDecorator(scale), 20),
    "cached function": (functools.cache(scale), 20),
    "cached function with a size": (functools.lru_cache(maxsize=3)(scale), 20),
    "method of an enumeration's member": (Sign.MINUS.times, -10),
    "method of a frozen dataclass": (FrozenScaler(2).times, 20),
    "method of a named tuple": (TupleScaler(2).times, 20),
    "method of a pydantic model": (ModelScaler(factor=2).times, 20),
}


@pytest.mark.parametrize(("function", "result"), CALLABLES.values(), ids=CALLABLES.keys())
def test_a_callable_of_any_kind_is_called_with_checked_arguments(function: Any, result: int) -> None:
    made = tool(name="scaler")(function)
    assert asyncio.run(made.invoke_async(number="10")) == result
    with pytest.raises(ToolInvocationError, match=r"(?m)^number: .*'ten'$"):
        asyncio.run(made.invoke_async(number="ten"))


@pytest.mark.parametrize(("function", "result"), CALLABLES.values(), ids=CALLABLES.keys())
def test_a_callable_of_any_kind_shows_its_texts_and_never_self(function: Any, result: int) -> None:
    made = tool(name="scaler")(function)
    assert shown(made)["number"] == {"type": "integer", "description": "What to scale."}
    assert made.parameters["required"] == ["number"]
    assert not {"self", "cls", "args", "kwargs"} & set(shown(made))
    assert made.description in ("Scale a number.", "Scale a number, slowly.", "Give a number this sign.")


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (scale, "scale"),
        (scale_slowly, "scale_slowly"),
        (Scaler().times, "times"),
        (Scaler.times_class, "times_class"),
        (Scaler.times_static, "times_static"),
        (Scaler(2).times_logged, "times_logged"),
        (functools.partial(scale, factor=3), "scale"),
        (functools.partial(functools.partial(Scaler().times)), "times"),
        (logged(scale), "scale"),
        (functools.cache(scale), "scale"),
        (CountingDecorator(scale), "scale"),
    ],
)
def test_a_callables_own_name_is_its_tools_name(function: Any, name: str) -> None:
    assert tool(function).name == name


@pytest.mark.parametrize("kind", [CallableScaler, AsyncCallableScaler])
def test_a_callable_object_in_a_list_of_tools_is_one_tool(kind: type) -> None:
    made = only_tool_of(kind())
    assert list(shown(made)) == ["number"]
    assert made.description == "Scale a number."
    assert kind.__name__.casefold() in made.name.replace("_", "").casefold()


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (functools.partial(scale, 1), ["factor", "offset"]),
        (functools.partial(scale, 1, 2), ["offset"]),
        (functools.partial(scale, factor=3), ["number", "offset"]),
        (functools.partial(scale, number=1, offset=3), ["factor"]),
        (Scaler(2).times_five, ["number"]),
        (Scaler(2).times_six, ["number"]),
        (functools.partial(scale, 1, 2, offset=3), []),
    ],
)
def test_what_a_partial_has_filled_is_neither_shown_nor_taken(function: Any, names: list[str]) -> None:
    made = tool(function)
    assert list(shown(made)) == names
    sent = dict.fromkeys({"number", "factor", "offset"} - set(names), 99)
    with pytest.raises(ToolInvocationError) as caught:
        made.invoke(**dict.fromkeys(names, 1), **sent)
    for name in sent:
        assert f"\n{name}: " in str(caught.value)


def test_a_partial_may_fill_a_parameter_that_no_model_could_fill() -> None:
    def send(channel: Endless, text: str) -> str:
        """Send."""
        return f"{channel.name}: {text}"

    made = tool(functools.partial(send, Endless("radio")))
    assert (list(shown(made)), made.invoke(text="hi")) == (["text"], "radio: hi")


def test_a_partial_may_fill_a_parameter_that_has_no_type_hint() -> None:
    def send(channel, text: str) -> str:  # type: ignore[no-untyped-def]
        """Send."""
        return f"{channel}: {text}"

    assert tool(functools.partial(send, "radio")).invoke(text="hi") == "radio: hi"


class Endless:
    def __init__(self, name: str) -> None:
        self.name = name


def test_a_signature_of_the_decorators_own_is_the_tools() -> None:
    made = tool(doubled(scale))
    assert list(shown(made)) == ["half"]
    assert made.invoke(half="5") == 20


def test_an_async_tool_called_with_invoke_says_to_await_it() -> None:
    with pytest.raises(ToolInvocationError, match="invoke_async"):
        tool(scale_slowly).invoke(number=1)


def test_a_nested_function_keeps_what_it_closed_over() -> None:
    def make(step: int) -> Callable[[int], int]:
        def move(number: int) -> int:
            """Move."""
            return number + step

        return move

    assert [tool(make(step)).invoke(number=1) for step in (1, 10)] == [2, 11]


# How parameters are passed.


def test_parameters_arrive_by_position_by_name_and_by_keyword_only() -> None:
    def order(
        first: int, second: int = 2, /, third: int = 3, *, fourth: int, fifth: int = 5
    ) -> tuple[int, ...]:
        """Order."""
        return first, second, third, fourth, fifth

    made = tool(order)
    assert made.parameters["required"] == ["first", "fourth"]
    assert list(shown(made)) == ["first", "second", "third", "fourth", "fifth"]
    assert made.invoke(first=10, fourth=40) == (10, 2, 3, 40, 5)
    assert made.invoke(fifth=50, fourth=40, third=30, first=10) == (10, 2, 30, 40, 50)
    assert made.invoke(first=10, second=20, third=30, fourth=40, fifth=50) == (10, 20, 30, 40, 50)


@pytest.mark.parametrize("name", ["self", "cls"])
def test_a_plain_functions_first_parameter_may_be_called_anything(name: str) -> None:
    space: Json = {}
    exec(f'def odd({name}: int) -> int:\n    """Odd."""\n    return {name}', space)
    made = tool(space["odd"])
    assert list(shown(made)) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *("schema", "model_config", "model_fields", "json", "dict", "copy", "validate", "model_dump"),
        *("name", "function", "kwargs", "args", "arguments", "context", "input", "type", "properties"),
        *("_hidden", "__dunder", "ctx", "state", "tool", "title", "description", "default"),
    ],
)
def test_a_parameter_may_have_any_plain_name(name: str) -> None:
    space: Json = {}
    exec(f'def odd({name}: int, other: int = 2) -> int:\n    """Odd."""\n    return {name} + other', space)
    made = tool(space["odd"])
    assert shown(made)[name] == {"type": "integer"}
    assert made.parameters["required"] == [name]
    assert made.invoke(**{name: "40"}) == 42


def test_a_parameter_whose_name_servers_refuse_is_refused_at_once() -> None:
    def odd(größe: int) -> int:
        """Odd."""
        return größe

    with pytest.raises(ConfigurationError, match="'größe'"):
        tool(odd)


def test_an_async_generator_function_can_be_a_tool() -> None:
    async def count(to: int) -> Any:
        """Count."""
        for number in range(to):
            yield number

    assert list(shown(tool(count))) == ["to"]
    assert asyncio.run(tool(count).invoke_async(to="3")) == [0, 1, 2]


# Hints that are strings, names of later, and variables.


class Early(BaseModel):
    later: Later


class Later(BaseModel):
    number: int


def test_postponed_hints_find_classes_defined_later() -> None:
    def take(early: Early) -> int:
        """Take."""
        return early.later.number

    assert tool(take).invoke(early={"later": {"number": "3"}}) == 3


def test_postponed_hints_find_classes_of_the_function_they_stand_in() -> None:
    class Point(BaseModel):
        x: int

    def take(point: Point, others: list[Point]) -> int:
        """Take."""
        return point.x + len(others)

    assert tool(take).invoke(point={"x": 3}, others=[{"x": 1}]) == 4


def test_postponed_hints_of_a_method_find_its_own_class() -> None:
    made = tool(Money(1).plus)
    assert made.invoke(other={"amount": 2}) == Money(3)


@dataclasses.dataclass
class Money:
    amount: int

    def plus(self, other: Money) -> Money:
        """Add."""
        return Money(self.amount + other.amount)


@pytest.mark.parametrize(
    ("hint", "value", "arrives"),
    [
        ("'int'", "3", 3),
        ("'list[int]'", ["3"], [3]),
        ("list['int']", ["3"], [3]),
        ("'int | None'", None, None),
        ("'list[Later]'", [{"number": 1}], [Later(number=1)]),
        ("dict[str, 'Later']", {"a": {"number": 1}}, {"a": Later(number=1)}),
    ],
)
def test_hints_may_be_quoted_whole_or_in_part(hint: str, value: Any, arrives: Any) -> None:
    space = dict(globals())
    exec(f'def take(value: {hint}) -> object:\n    """Take."""\n    return value', space)
    assert tool(space["take"]).invoke(value=value) == arrives


class Store(Generic[T]):
    def put(self, item: T) -> T:
        """Put an item."""
        return item

    def put_all(self, items: list[T]) -> list[T]:
        """Put items."""
        return items


class WholeStore(Store[int]):
    pass


class PairStore(Store[tuple[T, T]], Generic[T]):
    pass


class WholePairStore(PairStore[int]):
    pass


def test_a_method_of_a_generic_class_takes_the_type_that_a_subclass_chose() -> None:
    assert shown(tool(WholeStore().put))["item"] == {"type": "integer"}
    assert tool(WholeStore().put).invoke(item="3") == 3
    assert tool(WholeStore().put_all).invoke(items=["3"]) == [3]


def test_a_type_chosen_in_two_steps_is_followed() -> None:
    assert tool(WholePairStore().put).invoke(item=["3", 4]) == (3, 4)


def test_a_method_of_a_generic_class_takes_the_type_that_its_instance_was_made_with() -> None:
    assert tool(Store[int]().put).invoke(item="3") == 3


def test_a_type_variable_without_a_bound_takes_anything_as_it_is() -> None:
    def first(items: list[T]) -> T:
        """Give the first."""
        return items[0]

    for value in ("3", 3, None, {"a": [1]}, True):
        assert tool(first).invoke(items=[value]) == value


def test_a_type_variables_bound_is_its_type() -> None:
    def same(value: Whole) -> Whole:
        """Give it back."""
        return value

    assert shown(tool(same))["value"] == {"type": "integer"}
    assert tool(same).invoke(value="3") == 3


def test_a_type_variables_constraints_are_its_types() -> None:
    def same(value: Key) -> Key:
        """Give it back."""
        return value

    assert [item["type"] for item in shown(tool(same))["value"]["anyOf"]] == ["integer", "string"]
    assert [tool(same).invoke(value=value) for value in (3, "three")] == [3, "three"]


def test_hints_of_a_decorated_function_are_those_of_its_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        from __future__ import annotations
        import functools

        class Later: "Not the one that the user's function means."

        def traced(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)
            return wrapper
    """
    elsewhere = module_of("traced_elsewhere", source, tmp_path, monkeypatch)

    def take(later: Later) -> int:
        """Take."""
        return later.number

    assert tool(elsewhere.traced(take)).invoke(later={"number": 3}) == 3


# A whole object.


class Desk:
    """A desk with papers."""

    opened: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.papers: list[str] = []
        self.callback = scale

    @property
    def drawer(self) -> str:
        """Open the drawer: nobody should, only to look for tools."""
        self.opened.append("drawer")
        return "dust"

    @functools.cached_property
    def shelf(self) -> str:
        """Look at the shelf."""
        self.opened.append("shelf")
        return "books"

    def write(self, text: str) -> int:
        """Write a paper."""
        self.papers.append(text)
        return len(self.papers)

    def _shuffle(self) -> None:
        """Shuffle."""

    def undocumented(self, anything) -> None:  # type: ignore[no-untyped-def]
        pass

    @tool(destructive=True)
    def burn(self) -> int:
        """Burn all papers."""
        self.papers.clear()
        return 0

    @staticmethod
    def measure(width: int) -> int:
        """Measure."""
        return width

    @classmethod
    def kind(cls) -> str:
        """Tell what it is."""
        return cls.__name__

    async def read(self, number: int) -> str:
        """Read a paper."""
        return self.papers[number - 1]

    class Inner:
        """Not a method."""

    note = functools.partialmethod(write, "note")


class BigDesk(Desk):
    def write(self, text: str) -> int:  # documented where it is overridden
        return super().write(text.upper())

    def fold(self) -> str:
        """Fold."""
        return "folded"


def test_an_object_gives_its_public_documented_methods_in_order() -> None:
    Desk.opened.clear()
    assert list(tools_of([Desk()])) == ["write", "burn", "measure", "kind", "read", "note"]
    assert Desk.opened == []


def test_an_object_needs_no_list() -> None:
    assert list(tools_of(Desk())) == list(tools_of([Desk()]))


def test_an_objects_tools_act_on_it() -> None:
    desk, other = Desk(), Desk()
    found = tools_of([desk])
    assert found["write"].invoke(text="one") == 1
    assert found["note"].invoke() == 2
    assert desk.papers == ["one", "note"]
    assert asyncio.run(found["read"].invoke_async(number="2")) == "note"
    assert found["kind"].invoke() == "Desk"
    assert found["burn"].invoke() == 0
    assert (desk.papers, other.papers) == ([], [])


def test_an_objects_decorated_methods_keep_their_hints() -> None:
    burn, write = (tools_of([Desk()])[name] for name in ("burn", "write"))
    assert isinstance(burn, FunctionTool)
    assert isinstance(write, FunctionTool)
    assert (burn.hints.destructive, write.hints.destructive) == (True, False)


def test_a_subclass_adds_its_methods_and_inherits_texts() -> None:
    desk = BigDesk()
    found = tools_of([desk])
    assert set(found) == {"write", "burn", "measure", "kind", "read", "note", "fold"}
    assert found["write"].description == "Write a paper."
    assert found["write"].invoke(text="one") == 1
    assert desk.papers == ["ONE"]
    assert found["kind"].invoke() == "BigDesk"


@pytest.mark.parametrize("thing", [FrozenScaler(2), ModelScaler(factor=2)])
def test_an_object_gives_no_methods_of_pythons_or_pydantics(thing: object) -> None:
    found = tools_of([thing])
    assert list(found) == ["times"]
    assert found["times"].invoke(number=10) == 20


def test_objects_mix_with_functions_and_toolsets_in_nested_lists() -> None:
    found = tools_of(
        [scale, [Desk(), [Toolset([tool(name="other")(scale)])]], functools.partial(scale_slowly)]
    )
    assert set(found) == {"scale", *tools_of([Desk()]), "other", "scale_slowly"}


def test_two_objects_of_one_class_are_refused_for_their_tools_names() -> None:
    with pytest.raises(ConfigurationError, match="'write'"):
        tools_of([Desk(), Desk()])


def test_a_bad_hint_in_an_objects_method_names_the_method_file_and_parameter() -> None:
    class Broken:
        def mend(self, thing) -> str:  # type: ignore[no-untyped-def]
            """Mend."""
            return str(thing)

    with pytest.raises(ConfigurationError) as caught:
        tools_of([Broken()])
    for part in ("mend", f"{__file__}:{Broken.mend.__code__.co_firstlineno}", "'thing'"):
        assert part in str(caught.value)


def test_an_object_without_documented_methods_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Endless.*docstring"):
        tools_of([Endless("x")])


# A whole module.

PANTRY = '''
"""Things to eat."""
from __future__ import annotations
from json import dumps
from os.path import join
import math

from llama_agent import tool

LIMIT = 3

def eat(food: str, times: Portion = 1) -> str:
    """
    Eat something.

    :param food: What to eat.
    """
    return food * times

Portion = int

async def cook(food: str) -> str:
    """Cook something."""
    return f"hot {food}"

@tool(destructive=True)
def throw_away(food: str) -> str:
    """Throw something away."""
    return ""

def _hide(food: str) -> str:
    """Hide something."""

def undocumented(food): pass

class Food:
    """Not a function."""
    def bite(self) -> None:
        """Bite."""
'''


def module_of(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module as a user has it, in a file; forgotten after the test."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module(name)
    monkeypatch.setitem(sys.modules, name, found)
    return found


@pytest.fixture
def pantry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module_of("pantry_of_tests", PANTRY, tmp_path, monkeypatch)


def test_a_module_gives_its_own_public_documented_functions_in_order(pantry: ModuleType) -> None:
    found = tools_of([pantry])
    assert list(found) == ["eat", "cook", "throw_away"]
    assert found["eat"].invoke(food="egg", times="2") == "eggegg"
    assert asyncio.run(found["cook"].invoke_async(food="egg")) == "hot egg"
    assert found["eat"].parameters["properties"]["food"]["description"] == "What to eat."
    assert isinstance(found["throw_away"], FunctionTool)
    assert found["throw_away"].hints.destructive


def test_a_module_needs_no_list(pantry: ModuleType) -> None:
    assert list(tools_of(pantry)) == ["eat", "cook", "throw_away"]


def test_what_a_module_names_in_all_is_what_it_gives(
    pantry: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pantry, "__all__", ["cook", "Food", "LIMIT"], raising=False)
    assert list(tools_of([pantry])) == ["cook"]


def test_a_module_without_documented_functions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = module_of("bare_of_tests", "def undocumented(a: int): pass", tmp_path, monkeypatch)
    with pytest.raises(ConfigurationError, match=r"bare_of_tests.*docstring"):
        tools_of([bare])


# No text at all.


def test_no_docstring_is_a_warning_that_names_function_file_and_cure() -> None:
    def silent(a: int) -> int:
        return a

    with pytest.warns(ToolDefinitionWarning) as caught:
        tool(silent)
    text = str(caught[0].message)
    for part in ("silent", f"{__file__}:{silent.__code__.co_firstlineno}", "docstring"):
        assert part in text


def test_a_description_given_to_the_decorator_stands_for_a_docstring() -> None:
    def silent(a: int) -> int:
        return a

    assert tool(description="Say nothing.")(silent).description == "Say nothing."


@pytest.mark.parametrize(
    "function",
    [functools.partial(lambda text: text), CallableScaler().__call__.__func__],
    ids=["partial", "unbound"],
)
def test_what_cant_be_described_is_a_configuration_error_not_another(function: Any) -> None:
    with pytest.raises(ConfigurationError):
        tool(name="x")(function)
