"""buckets: which bucket goes where and when, and what a restarted agent takes over.

The map is a list here; what the real one adds is in tests/bpf/test_groups.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpecmp.compile import Resilient
from xdpecmp.dataplane.buckets import Buckets
from xdpecmp.dataplane.slots import CapacityError, Slots
from xdpecmp.model.values import NextHop
from xdpecmp.program import libbpf
from xdpecmp.program.abi import CAPACITY
from xdpecmp.program.clock import Jiffies

HZ = 250
A, B, C = (NextHop(bytes([10, 0, 0, i]), i) for i in (1, 2, 3))
MEMBERS = frozenset({A, B, C})
KEY, OTHER, OLD = ("object", 1), ("object", 2), ("adopted", 20)
IDLE_S = 10.0
NOW = 1_000_000


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """How often somebody waited for the packets in flight."""
    calls: list[None] = []
    monkeypatch.setattr(libbpf, "wait_for_readers", lambda: calls.append(None))
    return calls


@dataclass
class Bucket:
    nexthop: int = 0
    used_jiffies: int = 0


class FakeMaps:
    """Stands in for `Maps`, as far as Buckets uses it."""

    layout = SimpleNamespace(value=lambda _name: Bucket)

    def __init__(self) -> None:
        self.entries = [Bucket(999, 999) for _ in range(64)]

    def __getitem__(self, name: str) -> FakeMaps:
        assert name == "buckets"
        return self

    def store(self, index: int, value: Bucket) -> None:
        self.entries[index] = value


@dataclass
class Setup:
    """Buckets over a fake map; A, B and C are the next hops number 0, 1 and 2."""

    maps: FakeMaps
    buckets: Buckets
    numbers: Slots[NextHop]

    def held(self, key: tuple[object, ...], count: int) -> list[int]:
        """Next hops by number, as the map has them."""
        first = self.buckets.first(key)
        return [bucket.nexthop for bucket in self.maps.entries[first : first + count]]

    def use(self, key: tuple[object, ...], *indexes: int, at: int = NOW) -> None:
        """What the program does for a packet."""
        for index in indexes:
            self.maps.entries[self.buckets.first(key) + index].used_jiffies = at & 0xFFFFFFFF


def setup() -> Setup:
    maps = FakeMaps()
    numbers: Slots[NextHop] = Slots(0, 10)
    for nexthop in (A, B, C):
        numbers.acquire(nexthop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CAPACITY, "BUCKETS_MAX", len(maps.entries))
        return Setup(maps, Buckets(maps, numbers), numbers)  # type: ignore[arg-type]


def resilient(*buckets: NextHop, members: frozenset[NextHop] = MEMBERS) -> Resilient:
    return Resilient(buckets, members, IDLE_S)


# --- which bucket moves ---------------------------------------------------------------------------


def test_a_fresh_group_has_what_the_kernel_has() -> None:
    made = setup()
    made.buckets.place(KEY, resilient(A, B, A, C))
    assert made.held(KEY, 4) == [0, 1, 0, 2]
    assert made.buckets.holds(KEY, 4)
    assert not made.buckets.holds(KEY, 3)
    assert not made.buckets.holds(OTHER, 4)
    first = made.buckets.first(KEY)
    assert [bucket.used_jiffies for bucket in made.maps.entries[first : first + 4]] == [0] * 4


SETTLE = [
    # name, last used at, time now, members afterwards, has it moved from A to B
    ("never used", 0, NOW, MEMBERS, True),
    ("never used, time unknown", 0, None, MEMBERS, True),
    ("just used", NOW, NOW, MEMBERS, False),
    ("used, time unknown", 1, None, MEMBERS, False),
    ("used since we looked at the clock", NOW + HZ, NOW, MEMBERS, False),
    ("idle, but not for long enough", NOW, NOW + 10 * HZ - 1, MEMBERS, False),
    ("idle for just long enough", NOW, NOW + 10 * HZ, MEMBERS, True),
    ("in use, and its next hop has left", NOW, NOW, frozenset({B, C}), True),
    ("the same, time unknown", NOW, None, frozenset({B, C}), True),
]


@pytest.mark.parametrize(
    ("used", "now", "members", "moves"), [row[1:] for row in SETTLE], ids=[row[0] for row in SETTLE]
)
def test_settle(used: int, now: int | None, members: frozenset[NextHop], moves: bool) -> None:
    """Of four buckets that the kernel moves from A to B the first is looked at, and the rest, all
    idle, goes; what the kernel leaves alone is left alone, used or not."""
    made = setup()
    made.buckets.place(KEY, resilient(A, A, C, C))
    made.use(KEY, 0, at=used)
    wanted = resilient(B, B, C, C, members=members)
    made.buckets.settle(KEY, wanted, Jiffies(now, HZ) if now else None)
    assert made.held(KEY, 4) == [1 if moves else 0, 1, 2, 2]
    entry = made.maps.entries[made.buckets.first(KEY)]
    assert entry.used_jiffies == used & 0xFFFFFFFF, "the program's word"


def test_a_member_without_a_bucket_of_the_kernels_is_still_a_member() -> None:
    """The kernel took A's last bucket, which it saw no packets of; we did, and A is there yet."""
    made = setup()
    made.buckets.place(KEY, resilient(A, B))
    made.use(KEY, 0, 1)
    made.buckets.settle(KEY, resilient(B, B), Jiffies(NOW, HZ))
    assert made.held(KEY, 2) == [0, 1]


def test_a_busy_bucket_follows_when_it_falls_idle() -> None:
    """And goes where the kernel wants it then, not where it first wanted it."""
    made = setup()
    made.buckets.place(KEY, resilient(A, A))
    made.use(KEY, 0)
    made.buckets.settle(KEY, resilient(B, A), Jiffies(NOW, HZ))
    made.use(KEY, 0, at=NOW + 5 * HZ)
    made.buckets.settle(KEY, resilient(C, A), Jiffies(NOW + 12 * HZ, HZ))
    assert made.held(KEY, 2) == [0, 0]
    made.buckets.settle(KEY, resilient(C, A), Jiffies(NOW + 15 * HZ, HZ))
    assert made.held(KEY, 2) == [2, 0]


def test_an_idle_time_of_zero_follows_at_once() -> None:
    made = setup()
    made.buckets.place(KEY, resilient(A, A))
    made.use(KEY, 0, 1)
    made.buckets.settle(KEY, resilient(B, A)._replace(idle_s=0.0), Jiffies(NOW, HZ))
    assert made.held(KEY, 2) == [1, 0]


def test_after_the_unbalanced_time_a_busy_bucket_moves_too() -> None:
    """Which runs from when a bucket began to differ, and again once none does any more."""
    made = setup()
    made.buckets.place(KEY, resilient(A, A))

    def settled(wanted: Resilient, seconds: int) -> list[int]:
        made.use(KEY, 0, 1, at=NOW + seconds * HZ)
        made.buckets.settle(
            KEY, wanted._replace(unbalanced_s=60.0), Jiffies(NOW + seconds * HZ, HZ)
        )
        return made.held(KEY, 2)

    assert settled(resilient(B, A), 0) == [0, 0]
    assert settled(resilient(B, B), 59) == [0, 0]
    assert settled(resilient(B, B), 60) == [1, 1]
    assert settled(resilient(A, A), 61) == [1, 1]
    assert settled(resilient(A, A), 120) == [1, 1]
    assert settled(resilient(A, A), 121) == [0, 0]


def test_without_an_unbalanced_time_it_never_does() -> None:
    made = setup()
    made.buckets.place(KEY, resilient(A))
    for seconds in range(0, 100_000, 9):
        made.use(KEY, 0, at=NOW + seconds * HZ)
        made.buckets.settle(KEY, resilient(B), Jiffies(NOW + seconds * HZ, HZ))
    assert made.held(KEY, 1) == [0]


USES = st.lists(
    st.tuples(st.sampled_from([A, B, C]), st.sampled_from([A, B, C]), st.integers(0, 20 * HZ)),
    min_size=1,
    max_size=20,
)


@given(USES, st.sets(st.sampled_from([A, B, C]), min_size=1))
def test_no_bucket_in_use_moves_and_no_bucket_stays_with_who_has_left(
    rows: list[tuple[NextHop, NextHop, int]], members: set[NextHop]
) -> None:
    made = setup()
    before = [row[0] for row in rows]
    wanted = [row[1] if row[1] in members else min(members) for row in rows]
    made.buckets.place(KEY, resilient(*before))
    for i, (_, _, ago) in enumerate(rows):
        made.use(KEY, i, at=NOW - ago)
    made.buckets.settle(KEY, resilient(*wanted, members=frozenset(members)), Jiffies(NOW, HZ))
    for i, number in enumerate(made.held(KEY, len(rows))):
        free = rows[i][2] >= IDLE_S * HZ or before[i] not in members
        assert number == made.numbers.live[wanted[i] if free else before[i]]


@given(USES)
def test_where_they_are_linuxs_all_move_at_once(rows: list[tuple[NextHop, NextHop, int]]) -> None:
    """And those that moved count as never used."""
    made = setup()
    made.buckets.as_linux = True
    before, wanted = [row[0] for row in rows], [row[1] for row in rows]
    made.buckets.place(KEY, resilient(*before))
    for i, (_, _, ago) in enumerate(rows):
        made.use(KEY, i, at=NOW - ago)
    made.buckets.settle(KEY, resilient(*wanted), None)
    assert made.held(KEY, len(rows)) == [made.numbers.live[each] for each in wanted]
    first = made.buckets.first(KEY)
    for i, (old, new, ago) in enumerate(rows):
        assert made.maps.entries[first + i].used_jiffies == (NOW - ago if old == new else 0)


# --- what does not fit ----------------------------------------------------------------------------


def test_a_next_hop_without_an_entry() -> None:
    """Nothing has moved, nothing is taken: so it can be tried again."""
    made = setup()
    unknown = NextHop(b"", 9)
    with pytest.raises(KeyError):
        made.buckets.place(KEY, resilient(A, unknown))
    assert not made.buckets.holds(KEY, 2)
    made.buckets.place(KEY, resilient(*[A] * 64))
    with pytest.raises(KeyError):
        made.buckets.settle(
            KEY, resilient(*[B] * 63, unknown, members=frozenset({A, B, unknown})), None
        )
    assert made.held(KEY, 64) == [0] * 64


def test_capacity(waits: list[None]) -> None:
    made = setup()
    made.buckets.place(KEY, resilient(*[A] * 40))
    with pytest.raises(CapacityError):
        made.buckets.place(OTHER, resilient(*[B] * 40))
    assert made.held(KEY, 40) == [0] * 40
    assert not waits
    made.buckets.drop(KEY)
    made.buckets.place(OTHER, resilient(*[B] * 40))
    assert len(waits) == 1, "packets may still have been looking at the buckets of before"


def test_dropping_what_is_not_there() -> None:
    setup().buckets.drop(KEY)


def test_another_number_of_buckets_is_another_place() -> None:
    made = setup()
    made.buckets.place(KEY, resilient(A, A))
    before = made.buckets.first(KEY)
    made.buckets.place(KEY, resilient(B, B, C))
    assert made.held(KEY, 3) == [1, 1, 2]
    assert made.buckets.first(KEY) not in (before, before + 1), "packets are looking there"


# --- taking over from an earlier agent ------------------------------------------------------------


def adopted() -> Setup:
    """Four buckets of an earlier agent from entry 10 on: two used just now, two long ago."""
    made = setup()
    for i, (number, used) in enumerate(((0, NOW), (1, NOW), (0, 1), (2, 1))):
        made.maps.entries[10 + i] = Bucket(number, used)
    made.buckets.adopt(OLD, 10, 4, {number: hop for hop, number in made.numbers.live.items()})
    return made


def test_inherited_buckets_stay_where_they_are() -> None:
    made = adopted()
    before = [replace(bucket) for bucket in made.maps.entries]
    assert made.buckets.inherit(KEY, OLD, 4)
    assert made.buckets.first(KEY) == 10
    assert made.maps.entries == before
    made.buckets.settle(KEY, resilient(B, B, B, B), None)
    assert made.held(KEY, 4) == [0, 1, 0, 2], "who knows when they were used"
    made.buckets.settle(KEY, resilient(B, B, B, B), Jiffies(NOW, HZ))
    assert made.held(KEY, 4) == [0, 1, 1, 1]


@pytest.mark.parametrize(("key", "count"), [(OLD, 5), (("adopted", 21), 4)])
def test_what_does_not_fit_is_not_inherited(key: tuple[object, ...], count: int) -> None:
    made = adopted()
    assert not made.buckets.inherit(KEY, key, count)
    assert not made.buckets.holds(KEY, count)


def test_there_is_one_heir() -> None:
    made = adopted()
    assert made.buckets.inherit(KEY, OLD, 4)
    assert not made.buckets.inherit(OTHER, OLD, 4)
    made.buckets.drop(OLD)  # the earlier agent's group goes, its buckets don't
    assert made.held(KEY, 4) == [0, 1, 0, 2]


def test_a_bucket_of_an_unknown_next_hop_moves_at_once() -> None:
    made = adopted()
    made.maps.entries[10].nexthop = 77
    made.buckets.adopt(OLD, 10, 4, {number: hop for hop, number in made.numbers.live.items()})
    made.buckets.inherit(KEY, OLD, 4)
    made.buckets.settle(KEY, resilient(C, C, C, C), None)
    assert made.held(KEY, 4) == [2, 1, 0, 2]


def test_restart_after_restart_uses_no_more_room() -> None:
    """Two groups, of which one is new each time: the other's are its own, and nothing is lost."""
    first = 0
    for _ in range(50):
        made = setup()
        made.maps.entries[first : first + 20] = [Bucket(0, NOW) for _ in range(20)]
        made.buckets.adopt(OLD, first, 20, {0: A})
        made.buckets.place(OTHER, resilient(*[B] * 20))
        first = made.buckets.first(OTHER)
        assert made.held(OTHER, 20) == [1] * 20
        assert made.buckets.inherit(KEY, OLD, 20)
        assert made.held(KEY, 20) == [0] * 20
