"""ICMP errors go where the flow goes that they are about (policies 0 and 1); nothing else does.

For every packet of `PACKETS` the error travels back to its source, through the same router: the
next hop must be that of the packet itself, which is what the reference model says of the packet,
not of the error. `hashing` reads quotes too, so without one it is asked about the outer header by
its fields.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from tests.bpf.harness import Case, Plane
from tests.bpf.manypaths import PATHS, ROUTER, chosen, setup
from tests.bpf.packets import forwarded, frame, to
from tests.bpf.world import SEED, TARGET, packed
from tests.headers import headers_size
from xdpecmp.hashing import FlowKey, flow_key, flow_keys
from xdpecmp.program.abi import ICMP_ERROR_INDEX, _rows

pytestmark = pytest.mark.root

HOST = {4: "198.18.40.7", 6: "2001:db8:40::7"}
"""The source of the flows and so where errors go."""


def error_of(
    family: int, kind: int, code: int, quote: bytes, behind: Packet | None = None
) -> bytes:
    """The error about the packet that `quote` begins."""
    if family == 4:
        return bytes(IP(src=ROUTER[4], dst=HOST[4]) / ICMP(type=kind, code=code) / Raw(quote))
    payload = Raw(bytes([kind, code]) + bytes(6) + quote)
    head: Packet = IPv6(src=ROUTER[6], dst=HOST[6], fl=0x777, nh=58)
    if behind is not None:
        del head.nh
        behind = behind.copy()
        behind.nh = 58
        head = head / behind
    return bytes(head / payload)


def flow(family: int, l4: Packet, **fields: Any) -> Packet:
    ends: dict[str, Any] = {"src": HOST[family], "dst": TARGET[family]["single"]}
    if family == 4:
        return IP(**ends, **fields) / l4
    return IPv6(**ends, tc=0x20, fl=0x12345, **fields) / l4


def udp(sport: int = 40001) -> Packet:
    return UDP(sport=sport, dport=443) / Raw(b"payload of the flow, " * 3)


# --- every type and code -------------------------------------------------------------------------


def errors() -> Iterator[tuple[str, int, int, int]]:
    """Counter, family, type and some codes of each row of icmp_errors.def."""
    rows = [(name, *map(str, rest)) for name, *rest in _rows("icmp_errors.def")]
    taken = {(family, kind, code) for _, family, kind, code, _ in rows}
    for name, family, kind, code, _ in rows:
        for number in range(16) if code == "ANY_CODE" else (int(code),):
            if code != "ANY_CODE" or (family, kind, str(number)) not in taken:
                yield name, int(family), int(kind), number
        if code == "ANY_CODE":
            yield name, int(family), int(kind), 255


def rows() -> list[Case]:
    cases = []
    for policy in (0, 1):
        for name, family, kind, code in errors():
            sport = 30000 + 7 * code + 257 * kind  # so that errors spread over the next hops
            packet = bytes(flow(family, udp(sport)))
            via = chosen(family, flow_key(packet, policy).hash(SEED))
            l3 = error_of(family, kind, code, packet)
            title = f"policy {policy}, IPv{family} type {kind} code {code}"
            cases.append(
                Case(title, frame(l3), "FORWARDED", forwarded(l3, via), via, name, setup(policy))
            )
    return cases


ROWS = rows()


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("name", ICMP_ERROR_INDEX)
def test_every_error_follows_its_flow(plane: Plane, name: str, policy: int) -> None:
    cases = [row for row in ROWS if row.icmp == name and row.name.startswith(f"policy {policy}")]
    assert cases
    for case in cases:
        plane.check(case)


# --- what is quoted, and how much of it ----------------------------------------------------------

L4 = bytes.fromhex("1111222233334444")
HEADERS = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting()
OPTIONS = {"options": [IPOption_NOP()] * 8}

PACKETS: dict[str, Packet] = {
    "UDP": flow(4, udp()),
    "TCP": flow(4, TCP(sport=50000, dport=80) / Raw(bytes(40))),
    "IPv4 options": flow(4, udp(), **OPTIONS),
    "IPv4 echo": flow(4, ICMP(id=9) / Raw(bytes(20))),
    "IPv4 ESP": flow(4, Raw(L4 + bytes(20)), proto=50),
    "IPv4 AH": flow(4, Raw(L4 + bytes(20)), proto=51),
    "IPv4 SCTP": flow(4, Raw(L4 + bytes(20)), proto=132),
    "IPv4 GRE": flow(4, Raw(L4 + bytes(20)), proto=47),
    "IPv4 first fragment": flow(4, udp(), flags="MF"),
    "IPv4 later fragment": flow(4, Raw(L4 * 4), frag=100, proto=17),
    "IPv6 UDP": flow(6, udp()),
    "IPv6 TCP": flow(6, TCP(sport=50000, dport=80) / Raw(bytes(40))),
    "IPv6 destination options": flow(6, IPv6ExtHdrDestOpt() / udp()),
    "IPv6 three headers": flow(6, HEADERS / udp()),
    "IPv6 first fragment": flow(6, IPv6ExtHdrFragment(m=1) / udp()),
    "IPv6 later fragment": flow(6, IPv6ExtHdrFragment(offset=5, nh=17) / Raw(L4 * 4)),
    "IPv6 echo": flow(6, ICMPv6EchoRequest(id=9, data=bytes(20))),
    "IPv6 ESP": flow(6, Raw(L4 + bytes(20)), nh=50),
}


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("name", PACKETS)
def test_quote_whole_or_cut_after_8_bytes(plane: Plane, name: str, policy: int) -> None:
    packet = bytes(PACKETS[name])
    family = packet[0] >> 4
    plane.load(plane.world.snapshot(**setup(policy)))
    via = chosen(family, flow_key(packet, policy).hash(SEED))
    start = headers_size(packet)
    for size in (len(packet), start + 8, start + 9, start + 28):
        for behind in (None, IPv6ExtHdrDestOpt()) if family == 6 else (None,):
            l3 = error_of(family, 3, 0, packet[:size], behind)
            assert plane.run(frame(l3)) == ("REDIRECT", forwarded(l3, via)), (size, behind)


def check_cut(plane: Plane, name: str, policy: int, sizes: Iterable[int]) -> None:
    """Errors with only so much of a packet as their quote go where the reference model says."""
    packet = bytes(PACKETS[name])
    family = packet[0] >> 4
    plane.load(plane.world.snapshot(**setup(policy)))
    outer = FlowKey(family, packed(ROUTER[family]), packed(HOST[family]))
    for size in sizes:
        l3 = error_of(family, 3, 0, packet[:size])
        if size < (20 if family == 4 else 40):
            proto = 58 if family == 6 else (1 if policy else 0)
            label = 0x777 if family == 6 and policy == 0 else 0
            key = outer._replace(proto=proto, flow_label=label)
        else:
            key = flow_key(l3, policy)
            assert {key.source, key.destination} != {outer.source, outer.destination}
        via = chosen(family, key.hash(SEED))
        packet_and_padding = frame(l3, padding=b"\xee" * 30)  # which must not count as quoted
        assert plane.run(packet_and_padding) == ("REDIRECT", forwarded(l3, via)), size


def inside_extension_headers(packet: bytes) -> range:
    return range(41, headers_size(packet)) if packet[0] >> 4 == 6 else range(0)


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("name", PACKETS)
def test_quote_cut_anywhere(plane: Plane, name: str, policy: int) -> None:
    """Down to nothing: with a part of the ports only, the key has none; with a part of the IP
    header only, the error is keyed by its own."""
    packet = bytes(PACKETS[name])
    sizes = {*range(headers_size(packet) + 12)} - {*inside_extension_headers(packet)}
    check_cut(plane, name, policy, sorted(sizes))


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("name", [name for name in PACKETS if "headers" in name or "opt" in name])
def test_quote_cut_inside_an_extension_header(plane: Plane, name: str, policy: int) -> None:
    """The program and the reference model must agree on where the walk ends."""
    check_cut(plane, name, policy, inside_extension_headers(bytes(PACKETS[name])))


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("family", [4, 6])
def test_errors_about_many_flows(plane: Plane, family: int, policy: int) -> None:
    """And the reply's direction, which sorting makes equal, needs no separate treatment."""
    generator = random.Random(family * 2 + policy)
    plane.load(plane.world.snapshot(**setup(policy)))
    seen = set()
    for _ in range(200):
        l4 = generator.choice((UDP, TCP))(
            sport=generator.getrandbits(16), dport=generator.getrandbits(16)
        )
        packet = flow(family, l4)
        low = generator.getrandbits(8)
        packet.dst = f"198.18.1.{low}" if family == 4 else f"2001:db8:1::{low:x}"
        raw = bytes(packet)
        via = chosen(family, flow_key(raw, policy).hash(SEED))
        seen.add(via)
        l3 = error_of(family, 3, 0, raw[: headers_size(raw) + 8])
        assert plane.run(frame(l3)) == ("REDIRECT", forwarded(l3, via))
    assert len(seen) == PATHS


# --- no error, or none that we know of -----------------------------------------------------------


def others() -> list[tuple[str, bytes, int]]:
    """Packets with what looks like a quote, which is none; and the protocol of the outer key."""
    quote4, quote6 = bytes(flow(4, udp())), bytes(flow(6, udp()))
    known4, known6 = {3, 4, 5, 11, 12}, {1, 2, 3, 4}
    v4 = [(f"IPv4 type {t}", error_of(4, t, 0, quote4), 1) for t in range(45) if t not in known4]
    v6 = [
        (f"IPv6 type {t}", error_of(6, t, 0, quote6), 58)
        for t in (0, *range(5, 12), 100, 101, 127, 128, 129, 133, 137, 255)
        if t not in known6
    ]
    error6 = bytes([1, 0]) + bytes(6) + quote6
    ends6: dict[str, Any] = {"src": ROUTER[6], "dst": HOST[6], "fl": 0x777}
    ends4: dict[str, Any] = {"src": ROUTER[4], "dst": HOST[4]}
    return [
        *v4,
        *v6,
        ("IPv6 echo", bytes(IPv6(**ends6) / ICMPv6EchoReply(data=quote6)), 58),
        ("ICMPv4 in IPv6", bytes(IPv6(**ends6, nh=1) / Raw(error6)), 1),
        ("ICMPv6 in IPv4", bytes(IP(**ends4, proto=58) / Raw(error6)), 58),
        ("later fragment", bytes(IP(**ends4, frag=3) / ICMP(type=3) / Raw(quote4)), 1),
        ("UDP like an error", bytes(IP(**ends4, proto=17, frag=1) / ICMP(type=3) / quote4), 17),
    ]


@pytest.mark.parametrize("policy", [0, 1])
def test_what_is_no_error_goes_by_its_own_header(plane: Plane, policy: int) -> None:
    plane.load(plane.world.snapshot(**setup(policy)))
    for name, l3, proto in others():
        family = l3[0] >> 4
        key = FlowKey(family, packed(ROUTER[family]), packed(HOST[family]))
        if family == 6 or policy == 1:
            label = 0x777 if family == 6 and policy == 0 else 0
            key = key._replace(proto=proto, flow_label=label)
        via = chosen(family, key.hash(SEED))
        outcome = plane.observe(frame(l3))
        assert outcome == (
            "REDIRECT",
            forwarded(l3, via),
            {},
            {via: (1, len(l3) + 14)},
        ), name


@pytest.mark.parametrize("policy", [0, 1])
def test_icmpv6_error_behind_a_fragment_header(plane: Plane, policy: int) -> None:
    """A fragment's payload may be anything: not looked into, nor counted as an error."""
    plane.load(plane.world.snapshot(**setup(policy)))
    l3 = error_of(6, 3, 0, bytes(flow(6, udp())), IPv6ExtHdrFragment(id=1))
    key = FlowKey(6, packed(ROUTER[6]), packed(HOST[6]), 58 if policy else 44)
    via = chosen(6, key._replace(flow_label=0 if policy else 0x777).hash(SEED))
    assert plane.observe(frame(l3))[:3] == ("REDIRECT", forwarded(l3, via), {})


@pytest.mark.parametrize("policy", [0, 1, 2, 3])
def test_icmpv6_error_behind_an_authentication_header(plane: Plane, policy: int) -> None:
    """Of whatever length; one that is cut hides what is behind it."""
    plane.load(plane.world.snapshot(**setup(policy)))
    packet = bytes(flow(6, udp()))
    via = chosen(6, flow_keys(packet, policy).hash(SEED))
    for words in (1, 4, 255):
        header = bytes([58, words]) + bytes((words + 2) * 4 - 2)
        error = Raw(header + bytes([3, 0]) + bytes(6) + packet)
        for head in (IPv6(nh=51), IPv6() / IPv6ExtHdrDestOpt(nh=51)):
            head.src, head.dst = ROUTER[6], HOST[6]
            l3 = bytes(head / error)
            outcome = plane.observe(frame(l3))
            assert outcome[:3] == ("REDIRECT", forwarded(l3, via), {"V6_TIME_EXCEEDED": 1})
            cut = bytes(head / Raw(header[:7]))
            assert plane.observe(frame(cut)).stats == {}


def test_first_fragment_of_an_icmpv4_error_follows_its_flow(plane: Plane) -> None:
    plane.load(plane.world.snapshot(**setup(1)))
    packet = bytes(flow(4, udp()))
    l3 = bytes(IP(src=ROUTER[4], dst=HOST[4], flags="MF") / ICMP(type=3, code=4) / Raw(packet))
    via = chosen(4, flow_key(packet, 1).hash(SEED))
    outcome = plane.observe(frame(l3))
    assert outcome[:3] == ("REDIRECT", forwarded(l3, via), {"V4_FRAG_NEEDED": 1})


def test_an_error_by_a_single_next_hop_is_counted_too(plane: Plane) -> None:
    l3 = bytes(to("single") / ICMP(type=11) / Raw(bytes(flow(4, udp()))))
    assert plane.observe(frame(l3)).stats == {"V4_TIME_EXCEEDED": 1}
