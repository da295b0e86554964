"""
What `llama-agent probe --save` found out: `llama-agent/profiles.json` in the user's configuration folder
(`XDG_CONFIG_HOME`, else `~/.config`). It holds no keys.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from llama_agent.errors import ConfigurationError
from llama_agent.model.profiles import Traits


class SavedProfile(BaseModel):
    """
    What holds for a model at an endpoint.

    :param endpoint: The endpoint's `identity`.
    :param model: The model's name.
    :param probed: When it was found out (ISO 8601, UTC).
    :param traits: What was found out.
    """

    model_config = ConfigDict(extra="forbid")

    endpoint: str
    model: str
    probed: str
    traits: Traits


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    profiles: list[SavedProfile] = []


def profiles_file() -> Path:
    """
    Where profiles are kept.

    :returns: A path; the file need not exist.
    :raises ConfigurationError: There is no such folder: the user has no home.
    """
    folder = os.environ.get("XDG_CONFIG_HOME")
    try:
        base = Path(folder) if folder else Path("~/.config").expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            f"profiles can't be kept: {error} Set XDG_CONFIG_HOME to a folder for them"
        ) from error
    return base / "llama-agent" / "profiles.json"


def saved_profile(endpoint: str, model: str | None) -> SavedProfile | None:
    """
    What was found out about a model at an endpoint.

    :param endpoint: The endpoint's `identity`.
    :param model: The model's name; None for the only one that was probed there.
    :returns: It; None when nothing was saved.
    :raises ConfigurationError: The file can't be read.
    """
    try:
        path = profiles_file()
    except ConfigurationError:
        return None  # nor was anything ever saved
    there = [item for item in _read(path).profiles if item.endpoint == endpoint]
    if model is None:
        return there[0] if len(there) == 1 else None
    return next((item for item in there if item.model == model), None)


def save_profile(endpoint: str, model: str, traits: Traits) -> Path:
    """
    Keep what was found out, in place of what was known before.

    :param endpoint: The endpoint's `identity`.
    :param model: The model's name.
    :param traits: What was found out.
    :returns: The file.
    :raises ConfigurationError: The file can't be read or written.
    """
    path = profiles_file()
    others = [item for item in _read(path).profiles if (item.endpoint, item.model) != (endpoint, model)]
    probed = datetime.now(UTC).isoformat(timespec="seconds")
    kept = [*others, SavedProfile(endpoint=endpoint, model=model, probed=probed, traits=traits)]
    text = json.dumps({"version": 1, "profiles": [_as_json(item) for item in kept]}, indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever reads at that moment sees the old file or the new one, never a half.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.write_text(text + "\n", encoding="utf-8")
            written.replace(path)
    except OSError as error:
        raise ConfigurationError(f"the profile can't be saved to {path}: {error}") from error
    return path


def _as_json(item: SavedProfile) -> dict[str, object]:
    return {
        "endpoint": item.endpoint,
        "model": item.model,
        "probed": item.probed,
        "traits": asdict(item.traits),
    }


@cache
def _file_format() -> TypeAdapter[_File]:
    return TypeAdapter(_File)


def _read(path: Path) -> _File:
    try:
        return _file_format().validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        # A service's account often has no home, or one that is closed to it.
        return _File()
    except OSError as error:
        raise _unreadable(path, str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _unreadable(path, f"{place}: {first['msg']}".removeprefix(": ")) from error


def _unreadable(path: Path, why: str) -> ConfigurationError:
    text = f"the saved profiles in {path} can't be read ({why}): mend or delete the file, and probe again"
    return ConfigurationError(text)
