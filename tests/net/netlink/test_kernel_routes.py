"""Routes of every kind, added by `ip`, as `Kernel.routes` tells them."""

from __future__ import annotations

import json

import pytest

from testbed.netns import Namespace
from tests.net.netlink.helpers import find, hop, lose_carrier, only
from xdpecmp.model.values import Prefix, Route, RouteKind
from xdpecmp.netlink import Kernel

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("arguments", "prefix", "kind"),
    [
        ("blackhole 20.0.0.0/8", "20.0.0.0/8", RouteKind.SPECIAL),
        ("unreachable 20.0.0.0/8", "20.0.0.0/8", RouteKind.SPECIAL),
        ("prohibit 20.0.0.0/8", "20.0.0.0/8", RouteKind.SPECIAL),
        ("broadcast 20.0.0.0/8 dev eth0", "20.0.0.0/8", RouteKind.SPECIAL),
        ("multicast 225.0.0.0/8 dev eth0", "225.0.0.0/8", RouteKind.SPECIAL),
        ("local 20.0.0.0/8 dev lo", "20.0.0.0/8", RouteKind.LOCAL),
        ("anycast fd77::/64 dev eth0", "fd77::/64", RouteKind.LOCAL),
        ("throw 20.0.0.0/8", "20.0.0.0/8", RouteKind.UNSUPPORTED),
        ("20.0.0.0/8 via 10.0.0.2 mtu 1400", "20.0.0.0/8", RouteKind.UNSUPPORTED),
        ("20.0.0.0/8 via 10.0.0.2 mtu lock 1400", "20.0.0.0/8", RouteKind.UNSUPPORTED),
        ("20.0.0.0/8 via 10.0.0.2 advmss 1400", "20.0.0.0/8", RouteKind.UNICAST),
        ("20.0.0.0/8 nhid 5", "20.0.0.0/8", RouteKind.UNICAST),
        ("fd77::/64 nhid 6", "fd77::/64", RouteKind.UNICAST),
        ("20.0.0.0/8 nhid 7 mtu 1400", "20.0.0.0/8", RouteKind.UNSUPPORTED),
        ("20.0.0.0/8 nhid 8", "20.0.0.0/8", RouteKind.SPECIAL),
        ("fd77::/64 nhid 9", "fd77::/64", RouteKind.SPECIAL),
        ("blackhole fd77::/64", "fd77::/64", RouteKind.SPECIAL),
        ("unreachable fd77::/64", "fd77::/64", RouteKind.SPECIAL),
        ("prohibit fd77::/64", "fd77::/64", RouteKind.SPECIAL),
        ("local fd77::1 dev lo", "fd77::1", RouteKind.LOCAL),
        ("fd77::/64 via fd00::2 mtu 1400", "fd77::/64", RouteKind.UNSUPPORTED),
        ("fd77::/64 via fd00::2", "fd77::/64", RouteKind.UNICAST),
        ("fd77::/64 via fd00::2 expires 1000", "fd77::/64", RouteKind.UNSUPPORTED),
    ],
)
def test_kinds(
    router: Namespace, kernel: Kernel, arguments: str, prefix: str, kind: RouteKind
) -> None:
    router.ip("nexthop add id 5 via 10.0.0.2 dev eth0")
    router.ip("nexthop add id 6 via fd00::2 dev eth0")
    router.ip("nexthop add id 7 group 5")
    router.ip("nexthop add id 8 blackhole")
    router.ip("nexthop add id 9 blackhole")
    router.ip("-6 nexthop replace id 9 blackhole")
    router.ip(f"route add {arguments}")
    assert only(kernel, prefix).kind is kind


def test_addresses_make_the_routes_that_the_kernel_makes(router: Namespace, kernel: Kernel) -> None:
    eth0 = router.ifindex("eth0")
    connected = only(kernel, "10.0.0.0/24")
    assert (connected.kind, connected.table) == (RouteKind.UNICAST, 254)
    assert connected.paths == (hop("", eth0),)
    assert only(kernel, "10.0.0.1").kind is RouteKind.LOCAL
    assert only(kernel, "10.0.0.255").kind is RouteKind.SPECIAL
    assert only(kernel, "fd00::1").kind is RouteKind.LOCAL
    assert only(kernel, "fd00::/64").paths == (hop("", eth0),)
    assert {r.kind for r in find(kernel, "ff00::/8")} == {RouteKind.SPECIAL}
    router.sysctl("net.ipv6.conf.all.forwarding", 1)  # gives the subnet-router anycast address
    assert only(kernel, "fd00::").kind is RouteKind.LOCAL


def test_fields(router: Namespace, kernel: Kernel) -> None:
    router.ip("route add 20.0.0.0/8 tos 0x10 via 10.0.0.2 metric 7 proto 186 scope site")
    eth0 = router.ifindex("eth0")
    assert only(kernel, "20.0.0.0/8") == Route(
        prefix=Prefix.parse("20.0.0.0/8"),
        table=254,
        metric=7,
        kind=RouteKind.UNICAST,
        paths=(hop("10.0.0.2", eth0),),
        protocol=186,
        scope=200,
        tos=0x10,
    )


@pytest.mark.parametrize(("net", "first", "second"), [
    ("20.0.0.0/8", "10.0.0.2", "10.0.1.2"),
    ("default", "10.0.0.2", "10.0.1.2"),
    ("fd77::/64", "fd00::2", "fd01::2"),
    ("::/0", "fd00::2", "fd01::2"),
])  # fmt: skip
def test_multipath_keeps_the_kernels_order(
    router: Namespace, kernel: Kernel, net: str, first: str, second: str
) -> None:
    eth0, eth1 = router.ifindex("eth0"), router.ifindex("eth1")
    router.ip(
        f"route add {net} nexthop via {second} weight 256"
        f" nexthop via {first} weight 3 nexthop via {second[:-1]}9 weight 1"
    )
    route = only(kernel, net)
    assert route.paths == (
        hop(second, eth1, 256),
        hop(first, eth0, 3),
        hop(f"{second[:-1]}9", eth1, 1),
    )
    family = "-4" if route.prefix.family == 4 else "-6"
    (shown,) = json.loads(router.ip(f"{family} -j route show exact {net}"))
    assert [n["gateway"] for n in shown["nexthops"]] == [second, first, f"{second[:-1]}9"]


def test_onlink_and_an_ipv6_gateway_for_ipv4(router: Namespace, kernel: Kernel) -> None:
    eth0, eth1 = router.ifindex("eth0"), router.ifindex("eth1")
    router.ip("route add 20.0.0.0/8 via 99.0.0.1 dev eth0 onlink")
    router.ip("route add 21.0.0.0/8 via inet6 fe80::9 dev eth1")
    router.ip(
        "route add 22.0.0.0/8 nexthop via inet6 fd00::2 dev eth0"
        " nexthop via 99.0.0.1 dev eth1 onlink"
    )
    assert only(kernel, "20.0.0.0/8").paths == (hop("99.0.0.1", eth0, flags=4),)
    assert only(kernel, "21.0.0.0/8").paths == (hop("fe80::9", eth1),)
    mixed = only(kernel, "22.0.0.0/8")
    assert mixed.paths == (hop("fd00::2", eth0), hop("99.0.0.1", eth1, flags=4))
    assert mixed.kind is RouteKind.UNICAST


def test_the_best_metric_comes_first(router: Namespace, kernel: Kernel) -> None:
    for net, gateway in (("20.0.0.0/8", "10.0.0.{}"), ("fd77::/64", "fd00::{}")):
        for metric in (30, 10, 20):
            router.ip(f"route add {net} via {gateway.format(metric)} metric {metric}")
        assert [r.metric for r in find(kernel, net)] == [10, 20, 30]


def test_other_tables_are_left_out(router: Namespace, kernel: Kernel) -> None:
    for table in (100, 1000):
        router.ip(f"route add 20.0.0.0/8 via 10.0.0.2 table {table}")
        router.ip(f"route add fd77::/64 via fd00::2 table {table}")
    router.ip("route add 21.0.0.0/8 via 10.0.0.2 table default")
    assert not find(kernel, "20.0.0.0/8")
    assert not find(kernel, "fd77::/64")
    assert only(kernel, "21.0.0.0/8").table == 253


def test_cached_routes_are_left_out(router: Namespace, kernel: Kernel, peer: Namespace) -> None:
    router.ip("route add fd77::/64 via fd00::2")
    before = kernel.routes()
    router.sysctl("net.ipv6.conf.all.forwarding", 0)
    router.run("ping", "-c1", "-W0.1", "fd77::1", check=False)
    assert set(before) >= set(kernel.routes())


def test_lost_carrier_shows_in_the_paths(
    router: Namespace, kernel: Kernel, peer: Namespace
) -> None:
    router.ip("route add 20.0.0.0/8 nexthop via 10.0.0.2 nexthop via 10.0.1.2")
    lose_carrier(kernel, peer, "20.0.0.0/8")
    first, second = only(kernel, "20.0.0.0/8").paths
    assert (first.linkdown, first.dead) == (True, False)
    assert (second.linkdown, second.dead) == (False, False)
    router.sysctl("net.ipv4.conf.all.ignore_routes_with_linkdown", 1)
    first, _ = only(kernel, "20.0.0.0/8").paths
    assert first.dead


def test_many_routes(router: Namespace, kernel: Kernel) -> None:
    """More than one datagram, of both families, each route once and in order."""
    batch = [f"route add 20.{i >> 8}.{i & 255}.0/24 via 10.0.0.{2 + i % 9}" for i in range(3000)]
    batch += [f"route add fd77:{i:x}::/32 via fd00::{2 + i % 9}" for i in range(1, 3000)]
    router.run("ip", "-batch", "-", input="\n".join(batch))
    found = [r.prefix for r in kernel.routes()]
    four = [p for p in found if p.address[0] == 20]
    assert four == [Prefix(bytes((20, i >> 8, i & 255, 0)), 24) for i in range(3000)]
    assert sum(p.address[:2] == b"\xfd\x77" for p in found) == len({*batch}) - 3000
