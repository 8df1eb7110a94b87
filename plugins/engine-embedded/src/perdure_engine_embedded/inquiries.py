"""Questions to the code of a run: queries, which only look, and updates, which are recorded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pydantic_core import to_json

from perdure.errors import CallFailed, PerdureError, RunActive, UnknownName, UpdateRejected
from perdure.execution import Execution
from perdure.messages import Delivery, ErrorInfo, Start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure.messages import Accepted, Inquiry, RunView
    from perdure.ports import Clock, DurableStore, Programs

_PAGE: Final = 1000


async def query(
    store: DurableStore, programs: Programs, inquiry: Inquiry, live: Callable[[RunView], Execution | None]
) -> bytes:
    """Answer from the live code, or from code that is brought to where the journal stands, and dropped again."""
    view = await _view(store, inquiry.run)
    if (execution := live(view)) is not None:
        return _asked(execution, inquiry)
    loaded = await store.load(inquiry.run)
    fresh = Execution(programs, start_of(view), loaded)
    try:
        fresh.begin(loaded.entries)
        return _asked(fresh, inquiry)
    finally:
        fresh.close()


def _asked(execution: Execution, inquiry: Inquiry) -> bytes:
    try:
        return execution.query(inquiry.name, inquiry.value)
    except PerdureError:
        raise
    except Exception as error:
        raise CallFailed(inquiry.name, ErrorInfo.of(error)) from error


async def update(
    store: DurableStore,
    deliver: Callable[[Delivery], Awaitable[Accepted]],
    inquiry: Inquiry,
    clock: Clock,
    timeout: float | None,
) -> bytes:
    """Hand an update to the run's inbox; return what the journal says became of it."""
    run = inquiry.run
    seen = (await _view(store, run)).seq
    delivery = Delivery(run, "update", inquiry.key, clock.now(), inquiry.value, name=inquiry.name)
    if not (await deliver(delivery)).new:
        seen = 0  # it was there before, and may be answered already
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            return await _outcome(store, inquiry, seen)
    except TimeoutError:
        if not scope.expired():
            raise
        msg = (
            f"update {inquiry.name!r} of run {run!r} is accepted, and not yet answered after {timeout:g} s; ask again"
            f" with the same key ({inquiry.key!r})"
        )
        raise TimeoutError(msg) from None


async def _outcome(store: DurableStore, inquiry: Inquiry, seen: int) -> bytes:
    path, counter = f"update:{inquiry.key}", -1
    while True:
        view = await _view(store, inquiry.run)  # before the journal: what it says of the end is then in there
        while entries := await store.journal(inquiry.run, after=seen, limit=_PAGE):
            seen += len(entries)
            for entry in entries:
                if entry.path == path and entry.kind in {"updated", "rejected"}:
                    return _told(inquiry, entry.kind, entry.value, entry.error)
        if view.finished:
            msg = f"run {inquiry.run!r} is {view.status}: it ended before it took update {inquiry.name!r}"
            raise RunActive(msg)
        counter = await store.changed(counter)


def _told(inquiry: Inquiry, kind: str, value: bytes | None, error: bytes | None) -> bytes:
    if error is None:
        return value or b"null"
    info = ErrorInfo.model_validate_json(error)
    if kind == "updated":
        raise CallFailed(inquiry.name, info)
    if info.type == "perdure.errors.UnknownName":
        hint = info.message.partition("; ")[2]
        raise UnknownName("update", inquiry.name, hint=hint)
    msg = f"run {inquiry.run!r} refused update {inquiry.name!r}: {info}"
    raise UpdateRejected(msg)


async def _view(store: DurableStore, run: str) -> RunView:
    view = await store.run(run)
    if view is None:
        raise UnknownName("run", run, hint="'perdure runs' lists them")
    return view


def start_of(view: RunView) -> Start:
    """What a run was started with, as its view shows it."""
    return Start(
        run=view.id,
        kind=view.kind,
        target=view.target,
        input=to_json(view.input),
        at=view.created,
        session=view.session,
        key=view.key,
        parent=view.parent,
        path=view.path,
        ancestry=view.ancestry,
        headers=view.headers,
        tags=view.tags,
        version=view.version,
        generation=view.generation,
    )
