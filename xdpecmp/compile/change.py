"""Following single routes: compiling their prefixes anew, where that comes to the same as compiling
everything, and leaving them to Linux where it may not."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..abi import CAPACITY, Reason
from ..model import Prefix, Route, RouteKind, RouteUpdate, Snapshot
from ..prefixes import covered, covers, grouped
from ..routetable import RouteTable
from .adjacency import compile_adjacency
from .routes import Resolver, is_connected
from .tables import TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, Change, Entangled, Tables, Target
from .winners import wide_local, winner


def entangled(table: RouteTable, targets: Iterable[Prefix]) -> Entangled:
    """What the routes of a table hang on; `targets`: the directly connected networks in force."""
    fallback = table.where(lambda r: r.table == TABLE_DEFAULT and r.prefix.family == 4)
    return Entangled(grouped(targets), set(wide_local(table)), any(True for _ in fallback))


def compile_updates(
    snapshot: Snapshot, tables: Tables, updates: Iterable[RouteUpdate], doubtful: set[Prefix]
) -> Change | None:
    """What these updates, in order, change in the tables; they are done to the snapshot's routes
    too. `doubtful`: prefixes that wait for a dump, of which nothing is changed. It grows by those
    of which the updates don't say enough, and those that take compiling everything to be right;
    they pass to Linux. None where there may not be room for so many."""
    table = RouteTable.of(snapshot.routes)
    touched: dict[Prefix, None] = {}
    hubs: set[Prefix] = set()
    for update in updates:
        prefix = update.route.prefix
        touched[prefix] = None
        if not _stands_alone(update.route, table, tables):
            hubs.add(prefix)
            if update.route.table == TABLE_LOCAL:
                tables.entangled.wide_local.add(prefix)  # what comes under it waits too
        elif prefix not in doubtful and not table.apply(update):
            doubtful.add(prefix)
    if hubs:
        spokes = _bear_on(hubs, touched, table, tables)
        doubtful |= spokes
        touched |= dict.fromkeys(spokes)
    return _compile_change(snapshot, tables, touched, doubtful)


def _stands_alone(route: Route, table: RouteTable, tables: Tables) -> bool:
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
    return not _is_entangled(prefix, knots)


def _is_entangled(prefix: Prefix, knots: Entangled) -> bool:
    """Whether it is, or is in, a wide local prefix or a directly connected network."""
    return covered(prefix, knots.connected) or any(
        covers(wide, prefix) for wide in knots.wide_local
    )


def _bear_on(
    hubs: set[Prefix], touched: Iterable[Prefix], table: RouteTable, tables: Tables
) -> set[Prefix]:
    """The prefixes that routes of these ones may bear on, themselves among them: neighbours'
    addresses and what local prefixes hide are within, and table `default` is asked last."""
    knots = tables.entangled
    found = set(hubs)
    wide = [hub for hub in hubs if _is_entangled(hub, knots)]
    networks = grouped(wide)
    found |= tables.targets.under(wide)
    found.update(prefix for prefix in touched if covered(prefix, networks))
    if knots.fallback4:
        fallback = table.where(lambda r: r.table == TABLE_DEFAULT and r.prefix.family == 4)
        found.update(route.prefix for route in fallback)
    return found


def _compile_change(
    snapshot: Snapshot, tables: Tables, touched: Collection[Prefix], doubtful: set[Prefix]
) -> Change | None:
    table, known = RouteTable.of(snapshot.routes), tables.targets
    for family in (4, 6):
        bound = len(known.base.keys[family]) + len(known.changes) + len(touched)
        if bound > CAPACITY[f"ROUTES{family}_MAX"]:
            return None
    resolver = Resolver(snapshot, tables.groups)
    routes: dict[Prefix, Target | None] = {}
    for prefix in touched:
        rivals = table.by_prefix.lookup(prefix)
        target = rivals and winner(rivals, resolver.target)
        if is_connected(target):
            doubtful.add(prefix)
        routes[prefix] = int(Reason.ROUTE_UNSUPPORTED) if prefix in doubtful else target
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
