"""A host's store: serves workers that have none, accepts events for durable agents, remembers which of them there are.

A worker's id belongs to the session that used it first, until that is over. What a session leaves behind is not given
up in its name: its workers show no life any more, so that others take over after a lease, and know that one has died.
(A run that kills one worker after the other is set aside because these deaths are counted.) Who leaves in good order
says so itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

from perdure.errors import InvalidInput, NotPermitted, PayloadTooLarge, PerdureError, StoreUnavailable
from perdure.messages import AgentId, Claim, Commit, Delivery, RunFilter, Start
from perdure_hosting import store_wire, wire
from perdure_hosting.carrier import permits
from perdure_hosting.standing import Roll, Standing, read, written
from perdure_hosting.store_wire import BEAT, Beat, Packed, Pulse
from perdure_hosting.wire_pb2 import Frame
from perdure_messaging.inbox import routing_of, turn_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from perdure.messages import Presence
    from perdure.ports import Clock, DurableStore
    from perdure_hosting.router import Acceptance, Member, Router

_log: Final = logging.getLogger("perdure.hosting")

ROLL: Final = "~host.roll"
"""The target of the run whose input says which durable agents there are. It is never due: nobody takes it."""

_NEVER: Final = 32503680000.0
"""The year 3000."""

_AT_ONCE: Final = 4096
"""Calls of one session that are served at once; further ones stay in its window, so that it can soon ask no more."""

_LIVING: Final = frozenset({"claim", "commit"})
"""Who does this is known to the store, and alive."""

_WORKERS: Final = 1000
"""Worker ids of one session."""

_PAUSE: Final = 1.0
"""Seconds between attempts to write what is to stand."""

_ROOM: Final = 4096
"""Bytes of a frame besides its payload."""


class _Counter:
    """What one session has under way.

    Attributes:
        calls: Its calls that are being served, by its number of each.
        waiting: How many of them stand in its window still.
        workers: Its worker ids.
        news: Set when there are claims that it was not told of.
    """

    def __init__(self) -> None:
        self.calls: dict[int, asyncio.Task[None]] = {}
        self.workers: set[str] = set()
        self.news = asyncio.Event()


class StoreHost:
    """Fills ``Desk`` over a store.

    Args:
        store: Where everything durable lies; whoever gave it closes it.
        router: Whose.
        clock: The time.
        lease: Seconds after which the store takes a worker that shows no life for dead.
    """

    def __init__(self, store: DurableStore, router: Router, clock: Clock, *, lease: float) -> None:
        self._store = store
        self._router = router
        self._clock = clock
        self._lease = lease
        self._roll = Roll(router.routes)
        self._sessions: dict[str, _Counter] = {}
        self._owners: dict[str, Member] = {}
        self._untold: dict[str, dict[str, Claim]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: set[asyncio.Task[int]] = set()
        self._writing = asyncio.Lock()
        self._worker = f"host_{secrets.token_hex(8)}"
        self._stopped = False

    # -- coming and going

    async def start(self) -> None:
        """Know again which durable agents there are. Raises ``StoreUnavailable``, ``StoreUnusable``."""
        newest = await self._store.runs(RunFilter(target=ROLL), limit=1)
        found = await self._store.run(newest[0].id) if newest else None
        if found is not None and not found.finished:  # unless somebody has ended it, to have them forgotten
            self._roll.stand(read(found.input))

    async def stop(self) -> None:
        """Serve no more: let finish what writes, a second at most; the rest is called off."""
        self._stopped = True
        for task in list(self._looking):
            task.cancel()  # without an answer: who looks for changes is to look again at the next host
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=1.0)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def lost(self, member: Member) -> None:
        """A session is over: its workers belong to nobody. What it had asked to be written is written."""
        self._roll.gone(member.name)
        session = self._sessions.pop(member.name, None)
        if session is not None:
            session.news.set()  # nobody looks for changes any more
            for worker in session.workers:
                del self._owners[worker]
                self._untold.pop(worker, None)

    # -- events for durable agents

    def keeps(self, type_: str) -> bool:
        """Whether agents of this type stand."""
        return type_ in self._roll.standing

    def kept(self) -> Iterable[str]:
        """The types that do."""
        return self._roll.standing

    def accept(self, frame: Frame, agents: Sequence[AgentId], acceptance: Acceptance) -> None:
        """Make turns of an event; all of them or none."""
        self._spawn(self._accept(frame, agents, acceptance))

    async def _accept(self, frame: Frame, agents: Sequence[AgentId], acceptance: Acceptance) -> None:
        try:
            if self._stopped:
                raise _stopping()  # noqa: TRY301 - one place tells the publisher
            await self._store.accept(_turns(frame, agents, self._clock.now()))
        except Exception as error:  # noqa: BLE001 - whatever it is, the publisher must not take it for accepted
            self._router.settle(acceptance, error)
        else:
            self._router.settle(acceptance)

    # -- which durable agents there are

    def announced(self, member: Member, presence: Presence, call: int) -> None:
        """Say that it is in force once what is to stand is written."""
        self._roll.announced(member.name, presence)
        if self._roll.due() == self._roll.standing:
            member.put(wire.note(Frame.DONE, call))
        else:
            self._spawn(self._announced(member, call))

    async def _announced(self, member: Member, call: int) -> None:
        await self._settled()
        member.put(wire.note(Frame.DONE, call))

    async def _settled(self) -> None:
        """Return when what is to stand stands, and is written."""
        async with self._writing:
            while (due := self._roll.due()) != self._roll.standing:
                try:
                    await self._write(due)
                except StoreUnavailable as error:
                    _log.warning("which durable agents there are cannot be written: %s; it is tried again", error)
                    await self._clock.sleep_until(self._clock.now() + _PAUSE)
                else:
                    self._roll.stand(due)

    async def _write(self, due: dict[str, Standing]) -> None:
        now = self._clock.now()
        run = f"roll_{secrets.token_hex(16)}"
        start = Start(run, "workflow", ROLL, written(due), now, due=_NEVER, on_close="abandon")
        await self._store.accept([start])
        try:
            await self._forget_others(run)
        except PerdureError as error:
            _log.info("what stood before is kept until the next change: %s", error)

    async def _forget_others(self, run: str) -> None:
        """End what was written before; a crash leaves it to the next time, for the newest one counts."""
        store, now, targets = self._store, self._clock.now(), frozenset({ROLL})
        old = [view for view in await store.runs(RunFilter(target=ROLL)) if view.id != run and not view.finished]
        if old:
            await store.claim(self._worker, now, limit=0, targets=targets)  # the store knows it from here on
            ends = [Delivery(view.id, "terminate", "replaced", now) for view in old]
            _, claims = await store.accept(ends, worker=self._worker)
            for claim in claims:
                consumed = tuple((each.key, -1) for each in claim.inbox)
                end = Commit(claim.start.run, claim.epoch, claim.seq, now, consumed=consumed, status="terminated")
                await store.commit(end._replace(active=False), worker=self._worker)
            await store.leave(self._worker)
        await store.purge(RunFilter(target=ROLL, status=("terminated",)))

    # -- calls of workers

    def begin(self, member: Member, frame: Frame, size: int) -> None:
        """Serve a call; it is taken over at once, unless there are too many already."""
        session = self._sessions.setdefault(member.name, _Counter())
        late = len(session.calls) >= _AT_ONCE
        if not late:
            member.link.took(size)
        task = self._spawn(self._serve(member, session, frame, size if late else 0))
        if frame.call:
            session.calls[frame.call] = task

    def cancel(self, member: Member, call: int) -> None:
        """Call off what is being served."""
        session = self._sessions.get(member.name)
        task = session.calls.get(call) if session is not None else None
        if task is not None:
            task.cancel()

    async def _serve(self, member: Member, session: _Counter, frame: Frame, size: int) -> None:
        call = frame.call
        try:
            packed = await self._answer(member, session, frame)
            raw = Frame(kind=Frame.REPLY, call=call, content=packed.content, payload=packed.data).SerializeToString()
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker hears of it
            raw = store_wire.failure(call, error)
        finally:
            session.calls.pop(call, None)
            if size:
                member.link.took(size)
        member.put(raw)

    async def _answer(self, member: Member, session: _Counter, frame: Frame) -> Packed:
        if not member.principal.stores:
            msg = f"{member.principal.name!r} may not use this host's store: it needs 'may_store' there"
            raise NotPermitted(msg)
        if self._stopped:
            raise _stopping()
        method, packed = frame.target_key, Packed(frame.payload, frame.content)
        if method == BEAT:
            return await self._beat(member, session, store_wire.beat_of(packed))
        arguments = store_wire.unpack_arguments(method, packed)
        worker = arguments.get("worker")
        if worker is not None:
            self._own(member, session, worker)
        if method == "claim":
            await self._check_targets(member, arguments.get("targets"))
        if method == "changed":
            looking = asyncio.ensure_future(self._changed(session, **arguments))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)
            return store_wire.pack_result(method, await looking)
        result = await getattr(self._store, method)(**arguments)
        if worker is not None and method in _LIVING:
            self._store.tick(worker, self._clock.now())
        return self._fitting(member, method, result, worker)

    async def _check_targets(self, member: Member, targets: frozenset[str] | None) -> None:
        """Whoever takes turns from the store tells which agents' messages belong there."""
        may = member.principal.may_host
        others = [] if "*" in may else sorted(each for each in targets or ("*",) if not permits(may, each))
        if others:
            msg = (
                f"{member.principal.name!r} may not take the runs of {others!r}; it may host {list(may)!r}: have its"
                ' engine leave others to others ([engine-embedded] others = "leave")'
            )
            raise NotPermitted(msg)
        if self._roll.serves(targets):
            await self._settled()

    async def _beat(self, member: Member, session: _Counter, beat: Beat) -> Packed:
        now, store = self._clock.now(), self._store
        for worker in (*beat.workers, *beat.left):
            self._own(member, session, worker)
        for worker in beat.left:  # at once, so that it comes before what the session asks for next
            await store.leave(worker)
        lost: list[tuple[str, int]] = []
        for worker, runs in beat.workers.items():
            store.tick(worker, now)
            lost += [(run, epoch) for run, epoch in runs if not store.tick(worker, now, run=run, epoch=epoch)]
        return Packed(Pulse(lease=self._lease, lost=lost).model_dump_json().encode(), store_wire.TEXT)

    async def _changed(self, session: _Counter, seen: int) -> int:
        looking = asyncio.ensure_future(self._store.changed(seen))
        news = asyncio.ensure_future(session.news.wait())
        try:
            await asyncio.wait((looking, news), return_when=asyncio.FIRST_COMPLETED)
            if not looking.done():
                session.news.clear()
                return seen - 1
            return looking.result()
        finally:
            looking.cancel()
            news.cancel()

    def _own(self, member: Member, session: _Counter, worker: str) -> None:
        owner = self._owners.get(worker)
        if owner is None:
            if len(session.workers) >= _WORKERS:
                msg = f"more than {_WORKERS} workers in one session: leave with those that are not needed any more"
                raise InvalidInput(msg)
            self._owners[worker] = member
            session.workers.add(worker)
        elif owner is not member:
            msg = f"worker {worker!r} is another session's: only {owner.name!r} may act in its name"
            raise NotPermitted(msg)

    # -- answers that are too large

    def _fitting(self, member: Member, method: str, result: Any, worker: str | None) -> Packed:
        """A result as it fits into a frame. What a worker holds and is not told of yet, it is told of by a claim."""
        claims = store_wire.claims_of(method, result)
        if worker in self._untold and method == "claim":
            untold, news = self._untold.pop(worker), {claim.start.run for claim in claims}
            claims = [*(claim for run, claim in untold.items() if run not in news), *claims]
            result = store_wire.with_claims(method, result, claims)
        limit = member.link.max_frame - _ROOM
        packed = store_wire.pack_result(method, result)
        while len(packed.data) > limit:
            if not claims or worker is None:
                msg = (
                    f"what the store's {method!r} returns has {len(packed.data)} bytes, more than the {limit} that the"
                    " host's setting 'max_frame' allows: ask for less, or raise it"
                )
                raise PayloadTooLarge(msg)
            claims = self._half(member, claims, worker)
            packed = store_wire.pack_result(method, store_wire.with_claims(method, result, claims))
        return packed

    def _half(self, member: Member, claims: Sequence[Claim], worker: str) -> Sequence[Claim]:
        """Of these claims the first half; the worker is told of the others later."""
        told, later = claims[: len(claims) // 2], claims[len(claims) // 2 :]
        if not told:
            (claim,) = later
            _log.error(
                "run %s (%s) is larger than the setting 'max_frame' of this host allows (%d bytes), so worker %s"
                " cannot go on with it: raise it, and start the host again",
                *(claim.start.run, claim.start.target, member.link.max_frame, worker),
            )
            return told
        self._untold.setdefault(worker, {}).update((claim.start.run, claim) for claim in later)
        session = self._sessions.get(member.name)
        if session is not None:
            session.news.set()
        return told

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _turns(frame: Frame, agents: Sequence[AgentId], now: float) -> list[Start]:
    """The turns that an event is for these agents; of one without a key, that in which its code says who gets it.

    Raises:
        InvalidInput: Its payload is no JSON, though it says so.
        UsageError: It has no payload of bytes.
    """
    if frame.content == wire.JSON:
        try:
            from_json(frame.payload or b"null")
        except ValueError as error:
            msg = f"message {frame.type!r} is no JSON, as its media type says: {error}"
            raise InvalidInput(msg) from error
    envelopes = (wire.envelope_of(frame, agent) for agent in agents)
    made = ((each, turn_of if each.target and each.target.key else routing_of) for each in envelopes)
    return [make(envelope, at=now) for envelope, make in made]


def _stopping() -> StoreUnavailable:
    return StoreUnavailable("the host stops: try again with the next one")
