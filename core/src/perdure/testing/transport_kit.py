"""The conformance kit of the ``Transport`` port: request and reply, errors, deadlines, cancellation, stopping.

Needs pytest with pytest-asyncio in auto mode. Payloads are JSON values, so that each transport can carry them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

import pytest

from perdure.errors import DeadlineExceeded, Undeliverable, UsageError, WorkFailed
from perdure.messages import AgentId, Envelope, ErrorInfo
from perdure.ports import Clock, Deliver, Transport
from perdure.testing.clock import ManualClock

TIMEOUT: Final = 20.0
"""Seconds after which the kit calls something stuck."""

Handler: TypeAlias = Callable[[Envelope], Awaitable[Any]]


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


class Office:
    """Agents by type: fills ``Deliver`` as a runtime does.

    Args:
        agents: Their handlers; each returns the reply's payload, or raises.

    Attributes:
        delivered: What arrived, in order.
    """

    def __init__(self, agents: Mapping[str, Handler]) -> None:
        self._agents = agents
        self.delivered: list[Envelope] = []

    async def __call__(self, envelope: Envelope) -> Envelope:
        """Hand over to the target's handler; return its reply or error."""
        self.delivered.append(envelope)
        try:
            return Envelope(envelope.id, "reply", envelope.sender, "", await self._handle(envelope))
        except Exception as error:  # noqa: BLE001 - as a runtime does: it travels back to the caller
            return Envelope(envelope.id, "error", envelope.sender, "", ErrorInfo.of(error))

    async def _handle(self, envelope: Envelope) -> Any:
        handler = self._agents.get(envelope.target.type) if envelope.target else None
        if handler is None:
            msg = f"no agent {str(envelope.target)!r} lives here"
            raise Undeliverable(msg)
        return await handler(envelope)


class Silent:
    """A handler that never answers by itself.

    Args:
        heeds: Whether it ends when it is cancelled.

    Attributes:
        entered: It has a message.
        cancelled: It was cancelled.
        released: Set it, and the handler answers ``late``.
    """

    def __init__(self, *, heeds: bool = True) -> None:
        self._heeds = heeds
        self.entered: asyncio.Event = asyncio.Event()
        self.cancelled: asyncio.Event = asyncio.Event()
        self.released: asyncio.Event = asyncio.Event()

    async def __call__(self, _envelope: Envelope, /) -> str:
        """Wait to be released."""
        self.entered.set()
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                if self._heeds:
                    raise
        return "late"


async def echo(envelope: Envelope) -> Any:
    """Answer with what was said."""
    return envelope.payload


def request(to: str, payload: Any = "hello", *, id: str = "m1", deadline: float | None = None) -> Envelope:
    """A message to the agent ``to/1``."""
    return Envelope(id, "request", AgentId(to, "1"), "kit.text", payload, deadline=deadline)


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
            return [left, (await there[0].far.send(onward)).payload]

        there.append(await connect(Office({"kit.count": count_down, "kit.echo": echo})))
        answer = await _sent(there[0].near, request("kit.count", 2))
        assert answer.payload == [2, [1, [0, -1]]]

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
        return await transport.send(envelope)


async def _happens(event: asyncio.Event) -> None:
    async with asyncio.timeout(TIMEOUT):
        await event.wait()


def _pass(clock: Clock, seconds: float) -> None:
    """Of the system's clock, time passes by itself."""
    if isinstance(clock, ManualClock):
        clock.advance(seconds)
