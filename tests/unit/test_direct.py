"""The tables in front of the IPv4 trie must say what the trie says, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdpecmp.abi import Reason
from xdpecmp.compile.prefixes import masked
from xdpecmp.direct import CELLS, ROWS, Changed, Direct4
from xdpecmp.model import Prefix

NO_ROUTE = int(Reason.NO_ROUTE)
Table = dict[Prefix, int]


class Plane:
    """Both tables in plain memory, and a dictionary in the trie's place."""

    def __init__(self) -> None:
        self.direct16 = np.zeros(ROWS, np.uint16)
        self.direct24 = np.zeros(ROWS * CELLS, np.uint16)
        self.direct = Direct4(self.direct16, self.direct24)
        self.routes: Table = {}

    def rebuild(self, routes: Mapping[Prefix, int]) -> None:
        self.routes = dict(routes)
        self.direct.rebuild(
            np.array([int.from_bytes(p.address, "big") for p in routes], np.uint32),
            np.array([p.length for p in routes], np.uint8),
            np.array(list(routes.values()), np.uint32),
        )

    def change(self, *wanted: tuple[Prefix, int | None]) -> None:
        changes = []
        for prefix, new in wanted:
            old = self.routes.pop(prefix, None)
            if new is not None:
                self.routes[prefix] = new
            if old != new:
                changes.append(Changed(prefix, old, new))
        self.direct.apply(changes, self.covering)

    def covering(self, prefix: Prefix) -> tuple[int, int] | None:
        for length in range(prefix.length - 1, -1, -1):
            found = self.routes.get(Prefix(masked(prefix.address, length), length))
            if found is not None:
                return length, found
        return None

    def said(self, address: int) -> int:
        """As direct_group() in bpf/xdpecmp.c reads them; 0: ask the trie."""
        return int(self.direct16[address >> 16]) or int(self.direct24[address >> 8])

    def check(self, address: int) -> None:
        packed = address.to_bytes(4, "big")
        found = self.covering(Prefix(packed, 33))
        deep = any(
            p.length > 24 and masked(packed, 24) == masked(p.address, 24) for p in self.routes
        )
        expected = 0 if deep else found[1] if found else NO_ROUTE
        assert self.said(address) == expected, (packed, found)


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


@pytest.fixture(scope="module")
def plane() -> Plane:
    """One for all: what an earlier example left in rows that are no longer looked at stays."""
    return Plane()


def corners(routes: Mapping[Prefix, int]) -> set[int]:
    """First and last address of each prefix, and the ones next to it."""
    found = {0, 0x0A000001, 0xFFFFFFFF}
    for p in routes:
        first = int.from_bytes(p.address, "big")
        last = first | ((1 << (32 - p.length)) - 1)
        found |= {first, last, max(first - 1, 0), min(last + 1, 0xFFFFFFFF)}
        found |= {first ^ 0x100, first ^ 0x10000}
    return found


@settings(max_examples=150, deadline=None)
@given(start=tables, changes=steps)
def test_says_what_the_trie_says(plane: Plane, start: Table, changes: list) -> None:
    plane.rebuild(start)
    seen = set(start)
    for step in changes:
        plane.change(*dict(step).items())
        seen |= {p for p, _ in step}
    for address in corners(dict.fromkeys(seen, 0)):
        plane.check(address)


@settings(max_examples=50, deadline=None)
@given(start=tables, changes=steps)
def test_changes_come_to_what_a_rebuild_comes_to(plane: Plane, start: Table, changes: list) -> None:
    plane.rebuild(start)
    for step in changes:
        plane.change(*dict(step).items())
    said = {address: plane.said(address) for address in corners(plane.routes)}
    plane.rebuild(plane.routes)
    assert {address: plane.said(address) for address in said} == said


def test_without_routes_everything_is_known_to_lead_nowhere(plane: Plane) -> None:
    plane.rebuild({})
    assert set(plane.direct16.tolist()) == {NO_ROUTE}


def test_readers_are_sent_to_cells_only_once_these_are_right(plane: Plane) -> None:
    """A row gets its first longer prefix: until then its cells hold whatever they did."""
    plane.rebuild({prefix("0.0.0.0/0"): 100, prefix("10.0.3.0/24"): 101})
    plane.change((prefix("10.0.3.0/24"), None), (prefix("0.0.0.0/0"), 102))
    stores: list[str] = []
    direct16, direct24 = plane.direct16, plane.direct24
    watched = Watched(plane, stores)
    watched.change((prefix("10.0.4.0/24"), 103))
    assert stores[-1] == "direct16"
    assert stores.count("direct16") == 1
    assert (direct16[0x0A00], direct24[0x0A0003], direct24[0x0A0004]) == (0, 102, 103)


class Watched:
    """Writes down which table is stored to, in order."""

    def __init__(self, plane: Plane, stores: list[str]) -> None:
        class Table(np.ndarray):
            def __setitem__(self, key: object, value: object) -> None:
                stores.append(self.label)  # type: ignore[attr-defined]
                super().__setitem__(key, value)

            def __array_finalize__(self, parent: object) -> None:
                self.label = getattr(parent, "label", "")

        for name in ("direct16", "direct24"):
            table = getattr(plane, name).view(Table)
            table.label = name
            setattr(plane.direct, f"_{name}", table)
        self.change = plane.change
