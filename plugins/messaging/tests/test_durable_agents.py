"""Durable message agents: what a message does is one commit, whenever the process dies (P1, P3, P4, P5, P7)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from perdure import AgentId, App, Attempt, Context, Runtime
from perdure.errors import CallFailed, DeadlineExceeded, RetryableError, Undeliverable
from perdure.messages import RunFilter, TopicId
from perdure.ports import DurableStore
from perdure.testing import FaultyStore, Harness, ManualClock, MemoryStore, harness
from perdure_messaging import MessageAgent, actor, handles, message_type, subscribes
from perdure_store_sqlite import SqliteStore

PATIENCE = 60.0  # seconds for a wait that ends soon unless something is broken
DEATH = 2.0  # seconds that a client waits before it looks whether the process is still there
LEASE = 10.0


@message_type("bank.pay")
@dataclass(frozen=True)
class Pay:
    amount: int


class Balance(BaseModel):
    total: int
    payments: int


@dataclass(frozen=True)
class Statement:
    pass


class Paid(BaseModel):
    account: str
    amount: int


@dataclass(frozen=True)
class Refuse:
    how: str = "value"


class World:
    """What handlers do besides messages, for one test."""

    def __init__(self) -> None:
        self.handled = Counter[str]()
        self.keys: list[str] = []
        self.audited: list[str] = []
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()


WORLD = World()


class Account(MessageAgent):
    """Keeps what was paid, and tells."""

    def __init__(self) -> None:
        self.total = 0
        self.payments = 0

    async def load(self, state: Any) -> None:
        self.total, self.payments = state

    async def save(self) -> Any:
        return [self.total, self.payments]

    @handles
    async def pay(self, message: Pay, ctx: Context) -> Balance:
        WORLD.handled[f"{ctx.session.id.key}:{message.amount}"] += 1
        self.total += message.amount
        self.payments += 1
        await ctx.publish(Paid(account=ctx.session.id.key, amount=message.amount), TopicId("paid", "book"))
        await ctx.send(AgentId("mailbox", ctx.session.id.key), Paid(account=ctx.session.id.key, amount=message.amount))
        return Balance(total=self.total, payments=self.payments)

    @handles
    async def state(self, message: Statement, ctx: Context) -> Balance:
        return Balance(total=self.total, payments=self.payments)

    @handles
    async def refuse(self, message: Refuse, ctx: Context) -> Balance:
        WORLD.handled["refuse"] += 1
        WORLD.keys.append(Attempt.current().key)
        self.total = -1
        await ctx.publish(Paid(account="never", amount=0), TopicId("paid", "book"))
        if message.how == "later" and WORLD.handled["refuse"] < 3:
            msg = "the bank is closed for lunch"
            raise RetryableError(msg)
        if message.how != "later":
            msg = "no such coin"
            raise LookupError(msg)
        return Balance(total=0, payments=0)


class Kept(MessageAgent):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def load(self, state: Any) -> None:
        self.seen = state

    async def save(self) -> Any:
        return self.seen

    @handles
    async def note(self, message: Paid, ctx: Context) -> None:
        self.seen.append(message.amount)

    @handles
    async def state(self, message: Statement, ctx: Context) -> Balance:
        return Balance(total=sum(self.seen), payments=len(self.seen))


@subscribes("paid")
class Book(Kept):
    """Is told by topic."""


class Mailbox(Kept):
    """Is told by address."""


@subscribes("paid")
class Auditor(MessageAgent):
    """Lives in memory."""

    @handles
    async def note(self, message: Paid, ctx: Context) -> None:
        WORLD.audited.append(f"{message.account}:{message.amount}")


BANK = App(
    "bank",
    agents=[
        actor("account", Account, durable=True),
        actor("book", Book, durable=True),
        actor("mailbox", Mailbox, durable=True),
        actor("auditor", Auditor),
    ],
)
BOOK = AgentId("book", "book")


@pytest.fixture(autouse=True)
def _fresh_world():
    WORLD.__init__()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def ground(request, clock, tmp_path) -> AsyncIterator[tuple[DurableStore, Callable[[str], object]]]:
    """A store, and how it learns that a worker died."""
    if request.param == "memory":
        store = MemoryStore(clock, lease=LEASE)
        yield store, store.kill
    else:
        wall = ManualClock()
        sqlite = SqliteStore(tmp_path / "perdure.db", lease=LEASE, now=wall.now)
        yield sqlite, lambda _: wall.advance(LEASE + 1)
        await sqlite.close()


@pytest.fixture
async def h(ground, clock) -> AsyncIterator[Harness]:
    async with harness(BANK, store=ground[0], clock=clock, kill=ground[1]) as h:
        yield h


async def send(h: Harness, message: Any, to: AgentId, **options: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await h.runtime.send(message, to, **options)


async def until(h: Harness, to: AgentId, payments: int) -> Balance:
    """What an agent knows, once it was told so often."""
    async with asyncio.timeout(PATIENCE):
        seen = -1
        while (balance := await h.runtime.send(Statement(), to)).payments < payments:
            seen = await h.process.changed(seen)
    return balance


async def quiet(runtime: Runtime) -> None:
    """Until all turns have finished, and what they started."""
    known = -1
    async with asyncio.timeout(PATIENCE):
        while len(views := await runtime.query.runs(RunFilter(), limit=1000)) > known:
            known = len(views)
            for view in views:
                await runtime.handle(view.id).wait()


# -- state, replies, messages


async def test_an_agent_remembers_and_replies(h):
    assert await send(h, Pay(5), AgentId("account", "ada")) == Balance(total=5, payments=1)
    assert await send(h, Pay(7), AgentId("account", "ada")) == Balance(total=12, payments=2)
    assert await send(h, Pay(1), AgentId("account", "bob")) == Balance(total=1, payments=1)


async def test_an_agent_remembers_when_its_process_has_died(h):
    await send(h, Pay(5), AgentId("account", "ada"))
    await h.crash()
    assert await send(h, Pay(7), AgentId("account", "ada")) == Balance(total=12, payments=2)


async def test_what_is_published_and_sent_reaches_durable_agents_and_those_in_memory(h):
    for amount in (1, 2, 3):
        await send(h, Pay(amount), AgentId("account", "ada"))
    assert await until(h, BOOK, 3) == Balance(total=6, payments=3)
    assert await until(h, AgentId("mailbox", "ada"), 3) == Balance(total=6, payments=3)
    await quiet(h.runtime)
    assert WORLD.audited == ["ada:1", "ada:2", "ada:3"]
    assert {view.status for view in await h.runtime.query.runs(RunFilter(), limit=100)} == {"completed"}


async def test_the_same_message_twice_is_handled_once_and_replied_to_twice(h):
    replies = [await send(h, Pay(5), AgentId("account", "ada"), id="payment-1") for _ in range(2)]
    assert replies == [Balance(total=5, payments=1)] * 2
    await h.crash()
    assert await send(h, Pay(5), AgentId("account", "ada"), id="payment-1") == Balance(total=5, payments=1)
    assert WORLD.handled == {"ada:5": 1}


async def test_one_publication_is_one_message_however_often_it_is_published(h):
    for _ in range(3):
        await h.runtime.publish(Paid(account="x", amount=4), TopicId("paid", "book"), id="publication-1")
    assert await until(h, BOOK, 1) == Balance(total=4, payments=1)
    await quiet(h.runtime)
    assert await until(h, BOOK, 1) == Balance(total=4, payments=1)


async def test_what_was_published_is_safe_when_publish_returns(h):
    await h.runtime.publish(Paid(account="x", amount=4), TopicId("paid", "book"))
    await h.crash()
    assert await until(h, BOOK, 1) == Balance(total=4, payments=1)


async def test_a_message_with_all_it_does_is_accepted_once_and_committed_once(clock):
    asked = Counter[str]()

    def count(effect: str, _: int) -> bool:
        asked[effect] += 1
        return False

    async with harness(BANK, store=FaultyStore(MemoryStore(clock), fails=count), clock=clock) as h:
        await send(h, Statement(), AgentId("account", "ada"))
        assert (asked["accept"], asked["commit"]) == (1, 1)
        await send(h, Pay(5), AgentId("account", "ada"))
        await quiet(h.runtime)
        turns = await h.runtime.query.runs(RunFilter())
        assert len(turns) == 5  # the two messages, one for the book, one for the mailbox, and one that posts the rest
        assert (asked["accept"], asked["commit"]) == (2, 5)


# -- failures


async def test_a_handler_that_fails_leaves_nothing_behind(h):
    ada = AgentId("account", "ada")
    await send(h, Pay(5), ada)
    with pytest.raises(CallFailed) as caught:
        await send(h, Refuse(), ada)
    assert [each.type for each in caught.value.error.chain()] == ["LookupError"]
    assert await send(h, Statement(), ada) == Balance(total=5, payments=1)
    assert await until(h, BOOK, 1) == Balance(total=5, payments=1)
    assert WORLD.handled["refuse"] == 1


async def test_a_handler_that_says_so_is_tried_again_under_the_same_key(h):
    waiting = asyncio.ensure_future(send(h, Refuse("later"), AgentId("account", "ada")))
    while not waiting.done():
        h.advance(seconds=1)
        await asyncio.wait([waiting], timeout=0.02)
    assert await waiting == Balance(total=0, payments=0)
    assert len(WORLD.keys) == 3
    assert len(set(WORLD.keys)) == 1


async def test_a_message_that_nobody_handles_is_refused_before_it_is_accepted(h):
    with pytest.raises(Undeliverable, match="no handler"):
        await send(h, Paid(account="x", amount=1), AgentId("account", "ada"))
    assert list(await h.runtime.query.runs(RunFilter())) == []


async def test_a_caller_that_waits_no_longer_can_ask_again(h):
    ada = AgentId("sleeper", "1")
    async with harness(NIGHT, store=MemoryStore(h.clock), clock=h.clock) as night:
        waiting = asyncio.ensure_future(night.runtime.send(Statement(), ada, deadline=5, id="m1"))
        async with asyncio.timeout(PATIENCE):
            await WORLD.entered.wait()
        night.advance(seconds=6)
        with pytest.raises(DeadlineExceeded):
            await waiting
        WORLD.gate.set()
        assert await send(night, Statement(), ada, id="m1") == Balance(total=1, payments=1)
        assert WORLD.handled["sleeper"] == 1


# -- crash at every write


async def payments(h: Harness, name: str) -> tuple[Balance, Balance, Balance]:
    """Two payments by one client who repeats what was not acknowledged; what is known of it everywhere."""
    account = AgentId("account", name)
    for amount in (5, 7):
        balance = await h.insist(lambda amount=amount: send(h, Pay(amount), account, id=f"{name}-{amount}"))
    mailbox = await h.insist(lambda: until(h, AgentId("mailbox", name), 2))
    book = await h.insist(lambda: until(h, BOOK, 2))
    return balance, mailbox, book


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_every_write_loses_nothing_and_repeats_nothing(
    ground, clock, when: Literal["before", "after"]
):
    async with harness(BANK, store=ground[0], clock=clock, kill=ground[1]) as h:
        balance, mailbox, book = await payments(h, "undisturbed")
        assert (balance, mailbox) == (Balance(total=12, payments=2), Balance(total=12, payments=2))
        await quiet(h.runtime)
        effects, known = h.process.effects, book.payments
        for n in range(1, effects + 1):
            await h.restart(at=n, when=when)
            balance, mailbox, _ = await payments(h, f"{when}-{n}")
            assert (balance, mailbox) == (Balance(total=12, payments=2), Balance(total=12, payments=2)), n
            known += 2
            assert await h.insist(lambda known=known: until(h, BOOK, known)) == Balance(
                total=known * 6, payments=known
            ), n
        await h.restart()  # the last one may die of its last write at any time
        await quiet(h.runtime)
        assert (await until(h, BOOK, known)).payments == known
        assert set(WORLD.audited) == {key for key in WORLD.handled}  # noqa: C416 - at least once each


# -- calls from within


class Sleeper(MessageAgent):
    """Replies when it is let."""

    @handles
    async def state(self, message: Statement, ctx: Context) -> Balance:
        WORLD.handled["sleeper"] += 1
        WORLD.entered.set()
        await WORLD.gate.wait()
        return Balance(total=1, payments=WORLD.handled["sleeper"])


NIGHT = App("night", agents=[actor("sleeper", Sleeper, durable=True)])
