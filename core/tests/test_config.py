"""Where settings come from, which one wins, and what is said of those that do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from perdure import config
from perdure.errors import InvalidSetting

SECRET = "sk-very-secret"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = "here"
    tries: int = 1


def written(folder: Path, text: str, name: str = config.FILE) -> Path:
    (folder / name).write_text(text)
    return folder


def load(folder: Path, environment: dict[str, str] | None = None, **overrides: Any) -> config.Settings:
    return config.load(folder, environment or {}, overrides)


def refusal(folder: Path, environment: dict[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(InvalidSetting) as caught:
        load(folder, environment, **overrides)
    return str(caught.value)


def test_without_a_file_the_defaults_hold_and_data_lies_in_the_folder(tmp_path):
    settings = load(tmp_path)
    assert (settings.store, settings.engine, settings.transport) == ("sqlite", "embedded", "inprocess")
    assert (settings.data, settings.source) == (tmp_path / ".perdure", None)
    assert settings.section("store-sqlite") == {}


def test_the_nearest_file_upwards_is_read_and_data_is_relative_to_it(tmp_path):
    written(tmp_path, 'model = "far:away"')
    near = tmp_path / "a" / "b"
    near.mkdir(parents=True)
    written(tmp_path / "a", 'model = "near:by"\ndata = "state"')
    settings = load(near)
    assert (settings.model, settings.data) == ("near:by", tmp_path / "a" / "state")
    assert settings.source == tmp_path / "a" / config.FILE


def test_a_pyproject_counts_if_it_has_the_table(tmp_path):
    written(tmp_path, '[tool.perdure]\nmodel = "outer:one"\n[tool.perdure.otel]\nexporter = "file"', "pyproject.toml")
    inner = tmp_path / "member"
    inner.mkdir()
    written(inner, '[project]\nname = "x"', "pyproject.toml")
    settings = load(inner)
    assert (settings.model, settings.section("otel")) == ("outer:one", {"exporter": "file"})


def test_a_file_of_its_own_comes_before_the_pyproject_beside_it(tmp_path):
    written(tmp_path, '[tool.perdure]\nmodel = "a:a"', "pyproject.toml")
    assert load(written(tmp_path, 'model = "b:b"')).model == "b:b"


def test_the_environment_beats_the_file_and_arguments_beat_both(tmp_path):
    written(tmp_path, 'model = "file:m"\nstore = "file"\nengine = "file"\n[store-sqlite]\npath = "file"\nlease = 5')
    environment = {
        "PERDURE_MODEL": "env:m",
        "PERDURE_STORE": "env",
        "PERDURE_STORE_SQLITE__PATH": "env",
        "OTHER_STORE": "x",
    }
    settings = load(tmp_path, environment, model="argument:m", store=None)
    assert (settings.model, settings.store, settings.engine) == ("argument:m", "env", "file")
    assert settings.section("store-sqlite") == {"path": "env", "lease": 5}


def test_lists_of_plugins_come_from_the_environment_with_commas(tmp_path):
    written(tmp_path, '[plugins]\nallow = ["a", "b"]\nblock = ["c"]')
    plugins = load(tmp_path, {"PERDURE_PLUGINS__BLOCK": "otel, model-x,"}).plugins
    assert (plugins.allow, plugins.block) == (frozenset({"a", "b"}), frozenset({"otel", "model-x"}))


def test_sections_given_as_arguments_are_merged(tmp_path):
    written(tmp_path, '[otel]\nexporter = "file"\npath = "x"')
    assert load(tmp_path, otel={"path": "y"}).section("otel") == {"exporter": "file", "path": "y"}


@pytest.mark.parametrize("text", ["model = ", "model = 'x", "\x00", "[a]\n[a]"])
def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path, text):
    written(tmp_path, text)
    assert str(tmp_path / config.FILE) in refusal(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / config.FILE).write_bytes(b"model = '\xff'")
    assert "cannot be read as TOML" in refusal(tmp_path)


def test_an_unknown_key_is_named_with_its_source_and_the_known_ones(tmp_path):
    told = refusal(tmp_path, {"PERDURE_MODLE": "a:b"})
    assert "unknown setting 'modle' in the environment variable PERDURE_MODLE; expected one of data, engine" in told
    assert "in the arguments" in refusal(tmp_path, modle="a:b")
    assert f"in {tmp_path / config.FILE}" in refusal(written(tmp_path, 'modle = "a:b"'))


@pytest.mark.parametrize("key", ["source", "sections"])
def test_what_a_file_cannot_set_is_unknown(tmp_path, key):
    assert f"unknown setting {key!r}" in refusal(written(tmp_path, f'{key} = "x"'))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("max_payload = 10", "max_payload"),
        ("model = 3", "model"),
        ('plugins = "otel"', "plugins"),
        ("[plugins]\nblok = []", "plugins.blok"),
        ('[plugins]\nblock = "otel"', "plugins.block"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_key_and_file(tmp_path, text, field):
    told = refusal(written(tmp_path, text))
    assert f"{field}: " in told
    assert str(tmp_path / config.FILE) in told
    assert f"{field}: " in refusal(tmp_path, {"PERDURE_PLUGINS__ALLOW": "x"})


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\nperdure = 3"])
def test_a_pyproject_of_another_shape_is_no_crash(tmp_path, text):
    written(tmp_path, text, "pyproject.toml")
    if "perdure" in text:
        assert "'tool.perdure' in" in refusal(tmp_path)
    else:
        assert load(tmp_path).source is None


def test_a_section_is_read_as_the_plugin_s_own_model():
    assert config.section({"tries": "3"}, Section, "shop") == Section(tries=3)


@pytest.mark.parametrize("given", [{"path": [SECRET]}, {"tries": SECRET}, {"api_kye": SECRET}])
def test_an_error_about_a_section_names_the_key_and_never_shows_the_value(given):
    with pytest.raises(
        InvalidSetting, match=rf"section \[shop\] of the configuration does not fit: {next(iter(given))}"
    ) as e:
        config.section(given, Section, "shop")
    assert SECRET not in "".join(traceback.format_exception(e.value))


def test_no_error_about_settings_shows_a_value(tmp_path):
    written(tmp_path, f'[model-x]\napi_key = "{SECRET}"\n')
    for environment in ({"PERDURE_MAX_PAYLOAD": SECRET}, {"PERDURE_APIKEY": SECRET}, {"PERDURE_PLUGINS__KEY": SECRET}):
        with pytest.raises(InvalidSetting) as caught:
            load(tmp_path, environment)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(load(tmp_path))


def test_the_process_environment_and_working_directory_are_the_default(tmp_path):
    written(tmp_path, 'store = "file"')
    ran = subprocess.run(
        [sys.executable, "-c", "from perdure import config; s = config.load(); print(s.store, s.model)"],
        cwd=tmp_path,
        env={**os.environ, "PERDURE_MODEL": "env:m"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["file", "env:m"]
