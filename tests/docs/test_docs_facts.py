"""What the pages say is what the code says: hooks, errors, settings, commands, transitions.

``python -m tests.docs.test_docs_facts`` writes the parts that are drawn from the code into the pages.
"""

import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from perdure import config, errors
from perdure.execution import TRANSITIONS
from perdure.hookspecs import BY_NAME, FAMILIES
from perdure.plugins import Plugins

from .pages import DOCS, ROOT

# -- what is drawn from the code -------------------------------------------------------------------------------


def machine() -> str:
    """The state diagram."""
    lines = [f"    {state} --> {after}: {event}" for (state, event), after in TRANSITIONS.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> new", *lines, "    evicted --> [*]", "```"])


def hooks() -> str:
    """Every hook with its signature and its sentence, by family."""
    lines: list[str] = []
    for family in FAMILIES:
        lines += [f"\n## {family.__name__.removesuffix('Hooks')} hooks\n", _sentence(family), ""]
        lines += ["| hook | |", "|---|---|"]
        lines += [f"| `{_signature(hook)}` | {_sentence(hook)} |" for hook in _hooks_of(family)]
    return "\n".join(lines)


def tree() -> str:
    """The tree of errors, as it stands at the head of its module."""
    lines = (errors.__doc__ or "").split("::\n", 1)[1].split("\n\nEvery", 1)[0].strip("\n").splitlines()
    return "\n".join(["```", *(line.removeprefix("    ") for line in lines), "```"])


def _hooks_of(family: type) -> list[object]:
    return [value for name, value in vars(family).items() if name.startswith("perdure_")]


def _signature(hook: object) -> str:
    signature = inspect.signature(hook)  # type: ignore[arg-type]
    parameters = [each for name, each in signature.parameters.items() if name != "self"]
    text = str(signature.replace(parameters=parameters)).replace("'", "")
    return f"{hook.__name__}{text}"  # type: ignore[attr-defined]


def _sentence(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").replace("``", "`").split())


DRAWN = {
    "durability.md": (re.compile(r"```mermaid\n.*?```", re.DOTALL), machine),
    "errors.md": (re.compile(r"```\n.*?```", re.DOTALL), tree),
    "plugins.md": (re.compile(r"(?<=compares -->\n).*", re.DOTALL), lambda: f"{hooks()}\n"),
}


@pytest.mark.parametrize("page", DRAWN)
def test_what_is_drawn_from_the_code_is_as_the_code_is(page):
    pattern, draw = DRAWN[page]
    found = pattern.search((DOCS / page).read_text())
    assert found
    assert found[0] == draw()


def test_every_group_and_hook_by_name_is_in_the_page():
    text = (DOCS / "plugins.md").read_text()
    assert [name for pair in BY_NAME.values() for name in pair if f"`{name}" not in text] == []


# -- errors, settings, commands --------------------------------------------------------------------------------


def test_every_error_is_in_the_tree():
    drawn = tree()
    classes = [name for name, value in vars(errors).items() if isinstance(value, type) and not name.startswith("_")]
    assert [
        name for name in classes if issubclass(getattr(errors, name), errors.PerdureError) and name not in drawn
    ] == []


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each plugin's name with the model of its section, a class named ``…Settings``; and those of the parts in it."""
    found: dict[str, list[type[BaseModel]]] = {}
    for path in sorted([*ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("contrib/*/src/**/*.py")]):
        for name in re.findall(r"^class (\w*Settings)\(", path.read_text(), re.MULTILINE):
            folder = path.relative_to(ROOT).parts[1]
            module = path.relative_to(path.parents[len(path.relative_to(ROOT).parts) - 4])
            dotted = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
            found.setdefault(folder, []).append(getattr(importlib.import_module(dotted), name))
    del found["hosting"]  # transports make their sections of these
    for folder, models in found.items():
        yield from _parts(folder, next((each for each in models if each.__name__ == "Settings"), models[0]))


def _parts(name: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield name, model
    for field, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _parts(f"{name}.{field}", info.annotation)


def table(section: str) -> dict[str, str]:
    """The settings of a section of the page with their defaults."""
    page = (DOCS / "configuration.md").read_text()
    part = page.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0] if f"\n## {section}\n" in page else ""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, re.MULTILINE))


SECTIONS = {
    **{f"`[{name}]`": model for name, model in sections()},
    "`[plugins]`": config.PluginSettings,
    "The runtime": config.Settings,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_in_the_page_with_its_default(section):
    fields = {
        name: field
        for name, field in SECTIONS[section].model_fields.items()
        if (section, name) not in {("The runtime", "plugins"), ("The runtime", "sections"), ("The runtime", "source")}
        and f"`[{section.strip('`[]')}.{name}]`" not in SECTIONS
    }
    written = table(section)
    assert sorted(written) == sorted(fields)
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        if default is not None and default is not PydanticUndefined and "else" not in written[name]:
            assert _toml(default) in {written[name].strip("`"), f'"{written[name].strip("`")}"'}, (section, name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        return f'"{value}"'
    if isinstance(value, frozenset | tuple):
        return str(sorted(value))
    return str(value)


def test_no_section_of_the_page_is_of_no_plugin():
    page = (DOCS / "configuration.md").read_text()
    assert set(re.findall(r"^## (.*)$", page, re.MULTILINE)) == set(SECTIONS)


def test_every_command_and_option_is_in_the_page():
    page = (DOCS / "cli.md").read_text()
    plugins = Plugins(config.PluginSettings())
    lacking: list[str] = []
    for name in plugins.names("command"):
        command = plugins.named("command", name)()
        assert isinstance(command, click.Command)
        lacking += [f"perdure {name}"] if f"\n## perdure {name}\n" not in page else []
        options = [each for each in command.params if isinstance(each, click.Option)]
        lacking += [f"{name} {each.opts[-1]}" for each in options if not any(f"{o}" in page for o in each.opts)]
    assert not lacking


def test_every_pin_of_the_install_line_is_the_standard_extra():
    extras = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "standard" in extras
    assert 'pip install "perdure[standard]"' in (ROOT / "README.md").read_text()


def main() -> None:
    """Write what is drawn from the code into the pages."""
    for name, (pattern, draw) in DRAWN.items():
        text = (DOCS / name).read_text()
        found = pattern.search(text)
        assert found
        (DOCS / name).write_text(text[: found.start()] + draw() + text[found.end() :])


if __name__ == "__main__":
    main()
