"""Something broken is caught: the tests that hold a promise fail over a store or engine that breaks it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from .bites import BITES

ROOT = Path(__file__).parent.parent.parent
SUITE = Path(__file__).with_name("bitten.py")
PATIENCE = 280


@pytest.mark.timeout(300)
async def test_whatever_is_broken_is_caught_by_the_tests_of_its_promise(tmp_path: Path) -> None:
    outcomes = await run(tmp_path / "outcomes.xml")
    sound = [failed for (_, what), failed in outcomes.items() if what == "sound"]
    assert sound == [None, None, None]
    let_through = [
        f"{bite.promise}: {what} passes {test}"
        for what, bite in BITES.items()
        for test in bite.caught_by
        if outcomes.get((test, what)) is None
    ]
    assert let_through == []


async def run(outcomes: Path) -> dict[tuple[str, str], str | None]:
    """Of each test over each thing that is broken, why it failed; ``None`` if it passed."""
    tests = sorted({test for bite in BITES.values() for test in bite.caught_by})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q"),
        *(f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "hypothesispytest")),
        f"--junitxml={outcomes}",
        *(f"{SUITE}::Test{test.replace('.', '::')}" for test in tests),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PERDURE_"))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    return dict(read(outcomes, said.decode()))


def read(outcomes: Path, said: str) -> Iterator[tuple[tuple[str, str], str | None]]:
    assert outcomes.exists(), said
    for case in ET.parse(outcomes).getroot().iter("testcase"):  # noqa: S314 - our own
        name, _, what = case.attrib["name"].rstrip("]").partition("[")
        kit = case.attrib["classname"].rpartition(".Test")[2]
        failure, error = case.find("failure"), case.find("error")
        assert error is None, f"{name} cannot be run over {what}: {error.text if error is not None else ''}"
        yield (f"{kit}.{name}", what), None if failure is None else failure.attrib["message"]
