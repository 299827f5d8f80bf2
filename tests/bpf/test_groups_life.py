"""Groups of nexthop objects in maps that are full, and under agents that come and go."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import pytest

from tests.bpf.harness import Plane
from tests.bpf.objects import (
    BEFORE,
    HOUR,
    IDLE_S,
    MOVED,
    STEPS,
    A,
    B,
    C,
    Group,
    by_bucket,
    by_threshold,
    hash_of,
    load,
    packets,
    restart,
    split,
    table_full,
    tick,
    vias,
)
from tests.bpf.packets import frame
from tests.bpf.world import packed
from xdpecmp.compile.tables import NOTHING, TableChange
from xdpecmp.dataplane.slots import CapacityError
from xdpecmp.model.values import NextHop
from xdpecmp.program.abi import CAPACITY, Reason

pytestmark = pytest.mark.root


@pytest.fixture
def plane(own_plane: Plane) -> Plane:
    return own_plane


# --- what is gone --------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [Group((A, B), (1, 1)), Group((A, B), buckets=(0, 1) * 8)])
def test_a_group_that_is_gone_passes_until_its_routes_are_read(plane: Plane, group: Group) -> None:
    """By one store for all of them; and comes back by one."""
    load(plane, group)
    tables = plane.tables
    assert tables is not None
    (key,) = [each for each in tables.groups if each[0] == "object"]
    l3 = packets(4, 1)[0]
    before = split(plane, [l3])
    assert plane.dataplane.change(TableChange({}, {}, set(), {key: NOTHING}))
    assert plane.observe(frame(l3)) == ("PASS", frame(l3), {"ROUTE_UNSUPPORTED": 1}, {})
    assert plane.dataplane.change(TableChange({}, {}, set(), {key: tables.groups[key]}))
    assert split(plane, [l3]) == before


# --- what does not fit ----------------------------------------------------------------------------


def test_more_buckets_than_there_is_room_for(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    load(plane, Group((A,), (1,)))
    monkeypatch.setitem(CAPACITY, "BUCKETS_MAX", 100)
    restart(plane)
    fits = Group((A, B), buckets=(0, 1) * 50)
    for _ in range(3):
        load(plane, replace(fits, buckets=(0, 1) * 51))
        assert table_full(plane)
        load(plane, fits)
        assert not table_full(plane)
    flows = packets(4)
    assert split(plane, flows) == [by_bucket(fits, hash_of(l3)) for l3 in flows]


def test_more_paths_than_there_is_room_for(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """And back to the very group of before, which then works again."""
    load(plane, STEPS["threshold"])
    monkeypatch.setitem(CAPACITY, "PATHS_MAX", 30)
    restart(plane)
    fits, large = STEPS["threshold"], Group(tuple(vias(4, 31)), (1,) * 31)
    for _ in range(3):
        load(plane, fits)
        assert not table_full(plane)
        load(plane, large)
        assert table_full(plane)
    load(plane, fits)
    flows = packets(4)
    assert split(plane, flows) == [by_threshold(fits, hash_of(l3)) for l3 in flows]


@pytest.mark.parametrize("buckets", [(), (0, 1, 2)], ids=["threshold", "resilient"])
def test_more_next_hops_than_there_is_room_for(plane: Plane, buckets: tuple[int, ...]) -> None:
    """A group of which one next hop has no entry passes, until there is one."""
    load(plane, Group((A, B), (1, 1)))
    fill_nexthops(plane)
    load(plane, Group((A, B, C), (1, 1, 1), buckets))
    assert table_full(plane)
    tick(plane, later=HOUR)
    assert plane.tables is not None
    plane.dataplane.sync(plane.tables)
    assert set(split(plane, packets(4, 50))) == {A, B, C}


def test_what_does_not_fit_makes_room_for_itself(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fits alone, and only so: the new one is in force with the sync after next."""
    monkeypatch.setitem(CAPACITY, "PATHS_MAX", 55)
    monkeypatch.setitem(CAPACITY, "BUCKETS_MAX", 100)
    restart(plane)
    paths = [Group(tuple(vias(4, count)), (1,) * count) for count in (31, 30)]
    buckets = [Group((A, B), buckets=(0, 1) * count) for count in (31, 30)]
    for first, second in (paths, buckets):
        load(plane, first)
        assert not table_full(plane)
        load(plane, second)
        assert table_full(plane)
        assert plane.tables is not None
        plane.dataplane.sync(plane.tables)
        assert not table_full(plane)


def test_trying_in_vain_uses_nothing_up(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPACITY, "PATHS_MAX", 60)
    monkeypatch.setitem(CAPACITY, "BUCKETS_MAX", 60)
    restart(plane)
    for buckets in ((), (0, 1, 2)):
        for _ in range(30):
            load(plane, Group((A, B), (1, 1)))
            fill_nexthops(plane)
            load(plane, Group((A, B, C), (1, 1, 1), buckets))
            assert table_full(plane)
        assert plane.tables is not None
        plane.dataplane.sync(plane.tables)
        assert not table_full(plane)


def fill_nexthops(plane: Plane) -> None:
    """Leave no entry free until the next sync, which finds out that nobody wants these."""
    slots = plane.dataplane._nexthops.slots
    slots._limit = slots.used
    with contextlib.suppress(CapacityError):
        for i in itertools.count():
            slots.acquire(NextHop(b"", 1_000_000 + i))


def test_changes_leave_no_entries_behind(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """With capacity for hardly more than the largest of them, the changes can go on endlessly."""
    usual = 40  # what the routes of the usual router take
    monkeypatch.setitem(CAPACITY, "PATHS_MAX", usual + 8)
    monkeypatch.setitem(CAPACITY, "BUCKETS_MAX", 128)
    load(plane, STEPS["threshold"])
    restart(plane)
    for _ in range(20):
        for group in STEPS.values():
            load(plane, group)
            assert "" not in split(plane, packets(4, 3))


# --- restarts -------------------------------------------------------------------------------------


def counters(plane: Plane) -> dict[bytes, tuple[int, tuple[int, int]]]:
    """Next hop → its number, and what it counts."""
    return {
        nexthop.via: (slot, plane.traffic(slot))
        for nexthop, slot in plane.dataplane.nexthop_slots.items()
    }


@pytest.mark.parametrize("name", ["threshold", "resilient"])
def test_a_restarted_agent_keeps_numbers_and_counters(plane: Plane, name: str) -> None:
    group = STEPS[name]
    load(plane, group)
    flows = packets(4, 50)
    before = split(plane, flows)
    counted = counters(plane)
    assert sum(counted[packed(via)][1][0] for via in (A, B)) >= len(flows)
    restart(plane)
    assert split(plane, flows) == before, "with nothing synced yet"
    load(plane, group)
    assert split(plane, flows) == before
    after = counters(plane)
    assert after.keys() == counted.keys()
    for via, (slot, (count, _)) in after.items():
        added = 2 * before.count(next((v for v in (A, B) if packed(v) == via), "none"))
        assert (slot, count) == (counted[via][0], counted[via][1][0] + added)


def test_a_restarted_agent_keeps_the_buckets_that_are_in_use(plane: Plane) -> None:
    """Though the kernel has moved them meanwhile; of those that are idle it follows the kernel."""
    load(plane, BEFORE)
    flows = packets(4, 20)
    busy = {hash_of(l3) % 64 for l3 in flows}
    others = [l3 for l3 in packets(4) if hash_of(l3) % 64 not in busy]
    split(plane, flows)
    for _ in range(3):
        restart(plane)
        load(plane, MOVED)
        assert set(split(plane, flows)) == {A}
        tick(plane)
        assert set(split(plane, flows)) == {A}
    assert set(split(plane, others)) == {B}
    tick(plane, later=IDLE_S * 2)
    assert set(split(plane, flows)) == {B}


def test_a_restarted_agent_finds_a_group_of_another_size(plane: Plane) -> None:
    load(plane, BEFORE)
    flows = packets(4, 20)
    split(plane, flows)
    restart(plane)
    load(plane, replace(MOVED, buckets=(1,) * 32))
    assert set(split(plane, flows)) == {B}


def test_restarts_use_nothing_up(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the agent that went had changed the groups first."""
    load(plane, Group((A,), (1,)))
    monkeypatch.setitem(CAPACITY, "PATHS_MAX", 60)
    monkeypatch.setitem(CAPACITY, "BUCKETS_MAX", 150)
    monkeypatch.setitem(CAPACITY, "GROUPS_MAX", len(Reason) + 90)
    restart(plane)
    for _ in range(30):
        for group in (STEPS["threshold"], STEPS["a member more"], BEFORE):
            load(plane, group)
            assert "" not in split(plane, packets(4, 3))
        restart(plane)
        load(plane, MOVED)
        assert "" not in split(plane, packets(4, 3))
