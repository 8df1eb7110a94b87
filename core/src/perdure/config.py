"""Configuration: ``perdure.toml`` or ``[tool.perdure]``, then ``PERDURE_*``, then arguments; the last one wins.

.. code-block:: toml

    model = "openai:gpt-5"  # PERDURE_MODEL
    data = ".perdure"  # PERDURE_DATA

    [plugins]
    block = ["otel"]  # PERDURE_PLUGINS__BLOCK=otel,…

    [store-sqlite]  # each plugin its own section, named as its folder
    synchronous = "full"  # PERDURE_STORE_SQLITE__SYNCHRONOUS

Sections of plugins are validated by the plugins; everything else here. Unknown keys are errors. Errors name keys and
never quote values, which may be secrets.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.encoding import describe
from perdure.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Mapping

M = TypeVar("M", bound=BaseModel)

PREFIX: Final = "PERDURE_"
FILE: Final = "perdure.toml"


class _Strict(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class PluginSettings(_Strict):
    """Which plugins may be loaded, by name (``otel``, ``store-sqlite``) and before any import.

    Attributes:
        allow: If set, these only.
        block: Never these.
    """

    allow: frozenset[str] | None = None
    block: frozenset[str] = frozenset()


class Settings(_Strict):
    """What a runtime is opened with.

    Attributes:
        store: Which store plugin.
        engine: Which engine plugin.
        transport: Which transport plugin.
        model: ``provider:model`` of agents that do not say.
        data: Folder for local files; relative to the configuration file's folder, else to the working directory.
        max_payload: Upper bound of one message, argument or result, in bytes of JSON.
        plugins: Which plugins may be loaded.
        sections: Each plugin's own settings, by the plugin's name.
        source: The file that was read, if any.
    """

    store: str = "sqlite"
    engine: str = "embedded"
    transport: str = "inprocess"
    model: str = "offline:extractive"
    data: Path = Path(".perdure")
    max_payload: int = Field(default=4 * 1024 * 1024, ge=1024)
    plugins: PluginSettings = PluginSettings()
    sections: dict[str, dict[str, Any]] = Field(default_factory=dict, repr=False)  # they hold secrets
    source: Path | None = None

    def section(self, name: str) -> Mapping[str, Any]:
        """A plugin's own settings; empty if there are none."""
        return self.sections.get(name, {})


def load(
    folder: Path | None = None, environment: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read the configuration that holds for ``folder`` (the working directory by default).

    The nearest ``perdure.toml``, or ``pyproject.toml`` with ``[tool.perdure]``, upwards from there is read.

    Raises:
        InvalidSetting: A file is no TOML, a key is unknown, a value does not fit.
    """
    folder = Path.cwd() if folder is None else folder
    source, values = _from_file(folder)
    raw: dict[str, Any] = {"sections": {}}
    for key, value in values.items():
        _put(raw, key, value, str(source))
    for name, value in (os.environ if environment is None else environment).items():
        if name.startswith(PREFIX):
            _put_variable(raw, name, value)
    for key, value in (overrides or {}).items():
        if value is not None:
            _put(raw, key, value, "the arguments")
    base = source.parent if source else folder
    try:
        settings = Settings(**raw, source=source)
    except ValidationError as error:
        where = f"the configuration ({source or 'environment and arguments'})"
        # Without its cause, which quotes the values: they may be secrets, and errors end in logs.
        raise InvalidSetting(describe(error, where, values=False)) from None
    return settings.model_copy(update={"data": base / settings.data})


def section(settings: Mapping[str, Any], model: type[M], name: str) -> M:
    """A plugin's section as the plugin's own model (which should forbid extra keys). Raises ``InvalidSetting``."""
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        raise InvalidSetting(describe(error, f"section [{name}] of the configuration", values=False)) from None


def _from_file(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for place in (folder, *folder.parents):
        own, project = place / FILE, place / "pyproject.toml"
        if own.is_file():
            return own, _read(own)
        if project.is_file():
            tools: Any = _read(project).get("tool")
            if isinstance(tools, dict) and "perdure" in tools:
                values = cast("dict[str, Any]", tools)["perdure"]
                if isinstance(values, dict):
                    return project, cast("dict[str, Any]", values)
                msg = f"'tool.perdure' in {project}: expected a table, [tool.perdure]"
                raise InvalidSetting(msg)
    return None, {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        msg = f"{path} cannot be read as TOML: {error}"
        raise InvalidSetting(msg) from error


def _put(raw: dict[str, Any], key: str, value: Any, source: str) -> None:
    if key in Settings.model_fields and key not in {"sections", "source"}:
        raw[key] = value
    elif isinstance(value, dict):
        raw["sections"].setdefault(key, {}).update(value)
    else:
        known = ", ".join(sorted(Settings.model_fields.keys() - {"sections", "source"}))
        msg = f"unknown setting {key!r} in {source}; expected one of {known}, or a plugin's section (a table)"
        raise InvalidSetting(msg)


def _put_variable(raw: dict[str, Any], name: str, value: str) -> None:
    head, separator, key = name.removeprefix(PREFIX).lower().partition("__")
    if not separator:
        _put(raw, head, value, f"the environment variable {name}")
    elif head == "plugins":
        given: Any = raw.setdefault("plugins", {})
        if isinstance(given, dict):  # or it is refused as it was given
            raw["plugins"] = {**given, key: [item.strip() for item in value.split(",") if item.strip()]}
    else:
        raw["sections"].setdefault(head.replace("_", "-"), {})[key] = value
