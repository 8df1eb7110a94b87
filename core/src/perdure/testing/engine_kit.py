"""The conformance kit of the ``Engine`` port: what must hold for every engine over every store.

Subclass ``EngineKit`` in a test module and give it a ``store`` fixture (and an ``engine`` name if it is not the
configured default). What the tests run is in ``perdure.testing.programs``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pytest

from perdure import App, config
from perdure.errors import (
    InvalidInput,
    NotEncodable,
    PayloadTooLarge,
    RequestClosed,
    RunCancelled,
    RunFailed,
    RunParked,
    UnknownName,
)
from perdure.messages import AgentId, ChatMessage
from perdure.runtime import Runtime
from perdure.testing import programs
from perdure.testing.clock import ManualClock
from perdure.testing.engine_author import EngineAuthors
from perdure.testing.engine_operators import EngineOperators
from perdure.testing.engine_waits import until, until_recorded, until_status
from perdure.testing.faults import FaultyStore
from perdure.testing.harness import Harness, harness
from perdure.testing.models import Script
from perdure.testing.programs import Approval, Bench

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from perdure.ports import DurableStore
    from perdure.testing.faults import Effect

_PATIENCE = 30.0


class EngineKit(EngineAuthors, EngineOperators):
    """Conformance of an engine. Fixtures to give: ``store`` (fresh, open)."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The time of the test."""
        return ManualClock()

    @pytest.fixture
    def bench(self) -> Bench:
        """Where step bodies leave their traces."""
        return Bench()

    @pytest.fixture
    def kill(self) -> Callable[[str], object] | None:
        """Makes the store see that a worker died; ``None`` for what the harness does by itself."""
        return None

    @pytest.fixture
    async def h(
        self, bench: Bench, store: DurableStore, clock: ManualClock, kill: Callable[[str], object] | None
    ) -> AsyncGenerator[Harness]:
        """An app of the kit's programs, opened."""
        app, model = programs.app(bench), Script(programs.think)
        async with harness(app, model=model, store=store, clock=clock, kill=kill) as opened:
            yield opened

    # -- results

    async def test_a_run_finishes_with_its_result(self, h: Harness, bench: Bench) -> None:
        assert await h.call(programs.count, 3) == [0, 1, 2]
        assert bench.bodies == ["number:0", "number:1", "number:2"]

    async def test_code_sees_the_decoded_value_live_and_replayed(self, h: Harness) -> None:
        run = await h.start(programs.decoded)
        await h.until_waiting(run)
        await h.crash()
        await h.answer((await h.until_waiting(run))[0], {"approved": True})
        live, replayed = await h.result(run)
        assert live == replayed == "tuple of int"

    async def test_a_failure_carries_the_original_type_and_message(self, h: Harness) -> None:
        with pytest.raises(RunFailed) as caught:
            await h.call(programs.failing, "paper is out")
        step = caught.value.error.chain()
        assert "StepFailed" in step[0].type
        assert step[1].type == "ValueError"
        assert step[1].message == "paper is out"

    async def test_a_step_failure_is_a_step_failed_and_never_the_original_type(self, h: Harness) -> None:
        assert await h.call(programs.caught, "x") == "StepFailed of ValueError"

    async def test_a_step_that_ends_as_if_cancelled_has_failed(self, h: Harness) -> None:
        with pytest.raises(RunFailed, match="CancelledError"):
            await h.call(programs.quitting)

    async def test_a_result_that_json_cannot_carry_fails_the_step_and_says_so(self, h: Harness) -> None:
        with pytest.raises(RunFailed, match="cannot be written as JSON"):
            await h.call(programs.unencodable)

    async def test_an_argument_that_json_cannot_carry_is_refused_where_it_stands(self, h: Harness) -> None:
        with pytest.raises(RunFailed) as caught:
            await h.call(programs.live_argument)
        assert caught.value.error.type == f"{NotEncodable.__module__}.{NotEncodable.__qualname__}"

    async def test_a_result_over_the_limit_fails_the_step_with_both_sizes(self, h: Harness) -> None:
        with pytest.raises(RunFailed, match="over the limit"):
            await h.call(programs.huge, h.runtime.configuration.max_payload)

    async def test_a_run_s_result_over_the_limit_is_a_failure_that_says_so(self, h: Harness) -> None:
        with pytest.raises(RunFailed, match="the limit is"):
            await h.call(programs.huge_result, h.runtime.configuration.max_payload)

    # -- acceptance

    async def test_a_key_used_twice_is_one_run_with_one_result(self, h: Harness, bench: Bench) -> None:
        first = await h.start(programs.count, 2, key="monday")
        second = await h.start(programs.count, 2, key="monday")
        assert (first.new, second.new) == (True, False)
        assert second.id == first.id
        assert await h.result(second) == await h.result(first) == [0, 1]
        assert len(bench.bodies) == 2

    async def test_input_that_does_not_fit_is_refused_with_the_field(self, h: Harness) -> None:
        with pytest.raises(InvalidInput, match=r"'kit\.count' does not fit: n: input should be a valid integer"):
            await h.runtime.submit("count", b'{"n":"many"}')

    async def test_input_over_the_limit_is_refused_with_both_sizes(self, h: Harness) -> None:
        with pytest.raises(PayloadTooLarge, match="the limit is"):
            await h.start(programs.caught, "x" * h.runtime.configuration.max_payload)

    async def test_an_unknown_name_lists_the_known_ones(self, h: Harness) -> None:
        with pytest.raises(UnknownName, match=r"kit\.count"):
            await h.runtime.submit("coutn", b"{}")

    async def test_waiting_for_an_unknown_run_says_so(self, h: Harness) -> None:
        with pytest.raises(UnknownName, match="run 'run_none'"):
            await h.runtime.handle("run_none").result(1)

    # -- crashes

    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_a_crash_at_every_store_effect_changes_nothing(
        self, bench: Bench, store: DurableStore, clock: ManualClock, when: Literal["before", "after"]
    ) -> None:
        app = programs.app(bench)
        async with harness(app, model=Script(programs.think), store=store, clock=clock) as h:
            expected, effects = await _briefing(h, "undisturbed"), h.process.effects
            for n in range(1, effects + 1):
                await h.restart(at=n, when=when)
                again = await h.insist(
                    partial(_briefing, h, f"{when}-{n}"), after_death=partial(bench.note_recorded, store)
                )
                assert again == expected
        assert bench.recorded_again == []

    async def test_a_recorded_step_is_not_run_again(self, h: Harness, bench: Bench) -> None:
        run = await h.start(programs.approved_count, 2)
        await h.until_waiting(run)
        await h.crash()
        await h.crash()
        await h.answer((await h.until_waiting(run))[0], {"approved": True})
        assert await h.result(run) == [0, 1]
        assert bench.bodies == ["number:0", "number:1"]

    async def test_an_interrupted_step_is_attempted_again_with_the_same_key(self, h: Harness, bench: Bench) -> None:
        run = await h.start(programs.gated)
        await bench.reached("gated")
        await h.crash()
        await bench.reached("gated", times=2)
        bench.gate.set()
        assert await h.result(run) == "through"
        assert len(set(bench.keys)) == 1
        assert len(bench.keys) == 2

    async def test_a_cancelled_run_whose_code_is_not_there_ends(
        self, store: DurableStore, clock: ManualClock, bench: Bench
    ) -> None:
        async with harness(programs.app(bench), store=store, clock=clock) as h:
            run = await h.start(programs.approved_count, 1)
            await h.until_waiting(run)
        async with harness(App("other"), store=store, clock=clock) as h:
            await h.runtime.cancel(run.id, "nobody knows it any more")
            with pytest.raises(RunCancelled):
                await h.result(run)

    async def test_a_run_that_kills_its_workers_is_parked_as_poison(self, h: Harness, bench: Bench) -> None:
        run = await h.start(programs.gated)
        for deaths in range(1, 30):
            await bench.reached("gated", times=deaths)
            await h.crash()
            if (await run.on(h.runtime).wait(0.05)).status == "parked":
                break
        with pytest.raises(RunParked, match="set aside"):
            await h.result(run)

    # -- retries

    async def test_attempts_are_repeated_by_the_policy_and_recorded(
        self, h: Harness, bench: Bench, clock: ManualClock
    ) -> None:
        run = await h.start(programs.flaky, 3)
        for _ in range(2):
            await until(lambda: clock.next_wake is not None)
            assert clock.next_wake is not None
            clock.set(clock.next_wake)
        assert await h.result(run) == "done at attempt 3"
        journal = await h.runtime.query.journal(run.id)
        assert [(entry.kind, entry.attempt) for entry in journal] == [("attempt", 1), ("attempt", 2), ("step", 3)]
        assert len(set(bench.keys)) == 1

    async def test_attempts_are_counted_across_crashes(self, h: Harness, bench: Bench, clock: ManualClock) -> None:
        run = await h.start(programs.flaky, 3)
        await until_recorded(h, run, 1)
        await h.crash()
        await bench.attempted(2)
        await until(lambda: clock.next_wake is not None)
        clock.advance(60)
        assert await h.result(run) == "done at attempt 3"

    # -- time

    async def test_a_timer_fires_once_and_never_early(self, h: Harness, clock: ManualClock) -> None:
        began = clock.now()
        run = await h.start(programs.sleeper, 3600.0)
        await until_status(h, run, "waiting")
        clock.advance(3599)
        assert (await run.wait(0.05)).status == "waiting"
        clock.advance(2)
        assert await h.result(run) - began >= 3600
        assert [entry.kind for entry in await h.runtime.query.journal(run.id)] == ["begin", "timer"]

    async def test_an_overdue_timer_fires_after_a_restart(self, h: Harness, clock: ManualClock) -> None:
        run = await h.start(programs.sleeper, 3600.0)
        await until_status(h, run, "waiting")
        h.process.crash()
        clock.advance(7200)
        await h.restart()
        assert await h.result(run) > 0

    async def test_a_clock_that_goes_back_does_not_turn_the_run_s_time_back(
        self, h: Harness, clock: ManualClock
    ) -> None:
        run = await h.start(programs.times)
        request = (await h.until_waiting(run))[0]
        clock.set(clock.now() - 1000)
        await h.answer(request, {"approved": True})
        before, after = await h.result(run)
        assert after >= before

    # -- requests

    async def test_a_request_is_answered_once(self, h: Harness) -> None:
        run = await h.start(programs.two_questions)
        first, _ = await h.until_waiting(run)
        await h.answer(first, {"approved": True})
        with pytest.raises(RequestClosed, match="answered"):
            await h.answer(first, {"approved": False})

    async def test_a_wrong_shaped_answer_is_refused_and_the_request_stays_open(self, h: Harness) -> None:
        run = await h.start(programs.two_questions)
        first, second = await h.until_waiting(run)
        with pytest.raises(InvalidInput, match="approved"):
            await h.answer(first, {"aproved": True})
        await h.answer(first, {"approved": True})
        await h.answer(second, {"approved": False})
        assert await h.result(run) == [True, False]

    async def test_an_answer_for_an_unknown_request_says_so(self, h: Harness) -> None:
        with pytest.raises(UnknownName, match="request 'req_none'"):
            await h.answer("req_none", {})

    async def test_a_request_closes_at_its_deadline_with_the_default(self, h: Harness) -> None:
        run = await h.start(programs.deadline)
        (request,) = await h.until_waiting(run)
        h.advance(days=3)
        assert await h.result(run) is False
        with pytest.raises(RequestClosed):
            await h.answer(request, {"approved": True})

    async def test_an_answer_survives_the_crash_that_follows_it(self, h: Harness) -> None:
        run = await h.start(programs.deadline)
        (request,) = await h.until_waiting(run)
        await h.answer(request, {"approved": True})
        await h.crash()
        h.advance(days=3)
        assert await h.result(run) is True

    async def test_a_child_s_request_is_shown_with_its_caller(self, h: Harness) -> None:
        run = await h.start(programs.asks_through_a_child)
        (request,) = await h.until_waiting(run)
        assert request.run != run.id
        await h.answer(request, {"approved": True})
        assert await h.result(run) == [0]

    # -- sessions

    async def test_turns_of_a_session_run_one_at_a_time_in_the_order_of_acceptance(self, h: Harness) -> None:
        runs = [await h.start(programs.parrot, f"message {n}", session="s") for n in range(8)]
        assert [(await h.result(run)).text for run in runs] == [f"heard message {n}" for n in range(8)]
        log = await _log(h, "kit.parrot", "s")
        assert [message.text for message in log if message.role == "user"] == [f"message {n}" for n in range(8)]

    async def test_a_session_goes_on_after_a_crash(self, h: Harness) -> None:
        await h.call(programs.parrot, "one", session="s")
        await h.crash()
        await h.call(programs.parrot, "two", session="s")
        log = await _log(h, "kit.parrot", "s")
        assert [message.text for message in log] == ["one", "heard one", "two", "heard two"]

    async def test_a_failed_turn_leaves_its_session_as_it_was(self, h: Harness) -> None:
        await h.call(programs.parrot, "one", session="s")
        with pytest.raises(RunFailed):
            await h.call(programs.parrot, "refuse this", session="s")
        assert len(await _log(h, "kit.parrot", "s")) == 2

    async def test_a_call_into_a_session_that_waits_for_it_fails(self, h: Harness) -> None:
        reply = await h.call(programs.echo_chamber, "again", session="s")
        assert "would wait for ever" in reply.text

    # -- cancellation

    async def test_cancelling_runs_the_clean_up_steps(self, h: Harness, bench: Bench) -> None:
        run = await h.start(programs.cleans_up)
        await h.until_waiting(run)
        await h.runtime.cancel(run.id, 'we said "enough"')
        with pytest.raises(RunCancelled, match='we said "enough"'):
            await h.result(run)
        assert bench.bodies == ["number:99"]

    async def test_cancelling_reaches_children_and_running_steps(self, h: Harness, bench: Bench) -> None:
        run = await h.start(programs.calls_gated)
        await bench.reached("gated")
        await h.runtime.cancel(run.id)
        with pytest.raises(RunCancelled):
            await h.result(run)
        await bench.reached("gated cancelled")
        child = next(view for view in await h.runtime.query.runs() if view.parent == run.id)
        assert (await h.runtime.engine.wait(child.id, timeout=_PATIENCE)).status == "cancelled"

    async def test_a_step_past_its_deadline_is_cancelled(self, h: Harness, bench: Bench) -> None:
        run = await h.start(programs.impatient)
        await bench.reached("gated")
        h.advance(seconds=60)
        assert await h.result(run) == "gave up"
        await bench.reached("gated cancelled")

    # -- code that changes

    async def test_code_that_no_longer_fits_parks_the_run_and_a_fixed_one_resumes_it(
        self, store: DurableStore, clock: ManualClock, bench: Bench
    ) -> None:
        async with harness(programs.app(bench), store=store, clock=clock) as h:
            run = await h.start(programs.approved_count, 2)
            (request,) = await h.until_waiting(run)
        async with harness(programs.changed_app(bench), store=store, clock=clock) as h:
            await h.answer(request, {"approved": True})
            with pytest.raises(RunParked, match="no longer fits its journal"):
                await h.result(run)
        async with harness(programs.app(bench), store=store, clock=clock) as h:
            assert await h.result(run) == [0, 1]

    async def test_a_run_whose_code_is_not_there_is_parked_and_goes_on_when_it_is(
        self, store: DurableStore, clock: ManualClock, bench: Bench
    ) -> None:
        async with harness(programs.app(bench), store=store, clock=clock) as h:
            run = await h.start(programs.approved_count, 1)
            (request,) = await h.until_waiting(run)
        async with harness(App("other"), store=store, clock=clock) as h:
            await h.answer(request, {"approved": True})
            with pytest.raises(RunParked, match=r"unknown agent or workflow 'kit\.approved_count'"):
                await h.result(run)
        async with harness(programs.app(bench), store=store, clock=clock) as h:
            assert await h.result(run) == [0]

    # -- costs and faults

    async def test_a_waiting_run_costs_no_task(self, h: Harness) -> None:
        await h.call(programs.count, 1)
        idle = len(asyncio.all_tasks())
        for _ in range(50):
            await h.until_waiting(await h.start(programs.approved_count, 1))
        await until(lambda: len(asyncio.all_tasks()) <= idle)

    async def test_a_store_that_cannot_write_loses_nothing_and_the_run_goes_on(
        self, store: DurableStore, clock: ManualClock, bench: Bench
    ) -> None:
        down = {"now": False, "refused": 0}

        def fails(effect: Effect, _: int) -> bool:
            down["refused"] += down["now"] and effect == "commit"
            return down["now"] > 0

        faulty = FaultyStore(store, fails=fails)
        settings = config.Settings(sections={"engine-embedded": {"pause": 0.01}})
        async with Runtime.open(programs.app(bench), settings=settings, store=faulty, clock=clock) as runtime:
            run = await runtime.start(programs.gated)
            await bench.reached("gated")
            down["now"] = True
            bench.gate.set()
            await until(lambda: down["refused"] >= 3)
            down["now"] = False
            assert await run.result(_PATIENCE) == "through"
        assert bench.bodies.count("gated") == 1

    async def test_another_runtime_on_the_same_store_starts_answers_and_awaits(
        self, h: Harness, store: DurableStore, clock: ManualClock, bench: Bench
    ) -> None:
        async with Runtime.open(programs.app(bench), store=store, clock=clock, drive=False) as other:
            run = await other.start(programs.approved_count, 1)
            view = await run.wait(_PATIENCE, until_waiting=True)
            await other.answer(view.requests[0].id, {"approved": True})
            assert await run.result(_PATIENCE) == [0]
        assert await h.result(run) == [0]


async def _briefing(h: Harness, key: str) -> Any:
    """One run through all kinds of effects; may be called again until it returns."""
    run = await h.start(programs.briefing, ["a", "b", "c"], key=key)
    view = await run.wait(_PATIENCE, until_waiting=True)
    if view.requests:
        with suppress(RequestClosed):  # then the answer of the process that crashed was accepted
            await h.answer(view.requests[0], Approval(approved=True))
    return await h.result(run)


async def _log(h: Harness, type_: str, key: str) -> list[ChatMessage]:
    return [ChatMessage.model_validate_json(item) for item in await h.runtime.query.log(AgentId(type_, key))]
