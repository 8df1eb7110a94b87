"""The manual clock."""

from __future__ import annotations

import asyncio

import pytest

from perdure.testing import ManualClock


async def _sleeper(clock, when, woken):
    await clock.sleep_until(when)
    woken.append(when)


async def test_sleepers_wake_in_the_order_of_their_times():
    clock, woken = ManualClock(100.0), []
    tasks = [asyncio.create_task(_sleeper(clock, when, woken)) for when in (130.0, 110.0, 120.0, 500.0)]
    await asyncio.wait(tasks, timeout=0)
    assert clock.next_wake == 110.0
    clock.advance(30)
    await asyncio.wait_for(asyncio.gather(*tasks[:3]), 10)
    assert (woken, clock.next_wake) == ([110.0, 120.0, 130.0], 500.0)
    tasks[3].cancel()
    await asyncio.wait(tasks[3:])
    assert clock.next_wake is None


async def test_nobody_wakes_early():
    clock, woken = ManualClock(100.0), []
    task = asyncio.create_task(_sleeper(clock, 110.0, woken))
    await asyncio.wait([task], timeout=0)
    clock.advance(9.5)
    await asyncio.wait([task], timeout=0)
    assert woken == []
    clock.set(110.0)
    await asyncio.wait_for(task, 10)


async def test_a_time_that_has_come_is_not_waited_for():
    clock = ManualClock(100.0)
    await asyncio.wait_for(clock.sleep_until(100.0), 10)


async def test_the_clock_may_be_put_back_but_does_not_advance_backwards():
    clock = ManualClock(100.0)
    clock.set(50.0)
    assert clock.now() == 50.0
    with pytest.raises(ValueError, match="set"):
        clock.advance(-1)
