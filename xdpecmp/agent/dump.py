"""Reading all routes while they change.

A dump of a million routes takes seconds. What is heard meanwhile is followed at once, and done to
what was read, too, before it counts: it may tell of routes as they were before.
"""

from __future__ import annotations

from typing import NamedTuple

from ..compile import Doubts
from ..model.routetable import RouteTable
from ..model.values import Prefix, RouteUpdate


class Dump:
    """What is heard while all routes are read."""

    def __init__(self) -> None:
        self.updates: list[RouteUpdate] = []
        """What was followed, in order."""
        self.gone_objects: set[int] = set()
        """Nexthop objects that went, and IPv4 routes over them without a word."""
        self.is_spoilt = False
        """Whether events were lost, so that what was read can't be put right."""


class Read(NamedTuple):
    """All routes as they are now."""

    table: RouteTable
    doubtful: set[Prefix]
    """Prefixes that the dump told nothing certain of."""
    is_torn: bool
    """Whether the kernel may have left IPv6 routes out without a word."""


def put_right(told: RouteTable, dump: Dump, known: RouteTable, doubts: Doubts) -> Read:
    """What a dump told, with what was heard meanwhile done to it in place. `known`: the routes as
    they were followed; `doubts`: what waited for this dump."""
    # if IPv6 routes come and go during a dump, it leaves out others without a word
    torn = len({each.gone for each in dump.updates if each.route.prefix.family == 6}) > 1
    missing: set[Prefix] = set()
    if torn:
        missing = {p for p in doubts.prefixes if p.family == 6 and not told.lookup(p)}
        told.keep(known, 6)
    table = told.sharing(known)
    doubtful = missing | {u.route.prefix for u in dump.updates if not table.apply(u)}
    if dump.gone_objects:
        gone = dump.gone_objects
        doubtful |= {route.prefix for route in table.where(lambda route: route.nhid in gone)}
    return Read(table, doubtful, torn)
