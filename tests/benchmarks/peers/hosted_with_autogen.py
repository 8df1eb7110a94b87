"""Messages between processes on AutoGen's gRPC runtime. Its log of each message is off."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from dataclasses import dataclass
from importlib.metadata import version

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    TopicId,
    message_handler,
    try_get_known_serializers_for_type,
    type_subscription,
)
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost
from hosted import TEXT, asked_to_end, measured
from messages import print_line


@dataclass
class Ping:
    """Asked, and answered."""

    text: str


@dataclass
class News:
    """Published."""

    text: str


@dataclass
class Count:
    """How many were handled?"""

    number: int


@type_subscription("news")
class Echo(RoutedAgent):
    """Answers and counts."""

    def __init__(self) -> None:
        super().__init__("answers")
        self.count = 0

    @message_handler
    async def ping(self, message: Ping, ctx: MessageContext) -> Ping:
        """One of many."""
        return message

    @message_handler
    async def news(self, message: News, ctx: MessageContext) -> None:
        """One of many."""
        self.count += 1

    @message_handler
    async def told(self, message: Count, ctx: MessageContext) -> Count:
        """So far."""
        return Count(self.count)


async def host() -> None:
    """Route."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    routing = GrpcWorkerAgentRuntimeHost(address)
    routing.start()
    await asked_to_end(address)
    await routing.stop()


async def serve(address: str) -> None:
    """Answer."""
    runtime = GrpcWorkerAgentRuntime(address)
    await runtime.start()
    await Echo.register(runtime, "echo", Echo)
    await asked_to_end("ready")
    await runtime.stop()


async def ask(address: str, seconds: str) -> None:
    """Measure."""
    runtime = GrpcWorkerAgentRuntime(address)
    await runtime.start()
    for each in (Ping, News, Count):
        runtime.add_message_serializer(try_get_known_serializers_for_type(each))
    to, topic = AgentId("echo", "1"), TopicId("news", "1")

    async def count() -> int:
        return (await runtime.send_message(Count(0), to)).number

    found = await measured(
        float(seconds),
        lambda: runtime.send_message(Ping(TEXT), to),
        lambda: runtime.publish_message(News(TEXT), topic),
        count,
    )
    print_line(**found, version=version("autogen-ext"))
    await runtime.stop()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run({"host": host, "serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:]))
