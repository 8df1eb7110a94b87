"""What clients start in a simulated world, and what each run must come to, whatever happens to its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic_core import from_json

from perdure.testing.simulation import workload as w

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from perdure.testing.simulation.oracle import Record


class Job(NamedTuple):
    """Something to be started.

    Attributes:
        target: Qualified name.
        kind: As of a ``Start``.
        payload: JSON of the input.
        session: Of a turn.
        company: How many letters or updates somebody has to send, lest it wait for ever.
    """

    target: str
    kind: Literal["workflow", "turn"]
    payload: bytes
    session: str | None = None
    company: int = 0


STEADY: Final = frozenset(
    f"world.{name}" for name in ("sums", "fan", "hurried", "family", "nap", "stubborn", "rescue", "laps", "climb")
)
"""What needs nobody, and may be begun anew when it has finished."""

ALONE: Final = STEADY - {"world.family", "world.rescue", "world.laps"}
"""And calls nobody."""

FRAGILE: Final = frozenset({"world.penpal"})
"""What others would wait for in vain, if it did not come to its end."""


def draw(random: random.Random, ordinal: int) -> Job:
    """The next job; ``ordinal`` makes it differ from all others."""
    n, seconds = random.randint(1, 4), round(random.uniform(0.5, 20.0), 3)
    other, on_close = round(random.uniform(0.5, 20.0), 3), random.choice(("cancel", "terminate", "abandon"))
    choices: list[tuple[Any, ...]] = [
        (w.sums, n),
        (w.fan, n),
        (w.hurried, n, seconds),
        (w.family, n),
        (w.relay, seconds, other),
        (w.nap, seconds),
        (w.naps, seconds / 4, n),
        (w.asks, seconds),
        (w.stubborn, n),
        (w.tidy, seconds),
        (w.race, seconds / 4),
        (w.rescue, f"error {ordinal}"),
        (w.errands, n),
        (w.climb, n),
        (w.trip, n),
        (w.letters, n, seconds),
        (w.serial, n, []),
        (w.laps, n, 0),
        (w.rounds, n, seconds / 4, 0.0, 0),
        (w.penpal, n),
        (w.leaves, seconds, on_close, other / 4),
        (w.count, 2 * n),
        (w.talk, f"session {n % 2}", [f"word {ordinal}.{i}" for i in range(n)]),
        (w.parrot, f"word {ordinal}"),
        (w.parrot, f"word {ordinal}"),
        (w.parrot, f"word {ordinal}"),
    ]
    callee, *args = random.choice(choices)
    target = f"world.{callee.name}"
    if callee is w.parrot:
        return Job(target, "turn", callee.encode_input(tuple(args), {}), f"session {n % 2}")
    company = n if callee in {w.letters, w.serial, w.count} else 0
    return Job(target, "workflow", callee.encode_input(tuple(args), {}), company=company)


def complaint(record: Record, *, put_back: bool) -> str:
    """What is wrong with a finished run, or nothing. Cut short it may be only if somebody asked for it.

    Args:
        record: The run.
        put_back: Whether the clock was put back meanwhile: then no life of a run knows what the clock showed the last.
    """
    if record.status == "cancelled":
        return "" if record.cancelled else "it was cancelled, and nobody asked for it"
    if record.status == "terminated":
        return "" if record.terminated else "it was terminated, and nobody asked for it"
    if put_back and record.start.target == "world.rounds":
        return ""
    check = _CHECKS[record.start.target]
    value = from_json(record.value) if record.value is not None else None
    return check(record, from_json(record.origin.input), value)


def _completed(expected: Callable[[Record, Any, Any], bool]) -> Callable[[Record, Any, Any], str]:
    def check(record: Record, given: Any, value: Any) -> str:
        if record.status != "completed":
            return f"it is {record.status}: {record.failure}"
        return "" if expected(record, given, value) else f"given {given!r}, its result is {value!r}"

    return check


def _fails(record: Record, given: Any, value: Any) -> str:
    error = record.failure
    if record.status != "failed" or error is None:
        return f"it is {record.status} with {value!r}, and should have failed"
    last = error.chain()[-1]
    return "" if (last.type, last.message) == ("ValueError", given["text"]) else f"it failed with {error}"


def _answered(record: Record, _: Any, value: Any) -> bool:
    answers = {question.request.prompt: question.answer for question in record.questions.values()}
    if any(answer is not None and from_json(answer) != value[prompt] for prompt, answer in answers.items()):
        return False
    return answers["sure"] is not None and (answers["soon"] is not None or value["soon"] == "nobody")


def _errands(n: int) -> int:
    total = 0
    for i in range(3 * n):
        total += 1
        if i % 4 == 3:
            total *= 2
    return total


def _all_undone(record: Record, given: Any, value: Any) -> bool:
    return value == "undone" and {f"undone#{i + 1}" for i in range(given["n"])} <= record.recorded


def _in_order(record: Record, given: Any, value: Any) -> bool:
    got = [letter for letter in value if letter != "none"]
    return len(value) == given["n"] and got == record.letters[: len(got)]


def _laps(_: Record, given: Any, value: Any) -> bool:
    return value == sum(2 * n + 2 for n in range(given["n"] + 1))


_CHECKS: Final[dict[str, Callable[[Record, Any, Any], str]]] = {
    "world.sums": _completed(lambda _, given, value: value == [2 * i for i in range(given["n"])]),
    "world.fan": _completed(lambda _, given, value: value == [4 * i for i in range(given["n"])]),
    "world.hurried": _completed(lambda _, given, value: value in ([], [2 * i for i in range(given["n"])])),
    "world.family": _completed(
        lambda _, given, value: value == [*(i * (i - 1) for i in range(given["n"])), 2 * given["n"]]
    ),
    "world.relay": _completed(lambda _, __, value: value in {"slept", "gave up"}),
    "world.nap": _completed(lambda _, __, value: value is True),
    "world.naps": _completed(lambda _, given, value: value == list(reversed(range(given["n"])))),
    "world.asks": _completed(_answered),
    "world.stubborn": _completed(lambda _, given, value: value == given["lucky"]),
    "world.tidy": _completed(lambda record, _, value: value == "slept" and "tidied#1" in record.recorded),
    "world.race": _completed(lambda _, __, value: value in {"step", "timer"}),
    "world.fails": _fails,
    "world.rescue": _completed(lambda _, given, value: value == [given["text"]]),
    "world.talk": _completed(lambda _, given, value: [reply.partition(": ")[2] for reply in value] == given["words"]),
    "world.errands": _completed(lambda _, given, value: value == _errands(given["n"])),
    "world.climb": _completed(lambda _, given, value: value == given["top"]),
    "world.trip": _completed(_all_undone),
    "world.letters": _completed(_in_order),
    "world.serial": _completed(lambda record, given, value: value == record.letters[: given["n"]]),
    "world.laps": _completed(_laps),
    "world.rounds": _completed(lambda _, __, value: value == 0),
    "world.penpal": _completed(lambda _, __, value: value.startswith("run_")),
    "world.leaves": _completed(lambda _, __, value: value.startswith("run_")),
    "world.count": _completed(lambda _, given, value: value == given["goal"]),
    "world.parrot": _completed(lambda _, given, value: value.partition(": ")[2] == given),
}
