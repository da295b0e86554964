"""Arguments with the defects that models write: mended where they can be read in one way, else never run."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from haystack.components.agents import Agent as HaystackAgent
from haystack.dataclasses import ChatMessage
from haystack.tools.tool import Tool

from llama_agent import RunResult, ToolStarted
from tests.calling import agent_on, failed, generator, outcomes, told
from tests.endpoint import Always, Endpoint, Reply

Json = dict[str, Any]
Render = Callable[[str], Reply]

MOST_LINES = 12
"""Lines that a model is told of one call."""


def native(raw: str) -> Reply:
    return Reply(calls=[("note", raw)])


def function_tag(raw: str) -> Reply:
    return Reply(f"<function=note>{raw}</function>")


def python_tag(raw: str) -> Reply:
    return Reply(f'<|python_tag|>{{"name": "note", "parameters": {raw}}}')


def bare(raw: str) -> Reply:
    return Reply(f'{{"name": "note", "parameters": {raw}}}')


def tool_call(raw: str) -> Reply:
    return Reply(f'<tool_call>\n{{"name": "note", "arguments": {raw}}}\n</tool_call>')


def table(rows: dict[str, Any], columns: str) -> Any:
    return pytest.mark.parametrize(columns, rows.values(), ids=rows)


def ways(*renders: Render) -> Any:
    return pytest.mark.parametrize("render", renders, ids=lambda render: render.__name__)


def note_tool(received: list[Json], **parameters: Any) -> Tool:
    """A tool that notes what it is called with; by default it takes `a` and `b`, of any type, or nothing."""

    def function(**arguments: Any) -> str:
        received.append(arguments)
        return "ran"

    schema = {"type": "object", "properties": {"a": {}, "b": {}}, "required": [], **parameters}
    return Tool(name="note", description="Note.", parameters=schema, function=function)


def play(endpoint: Endpoint, tools: list[Any], *replies: Reply, **settings: Any) -> RunResult:
    endpoint.script(*replies, Always(Reply("done")))
    with agent_on(endpoint, tools, **settings) as agent:
        return agent.run("go")


def replayed(endpoint: Endpoint) -> list[Json]:
    """The calls in the last request, their arguments parsed as strictly as servers do."""
    sent = [call for message in endpoint.requests[-1].messages for call in message.get("tool_calls", ())]
    return [json.loads(call["function"]["arguments"], parse_constant=pytest.fail) for call in sent]


def deep(value: str, levels: int) -> str:
    for _ in range(levels):
        value = json.dumps(value)
    return value


# What can be read in one way: (raw text, arguments).

MENDED: dict[str, tuple[str, Json]] = {
    "single quotes": ("{'a': 'x', 'b': 2}", {"a": "x", "b": 2}),
    "single quotes around an apostrophe": ("""{'a': "it's", 'b': 'x'}""", {"a": "it's", "b": "x"}),
    "single quotes around double quotes": ("""{'a': 'say "hi"'}""", {"a": 'say "hi"'}),
    "an escaped apostrophe in single quotes": (r"{'a': 'it\'s'}", {"a": "it's"}),
    "an escape in single quotes": (r"{'a': 'caf\u00e9'}", {"a": "café"}),
    "Python's constants": ("{'a': True, 'b': None}", {"a": True, "b": None}),
    "Python's constants in double quotes": ('{"a": False, "b": [None]}', {"a": False, "b": [None]}),
    "Python's constants as texts": ("{'a': 'True', 'b': 'None'}", {"a": "True", "b": "None"}),
    "Python lists and objects": ("{'a': [1, {'x': 'y'}]}", {"a": [1, {"x": "y"}]}),
    "negative numbers in single quotes": ("{'a': -2, 'b': -0.5}", {"a": -2, "b": -0.5}),
    "a trailing comma": ('{"a": 1,}', {"a": 1}),
    "trailing commas at each depth": ('{"a": [1, {"x": 2,},],}', {"a": [1, {"x": 2}]}),
    "a trailing comma before a line end": ('{"a": 1,\n}', {"a": 1}),
    "trailing commas within texts": ('{"a": ",}", "b": ",]",}', {"a": ",}", "b": ",]"}),
    "a trailing comma behind single quotes": ("{'a': 'x',}", {"a": "x"}),
    "a raw line end in a text": ('{"a": "x\ny"}', {"a": "x\ny"}),
    "a raw tab in a text": ('{"a": "x\ty"}', {"a": "x\ty"}),
    "raw line ends of Windows in a text": ('{"a": "x\r\ny"}', {"a": "x\r\ny"}),
    "code with raw line ends": ('{"a": "def f():\n\treturn {1: 2}\n"}', {"a": "def f():\n\treturn {1: 2}\n"}),
    "backslash-n between tokens": (r'{\n  "a": 1,\n  "b": 2\n}', {"a": 1, "b": 2}),
    "backslash-n between tokens and within a text": (r'{\n"a": "x\ny"\n}', {"a": "x\ny"}),
    "a bad escape": (r'{"a": "\d+\.\w"}', {"a": r"\d+\.\w"}),
    "an escaped apostrophe": (r'{"a": "it\'s"}', {"a": "it's"}),
    "a bad escape beside a good one": (r'{"a": "\d\n\"\\"}', {"a": '\\d\n"\\'}),
    "an escaped text that ends in a backslash": (r'{"a": "C:\\", "b": "\d"}', {"a": "C:\\", "b": r"\d"}),
    "encoded twice": (deep('{"a": 1}', 1), {"a": 1}),
    "encoded three times": (deep('{"a": "x"}', 2), {"a": "x"}),
    "encoded twice, with white space": (deep(' {"a": 1}\n', 1), {"a": 1}),
}  # fmt: skip

# What is glued to the arguments as a whole.
EDGES: dict[str, tuple[str, Json]] = {
    "a fence": ('```json\n{"a": 1}\n```', {"a": 1}),
    "a fence without a language": ('```\n{"a": 1}\n```', {"a": 1}),
    "a fence within a text stays": ('{"a": "```json\\n{}\\n```"}', {"a": "```json\n{}\n```"}),
    "a byte order mark": ('\ufeff{"a": 1}', {"a": 1}),
    "an end token": ('{"a": 1}<|eot_id|>', {"a": 1}),
    "another end token": ('{"a": 1}<|eom_id|>', {"a": 1}),
    "an end token of another family": ('{"a": 1}<|im_end|>', {"a": 1}),
    "an end token within a text stays": ('{"a": "<|eot_id|>"}', {"a": "<|eot_id|>"}),
    "a closing tag": ('{"a": 1}</tool_call>', {"a": 1}),
    "a closing tag and an end token": ('{"a": 1}\n</tool_call><|eot_id|>', {"a": 1}),
    "a closing tag within a text stays": ('{"a": "</tool_call>"}', {"a": "</tool_call>"}),
    "a fence, single quotes and a trailing comma": ("```json\n{'a': True,}\n```", {"a": True}),
}

NOTHING = {"nothing": "", "blanks": " \n\t ", "null": "null", "an empty object": "{}", "blanks within": "{ }"}


@table(MENDED, "raw, arrives")
@ways(native, function_tag, python_tag, bare, tool_call)
def test_a_defect_that_leaves_one_reading_is_mended(
    endpoint: Endpoint, render: Render, raw: str, arrives: Json
) -> None:
    received: list[Json] = []
    result = play(endpoint, [note_tool(received)], render(raw))
    assert received == [arrives]
    assert (told(result), failed(result), result.text) == ("ran", False, "done")


@table(MENDED, "raw, arrives")
def test_the_types_of_what_was_mended_are_the_json_types(endpoint: Endpoint, raw: str, arrives: Json) -> None:
    received: list[Json] = []
    play(endpoint, [note_tool(received)], native(raw))
    # True == 1 in Python, and not in JSON.
    assert [json.dumps(each) for each in received] == [json.dumps(arrives)]


@table(EDGES, "raw, arrives")
@ways(native, function_tag)
def test_what_is_glued_to_the_edges_is_cut_off(
    endpoint: Endpoint, render: Render, raw: str, arrives: Json
) -> None:
    received: list[Json] = []
    play(endpoint, [note_tool(received)], render(raw))
    assert received == [arrives]


@table({**MENDED, **EDGES}, "raw, arrives")
def test_the_next_request_replays_what_was_understood(endpoint: Endpoint, raw: str, arrives: Json) -> None:
    play(endpoint, [note_tool([])], native(raw))
    assert replayed(endpoint) == [arrives]


@pytest.mark.parametrize("raw", NOTHING.values(), ids=NOTHING)
@ways(native, function_tag)
def test_nothing_means_no_arguments_where_none_is_required(
    endpoint: Endpoint, render: Render, raw: str
) -> None:
    received: list[Json] = []
    assert told(play(endpoint, [note_tool(received)], render(raw))) == "ran"
    assert received == [{}]


@pytest.mark.parametrize("raw", ["null", "{}"])
@ways(python_tag, bare, tool_call)
def test_null_in_a_call_as_text_means_no_arguments(endpoint: Endpoint, render: Render, raw: str) -> None:
    received: list[Json] = []
    assert told(play(endpoint, [note_tool(received)], render(raw))) == "ran"
    assert received == [{}]


@pytest.mark.parametrize("raw", NOTHING.values(), ids=NOTHING)
@ways(native, function_tag)
def test_nothing_is_refused_where_something_is_required(endpoint: Endpoint, render: Render, raw: str) -> None:
    received: list[Json] = []
    result = play(endpoint, [note_tool(received, required=["a"])], render(raw))
    assert received == []
    assert failed(result)
    assert re.search(r"^a: .*(required|missing)", told(result), re.MULTILINE)


@pytest.mark.parametrize("form", ["object", "text"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_arguments_that_come_as_an_object_are_replayed_as_text(
    endpoint: Endpoint, form: str, stream: bool
) -> None:
    arguments: Any = {"a": {"b": [1]}}
    sent = arguments if form == "object" else json.dumps(arguments)
    call = {"id": "x", "index": 0, "type": "function", "function": {"name": "note", "arguments": sent}}
    endpoint.script(Reply(extra={"tool_calls": [call]}), Reply("done"))
    received: list[Json] = []
    with agent_on(endpoint, [note_tool(received)]) as agent:
        agent.run("go", generation_kwargs={"stream": stream})
    assert received == [arguments]
    assert replayed(endpoint) == [arguments]


# What has several readings, or none: the raw text, and what the model is told.

TRUNCATED = {
    "cut before its end": '{"a": 1',
    "cut within a text": '{"a": "x',
    "cut behind an escape": '{"a": "x\\',
    "cut before a value": '{"a": ',
    "cut behind a key": '{"a"',
    "cut within a key": '{"a": 1, "b',
    "cut behind a comma": '{"a": 1, ',
    "cut at its start": "{",
    "cut within a list": '{"a": [1, 2',
    "cut within an object": '{"a": {"b": 1}',
    "cut within a constant": '{"a": tru',
    "cut within a number's exponent": '{"a": 1e',
    "cut in single quotes": "{'a': 'x",
    "cut and encoded twice": deep('{"a": 1', 1),
    "cut within the second encoding": '"{\\"a\\": 1}',
}

UNREADABLE = {
    "inner quotes": '{"a": "he said "hi" to me"}',
    "inner quotes around a comma": '{"a": "x", "b": "one "two", "three" four"}',
    "an inner apostrophe in single quotes": "{'a': 'it's'}",
    "two objects": '{"a": 1}{"a": 2}',
    "two objects with white space": '{"a": 1}\n{"b": 2}',
    "two objects with a comma": '{"a": 1}, {"b": 2}',
    "an empty object before another": '{}{"a": 1}',
    "the same object twice": '{"a": 1}{"a": 1}',
    "two objects of Python": "{'a': 1}{'a': 2}",
    "NaN": '{"a": NaN}',
    "infinity": '{"a": Infinity}',
    "negative infinity": '{"a": -Infinity}',
    "a number beyond all bounds": '{"a": 1e999}',
    "a negative number beyond all bounds": '{"a": [-1e999]}',
    "NaN deep inside": '{"a": {"b": [1, {"c": NaN}]}}',
    "a number beyond all bounds in single quotes": "{'a': 1e999}",
    "NaN of Python": "{'a': nan}",
    "NaN encoded twice": deep('{"a": NaN}', 1),
    "a list": '[{"a": 1}]',
    "a number": "3",
    "a constant": "true",
    "a text": '"x"',
    "a list encoded twice": deep('[{"a": 1}]', 1),
    "encoded ten times": deep('{"a": 1}', 10),
    "words": "two and three",
    "a call of Python": "{'a': f(1)}",
    "an expression of Python": "{'a': 2 * 3}",
    "a name of Python": "{'a': os}",
    "bytes of Python": "{'a': b'x'}",
    "a set of Python": "{'a': {1, 2}}",
    "a complex number of Python": "{'a': 1j}",
    "a text with a place to fill": "{'a': f'{b}'}",
    "a colon that is missing": '{"a" 1}',
    "a comma that is missing": '{"a": 1 "b": 2}',
    "a value that is missing": '{"a": , "b": 2}',
    "brackets that cross": '{"a": [1, 2}',
}  # fmt: skip


NATIVE_ONLY = {
    "a bracket too many": '{"a": 1}}',
    "prose behind": '{"a": 1} is what I want',
}
"""As text, what is behind the arguments may be prose behind a call without its end tag."""


@pytest.mark.parametrize(
    "raw",
    [*TRUNCATED.values(), *UNREADABLE.values(), *NATIVE_ONLY.values()],
    ids=[*TRUNCATED, *UNREADABLE, *NATIVE_ONLY],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_has_no_sure_reading_isnt_run_and_the_model_tries_again(
    endpoint: Endpoint, raw: str, stream: bool
) -> None:
    received: list[Json] = []
    endpoint.script(native(raw), native('{"a": "good"}'), Reply("done"))
    with agent_on(endpoint, [note_tool(received)]) as agent:
        result = agent.run("go", generation_kwargs={"stream": stream})
    assert received == [{"a": "good"}]
    assert [outcome.error for outcome in outcomes(result)] == [True, False]
    assert result.text == "done"


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
def test_what_has_no_sure_reading_isnt_run_in_a_call_as_text(endpoint: Endpoint, raw: str) -> None:
    received: list[Json] = []
    endpoint.script(function_tag(raw), function_tag('{"a": "good"}'), Reply("done"))
    with agent_on(endpoint, [note_tool(received)]) as agent:
        result = agent.run("go")
    assert received == [{"a": "good"}]
    assert [outcome.error for outcome in outcomes(result)] == [True, False]


@pytest.mark.parametrize("raw", TRUNCATED.values(), ids=TRUNCATED)
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_a_cut_call_as_text_is_never_completed(endpoint: Endpoint, raw: str, finish_reason: str) -> None:
    received: list[Json] = []
    endpoint.script(Reply(f"<function=note>{raw}", finish_reason=finish_reason), Reply("done"))
    with agent_on(endpoint, [note_tool(received)]) as agent:
        agent.run("go")
    assert received == []


@pytest.mark.parametrize("raw", [*TRUNCATED.values(), *UNREADABLE.values()], ids=[*TRUNCATED, *UNREADABLE])
@ways(native, function_tag)
def test_the_next_request_replays_an_unreadable_call_with_no_arguments(
    endpoint: Endpoint, render: Render, raw: str
) -> None:
    play(endpoint, [note_tool([])], render(raw))
    assert replayed(endpoint) == [{}]
    call, answer = endpoint.requests[-1].messages[-2:]
    assert call["tool_calls"][0]["function"]["name"] == "note"
    assert answer["tool_call_id"] == call["tool_calls"][0]["id"] != ""


@pytest.mark.parametrize("raw", TRUNCATED.values(), ids=TRUNCATED)
@ways(native, function_tag)
def test_a_cut_call_is_told_to_be_cut_off(endpoint: Endpoint, render: Render, raw: str) -> None:
    result = play(endpoint, [note_tool([])], render(raw))
    assert "note" in told(result)
    assert re.search("cut off|incomplete", told(result))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('{"a": 1}{"a": 2}', "two|several|one (complete )?JSON object|more than one"),
        ('{"a": NaN}', "NaN|number"),
        ('{"a": 1e999}', "number"),
        ('[{"a": 1}]', "list|array"),
        ("3", "number"),
        ('{"a": "he said "hi" to me"}', "JSON|quot"),
    ],
)
@ways(native, function_tag)
def test_the_model_is_told_what_cant_be_read(endpoint: Endpoint, render: Render, raw: str, said: str) -> None:
    result = play(endpoint, [note_tool([])], render(raw))
    assert re.search(said, told(result))
    assert len(told(result).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("raw", ['{"a": "' + "x" * 100_000, '{"a": 1}' * 20_000, "[" * 50_000], ids=len)
@ways(native, function_tag)
def test_what_the_model_is_told_stays_short(endpoint: Endpoint, render: Render, raw: str) -> None:
    assert len(told(play(endpoint, [note_tool([])], render(raw)))) < 2000


# What may be read or refused, but never with other values: (raw text, the one thing it may mean).

NEVER_GUESSED: dict[str, tuple[str, Json]] = {
    "JSON's constants in single quotes": ("{'a': true, 'b': null}", {"a": True, "b": None}),
    "keys without quotes": ('{a: 1, b: "x"}', {"a": 1, "b": "x"}),
    "two trailing commas": ('{"a": 1,,}', {"a": 1}),
    "a comment": ('{"a": 1 // one\n}', {"a": 1}),
    "a leading zero": ('{"a": 007}', {"a": "007"}),
    "a plus sign": ('{"a": +1}', {"a": 1}),
    "typographic quotes": ("{“a”: “x”}", {"a": "x"}),
    "an equals sign": ('{"a" = 1}', {"a": 1}),
    "a URL with two slashes": ('{"a": "http://x.org",}', {"a": "http://x.org"}),
    "a path with bad escapes": (r'{"a": "C:\Users\me"}', {"a": r"C:\Users\me"}),
    "a hexadecimal escape": (r'{"a": "\x41"}', {"a": r"\x41"}),
    "a short unicode escape": (r'{"a": "\u41"}', {"a": r"\u41"}),
    "ellipsis": ('{"a": [1, 2, ...]}', {}),
    "a key that comes twice": ('{"a": 1, "a": 2}', {"a": 2}),
    "braces doubled": ('{{"a": 1}}', {"a": 1}),
}  # fmt: skip


@table(NEVER_GUESSED, "raw, meaning")
@ways(native, function_tag)
def test_an_odd_text_is_read_as_what_it_says_or_refused(
    endpoint: Endpoint, render: Render, raw: str, meaning: Json
) -> None:
    received: list[Json] = []
    result = play(endpoint, [note_tool(received)], render(raw))
    assert received in ([], [meaning])
    assert result.text == "done"
    assert all(isinstance(arguments, dict) for arguments in replayed(endpoint))


# Coercion, of calls as text too: (schema of `a`, value as JSON, what arrives).

INTEGER, NUMBER, STRING = {"type": "integer"}, {"type": "number"}, {"type": "string"}
BOOLEAN, NULL = {"type": "boolean"}, {"type": "null"}
DEFS = {"$defs": {"point": {"type": "object", "properties": {"x": INTEGER}, "required": ["x"]}}}

COERCED: dict[str, tuple[Json, str, Any]] = {
    "a number as text": (INTEGER, '"3"', 3),
    "a fraction as text": (NUMBER, '"-2.5"', -2.5),
    "False as text": (BOOLEAN, '"False"', False),
    "true as text": (BOOLEAN, '"true"', True),
    "a list as text": ({"type": "array", "items": INTEGER}, '"[1, 2]"', [1, 2]),
    "a list of texts as text": ({"type": "array", "items": STRING}, '"[\\"1\\"]"', ["1"]),
    "an object as text": ({"type": "object"}, '"{\\"x\\": 1}"', {"x": 1}),
    "an object as text behind a reference": ({"$ref": "#/$defs/point"}, '"{\\"x\\": \\"1\\"}"', {"x": 1}),
    "objects as texts in a list": (
        {"type": "array", "items": {"$ref": "#/$defs/point"}},
        '["{\\"x\\": 1}", {"x": "2"}]',
        [{"x": 1}, {"x": 2}],
    ),
    "a list as text where null is allowed": (
        {"anyOf": [{"type": "array", "items": INTEGER}, NULL]},
        '"[1]"',
        [1],
    ),
    "null where it is allowed": ({"anyOf": [INTEGER, NULL]}, "null", None),
    "digits for a text": (STRING, '"007"', "007"),
    "None as a word for a text": (STRING, '"None"', "None"),
    "a list as text for a text": (STRING, '"[1, 2]"', "[1, 2]"),
    "a call as text for a text": (
        STRING,
        '"<function=note>{\\"a\\": \\"x\\"}</function>"',
        '<function=note>{"a": "x"}</function>',
    ),
}

REFUSED: dict[str, tuple[Json, str, str]] = {
    "a fraction for a whole number": (INTEGER, '"3.5"', "integer"),
    "a number with a unit": (INTEGER, '"3 apples"', "integer"),
    "a word for a number": (NUMBER, '"three"', "number"),
    "a word for a boolean": (BOOLEAN, '"yes"', "boolean"),
    "a list for an object": ({"type": "object"}, '"[1]"', "object"),
    "half a list": ({"type": "array", "items": INTEGER}, '"[1, 2"', "array"),
    "null for a required value": (INTEGER, "null", "required|integer"),
    "None as a word for a number": ({"anyOf": [INTEGER, NULL]}, '"None"', "integer"),
    "no choice": ({"enum": ["small", "large"]}, '"medium"', "small.*large"),
    "out of range": ({**INTEGER, "maximum": 9}, '"10"', "9"),
    "a wrong value behind a reference": ({"$ref": "#/$defs/point"}, '{"x": "one"}', "integer"),
}

every_way = ways(native, function_tag, python_tag, bare, tool_call)


@table(COERCED, "schema, value, arrives")
@every_way
def test_values_are_read_by_the_schema_in_every_form(
    endpoint: Endpoint, render: Render, schema: Json, value: str, arrives: Any
) -> None:
    received: list[Json] = []
    tools = [note_tool(received, properties={"a": schema}, required=["a"], **DEFS)]
    result = play(endpoint, tools, render(f'{{"a": {value}}}'))
    assert received == [{"a": arrives}]
    assert type(received[0]["a"]) is type(arrives)
    assert result.text == "done"


@table(REFUSED, "schema, value, expected")
@every_way
def test_values_that_dont_fit_are_refused_in_every_form(
    endpoint: Endpoint, render: Render, schema: Json, value: str, expected: str
) -> None:
    received: list[Json] = []
    tools = [note_tool(received, properties={"a": schema}, required=["a"], **DEFS)]
    result = play(endpoint, tools, render(f'{{"a": {value}}}'))
    assert received == []
    assert failed(result)
    (line,) = [line for line in told(result).splitlines() if line.startswith("a")]
    assert re.search(expected, line)
    assert result.text == "done"


@every_way
def test_a_refusal_names_field_expectation_value_and_accepted_keys(
    endpoint: Endpoint, render: Render
) -> None:
    received: list[Json] = []
    properties = {"count": INTEGER, "label": STRING}
    tools = [note_tool(received, properties=properties, required=["count", "label"])]
    result = play(endpoint, tools, render('{"count": "two", "lable": "x"}'))
    assert received == []
    lines = told(result).splitlines()
    by_field = {line.partition(":")[0]: line for line in lines}
    assert re.search("integer.*'two'", by_field["count"])
    assert re.search("required|missing", by_field["label"])
    assert "did you mean label" in by_field["lable"]
    assert "count, label" in by_field["lable"]
    assert len(lines) <= MOST_LINES


@every_way
def test_an_invented_argument_with_a_value_is_never_dropped(endpoint: Endpoint, render: Render) -> None:
    received: list[Json] = []
    result = play(endpoint, [note_tool(received)], render('{"a": 1, "dry_run": true}'))
    assert received == []
    assert re.search("^dry_run: .*a, b", told(result), re.MULTILINE)


@pytest.mark.parametrize("value", ["null", '""', "[]", "{}"])
@every_way
def test_an_invented_argument_without_a_value_is_dropped(
    endpoint: Endpoint, render: Render, value: str
) -> None:
    received: list[Json] = []
    play(endpoint, [note_tool(received)], render(f'{{"a": 1, "dry_run": {value}}}'))
    assert received == [{"a": 1}]


@every_way
def test_null_for_an_optional_value_is_dropped(endpoint: Endpoint, render: Render) -> None:
    received: list[Json] = []
    tools = [note_tool(received, properties={"a": INTEGER, "b": INTEGER}, required=["a"])]
    play(endpoint, tools, render('{"a": 1, "b": null}'))
    assert received == [{"a": 1}]


@every_way
def test_arguments_within_parameters_are_unwrapped(endpoint: Endpoint, render: Render) -> None:
    received: list[Json] = []
    tools = [note_tool(received, properties={"a": INTEGER}, required=["a"])]
    play(endpoint, tools, render('{"parameters": {"a": "1"}}'))
    assert received == [{"a": 1}]


SCHEMA_ECHO = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


@every_way
def test_an_echo_of_the_schema_is_not_run(endpoint: Endpoint, render: Render) -> None:
    received: list[Json] = []
    tools = [note_tool(received, properties={"a": INTEGER}, required=["a"])]
    play(endpoint, tools, render(SCHEMA_ECHO))
    assert received == []


@every_way
def test_an_echo_of_the_schema_is_not_run_where_nothing_is_required(
    endpoint: Endpoint, render: Render
) -> None:
    received: list[Json] = []
    play(endpoint, [note_tool(received)], render(SCHEMA_ECHO))
    assert received == []


@pytest.mark.parametrize("form", ["python_tag", "bare"])
def test_arguments_that_are_encoded_in_a_call_as_text_are_decoded_once_and_not_into_calls(
    endpoint: Endpoint, form: str
) -> None:
    received: list[Json] = []
    inner = json.dumps({"a": json.dumps({"name": "note", "parameters": {"a": 1}})})
    play(endpoint, [note_tool(received)], {"python_tag": python_tag, "bare": bare}[form](json.dumps(inner)))
    assert received == [{"a": '{"name": "note", "parameters": {"a": 1}}'}]


# Values without types: (schema, text, what arrives).

UNTYPED: dict[str, tuple[Json, str, Any]] = {
    "a whole number": (INTEGER, "3", 3),
    "a fraction": (NUMBER, "2.5", 2.5),
    "a boolean": (BOOLEAN, "true", True),
    "Python's boolean": (BOOLEAN, "False", False),
    "digits for a text": (STRING, "007", "007"),
    "a word for a text": (STRING, "null", "null"),
    "a text of several lines": (STRING, "\nif a < b:\n    return\n", "if a < b:\n    return"),
    "a list": ({"type": "array", "items": INTEGER}, "[1, 2]", [1, 2]),
    "an object": ({"type": "object"}, '{"x": "1"}', {"x": "1"}),
    "an object for a text": (STRING, '{"x": 1}', '{"x": 1}'),
}


@table(UNTYPED, "schema, text, arrives")
def test_values_in_tags_get_their_types_from_the_schema(
    endpoint: Endpoint, schema: Json, text: str, arrives: Any
) -> None:
    received: list[Json] = []
    tools = [note_tool(received, properties={"a": schema}, required=["a"])]
    call = f"<tool_call>\n<function=note>\n<parameter=a>{text}</parameter>\n</function>\n</tool_call>"
    play(endpoint, tools, Reply(call))
    assert received == [{"a": arrives}]
    assert type(received[0]["a"]) is type(arrives)


# Names: what the model wrote for `take_note`.

NAMES_MENDED = {
    "functions": "functions.take_note",
    "tools": "tools/take_note",
    "default_api": "default_api.take_note",
    "a module": "notes.take_note",
    "a module within another": "a.b.take_note",
    "capitals": "TAKE_NOTE",
    "one capital": "Take_note",
    "a hyphen": "take-note",
    "a hyphen and capitals": "Take-Note",
    "a prefix and a hyphen": "functions.take-note",
}
NAMES_UNKNOWN = {
    "a letter more": "take_notes",
    "a letter less": "take_not",
    "a part": "note",
    "a longer name": "take_note_now",
    "another word": "write_note",
    "the name behind a hyphen": "functions-take_note",
    "the name before a dot": "take_note.run",
    "nothing": "",
    "blanks": "take note please",
}


def take_note_tool(received: list[Json], name: str = "take_note") -> Tool:
    made = note_tool(received)
    return Tool(name=name, description="Note.", parameters=made.parameters, function=made.function)


def native_named(name: str) -> Reply:
    return Reply(calls=[(name, {"a": 1})])


def bare_named(name: str) -> Reply:
    return Reply(json.dumps({"name": name, "parameters": {"a": 1}}))


def tagged_named(name: str) -> Reply:
    return Reply(f"<tool_call>{json.dumps({'name': name, 'arguments': {'a': 1}})}</tool_call>")


@pytest.mark.parametrize("name", NAMES_MENDED.values(), ids=NAMES_MENDED)
@ways(native_named, bare_named, tagged_named)
def test_a_name_that_means_one_tool_runs_it(endpoint: Endpoint, render: Render, name: str) -> None:
    received: list[Json] = []
    result = play(endpoint, [take_note_tool(received)], render(name))
    assert received == [{"a": 1}]
    assert [event.tool_name for event in result.events if isinstance(event, ToolStarted)] == ["take_note"]
    call = endpoint.requests[-1].messages[-2]["tool_calls"][0]
    assert call["function"]["name"] == "take_note"


@pytest.mark.parametrize("name", NAMES_UNKNOWN.values(), ids=NAMES_UNKNOWN)
def test_an_unknown_name_is_answered_with_the_names_on_offer(endpoint: Endpoint, name: str) -> None:
    received: list[Json] = []
    result = play(endpoint, [take_note_tool(received)], native_named(name))
    assert received == []
    assert failed(result)
    assert "take_note" in told(result)
    assert result.text == "done"


@pytest.mark.parametrize("name", NAMES_UNKNOWN.values(), ids=NAMES_UNKNOWN)
@ways(bare_named, tagged_named)
def test_an_unknown_name_in_a_call_as_text_runs_nothing(
    endpoint: Endpoint, render: Render, name: str
) -> None:
    received: list[Json] = []
    # Whether it is taken for text or answered with an error, the run ends well.
    endpoint.script(render(name), Always(Reply("done")))
    with agent_on(endpoint, [take_note_tool(received)]) as agent:
        result = agent.run("go")
    assert received == []
    assert result.stop_reason == "answered"


def test_a_name_that_means_two_tools_runs_neither(endpoint: Endpoint) -> None:
    first: list[Json] = []
    second: list[Json] = []
    tools = [take_note_tool(first), take_note_tool(second, "take-note")]
    result = play(endpoint, tools, native_named("TAKE_NOTE"))
    assert first == second == []
    assert "take_note" in told(result)
    assert "take-note" in told(result)


def test_a_name_that_is_a_tools_own_is_never_taken_for_another(endpoint: Endpoint) -> None:
    first: list[Json] = []
    second: list[Json] = []
    tools = [take_note_tool(first), take_note_tool(second, "take-note")]
    play(endpoint, tools, native_named("take-note"))
    assert (first, second) == ([], [{"a": 1}])


# Several calls in one reply.


def test_a_bad_call_doesnt_keep_its_siblings_from_running(endpoint: Endpoint) -> None:
    received: list[Json] = []
    calls = [("note", '{"a": 1}'), ("note", '{"a": "x'), ("note", "{'a': 3}")]
    result = play(endpoint, [note_tool(received)], Reply(calls=calls))
    assert sorted(received, key=str) == [{"a": 1}, {"a": 3}]
    assert [outcome.error for outcome in outcomes(result)] == [False, True, False]
    assert replayed(endpoint) == [{"a": 1}, {}, {"a": 3}]


def test_a_bad_call_as_text_doesnt_keep_its_siblings_from_running(endpoint: Endpoint) -> None:
    received: list[Json] = []
    calls = ['{"a": 1}', '{"a": "x}', '{"a": 3}']
    text = "".join(f"<function=note>{raw}</function>" for raw in calls)
    result = play(endpoint, [note_tool(received)], Reply(text))
    assert {"a": 1} in received
    assert {"a": "x}"} not in received
    assert any(outcome.error for outcome in outcomes(result))


# In Haystack's own agent.


@pytest.mark.parametrize("way", ["sync", "async"])
@ways(native, function_tag, bare)
def test_haystacks_own_agent_runs_what_was_mended(endpoint: Endpoint, render: Render, way: str) -> None:
    received: list[Json] = []
    endpoint.script(render("{'a': True,}"), Reply("done"))
    result = haystacks(endpoint, [note_tool(received)], way)
    assert received == [{"a": True}]
    assert result["last_message"].text == "done"
    assert replayed(endpoint) == [{"a": True}]


@pytest.mark.parametrize("raw", ['{"a": 1}{"a": 2}', '{"a": NaN}', '{"a": "he said "hi""}'])
@pytest.mark.parametrize("way", ["sync", "async"])
@ways(native, function_tag)
def test_haystacks_own_agent_runs_nothing_that_was_guessed(
    endpoint: Endpoint, render: Render, raw: str, way: str
) -> None:
    received: list[Json] = []

    def note(a: Any = None) -> str:
        received.append({"a": a})
        return "ran"

    schema = {"type": "object", "properties": {"a": {}}}
    noting = Tool(name="note", description="Note.", parameters=schema, function=note)
    endpoint.script(render(raw), Reply("done"))
    result = haystacks(endpoint, [noting], way)
    assert received == []
    assert result["last_message"].text == "done"
    assert replayed(endpoint) == [{}]


def haystacks(endpoint: Endpoint, tools: list[Tool], way: str) -> dict[str, Any]:
    agent = HaystackAgent(chat_generator=generator(endpoint), tools=tools)
    messages = [ChatMessage.from_user("go")]

    async def go() -> dict[str, Any]:
        try:
            return await agent.run_async(messages=messages)
        finally:
            await agent.close_async()

    if way == "async":
        return asyncio.run(go())
    try:
        return agent.run(messages=messages)
    finally:
        agent.close()
