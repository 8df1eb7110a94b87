"""Two stores that are told the same, a model and another one: they must answer the same, and show the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from perdure.errors import PerdureError
from perdure.messages import AgentId, Claim, Delivery, RunFilter, Start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure.messages import Commit, Reported, RunView
    from perdure.ports import DurableStore
    from perdure.testing.clock import ManualClock
    from perdure.testing.store_facts import Stores
    from perdure.testing.stores import MemoryStore

T = TypeVar("T")

ALL: Final = 10_000
"""More than there ever is."""


@dataclass
class Held:
    """A run that a worker holds: the claim that the model gave and the one that the store gave."""

    worker: str
    model: Claim
    store: Claim


@dataclass
class Twins:
    """The two, and what is known from their answers. Raises ``AssertionError`` where they part.

    Attributes:
        clock: The time, of both.
        model: The one that is right.
        stores: Opens the other one.
        lease: Seconds.
        workers: Those that are alive.
        held: What they hold, by run.
        stale: What they, or others, held once.
        epochs: The last one of each run in the other store.
        runs: With what each was started.
        asked: Which run asked each request.
        told: What both were told, for people.
    """

    clock: ManualClock
    model: MemoryStore
    stores: Stores
    lease: float
    workers: list[str] = field(default_factory=list[str])
    held: dict[str, Held] = field(default_factory=dict[str, Held])
    stale: list[tuple[str, Held]] = field(default_factory=list[tuple[str, "Held"]])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    runs: dict[str, Start] = field(default_factory=dict[str, Start])
    asked: dict[str, str] = field(default_factory=dict[str, str])
    told: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.store: DurableStore = self.stores.open()

    # -- telling ------------------------------------------------------------------------------------------------

    async def both(self, what: str, call: Callable[[DurableStore], Awaitable[T]]) -> tuple[T, T] | None:
        """Make the same call to both; both must refuse it for the same reason, or neither."""
        return await self.each(what, lambda: call(self.model), lambda: call(self.store))

    async def each(
        self, what: str, model: Callable[[], Awaitable[T]], store: Callable[[], Awaitable[T]]
    ) -> tuple[T, T] | None:
        """``both``, for calls that differ."""
        self.told.append(what)
        right, refusal = await _outcome(model)
        found, other = await _outcome(store)
        assert type(other) is type(refusal), f"{refusal!r} was expected, not {other!r}"
        return None if refusal is not None or right is None or found is None else (right[0], found[0])

    def take(self, worker: str, claims: Sequence[Claim], found: Sequence[Claim]) -> None:
        """Both gave claims to a worker."""
        wrong, right = _apart(_shown(found), _shown(claims))
        assert not wrong, f"{wrong!r} was given"
        assert not right, f"{right!r} was not given"
        assert len(found) == len(claims), f"{_shown(found)!r} were given, some of them twice"
        mine = {claim.start.run: claim for claim in found}
        for claim in claims:
            run, given = claim.start.run, mine[claim.start.run]
            again = run in self.held and self.held[run].worker == worker
            assert given.epoch == self.epochs[run] if again else given.epoch > self.epochs.get(run, 0)
            self.epochs[run] = given.epoch
            self.held[run] = Held(worker, claim, given)
            self.runs[run] = claim.start

    async def accept(self, items: Sequence[Start | Delivery | Reported], worker: str | None) -> None:
        """Have both take something, on behalf of a worker or of nobody."""
        what = f"accept({items!r}, worker={worker!r})"
        answers = await self.both(what, lambda store: store.accept(items, worker=worker))
        if answers is None:
            return
        (accepted, claims), (found, given) = answers
        assert list(found) == list(accepted)
        for item in items:
            if isinstance(item, Start):
                self.runs.setdefault(item.run, item)
        self.take(worker or "", claims, given)

    async def claim(self, worker: str, targets: frozenset[str] | None = None) -> None:
        """A worker asks for what there is to do, of these targets."""
        now = self.clock.now()
        what = f"claim({worker!r}, targets={sorted(targets) if targets is not None else None})"
        answers = await self.both(what, lambda store: store.claim(worker, now, limit=ALL, targets=targets))
        assert answers is not None
        (claims, _), (given, due) = answers
        self.take(worker, claims, given)
        assert due is None or due > now, f"woken at {due!r}, at once, with all taken that there is"
        waiting = await self.model.runs(RunFilter(status=("waiting",)), limit=ALL)
        wanted = [view for view in waiting if targets is None or view.target in targets]
        later = [view.wake_at for view in wanted if view.id not in self.held]
        timers = [when for when in later if when is not None and when > now]
        assert not timers or (due is not None and due <= min(timers)), f"woken at {due!r}, after {min(timers)!r}"

    async def committed(
        self, worker: str, commit: Commit, held: Held
    ) -> tuple[Sequence[Claim], Sequence[Claim]] | None:
        """Have both write it, each under its own epoch."""
        other = commit._replace(epoch=held.store.epoch - held.model.epoch + commit.epoch)
        return await self.each(
            f"commit({commit!r}, worker={worker!r})",
            lambda: self.model.commit(commit, worker=worker),
            lambda: self.store.commit(other, worker=worker),
        )

    def tick(self) -> None:
        """All workers are alive."""
        for worker in self.workers:
            self.model.tick(worker, self.clock.now())
            self.store.tick(worker, self.clock.now())

    # -- looking ------------------------------------------------------------------------------------------------

    async def compare(self, which: RunFilter, sessions: Sequence[AgentId]) -> None:
        """Everything that the stores show is the same."""
        for each in (RunFilter(), which):
            await self.same(f"runs({each!r})", lambda store, which=each: store.runs(which, limit=ALL), _listed)
        await self.same("requests", lambda store: store.requests(limit=ALL))
        await self.same("unreported", lambda store: store.unreported(limit=ALL), _listed)
        for session in sessions:
            await self.same(f"log({session!r})", lambda store, session=session: store.log(session), list)
        for request in self.asked:
            await self.same(f"request({request!r})", lambda store, id=request: store.request(id))
        for view in await self.model.runs(limit=ALL):
            await self.same(f"run({view.id!r})", lambda store, id=view.id: store.run(id), _steady)
            await self.same(f"load({view.id!r})", lambda store, id=view.id: store.load(id))

    async def same(
        self, what: str, look: Callable[[DurableStore], Awaitable[T]], as_: Callable[[Any], Any] = lambda seen: seen
    ) -> None:
        """Both show the same."""
        right, found = as_(await look(self.model)), as_(await look(self.store))
        if isinstance(right, list) and found != right:
            found, right = _differences(found, cast("list[Any]", right))
        assert found == right, f"{what} shows {found!r}, not {right!r}"


async def _outcome(call: Callable[[], Awaitable[T]]) -> tuple[tuple[T] | None, PerdureError | None]:
    try:
        return (await call(),), None
    except PerdureError as error:
        return None, error


def _shown(claims: Sequence[Claim]) -> list[Any]:
    """What a worker sees of claims, but for what is a store's own: epochs, and in which words it calls off children."""
    shown = [
        (claim.start.run, claim.start, claim.seq, [_plain(item) for item in claim.inbox], claim.takeovers)
        for claim in claims
    ]
    return sorted(shown, key=lambda item: item[0])


def _apart(found: list[T], right: list[T]) -> tuple[list[T], list[T]]:
    """What is in one list and not in the other."""
    return [item for item in found if item not in right], [item for item in right if item not in found]


def _differences(found: list[Any], right: list[Any]) -> tuple[list[Any], list[Any]]:
    """The same, or the whole lists, where they differ in their order alone."""
    parts = _apart(found, right)
    return parts if any(parts) else (found, right)


def _plain(delivery: Delivery) -> Delivery:
    return delivery._replace(value=None) if delivery.key in {"cancel", "terminate"} else delivery


def _steady(view: RunView) -> RunView:
    """A view without what is a store's own: by what a run that is pending waits until it is due."""
    return view.model_copy(update={"wake_at": None}) if view.status == "pending" else view


def _listed(views: Sequence[RunView]) -> list[RunView]:
    return sorted((_steady(view) for view in views), key=lambda view: view.id)
