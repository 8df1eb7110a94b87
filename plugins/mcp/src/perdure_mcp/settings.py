"""Section ``[mcp]`` of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """How calls are answered.

    Attributes:
        wait_budget: Seconds after which a call returns although its run goes on. Stay below the timeout of the
            client, which is 60 s for many. 0 returns at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait_budget: float = Field(default=50.0, ge=0, allow_inf_nan=False)
