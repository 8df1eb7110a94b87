"""What a long run of kills, stops or cuts ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN: Final = 100


def show_problems(problems: Sequence[str]) -> None:
    """Print how many promises were broken, and the first hundred."""
    click.echo(f"violations: {len(problems)}")
    for problem in problems[:_SHOWN]:
        click.echo(f"PROBLEM {problem}")
