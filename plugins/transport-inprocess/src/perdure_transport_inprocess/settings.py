"""The plugin's own section of the configuration."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

SECTION: Final = "transport-inprocess"


class Settings(BaseModel):
    """How messages are carried.

    Attributes:
        strict: Whether each payload is encoded, as between processes: what could not travel is an error here, too.
        grace: Seconds that handlers get to finish when the transport stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strict: bool = False
    grace: float = Field(default=1.0, ge=0)
