"""Message agents: declared, addressed, sent to through the runtime's own catalog and the in-process transport."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from perdure import AgentId, App, Context, Runtime
from perdure.clock import SystemClock
from perdure.config import PluginSettings, Settings
from perdure.errors import (
    CallFailed,
    DeadlineExceeded,
    InvalidInput,
    NotDurable,
    NotEncodable,
    Undeliverable,
    UsageError,
)
from perdure.execution import Execution
from perdure.messages import Start
from perdure.plugins import Plugins
from perdure_messaging import Actor, LocalMessenger, MessageAgent, actor, handles, message_type, type_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TIMEOUT = 60.0


@message_type("shop.add")
@dataclass(frozen=True)
class Add:
    amount: int


class Look(BaseModel):
    pass


class Total(BaseModel):
    total: int


@dataclass(frozen=True)
class Reset:
    pass


@dataclass(frozen=True)
class Undo:
    steps: int = 1


class Counter(MessageAgent):
    """Counts.

    And says how far it has come.
    """

    def __init__(self) -> None:
        self.total = 0

    @handles
    async def add(self, message: Add, ctx: Context) -> Total:
        if message.amount == 0:
            msg = "nothing to add"
            raise LookupError(msg)
        self.total += message.amount
        return Total(total=self.total)

    @handles
    async def look(self, message: Look, ctx: Context) -> Total | None:
        return Total(total=self.total) if self.total else None

    @handles
    async def back(self, message: Reset | Undo, ctx: Context) -> list[Total]:
        before, self.total = self.total, 0
        return [Total(total=before)]


@dataclass(frozen=True)
class Meet:
    who: str


class Door(MessageAgent):
    """Lets in one at a time, unless it is wide open."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.entered: asyncio.Queue[str] = asyncio.Queue()
        self.opened = asyncio.Event()

    @handles
    async def meet(self, message: Meet, ctx: Context) -> None:
        self.log.append(f"{message.who} in")
        self.entered.put_nowait(message.who)
        await self.opened.wait()
        self.log.append(f"{message.who} out")


@dataclass(frozen=True)
class Relay:
    via: list[str] = field(default_factory=list)


class Relayed(MessageAgent):
    @handles
    async def relay(self, message: Relay, ctx: Context) -> list[str]:
        here = ctx.session.id.key
        if not message.via:
            return [here]
        return [here, *await ctx.call(relayed, Relay(message.via[1:]), session=message.via[0])]


counter = actor("counter", Counter)
relayed = actor("relayed", Relayed)

Send = "Callable[..., Any]"


@pytest.fixture(params=[False, True], ids=["by reference", "strict"])
async def open_post(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Send]]:
    """Makes the volatile side of a runtime over some agents; returns its ``send``."""
    async with AsyncExitStack() as stack:

        def make(*agents: Actor[Any]) -> Send:
            plugins = Plugins(PluginSettings(allow=frozenset({"messaging", "transport-inprocess"})))
            plugins.start([App("shop", agents=agents)])
            sections = {"transport-inprocess": {"strict": request.param}}
            runtime = Runtime(Settings(sections=sections), plugins, SystemClock(), None)
            runtime.catalog.bind(runtime)
            volatile = LocalMessenger(runtime)
            stack.push_async_callback(volatile.stop)

            async def send(message: object, to: str, deadline: float | None = TIMEOUT) -> Any:
                return await volatile.send(message, AgentId.parse(to), deadline=deadline)

            return send

        yield make


# -- send and reply -----------------------------------------------------------------------------------------


async def test_a_message_is_handled_by_the_handler_of_its_type(open_post: Any):
    send = open_post(counter)
    assert await send(Add(2), "shop.counter/a") == Total(total=2)
    assert await send(Add(3), "counter/a") == Total(total=5)
    assert await send(Look(), "shop.counter/a") == Total(total=5)


async def test_none_is_a_reply(open_post: Any):
    assert await open_post(counter)(Look(), "shop.counter/a") is None


async def test_each_key_is_an_instance_of_its_own(open_post: Any):
    send = open_post(counter)
    await send(Add(2), "shop.counter/a")
    assert await send(Add(1), "shop.counter/b") == Total(total=1)


async def test_two_runtimes_share_no_instance(open_post: Any):
    await open_post(counter)(Add(2), "shop.counter/a")
    assert await open_post(counter)(Add(1), "shop.counter/a") == Total(total=1)


@pytest.mark.parametrize("message", [Meet("x"), "text", 7, None, {"amount": 1}])
async def test_a_message_that_nobody_handles_is_undeliverable(open_post: Any, message: object):
    expected = (
        rf"agent 'counter' has no handler for messages of type '{type_name(type(message))}'; it handles: .*shop\.add"
    )
    with pytest.raises(Undeliverable, match=expected):
        await open_post(counter)(message, "shop.counter/a")


async def test_a_subclass_without_a_handler_of_its_own_is_handled_as_what_it_derives_from(open_post: Any):
    @dataclass(frozen=True)
    class AddMore(Add):
        pass

    assert type_name(AddMore) != "shop.add"
    assert await open_post(counter)(AddMore(3), "shop.counter/a") == Total(total=3)


async def test_an_unknown_agent_is_undeliverable(open_post: Any):
    with pytest.raises(Undeliverable, match="nobody"):
        await open_post(counter)(Look(), "shop.nobody/a")


async def test_an_error_of_a_handler_arrives_with_the_name_of_its_type(open_post: Any):
    with pytest.raises(CallFailed) as caught:
        await open_post(counter)(Add(0), "shop.counter/a")
    assert (caught.value.error.type, caught.value.error.message) == ("LookupError", "nothing to add")


# -- one at a time -------------------------------------------------------------------------------------------


async def test_an_instance_handles_one_message_at_a_time_in_the_order_of_arrival(open_post: Any):
    door = Door()
    send = open_post(actor("door", Door, make=lambda: door))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
        for who in "abc":
            group.create_task(send(Meet(who), "shop.door/1"))
        assert await door.entered.get() == "a"
        door.opened.set()
    assert door.log == ["a in", "a out", "b in", "b out", "c in", "c out"]


async def test_a_concurrent_agent_handles_several_at_once(open_post: Any):
    door = Door()
    send = open_post(actor("door", Door, make=lambda: door, concurrent=True))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
        for who in "ab":
            group.create_task(send(Meet(who), "shop.door/1"))
        assert [await door.entered.get(), await door.entered.get()] == ["a", "b"]
        door.opened.set()


async def test_a_message_that_is_given_up_leaves_the_queue(open_post: Any):
    door = Door()
    send = open_post(actor("door", Door, make=lambda: door))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
        group.create_task(send(Meet("a"), "shop.door/1"))
        assert await door.entered.get() == "a"
        with pytest.raises(DeadlineExceeded):
            await send(Meet("b"), "shop.door/1", deadline=0.01)
        group.create_task(send(Meet("c"), "shop.door/1"))
        door.opened.set()
    assert door.log == ["a in", "a out", "c in", "c out"]


async def test_agents_may_call_each_other(open_post: Any):
    assert await open_post(relayed)(Relay(["b", "c"]), "shop.relayed/a") == ["a", "b", "c"]


async def test_a_call_back_into_a_waiting_instance_fails_instead_of_waiting_for_ever(open_post: Any):
    send = open_post(relayed)
    with pytest.raises(CallFailed, match=r"SessionBusy: session shop\.relayed/a waits, directly or not, for this"):
        await send(Relay(["b", "a"]), "shop.relayed/a")
    assert await send(Relay(), "shop.relayed/a") == ["a"]


async def test_an_agent_may_send_to_itself_once_it_has_replied(open_post: Any):
    tasks: list[asyncio.Task[Any]] = []
    replied = asyncio.Event()

    class Later(MessageAgent):
        @handles
        async def look(self, message: Look, ctx: Context) -> None:
            async def again() -> Any:
                await replied.wait()
                return await ctx.call(later, Undo(), session="1")

            tasks.append(asyncio.ensure_future(again()))

        @handles
        async def undo(self, message: Undo, ctx: Context) -> str:
            return "undone"

    later = actor("later", Later)
    await open_post(later)(Look(), "shop.later/1")
    replied.set()
    async with asyncio.timeout(TIMEOUT):
        assert await tasks[0] == "undone"


async def test_an_instance_that_cannot_be_made_is_tried_again(open_post: Any):
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter())
        if len(made) == 1:
            msg = "not yet"
            raise ConnectionError(msg)
        return made[-1]

    send = open_post(actor("counter", Counter, make=make))
    with pytest.raises(CallFailed, match="ConnectionError: not yet"):
        await send(Add(1), "shop.counter/a")
    assert await send(Add(1), "shop.counter/a") == Total(total=1)


async def test_durable_work_with_a_message_agent_fails_loudly():
    plugins = Plugins(PluginSettings(allow=frozenset({"messaging"})))
    plugins.start([App("shop", agents=[counter])])
    runtime = Runtime(Settings(), plugins, SystemClock(), None)
    runtime.catalog.bind(runtime)
    start = Start("turn_1", "turn", "shop.counter", counter.encode_input((Add(1),), {}), 0.0, session="a")
    turn = Execution(runtime.catalog, start)
    turn.begin()
    assert isinstance(turn.outcome.error, NotDurable)
    assert "'shop.counter/a' lives in the memory of its process" in str(turn.outcome.error)


# -- how messages travel ------------------------------------------------------------------------------------------


class Rich(BaseModel):
    at: datetime
    price: Decimal
    tags: set[str]
    raw: bytes
    pair: tuple[int, str]
    by_number: dict[int, float]


class Everything(MessageAgent):
    @handles
    async def rich(self, message: Rich, ctx: Context) -> Rich | int | str | list[Add] | dict[str, Undo] | None: ...

    @handles
    async def add(self, message: Add, ctx: Context) -> float | bool: ...


everything = actor("everything", Everything)
RICH = Rich(
    at=datetime(2026, 1, 2, tzinfo=UTC),
    price=Decimal("1.10"),
    tags={"a", "b"},
    raw=b"bytes",
    pair=(1, "x"),
    by_number={1: 0.5},
)


@pytest.mark.parametrize("message", [RICH, Add(3)])
def test_a_message_travels_under_the_name_of_its_type(message: object):
    payload = everything.encode_input((message,), {})
    assert payload.startswith(b'{"type":"%b","value":{' % type_name(type(message)).encode())
    assert everything.decode_input(payload) == message


@pytest.mark.parametrize(
    "value",
    [RICH, 7, "text", None, [Add(1), Add(2)], [], {"x": Undo(2)}, 2.5, True, False],
    ids=range(10),
)
def test_a_reply_arrives_as_the_type_that_it_was(value: object):
    again = everything.decode_result(everything.encode_result(value))
    assert again == value
    assert type(again) is type(value)


def test_what_no_handler_declares_is_no_reply():
    with pytest.raises(NotEncodable, match=r"agent 'counter' replied with a str, which none of its handlers declares"):
        counter.encode_result("text")
    with pytest.raises(InvalidInput, match="the reply of agent 'counter' is a 'str', expected one of"):
        counter.decode_result(b'{"type": "str", "value": "text"}')


def test_a_handler_that_declares_nothing_replies_with_json():
    class Plain(MessageAgent):
        @handles
        async def look(self, message: Look, ctx: Context): ...

    plain = actor("plain", Plain)
    assert plain.decode_result(plain.encode_result({"a": [1, None]})) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("payload", "error", "expected"),
    [
        (b"{", InvalidInput, "the message to agent 'counter'"),
        (b'"text"', InvalidInput, "the message to agent 'counter' does not fit"),
        (b'{"type": "shop.add"}', InvalidInput, "value: field required"),
        (b'{"type": "shop.add", "value": {"amount": "x"}}', InvalidInput, "a 'shop.add', does not fit: amount"),
        (b'{"type": "os.system", "value": "ls"}', Undeliverable, "no handler for messages of type 'os.system'"),
    ],
)
def test_a_payload_that_does_not_fit_is_named(payload: bytes, error: type[Exception], expected: str):
    with pytest.raises(error, match=expected):
        counter.decode_input(payload)


def test_a_call_that_does_not_fit_is_named():
    with pytest.raises(InvalidInput, match="takes one message, got 2 arguments"):
        counter.encode_input((Add(1), Add(2)), {})
    with pytest.raises(Undeliverable, match="'str'"):
        counter.encode_input(("text",), {})


def test_types_have_explicit_names():
    assert type_name(Add) == "shop.add"
    assert type_name(Total) == f"{__name__}.Total"
    assert type_name(list[Add] | None) == type_name(list[Add] | None)
    assert [type_name(each) for each in (int, None, Any, dict[str, Add])] == [
        "int",
        "none",
        "any",
        "dict[str, shop.add]",
    ]
    with pytest.raises(UsageError, match="message type name 'a b'"):
        message_type("a b")


# -- declarations that do not fit --------------------------------------------------------------------------------


def test_a_declaration_says_what_it_is():
    assert (counter.kind, counter.name, counter.description) == ("agent", "counter", "Counts.")
    assert sorted(map(type_name, counter.handlers)) == sorted(map(type_name, (Add, Look, Reset, Undo)))
    assert relayed.description == ""


def test_a_subclass_overrides_by_the_name_of_the_method():
    class Doubled(Counter):
        @handles
        async def add(self, message: Add, ctx: Context) -> Total:
            self.total += 2 * message.amount
            return Total(total=self.total)

        async def look(self, message: Look, ctx: Context) -> None:
            """No handler any more."""

    assert set(actor("doubled", Doubled).handlers) == {Add, Reset, Undo}


def test_a_class_that_does_not_fit_is_named():
    class Nothing(MessageAgent):
        pass

    class Twice(MessageAgent):
        @handles
        async def one(self, message: Add, ctx: Context) -> None: ...

        @handles
        async def two(self, message: Add | Look, ctx: Context) -> None: ...

    class Loose(MessageAgent):
        @handles
        async def any(self, message: int, ctx: Context) -> None: ...

    class Short(MessageAgent):
        @handles
        async def any(self, message: Add) -> None: ...

    class Same(MessageAgent):
        @handles
        async def one(self, message: Add, ctx: Context) -> None: ...

        @handles
        async def two(self, message: OtherAdd, ctx: Context) -> None: ...

    for cls, expected in (
        (Nothing, "'.*Nothing' handles nothing"),
        (Twice, "handles 'shop.add' twice, with 'one' and 'two'"),
        (Loose, "takes <class 'int'> as its message: messages are pydantic models, dataclasses or protobuf"),
        (Short, "handler '.*Short.any' must have the form"),
        (Same, "two types travel as 'shop.add'"),
        (str, "expected a subclass of MessageAgent"),
    ):
        with pytest.raises(UsageError, match=expected):
            actor("odd", cls)


def test_a_handler_is_an_async_method():
    with pytest.raises(UsageError, match="@handles needs a method of the form"):

        @handles
        def add(self, message: Add, ctx: Context) -> None: ...


@message_type("shop.add")
class OtherAdd(BaseModel):
    pass
