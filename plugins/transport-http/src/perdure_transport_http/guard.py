"""Who is let in: by the name that they call the host, the page that they come from, and their token.

The names keep out pages whose name was made to point here (DNS rebinding), the origins all other pages: a browser sends
both, and on the loopback, too, it runs code of strangers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from perdure.errors import InvalidSetting, NotPermitted
from perdure_hosting.access import Access, check_exposure, is_loopback
from perdure_hosting.carrier import Principal
from perdure_transport_http import problems
from perdure_transport_http.settings import address_of

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from perdure_transport_http.settings import ServerSettings

HEALTH: Final = "/healthz"
"""Answers whoever asks, under whichever name: it tells nothing but that the host is there."""

PRINCIPAL: Final[web.RequestKey[Principal]] = web.RequestKey("principal", Principal)
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="perdure"'}


class Guard:
    """Looks at each request before anything else does.

    Args:
        settings: Of the server.

    Raises:
        InvalidSetting: The host would listen to strangers, or nobody could say its name.
    """

    def __init__(self, settings: ServerSettings) -> None:
        bind, _ = address_of(settings.bind)
        self._access = Access(settings.tokens)
        self._open = self._access.open
        check_exposure(
            bind,
            encrypted=settings.certificate is not None,
            authenticated=bool(settings.tokens or settings.authority),
            insecure=settings.insecure,
        )
        everywhere = bind in {"0.0.0.0", "::"}  # noqa: S104 - it is only looked for
        if everywhere and not settings.hosts:
            msg = (
                f"the host listens at {bind!r}, which nobody calls it: set 'hosts' to the names and addresses under"
                ' which clients reach it; hosts = ["*"] takes any'
            )
            raise InvalidSetting(msg)
        own = {"localhost", "127.0.0.1", "::1"} if is_loopback(bind) else set[str]()
        names = {*own, *settings.hosts, *(() if everywhere else (bind,))}
        self._names = frozenset(name.lower() for name in names)
        self._origins = frozenset(origin.lower() for origin in settings.origins)

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let it in, with its principal; or say why not."""
        if request.path == HEALTH:
            return await handler(request)
        if "*" not in self._names and _host_of(request) not in self._names:
            msg = f"this host does not go by the name {request.host!r}: add it to its setting 'hosts'"
            return problems.response(NotPermitted(msg), status=421)
        origin = request.headers.get("Origin")
        if origin is not None and not self._origins & {"*", origin.lower()}:
            msg = f"pages of {origin!r} may not call this host: add that to its setting 'origins' if they should"
            return problems.response(NotPermitted(msg))
        try:
            principal = self._access.principal(_token_of(request))
        except NotPermitted as error:
            return problems.response(error, status=401, headers=_CHALLENGE)
        request[PRINCIPAL] = principal._replace(name=_certified(request) or principal.name) if self._open else principal
        return await handler(request)


def _host_of(request: web.Request) -> str:
    """The name, without the port, that the request is for."""
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


def _token_of(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _certified(request: web.Request) -> str:
    """The name in the certificate that TLS has verified; empty: none was asked for."""
    shown: Any = request.get_extra_info("peercert") or {}
    names = [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
    names += [value for _, value in shown.get("subjectAltName", ())]
    return str(names[0]) if names else ""
