"""`llama-agent chat`: a conversation with a model that has tools."""

from __future__ import annotations

import importlib
import sys
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING, TextIO

from llama_agent.cli import options
from llama_agent.errors import ConfigurationError, LlamaAgentError, RunInterrupted

if TYPE_CHECKING:
    from haystack.dataclasses import ChatMessage, StreamingChunk
    from haystack.tools.tool import Tool

    from llama_agent.agent import Agent
    from llama_agent.cli.display import Display
    from llama_agent.loop.state import RunResult

_HELP = "Commands: /tools lists the tools, /reset forgets the conversation, /exit leaves."


def chat(
    tools: options.Tools = None,
    workspace: options.WorkspaceFolder = None,
    endpoint: options.Endpoint = None,
    model: options.Model = None,
    system: options.System = None,
    max_steps: options.MaxSteps = 100,
    yes: options.Yes = False,
) -> None:
    """
    Talk with a model that has tools, a line at a time. Answers go to standard output as they come, all else
    to standard error. Ctrl-C stops an answer, and not the chat.

    Commands: /tools lists the tools, /reset forgets the conversation, /exit or the end of input leaves.
    """
    from haystack.dataclasses import ChatMessage

    from llama_agent.cli.agents import agent_for
    from llama_agent.cli.display import Display

    answers = sys.stdout
    # Standard output is the answers': what tools print goes to standard error.
    with redirect_stdout(sys.stderr):
        agent = agent_for(tools, workspace, endpoint, model, max_steps=max_steps, yes=yes)
        before = [ChatMessage.from_system(system)] if system else []
        with agent, Display(quiet=False) as display:
            agent.warm_up()
            _Chat(agent, display, answers, before).go_on()


class _Chat:
    """
    A conversation on a terminal, or of the lines of a file.

    :param agent: Answers.
    :param display: Shows what happens meanwhile.
    :param answers: Where answers go.
    :param before: What the conversation begins with.
    """

    def __init__(self, agent: Agent, display: Display, answers: TextIO, before: list[ChatMessage]) -> None:
        self._agent = agent
        self._display = display
        self._answers = answers
        self._before = before
        self._messages = before
        self._streamed = ""
        """What was shown of the reply that is being streamed, or was last."""
        self._is_line_open = False

    def go_on(self) -> None:
        """Answer until the user leaves."""
        if sys.stdin.isatty():
            _tell(_HELP)
        while (line := _line()) is not None:
            match line.strip():
                case "":
                    continue
                case "/exit" | "/quit":
                    return
                case "/reset":
                    self._messages = self._before
                    _tell("The conversation is forgotten.")
                case "/tools":
                    _list_tools(self._agent)
                case command if command.startswith("/"):
                    _tell(f"There is no command '{command}'. {_HELP}")
                case _:
                    self._answer(line)

    def _answer(self, line: str) -> None:
        self._streamed = ""
        try:
            result = self._agent.run(line, self._show, messages=self._messages, on_event=self._display.show)
        except RunInterrupted as stop:
            self._messages = stop.result.messages
            self._end_line()
            _tell("interrupted")
            return
        except ConfigurationError:
            raise
        except LlamaAgentError as error:
            if error.result is not None and error.result.usage.model_calls:
                self._messages = error.result.messages  # what was done is known, and can be gone on from
            self._end_line()
            _tell(str(error))
            return
        self._messages = result.messages
        self._conclude(result)

    def _show(self, chunk: StreamingChunk) -> None:
        from llama_agent.cli.display import printable

        if chunk.meta.get("superseded"):
            self._end_line()
            _tell("the answer broke off, and begins anew")
        if chunk.content:
            self._streamed = chunk.content if chunk.start else self._streamed + chunk.content
            self._display.stop_thinking()
            self._is_line_open = True
            print(printable(chunk.content), end="", file=self._answers, flush=True)
        if chunk.finish_reason is not None:
            self._end_line()

    def _conclude(self, result: RunResult) -> None:
        from llama_agent.cli.display import printable

        self._end_line()
        if result.text.strip() != self._streamed.strip():
            print(printable(result.text), file=self._answers, flush=True)
        if result.stop_reason not in ("answered", "tool"):
            _tell(f"the run ended early: {result.stop_reason}")

    def _end_line(self) -> None:
        """End what was begun of an answer."""
        self._display.stop_thinking()
        if self._is_line_open:
            print(file=self._answers, flush=True)
        self._is_line_open = False


def _line() -> str | None:
    """What the user says next; None at the end of input."""
    while True:
        try:
            if not sys.stdin.isatty():
                return _read()
            if sys.__stdout__ is None or not sys.__stdout__.isatty():
                print("> ", end="", file=sys.stderr, flush=True)  # the answers go elsewhere
                return _read()
            with suppress(ImportError):
                importlib.import_module("readline")  # lets what is typed be edited
            with redirect_stdout(sys.__stdout__):
                return input("> ")
        except EOFError:
            _tell("")
            return None
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"standard input is no text: {error}") from error
        except KeyboardInterrupt:
            with suppress(KeyboardInterrupt):
                _tell("\n(/exit or Ctrl-D leaves)")


def _read() -> str | None:
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None


def _list_tools(agent: Agent) -> None:
    from haystack.tools import flatten_tools_or_toolsets

    tools: list[Tool] = flatten_tools_or_toolsets(agent.tools)
    for tool in tools:
        _tell(f"{tool.name}: {tool.description.partition(chr(10))[0]}")
    if not tools:
        _tell("There are no tools: llama-agent chat --tools FILE.py")


def _tell(text: str) -> None:
    from llama_agent.cli.display import printable

    print(printable(text), file=sys.stderr, flush=True)
