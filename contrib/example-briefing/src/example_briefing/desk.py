"""Where the newsroom reads and writes: the documents' folder, the folder of its briefings, and the bounds on both."""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field

from perdure.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES: Final = frozenset({".md", ".markdown", ".txt", ".rst"})


class DeskSettings(BaseModel):
    """The section ``[example-briefing]`` of the configuration.

    Attributes:
        root: The folder that documents are read from; nothing outside it is. Relative to the working directory.
        output: Where briefings are written; by default ``briefings`` in the data folder.
        witness: A file that every step body's begin and end is appended to; none by default.
        max_documents: How many documents one briefing may have.
        max_bytes: How much of one document is read, in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path = Path()
    output: Path | None = None
    witness: Path | None = None
    max_documents: int = Field(default=50, ge=1)
    max_bytes: int = Field(default=256 * 1024, ge=1024)


class Desk:
    """Files, by paths that are relative to the documents' folder and never leave it.

    Args:
        settings: Where, and how much.
        data: The data folder.
    """

    def __init__(self, settings: DeskSettings | None = None, data: Path = Path(".perdure")) -> None:
        self.settings = settings or DeskSettings()
        self.root = self.settings.root.resolve()
        self.output = self.settings.output or data / "briefings"

    @staticmethod
    def current() -> Desk:
        """The desk of the runtime that this step runs in; outside of one, that of the working directory."""
        return _current.get(None) or Desk()

    def sit(self) -> None:
        """Make this the current desk of the calling task."""
        _current.set(self)

    def documents(self, folder: str) -> list[str]:
        """The texts under a folder, sorted, without those in hidden folders.

        Raises:
            InvalidInput: No such folder under the root, no document in it, or more than the limit.
        """
        place = self._inside(folder)
        if not place.is_dir():
            msg = f"folder {folder!r}: there is no such folder under {str(self.root)!r}"
            raise InvalidInput(msg)
        found = sorted(path.relative_to(self.root).as_posix() for path in _texts(place))
        limit = self.settings.max_documents
        if not found:
            msg = f"folder {folder!r} has no documents: expected files with {', '.join(sorted(SUFFIXES))}"
            raise InvalidInput(msg)
        if len(found) > limit:
            msg = (
                f"folder {folder!r} has {len(found)} documents, the limit is {limit}: choose a smaller folder, or raise"
                " max_documents under [example-briefing]"
            )
            raise InvalidInput(msg)
        return found

    def lines(self, path: str) -> list[str]:
        """A document's lines, up to the bound on its size. Raises ``InvalidInput``."""
        place = self._inside(path)
        if not place.is_file() or place.suffix.lower() not in SUFFIXES:
            known = ", ".join(sorted(SUFFIXES))
            msg = f"{path!r} is no document under {str(self.root)!r}: expected an existing file with {known}"
            raise InvalidInput(msg)
        with place.open("rb") as file:
            data = file.read(self.settings.max_bytes)
        return data.decode("utf-8-sig", "replace").splitlines()

    def write(self, name: str, text: str) -> Path:
        """Write a briefing: whole or not at all, and the same again if it is written again."""
        self.output.mkdir(parents=True, exist_ok=True)
        place = self.output / name
        beside = place.with_name(f".{name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
        return place

    def _inside(self, path: str) -> Path:
        place = (self.root / path).resolve()  # links are followed before the check, so they cannot lead out
        if not place.is_relative_to(self.root):
            msg = f"{path!r} lies outside the documents' folder {str(self.root)!r} (setting root of [example-briefing])"
            raise InvalidInput(msg)
        return place


def _texts(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
            yield path


_current: ContextVar[Desk] = ContextVar("example_briefing_desk")
