"""Reading all routes while they change: what the mirror makes of a dump and of what it heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from xdpecmp.agent.deep import DeepProgram
from xdpecmp.agent.live import LiveRouting
from xdpecmp.agent.mirror import Mirror
from xdpecmp.compile import Tables
from xdpecmp.model.nexthoptable import NexthopTable, NexthopUpdate, Single
from xdpecmp.model.options import Options
from xdpecmp.model.routetable import RouteTable
from xdpecmp.model.values import (
    Link,
    NextHop,
    Path,
    Prefix,
    Route,
    RouteKind,
    RouteUpdate,
    Settings,
    Snapshot,
)
from xdpecmp.netlink import Changes
from xdpecmp.program.abi import Reason
from xdpecmp.program.clock import Clock

ROUTES = Changes(routes=True)


def route(prefix: str, last: int = 1) -> Route:
    net = Prefix.parse(prefix)
    via = bytes([10, 0, 0, last]) if net.family == 4 else Prefix.parse(f"2001:db8::{last}").address
    return Route(net, 254, 0, RouteKind.UNICAST, (Path(NextHop(via, 2)),))


ONE, TWO, THREE = (f"2001:db8:{i}::/48" for i in (1, 2, 3))


class FakeKernel:
    """Tells the routes as they are, or as torn as it is told to."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.now = list(routes)
        self.left_out: set[str] = set()

    def snapshot(self) -> Snapshot:
        links = {2: Link(2, "eth0", bytes(6), 1500, True)}
        return Snapshot(links, {}, RouteTable.of(self.now), Settings(seed=1))

    def manage_neighbour(self, _address: bytes, _ifindex: int) -> None: ...

    def routes(self, meanwhile: Callable[[], None]) -> RouteTable:
        dump = [each for each in self.now if str(each.prefix) not in self.left_out]
        meanwhile()
        return RouteTable.of(dump)


class FakeDataplane:
    """Takes everything."""

    def change(self, _change: object) -> bool:
        return True

    def sync(self, _tables: Tables) -> bool:
        return True


def mirror_of(kernel: FakeKernel) -> Mirror:
    live = LiveRouting(kernel.snapshot(), Options(), {2}, deep=False)
    deep = DeepProgram(lambda: pytest.fail("nothing to build"))
    parts = (kernel, live, FakeDataplane(), Clock(-1), deep, (), lambda _: None)
    return Mirror(*parts)  # type: ignore[arg-type]


def dumped(mirror: Mirror, *meanwhile: RouteUpdate) -> bool:
    """Have all routes read, and those updates heard and followed while they are."""

    def follow(last: bool) -> None:
        if meanwhile and not last:
            mirror.update(meanwhile)

    return mirror.pull(ROUTES, follow)


def known(mirror: Mirror) -> set[Route]:
    return set(RouteTable.of(mirror.snapshot.routes))


def test_what_changes_during_a_dump_is_not_undone_by_it() -> None:
    """The dump may tell of a route as it was before."""
    before, after = route(ONE), route(ONE, last=2)
    kernel = FakeKernel([before])
    mirror = mirror_of(kernel)
    assert dumped(mirror, RouteUpdate(after, replaces=True))
    assert known(mirror) == {after}
    assert not mirror.unsure


@pytest.mark.parametrize(
    ("family", "kept"), [(6, True), (4, False)], ids=["IPv6", "IPv4, which has no such fault"]
)
def test_what_a_torn_dump_leaves_out_is_kept(family: int, kept: bool) -> None:
    """Where IPv6 routes come and go while they are told, others are not told."""
    one, two, three = (ONE, TWO, THREE) if family == 6 else ("20.1.0.0", "20.2.0.0", "20.3.0.0")
    kernel = FakeKernel([route(one), route(two)])
    mirror = mirror_of(kernel)
    kernel.now, kernel.left_out = [route(two), route(three)], {str(Prefix.parse(two))}
    gone, come = RouteUpdate(route(one), gone=True), RouteUpdate(route(three), fresh=True)
    dumped(mirror, gone, come)
    assert known(mirror) == ({route(two), route(three)} if kept else {route(three)})
    assert mirror.unsure is kept
    kernel.left_out = set()
    dumped(mirror)
    assert known(mirror) == {route(two), route(three)}
    assert not mirror.unsure


def test_routes_that_only_come_or_only_go_tear_nothing() -> None:
    kernel = FakeKernel([route(ONE), route(TWO)])
    mirror = mirror_of(kernel)
    kernel.now = [route(ONE)]
    dumped(mirror, RouteUpdate(route(THREE), gone=True))
    assert known(mirror) == {route(ONE)}, "this went without a word"
    assert not mirror.unsure


def test_what_was_in_doubt_comes_back_though_the_dump_says_nothing_new() -> None:
    """Its packets pass meanwhile, which has to end."""
    kernel = FakeKernel([route(ONE)])
    mirror = mirror_of(kernel)
    assert not mirror.update([RouteUpdate(route(ONE)._replace(tos=4))])
    assert dumped(mirror)
    assert not dumped(mirror)


def test_a_spoilt_dump_changes_nothing() -> None:
    """Events were lost in it."""
    kernel = FakeKernel([route(ONE)])
    mirror = mirror_of(kernel)
    kernel.now = []

    def follow(last: bool) -> None:
        if last:
            mirror.spoil()

    assert not mirror.pull(ROUTES, follow)
    assert known(mirror) == {route(ONE)}
    assert mirror.unsure
    assert dumped(mirror)
    assert not known(mirror)
    assert not mirror.unsure


def test_a_torn_dump_settles_the_doubts_that_it_says_something_about() -> None:
    kernel = FakeKernel([route(ONE), route(TWO)])
    mirror = mirror_of(kernel)
    mirror.update([RouteUpdate(route(TWO)._replace(tos=4))])
    kernel.now = [route(TWO), route(THREE)]
    dumped(mirror, RouteUpdate(route(ONE), gone=True), RouteUpdate(route(THREE), fresh=True))
    mirror.compile({2})
    assert mirror.tables is not None
    assert Reason.ROUTE_UNSUPPORTED not in mirror.tables.routes.values()


def test_a_torn_dump_does_not_settle_a_doubt() -> None:
    """What it leaves out is kept as it was known, and this wasn't."""
    kernel = FakeKernel([route(ONE), route(TWO)])
    mirror = mirror_of(kernel)
    mirror.update([RouteUpdate(route(TWO)._replace(tos=4), gone=True)])
    kernel.now = [route(THREE)]
    dumped(mirror, RouteUpdate(route(ONE), gone=True), RouteUpdate(route(THREE), fresh=True))
    mirror.compile({2})
    assert mirror.tables is not None
    assert mirror.tables.routes[Prefix.parse(TWO)] == Reason.ROUTE_UNSUPPORTED
    dumped(mirror)
    mirror.compile({2})
    assert set(mirror.tables.routes) == {Prefix.parse(THREE)}


def test_what_comes_in_doubt_during_a_dump_stays_so() -> None:
    kernel = FakeKernel([route(ONE)])
    mirror = mirror_of(kernel)
    assert dumped(mirror, RouteUpdate(route(ONE)._replace(tos=4)))
    assert mirror.unsure
    assert dumped(mirror)
    assert not mirror.unsure


def test_an_object_that_goes_and_comes_back_during_a_dump_leaves_its_routes_in_doubt() -> None:
    """IPv4's went with it without a word, and the dump may have told of them before."""
    path = Path(NextHop(bytes([10, 0, 0, 1]), 2))
    single = Single(RouteKind.UNICAST, path)
    over = Route(Prefix.parse("20.1.0.0/16"), 254, 0, RouteKind.UNICAST, nhid=1)
    kernel = FakeKernel([over])
    mirror = mirror_of(kernel)
    mirror._live.snapshot = replace(mirror.snapshot, nexthop_groups=NexthopTable({1: single}))
    mirror.attached = lambda: {2}  # type: ignore[method-assign]
    mirror.compile()
    mirror._dataplane.crowded_out = []  # type: ignore[misc]
    updates = (NexthopUpdate(1, None), NexthopUpdate(1, single))

    def flap(last: bool) -> None:
        if not last:
            assert not mirror.follow(Changes(nexthop_updates=updates))

    assert mirror.pull(ROUTES, flap)
    mirror.compile()
    assert mirror.tables is not None
    assert mirror.tables.routes[over.prefix] == Reason.ROUTE_UNSUPPORTED
    assert mirror.unsure
    assert dumped(mirror)
    mirror.compile()
    assert mirror.tables.routes[over.prefix] == path.nexthop
    assert not mirror.unsure
