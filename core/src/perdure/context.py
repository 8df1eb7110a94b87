"""What an author's code may do: step, call, send, sleep, wait, ask.

``Context`` is an interface. ``DirectContext`` (``perdure.direct``) executes at once and remembers nothing; the
durable one (``perdure.execution``) journals. Code written against the interface runs on both with the same results.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import uuid
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import PurePath
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    overload,
)

from perdure import encoding
from perdure.errors import NotDurable, UsageError
from perdure.messages import AgentId, TopicId, Usage
from perdure.steps import StepOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from perdure.agent import Agent, AgentRef
    from perdure.messages import Envelope
    from perdure.ports import Conversation
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


class Asked(NamedTuple):
    """A question as its author put it.

    Attributes:
        prompt: What a person reads.
        answer: The answer's type.
        deadline: When to stop waiting, or ``None``.
        to: Who is asked first.
        escalate: Who is asked after so long without an answer, soonest first.
        source: The author's line.
    """

    prompt: str
    answer: Any
    deadline: timedelta | None
    to: str = ""
    escalate: tuple[tuple[timedelta, str], ...] = ()
    source: str = ""


class ChildOptions(NamedTuple):
    """How another run is started from this one; see ``Context.child``."""

    delay: timedelta | None = None
    on_close: Literal["cancel", "terminate", "abandon"] | None = None
    tags: Mapping[str, str] = {}


class Again(BaseException):
    """Ends a workflow's code so that the run begins anew; see ``Context.continue_as_new``."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] = args, kwargs
        self.payload: bytes = b""


class Context(ABC):
    """The durable world, as a workflow, a turn or a durable tool sees it.

    Never keep a context beyond the function it was given to.
    """

    _options: StepOptions = StepOptions()
    _child: ChildOptions = ChildOptions()

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

    @property
    @abstractmethod
    def logger(self) -> logging.LoggerAdapter[Any]:
        """A logger that names the run, and is silent while a replay repeats what was logged before."""

    @abstractmethod
    def patched(self, id: str, /) -> bool:
        """Whether this run goes the new way at a place where code was changed.

        True for runs that come here for the first time with this code, False for those that passed by before it was
        there: ``if ctx.patched("fraud-check"): await ctx.step(check)``. The first answer is kept for the run.
        """

    @abstractmethod
    def set_status(self, text: str, /, *, done: float | None = None, total: float | None = None) -> None:
        """Tell those who watch the run how far it has come: in words, and as ``done`` of ``total``."""

    @abstractmethod
    def on_query(self, fn: Callable[P, T], /) -> Callable[P, T]:
        """Answer queries under the function's name: it looks at what the code knows, and changes nothing."""

    @abstractmethod
    def on_update(self, fn: Callable[P, T], /, *, validate: Callable[P, object] | None = None) -> Callable[P, T]:
        """Take updates under the function's name: it may change what the code knows, and, if async, wait and do steps.

        Args:
            fn: Its result is the answer.
            validate: Looks at the arguments first; what it raises refuses the update, which then leaves no trace.
        """

    @abstractmethod
    async def _step(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], source: str) -> Any:
        """Do what ``step`` says; ``source`` is the author's line."""

    @abstractmethod
    async def _call(self, callee: Callee, payload: bytes, session: str | None, source: str = "") -> Any: ...

    @abstractmethod
    async def _send(self, callee: Callee, payload: bytes, session: str | None, source: str) -> str: ...

    @abstractmethod
    async def _deliver(self, run: str, kind: Literal["event", "cancel"], name: str, value: bytes) -> None: ...

    @abstractmethod
    async def _event(self, name: str) -> bytes: ...

    @abstractmethod
    async def _ask(self, asked: Asked) -> Any: ...

    @abstractmethod
    def _identity(self, name: str) -> str:
        """A fresh structural identity for something that this branch does."""

    async def _message(self, kind: Literal["call", "send", "publish"], to: Any, message: object, /) -> Any:  # noqa: ARG002 - for those who can
        """Carry a message by address; only a message agent's context can."""
        msg = f"ctx.{kind}() to {to!r} by address is for message agents: call the declared agent, or send in a step"
        raise NotDurable(msg)

    # -- for authors

    @property
    def message(self) -> Envelope:
        """The message that a message agent is handling: id, sender, topic, headers, deadline.

        Raises ``UsageError`` in other code.
        """
        msg = "ctx.message is there while a message agent handles a message; this code was called in another way"
        raise UsageError(msg)

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
    def step(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function with side effects; its result is recorded, and then it never runs again.

        It is attempted at least once: inside, ``Attempt.current().key`` is the same for each attempt. The
        result comes back as the function's declared return type, decoded from JSON, live and replayed
        alike. Async functions run on the runtime's loop, others in a thread.

        Raises:
            StepFailed: It raised, and its retry policy is exhausted. Always this, never the original type.
            NotEncodable: An argument or the result has no JSON form.
        """
        # Not async itself: only here is the author's line on the stack, also where a task runs the coroutine later.
        return self._step(fn, args, kwargs, caller_source())

    @overload
    async def call(self, callee: AgentId, message: object, /) -> Any: ...
    @overload
    async def call(
        self, callee: Agent[O] | AgentRef[O], message: object, /, *, session: str | None = None
    ) -> Reply[O]: ...
    @overload
    async def call(self, callee: Workflow[P, T] | WorkflowRef[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def call(self, callee: Any, /, *args: Any, session: str | None = None, **kwargs: Any) -> Any:
        """Call an agent or a workflow and wait for its answer, which survives any crash.

        Args:
            callee: An agent, a workflow, or a reference to one of another app; a message agent also by its address.
            *args: An agent's message; a workflow's arguments.
            session: Go on with this conversation. Without it, the agent gets a fresh one, owned by this run.
            **kwargs: A workflow's arguments.

        Raises:
            CallFailed: It failed; says with what.
            SessionBusy: The session waits for this very call.
            InvalidInput: The arguments do not fit.
        """
        if isinstance(callee, AgentId):
            return self._message("call", callee, *args, **kwargs)
        return self._called(callee, args, kwargs, session, caller_source())

    async def _called(
        self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any], session: str | None, source: str
    ) -> Any:
        return await self._call(callee, encoded(callee, args, kwargs), session, source)

    def send(self, callee: Any, /, *args: Any, session: str | None = None, **kwargs: Any) -> Coroutine[Any, Any, str]:
        """Start an agent or a workflow without waiting for it; return its run's id.

        It is accepted together with what this code has done so far, or not at all. ``ctx.child`` says when it
        begins and what becomes of it when this run ends first; by default it is left alone.

        From a message agent to an address (``AgentId``), a message is sent without waiting; returns its id.

        Raises as ``call``, but for ``CallFailed``.
        """
        if isinstance(callee, AgentId):
            return self._message("send", callee, *args, **kwargs)
        return self._sent(callee, args, kwargs, session, caller_source())

    async def publish(self, message: object, topic: TopicId | str = "default", /) -> None:
        """Publish from a message agent to all that are subscribed, but not to itself.

        Args:
            message: What their handlers take.
            topic: A ``TopicId``; or its type, the source then being the key of the agent that publishes.

        Raises:
            NotDurable: This code is no message agent.
        """
        await self._message("publish", topic, message)

    async def _sent(
        self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any], session: str | None, source: str
    ) -> str:
        return await self._send(callee, encoded(callee, args, kwargs), session, source)

    def child(
        self,
        *,
        delay: timedelta | None = None,
        on_close: Literal["cancel", "terminate", "abandon"] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Self:
        """This context with options for what is called or sent on it next: ``ctx.child(delay=…).send(remind, name)``.

        Args:
            delay: Begin after so long.
            on_close: What becomes of it when this run ends first. By default what is called is cancelled, and
                what is sent is left alone (``abandon``).
            tags: Labels that it is listed by.
        """
        other = copy(self)
        other._child = ChildOptions(delay, on_close, dict(tags or {}))  # noqa: SLF001 - our own copy
        return other

    # -- events and other runs

    @overload
    async def wait_event(self, name: str, payload: type[T], /, *, deadline: timedelta | None = None) -> T: ...
    @overload
    async def wait_event(self, name: str, payload: type[T], /, *, deadline: timedelta, default: T) -> T: ...
    async def wait_event(
        self, name: str, payload: Any, /, *, deadline: timedelta | None = None, default: Any = ...
    ) -> Any:
        """Take the next event of a name, in the order of arrival; those that came before anybody waited are kept.

        Args:
            name: What it is called.
            payload: Its type.
            deadline: When to stop waiting.
            default: What to return at the deadline; without it, ``TimeoutError`` is raised.

        Raises:
            InvalidInput: The event's payload does not fit; the event is used up.
        """
        data = await _within(deadline, default, partial(self._event, name))
        return data if data is default else encoding.decode(data, payload, f"the payload of event {name!r}")

    async def send_event(self, run: str, name: str, payload: object = None, /) -> None:
        """Send an event to another run, together with what this code has done so far.

        A run that has finished, or never was, does not get it, and nobody is told.
        """
        await self._deliver(run, "event", name, encoding.encode(payload, Any, f"the payload of event {name!r}"))

    async def cancel(self, run: str, reason: str = "", /) -> None:
        """Ask another run to stop, such as one that was sent from here; its clean-up still runs."""
        await self._deliver(run, "cancel", "", encoding.encode(reason, str, "the reason"))

    def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:
        """End here and begin anew under the same id, with these arguments and an empty journal.

        For runs that go on for ever. Events that nobody has taken yet are kept, waiting children are given up.
        Clean-up of the code still runs. A workflow's code only.
        """
        raise Again(args, kwargs)

    @overload
    async def ask(
        self,
        prompt: str,
        answer: type[T],
        /,
        *,
        deadline: timedelta | None = None,
        to: str = "",
        escalate: Mapping[timedelta, str] = ...,
    ) -> T: ...
    @overload
    async def ask(
        self,
        prompt: str,
        answer: type[T],
        /,
        *,
        deadline: timedelta,
        default: T,
        to: str = "",
        escalate: Mapping[timedelta, str] = ...,
    ) -> T: ...
    def ask(
        self,
        prompt: str,
        answer: Any,
        /,
        *,
        deadline: timedelta | None = None,
        default: Any = ...,
        to: str = "",
        escalate: Mapping[timedelta, str] | None = None,
    ) -> Any:
        """Ask a human (or another system) and wait, for days if need be, at no cost.

        Args:
            prompt: What a person reads.
            answer: The answer's type; its JSON schema is what the answer must fit.
            deadline: When to stop waiting.
            default: What to return at the deadline; without it, ``TimeoutError`` is raised.
            to: Who is asked: a role or an address, as those who answer understand it.
            escalate: Who is asked instead when there is no answer after so long.
        """
        steps = tuple(sorted((escalate or {}).items()))
        asked = Asked(prompt, answer, deadline, to, steps, caller_source())
        return _within(deadline, default, partial(self._ask, asked))

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


_SEEDS: Final = uuid.UUID("0f6b3c1e-7d61-5d0b-9f3e-6f2a4f1f8d55")
_SOURCES: Final[dict[tuple[str, int], str]] = {}
_MAX_SOURCES: Final = 10_000


def caller_source() -> str:
    """The line that called the function which asks, for people: ``orders.py:42``."""
    frame = sys._getframe(2)  # noqa: SLF001 - inspect's way costs thrice  # pyright: ignore[reportPrivateUsage]
    place = frame.f_code.co_filename, frame.f_lineno  # not the code itself, whose hash is made anew each time
    source = _SOURCES.get(place)
    if source is None:
        if len(_SOURCES) >= _MAX_SOURCES:  # code that is made at run time, again and again
            _SOURCES.clear()
        source = _SOURCES[place] = f"{PurePath(place[0]).name}:{place[1]}"
    return source


async def _within(deadline: timedelta | None, default: Any, wait: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until the deadline; then the default, if there is one."""
    if deadline is None:
        return await wait()
    scope = asyncio.timeout(deadline.total_seconds())
    try:
        async with scope:
            return await wait()
    except TimeoutError:
        if default is ... or not scope.expired():
            raise
        return default
