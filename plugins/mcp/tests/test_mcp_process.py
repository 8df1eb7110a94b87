"""The process: its options, its end, its names for tools."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from perdure.config import PluginSettings
from perdure.plugins import Plugins
from perdure_mcp.settings import Settings
from perdure_mcp.tools import tool_names

HERE = Path(__file__).parent
PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\n"


COMMAND = (sys.executable, "-m", "perdure_mcp", "--data", "data")
PATIENCE = 60


def environment_of(**environment: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE), **environment}


async def start(folder: Path, *options: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND,
        *options,
        cwd=folder,
        env=environment_of(**environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def test_the_command_is_found_by_its_name():
    command = Plugins(PluginSettings(), entry_points(group="perdure.commands")).named("command", "mcp")()
    assert command.name == "mcp"
    assert {parameter.name for parameter in command.params} == {"apps", "data", "model", "wait_budget"}


async def test_perdure_mcp_is_the_same_server(serve, call):
    async with serve(command=("perdure_cli", "mcp")) as client:
        assert (await call(client, "nothing"))["status"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server_in_order_while_its_client_still_listens(tmp_path, number):
    server = await start(tmp_path, "--app", "mcp_shop:app")
    server.stdin.write(PING)
    assert json.loads(await server.stdout.readline())["id"] == 1
    server.send_signal(number)
    assert await server.wait() == 0
    assert await server.stdout.read() == b""
    assert b"Traceback" not in await server.stderr.read()
    server.stdin.close()


async def test_the_end_of_input_ends_the_server_in_order(tmp_path):
    server = await start(tmp_path, "--app", "mcp_shop:app")
    server.stdin.write(PING)
    assert json.loads(await server.stdout.readline())["id"] == 1
    server.stdin.close()
    assert await server.wait() == 0
    assert await server.stdout.read() == b""
    assert b"Traceback" not in await server.stderr.read()


def test_a_client_that_hears_nothing_any_more_has_left(tmp_path):
    # Not with asyncio: on Python 3.11 its wait() for a process whose pipe was closed by hand may never return.
    server = subprocess.Popen(
        [*COMMAND, "--app", "mcp_shop:app"],
        cwd=tmp_path,
        env=environment_of(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with server:
        server.stdin.write(PING)
        server.stdout.readline()
        server.stdout.close()
        server.stdin.write(PING)
        assert server.wait(PATIENCE) == 0
        assert b"Traceback" not in server.stderr.read()


@pytest.mark.parametrize(
    ("options", "environment", "says"),
    [
        (["--app", "harbour", "--app", "mcp_shop:app"], {}, "unknown app 'harbour'; known: "),
        (["--app", "mcp_shop:nix"], {}, "expected an App, 'nix' is NoneType"),
        (["--app", "mcp_shop:"], {}, "expected 'module:attribute'"),
        (["--app", "nowhere:app"], {}, "fails to import: ModuleNotFoundError"),
        ([], {"PERDURE_PLUGINS__ALLOW": "store-sqlite,engine-embedded"}, "nothing to serve"),
        (["--app", "mcp_shop:app"], {"PERDURE_MCP__WAIT_BUDGET": "soon"}, "[mcp] of the configuration"),
        (["--app", "mcp_shop:app"], {"PERDURE_PLUGINS__BLOCK": "agent-llm"}, "pip install perdure-agent-llm"),
        (["--wait-budget", "-1"], {}, "--wait-budget"),
    ],
)
async def test_what_cannot_be_served_is_said_in_one_line(tmp_path, options, environment, says):
    server = await start(tmp_path, *options, **environment)
    stdout, stderr = await server.communicate()
    assert server.returncode == 2
    assert stdout == b""
    assert says in stderr.decode()
    assert b"Traceback" not in stderr


def test_a_call_waits_for_less_than_the_minute_that_clients_wait():
    assert Settings().wait_budget == 50


def test_tool_names_are_short_where_they_can_be():
    assert tool_names(["a.read", "a.write", "b.write", "b.get_run"]) == {
        "a.read": "read",
        "a.write": "a__write",
        "b.write": "b__write",
        "b.get_run": "b__get_run",
    }


def test_tool_names_are_what_every_client_accepts():
    targets = [f"app.{'x' * 80}1", f"app.{'x' * 80}2", "app.naïve", "other.na_ve", "é.na_ve", "app.other__na_ve"]
    names = tool_names(targets)
    assert len(set(names.values())) == len(targets)
    assert all(name.isascii() and len(name) <= 64 and "." not in name for name in names.values())
    assert tool_names(reversed(targets)) == names
