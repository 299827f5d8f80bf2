"""Counters only grow: whatever next hops come, go and take each other's places, whoever is killed,
and whichever version takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.netns import Namespace
from tests.bpf.harness import Plane
from tests.bpf.objects import (
    A,
    B,
    C,
    Group,
    load,
    new_plane,
    packets,
    restart,
    split,
)
from tests.bpf.packets import frame
from tests.bpf.world import packed
from xdpecmp.dataplane import counters
from xdpecmp.dataplane.counters import Counted, Traffic, carry_over
from xdpecmp.model.values import NextHop
from xdpecmp.program.abi import CAPACITY, STAT_COUNT, Reason
from xdpecmp.program.maps import MappedArray, sums

pytestmark = pytest.mark.root


@pytest.fixture
def plane(own_plane: Plane) -> Plane:
    return own_plane


def row(plane: Plane, via: str, former: bool = False) -> Traffic | None:
    counted = counters.read(plane.maps)
    rows = counted.former if former else counted.nexthops
    return rows.get(NextHop(packed(via), plane.world.ifindex["out"]))


def count(plane: Plane, flows: int = 40) -> int:
    """Forward some, and say how many packets were forwarded before."""
    before = counters.read(plane.maps).forwarded.packets
    assert all(split(plane, packets(4, flows)))
    assert counters.read(plane.maps).forwarded.packets == before + flows
    return before


@pytest.mark.parametrize("killed", [False, True])
def test_a_next_hop_leaves_and_comes_back(plane: Plane, killed: bool) -> None:
    load(plane, Group((A, B), (1, 1)))
    count(plane)
    before, of_b = counters.read(plane.maps), row(plane, B)
    assert of_b
    assert of_b.packets
    load(plane, Group((A,), (1,)))
    assert counters.read(plane.maps).forwarded == before.forwarded
    assert row(plane, B) is None
    assert row(plane, B, former=True) == of_b
    if killed:
        restart(plane)
    load(plane, Group((A, B), (1, 1)))
    assert counters.read(plane.maps).forwarded == before.forwarded
    assert row(plane, B) == of_b


def test_its_place_is_needed_for_another(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which begins at 0, and the sum goes on, at every single store and after a crash at any."""
    load(plane, Group((A, B), (1, 1)))
    count(plane)
    before = counters.read(plane.maps)
    load(plane, Group((A,), (1,)))
    used = plane.maps["control"].entries[0].nexthops_used
    monkeypatch.setitem(CAPACITY, "NEXTHOPS_MAX", used)
    restart(plane)
    seen: list[Counted] = []
    store_word, store = MappedArray.store_word, MappedArray.store

    def watched(call: Any) -> Any:
        def wrapper(*arguments: Any, **options: Any) -> None:
            seen.append(counters.read(plane.maps))
            call(*arguments, **options)
            seen.append(counters.read(plane.maps))

        return wrapper

    monkeypatch.setattr(MappedArray, "store", watched(store))
    monkeypatch.setattr(MappedArray, "store_word", watched(store_word))
    load(plane, Group((A, C), (1, 1)))
    monkeypatch.undo()
    assert {each.forwarded for each in seen} == {before.forwarded}
    rows = [
        traffic for each in seen for hop, traffic in each.nexthops.items() if hop.via == packed(C)
    ]
    assert set(rows) <= {Traffic(0, 0)}
    assert row(plane, C) == Traffic(0, 0)
    assert row(plane, B, former=True) is None
    count(plane)
    of_c = row(plane, C)
    assert of_c
    assert of_c.packets
    restart(plane)
    load(plane, Group((A, C), (1, 1)))
    assert row(plane, C) == of_c


def test_a_reader_meets_a_change_of_hands(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a next hop's identity and its counter: both are read again."""
    load(plane, Group((A, B), (1, 1)))
    count(plane)
    (slot,) = (o.slot for o in counters.owners(plane.maps) if o.nexthop.via == packed(B))
    entry = plane.maps["nexthops"].entries[slot]
    changed: list[bool] = []

    def late(fd: int, number: int, each: int) -> list[tuple[int, ...]]:
        found = sums(fd, number, each)
        if not changed:
            changed.append(True)
            entry.via[:4], entry.base_packets = packed(C), found[slot][0]
        return found

    monkeypatch.setattr(counters, "sums", late)
    counted = counters.read(plane.maps)
    hops = {hop.via: traffic.packets for hop, traffic in counted.nexthops.items()}
    assert packed(B) not in hops
    assert hops[packed(C)] == 0


def test_another_layout_takes_over(
    plane: Plane, namespace: Namespace, pins: Path, tmp_path: Path
) -> None:
    """Nothing is lost, and nothing is counted twice, however often it is tried."""
    load(plane, Group((A, B), (1, 1)))
    count(plane)
    plane.run(frame(b"\x45" + bytes(40)))  # passes, for some reason
    before = counters.read(plane.maps)
    plane.layout.save(tmp_path / "layout.json")
    with new_plane(namespace, pins / "counters_2", plane.world) as new:
        load(new, Group((A, B), (1, 1)))
        for _ in range(2):
            carry_over(plane.directory, tmp_path / "layout.json", new.maps)
            after = counters.read(new.maps)
            assert after.forwarded == before.forwarded
            assert after.stats == before.stats
            assert len(after.stats) == STAT_COUNT
            assert sum(after.stats)
            assert not after.stats[int(Reason.FORWARDED)]
            for via in (A, B):
                assert row(new, via) == row(plane, via)
        count(new)
        of_b, then = row(new, B), counters.read(new.maps)
        restart(new)
        load(new, Group((A, B), (1, 1)))
        assert row(new, B) == of_b
        new.layout.save(tmp_path / "new.json")
        with new_plane(namespace, pins / "counters_3", plane.world) as newest:
            carry_over(new.directory, tmp_path / "new.json", newest.maps)
            assert counters.read(newest.maps).forwarded == then.forwarded
            assert counters.read(newest.maps).stats == then.stats


def test_what_cannot_be_read_is_left(plane: Plane, tmp_path: Path) -> None:
    before = counters.read(plane.maps)
    carry_over(tmp_path, tmp_path / "none.json", plane.maps)
    (tmp_path / "bad.json").write_text("[1, 2]")
    carry_over(plane.directory, tmp_path / "bad.json", plane.maps)
    assert counters.read(plane.maps) == before
