"""What executes message agents: volatile instances, by address, each handling one message at a time."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from perdure.direct import DirectContext
from perdure.errors import NotDurable, SessionBusy

if TYPE_CHECKING:
    from perdure import AgentId, Context
    from perdure_messaging.actors import Actor
    from perdure_messaging.handlers import MessageAgent


class _Instance:
    """One live agent and its turnstile."""

    def __init__(self, agent: MessageAgent) -> None:
        self.agent = agent
        self.turnstile = asyncio.Lock()  # wakes its waiters in the order in which they came


class _Handling:
    """An instance is handling a message, as long as ``active`` says so."""

    def __init__(self, instance: _Instance) -> None:
        self.instance = instance
        self.active = True


_ancestry: ContextVar[tuple[_Handling, ...]] = ContextVar("perdure_messaging_ancestry", default=())
"""What waits, directly or not, for this code. Tasks inherit it, so it follows a message within the process."""


class ActorTurn:
    """Executes ``Actor`` declarations: the ``TurnHandler`` of this plugin.

    An instance is made at the first message to its address and lives as long as the runtime.
    """

    def __init__(self) -> None:
        self._instances: Final[dict[AgentId, _Instance]] = {}

    async def turn(self, ctx: Context, agent: Actor[Any], message: object) -> Any:
        """Hand a message to its handler; return what that returns.

        Raises:
            Undeliverable: No handler takes messages of this type.
            SessionBusy: The instance waits, directly or not, for this very message.
            NotDurable: It was called as durable work.
        """
        address = ctx.session.id
        if not isinstance(ctx, DirectContext):
            # Its memory would be lost with the process, and a replay would change it again.
            msg = (
                f"agent {str(address)!r} lives in the memory of its process and cannot take part in durable work:"
                " send to it with Runtime.send(…)"
            )
            raise NotDurable(msg)
        handler = agent.handler(message)
        instance = self._instances.get(address)
        if instance is None:
            instance = self._instances[address] = _Instance(agent.make())
        method = getattr(instance.agent, handler.method)
        waits = any(each.active and each.instance is instance for each in _ancestry.get())
        if waits and not agent.concurrent:
            msg = (
                f"agent {str(address)!r} waits, directly or not, for this very message and would wait for ever:"
                " send it to another key, reply without calling back, or declare the agent with concurrent=True"
            )
            raise SessionBusy(msg)
        async with nullcontext() if agent.concurrent else instance.turnstile:
            handling = _Handling(instance)
            token = _ancestry.set((*_ancestry.get(), handling))
            try:
                return await method(message, ctx)
            finally:
                handling.active = False
                _ancestry.reset(token)
