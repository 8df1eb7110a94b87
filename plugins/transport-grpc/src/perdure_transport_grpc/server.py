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
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from perdure_hosting import Carrier, Principal
    from perdure_transport_grpc.settings import Files

    Admit = Callable[[Iterable[tuple[str, str | bytes]], Mapping[str, Sequence[bytes]]], Principal]

SERVICE: Final = "perdure.v1.Link"
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
        grpc: For further services, before ``start``.
    """

    def __init__(self, accept: Callable[[Carrier], None], admit: Admit, files: Files, *, max_frame: int) -> None:
        self.address: str = ""
        self._accept = accept
        self._admit = admit
        self._credentials = server_credentials(files)
        self._carriers: set[AcceptedCarrier] = set()
        self.grpc: aio.Server = aio.server(
            options=(
                *KEEPALIVE,
                ("grpc.so_reuseport", 0),  # a port that is taken is an error
                ("grpc.max_receive_message_length", max_frame + BATCH_BYTES + OVERHEAD),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", 100),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            )
        )
        handler = grpc.stream_stream_rpc_method_handler(self._connect)
        self.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Connect": handler}),))
        self.health: Any = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        self.services: list[str] = [SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]

    async def start(self, bind: str) -> None:
        """Listen. Raises ``UsageError`` if that is not possible there."""
        assert DESCRIPTOR.services_by_name  # noqa: S101 - loading it made the service known to reflection
        reflection.enable_server_reflection(self.services, self.grpc)
        try:
            if self._credentials is None:
                port = self.grpc.add_insecure_port(bind)
            else:
                port = self.grpc.add_secure_port(bind, self._credentials)
        except RuntimeError as error:
            msg = f"nothing can listen at {bind!r}: {error}"
            raise UsageError(msg) from error
        await self.grpc.start()
        self.address = bind if bind.startswith("unix:") else f"{bind.rpartition(':')[0]}:{port}"
        for name in ("", SERVICE):
            await self.health.set(name, _SERVING)

    async def drain(self) -> None:
        """Say to who asks for its health that it will not be here for long."""
        await self.health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """End all streams and stop listening. Idempotent."""
        for carrier in list(self._carriers):
            await carrier.close()
        await self.grpc.stop(1.0)

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
