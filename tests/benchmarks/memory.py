"""How much memory this process has."""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")


def resident() -> int | None:
    """Bytes of it that lie in RAM, or ``None`` where the system does not tell."""
    gc.collect()
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if _STATM.exists() else None


def traced() -> int:
    """Bytes that Python allocated since tracing began; 0 where it did not."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
