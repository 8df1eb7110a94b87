"""A file with very many runs, made fast and through the store's public port alone.

Three runs are run for real, over a store that takes down what they commit; the rest are copies of these: the same
start and the same commits under other ids. So it is whatever the engine and the store write today.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.benchmarks import subject

from perdure.execution import derived_id, step_key
from perdure.messages import Commit, Start
from perdure_store_sqlite import SqliteStore, schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure import Run, Runtime
    from perdure.messages import Claim

WAITING: Final = 10
"""One run in so many waits for an answer; one in a hundred sleeps; the others have completed."""
_SLEEPING: Final = 100
_BATCH: Final = 2000
_WORKER: Final = "worker_copies"
_SOME_DAY: Final = 1_780_000_000.0  # UTC; any time before now would do
_SOON: Final = 30 * 86400.0


class Template(NamedTuple):
    """What a run was started with, and all its commits as one."""

    start: Start
    commit: Commit


class Copies:
    """The file.

    Attributes:
        folder: Where it lies, as the data folder of a runtime.
        seconds: How long it took to make; 0 if it was there.
    """

    def __init__(self, cache: Path, count: int) -> None:
        templates = asyncio.run(_templates())
        print_ = _print_of(templates)
        self.folder = cache / f"{count}-runs-{print_}"
        self.seconds = 0.0
        if not (self.folder / "complete").exists():
            for old in cache.glob(f"{count}-runs-*"):
                shutil.rmtree(old)
            began = time.perf_counter()
            self.folder.mkdir(parents=True)
            asyncio.run(_fill(self.folder, count, templates))
            (self.folder / "complete").touch()
            self.seconds = time.perf_counter() - began


def run_id(number: int) -> str:
    """The id of a copy: as little in order as real ones."""
    return f"run_{blake2b(number.to_bytes(8), digest_size=16).hexdigest()}"


def waits(number: int) -> bool:
    """Whether that copy waits for an answer."""
    return number % WAITING == 1


def request_id(run: str, path: str) -> str:
    """The id that the engine gives to a request: what it does not ask for by that id, it does not listen to."""
    return derived_id("req", step_key(Start(run, "workflow", "", b"", 0), path))


def tags(number: int) -> dict[str, str]:
    """The tags of a copy: a hundred shelves."""
    return {"shelf": f"s{number % 100}"}


def born(number: int, count: int) -> float:
    """When a copy was asked for: one every ten seconds, until some day."""
    return _SOME_DAY - (count - number) * 10.0


class _Recorder:
    """A store that takes down what passes; everything else is the store's below."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.starts: dict[str, Start] = {}
        self.commits: dict[str, list[Commit]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def accept(self, items: Sequence[Any], **kwargs: Any) -> Any:
        self.starts |= {item.run: item for item in items if isinstance(item, Start)}
        return await self._store.accept(items, **kwargs)

    async def commit(self, commit: Commit, **kwargs: Any) -> Sequence[Claim]:
        claims = await self._store.commit(commit, **kwargs)
        self.commits.setdefault(commit.run, []).append(commit)
        return claims


async def _templates() -> list[Template]:
    """A run that completes, one that waits for an answer, one that sleeps."""
    with tempfile.TemporaryDirectory() as folder:
        recorder: Any = _Recorder(SqliteStore(Path(folder) / "perdure.db"))
        async with subject.opened(Path(folder), recorder) as runtime:
            runs: list[Run[Any]] = [
                await runtime.start(subject.steps, 2),
                await runtime.start(subject.parked, 0),
                await runtime.start(subject.sleeper, 0, time.time() + _SOON),
            ]
            await runs[0].result()
            await runs[1].wait(60, until_waiting=True)
            await _asleep(runtime, runs[2])
        await recorder.close()
    templates = [Template(recorder.starts[run.id], _joined(recorder.commits[run.id])) for run in runs]
    for template in templates:
        for ask in template.commit.asks:
            assert ask.id == request_id(ask.run, ask.path), "the engine makes the ids of requests in another way"
    return templates


async def _asleep(runtime: Runtime, run: Run[Any]) -> None:
    async with asyncio.timeout(60):
        while (await run.view()).wake_at is None:
            await runtime.clock.sleep_until(runtime.clock.now() + 0.01)


def _joined(commits: list[Commit]) -> Commit:
    """One commit that does what these did: lists go on, of everything else the last counts."""
    joined = commits[0]
    for commit in commits[1:]:
        pairs = zip(joined, commit, strict=True)
        values = [one + other if isinstance(one, tuple) else other for one, other in pairs]
        joined = Commit._make(values)._replace(epoch=joined.epoch, seq=joined.seq)
    return joined


async def _fill(folder: Path, count: int, templates: Sequence[Template]) -> None:
    # A file that power loss may take is no loss here.
    store = SqliteStore(folder / "perdure.db", synchronous="normal")
    await store.claim(_WORKER, time.time())
    for first in range(0, count, _BATCH):
        store.tick(_WORKER, time.time())
        numbers = range(first, min(first + _BATCH, count))
        chosen = [(run_id(number), number, templates[_kind(number)]) for number in numbers]
        starts = [
            _start(template.start, run, number)._replace(at=born(number, count)) for run, number, template in chosen
        ]
        _, claims = await store.accept(starts, worker=_WORKER)
        epochs = {claim.start.run: claim.epoch for claim in claims}
        commits = [_commit(template.commit, run, epochs[run]) for run, _, template in chosen]
        await asyncio.gather(*(store.commit(commit, worker=_WORKER) for commit in commits))
    await store.leave(_WORKER)
    await store.close()


def _kind(number: int) -> int:
    return 1 if waits(number) else 2 if number % _SLEEPING == 0 else 0


def _start(start: Start, run: str, number: int) -> Start:
    given = json.loads(start.input)
    if "token" in given:
        given["token"] = number
    return start._replace(run=run, input=json.dumps(given).encode(), tags=tags(number))


def _commit(commit: Commit, run: str, epoch: int) -> Commit:
    asks = tuple(ask._replace(run=run, id=request_id(run, ask.path)) for ask in commit.asks)
    return commit._replace(run=run, epoch=epoch, asks=asks)


def _print_of(templates: Sequence[Template]) -> str:
    """Changes with the tables, and with what the engine writes into them."""
    shapes = [
        (
            template.start._fields,
            template.commit._fields,
            [(entry._fields, entry.kind, entry.path, entry.fingerprint) for entry in template.commit.entries],
        )
        for template in templates
    ]
    print_ = schema.MIGRATIONS, shapes, request_id("run", "path")
    return blake2b(repr(print_).encode(), digest_size=6).hexdigest()
