"""How a host deals with AutoGen's workers."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

_MIB: Final = 1024 * 1024


class AutogenSettings(BaseModel):
    """What is decided for AutoGen's workers, who decide nothing of the kind themselves.

    Attributes:
        deadline: Seconds after which a request without a deadline ends with ``DeadlineExceeded``, whichever side is
            AutoGen's: its workers give no answer where a handler returns ``None``.
        max_message: Bytes of the largest message to a worker. gRPC in a worker ends its connection over a larger one:
            raise it together with the worker's ``grpc.max_receive_message_length``.
        asking: Requests of one worker without an answer, at most; further ones are ``Overloaded``.
        publishing: Publications of one worker that are not yet accepted; it is not read while there are so many.
        handling: Messages to one worker at once, requests without an answer among them; further ones wait, and hold up
            those who send.
        drain: Seconds that a host that stops waits for what is under way.
        without_token: Whether they may come without one, where others need a token: they can send none. What such a
            worker may do is said here, by patterns as in a grant.
        may_host: Of the agent types that may live there, and in whose name it may send.
        may_send: Of the agent types that it may send to.
        may_publish: Of the topic types that it may publish on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    deadline: float = Field(default=30.0, gt=0)
    max_message: int = Field(default=4 * _MIB, ge=1024)
    asking: int = Field(default=10_000, ge=1)
    publishing: int = Field(default=64, ge=1)
    handling: int = Field(default=1024, ge=1)
    drain: float = Field(default=5.0, ge=0)
    without_token: bool = False
    may_host: tuple[str, ...] = ("*",)
    may_send: tuple[str, ...] = ("*",)
    may_publish: tuple[str, ...] = ("*",)
