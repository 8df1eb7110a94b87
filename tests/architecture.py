"""The rules of the house, as functions from a checkout's root to the list of what breaks them.

The kernel's modules stand in layers. An import that is executed goes down; one that only a type checker reads
(under ``if TYPE_CHECKING``) may go anywhere inside the kernel, since it says what fits and not what is used.
``LAYERS`` is the table: a module that is not in it is a violation until somebody has said where it stands.

Plugins are found by glob. Nothing here imports what it checks, and nothing here knows a plugin by name.
"""

import ast
import builtins
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

LAYERS = (
    {"errors"},
    {"messages"},
    {"clock", "encoding", "ports"},
    {"_machine", "steps"},
    {"context", "hookspecs"},
    {"agent", "arrivals", "config", "direct", "plugins", "saga", "workflow"},
    {"execution"},
    {"catalog", "runs"},
    {"runtime"},
    {"app"},
    {""},  # the root: `perdure` itself, which gathers the names
    {"testing"},
)
KERNEL_LINES = 3200  # 2,000 was the aim; what operators and authors were promised since, and its types, are the rest
MODULE_LINES = 350
ROOT_NAMES = 35
PORT_METHODS = 8
KERNEL_USES = {"pluggy", "pydantic", "pydantic_core"}
MACHINE_SHUNS = {"os", "perdure.ports", "random", "secrets", "socket", "sqlite3", "subprocess", "time", "uuid"}
GROUPS = {
    "store": "perdure.stores",
    "engine": "perdure.engines",
    "transport": "perdure.transports",
    "model": "perdure.models",
}
WEAK_NAMES = re.compile(r"(Manager|Helpers?|Utils?|Impl|Base\w*Mixin)$")
EXCEPTIONS = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)
}


@dataclass(frozen=True)
class Import:
    """One imported module or name: ``from a.b import c`` has module ``a.b`` and name ``c``."""

    module: str
    name: str
    line: int
    for_types: bool
    at_top: bool


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, whether it is a package's, its text."""

    name: str
    is_package: bool
    source: str

    @classmethod
    def read(cls, path: Path, name: str) -> "Module":
        """Read the file again, and parse it again only when its text is new: many rules look at what few change."""
        return _parsed_once(name, path.name == "__init__.py", path.read_text())

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def imports(self) -> list[Import]:
        return list(self._imports(self.tree, at_top=True, for_types=False))

    def _imports(self, node: ast.AST, *, at_top: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, "", child.lineno, for_types, at_top)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    yield Import(self._absolute(child), alias.name, child.lineno, for_types, at_top)
            elif isinstance(child, ast.If):
                typing_only = "TYPE_CHECKING" in ast.unparse(child.test)
                known = typing_only or "sys.version_info" in ast.unparse(child.test)
                yield from self._imports(child, at_top=at_top and known, for_types=for_types or typing_only)
            else:
                yield from self._imports(child, at_top=False, for_types=for_types)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".")
        up = node.level - self.is_package
        return ".".join([*package[: len(package) - up], *([node.module] if node.module else [])])

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    @cached_property
    def code_lines(self) -> int:
        """Lines that hold code to be read: not blank, not a comment, not a docstring, not an import.

        Imports are left out because they follow from the code, and one name a line is how the formatter breaks them.
        """
        lines = set[int]()
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type not in {
                tokenize.COMMENT,
                tokenize.NL,
                tokenize.NEWLINE,
                tokenize.INDENT,
                tokenize.DEDENT,
                tokenize.ENDMARKER,
            }:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ) or isinstance(node, ast.Import | ast.ImportFrom):
                lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        return len(lines)

    @cached_property
    def waivers(self) -> dict[int, tuple[str, bool]]:
        """Where a rule is switched off: by line, which rules, and whether a reason stands beside or right above."""
        lines = ["", *self.source.splitlines()]
        found = (
            (number, re.search(r"# noqa(?:: ([A-Z0-9]+(?:, [A-Z0-9]+)*))?( - \S)?", line))
            for number, line in enumerate(lines)
        )
        return {
            n: (match[1] or "", bool(match[2] or lines[n - 1].lstrip().startswith("# "))) for n, match in found if match
        }

    def at(self, line: int, what: str) -> str:
        return f"{self.name}:{line}: {what}"


@cache
def _parsed_once(name: str, is_package: bool, source: str) -> Module:
    return Module(name, is_package, source)


@dataclass(frozen=True)
class Distribution:
    """One folder of the workspace with a ``pyproject.toml``."""

    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text())

    @property
    def name(self) -> str:
        return self.settings["project"]["name"]

    @property
    def package(self) -> str:
        plain = self.folder.name.replace("-", "_")
        return {"core": "perdure"}.get(plain, plain if self.folder.parent.name == "contrib" else f"perdure_{plain}")

    @property
    def depends(self) -> set[str]:
        return {re.split(r"[^\w.-]", line)[0].lower() for line in self.settings["project"].get("dependencies", [])}

    @property
    def entry_points(self) -> dict[str, dict[str, str]]:
        """Of Perdure's own groups."""
        groups = self.settings["project"].get("entry-points", {})
        return {group: points for group, points in groups.items() if group.split(".")[0] == "perdure"}

    @cached_property
    def modules(self) -> list[Module]:
        source = self.folder / "src"
        return [Module.read(path, _dotted(path.relative_to(source))) for path in sorted(source.rglob("*.py"))]


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def kernel(root: Path) -> Distribution:
    return Distribution(root / "core")


def guests(root: Path) -> list[Distribution]:
    """Plugins and what is contributed: everything but the kernel."""
    return [
        Distribution(path.parent)
        for glob in ("plugins", "contrib")
        for path in sorted(root.glob(f"{glob}/*/pyproject.toml"))
    ]


def everything(root: Path) -> list[Distribution]:
    return [kernel(root), *guests(root)]


def _part(name: str) -> str:
    """The kernel's part that a module belongs to: ``perdure.testing.store`` is of ``testing``."""
    return name.split(".")[1] if "." in name else ""


def _targets(module: Module, known: set[str]) -> Iterator[tuple[Import, str]]:
    """Each import with the module that it reaches, where ``from package import module`` is told from a name."""
    for each in module.imports:
        deeper = f"{each.module}.{each.name}"
        yield each, deeper if deeper in known else each.module


def _private(dotted: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


def kernel_imports_run_one_way(root: Path) -> list[str]:
    rank = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    modules = kernel(root).modules
    known = {module.name for module in modules}
    found = []
    for module in modules:
        part = _part(module.name)
        if part not in rank:
            found.append(f"{module.name} stands in no layer: give it one in LAYERS")
            continue
        for each, target in _targets(module, known):
            other = _part(target)
            if (
                target.split(".")[0] == "perdure"
                and other != part
                and not each.for_types
                and rank.get(other, 0) >= rank[part]
            ):
                found.append(module.at(each.line, f"imports {target}, which does not stand below it"))
    return found


def the_kernel_uses_pluggy_and_pydantic_only(root: Path) -> list[str]:
    allowed = KERNEL_USES | sys.stdlib_module_names | {"perdure"}
    for_tests = allowed | {"pytest", "hypothesis"}
    return [
        module.at(each.line, f"the kernel imports {each.module}")
        for module in kernel(root).modules
        for each in module.imports
        if each.module.split(".")[0] not in (for_tests if _part(module.name) == "testing" else allowed)
    ]


def the_kernel_knows_no_plugin(root: Path) -> list[str]:
    packages = {guest.package for guest in guests(root)}
    found = [
        module.at(node.lineno, f"names the plugin {node.value!r}")
        for module in kernel(root).modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(".")[0] in packages
    ]
    if kernel(root).entry_points:
        found.append("core has entry points of its own: built-ins come as plugins")
    return found


def the_machine_is_sans_io(root: Path) -> list[str]:
    modules = [module for module in kernel(root).modules if _part(module.name) == "_machine"]
    return [
        module.at(each.line, f"the machine imports {target}")
        for module in modules
        for each, target in _targets(module, {"perdure.ports"})
        if target in MACHINE_SHUNS or target.split(".")[0] in MACHINE_SHUNS
    ]


def imports_stand_at_the_top(root: Path) -> list[str]:
    found = []
    for distribution in everything(root):
        for module in distribution.modules:
            found += [
                module.at(each.line, f"imports {each.module} below the top of the file")
                for each in module.imports
                if not each.at_top and "PLC0415" not in module.waivers.get(each.line, ("",))[0]
            ]
            found += [
                module.at(node.lineno, "a module-level __getattr__ imports behind the reader's back")
                for node in module.tree.body
                if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
            ]
    return found


def imports_make_no_cycle(root: Path) -> list[str]:
    modules = {module.name: module for distribution in everything(root) for module in distribution.modules}
    edges = {
        name: sorted(
            {target for each, target in _targets(module, set(modules)) if not each.for_types and target in modules}
            - {name}
        )
        for name, module in modules.items()
    }
    done, found = set[str](), list[str]()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append("cycle: " + " -> ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for target in edges[name]:
                visit(target, [*trail, name])
            done.add(name)

    for name in edges:
        visit(name, [])
    return found


def guests_use_public_names(root: Path) -> list[str]:
    houses = {distribution.package: distribution for distribution in everything(root)}
    found = []
    for guest in guests(root):
        for module in guest.modules:
            for each in module.imports:
                host = each.module.split(".")[0]
                if host == guest.package or host not in houses:
                    continue
                if _private(f"{each.module}.{each.name}"):
                    found.append(module.at(each.line, f"imports the private {each.module}.{each.name}"))
                if houses[host].name not in guest.depends:
                    found.append(module.at(each.line, f"imports {host}, which {guest.name} does not declare"))
    return list(dict.fromkeys(found))  # one line may import several names


@cache
def _owners() -> dict[str, list[str]]:
    """Which distributions bring an importable name: it is of the environment, and takes long to read."""
    return dict(packages_distributions())


def guests_declare_what_they_import(root: Path) -> list[str]:
    owners = _owners() | {"pydantic_core": ["pydantic"]}  # its other half, released with it
    own = {distribution.package for distribution in everything(root)} | sys.stdlib_module_names
    found = list[str]()
    for guest in guests(root):
        for module in guest.modules:
            for each in module.imports:
                top = each.module.split(".")[0]
                if top not in own and not {owner.lower() for owner in owners.get(top, [top])} & guest.depends:
                    found.append(module.at(each.line, f"imports {top}, which {guest.name} does not declare"))
    return list(dict.fromkeys(found))  # one line may import several names


def the_kernel_is_read_in_one_sitting(root: Path) -> list[str]:
    sizes = {module.name: module.code_lines for module in kernel(root).modules}
    found = [
        f"{name} has {size} code lines, more than {MODULE_LINES}" for name, size in sizes.items() if size > MODULE_LINES
    ]
    total = sum(size for name, size in sizes.items() if _part(name) != "testing")
    if total > KERNEL_LINES:
        found.append(f"the kernel has {total} code lines, more than {KERNEL_LINES}")
    return found


def the_root_is_no_warehouse(root: Path) -> list[str]:
    module = next(module for module in kernel(root).modules if module.name == "perdure")
    names = next(
        (
            ast.literal_eval(node.value)
            for node in module.tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ),
        None,
    )
    if names is None:
        return ["perdure has no __all__"]
    return [f"perdure.__all__ has {len(names)} names, more than {ROOT_NAMES}"] if len(names) > ROOT_NAMES else []


def _bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]


def ports_are_short(root: Path) -> list[str]:
    module = next(module for module in kernel(root).modules if module.name == "perdure.ports")
    found = []
    for node in module.classes:
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        if "Protocol" in _bases(node) and len(methods) > PORT_METHODS:
            found.append(module.at(node.lineno, f"{node.name} has {len(methods)} methods, more than {PORT_METHODS}"))
        if "Protocol" in _bases(node) and not ast.get_docstring(node):
            found.append(module.at(node.lineno, f"{node.name} states no contract"))
    return found


def hooks_declare(root: Path) -> list[str]:
    module = next(module for module in kernel(root).modules if module.name == "perdure.hookspecs")
    found = []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or "hookspec" not in map(
            ast.unparse, node.decorator_list
        ):
            continue
        takes = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        broken = {
            "is async": isinstance(node, ast.AsyncFunctionDef),
            "is not documented": not ast.get_docstring(node),
            "is not fully typed": node.returns is None or any(a.annotation is None and a.arg != "self" for a in takes),
            "does more than declare": len(node.body) > 1,
            "is not named perdure_…": not node.name.startswith("perdure_"),
        }
        found += [module.at(node.lineno, f"the hook {node.name} {what}") for what, is_so in broken.items() if is_so]
    return found


def names_agree(root: Path) -> list[str]:
    """Folder, distribution, import and entry point say one word."""
    found = []
    for each in everything(root):
        folder = str(each.folder.relative_to(root))
        expected = "perdure" if folder == "core" else f"perdure-{each.folder.name}"
        if each.name != expected:
            found.append(f"{folder}: the distribution is {each.name!r}, not {expected!r}")
        packages = sorted(path.parent.name for path in each.folder.glob("src/*/__init__.py"))
        if packages != [each.package]:
            found.append(f"{folder}: src holds {packages}, not {each.package!r}")
        if not (each.folder / "src" / each.package / "py.typed").exists():
            found.append(f"{folder}: py.typed is missing")
    for guest in guests(root):
        kind, _, short = guest.folder.name.partition("-")
        group, name = (GROUPS[kind], short) if kind in GROUPS else (None, guest.folder.name)
        if group and list(guest.entry_points.get(group, {}).items()) != [(name, guest.package)]:
            found.append(f"{guest.name}: the group {group} does not name exactly {name} = {guest.package!r}")
    return found


def every_guest_comes_through_the_door(root: Path) -> list[str]:
    found = []
    shared = {name for guest in guests(root) for name in guest.depends}
    for guest in guests(root):
        if not guest.entry_points and guest.name not in shared:
            found.append(f"{guest.name} has no entry point in a group of Perdure, and no plugin stands on it")
        names = {module.name for module in guest.modules}
        found += [
            f"{guest.name}: the entry point {group}: {name} = {target!r} is no module of the distribution"
            for group, points in guest.entry_points.items()
            for name, target in points.items()
            if target.split(":")[0] not in names
        ]
    return found


def every_error_stands_in_the_tree(root: Path) -> list[str]:
    module = next(module for module in kernel(root).modules if module.name == "perdure.errors")
    bases = {node.name: next(iter(_bases(node)), "object") for node in module.classes}

    def parent(name: str) -> str:
        base = bases.get(name, "object")
        return parent(base) if base.startswith("_") else base

    is_so = {(parent(name), name) for name in bases if not name.startswith("_") and name != "PerdureError"}
    is_drawn = set(_drawn_tree(ast.get_docstring(module.tree) or ""))
    return [
        *(
            module.at(node.lineno, f"{node.name} has no docstring")
            for node in module.classes
            if not ast.get_docstring(node)
        ),
        *(f"the tree of errors lacks {name} under {above}" for above, name in sorted(is_so - is_drawn)),
        *(
            f"the tree of errors draws {name} under {above}, where it is not"
            for above, name in sorted(is_drawn - is_so)
        ),
    ]


def _drawn_tree(text: str) -> Iterator[tuple[str, str]]:
    """Yield parent and child for each branch of the tree that stands in a docstring."""
    above = dict[int, str]()
    for line in text.splitlines():
        if match := re.match(r"([\s│]*)(?:[├└]── )?(\w+)(?=\s{2,}|$)", line):
            depth = match.start(2)
            if "── " in line:
                yield above[depth - 4], match[2]
            above[depth] = match[2]


def every_error_derives_from_the_root(root: Path) -> list[str]:
    """Outside the tree may stand what unwinds (a ``BaseException``) and what never leaves its module."""
    return [
        module.at(node.lineno, f"{node.name} derives from {base}, not from an error of Perdure")
        for distribution in everything(root)
        for module in distribution.modules
        for node in module.classes
        for base in _bases(node)
        if base in EXCEPTIONS and not node.name.startswith("_") and node.name != "PerdureError"
    ]


def every_exception_to_a_rule_has_a_reason(root: Path) -> list[str]:
    found = []
    table = ""
    for number, line in enumerate((root / "pyproject.toml").read_text().splitlines(), 1):
        table = line if line.startswith("[") else table
        lists_rules = table in {"[tool.ruff.lint.per-file-ignores]", "[tool.ruff.lint]"}
        if lists_rules and re.search(r'"[A-Z]+\d*"', line) and "select" not in line and not re.search(r"# \w", line):
            found.append(f"pyproject.toml:{number}: no reason beside {line.strip()}")
    for distribution in everything(root):
        for module in distribution.modules:
            found += [
                module.at(line, f"no reason beside noqa {what}")
                for line, (what, why) in module.waivers.items()
                if not why
            ]
    return found


def names_are_of_the_domain(root: Path) -> list[str]:
    found = []
    for distribution in everything(root):
        for module in distribution.modules:
            found += [
                module.at(node.lineno, f"{node.name} is a name without a meaning")
                for node in module.classes
                if WEAK_NAMES.search(node.name)
            ]
            if re.search(r"(^|_)(utils?|helpers?|common|misc)$", module.name.split(".")[-1]):
                found.append(f"{module.name} is a name without a meaning")
    return found


def one_colour(root: Path) -> list[str]:
    """No function is written twice, once for sync and once for async."""
    found = []
    for distribution in everything(root):
        for module in distribution.modules:
            for scope in (module.tree, *module.classes):
                functions = {
                    node.name: node for node in scope.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                }
                found += [
                    module.at(node.lineno, f"{name} has the twin {twin}")
                    for name, node in functions.items()
                    for twin in (f"a{name}", f"{name}_async")
                    if isinstance(node, ast.FunctionDef) and isinstance(functions.get(twin), ast.AsyncFunctionDef)
                ]
    return found


def nothing_is_global(root: Path) -> list[str]:
    """No plugin manager is made when a module is imported: two apps may live in one process."""
    return [
        module.at(node.lineno, "a plugin manager at import")
        for distribution in everything(root)
        for module in distribution.modules
        for statement in module.tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("PluginManager")
    ]


def every_implementation_passes_its_kit(root: Path) -> list[str]:
    """A plugin of a replaceable kind subclasses the conformance kit of its port; so does each fake of the kernel."""
    kits = {node.name for module in kernel(root).modules for node in module.classes if node.name.endswith("Kit")}
    used = {
        distribution.folder: {
            base
            for path in distribution.folder.glob("tests/**/*.py")
            for node in Module.read(path, path.stem).classes
            for base in _bases(node)
        }
        for distribution in everything(root)
    }
    missing = [f"no test subclasses {kit}" for kit in sorted(kits - set().union(*used.values()))]
    for guest in guests(root):
        kind = guest.folder.name.split("-")[0]
        if kind in GROUPS and not any(base.endswith(f"{kind.title()}Kit") for base in used[guest.folder]):
            missing.append(f"{guest.folder.name}: no test subclasses the conformance kit of a {kind}")
    return missing


RULES: tuple[Callable[[Path], list[str]], ...] = (
    kernel_imports_run_one_way,
    the_kernel_uses_pluggy_and_pydantic_only,
    the_kernel_knows_no_plugin,
    the_machine_is_sans_io,
    imports_stand_at_the_top,
    imports_make_no_cycle,
    guests_use_public_names,
    guests_declare_what_they_import,
    the_kernel_is_read_in_one_sitting,
    the_root_is_no_warehouse,
    ports_are_short,
    hooks_declare,
    names_agree,
    every_guest_comes_through_the_door,
    every_error_stands_in_the_tree,
    every_error_derives_from_the_root,
    every_exception_to_a_rule_has_a_reason,
    names_are_of_the_domain,
    one_colour,
    nothing_is_global,
    every_implementation_passes_its_kit,
)
