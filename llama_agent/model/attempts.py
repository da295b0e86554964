"""One request of a mode → its answer: in its turn, streamed to the callback, and again when that may help."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, cast

from haystack.dataclasses import StreamingCallbackT, StreamingChunk
from openai import AsyncOpenAI, OpenAI

from llama_agent.errors import EndpointError, ParameterRefused
from llama_agent.json_schema import estimated_tokens
from llama_agent.model.asking import Ask, Fetch
from llama_agent.model.early_calls import EarlyCalls
from llama_agent.model.faults import too_slow
from llama_agent.model.pacing import Pacer, Patience, RateLimit, Ticket
from llama_agent.model.replies import ChunkMaker, whole
from llama_agent.model.retry import RetryPolicy
from llama_agent.model.streams import Delta, Json, Reply, ReplyAssembler
from llama_agent.model.wire import Transport, WireRequest

Answer: TypeAlias = list[Reply] | Json
"""Replies of an `Ask`, the JSON of a `Fetch`."""


@dataclass(frozen=True)
class Attempts:
    """
    How the requests of one model call are sent.

    :param transport: Sends them.
    :param policy: When they are sent again.
    :param pacer: The endpoint's book; used with a `limit` only.
    :param limit: How fast the endpoint may be asked; None for as fast as can be.
    :param callback: Given the chunks of streamed replies.
    :param maker: Makes the chunks of this model call.
    :param early: Told of streamed replies as they come; None where nobody listens.
    """

    transport: Transport
    policy: RetryPolicy
    pacer: Pacer
    limit: RateLimit | None
    callback: StreamingCallbackT | None
    maker: ChunkMaker
    early: EarlyCalls | None = None

    def perform(self, client: OpenAI, effect: Ask | Fetch) -> Answer:
        """
        Send a request until it is answered.

        :param client: Sends it.
        :param effect: What the mode wants.
        :returns: Replies of an `Ask`, the JSON of a `Fetch`.
        :raises EndpointError: The server failed for good, or too often.
        """
        maker, deadline = self.maker, self._deadline()

        def attempt() -> Answer:
            without: set[str] = set()
            while True:
                try:
                    with self._turn(effect.request, deadline) as turn:
                        answer = turn.took(self._send(client, replace(effect, request=turn.request), maker))
                except ParameterRefused as refused:
                    self._do_without(refused, effect.request, without)
                else:
                    self.transport.check_not_cut(effect.request, answer)
                    return answer

        try:
            return self.policy.retrying()(attempt)
        except EndpointError:
            # Whoever asks another model now, as Haystack's FallbackChatGenerator does, shows its answer anew.
            self._show(maker, maker.restart())
            raise

    async def perform_async(self, client: AsyncOpenAI, effect: Ask | Fetch) -> Answer:
        """`perform`, on the running event loop."""
        maker, deadline = self.maker, self._deadline()

        async def attempt() -> Answer:
            without: set[str] = set()
            while True:
                try:
                    async with self._turn_async(effect.request, deadline) as turn, _in_time(self.policy):
                        asked = replace(effect, request=turn.request)
                        answer = turn.took(await self._send_async(client, asked, maker))
                except ParameterRefused as refused:
                    self._do_without(refused, effect.request, without)
                else:
                    self.transport.check_not_cut(effect.request, answer)
                    return answer

        try:
            return await self.policy.retrying_async()(attempt)
        except EndpointError:
            await self._show_async(maker, maker.restart())
            raise

    def _do_without(self, refused: ParameterRefused, request: WireRequest, without: set[str]) -> None:
        """Have the request sent again without a field that it needn't have; at most once for each field."""
        if refused.parameter in without or not self.transport.leave_out(refused.parameter, request):
            raise refused
        without.add(refused.parameter)

    def _send(self, client: OpenAI, effect: Ask | Fetch, maker: ChunkMaker) -> Answer:
        request = effect.request
        if self.policy.attempt_timeout is not None:
            request = replace(request, until=time.monotonic() + self.policy.attempt_timeout)
        if isinstance(effect, Fetch):
            return self.transport.send_json(client, request)
        self._show(maker, maker.restart())
        if not request.stream:
            return _read(effect, self.transport.send(client, request))
        assembler, early = ReplyAssembler(), self._early(effect)
        reading = effect.text_calls.reading() if effect.text_calls else None
        for delta in self.transport.stream(client, request, assembler):
            shown = _wanted(effect, reading.shown(delta) if reading else delta)
            maker.note(shown)
            if self.callback is not None:
                self._show(maker, maker.chunks(shown, assembler.reply))
            if early is not None:
                early.look(assembler, reading)
        (reply,) = _without_unwanted(effect, [assembler.finish()])
        if reading:
            rest = reading.end(reply)
            if reading.starts_over:
                self._show(maker, maker.restart())
            self._show(maker, maker.told(rest, reply))
        return [reply]

    def tell(self, reply: Reply) -> None:
        """
        Show a reply that came in another way than a stream.

        :param reply: The reply.
        """
        self._show(self.maker, self.maker.told(whole(reply), reply))

    async def tell_async(self, reply: Reply) -> None:
        """`tell`, on the running event loop."""
        await self._show_async(self.maker, self.maker.told(whole(reply), reply))

    async def _send_async(self, client: AsyncOpenAI, effect: Ask | Fetch, maker: ChunkMaker) -> Answer:
        request = effect.request
        if isinstance(effect, Fetch):
            return await self.transport.send_json_async(client, request)
        await self._show_async(maker, maker.restart())
        if not request.stream:
            return _read(effect, await self.transport.send_async(client, request))
        assembler, early = ReplyAssembler(), self._early(effect)
        reading = effect.text_calls.reading() if effect.text_calls else None
        async for delta in self.transport.stream_async(client, request, assembler):
            shown = _wanted(effect, reading.shown(delta) if reading else delta)
            maker.note(shown)
            if self.callback is not None:
                await self._show_async(maker, maker.chunks(shown, assembler.reply))
            if early is not None:
                early.look(assembler, reading)
                await early.listener.ready()
        (reply,) = _without_unwanted(effect, [assembler.finish()])
        if reading:
            rest = reading.end(reply)
            if reading.starts_over:
                await self._show_async(maker, maker.restart())
            await self._show_async(maker, maker.told(rest, reply))
        return [reply]

    def _early(self, effect: Ask) -> EarlyCalls | None:
        """Who is told of the reply's calls."""
        if self.early is None or effect.drops_calls:
            return None
        self.early.begins()
        return self.early

    def _show(self, maker: ChunkMaker, chunks: Iterable[StreamingChunk]) -> None:
        with maker.forgotten_on_error():
            for chunk in chunks:
                if self.callback is not None:
                    self.callback(chunk)

    async def _show_async(self, maker: ChunkMaker, chunks: Iterable[StreamingChunk]) -> None:
        with maker.forgotten_on_error():
            for chunk in chunks:
                if self.callback is not None and inspect.isawaitable(answer := self.callback(chunk)):
                    await answer

    @contextmanager
    def _turn(self, request: WireRequest, deadline: float) -> Generator[_Turn]:
        if self.limit is None or request.method == "GET":
            yield _Turn(request)
            return
        patience = Patience(deadline, self.policy.max_retry_after)
        admitted = self.pacer.admitted(self.limit, self._tokens_of(request), patience)
        with admitted as ticket, self._booked(ticket):
            yield self._turn_of(ticket, request)

    @asynccontextmanager
    async def _turn_async(self, request: WireRequest, deadline: float) -> AsyncGenerator[_Turn]:
        if self.limit is None or request.method == "GET":
            yield _Turn(request)
            return
        patience = Patience(deadline, self.policy.max_retry_after)
        async with self.pacer.admitted_async(self.limit, self._tokens_of(request), patience) as ticket:
            with self._booked(ticket):
                yield self._turn_of(ticket, request)

    def _turn_of(self, ticket: Ticket, request: WireRequest) -> _Turn:
        heard = partial(self.pacer.heard, ticket)
        return _Turn(replace(request, heard=heard), partial(self.pacer.used, ticket))

    @contextmanager
    def _booked(self, ticket: Ticket) -> Generator[None]:
        try:
            yield
        except EndpointError as error:
            if error.retryable and error.retry_after:
                self.pacer.refused(min(error.retry_after, self.policy.max_retry_after))
            if error.status is not None:
                self.pacer.used(ticket, 0)  # it was turned away, and read nothing
            raise

    def _tokens_of(self, request: WireRequest) -> int:
        """What a request will take at most, as far as can be said before."""
        limits = (request.fields.get(name) for name in ("max_tokens", "max_completion_tokens"))
        reply = max((limit for limit in limits if isinstance(limit, int)), default=0)
        return estimated_tokens(len(self.transport.body(request))) + reply

    def _deadline(self) -> float:
        return math.inf if self.policy.deadline is None else time.monotonic() + self.policy.deadline


def _wanted(effect: Ask, delta: Delta) -> Delta:
    """A delta without calls, where there is nothing to call."""
    if not effect.drops_calls:
        return delta
    reason = "stop" if delta.finish_reason == "tool_calls" else delta.finish_reason
    return replace(delta, calls=(), finish_reason=reason)


def _without_unwanted(effect: Ask, replies: list[Reply]) -> list[Reply]:
    for reply in replies:
        if effect.drops_calls and reply.calls:
            reply.calls, reply.finish_reason = [], "stop"
    return replies


def _read(effect: Ask, replies: list[Reply]) -> list[Reply]:
    replies = _without_unwanted(effect, replies)
    if effect.text_calls is not None:
        for reply in replies:
            effect.text_calls.read(reply)
    return replies


@dataclass(frozen=True)
class _Turn:
    """A request whose turn has come; `used` is told the tokens that it took."""

    request: WireRequest
    used: Callable[[int], object] | None = None

    def took(self, answer: Answer) -> Answer:
        if self.used is not None:
            usages = [reply.usage for reply in answer] if isinstance(answer, list) else [answer.get("usage")]
            total = cast("Json", usages[0] or {}).get("total_tokens") if usages else None
            if isinstance(total, int):
                self.used(total)
        return answer


@asynccontextmanager
async def _in_time(policy: RetryPolicy) -> AsyncGenerator[None]:
    """One attempt, cut off when it takes longer than the policy allows."""
    limit = asyncio.timeout(policy.attempt_timeout)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise too_slow() from None
