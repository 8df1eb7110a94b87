"""Stores and engines that each break one promise, and the tests that must catch them.

``bitten.py`` runs those tests over them, ``test_bites.py`` looks at what came of it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.trace import SpanContext, TraceFlags

import perdure_engine_embedded as embedded
from perdure import Attempt
from perdure.direct import DirectContext
from perdure.errors import RequestClosed
from perdure.execution import Execution
from perdure.messages import Accepted, Claim, Commit, Delivery, ErrorInfo, Loaded, Start
from perdure.ports import Clock
from perdure.testing import MemoryStore
from perdure_engine_embedded import EmbeddedEngine, attempts
from perdure_engine_embedded.live import Batch, Live
from perdure_otel import contexts
from perdure_transport_inprocess.transport import InProcess

# -- stores


class Lossy(MemoryStore):
    """Loses every second event that it has accepted."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        super().__init__(clock, **options)
        self._events = 0

    async def accept(self, items: Sequence[Any], *, worker: str | None = None) -> Any:
        if isinstance(items[0], Delivery) and items[0].kind == "event":
            self._events += 1
            if self._events % 2 == 0:
                return [Accepted(items[0].run, new=True)], ()
        return await super().accept(items, worker=worker)


class Jumbled(MemoryStore):
    """Hands out each turn at once, whether or not the one before it has ended."""

    def _first(self, *_: Any) -> bool:
        return True


class Torn(MemoryStore):
    """Appends to the journal before it looks whether the rest can be written."""

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        run = self._ledger.known(commit.run)
        run.entries.extend(commit.entries)
        rest = commit._replace(seq=commit.seq + len(commit.entries), entries=(), consumed=())
        claims = await super().commit(rest, worker=worker)
        run.consume(commit.consumed)
        return claims


class Halved(MemoryStore):
    """Writes the journal and the state of a commit, but not what is said."""

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        return await super().commit(commit._replace(log=()), worker=worker)


class Unfenced(MemoryStore):
    """Takes a commit under any epoch, from anybody."""

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        run = self._ledger.known(commit.run)
        return await super().commit(commit._replace(epoch=run.epoch), worker=run.holder or worker)


class Keyless(MemoryStore):
    """Forgets idempotency keys."""

    async def accept(self, items: Sequence[Any], *, worker: str | None = None) -> Any:
        items = [item._replace(key=None) if isinstance(item, Start) else item for item in items]
        return await super().accept(items, worker=worker)


class Gullible(MemoryStore):
    """Thanks everybody for an answer, whoever was first."""

    async def accept(self, items: Sequence[Any], *, worker: str | None = None) -> Any:
        try:
            return await super().accept(items, worker=worker)
        except RequestClosed:
            return [Accepted(item.run, new=True) for item in items], ()

    async def request(self, request: str) -> Any:
        view = await super().request(request)
        return view and view.model_copy(update={"status": "open"})


class Generous(MemoryStore):
    """Gives workers whatever there is to do, whether or not they asked for it."""

    async def claim(
        self,
        worker: str,
        now: float,
        *,
        limit: int = 256,
        targets: frozenset[str] | None = None,
    ) -> Any:
        return await super().claim(worker, now, limit=limit)


# -- engines


class Forgetful(EmbeddedEngine):
    """Does the last recorded step again when it loads a run."""

    async def _load(self, run: str) -> Loaded:
        loaded = await super()._load(run)
        if loaded.entries and loaded.entries[-1].kind == "step":
            start = self._live[run].start
            execution = Execution(self._parts.programs, start, loaded)
            execution.begin(loaded.entries[:-1])
            command = execution.pending[loaded.entries[-1].path]
            await attempts.attempt(self._parts, start, command, (1, None), lambda _: None)
            execution.close()
        return loaded


class Relentless(EmbeddedEngine):
    """Lets steps run on that the code has given up."""

    def _written(self, live: Live, batch: Batch, commit: Commit, claims: Sequence[Claim]) -> bool:
        for command in batch.closed:
            live.running.pop(command.path, None)
        return super()._written(live, batch, commit, claims)


class Impatient(EmbeddedEngine):
    """Fails runs whose code no longer fits."""

    async def _park(self, live: Live, error: ErrorInfo) -> None:
        live.parking = lambda *args, **options: _failed(Live.parking(live, *args, **options))  # type: ignore[method-assign]
        await super()._park(live, error)


def _failed(commit: Commit) -> Commit:
    return commit._replace(status="failed")


class Trusting(EmbeddedEngine):
    """Imports the types of the errors that it hears of."""

    def _take(self, claims: Any) -> None:
        claims = list(claims)
        for delivery in (delivery for claim in claims for delivery in claim.inbox if delivery.error):
            module = ErrorInfo.model_validate_json(delivery.error).type.rpartition(".")[0]
            importlib.import_module(module or "builtins")
        super()._take(claims)


class Talkative(EmbeddedEngine):
    """Writes what it takes in into the log."""

    async def _accept(self, item: Any) -> Any:
        logging.getLogger("perdure.engine").debug("accepted %r", item)
        return await super()._accept(item)


class Lavish(EmbeddedEngine):
    """Keeps a task for each run that waits."""

    def _shelve(self, live: Live) -> None:
        super()._shelve(live)
        self._spawn(self._wait_for_ever(), f"waits for {live.run}")

    async def _wait_for_ever(self) -> None:
        await asyncio.get_running_loop().create_future()


# -- what else may be broken


def _new_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attempts, "step_key", lambda *_: secrets.token_hex(8))


def _early(patch: pytest.MonkeyPatch) -> None:
    when = Execution.wake_at
    patch.setattr(Execution, "wake_at", lambda self: None if when(self) is None else when(self) - 2.0)


def _undecoded(patch: pytest.MonkeyPatch) -> None:
    async def step(_: DirectContext, call: Any, source: str) -> Any:
        del source
        return await call.attempt(Attempt("key", 1))

    patch.setattr(DirectContext, "_step", step)


def _endless(patch: pytest.MonkeyPatch) -> None:
    send: Callable[..., Awaitable[Any]] = InProcess.send
    patch.setattr(InProcess, "send", lambda self, envelope: send(self, envelope._replace(deadline=None)))


def _traceless(patch: pytest.MonkeyPatch) -> None:
    def trace_of(_: Start) -> SpanContext:
        return SpanContext(secrets.randbits(127) + 1, 0, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    patch.setattr(contexts, "trace_of", trace_of)


def _engine(made: type[EmbeddedEngine]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(embedded, "EmbeddedEngine", made)


def _nothing(_: pytest.MonkeyPatch) -> None:
    """The store is what is broken."""


@dataclass(frozen=True)
class Bite:
    """Something broken.

    Attributes:
        promise: What it breaks.
        caught_by: The tests that must fail over it, as ``Kit.test``.
        store: The store that it is, or that it stands on.
        apply: Breaks what is not a store.
    """

    promise: str
    caught_by: tuple[str, ...]
    store: type[MemoryStore] = MemoryStore
    apply: Callable[[pytest.MonkeyPatch], None] = _nothing


BITES: dict[str, Bite] = {
    "a store that loses what it has acknowledged": Bite(
        "P1",
        (
            "Guarantees.test_what_was_acknowledged_ends_whichever_write_the_process_dies_at",
            "EngineKit.test_events_are_kept_until_they_are_awaited_and_taken_in_order",
        ),
        store=Lossy,
    ),
    "an engine that runs a recorded step again": Bite(
        "P2",
        (
            "Guarantees.test_a_recorded_step_is_never_executed_again",
            "Guarantees.test_a_run_that_waits_is_rebuilt_without_executing_anything",
            "EngineKit.test_a_recorded_step_is_not_run_again",
        ),
        apply=_engine(Forgetful),
    ),
    "an engine that gives each attempt another key": Bite(
        "P3",
        (
            "Guarantees.test_every_attempt_carries_the_same_key_which_the_step_can_read",
            "EngineKit.test_an_interrupted_step_is_attempted_again_with_the_same_key",
        ),
        apply=_new_keys,
    ),
    "a store that hands out turns too soon": Bite(
        "P4",
        (
            "Guarantees.test_turns_of_one_session_run_one_at_a_time_in_the_order_of_acceptance",
            "StoreKit.test_turns_of_a_session_run_one_at_a_time_in_the_order_of_acceptance",
            "StoreKit.test_a_turn_that_waits_keeps_its_session",
        ),
        store=Jumbled,
    ),
    "a store that writes a part of a commit that it refuses": Bite(
        "P5",
        (
            "StoreKit.test_a_refused_commit_leaves_nothing",
            "StoreKit.test_a_commit_after_another_journal_is_a_conflict",
        ),
        store=Torn,
    ),
    "a store that leaves out a part of a commit": Bite(
        "P5",
        (
            "Guarantees.test_a_turn_is_committed_as_a_whole_or_not_at_all",
            "StoreKit.test_a_commit_is_visible_as_a_whole",
        ),
        store=Halved,
    ),
    "a store that ignores the fence": Bite(
        "P6",
        (
            "Guarantees.test_a_worker_that_lost_its_lease_commits_nothing",
            "StoreKit.test_a_commit_under_an_older_epoch_is_refused",
            "StoreKit.test_a_commit_of_a_worker_that_holds_nothing_is_refused",
            "StoreKit.test_a_worker_that_does_not_tick_for_a_lease_is_taken_over_from",
        ),
        store=Unfenced,
    ),
    "a store that forgets keys": Bite(
        "P7",
        (
            "Guarantees.test_a_key_used_twice_is_one_effect_and_the_second_caller_gets_the_first_one_s_result",
            "EngineKit.test_a_key_used_twice_is_one_run_with_one_result",
            "StoreKit.test_the_same_key_for_the_same_target_is_one_run",
        ),
        store=Keyless,
    ),
    "a machine whose timers are early": Bite(
        "P8",
        (
            "Guarantees.test_a_timer_fires_once_and_never_early",
            "EngineKit.test_a_timer_fires_once_and_never_early",
        ),
        apply=_early,
    ),
    "a context that shows volatile code what durable code does not see": Bite(
        "P9",
        ("Guarantees.test_volatile_and_durable_see_the_same_results_and_the_same_errors",),
        apply=_undecoded,
    ),
    "a transport that forgets deadlines": Bite(
        "P10",
        ("Guarantees.test_a_message_is_replied_to_or_fails_with_a_type_or_ends_at_its_deadline",),
        apply=_endless,
    ),
    "an engine that lets given-up steps run on": Bite(
        "P11",
        ("Guarantees.test_cancellation_reaches_children_and_running_steps",),
        apply=_engine(Relentless),
    ),
    "an engine that fails runs whose code no longer fits": Bite(
        "P12",
        (
            "Guarantees.test_code_that_no_longer_matches_parks_the_run_and_says_where",
            "Guarantees.test_a_run_whose_code_is_not_there_is_parked_and_keeps_what_arrives",
            "EngineKit.test_code_that_no_longer_fits_parks_the_run_and_a_fixed_one_resumes_it",
        ),
        apply=_engine(Impatient),
    ),
    "a store that gives workers what they did not ask for": Bite(
        "P12",
        (
            "StoreKit.test_a_worker_takes_the_runs_of_its_targets_only",
            "StoreKit.test_what_a_worker_accepts_is_left_if_it_is_of_another_target",
        ),
        store=Generous,
    ),
    "a store that takes a second answer": Bite(
        "P13",
        (
            "Guarantees.test_of_many_answers_at_once_one_is_taken",
            "EngineKit.test_a_request_is_answered_once",
            "StoreKit.test_a_second_answer_is_refused",
            "StoreKit.test_of_two_answers_at_once_one_is_taken",
        ),
        store=Gullible,
    ),
    "an engine that imports what it hears of": Bite(
        "P15",
        ("Guarantees.test_no_stored_or_received_byte_is_executed_or_imported",),
        apply=_engine(Trusting),
    ),
    "an engine that logs contents": Bite(
        "P16",
        ("Guarantees.test_contents_stay_out_of_logs_and_traces",),
        apply=_engine(Talkative),
    ),
    "a tracer that begins a trace in each process": Bite(
        "P17",
        ("Guarantees.test_one_request_is_one_trace_and_a_kill_loses_no_span",),
        apply=_traceless,
    ),
    "an engine that keeps a task for each run that waits": Bite(
        "P18",
        ("Guarantees.test_waiting_costs_no_task_no_thread_and_no_connection",),
        apply=_engine(Lavish),
    ),
}
"""By what is broken."""
