"""Changing the weights of a route: which path is meant, what would move, when it has happened.

The kernel's route is what changes, or the nexthop group that it uses, and with that all routes that
use it; the agent then mirrors it.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from ..compile import TABLE_MAIN
from ..errors import RouteNotFound, RouteNotWeighable, XdpecmpError, shortened
from ..hashing import bounds, moved_share, shares
from ..model.values import Link, NextHop, NexthopGroup, Path, Prefix, Route, RouteKind
from ..netlink.routeweights import check_multipath, check_weight
from ..observe.devices import Hop, device_name, hop
from .owners import Owner, WeightedHop, owner_of, protocol_name


@dataclass(frozen=True, slots=True)
class Selector:
    """VIA, VIA%DEV or %DEV: one next hop of a route, as the user names it."""

    via: bytes
    dev: str | None

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Raises ValueError, with a plain sentence."""
        address, _, dev = text.partition("%")
        if not address and not dev:
            raise ValueError("an address is missing")
        try:
            via = ipaddress.ip_address(address).packed if address else b""
        except ValueError:
            raise ValueError(f"{shortened(address)} is no IP address") from None
        return cls(via, dev or None)

    def __str__(self) -> str:
        address = str(ipaddress.ip_address(self.via)) if self.via else ""
        return address + (f"%{self.dev}" if self.dev else "")


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """The nexthop group that holds a route's weights."""

    group: NexthopGroup
    protocol: int
    """RTPROT_*: who made it."""
    member_ids: tuple[int, ...]
    """In the order of `group.members`."""
    max_weight: int
    users: int
    """Routes that lead to it, in all tables; this one is among them."""
    first_users: tuple[Prefix, ...]


class WeightRow(NamedTuple):
    """One next hop, before and after."""

    hop: Hop
    old_weight: int
    new_weight: int
    old_share: Fraction
    new_share: Fraction


@dataclass(frozen=True, slots=True)
class WeightChange:
    """A route and its weights before and after, path by path."""

    route: Route
    """With its paths, also if a nexthop group has them."""
    new: tuple[int, ...]
    links: Mapping[int, Link]
    held: HeldWeights | None = None

    @property
    def old(self) -> tuple[int, ...]:
        return tuple(path.weight for path in self.route.paths)

    @property
    def resilient(self) -> bool:
        """Whether what moves are buckets, each once it is idle."""
        return self.held is not None and self.held.group.resilient

    @property
    def moved(self) -> Fraction:
        """The exact share of the hash space whose next hop changes: a flow's chance to move."""
        if self.resilient:
            pairs = zip(self._shares_now(), self._shares_then(), strict=True)
            return sum((max(now - then, Fraction(0)) for now, then in pairs), Fraction(0))
        return moved_share(self._members(self.old), self._members(self.new))

    def _shares_now(self) -> list[Fraction]:
        if self.held is None or not self.resilient:
            return list(shares(self._bounds(self.old)))
        buckets = self.held.group.buckets
        counts = Counter(buckets)
        return [Fraction(counts[i], len(buckets)) for i, _ in enumerate(self.route.paths)]

    def _shares_then(self) -> list[Fraction]:
        if self.held is None or not self.resilient:
            return list(shares(self._bounds(self.new)))
        count = len(self.held.group.buckets)
        return [Fraction(wanted, count) for wanted in wanted_buckets(self.new, count)]

    def rows(self) -> list[WeightRow]:
        """The next hops in their order, with their shares of the hash space (0 to 1)."""
        shares_now, shares_then = self._shares_now(), self._shares_then()
        rows = zip(self.hops(), self.old, self.new, shares_now, shares_then, strict=True)
        return [WeightRow(*row) for row in rows]

    def hops(self) -> list[Hop]:
        """The next hops in words."""
        return [hop(self.links, path.nexthop) for path in self.route.paths]

    @property
    def protocol(self) -> int:
        """RTPROT_* of what holds the weights."""
        return self.held.protocol if self.held else self.route.protocol

    def owner(self, networkd: Collection[str] = ()) -> Owner | None:
        """Who looks after these weights; `networkd`: devices that systemd-networkd configures."""
        hops = [
            WeightedHop(hop.via or "", hop.dev, weight)
            for hop, weight in zip(self.hops(), self.new, strict=True)
        ]
        group = self.held.group.id if self.held else 0
        prefix = str(self.route.prefix)
        return owner_of(self.protocol, self.route.protocol, prefix, hops, networkd, group)

    def check_owner(self, networkd: Collection[str] = ()) -> None:
        """Raises RouteNotWeighable if somebody looks after these weights."""
        owner = self.owner(networkd)
        if owner is not None:
            raise RouteNotWeighable(
                self.belongs(owner), f"{owner.advice}; or insist here with --force"
            )

    def belongs(self, owner: Owner) -> str:
        """The sentence that says so."""
        what = str(self.route.prefix)
        if self.held:
            what = f"nexthop group {self.held.group.id}, which {what} uses,"
        return (
            f"{what} belongs to {owner.name} (proto {protocol_name(self.protocol)}), {owner.undoes}"
        )

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


def wanted_buckets(weights: Sequence[int], count: int) -> list[int]:
    """How many buckets each member of a resilient group is to have: nh_res_group_rebalance() in
    net/ipv4/nexthop.c."""
    total, cumulative, before, result = sum(weights), 0, 0, []
    for weight in weights:
        cumulative += weight
        upper = (2 * count * cumulative + total) // (2 * total)  # DIV_ROUND_CLOSEST
        result.append(upper - before)
        before = upper
    return result


def plan(
    routes: Sequence[Route],
    links: Mapping[int, Link],
    prefix: Prefix,
    wanted: Iterable[tuple[Selector, int]],
    read_held: Callable[[int], HeldWeights | None] = lambda nhid: None,
) -> WeightChange:
    """Find the route and say what would change; `read_held`: the group of that id, None if it is
    none that has weights. Raises RouteNotFound, RouteNotWeighable."""
    route = _find(routes, prefix)
    held = read_held(route.nhid) if route.nhid else None
    if route.nhid:
        route = route._replace(paths=_members(route, held))
    check_multipath(route)
    names = {link.name: link.ifindex for link in links.values()}
    new = [path.weight for path in route.paths]
    given: dict[int, Selector] = {}
    for selector, weight in wanted:
        if held:
            check_weight(weight, selector, held.max_weight, held.group.id)
        else:
            check_weight(weight, selector)
        index = _index(route, selector, names, links)
        if index in given:
            both = dict.fromkeys((str(given[index]), str(selector)))
            raise RouteNotWeighable(
                f"two weights for the same next hop: {' and '.join(both)}",
                "name each next hop once",
            )
        given[index] = selector
        new[index] = weight
    return WeightChange(route, tuple(new), links, held)


def _members(route: Route, held: HeldWeights | None) -> tuple[Path, ...]:
    """The members of the route's nexthop group. Their flags do not count: what is dead is no longer
    a member."""
    if held is None:
        raise RouteNotWeighable(
            f"{route.prefix} uses nexthop object {route.nhid}, which is no group with weights",
            f"see it: ip nexthop show id {route.nhid}",
        )
    return tuple(path._replace(flags=0) for path in held.group.members)


def _find(routes: Sequence[Route], prefix: Prefix) -> Route:
    """The route that is in force for exactly this prefix."""
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
    return route


def _index(
    route: Route, selector: Selector, names: Mapping[str, int], links: Mapping[int, Link]
) -> int:
    """Which path is meant. Raises RouteNotFound if none is, or more than one."""
    fitting = [
        i
        for i, path in enumerate(route.paths)
        if path.nexthop.via == selector.via
        and selector.dev in (None, device_name(links, path.nexthop.ifindex))
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(_describe(path.nexthop, links) for path in route.paths)
    devices = {route.paths[i].nexthop.ifindex for i in fitting}
    if len(devices) == 1:
        raise RouteNotWeighable(
            f"{selector} stands in {route.prefix} {len(fitting)} times, so its weights cannot be "
            "told apart",
            "make them one: ip route replace",
        )
    if fitting:
        raise RouteNotFound(
            f"{selector} is ambiguous: {route.prefix} has it {len(fitting)} times",
            f"add %DEV: its next hops are {known}",
        )
    raise RouteNotFound(
        f"{selector} is not a next hop of {route.prefix}", f"its next hops: {known}"
    )


def _describe(nexthop: NextHop, links: Mapping[int, Link]) -> str:
    via, device = hop(links, nexthop)
    return f"{via or ''}%{device}"


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
