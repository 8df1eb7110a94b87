"""Messages between three processes, beside AutoGen's gRPC runtime, in turns: the median of the ratios counts."""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import children, memory
from tests.benchmarks.figures import ROOT, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.figures import Scale

_PEERS: Final = ROOT / "tests" / "benchmarks" / "peers"
_SOON: Final = 20  # milliseconds
_CONNECTION: Final = 60_000  # bytes
_ROWS: Final = (
    ("through", "sequential", "requests through the host, one after the other", 1.2),
    ("direct", "sequential", "requests from worker to worker, one after the other", 2),
    ("through", "at_once", "requests, 1,000 at once", 8),
    ("through", "publish", "publications", 8),
)


def figures(scale: Scale) -> Iterator[Figure]:
    """See the module."""
    seconds = min(scale.seconds, 2.0)
    rounds: list[dict[str, dict[str, Any]]] = []
    missing = "not there: nox -s bench installs it" if scale.autogen is None else ""
    for _ in range(scale.rounds):
        found = {
            "through": _measured("hosted_with_perdure", sys.executable, seconds),
            "direct": _measured("hosted_with_perdure", sys.executable, seconds, "direct"),
        }
        if scale.autogen is not None and not missing:
            try:
                found["autogen"] = _measured("hosted_with_autogen", str(scale.autogen), seconds)
            except children.ChildFailed as failure:
                missing = f"not measured: {failure}"
        rounds.append(found)
    for way, key, what, times in _ROWS:
        yield Figure(f"gRPC, {what}", f"{statistics.median(each[way][key] for each in rounds):,.0f}/s")
        yield _against(way, key, times, [each for each in rounds if "autogen" in each], missing)
    took = statistics.median(each["through"]["p99"] for each in rounds) * 1000
    yield Figure(
        "gRPC, requests at half the rate of 1,000 at once, p99", f"{took:,.1f} ms", f"≤ {_SOON} ms", took <= _SOON
    )
    yield from _idle(scale.connections)


def _idle(count: int) -> Iterator[Figure]:
    """What idle workers cost their host."""
    path = str(_PEERS / "hosted_with_perdure.py")
    what = f"gRPC, one of {count:,} idle workers, in the host"
    with _standing(sys.executable, path, "host") as (address, host):
        with _standing(sys.executable, path, "join", address, "1"):
            before = memory.resident(host)
        with _standing(sys.executable, path, "join", address, str(count)):
            after = memory.resident(host)
    if before is None or after is None:
        yield Figure(what, "not measured: this system does not tell")
        return
    each = (after - before) / count
    yield Figure(what, f"{each:,.0f} bytes", f"≤ {_CONNECTION:,}", each <= _CONNECTION)


def _against(way: str, key: str, times: float, rounds: list[dict[str, dict[str, Any]]], missing: str) -> Figure:
    if not rounds:
        return Figure("AutoGen, the same", missing)
    found = statistics.median(each[way][key] / each["autogen"][key] for each in rounds)
    rate, version = statistics.median(each["autogen"][key] for each in rounds), rounds[0]["autogen"]["version"]
    return Figure(f"AutoGen ({version}: {rate:,.0f}/s), the same", f"{found:.1f}x", f"≥ {times}x", found >= times)


def _measured(program: str, python: str, seconds: float, *more: str) -> dict[str, Any]:
    path = str(_PEERS / f"{program}.py")
    with _standing(python, path, "host") as (address, _), _standing(python, path, "serve", address):
        return children.run(python, path, "ask", address, str(seconds), *more)


@contextmanager
def _standing(*command: str) -> Iterator[tuple[str, int]]:
    """A program that stays until its standard input ends; yields its first line and its id. Raises ``ChildFailed``."""
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            if not line:
                msg = f"{command[1:]} said nothing"
                raise children.ChildFailed(msg)
            yield line, process.pid
        finally:
            process.stdin.close()
