"""`flow_keys` of packets without encapsulation and of ICMP errors, under policies 0 and 1.

What policies 2 and 3 make of tunnels: test_flow_keys_inside.py.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from tests.headers import headers_size
from xdpecmp.hashing import HASH_SPACE, FlowKey, flow_hash, flow_key, flow_keys


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


# --- key: plain packets --------------------------------------------------------------------------

A4, B4 = "192.0.2.1", "198.51.100.2"
A6, B6 = "2001:db8::1", "2001:db8:1::2"
LABEL = 0x54321


@dataclasses.dataclass(frozen=True)
class Case:
    """A packet, and protocol and ports of its key under policy 1."""

    name: str
    packet: Packet | bytes
    proto: int
    sport: int = 0
    dport: int = 0


def v4(**fields: Any) -> Packet:
    return IP(src=A4, dst=B4, **fields)


def v6(**fields: Any) -> Packet:
    return IPv6(src=A6, dst=B6, tc=0xFF, fl=LABEL, **fields)


L4 = bytes.fromhex("1111222233334444")
HEADERS = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting()
FIVE_HEADERS = b"".join(bytes([60, 0]) + bytes(6) for _ in range(5))

PLAIN = [
    Case("tcp", v4() / TCP(sport=1, dport=2), 6, 1, 2),
    Case("udp behind options", v4(options=[IPOption_NOP()] * 8) / UDP(sport=1, dport=2), 17, 1, 2),
    *(Case(f"ports of {p}", v4(proto=p) / Raw(L4), p, 0x1111, 0x2222) for p in (33, 50, 132, 136)),
    Case("ah has its spi at 4", v4(proto=51) / Raw(L4), 51, 0x3333, 0x4444),
    Case("ah cut", v4(proto=51) / Raw(L4[:7]), 51),
    Case("ports cut", v4(proto=6) / Raw(L4[:3]), 6),
    Case("ports just there", v4(proto=6) / Raw(L4[:4]), 6, 0x1111, 0x2222),
    Case("gre has none", v4(proto=47) / Raw(L4), 47),
    Case("ipip is not looked into", v4() / IP() / UDP(sport=1, dport=2), 4),
    Case("ipv4 does not know option headers", v4(proto=60) / Raw(L4), 60),
    Case("first fragment", v4(flags="MF") / UDP(sport=1, dport=2), 17),
    Case("later fragment", v4(frag=9, proto=17) / Raw(L4), 17),
    Case("do not fragment", v4(flags="DF") / UDP(sport=1, dport=2), 17, 1, 2),
    Case("echo", v4() / ICMP(id=7), 1),
    Case("tcp", v6() / TCP(sport=1, dport=2), 6, 1, 2),
    Case("all option headers", v6() / HEADERS / UDP(sport=1, dport=2), 17, 1, 2),
    Case("first fragment", v6() / IPv6ExtHdrFragment(m=1) / UDP(sport=1, dport=2), 17),
    Case("atomic fragment", v6() / IPv6ExtHdrFragment() / UDP(sport=1, dport=2), 17),
    Case("later fragment", v6() / IPv6ExtHdrFragment(offset=9, nh=17) / Raw(L4), 17),
    Case("fragment behind options", v6() / HEADERS / IPv6ExtHdrFragment(nh=6) / Raw(L4), 6),
    Case("header behind a fragment header", v6() / IPv6ExtHdrFragment(nh=60) / Raw(L4), 60),
    Case("option header cut", v6(nh=60) / Raw(b"\x06"), 60),
    Case("option header says more than there is", v6(nh=60) / Raw(b"\x06\x09"), 6),
    Case("fragment header cut", v6(nh=44) / Raw(b"\x06" + bytes(6)), 44),
    Case(
        "six headers",
        v6(nh=60) / Raw(FIVE_HEADERS + b"\x11" + bytes(7) + L4),
        17,
        0x1111,
        0x2222,
    ),
    Case(
        "seven headers", v6(nh=60) / Raw(FIVE_HEADERS + bytes([60] + [0] * 7 + [17] * 8) + L4), 60
    ),
    Case("echo", v6() / ICMPv6EchoRequest(id=7), 58),
    Case("gre has none", v6(nh=47) / Raw(L4), 47),
]


UNFOLLOWED = {"option header cut", "fragment header cut", "seven headers"}


def family_of(packet: Packet | bytes) -> int:
    return bytes(packet)[0] >> 4


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: f"v{family_of(case.packet)} {case.name}")
def test_key_of_a_packet(case: Case) -> None:
    packet = bytes(case.packet)
    if family_of(packet) == 4:
        ends = FlowKey(4, packed(A4), packed(B4))
        assert flow_key(packet, 0) == ends
    else:
        ends = FlowKey(6, packed(A6), packed(B6))
        assert flow_key(packet, 0) == ends._replace(proto=packet[6], flow_label=LABEL)
    expected = ends._replace(proto=case.proto, sport=case.sport, dport=case.dport)
    assert flow_key(packet, 1) == expected
    assert flow_key(packet + b"\xee" * 18, 1) == expected  # Ethernet padding does not count
    assert flow_keys(packet, 1).is_followed == (case.name not in UNFOLLOWED)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(v4())[:19],
        bytes(v6())[:39],
        b"\x55" + bytes(60),
        bytes(v4() / Raw(L4))[:-1],
        bytes(v6(nh=59) / Raw(L4))[:-1],
        bytes(v4(ihl=4)),
        bytes(v4(len=19)),
        bytes(v4(ihl=6, len=20)),
    ],
)
def test_not_a_whole_packet(packet: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|lengths"):
        flow_key(packet, 0)


@pytest.mark.parametrize("policy", [-1, 4])
def test_other_policies(policy: int) -> None:
    with pytest.raises(ValueError, match="policy"):
        flow_keys(bytes(v4()), policy)
    with pytest.raises(ValueError, match="policy"):
        FlowKey(4, bytes(4), bytes(4)).for_policy(policy)


# --- key: ICMP errors ----------------------------------------------------------------------------

QUOTED = [case for case in PLAIN if "cut" not in case.name and "says more" not in case.name]
R4, R6 = "203.0.113.7", "2001:db8:ffff::7"
ERRORS4 = [ICMP(type=t, code=0) for t in (3, 4, 5, 11, 12)]
ERRORS6 = [
    ICMPv6DestUnreach(),
    ICMPv6PacketTooBig(mtu=1280),
    ICMPv6TimeExceeded(),
    ICMPv6ParamProblem(),
]


def error_about(packet: bytes, error: Packet | None = None, behind: Packet | None = None) -> bytes:
    """The ICMP error that a router sends to the source of `packet`, quoting it."""
    if family_of(packet) == 4:
        return bytes(IP(src=R4, dst=A4) / (error or ICMP(type=3, code=4)) / Raw(packet))
    l3 = IPv6(src=R6, dst=A6, fl=0x77) / behind if behind else IPv6(src=R6, dst=A6, fl=0x77)
    return bytes(l3 / (error or ICMPv6PacketTooBig(mtu=1280)) / Raw(packet))


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("case", QUOTED, ids=lambda case: f"v{family_of(case.packet)} {case.name}")
def test_an_icmp_error_has_the_key_of_its_packet(case: Case, policy: int) -> None:
    packet = bytes(case.packet)
    expected = flow_key(packet, policy)
    quotes = [packet, packet[: headers_size(packet) + 8]]
    assert [flow_key(error_about(quote), policy) for quote in quotes] == [expected] * 2


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("error", [*ERRORS4, *ERRORS6], ids=lambda error: error.summary())
def test_every_kind_of_icmp_error(error: Packet, policy: int) -> None:
    packet = bytes((v4() if isinstance(error, ICMP) else v6()) / UDP(sport=1, dport=2))
    assert flow_key(error_about(packet, error), policy) == flow_key(packet, policy)


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("behind", [IPv6ExtHdrDestOpt(), HEADERS], ids=["one", "three"])
def test_icmpv6_error_behind_extension_headers(behind: Packet, policy: int) -> None:
    packet = bytes(v6() / UDP(sport=1, dport=2))
    assert flow_key(error_about(packet, behind=behind), policy) == flow_key(packet, policy)


@pytest.mark.parametrize("policy", [0, 1, 2, 3])
def test_icmpv6_error_behind_an_authentication_header(policy: int) -> None:
    packet = bytes(v6() / UDP(sport=1, dport=2))
    error = error_about(packet)
    payload = b"\x3a\x04" + bytes(22) + error[40:]
    expected = flow_hash(error, policy, 1, 0x3F)
    for head in (IPv6(src=R6, dst=A6, nh=51), IPv6(src=R6, dst=A6) / IPv6ExtHdrDestOpt(nh=51)):
        assert flow_hash(bytes(head / Raw(payload)), policy, 1, 0x3F) == expected
        cut = bytes(head / Raw(payload[:7]))
        assert flow_hash(cut, policy, 1, 0x3F) != expected


def test_the_label_that_policy_0_may_leave_out() -> None:
    packet = bytes(v6() / UDP(sport=1, dport=2))
    for l3 in (packet, error_about(packet)):
        key = flow_keys(l3, 0, follow_label=False).only
        assert key == flow_key(packet, 0)._replace(flow_label=0)
        assert flow_hash(l3, 0, 1, follow_label=False) == key.hash(1)
    assert flow_keys(packet, 2, follow_label=False) == flow_keys(packet, 2)


def test_quote_without_ports() -> None:
    for packet in (bytes(v4() / TCP(sport=1, dport=2)), bytes(v6() / TCP(sport=1, dport=2))):
        expected = flow_key(packet, 1)._replace(sport=0, dport=0)
        assert flow_key(error_about(packet[: headers_size(packet) + 3]), 1) == expected
    options = bytes(v4(options=[IPOption_NOP()] * 8) / TCP(sport=1, dport=2))
    expected = flow_key(options, 1)._replace(sport=0, dport=0)
    assert flow_key(error_about(options[:20]), 1) == expected  # the options are not there


def outer_keys(packet: bytes, proto: int) -> list[FlowKey]:
    if family_of(packet) == 4:
        ends = FlowKey(4, packet[12:16], packet[16:20])
        return [ends, ends._replace(proto=proto)]
    ends = FlowKey(6, packet[8:24], packet[24:40])
    return [ends._replace(proto=packet[6], flow_label=0x77), ends._replace(proto=proto)]


UDP4, UDP6 = bytes(v4() / UDP(sport=1, dport=2)), bytes(v6() / UDP(sport=1, dport=2))


@pytest.mark.parametrize(
    ("packet", "proto"),
    [
        pytest.param(error_about(UDP4[:19]), 1, id="v4 quoted header not whole"),
        pytest.param(error_about(UDP6[:39]), 58, id="v6 quoted header not whole"),
        pytest.param(error_about(UDP4, ICMP(type=8)), 1, id="v4 echo"),
        pytest.param(error_about(UDP6, ICMPv6EchoRequest()), 58, id="v6 echo"),
        pytest.param(
            bytes(IPv6(src=R6, dst=A6, fl=0x77, nh=1) / ICMP(type=3) / Raw(UDP6)), 1, id="v6 ICMPv4"
        ),
        pytest.param(
            bytes(IP(src=R4, dst=A4, frag=5, proto=1) / ICMP(type=3) / Raw(UDP4)),
            1,
            id="v4 later fragment",
        ),
        pytest.param(
            error_about(UDP6, behind=IPv6ExtHdrFragment()), 58, id="v6 behind a fragment header"
        ),
    ],
)
def test_no_quote_to_go_by(packet: bytes, proto: int) -> None:
    assert [flow_key(packet, policy) for policy in (0, 1)] == outer_keys(packet, proto)


def test_first_fragment_of_an_icmpv4_error() -> None:
    packet = bytes(IP(src=R4, dst=A4, flags="MF") / ICMP(type=3) / Raw(UDP4))
    assert [flow_key(packet, p) for p in (0, 1)] == [flow_key(UDP4, p) for p in (0, 1)]


@given(st.sampled_from([4, 6]), st.binary(max_size=200), st.sampled_from([0, 1]), st.data())
def test_any_bytes_give_a_key_that_hashes(
    family: int, rest: bytes, policy: int, data: st.DataObject
) -> None:
    proto = data.draw(st.sampled_from([0, 1, 6, 43, 44, 51, 58, 60]))
    l3 = IP(src=A4, dst=B4, proto=proto) if family == 4 else IPv6(src=A6, dst=B6, nh=proto)
    assert 0 <= flow_key(bytes(l3 / Raw(rest)), policy).hash(1) < HASH_SPACE
