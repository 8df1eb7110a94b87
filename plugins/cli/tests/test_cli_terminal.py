"""What people see and type: real processes on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

PATIENCE = 60.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "perdure_cli", *words, "--app", "cli_desk:app"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(theirs)
        self.shown = ""

    def until(self, pattern: str) -> re.Match[str]:
        """Read until something is shown; what was shown before is not looked at again."""
        while True:
            plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.shown)
            if match := re.search(pattern, plain):
                self.shown = plain[match.end() :]
                return match
            assert self._read(), f"{pattern!r} was not shown, but: {plain}"

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ends_with(self) -> int:
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], PATIENCE)[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux says so that the other side is closed
            return False
        self.shown += data.decode()
        return bool(data)


@pytest.fixture
def terminal() -> Generator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_(*words: str) -> Terminal:
        opened.append(Terminal(*words))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


def test_a_run_asks_the_person_field_by_field(terminal) -> None:
    run = terminal("run", "approve", "text=this")
    run.until("Approve this")
    run.until("approved")
    run.type("perhaps\n")
    run.until("approved")
    run.type("y\n")
    run.until("colour")
    run.type("blue\n")
    run.until("colour")
    run.type("red\n")
    run.until("copies")
    run.type("3\n")
    run.until(r"note \(a word to the desk\)")
    run.type("thanks\n")
    assert run.until(r"'colour': '(\w+)', 'copies': (\d), 'note': '(\w+)'").groups() == ("red", "3", "thanks")
    assert run.ends_with() == 0


def test_a_run_is_interrupted_while_it_asks_and_loses_nothing(terminal, perdure) -> None:
    run = terminal("run", "consult")
    id_ = run.until(r"run_\w+")[0]
    run.until("enough")
    run.until("answer")
    run.interrupt()
    assert run.ends_with() == 130
    assert perdure("show", id_, "--json").document["run"]["status"] == "waiting"


def test_a_chat_is_talked_to_and_ends_with_the_way_back(terminal) -> None:
    chat = terminal("chat", "clerk")
    session = chat.until(r"--session (\w+)")[1]
    chat.until("> ")
    chat.type('Read "shelf/7"\n')
    chat.until("ninety books")
    chat.until("> ")
    chat.type("\x04")
    chat.until(f"to go on: perdure chat desk.clerk --session {session}")
    assert chat.ends_with() == 0


def test_a_live_process_drives_what_others_hand_over(terminal, perdure, patience) -> None:
    patience(60.0)
    chat = terminal("chat", "clerk")
    chat.until("> ")
    accepted = perdure("run", "approve", "text=this", "--detach", "--json").document
    assert accepted["driven"] is True
    run = accepted["run"]["id"]
    shown = perdure("show", run, "--json").document["run"]
    answered = perdure("answer", shown["requests"][0]["id"], "approved=true", "--json").document
    assert answered["driven"] is True
    assert answered["status"] == "completed"
    chat.interrupt()
    assert chat.ends_with() == 130


def test_a_watched_run_is_one_line_that_lives(terminal, perdure, driven_data, driven) -> None:
    run = driven("run", "journey", "--detach", "--json").document["run"]["id"]
    watch = terminal("watch", run, "--data", str(driven_data))
    watch.until(r"desk\.journey waiting .* 0/2 on the way to town 1")
    driven("send", run, "arrived", '"Rome"')
    watch.until(r"desk\.journey waiting .* 1/2 on the way to town 2")
    driven("send", run, "arrived", '"Oslo"')
    watch.until(r'"Rome",\s+"Oslo"')
    assert watch.ends_with() == 0


def test_what_is_forgotten_for_good_is_asked_first(terminal, perdure) -> None:
    perdure("run", "add", "1")
    purge = terminal("purge", "--older-than", "0s")
    purge.until(r"Forget 1 run for good\? \[y/N\]")
    purge.type("n\n")
    purge.until("forgot 0 runs")
    assert purge.ends_with() == 0
    assert len(perdure("runs", "--json").document) == 1
    purge = terminal("purge", "--older-than", "0s")
    purge.until("Forget 1 run")
    purge.type("y\n")
    purge.until("forgot 1 run")
    assert purge.ends_with() == 0
    assert perdure("runs", "--json").document == []


def test_a_worker_is_stopped_by_ctrl_c_in_order(terminal, perdure) -> None:
    worker = terminal("worker", "--grace", "5s")
    worker.until("driving the runs in .*desk.add")
    worker.interrupt()
    worker.until("stopping; steps that run have 5 s")
    assert worker.ends_with() == 0
