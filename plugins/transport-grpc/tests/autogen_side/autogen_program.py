"""A worker of AutoGen's, unmodified, in its own environment: does what stdin says, and says on stdout what happens.

One JSON object a line, both ways. It knows nothing of Perdure.

Run: python autogen_program.py
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    TopicId,
    TypePrefixSubscription,
    TypeSubscription,
    message_handler,
    try_get_known_serializers_for_type,
)
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel

leaving = asyncio.Event()


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


class News(BaseModel):
    text: str


class Secret(BaseModel):
    """Not registered with the runtime."""

    text: str


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - the test reads it


class Clerk(RoutedAgent):
    """Answers questions, hears news."""

    def __init__(self) -> None:
        super().__init__("a clerk")

    @message_handler
    async def question(self, message: Question, ctx: MessageContext) -> Answer | Secret | None:
        say(asked=message.text, of=str(self.id), by=str(ctx.sender) if ctx.sender else None)
        word, _, rest = message.text.partition(" ")
        if word == "fail":
            msg = rest
            raise ValueError(msg)
        if word == "nothing":
            return None
        if word == "secret":
            return Secret(text="x")
        if word == "wait":
            await leaving.wait()
        if word == "relay":
            to, _, text = rest.partition(" ")
            answer = await self.send_message(Question(text=text), AgentId.from_str(to))
            return Answer(text=f"{self.id} heard {shown(answer)}")
        return Answer(text=f"{self.id}: {message.text}")

    @message_handler
    async def news(self, message: News, ctx: MessageContext) -> None:
        say(
            heard=message.text, by=str(self.id), topic=str(ctx.topic_id), sender=str(ctx.sender) if ctx.sender else None
        )
        word, _, rest = message.text.partition(" ")
        if word == "tell":
            to, _, text = rest.partition(" ")
            await self.publish_message(News(text=text), TopicId.from_str(to))
        if word == "count" and int(rest) > 0:
            await self.publish_message(News(text=f"count {int(rest) - 1}"), TopicId("pong", "there"))

    @message_handler
    async def numbers(self, message: Struct, ctx: MessageContext) -> None:
        say(
            heard=dict(message),
            by=str(self.id),
            topic=str(ctx.topic_id),
            sender=str(ctx.sender) if ctx.sender else None,
        )


def shown(answer: Any) -> str:
    return answer.text if isinstance(answer, Answer) else f"{type(answer).__name__} {answer}"


def struct(numbers: dict[str, float]) -> Struct:
    made = Struct()
    made.update(numbers)
    return made


class Worker:
    """Joins one host after the other, each time as a new runtime."""

    def __init__(self) -> None:
        self.runtime = GrpcWorkerAgentRuntime("")

    async def do(self, order: dict[str, Any]) -> Any:
        runtime = self.runtime
        match order:
            case {"do": "join", "address": address, "content": content}:
                leaving.clear()
                self.runtime = GrpcWorkerAgentRuntime(address, payload_serialization_format=content)
                for kind in (Question, Answer, News, Struct):
                    self.runtime.add_message_serializer(try_get_known_serializers_for_type(kind))
                await self.runtime.start()
            case {"do": "register", "type": type_, "topics": topics, "prefixes": prefixes}:
                await Clerk.register(runtime, type_, Clerk)
                for topic in topics:
                    await runtime.add_subscription(TypeSubscription(topic, type_, id=f"{type_}-{topic}"))
                for prefix in prefixes:
                    await runtime.add_subscription(TypePrefixSubscription(prefix, type_))
            case {"do": "unsubscribe", "id": id_}:
                await runtime.remove_subscription(id_)
            case {"do": "ask", "to": to, "text": text}:
                return shown(await runtime.send_message(Question(text=text), AgentId.from_str(to)))
            case {"do": "publish", "topic": topic, "news": news}:
                message = News(text=news) if isinstance(news, str) else struct(news)
                await runtime.publish_message(message, TopicId.from_str(topic))
            case {"do": "leave"}:
                leaving.set()
                await runtime.stop()
        return None


async def main() -> None:
    worker = Worker()
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    under_way = set()

    async def carry_out(number: int, order: dict[str, Any]) -> None:
        try:
            say(done=number, result=await worker.do(order))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            say(done=number, error=f"{type(error).__name__}: {error}")

    while line := await orders.readline():
        order = json.loads(line)
        task = asyncio.create_task(carry_out(order["number"], order))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


if __name__ == "__main__":
    asyncio.run(main())
