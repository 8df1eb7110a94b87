"""What importing and ``--help`` cost, in processes of their own, in turn with what they are compared with."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from tests.benchmarks.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.figures import Scale

_PYTHON: Final = (sys.executable, "-c")
_PYDANTIC: Final = (*_PYTHON, "import pydantic\nclass Model(pydantic.BaseModel):\n    x: int")
_PERDURE: Final = (*_PYTHON, "import perdure")
_HELP: Final = (sys.executable, "-m", "perdure_cli", "--help")
_PLUGINS: Final = (
    *_PYTHON,
    "import sys, perdure; print(*[n for n in sys.modules if n.startswith('perdure_') or n in {'mcp', 'openai'}])",
)
_MOST_MORE: Final = 80.0  # ms
_MOST_HELP: Final = 3.0


def _seconds(command: tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def figures(scale: Scale) -> Iterator[Figure]:
    """Medians of processes run in turn, and ratios of pairs that ran next to each other."""
    rounds = [[_seconds(command) for command in (_PYDANTIC, _PERDURE, _HELP)] for _ in range(scale.processes)]
    pydantic, perdure, _ = (statistics.median(column) * 1000 for column in zip(*rounds, strict=True))
    more = statistics.median(own - base for base, own, _ in rounds) * 1000
    ratio = statistics.median(shown / own for _, own, shown in rounds)
    yield Figure("process that imports pydantic and builds one model", f"{pydantic:.0f} ms")
    yield Figure("process that imports perdure", f"{perdure:.0f} ms")
    yield Figure("… more than pydantic's", f"{more:.0f} ms", f"≤ {_MOST_MORE:.0f} ms", more <= _MOST_MORE)
    yield Figure("perdure --help, of the import", f"{ratio:.2f}x", f"≤ {_MOST_HELP:.0f}x", ratio <= _MOST_HELP)
    loaded = subprocess.run(_PLUGINS, check=True, capture_output=True, text=True).stdout.strip()
    yield Figure("plugins that importing perdure imports", loaded or "none", "none", not loaded)
