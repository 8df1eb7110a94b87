"""Where messages for durable agents come in: each is a turn in the store before anybody is told that it arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from perdure import config
from perdure.errors import SessionBusy
from perdure_messaging.durable import Recipients, submitted, waiting_for
from perdure_messaging.inbox import answer_of, turn_of, with_ancestry
from perdure_messaging.routing import Routes

if TYPE_CHECKING:
    from perdure import AgentId, Runtime
    from perdure.messages import Envelope, TopicId
    from perdure_messaging.actors import Actor
    from perdure_messaging.homes import Homes

_LOCAL: Final = config.Settings.model_fields["transport"].default
"""The transport that reaches nobody else."""


class Intake:
    """The durable agents of a runtime, as messages see them.

    Args:
        runtime: Whose.
        homes: All agents that live here.
    """

    def __init__(self, runtime: Runtime, homes: Homes) -> None:
        self._runtime = runtime
        self._homes = homes
        self.durable: frozenset[str] = frozenset(name for name, actor in homes.actors() if actor.durable)
        self._routes = Routes()
        if self.durable:
            self._routes.replace(self, homes.presence().subscriptions)

    async def take(self, envelope: Envelope, packed: Envelope, target: AgentId) -> Envelope:
        """Accept a message; return the reply or error envelope of a request, once its turn has ended.

        Whoever waits no longer leaves the turn alone: it was accepted. With the same id, the message can be sent again.

        Args:
            envelope: As it came, live or not.
            packed: The same with a payload of bytes.
            target: Whom it is for.

        Raises:
            Undeliverable, InvalidInput: The agent does not handle it, or it cannot be read.
            SessionBusy: The agent waits for this very message.
            StoreUnavailable: It could not be made safe.
        """
        actor: Actor[Any] = self._homes.actor(target.type)
        message: object = self._homes.unpacked(envelope).payload
        actor.candidates(type(message), event=envelope.kind == "event")
        waiting = waiting_for(envelope)
        if str(target) in waiting:
            msg = (
                f"session {target} waits, directly or not, for this very message and would wait for ever:"
                " send to another one, reply without calling back, or send without waiting"
            )
            raise SessionBusy(msg)
        runtime = self._runtime
        packed = packed._replace(headers=with_ancestry(packed.headers, waiting))
        accepted = await submitted(runtime, turn_of(packed, at=runtime.clock.now()))
        if envelope.kind == "event":
            return envelope
        return answer_of(packed, await runtime.engine.wait(accepted.run))

    def recipients(self, envelope: Envelope) -> Recipients:
        """Who gets an event that a durable agent has sent, its sender left out.

        What lives here is known; where there may be others, the transport is given the whole event, and who has got it
        already gets nothing new by it.
        """
        topic, target = envelope.topic, envelope.target
        targets = [target] if target else self._subscribed(topic, envelope.sender) if topic else []
        here = [each for each in targets if each.type in self.durable]
        if target is None and self._runtime.configuration.transport != _LOCAL:
            return Recipients(here, [None])
        return Recipients(here, [each for each in targets if each.type not in self.durable])

    def _subscribed(self, topic: TopicId, sender: AgentId | None) -> list[AgentId]:
        agents, custom = self._routes.recipients(topic)
        named = (each for type_ in custom for each in self._homes.custom(type_, topic))
        return [each for each in dict.fromkeys((*agents, *named)) if each != sender]
