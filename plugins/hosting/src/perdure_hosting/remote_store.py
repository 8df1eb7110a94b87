"""``RemoteStore``: the store of a host, for a worker that has none. Its calls travel over a session of their own.

What may be repeated is, until it is answered: over another carrier of the session by the link, over another session by
this module. A commit that was under way when its session ended may have been written or not. Either way this worker
holds the run no more, for a new session begins by giving up all that was held in the old one; so the engine hears
``LeaseLost``, and finds out by loading the run when it gets it again.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import ValidationError

from perdure.errors import DeadlineExceeded, LeaseLost, Overloaded, StoreUnavailable, WorkerLost
from perdure.messages import TERMINAL, AgentId, Claim, Commit, Envelope
from perdure.ports import DurableStore
from perdure_hosting import store_wire, wire
from perdure_hosting.connection import Connection, Introduction
from perdure_hosting.deadlines import Deadlines
from perdure_hosting.errors import HostUnreachable
from perdure_hosting.handlers import Handlers
from perdure_hosting.peer import Peer
from perdure_hosting.settings import WorkerSettings
from perdure_hosting.store_wire import BEAT, TARGET, Beat, Packed, Pulse
from perdure_hosting.wire_pb2 import Frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from perdure.ports import Clock
    from perdure_hosting.carrier import Dial
    from perdure_hosting.link import Link

_FAREWELL: Final = 1.0
"""Seconds that a store which is closed gives its host to hear of it."""

_SURE: Final = 0.75
"""The part of a lease for which a worker relies on what its host has confirmed; the rest is for the way there."""

_BEATS: Final = 5
"""Signs of life in a lease."""

_PAUSE: Final = 0.2
"""Seconds between two looks for changes at a host that cannot look at present."""

_ONCE: Final = frozenset({"commit", "rewind"})
"""What does not come to the same when it is done twice."""


class _Sure(NamedTuple):
    """What a worker relies on.

    Attributes:
        since: When it said the last time that it is alive, and was heard (UTC seconds).
        lease: Seconds.
    """

    since: float
    lease: float

    def at(self, now: float) -> bool:
        """Whether it is certain still."""
        return 0 <= now - self.since < self.lease * _SURE


class RemoteStore(DurableStore):
    """Fills ``DurableStore``. It connects by the first call, and again after each break.

    Args:
        dial: Makes a carrier to the host.
        clock: The time.
        settings: How; ``name``, ``address`` and ``direct`` mean nothing here.
        closing: Called when the store was closed, to let go of what ``dial`` has.
    """

    def __init__(
        self,
        dial: Dial,
        clock: Clock,
        settings: WorkerSettings | None = None,
        *,
        closing: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        settings = settings or WorkerSettings()
        self._clock = clock
        self._closing = closing
        self._deadlines = Deadlines(clock)
        self._peer = Peer("the host", clock, self._deadlines, Handlers(1), patience=settings.patience)
        self._connection = Connection(self._peer, dial, clock, retry=settings.retry)
        self._connection.me = Introduction(f"store-{secrets.token_hex(8)}")
        self._connection.opened, self._connection.lost = self._opened, self._lost
        self._running: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._again = self._closed = False
        self._news = asyncio.Event()
        self._held: dict[str, tuple[str, int]] = {}  # by run: worker and epoch
        self._sure: dict[str, _Sure] = {}  # by worker: those that have claimed
        self._ticked: dict[str, float] = {}  # by worker: its last sign of life that the host is to hear of
        self._left: set[str] = set()
        self._untold: dict[str, dict[str, Claim]] = {}
        self._lease = 1.0  # until the host says more
        self._beaten = 0.0

    # -- what is not carried as it is

    def tick(self, worker: str, now: float, *, run: str = "", epoch: int = 0) -> bool:  # noqa: ARG002 - see below
        """See ``ports.Store.tick``. By this store's clock, for what it is compared with was taken from that."""
        moment = self._clock.now()
        sure = self._sure.get(worker)
        if sure is None:
            return False
        self._ticked[worker] = moment
        if self._peer.open and not 0 <= moment - self._beaten < self._lease / _BEATS:
            self._beaten = moment
            self._spawn(self._beat())
        return sure.at(moment) and self._held.get(run) == (worker, epoch)

    async def leave(self, worker: str) -> None:
        """See ``ports.Store.leave``. Without a connection the host is told by the next one, or by silence."""
        if self._sure.pop(worker, None) is None:
            return
        self._untold.pop(worker, None)
        for run in [run for run, (holder, _) in self._held.items() if holder == worker]:
            del self._held[run]
        self._left.add(worker)
        if self._peer.open:
            packed = store_wire.pack_arguments("leave", {"worker": worker})
            try:
                await self._asked_once("leave", packed, until=self._clock.now() + _FAREWELL)
            except (StoreUnavailable, WorkerLost, DeadlineExceeded):
                return
            self._left.discard(worker)

    async def close(self) -> None:
        """See ``ports.Store.close``."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        self._peer.closed(_closed())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._connection.leave("the store is closed")
        if self._running is not None:
            if self._peer.line is not None:
                await asyncio.wait({self._running}, timeout=_FAREWELL)
            self._running.cancel()
            await asyncio.wait({self._running})
        await self._deadlines.stop()
        if self._closing is not None:
            await self._closing()

    # -- calls

    async def _call(self, method: str, arguments: dict[str, Any]) -> Any:
        packed, worker = store_wire.pack_arguments(method, arguments), arguments.get("worker")
        if method == "changed":
            return await self._changed(arguments["seen"], packed)
        if worker is None:
            return store_wire.unpack_result(method, await self._asked(method, packed))
        # In a task of its own: a caller that goes away must not take along what this worker has been given.
        call = self._spawn(self._worked(method, arguments, packed, worker))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            call.add_done_callback(partial(self._in_vain, method, worker))
            raise

    async def _worked(self, method: str, arguments: dict[str, Any], packed: Packed, worker: str) -> Any:
        """A call in a worker's name: what it holds afterwards is noted."""
        sent = self._clock.now()
        try:
            result = store_wire.unpack_result(method, await self._asked(method, packed))
        except LeaseLost:
            commit = arguments.get("commit")
            if commit is not None and self._held.get(commit.run) == (worker, commit.epoch):
                del self._held[commit.run]
            raise
        if method == "claim":
            result = self._with_untold(worker, result)
        if method == "claim" or worker in self._sure:
            self._confirm(worker, sent, method)
        commit = arguments.get("commit")
        if isinstance(commit, Commit):
            if commit.active and commit.status not in TERMINAL:
                self._held[commit.run] = worker, commit.epoch
            else:
                self._held.pop(commit.run, None)
        for claim in store_wire.claims_of(method, result):
            self._held[claim.start.run] = worker, claim.epoch
        return result

    async def _changed(self, seen: int, packed: Packed) -> int:
        """Wait for a change at the host, or for what only this process knows to be one."""
        looking = self._spawn(self._looked(packed))
        news = self._spawn(self._news.wait())
        try:
            await asyncio.wait((looking, news), return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                return looking.result()
            self._check_open()
            self._news.clear()
            return seen - 1  # as any other number: look
        finally:
            looking.cancel()
            news.cancel()

    async def _looked(self, packed: Packed) -> int:
        while True:
            try:
                return store_wire.unpack_result("changed", await self._asked("changed", packed))
            except StoreUnavailable:  # for as long as it takes: who waits for a change waits for that, too
                self._check_open()
                await self._clock.sleep_until(self._clock.now() + _PAUSE)

    async def _asked(self, method: str, packed: Packed) -> Packed:
        """The answer of the host."""
        while True:
            try:
                answer = await self._asked_once(method, packed)
            except WorkerLost as error:
                self._check_open()
                if method in _ONCE:
                    msg = f"the session with the host's store ended during a {method!r}: look what became of it"
                    raise (LeaseLost(msg) if method == "commit" else StoreUnavailable(msg)) from error
                continue
            if answer is not None:
                return answer

    async def _asked_once(self, method: str, packed: Packed, until: float | None = None) -> Packed | None:
        """The host's answer, or ``None``: it was not asked. Raises ``WorkerLost``: nobody knows whether it was."""
        self._begin()
        envelope = Envelope("", "request", AgentId(TARGET, method), "", packed.data, content=packed.content)
        try:
            answer = await self._peer.ask(envelope, until=until)
        except (Overloaded, HostUnreachable) as error:
            raise self._unreached(error) from error
        if answer is not None and answer.kind == Frame.ERROR:
            raise store_wire.error_of(answer)
        return None if answer is None else Packed(answer.payload, answer.content)

    # -- what a worker holds

    def _confirm(self, worker: str, since: float, method: str) -> None:
        """The host has heard that it is alive, as of then: by a claim or a commit, or a beat."""
        known = self._sure.get(worker)
        if method in {"claim", "commit", BEAT} and (known is None or since > known.since or not known.at(since)):
            self._sure[worker] = _Sure(since, self._lease)

    def _in_vain(self, method: str, worker: str, call: asyncio.Task[Any]) -> None:
        """Its caller is gone, but its worker holds what it was given: the next claim tells of it."""
        if call.cancelled() or call.exception() is not None:
            return
        claims = store_wire.claims_of(method, call.result())
        if claims and worker in self._sure:
            self._untold.setdefault(worker, {}).update((claim.start.run, claim) for claim in claims)
            self._news.set()

    def _with_untold(self, worker: str, result: Any) -> Any:
        untold = self._untold.pop(worker, None)
        if not untold:
            return result
        claims = store_wire.claims_of("claim", result)
        for claim in claims:
            untold.pop(claim.start.run, None)
        still = [each for run, each in untold.items() if self._held.get(run) == (worker, each.epoch)]
        return store_wire.with_claims("claim", result, [*still, *claims])

    async def _beat(self) -> None:
        sent, ticked, self._ticked = self._clock.now(), self._ticked, {}
        recent = (worker for worker, moment in ticked.items() if sent - moment < self._lease / _BEATS)
        workers: dict[str, list[tuple[str, int]]] = {worker: [] for worker in recent if worker in self._sure}
        for run, (worker, epoch) in self._held.items():
            if worker in workers:
                workers[worker].append((run, epoch))
        left = self._left.copy()
        try:
            beat = Beat(workers=workers, left=sorted(left))
            answer = await self._asked(BEAT, Packed(beat.model_dump_json().encode(), store_wire.TEXT))
            pulse = Pulse.model_validate_json(answer.data)
        except (StoreUnavailable, ValidationError):
            return  # it is not certain any more, and the next one may get through
        self._left -= left
        self._lease = pulse.lease
        for worker in workers.keys() & self._sure.keys():
            self._confirm(worker, ticked[worker], BEAT)
        for run, epoch in pulse.lost:
            if self._held.get(run, ("", 0))[1] == epoch:
                del self._held[run]

    # -- the connection

    def _begin(self) -> None:
        self._check_open()
        if self._running is None or self._running.done():
            connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._connection.run(connected))
            self._running.add_done_callback(partial(self._refused, connected))

    def _refused(self, connected: asyncio.Future[None], running: asyncio.Task[None]) -> None:
        """The host takes nobody like this; what waits for it ends with that. The next call tries again."""
        error = None if running.cancelled() else running.exception()
        if error is None and connected.done() and not connected.cancelled():
            error = connected.exception()
        connected.cancel()
        if isinstance(error, Exception) and not self._closed:
            self._peer.closed(error)
            self._lost()

    def _opened(self, link: Link) -> None:
        """A session begins. What was held in another one is given up, before anything else is said."""
        workers = self._left | self._sure.keys()
        self._let_go()
        if workers:
            beat = Beat(left=sorted(workers)).model_dump_json().encode()
            give_up = Envelope("", "request", AgentId(TARGET, BEAT), "", beat, content=store_wire.TEXT)
            link.put(wire.framed(give_up, 0), counted=True)
            self._left.clear()
        self._peer.renewed(link)
        if self._again:
            self._news.set()  # another host may count changes anew, or what was held is there to be claimed
        self._again = True

    def _lost(self) -> None:
        self._let_go()
        self._peer.lost()

    def _let_go(self) -> None:
        """What was held is held no more, and so is nothing that was not told of."""
        self._left |= self._sure.keys()
        self._sure = dict.fromkeys(self._sure, _Sure(float("-inf"), 0.0))
        self._held.clear()
        self._untold.clear()

    def _unreached(self, error: Exception) -> StoreUnavailable:
        failure = self._connection.failure
        return StoreUnavailable(f"the host's store: {error}" + (f"; the last attempt: {failure}" if failure else ""))

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it is the caller's, who may have gone


def remote_store(
    dial: Dial, clock: Clock, settings: WorkerSettings, *, closing: Callable[[], Awaitable[None]]
) -> DurableStore:
    """Make a ``RemoteStore``, which has all methods of the port, though no type checker sees where it gets them."""
    made: Any = RemoteStore
    return made(dial, clock, settings, closing=closing)


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the host's store was closed here: open another one")


def _carried(method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """What carries the calls of one method."""
    declared = getattr(DurableStore, method)
    signature = inspect.signature(declared)

    @wraps(declared)
    async def call(self: RemoteStore, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(self, *args, **kwargs).arguments
        del arguments["self"]
        return await self._call(method, arguments)  # pyright: ignore[reportPrivateUsage]

    return call


for _method in store_wire.methods() - vars(RemoteStore).keys():
    setattr(RemoteStore, _method, _carried(_method))
