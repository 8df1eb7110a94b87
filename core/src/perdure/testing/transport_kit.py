"""The conformance kit of the ``Transport`` port: request and reply, errors, deadlines, cancellation, stopping.

Needs pytest with pytest-asyncio in auto mode. Payloads are JSON values, so that each transport can carry them: as they
are, or as bytes, where it serialises.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias

import pytest

from perdure.errors import DeadlineExceeded, UsageError, WorkFailed
from perdure.messages import AgentId, Envelope, ErrorInfo, Hosted, Presence, Subscription, TopicId
from perdure.ports import Clock, Deliver, Transport
from perdure.testing.clock import ManualClock
from perdure.testing.transport_office import TIMEOUT, Handler, Office, Silent, echo, event, packed, request, unpacked

__all__ = [
    "Connect",
    "Endpoints",
    "Handler",
    "Office",
    "OutOfPaper",
    "Silent",
    "TransportKit",
    "echo",
    "event",
    "packed",
    "request",
    "unpacked",
]


class Endpoints(NamedTuple):
    """A started network.

    Attributes:
        near: What callers send through.
        far: What was given the kit's ``deliver``; ``near`` itself, where one transport is both.
    """

    near: Transport
    far: Transport


Connect: TypeAlias = Callable[[Deliver], Awaitable[Endpoints]]


class OutOfPaper(WorkFailed):
    """What the kit's broken agent raises."""


class TransportKit:
    """What every transport holds; subclass it and give ``unstarted`` and ``network``.

    Make the transports so that ``stop`` waits no longer than about a tenth of a second for handlers.
    """

    large: ClassVar[int] = 1024 * 1024
    """Bytes of the largest message that the kit sends."""

    @pytest.fixture
    def clock(self) -> Clock:
        """The time that the transports are made with; override it where it must be the system's."""
        return ManualClock()

    @pytest.fixture
    def unstarted(self, clock: Clock) -> Transport:
        """A transport that is not started."""
        msg = f"{type(self).__name__} gives no fixture 'unstarted'"
        raise NotImplementedError(msg)

    @pytest.fixture
    def network(self, clock: Clock) -> Connect:
        """Makes ``Endpoints`` where messages arrive at a ``deliver``. The kit stops what was made."""
        msg = f"{type(self).__name__} gives no fixture 'network'"
        raise NotImplementedError(msg)

    @pytest.fixture
    async def connect(self, network: Connect) -> AsyncIterator[Connect]:
        """``network``, whose transports are stopped after the test."""
        opened: list[Endpoints] = []

        async def connect(deliver: Deliver) -> Endpoints:
            opened.append(await network(deliver))
            if isinstance(deliver, Office):
                await opened[-1].far.announce(deliver.presence)
            return opened[-1]

        yield connect
        async with asyncio.timeout(TIMEOUT):
            for near, far in opened:
                await near.stop()
                await far.stop()

    # -- replies

    async def test_a_request_is_answered(self, connect: Connect) -> None:
        """The reply carries the request's id."""
        near, _ = await connect(Office({"kit.echo": echo}))
        answer = await _sent(near, request("kit.echo", {"text": "naïve ☕", "n": [1, 2.5, None, True]}, id="m7"))
        assert (answer.id, answer.kind) == ("m7", "reply")
        assert answer.payload == {"text": "naïve ☕", "n": [1, 2.5, None, True]}

    async def test_an_envelope_arrives_whole(self, connect: Connect, clock: Clock) -> None:
        """Address, type, sender, headers, deadline."""
        office = Office({"kit.echo": echo})
        near, _ = await connect(office)
        sent = Envelope(
            "m1",
            "request",
            AgentId("kit.echo", "a key/with ünusual signs"),
            "kit.text",
            "hello",
            AgentId("kit.caller", "1"),
            {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            clock.now() + 600,
        )
        assert (await _sent(near, sent)).kind == "reply"
        assert office.delivered == [sent]

    async def test_none_is_a_reply(self, connect: Connect) -> None:
        """And no missing one."""

        async def nothing(_envelope: Envelope) -> None:
            """Answer nothing."""

        near, _ = await connect(Office({"kit.nothing": nothing}))
        answer = await _sent(near, request("kit.nothing"))
        assert (answer.kind, answer.payload) == ("reply", None)

    async def test_a_large_message_arrives_and_returns(self, connect: Connect) -> None:
        """As it was."""
        near, _ = await connect(Office({"kit.echo": echo}))
        text = "x" * self.large
        assert (await _sent(near, request("kit.echo", text))).payload == text

    # -- errors

    async def test_an_error_arrives_with_the_name_of_its_type(self, connect: Connect) -> None:
        """And its message and causes."""

        async def broken(_envelope: Envelope) -> None:
            msg = "the tray is empty"
            raise OutOfPaper(msg) from LookupError("tray 2")

        near, _ = await connect(Office({"kit.broken": broken}))
        answer = await _sent(near, request("kit.broken", id="m3"))
        assert (answer.id, answer.kind) == ("m3", "error")
        assert answer.payload == ErrorInfo(
            type="perdure.testing.transport_kit.OutOfPaper",
            message="the tray is empty",
            cause=ErrorInfo(type="LookupError", message="tray 2"),
        )

    async def test_an_unknown_agent_is_undeliverable(self, connect: Connect) -> None:
        """The error names it."""
        near, _ = await connect(Office({"kit.echo": echo}))
        answer = await _sent(near, request("kit.nobody"))
        assert answer.kind == "error"
        assert answer.payload.type == "perdure.errors.Undeliverable"
        assert "kit.nobody/1" in answer.payload.message

    # -- deadlines and cancellation

    async def test_a_request_ends_at_its_deadline_and_so_does_its_handler(self, connect: Connect, clock: Clock) -> None:
        """The caller is told, the handler is cancelled."""
        silent = Silent()
        near, _ = await connect(Office({"kit.silent": silent}))
        sending = asyncio.ensure_future(_sent(near, request("kit.silent", deadline=clock.now() + 0.2)))
        await _happens(silent.entered)
        _pass(clock, 0.3)
        with pytest.raises(DeadlineExceeded, match=r"kit\.silent"):
            await sending
        await _happens(silent.cancelled)

    async def test_a_request_whose_deadline_has_passed_is_not_delivered(self, connect: Connect, clock: Clock) -> None:
        """It is too late already."""
        office = Office({"kit.echo": echo})
        near, _ = await connect(office)
        with pytest.raises(DeadlineExceeded):
            await _sent(near, request("kit.echo", deadline=clock.now() - 1))
        assert (await _sent(near, request("kit.echo", id="m2"))).kind == "reply"
        assert [envelope.id for envelope in office.delivered] == ["m2"]

    async def test_a_handler_that_heeds_no_cancellation_does_not_hold_its_caller(
        self, connect: Connect, clock: Clock
    ) -> None:
        """Every request ends."""
        stubborn = Silent(heeds=False)
        near, _ = await connect(Office({"kit.stubborn": stubborn}))
        sending = asyncio.ensure_future(_sent(near, request("kit.stubborn", deadline=clock.now() + 0.2)))
        await _happens(stubborn.entered)
        _pass(clock, 0.3)
        with pytest.raises(DeadlineExceeded):
            await sending
        stubborn.released.set()

    async def test_cancelling_a_request_cancels_its_handler_and_no_other(self, connect: Connect) -> None:
        """Wherever it runs."""
        first, second = Silent(), Silent()
        near, _ = await connect(Office({"kit.first": first, "kit.second": second}))
        one = asyncio.ensure_future(_sent(near, request("kit.first", id="m1")))
        two = asyncio.ensure_future(_sent(near, request("kit.second", id="m2")))
        await _happens(first.entered)
        await _happens(second.entered)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        await _happens(first.cancelled)
        second.released.set()
        assert (await two).payload == "late"
        assert not second.cancelled.is_set()

    # -- many at once

    async def test_requests_are_handled_at_once_and_answered_to_their_own_callers(self, connect: Connect) -> None:
        """No handler answers before all have their message."""
        count = 50
        all_there = asyncio.Barrier(count)

        async def meet(envelope: Envelope) -> Any:
            await all_there.wait()
            return envelope.payload

        near, _ = await connect(Office({"kit.meet": meet}))
        answers = await asyncio.gather(*(_sent(near, request("kit.meet", n, id=f"m{n}")) for n in range(count)))
        assert [(answer.id, answer.payload) for answer in answers] == [(f"m{n}", n) for n in range(count)]

    async def test_a_handler_may_send_and_wait_for_the_reply(self, connect: Connect) -> None:
        """To others and to its own type."""
        there: list[Endpoints] = []

        async def count_down(envelope: Envelope) -> Any:
            left = envelope.payload
            onward = request("kit.count" if left else "kit.echo", left - 1, id=f"{envelope.id}.{left}")
            return [left, (await _sent(there[0].far, onward)).payload]

        there.append(await connect(Office({"kit.count": count_down, "kit.echo": echo})))
        answer = await _sent(there[0].near, request("kit.count", 2))
        assert answer.payload == [2, [1, [0, -1]]]

    # -- topics

    async def test_an_event_goes_to_all_that_are_subscribed_to_its_type(self, connect: Connect) -> None:
        """The topic's source is the key."""
        office = Office({"kit.echo": echo, "kit.other": echo, "kit.third": echo})
        near, far = await connect(office)
        await _subscribe(far, office, ("kit.echo", "news"), ("kit.other", "news"), ("kit.third", "new"))
        await _published(near, event("news", {"n": 1}, source="a key/ünusual"))
        first, second = sorted(await office.has(2))
        assert [str(first.target), str(second.target)] == ["kit.echo/a key/ünusual", "kit.other/a key/ünusual"]
        assert first.topic == second.topic == TopicId("news", "a key/ünusual")
        assert (first.id, first.kind, first.payload) == ("e1", "event", {"n": 1})

    async def test_an_event_goes_by_the_beginning_of_its_type(self, connect: Connect) -> None:
        """Where the subscription says so."""
        office = Office({"kit.echo": echo})
        near, far = await connect(office)
        await far.announce(office.presence._replace(subscriptions=(Subscription("s", "kit.echo", "news.", "prefix"),)))
        for n, type_ in enumerate(("news", "news.local", "newsroom", "news.")):
            await _published(near, event(type_, n, id=f"e{n}"))
        assert [envelope.payload for envelope in await office.has(2)] == [1, 3]

    async def test_an_event_for_custom_subscriptions_comes_without_a_key(self, connect: Connect) -> None:
        """The receiver says whose it is, and publishes it again for that one."""
        office = Office({"kit.echo": echo})
        near, far = await connect(office)
        custom = (Subscription("s", "kit.echo", "ne", "custom"), Subscription("t", "kit.echo", "news", "custom"))
        await far.announce(office.presence._replace(subscriptions=custom))
        await _published(near, event("news"))
        (arrived,) = await office.has(1)
        assert arrived.target == AgentId("kit.echo", "")
        await _published(far, arrived._replace(target=AgentId("kit.echo", "7")))
        assert (await office.has(2))[1].target == AgentId("kit.echo", "7")

    async def test_the_sender_of_an_event_does_not_get_it(self, connect: Connect) -> None:
        """Others of its type do."""
        office = Office({"kit.echo": echo})
        near, far = await connect(office)
        await _subscribe(far, office, ("kit.echo", "news"))
        await _published(near, event("news", "own", sender=AgentId("kit.echo", "1")))
        await _published(near, event("news", "another's", id="e2", sender=AgentId("kit.echo", "2")))
        assert [envelope.payload for envelope in await office.has(1)] == ["another's"]

    async def test_however_many_subscriptions_match_an_agent_gets_an_event_once(self, connect: Connect) -> None:
        """By type and by prefix."""
        office = Office({"kit.echo": echo})
        near, far = await connect(office)
        kinds: tuple[tuple[str, Any], ...] = (("news", "type"), ("ne", "prefix"), ("", "prefix"))
        twice = tuple(Subscription(f"s{n}", "kit.echo", *each) for n, each in enumerate(kinds))
        await far.announce(office.presence._replace(subscriptions=twice))
        await _published(near, event("news", 1))
        await _published(near, event("last", 2, id="e2"))
        assert [envelope.payload for envelope in await office.has(2)] == [1, 2]

    async def test_an_event_to_one_agent_goes_to_that_one(self, connect: Connect) -> None:
        """Without any subscription."""
        office = Office({"kit.echo": echo})
        near, _ = await connect(office)
        await _published(near, event("news")._replace(target=AgentId("kit.echo", "9")))
        assert [str(envelope.target) for envelope in await office.has(1)] == ["kit.echo/9"]

    async def test_messages_of_one_sender_arrive_in_order(self, connect: Connect) -> None:
        """Events and requests."""
        office = Office({"kit.echo": echo})
        near, far = await connect(office)
        await _subscribe(far, office, ("kit.echo", "news"))
        sender = AgentId("kit.caller", "1")
        for n in range(0, 100, 2):
            await _published(near, event("news", n, id=f"e{n}", sender=sender))
            if n % 20 == 0:
                await _sent(near, request("kit.echo", n + 1, id=f"m{n}")._replace(sender=sender))
        await office.has(55)
        payloads = [envelope.payload for envelope in office.delivered]
        assert payloads == sorted(payloads)

    async def test_the_failure_of_a_subscriber_is_not_the_publishers(self, connect: Connect) -> None:
        """Nor that of others."""

        async def broken(_envelope: Envelope) -> None:
            raise OutOfPaper

        office = Office({"kit.broken": broken, "kit.echo": echo})
        near, far = await connect(office)
        await _subscribe(far, office, ("kit.broken", "news"), ("kit.echo", "news"))
        await _published(near, event("news"))
        await _published(near, event("news", id="e2"))
        assert len(await office.has(4)) == 4

    async def test_what_was_announced_last_is_what_counts(self, connect: Connect) -> None:
        """Subscriptions come and go."""
        office = Office({"kit.echo": echo})
        near, far = await connect(office)
        await _subscribe(far, office, ("kit.echo", "old"))
        await _subscribe(far, office, ("kit.echo", "new"))
        await _published(near, event("old", 1))
        await _published(near, event("new", 2, id="e2"))
        assert [envelope.payload for envelope in await office.has(1)] == [2]

    async def test_what_was_announced_can_be_looked_up(self, connect: Connect) -> None:
        """By type."""
        office = Office({"kit.echo": echo})
        near, far = await connect(office)
        await far.announce(Presence((Hosted("kit.echo"), Hosted("kit.kept", durable=True))))
        found = {each.type: each for each in await near.agents()}
        assert set(found) == {"kit.echo", "kit.kept"}
        assert found["kit.echo"].healthy
        assert [found[name].durable for name in sorted(found)] == [False, True]

    async def test_what_was_published_before_the_stop_is_delivered(self, connect: Connect) -> None:
        """All of it."""
        office = Office({"kit.echo": echo})
        near, far = await connect(office)
        await _subscribe(far, office, ("kit.echo", "news"))
        for n in range(500):
            await _published(near, event("news", n, id=f"e{n}"))
        async with asyncio.timeout(TIMEOUT):
            await near.stop()
        await office.has(500)
        assert [envelope.payload for envelope in office.delivered] == list(range(500))

    # -- starting and stopping

    @pytest.mark.parametrize("end", ["near", "far"])
    async def test_stopping_ends_what_is_under_way_with_an_error(self, connect: Connect, end: str) -> None:
        """The caller may try elsewhere; the handler is cancelled."""
        silent = Silent()
        endpoints = await connect(Office({"kit.silent": silent}))
        sending = asyncio.ensure_future(_sent(endpoints.near, request("kit.silent", id="m5")))
        await _happens(silent.entered)
        async with asyncio.timeout(TIMEOUT):
            await getattr(endpoints, end).stop()
            answer = await sending
        assert (answer.id, answer.kind) == ("m5", "error")
        assert answer.payload.retryable
        await _happens(silent.cancelled)

    async def test_stopping_lets_finish_what_can(self, connect: Connect) -> None:
        """A reply that comes in time arrives."""
        silent = Silent()
        _, far = endpoints = await connect(Office({"kit.silent": silent}))
        sending = asyncio.ensure_future(_sent(endpoints.near, request("kit.silent")))
        await _happens(silent.entered)
        stopping = asyncio.ensure_future(far.stop())
        silent.released.set()
        assert (await sending).payload == "late"
        async with asyncio.timeout(TIMEOUT):
            await stopping

    async def test_a_handler_that_heeds_no_cancellation_does_not_hold_up_stopping(self, connect: Connect) -> None:
        """Its caller gets an error all the same."""
        stubborn = Silent(heeds=False)
        near, far = await connect(Office({"kit.stubborn": stubborn}))
        sending = asyncio.ensure_future(_sent(near, request("kit.stubborn")))
        await _happens(stubborn.entered)
        async with asyncio.timeout(TIMEOUT):
            await far.stop()
        assert (await sending).kind == "error"
        stubborn.released.set()

    async def test_sending_before_the_start_or_after_the_stop_is_refused(
        self, connect: Connect, unstarted: Transport
    ) -> None:
        """A clear error, at once."""
        with pytest.raises(UsageError, match="started"):
            await _sent(unstarted, request("kit.echo"))
        near, _ = await connect(Office({"kit.echo": echo}))
        await near.stop()
        with pytest.raises(UsageError, match="stopped"):
            await _sent(near, request("kit.echo"))

    async def test_stopping_twice_is_stopping_once(self, connect: Connect, unstarted: Transport) -> None:
        """Started or not."""
        near, _ = await connect(Office({"kit.echo": echo}))
        for transport in (near, unstarted):
            await transport.stop()
            await transport.stop()


async def _sent(transport: Transport, envelope: Envelope) -> Envelope:
    async with asyncio.timeout(TIMEOUT):
        return unpacked(await transport.send(_fitting(transport, envelope)))


async def _published(transport: Transport, envelope: Envelope) -> None:
    async with asyncio.timeout(TIMEOUT):
        await transport.publish(_fitting(transport, envelope))


def _fitting(transport: Transport, envelope: Envelope) -> Envelope:
    return packed(envelope) if transport.serialises and not envelope.content else envelope


async def _subscribe(transport: Transport, office: Office, *pairs: tuple[str, str]) -> None:
    """From agent type and topic type."""
    subscriptions = tuple(Subscription(f"{agent} {topic}", agent, topic) for agent, topic in pairs)
    async with asyncio.timeout(TIMEOUT):
        await transport.announce(office.presence._replace(subscriptions=subscriptions))


async def _happens(event: asyncio.Event) -> None:
    async with asyncio.timeout(TIMEOUT):
        await event.wait()


def _pass(clock: Clock, seconds: float) -> None:
    """Of the system's clock, time passes by itself."""
    if isinstance(clock, ManualClock):
        clock.advance(seconds)
