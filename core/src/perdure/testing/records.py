"""What the memory store keeps of runs, sessions and requests, and how it shows them."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError
from pydantic_core import from_json

from perdure.messages import (
    HALTED,
    TERMINAL,
    AgentId,
    Delivery,
    Entry,
    ErrorInfo,
    Progress,
    Request,
    RequestView,
    RunFilter,
    RunView,
    Start,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


_ENDS: Final = frozenset({"cancel", "terminate"})
"""What does not wait until a run is due."""
_WAKES: Final = _ENDS | {"resume"}
"""A halted run is woken by these alone: anything else would only make it fail, and park, again."""


@dataclass(eq=False)
class Run:
    """A run or turn.

    Attributes:
        order: Its place in the order of acceptance.
        life: Under what number it speaks in its session: another one each time it begins with an empty journal.
        delayed: Whether it is not to begin before ``wake_at``.
        fresh: Whether there is something in its inbox that its holder does not know of.
        told_due: The timer that its holder knows to be due.
        delivered: All that it was ever sent, by key, oldest first.
        inbox: What of that is unconsumed.
        places: Which entry each consumed delivery is recorded by, where one is.
        questions: What it asked.
        asking: What of that is open, and what is open of those that it called.
        children: Those that it started and that have not finished.
        alarm: The agenda's.
        damaged: Whether what is kept of it does not match its checksum.
    """

    start: Start
    order: int
    life: int
    created: float
    updated: float
    status: Status = "pending"
    active: bool = False
    wake_at: float | None = None
    epoch: int = 0
    holder: str | None = None
    delayed: bool = False
    takeovers: int = 0
    rewound: bool = False
    fresh: bool = False
    told_due: float | None = None
    entries: list[Entry] = field(default_factory=list[Entry])
    delivered: dict[str, Delivery] = field(default_factory=dict[str, Delivery])
    inbox: dict[str, Delivery] = field(default_factory=dict[str, Delivery])
    places: dict[str, int] = field(default_factory=dict[str, int])
    questions: dict[str, Question] = field(default_factory=dict[str, "Question"])
    asking: dict[str, Question] = field(default_factory=dict[str, "Question"])
    children: dict[str, Run] = field(default_factory=dict[str, "Run"])
    value: bytes | None = None
    error: bytes | None = None
    progress: bytes | None = None
    unreported: bool = False
    alarm: Any = None
    damaged: bool = False

    @property
    def id(self) -> str:
        """Its id."""
        return self.start.run

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL

    @property
    def halted(self) -> bool:
        """Whether it was set aside."""
        return self.status in HALTED

    @property
    def session(self) -> AgentId | None:
        """Whose turn it is."""
        key = self.start.session
        return None if key is None else AgentId(self.start.target, key)

    def fits(self, which: RunFilter) -> bool:
        """Whether it is one of those that are meant."""
        return (
            which.target in {None, self.start.target}
            and (not which.status or self.status in which.status)
            and which.parent in {None, self.start.parent}
            and all(self.start.tags.get(tag) == value for tag, value in which.tags.items())
            and (which.since is None or self.created >= which.since)
            and (which.until is None or self.created < which.until)
            and (which.idle_since is None or self.updated < which.idle_since)
        )

    def due(self, now: float) -> bool:
        """Whether its timer is."""
        return self.wake_at is not None and self.wake_at <= now

    def has_work(self, now: float) -> bool:
        """Whether it should be claimed, if nobody holds it and its turn has come."""
        if self.finished or self.halted:
            return False
        if self.delayed:
            return self.due(now)
        return self.status == "pending" or self.active or self.due(now) or bool(self.inbox)

    def hear(self, delivery: Delivery) -> None:
        """Put a delivery into the inbox; go on, if it says so."""
        self.delivered[delivery.key] = self.inbox[delivery.key] = delivery
        self.fresh = True
        self.updated = max(self.updated, delivery.at)
        if self.halted and delivery.kind in _WAKES:
            self.status, self.error, self.delayed, self.takeovers = "pending", None, False, 0
            if delivery.kind == "resume" and self.start.due is not None and self.start.due > delivery.at:
                self.delayed, self.wake_at = True, self.start.due
        elif self.delayed and delivery.kind in _ENDS:
            self.delayed, self.wake_at = False, None

    def untold(self, now: float) -> bool:
        """Whether there is something that its holder does not know."""
        return self.fresh or (self.due(now) and self.told_due != self.wake_at)

    def consume(self, consumed: Iterable[tuple[str, int]]) -> None:
        """Take deliveries from the inbox."""
        for key, place in consumed:
            if self.inbox.pop(key, None) is not None and place >= 0:
                self.places[key] = place

    def give_back(self, seq: int) -> None:
        """Put into the inbox again what entries from ``seq`` on had taken; what had ended it is forgotten."""
        back = {key for key, place in self.places.items() if place >= seq}
        for key in back:
            del self.places[key]
            if self.delivered[key].kind == "cancel" or self.delivered[key].error is not None:
                del self.delivered[key]
        self.inbox = {key: item for key, item in self.delivered.items() if key in self.inbox or key in back}

    def begin_anew(self, start: Start, life: int) -> None:
        """Go on as the next generation: an empty journal, the unconsumed rest of the inbox, keys still known.

        What answered calls and requests of the last generation is known no more: their places in the code come again.
        """
        self.start = self.start._replace(input=start.input, version=start.version, generation=start.generation)
        self.life = life
        self.entries = []
        self.places = {}
        self.delivered = {
            key: item
            for key, item in self.delivered.items()
            if key in self.inbox or item.kind not in {"reply", "answer"}
        }

    def view(self, *, whole: bool = True) -> RunView:
        """The run as people are shown it; without input, result and requests unless ``whole``."""
        start = self.start
        return RunView(
            id=start.run,
            kind=start.kind,
            target=start.target,
            status=self.status,
            created=self.created,
            updated=self.updated,
            input=decoded(start.input) if whole else None,
            session=start.session,
            key=start.key,
            parent=start.parent,
            path=start.path,
            seq=len(self.entries),
            result=decoded(self.value) if whole else None,
            error=error_of(self.error),
            wake_at=self.wake_at,
            headers=dict(start.headers),
            tags=dict(start.tags),
            version=start.version,
            generation=start.generation,
            due=start.due,
            ancestry=start.ancestry,
            progress=progress_of(self.progress),
            requests=tuple(shown(self.asking.values())) if whole else (),
        )


@dataclass(eq=False)
class Session:
    """A session: who speaks in it, and what was said.

    Attributes:
        queue: Turns that are not terminal, in the order of acceptance.
        log: What was said, and in which life.
        state: The state.
        current: The turn that has begun and is not terminal.
        latest: The turn that was the last one to begin.
        highest: The highest place in the order of acceptance of those that have begun.
    """

    queue: list[tuple[int, Run]] = field(default_factory=list[tuple[int, Run]])
    log: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    state: bytes | None = None
    current: Run | None = None
    latest: Run | None = None
    highest: int = -1
    _stated: int | None = None
    _earlier: bytes | None = None

    def join(self, turn: Run) -> None:
        """Stand in the queue, in the order of acceptance."""
        insort(self.queue, (turn.order, turn), key=lambda item: item[0])

    def begin(self, turn: Run) -> None:
        """The turn is claimed."""
        self.current = self.latest = turn
        self.highest = max(self.highest, turn.order)

    def say(self, turn: Run, log: Iterable[bytes], state: bytes | None) -> None:
        """The turn adds to the conversation."""
        self.log.extend((turn.life, data) for data in log)
        if state is not None:
            if self._stated != turn.life:
                self._stated, self._earlier = turn.life, self.state
            self.state = state

    def unsay(self, turn: Run) -> None:
        """The session is as it was before this turn, upon which nobody has built."""
        self.log = [(life, data) for life, data in self.log if life != turn.life]
        if self._stated == turn.life:
            self.state, self._stated, self._earlier = self._earlier, None, None

    def end(self, turn: Run) -> None:
        """The turn is terminal."""
        self.queue.remove((turn.order, turn))
        self.current = None

    def front(self, now: float) -> list[Run]:
        """The turns that no earlier one holds up: the one that has begun; else all up to the first that is due."""
        if self.current is not None:
            return [self.current]
        turns: list[Run] = []
        for _, turn in self.queue:
            turns.append(turn)
            if not turn.delayed or turn.due(now):
                break
        return turns


@dataclass(eq=False)
class Question:
    """A request and what became of it; ``order`` is its place among all that were ever asked."""

    request: Request
    order: int
    status: Literal["open", "answered", "closed"] = "open"

    def view(self) -> RequestView:
        """The request as its answerer sees it."""
        request = self.request
        return RequestView(
            id=request.id,
            run=request.run,
            path=request.path,
            prompt=request.prompt,
            answer_schema=request.schema,
            at=request.at,
            deadline=request.deadline,
            status=self.status,
            to=request.to,
        )


def shown(questions: Iterable[Question]) -> list[RequestView]:
    """The requests, oldest first."""
    return [question.view() for question in sorted(questions, key=lambda question: question.order)]


def decoded(payload: bytes | None) -> Any:
    """What the JSON says; what a codec made unreadable stays ``bytes``, for the engine to decode."""
    if payload is None:
        return None
    try:
        return from_json(payload)
    except ValueError:
        return payload


def error_of(payload: bytes | None) -> ErrorInfo | None:
    """The error as data; that it is unreadable, where a codec made it so."""
    if payload is None:
        return None
    try:
        return ErrorInfo.model_validate_json(payload)
    except ValidationError:
        return ErrorInfo(type="unreadable", message="the error is stored in a form that only the engine's codecs read")


def progress_of(payload: bytes | None) -> Progress | None:
    """The progress as data; nothing, where a codec made it unreadable."""
    try:
        return None if payload is None else Progress.model_validate_json(payload)
    except ValidationError:
        return None
