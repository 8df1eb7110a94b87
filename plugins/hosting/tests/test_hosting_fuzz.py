"""Damaged and hostile packets: a short run of the fuzzer, and that it finds what it looks for."""

from __future__ import annotations

import pytest

from perdure_hosting import fuzz, wire
from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.placement import Registry


async def test_whatever_comes_breaks_a_connection_at_worst():
    packets = 0
    for seed in range(40):
        packets += fuzz.attack_router(seed) + await fuzz.attack_worker(seed)
    assert packets > 200


def test_the_fuzzer_runs_for_the_time_it_is_given(capsys: pytest.CaptureFixture[str]):
    assert fuzz.main(["--seconds", "0", "--seed", "7"]) == 0
    assert "1 rounds" in capsys.readouterr().out


def rounds(count: int) -> None:
    for seed in range(count):
        fuzz.attack_router(seed)


def test_the_fuzzer_finds_what_is_left_behind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Registry, "remove", lambda self, place: None)
    with pytest.raises(AssertionError, match="something is left"):
        rounds(1000)


def test_the_fuzzer_finds_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "renumbered", lambda raw, call: raw + b"\x11")
    with pytest.raises(ProtocolViolated, match="a frame of"):
        rounds(1000)
