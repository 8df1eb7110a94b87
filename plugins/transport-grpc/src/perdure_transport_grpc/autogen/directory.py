"""Which agents AutoGen's workers mean, and which of them live with such a worker."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.errors import AmbiguousName, InvalidInput
from perdure.messages import AgentId

if TYPE_CHECKING:
    from perdure_hosting.host import Host
    from perdure_transport_grpc.autogen.member import Member


class Directory:
    """Knows agent types by their qualified names, and by the short ones where these are unambiguous.

    Args:
        host: Where all agents are known.

    Attributes:
        holders: The AutoGen worker of each type that lives with one. It has one worker only: which agents get an event
            is decided anew in the worker, which knows nothing of others.
    """

    def __init__(self, host: Host) -> None:
        self.holders: dict[str, Member] = {}
        self._host = host

    def is_autogen(self, type: str) -> bool:
        """Whether agents of that type live with an AutoGen worker."""
        return type in self.holders

    def taken(self, type: str) -> bool:
        """Whether somebody hosts that type."""
        return self._host.router.registry.host(type) is not None

    def resolve(self, type: str, key: str) -> AgentId:
        """The agent that is meant.

        Raises:
            AmbiguousName: Several agents share the short name.
            InvalidInput: There is no key.
        """
        if not key:
            msg = f"agent type {type!r} without a key: say which agent"
            raise InvalidInput(msg)
        if not self.taken(type) and "." not in type:
            matches = [each for each in self._host.router.registry.types() if each.rpartition(".")[2] == type]
            if len(matches) > 1:
                raise AmbiguousName("agent", type, matches)
            if matches:
                return AgentId(matches[0], key)
        return AgentId(type, key)


def check_type(type: str) -> None:
    """Raise ``InvalidInput`` for what is no agent's type."""
    with suppress(ValueError):
        if AgentId.parse(f"{type}/-").type == type:
            return
    msg = f"{type!r} is no agent type: expected letters, digits, '_', '-' and '.'"
    raise InvalidInput(msg)
