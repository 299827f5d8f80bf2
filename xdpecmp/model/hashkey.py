"""The key of Linux's multipath hash.

It is a secret: who knows it can choose flows that all take one next hop. So a key is not shown by
`repr()`, and what shows it on purpose (`seed`) does so only where it is no secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Origin(IntEnum):
    """Where a key comes from. The numbers are in the map `config`: append only."""

    NONE = 0
    """There is no key."""
    SYSCTL = 1
    """net.ipv4.fib_multipath_hash_seed, which anybody on the host may read."""
    MEMORY = 2
    """Read from the kernel's memory."""
    SEARCH = 3
    """Found by trying all seeds."""
    OWN = 4
    """A seed of ours: Linux has another key."""


@dataclass(frozen=True, slots=True, repr=False)
class HashKey:
    """A SipHash key: two halves, unsigned 64-bit, each read little-endian."""

    key0: int
    key1: int
    origin: Origin

    @classmethod
    def of_seed(cls, seed: int, origin: Origin = Origin.SYSCTL) -> HashKey:
        """The key that Linux makes of a 32-bit seed: the seed twice in each half
        (fib_multipath_hash_construct_key() in include/net/ip_fib.h, Linux 6.11).

        Raises ValueError for a seed that does not fit; 0 is taken as it is, though the sysctl reads
        it as "random".
        """
        if not 0 <= seed < 1 << 32:
            raise ValueError("a seed that is not an unsigned 32-bit number")
        half = seed << 32 | seed
        return cls(half, half, origin)

    @property
    def seed(self) -> int | None:
        """The seed that it is made of; None where that is a secret."""
        return self.key0 & 0xFFFFFFFF if self.origin in (Origin.SYSCTL, Origin.OWN) else None

    @property
    def is_ours(self) -> bool:
        """Whether Linux has another one."""
        return self.origin is Origin.OWN

    def __repr__(self) -> str:
        return f"HashKey(origin={self.origin.name})"


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is known of Linux's key where the sysctl does not tell it."""

    key: HashKey | None = None
    """Read or searched, and confirmed."""
    missing: str = ""
    """Where there is none: why it could not be read."""
    searching: bool = False
    """And whether it is searched for."""


NO_KEY = KeyState()
