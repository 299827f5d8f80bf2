"""Resilient groups where Linux hashes as we do: its buckets are ours, and it hears of their use."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6

from testbed.waiting import wait_until
from tests.bpf.harness import Plane
from tests.bpf.objects import (
    BEFORE,
    IDLE_S,
    MOVED,
    TO,
    A,
    B,
    Group,
    by_bucket,
    hash_of,
    load,
    numbers,
    packets,
    restart,
    split,
    vias,
)
from tests.bpf.packets import frame
from tests.bpf.world import SOURCE
from xdpecmp.program.clock import HZ, read_jiffies

pytestmark = pytest.mark.root

PERIOD = 1 << int(IDLE_S * HZ / 4).bit_length() - 1


@pytest.fixture
def plane(own_plane: Plane) -> Plane:
    # a test takes some ms, and is not to see a period end
    wait_until(
        lambda: read_jiffies(own_plane.clock) % PERIOD < PERIOD * 7 / 8, "a period begins", 60
    )
    return own_plane


def apart(family: int) -> list[bytes]:
    """Packets that are each in another bucket of 64."""
    return list({hash_of(l3) % 64: l3 for l3 in packets(family, 30)}.values())


def entries(plane: Plane, family: int = 4) -> list[tuple[int, int]]:
    """Next hop and time of use of each of the group's buckets."""
    (number,) = set(numbers(plane, family).values())
    group = plane.maps["groups"].entries[number]
    held = plane.maps["buckets"].entries[group.first : group.first + group.count]
    return [(bucket.nexthop, bucket.used_jiffies) for bucket in held]


def shift(plane: Plane) -> int:
    (number,) = set(numbers(plane).values())
    found: int = plane.maps["groups"].entries[number].report_shift
    return found


def age(plane: Plane, jiffies: int) -> None:
    """As if all buckets had been used for the last time so long ago."""
    (number,) = set(numbers(plane).values())
    group = plane.maps["groups"].entries[number]
    for bucket in plane.maps["buckets"].entries[group.first : group.first + group.count]:
        bucket.used_jiffies = (read_jiffies(plane.clock) - jiffies) & 0xFFFFFFFF


@pytest.mark.parametrize("family", [4, 6])
def test_the_first_packet_of_a_bucket_passes(plane: Plane, family: int) -> None:
    """Linux chooses the same bucket for it, and takes that for used."""
    group = Group(tuple(vias(family, 2)), buckets=(0, 1) * 32)
    load(plane, group, own_seed=False)
    flows = apart(family)
    for l3 in flows:
        assert plane.observe(frame(l3))[2:] == ({"BUCKET_USE": 1}, {})
        assert plane.run(frame(l3))[0] == "REDIRECT"
    assert split(plane, flows) == [by_bucket(group, hash_of(l3)) for l3 in flows]


def test_one_passes_in_each_period(plane: Plane) -> None:
    load(plane, BEFORE, own_seed=False)
    flows = apart(4)
    split(plane, flows)
    for _ in range(3):
        age(plane, 1 << shift(plane))
        assert set(split(plane, flows)) == {""}
        assert set(split(plane, flows)) == {A}


def test_the_period_is_a_part_of_the_idle_time(plane: Plane) -> None:
    load(plane, BEFORE, own_seed=False)
    assert 1 << shift(plane) == PERIOD
    assert IDLE_S * HZ / 8 < PERIOD <= IDLE_S * HZ / 4


@pytest.mark.parametrize("family", [4, 6])
def test_an_icmp_error_is_no_use(plane: Plane, family: int) -> None:
    """To Linux it may belong to another bucket."""
    load(plane, Group(tuple(vias(family, 2)), buckets=(0, 1) * 32), own_seed=False)
    head, to, source = (IP, IPv6)[family == 6], TO[family], SOURCE[family]
    quote = head(src=to, dst=source) / UDP(sport=7, dport=4711)
    error = ICMP(type=3, code=4) if family == 4 else ICMPv6PacketTooBig()
    packet = frame(bytes(head(src=source, dst=to) / error / quote))
    assert plane.run(packet)[0] == "REDIRECT"
    assert {used for _, used in entries(plane, family)} == {0}


@pytest.mark.parametrize(
    "settings", [{"own_seed": True}, {"own_seed": False, "follow_label": False, "policy6": 0}]
)
def test_none_passes_where_linux_hashes_otherwise(
    plane: Plane, settings: dict[str, object]
) -> None:
    load(plane, BEFORE, **settings)  # type: ignore[arg-type]
    assert shift(plane) == 0
    assert set(split(plane, packets(4, 20))) == {A}


def test_buckets_move_with_linuxs(plane: Plane) -> None:
    """In use or not: Linux knows which are. And it does not take one that has moved for used, until
    a packet passes."""
    load(plane, BEFORE, own_seed=False)
    flows = packets(4, 20)
    split(plane, flows)
    assert set(split(plane, flows)) == {A}
    load(plane, MOVED, own_seed=False)
    passed = len({hash_of(l3) % 64 for l3 in flows})
    assert Counter(split(plane, flows)) == {"": passed, B: len(flows) - passed}
    assert set(split(plane, flows)) == {B}


def test_those_that_stay_are_left_alone(plane: Plane) -> None:
    load(plane, BEFORE, own_seed=False)
    flows = packets(4, 20)
    split(plane, flows)
    before = entries(plane)
    load(plane, replace(MOVED, buckets=(0,) * 32 + (1,) * 32), own_seed=False)
    assert entries(plane)[:32] == before[:32]


def test_a_new_agent_takes_linuxs_over(plane: Plane) -> None:
    """The lease of the one before may have run out, and Linux have served."""
    load(plane, BEFORE, own_seed=False)
    flows = packets(4, 20)
    split(plane, flows)
    restart(plane)
    load(plane, MOVED, own_seed=False)
    split(plane, flows)
    assert set(split(plane, flows)) == {B}


def test_where_linux_comes_to_hash_alike(plane: Plane) -> None:
    """As once its seed is known: its buckets are taken over."""
    load(plane, BEFORE)
    flows = packets(4, 20)
    assert set(split(plane, flows)) == {A}
    load(plane, MOVED)
    assert set(split(plane, flows)) == {A}
    load(plane, MOVED, own_seed=False)
    assert set(split(plane, flows)) == {"", B}
    assert set(split(plane, flows)) == {B}
    load(plane, MOVED)
    assert shift(plane) == 0


def test_policy_3_too(plane: Plane) -> None:
    """Where the other program chooses."""
    group = Group((A, B), buckets=(0, 1) * 32)
    load(plane, group, own_seed=False, policy4=3, fields4=0x37)
    l3 = packets(4, 1)[0]
    assert plane.observe(frame(l3)).stats == {"BUCKET_USE": 1}
    assert plane.run(frame(l3))[0] == "REDIRECT"
