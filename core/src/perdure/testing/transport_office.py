"""Agents for the transport kit to send to: what a runtime's side of a transport does, in small."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from pydantic_core import from_json, to_json

from perdure.errors import Undeliverable
from perdure.messages import AgentId, Envelope, Hosted, Presence, TopicId

TIMEOUT: Final = 20.0
"""Seconds after which the kit calls something stuck."""

Handler: TypeAlias = Callable[[Envelope], Awaitable[Any]]


class Office:
    """Agents by type: fills ``Deliver`` as a runtime does.

    Args:
        agents: Their handlers; each returns the reply's payload, or raises.

    Attributes:
        delivered: What arrived, in order, with live payloads.
        arrived: Counts them, for who waits.
    """

    def __init__(self, agents: Mapping[str, Handler]) -> None:
        self._agents = agents
        self.delivered: list[Envelope] = []
        self.arrived: asyncio.Condition = asyncio.Condition()

    @property
    def presence(self) -> Presence:
        """That its agents live here."""
        return Presence(tuple(Hosted(type_) for type_ in self._agents))

    async def __call__(self, envelope: Envelope) -> Envelope:
        """Hand over to the target's handler; return its reply or error."""
        live = unpacked(envelope)
        self.delivered.append(live)
        async with self.arrived:
            self.arrived.notify_all()
        try:
            reply = Envelope(envelope.id, "reply", envelope.sender, "kit.text", await self._handle(live))
        except Exception as error:  # noqa: BLE001 - as a runtime does: it travels back to the caller
            return envelope.failed(error)
        return packed(reply) if envelope.content else reply

    async def has(self, count: int) -> list[Envelope]:
        """Wait until so many have arrived; return them."""
        async with asyncio.timeout(TIMEOUT), self.arrived:
            await self.arrived.wait_for(lambda: len(self.delivered) >= count)
        return self.delivered

    async def _handle(self, envelope: Envelope) -> Any:
        handler = self._agents.get(envelope.target.type) if envelope.target else None
        if handler is None:
            msg = f"no agent {str(envelope.target)!r} lives here"
            raise Undeliverable(msg)
        return await handler(envelope)


class Silent:
    """A handler that never answers by itself.

    Args:
        heeds: Whether it ends when it is cancelled.

    Attributes:
        entered: It has a message.
        cancelled: It was cancelled.
        released: Set it, and the handler answers ``late``.
    """

    def __init__(self, *, heeds: bool = True) -> None:
        self._heeds = heeds
        self.entered: asyncio.Event = asyncio.Event()
        self.cancelled: asyncio.Event = asyncio.Event()
        self.released: asyncio.Event = asyncio.Event()

    async def __call__(self, _envelope: Envelope, /) -> str:
        """Wait to be released."""
        self.entered.set()
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                if self._heeds:
                    raise
        return "late"


def packed(envelope: Envelope) -> Envelope:
    """The envelope as it travels where a transport serialises."""
    return envelope._replace(payload=to_json(envelope.payload), content="application/json")


def unpacked(envelope: Envelope) -> Envelope:
    """The envelope with its live payload: of an error, an ``ErrorInfo``."""
    if envelope.kind == "error":
        return envelope._replace(payload=envelope.error, content="")
    return envelope._replace(payload=from_json(envelope.payload), content="") if envelope.content else envelope


async def echo(envelope: Envelope) -> Any:
    """Answer with what was said."""
    return envelope.payload


def request(to: str, payload: Any = "hello", *, id: str = "m1", deadline: float | None = None) -> Envelope:
    """A message to the agent ``to/1``."""
    return Envelope(id, "request", AgentId(to, "1"), "kit.text", payload, deadline=deadline)


def event(
    topic: str, payload: Any = "news", *, id: str = "e1", sender: AgentId | None = None, source: str = "1"
) -> Envelope:
    """A message on the topic ``topic/source``."""
    return Envelope(id, "event", None, "kit.text", payload, sender, topic=TopicId(topic, source))
