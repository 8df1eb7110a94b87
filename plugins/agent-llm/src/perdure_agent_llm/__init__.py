"""The LLM turn: model, tools, structured output, limits.

Executes the kernel's ``Agent`` declaration, against ``Context`` only: the same code runs volatile and durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure import Agent, hookimpl
from perdure_agent_llm.settings import Settings
from perdure_agent_llm.turn import LlmTurn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.ports import Services, TurnHandler

__all__ = ["LlmTurn", "Settings", "perdure_agent_kinds"]


@hookimpl
def perdure_agent_kinds(services: Services) -> Mapping[type, TurnHandler]:
    """``Agent`` declarations are executed by ``LlmTurn``. Raises ``InvalidSetting``."""
    return {Agent: LlmTurn(services)}
