"""Code that changed under its journal: an error that names both sides, and nothing lost."""

import asyncio
from datetime import timedelta

import pytest

from perdure.errors import NonDeterminism
from perdure.messages import Entry

from .machine_driver import BEGAN, Driver, Library, execution, replay
from .machine_programs import double, note, read


async def original(ctx):
    first = await ctx.step(read, 1)
    await ctx.sleep(5)
    said = await ctx.ask("Go on?", str, deadline=timedelta(days=1))
    doubled = await ctx.call(double, 3)
    both = await asyncio.gather(ctx.step(read, 2), ctx.step(note, "two"))
    return [first, said, doubled, both]


async def a_step_less(ctx):
    await ctx.sleep(5)
    return await ctx.step(note, "two")


async def another_name(ctx):
    return await ctx.options(name="look").step(read, 1)


async def other_arguments(ctx):
    return await ctx.step(read, 99)


async def another_kind(ctx):
    return await ctx.ask("read", str)


async def shorter(ctx):
    return await ctx.step(read, 1)


async def broken(ctx):
    await ctx.step(read, 1)
    raise LookupError


async def gives_itself_up(ctx):
    await ctx.step(read, 1)
    raise asyncio.CancelledError


async def another_question(ctx):
    await ctx.step(read, 1)
    await ctx.sleep(5)
    return await ctx.ask("Delete everything?", str, deadline=timedelta(days=1))


async def another_call(ctx):
    await ctx.step(read, 1)
    await ctx.sleep(5)
    await ctx.ask("Go on?", str, deadline=timedelta(days=1))
    return await ctx.call(double, 4)


PROGRAMS = {"double": lambda ctx: double(ctx, 3), "code": original}


def recorded():
    """A journal in the order of the code."""
    for seed in range(100):
        driver = Driver(Library(PROGRAMS), "code", seed)
        driver.run()
        driver.execution.close()
        kinds = [entry.kind for entry in driver.journal]
        if kinds == ["step", "timer", "answer", "call", "step", "step"]:
            return driver.journal
    raise AssertionError


JOURNAL = recorded()


@pytest.mark.parametrize(
    ("code", "before", "now"),
    [
        (a_step_less, "step 'read' at 'read#1'", "does not ask for that; it waits for timer 'timer' at 'timer#1'"),
        (
            another_name,
            "step 'read' at 'read#1'",
            "it waits for step 'look' at 'look#1' (test_machine_mismatch.py:30, fingerprint",
        ),
        (
            other_arguments,
            "step 'read' at 'read#1'",
            "passes other arguments there: step 'read' at 'read#1' (test_machine_mismatch.py:34",
        ),
        (another_kind, "step 'read' at 'read#1'", "it waits for answer 'read' at 'ask#1' (test_machine_mismatch.py:38"),
        (shorter, "timer 'timer' at 'timer#1'", "the code has already completed"),
        (broken, "timer 'timer' at 'timer#1'", "the code has already failed"),
        (gives_itself_up, "timer 'timer' at 'timer#1'", "the code has already been cancelled"),
        (
            another_question,
            "answer 'Go on?' at 'ask#1'",
            "other arguments there: answer 'Delete everything?' at 'ask#1'",
        ),
        (another_call, "call 'double' at 'double#1'", "other arguments there: call 'double' at 'double#1'"),
    ],
)
def test_changed_code_is_an_error_that_names_both_sides_and_the_original_goes_on(code, before, now):
    changed = execution(Library({**PROGRAMS, "code": code}), "code")
    with pytest.raises(NonDeterminism) as caught:
        changed.begin(JOURNAL)
    assert f"Recorded: {before}" in str(caught.value)
    assert now in str(caught.value)
    assert "nothing of it is lost" in str(caught.value)
    assert changed.machine.state == "broken"
    changed.close()
    assert replay(Library(PROGRAMS), "code", JOURNAL)[-1].outcome.startswith("completed")


def test_another_kind_of_wish_in_the_same_place_is_named():
    async def calls(ctx):
        return await ctx.call(double, 3)

    async def steps(ctx):
        return await ctx.options(name="double").step(read, 3)

    first = Driver(Library({**PROGRAMS, "code": calls}), "code", 1)
    first.run()
    with pytest.raises(NonDeterminism, match=r"Recorded: call 'double' at 'double#1'.*Now: the code asks for a step"):
        replay(Library({**PROGRAMS, "code": steps}), "code", first.journal)


def test_an_entry_of_a_journal_too_many_is_named():
    late = Entry("step", "read#9", BEGAN, "read", "0")
    with pytest.raises(NonDeterminism, match=r"step 'read' at 'read#9' \(fingerprint 0\)\. Now: the code has already"):
        replay(Library(PROGRAMS), "code", [*JOURNAL, late])


def test_code_that_waits_for_nothing_says_so():
    async def idle(ctx):
        await asyncio.Event().wait()

    with pytest.raises(NonDeterminism, match="it waits for nothing"):
        replay(Library({"code": idle}), "code", JOURNAL)


def test_a_slash_in_a_name_is_not_taken_for_a_branch():
    async def slashed(ctx):
        return await asyncio.gather(
            asyncio.create_task(ctx.step(read, 1)),
            ctx.options(name="0/read").step(note, "root"),
            ctx.options(name="0/0/read").step(note, "root"),
        )

    async def rooted(ctx):
        other = asyncio.create_task(ctx.step(read, 1))
        said = await ctx.options(name="0/read").step(note, "root")
        return [said, await other]

    for code in (slashed, rooted):
        driver = Driver(Library({"code": code}), "code", 1)
        driver.begin()
        assert len(driver.execution.pending) == len(driver.trace[0].opened)
        driver.go_on()
        assert len({entry.path for entry in driver.journal}) == len(driver.journal)


def test_a_timer_may_be_given_another_length():
    async def longer(ctx):
        await ctx.step(read, 1)
        await ctx.sleep(7)

    journal = JOURNAL[:2]
    assert replay(Library({"code": longer}), "code", journal)[-1].outcome == "completed null"
