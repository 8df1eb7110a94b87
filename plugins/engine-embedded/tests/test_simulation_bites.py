"""Where a promise is broken, on purpose, simulated worlds find it; what they found happens again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.testing.simulation import simulate

from .simulated import BROKEN

BITES = 1000  # seeds within which what is broken must be found; each interpreter has other worlds


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_engine_or_store_is_found(what: str) -> None:
    engine, store, promises = BROKEN[what]
    seen: set[str] = set()
    for seed in range(BITES):
        seen |= {violation.promise for violation in simulate(seed, engine=engine, store=store).violations}
        if promises <= seen:
            return
    pytest.fail(f"{promises} not found within {BITES} seeds, but {seen}")


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
