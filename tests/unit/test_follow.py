"""Following events of neighbours and nexthop objects makes the tables that compiling makes."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.simulated import (
    ADDRESSES,
    FAILED,
    GROUP_IDS,
    LINKS,
    REACHABLE,
    ROUTES,
    SINGLE_IDS,
    SimulatedObjects,
    neighbours,
    object_steps,
    on_link,
    over,
    play,
)
from xdpecmp.agent.deep import DeepProgram
from xdpecmp.agent.live import LiveRouting
from xdpecmp.agent.mirror import Mirror
from xdpecmp.compile import compile_tables
from xdpecmp.model.nexthoptable import BucketUpdate, Group, NexthopTable, NexthopUpdate, Single
from xdpecmp.model.options import Options
from xdpecmp.model.routetable import RouteTable
from xdpecmp.model.values import (
    EGRESS,
    Filter,
    Filters,
    Neighbour,
    NeighbourUpdate,
    NextHop,
    Path,
    Prefix,
    Route,
    RouteKind,
    Settings,
    Snapshot,
)
from xdpecmp.netlink import Changes
from xdpecmp.program.abi import Reason
from xdpecmp.program.clock import Clock

NO_PROGRAM = DeepProgram(lambda: pytest.fail("nothing to build"))


NO_FILTERS = Filters()
all_filters = st.sampled_from(
    [NO_FILTERS, Filters((Filter("tc qdisc tbf on eth3", ifindex=3, side=EGRESS),))]
)
"""None, and one on a device that some next hops are behind."""


class FakeKernel:
    """Tells buckets, and takes note of who is managed."""

    def __init__(self, first: Snapshot, objects: SimulatedObjects) -> None:
        self.first, self.objects = first, objects
        self.managed: list[bytes] = []
        self.asked: list[int] = []

    def snapshot(self) -> Snapshot:
        return self.first

    def buckets(self, group: int) -> Mapping[int, int]:
        self.asked.append(group)
        return dict(self.objects.buckets.get(group, {}))

    def manage_neighbour(self, address: bytes, _ifindex: int) -> None:
        self.managed.append(address)


class FakeDataplane:
    """Takes everything, and counts what takes all of it."""

    def __init__(self) -> None:
        self.synced = 0
        self.changed = 0
        self.crowded_out: list[int] = []

    def change(self, _change: object) -> bool:
        self.changed += 1
        return True

    def sync(self, _tables: object) -> bool:
        self.synced += 1
        return True


def mirror_of(kernel: FakeKernel) -> Mirror:
    live = LiveRouting(kernel.snapshot(), Options(), {2}, deep=False)
    parts = (kernel, live, FakeDataplane(), Clock(-1), NO_PROGRAM, (), lambda _: None)
    made = Mirror(*parts)  # type: ignore[arg-type]
    made.attached = lambda: {2}  # type: ignore[method-assign]
    return made


def world(
    kept: list[Route],
    known: Mapping[tuple[bytes, int], Neighbour],
    objects: SimulatedObjects,
    use_neigh: bool,
    filters: Filters = NO_FILTERS,
) -> Snapshot:
    table, routes = NexthopTable(objects.objects, objects.buckets), RouteTable.of(kept)
    made = Settings(seed=1, use_neigh=use_neigh)
    return Snapshot(LINKS, dict(known), routes, made, nexthop_groups=table, filters=filters)


def resolved(tables: object) -> dict[Prefix, object]:
    """What each prefix leads to, groups as what is in them; what is gone passes."""
    found: dict[Prefix, object] = {}
    for prefix, target in tables.routes.items():  # type: ignore[attr-defined]
        if isinstance(target, tuple) and not isinstance(target, NextHop):
            target = tables.groups[target] or int(Reason.ROUTE_UNSUPPORTED)  # type: ignore[attr-defined]
        found[prefix] = target
    return found


def assert_right(
    mirror: Mirror, wanted: Snapshot, passes: bool = False, orphaning: Collection[int] = ()
) -> None:
    """`passes`: what leads to a nexthop object that is gone, or none of ours, may pass for another
    reason than it would: what counts is that it does. `orphaning`: routes over these pass."""
    compiled = compile_tables(wanted, {2})
    assert mirror.tables is not None
    found, right = resolved(mirror.tables), resolved(compiled)
    special = {int(Reason.ROUTE_SPECIAL), int(Reason.ROUTE_UNSUPPORTED)}
    for prefix in found.keys() | right.keys():
        one, other = found.get(prefix), right.get(prefix)
        nhids = {route.nhid for route in wanted.routes if route.prefix == prefix}
        if one == Reason.ROUTE_UNSUPPORTED and nhids & set(orphaning):
            continue
        assert one == other or (passes and {one, other} <= special), prefix
    assert mirror.tables.nexthops.items() >= compiled.nexthops.items()
    assert mirror.tables.gateways >= compiled.gateways
    if not wanted.filters.found:  # that a family passes as a whole takes reading it again
        assert mirror.tables.config == compiled.config


def some_routes() -> st.SearchStrategy[list[Route]]:
    """Some of each kind, so that they bear on each other."""

    def subset(of: list[Route], most: int) -> st.SearchStrategy[list[Route]]:
        return st.lists(
            st.sampled_from(of),
            min_size=1,
            max_size=most,
            unique_by=lambda r: (r.prefix, r.table, r.metric),
        )

    networks = [r for r in ROUTES if r.paths and not r.paths[0].nexthop.via]
    routed = [r for r in ROUTES if r.paths and r.paths[0].nexthop.via]
    objects = [r for r in ROUTES if r.nhid]
    return st.builds(
        lambda *parts: [route for part in parts for route in part],
        subset(networks, 4),
        subset(routed, 3),
        subset(objects, 5),
    )


USUAL = (
    *(
        ("single", i, Single(RouteKind.UNICAST, Path(NextHop(ADDRESSES[i - 1], 2))))
        for i in (1, 2, 3)
    ),
    ("group", 10, {1: 1, 2: 2}, False),
    ("group", 11, {1: 1, 2: 1, 3: 1}, False),
    ("group", 12, {1: 1, 2: 1}, True),
)
"""Objects that there are at first."""


@given(
    some_routes(),
    st.lists(neighbours(), max_size=4),
    st.lists(object_steps, max_size=3),
    st.lists(st.lists(neighbours(), min_size=1, max_size=3), min_size=1, max_size=5),
    st.booleans(),
    all_filters,
)
@settings(max_examples=1000, deadline=None)
def test_following_neighbours_comes_to_the_same(
    kept: list[Route],
    first: list[NeighbourUpdate],
    objects: list[tuple[object, ...]],
    script: list[list[NeighbourUpdate]],
    use_neigh: bool,
    filters: Filters,
) -> None:
    played = SimulatedObjects()
    for step in (*USUAL, *objects):
        play(played, step)
    known = {(n.address, n.ifindex): n for n, gone in first if not gone}
    mirror = mirror_of(FakeKernel(world(kept, known, played, use_neigh, filters), played))
    for updates in script:
        for each, gone in updates:
            if gone:
                known.pop((each.address, each.ifindex), None)
            else:
                known[each.address, each.ifindex] = each
        assert mirror.follow(Changes(neighbour_updates=tuple(updates)))
        assert_right(mirror, world(kept, known, played, use_neigh, filters))


@given(
    some_routes(),
    st.lists(neighbours(), max_size=4),
    st.lists(object_steps, max_size=3),
    st.lists(st.lists(object_steps, min_size=1, max_size=3), min_size=1, max_size=5),
    st.booleans(),
    all_filters,
)
@settings(max_examples=800, deadline=None)
def test_following_objects_comes_to_the_same(
    kept: list[Route],
    first: list[NeighbourUpdate],
    before: list[tuple[object, ...]],
    script: list[list[tuple[object, ...]]],
    use_neigh: bool,
    filters: Filters,
) -> None:
    """Routes over an object that is gone, and perhaps with it, pass until they are read."""
    played = SimulatedObjects()
    for step in (*USUAL, *before):
        play(played, step)
    known = {(n.address, n.ifindex): n for n, gone in first if not gone}
    mirror = mirror_of(FakeKernel(world(kept, known, played, use_neigh, filters), played))
    went: set[int] = set()
    for steps in script:
        there = set(played.objects)
        updates = [update for step in steps for update in play(played, step)]
        sure = mirror.follow(Changes(nexthop_updates=tuple(updates)))
        went |= {update.id for update in updates if update[1] is None}
        now = world(kept, known, played, use_neigh, filters)
        assert_right(mirror, now, passes=True, orphaning=went)
        gone = {route.nhid for route in kept} & (there - played.objects.keys())
        assert not (sure and gone), "routes may have gone with it"


@pytest.mark.parametrize("nhid", [1, 10])
@pytest.mark.parametrize("at_once", [True, False])
def test_an_object_that_is_back_brings_no_routes_back(nhid: int, at_once: bool) -> None:
    """IPv4's went with it without a word: they pass until they are read."""
    mirror, kernel, _ = quiet_world(over("31.0.0.0/8", 1))
    meaning = kernel.objects.objects[nhid]
    updates = (NexthopUpdate(nhid, None), NexthopUpdate(nhid, meaning))
    for part in [updates] if at_once else [updates[:1], updates[1:]]:
        assert not mirror.follow(Changes(nexthop_updates=part))
        assert mirror.tables is not None
        prefix = Prefix.parse("31.0.0.0/8" if nhid == 1 else "30.0.0.0/8")
        assert resolved(mirror.tables)[prefix] == Reason.ROUTE_UNSUPPORTED


@given(st.lists(object_steps, max_size=10), st.lists(object_steps, max_size=6), st.data())
def test_events_of_before_the_dump_do_no_harm(
    before: list[tuple[object, ...]], script: list[tuple[object, ...]], data: st.DataObject
) -> None:
    """They wait while the objects are read, and are followed then, in order, to the end. Objects
    are told one by one, each as it is at that moment."""
    played = SimulatedObjects()
    for step in before:
        play(played, step)
    updates: list[NexthopUpdate | BucketUpdate] = []
    dump: dict[int, Single | Group] = {}
    told = data.draw(st.lists(st.integers(0, len(script)), min_size=6, max_size=6).map(sorted))
    ids = sorted((*SINGLE_IDS, *GROUP_IDS))
    for number in range(len(script) + 1):
        for nhid, when in zip(ids, told, strict=True):
            if when == number and nhid in played.objects:
                dump[nhid] = played.objects[nhid]
        if number < len(script):
            updates += play(played, script[number])
    table = NexthopTable(dump)
    table.apply(updates)
    for nhid, held in played.buckets.items():
        table.set_buckets(nhid, held)
    assert dict(table) == dict(NexthopTable(played.objects, played.buckets))


# --- what it costs --------------------------------------------------------------------------------


def quiet_world(*more: Route) -> tuple[Mirror, FakeKernel, FakeDataplane]:
    played = SimulatedObjects()
    for step in (
        ("single", 1, Single(RouteKind.UNICAST, Path(NextHop(ADDRESSES[0], 2)))),
        ("single", 2, Single(RouteKind.UNICAST, Path(NextHop(ADDRESSES[1], 2)))),
        ("group", 10, {1: 1, 2: 1}, False),
        ("group", 11, {1: 1, 2: 1}, True),
    ):
        play(played, step)
    kept = [on_link("10.1.0.0/24"), over("30.0.0.0/8", 10), *more]
    kernel = FakeKernel(world(kept, {}, played, False), played)
    mirror = mirror_of(kernel)
    dataplane = mirror._dataplane
    assert isinstance(dataplane, FakeDataplane)
    return mirror, kernel, dataplane


def test_a_scan_of_addresses_changes_nothing() -> None:
    mirror, _, dataplane = quiet_world()
    scanned = [Neighbour(bytes([10, 1, 0, i]), 2, b"", FAILED) for i in range(20, 250)]
    for gone in (False, True):
        updates = tuple(NeighbourUpdate(each, gone) for each in scanned)
        assert mirror.follow(Changes(neighbour_updates=updates))
    assert (dataplane.changed, dataplane.synced) == (0, 0)
    assert not mirror.snapshot.neighbours


def test_a_host_that_comes_and_goes_is_one_route() -> None:
    mirror, _, dataplane = quiet_world()
    host = Neighbour(bytes([10, 1, 0, 99]), 2, bytes([2, 0, 0, 0, 0, 9]), REACHABLE)
    for gone, target in ((False, NextHop(host.address, 2)), (True, None)):
        assert mirror.follow(Changes(neighbour_updates=(NeighbourUpdate(host, gone),)))
        assert mirror.tables is not None
        assert mirror.tables.routes.get(Prefix(host.address, 32)) == target
    assert (dataplane.changed, dataplane.synced) == (2, 0)


def test_objects_that_no_route_uses_change_nothing() -> None:
    mirror, kernel, dataplane = quiet_world()
    for meaning in (Single(RouteKind.SPECIAL, None), None) * 50:
        assert mirror.follow(Changes(nexthop_updates=(NexthopUpdate(900_001, meaning),)))
    group = kernel.objects.objects[11]
    assert mirror.follow(Changes(nexthop_updates=(NexthopUpdate(11, group),)))
    assert (dataplane.changed, dataplane.synced, kernel.asked) == (0, 0, [])


def test_a_group_in_use_is_one_store() -> None:
    mirror, kernel, dataplane = quiet_world()
    updates = play(kernel.objects, ("group", 10, {1: 5, 2: 1}, False))
    assert mirror.follow(Changes(nexthop_updates=tuple(updates)))
    assert (dataplane.changed, dataplane.synced) == (1, 0)


def test_updates_that_are_older_than_a_dump_are_not_followed() -> None:
    """What was read since is newer."""
    mirror, _, _ = quiet_world()
    host = Neighbour(bytes([10, 1, 0, 99]), 2, bytes([2, 0, 0, 0, 0, 9]), REACHABLE)
    old = Changes(
        neighbour_updates=(NeighbourUpdate(host),), nexthop_updates=(NexthopUpdate(10, None),)
    )
    for newer in (
        replace(old, links=True, nexthops=True),
        replace(old, neighbours=True, nexthops=True),
    ):
        assert mirror.follow(newer)
    assert not mirror.snapshot.neighbours
    assert 10 in mirror.snapshot.nexthop_groups


def test_a_gateway_that_is_forgotten_is_managed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, kernel, _ = quiet_world()
    gateway = Neighbour(ADDRESSES[0], 2, bytes([2, 0, 0, 0, 0, 9]), REACHABLE, managed=True)
    mirror.follow(Changes(neighbour_updates=(NeighbourUpdate(gateway),)))
    assert not kernel.managed
    mirror.follow(Changes(neighbour_updates=(NeighbourUpdate(gateway, gone=True),)))
    assert not kernel.managed  # or `ip neigh flush` would never be through
    monkeypatch.setattr(mirror._resolver, "_now", lambda: time.monotonic() + 1)
    mirror.keep_resolved()  # as at each tick
    assert ADDRESSES[0] in kernel.managed
