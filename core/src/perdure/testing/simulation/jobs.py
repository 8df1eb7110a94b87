"""What clients start in a simulated world, and what each run must come to, whatever happens to its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic_core import from_json

from perdure.testing.simulation.workload import (
    asks,
    family,
    fan,
    hurried,
    nap,
    naps,
    parrot,
    race,
    relay,
    rescue,
    stubborn,
    sums,
    talk,
    tidy,
)

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
    """

    target: str
    kind: Literal["workflow", "turn"]
    payload: bytes
    session: str | None = None


def draw(random: random.Random, ordinal: int) -> Job:
    """The next job; ``ordinal`` makes it differ from all others."""
    n, seconds = random.randint(1, 4), round(random.uniform(0.5, 20.0), 3)
    callee, *args = random.choice(
        [
            (sums, n),
            (fan, n),
            (hurried, n, seconds),
            (family, n),
            (relay, seconds, round(random.uniform(0.5, 20.0), 3)),
            (nap, seconds),
            (naps, seconds / 4, n),
            (asks, seconds),
            (stubborn, n),
            (tidy, seconds),
            (race, seconds / 4),
            (rescue, f"error {ordinal}"),
            (talk, f"session {n % 2}", [f"word {ordinal}.{i}" for i in range(n)]),
            (parrot, f"word {ordinal}"),
            (parrot, f"word {ordinal}"),
        ]
    )
    target = f"world.{callee.name}"
    if callee is parrot:
        return Job(target, "turn", parrot.encode_input(tuple(args), {}), f"session {n % 2}")
    return Job(target, "workflow", callee.encode_input(tuple(args), {}))


def complaint(record: Record) -> str:
    """What is wrong with a finished run, or nothing. Cancelled ones may be so only if somebody asked for it."""
    if record.status == "cancelled":
        return "" if record.cancelled else "it was cancelled, and nobody asked for it"
    check = _CHECKS[record.start.target]
    value = from_json(record.value) if record.value is not None else None
    return check(record, from_json(record.start.input), value)


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


def _answered(record: Record, given: Any, value: Any) -> bool:  # noqa: ARG001 - as all checks
    answers = {question.request.prompt: question.answer for question in record.questions.values()}
    if any(answer is not None and from_json(answer) != value[prompt] for prompt, answer in answers.items()):
        return False
    return answers["sure"] is not None and (answers["soon"] is not None or value["soon"] == "nobody")


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
    "world.parrot": _completed(lambda _, given, value: value.partition(": ")[2] == given),
}
