"""A short setting of ``kill_workers``, whose command kills 10,000; and that its inspection sees what it is to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import inspection, kill_workers as chaos
from .load import Work
from .testimony import Line, Reader, Witness, lines_of


@pytest.mark.timeout(300)
async def test_killed_workers_lose_nothing_and_repeat_nothing_that_was_recorded(tmp_path: Path) -> None:
    tally = await chaos.kill_workers(tmp_path, kills=40, seed=1)
    assert not tally.problems
    assert tally.killed >= 40
    assert tally.findings.takeovers > 1
    assert tally.starts >= chaos.OUTSTANDING
    assert tally.findings.steps > tally.starts


def lines(text: str) -> list[Line]:
    """``begin:1:a`` and the like."""
    return [Line(event, int(life), step) for event, life, step in (word.split(":") for word in text.split())]


STOPS, WAKES = Line("stops", 1, detail="mid-step"), Line("wakes", 0, detail="1")


def test_the_first_attempt_after_a_stop_counts_from_before_it_and_no_other_one() -> None:
    winners = {"a": 1, "b": 2, "c": 2}
    one, other = lines("attempt:1:a"), lines("drives:2: attempt:2:b attempt:2:c")
    late, too_late = lines("attempt:1:b attempt:1:c")
    ordered, count = inspection.resumed([*one, STOPS, *other, WAKES, late, too_late], winners)
    assert count == 1
    assert ordered == [*one, late, STOPS, *other, WAKES, too_late]
    assert len(inspection.repeated(ordered, winners, "attempt")) == 1


def test_who_drives_again_after_a_stop_attempts_anew() -> None:
    seen = [*lines("attempt:1:a"), STOPS, *lines("drives:2:"), WAKES, *lines("drives:1: attempt:1:a")]
    assert inspection.resumed(seen, {"a": 2}) == (seen, 0)
    assert not inspection.repeated(seen, {"a": 1}, "attempt")


def entry(step: str, life: int) -> inspection.Recorded:
    return inspection.Recorded("run", "step", step, 0.0, 0.0, life, None)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ("begin:1:a end:1:a", 0),
        ("begin:2:a begin:1:a", 0),
        ("begin:1:a begin:2:a", 1),
        ("begin:1:a begin:1:a", 1),
        ("begin:1:a begin:2:b", 1),
        ("", 1),
    ],
    ids=["once", "recorded the second time", "after it was recorded", "beside", "never recorded", "never begun"],
)
def test_a_body_that_ran_again_after_it_was_recorded_is_found(seen: str, expected: int) -> None:
    assert len(inspection.repeated(lines(seen), {"a": 1})) == expected


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [([1, 1, 2, 2, 1], 0), ([1, 2, 1, 1], 0), ([2, 1, 1], 0), ([1, 2, 1, 2], 1), ([3], 1)],
    ids=["in turn", "again", "some did nothing", "stale", "never drove"],
)
def test_an_entry_committed_after_a_takeover_by_the_one_before_is_found(recorded: list[int], expected: int) -> None:
    entries = [entry(f"run:{number}", life) for number, life in enumerate(recorded)]
    assert len(inspection.unfenced(entries, [1, 2, 1])) == expected


def test_who_did_not_live_to_commit_an_epoch_did_not_drive() -> None:
    seen = [Line("drives", 1, detail="1"), Line("drives", 2, detail="2"), Line("drives", 3, detail="2")]
    assert inspection.drivers(seen) == [1, 3]


def test_who_writes_after_another_one_has_its_work_is_found() -> None:
    assert not inspection.posthumous(lines("begin:1:a begin:2:a end:2:a begin:2:b"))
    assert len(inspection.posthumous(lines("begin:1:a begin:2:a end:1:a"))) == 1


def test_turns_that_overtake_one_another_are_found() -> None:
    works = {"first": Work("turn", "t1", 0, "s"), "second": Work("turn", "t2", 1, "s")}
    assert not inspection.overtaken(lines("begin:1:first begin:2:first begin:2:second"), {})
    seen = [Line("begin", 1, "first:a"), Line("begin", 1, "second:a")]
    assert not inspection.overtaken(seen, works)
    assert len(inspection.overtaken([*seen, Line("begin", 1, "first:b")], works)) == 1


def test_an_effect_that_happened_twice_is_found() -> None:
    stored = inspection.Stored([entry("run:a", 1), entry("run:b", 1)], {"run": "completed"}, {})
    works = {"run": Work("chain", "chain1", 2)}
    assert not inspection.doubled(works, stored)
    assert len(inspection.doubled(works, stored._replace(entries=[entry("run:a", 1), entry("run:a", 2)]))) == 1
    assert len(inspection.doubled(works, stored._replace(statuses={"run": "completed", "other": "completed"}))) == 1


def test_a_timer_that_fired_early_is_found() -> None:
    works = {"run": Work("nap", "nap1", 5)}
    fired = entry("run:timer", 0)._replace(kind="timer", started=1.0)
    assert not inspection.premature([fired._replace(at=1.06)], works)
    assert len(inspection.premature([fired._replace(at=1.04)], works)) == 1


def test_a_child_that_answered_twice_or_wrongly_is_found() -> None:
    work = Work("family", "family1", 2)
    replies = [entry(f"run:{n}", 0)._replace(kind="call", value=value) for n, value in enumerate(work.expected)]
    stored = inspection.Stored(replies, {}, inspection.Counter(run=2))
    assert not inspection.misanswered(stored, {"run": work})
    for wrong in (replies[:1], [*replies, replies[0]], [replies[0], replies[0]]):
        assert len(inspection.misanswered(stored._replace(entries=wrong), {"run": work})) == 1


@pytest.mark.parametrize(
    ("life", "where"),
    [
        ([], ("opening", False)),
        ([Line("up", 1)], ("standing by", False)),
        ([Line("up", 1), Line("drives", 1, detail="3")], ("taking over", False)),
        ([Line("up", 1), Line("replay", 1, "run")], ("in replay", False)),
        ([Line("begin", 1, "b")], ("mid-step", False)),
        ([Line("begin", 1, "b"), Line("end", 1, "b")], ("before commit", False)),
        ([Line("begin", 1, "a"), Line("end", 1, "a")], ("after commit", False)),
        ([Line("begin", 1, "a"), Line("dies", 1, "", "commit")], ("at commit", True)),
    ],
    ids=["opening", "standing by", "taking over", "replay", "begun", "ended", "recorded", "aimed"],
)
def test_where_a_worker_was_killed_is_told_by_its_lines_and_the_journal(life: list[Line], where: tuple) -> None:
    assert inspection.struck(life, {"a": 1}) == where


def test_a_line_that_is_not_whole_yet_is_left_for_the_next_time(tmp_path: Path) -> None:
    file = tmp_path / "witness"
    witness = Witness(file, 7)
    witness.note("begin", "run:a", sync=True)
    witness.close()
    with file.open("a") as torn:
        torn.write("\nend\t7\trun")
    reader = Reader(file)
    assert reader.news() == lines_of(file) == [Line("begin", 7, "run:a")]
    with file.open("a") as rest:
        rest.write(":a\t\t.\n")
    assert reader.news() == [Line("end", 7, "run:a")]
    reader.close()


def test_a_line_that_was_never_finished_is_left_out_and_harms_no_other(tmp_path: Path) -> None:
    file = tmp_path / "witness"
    for life in (1, 2):
        with file.open("a") as torn:
            torn.write("\nend\t7\trun")
        witness = Witness(file, life)
        witness.note("begin", "run:a")
        witness.close()
    assert lines_of(file) == [Line("begin", 1, "run:a"), Line("begin", 2, "run:a")]
