"""The table of a machine's states: each transition is taken, and no other can be."""

import asyncio
from typing import get_args

import pytest

from perdure._machine import TRANSITIONS, Machine
from perdure._machine.machine import Command, State
from perdure._machine.tasks import MachineTask
from perdure.errors import NonDeterminism
from perdure.messages import Entry

from .machine_driver import BEGAN

DONE = Entry("step", "read#1", BEGAN, "read", "print")
OTHER = Entry("step", "write#1", BEGAN, "write", "print")
CANCEL = Entry("cancel", "cancel", BEGAN, "enough")


class Watched(Machine):
    """A machine that tells which transitions it took."""

    def __init__(self, code):
        self.taken = []
        super().__init__(lambda: code(self), now=BEGAN)

    def _move(self, event):
        before = self.state
        super()._move(event)
        self.taken.append((before, event))


async def want(machine):
    return await machine.perform(Command("step", machine.identity("read"), "read", "print", None))


async def wants(machine):
    return (await want(machine)).path


async def waits():
    await asyncio.gather(*(asyncio.Event().wait() for _ in range(3)))


async def fails(machine):
    await want(machine)
    raise LookupError


async def interrupts(machine):
    await want(machine)
    raise KeyboardInterrupt


async def spins(machine):
    await want(machine)
    loop = asyncio.get_running_loop()

    def again():
        loop.call_soon(again)

    again()


def new(code=wants):
    return Watched(code)


def waiting(code=wants):
    machine = new(code)
    machine.begin()
    return machine


def completed():
    machine = waiting()
    machine.feed(DONE)
    return machine


def failed():
    machine = waiting(fails)
    machine.feed(DONE)
    return machine


def cancelled():
    machine = waiting()
    machine.feed(CANCEL)
    return machine


def broken(code=spins):
    machine = waiting(code)
    with pytest.raises((NonDeterminism, KeyboardInterrupt)):
        machine.feed(DONE)
    return machine


def evicted():
    machine = waiting()
    machine.evict()
    return machine


MADE = {
    "new": new,
    "waiting": waiting,
    "completed": completed,
    "failed": failed,
    "cancelled": cancelled,
    "broken": broken,
    "evicted": evicted,
}


def test_every_transition_of_the_table_is_taken():
    taken = set()
    for state, make in MADE.items():
        machine = make()
        assert machine.state == state
        machine.evict()
        taken.update(machine.taken)
    for make in (waiting, completed, failed, cancelled):
        machine = make()
        with pytest.raises(NonDeterminism):
            machine.feed(OTHER)
        taken.update(machine.taken)
    taken.update(broken(interrupts).taken)
    assert taken == TRANSITIONS.keys()


@pytest.mark.parametrize("state", [state for state in get_args(State) if state not in {"new", "running"}])
def test_a_machine_begins_once(state):
    machine = MADE[state]()
    with pytest.raises(RuntimeError, match=f"a machine that is {state} cannot begin"):
        machine.begin()
    assert machine.state == state
    machine.evict()


@pytest.mark.parametrize("entry", [DONE, CANCEL], ids=["step", "cancel"])
@pytest.mark.parametrize("state", ["new", "broken", "evicted"])
def test_a_machine_that_does_not_wait_is_not_fed(state, entry):
    machine = MADE[state]()
    with pytest.raises(RuntimeError, match=f"a machine that is {state} cannot feed"):
        machine.feed(entry)
    assert machine.state == state


@pytest.mark.parametrize("act", [Machine.begin, Machine.evict, lambda machine: machine.feed(CANCEL)])
def test_a_running_machine_is_left_alone(act):
    async def meddles(machine):
        act(machine)

    machine = new(meddles)
    outcome = machine.begin().outcome
    assert outcome.status == "failed"
    assert "a machine that is running cannot" in str(outcome.error)


def test_evicting_twice_is_evicting_once():
    machine = evicted()
    taken = list(machine.taken)
    machine.evict()
    assert machine.taken == taken


def test_the_table_leads_from_new_to_everywhere_and_out_of_evicted_nowhere():
    reached, more = {"new"}, True
    while more:
        more = {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached
        reached |= more
    assert reached == set(get_args(State))
    assert not [event for state, event in TRANSITIONS if state == "evicted"]


def test_time_never_goes_back():
    times = []

    async def looks(machine):
        times.append(machine.now)
        await want(machine)
        times.append(machine.now)
        await want(machine)
        times.append(machine.now)

    machine = waiting(looks)
    machine.feed(DONE._replace(at=BEGAN + 5))
    machine.feed(DONE._replace(at=BEGAN + 3, path="read#2"))
    assert times == [BEGAN, BEGAN + 5, BEGAN + 5]


def test_a_machine_is_not_compared_with_all_others_that_wait(monkeypatch):
    compared = 0

    def equal(self, other):
        nonlocal compared
        compared += 1
        return self is other

    monkeypatch.setattr(MachineTask, "__eq__", equal)  # as asyncio's set of all tasks does where hashes are the same
    machines = [Machine(waits, now=BEGAN) for _ in range(300)]
    for machine in machines:
        machine.begin()
    assert compared < len(machines)
    for machine in machines:
        machine.evict()
