"""The store over one SQLite file: one writer thread, group commit, WAL, ``synchronous=FULL``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure import hookimpl
from perdure.config import section
from perdure_store_sqlite.settings import Settings
from perdure_store_sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Settings", "SqliteStore", "perdure_store"]


@hookimpl
def perdure_store(settings: Mapping[str, Any], data: str) -> SqliteStore:
    """Make the store; the file is opened, and made if it is missing, by the first call.

    Args:
        settings: The section ``store-sqlite``; see ``Settings``.
        data: The folder for ``perdure.db`` where ``path`` is not set.

    Raises:
        InvalidSetting: A setting that is unknown or does not fit.
    """
    chosen = section(settings, Settings, "store-sqlite")
    return SqliteStore(
        chosen.path or Path(data) / "perdure.db",
        synchronous=chosen.synchronous,
        lease=chosen.lease,
        busy_timeout=chosen.busy_timeout,
    )
