"""What a turn is lent by a runtime, and a session to have it in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from perdure import AgentId
from perdure.context import Callee
from perdure.direct import DirectContext, Memory
from perdure.errors import UnknownName
from perdure.ports import AgentMiddleware, Model
from perdure.testing import ManualClock
from perdure_agent_llm import LlmTurn


class Lent:
    """``perdure.ports.Services`` with one model."""

    def __init__(self, model: Model, middleware: Sequence[AgentMiddleware], settings: Mapping[str, Any]) -> None:
        self._model, self._settings = model, settings
        self.agent_middleware = middleware
        self.clock = ManualClock()

    def model(self, name: str | None) -> Model:
        if name not in {None, self._model.name}:
            raise UnknownName("model", name, [self._model.name])
        return self._model

    def settings(self, section: str) -> Mapping[str, Any]:
        assert section == "agent-llm"
        return self._settings


@pytest.fixture
def services() -> Callable[..., Lent]:
    """Makes what a runtime lends: ``services(model, *middleware, **settings)``."""
    return lambda model, *middleware, **settings: Lent(model, middleware, settings)


@pytest.fixture
def llm(services: Callable[..., Lent]) -> Callable[..., LlmTurn]:
    """Makes the handler under test, of the same."""
    return lambda *given, **settings: LlmTurn(services(*given, **settings))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def session() -> Memory:
    return Memory(AgentId("newsroom.reader", "s1"))


@pytest.fixture
def ctx(session: Memory, clock: ManualClock) -> DirectContext:
    async def call(callee: Callee, payload: bytes, key: str | None) -> bytes:
        msg = f"nobody is called here, and so is not {callee.name!r}"
        raise AssertionError(msg)

    return DirectContext(call, clock, session=session)
