"""
The only file that imports Haystack's private names. When one is gone, the import error below names it, and so does
`tests/test_haystack_compat.py`.
"""

from __future__ import annotations

from haystack.components.agents.utils import _render_prompt_messages as render_prompt_messages
from haystack.hooks.invocation import _run_hooks as run_hooks
from haystack.hooks.invocation import _run_hooks_async as run_hooks_async

__all__ = ["render_prompt_messages", "run_hooks", "run_hooks_async"]
