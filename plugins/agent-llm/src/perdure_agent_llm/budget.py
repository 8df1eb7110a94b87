"""What one turn has used, held against its agent's limits. Knows no clock: ``Limits.seconds`` is the turn's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import LimitExceeded
from perdure.messages import Usage

if TYPE_CHECKING:
    from perdure import Agent


class Budget:
    """Counts model calls and tokens of one turn.

    Rounds are counted beside calls: middleware may ask the model twice in one round, or answer in its place
    for ever without asking it at all, and ``Limits.turns`` bounds both.
    """

    def __init__(self, agent: Agent[object]) -> None:
        self._agent = agent.name
        self._limits = agent.limits
        self._rounds = 0
        self._calls = 0
        self.usage = Usage()

    @property
    def _tokens(self) -> int:
        return self.usage.input_tokens + self.usage.output_tokens

    def require_round(self) -> None:
        """Raise ``LimitExceeded`` if no round may follow."""
        self._require_turn(self._rounds)
        self._require_turn(self._calls)
        if self._limits.tokens is not None and self._tokens >= self._limits.tokens:
            raise self._exceeded_tokens(self._limits.tokens)

    def begin_round(self) -> None:
        """Another answer of the model is wanted. Raises ``LimitExceeded``."""
        self.require_round()
        self._rounds += 1

    def begin_call(self) -> None:
        """The model is about to be asked. Raises ``LimitExceeded``."""
        self._require_turn(self._calls)
        self._calls += 1

    def spend(self, usage: Usage) -> None:
        """Count what a call used. Raises ``LimitExceeded`` if that was more than the turn may use."""
        self.usage += usage
        if self._limits.tokens is not None and self._tokens > self._limits.tokens:
            raise self._exceeded_tokens(self._limits.tokens)

    def _require_turn(self, used: int) -> None:
        if self._limits.turns is not None and used >= self._limits.turns:
            msg = (
                f"agent {self._agent!r} came to no answer within its limit of {self._limits.turns} model calls a turn;"
                " raise it with Agent(limits=Limits(turns=…)), or ask for less at once"
            )
            raise LimitExceeded(msg)

    def _exceeded_tokens(self, limit: int) -> LimitExceeded:
        return LimitExceeded(
            f"agent {self._agent!r} reached its limit of {limit} tokens a turn, having used {self._tokens}; raise it"
            " with Agent(limits=Limits(tokens=…)), or go on in a session with a shorter conversation"
        )
