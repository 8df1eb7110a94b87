"""A runtime without an engine, over the in-process transport: by reference, and strict."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from perdure import App, Runtime
from perdure.config import PluginSettings, Settings
from perdure.plugins import Plugins
from perdure.testing import ManualClock
from perdure_messaging import LocalMessenger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture(params=[False, True], ids=["by_reference", "strict"])
def strict(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def house(strict: bool, clock: ManualClock) -> AsyncIterator[Callable[..., Runtime]]:
    """Makes runtimes of the app ``shop``: ``house(*agents, plugins=[…], mailbox=…)``."""
    async with AsyncExitStack() as stack:

        def make(*agents: Any, plugins: Any = (), **settings: Any) -> Runtime:
            found = Plugins(PluginSettings(allow=frozenset({"messaging", "transport-inprocess"})))
            found.start([App("shop", agents=agents), *plugins])
            sections = {"transport-inprocess": {"strict": strict, "grace": 0.1}, "messaging": settings}
            runtime = Runtime(Settings(sections=sections), found, clock, None)
            runtime.catalog.bind(runtime)
            messenger = LocalMessenger(runtime)
            runtime._messenger = messenger  # noqa: SLF001 - opening would need an engine
            stack.push_async_callback(messenger.stop)
            return runtime

        yield make
