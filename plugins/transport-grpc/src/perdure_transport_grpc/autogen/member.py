"""``Member``: one of AutoGen's workers, as a worker of the host.

To the host it is like any other, with a link of its own in memory: so what holds for workers (unique ids, errors for
what cannot be answered, permissions, back-pressure) holds for it. This module says the one's words in the other's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Final

from perdure.errors import DeadlineExceeded, Overloaded, PayloadTooLarge, PerdureError, WorkerLost
from perdure.messages import AgentId, Envelope, ErrorInfo, Hosted, Presence, Subscription, TopicId
from perdure_transport_grpc.autogen import translation
from perdure_transport_grpc.autogen.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Coroutine
    from typing import Any

    from perdure.ports import Clock, Transport
    from perdure_hosting import Principal
    from perdure_hosting.deadlines import Deadlines
    from perdure_transport_grpc.autogen import agent_worker_pb2 as pb
    from perdure_transport_grpc.autogen.directory import Directory
    from perdure_transport_grpc.autogen.settings import AutogenSettings

_log = logging.getLogger("perdure.autogen")

_REMEMBERED: Final = 1000
"""So many events are known again when they come for a second agent of the worker."""

_HINT: Final = "an AutoGen worker gives no answer where a handler returns None, or a type that it did not register"


class Member:
    """One worker.

    Args:
        name: As the host and other workers see it.
        principal: Who it is, and what it may do.
        transport: Its link to the host.
        directory: Which agents live where.
        deadlines: Ends waits.
        clock: The time.
        settings: How.

    Attributes:
        outbox: What is to be written to it.
        subscriptions: Its own, by their ids: the worker has the same.
        types: The agents that live there.
        gone: Its connection has ended.
        left: Set when nothing of it is left.
    """

    def __init__(  # noqa: PLR0913 - made in one place, of parts that know nothing of each other
        self,
        name: str,
        principal: Principal,
        transport: Transport,
        *,
        directory: Directory,
        deadlines: Deadlines,
        clock: Clock,
        settings: AutogenSettings,
    ) -> None:
        self.name = name
        self.principal = principal
        self.outbox = Outbox(name)
        self.subscriptions: dict[str, Subscription] = {}
        self.types: dict[str, None] = {}
        self.gone: bool = False
        self.left = asyncio.Event()
        self._transport = transport
        self._directory = directory
        self._deadlines = deadlines
        self._clock = clock
        self._settings = settings
        self._announcing = asyncio.Lock()
        self._numbers = count(1)
        self._waiting: dict[str, asyncio.Future[pb.RpcResponse]] = {}
        self._forwarded: OrderedDict[tuple[str, TopicId], None] = OrderedDict()
        self._asking: set[asyncio.Task[None]] = set()
        self._publishing: set[asyncio.Task[None]] = set()
        self._accepted = asyncio.Semaphore(settings.publishing)

    async def start(self) -> None:
        """Join the host. Raises as ``Transport.start``."""
        await self._transport.start(self.deliver)

    async def announce(self) -> None:
        """Tell the host what lives there now. Raises ``NotPermitted``."""
        async with self._announcing:
            agents = tuple(Hosted(type_, description="AutoGen") for type_ in self.types)
            await self._transport.announce(Presence(agents, tuple(self.subscriptions.values())))

    async def finish(self) -> None:
        """Wait until nobody waits for it any more, nor it for anybody."""
        while under_way := {*self._asking, *self._publishing, *self._waiting.values()}:
            await asyncio.wait(under_way)

    async def stop(self) -> None:
        """Its connection has ended: say so to all who wait for it, let be accepted what it has published."""
        self.gone = True
        self.outbox.close()
        for task in self._asking:
            task.cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._lost())
        if self._publishing:
            await asyncio.wait(set(self._publishing))
        await self._transport.stop()

    # -- from the host to the worker

    async def deliver(self, envelope: Envelope) -> Envelope:
        """Fills ``perdure.ports.Deliver``."""
        if envelope.kind == "request":
            return await self._ask(envelope)
        try:
            await self._forward(envelope)
        except PerdureError as error:
            _log.warning("the event %r for %s was not delivered: %s", envelope.id, envelope.target, error)
        return Envelope(envelope.id, "reply", envelope.sender, "", b"", content=translation.JSON)

    async def _ask(self, envelope: Envelope) -> Envelope:
        number = str(next(self._numbers))
        message = self._checked(translation.asking(envelope, number))
        future: asyncio.Future[pb.RpcResponse] = asyncio.get_running_loop().create_future()
        if envelope.deadline is None:  # else who asks keeps it, and cancels
            seconds = self._settings.deadline
            msg = f"agent {str(envelope.target)!r} did not answer within {seconds} s; {_HINT}"
            self._deadlines.watch(future, self._clock.now() + seconds, lambda: DeadlineExceeded(msg))
        self._waiting[number] = future
        try:
            await self.outbox.put(message)
            if self.gone:
                raise self._lost()
            return translation.answer_of(await future, envelope)
        finally:
            del self._waiting[number]
            future.cancel()

    async def _forward(self, envelope: Envelope) -> None:
        """Send an event: one for all agents there, for the worker asks its own subscriptions who gets it."""
        target, topic = envelope.target, envelope.topic
        if topic is None or target is None or not self._subscribed(target, topic):
            # For this agent only, which their wire knows of requests alone. Nobody waits for the answer.
            await self.outbox.put(self._checked(translation.asking(envelope, str(next(self._numbers)))))
            return
        event = envelope.id, topic
        if event in self._forwarded:
            return
        self._forwarded[event] = None
        if len(self._forwarded) > _REMEMBERED:
            self._forwarded.popitem(last=False)
        await self.outbox.put(self._checked(translation.publishing(envelope)))

    def _subscribed(self, target: AgentId, topic: TopicId) -> bool:
        return target.key == topic.source and any(
            each.agent == target.type
            and (each.topic == topic.type if each.kind == "type" else topic.type.startswith(each.topic))
            for each in self.subscriptions.values()
        )

    # -- from the worker to the host

    async def read(self, messages: AsyncIterable[pb.Message]) -> None:
        """Take what the worker says, until it says no more."""
        async for message in messages:
            kind = message.WhichOneof("message")
            if kind == "request":
                await self._asked(message.request)
            elif kind == "response":
                future = self._waiting.get(message.response.request_id)
                if future is not None and not future.done():
                    future.set_result(message.response)
            elif kind == "cloud_event":
                await self._accepted.acquire()
                self._begin(self._publish(message.cloud_event), self._publishing)

    async def _asked(self, request: pb.RpcRequest) -> None:
        limit = self._settings.asking
        if len(self._asking) < limit:
            self._begin(self._request(request), self._asking)
            return
        error = Overloaded(f"worker {self.name!r} waits for {limit} answers already: ask when some have come")
        await self._reply(translation.failing(ErrorInfo.of(error), request.request_id))

    async def _request(self, request: pb.RpcRequest) -> None:
        number = request.request_id
        try:
            answer = self._checked(translation.answering(await self._answer(request), number))
        except PerdureError as error:
            answer = translation.failing(ErrorInfo.of(error), number)
        await self._reply(answer)

    async def _reply(self, message: pb.Message) -> None:
        with suppress(WorkerLost):  # then nobody waits for it
            await self.outbox.put(message)

    async def _answer(self, request: pb.RpcRequest) -> Envelope:
        """The host's answer to a worker's request. Raises ``PerdureError``."""
        target = self._directory.resolve(request.target.type, request.target.key)
        deadline = self._clock.now() + self._settings.deadline
        try:
            return await self._transport.send(
                translation.request_of(request, secrets.token_hex(16), target, deadline),
            )
        except DeadlineExceeded as error:
            if not self._directory.is_autogen(target.type):
                raise
            msg = f"{error}; {_HINT}"
            raise DeadlineExceeded(msg) from error

    async def _publish(self, event: pb.CloudEvent) -> None:
        try:
            await self._transport.publish(translation.event_of(event, event.id or secrets.token_hex(16)))
        except PerdureError as error:  # their wire has no answer to an event
            _log.warning("the event %r of worker %r was not published: %s", event.id, self.name, error)
        finally:
            self._accepted.release()

    # -- inside

    def _begin(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _checked(self, message: pb.Message) -> pb.Message:
        size, limit = message.ByteSize(), self._settings.max_message
        if size > limit:
            msg = (
                f"a message of {size} bytes to worker {self.name!r}, which takes {limit}: raise 'max_message', and"
                " 'grpc.max_receive_message_length' in the worker"
            )
            raise PayloadTooLarge(msg)
        return message

    def _lost(self) -> WorkerLost:
        return WorkerLost(f"the AutoGen worker {self.name!r} was lost before it answered: send it again")
