"""A flow, as a user names it and as Linux is asked about it."""

from __future__ import annotations

from dataclasses import dataclass
from socket import IPPROTO_UDP


@dataclass(frozen=True, slots=True)
class Flow:
    """What there is in a packet that a hash may look at. What it does look at, by the hash policy,
    is `hashing.FlowKey`. Addresses are packed, numbers in host order."""

    source: bytes
    destination: bytes
    proto: int = IPPROTO_UDP
    """IP protocol or next header."""
    sport: int = 0
    dport: int = 0
    flow_label: int = 0
    """20 bits, IPv6 only."""

    @property
    def family(self) -> int:
        """4 or 6."""
        return 4 if len(self.destination) == 4 else 6
