"""Damaged and hostile messages of AutoGen's workers: a short run of the fuzzer, and that it finds what it looks for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure_messaging.routing import Routes
from perdure_transport_grpc.autogen import fuzz
from perdure_transport_grpc.autogen.member import Member


@pytest.fixture
async def ground() -> AsyncIterator[fuzz.Ground]:
    ground = fuzz.Ground()
    await ground.start()
    yield ground
    await ground.stop()


async def test_whatever_a_worker_says_its_requests_are_answered(ground: fuzz.Ground):
    assert sum([await ground.attack(seed) for seed in range(30)]) > 500


def test_the_fuzzer_runs_for_the_time_it_is_given(capsys: pytest.CaptureFixture[str]):
    assert fuzz.main(["--seconds", "0", "--seed", "7"]) == 0
    assert "1 rounds" in capsys.readouterr().out


async def test_the_fuzzer_finds_a_request_without_an_answer(ground: fuzz.Ground, monkeypatch: pytest.MonkeyPatch):
    async def hang_up(self, request) -> None:
        self.outbox.close()

    async def rounds(count: int) -> None:
        for seed in range(count):
            await ground.attack(seed)

    monkeypatch.setattr(Member, "_request", hang_up)
    with pytest.raises(AssertionError, match="requests were answered"):
        await rounds(10)


async def test_the_fuzzer_finds_what_is_left_behind(monkeypatch: pytest.MonkeyPatch):
    ground = fuzz.Ground()
    await ground.start()
    await ground.attack(1)
    monkeypatch.setattr(Routes, "__len__", lambda self: 1)
    with pytest.raises(AssertionError, match="something is left"):
        await ground.stop()
