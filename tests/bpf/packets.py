"""Frames as they come in, and what must become of them, written without the code under test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet
from scapy.utils import checksum

from .world import SOURCE, TARGET, device_mac, neighbour_mac

SENDER_MAC = bytes.fromhex("02f00f00f00f")
ETHERTYPE = {4: 0x0800, 6: 0x86DD}

Tags = Sequence[tuple[int, int]]
"""TPID and TCI of each tag, outermost first."""


def to(name: str, family: int = 4, **fields: Any) -> Packet:
    """The IP header of a packet to what lies behind a route of world.ROUTES."""
    values: dict[str, Any] = {"src": SOURCE[family], "dst": TARGET[family][name]} | fields
    return IP(**values) if family == 4 else IPv6(**values)


def tag_bytes(tags: Tags) -> bytes:
    return b"".join(struct.pack("!HH", *tag) for tag in tags)


def frame(
    l3: Packet | bytes,
    tags: Tags = (),
    padding: bytes = b"",
    ethertype: int | None = None,
    destination: bytes | None = None,
) -> bytes:
    """The Ethernet frame with this packet that comes in by `in`, the router's MAC being its own."""
    raw = bytes(l3)
    proto = ETHERTYPE.get(raw[0] >> 4, 0) if ethertype is None else ethertype
    head = (destination or device_mac("in")) + SENDER_MAC + tag_bytes(tags)
    return head + struct.pack("!H", proto) + raw + padding


def forwarded(l3: Packet | bytes, via: str, device: str = "out", tags: Tags = ()) -> bytes:
    """The frame by which a router sends this packet on to `via`: RFC 1812, 5.2 and 5.3.1."""
    raw = bytearray(bytes(l3))
    family = raw[0] >> 4
    if family == 4:
        del raw[int.from_bytes(raw[2:4], "big") :]
        raw[8] -= 1
        raw[10:12] = bytes(2)
        raw[10:12] = checksum(bytes(raw[:20])).to_bytes(2, "big")
    else:
        del raw[40 + int.from_bytes(raw[4:6], "big") :]
        raw[7] -= 1
    head = neighbour_mac(via) + device_mac(device) + tag_bytes(tags)
    return head + struct.pack("!H", ETHERTYPE[family]) + bytes(raw)


def with_checksum(l3: Packet, wanted: int) -> bytes:
    """The IPv4 packet with that header checksum, a right one: its id is chosen for it.

    0xffff, which no one computes, means the same as 0 and is as right.
    """
    raw = bytearray(bytes(l3))
    raw[4:6] = raw[10:12] = bytes(2)
    rest = 0xFFFF - checksum(bytes(raw[:20]))
    raw[4:6] = ((0xFFFF - wanted - rest) % 0xFFFF).to_bytes(2, "big")
    raw[10:12] = wanted.to_bytes(2, "big")
    assert checksum(bytes(raw[:20])) == 0
    return bytes(raw)
