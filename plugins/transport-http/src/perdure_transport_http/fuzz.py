"""Random and damaged events against what reads them: ``python -m perdure_transport_http.fuzz --seconds 600``.

Whatever comes is an event, or refused by a ``UsageError``; and an event is the same when it was written and read again.
Each round has a seed of its own, which is named when it fails. Frames are fuzzed by ``perdure_hosting.fuzz``.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from perdure.errors import UsageError
from perdure_transport_http.cloudevents import (
    JSON,
    Event,
    as_binary,
    as_structured,
    from_batch,
    from_binary,
    from_structured,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXTS: Final = ("", "1", "1.0", "/a b", "ü€", "%", "%ff", '"x"', "\n", "\x00", "x" * 5000, "\U0001f600", "a%0d%0ab")
_NAMES: Final = ("specversion", "id", "source", "type", "datacontenttype", "data", "data_base64", "subject", "Ä", "")
_MEDIA: Final = ("application/json", "application/x-protobuf", "text/plain", "application/a+json; charset=utf-8", ";")
_GOOD: Final = {"specversion": "1.0", "id": "1", "source": "/fuzz", "type": "kit.text"}


class Damage:
    """Makes events that are right, nearly right, or nothing.

    Args:
        seed: The same seed makes the same.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - the same every time

    def value(self, depth: int = 0) -> Any:
        """Some JSON."""
        chance = self.chance
        kind = chance.randrange(8 if depth < 4 else 6)  # noqa: PLR2004 - deep enough
        if kind > 5:  # noqa: PLR2004 - the two that hold others
            items = [self.value(depth + 1) for _ in range(chance.randrange(3))]
            return items if kind == 6 else {chance.choice(_TEXTS): item for item in items}  # noqa: PLR2004 - as above
        return (None, True, 7, 2**70, 1.5, chance.choice(_TEXTS))[kind]

    def attributes(self) -> dict[str, Any]:
        """Those of an event; most of them fit."""
        chance, made = self.chance, dict[str, Any](_GOOD)
        for _ in range(chance.randrange(4)):
            name = chance.choice(_NAMES)
            made[name] = chance.choice(_MEDIA) if name == "datacontenttype" else self.value()
        return made

    def bytes(self, good: bytes) -> bytes:
        """The same, or with some bytes changed, lost or added."""
        chance, data = self.chance, bytearray(good)
        for _ in range(chance.choice((0, 0, 1, 3))):
            place = chance.randrange(len(data) + 1)
            data[place : place + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
        return bytes(data)


def attack(seed: int) -> int:
    """One round; return how many events were taken."""
    damage = Damage(seed)
    taken: list[Event] = []
    for _ in range(20):
        attributes = damage.attributes()
        body = to_json(attributes)
        with suppress(UsageError):
            taken.append(from_structured(damage.bytes(body)))
        with suppress(UsageError):
            taken += from_batch(damage.bytes(b"[%b,%b]" % (body, body)), 2)
        headers = [(f"ce-{name}", str(value)) for name, value in attributes.items()]
        with suppress(UsageError):
            media = damage.chance.choice(_MEDIA)
            taken.append(from_binary(headers, media, damage.bytes(b'{"n": 1}')))
    for event in taken:
        _check(event)
    return len(taken)


def _check(event: Event) -> None:
    headers, body = as_binary(event)
    media = headers.pop("Content-Type")
    if any(not value.isascii() or not value.isprintable() for value in headers.values()):
        msg = f"a header that is none: {headers!r}"
        raise AssertionError(msg)
    if from_binary(headers.items(), media, body) != event:
        msg = f"{event!r} is another one after it was written in the binary mode"
        raise AssertionError(msg)
    try:
        if event.content == JSON:
            from_json(event.data, allow_inf_nan=False)
    except ValueError:
        return  # in the binary mode the data is passed on as it came
    if from_structured(as_structured(event))._replace(data=b"") != event._replace(data=b""):
        msg = f"{event!r} is another one after it was written in the structured mode"
        raise AssertionError(msg)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds for some seconds; say how many."""
    parser = argparse.ArgumentParser(prog="python -m perdure_transport_http.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    options = parser.parse_args(arguments)
    until, events = time.monotonic() + options.seconds, 0
    for seed in itertools.count(options.seed):
        try:
            events += attack(seed)
        except BaseException:
            sys.stderr.write(f"the round with seed {seed} failed\n")
            raise
        if time.monotonic() >= until:
            sys.stdout.write(f"{seed - options.seed + 1} rounds, {events} events taken, all others refused by name\n")
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
