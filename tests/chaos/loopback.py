"""Addresses of the loopback that stand for machines of their own."""

from __future__ import annotations

import socket


def machines(count: int, *, first: int = 2) -> list[str]:
    """So many addresses, ``127.0.0.2`` and further; where the system has only 127.0.0.1, that one, again and again.

    Args:
        count: How many.
        first: The last number of the first one.
    """
    addresses = [f"127.0.{number // 256}.{number % 256}" for number in range(first, first + count)]
    return addresses if all(map(_is_here, addresses)) else ["127.0.0.1"] * count


def free_port(address: str) -> int:
    """A port where nobody listens at present."""
    with socket.socket() as server:
        server.bind((address, 0))
        return server.getsockname()[1]


def _is_here(address: str) -> bool:
    with socket.socket() as server:
        try:
            server.bind((address, 0))
        except OSError:
            return False
    return True
