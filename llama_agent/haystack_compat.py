"""
The only file that imports Haystack's private names. When one is gone, the import error below names it, and so
does `tests/test_haystack_compat.py`.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
from haystack.components.agents.utils import _render_prompt_messages
from haystack.hooks.invocation import _run_hooks, _run_hooks_async

render_prompt_messages = _render_prompt_messages
run_hooks = _run_hooks
run_hooks_async = _run_hooks_async
