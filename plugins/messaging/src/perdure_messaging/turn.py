"""What executes message agents as durable work; their messages in memory go another way, by ``messenger``."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from perdure.errors import NotDurable
from perdure.execution import DurableContext
from perdure_messaging.durable import DurableTurn

if TYPE_CHECKING:
    from perdure import Context, Runtime
    from perdure.ports import Services
    from perdure_messaging.actors import Actor
    from perdure_messaging.durable import Office


class ActorTurn:
    """Executes ``Actor`` declarations: the ``TurnHandler`` of this plugin.

    Args:
        services: The runtime.
    """

    def __init__(self, services: Services) -> None:
        self._runtime = cast("Runtime", services)

    @cached_property
    def _durable(self) -> DurableTurn:
        return DurableTurn(self._runtime, cast("Office", self._runtime.messenger))

    async def turn(self, ctx: Context, agent: Actor[Any], message: object) -> Any:
        """Handle a message to a durable agent.

        Raises:
            NotDurable: The agent is not: its memory would be lost with the process, and a replay would change it again.
        """
        if agent.durable and isinstance(ctx, DurableContext):
            return await self._durable.turn(ctx, agent, message)
        msg = (
            f"agent {str(ctx.session.id)!r} lives in the memory of its process and cannot take part in durable work:"
            f" declare {agent.name!r} with durable=True, or send to it with Runtime.send(…)"
        )
        raise NotDurable(msg)
