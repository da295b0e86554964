"""Tool calls that come as text are calls, in every form that models write; what only looks like one isn't."""

import asyncio
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Literal

import pytest
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.tools.tool import Tool

from llama_agent import (
    Agent,
    Event,
    MetaLlamaChatGenerator,
    RunResult,
    TextDelta,
    ToolCallsRecovered,
    ToolFinished,
    ToolStarted,
    register_text_format,
    tool,
)
from tests.endpoint import Endpoint, Raw, Reply
from tests.in_process_model import QUESTION, Model, event, note, pieces_of
from tests.text_calls import (
    ADD,
    ADD_ARGUMENTS,
    ADD_JSON,
    ANYTHING,
    FENCE,
    TAG,
    TEXTS,
    TOOLS,
    USUAL,
    Call,
    Text,
    text,
)

Maker = Callable[..., MetaLlamaChatGenerator]
Size = int | Literal["random"]

every_text = pytest.mark.parametrize("given", [pytest.param(text, id=text.id) for text in TEXTS])
both_ways = pytest.mark.parametrize("way", ["sync", "async"])


def offered(*names: str) -> list[Tool]:
    return [TOOLS[name] for name in names]


def ask(
    make: Maker,
    given: Text,
    *,
    way: str = "sync",
    callback: Callable[[StreamingChunk], None] | None = None,
    **options: Any,
) -> ChatMessage:
    generator = make(**dict(given.settings))
    options = {"tools": offered(*given.tools), "streaming_callback": callback, **options}

    async def asked() -> ChatMessage:
        try:
            return (await generator.run_async(QUESTION, **options))["replies"][0]
        finally:
            await generator.close_async()

    return asyncio.run(asked()) if way == "async" else generator.run(QUESTION, **options)["replies"][0]


def streamed(given: Text, size: Size) -> Reply | Raw:
    if size != "random":
        return Reply(given.text, chunk_size=size, finish_reason=given.finish_reason)
    pieces = pieces_of(given.text, Random(given.id))
    events = [*(event(content=piece) for piece in pieces), event(given.finish_reason), b"data: [DONE]\n\n"]
    return Raw(b"".join(events), "text/event-stream")


def good_calls(message: ChatMessage) -> list[Call]:
    return [(call.tool_name, call.arguments) for call in message.tool_calls if not complaint_of(call)]


def broken_calls(message: ChatMessage) -> list[str]:
    return [call.tool_name for call in message.tool_calls if complaint_of(call)]


def complaint_of(call: Any) -> str | None:
    return (call.extra or {}).get("malformed_arguments")


def words(message_text: str | None) -> str:
    """A text without regard to its white space."""
    return " ".join((message_text or "").split())


def without_tokens(message_text: str | None) -> str:
    """A text without regard to white space and control tokens."""
    return words(re.sub(r"<\|\w+\|>|</s>|<｜end▁of▁sentence｜>", " ", message_text or ""))


# The table


@every_text
def test_the_calls_of_a_text_are_calls_and_the_rest_stays_text(
    make: Maker, endpoint: Endpoint, given: Text
) -> None:
    endpoint.script(Reply(given.text, finish_reason=given.finish_reason))
    message = ask(make, given)
    assert (good_calls(message), broken_calls(message)) == (list(given.calls), list(given.broken))
    if given.left != ANYTHING:
        assert words(message.text) == words(given.left)
    if not given.is_call and given.left == given.text:
        assert message.text == given.text


@every_text
def test_the_message_says_that_and_how_calls_were_recovered(
    make: Maker, endpoint: Endpoint, given: Text
) -> None:
    endpoint.script(Reply(given.text, finish_reason=given.finish_reason))
    meta = ask(make, given).meta
    if given.is_call:
        reason = "length" if given.finish_reason == "length" else "tool_calls"
        assert (meta.get("recovered"), meta.get("tool_call_format")) == (True, given.format)
        assert meta["finish_reason"] == reason
    else:
        assert not meta.get("recovered")
        assert "tool_call_format" not in meta
        assert meta["finish_reason"] == given.finish_reason


@pytest.mark.parametrize("size", [1, "random"])
@every_text
def test_streamed_it_is_the_same_message_and_shown_is_its_text_once(
    make: Maker, endpoint: Endpoint, given: Text, size: Size
) -> None:
    endpoint.script(Reply(given.text, finish_reason=given.finish_reason), streamed(given, size))
    shown: list[str] = []
    whole, message = ask(make, given), ask(make, given, callback=lambda chunk: note(chunk, shown))
    assert (good_calls(message), broken_calls(message)) == (good_calls(whole), broken_calls(whole))
    assert (message.text or "").strip() == (whole.text or "").strip()
    assert "".join(shown).strip() == (message.text or "").strip()
    assert {**message.meta, "usage": None} == {**whole.meta, "usage": None}


@pytest.mark.parametrize(
    "given", [pytest.param(text, id=text.id) for text in TEXTS if text.is_call and text.left is None]
)
def test_nothing_of_a_block_is_ever_shown(make: Maker, endpoint: Endpoint, given: Text) -> None:
    endpoint.script(streamed(given, 1))
    contents: list[str] = []  # taken back or not
    ask(make, given, callback=lambda chunk: contents.append(chunk.content))
    assert "".join(contents).strip() == ""


@pytest.mark.parametrize("given", [pytest.param(text, id=text.id) for text in TEXTS if text.is_call])
def test_the_calls_of_a_stream_have_ids_of_their_own(make: Maker, endpoint: Endpoint, given: Text) -> None:
    endpoint.script(streamed(given, 3))
    ids = [call.id for call in ask(make, given, callback=lambda _: None).tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("given", [pytest.param(text, id=text.id) for text in TEXTS if text.is_call])
def test_what_the_chunks_say_of_calls_is_what_the_message_says(
    make: Maker, endpoint: Endpoint, given: Text
) -> None:
    endpoint.script(streamed(given, "random"))
    chunks: list[StreamingChunk] = []
    message = ask(make, given, callback=chunks.append)
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls or []]
    ids = {delta.id: delta.tool_name for delta in deltas if delta.id}
    assert ids == {call.id: call.tool_name for call in message.tool_calls}


@both_ways
@pytest.mark.parametrize("id_", ["json-plain", "pythonic-several", "tool_call-prose-before", "mistral-args"])
def test_it_holds_in_an_event_loop_as_well(make: Maker, endpoint: Endpoint, id_: str, way: str) -> None:
    given, shown = text(id_), list[str]()
    endpoint.script(Reply(given.text), streamed(given, 3))
    whole = ask(make, given, way=way)
    message = ask(make, given, way=way, callback=lambda chunk: note(chunk, shown))
    assert good_calls(whole) == good_calls(message) == list(given.calls)
    assert words("".join(shown)) == words(given.left)


@pytest.mark.parametrize("tool_mode", ["auto", "native", "prompted"])
def test_calls_are_recovered_in_every_mode_that_reads_text(
    make: Maker, endpoint: Endpoint, tool_mode: str
) -> None:
    endpoint.script(Reply(ADD_JSON))
    message = make(tool_mode=tool_mode).run(QUESTION, tools=offered(*USUAL))["replies"][0]
    assert good_calls(message) == [ADD]


# Where no text is a call

CALLS = [pytest.param(given, id=given.id) for given in TEXTS if given.calls][::5]


@pytest.mark.parametrize("given", CALLS)
def test_without_tools_on_offer_a_text_is_a_text(make: Maker, endpoint: Endpoint, given: Text) -> None:
    endpoint.script(Reply(given.text))
    message = ask(make, given, tools=[])
    assert (message.text, message.tool_calls) == (given.text, [])
    assert not message.meta.get("recovered")


@pytest.mark.parametrize("given", CALLS)
def test_without_tools_on_offer_a_text_is_shown_as_it_comes(given: Text) -> None:
    model = Model(**dict(given.settings))
    pieces = pieces_of(given.text, 3)
    model.streamed(pieces)
    assert model.shown_before == ["", *itertools.accumulate(pieces[:-1])]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("given", CALLS)
def test_beside_native_calls_a_text_is_a_text(
    make: Maker, endpoint: Endpoint, given: Text, streams: bool
) -> None:
    endpoint.script(Reply(given.text, calls=[("greet", {"name": "Ada"})]))
    shown: list[str] = []
    message = ask(
        make, given, tools=offered(*USUAL), callback=(lambda chunk: note(chunk, shown)) if streams else None
    )
    assert good_calls(message) == [("greet", {"name": "Ada"})]
    assert without_tokens(message.text) == without_tokens(given.text)
    assert not message.meta.get("recovered")
    assert not streams or without_tokens("".join(shown)) == without_tokens(given.text)


def test_with_tool_choice_none_a_text_is_a_text(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply(ADD_JSON))
    message = ask(make, text("json-plain"), generation_kwargs={"tool_choice": "none"})
    assert not message.tool_calls


def test_what_the_model_thinks_in_a_field_of_its_own_is_no_call(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("The sum is 5.", reasoning=f"<tool_call>{ADD_ARGUMENTS}</tool_call>"))
    message = ask(make, text("json-plain"))
    assert (message.text, message.tool_calls) == ("The sum is 5.", [])


def test_a_user_may_ask_about_a_form_without_making_it_a_call(make: Maker, endpoint: Endpoint) -> None:
    answer = f"You write it as {FENCE}\n<tool_call>{ADD_ARGUMENTS}</tool_call>\n{FENCE}"
    endpoint.script(Reply(answer))
    assert ask(make, text("json-plain")).text == answer


# Held back while it may become a call, and no longer


# White space is left out here: it may be held until it is known to be none of a block's.


@pytest.mark.parametrize(
    "written",
    [
        "The sum is 5.",
        "Some sentence, and (another) one: with - signs; and 'quotes'.",
        "ärger 🦙 als",
        "First line\nsecond line\n\nthird",
        "x = y, and 2 + 3 is 5!",
    ],
)
def test_prose_is_shown_as_it_comes(written: str) -> None:
    model = Model()
    model.streamed(pieces := pieces_of(written, 1), tools=offered(*USUAL))
    assert list(map(str.rstrip, model.shown_before)) == [
        "",
        *map(str.rstrip, itertools.accumulate(pieces[:-1])),
    ]


@pytest.mark.parametrize(
    ("begun", "decided", "rest"),
    [
        ('{"answer"', ': 5, "unit": "apples", ', '"colour": "red"}'),
        ('{"name": "Ada"', ', "age": 36, ', '"born": 1815}'),
        ("{", "1, 2, 3} is a set", " of three."),
        ("[", "1] See the manual", ", page 3."),
        ("[add", "](https://example.org)", " is documented."),
        ("<", "b>Bold</b> and", " more."),
        ("<tool", "box> is a tag", " of ours."),
        ("<func", "tional> is a header", " of C++."),
        ("<|", " is F#'s pipe, ", "more or less."),
        ("func", "tion add is good", " for sums."),
        ("functools", ".partial binds", " arguments."),
        ("[TOOL", "S] are listed", " below."),
        ("Act", "ually, no: ", "it is 5."),
        ("Action", " is needed now", ", they say."),
        (">>", " a quotation", " of a quotation"),
        (FENCE, "python\nprint(1)\n", f"print(2)\n{FENCE}"),
        ("``", "inline`` code", " is here."),
        ("<thi", "ck> lines", " are drawn."),
    ],
)
def test_what_can_no_longer_become_a_call_is_shown_at_once(begun: str, decided: str, rest: str) -> None:
    model = Model()
    message = model.streamed([begun, decided, rest], tools=offered(*USUAL))
    assert model.shown_before[2].rstrip() == (begun + decided).rstrip()
    assert message.text == begun + decided + rest


@pytest.mark.parametrize(
    ("before", "begun"),
    [
        ("", '{"name": "add"'),
        ("", "[add(a=2"),
        ("", f"{FENCE}json\n{{"),
        ("", "<tool_call>"),
        ("I add. ", "<tool_call>"),
        ("I add. ", "<tool_ca"),
        ("I add. ", "<"),
        ("I add. ", "<|python_tag|>"),
        ("I add. ", "<function=add>"),
        ("I add. ", "[TOOL_CALLS]"),
        ("I add. ", "[TOOL"),
        ("I add. ", "<|python_start|>[add("),
        ("I add. ", "<｜tool▁call"),
    ],
)
def test_what_may_become_a_call_is_held_back_and_shown_when_nothing_comes_of_it(
    before: str, begun: str
) -> None:
    model = Model()
    model.finish_reason = "length"
    message = model.streamed([before, begun, ""] if before else [begun, ""], tools=offered(*USUAL))
    assert model.shown_before[-1].strip() == before.strip()
    assert "".join(model.shown).strip() == (message.text or "").strip()


def test_text_before_a_block_is_shown_before_the_block_is_complete() -> None:
    model = Model()
    model.streamed(["I add.", "\n<tool_call>", ADD_ARGUMENTS, "</tool_call>"], tools=offered(*USUAL))
    assert model.shown_before[1] == "I add."
    assert "".join(model.shown).strip() == "I add."


def test_text_after_a_block_is_shown_as_it_comes() -> None:
    model = Model()
    block = f"<tool_call>{ADD_ARGUMENTS}</tool_call>"
    model.streamed([f"I add.{block}", "And I wait", " for it."], tools=offered(*USUAL))
    assert words(model.shown_before[2]) in ("I add. And I wait", "I add.And I wait")


def test_a_long_answer_in_a_fence_does_not_wait_for_its_end() -> None:
    model = Model()
    lines = [f"{FENCE}python\n", *(f"print({n})\n" for n in range(50)), FENCE]
    model.streamed(lines, tools=offered(*USUAL))
    assert model.shown_before[-1].startswith("".join(lines[:-2]))


def test_a_json_answer_does_not_wait_for_its_end() -> None:
    model = Model()
    pieces = ['{"rows": [', *(f'{{"row": {n}}}, ' for n in range(50)), "]}"]
    model.streamed(pieces, tools=offered(*USUAL))
    assert model.shown_before[-1].startswith("".join(pieces[:-2]))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(text, id=text.id)
        for text in TEXTS
        if not text.is_call and text.left == text.text and "began-in-the-prompt" not in text.id
    ],
)
def test_text_that_is_no_call_is_never_taken_back(given: Text) -> None:
    model, chunks = Model(**dict(given.settings)), list[StreamingChunk]()
    model.streamed(pieces_of(given.text, 2), tools=offered(*given.tools), watch=chunks.append)
    assert not any(chunk.meta.get("superseded") for chunk in chunks)
    assert "".join(chunk.content for chunk in chunks) == given.text


BLOCK = f"<tool_call>{ADD_ARGUMENTS}</tool_call>"


@pytest.mark.parametrize(
    "written",
    [
        *(f"{before}{mark}\n\n{BLOCK}\n{mark}" for mark in (FENCE, "~~~") for before in ("", "a\n", "  ")),
        *(f"a\n{before}{FENCE}json\n\n{BLOCK}\n{FENCE}" for before in ("  ", "> ", "- ", "1. ")),
        f"````\n{FENCE}\n{BLOCK}\n{FENCE}\n````",
        f"Write `{BLOCK}` for it.",
        f"Write ``a ` {BLOCK}`` for it.",
        f"<think>Maybe {BLOCK}</think>No.",
        f"<thinking>\nMaybe {BLOCK}\n</thinking>\nNo.",
    ],
)
def test_a_call_in_code_or_a_thought_is_text_wherever_the_stream_cuts_it(written: str) -> None:
    model = Model(tools=offered(*USUAL))
    cuts = range(1, len(written))
    called = [cut for cut in cuts if model.streamed([written[:cut], written[cut:]]).tool_calls]
    assert called == []


@pytest.mark.parametrize(
    "given",
    [pytest.param(text, id=text.id) for text in TEXTS if "token" in text.id or "two-blocks" in text.id],
)
def test_tokens_and_blocks_are_read_the_same_wherever_the_stream_cuts_them(given: Text) -> None:
    model = Model(tools=offered(*given.tools), **dict(given.settings))
    whole = model.reply(given.text)
    for cut in range(1, len(given.text)):
        message = model.streamed([given.text[:cut], given.text[cut:]])
        assert (good_calls(message), words(message.text)) == (good_calls(whole), words(whole.text)), cut


def test_reading_a_text_warns_of_nothing(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("[add(a=1if 1else 2, b=0or 1)]"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ask(make, text("json-plain"))
    assert [str(warning.message) for warning in caught if warning.category is SyntaxWarning] == []


# The agent runs them


def run(endpoint: Endpoint, *args: Any, agent: dict[str, Any] | None = None, **kwargs: Any) -> RunResult:
    with agent_on(endpoint, **(agent or {})) as running:
        return running.run(*args, **kwargs)


def run_async(
    endpoint: Endpoint, *args: Any, agent: dict[str, Any] | None = None, **kwargs: Any
) -> RunResult:
    async def main() -> RunResult:
        async with agent_on(endpoint, **(agent or {})) as running:
            return await running.run_async(*args, **kwargs)

    return asyncio.run(main())


both_runs = pytest.mark.parametrize("go", [run, run_async], ids=["sync", "async"])
RUN_IDS = [
    "json-plain", "json-nested-arguments", "json-last-brace-missing", "several-semicolon",
    "several-tool-calls",
    "python_tag-json-and-eom", "python_tag-brave-search", "python_tag-code", "function_tag-plain",
    "function_tag-no-bracket", "pythonic-several", "python_start-pythonic", "tool_call-prose-before",
    "tool_call-several", "xml-plain", "xml-array", "mistral-list", "mistral-args-several", "functools-two",
    "functionary-two", "fence-json", "command_r-two", "deepseek-two", "double_braces-all",
]  # fmt: skip


def agent_on(endpoint: Endpoint, *, streams: bool = False, **settings: Any) -> Agent:
    generator = MetaLlamaChatGenerator(
        api_base_url=endpoint.url,
        model="m",
        max_retries=0,
        timeout=10,
        generation_kwargs={"stream": True} if streams else None,
        http_client_kwargs={"verify": False},
    )
    return Agent(chat_generator=generator, **settings)


def ran(result: RunResult) -> list[Call]:
    return [(event.tool_name, event.arguments) for event in result.events if isinstance(event, ToolStarted)]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@both_runs
@pytest.mark.parametrize("given", [pytest.param(text(id_), id=id_) for id_ in RUN_IDS])
def test_the_agent_runs_the_tools_and_ends_with_the_next_reply(
    endpoint: Endpoint, go: Callable[..., RunResult], given: Text, streams: bool
) -> None:
    endpoint.script(Reply(given.text, chunk_size=3), Reply("All done."))
    result = go(endpoint, "Go.", agent={"tools": offered(*given.tools), "streams": streams})
    assert sorted(map(repr, ran(result))) == sorted(map(repr, given.calls))
    assert (result.text, result.stop_reason) == ("All done.", "answered")


@both_runs
def test_what_goes_back_to_the_server_is_an_ordinary_call_with_its_result(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    endpoint.script(Reply(f"I add.\n<tool_call>{ADD_ARGUMENTS}</tool_call>"), Reply("5"))
    go(endpoint, "Go.", agent={"tools": offered(*USUAL)})
    _, said, told = endpoint.requests[-1].messages[-3:]
    (called,) = said["tool_calls"]
    assert called["function"]["name"] == "add"
    assert "tool_call>" not in str(said.get("content"))
    assert told["tool_call_id"] == called["id"]


@both_runs
def test_an_event_says_which_calls_were_recovered_once_a_reply(
    endpoint: Endpoint, go: Callable[..., RunResult]
) -> None:
    given = text("several-list")
    endpoint.script(Reply(given.text), Reply(TAG + ADD_JSON), Reply("5"))
    result = go(endpoint, "Go.", agent={"tools": offered(*USUAL)})
    events = [event for event in result.events if isinstance(event, ToolCallsRecovered)]
    assert [(event.format, event.tool_names) for event in events] == [
        ("json", ("add", "now")),
        ("python_tag", ("add",)),
    ]


def test_no_event_says_so_of_native_calls_and_plain_answers(endpoint: Endpoint) -> None:
    endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Reply("5"))
    result = run(endpoint, "Go.", agent={"tools": offered(*USUAL)})
    assert not [event for event in result.events if isinstance(event, ToolCallsRecovered)]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@both_runs
@pytest.mark.parametrize(
    "given", [pytest.param(text, id=text.id) for text in TEXTS if text.broken and not text.calls][::2]
)
def test_a_cut_off_call_is_never_executed_and_the_model_is_told(
    endpoint: Endpoint, go: Callable[..., RunResult], given: Text, streams: bool
) -> None:
    endpoint.script(Reply(given.text, finish_reason=given.finish_reason), Reply("I give up."))
    result = go(endpoint, "Go.", agent={"tools": offered(*given.tools), "streams": streams})
    told = endpoint.requests[1].messages[-1]
    finished = [event for event in result.events if isinstance(event, ToolFinished)]
    assert all(event.error for event in finished)
    assert ("got", "tool") not in [(str(told["content"])[:3], told["role"])]
    assert (told["role"], result.text) == ("tool", "I give up.")


@both_runs
def test_complete_siblings_of_a_cut_call_run(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    given = text("tool_call-one-of-two-is-cut")
    endpoint.script(Reply(given.text, finish_reason="length"), Reply("5"))
    result = go(endpoint, "Go.", agent={"tools": offered(*given.tools)})
    outcomes = [outcome for message in result.messages for outcome in message.tool_call_results]
    assert [(outcome.origin.tool_name, outcome.error) for outcome in outcomes] == [
        ("add", False),
        ("note", True),
    ]


@pytest.mark.parametrize("id_", ["json-unknown-name", "pythonic-positional", "tool_call-in-a-fence"])
@both_runs
def test_text_that_is_no_call_is_the_answer(
    endpoint: Endpoint, go: Callable[..., RunResult], id_: str
) -> None:
    given = text(id_)
    endpoint.script(Reply(given.text))
    result = go(endpoint, "Go.", agent={"tools": offered(*given.tools)})
    assert (result.text, result.stop_reason, ran(result)) == (given.text, "answered", [])


@both_runs
def test_whoever_watches_a_run_sees_no_block(endpoint: Endpoint, go: Callable[..., RunResult]) -> None:
    endpoint.script(Reply(f"I add.\n<tool_call>{ADD_ARGUMENTS}</tool_call>", chunk_size=3), Reply("It is 5."))
    seen: list[Event] = []
    go(endpoint, "Go.", agent={"tools": offered(*USUAL), "streams": True}, on_event=seen.append)
    shown = "".join(event.text for event in seen if isinstance(event, TextDelta))
    assert words(shown) in ("I add. It is 5.", "I add.It is 5.")


def test_a_tool_of_ours_gets_the_arguments_as_its_types_say(endpoint: Endpoint) -> None:
    got: list[Any] = []

    @tool
    def keep(count: int, share: float, names: list[str], sure: bool = False) -> str:
        """
        Keep things.

        :param count: How many.
        :param share: Of all.
        :param names: Of them.
        :param sure: Whether it is sure.
        """
        got.extend([count, share, names, sure])
        return "kept"

    parameters = {"count": "3", "share": "0.5", "names": '["a"]', "sure": "true"}
    inner = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in parameters.items())
    written = f"<tool_call>\n<function=keep>\n{inner}</function>\n</tool_call>"
    endpoint.script(Reply(written), Reply("done"))
    run(endpoint, "Go.", agent={"tools": [keep]})
    assert got == [3, 0.5, ["a"], True]


# A format of the user's own


def acme(inner: str) -> list[tuple[str, Any]] | None:
    name, _, arguments = inner.strip().partition(" ")
    if name == "boom":
        raise RuntimeError("a parser that fails")
    return [(name, arguments or "{}")] if name.isidentifier() else None


@pytest.fixture
def names_of_formats() -> Iterator[str]:
    """A name that no other test registers."""
    yield f"acme_{next(_numbers)}"


_numbers = itertools.count()


def registered(name: str, parse: Callable[[str], Any] = acme) -> tuple[str, str]:
    """Markers, of which each format of these tests has its own: a format stays registered."""
    begin, end = f"<<{name}", f"{name}>>"
    register_text_format(name, begin=begin, end=end, parse=parse)
    return begin, end


@pytest.mark.parametrize("size", [1, 3, 7, "random"])
def test_a_registered_format_is_read_whole_and_streamed(
    make: Maker, endpoint: Endpoint, names_of_formats: str, size: Size
) -> None:
    begin, end = registered(names_of_formats)
    given = Text("acme", f'I add.\n{begin} add {{"a": 2, "b": 3}} {end}\nI wait.', calls=(ADD,))
    endpoint.script(Reply(given.text), streamed(given, size))
    shown: list[str] = []
    whole, message = ask(make, given), ask(make, given, callback=lambda chunk: note(chunk, shown))
    assert good_calls(whole) == good_calls(message) == [ADD]
    assert words(whole.text) == words("".join(shown)) == "I add. I wait."
    assert whole.meta["tool_call_format"] == message.meta["tool_call_format"] == names_of_formats


def test_a_registered_parser_may_give_arguments_as_a_dict(
    make: Maker, endpoint: Endpoint, names_of_formats: str
) -> None:
    begin, end = registered(names_of_formats, lambda _: [("add", {"a": 2, "b": 3}), ("now", {})])
    endpoint.script(Reply(f"{begin} anything {end}"))
    assert good_calls(ask(make, text("json-plain"))) == [ADD, ("now", {})]


@pytest.mark.parametrize(
    "inner", ["launch {}", "not a call!", "boom", ""], ids=["unknown-name", "none", "raises", "empty"]
)
def test_a_registered_format_whose_parser_finds_no_call_stays_text(
    make: Maker, endpoint: Endpoint, names_of_formats: str, inner: str
) -> None:
    begin, end = registered(names_of_formats)
    written = f"So: {begin}{inner}{end} it is."
    endpoint.script(Reply(written))
    message = ask(make, text("json-plain"))
    assert (message.text, message.tool_calls) == (written, [])


@pytest.mark.parametrize("wrap", ["<think>{}</think>5", "`{}`", "```\n{}\n```"])
def test_a_registered_format_is_not_looked_for_in_thoughts_and_code(
    make: Maker, endpoint: Endpoint, names_of_formats: str, wrap: str
) -> None:
    begin, end = registered(names_of_formats)
    written = wrap.format(f'{begin} add {{"a": 2, "b": 3}} {end}')
    endpoint.script(Reply(written))
    assert ask(make, text("json-plain")).text == written


@pytest.mark.parametrize("streams", [False, True])
def test_a_registered_block_that_has_no_end_stays_text(
    make: Maker, endpoint: Endpoint, names_of_formats: str, streams: bool
) -> None:
    begin, _ = registered(names_of_formats)
    written = f'So: {begin} add {{"a": 2'
    endpoint.script(Reply(written, finish_reason="length"))
    shown: list[str] = []
    message = ask(make, text("json-plain"), callback=(lambda chunk: note(chunk, shown)) if streams else None)
    assert good_calls(message) == []
    assert not streams or "".join(shown).strip() == (message.text or "").strip()


def test_registering_a_name_again_replaces_the_format(
    make: Maker, endpoint: Endpoint, names_of_formats: str
) -> None:
    begin, end = registered(names_of_formats)
    register_text_format(names_of_formats, begin="{{{acme", end="}}}", parse=acme)
    given = text("json-plain")
    endpoint.script(Reply(f"{begin} now {end}"), Reply("{{{acme now }}}"))
    old, new = ask(make, given), ask(make, given)
    assert (good_calls(old), good_calls(new)) == ([], [("now", {})])
    register_text_format(names_of_formats, begin=begin, end=end, parse=lambda _: None)


# Names of native calls are looked up the same way


@pytest.mark.parametrize("name", ["functions.add", "tools/add", "default_api.add", "x.y.add", "ADD", "Add"])
def test_the_name_of_a_native_call_is_set_right(endpoint: Endpoint, name: str) -> None:
    endpoint.script(Reply(calls=[(name, {"a": 2, "b": 3})]), Reply("5"))
    assert ran(run(endpoint, "Go.", agent={"tools": offered(*USUAL)})) == [ADD]


@pytest.mark.parametrize(
    ("name", "tools"),
    [("ad", USUAL), ("add_two", USUAL), ("Look_Up", ("look_up", "look-up")), ("x.y", USUAL), ("", USUAL)],
)
def test_the_name_of_a_native_call_that_could_be_several_or_none_is_refused(
    endpoint: Endpoint, name: str, tools: tuple[str, ...]
) -> None:
    endpoint.script(Reply(calls=[(name, {"word": "x"})]), Reply("5"))
    result = run(endpoint, "Go.", agent={"tools": offered(*tools)})
    outcomes = [outcome for message in result.messages for outcome in message.tool_call_results]
    assert all(outcome.error for outcome in outcomes)
