"""What leaves: every byte of forwarded packets, TTL, checksum, MACs, length and counters."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from tests.bpf.harness import Case, Outcome, Plane, choose
from tests.bpf.packets import forwarded, frame, to, with_checksum
from tests.bpf.world import MULTIPATH, TAGS, VIA

pytestmark = pytest.mark.root

PAYLOADS: dict[str, Packet] = {
    "TCP": TCP(sport=40000, dport=443, flags="S"),
    "UDP": UDP(sport=5353, dport=53) / Raw(b"question"),
    "long UDP": UDP(sport=1, dport=2) / Raw(bytes(range(256)) * 5),
    "SCTP": Raw(bytes.fromhex("0b590b59 00000001 00000000 03000010")),
    "a byte": Raw(b"\xff"),
}
PROTO = {"SCTP": 132, "a byte": 253}
V6_ONLY: dict[str, Packet] = {
    "echo": ICMPv6EchoRequest(id=7, data=b"ping"),
    "destination options": IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2),
    "first fragment": IPv6ExtHdrFragment(m=1, id=3) / UDP(sport=1, dport=2) / Raw(bytes(16)),
    "later fragment": IPv6ExtHdrFragment(offset=9, id=3, nh=17) / Raw(bytes(16)),
}
V4_ONLY: dict[str, tuple[dict[str, Any], Packet]] = {
    "echo": ({}, ICMP(id=7) / Raw(b"ping")),
    "first fragment": ({"flags": "MF"}, UDP(sport=1, dport=2) / Raw(bytes(16))),
    "later fragment": ({"frag": 9, "proto": 17}, Raw(bytes(16))),
    "do not fragment": ({"flags": "DF"}, UDP(sport=1, dport=2)),
    "type of service": ({"tos": 0xB9}, UDP(sport=1, dport=2)),
}


def packets() -> list[tuple[str, int, Packet]]:
    """Name, family and payload with the header fields that it asks for."""
    rows: list[tuple[str, int, Packet]] = []
    for name, payload in PAYLOADS.items():
        proto = PROTO.get(name)
        rows.append((name, 4, (IP(proto=proto) if proto else IP()) / payload))
        rows.append((name, 6, (IPv6(nh=proto) if proto else IPv6()) / payload))
    rows += [(name, 4, IP(**fields) / payload) for name, (fields, payload) in V4_ONLY.items()]
    rows += [(name, 6, IPv6(tc=0xB9, fl=0xABCDE) / payload) for name, payload in V6_ONLY.items()]
    return rows


def addressed(target: str, family: int, packet: Packet) -> bytes:
    ends = to(target, family)
    packet = packet.copy()
    packet.src, packet.dst = ends.src, ends.dst
    return bytes(packet)


def rows() -> list[Case]:
    """Each packet by a single next hop and by one of three."""
    cases = []
    for name, family, packet in packets():
        l3 = addressed("single", family, packet)
        via = VIA[family]["single"]
        title = f"IPv{family} {name}"
        cases.append(Case(f"{title}, single", frame(l3), out=forwarded(l3, via), via=via))
        l3 = addressed("multipath", family, packet)
        via = choose(l3, MULTIPATH[family])
        device = "other" if via == MULTIPATH[family][-1][0] else "out"
        out = forwarded(l3, via, device)
        cases.append(Case(f"{title}, multipath", frame(l3), out=out, via=via))
    l3 = bytes(to("via IPv6") / UDP())
    cases.append(
        Case(
            "IPv4 by an IPv6 next hop",
            frame(l3),
            out=forwarded(l3, VIA[6]["single"]),
            via=VIA[6]["single"],
        )
    )
    for family in (4, 6):
        l3 = bytes(to("hairpin", family) / UDP())
        via = VIA[family]["hairpin"]
        out = forwarded(l3, via, "in")
        cases.append(Case(f"IPv{family} out where it came in", frame(l3), out=out, via=via))
    return cases


@pytest.mark.parametrize("case", rows(), ids=str)
def test_forwarded(plane: Plane, case: Case) -> None:
    plane.check(case)


def short(family: int, target: str = "single") -> bytes:
    return bytes(to(target, family) / UDP(sport=1, dport=2))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("padding", [1, 4, 18, 400])
def test_padding_is_trimmed(plane: Plane, family: int, padding: int) -> None:
    """A packet below 46 bytes comes in a padded frame of 60; Linux trims it, and so counts less."""
    l3, via = short(family), VIA[family]["single"]
    padded = frame(l3, padding=b"\xee" * padding)
    plane.check(Case("padded", padded, out=forwarded(l3, via), via=via))


@pytest.mark.parametrize("ttl", [2, 3, 64, 128, 129, 254, 255])
@pytest.mark.parametrize("family", [4, 6])
def test_ttl_goes_down_by_one(plane: Plane, family: int, ttl: int) -> None:
    field = "ttl" if family == 4 else "hlim"
    l3, via = bytes(to("single", family, **{field: ttl}) / UDP()), VIA[family]["single"]
    case = Case("ttl", frame(l3), out=forwarded(l3, via), via=via)
    assert case.out[14 + (8 if family == 4 else 7)] == ttl - 1  # the oracle must see it too
    plane.check(case)


def ip_decrease_ttl(header: bytes) -> bytes:
    """include/net/ip.h, by its letter: `check += htons(0x0100); check + (check >= 0xffff)`."""
    check = int.from_bytes(header[10:12], "little") + 0x0001
    check = (check + (check >= 0xFFFF)) & 0xFFFF
    return header[:8] + bytes([header[8] - 1]) + header[9:10] + check.to_bytes(2, "little")


EDGES = (0x0000, 0xFEFF, 0xFEFE, 0xFF00, 0xFFFE, 0xFFFF, 0xFDFF, 0xFE00, 0x00FF, 0x0100, 0x01FF)


@pytest.mark.parametrize("value", EDGES, ids=hex)
@pytest.mark.parametrize("ttl", [2, 64, 255])
def test_checksum_carry(plane: Plane, value: int, ttl: int) -> None:
    """Compared with the checksum computed again and with what Linux's ip_decrease_ttl() makes."""
    l3, via = with_checksum(to("single", ttl=ttl) / UDP(), value), VIA[4]["single"]
    out = forwarded(l3, via)
    assert ip_decrease_ttl(l3) == out[14:26], "scapy and Linux's arithmetic disagree"
    plane.check(Case("checksum", frame(l3), out=out, via=via))


def test_checksum_of_many_headers(plane: Plane) -> None:
    generator = random.Random(1)
    for _ in range(2000):
        header = to(
            "single",
            ttl=generator.randint(2, 255),
            id=generator.getrandbits(16),
            tos=generator.getrandbits(8),
            proto=generator.choice((6, 17, 132)),
        )
        l3 = bytes(header)
        _, out = plane.run(frame(l3))
        assert out == forwarded(l3, VIA[4]["single"])
        assert checksum(out[14:34]) == 0
        assert out[14:26] == ip_decrease_ttl(l3)


def test_the_device_is_the_next_hops(plane: Plane) -> None:
    """A test run does not say where to a frame was redirected; but where the devmap has nothing in
    the next hop's slot, redirecting falls back to passing, which shows the slot that was used."""
    plane.load(plane.world.snapshot())
    devices = plane.dataplane._nexthops._devices.live
    for via, device in (("10.0.1.1", "out"), ("10.0.2.1", "small"), ("10.0.0.9", "in")):
        target = next(name for name, address in VIA[4].items() if address == via)
        l3 = bytes(to(target) / UDP())
        for name in ("out", "small", "in", "other"):
            with plane.without_device(devices[plane.world.ifindex[name]]):
                verdict, _ = plane.run(frame(l3))
            assert verdict == ("PASS" if name == device else "REDIRECT"), (device, name)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ingress", ["in", "in.10", "in.20.30"])
@pytest.mark.parametrize("target", ["single", "out.100", "out.200.300"])
def test_what_is_not_redirected_stays_as_it_came(
    plane: Plane, family: int, ingress: str, target: str
) -> None:
    """A device that has just gone: Linux gets every byte, padding and tags included."""
    plane.load(plane.world.snapshot())
    l3, device = short(family, target), plane.dataplane._nexthops._devices.live
    before = frame(l3, TAGS.get(ingress, ()), padding=bytes(46))
    with plane.without_device(device[plane.world.ifindex["out"]]):
        outcome = plane.observe(before)
    assert outcome == Outcome("PASS", before, {"EGRESS_DOWN": 1}, {})
