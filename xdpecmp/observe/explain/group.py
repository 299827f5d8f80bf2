"""The group that a packet's route leads to, and what was chosen of it."""

from __future__ import annotations

from typing import NamedTuple

from ...hashing import select
from ...model.values import NextHop
from ...program.abi import GroupKind
from ...program.maps import Maps, nexthop_of
from .decision import Decision


class ThresholdPath(NamedTuple):
    """One path of a group with thresholds."""

    nexthop: NextHop
    weight: int
    bound: int
    """The largest hash that takes this path."""


class ThresholdGroup(NamedTuple):
    """Each path takes a part of the hash space."""

    paths: tuple[ThresholdPath, ...]
    chosen: int | None
    """Which one; None without a hash."""


class ResilientGroup(NamedTuple):
    """Each bucket belongs to one next hop."""

    buckets: int
    bucket: int | None
    """Which one; None without a hash."""


def group_of(maps: Maps, decision: Decision) -> ThresholdGroup | ResilientGroup | None:
    """None for a route without a choice."""
    if not decision.is_multipath:
        return None
    kind, first, count = decision.group
    number = decision.hash
    if kind == GroupKind.RESILIENT:
        return ResilientGroup(count, None if number is None else number % count)
    entries = maps["paths"].entries[first : first + count]
    paths = tuple(
        ThresholdPath(
            named_as_linux(maps, entry.nexthop, decision.destination),
            (entry.weight + 1) & 0xFFFF,
            entry.bound,
        )
        for entry in entries
    )
    bounds = [path.bound for path in paths]
    return ThresholdGroup(paths, None if number is None else select(bounds, number))


def named_as_linux(maps: Maps, number: int, destination: bytes) -> NextHop:
    """The next hop of that number as Linux names it: a host on the link has no gateway."""
    nexthop = nexthop_of(maps["nexthops"].entries[number])
    return nexthop._replace(via=b"") if nexthop.via == destination else nexthop
