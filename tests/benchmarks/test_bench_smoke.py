"""The benchmark runs and prints its table. How fast things are means nothing here: the machine is busy with tests."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from .__main__ import GROUPS, main
from .figures import SCALES, quantile

SHORT = SCALES["short"]
# Counts that hold however busy the machine is.
EXACT = {
    "parked": ("tasks", "threads", "still there after a restart"),
    "timers": ("fired once", "fired early"),
}


@pytest.mark.parametrize("name", list(GROUPS))
def test_each_group_of_rows_is_measured(name, tmp_path) -> None:
    figures = list(GROUPS[name](replace(SHORT, cache=tmp_path)))
    assert figures
    assert all(figure.what and figure.value for figure in figures)
    assert all(figure.met is None or figure.bound for figure in figures)
    counts = {figure.what.rpartition(": ")[2]: figure.met for figure in figures}
    assert [counts[count] for count in EXACT.get(name, ())] == [True] * len(EXACT.get(name, ()))


def test_a_peer_that_cannot_run_says_why_in_its_row_and_the_others_are_measured() -> None:
    rows = {figure.what: figure.value for figure in GROUPS["contest"](replace(SHORT, peers=Path(sys.executable)))}
    assert "not measured: ModuleNotFoundError: No module named" in rows["DBOS, SQLite"]
    assert "steps/s" in rows["1,000 runs at once, SQLite FULL"]


def test_the_table_is_printed(capsys) -> None:
    main(["disk", "--short"])
    assert "one-row commits" in capsys.readouterr().out


def test_rows_that_are_not_there_are_refused_by_name(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["dist"])
    assert "no such rows: dist; expected some of starting, disk" in capsys.readouterr().err


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0
