import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from perdure.errors import ModelUnavailable, UsageError
from perdure.messages import ChatMessage, ModelRequest, ModelResponse
from perdure.ports import Model
from perdure.testing import Script, calls
from perdure.testing.model_kit import Answering, RemoteModelKit


class TestScript(RemoteModelKit):
    provider_model = "scripted:model"

    @pytest.fixture
    def answering(self) -> Answering:
        def answering(answers: Mapping[str, Any]) -> Model:
            def answer(request: ModelRequest) -> Any:
                last = request.messages[-1]
                told = last.result.content if last.result else last.text
                return next(turn for key, turn in answers.items() if key in told)

            return Script(answer)

        return answering

    @pytest.fixture
    def silent(self) -> tuple[Model, asyncio.Event]:
        asked = asyncio.Event()

        async def hang(request: ModelRequest) -> str:
            asked.set()
            await asyncio.Event().wait()
            return "never"

        return Script(hang), asked


class Colour(BaseModel):
    name: str


def request(*texts: str, system: str = "") -> ModelRequest:
    told = (ChatMessage(role="system", text=system),) if system else ()
    return ModelRequest(messages=(*told, *(ChatMessage(role="user", text=text) for text in texts)))


async def said(script: Script, *texts: str, system: str = "") -> str:
    return (await script.complete(request(*texts, system=system))).message.text


async def test_turns_are_taken_in_order_and_requests_kept():
    script = Script("one", "two")
    assert [await said(script, "a"), await said(script, "b")] == ["one", "two"]
    assert [asked.messages[-1].text for asked in script.requests] == ["a", "b"]


@pytest.mark.parametrize("turn", [Colour(name="red"), {"name": "red"}], ids=["model", "mapping"])
async def test_structured_turns_become_json(turn):
    assert await said(Script(turn), "colour?") == '{"name":"red"}'


async def test_calls_carry_arguments_as_text_even_when_they_are_no_json():
    response = await Script(calls(("read", {"path": "a"}), ("read", "{oops"), text="Reading.")).complete(request("x"))
    assert [(call.id, call.arguments) for call in response.message.calls] == [
        ("call-0", '{"path": "a"}'),
        ("call-1", "{oops"),
    ]
    assert response.message.text == "Reading."
    assert response.finish == "tool_call"


async def test_a_response_goes_through_as_it_is():
    response = ModelResponse(message=ChatMessage(role="assistant", text="cut"), model="another", finish="length")
    assert await Script(response).complete(request("x")) is response


async def test_an_exception_is_raised():
    with pytest.raises(ModelUnavailable, match="later"):
        await said(Script(ModelUnavailable("later")), "x")


async def test_a_function_among_turns_is_one_turn():
    script = Script("first", lambda asked: f"echo {asked.messages[-1].text}")
    assert [await said(script, "a"), await said(script, "b")] == ["first", "echo b"]
    with pytest.raises(UsageError):
        await said(script, "c")


async def test_a_single_function_answers_everything():
    script = Script(lambda asked: asked.messages[-1].text.upper())
    assert [await said(script, "a"), await said(script, "b")] == ["A", "B"]


async def test_a_script_that_runs_dry_says_what_it_was_asked():
    script = Script("one")
    await said(script, "first")
    with pytest.raises(UsageError, match=r"'scripted:model' has only 1 turns.*'and then\?'"):
        await said(script, "and then?")
    assert len(script.requests) == 2


async def test_keys_choose_by_instructions_or_message():
    script = Script.keyed({"You edit": ("draft", "final"), "a.md": "notes of a", "b.md": "notes of b"})
    asked = [said(script, "Read b.md"), said(script, "x", system="You edit."), said(script, "Read a.md")]
    assert await asyncio.gather(*asked) == ["notes of b", "draft", "notes of a"]
    assert await said(script, "Read b.md") == "notes of b"
    assert await said(script, "again", system="You edit.") == "final"
    with pytest.raises(UsageError, match="only 2 turns"):
        await said(script, "again", system="You edit.")
    with pytest.raises(UsageError, match="no fragment of"):
        await said(script, "Read c.md")
    assert len(script.requests) == 7
