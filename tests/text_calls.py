"""
Replies in which a tool call is written as text, in every form that models write, and what has to come of it.

`TEXTS` is the table, by form; `TOOLS` what is on offer. Negatives are half of it: what only looks like a call
stays text, whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from haystack.tools.tool import Tool

Call = tuple[str, dict[str, Any]]

ANYTHING: Final = "<anything>"
"""As `Text.left`: what remains of the text beside its calls is not settled."""


def _given(**arguments: Any) -> str:
    return f"got {sorted(arguments.items())}"


def _tool(name: str, required: Sequence[str] = (), /, **properties: Mapping[str, Any]) -> Tool:
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    return Tool(name=name, description=f"Do what {name} does.", parameters=schema, function=_given)


STRING, INTEGER = {"type": "string"}, {"type": "integer"}
TOOLS = {
    tool.name: tool
    for tool in (
        _tool("add", ["a", "b"], a=INTEGER, b=INTEGER),
        _tool("now"),
        _tool("greet", ["name"], name=STRING),
        _tool("note", ["text"], text=STRING),
        _tool("write", ["path", "content"], path=STRING, content=STRING),
        _tool("search", ["query"], query=STRING, limit=INTEGER, tags={"type": "array", "items": STRING}),
        _tool(
            "get_weather",
            ["city"],
            city=STRING,
            days=INTEGER,
            exact={"type": "boolean"},
            factor={"type": "number"},
            unit={"enum": ["C", "F"]},
        ),
        _tool("configure", ["settings"], settings={"type": "object"}, note={"type": ["string", "null"]}),
        _tool("brave_search", ["query"], query=STRING),
        _tool("wolfram_alpha", ["query"], query=STRING),
        _tool("code_interpreter", ["code"], code=STRING),
        _tool("python", ["code"], code=STRING),
        _tool("shell", ["command", "folder"], command=STRING, folder=STRING),
        _tool("look_up", ["word"], word=STRING),
        _tool("look-up", ["word"], word=STRING),
        _tool("define", ["type", "properties"], type=STRING, properties={"type": "object"}),
    )
}
USUAL = ("add", "now", "greet", "note", "write", "search", "get_weather", "configure")
"""What is on offer where a text says nothing else."""


@dataclass(frozen=True)
class Text:
    """
    What a model wrote, and what has to come of it.

    :param id: Form, and what is special about it.
    :param calls: Calls that run, in order.
    :param broken: Names of calls that are marked malformed: never run, the model is told.
    :param left: Text beside the calls; white space doesn't matter. None: nothing is left.
    :param format: As in `meta["tool_call_format"]`; None where there is no call.
    :param tools: Names on offer.
    :param finish_reason: What the server says.
    :param settings: Of the generator.
    """

    id: str
    text: str
    calls: tuple[Call, ...] = ()
    broken: tuple[str, ...] = ()
    left: str | None = None
    format: str | None = None
    tools: tuple[str, ...] = USUAL
    finish_reason: str = "stop"
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def is_call(self) -> bool:
        """Whether anything of it is a call, good or broken."""
        return bool(self.calls or self.broken)


class Form:
    """
    The texts of one form.

    :param name: Starts their ids.
    :param format: What their calls are marked with.
    :param settings: Of the generator.
    """

    def __init__(self, name: str, format: str, **settings: Any) -> None:
        self.name, self.format, self.settings = name, format, tuple(settings.items())
        self.texts: list[Text] = []

    def _put(self, id_: str, text: str, **fields: Any) -> None:
        self.texts.append(Text(f"{self.name}-{id_}", text, settings=self.settings, **fields))

    def call(self, id_: str, text: str, *calls: Call, **fields: Any) -> None:
        """A text whose calls run; `left=` says what else there is, `broken=` which calls don't run."""
        self._put(id_, text, calls=calls, **{"format": self.format, **fields})

    def broken(self, id_: str, text: str, *names: str, **fields: Any) -> None:
        """A text whose calls, of these tools, are never run but said to be malformed."""
        self._put(id_, text, broken=names, **{"format": self.format, **fields})

    def text(self, id_: str, text: str, *, left: str | None = None, **fields: Any) -> None:
        """A text that stays one, whole but for what `left` lacks."""
        self._put(id_, text, left=text if left is None else left, **fields)


ADD: Call = ("add", {"a": 2, "b": 3})
NOW: Call = ("now", {})
ADD_JSON = '{"name": "add", "parameters": {"a": 2, "b": 3}}'
ADD_ARGUMENTS = '{"name": "add", "arguments": {"a": 2, "b": 3}}'
NOW_JSON = '{"name": "now", "parameters": {}}'
NOW_ARGUMENTS = '{"name": "now", "arguments": {}}'
LAUNCH_JSON = '{"name": "launch", "parameters": {"a": 2}}'
LAUNCH_ARGUMENTS = '{"name": "launch", "arguments": {"a": 2}}'
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}'
TAGS = "</tool_call></function><|eom_id|>}]; ```json [TOOL_CALLS] <think>"
TAGS_JSON = f'{{"name": "note", "parameters": {{"text": "{TAGS}"}}}}'
TAGS_ARGUMENTS = f'{{"name": "note", "arguments": {{"text": "{TAGS}"}}}}'
TAGS_CALL: Call = ("note", {"text": TAGS})
FENCE = "```"

# 1 to 3: one bare JSON object

_json = Form("json", "json")
_json.call("plain", ADD_JSON, ADD)
_json.call("arguments", ADD_ARGUMENTS, ADD)
_json.call("no-blanks", '{"name":"add","parameters":{"a":2,"b":3}}', ADD)
_json.call(
    "pretty", '{\n    "name": "add",\n    "parameters": {\n        "a": 2,\n        "b": 3\n    }\n}', ADD
)
_json.call("white-space-around", f"\n\n  {ADD_JSON} \n", ADD)
_json.call("parameters-first", '{"parameters": {"a": 2, "b": 3}, "name": "add"}', ADD)
_json.call("type", '{"type": "function", "name": "add", "parameters": {"a": 2, "b": 3}}', ADD)
_json.call("type-last", '{"name": "add", "parameters": {"a": 2, "b": 3}, "type": "function"}', ADD)
_json.call(
    "nested-parameters",
    '{"type": "function", "function": {"name": "add", "parameters": {"a": 2, "b": 3}}}',
    ADD,
)
_json.call("nested-arguments", f'{{"type": "function", "function": {ADD_ARGUMENTS}}}', ADD)
_json.call("nested-without-type", f'{{"function": {ADD_ARGUMENTS}}}', ADD)
_json.call("nested-with-id", f'{{"id": "call_7", "type": "function", "function": {ADD_ARGUMENTS}}}', ADD)
_json.call("arguments-as-text", r'{"name": "add", "arguments": "{\"a\": 2, \"b\": 3}"}', ADD)
_json.call("null-where-nothing-is-required", '{"name": "now", "parameters": null}', NOW)
_json.call("empty-where-nothing-is-required", NOW_JSON, NOW)
_json.call("trailing-prose", f"{ADD_JSON}\nI wait for the sum.", ADD, left="I wait for the sum.")
_json.call("end-token", f"{ADD_JSON}<|eom_id|>", ADD)
_json.call("end-tokens", f"{ADD_JSON}<|eom_id|><|eot_id|>\n", ADD)
_json.call("end-token-and-prose", f"{ADD_JSON}<|eot_id|>I wait.", ADD, left="I wait.")
_json.call("prefix-functions", '{"name": "functions.add", "parameters": {"a": 2, "b": 3}}', ADD)
_json.call("prefix-tools", '{"name": "tools/add", "parameters": {"a": 2, "b": 3}}', ADD)
_json.call("prefix-default-api", '{"name": "default_api.add", "parameters": {"a": 2, "b": 3}}', ADD)
_json.call("prefix-dotted", '{"name": "my.server.add", "parameters": {"a": 2, "b": 3}}', ADD)
_json.call("name-case", '{"name": "ADD", "parameters": {"a": 2, "b": 3}}', ADD)
_json.call(
    "name-hyphen",
    '{"name": "Get-Weather", "parameters": {"city": "Oslo"}}',
    ("get_weather", {"city": "Oslo"}),
)
_json.call(
    "exact-name-among-similar",
    '{"name": "look-up", "parameters": {"word": "llama"}}',
    ("look-up", {"word": "llama"}),
    tools=("look_up", "look-up"),
)
_json.call(
    "unicode",
    '{"name": "note", "parameters": {"text": "größer 🦙 “so”"}}',
    ("note", {"text": "größer 🦙 “so”"}),
)
_json.call(
    "escapes",
    r'{"name": "note", "parameters": {"text": "\u00e9 \"q\" \\ \/ \n \ud83e\udd99"}}',
    ("note", {"text": 'é "q" \\ / \n 🦙'}),
)
_json.call("tags-in-a-string", TAGS_JSON, TAGS_CALL)
_json.call(
    "call-in-a-string",
    r'{"name": "note", "parameters": {"text": "{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 1}}"}}',
    ("note", {"text": '{"name": "add", "parameters": {"a": 1, "b": 1}}'}),
)
_json.call(
    "deep",
    '{"name": "configure", "parameters": {"settings": {"a": [{"b": {"c": [[]]}}, null, true, -1.5e3]}}}',
    ("configure", {"settings": {"a": [{"b": {"c": [[]]}}, None, True, -1500.0]}}),
)
_json.call(
    "argument-called-name", '{"name": "greet", "parameters": {"name": "add"}}', ("greet", {"name": "add"})
)
_json.call(
    "arguments-that-look-like-a-schema-where-they-are-some",
    '{"name": "define", "parameters": {"type": "object", "properties": {"x": {}}}}',
    ("define", {"type": "object", "properties": {"x": {}}}),
    tools=("define",),
)
_json.call(
    "last-brace-missing",
    '{"type": "function", "function": {"name": "add", "parameters": {"a": 2, "b": 3}}',
    ADD,
)
_json.broken("cut-in-a-key", '{"name": "add", "parameters": {"a": 2, "b', "add", finish_reason="length")
_json.broken("cut-in-a-string", '{"name": "note", "parameters": {"text": "Once upon', "note")
_json.broken(
    "cut-after-a-value", '{"name": "add", "parameters": {"a": 2, "b": 3', "add", finish_reason="length"
)
_json.broken("cut-in-a-list", '{"name": "search", "parameters": {"query": "x", "tags": ["a", "b"', "search")
_json.text("cut-in-the-name", '{"name": "ad', finish_reason="length")
_json.text("cut-and-unknown", '{"name": "launch", "parameters": {"a": 2', finish_reason="length")
_json.text("unknown-name", LAUNCH_JSON)
_json.text("part-of-a-name", '{"name": "ad", "parameters": {"a": 2, "b": 3}}')
_json.text("more-than-a-name", '{"name": "add_two", "parameters": {"a": 2, "b": 3}}')
_json.text(
    "name-among-similar", '{"name": "Look_Up", "parameters": {"word": "x"}}', tools=("look_up", "look-up")
)
_json.text("name-is-no-string", '{"name": ["add"], "parameters": {"a": 2, "b": 3}}')
_json.text("two-names", '{"name": "add", "name": "now", "parameters": {"a": 2, "b": 3}}')
_json.text("no-name", '{"parameters": {"a": 2, "b": 3}}')
_json.text("no-parameters", '{"name": "now"}')
_json.text("no-parameters-but-others", '{"name": "add", "a": 2, "b": 3}')
_json.text("parameters-are-a-list", '{"name": "add", "parameters": [2, 3]}')
_json.text("parameters-are-a-number", '{"name": "now", "parameters": 5}')
_json.text("schema-echo", f'{{"name": "add", "parameters": {SCHEMA}}}')
_json.text(
    "definition-echo",
    f'{{"type": "function", "function": {{"name": "add", "description": "Add.", "parameters": {SCHEMA}}}}}',
)
_json.text("prose-before", f"I call this: {ADD_JSON}")
_json.text("prose-before-on-its-own-line", f"Let me add them.\n\n{ADD_JSON}")
_json.text("prose-around", f"First {ADD_JSON}, then we see.")
_json.text("other-json", '{"answer": 5, "unit": "apples"}')
_json.text("person", '{"name": "Ada", "age": 36}')
_json.text("prose", "The tool add takes the parameters a and b; its name is add.")
_json.text("thought", f"<think>I could write {ADD_JSON}</think>\nThe sum is 5.")
_json.text("thought-that-began-in-the-prompt", f"{ADD_JSON} would do.</think>\n\nThe sum is 5.")
_json.text("inline-code", f"`{ADD_JSON}`")
_json.text("quoted", r'"{\"name\": \"add\", \"parameters\": {\"a\": 2, \"b\": 3}}"')
_json.text("not-quite-json", '{"name" "add", "parameters" {"a": 2, "b": 3}}')
_json.text("only-a-brace", "{")
_json.text("set-notation", "{1, 2, 3} is a set.")
_json.text("answer-and-end-token", "The sum is 5.<|eot_id|>", left="The sum is 5.")
_json.text("token-within", "Llama ends a turn by <|eot_id|> and a call by <|eom_id|> since version 3.1.")

# 4 and 5: several

_several = Form("several", "json")
for _name, _between in {
    "semicolon": ";", "semicolon-blank": "; ", "newline": "\n", "blank": " ", "nothing": "",
    "semicolon-newline": ";\n", "blank-lines": "\n\n\n",
}.items():  # fmt: skip
    _several.call(_name, f"{ADD_JSON}{_between}{NOW_JSON}", ADD, NOW)
_several.call("three-alike", "; ".join([ADD_JSON] * 2 + [NOW_JSON]), ADD, ADD, NOW)
_several.call(
    "mixed-forms",
    f'{ADD_JSON}; {{"type": "function", "function": {NOW_ARGUMENTS}}}; {TAGS_ARGUMENTS}',
    ADD,
    NOW,
    TAGS_CALL,
)
_several.call("list", f"[{ADD_JSON}, {NOW_JSON}]", ADD, NOW)
_several.call("list-of-one", f"[{ADD_ARGUMENTS}]", ADD)
_several.call("list-pretty", f"[\n  {ADD_ARGUMENTS},\n  {NOW_ARGUMENTS}\n]\n", ADD, NOW)
_several.call("list-of-nested", f'[{{"type": "function", "function": {ADD_ARGUMENTS}}}]', ADD)
_several.call("list-with-tags-in-a-string", f"[{TAGS_JSON}, {ADD_JSON}]", TAGS_CALL, ADD)
_several.call("list-and-prose", f"[{ADD_JSON}]\nI wait.", ADD, left="I wait.")
_several.call("list-and-end-token", f"[{ADD_JSON}]<|eot_id|>", ADD)
_several.call("tool-calls", f'{{"tool_calls": [{ADD_JSON}, {NOW_ARGUMENTS}]}}', ADD, NOW)
_several.call(
    "tool-calls-as-openai-has-them",
    r'{"tool_calls": [{"id": "call_1", "type": "function", "function":'
    r' {"name": "add", "arguments": "{\"a\": 2, \"b\": 3}"}}]}',
    ADD,
)
_several.call("function-call", f'{{"function_call": {ADD_ARGUMENTS}}}', ADD)
_several.call(
    "function-call-as-openai-had-it",
    r'{"function_call": {"name": "add", "arguments": "{\"a\": 2, \"b\": 3}"}}',
    ADD,
)
_several.call("prose-after", f"{ADD_JSON}; {NOW_JSON}\nI wait.", ADD, NOW, left="I wait.")
_several.call(
    "separator-in-a-string",
    '{"name": "note", "parameters": {"text": "a; {b}; c"}}; {"name": "now", "parameters": {}}',
    ("note", {"text": "a; {b}; c"}),
    NOW,
)
_several.call(
    "second-is-cut",
    f'{ADD_JSON}; {{"name": "note", "parameters": {{"text": "Once upon',
    ADD,
    broken=("note",),
    finish_reason="length",
)
_several.call(
    "list-whose-second-is-cut",
    f'[{ADD_JSON}, {{"name": "note", "parameters": {{"text": "Once upon',
    ADD,
    broken=("note",),
    finish_reason="length",
)
_several.call("second-is-unknown", f"{ADD_JSON}; {LAUNCH_JSON}", ADD, left=ANYTHING)
_several.text("all-unknown", f"{LAUNCH_JSON}; {LAUNCH_JSON}")
_several.text("list-of-unknown", f"[{LAUNCH_JSON}]")
_several.text("list-of-people", '[{"name": "Ada", "age": 36}, {"name": "Alan", "age": 41}]')
_several.text("list-of-numbers", "[1, 2, 3]")
_several.text("empty-list", "[]")
_several.text("empty-object", "{}")
_several.text("tool-calls-empty", '{"tool_calls": []}')
_several.text("tool-calls-null", '{"tool_calls": null, "content": "5"}')
_several.text("tool-calls-unknown", f'{{"tool_calls": [{LAUNCH_JSON}]}}')
_several.text("tool-calls-without-arguments", '{"tool_calls": [{"name": "now"}]}')
_several.text("function-call-auto", '{"function_call": "auto"}')
_several.text("list-of-definitions", f'[{{"name": "add", "parameters": {SCHEMA}}}]')
_several.text("prose-before-a-list", f"I call: [{ADD_JSON}]")
_several.text("list-in-a-list", f"[[[{ADD_JSON}]]]")
_several.text("list-in-inline-code", f"`[{ADD_JSON}]`")

# 6 to 8: <|python_tag|>

TAG = "<|python_tag|>"
CODE = ("add", "now", "code_interpreter")
_tag = Form("python_tag", "python_tag")
_tag.call("json", f"{TAG}{ADD_JSON}", ADD)
_tag.call("json-and-eom", f"{TAG}{ADD_JSON}<|eom_id|>", ADD)
_tag.call("json-and-eot", f"{TAG}{ADD_JSON}<|eot_id|>", ADD)
_tag.call("newline", f"{TAG}\n{ADD_JSON}\n", ADD)
_tag.call("type", f'{TAG}{{"type": "function", "name": "add", "parameters": {{"a": 2, "b": 3}}}}', ADD)
_tag.call("nested", f'{TAG}{{"type": "function", "function": {ADD_ARGUMENTS}}}', ADD)
_tag.call("several", f"{TAG}{ADD_JSON}; {NOW_JSON}<|eom_id|>", ADD, NOW)
_tag.call("several-newline", f"{TAG}{ADD_JSON}\n{NOW_JSON}", ADD, NOW)
_tag.call("list", f"{TAG}[{ADD_JSON}, {NOW_JSON}]", ADD, NOW)
_tag.call("two-tags", f"{TAG}{ADD_JSON}\n{TAG}{NOW_JSON}", ADD, NOW)
_tag.call("prose-before", f"Let me add them.\n{TAG}{ADD_JSON}", ADD, left="Let me add them.")
_tag.call("prose-before-in-line", f"Let me add them. {TAG}{ADD_JSON}", ADD, left="Let me add them.")
_tag.call("thought-before", f"<think>Hmm, a sum.</think>{TAG}{ADD_JSON}", ADD, left=ANYTHING)
_tag.call("tags-in-a-string", f"{TAG}{TAGS_JSON}", TAGS_CALL)
_tag.call(
    "itself-in-a-string",
    f'{TAG}{{"name": "note", "parameters": {{"text": "{TAG}{{}}"}}}}',
    ("note", {"text": f"{TAG}{{}}"}),
)
_tag.call(
    "brave-search",
    f'{TAG}brave_search.call(query="llamas in Peru")',
    ("brave_search", {"query": "llamas in Peru"}),
    tools=("add", "brave_search"),
)
_tag.call(
    "brave-search-eom",
    f"{TAG}brave_search.call(query='llamas')<|eom_id|>",
    ("brave_search", {"query": "llamas"}),
    tools=("add", "brave_search"),
)
_tag.call(
    "wolfram-alpha",
    f'{TAG}wolfram_alpha.call(query="solve x^2 = 2")',
    ("wolfram_alpha", {"query": "solve x^2 = 2"}),
    tools=("wolfram_alpha",),
)
_tag.call(
    "whole-message-without-the-tag",
    'brave_search.call(query="a (b) \\"c\\"")',
    ("brave_search", {"query": 'a (b) "c"'}),
    tools=("brave_search",),
)
_tag.call("code", f"{TAG}print(2 + 3)", ("code_interpreter", {"code": "print(2 + 3)"}), tools=CODE)
_tag.call(
    "code-of-several-lines",
    f'{TAG}import math\n\nfor n in range(3):\n    print(math.sqrt(n), "{{")<|eom_id|>',
    ("code_interpreter", {"code": 'import math\n\nfor n in range(3):\n    print(math.sqrt(n), "{")'}),
    tools=CODE,
)
_tag.call("code-for-python", f"{TAG}1 / 3", ("python", {"code": "1 / 3"}), tools=("add", "python"))
_tag.call(
    "code-after-prose",
    f"Let me compute.\n{TAG}print(1)",
    ("code_interpreter", {"code": "print(1)"}),
    left="Let me compute.",
    tools=CODE,
)
_tag.broken("cut", f'{TAG}{{"name": "add", "parameters": {{"a": 2', "add", finish_reason="length")
_tag.broken("cut-in-a-string", f'{TAG}{{"name": "note", "parameters": {{"text": "On', "note")
_tag.call(
    "second-cut",
    f'{TAG}{ADD_JSON}; {{"name": "note", "parameters": {{"te',
    ADD,
    broken=("note",),
    finish_reason="length",
)
_tag.text("unknown", f"{TAG}{LAUNCH_JSON}", left=ANYTHING)
_tag.text("code-without-a-tool", f"{TAG}print(2 + 3)", left=ANYTHING)
_tag.text("code-for-two-parameters", f"{TAG}ls -l", left=ANYTHING, tools=("shell", "add"))
_tag.text("call-of-unknown", f'{TAG}launch.call(query="x")', left=ANYTHING)
_tag.text("positional", f'{TAG}brave_search.call("llamas")', left=ANYTHING, tools=("brave_search",))
_tag.text("call-in-prose", 'Llama wrote brave_search.call(query="x") there.', tools=("brave_search",))
_tag.text("in-a-thought", f"<think>{TAG}{ADD_JSON}</think>The sum is 5.")
_tag.text("in-a-fence", f"So:\n\n{FENCE}\n{TAG}{ADD_JSON}\n{FENCE}\n\nThat is it.")
_tag.text("in-inline-code", f"Llama writes `{TAG}{ADD_JSON}` for this.")
_tag.text("prose", f"The tag {TAG} begins a call, and <|eom_id|> ends it.")
_tag.text("half-a-marker", "<|python_")
_tag.text("definition-echo", f'{TAG}{{"name": "add", "parameters": {SCHEMA}}}', left=ANYTHING)

# 9 and 10: <function=...>

_function = Form("function_tag", "function_tag")
_function.call("plain", '<function=add>{"a": 2, "b": 3}</function>', ADD)
_function.call("no-end", '<function=add>{"a": 2, "b": 3}', ADD)
_function.call("no-bracket", '<function=add{"a": 2, "b": 3}</function>', ADD)
_function.call("late-bracket", '<function=add{"a": 2, "b": 3}></function>', ADD)
_function.call("name-attribute", '<function name="add">{"a": 2, "b": 3}</function>', ADD)
_function.call("newlines", '<function=add>\n{\n  "a": 2,\n  "b": 3\n}\n</function>\n', ADD)
_function.call("end-token", '<function=add>{"a": 2, "b": 3}</function><|eom_id|>', ADD)
_function.call("nothing-required", "<function=now>{}</function>", NOW)
_function.call("nothing-required-and-nothing-given", "<function=now></function>", NOW)
_function.call(
    "prose-around",
    'I add.\n<function=add>{"a": 2, "b": 3}</function>\nThen we see.',
    ADD,
    left="I add. Then we see.",
)
_function.call("prose-in-line", 'I add <function=add>{"a": 2, "b": 3}</function>', ADD, left="I add")
_function.call("several", '<function=add>{"a": 2, "b": 3}</function><function=now>{}</function>', ADD, NOW)
_function.call(
    "several-on-lines", '<function=add>{"a": 2, "b": 3}</function>\n<function=now>{}</function>', ADD, NOW
)
_function.call("several-without-ends", '<function=add>{"a": 2, "b": 3}\n<function=now>{}', ADD, NOW)
_function.call(
    "nested-braces",
    '<function=configure>{"settings": {"a": {"b": {}}, "c": "}"}}</function>',
    ("configure", {"settings": {"a": {"b": {}}, "c": "}"}}),
)
_function.call("tags-in-a-string", f'<function=note>{{"text": "{TAGS}"}}</function>', TAGS_CALL)
_function.call(
    "apostrophe", '<function=note>{"text": "it\'s Ada\'s"}</function>', ("note", {"text": "it's Ada's"})
)
_function.call("prefix", '<function=functions.add>{"a": 2, "b": 3}</function>', ADD)
_function.call("trailing-comma", '<function=add>{"a": 2, "b": 3,}</function>', ADD)
_function.call(
    "one-of-two-is-unknown",
    '<function=launch>{"x": 1}</function><function=add>{"a": 2, "b": 3}</function>',
    ADD,
    left=ANYTHING,
)
_function.broken("cut", '<function=add>{"a": 2, "b', "add", finish_reason="length")
_function.broken("cut-in-a-string", '<function=note>{"text": "Once upon', "note", finish_reason="length")
_function.broken("cut-after-the-tag", "<function=add>", "add", finish_reason="length")
_function.broken("no-json", "<function=add>a=2, b=3</function>", "add")
_function.broken("two-objects", '<function=add>{"a": 2}{"b": 3}</function>', "add")
_function.text("unknown", '<function=launch>{"a": 2}</function>')
_function.text("unknown-attribute", '<function name="launch">{"a": 2}</function>')
_function.text("cut-in-the-name", "<function=ad", finish_reason="length")
_function.text("other-tag", '<functions>add</functions> and <function>{"a": 2}</function>')
_function.text("cpp", "Use std::function<int(int)> or <functional> there.")
_function.text("in-a-fence", f'{FENCE}xml\n<function=add>{{"a": 2, "b": 3}}</function>\n{FENCE}')
_function.text("in-inline-code", 'Write `<function=add>{"a": 2, "b": 3}</function>` for it.')
_function.text("in-a-thought", '<think><function=add>{"a": 2, "b": 3}</function></think>No: 5.')
_function.text("prose", "A call opens by <function= and the tool's name, as add.")

# 11: Python's own calls

_pythonic = Form("pythonic", "pythonic")
_pythonic.call("plain", "[add(a=2, b=3)]", ADD)
_pythonic.call("no-blanks", "[add(a=2,b=3)]", ADD)
_pythonic.call("no-arguments", "[now()]", NOW)
_pythonic.call("several", "[add(a=2, b=3), now()]", ADD, NOW)
_pythonic.call("newlines", "[\n    add(a=2, b=3),\n    now(),\n]\n", ADD, NOW)
_pythonic.call("single-quotes", "[greet(name='Ada')]", ("greet", {"name": "Ada"}))
_pythonic.call("double-quotes", '[greet(name="Ada\'s")]', ("greet", {"name": "Ada's"}))
_pythonic.call("escapes", r"[note(text='a\nb\\ \'q\' é')]", ("note", {"text": "a\nb\\ 'q' é"}))
_pythonic.call(
    "containers",
    "[search(query='x', tags=['a', \"b\"]), configure(settings={'a': [1, {'b': None}]})]",
    ("search", {"query": "x", "tags": ["a", "b"]}),
    ("configure", {"settings": {"a": [1, {"b": None}]}}),
)
_pythonic.call(
    "python-constants",
    "[configure(settings={'a': True, 'b': False}, note=None)]",
    ("configure", {"settings": {"a": True, "b": False}, "note": None}),
)
_pythonic.call(
    "json-constants",
    "[configure(settings={'a': true, 'b': false}, note=null)]",
    ("configure", {"settings": {"a": True, "b": False}, "note": None}),
)
_pythonic.call("minus", "[add(a=-2, b=-3)]", ("add", {"a": -2, "b": -3}))
_pythonic.call(
    "float", "[get_weather(city='Oslo', factor=-1.5)]", ("get_weather", {"city": "Oslo", "factor": -1.5})
)
_pythonic.call("brackets-in-a-string", "[note(text='])([{')]", ("note", {"text": "])([{"}))
_pythonic.call("tags-in-a-string", f"[note(text='{TAGS}')]", TAGS_CALL)
_pythonic.call("call-in-a-string", "[note(text='add(a=1, b=1)')]", ("note", {"text": "add(a=1, b=1)"}))
_pythonic.call("prefix", "[functions.add(a=2, b=3)]", ADD)
_pythonic.call("end-token", "[add(a=2, b=3)]<|eot_id|>", ADD)
_pythonic.call("trailing-prose", "[add(a=2, b=3)]\nI wait.", ADD, left="I wait.")
_pythonic.call("white-space-around", "\n  [add(a=2, b=3)]  ", ADD)
_pythonic.text("unknown", "[launch(a=2)]")
_pythonic.text("positional", "[add(2, 3)]")
_pythonic.text("nested-call", "[add(a=add(a=1, b=1), b=3)]")
_pythonic.text("variable", "[add(a=x, b=y)]")
_pythonic.text("expression", "[add(a=1 + 1, b=3)]")
_pythonic.text("f-string", "[note(text=f'{x}')]")
_pythonic.text("bytes", "[note(text=b'x')]")
_pythonic.text("stars", "[add(**{'a': 2, 'b': 3})]")
_pythonic.text("lambda", "[note(text=lambda: 1)]")
_pythonic.text("comprehension", "[add(a=2, b=3) for _ in range(3)]")
_pythonic.text("same-argument-twice", "[add(a=2, a=3, b=1)]")
_pythonic.text("without-brackets", "add(a=2, b=3)")
_pythonic.text("link", "[add](https://example.org/add) is documented.")
_pythonic.text("link-that-looks-like-a-call", "[add()](https://example.org/add) adds.")
_pythonic.text("footnote", "[1] See the manual.")
_pythonic.text("list-of-words", "['add', 'now']")
_pythonic.text("prose-before", "I would call [add(a=2, b=3)]")
_pythonic.text("in-inline-code", "`[add(a=2, b=3)]` is the call.")
_pythonic.text("in-a-thought", "<think>[add(a=2, b=3)]</think>The sum is 5.")
_pythonic.text("set", "[configure(settings={1, 2})]")
_pythonic.text("attribute", "[add(a=2, b=3).real]")
_pythonic.text("subscript", "[add(a=2, b=3)[0]]")
_pythonic.text("cut-in-the-name", "[ad", finish_reason="length")

# 12: <|python_start|>

START, END = "<|python_start|>", "<|python_end|>"
_start = Form("python_start", "python_start")
_start.call("pythonic", f"{START}[add(a=2, b=3)]{END}", ADD)
_start.call("pythonic-several", f"{START}[add(a=2, b=3), now()]{END}", ADD, NOW)
_start.call("json", f"{START}{ADD_JSON}{END}", ADD)
_start.call("json-several", f"{START}{ADD_JSON}; {NOW_JSON}{END}", ADD, NOW)
_start.call("json-list", f"{START}[{ADD_JSON}, {NOW_JSON}]{END}", ADD, NOW)
_start.call("no-end", f"{START}[add(a=2, b=3)]", ADD)
_start.call("eom", f"{START}[add(a=2, b=3)]{END}<|eom|>", ADD)
_start.call("eot", f"{START}[add(a=2, b=3)]{END}<|eot|>", ADD)
_start.call("newlines", f"{START}\n[add(a=2, b=3)]\n{END}\n", ADD)
_start.call("prose-before", f"Let me add.\n{START}[add(a=2, b=3)]{END}", ADD, left="Let me add.")
_start.call("prose-around", f"I add.{START}[add(a=2, b=3)]{END}And wait.", ADD, left=ANYTHING)
_start.call("two-blocks", f"{START}[add(a=2, b=3)]{END}\n{START}[now()]{END}", ADD, NOW)
_start.call(
    "tags-in-a-string", f"{START}[note(text='{END} {TAGS}')]{END}", ("note", {"text": f"{END} {TAGS}"})
)
_start.broken("json-cut", f'{START}{{"name": "add", "parameters": {{"a": 2', "add", finish_reason="length")
_start.text("unknown", f"{START}[launch(a=2)]{END}", left=ANYTHING)
_start.text("nested-unknown", f"{START}[launch(a=add(a=1, b=2))]{END}", left=ANYTHING)
_start.text("nothing", f"{START}{END}", left=ANYTHING)
_start.text("in-a-fence", f"{FENCE}\n{START}[add(a=2, b=3)]{END}\n{FENCE}")
_start.text("in-inline-code", f"Llama 4 writes `{START}[add(a=2, b=3)]{END}`.")
_start.text("in-a-thought", f"<think>{START}[add(a=2, b=3)]{END}</think>It is 5.")
_start.text("prose", f"The markers {START} and {END} enclose calls, as of add.")

# 13: <tool_call> around JSON

_hermes = Form("tool_call", "tool_call")
_hermes.call("plain", f"<tool_call>{ADD_ARGUMENTS}</tool_call>", ADD)
_hermes.call("newlines", f"<tool_call>\n{ADD_ARGUMENTS}\n</tool_call>", ADD)
_hermes.call("parameters", f"<tool_call>{ADD_JSON}</tool_call>", ADD)
_hermes.call("no-end", f"<tool_call>\n{ADD_ARGUMENTS}", ADD)
_hermes.call("no-end-but-a-token", f"<tool_call>\n{ADD_ARGUMENTS}<|im_end|>", ADD)
_hermes.call(
    "several", f"<tool_call>{ADD_ARGUMENTS}</tool_call>\n<tool_call>{NOW_ARGUMENTS}</tool_call>", ADD, NOW
)
_hermes.call("several-without-ends", f"<tool_call>{ADD_ARGUMENTS}\n<tool_call>{NOW_ARGUMENTS}", ADD, NOW)
_hermes.call("array", f"<tool_call>[{ADD_ARGUMENTS}, {NOW_ARGUMENTS}]</tool_call>", ADD, NOW)
_hermes.call("two-objects", f"<tool_call>\n{ADD_ARGUMENTS}\n{NOW_ARGUMENTS}\n</tool_call>", ADD, NOW)
_hermes.call("nested", f'<tool_call>{{"type": "function", "function": {ADD_ARGUMENTS}}}</tool_call>', ADD)
_hermes.call(
    "arguments-as-text",
    r'<tool_call>{"name": "add", "arguments": "{\"a\": 2, \"b\": 3}"}</tool_call>',
    ADD,
)
_hermes.call("arguments-first", '<tool_call>{"arguments": {"a": 2, "b": 3}, "name": "add"}</tool_call>', ADD)
_hermes.call("prose-before", f"I add.\n<tool_call>{ADD_ARGUMENTS}</tool_call>", ADD, left="I add.")
_hermes.call("prose-after", f"<tool_call>{ADD_ARGUMENTS}</tool_call>\nI wait.", ADD, left="I wait.")
_hermes.call(
    "thought-before", f"<think>Hmm.</think>\n<tool_call>{ADD_ARGUMENTS}</tool_call>", ADD, left=ANYTHING
)
_hermes.call("fence-before", f"{FENCE}\nx\n{FENCE}\n<tool_call>{ADD_ARGUMENTS}</tool_call>", ADD,
             left=f"{FENCE}\nx\n{FENCE}")  # fmt: skip
_hermes.call("code-before", f"I use `add`: <tool_call>{ADD_ARGUMENTS}</tool_call>", ADD, left="I use `add`:")
_hermes.call("tags-in-a-string", f"<tool_call>{TAGS_ARGUMENTS}</tool_call>", TAGS_CALL)
_hermes.call(
    "block-in-a-string",
    r'<tool_call>{"name": "note", "arguments": {"text": "<tool_call>{\"name\": \"now\"}</tool_call>"}}'
    "</tool_call>",
    ("note", {"text": '<tool_call>{"name": "now"}</tool_call>'}),
)
_hermes.call("double-braces", f"<tool_call>{{{ADD_ARGUMENTS}}}</tool_call>", ADD)
_hermes.call("null", '<tool_call>{"name": "now", "arguments": null}</tool_call>', NOW)
_hermes.call(
    "one-of-two-is-unknown",
    f"<tool_call>{LAUNCH_ARGUMENTS}</tool_call><tool_call>{ADD_ARGUMENTS}</tool_call>",
    ADD,
    left=ANYTHING,
)
_hermes.call(
    "one-of-two-is-cut",
    f'<tool_call>{ADD_ARGUMENTS}</tool_call><tool_call>{{"name": "note", "arguments": {{"text": "On',
    ADD,
    broken=("note",),
    finish_reason="length",
)
_hermes.broken("cut", '<tool_call>{"name": "add", "arguments": {"a": 2', "add", finish_reason="length")
_hermes.broken("cut-but-closed", '<tool_call>{"name": "note", "arguments": {"text": "On</tool_call>', "note")
_hermes.text("unknown", f"<tool_call>{LAUNCH_ARGUMENTS}</tool_call>")
_hermes.text("no-arguments", '<tool_call>{"name": "now"}</tool_call>')
_hermes.text("empty", "<tool_call></tool_call>")
_hermes.text("prose-within", "<tool_call>add two and three</tool_call>")
_hermes.text("cut-in-the-name", '<tool_call>{"name": "ad', finish_reason="length")
_hermes.text("schema-echo", f'<tool_call>{{"name": "add", "arguments": {SCHEMA}}}</tool_call>')
_hermes.text("in-a-fence", f"So:\n{FENCE}\n<tool_call>{ADD_ARGUMENTS}</tool_call>\n{FENCE}\nThat is it.")
_hermes.text("in-an-open-fence", f"{FENCE}xml\n<tool_call>{ADD_ARGUMENTS}</tool_call>")
_hermes.text("in-inline-code", f"Write `<tool_call>{ADD_ARGUMENTS}</tool_call>` for it.")
_hermes.text("in-a-thought", f"<think><tool_call>{ADD_ARGUMENTS}</tool_call></think>It is 5.")
_hermes.text("in-an-open-thought", f"<think>Maybe <tool_call>{ADD_ARGUMENTS}</tool_call>")
_hermes.text("prose", "A <tool_call> holds a name, as add, and its arguments.")

# 14: <tool_call> around Qwen3-Coder's XML


def _xml(name: str, /, **values: str) -> str:
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


_coder = Form("xml", "tool_call")
_coder.call("plain", _xml("add", a="2", b="3"), ADD)
_coder.call(
    "one-line",
    "<tool_call><function=add><parameter=a>2</parameter><parameter=b>3</parameter></function></tool_call>",
    ADD,
)
_coder.call("no-parameters", _xml("now"), NOW)
_coder.call("several", f"{_xml('add', a='2', b='3')}\n{_xml('now')}", ADD, NOW)
_coder.call("no-end", _xml("add", a="2", b="3").removesuffix("\n</tool_call>"), ADD)
_coder.call("prose-before", f"I add.\n\n{_xml('add', a='2', b='3')}", ADD, left="I add.")
_coder.call("digits-for-a-string", _xml("greet", name="007"), ("greet", {"name": "007"}))
_coder.call("true-for-a-string", _xml("note", text="true"), ("note", {"text": "true"}))
_coder.call(
    "boolean",
    _xml("get_weather", city="Oslo", exact="true"),
    ("get_weather", {"city": "Oslo", "exact": True}),
)
_coder.call(
    "python-boolean",
    _xml("get_weather", city="Oslo", exact="False"),
    ("get_weather", {"city": "Oslo", "exact": False}),
)
_coder.call(
    "number", _xml("get_weather", city="Oslo", factor="1.5"), ("get_weather", {"city": "Oslo", "factor": 1.5})
)
_coder.call(
    "array", _xml("search", query="x", tags='["a", "b"]'), ("search", {"query": "x", "tags": ["a", "b"]})
)
_coder.call(
    "object", _xml("configure", settings='{"a": {"b": 1}}'), ("configure", {"settings": {"a": {"b": 1}}})
)
_coder.call(
    "json-for-a-string", _xml("write", path="a.json", content='{"a": [1]}'),
    ("write", {"path": "a.json", "content": '{"a": [1]}'}),
)  # fmt: skip
_coder.call(
    "code",
    _xml("write", path="a.py", content="def f(a):\n    if a < 3 and a > 1:\n        return '</b>'\n"),
    ("write", {"path": "a.py", "content": "def f(a):\n    if a < 3 and a > 1:\n        return '</b>'\n"}),
)
_coder.call(
    "markup",
    _xml("note", text="<p>5 &lt; 6 &amp; more</p>"),
    ("note", {"text": "<p>5 &lt; 6 &amp; more</p>"}),
)
_coder.call(
    "other-tags-in-a-value",
    _xml("note", text="<|eom_id|> ``` [TOOL_CALLS] </think>"),
    ("note", {"text": "<|eom_id|> ``` [TOOL_CALLS] </think>"}),
)
_coder.broken(
    "cut-in-a-value",
    "<tool_call>\n<function=note>\n<parameter=text>\nOnce upon",
    "note",
    finish_reason="length",
)
_coder.broken(
    "cut-between",
    "<tool_call>\n<function=add>\n<parameter=a>\n2\n</parameter>\n",
    "add",
    finish_reason="length",
)
_coder.text("unknown", _xml("launch", a="2"))
_coder.text("cut-in-the-name", "<tool_call>\n<function=ad", finish_reason="length")
_coder.text("in-a-fence", f"{FENCE}\n{_xml('add', a='2', b='3')}\n{FENCE}")
_coder.text("in-a-thought", f"<think>{_xml('add', a='2', b='3')}</think>5")
_coder.text("parameter-alone", "<parameter=a>\n2\n</parameter> belongs to add.")

# 15: [TOOL_CALLS]

_mistral = Form("mistral", "mistral")
_mistral.call("list", f"[TOOL_CALLS][{ADD_ARGUMENTS}]", ADD)
_mistral.call("blank", f"[TOOL_CALLS] [{ADD_ARGUMENTS}]", ADD)
_mistral.call("list-of-two", f"[TOOL_CALLS][{ADD_ARGUMENTS}, {NOW_ARGUMENTS}]", ADD, NOW)
_mistral.call("object", f"[TOOL_CALLS]{ADD_ARGUMENTS}", ADD)
_mistral.call("name", '[TOOL_CALLS]add{"a": 2, "b": 3}', ADD)
_mistral.call("args", '[TOOL_CALLS]add[ARGS]{"a": 2, "b": 3}', ADD)
_mistral.call("args-several", '[TOOL_CALLS]add[ARGS]{"a": 2, "b": 3}[TOOL_CALLS]now[ARGS]{}', ADD, NOW)
_mistral.call("name-several", '[TOOL_CALLS]add{"a": 2, "b": 3}[TOOL_CALLS]now{}', ADD, NOW)
_mistral.call("end-token", f"[TOOL_CALLS][{ADD_ARGUMENTS}]</s>", ADD)
_mistral.call("prose-before", f"I add.[TOOL_CALLS][{ADD_ARGUMENTS}]", ADD, left="I add.")
_mistral.call("argument-called-name", '[TOOL_CALLS]greet{"name": "add"}', ("greet", {"name": "add"}))
_mistral.call(
    "argument-called-name-and-others",
    '[TOOL_CALLS]greet[ARGS]{"name": "now", "arguments": {}}',
    ("greet", {"name": "now", "arguments": {}}),
)
_mistral.call(
    "tags-in-a-string",
    f'[TOOL_CALLS]note[ARGS]{{"text": "[ARGS] {TAGS}"}}',
    ("note", {"text": f"[ARGS] {TAGS}"}),
)
_mistral.call("thought-before", f"[THINK]Hmm.[/THINK][TOOL_CALLS][{ADD_ARGUMENTS}]", ADD, left=ANYTHING)
_mistral.call(
    "second-cut", '[TOOL_CALLS]add[ARGS]{"a": 2, "b": 3}[TOOL_CALLS]note[ARGS]{"text": "O', ADD,
    broken=("note",), finish_reason="length",
)  # fmt: skip
_mistral.broken("cut", '[TOOL_CALLS]add[ARGS]{"a": 2', "add", finish_reason="length")
_mistral.broken(
    "list-cut", '[TOOL_CALLS][{"name": "add", "arguments": {"a": 2', "add", finish_reason="length"
)
_mistral.text("unknown", f"[TOOL_CALLS][{LAUNCH_ARGUMENTS}]")
_mistral.text("unknown-name", '[TOOL_CALLS]launch{"name": "add", "arguments": {"a": 2, "b": 3}}')
_mistral.text("empty-list", "[TOOL_CALLS][]")
_mistral.text("prose", "Mistral begins calls by [TOOL_CALLS] and add follows.")
_mistral.text("in-a-fence", f"{FENCE}\n[TOOL_CALLS][{ADD_ARGUMENTS}]\n{FENCE}")
_mistral.text("in-inline-code", f"So: `[TOOL_CALLS][{ADD_ARGUMENTS}]`")
_mistral.text("in-a-thought", f"<think>[TOOL_CALLS][{ADD_ARGUMENTS}]</think>It is 5.")
_mistral.text("half-a-marker", "[TOOL_CAL", finish_reason="length")

# 16: functools

_functools = Form("functools", "functools")
_functools.call("plain", f"functools[{ADD_ARGUMENTS}]", ADD)
_functools.call("leading-blank", f" functools[{ADD_ARGUMENTS}]", ADD)
_functools.call("two", f"functools[{ADD_ARGUMENTS}, {NOW_ARGUMENTS}]", ADD, NOW)
_functools.call("prose-before", f"I add.\nfunctools[{ADD_ARGUMENTS}]", ADD, left="I add.")
_functools.call("tags-in-a-string", f"functools[{TAGS_ARGUMENTS}]", TAGS_CALL)
_functools.call("end-token", f"functools[{ADD_ARGUMENTS}]<|eot_id|>", ADD)
_functools.broken("cut", 'functools[{"name": "add", "arguments": {"a": 2', "add", finish_reason="length")
_functools.text("unknown", f"functools[{LAUNCH_ARGUMENTS}]")
_functools.text("module", "Use functools.partial(add, 2), or functools[0] if it were a list.")
_functools.text("in-inline-code", f"`functools[{ADD_ARGUMENTS}]`")
_functools.text("in-a-fence", f"{FENCE}\nfunctools[{ADD_ARGUMENTS}]\n{FENCE}")
_functools.text("in-a-thought", f"<think>functools[{ADD_ARGUMENTS}]</think>5")
_functools.text("empty", "functools[]")

# 17: >>>

_functionary = Form("functionary", "functionary")
_functionary.call("plain", '>>>add\n{"a": 2, "b": 3}', ADD)
_functionary.call("text-before", 'all\nI add.>>>add\n{"a": 2, "b": 3}', ADD, left=ANYTHING)
_functionary.call("text-before-on-lines", 'all\nI add.\n>>>add\n{"a": 2, "b": 3}', ADD, left=ANYTHING)
_functionary.call("two", '>>>add\n{"a": 2, "b": 3}\n>>>now\n{}', ADD, NOW)
_functionary.call("two-glued", '>>>add\n{"a": 2, "b": 3}>>>now\n{}', ADD, NOW)
_functionary.call(
    "tags-in-a-string", f'>>>note\n{{"text": ">>>add {TAGS}"}}', ("note", {"text": f">>>add {TAGS}"})
)
_functionary.call("end-token", '>>>add\n{"a": 2, "b": 3}<|eot_id|>', ADD)
_functionary.broken("cut", '>>>add\n{"a": 2', "add", finish_reason="length")
_functionary.text("unknown", '>>>launch\n{"a": 2}')
_functionary.text("without-the-marker", 'add\n{"a": 2, "b": 3}')
_functionary.text("doctest", ">>> add(2, 3)\n5\n>>> now()\n'noon'")
_functionary.text("prompt-of-a-name", ">>> add\n<function add at 0x7f>")
_functionary.text("in-a-fence", f'{FENCE}\n>>>add\n{{"a": 2, "b": 3}}\n{FENCE}')
_functionary.text("in-a-thought", '<think>>>>add\n{"a": 2, "b": 3}</think>5')
_functionary.text("shift", "a >>>b is no operator of Python, but of Java.")

# 18: a fence

_fence = Form("fence", "fence")
_fence.call("json", f"{FENCE}json\n{ADD_JSON}\n{FENCE}", ADD)
_fence.call("no-language", f"{FENCE}\n{ADD_JSON}\n{FENCE}", ADD)
_fence.call("arguments", f"{FENCE}json\n{ADD_ARGUMENTS}\n{FENCE}", ADD)
_fence.call("white-space-around", f"\n\n{FENCE}json\n{ADD_JSON}\n{FENCE}\n\n", ADD)
_fence.call("end-token", f"{FENCE}json\n{ADD_JSON}\n{FENCE}<|eot_id|>", ADD)
_fence.call(
    "pretty", f'{FENCE}json\n{{\n  "name": "add",\n  "parameters": {{"a": 2, "b": 3}}\n}}\n{FENCE}', ADD
)
_fence.call("list", f"{FENCE}json\n[{ADD_JSON}, {NOW_JSON}]\n{FENCE}", ADD, NOW)
_fence.call("tool-calls", f'{FENCE}json\n{{"tool_calls": [{ADD_ARGUMENTS}]}}\n{FENCE}', ADD)
_fence.call("function-call", f'{FENCE}json\n{{"function_call": {ADD_ARGUMENTS}}}\n{FENCE}', ADD)
_fence.call("null", f'{FENCE}json\n{{"name": "now", "parameters": null}}\n{FENCE}', NOW)
_fence.call("tags-in-a-string", f"{FENCE}json\n{TAGS_JSON}\n{FENCE}", TAGS_CALL)
_fence.call(
    "fence-in-a-string",
    f'{FENCE}json\n{{"name": "note", "parameters": {{"text": "{FENCE}\\nx\\n{FENCE}"}}}}\n{FENCE}',
    ("note", {"text": f"{FENCE}\nx\n{FENCE}"}),
)
_fence.text("unknown", f"{FENCE}json\n{LAUNCH_JSON}\n{FENCE}")
_fence.text("prose-before", f"You would send this:\n\n{FENCE}json\n{ADD_JSON}\n{FENCE}")
_fence.text("prose-around", f"So:\n{FENCE}json\n{ADD_JSON}\n{FENCE}\nThen it adds.")
_fence.text("package", f'{FENCE}json\n{{"name": "add", "version": "1.0.0", "main": "index.js"}}\n{FENCE}')
_fence.text("definition", f'{FENCE}json\n{{"name": "add", "parameters": {SCHEMA}}}\n{FENCE}')
_fence.text("no-parameters", f'{FENCE}json\n{{"name": "now"}}\n{FENCE}')
_fence.text("code", f"{FENCE}python\nprint(add(a=2, b=3))\n{FENCE}")
_fence.text("within-code", f"{FENCE}python\ncall = {ADD_JSON}\n{FENCE}")
_fence.text("in-a-thought", f"<think>\n{FENCE}json\n{ADD_JSON}\n{FENCE}\n</think>\n5")
_fence.text("only-a-fence", FENCE)
_fence.text("empty", f"{FENCE}json\n{FENCE}")

# 19: Action:

_command = Form("command_r", "command_r")
_R_ADD = '{"tool_name": "add", "parameters": {"a": 2, "b": 3}}'
_R_NOW = '{"tool_name": "now", "parameters": {}}'
_command.call("plain", f"Action: {FENCE}json\n[{_R_ADD}]\n{FENCE}", ADD)
_command.call("newline", f"Action:\n{FENCE}json\n[\n    {_R_ADD}\n]\n{FENCE}", ADD)
_command.call("no-blank", f"Action:{FENCE}json\n[{_R_ADD}]{FENCE}", ADD)
_command.call("two", f"Action: {FENCE}json\n[{_R_ADD}, {_R_NOW}]\n{FENCE}", ADD, NOW)
_command.call(
    "plan-before", f"Plan: I add.\nAction: {FENCE}json\n[{_R_ADD}]\n{FENCE}", ADD, left="Plan: I add."
)
_command.call(
    "tags-in-a-string",
    f'Action: {FENCE}json\n[{{"tool_name": "note", "parameters": {{"text": "{TAGS}"}}}}]\n{FENCE}',
    TAGS_CALL,
)
_command.broken(
    "cut",
    f'Action: {FENCE}json\n[{{"tool_name": "add", "parameters": {{"a": 2',
    "add",
    finish_reason="length",
)
_command.text("unknown", f'Action: {FENCE}json\n[{{"tool_name": "launch", "parameters": {{}}}}]\n{FENCE}')
_command.text("prose", "Action: add 2 and 3, then note the sum.")
_command.text("code", f"Action: {FENCE}python\nadd(2, 3)\n{FENCE}")
_command.text("in-a-thought", f"<think>Action: {FENCE}json\n[{_R_ADD}]\n{FENCE}</think>5")

# 20: DeepSeek

_BEGIN, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_ALL_BEGIN, _ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"


def _deepseek(name: str, arguments: str) -> str:
    return f"{_BEGIN}function{_SEP}{name}\n{FENCE}json\n{arguments}\n{FENCE}{_END}"


_DEEP_ADD, _DEEP_NOW = _deepseek("add", '{"a": 2, "b": 3}'), _deepseek("now", "{}")
_seek = Form("deepseek", "deepseek")
_seek.call("plain", f"{_ALL_BEGIN}{_DEEP_ADD}{_ALL_END}", ADD)
_seek.call("end-of-sentence", f"{_ALL_BEGIN}{_DEEP_ADD}{_ALL_END}<｜end▁of▁sentence｜>", ADD)
_seek.call("alone", _DEEP_ADD, ADD)
_seek.call("two", f"{_ALL_BEGIN}{_DEEP_ADD}\n{_DEEP_NOW}{_ALL_END}", ADD, NOW)
_seek.call("prose-before", f"I add.{_ALL_BEGIN}{_DEEP_ADD}{_ALL_END}", ADD, left="I add.")
_seek.call("thought-before", f"<think>Hmm.</think>\n\n{_ALL_BEGIN}{_DEEP_ADD}{_ALL_END}", ADD, left=ANYTHING)
_seek.call("no-ends", _DEEP_ADD.removesuffix(_END), ADD)
_seek.call(
    "fence-and-tags-in-a-string",
    _deepseek("note", f'{{"text": "{FENCE}{_END} {TAGS}"}}'),
    ("note", {"text": f"{FENCE}{_END} {TAGS}"}),
)
_seek.broken(
    "cut", f'{_ALL_BEGIN}{_BEGIN}function{_SEP}add\n{FENCE}json\n{{"a": 2', "add", finish_reason="length"
)
_seek.text("unknown", _deepseek("launch", '{"a": 2}'), left=ANYTHING)
_seek.text("in-a-thought", f"<think>{_DEEP_ADD}</think>5")
_seek.text("in-inline-code", f"It writes `{_BEGIN}function{_SEP}add` first.")
_seek.text("prose", f"The marker {_BEGIN} precedes function and add.")

# 21: after prose, where that is switched on

_after = Form("after_prose", "after_prose", calls_after_prose=True)
_after.call("json", f"Let me add them.\n\n{ADD_JSON}", ADD, left="Let me add them.")
_after.call("json-next-line", f"Let me add them:\n{ADD_JSON}", ADD, left="Let me add them:")
_after.call("pythonic", "Let me add them.\n\n[add(a=2, b=3)]", ADD, left="Let me add them.")
_after.call("pythonic-two", "Let me see.\n[add(a=2, b=3), now()]", ADD, NOW, left="Let me see.")
_after.call("end-token", f"Let me add them.\n{ADD_JSON}<|eot_id|>", ADD, left="Let me add them.")
_after.call("tags-in-a-string", f"I note it.\n{TAGS_JSON}", TAGS_CALL, left="I note it.")
_after.call("whole-message", ADD_JSON, ADD, format="json")
_after.text("same-line", f"Let me add them: {ADD_JSON}")
_after.text("not-the-last", f"Let me add them.\n{ADD_JSON}\nThat would be it.")
_after.text("unknown", f"Let me launch.\n{LAUNCH_JSON}")
_after.text("missing-argument", 'Let me add.\n{"name": "add", "parameters": {"a": 2}}')
_after.text("wrong-type", 'Let me add.\n{"name": "add", "parameters": {"a": "two", "b": 3}}')
_after.text("in-a-fence", f"You could send:\n\n{FENCE}\n{ADD_JSON}\n{FENCE}")
_after.text("in-a-thought", f"<think>Hmm.\n{ADD_JSON}")
_after.text("prose", "Let me think about add.\nIt adds.")

_off = Form("after_prose_off", "after_prose")
_off.text("json", f"Let me add them.\n\n{ADD_JSON}")
_off.text("pythonic", "Let me add them.\n\n[add(a=2, b=3)]")

# Double braces, as small Qwen models copy them from their template

_double = Form("double_braces", "json")
_double.call("outer", f"{{{ADD_ARGUMENTS}}}", ADD)
_double.call("all", '{{"name": "add", "arguments": {{"a": 2, "b": 3}}}}', ADD)
_double.call("parameters", f"{{{ADD_JSON}}}", ADD)
_double.call("nothing-required", '{{"name": "now", "arguments": {{}}}}', NOW)
_double.call("newline", '{{\n  "name": "add",\n  "arguments": {"a": 2, "b": 3}\n}}', ADD)
_double.call(
    "braces-in-a-string",
    '{{"name": "note", "arguments": {"text": "}} {{ {"}}}',
    ("note", {"text": "}} {{ {"}),
)
_double.call("end-token", f"{{{ADD_ARGUMENTS}}}<|im_end|>", ADD)
_double.text("unknown", f"{{{LAUNCH_ARGUMENTS}}}")
_double.text("template", "{{ name }} is a place for the name in Jinja.")
_double.text("template-with-a-filter", '{{ "add" | upper }}')
_double.text("prose-before", f"I call {{{ADD_ARGUMENTS}}}")
_double.text("in-inline-code", f"`{{{ADD_ARGUMENTS}}}`")
_double.text("no-arguments", '{{"name": "now"}}')

FORMS = (
    _json, _several, _tag, _function, _pythonic, _start, _hermes, _coder, _mistral, _functools, _functionary,
    _fence, _command, _seek, _after, _off, _double,
)  # fmt: skip
TEXTS: tuple[Text, ...] = tuple(text for form in FORMS for text in form.texts)
"""The table."""


def texts(prefix: str) -> Iterator[Text]:
    """The texts whose id starts so."""
    return (text for text in TEXTS if text.id.startswith(prefix))


def text(id_: str) -> Text:
    """The text of this id."""
    return next(text for text in TEXTS if text.id == id_)
