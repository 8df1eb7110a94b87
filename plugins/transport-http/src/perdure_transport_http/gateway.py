"""Programs that are no workers: what they send and publish as CloudEvents goes through the host like everything else.

Each principal has a worker of its own here that hosts nothing, over a carrier in memory: so the host's own rules decide
what it may do, and its window is the only one that it can fill.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from perdure.errors import Undeliverable
from perdure.messages import AgentId, Envelope, TopicId
from perdure_hosting.carrier import pair
from perdure_hosting.client import LinkTransport
from perdure_hosting.settings import WorkerSettings
from perdure_transport_http.answers import Answers
from perdure_transport_http.cloudevents import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import Whereabouts
    from perdure.ports import Clock
    from perdure_hosting.carrier import MemoryCarrier, Principal
    from perdure_hosting.host import Host
    from perdure_transport_http.settings import ServerSettings

TRACE: Final = ("traceparent", "tracestate")
"""Extensions of events that are headers of messages by the same name; the others get a ``ce-`` before it."""

AGENTS: Final = "/perdure/v1/agents"
TOPICS: Final = "/perdure/v1/topics"


class Gateway:
    """Carries events of HTTP clients to a host.

    Args:
        host: Which one.
        clock: Its time.
        settings: Of the server.
    """

    def __init__(self, host: Host, clock: Clock, settings: ServerSettings) -> None:
        self._host = host
        self._clock = clock
        self._settings = settings
        self._answers = Answers(clock, limit=settings.remembered, seconds=settings.remember)
        self._workers: dict[Principal, asyncio.Task[LinkTransport]] = {}

    async def send(self, principal: Principal, to: AgentId, event: Event, deadline: float | None) -> Envelope:
        """The agent's reply or error envelope; within ``deadline`` seconds, else the setting's.

        Raises:
            DeadlineExceeded: There was none in time.
            IdReused: The event's id was taken for another one.
        """
        seconds = self._settings.deadline if deadline is None else deadline
        message = self._message(principal, event, "request")._replace(target=to, deadline=self._clock.now() + seconds)

        async def ask() -> Envelope:
            return await (await self._worker(principal)).send(message)

        return await self._answers.once(message.id, _fingerprint(to, event), ask)

    async def publish(self, principal: Principal, topic: TopicId, event: Event) -> None:
        """Return when the host has accepted it. Raises as ``Transport.publish``."""
        worker = await self._worker(principal)
        await worker.publish(self._message(principal, event, "event")._replace(topic=topic))

    async def agents(self, principal: Principal) -> Sequence[Whereabouts]:
        """Which agent types live where."""
        return await (await self._worker(principal)).agents()

    async def stop(self) -> None:
        """Let finish what is under way, as the host does, then leave it. Idempotent."""
        workers, self._workers = self._workers, {}
        for starting in workers.values():
            starting.cancel()
        for done in await asyncio.gather(*workers.values(), return_exceptions=True):
            if isinstance(done, LinkTransport):
                await done.stop()

    async def _worker(self, principal: Principal) -> LinkTransport:
        starting = self._workers.get(principal)
        if starting is None or (starting.done() and (starting.cancelled() or starting.exception())):
            starting = self._workers[principal] = asyncio.create_task(self._started(principal))
        return await asyncio.shield(starting)

    async def _started(self, principal: Principal) -> LinkTransport:
        async def dial(_address: str = "", /) -> MemoryCarrier:
            near, far = pair(principal)
            self._host.accept(far)
            return near

        worker = LinkTransport(dial, self._clock, WorkerSettings(direct=False))
        await worker.start(_nobody)
        return worker

    def _message(self, principal: Principal, event: Event, kind: Any) -> Envelope:
        # Clients choose the ids of events, and messages' must be unique among all who send: nobody may take another's.
        parts = (principal.name, event.source, event.id)
        id_ = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()
        facts = {"id": event.id, "source": event.source, **event.more}
        headers = {name if name in TRACE else f"ce-{name}": value for name, value in facts.items()}
        return Envelope(id_, kind, None, event.type, event.data, headers=headers, content=event.content)


def reply_of(answer: Envelope, to: AgentId, event: Event) -> Event:
    """A reply as an event; the same for whoever gets it again."""
    source = f"{AGENTS}/{quote(to.type, safe='')}/{quote(to.key, safe='')}"
    more = {"causationid": event.id, **{name: event.more[name] for name in ("correlationid",) if name in event.more}}
    return Event(answer.id, source, answer.type or "reply", answer.content, answer.payload, more)


def _fingerprint(to: AgentId, event: Event) -> bytes:
    hashed = hashlib.sha256()
    for part in (str(to).encode(), event.type.encode(), event.content.encode(), event.data):
        hashed.update(b"%d:%b" % (len(part), part))
    return hashed.digest()


async def _nobody(envelope: Envelope) -> Envelope:
    return envelope.failed(Undeliverable("no agents live in a gateway"))
