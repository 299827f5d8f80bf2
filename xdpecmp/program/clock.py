"""The kernel's clock as the data path reads it: jiffies."""

from __future__ import annotations

import time
from typing import NamedTuple

from . import libbpf

_CLOCK_MONOTONIC_COARSE = 6
HZ = round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))
"""How many jiffies the kernel has in a second."""

_JIFFIES = 1 << 32
_AHEAD = 1 << 28
"""So far a packet's time may be ahead of ours, which is that of the agent's last tick."""


class Jiffies(NamedTuple):
    """The kernel's clock: what bpf_jiffies64() said, and how many make a second."""

    now: int
    per_second: int

    def since(self, then: int) -> float:
        """Seconds since a moment of which the low 32 bits are known; 0 where it is yet to come."""
        elapsed = (self.now - then) % _JIFFIES
        return 0.0 if elapsed >= _JIFFIES - _AHEAD else elapsed / self.per_second


def read_jiffies(clock_fd: int) -> int:
    """What bpf_jiffies64() says now; `clock_fd`: the program xdpecmp_clock."""
    frame = libbpf.run_program(clock_fd, bytes(64)).frame
    return int.from_bytes(frame[:8], "little")
