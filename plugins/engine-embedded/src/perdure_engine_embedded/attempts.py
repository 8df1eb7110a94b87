"""Attempts at a step: middleware, body, retry. Knows nothing of journals but the entry it returns."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from perdure.errors import PayloadTooLarge
from perdure.messages import Entry, ErrorInfo
from perdure.ports import StepInfo
from perdure.steps import Attempt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure.execution import Command
    from perdure.messages import Start
    from perdure.ports import EngineParts
    from perdure.steps import StepCall


async def attempt(parts: EngineParts, start: Start, command: Command, number: int) -> tuple[Entry, float | None]:
    """Make one attempt.

    Returns:
        The entry for the journal: kind ``step`` with the outcome, or kind ``attempt`` if another one is to follow;
        and for the latter, how long to wait before it (seconds).
    """
    call: StepCall = command.body
    started = parts.clock.now()
    key = f"{start.run}:{command.path}"
    body: Callable[[], Awaitable[Any]] = partial(call.attempt, Attempt(key, number))
    if parts.step_middleware:
        info = StepInfo(start, command.path, call.name, call.role, number, key)
        for middleware in reversed(parts.step_middleware):
            body = partial(middleware, info, body)
    pause: float | None = None
    value = error = None
    try:
        value = call.encode(await body())
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
    entry = Entry(
        kind="step" if pause is None else "attempt",
        path=command.path,
        at=parts.clock.now(),
        name=call.name,
        fingerprint=call.fingerprint,
        value=value,
        error=error,
        attempt=number,
        started=started,
        role=call.role,
    )
    return entry, pause
