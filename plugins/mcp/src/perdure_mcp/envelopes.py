"""What every tool returns: ``{run_id, status, result?, requests?, error?, session_id?}``, its schema and its text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from mcp.types import CallToolResult, TextContent
from pydantic import PydanticInvalidForJsonSchema
from pydantic_core import to_json

from perdure import Agent, encoding
from perdure.errors import UnknownName
from perdure.messages import Status

if TYPE_CHECKING:
    from perdure import Runtime
    from perdure.messages import RequestView, RunView

Envelope: TypeAlias = "dict[str, Any]"

_REQUEST: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "request_id": {"type": "string", "description": "For answer_request."},
        "prompt": {"type": "string", "description": "The question, for a person."},
        "answer_schema": {"type": "object", "description": "JSON schema that the answer must fit."},
        "deadline": {"type": "string", "format": "date-time", "description": "When it closes by itself (UTC)."},
    },
    "required": ["request_id", "prompt", "answer_schema"],
    "additionalProperties": False,
}
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
    "required": ["type", "message"],
    "additionalProperties": False,
}
_NEXT: Final[dict[str, str]] = {
    "pending": "It is accepted and goes on by itself: call get_run with this run_id (and wait) for the result.",
    "running": "It goes on by itself: call get_run with this run_id (and wait) for the result.",
    "waiting": "It waits: call get_run with this run_id (and wait) for the result.",
    "parked": "It is set aside and nothing is lost: it goes on when a fixed version of its code is deployed.",
}
_ASKS: Final = "It waits for an answer: call answer_request with the request_id and an answer that fits answer_schema."


def result_schema(kind: Literal["agent", "workflow"], declared: Any) -> dict[str, Any]:
    """The JSON schema of what a workflow returns, or of an agent's output; ``{}`` where it has none."""
    returns = declared.returns if kind == "workflow" else declared.output
    try:
        return encoding.adapter(returns).json_schema(mode="serialization")
    except PydanticInvalidForJsonSchema:
        return {}


def envelope_schema(result: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON schema of an envelope around a result; any result by default."""
    result = dict(result or {})
    definitions = result.pop("$defs", None)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "run_id": {"type": "string", "description": "For get_run and cancel_run."},
            "status": {"type": "string", "enum": list(get_args(Status))},
            "result": {**result, "description": "With status 'completed'."} if "$ref" not in result else result,
            "requests": {"type": "array", "items": _REQUEST, "description": "Open questions that it waits on."},
            "error": {**_ERROR, "description": "With status 'failed', 'cancelled' or 'parked'."},
            "session_id": {
                "type": "string",
                "description": "Of an agent's turn: pass it to go on with the conversation.",
            },
        },
        "required": ["run_id", "status"],
        "additionalProperties": False,
    }
    if definitions:
        schema["$defs"] = definitions
    return schema


def envelope(runtime: Runtime, view: RunView) -> Envelope:
    """A run or turn as it stands; ``runtime`` knows how a turn's reply is built."""
    found: Envelope = {"run_id": view.id, "status": view.status}
    if view.status == "completed":
        found["result"] = _output(runtime, view)
    if view.requests:
        found["requests"] = [_request(request) for request in view.requests]
    if view.error is not None:
        found["error"] = {"type": view.error.type, "message": view.error.message}
    if view.session is not None:
        found["session_id"] = view.session
    return found


def answered(found: Envelope) -> CallToolResult:
    """A tool's result: the envelope, its JSON as text, and what to do next if it is not finished."""
    texts = [to_json(found).decode()]
    advice = _ASKS if "requests" in found else _NEXT.get(found["status"])
    if advice:
        texts.append(advice)
    return CallToolResult(content=[TextContent(text=text) for text in texts], structured_content=found)


def refused(why: str) -> CallToolResult:
    """A tool's result that says what was wrong with the call."""
    return CallToolResult(content=[TextContent(text=why)], is_error=True)


def _output(runtime: Runtime, view: RunView) -> Any:
    if view.kind != "turn":
        return view.result
    try:
        declared = runtime.catalog.find("agent", view.target)[1]
    except UnknownName:  # it belongs to an app that is not open here
        return view.result
    return view.result["output"] if isinstance(declared, Agent) else view.result


def _request(request: RequestView) -> dict[str, Any]:
    found: dict[str, Any] = {
        "request_id": request.id,
        "prompt": request.prompt,
        "answer_schema": request.answer_schema,
    }
    if request.deadline is not None:
        found["deadline"] = datetime.fromtimestamp(request.deadline, UTC).isoformat(timespec="seconds")
    return found
