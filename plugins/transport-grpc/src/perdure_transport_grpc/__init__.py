"""The gRPC transport: a worker dials a host, and messages go over one stream each; and the host's store likewise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure_transport_grpc import polling  # before anything that imports gRPC

# isort: split
from perdure import config, hookimpl
from perdure.clock import SystemClock
from perdure_hosting.remote_store import remote_store
from perdure_transport_grpc.dialling import Dialler
from perdure_transport_grpc.settings import SECTION, ServerSettings, Settings
from perdure_transport_grpc.transport import GrpcTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.ports import Clock, DurableStore, Transport

__all__ = ["GrpcTransport", "ServerSettings", "Settings", "perdure_store", "perdure_transport", "polling"]


@hookimpl
def perdure_transport(settings: Mapping[str, Any], clock: Clock) -> Transport:
    """Make the transport. Raises ``InvalidSetting``."""
    return GrpcTransport(config.section(settings, Settings, SECTION), clock)


@hookimpl
def perdure_store(settings: Mapping[str, Any]) -> DurableStore:
    """Make the store that is the host's own, from the settings of a worker. Raises ``InvalidSetting``."""
    chosen = config.section(settings, Settings, SECTION)
    chosen.check_exposure()
    dial = Dialler(chosen)
    return remote_store(dial, SystemClock(), chosen, closing=dial.close)
