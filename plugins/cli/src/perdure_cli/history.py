"""A run with its whole journal and what it called, and how people are shown it: as a tree by branch of its code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.text import Text
from rich.tree import Tree

from perdure_cli.display import MARKS, STYLES, duration, entry_document, gist, seconds_of
from perdure_cli.family import called_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perdure.messages import Entry, RequestView, RunView
    from perdure.ports import Query

MANY: Final = 100
"""So many of the runs that a run called are shown with it; ``perdure runs --parent`` lists all."""

_PAGE: Final = 1000
_IN_BRANCH: Final = frozenset({"step", "call", "answer", "timer", "send", "attempt", "heartbeat"})
"""Kinds of entries whose path begins with the branch that did it."""

_TRIED: Final = frozenset({"attempt", "heartbeat"})


class Record(NamedTuple):
    """A run with its journal, oldest first, and what it called.

    Attributes:
        run: The run.
        entries: Its journal.
        called: What it called and waits or waited for by the call's path; what else stems from it by its own id.
        more: Whether it called more than are here.
    """

    run: RunView
    entries: list[Entry]
    called: dict[str, Record]
    more: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "run": self.run,
            "journal": [entry_document(number, entry) for number, entry in enumerate(self.entries, 1)],
            "called": {path: child.document() for path, child in self.called.items()},
            "more_called": self.more,
        }

    def requests(self) -> Iterator[RequestView]:
        """The open requests of the run and of all that it called, each once."""
        seen: set[str] = set()
        for request in (*self.run.requests, *(one for child in self.called.values() for one in child.requests())):
            if request.id not in seen:
                seen.add(request.id)
                yield request


async def record(query: Query, view: RunView, depth: int) -> Record:
    """Collect a run's history, and that of what it called ``depth`` levels deep."""
    entries: list[Entry] = []
    while page := await query.journal(view.id, after=len(entries), limit=_PAGE):
        entries += page
    if not depth:
        return Record(view, entries, {})
    children = await called_runs(query, view, limit=MANY + 1)
    called: dict[str, Record] = {}
    for child in reversed(children[-MANY:]):  # newest first: they have the paths of the journal that is there now
        key = child.path if child.path is not None and child.path not in called else child.id
        called[key] = await record(query, await query.run(child.id) or child, depth - 1)
    return Record(view, entries, dict(reversed(called.items())), more=len(children) > MANY)


# -- as a tree ----------------------------------------------------------------------------------------


class History:
    """Grows a tree from a record. Lines are cut at the terminal's edge; ``--json`` has all of each."""

    def __init__(self, of: Record) -> None:
        self._record = of
        self._updates = {entry.path: entry.name for entry in of.entries if entry.kind == "update"}
        self._branches: dict[str, Tree] = {}
        self._digits = len(str(len(of.entries)))

    def grow(self, tree: Tree) -> None:
        """Add the run's lines below a node: each branch of its code is a node of its own."""
        of = self._record
        self._branches[""] = tree
        for number, entry in enumerate(of.entries, 1):
            scope = entry.path.rpartition("/")[0] if entry.kind in _IN_BRANCH else ""
            child = of.called.get(entry.path) if entry.kind == "call" else None
            node = self._branch(scope).add(self._line(number, entry, child))
            if child is not None:
                History(child).grow(node)
        returned = {entry.path for entry in of.entries if entry.kind == "call"}
        for path, child in of.called.items():
            if path not in returned:
                scope = path.rpartition("/")[0] if child.run.path is not None else ""
                History(child).grow(self._branch(scope).add(self._under_way(child)))
        if of.more:
            tree.add(Text(f"… and more: perdure runs --parent {of.run.id}", style="dim"))

    def _branch(self, scope: str) -> Tree:
        """The node of a branch (``0.2`` is below ``0``), made when it is first met."""
        if scope not in self._branches:
            is_update = scope in self._updates
            above = self._branch("" if is_update else scope.rpartition(".")[0])
            label = f"update {self._updates[scope]}" if is_update else f"branch {scope}"
            self._branches[scope] = above.add(_one_line(Text(label, style="dim")))
        return self._branches[scope]

    def _line(self, number: int, entry: Entry, called: Record | None) -> Text:
        text = Text(f"{number:>{self._digits}} ", style="dim")
        text.append(f"{MARKS[entry.kind]} ", style="red" if entry.error is not None else "green")
        name, outcome = _name_of(entry), gist(entry, 300)
        kind = entry.role if entry.kind == "step" else entry.kind
        parts = [
            name,
            kind if kind not in {name, "attempt"} else "",
            called.run.id if called is not None else "",
            _tries(entry),
            duration(seconds_of(entry)),
            entry.source,
        ]
        text.append("  ".join(part for part in parts if part))
        text.stylize("not dim bold", start := self._digits + 3, start + len(name))
        if called is None and outcome not in {"null", ""}:
            text.append(f"  {outcome}", style="red" if entry.error is not None else "not dim")
        return _one_line(text)

    def _under_way(self, child: Record) -> Text:
        """A run that has not returned, or was sent and is not waited for."""
        view, indent = child.run, " " * (self._digits + 1)
        mark = MARKS["call" if view.path is not None else "send"]
        text = Text.assemble((f"{indent}{mark} ", "dim"), (view.target.rpartition(".")[2], "bold"))
        text.append(f"  {view.status}", style=STYLES[view.status])
        text.append(f"  {view.id}", style="dim")
        return _one_line(text)


def _name_of(entry: Entry) -> str:
    """What a line is about: the step with its ordinal in its branch, or the name of what arrived."""
    if entry.kind not in _IN_BRANCH or entry.role == "model":
        return entry.name or entry.kind
    return entry.path.rpartition("/")[2]


def _tries(entry: Entry) -> str:
    if entry.kind in _TRIED:
        return f"attempt {entry.attempt}"
    return f"{entry.attempt} attempts" if entry.attempt > 1 else ""


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
