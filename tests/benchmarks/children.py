"""Programs in processes of their own: each prints one line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.benchmarks.figures import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence


class ChildFailed(Exception):
    """A program did not print its line; says what it printed last."""


def run(*command: str, seconds: float = 1800) -> dict[str, Any]:
    """Run a program from the root of the repository; return what its last line says.

    Raises:
        ChildFailed: It failed, or took longer than so many seconds.
    """
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONHOME"}}
    try:
        ran = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=True
        )
        return json.loads(ran.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        raise ChildFailed(_last(error.stderr or error.stdout)) from error
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise ChildFailed(_last(str(error))) from error


def ours(module: str, *arguments: str) -> dict[str, Any]:
    """Run one of this package's modules as a program."""
    return run(sys.executable, "-m", f"tests.benchmarks.{module}", *arguments)


def _last(output: str | bytes) -> str:
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    lines: Sequence[str] = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
