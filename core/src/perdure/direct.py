"""The context that does everything at once and remembers nothing: volatile work, steps in scripts and tests."""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar

from perdure.context import Context
from perdure.errors import NotDurable, StepFailed
from perdure.messages import ErrorInfo
from perdure.steps import Attempt, StepCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure.context import Asked, Callee
    from perdure.messages import AgentId, ChatMessage
    from perdure.ports import Clock, Conversation

P = ParamSpec("P")
T = TypeVar("T")


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

    @property
    def logger(self) -> logging.LoggerAdapter[Any]:
        return logging.LoggerAdapter(logging.getLogger("perdure.run"), {"run": self._run_id})

    def patched(self, id: str, /) -> bool:  # noqa: ARG002 - nothing ran before
        return True

    def set_status(self, text: str, /, *, done: float | None = None, total: float | None = None) -> None:
        """Nobody watches."""

    def on_query(self, fn: Callable[P, T], /) -> Callable[P, T]:
        return fn  # nobody can ask

    def on_update(self, fn: Callable[P, T], /, *, validate: Callable[P, object] | None = None) -> Callable[P, T]:  # noqa: ARG002 - as above
        return fn

    async def _step(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], source: str) -> Any:  # noqa: ARG002 - there is no journal to name it in
        call = StepCall.bind(fn, args, kwargs, self._options)
        key = f"{self._run_id}:{self._identity(call.name)}"
        number = 1
        while True:
            try:
                _, seen = call.encode(await call.attempt(Attempt(key, number)))
            except Exception as error:
                pause = call.retry.pause(number, error)
                if pause is None:
                    raise StepFailed(call.name, ErrorInfo.of(error)) from error
            else:
                return seen
            await self._clock.sleep_until(self._clock.now() + pause)
            number += 1

    async def sleep(self, duration: float | timedelta) -> None:
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
        await self._clock.sleep_until(self._clock.now() + seconds)

    async def _call(self, callee: Callee, payload: bytes, session: str | None, source: str = "") -> Any:  # noqa: ARG002 - as above
        return callee.decode_result(await self._caller(callee, payload, session))

    async def _send(self, callee: Callee, payload: bytes, session: str | None, source: str) -> str:  # noqa: ARG002 - the interface
        raise _not_durable(f"ctx.send({callee.name!r}): what is sent")

    async def _deliver(self, run: str, kind: Literal["event", "cancel"], name: str, value: bytes) -> None:  # noqa: ARG002 - as above
        raise _not_durable(f"to reach run {run!r}: what goes to another run")

    async def _event(self, name: str) -> bytes:
        raise _not_durable(f"ctx.wait_event({name!r}): what waits for an event")

    async def _ask(self, asked: Asked) -> Any:
        raise _not_durable(f"ctx.ask({asked.prompt!r}): a request")

    def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002 - as above
        raise _not_durable("ctx.continue_as_new(): a run that goes on for ever")


def _not_durable(what: str) -> NotDurable:
    return NotDurable(f"{what} outlives its process, and this code runs volatile: start it as a run")
