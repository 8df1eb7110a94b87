"""A host's store as workers use it: whose worker ids they are, what breaks, what is too large, who may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.clock import SystemClock
from perdure.errors import (
    InvalidInput,
    LeaseLost,
    NotEncodable,
    NotPermitted,
    PayloadTooLarge,
    PerdureError,
    StoreUnavailable,
    StoreUnusable,
    UnknownName,
)
from perdure.messages import Commit, RunFilter, RunView, Start
from perdure.testing import ManualClock, MemoryStore
from perdure_hosting import store_wire
from perdure_hosting.access import Access, Grant
from perdure_hosting.carrier import Principal
from perdure_hosting.host import Host
from perdure_hosting.remote_store import RemoteStore
from perdure_hosting.settings import HostSettings
from perdure_hosting.store_wire import Packed

from .hosting_network import settled
from .store_network import StoreHosting

TIMEOUT = 60.0
SHOP = frozenset({"shop.order"})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def hosting(clock: ManualClock) -> AsyncIterator[StoreHosting]:
    hosting = StoreHosting(MemoryStore(clock), clock)
    yield hosting
    async with asyncio.timeout(TIMEOUT):
        await hosting.stop()


def order(run: str, *, size: int = 1, target: str = "shop.order") -> Start:
    return Start(run, "workflow", target, b'"%b"' % (b"x" * size), ManualClock.START)


def moved(run: str, epoch: int, **more: object) -> Commit:
    return Commit(run, epoch, 0, ManualClock.START, **more)


# -- the wire


def test_each_method_of_the_port_can_be_carried():
    assert store_wire.methods() >= {"accept", "claim", "commit", "load", "runs", "purge", "log", "changed"}
    for method in store_wire.methods():
        with pytest.raises(InvalidInput, match=method):
            store_wire.unpack_arguments(method, Packed(b'{"nothing":1}', store_wire.TEXT))


def test_a_method_that_is_none_is_not_called():
    for method in ("close", "tick", "__init__", "_call", "nothing"):
        with pytest.raises(UnknownName, match="method"):
            store_wire.unpack_arguments(method, Packed(b"{}", store_wire.TEXT))


def test_bytes_come_out_as_they_went_in_whether_they_are_text_or_not():
    for data in (b"", b'{"a": "\xc3\xa9\\u0000"}', b"\x00", b"\xff\xfe", bytes(range(256))):
        start = order("r")._replace(input=data, at=0.1 + 0.2)
        packed = store_wire.pack_arguments("accept", {"items": [start]})
        assert store_wire.unpack_arguments("accept", packed) == {"items": [start]}


@pytest.mark.parametrize("value", [b"abc", b"\xff", {"~bytes": ["input"]}, "abc", 2**70, None], ids=repr)
def test_a_view_has_bytes_where_it_had_bytes_and_text_where_it_had_text(value: object):
    view = RunView(id="r", kind="turn", target="t", status="failed", created=1, updated=2, input=value, result=b"x")
    assert store_wire.unpack_result("run", store_wire.pack_result("run", view)) == view
    assert store_wire.unpack_result("runs", store_wire.pack_result("runs", [view, view])) == [view, view]


def test_a_text_that_is_no_unicode_is_refused():
    with pytest.raises(NotEncodable, match="'accept'"):
        store_wire.pack_arguments("accept", {"items": [order("\ud800")]})


# -- whose it is


async def test_a_worker_id_is_the_session_s_that_used_it_first(hosting: StoreHosting):
    first, second = hosting.store(), hosting.store()
    await first.accept([order("r")])
    (claim,), _ = await first.claim("w", ManualClock.START)
    for call in (
        second.commit(moved("r", claim.epoch), worker="w"),
        second.claim("w", ManualClock.START),
        second.accept([order("s")], worker="w"),
    ):
        with pytest.raises(NotPermitted, match="'w'"):
            await call
    await second.leave("w")
    await first.commit(moved("r", claim.epoch, status="completed", active=False), worker="w")


async def test_a_host_without_a_store_says_so(clock: ManualClock):
    hosting = StoreHosting(None, clock)
    hosting.host = Host(clock, hosting.settings)
    await hosting.host.start()
    store = hosting.store()
    with pytest.raises(StoreUnusable, match="keeps no store"):
        await store.runs()
    await store.close()
    await hosting.host.stop()


@pytest.mark.parametrize(
    ("principal", "allowed"),
    [
        (Principal("a"), True),
        (Principal("b", may_host=()), False),
        (Principal("c", may_store=False), False),
        (Principal("d", may_host=(), may_store=True), True),
    ],
    ids="abcd",
)
async def test_the_store_is_for_those_who_may_host_something_unless_it_is_said(
    hosting: StoreHosting, principal: Principal, allowed: bool
):
    store = hosting.store(principal)
    if allowed:
        assert await store.runs() == []
        return
    with pytest.raises(NotPermitted, match=repr(principal.name)):
        await store.runs()


def test_a_grant_says_who_may_use_the_store():
    token = "a-token-for-tests-only"
    for value in (None, True, False):
        access = Access([Grant(name="n", token=token, may_store=value)])
        assert access.principal(token).stores == (value is not False)


async def test_who_may_not_host_an_agent_does_not_get_its_turns(hosting: StoreHosting):
    store = hosting.store(Principal("shop", may_host=("shop.*",)))
    for targets in (None, SHOP | {"bank.account"}):
        with pytest.raises(NotPermitted, match="shop"):
            await store.claim("w", ManualClock.START, targets=targets)
    await store.accept([order("r"), order("s", target="bank.account")])
    claims, _ = await store.claim("w", ManualClock.START, targets=SHOP)
    assert [claim.start.run for claim in claims] == ["r"]


# -- what is too large


async def test_what_is_larger_than_a_frame_is_refused_with_the_limit_and_nothing_is_lost(clock: ManualClock):
    hosting = StoreHosting(MemoryStore(clock), clock, HostSettings(max_frame=100_000, silence=1e9, grace=1e9))
    store = hosting.store()
    await store.runs()
    with pytest.raises(PayloadTooLarge, match=r"100,?000"):
        await store.accept([order("large", size=200_000)])
    await hosting.backing.accept([order("large", size=200_000)])
    with pytest.raises(PayloadTooLarge, match="max_frame"):
        await store.run("large")
    await store.accept([order("small")])
    assert [view.id for view in await store.runs()] == ["small", "large"]
    await hosting.stop()


async def test_claims_that_are_too_many_for_a_frame_come_one_after_the_other(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
):
    hosting = StoreHosting(MemoryStore(clock), clock, HostSettings(max_frame=100_000, silence=1e9, grace=1e9))
    await hosting.backing.accept([order(f"r{n}", size=30_000) for n in range(10)] + [order("huge", size=200_000)])
    store, found, seen = hosting.store(), [], -1
    async with asyncio.timeout(TIMEOUT):
        while len(found) < 10:
            claims, _ = await store.claim("w", clock.now())
            found += [claim.start.run for claim in claims]
            seen = await store.changed(seen)
    assert sorted(found) == [f"r{n}" for n in range(10)]
    assert ["huge" in each.getMessage() for each in caplog.records] == [True]
    await hosting.stop()


# -- what breaks


async def test_a_caller_that_goes_away_takes_no_claim_along(hosting: StoreHosting):
    store = hosting.store()
    await store.accept([order("r")])
    claiming = asyncio.create_task(store.claim("w", ManualClock.START))
    await settled_until(lambda: hosting.backing.tick("w", ManualClock.START, run="r", epoch=1))
    claiming.cancel()
    await asyncio.wait({claiming})
    watch = asyncio.create_task(store.changed(await hosting.backing.changed(-1)))
    async with asyncio.timeout(TIMEOUT):
        await watch
        claims, _ = await store.claim("w", ManualClock.START)
    assert [claim.start.run for claim in claims] == ["r"]


async def settled_until(reached) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT):
        while not reached():
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future


async def test_what_a_cancelled_look_had_asked_for_is_called_off_at_the_host(hosting: StoreHosting):
    store = hosting.store()
    await store.accept([order("r")])
    seen = await store.changed(-1)
    looking = asyncio.create_task(store.changed(seen))
    await settled()
    tasks = len(hosting.host.router.desk._tasks)  # noqa: SLF001 - what it has under way
    looking.cancel()
    await settled()
    assert (tasks, len(hosting.host.router.desk._tasks)) == (1, 0)  # noqa: SLF001 - as above


async def test_after_a_break_within_the_grace_everything_goes_on(hosting: StoreHosting):
    store = hosting.store()
    await store.accept([order("r")])
    (claim,), _ = await store.claim("w", ManualClock.START)
    hosting.carriers[store][-1].cut()
    await store.commit(moved("r", claim.epoch, status="completed", active=False, value=b"1"), worker="w")
    assert (await store.run("r")).status == "completed"
    assert len(hosting.carriers[store]) == 2


async def test_a_host_that_restarts_has_its_workers_begin_anew(hosting: StoreHosting):
    store = hosting.store()
    await store.accept([order("r"), order("s")])
    (claim, other), _ = await store.claim("w", ManualClock.START)
    assert store.tick("w", ManualClock.START, run="r", epoch=claim.epoch)
    seen = await store.changed(-1)
    host, hosting.host = hosting.host, None
    looking = asyncio.create_task(store.changed(seen))
    await settled()
    await hosting.start()
    await host.stop()
    async with asyncio.timeout(TIMEOUT):
        await looking  # without cause, so that who drives looks
        assert not store.tick("w", ManualClock.START, run="r", epoch=claim.epoch)
        with pytest.raises(LeaseLost, match="'r'"):
            await store.commit(moved("r", claim.epoch), worker="w")
        claims, _ = await store.claim("w", ManualClock.START)
    assert {each.start.run: (each.epoch, each.takeovers) for each in claims} == {
        "r": (claim.epoch + 1, 0),
        "s": (other.epoch + 1, 0),
    }


class OneThatStops(MemoryStore):
    """Writes a commit, and is not heard of any more."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.written = asyncio.Event()

    async def commit(self, commit: Commit, *, worker: str):
        claims = await super().commit(commit, worker=worker)
        if not self.written.is_set():
            self.written.set()
            await asyncio.get_running_loop().create_future()
        return claims


async def test_a_commit_whose_outcome_nobody_knows_is_a_lost_lease_and_loading_tells(clock: ManualClock):
    backing = OneThatStops(clock)
    hosting = StoreHosting(backing, clock)
    store = hosting.store()
    await store.accept([order("r")])
    (claim,), _ = await store.claim("w", ManualClock.START)
    committing = asyncio.create_task(store.commit(moved("r", claim.epoch, log=(), progress=b"{}"), worker="w"))
    await backing.written.wait()
    host, hosting.host = hosting.host, None
    hosting.carriers[store][-1].cut()
    await hosting.start()  # another one, which knows nothing of the session
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(LeaseLost, match="look what became of it"):
            await committing
        (again,), _ = await store.claim("w", ManualClock.START)
    assert again.epoch > claim.epoch
    await host.stop()
    await hosting.stop()


async def test_a_worker_that_is_gone_for_good_counts_as_dead_after_its_lease(hosting: StoreHosting, clock: ManualClock):
    gone, there = hosting.store(), hosting.store()
    await gone.accept([order("r")])
    await gone.claim("w", clock.now())
    hosting.forsake(gone)
    assert list((await there.claim("v", clock.now()))[0]) == []
    clock.advance(11)
    (claim,), _ = await there.claim("v", clock.now())
    assert claim.takeovers == 1


async def test_to_leave_waits_for_no_host_that_is_gone(hosting: StoreHosting, clock: ManualClock):
    store = hosting.store()
    await store.accept([order("r")])
    await store.claim("w", clock.now())
    hosting.down = True
    hosting.carriers[store][-1].cut()
    async with asyncio.timeout(TIMEOUT):
        await settled()
        await store.leave("w")
        hosting.host, hosting.down = None, False
        clock.advance(2)
        claims, _ = await store.claim("v", clock.now())  # of the next host, which was told first
    assert [claim.takeovers for claim in claims] == [0]


async def test_a_store_whose_host_is_not_there_is_unavailable_and_says_why(clock: ManualClock):
    async def nobody(_address: str = "", /):
        msg = "nobody is home"
        raise ConnectionRefusedError(msg)

    store = RemoteStore(nobody, SystemClock())
    store._peer._patience = 0.01  # noqa: SLF001 - the setting's default would have the test wait
    with pytest.raises(StoreUnavailable, match="nobody is home"):
        await store.runs()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.runs()


async def test_errors_come_out_as_what_they_were(hosting: StoreHosting):
    store = hosting.store()
    with pytest.raises(UnknownName) as caught:
        await store.load("nobody")
    assert (caught.value.kind, caught.value.name) == ("run", "nobody")
    hosting.backing.runs = None
    with pytest.raises(PerdureError, match="NoneType"):
        await store.runs(RunFilter())


GARBAGE = (b"", b"{", b"[]", b'{"items":1}', b'{"worker":"w","now":"x"}', b"\xff", b'{"workers":{"w":[[1]]}}')


@pytest.mark.parametrize("content", [store_wire.TEXT, store_wire.BASE64, "nonsense"])
async def test_whatever_is_asked_of_a_store_is_answered(hosting: StoreHosting, content: str):
    store = hosting.store()
    for method in (*sorted(store_wire.methods()), store_wire.BEAT, "close", "", "~", "__class__"):
        for payload in GARBAGE:
            asking = asyncio.create_task(store._asked(method, Packed(payload, content)))  # noqa: SLF001 - as a stranger
            done, _ = await asyncio.wait({asking}, timeout=TIMEOUT)
            assert done
            assert isinstance(asking.exception(), PerdureError)
    assert await store.runs() == []
