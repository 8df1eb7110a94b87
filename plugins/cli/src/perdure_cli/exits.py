"""The exit codes of ``perdure``, besides 0 for done and 1 for work that failed."""

from __future__ import annotations

from typing import Final

EXIT_USAGE: Final = 2
"""The call, the configuration or the installation is wrong, or the store cannot be written: nothing was begun."""

EXIT_UNFINISHED: Final = 3
"""The run has not finished: it waits for an answer, is suspended, or the time to wait was up."""

EXIT_INTERRUPTED: Final = 130
"""Somebody pressed Ctrl-C; runs are safe."""
