"""``plugins``, ``doctor`` and ``init``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_plugins_are_listed_with_what_became_of_them(perdure, monkeypatch) -> None:
    monkeypatch.setenv("PERDURE_PLUGINS__BLOCK", "model-openai,otel,newsroom")
    found = {info["name"]: info for info in perdure("plugins", "--json").document}
    assert found["desk"]["origin"] == "given in code"
    assert found["desk"]["state"] == "loaded"
    assert "perdure_workflows" in found["desk"]["hooks"]
    assert found["agent-llm"]["state"] == "loaded"
    assert found["store-sqlite"]["state"] == "available"
    assert found["command-run"]["distribution"].startswith("perdure-cli 0.")
    shown = perdure("plugins").out
    assert "store-sqlite" in shown
    assert "agent_kinds" in shown


def site_with(place: Path, name: str, code: str) -> None:
    """An installed package, as an installer leaves it."""
    (place / f"{name}.py").write_text(code)
    metadata = place / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: Sings a song.\n")
    (metadata / "entry_points.txt").write_text(f"[perdure]\n{name} = {name}\n[perdure.commands]\nsing = {name}\n")


def test_a_broken_plugin_is_reported_and_the_others_work(perdure, desk, monkeypatch) -> None:
    site_with(desk, "songs", "import no_such_module\n")
    monkeypatch.syspath_prepend(str(desk))
    found = {info["name"]: info for info in perdure("plugins", "--json").document}
    assert found["songs"]["state"] == "broken"
    assert "no_such_module" in found["songs"]["error"]
    assert perdure("run", "add", "1").out == "2\n"
    ran = perdure("doctor")
    assert ran.code == 1
    assert "no_such_module" in ran.out
    ran = perdure("sing")
    assert ran.code == 2
    assert "songs" in ran.err


def test_a_command_of_another_package_is_helped_by_its_summary(bare, desk, monkeypatch) -> None:
    code = (
        "import click\nfrom perdure import hookimpl\n"
        "@hookimpl\ndef perdure_command():\n    return click.Command('sing', callback=lambda: click.echo('la'))\n"
    )
    site_with(desk, "songs", code)
    monkeypatch.syspath_prepend(str(desk))
    assert "More:\n  sing       Sings a song.\n" in bare("--help").out
    assert bare("sing").out == "la\n"
    ran = bare("--json", "sing")
    assert ran.code == 2
    assert "takes no --json" in ran.err


def test_the_doctor_finds_a_sound_house(perdure, desk) -> None:
    ran = perdure("doctor")
    assert ran.code == 0
    assert "offline:extractive" in ran.out
    assert "1 agent, 7 workflows" in ran.out
    document = perdure("doctor", "--json").document
    assert document["healthy"]
    assert {"python", "sqlite", "data folder", "store", "model"} <= {each["what"] for each in document["findings"]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "offline:oracle"), "oracle"),
        (("--model", "nobody:knows"), "perdure-model-nobody"),
        (("--store", "papyrus"), "perdure-store-papyrus"),
        (("--data", "a-file/within"), "a-file"),
    ],
)
def test_the_doctor_finds_what_is_broken(words, says, perdure, desk) -> None:
    (desk / "a-file").touch()
    ran = perdure("doctor", *words)
    assert ran.code == 1
    assert says in ran.out
    assert "broken" in ran.out


def test_the_doctor_shows_no_secrets(perdure, monkeypatch) -> None:
    monkeypatch.setenv("PERDURE_MODEL_OPENAI__API_KEY", "sesame")
    ran = perdure("doctor")
    assert "api_key" in ran.out
    assert "sesame" not in ran.out + ran.err


def test_a_new_package_installs_runs_and_passes_its_tests(bare, desk) -> None:
    ran = bare("init", "front-desk", "--json")
    assert ran.code == 0
    assert len(ran.document["files"]) == 5
    site = desk / "site"
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def call(*words: str, cwd: Path = desk) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(
        *("uv", "pip", "install", "--quiet", "--offline", "--no-config", "--no-deps", "--no-build-isolation"),
        *("--python", sys.executable, "--target", str(site), str(desk / "front-desk")),
    )
    assert "front_desk" in call("perdure_cli", "plugins")
    assert "Ada is a guest of honour" in call("perdure_cli", "run", "front_desk.greet", "name=Ada")
    # At its end Hypothesis's plugin imports all of it, which takes longer than the tests.
    spared = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    assert "2 passed" in call("pytest", "-q", *spared, cwd=desk / "front-desk")


def test_nothing_is_overwritten(bare, desk) -> None:
    (desk / "old").mkdir()
    (desk / "old" / "letter").write_text("keep me")
    ran = bare("init", "old")
    assert ran.code == 2
    assert "--path" in ran.err
    assert bare("init", "new", "--path", "old/new").code == 0
    assert (desk / "old" / "new" / "src" / "new" / "__init__.py").exists()


@pytest.mark.parametrize("name", ["Desk", "2desks", "../desk", "desk_", ""])
def test_a_name_that_is_none_is_refused(name, bare, desk) -> None:
    ran = bare("init", name)
    assert ran.code == 2
    assert not list(desk.iterdir())
