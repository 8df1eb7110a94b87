"""A model that calls every tool it is offered, at once, and then says what it was told."""

from collections.abc import Mapping
from typing import Any

from perdure import hookimpl
from perdure.messages import ModelRequest
from perdure.testing import Script, calls


def answer(request: ModelRequest) -> Any:
    if request.messages[-1].role == "user":
        return calls(*((tool.name, {}) for tool in request.tools))
    results = [message.result for message in request.messages if message.result]
    return "\n".join(result.content for result in results if result.error)


@hookimpl
def perdure_model(model: str, settings: Mapping[str, Any]) -> Script:
    return Script(answer, name=f"scripted:{model}")
