"""What Linux's choices say about its hash key.

A route with many paths answers each flow with an interval that its hash lies in. A wrong key agrees
with a choice by chance, once in 2^bits; so many choices together leave no doubt.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ..model.hashkey import HashKey
from .keys import FlowKey
from .selection import HASH_BITS

ENOUGH_BITS = 64
"""So much has to agree before a key counts: one wrong key in 2^64 would. Of the 2^32 keys that a
search tries none is expected to."""


class Choice(NamedTuple):
    """What Linux chose for a flow under hash policy 0: its hash lies between two, both included."""

    source: bytes
    """IPv4 address, packed; as `destination`."""
    destination: bytes
    low: int
    high: int

    @property
    def bits(self) -> float:
        """How much it says of the hash."""
        return HASH_BITS - math.log2(self.high - self.low + 1)

    def message(self) -> bytes:
        """What is hashed."""
        return FlowKey(4, self.source, self.destination).pack()

    def words(self) -> tuple[int, int]:
        """The two 64-bit words of the message that are not zero, the fifth and the sixth."""
        *zero, fifth, sixth = struct.unpack("<6Q", self.message())
        assert not any(zero)
        return fifth, sixth

    def agrees(self, key: HashKey) -> bool:
        """Whether Linux would have chosen so with that key."""
        return self.low <= FlowKey(4, self.source, self.destination).hash(key) <= self.high


def explains(key: HashKey, choices: Iterable[Choice]) -> bool:
    """Whether all of them agree with that key."""
    return all(choice.agrees(key) for choice in choices)


def is_confirmed(key: HashKey, choices: Iterable[Choice]) -> bool:
    """Whether they agree, and are enough."""
    choices = list(choices)
    return sum(choice.bits for choice in choices) >= ENOUGH_BITS and explains(key, choices)
