"""Which handler a message gets: by type and its bases, by predicate, by kind; closures; names, versions, protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest
from google.protobuf import wrappers_pb2
from pydantic import BaseModel

from perdure import AgentId, Context
from perdure.errors import InvalidInput, Undeliverable, UsageError
from perdure_messaging import MessageAgent, actor, closure, handles, message_type
from perdure_messaging.message_types import JSON
from perdure_messaging.wire import Known, Packed, pack, unpack

T = TypeVar("T")


@dataclass(frozen=True)
class Animal:
    name: str


@dataclass(frozen=True)
class Dog(Animal):
    pass


@dataclass(frozen=True)
class Puppy(Dog):
    weeks: int = 8


@message_type("test.stone")
@dataclass(frozen=True)
class Stone:
    kilos: float = 1.0


@dataclass(frozen=True)
class Page(Generic[T]):
    items: list[T] = field(default_factory=list)
    by_name: dict[str, list[T]] = field(default_factory=dict)


class Box(BaseModel, Generic[T]):
    inside: T


class Zoo(MessageAgent):
    @handles
    async def any_animal(self, message: Animal, ctx: Context) -> str:
        return f"animal {message.name}"

    @handles
    async def dog(self, message: Dog, ctx: Context) -> str:
        return f"dog {message.name}"

    @handles
    async def page(self, message: Page[Animal], ctx: Context) -> Page[Animal]:
        return Page(message.items[::-1], {each.name: [each] for each in message.items})

    @handles
    async def box(self, message: Box[Animal], ctx: Context) -> Box[Animal]:
        return message


async def test_the_nearest_base_that_is_handled_takes_a_message(house: Any):
    send = house(actor("zoo", Zoo)).send
    to = AgentId("zoo", "1")
    assert await send(Animal("cat"), to) == "animal cat"
    assert await send(Dog("rex"), to) == "dog rex"
    assert await send(Puppy("bo"), to) == "dog bo"
    with pytest.raises(Undeliverable, match=r"test\.stone"):
        await send(Stone(), to)


async def test_nested_generics_arrive_whole(house: Any):
    send = house(actor("zoo", Zoo)).send
    items = [Animal("a"), Animal("b")]
    reply = await send(Page(items), AgentId("zoo", "1"))
    assert reply == Page(items[::-1], {"a": [items[0]], "b": [items[1]]})
    assert await send(Box[Animal](inside=items[0]), AgentId("zoo", "1")) == Box[Animal](inside=items[0])


class Guard(MessageAgent):
    @handles(match=lambda message, ctx: message.kilos > 100)
    async def heavy(self, message: Stone, ctx: Context) -> str:
        return "heavy"

    @handles(match=lambda message, ctx: ctx.message.sender is not None)
    async def sent(self, message: Stone, ctx: Context) -> str:
        return "sent by an agent"

    @handles(events=False)
    async def stone(self, message: Stone, ctx: Context) -> str:
        return "stone"

    @handles(events=False, match=lambda message, ctx: message.name != "x")
    async def dog(self, message: Dog, ctx: Context) -> str:
        return "dog"


async def test_a_handler_may_look_before_it_takes_a_message(house: Any):
    send = house(actor("guard", Guard)).send
    to = AgentId("guard", "1")
    assert [await send(Stone(kilos), to) for kilos in (101, 1, 500)] == ["heavy", "stone", "heavy"]
    assert await send(Dog("rex"), to) == "dog"
    with pytest.raises(Undeliverable, match="'dog', none of which matches the message"):
        await send(Dog("x"), to)


def test_events_and_requests_may_have_handlers_of_their_own():
    class Both(MessageAgent):
        @handles(requests=False)
        async def told(self, message: Stone, ctx: Context) -> None: ...

        @handles(events=False)
        async def asked(self, message: Stone, ctx: Context) -> str: ...

        @handles(requests=False)
        async def only_told(self, message: Dog, ctx: Context) -> None: ...

    both = actor("both", Both)
    assert both.handler(Stone(), event=True).method == "told"
    assert both.handler(Stone()).method == "asked"
    with pytest.raises(Undeliverable, match="no handler for requests of type"):
        both.handler(Dog("rex"))
    with pytest.raises(UsageError, match="handles nothing"):
        handles(events=False, requests=False)


async def test_a_function_is_an_agent(house: Any):
    async def greet(message: Animal | Stone, ctx: Context) -> str:
        """Greets.

        Also stones.
        """
        return f"hello {getattr(message, 'name', 'stone')} from {ctx.message.target}"

    greeter = closure("greeter", greet)
    send = house(greeter).send
    assert greeter.description == "Greets."
    assert await send(Dog("rex"), AgentId("greeter", "1")) == "hello rex from shop.greeter/1"
    assert await send(Stone(), AgentId("greeter", "2")) == "hello stone from shop.greeter/2"


async def test_a_handler_of_object_takes_what_others_do_not(house: Any):
    async def anything(message: object, ctx: Context) -> str:
        return type(message).__name__

    send = house(closure("anything", anything), actor("zoo", Zoo)).send
    assert await send(Stone(), AgentId("anything", "1")) == "Stone"
    assert await send(Dog("rex"), AgentId("anything", "1")) == "Dog"


def test_a_function_that_cannot_be_an_agent_is_named():
    async def short(message: Animal) -> None: ...

    def sync(message: Animal, ctx: Context) -> None: ...

    with pytest.raises(UsageError, match=r"must have the form 'async def name\(message: SomeMessage, ctx: Context\)"):
        closure("short", short)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected 'async def"):
        closure("sync", sync)  # type: ignore[arg-type]


# -- versions --------------------------------------------------------------------------------------------------


def split_name(value: dict[str, Any]) -> dict[str, Any]:
    first, _, last = value.pop("name").partition(" ")
    return {**value, "first": first, "last": last}


@message_type("test.person", version=3, upcasts={1: split_name, 2: lambda value: {**value, "tags": []}})
@dataclass(frozen=True)
class Person:
    first: str
    last: str
    tags: list[str]


def arrived(type_: str, payload: bytes) -> Any:
    return unpack(Packed(type_, JSON, payload), Known([Person]), "the message")


def test_a_version_travels_with_the_name_and_older_ones_are_brought_up():
    person = Person("Ada", "Lovelace", [])
    assert pack(person, Person, "it").type == "test.person@3"
    assert arrived("test.person@3", pack(person, Person, "it").payload) == person
    assert arrived("test.person@2", b'{"first": "Ada", "last": "Lovelace"}') == person
    assert arrived("test.person", b'{"name": "Ada Lovelace"}') == person


@message_type("test.pair", version=2, upcasts={1: lambda value: {**value, "right": None}})
@dataclass(frozen=True)
class Pair(Generic[T]):
    left: T
    right: T | None


def test_the_version_of_a_generic_type_that_is_current_is_not_brought_up():
    pair = Pair(1, 2)
    packed = pack(pair, Pair[int], "it")
    assert packed.type == "test.pair@2[int]"
    assert unpack(packed, Known([Pair[int]]), "it") == pair


@pytest.mark.parametrize(
    ("type_", "payload", "expected"),
    [
        ("test.person@4", b"{}", "is of version 4, and this process knows up to 3: upgrade it"),
        ("test.person@1", b"{}", "of version 1 cannot be brought to version 3: KeyError"),
        ("test.person@1", b"[]", "cannot be brought to version 3"),
        ("test.person@1", b"{", "cannot be brought to version 3"),
        ("test.nobody", b"{}", "a 'test.nobody', which nothing here declares: import what declares it"),
    ],
    ids=range(5),
)
def test_what_cannot_be_brought_up_is_named(type_: str, payload: bytes, expected: str):
    with pytest.raises(InvalidInput, match=expected):
        arrived(type_, payload)


def test_upcasts_that_lead_nowhere_are_named():
    with pytest.raises(UsageError, match=r"upcasts lead from \[2\], expected 1 to 1"):
        message_type("test.person", version=2, upcasts={2: split_name})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("list[test.person@3]", list[Person]),
        ("dict[str, list[test.person]]", dict[str, list[Person]]),
        ("tuple[int, str]", tuple[int, str]),
        ("list[os.system]", None),
        ("list[", None),
        ("list]]", None),
        ("[" * 5000 + "]", None),
    ],
    ids=range(7),
)
def test_names_of_composed_types_are_read_and_nothing_else(name: str, kind: Any):
    assert Known([Person]).find(name) == kind


# -- protobuf --------------------------------------------------------------------------------------------------


async def test_protobuf_messages_travel_as_such(house: Any):
    text, number = wrappers_pb2.StringValue, wrappers_pb2.Int64Value

    async def count(message: Any, ctx: Context) -> Any:
        return number(value=len(message.value))

    count.__annotations__ = {"message": text, "ctx": Context, "return": number}
    counter = closure("counter", count)
    assert counter.pack_reply(number(value=3)).content == "application/x-protobuf"
    reply = await house(counter).send(text(value="four"), AgentId("counter", "1"))
    assert (type(reply), reply.value) == (number, 4)
    with pytest.raises(InvalidInput, match=r"a 'google\.protobuf\.StringValue', cannot be read"):
        counter.unpack(Packed("google.protobuf.StringValue", "application/x-protobuf", b"\xff"))
    with pytest.raises(InvalidInput, match="came as 'application/json', expected 'application/x-protobuf'"):
        counter.unpack(Packed("google.protobuf.StringValue", JSON, b"{}"))
