"""A short setting of ``kill_bank``, whose command kills 300."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import kill_bank as chaos


@pytest.mark.timeout(300)
async def test_messages_of_durable_agents_are_neither_lost_nor_doubled_by_kills(tmp_path: Path) -> None:
    tally = await chaos.kill_bank(tmp_path, kills=8, seed=1)
    assert not tally.problems
    assert tally.kills.total() == 8
    assert tally.payments > 8
