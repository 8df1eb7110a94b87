"""How a message becomes a turn of a durable agent, and the end of that turn the reply.

Whoever accepts messages for durable agents (a runtime, a host, another agent's turn) makes the same turn of the same
message, so that however often and on however many ways it comes, the store keeps one: its key is the message's id and
the agent's key.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from pydantic_core import from_json, to_json

from perdure.errors import UsageError
from perdure.messages import AgentId, Envelope, ErrorInfo, Fact, Start, TopicId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.messages import RunView

ANCESTRY: Final = "perdure-ancestry"
"""The header that says who waits for a message, outermost first: JSON of a list of addresses."""

JSON_CONTENT: Final = "application/json"
POSTS: Final = "perdure.posts"
"""The type of what an agent's turn leaves to be sent after its commit; no message type of anybody's."""


class Posts:
    """What a turn left to be sent after its commit: the input of the turn that does it."""

    def __init__(self, payload: bytes) -> None:
        self.outgoing: list[Any] = from_json(payload)


ROUTE: Final = "perdure.route"
"""The type of an event of which an agent's own code is to say who gets it; no message type of anybody's."""

CUSTOM: Final = "~custom"
"""The key of the session in which it does."""


class Routed:
    """An event that an agent's own code is to route: the input of the turn that does it."""

    def __init__(self, payload: bytes) -> None:
        self.message: dict[str, Any] = from_json(payload)


class Facts(Fact):
    """What a turn knows of its message, besides what the message says.

    Attributes:
        id: The message's id.
        kind: Whether anybody waits for the reply.
        sender: Address of the agent that sent it.
        topic: What it was published on.
        deadline: When its sender stops waiting (UTC seconds).
    """

    id: str
    kind: Literal["request", "event"] = "request"
    sender: str | None = None
    topic: str | None = None
    deadline: float | None = None

    @classmethod
    def of(cls, envelope: Envelope) -> Facts:
        """Those of a request or event."""
        return cls(
            id=envelope.id,
            kind="event" if envelope.kind == "event" else "request",
            sender=str(envelope.sender) if envelope.sender else None,
            topic=str(envelope.topic) if envelope.topic else None,
            deadline=envelope.deadline,
        )

    def envelope(self, target: AgentId | None, type_: str, payload: Any, headers: Mapping[str, str]) -> Envelope:
        """The envelope again, with a payload that is live."""
        return Envelope(
            self.id,
            self.kind,
            target,
            type_,
            payload,
            AgentId.parse(self.sender) if self.sender else None,
            dict(headers),
            self.deadline,
            TopicId.parse(self.topic) if self.topic else None,
        )


def tagged(type_: str, content: str, payload: bytes, facts: Facts | None = None) -> bytes:
    """A payload as the journal keeps it: JSON of its type, its value, and the facts about it."""
    of = b"" if facts is None else b',"of":%b' % facts.model_dump_json(exclude_defaults=True).encode()
    if content == JSON_CONTENT:
        return b'{"type":%b,"value":%b%b}' % (to_json(type_), payload or b"null", of)
    value = to_json(b64encode(payload).decode())
    return b'{"type":%b,"value":%b,"content":%b%b}' % (to_json(type_), value, to_json(content), of)


def untagged(value: Mapping[str, Any]) -> tuple[str, str, bytes]:
    """Type, media type and payload of what ``tagged`` made, read as JSON."""
    content = cast("str", value.get("content") or JSON_CONTENT)
    payload = to_json(value["value"]) if content == JSON_CONTENT else b64decode(value["value"])
    return cast("str", value["type"]), content, payload


def ancestry_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Who waits for a message with these headers, outermost first."""
    return tuple(from_json(headers[ANCESTRY])) if ANCESTRY in headers else ()


def with_ancestry(headers: Mapping[str, str], ancestry: tuple[str, ...]) -> dict[str, str]:
    """Headers that say who waits."""
    own = {name: value for name, value in headers.items() if name != ANCESTRY}
    return {**own, ANCESTRY: to_json(ancestry).decode()} if ancestry else own


def turn_of(envelope: Envelope, *, at: float, run: str = "") -> Start:
    """The turn that a message is for a durable agent.

    Args:
        envelope: A request or an event with a target; its payload is bytes (``content`` is set).
        at: Now.
        run: The turn's id; by default an unguessable one. (The store keeps that of the first turn with this key.)

    Raises:
        UsageError: The envelope is of another kind.
    """
    target = envelope.target
    if target is None or not target.key or not envelope.content or envelope.kind not in {"request", "event"}:
        msg = f"message {envelope.id!r} cannot become a turn: expected a request or event to an agent, as bytes"
        raise UsageError(msg)
    return Start(
        run=run or f"turn_{secrets.token_hex(16)}",
        kind="turn",
        target=target.type,
        input=tagged(envelope.type, envelope.content, envelope.payload, Facts.of(envelope)),
        at=at,
        session=target.key,
        key=f"{envelope.id}/{target.key}",
        ancestry=ancestry_of(envelope.headers) if envelope.kind == "request" else (),
        headers=with_ancestry(envelope.headers, ()),
        on_close="abandon",
    )


def routing_of(envelope: Envelope, *, at: float) -> Start:
    """The turn in which code of a durable agent says which agents of its type get an event.

    What it names are turns, too, in its commit: the same as if the event had come for each of them.

    Args:
        envelope: An event with a topic; of its target only the type counts.
        at: Now.

    Raises:
        UsageError: The envelope is of another kind.
    """
    target = AgentId(envelope.target.type, CUSTOM) if envelope.target else None
    inner = tagged(envelope.type, envelope.content, envelope.payload) if envelope.content else b""
    content = envelope.content and JSON_CONTENT
    return turn_of(envelope._replace(target=target, type=ROUTE, content=content, payload=inner), at=at)


def answer_of(envelope: Envelope, view: RunView) -> Envelope:
    """The reply or error envelope that ends a request, from the turn that it became: finished, or set aside.

    A reply carries bytes, whatever the request carried.
    """
    if view.status == "completed":
        type_, content, payload = untagged(view.result)
        return Envelope(envelope.id, "reply", envelope.sender, type_, payload, content=content)
    error = view.error or ErrorInfo(type="perdure.errors.RunCancelled", message=f"its turn was {view.status}")
    if view.status == "parked":
        msg = f"the turn {view.id!r} is set aside; with the same id, the message can be sent again once that is fixed"
        error = ErrorInfo(type="perdure.errors.RunParked", message=msg, cause=error)
    return envelope.failed(error)
