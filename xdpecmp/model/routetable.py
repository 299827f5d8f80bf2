"""All routes of a namespace, so that a million of them take tens of megabytes.

Routes differ in their prefix, hardly in anything else. What is known of a prefix is its
*candidates*: its routes in the kernel's order, without the prefix. There are few different such
tuples. The table changes in place, since a copy for each of ten thousand changes a second would
cost too much.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from .packed import FAMILIES, Keys, Layered, Numbers, Packed, as_keys, pack
from .values import Prefix, Route, RouteUpdate

Candidates = tuple[Route, ...]
"""The routes of a prefix, each with NOWHERE for its prefix."""

NOWHERE = {4: Prefix(bytes(4), 0), 6: Prefix(bytes(16), 0)}


class RouteTable:
    """The routes of the tables main, local and default, both families."""

    def __init__(self, by_prefix: Layered[Candidates]) -> None:
        self.by_prefix = by_prefix

    @classmethod
    def of(cls, routes: Iterable[Route]) -> RouteTable:
        """Those routes; of one prefix the kernel's order counts."""
        if isinstance(routes, RouteTable):
            return routes
        bodies: dict[Route, int] = {}
        keys: dict[int, bytearray] = {family: bytearray() for family in FAMILIES}
        numbers: dict[int, list[int]] = {family: [] for family in FAMILIES}
        for route in routes:
            family = route.prefix.family
            body = route._replace(prefix=NOWHERE[family])
            keys[family] += pack(route.prefix)
            numbers[family].append(bodies.setdefault(body, len(bodies)))
        return cls.build(
            {family: as_keys(family, raw) for family, raw in keys.items()},
            {family: np.array(found, np.uint32) for family, found in numbers.items()},
            list(bodies),
        )

    @classmethod
    def build(
        cls, keys: Mapping[int, Keys], bodies: Mapping[int, Numbers], known: list[Route]
    ) -> RouteTable:
        """From the kernel's order: by family the prefixes of all routes and, as numbers in `known`,
        what else there is to them."""
        candidates: dict[tuple[int, ...], int] = {}
        sorted_keys, numbers = {}, {}
        for family in FAMILIES:
            order = np.argsort(keys[family], kind="stable")
            sorted_keys[family], numbers[family] = _gather(
                keys[family][order], bodies[family][order], candidates
            )
        meanings = [tuple(known[body] for body in each) for each in candidates]
        return cls(Layered(Packed(sorted_keys, numbers), meanings))

    def sharing(self, other: RouteTable) -> RouteTable:
        """The same routes, in the other table's memory as far as they are alike: what compares the
        two, or what was made of them, sees that at a glance."""
        mine, theirs = self.by_prefix, other.by_prefix
        if mine.base.same(theirs.base):
            if mine.meanings == theirs.meanings and not mine.changes and not theirs.changes:
                return other
            return RouteTable(Layered(theirs.base, mine.meanings, mine.changes))
        if mine.base.same_prefixes(theirs.base):
            base = Packed(theirs.base.keys, mine.base.numbers)
            return RouteTable(Layered(base, mine.meanings, mine.changes))
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Route]:
        return self.where(lambda _: True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RouteTable):
            return NotImplemented
        mine, theirs = self.by_prefix, other.by_prefix
        if not mine.changes and not theirs.changes and mine.base.same(theirs.base):
            return mine.meanings == theirs.meanings
        return dict(mine) == dict(theirs)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def where(self, wanted: Callable[[Route], bool]) -> Iterator[Route]:
        """The routes of which that is true; asked without their prefixes, once for all alike."""
        for prefix, candidates in self.by_prefix.where(
            lambda candidates: any(map(wanted, candidates))
        ):
            for route in candidates:
                if wanted(route):
                    yield route._replace(prefix=prefix)

    def nexthop_ids(self) -> set[int]:
        """The nexthop objects that routes refer to; perhaps some that they did. 0 is for none."""
        return {route.nhid for candidates in self.by_prefix.distinct() for route in candidates}

    def leads_to(self, devices: Collection[int]) -> bool:
        """Whether a path of a route goes through one of these devices, dead or not."""
        known = self.by_prefix
        return any(
            path.nexthop.ifindex in devices
            for candidates in itertools.chain(known.meanings, known.changes.values())
            for route in candidates or ()
            for path in route.paths
        )

    def keep(self, before: RouteTable, family: int) -> None:
        """Have the routes too of prefixes that only `before` knows."""
        mine, theirs = self.by_prefix, before.by_prefix
        for prefix in theirs.missing_in(mine, family):
            mine.changes[prefix] = theirs.lookup(prefix)

    # --- updates ----------------------------------------------------------------------------------

    def lookup(self, prefix: Prefix) -> Candidates:
        """The routes of a prefix; () if there are none."""
        return self.by_prefix.lookup(prefix) or ()

    def put(self, candidates: Mapping[Prefix, Candidates]) -> None:
        """Have these prefixes these routes, in place; () is for none."""
        for prefix, routes in candidates.items():
            self.by_prefix.changes[prefix] = routes or None

    def apply(self, update: RouteUpdate) -> bool:
        """Do what the kernel says that it did, in place. False if that isn't plain: see
        `followed`."""
        prefix = update.route.prefix
        before = self.lookup(prefix)
        after = followed(before, update)
        if after is None:
            return False
        if after is not before:
            self.put({prefix: after})
        return True


def followed(candidates: Candidates, update: RouteUpdate) -> Candidates | None:
    """The routes of the update's prefix, given what they were, once the kernel has done what the
    update says. None if that isn't plain: then only a dump tells.

    An update may also be older than what they were, when it waited while the table was read. Those
    for one prefix come in the kernel's order, so the last one is as new as the table or newer.
    """
    new, family = update.route, update.route.prefix.family
    if new.selective or any(route.selective for route in candidates):
        return None
    same = [route for route in candidates if _place(route) == _place(new)]
    body = new._replace(prefix=NOWHERE[family])
    if len(same) > 1:
        return None
    if update.gone:
        return _without(candidates, same[0], body) if same else candidates
    joins = not (update.fresh or (update.replaces and same))
    if joins and family == 4:
        return None  # others of its metric, which may be alike in all that we know of them
    if same == [body]:
        return candidates
    if joins and same:
        return None  # the order decides among them
    return _with(candidates, body, same)


def _without(candidates: Candidates, known: Route, gone: Route) -> Candidates | None:
    """After `gone` was deleted, whose table and metric are those of `known`."""
    if _paths(known) != _paths(gone) or known.nhid != gone.nhid:
        # IPv6 says so when a route loses some of its paths; otherwise it is of long ago
        loses = gone.prefix.family == 6 and _nexthops(gone) & _nexthops(known)
        return None if loses else candidates
    return tuple(route for route in candidates if route is not known)


def _with(candidates: Candidates, body: Route, replaced: list[Route]) -> Candidates:
    """In the kernel's order, which is by metric."""
    if replaced:
        return tuple(body if route in replaced else route for route in candidates)
    behind = [
        i for i, r in enumerate(candidates) if r.table == body.table and r.metric > body.metric
    ]
    at = behind[0] if behind else len(candidates)
    return (*candidates[:at], body, *candidates[at:])


def _place(route: Route) -> tuple[int, int]:
    return route.table, route.metric


def _paths(route: Route) -> set[object]:
    return {(path.nexthop, path.weight) for path in route.paths}


def _nexthops(route: Route) -> set[object]:
    """Of a path that goes alone the weight isn't told."""
    return {path.nexthop for path in route.paths}


def _gather(
    keys: Keys, bodies: Numbers, candidates: dict[tuple[int, ...], int]
) -> tuple[Keys, Numbers]:
    """From sorted prefixes, of which some come several times, with one body each: each prefix once,
    with its entry in `candidates`, which grows."""
    if not len(keys):
        return keys, bodies
    first = np.empty(len(keys), np.bool_)
    first[0] = True
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    alone = np.diff(starts, append=len(keys)) == 1
    numbers = np.empty(len(starts), np.uint32)
    numbers[alone] = _numbered(bodies[starts[alone]], candidates)
    if not alone.all():
        ends = np.append(starts[1:], len(keys))
        for at in np.flatnonzero(~alone).tolist():
            each = tuple(bodies[starts[at] : ends[at]].tolist())
            numbers[at] = candidates.setdefault(each, len(candidates))
        keys = keys[starts]
    return keys, numbers


def _numbered(bodies: Numbers, candidates: dict[tuple[int, ...], int]) -> NDArray[np.uint32]:
    """For bodies that are the only ones of their prefix."""
    found, inverse = np.unique(bodies, return_inverse=True)
    numbers = [candidates.setdefault((body,), len(candidates)) for body in found.tolist()]
    return np.array(numbers, np.uint32)[inverse.reshape(-1)]
