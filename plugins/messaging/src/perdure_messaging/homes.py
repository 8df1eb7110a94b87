"""What lives here: each agent type with what executes it, and how its messages and replies travel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from perdure import Agent, Reply, encoding
from perdure.direct import Memory
from perdure.errors import PluginMissing, Undeliverable, UnknownName
from perdure.messages import AgentId, Envelope, Hosted, Presence
from perdure_messaging.actors import Actor
from perdure_messaging.wire import JSON, Known, Packed, annotation_of, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perdure.catalog import Catalog
    from perdure.messages import TopicId
    from perdure.ports import TurnHandler
    from perdure_messaging.contexts import MessageContext

REPLY: Final = "perdure.reply"
"""The name under which the reply of an LLM agent travels: its output is read as that agent declares it."""


class Resident:
    """An agent that is no ``Actor``: executed by its own plugin, with a conversation for each key."""

    def __init__(self, declared: Any, handler: TurnHandler) -> None:
        self._declared: Any = declared
        self._chats = isinstance(declared, Agent)
        self._handler = handler
        self._conversations: dict[AgentId, tuple[Memory, asyncio.Lock]] = {}

    def conversation(self, address: AgentId) -> Memory:
        """What was said, as long as the runtime lives."""
        return self._conversations.setdefault(address, (Memory(address), asyncio.Lock()))[0]

    async def turn(self, ctx: MessageContext, message: Any) -> Any:
        """Hand a message to what executes the agent."""
        if not self._chats:
            return await self._handler.turn(ctx, self._declared, message)
        message = self._declared.decode_input(self._declared.encode_input((message,), {}))
        async with self._conversations[ctx.address][1]:  # one at a time, as durable turns
            return await self._handler.turn(ctx, self._declared, message)

    def __len__(self) -> int:
        return len(self._conversations)


class Homes:
    """Agents by qualified type, made when they are first asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._homes: dict[str, Actor[Any] | Resident] = {}
        self._full: dict[str, str] = {}
        self._known: Known | None = None

    def find(self, type_: str) -> Actor[Any] | Resident:
        """What lives here under a qualified type. Raises ``Undeliverable``, ``PluginMissing``."""
        home = self._homes.get(type_)
        if home is None:
            try:
                declared, handler = self._catalog.handler(type_)
            except UnknownName as error:
                raise Undeliverable(str(error)) from error
            is_actor = isinstance(declared, Actor)
            home = self._homes[type_] = cast("Actor[Any]", declared) if is_actor else Resident(declared, handler)
        return home

    def names(self) -> frozenset[str]:
        """The qualified types of all agents that are declared here."""
        return frozenset(self._catalog.names("agent"))

    def actor(self, type_: str) -> Actor[Any]:
        """The message agent of a qualified type. Raises ``Undeliverable``."""
        home = self.find(type_)
        if not isinstance(home, Actor):
            msg = f"agent {type_!r} is no message agent"
            raise Undeliverable(msg)
        return home

    def resolved(self, to: AgentId) -> AgentId:
        """An address with the qualified type; as it is, where nothing here has that name. Raises ``AmbiguousName``."""
        full = self._full.get(to.type)
        if full is None:
            try:
                full = self._full[to.type] = self._catalog.find("agent", to.type)[0]
            except UnknownName:
                return to  # it may live elsewhere: the transport knows
        return to if full == to.type else AgentId(full, to.key)

    def presence(self) -> Presence:
        """What is announced: all that something installed executes."""
        agents: list[Hosted] = []
        for name, declared in sorted(self._catalog.declared("agent").items()):
            try:
                self._catalog.handler(name)
            except PluginMissing:
                continue
            agents.append(Hosted(name, getattr(declared, "durable", False), getattr(declared, "description", "")))
        interests = ((name, each) for name, actor in self.actors() for each in actor.subscriptions)
        return Presence(tuple(agents), tuple(interest.of(name) for name, interest in interests))

    def actors(self) -> Iterator[tuple[str, Actor[Any]]]:
        """Message agents by qualified type."""
        yield from (each for each in self._catalog.declared("agent").items() if isinstance(each[1], Actor))

    def custom(self, type_: str, topic: TopicId) -> list[AgentId]:
        """Whom the agent's own code names for a topic, but for those whom its other subscriptions name."""
        actor = self.find(type_)
        matching = [each for each in actor.subscriptions if each.matches(topic)] if isinstance(actor, Actor) else []
        keys = dict.fromkeys(each.key(topic) for each in matching if each.key is not None)
        plain = {topic.source for each in matching if each.key is None}
        return [AgentId(type_, key) for key in keys if key is not None and key not in plain]

    # -- for transports that serialise

    @property
    def known(self) -> Known:
        """The types of all messages and replies that are declared here."""
        if self._known is None:
            self._known = Known()
            for _, actor in self.actors():
                self._known.add(handler.message for each in actor.handlers.values() for handler in each)
                self._known.add(actor.replies)
        return self._known

    def packed(self, envelope: Envelope) -> Envelope:
        """A live request or event as bytes. Raises ``NotEncodable``."""
        if envelope.content:
            return envelope
        where = f"the message to {str(envelope.target or envelope.topic)!r}"
        return _with(envelope, pack(envelope.payload, type(envelope.payload), where))

    def unpacked(self, envelope: Envelope) -> Envelope:
        """A request or event as live message. Raises ``InvalidInput``, ``Undeliverable``."""
        if not envelope.content:
            return envelope
        packed = Packed(envelope.type, envelope.content, envelope.payload)
        home = self.find(envelope.target.type) if envelope.target else None
        if isinstance(home, Actor):
            message = home.unpack(packed, self.known)
        else:
            message = unpack(packed, self.known, f"the message to {str(envelope.target)!r}")
        return envelope._replace(payload=message, content="")

    def packed_reply(self, reply: Envelope, target: AgentId) -> Envelope:
        """A live reply as bytes. Raises ``NotEncodable``."""
        if reply.content:
            return reply
        if reply.kind == "error":
            return reply._replace(payload=reply.error.model_dump_json().encode(), content=JSON)
        home = self.find(target.type)
        if isinstance(home, Actor):
            return _with(reply, home.pack_reply(reply.payload))
        if isinstance(reply.payload, Reply):
            answered = cast("Any", reply).payload
            data: bytes = self._catalog.find("agent", target.type)[1].encode_result(answered)
            return _with(reply, Packed(REPLY, JSON, data))
        where = f"the reply of {str(target)!r}"
        return _with(reply, pack(reply.payload, annotation_of(reply.payload, [Any]), where))

    def unpacked_reply(self, reply: Envelope, target: AgentId) -> Any:
        """The live reply of an agent, wherever that lives. Raises ``InvalidInput``."""
        if not reply.content:
            return reply.payload
        packed, where = Packed(reply.type, reply.content, reply.payload), f"the reply of {str(target)!r}"
        declared: Any = self._catalog.declared("agent").get(target.type)
        if packed.type == REPLY:
            known = hasattr(declared, "decode_result")
            return (
                declared.decode_result(packed.payload) if known else encoding.decode(packed.payload, Reply[Any], where)
            )
        if isinstance(declared, Actor):
            return declared.unpack_reply(packed)
        return unpack(packed, self.known, where)


def _with(envelope: Envelope, packed: Packed) -> Envelope:
    return envelope._replace(type=packed.type, payload=packed.payload, content=packed.content)
