"""What the guarantees have in common: fixtures, and waits that end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest

from . import house

if TYPE_CHECKING:
    from perdure import Run
    from perdure.testing import Harness

    from .ground import Ground

T = TypeVar("T")


class Bench:
    """Fixtures to give: ``ground``.

    Attributes:
        patience: Seconds of real time after which what is waited for will not come.
    """

    patience: ClassVar[float] = 30.0

    @pytest.fixture(autouse=True)
    def cleared(self) -> None:
        """The traces are this test's."""
        house.clear()

    async def within(self, event: Awaitable[T]) -> T:
        """The one timeout of whatever is waited for."""
        return await asyncio.wait_for(event, self.patience)

    async def recorded(self, h: Harness, run: Run[Any], count: int) -> None:
        """Until the journal has so many entries."""
        seen = -1
        async with asyncio.timeout(self.patience):
            while len(await h.runtime.query.journal(run.id)) < count:
                seen = await h.process.changed(seen)

    async def stands(self, h: Harness, run: Run[Any], *status: str) -> None:
        """Until the run has one of these."""
        seen = -1
        async with asyncio.timeout(self.patience):
            while (await h.view(run)).status not in status:
                seen = await h.process.changed(seen)

    async def looked(self, h: Harness, ground: Ground) -> None:
        """Until the engine has asked twice what there is to do: so it has taken all that there was before."""
        before = ground.effects["claim"]
        async with asyncio.timeout(self.patience):
            while ground.effects["claim"] < before + 2:
                await h.call(house.chain, "a moment", 1)
