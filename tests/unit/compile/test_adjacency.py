"""What a next hop says: whether it can be used, and what the rewrite needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.compile.values import (
    FAILED,
    MAC2,
    MAIN,
    QINQ,
    REACHABLE,
    SERVICE,
    STALE,
    VIA2,
    VLAN,
    hop,
    links,
    neighbours,
    route,
    snapshot,
    target,
)
from xdpecmp.compile import Adjacency, Tag, compile_tables
from xdpecmp.model.values import InterfaceSettings, Link, Neighbour, NextHop, Route, Settings
from xdpecmp.program.abi import Reason

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
        reason=0, device=3, mac=MAC2, device_mac=MAC2, mtu=9000, takes_anything=False
    )


@pytest.mark.parametrize(
    ("link", "tags"), [(VLAN, (Tag(0x8100, 100),)), (QINQ, (Tag(0x88A8, 7), Tag(0x8100, 9)))]
)
def test_a_vlan_device_is_a_device_and_tags(link: Link, tags: tuple[Tag, ...]) -> None:
    nexthop = hop("10.3.0.1", link.ifindex)
    found = adjacency(
        nexthop,
        links=links(VLAN, QINQ, SERVICE),
        neighbours=neighbours(("10.3.0.1", link.ifindex, REACHABLE)),
    )
    assert (found.reason, found.device, found.tags) == (Reason.FORWARDED, 3, tags)


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


@pytest.mark.parametrize("link", [VLAN, QINQ, SERVICE])
def test_a_tag_that_carries_a_priority(link: Link) -> None:
    """On whichever of the VLAN devices it is set; those beside it are not concerned."""
    changed = replace(link, sets_priority=True)
    for via in (VLAN, QINQ, SERVICE):
        known = neighbours(("10.3.0.1", via.ifindex, REACHABLE))
        every = {**links(VLAN, QINQ, SERVICE), changed.ifindex: changed}
        reason = adjacency(hop("10.3.0.1", via.ifindex), links=every, neighbours=known).reason
        concerned = via is link or (via is QINQ and link is SERVICE)
        assert reason == (Reason.ROUTE_UNSUPPORTED if concerned else Reason.FORWARDED)
