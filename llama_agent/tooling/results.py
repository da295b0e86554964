"""What a tool returned → what the model reads."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
from collections.abc import AsyncIterable, Collection, Generator, Iterator, Mapping
from typing import Any, cast

from haystack.dataclasses import FileContent, ImageContent, TextContent
from haystack.dataclasses.chat_message import ToolCallResultContentT
from haystack.tools.tool import Tool
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from llama_agent.arguments import shorten

_SINGLE_OUTPUT_KEYS = frozenset({"source", "handler", "raw_result"})
_PARTS = (TextContent, ImageContent, FileContent)

_ITEMS = 1_000
_CHARACTERS = 100_000
"""Most items and characters that are taken from a generator: it may have no end."""
_ROWS = 20
_COLUMNS = 50
_CELLS = 1_000
_CELL_CHARACTERS = 1_000
_BYTES = 4_096
_DEPTH = 100
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def content_of(tool: Tool, value: Any) -> ToolCallResultContentT:
    """
    Turn a tool's return value into message content, by the tool's `outputs_to_string` where it has one.

    :param tool: The tool that returned it.
    :param value: Any value.
    :returns: Text; or content parts, where `raw_result` asks for them or the tool returned such parts.
    """
    value = collected(value)
    config = {} if is_default_output(tool.outputs_to_string) else tool.outputs_to_string or {}
    if not config and (parts := _parts(value)):
        return parts
    if not config or config.keys() & _SINGLE_OUTPUT_KEYS:
        return _output(config, value)
    return text_of({key: text_of(_output(part, value)) for key, part in config.items()})


def is_default_output(config: Mapping[str, Any] | None) -> bool:
    """
    Whether an `outputs_to_string` says no more than ours does by itself.

    :param config: A tool's.
    :returns: True for none, and for the one that every function tool has.
    """
    return config is None or config == {"handler": text_of}


def within(content: ToolCallResultContentT, most: int | None) -> ToolCallResultContentT:
    """
    Content, its texts cut to a size.

    :param content: A tool message's.
    :param most: Most characters, over all texts; None for all.
    :returns: The content; a text that was cut says so at its end.
    """
    if most is None:
        return content
    if isinstance(content, str):
        return _cut(content, most)
    kept: list[TextContent | ImageContent | FileContent] = []
    for part in content:
        if isinstance(part, TextContent):
            text = _cut(part.text, max(0, most))
            most -= len(part.text)
            part = TextContent(text)
        kept.append(part)
    return kept


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}\n… cut: {len(text) - most:,} of {len(text):,} characters are left out"


def text_of(value: object) -> str:
    """
    Compact text for any value. It never fails: a tool that ran must not look as if it had not.

    :param value: A string stays as it is; models, dataclasses, dates, numbers and containers of them become
        JSON; tables and arrays too, large ones as their shape and first rows; small bytes base64; an
        exception its class and text; what JSON can't hold its `str`.
    :returns: The text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, BaseException):
        return _exception_text(value)
    plain = _plain(value, 0)
    try:
        return to_json(plain).decode()
    except (PydanticSerializationError, ValueError):
        # Half a character, as in file names that aren't UTF-8: JSON can still escape it.
        return json.dumps(plain, separators=(",", ":"), default=own_text)


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


async def collected_async(items: AsyncIterable[object]) -> list[object]:
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
        plain = _plain(item, 1)
        self.items.append(item if isinstance(item, _PARTS) else plain)
        self._characters += len(plain) if isinstance(plain, str) else len(text_of(plain))
        return True


def _output(config: Mapping[str, Any], value: Any) -> Any:
    source = config.get("source")
    if source is not None and isinstance(value, Mapping):
        value = cast("Mapping[str, Any]", value).get(source)
    if (handler := config.get("handler")) is not None:
        value = handler(value)
    return _parts(value) or text_of(value) if config.get("raw_result") else text_of(value)


def _parts(value: Any) -> ToolCallResultContentT | None:
    """Haystack's content parts, when a tool returned nothing else: it means them to be passed on."""
    items = cast("list[object]", value if isinstance(value, list) else [value])
    if items and all(isinstance(item, _PARTS) for item in items):
        return cast("ToolCallResultContentT", items)
    return None


def _plain(value: object, depth: int) -> object:
    """A value of any kind in the kinds that JSON has."""
    match value:
        case None | bool() | int() | str() if type(value) in (type(None), bool, int, str):
            return value
        case float():
            return float(value) if math.isfinite(value) else _NOT_FINITE[str(float(value))]
        case bytes() | bytearray() | memoryview():
            return _bytes(bytes(cast("bytes", value)))
        case BaseException():
            return _exception_text(value)
        case TextContent():
            return value.text
        case ImageContent() | FileContent():
            return f"[{value.mime_type or type(value).__name__}: a tool's result can't show it here]"
        case _ if depth > _DEPTH:
            return "… (nested too deeply)"
        case _:
            pass
    try:
        return _container(value, depth)
    except Exception:
        # Serializers, properties and iterators of the value's own may raise anything.
        return own_text(value)


def _container(value: object, depth: int) -> object:
    # Known by their module: to import these libraries takes seconds, and most programs don't have them.
    match type(value).__module__.partition(".")[0]:
        case "numpy":
            return _array(value)
        case "pandas" | "polars" | "pyarrow":
            return _table(value, depth)
        case "PIL":
            return _image(value)
        case "haystack" if hasattr(value, "to_dict"):
            return _plain(cast("Any", value).to_dict(), depth + 1)
        case _:
            pass
    if isinstance(value, tuple) and hasattr(cast("object", value), "_asdict"):
        value = cast("Any", value)._asdict()
    if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
        return collected(cast("Any", value))
    if isinstance(value, BaseModel):
        try:
            value = value.model_dump(mode="json", fallback=lambda inner: _plain(inner, depth + 1))
        except (PydanticSerializationError, ValueError):  # bytes that are no text
            value = value.model_dump()
    elif dataclasses.is_dataclass(item := cast("Any", value)) and not isinstance(item, type):
        value = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {_key(key): _plain(item, depth + 1) for key, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in cast("Collection[object]", value)]
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError:
        # Ranges, deques, views of dictionaries.
        return collected(iter(cast("Any", value))) if isinstance(value, Collection) else own_text(value)


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, tuple):
        return ",".join(map(_key, cast("tuple[object, ...]", key)))
    plain = _plain(key, _DEPTH)
    return plain if isinstance(plain, str) else text_of(plain)


def own_text(value: object) -> str:
    """
    An object's own text.

    :param value: Any.
    :returns: Its `str`; its class's name when that fails.
    """
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _exception_text(error: BaseException) -> str:
    text = own_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _bytes(data: bytes) -> object:
    if len(data) <= _BYTES:
        return base64.b64encode(data).decode()
    return {"bytes": len(data), "kind": _kind_of(data)}


def _array(value: Any) -> object:
    if not hasattr(value, "tolist"):
        return own_text(value)
    if getattr(value, "size", 1) <= _CELLS:
        return _plain(value.tolist(), 1)
    head = value.reshape(-1)[:_ROWS].tolist()
    return {"shape": list(value.shape), "dtype": str(value.dtype), "first": _plain(head, 1)}


def _table(value: Any, depth: int) -> object:
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or not hasattr(value, "head"):
        return value.isoformat() if hasattr(value, "isoformat") else own_text(value)
    head = value.head(_ROWS)
    # Labels of the rows, unless they are but their numbers; polars has none.
    labelled = type(getattr(head, "index", None)).__name__ not in ("RangeIndex", "NoneType", "method")
    if len(cast("tuple[int, ...]", shape)) == 1:
        cells = [_cell(cell, depth) for cell in _listed(head)]
        rows: object = dict(zip(map(str, head.index), cells, strict=True)) if labelled else cells
    else:
        rows = _rows(head.reset_index() if labelled else head, depth)
    return rows if shape[0] <= _ROWS else {"shape": list(cast("tuple[int, ...]", shape)), "head": rows}


def _rows(head: Any, depth: int) -> object:
    """Rows as objects; with names that occur twice, or very many columns, as lists."""
    columns = [str(name) for name in head.columns]
    tuples = head.itertuples(index=False, name=None) if hasattr(head, "itertuples") else head.rows()
    cells = [[_cell(cell, depth) for cell in row[:_COLUMNS]] for row in tuples]
    if len(set(columns)) == len(columns) <= _COLUMNS:
        return [dict(zip(columns, row, strict=True)) for row in cells]
    return {"columns": columns[:_COLUMNS], "of": len(columns), "rows": cells}


def _cell(value: Any, depth: int) -> object:
    """A table's cell; a gap is null, and a long text is cut."""
    if type(value).__name__ in ("NaTType", "NAType") or (isinstance(value, float) and math.isnan(value)):
        return None
    cell: Any = value
    if hasattr(cell, "isoformat"):
        return cell.isoformat()
    if type(cell).__module__.partition(".")[0] in ("pandas", "polars", "pyarrow"):
        return own_text(cell)
    plain = _plain(cell, depth + 2)
    return shorten(plain, _CELL_CHARACTERS) if isinstance(plain, str) else plain


def _listed(column: Any) -> list[object]:
    return column.tolist() if hasattr(column, "tolist") else column.to_list()


def _image(value: Any) -> object:
    if not hasattr(value, "size") or not hasattr(value, "mode"):
        return own_text(value)
    width, height = value.size
    described = {
        "image": getattr(value, "format", None),
        "width": width,
        "height": height,
        "mode": value.mode,
    }
    return {key: item for key, item in described.items() if item is not None}


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
