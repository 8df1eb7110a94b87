"""The ``perdure`` command. Its subcommands are plugins (group ``perdure.commands``), imported when they are called."""

from perdure_cli.program import main

__all__ = ["main"]
