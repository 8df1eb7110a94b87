"""Tells members of a host how to reach each other directly. Sans I/O.

A member gets the address of another, and a secret; the other is told that somebody with that secret may come, and what
that one may do. It is told before it answers, so that it knows when the first one dials.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from perdure_hosting.wire_pb2 import Frame, Located

if TYPE_CHECKING:
    from perdure_hosting.router import Member


class Introductions:
    """Who was told of whom.

    Args:
        valid: Seconds after which a worker asks again where an agent lives: shorter than the host remembers it unused.
    """

    def __init__(self, valid: float) -> None:
        self._valid = valid
        self._tickets: dict[str, dict[str, str]] = {}  # of the one who comes: of whom it comes to: the secret

    def announce(self, origin: Member, there: Member) -> None:
        """Tell a worker that another may come; once."""
        told = self._tickets.setdefault(origin.name, {})
        if not there.address or there is origin or there.name in told:
            return
        told[there.name] = ticket = secrets.token_urlsafe(24)
        located = Located(
            worker=origin.name,
            ticket=ticket,
            may_send=origin.principal.may_send,
            may_host=origin.principal.may_host,
        )
        there.put(Frame(kind=Frame.EXPECT, located=located).SerializeToString())

    def of(self, origin: Member, there: Member) -> Located | None:
        """How one reaches the other, if the other was told."""
        ticket = self._tickets.get(origin.name, {}).get(there.name)
        if ticket is None or not there.address:
            return None
        return Located(worker=there.name, address=there.address, ticket=ticket, valid=self._valid)

    def lost(self, member: Member) -> None:
        """That one is gone."""
        self._tickets.pop(member.name, None)
        for told in self._tickets.values():
            told.pop(member.name, None)
