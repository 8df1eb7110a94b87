"""What holds up the event loop is named, once, and nothing else is.

What blocks a loop here waits until the watchdog has said so: no test passes time.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from perdure import App, Context, workflow
from perdure.testing import harness
from perdure_engine_embedded.watchdog import Watchdog

PATIENCE = 60.0
STALL = 0.4  # seconds; long enough for a loaded machine to get between two lines
THIS = re.escape(__file__)


class Told(logging.Handler):
    """What was logged, and an event for the first and the second of it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.first, self.second = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "event loop" not in record.getMessage():
            return
        self.messages.append(record.getMessage())
        (self.second if self.first.is_set() else self.first).set()


@pytest.fixture
def told():
    handler = Told()
    logger = logging.getLogger("perdure.engine")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def watching():
    """Make a watchdog that ends with the test."""
    dogs = []

    def make(call_soon: Any = None, stall: float = STALL, **more: Any) -> Watchdog:
        dog = Watchdog(call_soon or asyncio.get_running_loop().call_soon_threadsafe, stall, **more)
        dogs.append(dog)
        dog.start()
        return dog

    yield make
    for dog in dogs:
        dog.stop()


def block(until: threading.Event) -> None:
    assert until.wait(PATIENCE)


async def turning(until: threading.Event) -> None:
    assert await asyncio.to_thread(until.wait, PATIENCE)


def never(_: object) -> None:
    """What a loop does that never turns."""


async def test_a_blocking_call_is_named_once_with_its_author_s_line_and_its_end(told, watching):
    watching(driving=lambda: "run 'r1' (shop.buy)")
    told.first.wait(PATIENCE)
    await turning(told.second)
    stalled, ended = told.messages
    assert re.fullmatch(
        rf"the event loop has not turned for \d+\.\d s, driving run 'r1' \(shop\.buy\), at {THIS}:\d+ in"
        rf" test_a_blocking_call\w+: `told\.first\.wait\(PATIENCE\)`, now at \S*threading\.py:\d+ in"
        r" Condition\.wait: `[^`]+`; meanwhile no run of this process goes on; wrap it in ctx\.step: a sync function"
        r" runs in a thread, CPU work with @step\(process=True\) in a process",
        stalled,
    )
    assert re.fullmatch(
        rf"the event loop turns again after \d+\.\d s, driving run 'r1' \(shop\.buy\): {THIS}:\d+ in"
        r" test_a_blocking_call\w+ held it up",
        ended,
    )


async def test_the_next_stall_is_told_again(told, watching):
    watching()
    told.first.wait(PATIENCE)
    await turning(told.second)
    told.first.clear()
    told.first.wait(PATIENCE)
    assert [message.split(",")[0][:30] for message in told.messages][::2] == ["the event loop has not turned "] * 2


async def test_what_computes_is_named_too(told, watching):
    watching()
    while not told.messages:
        pass
    assert "in test_what_computes_is_named_too: `" in told.messages[0]
    assert "now at" not in told.messages[0]


async def test_what_a_callback_s_library_does_is_the_callback_s_author_s(told, watching):
    watching()
    asyncio.get_running_loop().call_soon(block, told.first)
    await turning(told.first)
    assert f"{__file__}:" in told.messages[0]
    assert "in block: `assert until.wait(PATIENCE)`, now at " in told.messages[0]


def installed(file: str, name: str, **names: Any) -> Callable[..., Any]:
    """A function that stands in a file of an installed package."""
    space = {"__name__": name, **names}
    exec(compile("def go(*args):\n    inner(*args)\n", file, "exec"), space)  # noqa: S102 - written right here
    return space["go"]


async def test_an_author_s_code_may_be_installed_like_a_library(told, watching):
    library = installed("/venv/lib/site-packages/client/wire.py", "client.wire", inner=threading.Event.wait)
    author = installed("/venv/lib/site-packages/shop/flow.py", "shop.flow", inner=library)
    driver = installed("/venv/lib/site-packages/perdure_engine/x.py", "perdure_engine.x", inner=author)
    watching()
    asyncio.get_running_loop().call_soon(driver, told.first, PATIENCE)
    await turning(told.first)
    assert ", at /venv/lib/site-packages/shop/flow.py:2 in go, now at " in told.messages[0]


async def test_where_nobody_but_perdure_is_to_be_seen_no_line_is_blamed(told, watching):
    driver = installed("/venv/lib/site-packages/perdure/x.py", "perdure.x", inner=threading.Event.wait)
    watching()
    asyncio.get_running_loop().call_soon(driver, told.first, PATIENCE)
    await turning(told.first)
    assert ", in no author's code; this process has more to do than it gets CPU for" in told.messages[0]


async def test_a_loop_that_is_not_let_run_is_nobody_s_fault(told, watching):
    watching(never)
    await turning(told.first)
    assert " s, in no author's code; this process has more to do" in told.messages[0]


def test_a_loop_that_turns_is_asked_once_in_a_while_and_nothing_is_said(told, watching):
    asked = count()
    enough = threading.Event()

    def call_soon(turned: Callable[[], None]) -> None:
        turned()
        if next(asked) == 5:
            enough.set()

    watching(call_soon)
    block(enough)
    assert told.messages == []


class Times:
    """A clock whose sleeps take ten times as long as they should, and one of what was computed meanwhile."""

    def __init__(self, busy: float) -> None:
        self.busy = busy
        self.long = True
        self.readings = 0
        self.now = 0.0
        self.stopped = threading.Event()

    def wall(self) -> float:
        self.now += 10 * STALL if self.long else STALL / 10
        self.readings += 1
        if self.readings == 20:
            self.stopped.set()
        return self.now

    def computed(self) -> float:
        return self.now * self.busy


def test_a_process_that_was_stopped_is_not_blamed(told, watching):
    times = Times(busy=0.1)
    watching(never, clock=(times.wall, times.computed))
    block(times.stopped)
    assert told.messages == []
    times.long = False  # it goes on, and still the loop does not turn
    block(told.first)
    assert len(told.messages) == 1
    seconds = re.search(r"has not turned for (\d+\.\d) s", told.messages[0])
    assert seconds is not None
    assert float(seconds[1]) < 20 * 10 * STALL / 2  # not since the beginning


def test_who_computes_and_lets_nobody_else_run_is_blamed(told, watching):
    times = Times(busy=0.9)
    watching(never, clock=(times.wall, times.computed))
    block(told.first)
    assert len(told.messages) == 1


def test_it_ends_with_its_loop(watching):
    def closed(_: object) -> None:
        raise RuntimeError("Event loop is closed")

    dog = watching(closed)
    block_until_ended(dog)


def block_until_ended(dog: Watchdog) -> None:
    dog._thread.join(PATIENCE)  # noqa: SLF001 - that it ends by itself
    assert not dog._thread.is_alive()  # noqa: SLF001 - as above


@pytest.mark.parametrize("stall", [STALL, 3600.0], ids=["short", "long"])
async def test_it_starts_and_stops_as_often_as_one_likes(stall, told, watching):
    dogs = {each for each in threading.enumerate() if each.name == "perdure-watchdog"}
    dog = watching(stall=stall)
    dog.start()
    assert len({each for each in threading.enumerate() if each.name == "perdure-watchdog"} - dogs) == 1
    for again in (False, True):
        dog.stop()
        dog.stop()
        assert {each for each in threading.enumerate() if each.name == "perdure-watchdog"} == dogs
        if not again:
            dog.start()


def test_it_stops_while_the_loop_hangs(told, watching):
    dog = watching(never)
    block(told.first)
    dog.stop()
    assert len(told.messages) == 1


async def test_a_workflow_that_blocks_is_named_with_its_run(told):
    @workflow
    async def buy(ctx: Context) -> str:
        block(told.first)
        return "bought"

    async with harness(App("shop", workflows=[buy])) as h:
        run = await h.start(buy)
        assert await h.result(run) == "bought"
        await turning(told.second)
    assert f", driving run {run.id!r} (shop.buy), at {__file__}:" in told.messages[0]
    assert "in block: `assert until.wait(PATIENCE)`, now at" in told.messages[0]
