"""Which frames a router may forward by their bytes alone: written again, slowly and from the RFCs.

RFC 791, 1812 (5.2 and 5.3), 8200 and the addresses of RFC 6890; what is left to Linux on purpose
(IPv4 options, hop-by-hop and routing headers) counts as not to be forwarded here.
"""

from __future__ import annotations

import ipaddress

from scapy.utils import checksum

from tests.bpf.world import TAGS, device_mac

NEVER4 = [ipaddress.ip_network(n) for n in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")]
NEVER4.append(ipaddress.ip_network("169.254.0.0/16"))
NEVER6 = [ipaddress.ip_network(n) for n in ("::/64", "ff00::/8", "fe80::/10")]
INGRESS = {tags for name, tags in TAGS.items() if name.startswith("in.")} | {()}
EXTENSIONS = {0, 43, 44, 60}


def surely_forwardable(frame: bytes) -> bytes | None:
    """The packet that a frame to the router's `in` carries, None where it isn't for forwarding."""
    if len(frame) < 14 or frame[:6] != device_mac("in"):
        return None
    tags: list[tuple[int, int]] = []
    proto, at = number(frame, 12), 14
    while proto in (0x8100, 0x88A8):
        if len(frame) < at + 4:
            return None
        tags.append((proto, number(frame, at) & 0xFFF))
        proto, at = number(frame, at + 2), at + 4
    if tuple(tags) not in INGRESS:
        return None
    l3 = frame[at:]
    if proto == 0x0800:
        return ipv4(l3)
    return ipv6(l3) if proto == 0x86DD else None


def number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def ipv4(l3: bytes) -> bytes | None:
    if len(l3) < 20 or l3[0] != 0x45 or not 20 <= number(l3, 2) <= len(l3):
        return None
    ends = [ipaddress.IPv4Address(l3[i : i + 4]) for i in (12, 16)]
    if checksum(l3[:20]) != 0 or l3[8] < 2 or any(end in net for end in ends for net in NEVER4):
        return None
    return l3[: number(l3, 2)]


def ipv6(l3: bytes) -> bytes | None:
    if len(l3) < 40 or l3[0] >> 4 != 6 or l3[7] < 2:
        return None
    if not 1 <= number(l3, 4) <= len(l3) - 40:  # 0: longer than the field can say
        return None
    ends = [ipaddress.IPv6Address(l3[i : i + 16]) for i in (8, 24)]
    if any(end in net for end in ends for net in NEVER6):
        return None
    packet = l3[: 40 + number(l3, 4)]
    return packet if chain_is_whole(packet) else None


def chain_is_whole(packet: bytes) -> bool:
    """Six extension headers at most, none for routers, each there as far as it has to be read."""
    if packet[6] == 0:
        return False
    proto, at = packet[6], 40
    for _ in range(6):
        if proto not in EXTENSIONS:
            return True
        if proto == 43 or len(packet) < at + (8 if proto == 44 else 2):
            return False
        if proto == 44:
            return True
        proto, at = packet[at], at + (packet[at + 1] + 1) * 8
    return proto not in EXTENSIONS
