"""``python -m perdure_mcp`` is ``perdure mcp``, also where the ``perdure`` command is not installed."""

from __future__ import annotations

import sys

import click

from perdure.errors import PerdureError, PluginError, UsageError
from perdure_mcp.command import mcp

if __name__ == "__main__":
    try:
        mcp()
    except PerdureError as error:
        click.echo(f"perdure: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError | PluginError) else 1)
