"""Small namespaces, as values, and what compile makes of them."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

from xdpecmp.compile import compile_tables
from xdpecmp.model.values import (
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


VLAN = Link(4, "eth1.100", MAC2, 1500, True, "vlan", lower=3, vlan_id=100, vlan_protocol=0x8100)
QINQ = Link(5, "eth1.7.9", MAC2, 1500, True, "vlan", lower=6, vlan_id=9, vlan_protocol=0x8100)
SERVICE = Link(6, "eth1.7", MAC2, 1500, True, "vlan", lower=3, vlan_id=7, vlan_protocol=0x88A8)


def neighbours(*rows: tuple[str, int, int]) -> dict[tuple[bytes, int], Neighbour]:
    return {
        (ip(address), ifindex): Neighbour(
            ip(address), ifindex, b"" if state == FAILED else MAC2, state
        )
        for address, ifindex, state in rows
    }


def snapshot(*routes: Route, **parts: Any) -> Snapshot:
    base = Snapshot(links=links(), neighbours={}, routes=tuple(routes), settings=Settings(seed=1))
    return replace(base, **parts)


VIA1, VIA2 = hop("10.1.0.1"), hop("10.2.0.1", 3)
VIA6 = hop("2001:db8::1")


def target(prefix: str, *routes: Route, **parts: object) -> object:
    """What a prefix leads to, None if it is not mirrored."""
    return compile_tables(snapshot(*routes, **parts), {2}).routes.get(Prefix.parse(prefix))
