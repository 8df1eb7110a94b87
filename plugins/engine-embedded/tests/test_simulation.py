"""The embedded engine in simulated worlds: no promise is broken; and where one is, on purpose, that is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.testing.simulation import Plan, Report, simulate, simulate_many

from .simulated import BROKEN, embedded

SEEDS = 200
BITES = 1000  # seeds within which what is broken must be found; each interpreter has other worlds
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


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_engine_or_store_is_found(what: str) -> None:
    engine, store, promises = BROKEN[what]
    seen: set[str] = set()
    for seed in range(BITES):
        seen |= {violation.promise for violation in simulate(seed, engine=engine, store=store).violations}
        if promises <= seen:
            return
    pytest.fail(f"{promises} not found within {BITES} seeds, but {seen}")


def test_a_seed_happens_again_exactly_as_it_did() -> None:
    first, second = (simulate(seed=7, engine=embedded) for _ in range(2))
    assert first == second
    assert first.trace


def test_different_seeds_are_different_worlds() -> None:
    assert len({simulate(seed, engine=embedded).digest for seed in range(5)}) == 5


def test_a_failing_seed_fails_again_in_another_process_under_another_hash_seed() -> None:
    engine, store, _ = BROKEN["takes commits under any epoch"]
    failing = next(report for seed in range(BITES) if (report := simulate(seed, engine=engine, store=store)).violations)
    program = (
        "import json, sys; from perdure.testing.simulation import simulate; from simulated import BROKEN;"
        " engine, store, _ = BROKEN['takes commits under any epoch'];"
        " report = simulate(int(sys.argv[1]), engine=engine, store=store);"
        " print(json.dumps([report.digest, report.violations]))"
    )
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", program, str(failing.seed)],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        digest, violations = json.loads(ran.stdout)
        assert digest == failing.digest
        assert violations == [list(violation) for violation in failing.violations]


def test_a_plan_can_be_given() -> None:
    calm = Plan(workers=1, jobs=3, seconds=5.0, mishaps=(), latency=0.0)
    report = simulate(1, engine=embedded, plan=calm)
    assert report.violations == ()
    assert report.counts["runs"] >= 3
    assert report.counts["kills"] == report.counts["stops"] == 0
