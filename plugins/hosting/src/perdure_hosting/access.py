"""Who may join a host, and where it may listen without asking: the same for every carrier.

Tokens are compared in constant time, all of them each time, so that an answer's delay says nothing about them.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from perdure.errors import InvalidSetting, NotPermitted
from perdure_hosting.carrier import Principal

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORTEST: Final = 16
"""Characters that a token has at least: shorter ones can be guessed."""


class Grant(BaseModel):
    """A token and what it allows.

    Attributes:
        name: Whose it is; each has another one.
        token: The secret, at least 16 characters of ASCII without spaces.
        may_host: Patterns (``newsroom.*``) of the agent types that may live there, and in whose name it may send.
        may_send: Of the agent types that it may send to.
        may_publish: Of the topic types that it may publish on.
        may_store: Whether it may use the host's store, and so see and change all that is in it; not set: if it may
            host anything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    token: SecretStr
    may_host: tuple[str, ...] = ("*",)
    may_send: tuple[str, ...] = ("*",)
    may_publish: tuple[str, ...] = ("*",)
    may_store: bool | None = None


class Access:
    """Tells by their tokens who somebody is.

    Args:
        grants: All tokens; none: whoever reaches the host may do everything.

    Raises:
        InvalidSetting: A token is too short or no ASCII, or a name or token stands there twice.
    """

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._known: list[tuple[bytes, Principal]] = []
        for grant in grants:
            token = grant.token.get_secret_value()
            if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
                msg = (
                    f"the token of {grant.name!r} does not do: expected {_SHORTEST} or more characters of ASCII without"
                    ' spaces, as of python -c "import secrets; print(secrets.token_urlsafe())"'
                )
                raise InvalidSetting(msg)
            if any(token.encode() == known or grant.name == principal.name for known, principal in self._known):
                msg = f"the name or the token of {grant.name!r} stands there twice: give each one of its own"
                raise InvalidSetting(msg)
            self._known.append(
                (
                    token.encode(),
                    Principal(grant.name, grant.may_host, grant.may_send, grant.may_publish, grant.may_store),
                )
            )

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a token."""
        return not self._known

    def principal(self, token: str | None) -> Principal:
        """Who has that token. Raises ``NotPermitted``."""
        if self.open:
            return Principal()
        if not token:
            msg = "a token is required: ask whoever runs the host for one"
            raise NotPermitted(msg)
        given, found = token.encode(errors="replace"), None
        for known, principal in self._known:
            if hmac.compare_digest(known, given):
                found = principal
        if found is None:
            msg = "the token is not known here: it was mistyped, or taken back"
            raise NotPermitted(msg)
        return found


def is_loopback(host: str) -> bool:
    """Whether only programs on the same machine reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(bind: str, *, encrypted: bool, authenticated: bool, insecure: bool) -> None:
    """Refuse to listen where others get in. Raises ``InvalidSetting``.

    Args:
        bind: Host name or address to listen at.
        encrypted: There is TLS.
        authenticated: Tokens or client certificates are asked for.
        insecure: Somebody has said that it is all right.
    """
    if is_loopback(bind) or insecure or (encrypted and authenticated):
        return
    missing = " and ".join(
        word for word, there in (("TLS", encrypted), ("tokens or client certificates", authenticated)) if not there
    )
    msg = (
        f"{bind!r} can be reached from other machines, and there is no {missing}: set 'certificate' and 'key', and"
        " 'tokens' or 'authority'; or bind 127.0.0.1; or say insecure = true, if the network itself keeps others out"
    )
    raise InvalidSetting(msg)
