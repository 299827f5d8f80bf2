"""clock: how long ago, by the low 32 bits that the program stores."""

from __future__ import annotations

import pytest

from xdpecmp.program.clock import Jiffies

HZ = 250
NOW = 1_000_000


@pytest.mark.parametrize(
    ("now", "then", "seconds"),
    [
        (NOW, NOW, 0.0),
        (NOW, NOW - HZ, 1.0),
        ((5 << 32) + 100, (1 << 32) - 150, 1.0),  # over the edge of 32 bits
        ((5 << 32) + 250, 0, 1.0),
        (NOW, NOW + 1, 0.0),  # a packet later than our last look at the clock
        (NOW, NOW + 3600 * HZ, 0.0),
        ((5 << 32) - 1, 0, 0.0),
        (10, (1 << 32) - 10 * HZ + 10, 10.0),
        (1 << 31, 0, (1 << 31) / HZ),  # months
    ],
)
def test_since(now: int, then: int, seconds: float) -> None:
    assert Jiffies(now, HZ).since(then) == seconds
