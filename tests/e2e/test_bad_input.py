"""Bad input, as a user of the command line meets it: real processes, their exit codes, their one line on stderr.

What was in the store before is there afterwards, and nothing more.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from perdure import Runtime, config

HERE = Path(__file__).with_name("badinput")
APP = ("--app", "troubled:app")
BOTH = (*APP, "--app", "troubled:other")
PATIENCE = 100
FULL = 96 * 1024
"""Bytes that a file may have on the disk that is full: less than an empty store's."""


class Outcome(NamedTuple):
    """How a call of ``perdure`` ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What ``--json`` wrote."""
        return json.loads(self.out)


class Desk:
    """Where a user sits: a folder with an app in it, and what is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self._site = folder / "site"
        folder.mkdir(exist_ok=True)
        shutil.copy(HERE / "troubled.py", folder)

    def install(self, name: str, entry_points: str, *modules: Path) -> None:
        """A distribution of somebody else's, as an installer leaves it."""
        about = self._site / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(entry_points)
        for module in modules:
            shutil.copy(module, self._site)

    def command(self, *words: str, limit: str = "") -> list[str]:
        before = [str(HERE / "limited.py"), limit] if limit else ["-m", "perdure_cli"]
        return [sys.executable, *before, *words]

    def environment(self, **settings: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "PYTHON"))}
        paths = {"PYTHONPATH": str(self._site), "PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, **paths, "PERDURE_DATA": str(self.data), **settings}

    def perdure(self, *words: str, limit: str = "", stdin: str = "", **settings: str) -> Outcome:
        ran = subprocess.run(
            self.command(*words, limit=limit),
            cwd=self.folder,
            env=self.environment(**settings),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in ran.stdout + ran.stderr
        return Outcome(ran.returncode, ran.stdout, ran.stderr)

    def contents(self) -> list[Any]:
        """All that the store holds, from the outside."""
        return asyncio.run(self._contents())

    async def _contents(self) -> list[Any]:
        settings = config.load(self.folder, {}, {"data": str(self.data)})
        async with Runtime.open(settings=settings, drive=False) as runtime:
            runs = [await runtime.view(run.id) for run in await runtime.query.runs()]
            return [(run, await runtime.query.journal(run.id)) for run in runs]


def refused(outcome: Outcome) -> str:
    """The one line that says what is wrong."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("perdure: ")
    return line


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk")


class Kept(NamedTuple):
    """A store with a finished turn and a run that waits."""

    desk: Desk
    run: str
    request: str
    contents: list[Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    desk = Desk(tmp_path_factory.mktemp("kept"))
    assert desk.perdure("run", "clerk", "Hello", *APP).code == 0
    waiting = desk.perdure("run", "approve", "what=fly", "--json", *APP)
    assert waiting.code == 3, waiting
    return Kept(desk, waiting.document["id"], waiting.document["requests"][0]["id"], desk.contents())


CALLS = {
    "unknown agent or workflow": ("run nix", "unknown agent or workflow 'nix'; known: ... shop.buy"),
    "unknown agent": ("chat nix", "unknown agent 'nix'; known: ... shop.clerk"),
    "ambiguous agent": (
        "run clerk Hello +",
        "agent or workflow 'clerk' is ambiguous; say one of: museum.clerk, shop.clerk",
    ),
    "ambiguous workflow": (
        "run approve what=fly +",
        "workflow 'approve' is ambiguous; say one of: museum.approve, shop.approve",
    ),
    "model of no provider": (
        "run clerk Hello --model nix:x",
        "model 'nix' ... pip install perdure-model-nix ... offline",
    ),
    "unknown model": ("run clerk Hello --model offline:nix", "unknown model 'offline:nix'; known: offline:extractive"),
    "model without provider": ("run clerk Hello --model nix", "unknown model 'nix'; expected 'provider:model'"),
    "unknown model to chat with": ("chat clerk --model nix:x", "model 'nix' is not installed"),
    "unknown model for a workflow": ("run approve what=fly --model offline:nix", "unknown model 'offline:nix'"),
    "unknown store": ("run clerk Hello --store nix", "store 'nix' ... pip install perdure-store-nix ... sqlite"),
    "unknown engine": ("run clerk Hello --engine nix", "engine 'nix' ... pip install perdure-engine-nix ... embedded"),
    "unknown app": ("run clerk Hello --app nix:app", "--app 'nix:app': module 'nix' fails to import"),
    "unknown attribute": ("run clerk Hello --app troubled:nix", "--app 'troubled:nix': expected an App ... app, other"),
    "missing field": ("run buy", "'shop.buy' does not fit: order: field required"),
    "value out of bounds": (
        'run buy order={"item":"tea","amount":0}',
        "'shop.buy' does not fit: order.amount: ... greater than or equal to 1 (got 0)",
    ),
    "value of another type": (
        'run buy --input {"order":{"item":3,"amount":1}}',
        "'shop.buy' does not fit: order.item: ... valid string (got 3)",
    ),
    "unknown field": ("run buy colour=red", "'shop.buy' has no 'colour'; expected order=…, express=…"),
    "unknown field in JSON": (
        'run approve --input {"what":"fly","colour":"red"}',
        "'shop.approve' does not fit: colour: extra",
    ),
    "no object": ("run buy --input []", "'shop.buy' does not fit: ... object (got [])"),
    "no JSON": ("run buy --input {", "--input is no JSON: ... expected for example"),
    "input given twice": ("run approve what=fly --input {}", "'shop.approve' was given twice ... leave one out"),
    "message that is no text": ("run clerk --input 3", "the message to agent 'clerk': expected a text ... int"),
    "no message": ("run clerk", "agent 'shop.clerk' takes a message: perdure run clerk"),
    "session of a workflow": ("run approve what=fly --session s", "'shop.approve' has no sessions: leave out"),
    "unknown run to show": ("show nix", "unknown run 'nix'; 'perdure runs' lists them"),
    "unknown run to cancel": ("cancel nix", "unknown run 'nix'; 'perdure runs' lists them"),
    "unknown request": ("answer nix approved=true", "unknown request 'nix'; 'perdure runs --status waiting'"),
    "answer of another type": (
        "answer REQUEST approved=maybe",
        "does not fit: approved: 'maybe' ... 'boolean'; the request stays open",
    ),
    "answer in JSON of another type": (
        'answer REQUEST {"approved":3}',
        "does not fit: approved: 3 ... 'boolean'; the request stays open",
    ),
    "answer with an unknown field": ("answer REQUEST colour=red", "has no 'colour'; expected approved=…"),
    "no answer": ("answer REQUEST", "needs a value, as JSON or key=value"),
    "answer that is no JSON": ("answer REQUEST {", "the answer is no JSON"),
}


@pytest.mark.parametrize(("call", "says"), CALLS.values(), ids=CALLS.keys())
def test_a_wrong_call_is_refused_in_one_line_and_changes_nothing(kept: Kept, call: str, says: str):
    words = [word if word != "REQUEST" else kept.request for word in call.split() if word != "+"]
    apps = BOTH if call.endswith("+") else APP
    line = refused(kept.desk.perdure(*words, *(() if words[0] == "cancel" else apps)))
    for fragment in says.split(" ... "):
        assert fragment in line
    assert kept.desk.contents() == kept.contents


LIMITS = {"PERDURE_MAX_PAYLOAD": "2048"}
LONG = json.dumps("x" * 3000)


@pytest.mark.parametrize(
    ("words", "stdin", "what"),
    [
        (("run", "clerk", "--input", "-"), LONG, "the input of 'shop.clerk'"),
        (("run", "approve", "--input", "-"), f'{{"what": {LONG}}}', "the input of 'shop.approve'"),
        (("answer", "REQUEST", "-"), f'{{"approved":true,"why":{LONG}}}', "the answer"),
    ],
    ids=["message", "argument", "answer"],
)
def test_what_is_over_the_limit_is_refused_with_both_sizes(kept: Kept, words: tuple[str, ...], stdin: str, what: str):
    words = tuple(kept.request if word == "REQUEST" else word for word in words)
    line = refused(kept.desk.perdure(*words, *APP, stdin=stdin, **LIMITS))
    assert f" has {len(stdin):,} bytes, the limit is 2,048 (setting max_payload)" in line
    assert what in line
    assert "raise the limit" in line
    assert kept.desk.contents() == kept.contents


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"PERDURE_MAX_PAYLOAD": "3"}, "max_payload: ... greater than or equal to 1024"),
        ({"PERDURE_COLOUR": "red"}, "unknown setting 'colour' in the environment variable PERDURE_COLOUR"),
        ({"PERDURE_STORE_SQLITE__LEASE": "soon"}, "[store-sqlite] of the configuration does not fit: lease: "),
        ({"PERDURE_PLUGINS__BLOCK": "store-sqlite"}, "store 'sqlite' is blocked by the configuration: allow it"),
        ({"PERDURE_PLUGINS__BLOCK": "agent-llm"}, "'shop.clerk': pip install perdure-agent-llm"),
        ({"PERDURE_MODEL": "nix:x"}, "model 'nix' is not installed: install it (pip install perdure-model-nix)"),
    ],
    ids=["value", "key", "section", "blocked", "nothing executes it", "model"],
)
def test_a_wrong_configuration_is_refused_in_one_line(kept: Kept, settings: dict[str, str], says: str):
    line = refused(kept.desk.perdure("run", "clerk", "Hello", *APP, **settings))
    for fragment in says.split(" ... "):
        assert fragment in line
    assert kept.desk.contents() == kept.contents


def test_with_json_the_refusal_is_a_document(kept: Kept):
    outcome = kept.desk.perdure("show", "nix", "--json")
    assert outcome.code == 2
    assert outcome.document["error"]["type"] == "UnknownName"
    assert outcome.document["error"]["message"] in outcome.err


def test_a_request_is_answered_once(desk: Desk):
    request = desk.perdure("run", "approve", "what=fly", "--json", *APP).document["requests"][0]
    assert desk.perdure("answer", request["id"], "approved=false").code == 0
    before = desk.contents()
    closed = f"request {request['id']!r} is answered: a request is answered once"
    assert closed in refused(desk.perdure("answer", request["id"], "approved=true"))
    assert desk.contents() == before
    followed = desk.perdure("show", request["run"], "--follow", "--json", *APP)
    assert followed.document["result"] == {"approved": False}
    assert closed in refused(desk.perdure("answer", request["id"], "approved=true"))


def test_the_request_of_a_cancelled_run_is_closed(desk: Desk):
    request = desk.perdure("run", "approve", "what=fly", "--json", *APP).document["requests"][0]
    assert desk.perdure("cancel", request["run"]).code == 0
    assert desk.perdure("show", request["run"], "--follow", "--json", *APP).document["status"] == "cancelled"
    assert f"request {request['id']!r} is closed" in refused(desk.perdure("answer", request["id"], "approved=true"))


# -- plugins ---------------------------------------------------------------------------------------------------

BROKEN = """
[perdure]
broken = no_such_module
misspelt = misspelt
[perdure.models]
broken = no_such_module
[perdure.stores]
hookless = json
[perdure.commands]
frobnicate = no_such_module
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("broken"))
    desk.install("rubble", BROKEN, HERE / "misspelt.py")
    return desk


def test_broken_plugins_are_reported_and_the_others_work(broken: Desk):
    outcome = broken.perdure("run", "clerk", "Hello", "--json", *APP)
    assert outcome.code == 0
    assert outcome.document["status"] == "completed"
    first, second = outcome.err.splitlines()
    assert "plugin 'broken' (rubble 1.0, no_such_module) fails to import: ModuleNotFoundError" in first
    assert "block it under [plugins]" in first
    assert "plugin 'misspelt' (rubble 1.0, misspelt) cannot be used" in second
    assert "perdure_agnets" in second


def test_the_list_of_plugins_shows_which_are_broken_and_why(broken: Desk):
    listed = {info["name"]: info for info in broken.perdure("plugins", "--json").document}
    assert {name for name, info in listed.items() if info["state"] == "broken"} == {"broken", "misspelt"}
    assert "ModuleNotFoundError" in listed["broken"]["error"]
    assert listed["agent-llm"]["state"] == "loaded"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "clerk", "Hello", "--model", "broken:x", *APP), "plugin 'model-broken' (rubble 1.0, no_such_module)"),
        (
            ("runs", "--store", "hookless"),
            "plugin 'store-hookless' (rubble 1.0, json) cannot be used: it implements no hook",
        ),
        (("frobnicate",), "plugin 'command-frobnicate' (rubble 1.0, no_such_module) fails to import"),
        (("run", "rubble.agent", "Hello"), "unknown agent or workflow 'rubble.agent'"),
    ],
    ids=["model", "store", "command", "app"],
)
def test_a_broken_plugin_that_is_needed_is_named_with_distribution_and_cause(
    broken: Desk, words: tuple[str, ...], says: str
):
    outcome = broken.perdure(
        *words, PERDURE_PLUGINS__BLOCK="misspelt" if "rubble.agent" in words else "broken,misspelt"
    )
    line = outcome.err.splitlines()[-1]
    assert (outcome.code, outcome.out) == (2, "")
    assert says in line
    assert "rubble 1.0" in line


def test_a_blocked_plugin_is_not_imported(broken: Desk):
    outcome = broken.perdure("run", "clerk", "Hello", "--json", *APP, PERDURE_PLUGINS__BLOCK="broken,misspelt")
    assert (outcome.code, outcome.err) == (0, "")


def test_a_command_that_there_is_not_is_a_wrong_call(broken: Desk):
    outcome = broken.perdure("nix")
    assert (outcome.code, outcome.out) == (2, "")
    assert "No such command 'nix'" in outcome.err


# -- the store's file --------------------------------------------------------------------------------------------

COMMANDS = [("runs",), ("run", "clerk", "Hello", *APP), ("answer", "req_1", "true")]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_file_that_is_no_database_is_refused_and_left_alone(desk: Desk, words: tuple[str, ...]):
    desk.data.mkdir()
    file = desk.data / "perdure.db"
    file.write_text("A diary. " * 1000)
    line = refused(desk.perdure(*words))
    assert f"{str(file)!r} cannot be used: file is not a database" in line
    assert "set another path" in line
    assert file.read_text() == "A diary. " * 1000


def test_another_applications_database_is_refused_and_left_alone(desk: Desk):
    desk.data.mkdir()
    file = desk.data / "perdure.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = file.read_bytes()
    line = refused(desk.perdure("run", "clerk", "Hello", *APP))
    assert f"{str(file)!r} is a database of another application" in line
    assert "set another path" in line
    assert file.read_bytes() == before


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_newer_versions_file_is_refused_and_left_alone(desk: Desk, words: tuple[str, ...]):
    assert desk.perdure("run", "clerk", "Hello", *APP).code == 0
    file = desk.data / "perdure.db"
    with closing(sqlite3.connect(file)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("PRAGMA user_version = 99")
    before = file.read_bytes()
    line = refused(desk.perdure(*words))
    assert f"{str(file)!r} has schema version 99, this release knows up to {version}: upgrade" in line
    assert file.read_bytes() == before


@pytest.fixture
def read_only(desk: Desk) -> Iterator[Desk]:
    assert desk.perdure("run", "clerk", "Hello", *APP).code == 0
    for file in desk.data.iterdir():
        file.chmod(0o444)
    desk.data.chmod(0o555)
    yield desk
    desk.data.chmod(0o755)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_file_that_may_only_be_read_is_refused(read_only: Desk, words: tuple[str, ...]):
    file = read_only.data / "perdure.db"
    before = file.read_bytes()
    line = refused(read_only.perdure(*words, limit="honest"))
    assert repr(str(file)) in line
    assert "check" in line
    assert "permissions" in line
    assert file.read_bytes() == before


def test_a_full_disk_has_no_room_for_a_new_store(desk: Desk):
    line = refused(desk.perdure("run", "clerk", "Hello", *APP, limit=f"fsize={FULL}"))
    assert f"{str(desk.data / 'perdure.db')!r} cannot be written now" in line
    assert "free the disk" in line
    assert desk.perdure("run", "clerk", "Hello", *APP).code == 0


def test_on_a_full_disk_a_run_is_refused_and_nothing_is_lost(desk: Desk):
    assert desk.perdure("run", "clerk", "Hello", *APP).code == 0
    before = desk.contents()
    room = max(file.stat().st_size for file in desk.data.iterdir()) + FULL
    long = json.dumps("x" * 2 * room)
    line = refused(desk.perdure("run", "clerk", "--input", "-", *APP, stdin=long, limit=f"fsize={room}"))
    assert "cannot be written now" in line
    assert "free the disk" in line
    assert desk.contents() == before


async def test_a_run_on_a_disk_that_fills_up_waits_and_goes_on_when_there_is_room(desk: Desk):
    first = await asyncio.to_thread(desk.perdure, "run", "clerk", "Hello", *APP)
    assert first.code == 0
    size = 1_000_000
    process = await asyncio.create_subprocess_exec(
        *desk.command("run", "fill", f"size={size}", *APP, limit=f"fsize={size // 2}"),
        cwd=desk.folder,
        env=desk.environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        assert process.stderr is not None
        run = (await process.stderr.readline()).decode().split()[1]
        said = (await process.stderr.readline()).decode()
        process.send_signal(signal.SIGINT)
        rest = (await process.communicate())[1].decode()
    assert "the store refuses" in said
    assert "goes on by itself" in said
    assert "free the disk" in said
    assert process.returncode == 130
    assert "Traceback" not in rest
    followed = await asyncio.to_thread(desk.perdure, "show", run, "--follow", "--json", *APP)
    assert (followed.code, followed.document["result"]) == (0, size)


# -- tools -------------------------------------------------------------------------------------------------------

COMPLAINTS = {
    "raising": "LookupError: the shelf is empty",
    "hanging": "DeadlineExceeded: step 'hanging' took longer than its timeout of 0.05 s",
    "live": "NotEncodable: the result of step 'live' cannot be written as JSON",
    "oversized": "PayloadTooLarge: the result of step 'oversized' is over the limit",
}


def test_what_goes_wrong_with_a_tool_is_told_to_the_model_and_recorded_and_the_turn_goes_on(desk: Desk):
    desk.install("scripted", "[perdure.models]\nscripted = scripted_model\n", HERE / "scripted_model.py")
    call = ("run", "mechanic", "Try them.", "--session", "s", "--model", "scripted:tools", "--json", *APP)
    turn = desk.perdure(*call)
    assert (turn.code, turn.err) == (0, "")
    told = turn.document["result"]["text"].splitlines()
    for (tool, complaint), line in zip(COMPLAINTS.items(), told, strict=True):
        assert line.startswith(f"The tool {tool!r} failed: {complaint}")
    journal = desk.perdure("show", turn.document["id"], "--json").document["journal"]
    failed = {entry["name"]: entry for entry in journal if entry["role"] == "tool" and entry["kind"] == "step"}
    assert failed.keys() == COMPLAINTS.keys()
    for tool, complaint in COMPLAINTS.items():
        kind, _, detail = complaint.partition(": ")
        assert failed[tool]["error"]["type"].rpartition(".")[2] == kind
        assert failed[tool]["error"]["message"].startswith(detail)
    assert [entry["attempt"] for entry in journal if entry["name"] == "hanging"] == [1, 2]
    shown = desk.perdure("show", turn.document["id"]).out
    assert all(tool in shown for tool in COMPLAINTS)
    assert desk.perdure(*call).document["result"]["text"].count("the shelf is empty") == 2
