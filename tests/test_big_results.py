"""Results too large for the window are cut, kept whole for the run, and read by the model in parts."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from haystack.dataclasses import TextContent, ToolCall
from haystack.tools.tool import Tool

from llama_agent import Agent, RunResult, tool
from llama_agent.testing import ScriptedGenerator
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Reply, Request

MOST = 6_000
"""Characters: a quarter of 8,000 tokens, at three each."""
BOOK = "".join(f"line {number}: {'x' * (number % 70)}\n" for number in range(5_000))
Go = Callable[..., RunResult]


@pytest.fixture(params=["sync", "async"])
def go(request: pytest.FixtureRequest, make: Maker) -> Go:
    """Runs an agent with tools against the endpoint."""

    def go(*tools: Any, **settings: Any) -> RunResult:
        agent = Agent(chat_generator=make(), tools=list(tools), **settings)

        async def main() -> RunResult:
            async with agent:
                return await agent.run_async("Go.")

        if request.param == "async":
            return asyncio.run(main())
        with agent:
            return agent.run("Go.")

    return go


def giving(text: object) -> Tool:
    @tool
    def fetch() -> object:
        """Fetch it."""
        return text

    return fetch


def told(result: RunResult) -> list[str]:
    return [str(part.result) for message in result.messages for part in message.tool_call_results]


def offered(request: Request) -> list[str]:
    return [each["function"]["name"] for each in request.json.get("tools", [])]


def reading_on(request: Request) -> Reply:
    """A model that fetches, then reads on as it is told, to the end."""
    last = str(request.messages[-1]["content"])
    if request.messages[-1]["role"] == "user":
        return Reply(calls=[("fetch", {})])
    if (cut := re.search(r"read_result\(id='(\w+)', offset=(\d+)\)", last)) is not None:
        return Reply(calls=[("read_result", {"id": cut[1], "offset": 0, "lines": 1000})])
    if (rest := re.search(r"^\[(\w+), .*go on with offset=(\d+)\]", last)) is not None:
        return Reply(calls=[("read_result", {"id": rest[1], "offset": int(rest[2]), "lines": 1000})])
    return Reply("done")


def test_a_result_that_fits_stays_as_it_is(endpoint: Endpoint, go: Go) -> None:
    text = "x" * MOST
    endpoint.script(Reply(calls=[("fetch", {})]), Reply("done"))
    assert told(go(giving(text))) == [text]
    assert [offered(request) for request in endpoint.requests] == [["fetch"], ["fetch"]]


def test_a_larger_one_is_cut_at_line_ends_and_says_what_is_missing(endpoint: Endpoint, go: Go) -> None:
    endpoint.script(Reply(calls=[("fetch", {})]), Reply("done"))
    (text,) = told(go(giving(BOOK)))
    head, note, tail = re.split(r"\n(\[….*\])\n", text)
    assert len(head) + len(tail) <= MOST
    assert BOOK.startswith(f"{head}\n") or BOOK.startswith(head)
    assert BOOK.endswith(tail)
    assert tail.startswith("line ")
    left_out = re.search(r"([\d,]+) of ([\d,]+) characters", note)
    assert left_out is not None
    missing, size = (int(number.replace(",", "")) for number in left_out.groups())
    assert size == len(BOOK)
    assert abs(missing - (len(BOOK) - len(head) - len(tail))) <= 1


def test_the_tool_that_reads_it_appears_with_it(endpoint: Endpoint, go: Go) -> None:
    endpoint.script(Reply(calls=[("fetch", {})]), Reply("done"))
    go(giving(BOOK))
    assert [offered(request) for request in endpoint.requests] == [["fetch"], ["fetch", "read_result"]]


@pytest.mark.parametrize(
    "text",
    [BOOK, "y" * 150_000, "\n" * 50_000, "é✓😀\r\n" * 9_000, json.dumps([{"n": n} for n in range(20_000)])],
    ids=["lines", "one line", "empty lines", "other letters", "JSON"],
)
def test_a_model_can_read_all_of_it(endpoint: Endpoint, go: Go, text: str) -> None:
    endpoint.script(Always(reading_on))
    result = go(giving(text))
    _, *parts = told(result)
    assert result.text == "done"
    assert "".join(part.partition("\n")[2] for part in parts) == text
    assert max(len(part) for part in parts) <= MOST + 200


def test_what_is_read_is_never_cut_again(endpoint: Endpoint, go: Go) -> None:
    endpoint.script(Always(reading_on))
    assert not any("left out" in part for part in told(go(giving(BOOK)))[1:])


def test_as_many_lines_are_read_as_were_asked_for(endpoint: Endpoint, go: Go) -> None:
    endpoint.script(
        Reply(calls=[("fetch", {})]),
        Reply(calls=[("read_result", {"id": "result_1", "offset": 4_997, "lines": 2})]),
        Reply(calls=[("read_result", {"id": "result_1", "offset": 4_998})]),
        Reply("done"),
    )
    _, two, rest = told(go(giving(BOOK)))
    assert two.splitlines()[1:] == BOOK.splitlines()[4_997:4_999]
    assert rest.splitlines()[1:] == BOOK.splitlines()[4_998:]
    assert "the end" in rest.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"id": "result_7"}, "result_1"),
        ({"id": "result_1", "offset": 5_000}, "5,000 lines"),
        ({"id": "result_1", "offset": -1}, "offset"),
        ({"id": "result_1", "lines": 0}, "lines"),
        ({"id": "result_1", "lines": 1_001}, "lines"),
    ],
    ids=["another id", "behind the end", "before the beginning", "no lines", "too many lines"],
)
def test_what_cant_be_read_is_told(endpoint: Endpoint, go: Go, arguments: dict[str, Any], said: str) -> None:
    endpoint.script(Reply(calls=[("fetch", {})]), Reply(calls=[("read_result", arguments)]), Reply("done"))
    result = go(giving(BOOK))
    assert said in told(result)[1]
    assert result.stop_reason == "answered"


def test_ids_belong_to_one_run(endpoint: Endpoint, make: Maker) -> None:
    endpoint.script(Reply(calls=[("fetch", {})]), Reply("one"), Reply("two"))
    with Agent(chat_generator=make(), tools=[giving(BOOK)]) as agent:
        first = agent.run("Go.")
        agent.run("And now?", messages=first.messages)
    assert offered(endpoint.requests[-1]) == ["fetch"]


def test_several_at_once_have_ids_of_their_own(endpoint: Endpoint, go: Go) -> None:
    endpoint.script(
        Reply(calls=[("fetch", {})] * 3),
        Reply(calls=[("read_result", {"id": f"result_{n}", "lines": 1}) for n in (1, 2, 3)]),
        Reply("done"),
    )
    result = told(go(giving(BOOK)))
    assert sorted(re.findall(r"id='(\w+)'", "".join(result[:3]))) == ["result_1", "result_2", "result_3"]
    assert [part.splitlines()[1] for part in result[3:]] == ["line 0: "] * 3


def test_a_tools_own_limit_wins(endpoint: Endpoint, go: Go) -> None:
    @tool(max_result_chars=200_000)
    def fetch() -> str:
        """Fetch it."""
        return "x" * 150_000

    endpoint.script(Reply(calls=[("fetch", {})]), Reply("done"))
    assert told(go(fetch)) == ["x" * 150_000]
    assert offered(endpoint.requests[-1]) == ["fetch"]


def test_a_users_tool_of_that_name_stays(endpoint: Endpoint, go: Go) -> None:
    def read_result(id: str) -> str:
        """Read something else."""
        return f"else: {id}"

    endpoint.script(Reply(calls=[("fetch", {}), ("read_result", {"id": "7"})]), Reply("done"))
    result = told(go(giving(BOOK), read_result))
    assert result[1] == "else: 7"
    assert offered(endpoint.requests[-1]) == ["fetch", "read_result", "read_tool_result"]
    assert "read_tool_result(id='result_1'" in result[0]


def test_parts_of_content_share_one_room(endpoint: Endpoint, go: Go) -> None:
    endpoint.script(Reply(calls=[("fetch", {})]), Reply("done"))
    result = go(giving([TextContent("short"), TextContent(BOOK)]))
    (part,) = result.messages[2].tool_call_results[0].result
    assert isinstance(part, TextContent)
    assert part.text.startswith("short\nline 0: ")
    assert len(part.text) <= MOST + 300


def test_no_result_is_longer_than_100_000_characters_in_the_largest_window() -> None:
    with ScriptedGenerator(ToolCall("fetch", {}), "done") as generator:
        generator.context_tokens = 10_000_000
        (text,) = told(Agent(chat_generator=generator, tools=[giving("x" * 2_000_000)]).run("Go."))
    assert 50_000 < len(text) <= 100_300


def test_a_result_in_many_parts_is_bounded_as_a_whole(endpoint: Endpoint, go: Go) -> None:
    endpoint.script(Reply(calls=[("fetch", {})]), Reply("done"))
    parts = [TextContent(f"part {number}: {'x' * 5_000}") for number in range(60)]
    fetch = giving(parts)
    fetch.outputs_to_string = {"raw_result": True, "handler": lambda value: value}
    result = go(fetch)
    (content,) = (part.result for m in result.messages for part in m.tool_call_results)
    assert sum(len(part.text) for part in content if isinstance(part, TextContent)) < MOST + 500


def test_an_earlier_runs_result_isnt_taken_for_another(endpoint: Endpoint, make: Maker) -> None:
    endpoint.script(Reply(calls=[("fetch", {})]), Reply("done"))
    with Agent(chat_generator=make(), tools=[giving(BOOK)]) as agent:
        first = agent.run("Go.")
        read = [("read_result", {"id": "result_1"})]
        endpoint.script(Reply(calls=[("fetch", {})]), Reply(calls=read), Reply("done"))
        more = agent.run("And now?", messages=first.messages)
    fetched, answer = told(more)[1:]
    assert "read_result(id='result_2'" in fetched
    assert "no result 'result_1' in this run" in answer
