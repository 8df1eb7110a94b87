"""Agent middleware, composed once: around each question to a model, around each tool call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from perdure import Context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import ModelRequest, ModelResponse, ToolCall, ToolResult
    from perdure.ports import AgentMiddleware

Q = TypeVar("Q")
A = TypeVar("A")

Layer: TypeAlias = Callable[[Context, Q, Callable[[Q], Awaitable[A]]], Awaitable[A]]
"""``(ctx, question, proceed) -> answer``."""


class Layers:
    """All middleware of a runtime as two layers.

    Args:
        middleware: Outermost first.

    Attributes:
        model: Around a model request.
        tool: Around a tool call.
    """

    def __init__(self, middleware: Sequence[AgentMiddleware]) -> None:
        self.model: Layer[ModelRequest, ModelResponse] = _composed([each.model for each in middleware])
        self.tool: Layer[ToolCall, ToolResult] = _composed([each.tool for each in middleware])


def _composed(layers: Sequence[Layer[Q, A]]) -> Layer[Q, A]:
    chain: Layer[Q, A] = _innermost
    for layer in reversed(layers):
        chain = _around(layer, chain)
    return chain


def _innermost(_ctx: Context, question: Q, proceed: Callable[[Q], Awaitable[A]]) -> Awaitable[A]:
    return proceed(question)


def _around(layer: Layer[Q, A], inner: Layer[Q, A]) -> Layer[Q, A]:
    def around(ctx: Context, question: Q, proceed: Callable[[Q], Awaitable[A]]) -> Awaitable[A]:
        return layer(ctx, question, lambda changed: inner(ctx, changed, proceed))

    return around
