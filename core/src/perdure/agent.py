"""Declarations of agents and tools: names, instructions, schemas. What executes them are plugins."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from perdure import encoding
from perdure.context import Context, Reply
from perdure.errors import InvalidInput, UsageError
from perdure.messages import ToolSpec
from perdure.steps import StepOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from perdure.steps import Retry

P = ParamSpec("P")
R = TypeVar("R")
O = TypeVar("O")  # noqa: E741 - output


class Tool(Generic[P, R]):
    """A function that a model may call: what ``@tool`` makes. Calling it calls the function.

    Without a ``Context`` parameter it is one step. With one (first), it is durable code and does its side
    effects in steps of its own.

    Attributes:
        fn: The function itself.
        name: As models see it.
        description: Its docstring: what models are told.
        options: Retry, timeout.
    """

    def __init__(self, fn: Callable[P, R], *, name: str | None = None, options: StepOptions | None = None) -> None:
        update_wrapper(self, fn)  # ctx.step takes a tool, too, and finds the function's type and options
        self.fn = fn
        self.name: str = name or fn.__name__
        self.description: str = inspect.getdoc(fn) or ""
        self.options: StepOptions = options or StepOptions()
        self.__name__: str = self.name
        if options is not None:
            self.__perdure_step__ = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.name!r}>"

    @cached_property
    def parameters(self) -> encoding.Parameters:
        """Its input."""
        return encoding.Parameters(self.fn, skip=Context)

    @property
    def durable(self) -> bool:
        """Whether it takes a ``Context``."""
        return self.parameters.skips

    @cached_property
    def returns(self) -> Any:
        """Its result's type."""
        return encoding.returns_of(self.fn)

    @cached_property
    def spec(self) -> ToolSpec:
        """What a model is told about it."""
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters.schema)


@overload
def tool(fn: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *, name: str | None = None, retry: Retry | None = None, timeout: float | None = None
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    fn: Any = None, /, *, name: str | None = None, retry: Retry | None = None, timeout: float | None = None
) -> Any:
    """Declare a tool. ``timeout`` is seconds for one attempt."""
    options = None if retry is timeout is None else StepOptions(retry=retry, timeout=timeout)

    def declare(function: Callable[..., Any]) -> Tool[..., Any]:
        return Tool(function, name=name, options=options)

    return declare if fn is None else declare(fn)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one turn may use; ``None`` is no limit. Reaching one raises ``LimitExceeded``.

    Attributes:
        turns: Model calls.
        tokens: Input and output tokens together.
        seconds: From the turn's beginning, waiting for people included.
    """

    turns: int | None = 20
    tokens: int | None = None
    seconds: float | None = None


class _Addressed(Generic[O]):
    """What an agent and a reference to one have in common: how a message goes in and a reply comes out."""

    kind = "agent"
    name: str
    output: Any

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The message, a text that is not empty, as JSON. Raises ``InvalidInput``."""
        if len(args) != 1 or kwargs:
            msg = f"agent {self.name!r} takes one message, got {len(args)} arguments and {sorted(kwargs)}"
            raise InvalidInput(msg)
        return encoding.encode(self._text(args[0]), str, f"the message to agent {self.name!r}")

    def decode_input(self, payload: bytes) -> str:
        """The message again. Raises ``InvalidInput``."""
        return self._text(encoding.decode(payload, Any, f"the message to agent {self.name!r}"))

    def decode_result(self, value: bytes) -> Reply[O]:
        """The reply, its output as the agent's type."""
        return encoding.decode(value, Reply[self.output], f"the reply of agent {self.name!r}")

    def encode_result(self, reply: Reply[O]) -> bytes:
        """The reply as JSON. Raises ``NotEncodable``."""
        return encoding.encode(reply, Reply[self.output], f"the reply of agent {self.name!r}")

    def _text(self, message: object) -> str:
        if isinstance(message, str) and message.strip():
            return message
        got = "an empty one" if isinstance(message, str) else f"a value of type {type(message).__qualname__}"
        msg = f"the message to agent {self.name!r}: expected a text, got {got}"
        raise InvalidInput(msg)


class Agent(_Addressed[O]):
    """An LLM agent: instructions, tools, an output type. Executed by the plugin ``agent-llm``.

    Args:
        name: Within its app; letters, digits, ``_`` and ``-``.
        instructions: What it is told to do.
        tools: What it may call; functions are made tools, a text names one of another app (``library.read``).
        output: The type of its answer; without it, text.
        model: ``provider:model``; without it, the configured default.
        description: What others (MCP clients, other agents) are told about it.
        limits: What one turn may use.
        settings: Provider-specific model settings, such as ``{"temperature": 0}``.
    """

    @overload
    def __init__(
        self: Agent[str],
        name: str,
        *,
        instructions: str = "",
        tools: Sequence[Tool[..., Any] | Callable[..., Any] | str] = (),
        model: str | None = None,
        description: str = "",
        limits: Limits | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        *,
        output: type[O],
        instructions: str = "",
        tools: Sequence[Tool[..., Any] | Callable[..., Any] | str] = (),
        model: str | None = None,
        description: str = "",
        limits: Limits | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(  # noqa: PLR0913 - a declaration: everything has a name and a default
        self,
        name: str,
        *,
        output: Any = str,
        instructions: str = "",
        tools: Sequence[Tool[..., Any] | Callable[..., Any] | str] = (),
        model: str | None = None,
        description: str = "",
        limits: Limits | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.instructions = instructions
        self.tools: tuple[Tool[..., Any] | str, ...] = tuple(
            cast("Tool[..., Any] | str", item) if isinstance(item, Tool | str) else Tool(item) for item in tools
        )
        self.output = output
        self.model = model
        self.description: str = description or instructions.partition("\n")[0]
        self.limits: Limits = limits or Limits()
        self.settings: dict[str, Any] = dict(settings or {})
        names = [item.rpartition(".")[2] if isinstance(item, str) else item.name for item in self.tools]
        if twice := {item for item in names if names.count(item) > 1}:
            msg = f"agent {name!r} has two tools named {sorted(twice)}: give one another name with @tool(name=…)"
            raise UsageError(msg)

    def __repr__(self) -> str:
        return f"<agent {self.name!r}>"


class AgentRef(_Addressed[O]):
    """An agent of another app, by qualified name, with its output type: what ``agent_ref`` makes."""

    def __init__(self, name: str, output: Any) -> None:
        self.name = name
        self.output = output


@overload
def agent_ref(name: str) -> AgentRef[str]: ...
@overload
def agent_ref(name: str, output: type[O]) -> AgentRef[O]: ...
def agent_ref(name: str, output: Any = str) -> AgentRef[Any]:
    """Refer to an agent of another app, by qualified name (``newsroom.editor``) and output type."""
    return AgentRef(name, output)
