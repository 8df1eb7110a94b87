"""The plugin's own section of the configuration."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

SECTION: Final = "agent-llm"


class Settings(BaseModel):
    """What holds for every agent of a runtime; what is an agent's own stands in its declaration.

    Attributes:
        max_tool_result: Bytes (UTF-8) of one tool result that the model is told; what is longer is cut.
        max_parallel_calls: Tool calls of one answer that are executed; the model is told of the others that
            they were not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tool_result: int = Field(default=256 * 1024, ge=1024)
    max_parallel_calls: int = Field(default=64, ge=1)
