"""Changing the weights of a route: which path is meant, what would move, when it has happened.

The kernel's route is what changes; the agent then mirrors it.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .compile import TABLE_MAIN
from .errors import RouteNotFound, RouteNotWeighable, XdpecmpError
from .hashing import bounds, moved_share, shares
from .model import Link, NextHop, Prefix, Route, RouteKind

HANDMADE_PROTOCOLS = frozenset({0, 2, 3, 4})
"""RTPROT_UNSPEC, KERNEL, BOOT, STATIC: routes that no daemon looks after."""

PROTOCOL_NAMES = {
    8: "gated", 9: "ra", 10: "mrt", 11: "zebra", 12: "bird", 13: "dnrouted", 14: "xorp",
    15: "ntk", 16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel", 99: "openr",
    186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}  # fmt: skip
"""RTPROT_* of include/uapi/linux/rtnetlink.h, as `ip route` prints them."""

MAX_WEIGHT = 256
"""Of RTA_MULTIPATH: rtnh_hops is one byte and holds the weight minus one."""


@dataclass(frozen=True, slots=True)
class Selector:
    """VIA, VIA%DEV or %DEV: one next hop of a route, as the user names it."""

    via: bytes
    dev: str | None

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Raises ValueError."""
        address, _, dev = text.partition("%")
        if not address and not dev:
            raise ValueError("an address is missing")
        return cls(ipaddress.ip_address(address).packed if address else b"", dev or None)

    def __str__(self) -> str:
        address = str(ipaddress.ip_address(self.via)) if self.via else ""
        return address + (f"%{self.dev}" if self.dev else "")


@dataclass(frozen=True, slots=True)
class Change:
    """A route and its weights before and after, path by path."""

    route: Route
    new: tuple[int, ...]
    links: Mapping[int, Link]

    @property
    def old(self) -> tuple[int, ...]:
        return tuple(path.weight for path in self.route.paths)

    @property
    def moved(self) -> Fraction:
        """The exact share of the hash space whose next hop changes: a flow's chance to move."""
        return moved_share(self._members(self.old), self._members(self.new))

    def as_json(self) -> dict[str, Any]:
        rows = zip(
            self.route.paths,
            self.old,
            self.new,
            shares(self._bounds(self.old)),
            shares(self._bounds(self.new)),
            strict=True,
        )
        return {
            "prefix": str(self.route.prefix),
            "moved_share": round(float(self.moved), 9),
            "nexthops": [
                {
                    "via": self.via(path.nexthop),
                    "dev": self.device(path.nexthop),
                    "old_weight": old,
                    "new_weight": new,
                    "old_share": round(float(old_share), 9),
                    "new_share": round(float(new_share), 9),
                }
                for path, old, new, old_share, new_share in rows
            ],
        }

    @staticmethod
    def via(nexthop: NextHop) -> str | None:
        return str(ipaddress.ip_address(nexthop.via)) if nexthop.via else None

    def device(self, nexthop: NextHop) -> str:
        link = self.links.get(nexthop.ifindex)
        return link.name if link else f"if{nexthop.ifindex}"

    def _bounds(self, weights: Sequence[int]) -> tuple[int, ...]:
        return bounds(
            [
                None if path.dead else weight
                for path, weight in zip(self.route.paths, weights, strict=True)
            ]
        )

    def _members(self, weights: Sequence[int]) -> list[tuple[NextHop, int]]:
        nexthops = [path.nexthop for path in self.route.paths]
        return list(zip(nexthops, self._bounds(weights), strict=True))


def plan(
    routes: Sequence[Route],
    links: Mapping[int, Link],
    prefix: Prefix,
    wanted: Mapping[Selector, int],
) -> Change:
    """Find the route and say what would change. Raises RouteNotFound, RouteNotWeighable."""
    route = _find(routes, prefix)
    names = {link.name: link.ifindex for link in links.values()}
    new = [path.weight for path in route.paths]
    for selector, weight in wanted.items():
        if not 1 <= weight <= MAX_WEIGHT:
            raise RouteNotWeighable(
                f"weight {weight} for {selector} is outside 1 to {MAX_WEIGHT}, which is what the "
                "kernel takes",
                "to send a next hop nothing, remove it: ip route replace",
            )
        new[_index(route, selector, names, links)] = weight
    return Change(route, tuple(new), links)


def _find(routes: Sequence[Route], prefix: Prefix) -> Route:
    """The multipath route that is in force for exactly this prefix."""
    family = f"-{prefix.family} " if prefix.family == 6 else ""
    found = [r for r in routes if r.prefix == prefix and r.table == TABLE_MAIN]
    if not found:
        raise RouteNotFound(
            f"the kernel has no route {prefix}", f"list them: ip {family}route show"
        )
    route = min(found, key=lambda r: r.metric)
    if route.kind is RouteKind.UNSUPPORTED:
        raise RouteNotWeighable(
            f"{prefix} has attributes that xdpecmp leaves to Linux",
            f"see them: ip -d {family}route show {prefix}",
        )
    if route.nhid:
        raise RouteNotWeighable(
            f"{prefix} uses nexthop object {route.nhid}, which holds the weights",
            f"see it: ip nexthop show id {route.nhid}; a group's weights: "
            f"ip nexthop replace id {route.nhid} group ID,WEIGHT/...",
        )
    if len(route.paths) < 2:
        raise RouteNotWeighable(
            f"{prefix} has one next hop only, so there is nothing to weigh",
            f"see it: ip {family}route show {prefix}",
        )
    return route


def _index(
    route: Route, selector: Selector, names: Mapping[str, int], links: Mapping[int, Link]
) -> int:
    """Which path is meant. Raises RouteNotFound where none is, or more than one."""
    fitting = [
        i
        for i, path in enumerate(route.paths)
        if path.nexthop.via == selector.via
        and selector.dev in (None, _name(links, path.nexthop.ifindex))
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(_describe(path.nexthop, links) for path in route.paths)
    problem = "is ambiguous: add %DEV" if fitting else "is not a next hop"
    raise RouteNotFound(f"{selector} {problem} of {route.prefix}", f"its next hops: {known}")


def _name(links: Mapping[int, Link], ifindex: int) -> str:
    link = links.get(ifindex)
    return link.name if link else f"if{ifindex}"


def _describe(nexthop: NextHop, links: Mapping[int, Link]) -> str:
    return f"{Change.via(nexthop) or ''}%{_name(links, nexthop.ifindex)}"


def check_owner(route: Route) -> None:
    """Raises RouteNotWeighable for a route that a routing daemon looks after: it would undo us."""
    if route.protocol not in HANDMADE_PROTOCOLS:
        owner = PROTOCOL_NAMES.get(route.protocol, str(route.protocol))
        raise RouteNotWeighable(
            f"{route.prefix} belongs to a routing daemon (proto {owner}), which may undo this",
            "change the weight there, or insist with --force",
        )


def wait_until(happened: Callable[[], bool], seconds: float) -> bool:
    """Whether it happens within that time."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class NotMirrored(XdpecmpError):
    """The kernel has the new weights and the data path does not."""
