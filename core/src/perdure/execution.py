"""One live execution of durable code, for engines: the machine with the durable context on top.

An engine makes an ``Execution`` from a ``Start`` and what its store kept, feeds it entries and carries out
its commands. Values stay encoded; no store, no clock and no network are known here.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json

from perdure import encoding
from perdure._machine import RECORDED, TRANSITIONS, Activation, Command, Machine, Outcome
from perdure.arrivals import Arrivals
from perdure.context import Again, Context, caller_source
from perdure.errors import CallFailed, NotDurable, SessionBusy, StepFailed
from perdure.messages import AgentId, ChatMessage, Delivery, ErrorInfo, Loaded, Progress, Request, Start
from perdure.steps import StepCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perdure.context import Asked, Callee
    from perdure.messages import Entry
    from perdure.ports import Conversation, Program, Programs

__all__ = ["RECORDED", "TRANSITIONS", "Activation", "Command", "DurableContext", "Execution", "Outcome", "derived_id"]

P = ParamSpec("P")
T = TypeVar("T")

_NOTHING = Loaded()
_UNSEEN: tuple[bytes, Any] = b"", None


def derived_id(prefix: str, *parts: str) -> str:
    """An id that is the same on every replay and as unguessable as the run id among its parts."""
    return f"{prefix}_{blake2b('/'.join(parts).encode(), digest_size=16).hexdigest()}"


def step_key(start: Start, path: str) -> str:
    """The idempotency key of a step: the same for each of its attempts, another one in each generation of a run."""
    return f"{start.run}~{start.generation}:{path}" if start.generation else f"{start.run}:{path}"


def reply_key(caller: Start, path: str) -> str:
    """Under what a called run's reply comes in: late ones of an earlier generation are not for this one's calls."""
    return f"~{caller.generation}:{path}" if caller.generation else path


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


@dataclass(slots=True)
class _Inside:
    """What all contexts of one execution share."""

    conversation: DurableConversation | None
    arrivals: Arrivals = field(default_factory=Arrivals)
    patches: dict[str, bool] = field(default_factory=dict[str, bool])
    patched: frozenset[str] = frozenset()
    progress: Progress | None = None


class DurableContext(Context):
    """Journals: every wish becomes a command of the machine, and code goes on with what was recorded."""

    def __init__(self, machine: Machine, start: Start, programs: Programs, inside: _Inside) -> None:
        self._machine = machine
        self._start = start
        self._programs = programs
        self._inside = inside

    @property
    def start(self) -> Start:
        """What this code was started with."""
        return self._start

    def hand_over(self, item: Start | Delivery) -> None:
        """Start a run or turn, or deliver to one, together with what this code has done so far; wait for nothing.

        Unlike ``send`` and the like, which make the item, this takes it as it is: a replay must hand over the same.
        """
        if isinstance(item, Start):
            name, data = item.target, item.input
        else:
            name, data = item.name or item.kind, (item.value or b"") + item.run.encode()
        self._machine.emit(Command("send", self._machine.identity(name), name, _print_of(data), item))

    @property
    def run_id(self) -> str:
        return self._start.run

    @property
    def session(self) -> Conversation:
        if self._inside.conversation is None:
            msg = f"ctx.session is the conversation of an agent's turn; {self._start.target!r} is a workflow"
            raise NotDurable(msg)
        return self._inside.conversation

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._machine.now, UTC)

    def _identity(self, name: str) -> str:
        path, generation = self._machine.identity(name), self._start.generation
        return f"~{generation}/{path}" if generation else path

    @property
    def logger(self) -> logging.LoggerAdapter[Any]:
        return _RunLogger(logging.getLogger("perdure.run"), self._machine, self._start)

    def patched(self, id: str, /) -> bool:
        inside = self._inside
        known = inside.patches.get(id)
        if known is None:
            known = inside.patches[id] = id in inside.patched or not self._machine.replaying
            if known:
                self._machine.emit(Command("patch", f"patch:{id}", id, "", None, caller_source()))
        return known

    def set_status(self, text: str, /, *, done: float | None = None, total: float | None = None) -> None:
        self._inside.progress = Progress(text=text, done=done, total=total)

    def on_query(self, fn: Callable[P, T], /) -> Callable[P, T]:
        self._inside.arrivals.answer_queries(fn)
        return fn

    def on_update(self, fn: Callable[P, T], /, *, validate: Callable[P, object] | None = None) -> Callable[P, T]:
        self._inside.arrivals.take_updates(fn, validate)
        return fn

    async def _step(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], source: str) -> Any:
        call = StepCall.bind(fn, args, kwargs, self._options)
        path = self._machine.identity(call.name)
        entry = await self._machine.perform(Command("step", path, call.name, call.fingerprint, call, source))
        if entry.error is not None:
            raise StepFailed(call.name, ErrorInfo.model_validate_json(entry.error))
        data, seen = self._machine.seen.pop(path, _UNSEEN)
        return seen if data is entry.value else call.decode(entry.value or b"null")

    async def _call(self, callee: Callee, payload: bytes, session: str | None, source: str = "") -> Any:
        path, start = self._started(callee, payload, session)
        print_ = _print_of(payload)
        entry = await self._machine.perform(Command("call", path, start.target, print_, start, source))
        if entry.error is not None:
            raise CallFailed(start.target, ErrorInfo.model_validate_json(entry.error))
        return callee.decode_result(entry.value or b"null")

    async def _send(self, callee: Callee, payload: bytes, session: str | None, source: str) -> str:
        path, start = self._started(callee, payload, session)
        start = start._replace(path=None, on_close=self._child.on_close or "abandon", ancestry=())
        self._machine.emit(Command("send", path, start.target, _print_of(payload), start, source))
        return start.run

    def _started(self, callee: Callee, payload: bytes, session: str | None) -> tuple[str, Start]:
        """The place of a call or send, and what it starts."""
        own, options = self._start, self._child
        target = self._programs.target(callee, own.target)
        path = self._machine.identity(callee.name)
        is_agent = callee.kind == "agent"
        key = (session or step_key(own, path)) if is_agent else None
        ancestry = (*own.ancestry, f"{own.target}/{own.session}" if own.session else own.run)
        if f"{target}/{key}" in ancestry:
            msg = (
                f"session {target}/{key} waits, directly or not, for this very call and would wait for ever:"
                " call it in another session, or answer without calling back"
            )
            raise SessionBusy(msg)
        now = self._machine.now
        start = Start(
            run=derived_id("turn" if is_agent else "run", step_key(own, path)),
            kind="turn" if is_agent else "workflow",
            target=target,
            input=payload,
            at=now,
            session=key,
            parent=own.run,
            path=reply_key(own, path),
            ancestry=ancestry,
            headers=own.headers,
            tags=dict(options.tags),
            version=self._programs.version(target),
            due=None if options.delay is None else now + options.delay.total_seconds(),
            on_close=options.on_close or "cancel",
        )
        return path, start

    async def _deliver(self, run: str, kind: Literal["event", "cancel"], name: str, value: bytes) -> None:
        own, path = self._start, self._machine.identity(kind)
        delivery = Delivery(run, kind, derived_id(kind, step_key(own, path)), self._machine.now, value, name=name)
        self._machine.emit(Command("send", path, name or kind, _print_of(value + run.encode()), delivery))

    async def _event(self, name: str) -> bytes:
        return await self._inside.arrivals.event(name)

    async def _ask(self, asked: Asked) -> Any:
        own, path = self._start, self._machine.identity("ask")
        now, prompt = self._machine.now, asked.prompt
        request = Request(
            id=derived_id("req", step_key(own, path)),
            run=own.run,
            path=path,
            prompt=prompt,
            schema=_schema_of(asked.answer),
            at=now,
            deadline=None if asked.deadline is None else now + asked.deadline.total_seconds(),
            to=asked.to,
        )
        print_ = _print_of(prompt.encode())  # or an answer could pass for that to another question
        timers = [
            self._machine.loop.call_later(after.total_seconds(), self._hand_on, request._replace(to=to))
            for after, to in asked.escalate
        ]
        try:
            entry = await self._machine.perform(Command("answer", path, prompt, print_, request, asked.source))
        finally:
            for timer in timers:
                timer.cancel()
        return encoding.decode(entry.value or b"null", asked.answer, f"the answer to {prompt!r}")

    def _hand_on(self, request: Request) -> None:
        if not self._machine.loop.refusing:
            self._machine.emit(Command("ask", f"{request.path}/{request.to}", request.prompt, "", request))


class _RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Says which run it is that logs, and nothing while a replay repeats what was said before."""

    def __init__(self, logger: logging.Logger, machine: Machine, start: Start) -> None:
        super().__init__(logger, {"run": start.run, "target": start.target})
        self._machine = machine

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return not self._machine.replaying and super().isEnabledFor(level)


def _print_of(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


@lru_cache(maxsize=1024)
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
        session = start.session
        self._inside = _Inside(
            DurableConversation(AgentId(start.target, session), loaded) if session is not None else None
        )
        self.machine: Machine = Machine(self._main, now=start.at, arrive=self._arrive, debug=debug)
        context = DurableContext(self.machine, start, programs, self._inside)
        self._code: tuple[Program, DurableContext] | None = program, context
        self._timers: list[tuple[float, int, str]] = []
        self._ordinal = 0
        self._kept: tuple[tuple[bytes, ...], bytes | None] = (), None
        self.told: Progress | None = None
        self._again = False
        self._programs = programs
        self._requests: dict[str, str] = {}
        self.outcome: Outcome | None = None
        self.pending: dict[str, Command] = self.machine.pending
        """What the code waits for, by path."""

    def begin(self, entries: Iterable[Entry] = (), *, now: float | None = None) -> Activation:
        """Start the code and feed it its journal. The activation's ``opened`` are all the steps to be attempted.

        The code begins at the time that its first line, of kind ``begin``, gives as ``started``; without such a line
        at ``now``, by default when it was asked for (UTC seconds).

        Calls and requests that it waits for were sent with the commits that the journal stems from, unless
        the journal is empty: then they are among ``opened``, too.

        Raises:
            NonDeterminism: The code no longer fits the journal.
        """
        entries = tuple(entries)
        self._inside.patched = frozenset(entry.name for entry in entries if entry.kind == "patch")
        self.machine.replaying = bool(entries)
        began = entries[0].started if entries and entries[0].kind == "begin" else now
        if began is not None:
            self.machine.loop.now = began
        activation = self._noted(self.machine.begin())
        if not entries:
            return activation
        for entry in entries:
            self.feed(entry)
        self.machine.prove()
        self.told = self._inside.progress
        steps = tuple(command for command in self.pending.values() if command.kind == "step")
        return Activation(steps, (), self.outcome)

    def feed(self, entry: Entry) -> Activation:
        """Feed what happened and run to rest. Raises ``NonDeterminism``."""
        return self._noted(self.machine.feed(entry))

    def due(self, now: float) -> Command | None:
        """The earliest timer, if it is due; of equal ones, the one that was set first."""
        wake_at = self.wake_at() if self._timers else None
        return self.pending[self._timers[0][2]] if wake_at is not None and wake_at <= now else None

    def called(self, reply: str) -> Command | None:
        """The call that a reply's key stands for, if code still waits for it."""
        path = reply.removeprefix(reply_key(self.start, ""))
        return self.pending.get(path) if reply == reply_key(self.start, path) else None

    def asked(self, request: str) -> Command | None:
        """The question that an id stands for, if code still waits for its answer."""
        return self.pending.get(self._requests.get(request, ""))

    @property
    def newest_version(self) -> int:
        """The version that this run would begin with today."""
        return self._programs.version(self.start.target)

    def wake_at(self) -> float | None:
        """When its earliest timer is due (UTC seconds), or ``None``."""
        while self._timers and self._timers[0][2] not in self.pending:
            heappop(self._timers)  # fired or cancelled meanwhile; paths are never used twice
        return self._timers[0][0] if self._timers else None

    def progress(self) -> Progress | None:
        """What people are to be shown from here on, if that has changed since this was asked last."""
        now, before = self._inside.progress, self.told
        self.told = now
        return now if now != before else None

    def refusal(self, update: Delivery) -> ErrorInfo | None:
        """Why an update is not to be taken, if the code's validator says so."""
        return self._inside.arrivals.refusal(update)

    def query(self, name: str, payload: bytes) -> bytes:
        """Answer a query from the code as it stands. Raises ``UnknownName``, ``InvalidInput``, what it raises."""
        return self._inside.arrivals.query(name, payload)

    def untaken(self) -> list[Entry]:
        """Events that arrived and that the code has not taken."""
        return self._inside.arrivals.untaken()

    def log(self) -> tuple[bytes, ...]:
        """What a completed turn adds to its session's log."""
        return self._kept[0]

    def state(self) -> bytes | None:
        """The session's new state, if a completed turn changed it."""
        return self._kept[1]

    def close(self) -> None:
        """Give it up; see ``Machine.evict``."""
        self.machine.evict()
        self._code = None

    async def _main(self) -> bytes:
        try:
            if self._code is None:  # pragma: no cover - a closed execution does not begin
                raise AssertionError
            program, context = self._code
            value = await program(context, self.start.input)
        except Again as again:
            if self.start.kind == "turn":
                msg = (
                    "ctx.continue_as_new() ends a workflow's code; this is an agent's turn, which begins anew by itself"
                )
                raise NotDurable(msg) from None
            self._again = True
            return again.payload
        if (said := self._inside.conversation) is not None:  # no JSON form fails the turn, not the engine
            self._kept = said.added(), said.changed_state()
        return value

    def _arrive(self, entry: Entry) -> None:
        self._inside.arrivals.arrive(self.machine, entry)

    def _noted(self, activation: Activation) -> Activation:
        for command in activation.opened:
            if command.kind == "timer":
                heappush(self._timers, (command.body.due, self._ordinal, command.path))
                self._ordinal += 1
            elif command.kind == "answer":
                self._requests[command.body.id] = command.path
        if activation.outcome is not None:
            if self._again and activation.outcome.status == "completed":
                activation = activation._replace(outcome=activation.outcome._replace(status="again"))
            self.outcome = activation.outcome
        return activation


def cancelled_reason(outcome: Outcome) -> str:
    """Why a cancelled run was cancelled."""
    error = outcome.error
    return str(error.args[0]) if isinstance(error, asyncio.CancelledError) and error.args else ""
