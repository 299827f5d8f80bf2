"""What is known of the kernel's routing, and the tables compiled of it. Both change in place.

Events are followed one by one, ten thousand a second where there are a million routes: then no
table is copied for each. Everything else takes and gives values.
"""

from __future__ import annotations

from collections.abc import Collection

from ..compile import compile_tables
from ..model.options import Options
from ..model.routetable import RouteTable
from ..model.values import Prefix, Snapshot


class LiveRouting:
    """The routing of a namespace as last heard, and what the maps must hold for it."""

    def __init__(
        self, snapshot: Snapshot, options: Options, attached: Collection[int], deep: bool
    ) -> None:
        """Compiles the snapshot: see `compile_tables`."""
        self.options = options
        self.snapshot = snapshot
        """Its route table, nexthop table and neighbours change in place."""
        self.doubtful: set[Prefix] = set()
        """What waits for a dump, and passes to Linux until then."""
        self.hubs: set[Prefix] = set()
        """Those of them that do so with all that is within."""
        self.used_objects: set[int] = set()
        """Nexthop objects that routes refer to, and perhaps some that they did."""
        self._source: tuple[Snapshot, Collection[int], bool] | None = None
        """What `tables` was compiled from; None where it has changed since."""
        self.find_used_objects()
        self.compile(attached, deep)

    @property
    def routes(self) -> RouteTable:
        """All routes."""
        return RouteTable.of(self.snapshot.routes)

    def touch(self) -> None:
        """The snapshot changes in place, so that the tables are not what it says until they are
        changed too, or compiled."""
        self._source = None

    def is_compiled(self, attached: Collection[int], deep: bool) -> bool:
        """Whether the tables are what `compile` would make."""
        return (
            self._source is not None
            and self._source[0] is self.snapshot
            and self._source == (self.snapshot, attached, deep)
        )

    def find_used_objects(self) -> None:
        """Find out which nexthop objects routes refer to."""
        self.used_objects = self.routes.nexthop_ids()

    def compile(self, attached: Collection[int], deep: bool) -> None:
        """Compile the snapshot: see `compile_tables`."""
        self.tables = compile_tables(self.snapshot, attached, self.options, deep)
        self.tables.doubt(self.doubtful, self.hubs)
        self._source = self.snapshot, attached, deep
