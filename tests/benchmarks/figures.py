"""A figure, its bound, and the table that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable


class Figure(NamedTuple):
    """One measurement.

    Attributes:
        what: What was measured.
        value: As shown.
        bound: What was to be reached, as shown; empty for what others are compared with.
        met: Whether it was; ``None`` without a bound.
    """

    what: str
    value: str
    bound: str = ""
    met: bool | None = None


def show(figures: Iterable[Figure]) -> None:
    """Print the table."""
    table = Table(title="Perdure, measured", title_justify="left")
    for column in ("what", "figure", "bound", "met"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for figure in figures:
        table.add_row(figure.what, figure.value, figure.bound, {None: "", True: "yes", False: "NO"}[figure.met])
    Console(width=120).print(table)
