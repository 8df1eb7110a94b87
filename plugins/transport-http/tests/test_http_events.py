"""Any program joins with curl: requests, publications, problems, and the same id twice."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

from perdure.errors import InvalidInput, StoreUnavailable
from perdure.messages import AgentId, Envelope, Hosted, Presence, Subscription, TopicId
from perdure.testing.transport_kit import Handler, Office, Silent, echo

from .http_network import TIMEOUT, TOKEN, Hosted as Hosting, certificates, hosting

CURL = shutil.which("curl") or "curl"
STRUCTURED = "Content-Type: application/cloudevents+json"
BATCHED = "Content-Type: application/cloudevents-batch+json"
PROBLEM = "application/problem+json"
AGENT = "/perdure/v1/agents/kit.echo/1"
TOPIC = "/perdure/v1/topics/news/1"

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl to call with")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def event(body: Any = "hello", *, id: str = "1", **more: str) -> list[str]:
    """The arguments of curl for an event in the binary mode."""
    facts = {"specversion": "1.0", "id": id, "source": "/tests", "type": "kit.text", **more}
    headers = [part for name, value in facts.items() for part in ("-H", f"ce-{name}: {value}")]
    return [*headers, "-H", "Content-Type: application/json", "-d", json.dumps(body)]


def whole(body: Any = "hello", *, id: str = "1", **more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": id, "source": "/tests", "type": "kit.text", "data": body, **more}


async def curl(url: str, *arguments: str) -> Answer:
    process = await asyncio.create_subprocess_exec(
        CURL, "-s", "-S", "-i", "--noproxy", "*", "--http1.1", *arguments, url, stdout=-1, stderr=-1
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, err.decode()
    head, _, body = out.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


async def stuck(_envelope: Envelope) -> None:
    msg = "the tray is empty"
    raise LookupError(msg) from OSError("tray 2")


async def picky(_envelope: Envelope) -> None:
    msg = "expected a number"
    raise InvalidInput(msg)


async def out(_envelope: Envelope) -> None:
    msg = "the disk is full"
    raise StoreUnavailable(msg)


async def nothing(_envelope: Envelope) -> None:
    """Answer nothing."""


HANDLERS: dict[str, Handler] = {
    "kit.echo": echo, "kit.stuck": stuck, "kit.picky": picky, "kit.out": out, "kit.nothing": nothing
}  # fmt: skip


@pytest.fixture
def office() -> Office:
    return Office(HANDLERS)


@pytest.fixture
async def hosted(office: Office) -> AsyncIterator[Hosting]:
    async with hosting(max_body=100_000, max_batch=10) as hosted:
        worker = await hosted.joined(office, present(office))
        yield hosted
        await worker.stop()


def present(office: Office) -> Presence:
    subscriptions = (Subscription("s", "kit.echo", "news"), Subscription("t", "kit.nothing", "news"))
    return office.presence._replace(subscriptions=subscriptions)


# -- requests


async def test_a_request_is_answered_in_the_mode_that_it_came_in(hosted: Hosting, office: Office):
    answer = await curl(f"{hosted.url}{AGENT}", *event({"n": 1}, subject="Euro%20%E2%82%AC"))
    assert (answer.status, answer.json, answer.headers["content-type"]) == (200, {"n": 1}, "application/json")
    assert answer.headers["ce-specversion"] == "1.0"
    assert answer.headers["ce-type"] == "kit.text"
    assert answer.headers["ce-causationid"] == "1"
    assert answer.headers["ce-source"] == AGENT
    [delivered] = office.delivered
    assert (delivered.kind, delivered.target, delivered.type) == ("request", AgentId("kit.echo", "1"), "kit.text")
    assert delivered.sender is None
    assert delivered.headers == {"ce-id": "1", "ce-source": "/tests", "ce-subject": "Euro €"}


async def test_a_structured_request_gets_a_structured_reply(hosted: Hosting):
    body = json.dumps(whole({"n": 1}, correlationid="c7"))
    answer = await curl(f"{hosted.url}{AGENT}", "-H", STRUCTURED, "-d", body)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert {name: answer.json[name] for name in ("specversion", "type", "data", "causationid", "correlationid")} == {
        "specversion": "1.0", "type": "kit.text", "data": {"n": 1}, "causationid": "1", "correlationid": "c7"
    }  # fmt: skip


async def test_the_reply_comes_in_the_mode_that_is_asked_for(hosted: Hosting):
    answer = await curl(f"{hosted.url}{AGENT}", "-H", "Accept: application/cloudevents+json", *event("x"))
    assert answer.json["data"] == "x"
    body = json.dumps(whole("y", id="2"))
    answer = await curl(f"{hosted.url}{AGENT}", "-H", STRUCTURED, "-H", "Accept: application/json", "-d", body)
    assert answer.json == "y"


async def test_nothing_is_a_reply(hosted: Hosting):
    answer = await curl(f"{hosted.url}/perdure/v1/agents/kit.nothing/1", *event())
    assert (answer.status, answer.json) == (200, None)


async def test_keys_and_sources_are_any_text(hosted: Hosting, office: Office):
    answer = await curl(f"{hosted.url}/perdure/v1/agents/kit.echo/a%20key%2Fwith/%C3%BCnusual%25signs", *event())
    assert answer.status == 200
    source = "/perdure/v1/agents/kit.echo/a%20key%2fwith%2f%c3%bcnusual%25signs"
    assert unquote(answer.headers["ce-source"]) == source  # in a header, a URI's percent signs are encoded again
    await curl(f"{hosted.url}/perdure/v1/topics/news/a%20key%2Fwith/%C3%BCnusual%25signs", *event(id="2"))
    await office.has(3)
    assert {each.target.key for each in office.delivered if each.target} == {"a key/with/ünusual%signs"}


async def test_bytes_arrive_and_return(hosted: Hosting, tmp_path: Path):
    # What `Office` does with payloads is JSON: a worker of its own hands bytes back.
    async def mirror(envelope: Envelope) -> Envelope:
        return Envelope(envelope.id, "reply", None, envelope.type, envelope.payload, content=envelope.content)

    worker = await hosted.joined(mirror, Presence((Hosted("kit.mirror"),)))
    (tmp_path / "data").write_bytes(b"\x00\xff\r\n")
    arguments = [*event()[:-4], "-H", "Content-Type: application/protobuf", "--data-binary", f"@{tmp_path / 'data'}"]
    answer = await curl(f"{hosted.url}/perdure/v1/agents/kit.mirror/1", *arguments)
    assert (answer.body, answer.headers["content-type"]) == (b"\x00\xff\r\n", "application/x-protobuf")
    await worker.stop()


async def test_trace_context_goes_along(hosted: Hosting, office: Office):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await curl(f"{hosted.url}{AGENT}", *event(traceparent=trace))
    await curl(f"{hosted.url}{AGENT}", "-H", f"traceparent: {trace}", "-H", "tracestate: a=1", *event(id="2"))
    assert [each.headers["traceparent"] for each in office.delivered] == [trace, trace]
    assert office.delivered[1].headers["tracestate"] == "a=1"


# -- failures


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("kit.nobody/1", 404, "perdure.errors.Undeliverable"),
        ("kit.stuck/1", 500, "LookupError"),
        ("kit.picky/1", 422, "perdure.errors.InvalidInput"),
        ("kit.out/1", 503, "perdure.errors.StoreUnavailable"),
        ("kit%20echo/1", 400, "perdure.errors.InvalidInput"),
    ],
)
async def test_a_failure_is_a_problem_document(hosted: Hosting, path: str, status: int, error: str):
    answer = await curl(f"{hosted.url}/perdure/v1/agents/{path}", *event())
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM)
    problem = answer.json
    assert (problem["status"], problem["error"], problem["retryable"]) == (status, error, status == 503)
    assert problem["title"] == error.rpartition(".")[2]
    assert problem["detail"]
    assert ("retry-after" in answer.headers) == (status == 503)
    if error == "LookupError":
        assert problem["causes"] == [{"error": "OSError", "detail": "tray 2"}]


@pytest.mark.parametrize(
    ("arguments", "status", "detail"),
    [
        (["-d", "hello"], 400, "'specversion' of the request"),
        (["-H", STRUCTURED, "-d", "{"], 400, "no JSON"),
        (["-H", BATCHED, "-d", "[]"], 415, "no one reply"),
        (["-H", "Content-Type: application/cloudevents+xml", "-d", "<x/>"], 415, "application/cloudevents+xml"),
        (["-H", "Content-Encoding: gzip", *event()], 415, "encoding 'gzip'"),
        ([*event(), "-H", "Content-Type: text/plain"], 400, "Content-Type"),
        ([*event()[:-4], "-H", "Content-Type: text/plain", "-d", "x"], 415, "'text/plain'"),
        ([*event("x" * 200_000)], 413, "more than 100,000 bytes"),
        ([*event(), "-H", "Perdure-Deadline: soon"], 400, "expected seconds"),
        ([*event(), "-H", "Perdure-Deadline: -1"], 400, "expected seconds"),
        ([*event(), "-H", "Perdure-Deadline: nan"], 400, "expected seconds"),
    ],
    ids=["plain", "no JSON", "batch", "xml", "gzip", "twice", "text", "large", "words", "negative", "nan"],
)
async def test_what_is_no_event_is_refused(
    hosted: Hosting, tmp_path: Path, arguments: list[str], status: int, detail: str
):
    if detail == "Content-Type":
        arguments = ["-H", "ce-id: 2", *event()]
        detail = "stands there twice"
    if len(arguments[-1]) > 100_000:
        (tmp_path / "large").write_text(arguments[-1])
        arguments = [*arguments[:-1], f"@{tmp_path / 'large'}"]
    answer = await curl(f"{hosted.url}{AGENT}", "-H", "Expect:", *arguments)
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM)
    assert detail in answer.json["detail"]


async def test_what_is_not_there_is_a_problem_too(hosted: Hosting):
    assert (await curl(f"{hosted.url}/elsewhere")).json["status"] == 404
    refused = await curl(f"{hosted.url}{AGENT}")
    assert (refused.status, refused.headers["allow"], refused.headers["content-type"]) == (405, "post", PROBLEM)


async def test_a_request_ends_at_its_deadline_and_so_does_its_handler(hosted: Hosting):
    silent = Silent()
    worker = await hosted.joined(Office({"kit.silent": silent}), Presence((Hosted("kit.silent"),)))
    url = f"{hosted.url}/perdure/v1/agents/kit.silent/1"
    answer = await curl(url, "-H", "Perdure-Deadline: 0.2", *event())
    assert (answer.status, answer.json["title"], answer.json["retryable"]) == (504, "DeadlineExceeded", True)
    async with asyncio.timeout(TIMEOUT):
        await silent.cancelled.wait()
    await worker.stop()


async def test_a_caller_that_leaves_cancels_the_handler(hosted: Hosting):
    silent = Silent()
    worker = await hosted.joined(Office({"kit.silent": silent}), Presence((Hosted("kit.silent"),)))
    calling = asyncio.create_task(curl(f"{hosted.url}/perdure/v1/agents/kit.silent/1", *event()))
    async with asyncio.timeout(TIMEOUT):
        await silent.entered.wait()
        calling.cancel()
        await silent.cancelled.wait()
    await worker.stop()


# -- the same id twice


async def test_the_same_event_twice_is_handled_once(hosted: Hosting, office: Office):
    first = await curl(f"{hosted.url}{AGENT}", *event("x"))
    again = await curl(f"{hosted.url}{AGENT}", *event("x"))
    assert (first.status, first.body) == (again.status, again.body)
    assert len(office.delivered) == 1
    other = await curl(f"{hosted.url}{AGENT}", *event("y"))
    assert (other.status, other.json["title"]) == (422, "IdReused")
    elsewhere = await curl(f"{hosted.url}/perdure/v1/agents/kit.echo/2", *event("x"))
    assert elsewhere.json["title"] == "IdReused"


async def test_who_asks_again_while_the_first_answer_is_awaited_gets_that_one(hosted: Hosting):
    silent = Silent()
    office = Office({"kit.silent": silent})
    worker = await hosted.joined(office, office.presence)
    url = f"{hosted.url}/perdure/v1/agents/kit.silent/1"
    calls = [asyncio.create_task(curl(url, *event())) for _ in range(2)]
    async with asyncio.timeout(TIMEOUT):
        await silent.entered.wait()
    silent.released.set()
    assert [(await call).json for call in calls] == ["late", "late"]
    assert len(office.delivered) == 1
    await worker.stop()


async def test_what_may_pass_is_tried_again(hosted: Hosting, office: Office):
    for _ in range(2):
        assert (await curl(f"{hosted.url}/perdure/v1/agents/kit.out/1", *event())).status == 503
    assert len(office.delivered) == 2


async def test_a_publication_twice_reaches_each_agent_once(hosted: Hosting, office: Office):
    for id in ("1", "1", "2"):
        assert (await curl(f"{hosted.url}{TOPIC}", *event(id, id=id))).status == 202
    await office.has(4)
    assert [each.payload for each in office.delivered if each.target == ("kit.echo", "1")] == ["1", "2"]


# -- publications


async def test_an_event_is_published(hosted: Hosting, office: Office):
    answer = await curl(f"{hosted.url}{TOPIC}", *event({"n": 1}))
    assert (answer.status, answer.body) == (202, b"")
    delivered = sorted(await office.has(2))
    assert [str(each.target) for each in delivered] == ["kit.echo/1", "kit.nothing/1"]
    assert [(each.kind, each.topic) for each in delivered] == [("event", TopicId("news", "1"))] * 2


async def test_a_topic_without_a_source_has_the_default_one(hosted: Hosting, office: Office):
    await curl(f"{hosted.url}/perdure/v1/topics/news", *event())
    await office.has(2)
    assert {each.topic for each in office.delivered} == {TopicId("news", "default")}


async def test_a_batch_is_published_in_order(hosted: Hosting, office: Office):
    body = json.dumps([whole(n, id=str(n)) for n in range(10)])
    answer = await curl(f"{hosted.url}{TOPIC}", "-H", BATCHED, "-d", body)
    assert answer.status == 202
    await office.has(20)
    assert [each.payload for each in office.delivered if each.target == ("kit.echo", "1")] == list(range(10))
    answer = await curl(f"{hosted.url}{TOPIC}", "-H", BATCHED, "-d", json.dumps([whole(id=str(n)) for n in range(11)]))
    assert (answer.status, answer.json["title"]) == (413, "PayloadTooLarge")
    answer = await curl(f"{hosted.url}{TOPIC}", "-H", BATCHED, "-d", json.dumps([whole(), {}]))
    assert answer.status == 400
    assert "event 2 of the batch" in answer.json["detail"]


# -- who may


async def test_a_token_says_what_may_be_done(office: Office, tmp_path: Path):
    made = certificates(tmp_path)
    grants = [
        {"name": "worker", "token": TOKEN},
        {"name": "desk", "token": f"{TOKEN}-2", "may_send": ["kit.e*"], "may_publish": []},
    ]
    async with hosting(certificate=made.server, key=made.server, tokens=grants) as hosted:
        worker = await hosted.joined(office, present(office), token=TOKEN, authority=made.authority)
        known = ["--cacert", str(made.authority)]
        for token in ([], ["-H", "Authorization: Bearer wrong"], ["-H", f"Authorization: Basic {TOKEN}"]):
            refused = await curl(f"{hosted.url}{AGENT}", *known, *token, *event())
            assert (refused.status, refused.json["title"]) == (401, "NotPermitted")
            assert refused.headers["www-authenticate"] == 'bearer realm="perdure"'
        known += ["-H", f"Authorization: Bearer {TOKEN}-2"]
        assert (await curl(f"{hosted.url}{AGENT}", *known, *event())).status == 200
        refused = await curl(f"{hosted.url}/perdure/v1/agents/kit.nothing/1", *known, *event(id="2"))
        assert (refused.status, refused.json["title"]) == (403, "NotPermitted")
        refused = await curl(f"{hosted.url}{TOPIC}", *known, *event(id="3"))
        assert refused.status == 403
        both = json.dumps([whole(id="4"), whole(id="5")])
        refused = await curl(f"{hosted.url}{TOPIC}", *known, "-H", BATCHED, "-d", both)
        assert (refused.status, refused.json["accepted"]) == (403, 0)
        assert [each["id"] for each in refused.json["failed"]] == ["4", "5"]
        assert (await curl(f"{hosted.url}/healthz", *known)).json == {"status": "serving"}
        await worker.stop()


async def test_principals_do_not_share_ids(office: Office):
    grants = [{"name": name, "token": f"{TOKEN}-{name}"} for name in ("one", "two")]
    async with hosting(tokens=grants) as hosted:
        worker = await hosted.joined(office, office.presence, token=f"{TOKEN}-one")
        for name in ("one", "two"):
            answer = await curl(f"{hosted.url}{AGENT}", "-H", f"Authorization: Bearer {TOKEN}-{name}", *event(name))
            assert answer.json == name
        await worker.stop()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Host: evil.example", 421),
        ("Host: 127.0.0.1.evil.example:80", 421),
        ("Host: [::1", 421),
        ("Host:", 400),
        ("Origin: http://127.0.0.1", 403),
        ("Origin: null", 403),
        ("Host: localhost:1", 200),
        ("Host: [::1]:80", 200),
    ],
)
async def test_pages_of_strangers_are_kept_out_of_the_loopback(hosted: Hosting, header: str, status: int):
    answer = await curl(f"{hosted.url}{AGENT}", "-H", header, *event())
    assert answer.status == status


async def test_names_and_pages_that_were_named_are_let_in(office: Office):
    async with hosting(hosts=["shop.example"], origins=["https://shop.example"]) as hosted:
        worker = await hosted.joined(office, office.presence)
        for more in (["Host: Shop.Example"], ["Origin: https://shop.example"]):
            headers = [part for each in more for part in ("-H", each)]
            assert (await curl(f"{hosted.url}{AGENT}", *headers, *event())).status == 200
        assert (await curl(f"{hosted.url}{AGENT}", "-H", "Origin: http://shop.example", *event())).status == 403
        await worker.stop()


# -- the rest


async def test_agents_can_be_looked_up(hosted: Hosting):
    found = (await curl(f"{hosted.url}/perdure/v1/agents")).json
    assert [each["type"] for each in found] == sorted(HANDLERS)
    assert found[0]["healthy"] is True


async def test_health_tells_whether_it_serves(hosted: Hosting):
    answer = await curl(f"{hosted.url}/healthz", "-H", "Host: whatever")
    assert (answer.status, answer.json) == (200, {"status": "serving"})
    await hosted.server.close_doors()
    answer = await curl(f"{hosted.url}/healthz")
    assert (answer.status, answer.json) == (503, {"status": "stopping"})
    refused = await curl(f"{hosted.url}{AGENT}", *event())
    assert (refused.status, refused.json["title"]) == (503, "Overloaded")


async def test_more_requests_than_allowed_are_told_to_come_back():
    silent = Silent()
    office = Office({"kit.silent": silent})
    async with hosting(requests=1) as hosted:
        worker = await hosted.joined(office, office.presence)
        url = f"{hosted.url}/perdure/v1/agents/kit.silent/1"
        first = asyncio.create_task(curl(url, *event()))
        async with asyncio.timeout(TIMEOUT):
            await silent.entered.wait()
        second = await curl(url, *event(id="2"))
        assert (second.status, second.json["title"], second.headers["retry-after"]) == (503, "Overloaded", "1")
        silent.released.set()
        assert (await first).status == 200
        await worker.stop()
