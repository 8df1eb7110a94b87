import asyncio
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from perdure.errors import InvalidInput, InvalidSetting, ModelRefused, ModelUnavailable, UnknownName
from perdure.messages import ChatMessage, ErrorInfo, ModelRequest, ToolCall, ToolResult, ToolSpec
from perdure.ports import Model
from perdure.testing.model_kit import Answering, RemoteModelKit
from perdure_model_openai import OpenAIModel, perdure_model
from perdure_model_openai.client import retry_after

KEY = "sk-made-up-0123456789"
TIMEOUT = 60.0


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


def model_at(base_url: str, **settings: Any) -> OpenAIModel:
    return perdure_model("gpt-test", {"base_url": base_url, "api_key": KEY, **settings})


class TestOpenAIModel(RemoteModelKit):
    provider_model = "openai:gpt-test"

    @pytest.fixture
    def answering(self, server) -> Answering:
        def answering(answers: Mapping[str, Any]) -> Model:
            server.program(answers)
            return model_at(server.base_url)

        return answering

    @pytest.fixture
    async def silent(self) -> AsyncIterator[tuple[Model, asyncio.Event]]:
        asked = asyncio.Event()
        async with listening(b"", asked=asked, silent=True) as base_url, opened(base_url) as model:
            yield model, asked


# -- a server that says exact bytes ----------------------------------------------------------------------


@asynccontextmanager
async def listening(answer: bytes, *, asked: asyncio.Event | None = None, silent: bool = False) -> AsyncIterator[str]:
    """A server that answers each request with these bytes and hangs up, or holds the line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            if asked is not None:
                asked.set()
            if silent:
                await reader.read()  # until the client hangs up
            writer.write(answer)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@asynccontextmanager
async def opened(base_url: str, **settings: Any) -> AsyncIterator[OpenAIModel]:
    model = model_at(base_url, **settings)
    try:
        yield model
    finally:
        await model.close()


def http(status: str, body: bytes | dict[str, Any], *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "text/html" if isinstance(body, bytes) else "application/json"
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(content)}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + content


def completion(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


def request(*messages: ChatMessage, **options: Any) -> ModelRequest:
    return ModelRequest(messages=messages or (user("hello"),), **options)


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", text=text)


async def answered(answer: bytes, asked: ModelRequest | None = None, **settings: Any):
    async with asyncio.timeout(TIMEOUT), listening(answer) as base_url, opened(base_url, **settings) as model:
        return await model.complete(asked or request())


# -- what is sent ---------------------------------------------------------------------------------------------


@pytest.fixture
def sent(server) -> Callable[..., Any]:
    server.add({"match": {}, "response": {"content": "{}"}})

    async def send(asked: ModelRequest, **settings: Any) -> dict[str, Any]:
        async with opened(server.base_url, **settings) as model:
            await model.complete(asked)
        return server.bodies()[-1]

    return send


OBJECT = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "of": {"$ref": "#/$defs/Of"}},
    "required": ["name", "of"],
    "$defs": {"Of": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
}


async def test_a_schema_is_strict_where_strict_mode_can_say_it(sent):
    sent_format = (await sent(request(output_schema=OBJECT)))["response_format"]
    assert sent_format["type"] == "json_schema"
    assert sent_format["json_schema"]["strict"] is True
    assert sent_format["json_schema"]["schema"]["additionalProperties"] is False
    assert sent_format["json_schema"]["schema"]["$defs"]["Of"]["additionalProperties"] is False


@pytest.mark.parametrize(
    "change",
    [
        {"required": ["name"]},
        {"additionalProperties": True},
        {"properties": {"name": {"type": "string", "minLength": 3}, "of": {}}},
        {"properties": {"name": {"oneOf": [{"type": "string"}]}, "of": {"type": "null"}}},
        {"patternProperties": {"x": {}}},
    ],
    ids=["optional", "open", "bounds", "one-of", "patterns"],
)
async def test_a_schema_that_strict_mode_cannot_say_is_sent_as_it_is(sent, change):
    schema = {**OBJECT, **change}
    sent_schema = (await sent(request(output_schema=schema)))["response_format"]["json_schema"]
    assert sent_schema == {"name": "output", "schema": schema, "strict": False}


async def test_an_output_that_is_no_object_travels_in_one(sent):
    schema = {"type": "array", "items": {"$ref": "#/$defs/Of"}, "$defs": OBJECT["$defs"]}
    sent_schema = (await sent(request(output_schema=schema)))["response_format"]["json_schema"]["schema"]
    assert sent_schema["properties"] == {"value": {"type": "array", "items": {"$ref": "#/$defs/Of"}}}
    assert "Of" in sent_schema["$defs"]


@pytest.mark.parametrize(("mode", "sent_format"), [("json_object", {"type": "json_object"}), ("prompt", None)])
async def test_servers_without_schemas_are_told_in_words(sent, mode, sent_format):
    body = await sent(request(output_schema=OBJECT), structured_output=mode)
    assert body.get("response_format") == sent_format
    assert body["messages"][0]["role"] == "system"
    assert json.dumps(OBJECT) in body["messages"][0]["content"]


async def test_settings_of_the_request_go_through_and_a_limit_has_its_name(sent):
    body = await sent(request(settings={"temperature": 0, "seed": 7}, max_output_tokens=50))
    assert (body["temperature"], body["seed"], body["max_completion_tokens"]) == (0, 7, 50)


async def test_settings_that_are_the_clients_own_are_refused():
    async with opened("http://127.0.0.1:9/v1") as model:
        with pytest.raises(InvalidInput, match=r"\['stream'\].*'openai:gpt-test'"):
            await model.complete(request(settings={"stream": True}))


async def test_tools_are_sent_with_their_schemas_and_results_with_their_ids(sent):
    spec = ToolSpec(name="read", description="Reads.", parameters={"type": "object", "properties": {}})
    calls = tuple(ToolCall(id=id_, name="read", arguments="{}") for id_ in ("", "b", ""))
    results = [ChatMessage(role="tool", result=ToolResult(id=id_, name="read", content="x")) for id_ in ("", "b", "")]
    body = await sent(request(user("go"), ChatMessage(role="assistant", calls=calls), *results, tools=(spec,)))
    assert body["tools"] == [{"type": "function", "function": spec.model_dump()}]
    called = [call["id"] for call in body["messages"][1]["tool_calls"]]
    assert called == [message["tool_call_id"] for message in body["messages"][2:]]
    assert len(set(called)) == 3
    assert called[1] == "b"


# -- what comes back -------------------------------------------------------------------------------------------


async def test_what_compatible_servers_leave_out_is_not_missed():
    response = await answered(http("200 OK", completion({"content": "hi"}, None)))
    assert (response.message.text, response.finish, response.model) == ("hi", "stop", "gpt-test")
    assert response.usage.input_tokens == 0


async def test_usage_and_model_are_the_services_own():
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    response = await answered(http("200 OK", completion({"content": "hi"}, "length", model="gpt-x", usage=usage)))
    assert (response.usage.input_tokens, response.usage.output_tokens) == (11, 5)
    assert (response.model, response.finish) == ("gpt-x", "length")


@pytest.mark.parametrize(
    ("given", "read"), [('{"a": 1}', '{"a": 1}'), ({"a": 1}, '{"a": 1}'), (None, "{}"), ("{", "{")]
)
async def test_arguments_come_as_text_however_they_were_sent(given, read):
    call = {"type": "function", "function": {"name": "read", "arguments": given}}
    response = await answered(http("200 OK", completion({"content": None, "tool_calls": [call]})))
    assert response.message.calls == (ToolCall(id="", name="read", arguments=read),)
    assert response.finish == "tool_call"


@pytest.mark.parametrize("text", ["no json", '{"other": 1}', "[1]"])
async def test_what_was_not_wrapped_comes_as_it_is(text):
    asked = request(output_schema={"type": "array"})
    assert (await answered(http("200 OK", completion({"content": text})), asked)).message.text == text


@pytest.mark.parametrize(
    "answer",
    [completion({"content": ""}, "content_filter"), completion({"content": None, "refusal": "I must not."})],
    ids=["filter", "refusal"],
)
async def test_refused_content_is_a_refusal(answer):
    with pytest.raises(ModelRefused, match=r"'openai:gpt-test' at http://127.*refused to answer"):
        await answered(http("200 OK", answer))


# -- what goes wrong ------------------------------------------------------------------------------------------


def failure(status: str, *headers: str, **error: Any) -> bytes:
    return http(status, {"error": {"message": "the service says why", **error}}, *headers)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        ("400 Bad Request", {"code": "invalid_request"}, ModelRefused),
        ("401 Unauthorized", {"code": "invalid_api_key"}, ModelRefused),
        ("403 Forbidden", {}, ModelRefused),
        ("404 Not Found", {"code": "model_not_found"}, ModelRefused),
        ("413 Content Too Large", {}, ModelRefused),
        ("422 Unprocessable Content", {}, ModelRefused),
        ("429 Too Many Requests", {"code": "insufficient_quota"}, ModelRefused),
        ("429 Too Many Requests", {"type": "insufficient_quota", "code": None}, ModelRefused),
        ("429 Too Many Requests", {"code": "rate_limit_exceeded"}, ModelUnavailable),
        ("408 Request Timeout", {}, ModelUnavailable),
        ("409 Conflict", {}, ModelUnavailable),
        ("500 Internal Server Error", {}, ModelUnavailable),
        ("502 Bad Gateway", {}, ModelUnavailable),
        ("529 Overloaded", {}, ModelUnavailable),
    ],
)
async def test_statuses_are_typed_and_name_model_and_service(status, error, expected):
    with pytest.raises(expected, match=r"'openai:gpt-test' at http://127\.0\.0\.1:\d+/v1.*HTTP " + status[:3]):
        await answered(failure(status, **error))


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "500 Internal Server Error"])
async def test_the_key_is_in_no_message_no_cause_and_no_log(status, caplog):
    caplog.set_level(logging.DEBUG)
    echo = failure(status, message=f"Incorrect API key provided: {KEY}. You can find it …")
    with pytest.raises((ModelRefused, ModelUnavailable)) as caught:
        await answered(echo)
    kept = "\n".join(traceback.format_exception(caught.value)) + ErrorInfo.of(caught.value).model_dump_json()
    assert KEY not in kept
    assert KEY not in caplog.text
    assert ErrorInfo.of(caught.value).cause is None


async def test_a_bad_key_says_where_keys_come_from_and_quotes_nothing():
    with pytest.raises(ModelRefused, match="invalid_api_key; check the key") as caught:
        await answered(failure("401 Unauthorized", message="you sent sk-ma*****789", code="invalid_api_key"))
    assert "sk-ma" not in str(caught.value)


async def test_what_a_base_url_may_hide_is_not_shown():
    async with listening(failure("400 Bad Request")) as base_url:
        hidden = base_url.replace("http://", "http://me:secret@") + "?token=secret"
        async with opened(hidden) as model:
            with pytest.raises((ModelRefused, ModelUnavailable)) as caught:
                await model.complete(request())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Sat, 21 Nov 2026 01:00:30 GMT", "date": "Sat, 21 Nov 2026 01:00:00 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 00:00:00 GMT", "date": "Sat, 21 Nov 2026 01:00:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_every_form(headers, seconds):
    assert retry_after(headers) == seconds


async def test_a_rate_limit_carries_its_pause():
    with pytest.raises(ModelUnavailable) as caught:
        await answered(failure("429 Too Many Requests", "Retry-After: 3"))
    assert caught.value.retry_after == 3.0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"choices": [',
        b"not http at all\r\n\r\n",
        http("200 OK", b"<html>a proxy's greeting</html>"),
        http("200 OK", {"choices": []}),
        http("200 OK", {"object": "list", "data": []}),
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"choice',
    ],
    ids=["hung-up", "cut", "not-http", "html", "no-choice", "other", "cut-json"],
)  # fmt: skip
async def test_an_answer_that_is_none_may_be_tried_again(answer):
    with pytest.raises(ModelUnavailable, match="'openai:gpt-test' at http://127"):
        await answered(answer)


async def test_a_service_that_is_not_there_is_unavailable():
    async with listening(b"") as base_url:
        pass
    async with opened(base_url) as model:
        with pytest.raises(ModelUnavailable, match="out of reach"):
            await model.complete(request())


async def test_a_service_that_is_silent_is_unavailable_after_the_timeout():
    async with (
        asyncio.timeout(TIMEOUT),
        listening(b"", silent=True) as base_url,
        opened(base_url, timeout=0.2) as model,
    ):
        with pytest.raises(ModelUnavailable, match="timed out"):
            await model.complete(request())


@pytest.mark.parametrize("chaos", ["dropRate", "malformedRate", "disconnectRate", "rateLimitRate"])
async def test_chaos_of_the_server_is_retryable_and_asked_once(server, chaos):
    server.add({"match": {"userMessage": "hello"}, "response": {"content": "hi"}, "chaos": {chaos: 1}})
    async with opened(server.base_url) as model:
        with pytest.raises(ModelUnavailable):
            await model.complete(request())
    assert len(server.bodies()) == 1


# -- how it is made -------------------------------------------------------------------------------------------


def test_a_missing_key_says_the_way_out():
    with pytest.raises(InvalidSetting, match=r"'openai:gpt-test' needs a key: set .* OPENAI_API_KEY, or 'api_key'"):
        perdure_model("gpt-test", {})


def test_a_key_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = perdure_model("gpt-test", {})
    assert model.name == "openai:gpt-test"
    assert KEY not in repr(vars(model))


async def test_a_server_without_keys_is_asked_without_one():
    assert (await answered(http("200 OK", completion({"content": "hi"})), api_key="")).message.text == "hi"


@pytest.mark.parametrize("wrong", [{"apikey": KEY}, {"api_key": [KEY]}, {"timeout": 0}, {"base_url": "localhost"}])
def test_a_wrong_setting_is_named_without_its_value(wrong):
    with pytest.raises(InvalidSetting, match=next(iter(wrong))) as caught:
        perdure_model("gpt-test", wrong)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_provider_alone_is_no_model():
    with pytest.raises(UnknownName, match="say which after the colon"):
        perdure_model("", {})


def test_perdure_starts_without_the_sdk():
    program = "import sys, perdure; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
