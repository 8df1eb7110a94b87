"""The house stands as it is drawn; and each rule finds the violation that is planted for it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from . import architecture as rules

ROOT = Path(__file__).parent.parent

type_only = "\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
long = "".join(f"x{n} = {n}\n" for n in range(rules.MODULE_LINES + 1))
names = "__all__ = [" + ", ".join(f"'n{n}'" for n in range(rules.ROOT_NAMES + 1)) + "]\n"
methods = "".join(f"    def m{n}(self) -> None: ...\n" for n in range(rules.PORT_METHODS + 1))
guest = "plugins/store-sqlite"
inside = f"{guest}/src/perdure_store_sqlite"

# A rule, the file in which it is broken, what is written there, and what the rule must say. The text is appended; a
# text of two parts stands for a replacement.
VIOLATIONS: list[tuple[Callable[[Path], list[str]], str, str | tuple[str, str], str]] = [
    (
        rules.kernel_imports_run_one_way,
        "core/src/perdure/messages.py",
        "import perdure.agent\n",
        "does not stand below",
    ),
    (
        rules.kernel_imports_run_one_way,
        "core/src/perdure/agent.py",
        "from perdure import workflow\n",
        "does not stand below",
    ),
    (
        rules.kernel_imports_run_one_way,
        "core/src/perdure/agent.py",
        "from perdure import Agent\n",
        "does not stand below",
    ),
    (rules.kernel_imports_run_one_way, "core/src/perdure/attic.py", "", "stands in no layer"),
    (
        rules.the_kernel_uses_pluggy_and_pydantic_only,
        "core/src/perdure/messages.py",
        "import rich.text\n",
        "imports rich",
    ),
    (
        rules.the_kernel_uses_pluggy_and_pydantic_only,
        "core/src/perdure/messages.py",
        "import pytest\n",
        "imports pytest",
    ),
    (
        rules.the_kernel_knows_no_plugin,
        "core/src/perdure/messages.py",
        "x = 'perdure_store_sqlite'\n",
        "names the plugin",
    ),
    (
        rules.the_kernel_knows_no_plugin,
        "core/pyproject.toml",
        "[project.entry-points.perdure]\na = 'a'\n",
        "entry points",
    ),
    (rules.the_machine_is_sans_io, "core/src/perdure/_machine/planted.py", "import time\n", "imports time"),
    (
        rules.the_machine_is_sans_io,
        "core/src/perdure/_machine/planted.py",
        "from random import random\n",
        "imports random",
    ),
    (
        rules.the_machine_is_sans_io,
        "core/src/perdure/_machine/planted.py",
        "from perdure import ports\n",
        "perdure.ports",
    ),
    (
        rules.the_machine_is_sans_io,
        "core/src/perdure/_machine/planted.py",
        f"{type_only}from perdure.ports import Clock",
        "ports",
    ),
    (rules.imports_stand_at_the_top, f"{inside}/planted.py", "def f():\n    import json\n", "below the top"),
    (
        rules.imports_stand_at_the_top,
        f"{inside}/planted.py",
        "try:\n    import json\nexcept ImportError: ...\n",
        "below the top",
    ),
    (rules.imports_stand_at_the_top, "core/src/perdure/__init__.py", "def __getattr__(name): ...\n", "__getattr__"),
    (rules.imports_make_no_cycle, "core/src/perdure/errors.py", "import perdure.messages\n", "cycle: "),
    (rules.guests_use_public_names, f"{inside}/planted.py", "from perdure._machine import loop\n", "the private"),
    (rules.guests_use_public_names, f"{inside}/planted.py", "from perdure.errors import _Carried\n", "the private"),
    (rules.guests_use_public_names, f"{inside}/planted.py", f"{type_only}import perdure._machine", "the private"),
    (
        rules.guests_use_public_names,
        f"{inside}/planted.py",
        "import perdure_mcp\n",
        "perdure-store-sqlite does not declare",
    ),
    (rules.guests_declare_what_they_import, f"{inside}/planted.py", "import rich.text\n", "does not declare"),
    (rules.the_kernel_is_read_in_one_sitting, "core/src/perdure/messages.py", long, "perdure.messages has"),
    (rules.the_kernel_is_read_in_one_sitting, "core/src/perdure/messages.py", long * 7, "the kernel has"),
    (rules.the_root_is_no_warehouse, "core/src/perdure/__init__.py", ("__all__ =", f"{names}old ="), "36 names"),
    (rules.the_root_is_no_warehouse, "core/src/perdure/__init__.py", ("__all__ =", "old ="), "has no __all__"),
    (
        rules.ports_are_short,
        "core/src/perdure/ports.py",
        f"class Wide(Protocol):\n    '''.'''\n{methods}",
        "Wide has 9",
    ),
    (
        rules.ports_are_short,
        "core/src/perdure/ports.py",
        "class Mute(Protocol):\n    x: int\n",
        "Mute states no contract",
    ),
    (rules.hooks_declare, "core/src/perdure/hookspecs.py", "@hookspec\nasync def perdure_a(): '.'\n", "is async"),
    (
        rules.hooks_declare,
        "core/src/perdure/hookspecs.py",
        "@hookspec\ndef perdure_a(b) -> int: '.'\n",
        "not fully typed",
    ),
    (
        rules.hooks_declare,
        "core/src/perdure/hookspecs.py",
        "@hookspec\ndef perdure_a() -> int: ...\n",
        "not documented",
    ),
    (
        rules.hooks_declare,
        "core/src/perdure/hookspecs.py",
        "@hookspec\ndef perdure_a() -> int:\n '.'\n f()\n",
        "does more",
    ),
    (
        rules.hooks_declare,
        "core/src/perdure/hookspecs.py",
        "@hookspec\ndef start() -> int: '.'\n",
        "not named perdure_",
    ),
    (
        rules.names_agree,
        f"{guest}/pyproject.toml",
        ('name = "perdure-', 'name = "'),
        "the distribution is 'store-sqlite'",
    ),
    (rules.names_agree, "plugins/store-sqlite/src/other/__init__.py", "", "src holds"),
    (rules.names_agree, f"{guest}/pyproject.toml", ("\nsqlite =", "\nlite ="), "does not name exactly sqlite"),
    (
        rules.every_guest_comes_through_the_door,
        f"{guest}/pyproject.toml",
        ('points."perdure', 'points."other'),
        "has no entry point",
    ),
    (rules.every_guest_comes_through_the_door, f"{guest}/pyproject.toml", ('"perdure_s', '"perdure_x'), "no module"),
    (
        rules.every_error_stands_in_the_tree,
        "core/src/perdure/errors.py",
        "class New(UsageError):\n    '.'\n",
        "lacks New",
    ),
    (
        rules.every_error_stands_in_the_tree,
        "core/src/perdure/errors.py",
        ("StepFailed(_Carried)", "StepFailed(X)"),
        "draws",
    ),
    (
        rules.every_error_stands_in_the_tree,
        "core/src/perdure/errors.py",
        "class New(UsageError): ...\n",
        "no docstring",
    ),
    (rules.every_error_derives_from_the_root, f"{inside}/planted.py", "class Full(OSError): ...\n", "Full derives"),
    (rules.every_exception_to_a_rule_has_a_reason, "pyproject.toml", ("# the formatter", ""), "no reason"),
    (rules.every_exception_to_a_rule_has_a_reason, "pyproject.toml", ("# pytest asserts", ""), "no reason"),
    (rules.every_exception_to_a_rule_has_a_reason, f"{inside}/planted.py", "x = 1  # noqa: E741\n", "no reason"),
    (rules.names_are_of_the_domain, f"{inside}/planted.py", "class RunManager: ...\n", "RunManager"),
    (rules.names_are_of_the_domain, f"{inside}/utils.py", "", "without a meaning"),
    (rules.one_colour, f"{inside}/planted.py", "def load(): ...\nasync def aload(): ...\n", "the twin aload"),
    (
        rules.one_colour,
        f"{inside}/planted.py",
        "class C:\n def f(): ...\n async def f_async(): ...\n",
        "the twin f_async",
    ),
    (
        rules.every_implementation_passes_its_kit,
        "plugins/store-attic/pyproject.toml",
        "",
        "store-attic: no test subclasses",
    ),
    (
        rules.every_implementation_passes_its_kit,
        "core/src/perdure/testing/attic.py",
        "class AtticKit: ...\n",
        "no test subclasses AtticKit",
    ),
    (
        rules.nothing_is_global,
        f"{inside}/planted.py",
        "import pluggy\nm = pluggy.PluginManager('x')\n",
        "a plugin manager",
    ),
]


# For an interpreter of its own: what importing the kernel opens, starts, reads from the environment, brings along.
IMPORT = """
import json, os, pkgutil, sys
import pluggy, pydantic
class Warm(pydantic.BaseModel):
    x: int = 0
Warm()
found = []
def watch(event, args):
    if event == "open" and not str(args[0]).endswith((".py", ".pyc")) and not os.path.isdir(args[0]):
        found.append(f"opens {args[0]}")
    elif event.split(".")[0] in {"socket", "subprocess", "sqlite3", "os.system", "os.fork", "os.posix_spawn"}:
        found.append(event)
getitem = type(os.environ).__getitem__
def read(self, key):
    frame = sys._getframe(1)
    while frame.f_globals["__name__"] in {"os", "collections.abc"}:
        frame = frame.f_back
    if frame.f_globals["__name__"].split(".")[0] == "perdure":
        found.append(f"{frame.f_globals['__name__']} reads {key} from the environment")
    return getitem(self, key)
type(os.environ).__getitem__ = read
sys.addaudithook(watch)
import perdure
for module in pkgutil.walk_packages(perdure.__path__, "perdure."):
    if not module.name.startswith("perdure.testing"):
        __import__(module.name)
found += [f"imports {name}" for name in sys.modules if name.startswith(("perdure_", "example_"))]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the rules look at."""
    copy = tmp_path_factory.mktemp("house")
    for path in [
        ROOT / "pyproject.toml",
        *(p for d in rules.everything(ROOT) for p in map(d.folder.joinpath, ("pyproject.toml", "src", "tests"))),
    ]:
        there = copy / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, there, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, there)
    return copy


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    found = rule(ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "file", "text", "says"), VIOLATIONS, ids=[f"{v[0].__name__}-{n}" for n, v in enumerate(VIOLATIONS)]
)
def test_the_rule_finds_what_is_planted(rule, file, text, says, drawing) -> None:
    path = drawing / file
    before = path.read_text() if path.exists() else None
    parents = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_text((before or "").replace(*text, 1) if isinstance(text, tuple) else f"{before or ''}\n{text}")
        planted = set(rule(drawing))
    finally:
        path.unlink() if before is None else path.write_text(before)
        for parent in parents:
            parent.rmdir()
    assert [each for each in planted - set(rule(drawing)) if says in each]


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, *_ in VIOLATIONS} == set(rules.RULES)


def import_kernel(*, first: str = "") -> list[str]:
    ran = subprocess.run([sys.executable, "-B", "-c", first + IMPORT], capture_output=True, text=True, check=True)
    assert not ran.stderr
    return json.loads(ran.stdout)


def test_importing_the_kernel_does_nothing() -> None:
    assert import_kernel() == []


def test_what_an_import_does_is_found(tmp_path) -> None:
    planted = "import os, perdure_mcp; os.environ.get('HOME'); open('/dev/null').close(); print(end='')"
    package = tmp_path / "perdure"
    package.mkdir()
    (package / "__init__.py").write_text(planted)
    found = import_kernel(first=f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    assert {"opens /dev/null", "perdure reads HOME from the environment", "imports perdure_mcp"} <= set(found)
