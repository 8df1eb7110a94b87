"""Journals of the corpus as JSON: recorded by one Python, replayed by all.

``python -m machine.machine_journals --write`` in ``core/tests`` records the one of this Python anew; without
``--write`` it prints it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from perdure.messages import Entry

from .machine_driver import Driver, Library
from .machine_programs import CANCELLED, PROGRAMS

FOLDER = Path(__file__).parent / "journals"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SEEDS = (11, 12)

Recorded = dict[str, Any]


def record() -> Recorded:
    """Each program's journals and outcomes, in the order that the seeds give."""
    recorded: Recorded = {}
    library = Library(PROGRAMS)
    for name in PROGRAMS:
        for seed in SEEDS:
            driver = Driver(library, name, seed, name in CANCELLED)
            outcome = driver.run()
            driver.execution.close()
            recorded[f"{name} {seed}"] = {"outcome": outcome, "journal": [to_data(e) for e in driver.journal]}
    return recorded


def committed(minor: str) -> Recorded:
    return json.loads(FOLDER.joinpath(f"{minor}.json").read_text())


def to_data(entry: Entry) -> Recorded:
    """An entry without what is default in it."""
    data = {key: value for key, value in entry._asdict().items() if value != Entry._field_defaults.get(key)}
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in data.items()}


def from_data(data: Recorded) -> Entry:
    return Entry(**{key: value.encode() if key in {"value", "error"} else value for key, value in data.items()})


def written(recorded: Recorded) -> str:
    """As text, one line for each journal."""
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in recorded.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the committed journal of this Python")
    if parser.parse_args().write:
        FOLDER.joinpath(f"{MINOR}.json").write_text(written(record()))
    else:
        sys.stdout.write(written(record()))


if __name__ == "__main__":
    main()
