"""What lives here: each agent type with what executes it, and how its messages and replies travel."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from perdure import Agent, Reply, encoding
from perdure.direct import Memory
from perdure.errors import PayloadTooLarge, PluginMissing, Undeliverable, UnknownName
from perdure.messages import AgentId, Envelope, Hosted, Presence
from perdure_messaging.actors import Actor
from perdure_messaging.message_types import JSON
from perdure_messaging.wire import Known, annotation_of, envelope_of, pack, unpack

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
    """Agents by qualified type, made when they are first asked for.

    Args:
        catalog: Which there are.
        limit: Bytes that a message may have.

    Attributes:
        short: The qualified type that a short one stands for here; ``None`` where that is not clear.
    """

    def __init__(self, catalog: Catalog, limit: int) -> None:
        self._catalog = catalog
        self._agents = catalog.declared("agent")
        self._limit = limit
        self._homes: dict[str, Actor[Any] | Resident] = {}
        self.short: dict[str, str | None] = {}
        for full in self._agents:
            short = full.rpartition(".")[2]
            self.short[short] = None if short in self.short else full

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

    def actor(self, type_: str) -> Actor[Any]:
        """The message agent of a qualified type. Raises ``Undeliverable``."""
        home = self.find(type_)
        if not isinstance(home, Actor):
            msg = f"agent {type_!r} is no message agent"
            raise Undeliverable(msg)
        return home

    def resolved(self, to: AgentId) -> AgentId:
        """An address with the qualified type; as it is, where nothing here has that name. Raises ``AmbiguousName``."""
        if to.type not in self.short:
            return to  # where it lives elsewhere, the transport knows
        return AgentId(self.short[to.type] or self._catalog.find("agent", to.type)[0], to.key)

    def presence(self) -> Presence:
        """What is announced: all that something installed executes."""
        agents: list[Hosted] = []
        for name, declared in sorted(self._agents.items()):
            try:
                self._catalog.handler(name)
            except PluginMissing:
                continue
            agents.append(Hosted(name, getattr(declared, "durable", False), getattr(declared, "description", "")))
        interests = ((name, each) for name, actor in self.actors() for each in actor.subscriptions)
        return Presence(tuple(agents), tuple(interest.of(name) for name, interest in interests))

    def actors(self) -> Iterator[tuple[str, Actor[Any]]]:
        """Message agents by qualified type."""
        yield from (each for each in self._agents.items() if isinstance(each[1], Actor))

    def custom(self, type_: str, topic: TopicId) -> list[AgentId]:
        """Whom the agent's own code names for a topic, but for those whom its other subscriptions name."""
        actor = self.find(type_)
        matching = [each for each in actor.subscriptions if each.matches(topic)] if isinstance(actor, Actor) else []
        keys = dict.fromkeys(each.key(topic) for each in matching if each.key is not None)
        plain = {topic.source for each in matching if each.key is None}
        return [AgentId(type_, key) for key in keys if key is not None and key not in plain]

    # -- for transports that serialise

    @cached_property
    def known(self) -> Known:
        """The types of all messages and replies that are declared here."""
        known = Known()
        for _, actor in self.actors():
            known.add(handler.message for each in actor.handlers.values() for handler in each)
            known.add(actor.replies)
        return known

    def packed(self, envelope: Envelope) -> Envelope:
        """A request or event as bytes. Raises ``NotEncodable``, ``PayloadTooLarge``."""
        id_, kind, target, type_, payload, sender, headers, deadline, topic, content = envelope
        where = f"the message to {'/'.join(target or topic or ())!r}"
        if not content:
            type_, content, payload = pack(payload, type(payload), where)
        if len(payload) > self._limit:
            msg = (
                f"{where} has {len(payload):,} bytes, the limit is {self._limit:,} (setting max_payload):"
                " pass a reference, such as a path, or raise the limit"
            )
            raise PayloadTooLarge(msg)
        return envelope_of((id_, kind, target, type_, payload, sender, headers, deadline, topic, content))

    def unpacked(self, envelope: Envelope) -> Envelope:
        """A request or event as live message. Raises ``InvalidInput``, ``Undeliverable``."""
        id_, kind, target, type_, _, sender, headers, deadline, topic, content = envelope
        if not content:
            return envelope
        home = (self._homes.get(target.type) or self.find(target.type)) if target else None
        if isinstance(home, Actor):
            message = home.unpack(envelope, self.known)
        else:
            message = unpack(envelope, self.known, f"the message to {str(target)!r}")
        return envelope_of((id_, kind, target, type_, message, sender, headers, deadline, topic, ""))

    def packed_reply(self, request: Envelope, payload: Any, target: AgentId) -> Envelope:
        """The reply of an agent to a request, as bytes. Raises ``NotEncodable``."""
        home = self._homes.get(target.type) or self.find(target.type)
        if isinstance(home, Actor):
            type_, content, data = home.pack_reply(payload)
        elif isinstance(payload, Reply):
            declared = self._catalog.find("agent", target.type)[1]
            type_, content, data = REPLY, JSON, declared.encode_result(cast("Any", payload))
        else:
            type_, content, data = pack(payload, annotation_of(payload, [Any]), f"the reply of {str(target)!r}")
        return Envelope(request.id, "reply", request.sender, type_, data, content=content)

    def unpacked_reply(self, reply: Envelope, target: AgentId | None) -> Any:
        """The live reply of an agent, wherever that lives. Raises ``InvalidInput``."""
        if not reply.content:
            return reply.payload
        declared: Any = self._agents.get(target.type) if target else None
        where = f"the reply of {'/'.join(target or ())!r}"
        if reply.type == REPLY:
            known = hasattr(declared, "decode_result")
            return declared.decode_result(reply.payload) if known else encoding.decode(reply.payload, Reply[Any], where)
        return declared.unpack_reply(reply) if isinstance(declared, Actor) else unpack(reply, self.known, where)
