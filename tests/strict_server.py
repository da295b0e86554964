"""A server that answers 400 or 500 to every history that breaks a rule of OpenAI's format."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tests.endpoint import Item, Maker, Reply, Request, Status

Json = dict[str, Any]


def strictly(*replies: Item, code: int = 400, null_content: bool = False) -> list[Maker]:
    """
    A script's items: each reply is given only to a valid request.

    :param code: Status of a refusal.
    :param null_content: Whether text that is missing is to be null, and not "".
    """

    def maker(reply: Item) -> Maker:
        def answer(request: Request) -> Item:
            found = list(faults(request.messages, null_content=null_content))
            return refusal(code, found) if found else reply

        return answer

    return [maker(reply) for reply in replies]


def refusal(code: int, found: Sequence[str]) -> Status:
    return Status(code, {"error": {"message": "; ".join(found), "type": "invalid_request_error"}})


def always_strictly(reply: Reply, **settings: Any) -> Maker:
    """One answer for every further request."""
    return strictly(reply, **settings)[0]


def faults(messages: Sequence[Json], *, null_content: bool = False) -> Iterator[str]:
    """What is wrong with a history."""
    known: set[str] = set()
    open_: list[str] = []
    for place, message in enumerate(messages):
        role = message.get("role")
        yield from _content_faults(place, message, null_content)
        if role == "tool":
            answered = message.get("tool_call_id")
            if answered in open_:
                open_.remove(answered)
            else:
                yield f"message {place}: no open call has the id {answered!r}"
            continue
        if open_:
            yield f"message {place}: calls without a result: {open_}"
            open_ = []
        for call in message.get("tool_calls", ()):
            id_ = call.get("id")
            if not isinstance(id_, str) or not id_.strip():
                yield f"message {place}: a call has the id {id_!r}"
            elif id_ in known:
                yield f"message {place}: the id {id_!r} was used before"
            else:
                known.add(id_)
                open_.append(id_)
            yield from _call_faults(place, call)
    if open_:
        yield f"at the end: calls without a result: {open_}"


def _content_faults(place: int, message: Json, null_content: bool) -> Iterator[str]:
    role, content = message.get("role"), message.get("content", ...)
    if role not in ("system", "user", "assistant", "tool"):
        yield f"message {place}: unknown role {role!r}"
    calls = message.get("tool_calls")
    if calls is not None and not calls:
        yield f"message {place}: an empty list of calls"
    if role == "assistant" and not calls and not content:
        yield f"message {place}: an assistant without content"
    if content is ...:
        yield f"message {place}: no content"
    if content is None and not (null_content and calls):
        yield f"message {place}: invalid message content type: <nil>"
    if content == "" and null_content:
        yield f"message {place}: text content blocks must be non-empty"


def _call_faults(place: int, call: Json) -> Iterator[str]:
    function = call.get("function", {})
    if call.get("type") != "function" or not function.get("name"):
        yield f"message {place}: no function is called: {call}"
    arguments = function.get("arguments")
    try:
        value = json.loads(arguments, parse_constant=_refused)
    except (TypeError, ValueError):
        yield f"Failed to parse tool call arguments as JSON: {arguments!r}"
    else:
        if not isinstance(value, dict):
            yield f"message {place}: arguments must be an object: {arguments!r}"


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def calls_with_results(messages: Sequence[Json]) -> list[tuple[Json, str]]:
    """Each call's arguments with the text that answers it, in the calls' order."""
    results = {
        message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"
    }
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    return [(json.loads(call["function"]["arguments"]), results[call["id"]]) for call in calls]


def texts(messages: Sequence[Json]) -> str:
    """All that is said in the messages."""
    return "\n".join(str(message.get("content")) for message in messages)
