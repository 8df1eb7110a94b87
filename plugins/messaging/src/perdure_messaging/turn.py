"""What executes message agents as durable work; their messages in memory go another way, by ``messenger``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.errors import NotDurable

if TYPE_CHECKING:
    from perdure import Context
    from perdure_messaging.actors import Actor


class ActorTurn:
    """Executes ``Actor`` declarations: the ``TurnHandler`` of this plugin."""

    async def turn(self, ctx: Context, agent: Actor[Any], message: object) -> Any:  # noqa: ARG002 - the port
        """Refuse: its memory would be lost with the process, and a replay would change it again.

        Raises:
            NotDurable: Always.
        """
        msg = (
            f"agent {str(ctx.session.id)!r} lives in the memory of its process and cannot take part in durable work:"
            f" declare {agent.name!r} with durable=True, or send to it with Runtime.send(…)"
        )
        raise NotDurable(msg)
