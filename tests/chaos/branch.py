"""The bank as the worker of a host has it: ``perdure worker tests.chaos.branch:app --host …``.

Each has a teller of its own besides, who lives in memory and only there: what it answers came over that worker's link.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from perdure import AgentId, Context
from perdure_messaging import MessageAgent, actor, handles, message_type

from .bank import Bank, listen

NAME = "CHAOS_BRANCH"
"""Environment: the worker's name."""

AUDIT = "CHAOS_AUDIT"
"""Environment: the file that the auditor writes to."""


@message_type("bank.ping")
@dataclass(frozen=True)
class Ping:
    """Is anybody there?"""


class Teller(MessageAgent):
    """Answers."""

    @handles
    async def ping(self, message: Ping, ctx: Context) -> str:
        return ctx.session.id.key


def teller(name: str) -> AgentId:
    """That of the worker of this name."""
    return AgentId(f"bank.teller_{name}", "desk")


def _app() -> Bank:
    listen(Path(os.environ[AUDIT]))
    return Bank(further=[actor(teller(os.environ[NAME]).type.partition(".")[2], Teller)])


app = _app() if NAME in os.environ else Bank()
