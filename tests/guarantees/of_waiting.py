"""The promises about order and time, about people who answer, and about what it costs to wait."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from perdure import AgentId
from perdure.errors import (
    CallFailed,
    DeadlineExceeded,
    InvalidInput,
    RequestClosed,
    RunActive,
    RunCancelled,
    Undeliverable,
    UnknownName,
)
from perdure.testing import Harness

from . import house
from .bench import Bench
from .ground import Ground, die_everywhere
from .house import traces

DAY = 24 * 3600.0
SLACK = 5
"""Tasks that the engine may have more or fewer of from one moment to the next; 80 runs wait."""


class OfWaiting(Bench):
    """P4, P8, P10, P11, P13, P18."""

    @pytest.mark.promise("P4")
    async def test_turns_of_one_session_run_one_at_a_time_in_the_order_of_acceptance(self, ground: Ground) -> None:
        async def scenario(tag: str) -> Any:
            async def done(act: Any) -> Any:
                return await h.insist(act, patience=self.patience)

            names = [f"{tag}:{number}" for number in range(3)]  # which all wait until the last is accepted
            turns = [await done(lambda name=name: h.start(house.porter, name, session=tag, key=name)) for name in names]
            traces.gate(tag).set()
            replies = [(await done(lambda turn=turn: h.result(turn))).text for turn in turns]
            log = await ground.store.log(AgentId("house.porter", tag))
            return [text.replace(tag, "") for text in (*replies, *map(bytes.decode, log))]

        async with ground.open() as h:
            await die_everywhere(h, scenario)
        sessions: dict[str, list[tuple[int, str]]] = {}
        for what in traces.bodies:
            name, moment = what.split(" ")
            tag, number = name.rsplit(":", 1)
            sessions.setdefault(tag, []).append((int(number), moment))
        # What was attempted twice begins or ends twice; nothing of a turn comes before the end of the one before it.
        turns = [(number, moment) for number in range(3) for moment in ("begins", "ends")]
        assert [list(dict.fromkeys(seen)) for seen in sessions.values()] == [turns] * len(sessions)
        assert all(seen == sorted(seen) for seen in sessions.values())

    @pytest.mark.promise("P8")
    async def test_a_timer_fires_once_and_never_early(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.nap, 3600.0)
            await self.stands(h, run, "waiting")
            for seconds in (3599.0, -5000.0, 4999.9):  # it stands just before the time, and is put back meanwhile
                ground.clock.set(ground.clock.now() + seconds)
                await self.looked(h, ground)
                assert (await h.view(run)).status == "waiting"
            ground.clock.advance(1.2)
            due, woke = await self.within(h.result(run))
            assert woke >= due
            ground.clock.advance(3600)
            await self.looked(h, ground)
            assert [entry.kind for entry in await run.journal()].count("timer") == 1

    @pytest.mark.promise("P8")
    async def test_a_timer_fires_once_whichever_write_the_process_dies_at(self, ground: Ground) -> None:
        async def scenario(tag: str) -> Any:
            run = await h.insist(lambda: h.start(house.nap, 60.0, key=tag), patience=self.patience)
            due, woke = await h.insist(lambda: h.skip(run), patience=self.patience)
            return woke >= due, [entry.kind for entry in await ground.store.journal(run.id)]

        async with ground.open() as h:
            await die_everywhere(h, scenario)

    @pytest.mark.promise("P8")
    async def test_an_overdue_timer_fires_after_a_restart(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.nap, 3600.0)
            await self.stands(h, run, "waiting")
            h.process.crash()
            ground.clock.advance(DAY)
            await h.restart()
            due, woke = await self.within(h.result(run))
            assert woke - due == DAY - 3600

    @pytest.mark.promise("P10")
    async def test_a_request_that_nobody_heeds_ends_at_its_deadline(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.in_time)
            await self.within(h.until_waiting(run))
            with pytest.raises(TimeoutError, match="it goes on"):
                await run.result(0.01)
            await h.crash()
            h.advance(days=3)
            await self.within(traces.until("slow"))
            h.advance(minutes=1)
            assert await self.within(h.result(run)) == "nobody answered, and nothing came"

    @pytest.mark.promise("P10")
    async def test_a_message_is_replied_to_or_fails_with_a_type_or_ends_at_its_deadline(self, ground: Ground) -> None:
        async with ground.open() as h:
            send = h.runtime.send
            assert (await self.within(send("bread", AgentId("house.reader", "s")))).text == "heard it says bread"
            with pytest.raises(CallFailed, match="RuntimeError: the model is not amused"):
                await self.within(send("refuse", AgentId("house.reader", "s")))
            with pytest.raises(Undeliverable, match="nobody"):
                await self.within(send("bread", AgentId("house.nobody", "s")))
            waiting = asyncio.ensure_future(send("too long", AgentId("house.listener", "s"), deadline=5.0))
            await self.within(traces.until("too long"))
            h.advance(seconds=5)
            with pytest.raises(DeadlineExceeded):
                await self.within(waiting)

    @pytest.mark.promise("P10")
    async def test_what_is_asked_of_a_run_that_cannot_answer_is_refused(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.errand, "e")
            with pytest.raises(UnknownName, match="known: add"):
                await self.within(run.update("subtract", item="bread"))
            await run.cancel()
            await self.stands(h, run, "cancelled")
            for act in (run.update("add", item="bread"), run.send("said", 1), run.suspend()):
                with pytest.raises(RunActive, match="cancelled"):
                    await self.within(act)

    @pytest.mark.promise("P11")
    async def test_cancellation_reaches_children_and_running_steps(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.delegates, "gate")
            await self.within(traces.until("gate"))
            await run.cancel("that is enough")
            with pytest.raises(RunCancelled, match="that is enough"):
                await self.within(h.result(run))
            await self.within(traces.until("gate is cancelled"))
            (child,) = [view for view in await ground.store.runs() if view.parent == run.id]
            assert (await self.within(h.runtime.handle(child.id).wait())).status == "cancelled"
            assert "gate: clean" in traces.bodies
            assert "after gate" not in traces.bodies

    @pytest.mark.promise("P11")
    async def test_cancellation_is_not_lost_whichever_write_the_process_dies_at(self, ground: Ground) -> None:
        async def scenario(tag: str) -> Any:
            async def done(act: Any) -> Any:
                return await h.insist(act, patience=self.patience)

            run = await done(lambda: h.start(house.delegates, tag, key=tag))
            await done(lambda: traces.until(tag))
            await done(lambda: run.on(h.runtime).cancel())
            parent = await done(lambda: run.on(h.runtime).wait())
            (child,) = [view for view in await ground.store.runs() if view.parent == run.id]
            called = await done(lambda: h.runtime.handle(child.id).wait())
            return parent.status, called.status

        async with ground.open() as h:
            await die_everywhere(h, scenario)

    @pytest.mark.promise("P11")
    async def test_cancelling_a_message_cancels_its_handler(self, ground: Ground) -> None:
        async with ground.open() as h:
            waiting = asyncio.ensure_future(h.runtime.send("listen", AgentId("house.listener", "s")))
            await self.within(traces.until("listen"))
            waiting.cancel()
            await self.within(traces.until("listen is cancelled"))

    @pytest.mark.promise("P13")
    async def test_of_many_answers_at_once_one_is_taken(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.decide)
            first, second = await self.within(h.until_waiting(run))
            outcomes = await asyncio.gather(
                *(h.answer(first, number % 2 == 0) for number in range(10)), return_exceptions=True
            )
            taken = [number % 2 == 0 for number, outcome in enumerate(outcomes) if outcome is None]
            refused = [outcome for outcome in outcomes if outcome is not None]
            assert [type(outcome) for outcome in refused] == [RequestClosed] * len(refused)
            assert set(taken) == {taken[0]}, "answers that differ were taken"
            await h.crash()
            await h.answer(second, value=True)
            assert await self.within(h.result(run)) == [taken[0], True]
            with pytest.raises(RequestClosed):
                await h.answer(second, value=False)

    @pytest.mark.promise("P13")
    async def test_a_wrong_shaped_answer_is_refused_and_the_request_stays_open(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.decide)
            first, second = await self.within(h.until_waiting(run))
            for wrong in ("yes", {"approved": True}, None, [True]):
                with pytest.raises(InvalidInput, match=first.id):
                    await h.answer(first, wrong)
            assert {request.id for request in await h.runtime.requests(run.id)} == {first.id, second.id}
            await h.answer(second, value=False)
            assert [request.id for request in await h.runtime.requests(run.id)] == [first.id]
            await h.answer(first, value=True)
            assert await self.within(h.result(run)) == [True, False]

    @pytest.mark.promise("P18")
    async def test_waiting_costs_no_task_no_thread_and_no_connection(self, ground: Ground) -> None:
        async with ground.open() as h:
            await self._let_wait(h, ground, 1)  # the engine's own wait for the earliest timer is there from now on
            few = _costs()
            await self._let_wait(h, ground, 20)
            async with asyncio.timeout(self.patience):
                while any(now > before + SLACK for now, before in zip(_costs(), few, strict=True)):
                    await self.looked(h, ground)  # what a run leaves ends a moment after its last commit

    async def _let_wait(self, h: Harness, ground: Ground, count: int) -> None:
        """So many runs of each kind wait."""
        runs = [
            await h.start(house.waits, kind) for kind in ("event", "answer", "timer", "child") for _ in range(count)
        ]
        for run in runs:
            await self.stands(h, run, "waiting")
        await self.looked(h, ground)


def _costs() -> tuple[int, int, int]:
    """Tasks, threads, open files and sockets."""
    place = Path("/proc/self/fd")
    return len(asyncio.all_tasks()), threading.active_count(), len(list(place.iterdir())) if place.exists() else 0
