"""The engine: takes what the store gives it to do, drives it, commits what comes of it.

Every run that moves has at least one task, and a run whose steps follow one another has just one: the task that
attempted a step feeds the machine, commits, and goes on with the next step. A run that waits has none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from perdure.errors import (
    CommitConflict,
    InvalidInput,
    LeaseLost,
    NonDeterminism,
    PluginError,
    RequestClosed,
    StoreUnavailable,
    UnknownName,
)
from perdure.execution import Execution
from perdure.messages import HALTED, Claim, Commit, Delivery, Entry, ErrorInfo, Loaded, RunFilter
from perdure_engine_embedded.attempts import Before, attempt
from perdure_engine_embedded.coding import CodedStore
from perdure_engine_embedded.doorway import Doorway
from perdure_engine_embedded.inquiries import query, update
from perdure_engine_embedded.live import Batch, Live, newer
from perdure_engine_embedded.patience import Patience
from perdure_engine_embedded.reporting import Reports
from perdure_engine_embedded.schemas import misfit
from perdure_engine_embedded.waiting import Waiters
from perdure_engine_embedded.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from perdure.execution import Command
    from perdure.messages import Accepted, Inquiry, RunView, Start
    from perdure.ports import DurableStore, EngineParts, Query, Upkeep
    from perdure_engine_embedded.settings import EngineSettings

_log = logging.getLogger("perdure.engine")
_BATCH: Final = 256
_QUIET: Final = 0.02  # seconds between two claims that nobody here asked for
_STUMBLES: Final = 5  # unexpected errors in a row after which a run is parked
_POISON: Final = "perdure.Poison"
_IN_VAIN: Final = frozenset({_POISON, "perdure.errors.DataCorrupted"})
_REFUSALS: Final = (StoreUnavailable, LeaseLost, CommitConflict)
_LOCAL: Final = 256  # outcomes of local steps that wait to be written together, at most


class EmbeddedEngine:
    """Fills ``perdure.ports.Engine``.

    Args:
        parts: What it stands on.
        settings: Its section of the configuration.
    """

    def __init__(self, parts: EngineParts, settings: EngineSettings) -> None:
        self._parts = parts
        self._settings = settings
        self._store: DurableStore = CodedStore(parts.store, parts.codecs) if parts.codecs else parts.store
        self._worker = parts.worker or f"worker_{secrets.token_hex(8)}"
        self._live: dict[str, Live] = {}
        self._cache: OrderedDict[str, Live] = OrderedDict()
        self._backlog: OrderedDict[str, Claim] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._patience = Patience(settings.pause)
        self._reports = Reports(self._store, parts.observers)
        self._doorway = Doorway(self._accept, self._tasks)
        self._waiters = Waiters(self._store, self._store, self._live, self._cache)
        self._poke = asyncio.Event()
        self._next_wake: float | None = None
        self._driving = False
        self._ticker: asyncio.TimerHandle | None = None
        self._watchdog: Watchdog | None = None

    # -- the port

    @property
    def query(self) -> Query:
        """The views on what this engine drives."""
        return self._store

    @property
    def upkeep(self) -> Upkeep:
        """What operators do to finished runs."""
        return self._store

    async def start(self) -> None:
        """Begin to drive. Runs that were interrupted go on; parked ones are given another try."""
        self._driving = True
        self._tick()
        if self._settings.stall:
            loop = asyncio.get_running_loop()
            driving = partial(self._driven, loop)
            self._watchdog = Watchdog(loop.call_soon_threadsafe, self._settings.stall, driving=driving)
            self._watchdog.start()
        self._spawn(self._drive(), "perdure-engine")
        await self._reports.catch_up()
        await self._retry_parked()

    async def stop(self, *, grace: float = 0.0) -> None:
        """Stop driving: let running steps finish for ``grace`` seconds, then give everything up. Idempotent."""
        if not self._driving:
            return
        self._driving = False
        self._poke.set()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._tasks and grace > 0:
            await asyncio.wait(self._tasks, timeout=grace)
        for live in [*self._live.values(), *self._cache.values()]:
            live.give_up()
        self._live.clear()
        self._cache.clear()
        self._backlog.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._reports.stop()
        await self._store.leave(self._worker)

    async def submit(self, start: Start) -> Accepted:
        """Accept a run or turn durably."""
        return await self._doorway.accept(start)

    async def deliver(self, delivery: Delivery) -> Accepted:
        """Accept an answer, cancellation or resumption durably; an answer is checked against its schema."""
        if delivery.kind == "answer":
            await self._check_answer(delivery)
        return await self._doorway.accept(delivery)

    async def wait(self, run: str, *, timeout: float | None = None, until_waiting: bool = False) -> RunView:
        """Return the run when it is terminal or parked, waits for an answer (on demand), or at the timeout."""
        return await self._waiters.wait(run, timeout=timeout, until_waiting=until_waiting)

    async def inquire(self, inquiry: Inquiry, *, timeout: float | None = None) -> bytes:
        """Ask a run's code; return the answer's JSON."""
        if inquiry.kind == "query":
            return await query(self._store, self._parts.programs, inquiry, self._settled)
        return await update(self._store, self.deliver, inquiry, self._parts.clock, timeout)

    def _settled(self, view: RunView) -> Execution | None:
        """The live code of a run, if it stands where the journal does: another worker may have moved that on."""
        live = self._live.get(view.id) or self._cache.get(view.id)
        if live is None or live.busy or live.has_arrivals or not live.stands_at(view.seq, view.generation):
            return None
        return live.execution

    async def _accept(self, items: Sequence[Start | Delivery]) -> Sequence[Accepted]:
        wanted = self._worker if self._driving and self._room > 0 else None
        accepted, claims = await self._store.accept(items, worker=wanted)
        self._take(claims)
        return accepted

    # -- taking work

    async def _drive(self) -> None:
        """Claim what others left, what is due and what was delivered from elsewhere; then rest."""
        seen, refused = -1, False
        while self._driving:
            self._poke.clear()
            limit = max(0, min(_BATCH, self._room))  # with none, it still tells what is new of those that move
            try:
                now, targets = self._parts.clock.now(), self._takes
                claims, wake = await self._store.claim(self._worker, now, limit=limit, targets=targets)
            except StoreUnavailable as error:
                refused = True
                await self._patience.wait(error)
                continue
            self._next_wake = wake if limit else self._own_wake()
            if refused:  # else it says nothing: a claim that finds nothing writes nothing, and a full disk allows it
                self._patience.over()
            refused = False
            self._take(claims)
            if not limit or len(claims) < limit:
                seen = await self._rest(seen)

    def _own_wake(self) -> float | None:
        """When the next timer of a run that moves is due; those of others wait until there is room."""
        now = self._parts.clock.now()
        wakes = [live.execution.wake_at() for live in self._live.values() if live.execution is not None]
        return min((wake for wake in wakes if wake is not None and wake > now), default=None)

    async def _rest(self, seen: int) -> int:
        """Until something was written, a timer is due, or this engine has reason to look."""
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._store.changed(seen)),
            asyncio.create_task(self._poke.wait()),
        ]
        if self._next_wake is not None:
            waits.append(asyncio.create_task(self._parts.clock.sleep_until(self._next_wake)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        changed = waits[0]
        if changed.cancelled() or changed.exception() is not None:
            return seen
        await self._pause(_QUIET)
        return changed.result()

    async def _pause(self, seconds: float) -> None:
        """Real seconds, also where the clock is manual: this bounds work, it is not time that anybody waits for."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = asyncio.get_running_loop().call_later(seconds, waiter.cancel)
        try:
            await asyncio.wait([waiter])
        finally:
            handle.cancel()

    @property
    def _takes(self) -> frozenset[str] | None:
        """The targets whose runs are taken: all, to park those whose code is not here, or those that are here."""
        return None if self._settings.others == "park" else self._parts.programs.targets()

    @property
    def _room(self) -> int:
        """How many more runs may move at once."""
        return self._settings.active - len(self._live) - len(self._backlog)

    def _drop(self, live: Live) -> None:
        """A run moves no more; another one may."""
        if self._live.get(live.run) is live:
            del self._live[live.run]
        was_full = self._room <= 1
        while self._backlog and len(self._live) < self._settings.active:
            self._take([self._backlog.popitem(last=False)[1]])
        if was_full:
            self._poke.set()

    def _take(self, claims: Iterable[Claim]) -> None:
        """Go on with runs that have something to do; those above the limit wait in line."""
        for claim in claims:
            run = claim.start.run
            claim = newer(claim, self._backlog.get(run))  # noqa: PLW2901 - what waits in line may know more
            if run not in self._live and len(self._live) >= self._settings.active:
                self._backlog[run] = claim
                continue
            self._backlog.pop(run, None)
            live = self._current(claim)
            if live is None:
                live = self._live[run] = Live(claim)
                live.note(claim)
                self._spawn(self._move(live, claim=claim), f"perdure-open-{run}")
                continue
            self._live[run] = live
            live.note(claim)
            if live.execution is not None and not live.busy:
                self._spawn(self._move(live), f"perdure-run-{run}")

    def _current(self, claim: Claim) -> Live | None:
        """The claimed run as it is here already, unless it has been moved on elsewhere or has begun anew."""
        live = self._live.get(claim.start.run)
        if live is not None and live.start.generation >= claim.start.generation:
            return live
        if live is None:
            live = self._cache.pop(claim.start.run, None)
            if live is None or live.stands_at(claim.seq, claim.start.generation):
                return live
        live.give_up()
        return None

    async def _open(self, live: Live, claim: Claim) -> bool:
        """Rebuild a run from its journal; ``False`` if it was parked instead."""
        try:
            start = live.start
            if live.refusals > 1:  # slower and slower, so that two who disagree for ever do not spin
                await self._pause(self._settings.pause * min(live.refusals, 60))
            if claim.takeovers >= self._settings.takeovers:
                info = ErrorInfo(
                    type=_POISON,
                    message=f"{claim.takeovers} workers died while they drove it: it is set aside, lest it kill more",
                )
                await self._park(live, info)
                return False
            # What a machine believed that was refused is to be looked up.
            fresh = start.session is None and claim.seq == 0 and not live.refusals
            loaded = Loaded() if fresh else await self._load(start.run)
            live.seq = len(loaded.entries)
            if loaded.entries:
                self._reports.reloaded(start, loaded.entries)
            live.begin(Execution(self._parts.programs, start, loaded), loaded.entries, self._parts.clock.now())
        except (NonDeterminism, UnknownName, PluginError) as error:
            await self._park(live, ErrorInfo.of(error))
            return False
        return True

    async def _load(self, run: str) -> Loaded:
        while True:
            try:
                return await self._store.load(run)
            except StoreUnavailable as error:
                await self._patience.wait(error)

    # -- moving a run

    async def _move(self, live: Live, command: Command | None = None, *, claim: Claim | None = None) -> None:
        """Open a run if it was claimed, attempt a step if there is one, settle what came of it, go on with the next.

        Whatever goes wrong beside the author's code: the run starts again from its journal, then parks.
        """
        try:
            if claim is not None and not await self._open(live, claim):
                return
            claim = None  # or it would be kept for as long as the run moves
            try:
                while True:
                    if command is not None:
                        await self._attempt(live, command)
                    command = await self._settle(live)
                    if command is None:
                        return
            except NonDeterminism as error:
                await self._park(live, ErrorInfo.of(error))
        except Exception as error:  # noqa: BLE001 - said in the docstring
            if live.gone:
                return
            _log.exception("run %s (%s) stumbled; it starts again from its journal", live.run, live.start.target)
            if live.refusals < _STUMBLES:
                self._reopen(live)
            else:
                await self._park(live, ErrorInfo.of(error))

    async def _attempt(self, live: Live, command: Command) -> None:
        """Attempt a step until it has an outcome or the code gives it up."""
        execution = live.execution
        if execution is None or command.path not in execution.pending:
            live.running.pop(command.path, None)
            return
        live.running[command.path] = asyncio.current_task()
        machine = execution.machine
        number = machine.attempts.get(command.path, 0) + 1
        tell = partial(self._beat, live, command)
        try:
            while True:
                began = self._parts.clock.now()
                if not (self._holds(live, began) or await self._is_ours(live)):
                    return
                before = Before(number, began, machine.heartbeats.get(command.path))
                entry, pause, seen = await attempt(self._parts, live.start, command, before, tell)
                if live.gone:
                    return
                if entry.value is not None:
                    machine.seen[command.path] = entry.value, seen
                live.complete(entry)
                if pause is None:
                    break
                self._spawn(self._move(live), f"perdure-run-{live.run}")
                await self._parts.clock.sleep_until(entry.at + pause)
                number += 1
        except asyncio.CancelledError:
            if live.gone or not self._driving:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # it was this attempt that was cancelled: the task goes on with the run
        finally:
            live.running.pop(command.path, None)

    async def _is_ours(self, live: Live) -> bool:
        """Before an attempt: whether the run is still held; while that is not certain, a commit of nothing tells.

        Who stood still for longer than the lease could commit no outcome, but would do again what is recorded by now.
        """
        while not self._holds(live, self._parts.clock.now()):
            if live.gone:
                return False
            while live.busy and not live.gone:
                await self._pause(_QUIET)  # somebody commits already, and learns of it
            if live.gone:
                return False
            live.busy = True
            try:
                commit = live.commit(Batch(), self._parts.clock.now(), unreported=False, limit=self._parts.max_payload)
                claims = await self._commit(live, commit)
            finally:
                live.busy = False
            if claims is None:
                return False
            self._take(claims)
            if live.has_arrivals:
                self._spawn(self._move(live), f"perdure-run-{live.run}")
        return True

    def _holds(self, live: Live, now: float) -> bool:
        """Whether the store is certain that the run is held here; it is told that this worker lives."""
        return self._store.tick(self._worker, now, run=live.run, epoch=live.epoch) and not live.gone

    def _beat(self, live: Live, command: Command, details: bytes) -> None:
        """An attempt has said how far it is."""
        if not live.gone and live.execution is not None:
            live.execution.machine.heartbeats[command.path] = details  # the next attempt may begin before it is fed
            live.complete(Entry("heartbeat", command.path, self._parts.clock.now(), command.name, value=details))
            self._spawn(self._move(live), f"perdure-run-{live.run}")

    async def _settle(self, live: Live) -> Command | None:
        """Feed and commit until nothing is left; return a step for the caller's own task.

        Raises:
            NonDeterminism: The code no longer fits its journal.
        """
        if live.busy or live.gone:
            return None
        live.busy = True
        steps: list[Command] = []
        try:
            while not live.gone and self._live.get(live.run) is live:  # what was released is not ours to move
                now = self._parts.clock.now()
                batch = live.collect(now) or (None if live.running else Batch(release=True))
                if batch is None:
                    break
                if batch.local and batch.may_wait and 0 < len(batch.entries) < _LOCAL:
                    steps += self._turn_to_steps(live, batch)
                    live.hold(batch)
                    continue
                if batch.entries or batch.must_be_written:
                    commit = live.commit(batch, now, unreported=self._reports.wanted, limit=self._parts.max_payload)
                    try:  # here and not in `_commit`: of coroutines, each step has enough
                        claims = await self._store.commit(commit, worker=self._worker)
                    except _REFUSALS as error:
                        claims = await self._commit(live, commit, error)
                    if claims is None or not self._written(live, batch, commit, claims):
                        return None
                steps += self._turn_to_steps(live, batch)
                if steps and live.rests:
                    break
        finally:
            live.busy = False
        own, *others = [command for command in steps if command.path in live.running] or [None]
        for command in others:
            self._spawn(self._move(live, command), f"perdure-run-{live.run}")
        return own

    def _turn_to_steps(self, live: Live, batch: Batch) -> list[Command]:
        """Cancel the steps that the code gave up; return those that it wants."""
        for command in batch.closed:
            task = live.running.get(command.path)
            if task is not None:
                task.cancel()  # it takes itself off
            else:
                live.running.pop(command.path, None)
        if live.suspending is not None:
            return []
        wanted = list(batch.opened.values()) if batch.plain else batch.wants("step")
        for command in wanted:
            live.running[command.path] = None
        return wanted

    def _written(self, live: Live, batch: Batch, commit: Commit, claims: Sequence[Claim]) -> bool:
        """A batch was committed; ``False`` if the run is no longer ours to move, or is done with for now."""
        self._patience.over()
        live.committed(batch)
        live.refusals = 0
        if self._reports.wanted:
            self._reports.committed(live.start, commit)
        if commit.wake_at is not None and (self._next_wake is None or commit.wake_at < self._next_wake):
            self._next_wake = commit.wake_at
            self._poke.set()
        if batch.outcome is not None or commit.status in HALTED:
            self._part_with(live, commit)
        elif not commit.active and live.epoch == commit.epoch and not live.has_arrivals:
            self._shelve(live)  # unless it was claimed anew while this was being written
        if batch.outcome is not None or commit.asks or not commit.active:
            self._tell(live, commit)
        if commit.asks:
            self._waiters.asked()
        if claims:
            self._take(claims)
        return not live.gone

    def _tell(self, live: Live, commit: Commit) -> None:
        """Tell those who wait for a run; of its end, so that they need not look at the store."""
        if live.run in self._waiters:
            self._waiters.tell(live.run, live.end(commit))

    def _part_with(self, live: Live, commit: Commit) -> None:
        """It is done with, unless an operator set it going and it was claimed anew while that was being written."""
        if live.epoch > commit.epoch and self._live.get(live.run) is live:
            self._reopen(live)
        else:
            live.give_up()
            self._drop(live)

    async def _commit(self, live: Live, commit: Commit, refusal: Exception | None = None) -> Sequence[Claim] | None:
        """Commit, after a refusal if there was one; ``None`` if the run starts again from what the store has."""
        while refusal is None or await self._may_try_again(live, commit, refusal):
            try:
                claims = await self._store.commit(commit, worker=self._worker)
            except _REFUSALS as error:
                refusal = error
            else:
                self._patience.over()
                return claims
        return None

    async def _may_try_again(self, live: Live, commit: Commit, refusal: Exception) -> bool:
        """Wait until the store can write, if that was all; else drop the machine."""
        if isinstance(refusal, StoreUnavailable):
            if not self._driving:
                raise refusal
            await self._patience.wait(refusal)
            return True
        if isinstance(refusal, LeaseLost):
            _log.info("run %s goes on elsewhere: %s", live.run, refusal)
            if live.epoch > commit.epoch:  # it came back to us under a newer claim
                self._reopen(live)
            else:
                live.give_up()
                self._drop(live)
            self._poke.set()
        else:
            _log.info("run %s is reloaded: %s", live.run, refusal)
            self._reopen(live)
        return False

    def _reopen(self, live: Live) -> None:
        claim = live.forget()
        live.give_up()
        fresh = Live(claim, refusals=live.refusals + 1)
        fresh.note(claim)
        self._live[live.run] = fresh
        self._spawn(self._move(fresh, claim=claim), f"perdure-open-{live.run}")

    async def _park(self, live: Live, error: ErrorInfo) -> None:
        """Set a run aside, visibly; if it is to be cancelled, it ends here, as its code cannot be run."""
        commit = live.parking(error, self._parts.clock.now(), unreported=self._reports.wanted)
        _log.error("run %s (%s) is %s: %s", live.run, live.start.target, commit.status, error)
        live.give_up()
        self._drop(live)
        claims = await self._commit(live, commit)
        if claims is not None:
            self._reports.committed(live.start, commit)
            self._waiters.tell(live.run)
            self._take(claims)

    def _shelve(self, live: Live) -> None:
        """A run that waits: its machine stays in the cache for as long as there is room."""
        self._cache[live.run] = live
        self._drop(live)
        while len(self._cache) > self._settings.cache:
            self._cache.popitem(last=False)[1].give_up()

    # -- odds and ends

    async def _retry_parked(self) -> None:
        """A fixed deployment resumes what was parked, unless that is known to be in vain."""
        parked, before, takes = RunFilter(status=("parked",)), None, self._takes
        while views := await self._store.runs(parked, before=before, limit=_BATCH):
            for view in views:
                mine = takes is None or view.target in takes
                if mine and (view.error is None or view.error.type not in _IN_VAIN):
                    key = f"resume-{self._worker}"
                    await self.deliver(Delivery(view.id, "resume", key, self._parts.clock.now()))
            before = views[-1].id

    async def _check_answer(self, delivery: Delivery) -> None:
        request = await self._store.request(delivery.key)
        if request is None:
            raise UnknownName("request", delivery.key, hint="it may belong to another store ([store-sqlite] path)")
        if request.status != "open":
            msg = f"request {delivery.key!r} is {request.status}: a request is answered once"
            raise RequestClosed(msg)
        problem = misfit(delivery.value or b"null", request.answer_schema)
        if problem:
            msg = f"the answer to request {delivery.key!r} does not fit: {problem}; the request stays open"
            raise InvalidInput(msg)

    def _tick(self) -> None:
        self._store.tick(self._worker, self._parts.clock.now())
        self._ticker = asyncio.get_running_loop().call_later(self._settings.tick, self._tick)

    def _driven(self, loop: asyncio.AbstractEventLoop) -> str | None:
        """The run whose code is being executed; asked by the watchdog, from its thread."""
        task = asyncio.current_task(loop)
        name = task.get_name() if task is not None else ""
        live = self._live.get(name.removeprefix("perdure-run-").removeprefix("perdure-open-"))
        return f"run {live.run!r} ({live.start.target})" if live is not None else None

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        if not self._driving:
            coroutine.close()
            return
        context = copy_context()  # one for both: each would make its own
        task = asyncio.get_running_loop().create_task(coroutine, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._done, context=context)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            _log.error("the engine failed in %s", task.get_name(), exc_info=error)
