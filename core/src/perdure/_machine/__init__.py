"""The deterministic machine: durable code in, journal entries in, commands out.

Sans-I/O: no store, no clock, no network, no random. ``loop`` is the event loop that durable code runs on,
``tasks`` gives what runs there an identity and an order, ``machine`` feeds it and collects what it wants.
"""

from perdure._machine.machine import RECORDED, TRANSITIONS, Activation, Command, Evicted, Machine, Outcome

__all__ = ["RECORDED", "TRANSITIONS", "Activation", "Command", "Evicted", "Machine", "Outcome"]
