"""How gRPC waits for its sockets; imported before gRPC is, which reads this once.

Its event engine hands each read and write from thread to thread before the event loop hears of it: a request from
worker to worker takes a quarter longer so. Without it gRPC polls as it did before it had one. Who has set the variable
has decided otherwise; where gRPC was imported before, it stays as it is.
"""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "GRPC_EXPERIMENTS"

os.environ.setdefault(VARIABLE, "-event_engine_client,-event_engine_listener")
