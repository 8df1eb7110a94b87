"""Attempts at a step: middleware, body, retry. Knows nothing of journals but the entry it returns."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic_core import from_json

from perdure import encoding
from perdure.errors import PayloadTooLarge
from perdure.execution import step_key
from perdure.messages import Entry, ErrorInfo
from perdure.ports import StepInfo
from perdure.steps import Attempt
from perdure_engine_embedded.processes import run_apart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure.execution import Command
    from perdure.messages import Start
    from perdure.ports import EngineParts, StepMiddleware
    from perdure.steps import StepCall

_SECOND: Final = 1.0


class Before(NamedTuple):
    """What is known of an attempt before it is made: which it is, since when (UTC seconds), and what the last one told.

    ``told`` is JSON of what that reported last, or ``None``.
    """

    number: int
    began: float
    told: bytes | None


async def attempt(
    parts: EngineParts,
    start: Start,
    command: Command,
    before: Before,
    tell: Callable[[bytes], None],
) -> tuple[Entry, float | None, Any]:
    """Make one attempt.

    Returns the entry for the journal, of kind ``step`` with the outcome, or of kind ``attempt`` if another one is to
    follow; of the latter, how long to wait before it (seconds); and the result as code will see it.

    Args:
        parts: What the engine stands on.
        start: Whose step it is.
        command: The step.
        before: What is known of it before.
        tell: Takes what this one reports, as JSON.
    """
    call: StepCall = command.body
    key = step_key(start, command.path)
    number, started, told = before
    pulse = Pulse(tell)
    attempted = Attempt(key, number, from_json(told) if told is not None else None, pulse.beat)
    pause: float | None = None
    value = error = seen = None
    try:
        if parts.step_middleware:
            info = StepInfo(start, command.path, call.name, call.role, number, key)
            result = await _through(parts.step_middleware, info, partial(call.attempt, attempted, run_apart))
        else:
            result = await call.attempt(attempted, run_apart)
        value, seen = call.encode(result)
        if len(value) > parts.max_payload:
            value = None
            msg = (
                f"the result of step {call.name!r} is over the limit of {parts.max_payload:,} bytes (setting"
                " max_payload): write it somewhere and return where it lies"
            )
            raise PayloadTooLarge(msg)  # noqa: TRY301 - it fails the step as anything that the body raises
    except (Exception, asyncio.CancelledError) as raised:  # whatever the author's code raises is the step's outcome
        task = asyncio.current_task()
        if isinstance(raised, asyncio.CancelledError) and (task is None or task.cancelling()):
            raise  # it was us who cancelled it
        error = ErrorInfo.of(raised).model_dump_json().encode()
        pause = call.retry.pause(number, raised)
    finally:
        pulse.stop(follows=pause is not None)
    entry = Entry(  # by place: one is made for each step, and names would cost as much again
        "step" if pause is None else "attempt",
        command.path,
        parts.clock.now(),
        call.name,
        call.fingerprint,
        value,
        error,
        number,
        started,
        call.role,
        command.source,
    )
    return entry, pause, seen


def _through(
    middlewares: Sequence[StepMiddleware], info: StepInfo, body: Callable[[], Awaitable[Any]]
) -> Awaitable[Any]:
    for middleware in reversed(middlewares):
        body = partial(middleware, info, body)
    return body()


class Pulse:
    """What an attempt reports, passed on about once a second: the first at once, then the latest, and the last.

    Args:
        tell: Is given JSON, on the event loop.
    """

    # Of the class: few attempts report anything.
    _latest: bytes | None = None
    _told: bytes | None = None
    _rest: asyncio.TimerHandle | None = None
    _stopped = False

    def __init__(self, tell: Callable[[bytes], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()

    def beat(self, details: object) -> None:
        """Report. From any thread. Raises ``NotEncodable``."""
        if details is not None:
            self._latest = encoding.encode(details, Any, "what a heartbeat reports")
            self._loop.call_soon_threadsafe(self._note)

    def stop(self, *, follows: bool) -> None:
        """The attempt is over; if another one ``follows``, that is to have what this one reported last."""
        if self._rest is not None:
            self._rest.cancel()
        if follows:
            self._pass_on()
        self._stopped = True
        if self._rest is not None:
            self._rest.cancel()

    def _note(self) -> None:
        if self._rest is None:
            self._pass_on()

    def _pass_on(self) -> None:
        self._rest = None
        if self._latest is not self._told and self._latest is not None and not self._stopped:
            self._told = self._latest
            self._tell(self._told)
            self._rest = self._loop.call_later(_SECOND, self._pass_on)
