"""Nexthop objects, added by `ip` or by raw messages, as `Kernel.nexthops` tells them."""

from __future__ import annotations

import json
import struct
from ipaddress import ip_address

import pytest

from testbed.netns import Namespace
from tests.capabilities import Since, since
from tests.net.netlink.helpers import expect, hop, only
from xdpecmp.model.values import NexthopGroup, RouteKind
from xdpecmp.netlink import Kernel, wire

pytestmark = pytest.mark.root

RTM_NEWNEXTHOP = 104
NHA_ID, NHA_GROUP = 1, 2
CREATE_OR_REPLACE = 0x400 | wire.NLM_F_REPLACE


@pytest.fixture
def paths(router: Namespace) -> None:
    """Next hops 1 and 2 by IPv4 over eth0 and eth1, 3 and 4 by IPv6 likewise."""
    for nhid, via, device in (
        (1, "10.0.0.2", "eth0"),
        (2, "10.0.1.2", "eth1"),
        (3, "fd00::2", "eth0"),
        (4, "fd01::2", "eth1"),
    ):
        router.ip(f"nexthop add id {nhid} via {via} dev {device}")


def set_group(router: Namespace, nhid: int, members: dict[int, int]) -> None:
    """Make or replace a group with 16-bit weights, which iproute2 cannot before 6.13."""
    block = b"".join(struct.pack("=IHH", member, w - 1, 0) for member, w in members.items())
    request = bytes(8) + wire.attribute(NHA_ID, struct.pack("=I", nhid))
    with router.enter(), wire.Socket() as connection:
        request += wire.attribute(NHA_GROUP, block)
        connection.tell(RTM_NEWNEXTHOP, CREATE_OR_REPLACE, request, f"nexthop group {nhid}")


def shown_buckets(router: Namespace, nhid: int) -> list[int]:
    """The members' ids in the order of the buckets, as iproute2 has them."""
    shown = json.loads(router.ip(f"-j nexthop bucket show id {nhid}"))
    return [b["bucket"]["nhid"] for b in sorted(shown, key=lambda b: b["bucket"]["index"])]


@pytest.mark.parametrize(
    ("arguments", "kind", "via", "flags"),
    [
        ("via 10.0.0.2 dev eth0", RouteKind.UNICAST, "10.0.0.2", 0),
        ("via fd00::2 dev eth0", RouteKind.UNICAST, "fd00::2", 0),
        ("via 99.0.0.1 dev eth0 onlink", RouteKind.UNICAST, "99.0.0.1", 4),
        ("dev eth0", RouteKind.UNICAST, "", 0),
        ("blackhole", RouteKind.SPECIAL, None, 0),
        ("via 10.0.0.2 fdb", RouteKind.UNSUPPORTED, None, 0),
    ],
)
def test_single(
    router: Namespace,
    kernel: Kernel,
    arguments: str,
    kind: RouteKind,
    via: str | None,
    flags: int,
) -> None:
    nhid = 0xFFFFFFF0
    router.ip(f"nexthop add id {nhid} {arguments}")
    eth0 = router.ifindex("eth0")
    members = () if via is None else (hop(via, eth0, flags=flags),)
    assert kernel.nexthops() == {nhid: NexthopGroup(nhid, kind, members, single=True)}


def test_without_any(kernel: Kernel) -> None:
    assert kernel.nexthops() == {}
    assert kernel.snapshot().nexthop_groups == {}


@pytest.mark.usefixtures("paths")
def test_group_keeps_order_and_weights(router: Namespace, kernel: Kernel) -> None:
    eth0, eth1 = router.ifindex("eth0"), router.ifindex("eth1")
    router.ip("nexthop add id 7 group 4,255/1,3/2")
    assert kernel.nexthops()[7] == NexthopGroup(
        7,
        RouteKind.UNICAST,
        (hop("fd01::2", eth1, 255), hop("10.0.0.2", eth0, 3), hop("10.0.1.2", eth1)),
    )


@since(Since.WIDE_WEIGHTS)
@pytest.mark.usefixtures("paths")
def test_weights_of_16_bits(router: Namespace, kernel: Kernel) -> None:
    eth0, eth1 = router.ifindex("eth0"), router.ifindex("eth1")
    set_group(router, 7, {2: 65535, 1: 257})
    members = (hop("10.0.1.2", eth1, 65535), hop("10.0.0.2", eth0, 257))
    assert kernel.nexthops()[7].members == members
    router.ip("route add 20.0.0.0/8 nhid 7")
    set_group(router, 7, {2: 512, 1: 1})
    assert [m.weight for m in kernel.nexthops()[7].members] == [512, 1]


@pytest.mark.usefixtures("paths")
def test_a_blackhole_can_be_a_group(router: Namespace, kernel: Kernel) -> None:
    router.ip("nexthop add id 5 blackhole")
    router.ip("nexthop add id 7 group 5")
    router.ip("route add 20.0.0.0/8 nhid 7")
    assert kernel.nexthops()[7] == NexthopGroup(7, RouteKind.SPECIAL, ())
    assert only(kernel, "20.0.0.0/8").kind is RouteKind.SPECIAL


@pytest.mark.usefixtures("paths")
def test_groups_that_are_not_carried_out(router: Namespace, kernel: Kernel) -> None:
    router.ip("nexthop add id 5 via 10.0.0.2 fdb")
    router.ip("nexthop add id 6 via 10.0.0.2 dev eth0 encap ip id 5 dst 192.0.2.1")
    router.ip("nexthop add id 7 group 5 fdb")
    router.ip("nexthop add id 8 group 1/6")
    router.ip("nexthop add id 9 group 1/6 type resilient buckets 8")
    found = kernel.nexthops()
    assert {found[i].kind for i in (5, 6, 7, 8, 9)} == {RouteKind.UNSUPPORTED}
    assert found[1].kind is RouteKind.UNICAST


@pytest.mark.usefixtures("paths")
def test_resilient_group(router: Namespace, kernel: Kernel) -> None:
    router.ip("nexthop add id 7 group 2,3/1 type resilient buckets 64 idle_timer 600")
    router.ip(  # several datagrams
        "nexthop add id 8 group 3/4 type resilient buckets 3000 idle_timer 60 unbalanced_timer 300"
    )
    groups = kernel.nexthops()
    assert [(groups[i].idle_s, groups[i].unbalanced_s) for i in (7, 8)] == [(600, 0), (60, 300)]
    assert (groups[7].resilient, groups[7].single) == (True, False)
    assert [m.weight for m in groups[7].members] == [3, 1]
    for nhid, ids, count in ((7, (2, 1), 64), (8, (3, 4), 3000)):
        held = [ids[place] for place in groups[nhid].buckets]
        assert held == shown_buckets(router, nhid)
        assert len(held) == count
    assert groups[7].buckets.count(0) == 48
    # Reversed order: the buckets stay with their members.
    router.ip("nexthop replace id 7 group 1/2,3 type resilient buckets 64 idle_timer 600")
    after = kernel.nexthops()[7]
    assert after.buckets == tuple(1 - place for place in groups[7].buckets)


@pytest.mark.usefixtures("paths")
def test_a_removed_member(router: Namespace, kernel: Kernel) -> None:
    router.ip("nexthop add id 7 group 1/2,5/4")
    router.ip("nexthop add id 8 group 2/1,3 type resilient buckets 16 idle_timer 600")
    before = kernel.nexthops()
    with kernel.monitor() as monitor:
        router.ip("nexthop del id 1")
        expect(monitor, lambda changes: len(changes.nexthop_updates) == 3)
    after = kernel.nexthops()
    assert after[7].members == before[7].members[1:]
    assert after[8].members == before[8].members[:1]
    assert after[8].buckets == (0,) * 16
    assert set(after) == {2, 3, 4, 7, 8}
    router.ip("nexthop del id 2")  # the last member takes the group with it
    assert set(kernel.nexthops()) == {3, 4, 7}


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("by", ["carrier", "admin"])
def test_a_link_down_shrinks_groups(
    router: Namespace, kernel: Kernel, peer: Namespace, by: str
) -> None:
    """The kernel says nothing of the groups: the link event has to do."""
    router.ip("nexthop add id 7 group 3/2,5/1")
    router.ip("nexthop add id 8 group 1/4 type resilient buckets 8 idle_timer 600")
    router.ip("nexthop add id 9 group 1/3")
    before = kernel.nexthops()
    with kernel.monitor() as monitor:
        if by == "carrier":
            peer.ip("link set peer0 down")
        else:
            router.ip("link set eth0 down")
        # Of a carrier there is news twice: when it goes and, up to 1 s later, when the FIB hears
        # of it. Whoever reads at every piece of news, and only then, gets there.
        expect(monitor, lambda changes: changes.nexthops)
        while kernel.nexthops() == before:
            expect(monitor, lambda changes: changes.nexthops)
    after = kernel.nexthops()
    assert set(after) == {2, 4, 7, 8}
    assert after[7].members == before[7].members[1:2]
    assert after[8].members == before[8].members[1:]
    assert after[8].buckets == (0,) * 8


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("compat", [1, 0])
@pytest.mark.parametrize(
    ("net", "nhid"),
    [("20.0.0.0/8", 1), ("20.0.0.0/8", 3), ("default", 7), ("20.0.0.0/8", 8), ("fd77::/64", 4),
     ("fd77::/64", 9), ("::/0", 9)],
)  # fmt: skip
def test_routes(router: Namespace, kernel: Kernel, net: str, nhid: int, compat: int) -> None:
    """Of either family, over next hops of either, whatever the message shows of them."""
    router.sysctl("net.ipv4.nexthop_compat_mode", compat)
    router.ip("nexthop add id 7 group 1,200/2")
    router.ip("nexthop add id 8 group 1/4")
    router.ip("nexthop add id 9 group 3/4 type resilient buckets 8")
    router.ip(f"route add {net} nhid {nhid} proto 186")
    route = only(kernel, net)
    assert (route.kind, route.nhid, route.paths) == (RouteKind.UNICAST, nhid, ())
    assert route.protocol == 186
    snapshot = kernel.snapshot()
    assert route in snapshot.routes
    assert snapshot.nexthop_groups == kernel.nexthops()
    assert snapshot.nexthop_groups[nhid].kind is RouteKind.UNICAST
    assert not any(r.nhid for r in snapshot.routes if r != route)


@pytest.mark.usefixtures("paths")
def test_an_ipv4_route_over_an_ipv6_next_hop(router: Namespace, kernel: Kernel) -> None:
    router.ip("route add 20.0.0.0/8 nhid 3")
    (shown,) = json.loads(router.ip("-j route get 20.0.0.1"))
    (path,) = kernel.nexthops()[3].members
    assert ip_address(shown["via"]["host"]).packed == path.nexthop.via
    assert router.ifindex(shown["dev"]) == path.nexthop.ifindex
