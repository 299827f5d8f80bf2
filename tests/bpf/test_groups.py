"""Groups of nexthop objects through the real maps and the real program: who gets a packet."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP

from tests.bpf.harness import Plane
from tests.bpf.objects import (
    BEFORE,
    HOUR,
    IDLE_S,
    MOVED,
    PREFIXES,
    STEPS,
    A,
    B,
    C,
    Group,
    by_bucket,
    by_threshold,
    chosen,
    hash_of,
    kind,
    load,
    numbers,
    packets,
    split,
    tick,
    vias,
)
from tests.bpf.packets import frame
from xdpecmp.model.values import Prefix
from xdpecmp.observe.view import View
from xdpecmp.program.abi import GroupKind
from xdpecmp.program.clock import read_jiffies

pytestmark = pytest.mark.root


@pytest.fixture
def plane(own_plane: Plane) -> Plane:
    return own_plane


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
    before = read_jiffies(plane.clock) & 0xFFFFFFFF
    chosen(plane, l3)
    after = read_jiffies(plane.clock) & 0xFFFFFFFF
    (number,) = set(numbers(plane).values())
    first = plane.maps["groups"].entries[number].first
    used = [plane.maps["buckets"].entries[first + i].used_jiffies for i in range(4)]
    index = hash_of(l3) % 4
    assert before <= used.pop(index) <= after
    assert used == [0, 0, 0]


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


def test_a_change_of_the_group_changes_no_route(plane: Plane) -> None:
    """Its kind may change too, though in Linux that takes a deletion in between."""
    flows = packets(4, 50)
    load(plane, STEPS["threshold"])
    before = numbers(plane)
    assert len(set(before.values())) == 1
    for name, group in [*STEPS.items(), *reversed([*STEPS.items()])]:
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


def test_a_kind_that_changes_back_has_the_kernels_buckets(plane: Plane) -> None:
    load(plane, BEFORE)
    flows = packets(4, 20)
    split(plane, flows)
    load(plane, STEPS["threshold"])
    load(plane, MOVED)
    assert set(split(plane, flows)) == {B}


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
