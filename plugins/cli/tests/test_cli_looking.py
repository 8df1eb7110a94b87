"""Listing and watching runs, and their whole history."""

from __future__ import annotations

import shlex
import time
from datetime import UTC, datetime, timedelta

import click
import pytest

from perdure_cli.times import MOMENT, SPAN

# -- listing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), ["three", "two", "one"]),
        (("--status", "failed", "--status", "completed"), ["two", "one"]),
        (("--tag", "team=news"), ["two", "one"]),
        (("--tag", "team=news", "--tag", "number=one"), ["one"]),
        (("--workflow", "consult"), ["three"]),
        (("--since", "1h", "--until", "0s"), ["three", "two", "one"]),
        (("--until", "1h"), []),
        (("--since", "2999-01-31"), []),
        (("--until", "2999-01-31T09:30+02:00", "--limit", "3"), ["three", "two"]),
        (("--before", "three", "--limit", "1"), ["two"]),
    ],
    ids=lambda value: " ".join(value) or "all",
)
def test_runs_are_listed_by_what_they_are(words, found, three) -> None:
    ran = three("runs", "--json", *words)
    assert [view["id"] for view in ran.document if view["kind"] == "workflow"] == found


def test_the_last_line_of_a_page_is_the_command_for_the_next(three, bare) -> None:
    words = ["runs", "--tag", "team=news", "--since", "1d", "--limit", "1", "--data", ".perdure"]
    ran = three(*words)
    assert ran.out.splitlines()[1].startswith("two ")
    last = ran.out.splitlines()[-1]
    assert last.startswith("older ones: perdure runs ")
    assert "--app cli_desk:app" in last
    ran = bare(*shlex.split(last.removeprefix("older ones: perdure ")))
    assert ran.out.splitlines()[1].startswith("one ")
    assert "older ones" not in ran.out


def test_what_a_run_called_is_listed_by_it(three) -> None:
    (turn,) = three("runs", "--parent", "three", "--json").document
    assert turn["target"] == "desk.clerk"
    assert turn["parent"] == "three"


def test_a_page_fits_a_narrow_terminal_and_breaks_no_id(three, start, patience, until, monkeypatch) -> None:
    patience(60.0)
    assert start("worker", "--json").line()["state"] == "ready"
    run = three("run", "journey", "--detach", "--json").document["run"]["id"]
    until(three, run, "waiting")
    monkeypatch.setenv("COLUMNS", "80")
    lines = three("runs").out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["run", "what", "status", "progress", "age"]
    assert lines[1].split()[:2] == [run, "desk.jour…"]
    monkeypatch.setenv("COLUMNS", "160")
    lines = three("runs").out.splitlines()
    assert "0/2 on the way to town 1" in lines[1]
    assert "team=news number=one" in lines[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--since", "yesterday"), "'yesterday' is no time"),
        (("--tag", "news"), "--tag: expected key=value"),
        (("--status", "asleep"), "'suspended'"),
        (("--before", "run_x"), "run_x"),
        (("--target", "nowhere"), "nowhere"),
    ],
    ids=["since", "tag", "status", "before", "target"],
)
def test_a_filter_that_does_not_fit_is_explained(words, says, perdure) -> None:
    ran = perdure("runs", *words)
    assert ran.code == 2
    assert says in ran.err


# -- times ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15min", 900), ("15m", 900), ("2h", 7200), ("1d12h", 129600), ("1.5h", 5400), ("4W", 2419200)],
)
def test_a_length_of_time_is_read(text, seconds) -> None:
    assert SPAN.convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "2", "h", "2h!", "-2h", "2 fortnights", "1e9d", "99999999999999999999w"])
def test_what_is_no_length_of_time_is_refused(text) -> None:
    with pytest.raises(click.BadParameter, match="is no duration"):
        SPAN.convert(text, None, None)


def test_a_time_is_an_age_or_a_date_of_the_local_zone() -> None:
    assert MOMENT.convert("2026-01-31T09:30:00Z", None, None) == datetime(2026, 1, 31, 9, 30, tzinfo=UTC).timestamp()
    local = datetime(2026, 1, 31).astimezone()
    assert MOMENT.convert("2026-01-31", None, None) == local.timestamp()
    before = time.time()
    assert before - 7200 <= MOMENT.convert("2h", None, None) <= time.time() - 7200


@pytest.mark.parametrize("text", ["", "soon", "31.1.2026", "2026-02-30", "2026-01-31T25:00"])
def test_what_is_no_time_is_refused(text) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        MOMENT.convert(text, None, None)


# -- the whole history ------------------------------------------------------------------------------------------


def test_a_history_has_each_line_with_its_number_and_its_line_of_code(driven) -> None:
    run = driven("run", "journey", "--detach", "--json", "--tag", "who=Ada").document["run"]["id"]
    driven("send", run, "arrived", '"Rome"')
    driven("update", run, "visit", "town=Oslo", "--key", "order.7/a")
    driven("update", run, "visit", "town=oslo")
    document = driven("show", run, "--json").document
    assert document["run"]["tags"] == {"who": "Ada"}
    assert document["run"]["version"] == 1
    assert document["run"]["progress"] == {"text": "on the way to town 2", "done": 1.0, "total": 2.0}
    kinds = [entry["kind"] for entry in document["journal"]]
    assert kinds == ["begin", "event", "step", "update", "step", "updated", "rejected"]
    assert [entry["number"] for entry in document["journal"]] == [1, 2, 3, 4, 5, 6, 7]
    shown = driven("show", run).out
    for line in (
        "tags       who=Ada",
        "version    1",
        "progress   1/2 on the way to town 2",
        "├── 1 ▸ begin",
        "├── 2 ↘ arrived  event",
        "├── 3 · noted#1  step",
        "├── update visit\n│   └── 5 · noted#1  step",
        "├── 6 ⇄ visit  updated",
        "└── 7 ⇄ visit  rejected",
        "ValueError: oslo is no town",
        "cli_desk.py:",
    ):
        assert line in shown


def test_a_history_fits_a_narrow_terminal(driven, monkeypatch) -> None:
    run = driven("run", "journey", "--detach", "--json").document["run"]["id"]
    driven("send", run, "arrived", f'"{"Llanfair" * 20}"')
    monkeypatch.setenv("COLUMNS", "80")
    tree = driven("show", run).out.split("journal\n", 1)[1].splitlines()
    assert len(tree) == 3
    assert all(len(line) <= 80 for line in tree)


# -- watching ---------------------------------------------------------------------------------------------------


def test_each_change_of_a_watched_run_is_told(driven, driven_data, start) -> None:
    run = driven("run", "journey", "--detach", "--json").document["run"]["id"]
    watch = start("watch", run, "--json", "--data", str(driven_data))
    while (told := watch.line())["progress"] is None:
        pass  # it has been taken up, and has not said anything yet
    assert told["progress"] == {"text": "on the way to town 1", "done": 0.0, "total": 2.0}
    driven("send", run, "arrived", '"Rome"')
    told = watch.line()
    while told["progress"]["done"] == 0:
        told = watch.line()
    assert told["progress"]["text"] == "on the way to town 2"
    driven("send", run, "arrived", '"Oslo"')
    while told["status"] != "completed":
        told = watch.line()
    assert watch.ended() == 0


def test_a_watch_ends_as_the_run_did(perdure) -> None:
    perdure("run", "add", "1", "--id", "sum")
    ran = perdure("watch", "sum")
    assert (ran.code, ran.out) == (0, "2\n")
    assert ran.err.rstrip().endswith("completed")
    perdure("run", "fail", "--id", "failed")
    assert perdure("watch", "failed").code == 1
    assert perdure("watch", "failed", "--json").code == 1
    assert perdure("watch", "run_x").code == 2
