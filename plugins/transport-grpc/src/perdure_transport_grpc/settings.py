"""The plugin's section of the configuration: a worker's settings, and under ``server`` a host's."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from perdure.errors import InvalidSetting
from perdure_hosting.access import Grant, check_exposure, is_loopback
from perdure_hosting.settings import HostSettings, WorkerSettings
from perdure_transport_grpc.autogen.settings import AutogenSettings

SECTION: Final = "transport-grpc"
ADDRESS: Final = "127.0.0.1:50051"


class Files(BaseModel):
    """Where the parts of TLS lie, as PEM files.

    Attributes:
        certificate: What this side shows, with what it was signed by.
        key: Its private key.
        authority: The certificates that the other side's must be signed by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            msg = "'certificate' and 'key' belong together: give both, or neither"
            raise ValueError(msg)
        return self


class ServerSettings(Files, HostSettings):
    """How a host listens.

    Attributes:
        bind: Host and port; port 0 is a free one.
        insecure: Whether others than this machine may come although there is no TLS, or nothing shows who they are.
        tokens: Who may come, and what they may do. Empty: everybody, or with ``authority`` those with a certificate.
        autogen: Whether AutoGen's workers may come.
        autogen_workers: How they are dealt with.
    """

    bind: str = ADDRESS
    insecure: bool = False
    tokens: tuple[Grant, ...] = ()
    autogen: bool = False
    autogen_workers: AutogenSettings = AutogenSettings()

    @model_validator(mode="after")
    def _checkable(self) -> Self:
        if self.authority is not None and self.certificate is None:
            msg = "'authority' asks workers for certificates, which needs TLS: give 'certificate' and 'key', too"
            raise ValueError(msg)
        return self

    def check_exposure(self) -> None:
        """Raise ``InvalidSetting`` if strangers could come in."""
        if self.bind.startswith("unix:"):
            return
        known = bool(self.tokens) or self.authority is not None
        check_exposure(
            host_of(self.bind), encrypted=self.certificate is not None, authenticated=known, insecure=self.insecure
        )


class Settings(Files, WorkerSettings):
    """How a worker reaches its host.

    Attributes:
        host: Host and port.
        tls: Whether the host is reached by TLS; so it is where ``authority`` or ``certificate`` is set. Without
            ``authority``, the host's certificate is checked as those of public servers are.
        server_name: The name in the host's certificate, where it is another one than in ``host``.
        token: What this worker shows.
        listen: Where other workers may reach this one without the host: host and port, 0 a free one; empty: nowhere.
        insecure: Whether a token or a direct stream may go beyond this machine without TLS.
        server: How a host listens that is started with this configuration.
    """

    host: str = ADDRESS
    tls: bool = False
    server_name: str = ""
    token: SecretStr | None = None
    listen: str = ""
    insecure: bool = False
    server: ServerSettings = Field(default_factory=ServerSettings)

    @property
    def secure(self) -> bool:
        """Whether it is TLS."""
        return self.tls or self.authority is not None or self.certificate is not None

    def check_exposure(self) -> None:
        """Raise ``InvalidSetting`` if secrets could be read by others."""
        if self.insecure:
            return
        if self.token is not None and not self.secure and not is_near(self.host):
            msg = f"the token would go to {self.host!r} for all to read: set 'tls' or 'authority', or 'insecure = true'"
            raise InvalidSetting(msg)
        if self.listen and self.certificate is None and (self.secure or not is_near(self.listen)):
            msg = (
                f"other workers would come to {self.listen!r} without TLS: set 'certificate' and 'key', leave 'listen'"
                " out, or say 'insecure = true'"
            )
            raise InvalidSetting(msg)


def host_of(address: str) -> str:
    """The host of ``host:port``, without the brackets of ``[::1]:port``."""
    return address.rpartition(":")[0].strip("[]")


def is_near(address: str) -> bool:
    """Whether what listens or is reached at this address is on this machine."""
    return address.startswith("unix:") or is_loopback(host_of(address))
