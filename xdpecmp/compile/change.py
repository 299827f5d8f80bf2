"""Compiling a few prefixes anew, where that comes to the same as compiling everything."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..abi import CAPACITY
from ..model import Prefix, Route, RouteKind, Snapshot
from ..routetable import RouteTable
from .adjacency import compile_adjacency
from .prefixes import covers, masked
from .routes import Resolver, is_connected
from .tables import TABLE_DEFAULT, TABLE_MAIN, Change, Entangled, Tables, Target
from .winners import wide_local, winner


def entangled(table: RouteTable, targets: Iterable[Prefix]) -> Entangled:
    """What the routes of a table hang on; `targets`: the directly connected networks in force."""
    connected: dict[tuple[int, int], set[bytes]] = {}
    for prefix in targets:
        connected.setdefault((prefix.family, prefix.length), set()).add(prefix.address)
    fallback = table.where(lambda r: r.table == TABLE_DEFAULT and r.prefix.family == 4)
    return Entangled(connected, frozenset(wide_local(table)), any(True for _ in fallback))


def stands_alone(route: Route, table: RouteTable, tables: Tables) -> bool:
    """Whether a change of this route in that table bears on nothing but its prefix: not on what is
    said of our own addresses, nor on other routes or neighbours."""
    prefix, knots = route.prefix, tables.entangled
    before = table.by_prefix.lookup(prefix) or ()
    if route.table != TABLE_MAIN or any(
        each.table == TABLE_MAIN and each.kind is RouteKind.LOCAL for each in (route, *before)
    ):
        return False
    if prefix.family == 4 and knots.fallback4:
        return False
    if any(covers(wide, prefix) for wide in knots.wide_local):
        return False
    return not any(
        family == prefix.family
        and length <= prefix.length
        and masked(prefix.address, length) in addresses
        for (family, length), addresses in knots.connected.items()
    )


def compile_change(
    snapshot: Snapshot, tables: Tables, prefixes: Collection[Prefix]
) -> Change | None:
    """What changes in the tables if the routes of these prefixes did, each of which stands alone;
    None where all has to be compiled."""
    table, known = RouteTable.of(snapshot.routes), tables.targets
    for family in (4, 6):
        bound = len(known.base.keys[family]) + len(known.changes) + len(prefixes)
        if bound > CAPACITY[f"ROUTES{family}_MAX"]:
            return None
    resolver = Resolver(snapshot, tables.groups)
    routes: dict[Prefix, Target | None] = {}
    for prefix in prefixes:
        rivals = table.by_prefix.lookup(prefix)
        routes[prefix] = target = rivals and winner(rivals, resolver.target)
        if is_connected(target):
            return None
    return Change(
        routes=routes,
        nexthops={
            nexthop: compile_adjacency(snapshot, nexthop)
            for nexthop in resolver.nexthops
            if nexthop not in tables.nexthops
        },
        gateways={nexthop for nexthop in resolver.nexthops if nexthop.via} - tables.gateways,
        groups=resolver.groups,
    )
