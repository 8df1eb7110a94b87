"""A plugin with a hook that there is not."""

from perdure import hookimpl


@hookimpl
def perdure_agnets() -> list[object]:
    return []
