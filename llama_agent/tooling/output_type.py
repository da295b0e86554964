"""`output_type=`: what an answer has to look like, and the object that becomes of it."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from haystack.tools.tool import Tool
from haystack.utils.type_serialization import deserialize_type, serialize_type
from jsonschema import Draft202012Validator, SchemaError

from llama_agent.arguments import shorten
from llama_agent.errors import ConfigurationError
from llama_agent.json_schema import Json, readable
from llama_agent.lenient_json import NotJson, read_json
from llama_agent.tooling.schema import BoundArguments, Signature, signature_of
from llama_agent.tooling.tool import bind

_KEY = "answer"
"""Holds a value that isn't an object: replies that are held to a schema, and calls, have to be objects."""
_NAMES = ("final_answer", "give_final_answer", "submit_final_answer")
_DESCRIPTION = "Give the final answer to the user, once all that is needed for it is known."
_THOUGHT = re.compile(r"\A\s*<(think|thinking)>.*?</\1>", re.DOTALL)
_FENCED = re.compile(r"```[a-zA-Z]{0,10}[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_MOST_WORK = 4
"""How often the characters of a text are looked at, to find what stands in it."""


class OutputType:
    """
    What an answer has to look like.

    `schema`: as a model reads it, an object; `name`: for a server.

    :param output_type: A pydantic model, dataclass, TypedDict, `Literal`, enum, a list of those, any other
        type that has a JSON schema; or such a schema itself, a dict.
    :raises ConfigurationError: It can't be described to a model.
    """

    def __init__(self, output_type: Any) -> None:
        self.output_type = output_type
        self.name: str = getattr(output_type, "__name__", None) or _KEY
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            self.name = _KEY
        self._signature: Signature | None = None
        if isinstance(output_type, dict):
            held = _checked(cast("Json", output_type))
            asked = readable(held)
        elif isinstance(output_type, str):
            raise ConfigurationError(
                f"output_type must be a type or a JSON schema, not the text {output_type!r}"
            )
        else:
            self._signature = _signature(output_type)
            parameters = self._signature.parameters
            held = asked = {**parameters["properties"][_KEY], **_definitions(parameters)}
        given = cast("object", output_type)
        if not asked or inspect.isroutine(given):
            raise ConfigurationError(
                f"output_type {shorten(repr(given))} doesn't say what the answer looks like: give a pydantic "
                "model, dataclass, TypedDict, Literal, a list of one, or a JSON schema"
            )
        self._is_object = asked.get("type") == "object"
        self.schema: Json = asked if self._is_object else _wrapped(asked)
        self._tool = Tool(_KEY, _DESCRIPTION, held if self._is_object else _wrapped(held), _never)

    def tool(self, names: Collection[str]) -> Tool:
        """
        A tool by which the model gives its answer; it is never run.

        :param names: Of the other tools on offer.
        :returns: Its parameters are the answer.
        """
        name = next((name for name in _NAMES if name not in names), _NAMES[-1])
        return Tool(name, _DESCRIPTION, self.schema, _never)

    def read(self, given: Mapping[str, Any]) -> tuple[object, list[str]]:
        """
        Read an answer that came as an object.

        :param given: What the model gave.
        :returns: The answer's object; what is wrong with it, one line per problem, empty when it fits.
        """
        value: object = dict(given)
        if not self._is_object and list(given) == [_KEY]:
            value = given[_KEY]
        return self._read(value)

    def read_text(self, text: str) -> tuple[object, list[str]]:
        """
        Read an answer that came as text: JSON, alone, in a code fence, or with words around it.

        :param text: What the model wrote.
        :returns: As `read`.
        """
        said = _THOUGHT.sub("", text).strip()
        problems: list[str] = []
        for candidate in self._candidates(said):
            is_object = isinstance(candidate, dict)
            value, wrong = self.read(cast("Json", candidate)) if is_object else self._read(candidate)
            if not wrong:
                return value, []
            problems = problems or wrong
        return None, problems or [f"it is not JSON: {shorten(said)}" if said else "it is empty"]

    def _candidates(self, said: str) -> Iterator[object]:
        """
        What may be the answer in a text: all of it, what stands in fences, what stands in prose; there,
        the last first.
        """
        for part in (said, *reversed(_FENCED.findall(said))):
            with suppress(NotJson):
                yield read_json(part)
            if part is said and said and not self._is_object and not self._read(said)[1]:
                yield said  # a text, or one of the words that are meant
        in_prose = [(value, end) for value, end in _values_in(said)]
        for value, end in reversed(in_prose):
            if isinstance(value, dict) or end == len(said.rstrip(" .\n")):
                yield value

    def _read(self, value: object) -> tuple[object, list[str]]:
        if self._signature is not None:
            bound = self._signature.bind({_KEY: value})
        elif self._is_object and not isinstance(value, dict):
            return None, [f"it must be a JSON object, not {shorten(json.dumps(value, default=str))}"]
        else:
            bound = bind(self._tool, cast("Json", value) if self._is_object else {_KEY: value})
        if not isinstance(bound, BoundArguments):
            return None, self._told(bound)
        is_whole = self._signature is None and self._is_object
        return (dict(bound.values) if is_whole else bound.values[_KEY]), []

    def _told(self, problems: list[str]) -> list[str]:
        if not self._is_object:
            return problems
        return [problem.removeprefix(f"{_KEY}.").replace(f"{_KEY}: ", "it: ", 1) for problem in problems]


def saved_type(output_type: Any) -> Any:
    """
    An output type as data.

    :param output_type: As `OutputType` takes it; None for none.
    :returns: A schema as it is, a type by its import path.
    :raises ConfigurationError: It has none.
    """
    if output_type is None or isinstance(output_type, dict):
        return cast("object", output_type)
    if not _can_be_imported(output_type):
        raise ConfigurationError(
            f"output_type {output_type!r} can't be saved: make it a class of a module, a list of one, or a "
            "JSON schema"
        )
    return serialize_type(output_type)


def loaded_type(saved: Any) -> Any:
    """
    The output type that `saved_type` described.

    :param saved: Its data. A type's module must be on Haystack's deserialization allowlist.
    :returns: The type, the schema, or None.
    """
    return deserialize_type(saved) if isinstance(saved, str) else saved


def _can_be_imported(kind: Any) -> bool:
    """Whether its classes are found under their names."""
    if get_origin(kind) is Literal or kind is None or kind is Ellipsis:
        return True
    if parts := get_args(kind):
        return get_origin(kind) is not Annotated and all(map(_can_be_imported, parts))
    return isinstance(kind, type) and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


def _signature(output_type: Any) -> Signature:
    def answer(answer: object) -> None: ...

    answer.__annotations__ = {_KEY: output_type, "return": None}
    try:
        return signature_of(answer)
    except ConfigurationError as error:
        said = str(error).partition(": ")[2] or str(error)
        raise ConfigurationError(
            f"output_type {shorten(repr(output_type))} can't be described to a model: {said}"
        ) from error


def _checked(schema: Json) -> Json:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ConfigurationError(f"output_type is no JSON schema: {error.message}") from error
    # An older draft's name for the same.
    text = json.dumps(schema).replace('"#/definitions/', '"#/$defs/')
    renamed = cast("Json", json.loads(text))
    definitions = {**renamed.pop("definitions", {}), **renamed.get("$defs", {})}
    return {**renamed, "$defs": definitions} if definitions else renamed


def _definitions(schema: Json) -> Json:
    return {"$defs": schema["$defs"]} if "$defs" in schema else {}


def _wrapped(schema: Json) -> Json:
    """An object that has the value."""
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    return {"type": "object", "properties": {_KEY: inner}, "required": [_KEY], **_definitions(schema)}


def _values_in(text: str) -> Iterator[tuple[object, int]]:
    """Objects and arrays in prose, and where each ends; in linear time, as far as it goes."""
    decoder, begins = json.JSONDecoder(), re.compile(r"[{\[]")
    at, work = 0, _MOST_WORK * (len(text) + 1_000)
    while work > 0 and (match := begins.search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, match.start())
        except json.JSONDecodeError as error:
            at, work = match.end(), work - (error.pos - match.start()) - 1
        except RecursionError:
            return
        else:
            yield value, at


def _never(**_: object) -> None:
    """The answer is taken by the loop."""
