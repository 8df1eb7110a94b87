"""Facts to spans: an entry of a journal, or a finished run, as OpenTelemetry's span of it.

Spans are made whole, after the event, with the times and ids that the facts give; no tracer is asked. Contents
(messages, arguments, results, the texts of errors) go in only where they are switched on.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from pydantic_core import from_json

from perdure.messages import HALTED, AgentId, ErrorInfo
from perdure_otel import names
from perdure_otel.contexts import context_of, link_of, parent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import AttributeValue

    from perdure.messages import Entry, RunView, Start

Attributes = dict[str, "AttributeValue"]

SCOPE: Final = InstrumentationScope("perdure", version("perdure-otel"))


class Draughtsman:
    """Draws spans.

    Args:
        resource: What all of them are of.
        capture: Whether contents go in.
    """

    def __init__(self, resource: Resource, *, capture: bool) -> None:
        self._resource = resource
        self._capture = capture
        self._of_kind: dict[str, Callable[[Start, Entry], tuple[str, SpanKind, Attributes]]] = {
            "model": self._chat,
            "tool": self._tool,
            "step": self._step,
            "answer": self._ask,
            "timer": self._timer,
            "event": self._event,
            "updated": self._update,
            "rejected": self._update,
            "cancel": self._cancel,
        }

    def entry(self, run: Start, entry: Entry) -> ReadableSpan | None:
        """The span of one entry; ``None`` if unsampled, and for what has none of its own.

        That of a call or of what was sent is the called run's, that of an update is drawn from its outcome. The rest
        (``begin``, ``patch``, ``heartbeat``, kinds of a later release) takes no time.
        """
        context = context_of(run, entry.path or entry.kind, entry.attempt)
        draw = self._of_kind.get(entry.role if entry.kind in {"step", "attempt"} else entry.kind)
        if draw is None or not context.trace_flags.sampled:
            return None
        name, kind, attributes = draw(run, entry)
        attributes |= {names.RUN: run.run, names.PATH: entry.path}
        error = None if entry.error is None else ErrorInfo.model_validate_json(entry.error)
        began = entry.started or entry.at
        return ReadableSpan(
            name,
            context,
            context_of(run),
            self._resource,
            attributes | _failed(error),
            kind=kind,
            status=self._status(error),
            start_time=_nanoseconds(min(began, entry.at)),
            end_time=_nanoseconds(entry.at),
            instrumentation_scope=SCOPE,
        )

    def run(self, run: Start, view: RunView) -> ReadableSpan | None:
        """The span of a run or turn that is finished; of one that is set aside, the span that says so."""
        parked = view.status in HALTED
        context = context_of(run, names.PARK, view.seq) if parked else context_of(run)
        if not context.trace_flags.sampled:
            return None
        name, attributes = self._invoked(run, view)
        attributes |= {names.RUN: run.run, names.RUN_STATUS: view.status}
        link = link_of(run)
        return ReadableSpan(
            names.PARK if parked else name,
            context,
            context_of(run) if parked else parent_of(run),
            self._resource,
            attributes | _failed(view.error),
            links=() if link is None else (Link(link),),
            kind=SpanKind.INTERNAL,
            status=self._status(view.error),
            start_time=_nanoseconds(view.updated if parked else min(run.at, view.updated)),
            end_time=_nanoseconds(view.updated),
            instrumentation_scope=SCOPE,
        )

    # -- runs

    def _invoked(self, run: Start, view: RunView) -> tuple[str, Attributes]:
        if run.kind == "workflow":
            attributes: Attributes = {names.OPERATION: names.INVOKE_WORKFLOW, names.WORKFLOW: run.target}
            captured = self.contents({names.RUN_INPUT: _input(run, view), names.RUN_RESULT: view.result})
            return f"{names.INVOKE_WORKFLOW} {run.target}", attributes | captured
        attributes = {
            names.OPERATION: names.INVOKE_AGENT,
            names.AGENT: run.target,
            names.CONVERSATION: run.session or "",
            **_tokens(_mapping(view.result).get("usage")),
        }
        if self._capture:
            attributes[names.INPUT_MESSAGES] = _messages("user", _text_of(_input(run, view)))
            if view.status == "completed":
                attributes[names.OUTPUT_MESSAGES] = _messages("assistant", _text_of(view.result))
        return f"{names.INVOKE_AGENT} {run.target}", attributes

    # -- entries

    def _chat(self, run: Start, entry: Entry) -> tuple[str, SpanKind, Attributes]:
        provider, _, model = entry.name.rpartition(":")
        attributes = _of_session(run) | {
            names.OPERATION: names.CHAT,
            names.PROVIDER: provider or model,
            names.REQUEST_MODEL: model,
            names.ATTEMPT: entry.attempt,
        }
        if entry.value is not None:
            attributes |= self.answered(_mapping(from_json(entry.value)), model)
        return f"{names.CHAT} {model}", SpanKind.CLIENT, attributes

    def _tool(self, run: Start, entry: Entry) -> tuple[str, SpanKind, Attributes]:
        attributes = _of_session(run) | {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL: entry.name,
            names.TOOL_TYPE: "function",
            names.ATTEMPT: entry.attempt,
        }
        return (
            f"{names.EXECUTE_TOOL} {entry.name}",
            SpanKind.INTERNAL,
            attributes | self.contents({names.TOOL_RESULT: entry.value}),
        )

    def _step(self, _run: Start, entry: Entry) -> tuple[str, SpanKind, Attributes]:
        attributes: Attributes = {names.STEP_NAME: entry.name, names.ATTEMPT: entry.attempt}
        captured = self.contents({names.STEP_RESULT: entry.value})
        return f"{names.STEP} {entry.name}", SpanKind.INTERNAL, attributes | captured

    def _ask(self, _run: Start, entry: Entry) -> tuple[str, SpanKind, Attributes]:
        captured = self.contents({names.ASK_PROMPT: entry.name, names.ASK_ANSWER: entry.value})
        return names.ASK, SpanKind.INTERNAL, captured

    def _timer(self, _run: Start, _entry: Entry) -> tuple[str, SpanKind, Attributes]:
        return names.TIMER, SpanKind.INTERNAL, {}

    def _event(self, _run: Start, entry: Entry) -> tuple[str, SpanKind, Attributes]:
        return f"{names.EVENT} {entry.name}", SpanKind.INTERNAL, self.contents({names.EVENT_PAYLOAD: entry.value})

    def _update(self, _run: Start, entry: Entry) -> tuple[str, SpanKind, Attributes]:
        return f"{names.UPDATE} {entry.name}", SpanKind.INTERNAL, self.contents({names.UPDATE_ANSWER: entry.value})

    def _cancel(self, _run: Start, _entry: Entry) -> tuple[str, SpanKind, Attributes]:
        return names.CANCEL, SpanKind.INTERNAL, {}

    # -- what is common to them, and to live spans

    def answered(self, response: Mapping[str, Any], model: str) -> Attributes:
        """What a ``ModelResponse``, as JSON, adds to a chat's span."""
        attributes = {
            names.RESPONSE_MODEL: str(response.get("model", model)),
            names.FINISH_REASONS: (str(response.get("finish", "stop")),),
            **_tokens(response.get("usage")),
        }
        return attributes | ({names.OUTPUT_MESSAGES: _answer(response)} if self._capture else {})

    def contents(self, values: Mapping[str, Any]) -> Attributes:
        """The values as text, where contents are switched on."""
        if not self._capture:
            return {}
        return {name: _as_text(value) for name, value in values.items() if value is not None}

    def _status(self, error: ErrorInfo | None) -> Status:
        if error is None:
            return Status(StatusCode.UNSET)
        return Status(StatusCode.ERROR, str(error) if self._capture else None)


def of_agent(agent: AgentId) -> Attributes:
    """Who thinks or acts."""
    return {names.AGENT: agent.type, names.CONVERSATION: agent.key}


def _of_session(run: Start) -> Attributes:
    """Who thinks or acts: nobody in a workflow's own steps."""
    return {} if run.session is None else of_agent(AgentId(run.target, run.session))


def _input(run: Start, view: RunView) -> Any:
    """What it was started with; a run told again after a crash has it in the view only."""
    return from_json(run.input) if view.input is None else view.input


def _tokens(usage: Any) -> Attributes:
    counted = _mapping(usage)
    found = {
        names.INPUT_TOKENS: counted.get("input_tokens"),
        names.OUTPUT_TOKENS: counted.get("output_tokens"),
    }
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _failed(error: ErrorInfo | None) -> Attributes:
    return {} if error is None else {names.ERROR_TYPE: error.type}


def _answer(response: Mapping[str, Any]) -> str:
    """A model's answer in the form that the conventions give to output messages."""
    message = _mapping(response.get("message"))
    parts: list[dict[str, Any]] = [{"type": "text", "content": message["text"]}] if message.get("text") else []
    parts += [
        {"type": "tool_call", "id": call["id"], "name": call["name"], "arguments": call["arguments"]}
        for call in message.get("calls", ())
    ]
    return json.dumps([{"role": "assistant", "parts": parts, "finish_reason": response.get("finish", "stop")}])


def _messages(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


def _text_of(value: Any) -> str:
    """A message or reply as text: its own if it has one."""
    text = _mapping(value).get("text", value)
    return text if isinstance(text, str) else json.dumps(text)


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, str) else json.dumps(value)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000) * 1000  # a float of today's seconds is exact to a microsecond at best
