"""Sizes of headers, for packets that the tests build themselves."""

from __future__ import annotations


def headers_size(packet: bytes) -> int:
    """Bytes of the IP header and, for IPv6, of its hop-by-hop, routing, fragment and destination
    headers (RFC 8200)."""
    if packet[0] >> 4 == 4:
        return (packet[0] & 15) * 4
    proto, size = packet[6], 40
    while proto in (0, 43, 44, 60):
        proto, size = packet[size], size + (8 if proto == 44 else (packet[size + 1] + 1) * 8)
    return size
