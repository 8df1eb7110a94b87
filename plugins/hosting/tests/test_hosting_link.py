"""The link: two state machines, and packets between them that arrive, or do not."""

from __future__ import annotations

import random

import pytest

from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.link import BATCH_BYTES, BATCH_FRAMES, Link, parsed
from perdure_hosting.settings import SessionSettings
from perdure_hosting.wire_pb2 import Goodbye, Packet

SETTINGS = SessionSettings(window_frames=8, window_bytes=1000, max_frame=1024)
MAX = SETTINGS.max_frame


def link(**settings: int) -> Link:
    return Link(SETTINGS.model_copy(update=settings))


def carried(source: Link, target: Link) -> list[bytes]:
    """One packet, if there is something to say."""
    data = source.take()
    return list(target.receive(parsed(data, MAX))) if data is not None else []


def put(source: Link, *frames: bytes) -> None:
    for each in frames:
        source.put(each, counted=True)


def test_frames_arrive_in_one_packet_and_are_forgotten_when_acknowledged():
    here, there = link(), link()
    put(here, b"a", b"b", b"c")
    assert carried(here, there) == [b"a", b"b", b"c"]
    assert here.take() is None
    assert here.held == 3
    there.put(b"answer")
    assert carried(there, here) == [b"answer"]
    assert (here.held, here.acked, here.last) == (0, 3, 3)


def test_nothing_is_said_where_there_is_nothing_to_say():
    here, there = link(), link()
    assert here.take() is None
    put(here, b"a")
    carried(here, there)
    assert there.take() is None  # an acknowledgement alone waits for company, unless it is asked for
    here.poke()
    carried(here, there)
    carried(there, here)
    assert here.held == 0


def test_who_takes_nothing_over_makes_the_other_side_wait():
    here, there = link(), link()
    while here.room:
        put(here, b"x")
    for each in carried(here, there):
        there.arrived(len(each))
    carried(there, here)
    assert here.held == 0  # all have arrived
    assert not here.room  # and none was taken over
    there.took(1)
    there.took(1)  # a quarter of the window: worth telling
    carried(there, here)
    assert here.room


def test_bytes_fill_the_window_too_and_one_message_may_exceed_it():
    here, there = link(), link()
    put(here, b"x" * 1020)
    assert not here.room
    for each in carried(here, there):
        there.arrived(len(each))
        there.took(len(each))
    carried(there, here)
    assert here.room


def test_frames_that_need_no_room_go_when_the_window_is_full():
    here, there = link(), link()
    while here.room:
        put(here, b"x")
    here.put(b"reply")
    assert carried(here, there)[-1] == b"reply"


def test_a_packet_is_bounded():
    here = link(window_frames=1_000_000, window_bytes=2**40)
    for _ in range(BATCH_FRAMES + 1):
        here.put(b"x")
    assert [len(Packet.FromString(here.take() or b"").frames) for _ in range(2)] == [BATCH_FRAMES, 1]
    for _ in range(3):
        here.put(b"x" * BATCH_BYTES)
    assert [len(Packet.FromString(here.take() or b"").frames) for _ in range(3)] == [1, 1, 1]


def test_an_answer_is_asked_for_up_to_the_last_packet_of_what_wants_one():
    here = link()
    for _ in range(2 * BATCH_FRAMES + 1):
        here.put(b"frame")
    here.urgent = True
    assert [Packet.FromString(here.take() or b"").urgent for _ in range(3)] == [True, True, True]
    here.put(b"frame")
    assert not Packet.FromString(here.take() or b"").urgent


@pytest.mark.parametrize("seed", range(20))
def test_what_breaks_anywhere_goes_on_without_loss_or_repetition(seed: int):
    chance = random.Random(seed)  # noqa: S311 - the same every time
    ends = [link(), link()]
    sent: list[list[bytes]] = [[], []]
    got: list[list[bytes]] = [[], []]
    for n in range(2000):
        a = chance.randrange(2)
        source, target = ends[a], ends[1 - a]
        what = chance.random()
        if what < 0.5 and source.room:
            frame = b"%d" % n
            source.put(frame, counted=True)
            sent[a].append(frame)
        elif what < 0.95:
            for each in carried(source, target):
                target.arrived(len(each))
                target.took(len(each))
                got[a].append(each)
        else:
            source.take()  # lost with its carrier; both go on over another one
            target.take()
            here, there = ends[0].received, ends[1].received
            ends[0].attach(there)
            ends[1].attach(here)
    for _ in range(5):
        for a in range(2):
            ends[a].poke()
            got[a] += carried(ends[a], ends[1 - a])
    assert got == sent
    assert [end.held for end in ends] == [0, 0]
    assert len(sent[0]) > 100


def test_what_was_never_written_is_known():
    here, _ = link(), link()
    put(here, b"a")
    here.take()
    put(here, b"b")
    here.attach(0)
    assert here.unacknowledged() == ([b"a"], [b"b"])
    assert [here.never_written(1), here.never_written(2)] == [False, True]


@pytest.mark.parametrize(
    "packet",
    [
        Packet(first=2, frames=[b"a"]),
        Packet(frames=[b"a"]),
        Packet(ack=1),
        Packet(taken_frames=1),
        Packet(first=1, frames=[b"a"], ack=2**63),
    ],
    ids=["gap", "no number", "ack of nothing", "taken of nothing", "large"],
)
def test_impossible_packets_are_refused(packet: Packet):
    with pytest.raises(ProtocolViolated):
        link().receive(packet)


@pytest.mark.parametrize("received", [1, 2**64 - 1])
def test_a_session_cannot_go_on_after_what_was_never_sent(received: int):
    with pytest.raises(ProtocolViolated, match="cannot go on"):
        link().attach(received)


def test_who_exceeds_the_window_breaks_the_protocol():
    here = link()
    for _ in range(8):
        here.arrived(1)
    with pytest.raises(ProtocolViolated, match="more than 8 messages"):
        here.arrived(1)
    with pytest.raises(ProtocolViolated, match="1025 bytes, more than the 1024") as caught:
        link().arrived(1025)
    assert caught.value.reason == Goodbye.OVERSIZE


@pytest.mark.parametrize("data", [b"\xff", b"\x4a\x05a", b"x" * (MAX + BATCH_BYTES + 2**17)])
def test_bytes_that_are_no_packet_are_refused(data: bytes):
    with pytest.raises(ProtocolViolated):
        parsed(data, MAX)
