"""What each prefix leads to, and the groups and next hops that this takes."""

from __future__ import annotations

from collections.abc import Mapping

from ..model.packed import Layered
from ..model.values import NextHop, NexthopGroup, Path, Prefix, Route, RouteKind, Snapshot
from ..program.abi import MAX_BUCKETS, MAX_PATHS, Reason
from .bounds import object_group, route_group
from .tables import Group, Key, Target

_KIND_REASON = {
    RouteKind.LOCAL: int(Reason.ROUTE_LOCAL),
    RouteKind.SPECIAL: int(Reason.ROUTE_SPECIAL),
    RouteKind.UNSUPPORTED: int(Reason.ROUTE_UNSUPPORTED),
}


class TargetCompiler:
    """Says what a route alone leads to; collects the groups and next hops that this takes."""

    def __init__(self, snapshot: Snapshot, known: Mapping[Key, Group] | None = None) -> None:
        """`known`: groups that are there already."""
        self._snapshot = snapshot
        self._known: Mapping[Key, Group] = known or {}
        self._by_paths: dict[tuple[bool, tuple[Path, ...]], Target | None] = {}
        self.nexthops: set[NextHop] = set()
        self.groups: dict[Key, Group] = {}
        """New ones."""

    def target(self, route: Route) -> Target | None:
        """None: it has no living path."""
        if route.selective:
            return int(Reason.ROUTE_UNSUPPORTED)
        if route.kind is not RouteKind.UNICAST:
            return _KIND_REASON[route.kind]
        if route.nhid:
            return self.object_target(route.nhid)
        key = (route.prefix.family == 4, route.paths)
        try:
            return self._by_paths[key]
        except KeyError:
            target = self._by_paths[key] = self._paths_target(*key)
            return target

    def _paths_target(self, ipv4: bool, paths: tuple[Path, ...]) -> Target | None:
        entries = route_group(self._snapshot, ipv4, paths)
        if entries is None:
            return None
        if len(paths) == 1:
            self.nexthops.add(paths[0].nexthop)
            return paths[0].nexthop
        if len(paths) > MAX_PATHS:
            return int(Reason.ROUTE_UNSUPPORTED)
        self.nexthops.update(entry.nexthop for entry in entries)
        return self._register(ipv4, paths, entries)

    def object_target(self, nhid: int) -> Target:
        """A nexthop object. Routes refer to a group by its id, and so do ours: a change of the
        group is one store for all of them, down to its last member."""
        group = self._snapshot.nexthop_groups.get(nhid)
        target = object_target(nhid, group)
        if isinstance(target, NextHop):
            self.nexthops.add(target)
        elif group and isinstance(target, tuple) and not self._has(target):
            self.groups[target] = object_group(self._snapshot, group)
            self.nexthops.update(path.nexthop for path in group.members)
        return target

    def _has(self, key: Key) -> bool:
        return key in self._known or key in self.groups

    def _register(self, ipv4: bool, paths: tuple[Path, ...], group: Group) -> Target:
        """A group is known by what was configured, not by which paths live now: so all routes of
        a group move with one store when a path dies."""
        key: Key = (ipv4, *((path.nexthop, path.weight) for path in paths))
        known = self._known.get(key) or self.groups.setdefault(key, group)
        if known != group:
            key = (*key, group)  # the kernel says different things of equal paths: two groups
            if key not in self._known:
                self.groups[key] = group
        return key


def object_target(nhid: int, group: NexthopGroup | None) -> Target:
    """What a route over a nexthop object leads to, None being one that is not there."""
    if group is None or group.kind is RouteKind.UNSUPPORTED:
        return int(Reason.ROUTE_UNSUPPORTED)
    if group.kind is not RouteKind.UNICAST:
        return _KIND_REASON[group.kind]
    if group.single:
        return group.members[0].nexthop
    if len(group.members) > MAX_PATHS or len(group.buckets) > MAX_BUCKETS:
        return int(Reason.ROUTE_UNSUPPORTED)
    return object_key(nhid)


def object_key(nhid: int) -> Key:
    """What a group of nexthop objects is known by."""
    return ("object", nhid)


def host_routes(snapshot: Snapshot, targets: Layered[Target]) -> dict[Prefix, NextHop]:
    """Neighbours on directly connected networks, if that network is the one in force."""
    found: dict[Prefix, NextHop] = {}
    for size in (4, 16):
        nexthops = [
            NextHop(address, ifindex)
            for (address, ifindex), neighbour in snapshot.neighbours.items()
            if neighbour.usable and len(address) == size
        ]
        reached = targets.longest([nexthop.via for nexthop in nexthops])
        for nexthop, target in zip(nexthops, reached, strict=True):
            if target == NextHop(b"", nexthop.ifindex):
                found[Prefix(nexthop.via, size * 8)] = nexthop
    return found


def is_connected(target: object) -> bool:
    """Whether it is a directly connected network, of whose addresses each is a neighbour's."""
    return isinstance(target, NextHop) and not target.via
