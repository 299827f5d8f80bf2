"""Which route wins a prefix."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.compile.values import (
    DEAD,
    DEFAULT,
    LINKDOWN,
    LOCAL,
    MAIN,
    VIA1,
    VIA2,
    VIA6,
    hop,
    route,
    snapshot,
    target,
)
from xdpecmp.compile import compile_tables, covers, masked
from xdpecmp.model.values import (
    InterfaceSettings,
    NextHop,
    Path,
    Prefix,
    Route,
    RouteKind,
    Settings,
)
from xdpecmp.program.abi import Reason

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
    ("nothing when all are dead", "10.0.0.0/8", [route("10.0.0.0/8", Path(VIA1, 1, DEAD))], None),
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


@given(st.binary(min_size=16, max_size=16), st.integers(0, 128))
def test_masked(address: bytes, length: int) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    assert masked(address, length) == network.network_address.packed


@pytest.mark.parametrize("text", ["10.0.0.1/8", "x", "10.0.0.0/33", "::1/64", ""])
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Prefix.parse(text)
