"""The kernel's clock as the data path reads it: jiffies.

User space cannot read jiffies, so a small BPF program does (`xdpecmp_clock` in bpf/xdpecmp.c).
"""

from __future__ import annotations

import time
from typing import NamedTuple

from . import libbpf

_CLOCK_MONOTONIC_COARSE = 6
HZ = round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))
"""Jiffies in a second."""

_MODULUS = 1 << 32
_AHEAD = 1 << 28
"""Jiffies by which the time of a packet may be ahead of `Jiffies.now`, read some time before."""


class Jiffies(NamedTuple):
    """The kernel's clock: what bpf_jiffies64() said, and how many make a second."""

    now: int
    per_second: int

    def since(self, then: int) -> float:
        """Seconds since `then`, the low 32 bits of a time; 0 if that is ahead."""
        elapsed = (self.now - then) % _MODULUS
        return 0.0 if elapsed >= _MODULUS - _AHEAD else elapsed / self.per_second


def read_jiffies(clock_fd: int) -> int:
    """What bpf_jiffies64() says now; `clock_fd`: the program xdpecmp_clock."""
    frame = libbpf.run_program(clock_fd, bytes(64)).frame
    return int.from_bytes(frame[:8], "little")


class Clock(NamedTuple):
    """The kernel's clock, to be read by any thread. Reading raises OSError."""

    descriptor: int
    """Of the program xdpecmp_clock."""

    def jiffies(self) -> int:
        """What bpf_jiffies64() says now."""
        return read_jiffies(self.descriptor)

    def now(self) -> Jiffies:
        """The same, to compare with what packets left in the maps."""
        return Jiffies(self.jiffies(), HZ)
