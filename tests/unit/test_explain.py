"""What Linux can be asked about a packet, and what its answer means."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import GRE
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from xdpecmp.errors import XdpecmpError
from xdpecmp.hashing import flow_hash
from xdpecmp.model.flow import Flow
from xdpecmp.model.hashkey import HashKey
from xdpecmp.model.values import Link, NextHop, NexthopGroup, Path, Prefix, RouteKind
from xdpecmp.netlink import Answer, Query
from xdpecmp.netlink.getroute import takes_flow_label
from xdpecmp.observe.explain import (
    Comparison,
    Decision,
    HashSettings,
    Ingress,
    compare,
    in_moved_bucket,
    ingress_of,
    question,
    reference,
)
from xdpecmp.observe.verify import random_flow
from xdpecmp.program.abi import GroupKind, Reason

SEED = 7
KEY = HashKey.of_seed(SEED)
IN = 3
V4: dict[str, Any] = {"src": "198.18.0.5", "dst": "192.0.2.80"}
V6: dict[str, Any] = {"src": "2001:db8::5", "dst": "2001:db8:80::80"}
SIDES4 = ip_address(V4["src"]).packed, ip_address(V4["dst"]).packed
SIDES6 = ip_address(V6["src"]).packed, ip_address(V6["dst"]).packed


def decision(
    made: Packet,
    policy: int = 0,
    *,
    kind: int = GroupKind.THRESHOLD,
    reason: Any = Reason.FORWARDED,
    follows_label: bool = True,
    **changes: Any,
) -> Decision:
    raw = bytes(made)
    settings = HashSettings(policy, 0x3F, KEY, follows_label)
    values: dict[str, Any] = {
        "reason": reason,
        "family": raw[0] >> 4,
        "ingress": IN,
        "packet": raw,
        "hash": flow_hash(raw, policy, SEED, 0x3F, follows_label),
        "nexthop": 1,
        "group": (kind, 0, 2),
        "is_icmp_error": False,
        "quote_offset": 0,
        "settings": settings,
    }
    return Decision(**values | changes)


def udp4() -> Packet:
    return IP(**V4) / UDP(sport=1, dport=2)


def udp6(label: int = 0) -> Packet:
    return IPv6(**V6, fl=label) / UDP(sport=1, dport=2)


def asking(source: bytes, destination: bytes, *more: int, **others: int) -> Query:
    """What is asked about such a packet."""
    return Query(Flow(source, destination, *more, **others), IN)


ASKED: dict[str, tuple[Decision, Query]] = {
    "policy 0: addresses": (decision(udp4()), asking(*SIDES4)),
    "policy 0: any protocol": (decision(IP(**V4) / SCTP()), asking(*SIDES4)),
    "policy 0: fragments": (decision(IP(**V4, frag=5, proto=17) / b"12345678"), asking(*SIDES4)),
    "policy 2: addresses": (decision(udp4(), 2), asking(*SIDES4)),
    "policy 1: ports": (decision(udp4(), 1), asking(*SIDES4, 17, 1, 2)),
    "policy 3: ports": (decision(udp4(), 3), asking(*SIDES4, 17, 1, 2)),
    "policy 1: TCP": (
        decision(IP(**V4) / TCP(sport=5, dport=6), 1),
        asking(*SIDES4, 6, 5, 6),
    ),
    "policy 1: no ports": (decision(IP(**V4) / ICMP(), 1), asking(*SIDES4, 1)),
    "IPv6 policy 0: protocol": (decision(udp6()), asking(*SIDES6, 17)),
    "IPv6 policy 1: ports, no label": (decision(udp6(9), 1), asking(*SIDES6, 17, 1, 2)),
    "IPv6 policy 2: protocol": (decision(udp6(), 2), asking(*SIDES6, 17)),
    "no label to ignore": (decision(udp6(), follows_label=False), asking(*SIDES6, 17)),
    "one path: whatever it is": (
        decision(IP(**V4, frag=5, proto=17) / b"12345678", 1, kind=GroupKind.SINGLE, hash=None),
        asking(*SIDES4),
    ),
    "one path: an ICMP error": (
        decision(IP(**V4) / ICMP(type=3), 1, kind=GroupKind.SINGLE, is_icmp_error=True),
        asking(*SIDES4),
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_asked(name: str) -> None:
    case, query = ASKED[name]
    assert question(case) == query


def test_the_flow_label_is_asked_where_it_can_be() -> None:
    asked = question(decision(udp6(0x12345)))
    if takes_flow_label():
        assert asked == asking(*SIDES6, 17, flow_label=0x12345)
    else:
        assert "Linux 6.14" in str(asked)


@pytest.mark.parametrize(
    ("release", "takes"),
    [("6.13.9", False), ("6.14.0-rc1", True), ("6.9", False), ("7.0-x", True), ("5.20.1", False)],
)
def test_which_kernels_take_a_label(release: str, takes: bool) -> None:
    assert takes_flow_label(release) is takes


NOT_ASKED: dict[str, tuple[Decision, str]] = {
    "ICMP errors": (decision(IP(**V4) / ICMP(type=3), is_icmp_error=True), "ICMP error"),
    "fragments under policy 1": (decision(IP(**V4, flags="MF") / UDP(), 1), "fragments"),
    "other protocols": (decision(IP(**V4) / SCTP(), 1), "protocol 132"),
    "IPv6 fragments": (decision(IPv6(**V6) / IPv6ExtHdrFragment() / UDP()), "protocol 44"),
    "tunnels, policy 2": (decision(IP(**V4) / IP(**V4) / UDP(), 2), "tunnel"),
    "tunnels, policy 3": (decision(IP(**V4) / GRE() / IP(**V4) / UDP(), 3), "tunnel"),
    "IPv6 labels, policy 2": (decision(udp6(9), 2), "byte order"),
    "IPv6, policy 3": (decision(udp6(), 3), "leaves out a step"),
    "an ignored label": (decision(udp6(9), follows_label=False), "--flow-label"),
    "refused early": (decision(udp4(), family=0, packet=b"", ingress=0), "routing"),
}


@pytest.mark.parametrize("name", NOT_ASKED)
def test_not_asked(name: str) -> None:
    case, why = NOT_ASKED[name]
    asked = question(case)
    assert isinstance(asked, str)
    assert why in asked


# --- answers -------------------------------------------------------------------------------------

HOP, OTHER = NextHop(b"\x0a\0\1\2", 5), NextHop(b"\x0a\0\2\2", 6)
FORWARDED = decision(udp4())
PASSED = decision(udp4(), reason=Reason.NEIGHBOUR)


@pytest.mark.parametrize(
    ("case", "chosen", "answer", "agrees"),
    [
        (FORWARDED, HOP, Answer(RouteKind.UNICAST, HOP), True),
        (FORWARDED, HOP, Answer(RouteKind.UNICAST, OTHER), False),
        (FORWARDED, HOP, Answer(RouteKind.UNICAST, NextHop(b"", 5)), False),
        (FORWARDED, HOP, Answer(RouteKind.SPECIAL, error=113), False),
        (FORWARDED, HOP, Answer(RouteKind.LOCAL), False),
        (PASSED, HOP, Answer(RouteKind.UNICAST, HOP), True),
        (PASSED, HOP, Answer(RouteKind.UNICAST, OTHER), False),
        (PASSED, HOP, Answer(RouteKind.SPECIAL, error=113), None),
        (PASSED, None, Answer(RouteKind.UNICAST, OTHER), None),
        (FORWARDED, HOP, "cannot be asked", None),
    ],
)
def test_compare(
    case: Decision, chosen: NextHop | None, answer: Answer | str, agrees: bool | None
) -> None:
    comparison = compare(case, chosen, answer)
    assert comparison.agrees is agrees
    assert bool(comparison.why) == (agrees is None)


def test_a_bucket_that_linux_has_moved() -> None:
    """Only where Linux's answer follows from the same hash."""
    case = decision(udp4(), kind=GroupKind.RESILIENT)
    assert case.hash is not None
    members = (Path(HOP), Path(OTHER))
    there = case.hash % 2
    buckets = (1, 0) if there == 0 else (0, 1)  # so that OTHER is where the hash leads
    group = NexthopGroup(9, RouteKind.UNICAST, members, resilient=True, buckets=buckets)
    answer = Answer(RouteKind.UNICAST, OTHER)
    assert in_moved_bucket(case, answer, {9: group})
    turned = NexthopGroup(9, RouteKind.UNICAST, members, resilient=True, buckets=buckets[::-1])
    assert not in_moved_bucket(case, answer, {9: turned})
    assert not in_moved_bucket(decision(udp4()), answer, {9: group})


def test_reference() -> None:
    packet = bytes(udp6(9))
    ignoring = reference(packet, HashSettings(0, 0x3F, KEY, follows_label=False))
    following = reference(packet, HashSettings(0, 0x3F, KEY))
    plain = reference(bytes(udp6()), HashSettings(0, 0x3F, KEY))
    assert ignoring is not None
    assert following is not None
    assert plain is not None
    assert ignoring.hash == plain.hash != following.hash
    assert reference(packet[:30], HashSettings(0, 0x3F, KEY)) is None


def test_comparison_of_nothing() -> None:
    assert compare(FORWARDED, HOP, "why") == Comparison(None, None, "why")


# --- where it comes in, and random flows ---------------------------------------------------------


def link(ifindex: int, name: str, **more: Any) -> Link:
    return Link(ifindex, name, bytes([2, 0, 0, 0, 0, ifindex]), 1500, True, **more)


def test_ingress() -> None:
    """A frame for a VLAN device comes in, tagged, by the device below it."""
    port = link(1, "eth0")
    outer = link(2, "eth0.5", kind="vlan", lower=1, vlan_id=5, vlan_protocol=0x88A8)
    inner = link(3, "eth0.5.7", kind="vlan", lower=2, vlan_id=7, vlan_protocol=0x8100)
    links = {each.ifindex: each for each in (port, outer, inner, link(4, "eth1"))}
    assert ingress_of(links, [port], port) == Ingress(1, port.mac)
    assert ingress_of(links, [port], inner) == Ingress(1, inner.mac, ((0x88A8, 5), (0x8100, 7)))
    with pytest.raises(XdpecmpError) as raised:
        ingress_of(links, [port], links[4])
    assert "eth1" in raised.value.message
    assert "eth0" in raised.value.hint


@pytest.mark.parametrize("text", ["10.1.0.0/16", "192.0.2.80/32", "0.0.0.0/0", "2001:db8::/64"])
def test_random_flows(text: str) -> None:
    prefix, inside = Prefix.parse(text), Prefix.parse("10.9.8.0/24")
    rng = random.Random(1)
    flows = [random_flow(rng, prefix, [inside], with_label=True) for _ in range(200)]
    for flow in flows:
        assert ip_address(flow.destination) in ip_network(text)
        if prefix.family == 4:
            assert flow.source[:3] == inside.address[:3]
            assert not flow.flow_label
    assert len(set(flows)) > 190
    assert {flow.proto for flow in flows} == {6, 17, 1 if prefix.family == 4 else 58}
    again = random.Random(1)
    assert flows == [random_flow(again, prefix, [inside], with_label=True) for _ in range(200)]
