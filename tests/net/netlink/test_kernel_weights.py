"""`Kernel.set_weights` changes the weights of the kernel's route and nothing else about it."""

from __future__ import annotations

import json

import pytest

from testbed.netns import Namespace
from tests.net.netlink.helpers import find, lose_carrier, only
from xdpecmp.errors import RouteNotFound, RouteNotWeighable
from xdpecmp.netlink import Kernel

pytestmark = pytest.mark.root


def details(router: Namespace, net: str) -> object:
    family = "-6" if ":" in net else "-4"
    return json.loads(router.ip(f"{family} -d -j route show exact {net}"))


@pytest.mark.parametrize(
    ("net", "rest"),
    [
        ("20.0.0.0/8", "nexthop via 10.0.0.2 weight 2 nexthop via 10.0.1.2 weight 3"),
        (
            "20.0.0.0/8",
            "metric 50 proto 186 src 10.0.1.1 tos 0x10 advmss 1300 initcwnd 20"
            " nexthop via 10.0.1.2 weight 9 nexthop via 99.0.0.1 dev eth0 onlink realms 4/5"
            " nexthop via inet6 fd00::2 dev eth0 weight 7",
        ),
        ("20.0.0.0/8", "mtu lock 1400 nexthop via 10.0.0.2 nexthop dev eth1"),
        ("default", "proto 12 nexthop via 10.0.0.2 nexthop via 10.0.1.2"),
        ("fd77::/64", "nexthop via fd01::2 nexthop via fd00::2 nexthop via fd00::3"),
        (
            "fd77::/64",
            "metric 50 proto 186 src fd01::1 pref high advmss 1300 mtu 1400"
            " nexthop via fd01::2 weight 9 nexthop via fd00::2 nexthop via fd00::3 weight 200",
        ),
        ("::/0", "nexthop via fd01::2 nexthop via fd00::2"),
    ],
)
def test_weights_change_and_nothing_else(
    router: Namespace, kernel: Kernel, net: str, rest: str
) -> None:
    router.ip(f"route add {net} {rest}")
    other = "21.0.0.0/8 via 10.0.0.2" if ":" not in net else "fd78::/64 via fd00::2"
    router.ip(f"route add {other}")
    before, all_before = details(router, net), kernel.routes()
    route = only(kernel, net)
    weights = [(5 + 100 * i) % 256 + 1 for i, _ in enumerate(route.paths)]
    kernel.set_weights(route, weights)
    after = only(kernel, net)
    assert [p.weight for p in after.paths] == weights
    assert [p.nexthop for p in after.paths] == [p.nexthop for p in route.paths]
    assert len(kernel.routes()) == len(all_before)
    for path, weight in zip(before[0]["nexthops"], weights, strict=True):  # type: ignore[index]
        path["weight"] = weight
    assert details(router, net) == before
    kernel.set_weights(after, [p.weight for p in route.paths])  # and back again
    assert only(kernel, net) == route


def test_weights_with_carrier_lost(router: Namespace, kernel: Kernel, peer: Namespace) -> None:
    for net, a, b in (("20.0.0.0/8", "10.0.0.2", "10.0.1.2"), ("fd77::/64", "fd00::2", "fd01::2")):
        router.ip(f"route add {net} nexthop via {a} nexthop via {b}")
    lose_carrier(kernel, peer, "20.0.0.0/8", "fd77::/64")
    for net in ("20.0.0.0/8", "fd77::/64"):
        kernel.set_weights(only(kernel, net), [3, 4])
        after = only(kernel, net)
        assert [p.weight for p in after.paths] == [3, 4]
        assert after.paths[0].linkdown


def test_weights_of_the_route_that_is_meant(router: Namespace, kernel: Kernel) -> None:
    hops = "nexthop via 10.0.0.2 nexthop via 10.0.1.2"
    for net, metric in (("20.0.0.0/8", 10), ("20.0.0.0/8", 20), ("20.0.0.0/16", 10)):
        router.ip(f"route add {net} metric {metric} {hops}")
    kernel.set_weights(find(kernel, "20.0.0.0/8")[1], [7, 8])
    assert [[p.weight for p in r.paths] for r in find(kernel, "20.0.0.0/8")] == [[1, 1], [7, 8]]
    assert [p.weight for p in only(kernel, "20.0.0.0/16").paths] == [1, 1]


def test_expiring_ipv6_route_still_expires(router: Namespace, kernel: Kernel) -> None:
    router.ip("route add fd77::/64 expires 1000 nexthop via fd00::2 nexthop via fd01::2")
    shown = details(router, "fd77::/64")
    if "expires" not in str(shown):
        pytest.skip("this kernel or iproute2 takes no lifetime for a multipath route")
    kernel.set_weights(only(kernel, "fd77::/64"), [2, 3])
    assert 900 < details(router, "fd77::/64")[0]["expires"] <= 1000  # type: ignore[index]


def test_weights_that_cannot_be(router: Namespace, kernel: Kernel) -> None:
    router.ip("route add 20.0.0.0/8 nexthop via 10.0.0.2 nexthop via 10.0.1.2")
    router.ip("route add 21.0.0.0/8 via 10.0.0.2")
    router.ip("nexthop add id 5 via 10.0.0.2 dev eth0")
    router.ip("nexthop add id 6 via 10.0.1.2 dev eth1")
    router.ip("nexthop add id 7 group 5/6")
    router.ip("route add 22.0.0.0/8 nhid 7")
    route = only(kernel, "20.0.0.0/8")
    for weights in ([1], [0, 1], [257, 1], [1, 1, 1]):
        with pytest.raises(RouteNotWeighable):
            kernel.set_weights(route, weights)
    with pytest.raises(RouteNotWeighable, match="one next hop"):
        kernel.set_weights(only(kernel, "21.0.0.0/8"), [1])
    with pytest.raises(RouteNotWeighable, match="nexthop object"):
        kernel.set_weights(only(kernel, "22.0.0.0/8"), [1, 2])
    router.ip("route replace 20.0.0.0/8 nexthop via 10.0.0.2 nexthop via 10.0.1.3")
    with pytest.raises(RouteNotFound):
        kernel.set_weights(route, [1, 2])
    router.ip("route del 20.0.0.0/8")
    with pytest.raises(RouteNotFound):
        kernel.set_weights(route, [1, 2])
