"""Messages between agents: classes with typed handlers, send and reply.

Topics, subscriptions, interventions and durable message agents will stand in modules of their own beside these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure import hookimpl
from perdure_messaging.actors import Actor, actor
from perdure_messaging.handlers import MessageAgent, handles
from perdure_messaging.message_types import message_type, type_name
from perdure_messaging.messenger import Volatile
from perdure_messaging.turn import ActorTurn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure import Runtime
    from perdure.ports import Messenger, Services, TurnHandler

__all__ = [
    "Actor",
    "ActorTurn",
    "MessageAgent",
    "Volatile",
    "actor",
    "handles",
    "message_type",
    "perdure_agent_kinds",
    "perdure_messenger",
    "type_name",
]


@hookimpl
def perdure_agent_kinds(services: Services) -> Mapping[type, TurnHandler]:  # noqa: ARG001 - the hook's parameter
    """``Actor`` declarations are executed by ``ActorTurn``."""
    return {Actor: ActorTurn()}


@hookimpl
def perdure_messenger(runtime: Runtime) -> Messenger:
    """Messages go through the configured transport, by ``Volatile``."""
    return Volatile(runtime)
