"""``LocalMessenger``: a runtime's side of its transport. Sends, publishes, and delivers to the agents that live here.

The path of a message between two agents of one process is short on purpose: no middleware, no lock, no timer and no
copy where none is asked for. Between processes it is the same path, with what it takes to pack and unpack at its ends.
What is asked for besides (interventions, runtime middleware) goes the longer way around the same two ends, ``_handle``
and ``_carry``.
"""

from __future__ import annotations

import asyncio
import secrets
from contextvars import copy_context
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from perdure import Agent, config
from perdure.direct import DirectContext
from perdure.errors import (
    CallFailed,
    MessageDropped,
    PerdureError,
    RetryableError,
    SessionBusy,
    Undeliverable,
)
from perdure.messages import AgentId, Envelope, ErrorInfo, TopicId
from perdure.ports import Operation
from perdure_messaging.actors import Actor
from perdure_messaging.contexts import MessageContext, handling, topic_of
from perdure_messaging.durable import HandlerFailed
from perdure_messaging.homes import Homes, Resident
from perdure_messaging.inbox import ANCESTRY, ancestry_of, with_ancestry
from perdure_messaging.instances import Instances
from perdure_messaging.intake import Intake
from perdure_messaging.interventions import passed, replied
from perdure_messaging.letters import DeadLetters
from perdure_messaging.message_types import form_of
from perdure_messaging.revival import revived
from perdure_messaging.settings import SECTION, Settings
from perdure_messaging.wire import envelope_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure import Runtime
    from perdure.context import Callee
    from perdure.messages import Whereabouts
    from perdure.ports import Clock, Transport
    from perdure_messaging.durable import Recipients
    from perdure_messaging.instances import Slot
    from perdure_messaging.interventions import Intervention

_NO_HEADERS: Final[dict[str, str]] = {}
"""Envelopes are never changed in place, so they may share it."""


class LocalMessenger:
    """Fills ``perdure.ports.Messenger`` and ``Deliver``.

    The transport is connected at the first message: a runtime that sends none pays nothing.

    Args:
        runtime: Whose agents these are.

    Attributes:
        clock: The time.
        letters: Events that nobody could handle.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.clock: Clock = runtime.clock
        self._runtime = runtime
        self._settings: Settings = config.section(runtime.settings(SECTION), Settings, SECTION)
        self._interventions: list[Intervention] = [
            item for _, _, items in runtime.plugins.collect("perdure_interventions") for item in items
        ]
        self._watched = bool(runtime.middleware or self._interventions)
        self._homes = Homes(runtime.catalog, runtime.configuration.max_payload)
        self._intake = Intake(runtime, self._homes)
        self._durable = self._intake.durable
        self.closing = False
        self._instances = Instances(runtime.clock, self._settings.grace)
        self._slots = self._instances.slots
        self.letters = DeadLetters(self._settings.dead_letters)
        self._transport: Transport | None = None
        self._serialises = False
        self._connecting = asyncio.Lock()
        self._context = copy_context()
        self._ids = map(f"{secrets.token_hex(16)}%x".__mod__, count())

    # -- the port

    async def start(self) -> None:
        """Connect now, and say what lives here. Idempotent."""
        await self._connected()

    async def stop(self) -> None:
        """Let finish what was accepted, then disconnect and let the agents go. Idempotent."""
        self.closing = True
        if self._transport is not None:
            await self._transport.stop()
        await self._instances.stop()

    async def agents(self) -> Sequence[Whereabouts]:
        """See ``Runtime.agents``."""
        found = await (await self._connected()).agents()
        return [each._replace(instances=self._living(each.type)) if each.worker == "local" else each for each in found]

    async def send(self, message: object, to: AgentId, *, deadline: float | None = None, id: str | None = None) -> Any:
        """See ``Runtime.send``."""
        ctx = handling.get()
        sender = ctx.address if ctx is not None and ctx.active else None
        target = self._homes.resolved(to) if to.type in self._homes.short else to
        type_ = form_of(type(message)).type
        at = None if deadline is None else self.clock.now() + deadline
        id_ = id or next(self._ids)
        envelope = envelope_of((id_, "request", target, type_, message, sender, _NO_HEADERS, at, None, ""))
        if self._watched:
            return await self.request(envelope)
        transport = self._transport or await self._connected()
        answer = await transport.send(self._fitting(envelope) if self._serialises else envelope)
        if answer.kind == "reply" and not answer.content:
            return answer.payload
        return self._outcome(answer, target)

    async def publish(self, message: object, topic: TopicId, *, id: str | None = None) -> None:
        """See ``Runtime.publish``."""
        ctx = handling.get()
        sender = ctx.address if ctx is not None and ctx.active else None
        type_ = form_of(type(message)).type
        id_ = id or next(self._ids)
        envelope = envelope_of((id_, "event", None, type_, message, sender, _NO_HEADERS, None, topic, ""))
        if self._watched:
            await self.post(envelope)
        else:
            transport = self._transport or await self._connected()
            await transport.publish(self._fitting(envelope) if self._serialises else envelope)

    # -- sending

    async def request(self, envelope: Envelope) -> Any:
        """Carry a live request; return its reply, or raise its error."""
        return self._outcome(await self._carry(envelope), envelope.target)

    async def post(self, envelope: Envelope) -> None:
        """Carry an event."""
        transport = self._transport or await self._connected()
        if not self._watched:
            await transport.publish(self._fitting(envelope) if self._serialises else envelope)
        elif (seen := await self.outgoing(envelope)) is not None:
            await self.carry_event(seen)

    async def carry_event(self, envelope: Envelope) -> None:
        """Carry an event that the interventions have seen."""
        transport = self._transport or await self._connected()

        async def publish(operation: Operation) -> None:
            await transport.publish(self._fitting(envelope._replace(headers=operation.headers)))

        kind = "publish" if envelope.target is None else "send"
        operation = Operation(kind, str(envelope.target or envelope.topic), envelope.headers, envelope.type)
        await self._runtime.through(operation, publish)

    def recipients(self, envelope: Envelope) -> Recipients:
        """Who gets an event that a durable agent has sent, its sender left out."""
        return self._intake.recipients(envelope)

    def custom(self, type_: str, topic: TopicId) -> Sequence[AgentId]:
        """Whom the code of an agent type names for a topic."""
        return self._homes.custom(type_, topic)

    async def outgoing(self, envelope: Envelope) -> Envelope | None:
        """A live message as the interventions leave it; ``None`` for an event that one dropped."""
        try:
            stage = "on_publish" if envelope.kind == "event" and envelope.target is None else "on_send"
            return await passed(self._interventions, stage, envelope)
        except MessageDropped:
            if envelope.kind == "event":
                return None
            raise

    def addressed(self, to: Any, sender: AgentId) -> tuple[AgentId | None, TopicId | None]:
        """Whom an author means by an address or topic, with the qualified type of the agent."""
        return (self._homes.resolved(to), None) if isinstance(to, AgentId) else (None, topic_of(to, sender))

    def packed(self, envelope: Envelope) -> Envelope:
        """A message with a payload of bytes. Raises ``NotEncodable``, ``PayloadTooLarge``."""
        return self._homes.packed(envelope)

    async def _carry(self, envelope: Envelope) -> Envelope:
        """A request to its reply or error envelope."""
        transport = self._transport or await self._connected()
        if not self._watched:
            return await transport.send(self._fitting(envelope) if self._serialises else envelope)
        carried = await passed(self._interventions, "on_send", envelope)

        async def send(operation: Operation) -> Envelope:
            return await transport.send(self._fitting(carried._replace(headers=operation.headers)))

        operation = Operation("send", str(carried.target), carried.headers, carried.type)
        answer: Envelope = await self._runtime.through(operation, send)
        return answer

    def _outcome(self, answer: Envelope, target: AgentId | None) -> Any:
        """The reply that came, or its error raised."""
        if answer.kind == "error":
            raise _revived(str(target), answer.error)
        return answer.payload if not answer.content else self._homes.unpacked_reply(answer, target)

    def _fitting(self, envelope: Envelope) -> Envelope:
        """The envelope as the transport takes it."""
        if not self._serialises:
            return envelope
        ctx = handling.get()
        if envelope.kind == "request" and ctx is not None and ctx.active:
            waiting = (*ancestry_of(ctx.message.headers), str(ctx.address))
            envelope = envelope._replace(headers=with_ancestry(envelope.headers, waiting))
        return self._homes.packed(envelope)

    # -- what contexts ask for

    async def message(
        self, ctx: MessageContext, kind: Literal["call", "send", "publish"], to: Any, message: object
    ) -> Any:
        """Carry a message of a handler by address or topic; return the reply, or of others the id."""
        own, id_ = ctx.message, next(self._ids)
        target, topic = self.addressed(to, ctx.address)
        type_ = form_of(type(message)).type
        if kind == "call":
            request = Envelope(id_, "request", target, type_, message, ctx.address, own.headers, own.deadline)
            return await self.request(request)
        headers = with_ancestry(own.headers, ()) if ANCESTRY in own.headers else own.headers
        await self.post(Envelope(id_, "event", target, type_, message, ctx.address, headers, topic=topic))
        return id_

    async def call_actor(self, ctx: MessageContext, callee: Actor[Any], message: object, session: str | None) -> Any:
        """Call a declared message agent with a live message; a fresh instance, where no session is named."""
        callee.candidates(type(message), event=False)
        to = AgentId(
            self._runtime.catalog.target(cast("Callee", callee), ctx.address.type), session or secrets.token_hex(8)
        )
        return await self._call_agent(ctx, to, message)

    async def call(self, ctx: MessageContext, callee: Callee, payload: bytes, session: str | None) -> bytes:
        """Call a workflow, which runs inline, or an agent, by message. JSON in and out."""
        catalog = self._runtime.catalog
        to = AgentId(catalog.target(callee, ctx.address.type), session or secrets.token_hex(8))
        if callee.kind == "workflow":
            within = MessageContext(self, ctx.message, to, None)

            async def inline(callee: Callee, payload: bytes, session: str | None) -> bytes:
                return await self.call(within, callee, payload, session)

            try:
                program = catalog.program(to.type, catalog.version(to.type))
                return await program(DirectContext(inline, self.clock), payload)
            except Exception as error:
                raise CallFailed(to.type, ErrorInfo.of(error)) from error
        declared: Any = catalog.find("agent", to.type)[1]
        chats = isinstance(declared, Agent)
        if chats and (ctx.waits_for(to) or str(to) in ancestry_of(ctx.message.headers)):
            raise _busy(to)
        reply: bytes = cast("Any", declared).encode_result(
            await self._call_agent(ctx, to, cast("Any", declared).decode_input(payload))
        )
        return reply

    async def _call_agent(self, ctx: MessageContext, to: AgentId, message: object) -> Any:
        own = ctx.message
        type_ = form_of(type(message)).type
        envelope = Envelope(next(self._ids), "request", to, type_, message, ctx.address, own.headers, own.deadline)
        answer = await self._carry(envelope)
        if answer.kind == "error":
            error, busy = answer.error, f"{SessionBusy.__module__}.{SessionBusy.__qualname__}"
            if error.type == busy and (ctx.waits_for(to) or str(to) in ancestry_of(own.headers)):
                raise SessionBusy(error.message)
            raise CallFailed(to.type, error)
        return answer.payload if not answer.content else self._homes.unpacked_reply(answer, to)

    # -- delivering

    async def deliver(self, envelope: Envelope) -> Envelope:
        """Fill ``perdure.ports.Deliver``.

        Here stands what most messages need and no more: an agent that is there and free, and nothing around it.
        """
        slot = self._slots.get(envelope.target)  # pyright: ignore[reportArgumentType] - None has none
        if slot is None or slot.agent is None or slot.busy or self._watched:
            return await self._deliver(envelope)
        event, actor = envelope.kind == "event", slot.actor
        try:
            live = self._homes.unpacked(envelope) if envelope.content else envelope
            message: object = live.payload
            method = (actor.events if event else actor.requests).get(type(message))
            if method is None or actor.concurrent:
                payload = await self._handle(live, slot)
            else:
                slot.used = slot.busy = True
                ctx = MessageContext(self, live, slot.address, slot)
                handling.set(ctx)
                try:
                    payload = await getattr(slot.agent, method)(message, ctx)
                finally:
                    ctx.active = False
                    if slot.waiting:
                        slot.leave()
                    else:
                        slot.busy = False
            if envelope.content and not event:
                return self._homes.packed_reply(envelope, payload, slot.address)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises travels back to the caller
            return self._undelivered(envelope, error)
        return envelope if event else Envelope(envelope.id, "reply", envelope.sender, "", payload)

    async def _deliver(self, envelope: Envelope) -> Envelope:
        """All other messages: to what is durable, not there yet or busy; with interventions and middleware."""
        target, event = envelope.target, envelope.kind == "event"
        if target is not None and target.type in self._durable:
            return await self._accept(envelope, target)

        async def handle(live: Envelope) -> Any:
            nonlocal target
            target = _target(live)  # perhaps an intervention's choice
            return await self._handling(live, target)

        try:
            target = _target(envelope)
            if event and not target.key:
                await self._deliver_custom(envelope, target)
                return envelope
            live = self._homes.unpacked(envelope)
            payload = await (self.handled(live, handle) if self._watched else self._handling(live, target))
            if envelope.content and not event:
                return self._homes.packed_reply(envelope, payload, target)
        except Exception as error:  # noqa: BLE001 - as above
            return self._undelivered(envelope, error)
        return envelope if event else Envelope(envelope.id, "reply", envelope.sender, "", payload)

    def _undelivered(self, envelope: Envelope, error: Exception) -> Envelope:
        if envelope.kind == "event":
            self.letters.put(envelope, error, self.clock.now())
        return envelope.failed(error)

    async def _accept(self, envelope: Envelope, target: AgentId) -> Envelope:
        """Have a message to a durable agent accepted. What stands around a delivery stands around its turn."""
        try:
            if not target.key:
                await self._deliver_custom(envelope, target)
                return envelope
            answer = await self._intake.take(envelope, self.packed(envelope), target)
            if answer.kind == "reply" and not envelope.content:  # who carries live messages expects live replies
                answer = answer._replace(payload=self._homes.unpacked_reply(answer, target), content="")
        except Exception as error:  # noqa: BLE001 - as above
            if envelope.kind == "event" and not isinstance(error, RetryableError):
                self.letters.put(envelope, error, self.clock.now())
            return envelope.failed(error)
        return answer

    async def handled(self, envelope: Envelope, handle: Callable[[Envelope], Awaitable[Any]]) -> Any:
        """Hand a live message to ``handle``, with all that stands around a delivery; return the reply.

        Raises what the handler does, or what an intervention makes of that.
        """
        if not self._watched:
            return await handle(envelope)
        live = await passed(self._interventions, "on_deliver", envelope)

        async def last(operation: Operation) -> Any:
            return await handle(live._replace(headers=operation.headers))

        raised: Exception | None = None
        operation = Operation("deliver", str(live.target), live.headers, live.type)
        try:
            payload = await self._runtime.through(operation, last)
            answer = Envelope(live.id, "reply", live.sender, "", payload)
        except Exception as error:
            if live.kind == "event" or not self._interventions:
                raise
            raised, answer = error, live.failed(error)
        if live.kind != "event":
            answer = await replied(self._interventions, answer, live)
        if answer.kind == "error":
            info = answer.error
            raise raised if raised is not None and info == ErrorInfo.of(raised) else HandlerFailed(info)
        return answer.payload

    async def _deliver_custom(self, envelope: Envelope, target: AgentId) -> None:
        """Let the agent's own code say who gets an event, and hand it back to the transport for those."""
        if envelope.topic is None:
            msg = f"event {envelope.id!r} to {target.type!r} has no topic, so nothing says whom it is for"
            raise Undeliverable(msg)
        transport = self._transport or await self._connected()
        for each in self._homes.custom(target.type, envelope.topic):
            if each != envelope.sender:
                await transport.publish(envelope._replace(target=each))

    def _handling(self, envelope: Envelope, target: AgentId) -> Awaitable[Any]:
        slot = self._slots.get(target)
        return self._handle_first(envelope, target) if slot is None else self._handle(envelope, slot)

    async def _handle_first(self, envelope: Envelope, target: AgentId) -> Any:
        """Handle a message to an address that has no slot."""
        home = self._homes.find(target.type)
        if isinstance(home, Resident):
            home.conversation(target)
            ctx = ResidentContext(self, envelope, target, home)
            handling.set(ctx)
            try:
                return await home.turn(ctx, envelope.payload)
            finally:
                ctx.active = False
        message: object = envelope.payload
        home.candidates(type(message), event=envelope.kind == "event")
        return await self._handle(envelope, self._instances.open(target, home))

    async def _handle(self, envelope: Envelope, slot: Slot) -> Any:
        """Hand a live message to its handler, when it is its turn; return what that returns."""
        actor = slot.actor
        message: object = envelope.payload
        slot.used = True
        event = envelope.kind == "event"
        kind = type(message)
        method = (actor.events if event else actor.requests).get(kind)
        if method is None:
            actor.candidates(kind, event=event)  # before it waits for its turn
        ctx = MessageContext(self, envelope, slot.address, slot)
        concurrent = actor.concurrent
        if concurrent:
            slot.running += 1
        elif slot.busy:
            if _waits(ctx, slot.address):
                raise _busy(slot.address)
            await slot.turn(self._settings.mailbox)
        else:
            slot.busy = True
        try:
            agent = slot.agent
            if agent is None:
                agent = await (slot.begin_shared(self._settings.mailbox) if concurrent else slot.begin())
            if method is None:
                method = actor.handler(message, ctx, event=event).method
            handling.set(ctx)
            return await getattr(agent, method)(message, ctx)
        finally:
            ctx.active = False
            if concurrent:
                slot.running -= 1
            elif slot.waiting:
                slot.leave()
            else:
                slot.busy = False

    # -- inside

    def _living(self, type_: str) -> int:
        home = self._homes.find(type_)
        return len(home) if isinstance(home, Resident) else self._instances.count(type_)

    async def _connected(self) -> Transport:
        async with self._connecting:
            if self._transport is None:
                # Not in the context of the turn that happens to be the first to need it: what the transport brings
                # from then on is not part of that turn.
                connecting = asyncio.get_running_loop().create_task(self._connect(), context=self._context)
                self._transport = await connecting
            return self._transport

    async def _connect(self) -> Transport:
        runtime = self._runtime
        name = runtime.configuration.transport
        make = runtime.plugins.named("transport", name)
        transport: Transport = make(settings=runtime.settings(f"transport-{name}"), clock=runtime.clock)
        try:
            await transport.start(self.deliver)
            await transport.announce(self._homes.presence())
        except BaseException:
            await transport.stop()
            raise
        self._serialises = transport.serialises
        return transport


class ResidentContext(MessageContext):
    """The context of a message to an agent with a conversation."""

    def __init__(self, post: LocalMessenger, envelope: Envelope, address: AgentId, home: Resident) -> None:
        super().__init__(post, envelope, address, None)
        self._home = home

    @property
    def session(self) -> Any:
        return self._home.conversation(self.address)


def _target(envelope: Envelope) -> AgentId:
    if envelope.target is None:
        msg = f"message {envelope.id!r} has no target"
        raise Undeliverable(msg)
    return envelope.target


def _waits(ctx: MessageContext, address: AgentId) -> bool:
    """Whether an agent waits for this message, directly or not, here or in another process."""
    known = ctx.within is not None and ctx.within.waits_for(address)
    return known or str(address) in ancestry_of(ctx.message.headers)


def _busy(address: AgentId) -> SessionBusy:
    return SessionBusy(
        f"session {address} waits, directly or not, for this very call and would wait for ever: call another one,"
        " answer without calling back, or declare a message agent with concurrent=True"
    )


def _revived(target: str, error: ErrorInfo) -> PerdureError:
    """A remote error as the class it was, where that is one of Perdure's with a plain message."""
    known = revived(error)
    if known is None:
        return CallFailed(target, error)
    if error.cause is not None:
        known.__cause__ = CallFailed(target, error.cause)
    return known
