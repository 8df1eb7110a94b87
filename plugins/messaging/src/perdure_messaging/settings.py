"""The plugin's own section of the configuration."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

SECTION: Final = "messaging"


class Settings(BaseModel):
    """How messages are taken.

    Attributes:
        mailbox: How many messages may wait for one agent; more are refused as ``Overloaded``.
        dead_letters: How many events that nobody could handle are kept.
        grace: Seconds that agents get for ``on_stop`` when the runtime closes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mailbox: int = Field(default=10_000, ge=1)
    dead_letters: int = Field(default=1000, ge=0)
    grace: float = Field(default=1.0, ge=0)
