"""A collector, and a way to have everything exported."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from perdure_otel import Otel
from perdure_otel.testing import Collector, collecting

PATIENCE = 60.0


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collected:
        yield collected


@pytest.fixture
def flushed() -> Callable[[Otel], Any]:
    """Waits until all that the plugin was told has been exported."""

    async def flush(plugin: Otel) -> None:
        async with asyncio.timeout(PATIENCE):
            for observer in plugin.perdure_observers():
                await observer.flush()

    return flush
