"""What durable code may not do on the machine's loop, and what it is told; code that never rests."""

import asyncio
import contextvars
import gc
import inspect
import logging
from contextlib import suppress

import pytest

from perdure._machine.loop import MachineLoop
from perdure.errors import ForbiddenInWorkflow, NonDeterminism
from perdure.messages import Entry

from .machine_driver import BEGAN, Driver, Library, execution, intact
from .machine_programs import endless, endless_callbacks, endlessly_careful, note, read

ALLOWED = {
    "call_at",
    "call_exception_handler",
    "call_later",
    "call_soon",
    "create_future",
    "create_task",
    "default_exception_handler",
    "get_debug",
    "is_closed",
    "is_running",
    "set_debug",
    "time",
}
METHODS = sorted(name for name in dir(asyncio.AbstractEventLoop) if not name.startswith("_"))


def ran(code):
    """Run code that needs no completions; return its outcome."""
    one = execution(Library({"code": code}), "code")
    outcome = intact(one.begin).outcome
    one.close()
    return outcome


def test_every_method_of_a_loop_is_either_allowed_or_refused():
    assert set(METHODS) >= ALLOWED
    assert {name for name in METHODS if inspect.unwrap(getattr(MachineLoop, name)).__module__ != "asyncio.events"} == {
        *METHODS
    }


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ALLOWED])
def test_a_method_that_reaches_outside_is_refused_with_the_way_out(name):
    async def code(ctx):
        getattr(asyncio.get_running_loop(), name)()

    outcome = ran(code)
    assert outcome.status == "failed"
    assert isinstance(outcome.error, ForbiddenInWorkflow)
    assert f"loop.{name}()" in str(outcome.error)
    assert "await ctx.step(function, …)" in str(outcome.error)


async def in_a_thread(ctx):
    await asyncio.to_thread(read, 1)


async def in_a_process(ctx):
    await asyncio.create_subprocess_exec("true")


async def in_a_shell(ctx):
    await asyncio.create_subprocess_shell("true")


async def over_a_socket(ctx):
    await asyncio.open_connection("localhost", 1)


async def as_a_server(ctx):
    await asyncio.start_server(print, "localhost", 0)


async def with_eager_tasks(ctx):
    asyncio.get_running_loop().set_task_factory(None)


@pytest.mark.parametrize(
    ("code", "method"),
    [
        (in_a_thread, "run_in_executor"),
        (in_a_process, "subprocess_exec"),
        (in_a_shell, "subprocess_shell"),
        (over_a_socket, "create_connection"),
        (as_a_server, "create_server"),
        (with_eager_tasks, "set_task_factory"),
    ],
)
def test_asyncio_functions_that_reach_outside_are_refused(code, method):
    outcome = ran(code)
    assert isinstance(outcome.error, ForbiddenInWorkflow)
    assert method in str(outcome.error)


def test_a_refusal_can_be_caught_and_code_goes_on():
    async def code(ctx):
        with suppress(ForbiddenInWorkflow):
            await in_a_thread(ctx)
        return await ctx.step(read, 2)

    one = Driver(Library({"code": code}), "code", 1)
    assert one.run() == "completed 20"


def test_as_completed_over_coroutines_is_refused_and_names_the_alternative():
    async def code(ctx):
        wishes = [ctx.step(read, n) for n in range(3)]
        try:
            for done in asyncio.as_completed(wishes):
                await done
        finally:
            for wish in wishes:
                wish.close()

    outcome = ran(code)
    assert isinstance(outcome.error, ForbiddenInWorkflow)
    assert "asyncio.as_completed()" in str(outcome.error)
    assert "tg.create_task" in str(outcome.error)
    gc.collect()


@pytest.mark.parametrize("code", [endless, endlessly_careful])
def test_code_that_never_rests_is_an_error_that_names_the_line(code):
    one = execution(Library({"code": code}), "code")
    with pytest.raises(NonDeterminism, match="did not come to rest") as caught:
        intact(one.begin)
    file, _, line = str(caught.value).rpartition(" at ")[2].rpartition(":")
    assert file == code.__code__.co_filename
    lines, first = inspect.getsourcelines(code)
    assert "sleep(0)" in lines[int(line) - first]
    assert one.machine.state == "broken"
    one.close()


def test_callbacks_that_never_rest_are_named_too():
    one = execution(Library({"code": endless_callbacks}), "code")
    with pytest.raises(NonDeterminism, match="again"):
        one.begin()
    one.close()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_machine_can_be_given_up_and_begun_anew(interruption):
    interrupts = [interruption]

    async def code(ctx):
        value = await ctx.step(read, 1)
        if interrupts:
            raise interrupts.pop()
        return value

    library = Library({"code": code})
    first = Driver(library, "code", 3)
    first.begin()
    with pytest.raises(interruption):
        first.move()
    assert first.execution.machine.state == "broken"
    first.execution.close()
    assert Driver(library, "code", 4, journal=first.journal).run() == "completed 10"


# -- what happens while code is given up -----------------------------------------------------------------


def evicted(code):
    """Begin code and give it up where it first waits."""
    one = execution(Library({"code": code}), "code")
    assert intact(one.begin).outcome is None
    intact(one.close)
    one.close()


def test_an_evicted_machine_runs_no_durable_clean_up():
    happened = []

    async def child(ctx):
        try:
            await ctx.step(read, 1)
        finally:
            happened.append("child")
            await ctx.step(note, "never")
            happened.append("never")

    async def code(ctx):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child(ctx))
                group.create_task(ctx.sleep(5)).add_done_callback(happened.append)
                await asyncio.shield(ctx.step(read, 2))
        except BaseException:  # noqa: BLE001 - as authors do
            happened.append("code")
            with suppress(Exception):
                await asyncio.create_task(child(ctx))
            happened.append("never")

    evicted(code)
    assert sorted(happened) == ["child", "code"]


def test_code_that_is_given_up_cannot_set_timers_nor_reach_outside():
    happened = []

    async def code(ctx):
        try:
            await ctx.step(read, 1)
        finally:
            try:
                asyncio.get_running_loop().call_later(1, happened.append, "never")
            finally:
                await asyncio.to_thread(happened.append, "never")

    evicted(code)
    assert happened == []


def test_code_is_given_up_in_its_own_context():
    var = contextvars.ContextVar("machine_refusals", default="unset")
    happened = []

    async def code(ctx):
        token = var.set("inside")
        try:
            await ctx.step(read, 1)
        finally:
            happened.append(var.get())
            var.reset(token)
            happened.append(var.get())
            var.set("left behind")

    evicted(code)
    assert happened == ["inside", "unset"]
    assert var.get() == "unset"


def test_code_that_will_not_be_given_up_is_left_after_a_while(caplog):
    async def code(ctx):
        for _ in range(1000):
            with suppress(BaseException):
                await ctx.step(read, 1)
            await stubborn

    class Stubborn:
        def __await__(self):
            with suppress(BaseException):
                yield

    stubborn = Stubborn()
    with caplog.at_level(logging.WARNING):
        evicted(code)
    assert caplog.messages == ["code keeps awaiting while it is unwound; a 'finally' block loops"]


async def tidied_durably(ctx):
    try:
        for n in range(5):
            yield await ctx.step(read, n)
    finally:
        await ctx.step(note, "never")


def test_a_generator_dropped_with_durable_clean_up_is_warned_of(caplog):
    async def code(ctx):
        async for _ in tidied_durably(ctx):
            break
        gc.collect()
        return await ctx.step(note, "end")

    with caplog.at_level(logging.WARNING):
        assert Driver(Library({"code": code}), "code", 1).run() == 'completed "end"'
    [message] = caplog.messages
    assert "'tidied_durably'" in message
    assert "contextlib.aclosing" in message


def test_a_generator_alive_in_a_machine_that_is_given_up_is_closed_in_silence(caplog):
    async def code(ctx):
        generator = tidied_durably(ctx)
        await anext(generator)
        await asyncio.Event().wait()

    one = Driver(Library({"code": code}), "code", 1)
    one.begin()
    one.move()
    intact(one.execution.close)
    gc.collect()
    assert caplog.messages == []


def test_what_a_task_raised_unheard_is_logged(caplog):
    async def code(ctx):
        asyncio.create_task(ctx.step(fail_now))  # noqa: RUF006 - nobody listens
        return await ctx.step(read, 1)

    def fail_now():
        raise ValueError

    library = Library({"code": code})
    one = execution(library, "code")
    opened = one.begin().opened
    failing = next(command for command in opened if command.name == "fail_now")
    error = b'{"type": "ValueError"}'
    one.feed(Entry("step", failing.path, BEGAN, failing.name, failing.fingerprint, error=error))
    gc.collect()
    assert "Task exception was never retrieved" in caplog.text
    one.close()
