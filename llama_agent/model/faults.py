"""
What goes wrong between us and a server → an `EndpointError` that shows what the server said, says what to do,
and knows whether another attempt makes sense.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpx2
import openai
from openai import AsyncOpenAI, OpenAI

from llama_agent.errors import EndpointError, RetiredEndpointError
from llama_agent.model.endpoints import is_retired_host, retired_text
from llama_agent.model.interrupts import held_to
from llama_agent.model.rate_headers import wait_asked_for
from llama_agent.model.request_faults import is_retryable, request_fault
from llama_agent.model.streams import Json, error_text, parse_object
from llama_agent.redaction import redact

_SAID_SHOWN = 1000
_PASSING_TLS_FAULTS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""The other side went away while TLS was set up: that may pass, unlike a certificate that doesn't suit."""


class translated:
    """Turns the `openai` client's exceptions into ours."""

    def __init__(self, client: OpenAI | AsyncOpenAI) -> None:
        self._client = client
        self._base_url = str(client.base_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        fault = self._fault_of(error)
        if fault is None:
            return
        try:
            raise fault from None
        finally:
            # A traceback, or whoever walks it, would show the client's exceptions: headers, bodies, URLs.
            fault.__context__ = None

    def _fault_of(self, error: BaseException | None) -> EndpointError | None:
        base_url = self._base_url
        if isinstance(error, openai.APIStatusError):
            return _status_error(error, base_url)
        if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
            return EndpointError(_timeout_text(base_url, error), retryable=True)
        if isinstance(error, Exception) and self._client.is_closed():
            return EndpointError(f"the generator was closed while {base_url} was asked")
        if any(isinstance(cause, httpx2.DecodingError) for cause in _causes(error)):
            text = f"{base_url} sent a body that isn't packed as its Content-Encoding says ({error})"
            return EndpointError(text, retryable=True)
        if isinstance(error, openai.APIConnectionError | httpx2.RequestError):
            return _connection_error(base_url, error)
        if isinstance(error, openai.OpenAIError):
            return EndpointError(f"the openai client refused the request: {error}")
        return None


@contextmanager
def saying_retired(client: OpenAI | AsyncOpenAI) -> Generator[None]:
    """
    Say of any failure on Meta's retired host that it was retired.

    :param client: Its base URL tells the host.
    :returns: A context manager.
    """
    try:
        yield
    except EndpointError as error:
        if not is_retired_host(str(client.base_url)):
            raise
        raise RetiredEndpointError(
            f"{error} {retired_text()}", status=error.status, body=error.body
        ) from None


def _status_error(error: openai.APIStatusError, base_url: str) -> EndpointError:
    response, status = error.response, error.status_code
    body = response.text
    if 300 <= status < 400:
        target = redirect_target(error)
        said = f"{base_url} redirects to {target}; the conversation was not sent there. "
        return EndpointError(
            f"{said}If that is where it should go, make it the api_base_url.", status=status, body=body
        )
    parsed = _json_of(error)
    said = error_text(parsed) or redact(body.strip(), limit=300) or response.reason_phrase
    told = f"{base_url} answered {status}: {redact(said, limit=_SAID_SHOWN).rstrip('. ')}."
    if (fault := request_fault(told, status=status, body=parsed, text=body, said=said)) is not None:
        return fault
    cures = {
        401: " Check the key: api_key=, LLAMA_AGENT_API_KEY or the preset's own variable.",
        404: " Is the base URL complete? Most servers want it to end in /v1. Is the model's name right?",
    }
    return EndpointError(
        f"{told}{cures.get(status, '')}",
        status=status,
        body=body,
        retryable=is_retryable(status, body),
        retry_after=wait_asked_for(response.headers, limited=status == 429),
    )


def redirect_target(error: openai.APIStatusError) -> str:
    """
    Where a redirect leads.

    :param error: Its answer.
    :returns: The `Location`, whole where it can be made so; empty when there is none.
    """
    location = error.response.headers.get("location", "")
    try:
        return urljoin(str(error.request.url), location) if location else ""
    except ValueError:
        return location


def _json_of(error: openai.APIStatusError) -> Json | None:
    try:
        return parse_object(error.response.content)
    except EndpointError:
        return None


def _timeout_text(base_url: str, error: BaseException) -> str:
    if any(isinstance(cause, httpx2.ConnectTimeout) for cause in _causes(error)):
        return f"{base_url} did not accept a connection in time. Is it running, and the address right?"
    return f"{base_url} did not answer in time. Raise timeout= if the model is just slow."


def _connection_error(base_url: str, error: BaseException) -> EndpointError:
    causes = list(_causes(error))
    said = str(causes[-1]) or type(causes[-1]).__name__
    tls = [cause for cause in causes if isinstance(cause, ssl.SSLError)]
    if tls and not isinstance(tls[-1], _PASSING_TLS_FAULTS):
        return EndpointError(
            f"{base_url}: no secure connection can be made ({tls[-1]}). Is it https, and is its certificate "
            "known here? http_client_kwargs={'verify': ...} takes an ssl.SSLContext with your authorities.",
            retryable=False,
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        host = urlsplit(base_url).hostname
        return EndpointError(
            f"{base_url} can't be reached: the name '{host}' isn't known ({said}). Is it spelt right, and is "
            "there a network?",
            retryable=True,
        )
    return EndpointError(f"{base_url} can't be reached ({said}). Is the server running?", retryable=True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, the root last."""
    seen: set[int] = set()
    cause = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def in_time(pieces: Iterable[bytes], until: float | None) -> Iterator[bytes]:
    """
    Bytes as they arrive, up to a time.

    :param pieces: What a response gives.
    :param until: The time on `time.monotonic`'s clock; None for no bound.
    :returns: The pieces.
    :raises EndpointError: The time is over.
    """
    waiting = iter(pieces)
    while True:
        with within_time(until):
            piece = next(waiting, None)
        if piece is None:
            return
        if until is not None and time.monotonic() > until:
            raise too_slow()  # it still sends, if little at a time
        yield piece


@contextmanager
def within_time(until: float | None) -> Generator[None]:
    """
    End what waits for a server within the block when its time is over.

    :param until: The time on `time.monotonic`'s clock; None for no bound.
    :raises EndpointError: It was over.
    """
    if until is None:
        yield
        return
    try:
        with held_to(until):
            yield
    except (openai.APITimeoutError, httpx2.TimeoutException):
        if time.monotonic() >= until:
            raise too_slow() from None
        raise


def too_slow() -> EndpointError:
    """
    The error for an attempt that took too long as a whole.

    :returns: The error.
    """
    return EndpointError(
        "the server did not answer in time: the attempt took longer than attempt_timeout, or what is left of "
        "the run's own time, allows",
        retryable=True,
    )
