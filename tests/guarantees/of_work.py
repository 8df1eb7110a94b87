"""The promises about work that was accepted: it is done, and not done again, and all of it or nothing is seen."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from perdure.errors import AlreadyStarted, LeaseLost, RequestClosed
from perdure.messages import AgentId, Commit, Entry, RunFilter
from perdure.runtime import Runtime

from . import house
from .bench import Bench
from .ground import Ground, Stopped, die_everywhere
from .house import traces


class OfWork(Bench):
    """P1, P2, P3, P5, P6, P7."""

    @pytest.mark.promise("P1")
    async def test_what_was_acknowledged_ends_whichever_write_the_process_dies_at(self, ground: Ground) -> None:
        async def scenario(tag: str) -> Any:
            async def done(act: Any) -> Any:
                return await h.insist(act, patience=self.patience)

            run = await done(lambda: h.start(house.errand, tag, key=tag))
            traces.gate(tag).set()
            turn = await done(lambda: h.start(house.porter, tag, session=tag, key=f"turn of {tag}"))
            await done(lambda: run.on(h.runtime).update("add", key="add", item="bread"))
            for said in (1, 2):
                await done(lambda said=said: run.on(h.runtime).send("said", said, key=f"said {said}"))
            (request,) = await done(lambda: h.until_waiting(run))
            with suppress(RequestClosed):  # the process died after it was told, and before it could say so
                await done(lambda: h.answer(request, value=True))
            said, allowed, put, child = await done(lambda: h.result(run))
            carried = await done(lambda: h.result(turn))
            return said, allowed, [_without(tag, text) for text in (*put, *child, carried.text)]

        async with ground.open() as h:
            assert await die_everywhere(h, scenario) >= 12

    @pytest.mark.promise("P1")
    async def test_what_fails_fails_visibly(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.waits, "nothing that there is")
            view = await self.within(run.wait())
            assert view.error is not None
            assert (view.status, view.error.type) == ("failed", "KeyError")

    @pytest.mark.promise("P2")
    async def test_a_recorded_step_is_never_executed_again(self, ground: Ground) -> None:
        async def scenario(tag: str) -> Any:
            run = await h.insist(lambda: h.start(house.mixed, tag, key=tag), patience=self.patience)
            branches = await h.insist(lambda: h.result(run), patience=self.patience)
            assert traces.again == []
            return str(branches).replace(tag, "")

        async with ground.open() as h:
            await die_everywhere(h, scenario)
            await scenario("last")
        once = [what for what in traces.bodies if what.startswith("last:")]
        assert len(once) == 10
        assert len(traces.bodies) > len(set(traces.bodies)) + 2, "no crash made a step that was not recorded run again"

    @pytest.mark.promise("P2")
    async def test_a_run_that_waits_is_rebuilt_without_executing_anything(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.before)
            await self.recorded(h, run, 1)
            for _ in range(3):
                await h.crash()
            await run.on(h.runtime).send("said", 1)
            assert await self.within(h.result(run)) == ["first", "last"]
        assert traces.bodies == ["first", "last"]
        assert traces.again == []

    @pytest.mark.promise("P3")
    async def test_every_attempt_carries_the_same_key_which_the_step_can_read(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.holds, "gate")
            for deaths in (1, 2, 3):
                await self.within(traces.until("gate", deaths))
                if deaths < 3:
                    await h.crash()
            traces.gate("gate").set()
            assert await self.within(h.result(run)) == ["gate", "after gate"]
            tried = await h.start(house.mixed, "m")
            await self.within(h.result(tried))
        attempts = {place.partition(" ")[2]: keys for place, keys in traces.keys.items()}
        assert [len(keys) for keys in (attempts["wait_at#1"], attempts["third_time#1"])] == [3, 3]
        assert [place for place, keys in traces.keys.items() if len(set(keys)) != 1] == []
        assert len({keys[0] for keys in traces.keys.values()}) == len(traces.keys)

    @pytest.mark.promise("P5")
    async def test_a_turn_is_committed_as_a_whole_or_not_at_all(self, ground: Ground) -> None:
        torn: list[str] = []
        store = ground.another()

        async def look(tag: str) -> None:
            """What is there now, between two lives: of each commit everything or nothing."""
            session = AgentId("house.clerk", tag)
            turns = await store.runs(RunFilter(target="house.clerk"), limit=1000)
            for turn in (turn for turn in turns if turn.session == tag):
                entries, state = (await store.journal(turn.id)), (await store.load(turn.id)).state
                whole = {turn.status == "completed", len(await store.log(session)) == 2, state is not None}
                sent = {bool(await store.runs(RunFilter(parent=turn.id))), any(e.kind == "send" for e in entries)}
                timer = {turn.wake_at is not None, turn.status == "waiting"}
                torn.extend(f"{tag}: {each} {turn}" for each in (whole, sent, timer) if len(each) == 2)

        async def scenario(tag: str) -> Any:
            async def done(act: Any) -> Any:
                return await h.insist(act, patience=self.patience, after_death=lambda: look(tag))

            turn = await done(lambda: h.start(house.clerk, tag, session=tag, key=tag))
            reply = await done(lambda: h.skip(turn))
            await look(tag)
            return _without(tag, reply.text)

        async with ground.open() as h:
            await die_everywhere(h, scenario)
        assert torn == []

    @pytest.mark.promise("P6")
    async def test_a_worker_that_lost_its_lease_commits_nothing(self, ground: Ground) -> None:
        first = Stopped(ground.store)
        async with ground.open(store=first) as stale:
            run = await stale.start(house.holds, "gate")
            await self.within(traces.until("gate"))
            async with ground.open(house.open_house(ground.another()), store=ground.another()) as h:
                first.stopped = True
                ground.pass_a_lease()
                await self.within(traces.until("gate", 2))
                (worker,) = stale.process.workers
                late = Entry("step", "wait_at#1", ground.clock.now(), "wait_at", value=b'"late"')
                with pytest.raises(LeaseLost):
                    await first.commit(Commit(run.id, 1, 0, ground.clock.now(), (late,)), worker=worker)
                traces.gate("gate").set()  # for both: the stale one has an outcome, too
                assert await self.within(h.result(run)) == ["gate", "after gate"]
                journal = await run.on(h.runtime).journal()
                assert await self.within(stale.result(run)) == ["gate", "after gate"]
                assert await run.on(h.runtime).journal() == journal
        assert [(entry.name, entry.value) for entry in journal] == [("wait_at", b'"gate"'), ("body", b'"after gate"')]
        assert traces.bodies.count("after gate") == 1

    @pytest.mark.promise("P7")
    async def test_a_key_used_twice_is_one_effect_and_the_second_caller_gets_the_first_one_s_result(
        self, ground: Ground
    ) -> None:
        async with (
            ground.open() as h,
            Runtime.open(
                house.open_house(ground.store), store=ground.another(), clock=ground.clock, drive=False
            ) as other,
        ):
            callers = [h.runtime, other] * 5
            runs = await asyncio.gather(*(rt.start(house.chain, "c", 2, key="once") for rt in callers))
            assert sum(run.new for run in runs) == 1
            assert len({run.id for run in runs}) == 1
            results = await self.within(asyncio.gather(*(run.result() for run in runs)))
            assert results == [["c:0", "c:1"]] * 10
            await h.crash()
            again = await h.start(house.chain, "another input", 7, key="once")
            assert (again.new, await self.within(h.result(again))) == (False, ["c:0", "c:1"])
        assert traces.bodies == ["c:0", "c:1"]

    @pytest.mark.promise("P7")
    async def test_what_is_sent_to_a_run_twice_under_one_key_is_taken_once(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.collect, 2)
            for said in (1, 1, 1, 2):
                await run.on(h.runtime).send("said", said, key=f"said {said}")
                await h.crash()
            assert await self.within(h.result(run)) == [1, 2]
            errand = await h.start(house.errand, "e")
            assert [await errand.update("add", key="one", item="bread") for _ in range(2)] == [1, 1]
            assert traces.bodies == ["e:bread"]

    @pytest.mark.promise("P7")
    async def test_an_id_used_twice_is_what_the_caller_says(self, ground: Ground) -> None:
        async with ground.open() as h:
            named = h.runtime.options(id="order-7")
            run = await named.start(house.chain, "c", 1)
            await self.within(h.result(run))
            assert not (await named.start(house.chain, "c", 1)).new
            with pytest.raises(AlreadyStarted):
                await h.runtime.options(id="order-7", reuse="fail").start(house.chain, "c", 1)
        assert traces.bodies == ["c:0"]


def _without(tag: str, text: str) -> str:
    return text.replace(tag, "…")
