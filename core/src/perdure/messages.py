"""Frozen facts: addresses, envelopes, chat, what a journal holds and what a store is told.

Everything that crosses a port is defined here and is a value: no callbacks, no open handles, so that
each port can also be reached through a transport. Payloads are JSON as ``bytes``; times are UTC in
seconds since the epoch (``float``); durations are seconds.

What is written once per step is a ``NamedTuple``, because it is built on the hot path; what a model
client, a person or the wire sees is a frozen pydantic model, because it is validated.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field

from perdure.errors import RetryableError

JSON: TypeAlias = "dict[str, Any] | list[Any] | str | int | float | bool | None"

JOURNAL_VERSION: Final = 1
"""The version of what this release writes; a store refuses what a newer release wrote."""

_AGENT_TYPE: Final = re.compile(r"[\w\-.]+")
_TOPIC_TYPE: Final = re.compile(r"[\w\-.:=]+")


class Fact(BaseModel):
    """A value that never changes and has no fields but its own."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


# -- addresses ---------------------------------------------------------------------------------------


class AgentId(NamedTuple):
    """The address of one agent instance: ``type/key``.

    Args:
        type: The agent's qualified name (``newsroom.reader``).
        key: Which instance: for a durable agent, the session's id.
    """

    type: str
    key: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``type/key``; raises ``ValueError`` for anything else."""
        type_, slash, key = text.partition("/")
        if not (slash and key and _AGENT_TYPE.fullmatch(type_)):
            msg = f"{text!r} is no agent id: expected 'type/key' with a type of letters, digits, '_', '-' and '.'"
            raise ValueError(msg)
        return cls(type_, key)

    def __str__(self) -> str:
        return f"{self.type}/{self.key}"


class TopicId(NamedTuple):
    """What is published on: ``type/source``.

    Args:
        type: What it is about (``orders.placed``): letters, digits, ``_``, ``-``, ``.``, ``:`` and ``=``.
        source: Where it comes from, or who it is for; any text. By default, subscriptions make it the key of the agent
            that gets the message.
    """

    type: str
    source: str = "default"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``type/source``; raises ``ValueError`` for anything else."""
        type_, slash, source = text.partition("/")
        if not (slash and _TOPIC_TYPE.fullmatch(type_)):
            msg = f"{text!r} is no topic: expected 'type/source' with a type of letters, digits and '_-.:='"
            raise ValueError(msg)
        return cls(type_, source)

    def __str__(self) -> str:
        return f"{self.type}/{self.source}"


# -- errors as data ----------------------------------------------------------------------------------


class ErrorInfo(Fact):
    """An exception as data: what is left of it in a journal or on a wire.

    Attributes:
        type: The exception's class name, qualified unless it is a builtin (``app.errors.NoSuchFile``).
        message: ``str()`` of the exception.
        retryable: Whether the one who raised it said that trying again may help.
        cause: What it was raised from.
    """

    type: str
    message: str = ""
    retryable: bool = False
    cause: ErrorInfo | None = None

    def __str__(self) -> str:
        own = f"{self.type}: {self.message}" if self.message else self.type
        cause = str(self.cause) if self.cause else ""
        return f"{own} (from {cause})" if cause and cause not in own else own

    def chain(self) -> list[ErrorInfo]:
        """This error and its causes, outermost first."""
        return [self, *(self.cause.chain() if self.cause else [])]

    @classmethod
    def of(cls, error: BaseException, *, causes: int = 20) -> ErrorInfo:
        """What is kept of an exception and of its causes, of which there may be a circle; of a group, the first.

        One with an attribute ``passed_on`` that is an ``ErrorInfo`` only carries that, and is not kept itself.
        """
        if isinstance(passed_on := getattr(error, "passed_on", None), cls):
            return passed_on
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        carried = getattr(error, "error", None)
        cause = _cause_of(error)
        return cls(
            type=name,
            # A file name that is no UTF-8 stands in messages as surrogates, which JSON does not take.
            message=str(error).encode(errors="backslashreplace").decode(),
            retryable=isinstance(error, RetryableError),
            cause=carried
            if isinstance(carried, ErrorInfo)
            else (cls.of(cause, causes=causes - 1) if cause and causes else None),
        )


def _cause_of(error: BaseException) -> BaseException | None:
    if error.__cause__ is None and isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[Any]", error).exceptions[0]
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# -- chat --------------------------------------------------------------------------------------------


class ToolCall(Fact):
    """A model asks for a tool. ``arguments`` is the text the model gave, meant to be a JSON object."""

    id: str
    name: str
    arguments: str


class ToolResult(Fact):
    """What became of a tool call: ``content`` is the text that the model is told."""

    id: str
    name: str
    content: str
    error: bool = False


class ChatMessage(Fact):
    """One entry of a conversation. ``calls`` on an assistant's, ``result`` on a tool's message only."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    result: ToolResult | None = None


class ToolSpec(Fact):
    """What a model is told about a tool; ``parameters`` is a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class Usage(Fact):
    """Tokens, as the model's service counted them."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )


class ModelRequest(Fact):
    """One question to a model.

    Attributes:
        messages: The conversation, instructions first as a ``system`` message.
        tools: What it may call.
        output_schema: A JSON schema that the answer's text must fit, or ``None`` for free text.
        max_output_tokens: Upper bound of the answer, or ``None`` for the service's own.
        settings: Provider-specific settings (temperature and the like), passed on as they are.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    output_schema: dict[str, Any] | None = None
    max_output_tokens: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


class ModelResponse(Fact):
    """A model's answer: text, tool calls, or both.

    ``finish`` is why it stopped, in the words of the OpenTelemetry conventions: ``stop``, ``length``,
    ``tool_call``, ``content_filter``.
    """

    message: ChatMessage
    model: str
    usage: Usage = Usage()
    finish: str = "stop"


# -- envelopes and routes: what a transport carries, and what it must know -----------------------------------


class Envelope(NamedTuple):
    """A message on its way, or the reply to one.

    Attributes:
        id: Unique among all senders; a reply carries the request's, and each delivery of an event the event's.
        kind: ``request`` expects one reply or error; ``reply`` and ``error`` end it; an ``event`` expects nothing.
        target: Who handles it (of a reply: who asked, or ``None`` for an outside caller). Of an event on its way
            to the transport ``None``: the subscriptions say who; or that agent only.
        type: The message type's explicit name; of an error, empty.
        payload: With ``content``, bytes; without, the message itself; of an error, an ``ErrorInfo``.
        sender: Who sent it; ``None`` for a caller outside any agent.
        headers: Trace context and the like; small text values.
        deadline: When the caller stops waiting (UTC seconds), or ``None``.
        topic: What it was published on, or ``None``.
        content: The payload's media type (``application/json``, ``application/x-protobuf``); empty where the payload is
            a live object.
    """

    id: str
    kind: Literal["request", "reply", "error", "event"]
    target: AgentId | None
    type: str
    payload: Any
    sender: AgentId | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default; envelopes are never changed in place
    deadline: float | None = None
    topic: TopicId | None = None
    content: str = ""

    @property
    def error(self) -> ErrorInfo:
        """What an error envelope carries, live or as JSON. Raises ``ValueError`` for anything else."""
        if isinstance(self.payload, bytes):
            return ErrorInfo.model_validate_json(self.payload)
        return ErrorInfo.model_validate(self.payload)

    def failed(self, error: BaseException | ErrorInfo) -> Envelope:
        """The error envelope that ends this request; as JSON, where the request was carried as bytes."""
        info = error if isinstance(error, ErrorInfo) else ErrorInfo.of(error)
        payload = info.model_dump_json().encode() if self.content else info
        return Envelope(self.id, "error", self.sender, "", payload, content=self.content and "application/json")


class Subscription(NamedTuple):
    """Who gets what is published.

    Attributes:
        id: Unique; the same for the same subscription wherever it is announced.
        agent: Qualified type of the agent.
        topic: A topic's type, or what it begins with.
        kind: ``type``: topics of exactly this type go to ``AgentId(agent, topic.source)``. ``prefix``: so do those
            whose type begins with it. ``custom``: these, too, but code where the agent lives says to which key, if any.
    """

    id: str
    agent: str
    topic: str
    kind: Literal["type", "prefix", "custom"] = "type"


class Hosted(NamedTuple):
    """An agent type that lives in a process: its qualified name, whether it is durable, what others are told."""

    type: str
    durable: bool = False
    description: str = ""


class Presence(NamedTuple):
    """What lives in one process: what a runtime announces to its transport."""

    agents: tuple[Hosted, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()


class Whereabouts(NamedTuple):
    """Where agents of a type live.

    Attributes:
        type: The agent's qualified type.
        worker: Name of the process; ``local`` in this one.
        instances: How many of them are placed or live there.
        healthy: Whether that worker answers.
        durable: Whether messages to it survive.
    """

    type: str
    worker: str
    instances: int = 0
    healthy: bool = True
    durable: bool = False


# -- runs and turns: what a store keeps -------------------------------------------------------------------

Status = Literal[
    "pending", "running", "waiting", "completed", "failed", "cancelled", "terminated", "parked", "suspended"
]
"""``pending`` is accepted and not begun, ``waiting`` costs nothing until something arrives, ``parked`` was set
aside because its code no longer fits or it killed its workers, ``suspended`` because somebody asked for it;
``terminated`` ended at once, without clean-up."""

TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "terminated"})
"""Nothing more happens to these by itself."""

HALTED: Final = frozenset({"parked", "suspended"})
"""What arrives for these waits in the inbox; only ``resume``, ``cancel`` and ``terminate`` set them going."""


class Start(NamedTuple):
    """A run of a workflow, or a turn of an agent's session, is asked for.

    Attributes:
        run: Its id, chosen by the one who asks: unguessable, unless a caller chose it on purpose.
        kind: ``workflow`` or ``turn``.
        target: Qualified name of the workflow or agent.
        input: JSON: of a workflow an object of its arguments by name, of a turn the message.
        at: When it was asked for.
        session: The session's key; turns only.
        key: Idempotency key, unique for the target: a second start with it is the first one.
        parent: The run that called it, if any; ``path`` is the call's place in that run's journal.
        path: See ``parent``; ``None`` where the parent does not wait for a reply.
        ancestry: The sessions (``type/key``) and runs that wait for this one, outermost first.
        headers: Trace context and the like.
        tags: Labels that runs are listed by.
        version: Of the workflow: what it began with is what it goes on with.
        due: Not to be begun before this time (UTC seconds), or ``None``.
        generation: How often it began anew with an empty journal.
        on_close: What becomes of it when its parent ends first; ``abandon`` leaves it alone.
        reuse: What a start with the id of an earlier run means: ``join`` is that run; ``restart`` begins it anew if
            it has finished, ``restart_failed`` if it has finished in any way but ``completed``. Not kept.
    """

    run: str
    kind: Literal["workflow", "turn"]
    target: str
    input: bytes
    at: float
    session: str | None = None
    key: str | None = None
    parent: str | None = None
    path: str | None = None
    ancestry: tuple[str, ...] = ()
    headers: dict[str, str] = {}  # noqa: RUF012 - as above
    tags: dict[str, str] = {}  # noqa: RUF012 - as above
    version: int = 1
    due: float | None = None
    generation: int = 0
    on_close: Literal["cancel", "terminate", "abandon"] = "cancel"
    reuse: Literal["join", "restart", "restart_failed"] = "join"


class Delivery(NamedTuple):
    """Something for an existing run's inbox.

    Attributes:
        run: Whom it is for.
        kind: ``reply`` of a called run, ``answer`` to a request, ``event``, ``update``; ``cancel`` with clean-up,
            ``terminate`` without, ``suspend``, or ``resume`` of a parked or suspended run.
        key: Unique in that inbox; the same key twice is one delivery. Of a reply, the call's path; of an
            answer, the request's id.
        at: When it was sent.
        value: JSON: a reply's or answer's value, an event's payload, an update's argument, the reason of others.
        error: JSON of an ``ErrorInfo``, if the called run failed.
        name: Of an event or update.
    """

    run: str
    kind: Literal["reply", "answer", "event", "update", "cancel", "terminate", "suspend", "resume"]
    key: str
    at: float
    value: bytes | None = None
    error: bytes | None = None
    name: str = ""


EntryKind = Literal[
    "begin", "step", "call", "answer", "timer", "event", "update", "cancel", "patch", "send",  # code sees these
    "attempt", "heartbeat", "updated", "rejected",  # and not these
]  # fmt: skip


class Entry(NamedTuple):
    """One line of a journal: something that happened and that code has seen, in the order it saw it.

    Attributes:
        kind: ``step`` finished, ``call`` returned, ``answer`` came, ``timer`` fired, ``event`` or ``update`` arrived,
            ``cancel`` was asked for. ``begin`` is the first line of a run that wanted anything but steps at
            once; ``patch`` that code took its new way; ``send`` that it sent a run or an event without waiting.
            ``attempt`` is a failed attempt of a step that will be tried again, ``heartbeat`` what an attempt
            reported, ``updated`` an update's outcome, ``rejected`` that of one that code refused.
        path: Structural identity: branch, name and ordinal in the branch, as ``0.2/read#1``.
        at: When it was recorded: the time that code sees from here on.
        name: Of the step, agent, workflow, request, event, update or patch; of a model step the model's.
        fingerprint: Of the input; checked on replay.
        value: JSON of the result.
        error: JSON of an ``ErrorInfo``; exactly one of value and error is set where there is an outcome.
        attempt: How many attempts there were, this one included.
        started: When the last attempt (or the call, request, timer) began.
        role: What a step does: ``model`` (its value is a ``ModelResponse``), ``tool``, or any ``step``.
        source: The author's line that asked for it, as ``orders.py:42``; for people.
    """

    kind: EntryKind
    path: str
    at: float
    name: str = ""
    fingerprint: str = ""
    value: bytes | None = None
    error: bytes | None = None
    attempt: int = 1
    started: float = 0.0
    role: Literal["step", "model", "tool"] = "step"
    source: str = ""


class Request(NamedTuple):
    """A typed question that a run waits on; answered once.

    Attributes:
        id: Unguessable.
        run: Who asks.
        path: The question's place in the asking run's journal.
        prompt: What a person reads.
        schema: JSON schema of the answer.
        at: When it was asked.
        deadline: When it closes by itself, or ``None``.
        to: Who is asked, in words of the author's (a role, an address); asked again under the same id, it is
            handed on to somebody else.
    """

    id: str
    run: str
    path: str
    prompt: str
    schema: dict[str, Any]
    at: float
    deadline: float | None = None
    to: str = ""


class Claim(NamedTuple):
    """A run that this worker now holds, and what there is for it to do.

    Attributes:
        start: What it was started with.
        epoch: The fencing token that its commits must carry.
        seq: How many entries its journal has; a machine with as many is current.
        inbox: What was delivered and not yet consumed, oldest first.
        takeovers: How many workers died holding it since it last moved on.
        rewound: Its journal was cut since: what it waits for is to be asked for again.
    """

    start: Start
    epoch: int
    seq: int = 0
    inbox: tuple[Delivery, ...] = ()
    takeovers: int = 0
    rewound: bool = False


class Loaded(NamedTuple):
    """What a machine is rebuilt from.

    Attributes:
        entries: The run's journal, oldest first.
        log: Of a turn, the session's conversation before this turn; JSON of one entry each.
        state: Of a turn, the session's state: JSON, or ``None``.
    """

    entries: tuple[Entry, ...] = ()
    log: tuple[bytes, ...] = ()
    state: bytes | None = None


class Commit(NamedTuple):
    """All that one or more activations of a run changed: written whole or not at all.

    Attributes:
        run: Which run.
        epoch: The fencing token from its ``Claim``.
        seq: The journal's length before this commit; anything else in the store is a conflict.
        at: Now.
        entries: Appended to the journal.
        consumed: Of the inbox's deliveries that this commit takes, the key and the place in the journal of the entry
            that records it; -1 where none does. A rewound journal gives them back by that place.
        starts: Runs and turns that it calls.
        deliveries: For other runs (a finished child's reply to its parent).
        asks: Requests that it opens; of one that is open already, ``to`` is changed.
        closes: Ids of requests that it withdraws; if one of them was answered, the commit conflicts.
        log: Appended to the session's conversation (turns; JSON of one entry each).
        state: The session's new state (turns), or ``None`` for no change.
        status: The run's status from here on.
        active: Whether steps of it are running: if the worker dies, it must be taken over at once. A
            commit that is neither active nor terminal releases the run.
        wake_at: The earliest of its timers, or ``None``.
        value: The result, JSON, with status ``completed``.
        error: JSON of an ``ErrorInfo``, with ``failed``, ``cancelled`` and ``parked``.
        unreported: A terminal commit that an observer has yet to report: see ``Reported``.
        progress: JSON of a ``Progress`` that people are shown from here on, or ``None`` for no change.
        again: The run begins anew: under the same id, with this start's input, version and generation, an empty
            journal and the unconsumed rest of its inbox. Its status must be ``pending``.
    """

    run: str
    epoch: int
    seq: int
    at: float
    entries: tuple[Entry, ...] = ()
    consumed: tuple[tuple[str, int], ...] = ()
    starts: tuple[Start, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    asks: tuple[Request, ...] = ()
    closes: tuple[str, ...] = ()
    log: tuple[bytes, ...] = ()
    state: bytes | None = None
    status: Status = "running"
    active: bool = True
    wake_at: float | None = None
    value: bytes | None = None
    error: bytes | None = None
    unreported: bool = False
    progress: bytes | None = None
    again: Start | None = None


class Reported(NamedTuple):
    """Observers have reported a finished run; after a crash it need not be reported again."""

    run: str


class Inquiry(NamedTuple):
    """A question to a run's code, answered by a handler that the code has set up.

    Attributes:
        run: Whom.
        kind: A ``query`` looks and changes nothing; an ``update`` is an event with an answer, and is recorded.
        name: Of the handler.
        value: Its argument, JSON.
        key: Of an update: the same key twice is one update.
    """

    run: str
    kind: Literal["query", "update"]
    name: str
    value: bytes = b"null"
    key: str = ""


class Accepted(NamedTuple):
    """The store's word that something will not be lost.

    Attributes:
        run: The run's id: of a repeated start, the first one's.
        new: Whether this call made the difference.
    """

    run: str
    new: bool


# -- views: what people and other processes are shown ---------------------------------------------------------


class RequestView(Fact):
    """A request as its answerer sees it; ``status`` is ``open``, ``answered`` or ``closed``."""

    id: str
    run: str
    path: str
    prompt: str
    answer_schema: dict[str, Any]
    at: float
    deadline: float | None = None
    status: Literal["open", "answered", "closed"] = "open"
    to: str = ""


class Progress(Fact):
    """How far a run has come, in its own words: what, and how much of how much."""

    text: str
    done: float | None = None
    total: float | None = None


class RunFilter(NamedTuple):
    """Which runs are meant: those that fit everything that is given.

    Attributes:
        target: Qualified name of the workflow or agent.
        status: Any of these.
        parent: A run's id: those that it called.
        tags: These labels with these values.
        since: Accepted at this time or later (UTC seconds).
        until: Accepted before this time.
        idle_since: Nothing was written about them at this time or later.
    """

    target: str | None = None
    status: tuple[Status, ...] = ()
    parent: str | None = None
    tags: dict[str, str] = {}  # noqa: RUF012 - as above
    since: float | None = None
    until: float | None = None
    idle_since: float | None = None


class RunView(Fact):
    """A run or turn as it stands.

    ``input`` and ``result`` are decoded JSON; ``seq`` counts journal entries; ``requests`` are the open ones, its own
    and those of the runs and turns that it called.
    """

    id: str
    kind: Literal["workflow", "turn"]
    target: str
    status: Status
    created: float
    updated: float
    input: Any = None
    session: str | None = None
    key: str | None = None
    parent: str | None = None
    path: str | None = None
    seq: int = 0
    result: Any = None
    error: ErrorInfo | None = None
    wake_at: float | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    version: int = 1
    generation: int = 0
    due: float | None = None
    ancestry: tuple[str, ...] = ()
    progress: Progress | None = None
    requests: tuple[RequestView, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL
