"""The newsroom: what it reads and writes, what it refuses, and that a crash repeats nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_briefing import app, briefing, editor, reader
from example_briefing.demo import DOCUMENTS
from example_briefing.desk import Desk, DeskSettings
from example_briefing.evidence import account, miscited, ran_again
from example_briefing.newsroom import list_documents, publish, read_document, verify
from example_briefing.report import Approval, Briefing, Draft, Statement
from example_briefing.witness import Line, witnessed
from perdure import Runtime, config
from perdure.direct import DirectContext
from perdure.errors import InvalidInput, InvalidSetting
from perdure.testing import ManualClock, MemoryStore, Script


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two documents, a hidden one, one that is none, and a link that leads out."""
    root = tmp_path / "root"
    (root / "notes").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "notes" / "harbour.md").write_text("# Harbour\n\nThe ferry leaves at nine.\nThe harbour closes at ten.\n")
    (root / "a tide.txt").write_text("The tide turns at noon.\n")
    (root / ".hidden" / "secret.md").write_text("Hidden.\n")
    (root / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "outside.md").write_text("Outside.\n")
    (root / "link.md").symlink_to(tmp_path / "outside.md")
    monkeypatch.chdir(root)
    return root


def statement(**changed: object) -> Statement:
    values = {"text": "It leaves.", "file": "notes/harbour.md", "line": 3, "quote": "The ferry leaves at nine."}
    return Statement.model_validate(values | changed)


def test_documents_are_listed_in_order_without_what_is_hidden(documents) -> None:
    assert list_documents(".") == ["a tide.txt", "notes/harbour.md"]
    assert list_documents("notes") == ["notes/harbour.md"]


def test_a_document_is_read_with_its_lines_numbered(documents) -> None:
    assert read_document("notes/harbour.md").splitlines()[1] == "notes/harbour.md:3: The ferry leaves at nine."


@pytest.mark.parametrize("path", ["../outside.md", "link.md", "/etc/hostname", "picture.png", "notes", "nowhere.md"])
def test_what_is_no_document_of_the_folder_is_not_read(path, documents) -> None:
    with pytest.raises(InvalidInput, match=r"outside|no document"):
        read_document(path)


@pytest.mark.parametrize(
    ("folder", "says"), [("..", "outside"), ("nowhere", "no such folder"), (".hidden/no", "no such")]
)
def test_a_folder_that_cannot_be_listed_is_explained(folder, says, documents) -> None:
    with pytest.raises(InvalidInput, match=says):
        list_documents(folder)


def test_bounds_are_named_or_kept(documents) -> None:
    with pytest.raises(InvalidInput, match="max_documents"):
        Desk(DeskSettings(max_documents=1)).documents(".")
    (documents / "long.txt").write_text("word\n" * 10_000)
    assert len(Desk(DeskSettings(max_bytes=1024)).lines("long.txt")) == 205


def test_a_citation_is_looked_up(documents) -> None:
    wrong_line = statement(line=4)
    nowhere = [statement(quote="The ferry sank."), statement(file="nowhere.md"), statement(quote=" ")]
    draft = verify(Briefing(title="Harbour", statements=[statement(), wrong_line, *nowhere]))
    assert draft.statements == [statement(), statement()]
    assert draft.dropped == nowhere
    assert "> The ferry leaves at nine. (notes/harbour.md:3)" in draft.markdown()


async def test_publishing_twice_is_one_file(documents) -> None:
    async def nothing(*_: object) -> bytes:
        return b""

    draft = Draft(title="Harbour", statements=[statement()])
    first, second = [await DirectContext(nothing, ManualClock(), run_id="same").step(publish, draft) for _ in range(2)]
    assert first == second
    assert list((documents / ".perdure" / "briefings").iterdir()) == [documents / (first.path or "")]


# -- the whole of it -----------------------------------------------------------------------------------------


def settings(place: Path, **section: object) -> config.Settings:
    sections = {"example-briefing": {"root": str(DOCUMENTS), **section}}
    blocked = config.PluginSettings(block=frozenset({"otel"}))
    return config.Settings(data=place, plugins=blocked, sections=sections)


async def test_a_briefing_is_written_by_the_offline_model(tmp_path) -> None:
    store, witness = MemoryStore(ManualClock()), tmp_path / "witness"
    async with Runtime.open(app, settings=settings(tmp_path, witness=str(witness)), store=store) as runtime:
        run = await runtime.start(briefing, ".")
        (request,) = (await run.wait(30, until_waiting=True)).requests
        assert request.prompt.startswith("Publish this briefing?")
        await runtime.answer(request.id, Approval(approved=True))
        publication = await run.result(30)
        told = await account(runtime.query, run.id)
    (file,) = (tmp_path / "briefings").iterdir()
    assert publication.path == str(file)
    assert file.read_text().startswith(f"# {publication.title}")
    assert not miscited(publication.model_dump(), Desk(DeskSettings(root=DOCUMENTS)))
    assert miscited({"statements": [statement(file="agents.md").model_dump()]}, Desk(DeskSettings(root=DOCUMENTS)))
    count = len(list(DOCUMENTS.iterdir()))
    assert told.turns == count + 1
    assert len(told.steps) == 1 + 3 * count + 3
    assert told.usage.input_tokens > 0
    lines = witnessed(witness)
    assert {line.step for line in lines if line.event == "end"} == set(told.steps)


async def test_a_briefing_that_is_not_approved_is_not_published(tmp_path) -> None:
    cited = statement(file="agents.md", line=1, quote="# Agents")
    written = Briefing(title="Agents", statements=[cited])
    model = Script(lambda request: written if request.output_schema else "agents.md:1: # Agents")
    async with Runtime.open(app, settings=settings(tmp_path), store=MemoryStore(ManualClock()), model=model) as runtime:
        run = await runtime.start(briefing, ".")
        (request,) = (await run.wait(30, until_waiting=True)).requests
        await runtime.answer(request.id, Approval(approved=False, comment="too short"))
        publication = await run.result(30)
    assert publication.path is None
    assert publication.comment == "too short"
    assert publication.statements == [cited]
    assert not (tmp_path / "briefings").exists()


async def test_a_setting_that_does_not_fit_is_named(tmp_path) -> None:
    with pytest.raises(InvalidSetting, match="max_documents"):
        async with Runtime.open(app, settings=settings(tmp_path, max_documents=0), store=MemoryStore(ManualClock())):
            pass


def test_a_body_that_begins_again_after_it_was_recorded_is_found() -> None:
    before = [Line("begin", 1, "r", "a"), Line("end", 1, "r", "a"), Line("begin", 1, "r", "b")]
    after = [*before, Line("process", 2), Line("begin", 2, "r", "b"), Line("begin", 2, "r", "a")]
    assert ran_again({("r", "a")}, before, after) == [after[-1]]
    assert not ran_again({("r", "a")}, before, after[:-1])


def test_a_last_line_that_is_cut_is_left_out(tmp_path) -> None:
    (tmp_path / "witness").write_text('{"event": "begin", "pid": 1}\n{"event": "e')
    assert witnessed(tmp_path / "witness") == [Line("begin", 1)]
    assert witnessed(tmp_path / "none") == []


def test_the_app_declares_what_it_is_made_of() -> None:
    assert app.agents == (reader, editor)
    assert editor.output is Briefing
