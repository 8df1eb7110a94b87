"""The engine's section of the configuration, ``[engine-embedded]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class EngineSettings(BaseModel):
    """How the embedded engine works.

    Attributes:
        cache: How many waiting machines stay in memory; the others are rebuilt from their journals.
        takeovers: How many workers a run may kill before it is parked as poison.
        tick: Seconds between signs of life to the store; several per lease.
        pause: Seconds to wait before trying again after the store could not write.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache: int = Field(default=1024, ge=0)
    takeovers: int = Field(default=5, ge=1)
    tick: float = Field(default=1.0, gt=0)
    pause: float = Field(default=1.0, gt=0)
