"""The map `nexthops`, as those see it who only read."""

from __future__ import annotations

from collections.abc import Iterable

from .abi import Reason
from .maps import Maps
from .model import NextHop


def read_nexthops(maps: Maps) -> Iterable[tuple[int, NextHop]]:
    """The next hops in use, with their numbers."""
    entries = maps["nexthops"].entries
    for slot in range(maps["control"].entries[0].nexthops_used):
        entry = entries[slot]
        if entry.ifindex and entry.reason != Reason.NO_ROUTE:
            via = bytes(entry.via)[: {0: 0, 4: 4, 6: 16}[entry.family]]
            yield slot, NextHop(via, entry.ifindex)
