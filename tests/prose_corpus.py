"""
A corpus of ordinary answers, made anew in each process from what is installed: none of them is a tool call.

Docstrings, sources, READMEs, package metadata and JSON schemas of the standard library and of packages
that `pyproject.toml` names, put the way models put them: as prose, in fences, bare, in tables, as JSON. The
same environment gives the same messages in the same order; nothing is fetched.

    for message in messages("code in a fence"): ...

What truly is a call in a form of the specification isn't here, whatever the tools are named. Borderline
kinds, and why they are here or not:

- A tool's definition whose `parameters` are a JSON schema is an echo of the definition, cut or whole: here.
  So is one with a `description` and `{}`. With `{}` and no more, it can't be told from a call without
  arguments: not here. Nor is the loose form `"parameters": {"query": {"type": "string"}}`, which can't be
  told from a call with an object as argument. `"parameters": []`, as in a list of parameters, is no object:
  here.
- A message that as a whole is an OpenAI assistant message (`{"role": ..., "tool_calls": [...]}`) is form 5:
  not here. A whole request body, whose `messages` hold such a one, isn't, nor is MCP's JSON-RPC `tools/call`.
- `[f(a=1)]` with literal keywords only is form 11. Comprehensions, names and positional arguments aren't, nor
  are links: `[f()](https://...)`, `[f()][1]`, `[f()]: https://...`.
- A call in a fence or in inline code is documentation: here, when prose comes before it. A fence that is the
  whole message is form 18; with prose behind a fence, form 18 and rule 4 disagree: neither is here.
- A call in a string of a JSON document is data (rule 8: a string is never parsed again): here.
- A JSON call in the midst of a sentence is here; as the last line of a message it is form 21: not here.
- Strong markers outside of code are here where no call follows ("between <tool_call> and </tool_call>"),
  except for markers that give the name of a tool on offer, which may be a call that is cut. Behind
  `<|python_tag|>` comes Python (form 8): prose that isn't is here.
- `>>> name` on one line and a JSON object on the next is a doctest. Functionary (form 17) writes no blank
  after `>>>`: with a blank it is here, without not.
"""

import ast
import configparser
import csv
import difflib
import importlib
import inspect
import io
import json
import pydoc
import re
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

T = TypeVar("T")
Function = Callable[..., Any]
Named = tuple[str, T]
"""A thing, and how its message's id says it."""

MODULES = """
    argparse ast base64 calendar collections configparser contextlib copy csv dataclasses difflib enum
    fnmatch fractions functools getopt glob gzip heapq html inspect io ipaddress json linecache locale
    logging mimetypes operator os pickle pkgutil platform pprint queue random re sched secrets shelve
    shlex shutil smtplib socket statistics string subprocess tempfile textwrap threading timeit tokenize
    traceback unittest urllib.parse urllib.request uuid warnings weakref zipfile asyncio.tasks
    concurrent.futures haystack.dataclasses.chat_message haystack.tools.tool haystack.tools.toolset
    haystack.tools.from_function haystack.components.agents.agent
    haystack.components.builders.chat_prompt_builder haystack.utils.auth
    haystack.components.generators.chat.openai haystack.core.pipeline.pipeline
    haystack.core.serialization openai._client openai.types.chat pydantic.main pydantic.fields
    pydantic.types pydantic.type_adapter jsonschema jsonschema.validators rich.console rich.table
    rich.text rich.markdown rich.progress typer tenacity docstring_parser dateutil.parser dateutil.rrule
    dateutil.tz hypothesis.strategies pytest httpx2 PIL.Image
""".split()
DISTRIBUTIONS = """
    haystack-ai openai docstring-parser tenacity pydantic httpx2 jiter jsonschema python-dateutil typer rich
    build hypothesis pandas pillow pyright pytest pytest-xdist ruff
""".split()
SPECIFICATION = [
    '{"name": "get", "parameters": {"value": "x"}}',
    '{"type": "function", "function": {"name": "search", "arguments": {"value": "x"}}}',
    '[{"name": "get", "parameters": {"value": "x"}}, {"name": "list", "parameters": {}}]',
    '<|python_tag|>{"name": "get", "parameters": {"value": "x"}}<|eom_id|>',
    '<|python_tag|>search.call(value="x")',
    '<|python_tag|>print("hello")',
    '<function=get>{"value": "x"}</function>',
    '<function name="get">{"value": "x"}</function>',
    '[get(value="x"), search(value="y")]',
    '<|python_start|>[get(value="x")]<|python_end|>',
    '<tool_call>{"name": "get", "arguments": {"value": "x"}}</tool_call>',
    "<tool_call><function=get><parameter=value>x</parameter></function></tool_call>",
    '[TOOL_CALLS][{"name": "get", "arguments": {"value": "x"}}]',
    '[TOOL_CALLS]get[ARGS]{"value": "x"}',
    'functools[{"name": "get", "arguments": {"value": "x"}}]',
    'all\nI will look.>>>get\n{"value": "x"}',
    'Action: ```json\n[{"tool_name": "get", "parameters": {"value": "x"}}]\n```',
    '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{"value": "x"}\n```<｜tool▁call▁end｜>',
]
"""Calls as documentation quotes them, with tools that are offered."""
_MARKERS = re.compile(
    r"<\|python_|<function=|<function name=|<tool_call>|\[TOOL_CALLS\]|functools\[|>>>\w|^Action:|<｜tool"
    r"|<\|e(?:om|ot)(?:_id)?\|>|<think>",
    re.M,
)
_HEADING = re.compile(r"^(?=#{1,4} \S)", re.M)


@dataclass(frozen=True)
class Message:
    """
    An answer.

    :param id: What it was made from.
    :param finish_reason: "length" when it is cut off.
    """

    id: str
    text: str
    finish_reason: str = "stop"

    @property
    def mentioned(self) -> list[str]:
        """Up to 12 names that the text calls, gives as values or puts in tags: good names for tools."""
        found = re.findall(r'\b([A-Za-z_]\w{0,30})\(|"(?:name|id)": "([\w-]{1,40})"|<(\w{1,30})', self.text)
        names = dict.fromkeys(name for groups in found for name in groups if name)
        return list(names)[:12]


@cache
def messages(kind: str) -> tuple[Message, ...]:
    """All messages of a kind, each with an id of its own."""
    made = [
        message if isinstance(message, Message) else Message(*message)
        for message in _KINDS[kind]()
        if kind in _WITH_MARKERS or not _MARKERS.search(_text_of(message))
    ]
    assert len({message.id for message in made}) == len(made), "two messages have one id"
    return tuple(made)


# What is installed.


@cache
def functions() -> tuple[Named[Function], ...]:
    """Documented public functions and methods, by their full names."""
    found: dict[str, Function] = {}
    for module_name in MODULES:
        for name, value in _public(importlib.import_module(module_name)):
            if inspect.isfunction(value):
                found.setdefault(f"{module_name}.{name}", value)
            elif inspect.isclass(value):
                for method, function in _public(value):
                    if inspect.isfunction(function):
                        found.setdefault(f"{module_name}.{name}.{method}", function)
    unique = {id(function): (name, function) for name, function in reversed(found.items())}
    return tuple(sorted(pair for pair in unique.values() if _has_source(pair[1])))


@cache
def docs() -> tuple[Named[str], ...]:
    """Docstrings of public functions and classes, of a paragraph and more."""
    found: dict[str, str] = {}
    for module_name in MODULES:
        for name, value in _public(importlib.import_module(module_name)):
            text = inspect.getdoc(value) if inspect.isfunction(value) or inspect.isclass(value) else None
            if text and 80 < len(text) < 4000 and text not in found.values():
                found[f"{module_name}.{name}"] = text
    found |= {name: text for name, f in functions() if 80 < len(text := inspect.getdoc(f) or "") < 4000}
    return tuple(sorted(found.items()))


@cache
def sources() -> tuple[Named[str], ...]:
    """Sources of functions, dedented."""
    shown = ((name, textwrap.dedent(inspect.getsource(f))) for name, f in spread(functions(), 400))
    return tuple((name, text) for name, text in shown if 100 < len(text) < 3000)


@cache
def readmes() -> tuple[Named[str], ...]:
    """Our own README, and those that the packages' metadata hold."""
    ours = Path(__file__).parents[1] / "README.md"
    found = [("llama-agent", ours.read_text(encoding="utf-8"))]
    for name in DISTRIBUTIONS:
        info = metadata(name)
        found.append((name, info.get_payload() or info["Description"] or ""))
    return tuple((name, text) for name, text in found if len(text) > 200)


def _public(owner: object) -> list[Named[Any]]:
    return [(name, value) for name, value in sorted(vars(owner).items()) if not name.startswith("_")]


def _has_source(function: Function) -> bool:
    is_own = not hasattr(function, "__wrapped__") and function.__code__.co_filename.endswith(".py")
    return is_own and bool(inspect.getdoc(function)) and function.__name__.isidentifier()


def _text_of(message: Message | tuple[str, str]) -> str:
    return message.text if isinstance(message, Message) else message[1]


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, spread evenly over all."""
    step = max(1.0, len(items) / most)
    return [items[int(i * step)] for i in range(min(most, len(items)))]


def fenced(text: str, language: str = "") -> str:
    """The text in a fence."""
    return f"```{language}\n{text.rstrip()}\n```"


def pretty(value: object) -> str:
    """JSON as models write it."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def parameters_of(function: Function) -> list[inspect.Parameter]:
    """Its parameters; a method's `self` isn't one."""
    given = inspect.signature(function).parameters.values()
    return [parameter for parameter in given if parameter.name not in ("self", "cls")]


def schema_of(function: Function) -> dict[str, Any]:
    """A JSON schema of its arguments, as a tool's definition has it."""
    given = parameters_of(function)
    needed = [parameter.name for parameter in given if parameter.default is parameter.empty]
    properties = {p.name: {"type": "string", "description": f"The {p.name}."} for p in given}
    return {"type": "object", "properties": properties, "required": needed}


def summary(function: Function) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


# Prose.


def _prose() -> Iterator[Named[str]]:
    frames = (
        "{}",
        "{}",
        "Sure! {}",
        "{}\n\nLet me know if you want an example.",
        "**In short:** {}",
        "\n\n{}",
    )
    for number, (name, text) in enumerate(spread([d for d in docs() if ">>>" not in d[1]], 190)):
        yield name, frames[number % len(frames)].format(text)


def _doctests() -> Iterator[Named[str]]:
    yield from spread([(name, text) for name, text in docs() if ">>>" in text], 45)
    for shown in ("{'value': 'x'}", '{"value": "x"}', "{}", "[]", "'x'"):
        for name in ("get", "json", "data"):
            yield f"{name} shows {shown}", f"In a session it looks like this:\n\n>>> {name}\n{shown}\n>>> "


def _long_texts() -> Iterator[Named[str]]:
    for name in ("json.decoder", "textwrap", "difflib", "argparse"):
        text = inspect.getsource(importlib.import_module(name))[:60_000]
        yield f"source of {name} in a fence", f"All of it:\n\n{fenced(text, 'python')}\n\nThat's all."
    for name in ("json.encoder", "heapq"):
        yield f"source of {name}, bare", inspect.getsource(importlib.import_module(name))[:40_000]
    for name in ("statistics", "csv"):
        yield f"help on {name}", pydoc.plaintext.document(importlib.import_module(name))[:40_000]
    for name in ("openai", "pydantic", "rich"):
        yield f"README of {name}", dict(readmes())[name][:40_000]


def _cut_off() -> Iterator[Message]:
    for name, text in spread(docs(), 25):
        yield Message(f"prose: {name}", text[: len(text) * 2 // 3], "length")
    for name, text in spread(sources(), 15):
        yield Message(f"code: {name}", f"It is this:\n\n{fenced(text, 'python')[:-40]}", "length")
    for name, function in spread(functions(), 10):
        definition = pretty({"name": function.__name__, "parameters": schema_of(function)})
        yield Message(f"definition: {name}", f"Define it so:\n\n```json\n{definition[:-9]}", "length")
        yield Message(f"bare definition: {name}", definition[:-9], "length")
        yield Message(f"fenced definition: {name}", f"```json\n{definition[:-9]}", "length")


# Code.


def _fenced_code() -> Iterator[Named[str]]:
    frames = (
        "Here is how `{name}` does it:\n\n{code}\n\nIt returns what it found.",
        "{code}",
        "{code}\n\nCall it with your own values.",
        "1. Open the file.\n2. Add this:\n\n{code}\n\n3. Run it.",
        "~~~~python\n{text}\n~~~~\n",
        "Of course:\n{code}",
    )
    for number, (name, text) in enumerate(spread(sources(), 110)):
        code = fenced(text, ("python", "py", "", "python3")[number % 4])
        yield name, frames[number % len(frames)].format(name=name, code=code, text=text)


def _bare_code() -> Iterator[Named[str]]:
    for number, (name, text) in enumerate(spread(sources(), 180)[1::2]):
        yield name, text if number % 3 else f"import {name.partition('.')[0]}\n\n\n{text}\n\nprint(main())\n"


def _lists() -> Iterator[Named[str]]:
    """Python lists as whole messages: out of sources, and made up."""
    found: dict[str, str] = {}
    for module_name in ("argparse", "difflib", "statistics", "inspect", "haystack.core.pipeline.pipeline"):
        text = inspect.getsource(importlib.import_module(module_name))
        lines = text.encode().split(b"\n")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.List | ast.ListComp) or node.lineno != node.end_lineno:
                continue
            shown = lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()
            if len(shown) > 8 and not _is_form_11(node):
                found.setdefault(shown, f"{module_name}, line {node.lineno}.{node.col_offset}")
    yield from spread([(place, shown) for shown, place in found.items()], 50)
    for text in (
        "[print(x) for x in range(3)]",
        "[get(value=x) for x in names]",
        "[get(value=name)]",
        "[search(value=f'{x}')]",
        "[len(x), len(y)]",
        "[a, b]",
        "[get, set, list]",
        "[]",
        "[1, 2, 3]",
        '["get", "search"]',
        '[print("hello")]',
        "[list()[0], get(value='x').name]",
        "[get(**kwargs)]",
        "[lambda: get(value='x')]",
        "[get(value='x') if ok else None]",
        "[len] and [get]",
        "[[1, 0], [0, 1]]",
        "[x for x in data if x]\n[y for y in data if not y]",
        "[run(value=search(value='x'))]",
        "[0, 1) is half open",
        "[sic]",
        "[Ctrl]+[C] ends it.",
        "[get(value='x') + 1]",
        "get(value='x')",
        "print('hello')",
        "search(value='x')\n",
        "f(x) = [g(x=1)]^2",
    ):
        yield text.strip(), text


def _is_form_11(node: ast.AST) -> bool:
    items = node.elts if isinstance(node, ast.List) else []
    return bool(items) and all(
        isinstance(item, ast.Call)
        and not item.args
        and not any(
            isinstance(part, ast.Name | ast.Call) for k in item.keywords for part in ast.walk(k.value)
        )
        for item in items
    )


def _inline_code() -> Iterator[Named[str]]:
    frames = (
        "Use `{call}` for that.",
        "`{call}`: {summary}",
        "- `{call}`\n- `{name}(*args)`\n\nThe first is what you want.",
        "Call ``{call}`` and look at what comes back.",
        "What `{name}` does: {summary} So `{call}` is right, and `{name}` alone isn't.",
        "{call}",
        "I'd write {call} there.",
    )
    for number, (name, function) in enumerate(spread(functions(), 90)):
        given = ", ".join(f"{p.name}={p.name}" for p in parameters_of(function))
        call = f"{function.__name__}({given})"
        frame = frames[number % len(frames)]
        yield name, frame.format(call=call, name=function.__name__, summary=summary(function))


# Markdown.


def _markdown() -> Iterator[Named[str]]:
    sections: list[Named[str]] = []
    for name, text in readmes():
        for number, part in enumerate(_HEADING.split(text)):
            if 60 < len(part) < 5000:
                sections.append((f"{name}, part {number + 1}: {part[:40].splitlines()[0]}", part))
    return iter(spread(sections, 150))


def _links() -> Iterator[Named[str]]:
    for name in DISTRIBUTIONS:
        urls = [url.split(", ", 1) for url in metadata(name).get_all("Project-URL") or []]
        if not urls:
            continue
        label, url = urls[0]
        yield f"{name}: a link", f"[{label}]({url})"
        yield f"{name}: a list of links", "\n".join(f"- [{label}]({url})" for label, url in urls)
        yield f"{name}: references", f"[{name}][1] is there.\n\n[1]: {url}\n[2]: <{url}> 'get'"
        yield f"{name}: boxes", f"- [ ] read [{label}]\n- [x] open {url}\n\n[^1]: [list] and [get]({url})."
    named = [(name, function) for name, function in functions() if name.count(".") == 1]
    for number, (name, function) in enumerate(
        [*spread(named, 20), ("builtins.print", print), ("builtins.list", list)]
    ):
        short, url = (
            function.__name__,
            f"https://docs.python.org/3/library/{name.partition('.')[0]}.html#{name}",
        )
        frames = (
            "[{0}()]({1}) is what you want: {2}",
            "[{0}()][1] is what you want.\n\n[1]: {1}",
            "[{0}()]: {1} '{2}'",
            "[{0}()]({1})",
        )
        yield f"{name}: a link with brackets", frames[number % 4].format(short, url, summary(function))


def _tables() -> Iterator[Named[str]]:
    for number, (name, function) in enumerate(spread(functions(), 45)):
        rows = [(p.name, str(p.kind), _shown(p.default)) for p in parameters_of(function)]
        table = "\n".join(f"| `{a}` | {b} | `{c}` |" for a, b, c in rows)
        table = f"| name | kind | default |\n| --- | --- | --- |\n{table}"
        yield (
            name,
            table if number % 3 else f"The parameters of `{function.__name__}`:\n\n{table}\n\nThat's all.",
        )


def _shown(value: object) -> str:
    return re.sub(r" at 0x\w+", "", repr(value)).replace("|", "/")[:40]


# JSON.


def _documents() -> Iterator[Named[Any]]:
    """JSON documents as whole answers."""
    for name in DISTRIBUTIONS:
        info = metadata(name)
        needed = {need.split(" ")[0]: "*" for need in (requires(name) or [])[:12]}
        yield f"package.json of {name}", {"name": name, "version": info["Version"], "dependencies": needed}
        scripts = {"main": "index.js", "scripts": {"run": "node .", "test": "jest"}, "type": "module"}
        yield f"package of {name} with scripts", {"name": "get", "description": info["Summary"], **scripts}
    for name, function in spread(functions(), 40):
        given = parameters_of(function)
        listed = [{"name": p.name, "in": "query", "required": p.default is p.empty} for p in given]
        yield f"documentation of {name}", {"name": function.__name__, "parameters": listed}
        shown = {"name": function.__name__, "type": "function", "value": summary(function)}
        yield f"record of {name}", [shown, {**shown, "name": "get"}]
    for path in _metaschemas():
        schema = json.loads(path.read_text(encoding="utf-8"))
        yield f"schema {path.parent.name}/{path.stem}", schema
        for key, value in list(schema.get("properties", {}).items())[:3]:
            yield f"schema {path.parent.name}/{path.stem}: {key}", {"name": key, "properties": {key: value}}
    yield from _handwritten_documents()


def _metaschemas() -> list[Path]:
    folder = Path(str(importlib.import_module("jsonschema_specifications").__file__)).parent
    return sorted(folder.rglob("*.json"))[:8]


def _handwritten_documents() -> Iterator[Named[Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"value": "x"}'}}
    definition = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
    yield "no arguments", {"name": "get"}
    yield "no arguments, with a type", {"type": "function", "name": "get"}
    yield "no arguments, nested", {"type": "function", "function": {"name": "get"}}
    yield "no name", {"parameters": {"value": "x"}}
    yield "a definition without parameters", {"name": "get", "description": "Gets it.", "parameters": {}}
    yield "a list as parameters", {"name": "get", "parameters": ["value"]}
    yield "a text as parameters", {"name": "get", "parameters": "none"}
    yield "a number as arguments", {"name": "list", "arguments": 3}
    yield "keyed by name", {"get": {"value": "x"}, "list": {}}
    yield "a name that is an object", {"name": {"first": "Ada", "last": "King"}, "parameters": {"value": "x"}}
    yield "a name that is a list", {"name": ["get"], "parameters": {"value": "x"}}
    yield "a person", {"name": "Ada", "type": "person", "list": ["get", "set"]}
    yield "people", [{"name": "Ada", "id": 1}, {"name": "Lin", "id": 2}]
    yield "deeper down", {"result": {"name": "get", "parameters": {"value": "x"}}}
    yield "deeper in a list", [[{"name": "get", "parameters": {"value": "x"}}]]
    yield "no calls", {"tool_calls": []}
    yield "no call", {"function_call": None}
    yield "a request body", {"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]}
    yield "a request body with tools", {"model": "m", "messages": [], "tools": [definition]}
    yield "a completion", {"choices": [{"message": {"role": "assistant", "tool_calls": [call]}}]}
    yield (
        "JSON-RPC",
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get", "arguments": {}}},
    )
    yield "a log line", {"level": "info", "name": "get", "message": "done", "args": {"value": "x"}}
    yield "an event of ours", {"type": "ToolStarted", "tool_name": "get", "arguments": {"value": "x"}}
    yield "JSON-LD", {"@type": "Person", "name": "get", "knows": {"@type": "Person", "name": "search"}}
    yield "an action", {"uses": "actions/checkout@v5", "name": "run", "with": {"path": "."}}
    yield "a stack", {"name": "main", "line": 3, "locals": {"value": "x"}}
    yield "empty", {}
    yield "empty list", []
    yield "objects without names", [{"value": 1}, {"value": 2}]


def _json_as(frame: str, most: int) -> Callable[[], Iterator[Named[str]]]:
    return lambda: (
        (name, frame.format(pretty(value), fenced(pretty(value), "json"), json.dumps(value)))
        for name, value in spread(list(_documents()), most)
    )


def _json_lines() -> Iterator[Named[str]]:
    for name, text in spread(docs(), 15):
        lines = [{"name": "get", "level": "info", "message": line} for line in text.splitlines()[:6]]
        joined = ("\n", "; ", " ", "")[len(text) % 4].join(json.dumps(line) for line in lines)
        yield f"lines of {name}", joined
    for name in ("json", "shlex"):
        cells = [
            {"cell_type": "code", "source": [line], "outputs": [], "metadata": {"name": "run"}}
            for line in inspect.getsource(importlib.import_module(name)).splitlines()[:20]
        ]
        yield f"notebook of {name}", pretty({"cells": cells, "nbformat": 4})


def _python_data() -> Iterator[Named[str]]:
    """Dictionaries as Python shows them."""
    for name, value in spread([d for d in _documents() if d[0] != "a log line"], 40):
        yield name, repr(value)
    for name in ("get", "list"):
        yield f"single quotes, {name}", f"{{'name': '{name}', 'value': ['x'], 'type': None}}"
    yield "braces", "{a, b}"
    yield "a set", "{1, 2, 3}"
    yield "a template", "{{ name }} has {{ parameters }}"
    yield "a template of a loop", "{% for name in list %}{{ get(name) }}{% endfor %}"
    yield "a format", "{name}: {parameters}"
    yield "C", "{\n    int name = get();\n    return run(name);\n}"
    yield "JavaScript", "{ name: get, parameters: { value } }"
    yield "CSS", "{color: red}"
    yield "LaTeX", "{\\bf name} and {parameters}"
    yield "a path", "{id}/get?name={name}"


# Definitions of tools and interfaces.


def _definitions() -> Iterator[Named[str]]:
    for number, (name, function) in enumerate(spread(functions(), 60)):
        short, about, schema = function.__name__, summary(function), schema_of(function)
        forms: tuple[Any, ...] = (
            {"type": "function", "function": {"name": short, "description": about, "parameters": schema}},
            {"name": short, "description": about, "parameters": schema},
            {"type": "function", "name": short, "parameters": schema, "strict": True},
            [{"name": short, "parameters": schema}, {"name": "get", "parameters": schema}],
            {"name": short, "description": about, "input_schema": schema},
            {"tools": [{"name": short, "description": about, "inputSchema": schema}]},
            {"name": short, "parameters": dict(reversed(schema.items()))},
            {"functions": [{"name": short, "parameters": schema}]},
        )
        text = pretty(forms[number % len(forms)])
        frames = ("{0}", "{1}", "The definition:\n\n{1}\n\nGive it as `tools`.", "{1}\n\nGive it as `tools`.")
        yield name, frames[number // len(forms) % len(frames)].format(text, fenced(text, "json"))
    empty = {"type": "object", "properties": {}}
    for short in ("get", "list", "main"):
        yield f"{short} without parameters", pretty({"name": short, "parameters": empty})
        yield (
            f"{short} without parameters, fenced",
            fenced(pretty({"name": short, "parameters": empty}), "json"),
        )
        several = "\n".join(json.dumps({"name": n, "parameters": empty}) for n in (short, "search"))
        yield f"{short} and another without parameters", several


def _interfaces() -> Iterator[Named[str]]:
    """OpenAPI documents, as JSON and as YAML."""
    for number, (name, function) in enumerate(spread(functions(), 40)):
        listed = [
            {"name": p.name, "in": "query", "required": p.default is p.empty, "schema": {"type": "string"}}
            for p in parameters_of(function)
        ]
        operation = {"operationId": function.__name__, "summary": summary(function), "parameters": listed}
        paths = {f"/{function.__name__}": {"get": operation}}
        api = {"openapi": "3.1.0", "info": {"title": name, "version": "1"}, "paths": paths}
        yaml = f"name: {function.__name__}\nparameters:\n" + "".join(
            f"  - name: {p.name}\n    in: query\n" for p in parameters_of(function)
        )
        shown = (
            pretty(api),
            fenced(pretty(api), "json"),
            pretty({"name": function.__name__, "operations": operation}),
            yaml,
            f"The interface:\n\n{fenced(yaml, 'yaml')}",
            pretty({"parameters": listed, "name": function.__name__}),
            fenced(json.dumps([operation]), "json"),
        )
        yield name, shown[number % len(shown)]


# Other languages.


def _xml() -> Iterator[Named[str]]:
    for number, (name, function) in enumerate(spread(functions(), 40)):
        root = ElementTree.Element("function", {"kind": "method", "name": function.__name__})
        ElementTree.SubElement(root, "description").text = summary(function)
        for parameter in parameters_of(function):
            ElementTree.SubElement(root, "parameter", {"name": parameter.name}).text = str(parameter.kind)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
        frames = ("{0}", '<?xml version="1.0"?>\n{0}\n', "In XML:\n\n{1}\n\nRead it with `parse`.", "{1}")
        yield name, frames[number % len(frames)].format(text, fenced(text, "xml"))
    for name in ("shlex", "bisect", "glob"):
        page = pydoc.html.document(importlib.import_module(name))
        yield f"page on {name}", page[:4000]
        yield f"page on {name} in a fence", f"The page:\n{fenced(page[:3000], 'html')}"
    yield "a form", '<form action="/search"><input name="get"><button type="submit">Search</button></form>'
    yield "JSX", "<List name={get} parameters={{ value: 'x' }} />"
    yield "a generic", "List<String> names = get<String>(name);"
    yield "comparisons", "a < b and b > c, so a <= c; x<function and y>run"
    yield "placeholders", "Write <name> and <parameters> there, or <function>."


def _shells() -> Iterator[Named[str]]:
    for name in DISTRIBUTIONS:
        info = metadata(name)
        shown = f"$ pip show {name}\nName: {name}\nVersion: {info['Version']}\nSummary: {info['Summary']}"
        yield f"pip show {name}", shown
        yield (
            f"install {name}",
            f"Install it:\n\n{fenced(f'pip install {name} && get --list', 'sh')}\n\nThen run.",
        )
    for name in ("json.loads", "ast.literal_eval", "importlib.import_module", "operator.getitem"):
        module, _, function = name.rpartition(".")
        try:
            getattr(importlib.import_module(module), function)("[")
        except Exception:
            yield f"traceback of {name}", traceback.format_exc()
            yield f"traceback of {name} in a fence", f"It fails:\n{fenced(traceback.format_exc())}\nMend it."
    yield "test", "[ -f name ] && get || search; [[ $list == *run* ]] && echo ${name}"
    yield "jq", """$ echo '{"name": "get", "parameters": {"value": "x"}}' | jq .name\n"get\""""
    yield "prompts", ">>> import json\n>>> json.dumps({'name': 'get'})\n'{\"name\": \"get\"}'"


def _data_formats() -> Iterator[Named[str]]:
    for name in DISTRIBUTIONS:
        rows = [("name", "type", "value"), *((key, "text", str(value)[:60]) for key, value in _some(name))]
        table, settings = io.StringIO(), configparser.ConfigParser(interpolation=None)
        csv.writer(table).writerows(rows)
        settings["get"] = {a: c for a, _, c in rows[1:]}
        initial = io.StringIO()
        settings.write(initial)
        toml = "[tool.get]\n" + "\n".join(f"{a.lower()} = {json.dumps(c)}" for a, _, c in rows)
        yield f"CSV of {name}", table.getvalue()
        yield f"INI of {name}", initial.getvalue()
        yield f"TOML of {name}", toml if len(name) % 2 else fenced(toml, "toml")
    for (name, before), (_, after) in zip(spread(sources(), 20), spread(sources(), 21)[1:], strict=True):
        diff = "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "a", "b"))[:1500]
        yield f"diff of {name}", diff if len(diff) % 2 else f"Apply this:\n\n{fenced(diff, 'diff')}"


def _some(name: str) -> list[Named[str]]:
    return [(key, value) for key, value in metadata(name).items() if key in ("Name", "Version", "Summary")]


# What is said of calls.


def _quoted_calls() -> Iterator[Named[str]]:
    for call in SPECIFICATION:
        within = call.replace("\n", "\n  ")
        yield f"in a fence: {call}", f"A model may write:\n\n{fence_around(call)}\n\nand nothing else."
        yield f"in a tilde fence: {call}", f"A model may write:\n\n~~~text\n{call}\n~~~\n\nand nothing else."
        yield f"in an item: {call}", f"- One form:\n\n  ````\n  {within}\n  ````\n\n- There are others."
        yield f"in an open fence: {call}", f"A model may write:\n\n````\n{call}\n# and so o"
        if "\n" not in call:
            yield f"in code: {call}", f"A model may write `{call}`, and the server reads it."
            yield f"in code at the start: {call}", f"`{call}` is what a model may write."
            yield f"in longer code: {call}", f"Some write ``{call}``. Others write more."
            yield f"in bold code: {call}", f"| form | who |\n| --- | --- |\n| **`{call}`** | some |"


def _calls_in_strings() -> Iterator[Named[str]]:
    """Samples to train a model on."""
    for call in SPECIFICATION:
        sample = {"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": call}]}
        yield f"in a document: {call}", pretty(sample)
        yield f"in a line: {call}", json.dumps(sample, ensure_ascii=False)


def fence_around(text: str) -> str:
    """The text in a fence that is longer than those within."""
    return f"````\n{text}\n````"


def _said_of_calls() -> Iterator[Named[str]]:
    for text in (
        "Qwen puts a call between <tool_call> and </tool_call>.",
        "The tag <tool_call> opens, and </tool_call> closes it; the names in between are JSON.",
        "Llama writes <function=...> and then JSON, as in <function=...>{...}</function>.",
        "The token <|python_tag|> says that a call or code comes next; it has no end.",
        "Mistral starts with [TOOL_CALLS] and then a list.",
        "[TOOL_CALLS] is a control token of Mistral's.",
        "A turn ends with <|eot_id|>, and a call with <|eom_id|>, in Llama 3.1.",
        "functools[...] is how Firefunction begins.",
        "functools.partial(get, value='x') makes a function of no arguments.",
        "Action: get the list, then search.",
        "Action: none is needed.\n\nObservation: the value is there.",
        "Thought: I know it.\nAction: finish\nAction Input: the answer is 4",
        "I would call get and then search, but there is no need to.",
        "To get the list, run `search` first; then call `get(value)`.",
        "I can't call a tool for that. Search for the name, add it to the list, and run main.",
        'The call {"name": "get", "parameters": {"value": "x"}} is JSON, as you see.',
        'An answer like {"name": "get", "arguments": {}} would be a call, this sentence is none.',
        'So "name": "get", "parameters": {"value": "x"} are the fields.',
        "In Python, [get(value='x')] is a list of one result.",
        "The lists [a, b] and [get()] differ: the second holds what `get` returned.",
        "get",
        "search",
        "list, get, set",
        "get: value=x",
        "function get(value) { return value; }",
        "The function is called `get`. Its parameters: value.",
        "name: get\nparameters: value",
        '"get"',
        "42",
        "null",
        "None",
        "true",
        "-1.5e3",
        "...",
        "{",
        "[",
        "<",
        "`",
        "```",
        "<b>get</b>",
        "{}",
        "<|",
        "Ende gut, alles gut – «get» → “search” 🦙",
        "答案是 {名} 和 [列表]。",
        "x = [get(value='x')]",
        "a[get(value='x')]",
        "1. [get](https://example.com/get?value=x)\n2. [search](https://example.com/search)",
        "! [image](get.png)",
        "[get]: the first\n[search]: the second",
        "[2026-11-23 10:00:00] get(value='x') took 3 s",
        "[INFO] run: started",
        "[main] INFO get - value=x",
        "> [!NOTE]\n> Run `main`.",
        "[Verse 1]\nGet up, get on up\n\n[Chorus]\nRun, run, run",
        "[Music] and [laughter]",
        "{{ get }}",
        "$x = [get(1)]$",
        "\\[ f(x) = \\sum_{i} get(i) \\]",
        "<<<<<<< HEAD\nget()\n=======\nset()\n>>>>>>> main",
        "> > > get\n\nis a quote of a quote.",
        "Press >>>run to go on.",
        " \n get \n",
    ):
        yield repr(text[:50]), text


_KINDS: dict[str, Callable[[], Iterable[Message | Named[str]]]] = {
    "prose": _prose,
    "doctests": _doctests,
    "long texts": _long_texts,
    "cut off": _cut_off,
    "code in a fence": _fenced_code,
    "bare code": _bare_code,
    "Python lists": _lists,
    "inline code": _inline_code,
    "markdown": _markdown,
    "links": _links,
    "tables": _tables,
    "JSON": _json_as("{0}", 120),
    "JSON on one line": _json_as("{2}", 60),
    "JSON in a fence": _json_as("{1}", 100),
    "JSON and prose": _json_as("Here you are:\n\n{1}\n\nChange the name if you like.", 60),
    "JSON and prose behind it": _json_as("{0}\n\nThat's all of it.", 40),
    "JSON lines": _json_lines,
    "Python data": _python_data,
    "tool definitions": _definitions,
    "interfaces": _interfaces,
    "XML and HTML": _xml,
    "shell sessions": _shells,
    "data formats": _data_formats,
    "quoted calls": _quoted_calls,
    "calls in strings": _calls_in_strings,
    "said of calls": _said_of_calls,
}
_WITH_MARKERS = {"quoted calls", "calls in strings", "said of calls"}
"""Kinds that were written to hold markers; of the others, a message that happens to hold one is left out."""

KINDS = tuple(_KINDS)
