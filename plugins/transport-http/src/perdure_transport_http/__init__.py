"""The transport over HTTP: workers over WebSockets, and any program over CloudEvents, where gRPC does not reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure import config, hookimpl
from perdure.clock import SystemClock
from perdure_hosting.remote_store import remote_store
from perdure_transport_http.dialer import Dialer, HttpTransport
from perdure_transport_http.settings import SECTION, ServerSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.ports import Clock, DurableStore, Transport

__all__ = ["HttpTransport", "ServerSettings", "Settings", "perdure_store", "perdure_transport"]


@hookimpl
def perdure_transport(settings: Mapping[str, Any], clock: Clock) -> Transport:
    """Make a worker's transport. Raises ``InvalidSetting``."""
    return HttpTransport(config.section(settings, Settings, SECTION), clock)


@hookimpl
def perdure_store(settings: Mapping[str, Any]) -> DurableStore:
    """Make the store that is the host's own, from the settings of a worker. Raises ``InvalidSetting``."""
    chosen = config.section(settings, Settings, SECTION)
    dial = Dialer(chosen)
    return remote_store(dial, SystemClock(), chosen, closing=dial.close)
