"""The model itself: what it does with a request, in order."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import TYPE_CHECKING, Final

from perdure.errors import ModelRefused
from perdure.messages import ChatMessage, ModelResponse, Usage
from perdure_model_offline.passages import material_of
from perdure_model_offline.ranking import rank
from perdure_model_offline.schemas import Unfillable, fill
from perdure_model_offline.tool_use import calls_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.messages import ModelRequest
    from perdure_model_offline.passages import Passage

NAME: Final = "offline:extractive"

_IDENTITY: Final = (
    f"I am {NAME}, a model without weights and without a network: I rank and quote sentences of the text that I am"
    " given, call the tools that I am offered to get it, and fill JSON schemas by rule."
)
_ASKS_WHO: Final = re.compile(
    r"\b(who|what) are you\b|\b(what|which) (\w+ )?model (are|is)\b|\bwho am i (talking|speaking) to\b", re.IGNORECASE
)
_NO_TEXT: Final = f"{_IDENTITY} I was given no text to quote."


class ExtractiveModel:
    """``offline:extractive``: answers from the text of the conversation, the same each time.

    Args:
        quotes: How many passages an answer in free text quotes at most.
    """

    def __init__(self, *, quotes: int = 3) -> None:
        self._quotes = quotes

    @property
    def name(self) -> str:
        """``offline:extractive``."""
        return NAME

    async def complete(self, request: ModelRequest) -> ModelResponse:
        """Answer from the conversation. Pure computation, in a thread: other sessions go on meanwhile.

        Raises:
            ModelRefused: The output schema allows nothing that the rules can make.
        """
        return await asyncio.to_thread(self._answer, request)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _answer(self, request: ModelRequest) -> ModelResponse:
        calls = calls_for(request.messages, request.tools)
        finish = "stop"
        if calls:
            message, finish = ChatMessage(role="assistant", calls=calls), "tool_call"
        elif request.output_schema is not None:
            message = ChatMessage(role="assistant", text=_filled(request, request.output_schema))
        else:
            text, finish = self._quoted(request)
            message = ChatMessage(role="assistant", text=text)
        usage = Usage(input_tokens=tokens_of(_told(request)), output_tokens=tokens_of(_said(message)))
        return ModelResponse(message=message, model=NAME, usage=usage, finish=finish)

    def _quoted(self, request: ModelRequest) -> tuple[str, str]:
        """The answer in free text, and why it ends."""
        if _ASKS_WHO.search(_question(request)):
            return _IDENTITY, "stop"
        failures = _failures(request)
        only_failed = failures and not _succeeded(request)
        material = [] if only_failed else material_of(request.messages)
        best = rank(material, _question(request) or _instructions(request))[: self._quotes]
        lines = [str(passage) for passage in sorted(best, key=material.index)]
        lines = [*lines, *failures] or [_NO_TEXT]
        if request.max_output_tokens is None:
            return "\n".join(lines), "stop"
        kept = lines
        while len(kept) > 1 and tokens_of(["\n".join(kept)]) > request.max_output_tokens:
            kept = kept[:-1]
        return "\n".join(kept)[: request.max_output_tokens * 4], _finish(kept, lines, request.max_output_tokens)


def tokens_of(texts: Iterable[str]) -> int:
    """Tokens, as this model counts them: one for each four characters, rounded up."""
    return -(-sum(map(len, texts)) // 4)


def _finish(kept: list[str], lines: list[str], limit: int) -> str:
    return "stop" if kept == lines and tokens_of(["\n".join(kept)]) <= limit else "length"


def _filled(request: ModelRequest, schema: dict[str, object]) -> str:
    passages = _ranked(request)
    try:
        return fill(schema, passages)
    except Unfillable as error:
        msg = (
            f"model {NAME!r} cannot fill the output schema {schema.get('title', '')!r}: {error};"
            " simplify the agent's output type there, or choose another model"
        )
        raise ModelRefused(msg) from None


def _ranked(request: ModelRequest) -> list[Passage]:
    return rank(material_of(request.messages), _instructions(request))


def _question(request: ModelRequest) -> str:
    """The last user's message without the numbered lines in it."""
    text = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
    return "\n".join(line for line in text.splitlines() if not re.match(r"\S+:\d+: ", line))


def _instructions(request: ModelRequest) -> str:
    return "\n".join(message.text for message in request.messages if message.role == "system")


def _succeeded(request: ModelRequest) -> bool:
    """Whether a tool has brought something since the last user's message."""
    since = itertools.takewhile(lambda message: message.role != "user", reversed(request.messages))
    return any(message.result and not message.result.error for message in since)


def _failures(request: ModelRequest) -> list[str]:
    """What tools said went wrong since the last user's message."""
    found: list[str] = []
    for message in request.messages:
        found = [] if message.role == "user" else found
        if message.result and message.result.error:
            found.append(f"{message.result.name} failed: {message.result.content}")
    return found


def _told(request: ModelRequest) -> Iterable[str]:
    for message in request.messages:
        yield from _said(message)
        yield message.result.content if message.result else ""
    yield from (tool.model_dump_json() for tool in request.tools)
    yield json.dumps(request.output_schema) if request.output_schema is not None else ""


def _said(message: ChatMessage) -> Iterable[str]:
    yield message.text
    yield from (call.name + call.arguments for call in message.calls)
