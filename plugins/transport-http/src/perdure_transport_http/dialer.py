"""The worker's side: makes carriers to its host, and lets go of them when the transport stops."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientError, ClientSession, ClientWSTimeout, WSServerHandshakeError

from perdure.errors import InvalidSetting, NotPermitted
from perdure_hosting.carrier import Principal
from perdure_hosting.client import LinkTransport
from perdure_transport_http.carrier import GOODBYE, WebSocketCarrier
from perdure_transport_http.settings import LINK, SECTION, SUBPROTOCOL

if TYPE_CHECKING:
    from perdure.ports import Clock
    from perdure_transport_http.settings import Settings

_timeout: Any = ClientWSTimeout  # it has no types that a checker sees

_REFUSALS: Final = {
    401: "it wants a token that it knows: set 'token'",
    403: "it lets no page of a browser in, and takes this for one: nothing may add an 'Origin' on the way",
    421: "it does not go by that name: connect to the one that it is bound to, or add this one to its setting 'hosts'",
}
"""What a host's refusals mean. Other statuses may come from something that stands before it, and pass."""


class Dialer:
    """Fills ``perdure_hosting.Dial``.

    Args:
        settings: Of the worker.

    Raises:
        InvalidSetting: A certificate cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tls = _context(settings) if settings.url.startswith("https:") else None
        self._session: ClientSession | None = None
        self._carriers: set[WebSocketCarrier] = set()

    async def __call__(self, address: str = "", /) -> WebSocketCarrier:
        """Connect to the host.

        Raises:
            OSError: There was no connection within the setting ``handshake``, or nothing there that takes workers.
            NotPermitted: The host refuses this one.
        """
        if address:
            msg = f"{address!r} cannot be dialled: over HTTP, workers reach each other through their host only"
            raise ConnectionRefusedError(msg)
        carrier = await self._connected(self._settings.url)
        self._carriers = {each for each in self._carriers if not each.gone} | {carrier}
        return carrier

    async def _connected(self, url: str) -> WebSocketCarrier:
        if self._session is None:
            self._session = ClientSession()
        token = self._settings.token
        try:
            async with asyncio.timeout(self._settings.handshake):
                websocket = await self._session.ws_connect(
                    f"{url}{LINK}",
                    headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
                    protocols=(SUBPROTOCOL,),
                    max_msg_size=self._settings.max_packet,
                    timeout=_timeout(ws_close=GOODBYE),
                    ssl=self._tls or True,
                )
        except WSServerHandshakeError as error:
            raise _refusal(url, error.status) from error
        except TimeoutError as error:
            msg = f"{url!r} did not answer within {self._settings.handshake} s"
            raise TimeoutError(msg) from error
        except ClientError as error:
            msg = f"there is no connection to {url!r}: {error}"
            raise ConnectionError(msg) from error
        carrier = WebSocketCarrier(websocket, Principal(url))
        if websocket.protocol != SUBPROTOCOL:
            await carrier.ended()
            msg = f"{url!r} takes WebSockets, and does not speak {SUBPROTOCOL!r}: is it a Perdure host?"
            raise ConnectionError(msg)
        return carrier

    async def close(self) -> None:
        """Let go of all connections. Idempotent."""
        carriers, self._carriers = self._carriers, set()
        for carrier in carriers:
            await carrier.ended()
        if self._session is not None:
            await self._session.close()
            self._session = None


class HttpTransport(LinkTransport):
    """Fills ``perdure.ports.Transport`` over one WebSocket to a host.

    Args:
        settings: Of the worker.
        clock: The time that deadlines are given in.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._dialer = Dialer(settings)
        super().__init__(self._dialer, clock, settings)

    async def stop(self) -> None:
        """As the port says."""
        try:
            await super().stop()
        finally:
            await self._dialer.close()


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.authority)
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:  # an SSLError is one
        msg = f"the files of 'authority', 'certificate' and 'key' in [{SECTION}] cannot be used: {error}"
        raise InvalidSetting(msg) from error
    return context


def _refusal(url: str, status: int) -> Exception:
    if status in _REFUSALS:
        return NotPermitted(f"the host at {url!r} refuses this worker ({status}): {_REFUSALS[status]}")
    return ConnectionError(f"{url!r} answered {status} where a host takes workers: is it a Perdure host?")
