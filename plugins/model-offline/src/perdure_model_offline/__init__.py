"""The offline model: it ranks and quotes sentences of the text it is given. No network, no weights, no chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from perdure import hookimpl
from perdure.config import section
from perdure.errors import UnknownName
from perdure_model_offline.model import ExtractiveModel

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ExtractiveModel", "Settings", "perdure_model"]


class Settings(BaseModel):
    """The section ``model-offline``.

    Attributes:
        quotes: How many passages an answer in free text quotes at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quotes: int = Field(default=3, ge=1)


@hookimpl
def perdure_model(model: str, settings: Mapping[str, Any]) -> ExtractiveModel:
    """``offline:extractive``. Raises ``UnknownName``, ``InvalidSetting``."""
    if model != "extractive":
        kind = "model"
        raise UnknownName(kind, f"offline:{model}", ["offline:extractive"])
    return ExtractiveModel(quotes=section(settings, Settings, "model-offline").quotes)
