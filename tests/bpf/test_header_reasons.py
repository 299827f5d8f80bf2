"""What a packet is judged by on its own: the reasons that bytes of the frame give, and near misses.

Each row that is passed stands beside one that differs in a hair and is forwarded, so that a check
that refuses too much is seen as well as one that refuses too little.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from tests.bpf.harness import Case, Plane
from tests.bpf.packets import SENDER_MAC, forwarded, frame, to, with_checksum
from tests.bpf.world import VIA

pytestmark = pytest.mark.root


def good(name: str, l3: Packet | bytes, padding: bytes = b"") -> Case:
    raw = bytes(l3)
    via = VIA[raw[0] >> 4]["single"]
    return Case(name, frame(raw, padding=padding), out=forwarded(raw, via), via=via)


def bad(name: str, l3: Packet | bytes, reason: str, family: int = 0) -> Case:
    """`family`: whose EtherType the frame has, where that isn't the packet's own version."""
    return Case(name, frame(l3, ethertype={4: 0x0800, 6: 0x86DD}.get(family)), reason)


def patched(l3: Packet, offset: int, *values: int) -> bytes:
    """The IPv4 packet with bytes changed and its checksum right again."""
    raw = bytearray(bytes(l3))
    raw[offset : offset + len(values)] = bytes(values)
    raw[10:12] = bytes(2)
    raw[10:12] = checksum(bytes(raw[: (raw[0] & 15) * 4])).to_bytes(2, "big")
    return bytes(raw)


def flip(data: bytes, bit: int) -> bytes:
    raw = bytearray(data)
    raw[bit // 8] ^= 0x80 >> bit % 8
    return bytes(raw)


V4, V6 = to("single") / UDP(sport=1, dport=2), to("single", 6) / UDP(sport=1, dport=2)
RAW4, RAW6 = bytes(V4), bytes(V6)
SIX = b"".join(bytes([60, 0]) + bytes(6) for _ in range(5)) + bytes([17, 0]) + bytes(6)
SEVEN = bytes([60, 0]) + bytes(6) + SIX
L4 = bytes(UDP(sport=1, dport=2))


def v6(next_header: int, payload: bytes) -> bytes:
    return bytes(to("single", 6, nh=next_header) / Raw(payload))


LINK_LAYER = [
    good("IPv4", RAW4),
    good("IPv6", RAW6),
    Case("other unicast MAC", frame(RAW4, destination=SENDER_MAC), "NOT_OUR_MAC"),
    Case("broadcast MAC", frame(RAW4, destination=b"\xff" * 6), "NOT_OUR_MAC"),
    Case("multicast MAC", frame(RAW6, destination=b"\x33\x33\0\0\0\1"), "NOT_OUR_MAC"),
    *(Case(f"MAC differs in byte {i}", flip(frame(RAW4), 8 * i), "NOT_OUR_MAC") for i in range(6)),
    Case("ARP", frame(bytes(ARP()), ethertype=0x0806), "NON_IP"),
    Case("ARP to all", frame(bytes(ARP()), ethertype=0x0806, destination=b"\xff" * 6), "NON_IP"),
    Case("802.3 length", frame(bytes(46), ethertype=46), "NON_IP"),
    Case("MPLS", frame(RAW4, ethertype=0x8847), "NON_IP"),
    Case("bytes of the EtherType swapped", frame(RAW4, ethertype=0x0008), "NON_IP"),
    Case("Ethernet header alone", frame(b"\x40")[:14], "MALFORMED"),
    Case("19 bytes of another protocol", frame(bytes(19), ethertype=0x88CC), "MALFORMED"),
    Case("20 bytes of another protocol", frame(bytes(20), ethertype=0x88CC), "NON_IP"),
    Case("VLAN tag cut", frame(RAW4, [(0x8100, 10)])[:17], "MALFORMED"),
    Case("second VLAN tag cut", frame(RAW4, [(0x8100, 40), (0x8100, 50)])[:21], "MALFORMED"),
]

IPV4 = [
    bad("IPv4 header cut", RAW4[:19], "MALFORMED"),
    bad("IPv4 header alone of a longer packet", RAW4[:20], "LENGTH"),
    bad("IPv4 version 5", patched(V4, 0, 0x55), "MALFORMED", 4),
    bad("IPv4 version 6", patched(V4, 0, 0x65), "MALFORMED", 4),
    bad("IPv6 packet as IPv4", RAW6, "MALFORMED", 4),
    bad("IHL 4", patched(V4, 0, 0x44), "MALFORMED"),
    bad("IHL 0", patched(V4, 0, 0x40), "MALFORMED", 4),
    bad("options", to("single", options=[IPOption_NOP()] * 4) / UDP(), "IPV4_OPTIONS"),
    bad("IHL 15, cut", patched(V4, 0, 0x4F), "IPV4_OPTIONS"),
    bad("total length one too much", patched(V4, 2, 0, len(RAW4) + 1), "LENGTH"),
    bad("total length 65535", patched(V4, 2, 255, 255), "LENGTH"),
    bad("total length 19", patched(V4, 2, 0, 19), "LENGTH"),
    bad("total length 0", patched(V4, 2, 0, 0), "LENGTH"),
    bad("BIG TCP over IPv4", patched(to("single") / TCP() / Raw(bytes(1400)), 2, 0, 0), "LENGTH"),
    good("total length 20", patched(V4, 2, 0, 20)),
    good("total length one less", patched(V4, 2, 0, len(RAW4) - 1)),
    bad("checksum 0", RAW4[:10] + bytes(2) + RAW4[12:], "CHECKSUM"),
    *(
        bad(f"bit {bit} of the header flipped", flip(RAW4, bit), "CHECKSUM")
        for bit in (8, 32, 47, 48, 50, 64, 71, 72, 80, 95, 96, 127, 140, 159)
    ),
    good("checksum 0xffff for 0", with_checksum(V4, 0xFFFF)),
    good("reserved fragment bit", to("single", flags="evil") / UDP()),
    bad("TTL 0", to("single", ttl=0) / UDP(), "TTL"),
    bad("TTL 1", to("single", ttl=1) / UDP(), "TTL"),
    good("TTL 2", to("single", ttl=2) / UDP()),
]

NOT_FORWARDED4 = (
    *("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.1", "255.255.255.254", "255.255.255.255"),
)
ADDRESSES4 = [
    *(bad(f"to {a}", to("single", dst=a) / UDP(), "MULTICAST") for a in NOT_FORWARDED4),
    *(bad(f"from {a}", to("single", src=a) / UDP(), "MARTIAN_SOURCE") for a in NOT_FORWARDED4),
    *(
        good(f"from {a}", to("single", src=a) / UDP())
        for a in ("1.0.0.0", "126.255.255.255", "128.0.0.1", "223.255.255.255")
    ),
    *(
        row
        for a in ("169.254.0.1", "169.254.255.255")
        for row in (
            bad(f"from {a}", to("single", src=a) / UDP(), "LINK_LOCAL"),
            bad(f"to {a}", to("single", dst=a) / UDP(), "LINK_LOCAL"),
        )
    ),
    good("from 169.253.255.255", to("single", src="169.253.255.255") / UDP()),
    good("from 169.255.0.0", to("single", src="169.255.0.0") / UDP()),
]

IPV6 = [
    bad("IPv6 header cut", RAW6[:39], "MALFORMED"),
    bad("IPv6 header alone of a longer packet", RAW6[:40], "LENGTH"),
    bad("IPv6 version 4", b"\x45" + RAW6[1:], "MALFORMED", 6),
    bad("IPv6 version 7", b"\x70" + RAW6[1:], "MALFORMED", 6),
    bad("IPv4 packet as IPv6", to("single") / UDP() / Raw(bytes(20)), "MALFORMED", 6),
    bad("payload length one too much", to("single", 6, plen=9) / UDP(), "LENGTH"),
    good("payload length one less", to("single", 6, plen=7) / UDP()),
    *(
        bad(f"payload length 0, next header {nh}", to("single", 6, plen=0, nh=nh) / L4, "LENGTH")
        for nh in (6, 17, 44, 58, 59, 60)
    ),
    bad("BIG TCP", to("single", 6, plen=0, nh=6) / Raw(bytes(1400)), "LENGTH"),
    good("payload length 1", to("single", 6, plen=1, nh=59) / Raw(bytes(8))),
    bad("hop limit 0", to("single", 6, hlim=0) / UDP(), "TTL"),
    bad("hop limit 1", to("single", 6, hlim=1) / UDP(), "TTL"),
    good("hop limit 2", to("single", 6, hlim=2) / UDP()),
    bad("hop-by-hop options", to("single", 6) / IPv6ExtHdrHopByHop() / UDP(), "EXTENSION_HEADER"),
    bad("routing header", to("single", 6) / IPv6ExtHdrRouting() / UDP(), "EXTENSION_HEADER"),
    bad(
        "routing header behind destination options",
        to("single", 6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / UDP(),
        "EXTENSION_HEADER",
    ),
    good("destination options", to("single", 6) / IPv6ExtHdrDestOpt() / UDP()),
    good("six headers", v6(60, SIX + L4)),
    good("six headers, the last a fragment", v6(60, SIX[:32] + b"\x2c" + SIX[33:] + L4)),
    bad("seven headers", v6(60, SEVEN + L4), "EXTENSION_HEADER"),
    bad("header cut", v6(60, SIX[:1]), "EXTENSION_HEADER"),
    bad("second header cut", v6(60, SIX[:9]), "EXTENSION_HEADER"),
    good("header cut behind its length", v6(60, bytes([17, 0]))),
    good("first header whole", v6(60, bytes([17, 0]) + bytes(6))),
    good("header as long as can be", v6(60, bytes([17, 127]) + bytes(1022) + L4)),
    good("protocol behind a long header not there", v6(60, bytes([17, 9]) + bytes(6))),
    good("first fragment", to("single", 6) / IPv6ExtHdrFragment(m=1) / UDP()),
    good("later fragment", to("single", 6) / IPv6ExtHdrFragment(offset=1, nh=60) / Raw(bytes(4))),
    bad("fragment header cut", v6(44, bytes(7)), "EXTENSION_HEADER"),
    good("no next header", v6(59, b"\0")),
    bad("no next header, nothing behind", v6(59, b""), "LENGTH"),
]

NOT_FORWARDED6 = ("::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "ff02::1", "ff0e::1")
ADDRESSES6 = [
    *(bad(f"to {a}", to("single", 6, dst=a) / UDP(), "MULTICAST") for a in NOT_FORWARDED6),
    *(bad(f"from {a}", to("single", 6, src=a) / UDP(), "MARTIAN_SOURCE") for a in NOT_FORWARDED6),
    *(
        bad(f"{end} {a}", to("single", 6, **{field: a}) / UDP(), "LINK_LOCAL")
        for end, field in (("from", "src"), ("to", "dst"))
        for a in ("fe80::1", "febf::1")
    ),
    *(good(f"from {a}", to("single", 6, src=a) / UDP()) for a in ("fe7f::1", "fec0::1", "fd00::1")),
    good("from 64:ff9b::192.0.2.1", to("single", 6, src="64:ff9b::c000:201") / UDP()),
]

ROWS = [*LINK_LAYER, *IPV4, *ADDRESSES4, *IPV6, *ADDRESSES6]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_header(plane: Plane, case: Case) -> None:
    plane.check(case)
