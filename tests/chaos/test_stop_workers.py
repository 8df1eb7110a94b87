"""A short setting of ``stop_workers``, whose command stops workers 200 times."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import stop_workers as chaos


@pytest.mark.timeout(300)
async def test_a_worker_that_wakes_after_its_lease_commits_nothing_stale(tmp_path: Path) -> None:
    tally = await chaos.stop_workers(tmp_path, stops=4, seed=2)
    assert not tally.problems
    assert tally.stops.total() == 4
    assert tally.taken + tally.kept + tally.lost == 4
    assert tally.kept + tally.lost >= 2
    assert tally.findings.steps > tally.starts > 0
