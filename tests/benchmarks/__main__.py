"""``nox -s bench``: every figure with its bound, measured beside what it is compared with.

Machines are noisy: the bounds that are ratios mean more than those that are rates.
"""

from __future__ import annotations

from tests.benchmarks import durable, starting
from tests.benchmarks.figures import show

if __name__ == "__main__":
    show([*starting.figures(), *durable.figures()])
