"""What ``perdure host --http`` takes from here: the entry point of the group ``perdure.listeners``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure import config
from perdure_transport_http.server import HttpServer
from perdure_transport_http.settings import SECTION, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.ports import Clock
    from perdure_hosting.host import Host


def listener(host: Host, clock: Clock, section: Mapping[str, Any], address: str = "") -> HttpServer:
    """Make the server of a host.

    Args:
        host: Whom it serves.
        clock: The host's.
        section: Of the configuration; ``server`` in it says how to listen.
        address: Where, instead of what is said there.

    Raises:
        InvalidSetting: Something in the section does not fit; or the host would listen to strangers.
    """
    server = {**section.get("server", {}), **({"bind": address} if address else {})}
    return HttpServer(host, clock, config.section({**section, "server": server}, Settings, SECTION).server)
