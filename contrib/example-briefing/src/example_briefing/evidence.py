"""What a run's journals say, and whether the witness bears them out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.messages import ModelResponse, Usage
from perdure_cli.family import called_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from example_briefing.desk import Desk
    from example_briefing.witness import Line
    from perdure.messages import Entry
    from perdure.ports import Query


class Account(NamedTuple):
    """What the journals of a run and of all that it called hold.

    Attributes:
        steps: The recorded steps, by run and path.
        turns: How many turns of agents there are.
        usage: Tokens of all recorded model calls.
    """

    steps: dict[tuple[str, str], Entry]
    turns: int
    usage: Usage


async def account(query: Query, run: str) -> Account:
    """Read the journals of a run, if it is there, and of all that it called."""
    steps: dict[tuple[str, str], Entry] = {}
    turns, usage, left = 0, Usage(), [run]
    while left:
        view = await query.run(left.pop())
        if view is None:
            continue
        entries = await _journal(query, view.id)
        turns += view.kind == "turn"
        for entry in entries:
            if entry.kind == "step":
                steps[view.id, entry.path] = entry
                usage += _usage(entry)
        left += [child.id for child in await called_runs(query, view)]
    return Account(steps, turns, usage)


def ran_again(recorded: Iterable[tuple[str, str]], before: Sequence[Line], after: Sequence[Line]) -> list[Line]:
    """The bodies that began although their step was recorded by then: there must be none.

    Args:
        recorded: The steps that were recorded when the process was dead.
        before: The witness's lines until then.
        after: All of its lines, later.
    """
    known = set(recorded)
    return [line for line in after[len(before) :] if line.event == "begin" and line.step in known]


def miscited(publication: dict[str, Any], desk: Desk) -> list[dict[str, Any]]:
    """The statements whose cited line does not contain their quote: there must be none."""
    return [
        statement
        for statement in publication["statements"]
        if statement["quote"] not in desk.lines(statement["file"])[statement["line"] - 1]
    ]


async def _journal(query: Query, run: str) -> list[Entry]:
    entries: list[Entry] = []
    while page := await query.journal(run, after=len(entries)):
        entries += page
    return entries


def _usage(entry: Entry) -> Usage:
    if entry.role != "model" or entry.value is None:
        return Usage()
    return ModelResponse.model_validate(json.loads(entry.value)).usage
