"""What a message costs: Python calls of the kernel and this package, counted. Times would be the machine's."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import perdure
import perdure_messaging
from perdure import AgentId, App, Context
from perdure.errors import AmbiguousName
from perdure.messages import TopicId
from perdure_messaging import MessageAgent, actor, handles, message_type, subscribes, type_name
from perdure_messaging.homes import Homes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

OWN = tuple(f"{Path(package.__file__ or '').parent}{os.sep}" for package in (perdure, perdure_messaging))
MANY = 100


@message_type("cost.ping")
@dataclass(frozen=True)
class Ping:
    text: str = "ping"


@subscribes("news")
class Echo(MessageAgent):
    @handles
    async def ping(self, message: Ping, ctx: Context) -> Ping:
        return message


class Other(MessageAgent):
    @handles
    async def ping(self, message: Ping, ctx: Context) -> None: ...


@contextmanager
def calls() -> Iterator[list[str]]:
    """Notes the code that is called in the block, as far as it is ours, by the module's file and name."""
    found: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OWN):
            found.append(f"{Path(code.co_filename).stem}.{code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("way", ["send", "publish"])
async def test_a_message_takes_few_calls(house: Any, strict: bool, way: str):
    runtime = house(actor("echo", Echo))
    to, topic = AgentId("shop.echo", "1"), TopicId("news", "1")

    async def message() -> None:
        if way == "send":
            assert await runtime.send(Ping(), to) == Ping()
        else:
            await runtime.publish(Ping(), topic)

    await runtime.publish(Ping(), topic)  # the first ones make the agent, and find out what is kept
    await runtime.send(Ping(), to)
    with calls() as found:
        for _ in range(MANY):
            await message()
        await runtime.send(Ping(), to)  # comes after what was published
    allowed = {"send": 32 if strict else 8, "publish": 20 if strict else 8}[way]
    assert len(found) <= allowed * (MANY + 1), sorted({each: found.count(each) // MANY for each in found}.items())


def test_nothing_is_looked_up_for_an_address_that_nothing_here_has(house: Any):
    runtime = house(actor("echo", Echo), actor("other", Other))
    homes = Homes(runtime.catalog, 1)
    with calls() as found:
        for n in range(MANY):
            to = AgentId(f"elsewhere.echo{n}", "1")
            assert homes.resolved(to) is to
    assert found == ["homes.Homes.resolved"] * MANY
    assert homes.resolved(AgentId("echo", "1")) == homes.resolved(AgentId("shop.echo", "1")) == ("shop.echo", "1")


async def test_a_short_type_that_two_apps_have_is_ambiguous_each_time(house: Any):
    runtime = house(actor("echo", Echo), plugins=[App("attic", agents=[actor("echo", Other)])])
    for _ in range(2):
        with pytest.raises(AmbiguousName, match=r"attic\.echo, shop\.echo"):
            await runtime.send(Ping(), AgentId("echo", "1"))
    assert await runtime.send(Ping(), AgentId("shop.echo", "1")) == Ping()
    assert await runtime.send(Ping(), AgentId("attic.echo", "1")) is None


def test_a_class_travels_under_the_name_that_it_was_given_last():
    class Late:
        pass

    assert type_name(Late) == f"{__name__}.{Late.__qualname__}"
    for name, version, expected in (("cost.late", 1, "cost.late"), ("cost.later", 2, "cost.later@2")):
        message_type(name, version=version)(Late)
        assert type_name(Late) == expected
        assert type_name(list[Late]) == f"list[{expected}]"
