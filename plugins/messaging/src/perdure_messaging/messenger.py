"""``Volatile``: a runtime's side of its transport, for agents that live as long as their process."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from perdure import errors
from perdure.agent import Agent
from perdure.direct import DirectContext, Memory
from perdure.errors import CallFailed, PerdureError, SessionBusy, Undeliverable, UnknownName
from perdure.messages import AgentId, Envelope, ErrorInfo
from perdure.ports import Operation
from perdure_messaging.message_types import type_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.context import Callee
    from perdure.messages import TopicId, Whereabouts
    from perdure.ports import Transport
    from perdure.runtime import Runtime


_ANCESTRY: Final = "perdure-ancestry"
"""The header that says who waits for a message, outermost first: JSON of a list of addresses."""


class Volatile:
    """Sends through the configured transport, and delivers to the agents that live here.

    The transport is connected at the first message: a runtime that sends none pays nothing.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = runtime.catalog
        self._transport: Transport | None = None
        self._connecting = asyncio.Lock()
        self._conversations: dict[AgentId, tuple[Memory, asyncio.Lock]] = {}

    async def start(self) -> None:
        """Connect now. Idempotent."""
        await self._connected()

    async def stop(self) -> None:
        """Let finish what was accepted, then disconnect. Idempotent."""
        if self._transport is not None:
            await self._transport.stop()

    async def agents(self) -> Sequence[Whereabouts]:
        """See ``Runtime.agents``."""
        return await (await self._connected()).agents()

    async def send(self, message: object, to: AgentId, *, deadline: float | None = None, id: str | None = None) -> Any:
        """See ``Runtime.send``."""
        try:
            target = AgentId(self._catalog.find("agent", to.type)[0], to.key)
        except UnknownName:
            target = to  # it may live elsewhere: the transport knows
        until = None if deadline is None else self._runtime.clock.now() + deadline
        envelope = Envelope(
            id or secrets.token_hex(16),
            "request",
            target,
            type_name(type(message)),
            message,
            deadline=until,
        )
        answer = await self._carry(envelope)
        if answer.kind == "error":
            raise _revived(str(target), answer.error)
        return answer.payload

    async def publish(self, message: object, topic: TopicId, *, id: str | None = None) -> None:
        """See ``Runtime.publish``."""
        envelope = Envelope(
            id or secrets.token_hex(16),
            "event",
            None,
            type_name(type(message)),
            message,
            topic=topic,
        )
        await (await self._connected()).publish(envelope)

    async def deliver(self, envelope: Envelope) -> Envelope:
        """Fill ``perdure.ports.Deliver``."""
        try:
            if envelope.target is None:
                msg = f"message {envelope.id!r} has no target"
                raise Undeliverable(msg)  # noqa: TRY301 - one place makes error envelopes
            operation = Operation("deliver", str(envelope.target), envelope.headers, envelope.type)
            payload = await self._runtime.through(operation, partial(self._handle, envelope, envelope.target))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises travels back to the caller
            return envelope.failed(error)
        return Envelope(envelope.id, "reply", envelope.sender, "", payload)

    async def _carry(self, envelope: Envelope) -> Envelope:
        transport = await self._connected()

        async def send(operation: Operation) -> Envelope:
            return await transport.send(envelope._replace(headers=operation.headers))

        operation = Operation("send", str(envelope.target), envelope.headers, envelope.type)
        return await self._runtime.through(operation, send)

    async def _handle(self, envelope: Envelope, target: AgentId, operation: Operation) -> Any:
        try:
            agent, handler = self._catalog.handler(target.type)
        except UnknownName as error:
            raise Undeliverable(str(error)) from error
        memory, lock = self._conversations.setdefault(target, (Memory(target), asyncio.Lock()))
        call = partial(self._call, envelope._replace(headers=operation.headers), target)
        ctx = DirectContext(call, self._runtime.clock, session=memory, run_id=envelope.id)
        if not isinstance(agent, Agent):
            return await handler.turn(ctx, agent, envelope.payload)
        message = agent.decode_input(agent.encode_input((envelope.payload,), {}))
        async with lock:  # turns of one conversation run one at a time, as durable ones do
            return await handler.turn(ctx, agent, message)

    async def _call(
        self, within: Envelope, caller: AgentId, callee: Callee, payload: bytes, session: str | None
    ) -> bytes:
        """What ``ctx.call`` does in volatile code: agents by message; workflows run inline.

        What is called knows who waits for it, and has the deadline and headers of the message that is being handled.
        """
        catalog = self._catalog
        to = AgentId(catalog.target(callee, caller.type), session or secrets.token_hex(8))
        ancestry: list[str] = [*from_json(within.headers.get(_ANCESTRY, "[]")), str(caller)]
        headers = {**within.headers, _ANCESTRY: to_json(ancestry).decode()}
        if callee.kind == "workflow":
            call = partial(self._call, within._replace(headers=headers), to)
            try:
                program = catalog.program(to.type, catalog.version(to.type))
                return await program(DirectContext(call, self._runtime.clock), payload)
            except Exception as error:
                raise CallFailed(to.type, ErrorInfo.of(error)) from error
        declared = catalog.find("agent", to.type)[1]
        busy = str(to) in ancestry
        if busy and isinstance(declared, Agent):
            msg = f"session {to} waits, directly or not, for this very call and would wait for ever: call another one"
            raise SessionBusy(msg)
        message = declared.decode_input(payload)
        kind = type_name(type(message))
        answer = await self._carry(
            Envelope(secrets.token_hex(16), "request", to, kind, message, caller, headers, within.deadline)
        )
        if answer.kind == "error":
            own = busy and answer.error.type == f"{SessionBusy.__module__}.{SessionBusy.__qualname__}"
            raise SessionBusy(answer.error.message) if own else CallFailed(to.type, answer.error)
        return declared.encode_result(answer.payload)

    async def _connected(self) -> Transport:
        async with self._connecting:
            if self._transport is None:
                runtime = self._runtime
                name = runtime.configuration.transport
                make = runtime.plugins.named("transport", name)
                transport: Transport = make(settings=runtime.settings(f"transport-{name}"), clock=runtime.clock)
                try:
                    await transport.start(self.deliver)
                except BaseException:
                    await transport.stop()
                    raise
                self._transport = transport
            return self._transport


def _revived(target: str, error: ErrorInfo) -> PerdureError:
    """A remote error as the class it was, where that is one of Perdure's with a plain message."""
    kind = getattr(errors, error.type.rpartition(".")[2], None) if error.type.startswith("perdure.errors.") else None
    if isinstance(kind, type) and issubclass(kind, PerdureError):
        with suppress(TypeError):  # it takes more than a message
            return kind(error.message)
    return CallFailed(target, error)
