"""TLS of both sides, and who a worker is: by its token, or by its certificate."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

import grpc

from perdure.errors import InvalidSetting, NotPermitted
from perdure_hosting import Principal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from perdure_transport_grpc.settings import Files, Member, ServerSettings

_BEARER = "Bearer "


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
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._members = settings.workers
        self._digests = [
            (hashlib.sha256(member.token.get_secret_value().encode()).digest(), name)
            for name, member in settings.workers.items()
            if member.token is not None
        ]
        self._certificates = settings.authority is not None

    def admit(self, metadata: Iterable[tuple[str, str | bytes]], shown: Mapping[str, Sequence[bytes]]) -> Principal:
        """Who comes, by the call's metadata and what TLS has verified. Raises ``NotPermitted``."""
        given = [str(value) for key, value in metadata if key == "authorization"]
        names = _names(shown) if self._certificates else []
        if not self._members:
            return Principal(names[0]) if names else Principal()
        if given:
            return self._by_token(given[0])
        for name in names:
            member = self._members.get(name)
            if member is not None and member.token is None:
                return _principal(name, member)
        who = f"the certificate of {names[0]!r} is" if names else "there is no token, and that is"
        msg = f"{who} not enough here: set the worker's 'token' to one that this host knows"
        raise NotPermitted(msg)

    def _by_token(self, given: str) -> Principal:
        """All known tokens are compared, and each as long as the others: time tells nothing."""
        digest = hashlib.sha256(given.removeprefix(_BEARER).encode()).digest()
        found = [name for known, name in self._digests if hmac.compare_digest(known, digest)]
        if not found or not given.startswith(_BEARER):
            msg = "this host does not know the worker's token"
            raise NotPermitted(msg)
        return _principal(found[0], self._members[found[0]])


def _principal(name: str, member: Member) -> Principal:
    return Principal(name, member.may_host, member.may_send, member.may_publish)


def _names(shown: Mapping[str, Sequence[bytes]]) -> list[str]:
    """The names in a verified certificate."""
    keys = "x509_common_name", "x509_subject_alternative_name"
    return [name.decode(errors="replace") for key in keys for name in shown.get(key, ()) if name]


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"setting {what!r}: {error}"
        raise InvalidSetting(msg) from error
