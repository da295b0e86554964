"""
Little helps for a very small model: the embedded SmolLM2-135M, which can't choose a tool by a prompt alone.

What helps, and all of it holds for any tool and any question:

- **Choosing**: a score per tool of the words that the request shares with the tool's name, description and
  parameters; of whether the request has the numbers that it needs; and of how much likelier the model finds
  the tool's name after this request than after others.
- **Arguments**: grammars (GBNF) that let the model only copy words and numbers of the request.
- **Answer**: a grammar that carries the tool's result, word by word, into the model's sentence.

No rule here knows a particular tool or question.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from haystack.dataclasses import ChatMessage, ChatRole
from haystack.tools.tool import Tool

from llama_agent.model.asking import ANSWER, Ask, Fetch, ModeFlow, ModelCall, UsageSum, options_of
from llama_agent.model.prompt_forms import PLAIN, result_text, told
from llama_agent.model.streams import CallText, Json, Reply
from llama_agent.model.wire import WireRequest

OVERLAP_WEIGHT = 3.0
NUMBERS_WEIGHT = 4.0
OPINION_WEIGHT = 0.3
THRESHOLD = 2.0
"""Score below which no tool is called. These four were tuned on the 30 questions of `questions_tune.json`."""

_NEUTRAL = ("Hello there.", "Tell me something.", "What do you think about it?")
_NO_TOOL = ("How are you?", "Tell me a story.", "What is love?")
_NONE = "none"
_MAX_WORDS = 160
_MAX_RESULT = 600
_MAX_TOP = 400

_FUNCTION_WORDS = frozenset(
    "a an and are as at be but by can could do does for from has have how i if in into is it its me my "
    "of on or our out please so some tell that the their them there these this those to us was we what "
    "whats when where which who why will with would you your s m re am about like many much now right "
    "say saying says today".split()
)
_ARTICLES = frozenset("a an and the my your our their of".split())
_LITERAL = re.compile(r"[\"“”]([^\"“”\n]+)[\"“”]|(?<!\w)['‘]([^\n]+?)['’](?!\w)|:\s+([^\n]+)$")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MAX_SUBJECT = 12
_ANSWER_EXAMPLES: tuple[Json, ...] = (
    {"role": "user", "content": "How old is Tom?\nResult: 41"},
    {"role": "assistant", "content": "Tom is 41."},
    {"role": "user", "content": "Wake up the robots\nResult: done"},
    {"role": "assistant", "content": "Wake up the robots: done."},
    {"role": "user", "content": "Look up the color of the car.\nResult: dark red"},
    {"role": "assistant", "content": "The color of the car is dark red."},
    {"role": "user", "content": "Describe the book\nResult: title Emma, year 1815"},
    {"role": "assistant", "content": "The book: title Emma, year 1815."},
)

Steps: TypeAlias = Generator[Fetch, Json, Any]


def small_model(call: ModelCall) -> ModeFlow:
    """
    A model call as the embedded model can manage it: at most one tool call per question, then an answer.

    :param call: What is asked.
    :returns: One reply.
    """
    request = _last_request(call.messages)
    results = _results_since_request(call.messages)
    usage = UsageSum()
    options = options_of(call.tools, call.fields.get("tool_choice"))
    if results and ANSWER in options:
        return (yield from _answer_with(call, request, results))
    tools = [tool for tool in call.tools if tool.name in options]
    tool = yield from _choose(request, tools, usage, must=ANSWER not in options)
    if tool is not None:
        arguments = yield from _copy_arguments(request, tool, usage)
        if arguments is not None:
            called = CallText(name=tool.name, arguments=arguments)
            return [usage.of(Reply(calls=[called], finish_reason="tool_calls", model=_model(call)))]
    conversation = told(call.messages, (), PLAIN)
    fields = {"temperature": 0.0, "max_tokens": 200, "repeat_penalty": 1.15, **_answer_fields(call)}
    replies = yield Ask(WireRequest(fields, conversation, stream=call.stream))
    usage.add(replies[0].usage)
    usage.of(replies[0])
    return replies


@dataclass(frozen=True)
class Evidence:
    """
    Why a tool may be meant: shared words (0 and more), numbers that fit (0 or 1), the model's opinion (nats).
    """

    overlap: float
    numbers: float
    opinion: float

    @property
    def score(self) -> float:
        """The weighted sum."""
        return OVERLAP_WEIGHT * self.overlap + NUMBERS_WEIGHT * self.numbers + OPINION_WEIGHT * self.opinion


def _choose(
    request: str, tools: Sequence[Tool], usage: UsageSum, *, must: bool
) -> Generator[Fetch, Json, Tool | None]:
    possible = [tool for tool in tools if _feasible(request, tool)]
    if not possible:
        return None
    evidence = yield from evidence_of(request, possible, usage)
    best = max(possible, key=lambda tool: evidence[tool.name].score)
    return best if must or evidence[best.name].score >= THRESHOLD else None


def evidence_of(
    request: str, tools: Sequence[Tool], usage: UsageSum
) -> Generator[Fetch, Json, dict[str, Evidence]]:
    """
    Weigh each tool against a request.

    :param request: The user's last message.
    :param tools: Tools that could be called at all.
    :param usage: Counts the tokens.
    :returns: Evidence by tool name.
    """
    overlaps = _overlaps(request, tools)
    opinions = yield from _opinions(request, tools, usage)
    numbers = len(_numbers(request))
    found: dict[str, Evidence] = {}
    for tool in tools:
        wanted = sum(_is_number(schema) for schema in _required(tool).values())
        found[tool.name] = Evidence(overlaps[tool.name], float(wanted == numbers > 0), opinions[tool.name])
    return found


def _overlaps(request: str, tools: Sequence[Tool]) -> dict[str, float]:
    """Shared words, each weighted by how few of the tools have it."""
    documents = {tool.name: _stems(_description(tool)) for tool in tools}
    asked = _stems(request)
    scores: dict[str, float] = {}
    for name, words in documents.items():
        shared = asked & words
        scores[name] = sum(
            math.log((1 + len(tools)) / sum(word in other for other in documents.values())) for word in shared
        )
    return scores


def _opinions(
    request: str, tools: Sequence[Tool], usage: UsageSum
) -> Generator[Fetch, Json, dict[str, float]]:
    """How much likelier the model finds each name after this request than after neutral ones."""
    menu = _menu(tools)
    names = [tool.name for tool in tools]
    here = yield from _log_probabilities(f"{menu}Request: {_one_line(request)}\nTool:", names, usage)
    elsewhere: dict[str, list[float]] = {name: [] for name in names}
    for neutral in _NEUTRAL:
        scores = yield from _log_probabilities(f"{menu}Request: {neutral}\nTool:", names, usage)
        for name in names:
            elsewhere[name].append(scores[name])
    return {name: here[name] - sum(elsewhere[name]) / len(_NEUTRAL) for name in names}


def _menu(tools: Sequence[Tool]) -> str:
    lines = [f"Request: {_one_line(tool.description)}\nTool: {tool.name}" for tool in tools]
    lines += [f"Request: {text}\nTool: {_NONE}" for text in _NO_TOOL]
    return "\n".join(lines) + "\n"


def _log_probabilities(
    prompt: str, names: Sequence[str], usage: UsageSum
) -> Generator[Fetch, Json, dict[str, float]]:
    """
    Log-probability of each name as the prompt's continuation, read token by token along their common
    beginnings.
    """
    scores = dict.fromkeys(names, 0.0)
    pending: list[tuple[str, list[str]]] = [("", list(names))]
    while pending:
        written, group = pending.pop()
        if len(group) == 1 and written:
            continue
        answer = yield Fetch(_completion(prompt + written, n_predict=1, n_probs=_MAX_TOP))
        usage.add(_usage(answer))
        tokens = _top_tokens(answer)
        floor = min(tokens.values(), default=-20.0)
        branches: dict[str, list[str]] = {}
        for name in group:
            rest = f" {name}"[len(written) :]
            # The model writes a name in the longest pieces that it knows.
            piece = max((t for t in tokens if t and rest.startswith(t)), key=len, default=None)
            scores[name] += floor if piece is None else tokens[piece]
            if piece is not None and len(piece) < len(rest):
                branches.setdefault(written + piece, []).append(name)
        pending += [(start, members) for start, members in branches.items() if len(members) > 1]
    return scores


def _copy_arguments(
    request: str, tool: Tool, usage: UsageSum
) -> Generator[Fetch, Json, dict[str, Any] | None]:
    """Arguments made of the request's own numbers and words; None when it hasn't what the tool needs."""
    arguments = _numbers_and_options(request, tool)
    required = _required(tool)
    texts = [
        name for name, schema in required.items() if name not in arguments and schema.get("type") == "string"
    ]
    if any(name not in arguments and name not in texts for name in required):
        return None
    taken = [str(value) for value in arguments.values()]
    literal, chunks = _chunks(request, tool, taken)
    pieces = literal if len(literal) == len(texts) else [*chunks]
    for name in texts:
        if len(pieces) == len(texts):
            # As many pieces as texts: the order of mention decides.
            arguments[name] = pieces[texts.index(name)]
            continue
        grammar = span_grammar([piece for piece in pieces if piece not in arguments.values()])
        if grammar is None:
            return None
        arguments[name] = yield from _fill(request, tool, name, required[name], grammar, usage)
    return {name: arguments[name] for name in _properties(tool) if name in arguments}


def _numbers_and_options(request: str, tool: Tool) -> dict[str, Any]:
    """
    What needs no model: numbers in the order of mention, options that are mentioned, `false` where a boolean
    must be.
    """
    arguments: dict[str, Any] = {}
    numbers = _numbers(request)
    required = _required(tool)
    asked = _stems(request)
    for name, schema in _properties(tool).items():
        if (options := _options(schema)) is not None:
            mentioned = [option for option in options if _stems(str(option)) and _stems(str(option)) <= asked]
            if mentioned or name in required:
                arguments[name] = (mentioned or options)[0]
        elif _is_number(schema) and numbers:
            number = numbers.pop(0)
            arguments[name] = float(number) if "." in number else int(number)
        elif schema.get("type") == "boolean" and name in required:
            arguments[name] = False
    return arguments


def _fill(
    request: str, tool: Tool, name: str, schema: Json, grammar: str, usage: UsageSum
) -> Generator[Fetch, Json, str]:
    about = _one_line(str(schema.get("description") or name.replace("_", " ")))
    prompt = f"{_one_line(tool.description)}\nRequest: {_one_line(request)}\n{name} ({about}):"
    answer = yield Fetch(_completion(prompt, n_predict=120, grammar=grammar))
    usage.add(_usage(answer))
    return str(answer.get("content", "")).strip()


def span_grammar(pieces: Sequence[str]) -> str | None:
    """
    A grammar of the word spans of pieces of text.

    :param pieces: Texts to copy from.
    :returns: GBNF; None when there is no word.
    """
    rules: list[str] = []
    starts: list[str] = []
    for p, piece in enumerate(pieces):
        words = piece.split()[:_MAX_WORDS]
        for i, word in enumerate(words):
            rest = "" if i + 1 == len(words) else f' (" " w{p}x{i + 1})?'
            rules.append(f"w{p}x{i} ::= {_literal(word)}{rest}")
            if word.lower() not in _FUNCTION_WORDS:
                starts.append(f"w{p}x{i}")
    if not starts:
        return None
    return "\n".join([f'root ::= " "? ({" | ".join(starts)}) "\\n"', *rules])


def _chunks(request: str, tool: Tool, taken: Sequence[str]) -> tuple[list[str], list[str]]:
    """
    Pieces of a request that may be arguments, in the order of mention: first the literal ones (in quotation
    marks, behind a colon), then all. Words that name the tool itself are none, nor are those between the
    pieces.
    """
    text = _one_line(request)
    for value in taken:
        text = re.sub(rf"(?<![\w.]){re.escape(value)}(?![\w])", "\n", text, count=1)
    literal: list[str] = []
    chunks: list[str] = []
    position = 0
    own = _stems(f"{tool.name} {tool.description} {' '.join(_properties(tool))}")
    for match in _LITERAL.finditer(text):
        chunks += _loose_chunks(text[position : match.start()], own)
        literal.append(next(group for group in match.groups() if group).strip(" .!?"))
        chunks.append(literal[-1])
        position = match.end()
    return literal, chunks + _loose_chunks(text[position:], own)


def _loose_chunks(text: str, own: frozenset[str]) -> list[str]:
    found: list[str] = []
    for segment in re.split(r"[\n;,?!]|\.(?:\s|$)", text):
        run: list[str] = []
        for word in [*segment.split(), "to"]:
            bare = word.strip(".,:;?!\"'“”‘’").lower()
            if bare in _FUNCTION_WORDS and not (bare in _ARTICLES and run):
                found += _trimmed(run, own)
                run = []
            else:
                run.append(word.strip('.,:;?!"“”'))
    return found


def _trimmed(run: list[str], own: frozenset[str]) -> list[str]:
    """A run of words without the tool's own words at its ends; empty when nothing is left."""

    def idle(word: str) -> bool:
        return word.lower() in _FUNCTION_WORDS or not word or (_stems(word) <= own and not word[0].isdigit())

    while run and idle(run[0]):
        run = run[1:]
    while run and idle(run[-1]):
        run = run[:-1]
    return [" ".join(run)] if run else []


def _answer_with(call: ModelCall, request: str, results: Sequence[ChatMessage]) -> ModeFlow:
    last = results[-1]
    text = _spoken(result_text(last))
    messages = [*_ANSWER_EXAMPLES, {"role": "user", "content": f"{_one_line(request)}\nResult: {text}"}]
    fields = {"temperature": 0.0, "max_tokens": 400, **_answer_fields(call)}
    if not fields.keys() & {"response_format", "grammar"}:  # llama.cpp takes one grammar at a time
        fields["grammar"] = answer_grammar(request, text)
    return (yield Ask(WireRequest(fields, tuple(messages), stream=call.stream)))


def answer_grammar(request: str, text: str) -> str:
    """
    A grammar of sentences that hold a tool's result: the end of the question, a link, the result.

    :param request: The question.
    :param text: The result as it shall be said.
    :returns: GBNF.
    """
    words = [word.strip("\"“”‘’'?!;:,.") for word in request.split()][-_MAX_SUBJECT:]
    words = [word for word in words if word and word.lower() != "please"]
    rules = [f's{i} ::= {_literal(word)} " " s{i + 1}' for i, word in enumerate(words[:-1])]
    rules += [f"s{len(words) - 1} ::= {_literal(word)}" for word in words[-1:]]
    starts = " | ".join(f"s{i}" for i in range(len(words))) or '"It"'
    link = '(" is " | " are " | ": ")'
    return "\n".join([f'root ::= ("The " | "the ")? ({starts}) {link} {_literal(text)} "."', *rules])


def _spoken(result: str) -> str:
    """A result as one would say it: the fields of a JSON object as `key value` pairs."""
    text = result
    try:
        value = json.loads(result)
    except ValueError:
        value = None
    if isinstance(value, dict):
        text = ", ".join(f"{key} {item}" for key, item in cast("Json", value).items())
    return _one_line(text)[:_MAX_RESULT]


def _completion(prompt: str, **fields: Any) -> WireRequest:
    settings = {"prompt": prompt, "temperature": 0.0, "cache_prompt": True, "stop": ["\n"], **fields}
    return WireRequest(settings, None, path="//completion")


def _top_tokens(answer: Json) -> dict[str, float]:
    steps = cast("list[Json]", answer.get("completion_probabilities") or [{}])
    first = steps[0]
    top = cast("list[Json]", first.get("top_logprobs") or [])
    return {str(item["token"]): float(item["logprob"]) for item in top}


def _usage(answer: Json) -> Json:
    sent, got = answer.get("tokens_evaluated", 0), answer.get("tokens_predicted", 0)
    return {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}


def _last_request(messages: Sequence[ChatMessage]) -> str:
    return next((m.text or "" for m in reversed(messages) if m.is_from(ChatRole.USER)), "")


def _results_since_request(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    results: list[ChatMessage] = []
    for message in reversed(messages):
        if message.is_from(ChatRole.USER):
            break
        if message.tool_call_results:
            results.insert(0, message)
    return results


def _feasible(request: str, tool: Tool) -> bool:
    """Whether the request holds what the tool needs at least: its numbers, and words for its texts."""
    needed = [schema for schema in _required(tool).values() if _options(schema) is None]
    numbers = sum(_is_number(schema) for schema in needed)
    texts = sum(schema.get("type") == "string" for schema in needed)
    words = [w for w in re.findall(r"[\w'’-]+", request) if w.lower() not in _FUNCTION_WORDS]
    return numbers <= len(_numbers(request)) and texts <= len(words)


def _properties(tool: Tool) -> dict[str, Json]:
    return cast("dict[str, Json]", tool.parameters.get("properties", {}))


def _required(tool: Tool) -> dict[str, Json]:
    required = cast("list[str]", tool.parameters.get("required", []))
    return {name: schema for name, schema in _properties(tool).items() if name in required}


def _options(schema: Json) -> list[object] | None:
    values = schema.get("enum")
    return cast("list[object]", values) if isinstance(values, list) else None


def _is_number(schema: Json) -> bool:
    return schema.get("type") in ("number", "integer")


def _numbers(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])", text.replace(",", ""))


def _description(tool: Tool) -> str:
    texts = [
        f"{name} {schema.get('description', '')} {schema.get('enum', '')}"
        for name, schema in _properties(tool).items()
    ]
    return " ".join([tool.name, tool.description, *texts])


def _stems(text: str) -> frozenset[str]:
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())
    return frozenset(_stem(word) for word in words if word not in _FUNCTION_WORDS and len(word) > 1)


def _stem(word: str) -> str:
    for ending in ("ations", "ation", "ing", "ies", "ied", "es", "ed", "er", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _answer_fields(call: ModelCall) -> Json:
    return {key: value for key, value in call.fields.items() if key != "tool_choice"}


def _model(call: ModelCall) -> str:
    return str(call.fields.get("model", ""))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _literal(text: str) -> str:
    """A GBNF string literal. Control characters can't stand in one, nor be said."""
    escaped = (
        _CONTROL.sub("", text)
        .replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("\n", "\\n")
        .replace("\r", "\\r")
    )
    return f'"{escaped}"'
