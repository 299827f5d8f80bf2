"""What a packet is judged by besides its own bytes: routes, source checks, sysctls, next hops."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from tests.bpf.harness import Case, Plane, choose
from tests.bpf.packets import forwarded, frame, to
from tests.bpf.world import MULTIPATH, NUD_FAILED, NUD_REACHABLE, SMALL_MTU, VIA
from xdpecmp.compile import local4_filter
from xdpecmp.model.values import Filter, Filters, Prefix
from xdpecmp.program.abi import Reason

pytestmark = pytest.mark.root

Setup = Mapping[str, Any]

IPV4_CHAIN = Filter("nftables chain ip nat post", ipv6=False)


def good(
    name: str, l3: Packet, via: str = "", device: str = "out", setup: Setup | None = None
) -> Case:
    raw = bytes(l3 / UDP())
    via = via or VIA[raw[0] >> 4]["single"]
    return Case(name, frame(raw), out=forwarded(raw, via, device), via=via, setup=setup or {})


def bad(name: str, l3: Packet, reason: str, setup: Setup | None = None) -> Case:
    return Case(name, frame(l3 / UDP()), reason, setup=setup or {})


def multipath(name: str, family: int, setup: Setup, **fields: Any) -> Case:
    l3 = to("multipath", family, **fields)
    policy = setup.get("settings", {}).get(f"policy{family}", 0)
    via = choose(bytes(l3 / UDP()), MULTIPATH[family], policy)
    device = "other" if via == MULTIPATH[family][-1][0] else "out"
    return good(name, l3, via, device, setup)


def on_in(**settings: Any) -> Setup:
    return {"interfaces": {"in": settings}}


def on_out(**settings: Any) -> Setup:
    return {"interfaces": {"out": settings}}


def learned(family: int) -> Setup:
    """What ICMP errors have said of the destination."""
    address = ipaddress.ip_address(to("single", family).dst).packed
    return {"settings": {"learned": frozenset({address})}}


# --- settings of the namespace and the interface -------------------------------------------------

SETTINGS = [
    bad("IPv4 rules", to("single"), "POLICY_RULES", {"custom_rules4": True}),
    good("IPv4 rules do not stop IPv6", to("single", 6), setup={"custom_rules4": True}),
    bad("IPv4 IPsec", to("single"), "IPSEC", {"settings": {"ipsec": True}}),
    bad("IPv6 IPsec", to("single", 6), "IPSEC", {"settings": {"ipsec": True}}),
    bad("IPv6 rules", to("single", 6), "POLICY_RULES", {"custom_rules6": True}),
    bad("IPv4 firewall", to("single"), "FIREWALL", {"filters": Filters((IPV4_CHAIN,))}),
    good("IPv4 firewall, IPv6", to("single", 6), setup={"filters": Filters((IPV4_CHAIN,))}),
    bad("firewall unread", to("single", 6), "FIREWALL", {"filters": Filters(unread=("nft",))}),
    good("IPv6 rules do not stop IPv4", to("single"), setup={"custom_rules6": True}),
    bad(
        "path MTU discovery rules forwarding",
        to("single"),
        "SETTING",
        {"settings": {"ip_forward_use_pmtu": True}},
    ),
    bad("redirects accepted", to("single"), "LEARNED", on_out(learns_redirects4=True)),
    bad("IPv6 redirects accepted", to("single", 6), "LEARNED", on_out(learns_redirects6=True)),
    good("IPv6 redirects accepted, IPv4", to("single"), setup=on_out(learns_redirects6=True)),
    good("redirects accepted, IPv6", to("single", 6), setup=on_out(learns_redirects4=True)),
    good("redirects accepted elsewhere", to("single"), setup=on_in(learns_redirects4=True)),
    *(
        row
        for family in (4, 6)
        for row in (
            bad(f"IPv{family} exception", to("single", family), "LEARNED", learned(family)),
            good(
                f"IPv{family} exception of another",
                to("single", 10 - family),
                setup=learned(family),
            ),
        )
    ),
    bad("IPv4 forwarding off", to("single"), "FORWARDING_OFF", on_in(forwarding4=False)),
    good("IPv4 forwarding off, IPv6", to("single", 6), setup=on_in(forwarding4=False)),
    bad("IPv6 forwarding off", to("single", 6), "FORWARDING_OFF", on_in(forwarding6=False)),
    good("IPv6 forwarding off, IPv4", to("single"), setup=on_in(forwarding6=False)),
    bad("enslaved ingress", to("single"), "INTERFACE", {"links": {"in": {"master": 99}}}),
    *(
        row
        for family in (4, 6)
        for row in (
            bad(
                f"IPv{family} seed unknown",
                to("multipath", family),
                "SEED_UNKNOWN",
                {"settings": {"seed": None}},
            ),
            bad(
                f"IPv{family} seed of our own, not attached everywhere",
                to("multipath", family),
                "OWN_SEED",
                {"settings": {"seed": None}, "options": {"own_seed": 5}},
            ),
            good(
                f"IPv{family} seed of our own, not attached everywhere, one next hop",
                to("single", family),
                setup={"settings": {"seed": None}, "options": {"own_seed": 5}},
            ),
            good(
                f"IPv{family} seed unknown, one next hop",
                to("single", family),
                setup={"settings": {"seed": None}},
            ),
            bad(
                f"IPv{family} policy 4",
                to("multipath", family),
                "POLICY_UNSUPPORTED",
                {"settings": {f"policy{family}": 4}},
            ),
            good(
                f"IPv{family} policy 4, one next hop",
                to("single", family),
                setup={"settings": {f"policy{family}": 4}},
            ),
            multipath(
                f"IPv{family} multipath, policy 4 in the other family",
                family,
                {"settings": {f"policy{10 - family}": 4}},
            ),
            multipath(
                f"IPv{family} policy 1, policy 0 in the other family",
                family,
                {"settings": {f"policy{family}": 1}},
            ),
        )
    ),
]

# --- routes and next hops ------------------------------------------------------------------------

GENERIC = {"links": {"in": {"xdp_mode": "generic"}}}
ROUTES = [
    bad("no IPv4 route", to("single", dst="203.0.113.1"), "NO_ROUTE"),
    bad("no IPv6 route", to("single", 6, dst="2001:db9::1"), "NO_ROUTE"),
    bad("our address", to("single", dst="10.0.0.1"), "ROUTE_LOCAL"),
    bad("our address on another device", to("single", dst="10.0.1.254"), "ROUTE_LOCAL"),
    bad("our IPv6 address", to("single", 6, dst="2001:db8:a::1"), "ROUTE_LOCAL"),
    bad("subnet broadcast", to("single", dst="10.0.0.255"), "ROUTE_SPECIAL"),
    bad("on-link", to("single", dst="10.0.1.77"), "ON_LINK"),
    bad("on-link IPv6", to("single", 6, dst="2001:db8:b::77"), "ON_LINK"),
    bad(
        "on-link, failed",
        to("single", dst="10.0.1.77"),
        "ON_LINK",
        {"neighbours": {("10.0.1.77", "out"): NUD_FAILED}},
    ),
    good(
        "on-link, resolved",
        to("single", dst="10.0.1.77"),
        "10.0.1.77",
        setup={"neighbours": {("10.0.1.77", "out"): NUD_REACHABLE}},
    ),
    good(
        "on-link IPv6, resolved",
        to("single", 6, dst="2001:db8:b::77"),
        "2001:db8:b::77",
        setup={"neighbours": {("2001:db8:b::77", "out"): NUD_REACHABLE}},
    ),
    *(
        row
        for f in (4, 6)
        for row in (
            bad(f"IPv{f} blackhole", to("special", f), "ROUTE_SPECIAL"),
            bad(f"IPv{f} unknown kind of route", to("unsupported", f), "ROUTE_UNSUPPORTED"),
            bad(f"IPv{f} next hop unresolved", to("unresolved", f), "NEIGHBOUR"),
            bad(f"IPv{f} egress down", to("down", f), "EGRESS_DOWN"),
            bad(f"IPv{f} egress without XDP", to("no_xdp", f), "EGRESS_NO_XDP"),
            good(
                f"IPv{f} egress without XDP, generic",
                to("no_xdp", f),
                VIA[f]["no_xdp"],
                "no_xdp",
                GENERIC,
            ),
            bad(f"IPv{f} egress down, generic", to("down", f), "EGRESS_DOWN", GENERIC),
            bad(f"IPv{f} redirect", to("hairpin", f), "REDIRECT", on_in(send_redirects=True)),
            good(f"IPv{f} redirects on", to("single", f), setup=on_in(send_redirects=True)),
        )
    ),
    bad(
        "next hop failed",
        to("single"),
        "NEIGHBOUR",
        {"neighbours": {("10.0.1.1", "out"): NUD_FAILED}},
    ),
    good(
        "longest prefix",
        to("single", dst="198.18.1.77"),
        "10.0.1.2",
        setup={"routes": "198.18.1.77 via 10.0.1.2 dev out\n198.18.0.0/15 via 10.0.2.1 dev small"},
    ),
    bad(
        "a longer prefix that is a blackhole",
        to("single", dst="198.18.1.77"),
        "ROUTE_SPECIAL",
        {"routes": "special 198.18.1.64/26"},
    ),
    good(
        "default route",
        to("single", dst="203.0.113.1"),
        setup={"routes": "0.0.0.0/0 via 10.0.1.1 dev out"},
    ),
    good(
        "IPv6 default route",
        to("single", 6, dst="2001:db9::1"),
        setup={"routes": "::/0 via 2001:db8:b::1 dev out"},
    ),
]


def sized(family: int, size: int, padding: int = 0) -> Case:
    header = 20 if family == 4 else 40
    raw = bytes(to("small", family) / UDP() / bytes(size - header - 8))
    assert len(raw) == size
    packet = frame(raw, padding=bytes(padding))
    name = f"IPv{family} {size} bytes and {padding} of padding"
    if size > SMALL_MTU:
        return Case(name, packet, "MTU")
    via = VIA[family]["small"]
    return Case(name, packet, out=forwarded(raw, via, "small"), via=via)


# --- fragments that Linux reassembles first ------------------------------------------------------

DEFRAGMENTS = {"settings": {"defragments4": True, "defragments6": True, "policy4": 1, "policy6": 1}}
ADDRESSES_ALONE = {"settings": {**DEFRAGMENTS["settings"], "policy4": 0, "policy6": 0}}
AH = bytes([44, 4]) + bytes(22)


def fragments(name: str) -> list[tuple[str, int, Packet]]:
    """Of a datagram to that target: both families', the first and a later one."""
    return [
        ("first", 4, to(name, flags="MF")),
        ("later", 4, to(name, frag=9)),
        ("first", 6, to(name, 6) / IPv6ExtHdrFragment(m=1, nh=17)),
        ("later", 6, to(name, 6) / IPv6ExtHdrFragment(offset=9, nh=17)),
        ("behind options", 6, to(name, 6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(m=1)),
    ]


FRAGMENTS = [
    *(
        bad(f"IPv{family} {kind} fragment", l3, "FRAGMENT", DEFRAGMENTS)
        for kind, family, l3 in fragments("multipath")
    ),
    *(
        good(f"IPv{family} {kind} fragment, one path", l3, setup=DEFRAGMENTS)
        for kind, family, l3 in fragments("single")
    ),
    *(
        bad(f"IPv6 {kind} fragment, policy 0", l3, "FRAGMENT", ADDRESSES_ALONE)
        for kind, family, l3 in fragments("multipath")
        if family == 6
    ),
    bad("behind AH", to("multipath", 6, nh=51) / Raw(AH), "FRAGMENT", DEFRAGMENTS),
    *(multipath(f"IPv{f} whole, reassembling", f, DEFRAGMENTS) for f in (4, 6)),
    multipath("IPv4 fragment, policy 0", 4, ADDRESSES_ALONE, flags="MF"),
    multipath("IPv4 fragment, no reassembling", 4, {"settings": {"policy4": 1}}, flags="MF"),
]

MTU = [
    sized(family, SMALL_MTU + more, padding)
    for family in (4, 6)
    for more, padding in ((-1, 0), (0, 0), (1, 0), (100, 0), (0, 40), (1, 40))
]

# --- source ---------------------------------------------------------------------------------------

STRICT, LOOSE = on_in(rp_filter=1), on_in(rp_filter=2)


def source_paths(others: int) -> Setup:
    """A route to the source over `others` next hops elsewhere, and `in` as the last one."""
    legs = [f"nexthop via 10.0.1.{i + 3} dev out" for i in range(others)]
    route = " ".join(["192.0.9.0/24", *legs, "nexthop via 10.0.0.2 dev in"])
    return {**STRICT, "routes": route}


OWN = int(ipaddress.ip_address("10.0.0.1"))


def same_bit_as_own() -> str:
    """An address that the Bloom filter takes for one of ours: the route says that it isn't."""
    own = local4_filter([OWN.to_bytes(4, "big")])
    start = int(ipaddress.ip_address("192.0.2.0"))
    candidates = (start + i for i in range(1 << 16))
    found = next(n for n in candidates if local4_filter([n.to_bytes(4, "big")]) == own)
    return str(ipaddress.ip_address(found))


SOURCES = [
    bad("our own address", to("single", src="10.0.0.1"), "MARTIAN_SOURCE"),
    bad("our address on another device", to("single", src="10.0.1.254"), "MARTIAN_SOURCE"),
    bad("a network's broadcast address", to("single", src="10.0.0.255"), "MARTIAN_SOURCE"),
    good("same bit of the filter", to("single", src=same_bit_as_own())),
    good("no route back, no check", to("single", src="203.0.113.9")),
    good("strict", to("single"), setup=STRICT),
    good("strict, on-link", to("single", src="10.0.0.7"), setup=STRICT),
    bad("strict, our own", to("single", src="10.0.0.1"), "MARTIAN_SOURCE", STRICT),
    bad("strict, by another device", to("single", src="192.0.3.1"), "RP_FILTER", STRICT),
    bad("strict, no route back", to("single", src="203.0.113.9"), "RP_FILTER", STRICT),
    bad("strict, blackhole", to("single", src="192.0.6.1"), "MARTIAN_SOURCE", STRICT),
    good("strict, one of two paths", to("single", src="192.0.4.1"), setup=STRICT),
    bad("strict, none of two paths", to("single", src="192.0.5.1"), "RP_FILTER", STRICT),
    good("strict, last of 16 paths", to("single", src="192.0.9.1"), setup=source_paths(15)),
    bad("strict, last of 17: Linux", to("single", src="192.0.9.1"), "RP_FILTER", source_paths(16)),
    good("loose", to("single"), setup=LOOSE),
    good("loose, by another device", to("single", src="192.0.3.1"), setup=LOOSE),
    good("loose, none of two paths", to("single", src="192.0.5.1"), setup=LOOSE),
    bad("loose, no route back", to("single", src="203.0.113.9"), "RP_FILTER", LOOSE),
    bad("loose, our own", to("single", src="10.0.0.1"), "MARTIAN_SOURCE", LOOSE),
    bad("loose, blackhole", to("single", src="192.0.6.1"), "MARTIAN_SOURCE", LOOSE),
    good("IPv6 has no such check", to("single", 6, src="2001:db8:dead::1"), setup=STRICT),
]

ROWS = [*SETTINGS, *ROUTES, *FRAGMENTS, *MTU, *SOURCES]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_route(plane: Plane, case: Case) -> None:
    plane.check(case)


def test_every_source_is_looked_up_with_local_routes_by_hand(plane: Plane) -> None:
    packet = frame(to("single", src="192.0.6.1") / UDP())
    assert plane.observe(packet).verdict == "REDIRECT"
    tables = plane.load(plane.world.snapshot())
    plane.load_tables(replace(tables, config=tables.config._replace(local4=None)))
    assert plane.observe(packet).stats == {"MARTIAN_SOURCE": 1}


@pytest.mark.parametrize("source", ["192.0.3.1", "192.0.2.10"])
def test_loose_is_strict_on_an_interface_without_address(plane: Plane, source: str) -> None:
    """__fib_validate_source(): no address, no loose check; `in.10` has none."""
    snapshot = plane.world.snapshot(
        routes="192.0.2.10 via 10.0.10.2 dev in.10", interfaces={"in.10": {"rp_filter": 2}}
    )
    plane.load(snapshot)
    outcome = plane.observe(frame(to("single", src=source) / UDP(), [(0x8100, 10)]))
    assert outcome.stats == ({"RP_FILTER": 1} if source == "192.0.3.1" else {})


@pytest.mark.parametrize("attached", [(), ("out",)])
def test_not_attached(plane: Plane, attached: tuple[str, ...]) -> None:
    packet = frame(to("single") / UDP())
    plane.load(plane.world.snapshot(), attached)
    assert plane.observe(packet) == ("PASS", packet, {"INTERFACE": 1}, {})


@pytest.mark.parametrize("family", [4, 6])
def test_table_full(plane: Plane, family: int) -> None:
    """A group that found no place, and a family with more routes than the map holds."""
    packet = frame(to("single", family) / UDP())
    tables = plane.load(plane.world.snapshot())
    prefix = Prefix.parse("198.18.1.0/24" if family == 4 else "2001:db8:1::/48")
    plane.load_tables(replace(tables, routes={**tables.routes, prefix: ("no such group",)}))
    assert plane.observe(packet) == ("PASS", packet, {"TABLE_FULL": 1}, {})
    changes: dict[str, Any] = {f"pass{family}": int(Reason.TABLE_FULL)}
    full = tables.config._replace(**changes)
    plane.load_tables(replace(tables, config=full))
    assert plane.observe(packet) == ("PASS", packet, {"TABLE_FULL": 1}, {})
    other = frame(to("single", 10 - family) / UDP())
    assert plane.observe(other).verdict == "REDIRECT"
