"""``GrpcTransport``: the ``Transport`` port of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perdure_hosting import Principal
from perdure_hosting.client import LinkTransport
from perdure_hosting.errors import HostUnreachable
from perdure_hosting.settings import SessionSettings
from perdure_transport_grpc.dialling import Dialler
from perdure_transport_grpc.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import Envelope, Presence, Whereabouts
    from perdure.ports import Clock, Deliver
    from perdure_hosting import Carrier
    from perdure_transport_grpc.settings import Settings


class GrpcTransport:
    """Carries messages through a host, and directly to other workers where they listen.

    Args:
        settings: How.
        clock: The time that deadlines are given in.

    Raises:
        InvalidSetting: Secrets could be read by others, or a file cannot be.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        settings.check_exposure()
        self._settings = settings
        self._dial = Dialler(settings)
        self._clock = clock
        self._link = LinkTransport(self._dial, clock, settings)
        self._server: Server | None = None

    @property
    def serialises(self) -> bool:
        """It does."""
        return True

    @property
    def address(self) -> str:
        """Where other workers reach this one directly; empty: nowhere."""
        return self._server.address if self._server is not None else ""

    async def start(self, deliver: Deliver) -> None:
        """Listen, if so set, and connect to the host.

        Raises:
            UsageError: It was started before, or cannot listen where it is set to.
            NotPermitted, Refused: The host does not take this worker.
            HostUnreachable: There was no host within the setting ``connect``.
        """
        settings = self._settings
        if settings.listen and self._server is None:
            self._server = Server(self._accept, _visitor, settings, max_frame=_LARGEST)
            await self._server.start(settings.listen)
            here = settings.model_copy(update={"address": self._server.address})
            self._link = LinkTransport(self._dial, self._clock, here)
        try:
            await self._link.start(deliver)
        except HostUnreachable as error:
            msg = f"{error} The last attempt: {self._dial.failure}" if self._dial.failure else str(error)
            raise HostUnreachable(msg) from error

    async def announce(self, presence: Presence) -> None:
        """Say what lives here. Raises ``NotPermitted``."""
        await self._link.announce(presence)

    async def send(self, envelope: Envelope) -> Envelope:
        """Carry a request; return its reply or error envelope. Raises as the port says."""
        return await self._link.send(envelope)

    async def publish(self, envelope: Envelope) -> None:
        """Carry an event; return once the host has accepted it. Raises as the port says."""
        await self._link.publish(envelope)

    async def agents(self) -> Sequence[Whereabouts]:
        """Which agent types live where, as the host sees it."""
        return await self._link.agents()

    async def stop(self) -> None:
        """Refuse what is new, let finish what was accepted for the setting ``drain``, then leave. Idempotent."""
        try:
            await self._link.stop()
        finally:
            await self._dial.close()
            if self._server is not None:
                await self._server.stop()

    def _accept(self, carrier: Carrier) -> None:
        self._link.accept(carrier)  # which is made once it is known where this listens


def _visitor(*_: object) -> Principal:
    """Another worker: the ticket in its hello says who it is."""
    return Principal("worker")


_LARGEST: Final = SessionSettings().max_frame
"""Bytes of the largest message from worker to worker."""
