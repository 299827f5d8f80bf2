"""What the group of a route looks like."""

from __future__ import annotations

from tests.unit.compile.values import (
    DEAD,
    FAILED,
    REACHABLE,
    VIA1,
    VIA2,
    hop,
    neighbours,
    route,
    snapshot,
    target,
)
from xdpecmp.compile import LAST_BOUND, Resilient, compile_tables
from xdpecmp.model.values import NextHop, Path, Prefix, Route, Settings
from xdpecmp.program.abi import MAX_PATHS, Reason


def group_of(prefix: str, *routes: Route, **parts: object) -> list[tuple[int, NextHop]]:
    tables = compile_tables(snapshot(*routes, **parts), {2})
    key = tables.routes[Prefix.parse(prefix)]
    assert isinstance(key, tuple)
    group = tables.groups[key]
    assert not isinstance(group, Resilient)
    return [(entry.bound, entry.nexthop) for entry in group]


def test_bounds_are_the_kernels() -> None:
    """From the recorded vectors: weights 1, 2, 5."""
    via = [hop(f"10.1.0.{i}") for i in range(3)]
    paths = [Path(nexthop, weight) for nexthop, weight in zip(via, (1, 2, 5), strict=True)]
    assert group_of("10.0.0.0/8", route("10.0.0.0/8", *paths)) == [
        (268435455, via[0]),
        (805306367, via[1]),
        (LAST_BOUND, via[2]),
    ]


def test_a_dead_path_is_left_out_of_the_total() -> None:
    paths = [Path(VIA1, 1), Path(VIA2, 7, DEAD), Path(hop("10.3.0.1"), 1)]
    assert group_of("10.0.0.0/8", route("10.0.0.0/8", *paths)) == [
        (2**30 - 1, VIA1),
        (LAST_BOUND, hop("10.3.0.1")),
    ]


def test_use_neigh_skips_a_failed_neighbour_and_wraps_to_the_first_good_one() -> None:
    paths = [Path(VIA1), Path(VIA2)]
    settings = Settings(seed=1, use_neigh=True)
    known = neighbours(("10.1.0.1", 2, REACHABLE), ("10.2.0.1", 3, FAILED))
    wanted = [(LAST_BOUND, VIA1)]
    assert group_of("10.0.0.0/8", route("10.0.0.0/8", *paths), settings=settings,
                    neighbours=known) == wanted  # fmt: skip


def test_without_use_neigh_a_failed_neighbour_keeps_its_share() -> None:
    known = neighbours(("10.2.0.1", 3, FAILED))
    found = group_of("10.0.0.0/8", route("10.0.0.0/8", VIA1, VIA2), neighbours=known)
    assert [nexthop for _, nexthop in found] == [VIA1, VIA2]


def test_routes_with_the_same_paths_share_a_group_that_outlives_a_dead_path() -> None:
    alive = compile_tables(
        snapshot(route("10.0.0.0/8", VIA1, VIA2), route("11.0.0.0/8", VIA1, VIA2)), {2}
    )
    dying = [Path(VIA1), Path(VIA2, 1, DEAD)]
    dead = compile_tables(snapshot(route("10.0.0.0/8", *dying), route("11.0.0.0/8", *dying)), {2})
    assert len(alive.groups) == 1
    assert alive.groups.keys() == dead.groups.keys(), "one store must move all routes at once"
    assert alive.routes == dead.routes


def test_more_paths_than_the_data_path_searches() -> None:
    paths = [hop(f"10.{i >> 8}.{i & 255}.1") for i in range(MAX_PATHS + 1)]
    assert target("10.0.0.0/8", route("10.0.0.0/8", *paths)) == Reason.ROUTE_UNSUPPORTED
