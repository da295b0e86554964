"""
The functions and methods of many documented modules, through the tool builder: each becomes a tool with a
valid JSON schema, or is refused with a clear error. Counts: `python -m tests.test_tool_survey`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from llama_agent import ConfigurationError, tool

# Typed packages that are installed here, and modules of the standard library, which has hardly any hints.
MODULES = """
haystack.utils haystack.tools haystack.dataclasses haystack.components.builders
haystack.components.converters haystack.components.joiners haystack.components.preprocessors
haystack.components.rankers haystack.components.retrievers haystack.components.routers
haystack.components.writers haystack.core.pipeline haystack.document_stores.in_memory haystack.tracing
huggingface_hub.hf_api openai pydantic pydantic_core.core_schema httpx2 hypothesis.strategies jsonschema
tenacity typer rich.console rich.table rich.text filelock docstring_parser numpy.linalg base64 bisect
calendar collections colorsys csv dataclasses difflib fnmatch functools glob hashlib heapq html inspect
io itertools json math operator os os.path pathlib random re secrets shlex shutil statistics string
struct subprocess sys tempfile textwrap time types typing unicodedata urllib.parse uuid zlib
""".split()


def callables_of(module: Any) -> Iterator[Callable[..., Any]]:
    """Public functions of a module, and the methods of its classes (unbound: their `self` is dropped)."""
    for name in dir(module):
        value = getattr(module, name, None)
        if name.startswith("_"):
            continue
        if inspect.isroutine(value):
            yield value
        elif (
            inspect.isclass(value) and value.__module__.partition(".")[0] == module.__name__.partition(".")[0]
        ):
            for attribute, member in vars(value).items():
                if inspect.isfunction(member) and (not attribute.startswith("_") or attribute == "__call__"):
                    yield without_self(member)


def same_package(a: str, b: str) -> bool:
    return a.partition(".")[0] == b.partition(".")[0]


def without_self(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method as it looks from an instance."""

    class Instance:
        pass

    return function.__get__(Instance())


def outcome_of(function: Callable[..., Any]) -> str:
    """`tool`, or the error's text without its names; whatever else is raised fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = tool(name="surveyed")(function)
    except ConfigurationError as error:
        assert str(error).strip()
        return re.sub(r"'[^']*'|\([^()]*\)", "", str(error).partition(": ")[2])[:60]
    assert made.parameters["type"] == "object"
    Draft202012Validator.check_schema(made.parameters)
    text = json.dumps(made.tool_spec, allow_nan=False)
    assert '"title":' not in text.replace('"title": {', "")
    return "tool"


def survey(module_name: str) -> Counter[str]:
    module = importlib.import_module(module_name)
    return Counter(outcome_of(function) for function in callables_of(module))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.filterwarnings("ignore")
def test_each_callable_of_a_module_becomes_a_tool_or_a_clear_error(module: str) -> None:
    assert survey(module).total() > 0


if __name__ == "__main__":
    counts: Counter[str] = Counter()
    for name in MODULES:
        found = survey(name)
        counts += found
        print(f"{name:45} {found.total():5} {found['tool']:5}")
    print(f"{len(MODULES)} modules, {counts.total()} callables, {counts['tool']} tools")
    for text, count in counts.most_common():
        print(f"{count:6} {text}")
