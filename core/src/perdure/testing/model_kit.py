"""The conformance kits of the ``Model`` port.

``ModelKit`` is what every model's client must hold, ``RemoteModelKit`` what one must hold besides whose service
can fail or keep it waiting; an implementation subclasses the one or the other, and so says what it can do. Both
need pytest with pytest-asyncio in auto mode.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar, Final, Literal, TypeAlias

import pytest
from pydantic import BaseModel, Field

from perdure.errors import ModelRefused, ModelUnavailable
from perdure.messages import ChatMessage, ModelRequest, ModelResponse, ToolCall, ToolResult, ToolSpec
from perdure.ports import Model
from perdure.testing.models import Turn, calls

TIMEOUT: Final = 20.0
"""Seconds after which a kit calls something stuck."""


class Departure(BaseModel):
    """What the kit has a model fill in."""

    vessel: str
    seats: int = Field(ge=1)
    weekdays: list[Literal["mon", "tue", "wed"]] = Field(min_length=1, max_length=3)
    remark: str | None = None


Answering: TypeAlias = Callable[[Mapping[str, Turn]], Model]

SENTENCE: Final = "The ferry leaves the northern harbour at nine."

READ_DOCUMENT: Final = ToolSpec(
    name="read_document",
    description="The text of a document.",
    parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)


class ModelKit:
    """What every client of a language model holds; subclass it and give ``answering`` and ``provider_model``.

    A model that cannot be programmed (it derives its answers from the text it is given) ignores what it is told
    to answer: the kit's questions have the answers in them.
    """

    provider_model: ClassVar[str]
    """The name that the models of ``answering`` have: ``provider:model``."""

    @pytest.fixture
    def answering(self) -> Answering:
        """Makes a model: a request whose last message contains a key of the mapping is answered with its turn.

        Turns are those of ``Script``, but no functions and no responses. The kit closes what it made.
        """
        msg = f"{type(self).__name__} gives no fixture 'answering'"
        raise NotImplementedError(msg)

    @pytest.fixture
    async def connect(self, answering: Answering) -> AsyncIterator[Answering]:
        """``answering``, whose models are closed after the test."""
        opened: list[Model] = []

        def connect(answers: Mapping[str, Turn]) -> Model:
            opened.append(answering(answers))
            return opened[-1]

        yield connect
        for model in opened:
            await model.close()

    async def test_it_is_named_as_in_configuration(self, connect: Answering) -> None:
        """``provider:model``."""
        model = connect({})
        assert model.name == self.provider_model
        assert all(model.name.partition(":"))

    async def test_text_is_answered_with_text(self, connect: Answering) -> None:
        """One assistant's message, finished by itself."""
        response = await _complete(connect({"ferry": SENTENCE}), _user(SENTENCE))
        assert response.message.role == "assistant"
        assert SENTENCE in response.message.text
        assert response.message.calls == ()
        assert response.message.result is None
        assert response.finish == "stop"
        assert response.model

    async def test_a_tool_is_called_and_its_result_is_used(self, connect: Answering) -> None:
        """Call, result, answer: as a turn does it."""
        model = connect({"harbour.md": calls(("read_document", {"path": "harbour.md"})), "ferry": SENTENCE})
        asked = _user("Read `harbour.md`.")
        called = await _complete(model, asked, tools=(READ_DOCUMENT,))
        assert called.finish == "tool_call"
        (call,) = called.message.calls
        assert call.name == "read_document"
        assert json.loads(call.arguments) == {"path": "harbour.md"}
        result = ToolResult(id=call.id, name=call.name, content=f"1: {SENTENCE}")
        told = ChatMessage(role="tool", result=result)
        answered = await _complete(model, asked, called.message, told, tools=(READ_DOCUMENT,))
        assert answered.message.calls == ()
        assert SENTENCE in answered.message.text

    async def test_several_calls_of_one_response_are_answered_one_by_one(self, connect: Answering) -> None:
        """Each result is told apart by its call's id."""
        wanted = [{"path": "north.md"}, {"path": "south.md"}]
        model = connect({"north.md": calls(*(("read_document", given) for given in wanted)), "ferry": SENTENCE})
        asked = _user("Read `north.md` and `south.md`.")
        called = await _complete(model, asked, tools=(READ_DOCUMENT,))
        assert [json.loads(call.arguments) for call in called.message.calls] == wanted
        told = [
            ChatMessage(role="tool", result=ToolResult(id=call.id, name=call.name, content=SENTENCE))
            for call in called.message.calls
        ]
        answered = await _complete(model, asked, called.message, *told, tools=(READ_DOCUMENT,))
        assert SENTENCE in answered.message.text

    async def test_structured_output_obeys_its_schema(self, connect: Answering) -> None:
        """The answer's text is JSON that fits."""
        answer = Departure(vessel=SENTENCE, seats=9, weekdays=["mon"])
        response = await _complete(
            connect({"ferry": answer}), _user(SENTENCE), output_schema=Departure.model_json_schema()
        )
        assert Departure.model_validate_json(response.message.text).vessel == SENTENCE

    async def test_structured_output_may_be_other_than_an_object(self, connect: Answering) -> None:
        """An agent's output type may be a list."""
        schema = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1}
        response = await _complete(connect({"ferry": [SENTENCE]}), _user(SENTENCE), output_schema=schema)
        assert json.loads(response.message.text) == [SENTENCE]

    async def test_tokens_are_counted(self, connect: Answering) -> None:
        """Both ways."""
        response = await _complete(connect({"ferry": SENTENCE}), _user(SENTENCE))
        assert response.usage.input_tokens > 0
        assert response.usage.output_tokens > 0

    async def test_the_whole_conversation_may_be_told(self, connect: Answering) -> None:
        """Instructions and earlier turns, the answered calls of tools among them."""
        call = ToolCall(id="call-0", name="read_document", arguments='{"path": "old.md"}')
        response = await _complete(
            connect({"ferry": SENTENCE}),
            ChatMessage(role="system", text="You answer in one sentence."),
            ChatMessage(role="user", text="Read `old.md`."),
            ChatMessage(role="assistant", calls=(call,)),
            ChatMessage(role="tool", result=ToolResult(id="call-0", name="read_document", content="no", error=True)),
            ChatMessage(role="assistant", text="It cannot be read."),
            _user(SENTENCE),
            tools=(READ_DOCUMENT,),
        )
        assert SENTENCE in response.message.text

    async def test_concurrent_requests_are_not_mixed_up(self, connect: Answering) -> None:
        """Each gets the answer to its own."""
        sentences = [f"The ferry number {number}x carries {number} cars." for number in range(10, 26)]
        model = connect({sentence: sentence for sentence in sentences})
        responses = await asyncio.gather(*(_complete(model, _user(sentence)) for sentence in sentences))
        for sentence, response in zip(sentences, responses, strict=True):
            assert sentence in response.message.text

    async def test_a_cancelled_request_leaves_the_model_usable(self, connect: Answering) -> None:
        """Cancellation reaches the caller, and nobody else."""
        model = connect({"ferry": SENTENCE})
        task = asyncio.ensure_future(_complete(model, _user(SENTENCE)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert SENTENCE in (await _complete(model, _user(SENTENCE))).message.text

    async def test_closing_twice_is_closing_once(self, connect: Answering) -> None:
        """Idempotent, used or not."""
        unused, used = connect({}), connect({"ferry": SENTENCE})
        await _complete(used, _user(SENTENCE))
        for model in (unused, used):
            await model.close()
            await model.close()


class RemoteModelKit(ModelKit):
    """What a model holds besides whose service can be overloaded, refuse, or keep it waiting."""

    @pytest.fixture
    def silent(self) -> tuple[Model, asyncio.Event]:
        """A model whose service takes a request, sets the event, and never answers. The subclass closes it."""
        msg = f"{type(self).__name__} gives no fixture 'silent'"
        raise NotImplementedError(msg)

    async def test_an_overloaded_service_is_unavailable_and_says_for_how_long(self, connect: Answering) -> None:
        """``retry_after`` is the service's own word, in seconds."""
        model = connect({"ferry": ModelUnavailable("too many requests", retry_after=7.0)})
        with pytest.raises(ModelUnavailable) as caught:
            await _complete(model, _user(SENTENCE))
        assert caught.value.retry_after == 7.0

    async def test_an_overloaded_service_may_not_say_for_how_long(self, connect: Answering) -> None:
        """Then the engine's own pauses hold."""
        with pytest.raises(ModelUnavailable) as caught:
            await _complete(connect({"ferry": ModelUnavailable("broken")}), _user(SENTENCE))
        assert caught.value.retry_after is None

    async def test_a_refusal_is_final(self, connect: Answering) -> None:
        """It is no ``RetryableError``."""
        with pytest.raises(ModelRefused):
            await _complete(connect({"ferry": ModelRefused("no")}), _user(SENTENCE))

    async def test_a_failure_concerns_its_own_request_only(self, connect: Answering) -> None:
        """The next request is answered."""
        model = connect({"storm": ModelUnavailable("broken"), "ferry": SENTENCE})
        with pytest.raises(ModelUnavailable):
            await _complete(model, _user("The storm is here."))
        assert SENTENCE in (await _complete(model, _user(SENTENCE))).message.text

    async def test_a_request_under_way_can_be_cancelled(self, silent: tuple[Model, asyncio.Event]) -> None:
        """At once, without an answer."""
        model, asked = silent
        task = asyncio.ensure_future(_complete(model, _user(SENTENCE)))
        async with asyncio.timeout(TIMEOUT):
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


def _user(text: str) -> ChatMessage:
    return ChatMessage(role="user", text=text)


async def _complete(
    model: Model,
    *messages: ChatMessage,
    tools: tuple[ToolSpec, ...] = (),
    output_schema: dict[str, Any] | None = None,
) -> ModelResponse:
    async with asyncio.timeout(TIMEOUT):
        return await model.complete(ModelRequest(messages=messages, tools=tools, output_schema=output_schema))
