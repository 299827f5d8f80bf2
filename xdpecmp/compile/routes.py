"""What each prefix leads to, and the groups and next hops that this takes."""

from __future__ import annotations

from ..abi import MAX_BUCKETS, MAX_PATHS, Reason
from ..model import NextHop, Path, Prefix, Route, RouteKind, Snapshot
from .groups import object_group, route_group
from .prefixes import lengths_in_use, longest_match
from .tables import Group, Target
from .winners import winners

_KIND_REASON = {
    RouteKind.LOCAL: int(Reason.ROUTE_LOCAL),
    RouteKind.SPECIAL: int(Reason.ROUTE_SPECIAL),
    RouteKind.UNSUPPORTED: int(Reason.ROUTE_UNSUPPORTED),
}


class Routes:
    """Compiles the routes; collects the groups and next hops that they need."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._by_paths: dict[tuple[bool, tuple[Path, ...]], Target | None] = {}
        self.nexthops: set[NextHop] = set()
        self.groups: dict[tuple[object, ...], Group] = {}
        self.targets: dict[Prefix, Target] = winners(snapshot.routes, self._target)
        self.gateways = frozenset(nexthop for nexthop in self.nexthops if nexthop.via)
        self._add_host_routes()

    def _target(self, route: Route) -> Target | None:
        """What this route by itself leads to; None where it has no living path."""
        if route.tos:
            return int(Reason.ROUTE_UNSUPPORTED)
        if route.kind is not RouteKind.UNICAST:
            return _KIND_REASON[route.kind]
        if route.nhid:
            return self._object_target(route.nhid)
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

    def _object_target(self, nhid: int) -> Target:
        """A nexthop object. Routes refer to a group by its id, and so do ours: a change of the
        group is one store for all of them, down to its last member."""
        group = self._snapshot.nexthop_groups.get(nhid)
        if group is None or group.kind is RouteKind.UNSUPPORTED:
            return int(Reason.ROUTE_UNSUPPORTED)
        if group.kind is not RouteKind.UNICAST:
            return _KIND_REASON[group.kind]
        if group.single:
            self.nexthops.add(group.members[0].nexthop)
            return group.members[0].nexthop
        if len(group.members) > MAX_PATHS or len(group.buckets) > MAX_BUCKETS:
            return int(Reason.ROUTE_UNSUPPORTED)
        key: tuple[object, ...] = ("object", nhid)
        if key not in self.groups:
            self.groups[key] = object_group(self._snapshot, group)
            self.nexthops.update(path.nexthop for path in group.members)
        return key

    def _register(self, ipv4: bool, paths: tuple[Path, ...], group: Group) -> Target:
        """A group is known by what was configured, not by which paths live now: so all routes of
        a group move with one store when a path dies."""
        key: tuple[object, ...] = (ipv4, *((path.nexthop, path.weight) for path in paths))
        if self.groups.setdefault(key, group) != group:
            key = (*key, group)  # the kernel says different things of equal paths: two groups
            self.groups[key] = group
        return key

    def _add_host_routes(self) -> None:
        """Neighbours on directly connected networks, where that network is the one in force."""
        lengths = lengths_in_use(self.targets)
        for (address, ifindex), neighbour in self._snapshot.neighbours.items():
            if not neighbour.usable:
                continue
            family = 4 if len(address) == 4 else 6
            if longest_match(self.targets, address, lengths[family]) == NextHop(b"", ifindex):
                nexthop = NextHop(address, ifindex)
                self.nexthops.add(nexthop)
                self.targets[Prefix(address, len(address) * 8)] = nexthop
