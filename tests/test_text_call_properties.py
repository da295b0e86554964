"""Whatever text comes: it never raises and takes linear time; a call in any form is recovered exactly."""

import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage
from haystack.tools.tool import Tool
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.in_process_model import Model, pieces_of
from tests.text_calls import TOOLS, USUAL

Call = tuple[str, dict[str, Any]]
Render = Callable[[Sequence[Call], Random], str]
FENCE = "```"

KEEP = Tool(
    name="keep",
    description="Keep anything.",
    parameters={
        "type": "object",
        "properties": {
            "value": {},
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "share": {"type": "number"},
            "sure": {"type": "boolean"},
            "items": {"type": "array"},
            "fields": {"type": "object"},
        },
        "additionalProperties": True,
    },
    function=lambda **_: "kept",
)
SCHEMA_TYPES = KEEP.parameters["properties"]
USUAL_TOOLS = [TOOLS[name] for name in USUAL]

steady = settings(
    derandomize=True,  # the same cases each time
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# What models may write into a string, to the harm of whoever looks for the end of a call.
NASTY = (
    '"', "'", "\\", '\\"', "{", "}", "[", "]", "(", ")", "}}", "{{", "]}", "; ", ", ", ":", "\n", "\r\n",
    "\t", "</tool_call>", "<tool_call>", "</function>", "<function=keep>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>", "<|python_end|>", "<|python_start|>", "[TOOL_CALLS]", "[ARGS]", "functools[", ">>>",
    "```", "```json\n", "`", "<think>", "</think>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "</s>",
    "Action: ",
    '{"name": "keep", "parameters": {}}', "keep", "null", "true", "None", "1e999", "NaN", "\\n", "\\u0041",
    "%s", "\u2028", "\u0000", "\u007f", "\ufeff", "é", "🦙", "<", ">", "&lt;", "</", "//", "/*", "#",
)  # fmt: skip

plain_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
nasty_texts = st.lists(st.one_of(st.sampled_from(NASTY), plain_texts), max_size=6).map("".join)
numbers = st.one_of(st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(nasty_texts, numbers, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(nasty_texts, inner, max_size=3)),
    max_leaves=8,
)
open_arguments = st.dictionaries(
    nasty_texts.filter(lambda key: key not in ("parameters", "arguments")), values, max_size=4
)
named_arguments = st.dictionaries(st.sampled_from(["value", "items_", "x"]), values, max_size=3)
typed_arguments = st.fixed_dictionaries(
    {},
    optional={
        "text": nasty_texts.filter(lambda text: "</parameter>" not in text),
        "count": st.integers(-(10**18), 10**18),
        "share": st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: number % 1 != 0),
        "sure": st.booleans(),
        "items": st.lists(values, max_size=3),
        "fields": st.dictionaries(nasty_texts, values, max_size=3),
    },
)
text_arguments = st.dictionaries(st.sampled_from(["text", "x"]), nasty_texts, min_size=1, max_size=2)


def dumped(value: Any, random: Random) -> str:
    """JSON, in one of the ways that it can be written."""
    style: dict[str, Any] = random.choice([{}, {}, {"indent": 2}, {"separators": (",", ":")}])
    return json.dumps(value, ensure_ascii=random.random() < 0.3, **style)


def enveloped(call: Call, random: Random, *, names: Sequence[str] = ("parameters", "arguments")) -> str:
    """Forms 1 to 3."""
    name, arguments = call
    key = random.choice(names)
    given: Any = arguments
    if random.random() < 0.2:
        given = dumped(arguments, random)
    flat = {"name": name, key: given}
    if random.random() < 0.2:
        flat = {key: given, "name": name}
    forms = [flat, flat, {"type": "function", **flat}, {"type": "function", "function": flat}]
    return dumped(random.choice(forms), random)


def plain(call: Call, random: Random) -> str:
    return dumped({"name": call[0], "arguments": call[1]}, random)


def joined(calls: Sequence[Call], random: Random) -> str:
    return random.choice(["; ", ";", "\n", " ", ""]).join(enveloped(call, random) for call in calls)


def listed(calls: Sequence[Call], random: Random, item: Callable[[Call, Random], str] = plain) -> str:
    return f"[{', '.join(item(call, random) for call in calls)}]"


def wrapped(calls: Sequence[Call], random: Random) -> str:
    return f'{{"tool_calls": {listed(calls, random, enveloped)}}}'


def tagged(calls: Sequence[Call], random: Random) -> str:
    inner = random.choice([joined, listed])(calls, random)
    return f"<|python_tag|>{inner}{random.choice(['', '<|eom_id|>', '<|eot_id|>'])}"


def dotted(calls: Sequence[Call], random: Random) -> str:
    return "\n".join(f"<|python_tag|>{name}.call({keywords(arguments)})" for name, arguments in calls)


def functions(calls: Sequence[Call], random: Random) -> str:
    forms = ("<function={}>{}</function>", "<function={}{}</function>", "<function={}{}></function>",
             '<function name="{}">{}</function>', "<function={}>{}")  # fmt: skip
    return "\n".join(
        random.choice(forms).format(name, dumped(arguments, random)) for name, arguments in calls
    )


def keywords(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def pythonic(calls: Sequence[Call], _: Random) -> str:
    return f"[{', '.join(f'{name}({keywords(arguments)})' for name, arguments in calls)}]"


def started(calls: Sequence[Call], random: Random) -> str:
    return (
        f"<|python_start|>{pythonic(calls, random)}<|python_end|>{random.choice(['', '<|eom|>', '<|eot|>'])}"
    )


def started_json(calls: Sequence[Call], random: Random) -> str:
    return f"<|python_start|>{joined(calls, random)}<|python_end|>"


def hermes(calls: Sequence[Call], random: Random) -> str:
    end = random.choice(["</tool_call>", "\n</tool_call>", ""])
    return "\n".join(f"<tool_call>\n{plain(call, random)}{end}" for call in calls)


def xml(calls: Sequence[Call], random: Random) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n{_parameters(arguments)}</function>\n</tool_call>"
        for name, arguments in calls
    )


def _parameters(arguments: dict[str, Any]) -> str:
    return "".join(
        f"<parameter={name}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>\n"
        for name, value in arguments.items()
    )


def mistral(calls: Sequence[Call], random: Random) -> str:
    return f"[TOOL_CALLS]{random.choice(['', ' '])}{listed(calls, random)}{random.choice(['', '</s>'])}"


def mistral_names(calls: Sequence[Call], random: Random) -> str:
    between = random.choice(["", "[ARGS]"])
    return "".join(f"[TOOL_CALLS]{name}{between}{dumped(arguments, random)}" for name, arguments in calls)


def functools_(calls: Sequence[Call], random: Random) -> str:
    return f"functools{listed(calls, random)}"


def functionary(calls: Sequence[Call], random: Random) -> str:
    return "\n".join(f">>>{name}\n{dumped(arguments, random)}" for name, arguments in calls)


def fenced(calls: Sequence[Call], random: Random) -> str:
    inner = enveloped(calls[0], random) if len(calls) == 1 else listed(calls, random, enveloped)
    return f"{FENCE}{random.choice(['json', ''])}\n{inner}\n{FENCE}"


def command_r(calls: Sequence[Call], random: Random) -> str:
    items = [{"tool_name": name, "parameters": arguments} for name, arguments in calls]
    return f"Action: {FENCE}json\n{dumped(items, random)}\n{FENCE}"


def deepseek(calls: Sequence[Call], random: Random) -> str:
    blocks = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n{FENCE}json\n{dumped(arguments, random)}"
        f"\n{FENCE}<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{blocks}<｜tool▁calls▁end｜>"


def doubled(calls: Sequence[Call], random: Random) -> str:
    return f"{{{plain(calls[0], random)}}}"


RENDERERS: dict[str, tuple[Render, str, st.SearchStrategy[dict[str, Any]]]] = {
    "json": (joined, "json", open_arguments),
    "list": (lambda calls, random: listed(calls, random, enveloped), "json", open_arguments),
    "tool_calls": (wrapped, "json", open_arguments),
    "double_braces": (doubled, "json", open_arguments),
    "python_tag": (tagged, "python_tag", open_arguments),
    "python_tag-call": (dotted, "python_tag", named_arguments),
    "function_tag": (functions, "function_tag", open_arguments),
    "pythonic": (pythonic, "pythonic", named_arguments),
    "python_start": (started, "python_start", named_arguments),
    "python_start-json": (started_json, "python_start", open_arguments),
    "tool_call": (hermes, "tool_call", open_arguments),
    "xml": (xml, "tool_call", typed_arguments),
    "mistral": (mistral, "mistral", open_arguments),
    "mistral-names": (mistral_names, "mistral", open_arguments),
    "functools": (functools_, "functools", open_arguments),
    "functionary": (functionary, "functionary", open_arguments),
    "fence": (fenced, "fence", open_arguments),
    "command_r": (command_r, "command_r", open_arguments),
    "deepseek": (deepseek, "deepseek", open_arguments),
}
STRONG = RENDERERS.keys() - {"json", "list", "tool_calls", "double_braces", "pythonic", "fence"}
SINGLE = {"double_braces"}

every_form = pytest.mark.parametrize("form", RENDERERS)
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def calls_of(message: ChatMessage) -> list[Call]:
    return [
        (call.tool_name, call.arguments)
        for call in message.tool_calls
        if "malformed_arguments" not in (call.extra or {})
    ]


def exact(calls: Sequence[Call]) -> str:
    """Calls so that 1, 1.0 and True differ."""
    return json.dumps([list(call) for call in calls], sort_keys=True)


@st.composite
def rendered(draw: st.DrawFn, form: str) -> tuple[str, list[Call], Random]:
    """A text of one or more calls, and the calls."""
    render, _, arguments = RENDERERS[form]
    many = draw(st.lists(arguments, min_size=1, max_size=1 if form in SINGLE else 3))
    calls = [("keep", given) for given in many]
    random = Random(draw(seeds))
    return render(calls, random), calls, random


@every_form
@settings(steady, max_examples=60)
@given(data=st.data())
def test_a_call_in_any_form_is_recovered_exactly(model: Model, form: str, data: st.DataObject) -> None:
    text, calls, _ = data.draw(rendered(form))
    message = model.reply(text, tools=[KEEP])
    assert exact(calls_of(message)) == exact(calls)
    assert (message.text or "").strip() == ""
    assert message.meta["tool_call_format"] == RENDERERS[form][1]


@every_form
@settings(steady, max_examples=40)
@given(data=st.data())
def test_streamed_in_random_pieces_it_is_recovered_just_so(
    model: Model, form: str, data: st.DataObject
) -> None:
    text, calls, random = data.draw(rendered(form))
    message = model.streamed(pieces_of(text, random), tools=[KEEP])
    assert exact(calls_of(message)) == exact(calls)
    assert "".join(model.shown).strip() == ""


@pytest.mark.parametrize("form", sorted(STRONG))
@settings(steady, max_examples=30)
@given(data=st.data())
def test_prose_before_a_marked_call_is_all_that_is_shown(
    model: Model, form: str, data: st.DataObject
) -> None:
    text, calls, random = data.draw(rendered(form))
    prose = data.draw(
        st.sampled_from(["I do.", "Now: < that is it", "1. First,\n2. then", "It's a `test`.", "Été"])
    )
    message = model.streamed(pieces_of(f"{prose}\n{text}", random), tools=[KEEP])
    assert exact(calls_of(message)) == exact(calls)
    assert "".join(model.shown).strip() == (message.text or "").strip() == prose


@every_form
@settings(steady, max_examples=40)
@given(data=st.data())
def test_a_text_that_is_cut_anywhere_gives_no_call_but_complete_ones(
    model: Model, form: str, data: st.DataObject
) -> None:
    text, calls, random = data.draw(rendered(form))
    cut = text[: data.draw(st.integers(0, len(text)))]
    model.finish_reason = "length"
    try:
        message = model.streamed(pieces_of(cut, random), tools=[KEEP])
    finally:
        model.finish_reason = "stop"
    found = calls_of(message)
    assert exact(found) == exact(calls[: len(found)])
    assert "".join(model.shown).strip() == (message.text or "").strip()


@every_form
@settings(steady, max_examples=25)
@given(data=st.data())
def test_calls_of_tools_that_are_not_on_offer_are_text(model: Model, form: str, data: st.DataObject) -> None:
    text, _, random = data.draw(rendered(form))
    message = model.streamed(pieces_of(text, random), tools=[TOOLS["add"]])
    assert message.tool_calls == []
    assert "".join(model.shown).strip() == (message.text or "").strip()


# Any text

SNIPPETS = (
    *NASTY, "add", "now", "[add(a=2, b=3)]", "[now()]", '{"name": "add", "parameters": {"a": 2, "b": 3}}',
    '"name"', '"parameters"', '"arguments": {', '"a": 2', "a=2", ", b=3", '{"name": "add"', "<function=",
    "add>", "<parameter=a>", "</parameter>", "<function=add>", '<function name="add">',
    "<tool_call>\n<function=now>\n", '{"tool_calls": [', "functools[{", "[TOOL_CALLS]add", "[TOOL_CALLS][{",
    ">>>add\n", "all\n", "Action: ```json\n[", '{"tool_name": "add"', "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>", "function<｜tool▁sep｜>add\n", "The sum is 5. ", "Let me add. ", "\n\n", " ",
    "0",
    "-", "1.5e", "9"*30, "brave_search.call(", "print(1)", "<|python_", "<tool_", "[TOOL", "<｜", "{{", "}}",
    "<|start_header_id|>", "<|im_end|>", "[add](x)", "[", "[1]",
)  # fmt: skip
garbage = st.lists(st.sampled_from(SNIPPETS), max_size=14).map("".join)


@settings(steady, max_examples=200)
@given(text=garbage, seed=seeds, reason=st.sampled_from(["stop", "length"]))
@example(text="[add(a=" + "9" * 5000 + ", b=1)]", seed=0, reason="stop")
@example(text='{"name": "add", "parameters": {"a": ' + "9" * 5000 + ', "b": 1}}', seed=0, reason="stop")
@example(text="[add(a=" + "-" * 5000 + "1, b=1)]", seed=0, reason="stop")
@example(text="[add(a=" + "(" * 5000 + "1" + ")" * 5000 + ", b=1)]", seed=0, reason="stop")
@example(text="[add(a=" + "[" * 300 + "]" * 300 + ")]", seed=0, reason="stop")
@example(text='{"name": "add", "parameters": {"a": ' + "[" * 5000 + "]" * 5000 + "}}", seed=0, reason="stop")
@example(text="[note(text='\\N{no such}')]", seed=0, reason="stop")
@example(text="[note(text='\\ud800')]", seed=0, reason="stop")
@example(text='{"name": "note", "parameters": {"text": "\\ud800"}}', seed=0, reason="stop")
@example(text="[note(text='\\d')]", seed=0, reason="stop")
@example(text="[note(text='a' 'b')]", seed=0, reason="stop")
@example(text="[add(a=0777, b=1)]", seed=0, reason="stop")
@example(text="[add(a=1if 1else 2, b=1)]", seed=0, reason="stop")
@example(text="[add(a=1_000, b=0x1f)]", seed=0, reason="stop")
@example(text="[add(a=1j, b=...)]", seed=0, reason="stop")
@example(text="[get_weather(city='x', factor=1e999)]", seed=0, reason="stop")
@example(text='{"name": "get_weather", "parameters": {"city": "x", "factor": NaN}}', seed=0, reason="stop")
@example(text="[note(text='a\x00b')]", seed=0, reason="stop")
@example(text="\x00", seed=0, reason="stop")
def test_no_text_raises_and_streamed_it_means_the_same(
    model: Model, text: str, seed: int, reason: str
) -> None:
    check_in_pieces(model, text, seed, reason)


CODE = (
    "\n", "\n\n", "  ", "> ", "- ", "1. ", "`", "``", FENCE, f"{FENCE}json", "~~~", "a", "b c", "<think>",
    '<tool_call>{"name": "now", "arguments": {}}</tool_call>', ">>>now\n{}", "[now()]", "[TOOL_CALLS]now{}",
    '{"name": "now", "parameters": {}}', "functools", "<", ">", "</think>", "<|eot_id|>",
)  # fmt: skip


@settings(steady, max_examples=300)
@given(text=st.lists(st.sampled_from(CODE), max_size=9).map("".join), seed=seeds)
def test_calls_among_code_and_thoughts_mean_the_same_in_pieces(model: Model, text: str, seed: int) -> None:
    check_in_pieces(model, text, seed, "stop")


def check_in_pieces(model: Model, text: str, seed: int, reason: str) -> None:
    """A text is understood without an error, the same in pieces as whole, and shown as the message has it."""
    model.finish_reason = reason
    try:
        whole = model.reply(text, tools=USUAL_TOOLS)
        message = model.streamed(pieces_of(text, Random(seed)), tools=USUAL_TOOLS)
    finally:
        model.finish_reason = "stop"
    assert [(call.tool_name, call.arguments) for call in message.tool_calls] == [
        (call.tool_name, call.arguments) for call in whole.tool_calls
    ]
    assert (message.text or "").strip() == (whole.text or "").strip()
    assert "".join(model.shown).strip() == (message.text or "").strip()
    assert {call.tool_name for call in message.tool_calls} <= {*USUAL}


# Time

KILO, MEGA = 1_000, 1_000_000
PATTERNS: dict[str, Callable[[int], str]] = {}


def pattern(name: str, unit: str, *, before: str = "", after: str = "") -> None:
    PATTERNS[name] = lambda size: before + unit * (size // len(unit)) + after


pattern("prose", "The sum is 5, and that is all. ")
pattern("one-word", "a")
pattern("newlines", "\n")
pattern("blanks", " ")
pattern("blanks-then-a-word", " ", after="x")
pattern("quotes", '"')
pattern("braces", "{")
pattern("double-braces", "{{")
pattern("closed-braces", "{}")
pattern("brackets", "[")
pattern("closed-brackets", "[]")
pattern("mixed-brackets", "[{(")
pattern("nested-objects", '{"a":')
pattern("backticks", "`")
pattern("backticks-apart", "` ")
pattern("fences", f"{FENCE}\n")
pattern("fences-json", f"{FENCE}json\n")
pattern("tildes", "~~~\n")
pattern("thoughts", "<think>")
pattern("thoughts-closed", "<think></think>")
pattern("thoughts-ended", "</think>")
pattern("open-thought", "hmm ", before="<think>")
pattern("angles", "<")
pattern("pipes", "<|")
pattern("wide-pipes", "<｜")
pattern("end-tokens", "<|eom_id|>")
pattern("end-tokens-behind", "<|eot_id|>", before="x")
pattern("python-tags", "<|python_tag|>")
pattern("python-tags-with-json", '<|python_tag|>{"name": "add", ')
pattern("python-starts", "<|python_start|>")
pattern("python-starts-with-lists", "<|python_start|>[add(")
pattern("function-tags", "<function=")
pattern("function-tags-named", "<function=add>")
pattern("function-tags-opened", "<function=add>{")
pattern("function-tags-with-strings", '<function=note>{"text": "')
pattern("tool-calls", "<tool_call>")
pattern("tool-calls-opened", '<tool_call>{"name": "add", "arguments": {')
pattern("tool-calls-unknown", '<tool_call>{"name": "launch", "arguments": {}}</tool_call>')
pattern("tool-calls-good", '<tool_call>{"name": "now", "arguments": {}}</tool_call>')
pattern("xml", "<tool_call>\n<function=add>\n<parameter=a>\n")
pattern("xml-long-value", "x ", before="<tool_call>\n<function=note>\n<parameter=text>\n")
pattern("xml-parameters", "<parameter=a>\n", before="<tool_call>\n<function=add>\n")
pattern("mistral", "[TOOL_CALLS]")
pattern("mistral-names", "[TOOL_CALLS]add")
pattern("mistral-opened", "[TOOL_CALLS]add[ARGS]{")
pattern("functools", "functools[")
pattern("functionary", ">>>")
pattern("functionary-names", ">>>add\n")
pattern("command-r", f"Action: {FENCE}json\n[")
pattern("actions", "Action: ")
pattern("deepseek", "<｜tool▁call▁begin｜>")
pattern("deepseek-names", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n")
pattern("names", "add ")
pattern("json-names", '{"name": "add"} ')
pattern("json-calls", '{"name": "now", "parameters": {}}; ')
pattern("json-unknown", '{"name": "launch", "parameters": {}}; ')
pattern("json-nested-calls", '{"name": "add", "parameters": {"a": ')
pattern("json-open-string", "x", before='{"name": "note", "parameters": {"text": "')
pattern("json-escapes", '\\"', before='{"name": "note", "parameters": {"text": "')
pattern("json-backslashes", "\\", before='{"name": "note", "parameters": {"text": "')
pattern("json-long-number", "9", before='{"name": "add", "parameters": {"a": ')
pattern("json-many-keys", '"a": 1, ', before='{"name": "add", "parameters": {')
pattern("json-list", "1, ", before="[")
pattern("json-list-of-calls", '{"name": "now", "parameters": {}}, ', before="[")
pattern("pythonic-nested", "[add(a=")
pattern("pythonic-list", "now(), ", before="[")
pattern("pythonic-open-string", "x", before="[note(text='")
pattern("pythonic-minus", "-", before="[add(a=", after="1)]")
pattern("pythonic-parentheses", "(", before="[add(a=")
pattern("pythonic-sum", "1+", before="[add(a=", after="1)]")
pattern("pythonic-many-keywords", "a=1, ", before="[add(", after="b=1)]")
pattern("links", "[add](https://example.org) ")
PATTERNS["backticks-ever-longer"] = lambda size: " ".join("`" * n for n in range(1, int((2 * size) ** 0.5)))
PATTERNS["closed-lists-in-a-call"] = lambda size: (
    '{"name": "add", "parameters": {"a": ' + "[" * (size // 2) + "]" * (size // 2) + "}}"
)

UP_TO_A_MEGABYTE = frozenset(
    """
    prose one-word blanks quotes braces brackets nested-objects backticks backticks-ever-longer fences
    thoughts angles end-tokens python-tags function-tags-opened tool-calls tool-calls-opened
    tool-calls-unknown xml xml-long-value mistral-names functools functionary-names deepseek-names
    json-open-string json-nested-calls json-calls closed-lists-in-a-call pythonic-nested pythonic-list
    pythonic-open-string links
    """.split()
)
"""These are measured up to 1 MB, the others up to 100 kB."""
assert PATTERNS.keys() >= UP_TO_A_MEGABYTE


def sizes_of(name: str) -> tuple[int, ...]:
    return (10 * KILO, 100 * KILO, MEGA) if name in UP_TO_A_MEGABYTE else (10 * KILO, 100 * KILO)


MAY_TAKE = 10.0
"""Seconds of CPU time for a megabyte, however nasty."""
GROWTH = 40
"""How much more ten times the text may cost: far less than the hundredfold of what is quadratic."""
UNNOTICED = 0.05
"""Seconds below which a measurement says nothing of growth."""


def cpu_seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def check_growth(seconds: Sequence[float]) -> None:
    for smaller, larger in pairwise(seconds):
        assert larger <= GROWTH * max(smaller, UNNOTICED), seconds
    assert seconds[-1] <= MAY_TAKE, seconds


@pytest.mark.parametrize("name", PATTERNS)
def test_a_text_that_came_whole_takes_linear_time(model: Model, name: str) -> None:
    def seconds(size: int) -> float:
        text = PATTERNS[name](size)
        return cpu_seconds(lambda: model.reply(text, tools=USUAL_TOOLS))

    check_growth([seconds(size) for size in sizes_of(name)])


@pytest.mark.parametrize("name", PATTERNS)
def test_a_text_in_a_thousand_pieces_takes_linear_time(model: Model, name: str) -> None:
    def seconds(size: int) -> float:
        pieces = pieces_of(PATTERNS[name](size), size // KILO)
        return cpu_seconds(lambda: model.streamed(pieces, tools=USUAL_TOOLS))

    check_growth([seconds(size) for size in sizes_of(name)])


@pytest.mark.parametrize(
    "name",
    ["prose", "braces", "brackets", "thoughts", "fences", "backticks", "tool-calls", "tool-calls-opened",
     "json-open-string", "json-calls", "json-nested-calls", "pythonic-open-string", "pythonic-list",
     "xml-long-value", "function-tags-opened", "mistral-names", "blanks", "open-thought"],
)  # fmt: skip
def test_ten_times_the_pieces_take_not_much_more_than_ten_times_as_long(model: Model, name: str) -> None:
    def seconds(size: int) -> float:
        pieces = pieces_of(PATTERNS[name](size), 8)
        return cpu_seconds(lambda: model.streamed(pieces, tools=USUAL_TOOLS))

    check_growth([seconds(size) for size in (3 * KILO, 30 * KILO)])
