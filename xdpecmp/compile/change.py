"""Following single routes: compiling their prefixes anew, where that comes to the same as compiling
everything, and leaving them to Linux where it may not."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..model.prefixes import covered, grouped
from ..model.routetable import RouteTable
from ..model.values import Prefix, Route, RouteKind, RouteUpdate, Snapshot
from ..program.abi import CAPACITY, Reason
from .adjacency import compile_adjacency
from .routes import Resolver, is_connected
from .tables import TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, Change, Entangled, Tables, Target
from .winners import wide_local, winner


def entangled(table: RouteTable, targets: Iterable[Prefix]) -> Entangled:
    """What the routes of a table hang on; `targets`: the directly connected networks in force."""
    fallback = table.where(lambda r: r.table == TABLE_DEFAULT and r.prefix.family == 4)
    return Entangled(grouped(targets), grouped(wide_local(table)), any(True for _ in fallback))


def compile_updates(
    snapshot: Snapshot,
    tables: Tables,
    updates: Iterable[RouteUpdate],
    doubtful: set[Prefix],
    hubs: set[Prefix],
) -> Change | None:
    """What these updates, in order, change in the tables; they are done to the snapshot's routes
    too. `doubtful`: prefixes that wait for a dump, of which nothing is changed. It grows by those
    of which the updates don't say enough, and those that take compiling everything to be right;
    they pass to Linux. `hubs`: those of them with all that is within. None where there may not be
    room for so many."""
    table, knots = RouteTable.of(snapshot.routes), tables.entangled
    touched: dict[Prefix, None] = {}
    knotty: set[Prefix] = set()
    for update in updates:
        prefix = update.route.prefix
        touched[prefix] = None
        if not _stands_alone(update.route, table, tables):
            knotty.add(prefix)
            if update.route.table == TABLE_LOCAL:
                knots.hide(prefix)
        elif prefix not in doubtful and not table.apply(update):
            doubtful.add(prefix)
    spokes: set[Prefix] = set()
    if knotty:
        wide = {prefix for prefix in knotty if _is_entangled(prefix, knots)}
        networks = grouped(wide)
        spokes = tables.targets.under(wide)
        spokes.update(prefix for prefix in touched if covered(prefix, networks))
        hubs |= wide
        doubtful |= knotty
        if knots.fallback4:  # which is asked last
            asked = table.where(lambda r: r.table == TABLE_DEFAULT and r.prefix.family == 4)
            fallback = {route.prefix for route in asked}
            doubtful |= fallback
            touched |= dict.fromkeys(fallback)
        touched |= dict.fromkeys(spokes)
    return compile_touched(snapshot, tables, touched, doubtful, spokes)


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
    return covered(prefix, knots.connected) or covered(prefix, knots.hidden)


def compile_touched(
    snapshot: Snapshot,
    tables: Tables,
    touched: Collection[Prefix],
    doubtful: set[Prefix],
    spokes: Collection[Prefix],
) -> Change | None:
    """What these prefixes lead to now; those in `doubtful` and `spokes` pass. None where there may
    not be room for so many."""
    table = RouteTable.of(snapshot.routes)
    if not has_room(tables, touched):
        return None
    resolver = Resolver(snapshot, tables.groups)
    routes: dict[Prefix, Target | None] = {}
    for prefix in touched:
        rivals = table.by_prefix.lookup(prefix)
        target = rivals and winner(rivals, resolver.target)
        if is_connected(target):
            doubtful.add(prefix)
        passes = prefix in doubtful or prefix in spokes
        routes[prefix] = int(Reason.ROUTE_UNSUPPORTED) if passes else target
    return Change(
        routes=routes,
        nexthops={
            nexthop: compile_adjacency(snapshot, nexthop, tables.guarded)
            for nexthop in resolver.nexthops
            if nexthop not in tables.nexthops
        },
        gateways={nexthop for nexthop in resolver.nexthops if nexthop.via} - tables.gateways,
        groups=resolver.groups,
    )


def has_room(tables: Tables, touched: Collection[Prefix]) -> bool:
    """Whether the maps can take so many prefixes more."""
    known = tables.targets
    for family in (4, 6):
        most = CAPACITY[f"ROUTES{family}_MAX"]
        count = len(known.base.keys[family]) + len(known.changes)
        if count + len(touched) > most:
            added = sum(p.family == family and known.base.find(p) is None for p in touched)
            if count + added > most:
                return False
    return True
