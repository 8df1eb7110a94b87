"""What may be set in the section ``store-sqlite``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """The plugin's settings.

    Attributes:
        path: The database file; ``None`` is ``perdure.db`` in the data folder.
        synchronous: ``full``: what was acknowledged survives power loss. ``normal``: it survives the death of the
            process, and power loss may take the last moments; faster on slow disks.
        lease: Seconds after which a process that shows no life is taken over from.
        busy_timeout: Seconds to wait for the file before ``StoreUnavailable``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = None
    synchronous: Literal["full", "normal"] = "full"
    lease: float = Field(default=10.0, gt=0, le=3600)
    busy_timeout: float = Field(default=5.0, gt=0, le=600)
