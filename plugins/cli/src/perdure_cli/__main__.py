"""``python -m perdure_cli`` is ``perdure``."""

from perdure_cli import main

main()
