"""Hosts and workers over any carrier: sessions that survive it, routing, placement; everything but sockets.

The host is ``perdure_hosting.host.Host``, the worker's side ``perdure_hosting.client.LinkTransport``. They are not
imported here: who installs a transport pays for them when it is used.
"""

from __future__ import annotations

from perdure_hosting.carrier import Carrier, Dial, MemoryCarrier, Principal, pair
from perdure_hosting.settings import HostSettings, WorkerSettings

__all__ = ["Carrier", "Dial", "HostSettings", "MemoryCarrier", "Principal", "WorkerSettings", "pair"]
