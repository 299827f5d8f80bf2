"""The frames that are measured, built by hand: a bench needs no packet library.

TTL and hop limit are 255, since a test run does not reset the frame between repeats.
"""

from __future__ import annotations

import ipaddress
import struct

TTL = 255
PAYLOAD = 22
"""Bytes behind the UDP header: 64-byte frames with the checksum that the wire adds, for IPv4."""

_UDP, _ICMP, _ICMPV6 = 17, 1, 58
_FRAG_NEEDED, _PACKET_TOO_BIG = (3, 4), (2, 0)


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(destination: bytes, packet: bytes, vlan: int | None = None) -> bytes:
    """An IP packet in a frame to that MAC address, with an 802.1Q tag if wanted."""
    proto = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
    return destination + b"\x02\0\0\0\0\x01" + tag + struct.pack("!H", proto) + packet


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 or IPv6 packet, by the family of its addresses."""
    src, dst = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if src.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, TTL)
        return head + src.packed + dst.packed + payload
    fields = (0x45, 0, 20 + len(payload), 1, 0x4000, TTL, protocol, 0)
    head = struct.pack("!BBHHHBBH", *fields) + src.packed + dst.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source: str, destination: str, payload: bytes = b"") -> bytes:
    """A UDP packet without UDP checksum: no router looks at it."""
    head = struct.pack("!HHHH", 40000, 443, 8 + PAYLOAD, 0)
    return ip(source, destination, _UDP, head + payload.ljust(PAYLOAD, b"\0"))


def too_big(source: str, destination: str) -> bytes:
    """The ICMP error that says the packet was too big, from a router at `source`, about a packet
    that `destination` sent."""
    quote = udp(destination, source)
    if ipaddress.ip_address(source).version == 6:
        body = struct.pack("!BBHI", *_PACKET_TOO_BIG, 0, 1280) + quote
        return ip(source, destination, _ICMPV6, body)
    body = struct.pack("!BBHHH", *_FRAG_NEEDED, 0, 0, 1280) + quote
    return ip(source, destination, _ICMP, body)
