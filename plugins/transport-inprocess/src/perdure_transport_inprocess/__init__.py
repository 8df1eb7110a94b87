"""The transport within one process: messages go from caller to handler as the objects that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure import config, hookimpl
from perdure_transport_inprocess.settings import SECTION, Settings
from perdure_transport_inprocess.transport import InProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.ports import Clock, Transport

__all__ = ["InProcess", "Settings", "perdure_transport"]


@hookimpl
def perdure_transport(settings: Mapping[str, Any], clock: Clock) -> Transport:
    """Make the transport. Raises ``InvalidSetting``."""
    return InProcess(config.section(settings, Settings, SECTION), clock)
