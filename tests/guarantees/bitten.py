"""The kits and the guarantees over what is broken: run by ``test_bites.py``, and by nobody else.

Each test runs over those of ``BITES`` that it must catch; one of each kit also over what is sound, which it must pass.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import ClassVar

import pytest

from perdure.ports import DurableStore
from perdure.testing import ManualClock, MemoryStore
from perdure.testing.engine_kit import EngineKit
from perdure.testing.store_kit import StoreKit

from .bites import BITES, Bite
from .ground import Ground, OnMemory
from .test_guarantees import Guarantees

SOUND = "sound"
CONTROLS = (
    "Guarantees.test_of_many_answers_at_once_one_is_taken",
    "EngineKit.test_a_request_is_answered_once",
    "StoreKit.test_a_second_answer_is_refused",
)
SOON = 2.0
"""Seconds that a test which is to fail waits for what does not come."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test with what it is to catch, and what it is to pass."""
    test = f"{metafunc.cls.__name__.removeprefix('Test')}.{metafunc.function.__name__}"
    broken = [what for what, bite in BITES.items() if test in bite.caught_by]
    metafunc.parametrize("bite", [*broken, *([SOUND] if test in CONTROLS else [])], indirect=True)


class Bitten:
    """Fixtures: what is broken, and how long to wait for it."""

    @pytest.fixture(autouse=True)
    def bite(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bite:
        if request.param == SOUND:
            return Bite("", ())
        for module in ("harness", "engine_kit"):
            monkeypatch.setattr(sys.modules[f"perdure.testing.{module}"], "_PATIENCE", SOON)
        monkeypatch.setattr(type(self), "patience", SOON, raising=False)
        bite = BITES[request.param]
        bite.apply(monkeypatch)
        return bite


class TestStoreKit(Bitten, StoreKit):
    @pytest.fixture
    def stores(self, bite: Bite, clock: ManualClock) -> object:
        return Shared(bite.store(clock, lease=self.lease))


class TestEngineKit(Bitten, EngineKit):
    @pytest.fixture
    def store(self, bite: Bite, clock: ManualClock) -> DurableStore:
        return bite.store(clock)


class TestGuarantees(Bitten, Guarantees):
    patience: ClassVar[float] = 30.0

    @pytest.fixture
    async def ground(self, bite: Bite, tmp_path: Path) -> AsyncGenerator[Ground]:
        ground = OnBroken(tmp_path, bite.store)
        yield ground
        await ground.close()


class OnBroken(OnMemory):
    """Ground that gives way."""

    def __init__(self, folder: Path, store: type[MemoryStore]) -> None:
        self.make = store
        super().__init__(folder)


class Shared:
    """All processes share the one object."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def open(self) -> MemoryStore:
        return self.store

    async def kill(self, store: MemoryStore, worker: str) -> None:
        store.kill(worker)
