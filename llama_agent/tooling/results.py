"""What a tool returned → what the model reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from haystack.dataclasses.chat_message import ToolCallResultContentT
from haystack.tools.tool import Tool
from pydantic_core import to_json

_SINGLE_OUTPUT_KEYS = frozenset({"source", "handler", "raw_result"})


def content_of(tool: Tool, value: Any) -> ToolCallResultContentT:
    """
    Turn a tool's return value into message content, by the tool's `outputs_to_string` where it has one.

    :param tool: The tool that returned it.
    :param value: Any value.
    :returns: Text; or content parts where `raw_result` asks for them.
    """
    config = tool.outputs_to_string or {}
    if not config or config.keys() & _SINGLE_OUTPUT_KEYS:
        return _output(config, value)
    return text_of({key: text_of(_output(part, value)) for key, part in config.items()})


def text_of(value: object) -> str:
    """
    Compact text for any value.

    :param value: A string stays as it is; dataclasses, models, dates and containers become JSON; what JSON
        can't hold becomes its `str`.
    :returns: The text.
    """
    if isinstance(value, str):
        return value
    try:
        return to_json(value, fallback=str, bytes_mode="base64", inf_nan_mode="strings").decode()
    except (ValueError, RecursionError):
        return str(value)


def _output(config: Mapping[str, Any], value: Any) -> Any:
    source = config.get("source")
    if source is not None and isinstance(value, Mapping):
        value = cast("Mapping[str, Any]", value).get(source)
    if (handler := config.get("handler")) is not None:
        return handler(value)
    return value if config.get("raw_result") else text_of(value)
