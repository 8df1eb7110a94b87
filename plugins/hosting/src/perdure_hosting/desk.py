"""What a router knows of its host's store: the port ``Desk``, and ``NoDesk`` for a host without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from perdure.errors import StoreUnusable
from perdure_hosting import wire
from perdure_hosting.wire_pb2 import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perdure.messages import AgentId, Presence
    from perdure_hosting.router import Acceptance, Member


class Desk(Protocol):
    """What a host does with its store, as the router sees it. Nothing here waits."""

    def begin(self, member: Member, frame: Frame, size: int) -> None:
        """Serve a request to the store, of so many bytes: its answer goes to the member."""
        ...

    def cancel(self, member: Member, call: int) -> None:
        """The member waits no longer for that call, if it is one to the store."""
        ...

    def keeps(self, type_: str) -> bool:
        """Whether events for agents of this type are accepted into the store."""
        ...

    def kept(self) -> Iterable[str]:
        """Those types."""
        ...

    def accept(self, frame: Frame, agents: Sequence[AgentId], acceptance: Acceptance) -> None:
        """Accept an event for these agents; the router is to ``settle`` it then."""
        ...

    def announced(self, member: Member, presence: Presence, call: int) -> None:
        """A member has said what lives there; it is told when that is in force."""
        ...

    def lost(self, member: Member) -> None:
        """A member is gone."""
        ...


class NoDesk:
    """Fills ``Desk`` where there is no store."""

    def begin(self, member: Member, frame: Frame, size: int) -> None:
        """Refuse."""
        msg = (
            "this host keeps no store: start it with one (perdure host --store PATH), or give the worker its own"
            ' (store = "sqlite")'
        )
        member.link.took(size)
        member.put(wire.failure(frame.call, StoreUnusable(msg)))

    def cancel(self, member: Member, call: int) -> None:
        """There is nothing to cancel."""

    def keeps(self, type_: str) -> bool:  # noqa: ARG002 - the port
        """Nothing is kept."""
        return False

    def kept(self) -> Iterable[str]:
        """Nothing is kept."""
        return ()

    def accept(self, frame: Frame, agents: Sequence[AgentId], acceptance: Acceptance) -> None:
        """Never called, for nothing is kept."""

    def announced(self, member: Member, presence: Presence, call: int) -> None:  # noqa: ARG002 - the port
        """It is in force."""
        member.put(wire.note(Frame.DONE, call))

    def lost(self, member: Member) -> None:
        """There is nothing to let go of."""
