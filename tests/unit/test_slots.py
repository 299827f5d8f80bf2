"""slots: who gets which entry of a map, and when an entry may change hands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpecmp.dataplane.slots import Blocks, CapacityError, Slots
from xdpecmp.program import libbpf


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """How often somebody waited for the packets in flight."""
    calls: list[None] = []
    monkeypatch.setattr(libbpf, "wait_for_readers", lambda: calls.append(None))
    return calls


def test_a_key_that_returns_gets_its_number_back(waits: list[None]) -> None:
    slots: Slots[str] = Slots(10, 20)
    assert slots.acquire("a") == (10, False)
    assert slots.acquire("b") == (11, False)
    slots.retire("a")
    assert slots.acquire("a") == (10, False)
    assert not waits


def test_another_key_gets_a_number_only_after_a_grace_period(waits: list[None]) -> None:
    slots: Slots[str] = Slots(0, 2)
    slots.acquire("a")
    slots.acquire("b")
    slots.retire("a")
    assert not waits
    assert slots.acquire("c") == (0, True)
    assert len(waits) == 1


def test_a_full_map_says_so() -> None:
    slots: Slots[str] = Slots(0, 1)
    slots.acquire("a")
    with pytest.raises(CapacityError):
        slots.acquire("b")


def test_numbers_change_hands_many_at_once(waits: list[None]) -> None:
    slots: Slots[str] = Slots(0, 4, at_once=2)
    for key in "abcd":
        slots.acquire(key)
    slots.retire("a")
    with pytest.raises(CapacityError):
        slots.acquire("e")
    slots.retire("b")
    assert {slots.acquire("e")[0], slots.acquire("f")[0]} == {0, 1}
    assert len(waits) == 1


def test_adopted_numbers_are_not_given_out_again() -> None:
    slots: Slots[str] = Slots(0, 9)
    slots.adopt("old", 3)
    assert slots.acquire("new") == (4, False)
    assert slots.acquire("old") == (3, False)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=60))
def test_no_two_live_keys_share_a_number(steps: list[tuple[bool, int]]) -> None:
    slots: Slots[int] = Slots(0, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libbpf, "wait_for_readers", lambda: None)
        for take, key in steps:
            if take:
                slots.acquire(key)
            elif key in slots.live:
                slots.retire(key)
            assert len(set(slots.live.values())) == len(slots.live)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60))
def test_no_two_blocks_overlap(steps: list[tuple[bool, int]]) -> None:
    blocks = Blocks(0, 64)
    live: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libbpf, "wait_for_readers", lambda: None)
        for take, count in steps:
            if take:
                try:
                    live.append((blocks.acquire(count), count))
                except CapacityError:
                    continue
            elif live:
                blocks.retire(*live.pop(0))
            taken = [entry for first, size in live for entry in range(first, first + size)]
            assert len(set(taken)) == len(taken)
            assert all(0 <= entry < 64 for entry in taken)


def test_retired_blocks_come_back_after_a_grace_period(waits: list[None]) -> None:
    blocks = Blocks(0, 8)
    first = blocks.acquire(8)
    blocks.retire(first, 8)
    assert not waits
    assert blocks.acquire(5) == first
    assert len(waits) == 1


# --- as a restarted agent finds them --------------------------------------------------------------


def test_entries_that_no_route_leads_to_are_free_after_a_restart(waits: list[None]) -> None:
    slots: Slots[str] = Slots(2, 6)
    slots.adopt("kept", 4)
    slots.used = 6  # as the map's own count says: all were given out once
    assert slots.acquire("a") == (2, True)
    assert slots.acquire("b") == (3, True)
    assert slots.acquire("kept") == (4, False)
    assert slots.acquire("c") == (5, True)
    assert len(waits) == 1
    with pytest.raises(CapacityError):
        slots.acquire("d")


def test_blocks_between_adopted_ones_are_free() -> None:
    blocks = Blocks(0, 20)
    blocks.adopt(15, 5)
    blocks.adopt(4, 3)
    taken = {*range(15, 20), *range(4, 7)}
    for count in (8, 4):
        first = blocks.acquire(count)
        mine = set(range(first, first + count))
        assert not mine & taken
        taken |= mine
    with pytest.raises(CapacityError):
        blocks.acquire(1)


def test_small_blocks_make_room_for_a_large_one(waits: list[None]) -> None:
    """What is free and lies side by side is one."""
    blocks = Blocks(0, 12)
    firsts = [blocks.acquire(3) for _ in range(4)]
    for first in firsts[:3]:
        blocks.retire(first, 3)
    assert blocks.acquire(9) == min(firsts[:3])
    assert len(waits) == 1


def test_what_lies_above_the_limit_is_not_given_out() -> None:
    blocks = Blocks(0, 8)
    blocks.adopt(20, 4)
    with pytest.raises(CapacityError):
        blocks.acquire(9)
    assert blocks.acquire(8) == 0


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6),
    st.lists(st.integers(1, 20), max_size=10),
)
def test_no_block_overlaps_an_adopted_one(
    adopted: list[tuple[int, int]], wanted: list[int]
) -> None:
    blocks = Blocks(0, 64)
    for first, count in adopted:
        blocks.adopt(first, min(count, 64 - first))
    taken = {e for first, count in adopted for e in range(first, min(64, first + count))}
    for count in wanted:
        try:
            first = blocks.acquire(count)
        except CapacityError:
            continue
        mine = set(range(first, first + count))
        assert mine <= set(range(64))
        assert not mine & taken
        taken |= mine
