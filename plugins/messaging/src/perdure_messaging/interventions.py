"""Interventions: what sees each message on its way, and may change, delay, refuse or drop it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from perdure.errors import UsageError
from perdure.messages import Envelope

if TYPE_CHECKING:
    from collections.abc import Sequence


class Intervention:
    """A base class: override what is wanted, and list instances in the hook ``perdure_interventions``.

    Each method gets an envelope with the live message, and returns it, as it is or as ``envelope._replace(payload=…)``.
    What it returns is what the next intervention sees. To drop a message, raise ``MessageDropped``: who waits for a
    reply is told, who published is not. Any other error refuses it: the sender gets that error; of an event that was
    accepted already, it goes to the dead letters. To delay it, wait.
    """

    async def on_send(self, envelope: Envelope) -> Envelope:
        """A request, or an event to one agent, before it is carried."""
        return envelope

    async def on_publish(self, envelope: Envelope) -> Envelope:
        """An event on a topic, before it is carried."""
        return envelope

    async def on_deliver(self, envelope: Envelope) -> Envelope:
        """A request or event that has arrived, before its handler is chosen."""
        return envelope

    async def on_reply(self, reply: Envelope, request: Envelope) -> Envelope:  # noqa: ARG002 - for those who override
        """A reply or error envelope, where the request was handled."""
        return reply


async def passed(
    interventions: Sequence[Intervention], stage: Literal["on_send", "on_publish", "on_deliver"], envelope: Envelope
) -> Envelope:
    """The envelope as the last intervention leaves it."""
    for each in interventions:
        envelope = _checked(await getattr(each, stage)(envelope), each, stage)
    return envelope


async def replied(interventions: Sequence[Intervention], reply: Envelope, request: Envelope) -> Envelope:
    """The reply as the last intervention leaves it."""
    for each in interventions:
        reply = _checked(await each.on_reply(reply, request), each, "on_reply")
    return reply


def _checked(result: object, intervention: Intervention, stage: str) -> Envelope:
    if isinstance(result, Envelope):
        return result
    msg = (
        f"{type(intervention).__qualname__}.{stage} returned {result!r}, expected the envelope: return it, changed or"
        " not; to drop a message, raise MessageDropped"
    )
    raise UsageError(msg)
