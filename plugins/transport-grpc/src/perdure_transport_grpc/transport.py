"""``GrpcTransport``: the ``Transport`` port of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perdure_hosting import Principal
from perdure_hosting.client import LinkTransport
from perdure_hosting.settings import SessionSettings
from perdure_transport_grpc.dialling import Dialler
from perdure_transport_grpc.server import Server

if TYPE_CHECKING:
    from perdure.ports import Clock, Deliver
    from perdure_transport_grpc.settings import Settings


class GrpcTransport(LinkTransport):
    """Carries messages through a host, and directly to other workers where they listen.

    Args:
        settings: How.
        clock: The time that deadlines are given in.

    Raises:
        InvalidSetting: Secrets could be read by others, or a file cannot be.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        settings.check_exposure()
        self._dial = Dialler(settings)
        super().__init__(self._dial, clock, settings)
        self._bind = settings.listen
        self._server = Server(self.accept, _visitor, settings, max_frame=_LARGEST) if settings.listen else None

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
        if self._server is not None and not self.address:
            await self._server.start(self._bind)
            self.listens(self.address)
        await super().start(deliver)

    async def stop(self) -> None:
        """Refuse what is new, let finish what was accepted for the setting ``drain``, then leave. Idempotent."""
        try:
            await super().stop()
        finally:
            await self._dial.close()
            if self._server is not None:
                await self._server.stop()


def _visitor(*_: object) -> Principal:
    """Another worker: the ticket in its hello says who it is."""
    return Principal("worker")


_LARGEST: Final = SessionSettings().max_frame
"""Bytes of the largest message from worker to worker."""
