"""What is known of the kernel's routing, and the tables compiled of it. Both change in place.

Events are followed one by one, ten thousand a second even if there are a million routes, so no
table is copied for each. `compile` takes these objects for values, which it only reads; the changes
that it finds are made here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Self

from ..compile import Adjacency, Doubts, Group, Key, TableChange, Tables, compile_tables
from ..compile.change import compile_updates
from ..compile.doubts import hiding
from ..compile.follow import NeighbourKey, counts
from ..model.hashkey import NO_KEY, KeyState
from ..model.options import Options
from ..model.packed import Layered
from ..model.routetable import RouteTable
from ..model.values import Neighbour, NeighbourUpdate, NextHop, Prefix, RouteUpdate, Snapshot
from .dump import Read


@dataclass(frozen=True, slots=True)
class LiveTables(Tables):
    """Tables whose routes, next hops and groups change in place."""

    nexthops: dict[NextHop, Adjacency] = field(default_factory=dict)
    gateways: set[NextHop] = field(default_factory=set)
    groups: dict[Key, Group] = field(default_factory=dict)

    @classmethod
    def of(cls, tables: Tables) -> Self:
        """A copy of compiled tables, as far as they will change."""
        values = {each.name: getattr(tables, each.name) for each in fields(Tables)}
        targets = tables.targets
        values["routes"] = Layered(targets.base, targets.meanings, dict(targets.changes))
        values["nexthops"] = dict(tables.nexthops)
        values["gateways"] = set(tables.gateways)
        values["groups"] = dict(tables.groups)
        return cls(**values)

    def apply(self, change: TableChange) -> None:
        """Have these tables say the change too. What is no longer needed stays."""
        self.targets.changes.update(change.routes)
        self.nexthops.update(change.nexthops)
        self.gateways.update(change.gateways)
        self.groups.update(change.groups)


class LiveRouting:
    """The routing of a namespace as last heard, and what the maps must hold for it."""

    def __init__(
        self,
        snapshot: Snapshot,
        options: Options,
        attached: Collection[int],
        deep: bool,
        key_state: KeyState = NO_KEY,
    ) -> None:
        """Compiles the snapshot: see `compile_tables`."""
        self.options = options
        self.key_state = key_state
        """What is known of Linux's hash key beside its sysctl."""
        self.snapshot = self.with_key(snapshot)
        """Its route table, nexthop table and neighbours change in place."""
        self.doubtful: set[Prefix] = set()
        """What waits for a dump, and passes to Linux until then."""
        self.covering: set[Prefix] = set()
        """Those of them that pass with all that is within."""
        self.used_objects: set[int] = set()
        """Nexthop objects that routes refer to, and perhaps some that they did."""
        self._source: tuple[Snapshot, Collection[int], bool] | None = None
        """What `tables` was compiled from; None: it has changed since."""
        self.find_used_objects()
        self.compile(attached, deep)

    @property
    def routes(self) -> RouteTable:
        """All routes."""
        return RouteTable.of(self.snapshot.routes)

    @property
    def doubts(self) -> Doubts:
        """What passes until a dump tells more; to be read before the next change."""
        return Doubts(self.doubtful, self.covering)

    # --- all of it --------------------------------------------------------------------------------

    def with_key(self, snapshot: Snapshot) -> Snapshot:
        """With what is known of Linux's hash key, which the kernel does not say."""
        if snapshot.settings.found_key == self.key_state.key:
            return snapshot
        settings = replace(snapshot.settings, found_key=self.key_state.key)
        return replace(snapshot, settings=settings)

    def compile(self, attached: Collection[int], deep: bool) -> None:
        """Compile the snapshot: see `compile_tables`."""
        self.tables = LiveTables.of(
            compile_tables(self.snapshot, attached, self.options, deep, self.doubts)
        )
        self._source = self.snapshot, attached, deep

    def is_compiled(self, attached: Collection[int], deep: bool) -> bool:
        """Whether the tables are what `compile` would make."""
        return (
            self._source is not None
            and self._source[0] is self.snapshot
            and self._source == (self.snapshot, attached, deep)
        )

    def touch(self) -> None:
        """The snapshot changes in place, so that it is no longer what the tables were compiled
        from."""
        self._source = None

    def find_used_objects(self) -> None:
        """Find out which nexthop objects routes refer to."""
        self.used_objects = self.routes.nexthop_ids()

    # --- changes ----------------------------------------------------------------------------------

    def update(self, updates: Iterable[RouteUpdate]) -> TableChange | None:
        """Do what these updates say, in order. Returns what of the tables has changed; None: the
        maps may not have the capacity for it, and nothing of the tables has."""
        self.touch()
        change = compile_updates(self.snapshot, self.tables, updates, self.doubts)
        self.routes.put(change.candidates)
        if change.doubts.prefixes:
            self.doubtful |= change.doubts.prefixes
            self.covering |= change.doubts.covering
        if change.hidden:
            dependencies = hiding(self.tables.dependencies, change.hidden)
            self.tables = replace(self.tables, dependencies=dependencies)
        if change.tables is not None:
            self.apply(change.tables)
        return change.tables

    def follow_neighbours(
        self, updates: Iterable[NeighbourUpdate]
    ) -> dict[NeighbourKey, Neighbour | None]:
        """Do what these updates say, except to the tables. Returns what those were that differ now
        in what counts."""
        known = self.snapshot.neighbours
        assert isinstance(known, dict)
        before: dict[NeighbourKey, Neighbour | None] = {}
        for neighbour, gone in updates:
            key = neighbour.address, neighbour.ifindex
            was, now = known.get(key), None if gone else neighbour
            if counts(was, now):
                before.setdefault(key, was)
            if now is None:
                known.pop(key, None)
            else:
                known[key] = now
        if before:
            self.touch()
        return before

    def doubt(self, prefixes: Collection[Prefix]) -> None:
        """Have these pass until a dump tells more, once all is compiled."""
        if prefixes:
            self.touch()
            self.doubtful.update(prefixes)

    def take_over(self, read: Read) -> None:
        """All routes were read: what the dump told nothing of remains in doubt."""
        self.doubtful, self.covering = set(read.doubtful), self.covering & read.doubtful

    def apply(self, change: TableChange) -> None:
        """Have the tables say this change too."""
        self.touch()
        self.doubtful |= change.doubtful
        self.tables.apply(change)
