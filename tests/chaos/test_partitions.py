"""A short setting of ``partitions``, whose command parts workers from their host hundreds of times."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from perdure.clock import SystemClock
from perdure.testing import FaultProxy
from perdure_hosting.host import Host
from perdure_transport_http import HttpTransport, Settings

from . import partitions as chaos


@pytest.mark.timeout(300)
@pytest.mark.parametrize("carrier", ["grpc", "http"])
async def test_what_a_partition_holds_up_is_delivered_once_when_it_heals_or_ends_with_a_type(
    carrier: chaos.Carrier,
) -> None:
    tally = await chaos.play(carrier, rounds=8, seed=1)
    assert not tally.problems
    assert tally.rounds == Counter({"in time": 4, "too late": 4})
    assert tally.requests["reply"] > 0
    assert tally.publications["accepted"] > 0
    assert tally.delivered >= tally.publications["accepted"]


DICE = random.Random(0)  # noqa: S311 - nothing depends on it


def site() -> chaos.Site:
    return chaos.Site("here", FaultProxy("127.0.0.1", 1), HttpTransport(Settings(), SystemClock()), DICE)


def test_what_was_done_twice_is_found() -> None:
    there, tally = site(), chaos.Tally()
    there.heard.update({"e1": 2, "e2": 1})
    there.handled.update({"r1": 1, "r2": 2})
    chaos.Trial(Host(SystemClock()), [there], DICE, tally, in_time=True).finish()
    assert tally.problems == ["r2 was handled 2 times at here", "e1 was heard 2 times at here"]


async def test_what_never_came_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "PATIENCE", 0.01)
    there = site()
    there.heard.update({"e1": 1})
    assert await there.has_heard({"e1", "e2"}) == {"e2"}
    assert await there.has_heard({"e1"}) == set()
