"""The settings of both sides: how a worker reaches a host over HTTP, and how a host listens there."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from perdure_hosting.access import Grant, is_loopback
from perdure_hosting.settings import WorkerSettings

SECTION: Final = "transport-http"

LINK: Final = "/perdure/v1/link"
"""Where a host takes workers' WebSockets."""

SUBPROTOCOL: Final = "perdure.v1"
"""What such a WebSocket speaks: packets of ``perdure_hosting``, one in each binary message."""

_MIB: Final = 1024 * 1024


class ServerSettings(BaseModel):
    """How a host listens for HTTP.

    Attributes:
        bind: Host and port to listen at; port 0: any free one.
        certificate: File of the server's certificate (PEM): with it, the host speaks HTTPS only.
        key: File of its private key (PEM); empty: it stands in ``certificate``, too.
        authority: File of certificates (PEM): whoever connects must have one that these vouch for.
        tokens: Who may come, and do what; none: whoever reaches the port may do everything.
        insecure: Listen at other addresses than the loopback without TLS or tokens.
        hosts: Names under which clients may address this host, besides the one it is bound to; ``*``: any.
        origins: Origins whose pages may call from a browser (``https://shop.example``); ``*``: any. Others, and
            programs that say one, are refused.
        deadline: Seconds after which a request that names no deadline ends.
        max_body: Bytes of the largest request, other than a worker's.
        max_batch: Events in one batch.
        requests: How many may be under way at once; more are told to come back.
        patience: Seconds in which a request's body must have arrived.
        remembered: So many answers are given again to who asks again with the same id.
        remember: For so many seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bind: str = "127.0.0.1:7380"
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    tokens: tuple[Grant, ...] = ()
    insecure: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    deadline: float = Field(default=60.0, gt=0)
    max_body: int = Field(default=4 * _MIB, ge=1024)
    max_batch: int = Field(default=1000, ge=1)
    requests: int = Field(default=1000, ge=1)
    patience: float = Field(default=30.0, gt=0)
    remembered: int = Field(default=1000, ge=0)
    remember: float = Field(default=600.0, ge=0)

    @field_validator("bind")
    @classmethod
    def _is_an_address(cls, bind: str) -> str:
        address_of(bind)
        return bind

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.authority or self.key) and not self.certificate:
            msg = "'key' and 'authority' need a 'certificate': the server has none to show"
            raise ValueError(msg)
        return self


class Settings(WorkerSettings):
    """How a worker reaches its host. Those that stand in ``perdure_hosting.settings.WorkerSettings`` count, too.

    Attributes:
        url: The host: ``http://`` or ``https://``, its name and port; a path, where a proxy puts the host under one.
        token: What the host knows this worker by.
        authority: File of the certificates (PEM) that vouch for the host, instead of the system's.
        certificate: File of this worker's own certificate (PEM), where the host asks for one.
        key: File of its private key (PEM); empty: it stands in ``certificate``, too.
        max_packet: Bytes of the largest packet that is taken from the host: the host's ``max_frame`` and one MiB.
        handshake: Seconds that connecting may take.
        insecure: Whether the token may go beyond this machine without TLS.
        server: How a host listens that is started with this configuration.
        direct: Workers do not reach each other directly over HTTP: must stay off.
    """

    url: str = "http://127.0.0.1:7380"
    token: SecretStr | None = None
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    max_packet: int = Field(default=65 * _MIB, ge=_MIB)
    handshake: float = Field(default=10.0, gt=0)
    insecure: bool = False
    server: ServerSettings = Field(default_factory=ServerSettings)
    direct: bool = False

    @field_validator("url")
    @classmethod
    def _is_of_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            msg = f"{url!r} is no URL of a host: expected http://HOST:PORT or https://HOST:PORT"
            raise ValueError(msg)
        if parts.username or parts.password:
            msg = "a URL with a password in it ends up in logs: set 'token' instead"
            raise ValueError(msg)
        return url.rstrip("/")

    @model_validator(mode="after")
    def _goes_through_the_host(self) -> Self:
        if self.direct or self.address:
            msg = "workers do not reach each other directly over HTTP: leave 'direct' and 'address' out, or use gRPC"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _keeps_its_token(self) -> Self:
        parts = urlsplit(self.url)
        if self.token and parts.scheme == "http" and not is_loopback(parts.hostname or "") and not self.insecure:
            msg = f"the token would go to {self.url!r} for all to read: use https://, or say insecure = true"
            raise ValueError(msg)
        return self


def address_of(bind: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[HOST]:PORT``. Raises ``ValueError``."""
    host, colon, port = bind.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (host and colon and port.isdecimal() and int(port) <= 65535):  # noqa: PLR2004 - the last port
        msg = f"{bind!r} is no address to listen at: expected HOST:PORT, as in 127.0.0.1:7380 or [::1]:7380"
        raise ValueError(msg)
    return host, int(port)
