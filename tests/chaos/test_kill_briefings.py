"""A short setting of ``kill_briefings``: the command runs it 100 times over 20 documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_briefing.witness import Line
from perdure.messages import AgentId, ChatMessage, RunView

from . import kill_briefings as chaos


@pytest.mark.timeout(300)
async def test_killed_briefings_finish_and_repeat_nothing_that_was_recorded(tmp_path: Path) -> None:
    # With this seed few briefings are killed by the clock and at each kind of event: begin, end, commit and replay.
    tally = await chaos.kill_briefings(4, 6, 3, tmp_path)
    assert not tally.problems
    assert tally.finished == 4
    assert sum(tally.kills.values()) >= 6


def line(event: str, path: str) -> Line:
    return Line(event, 1, "run", path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("life", "replayed", "where"),
    [
        ([], True, "in replay"),
        ([], False, "elsewhere"),
        ([line("begin", "a")], True, "mid-step"),
        ([line("begin", "a"), line("end", "a")], False, "after commit"),
        ([line("begin", "b"), line("end", "b")], False, "before commit"),
    ],
    ids=["replay", "start", "begin", "recorded", "unrecorded"],
)
def test_where_a_kill_struck_is_told_by_the_last_line_and_the_journal(life, replayed, where) -> None:
    assert chaos.struck([line("process", ""), *life], {("run", "a")}, replayed=replayed) == where


def turn(text: str) -> RunView:
    return RunView(
        id="t", kind="turn", target="a.b", status="completed", created=0, updated=0, input=text, result={"text": "yes"}
    )


def said(*texts: str) -> list[ChatMessage]:
    return [
        message
        for text in texts
        for message in (ChatMessage(role="user", text=text), ChatMessage(role="assistant", text="yes"))
    ]


@pytest.mark.parametrize(
    "heard", [("one",), ("one", "one", "two"), ("two", "one")], ids=["lost", "doubled", "reordered"]
)
def test_a_turn_that_is_lost_or_doubled_or_reordered_is_found(heard) -> None:
    session, turns = AgentId("a.b", "s"), [turn("one"), turn("two")]
    assert not chaos.misheard(session, turns, said("one", "two"))
    assert chaos.misheard(session, turns, said(*heard))
