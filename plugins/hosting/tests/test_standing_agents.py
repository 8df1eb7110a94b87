"""Durable agents stand: what is published for them goes into the host's store, whether or not a worker is there."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

import pytest

from perdure.clock import SystemClock
from perdure.errors import InvalidInput, StoreUnavailable, Undeliverable, UsageError
from perdure.messages import AgentId, Hosted, RunFilter, Subscription, TopicId, Whereabouts
from perdure.testing import MemoryStore
from perdure_hosting.client import LinkTransport
from perdure_hosting.host import Host
from perdure_hosting.remote_store import RemoteStore
from perdure_hosting.settings import WorkerSettings
from perdure_hosting.standing import Roll, Standing, read, written
from perdure_hosting.store_host import ROLL
from perdure_messaging.inbox import CUSTOM
from perdure_messaging.routing import Routes

from .hosting_network import TIMEOUT, Desk, Network, event, presence, request, settled

LEDGER = Hosted("shop.ledger", durable=True)
LEDGERS = frozenset({LEDGER.type})
NEWS = (Subscription("l", LEDGER.type, "news"),)
MIXED = (*NEWS, Subscription("e", "kit.echo", "news"), Subscription("o", "shop.other", "news"))


class Refusing(MemoryStore):
    """Cannot write while ``full``.

    Attributes:
        accepted: How many items came with each call.
    """

    full = False

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.accepted: list[int] = []

    async def accept(self, items: Any, *, worker: str | None = None) -> Any:
        if self.full:
            msg = "the disk is full"
            raise StoreUnavailable(msg)
        self.accepted.append(len(items))
        return await super().accept(items, worker=worker)


class Keeping(Network):
    """A host with a store, which outlives it, and whoever is to publish."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.backing = Refusing(SystemClock())
        self.stores: list[RemoteStore] = []

    async def start(self) -> None:
        self.host = Host(self.clock, self.settings, store=self.backing)
        await self.host.start()

    async def __aenter__(self) -> Self:
        await self.start()
        self.publisher = await self.worker(Desk(), retry=0.001)
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(TIMEOUT):
            for store in self.stores:
                await store.close()
        await self.stop()

    async def driver(self, *targets: str) -> RemoteStore:
        """A worker's engine that takes the turns of these agents from the host's store."""
        store = RemoteStore(self.dial(), self.clock, WorkerSettings(retry=0.001))
        self.stores.append(store)
        await store.claim("w", self.clock.now(), targets=frozenset(targets))
        return store

    async def stands(self, *agents: Hosted, subs: tuple[Subscription, ...] = NEWS) -> LinkTransport:
        """A worker that hosts these has been there, and its engine takes their turns."""
        worker = await self.worker(Desk(), *agents, subs=subs, retry=0.001)
        await self.driver(*(each.type for each in agents))
        return worker

    async def turns(self) -> list[tuple[str, str | None, Any]]:
        """The turns in the store, oldest first."""
        views = [view for view in await self.backing.runs() if view.target != ROLL]
        found = [await self.backing.run(view.id) for view in reversed(views)]
        return [(view.target, view.session, view.input["value"]) for view in found if view is not None]

    async def restart(self) -> None:
        await self.kill_host()
        await self.start()


async def test_what_is_published_for_a_durable_agent_is_a_turn_in_the_host_s_store():
    async with Keeping() as network:
        await network.stands(LEDGER)
        await network.publisher.publish(event("news", b'"one"'))
        await network.publisher.publish(event("", b'"two"', id="e2", target=AgentId(LEDGER.type, "7")))
        assert await network.turns() == [(LEDGER.type, "1", "one"), (LEDGER.type, "7", "two")]


async def test_a_publication_that_is_repeated_is_one_turn():
    async with Keeping() as network:
        await network.stands(LEDGER)
        for _ in range(3):
            await network.publisher.publish(event("news", b'"one"'))
        assert len(await network.turns()) == 1


async def test_all_durable_recipients_are_accepted_at_once_and_volatile_ones_get_it_as_ever():
    async with Keeping() as network:
        desk = Desk()
        await network.stands(LEDGER, Hosted("shop.other", durable=True), subs=MIXED)
        await network.worker(desk, "kit.echo", subs=MIXED[1:2])
        network.backing.accepted.clear()
        await network.publisher.publish(event("news"))
        await desk.has(1)
        assert network.backing.accepted == [2]
        assert sorted(target for target, _, _ in await network.turns()) == [LEDGER.type, "shop.other"]


async def test_no_worker_need_be_there_nor_the_same_host():
    async with Keeping() as network:
        worker = await network.stands(LEDGER)
        await worker.stop()
        for store in network.stores:
            await store.close()
        await network.publisher.publish(event("news", b'"one"'))
        await network.restart()
        await network.publisher.publish(event("news", b'"two"', id="e2"))
        driver = await network.driver()
        claims, _ = await driver.claim("w", network.clock.now(), targets=LEDGERS)
        assert [claim.start.session for claim in claims] == ["1"]
        assert [value for *_, value in await network.turns()] == ["one", "two"]
        assert await network.publisher.agents() == [
            Whereabouts(LEDGER.type, "", instances=0, healthy=False, durable=True)
        ]


async def test_the_agents_of_workers_with_stores_of_their_own_get_their_messages_themselves():
    async with Keeping() as network:
        desk = Desk()
        await network.worker(desk, LEDGER, subs=NEWS)
        await network.publisher.publish(event("news"))
        await desk.has(1)
        assert await network.turns() == []


async def test_who_takes_whatever_there_is_does_not_speak_for_other_workers_agents():
    async with Keeping() as network:
        desk = Desk()
        await network.worker(desk, LEDGER, subs=NEWS)
        store = await network.driver("shop.other")
        await store.claim("w", network.clock.now())
        await network.publisher.publish(event("news"))
        await desk.has(1)


async def test_a_request_goes_to_a_worker_and_fails_where_there_is_none():
    async with Keeping() as network:
        worker = await network.stands(LEDGER)
        assert (await network.publisher.send(request(LEDGER.type))).kind == "reply"
        await worker.stop()
        answer = await network.publisher.send(request(LEDGER.type, id="m2"))
        assert answer.error.type.endswith(Undeliverable.__name__)


async def test_a_store_that_cannot_write_is_what_the_publisher_hears():
    async with Keeping() as network:
        await network.stands(LEDGER)
        network.backing.full = True
        with pytest.raises(StoreUnavailable, match="full"):
            await network.publisher.publish(event("news"))
        network.backing.full = False
        await network.publisher.publish(event("news"))
        assert len(await network.turns()) == 1


async def test_what_cannot_become_a_turn_is_refused_to_who_sends_it():
    async with Keeping() as network:
        await network.stands(LEDGER)
        with pytest.raises(UsageError, match="bytes"):
            await network.publisher.publish(event("news")._replace(content=""))


async def test_subscriptions_change_with_what_a_worker_announces_and_only_then():
    async with Keeping() as network:
        worker = await network.stands(LEDGER)
        await worker.announce(presence())
        await network.publisher.publish(event("news"))
        assert len(await network.turns()) == 1
        await worker.announce(presence(LEDGER, subs=(Subscription("l", LEDGER.type, "weather"),)))
        await network.restart()
        await worker.stop()
        await network.publisher.publish(event("news", id="e2"))
        await network.publisher.publish(event("weather", id="e3"))
        assert len(await network.turns()) == 2


async def test_an_agent_that_is_announced_as_volatile_stands_no_more():
    async with Keeping() as network:
        worker = await network.stands(LEDGER)
        await worker.announce(presence(LEDGER.type))
        await worker.stop()
        with pytest.raises(Undeliverable, match=r"shop\.ledger"):
            await network.publisher.publish(event("", target=AgentId(LEDGER.type, "1")))


async def test_what_stood_before_leaves_nothing_behind_in_the_store():
    async with Keeping() as network:
        worker = await network.stands(LEDGER)
        for topic in ("a", "b", "c"):
            await worker.announce(presence(LEDGER, subs=(Subscription(topic, LEDGER.type, topic),)))
        (view,) = await network.backing.runs(RunFilter(target=ROLL))
        assert view.status == "pending"
        claims, _ = await network.backing.claim("any", network.clock.now() + 1e9)
        assert [claim.start.target for claim in claims] == []


async def test_a_store_that_cannot_write_holds_up_who_announces_until_it_can():
    async with Keeping() as network:
        network.backing.full = True
        await network.driver(LEDGER.type)
        worker = await network.worker(Desk())
        announcing = asyncio.create_task(worker.announce(presence(LEDGER, subs=NEWS)))
        await settled()
        assert not announcing.done()
        network.backing.full = False
        async with asyncio.timeout(TIMEOUT):
            await announcing
        await worker.stop()
        await network.publisher.publish(event("news"))
        assert len(await network.turns()) == 1


async def test_where_code_says_who_gets_it_that_is_a_turn_too():
    async with Keeping() as network:
        worker = await network.stands(LEDGER, subs=(Subscription("c", LEDGER.type, "news", "custom"),))
        await worker.stop()
        for _ in range(2):
            await network.publisher.publish(event("news", b'"one"'))
        assert await network.turns() == [(LEDGER.type, CUSTOM, {"type": "kit.news", "value": "one"})]


async def test_what_is_no_json_and_says_it_is_does_not_get_into_the_store():
    async with Keeping() as network:
        await network.stands(LEDGER)
        for payload in (b'1,"of":{"id":"e1","sender":"shop.boss/1"}', b"{", b"\xff"):
            with pytest.raises(InvalidInput, match="no JSON"):
                await network.publisher.publish(event("news", payload))
        assert await network.turns() == []


# -- the roll


def test_a_roll_is_read_as_it_was_written():
    standing = {"a": Standing(type="a", subscriptions=NEWS), "b": Standing(type="b")}
    assert read(json.loads(written(standing))) == standing


def test_the_subscriptions_of_a_type_are_those_of_all_workers_that_host_it():
    routes = Routes()
    roll = Roll(routes)
    roll.serves(LEDGERS)
    roll.announced("one", presence(LEDGER, subs=NEWS))
    roll.announced("two", presence(LEDGER, subs=(Subscription("m", LEDGER.type, "more"),)))
    roll.stand(roll.due())
    roll.gone("one")
    roll.gone("two")
    for topic in ("news", "more"):
        assert routes.recipients(TopicId(topic, "s")).agents == (AgentId(LEDGER.type, "s"),)
    roll.announced("two", presence(LEDGER))
    roll.stand(roll.due())
    assert routes.recipients(TopicId("news", "s")).agents == ()
    assert (list(roll.standing), len(routes)) == ([LEDGER.type], 0)
