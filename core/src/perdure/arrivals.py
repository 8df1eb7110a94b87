"""What reaches code without its having asked: events, updates, queries.

Events are kept, by name and in order, until code takes them. An update runs its handler in a branch of its own; what
it answers leaves the machine as a record. A query looks at the code as it stands.
"""

from __future__ import annotations

import asyncio
import inspect
from contextvars import Context as Variables, copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure import encoding
from perdure._machine import Command
from perdure.errors import UnknownName
from perdure.messages import Delivery, ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure._machine import Machine
    from perdure.messages import Entry


class _Handler(NamedTuple):
    fn: Callable[..., Any]
    validate: Callable[..., object] | None


class Arrivals:
    """The events, updates and queries of one live execution."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Queue[Entry]] = {}
        self._queries: dict[str, Callable[..., Any]] = {}
        self._updates: dict[str, _Handler] = {}

    # -- for the code

    async def event(self, name: str) -> bytes:
        """The payload of the next event of that name."""
        entry = await self._events.setdefault(name, asyncio.Queue()).get()
        return entry.value or b"null"

    def answer_queries(self, fn: Callable[..., Any]) -> None:
        """Answer queries under the function's name."""
        self._queries[fn.__name__] = fn

    def take_updates(self, fn: Callable[..., Any], validate: Callable[..., object] | None) -> None:
        """Take updates under the function's name."""
        self._updates[fn.__name__] = _Handler(fn, validate)

    # -- for the machine

    def arrive(self, machine: Machine, entry: Entry) -> None:
        """An event or update was fed."""
        if entry.kind == "event":
            self._events.setdefault(entry.name, asyncio.Queue()).put_nowait(entry)
        else:
            machine.loop.spawn(self._update(machine, entry), Variables(), entry.path)

    # -- for the driver

    def refusal(self, update: Delivery) -> ErrorInfo | None:
        """Why an update is not to be taken, if so."""
        try:
            handler = _found("update", self._updates, update.name)
            arguments = _arguments(handler.fn, update.value, update.name)
            if handler.validate is not None:
                copy_context().run(handler.validate, **arguments)
        except Exception as error:  # noqa: BLE001 - whatever a validator raises is a refusal
            return ErrorInfo.of(error)
        return None

    def query(self, name: str, payload: bytes) -> bytes:
        """Answer a query. Raises ``UnknownName``, ``InvalidInput``, and whatever the handler does."""
        fn = _found("query", self._queries, name)
        value = copy_context().run(fn, **_arguments(fn, payload, name))
        return encoding.encode(value, encoding.returns_of(fn), f"the answer to query {name!r}")

    def untaken(self) -> list[Entry]:
        """Events that code has not taken, oldest first."""
        kept: list[Entry] = []
        for queue in self._events.values():
            while not queue.empty():
                kept.append(queue.get_nowait())
        return sorted(kept, key=lambda entry: entry.at)

    async def _update(self, machine: Machine, entry: Entry) -> None:
        value = error = None
        try:
            handler = _found("update", self._updates, entry.name)
            result = handler.fn(**_arguments(handler.fn, entry.value, entry.name))
            if inspect.isawaitable(result):
                result = await result
            value = encoding.encode(result, encoding.returns_of(handler.fn), f"the answer to update {entry.name!r}")
        except Exception as raised:  # noqa: BLE001 - it is the one who sent the update who gets it
            error = ErrorInfo.of(raised)
        except asyncio.CancelledError:
            error = ErrorInfo(type="asyncio.CancelledError", message="the run ended before the update was answered")
        data = error.model_dump_json().encode() if error is not None else None
        machine.emit(Command("updated", entry.path, entry.name, "", (value, data)))


def _found(kind: str, handlers: dict[str, Any], name: str) -> Any:
    if name not in handlers:
        hint = "" if handlers else f"the run's code has set up no handler with ctx.on_{kind} so far"
        raise UnknownName(kind, name, handlers, hint)
    return handlers[name]


def _arguments(fn: Callable[..., Any], payload: bytes | None, name: str) -> dict[str, Any]:
    return encoding.Parameters(fn).decode(payload or b"{}", f"the input of {name!r}")
