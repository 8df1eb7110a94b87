"""``perdure`` itself: help without imports, options anywhere, errors as one line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from perdure_cli.program import KNOWN

LOOK = """
import json, sys
from perdure_cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def test_help_names_each_installed_command_and_imports_none() -> None:
    ran = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    modules = json.loads(ran.stderr.splitlines()[-1])
    assert not [name for name in modules if name.startswith(("rich", "mcp", "perdure_cli.commands", "perdure_mcp"))]
    for point in entry_points(group="perdure.commands"):
        assert f"  {point.name}" in ran.stdout
        assert KNOWN[point.name].help in ran.stdout


def test_help_costs_no_more_than_three_times_the_kernel() -> None:
    def seconds(*words: str) -> float:
        def once() -> float:
            began = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *words], capture_output=True, check=True)
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime

        return min(once() for _ in range(2))  # of the processor: what else runs meanwhile means little

    assert seconds("-m", "perdure_cli", "--help") < 3 * seconds("-c", "import perdure")


@pytest.mark.parametrize("name", [point.name for point in entry_points(group="perdure.commands")])
def test_each_command_explains_itself(name, bare) -> None:
    ran = bare(name, "--help")
    assert ran.code == 0
    assert f"perdure {name}" in ran.out


def test_the_version_is_the_kernels(bare) -> None:
    assert bare("--version").out.startswith("perdure, version 0.")


def test_an_unknown_command_is_a_usage_error(bare) -> None:
    ran = bare("fly")
    assert ran.code == 2
    assert "fly" in ran.err
    assert "--help" in ran.err


def test_a_known_command_of_a_blocked_plugin_says_so(bare, monkeypatch) -> None:
    monkeypatch.setenv("PERDURE_PLUGINS__BLOCK", "command-runs")
    ran = bare("runs")
    assert ran.code == 2
    assert "blocked" in ran.err


@pytest.mark.parametrize("words", [("--json", "--data", "there", "runs"), ("runs", "--json", "--data", "there")])
def test_options_stand_before_or_after_the_command(words, bare, desk) -> None:
    ran = bare(*words)
    assert ran.code == 0
    assert ran.document == []
    assert (desk / "there").is_dir()
    assert not (desk / ".perdure").exists()


def test_an_option_that_a_command_does_not_take_is_refused(bare, desk) -> None:
    ran = bare("--model", "offline:extractive", "init", "new-desk")
    assert ran.code == 2
    assert "'init' takes no --model" in ran.err
    assert not list(desk.iterdir())


def test_an_error_is_one_line_without_a_traceback(perdure) -> None:
    ran = perdure("run", "nowhere")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert "'nowhere'" in ran.err
    assert "desk.add" in ran.err


def test_an_error_is_a_document_too_where_one_was_asked_for(perdure) -> None:
    ran = perdure("run", "nowhere", "--json")
    assert ran.code == 2
    assert ran.document["error"]["type"] == "UnknownName"
    assert ran.document["error"]["message"] in ran.err


def test_a_traceback_is_shown_on_demand(perdure) -> None:
    ran = perdure("run", "nowhere", "--traceback")
    assert ran.code == 2
    assert "Traceback" in ran.err


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("cli_desk", "expected 'module:attribute'"),
        ("cli_desk:clerk", "apps there: app"),
        ("cli_desk:nothing", "apps there: app"),
        ("no_such_module:app", "fails to import"),
    ],
)
def test_an_app_that_cannot_be_had_is_explained(app, says, bare) -> None:
    ran = bare("runs", "--app", app)
    assert ran.code == 2
    assert says in ran.err


def test_a_broken_configuration_is_named_and_help_still_works(bare, desk) -> None:
    (desk / "perdure.toml").write_text("modell = 'offline:extractive'\n")
    ran = bare("runs")
    assert ran.code == 2
    assert "'modell'" in ran.err
    assert bare("--help").code == 0


def test_a_store_that_is_not_installed_is_named(bare) -> None:
    ran = bare("runs", "--store", "papyrus")
    assert ran.code == 2
    assert "perdure-store-papyrus" in ran.err


def test_a_file_that_is_no_database_is_named(bare, desk) -> None:
    (desk / ".perdure").mkdir()
    (desk / ".perdure" / "perdure.db").write_bytes(b"this is a letter, not a database " * 200)
    ran = bare("runs")
    assert ran.code == 2
    assert "perdure.db" in ran.err
