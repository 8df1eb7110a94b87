"""The host's side: one port for workers' WebSockets, for events of any program, and for whoever asks how it is."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final

from aiohttp import web

from perdure.errors import InvalidSetting, Overloaded
from perdure_hosting.link import BATCH_BYTES, OVERHEAD
from perdure_transport_http import problems
from perdure_transport_http.carrier import GOODBYE, WebSocketCarrier
from perdure_transport_http.endpoints import Endpoints
from perdure_transport_http.gateway import AGENTS, TOPICS, Gateway
from perdure_transport_http.guard import HEALTH, PRINCIPAL, Guard
from perdure_transport_http.settings import LINK, SUBPROTOCOL, ServerSettings, address_of

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from perdure.ports import Clock
    from perdure_hosting.host import Host

_SLACK: Final = 1024 * 1024
"""Bytes by which a packet may exceed what the link takes, and still be refused in its own words."""


class HttpServer:
    """Lets workers and other programs reach a host over HTTP.

    Stop it after the host, which says goodbye to its workers; ``close_doors`` before.

    Args:
        host: Whom it serves; other servers may serve it, too.
        clock: The host's.
        settings: How.

    Raises:
        InvalidSetting: A certificate cannot be read; or the host would listen to strangers.
    """

    def __init__(self, host: Host, clock: Clock, settings: ServerSettings | None = None) -> None:
        self._settings = settings = settings or ServerSettings()
        self._host = host
        self._max_packet = host.settings.max_frame + BATCH_BYTES + OVERHEAD + _SLACK
        self._tls = _context(settings)
        self._gateway = Gateway(host, clock, settings)
        self._open = False
        self._busy = 0
        application = web.Application(
            middlewares=[_explained, Guard(settings).admit], client_max_size=settings.max_body
        )
        endpoints = Endpoints(self._gateway, settings)
        application.add_routes(
            [
                web.get(HEALTH, self._health),
                web.get(LINK, self._link),
                web.get(AGENTS, self._limited(endpoints.agents)),
                web.post(f"{AGENTS}/{{type}}/{{key:.+}}", self._limited(endpoints.send)),
                web.post(f"{TOPICS}/{{type}}", self._limited(endpoints.publish)),
                web.post(f"{TOPICS}/{{type}}/{{source:.*}}", self._limited(endpoints.publish)),
            ]
        )
        # Cancelling what nobody waits for any more is what a client's disconnect means; bodies are taken as they are.
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            auto_decompress=False,
            shutdown_timeout=GOODBYE,
            lingering_time=GOODBYE,  # seconds that the rest of a refused body is read
        )

    async def start(self) -> None:
        """Listen. Raises ``OSError``: the port is taken."""
        bind, port = address_of(self._settings.bind)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, bind, port, ssl_context=self._tls).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._open = True

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._runner.addresses[0][1]

    @property
    def url(self) -> str:
        """What workers of this machine set as ``url``."""
        host, _ = address_of(self._settings.bind)
        name = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{name}:{self.port}"

    async def close_doors(self) -> None:
        """Refuse events and new workers from here on; let finish what is under way."""
        self._open = False

    async def stop(self) -> None:
        """Let finish what is under way, then close all connections. Idempotent."""
        await self.close_doors()
        await self._gateway.stop()
        await self._runner.cleanup()

    # -- what it answers

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "serving" if self._open else "stopping"}, status=200 if self._open else 503)

    async def _link(self, request: web.Request) -> web.StreamResponse:
        """Take a worker."""
        if not self._open:
            return problems.response(Overloaded("the host stops"))
        websocket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), max_msg_size=self._max_packet, timeout=GOODBYE, compress=False
        )
        await websocket.prepare(request)
        carrier = WebSocketCarrier(websocket, request[PRINCIPAL])
        try:
            await self._host.serve(carrier)
        finally:
            await asyncio.shield(carrier.ended())
        return websocket

    def _limited(self, handler: Handler) -> Handler:
        """No more than so many at once."""

        async def limited(request: web.Request) -> web.StreamResponse:
            if not self._open:
                return problems.response(Overloaded("the host stops: send it again, to another one"))
            if self._busy >= self._settings.requests:
                msg = f"{self._busy} requests are under way: try again, or raise the setting 'requests'"
                return problems.response(Overloaded(msg))
            self._busy += 1
            try:
                return await handler(request)
            finally:
                self._busy -= 1

        return limited


@web.middleware
async def _explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what is raised into problem documents."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        return problems.plain(refusal)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets to hear of it
        return problems.response(error)


def _context(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        if settings.authority is not None:
            context.load_verify_locations(settings.authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # an SSLError is one
        msg = f"the files of 'certificate', 'key' and 'authority' cannot be used: {error}"
        raise InvalidSetting(msg) from error
    return context
