"""What tests are made of, as product: fakes, a manual clock, crash injection and one conformance kit per port.

Everything here passes the same kits as the real implementations. The kits stand in modules of their own, for they
need pytest (``perdure[testing]``): ``store_kit``, ``engine_kit``, ``model_kit``, ``transport_kit``.
"""

from perdure.testing.clock import ManualClock
from perdure.testing.faults import Crash, CrashingStore, FaultyStore
from perdure.testing.harness import Harness, harness
from perdure.testing.models import Script, calls
from perdure.testing.proxy import FaultProxy
from perdure.testing.replaying import Replayed, export, replay
from perdure.testing.stores import MemoryStore

__all__ = [
    "Crash",
    "CrashingStore",
    "FaultProxy",
    "FaultyStore",
    "Harness",
    "ManualClock",
    "MemoryStore",
    "Replayed",
    "Script",
    "calls",
    "export",
    "harness",
    "replay",
]
