"""``perdure init``: a new package, in the shape in which every plugin joins."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

import click

from perdure import hookimpl
from perdure.errors import InvalidInput
from perdure_cli.display import console, emit_json
from perdure_cli.invocation import output_options

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TEMPLATES: Final = Path(__file__).parent.parent / "templates"


@click.command("init")
@click.argument("name")
@click.option("--path", type=click.Path(file_okay=False, path_type=Path), help="Where to write it; by default NAME.")
@output_options
@click.pass_obj
def init(invocation: Invocation, name: str, path: Path | None) -> None:
    """Write a package NAME: an app with an agent, a tool and a workflow, its entry point, and a test.

    Nothing is overwritten.
    """
    folder = path or Path(name)
    written = write(name, folder)
    if invocation.json:
        emit_json({"folder": str(folder), "files": [str(file) for file in written]})
        return
    out = console()
    for file in written:
        out.print(f"wrote {file}", soft_wrap=True)
    package = name.replace("-", "_")
    out.print(f"\ntry it:\n  pip install -e '{folder}[tests]'\n  perdure run {package}.greet name=you", soft_wrap=True)
    out.print(f"  pytest {folder}", soft_wrap=True)


def write(name: str, folder: Path) -> list[Path]:
    """Write the package into a folder that is new or empty; return the files.

    Raises:
        InvalidInput: The name is none for a package, or there is something in the folder.
    """
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is no name for a package: expected small letters and digits in words joined by '-'"
        raise InvalidInput(msg)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{str(folder)!r} is not empty: choose another place with --path"
        raise InvalidInput(msg)
    package = name.replace("-", "_")
    minor = ".".join(version("perdure").split(".")[:2])
    values = {"name": name, "package": package, "at_least": version("perdure"), "below": _next(minor)}
    written: list[Path] = []
    for template in sorted(_TEMPLATES.rglob("*.template")):
        relative = template.relative_to(_TEMPLATES).with_suffix("").as_posix().replace("PACKAGE", package)
        file = folder / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(template.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
        written.append(file)
    return written


def _next(minor: str) -> str:
    major, number = minor.split(".")
    return f"{major}.{int(number) + 1}"


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return init
