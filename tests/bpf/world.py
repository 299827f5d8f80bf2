"""The router that the data-path tests run in: a Snapshot made by hand, spelled as `ip route` does.

Devices are veths of a namespace of the tests' own, since a test run wants a real ingress device and
the devmap real egress devices, though the snapshot calls them physical; VLAN devices, of which only
their numbers reach the maps, are made up. Every address has its own MAC, so that a frame tells
which next hop it was sent to.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from testbed.netns import Namespace
from xdpecmp.model.values import (
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

DEVICES = ("in", "out", "other", "small", "no_xdp", "down")
"""Veths, two by two the ends of a pair. Packets come in by `in`."""

SMALL_MTU = 1400

TAGS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "in.10": ((0x8100, 10),),
    "in.20": ((0x88A8, 20),),
    "in.20.30": ((0x88A8, 20), (0x8100, 30)),
    "in.40": ((0x8100, 40),),
    "in.40.50": ((0x8100, 40), (0x8100, 50)),
    "out.100": ((0x8100, 100),),
    "out.200": ((0x88A8, 200),),
    "out.200.300": ((0x88A8, 200), (0x8100, 300)),
    "out.200.300.400": ((0x88A8, 200), (0x8100, 300), (0x8100, 400)),
    "out.4094": ((0x8100, 4094),),
}
"""The VLAN devices and their tags, outermost first: TPID, VLAN id."""

SEED = 0xC0FFEE42
SOURCE = {4: "192.0.2.10", 6: "2001:db8:f::10"}

ROUTES = """
local 10.0.0.1 dev in
local 10.0.1.254 dev out
local 127.0.0.0/8 dev in
special 10.0.0.255 dev in
10.0.0.0/24 dev in
10.0.1.0/24 dev out
198.18.1.0/24 via 10.0.1.1 dev out
198.18.2.0/24 nexthop via 10.0.1.1 dev out weight 1 \
    nexthop via 10.0.1.2 dev out weight 2 nexthop via 10.0.6.1 dev other weight 3
198.18.3.0/24 via 10.0.2.1 dev small
198.18.4.0/24 via 10.0.3.1 dev no_xdp
198.18.5.0/24 via 10.0.4.1 dev down
198.18.6.0/24 via 10.0.1.99 dev out
198.18.7.0/24 via 10.0.5.1 dev out.100
198.18.8.0/24 via 10.0.7.1 dev out.200
198.18.9.0/24 via 10.0.8.1 dev out.200.300
198.18.14.0/24 via 10.0.9.1 dev out.4094
special 198.18.10.0/24
unsupported 198.18.11.0/24
198.18.12.0/24 via 10.0.0.9 dev in
198.18.13.0/24 via 2001:db8:b::1 dev out
192.0.2.0/24 via 10.0.0.2 dev in
192.0.3.0/24 via 10.0.1.3 dev out
192.0.4.0/24 nexthop via 10.0.1.3 dev out weight 1 nexthop via 10.0.0.2 dev in weight 1
192.0.5.0/24 nexthop via 10.0.1.3 dev out weight 1 nexthop via 10.0.6.1 dev other weight 1
special 192.0.6.0/24

local 2001:db8:a::1 dev in
local 2001:db8:b::254 dev out
2001:db8:a::/64 dev in
2001:db8:b::/64 dev out
2001:db8:1::/48 via 2001:db8:b::1 dev out
2001:db8:2::/48 nexthop via 2001:db8:b::1 dev out weight 1 \
    nexthop via 2001:db8:b::2 dev out weight 2 nexthop via 2001:db8:b6::1 dev other weight 3
2001:db8:3::/48 via 2001:db8:b2::1 dev small
2001:db8:4::/48 via 2001:db8:b3::1 dev no_xdp
2001:db8:5::/48 via 2001:db8:b4::1 dev down
2001:db8:6::/48 via 2001:db8:b::99 dev out
2001:db8:7::/48 via 2001:db8:b5::1 dev out.100
2001:db8:8::/48 via 2001:db8:b7::1 dev out.200
2001:db8:9::/48 via 2001:db8:b8::1 dev out.200.300
2001:db8:14::/48 via 2001:db8:b9::1 dev out.4094
special 2001:db8:10::/48
unsupported 2001:db8:11::/48
2001:db8:12::/48 via 2001:db8:a::9 dev in
"""

_TARGETS = {
    "single": 1,
    "multipath": 2,
    "small": 3,
    "no_xdp": 4,
    "down": 5,
    "unresolved": 6,
    "out.100": 7,
    "out.200": 8,
    "out.200.300": 9,
    "special": 10,
    "unsupported": 11,
    "hairpin": 12,
    "out.4094": 14,
}
TARGET = {
    4: {name: f"198.18.{i}.1" for name, i in _TARGETS.items()} | {"via IPv6": "198.18.13.1"},
    6: {name: f"2001:db8:{i}::1" for name, i in _TARGETS.items()},
}
"""An address behind each route, by what is special about the route."""

VIA = {
    4: {
        "single": "10.0.1.1",
        "small": "10.0.2.1",
        "no_xdp": "10.0.3.1",
        "out.100": "10.0.5.1",
        "out.200": "10.0.7.1",
        "out.200.300": "10.0.8.1",
        "out.4094": "10.0.9.1",
        "hairpin": "10.0.0.9",
        "via IPv6": "2001:db8:b::1",
    },
    6: {
        "single": "2001:db8:b::1",
        "small": "2001:db8:b2::1",
        "no_xdp": "2001:db8:b3::1",
        "out.100": "2001:db8:b5::1",
        "out.200": "2001:db8:b7::1",
        "out.200.300": "2001:db8:b8::1",
        "out.4094": "2001:db8:b9::1",
        "hairpin": "2001:db8:a::9",
    },
}
"""And its next hop, where it has just one."""

MULTIPATH = {
    4: (("10.0.1.1", 1), ("10.0.1.2", 2), ("10.0.6.1", 3)),
    6: (("2001:db8:b::1", 1), ("2001:db8:b::2", 2), ("2001:db8:b6::1", 3)),
}

UNRESOLVED = ("10.0.1.99", "2001:db8:b::99")
NUD_REACHABLE, NUD_FAILED = 0x02, 0x20
RTPROT_KERNEL, RTPROT_STATIC = 2, 4


def packed(address: str) -> bytes:
    return ip_address(address).packed


def device_mac(name: str) -> bytes:
    """A VLAN device has the MAC of the device below it, as in Linux."""
    return bytes([0x02, 0xDE, 0, 0, 0, 1 + DEVICES.index(name.split(".")[0])])


def neighbour_mac(address: str) -> bytes:
    return b"\x02\x0b" + zlib.crc32(packed(address)).to_bytes(4, "big")


class World:
    """The devices, and the snapshots that speak of them."""

    def __init__(self, namespace: Namespace) -> None:
        """Makes the devices. They stay down: test runs need no more than their existence."""
        for pair in zip(DEVICES[::2], DEVICES[1::2], strict=True):
            (a, a_mac), (b, b_mac) = [(name, device_mac(name).hex(":")) for name in pair]
            namespace.ip(f"link add {a} address {a_mac} type veth peer name {b} address {b_mac}")
        self.ifindex = {name: namespace.ifindex(name) for name in DEVICES}
        self.ifindex |= {name: 1000 + i for i, name in enumerate(TAGS)}

    def nexthop(self, via: str) -> NextHop:
        """The next hop of that address in ROUTES."""
        words = ROUTES[ROUTES.index(f"via {via} ") :].split()
        return NextHop(packed(via), self.ifindex[words[3]])

    def snapshot(
        self,
        routes: str = "",
        links: Mapping[str, Mapping[str, Any]] | None = None,
        interfaces: Mapping[str, Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
        neighbours: Mapping[tuple[str, str], int] | None = None,
        **changes: Any,
    ) -> Snapshot:
        """The router as ROUTES has it, plus `routes`, with fields of links, interface settings,
        settings and the snapshot itself changed. `neighbours` adds entries: (address, device) →
        NUD state."""
        parsed = tuple(self._routes(f"{ROUTES}\n{routes}"))
        base = InterfaceSettings(forwarding4=True, forwarding6=True, send_redirects=False)
        by_index = {
            index: replace(base, **(interfaces or {}).get(name, {}))
            for name, index in self.ifindex.items()
        }
        every = Settings(policy4=0, policy6=0, seed=SEED, interfaces=by_index)
        snapshot = Snapshot(
            links={self.ifindex[name]: self._link(name, links or {}) for name in self.ifindex},
            neighbours=self._neighbours(parsed, neighbours or {}),
            routes=parsed,
            settings=replace(every, **(settings or {})),
        )
        return replace(snapshot, **changes)

    def _link(self, name: str, changes: Mapping[str, Mapping[str, Any]]) -> Link:
        link = Link(self.ifindex[name], name, device_mac(name), 1500, up=name != "down")
        if name in TAGS:
            tpid, vid = TAGS[name][-1]
            link = replace(
                link,
                kind="vlan",
                lower=self.ifindex[name.rpartition(".")[0]],
                vlan_protocol=tpid,
                vlan_id=vid,
            )
        if name == "in":
            link = replace(
                link, xdp_prog_id=1, xdp_mode="native", addresses4=frozenset({bytes([10, 9, 9, 9])})
            )
        if name == "small":
            link = replace(link, mtu=SMALL_MTU)
        if name == "no_xdp":
            link = replace(link, can_transmit_xdp=False)
        return replace(link, **changes.get(name, {}))

    def _neighbours(
        self, routes: Iterable[Route], extra: Mapping[tuple[str, str], int]
    ) -> dict[tuple[bytes, int], Neighbour]:
        """All gateways but the UNRESOLVED ones are reachable."""
        states = {
            path.nexthop: NUD_REACHABLE
            for route in routes
            for path in route.paths
            if path.nexthop.via and str(ip_address(path.nexthop.via)) not in UNRESOLVED
        }
        for (address, device), state in extra.items():
            states[NextHop(packed(address), self.ifindex[device])] = state
        return {
            (via, ifindex): Neighbour(via, ifindex, neighbour_mac(str(ip_address(via))), state)
            for (via, ifindex), state in states.items()
        }

    def _routes(self, text: str) -> Iterable[Route]:
        for line in text.replace("\\\n", " ").splitlines():
            if line.split():
                yield self._route(line.split())

    def _route(self, words: list[str]) -> Route:
        kind = RouteKind.UNICAST
        if words[0] in {kind.value for kind in RouteKind}:
            kind = RouteKind(words.pop(0))
        prefix = Prefix.parse(words.pop(0))
        legs = " ".join(words).split("nexthop ")
        paths = tuple(self._path(leg.split()) for leg in legs if leg)
        local = kind is RouteKind.LOCAL or (kind is RouteKind.SPECIAL and bool(paths))  # broadcast
        by_kernel = local or not any(path.nexthop.via for path in paths)
        return Route(
            prefix,
            table=255 if local else 254,
            metric=1024 if prefix.family == 6 else 0,
            kind=kind,
            paths=paths,
            protocol=RTPROT_KERNEL if by_kernel else RTPROT_STATIC,
        )

    def _path(self, words: list[str]) -> Path:
        fields = dict(zip(words[::2], words[1::2], strict=True))
        via = packed(fields["via"]) if "via" in fields else b""
        return Path(NextHop(via, self.ifindex[fields["dev"]]), int(fields.get("weight", 1)))
