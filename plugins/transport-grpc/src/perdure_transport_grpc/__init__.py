"""The gRPC transport: a worker dials a host, and messages go over one stream each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure import config, hookimpl
from perdure_transport_grpc.settings import SECTION, ServerSettings, Settings
from perdure_transport_grpc.transport import GrpcTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.ports import Clock, Transport

__all__ = ["GrpcTransport", "ServerSettings", "Settings", "perdure_transport"]


@hookimpl
def perdure_transport(settings: Mapping[str, Any], clock: Clock) -> Transport:
    """Make the transport. Raises ``InvalidSetting``."""
    return GrpcTransport(config.section(settings, Settings, SECTION), clock)
