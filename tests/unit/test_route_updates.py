"""Following route events makes the tables that compiling everything makes.

A kernel is played: routes come, are replaced, appended and go, with the messages that Linux sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdpecmp.agent.live import LiveRouting
from xdpecmp.compile import Tables, compile_tables
from xdpecmp.compile.change import compile_updates
from xdpecmp.model.options import Options
from xdpecmp.model.prefixes import covers
from xdpecmp.model.routetable import RouteTable
from xdpecmp.model.values import (
    Link,
    Neighbour,
    NextHop,
    Path,
    Prefix,
    Route,
    RouteKind,
    RouteUpdate,
    Settings,
    Snapshot,
)
from xdpecmp.program.abi import Reason

MAIN, LOCAL, DEFAULT = 254, 255, 253
MAC = bytes.fromhex("020000000001")
PREFIXES = [
    *map(Prefix.parse, ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.1.0.9")),
    *map(Prefix.parse, ("::/0", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::9")),
]
VIAS = {
    4: [bytes([10, 1, 0, last]) for last in (7, 8, 9)],
    6: [Prefix.parse("2001:db8:1::").address[:15] + bytes([last]) for last in (7, 8, 9)],
}


@dataclass
class PlayedKernel:
    """Its routes in order, and what it sends."""

    routes: list[Route]

    def add(self, route: Route, append: bool) -> Iterator[RouteUpdate]:
        same = self._same(route)
        if not same:
            self.routes.append(route)
            yield RouteUpdate(route, fresh=True)
        elif route.prefix.family == 6:
            if all(r.paths != route.paths for r in same):  # more paths for the one there is
                at = self.routes.index(same[0])
                merged = replace_paths(same[0], same[0].paths + route.paths)
                self.routes[at] = merged
                yield RouteUpdate(merged)
        elif route not in same:
            at = self.routes.index(same[-1]) + 1 if append else self.routes.index(same[0])
            self.routes.insert(at, route)
            yield RouteUpdate(route)

    def replace(self, route: Route) -> Iterator[RouteUpdate]:
        same = self._same(route)
        if not same:
            yield from self.add(route, append=False)
        elif route not in same:
            self.routes[self.routes.index(same[0])] = route
            yield RouteUpdate(route, replaces=True)

    def delete(self, route: Route) -> Iterator[RouteUpdate]:
        same = self._same(route)
        if same:
            self.routes.remove(same[0])
            yield RouteUpdate(same[0], gone=True)

    def delete_path(self, route: Route) -> Iterator[RouteUpdate]:
        """IPv6 alone: of several paths one goes."""
        for known in self._same(route)[:1]:
            if len(known.paths) > 1 and known.prefix.family == 6:
                left = replace_paths(known, known.paths[1:])
                self.routes[self.routes.index(known)] = left
                yield RouteUpdate(replace_paths(known, known.paths[:1]), gone=True)

    def _same(self, route: Route) -> list[Route]:
        def place(route: Route) -> object:
            return route.prefix, route.table, route.metric, route.tos, route.source_bits

        return [each for each in self.routes if place(each) == place(route)]


def replace_paths(route: Route, paths: tuple[Path, ...]) -> Route:
    return route._replace(paths=paths)


@st.composite
def some_route(draw: st.DrawFn) -> Route:
    prefix = draw(st.sampled_from(PREFIXES))
    kind = draw(st.sampled_from([RouteKind.UNICAST] * 6 + [RouteKind.SPECIAL, RouteKind.LOCAL]))
    gateways = st.sampled_from(VIAS[prefix.family])
    paths = draw(
        st.lists(
            st.builds(
                Path,
                st.builds(NextHop, gateways, st.sampled_from([2, 3])),
                st.integers(1, 3),
                st.sampled_from([0, 0, 0, 1]),  # dead
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda path: path.nexthop,
        )
    )
    table = draw(st.sampled_from([MAIN] * 8 + [LOCAL, DEFAULT]))
    if table != DEFAULT and draw(st.integers(0, 7)) == 0:
        paths = [Path(NextHop(b"", 2))]  # directly connected
    return Route(
        prefix,
        table,
        draw(st.sampled_from([0, 0, 0, 5])),
        kind,
        tuple(paths) if kind is RouteKind.UNICAST else (),
        tos=draw(st.sampled_from([0] * 9 + [4])) if prefix.family == 4 else 0,
        source_bits=draw(st.sampled_from([0] * 9 + [48])) if prefix.family == 6 else 0,
    )


steps = st.lists(
    st.tuples(st.sampled_from(["add", "append", "replace", "delete", "path"]), some_route()),
    max_size=12,
)


def snapshot(routes: list[Route]) -> Snapshot:
    neighbours = {
        (via, 2): Neighbour(via, 2, MAC, 0x02) for vias in VIAS.values() for via in vias[:2]
    }
    links = {i: Link(i, f"eth{i}", MAC, 1500, True) for i in (2, 3)}
    return Snapshot(links, neighbours, RouteTable.of(routes), Settings(seed=1))


def resolved(tables: Tables) -> Mapping[Prefix, object]:
    """What each prefix leads to, groups as what is in them: their keys may differ."""
    return {
        prefix: tables.groups[target]
        if isinstance(target, tuple) and not isinstance(target, NextHop)
        else target
        for prefix, target in tables.routes.items()
    }


def played(kernel: PlayedKernel, step: str, route: Route) -> list[RouteUpdate]:
    if step in ("add", "append"):
        return list(kernel.add(route, append=step == "append"))
    if step == "path":
        return list(kernel.delete_path(route))
    return list(kernel.replace(route) if step == "replace" else kernel.delete(route))


class Follower:
    """Follows by events, and by a dump once they were not plain, as a Mirror."""

    def __init__(self, routes: list[Route]) -> None:
        self.live = LiveRouting(snapshot(routes), Options(), {2}, deep=True)

    @property
    def tables(self) -> Tables:
        return self.live.tables

    def follow(self, updates: list[RouteUpdate]) -> bool:
        """Whether they were plain. Finding out what changes changes nothing."""
        live, before = self.live, self.state()
        found = compile_updates(live.snapshot, live.tables, updates, live.doubts)
        assert self.state() == before
        assert live.update(updates) == found.tables
        assert found.tables is not None
        return not live.doubtful

    def state(self) -> object:
        """All that an update may change."""
        live = self.live
        return deepcopy(
            (
                live.routes.by_prefix.changes,
                live.tables.targets.changes,
                (live.tables.nexthops, live.tables.gateways, live.tables.groups),
                (live.tables.dependencies, live.doubts),
            )
        )

    def compile_again(self) -> None:
        """As for something else that has changed: a neighbour, say."""
        self.live.compile({2}, deep=True)


def assert_right_or_passed(
    found: Mapping[Prefix, object], wanted: Mapping[Prefix, object], may_pass: bool
) -> None:
    """`may_pass`: to Linux, which is never wrong."""
    for prefix in found.keys() | wanted.keys():
        one, other = (longest(targets, prefix) for targets in (found, wanted))
        assert one == other or (may_pass and one == Reason.ROUTE_UNSUPPORTED), prefix


def longest(targets: Mapping[Prefix, object], prefix: Prefix) -> object:
    """What becomes of a packet into that prefix and no longer one of these."""
    covering = [known for known in targets if covers(known, prefix)]
    return targets[max(covering, key=lambda known: known.length)] if covering else None


@given(st.lists(some_route(), max_size=6), steps, st.integers(1, 4), st.booleans(), st.booleans())
@settings(max_examples=400)
def test_following_events_comes_to_the_same_as_compiling_everything(
    first: list[Route],
    script: list[tuple[str, Route]],
    at_once: int,
    dump_at_once: bool,
    compile_again: bool,
) -> None:
    """Until a dump, what they don't tell all of passes."""
    kernel = PlayedKernel([])
    for route in first:
        list(kernel.add(route, append=False))
    follower = Follower(kernel.routes)
    pending: list[RouteUpdate] = []
    for number, (step, route) in enumerate(script, 1):
        pending += played(kernel, step, route)
        if number % at_once and number < len(script):
            continue  # several events may be followed together
        plain = follower.follow(pending)
        pending = []
        if compile_again:
            follower.compile_again()
        wanted = compile_tables(snapshot(kernel.routes), {2})
        assert_right_or_passed(resolved(follower.tables), resolved(wanted), not plain)
        if not plain:
            if dump_at_once:
                follower = Follower(kernel.routes)
            continue
        assert follower.tables.config == wanted.config
        assert follower.tables.interfaces == wanted.interfaces
        assert follower.tables.nexthops.items() >= wanted.nexthops.items()
        assert follower.tables.gateways >= wanted.gateways


@given(st.lists(some_route(), max_size=6), steps, st.data())
def test_events_of_before_the_dump_do_no_harm(
    first: list[Route], script: list[tuple[str, Route]], data: st.DataObject
) -> None:
    """They wait while the table is read, and are followed then, in order, to the end."""
    kernel = PlayedKernel([])
    for route in first:
        list(kernel.add(route, append=False))
    updates: list[RouteUpdate] = []
    dumped_at = data.draw(st.integers(0, len(script)))
    dump = list(kernel.routes)
    for number, (step, route) in enumerate(script, 1):
        updates += played(kernel, step, route)
        if number == dumped_at:
            dump = list(kernel.routes)
    table = RouteTable.of(dump)
    doubtful = {update.route.prefix for update in updates if not table.apply(update)}
    assert {r for r in table if r.prefix not in doubtful} == {
        r for r in kernel.routes if r.prefix not in doubtful
    }


def hop(last: int) -> Path:
    return Path(NextHop(bytes([10, 9, 0, last]), 3))


PLAIN = Route(Prefix.parse("10.0.0.0/8"), MAIN, 0, RouteKind.UNICAST, (hop(1), hop(2)))
NET = Route(Prefix.parse("10.1.0.0/24"), MAIN, 0, RouteKind.UNICAST, (Path(NextHop(b"", 2)),))


@pytest.mark.parametrize(
    "update",
    [
        RouteUpdate(PLAIN._replace(paths=(hop(3),)), replaces=True),
        RouteUpdate(PLAIN, gone=True),
        RouteUpdate(PLAIN._replace(metric=7, paths=(hop(3),)), fresh=True),
        RouteUpdate(PLAIN._replace(prefix=Prefix.parse("11.0.0.0/8")), fresh=True),
    ],
)
def test_the_usual_needs_no_dump(update: RouteUpdate) -> None:
    follower = Follower([PLAIN, NET])
    assert follower.follow([update])


def local(prefix: str) -> Route:
    return Route(Prefix.parse(prefix), LOCAL, 0, RouteKind.LOCAL, (Path(NextHop(b"", 1)),))


def to(prefix: str, **fields: Any) -> Route:
    return PLAIN._replace(prefix=Prefix.parse(prefix), **fields)


ENTANGLED = {
    "inside a network of neighbours": ([NET], to("10.1.0.0/25")),
    "a neighbour's own address": ([NET], to("10.1.0.7/32")),
    "a network of neighbours": ([], NET),
    "under a wide local prefix": ([local("10.0.0.0/8")], to("10.5.0.0/16")),
    "over what table default has": ([to("10.5.0.0/16", table=DEFAULT)], to("10.0.0.0/8")),
    "in table default": ([], to("10.5.0.0/16", table=DEFAULT)),
    "an own address": ([], local("10.1.0.1/32")),
}


@pytest.mark.parametrize("what", ENTANGLED)
def test_what_hangs_on_others_is_not_compiled_alone(what: str) -> None:
    before, route = ENTANGLED[what]
    for updates, after in (
        ([RouteUpdate(route, fresh=True)], [*before, route]),
        ([RouteUpdate(route, gone=True)], before),
    ):
        follower = Follower([*before, route] if updates[0].gone else before)
        assert not follower.follow(updates)
        assert follower.tables.routes[route.prefix] == Reason.ROUTE_UNSUPPORTED
        assert_right_or_passed(resolved(follower.tables), resolved(Follower(after).tables), True)


def test_one_route_that_changes_twice_at_once() -> None:
    """As by FRR: gone, and back with other paths."""
    follower = Follower([PLAIN])
    back = PLAIN._replace(paths=(hop(3), hop(4)))
    updates = [RouteUpdate(PLAIN, gone=True), RouteUpdate(back, fresh=True)]
    assert follower.follow(updates)
    assert resolved(follower.tables) == resolved(Follower([back]).tables)


def test_updates_do_not_touch_the_routes_of_before() -> None:
    """The table's arrays may be shared; what was asked for before stays what it was."""
    table = RouteTable.of([PLAIN, NET])
    shared = RouteTable.of([PLAIN, NET]).sharing(table)
    assert shared is table
    other = RouteTable.of([PLAIN._replace(paths=(hop(9),)), NET]).sharing(table)
    assert other.by_prefix.base is table.by_prefix.base
    assert other.apply(RouteUpdate(PLAIN._replace(paths=(hop(9),)), gone=True))
    assert list(other) == [NET]
    assert set(table) == {PLAIN, NET}


def test_a_table_of_many_routes_of_one_prefix_keeps_their_order() -> None:
    routes = [PLAIN._replace(metric=m, paths=(hop(i),)) for i, m in enumerate((0, 0, 5))]
    assert list(RouteTable.of([*routes[:2], NET, routes[2]])) == [*routes, NET]
    assert RouteTable.of(routes) != RouteTable.of(routes[::-1])
    assert replace(snapshot(routes)) == snapshot(routes)


def test_a_path_of_a_weighted_ipv6_route_that_goes_takes_a_dump() -> None:
    """The kernel tells of that path alone, without its weight."""
    prefix = "2001:db8:7::/48"
    eth = 1
    a, b = (Path(NextHop(via, eth), weight) for via, weight in zip(VIAS[6], (3, 1), strict=False))
    table = RouteTable.of([to(prefix, paths=(a, b))])
    gone = to(prefix, paths=(replace_weight(a),))
    assert not table.apply(RouteUpdate(gone, gone=True))


def replace_weight(path: Path) -> Path:
    return path._replace(weight=1)


def test_an_ipv4_route_that_joins_its_like_takes_a_dump() -> None:
    """Blackhole and unreachable are one to us, and a source address is not looked at: it is another
    route all the same, which stays when the first one goes."""
    route = to("10.7.0.0/16", kind=RouteKind.SPECIAL, paths=())
    table = RouteTable.of([route])
    assert not table.apply(RouteUpdate(route))
    assert table.apply(RouteUpdate(route, fresh=True)), "the event of what is there already"
