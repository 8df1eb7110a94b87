"""The corpus of programs: recorded, crashed at every prefix, gone on with in another order, replayed."""

import gc
import logging
import sys

import pytest

from .machine_driver import Driver, Library, crash_at_every_prefix, replay
from .machine_programs import CANCELLED, PROGRAMS

LIBRARY = Library(PROGRAMS)

OF_ASYNCIO = "_GatheringFuture exception was never retrieved"
"""Python 3.11 says this of a gather that a ``wait_for`` cancels, on any loop, whenever the collector comes by."""


@pytest.fixture(scope="module", autouse=True)
def what_is_there_is_not_looked_at():
    """Most of each collection below would go through what pytest has in memory."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_is_complained_of(caplog):
    caplog.set_level(logging.INFO)
    yield
    gc.collect()
    assert [message for message in caplog.messages if not message.startswith(OF_ASYNCIO)] == []


def driver(name, seed, *, debug):
    return Driver(LIBRARY, name, seed, name in CANCELLED, debug)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_crash_at_every_prefix_repeats_no_recorded_step(name, debug):
    for seed in (0, 500):
        crash_at_every_prefix(driver(name, seed, debug=debug))


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_order_is_the_same_without_a_loop_around_it(name):
    first = driver(name, 7, debug=False)
    outcome = first.run()
    first.execution.close()
    assert replay(LIBRARY, name, first.journal)[-1].outcome == outcome


def test_the_corpus_ends_in_every_way():
    ends = set()
    for name in PROGRAMS:
        for seed in range(10):
            one = driver(name, seed, debug=False)
            ends.add(one.run().partition(" ")[0])
            one.execution.close()
    assert ends == {"completed", "failed", "cancelled"}
    assert sys.get_asyncgen_hooks() == (None, None)
