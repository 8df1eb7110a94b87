"""The service ``agents.AgentRpc``: lets AutoGen's workers join a host, unmodified."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import grpc.aio

from perdure.errors import InvalidInput, NotPermitted, PerdureError
from perdure.messages import Subscription
from perdure_hosting import Principal, WorkerSettings, pair
from perdure_hosting.carrier import permits
from perdure_hosting.client import LinkTransport
from perdure_hosting.deadlines import Deadlines
from perdure_transport_grpc.autogen import agent_worker_pb2 as pb, directory
from perdure_transport_grpc.autogen.directory import Directory
from perdure_transport_grpc.autogen.member import Member
from perdure_transport_grpc.autogen.settings import AutogenSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence

    from perdure.ports import Clock
    from perdure_hosting import MemoryCarrier
    from perdure_hosting.host import Host

    Admit = Callable[[Iterable[tuple[str, str | bytes]], Mapping[str, Sequence[bytes]]], Principal]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_log = logging.getLogger("perdure.autogen")

_SERVICE: Final = "agents.AgentRpc"
_PATIENCE: Final = 10.0
"""Seconds that other calls wait for the channel of their worker to open."""

_DRAIN: Final = 1.0
"""Seconds for what a worker that is gone had begun."""

_STATE: Final = (
    "this host does not carry OpenControlChannel: the state of agents is saved and loaded where they live, and"
    " perdure agents keep theirs themselves"
)


def _anybody(_metadata: object, _shown: object) -> Principal:
    return Principal("autogen")


class AutogenService:
    """AutoGen's workers on one host.

    Args:
        host: What they join.
        clock: The host's time.
        settings: How.
        admit: Says who comes, by the call's metadata and what TLS has verified; raises ``NotPermitted``.
    """

    def __init__(
        self,
        host: Host,
        clock: Clock,
        settings: AutogenSettings | None = None,
        admit: Admit = _anybody,
    ) -> None:
        self._host = host
        self._clock = clock
        self._settings = settings or AutogenSettings()
        self._admit = admit
        self._directory = Directory(host)
        self._deadlines = Deadlines(clock)
        self._members: dict[str, asyncio.Future[Member | None]] = {}  # by client-id; None: it did not come about
        self._opened = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()
        self._stopped = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Offer the service there."""
        channels = {"OpenChannel": (self._open_channel, pb.Message), "OpenControlChannel": (self._refuse, pb.Message)}
        calls: dict[str, tuple[Any, Any]] = {
            "RegisterAgent": (self._register, pb.RegisterAgentTypeRequest),
            "AddSubscription": (self._subscribe, pb.AddSubscriptionRequest),
            "RemoveSubscription": (self._unsubscribe, pb.RemoveSubscriptionRequest),
            "GetSubscriptions": (self._subscriptions, pb.GetSubscriptionsRequest),
        }
        handlers = {
            name: grpc.stream_stream_rpc_method_handler(do, read.FromString, pb.Message.SerializeToString)
            for name, (do, read) in channels.items()
        }
        handlers |= {
            name: grpc.unary_unary_rpc_method_handler(do, read.FromString, _written)
            for name, (do, read) in calls.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))

    async def stop(self) -> None:
        """Take no new workers, let finish what is under way, then let all go. Stop the host after it. Idempotent."""
        self._stopped = True
        members = [each.result() for each in self._members.values() if each.done()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain):
                await asyncio.gather(*(each.finish() for each in members if each is not None))
        for client_id in list(self._members):
            self._leave(client_id)
        while self._leaving:
            await asyncio.wait(set(self._leaving))
        await self._deadlines.stop()

    # -- channels

    async def _open_channel(self, messages: AsyncIterable[pb.Message], context: Context) -> None:
        client_id, principal = await self._caller(context)
        if self._stopped:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the host stops")
        if client_id in self._members:
            msg = f"there is a channel with the client-id {client_id!r} already: each worker needs one of its own"
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, msg)
        joined = self._members[client_id] = asyncio.get_running_loop().create_future()
        self._opened.set()
        try:
            try:
                member = await self.join(principal)
            except PerdureError as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            joined.set_result(member)
            await self._converse(member, messages, context)
        finally:
            self._leave(client_id)

    async def _converse(self, member: Member, messages: AsyncIterable[pb.Message], context: Context) -> None:
        """Read and write until one of both has an end."""
        await context.send_initial_metadata(())
        reading = asyncio.create_task(member.read(messages))
        reading.add_done_callback(lambda _: member.outbox.close())
        try:
            while (message := await member.outbox.take()) is not None:
                await context.write(message)
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled() and (error := reading.exception()) is not None:
                _log.warning("worker %r was let go: %s: %s", member.name, type(error).__name__, error)

    async def _refuse(self, _messages: AsyncIterable[pb.Message], context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _STATE)

    async def join(self, principal: Principal) -> Member:
        """A worker of the host, by a link in memory; whoever asks for it stops it. Raises ``PerdureError``."""

        async def dial(_address: str = "") -> MemoryCarrier:
            near, far = pair(principal)
            self._host.accept(far)
            return near

        name = f"autogen-{secrets.token_hex(6)}"  # not its client-id: who knows that can speak for it
        handling = self._settings.handling
        settings = WorkerSettings(name=name, handlers=handling, drain=_DRAIN, connect=_PATIENCE, direct=False)
        transport = LinkTransport(dial, self._clock, settings)
        member = Member(
            name,
            principal,
            transport,
            directory=self._directory,
            deadlines=self._deadlines,
            clock=self._clock,
            settings=self._settings,
        )
        try:
            await member.start()
        except BaseException:
            await transport.stop()
            raise
        return member

    def _leave(self, client_id: str) -> None:
        """Its channel has ended. What follows does not depend on the call that had it, which may be cancelled."""
        joined = self._members.pop(client_id, None)
        if joined is None:
            return
        if not joined.done():
            joined.set_result(None)
        elif (member := joined.result()) is not None:
            task = asyncio.create_task(self._left(member))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _left(self, member: Member) -> None:
        await member.stop()
        for type_ in member.types:
            del self._directory.holders[type_]
        member.left.set()

    # -- other calls

    async def _register(self, request: pb.RegisterAgentTypeRequest, context: Context) -> pb.RegisterAgentTypeResponse:
        member, type_ = await self._member(context), request.type
        await self._permit(type_, member, context)
        holders = self._directory.holders
        while (holder := holders.get(type_)) is not None and holder.gone:
            await holder.left.wait()
        if member.gone or holder is not None or self._directory.taken(type_):
            msg = f"Agent type {type_} already registered: an AutoGen worker's types live there only"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, msg)
        holders[type_] = member
        member.types[type_] = None
        try:
            await member.announce()
        except PerdureError as error:
            del member.types[type_], holders[type_]
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return pb.RegisterAgentTypeResponse()

    async def _subscribe(self, request: pb.AddSubscriptionRequest, context: Context) -> pb.AddSubscriptionResponse:
        member = await self._member(context)
        kind = request.subscription.WhichOneof("subscription")
        if kind == "type_subscription":
            wanted = request.subscription.type_subscription
            added = Subscription(request.subscription.id, wanted.agent_type, wanted.topic_type)
        else:
            prefixed = request.subscription.type_prefix_subscription
            added = Subscription(request.subscription.id, prefixed.agent_type, prefixed.topic_type_prefix, "prefix")
        if kind is None or not added.id:
            msg = "a subscription without an id, or of no known kind"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, msg)
        await self._permit(added.agent, member, context)
        if added.id in member.subscriptions or any(added[1:] == each[1:] for each in member.subscriptions.values()):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Subscription already exists")
        member.subscriptions[added.id] = added
        await self._announce(member, context)
        return pb.AddSubscriptionResponse()

    async def _unsubscribe(
        self, request: pb.RemoveSubscriptionRequest, context: Context
    ) -> pb.RemoveSubscriptionResponse:
        member = await self._member(context)
        if member.subscriptions.pop(request.id, None) is None:
            msg = f"Subscription does not exist: {request.id!r} is none of this worker's"
            await context.abort(grpc.StatusCode.NOT_FOUND, msg)
        await self._announce(member, context)
        return pb.RemoveSubscriptionResponse()

    async def _subscriptions(
        self, _request: pb.GetSubscriptionsRequest, context: Context
    ) -> pb.GetSubscriptionsResponse:
        """Those of the one who asks: what others listen to is not told."""
        member = await self._member(context)
        answer = pb.GetSubscriptionsResponse()
        for id_, agent, topic, kind in member.subscriptions.values():
            found = answer.subscriptions.add(id=id_)
            if kind == "prefix":
                found.type_prefix_subscription.agent_type = agent
                found.type_prefix_subscription.topic_type_prefix = topic
            else:
                found.type_subscription.agent_type = agent
                found.type_subscription.topic_type = topic
        return answer

    # -- who calls

    async def _caller(self, context: Context) -> tuple[str, Principal]:
        metadata = dict(context.invocation_metadata() or ())
        client_id = metadata.get("client-id")
        if not isinstance(client_id, str) or not client_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "client-id metadata not found.")
        try:
            return client_id, self._admitted(metadata, context)
        except NotPermitted as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    def _admitted(self, metadata: Mapping[str, str | bytes], context: Context) -> Principal:
        """Who calls. Raises ``NotPermitted``."""
        settings = self._settings
        if settings.without_token and "authorization" not in metadata:
            return Principal("autogen", settings.may_host, settings.may_send, settings.may_publish, may_store=False)
        return self._admit(metadata.items(), {name: list(shown) for name, shown in context.auth_context().items()})

    async def _member(self, context: Context) -> Member:
        """Whose call it is. A call may overtake the channel that was opened before it."""
        client_id, principal = await self._caller(context)
        member: Member | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while client_id not in self._members:
                    self._opened.clear()
                    await self._opened.wait()
                member = await asyncio.shield(self._members[client_id])
        if member is None:
            msg = f"no channel with the client-id {client_id!r}: call OpenChannel first, and keep it"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, msg)
        if member.principal.name != principal.name:
            msg = f"the channel with the client-id {client_id!r} is not of {principal.name!r}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, msg)
        return member

    async def _permit(self, type_: str, member: Member, context: Context) -> None:
        """Abort unless it is an agent type that may live with that worker."""
        try:
            directory.check_type(type_)
        except InvalidInput as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if not permits(member.principal.may_host, type_):
            msg = f"{member.principal.name!r} may not host {type_!r}; it may host {list(member.principal.may_host)!r}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, msg)

    async def _announce(self, member: Member, context: Context) -> None:
        try:
            await member.announce()
        except PerdureError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


def _written(message: Any) -> bytes:
    return message.SerializeToString()
