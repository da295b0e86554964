"""Notices the published `meta-llama-haystack` beside us: both wheels own the same files."""

from __future__ import annotations

import functools
import warnings
from importlib.metadata import PackageNotFoundError, distribution


@functools.cache
def warn_if_installed() -> None:
    """
    Warn, once per process, when the published integration is installed as well.

    Whichever was installed last owns `haystack_integrations/components/generators/meta_llama`; uninstalling
    the other deletes those files for both.
    """
    try:
        distribution("meta-llama-haystack")
    except PackageNotFoundError:
        return
    warnings.warn(
        "meta-llama-haystack is installed beside llama-agent-haystack and owns the same import paths. Run: "
        "pip uninstall meta-llama-haystack, then "
        "pip install --force-reinstall --no-deps llama-agent-haystack",
        stacklevel=4,
    )
