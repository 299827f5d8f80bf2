"""A seed of our own is used only where no part of a flow can go by Linux's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import pytest

from tests.unit.compile.values import MAC1, MAC2, REACHABLE, VLAN, hop, ip, route
from xdpecmp.compile import Tables, compile_tables, ownseed
from xdpecmp.compile.parting import Cause, Parting
from xdpecmp.model.options import Options
from xdpecmp.model.values import (
    InterfaceSettings,
    Link,
    Neighbour,
    NexthopGroup,
    Path,
    RouteKind,
    Settings,
    Snapshot,
)
from xdpecmp.program.abi import CAPACITY, INTERFACE_FLAGS, Reason

IN, LEFT, RIGHT = 2, 3, 4
NAMES = {IN: "eth0", LEFT: "eth1", RIGHT: "eth2"}
HOPS = {4: ("10.3.0.2", "10.4.0.2"), 6: ("2001:db8:3::2", "2001:db8:4::2")}
PREFIX = {4: "192.0.2.80/32", 6: "2001:db8:80::80/128"}
BASE = InterfaceSettings(forwarding4=True, forwarding6=True, mtu6=1500)


class Router:
    """Three NICs, all attached, with a multipath route by two of them: nothing parts a flow."""

    def __init__(self) -> None:
        self.links = {1: Link(1, "lo", b"", 65536, True)}
        for ifindex, name in NAMES.items():
            mac = bytes([2, 0, 0, 0, 0, ifindex])
            self.links[ifindex] = Link(
                ifindex, name, mac, 1500, True, xdp_prog_id=7, xdp_mode="native"
            )
        self.interfaces = dict.fromkeys([1, *NAMES], BASE)
        self.routes = [
            route(PREFIX[family], *self._paths(family), metric=1024) for family in (4, 6)
        ]
        self.routes += [route("fe80::/64", hop("", ifindex), metric=256) for ifindex in (IN, LEFT)]
        self.attached = set(NAMES)
        self.settings: dict[str, Any] = {}
        self.groups: dict[int, NexthopGroup] = {}
        self.deep = True

    @staticmethod
    def _paths(family: int) -> list[Path]:
        left, right = HOPS[family]
        return [Path(hop(left, LEFT)), Path(hop(right, RIGHT))]

    def link(self, ifindex: int, **changes: Any) -> Self:
        known = self.links.get(ifindex, Link(ifindex, f"dev{ifindex}", MAC1, 1500, True))
        self.links[ifindex] = replace(known, **changes)
        self.interfaces.setdefault(ifindex, BASE)
        return self

    def interface(self, ifindex: int, **changes: Any) -> Self:
        self.interfaces[ifindex] = replace(self.interfaces.get(ifindex, BASE), **changes)
        return self

    def compile(self) -> Tables:
        hops = [
            (ip(via), ifindex)
            for pair in HOPS.values()
            for via, ifindex in zip(pair, (LEFT, RIGHT), strict=True)
        ]
        snapshot = Snapshot(
            links=self.links,
            neighbours={key: Neighbour(*key, MAC2, REACHABLE) for key in hops},
            routes=tuple(self.routes),
            settings=Settings(seed=None, interfaces=self.interfaces, **self.settings),
            nexthop_groups=self.groups,
        )
        return compile_tables(snapshot, self.attached, Options(own_seed=5), self.deep)

    def parting(self, family: int) -> tuple[Parting, ...]:
        config = self.compile().config
        found = config.parting4 if family == 4 else config.parting6
        passes = config.pass_multipath4 if family == 4 else config.pass_multipath6
        assert passes == (Reason.OWN_SEED if found else Reason.FORWARDED)
        return found


Change = Callable[[Router], object]


def link(ifindex: int, **changes: Any) -> Change:
    return lambda router: router.link(ifindex, **changes)


def interface(ifindex: int, **changes: Any) -> Change:
    return lambda router: router.interface(ifindex, **changes)


def settings(**changes: Any) -> Change:
    return lambda router: router.settings.update(changes)


def more_routes(*routes: Any) -> Change:
    return lambda router: router.routes.extend(routes)


def jumbo(router: Router) -> None:
    router.link(IN, mtu=9000)
    router.interface(IN, mtu6=9000)


def unattached(router: Router) -> None:
    router.attached -= {LEFT, RIGHT}


def resilient(router: Router) -> None:
    """Where rp_filter is strict."""
    members = tuple(
        Path(hop(via, ifindex)) for via, ifindex in zip(HOPS[4], (LEFT, RIGHT), strict=True)
    )
    router.groups[1] = NexthopGroup(1, RouteKind.UNICAST, members, resilient=True, buckets=(0, 1))
    router.routes[0] = route(PREFIX[4], nhid=1)
    router.interface(IN, rp_filter=1)


def wide_group(router: Router) -> None:
    router.routes[0] = route(PREFIX[4], *(Path(hop(f"10.3.0.{i}", LEFT)) for i in range(2, 20)))
    router.interface(IN, rp_filter=1)


def no_deep(router: Router) -> None:
    router.settings["policy6"] = 1
    router.deep = False


def vlan_over(ifindex: int, **changes: Any) -> Change:
    def change(router: Router) -> None:
        router.links[9] = replace(VLAN, ifindex=9, lower=ifindex, **changes)
        router.interfaces[9] = BASE

    return change


def tunnel(router: Router) -> None:
    """A route by a device without an Ethernet header, that forwards nothing itself."""
    router.links[9] = Link(9, "gre1", b"", 1500, True, kind="gre")
    router.routes.append(route("203.0.113.0/24", hop("", 9)))


BOTH: Mapping[str, tuple[Change, Cause, tuple[int, ...]]] = {
    "not attached": (unattached, Cause.NOT_ATTACHED, (LEFT, RIGHT)),
    "another that forwards": (link(9), Cause.NOT_ATTACHED, (9,)),
    "tunnel": (link(9, kind="gre", mac=b""), Cause.NOT_ATTACHED, (9,)),
    "bridge": (link(9, kind="bridge"), Cause.NOT_ATTACHED, (9,)),
    "in a VRF": (link(IN, master=99), Cause.NOT_ATTACHED, (IN,)),
    "VLAN over another": (vlan_over(77), Cause.NOT_ATTACHED, (9,)),
    "VLAN in a VRF": (vlan_over(IN, master=99), Cause.NOT_ATTACHED, (9,)),
    "strips tags": (link(IN, strips_tags=True), Cause.NOT_ATTACHED, (IN,)),
    "no program yet": (link(IN, xdp_mode=""), Cause.INGRESS_KIND, (IN,)),
    "veth, generic": (link(IN, kind="veth", xdp_mode="generic"), Cause.INGRESS_KIND, (IN,)),
    "veth, native": (link(IN, kind="veth"), Cause.INGRESS_KIND, (IN,)),
    "tap": (link(IN, kind="tun", xdp_mode="generic"), Cause.INGRESS_KIND, (IN,)),
    "bond": (link(IN, kind="bond", xdp_mode="generic"), Cause.NOT_ATTACHED, (IN,)),
    "macvlan": (link(IN, kind="macvlan", xdp_mode="generic"), Cause.NOT_ATTACHED, (IN,)),
    "something new": (link(IN, kind="newkind"), Cause.NOT_ATTACHED, (IN,)),
    "reassembly": (settings(defragments4=True, defragments6=True), Cause.FRAGMENTS, (0,)),
    "redirects accepted": (
        interface(LEFT, learns_redirects4=True, learns_redirects6=True),
        Cause.CANNOT_SEND,
        (LEFT,),
    ),
    "NICs, unfinished checksums": (
        link(IN, xdp_mode="generic", offloads_received=True),
        Cause.CHECKSUMS,
        (IN,),
    ),
    "LRO": (link(IN, merges={"rx-lro"}), Cause.MERGES, (IN,)),
    "LRO, generic": (
        link(LEFT, merges={"rx-lro"}, xdp_mode="generic"),
        Cause.MERGES,
        (LEFT,),
    ),
    "GRO in hardware, generic": (
        link(LEFT, merges={"rx-gro-hw"}, xdp_mode="generic"),
        Cause.MERGES,
        (LEFT,),
    ),
    "local ports": (link(IN, has_local_ports=True), Cause.CHECKSUMS, (IN,)),
    "jumbo": (jumbo, Cause.MTU, (LEFT, RIGHT)),
    "IPv6's own MTU, and that of IPv4 by IPv6 gateways": (
        interface(LEFT, mtu6=1400),
        Cause.MTU,
        (LEFT,),
    ),
    "narrow": (link(LEFT, mtu=1400), Cause.MTU, (LEFT,)),
    "narrow where it comes in": (link(IN, mtu=1400), Cause.MTU, (IN,)),
    "narrow VLAN": (vlan_over(IN, mtu=1496), Cause.MTU, (9,)),
    "egress without an Ethernet header": (tunnel, Cause.EGRESS_KIND, (9,)),
    "no XDP frames": (link(LEFT, can_transmit_xdp=False), Cause.CANNOT_SEND, (LEFT,)),
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", BOTH)
def test_both_families_pass(name: str, family: int) -> None:
    change, cause, devices = BOTH[name]
    router = Router()
    change(router)
    assert router.parting(family) == tuple(Parting(cause, device) for device in devices)


ONE: Mapping[str, tuple[int, Change, Cause, tuple[int, ...]]] = {
    "IPv4 policy 2": (4, settings(policy4=2), Cause.TUNNELS, (0,)),
    "IPv6 policy 2": (6, settings(policy6=2), Cause.TUNNELS, (0,)),
    "inner fields": (4, settings(policy4=3, fields4=0x47), Cause.TUNNELS, (0,)),
    "inner fields, IPv6": (6, settings(policy6=3, fields6=0x47), Cause.TUNNELS, (0,)),
    "no program for extension headers": (6, no_deep, Cause.NO_WALK, (0,)),
    "IPv6's own MTU": (6, interface(IN, mtu6=1400), Cause.MTU, (IN,)),
    "IPv4 forwards elsewhere": (
        4,
        lambda router: (router.link(9), router.interface(9, forwarding6=False)),
        Cause.NOT_ATTACHED,
        (9,),
    ),
    "route for Linux": (
        4,
        more_routes(route("10.0.0.0/8", hop("10.3.0.2", LEFT), kind=RouteKind.UNSUPPORTED)),
        Cause.ROUTE,
        (0,),
    ),
    "route with a TOS": (
        4,
        more_routes(route("10.0.0.0/8", hop("10.3.0.2", LEFT), tos=8)),
        Cause.ROUTE,
        (0,),
    ),
    "route for Linux, IPv6": (
        6,
        more_routes(route("2001:db8:f::/48", hop("", LEFT), kind=RouteKind.UNSUPPORTED)),
        Cause.ROUTE,
        (0,),
    ),
    "a resilient group's sources": (4, resilient, Cause.SOURCE_CHECK, (IN,)),
    "a wide group's sources": (4, wide_group, Cause.SOURCE_CHECK, (IN,)),
}


@pytest.mark.parametrize("name", ONE)
def test_one_family_passes(name: str) -> None:
    family, change, cause, devices = ONE[name]
    router = Router()
    change(router)
    assert router.parting(family) == tuple(Parting(cause, device) for device in devices)
    assert not router.parting(10 - family)


def test_a_path_without_a_gateway() -> None:
    router = Router()
    router.routes[0] = route(PREFIX[4], Path(hop("", LEFT)), Path(hop(HOPS[4][1], RIGHT)))
    assert router.parting(4) == (Parting(Cause.CANNOT_SEND, LEFT),)


def test_more_than_the_maps_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPACITY, "DEVICES_MAX", 2)
    assert Router().parting(4) == (Parting(Cause.CAPACITY),)
    monkeypatch.setitem(CAPACITY, "DEVICES_MAX", 3)
    assert not Router().parting(4)
    monkeypatch.setitem(CAPACITY, "INTERFACES_MAX", 2)
    assert Router().parting(4) == (Parting(Cause.CAPACITY),)


SAFE: Mapping[str, Change] = {
    "NICs in native mode": lambda router: None,
    "NICs in generic mode": lambda router: [
        router.link(ifindex, xdp_mode="generic") for ifindex in NAMES
    ],
    "GRO in hardware, native": link(IN, merges={"rx-gro-hw"}),
    "policy 1": settings(policy4=1, policy6=1),
    "policy 3 without inner fields": settings(policy4=3, policy6=3, fields4=0x37, fields6=0x37),
    "strict rp_filter": interface(IN, rp_filter=1),
    "a VLAN of ours": vlan_over(IN),
    "a device that is down": link(9, up=False),
    "a device that does not forward": lambda router: (
        router.link(9),
        router.interface(9, forwarding4=False, forwarding6=False),
    ),
    "a bridge's port": lambda router: (
        router.link(9, master=10),
        router.link(10, kind="bridge"),
        router.interface(10, forwarding4=False, forwarding6=False),
    ),
    "a narrower device that nothing is routed by": lambda router: (
        router.link(9, mtu=1280),
        router.interface(9, forwarding4=False, forwarding6=False),
    ),
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", SAFE)
def test_it_is_used(name: str, family: int) -> None:
    router = Router()
    SAFE[name](router)
    assert router.parting(family) == ()


def test_linuxs_own_seed_needs_nothing_of_that() -> None:
    router = Router()
    router.attached = {IN}
    tables = router.compile()
    snapshot = Snapshot(router.links, {}, tuple(router.routes), Settings(seed=7))
    config = compile_tables(snapshot, {IN}, Options(own_seed=5)).config
    assert tables.config.pass_multipath4 == Reason.OWN_SEED
    assert config.pass_multipath4 == Reason.FORWARDED


def test_what_leaves_where_it_came_in_is_forwarded() -> None:
    """Or that part would go by Linux's hash. Without multipath, or where that passes, Linux is to
    send its redirects."""
    redirects = INTERFACE_FLAGS["SEND_REDIRECTS"]

    def flags(router: Router) -> set[int]:
        return {each.flags & redirects for each in router.compile().interfaces.values()}

    router = Router()
    assert flags(router) == {0}
    router.link(9)
    assert flags(router) == {redirects}
    alone = Router()
    alone.routes.clear()
    assert flags(alone) == {redirects}


def test_every_cause_is_said() -> None:
    nic, gone = Link(2, "eth0", MAC1, 1500, True), None
    for cause in Cause:
        if cause is not Cause.NONE:
            for device in (nic, gone):
                text, fix = ownseed.why(cause, [device])
                assert text
                assert not re.search(r"[{}]", text + fix)
    assert ownseed.why(Cause.NOT_ATTACHED, [nic])[1] == "xdpecmp attach eth0"
    assert ownseed.why(Cause.NOT_ATTACHED, [replace(nic, mac=b"")])[1] == ""
    assert ownseed.why(Cause.NOT_ATTACHED, [replace(nic, kind="vlan")])[1] == ""


def test_every_reason_is_in_the_list() -> None:
    """What is new in reasons.def has to be thought about here."""
    text = ownseed.__doc__ or ""
    named = set(re.findall(r"[A-Z0-9_]{3,}", text))
    spelled = {name for name in Reason.__members__ if name.startswith("ROUTE_")}
    unnamed = set(Reason.__members__) - named - spelled - {"FORWARDED"}
    assert unnamed == set()
