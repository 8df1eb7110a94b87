# ruff: noqa: INP001, T201 - a program, no package; it prints its table
"""What a message costs at each place on its way, in microseconds of CPU: the best of many rounds of 1,000.

    python plugins/hosting/benchmarks/hops.py [ROUNDS]

No socket, no task and no handler is in it: frames are made, routed and read, in packets of a thousand.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

from perdure.messages import AgentId, Envelope, Hosted, Presence, Subscription, TopicId
from perdure_hosting import wire
from perdure_hosting.carrier import Principal
from perdure_hosting.link import Link, parsed
from perdure_hosting.router import Member, Router
from perdure_hosting.settings import HostSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
COUNT = 1000
SETTINGS = HostSettings(window_frames=1_000_000)
MAX = SETTINGS.max_frame
HERE = Presence((Hosted("kit.echo"),), (Subscription("s", "kit.echo", "news"),))


class Stopwatch:
    """The best time of each part."""

    def __init__(self) -> None:
        self.best: dict[str, float] = {}

    def __call__(self, part: str, work: Callable[[], T]) -> T:
        """Do the work, and note how long it took for each message."""
        began = time.process_time()
        done = work()
        took = (time.process_time() - began) / COUNT * 1e6
        self.best[part] = min(took, self.best.get(part, took))
        return done


def crossed(source: Link, target: Link) -> Sequence[bytes]:
    """All that waits in one link, as it arrives in the other."""
    frames: list[bytes] = []
    while (data := source.take()) is not None:
        frames += target.receive(parsed(data, MAX))
    return frames


def put(link: Link, frames: Sequence[bytes]) -> None:
    """Send them."""
    for raw in frames:
        link.put(raw, counted=True)


def one_round(timed: Stopwatch) -> None:
    """A thousand requests there and back, and a thousand events."""
    router = Router(SETTINGS)
    near, far = (Member(name, Principal(), Link(SETTINGS), "") for name in ("near", "far"))
    ends = Link(SETTINGS), Link(SETTINGS)
    for member in (near, far):
        router.joined(member)
    router.arrived(far, [wire.announcement(HERE, 1)])
    crossed(far.link, ends[1])
    caller, target = AgentId("kit.caller", "1"), AgentId("kit.echo", "1")
    requests = [
        Envelope(f"{n:032x}", "request", target, "kit.text", b'{"text":"hello"}', caller, content="application/json")
        for n in range(COUNT)
    ]
    frames = timed("caller: frame", lambda: [wire.framed(each, n + 1) for n, each in enumerate(requests)])
    timed("caller: link", lambda: put(ends[0], frames))
    arrived = timed("a link to the other", lambda: crossed(ends[0], near.link))
    timed("host: route a request", lambda: router.arrived(near, arrived))
    got = timed("a link to the other", lambda: crossed(far.link, ends[1]))
    asked = timed("callee: read", lambda: [(f.call, wire.envelope_of(f)) for f in map(wire.parsed, got)])
    replies = timed(
        "callee: answer",
        lambda: [
            wire.answered(Envelope(each.id, "reply", each.sender, "t", each.payload, content=each.content), call)
            for call, each in asked
        ],
    )
    timed("host: route a reply", lambda: router.arrived(far, replies))
    back = crossed(near.link, ends[0])
    timed("caller: read", lambda: [wire.answer_of(wire.parsed(raw), requests[0]) for raw in back])
    topic = TopicId("news", "1")
    news = [
        wire.framed(each._replace(kind="event", target=None, topic=topic), COUNT + n)
        for n, each in enumerate(requests, 1)
    ]
    timed("host: route an event", lambda: router.arrived(near, news))


def main() -> None:
    """Run the rounds; print the table."""
    timed = Stopwatch()
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 50):
        one_round(timed)
    for part, microseconds in timed.best.items():
        print(f"{part:24} {microseconds:6.2f} us")


if __name__ == "__main__":
    main()
