"""A sample of ``syscalls`` and ``syscalls_power``; and what they must find is found."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from . import syscalls as chaos, syscalls_power as power, syscalls_work as script
from .syscalls import Place
from .syscalls_work import Line

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not chaos.STRACE and not os.environ.get("CI"), reason=chaos.MISSING),
]


@pytest.fixture
def folder():
    found = chaos.a_folder()
    yield found
    shutil.rmtree(found)


@pytest.mark.parametrize("fault", chaos.FAULTS, ids=[fault.name for fault in chaos.FAULTS])
async def test_whichever_system_call_is_answered_by_a_kill_or_an_error_nothing_acknowledged_is_lost(
    folder, fault
) -> None:
    tally = await chaos.disturb_all([fault], 2 if fault.name in {"kill", "EIO"} else 1, folder)
    assert tally.violations == []
    assert tally.tried > tally.missed
    assert {"fdatasync", "mmap", "openat", "pread64", "pwrite64", "unlink"} <= {name for name, _ in tally.rows}
    assert (tally.refused > 0) == (fault.name != "kill")
    assert any(row.survived for row in tally.rows.values()) == (fault.name != "kill")


async def test_wherever_the_power_is_cut_and_whichever_fsync_failed_nothing_acknowledged_is_lost(folder) -> None:
    cuts = await power.cut_all(folder, 3, failing=(1, 2, 1000))
    assert cuts.violations == []
    assert cuts.failed > 20
    assert cuts.tried > cuts.failed


async def test_a_store_that_does_not_wait_for_the_disk_is_caught(folder) -> None:
    cuts = power.Cuts()
    (folder / "start").mkdir()
    async with chaos.Tracer() as tracer:
        drawing = power.Drawing(tracer, Place(folder / "start"), Place(folder / "lazy"), 20, cuts)
        assert await drawing.live(0, synchronous="normal")
    assert any("what is safe left: lost: 'accept a'" in violation for violation in cuts.violations)


# -- the judge ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def finished(folder):
    """A file in which all is done, without a trace."""
    place = Place(folder / "finished")
    worker = script.Worker(place.file)
    await script.finish(worker)
    await worker.close()
    return place


def all_done() -> list[Line]:
    return [Line(word, call) for call in script.CALLS for word in ("begin", "done")]


def change(place: Place, sql: str) -> None:
    with closing(sqlite3.connect(place.file)) as connection, connection:
        connection.execute(sql)


async def test_a_file_in_which_all_is_done_is_in_order(finished) -> None:
    assert await chaos.verdict(finished, all_done()) == []


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("DELETE FROM runs WHERE run = 'e'", "lost: 'accept e' was acknowledged"),
        ("DELETE FROM runs WHERE run = 'd'", "torn: 'accept c d' is there in part"),
        ("DELETE FROM log", "torn: 'commit t1 0' is there in part"),
    ],
    ids=["lost", "torn run", "torn turn"],
)
async def test_what_is_lost_or_torn_is_found(finished, sql, found) -> None:
    change(finished, sql)
    assert any(found in violation for violation in await chaos.verdict(finished, all_done()))


@pytest.mark.parametrize(
    ("lines", "violations"),
    [
        ([], 1),
        ([Line("begin", "accept e")], 0),
        ([Line("begin", "accept e"), *[Line("refused", "accept e", "no room")] * script.TRIES], 1),
        ([Line("begin", "accept e"), *[Line("refused", "accept e", f"it is {chaos.MAYBE}")] * script.TRIES], 0),
        ([Line("begin", "accept e"), Line("refused", "accept e", "no room")], 0),
    ],
    ids=["not asked for", "in flight", "refused to the end", "refused and not known", "refused and tried again"],
)
async def test_what_is_there_though_it_was_refused_is_found(finished, lines, violations) -> None:
    witness = [line for line in all_done() if line.call != "accept e"] + lines
    found = await chaos.verdict(finished, witness)
    assert len(found) == violations, found


def test_a_sample_has_the_first_and_the_last() -> None:
    assert list(chaos.sample(3, None)) == [1, 2, 3]
    assert list(chaos.sample(3, 5)) == [1, 2, 3]
    assert list(chaos.sample(101, 3)) == [1, 51, 101]
    assert list(chaos.sample(100, 1)) == [50]
    assert list(chaos.sample(0, 3)) == []


# -- the disk ----------------------------------------------------------------------------------------------------


def test_a_file_keeps_what_was_synced_and_never_what_a_failed_sync_covered() -> None:
    file, dice = power.File(), power.random.Random(1)
    file.change(0, b"safe")
    file.sync(succeeded=True)
    file.change(4, b"lost")
    file.sync(succeeded=False)
    file.change(8, b"late")
    assert file.left("what is safe", dice) == b"safe"
    assert file.left("all", dice) == b"safelostlate"
    file.sync(succeeded=True)
    assert file.left("what is safe", dice) == b"safe\0\0\0\0late"
    file.change(4, b"LOST")
    file.sync(succeeded=True)
    assert file.left("what is safe", dice) == b"safeLOSTlate"


def test_what_is_left_of_a_long_write_is_torn_at_sectors() -> None:
    file, dice = power.File(), power.random.Random(1)
    file.change(0, b"x" * 64 * power.SECTOR)
    left = file.left("some", dice)
    sectors = {left[n : n + power.SECTOR].count(b"x") for n in range(0, len(left), power.SECTOR)}
    assert sectors == {0, power.SECTOR}


TRACE = r"""
7 pwrite64(3<\x2f\x61>, "\x68\x69", 2, 40) = 2
7 fdatasync(3<\x2f\x61> <unfinished ...>
8 openat(AT_FDCWD<\x2f>, "\x2f\x62", O_RDWR|O_CREAT, 0644) = 4<\x2f\x62>
7 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
8 unlink("\x2f\x62") = 0
8 +++ exited with 0 +++
"""


def test_calls_are_read_from_a_trace_in_the_order_in_which_they_returned() -> None:
    calls = [(call.name, str(call.path), call.data, call.succeeded) for call in power.done(TRACE)]
    assert calls == [
        ("pwrite64", "/a", b"hi", True),
        ("openat", "/b", b"/b", True),
        ("fdatasync", "/a", b"", False),
        ("unlink", "/b", b"/b", True),
    ]
    assert next(power.done(TRACE)).numbers[-1] == 40
