"""Following single routes: compiling their prefixes alone if that comes to the same as compiling
everything, and leaving them to Linux if it may not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from ..model.prefixes import Networks, covered, grouped
from ..model.routetable import Candidates, RouteTable, followed
from ..model.values import Prefix, Route, RouteKind, RouteUpdate, Snapshot
from ..program.abi import CAPACITY, Reason
from .adjacency import compile_adjacency
from .tables import (
    TABLE_DEFAULT,
    TABLE_LOCAL,
    TABLE_MAIN,
    Dependencies,
    Doubts,
    TableChange,
    Tables,
    Target,
)
from .targets import TargetCompiler, is_connected
from .winners import wide_local, winner


class RouteChange(NamedTuple):
    """What route updates change."""

    candidates: dict[Prefix, Candidates]
    """Of the route table."""
    doubts: Doubts
    """Prefixes of which the updates don't say enough, and those that take compiling everything to
    be right: more than there were."""
    hidden: AbstractSet[Prefix]
    """More of Dependencies.hidden."""
    tables: TableChange | None
    """None: the maps may not have the capacity for so many prefixes."""


def dependencies_of(table: RouteTable, connected: Iterable[Prefix]) -> Dependencies:
    """What makes routes of a table bear on others; `connected`: the directly connected networks in
    force."""
    fallback = table.where(lambda r: r.table == TABLE_DEFAULT and r.prefix.family == 4)
    return Dependencies(grouped(connected), grouped(wide_local(table)), any(True for _ in fallback))


def compile_updates(
    snapshot: Snapshot, tables: Tables, updates: Iterable[RouteUpdate], doubts: Doubts
) -> RouteChange:
    """What these updates change, in order. Of prefixes in `doubts` nothing does: they wait for a
    dump."""
    pending = _Pending(RouteTable.of(snapshot.routes), tables.dependencies, doubts.prefixes)
    for update in updates:
        pending.follow(update)
    within: set[Prefix] = set()
    covering: frozenset[Prefix] = frozenset()
    if pending.dependent:
        covering = frozenset(filter(pending.is_shared, pending.dependent))
        networks = grouped(covering)
        within = tables.targets.under(covering)
        within.update(prefix for prefix in pending.touched if covered(prefix, networks))
        pending.doubtful |= pending.dependent | pending.fallback4()
        pending.touched |= dict.fromkeys(pending.doubtful | within)
    doubtful = pending.doubtful
    change = compile_touched(
        snapshot,
        tables,
        pending.touched,
        pending.lookup,
        lambda prefix: prefix in doubtful or prefix in within or prefix in doubts.prefixes,
    )
    return RouteChange(pending.candidates, Doubts(doubtful, covering), pending.local, change)


class _Pending:
    """A route table, and updates of it that have not been done to it yet."""

    def __init__(
        self, table: RouteTable, dependencies: Dependencies, waiting: AbstractSet[Prefix]
    ) -> None:
        """`waiting`: prefixes that wait for a dump."""
        self.table = table
        self.candidates: dict[Prefix, Candidates] = {}
        """Of prefixes that the updates changed."""
        self.touched: dict[Prefix, None] = {}
        """All prefixes of the updates, in order."""
        self.doubtful: set[Prefix] = set()
        """Those of which an update was not plain."""
        self.dependent: set[Prefix] = set()
        """Those that do not stand alone."""
        self.local: set[Prefix] = set()
        """Those of them that table local has, or had."""
        self._dependencies, self._waiting = dependencies, waiting
        self._hidden: Networks = {}

    def lookup(self, prefix: Prefix) -> Candidates:
        """The routes of a prefix, after the updates."""
        known = self.candidates.get(prefix)
        return self.table.lookup(prefix) if known is None else known

    def follow(self, update: RouteUpdate) -> None:
        """Take one more update."""
        prefix = update.route.prefix
        self.touched[prefix] = None
        if not self._stands_alone(update.route):
            self.dependent.add(prefix)
            if update.route.table == TABLE_LOCAL:
                self.local.add(prefix)
                self._hidden.setdefault((prefix.family, prefix.length), set()).add(prefix.address)
        elif prefix not in self._waiting and prefix not in self.doubtful:
            before = self.lookup(prefix)
            after = followed(before, update)
            if after is None:
                self.doubtful.add(prefix)
            elif after is not before:
                self.candidates[prefix] = after

    def is_shared(self, prefix: Prefix) -> bool:
        """Whether it is, or is in, a wide local prefix or a directly connected network."""
        known = self._dependencies
        return (
            covered(prefix, known.connected)
            or covered(prefix, known.hidden)
            or (bool(self._hidden) and covered(prefix, self._hidden))
        )

    def fallback4(self) -> set[Prefix]:
        """All prefixes of IPv4's table `default`, which is asked last."""
        if not self._dependencies.fallback4:
            return set()
        asked = self.table.where(lambda r: r.table == TABLE_DEFAULT and r.prefix.family == 4)
        return {route.prefix for route in asked}

    def _stands_alone(self, route: Route) -> bool:
        """Whether a change of this route bears on nothing except its prefix: not on what is said of
        our own addresses, nor on other routes or neighbours."""
        prefix = route.prefix
        if route.table != TABLE_MAIN or route.kind is RouteKind.LOCAL:
            return False
        for each in self.lookup(prefix):
            if each.table == TABLE_MAIN and each.kind is RouteKind.LOCAL:
                return False
        if prefix.family == 4 and self._dependencies.fallback4:
            return False
        return not self.is_shared(prefix)


def compile_touched(
    snapshot: Snapshot,
    tables: Tables,
    touched: Collection[Prefix],
    lookup: Callable[[Prefix], Candidates],
    passes: Callable[[Prefix], bool],
) -> TableChange | None:
    """What these prefixes lead to now. `lookup`: their routes; `passes`: whether one passes to
    Linux whatever its routes. None: the maps may not have the capacity for so many."""
    if not fit(tables, touched):
        return None
    compiler = TargetCompiler(snapshot, tables.groups)
    routes: dict[Prefix, Target | None] = {}
    doubtful: set[Prefix] = set()
    for prefix in touched:
        candidates = lookup(prefix)
        target = winner(candidates, compiler.target) if candidates else None
        if is_connected(target):  # whose neighbours become host routes: see compile_tables
            doubtful.add(prefix)
        held_back = prefix in doubtful or passes(prefix)
        routes[prefix] = int(Reason.ROUTE_UNSUPPORTED) if held_back else target
    return TableChange(
        routes=routes,
        nexthops={
            nexthop: compile_adjacency(snapshot, nexthop, tables.guarded)
            for nexthop in compiler.nexthops
            if nexthop not in tables.nexthops
        },
        gateways={nexthop for nexthop in compiler.nexthops if nexthop.via} - tables.gateways,
        groups=compiler.groups,
        doubtful=doubtful,
    )


def fit(tables: Tables, touched: Collection[Prefix]) -> bool:
    """Whether the maps have the capacity for all of these prefixes besides what they hold."""
    known = tables.targets
    for family in (4, 6):
        most = CAPACITY[f"ROUTES{family}_MAX"]
        count = len(known.base.keys[family]) + len(known.changes)
        if count + len(touched) > most:
            added = sum(p.family == family and known.base.find(p) is None for p in touched)
            if count + added > most:
                return False
    return True
