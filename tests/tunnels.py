"""Tunnelled packets, for the hash policies that look inside: 2 and 3.

`TUNNELS` holds packets that the data path can follow to the innermost header, `UNFOLLOWED` those
that it leaves to Linux. Both are built for any two ends, and so for both directions of a flow.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw

from xdpecmp.hashing import FlowKey

Pair = tuple[str, str]


@dataclass(frozen=True)
class Ends:
    """Who talks to whom: source and destination, by the layer they belong to."""

    outer4: Pair = ("192.0.2.1", "198.51.100.2")
    outer6: Pair = ("2001:db8::1", "2001:db8:1::2")
    middle4: Pair = ("172.16.0.1", "172.16.9.2")
    middle6: Pair = ("fd00:1::1", "fd00:9::2")
    inner4: Pair = ("10.0.0.1", "10.0.9.2")
    inner6: Pair = ("fd00::1", "fd00:f::2")
    ports: tuple[int, int] = (0x1111, 0x2222)
    outer_label: int = 0x54321
    inner_label: int = 0x13579

    def turned(self) -> Ends:
        """The other way round; a flow that has a label has the same one both ways."""
        pairs = {name: value[::-1] for name, value in vars(self).items() if "label" not in name}
        return replace(self, **pairs)


def random_ends(rng: random.Random, target: Mapping[int, bytes]) -> Ends:
    """Of a flow to an address that begins with `target`'s bytes, its source a unicast address."""

    def address(family: int, head: bytes) -> str:
        return str(ip_address(head + rng.randbytes((4 if family == 4 else 16) - len(head))))

    def pair(family: int) -> Pair:
        head = b"\x0a" if family == 4 else b"\xfd"
        return address(family, head), address(family, head)

    return Ends(
        outer4=(address(4, bytes([rng.randrange(11, 126)])), address(4, target[4])),
        outer6=(address(6, b"\x2a"), address(6, target[6])),
        middle4=pair(4),
        middle6=pair(6),
        inner4=pair(4),
        inner6=pair(6),
        ports=(rng.randrange(1, 65536), rng.randrange(1, 65536)),
        outer_label=rng.randrange(1, 1 << 20),
        inner_label=rng.randrange(1, 1 << 20),
    )


Build = Callable[[Ends], Packet]


@dataclass(frozen=True)
class Tunnel:
    """A packet, and what stands in its innermost header."""

    name: str
    packet: Build
    outer: int
    """Family of the outermost header."""
    outer_proto: int
    inner: int = 0
    """Family of the innermost header; 0 where the packet counts as not encapsulated."""
    proto: int = 0
    """Protocol of the innermost header."""
    has_ports: bool = False
    label: str = "inner_label"
    """The flow label that counts as the innermost header's; of IPv6 only."""

    def __str__(self) -> str:
        return f"IPv{self.outer} {self.name}"

    def build(self, ends: Ends) -> bytes:
        return bytes(self.packet(ends))

    def outer_key(self, ends: Ends) -> FlowKey:
        """With all that policy 3 can ask for."""
        pair = ends.outer4 if self.outer == 4 else ends.outer6
        key = FlowKey(self.outer, _packed(pair[0]), _packed(pair[1]), self.outer_proto)
        return key if self.outer == 4 else key._replace(flow_label=ends.outer_label)

    def inner_key(self, ends: Ends) -> FlowKey:
        pair = ends.inner4 if self.inner == 4 else ends.inner6
        key = FlowKey(self.inner, _packed(pair[0]), _packed(pair[1]), self.proto)
        if self.has_ports:
            key = key._replace(sport=ends.ports[0], dport=ends.ports[1])
        return key if self.inner == 4 else key._replace(flow_label=getattr(ends, self.label))


def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _v4(pair: Pair, **fields: Any) -> Packet:
    return IP(src=pair[0], dst=pair[1], **fields)


def _v6(pair: Pair, label: int, **fields: Any) -> Packet:
    return IPv6(src=pair[0], dst=pair[1], fl=label, **fields)


def out4(ends: Ends, **fields: Any) -> Packet:
    return _v4(ends.outer4, **fields)


def out6(ends: Ends, **fields: Any) -> Packet:
    return _v6(ends.outer6, ends.outer_label, tc=0xFF, **fields)


def in4(ends: Ends, **fields: Any) -> Packet:
    return _v4(ends.inner4, **fields)


def in6(ends: Ends, label: int | None = None, **fields: Any) -> Packet:
    return _v6(ends.inner6, ends.inner_label if label is None else label, tc=0x55, **fields)


def udp(ends: Ends) -> Packet:
    return UDP(sport=ends.ports[0], dport=ends.ports[1]) / Raw(b"payload")


def tcp(ends: Ends) -> Packet:
    return TCP(sport=ends.ports[0], dport=ends.ports[1])


# What is innermost: family, packet, protocol, whether it has ports, and whose label it has.
_Innermost = tuple[int, Callable[[Ends], Packet], int, bool, str]
_INNERMOST: dict[str, _Innermost] = {
    "UDP": (4, lambda e: in4(e) / udp(e), 17, True, ""),
    "TCP behind IPv4 options": (
        4,
        lambda e: in4(e, options=[IPOption_NOP()] * 8) / tcp(e),
        6,
        True,
        "",
    ),
    "echo": (4, lambda e: in4(e) / ICMP(id=7), 1, False, ""),
    "first fragment": (4, lambda e: in4(e, flags="MF") / udp(e), 17, False, ""),
    "later fragment": (4, lambda e: in4(e, frag=9, proto=17) / Raw(bytes(16)), 17, False, ""),
    "fragment of a tunnel": (4, lambda e: in4(e, flags="MF") / in4(e) / udp(e), 4, False, ""),
    "ICMP error": (4, lambda e: in4(e) / ICMP(type=3) / in4(e.turned()) / udp(e), 1, False, ""),
    "TCP over IPv6": (6, lambda e: in6(e) / tcp(e), 6, True, "inner_label"),
    "IPv6 fragment": (
        6,
        lambda e: in6(e) / IPv6ExtHdrFragment(m=1) / udp(e),
        17,
        False,
        "inner_label",
    ),
    "IPv6 extension headers": (
        6,
        lambda e: in6(e) / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / udp(e),
        17,
        True,
        "inner_label",
    ),
    "ICMPv6 error": (
        6,
        lambda e: in6(e) / ICMPv6DestUnreach() / Raw(bytes(in6(e.turned()) / udp(e))),
        58,
        False,
        "inner_label",
    ),
}

_AROUND: dict[str, tuple[int, int, Callable[[Ends], Packet]]] = {
    "in IPv4": (4, 0, out4),
    "in GRE": (4, 47, lambda e: out4(e) / GRE()),
    "in GRE with a key": (4, 47, lambda e: out4(e) / GRE(key_present=1, key=7)),
    "in GRE with a sequence number": (4, 47, lambda e: out4(e) / GRE(seqnum_present=1)),
    "in GRE with a checksum": (4, 47, lambda e: out4(e) / GRE(chksum_present=1)),
    "in GRE with all three": (
        4,
        47,
        lambda e: out4(e) / GRE(chksum_present=1, key_present=1, seqnum_present=1),
    ),
    "in IPv4 in IPv4": (4, 4, lambda e: out4(e) / _v4(e.middle4)),
    "in GRE in GRE": (4, 47, lambda e: out4(e) / GRE() / _v4(e.middle4) / GRE(key_present=1)),
    "in IPv6 in IPv4": (4, 41, lambda e: out4(e) / _v6(e.middle6, 0)),
    "in IPv6": (6, 0, out6),
    "in IPv6 with destination options": (6, 0, lambda e: out6(e) / IPv6ExtHdrDestOpt()),
    "in GRE over IPv6": (6, 47, lambda e: out6(e) / GRE(key_present=1)),
    "in IPv4 in IPv6": (6, 4, lambda e: out6(e) / _v4(e.middle4)),
    "in GRE in IPv6 in IPv6": (6, 41, lambda e: out6(e) / _v6(e.middle6, 0) / GRE()),
}


def _joined(head: Build, packet: Build, ends: Ends) -> Packet:
    return head(ends) / packet(ends)


def _rows() -> list[Tunnel]:
    rows = []
    for inside, (inner, packet, proto, has_ports, label) in _INNERMOST.items():
        for around, (outer, outer_proto, head) in _AROUND.items():
            rows.append(
                Tunnel(
                    f"{inside} {around}",
                    partial(_joined, head, packet),
                    outer,
                    outer_proto or {4: 4, 6: 41}[inner],
                    inner,
                    proto,
                    has_ports,
                    label,
                )
            )
    return rows


TUNNELS = [
    *_rows(),
    Tunnel(
        "inner label 0, the outer one counts",
        lambda e: out6(e) / in6(e, 0) / udp(e),
        *(6, 41, 6, 17, True, "outer_label"),
    ),
    Tunnel("first fragment is not looked into", lambda e: out4(e, flags="MF") / in4(e), 4, 4),
    Tunnel("later fragment", lambda e: out4(e, frag=9, proto=4) / Raw(bytes(40)), 4, 4),
    Tunnel(
        "fragment is not looked into",
        lambda e: out6(e) / IPv6ExtHdrFragment(m=1) / in4(e) / udp(e),
        *(6, 4),
    ),
    Tunnel("MPLS is not looked into", lambda e: out4(e, proto=137) / Raw(bytes(40)), 4, 137),
    Tunnel("six headers", lambda e: out6(e) / _chain(5) / in4(e) / udp(e), 6, 4, 4, 17, True),
]


def _chain(count: int) -> Packet:
    head = IPv6ExtHdrDestOpt()
    for _ in range(count - 1):
        head = head / IPv6ExtHdrDestOpt()
    return head


def _unfollowed(name: str, packet: Callable[[Ends], Packet], outer: int, proto: int) -> Tunnel:
    return Tunnel(name, packet, outer, proto)


UNFOLLOWED = [
    _unfollowed("Ethernet in GRE", lambda e: out4(e) / GRE() / Ether() / in4(e) / udp(e), 4, 47),
    _unfollowed("ARP in GRE", lambda e: out4(e) / GRE(proto=0x806) / Raw(bytes(28)), 4, 47),
    _unfollowed("GRE with routing", lambda e: out4(e) / GRE(routing_present=1) / in4(e), 4, 47),
    _unfollowed("PPTP", lambda e: out4(e) / GRE(version=1, proto=0x880B) / in4(e), 4, 47),
    _unfollowed("GRE of version 2", lambda e: out4(e) / GRE(version=2) / in4(e), 4, 47),
    _unfollowed("GRE cut", lambda e: out4(e, proto=47) / Raw(bytes(3)), 4, 47),
    _unfollowed("GRE alone", lambda e: out4(e) / GRE(proto=0x800), 4, 47),
    _unfollowed(
        "GRE with a key that takes the inner header's place",
        lambda e: out4(e) / GRE(key_present=1, proto=0x800) / Raw(bytes(in4(e))[4:]),
        *(4, 47),
    ),
    _unfollowed("IPv4 in IPv4 cut", lambda e: out4(e, proto=4) / Raw(bytes(in4(e))[:19]), 4, 4),
    _unfollowed("IPv6 in IPv4 cut", lambda e: out4(e, proto=41) / Raw(bytes(in6(e))[:39]), 4, 41),
    _unfollowed("inner header too short", lambda e: out4(e) / in4(e, ihl=4) / udp(e), 4, 4),
    _unfollowed(
        "inner extension header cut",
        lambda e: out4(e) / in6(e, nh=60) / Raw(b"\x11"),
        *(4, 41),
    ),
    _unfollowed(
        "inner fragment header cut",
        lambda e: out4(e) / in6(e, nh=44) / Raw(b"\x11" + bytes(6)),
        *(4, 41),
    ),
    _unfollowed(
        "seven headers",
        lambda e: (
            out4(e)
            / _v4(e.middle4)
            / _v4(e.middle4)
            / _v6(e.middle6, 0)
            / _chain(3)
            / in6(e)
            / udp(e)
        ),
        *(4, 4),
    ),
    _unfollowed(
        "IPv6 in GRE over IPv6 cut",
        lambda e: out6(e) / GRE(proto=0x86DD) / Raw(bytes(39)),
        *(6, 47),
    ),
]
