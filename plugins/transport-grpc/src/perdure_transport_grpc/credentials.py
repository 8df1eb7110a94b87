"""TLS of both sides, and who a worker is: by its token, or by its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc

from perdure.errors import InvalidSetting
from perdure_hosting import Principal
from perdure_hosting.access import Access

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from perdure_transport_grpc.settings import Files, ServerSettings

_BEARER: Final = "Bearer "


def server_credentials(files: Files) -> grpc.ServerCredentials | None:
    """For who listens; ``None`` without TLS. Raises ``InvalidSetting``."""
    if files.certificate is None or files.key is None:
        return None
    pair = _read(files.key, "key"), _read(files.certificate, "certificate")
    authority = None if files.authority is None else _read(files.authority, "authority")
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def channel_credentials(files: Files) -> grpc.ChannelCredentials:
    """For who dials. Raises ``InvalidSetting``."""
    return grpc.ssl_channel_credentials(
        None if files.authority is None else _read(files.authority, "authority"),
        None if files.key is None else _read(files.key, "key"),
        None if files.certificate is None else _read(files.certificate, "certificate"),
    )


class Doorman:
    """Knows who may come to a host.

    Args:
        settings: The host's.

    Raises:
        InvalidSetting: A token does not do.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._access = Access(settings.tokens)

    def admit(self, metadata: Iterable[tuple[str, str | bytes]], shown: Mapping[str, Iterable[bytes]]) -> Principal:
        """Who comes, by the call's metadata and what TLS has verified. Raises ``NotPermitted``."""
        if self._access.open:
            names = _names(shown)
            return Principal(names[0]) if names else Principal()
        given = next((str(value) for key, value in metadata if key == "authorization"), "")
        return self._access.principal(given.removeprefix(_BEARER) if given.startswith(_BEARER) else None)


def _names(shown: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The names in a verified certificate."""
    keys = "x509_common_name", "x509_subject_alternative_name"
    return [name.decode(errors="replace") for key in keys for name in shown.get(key, ()) if name]


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"setting {what!r}: {error}"
        raise InvalidSetting(msg) from error
