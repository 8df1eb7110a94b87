"""What an author's code may do: step, call, sleep, ask; and the context that does it at once.

``Context`` is an interface. ``DirectContext`` (here) executes at once and remembers nothing; the durable one
(``perdure.execution``) journals. Code written against the interface runs on both with the same results.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import uuid
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from perdure.errors import NotDurable, StepFailed, UsageError
from perdure.messages import AgentId, ChatMessage, ErrorInfo, Usage
from perdure.steps import Attempt, StepCall, StepOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from perdure.agent import Agent, AgentRef
    from perdure.ports import Clock, Conversation
    from perdure.steps import Retry, Role
    from perdure.workflow import Workflow, WorkflowRef

P = ParamSpec("P")
T = TypeVar("T")
O = TypeVar("O")  # noqa: E741 - output


@dataclass(frozen=True)
class Reply(Generic[O]):
    """What an agent answered.

    Attributes:
        text: The answer as text.
        output: The answer as the agent's output type; for an agent without one, the text again.
        session: Key of the session that the turn belongs to: pass it to go on with the conversation.
        usage: Tokens of the whole turn.
    """

    text: str
    output: O
    session: str = ""
    usage: Usage = field(default_factory=Usage)


class Callee(Protocol):
    """What ``ctx.call`` can call: an agent, a workflow, or a typed reference to one of another app."""

    @property
    def kind(self) -> str:
        """``agent`` or ``workflow``."""
        ...

    @property
    def name(self) -> str:
        """As declared; qualified by the catalog."""
        ...

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The input as JSON. Raises ``InvalidInput``, ``NotEncodable``."""
        ...

    def decode_result(self, value: bytes) -> Any:
        """What the caller gets."""
        ...


def encoded(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The input of a call. Raises ``UsageError`` if that is nothing to be called, else as ``Callee.encode_input``."""
    if not hasattr(callee, "encode_input"):
        msg = f"{callee!r} cannot be called: expected an agent, what @workflow makes, or a reference to one of these"
        raise UsageError(msg)
    return callee.encode_input(args, kwargs)


class Context(ABC):
    """The durable world, as a workflow, a turn or a durable tool sees it.

    Never keep a context beyond the function it was given to.
    """

    _options: StepOptions = StepOptions()

    # -- to be filled by the two kinds of context

    @property
    @abstractmethod
    def run_id(self) -> str:
        """The id of the run or turn that this code is part of."""

    @property
    @abstractmethod
    def session(self) -> Conversation:
        """The conversation of the turn that this code is part of. Raises ``NotDurable`` in a workflow."""

    @abstractmethod
    def now(self) -> datetime:
        """The time (UTC), the same on every replay. It stands still between awaits."""

    @abstractmethod
    async def _step(self, call: StepCall) -> Any: ...

    @abstractmethod
    async def _call(self, callee: Callee, payload: bytes, session: str | None) -> Any: ...

    @abstractmethod
    async def _ask(self, prompt: str, answer: Any, deadline: timedelta | None) -> Any: ...

    @abstractmethod
    def _identity(self, name: str) -> str:
        """A fresh structural identity for something that this branch does."""

    # -- for authors

    def options(
        self,
        *,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        name: str | None = None,
        role: Role = "step",
        fingerprint: str | None = None,
        returns: Any = None,
    ) -> Self:
        """This context with step options for what is called on it next: ``ctx.options(retry=…).step(fn)``.

        Args:
            retry: When to try again.
            timeout: For one attempt; seconds or a ``timedelta``.
            name: The step's name in the journal.
            role: What it does: ``model`` and ``tool`` steps are traced as such.
            fingerprint: Checked on replay instead of the arguments' hash.
            returns: The type of its result, where the function does not declare it.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        other = copy(self)
        other._options = StepOptions(  # noqa: SLF001 - our own copy
            retry=retry, timeout=seconds, name=name, role=role, fingerprint=fingerprint, returns=returns
        )
        return other

    @overload
    async def step(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def step(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def step(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function with side effects; its result is recorded, and then it never runs again.

        It is attempted at least once: inside, ``Attempt.current().key`` is the same for each attempt. The
        result comes back as the function's declared return type, decoded from JSON, live and replayed
        alike. Async functions run on the runtime's loop, others in a thread.

        Raises:
            StepFailed: It raised, and its retry policy is exhausted. Always this, never the original type.
            NotEncodable: An argument or the result has no JSON form.
        """
        return await self._step(StepCall.bind(fn, args, kwargs, self._options))

    @overload
    async def call(
        self, callee: Agent[O] | AgentRef[O], message: object, /, *, session: str | None = None
    ) -> Reply[O]: ...
    @overload
    async def call(self, callee: Workflow[P, T] | WorkflowRef[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def call(self, callee: Any, /, *args: Any, session: str | None = None, **kwargs: Any) -> Any:
        """Call an agent or a workflow and wait for its answer, which survives any crash.

        Args:
            callee: An agent, a workflow, or a reference to one of another app.
            *args: An agent's message; a workflow's arguments.
            session: Go on with this conversation. Without it, the agent gets a fresh one, owned by this run.
            **kwargs: A workflow's arguments.

        Raises:
            CallFailed: It failed; says with what.
            SessionBusy: The session waits for this very call.
            InvalidInput: The arguments do not fit.
        """
        return await self._call(callee, encoded(callee, args, kwargs), session)

    @overload
    async def ask(self, prompt: str, answer: type[T], /, *, deadline: timedelta | None = None) -> T: ...
    @overload
    async def ask(self, prompt: str, answer: type[T], /, *, deadline: timedelta, default: T) -> T: ...
    async def ask(self, prompt: str, answer: Any, /, *, deadline: timedelta | None = None, default: Any = ...) -> Any:
        """Ask a human (or another system) and wait, for days if need be, at no cost.

        Args:
            prompt: What a person reads.
            answer: The answer's type; its JSON schema is what the answer must fit.
            deadline: When to stop waiting.
            default: What to return at the deadline; without it, ``TimeoutError`` is raised.
        """
        if deadline is None:
            return await self._ask(prompt, answer, None)
        scope = asyncio.timeout(deadline.total_seconds())
        try:
            async with scope:
                return await self._ask(prompt, answer, deadline)
        except TimeoutError:
            if default is ... or not scope.expired():
                raise
            return default

    async def sleep(self, duration: float | timedelta) -> None:
        """Wait for seconds or a ``timedelta``, across restarts. The same as ``asyncio.sleep`` in a workflow."""
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
        await asyncio.sleep(seconds)  # noqa: TID251 - on the machine's loop this is a durable timer

    async def sleep_until(self, when: datetime) -> None:
        """Wait until a time (it must carry a time zone)."""
        if when.tzinfo is None:
            msg = f"sleep_until({when!r}): expected a datetime with a time zone, such as datetime.now(UTC)"
            raise ValueError(msg)
        await self.sleep(max(0.0, (when - self.now()).total_seconds()))

    def uuid(self) -> uuid.UUID:
        """A random-looking UUID (version 8, RFC 9562), the same on every replay, different for every call."""
        return uuid.UUID(int=self._seed("uuid") & ~(0xF << 76 | 0x3 << 62) | (0x8 << 76 | 0x2 << 62))

    def random(self) -> random.Random:
        """A random generator, seeded the same on every replay, differently for every call."""
        return random.Random(self._seed("random"))  # noqa: S311 - replayable by purpose

    def _seed(self, name: str) -> int:
        return uuid.uuid5(_SEEDS, f"{self.run_id}:{self._identity(name)}").int


_SEEDS = uuid.UUID("0f6b3c1e-7d61-5d0b-9f3e-6f2a4f1f8d55")


class Memory:
    """A conversation that lives as long as the process: what a direct context's turn sees."""

    def __init__(self, id_: AgentId, log: Sequence[ChatMessage] = (), state: dict[str, Any] | None = None) -> None:
        self.id = id_
        self._log = list(log)
        self.state: dict[str, Any] = {} if state is None else state

    @property
    def log(self) -> Sequence[ChatMessage]:
        """Everything said so far."""
        return self._log

    def append(self, *messages: ChatMessage) -> None:
        """Add to the conversation."""
        self._log.extend(messages)


class DirectContext(Context):
    """Executes at once; nothing is recorded.

    Args:
        call: Calls an agent or workflow for this code: ``(callee, payload, session) -> JSON result``.
        clock: The time.
        session: The conversation, in an agent's turn.
        run_id: An id for this execution, on which its idempotency keys and random values depend; random by default.
    """

    def __init__(
        self,
        call: Callable[[Callee, bytes, str | None], Awaitable[bytes]],
        clock: Clock,
        *,
        session: Conversation | None = None,
        run_id: str | None = None,
    ) -> None:
        self._caller = call
        self._clock = clock
        self._session = session
        self._run_id = run_id or f"direct_{secrets.token_hex(16)}"
        self._count = iter(range(1 << 62))

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def session(self) -> Conversation:
        if self._session is None:
            msg = "ctx.session is the conversation of an agent's turn; this code is no turn"
            raise NotDurable(msg)
        return self._session

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _identity(self, name: str) -> str:
        return f"{name}#{next(self._count)}"

    async def _step(self, call: StepCall) -> Any:
        key = f"{self._run_id}:{self._identity(call.name)}"
        number = 1
        while True:
            try:
                data = call.encode(await call.attempt(Attempt(key, number)))
            except Exception as error:
                pause = call.retry.pause(number, error)
                if pause is None:
                    raise StepFailed(call.name, ErrorInfo.of(error)) from error
            else:
                return call.decode(data)
            await self._clock.sleep_until(self._clock.now() + pause)
            number += 1

    async def sleep(self, duration: float | timedelta) -> None:
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
        await self._clock.sleep_until(self._clock.now() + seconds)

    async def _call(self, callee: Callee, payload: bytes, session: str | None) -> Any:
        return callee.decode_result(await self._caller(callee, payload, session))

    async def _ask(self, prompt: str, answer: Any, deadline: timedelta | None) -> Any:  # noqa: ARG002 - the interface
        msg = f"ctx.ask({prompt!r}): a request outlives its process, and this code runs volatile: start it as a run"
        raise NotDurable(msg)
