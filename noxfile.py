"""Every check of the project, and the sessions that keep its pins.

`uv run nox` runs what a change must pass: lint, types, the tests on each interpreter that is there, each
distribution's wheel alone, and the docs. No session downloads an interpreter.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
MEMBERS = sorted(
    path.parent for glob in ("core", "plugins/*", "contrib/*") for path in ROOT.glob(f"{glob}/pyproject.toml")
)
ALONE = PYTHONS[-1]
"""On this interpreter, where it is there, each distribution's tests run with its wheel alone, and only so."""

SLOW = (
    "plugins/cli/tests/test_cli_terminal.py",
    "plugins/engine-embedded/tests/test_simulation_bites.py",
    "plugins/hosting/tests/test_remote_engine.py",
    "plugins/hosting/tests/test_remote_store_kit.py",
    "plugins/mcp/tests/test_mcp_process.py",
    "plugins/mcp/tests/test_mcp_runs.py",
    "plugins/transport-grpc/tests/test_autogen_workers.py",
    "plugins/transport-grpc/tests/test_grpc_store.py",
    "plugins/transport-http/tests/test_http_store.py",
    "tests/benchmarks/test_bench_smoke.py",
    "tests/e2e",
    "tests/guarantees/test_bites.py",
    "tests/test_architecture.py",
)
"""Run once, on one interpreter and from the workspace, because what they find does not depend on either.

The rule: what these cost is to start whole programs (servers, terminals, the benchmark), to look at the source, to
break the code and see that other tests notice, or to run a kit once more from afar. What executes the project's own
code within the test's process is not slow in this sense, however long it takes: kernel, engine, stores, messaging,
hosting and guarantees run on each interpreter, and of each distribution that starts programs so does one file.
"""
PINS = re.compile(r"(?<=# pin: begin\n).*?(?=# pin: end\n)", re.DOTALL)

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests", "chaos", "isolated", "docs"]
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the rules and the format."""
    _sync(session, "--only-group=lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types: of the sources, of what the kernel makes public, of the files that are there to be checked."""
    _sync(session, "--all-packages", "--group=types")
    session.run("pyright", *session.posargs)
    session.run("pyright", "--verifytypes", "perdure", "--ignoreexternal")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run all tests on one interpreter, but for those of other sessions; those of whole processes on one alone."""
    _sync(session, "--all-packages")
    elsewhere = ("tests/chaos", "tests/docs", *(SLOW if session.python != "3.12" else ()))
    wanted = session.posargs or (["tests"] if session.python == ALONE else [])
    session.run("pytest", "-n2", *(f"--ignore={path}" for path in elsewhere), *wanted)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill, stop and starve processes: what is found does not depend on the interpreter, and takes its time."""
    _sync(session, "--all-packages")
    session.run("pytest", "-n2", "tests/chaos", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the programs of the README and the pages."""
    _sync(session, "--all-packages")
    session.run("pytest", "-n2", "tests/docs", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, and print every figure with its bound, beside the disk and the peers; `-- --help` says what there is."""
    _sync(session, "--all-packages")
    wanted = not {"--short", "--profile", "--help"}.intersection(session.posargs)
    peers = []
    if wanted:
        peers = [f"--peers={_peers(session, 'peers')}", f"--autogen={_peers(session, 'autogen')}"]
    session.run("python", "-m", "tests.benchmarks", *peers, *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the example from end to end, the kill included."""
    _sync(session, "--all-packages")
    session.run("perdure", "demo", "--yes", *session.posargs)


@nox.session
def isolated(session: nox.Session) -> None:
    """Build each wheel and run its tests where only it and what it declares is installed; `-- plugins/mcp` for one.

    What is to be found is what a distribution forgot to declare: the tests in `SLOW` would find no more of it.
    """
    find = ("uv", "python", "find", "--no-project", ALONE)
    found = subprocess.run(find, capture_output=True, text=True, check=False).stdout  # noqa: S603 - our own command
    python = found.strip() or sys.executable
    with tempfile.TemporaryDirectory(prefix="perdure-isolated-") as name:
        place = Path(name)
        session.run("uv", "build", "--quiet", "--all-packages", "--wheel", f"--out-dir={place}", external=True)
        wheels = {wheel.name.split("-")[0].replace("_", "-"): wheel.as_uri() for wheel in place.glob("*.whl")}
        pins = [*_pinned(), *(f"{distribution} @ {wheel}" for distribution, wheel in wheels.items())]
        place.joinpath("constraints.txt").write_text("\n".join(pins))
        chosen = [
            member for member in MEMBERS if not session.posargs or str(member.relative_to(ROOT)) in session.posargs
        ]
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            outcomes = list(pool.map(lambda member: _run_alone(member, place, wheels, python), chosen))
    for folder, passed, seconds, output in outcomes:
        session.log(f"{folder:32} {'passed' if passed else 'FAILED':8} {seconds:5.1f} s  {output.splitlines()[-1]}")
    failures = [outcome for outcome in outcomes if not outcome[1]]
    for folder, _, _, output in failures:
        session.warn(f"{folder}:\n{output}")
    if failures:
        session.error(f"{len(failures)} of {len(outcomes)} distributions failed on their own")


@nox.session(python=False)
def pin(session: nox.Session) -> None:
    """Write the newest versions that fit together into the root pyproject.toml; names and versions only, no hosts."""
    project = ROOT / "pyproject.toml"
    before = project.read_text()
    try:
        project.write_text(PINS.sub("", before))
        session.run("uv", "lock", "--quiet", "--upgrade", external=True)
        installed = _resolved(session, "uv", "export", "--frozen", "--all-packages", "--all-groups", "--all-extras")
        wanted = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text())["build-system"]["requires"]
        with tempfile.NamedTemporaryFile("w", suffix=".in") as backend:
            backend.write("\n".join(wanted))
            backend.flush()
            build = _resolved(session, "uv", "pip", "compile", "--no-config", backend.name, workspace=False)
    except BaseException:
        project.write_text(before)
        raise
    project.write_text(PINS.sub(_block("constraint", installed) + _block("build-constraint", build), before))
    session.run("uv", "lock", "--quiet", external=True)


def _sync(session: nox.Session, *args: str) -> None:
    """Install members and groups of the workspace, as pinned, into the session's environment."""
    place = session.virtualenv.location
    session.run_install(
        "uv", "sync", "--quiet", f"--python={place}", *args, env={"UV_PROJECT_ENVIRONMENT": place}, external=True
    )


def _peers(session: nox.Session, name: str) -> Path:
    """Install what Perdure is measured against into an environment of its own; return that one's interpreter."""
    place = session.cache_dir / name
    python = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    file = "requirements.txt" if name == "peers" else f"requirements-{name}.txt"
    wanted = ROOT / "tests" / "benchmarks" / "peers" / file
    own = Path(session.virtualenv.location, python.relative_to(place))
    if not python.exists():
        session.run_install("uv", "venv", "--quiet", "--no-project", f"--python={own}", str(place), external=True)
    # What cannot be had is missing in the table, which says so: the other figures need none of it.
    session.run_install(
        *("uv", "pip", "install", "--quiet", "--no-config", f"--python={python}", f"--requirements={wanted}"),
        external=True,
        success_codes=range(256),
    )
    return python


def _resolved(session: nox.Session, *command: str, workspace: bool = True) -> list[str]:
    """Return the `name==version; marker` lines that a uv command prints; the marker stays only where it chooses."""
    flags = ("--quiet", "--no-annotate", "--no-header", *(("--no-hashes", "--no-emit-workspace") if workspace else ()))
    output = session.run(*command, *flags, silent=True, external=True)
    lines = [line for line in str(output).splitlines() if "==" in line]
    names = [line.split("==")[0] for line in lines]
    return [
        line if names.count(name) > 1 else line.split(";")[0].strip() for name, line in zip(names, lines, strict=True)
    ]


def _block(kind: str, lines: list[str]) -> str:
    return f"{kind}-dependencies = [\n" + "".join(f'    "{line}",\n' for line in lines) + "]\n"


def _pinned() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]


def _run_alone(member: Path, place: Path, wheels: dict[str, str], python: str) -> tuple[str, bool, float, str]:
    """Test one distribution as a stranger would: its wheel, what it declares, a copy of its tests, no source tree."""
    began, folder = time.monotonic(), str(member.relative_to(ROOT))
    declared = tomllib.loads((member / "pyproject.toml").read_text())
    name = declared["project"]["name"]
    here = place / name
    here.mkdir()
    if not list(member.glob("tests/**/test_*.py")):
        return folder, False, 0.0, "no tests of its own"
    shutil.copytree(member / "tests", here / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    settings = (ROOT / "pyproject.toml").read_text().split("[tool.pytest]", 1)[1].split("\n[", 1)[0]
    (here / "pytest.toml").write_text(f"[pytest]{settings}")
    environment = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    environment["PATH"] = os.pathsep.join([str(here / "venv" / "bin"), environment["PATH"]])
    elsewhere = [f"--ignore={path.removeprefix(f'{folder}/')}" for path in SLOW if path.startswith(f"{folder}/")]
    output = ""
    for command in (
        ["uv", "venv", "--quiet", "--no-project", f"--python={python}", "venv"],
        [
            *("uv", "pip", "install", "--quiet", "--no-config", "--python=venv", "--constraint=../constraints.txt"),
            *(f"{name} @ {wheels[name]}", *declared["dependency-groups"]["tests"]),
        ],
        ["venv/bin/python", "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", *elsewhere, "tests"],
    ):
        ran = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
        output += ran.stdout + ran.stderr
        if ran.returncode:
            return folder, False, time.monotonic() - began, output or f"{command} says nothing"
    return folder, True, time.monotonic() - began, output
