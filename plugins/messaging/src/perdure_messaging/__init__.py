"""Messages between agents: classes and functions with typed handlers; send and reply, publish and subscribe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure import hookimpl
from perdure_messaging.actors import Actor, actor, closure
from perdure_messaging.handlers import MessageAgent, handles
from perdure_messaging.interventions import Intervention
from perdure_messaging.letters import DeadLetter
from perdure_messaging.message_types import message_type, type_name
from perdure_messaging.messenger import LocalMessenger
from perdure_messaging.subscriptions import Interest, subscribes, subscription
from perdure_messaging.turn import ActorTurn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perdure import Runtime
    from perdure.ports import Messenger, Services, TurnHandler

__all__ = [
    "Actor",
    "ActorTurn",
    "DeadLetter",
    "Interest",
    "Intervention",
    "LocalMessenger",
    "MessageAgent",
    "actor",
    "closure",
    "dead_letters",
    "handles",
    "message_type",
    "perdure_agent_kinds",
    "perdure_messenger",
    "subscribes",
    "subscription",
    "type_name",
]


def dead_letters(runtime: Runtime) -> Sequence[DeadLetter]:
    """The last events that agents of this runtime could not handle, oldest first; how many, the settings say."""
    messenger = runtime.messenger
    return messenger.letters.list() if isinstance(messenger, LocalMessenger) else ()


@hookimpl
def perdure_agent_kinds(services: Services) -> Mapping[type, TurnHandler]:
    """``Actor`` declarations are executed by ``ActorTurn``."""
    return {Actor: ActorTurn(services)}


@hookimpl
def perdure_messenger(runtime: Runtime) -> Messenger:
    """Messages go through the configured transport, by ``LocalMessenger``."""
    return LocalMessenger(runtime)
