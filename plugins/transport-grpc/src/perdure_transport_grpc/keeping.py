"""Where ``perdure host`` keeps what is durable: the store of the configuration, or a SQLite file, or nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.config import Settings as Configuration
from perdure.errors import InvalidSetting
from perdure.plugins import Plugins

if TYPE_CHECKING:
    from perdure import config
    from perdure.ports import DurableStore

OFF: Final = "off"
_USUAL: Final[str] = Configuration.model_fields["store"].default
_OF_HOSTS: Final = frozenset({"grpc", "http"})
"""Stores that are a host's. Where workers read the same configuration as their host, it is this host's own."""

_LEASE: Final = 10.0
"""Seconds, where a store's section does not say."""


class Keeping(NamedTuple):
    """A store that was made, not opened yet.

    Attributes:
        store: What keeps; ``None``: nothing is kept.
        name: What people call it.
        lease: Seconds after which it takes a worker that shows no life for dead.
    """

    store: DurableStore | None
    name: str
    lease: float = _LEASE


def kept(settings: config.Settings, option: str | None) -> Keeping:
    """Make the store that the command line or the configuration names.

    Without either of them, a store that is not installed is none.

    Raises:
        InvalidSetting: A section does not fit.
        PluginMissing, PluginBroken: The store cannot be had.
    """
    plugins = Plugins(settings.plugins)
    chosen = option is not None or "store" in settings.model_fields_set
    name = _USUAL if option is not None or settings.store in _OF_HOSTS else settings.store
    if option == OFF or not (chosen or name in plugins.names("store")):
        return Keeping(None, OFF)
    section = dict(settings.section(f"store-{name}"))
    if option is not None:
        section["path"] = str(Path(option).absolute())
    store: DurableStore = plugins.named("store", name)(settings=section, data=str(settings.data))
    path = section.get("path") or (settings.data / "perdure.db" if name == _USUAL else "")
    try:
        lease = float(section.get("lease", _LEASE))
    except (TypeError, ValueError):
        msg = f"'lease' of section [store-{name}] is no number of seconds"
        raise InvalidSetting(msg) from None
    return Keeping(store, f"{name} {path}".strip(), lease)
