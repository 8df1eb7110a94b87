"""What a step looks up about its function, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.steps import StepCall, StepOptions

if TYPE_CHECKING:
    from collections.abc import Sequence


class Client:
    async def ask(self) -> Sequence[str]:  # its type is not there at run time
        return ["answer"]


def test_a_step_whose_type_is_given_does_not_read_the_annotations() -> None:
    call = StepCall.bind(Client().ask, (), {}, StepOptions(returns=list[str]))
    assert call.returns == list[str]
    assert call.is_async
