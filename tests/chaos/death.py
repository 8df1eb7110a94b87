"""Ends or stops its own process at the moment that it is told: exactly there, where no clock could strike."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Death:
    """Counts what happens, and strikes when it is time.

    Args:
        aim: ``moment:count:milliseconds``, as ``end:12:3``: so long after the twelfth time that this moment is
            reached. Empty: never.
        blow: The signal.
        last_words: Called with the moment, just before.
    """

    def __init__(
        self, aim: str = "", *, blow: signal.Signals = signal.SIGKILL, last_words: Callable[[str], None] | None = None
    ) -> None:
        self._blow, self._last_words = blow, last_words
        self._counting = threading.Lock()  # bodies run in threads; `aim` does without, for it is a signal handler's
        self.aim(aim)

    def aim(self, aim: str) -> None:
        """Aim anew; what was counted so far counts no more."""
        self._moment, _, rest = aim.partition(":")
        count, _, delay = rest.partition(":")
        self._count = int(count or 0)
        self._delay = float(delay or 0) / 1000
        self._seen = Counter[str]()

    def reach(self, moment: str) -> None:
        """This has happened once more."""
        with self._counting:
            self._seen[moment] += 1
            due = moment == self._moment and self._seen[moment] == self._count
        if not due:
            return
        if self._delay:
            threading.Timer(self._delay, self._strike, [moment]).start()
        else:
            self._strike(moment)

    def _strike(self, moment: str) -> None:
        if self._last_words is not None:
            self._last_words(moment)
        # To this very thread: to the process as a whole, the main thread may take the signal while this one runs on.
        signal.pthread_kill(threading.get_ident(), self._blow)
