"""What one Python recorded, every Python replays; and a hash seed changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .machine_driver import Library, replay
from .machine_journals import MINOR, committed, from_data, record, written
from .machine_programs import PROGRAMS

TESTS = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13")

AGAIN = "record them with 'python -m machine.machine_journals --write' in core/tests, and say why they changed"


@pytest.mark.parametrize("minor", PYTHONS)
def test_what_one_python_recorded_every_python_replays(minor):
    recorded = committed(minor)
    assert {key.partition(" ")[0] for key in recorded} == PROGRAMS.keys(), AGAIN
    library = Library(PROGRAMS)
    for key, one in recorded.items():
        name = key.partition(" ")[0]
        brought = replay(library, name, [from_data(data) for data in one["journal"]])
        assert brought[-1].outcome == one["outcome"], key


def test_what_this_python_records_is_what_was_committed():
    assert record() == committed(MINOR), AGAIN


def test_identities_are_the_same_on_all_pythons():
    first, *others = (committed(minor) for minor in PYTHONS)
    assert all(other == first for other in others)


def test_a_hash_seed_changes_no_journal():
    here = written(record())
    for seed in ("0", "1", "4711"):
        assert printed("machine.machine_journals", seed) == here


def test_iterating_a_set_of_strings_is_caught_by_the_fingerprint():
    journal = printed("machine.machine_hash_order", "1")
    assert json.loads(printed("machine.machine_hash_order", "1", journal)) == "completed"
    found = json.loads(printed("machine.machine_hash_order", "2", journal))
    assert "no longer fits its journal" in found
    assert "passes other arguments there: step 'note'" in found


def printed(module: str, seed: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=TESTS,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ran.stdout
