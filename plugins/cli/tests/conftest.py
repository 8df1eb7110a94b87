"""The command as a function: words in; exit code, stdout and stderr out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure_cli import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Perdure = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """A shell that starts pytest in the background lets its children ignore SIGINT; those of these tests must not."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory from which the app of the tests is found."""
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PERDURE_PLUGINS__BLOCK", "otel,newsroom")
    monkeypatch.delenv("COLUMNS", raising=False)  # of whoever runs the tests
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """How many seconds a command waits for a process to take up what it handed over.

    In most tests nobody drives: there each wait lasts its whole time, so it is short unless a test says otherwise.
    """

    def last(seconds: float) -> None:
        monkeypatch.setattr("perdure_cli.driving._PATIENCE", seconds)

    last(0.1)
    return last


class Process:
    """``perdure WORDS --app cli_desk:app`` as a process of its own, whose lines are read as they come."""

    def __init__(self, *words: str, cwd: Path) -> None:
        places = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perdure_cli", *words, "--app", "cli_desk:app"],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": places, "PERDURE_PLUGINS__BLOCK": "otel,newsroom"},
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> Any:
        """The next line of its output, which is JSON."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        self._process.terminate()
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """``Process`` in the working directory; ended after the test."""
    started: list[Process] = []

    def process(*words: str) -> Process:
        started.append(Process(*words, cwd=Path.cwd()))
        return started[-1]

    yield process
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def driven_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder whose runs another process drives, for all tests of a module."""
    folder = tmp_path_factory.mktemp("driven")
    worker = Process("worker", "--json", "--data", str(folder), cwd=folder)
    assert worker.line()["state"] == "ready"
    yield folder
    worker.close()


@pytest.fixture(scope="session")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with three runs: ``one`` has completed, ``two`` has failed, ``three`` waits for an answer."""
    folder = tmp_path_factory.mktemp("three") / ".perdure"
    words = {"one": ("add", "1", "--tag", "team=news"), "two": ("fail", "--tag", "team=news"), "three": ("consult",)}
    for id_, (name, *rest) in words.items():
        run = Process(
            "run", name, *rest, "--id", id_, "--tag", f"number={id_}", "--data", str(folder), cwd=folder.parent
        )
        assert run.ended() == {"one": 0, "two": 1, "three": 3}[id_]
        run.close()
    return folder


@pytest.fixture
def three(perdure: Perdure, three_runs: Path, desk: Path) -> Perdure:
    """``perdure WORDS`` in a working directory with the three runs."""
    shutil.copytree(three_runs, desk / ".perdure")
    return perdure


@pytest.fixture
def driven(perdure: Perdure, driven_data: Path, patience: Callable[[float], None]) -> Perdure:
    """``perdure WORDS`` over a data folder whose runs another process drives, which may be slow to take them up."""
    patience(60.0)
    return lambda *words: perdure(*words, "--data", str(driven_data))


@pytest.fixture
def until() -> Callable[[Perdure, str, str], None]:
    """Looks at a run, by the command given, until it has a status: another process brings it there."""

    def look(perdure: Perdure, run: str, status: str) -> None:
        while perdure("show", run, "--json").document["run"]["status"] != status:
            pass  # each look is a program, and all are bounded by the test's time

    return look


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str]) -> Perdure:
    """``perdure WORDS``."""

    def run(*words: str) -> Ran:
        with pytest.raises(SystemExit) as end:
            main(words)
        out, err = capsys.readouterr()
        return Ran(int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def perdure(bare: Perdure) -> Perdure:
    """``perdure WORDS --app cli_desk:app``."""
    return lambda *words: bare(*words, "--app", "cli_desk:app")
