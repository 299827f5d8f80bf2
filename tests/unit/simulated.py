"""A simulated kernel: neighbours and nexthop objects that come, change and go, routes that lead to
them, and the messages that Linux sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import strategies as st

from xdpecmp.model.nexthoptable import BucketUpdate, Group, NexthopUpdate, Single
from xdpecmp.model.values import (
    Link,
    Neighbour,
    NeighbourUpdate,
    NextHop,
    Path,
    Prefix,
    Route,
    RouteKind,
)

MAIN, LOCAL, DEFAULT = 254, 255, 253
LINKS = {i: Link(i, f"eth{i}", bytes([2, 0, 0, 0, 0, i]), 1500, True) for i in (2, 3)}
ADDRESSES = [bytes([10, 1, 0, last]) for last in (7, 8, 9)] + [
    Prefix.parse("2001:db8:1::").address[:15] + bytes([last]) for last in (7, 8, 9)
]
REACHABLE, STALE, FAILED, PERMANENT = 0x02, 0x04, 0x20, 0x80
BUCKETS = 4


def on_link(prefix: str, ifindex: int = 2, metric: int = 0, table: int = MAIN) -> Route:
    paths = (Path(NextHop(b"", ifindex)),)
    return Route(Prefix.parse(prefix), table, metric, RouteKind.UNICAST, paths)


def over(prefix: str, nhid: int, metric: int = 0, table: int = MAIN) -> Route:
    return Route(Prefix.parse(prefix), table, metric, RouteKind.UNICAST, nhid=nhid)


def own(prefix: str) -> Route:
    paths = (Path(NextHop(b"", 2)),)
    return Route(Prefix.parse(prefix), LOCAL, 0, RouteKind.LOCAL, paths)


def through(prefix: str, *paths: tuple[bytes, int], metric: int = 0) -> Route:
    hops = tuple(
        Path(NextHop(via, ifindex), weight + 1) for weight, (via, ifindex) in enumerate(paths)
    )
    return Route(Prefix.parse(prefix), MAIN, metric, RouteKind.UNICAST, hops)


ROUTES = [
    on_link("10.1.0.0/24"),
    on_link("10.1.0.0/24", 3, metric=5),
    on_link("10.1.0.8/31", 3),
    on_link("10.1.0.8/32", 3),
    on_link("2001:db8:1::/64"),
    on_link("2001:db8:1::8/125", 3),
    on_link("10.0.0.0/8", 3, table=DEFAULT),
    own("10.1.0.7/32"),
    own("10.1.0.8/31"),
    own("2001:db8:1::9/128"),
    through("10.1.0.9/32", (ADDRESSES[0], 2)),
    through("20.0.0.0/8", (ADDRESSES[0], 2), (ADDRESSES[1], 3)),
    through("20.1.0.0/16", (ADDRESSES[1], 3), (ADDRESSES[2], 2)),
    through("2001:db8:77::/48", (ADDRESSES[3], 2), (ADDRESSES[4], 2)),
    *(over(prefix, nhid) for prefix in ("30.0.0.0/8", "2001:db8:88::/48") for nhid in (1, 10, 11)),
    over("30.0.0.0/8", 12, metric=7),
    over("50.0.0.0/8", 12),
    over("10.1.0.0/16", 10),
    over("10.1.0.8/30", 11),
    over("40.0.0.0/8", 3),
    over("10.1.0.9/32", 2),
    over("60.0.0.0/8", 1, table=DEFAULT),
    on_link("10.1.0.9/32", 3, table=DEFAULT),
]


def neighbours() -> st.SearchStrategy[NeighbourUpdate]:
    made = st.builds(
        Neighbour,
        st.sampled_from(ADDRESSES),
        st.sampled_from([2, 3]),
        st.sampled_from([bytes([2, 0, 0, 0, 1, 1]), bytes([2, 0, 0, 0, 1, 2]), b""]),
        st.sampled_from([REACHABLE, STALE, FAILED, PERMANENT]),
        st.booleans(),
    )
    return st.builds(NeighbourUpdate, made, st.sampled_from([False, False, True]))


def singles() -> st.SearchStrategy[Single]:
    path = st.builds(
        Path,
        st.builds(NextHop, st.sampled_from([*ADDRESSES[:3], b""]), st.sampled_from([2, 3])),
        st.just(1),
    )
    return st.one_of(
        st.builds(Single, st.just(RouteKind.UNICAST), path),
        st.builds(Single, st.just(RouteKind.UNICAST), path),
        st.just(Single(RouteKind.SPECIAL, None)),
        st.just(Single(RouteKind.UNSUPPORTED, None)),
    )


SINGLE_IDS, GROUP_IDS = (1, 2, 3), (10, 11, 12)


@dataclass
class SimulatedObjects:
    """The kernel's nexthop objects, and what it sends: remove_nexthop(), remove_nh_grp_entry(),
    replace_nexthop() in net/ipv4/nexthop.c."""

    objects: dict[int, Single | Group] = field(default_factory=dict)
    buckets: dict[int, dict[int, int]] = field(default_factory=dict)

    def put_single(self, nhid: int, single: Single) -> Iterator[NexthopUpdate]:
        self.objects[nhid] = single
        yield NexthopUpdate(nhid, single)

    def put_group(self, nhid: int, members: dict[int, int], resilient: bool) -> Iterator[object]:
        there = tuple((m, w) for m, w in members.items() if m in self.objects)
        if not there:
            return
        group = Group(RouteKind.UNICAST, there, resilient, BUCKETS if resilient else 0)
        before = self.objects.get(nhid)
        if isinstance(before, Group) and before.resilient != resilient:
            return  # refused
        self.objects[nhid] = group
        self._fill(nhid, group)
        yield NexthopUpdate(nhid, group)

    def _fill(self, nhid: int, group: Group) -> None:
        """Without a word."""
        if group.resilient:
            held = [member for member, _ in group.members]
            self.buckets[nhid] = {i: held[i % len(held)] for i in range(BUCKETS)}

    def move(self, nhid: int, bucket: int, member: int) -> Iterator[BucketUpdate]:
        group = self.objects.get(nhid)
        if isinstance(group, Group) and group.resilient:
            members = [each for each, _ in group.members]
            moved = members[member % len(members)]
            self.buckets[nhid][bucket] = moved
            yield BucketUpdate(nhid, bucket, moved)

    def delete(self, nhid: int) -> Iterator[NexthopUpdate]:
        if self.objects.pop(nhid, None) is None:
            return
        self.buckets.pop(nhid, None)
        yield NexthopUpdate(nhid, None)
        for parent, group in list(self.objects.items()):
            if isinstance(group, Group) and any(member == nhid for member, _ in group.members):
                left = tuple(each for each in group.members if each[0] != nhid)
                if left:
                    self.objects[parent] = group._replace(members=left)
                    self._fill(parent, self.objects[parent])  # type: ignore[arg-type]
                    yield NexthopUpdate(parent, self.objects[parent])
                else:
                    yield from self.delete(parent)


object_steps = st.one_of(
    st.tuples(st.just("single"), st.sampled_from(SINGLE_IDS), singles()),
    st.tuples(
        st.just("group"),
        st.sampled_from(GROUP_IDS),
        st.dictionaries(st.sampled_from(SINGLE_IDS), st.integers(1, 3), min_size=1),
        st.booleans(),
    ),
    st.tuples(st.just("move"), st.sampled_from(GROUP_IDS), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("delete"), st.sampled_from((*SINGLE_IDS, *GROUP_IDS))),
)


def play(kernel: SimulatedObjects, step: tuple[object, ...]) -> list[NexthopUpdate | BucketUpdate]:
    what, *rest = step
    act = {
        "single": kernel.put_single,
        "group": kernel.put_group,
        "move": kernel.move,
        "delete": kernel.delete,
    }[str(what)]
    return list(act(*rest))  # type: ignore[operator]
