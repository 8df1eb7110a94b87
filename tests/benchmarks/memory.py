"""How much memory a process has."""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path
from typing import Final

_SYSTEM: Final = Path("/proc")


def resident(process: int | None = None) -> int | None:
    """Bytes of it that lie in RAM, or of another process; ``None`` where the system does not tell."""
    gc.collect()
    place = _SYSTEM / ("self" if process is None else str(process)) / "statm"
    return int(place.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if place.exists() else None


def traced() -> int:
    """Bytes that Python allocated since tracing began; 0 where it did not."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
