"""Following single neighbours and nexthop objects: what of compiled tables changes with them.

It comes to the same as compiling everything. If that is not plain (None), everything has to be
compiled, but nothing read again. Which of them count is decided first, since most don't: of the
thousands of addresses of a scan none is a next hop, and nobody uses objects that are held for
later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from ..model.prefixes import covered
from ..model.routetable import RouteTable
from ..model.values import Neighbour, NextHop, NexthopGroup, Prefix, Snapshot
from .adjacency import compile_adjacency
from .bounds import object_group
from .change import compile_touched, fit
from .tables import (
    NOTHING,
    TABLE_DEFAULT,
    Doubts,
    Group,
    Key,
    TableChange,
    Tables,
    Target,
)
from .targets import TargetCompiler, is_connected, object_key, object_target
from .winners import winner

MOST_ROUTES = 1000
"""Of more routes over one next hop all are compiled: that takes numpy no longer."""

NeighbourKey = tuple[bytes, int]
"""Packed address, ifindex."""


def differ(old: Snapshot, new: Snapshot) -> bool:
    """Whether anything differs that counts: neighbours turn stale and come back all the time."""
    if old.routes is not new.routes:
        return True
    if replace(old, neighbours=new.neighbours) != new:
        return True
    if old.neighbours is new.neighbours:
        return False
    return _usable(old.neighbours) != _usable(new.neighbours)


def _usable(
    neighbours: Mapping[tuple[bytes, int], Neighbour],
) -> dict[tuple[bytes, int], tuple[bool, bytes]]:
    return {key: (each.valid, each.mac) for key, each in neighbours.items()}


# --- neighbours -----------------------------------------------------------------------------------


def counts(before: Neighbour | None, now: Neighbour | None) -> bool:
    """Whether anything is different that could bear on forwarding."""
    return _look(before) != _look(now)


def _look(neighbour: Neighbour | None) -> tuple[bool, bool, bytes]:
    """Whether a group may use it, whether it can be sent to, and its MAC."""
    if neighbour is None:
        return True, False, b""
    usable = neighbour.usable
    return neighbour.valid, usable, neighbour.mac if usable else b""


def compile_neighbours(
    snapshot: Snapshot,
    tables: Tables,
    before: Mapping[NeighbourKey, Neighbour | None],
    doubts: Doubts,
) -> TableChange | None:
    """`before`: what those that differ were; the snapshot says what they are. None: see above."""
    nexthops = [NextHop(*key) for key in before]
    used = [nexthop for nexthop in nexthops if nexthop in tables.nexthops]
    turned = {NextHop(*key) for key, was in before.items() if _turned(snapshot, key, was)}
    if snapshot.settings.use_neigh and turned & _in_route_groups(tables):
        return None
    groups = _with_members(snapshot, tables, turned.intersection(used)) if turned else {}
    moved = [
        key
        for key, was in before.items()
        if _look(was)[1:2] != _look(snapshot.neighbours.get(key))[1:2]
    ]
    routes = _host_routes(snapshot, tables, moved, doubts)
    if routes is None or not fit(tables, routes):
        return None
    new = {target for target in routes.values() if isinstance(target, NextHop)}
    return TableChange(
        routes=routes,
        nexthops={
            each: compile_adjacency(snapshot, each, tables.guarded) for each in new.union(used)
        },
        gateways=set(),
        groups=groups,
    )


def _turned(snapshot: Snapshot, key: NeighbourKey, was: Neighbour | None) -> bool:
    """Whether groups that go by their neighbours choose otherwise."""
    return _look(was)[0] != _look(snapshot.neighbours.get(key))[0]


def _in_route_groups(tables: Tables) -> set[NextHop]:
    """All next hops that groups of IPv4 routes were configured with: see
    TargetCompiler._register."""
    paths = (part for key in tables.groups if key[0] is True for part in key[1:])
    return {path[0] for path in paths if isinstance(path, tuple) and isinstance(path[0], NextHop)}


def _with_members(
    snapshot: Snapshot, tables: Tables, nexthops: Collection[NextHop]
) -> dict[Key, Group]:
    """The groups of nexthop objects that one of these is in, and go by it."""
    found: dict[Key, Group] = {}
    if not nexthops:
        return found
    for key in tables.groups:
        if key[0] != "object":
            continue
        group = snapshot.nexthop_groups.get(key[1])  # type: ignore[call-overload]
        if group is None or group.resilient or object_target(group.id, group) != key:
            continue
        if any(path.nexthop in nexthops for path in group.members):
            found[key] = object_group(snapshot, group)
    return found


def _host_routes(
    snapshot: Snapshot, tables: Tables, keys: Iterable[NeighbourKey], doubts: Doubts
) -> dict[Prefix, Target | None] | None:
    """What becomes of the host routes of neighbours that came or went."""
    dependencies, table = tables.dependencies, RouteTable.of(snapshot.routes)
    compiler = TargetCompiler(snapshot, tables.groups)
    routes: dict[Prefix, Target | None] = {}
    asked: dict[int, dict[Prefix, Target | None]] = {4: {}, 6: {}}
    for address, _ in keys:
        prefix = Prefix(address, len(address) * 8)
        if prefix in doubts.prefixes or not covered(prefix, dependencies.connected):
            continue
        if covered(prefix, dependencies.hidden):
            if not (doubts.prefixes or doubts.covering):
                return None
            continue  # passes, and all is compiled after the dump that is waited for
        candidates = table.lookup(prefix)
        if any(route.table == TABLE_DEFAULT for route in candidates):
            return None
        target = winner(candidates, compiler.target) if candidates else None
        asked[prefix.family][prefix] = target
    for own in asked.values():
        most = max((prefix.length for prefix in own), default=1) - 1
        wider = tables.targets.longest([prefix.address for prefix in own], most)
        for (prefix, target), under in zip(own.items(), wider, strict=True):
            reached = target if target is not None else under
            if is_connected(reached):
                assert isinstance(reached, NextHop)
                neighbour = snapshot.neighbours.get((prefix.address, reached.ifindex))
                if neighbour is not None and neighbour.usable:
                    target = NextHop(prefix.address, reached.ifindex)
            if tables.targets.lookup(prefix) != target:
                routes[prefix] = target
    return None if compiler.groups else routes


# --- nexthop objects ------------------------------------------------------------------------------


class ObjectChange(NamedTuple):
    """What of the maps changes with nexthop objects, and whether routes may have gone with them,
    which the kernel does not tell of IPv4."""

    change: TableChange
    routes_gone: bool


def compile_objects(
    snapshot: Snapshot,
    tables: Tables,
    before: Mapping[int, NexthopGroup | None],
    doubts: Doubts,
) -> ObjectChange | None:
    """`before`: what objects in use were; the snapshot says what they are. None: see above."""
    compiler = TargetCompiler(snapshot)
    groups: dict[Key, Group] = {}
    elsewhere: set[int] = set()
    routes_gone = False
    for nhid, was in before.items():
        key, target = object_key(nhid), compiler.object_target(nhid)
        routes_gone |= nhid not in snapshot.nexthop_groups
        if key in tables.groups:
            groups[key] = compiler.groups.get(key, NOTHING)
        if object_target(nhid, was) != target and (key not in groups or target == key):
            elsewhere.add(nhid)
        elif key in groups and target != key:
            routes_gone = True
    touched: list[Prefix] = []
    if elsewhere:
        found = _routes_over(snapshot, tables, elsewhere, before)
        if found is None:
            return None
        touched = found
    change = compile_touched(
        snapshot,
        tables,
        touched,
        RouteTable.of(snapshot.routes).lookup,
        doubts.prefixes.__contains__,
    )
    if change is None:
        return None
    members = compiler.nexthops | change.nexthops.keys()
    return ObjectChange(
        TableChange(
            routes=change.routes,
            nexthops={
                each: compile_adjacency(snapshot, each, tables.guarded)
                for each in members
                if each not in tables.nexthops
            },
            gateways={each for each in members if each.via} - tables.gateways,
            groups={**change.groups, **groups},
            doubtful=change.doubtful,
        ),
        routes_gone,
    )


def _routes_over(
    snapshot: Snapshot,
    tables: Tables,
    nhids: Collection[int],
    before: Mapping[int, NexthopGroup | None],
) -> list[Prefix] | None:
    """The prefixes of routes over these objects; None if they are many, or bear on others."""
    for nhid in nhids:
        for group in (before[nhid], snapshot.nexthop_groups.get(nhid)):
            if is_connected(object_target(nhid, group)):
                return None
    dependencies = tables.dependencies
    found: list[Prefix] = []
    for route in RouteTable.of(snapshot.routes).where(lambda route: route.nhid in nhids):
        family = route.prefix.family
        if (
            len(found) == MOST_ROUTES
            or (family == 4 and dependencies.fallback4)
            or covered(route.prefix, dependencies.hidden)
        ):
            return None
        found.append(route.prefix)
    return found
