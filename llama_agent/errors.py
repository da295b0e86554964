"""
The exceptions that leave this package.

::

    Exception
    └── LlamaAgentError                 has `.result`: what the run had got to, or None outside a run
        ├── ConfigurationError          the caller's fault; also a ValueError
        ├── EndpointError               the server's answer, or its absence
        │   ├── ContextOverflow         the request doesn't fit into the model's window
        │   ├── ParameterRefused        the server doesn't take a field of the request
        │   └── RetiredEndpointError    Meta's hosted Llama API, gone since 2026-07-06
        └── ToolFailedError             only with `raise_on_tool_invocation_failure=True`
    KeyboardInterrupt
    └── RunInterrupted                  Ctrl-C during a run; has `.result`

and two that tools raise, which never leave it: their text goes to the model.

::

    Exception
    ├── ToolRetry                       the arguments won't do; the model is asked for others
    └── ToolDenied                      the tool won't do this, and asking again won't help

A model's mistake is never an exception: it goes back to the model as a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_agent.redaction import redact

if TYPE_CHECKING:
    from llama_agent.loop.state import RunResult


_MESSAGE_CHARACTERS = 4000
_BODY_CHARACTERS = 4000


class LlamaAgentError(Exception):
    """
    Base of everything that this package raises, Ctrl-C aside.

    `result` holds the run's messages, usage and events up to the failure, or None when no run had begun.

    :param message: What happened and what to do. Secrets are taken out, and it is cut at 4,000 characters.
    """

    result: RunResult | None = None

    def __init__(self, message: str) -> None:
        super().__init__(redact(message, limit=_MESSAGE_CHARACTERS))

    def __reduce__(self) -> tuple[Any, ...]:
        # A process pool sends errors by pickle, which would call the class with the text alone.
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[LlamaAgentError], args: tuple[object, ...]) -> LlamaAgentError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigurationError(LlamaAgentError, ValueError):
    """Something the caller wrote can't work; the text says what to change."""


class EndpointError(LlamaAgentError):
    """
    The model endpoint failed, or answered with something that is no reply.

    :param message: What happened and what to do.
    :param status: HTTP status, or None when no response arrived.
    :param body: The response's body as text, at most 4,000 characters, secrets taken out.
    :param retryable: Whether the same request may succeed later.
    :param retry_after: Seconds the server asked to wait (RFC 9110, section 10.2.3), if it did.
    :param failed_generation: The model's text, where the server could make no tool call of it (Groq's
        `tool_use_failed`).
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        failed_generation: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = None if body is None else redact(body, limit=_BODY_CHARACTERS)
        self.retryable = retryable
        self.retry_after = retry_after
        self.failed_generation = failed_generation


class ContextOverflow(EndpointError):
    """
    The request doesn't fit into the model's window; the same one never will.

    :param message: What happened and what to do.
    :param limit: Tokens that the server takes; None when it doesn't say.
    :param requested: Tokens that it was asked to take, those of the reply included where the server counts
        them; None when it doesn't say.
    :param status: As in `EndpointError`.
    :param body: As in `EndpointError`.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: int | None = None,
        requested: int | None = None,
        status: int | None = None,
        body: str | None = None,
    ) -> None:
        super().__init__(message, status=status, body=body)
        self.limit = limit
        self.requested = requested


class ParameterRefused(EndpointError):
    """
    The server doesn't take a field of the request.

    :param message: What happened and what to do.
    :param parameter: The field's name.
    :param status: As in `EndpointError`.
    :param body: As in `EndpointError`.
    """

    def __init__(
        self, message: str, *, parameter: str, status: int | None = None, body: str | None = None
    ) -> None:
        super().__init__(message, status=status, body=body)
        self.parameter = parameter


class RetiredEndpointError(EndpointError):
    """The request went to Meta's hosted Llama API, which was retired on 2026-07-06."""


class ToolFailedError(LlamaAgentError):
    """
    A tool call failed and the agent was told to raise (`raise_on_tool_invocation_failure=True`).

    :param message: The text that the model would have been given.
    :param tool_name: Name of the tool.
    """

    def __init__(self, message: str, *, tool_name: str) -> None:
        super().__init__(message)
        self.tool_name = tool_name


class RunInterrupted(KeyboardInterrupt):
    """
    Ctrl-C ended a run. A `KeyboardInterrupt`, so that `except Exception` doesn't swallow it.

    :param result: What the run had got to.
    """

    def __init__(self, result: RunResult) -> None:
        super().__init__("the run was interrupted; what it had got to is in .result")
        self.result = result


class ToolRetry(Exception):
    """
    Raised by a tool that wants to be called again, with other arguments.

    :param message: What is wrong and what would do; goes to the model as it is.
    """


class ToolDenied(Exception):
    """
    Raised by a tool that won't do what it was asked for, however it is asked.

    :param message: What isn't allowed, and why; goes to the model as it is.
    """


class ToolDefinitionWarning(UserWarning):
    """A tool works, but a model will find it hard to use."""
