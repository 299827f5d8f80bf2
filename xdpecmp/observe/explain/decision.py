"""What was decided about a packet, and what the reference model makes of the same packet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ...hashing import FlowKeys, flow_keys
from ...model.hashkey import HashKey
from ...program.abi import GroupKind, Reason


class HashSettings(NamedTuple):
    """How the data path hashes the packets of one family."""

    policy: int
    fields: int
    key: HashKey
    follows_label: bool = True

    @property
    def own_seed(self) -> bool:
        """Whether the key is not Linux's."""
        return self.key.is_ours


@dataclass(frozen=True)
class Decision:
    """What the program decided about one frame."""

    reason: Any
    family: int
    """4, 6, or 0 if the packet was not parsed that far."""
    ingress: int
    """Index of the interface that the packet came in on as Linux sees it; 0 if the
    packet was not parsed that far."""
    packet: bytes
    """The frame from its IP header on; b"" if the packet was not parsed that far."""
    hash: int | None
    nexthop: int | None
    """The entry of `nexthops` that was chosen, usable or not."""
    group: tuple[int, int, int]
    """GroupKind, first, count."""
    is_icmp_error: bool
    quote_offset: int
    settings: HashSettings

    @property
    def forwards(self) -> bool:
        return bool(self.reason == Reason.FORWARDED)

    @property
    def is_multipath(self) -> bool:
        return self.group[0] in (GroupKind.THRESHOLD, GroupKind.RESILIENT)

    @property
    def addresses(self) -> tuple[bytes, bytes] | None:
        """Source and destination."""
        if not self.family:
            return None
        size, start = (4, 12) if self.family == 4 else (16, 8)
        if len(self.packet) < start + 2 * size:
            return None
        middle, end = start + size, start + 2 * size
        return self.packet[start:middle], self.packet[middle:end]

    @property
    def destination(self) -> bytes:
        """b"" if the packet was not parsed that far."""
        return self.addresses[1] if self.addresses else b""


class Reference(NamedTuple):
    """The flow keys of a packet, field by field, and its hash, as Python computes them."""

    keys: FlowKeys
    hash: int


def reference(packet: bytes, settings: HashSettings) -> Reference | None:
    """None for a packet that is broken."""
    try:
        keys = flow_keys(packet, settings.policy, settings.fields, settings.follows_label)
    except ValueError:
        return None
    return Reference(keys, keys.hash(settings.key))
