"""What the pages show is run: their programs, their tests, their configuration, their commands."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from perdure import config
from perdure.config import PluginSettings
from perdure.plugins import Plugins

from .pages import DOCS, PAGES, ROOT, blocks, program, run

WITH_PROGRAMS = [page for page in PAGES if blocks(page, "python")]


def name_of(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=name_of)
def test_the_programs_of_a_page_run(page, tmp_path):
    source = program(page)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "news.md").write_text("The ferry leaves at nine. It comes back at noon.\n")
    (tmp_path / "page.py").write_text(source)
    ran = run("-W", "error", "page.py", folder=tmp_path)
    assert ran.returncode == 0, f"{page.name}: {ran.stderr[-3000:]}"


def has_tests(page: Path) -> bool:
    nodes = ast.parse(program(page)).body
    return any(isinstance(n, ast.AsyncFunctionDef) and n.name.startswith("test_") for n in nodes) or any(
        isinstance(n, ast.ClassDef) and n.name.startswith("Test") for n in nodes
    )


@pytest.mark.parametrize("page", [page for page in WITH_PROGRAMS if has_tests(page)], ids=name_of)
def test_the_tests_of_a_page_pass(page, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "news.md").write_text("The ferry leaves at nine. It comes back at noon.\n")
    (tmp_path / "test_page.py").write_text(program(page))
    settings = (ROOT / "pyproject.toml").read_text().split("[tool.pytest]", 1)[1].split("\n[", 1)[0]
    (tmp_path / "pytest.toml").write_text(f"[pytest]{settings}")
    # At its end Hypothesis's plugin imports all of it, which takes longer than most of these tests.
    spared = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    ran = run("-m", "pytest", "-q", *spared, "test_page.py", folder=tmp_path)
    assert ran.returncode == 0, f"{page.name}: {ran.stdout[-3000:]}{ran.stderr[-1000:]}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=name_of)
def test_the_configuration_of_a_page_is_read(page, tmp_path):
    for block in blocks(page, "toml"):
        values = tomllib.loads(block.text)
        if "project" in values:
            continue
        name = "pyproject.toml" if "tool" in values else "perdure.toml"
        place = tmp_path / str(block.line)
        place.mkdir()
        (place / name).write_text(block.text)
        assert config.load(place, {}).source == place / name


def test_each_command_of_the_pages_is_installed():
    names = set(Plugins(PluginSettings()).names("command"))
    shown = {
        (page.name, words[1])
        for page in PAGES
        for block in blocks(page, "console")
        for line in block.text.splitlines()
        if (words := line.removeprefix("$ ").split()) and words[0] == "perdure" and len(words) > 1
    }
    assert [each for each in sorted(shown) if not each[1].startswith("-") and each[1] not in names] == []


def test_the_code_of_the_readme_is_what_the_type_checker_reads():
    first = blocks(ROOT / "README.md", "python")[0]
    assert (ROOT / "tests" / "typing" / "readme.py").read_text() == first.text


def test_each_link_of_a_page_leads_somewhere():
    dead = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not dead


def test_the_readme_names_each_page():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in text] == []
