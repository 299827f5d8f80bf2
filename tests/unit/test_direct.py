"""The tables in front of the IPv4 trie must say what the trie says, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdpecmp.dataplane.direct4 import CELLS, HOSTS, ROWS, Direct4
from xdpecmp.dataplane.lookup import Changed
from xdpecmp.model.packed import Packed
from xdpecmp.model.prefixes import masked
from xdpecmp.model.values import Prefix
from xdpecmp.program import libbpf
from xdpecmp.program.abi import DIRECT_BLOCK as BLOCK
from xdpecmp.program.abi import Reason

NO_ROUTE = int(Reason.NO_ROUTE)
Table = dict[Prefix, int]
Script = list[list[tuple[Prefix, int | None]]]


FEW_BLOCKS = 2
"""So that some deep cells find none."""


class Plane:
    """The tables in plain memory, and a dictionary in the trie's place."""

    def __init__(self, blocks: int) -> None:
        self.direct16 = np.zeros(ROWS, np.uint16)
        self.direct24 = np.zeros(ROWS * CELLS, np.uint16)
        self.direct32 = np.zeros((blocks, HOSTS), np.uint16)
        self.routes: Table = {}
        self.restart()

    def restart(self) -> None:
        """Another agent takes the tables over."""
        self.direct = Direct4(self.direct16, self.direct24, self.direct32)

    def rebuild(self, routes: Mapping[Prefix, int]) -> None:
        self.routes = dict(routes)
        packed = Packed.of(routes)
        self.direct.rebuild(packed.keys[4], packed.numbers[4])

    def change(self, *wanted: tuple[Prefix, int | None]) -> None:
        changes = []
        for prefix, new in wanted:
            old = self.routes.pop(prefix, None)
            if new is not None:
                self.routes[prefix] = new
            if old != new:
                changes.append(Changed(prefix, old, new))
        self.direct.change(changes, self.covering)

    def covering(self, prefix: Prefix) -> tuple[int, int] | None:
        for length in range(prefix.length - 1, -1, -1):
            found = self.routes.get(Prefix(masked(prefix.address, length), length))
            if found is not None:
                return length, found
        return None

    def said(self, address: int) -> int:
        """As look_up_direct() in bpf/lookup.c reads them; 0: ask the trie."""
        entry = int(self.direct16[address >> 16]) or int(self.direct24[address >> 8])
        return int(self.direct32[entry ^ BLOCK, address & 0xFF]) if entry & BLOCK else entry

    def answer(self, address: int) -> int:
        """What the trie says."""
        found = self.covering(Prefix(address.to_bytes(4, "big"), 33))
        return found[1] if found else NO_ROUTE

    def check(self, address: int) -> None:
        expected = 0 if self._lacks_block(address >> 8) else self.answer(address)
        assert self.said(address) == expected, hex(address)

    def _lacks_block(self, cell: int) -> bool:
        """Whether it has prefixes longer than 24, and found no block for them."""
        packed = cell.to_bytes(3, "big")
        deep = any(p.length > 24 and p.address[:3] == packed for p in self.routes)
        return deep and cell not in self.direct._blocks.live


def prefix(text: str) -> Prefix:
    return Prefix.parse(text)


# Few addresses, so that prefixes meet: two rows, a few cells, all lengths.
addresses = st.builds(
    lambda row, cell, host: row << 16 | cell << 8 | host,
    st.sampled_from([0x0A00, 0x0A01, 0xC0A8]),
    st.sampled_from([0, 1, 2, 127, 128, 255]),
    st.sampled_from([0, 1, 128, 255]),
)
prefixes = st.builds(
    lambda address, length: Prefix(masked(address.to_bytes(4, "big"), length), length),
    addresses,
    st.one_of(st.integers(0, 32), st.sampled_from([0, 15, 16, 17, 23, 24, 25, 32])),
)
numbers = st.integers(100, 105)
tables = st.dictionaries(prefixes, numbers, max_size=12)
steps = st.lists(
    st.lists(st.tuples(prefixes, st.none() | numbers), min_size=1, max_size=4), max_size=8
)


@pytest.fixture(scope="module", params=[FEW_BLOCKS, 64])
def plane(request: pytest.FixtureRequest) -> Plane:
    """One for all: what an earlier example left in rows that are no longer looked at stays."""
    return Plane(request.param)


def corners(routes: Mapping[Prefix, int]) -> set[int]:
    """First and last address of each prefix, and the ones next to it."""
    found = {0, 0x0A000001, 0xFFFFFFFF}
    for p in routes:
        first = int.from_bytes(p.address, "big")
        last = first | ((1 << (32 - p.length)) - 1)
        found |= {first, last, max(first - 1, 0), min(last + 1, 0xFFFFFFFF)}
        found |= {first ^ 0x100, first ^ 0x10000}
    return found


@settings(max_examples=150)
@given(start=tables, changes=steps)
def test_says_what_the_trie_says(plane: Plane, start: Table, changes: Script) -> None:
    plane.rebuild(start)
    seen = set(start)
    for step in changes:
        plane.change(*dict(step).items())
        seen |= {p for p, _ in step}
    for address in corners(dict.fromkeys(seen, 0)):
        plane.check(address)


@settings(max_examples=50)
@given(start=tables, changes=steps)
def test_changes_come_to_what_a_rebuild_comes_to(
    plane: Plane, start: Table, changes: Script
) -> None:
    plane.rebuild(start)
    for step in changes:
        plane.change(*dict(step).items())
    said = {address: plane.said(address) for address in corners(plane.routes)}
    plane.rebuild(plane.routes)
    for address, before in said.items():
        plane.check(address)
        assert before in (plane.said(address), 0) or plane.said(address) == 0


def test_without_routes_everything_is_known_to_lead_nowhere(plane: Plane) -> None:
    plane.rebuild({})
    assert set(plane.direct16.tolist()) == {NO_ROUTE}


def test_prefixes_longer_than_24_need_no_trie() -> None:
    plane = Plane(blocks=1)
    plane.rebuild({prefix("10.0.0.0/24"): 100, prefix("10.0.0.64/26"): 101})
    plane.change((prefix("10.0.0.80/32"), 102))
    said = [plane.said(0x0A000000 | host) for host in (63, 64, 79, 80, 81, 127, 128)]
    assert said == [100, 101, 101, 102, 101, 101, 100]


def test_a_block_changes_hands_after_a_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    plane, first, second = Plane(blocks=1), 0x0A000001, 0x0A000101
    said_then = []
    monkeypatch.setattr(libbpf, "wait_for_readers", lambda: said_then.append(plane.said(first)))
    plane.rebuild({prefix("10.0.0.1/32"): 100})
    plane.change((prefix("10.0.1.1/32"), 101))
    assert (plane.said(first), plane.said(second)) == (100, 0)
    plane.change((prefix("10.0.0.1/32"), None))
    plane.change((prefix("10.0.1.2/32"), 102))  # the cell had none to begin with
    assert (plane.said(first), plane.said(second)) == (NO_ROUTE, 0)
    assert not said_then
    plane.rebuild(plane.routes)
    assert (plane.said(first), plane.said(second)) == (NO_ROUTE, 101)
    assert said_then == [NO_ROUTE]


def test_an_earlier_agents_last_readers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a block that it let go of, which nobody knows now that it was in use."""
    plane, said_then = Plane(blocks=8), []
    monkeypatch.setattr(
        libbpf, "wait_for_readers", lambda: said_then.append(plane.said(0x0A000001))
    )
    plane.rebuild({prefix("10.0.0.1/32"): 100})
    plane.change((prefix("10.0.0.1/32"), None))
    assert not said_then
    plane.restart()
    assert said_then == [NO_ROUTE]


def test_a_cell_that_is_deep_no_longer_follows_shorter_prefixes_again() -> None:
    plane = Plane(blocks=1)
    plane.rebuild({prefix("10.0.0.0/24"): 100, prefix("10.0.0.1/32"): 101})
    plane.change((prefix("10.0.0.1/32"), None))
    plane.change((prefix("10.0.0.0/24"), 102))
    assert plane.said(0x0A000001) == 102


def test_blocks_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "wait_for_readers", lambda: None)
    plane = Plane(blocks=1)
    plane.rebuild({})
    for cell in range(3):
        host = Prefix(bytes([10, 0, cell, 1]), 32)
        plane.change((host, 100))
        assert plane.said(0x0A000001 | cell << 8) == 100
        plane.change((host, None))


def test_a_table_far_too_large_for_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds none is told without a look at all those that are taken."""
    looks: list[int] = []

    class Live(dict[int, int]):
        def values(self) -> Any:
            looks.append(len(self))
            return super().values()

    plane = Plane(blocks=2)
    plane.direct._blocks.live = Live()
    plane.rebuild({Prefix(bytes([10, 0, cell, 1]), 32): 100 + cell for cell in range(200)})
    said = [plane.said(0x0A000001 | cell << 8) for cell in range(200)]
    assert said == [100, 101, *[0] * 198]
    assert not looks


# --- while readers are at it ----------------------------------------------------------------------


@settings(max_examples=60)
@given(start=tables, change=st.tuples(prefixes, st.none() | numbers))
def test_a_reader_finds_the_old_or_the_new_or_nothing(
    plane: Plane, start: Table, change: tuple[Prefix, int | None]
) -> None:
    plane.rebuild(start)
    readers = Readers(plane, corners({**start, change[0]: 0}))
    readers.follow(lambda: plane.change(change))


@settings(max_examples=60)
@given(before=tables, after=tables)
def test_so_it_does_while_another_agent_takes_over(
    plane: Plane, before: Table, after: Table
) -> None:
    plane.rebuild(before)
    plane.restart()
    readers = Readers(plane, corners({**before, **after}))
    readers.follow(lambda: plane.rebuild(after))


class Readers:
    """Look at some addresses after each store."""

    def __init__(self, plane: Plane, addresses: set[int]) -> None:
        self._plane, self._addresses = plane, addresses
        self._seen: dict[int, set[int]] = {address: set() for address in addresses}

    def follow(self, what: Callable[[], None]) -> None:
        before = self._answers()
        readers = self

        class Table(np.ndarray):
            def __setitem__(self, key: Any, value: Any) -> None:
                super().__setitem__(key, value)
                readers.look()

        names = ("_direct16", "_direct24", "_direct32")
        whole = {name: getattr(self._plane.direct, name) for name in names}
        for name, table in whole.items():
            setattr(self._plane.direct, name, table.view(Table))
        what()
        for name, table in whole.items():
            setattr(self._plane.direct, name, table)
        after = self._answers()
        for address, seen in self._seen.items():
            assert seen <= {before[address], after[address], 0}, hex(address)

    def look(self) -> None:
        for address in self._addresses:
            self._seen[address].add(self._plane.said(address))

    def _answers(self) -> dict[int, int]:
        return {address: self._plane.answer(address) for address in self._addresses}
