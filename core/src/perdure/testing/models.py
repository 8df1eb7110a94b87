"""The scripted model: what a test lends to agents instead of a model."""

from __future__ import annotations

import inspect
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

from pydantic import BaseModel
from pydantic_core import to_json

from perdure.errors import UsageError
from perdure.messages import ChatMessage, ModelRequest, ModelResponse, ToolCall, Usage

Turn: TypeAlias = Any
"""What a scripted model does once: see ``Script``."""


def calls(*wanted: tuple[str, Mapping[str, Any] | str], text: str = "") -> ChatMessage:
    """The turn in which a model calls tools.

    Args:
        *wanted: Name and arguments of each call; a string is passed on as it is, valid JSON or not.
        text: What the model says beside.
    """
    return ChatMessage(
        role="assistant",
        text=text,
        calls=tuple(
            ToolCall(id=f"call-{ordinal}", name=name, arguments=given if isinstance(given, str) else json.dumps(given))
            for ordinal, (name, given) in enumerate(wanted)
        ),
    )


class Script:
    """A model that answers from a script.

    A turn is one of: a ``str`` (the answer's text); ``calls(…)``; a pydantic model, mapping or list (structured
    output: its JSON); a ``ModelResponse`` or ``ChatMessage`` as it is; an exception, which is raised; or a function
    of the ``ModelRequest``, sync or async, that gives any of these. A single function is the whole script: it
    answers every request. Requests may come concurrently; each takes the next turn.

    Tokens are counted as words.

    Args:
        *turns: What it answers, in order.
        name: As in configuration, ``provider:model``.

    Attributes:
        requests: What it was asked, in order; the requests that it failed included.
    """

    def __init__(self, *turns: Turn, name: str = "scripted:model") -> None:
        always = len(turns) == 1 and _is_function(turns[0])
        self._always: Callable[[ModelRequest], Any] | None = turns[0] if always else None
        self._turns = deque(() if always else turns)
        self._length = len(turns)
        self._name = name
        self.requests: list[ModelRequest] = []

    @classmethod
    def keyed(cls, turns: Mapping[str, Turn | tuple[Turn, ...]], *, name: str = "scripted:model") -> Script:
        """A script for several agents or sessions, whose order does not matter.

        Args:
            turns: By a fragment of what the model is told: the first fragment that stands in the instructions or in a
                user's message chooses. Under it stands one turn, used each time, or a tuple of turns, used in order.
            name: As in configuration.
        """
        scripts = {
            fragment: cls(*cast("tuple[Turn, ...]", given), name=name) if isinstance(given, tuple) else given
            for fragment, given in turns.items()
        }

        def choose(request: ModelRequest) -> Turn:
            told = "\n".join(message.text for message in request.messages if message.role in {"system", "user"})
            for fragment, turn in scripts.items():
                if fragment in told:
                    return turn.next(request) if isinstance(turn, Script) else turn
            msg = f"no fragment of {sorted(scripts)} stands in {_summary(request)}: add one to the script"
            raise UsageError(msg)

        return cls(choose, name=name)

    @property
    def name(self) -> str:
        """``provider:model``."""
        return self._name

    def next(self, request: ModelRequest) -> Turn:
        """Take the next turn. Raises ``UsageError`` when there is none."""
        if self._always is not None:
            return self._always
        if not self._turns:
            msg = f"the script of {self._name!r} has only {self._length} turns, and was asked for one more: "
            raise UsageError(msg + _summary(request))
        return self._turns.popleft()

    async def complete(self, request: ModelRequest) -> ModelResponse:
        """The next turn as a response. Raises what the script says, and ``UsageError`` when it has run dry."""
        self.requests.append(request)
        turn = self.next(request)
        while _is_function(turn):
            turn = turn(request)
            if inspect.isawaitable(turn):
                turn = await turn
        if isinstance(turn, BaseException):
            raise turn
        return self._response(request, turn)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _response(self, request: ModelRequest, turn: Turn) -> ModelResponse:
        if isinstance(turn, ModelResponse):
            return turn
        message = turn if isinstance(turn, ChatMessage) else ChatMessage(role="assistant", text=_text(turn))
        said = [message.text, *(call.arguments for call in message.calls)]
        return ModelResponse(
            message=message,
            model=self._name.partition(":")[2] or self._name,
            usage=Usage(
                input_tokens=_words(
                    item.text + (item.result.content if item.result else "") for item in request.messages
                ),
                output_tokens=_words(said),
            ),
            finish="tool_call" if message.calls else "stop",
        )


def _is_function(turn: Turn) -> bool:
    return callable(turn) and not isinstance(turn, type | BaseModel)


def _text(turn: Turn) -> str:
    return turn if isinstance(turn, str) else to_json(turn).decode()


def _words(texts: Iterable[str]) -> int:
    return sum(len(text.split()) for text in texts)


def _summary(request: ModelRequest) -> str:
    lines = [
        f"{item.role}: {(item.result.content if item.result else item.text)[:200]!r}"
        + "".join(f" calls {call.name}({call.arguments[:80]})" for call in item.calls)
        for item in request.messages[-4:]
    ]
    tools = f"; tools: {', '.join(spec.name for spec in request.tools)}" if request.tools else ""
    return f"{len(request.messages)} messages, the last: {' | '.join(lines)}{tools}"
