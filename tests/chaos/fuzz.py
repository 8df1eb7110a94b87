"""Every fuzzer of the workspace, one after the other.

    python -m tests.chaos.fuzz --seconds 600

Each plugin that reads what strangers send has a module ``fuzz`` with a command of its own: ``--seconds``, ``--seed``,
and exit code 0 if it found nothing. They are found where they stand, so that a further one needs no line here. Who is
still at it long after its time hangs, and is told so.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
LATE = 120.0
"""Seconds beyond its time after which a fuzzer hangs: no round takes half as long."""


@dataclass
class Found:
    """What came of one fuzzer.

    Attributes:
        module: Which.
        says: Its last line; or that it hangs.
        failed: Whether it found something.
        seconds: How long it took.
    """

    module: str
    says: str
    failed: bool
    seconds: float


def fuzzers(root: Path = ROOT) -> list[str]:
    """The modules, in the order of their names."""
    sources = [path for glob in ("plugins/*/src", "contrib/*/src", "core/src") for path in root.glob(glob)]
    return sorted(
        ".".join(path.relative_to(source).with_suffix("").parts)
        for source in sources
        for path in source.rglob("fuzz.py")
    )


def fuzz(module: str, *, seconds: float, seed: int = 0, late: float = LATE) -> Found:
    """Run one for so many seconds, in a process of its own: what it breaks may be the process."""
    began = time.monotonic()
    command = [sys.executable, "-m", module, "--seconds", str(seconds), "--seed", str(seed)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + late)
    except subprocess.TimeoutExpired:
        return Found(module, f"it hangs: {seconds:g} s were asked for", failed=True, seconds=time.monotonic() - began)
    failed = done.returncode != 0
    says = done.stderr if failed else done.stdout
    return Found(module, says.strip(), failed=failed, seconds=time.monotonic() - began)


@click.command()
@click.option("--seconds", default=600.0, show_default=True, help="For each of them.")
@click.option("--seed", default=0, show_default=True, help="Of the first round.")
def main(*, seconds: float, seed: int) -> None:
    """Fuzz every decoder; exit with 1 if one did what it must not."""
    failed = False
    for module in fuzzers():
        found = fuzz(module, seconds=seconds, seed=seed)
        failed |= found.failed
        click.echo(f"{found.module}, {found.seconds:.0f} s: {'FAILED: ' if found.failed else ''}{found.says}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
