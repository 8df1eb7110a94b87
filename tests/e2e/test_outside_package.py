"""A package that the workspace does not know, as a wheel, in an environment with only the wheels that it names.

``outside/almanac`` joins by entry points alone. Nothing here is editable, no path leads back to the source tree.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
OUTSIDE = Path(__file__).with_name("outside")
PATIENCE = 90


class Place:
    """An environment of its own, and a working directory outside of every source tree."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.venv, self.cwd = folder / "wheels", folder / "venv", folder / "somewhere"
        self._folder = folder
        leads_back = ("PERDURE_", "PYTHON", "VIRTUAL_ENV")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(leads_back)}
        self.cwd.mkdir()

    def build(self, source: Path, *options: str) -> None:
        """A wheel, with the pinned backend."""
        self.uv("build", "--quiet", "--wheel", f"--out-dir={self.wheels}", *options, cwd=source)

    def install(self, name: str, pins: list[str]) -> None:
        """One distribution and what it depends on; of ours, only what was built is there."""
        ours = [
            f"{wheel.name.split('-')[0].replace('_', '-')} @ {wheel.as_uri()}" for wheel in self.wheels.glob("*.whl")
        ]
        constraints = self._folder / "constraints.txt"
        constraints.write_text("\n".join([*pins, *ours]))
        self.uv("venv", "--quiet", "--no-project", f"--python={sys.executable}", str(self.venv))
        wheel = next(line for line in ours if line.startswith(f"{name} @"))
        self.uv(
            *("pip", "install", "--quiet", "--no-config"),
            *(f"--python={self.venv}", f"--constraint={constraints}", wheel),
        )

    def uv(self, *words: str, cwd: Path | None = None) -> str:
        return self._run([find_uv_bin(), *words], cwd or self._folder)

    def perdure(self, *words: str) -> Any:
        """The command's document."""
        return json.loads(self._run([str(self.venv / "bin" / "perdure"), *words, "--json"], self.cwd))

    def python(self, script: Path) -> Any:
        """What a script prints."""
        return json.loads(self._run([str(self.venv / "bin" / "python"), "-I", str(script)], self.cwd))

    def _run(self, command: list[str], cwd: Path) -> str:
        ran = subprocess.run(
            command, cwd=cwd, env=self._environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert ran.returncode == 0, f"{command}:\n{ran.stdout}{ran.stderr}"
        return ran.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("outside")
    assert ROOT not in folder.parents
    place = Place(folder)
    source = shutil.copytree(OUTSIDE / "almanac", folder / "almanac")
    for name in named(source):
        place.build(ROOT, f"--package={name}")
    place.build(source)
    place.install(
        "almanac", tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    )
    shutil.copy(OUTSIDE / "gazette.py", place.cwd)
    return place


@pytest.fixture(scope="module")
def script(place: Place) -> Any:
    return place.python(shutil.copy(OUTSIDE / "from_python.py", place.cwd))


def named(source: Path) -> list[str]:
    """What of ours the package names."""
    dependencies = tomllib.loads((source / "pyproject.toml").read_text())["project"]["dependencies"]
    return [dependency.partition(">")[0] for dependency in dependencies if dependency.startswith("perdure")]


def test_only_the_wheels_that_it_names_are_installed(place, script):
    ours = [name for name in script["installed"] if name.startswith("perdure")]
    assert ours == sorted(named(OUTSIDE / "almanac"))
    assert all(path.startswith(str(place.venv.resolve())) for path in script["places"])


def test_the_plugins_command_shows_app_and_model(place):
    found = {info["name"]: info for info in place.perdure("plugins")}
    assert found["almanac"]["state"] == "loaded"
    assert found["almanac"]["distribution"] == found["model-almanac"]["distribution"] == "almanac 2.1.0"
    assert {"perdure_agents", "perdure_workflows", "perdure_tools"} <= set(found["almanac"]["hooks"])
    assert found["model-almanac"]["state"] == "available"
    assert not [info for info in found.values() if info["error"]]


def test_its_agent_answers_through_its_tool_and_its_model(place):
    view = place.perdure("run", "almanac.astronomer", "The moon on 2026-11-24?")
    assert (view["status"], view["result"]["text"]) == ("completed", "full")
    journal = place.perdure("show", view["id"])["journal"]
    assert [(entry["role"], entry["name"]) for entry in journal] == [
        ("model", "almanac:echo"),
        ("tool", "moon_phase"),
        ("model", "almanac:echo"),
    ]


def test_its_workflow_calls_its_agent(place):
    view = place.perdure("run", "nights", "first=2026-11-21", "count=2")
    assert view["result"] == [
        {"day": "2026-11-21", "phase": "waxing gibbous"},
        {"day": "2026-11-22", "phase": "waxing gibbous"},
    ]


def test_its_model_serves_other_agents_by_configuration(place):
    view = place.perdure("run", "almanac.astronomer", "Hello?", "--model", "almanac:echo")
    assert view["result"]["text"] == "Hello?"


def test_a_script_calls_it_with_its_own_types(script):
    assert script["nights"] == ["waxing gibbous", "waxing gibbous"]
    assert script["again"] == [True, False]
    assert script["reply"] == "full"


def test_another_app_refers_to_it_by_name_and_type(place):
    view = place.perdure("run", "front_page", "day=2026-11-22", "--app", "gazette:app")
    assert view["result"] == "waxing gibbous; full; waxing gibbous"
    called = place.perdure("show", view["id"])["called"].values()
    assert {(each["run"]["target"], each["run"]["status"]) for each in called} == {
        ("almanac.nights", "completed"),
        ("almanac.astronomer", "completed"),
    }
