"""The engine's section of the configuration, ``[engine-embedded]``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EngineSettings(BaseModel):
    """How the embedded engine works.

    Attributes:
        cache: How many waiting machines stay in memory; the others are rebuilt from their journals.
        active: How many runs may move at the same time in this process; the others wait in the store.
        takeovers: How many workers a run may kill before it is parked as poison.
        tick: Seconds between signs of life to the store; several per lease.
        pause: Seconds to wait before trying again after the store could not write.
        others: What becomes of runs whose code this process does not have: ``park`` sets them aside, visibly; ``leave``
            leaves them in the store, for a process that has it.
        stall: Seconds without a turn of the event loop after which a warning names the line that blocks it; 0 is off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache: int = Field(default=256, ge=0)
    active: int = Field(default=2048, ge=1)
    takeovers: int = Field(default=5, ge=1)
    tick: float = Field(default=1.0, gt=0)
    pause: float = Field(default=1.0, gt=0)
    others: Literal["park", "leave"] = "park"
    stall: float = Field(default=1.0, ge=0)
