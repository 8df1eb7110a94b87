"""One live execution of durable code, for engines: the machine with the durable context on top.

An engine makes an ``Execution`` from a ``Start`` and what its store kept, feeds it entries and carries out
its commands. Values stay encoded; no store, no clock and no network are known here.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic_core import from_json

from perdure import encoding
from perdure._machine import TRANSITIONS, Activation, Command, Machine, Outcome
from perdure.context import Context
from perdure.errors import CallFailed, NotDurable, SessionBusy, StepFailed
from perdure.messages import AgentId, ChatMessage, ErrorInfo, Loaded, Request, Start

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from perdure.context import Callee
    from perdure.messages import Entry
    from perdure.ports import Conversation, Programs
    from perdure.steps import StepCall

__all__ = ["TRANSITIONS", "Activation", "Command", "DurableContext", "Execution", "Outcome", "derived_id"]

_NOTHING = Loaded()


def derived_id(prefix: str, *parts: str) -> str:
    """An id that is the same on every replay and as unguessable as the run id among its parts."""
    return f"{prefix}_{blake2b('/'.join(parts).encode(), digest_size=16).hexdigest()}"


class DurableConversation:
    """A session's log and state as a turn sees them; what the turn adds waits for its commit."""

    def __init__(self, id_: AgentId, loaded: Loaded) -> None:
        self.id = id_
        self._log = [ChatMessage.model_validate_json(item) for item in loaded.log]
        self._known = len(self._log)
        self._state_before = loaded.state
        self.state: dict[str, Any] = from_json(loaded.state) if loaded.state is not None else {}

    @property
    def log(self) -> Sequence[ChatMessage]:
        """Everything said so far."""
        return self._log

    def append(self, *messages: ChatMessage) -> None:
        """Add to the conversation, when the turn commits."""
        self._log.extend(messages)

    def added(self) -> tuple[bytes, ...]:
        """JSON of what this turn appended."""
        said = f"the conversation of session {self.id}"
        return tuple(encoding.encode(message, ChatMessage, said) for message in self._log[self._known :])

    def changed_state(self) -> bytes | None:
        """JSON of the state, if this turn changed it."""
        if not self.state and self._state_before is None:
            return None
        state = encoding.encode(self.state, Any, f"the state of session {self.id}")
        return state if state != self._state_before else None


class DurableContext(Context):
    """Journals: every wish becomes a command of the machine, and code goes on with what was recorded."""

    def __init__(
        self, machine: Machine, start: Start, programs: Programs, conversation: DurableConversation | None
    ) -> None:
        self._machine = machine
        self._start = start
        self._programs = programs
        self._conversation = conversation

    @property
    def run_id(self) -> str:
        return self._start.run

    @property
    def session(self) -> Conversation:
        if self._conversation is None:
            msg = f"ctx.session is the conversation of an agent's turn; {self._start.target!r} is a workflow"
            raise NotDurable(msg)
        return self._conversation

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._machine.now, UTC)

    def _identity(self, name: str) -> str:
        return self._machine.identity(name)

    async def _step(self, call: StepCall) -> Any:
        path = self._machine.identity(call.name)
        entry = await self._machine.perform(Command("step", path, call.name, call.fingerprint, call))
        if entry.error is not None:
            raise StepFailed(call.name, ErrorInfo.model_validate_json(entry.error))
        return call.decode(entry.value or b"null")

    async def _call(self, callee: Callee, payload: bytes, session: str | None) -> Any:
        own = self._start
        target = self._programs.target(callee, own.target)
        path = self._machine.identity(callee.name)
        is_agent = callee.kind == "agent"
        key = (session or f"{own.run}:{path}") if is_agent else None
        ancestry = (*own.ancestry, f"{own.target}/{own.session}" if own.session else own.run)
        if f"{target}/{key}" in ancestry:
            msg = (
                f"session {target}/{key} waits, directly or not, for this very call and would wait for ever:"
                " call it in another session, or answer without calling back"
            )
            raise SessionBusy(msg)
        start = Start(
            run=derived_id("turn" if is_agent else "run", own.run, path),
            kind="turn" if is_agent else "workflow",
            target=target,
            input=payload,
            at=self._machine.now,
            session=key,
            parent=own.run,
            path=path,
            ancestry=ancestry,
            headers=own.headers,
        )
        entry = await self._machine.perform(Command("call", path, target, _print_of(payload), start))
        if entry.error is not None:
            raise CallFailed(target, ErrorInfo.model_validate_json(entry.error))
        return callee.decode_result(entry.value or b"null")

    async def _ask(self, prompt: str, answer: Any, deadline: timedelta | None) -> Any:
        path = self._machine.identity("ask")
        now = self._machine.now
        request = Request(
            id=derived_id("req", self._start.run, path),
            run=self._start.run,
            path=path,
            prompt=prompt,
            schema=_schema_of(answer),
            at=now,
            deadline=None if deadline is None else now + deadline.total_seconds(),
        )
        print_ = _print_of(prompt.encode())  # or an answer could pass for that to another question
        entry = await self._machine.perform(Command("answer", path, prompt, print_, request))
        return encoding.decode(entry.value or b"null", answer, f"the answer to {prompt!r}")


def _print_of(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def _schema_of(annotation: Any) -> dict[str, Any]:
    adapter: TypeAdapter[Any] = encoding.adapter(annotation)
    return adapter.json_schema()


class Execution:
    """The code of one run or turn, live.

    Args:
        programs: The code.
        start: What it was started with.
        loaded: What the store kept: its session's log and state. Its journal goes to ``begin``.
        debug: asyncio's debug mode for that code.

    Raises:
        UnknownName: The target is not known here.
    """

    def __init__(self, programs: Programs, start: Start, loaded: Loaded = _NOTHING, *, debug: bool = False) -> None:
        program = programs.program(start.target, start.version)
        self.start = start
        self._conversation = (
            DurableConversation(AgentId(start.target, start.session), loaded) if start.session is not None else None
        )
        self.machine: Machine = Machine(self._main, now=start.at, debug=debug)
        context = DurableContext(self.machine, start, programs, self._conversation)
        self._coroutine = lambda: program(context, start.input)
        self._timers: list[tuple[float, int, str]] = []
        self._ordinals = count()
        self._kept: tuple[tuple[bytes, ...], bytes | None] = (), None
        self.outcome: Outcome | None = None

    @property
    def pending(self) -> dict[str, Command]:
        """What the code waits for, by path."""
        return self.machine.pending

    def begin(self, entries: Iterable[Entry] = ()) -> Activation:
        """Start the code and feed it its journal. The activation's ``opened`` are all the steps to be attempted.

        Calls and requests that it waits for were sent with the commits that the journal stems from, unless
        the journal is empty: then they are among ``opened``, too.

        Raises:
            NonDeterminism: The code no longer fits the journal.
        """
        activation = self._noted(self.machine.begin())
        replayed = False
        for entry in entries:
            replayed = True
            activation = self.feed(entry)
        if not replayed:
            return activation
        steps = tuple(command for command in self.pending.values() if command.kind == "step")
        return Activation(steps, (), self.outcome)

    def feed(self, entry: Entry) -> Activation:
        """Feed what happened and run to rest. Raises ``NonDeterminism``."""
        return self._noted(self.machine.feed(entry))

    def due(self, now: float) -> Command | None:
        """The earliest timer, if it is due; of equal ones, the one that was set first."""
        wake_at = self.wake_at()
        return self.pending[self._timers[0][2]] if wake_at is not None and wake_at <= now else None

    def wake_at(self) -> float | None:
        """When its earliest timer is due (UTC seconds), or ``None``."""
        while self._timers and self._timers[0][2] not in self.pending:
            heappop(self._timers)  # fired or cancelled meanwhile; paths are never used twice
        return self._timers[0][0] if self._timers else None

    def log(self) -> tuple[bytes, ...]:
        """What a completed turn adds to its session's log."""
        return self._kept[0]

    def state(self) -> bytes | None:
        """The session's new state, if a completed turn changed it."""
        return self._kept[1]

    def close(self) -> None:
        """Give it up; see ``Machine.evict``."""
        self.machine.evict()

    async def _main(self) -> bytes:
        value = await self._coroutine()
        if self._conversation is not None:  # what has no JSON form fails the turn, not the engine that commits it
            self._kept = self._conversation.added(), self._conversation.changed_state()
        return value

    def _noted(self, activation: Activation) -> Activation:
        for command in activation.opened:
            if command.kind == "timer":
                heappush(self._timers, (command.body.due, next(self._ordinals), command.path))
        if activation.outcome is not None:
            self.outcome = activation.outcome
        return activation


def cancelled_reason(outcome: Outcome) -> str:
    """Why a cancelled run was cancelled."""
    error = outcome.error
    return str(error.args[0]) if isinstance(error, asyncio.CancelledError) and error.args else ""
