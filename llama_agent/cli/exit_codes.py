"""Exit codes of the command line."""

ANSWERED = 0
FAILED = 1
USAGE = 2
LIMIT = 3
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
