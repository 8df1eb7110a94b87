"""Dials hosts and other workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from grpc import aio

from perdure_transport_grpc.carrier import METHOD, DialledCarrier, opened
from perdure_transport_grpc.credentials import channel_credentials
from perdure_transport_grpc.settings import is_near

if TYPE_CHECKING:
    from perdure_transport_grpc.settings import Settings

_PATIENCE: Final = 5.0
"""Seconds that one attempt may take: gRPC's own 20 are longer than a session waits for its worker's return."""

KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class Dialler:
    """Fills ``Dial``.

    Args:
        settings: Where to, and how.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._credentials = channel_credentials(settings) if settings.secure else None
        token = settings.token
        self._token = () if token is None else (("authorization", f"Bearer {token.get_secret_value()}"),)
        self._carriers: set[DialledCarrier] = set()

    async def __call__(self, address: str = "", /) -> DialledCarrier:
        """Connect to the host, or to the worker at that address. Raises ``OSError``, ``NotPermitted``."""
        target = address or self._settings.host
        channel = self._channel(target, direct=bool(address))
        try:
            # Only the host gets the token.
            stream: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
            call = stream(metadata=() if address else self._token)
            async with asyncio.timeout(_PATIENCE):
                carrier = await opened(channel, call, target)
        except BaseException as error:
            await channel.close()
            if isinstance(error, TimeoutError):
                msg = f"{target!r} did not answer within {_PATIENCE} s"
                raise TimeoutError(msg) from error
            raise
        self._carriers = {each for each in self._carriers if not each.gone}
        self._carriers.add(carrier)
        return carrier

    async def close(self) -> None:
        """End what was dialled."""
        for carrier in self._carriers:
            await carrier.ended()

    def _channel(self, target: str, *, direct: bool) -> aio.Channel:
        options: list[tuple[str, Any]] = [
            *KEEPALIVE,
            ("grpc.use_local_subchannel_pool", 1),  # each attempt is a fresh one, whatever failed before
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.max_receive_message_length", -1),  # links know what is too large
            ("grpc.max_send_message_length", -1),
        ]
        if is_near(target):
            options.append(("grpc.enable_http_proxy", 0))
        name = self._settings.server_name
        if self._credentials is None:
            return aio.insecure_channel(target, options)
        if name and not direct:
            options.append(("grpc.ssl_target_name_override", name))
        return aio.secure_channel(target, self._credentials, options)
