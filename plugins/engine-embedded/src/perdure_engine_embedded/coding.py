"""A store whose payloads pass through codecs on their way in and out.

A coded payload is stored as JSON (``{"$coded": "<base64>"}``), so that stores and their tools need not know.
What was written before a codec was installed is read as it is.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from perdure.messages import Accepted, Claim, Delivery, Loaded, Reported, Start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import AgentId, Commit, Entry, RequestView, RunFilter, RunView
    from perdure.ports import Codec, DurableStore

_MARK: Final = b'{"$coded":"'


class CodedStore:
    """Fills ``perdure.ports.DurableStore`` over another one."""

    def __init__(self, store: DurableStore, codecs: Sequence[Codec]) -> None:
        self._store = store
        self._codecs = codecs

    async def accept(
        self, items: Sequence[Start | Delivery | Reported], *, worker: str | None = None
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        accepted, claims = await self._store.accept([self._item(item) for item in items], worker=worker)
        return accepted, [self._claim(claim) for claim in claims]

    async def claim(
        self, worker: str, now: float, *, limit: int = 256, targets: frozenset[str] | None = None
    ) -> tuple[Sequence[Claim], float | None]:
        claims, wake = await self._store.claim(worker, now, limit=limit, targets=targets)
        return [self._claim(claim) for claim in claims], wake

    async def load(self, run: str) -> Loaded:
        loaded = await self._store.load(run)
        return Loaded(
            tuple(self._read_entry(entry) for entry in loaded.entries),
            tuple(self._in(item) for item in loaded.log),
            self._maybe_in(loaded.state),
        )

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        coded = commit._replace(
            entries=tuple(entry._replace(value=self._maybe_out(entry.value)) for entry in commit.entries),
            starts=tuple(start._replace(input=self._out(start.input)) for start in commit.starts),
            deliveries=tuple(d._replace(value=self._maybe_out(d.value)) for d in commit.deliveries),
            log=tuple(self._out(item) for item in commit.log),
            state=self._maybe_out(commit.state),
            value=self._maybe_out(commit.value),
        )
        return [self._claim(claim) for claim in await self._store.commit(coded, worker=worker)]

    async def changed(self, seen: int) -> int:
        return await self._store.changed(seen)

    def tick(self, worker: str, now: float, *, run: str = "", epoch: int = 0) -> bool:
        return self._store.tick(worker, now, run=run, epoch=epoch)

    async def leave(self, worker: str) -> None:
        await self._store.leave(worker)

    async def close(self) -> None:
        await self._store.close()

    async def run(self, run: str) -> RunView | None:
        view = await self._store.run(run)
        if view is None:
            return None
        return view.model_copy(update={"input": self._json(view.input), "result": self._json(view.result)})

    async def runs(
        self, which: RunFilter | None = None, *, before: str | None = None, limit: int = 50
    ) -> Sequence[RunView]:
        return await self._store.runs(which, before=before, limit=limit)

    async def journal(self, run: str, *, after: int = 0, limit: int = 1000) -> Sequence[Entry]:
        return [self._read_entry(entry) for entry in await self._store.journal(run, after=after, limit=limit)]

    async def requests(self, *, run: str | None = None, limit: int = 50) -> Sequence[RequestView]:
        return await self._store.requests(run=run, limit=limit)

    async def request(self, request: str) -> RequestView | None:
        return await self._store.request(request)

    async def log(self, session: AgentId) -> Sequence[bytes]:
        return [self._in(item) for item in await self._store.log(session)]

    async def unreported(self, *, limit: int = 100) -> Sequence[RunView]:
        return await self._store.unreported(limit=limit)

    async def rewind(self, run: str, seq: int, *, at: float) -> None:
        await self._store.rewind(run, seq, at=at)

    async def fork(self, run: str, seq: int, start: Start) -> Accepted:
        return await self._store.fork(run, seq, start._replace(input=self._out(start.input)))

    async def purge(self, which: RunFilter, *, limit: int = 1000) -> int:
        return await self._store.purge(which, limit=limit)

    # -- the codecs

    def _out(self, payload: bytes) -> bytes:
        for codec in self._codecs:
            payload = codec.encode(payload)
        return _MARK + b64encode(payload) + b'"}'

    def _in(self, payload: bytes) -> bytes:
        if not payload.startswith(_MARK):
            return payload
        data = b64decode(payload[len(_MARK) : -2])
        for codec in reversed(self._codecs):
            data = codec.decode(data)
        return data

    def _maybe_out(self, payload: bytes | None) -> bytes | None:
        return None if payload is None else self._out(payload)

    def _maybe_in(self, payload: bytes | None) -> bytes | None:
        return None if payload is None else self._in(payload)

    def _json(self, value: Any) -> Any:
        data = to_json(value)
        return from_json(self._in(data)) if data.startswith(_MARK) else value

    def _item(self, item: Start | Delivery | Reported) -> Start | Delivery | Reported:
        if isinstance(item, Start):
            return item._replace(input=self._out(item.input))
        if isinstance(item, Delivery):
            return item._replace(value=self._maybe_out(item.value))
        return item

    def _claim(self, claim: Claim) -> Claim:
        return claim._replace(
            start=claim.start._replace(input=self._in(claim.start.input)),
            inbox=tuple(d._replace(value=self._maybe_in(d.value)) for d in claim.inbox),
        )

    def _read_entry(self, entry: Entry) -> Entry:
        return entry._replace(value=self._maybe_in(entry.value))
