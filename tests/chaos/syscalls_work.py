"""The work that is disturbed: a script of store calls, its own witness, and what each call leaves in the file.

A process of its own (``syscalls_nest.py``) works through the script and writes a line for each call that it begins,
that is acknowledged, that is refused. ``syscalls.py`` lets the system answer it with a kill or an error, and holds the
file against the witness afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from perdure.errors import CommitConflict, LeaseLost, StoreUnavailable, StoreUnusable
from perdure.messages import AgentId, Commit, Delivery, Entry, Request, Start
from perdure_store_sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from perdure.messages import Accepted, Claim

    Act = Callable[["Worker"], Awaitable[object]]
    Fact = Callable[["SqliteStore"], Awaitable[bool]]

LIFE = 40  # seconds after which the process says where it hangs, and ends
TRIES = 4
STUCK = "locking protocol"
"""What SQLite says, after ten seconds each time, once it could not let go of a lock."""
GAVE_UP = 3
"""The exit code of a process whose call was refused to the end."""

Ending = Literal["go on", "die"]
"""What the process does after a refusal: try again, or kill itself at once."""

Synchronous = Literal["full", "normal"]
Word = Literal["begin", "done", "refused", "end"]
SESSION = AgentId("app.agent", "s")
LARGE = b'"' + b"x" * 100_000 + b'"'


class Line(NamedTuple):
    """A line of the witness: what happened to a call of the script, in which words."""

    word: Word
    call: str
    text: str = ""


class Call(NamedTuple):
    """A call of the script.

    Attributes:
        name: Unique.
        act: Does it. Done again after a refusal, it does what is left to do.
        facts: What it leaves in the file: all of them or none. Later calls undo none.
    """

    name: str
    act: Act
    facts: tuple[Fact, ...] = ()


class Worker:
    """Works on a store's file under one name, and knows what it holds."""

    def __init__(self, path: Path, synchronous: Synchronous = "full") -> None:
        self.path = path
        self.store = SqliteStore(path, synchronous=synchronous, lease=3600.0, busy_timeout=0.3)
        self._epochs: dict[str, int] = {}

    async def claim(self) -> None:
        """Take what there is to do."""
        claims, _ = await self.store.claim("w", 0.0)
        self._note(claims)

    async def accept(self, *items: Start | Delivery) -> None:
        accepted, claims = await self.store.accept(items, worker="w")
        self._note(claims)
        _expect(accepted, items)

    async def commit(self, run: str, seq: int, *entries: Entry, **fields: Any) -> None:
        if run not in self._epochs:
            await self.claim()
        commit = Commit(run=run, epoch=self._epochs.get(run, 0), seq=seq, at=0.0, entries=entries, **fields)
        try:
            self._note(await self.store.commit(commit, worker="w"))
        except LeaseLost:
            self._epochs.pop(run, None)  # what was accepted to be held may not be: a claim says so
            raise

    async def checkpoint(self) -> None:
        """Move the log into the database beside the store, as a backup does; the store then begins the log anew."""
        try:
            with closing(sqlite3.connect(self.path, timeout=0.3, isolation_level=None)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error

    async def read(self) -> None:
        await self.store.load("b")
        await self.store.runs()

    async def leave(self) -> None:
        await self.store.leave("w")

    async def close(self) -> None:
        await self.store.close()

    def _note(self, claims: Iterable[Claim]) -> None:
        self._epochs.update((claim.start.run, claim.epoch) for claim in claims)


def _expect(accepted: Iterable[Accepted], items: Iterable[Start | Delivery]) -> None:
    assert [each.run for each in accepted] == [item.run for item in items]


# -- facts -------------------------------------------------------------------------------------------------------


def there(run: str) -> Fact:
    async def look(store: SqliteStore) -> bool:
        return await store.run(run) is not None

    return look


def recorded(run: str, seq: int, value: bytes) -> Fact:
    async def look(store: SqliteStore) -> bool:
        if not await there(run)(store):
            return False
        entries = await store.journal(run, after=seq, limit=1)
        return bool(entries) and entries[0].value == value

    return look


def completed(run: str, result: object) -> Fact:
    async def look(store: SqliteStore) -> bool:
        view = await store.run(run)
        return view is not None and view.status == "completed" and view.result == result

    return look


def asked(request: str, *status: str) -> Fact:
    async def look(store: SqliteStore) -> bool:
        view = await store.request(request)
        return view is not None and view.status in status

    return look


def said(text: bytes) -> Fact:
    async def look(store: SqliteStore) -> bool:
        return text in await store.log(SESSION)

    return look


def remembered(state: bytes) -> Fact:
    async def look(store: SqliteStore) -> bool:
        return await there("t2")(store) and (await store.load("t2")).state == state

    return look


# -- the script --------------------------------------------------------------------------------------------------


def _start(run: str, *, large: bool = False, **fields: Any) -> Start:
    given: dict[str, Any] = {"kind": "workflow", "target": "app.flow", "key": run, **fields}
    return Start(run=run, input=LARGE if large else b"{}", at=0.0, **given)


def _accept(*starts: Start) -> Call:
    name = f"accept {' '.join(start.run for start in starts)}"
    return Call(name, lambda worker: worker.accept(*starts), tuple(there(start.run) for start in starts))


def _commit(
    run: str, seq: int, *values: bytes, facts: Iterable[Fact] = (), name: str = "commit", **fields: Any
) -> Call:
    entries = [
        Entry(kind="step", path=f"0/s#{n}", at=0.0, name="s", value=value) for n, value in enumerate(values, seq)
    ]
    each = [recorded(run, n, value) for n, value in enumerate(values, seq)]
    return Call(f"{name} {run} {seq}", lambda worker: worker.commit(run, seq, *entries, **fields), (*each, *facts))


def _end(run: str, seq: int, *values: bytes, facts: Iterable[Fact] = (), **fields: Any) -> Call:
    given: dict[str, Any] = {"status": "completed", "active": False, "value": b'"%s"' % run.encode(), **fields}
    return _commit(run, seq, *values, facts=[completed(run, run), *facts], **given)


_ASK = Request(id="q", run="a", path="0/q#0", prompt="Well?", schema={}, at=0.0)
_ANSWER = Delivery(run="a", kind="answer", key="q", at=0.0, value=b'"yes"')
_REPLY = Delivery(run="a", kind="reply", key="0/k#0", at=0.0, value=b'"k"')
_TURN: dict[str, Any] = {"kind": "turn", "target": str(SESSION.type), "session": SESSION.key}

LIVES: tuple[tuple[tuple[Call, ...], ...], ...] = (
    (
        (Call("claim 1", Worker.claim),),
        (_accept(_start("a")),),
        (_accept(_start("b")), _accept(_start("c", large=True), _start("d")), _accept(_start("t1", **_TURN))),
        (_commit("a", 0, b"0"),),
        (_commit("a", 1, b"1", b"2"), _commit("b", 0, b"0"), _commit("c", 0, LARGE), _accept(_start("t2", **_TURN))),
        (
            _commit(
                "a",
                3,
                name="ask",
                facts=[asked("q", "open", "answered"), there("k")],
                asks=(_ASK,),
                starts=(_start("k", parent="a", path="0/k#0"),),
                status="waiting",
                active=False,
            ),
            _end("t1", 0, b"0", log=(b'"one"', b'"two"'), state=b"{}", facts=[said(b'"one"'), remembered(b"{}")]),
        ),
        (Call("answer q", lambda worker: worker.accept(_ANSWER), (asked("q", "answered"),)),),
        (_commit("a", 3, b'"yes"', consumed=(("q", 3),)), _commit("b", 1, b"1"), Call("read", Worker.read)),
        (Call("leave 1", Worker.leave),),
        (Call("close 1", Worker.close),),
    ),
    (
        (Call("claim 2", Worker.claim),),
        (_commit("b", 2, b"2"), _accept(_start("e"))),
        (Call("checkpoint", Worker.checkpoint),),
        (_commit("c", 1, b"1"), _end("t2", 0, b"0", log=(b'"three"',), facts=[said(b'"three"')])),
        (_end("k", 0, b"0", deliveries=(_REPLY,)),),
    ),
    (
        (Call("claim 3", Worker.claim),),
        (_end("a", 4, b'"k"', consumed=(("0/k#0", 4),)), _commit("b", 3, b"3")),
        (_end("b", 4),),
        (Call("leave 3", Worker.leave),),
        (Call("close 3", Worker.close),),
    ),
)
"""What one process after the other does: the first makes the file and closes it, the second moves the log into the
database on the way and dies, the third finds what a dead one leaves. Calls that stand together are made together.
"""

CALLS = {call.name: call for life in LIVES for group in life for call in group}
LENGTHS = {"a": 5, "b": 4, "c": 2, "d": 0, "e": 0, "k": 1, "t1": 1, "t2": 1}
"""How long the journals are in the end."""
LOG = [b'"one"', b'"two"', b'"three"']


async def present(call: Call, store: SqliteStore) -> list[bool]:
    """Which of a call's facts are in the file."""
    return [await fact(store) for fact in call.facts]


async def done_by(call: Call, worker: Worker) -> None:
    """Make a call; what turns out to be done already is done."""
    try:
        await call.act(worker)
    except (CommitConflict, LeaseLost):  # it was written when its outcome was not known
        if not call.facts or not all(await present(call, worker.store)):
            raise


async def finish(worker: Worker, make: Callable[[Call, Worker], Awaitable[None]] = done_by) -> None:
    """Do what is not done yet, one call after the other."""
    await worker.claim()
    for call in CALLS.values():
        if call.facts and not all(await present(call, worker.store)):
            await make(call, worker)


# -- the process -------------------------------------------------------------------------------------------------


class Witness:
    """Writes its lines at once: they outlive the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, line: Line) -> None:
        os.write(self._file, f"{json.dumps(line)}\n".encode())


def witnessed(path: Path) -> list[Line]:
    """What a process wrote until it died."""
    return [Line(*json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


class Refused(Exception):
    """A call was refused to the end."""


async def _insist(call: Call, worker: Worker, *, witness: Witness, ending: Ending) -> None:
    witness.write(Line("begin", call.name))
    for _ in range(TRIES):
        try:
            await done_by(call, worker)
        except (StoreUnavailable, StoreUnusable, LeaseLost) as error:
            witness.write(Line("refused", call.name, str(error)))
            if STUCK in str(error):  # only another process can go on
                break
            if ending == "die":
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            witness.write(Line("done", call.name))
            return
    raise Refused(call.name)


async def work(life: int, worker: Worker, witness: Witness, ending: Ending) -> None:
    """Do one life's calls, or after the last what is left; end the process at once where it is not let through."""
    insist = partial(_insist, witness=witness, ending=ending)
    if life == len(LIVES):
        await finish(worker, insist)
    for groups in LIVES[life : life + 1]:
        await _live(groups, worker, insist)
    witness.write(Line("end", ""))
    os._exit(0)  # what was not closed stays so


async def _live(groups: Iterable[tuple[Call, ...]], worker: Worker, insist: Callable[..., Awaitable[None]]) -> None:
    for group in groups:
        for outcome in await asyncio.gather(*(insist(call, worker) for call in group), return_exceptions=True):
            if isinstance(outcome, Refused):
                os._exit(GAVE_UP)  # as a crash, with a code that tells it from one: nothing is closed
            if isinstance(outcome, BaseException):
                raise outcome
