"""``perdure demo`` as a new user runs it: a real process, its real child, a real kill."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from example_briefing.demo import DOCUMENTS
from example_briefing.witness import witnessed


def perdure(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command without a terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    return subprocess.run(
        [sys.executable, "-m", "perdure_cli", *words],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(place: Path) -> subprocess.CompletedProcess[str]:
    return perdure("demo", "--yes", "--json", cwd=place)


@pytest.fixture(scope="module")
def outcome(demo: subprocess.CompletedProcess[str]) -> dict:
    assert demo.returncode == 0, demo.stderr
    return json.loads(demo.stdout)


def test_the_demo_kills_the_server_and_finishes(demo, outcome) -> None:
    assert "kill -9" in demo.stderr
    assert demo.stderr.count("perdure mcp, process") == 2
    assert outcome["documents"] == len(list(DOCUMENTS.iterdir()))
    assert outcome["approved"]


def test_the_demo_repeats_no_recorded_step(outcome) -> None:
    assert outcome["recorded_at_kill"] > 0
    assert outcome["ran_again"] == 0
    lines = witnessed(Path(outcome["witness"]))
    assert len({line.pid for line in lines}) == 2
    assert outcome["attempts"] == sum(line.event == "begin" for line in lines)
    ended = {line.step for line in lines if line.event == "end"}
    assert len(ended) == outcome["steps"]


def test_each_cited_line_contains_its_quote(outcome) -> None:
    text = Path(outcome["briefing"]).read_text()
    cited = re.findall(r"> (.+) \((.+):(\d+)\)$", text, re.MULTILINE)
    assert len(cited) == outcome["citations"] > 0
    for quote, file, line in cited:
        assert quote in (DOCUMENTS / file).read_text().splitlines()[int(line) - 1]


def test_the_run_is_shown_by_the_command_that_the_demo_names(outcome, place) -> None:
    assert outcome["show"].startswith("perdure show run_")
    shown = perdure(*outcome["show"].split()[1:], cwd=place)
    assert shown.returncode == 0, shown.stderr
    assert "completed" in shown.stdout
    assert "list_documents#1" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_the_demo_talks_to_people_without_a_terminal_too(tmp_path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "harbour notes.txt").write_text("The ferry leaves at nine. The harbour closes at ten.\n")
    ran = perdure("demo", "--yes", "--path", "texts", "--data", "elsewhere", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "recorded steps that ran again  0 of" in ran.stdout
    assert "harbour notes.txt:1" in ran.stdout
    assert "--data" in ran.stdout
    assert "\x1b" not in ran.stdout


def test_the_demo_needs_a_word_on_the_approval_where_there_is_no_terminal(tmp_path) -> None:
    ran = perdure("demo", cwd=tmp_path)
    assert ran.returncode == 2
    assert "--yes" in ran.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
@pytest.mark.parametrize(("word", "says"), [("y", "briefing-"), ("n", "not published")], ids=["approved", "refused"])
def test_a_person_at_a_terminal_is_asked(word, says, tmp_path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "perdure_cli", "demo"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = ""
        while select.select([ours], [], [], 60)[0]:
            try:
                shown += os.read(ours, 65536).decode("utf-8", "replace")
            except OSError:  # the other side is closed
                break
            if shown.endswith("[y/n]: "):
                os.write(ours, f"{word}\n\n".encode())
                shown += "\n"
        os.close(ours)
        assert process.wait(60) == 0, shown
    assert says in shown
    assert "recorded steps that ran again" in shown


def test_a_folder_without_documents_is_refused(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    ran = perdure("demo", "--yes", "--path", "empty", cwd=tmp_path)
    assert ran.returncode == 2
    assert "has no documents" in ran.stderr
