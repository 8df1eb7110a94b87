"""What a host does with frames: who may, who gets it, who waits for it. Sans I/O: frames in, frames into links.

Payloads are not read. A message for a worker that does not read waits here, and still stands in its sender's window: so
that sender can soon send no more, while others can. Each session has numbers of its own for its calls; between them
stand the router's, so that callers cannot meet each other's replies.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from perdure.errors import DeadlineExceeded, InvalidInput, NotPermitted, Overloaded, Undeliverable, WorkerLost
from perdure.messages import AgentId, ErrorInfo, Hosted, TopicId, Whereabouts
from perdure_hosting import wire
from perdure_hosting.carrier import Principal, permits
from perdure_hosting.desk import NoDesk
from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.placement import Registry
from perdure_hosting.reception import Session
from perdure_hosting.store_wire import TARGET as STORE
from perdure_hosting.wire_pb2 import Frame
from perdure_messaging.routing import Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perdure_hosting.desk import Desk
    from perdure_hosting.introductions import Introductions
    from perdure_hosting.link import Link
    from perdure_hosting.settings import HostSettings

_LONGEST: Final = 4096
"""Characters of each part of an address: addresses are remembered."""

_SHOWN: Final = 20
"""So many known names, or characters of one, stand in an error."""


class Member(Session):
    """A worker's session, as the router sees it.

    Attributes:
        hosts: What lives there, by agent type.
        placed: How many agents it holds, by type.
        load: How many altogether.
        calls: Its own calls that have no answer yet: its number of each, and the router's.
        serving: The router's numbers of the calls that it is to answer.
        parked: What waits for room on the way there.
        known: What it was found to be permitted or not, by ``host``, ``send`` and ``publish``.
    """

    def __init__(self, name: str, principal: Principal, link: Link, address: str) -> None:
        super().__init__(name, principal, link, address)
        self.hosts: dict[str, Hosted] = {}
        self.placed: Counter[str] = Counter()
        self.load: int = 0
        self.calls: dict[int, int] = {}
        self.serving: set[int] = set()
        self.parked: deque[Parked] = deque()
        self.known: dict[str, dict[str, bool]] = {"host": {"": True}, "send": {}, "publish": {}}

    def may(self, what: str, name: str) -> bool:
        """Whether it may ``host``, ``send`` to, or ``publish`` on a type."""
        known = self.known[what]
        allowed = known.get(name)
        if allowed is None:
            if len(known) >= 1000:  # noqa: PLR2004 - names come from outside: remember some
                known.clear()
            allowed = known[name] = permits(getattr(self.principal, f"may_{what}"), name)
        return allowed


class Call:
    """A request that has no answer yet.

    Attributes:
        origin: Who asked.
        number: Its own number of the call.
        there: Who is to answer.
        target: The agent.
        locate: Whether the origin wants to know where that lives.
    """

    __slots__ = ("locate", "number", "origin", "target", "there")

    def __init__(self, origin: Member, number: int, there: Member, target: AgentId, locate: bool) -> None:  # noqa: FBT001 - made in one place
        self.origin = origin
        self.number = number
        self.there = there
        self.target = target
        self.locate = locate


class Acceptance:
    """An event that waits for room on the way to some who get it.

    Attributes:
        origin: Who published it.
        number: Its number of the call.
        size: Bytes that are not yet taken over.
        left: For how many workers it waits.
    """

    __slots__ = ("left", "number", "origin", "size")

    def __init__(self, origin: Member, number: int, size: int) -> None:
        self.origin = origin
        self.number = number
        self.size = size
        self.left = 0


class Parked:
    """A message that waits for room.

    Attributes:
        raw: The frame for the worker.
        since: When it came (UTC seconds).
        call: Of a request, the router's number; else 0.
        origin: Of a request, in whose window it stands until it is taken over, or ``None``.
        size: With how many bytes.
        acceptance: Of an event, what waits for it.
    """

    __slots__ = ("acceptance", "call", "origin", "raw", "since", "size")

    def __init__(self, raw: bytes, since: float, acceptance: Acceptance | None = None) -> None:
        self.raw = raw
        self.since = since
        self.call = 0
        self.origin: Member | None = None
        self.size = 0
        self.acceptance = acceptance

    @classmethod
    def request(cls, raw: bytes, since: float, call: int, origin: Member, size: int) -> Parked:
        """One that is to be answered; ``size`` 0: it is taken over already."""
        parked = cls(raw, since)
        parked.call, parked.origin, parked.size = call, origin, size
        return parked

    def taken(self) -> None:
        """A request waits no more: its sender's window has room for another."""
        if self.origin is not None and self.size:
            self.origin.link.took(self.size)
            self.origin.wake()


class Router:
    """Routes between the members of one host.

    Args:
        settings: How.
        introductions: Tells members where to reach each other, or ``None``.

    Attributes:
        members: By name.
        registry: Which agents live where.
        routes: Who gets what is published.
        calls: What has no answer yet, by the router's number.
        desk: What is done with the host's store.
        now: The time, as of the last packet or sweep (UTC seconds).
    """

    def __init__(self, settings: HostSettings, introductions: Introductions | None = None) -> None:
        self.members: dict[str, Member] = {}
        self.registry: Registry[Member] = Registry(settings.agents)
        self.routes = Routes(remembered=settings.topics)
        self.calls: dict[int, Call] = {}
        self.desk: Desk = NoDesk()
        self.now: float = 0.0
        self._settings = settings
        self._introductions = introductions
        self._last = 0
        self._aging: deque[tuple[float, int]] = deque()
        self._forgets = 0.0
        self._handlers: dict[int, Callable[[Member, bytes, Frame], None]] = {
            Frame.REQUEST: self._request,
            Frame.REPLY: self._answer,
            Frame.ERROR: self._answer,
            Frame.EVENT: self._event,
            Frame.CANCEL: self._cancel,
            Frame.ANNOUNCE: self._announce,
            Frame.DISCOVER: self._discover,
        }

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything, and all frames have arrived."""
        return not self.calls and not any(each.parked or each.link.held for each in self.members.values())

    def arrived(self, member: Member, frames: Sequence[bytes]) -> None:
        """These came from a member; perhaps none, but room. Raises ``ProtocolViolated``."""
        handlers, parsed = self._handlers, wire.parsed
        for raw in frames:
            frame = parsed(raw)
            handler = handlers.get(frame.kind)
            if handler is not None:
                handler(member, raw, frame)
            elif frame.call:
                msg = f"a frame of kind {frame.kind}, which this host does not know: install a newer release there"
                member.put(wire.failure(frame.call, InvalidInput(msg)))
        if member.parked:
            self._unpark(member)

    # -- requests

    def _request(self, origin: Member, raw: bytes, frame: Frame) -> None:
        origin.link.arrived(len(raw))
        call, target = frame.call, AgentId(frame.target_type, frame.target_key)
        if target.type == STORE:
            self.desk.begin(origin, frame, len(raw))
            return
        if call in origin.calls:
            msg = f"call {call} is under way already: each call needs a number of its own"
            raise ProtocolViolated(msg)
        there = self._refusal(origin, frame, target) or self.registry.place(target) or self._nobody(target)
        if isinstance(there, Exception):
            origin.link.took(len(raw))
            origin.put(wire.failure(call, there))
            return
        self._last = number = self._last + 1
        origin.calls[call] = number
        self.calls[number] = Call(origin, call, there, target, frame.locate)
        if self._settings.deadline and not frame.deadline:
            self._age(number)
        self._to(there, number, wire.renumbered(raw, number), len(raw))

    def _to(self, there: Member, number: int, raw: bytes, size: int) -> None:
        """Hand a request on, or park it; ``size`` is what its origin is waiting for to be taken over."""
        call = self.calls[number]
        call.there = there
        there.serving.add(number)
        if there.parked or not there.link.room:
            there.parked.append(Parked.request(raw, self.now, number, call.origin, size))
            return
        if call.locate and self._introductions is not None:
            self._introductions.announce(call.origin, there)
        there.put(raw, counted=True)
        if size:
            call.origin.link.took(size)

    def _answer(self, member: Member, raw: bytes, frame: Frame) -> None:
        call = self.calls.get(frame.call)
        if call is None or call.there is not member:
            return  # nobody waits for it any more, or it is not theirs to answer
        self._done(frame.call, call)
        if call.locate and self._introductions is not None and (located := self._introductions.of(call.origin, member)):
            call.origin.put(
                Frame(
                    kind=Frame.LOCATED, target_type=call.target.type, target_key=call.target.key, located=located
                ).SerializeToString()
            )
        call.origin.put(wire.renumbered(raw, call.number))

    def _cancel(self, origin: Member, _raw: bytes, frame: Frame) -> None:
        number = origin.calls.get(frame.call)
        if number is not None:
            self._drop(number)
        else:
            self.desk.cancel(origin, frame.call)

    def _drop(self, number: int) -> Call:
        """Nobody waits for that call any more."""
        call = self.calls[number]
        self._done(number, call)
        call.there.put(wire.note(Frame.CANCEL, number))
        return call

    def _done(self, number: int, call: Call) -> None:
        del self.calls[number]
        call.origin.calls.pop(call.number, None)
        call.there.serving.discard(number)

    def _fail(self, number: int, call: Call, error: Exception) -> None:
        self._done(number, call)
        call.origin.put(wire.failure(call.number, error))

    def _age(self, number: int) -> None:
        aging = self._aging
        while aging and aging[0][1] not in self.calls:
            aging.popleft()
        aging.append((self.now + self._settings.deadline, number))

    # -- events

    def _event(self, origin: Member, raw: bytes, frame: Frame) -> None:
        size = len(raw)
        origin.link.arrived(size)
        if frame.targets:
            msg = "an event with several targets: only hosts send such"
            raise ProtocolViolated(msg)
        target = AgentId(frame.target_type, frame.target_key) if frame.target_type else None
        refusal = self._refusal(origin, frame, target) or self._unheard(target)
        if refusal is not None:
            origin.link.took(size)
            origin.put(wire.failure(frame.call, refusal))
            return
        acceptance: Acceptance | None = None
        for there, agents in self._recipients(frame, target).items():
            if there is None:
                acceptance = acceptance or Acceptance(origin, frame.call, size)
                acceptance.left += 1
                self.desk.accept(frame, agents, acceptance)
                continue
            addressed = wire.addressed(raw, agents)
            if there.link.room and not there.parked:
                there.put(addressed, counted=True)
            else:
                acceptance = acceptance or Acceptance(origin, frame.call, size)
                acceptance.left += 1
                there.parked.append(Parked(addressed, self.now, acceptance))
        if acceptance is not None:
            origin.put(wire.note(Frame.PENDING, frame.call))
        else:
            origin.link.took(size)

    def _unheard(self, target: AgentId | None) -> Exception | None:
        """Why an event to one agent would get lost, if it would."""
        if target is None or self.desk.keeps(target.type) or self.registry.host(target.type) is not None:
            return None
        return self._nobody(target)

    def _recipients(self, frame: Frame, target: AgentId | None) -> dict[Member | None, list[AgentId]]:
        """Which agents get it, by worker; under ``None``, for whom it goes into the store.

        Of an agent without a key, custom subscriptions are to be asked there.
        """
        topic = TopicId(frame.topic_type, frame.topic_source) if frame.topic_type else None
        agents, custom = self.routes.recipients(topic) if topic else ((), ())
        if target is not None:  # if it has a topic, too, a custom subscription says so; others may have said it before
            agents, custom = (() if target in agents else (target,)), ()
        sender = AgentId(frame.sender_type, frame.sender_key)
        found: dict[Member | None, list[AgentId]] = {}
        for agent in agents:
            if agent == sender:
                continue
            if self.desk.keeps(agent.type):
                found.setdefault(None, []).append(agent)
            elif (there := self.registry.place(agent)) is not None:
                found.setdefault(there, []).append(agent)
        for type_ in custom:
            if self.desk.keeps(type_):
                found.setdefault(None, []).append(AgentId(type_, ""))
            elif (there := self.registry.host(type_)) is not None:
                found.setdefault(there, []).append(AgentId(type_, ""))
        return found

    def _publish(self, there: Member, raw: bytes, acceptance: Acceptance) -> None:
        if there.parked or not there.link.room:
            acceptance.left += 1
            there.parked.append(Parked(raw, self.now, acceptance))
        else:
            there.put(raw, counted=True)

    def settle(self, acceptance: Acceptance, error: Exception | None = None) -> None:
        """It waits for one worker less. The first error is what the publisher hears."""
        acceptance.left -= 1
        origin, number = acceptance.origin, acceptance.number
        if number and (error is not None or not acceptance.left):
            acceptance.number = 0
            origin.put(wire.failure(number, error) if error is not None else wire.note(Frame.DONE, number))
        if not acceptance.left:
            origin.link.took(acceptance.size)
            origin.wake()

    # -- room

    def _unpark(self, there: Member) -> None:
        while there.parked and there.link.room:
            parked = there.parked.popleft()
            parked.taken()
            if parked.acceptance is not None:
                there.put(parked.raw, counted=True)
                self.settle(parked.acceptance)
            elif parked.call in self.calls:
                there.put(parked.raw, counted=True)

    # -- what lives where

    def _announce(self, member: Member, _raw: bytes, frame: Frame) -> None:
        presence = wire.presence_of(frame)
        types = {each.type for each in presence.agents} | {each.agent for each in presence.subscriptions}
        count = len(presence.agents) + len(presence.subscriptions)
        if count > self._settings.announced:
            msg = (
                f"{count} agent types and subscriptions, more than the {self._settings.announced} of the host's setting"
            )
            member.put(wire.failure(frame.call, InvalidInput(msg)))
            return
        forbidden = sorted(type_ for type_ in types if not member.may("host", type_))
        if forbidden:
            msg = (
                f"{member.principal.name!r} may not host {forbidden!r}; it may host {list(member.principal.may_host)!r}"
            )
            member.put(wire.failure(frame.call, NotPermitted(msg)))
            return
        self.registry.announce(member, presence.agents)
        self.routes.replace(member.name, presence.subscriptions)
        self.desk.announced(member, presence, frame.call)

    def _discover(self, member: Member, _raw: bytes, frame: Frame) -> None:
        member.put(wire.found(self.whereabouts(), frame.call))

    def whereabouts(self) -> list[Whereabouts]:
        """Which agent types live where; nowhere, if messages are kept for them until somebody hosts them again."""
        well = [each.name for each in self.members.values() if each.line is not None]
        found = self.registry.whereabouts(well)
        kept = set(self.desk.kept()).difference(each.type for each in found)
        return sorted([*found, *(Whereabouts(type_, "", healthy=False, durable=True) for type_ in kept)])

    def _nobody(self, target: AgentId) -> Undeliverable:
        known = self.registry.types()
        listed = ", ".join(known[:_SHOWN]) + (" ..." if len(known) > _SHOWN else "")
        return Undeliverable(f"no worker hosts agent {str(target)!r}; hosted: {listed or 'nothing'}")

    def _refusal(self, member: Member, frame: Frame, target: AgentId | None) -> Exception | None:
        sender, known = frame.sender_type, member.known
        what = "send" if target else "publish"
        name, key = target or (frame.topic_type, frame.topic_source)
        if known[what].get(name) and known["host"].get(sender) and len(key) + len(frame.sender_key) <= _LONGEST:
            return None  # what is so nearly always
        if max(map(len, (name, key, sender, frame.sender_key))) > _LONGEST:
            return InvalidInput(f"an address with more than {_LONGEST} characters: {name[:_SHOWN]!r}...")
        if target is not None and frame.topic_type and target.type in member.hosts:
            return None  # code of a custom subscription says who gets what another one published
        if not member.may(what, name):
            return NotPermitted(f"{member.principal.name!r} may not {what} {'to' if target else 'on'} {name!r}")
        if not member.may("host", sender):
            return NotPermitted(f"{member.principal.name!r} may not send in the name of {sender!r}")
        return None

    # -- coming and going

    def joined(self, member: Member) -> None:
        """A new member."""
        self.members[member.name] = member

    def lost(self, member: Member) -> None:
        """A member is gone: what it was to answer fails or goes elsewhere, what it asked for is called off."""
        del self.members[member.name]
        self.desk.lost(member)
        self.registry.remove(member)
        self.routes.replace(member.name, ())
        for number in list(member.calls.values()):
            self._drop(number)
        doubtful, safe = member.link.unacknowledged()
        self._again(member, (raw for raw in doubtful if wire.parsed(raw).kind == Frame.EVENT))
        self._again(member, safe)
        for parked in member.parked:
            if parked.acceptance is not None:
                self._again(member, (parked.raw,))
                self.settle(parked.acceptance)
            else:
                parked.taken()
                if parked.call in self.calls:
                    self._elsewhere(parked.call, parked.raw)
        member.parked.clear()
        for number in list(member.serving):
            call = self.calls[number]
            msg = f"worker {member.name!r} was lost before it answered for agent {str(call.target)!r}: send it again"
            self._fail(number, call, WorkerLost(msg))

    def _again(self, lost: Member, frames: Iterable[bytes]) -> None:
        """Send to others what a lost member certainly has not handled, or of events perhaps has not."""
        for raw in frames:
            frame = wire.parsed(raw)
            if frame.kind == Frame.REQUEST and frame.call in self.calls:
                self._elsewhere(frame.call, raw)
            elif frame.kind == Frame.EVENT:
                targets = [AgentId(*each) for each in zip(frame.targets[::2], frame.targets[1::2], strict=True)]
                del frame.targets[:]
                bare = frame.SerializeToString()
                for target in targets:
                    if self.desk.keeps(target.type):
                        acceptance = Acceptance(lost, 0, 0)
                        acceptance.left = 1
                        self.desk.accept(frame, [target], acceptance)
                        continue
                    there = self.registry.place(target) if target.key else self.registry.host(target.type)
                    if there is not None and there is not lost:
                        self._publish(there, wire.addressed(bare, (target,)), Acceptance(lost, 0, 0))

    def _elsewhere(self, number: int, raw: bytes) -> None:
        call = self.calls[number]
        call.there.serving.discard(number)
        there = self.registry.place(call.target)
        if there is not None:
            self._to(there, number, raw, 0)
        else:
            self._fail(number, call, WorkerLost(f"the last worker that hosts agent {str(call.target)!r} was lost"))

    def sweep(self, now: float) -> None:
        """What waits for too long ends. Call it about once a second."""
        self.now = now
        while self._aging and self._aging[0][0] <= now:
            _, number = self._aging.popleft()
            if number in self.calls:
                call = self._drop(number)
                msg = (
                    f"agent {str(call.target)!r} did not answer within {self._settings.deadline} s, the host's deadline"
                )
                call.origin.put(wire.failure(call.number, DeadlineExceeded(msg)))
        for member in list(self.members.values()):
            while member.parked and member.parked[0].since + self._settings.patience <= now:
                self._give_up(member, member.parked.popleft())
        if now - self._forgets >= self._settings.forget:
            self._forgets = now
            self.registry.forget()

    def _give_up(self, member: Member, parked: Parked) -> None:
        parked.taken()
        msg = f"worker {member.name!r} takes no more messages: {self._settings.window_frames} or their bytes are unread"
        if parked.acceptance is not None:
            self.settle(parked.acceptance, Overloaded(f"{msg}; others that are subscribed may have got this one"))
        elif parked.call in self.calls:
            self._fail(parked.call, self.calls[parked.call], Overloaded(msg))

    def fail_all(self, error: Exception) -> None:
        """End every call with that error, and call off its handler."""
        info = ErrorInfo.of(error)
        for number in list(self.calls):
            call = self._drop(number)
            call.origin.put(wire.failure(call.number, info))
