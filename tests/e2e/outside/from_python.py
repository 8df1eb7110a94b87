"""What a script does with the installed almanac; it prints what it saw as JSON."""

import asyncio
import json
from datetime import date
from importlib.metadata import distributions

import almanac

import perdure


async def main() -> None:
    async with almanac.app.open() as runtime:
        run = await runtime.start(almanac.nights, date(2026, 11, 21), count=2, key="a night")
        nights = await run.result()
        again = await runtime.start(almanac.nights, date(2026, 11, 21), count=2, key="a night")
        reply = await runtime.call(almanac.astronomer, "And on 2026-11-24?")
    seen = {
        "nights": [night.phase for night in nights if isinstance(night, almanac.Night)],
        "again": [again.id == run.id, again.new],
        "reply": reply.output,
        "installed": sorted(distribution.name for distribution in distributions()),
        "places": [module.__file__ for module in (almanac, perdure)],
    }
    print(json.dumps(seen))  # noqa: T201 - how a script answers


if __name__ == "__main__":
    asyncio.run(main())
