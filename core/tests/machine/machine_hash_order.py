"""A program that iterates over a set of strings: prints its journal, or what replaying a given one says."""

import asyncio
import json
import sys

from perdure.context import Context
from perdure.errors import NonDeterminism

from .machine_driver import Driver, Library, replay
from .machine_journals import from_data, to_data
from .machine_programs import note


async def careless(ctx: Context) -> list[str]:
    return await asyncio.gather(*(ctx.step(note, word) for word in set("abcdefghij")))


def main(given: str | None) -> None:
    library = Library({"careless": careless})
    if given is None:
        driver = Driver(library, "careless", 5)
        driver.run()
        answer = [to_data(entry) for entry in driver.journal]
    else:
        try:
            last = replay(library, "careless", [from_data(data) for data in json.loads(given)])[-1]
            answer = (last.outcome or "").partition(" ")[0]
        except NonDeterminism as error:
            answer = str(error)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
