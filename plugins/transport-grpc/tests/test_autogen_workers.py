"""AutoGen's own workers, unmodified, in their own processes, with perdure agents on one host."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel

from perdure import AgentId, Context
from perdure.errors import CallFailed, DeadlineExceeded, PayloadTooLarge, WorkerLost
from perdure.messages import TopicId
from perdure_messaging import Actor, MessageAgent, actor, handles, message_type
from perdure_transport_grpc.autogen.settings import AutogenSettings

from .autogen_network import TIMEOUT, AutogenWorker, Crew, Meeting, ask, environment

JSON = "application/json"
FOREVER = AutogenSettings(deadline=3600)


@message_type("Question")
class Question(BaseModel):
    text: str


@message_type("Answer")
class Answer(BaseModel):
    text: str


@message_type("News")
class News(BaseModel):
    text: str


class Reader(MessageAgent):
    """Answers questions, hears news. One for all keys, so that a test can look at what it heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.changed = asyncio.Event()

    @handles
    async def question(self, message: Question, ctx: Context) -> Answer | None:
        word, _, rest = message.text.partition(" ")
        if word == "fail":
            raise LookupError(rest)
        if word == "nothing":
            return None
        if word == "relay":
            to, _, text = rest.partition(" ")
            answer = await ctx.call(AgentId.parse(to), Question(text=text))
            return Answer(text=f"{ctx.session.id} heard {answer.text}")
        return Answer(text=f"{ctx.session.id}: {message.text}")

    @handles
    async def news(self, message: News, ctx: Context) -> None:
        self.heard.append(f"{ctx.session.id} {message.text}")
        self.changed.set()
        word, _, rest = message.text.partition(" ")
        if word == "count" and int(rest) > 0:
            await ctx.publish(News(text=f"count {int(rest) - 1}"), TopicId("ping", "there"))

    @handles
    async def numbers(self, message: Struct, ctx: Context) -> None:
        self.heard.append(f"{ctx.session.id} {dict(message)}")
        self.changed.set()

    async def has(self, count: int) -> list[str]:
        async with asyncio.timeout(TIMEOUT):
            while len(self.heard) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.heard


pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),  # as long as the processes live
    pytest.mark.timeout(300),  # the first one waits for their installation
]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("autogen") / "venv")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crew(python: Path) -> AsyncIterator[Crew]:
    crew = Crew(python)
    yield crew
    await crew.end()


@pytest_asyncio.fixture(loop_scope="module")
async def meeting(crew: Crew) -> AsyncIterator[Meeting]:
    async with Meeting(crew, FOREVER) as meeting:
        yield meeting


@pytest_asyncio.fixture(loop_scope="module")
async def clerk(meeting: Meeting) -> AutogenWorker:
    worker = await meeting.autogen()
    await worker.register("clerk", "news", "ping")
    return worker


def reader(one: Reader, *topics: str, name: str = "reader") -> Actor[Any]:
    return actor(name, Reader, make=lambda: one, subscriptions=topics)


# -- request and reply --------------------------------------------------------------------------------------


async def test_a_perdure_agent_asks_an_autogen_agent(meeting: Meeting, clerk: AutogenWorker):
    messenger = await meeting.perdure(reader(Reader()))
    assert await ask(messenger, Question(text="how?"), "clerk/a") == Answer(text="clerk/a: how?")
    answer = await ask(messenger, Question(text="relay clerk/b why?"), "reader/1")
    assert answer == Answer(text="desk.reader/1 heard clerk/b: why?")
    assert (await clerk.says(asked="how?"))["by"] is None
    assert (await clerk.says(asked="why?"))["by"] == "desk.reader/1"


@pytest.mark.parametrize("name", ["desk.reader", "reader"])
async def test_an_autogen_agent_asks_a_perdure_agent(name: str, meeting: Meeting, clerk: AutogenWorker):
    await meeting.perdure(reader(Reader()))
    assert await clerk.ask(f"{name}/1", "how?") == "desk.reader/1: how?"
    assert await clerk.ask("clerk/a", f"relay {name}/2 why?") == "clerk/a heard desk.reader/2: why?"


async def test_requests_go_from_worker_to_worker_and_back(meeting: Meeting, clerk: AutogenWorker):
    await meeting.perdure(reader(Reader()))
    other = await meeting.autogen()
    await other.register("scribe")
    assert await other.ask("clerk/a", "hello") == "clerk/a: hello"
    through = "relay desk.reader/r relay scribe/s relay clerk/b who?"
    heard = "clerk/a heard desk.reader/r heard scribe/s heard clerk/b: who?"
    assert await other.ask("clerk/a", through) == heard


async def test_an_error_of_a_perdure_agent_arrives_with_its_type_and_text(meeting: Meeting, clerk: AutogenWorker):
    await meeting.perdure(reader(Reader()))
    with pytest.raises(RuntimeError, match=r"^Exception: LookupError: no such page$"):
        await clerk.ask("reader/1", "fail no such page")


async def test_an_error_of_an_autogen_agent_arrives_with_its_text(meeting: Meeting, clerk: AutogenWorker):
    messenger = await meeting.perdure()
    with pytest.raises(CallFailed, match="kaboom") as caught:
        await ask(messenger, Question(text="fail kaboom"), "clerk/a")
    assert caught.value.error.type == "Exception"
    with pytest.raises(CallFailed, match="an error without a text"):
        await ask(messenger, Question(text="fail"), "clerk/a")


async def test_an_agent_that_nobody_hosts_is_an_error_at_once(meeting: Meeting, clerk: AutogenWorker):
    await meeting.perdure(reader(Reader()))
    said = r"^Exception: Undeliverable: no worker hosts agent 'nobody/1'; hosted: clerk, desk\.reader$"
    with pytest.raises(RuntimeError, match=said):
        await clerk.ask("nobody/1", "hello")


async def test_a_short_name_of_two_agents_is_an_error(meeting: Meeting, clerk: AutogenWorker):
    await meeting.perdure(reader(Reader()))
    await meeting.perdure(reader(Reader()), app="newsroom")
    said = r"^Exception: AmbiguousName: agent 'reader' is ambiguous; say one of: desk\.reader, newsroom\.reader$"
    with pytest.raises(RuntimeError, match=said):
        await clerk.ask("reader/1", "hello")
    assert await clerk.ask("newsroom.reader/1", "hello") == "newsroom.reader/1: hello"


async def test_no_reply_of_an_autogen_agent_is_an_error_at_the_deadline(crew: Crew):
    async with Meeting(crew, AutogenSettings(deadline=0.5)) as meeting:
        clerk, other = await meeting.autogen(), await meeting.autogen()
        await clerk.register("clerk")
        messenger = await meeting.perdure(reader(Reader()))
        for text in ("nothing", "secret"):  # it returns None, or a type that its worker does not know
            with pytest.raises(DeadlineExceeded, match=r"'clerk/a' did not answer within 0\.5 s; .* returns None"):
                await ask(messenger, Question(text=text), "clerk/a")
            with pytest.raises(RuntimeError, match=r"^Exception: DeadlineExceeded: .* returns None"):
                await other.ask("clerk/a", text)
        with pytest.raises(DeadlineExceeded):
            await ask(messenger, Question(text="nothing"), "clerk/a", deadline=0.1)


async def test_no_reply_of_a_perdure_agent_is_a_reply(meeting: Meeting, clerk: AutogenWorker):
    await meeting.perdure(reader(Reader()))
    said = "UnknownPayload UnknownPayload(type_name='none', data_content_type='application/json', payload=b'null')"
    assert await clerk.ask("reader/1", "nothing") == said


async def test_callers_at_once_with_equal_request_ids_get_their_own_replies(meeting: Meeting, clerk: AutogenWorker):
    messenger = await meeting.perdure()
    callers = [await meeting.autogen() for _ in range(3)]
    asked = [
        *(
            caller.ask(f"clerk/{number}", f"of {number}, {n}")
            for number, caller in enumerate(callers)
            for n in range(20)
        ),
        *(ask(messenger, Question(text=f"of 9, {n}"), "clerk/9") for n in range(20)),
    ]
    async with asyncio.timeout(TIMEOUT):
        answers = await asyncio.gather(*asked)
    told = [answer if isinstance(answer, str) else answer.text for answer in answers]
    assert told == [f"clerk/{number}: of {number}, {n}" for number in (0, 1, 2, 9) for n in range(20)]


async def test_a_callee_that_is_killed_is_an_error_at_once(meeting: Meeting, clerk: AutogenWorker):
    messenger = await meeting.perdure()
    other = await meeting.autogen()
    mine = asyncio.ensure_future(ask(messenger, Question(text="wait 1"), "clerk/a"))
    theirs = asyncio.ensure_future(other.ask("clerk/b", "wait 2"))
    await clerk.says(asked="wait 1")
    await clerk.says(asked="wait 2")
    await clerk.kill()
    with pytest.raises(WorkerLost, match="was lost before it answered"):
        await mine
    with pytest.raises(RuntimeError, match=r"^Exception: WorkerLost: .* was lost before it answered"):
        await theirs
    again = await meeting.autogen()
    await again.register("clerk")  # its place is free again
    assert await other.ask("clerk/b", "hello") == "clerk/b: hello"


async def test_a_caller_that_is_killed_disturbs_nobody(meeting: Meeting, clerk: AutogenWorker):
    messenger = await meeting.perdure()
    other = await meeting.autogen()
    asking = asyncio.ensure_future(other.ask("clerk/a", "wait"))
    await clerk.says(asked="wait")
    await other.kill()
    with pytest.raises(RuntimeError, match="the worker is gone"):
        await asking
    assert await ask(messenger, Question(text="hello"), "clerk/a") == Answer(text="clerk/a: hello")


async def test_a_perdure_worker_that_leaves_is_an_error_in_autogen(meeting: Meeting, clerk: AutogenWorker):
    messenger = await meeting.perdure(reader(Reader()))
    assert await clerk.ask("reader/1", "hello") == "desk.reader/1: hello"
    await messenger.stop()
    with pytest.raises(RuntimeError, match=r"^Exception: Undeliverable: "):
        await clerk.ask("desk.reader/1", "hello")


# -- publish ------------------------------------------------------------------------------------------------


async def test_what_a_perdure_agent_publishes_is_heard_by_autogen_agents(meeting: Meeting, clerk: AutogenWorker):
    await clerk.register("critic", "news", prefixes=("new",))
    messenger = await meeting.perdure()
    await messenger.publish(News(text="hello"), TopicId("news", "here"))
    await messenger.publish(News(text="end"), TopicId("news", "here"))
    await clerk.says(heard="end", by="clerk/here")
    heard = await clerk.says(heard="hello", by="clerk/here")
    assert (heard["topic"], heard["sender"]) == ("news/here", None)
    assert clerk.heard().count("clerk/here hello") == 1


async def test_what_an_autogen_agent_publishes_is_heard_by_all_but_itself(meeting: Meeting, clerk: AutogenWorker):
    one = Reader()
    await meeting.perdure(reader(one, "news"))
    other = await meeting.autogen()
    await clerk.register("critic", "news")
    await other.register("scribe", "news")
    await clerk.do("publish", topic="news/here", news="tell news/here hello")
    # Three agents hear of it, and each tells all but itself.
    expected = ["desk.reader/here hello"] * 3 + ["desk.reader/here tell news/here hello"]
    assert sorted(await one.has(4)) == expected
    await clerk.has(6)
    await other.has(3)
    await clerk.do("publish", topic="news/here", news="end")
    for worker in (clerk, other):
        await worker.says(heard="end")
    assert sorted(each for each in clerk.heard() if each.endswith(" hello")) == [
        *["clerk/here hello"] * 2,
        "clerk/here tell news/here hello",
        *["critic/here hello"] * 2,
        "critic/here tell news/here hello",
    ]
    assert other.heard().count("scribe/here hello") == 2


async def test_two_agents_that_answer_each_other_publish_five_times_each(meeting: Meeting, clerk: AutogenWorker):
    one = Reader()
    messenger = await meeting.perdure(reader(one, "pong"))
    await messenger.publish(News(text="count 9"), TopicId("ping", "there"))
    assert await one.has(5) == [f"desk.reader/there count {number}" for number in (8, 6, 4, 2, 0)]
    assert clerk.heard() == [f"clerk/there count {number}" for number in (9, 7, 5, 3, 1)]


async def test_protobuf_messages_pass_both_ways(meeting: Meeting):
    one = Reader()
    messenger = await meeting.perdure(reader(one, "numbers"))
    clerk = await meeting.autogen("application/x-protobuf")
    await clerk.register("clerk", "figures")
    await clerk.do("publish", topic="numbers/here", news={"a": 1.5})
    assert await one.has(1) == ["desk.reader/here {'a': 1.5}"]
    struct = Struct()
    struct.update({"b": 2.5})
    await messenger.publish(struct, TopicId("figures", "there"))
    assert (await clerk.says(by="clerk/there"))["heard"] == {"b": 2.5}


async def test_what_is_no_longer_subscribed_is_not_heard(meeting: Meeting, clerk: AutogenWorker):
    messenger = await meeting.perdure()
    await messenger.publish(News(text="first"), TopicId("news", "here"))
    await clerk.says(heard="first")
    await clerk.do("unsubscribe", id="clerk-news")
    await messenger.publish(News(text="second"), TopicId("news", "here"))
    await messenger.publish(News(text="third"), TopicId("ping", "here"))
    await clerk.says(heard="third")
    assert clerk.heard() == ["clerk/here first", "clerk/here third"]
    with pytest.raises(RuntimeError, match="Subscription does not exist"):
        await clerk.do("unsubscribe", id="clerk-news")


async def test_five_hundred_publications_arrive_in_their_order(meeting: Meeting, clerk: AutogenWorker):
    one = Reader()
    await meeting.perdure(reader(one, "news"))
    for number in range(500):
        await clerk.do("publish", topic="news/here", news=str(number))
    assert [each.partition(" ")[2] for each in await one.has(500)] == [str(number) for number in range(500)]


# -- who lives where ----------------------------------------------------------------------------------------


async def test_agents_are_found_with_their_workers(meeting: Meeting, clerk: AutogenWorker):
    messenger = await meeting.perdure(reader(Reader()))
    found = {each.type: each for each in await messenger.agents()}
    assert sorted(found) == ["clerk", "desk.reader"]
    assert re.fullmatch(r"autogen-[0-9a-f]{12}", found["clerk"].worker)
    assert found["clerk"].healthy


async def test_a_type_lives_with_one_worker(meeting: Meeting, clerk: AutogenWorker):
    await meeting.perdure(reader(Reader()))
    other = await meeting.autogen()
    for taken in ("clerk", "desk.reader"):
        with pytest.raises(RuntimeError, match=f"Agent type {taken} already registered"):
            await other.register(taken)


async def test_a_message_that_a_worker_cannot_take_is_an_error_and_the_worker_lives(crew: Crew):
    async with Meeting(crew, AutogenSettings(max_message=10_000)) as meeting:
        clerk = await meeting.autogen()
        await clerk.register("clerk", "news")
        messenger = await meeting.perdure(reader(Reader()))
        with pytest.raises(PayloadTooLarge, match="raise 'max_message'"):
            await ask(messenger, Question(text="x" * 10_000), "clerk/a")
        with pytest.raises(RuntimeError, match=r"^Exception: PayloadTooLarge: .* raise 'max_message'"):
            await clerk.ask("reader/a", "x" * 10_000)
        await messenger.publish(News(text="x" * 10_000), TopicId("news", "a"))
        assert await ask(messenger, Question(text="hello"), "clerk/a") == Answer(text="clerk/a: hello")
        assert clerk.heard() == []


async def test_an_event_for_one_agent_is_a_request_that_nobody_waits_for(meeting: Meeting, clerk: AutogenWorker):
    class Sender(MessageAgent):
        @handles
        async def question(self, message: Question, ctx: Context) -> None:
            await ctx.send(AgentId("clerk", "a"), News(text=message.text))

    messenger = await meeting.perdure(actor("sender", Sender))
    await ask(messenger, Question(text="psst"), "sender/1")
    heard = await clerk.says(heard="psst")
    assert (heard["by"], heard["topic"], heard["sender"]) == ("clerk/a", "None", "desk.sender/1")


# -- the command --------------------------------------------------------------------------------------------


async def test_the_command_lets_them_join_where_it_is_told_to(crew: Crew, tmp_path: Path):
    command = (sys.executable, "-m", "perdure_cli", "host", "--bind", "127.0.0.1:0", "--deadline", "0.5", "--json")
    host = await asyncio.create_subprocess_exec(*command, "--autogen", cwd=tmp_path, stdout=asyncio.subprocess.PIPE)
    assert host.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            address, _, kinds = json.loads(await host.stdout.readline())["addresses"][0].partition(" ")
            assert kinds == "(gRPC, AutoGen)"
            clerk = await crew.join(address, JSON)
            await clerk.register("clerk")
            with pytest.raises(RuntimeError, match=r"^Exception: DeadlineExceeded: "):
                await clerk.ask("clerk/a", "nothing")
            await crew.dismiss(clerk)
            host.terminate()
            assert await host.wait() == 0
    finally:
        if host.returncode is None:
            host.kill()
            await host.wait()
