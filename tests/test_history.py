"""What goes on the wire is always a valid history, whatever the messages were; and nothing said is lost."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import cached_property
from time import process_time
from typing import Any

import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.components.agents.state.state import State
from haystack.components.agents.state.state_utils import replace_values
from haystack.dataclasses import ChatMessage, StreamingChunk, TextContent, ToolCall
from haystack.hooks import hook
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_agent import Agent, MetaLlamaChatGenerator, ToolStarted, tool
from tests.commands import llama_agent
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request, Status
from tests.endpoint.dresses import BedrockLike, SingleCallTemplate, worn
from tests.strict_server import calls_with_results, faults, strictly, texts

Json = dict[str, Any]
History = list[ChatMessage]


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@tool
def subtract(a: int, b: int) -> int:
    """Subtract b from a."""
    return a - b


user = ChatMessage.from_user


def call(id: str | None, a: Any = 1, b: Any = 2, name: str = "add") -> ToolCall:
    return ToolCall(name, {"a": a, "b": b}, id=id)


def assistant(*calls: ToolCall, text: str | None = None) -> ChatMessage:
    return ChatMessage.from_assistant(text, tool_calls=list(calls))


def result(text: str, of: ToolCall) -> ChatMessage:
    return ChatMessage.from_tool(text, origin=of)


def unreadable(id: str | None, raw: str = '{"a": 1, "b":') -> ToolCall:
    marked = {"malformed_arguments": raw}
    return ToolCall("add", marked, id=id, extra={"malformed_arguments": "The arguments were cut off."})


# Histories that break rules. Each is made anew, since messages can be changed.


def same_id_within_a_turn() -> History:
    one, two = call("x", 1, 2), call("x", 3, 4)
    return [user("go"), assistant(one, two), result("three", one), result("seven", two)]


def same_id_in_three_turns() -> History:
    calls = [call("x", n, n) for n in (1, 2, 3)]
    turns = [[assistant(each), result(f"the sum {2 * n}", each)] for n, each in enumerate(calls, 1)]
    return [user("go"), *(message for turn in turns for message in turn), user("and now?")]


def same_id_of_two_tools() -> History:
    one, two = call("x", name="add"), call("x", name="subtract")
    return [user("go"), assistant(one, two), result("three", one), result("minus one", two)]


def same_call_twice_with_one_id() -> History:
    one = call("x")
    return [user("go"), assistant(one, one), result("three", one)]


def same_call_twice_with_one_id_and_two_results() -> History:
    one, two = call("x"), call("x")
    return [user("go"), assistant(one, two), result("three", one), result("again three", two)]


def an_id_of_an_earlier_turn_and_a_new_one() -> History:
    first, second, third = call("x", 1, 1), call("x", 2, 2), call("x_2", 3, 3)
    return [
        user("go"), assistant(first), result("two", first),
        assistant(second, third), result("four", second), result("six", third),
    ]  # fmt: skip


def empty_ids() -> History:
    one, two = call("", 1, 2), call("", 3, 4)
    return [user("go"), assistant(one, two), result("three", one), result("seven", two)]


def blank_ids() -> History:
    one, two = call(" ", 1, 2), call("\n", 3, 4)
    return [user("go"), assistant(one, two), result("three", one), result("seven", two)]


def no_ids_anywhere() -> History:
    one, two, three = call(None, 1, 2), call(None, 3, 4), call(None, 5, 6)
    return [
        user("go"), assistant(one, two), result("three", one), result("seven", two),
        assistant(three), result("eleven", three), user("and now?"),
    ]  # fmt: skip


def no_ids_and_the_same_call_in_each_turn() -> History:
    turns = [[assistant(call(None)), result(f"three, time {n}", call(None))] for n in (1, 2, 3)]
    return [user("go"), *(message for turn in turns for message in turn)]


def no_ids_and_results_in_another_order() -> History:
    one, two = call(None, 1, 2), call(None, 3, 4)
    return [user("go"), assistant(one, two), result("seven", two), result("three", one)]


def ids_in_the_calls_only() -> History:
    return [user("go"), assistant(call("x")), result("three", call(None))]


def ids_in_the_results_only() -> History:
    return [user("go"), assistant(call(None)), result("three", call("x"))]


def other_ids_in_the_results() -> History:
    one, two = call("x", 1, 2), call("y", 3, 4)
    three, seven = result("three", call("p", 1, 2)), result("seven", call("q", 3, 4))
    return [user("go"), assistant(one, two), three, seven]


def unanswered_at_the_end() -> History:
    return [user("go"), assistant(call("x"), text="Let me see.")]


def unanswered_in_the_middle() -> History:
    return [user("go"), assistant(call("x")), user("never mind, what is new?")]


def one_of_two_unanswered() -> History:
    one, two = call("x", 1, 2), call("y", 3, 4)
    return [user("go"), assistant(one, two), result("seven", two), user("and the other?")]


def unanswered_before_another_turn() -> History:
    one, two = call("x", 1, 2), call("y", 3, 4)
    return [user("go"), assistant(one), assistant(two), result("seven", two)]


def unanswered_between_turns_that_share_an_id() -> History:
    one, two = call("x", 1, 2), call("x", 3, 4)
    return [user("go"), assistant(one), assistant(two), result("seven", two)]


def an_orphan_at_the_start() -> History:
    return [result("an early finding", call("gone")), user("go")]


def an_orphan_behind_an_answer() -> History:
    one = call("x")
    found = result("a stray finding", call("gone"))
    return [user("go"), assistant(one), result("three", one), found, user("and?")]


def an_orphan_behind_plain_text() -> History:
    found = result("a stray finding", call("gone"))
    return [user("go"), assistant(text="I'll look it up."), found, user("and?")]


def an_orphan_between_two_results() -> History:
    one, two = call("x", 1, 2), call("y", 3, 4)
    found = result("a stray finding", call("gone", name="subtract"))
    return [user("go"), assistant(one, two), result("three", one), found, result("seven", two)]


def an_orphan_in_place_of_the_result() -> History:
    found = result("a stray finding", call("gone", 9, 9, name="subtract"))
    return [user("go"), assistant(call("x")), found, user("and?")]


def orphans_only() -> History:
    return [user("go"), *(result(f"finding {n}", call(f"gone{n}")) for n in range(3))]


def a_result_before_its_call() -> History:
    one = call("x")
    return [user("go"), result("three", one), assistant(one), user("and?")]


def a_late_result() -> History:
    one = call("x")
    return [user("go"), assistant(one), user("are you there?"), result("three", one), user("and?")]


def a_result_later_than_another_turn() -> History:
    one, two = call("x", 1, 2), call("y", 3, 4)
    return [user("go"), assistant(one), assistant(two), result("seven", two), result("three", one)]


def a_system_message_between_call_and_result() -> History:
    one = call("x")
    between = ChatMessage.from_system("Be brief from here on.")
    return [user("go"), assistant(one), between, result("three", one)]


def the_same_result_twice() -> History:
    one = call("x")
    return [user("go"), assistant(one), result("three", one), result("three", one)]


def two_results_of_one_call() -> History:
    one = call("x")
    return [user("go"), assistant(one), result("first three", one), result("then four", one)]


def a_result_again_in_a_later_turn() -> History:
    one, two = call("x", 1, 2), call("y", 3, 4)
    return [
        user("go"), assistant(one), result("three", one),
        assistant(two), result("three once more", one), result("seven", two),
    ]  # fmt: skip


def results_in_another_order() -> History:
    one, two, three = call("x", 1, 2), call("y", 3, 4), call("z", 5, 6)
    results = [result("eleven", three), result("three", one), result("seven", two)]
    return [user("go"), assistant(one, two, three), *results]


def unreadable_arguments() -> History:
    one = unreadable("x")
    return [user("go"), assistant(one), result("The arguments were cut off.", one), user("again")]


def unreadable_arguments_without_an_answer() -> History:
    return [user("go"), assistant(unreadable("x")), user("again")]


def unreadable_arguments_beside_good_ones() -> History:
    one, two = call("x"), unreadable("x")
    return [user("go"), assistant(one, two), result("three", one), result("It was cut off.", two)]


def no_number() -> History:
    one = call("x", float("nan"), float("inf"))
    return [user("go"), assistant(one), result("can't add that", one)]


def no_number_deep_inside() -> History:
    one = call("x", {"values": [1, {"deep": float("-inf")}]})
    return [user("go"), assistant(one), result("can't add that", one)]


def arguments_that_json_doesnt_know() -> History:
    one = call("x", date(2026, 11, 23), {1, 2})
    return [user("go"), assistant(one), result("can't add that", one)]


def half_a_surrogate_pair() -> History:
    one = call("x", "\ud800")
    return [user("go"), assistant(one), result("can't add that", one)]


def an_empty_assistant() -> History:
    return [user("go"), ChatMessage.from_assistant(""), user("hello?")]


def an_assistant_without_anything() -> History:
    return [user("go"), ChatMessage.from_assistant(), user("hello?")]


def empty_assistants_at_the_end() -> History:
    return [user("go"), ChatMessage.from_assistant(""), ChatMessage.from_assistant()]


def an_assistant_that_only_thought() -> History:
    return [user("go"), ChatMessage.from_assistant(reasoning="Hmm."), user("hello?")]


def an_empty_assistant_between_call_and_result() -> History:
    one = call("x")
    return [user("go"), assistant(one), ChatMessage.from_assistant(""), result("three", one)]


def a_blank_assistant() -> History:
    return [user("go"), ChatMessage.from_assistant(" \n"), user("hello?")]


def calls_with_text() -> History:
    one = call("x")
    return [user("go"), assistant(one, text="Let me add."), result("three", one)]


def calls_with_empty_text() -> History:
    one = call("x")
    return [user("go"), assistant(one, text=""), result("three", one)]


def an_empty_result() -> History:
    one = call("x")
    return [user("go"), assistant(one), result("", one), user("and?")]


def an_orphan_of_several_parts() -> History:
    parts = [TextContent("the first part"), TextContent("the second part")]
    return [user("go"), ChatMessage.from_tool(parts, origin=call("gone"))]


def everything_at_once() -> History:
    return [
        *an_orphan_at_the_start(),
        *(message for make in (same_id_within_a_turn, a_late_result, no_ids_anywhere) for message in make()),
        *unanswered_in_the_middle(),
        *unreadable_arguments(),
        *two_results_of_one_call(),
    ]


HISTORIES: list[Callable[[], History]] = [
    same_id_within_a_turn,
    same_id_in_three_turns,
    same_id_of_two_tools,
    same_call_twice_with_one_id,
    same_call_twice_with_one_id_and_two_results,
    an_id_of_an_earlier_turn_and_a_new_one,
    empty_ids,
    blank_ids,
    no_ids_anywhere,
    no_ids_and_the_same_call_in_each_turn,
    no_ids_and_results_in_another_order,
    ids_in_the_calls_only,
    ids_in_the_results_only,
    other_ids_in_the_results,
    unanswered_at_the_end,
    unanswered_in_the_middle,
    one_of_two_unanswered,
    unanswered_before_another_turn,
    unanswered_between_turns_that_share_an_id,
    an_orphan_at_the_start,
    an_orphan_behind_an_answer,
    an_orphan_behind_plain_text,
    an_orphan_between_two_results,
    an_orphan_in_place_of_the_result,
    orphans_only,
    a_result_before_its_call,
    a_late_result,
    a_result_later_than_another_turn,
    a_system_message_between_call_and_result,
    the_same_result_twice,
    two_results_of_one_call,
    a_result_again_in_a_later_turn,
    results_in_another_order,
    unreadable_arguments,
    unreadable_arguments_without_an_answer,
    unreadable_arguments_beside_good_ones,
    no_number,
    no_number_deep_inside,
    arguments_that_json_doesnt_know,
    half_a_surrogate_pair,
    an_empty_assistant,
    an_assistant_without_anything,
    empty_assistants_at_the_end,
    an_assistant_that_only_thought,
    an_empty_assistant_between_call_and_result,
    a_blank_assistant,
    calls_with_text,
    calls_with_empty_text,
    an_empty_result,
    an_orphan_of_several_parts,
    everything_at_once,
]

every_history = pytest.mark.parametrize("history", HISTORIES, ids=lambda make: make.__name__)


def said(history: Sequence[ChatMessage]) -> list[str]:
    """Every text of a history that the model is to see."""
    found = [text for message in history for text in message.texts]
    for message in history:
        for each in message.tool_call_results:
            parts = [each.result] if isinstance(each.result, str) else [part.text for part in each.result]  # type: ignore[union-attr]
            found += parts
    return [text for text in found if text.strip()]


def as_data(history: Sequence[ChatMessage]) -> list[str]:
    return [repr(message) for message in history]


def ask(generator: MetaLlamaChatGenerator, history: History, way: str) -> ChatMessage:
    async def asked() -> ChatMessage:
        try:
            return (await generator.run_async(history, tools=[add, subtract]))["replies"][0]
        finally:
            await generator.close_async()

    if way == "async":
        return asyncio.run(asked())
    kwargs = {"stream": way == "streamed"}
    return generator.run(history, tools=[add, subtract], generation_kwargs=kwargs)["replies"][0]


# A history that the caller made.


@every_history
@pytest.mark.parametrize("way", ["sync", "async", "streamed"])
def test_a_strict_server_takes_every_history(
    make: Maker, endpoint: Endpoint, history: Callable[[], History], way: str
) -> None:
    endpoint.script(*strictly(Reply("done"), code=500 if way == "async" else 400))
    assert ask(make(), history(), way).text == "done"


@every_history
def test_nothing_that_was_said_is_lost(
    make: Maker, endpoint: Endpoint, history: Callable[[], History]
) -> None:
    endpoint.script(Reply("done"))
    given = history()
    ask(make(), given, "sync")
    sent = texts(endpoint.requests[0].messages)
    assert [text for text in said(given) if text not in sent] == []


@every_history
def test_what_was_said_is_said_in_its_order(
    make: Maker, endpoint: Endpoint, history: Callable[[], History]
) -> None:
    endpoint.script(Reply("done"))
    given = history()
    ask(make(), given, "sync")
    asked = [text for message in given if message.is_from("user") for text in message.texts]
    sent = [message["content"] for message in endpoint.requests[0].messages if message["role"] == "user"]
    assert [text for text in sent if text in asked] == asked


@every_history
def test_the_messages_that_were_given_are_never_changed(
    make: Maker, endpoint: Endpoint, history: Callable[[], History]
) -> None:
    endpoint.script(Reply("done"))
    given = history()
    before, parts = as_data(given), list(given)
    ask(make(), given, "sync")
    assert as_data(given) == before
    assert all(one is other for one, other in zip(given, parts, strict=True))


@every_history
def test_no_call_is_invented_and_none_is_lost_but_exact_doubles(
    make: Maker, endpoint: Endpoint, history: Callable[[], History]
) -> None:
    endpoint.script(Reply("done"))
    given = history()
    ask(make(), given, "sync")
    called = {(each.tool_name, each.id or n) for n, m in enumerate(given) for each in m.tool_calls}
    sent = [each for message in endpoint.requests[0].messages for each in message.get("tool_calls", ())]
    assert len(called) <= len(sent) <= sum(len(message.tool_calls) for message in given)


@every_history
def test_an_agents_run_goes_on_from_every_history(
    make: Maker, endpoint: Endpoint, history: Callable[[], History]
) -> None:
    endpoint.script(*strictly(Reply(calls=[("add", {"a": 40, "b": 2})], ids=["x"]), Reply("done"), code=500))
    given = history()
    before = as_data(given)
    with Agent(chat_generator=make(), tools=[add, subtract]) as agent:
        run = agent.run(given)
    assert (run.text, run.stop_reason) == ("done", "answered")
    assert calls_with_results(endpoint.requests[1].messages)[-1] == ({"a": 40, "b": 2}, "42")
    assert as_data(given) == before


@every_history
def test_haystacks_own_agent_goes_on_from_every_history(
    make: Maker, endpoint: Endpoint, history: Callable[[], History]
) -> None:
    endpoint.script(*strictly(Reply(calls=[("add", {"a": 40, "b": 2})]), Reply("done")))
    agent = HaystackAgent(chat_generator=make(), tools=[add, subtract])
    run = agent.run(messages=history())
    agent.close()
    assert run["last_message"].text == "done"


@every_history
@pytest.mark.parametrize("mode", ["prompted", "constrained"])
def test_every_history_is_told_in_plain_text_where_tools_arent_known(
    make: Maker, endpoint: Endpoint, history: Callable[[], History], mode: str
) -> None:
    endpoint.script(Always(Reply('{"next": "answer"}' if mode == "constrained" else "done")))
    given = history()
    ask(make(tool_mode=mode), given, "sync")
    for request in endpoint.requests:
        assert list(faults(request.messages)) == []
        assert {message["role"] for message in request.messages} <= {"system", "user", "assistant"}
        assert all(message.keys() == {"role", "content"} for message in request.messages)
        sent = texts(request.messages)
        assert [text for text in said(given) if text not in sent] == []


PAIRS: dict[Callable[[], History], list[tuple[Json, str]]] = {
    same_id_within_a_turn: [({"a": 1, "b": 2}, "three"), ({"a": 3, "b": 4}, "seven")],
    same_id_in_three_turns: [({"a": n, "b": n}, f"the sum {2 * n}") for n in (1, 2, 3)],
    an_id_of_an_earlier_turn_and_a_new_one: [
        ({"a": 1, "b": 1}, "two"),
        ({"a": 2, "b": 2}, "four"),
        ({"a": 3, "b": 3}, "six"),
    ],
    empty_ids: [({"a": 1, "b": 2}, "three"), ({"a": 3, "b": 4}, "seven")],
    no_ids_anywhere: [({"a": 1, "b": 2}, "three"), ({"a": 3, "b": 4}, "seven"), ({"a": 5, "b": 6}, "eleven")],
    no_ids_and_the_same_call_in_each_turn: [({"a": 1, "b": 2}, f"three, time {n}") for n in (1, 2, 3)],
    no_ids_and_results_in_another_order: [({"a": 1, "b": 2}, "three"), ({"a": 3, "b": 4}, "seven")],
    ids_in_the_calls_only: [({"a": 1, "b": 2}, "three")],
    ids_in_the_results_only: [({"a": 1, "b": 2}, "three")],
    a_late_result: [({"a": 1, "b": 2}, "three")],
    results_in_another_order: [
        ({"a": 1, "b": 2}, "three"),
        ({"a": 3, "b": 4}, "seven"),
        ({"a": 5, "b": 6}, "eleven"),
    ],
    unreadable_arguments: [({}, "The arguments were cut off.")],
}


@pytest.mark.parametrize(("history", "pairs"), PAIRS.items(), ids=[make.__name__ for make in PAIRS])
def test_each_result_stays_with_its_call(
    make: Maker, endpoint: Endpoint, history: Callable[[], History], pairs: list[tuple[Json, str]]
) -> None:
    endpoint.script(*strictly(Reply("done")))
    ask(make(), history(), "sync")
    assert calls_with_results(endpoint.requests[0].messages) == pairs


def test_ids_that_are_good_are_sent_as_they_are(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("done"))
    one, two = call("call_abc", 1, 2), call("toolu_01X", 3, 4)
    given = [user("go"), assistant(one, two), result("three", one), result("seven", two)]
    ask(make(), given, "sync")
    sent = endpoint.requests[0].messages
    assert [each["id"] for each in sent[1]["tool_calls"]] == ["call_abc", "toolu_01X"]
    assert [message["tool_call_id"] for message in sent[2:]] == ["call_abc", "toolu_01X"]


@every_history
def test_the_same_history_is_sent_alike_each_time(
    make: Maker, endpoint: Endpoint, history: Callable[[], History]
) -> None:
    """What goes before stays byte by byte, or a server's cache of the prompt is of no use."""
    endpoint.script(Always(Reply("done")))
    given = history()
    generator = make()
    ask(generator, given, "sync")
    ask(generator, [*given, user("one more")], "sync")
    ask(make(), [*history(), user("one more")], "sync")
    first, second, third = (request.messages for request in endpoint.requests)
    assert second == third
    assert second[: len(first)] == first


# What a server sends in a run.


class Counting:
    """Notes which calls ran."""

    def __init__(self) -> None:
        self.ran: list[tuple[int, int]] = []
        self.tool = tool(self.add)

    def add(self, a: int, b: int) -> int:
        """Add two whole numbers."""
        self.ran.append((a, b))
        return a + b


Add = tuple[str, Json]


def adds(*pairs: tuple[int, int]) -> list[Add]:
    return [("add", {"a": a, "b": b}) for a, b in pairs]


both_streams = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def run(
    make: Maker, endpoint: Endpoint, stream: bool, *replies: Item, code: int = 400, **settings: Any
) -> Any:
    counting = Counting()
    endpoint.script(*strictly(*replies, code=code))
    with Agent(
        chat_generator=make(generation_kwargs={"stream": stream}), tools=[counting.tool], **settings
    ) as agent:
        return agent.run("go"), counting.ran


@both_streams
def test_one_constant_id_over_five_steps_does_no_harm(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    """llama.cpp gave each call of a conversation the same id (NousResearch/hermes-agent#70724)."""
    steps = [Reply(calls=adds((n, n)), ids=["call_1"]) for n in range(5)]
    result, ran = run(make, endpoint, stream, *steps, Reply("done"))
    assert ran == [(n, n) for n in range(5)]
    assert result.text == "done"
    assert calls_with_results(endpoint.requests[-1].messages) == [
        ({"a": n, "b": n}, str(2 * n)) for n in range(5)
    ]


@both_streams
def test_one_constant_id_for_two_calls_in_each_of_five_steps_does_no_harm(
    make: Maker, endpoint: Endpoint, stream: bool
) -> None:
    steps = [Reply(calls=adds((n, 1), (n, 2)), ids=["0", "0"]) for n in range(5)]
    result, ran = run(make, endpoint, stream, *steps, Reply("done"))
    assert sorted(ran) == [(n, b) for n in range(5) for b in (1, 2)]
    assert result.text == "done"
    assert len(calls_with_results(endpoint.requests[-1].messages)) == 10


@pytest.mark.parametrize("id_", ["call_1", "", " "], ids=["constant", "empty", "blank"])
def test_what_was_sent_stays_as_it_was_from_step_to_step(make: Maker, endpoint: Endpoint, id_: str) -> None:
    """Else no server could use its cache of the prompt."""
    steps = [Reply(calls=adds((n, 1), (n, 2)), ids=[id_, id_]) for n in range(4)]
    run(make, endpoint, False, *steps, Reply("done"))
    for earlier, later in zip(endpoint.requests, endpoint.requests[1:], strict=False):
        assert later.messages[: len(earlier.messages)] == earlier.messages


def test_the_messages_of_a_run_have_ids_of_their_own(make: Maker, endpoint: Endpoint) -> None:
    steps = [Reply(calls=adds((n, 1), (n, 2)), ids=["0", "0"]) for n in range(3)]
    result, _ = run(make, endpoint, False, *steps, Reply("done"))
    ids = [each.id for message in result.messages for each in message.tool_calls]
    answered = [each.origin.id for message in result.messages for each in message.tool_call_results]
    assert len(set(ids)) == len(ids) == 6
    assert answered == ids


@both_streams
def test_the_same_call_twice_with_one_id_runs_once(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    reply = Reply(calls=adds((1, 2), (1, 2)), ids=["x", "x"])
    result, ran = run(make, endpoint, stream, reply, Reply("done"))
    assert ran == [(1, 2)]
    assert result.text == "done"
    assert calls_with_results(endpoint.requests[-1].messages) == [({"a": 1, "b": 2}, "3")]


def test_the_same_call_with_keys_in_another_order_and_one_id_runs_once(
    make: Maker, endpoint: Endpoint
) -> None:
    reply = Reply(calls=[("add", '{"a": 1, "b": 2}'), ("add", '{"b":2,"a":1}')], ids=["x", "x"])
    _, ran = run(make, endpoint, False, reply, Reply("done"))
    assert ran == [(1, 2)]


@both_streams
@pytest.mark.parametrize("ids", [["x", "y"], ["", ""]], ids=["two ids", "no ids"])
def test_the_same_call_twice_without_a_shared_id_runs_twice(
    make: Maker, endpoint: Endpoint, stream: bool, ids: list[str]
) -> None:
    _, ran = run(make, endpoint, stream, Reply(calls=adds((1, 2), (1, 2)), ids=ids), Reply("done"))
    assert ran == [(1, 2), (1, 2)]


@both_streams
def test_one_id_for_two_calls_runs_both(make: Maker, endpoint: Endpoint, stream: bool) -> None:
    reply = Reply(calls=adds((1, 2), (3, 4)), ids=["x", "x"])
    result, ran = run(make, endpoint, stream, reply, Reply("done"))
    assert sorted(ran) == [(1, 2), (3, 4)]
    assert result.text == "done"
    sent = calls_with_results(endpoint.requests[-1].messages)
    assert sent == [({"a": 1, "b": 2}, "3"), ({"a": 3, "b": 4}, "7")]


@both_streams
def test_the_same_call_with_the_same_id_in_a_later_turn_runs_again(
    make: Maker, endpoint: Endpoint, stream: bool
) -> None:
    reply = Reply(calls=adds((1, 2)), ids=["x"])
    _, ran = run(make, endpoint, stream, reply, reply, Reply("done"))
    assert ran == [(1, 2), (1, 2)]


def test_three_calls_of_which_two_are_the_same_run_as_two(make: Maker, endpoint: Endpoint) -> None:
    reply = Reply(calls=adds((1, 2), (3, 4), (1, 2)), ids=["x", "x", "x"])
    _, ran = run(make, endpoint, False, reply, Reply("done"))
    assert sorted(ran) == [(1, 2), (3, 4)]


@pytest.mark.parametrize("code", [400, 500])
@both_streams
def test_broken_arguments_never_wedge_a_strict_server(
    make: Maker, endpoint: Endpoint, stream: bool, code: int
) -> None:
    """ggml-org/llama.cpp#25510: the server answered 500 to every later turn."""
    broken = ['{"a": 1, "b":', '{"a": NaN, "b": 1}', "[]", '{"a": 1}{"b": 2}', "add"]
    steps = [Reply(calls=[("add", raw)], ids=["x"]) for raw in broken]
    result, ran = run(make, endpoint, stream, *steps, Reply(calls=adds((1, 2))), Reply("done"), code=code)
    assert ran == [(1, 2)]
    assert result.text == "done"


def test_an_empty_reply_is_not_replayed(make: Maker, endpoint: Endpoint) -> None:
    result, _ = run(make, endpoint, False, Reply(""), Reply(None), Reply("done"))
    assert result.text == "done"


def test_thinking_without_an_answer_is_not_replayed_as_an_empty_turn(make: Maker, endpoint: Endpoint) -> None:
    result, _ = run(make, endpoint, False, Reply(None, reasoning="Hmm."), Reply("done"))
    assert result.text == "done"


def test_the_result_of_a_run_can_be_gone_on_with(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(*strictly(*(Reply(calls=adds((n, n)), ids=["x"]) for n in range(2)), Reply("done")))
    endpoint.script(*strictly(Reply(calls=adds((9, 9)), ids=["x"]), Reply("done again")))
    with Agent(chat_generator=make(), tools=[add]) as agent:
        first = agent.run("go")
        again = agent.run([*first.messages, user("and again")])
    assert again.text == "done again"


def test_two_runs_of_one_generator_dont_share_their_ids(make: Maker, endpoint: Endpoint) -> None:
    generator = make()
    for _ in range(2):
        endpoint.script(*strictly(Reply(calls=adds((1, 2)), ids=["x"]), Reply("done")))
        with Agent(chat_generator=generator, tools=[add]) as agent:
            assert agent.run("go").text == "done"


# Hooks that change the conversation in the middle of a run.


def replacing(change: Callable[[History], History], at_step: int = 2) -> Any:
    @hook
    def replace(state: State) -> None:
        if state.data["step_count"] == at_step:
            changed = change(list(state.data["messages"]))
            state.set("messages", changed, handler_override=replace_values)

    return replace


def editing(change: Callable[[History], object], at_step: int = 2) -> Any:
    @hook
    def edit(state: State) -> None:
        if state.data["step_count"] == at_step:
            change(state.data["messages"])

    return edit


def without_results(messages: History) -> History:
    return [message for message in messages if not message.tool_call_results]


def without_calls(messages: History) -> History:
    return [message for message in messages if not message.tool_calls]


def twice(messages: History) -> History:
    return [*messages, *messages[1:]]


def backwards(messages: History) -> History:
    return [messages[0], *reversed(messages[1:])]


def without_ids(messages: History) -> History:
    return [ChatMessage.from_dict(without_id(message.to_dict())) for message in messages]


def without_id(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: None if key == "id" else without_id(item) for key, item in value.items()}
    return [without_id(item) for item in value] if isinstance(value, list) else value


def with_one_id(messages: History) -> History:
    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: "x" if key == "id" else renamed(item) for key, item in value.items()}
        return [renamed(item) for item in value] if isinstance(value, list) else value

    return [ChatMessage.from_dict(renamed(message.to_dict())) for message in messages]


REPLACEMENTS: dict[str, Callable[[History], History]] = {
    "the last two only": lambda messages: messages[-2:],
    "the last only": lambda messages: messages[-1:],
    "the first and the last": lambda messages: [messages[0], messages[-1]],
    "all but the last": lambda messages: messages[:-1],
    "without results": without_results,
    "without calls": without_calls,
    "twice": twice,
    "backwards": backwards,
    "without ids": without_ids,
    "with one id": with_one_id,
    "copies": lambda messages: [ChatMessage.from_dict(message.to_dict()) for message in messages],
    "a summary before": lambda messages: [user("So far: nothing."), *messages[3:]],
    "an empty turn in between": lambda messages: [messages[0], ChatMessage.from_assistant(""), *messages[1:]],
}

EDITS: dict[str, Callable[[History], object]] = {
    "the first result is taken out": lambda messages: messages.pop(2),
    "the first call is taken out": lambda messages: messages.pop(1),
    "a result comes in": lambda messages: messages.insert(1, result("a stray finding", call("gone"))),
    "a question comes between call and result": lambda messages: messages.insert(2, user("well?")),
    "a call is put in the place of another": lambda messages: messages.__setitem__(1, assistant(call("new"))),
    "the last result is doubled": lambda messages: messages.append(messages[-1]),
    "everything but the question is taken out": lambda messages: messages.__delitem__(slice(1, None)),
    "the question is taken out": lambda messages: messages.pop(0),
}  # fmt: skip

HOOKS = {
    **{f"replaced: {name}": replacing(change) for name, change in REPLACEMENTS.items()},
    **{f"edited: {name}": editing(change) for name, change in EDITS.items()},
}


@pytest.mark.parametrize("point", ["before_llm", "after_tool"])
@pytest.mark.parametrize("name", HOOKS)
def test_whatever_a_hook_makes_of_the_conversation_goes_out_valid(
    make: Maker, endpoint: Endpoint, name: str, point: str
) -> None:
    steps = [Reply(calls=adds((n, n))) for n in range(4)]
    at = HOOKS[name]
    result, ran = run(make, endpoint, False, *steps, Reply("done"), hooks={point: [at]})
    assert result.text == "done"
    assert len(ran) == 4


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_what_a_hook_leaves_of_results_reaches_the_model(make: Maker, endpoint: Endpoint, name: str) -> None:
    left: list[str] = []

    def change(messages: History) -> History:
        changed = REPLACEMENTS[name](messages)
        left.extend(said(changed))
        return changed

    steps = [Reply(calls=adds((10 * n + 1, 20))) for n in range(3)]
    run(make, endpoint, False, *steps, Reply("done"), hooks={"before_llm": [replacing(change)]})
    sent = texts(endpoint.requests[2].messages)
    assert [text for text in left if text not in sent] == []


def test_a_message_that_is_edited_in_place_goes_out_as_it_is_now(make: Maker, endpoint: Endpoint) -> None:
    @hook
    def break_it(state: State) -> None:
        if state.data["step_count"] == 2:
            first = next(message for message in state.data["messages"] if message.tool_calls)
            first.tool_calls[0].arguments["a"] = float("nan")

    steps = [Reply(calls=adds((n, n))) for n in range(3)]
    result, _ = run(make, endpoint, False, *steps, Reply("done"), hooks={"before_llm": [break_it]})
    assert result.text == "done"


def test_an_id_that_is_edited_in_place_goes_out_unique(make: Maker, endpoint: Endpoint) -> None:
    @hook
    def same(state: State) -> None:
        for message in state.data["messages"]:
            for each in message.tool_calls:
                object.__setattr__(each, "id", "x")  # Haystack warns of plain assignments
            for answer in message.tool_call_results:
                object.__setattr__(answer.origin, "id", "x")

    steps = [Reply(calls=adds((n, n + 1))) for n in range(4)]
    result, _ = run(make, endpoint, False, *steps, Reply("done"), hooks={"before_llm": [same]})
    assert result.text == "done"
    assert calls_with_results(endpoint.requests[-1].messages) == [
        ({"a": n, "b": n + 1}, str(2 * n + 1)) for n in range(4)
    ]


def test_calls_that_a_hook_takes_away_are_not_answered(make: Maker, endpoint: Endpoint) -> None:
    @hook
    def forbid(state: State) -> None:
        messages = list(state.data["messages"])
        messages[-1] = ChatMessage.from_assistant("I wanted to add.")
        state.set("messages", messages, handler_override=replace_values)

    reply = Reply(calls=adds((1, 2)))
    settings: Json = {"hooks": {"before_tool": [forbid]}, "max_agent_steps": 2}
    _, ran = run(make, endpoint, False, reply, reply, Reply("done"), **settings)
    assert ran == []


def test_a_call_that_a_hook_puts_in_the_place_of_anothers_is_answered(
    make: Maker, endpoint: Endpoint
) -> None:
    @hook
    def double(state: State) -> None:
        messages = list(state.data["messages"])
        messages[-1] = assistant(call(None, 5, 5), call(None, 6, 6))
        state.set("messages", messages, handler_override=replace_values)

    reply = Reply(calls=adds((1, 2)))
    result, ran = run(make, endpoint, False, reply, Reply("done"), hooks={"before_tool": [double]})
    assert sorted(ran) == [(5, 5), (6, 6)]
    assert result.text == "done"


# What text that isn't there is sent as.


class StrictBedrock(BedrockLike):
    """Refuses `""`, and takes null beside calls."""

    def refused(self, asked: Json) -> Status | None:
        found = list(faults(asked["messages"], null_content=True))
        return self.error(400, "; ".join(found)) if found else super().refused(asked)


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: Name of the city.
    """
    return f"sunny in {city}"


def test_text_that_isnt_there_is_null_where_the_profile_says_so(make: Maker) -> None:
    with worn(StrictBedrock()) as strict:
        assert llama_agent("probe", "--endpoint", strict.url, "--model", "llama", "--save").code == 0
        generator = make(api_base_url=strict.url, model="llama")
        with Agent(chat_generator=generator, tools=[weather]) as agent:
            result = agent.run("Compare the weather of Paris and Oslo.")
        assert result.text == "It is sunny in Paris and sunny in Oslo."
        sent = [message for message in strict.requests[-1].messages if message["role"] == "assistant"]
    assert sent[0]["content"] is None


def test_text_that_isnt_there_is_empty_elsewhere(make: Maker, endpoint: Endpoint) -> None:
    run(make, endpoint, False, Reply(None, calls=adds((1, 2))), Reply("done"))
    assert endpoint.requests[1].messages[1]["content"] == ""


# Templates for single calls.


class Refusing(SingleCallTemplate):
    """Counts its refusals, and refuses all that is no valid history."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 0

    def refused(self, asked: Json) -> Status | None:
        if found := list(faults(asked["messages"])):
            return self.error(422, "; ".join(found))
        refused = super().refused(asked)
        self.refusals += refused is not None
        return refused


class Eager(Refusing):
    """Writes several calls though its template takes but one."""

    several_calls = True


def shown(chunk: StreamingChunk) -> None: ...


def several_calls_in_history() -> History:
    one, two, three = call("x", 1, 2), call("y", 3, 4), call("z", 5, 6)
    return [
        user("go"), assistant(one, two, three, text="Let me add them."),
        result("three", one), result("seven", two), result("eleven", three), user("Hi"),
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["sync", "async", "streamed"])
def test_several_calls_of_a_turn_are_split_for_a_template_of_single_calls(make: Maker, way: str) -> None:
    dress = Refusing()
    with worn(dress) as endpoint:
        assert ask(make(api_base_url=endpoint.url, model="llama"), several_calls_in_history(), way).text
        sent = endpoint.requests[-1].messages
    assert [message["role"] for message in sent] == ["user", *["assistant", "tool"] * 3, "user"]
    assert calls_with_results(sent) == [
        ({"a": 1, "b": 2}, "three"),
        ({"a": 3, "b": 4}, "seven"),
        ({"a": 5, "b": 6}, "eleven"),
    ]
    assert texts(sent).count("Let me add them.") == 1


def test_a_template_of_single_calls_refuses_only_once(make: Maker) -> None:
    dress = Refusing()
    with worn(dress) as endpoint:
        generator = make(api_base_url=endpoint.url, model="llama")
        for _ in range(3):
            ask(generator, several_calls_in_history(), "sync")
    assert dress.refusals == 1


@pytest.mark.parametrize("way", ["sync", "async", "streamed"])
def test_an_agents_run_goes_on_where_several_calls_are_refused(make: Maker, way: str) -> None:
    dress = Eager()
    task = "Compare the weather of Paris and Oslo and Rome."

    async def main() -> Any:
        async with agent:
            return await agent.run_async(task)

    with worn(dress) as endpoint:
        callback = shown if way == "streamed" else None
        generator = make(api_base_url=endpoint.url, model="llama")
        agent = Agent(chat_generator=generator, tools=[weather], streaming_callback=callback)
        result = asyncio.run(main()) if way == "async" else agent.run(task)
        agent.close()
    assert result.text == "It is sunny in Paris and sunny in Oslo and sunny in Rome."
    assert result["tool_call_counts"] == {"weather": 3}
    assert dress.refusals == 1
    assert len([event for event in result.events if isinstance(event, ToolStarted)]) == 3


def test_a_broken_call_is_split_off_too(make: Maker) -> None:
    one, two = call("x"), unreadable("x")
    given = [
        user("go"),
        assistant(one, two),
        result("three", one),
        result("It was cut off.", two),
        user("Hi"),
    ]
    with worn(Refusing()) as endpoint:
        ask(make(api_base_url=endpoint.url, model="llama"), given, "sync")
        sent = calls_with_results(endpoint.requests[-1].messages)
    assert sent == [({"a": 1, "b": 2}, "three"), ({}, "It was cut off.")]


def test_where_several_calls_are_taken_they_stay_in_one_message(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("done"))
    ask(make(), several_calls_in_history(), "sync")
    assert [len(message.get("tool_calls", ())) for message in endpoint.requests[0].messages][1] == 3


# Any history at all.

IDS = st.sampled_from([None, "", "x", "y", "x_2", "call_1"])
CALLS = st.builds(call, IDS, st.integers(0, 2), st.integers(0, 1), st.sampled_from(["add", "subtract"]))
MESSAGES = st.one_of(
    st.tuples(st.just("calls"), st.lists(CALLS, min_size=1, max_size=3)),
    st.tuples(st.just("result"), CALLS),
    st.tuples(st.just("answer of"), st.integers(0, 5)),
    st.tuples(st.just("user"), st.none()),
    st.tuples(st.just("assistant"), st.booleans()),
)


def history_of(parts: list[tuple[str, Any]]) -> History:
    """Messages whose texts are all different, so that each can be looked for."""
    history = [user("text 0.")]
    for n, (kind, value) in enumerate(parts, 1):
        text = f"text {n}."
        made = [each for message in history for each in message.tool_calls]
        match kind:
            case "calls":
                history.append(assistant(*value, text=text))
            case "answer of" if made:
                history.append(result(text, made[-1 - value % len(made)]))
            case "result":
                history.append(result(text, value))
            case "assistant":
                history.append(ChatMessage.from_assistant(text if value else ""))
            case _:
                history.append(user(text))
    return history


@given(st.lists(MESSAGES, max_size=12))
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_whatever_the_history_it_goes_out_valid_and_whole(parts: list[tuple[str, Any]]) -> None:
    history = history_of(parts)
    sent = RENDERED.messages(history)
    assert list(faults(sent)) == []
    told = texts(sent)
    assert [text for text in said(history) if told.count(text) != 1] == []
    assert RENDERED.messages(list(history)) == sent


@given(st.lists(MESSAGES, max_size=10))
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
def test_however_a_history_grows_each_request_is_valid_and_as_if_it_were_the_first(
    parts: list[tuple[str, Any]],
) -> None:
    history = history_of(parts)
    for end in range(1, len(history) + 1):
        grown = RENDERED.messages(history[:end])
        assert list(faults(grown)) == []
    assert grown == RENDERED.messages(history_of(parts))


@given(st.lists(MESSAGES, max_size=12), st.lists(st.integers(0, 11), max_size=12))
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
def test_however_a_hook_shuffles_and_drops_messages_they_go_out_valid(
    parts: list[tuple[str, Any]], places: list[int]
) -> None:
    history = history_of(parts)
    RENDERED.messages(history)
    changed = [history[place % len(history)] for place in places] or history[:1]
    sent = RENDERED.messages(changed)
    assert list(faults(sent)) == []
    assert [text for text in said(changed) if text not in texts(sent)] == []


class Rendered:
    """What is sent of histories by one generator, over one endpoint for all examples."""

    @cached_property
    def _generator(self) -> MetaLlamaChatGenerator:
        self.endpoint = Endpoint().__enter__()
        self.endpoint.script(Always(Reply("done")))
        return MetaLlamaChatGenerator(
            api_base_url=self.endpoint.url, model="m", max_retries=0, http_client_kwargs={"verify": False}
        )

    def messages(self, history: History) -> list[Json]:
        self._generator.run(history, tools=[add, subtract])
        return self.endpoint.requests[-1].messages

    def close(self) -> None:
        if "_generator" in vars(self):
            self._generator.close()
            self.endpoint.__exit__(None, None, None)


RENDERED = Rendered()


@pytest.fixture(scope="module", autouse=True)
def closed_at_the_end() -> Iterator[None]:
    yield
    RENDERED.close()


# Several conversations of one generator.


def talk(topic: str, turns: int) -> History:
    """A conversation whose every text names its topic."""
    messages = [ChatMessage.from_system(f"{topic}: be brief."), user(f"{topic}: go")]
    for n in range(turns):
        one = call("x", n, n)
        messages += [
            assistant(one, text=f"{topic}: thought {n}"), result(f"{topic}: sum {n}", one),
            ChatMessage.from_assistant(f"{topic}: answer {n}"), user(f"{topic}: question {n}"),
        ]  # fmt: skip
    return messages


each_mode = pytest.mark.parametrize("mode", ["native", "auto", "prompted", "constrained"])


def answering(request: Request) -> Item:
    return Reply('{"next": "answer"}' if "response_format" in request.json else "done")


@each_mode
@pytest.mark.parametrize("turns", [0, 1, 4])
def test_conversations_of_one_generator_are_never_mixed(
    make: Maker, endpoint: Endpoint, mode: str, turns: int
) -> None:
    endpoint.script(Always(answering))
    generator = make(tool_mode=mode)
    for topic in ("cats", "dogs", "cats", "owls"):
        before = len(endpoint.requests)
        given = talk(topic, turns)
        ask(generator, given, "sync")
        for request in endpoint.requests[before:]:
            sent = texts(request.messages)
            assert [text for text in said(given) if text not in sent] == []
            assert not [other for other in {"cats", "dogs", "owls"} - {topic} if other in sent]


@each_mode
def test_a_conversation_that_grows_is_sent_whole_each_time(
    make: Maker, endpoint: Endpoint, mode: str
) -> None:
    endpoint.script(Always(answering))
    generator = make(tool_mode=mode)
    whole = talk("cats", 5)
    for end in range(2, len(whole) + 1):
        ask(generator, whole[:end], "sync")
        sent = texts(endpoint.requests[-1].messages)
        assert [text for text in said(whole[:end]) if sent.count(text) != 1] == []


@each_mode
def test_a_conversation_that_goes_on_in_two_ways_is_sent_as_each_of_them(
    make: Maker, endpoint: Endpoint, mode: str
) -> None:
    endpoint.script(Always(answering))
    generator = make(tool_mode=mode)
    shared = talk("cats", 3)
    ways = [[*shared, ChatMessage.from_assistant(f"say {n}"), user(f"ask {n}")] for n in range(3)]
    for n in (0, 1, 2, 0):
        ask(generator, ways[n], "sync")
        sent = texts(endpoint.requests[-1].messages)
        assert [text for text in said(ways[n]) if text not in sent] == []
        assert not [other for other in range(3) if other != n and f"say {other}" in sent]


@each_mode
def test_tools_that_change_between_requests_are_told_anew(make: Maker, endpoint: Endpoint, mode: str) -> None:
    endpoint.script(Always(answering))
    generator = make(tool_mode=mode)
    given = talk("cats", 2)
    for offered in ([add], [subtract], [add, subtract], []):
        before = len(endpoint.requests)
        generator.run([*given], tools=offered)
        sent = endpoint.requests[before].body.decode()
        assert ("Add two whole numbers." in sent) is (add in offered)
        assert ("Subtract b from a." in sent) is (subtract in offered)


@each_mode
def test_two_runs_of_one_agent_see_their_own_task_only(make: Maker, endpoint: Endpoint, mode: str) -> None:
    def calling(request: Request) -> Item:
        if "response_format" in request.json:
            return answering(request)
        if "Result of" in texts(request.messages) or "42" in texts(request.messages):
            return Reply("done")
        return Reply('{"name": "add", "parameters": {"a": 40, "b": 2}}')

    endpoint.script(Always(calling))
    with Agent(chat_generator=make(tool_mode=mode), tools=[add]) as agent:
        for topic in ("cats", "dogs"):
            before = len(endpoint.requests)
            agent.run(f"{topic}: go")
            sent = [texts(request.messages) for request in endpoint.requests[before:]]
            assert all(f"{topic}: go" in each for each in sent)
            assert not any("cats" in each for each in sent if topic == "dogs")


# Cost


def long_history(count: int) -> History:
    calls = [call("x", n, n) for n in range(count)]
    return [user("go"), *(m for each in calls for m in (assistant(each), result("sum", each)))]


def seconds_for(make: Maker, endpoint: Endpoint, count: int) -> float:
    """Processor time for a request with so many calls that share an id."""
    endpoint.script(Reply("done"))
    given, generator = long_history(count), make()
    before = process_time()
    ask(generator, given, "sync")
    return process_time() - before


def test_a_long_history_costs_no_more_than_its_length(make: Maker, endpoint: Endpoint) -> None:
    seconds_for(make, endpoint, 100)
    short = min(seconds_for(make, endpoint, 500) for _ in range(3))
    long = min(seconds_for(make, endpoint, 4000) for _ in range(2))
    assert long < 16 * short  # eight times as long; quadratic would be 64 times


def test_only_what_is_new_is_looked_at_in_a_further_request(make: Maker, endpoint: Endpoint) -> None:
    generator, given = make(), long_history(4000)
    endpoint.script(Always(Reply("done")))
    before = process_time()
    ask(generator, given, "sync")
    first = process_time() - before
    before = process_time()
    ask(generator, [*given, user("and?")], "sync")
    assert process_time() - before < first
