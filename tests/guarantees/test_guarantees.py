"""Every promise, from one end to the other, over each store; see ``promises.toml``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from .ground import Ground, OnMemory, OnSqlite
from .of_code import OfCode
from .of_waiting import OfWaiting
from .of_work import OfWork


class Guarantees(OfWork, OfWaiting, OfCode):
    """All of them."""


class TestOnMemory(Guarantees):
    @pytest.fixture
    async def ground(self, tmp_path: Path) -> AsyncGenerator[Ground]:
        ground = OnMemory(tmp_path)
        yield ground
        await ground.close()


class TestOnSqlite(Guarantees):
    @pytest.fixture
    async def ground(self, tmp_path: Path) -> AsyncGenerator[Ground]:
        ground = OnSqlite(tmp_path)
        yield ground
        await ground.close()
