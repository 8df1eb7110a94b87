"""``MessageContext``: what a message agent's handler sees while it handles a message."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

from perdure.direct import DirectContext, Memory
from perdure.messages import AgentId, TopicId
from perdure_messaging.actors import Actor

if TYPE_CHECKING:
    from perdure.context import Callee
    from perdure.messages import Envelope
    from perdure.ports import Clock, Conversation
    from perdure_messaging.instances import Slot


class Post(Protocol):
    """What a handler's context needs of the messenger."""

    clock: Clock

    async def message(
        self, ctx: MessageContext, kind: Literal["call", "send", "publish"], to: Any, message: object
    ) -> Any:
        """Carry a message by address or topic."""
        ...

    async def call_actor(self, ctx: MessageContext, callee: Actor[Any], message: object, session: str | None) -> Any:
        """Call a declared message agent with a live message."""
        ...

    async def call(self, ctx: MessageContext, callee: Callee, payload: bytes, session: str | None) -> bytes:
        """Call anything else."""
        ...


class MessageContext(DirectContext):
    """The direct context of one message. Made for each message, so it does little as it is made.

    Attributes:
        address: The agent that handles the message.
        within: The context of what waits for this message in this process, if anything does.
        active: Whether the handler is at work.
    """

    active: bool = True
    _ordinal: int = 0

    def __init__(self, post: Post, envelope: Envelope, address: AgentId, slot: Slot | None) -> None:
        self.address = address
        self.within = handling.get()
        self._post = post
        self._envelope = envelope
        self._slot = slot

    @property
    def _clock(self) -> Clock:
        return self._post.clock

    @property
    def _run_id(self) -> str:
        envelope = self._envelope  # an event may have several receivers, and what each of them does is its own
        return envelope.id if envelope.kind == "request" else f"{envelope.id}/{self.address}"

    @property
    def message(self) -> Envelope:
        return self._envelope

    @property
    def session(self) -> Conversation:
        if self._slot is None:
            return Memory(self.address)
        if self._slot.memory is None:
            self._slot.memory = Memory(self.address)
        return self._slot.memory

    def waits_for(self, address: AgentId) -> bool:
        """Whether what this code is part of is waited for by an agent, as far as this process knows."""
        ctx: MessageContext | None = self
        while ctx is not None and ctx.active:
            if ctx.address == address:
                return True
            ctx = ctx.within
        return False

    def _identity(self, name: str) -> str:
        self._ordinal += 1
        return f"{name}#{self._ordinal - 1}"

    async def _message(self, kind: Literal["call", "send", "publish"], to: Any, message: object, /) -> Any:
        return await self._post.message(self, kind, to, message)

    async def _called(
        self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any], session: str | None, source: str
    ) -> Any:
        if isinstance(callee, Actor) and len(args) == 1 and not kwargs:
            return await self._post.call_actor(self, cast("Actor[Any]", callee), args[0], session)
        return await super()._called(callee, args, kwargs, session, source)

    async def _call(self, callee: Callee, payload: bytes, session: str | None, source: str = "") -> Any:  # noqa: ARG002 - there is no journal to name it in
        return callee.decode_result(await self._post.call(self, callee, payload, session))


handling: Final[ContextVar[MessageContext | None]] = ContextVar("perdure_messaging_handling", default=None)
"""The message that this code is part of. Tasks inherit it, so it follows what is sent within the process."""


def topic_of(to: TopicId | str, sender: AgentId | None) -> TopicId:
    """The topic that an author means: of a type alone, the source is the key of the agent that publishes."""
    return TopicId(to, sender.key if sender else "default") if isinstance(to, str) else to
