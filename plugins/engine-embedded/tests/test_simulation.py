"""The embedded engine in simulated worlds: no promise is broken."""

from __future__ import annotations

import pytest

from perdure.testing.simulation import Plan, Report, simulate, simulate_many

from .simulated import embedded

SEEDS = 200  # on each interpreter, which has other worlds
"""What a change must pass; ``tests/chaos/simulate.py`` runs as many as are wanted."""


def found(report: Report) -> str:
    lines = [f"seed {report.seed}:", *(f"  {promise}: {text}" for promise, text in report.violations)]
    return "\n".join(lines)


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_no_seed_breaks_a_promise(first: int) -> None:
    tally = simulate_many(range(first, first + 50), engine=embedded)
    assert not tally.failed, "\n".join(map(found, tally.failed))
    # A world in which nothing goes wrong would prove nothing.
    assert {"kill", "stop", "deaf", "outage", "jump", "drain"} <= tally.counts.keys()
    assert tally.counts["entries"] > tally.counts["runs"] > 200


def test_a_seed_happens_again_exactly_as_it_did() -> None:
    first, second = (simulate(seed=7, engine=embedded) for _ in range(2))
    assert first == second
    assert first.trace


def test_different_seeds_are_different_worlds() -> None:
    assert len({simulate(seed, engine=embedded).digest for seed in range(5)}) == 5


def test_a_plan_can_be_given() -> None:
    calm = Plan(workers=1, jobs=3, seconds=5.0, mishaps=(), latency=0.0)
    report = simulate(1, engine=embedded, plan=calm)
    assert report.violations == ()
    assert report.counts["runs"] >= 3
    assert report.counts["kills"] == report.counts["stops"] == 0
