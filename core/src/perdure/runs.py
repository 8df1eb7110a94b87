"""``Run``: what whoever started a run, or looks after it, can do with it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from perdure import encoding
from perdure.errors import RunActive, RunCancelled, RunFailed, RunParked
from perdure.messages import Delivery, ErrorInfo, Inquiry, RunFilter, Start

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.messages import Entry, RunView
    from perdure.runtime import Runtime

T_co = TypeVar("T_co", covariant=True)

_PAGE = 1000


class Run(Generic[T_co]):
    """A run or turn that was accepted: it goes on whether or not anybody waits for it.

    Attributes:
        id: Its id.
        new: Whether the call that returned this made it, rather than finding it under its key or id.
    """

    def __init__(self, runtime: Runtime, id_: str, decode: Callable[[bytes], Any], *, new: bool = True) -> None:
        self.id = id_
        self.new = new
        self._runtime = runtime
        self._decode = decode

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def on(self, runtime: Runtime) -> Run[T_co]:
        """The same run, looked at through another runtime."""
        return Run(runtime, self.id, self._decode, new=self.new)

    # -- waiting and looking

    async def result(self, timeout: float | None = None) -> T_co:
        """Wait until it has finished; return its result.

        Args:
            timeout: Seconds; afterwards ``TimeoutError`` is raised and the run goes on.

        Raises:
            RunFailed: It failed; ``error`` says with what.
            RunCancelled: It was cancelled or terminated.
            RunParked: It was set aside until its code is fixed.
        """
        view = await self._runtime.engine.wait(self.id, timeout=timeout)
        if view.status == "completed":
            return self._decode(encoding.encode(view.result, Any, "a recorded result"))
        error = view.error or ErrorInfo(type="unknown")
        if view.status == "failed":
            raise RunFailed(self.id, error)
        if view.status in {"cancelled", "terminated"}:
            msg = f"run {self.id!r} was {view.status}: {error.message or 'no reason given'}"
            raise RunCancelled(msg)
        if view.status == "parked":
            raise RunParked(self.id, error)
        msg = f"run {self.id!r} is still {view.status} after {timeout:g} s; it goes on"
        raise TimeoutError(msg)

    async def wait(self, timeout: float | None = None, *, until_waiting: bool = False) -> RunView:
        """Wait until it has finished or is parked (or, on demand, waits for an answer); at most ``timeout`` seconds.

        Whatever became of it is in the view; nothing is raised for a failed run.
        """
        return await self._runtime.engine.wait(self.id, timeout=timeout, until_waiting=until_waiting)

    async def view(self) -> RunView:
        """It as it stands. Raises ``UnknownName``."""
        return await self._runtime.view(self.id)

    async def journal(self) -> list[Entry]:
        """Its whole history, oldest first. Raises ``UnknownName``."""
        entries: list[Entry] = []
        while page := await self._runtime.query.journal(self.id, after=len(entries), limit=_PAGE):
            entries += page
        return entries

    # -- talking to its code

    async def send(self, event: str, payload: object = None, *, key: str | None = None) -> bool:
        """Send it an event; returns when it is safe, ``False`` if it was so before, under the same key.

        Args:
            event: The event's name.
            payload: What JSON can carry.
            key: Idempotency key: the same one twice is one event.

        Raises:
            RunActive: It has finished.
            UnknownName, NotEncodable: No such run; no such payload.
        """
        data = self._runtime.encoded(payload, f"the payload of event {event!r}")
        return await self._deliver("event", key or secrets.token_hex(8), data, name=event)

    async def query(self, name: str, /, **arguments: Any) -> Any:
        """Ask its code, which set up the answer with ``ctx.on_query``; nothing is changed or recorded.

        Raises ``UnknownName``, ``InvalidInput``, ``CallFailed`` with what the handler raised.
        """
        data = self._runtime.encoded(arguments, f"the input of query {name!r}")
        return encoding.decode(await self._runtime.engine.inquire(Inquiry(self.id, "query", name, data)), Any, name)

    async def update(
        self, name: str, /, *, key: str | None = None, timeout: float | None = None, **arguments: Any
    ) -> Any:
        """Have its code do something that it set up with ``ctx.on_update``; wait for the answer.

        Args:
            name: Of the handler.
            key: Idempotency key: the same one twice is one update, with one answer.
            timeout: Seconds; afterwards ``TimeoutError`` is raised and the update stands.
            **arguments: The handler's.

        Raises:
            UpdateRejected: Its validator refused.
            RunActive: It has finished.
            UnknownName, CallFailed: No such handler; it failed.
        """
        data = self._runtime.encoded(arguments, f"the input of update {name!r}")
        inquiry = Inquiry(self.id, "update", name, data, key or secrets.token_hex(8))
        return encoding.decode(await self._runtime.engine.inquire(inquiry, timeout=timeout), Any, name)

    # -- looking after it

    async def cancel(self, reason: str = "") -> None:
        """Ask it to stop; its clean-up code still runs."""
        await self._ask_for("cancel", reason)

    async def terminate(self, reason: str = "") -> None:
        """End it at once: none of its code runs again. Its unfinished children are told as their ``on_close`` says."""
        await self._ask_for("terminate", reason)

    async def suspend(self, reason: str = "") -> None:
        """Set it aside: what runs may finish, nothing new begins, what arrives waits.

        Raises ``RunActive`` if it has finished.
        """
        await self._ask_for("suspend", reason, needs_life=True)

    async def resume(self) -> None:
        """Let it go on, if it is suspended or parked. Raises ``RunActive`` if it is neither."""
        await self._deliver("resume", f"resume-{secrets.token_hex(8)}", None)

    async def retry(self, *, at: int | None = None) -> None:
        """Let a finished run go on from the step that failed: everything recorded before it stays.

        A called run that failed is retried with it; what its end had called off, requests and called runs, is asked for
        again, so let these finish their clean-up first. A run that failed in its own code, not in a step or call, is
        replayed to that place, which helps once the code is another.

        Args:
            at: Go on from this place of its journal instead: so many entries are kept.

        Raises:
            RunActive: It has not finished.
        """
        entries = await self.journal()
        failed = at if at is not None else _failed(entries)
        generation = (await self.view()).generation
        for entry in entries[failed:]:
            if entry.kind == "call" and entry.error is not None:
                await self._retry_child(f"~{generation}:{entry.path}" if generation else entry.path)
        await self._runtime.engine.upkeep.rewind(self.id, failed, at=self._runtime.clock.now())

    async def fork(self, *, at: int, id: str | None = None) -> Run[T_co]:
        """Begin another run whose first ``at`` journal entries are this one's; from there it goes its own way.

        Steps after that place run again, in the new run, under other idempotency keys.
        """
        view = await self.view()
        start = Start(
            run=id or f"run_{secrets.token_hex(16)}",
            kind=view.kind,
            target=view.target,
            input=encoding.encode(view.input, Any, "the input"),
            at=self._runtime.clock.now(),
            session=view.session and f"{view.session}-{secrets.token_hex(4)}",
            headers=view.headers,
            tags=view.tags,
            version=view.version,
        )
        accepted = await self._runtime.engine.upkeep.fork(self.id, at, start)
        return Run(self._runtime, accepted.run, self._decode, new=accepted.new)

    async def _retry_child(self, path: str) -> None:
        before: str | None = None
        while page := await self._runtime.query.runs(RunFilter(parent=self.id), before=before):
            for child in page:
                if child.path == path and child.finished and child.status != "completed":
                    await self._runtime.handle(child.id).retry()
            before = page[-1].id

    async def _ask_for(
        self, kind: Literal["cancel", "terminate", "suspend"], reason: str, *, needs_life: bool = False
    ) -> None:
        data = encoding.encode(reason, str, "the reason")
        await self._deliver(kind, f"{kind}-{secrets.token_hex(8)}", data, tolerant=not needs_life)

    async def _deliver(
        self,
        kind: Literal["event", "cancel", "terminate", "suspend", "resume"],
        key: str,
        value: bytes | None,
        *,
        name: str = "",
        tolerant: bool = False,
    ) -> bool:
        delivery = Delivery(self.id, kind, key, self._runtime.clock.now(), value, name=name)
        accepted = await self._runtime.engine.deliver(delivery)
        view = None if accepted.new or tolerant else await self.view()
        if view is not None and (view.finished or kind == "resume"):
            asked = "send an event to" if kind == "event" else kind
            msg = f"run {self.id!r} is {view.status}: there is nothing to {asked}"
            raise RunActive(msg)
        return accepted.new


def _failed(entries: list[Entry]) -> int:
    """Where what ended a run stands in its journal: the last failure, or the cancellation; else its end."""
    for place in range(len(entries) - 1, -1, -1):
        entry = entries[place]
        if entry.kind == "cancel" or (entry.kind in {"step", "call"} and entry.error is not None):
            return place
    return len(entries)
