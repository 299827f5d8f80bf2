"""Nexthop objects, followed one by one.

The kernel does some things without a word: the buckets of a resilient group move when its members
change, and IPv4 routes go with the object that they refer to. What moved is read; routes that may
have gone pass to Linux until all are read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from ..compile import TableChange
from ..compile.follow import compile_objects
from ..errors import XdpecmpError
from ..model.nexthoptable import BucketUpdate, NexthopTable, NexthopUpdate
from ..netlink import Kernel
from .dump import Dump
from .live import LiveRouting

NO_CHANGE = TableChange({}, {}, frozenset(), {})


class Followed(NamedTuple):
    """What comes of some updates."""

    change: TableChange | None
    """None: everything has to be compiled."""
    is_sure: bool
    """Whether no routes can have gone with the objects."""


class Objects:
    """Follows the nexthop objects of a namespace."""

    def __init__(self, kernel: Kernel, live: LiveRouting, complain: Callable[[str], None]) -> None:
        """`complain` logs a sentence."""
        self._kernel, self._live, self._complain = kernel, live, complain
        self._gone: set[int] = set()
        """Objects in use that went since all routes were read last."""

    def routes_are_read(self) -> None:
        """All routes were read. What leads to an object that is still gone passes all the same."""
        self._gone = set()

    def read_buckets(self) -> None:
        """Read those of resilient groups in use that may have moved without a word. What cannot be
        read is tried again with the next change; it passes if it no longer fits its group."""
        objects = self._live.snapshot.nexthop_groups
        if not isinstance(objects, NexthopTable):
            return
        for nhid in objects.unread & self._live.used_objects:
            try:
                objects.set_buckets(nhid, self._kernel.buckets(nhid))
            except (XdpecmpError, OSError) as error:
                self._complain(f"buckets of nexthop group {nhid}: {error}")

    def follow(
        self, updates: Iterable[NexthopUpdate | BucketUpdate], dump: Dump | None
    ) -> Followed:
        """Do what these updates say. `dump`: what goes on meanwhile. What no route refers to costs
        nothing more than its entry in the table."""
        live = self._live
        objects = live.snapshot.nexthop_groups
        assert isinstance(objects, NexthopTable)
        before = objects.apply(updates, live.used_objects)
        self.read_buckets()
        gone = self._gone | (objects.removed & live.used_objects)
        if dump:
            dump.gone_objects |= gone
        back = {nhid for nhid in before if nhid in gone and nhid in objects}
        self._gone = gone - back
        if back and self._doubt_routes_over(back):
            return Followed(None, is_sure=False)
        before = {nhid: was for nhid, was in before.items() if objects.get(nhid) != was}
        if not before:
            return Followed(NO_CHANGE, is_sure=True)
        live.touch()
        found = compile_objects(live.snapshot, live.tables, before, live.doubts)
        if found is None:
            return Followed(None, is_sure=all(nhid in objects for nhid in before))
        return Followed(found.change, is_sure=not found.routes_gone)

    def _doubt_routes_over(self, nhids: Collection[int]) -> bool:
        """An object that went took its IPv4 routes along without a word: that it is back brings
        none of them back. Returns whether there were any; they pass to Linux until they are
        read."""
        found = {r.prefix for r in self._live.routes.where(lambda route: route.nhid in nhids)}
        self._live.doubt(found)
        return bool(found)
