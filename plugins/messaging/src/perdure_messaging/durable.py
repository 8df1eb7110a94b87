"""Message agents that are durable at turn grain: what a message does is one commit.

The handler, with whatever I/O it does, runs as one step on the driver's loop, in a fresh instance that is given what
the last turn saved. What it sends and publishes waits in an outbox. The step's result is the reply, the new state and
the outbox; the turn ends with that very step, so the engine commits all of it together with the end of the turn, which
is the consumption of the message. A crash before that runs the turn again, under the same ids.

Of the outbox, what is for durable agents that live here becomes turns in that commit. The rest becomes one more turn of
the same agent type, which hands it to the transport: it survives a crash, too, and goes out after the commit.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn, Protocol, cast

from pydantic import Field
from pydantic_core import from_json, to_json

from perdure import AgentId, Attempt
from perdure.direct import Memory
from perdure.errors import (
    CallFailed,
    NotDurable,
    NotPermitted,
    RunFailed,
    SessionBusy,
    StepFailed,
    Undeliverable,
    WorkFailed,
)
from perdure.execution import derived_id
from perdure.messages import Delivery, Envelope, ErrorInfo, Fact, Start, TopicId
from perdure.steps import Retry
from perdure_messaging.contexts import MessageContext, handling
from perdure_messaging.inbox import (
    JSON_CONTENT,
    POSTS,
    Facts,
    Posts,
    Routed,
    ancestry_of,
    tagged,
    turn_of,
    untagged,
    with_ancestry,
)
from perdure_messaging.message_types import type_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure import Runtime
    from perdure.context import Asked, Callee, ChildOptions
    from perdure.execution import DurableContext
    from perdure.messages import Accepted
    from perdure.ports import Clock, Conversation
    from perdure_messaging.actors import Actor

_log: Final = logging.getLogger("perdure.messaging")
_STATE: Final = "saved"
_POSTS_SESSION: Final = "~posts"
_PATIENT: Final = Retry(attempts=1_000_000, first=0.2, cap=30.0, jitter=0.2)
"""What is committed is to go out: as often as a transport says that trying again may help."""


class Outgoing(Fact):
    """An event that a turn has sent.

    Attributes:
        target: Address of the agent that it is for, or ``None`` for all that are subscribed to its topic.
        message: As ``tagged`` makes it.
        headers: Trace context and the like.
    """

    target: str | None
    message: dict[str, Any]
    headers: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, envelope: Envelope, target: AgentId | None) -> Outgoing:
        """An event whose payload is bytes."""
        message = tagged(envelope.type, envelope.content, envelope.payload, Facts.of(envelope))
        return cls(target=str(target) if target else None, message=from_json(message), headers=envelope.headers)

    def envelope(self) -> Envelope:
        """The event again."""
        type_, content, payload = untagged(self.message)
        facts, target = Facts.model_validate(self.message["of"]), AgentId.parse(self.target) if self.target else None
        return facts.envelope(target, type_, payload, self.headers)._replace(content=content)


class Handled(Fact):
    """What came of a message: the result of the one step of its turn.

    Attributes:
        reply: As the agent's declaration encodes it.
        state: What the agent saved.
        starts: What its turn starts: turns of durable agents that got a message, runs, and that which posts the rest.
        deliveries: Events and cancellations for other runs.
    """

    reply: bytes
    state: Any = None
    starts: tuple[Start, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


class HandlerFailed(WorkFailed):
    """A handler raised: the turn ends with that, as if nothing had stood between."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(str(error))
        self.passed_on = error


class Recipients(NamedTuple):
    """Who gets an event: durable agents that live here, and whom the transport is to bring it to."""

    here: Sequence[AgentId]
    elsewhere: Sequence[AgentId | None]


class Office(Protocol):
    """What a turn needs of the messenger."""

    @property
    def closing(self) -> bool:
        """Whether it carries nothing more, because the runtime closes."""
        ...

    def addressed(self, to: Any, sender: AgentId) -> tuple[AgentId | None, TopicId | None]:
        """Whom an author means by an address or topic, with the qualified type of the agent."""
        ...

    async def outgoing(self, envelope: Envelope) -> Envelope | None:
        """A live message as the interventions leave it; ``None`` for an event that one dropped."""
        ...

    def packed(self, envelope: Envelope) -> Envelope:
        """A message with a payload of bytes. Raises ``NotEncodable``, ``PayloadTooLarge``."""
        ...

    def recipients(self, envelope: Envelope) -> Recipients:
        """Who gets an event, its sender left out."""
        ...

    def custom(self, type_: str, topic: TopicId) -> Sequence[AgentId]:
        """Whom the code of an agent type names for a topic."""
        ...

    async def request(self, envelope: Envelope) -> Any:
        """Carry a live request; return its reply or raise its error."""
        ...

    async def carry_event(self, envelope: Envelope) -> None:
        """Carry an event that the interventions have seen."""
        ...

    async def handled(self, envelope: Envelope, handle: Callable[[Envelope], Awaitable[Any]]) -> Any:
        """Hand a live message to ``handle``, with all that stands around a delivery; return the reply."""
        ...


class DurableTurn:
    """Executes the turns of durable ``Actor``s.

    Args:
        runtime: What it calls agents and workflows with.
        office: What it sends messages with.
    """

    def __init__(self, runtime: Runtime, office: Office) -> None:
        self._runtime = runtime
        self._office = office

    async def turn(self, ctx: DurableContext, agent: Actor[Any], message: Any) -> Any:
        """Handle a message, as durable code; return the reply.

        Raises:
            HandlerFailed: With what the handler raised.
            NotPermitted: Somebody else than a turn asked for posts.
        """
        if isinstance(message, Posts):
            await self._send_posts(ctx, message)
            return message
        if isinstance(message, Routed):
            await self._route(ctx, message)
            return message
        body = partial(self._handle, ctx.start, agent, message, ctx.session.state.get(_STATE))
        try:
            handled: Handled = await ctx.options(name="handle", fingerprint="", returns=Handled).step(body)
        except StepFailed as failed:
            raise HandlerFailed(failed.error) from None
        if handled.state is not None or _STATE in ctx.session.state:
            ctx.session.state[_STATE] = handled.state
        for item in (*handled.starts, *handled.deliveries):
            ctx.hand_over(item)
        return agent.decode_result(handled.reply)

    async def _send_posts(self, ctx: DurableContext, posts: Posts) -> None:
        """One step for each, so that one that waits for its transport does not repeat those before it."""
        if ctx.start.parent is None:
            msg = f"turn {ctx.start.run!r} was not started by a turn of {ctx.start.target!r}, whose messages these are"
            raise NotPermitted(msg)
        for value in posts.outgoing:
            body = partial(self._post, Outgoing.model_validate(value).envelope())
            await ctx.options(name="post", fingerprint="", returns=None, retry=_PATIENT).step(body)

    async def _route(self, ctx: DurableContext, message: Routed) -> None:
        """Make turns of an event for those whom the agent's code names, in this turn's commit."""
        start, (type_, content, payload) = ctx.start, untagged(message.message)
        facts = Facts.model_validate(from_json(start.input).get("of") or {"id": start.run})
        body = partial(self._named, start.target, facts)
        keys = await ctx.options(name="route", fingerprint="", returns=list[str]).step(body)
        for target in (AgentId(start.target, key) for key in keys):
            event = facts.envelope(target, type_, payload, start.headers)._replace(content=content)
            if target != event.sender:
                ctx.hand_over(turn_of(event, at=start.at, run=derived_id("turn", start.run, str(target))))

    async def _named(self, type_: str, facts: Facts) -> list[str]:
        if facts.topic is None:
            msg = f"event {facts.id!r} to {type_!r} has no topic, so nothing says whom it is for"
            raise Undeliverable(msg)
        return [each.key for each in self._office.custom(type_, TopicId.parse(facts.topic))]

    async def _post(self, envelope: Envelope) -> None:
        await _unless_closing(self._office, partial(self._office.carry_event, envelope))

    async def _handle(self, start: Start, agent: Actor[Any], message: object, state: Any) -> Handled:
        """The step: the handler, with the agent as the last turn left it."""
        address = AgentId(start.target, start.session or "")
        headers = with_ancestry(start.headers, start.ancestry)
        facts = Facts.model_validate(from_json(start.input).get("of") or {"id": start.run})
        envelope = facts.envelope(address, agent.type_of(message), message, headers)
        work = _Work(self._runtime, self._office, start)
        instance = agent.make()
        if state is not None:
            await instance.load(state)
        await instance.on_start()

        async def handle(arrived: Envelope) -> Any:
            context = TurnContext(work, arrived, address)
            handling.set(context)  # of this step's own task or copy of it
            try:
                handler = agent.handler(arrived.payload, context, event=arrived.kind == "event")
                return await getattr(instance, handler.method)(arrived.payload, context)
            finally:
                context.active = False

        try:
            reply = agent.encode_result(await self._office.handled(envelope, handle))
            state = await instance.save()
            return Handled(reply=reply, state=state, starts=work.starts(), deliveries=tuple(work.deliveries))
        finally:
            handling.set(None)
            try:
                await instance.on_stop()
            except Exception:  # noqa: BLE001 - the message is handled, whatever becomes of the instance
                _log.exception("agent %r failed as it was let go", str(address))


class _Work:
    """What one attempt at a turn does: what it calls at once, what it sends when it has ended.

    The ids of what it sends and starts come from the step's key and its place in line: a crash runs the handler again,
    and what it called has the same ids, so that a durable callee does it once.
    """

    def __init__(self, runtime: Runtime, office: Office, start: Start) -> None:
        self.clock: Clock = runtime.clock
        self.run = start.run
        self.ancestry = (*start.ancestry, f"{start.target}/{start.session}")
        self._runtime = runtime
        self._office = office
        self._start = start
        self._ordinals = count()
        self._key = Attempt.current().key
        self._outbox: list[Envelope] = []
        self._launched: list[Start] = []
        self.deliveries: list[Delivery] = []

    # -- what the context asks for

    async def message(
        self, ctx: MessageContext, kind: Literal["call", "send", "publish"], to: Any, message: object
    ) -> Any:
        """Call at once; keep what is sent and published."""
        office, own, id_ = self._office, ctx.message, self._id("msg")
        target, topic = office.addressed(to, ctx.address)
        type_ = type_name(type(message))
        if kind == "call":
            if str(target) in self.ancestry:
                raise _busy(str(target))
            headers = with_ancestry(own.headers, self.ancestry)
            # Without the deadline of the message: it was accepted, and may be handled when nobody waits any more.
            request = Envelope(id_, "request", target, type_, message, ctx.address, headers)
            return await _unless_closing(office, partial(office.request, request))
        headers = with_ancestry(own.headers, ())
        sent = await office.outgoing(Envelope(id_, "event", target, type_, message, ctx.address, headers, topic=topic))
        if sent is not None:
            self._outbox.append(office.packed(sent))
        return id_

    async def call_actor(self, ctx: MessageContext, callee: Actor[Any], message: object, session: str | None) -> Any:
        """Call a declared message agent."""
        payload = callee.encode_input((message,), {})
        return callee.decode_result(await self.call(ctx, cast("Callee", callee), payload, session))

    async def call(self, ctx: MessageContext, callee: Callee, payload: bytes, session: str | None) -> bytes:
        """Call agents that live in memory by message, all else as runs of their own.

        These are cancelled with this turn, and found again by the next attempt.
        """
        start = self._start_of(callee, payload, session)
        if f"{start.target}/{start.session}" in self.ancestry:
            raise _busy(f"{start.target}/{start.session}")
        declared = self._in_memory(start)
        if declared is not None:
            to = AgentId(start.target, start.session or "")
            return declared.encode_result(await self.message(ctx, "call", to, declared.decode_input(payload)))
        accepted = await submitted(self._runtime, start)
        try:
            return to_json(await self._runtime.handle(accepted.run).result())
        except RunFailed as failed:
            raise CallFailed(start.target, failed.error) from None

    async def launch(
        self, ctx: MessageContext, callee: Callee, payload: bytes, session: str | None, options: ChildOptions
    ) -> str:
        """Start something declared with the turn's commit; return the id of its run, or of the message."""
        start = self._start_of(callee, payload, session)
        declared = self._in_memory(start)
        if declared is not None:
            to = AgentId(start.target, start.session or "")
            return await self.message(ctx, "send", to, declared.decode_input(payload))
        delay = options.delay
        start = start._replace(
            ancestry=(),
            tags=dict(options.tags),
            due=None if delay is None else start.at + delay.total_seconds(),
            on_close=options.on_close or "abandon",
        )
        self._launched.append(start)
        return start.run

    def deliver(self, run: str, kind: Literal["event", "cancel"], name: str, value: bytes) -> None:
        """Deliver to another run with the turn's commit."""
        self.deliveries.append(Delivery(run, kind, self._id(kind), self.clock.now(), value, name=name))

    # -- what the turn starts

    def starts(self) -> tuple[Start, ...]:
        """All that the handler has sent and launched, and last what is to be posted."""
        own, now = self._start, self.clock.now()
        starts = list(self._launched)
        posts: list[Outgoing] = []
        for envelope in self._outbox:
            here, elsewhere = self._office.recipients(envelope)
            for target in here:
                run = derived_id("turn", own.run, envelope.id, str(target))
                starts.append(turn_of(envelope._replace(target=target), at=now, run=run))
            posts += [Outgoing.of(envelope, target) for target in elsewhere]
        if posts:
            post = Start(
                derived_id("turn", own.run, "posts"),
                "turn",
                own.target,
                tagged(POSTS, JSON_CONTENT, to_json([each.model_dump() for each in posts])),
                now,
                session=f"{own.session}{_POSTS_SESSION}",
                parent=own.run,
                headers=own.headers,
                on_close="abandon",
            )
            starts.append(post)
        return tuple(starts)

    # -- inside

    def _id(self, prefix: str) -> str:
        return derived_id(prefix, self._key, str(next(self._ordinals)))

    def _start_of(self, callee: Callee, payload: bytes, session: str | None) -> Start:
        catalog, own = self._runtime.catalog, self._start
        target, is_agent = catalog.target(callee, own.target), callee.kind == "agent"
        run = self._id("turn" if is_agent else "run")
        return Start(
            run,
            "turn" if is_agent else "workflow",
            target,
            payload,
            self.clock.now(),
            session=(session or run) if is_agent else None,
            key=run,
            parent=own.run,
            ancestry=self.ancestry,
            headers=own.headers,
            version=catalog.version(target),
        )

    def _in_memory(self, start: Start) -> Actor[Any] | None:
        """The declaration of what a start is for, if that is an agent that lives in the memory of a process."""
        if start.kind == "workflow":
            return None
        declared = self._runtime.catalog.find("agent", start.target)[1]
        return None if getattr(declared, "durable", True) else cast("Actor[Any]", declared)


class TurnContext(MessageContext):
    """What a durable agent's handler sees: it acts at once, and its messages go out with its turn's commit."""

    def __init__(self, work: _Work, envelope: Envelope, address: AgentId) -> None:
        super().__init__(work, envelope, address, None)
        self.within = None  # whatever started the engine's task does not wait for it
        self._work = work

    @property
    def ancestry(self) -> tuple[str, ...]:
        """Who waits for this turn, outermost first; and its own address."""
        return self._work.ancestry

    @property
    def session(self) -> Conversation:
        return Memory(self.address)

    def waits_for(self, address: AgentId) -> bool:
        return self.active and str(address) in self.ancestry

    @property
    def _run_id(self) -> str:
        return self._work.run  # not the message's id: other agents may have got the same message

    def _identity(self, name: str) -> str:
        return f"handle/{super()._identity(name)}"  # not what the turn's own journal says

    async def _send(self, callee: Callee, payload: bytes, session: str | None, source: str) -> str:  # noqa: ARG002 - the interface
        return await self._work.launch(self, callee, payload, session, self._child)

    async def _deliver(self, run: str, kind: Literal["event", "cancel"], name: str, value: bytes) -> None:
        self._work.deliver(run, kind, name, value)

    async def _event(self, name: str) -> bytes:
        raise self._no_wait(f"ctx.wait_event({name!r})")

    async def _ask(self, asked: Asked) -> Any:
        raise self._no_wait(f"ctx.ask({asked.prompt!r})")

    def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002 - the interface
        raise self._no_wait("ctx.continue_as_new()")

    def _no_wait(self, what: str) -> NotDurable:
        return NotDurable(
            f"{what}: the handler of agent {str(self.address)!r} runs as one step, which cannot wait for that: call a"
            " workflow that does"
        )


def waiting_for(envelope: Envelope) -> tuple[str, ...]:
    """Who waits for a message that has arrived here, outermost first: in other processes, then in this one."""
    if envelope.kind == "event":
        return ()
    chain: list[str] = []
    ctx = handling.get()
    while ctx is not None and ctx.active:
        chain += reversed(ctx.ancestry) if isinstance(ctx, TurnContext) else (str(ctx.address),)
        ctx = ctx.within
    return tuple(dict.fromkeys((*ancestry_of(envelope.headers), *reversed(chain))))


async def submitted(runtime: Runtime, start: Start) -> Accepted:
    """Accept a start. What the engine begins with it is not part of the message that is being handled here."""
    token = handling.set(None)
    try:
        return await runtime.engine.submit(start)
    finally:
        handling.reset(token)


async def _unless_closing(office: Office, carry: Callable[[], Awaitable[Any]]) -> Any:
    """What a message comes to; but a runtime that closes must fail no turn: it waits to be given up, and runs again."""
    if not office.closing:
        try:
            return await carry()
        except Exception:
            if not office.closing:
                raise
    return await asyncio.get_running_loop().create_future()


def _busy(address: str) -> SessionBusy:
    return SessionBusy(
        f"session {address} waits, directly or not, for this very call and would wait for ever:"
        " call another one, or send to it without waiting"
    )
