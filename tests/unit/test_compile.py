"""compile: which route wins, what its group looks like, what an adjacency says."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpecmp.abi import CAPACITY, INTERFACE_FLAGS, MAX_PATHS, Reason
from xdpecmp.compile import (
    LAST_BOUND,
    Adjacency,
    Tag,
    VlanKey,
    compile_tables,
    covers,
    local4_filter,
    masked,
)
from xdpecmp.model import (
    InterfaceSettings,
    Link,
    Neighbour,
    NextHop,
    Path,
    Prefix,
    Route,
    RouteKind,
    Settings,
    Snapshot,
)

MAIN, LOCAL, DEFAULT = 254, 255, 253
REACHABLE, STALE, FAILED = 0x02, 0x04, 0x20
DEAD, LINKDOWN = 0x01, 0x10
MAC1, MAC2 = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def hop(via: str, ifindex: int = 2) -> NextHop:
    return NextHop(ip(via) if via else b"", ifindex)


def route(
    prefix: str,
    *paths: Path | NextHop,
    table: int = MAIN,
    metric: int = 0,
    kind: RouteKind = RouteKind.UNICAST,
    **more: int,
) -> Route:
    steps = tuple(path if isinstance(path, Path) else Path(path) for path in paths)
    return Route(Prefix.parse(prefix), table, metric, kind, steps, **more)


def links(*extra: Link) -> dict[int, Link]:
    known = [
        Link(1, "lo", b"", 65536, True),
        Link(2, "eth0", MAC1, 1500, True, xdp_prog_id=7, xdp_mode="native"),
        Link(3, "eth1", MAC2, 9000, True),
    ]
    return {link.ifindex: link for link in [*known, *extra]}


def neighbours(*rows: tuple[str, int, int]) -> dict[tuple[bytes, int], Neighbour]:
    return {
        (ip(address), ifindex): Neighbour(
            ip(address), ifindex, b"" if state == FAILED else MAC2, state
        )
        for address, ifindex, state in rows
    }


def snapshot(*routes: Route, **parts: object) -> Snapshot:
    base = Snapshot(links=links(), neighbours={}, routes=tuple(routes), settings=Settings(seed=1))
    return replace(base, **parts)


def target(prefix: str, *routes: Route, **parts: object) -> object:
    """What a prefix leads to, None if it is not mirrored."""
    return compile_tables(snapshot(*routes, **parts), {2}).routes.get(Prefix.parse(prefix))


# --- which route is in force ---------------------------------------------------------------------

VIA1, VIA2 = hop("10.1.0.1"), hop("10.2.0.1", 3)
VIA6 = hop("2001:db8::1")

WINNERS = [
    ("alone", "10.0.0.0/8", [route("10.0.0.0/8", VIA1)], VIA1),
    (
        "the lower metric",
        "10.0.0.0/8",
        [route("10.0.0.0/8", VIA1, metric=20), route("10.0.0.0/8", VIA2, metric=10)],
        VIA2,
    ),
    (
        "the higher metric when the lower is dead",
        "10.0.0.0/8",
        [route("10.0.0.0/8", Path(VIA1, 1, DEAD)), route("10.0.0.0/8", VIA2, metric=10)],
        VIA2,
    ),
    (
        "nothing when all are dead",
        "10.0.0.0/8",
        [route("10.0.0.0/8", Path(VIA1, 1, DEAD))],
        None,
    ),
    (
        "local before main",
        "10.0.0.1/32",
        [
            route("10.0.0.1/32", VIA1),
            route("10.0.0.1/32", hop(""), table=LOCAL, kind=RouteKind.LOCAL, metric=9),
        ],
        Reason.ROUTE_LOCAL,
    ),
    (
        "IPv4: nothing under a wide local prefix: which wins depends on what was before",
        "10.0.0.0/24",
        [
            route("10.0.0.0/8", hop(""), table=LOCAL, kind=RouteKind.LOCAL),
            route("10.0.0.0/24", VIA1),
        ],
        None,
    ),
    (
        "IPv6: nothing under a wide local prefix",
        "2001:db8:1::/48",
        [
            route("2001:db8::/32", hop(""), table=LOCAL, kind=RouteKind.LOCAL),
            route("2001:db8:1::/48", VIA6),
        ],
        None,
    ),
    *(
        (
            f"{prefix}: Linux alone knows what a wide {kind} route of table local hides",
            prefix,
            [route(prefix, via), route(wide, *paths, table=LOCAL, kind=kind)],
            Reason.ROUTE_UNSUPPORTED,
        )
        for prefix, wide, via in (
            ("10.1.0.0/16", "10.0.0.0/8", VIA1),
            ("2001:db8:1::/48", "2001:db8::/32", VIA6),
        )
        for kind, paths in ((RouteKind.SPECIAL, ()), (RouteKind.UNICAST, (via,)))
    ),
    (
        "IPv6: two of one metric take turns",
        "2001:db8:1::/48",
        [route("2001:db8:1::/48", VIA6), route("2001:db8:1::/48", hop("2001:db8::2"))],
        Reason.ROUTE_UNSUPPORTED,
    ),
    (
        "IPv4: the first of one metric",
        "10.0.0.0/8",
        [route("10.0.0.0/8", VIA1), route("10.0.0.0/8", VIA2)],
        VIA1,
    ),
    ("table default", "10.0.0.0/8", [route("10.0.0.0/8", VIA1, table=DEFAULT)], VIA1),
    (
        "table default is not asked under a main prefix",
        "10.0.0.0/8",
        [route("10.0.0.0/8", VIA1, table=DEFAULT), route("0.0.0.0/0", VIA2)],
        None,
    ),
    (
        "table default under a longer main prefix",
        "10.0.0.0/8",
        [route("10.0.0.0/8", VIA1, table=DEFAULT), route("10.0.0.0/9", VIA2)],
        VIA1,
    ),
    (
        "a route by TOS",
        "10.0.0.0/8",
        [route("10.0.0.0/8", VIA1), route("10.0.0.0/8", VIA2, tos=16)],
        Reason.ROUTE_UNSUPPORTED,
    ),
    (
        "a route by source",
        "2001:db8::/32",
        [
            route("2001:db8::/32", VIA6, metric=512),
            route("2001:db8::/32", VIA6, metric=1024, source_bits=48),
        ],
        Reason.ROUTE_UNSUPPORTED,
    ),
    (
        "blackhole",
        "10.0.0.0/8",
        [route("10.0.0.0/8", kind=RouteKind.SPECIAL)],
        Reason.ROUTE_SPECIAL,
    ),
    (
        "unsupported",
        "10.0.0.0/8",
        [route("10.0.0.0/8", VIA1, kind=RouteKind.UNSUPPORTED)],
        Reason.ROUTE_UNSUPPORTED,
    ),
    (
        "linkdown counts where it is not to be ignored",
        "10.0.0.0/8",
        [route("10.0.0.0/8", Path(VIA1, 1, LINKDOWN))],
        VIA1,
    ),
]


@pytest.mark.parametrize(("prefix", "routes", "expected"), [w[1:] for w in WINNERS],
                         ids=[w[0] for w in WINNERS])  # fmt: skip
def test_winner(prefix: str, routes: list[Route], expected: object) -> None:
    assert target(prefix, *routes) == expected


def test_linkdown_is_dead_where_the_sysctl_says_so() -> None:
    settings = Settings(seed=1, interfaces={2: InterfaceSettings(ignore_linkdown4=True)})
    down = route("10.0.0.0/8", Path(VIA1, 1, LINKDOWN))
    assert target("10.0.0.0/8", down, settings=settings) is None


ADDRESSES = st.integers(0, 255).map(lambda last: bytes([10, 0, 0, last]))


@given(
    st.lists(
        st.tuples(ADDRESSES, st.integers(24, 32), st.integers(0, 3), st.booleans()), max_size=12
    ),
    ADDRESSES,
)
def test_the_mirror_finds_what_a_search_of_all_routes_finds(
    rows: list[tuple[bytes, int, int, bool]], address: bytes
) -> None:
    routes = [
        Route(
            Prefix(masked(network, length), length),
            MAIN,
            metric,
            RouteKind.UNICAST,
            (Path(NextHop(bytes([10, 9, metric, length]), 3), 1, DEAD if dead else 0),),
        )
        for network, length, metric, dead in rows
    ]
    alive = [r for r in routes if not r.paths[0].dead and covers(r.prefix, Prefix(address, 32))]
    best = min(alive, key=lambda r: (-r.prefix.length, r.metric), default=None)
    tables = compile_tables(snapshot(*routes), {2})
    found = [p for p in tables.routes if covers(p, Prefix(address, 32))]
    chosen = tables.routes[max(found, key=lambda p: p.length)] if found else None
    assert chosen == (best.paths[0].nexthop if best else None)


# --- groups -------------------------------------------------------------------------------------


def group_of(prefix: str, *routes: Route, **parts: object) -> list[tuple[int, NextHop]]:
    tables = compile_tables(snapshot(*routes, **parts), {2})
    key = tables.routes[Prefix.parse(prefix)]
    assert isinstance(key, tuple)
    return [(entry.bound, entry.nexthop) for entry in tables.groups[key]]


def test_bounds_are_the_kernels() -> None:
    """From the recorded vectors: weights 1, 2, 5."""
    via = [hop(f"10.1.0.{i}") for i in range(3)]
    paths = [Path(nexthop, weight) for nexthop, weight in zip(via, (1, 2, 5), strict=True)]
    assert group_of("10.0.0.0/8", route("10.0.0.0/8", *paths)) == [
        (268435455, via[0]),
        (805306367, via[1]),
        (LAST_BOUND, via[2]),
    ]


def test_a_dead_path_is_left_out_of_the_total() -> None:
    paths = [Path(VIA1, 1), Path(VIA2, 7, DEAD), Path(hop("10.3.0.1"), 1)]
    assert group_of("10.0.0.0/8", route("10.0.0.0/8", *paths)) == [
        (2**30 - 1, VIA1),
        (LAST_BOUND, hop("10.3.0.1")),
    ]


def test_use_neigh_skips_a_failed_neighbour_and_wraps_to_the_first_good_one() -> None:
    paths = [Path(VIA1), Path(VIA2)]
    settings = Settings(seed=1, use_neigh=True)
    known = neighbours(("10.1.0.1", 2, REACHABLE), ("10.2.0.1", 3, FAILED))
    wanted = [(LAST_BOUND, VIA1)]
    assert group_of("10.0.0.0/8", route("10.0.0.0/8", *paths), settings=settings,
                    neighbours=known) == wanted  # fmt: skip


def test_without_use_neigh_a_failed_neighbour_keeps_its_share() -> None:
    known = neighbours(("10.2.0.1", 3, FAILED))
    found = group_of("10.0.0.0/8", route("10.0.0.0/8", VIA1, VIA2), neighbours=known)
    assert [nexthop for _, nexthop in found] == [VIA1, VIA2]


def test_routes_with_the_same_paths_share_a_group_that_outlives_a_dead_path() -> None:
    alive = compile_tables(
        snapshot(route("10.0.0.0/8", VIA1, VIA2), route("11.0.0.0/8", VIA1, VIA2)), {2}
    )
    dying = [Path(VIA1), Path(VIA2, 1, DEAD)]
    dead = compile_tables(snapshot(route("10.0.0.0/8", *dying), route("11.0.0.0/8", *dying)), {2})
    assert len(alive.groups) == 1
    assert alive.groups.keys() == dead.groups.keys(), "one store must move all routes at once"
    assert alive.routes == dead.routes


def test_more_paths_than_the_data_path_searches() -> None:
    paths = [hop(f"10.{i >> 8}.{i & 255}.1") for i in range(MAX_PATHS + 1)]
    assert target("10.0.0.0/8", route("10.0.0.0/8", *paths)) == Reason.ROUTE_UNSUPPORTED


# --- directly connected ---------------------------------------------------------------------------

CONNECTED = route("10.1.0.0/24", hop(""), table=MAIN)


def test_a_neighbour_becomes_a_host_route() -> None:
    known = neighbours(("10.1.0.9", 2, STALE))
    assert target("10.1.0.9/32", CONNECTED, neighbours=known) == hop("10.1.0.9")


@pytest.mark.parametrize(
    ("why", "routes", "entry"),
    [
        ("not resolved", [CONNECTED], ("10.1.0.9", 2, FAILED)),
        ("on another device", [CONNECTED], ("10.1.0.9", 3, REACHABLE)),
        ("behind a gateway", [CONNECTED, route("10.1.0.0/28", VIA2)], ("10.1.0.9", 2, REACHABLE)),
        ("covered by no route", [], ("10.1.0.9", 2, REACHABLE)),
    ],
)
def test_no_host_route_for_a_neighbour(
    why: str, routes: list[Route], entry: tuple[str, int, int]
) -> None:
    assert target("10.1.0.9/32", *routes, neighbours=neighbours(entry)) is None, why


# --- adjacencies ----------------------------------------------------------------------------------


def adjacency(nexthop: NextHop, **parts: object) -> Adjacency:
    tables = compile_tables(snapshot(route("10.0.0.0/8", nexthop), **parts), {2})
    return tables.nexthops[nexthop]


ETH1 = links()[3]
RESOLVED = neighbours(("10.2.0.1", 3, REACHABLE))


@pytest.mark.parametrize(
    ("reason", "link", "known"),
    [
        (Reason.FORWARDED, ETH1, RESOLVED),
        (Reason.NEIGHBOUR, ETH1, {}),
        (Reason.NEIGHBOUR, ETH1, neighbours(("10.2.0.1", 3, FAILED))),
        (Reason.EGRESS_DOWN, replace(ETH1, up=False), RESOLVED),
        (Reason.EGRESS_NO_XDP, replace(ETH1, can_transmit_xdp=False), RESOLVED),
        (Reason.NEIGHBOUR, replace(ETH1, mac=b""), RESOLVED),
    ],
)
def test_whether_a_next_hop_is_usable(
    reason: int, link: Link, known: dict[tuple[bytes, int], Neighbour]
) -> None:
    found = adjacency(VIA2, links=links(link), neighbours=known)
    assert found.reason == reason


def test_an_adjacency_has_what_the_rewrite_needs() -> None:
    assert adjacency(VIA2, neighbours=RESOLVED) == Adjacency(
        reason=0, device=3, mac=MAC2, device_mac=MAC2, mtu=9000
    )


VLAN = Link(4, "eth1.100", MAC2, 1500, True, "vlan", lower=3, vlan_id=100, vlan_protocol=0x8100)
QINQ = Link(5, "eth1.7.9", MAC2, 1500, True, "vlan", lower=6, vlan_id=9, vlan_protocol=0x8100)
SERVICE = Link(6, "eth1.7", MAC2, 1500, True, "vlan", lower=3, vlan_id=7, vlan_protocol=0x88A8)


@pytest.mark.parametrize(
    ("link", "tags"),
    [(VLAN, (Tag(0x8100, 100),)), (QINQ, (Tag(0x88A8, 7), Tag(0x8100, 9)))],
)
def test_a_vlan_device_is_a_device_and_tags(link: Link, tags: tuple[Tag, ...]) -> None:
    nexthop = hop("10.3.0.1", link.ifindex)
    found = adjacency(
        nexthop,
        links=links(VLAN, QINQ, SERVICE),
        neighbours=neighbours(("10.3.0.1", link.ifindex, REACHABLE)),
    )
    assert (found.reason, found.device, found.tags) == (Reason.FORWARDED, 3, tags)


# --- ingress --------------------------------------------------------------------------------------


def test_vlans_over_our_interfaces_are_ingresses() -> None:
    tables = compile_tables(snapshot(links=links(VLAN, QINQ, SERVICE)), {3})
    assert tables.vlans == {
        VlanKey(3, 0x8100, 100): 4,
        VlanKey(3, 0x88A8, 7): 6,
        VlanKey(3, 0x88A8, 7, 0x8100, 9): 5,
    }
    assert tables.interfaces.keys() == {3, 4, 5, 6}


def test_what_belongs_to_a_bridge_is_no_ingress() -> None:
    enslaved = replace(links()[2], master=9)
    assert compile_tables(snapshot(links=links(enslaved)), {2}).interfaces == {}


@pytest.mark.parametrize(("with_address", "expected"), [(True, 2), (False, 1)])
def test_loose_is_strict_without_an_address(with_address: bool, expected: int) -> None:
    own = route("10.1.0.1/32", hop(""), table=LOCAL, kind=RouteKind.LOCAL, protocol=2)
    settings = Settings(seed=1, interfaces={2: InterfaceSettings(rp_filter=2)})
    routes: Iterable[Route] = [own] if with_address else []
    assert compile_tables(snapshot(*routes, settings=settings), {2}).interfaces[2].rp_filter == (
        expected
    )


def test_flags() -> None:
    settings = Settings(interfaces={2: InterfaceSettings(forwarding4=True, send_redirects=False)})
    flags = compile_tables(snapshot(settings=settings), {2}).interfaces[2].flags
    assert flags == INTERFACE_FLAGS["FORWARD4"]


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "field", "reason"),
    [
        ({}, "pass4", Reason.FORWARDED),
        ({"custom_rules4": True}, "pass4", Reason.POLICY_RULES),
        ({"custom_rules4": True}, "pass6", Reason.FORWARDED),
        ({"custom_rules6": True}, "pass6", Reason.POLICY_RULES),
        ({"settings": Settings(seed=1, ip_forward_use_pmtu=True)}, "pass4", Reason.SETTING),
        ({"settings": Settings(seed=1, proxy_ndp=True)}, "pass6", Reason.SETTING),
        ({"settings": Settings(seed=1, proxy_ndp=True)}, "pass4", Reason.FORWARDED),
        ({"settings": Settings(seed=1, ipsec=True)}, "pass4", Reason.IPSEC),
        ({"settings": Settings(seed=1, ipsec=True)}, "pass6", Reason.IPSEC),
        ({"settings": Settings(seed=None)}, "pass_multipath4", Reason.SEED_UNKNOWN),
        ({"settings": Settings(seed=None)}, "pass_multipath6", Reason.SEED_UNKNOWN),
        ({"settings": Settings(seed=1)}, "pass_multipath4", Reason.FORWARDED),
    ],
)
def test_what_passes_as_a_whole(parts: dict[str, object], field: str, reason: int) -> None:
    assert getattr(compile_tables(snapshot(**parts), {2}).config, field) == reason


def test_a_table_too_large_passes_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPACITY, "ROUTES4_MAX", 1)
    fits = compile_tables(snapshot(route("10.0.0.0/8", VIA1)), {2})
    too_many = compile_tables(snapshot(route("10.0.0.0/8", VIA1), route("11.0.0.0/8", VIA1)), {2})
    assert (fits.config.pass4, too_many.config.pass4) == (Reason.FORWARDED, Reason.TABLE_FULL)
    assert too_many.config.pass6 == Reason.FORWARDED


@given(st.sets(st.binary(min_size=4, max_size=4), max_size=40), st.binary(min_size=4, max_size=4))
def test_the_bloom_filter_never_misses(own: set[bytes], other: bytes) -> None:
    words = local4_filter(own)

    def hit(address: bytes) -> bool:
        bit = (int.from_bytes(address, "little") * 0x9E3779B1 & 0xFFFFFFFF) >> 23
        return bool(words[bit >> 6] >> (bit & 63) & 1)

    assert all(hit(address) for address in own)
    assert local4_filter(None) == [2**64 - 1] * len(words)
    assert own or not hit(other)


# --- prefixes -------------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16), st.integers(0, 128))
def test_masked(address: bytes, length: int) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    assert masked(address, length) == network.network_address.packed


@pytest.mark.parametrize("text", ["10.0.0.1/8", "x", "10.0.0.0/33", "::1/64", ""])
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Prefix.parse(text)


# --- what a review found --------------------------------------------------------------------------


def test_an_interface_that_strips_tags_is_no_ingress() -> None:
    """An XDP program would take frames of every VLAN for untagged ones."""
    stripping = replace(links()[2], strips_tags=True)
    assert compile_tables(snapshot(links=links(stripping)), {2}).interfaces == {}


def test_two_tags_leave_less_room() -> None:
    """The devmap lets pass one tag more than the device's MTU: xdp_ok_fwd_dev()."""
    double = replace(QINQ, mtu=9000)
    found = {
        link.ifindex: adjacency(hop("10.3.0.1", link.ifindex), links=links(VLAN, double, SERVICE))
        for link in (links()[3], double)
    }
    assert (found[3].mtu, found[5].mtu) == (9000, 8996)


def test_ipv6_goes_by_its_own_mtu() -> None:
    settings = Settings(seed=1, interfaces={3: InterfaceSettings(mtu6=1300)})
    assert adjacency(hop("2001:db8::1", 3), settings=settings).mtu == 1300
    assert adjacency(hop("10.2.0.1", 3), settings=settings).mtu == 9000
