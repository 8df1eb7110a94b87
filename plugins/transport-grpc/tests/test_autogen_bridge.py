"""What AutoGen's workers might say, word by word, from clients that can say what those never would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode, aio

from perdure import AgentId
from perdure.clock import SystemClock
from perdure.errors import Overloaded, WorkerLost
from perdure.messages import Envelope, ErrorInfo, Hosted, Presence, Subscription, TopicId
from perdure_transport_grpc import GrpcTransport, Settings
from perdure_transport_grpc.autogen import agent_worker_pb2 as pb
from perdure_transport_grpc.autogen.settings import AutogenSettings

from .autogen_network import TIMEOUT, Meeting

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
TOKEN = "a-token-that-is-long-enough"
CALLS: dict[str, Any] = {
    "RegisterAgent": pb.RegisterAgentTypeResponse,
    "AddSubscription": pb.AddSubscriptionResponse,
    "RemoveSubscription": pb.RemoveSubscriptionResponse,
    "GetSubscriptions": pb.GetSubscriptionsResponse,
}


class Client:
    """Speaks the wire of AutoGen's workers."""

    def __init__(self, address: str, id: str, **metadata: str) -> None:
        self._metadata = (("client-id", id), *metadata.items()) if id else tuple(metadata.items())
        self._channel = aio.insecure_channel(address)
        self.stream: Any = None

    async def open(self, name: str = "OpenChannel") -> None:
        self.stream = self._channel.stream_stream(
            f"/agents.AgentRpc/{name}", pb.Message.SerializeToString, pb.Message.FromString
        )(metadata=self._metadata)
        async with asyncio.timeout(TIMEOUT):
            await self.stream.initial_metadata()

    async def call(self, name: str, request: Any) -> Any:
        method = self._channel.unary_unary(
            f"/agents.AgentRpc/{name}", type(request).SerializeToString, CALLS[name].FromString
        )
        async with asyncio.timeout(TIMEOUT):
            return await method(request, metadata=self._metadata)

    async def register(self, type: str) -> None:
        await self.call("RegisterAgent", pb.RegisterAgentTypeRequest(type=type))

    async def subscribe(self, id: str, agent: str, topic: str = "", prefix: str = "") -> None:
        subscription = pb.Subscription(id=id)
        if topic:
            subscription.type_subscription.agent_type, subscription.type_subscription.topic_type = agent, topic
        else:
            subscription.type_prefix_subscription.agent_type = agent
            subscription.type_prefix_subscription.topic_type_prefix = prefix
        await self.call("AddSubscription", pb.AddSubscriptionRequest(subscription=subscription))

    async def says(self, **message: Any) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self.stream.write(pb.Message(**message))

    async def asks(self, to: str, number: str = "1", **request: Any) -> None:
        given = {"target": pb.AgentId(type=to, key="a"), "payload": pb.Payload(data_type="Q", data=b'"?"')} | request
        await self.says(request=pb.RpcRequest(request_id=number, **given))

    async def hears(self) -> pb.Message:
        async with asyncio.timeout(TIMEOUT):
            message = await self.stream.read()
        assert message is not aio.EOF
        return message

    async def refused(self) -> tuple[StatusCode, str]:
        """How the stream ended."""
        async with asyncio.timeout(TIMEOUT):
            return await self.stream.code(), await self.stream.details()

    async def close(self) -> None:
        await self._channel.close()


class Desk:
    """A worker of ours, on the level of envelopes."""

    def __init__(self, transport: GrpcTransport) -> None:
        self.transport = transport
        self.delivered: list[Envelope] = []
        self.answer: Callable[[Envelope], Envelope] = lambda asked: asked._replace(kind="reply", target=asked.sender)
        self._changed = asyncio.Event()

    async def deliver(self, envelope: Envelope) -> Envelope:
        self.delivered.append(envelope)
        self._changed.set()
        return self.answer(envelope)

    async def has(self, count: int) -> list[Envelope]:
        async with asyncio.timeout(TIMEOUT):
            while len(self.delivered) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.delivered


class Bench(Meeting):
    """A meeting with such clients and desks."""

    @asynccontextmanager
    async def client(self, id: str = "one", *types: str, **metadata: str) -> AsyncIterator[Client]:
        client = Client(self.listener.address, id, **metadata)
        await client.open()
        for each in types:
            await client.register(each)
        yield client
        await client.close()

    async def desk(self, *types: str, subs: tuple[Subscription, ...] = (), **settings: Any) -> Desk:
        transport = GrpcTransport(Settings(host=self.listener.address, drain=0.1, **settings), SystemClock())
        desk = Desk(transport)
        async with asyncio.timeout(TIMEOUT):
            await transport.start(desk.deliver)
            await transport.announce(Presence(tuple(map(Hosted, types)), subs))
        self._stack.push_async_callback(transport.stop)
        return desk


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench(settings=AutogenSettings(deadline=3600)) as bench:
        yield bench


def request(to: str, payload: bytes = b'"?"', content: str = JSON, type: str = "Q", **more: Any) -> Envelope:
    return Envelope("m1", "request", AgentId(to, "a"), type, payload, content=content, **more)


def event(topic: str = "news", payload: bytes = b'"!"', **more: Any) -> Envelope:
    given = {"content": JSON, "topic": TopicId(topic, "here")} | more
    return Envelope(
        more.pop("id", "e1"), "event", None, "N", payload, **{key: given[key] for key in given if key != "id"}
    )


# -- who may come -------------------------------------------------------------------------------------------


async def test_a_client_without_an_id_is_refused(bench: Bench):
    async with bench.client("") as client:
        assert await client.refused() == (StatusCode.INVALID_ARGUMENT, "client-id metadata not found.")


async def test_a_second_client_with_the_same_id_is_refused_and_the_first_goes_on(bench: Bench):
    async with bench.client("one", "clerk") as first, bench.client("one") as second:
        code, said = await second.refused()
        assert code == StatusCode.ALREADY_EXISTS
        assert "each worker needs one of its own" in said
        await first.asks("nobody")
        assert (await first.hears()).response.error.startswith("Undeliverable: ")


async def test_who_knows_a_client_id_cannot_read_it_from_a_directory(bench: Bench):
    desk = await bench.desk("reader")
    async with bench.client("secret-id", "clerk") as client:
        assert "secret-id" not in repr(await desk.transport.agents())
        await client.asks("nobody")
        assert "secret-id" not in (await client.hears()).response.error


async def test_a_call_before_the_channel_waits_for_it(bench: Bench):
    client = Client(bench.listener.address, "late")
    registering = asyncio.ensure_future(client.register("clerk"))
    await client.open()
    await registering
    await client.close()


async def test_the_control_channel_is_refused_with_a_reason(bench: Bench):
    client = Client(bench.listener.address, "one")
    await client.open("OpenControlChannel")
    code, said = await client.refused()
    assert code == StatusCode.UNIMPLEMENTED
    assert "saved and loaded where they live" in said
    await client.close()


@pytest.mark.parametrize("type", ["", "a b", "a/b", "ä:"])
async def test_what_is_no_agent_type_is_refused(type: str, bench: Bench):
    async with bench.client() as client:
        with pytest.raises(aio.AioRpcError, match="is no agent type") as caught:
            await client.register(type)
        assert caught.value.code() == StatusCode.INVALID_ARGUMENT


async def test_tokens_and_permissions_hold_for_these_workers_too():
    grant = {
        "name": "clerks",
        "token": TOKEN,
        "may_host": ("clerk",),
        "may_send": ("reader",),
        "may_publish": ("news",),
    }
    async with Bench(tokens=(grant, {"name": "desks", "token": TOKEN * 2})) as bench:
        desk = await bench.desk("reader", token=TOKEN * 2, subs=(Subscription("s", "reader", "news"),))
        async with bench.client("none") as client:
            assert (await client.refused())[0] == StatusCode.UNAUTHENTICATED
        async with bench.client("one", "clerk", authorization=f"Bearer {TOKEN}") as client:
            with pytest.raises(aio.AioRpcError, match="'clerks' may not host 'critic'"):
                await client.register("critic")
            await client.asks("writer")
            assert (await client.hears()).response.error == "NotPermitted: 'clerks' may not send to 'writer'"
            await client.asks("reader", source=pb.AgentId(type="critic", key="a"))
            assert (
                await client.hears()
            ).response.error == "NotPermitted: 'clerks' may not send in the name of 'critic'"
            await client.says(cloud_event=pb.CloudEvent(id="1", type="olds", source="a", binary_data=b"1"))
            await client.says(cloud_event=pb.CloudEvent(id="2", type="news", source="a", binary_data=b"2"))
            assert [each.payload for each in await desk.has(1)] == [b"2"]
            other = Client(bench.listener.address, "one", authorization=f"Bearer {TOKEN * 2}")
            with pytest.raises(aio.AioRpcError, match="is not of 'desks'"):
                await other.register("clerk2")
            await other.close()


async def test_workers_may_come_without_a_token_where_that_is_said():
    settings = AutogenSettings(without_token=True, may_host=("clerk",))
    async with Bench(settings=settings, tokens=({"name": "desks", "token": TOKEN},)) as bench:
        async with bench.client("one", "clerk") as client:
            with pytest.raises(aio.AioRpcError, match="'autogen' may not host 'critic'"):
                await client.register("critic")
        async with bench.client("two", authorization="Bearer wrong") as client:
            assert (await client.refused())[0] == StatusCode.UNAUTHENTICATED


# -- requests -----------------------------------------------------------------------------------------------


async def test_payloads_pass_as_they_are_with_trace_context(bench: Bench):
    desk = await bench.desk("reader")
    async with bench.client("one", "clerk") as client:
        trace = {"traceparent": "00-1", "perdure-ancestry": "reader/a"}
        data = b'{"not": "looked at'
        await client.asks(
            "reader",
            "41",
            source=pb.AgentId(type="clerk", key="b"),
            payload=pb.Payload(data_type="Q", data_content_type=JSON, data=data),
            metadata=trace,
        )
        answer = (await client.hears()).response
        assert (answer.request_id, answer.payload.data_type, answer.payload.data) == ("41", "Q", data)
        [asked] = desk.delivered
        assert (asked.target, asked.sender, asked.type) == (AgentId("reader", "a"), AgentId("clerk", "b"), "Q")
        assert asked.headers == {"traceparent": "00-1"}
        assert asked.deadline is not None


async def test_protobuf_payloads_are_packed_there_and_bare_here(bench: Bench):
    desk = await bench.desk("reader")
    struct, packed = Struct(), Packed()
    struct.update({"a": 1.5})
    packed.Pack(struct)
    async with bench.client("one", "clerk") as client:
        name = "google.protobuf.Struct"
        payload = pb.Payload(data_type=name, data_content_type=PROTOBUF, data=packed.SerializeToString())
        await client.asks("reader", payload=payload)
        assert (await client.hears()).response.payload == payload
        [asked] = desk.delivered
        assert (asked.type, asked.content, asked.payload) == (name, PROTOBUF, struct.SerializeToString())
        answering = asyncio.ensure_future(
            desk.transport.send(request("clerk", struct.SerializeToString(), PROTOBUF, name))
        )
        asked = (await client.hears()).request
        assert asked.payload == payload
        await client.says(response=pb.RpcResponse(request_id=asked.request_id, payload=payload))
        assert (await answering).payload == struct.SerializeToString()
        await client.asks("reader", payload=pb.Payload(data_type=name, data_content_type=PROTOBUF, data=b"\xff"))
        assert (await client.hears()).response.error.startswith(f"InvalidInput: the payload {name!r} is no ")


async def test_a_number_that_is_used_twice_gets_two_answers(bench: Bench):
    await bench.desk("reader")
    async with bench.client() as client:
        for data in (b"1", b"2"):
            await client.asks("reader", payload=pb.Payload(data_type="Q", data=data))
        answers = [(await client.hears()).response for _ in range(2)]
        assert sorted((each.request_id, each.payload.data) for each in answers) == [("1", b"1"), ("1", b"2")]


async def test_answers_to_nothing_are_ignored(bench: Bench):
    desk = await bench.desk("reader")
    async with bench.client("one", "clerk") as client:
        await client.says(response=pb.RpcResponse(request_id="77", error="what?"))
        await client.says()
        asking = asyncio.ensure_future(desk.transport.send(request("clerk")))
        number = (await client.hears()).request.request_id
        for text in ("first", "second"):
            await client.says(response=pb.RpcResponse(request_id=number, error=text))
        assert (await asking).error == ErrorInfo(type="Exception", message="first")


async def test_what_is_no_message_ends_that_channel_only(bench: Bench):
    desk = await bench.desk("reader")
    async with bench.client("one", "clerk"), aio.insecure_channel(bench.listener.address) as channel:
        stream: Any = channel.stream_stream("/agents.AgentRpc/OpenChannel")(metadata=(("client-id", "two"),))
        async with asyncio.timeout(TIMEOUT):
            await stream.write(b"\xff\xff\xff")
            assert await stream.read() is aio.EOF
            while len(bench.host.router.members) > 2:
                await desk.transport.agents()
        assert {each.type for each in await desk.transport.agents()} == {"clerk", "reader"}


async def test_an_agent_without_a_key_is_an_error(bench: Bench):
    await bench.desk("reader")
    async with bench.client() as client:
        await client.asks("reader", target=pb.AgentId(type="reader"))
        assert (
            await client.hears()
        ).response.error == "InvalidInput: agent type 'reader' without a key: say which agent"


async def test_too_many_requests_at_once_are_refused_while_others_wait():
    async with Bench(settings=AutogenSettings(asking=2)) as bench, bench.client("one", "clerk") as client:
        for number in ("1", "2", "3"):
            await client.asks("clerk", number)
        heard = [await client.hears() for _ in range(3)]
        assert [each.response.request_id for each in heard if each.HasField("response")] == ["3"]
        assert next(each for each in heard if each.HasField("response")).response.error.startswith("Overloaded: ")


async def test_a_worker_that_ends_its_channel_is_lost_at_once(bench: Bench):
    desk = await bench.desk("reader")
    async with bench.client("one", "clerk") as client:
        asking = asyncio.ensure_future(desk.transport.send(request("clerk")))
        await client.hears()
        await client.stream.done_writing()
        async with asyncio.timeout(TIMEOUT):
            error = (await asking).error
        assert error.type.endswith(WorkerLost.__name__)
        assert error.retryable
        assert await client.refused() == (StatusCode.OK, "")


async def test_a_host_that_stops_lets_finish_what_is_under_way(bench: Bench):
    desk = await bench.desk("reader")
    async with bench.client("one", "clerk") as client:
        asking = asyncio.ensure_future(desk.transport.send(request("clerk")))
        number = (await client.hears()).request.request_id
        stopping = asyncio.ensure_future(bench.listener.close_doors())
        late = Client(bench.listener.address, "late")
        await late.open()
        assert (await late.refused())[0] == StatusCode.UNAVAILABLE
        await client.says(response=pb.RpcResponse(request_id=number, payload=pb.Payload(data_type="A", data=b"1")))
        assert (await asking).payload == b"1"
        await stopping
        assert await client.refused() == (StatusCode.OK, "")
        await late.close()


# -- events -------------------------------------------------------------------------------------------------


async def test_an_event_goes_once_to_a_worker_with_several_that_listen(bench: Bench):
    desk = await bench.desk("reader")
    async with bench.client("one", "clerk", "critic") as client:
        await client.subscribe("1", "clerk", "news")
        await client.subscribe("2", "clerk", prefix="new")
        await client.subscribe("3", "critic", "news")
        await desk.transport.publish(event(sender=AgentId("reader", "a"), headers={"traceparent": "00-1", "x": "y"}))
        await desk.transport.publish(event("newest", id="e2"))
        first, second = [(await client.hears()).cloud_event for _ in range(2)]
        assert (first.id, first.type, first.source, first.binary_data) == ("e1", "news", "here", b'"!"')
        assert {name: value.ce_string for name, value in first.attributes.items()} == {
            "agagentsenderkey": "a",
            "agagentsendertype": "reader",
            "agmsgkind": "publish",
            "datacontenttype": JSON,
            "dataschema": "N",
            "traceparent": "00-1",
        }
        assert (second.id, second.type) == ("e2", "newest")
        assert "agagentsendertype" not in second.attributes


@pytest.mark.parametrize(
    ("data", "attributes", "arrives"),
    [
        ({"binary_data": b"1"}, {"datacontenttype": JSON, "dataschema": "N"}, ("N", JSON, b"1")),
        ({"text_data": "ä"}, {"dataschema": "N"}, ("N", JSON, "ä".encode())),
        ({"proto_data": Packed(type_url="type.googleapis.com/a.B", value=b"2")}, {}, ("a.B", PROTOBUF, b"2")),
        ({}, {"dataschema": "N"}, ("N", JSON, b"")),
    ],
    ids=["bytes", "text", "protobuf", "nothing"],
)
async def test_each_kind_of_data_arrives(data: Any, attributes: dict[str, str], arrives: tuple[Any, ...], bench: Bench):
    desk = await bench.desk("reader", subs=(Subscription("s", "reader", "news"),))
    async with bench.client() as client:
        given = {name: pb.CloudEvent.Attribute(ce_string=value) for name, value in attributes.items()}
        await client.says(cloud_event=pb.CloudEvent(type="news", source="here", attributes=given, **data))
        [heard] = await desk.has(1)
        assert (heard.type, heard.content, heard.payload) == arrives
        assert heard.target == AgentId("reader", "here")
        assert heard.sender is None
        assert heard.id


async def test_an_event_on_no_topic_is_dropped_and_what_follows_is_not(bench: Bench, caplog: pytest.LogCaptureFixture):
    desk = await bench.desk("reader", subs=(Subscription("s", "reader", "news"),))
    async with bench.client() as client:
        for type_, source in (("", "a"), ("a b", "a"), ("a/b", "a"), ("news", "")):
            await client.says(cloud_event=pb.CloudEvent(id="bad", type=type_, source=source))
        await client.says(cloud_event=pb.CloudEvent(id="good", type="news", source="a"))
        assert [each.id for each in await desk.has(1)] == ["good"]
    assert caplog.text.count("the event 'bad' of worker") == 4


async def test_a_worker_that_ends_its_channel_has_published_what_it_said(bench: Bench):
    desk = await bench.desk("reader", subs=(Subscription("s", "reader", "news"),))
    async with bench.client() as client:
        for number in range(500):
            await client.says(cloud_event=pb.CloudEvent(id=str(number), type="news", source="a"))
        await client.stream.done_writing()
        assert [each.id for each in await desk.has(500)] == [str(number) for number in range(500)]


async def test_a_worker_that_does_not_read_makes_those_wait_who_send_to_it():
    settings = AutogenSettings(handling=2)
    async with Bench(settings=settings, window_frames=4, patience=0.1) as bench:
        desk = await bench.desk("reader")
        async with bench.client("one", "clerk") as client:
            await client.subscribe("1", "clerk", "news")
            accepted: list[str] = []

            async def publish(count: int) -> None:
                for number in range(count):
                    await desk.transport.publish(event(payload=b"x" * 100_000, id=str(number)))
                    accepted.append(str(number))

            with pytest.raises(Overloaded, match="takes no more messages"):
                await publish(2000)
            assert len(accepted) < 500  # what gRPC buffers, and a few
            heard = [(await client.hears()).cloud_event.id for _ in accepted]
            assert heard == accepted
            await desk.transport.publish(event(id="again"))
            assert (await client.hears()).cloud_event.id == "again"


async def test_subscriptions_are_each_workers_own(bench: Bench):
    async with bench.client("one", "clerk") as first, bench.client("two") as second:
        await first.subscribe("1", "clerk", "news")
        await first.subscribe("2", "clerk", prefix="clerk:")
        for id_, topic in (("1", "olds"), ("3", "news")):
            with pytest.raises(aio.AioRpcError, match="Subscription already exists"):
                await first.subscribe(id_, "clerk", topic)
        with pytest.raises(aio.AioRpcError, match="without an id, or of no known kind"):
            await first.call("AddSubscription", pb.AddSubscriptionRequest())
        with pytest.raises(aio.AioRpcError, match="Subscription does not exist"):
            await second.call("RemoveSubscription", pb.RemoveSubscriptionRequest(id="1"))
        mine = await first.call("GetSubscriptions", pb.GetSubscriptionsRequest())
        assert [(each.id, each.WhichOneof("subscription")) for each in mine.subscriptions] == [
            ("1", "type_subscription"),
            ("2", "type_prefix_subscription"),
        ]
        assert not (await second.call("GetSubscriptions", pb.GetSubscriptionsRequest())).subscriptions


async def test_what_a_worker_had_is_forgotten_when_it_has_gone(bench: Bench):
    for number in range(20):
        async with bench.client(f"client {number}", "clerk") as client:
            await client.subscribe("1", "clerk", "news")
    async with bench.client("last", "clerk"):
        assert len(bench.host.router.members) == 1
        assert bench.host.router.registry.types() == ["clerk"]
