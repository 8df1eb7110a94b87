"""What a step is: a function with its arguments, its options, and the attempts at it.

A step's body runs outside the machine: in the driver of an engine, or at once under a direct context. Both
use ``StepCall.attempt``; neither knows more of the other.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, overload
from weakref import WeakKeyDictionary

from perdure import encoding
from perdure.errors import DeadlineExceeded, RetryableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

F = TypeVar("F", bound="Callable[..., Any]")

Role = Literal["step", "model", "tool"]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """When a failed attempt is followed by another.

    Attributes:
        attempts: How many at most, the first included.
        first: Seconds before the second attempt.
        backoff: Factor from one pause to the next.
        cap: The longest pause in seconds.
        jitter: Each pause is longer or shorter by up to this part of it, at random: 0.2 is up to 20 %.
        on: Which exceptions are worth another attempt.
        never_on: Which of these are not.
    """

    attempts: int = 4
    first: float = 0.2
    backoff: float = 2.0
    cap: float = 30.0
    jitter: float = 0.0
    on: tuple[type[Exception], ...] = (RetryableError,)
    never_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        fits = self.attempts >= 1 and self.first >= 0 and self.backoff >= 1 and self.cap >= 0
        if not (fits and 0 <= self.jitter <= 1):
            msg = f"{self!r}: expected attempts >= 1, first >= 0, backoff >= 1, cap >= 0, jitter from 0 to 1"
            raise UsageError(msg)

    def pause(self, attempt: int, error: BaseException) -> float | None:
        """Seconds to wait after this attempt failed with this error, or ``None`` to give up.

        An error's own ``retry_after`` (seconds) is respected when it is longer.
        """
        if attempt >= self.attempts or not isinstance(error, self.on) or isinstance(error, self.never_on):
            return None
        asked = getattr(error, "retry_after", None)
        try:
            own = min(self.first * self.backoff ** (attempt - 1), self.cap)
        except OverflowError:
            own = self.cap if self.first else 0.0
        own *= 1 + self.jitter * random.uniform(-1, 1)  # noqa: S311 - to spread attempts, nothing secret
        return max(own, asked) if isinstance(asked, int | float) else own


DEFAULT_RETRY: Final = Retry()
"""Only errors that say of themselves that trying again may help; four attempts."""

NEVER: Final = Retry(attempts=1)


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step is attempted; ``None`` leaves it to the function's own options, then to the default."""

    retry: Retry | None = None
    timeout: float | None = None
    heartbeat: float | None = None
    process: bool = False
    local: bool = False
    name: str | None = None
    role: Role = "step"
    fingerprint: str | None = None
    returns: Any = None


@dataclass(slots=True)  # not frozen: one is made for each attempt, and that would take four times as long
class Attempt:
    """One attempt of one step, as its body sees it.

    Attributes:
        key: Idempotency key: the same for every attempt of this step, whichever process makes it. Pass it to
            services that take one.
        number: 1 for the first attempt.
        details: What an earlier attempt passed to ``heartbeat`` last, as decoded JSON; ``None`` if none did.
    """

    key: str
    number: int = 1
    details: Any = None
    beat: Callable[[Any], None] | None = field(default=None, repr=False, compare=False)

    def heartbeat(self, details: object = None) -> None:
        """Say that this attempt is alive, and how far it is; the next attempt, if it comes to that, has the details.

        Needed by steps that declare ``heartbeat=``: without a word for that long, the attempt counts as dead. From any
        thread; cheap, so call it often: details are stored about once a second.
        """
        if self.beat is not None:
            self.beat(details)

    @staticmethod
    def current() -> Attempt:
        """The attempt that this code runs in. Raises ``UsageError`` outside a step."""
        try:
            return _current.get()
        except LookupError:
            msg = "Attempt.current() was called outside a step: call it in a function that ctx.step runs"
            raise UsageError(msg) from None

    @contextmanager
    def entered(self) -> Generator[None]:
        """Make this the attempt that the code inside runs in: for what runs bodies."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Attempt] = ContextVar("perdure_attempt")


@overload
def step(fn: F, /) -> F: ...
@overload
def step(
    *,
    retry: Retry | None = None,
    timeout: float | None = None,
    heartbeat: float | None = None,
    name: str | None = None,
    process: bool = False,
    local: bool = False,
) -> Callable[[F], F]: ...
def step(  # noqa: PLR0913 - each by its name
    fn: F | None = None,
    /,
    *,
    retry: Retry | None = None,
    timeout: float | None = None,
    heartbeat: float | None = None,
    name: str | None = None,
    process: bool = False,
    local: bool = False,
) -> F | Callable[[F], F]:
    """Give a function its own step options; it stays an ordinary function.

    Args:
        fn: The function, where the decorator is used without parentheses.
        retry: When to try again.
        timeout: Seconds for one attempt.
        heartbeat: Seconds within which an attempt must call ``Attempt.heartbeat``, or it counts as dead.
        name: Its name in journals, if not its own: set it before you rename a function that runs depend on.
        process: Run it in a process of its own: CPU work that would keep this one from everything else. It must be
            a plain function at the top of a module, its arguments and result what JSON carries by their types.
        local: Cheap, and no harm if it runs again: its result is recorded together with what comes after it, so that
            many of them cost one write. A crash may repeat those since the last write.
    """

    def mark(function: F) -> F:
        function.__perdure_step__ = StepOptions(  # type: ignore[attr-defined]
            retry=retry, timeout=timeout, heartbeat=heartbeat, name=name, process=process, local=local
        )
        return function

    return mark if fn is None else mark(fn)


Apart: TypeAlias = "Callable[[StepCall, Attempt], Awaitable[Any]]"
"""Runs a body in a process of its own, where the driver can."""


class StepCall(NamedTuple):
    """A function bound to its arguments and options, ready to be attempted."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    role: Role
    retry: Retry
    timeout: float | None
    returns: Any
    fingerprint: str
    is_async: bool = False
    heartbeat: float | None = None
    process: bool = False
    local: bool = False

    @classmethod
    def bind(
        cls, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: StepOptions
    ) -> StepCall:
        """Merge the call's options with the function's own. Raises ``NotEncodable`` for live arguments."""
        known = _looked_up(fn)
        own, name, returns = known.own, options.name or known.name, options.returns
        if returns is None:  # only now: the annotations of a function whose type is given need not be there
            returns = known.returns = encoding.returns_of(fn) if known.returns is ... else known.returns
        return cls(
            fn,
            args,
            kwargs,
            name,
            options.role,
            options.retry or own.retry or DEFAULT_RETRY,
            options.timeout if options.timeout is not None else own.timeout,
            returns,
            options.fingerprint if options.fingerprint is not None else encoding.fingerprint(args, kwargs, name),
            known.is_async,
            options.heartbeat if options.heartbeat is not None else own.heartbeat,
            options.process or own.process,
            options.local or own.local,
        )

    async def attempt(self, attempt: Attempt, apart: Apart | None = None) -> Any:
        """Run the body once: async functions here, others in a thread. The value is not yet encoded.

        Args:
            attempt: Which attempt it is.
            apart: Runs bodies that are meant for a process; without it, they run in a thread.

        Raises:
            DeadlineExceeded: It took longer than ``timeout``. (A thread cannot be stopped: it runs on, unheard.)
        """
        token = _current.set(attempt)
        try:
            if self.timeout is None and self.heartbeat is None:
                return await self._body(attempt, apart)
            return await self._bounded(attempt, apart)
        finally:
            _current.reset(token)

    async def _bounded(self, attempt: Attempt, apart: Apart | None) -> Any:
        """Run the body, for as long as it may take and gives signs of life."""
        loop = asyncio.get_running_loop()
        whole, silence = asyncio.timeout(self.timeout), asyncio.timeout(self.heartbeat)

        def heard() -> None:
            if self.heartbeat is not None and not silence.expired():
                silence.reschedule(loop.time() + self.heartbeat)

        def beat(details: object) -> None:
            loop.call_soon_threadsafe(heard)
            attempt.heartbeat(details)

        heard_attempt = replace(attempt, beat=beat)
        try:
            with heard_attempt.entered():
                async with whole, silence:
                    return await self._body(heard_attempt, apart)
        except TimeoutError as error:
            if whole.expired():
                msg = f"step {self.name!r} took longer than its timeout of {self.timeout:g} s"
            elif silence.expired():
                way_out = "call Attempt.current().heartbeat() in it more often"
                msg = f"step {self.name!r} gave no sign of life for {self.heartbeat:g} s: {way_out}"
            else:
                raise
            raise DeadlineExceeded(msg) from error

    async def _body(self, attempt: Attempt, apart: Apart | None) -> Any:
        if self.process and apart is not None:
            return await apart(self, attempt)
        if self.is_async:
            return await self.fn(*self.args, **self.kwargs)
        value = await asyncio.to_thread(self.fn, *self.args, **self.kwargs)
        return await value if inspect.isawaitable(value) else value

    def encode(self, value: Any) -> tuple[bytes, Any]:
        """The value as JSON, by the function's return type, and as code will see it. Raises ``NotEncodable``."""
        return encoding.encode_and_read(value, self.returns, f"the result of step {self.name!r}")

    def decode(self, data: bytes) -> Any:
        """The value that the author's code sees, live and replayed alike."""
        return encoding.decode(data, self.returns, f"the recorded result of step {self.name!r}")


@dataclass(slots=True)
class _Known:
    """What is known of a function, as far as it was looked up: its options, name, return type (or ``...``)."""

    own: StepOptions
    name: str
    is_async: bool
    returns: Any = ...


def _looked_up(fn: Callable[..., Any]) -> _Known:
    """The facts about a function, looked up once, for it may be a step in a loop."""
    fn = getattr(fn, "__func__", fn)  # a bound method is a new object each time
    try:
        known = _functions.get(fn)
    except TypeError:  # not hashable, as a callable instance may be
        return _function(fn)
    if known is None:
        known = _functions[fn] = _function(fn)
    return known


def _function(fn: Callable[..., Any]) -> _Known:
    own = getattr(fn, "__perdure_step__", None) or _NO_OPTIONS
    named = getattr(fn, "func", fn)  # of a functools.partial, too
    called = getattr(fn, "__call__", None)  # noqa: B004 - the method itself is what is looked at
    is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called)
    return _Known(own, own.name or getattr(named, "__name__", type(named).__name__), is_async)


_functions: WeakKeyDictionary[Callable[..., Any], _Known] = WeakKeyDictionary()
_NO_OPTIONS: Final = StepOptions()
