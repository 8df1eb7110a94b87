"""Who gets in and who does not; what is said to those."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr

from perdure import config
from perdure.clock import SystemClock
from perdure.errors import InvalidSetting, NotPermitted, UsageError
from perdure.messages import Hosted, Presence
from perdure_hosting.access import Grant
from perdure_hosting.errors import HostUnreachable
from perdure_hosting.host import Host
from perdure_transport_grpc import ServerSettings, Settings, perdure_transport
from perdure_transport_grpc.listening import GrpcListener

from .grpc_network import TIMEOUT, Certificates, Desk, Network, event, request

TOKEN = "the-desk-knows-this-one"
DESK = Grant(name="desk", token=SecretStr(TOKEN), may_host=("desk.*",), may_send=("kit.*",), may_publish=("news",))
OTHER = Grant(name="other", token=SecretStr("and-another-one-knows-this"))


async def refusal(network: Network, **settings: Any) -> str:
    worker = network.make(**settings)
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(NotPermitted) as refused:
            await worker.start(Desk())
    return str(refused.value)


async def test_a_worker_without_the_right_token_is_refused_at_once():
    async with Network(tokens=(DESK, OTHER)) as network:
        assert "a token is required" in await refusal(network)
        assert "not known" in await refusal(network, token=TOKEN + "x")
        assert network.host.workers() == []


async def test_a_token_says_what_its_worker_may_do():
    async with Network(tokens=(DESK, OTHER)) as network:
        await network.worker(Desk("kit"), "kit.a", "lab.a", token="and-another-one-knows-this")
        desk = await network.worker(Desk(), "desk.a", token=TOKEN)
        with pytest.raises(NotPermitted, match=r"kit\.b"):
            await desk.announce(Presence((Hosted("kit.b"),)))
        assert (await desk.send(request("kit.a"))).kind == "reply"
        refused = await desk.send(request("lab.a"))
        assert refused.error.type.endswith("NotPermitted")
        await desk.publish(event("news"))
        with pytest.raises(NotPermitted, match="'secrets'"):
            await desk.publish(event("secrets", id="e2"))


async def test_a_worker_without_a_certificate_does_not_get_through_mutual_tls(tmp_path: Path):
    made, stranger = Certificates(tmp_path), Certificates(tmp_path / "elsewhere")
    server = made.issue("127.0.0.1") | {"authority": made.authority}
    async with Network({"authority": made.authority}, **server) as network:
        for shown in ({}, stranger.issue("worker.example")):
            worker = network.make(connect=0.3, **shown)
            with pytest.raises(HostUnreachable, match="last attempt"):
                await worker.start(Desk())
        known = await network.worker(Desk(), **made.issue("worker.example"))
        assert await known.agents() == []
        (session,) = network.host.reception.sessions.values()
        assert session.principal.name == "worker.example"


async def test_a_host_with_a_strange_certificate_is_not_trusted(tmp_path: Path):
    made, stranger = Certificates(tmp_path), Certificates(tmp_path / "elsewhere")
    async with Network(**made.issue("127.0.0.1")) as network:
        for tls in ({"authority": stranger.authority}, {"authority": made.authority, "server_name": "other.example"}):
            with pytest.raises(HostUnreachable, match="last attempt"):
                await network.make(connect=0.3, **tls).start(Desk())
        assert network.host.workers() == []


@pytest.mark.parametrize("shown", [True, False], ids=["with", "without"])
async def test_who_has_a_certificate_reaches_a_worker_directly_and_others_go_through_the_host(
    tmp_path: Path, shown: bool
):
    made = Certificates(tmp_path)
    async with Network({"authority": made.authority}, **made.issue("127.0.0.1")) as network:
        desk = Desk("there")
        there = await network.worker(desk, "kit.a", listen="127.0.0.1:0", **made.issue("127.0.0.1"))
        here = await network.worker(Desk(), **(made.issue("worker.example") if shown else {}))
        assert there.address
        async with asyncio.timeout(TIMEOUT):
            for number in range(100):
                assert (await here.send(request("kit.a", id=f"m{number}"))).type == "there"
    assert [each.id for each in desk.delivered] == [f"m{n}" for n in range(100)]


async def test_a_host_that_is_not_there_is_named():
    async with Network() as network:
        nowhere = network.make(host="127.0.0.1:1", connect=0.2)
        with pytest.raises(HostUnreachable, match=r"127\.0\.0\.1:1"):
            await nowhere.start(Desk())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bind": "0.0.0.0:0"}, "there is no TLS"),
        ({"bind": "[::]:0", "tokens": (DESK,)}, "there is no TLS"),
        ({"bind": "host.example:0", "certificate": "c", "key": "k"}, "no tokens"),
    ],
    ids=["nothing", "tokens only", "tls only"],
)
def test_a_host_does_not_listen_to_strangers(tmp_path: Path, settings: dict[str, Any], says: str):
    given = ServerSettings(**settings)
    with pytest.raises(InvalidSetting, match=says):
        GrpcListener(Host(SystemClock(), given), SystemClock(), given)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"host": "host.example:50051", "token": TOKEN}, "for all to read"),
        ({"listen": "0.0.0.0:0"}, "without TLS"),
        ({"listen": "127.0.0.1:0", "tls": True}, "without TLS"),
        ({"certificate": "c.pem"}, "belong together"),
        ({"authority": "nowhere.pem"}, "nowhere.pem"),
        ({"hots": "x"}, "hots"),
        ({"server": {"authority": "a.pem"}}, "needs TLS"),
        ({"server": {"tokens": [{"name": "a"}]}}, "token"),
    ],
    ids=["token", "listen", "listen beside tls", "half a pair", "no file", "no setting", "no tls", "no token"],
)
def test_settings_that_would_give_secrets_away_or_make_no_sense_are_refused(settings: dict[str, Any], says: str):
    with pytest.raises(InvalidSetting, match=says):
        perdure_transport(settings, SystemClock())


def test_tokens_are_not_shown(tmp_path: Path):
    (tmp_path / "perdure.toml").write_text(f'[transport-grpc]\ntoken = "{TOKEN}"\n')
    read = config.load(tmp_path, {})
    assert TOKEN not in repr(config.section(read.section("transport-grpc"), Settings, "transport-grpc"))
    assert TOKEN not in repr(ServerSettings(tokens=(DESK,)))


async def test_a_port_that_is_taken_is_an_error():
    async with Network() as network:
        settings = ServerSettings(bind=network.listener.address)
        with pytest.raises(UsageError, match="nothing can listen"):
            await GrpcListener(Host(SystemClock(), settings), SystemClock(), settings).start()


async def test_health_and_reflection_answer():
    async with Network() as network, aio.insecure_channel(network.listener.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="perdure.v1.Link")
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="perdure.v1.Link"),
        ]
        listed, file = [each async for each in reflection.ServerReflectionInfo(iter(requests))]
        assert "perdure.v1.Link" in [each.name for each in listed.list_services_response.service]
        assert b"Connect" in file.file_descriptor_response.file_descriptor_proto[0]
        await network.listener.close_doors()
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_what_is_no_packet_is_answered_with_a_goodbye():
    async with Network() as network, aio.insecure_channel(network.listener.address) as channel:
        call = channel.stream_stream("/perdure.v1.Link/Connect")()
        await call.write(b"\xff\xff")
        async with asyncio.timeout(TIMEOUT):
            said = await call.read()
            assert b"cannot be read" in said
            assert await call.read() is aio.EOF
            assert await call.code() is grpc.StatusCode.OK
