"""What the parts of the store's conformance kit share: fixtures, and short words for facts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import pytest

from perdure.messages import AgentId, Claim, Commit, Delivery, Entry, ErrorInfo, Request, Start, Status
from perdure.testing.clock import ManualClock

if TYPE_CHECKING:
    from perdure.messages import RunView
    from perdure.ports import DurableStore

PATIENCE: Final = 30.0
"""Seconds that a test waits for what must come."""
LARGE: Final = b'"' + b"x" * (1024 * 1024) + b'"'
TEXT: Final = "für 日本 🪵 \x00 end"


class Stores(Protocol):
    """Stores on one set of data, each as in a process of its own."""

    def open(self) -> DurableStore:
        """One more process's store. The fixture closes what was opened."""
        ...

    async def kill(self, store: DurableStore, worker: str) -> None:
        """The process of this store and its one worker dies without a word."""
        ...


class StoreBench:
    """What the kit's parts have in common. Fixtures to give: ``stores``; leases last ``lease`` seconds of ``clock``.

    Attributes:
        lease: Seconds.
        several_drive: Whether several processes hold runs at once; else the first to claim gets all, until it is gone.
    """

    lease: ClassVar[float] = 10.0
    several_drive: ClassVar[bool] = True

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The time of the test."""
        return ManualClock()

    @pytest.fixture
    def store(self, stores: Stores) -> DurableStore:
        """The store of the process whose worker is ``a``."""
        return stores.open()

    @pytest.fixture
    def second(self, stores: Stores) -> DurableStore:
        """The store of the process whose worker is ``b``."""
        return stores.open()


ERROR: Final = ErrorInfo(type="ValueError", message="no").model_dump_json().encode()


def at(seconds: float) -> float:
    """So many seconds after the clock's start."""
    return ManualClock.START + seconds


def start_of(run: str, *, key: str | None = None, target: str = "app.flow") -> Start:
    """A run of a workflow."""
    return Start(run, "workflow", target, b'{"n":1}', at(0), key=key)


def turn_of(run: str, session: str) -> Start:
    """A turn of a session of ``app.agent``."""
    return Start(run, "turn", "app.agent", b'"hello"', at(0), session=session)


def delivery_of(run: str, key: str, *, value: bytes | None = b"1", kind: Any = "reply") -> Delivery:
    """Something for a run's inbox."""
    return Delivery(run, kind, key, at(0), value)


def event_of(run: str, key: str, *, name: str = "paid", value: bytes = b"1") -> Delivery:
    """An event for a run."""
    return Delivery(run, "event", key, at(0), value, name=name)


def answer_of(run: str, request: str, value: bytes) -> Delivery:
    """An answer to a request."""
    return Delivery(run, "answer", request, at(0), value)


def entry_of(n: int) -> Entry:
    """The n-th step of a journal."""
    return Entry("step", f"0/s#{n}", at(n), "s", value=b"%d" % n)


def commit_of(claim: Claim, **parts: Any) -> Commit:
    """A commit under a claim; an active run that only goes on, unless ``parts`` say more."""
    fields: dict[str, Any] = {"run": claim.start.run, "epoch": claim.epoch, "seq": claim.seq, "at": at(0), **parts}
    return Commit(**fields)


def waiting(claim: Claim, **parts: Any) -> Commit:
    """A commit that releases the run to wait."""
    return commit_of(claim, **{"status": "waiting", "active": False, **parts})


def whole(turn: Claim) -> Commit:
    """A commit with a part of every sort."""
    return commit_of(
        turn,
        entries=(entry_of(0), entry_of(1)),
        consumed=(("p", -1),),
        starts=(start_of("child"),),
        deliveries=(delivery_of("other", "x"),),
        asks=(Request("q", "t", "0/q#1", "?", {}, at(0)),),
        log=(b'"said"',),
        state=b'{"n":1}',
        wake_at=at(60),
    )


async def see_whole(store: DurableStore, *, visible: bool) -> None:
    """Either all parts of ``whole`` or none."""
    view = await store.run("t")
    assert view is not None
    entries, log = (await store.load("t")).entries, await store.log(AgentId("app.agent", "s1"))
    assert (len(entries), len(log), len(view.requests)) == (2 * visible, visible, visible)
    parts = (
        view.status == "running",
        view.wake_at == at(60),
        (await store.load("t")).state is not None,
        await store.run("child") is not None,
    )
    assert parts == (visible,) * len(parts)


async def known(store: DurableStore, worker: str = "a") -> str:
    """Make a worker known by its first claim."""
    await store.claim(worker, at(0))
    return worker


async def begin(store: DurableStore, run: str = "r") -> Claim:
    """A new run, held by worker ``a``."""
    _, claims = await store.accept([start_of(run)], worker=await known(store))
    assert [claim.start.run for claim in claims] == [run]
    return claims[0]


async def seen(store: DurableStore, run: str = "r") -> RunView:
    """A run that is there, as it stands."""
    view = await store.run(run)
    assert view is not None
    return view


async def end(store: DurableStore, claim: Claim, *, status: Status = "completed", **parts: Any) -> Claim:
    """Worker ``a`` finishes what it holds, with an error unless it is completed."""
    outcome: dict[str, Any] = {"value": b"1"} if status == "completed" else {"error": ERROR}
    await store.commit(commit_of(claim, status=status, **{**outcome, **parts}), worker="a")
    return claim


async def halt(store: DurableStore, claim: Claim, *, status: Status = "suspended", **parts: Any) -> None:
    """Worker ``a`` sets aside what it holds."""
    await store.commit(commit_of(claim, status=status, active=False, error=ERROR, **parts), worker="a")


async def taken(store: DurableStore, run: str, *, now: float = 0.0) -> Claim:
    """Worker ``a`` claims, and is given this run among others."""
    claims, _ = await store.claim("a", at(now))
    (claim,) = [claim for claim in claims if claim.start.run == run]
    return claim


def keys_of(claim: Claim) -> list[str]:
    """The keys in a claim's inbox."""
    return [delivery.key for delivery in claim.inbox]


async def ask(store: DurableStore, *, active: bool = False) -> Claim:
    """A run that has asked ``q``."""
    claim = await begin(store)
    asked = Request("q", "r", "0/q#1", "Really?", {"type": "boolean"}, at(0))
    status = "running" if active else "waiting"
    await store.commit(commit_of(claim, asks=(asked,), status=status, active=active), worker="a")
    return claim


async def claimed(store: DurableStore, worker: str, seconds: float, targets: frozenset[str] | None = None) -> list[str]:
    """The runs that a worker is given now, of these targets or of any."""
    claims, _ = await store.claim(worker, at(seconds), targets=targets)
    return [claim.start.run for claim in claims]


async def now_at(store: DurableStore) -> int:
    """The counter, once something was written."""
    await store.accept([start_of("first")])
    return await asyncio.wait_for(store.changed(-1), PATIENCE)


async def write_until(store: DurableStore, watch: asyncio.Task[int]) -> None:
    """Write something new; what was written before the watch began may have been seen already."""
    await store.accept([start_of(f"w{id(watch)}")])
    await asyncio.wait({watch})
