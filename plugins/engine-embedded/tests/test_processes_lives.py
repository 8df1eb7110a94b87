"""Child processes: how many there are, who ends when, and what a program may run of itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from perdure.errors import (
    ProcessDied,
    UsageError,
)
from perdure_engine_embedded import processes
from perdure_engine_embedded.processes import run_in_process, tell

from . import process_bodies as bodies

PATIENCE = 60.0

posix = pytest.mark.skipif(sys.platform == "win32", reason="process groups and signals")


async def ran(fn: Any, *args: Any, returns: Any = Any, **kwargs: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await run_in_process(fn, args, kwargs, returns=returns)


@asynccontextmanager
async def house():
    """A port, and the connections that processes make to it: one that ends is a process that has ended."""
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    writers = []

    async def take_in(reader, writer):
        writers.append(writer)
        arrived.put_nowait((reader, writer))

    async with asyncio.timeout(PATIENCE):
        server = await asyncio.start_server(take_in, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1], arrived
        finally:
            server.close()
            for writer in writers:
                writer.close()


async def gone(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


# -- who ends when


async def test_what_a_function_prints_goes_to_stderr_and_it_has_no_input(capfd):
    assert await ran(bodies.mumble, "word") == ""
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.splitlines()) == ["word inherited", "word printed", "word written"]


async def test_a_child_is_kept_for_the_next_function():
    first = await ran(bodies.pid)
    assert first not in {os.getpid(), None}
    assert await ran(bodies.pid) == first


async def test_there_are_as_many_children_as_cpus(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    async with house() as (port, arrived), asyncio.TaskGroup() as group:
        tasks = [group.create_task(ran(bodies.meet, port)) for _ in range(6)]
        for _ in range(3):
            two = [await arrived.get(), await arrived.get()]  # at the same time
            assert arrived.empty()
            for _, writer in two:
                writer.write(b".")
    assert len({task.result() for task in tasks}) == 2


async def test_an_idle_child_is_ended(monkeypatch):
    monkeypatch.setattr(processes, "IDLE", 0.0)
    async with house() as (port, arrived):
        first = await ran(bodies.hold, port)
        reader, _ = await arrived.get()
        assert await gone(reader)
        assert await ran(bodies.pid) != first


async def test_an_idle_child_that_was_killed_is_replaced():
    async with house() as (port, arrived):
        first = await ran(bodies.hold, port)
        reader, _ = await arrived.get()
        os.kill(first, signal.SIGTERM)
        assert await gone(reader)
        try:
            second = await ran(bodies.pid)
        except ProcessDied:  # its end was not noticed yet
            second = await ran(bodies.pid)
        assert second != first


async def test_a_child_that_cannot_be_started_is_an_error_worth_another_attempt(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(ProcessDied, match=r"a child process could not be started: .*absent"):
        await ran(bodies.pid)


async def test_a_cancelled_caller_s_child_is_killed_and_waited_for():
    async with house() as (port, arrived):
        task = asyncio.ensure_future(ran(bodies.hold_and_spin, port))
        reader, _ = await arrived.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await gone(reader)
        assert await ran(bodies.add, 1) == 2.5


async def test_a_timeout_kills_the_child():
    async with house() as (port, arrived):
        scope = asyncio.timeout(None)

        async def limited() -> None:
            async with scope:
                await run_in_process(bodies.hold_and_spin, (port,), {})

        task = asyncio.ensure_future(limited())
        reader, _ = await arrived.get()
        scope.reschedule(asyncio.get_running_loop().time())
        with pytest.raises(TimeoutError):
            await task
        assert await gone(reader)


@posix
async def test_what_the_child_has_started_is_killed_with_it():
    async with house() as (port, arrived):
        task = asyncio.ensure_future(ran(bodies.have_another_spin, port))
        reader, _ = await arrived.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await gone(reader)


async def test_who_is_cancelled_while_a_child_starts_or_is_awaited_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    async with house() as (port, arrived):
        for turns in range(6):
            starting = asyncio.ensure_future(ran(bodies.hold, port))
            for _ in range(turns):
                await asyncio.wait([asyncio.ensure_future(ready())])
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        busy = asyncio.ensure_future(ran(bodies.meet, port))
        _, writer = await arrived.get()
        queued = asyncio.ensure_future(ran(bodies.pid))
        await ready()
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        writer.write(b".")
        assert await busy == await ran(bodies.pid)


async def ready() -> None:
    waiter = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(waiter.set_result, None)
    await waiter


def test_a_loop_that_is_closed_ends_its_children():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        port = server.getsockname()[1]
        for _ in range(2):  # a loop after the other, each with its own
            asyncio.run(ran(bodies.hold, port))
            connection, _ = server.accept()
            with connection:
                connection.settimeout(PATIENCE)
                assert connection.recv(1) == b""


def program(folder: Path, text: str) -> Path:
    path = folder / "the_program.py"
    path.write_text(dedent(text))
    return path


@posix
def test_a_child_dies_with_its_parent(tmp_path):
    script = program(
        tmp_path,
        """
        import asyncio, socket, sys
        from perdure_engine_embedded.processes import run_in_process

        def spin(port: int) -> None:
            connection = socket.create_connection(("127.0.0.1", port))
            while True:
                pass

        if __name__ == "__main__":
            asyncio.run(run_in_process(spin, (int(sys.argv[1]),), {}))
        """,
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        with subprocess.Popen([sys.executable, str(script), str(server.getsockname()[1])]) as parent:
            connection, _ = server.accept()
            parent.kill()
        with connection:
            connection.settimeout(PATIENCE)
            assert connection.recv(1) == b""


# -- functions of the program itself

GUARDED = """
    import asyncio, sys
    from perdure_engine_embedded.processes import run_in_process

    class Mine(Exception):
        pass

    def work(words: list[str]) -> int:
        if not words:
            raise Mine("no words")
        return len(words)

    async def main() -> None:
        print(await run_in_process(work, (sys.argv[1:],), {}))
        try:
            await run_in_process(work, ([],), {})
        except Mine as error:
            print(repr(error))

    if __name__ == "__main__":
        asyncio.run(main())
"""


def ran_as_program(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_a_program_s_own_functions_run_and_raise_its_own_errors(tmp_path):
    script = program(tmp_path, GUARDED)
    for way in ([str(script)], ["-m", "the_program"]):
        ran = ran_as_program(*way, "a", "b", folder=tmp_path)
        assert (ran.stdout.splitlines(), ran.stderr) == (["2", "Mine('no words')"], "")


def test_a_program_that_starts_when_it_is_imported_is_not_started_in_a_child(tmp_path):
    script = program(tmp_path, GUARDED.replace('if __name__ == "__main__":', "if True:"))
    ran = ran_as_program(str(script), "a", folder=tmp_path)
    assert ran.stdout == ""
    assert "UsageError: 'work' cannot run in a process: a child process cannot import its module" in ran.stderr
    assert "what starts a program belongs under 'if __name__ == \"__main__\"'" in ran.stderr


def test_a_program_without_a_file_is_told_so(tmp_path):
    ran = ran_as_program("-c", dedent(GUARDED), folder=tmp_path)
    assert "UsageError: 'work' cannot run in a process: it stands in no file to import it from" in ran.stderr


def test_outside_a_child_there_is_nobody_to_tell():
    with pytest.raises(UsageError, match=r"tell\(\) was called outside a child process"):
        tell(1)
