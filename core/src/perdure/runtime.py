"""``Runtime``: an app opened over plugins and configuration; what outside code calls agents and workflows with."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, ParamSpec, Self, TypeVar, TypeVarTuple, overload

from perdure import config, encoding
from perdure.agent import Agent
from perdure.catalog import Catalog
from perdure.clock import SystemClock
from perdure.context import encoded
from perdure.errors import AlreadyStarted, InvalidInput, PayloadTooLarge, PluginMissing, UnknownName, UsageError
from perdure.messages import Delivery, RunFilter, RunView, Start, TopicId
from perdure.plugins import Plugins
from perdure.ports import EngineParts, Operation
from perdure.runs import Run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path

    from perdure.agent import AgentRef, Tool
    from perdure.context import Context, Reply
    from perdure.messages import Accepted, AgentId, RequestView, Status, Whereabouts
    from perdure.ports import (
        AgentMiddleware,
        Clock,
        DurableStore,
        Engine,
        Messenger,
        Model,
        Query,
        RuntimeMiddleware,
    )
    from perdure.workflow import Workflow, WorkflowRef

P = ParamSpec("P")
T = TypeVar("T")
O = TypeVar("O")  # noqa: E741 - output
Ts = TypeVarTuple("Ts")

Reuse = Literal["join", "fail", "restart", "restart_failed"]

_PURGE: Final = 1000


class StartOptions(NamedTuple):
    """See ``Runtime.options``."""

    id: str | None = None
    reuse: Reuse = "join"
    tags: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default, never changed in place
    delay: timedelta | None = None


class Runtime:
    """See ``Runtime.open``. Fills ``perdure.ports.Services`` for plugins.

    Attributes:
        configuration: The settings.
        plugins: What is installed.
        catalog: Agents, workflows and tools by name.
        engine: What drives runs and turns.
        query: Views on them.
        clock: The time.
        middleware: What ``through`` passes operations through, outermost first.
    """

    def __init__(self, settings: config.Settings, plugins: Plugins, clock: Clock, model: Model | None) -> None:
        self.configuration = settings
        self.plugins = plugins
        self.clock = clock
        self.catalog: Catalog = Catalog(plugins)
        self.agent_middleware: Sequence[AgentMiddleware] = ()
        self.engine: Engine
        self.query: Query
        self.middleware: Sequence[RuntimeMiddleware] = ()
        self._models: dict[str, Model] = {}
        self._only_model = model
        self._messenger: Messenger | None = None
        self._options = StartOptions()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *apps: object,
        settings: config.Settings | None = None,
        store: DurableStore | None = None,
        model: Model | None = None,
        clock: Clock | None = None,
        drive: bool = True,
        **overrides: Any,
    ) -> AsyncGenerator[Runtime]:
        """Open apps over plugins and configuration.

        Args:
            *apps: Apps and other hook plugins, besides those that entry points name.
            settings: The configuration, as it is; by default read from files and environment.
            store: A store to use instead of the configured one; it is not closed.
            model: A model to use instead of every other one; it is not closed.
            clock: The time.
            drive: Whether to drive runs; otherwise this runtime only accepts and looks, and others drive.
            **overrides: Settings that beat those read from files and environment (``data="state"``).

        Raises:
            InvalidSetting, PluginError: The configuration or installation is wrong.
            UsageError: What the apps declare is wrong, or ``settings`` are given as well as single ones.
        """
        if settings is not None and overrides:
            msg = f"settings=… and single settings ({', '.join(sorted(overrides))}) are both given: leave one out"
            raise UsageError(msg)
        settings = settings or config.load(overrides=overrides)
        plugins = Plugins(settings.plugins)
        plugins.start(apps)
        runtime = cls(settings, plugins, clock or SystemClock(), model)
        runtime.catalog.bind(runtime)
        async with AsyncExitStack() as stack:
            await runtime._enter(stack, store, drive=drive)
            yield runtime

    # -- calling

    def options(
        self,
        *,
        id: str | None = None,
        reuse: Reuse = "join",
        tags: Mapping[str, str] | None = None,
        delay: timedelta | None = None,
    ) -> Self:
        """This runtime with options for what is started on it next: ``rt.options(tags={…}).start(order, "x")``.

        Args:
            id: The run's id; by default an unguessable one. Choose ids only for callers who may know each other's.
            reuse: What it means if that id is taken: ``join`` is that run, ``fail`` raises ``AlreadyStarted``,
                ``restart`` begins it anew if it has finished, ``restart_failed`` if it finished without completing.
            tags: Labels that the run is listed by.
            delay: Begin after so long.
        """
        other = copy(self)
        other._options = StartOptions(id, reuse, dict(tags or {}), delay)  # noqa: SLF001 - our own copy
        return other

    @overload
    async def start(self, callee: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Run[T]: ...
    @overload
    async def start(
        self, callee: Callable[[Context, *Ts], Coroutine[Any, Any, T]], /, *args: *Ts, key: str | None = None
    ) -> Run[T]: ...
    @overload
    async def start(self, callee: WorkflowRef[..., T], /, *, key: str | None = None, **kwargs: Any) -> Run[T]: ...
    @overload
    async def start(
        self, callee: Agent[O] | AgentRef[O], message: object, /, *, key: str | None = None, session: str | None = None
    ) -> Run[Reply[O]]: ...
    async def start(
        self, callee: Any, /, *args: Any, key: str | None = None, session: str | None = None, **kwargs: Any
    ) -> Run[Any]:
        """Start a workflow or a turn; return as soon as it is safe.

        Args:
            callee: A workflow, an agent, or a reference to one.
            *args: The workflow's arguments; the agent's message.
            key: Idempotency key: a second start with it is the first one, and has its result.
            session: Go on with this conversation; without it, a new one begins.
            **kwargs: The workflow's arguments.

        Raises:
            UnknownName, InvalidInput, NotEncodable, PayloadTooLarge: The call is wrong.
            StoreUnavailable: It could not be made safe.
        """
        payload = encoded(callee, args, kwargs)
        return await self._submit(self.catalog.target(callee), payload, callee.decode_result, key, session)

    @overload
    async def call(self, callee: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def call(
        self, callee: Callable[[Context, *Ts], Coroutine[Any, Any, T]], /, *args: *Ts, key: str | None = None
    ) -> T: ...
    @overload
    async def call(
        self, callee: Agent[O] | AgentRef[O], message: object, /, *, key: str | None = None, session: str | None = None
    ) -> Reply[O]: ...
    async def call(self, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        """``start``, then wait for the result."""
        started: Run[Any] = await self.start(callee, *args, **kwargs)
        return await started.result()

    async def submit(
        self, name: str, payload: bytes, *, key: str | None = None, session: str | None = None
    ) -> Run[Any]:
        """Start an agent or workflow by name with JSON, as adapters do: a message, or an object of arguments.

        The run's result is decoded JSON. Raises as ``start``.
        """
        target, _ = self.catalog.find_any(name)
        return await self._submit(target, payload, partial(encoding.decode, annotation=Any, where=target), key, session)

    async def answer(self, request: str, value: object) -> None:
        """Answer a request of a run.

        Raises:
            UnknownName, RequestClosed: There is no such request, or it is not open.
            InvalidInput: The answer does not fit the request's schema; the request stays open.
        """
        found = await self.query.request(request)
        if found is None:
            hint = "'perdure runs --status waiting' lists the runs that wait"
            raise UnknownName("request", request, hint=hint)
        data = self.encoded(value, f"the answer to request {request!r}")
        await self.engine.deliver(Delivery(found.run, "answer", request, self.clock.now(), data))

    async def cancel(self, run: str, reason: str = "") -> None:
        """Ask a run to stop; its clean-up code still runs. Raises ``UnknownName``."""
        await self.handle(run).cancel(reason)

    async def send(self, message: object, to: AgentId, *, deadline: float | None = None, id: str | None = None) -> Any:
        """Send a message to an agent and wait for its reply.

        Args:
            message: What the agent's handlers take.
            to: Its address; a short type is enough where it is unambiguous.
            deadline: Seconds to wait; ``DeadlineExceeded`` afterwards.
            id: The message's id, unique among all senders; by default a fresh one. To a durable agent it is the
                idempotency key.

        Raises:
            Undeliverable: No agent of that type, or no handler for that message.
            DeadlineExceeded: No reply in time.
            PerdureError: The agent's own error, as its original type where that is Perdure's, else ``CallFailed``.
            PluginMissing: Nothing that carries messages is installed.
        """
        # Not by the property alone, which is a call more for each message.
        return await (self._messenger or self.messenger).send(message, to, deadline=deadline, id=id)

    async def publish(self, message: object, topic: TopicId | str, *, id: str | None = None) -> None:
        """Publish a message to all agents that are subscribed to its topic; return once the transport has accepted it.

        Args:
            message: What their handlers take; who has none for it leaves a dead letter.
            topic: A ``TopicId``, or its type, the source then being ``default``.
            id: The message's id, unique among all senders; by default a fresh one.

        Raises:
            NotEncodable, PayloadTooLarge: It cannot travel.
            RetryableError: It was not accepted.
        """
        at = TopicId(topic) if isinstance(topic, str) else topic
        await (self._messenger or self.messenger).publish(message, at, id=id)

    async def agents(self) -> Sequence[Whereabouts]:
        """Which agent types live where, by type and worker."""
        return await self.messenger.agents()

    # -- looking

    async def view(self, run: str) -> RunView:
        """A run or turn as it stands. Raises ``UnknownName``."""
        view = await self.query.run(run)
        if view is None:
            raise UnknownName("run", run, hint="'perdure runs' lists them")
        return view

    def handle(self, run: str) -> Run[Any]:
        """A run by its id, to talk to it and look after it; its result is decoded JSON."""
        return Run(self, run, partial(encoding.decode, annotation=Any, where=run))

    async def purge(
        self,
        *,
        older_than: timedelta,
        status: Sequence[Status] = (),
        target: str | None = None,
        limit: int | None = None,
    ) -> int:
        """Forget finished runs that nothing was written about for so long; return how many.

        Args:
            older_than: For how long.
            status: Only those; by default all that have finished.
            target: Only those of this workflow or agent, by qualified name.
            limit: So many at most.
        """
        before = self.clock.now() - older_than.total_seconds()
        which = RunFilter(target=target, status=tuple(status), idle_since=before)
        gone = 0
        while limit is None or gone < limit:
            page = min(_PURGE, limit - gone) if limit is not None else _PURGE
            went = await self.engine.upkeep.purge(which, limit=page)
            gone += went
            if went < page:
                break
        return gone

    async def requests(self, run: str | None = None) -> Sequence[RequestView]:
        """Open requests, oldest first."""
        return await self.query.requests(run=run)

    # -- Services, for plugins

    def tool(self, name: str) -> Tool[..., Any]:
        """The tool that some app lists under this name."""
        return self.catalog.find("tool", name)[1]

    def model(self, name: str | None) -> Model:
        """The client for ``provider:model``, or the default one; made once."""
        if self._only_model is not None:
            return self._only_model
        name = name or self.configuration.model
        if name not in self._models:
            provider, colon, model = name.partition(":")
            if not colon or not model:
                hint = "expected 'provider:model', such as 'offline:extractive' or 'openai:gpt-5'"
                raise UnknownName("model", name, hint=hint)
            make = self.plugins.named("model", provider)
            self._models[name] = make(model=model, settings=self.settings(f"model-{provider}"))
        return self._models[name]

    @property
    def messenger(self) -> Messenger:
        """What carries messages. Raises ``PluginMissing``."""
        if self._messenger is None:
            msg = "no installed plugin carries messages: pip install perdure-messaging"
            raise PluginMissing(msg)
        return self._messenger

    def settings(self, section: str) -> Mapping[str, Any]:
        """A plugin's own section of the configuration."""
        return self.configuration.section(section)

    @property
    def data(self) -> Path:
        """The folder for local files; it may not be there yet."""
        return self.configuration.data

    # -- inside

    async def _enter(self, stack: AsyncExitStack, store: DurableStore | None, *, drive: bool) -> None:
        plugins, settings = self.plugins, self.configuration
        stack.push_async_callback(self._close_models)
        for _, _, lifespan in plugins.each("perdure_lifespan"):
            await stack.enter_async_context(lifespan(services=self))
        self.agent_middleware = _collected(plugins, "perdure_agent_middleware")
        self.middleware = _collected(plugins, "perdure_runtime_middleware")
        if store is None:
            section = self.settings(f"store-{settings.store}") or self.settings(f"transport-{settings.store}")
            opened: DurableStore = plugins.named("store", settings.store)(settings=section, data=str(settings.data))
            stack.push_async_callback(opened.close)
            store = opened
        parts = EngineParts(
            store=store,
            programs=self.catalog,
            clock=self.clock,
            step_middleware=_collected(plugins, "perdure_step_middleware"),
            observers=_collected(plugins, "perdure_observers"),
            codecs=_collected(plugins, "perdure_codecs"),
            max_payload=settings.max_payload,
        )
        make = plugins.named("engine", settings.engine)
        self.engine = make(settings=self.settings(f"engine-{settings.engine}"), parts=parts)
        self.query = self.engine.query
        self._make_messenger()  # before anything runs: a turn that was interrupted may send messages
        if drive:
            stack.push_async_callback(self.engine.stop)
            await self.engine.start()
        if self._messenger is not None:
            stack.push_async_callback(self._messenger.stop)
            # Within a process nobody can call before this runtime does; from elsewhere, only by a configured transport.
            if drive and settings.transport != config.Settings.model_fields["transport"].default:
                await self._messenger.start()

    def _make_messenger(self) -> None:
        makers = self.plugins.each("perdure_messenger")
        if len(makers) > 1:
            msg = f"two plugins carry messages: {', '.join(repr(each) for each, _, _ in makers)}; block one"
            raise UsageError(msg)
        for _, _, make in makers:
            self._messenger = make(runtime=self)

    async def _submit(
        self, target: str, payload: bytes, decode: Callable[[bytes], Any], key: str | None, session: str | None
    ) -> Run[Any]:
        self._check_size(payload, f"the input of {target!r}")
        workflow = self.catalog.declared("workflow").get(target)
        if workflow is not None:
            if session is not None:
                msg = f"workflow {target!r} has no sessions: leave out session={session!r}"
                raise InvalidInput(msg)
            workflow.parameters.decode(payload, f"the input of workflow {target!r}")
        else:
            declared, _ = self.catalog.handler(target)
            declared.decode_input(payload)
            session = session or secrets.token_hex(8)
        options, now = self._options, self.clock.now()
        kind = "turn" if workflow is None else "workflow"
        run = options.id or f"{'turn' if workflow is None else 'run'}_{secrets.token_hex(16)}"

        async def accept(operation: Operation) -> Accepted:
            start = Start(
                run,
                kind,
                target,
                payload,
                now,
                session=session,
                key=key,
                headers=operation.headers,
                tags=options.tags,
                version=self.catalog.version(target),
                due=None if options.delay is None else now + options.delay.total_seconds(),
                on_close="abandon",
                reuse="join" if options.reuse == "fail" else options.reuse,
            )
            return await self.engine.submit(start)

        accepted: Accepted = await self.through(Operation("start", target, {}), accept)
        if not accepted.new and options.id is not None and options.reuse == "fail":
            msg = f"run {options.id!r} is there already: leave out reuse='fail' to join it, or choose another id"
            raise AlreadyStarted(msg)
        return Run(self, accepted.run, decode, new=accepted.new)

    async def through(self, operation: Operation, last: Callable[[Operation], Awaitable[Any]]) -> Any:
        """Run an operation through the runtime middleware, outermost first."""
        proceed = last
        for middleware in reversed(self.middleware):
            proceed = partial(_around, middleware, proceed)
        return await proceed(operation)

    def encoded(self, value: object, what: str) -> bytes:
        """JSON of something for a run. Raises ``NotEncodable``, ``PayloadTooLarge``."""
        data = encoding.encode(value, Any, what)
        self._check_size(data, what)
        return data

    def _check_size(self, data: bytes, what: str) -> None:
        limit = self.configuration.max_payload
        if len(data) > limit:
            msg = (
                f"{what} has {len(data):,} bytes, the limit is {limit:,} (setting max_payload): pass a reference,"
                " such as a path, or raise the limit"
            )
            raise PayloadTooLarge(msg)

    async def _close_models(self) -> None:
        async with AsyncExitStack() as stack:  # each is closed, whatever becomes of the others
            for model in self._models.values():
                stack.push_async_callback(model.close)


async def _around(
    middleware: RuntimeMiddleware, proceed: Callable[[Operation], Awaitable[Any]], operation: Operation
) -> Any:
    return await middleware(operation, proceed)


def _collected(plugins: Plugins, hook: str) -> list[Any]:
    return [item for _, _, items in plugins.collect(hook) for item in items]
