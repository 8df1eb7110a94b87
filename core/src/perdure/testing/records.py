"""What the memory store keeps of runs, sessions and requests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import from_json

from perdure.messages import (
    TERMINAL,
    AgentId,
    Delivery,
    Entry,
    ErrorInfo,
    Request,
    RequestView,
    RunFilter,
    Start,
    Status,
)


@dataclass(eq=False)
class Run:
    """A run or turn. ``told`` counts the deliveries that its holder knows of; ``told_due`` is the timer it knows of."""

    start: Start
    created: float
    updated: float
    status: Status = "pending"
    active: bool = False
    wake_at: float | None = None
    epoch: int = 0
    holder: str | None = None
    takeovers: int = 0
    entries: list[Entry] = field(default_factory=list[Entry])
    delivered: dict[str, Delivery] = field(default_factory=dict[str, Delivery])
    consumed: set[str] = field(default_factory=set[str])
    told: int = 0
    told_due: float | None = None
    value: bytes | None = None
    error: bytes | None = None
    unreported: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL

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
            and (which.since is None or self.start.at >= which.since)
            and (which.until is None or self.start.at < which.until)
            and (which.idle_since is None or self.updated < which.idle_since)
        )

    def inbox(self) -> tuple[Delivery, ...]:
        """What was delivered and not consumed, oldest first."""
        return tuple(item for key, item in self.delivered.items() if key not in self.consumed)

    def due(self, now: float) -> bool:
        """Whether its timer is."""
        return self.wake_at is not None and self.wake_at <= now

    def has_work(self, now: float) -> bool:
        """Whether it should be claimed, if nobody holds it and its turn has come."""
        if self.status == "parked":
            return False
        return self.status == "pending" or self.active or self.due(now) or bool(self.inbox())


@dataclass(eq=False)
class Session:
    """A session: its turns that are not terminal, first come first; what each turn said; its state."""

    queue: deque[str] = field(default_factory=deque[str])
    log: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    state: bytes | None = None


@dataclass(eq=False)
class Question:
    """A request and what became of it."""

    request: Request
    status: Literal["open", "answered", "closed"] = "open"


def request_view(question: Question) -> RequestView:
    """The request as its answerer sees it."""
    request = question.request
    return RequestView(
        id=request.id,
        run=request.run,
        path=request.path,
        prompt=request.prompt,
        answer_schema=request.schema,
        at=request.at,
        deadline=request.deadline,
        status=question.status,
    )


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
