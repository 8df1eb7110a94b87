"""How sessions, hosts and workers behave: what they wait for, and what they hold at most."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

PROTOCOL: Final = 1
"""Version of the wire that this release speaks."""

_MIB: Final = 1024 * 1024


class SessionSettings(BaseModel):
    """What the side that accepts sessions decides for both.

    Attributes:
        window_frames: Requests and events that may be on their way before one has been taken over, each way.
        window_bytes: Likewise in bytes; one message may exceed it.
        max_frame: Bytes of the largest message.
        heartbeat: Seconds after which who has nothing to say says so.
        silence: Seconds without a packet after which a connection is given up.
        grace: Seconds that a session without a connection is kept for its return.
        sessions: How many there may be at once.
        deadline: Seconds after which a request without a deadline ends with ``DeadlineExceeded``; 0: never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_frames: int = Field(default=1024, ge=1)
    window_bytes: int = Field(default=16 * _MIB, ge=1)
    max_frame: int = Field(default=64 * _MIB, ge=1024)
    heartbeat: float = Field(default=2.0, gt=0)
    silence: float = Field(default=6.0, gt=0)
    grace: float = Field(default=30.0, ge=0)
    sessions: int = Field(default=10_000, ge=1)
    deadline: float = Field(default=0.0, ge=0)


class HostSettings(SessionSettings):
    """How a host routes.

    Attributes:
        patience: Seconds that a message waits for a worker that does not read, before it is ``Overloaded``.
        forget: Seconds without a message after which an agent loses its place: its next one may go to another worker.
            Keep it longer than workers keep idle instances.
        agents: How many of them have a place at most; beyond, those without a message for longest lose theirs.
        topics: Topics whose recipients are remembered.
        announced: Agent types and subscriptions of one worker.
        drain: Seconds that ``stop`` waits for what is under way.
        direct: Whether workers are told where to reach each other directly.
    """

    patience: float = Field(default=5.0, ge=0)
    forget: float = Field(default=3600.0, gt=0)
    agents: int = Field(default=1_000_000, ge=2)
    topics: int = Field(default=10_000, ge=1)
    announced: int = Field(default=100_000, ge=1)
    drain: float = Field(default=5.0, ge=0)
    direct: bool = True


class WorkerSettings(BaseModel):
    """How a worker keeps its link to the host.

    Attributes:
        name: How others see it; empty: the host gives it one.
        address: Where other workers may dial it directly; empty: nowhere.
        connect: Seconds that ``start`` tries to reach the host.
        retry: Seconds before the second attempt to reconnect; each further one waits twice as long, up to a second.
        patience: Seconds that a message waits for room on its way to the host, before it is ``Overloaded``.
        handlers: Messages in handlers at once; further ones wait, and hold up those who send.
        drain: Seconds that ``stop`` waits for what is under way.
        direct: Whether requests go directly to the worker that holds the agent, where that can be dialled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", max_length=200)
    address: str = Field(default="", max_length=1000)
    connect: float = Field(default=30.0, ge=0)
    retry: float = Field(default=0.05, gt=0)
    patience: float = Field(default=30.0, ge=0)
    handlers: int = Field(default=10_000, ge=1)
    drain: float = Field(default=5.0, ge=0)
    direct: bool = True
