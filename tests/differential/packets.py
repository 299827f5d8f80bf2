"""Headers as bytes, with any field at will: RFC 791, 2784, 2890, 4302, 4443, 8200."""

from __future__ import annotations

import struct
from typing import NamedTuple

ICMP, IPIP, TCP, UDP, DCCP, IPV6, GRE, ESP, AH = 1, 4, 6, 17, 33, 41, 47, 50, 51
ICMPV6, SCTP, UDPLITE = 58, 132, 136
HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION = 0, 43, 44, 59, 60
WITH_PORTS = (TCP, UDP, DCCP, ESP, AH, SCTP, UDPLITE)
"""Protocols of whose header Linux hashes four bytes as if they were ports (of AH: the SPI)."""
ETHERTYPE = {4: 0x0800, 6: 0x86DD}
IP_HEADER = {4: 20, 6: 40}
ERRORS = {4: (3, 4, 5, 11, 12), 6: (1, 2, 3, 4)}
"""ICMP types that quote a packet."""
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION)


def total(data: bytes) -> int:
    """The one's complement sum of 16-bit words, folded; of an odd end, padded with a zero."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    value: int = sum(words)
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def ipv4(
    source: bytes,
    destination: bytes,
    proto: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 0,
    fragment: int = 0,
    options: bytes = b"",
    length: int | None = None,
    checksum: int | None = None,
) -> bytes:
    """`checksum`: the one that shall be right; the identification is then chosen for it."""
    size = 20 + len(options)
    if length is None:
        length = size + len(payload)

    def header(identification: int, value: int) -> bytes:
        head = (0x40 | size // 4, tos, length, identification, fragment, ttl, proto, value)
        return struct.pack("!BBHHHBBH", *head) + source + destination + options

    if checksum is not None:
        rest = total(header(0, 0))
        return header((0xFFFF - checksum - rest) % 0xFFFF, checksum) + payload
    return header(ident, 0xFFFF - total(header(ident, 0))) + payload


def with_good_checksum(packet: bytes) -> bytes:
    """The IPv4 packet with its header's checksum put right, if its header is all there."""
    size = (packet[0] & 15) * 4
    if not 20 <= size <= len(packet):
        return packet
    header = packet[:10] + bytes(2) + packet[12:size]
    return header[:10] + struct.pack("!H", 0xFFFF - total(header)) + packet[12:]


def ipv6(
    source: bytes,
    destination: bytes,
    proto: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    label: int = 0,
    length: int | None = None,
) -> bytes:
    """`ttl` is the hop limit and `tos` the traffic class, so that both families look alike."""
    if length is None:
        length = len(payload)
    head = struct.pack("!IHBB", 6 << 28 | tos << 20 | label, length, proto, ttl)
    return head + source + destination + payload


class Extension(NamedTuple):
    """An IPv6 extension header or AH, without the number of what follows it."""

    proto: int
    body: bytes
    """From the second byte on."""


def chain(headers: list[Extension], proto: int, payload: bytes) -> tuple[int, bytes]:
    """The headers in front of the payload: the first one's number and all bytes."""
    for header in reversed(headers):
        payload = bytes([proto]) + header.body + payload
        proto = header.proto
    return proto, payload


def options_header(proto: int, units: int = 0) -> Extension:
    """Hop-by-hop or destination options that say nothing: one PadN of 8 · units + 6 bytes."""
    size = 8 * units + 4
    return Extension(proto, bytes([units, 1, size]) + bytes(size))


def routing_header(segments_left: int) -> Extension:
    """Of a type that no one knows."""
    return Extension(ROUTING, bytes([0, 253, segments_left]) + bytes(4))


def fragment_header(offset: int, more: int, ident: int) -> Extension:
    return Extension(FRAGMENT, struct.pack("!BHI", 0, offset << 3 | more, ident))


def ah(spi: int, words: int = 4) -> Extension:
    return Extension(AH, struct.pack("!BHII", words, 0, spi, 1) + bytes(4 * (words - 1)))


def gre(
    proto: int,
    payload: bytes,
    flags: int = 0,
    fields: bytes = b"",
) -> bytes:
    """`fields`: the optional ones that `flags` promises, in their order."""
    return struct.pack("!HH", flags, proto) + fields + payload


class Found(NamedTuple):
    """Where an ICMP error and its quote were found in a packet."""

    behind_headers: bool
    """Whether something stands between the fixed IPv6 header and ICMPv6."""


def find_error(packet: bytes) -> Found | None:
    """Whether a packet without IPv4 options is an ICMP error that quotes a whole IP header."""
    family = packet[0] >> 4
    if family == 4:
        packet = packet[: int.from_bytes(packet[2:4], "big")]
        at, proto = 20, packet[9]
        if packet[0] != 0x45 or int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return None
    else:
        packet = packet[: 40 + int.from_bytes(packet[4:6], "big")]
        at, proto = 40, packet[6]
        while proto in (DESTINATION, AH) and len(packet) > at + 1:
            size = 8 * (packet[at + 1] + 1) if proto == DESTINATION else 4 * (packet[at + 1] + 2)
            last = proto == AH
            proto, at = packet[at], at + size
            if last:
                break
    is_icmp = proto == (ICMP if family == 4 else ICMPV6)
    if not is_icmp or len(packet) < at + 8 + IP_HEADER[family]:
        return None
    return Found(at > IP_HEADER[family]) if packet[at] in ERRORS[family] else None
