"""The command as a function: words in; exit code, stdout and stderr out."""

from __future__ import annotations

import json
import os
import signal
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
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
