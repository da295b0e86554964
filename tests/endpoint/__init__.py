"""
A model endpoint for tests: a real HTTP server on 127.0.0.1 that answers chat completions by script.

It is a server and not a patched client, so that what a test sees (resets, bodies cut short, streams that end
early, keep-alive, time-outs) went through the client's own HTTP stack.

    with Endpoint() as endpoint:
        endpoint.script(Reply(calls=[("add", {"a": 2, "b": 3})]), Status(503), Reply("5"))
        ...  # point a client at endpoint.url
        assert endpoint.requests[-1].messages[-1]["role"] == "tool"

Leaving the block fails the test when a request came that the script has no answer for, or when an answer is
left over.
"""

from tests.endpoint.script import Always, Drop, Item, Maker, Raw, Reply, Request, Status
from tests.endpoint.server import Endpoint

__all__ = ["Always", "Drop", "Endpoint", "Item", "Maker", "Raw", "Reply", "Request", "Status"]
