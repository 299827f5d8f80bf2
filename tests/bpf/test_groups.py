"""Groups of nexthop objects through the real maps and the real program.

What the kernel would choose is written down here once more, from net/ipv4/nexthop.c. Every next hop
has a MAC of its own, so the frame that leaves tells the choice.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from tests.bpf.harness import Plane
from tests.bpf.packets import forwarded, frame
from tests.bpf.world import (
    NUD_FAILED,
    NUD_REACHABLE,
    RTPROT_STATIC,
    SEED,
    SOURCE,
    neighbour_mac,
    packed,
)
from tests.netns import Namespace
from xdpecmp.abi import CAPACITY, GroupKind, Reason
from xdpecmp.agent import HZ, jiffies
from xdpecmp.buckets import Jiffies
from xdpecmp.dataplane import Dataplane
from xdpecmp.hashing import bounds, flow_key
from xdpecmp.model import Neighbour, NextHop, NexthopGroup, Prefix, Route, RouteKind
from xdpecmp.model import Path as Leg
from xdpecmp.slots import CapacityError
from xdpecmp.view import View

pytestmark = pytest.mark.root

NHID = 7
PREFIXES = {4: ("198.19.0.0/16", "203.0.113.0/24"), 6: ("2001:db8:90::/48", "2001:db8:91::/48")}
TO = {4: "198.19.0.1", 6: "2001:db8:90::1"}
FLOWS = 200
IDLE_S = 30.0
HOUR = 3600


def vias(family: int, count: int) -> list[str]:
    return [f"10.0.70.{i}" if family == 4 else f"2001:db8:b:70::{i:x}" for i in range(1, count + 1)]


A, B, C = vias(4, 3)


@pytest.fixture(scope="module")
def own(namespace: Namespace, pins: Path, shared_plane: Plane) -> Iterator[Plane]:
    """A plane of this module's own: agents come and go in it."""
    directory = pins / "own"
    directory.mkdir()
    with namespace.enter():
        made = Plane(directory, shared_plane.world)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def plane(namespace: Namespace, own: Plane) -> Iterator[Plane]:
    with namespace.enter():
        restart(own)
        own.load(own.world.snapshot())  # so that there is no group to inherit from
        yield own


def restart(plane: Plane) -> None:
    """An agent ends and another one takes over what it left in the maps."""
    plane.dataplane = Dataplane(plane.maps)
    plane.tables = None


def tick(plane: Plane, later: float = 0.0) -> None:
    """What the agent does every second, `later` by its clock."""
    now = jiffies(plane.clock) + round(later * HZ)
    plane.dataplane.settle_buckets(Jiffies(now, HZ))


@dataclass(frozen=True)
class Group:
    """Object NHID as a test wants it: next hops by address, and weights."""

    members: tuple[str, ...]
    weights: tuple[int, ...] = ()
    buckets: tuple[int, ...] = ()
    """Members by their place; none: not resilient."""
    bad: tuple[str, ...] = ()
    """Members with a failed neighbour."""
    unresolved: tuple[str, ...] = ()
    """Members without one."""

    @property
    def family(self) -> int:
        return 6 if ":" in self.members[0] else 4


def load(plane: Plane, group: Group, seed: int | None = SEED) -> None:
    """The usual router, and two routes that lead to the group."""
    world = plane.world
    snapshot = world.snapshot()
    device = world.ifindex["out"]
    hops = [NextHop(packed(via), device) for via in group.members]
    legs = zip(hops, group.weights or [1] * len(hops), strict=True)
    found = NexthopGroup(
        NHID,
        RouteKind.UNICAST,
        tuple(Leg(*leg) for leg in legs),
        resilient=bool(group.buckets),
        buckets=group.buckets,
        idle_s=IDLE_S,
    )
    states = {
        via: NUD_FAILED if via in group.bad else NUD_REACHABLE
        for via in group.members
        if via not in group.unresolved
    }
    neighbours = {
        (packed(via), device): Neighbour(
            packed(via), device, b"" if state == NUD_FAILED else neighbour_mac(via), state
        )
        for via, state in states.items()
    }
    routes = tuple(
        Route(Prefix.parse(text), 254, 0, RouteKind.UNICAST, (), RTPROT_STATIC, nhid=NHID)
        for text in PREFIXES[group.family]
    )
    plane.load(
        replace(
            snapshot,
            routes=(*snapshot.routes, *routes),
            neighbours={**snapshot.neighbours, **neighbours},
            nexthop_groups={NHID: found},
            settings=replace(snapshot.settings, policy4=1, policy6=1, seed=seed),
        )
    )


def packets(family: int, count: int = FLOWS) -> list[bytes]:
    generator = random.Random(count + family)
    head = IP if family == 4 else IPv6
    return [
        bytes(head(src=SOURCE[family], dst=TO[family]) / UDP(sport=sport, dport=7))
        for sport in generator.sample(range(1024, 65536), count)
    ]


def hash_of(l3: bytes) -> int:
    return flow_key(l3, 1).hash(SEED)


def chosen(plane: Plane, l3: bytes) -> str:
    """Which next hop the program sends it to, having checked every byte; "" where it passes it."""
    verdict, out = plane.run(frame(l3))
    if verdict == "PASS":
        assert out == frame(l3)
        return ""
    (via,) = [via for via in vias(l3[0] >> 4, 16) if neighbour_mac(via) == out[:6]]
    assert (verdict, out) == ("REDIRECT", forwarded(l3, via))
    return via


def split(plane: Plane, flows: Sequence[bytes]) -> list[str]:
    return [chosen(plane, l3) for l3 in flows]


def numbers(plane: Plane, family: int = 4) -> dict[str, int]:
    """The group's routes, as they stand in the map."""
    found = {Prefix(bytes(k)[4:], k.prefixlen): n for k, n in plane.maps.items(f"routes{family}")}
    return {text: found[Prefix.parse(text)] for text in PREFIXES[family]}


def kind(plane: Plane, family: int = 4) -> GroupKind:
    (number,) = set(numbers(plane, family).values())
    return GroupKind(plane.maps["groups"].entries[number].kind)


def by_threshold(group: Group, hash31: int) -> str:
    """nexthop_select_path_hthr()."""
    first_good = None
    for via, bound in zip(group.members, bounds(group.weights), strict=True):
        if via in group.bad:
            continue
        first_good = first_good or via
        if hash31 <= bound:
            return via
    return first_good or group.members[0]


def by_bucket(group: Group, hash31: int) -> str:
    """nexthop_select_path_res()."""
    return group.members[group.buckets[hash31 % len(group.buckets)]]


# --- hash-threshold -------------------------------------------------------------------------------

WEIGHTS = [(65535, 65535), (65535, 1, 30000), (1, 257, 512, 3), (1, 1, 1)]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_of_16_bits(plane: Plane, family: int, weights: tuple[int, ...]) -> None:
    group = Group(tuple(vias(family, len(weights))), weights)
    load(plane, group)
    flows = packets(family)
    assert split(plane, flows) == [by_threshold(group, hash_of(l3)) for l3 in flows]
    shown = View(plane.maps, {}).route(Prefix.parse(PREFIXES[family][0]))
    assert shown is not None
    assert shown.kind == "threshold"
    assert [(path.via, path.weight) for path in shown.paths] == list(
        zip(group.members, weights, strict=True)
    )
    total = sum(weights)
    assert [float(path.share) for path in shown.paths] == [
        pytest.approx(weight / total, abs=1e-9) for weight in weights
    ]


BAD = [(), (A,), (B,), (C,), (A, B), (A, C), (B, C)]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: " ".join(bad) or "none")
@pytest.mark.parametrize("weights", [(1, 1, 1), (7, 1, 2), (1, 65535, 300)])
def test_bad_neighbours(plane: Plane, bad: tuple[str, ...], weights: tuple[int, ...]) -> None:
    group = Group((A, B, C), weights, bad=bad)
    load(plane, group)
    flows = packets(4)
    taken = split(plane, flows)
    assert taken == [by_threshold(group, hash_of(l3)) for l3 in flows]
    assert set(taken) <= {A, B, C} - set(bad)
    shown = View(plane.maps, {}).route(Prefix.parse(PREFIXES[4][0]))
    assert shown is not None
    assert sum(path.share for path in shown.paths) == 1
    assert [path.via for path in shown.paths] == [via for via in (A, B, C) if via not in bad]
    assert [path.weight for path in shown.paths] == [
        weight for via, weight in zip((A, B, C), weights, strict=True) if via not in bad
    ]


def test_no_good_neighbour_is_for_linux(plane: Plane) -> None:
    load(plane, Group((A, B), (1, 1), bad=(A, B)))
    l3 = packets(4, 1)[0]
    assert plane.observe(frame(l3)) == ("PASS", frame(l3), {"NEIGHBOUR": 1}, {})


def test_an_unknown_neighbour_is_good_and_linux_resolves_it(plane: Plane) -> None:
    group = Group((A, B), (1, 1), unresolved=(B,))
    load(plane, group)
    flows = packets(4)
    expected = [by_threshold(group, hash_of(l3)) for l3 in flows]
    assert split(plane, flows) == ["" if via == B else via for via in expected]
    assert {A, B} == set(expected)


# --- resilient ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 100, 65535])
def test_the_bucket_is_the_hash_modulo_their_number(plane: Plane, family: int, count: int) -> None:
    generator = random.Random(count)
    buckets = tuple(generator.randrange(5) for _ in range(count))
    group = Group(tuple(vias(family, 5)), buckets=buckets)
    load(plane, group)
    flows = packets(family)
    assert split(plane, flows) == [by_bucket(group, hash_of(l3)) for l3 in flows]
    assert kind(plane, family) == GroupKind.RESILIENT


def test_routes_show_buckets_as_weights(plane: Plane) -> None:
    load(plane, Group((A, B, C), buckets=(0, 1, 1, 0, 1, 1, 1, 0)))
    shown = View(plane.maps, {}).route(Prefix.parse(PREFIXES[4][0]))
    assert shown is not None
    assert shown.kind == "resilient"
    rows = {path.via: (path.weight, float(path.share)) for path in shown.paths}
    assert rows == {A: (3, 0.375), B: (5, 0.625)}


def test_a_bad_neighbour_keeps_its_buckets(plane: Plane) -> None:
    """Linux does not look at neighbours here, and neither do we: it gets the packets."""
    group = Group((A, B), buckets=(0, 1), bad=(B,))
    load(plane, group)
    flows = packets(4)
    expected = [by_bucket(group, hash_of(l3)) for l3 in flows]
    assert split(plane, flows) == ["" if via == B else via for via in expected]
    assert {A, B} == set(expected)


def test_a_packet_tells_when_its_bucket_was_used(plane: Plane) -> None:
    group = Group((A, B), buckets=(0, 1, 0, 1))
    load(plane, group)
    l3 = packets(4, 1)[0]
    before = jiffies(plane.clock) & 0xFFFFFFFF
    chosen(plane, l3)
    after = jiffies(plane.clock) & 0xFFFFFFFF
    (number,) = set(numbers(plane).values())
    first = plane.maps["groups"].entries[number].first
    used = [plane.maps["buckets"].entries[first + i].used_jiffies for i in range(4)]
    index = hash_of(l3) % 4
    assert before <= used.pop(index) <= after
    assert used == [0, 0, 0]


MOVED = Group((A, B), buckets=(1,) * 64)
BEFORE = replace(MOVED, buckets=(0,) * 64)


def test_a_bucket_in_use_stays_until_it_is_idle(plane: Plane) -> None:
    load(plane, BEFORE)
    flows = packets(4, 20)
    busy = {hash_of(l3) % 64 for l3 in flows}
    assert len(busy) < 64
    assert set(split(plane, flows)) == {A}
    tick(plane)
    load(plane, MOVED)  # the kernel saw no packets: to it all buckets are idle
    others = [l3 for l3 in packets(4) if hash_of(l3) % 64 not in busy]
    assert set(split(plane, flows)) == {A}
    assert set(split(plane, others)) == {B}
    tick(plane, later=IDLE_S / 2)
    assert set(split(plane, flows)) == {A}
    tick(plane, later=IDLE_S * 2)
    assert set(split(plane, flows)) == {B}


def test_a_packet_after_the_last_tick_is_use(plane: Plane) -> None:
    """The agent's idea of now is up to a second old when an event comes in."""
    load(plane, BEFORE)
    tick(plane, later=-HOUR)
    flows = packets(4, 20)
    split(plane, flows)
    load(plane, MOVED)
    assert set(split(plane, flows)) == {A}


@pytest.mark.parametrize("ticks", [False, True])
def test_a_next_hop_that_leaves_loses_its_buckets_at_once(plane: Plane, ticks: bool) -> None:
    load(plane, BEFORE)
    flows = packets(4, 20)
    split(plane, flows)
    if ticks:
        tick(plane)
    load(plane, Group((B,), buckets=(0,) * 64))
    assert set(split(plane, flows)) == {B}


def test_a_member_left_without_buckets_keeps_those_in_use(plane: Plane) -> None:
    """It is in the group still, the kernel has just given its buckets away."""
    load(plane, BEFORE)
    flows = packets(4, 20)
    split(plane, flows)
    tick(plane)
    load(plane, Group((A, B, C), weights=(1, 65535, 65535), buckets=(1, 2) * 32))
    assert set(split(plane, flows)) == {A}


# --- changes --------------------------------------------------------------------------------------

STEPS: Mapping[str, Group] = {
    "threshold": Group((A, B), (3, 1)),
    "other weights": Group((A, B), (1, 300)),
    "a member more": Group((A, B, C), (1, 300, 20)),
    "a neighbour fails": Group((A, B, C), (1, 300, 20), bad=(B,)),
    "one is left": Group((C,), (20,)),
    "resilient": Group((A, B), buckets=(0, 1, 1, 0, 0)),
    "more buckets": Group((A, B), buckets=(1, 0, 0) * 20),
    "resilient, one left": Group((B,), buckets=(0, 0, 0) * 20),
    "threshold again": Group((B, C), (3, 1)),
}


def test_a_change_of_the_group_changes_no_route(plane: Plane) -> None:
    """Its kind may change too, though in Linux that takes a deletion in between."""
    flows = packets(4, 50)
    load(plane, STEPS["threshold"])
    before = numbers(plane)
    assert len(set(before.values())) == 1
    for name, group in [*STEPS.items(), *reversed(STEPS.items())]:
        tick(plane, later=HOUR)  # so that all buckets are idle
        load(plane, group)
        choose = by_bucket if group.buckets else by_threshold
        weighed = replace(group, weights=group.weights or (1,) * len(group.members))
        expected = [choose(weighed, hash_of(l3)) for l3 in flows]
        assert split(plane, flows) == expected, name
        assert numbers(plane) == before, name
        single = len(group.members) == 1 and not group.buckets
        wanted = "SINGLE" if single else "RESILIENT" if group.buckets else "THRESHOLD"
        assert kind(plane).name == wanted, name


def test_a_group_of_one_takes_no_hash(plane: Plane) -> None:
    """So it is forwarded where Linux keeps its seed to itself."""
    load(plane, STEPS["one is left"], seed=None)
    flows = packets(4, 20)
    assert set(split(plane, flows)) == {C}
    load(plane, STEPS["threshold"], seed=None)
    l3 = flows[0]
    assert plane.observe(frame(l3)) == ("PASS", frame(l3), {"SEED_UNKNOWN": 1}, {})


def test_changes_leave_no_entries_behind(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for hardly more than the largest of them, all the changes can go on for ever."""
    usual = 40  # what the routes of the usual router take
    monkeypatch.setitem(CAPACITY, "PATHS_MAX", usual + 8)
    monkeypatch.setitem(CAPACITY, "BUCKETS_MAX", 128)
    plane.maps["control"].entries[0].nexthops_used = 0
    load(plane, STEPS["threshold"])
    restart(plane)
    for _ in range(20):
        for group in STEPS.values():
            load(plane, group)
            assert "" not in split(plane, packets(4, 3))


def test_a_kind_that_changes_back_has_the_kernels_buckets(plane: Plane) -> None:
    load(plane, BEFORE)
    flows = packets(4, 20)
    split(plane, flows)
    load(plane, STEPS["threshold"])
    load(plane, MOVED)
    assert set(split(plane, flows)) == {B}


# --- what does not fit ----------------------------------------------------------------------------


def table_full(plane: Plane) -> bool:
    l3 = packets(4, 1)[0]
    return plane.observe(frame(l3)) == ("PASS", frame(l3), {"TABLE_FULL": 1}, {})


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
    paths = [Group(tuple(vias(4, count)), (1,) * count) for count in (30, 31)]
    buckets = [Group((A, B), buckets=(0, 1) * count) for count in (30, 31)]
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
    slots = plane.dataplane._nexthop_slots
    slots._limit = slots.used
    with contextlib.suppress(CapacityError):
        for i in itertools.count():
            slots.acquire(NextHop(b"", 1_000_000 + i))


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


# --- rp_filter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [(), (0, 1, 0, 1)], ids=["threshold", "resilient"])
def test_a_source_behind_a_group_is_checked(plane: Plane, buckets: tuple[int, ...]) -> None:
    """Strict rp_filter: the group leads out by another interface than this packet came in by. What
    stands at the same place of the other map has nothing to do with it."""
    load(plane, Group((A, B), (1, 1), buckets))
    tables = plane.tables
    assert tables is not None
    ingress = plane.world.ifindex["in"]
    (number,) = set(numbers(plane).values())
    first = plane.maps["groups"].entries[number].first
    if buckets:  # a path to the ingress, where the group's buckets begin
        inward = plane.dataplane.nexthop_slots[plane.world.nexthop("10.0.0.2")]
        plane.maps["paths"].store(first, plane.layout.value("paths")(bound=0, nexthop=inward))
    strict = tables.interfaces[ingress]._replace(rp_filter=1)
    plane.load_tables(replace(tables, interfaces={**tables.interfaces, ingress: strict}))
    packet = frame(IP(src="198.19.0.9", dst="198.18.1.1") / UDP(sport=1, dport=2))
    assert plane.observe(packet) == ("PASS", packet, {"RP_FILTER": 1}, {})
