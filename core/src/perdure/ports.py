"""The Protocols that plugins fill. Each has one conformance kit in ``perdure.testing``.

Ports carry values only (see ``perdure.messages``), so that each can be reached through a transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from perdure.agent import Tool
    from perdure.context import Callee, Context
    from perdure.messages import (
        Accepted,
        AgentId,
        ChatMessage,
        Claim,
        Commit,
        Delivery,
        Entry,
        Envelope,
        Inquiry,
        Loaded,
        ModelRequest,
        ModelResponse,
        Presence,
        Reported,
        RequestView,
        RunFilter,
        RunView,
        Start,
        ToolCall,
        ToolResult,
        TopicId,
        Whereabouts,
    )


class Clock(Protocol):
    """The time, as a port, so that tests can move it.

    Everything in Perdure that waits, waits through this.
    """

    def now(self) -> float:
        """UTC, in seconds since the epoch. May step backwards when the machine's clock is set."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Return at ``when`` or later, never before. Cancellable; any number may wait at once."""
        ...


class Store(Protocol):
    """Where runs, sessions and their inboxes lie: everything durable goes through these methods.

    All methods may be called concurrently from one event loop. Each is atomic and, once it has returned,
    durable: a caller that was told "accepted" or "committed" may rely on it through any crash. A call
    that raises ``StoreUnavailable`` had no effect; one that is cancelled or dies has an unknown outcome.

    A *worker* is one engine, under an id of its own. It holds a run from a claim until a commit that
    releases or finishes it, or until it is dead: its process gone, or its lease over. Every claim of a run
    raises the run's epoch; a commit under an older one raises ``LeaseLost``.

    *Woken runs.* ``accept``, ``commit`` and ``claim`` return the claims on all runs that the call gave
    something to do and that the worker now holds: new ones, parked ones that got a delivery or came due, turns
    whose turn has come; and runs that it held already, with what is new in their inbox. A store that lets
    one process write at a time (SQLite) returns none to the others.

    Turns of one session run one at a time in the order of acceptance: a turn is claimable when every
    earlier turn of its session is terminal or not yet due.

    *Children.* A commit that finishes a run also delivers ``cancel`` or ``terminate`` to those that it started
    and that have not finished, as their ``on_close`` says, with that word as key: one that was called off with it
    already is not called off again, in the middle of its clean-up.
    """

    async def accept(
        self, items: Sequence[Start | Delivery | Reported], *, worker: str | None = None
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        """Take starts and deliveries, all or none; return one ``Accepted`` each, and what they woke.

        A run that is ``parked`` or ``suspended`` is woken by ``resume``, ``cancel`` and ``terminate`` only, which make
        it ``pending`` in the same instant; other deliveries wait in its inbox. ``resume`` of a run that is neither
        changes nothing. A start that is not yet due waits, as for a timer; of deliveries, ``cancel`` and ``terminate``
        alone do not wait with it. A start with ``reuse`` that finds a finished run it may replace begins that one
        anew: as a start that was never there, but under the next generation, and accepted with ``new=True``.

        A repeated start (same target and key) or delivery (same run and key) changes nothing and is
        accepted with ``new=False``. A delivery to a terminal run changes nothing and is accepted with
        ``new=False``. An ``answer`` marks its request answered in the same instant.
        A run that calls again, from the same place, one that has finished is sent its reply again.

        Raises:
            UnknownName: A delivery to a run, or an answer to a request, that does not exist.
            RequestClosed: An answer to a request that is not open.
            StoreUnavailable: It cannot write now.
        """
        ...

    async def claim(
        self, worker: str, now: float, *, limit: int = 256, targets: frozenset[str] | None = None
    ) -> tuple[Sequence[Claim], float | None]:
        """Take up to ``limit`` runs that have something to do; say when to look again (or ``None``).

        Takes runs that nobody holds and that are new, have unconsumed deliveries, or are due by ``now``; and runs
        whose holder is dead and that were active or have any of these. Besides, and however low the limit is, it
        returns again, with their new inbox, runs that the worker holds and that others delivered to or that came
        due. To look again is worth while when the next timer is due, or when the lease of another worker runs out
        that holds something to do. The first claim makes the worker known and starts its lease; before it, and after it
        has left, nothing is given to it.

        Takes runs of these ``targets`` only (``None``: of any), and says when to look again for them; earlier, perhaps.
        Until the worker claims again, what ``accept`` and ``commit`` give it is of these targets, too. Other runs are
        left, for whoever asks for them, with no cost to who does not; what the worker holds already, it keeps.
        """
        ...

    async def load(self, run: str) -> Loaded:
        """What a machine is rebuilt from.

        Raises:
            UnknownName: No such run.
            DataCorrupted: What is kept of it does not match its checksum.
        """
        ...

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        """Write all of it or nothing; return what it woke (see the class).

        If the run was released with something unconsumed in its inbox, or a timer already due, the claims
        include the run itself again.

        Raises:
            LeaseLost: The worker does not hold the run under this epoch.
            CommitConflict: The journal's length is not ``seq``, or a request in ``closes`` was answered.
            StoreUnavailable: It cannot write now.
        """
        ...

    async def changed(self, seen: int) -> int:
        """Return a counter as soon as it differs from ``seen``: something was written, by whichever process.

        May return without cause. Costs no more than a bounded rate of cheap looks where the store cannot notify.
        """
        ...

    def tick(self, worker: str, now: float, *, run: str = "", epoch: int = 0) -> bool:
        """The worker's main loop is alive: without a tick for a lease's length, its runs go to others.

        Returns whether the worker certainly holds that run under that epoch still. If not, a commit tells. Who stood
        still for longer than the lease must know before it does again what another one has recorded meanwhile.

        Called from the loop, several times per lease and before each attempt; never blocks. The store renews the
        lease from a thread of its own (or at once, if that is cheap).
        """
        ...

    async def leave(self, worker: str) -> None:
        """Give up everything that the worker holds, at once, for others to take."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of files and connections. Idempotent."""
        ...


class Query(Protocol):
    """Read-only views for people, tools and other processes. Reads see what was committed before them."""

    async def run(self, run: str) -> RunView | None:
        """One run or turn with its open requests, or ``None``."""
        ...

    async def runs(
        self, which: RunFilter | None = None, *, before: str | None = None, limit: int = 50
    ) -> Sequence[RunView]:
        """Newest first; ``before`` is the last id of the page before. Without input, result and requests."""
        ...

    async def journal(self, run: str, *, after: int = 0, limit: int = 1000) -> Sequence[Entry]:
        """Entries ``after`` that many, oldest first. Raises ``UnknownName``."""
        ...

    async def requests(self, *, run: str | None = None, limit: int = 50) -> Sequence[RequestView]:
        """Open requests, oldest first; of a run: its own and those of the runs and turns that it called."""
        ...

    async def request(self, request: str) -> RequestView | None:
        """One request, whatever its status, or ``None``."""
        ...

    async def log(self, session: AgentId) -> Sequence[bytes]:
        """A session's conversation: JSON of one entry each, oldest first; empty for an unknown session."""
        ...

    async def unreported(self, *, limit: int = 100) -> Sequence[RunView]:
        """Finished runs that observers have not yet reported (see ``Commit.unreported``)."""
        ...


class Upkeep(Protocol):
    """What operators do to runs that have finished. Each call is atomic and, once it has returned, durable."""

    async def rewind(self, run: str, seq: int, *, at: float) -> None:
        """Make a finished run ``pending`` again, its journal cut to ``seq`` entries.

        What the cut entries had taken from the inbox is there again, but for cancellations and replies with an error,
        which a repeated call brings anew. Result and error are forgotten, and what a turn had said and remembered in
        its session.

        Raises:
            UnknownName: No such run.
            RunActive: It has not finished, or a later turn of its session has begun.
        """
        ...

    async def fork(self, run: str, seq: int, start: Start) -> Accepted:
        """Accept a new run whose journal begins with the first ``seq`` entries of another, in whatever state that is.

        Raises ``UnknownName``.
        """
        ...

    async def purge(self, which: RunFilter, *, limit: int = 1000) -> int:
        """Forget up to ``limit`` finished runs that fit: journal, inbox, requests, and large values nobody else has.

        Each run goes whole or not at all; a crash may leave some of them for the next call. Runs whose parent has not
        finished stay, and so do the conversations of sessions. Returns how many went.
        """
        ...


class DurableStore(Store, Query, Upkeep, Protocol):
    """A store together with its views: what a store plugin's factory returns."""


class Engine(Protocol):
    """What drives runs and turns. Values only; names are qualified and inputs encoded by the runtime.

    All methods may be called concurrently.
    """

    async def start(self) -> None:
        """Begin to drive. Runs that were interrupted go on."""
        ...

    async def stop(self, *, grace: float = 0.0) -> None:
        """Stop driving: let running steps finish for ``grace`` seconds, then give everything up. Idempotent."""
        ...

    async def submit(self, start: Start) -> Accepted:
        """Accept a run or turn durably. Returns when it is safe, not when it is done."""
        ...

    async def deliver(self, delivery: Delivery) -> Accepted:
        """Accept an answer, cancellation or resumption durably; an answer is checked against its schema.

        Raises:
            UnknownName: No such run or request.
            RequestClosed: The request is not open.
            InvalidInput: The answer does not fit the request's schema; the request stays open.
        """
        ...

    async def wait(self, run: str, *, timeout: float | None = None, until_waiting: bool = False) -> RunView:
        """Return the run when it is terminal or parked (or, on demand, waits for an answer), or at the timeout as is.

        Raises ``UnknownName``.
        """
        ...

    async def inquire(self, inquiry: Inquiry, *, timeout: float | None = None) -> bytes:
        """Ask a run's code; return the answer's JSON. A run that waits answers, too, and stays where it is.

        A query is answered from the journal as committed, wherever the run is driven. An update is safe once it is
        accepted, and is waited for.

        Raises:
            UnknownName: No such run, or no such handler in its code.
            UpdateRejected: The code's validator refused the update.
            CallFailed: The handler failed.
            RunActive: An update to a run that has finished.
            TimeoutError: The update is accepted and not yet answered.
        """
        ...

    @property
    def query(self) -> Query:
        """The views on what this engine drives."""
        ...

    @property
    def upkeep(self) -> Upkeep:
        """What operators do to finished runs."""
        ...


class Deliver(Protocol):
    """What a runtime gives to its transport: hand an envelope to the agent that lives here.

    Returns the reply or error envelope when the handler has ended, always; it never raises. Cancelling it cancels the
    handler. May be called concurrently: order and exclusion are the receiver's business, which takes messages of one
    agent in the order of these calls. With a transport that serialises, what it returns is bytes, too.

    An event is handed over once for each recipient, with ``target`` set; what is returned means nothing then, for the
    errors of an event's handler are the receiver's business. An event whose target has an empty key is for the
    ``custom`` subscriptions of that agent type: the receiver publishes it again, with the targets that its code names.
    """

    async def __call__(self, envelope: Envelope) -> Envelope: ...


class Transport(Protocol):
    """What carries messages between agents, in one process or many.

    All methods may be called concurrently, also from within a delivery. Messages from one sender to one agent are
    delivered in the order in which ``send`` and ``publish`` were called, as long as the agent stays where it is.
    """

    @property
    def serialises(self) -> bool:
        """Whether payloads must be bytes (``Envelope.content`` set), both ways."""
        ...

    async def start(self, deliver: Deliver) -> None:
        """Connect; from here on ``deliver`` is called for messages to agents that live in this runtime."""
        ...

    async def announce(self, presence: Presence) -> None:
        """Say what lives here, instead of what was said before. Returns when others can reach it."""
        ...

    async def send(self, envelope: Envelope) -> Envelope:
        """Carry a request; return its reply or error envelope.

        Every request ends: a reply, an error envelope with the original type's name, or ``DeadlineExceeded``
        at ``envelope.deadline``. Cancelling the call cancels the remote handler.
        """
        ...

    async def publish(self, envelope: Envelope) -> None:
        """Carry an event to all that are subscribed to its topic, or to its ``target``; return once it is accepted.

        Its sender does not get it, and nobody gets it twice, however many subscriptions match.
        """
        ...

    async def agents(self) -> Sequence[Whereabouts]:
        """Which agent types live where, by type and worker."""
        ...

    async def stop(self) -> None:
        """Refuse what is new; let finish what was accepted; end what does not with an error; disconnect. Idempotent."""
        ...


class Messenger(Protocol):
    """A runtime's side of its transport: finds, encodes, carries, and delivers to the agents that live here.

    All methods may be called concurrently, also from within a handler. It connects by ``start`` or the first message.
    """

    async def start(self) -> None:
        """Connect now, so that others can reach the agents that live here. Idempotent."""
        ...

    async def send(self, message: object, to: AgentId, *, deadline: float | None = None, id: str | None = None) -> Any:
        """See ``Runtime.send``."""
        ...

    async def publish(self, message: object, topic: TopicId, *, id: str | None = None) -> None:
        """See ``Runtime.publish``."""
        ...

    async def agents(self) -> Sequence[Whereabouts]:
        """See ``Runtime.agents``."""
        ...

    async def stop(self) -> None:
        """Let finish what was accepted, then disconnect. Idempotent."""
        ...


class Model(Protocol):
    """A client for one language model. ``complete`` may be called concurrently.

    Vendors' own retries are off: retry is the engine's business, visible in the journal.
    """

    @property
    def name(self) -> str:
        """``provider:model``, as in configuration."""
        ...

    async def complete(self, request: ModelRequest) -> ModelResponse:
        """Ask once.

        Raises:
            ModelUnavailable: Overload, rate limit, network: may succeed later.
            ModelRefused: Bad key, unknown model, invalid request, refused content: will not.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...


class Codec(Protocol):
    """What payloads pass through between the engine and the store (compression, encryption).

    Codecs are applied in order when writing, in reverse when reading. Called from the event loop: quick.
    """

    def encode(self, payload: bytes) -> bytes:
        """What is stored for this payload."""
        ...

    def decode(self, payload: bytes) -> bytes:
        """The payload again. Must also take what was written before the codec was installed."""
        ...


# -- middleware: around what happens ----------------------------------------------------------------------


class StepInfo(NamedTuple):
    """One attempt of one step, as the middleware around its body sees it.

    Attributes:
        run: The run or turn it belongs to.
        path: Its structural identity there.
        name: Of the function, tool or model.
        role: ``step``, ``model`` or ``tool``.
        attempt: 1 for the first.
        key: The idempotency key: the same for every attempt, whichever process makes it.
    """

    run: Start
    path: str
    name: str
    role: Literal["step", "model", "tool"]
    attempt: int
    key: str


class StepMiddleware(Protocol):
    """Around the body of each attempt of each step, in the driver: not replayed.

    Return ``await proceed()`` or another value of the step's type; raise to fail the attempt.
    """

    async def __call__(self, step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any: ...


class AgentMiddleware:
    """Around each model and tool call of an LLM agent's turn, as durable code: replayed, so deterministic.

    A base class: override what is wanted. Side effects go through ``ctx.step``.
    """

    async def model(
        self,
        ctx: Context,  # noqa: ARG002 - for those who override
        request: ModelRequest,
        proceed: Callable[[ModelRequest], Awaitable[ModelResponse]],
    ) -> ModelResponse:
        """Change the request, the response, or answer without asking the model."""
        return await proceed(request)

    async def tool(
        self,
        ctx: Context,  # noqa: ARG002 - for those who override
        call: ToolCall,
        proceed: Callable[[ToolCall], Awaitable[ToolResult]],
    ) -> ToolResult:
        """Change the call or its result, or refuse it with a result that says so."""
        return await proceed(call)


class Operation(NamedTuple):
    """What a runtime is asked to do, as its middleware sees it.

    Attributes:
        kind: ``start`` a run or turn, ``send`` or ``publish`` a message, ``deliver`` one to an agent that lives here.
        target: Qualified name of the workflow or agent; of a message ``type/key``, of what is published its topic.
        headers: Text values that travel with it, to children too. ``proceed`` takes a changed copy.
        type: The message's type name; empty for ``start``.
    """

    kind: Literal["start", "send", "publish", "deliver"]
    target: str
    headers: dict[str, str]
    type: str = ""


class RuntimeMiddleware(Protocol):
    """Around each operation of a runtime. Raise to refuse it."""

    async def __call__(self, operation: Operation, proceed: Callable[[Operation], Awaitable[Any]]) -> Any: ...


class Observer(Protocol):
    """Is told what was committed, from the journal: the place for traces, metrics and audit.

    ``recorded`` and ``finished`` are called from the engine's loop after the commit: quick, no I/O. After a
    crash, what may not have been flushed is told again: the same facts, so derive ids from run and path.
    """

    def recorded(self, run: Start, entries: Sequence[Entry]) -> None:
        """These entries are in the run's journal."""
        ...

    def finished(self, run: Start, view: RunView) -> None:
        """The run is terminal or parked."""
        ...

    async def flush(self) -> None:
        """Return when all that was told has arrived; raise if it cannot, to be told again later."""
        ...


# -- what the kernel gives to engines and agents ------------------------------------------------------------


class Program(Protocol):
    """Durable code, as an engine runs it: a workflow with its codec, or an agent's turn."""

    def __call__(self, ctx: Context, payload: bytes, /) -> Coroutine[Any, Any, bytes]: ...


class Programs(Protocol):
    """All durable code of a runtime, by qualified name."""

    def program(self, target: str, version: int) -> Program:
        """Raises ``UnknownName``, also for a version that is not here."""
        ...

    def version(self, target: str) -> int:
        """The version that new runs begin with; 1 for what has none."""
        ...

    def targets(self) -> frozenset[str]:
        """The qualified names of all workflows and agents that are here."""
        ...

    def target(self, callee: Callee, caller: str) -> str:
        """The qualified name of what code calls; ``caller`` is that code's own, whose app comes first.

        Raises ``UnknownName``, ``AmbiguousName``.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EngineParts:
    """What an engine is made from.

    Attributes:
        store: Where everything durable lies. The engine does not close it.
        programs: The code.
        clock: The time.
        step_middleware: Around each attempt of each step, outermost first.
        observers: Told after each commit.
        codecs: What payloads pass through, in this order, on their way to the store.
        max_payload: Upper bound of one value in bytes, as JSON.
        worker: Under what name it works; by default an unguessable one.
    """

    store: DurableStore
    programs: Programs
    clock: Clock
    step_middleware: Sequence[StepMiddleware] = ()
    observers: Sequence[Observer] = ()
    codecs: Sequence[Codec] = ()
    max_payload: int = 4 * 1024 * 1024
    worker: str = ""


class TurnHandler(Protocol):
    """What executes one kind of agent declaration. Called for many sessions concurrently.

    The context is direct (volatile) or durable; the code must not care. ``message`` is the decoded input: a
    ``str`` for an LLM agent, a typed message otherwise. An LLM agent answers with a ``Reply``.
    """

    async def turn(self, ctx: Context, agent: Any, message: Any) -> Any: ...


class Services(Protocol):
    """What a runtime lends to turn handlers and lifespans."""

    def model(self, name: str | None) -> Model:
        """The client for ``provider:model``, or the default one; made once. Raises ``UnknownName``, ``PluginError``."""
        ...

    def tool(self, name: str) -> Tool[..., Any]:
        """The tool that some app lists under this name. Raises ``UnknownName``, ``AmbiguousName``."""
        ...

    def settings(self, section: str) -> Mapping[str, Any]:
        """A plugin's own section of the configuration, by the plugin's folder name; empty if not set."""
        ...

    @property
    def data(self) -> Path:
        """The folder for local files (setting ``data``); it may not be there yet."""
        ...

    @property
    def agent_middleware(self) -> Sequence[AgentMiddleware]:
        """Outermost first."""
        ...

    @property
    def clock(self) -> Clock:
        """The time."""
        ...


class Conversation(Protocol):
    """A session's append-only log and its state, as a turn sees them. What it changes is committed with the turn."""

    @property
    def id(self) -> AgentId:
        """The session's address."""
        ...

    @property
    def log(self) -> Sequence[ChatMessage]:
        """Everything said so far, this turn's own messages included."""
        ...

    def append(self, *messages: ChatMessage) -> None:
        """Add to the conversation."""
        ...

    @property
    def state(self) -> dict[str, Any]:
        """A JSON object of the agent's own; changes in place count."""
        ...
