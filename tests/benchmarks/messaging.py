"""Messages between agents of one process, beside AutoGen's, in turns: what counts is the median of the ratios."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import children
from tests.benchmarks.figures import ROOT, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.figures import Scale

_PEERS: Final = ROOT / "tests" / "benchmarks" / "peers"
_TIMES: Final = 10
_IDLE: Final = 4096
_ROWS: Final = {
    "sequential": "requests, one after the other",
    "at_once": "requests, 1,000 at once",
    "publish_one": "deliveries to 1 subscriber",
    "publish_many": "deliveries to 100 subscribers",
}


def figures(scale: Scale) -> Iterator[Figure]:
    """See the module."""
    seconds = min(scale.seconds, 2.0)
    pairs: list[tuple[dict[str, Any], dict[str, Any] | None]] = []
    missing = "not there: nox -s bench installs it" if scale.autogen is None else ""
    for _ in range(scale.rounds):
        own = _measured("messages_with_perdure", sys.executable, seconds)
        other = None
        if scale.autogen is not None and not missing:
            try:
                other = _measured("messages_with_autogen", str(scale.autogen), seconds)
            except children.ChildFailed as failure:
                missing = f"not measured: {failure}"
        pairs.append((own, other))
    for key, what in _ROWS.items():
        yield Figure(f"in process, {what}", f"{statistics.median(own[key] for own, _ in pairs):,.0f}/s")
        yield _against(key, what, [(own, other) for own, other in pairs if other is not None], missing)
    idle = statistics.median(own["idle_bytes"] for own, _ in pairs)
    yield Figure("in process, one of 10,000 idle agents", f"{idle:,.0f} bytes", f"≤ {_IDLE:,}", idle <= _IDLE)


def _against(key: str, what: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]], missing: str) -> Figure:
    if not pairs:
        return Figure(f"AutoGen, {what}", missing)
    times = statistics.median(own[key] / other[key] for own, other in pairs)
    rate, version = statistics.median(other[key] for _, other in pairs), pairs[0][1]["version"]
    return Figure(f"AutoGen ({version}: {rate:,.0f}/s), {what}", f"{times:.1f}x", f"≥ {_TIMES}x", times >= _TIMES)


def _measured(program: str, python: str, seconds: float) -> dict[str, Any]:
    return children.run(python, str(_PEERS / f"{program}.py"), str(seconds))
