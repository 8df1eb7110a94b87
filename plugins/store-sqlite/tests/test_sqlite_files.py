"""Files that are none, that are damaged, that cannot be written; settings; what a file goes through."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from perdure.errors import DataCorrupted, InvalidSetting, NotEncodable, StoreUnavailable, StoreUnusable
from perdure.messages import Commit, Entry, Start
from perdure_store_sqlite import SqliteStore, perdure_store
from perdure_store_sqlite.schema import MIGRATIONS, migrate, open_writer

START = Start("r", "workflow", "app.flow", b"{}", 0.0)
LARGE = b"x" * 100_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some" / "folder" / "perdure.db"


@pytest.fixture
async def open_store(path):
    opened = []

    def open_store(place=None, **options):
        opened.append(SqliteStore(place or path, **options))
        return opened[-1]

    yield open_store
    for store in opened:
        await store.close()


async def filled(store, values=(b"1", LARGE, b"3")):
    """A store with one run and its journal, closed."""
    await store.claim("a", 0.0)
    _, claims = await store.accept([START], worker="a")
    entries = tuple(Entry("step", f"0/s#{n}", float(n), "s", value=value) for n, value in enumerate(values))
    await store.commit(Commit("r", claims[0].epoch, 0, 0.0, entries), worker="a")
    await store.leave("a")
    await store.close()


def change(path, sql):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


async def test_missing_folders_are_made(open_store, path):
    await open_store().accept([START])
    assert path.is_file()


async def test_nothing_is_made_before_the_first_call(open_store, path):
    open_store()
    assert not path.parent.exists()


async def test_a_file_that_is_no_database_is_named_and_left_as_it_was(open_store, path):
    path.parent.mkdir(parents=True)
    path.write_text("A diary. " * 1000)
    with pytest.raises(StoreUnusable, match=r"perdure\.db.*not a database"):
        await open_store().accept([START])
    assert path.read_text() == "A diary. " * 1000


async def test_another_applications_database_is_named_and_left_as_it_was(open_store, path):
    path.parent.mkdir(parents=True)
    change(path, "CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match="another application"):
        await open_store().runs()
    assert path.read_bytes() == before


async def test_a_newer_versions_file_is_refused_with_both_versions(open_store, path):
    await filled(open_store())
    change(path, "PRAGMA user_version = 99")
    with pytest.raises(StoreUnusable, match=f"version 99, this release knows up to {len(MIGRATIONS)}: upgrade"):
        await open_store().claim("a", 0.0)


async def test_a_folder_in_the_files_place_is_named(open_store, path):
    path.mkdir(parents=True)
    with pytest.raises(StoreUnusable, match=r"perdure\.db"):
        await open_store().accept([START])


async def test_a_file_in_the_folders_place_is_named(open_store, path):
    path.parent.parent.mkdir()
    path.parent.write_text("")
    with pytest.raises(StoreUnusable, match=r"perdure\.db"):
        await open_store().accept([START])


@pytest.fixture
def guarded():
    """A folder that an ordinary user may look into; the test runs as one."""
    place = Path(tempfile.mkdtemp(prefix="perdure-guarded-"))
    place.chmod(0o755)
    yield place
    if os.getuid() == 0:
        os.seteuid(0)
    place.chmod(0o755)
    shutil.rmtree(place)


def become_ordinary():
    if os.getuid() == 0:
        os.seteuid(65534)


async def test_a_file_that_may_only_be_read_is_refused(open_store, guarded):
    file = guarded / "perdure.db"
    await filled(open_store(file))
    for each in guarded.iterdir():
        each.chmod(0o444)
    guarded.chmod(0o555)
    become_ordinary()
    with pytest.raises(StoreUnusable, match=r"readonly|unable to open"):
        await open_store(file).claim("a", 0.0)


async def test_a_folder_that_may_only_be_read_is_refused(open_store, guarded):
    guarded.chmod(0o555)
    become_ordinary()
    with pytest.raises(StoreUnusable, match="unable to open"):
        await open_store(guarded / "perdure.db").claim("a", 0.0)
    with pytest.raises(StoreUnusable, match="may write"):
        await open_store(guarded / "deeper" / "perdure.db").claim("a", 0.0)


async def test_a_file_that_was_repaired_is_opened_by_the_next_call(open_store, path):
    path.mkdir(parents=True)
    store = open_store()
    with pytest.raises(StoreUnusable):
        await store.accept([START])
    path.rmdir()
    accepted, _ = await store.accept([START])
    assert accepted[0].new


async def test_a_file_locked_for_too_long_is_unavailable_and_then_works(open_store, path):
    store = open_store(busy_timeout=0.05)
    await store.runs()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.accept([START])
        other.execute("ROLLBACK")
    accepted, _ = await store.accept([START])
    assert accepted[0].new


async def test_an_entry_missing_from_a_journal_is_reported(open_store, path):
    await filled(open_store())
    change(path, "DELETE FROM journal WHERE seq = 1")
    store = open_store()
    with pytest.raises(DataCorrupted, match=r"run 'r'.*entry 1 of its journal is missing.*backup"):
        await store.load("r")
    accepted, _ = await store.accept([START._replace(run="s")])
    assert accepted[0].new


async def test_a_large_value_missing_is_reported(open_store, path):
    await filled(open_store())
    change(path, "DELETE FROM blobs")
    store = open_store()
    with pytest.raises(DataCorrupted, match="large value"):
        await store.load("r")
    assert [entry.value for entry in await store.journal("r")] == [b"1", None, b"3"]


async def test_of_a_run_that_is_damaged_is_shown_what_can_be_shown(open_store, path):
    await filled(open_store())
    change(path, "UPDATE runs SET headers = 'no json', progress = 'none', error = x'00'")
    view = await open_store().run("r")
    assert (view.id, view.headers, view.progress, view.seq) == ("r", {}, None, 3)
    assert "damaged" in str(view.error)


async def test_damaged_pages_are_reported(open_store, path):
    await filled(open_store(), values=[b"%d" % n * 500 for n in range(1000)])
    data = bytearray(path.read_bytes())
    data[8192:-4096] = b"\xa5" * (len(data) - 8192 - 4096)
    path.write_bytes(data)
    store = open_store()
    with pytest.raises((StoreUnusable, DataCorrupted), match="malformed"):
        await store.load("r")


async def test_the_same_large_value_is_stored_once(open_store, path):
    await filled(open_store(), values=(LARGE, LARGE, b"small"))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*), max(length(data)) FROM blobs").fetchone() == (1, len(LARGE))


async def test_an_older_schema_is_brought_up_to_date_with_its_data(open_store, path):
    await filled(open_store())
    newer = (*MIGRATIONS, "ALTER TABLE runs ADD COLUMN colour TEXT; UPDATE runs SET colour = 'blue'")
    with closing(open_writer(path, synchronous="full", patience=1.0)) as connection:
        migrate(connection, newer)
        assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
        assert connection.execute("SELECT run, colour FROM runs").fetchone() == ("r", "blue")


async def test_a_migration_that_fails_leaves_the_file_as_it_was(open_store, path):
    await filled(open_store())
    broken = (*MIGRATIONS, "ALTER TABLE runs ADD COLUMN colour TEXT; UPDATE nothing SET colour = 'blue'")
    with closing(open_writer(path, synchronous="full", patience=1.0)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="nothing"):
            migrate(connection, broken)
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert len((await open_store().load("r")).entries) == 3


async def test_many_may_open_a_new_file_at_once(open_store):
    stores = [open_store() for _ in range(6)]
    accepted = await asyncio.gather(*(s.accept([START._replace(run=f"r{n}")]) for n, s in enumerate(stores)))
    assert all(items[0].new for items, _ in accepted)
    assert len(await stores[0].runs()) == 6


async def test_a_call_that_sqlite_refuses_harms_no_other(open_store):
    store = open_store()
    await store.claim("a", 0.0)
    starts = [START._replace(run=f"r{n}", headers={}) for n in range(10)]
    starts[4] = starts[4]._replace(run="lone \ud800 surrogate")
    outcomes = await asyncio.gather(*(store.accept([start]) for start in starts), return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, NotEncodable)] == [4]
    assert len(await store.runs()) == 9


async def test_a_step_that_sqlite_refuses_harms_no_other_and_the_journals_go_on(open_store):
    store = open_store()
    await store.claim("a", 0.0)
    _, claims = await store.accept([START._replace(run=f"r{n}") for n in range(10)], worker="a")
    entries = [Entry("step", "lone \ud800" if n == 4 else "0/s#0", 0.0, "s", value=b"1") for n in range(10)]
    commits = [Commit(c.start.run, c.epoch, 0, 0.0, (e,)) for c, e in zip(claims, entries, strict=True)]
    outcomes = await asyncio.gather(*(store.commit(c, worker="a") for c in commits), return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, NotEncodable)] == [4]
    more = [c._replace(seq=int(n != 4), entries=(entries[0],)) for n, c in enumerate(commits)]
    await asyncio.gather(*(store.commit(c, worker="a") for c in more))
    assert [(await store.run(f"r{n}")).seq for n in range(10)] == [2, 2, 2, 2, 1, 2, 2, 2, 2, 2]


async def test_claims_whose_caller_is_gone_are_told_again(open_store):
    store = open_store()
    await store.claim("a", 0.0)
    task = asyncio.create_task(store.accept([START], worker="a"))
    await asyncio.wait([task], timeout=0)
    task.cancel()
    await asyncio.wait([task])
    await store.runs()
    seen, claims = 0, []
    while not claims:
        claims, _ = await store.claim("a", 0.0)
        seen = seen if claims else await asyncio.wait_for(store.changed(seen), 30)
    assert [claim.start for claim in claims] == [START]


async def test_a_closed_store_says_so(open_store):
    store = open_store()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.accept([START])
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.runs()


async def test_one_that_waits_for_a_change_hears_of_the_close(open_store):
    store = open_store()
    watch = asyncio.create_task(store.changed(0))
    await store.runs()
    await store.close()
    await asyncio.wait_for(asyncio.wait([watch]), 30)


def test_the_entry_point_makes_the_store_in_the_data_folder(tmp_path):
    (point,) = entry_points(group="perdure.stores", name="sqlite")
    store = point.load().perdure_store({}, str(tmp_path))
    assert isinstance(store, SqliteStore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("section", "named"),
    [({"paht": "x"}, "paht"), ({"synchronous": "off"}, "synchronous"), ({"lease": 0}, "lease")],
)
def test_a_setting_that_does_not_fit_is_named(section, named, tmp_path):
    with pytest.raises(InvalidSetting, match=f"store-sqlite.*{named}"):
        perdure_store(section, str(tmp_path))


async def test_the_settings_are_used(tmp_path):
    section = {"path": str(tmp_path / "elsewhere.db"), "synchronous": "normal", "lease": 3, "busy_timeout": 0.5}
    store = perdure_store(section, str(tmp_path / "data"))
    await store.accept([START])
    await store.close()
    assert (tmp_path / "elsewhere.db").is_file()
    assert not (tmp_path / "data").exists()
