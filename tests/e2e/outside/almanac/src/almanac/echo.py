"""The model ``almanac:echo``: asks the tool it is offered about the day in the question, and says what it was told."""

import json
import re
from collections.abc import Mapping
from typing import Any

from perdure import hookimpl
from perdure.errors import UnknownName
from perdure.messages import ChatMessage, ModelRequest, ModelResponse, ToolCall, Usage

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Echo:
    """Fills ``perdure.ports.Model``."""

    name = "almanac:echo"

    async def complete(self, request: ModelRequest) -> ModelResponse:
        """Ask the tool, or echo it."""
        last = request.messages[-1]
        if last.result is not None:
            return self._says(ChatMessage(role="assistant", text=last.result.content))
        day = DAY.search(last.text)
        if day is None or not request.tools:
            return self._says(ChatMessage(role="assistant", text=last.text))
        call = ToolCall(id="", name=request.tools[0].name, arguments=json.dumps({"day": day.group()}))
        return self._says(ChatMessage(role="assistant", calls=(call,)))

    async def close(self) -> None:
        """Nothing is open."""

    def _says(self, message: ChatMessage) -> ModelResponse:
        return ModelResponse(message=message, model=self.name, usage=Usage(input_tokens=1, output_tokens=1))


@hookimpl
def perdure_model(model: str, settings: Mapping[str, Any]) -> Echo:
    """``almanac:echo``, and no other."""
    if model != "echo":
        kind = "model"
        raise UnknownName(kind, f"almanac:{model}", [Echo.name])
    return Echo()
