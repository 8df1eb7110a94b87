"""Every name that leaves this plugin: spans, attributes, headers.

Those of OpenTelemetry's semantic conventions for generative AI and messaging are *Development* there, and change:
whoever follows them edits this module and nothing else. What the conventions have no word for begins with
``perdure.``. Source: semantic-conventions-genai (November 2026), messaging 1.44.
"""

from __future__ import annotations

from typing import Final

# -- operations; a span is named after its operation and what it is done to: ``chat extractive``

INVOKE_WORKFLOW: Final = "invoke_workflow"
INVOKE_AGENT: Final = "invoke_agent"
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
STEP: Final = "step"
ASK: Final = "ask"
TIMER: Final = "timer"
EVENT: Final = "event"
UPDATE: Final = "update"
CANCEL: Final = "cancel"
PARK: Final = "park"
SEND: Final = "send"  # also the type of a publication, for which the conventions have none of its own
PUBLISH: Final = "publish"
PROCESS: Final = "process"

# -- attributes of the conventions

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
AGENT: Final = "gen_ai.agent.name"
WORKFLOW: Final = "gen_ai.workflow.name"
CONVERSATION: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
TOOL: Final = "gen_ai.tool.name"
TOOL_CALL: Final = "gen_ai.tool.call.id"
TOOL_TYPE: Final = "gen_ai.tool.type"
ERROR_TYPE: Final = "error.type"

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_CONVERSATION: Final = "messaging.message.conversation_id"

# -- attributes of the conventions that hold contents: set where ``capture_content`` is on, and nowhere else

INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_RESULT: Final = "gen_ai.tool.call.result"

# -- attributes of our own

RUN: Final = "perdure.run.id"
RUN_STATUS: Final = "perdure.run.status"
PATH: Final = "perdure.path"
ATTEMPT: Final = "perdure.attempt"
STEP_NAME: Final = "perdure.step.name"
MESSAGE_TYPE: Final = "perdure.message.type"

# -- and those that hold contents

RUN_INPUT: Final = "perdure.run.input"
RUN_RESULT: Final = "perdure.run.result"
STEP_RESULT: Final = "perdure.step.result"
ASK_PROMPT: Final = "perdure.ask.prompt"
ASK_ANSWER: Final = "perdure.ask.answer"
EVENT_PAYLOAD: Final = "perdure.event.payload"
UPDATE_ANSWER: Final = "perdure.update.answer"

# -- headers that travel with runs and messages

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
TRACE: Final = "perdure-trace"
"""``{trace id}-{flags}`` of a run that nothing called: it has a trace and no parent, which W3C has no header for."""
LINK: Final = "perdure-link"
"""The live span in which a run was started, as a ``traceparent``, where that span is not the run's parent."""
