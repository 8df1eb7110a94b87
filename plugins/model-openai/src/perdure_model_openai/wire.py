"""What goes over the wire: chat completions, as the OpenAI API and those compatible with it speak them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field

from perdure.errors import InvalidInput
from perdure.messages import ChatMessage, ModelResponse, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perdure.messages import ModelRequest, ToolSpec

Structured: TypeAlias = Literal["json_schema", "json_object", "prompt"]

_OWN: Final = frozenset({"messages", "model", "n", "response_format", "stream", "stream_options", "tools"})
"""What a request's settings may not say, because it would change what the answer is read as."""

_FINISH: Final = {"tool_calls": "tool_call", "function_call": "tool_call"}
"""The API's reasons to stop in the words of the OpenTelemetry conventions, where they differ."""

_STRICT: Final = frozenset(
    {
        *("$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum", "items", "properties"),
        *("required", "title", "type"),
    }
)
"""The keywords that the API's strict mode takes from every model; with any other, the schema is sent as a wish."""

_WRAPPED: Final = "value"
"""The API answers with objects only: another type of output travels as this property of one."""


# -- what is sent --------------------------------------------------------------------------------------------


def body_of(request: ModelRequest, model: str, structured: Structured) -> dict[str, Any]:
    """A request as the API's JSON body. Raises ``InvalidInput`` for settings that are not the author's to say."""
    if reserved := _OWN & request.settings.keys():
        msg = f"model settings {sorted(reserved)} of an agent on 'openai:{model}' are the client's own: remove them"
        raise InvalidInput(msg)
    body: dict[str, Any] = {"model": model, "messages": list(_messages(request.messages))}
    if request.tools:
        body["tools"] = [_tool(spec) for spec in request.tools]
    if request.output_schema is not None:
        schema = _as_object(request.output_schema)
        if structured == "json_schema":
            body["response_format"] = {"type": "json_schema", "json_schema": _named(schema)}
        else:
            told = f"Answer with nothing but JSON that fits this JSON schema:\n{json.dumps(schema)}"
            body["messages"].insert(0, {"role": "system", "content": told})
            if structured == "json_object":
                body["response_format"] = {"type": "json_object"}
    if request.max_output_tokens is not None:
        body["max_completion_tokens"] = request.max_output_tokens
    return {**body, **request.settings}


def _messages(messages: Sequence[ChatMessage]) -> Iterator[dict[str, Any]]:
    """Messages on the wire. Ids that a provider left empty are made up, the same for a call and its result."""
    waiting: list[str] = []
    for at, message in enumerate(messages):
        if message.result is not None:
            id_ = message.result.id or (waiting.pop(0) if waiting else f"call-{at}")
            yield {"role": "tool", "tool_call_id": id_, "content": message.result.content}
            continue
        sent: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.calls:
            ids = [call.id or f"call-{at}-{ordinal}" for ordinal, call in enumerate(message.calls)]
            waiting = [id_ for id_, call in zip(ids, message.calls, strict=True) if not call.id]
            sent["content"] = message.text or None
            sent["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for id_, call in zip(ids, message.calls, strict=True)
            ]
        yield sent


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    return {"type": "function", "function": {key: value for key, value in function.items() if value}}


def is_object(schema: dict[str, Any]) -> bool:
    """Whether a schema's value is an object at sight, so that the API takes it as it is."""
    return schema.get("type") == "object" and "anyOf" not in schema


def _as_object(schema: dict[str, Any]) -> dict[str, Any]:
    if is_object(schema):
        return schema
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    wrapper: dict[str, Any] = {"type": "object", "properties": {_WRAPPED: inner}, "required": [_WRAPPED]}
    return {**wrapper, "additionalProperties": False, **({"$defs": schema["$defs"]} if "$defs" in schema else {})}


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    strict = strictly(schema)
    return {"name": "output", "schema": schema if strict is None else strict, "strict": strict is not None}


def strictly(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema as the API's strict mode takes it, or ``None`` if it cannot be said there.

    Strict objects have no properties but their own and need all of them: objects that leave the former open are closed,
    which only narrows what fits; one with an optional property or with free names is not to be had.
    """
    try:
        return _narrowed(schema)
    except _NotStrictError:
        return None


class _NotStrictError(Exception):
    """A schema says what strict mode cannot."""


def _narrowed(node: Any) -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        raise _NotStrictError
    schema = {key: value for key, value in cast("dict[str, Any]", node).items() if key != "default"}
    if not _STRICT.issuperset(schema):
        raise _NotStrictError
    if schema.get("type") == "object" or "properties" in schema:
        schema |= _closed(schema)
    for key in ("properties", "$defs"):
        if key in schema:
            schema[key] = {name: _narrowed(inner) for name, inner in schema[key].items()}
    if "anyOf" in schema:
        schema["anyOf"] = [_narrowed(inner) for inner in schema["anyOf"]]
    if "items" in schema:
        schema["items"] = _narrowed(schema["items"])
    return schema


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = schema.get("properties", {})
    if schema.get("additionalProperties", False) is not False or set(schema.get("required", ())) != set(properties):
        raise _NotStrictError
    return {"properties": properties, "required": list(properties), "additionalProperties": False}


# -- what comes back -------------------------------------------------------------------------------------------


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Function(_Read):
    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(_Read):
    id: str | None = None
    function: _Function


class _Message(_Read):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(_Read):
    message: _Message
    finish_reason: str | None = None


class _Usage(_Read):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(_Read):
    """An answer of the API: what is read of it, and no more. Servers leave out much of the rest."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: _Usage | None = None

    @property
    def refusal(self) -> str | None:
        """Why the service gave no answer, if it says so."""
        if self.choices[0].finish_reason == "content_filter":
            return "its content filter stopped the answer"
        return self.choices[0].message.refusal

    def response(self, request: ModelRequest, asked: str) -> ModelResponse:
        """As a model's response. ``asked`` is the model's name, where the service does not say it."""
        choice, usage = self.choices[0], self.usage or _Usage()
        calls = tuple(
            ToolCall(id=call.id or "", name=call.function.name, arguments=_arguments(call.function.arguments))
            for call in choice.message.tool_calls or ()
        )
        text = choice.message.content or ""
        if request.output_schema is not None and not is_object(request.output_schema) and not calls:
            text = _unwrapped(text)
        reason = choice.finish_reason or "stop"
        return ModelResponse(
            message=ChatMessage(role="assistant", text=text, calls=calls),
            model=self.model or asked,
            usage=Usage(input_tokens=usage.prompt_tokens or 0, output_tokens=usage.completion_tokens or 0),
            finish="tool_call" if calls and reason == "stop" else _FINISH.get(reason, reason),
        )


def _arguments(given: str | dict[str, Any] | None) -> str:
    """Some servers send arguments as an object, or leave out empty ones."""
    return given if isinstance(given, str) else json.dumps(given or {})


def _unwrapped(text: str) -> str:
    """The value in its wrapper. Text that is none stays as it is: who validates it asks the model to repair it."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    wrapped = isinstance(value, dict) and [*cast("dict[str, Any]", value)] == [_WRAPPED]
    return json.dumps(value[_WRAPPED], ensure_ascii=False) if wrapped else text
