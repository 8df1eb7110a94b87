"""Models behind the OpenAI API, at any compatible base URL. Loads the vendor's SDK: imported by name only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure import hookimpl
from perdure.errors import UnknownName
from perdure_model_openai.client import OpenAIModel, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OpenAIModel", "Settings", "perdure_model"]


@hookimpl
def perdure_model(model: str, settings: Mapping[str, Any]) -> OpenAIModel:
    """``openai:<model>``, as the service names it. Raises ``UnknownName``, ``InvalidSetting``."""
    if not model:
        raise UnknownName("model", "openai:", hint="say which after the colon, such as 'openai:gpt-5'")
    return OpenAIModel(model, Settings.read(settings))
