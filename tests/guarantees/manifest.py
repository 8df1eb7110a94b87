"""The manifest of promises as objects, and what the repository has of tests, found without running any.

``python -m tests.guarantees.manifest`` writes the promises into ``docs/durability.md``.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "durability.md"
DRAWN = re.compile(
    r"(?<=<!-- drawn from tests/guarantees/promises.toml; its test compares -->\n).*?(?=\n## )", re.DOTALL
)


class Later(NamedTuple):
    """What of a promise is not built yet.

    Attributes:
        what: Which part.
        why: The reason.
        seen_by: What is there once it is built: a folder of the repository, or ``module.function(parameter)``.
    """

    what: str
    why: str
    seen_by: str


class Promise(NamedTuple):
    """One promise; see the head of ``promises.toml``."""

    id: str
    promise: str
    means: str
    unpromised: str
    over: tuple[str, ...]
    held: tuple[str, ...]
    later: tuple[Later, ...]

    @property
    def is_built(self) -> bool:
        """Whether any of it is."""
        return bool(self.over)


@cache
def _manifest() -> dict[str, dict]:
    return tomllib.loads((HERE / "promises.toml").read_text())


def promises() -> dict[str, Promise]:
    """By id."""
    return {
        id_: Promise(
            id_,
            given["promise"].strip(),
            given["means"].strip(),
            given["not"].strip(),
            tuple(given["over"]),
            tuple(given["held"]),
            tuple(Later(**later) for later in given.get("later", ())),
        )
        for id_, given in _manifest().items()
        if id_ != "kits"
    }


def kits() -> dict[str, dict[str, str]]:
    """Of each kit the class that runs it, by place: a store or a transport."""
    return _manifest()["kits"]


# -- what there is of tests ------------------------------------------------------------------------------------


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Classes of kits, of tests and of this folder, by name; names of kits are unique."""
    found: dict[str, ast.ClassDef] = {}
    for path in [*ROOT.glob("core/src/perdure/testing/*.py"), *HERE.glob("*.py")]:
        found |= {node.name: node for node in _parsed(path).body if isinstance(node, ast.ClassDef)}
    return found


def kit_tests(kit: str) -> dict[str, ast.AST]:
    """The tests of a class and of those that it derives from, by name."""
    node = classes().get(kit)
    if node is None:
        return {}
    inherited = [kit_tests(base) for base in _bases(node)]
    return {name: test for found in [*inherited, _functions(node.body)] for name, test in found.items()}


def is_there(cited: str) -> bool:
    """Whether ``path::test``, ``path::Class.test`` or ``path::Class`` stands in the repository."""
    name, _, rest = cited.partition("::")
    path = ROOT / name
    if not path.exists():
        return False
    body, (first, _, last) = _parsed(path).body, rest.partition(".")
    here = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    if first in here:
        return not last or last in _functions(here[first].body)
    return rest in _functions(body)


def runs(place: str, kit: str) -> bool:
    """Whether the class of a place (``path::Class``) derives from the kit."""
    name, _, class_ = place.partition("::")
    if not (ROOT / name).exists():
        return False
    here = {node.name: node for node in _parsed(ROOT / name).body if isinstance(node, ast.ClassDef)}
    seen, waiting = set[str](), [class_]
    while waiting:
        found = waiting.pop()
        node = here.get(found) or classes().get(found)
        if found not in seen and node is not None:
            seen.add(found)
            waiting += _bases(node)
    return kit in seen


def cited_here() -> dict[str, list[str]]:
    """The promises that tests of this folder cite, by test."""
    found: dict[str, list[str]] = {}
    for path in sorted(HERE.glob("*.py")):
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = _marked(node)
    return found


def mentioned() -> Iterator[tuple[str, str]]:
    """Each place of a test or kit where the id of a promise is written, and the id."""
    files = [
        ROOT / "core" / "src" / "perdure" / "testing",
        ROOT / "tests",
        *ROOT.glob("*/tests"),
        *ROOT.glob("*/*/tests"),
    ]
    for path in sorted({path for folder in files for path in folder.rglob("*.py")}):
        for id_ in re.findall(r"[\"'(` ](P\d+)(?=[\"'),;:` ])", path.read_text()):
            yield str(path.relative_to(ROOT)), id_


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(body: list[ast.stmt]) -> dict[str, ast.AST]:
    kinds = ast.AsyncFunctionDef | ast.FunctionDef
    return {node.name: node for node in body if isinstance(node, kinds) and node.name.startswith("test_")}


def _bases(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def _marked(node: ast.AsyncFunctionDef | ast.FunctionDef) -> list[str]:
    return [
        str(argument.value)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise"
        for argument in mark.args
        if isinstance(argument, ast.Constant)
    ]


# -- the page --------------------------------------------------------------------------------------------------


def drawn() -> str:
    """The promises as the page has them."""
    return "".join(f"{_section(promise)}\n" for promise in promises().values())


def _section(promise: Promise) -> str:
    lines = [
        f"\n### {promise.id}: {promise.promise.rstrip('.')}\n",
        promise.means,
        "",
        f"*Not promised:* {promise.unpromised}",
    ]
    lines += [f"\n*Not built yet:* {later.what}: {later.why}." for later in promise.later]
    return "\n".join(lines)


def main() -> None:
    """Write them there."""
    text = PAGE.read_text()
    found = DRAWN.search(text)
    assert found
    PAGE.write_text(text[: found.start()] + drawn() + text[found.end() :])


if __name__ == "__main__":
    main()
