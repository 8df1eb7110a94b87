"""What listens: the service ``perdure.v1.Link``, for a host or a worker, beside gRPC's health and reflection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import StatusCode, aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from perdure.errors import NotPermitted, UsageError
from perdure_hosting.link import BATCH_BYTES, OVERHEAD
from perdure_transport_grpc.carrier import AcceptedCarrier
from perdure_transport_grpc.credentials import server_credentials
from perdure_transport_grpc.dialling import KEEPALIVE
from perdure_transport_grpc.link_pb2 import DESCRIPTOR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from perdure_hosting import Carrier, Principal
    from perdure_transport_grpc.settings import Files

    Admit = Callable[[Iterable[tuple[str, str | bytes]], Mapping[str, Iterable[bytes]]], Principal]

SERVICE: Final = "perdure.v1.Link"
_FAREWELL: Final = 1.0
"""Seconds that calls get to end when it stops."""

_health: Any = health  # these two have no types
_registering: Any = health_pb2_grpc
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING


class Server:
    """Accepts streams.

    Args:
        accept: Takes over each carrier.
        admit: Says who comes, by the call's metadata and what TLS has verified; raises ``NotPermitted``.
        files: For TLS.
        max_frame: Bytes of the largest message.

    Attributes:
        address: Where it listens, once it does.
        further: What else it serves, by the services' names: functions that add them.
    """

    def __init__(self, accept: Callable[[Carrier], None], admit: Admit, files: Files, *, max_frame: int) -> None:
        self.address: str = ""
        self.further: dict[str, Callable[[aio.Server], None]] = {}
        self._accept = accept
        self._admit = admit
        self._credentials = server_credentials(files)
        self._max_frame = max_frame
        self._carriers: set[AcceptedCarrier] = set()
        self._health: Any = _health.aio.HealthServicer()
        self._server: aio.Server | None = None

    async def start(self, bind: str) -> None:
        """Listen. Raises ``UsageError`` if that is not possible there."""
        self._server = server = self._made()  # not before: one that is never stopped complains in its destructor
        try:
            if self._credentials is None:
                port = server.add_insecure_port(bind)
            else:
                port = server.add_secure_port(bind, self._credentials)
        except RuntimeError as error:
            await server.stop(None)
            msg = f"nothing can listen at {bind!r}: {error}"
            raise UsageError(msg) from error
        await server.start()
        self.address = bind if bind.startswith("unix:") else f"{bind.rpartition(':')[0]}:{port}"
        for name in ("", SERVICE):
            await self._health.set(name, _SERVING)

    async def retire(self) -> None:
        """Say to who asks for its health that it will not be here for long."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """End all streams and stop listening. Idempotent."""
        for carrier in list(self._carriers):
            await carrier.close()
        if self._server is not None:
            await self._server.stop(_FAREWELL)

    def _made(self) -> aio.Server:
        server = aio.server(
            options=(
                *KEEPALIVE,
                ("grpc.so_reuseport", 0),  # a port that is taken is an error
                ("grpc.max_receive_message_length", self._max_frame + BATCH_BYTES + OVERHEAD),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", 100),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            )
        )
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._connect)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Connect": handler}),))
        _registering.add_HealthServicer_to_server(self._health, server)
        for add in self.further.values():
            add(server)
        own = DESCRIPTOR.services_by_name["Link"].full_name  # which reflection finds, as its module was imported
        names = own, health.SERVICE_NAME, reflection.SERVICE_NAME, *self.further
        reflection.enable_server_reflection(names, server)
        return server

    async def _connect(self, _: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> None:
        try:
            principal = self._admit(context.invocation_metadata() or (), context.auth_context())
        except NotPermitted as error:
            await context.abort(StatusCode.UNAUTHENTICATED, str(error))
        await context.send_initial_metadata(())
        carrier = AcceptedCarrier(context, principal)
        self._carriers.add(carrier)
        try:
            self._accept(carrier)
            await carrier.over()
        finally:
            self._carriers.discard(carrier)
