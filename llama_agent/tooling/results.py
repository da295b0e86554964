"""What a tool returned → what the model reads."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping
from typing import Any, cast

from haystack.dataclasses import FileContent, ImageContent, TextContent
from haystack.dataclasses.chat_message import ToolCallResultContentT
from haystack.tools.tool import Tool
from pydantic_core import PydanticSerializationError, to_json

_SINGLE_OUTPUT_KEYS = frozenset({"source", "handler", "raw_result"})
_PARTS = (TextContent, ImageContent, FileContent)

_ITEMS = 1_000
_CHARACTERS = 100_000
"""Most items and characters that are taken from a generator: it may have no end."""
_ROWS = 20
_CELLS = 1_000
_BYTES = 4_096


def content_of(tool: Tool, value: Any) -> ToolCallResultContentT:
    """
    Turn a tool's return value into message content, by the tool's `outputs_to_string` where it has one.

    :param tool: The tool that returned it.
    :param value: Any value.
    :returns: Text; or content parts, where `raw_result` asks for them or the tool returned such parts.
    """
    value = collected(value)
    config = tool.outputs_to_string or {}
    if not config and (parts := _parts(value)):
        return parts
    if not config or config.keys() & _SINGLE_OUTPUT_KEYS:
        return _output(config, value)
    return text_of({key: text_of(_output(part, value)) for key, part in config.items()})


def text_of(value: object) -> str:
    """
    Compact text for any value.

    :param value: A string stays as it is; models, dataclasses, dates, numbers and containers of them become
        JSON; tables and arrays too, large ones as their shape and first rows; small bytes base64; an
        exception its class and text; what JSON can't hold its `str`.
    :returns: The text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, BaseException):
        return _exception_text(value)
    try:
        return to_json(
            _prepared(value), fallback=_unknown, bytes_mode="base64", inf_nan_mode="strings"
        ).decode()
    except (ValueError, RecursionError, PydanticSerializationError):
        return str(value)


def collected(value: Any) -> Any:
    """
    Take a generator's items.

    :param value: Any; what isn't an iterator stays as it is, and so does an open file.
    :returns: A list of at most 1,000 items and about 100,000 characters; when there were more, its last item
        says so.
    """
    if not isinstance(value, Iterator) or isinstance(value, io.IOBase):
        return value
    basket = _Basket()
    for item in cast("Iterator[object]", value):
        if not basket.takes(item):
            break
    if isinstance(value, Generator):
        value.close()
    return basket.items


async def collected_async(items: AsyncIterator[object]) -> list[object]:
    """
    Take an async generator's items.

    :param items: What the tool returned.
    :returns: As `collected`.
    """
    basket = _Basket()
    async for item in items:
        if not basket.takes(item):
            break
    if (close := getattr(items, "aclose", None)) is not None:
        await close()
    return basket.items


class _Basket:
    def __init__(self) -> None:
        self.items: list[object] = []
        self._characters = 0

    def takes(self, item: object) -> bool:
        """Put an item in; False when it didn't fit."""
        if len(self.items) == _ITEMS or self._characters >= _CHARACTERS:
            self.items.append(f"… stopped after {len(self.items)} items: there are more")
            return False
        self.items.append(item)
        self._characters += len(item) if isinstance(item, str | bytes) else len(text_of(item))
        return True


def _output(config: Mapping[str, Any], value: Any) -> Any:
    source = config.get("source")
    if source is not None and isinstance(value, Mapping):
        value = cast("Mapping[str, Any]", value).get(source)
    if (handler := config.get("handler")) is not None:
        return handler(value)
    return value if config.get("raw_result") else text_of(value)


def _parts(value: Any) -> ToolCallResultContentT | None:
    """Haystack's content parts, when a tool returned nothing else: it means them to be passed on."""
    items = cast("list[object]", value if isinstance(value, list) else [value])
    if items and all(isinstance(item, _PARTS) for item in items):
        return cast("ToolCallResultContentT", items)
    return None


def _prepared(value: object) -> object:
    """What pydantic would write with less sense than it has: long bytes, and tuples with names as lists."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(cast("bytes", value))
        return data if len(data) <= _BYTES else {"bytes": len(data), "kind": _kind_of(data)}
    if isinstance(value, tuple) and hasattr(cast("object", value), "_asdict"):
        return cast("Any", value)._asdict()
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [_prepared(item) for item in items] if any(map(_needs_preparing, items)) else items
    return cast("object", value)


def _needs_preparing(value: object) -> bool:
    return isinstance(value, tuple | bytes | bytearray | memoryview)


def _unknown(value: object) -> object:
    """A value of a kind that pydantic doesn't know as one that it does."""
    # Known by their module: to import these libraries takes seconds, and most programs don't have them.
    match type(value).__module__.partition(".")[0]:
        case "numpy":
            return _array(value)
        case "pandas" | "polars" | "pyarrow":
            return _table(value)
        case "PIL":
            return _image(value)
        case _:
            return _exception_text(value) if isinstance(value, BaseException) else str(value)


def _exception_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _array(value: Any) -> object:
    if not hasattr(value, "tolist"):
        return str(value)
    if getattr(value, "size", 1) <= _CELLS:
        return value.tolist()
    head = value.reshape(-1)[:_ROWS].tolist()
    return {"shape": list(value.shape), "dtype": str(value.dtype), "first": head}


def _table(value: Any) -> object:
    shape = getattr(value, "shape", None)
    if shape is None or not hasattr(value, "head"):
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
    head = value.head(_ROWS)
    if len(shape) == 1:
        rows: object = _listed(head)
    else:
        columns = [str(name) for name in value.columns]
        cells = zip(*(_listed(head[name]) for name in value.columns), strict=True)
        rows = [dict(zip(columns, row, strict=True)) for row in cells]
    return rows if shape[0] <= _ROWS else {"shape": list(shape), "head": rows}


def _listed(column: Any) -> Iterable[object]:
    return column.tolist() if hasattr(column, "tolist") else column.to_list()


def _image(value: Any) -> object:
    if not hasattr(value, "size") or not hasattr(value, "mode"):
        return str(value)
    return {
        "image": getattr(value, "format", None),
        "width": value.size[0],
        "height": value.size[1],
        "mode": value.mode,
    }


def _kind_of(data: bytes) -> str:
    signatures = {
        b"\x89PNG": "PNG image",
        b"\xff\xd8\xff": "JPEG image",
        b"GIF8": "GIF image",
        b"%PDF": "PDF document",
        b"PK\x03\x04": "ZIP archive",
        b"\x1f\x8b": "gzip data",
    }
    for start, kind in signatures.items():
        if data.startswith(start):
            return kind
    try:
        data[:_BYTES].decode("utf-8")
    except UnicodeDecodeError:
        return "binary data"
    return "text"
