"""Which of Linux's filters bear on what is forwarded between which interfaces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.compile.values import (
    MAC1,
    QINQ,
    REACHABLE,
    SERVICE,
    VIA2,
    VLAN,
    hop,
    links,
    neighbours,
    route,
    snapshot,
)
from xdpecmp.compile import Doubts, bearing, compile_tables
from xdpecmp.compile.change import compile_updates
from xdpecmp.model.options import Options
from xdpecmp.model.routetable import RouteTable
from xdpecmp.model.values import EGRESS, INGRESS, Filter, Filters, Link, RouteUpdate
from xdpecmp.program.abi import Reason

EVERYWHERE = Filter("chain")
BRIDGE = Link(7, "br0", MAC1, 1500, True, "bridge")
PORT = Link(8, "port", MAC1, 1500, True, master=7)
BOND = Link(9, "bond0", MAC1, 1500, True, "bond")
SLAVE = Link(10, "slave", MAC1, 1500, True, master=9)
OVER_BOND = Link(11, "bond0.5", MAC1, 1500, True, "vlan", lower=9, vlan_id=5, vlan_protocol=0x8100)
ALL = links(VLAN, QINQ, SERVICE, BRIDGE, PORT, BOND, SLAVE, OVER_BOND)


def on(ifindex: int, side: str) -> Filters:
    return Filters((Filter("filter", ifindex=ifindex, side=side),))


@pytest.mark.parametrize(
    ("attached", "ifindex"),
    [
        (3, 3),
        (3, 4),  # its VLAN
        (3, 5),  # a VLAN in a VLAN
        (8, 7),  # a port's bridge
        (10, 9),  # a link's bond
        (10, 11),  # a VLAN over that
        (9, 10),  # a bond's link, where a native program runs
    ],
)
def test_ingress(attached: int, ifindex: int) -> None:
    assert bearing(on(ifindex, INGRESS), ALL, [attached], [2]).ipv4 == ("filter",)
    assert bearing(on(ifindex, EGRESS), ALL, [attached], [2]).ipv4 == ()


@pytest.mark.parametrize(
    ("egress", "ifindex"), [(3, 3), (4, 3), (5, 3), (5, 6), (7, 8), (9, 10), (11, 10)]
)
def test_egress(egress: int, ifindex: int) -> None:
    """Down to where the frame leaves."""
    assert bearing(on(ifindex, EGRESS), ALL, [2], [egress]).ipv6 == ("filter",)
    assert bearing(on(ifindex, INGRESS), ALL, [2], [egress]).ipv6 == ()


@pytest.mark.parametrize(("attached", "egress"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("side", [INGRESS, EGRESS])
def test_elsewhere(attached: int, egress: int, side: str) -> None:
    assert not bearing(on(10, side), ALL, [attached], [egress]).all()
    assert not bearing(on(6, EGRESS), ALL, [attached], [egress]).all()  # a VLAN, from below


@pytest.mark.parametrize(
    ("attached", "egress", "counts"), [(2, 3, False), (7, 3, True), (2, 7, True), (8, 3, True)]
)
def test_what_only_sees_bridges(attached: int, egress: int, counts: bool) -> None:
    filters = Filters((Filter("ebtables", bridged=True),))
    assert bool(bearing(filters, ALL, [attached], [egress]).ipv4) == counts


def test_what_could_not_be_read_counts() -> None:
    found = bearing(Filters(unread=("nftables",)), ALL, [2], [3])
    assert found.ipv4 == found.ipv6 == found.all() == ("nftables",)


def passes(filters: Filters, options: Options = Options()) -> tuple[int, int]:  # noqa: B008
    config = compile_tables(
        snapshot(route("10.0.0.0/8", VIA2), filters=filters), {2}, options
    ).config
    return config.pass4, config.pass6


def test_a_family_passes_as_a_whole() -> None:
    assert passes(Filters((EVERYWHERE,))) == (Reason.FIREWALL, Reason.FIREWALL)
    assert passes(Filters((EVERYWHERE._replace(ipv6=False),))) == (Reason.FIREWALL, 0)
    assert passes(Filters((EVERYWHERE._replace(ipv4=False),))) == (0, Reason.FIREWALL)
    assert passes(on(3, EGRESS)) == (Reason.FIREWALL, Reason.FIREWALL)
    assert passes(on(2, EGRESS)) == (0, 0)  # nothing leaves there


def test_it_is_bypassed_where_that_is_asked_for() -> None:
    options = Options(bypass_firewall=True)
    assert passes(Filters((EVERYWHERE,)), options) == (0, 0)
    world = snapshot(route("10.0.0.0/8", VIA2), filters=Filters((EVERYWHERE,), ("IPVS",)))
    tables = compile_tables(world, {2}, options)
    assert tables.findings.ipv4 == ("chain", "IPVS")
    assert tables.guarded == frozenset()


def test_another_reason_to_pass_goes_first() -> None:
    world = snapshot(custom_rules4=True, filters=Filters((EVERYWHERE,)))
    config = compile_tables(world, {2}).config
    assert (config.pass4, config.pass6) == (Reason.POLICY_RULES, Reason.FIREWALL)


@pytest.mark.parametrize("bypass", [False, True])
def test_a_route_followed_by_itself_to_a_device_with_a_filter(bypass: bool) -> None:
    """The first one there: what passes as a whole is not compiled then."""
    world = snapshot(
        routes=RouteTable.of((route("10.0.0.0/8", hop("10.1.0.1")),)),
        filters=on(3, EGRESS),
        neighbours=neighbours(("10.2.0.1", 4, REACHABLE)),
        links=links(VLAN),
    )
    tables = compile_tables(world, {2}, Options(bypass_firewall=bypass))
    assert tables.config.pass4 == Reason.FORWARDED
    over_vlan = hop("10.2.0.1", 4)
    update = RouteUpdate(route("11.0.0.0/8", over_vlan), fresh=True)
    change = compile_updates(world, tables, [update], Doubts()).tables
    assert change is not None
    wanted = Reason.FORWARDED if bypass else Reason.FIREWALL
    assert change.nexthops[over_vlan].reason == wanted


def test_options_keep_it() -> None:
    options = Options().updated(bypass_firewall=True)
    assert Options.parse(options.dump()) == options
    assert options.updated(bypass_firewall=None).bypass_firewall
    assert not replace(options, bypass_firewall=False).bypass_firewall
