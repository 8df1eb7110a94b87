"""No room on the disk: new work is refused, what is under way waits and goes on by itself, nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import disk_full_work as work

ROOT = Path(__file__).parents[2]
# A small file system of its own, seen by nobody else and gone with its processes.
PRIVATE = ("unshare", "--map-root-user", "--mount")
MOUNT = 'mount -t tmpfs -o size=24m tmpfs "$0"'
LIVES = '"$1" -m tests.chaos.disk_full_work "$0" suffer; "$1" -m tests.chaos.disk_full_work "$0" recover'


def run(place: Path) -> subprocess.CompletedProcess[str]:
    """Both processes, on a small file system if one may be mounted here."""
    command = [*PRIVATE, "sh", "-c", f"{MOUNT} && {{ {LIVES}; }}"] if mounts(place) else ["sh", "-c", LIVES]
    return subprocess.run(
        [*command, place, sys.executable], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


def mounts(place: Path) -> bool:
    if shutil.which(PRIVATE[0]) is None:
        return False
    return subprocess.run([*PRIVATE, "sh", "-c", MOUNT, place], capture_output=True, check=False).returncode == 0


@pytest.mark.timeout(300)
def test_a_full_disk_refuses_new_work_and_loses_nothing(tmp_path) -> None:
    ended = run(tmp_path)
    reports = [work.Report(**json.loads(line)) for line in ended.stdout.splitlines()]
    assert len(reports) == 2, ended.stderr
    suffered, recovered = reports
    old, more = {f"a{n}" for n in range(work.RUNS)}, set(suffered.results) - {f"a{n}" for n in range(work.RUNS)}
    # New work is refused, in words that help, and what was refused had not begun: later it is new.
    assert len(suffered.refused) == work.REFUSALS
    assert all("cannot be written now" in words and "free the disk" in words for words in suffered.refused)
    assert set(suffered.again) <= more
    assert len(suffered.again) == work.REFUSALS
    # What was under way waited, and went on by itself; no step was executed twice.
    assert suffered.waited > 0
    assert suffered.results == {label: expected(label) for label in old | more}
    assert set(suffered.bodies.values()) == {1}
    # One trouble is one warning, and one word when it is over, however often it was tried.
    assert len([line for line in suffered.warnings if "the store refuses" in line]) == 1, suffered.warnings
    assert len([line for line in suffered.after if "takes again" in line]) == 1, suffered.after
    assert len(suffered.warnings + suffered.after) == 2, suffered.warnings + suffered.after
    # A process that dies while the disk is full leaves its runs to the next one.
    assert recovered.again == []
    assert recovered.results == {label: expected(label) for n in range(work.RUNS) for label in (f"a{n}", f"b{n}")}


def expected(label: str) -> list[str]:
    return [f"{label}.{part}" for part in range(3)]
