"""The corpus: small asyncio programs as durable code. Each returns what it saw, so that a difference shows."""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

from perdure import workflow
from perdure.context import Context
from perdure.errors import StepFailed

Code = Callable[[Context], Awaitable[Any]]

PROGRAMS: dict[str, Code] = {}
CANCELLED: set[str] = set()
"""Programs whose run is cancelled at some point."""


def corpus(code: Code) -> Code:
    PROGRAMS[code.__name__] = code
    return code


def cancelled(code: Code) -> Code:
    CANCELLED.add(code.__name__)
    return corpus(code)


def read(x: int) -> int:
    return x * 10


def note(text: str) -> str:
    return text


def fail(x: int) -> int:
    msg = f"no {x}"
    raise ValueError(msg)


def pair(x: int) -> tuple[int, str]:
    return x, str(x)


@workflow
async def double(ctx: Context, n: int) -> int:
    return 2 * await ctx.step(read, n)


PROGRAMS["double"] = lambda ctx: double(ctx, 4)


# -- one after the other, and side by side ---------------------------------------------------------


@corpus
async def one_after_the_other(ctx: Context) -> Any:
    return [await ctx.step(read, n) for n in range(5)]


@corpus
async def a_step_returns_its_declared_type(ctx: Context) -> Any:
    value = await ctx.step(pair, 3)
    return [type(value).__name__, value]


@corpus
async def gathered(ctx: Context) -> Any:
    return await asyncio.gather(*(ctx.step(read, n) for n in range(5)))


@corpus
async def gathered_with_exceptions(ctx: Context) -> Any:
    found = await asyncio.gather(ctx.step(read, 1), ctx.step(fail, 2), ctx.step(read, 3), return_exceptions=True)
    return [str(item) for item in found]


@corpus
async def gathered_twice_over(ctx: Context) -> Any:
    async def branch(n: int) -> Any:
        first = await ctx.step(read, n)
        return await asyncio.gather(*(ctx.step(note, f"{first}/{m}") for m in range(n)))

    return await asyncio.gather(*(branch(n) for n in range(1, 4)))


@corpus
async def a_failure_through_gather(ctx: Context) -> Any:
    seen: list[str] = []

    async def slow() -> None:
        try:
            await ctx.step(read, 1)
            await ctx.step(read, 2)
            seen.append("slow done")
        except asyncio.CancelledError:
            seen.append("slow cancelled")
            raise

    other = asyncio.create_task(slow())
    try:
        await asyncio.gather(other, ctx.step(fail, 7))
    except StepFailed as error:
        seen.append(error.error.type)
    await other  # gather does not cancel its siblings
    return seen


@corpus
async def a_failed_step_is_caught(ctx: Context) -> Any:
    try:
        await ctx.step(fail, 3)
    except StepFailed as error:
        return [error.name, error.error.type, error.error.message, await ctx.step(note, "instead")]


@corpus
async def a_failed_step_ends_it(ctx: Context) -> Any:
    await ctx.step(read, 1)
    await ctx.step(fail, 3)


# -- task groups -----------------------------------------------------------------------------------


@corpus
async def a_task_group(ctx: Context) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.step(read, n)) for n in range(4)]
    return [task.result() for task in tasks]


@corpus
async def a_task_group_that_fails(ctx: Context) -> Any:
    seen: list[str] = []

    async def tidy(n: int) -> None:
        try:
            await ctx.step(read, n)
            await ctx.step(read, n + 1)
        finally:
            seen.append(await ctx.step(note, f"tidied {n}"))

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(tidy(n))
            group.create_task(ctx.step(fail, 9))
    except* StepFailed as failures:
        seen.extend(str(failure) for failure in failures.exceptions)
    return seen


@corpus
async def task_groups_inside_each_other(ctx: Context) -> Any:
    async def inner(n: int) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step(read, n + m)) for m in range(2)]
        return sum(task.result() for task in tasks)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(inner(n)) for n in range(3)]
    return [task.result() for task in tasks]


@corpus
async def a_task_group_that_grows(ctx: Context) -> Any:
    seen: list[int] = []

    async def walk(group: asyncio.TaskGroup, n: int) -> None:
        seen.append(await ctx.step(read, n))
        for child in (2 * n, 2 * n + 1):
            if child < 8:
                group.create_task(walk(group, child))

    async with asyncio.TaskGroup() as group:
        group.create_task(walk(group, 1))
    return seen


# -- time ------------------------------------------------------------------------------------------


@corpus
async def sleeping(ctx: Context) -> Any:
    began = ctx.now()
    await asyncio.sleep(3)
    await ctx.sleep(timedelta(hours=1))
    await ctx.sleep_until(began + timedelta(hours=2))
    return [ctx.now() >= began + timedelta(hours=2), asyncio.get_running_loop().time() == ctx.now().timestamp()]


@corpus
async def a_timeout_that_may_fire(ctx: Context) -> Any:
    try:
        async with asyncio.timeout(2):
            return [await ctx.step(read, n) for n in range(4)]
    except TimeoutError:
        return ["too late", await ctx.step(note, "after")]


@corpus
async def a_timeout_that_does_not_fire(ctx: Context) -> Any:
    async with asyncio.timeout(1_000_000) as scope:
        value = await ctx.step(read, 1)
    return [value, scope.expired()]


@corpus
async def a_timeout_of_nothing(ctx: Context) -> Any:
    try:
        async with asyncio.timeout(0):
            await ctx.step(read, 1)
    except TimeoutError:
        return await ctx.step(read, 2)


@corpus
async def timeouts_inside_each_other(ctx: Context) -> Any:
    seen: list[str] = []
    try:
        async with asyncio.timeout(3):
            for n in range(3):
                try:
                    async with asyncio.timeout(1):
                        seen.append(str(await ctx.step(read, n)))
                except TimeoutError:
                    seen.append(f"inner {n}")
    except TimeoutError:
        seen.append("outer")
    return seen


@corpus
async def a_timeout_that_is_moved(ctx: Context) -> Any:
    seen: list[str] = []
    try:
        async with asyncio.timeout(1) as scope:
            for n in range(3):
                seen.append(await ctx.step(note, f"{n}"))
                scope.reschedule(asyncio.get_running_loop().time() + 1)
            scope.reschedule(None)
            await asyncio.sleep(5)
            seen.append("unhurried")
    except TimeoutError:
        seen.append("too late")
    return seen


@corpus
async def waiting_for_a_coroutine(ctx: Context) -> Any:
    seen: list[str] = []

    async def both(n: int) -> str:
        try:
            return f"{await ctx.step(read, n)} {await ctx.step(read, n + 1)}"
        finally:
            seen.append(await ctx.step(note, f"tidied {n}"))

    for n in range(3):
        try:
            seen.append(await asyncio.wait_for(both(n), 2))
        except TimeoutError:
            seen.append(f"too late for {n}")
    return seen


@corpus
async def waiting_for_a_task(ctx: Context) -> Any:
    task = asyncio.create_task(ctx.step(read, 1))
    try:
        return await asyncio.wait_for(task, 1)
    except TimeoutError:
        return [task.cancelled(), await asyncio.wait_for(ctx.step(read, 2), None)]


@corpus
async def waiting_for_no_time_at_all(ctx: Context) -> Any:
    seen: list[str] = []
    for timeout in (0, -1):
        try:
            await asyncio.wait_for(ctx.step(read, 1), timeout)
        except TimeoutError:
            seen.append(await ctx.step(note, f"at once {timeout}"))
    return seen


@corpus
async def waiting_inside_waiting(ctx: Context) -> Any:
    async def inner() -> Any:
        return await asyncio.wait_for(asyncio.gather(ctx.step(read, 1), ctx.step(read, 2)), 2)

    try:
        return await asyncio.wait_for(inner(), 1)
    except TimeoutError:
        return await ctx.step(note, "too late")


@corpus
async def calling_later(ctx: Context) -> Any:
    loop, seen, done = asyncio.get_running_loop(), [], asyncio.Event()
    loop.call_later(2, seen.append, "later")
    loop.call_later(3, done.set)
    loop.call_later(1, seen.append, "never").cancel()
    loop.call_at(loop.time() - 1, seen.append, "at once")
    loop.call_soon(seen.append, "soon")
    await ctx.step(read, 1)
    await done.wait()
    return seen


@corpus
async def waiting_for_ever(ctx: Context) -> Any:
    forever = asyncio.create_task(asyncio.sleep(float("inf")))
    await ctx.step(read, 1)
    forever.cancel()
    return forever.done()


@corpus
async def racing_timers(ctx: Context) -> Any:
    seen: list[int] = []

    async def after(n: int) -> None:
        await asyncio.sleep(n % 3)
        seen.append(n)
        await ctx.step(read, n)
        await asyncio.sleep(1)
        seen.append(-n)

    await asyncio.gather(*(after(n) for n in range(6)))
    return seen


# -- wait, as_completed, shield --------------------------------------------------------------------


@corpus
async def the_first_to_complete(ctx: Context) -> Any:
    pending = {asyncio.create_task(ctx.step(read, n), name=f"t{n}") for n in range(4)}
    order: list[list[str]] = []
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        order.append([task.get_name() for task in done])
    return order


@corpus
async def waiting_for_all(ctx: Context) -> Any:
    tasks = {asyncio.create_task(ctx.step(read, n)) for n in range(4)}
    done, pending = await asyncio.wait(tasks)
    return [[task.result() for task in done], len(pending), [await ctx.step(note, str(t.result())) for t in done]]


@corpus
async def the_first_exception(ctx: Context) -> Any:
    tasks = [asyncio.create_task(ctx.step(f, n)) for n, f in enumerate((read, read, fail, read))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in pending:
        task.cancel()
    rest = await asyncio.gather(*pending, return_exceptions=True)
    return [[str(task.exception() or task.result()) for task in done], [type(e).__name__ for e in rest]]


@corpus
async def waiting_with_a_timeout(ctx: Context) -> Any:
    tasks = [asyncio.create_task(ctx.step(read, n)) for n in range(3)]
    done, pending = await asyncio.wait(tasks, timeout=1)
    seen = [len(done), len(pending)]
    return [seen, await asyncio.gather(*tasks)]


@corpus
async def as_completed_over_tasks(ctx: Context) -> Any:
    tasks = [asyncio.create_task(ctx.step(read, n)) for n in range(4)]
    return [await done for done in asyncio.as_completed(tasks)]


@corpus
async def as_completed_with_a_timeout(ctx: Context) -> Any:
    seen: list[int] = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.step(read, n)) for n in range(4)]
        try:
            for done in asyncio.as_completed(tasks, timeout=2):
                seen.append(await done)  # noqa: PERF401 - it may end in between
        except TimeoutError:
            seen.append(-1)
    return seen


@corpus
async def shielded(ctx: Context) -> Any:
    inner = asyncio.create_task(ctx.step(read, 1))
    try:
        async with asyncio.timeout(1):
            return await asyncio.shield(inner)
    except TimeoutError:
        return ["late", await inner]


@corpus
async def sets_of_tasks(ctx: Context) -> Any:
    tasks = {asyncio.create_task(ctx.step(read, n), name=str(n)) for n in range(20)}
    names = [task.get_name() for task in tasks]
    for task in list(tasks)[::3]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [names, [str(item) for item in found]]


# -- queues and locks ------------------------------------------------------------------------------


@corpus
async def producer_and_consumers(ctx: Context) -> Any:
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    seen: list[tuple[str, int]] = []

    async def produce() -> None:
        for n in range(5):
            await queue.put(await ctx.step(read, n))

    async def consume(name: str) -> None:
        while True:
            n = await queue.get()
            seen.append((name, await ctx.step(read, n)))
            queue.task_done()

    consumers = [asyncio.create_task(consume(name)) for name in "ab"]
    await produce()
    await queue.join()
    for consumer in consumers:
        consumer.cancel()
    return seen


@corpus
async def a_lock(ctx: Context) -> Any:
    lock, seen = asyncio.Lock(), []

    async def enter(n: int) -> None:
        await ctx.step(read, n)
        async with lock:
            seen.append(n)
            await ctx.step(note, f"holds {n}")
            seen.append(n)

    await asyncio.gather(*(enter(n) for n in range(3)))
    return seen


@corpus
async def a_semaphore(ctx: Context) -> Any:
    places, inside, most = asyncio.Semaphore(2), set[int](), 0

    async def enter(n: int) -> int:
        nonlocal most
        async with places:
            inside.add(n)
            most = max(most, len(inside))
            value = await ctx.step(read, n)
            inside.discard(n)
            return value

    return [await asyncio.gather(*(enter(n) for n in range(5))), most]


@corpus
async def an_event(ctx: Context) -> Any:
    event, seen = asyncio.Event(), []

    async def wait(n: int) -> None:
        await event.wait()
        seen.append(await ctx.step(read, n))

    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(wait(n))
        await ctx.step(note, "ready")
        event.set()
    return seen


@corpus
async def a_condition(ctx: Context) -> Any:
    condition, stock, seen = asyncio.Condition(), [], []

    async def take(n: int) -> None:
        async with condition:
            await condition.wait_for(lambda: stock)
            seen.append((n, stock.pop()))

    async def give(n: int) -> None:
        value = await ctx.step(read, n)
        async with condition:
            stock.append(value)
            condition.notify()

    await asyncio.gather(*(take(n) for n in range(3)), *(give(n) for n in range(3)))
    return seen


@corpus
async def a_barrier(ctx: Context) -> Any:
    barrier, seen = asyncio.Barrier(3), []

    async def meet(n: int) -> None:
        await ctx.step(read, n)
        async with barrier as place:
            seen.append((n, place))
        await ctx.step(note, f"left {n}")

    await asyncio.gather(*(meet(n) for n in range(3)))
    return seen


# -- generators, context managers, context variables -----------------------------------------------


async def numbers(ctx: Context, seen: list[str]) -> AsyncIterator[int]:
    try:
        for n in range(5):
            yield await ctx.step(read, n)
    finally:
        seen.append("closed")


@corpus
async def a_generator_run_to_its_end(ctx: Context) -> Any:
    seen: list[str] = []
    return [[n async for n in numbers(ctx, seen)], seen]


@corpus
async def a_generator_closed(ctx: Context) -> Any:
    async def tidy() -> AsyncIterator[int]:
        try:
            for n in range(5):
                yield await ctx.step(read, n)
        finally:
            await ctx.step(note, "tidied")

    async with contextlib.aclosing(tidy()) as generator:
        async for n in generator:
            if n == 20:
                break
    return await ctx.step(note, "end")


@corpus
async def a_generator_left(ctx: Context) -> Any:
    seen: list[str] = []
    async for n in numbers(ctx, seen):
        if n == 20:
            break
    return [seen, await ctx.step(note, "end")]


@corpus
async def a_generator_that_raises(ctx: Context) -> Any:
    async def breaks() -> AsyncIterator[int]:
        yield await ctx.step(read, 1)
        yield await ctx.step(fail, 2)

    seen: list[Any] = []
    try:
        async for n in breaks():
            seen.append(n)  # noqa: PERF401 - as above
    except StepFailed as error:
        seen.append(error.error.message)
    return seen


@corpus
async def a_generator_thrown_into(ctx: Context) -> Any:
    async def patient() -> AsyncIterator[int]:
        try:
            yield await ctx.step(read, 1)
        except KeyError:
            yield await ctx.step(read, 2)

    generator = patient()
    first = await anext(generator)
    second = await generator.athrow(KeyError("k"))
    await generator.aclose()
    return [first, second]


@corpus
async def a_generator_alive_at_the_end(ctx: Context) -> Any:
    generator = numbers(ctx, [])
    return [await anext(generator), await anext(generator)]


@corpus
async def context_managers(ctx: Context) -> Any:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def place(name: str) -> AsyncIterator[str]:
        await ctx.step(note, f"open {name}")
        try:
            yield name
        except StepFailed:
            seen.append(f"{name} failed")
        finally:
            seen.append(await ctx.step(note, f"close {name}"))

    async with contextlib.AsyncExitStack() as stack:
        for name in "abc":
            await stack.enter_async_context(place(name))
        await ctx.step(fail, 1)
    return seen


VAR: contextvars.ContextVar[str] = contextvars.ContextVar("machine_corpus", default="unset")


@corpus
async def context_variables(ctx: Context) -> Any:
    seen = [VAR.get()]

    async def inner(n: int) -> str:
        VAR.set(f"inner {n}")
        await ctx.step(read, n)
        return VAR.get()

    token = VAR.set("main")
    try:
        seen += await asyncio.gather(*(inner(n) for n in range(3)))
        shared = contextvars.copy_context()
        first, second = (asyncio.get_running_loop().create_task(inner(n), context=shared) for n in (7, 8))
        seen += [await first, await second, shared[VAR], VAR.get()]
    finally:
        VAR.reset(token)
    return [*seen, VAR.get()]


# -- cancellation ----------------------------------------------------------------------------------


async def tidying(ctx: Context, seen: list[str], n: int) -> None:
    try:
        await ctx.step(read, n)
        await ctx.step(read, n + 1)
        seen.append(f"done {n}")
    except asyncio.CancelledError as error:
        seen.append(await ctx.step(note, f"cancelled {n} {error}"))
        raise
    finally:
        seen.append(await ctx.step(note, f"tidied {n}"))


@corpus
async def a_cancelled_task(ctx: Context) -> Any:
    seen: list[str] = []
    task = asyncio.create_task(tidying(ctx, seen, 1))
    await ctx.step(note, "meanwhile")
    task.cancel("enough")
    try:
        await task
    except asyncio.CancelledError:
        seen.append("gone")
    return seen


@corpus
async def a_task_cancelled_before_it_began(ctx: Context) -> Any:
    seen: list[str] = []
    task = asyncio.create_task(tidying(ctx, seen, 1))
    task.cancel()
    await asyncio.wait([task])
    return [task.cancelled(), seen, await ctx.step(read, 1)]


@corpus
async def a_task_that_will_not_go(ctx: Context) -> Any:
    async def stubborn() -> int:
        try:
            return await ctx.step(read, 1)
        except asyncio.CancelledError:
            return await ctx.step(read, 2)

    task = asyncio.create_task(stubborn())
    await ctx.step(note, "meanwhile")
    return [task.cancel(), await task]


@corpus
async def tasks_left_behind(ctx: Context) -> Any:
    seen: list[str] = []
    for n in range(3):
        asyncio.create_task(tidying(ctx, seen, n))  # noqa: RUF006 - that it is left behind is the point
    return await ctx.step(note, "off")


@corpus
async def its_own_cancellation(ctx: Context) -> Any:
    await ctx.step(read, 1)
    raise asyncio.CancelledError


@cancelled
async def a_cancelled_run(ctx: Context) -> Any:
    seen: list[str] = []
    for n in range(3):
        await tidying(ctx, seen, n)
    return seen


@cancelled
async def a_cancelled_run_with_children(ctx: Context) -> Any:
    seen: list[str] = []
    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(tidying(ctx, seen, n))
    return seen


@cancelled
async def a_cancelled_run_that_goes_on(ctx: Context) -> Any:
    seen: list[str] = []
    try:
        async with asyncio.timeout(50):
            await asyncio.gather(*(tidying(ctx, seen, n) for n in range(2)))
            await asyncio.sleep(100)
    except (asyncio.CancelledError, TimeoutError) as error:
        seen.append(type(error).__name__)
    return [seen, await ctx.step(note, "all the same")]


# -- the rest of the context -----------------------------------------------------------------------


@corpus
async def turns_of_sleeping_for_nothing(ctx: Context) -> Any:
    seen: list[str] = []

    async def count(name: str) -> None:
        for n in range(4):
            seen.append(f"{name}{n}")
            await asyncio.sleep(0)
        await ctx.step(note, name)

    await asyncio.gather(count("a"), count("b"))
    return seen


@corpus
async def calling_a_workflow(ctx: Context) -> Any:
    return await asyncio.gather(*(ctx.call(double, n) for n in range(3)))


@corpus
async def chance_and_time(ctx: Context) -> Any:
    async def draw(n: int) -> list[Any]:
        await ctx.step(read, n)
        return [str(ctx.uuid()), ctx.random().random()]

    drawn = await asyncio.gather(draw(1), draw(2), draw(3))
    return [drawn, str(ctx.uuid()), ctx.random().randrange(1000), ctx.now() is not None]


@corpus
async def asking(ctx: Context) -> Any:
    return await asyncio.gather(ctx.ask("Now?", str), ctx.ask("Really?", str))


@corpus
async def asking_with_a_deadline(ctx: Context) -> Any:
    day = timedelta(days=1)
    first = await ctx.ask("In time?", str, deadline=day, default="no word")
    try:
        second = await ctx.ask("And now?", str, deadline=day)
    except TimeoutError:
        second = await ctx.step(note, "no word either")
    return [first, second]


@corpus
async def many_things_at_once(ctx: Context) -> Any:
    async def branch(n: int) -> Any:
        try:
            async with asyncio.timeout(n):
                await asyncio.sleep(1)
                return await asyncio.gather(ctx.step(read, n), ctx.ask(f"{n}?", str), ctx.call(double, n))
        except TimeoutError:
            return await ctx.step(note, f"late {n}")

    return await asyncio.gather(*(branch(n) for n in range(1, 5)))


# -- code that never rests; not part of the corpus ----------------------------------------------------


async def endless(ctx: Context) -> None:
    while True:  # noqa: ASYNC110 - as it must not be
        await asyncio.sleep(0)


async def endlessly_careful(ctx: Context) -> None:
    async def idle() -> None:
        await asyncio.shield(asyncio.create_task(ctx.step(read, 1)))

    task = asyncio.create_task(idle())
    while not task.done():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)


async def endless_callbacks(ctx: Context) -> None:
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_soon(again)

    again()
    await ctx.step(read, 1)


# -- programs that are data ---------------------------------------------------------------------------


async def act_out(ctx: Context, node: Any) -> Any:
    """Run a program of the grammar that ``test_machine_grammar`` generates: ``(word, *parts)``."""
    word, *parts = node
    try:
        return await _WORDS[word](ctx, *parts)
    except TimeoutError:
        return "late"
    except (StepFailed, ExceptionGroup) as error:
        return str(error)


async def _in_turn(ctx: Context, *nodes: Any) -> Any:
    return [await act_out(ctx, node) for node in nodes]


async def _gather(ctx: Context, *nodes: Any) -> Any:
    return await asyncio.gather(*(_WORDS[node[0]](ctx, *node[1:]) for node in nodes))


async def _gather_all(ctx: Context, *nodes: Any) -> Any:
    found = await asyncio.gather(*(_WORDS[node[0]](ctx, *node[1:]) for node in nodes), return_exceptions=True)
    return [str(item) for item in found]


async def _group(ctx: Context, *nodes: Any) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_WORDS[node[0]](ctx, *node[1:])) for node in nodes]
    return [task.result() for task in tasks]


async def _timeout(ctx: Context, seconds: int, node: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await act_out(ctx, node)


async def _wait_for(ctx: Context, seconds: int, node: Any) -> Any:
    return await asyncio.wait_for(act_out(ctx, node), seconds)


async def _first(ctx: Context, *nodes: Any) -> Any:
    tasks = [asyncio.create_task(act_out(ctx, node), name=str(n)) for n, node in enumerate(nodes)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return [task.get_name() for task in done]


async def _cancel(ctx: Context, node: Any, meanwhile: Any) -> Any:
    task = asyncio.create_task(act_out(ctx, node))
    said = await act_out(ctx, meanwhile)
    task.cancel()
    [found] = await asyncio.gather(task, return_exceptions=True)
    return [said, str(found)]


async def _finally(ctx: Context, node: Any, after: Any) -> Any:
    try:
        return await act_out(ctx, node)
    finally:
        await act_out(ctx, after)


async def _shield(ctx: Context, node: Any) -> Any:
    return await asyncio.shield(act_out(ctx, node))


async def _generate(ctx: Context, *nodes: Any) -> Any:
    async def generator() -> AsyncIterator[Any]:
        try:
            for node in nodes:
                yield await act_out(ctx, node)
        finally:
            await ctx.step(note, "generated")

    async with contextlib.aclosing(generator()) as items:
        async for item in items:
            if item:
                return item
    return None


async def _spawn(ctx: Context, node: Any) -> None:
    asyncio.create_task(act_out(ctx, node))  # noqa: RUF006 - left behind


_WORDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "step": lambda ctx, n: ctx.step(read, n),
    "fail": lambda ctx: ctx.step(fail, 0),
    "sleep": lambda ctx, n: ctx.sleep(n),
    "ask": lambda ctx: ctx.ask("Well?", str),
    "in turn": _in_turn,
    "gather": _gather,
    "gather all": _gather_all,
    "group": _group,
    "timeout": _timeout,
    "wait for": _wait_for,
    "first": _first,
    "cancel": _cancel,
    "finally": _finally,
    "shield": _shield,
    "generate": _generate,
    "spawn": _spawn,
}
