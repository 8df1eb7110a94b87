"""Messages within one process on AutoGen's ``SingleThreadedAgentRuntime``. Its log of each message is off."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TopicId,
    message_handler,
    type_subscription,
)
from messages import MANY, Counted, News, Ping, Pong, print_line, publications, requests, seconds_asked


class Echo(RoutedAgent):
    """Answers."""

    @message_handler
    async def ping(self, message: Ping, ctx: MessageContext) -> Pong:
        """One of many."""
        return Pong(message.number)


@type_subscription("news")
class Listener(RoutedAgent):
    """Counts."""

    seen: Counted

    @message_handler
    async def news(self, message: News, ctx: MessageContext) -> None:
        """One of many."""
        self.seen.one()


async def published(seconds: float, subscribers: int) -> float:
    """To so many subscribers."""
    Listener.seen = seen = Counted()
    runtime = SingleThreadedAgentRuntime()
    for number in range(subscribers):
        await Listener.register(runtime, f"listener{number}", lambda: Listener("listens"))
    runtime.start()
    topic = TopicId("news", "default")
    found = await publications(seconds, lambda: runtime.publish_message(News(1), topic), seen, subscribers)
    await runtime.stop_when_idle()
    return found


async def main() -> None:
    """Measure."""
    logging.disable(logging.CRITICAL)
    seconds = seconds_asked()
    runtime = SingleThreadedAgentRuntime()
    await Echo.register(runtime, "echo", lambda: Echo("answers"))
    runtime.start()
    ping, to = Ping(1), AgentId("echo", "1")
    measured = await requests(seconds, lambda: runtime.send_message(ping, to))
    await runtime.stop_when_idle()
    one, many = await published(seconds, 1), await published(seconds, MANY)
    print_line(**measured, publish_one=one, publish_many=many, version=version("autogen-core"))


if __name__ == "__main__":
    asyncio.run(main())
