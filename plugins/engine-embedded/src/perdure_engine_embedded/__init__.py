"""The embedded engine: drives turns and runs over a store, in this process.

``engine`` takes what the store gives it to do; ``live`` is one run while it moves; ``attempts`` makes the
attempts at a step; ``reporting`` tells observers; ``waiting`` tells those who wait for results; ``coding``
puts payloads through codecs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure import hookimpl
from perdure.config import section
from perdure_engine_embedded.engine import EmbeddedEngine
from perdure_engine_embedded.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.ports import Engine, EngineParts

__all__ = ["EmbeddedEngine", "EngineSettings", "perdure_engine"]


@hookimpl
def perdure_engine(settings: Mapping[str, Any], parts: EngineParts) -> Engine:
    """Make the engine from its section of the configuration."""
    return EmbeddedEngine(parts, section(settings, EngineSettings, "engine-embedded"))
