"""What an agent's answer must be: any text, or JSON that fits its output type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import PydanticUserError

from perdure import encoding
from perdure.errors import UsageError

if TYPE_CHECKING:
    from perdure import Agent


class Output:
    """The output type of one agent.

    Attributes:
        schema: Its JSON schema, or ``None`` where any text will do.

    Raises:
        UsageError: The type has no JSON schema.
    """

    def __init__(self, agent: Agent[Any]) -> None:
        self._type: Any = agent.output
        self._where = f"the answer of agent {agent.name!r}"
        self.schema: dict[str, Any] | None = None if self._type is str else _schema(agent)

    def read(self, text: str) -> Any:
        """The answer as the output type. Raises ``InvalidInput`` naming what does not fit."""
        return text if self.schema is None else encoding.decode(text.encode(), self._type, self._where)


def _schema(agent: Agent[Any]) -> dict[str, Any]:
    try:
        return encoding.adapter(agent.output).json_schema()
    except PydanticUserError as error:
        msg = (
            f"agent {agent.name!r}: its output type {agent.output!r} has no JSON schema"
            f" ({error.message.splitlines()[0]}); use types that a model can write as JSON"
        )
        raise UsageError(msg) from error
