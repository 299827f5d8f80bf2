"""What a group's paths come to: bounds, and who stands in for whom.

Sources: fib_rebalance() in net/ipv4/fib_semantics.c, rt6_upper_bound_set() in net/ipv6/route.c;
for nexthop objects net/ipv4/nexthop.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..hashing import bounds
from ..model.values import NextHop, NexthopGroup, Path, Snapshot
from .tables import LAST_BOUND, Group, PathEntry, Resilient


def route_group(
    snapshot: Snapshot, ipv4: bool, paths: Sequence[Path]
) -> tuple[PathEntry, ...] | None:
    """The paths of a multipath route that live, with their bounds; None if none does."""
    weights = [None if _left_out(snapshot, ipv4, path) else path.weight for path in paths]
    if not any(weights):
        return None
    entries = _entries(paths, weights)
    if ipv4 and snapshot.settings.use_neigh:
        return _skip_bad_neighbours(snapshot, entries)
    return entries


def object_group(snapshot: Snapshot, group: NexthopGroup) -> Group:
    """A group of nexthop objects: flags of its members never count (what is dead gets deleted),
    neighbours always do, save in a resilient group."""
    nexthops = [path.nexthop for path in group.members]
    if group.resilient:
        buckets = tuple(nexthops[index] for index in group.buckets)
        return Resilient(buckets, frozenset(nexthops), group.idle_s, group.unbalanced_s)
    weights = [path.weight for path in group.members]
    return _skip_bad_neighbours(snapshot, _entries(group.members, weights))


def _left_out(snapshot: Snapshot, ipv4: bool, path: Path) -> bool:
    if path.dead:
        return True
    settings = snapshot.settings.interfaces.get(path.nexthop.ifindex)
    if not path.linkdown or settings is None:
        return False
    return settings.ignore_linkdown4 if ipv4 else settings.ignore_linkdown6


def _entries(paths: Sequence[Path], weights: Sequence[int | None]) -> tuple[PathEntry, ...]:
    """The paths that have a weight, with their bounds."""
    return tuple(
        PathEntry(bound, path.nexthop, path.weight)
        for path, bound in zip(paths, bounds(weights), strict=True)
        if bound >= 0
    )


def _skip_bad_neighbours(snapshot: Snapshot, group: tuple[PathEntry, ...]) -> tuple[PathEntry, ...]:
    """The first good path by bound, else the first good one, else the first. Said in bounds: bad
    paths fall away, and what lies above the last good bound goes to the first."""
    good = [entry for entry in group if _good(snapshot, entry.nexthop)]
    if len(good) < 2:
        return ((good or group)[0]._replace(bound=LAST_BOUND),)
    if good[-1].bound != LAST_BOUND:
        good.append(PathEntry(LAST_BOUND, good[0].nexthop, 0))
    return tuple(good)


def _good(snapshot: Snapshot, nexthop: NextHop) -> bool:
    neighbour = snapshot.neighbours.get((nexthop.via, nexthop.ifindex))
    return neighbour is None or neighbour.valid
