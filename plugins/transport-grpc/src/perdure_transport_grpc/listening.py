"""What listens for workers, on behalf of a host that may be reached in other ways, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from perdure_transport_grpc.autogen.service import AutogenService
from perdure_transport_grpc.credentials import Doorman
from perdure_transport_grpc.server import Server

if TYPE_CHECKING:
    from perdure.ports import Clock
    from perdure_hosting.host import Host
    from perdure_transport_grpc.settings import ServerSettings


class Listener(Protocol):
    """What ``perdure host`` listens with.

    The group of entry points ``perdure.listeners`` names functions that make one, of the host, the clock, the plugin's
    own section of the configuration, and what the command line says of the address (empty: nothing).
    """

    @property
    def url(self) -> str:
        """Where it is reached, once it listens, for people."""
        ...

    async def start(self) -> None:
        """Listen. Raises ``UsageError`` or ``OSError`` if that is not possible."""
        ...

    async def close_doors(self) -> None:
        """Take no new work: the host is about to stop."""
        ...

    async def stop(self) -> None:
        """Close what is open, after the host has stopped. Idempotent."""
        ...


class GrpcListener:
    """Fills ``Listener``: the service for workers, and the one for AutoGen's where that is switched on.

    Args:
        host: What routes.
        clock: The host's.
        settings: How.

    Raises:
        InvalidSetting: Strangers could come in, or a file cannot be read.
    """

    def __init__(self, host: Host, clock: Clock, settings: ServerSettings) -> None:
        settings.check_exposure()
        self._settings = settings
        doorman = Doorman(settings)
        self._server = Server(host.accept, doorman.admit, settings, max_frame=settings.max_frame)
        self._autogen: AutogenService | None = None
        if settings.autogen:
            deadline = settings.deadline or settings.autogen_workers.deadline
            workers = settings.autogen_workers.model_copy(update={"deadline": deadline})
            self._autogen = AutogenService(host, clock, workers, doorman.admit)
            self._server.further["agents.AgentRpc"] = self._autogen.add_to

    @property
    def address(self) -> str:
        """What workers set as ``host``."""
        return self._server.address

    @property
    def url(self) -> str:
        """The address, and what it takes to get in."""
        settings = self._settings
        kinds = {
            "TLS": settings.certificate is not None,
            "client certificates": settings.authority is not None,
            "tokens": bool(settings.tokens),
            "AutoGen": settings.autogen,
        }
        return f"{self.address} ({', '.join(['gRPC', *(kind for kind, there in kinds.items() if there)])})"

    async def start(self) -> None:
        """Listen. Raises ``UsageError`` if that is not possible."""
        await self._server.start(self._settings.bind)

    async def close_doors(self) -> None:
        """Say to who asks for its health that it will not be here for long. The host refuses newcomers itself."""
        await self._server.retire()
        if self._autogen is not None:
            await self._autogen.stop()

    async def stop(self) -> None:
        """End all streams and stop listening. Idempotent."""
        await self._server.stop()
