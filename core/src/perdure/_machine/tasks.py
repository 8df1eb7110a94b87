"""Tasks and futures with an identity that is the same on every replay.

A *branch* is a place in the tree of tasks: the third task that the main code makes is ``2``, the first task
made in there ``2.0``. What code does in a branch is named by branch, name and ordinal (``2.0/read#1``), so
that a name does not depend on which branch happens to move first.

A contextvar would have been the obvious carrier; it collides when tasks share one (``create_task(context=)``).
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context


class Branch:
    """One place in the tree of tasks, and the counters of what is done there."""

    __slots__ = ("children", "counts", "scope")

    def __init__(self, scope: str = "") -> None:
        self.scope: str = scope
        self.children: int = 0
        self.counts: dict[str, int] = {}

    def child(self) -> Branch:
        """The next branch below this one."""
        scope = f"{self.scope}.{self.children}" if self.scope else str(self.children)
        self.children += 1
        return Branch(scope)

    def identity(self, name: str) -> str:
        """The next identity for ``name`` here: ``scope/name#ordinal``.

        In the root branch just ``name#ordinal``, unless a slash in the name would make that another branch's.
        """
        count = self.counts[name] = self.counts.get(name, 0) + 1
        return f"{self.scope}/{name}#{count}" if self.scope or "/" in name else f"{name}#{count}"


class MachineFuture(asyncio.Future[Any]):
    """A future that hashes by order of creation, which its loop sets.

    By address, the order of a set of them (``asyncio.wait``) would change from process to process.
    """

    __slots__ = ("ordinal",)

    ordinal: int

    def __hash__(self) -> int:
        return self.ordinal


class MachineTask(asyncio.Task[Any]):
    """A task that knows its branch and its context, and hashes by order of creation."""

    __slots__ = ("branch", "context", "ordinal")

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        name: str | None,
        context: Context | None,
        place: tuple[Branch, int],
    ) -> None:
        self.branch: Branch = place[0]
        # asyncio notes each task of the process in one set. There the ordinals of thousands of machines, which all
        # begin at one, would make a chain that each further task is compared with: there it hashes by its address.
        self.ordinal: int = object.__hash__(self)
        self.context: Context = context if context is not None else copy_context()
        super().__init__(coro, loop=loop, name=name or f"task-{self.branch.scope}", context=self.context)
        self.ordinal = place[1]

    def __hash__(self) -> int:
        return self.ordinal
