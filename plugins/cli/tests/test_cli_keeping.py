"""Keeping house: purge, export and replay, and the process that only drives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

OTHER = """
from perdure import App, Context, workflow

@workflow
async def add(ctx: Context, first: int, second: int = 1) -> int:
    return await ctx.step(multiplied, first, second)

def multiplied(first: int, second: int) -> int:
    return first * second

app = App("desk", workflows=[add])
"""


# -- purge --------------------------------------------------------------------------------------------------------


def left(perdure) -> list[str]:
    return [view["id"] for view in perdure("runs", "--json").document if view["kind"] == "workflow"]


@pytest.mark.parametrize(
    ("words", "count", "leaves"),
    [
        ((), 2, ["three"]),
        (("--status", "failed"), 1, ["three", "one"]),
        (("--target", "add"), 1, ["three", "two"]),
        (("--status", "terminated"), 0, ["three", "two", "one"]),
    ],
    ids=["all", "status", "target", "none"],
)
def test_what_has_finished_is_forgotten(words, count, leaves, three) -> None:
    would = three("purge", "--older-than", "0s", *words, "--dry-run", "--json").document
    assert would == {"would_purge": count, "at_least": False}
    assert len(left(three)) == 3
    assert three("purge", "--older-than", "0s", *words, "--yes", "--json").document == {"purged": count}
    assert left(three) == leaves


def test_what_another_process_has_driven_is_forgotten_while_it_goes_on(driven) -> None:
    run = driven("run", "insist", "--detach", "--json").document["run"]["id"]
    assert driven("wait", run, "--timeout", "60s").code == 0
    assert driven("purge", "--older-than", "0s", "--target", "desk.insist", "--yes", "--json").document == {"purged": 1}
    assert driven("show", run).code == 2
    assert driven("run", "add", "1", "--detach", "--json").document["driven"] is True


def test_what_is_young_stays(three) -> None:
    assert "would forget 0 runs" in three("purge", "--older-than", "30d", "--dry-run").out
    assert "forgot 0 runs" in three("purge", "--older-than", "30d", "--yes").out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--older-than", "0s"), "--yes"),
        (("--yes",), "--older-than"),
        (("--older-than", "0s", "--status", "waiting"), "'completed'"),
    ],
    ids=["unasked", "ageless", "unfinished"],
)
def test_nothing_is_forgotten_by_mistake(words, says, three) -> None:
    ran = three("purge", *words)
    assert ran.code == 2
    assert says in ran.err
    assert len(left(three)) == 3


# -- export and replay ---------------------------------------------------------------------------------------------


def test_an_exported_journal_is_replayed_with_the_code_that_is_there(
    perdure, bare, start, patience, monkeypatch, desk
) -> None:
    patience(60.0)
    assert start("worker", "--json").line()["state"] == "ready"
    perdure("run", "add", "1", "--id", "sum")
    assert perdure("run", "journey", "--id", "way", "--detach", "--json").document["driven"] is True
    assert "wrote the journal of run sum" in perdure("export", "sum", "-o", "sum.json").out
    assert perdure("export", "way", "--output", "way.json", "--json").document["file"] == "way.json"
    assert perdure("export", "sum").document == json.loads(Path("sum.json").read_text())
    ran = perdure("replay", "sum.json", "way.json")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "sum.json fits: desk.add version 1, 1 line, completed"
    assert ran.out.splitlines()[1].startswith("way.json fits: desk.journey version 1, ")
    Path("other_desk.py").write_text(OTHER)
    monkeypatch.syspath_prepend(str(desk))
    ran = bare("replay", "sum.json", "way.json", "--app", "other_desk:app", "--json")
    assert ran.code == 1
    first, second = ran.document
    assert first["verdict"] == second["verdict"] == "does not fit"
    assert "summed" in first["error"]
    assert "multiplied" in first["error"]
    assert "journey" in second["error"]


def test_what_is_no_journal_is_not_replayed(perdure) -> None:
    Path("letter").write_text("Dear Ada")
    ran = perdure("replay", "letter")
    assert ran.code == 2
    assert "letter is no journal" in ran.out
    assert perdure("replay", "nowhere").code == 2
    assert perdure("replay").code == 2


def test_what_cannot_be_exported_is_explained(perdure) -> None:
    assert perdure("export", "run_x").code == 2
    turn = perdure("run", "clerk", "Hello", "--json").document["id"]
    ran = perdure("export", turn)
    assert ran.code == 2
    assert "export a workflow's" in ran.err
    perdure("run", "add", "1", "--id", "sum")
    ran = perdure("export", "sum", "-o", "no/such/folder")
    assert ran.code == 2
    assert "--output" in ran.err


# -- the worker ----------------------------------------------------------------------------------------------------


def test_a_worker_drives_what_is_handed_over_and_stops_in_order(perdure, start, patience) -> None:
    worker = start("worker", "--json")
    ready = worker.line()
    assert (ready["state"], Path(ready["data"])) == ("ready", Path(".perdure").absolute())
    patience(60.0)
    assert perdure("run", "add", "1", "--detach", "--json").document["driven"] is True
    assert worker.stop() == 0
    assert worker.line() == {"worker": ready["worker"], "state": "stopped"}
    patience(0.1)
    assert perdure("run", "add", "1", "--detach", "--json").document["driven"] is False
