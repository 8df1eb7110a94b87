"""Declarations of workflows: named, durable async functions. What drives them stands elsewhere."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from perdure import encoding
from perdure.context import Again, Context
from perdure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")


class Workflow(Generic[P, T]):
    """A durable async function ``(ctx, …) -> T``: what ``@workflow`` makes.

    Arguments and result travel as JSON by their annotated types.

    Attributes:
        fn: The function itself.
        name: Its name within its app.
        version: Runs begin with the highest version of a name, and go on with the one they began with.
        description: First paragraph of its docstring.
    """

    kind = "workflow"

    def __init__(
        self, fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]], name: str | None = None, version: int = 1
    ) -> None:
        if not inspect.iscoroutinefunction(fn):
            msg = f"@workflow needs an 'async def' function, got {fn!r}"
            raise UsageError(msg)
        if taken := inspect.signature(fn).parameters.keys() & {"key", "session"}:
            msg = f"workflow {fn.__name__!r} has the parameter {taken.pop()!r}, an option of every call: rename it"
            raise UsageError(msg)
        self.fn = fn
        self.name: str = name or fn.__name__
        self.version: int = version
        self.description: str = (inspect.getdoc(fn) or "").partition("\n\n")[0]

    def __call__(self, ctx: Context, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run it inline, as part of the caller (an ordinary function call; ``ctx.call`` makes it a run)."""
        return self.fn(ctx, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name!r}>"

    @cached_property
    def parameters(self) -> encoding.Parameters:
        """Its input."""
        parameters = encoding.Parameters(self.fn, skip=Context)
        if not parameters.skips:
            msg = f"workflow {self.name!r}: its first parameter must be annotated as Context"
            raise UsageError(msg)
        return parameters

    @cached_property
    def returns(self) -> Any:
        """Its result's type."""
        return encoding.returns_of(self.fn)

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Its arguments as a JSON object by name. Raises ``InvalidInput``."""
        return self.parameters.encode(args, kwargs, f"workflow {self.name!r}")

    def decode_result(self, value: bytes) -> T:
        """Its result, as its declared type."""
        return encoding.decode(value, self.returns, f"the result of workflow {self.name!r}")

    async def run(self, ctx: Context, payload: bytes, /) -> bytes:
        """The workflow as a ``Program``: JSON in, JSON out."""
        arguments = self.parameters.decode(payload, f"the input of workflow {self.name!r}")
        try:
            result = await self.fn(ctx, **arguments)  # type: ignore[call-arg]
        except Again as again:
            again.payload = self.encode_input(*again.arguments)
            raise
        return encoding.encode(result, self.returns, f"the result of workflow {self.name!r}")


class WorkflowRef(Generic[P, T]):
    """A workflow of another app, by qualified name, with its types: what ``workflow_ref`` makes."""

    kind = "workflow"

    def __init__(self, name: str, returns: Any) -> None:
        self.name = name
        self.returns = returns

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Its arguments; only by name, for the caller does not know their order."""
        if args:
            msg = f"workflow {self.name!r} is called by reference: pass its arguments by name"
            raise UsageError(msg)
        return encoding.encode(kwargs, Any, f"the input of workflow {self.name!r}")

    def decode_result(self, value: bytes) -> T:
        """Its result, as the reference's type."""
        return encoding.decode(value, self.returns, f"the result of workflow {self.name!r}")


@overload
def workflow(fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]], /) -> Workflow[P, T]: ...
@overload
def workflow(
    *, name: str | None = None, version: int = 1
) -> Callable[[Callable[Concatenate[Context, P], Coroutine[Any, Any, T]]], Workflow[P, T]]: ...
def workflow(fn: Any = None, /, *, name: str | None = None, version: int = 1) -> Any:
    """Declare a workflow.

    Args:
        fn: The function, where the decorator is used without parentheses.
        name: What runs are recorded under, if not the function's own name.
        version: List several versions of one name in an app, and new runs begin with the highest, while each run goes
            on with the one that it began with.
    """

    def declare(function: Any) -> Workflow[..., Any]:
        return Workflow(function, name, version)

    return declare if fn is None else declare(fn)


def workflow_ref(name: str, returns: type[T]) -> WorkflowRef[..., T]:
    """Refer to a workflow of another app, by qualified name (``newsroom.briefing``) and result type."""
    return WorkflowRef(name, returns)
