"""The command that runs every fuzzer finds them all, and sees one that fails or hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import fuzz as chaos


def test_every_fuzzer_is_found() -> None:
    assert set(chaos.fuzzers()) >= {
        "perdure_hosting.fuzz",
        "perdure_transport_grpc.autogen.fuzz",
        "perdure_transport_http.fuzz",
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", chaos.fuzzers())
def test_each_of_them_runs_for_the_time_it_is_given_and_finds_nothing(module: str) -> None:
    found = chaos.fuzz(module, seconds=1.0, seed=1)
    assert not found.failed, found.says
    assert "rounds" in found.says


FUZZERS = {
    "fails": ("raise ValueError('with seed 3')", "with seed 3"),
    "is killed": ("import os; os.abort()", ""),
    "hangs": ("while True: pass", "it hangs"),
}


@pytest.mark.parametrize("way", FUZZERS)
def test_one_that_goes_wrong_is_told(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, says = FUZZERS[way]
    (tmp_path / "troubled_fuzz.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = chaos.fuzz("troubled_fuzz", seconds=0.1, late=3.0 if way == "hangs" else chaos.LATE)
    assert found.failed
    assert says in found.says
