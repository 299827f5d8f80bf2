"""What the kernel says of single routes, done to a table, comes to what a dump then says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.netns import Namespace
from tests.net.netlink.helpers import expect
from xdpecmp.model.routetable import RouteTable
from xdpecmp.model.values import RouteUpdate
from xdpecmp.netlink import Kernel, Monitor

pytestmark = pytest.mark.root

TWO4 = "nexthop via 10.0.0.2 weight {} nexthop via 10.0.1.2 weight {}"
TWO6 = "nexthop via fd00::2 weight {} nexthop via fd01::2 weight {}"


class Follower:
    """A table that is kept by what the monitor says."""

    def __init__(self, router: Namespace, kernel: Kernel, monitor: Monitor) -> None:
        self._router, self._kernel, self._monitor = router, kernel, monitor
        self.table = kernel.routes()
        self._fence = 0

    def after(self, *commands: str) -> bool:
        """Whether the updates that these commands caused were all plain; where not, dumps."""
        family = "-6" if "::" in commands[0] else "-4"
        self._router.run("ip", family, "-batch", "-", input="\n".join(commands))
        unclear = [update for update in self._updates() if not self.table.apply(update)]
        if unclear:
            self.table = self._kernel.routes()
        return not unclear

    def _updates(self) -> tuple[RouteUpdate, ...]:
        """All until now: events come in order, and that of a neighbour comes last."""
        self._fence += 1
        mac = f"02:00:00:00:00:{self._fence:02x}"
        self._router.ip(f"neigh replace 10.0.0.99 lladdr {mac} dev eth0 nud permanent")
        return expect(self._monitor, lambda changes: bool(changes.neighbour_updates)).updates

    def is_right(self) -> bool:
        return self.table == self._kernel.routes()


@pytest.fixture
def follower(router: Namespace, kernel: Kernel) -> Iterator[Follower]:
    for number, via in (
        (5, "10.0.0.2 dev eth0"),
        (6, "10.0.1.2 dev eth1"),
        (7, "fd00::2 dev eth0"),
    ):
        router.ip(f"nexthop add id {number} via {via}")
    router.ip("nexthop add id 8 group 5/6")
    with kernel.monitor() as monitor:
        expect_nothing_new(router, monitor)
        yield Follower(router, kernel, monitor)


def expect_nothing_new(router: Namespace, monitor: Monitor) -> None:
    """Have what the set-up caused behind us."""
    router.ip("neigh replace 10.0.0.98 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
    expect(monitor, lambda changes: bool(changes.neighbour_updates))


PLAIN = {
    "IPv4": [
        "route add 20.0.0.0/8 via 10.0.0.2",
        f"route replace 20.0.0.0/8 {TWO4.format(1, 2)}",
        f"route replace 20.0.0.0/8 {TWO4.format(3, 4)}",
        "route add 20.0.0.0/8 via 10.0.1.2 metric 50",
        f"route change 20.0.0.0/8 {TWO4.format(5, 6)}",
        "route replace 20.0.0.0/8 via 10.0.0.2 mtu 1400",
        "route del 20.0.0.0/8 metric 50",
        "route replace blackhole 20.0.0.0/8",
        "route del blackhole 20.0.0.0/8",
        "route append 20.0.0.0/8 via 10.0.0.2",
        "route prepend 21.0.0.0/8 via 10.0.0.2",
        "route replace default via 10.0.0.2",
        "route replace 20.0.0.0/8 nhid 8",
        "route replace 20.0.0.0/8 nhid 5",
        "route del 20.0.0.0/8",
        "route del default",
        "route add 22.0.0.0/8 via 10.0.0.2 proto 186 metric 20",
        "route add 22.0.0.0/8 via 10.0.0.2 table 100",
        "route del 22.0.0.0/8 via 10.0.0.2 proto 186 metric 20",
    ],
    "IPv6": [
        "route add fd77::/64 via fd00::2",
        f"route replace fd77::/64 {TWO6.format(1, 2)}",
        f"route replace fd77::/64 {TWO6.format(3, 4)}",
        "route replace fd77::/64 via fd01::2",
        f"route add fd77::/64 metric 50 {TWO6.format(1, 1)}",
        "route del fd77::/64 metric 50",
        "route replace blackhole fd77::/64",
        "route del blackhole fd77::/64",
        f"route add fd77::/64 {TWO6.format(1, 2)}",
        "route del fd77::/64",
        f"route append fd77::/64 {TWO6.format(1, 2)}",
        "route replace ::/0 via fd00::2",
        "route replace fd77::/64 nhid 7",
        "route del fd77::/64",
    ],
}


@pytest.mark.parametrize("family", PLAIN)
def test_plain_changes_need_no_dump(follower: Follower, family: str) -> None:
    for command in PLAIN[family]:
        assert follower.after(command), command
        assert follower.is_right(), command


ONE4, ONE6 = "route add 20.0.0.0/8 via 10.0.0.2", "route add fd77::/64 via fd00::2"
BOTH6 = f"route add fd77::/64 {TWO6.format(1, 2)}"
JOINING = {
    "IPv4, appended": (ONE4, "route append 20.0.0.0/8 via 10.0.1.2"),
    "IPv4, prepended": (ONE4, "route prepend 20.0.0.0/8 via 10.0.1.2"),
    "IPv4, with a TOS": (ONE4, "route add 20.0.0.0/8 tos 4 via 10.0.1.2"),
    "IPv6, appended": (ONE6, "route append fd77::/64 via fd01::2"),
    "IPv6, appended to two": (BOTH6, "route append fd77::/64 via fd01::9"),
    "IPv6, path by path": (BOTH6, f"route del fd77::/64 {TWO6.format(1, 2)}"),
    "IPv6, for a source": (ONE6, "route add fd77::/64 from fd99::/64 via fd01::2 metric 2000"),
    "IPv6, one path less": (BOTH6, "route del fd77::/64 via fd00::2"),
}


@pytest.mark.parametrize("what", JOINING)
def test_what_joins_others_or_leaves_them_needs_one(follower: Follower, what: str) -> None:
    before, then = JOINING[what]
    assert follower.after(before)
    assert not follower.after(then)
    assert follower.is_right()


@pytest.mark.parametrize("family", [4, 6])
def test_many_changes_at_once(follower: Follower, family: int) -> None:
    """As by a routing daemon; FRR has an IPv6 route go and come again."""
    two = TWO4 if family == 4 else TWO6
    nets = [f"20.{i}.0.0/16" if family == 4 else f"fd77:{i + 1:x}::/48" for i in range(200)]
    assert follower.after(*(f"route add {net} {two.format(1, 2)}" for net in nets))
    assert follower.is_right()
    commands = []
    for i, net in enumerate(nets):
        commands += [f"route del {net}"] if i % 3 else []
        commands += [f"route replace {net} {two.format(i + 1, 2)}"] if i % 3 != 1 else []
    assert follower.after(*commands)
    assert follower.is_right()
    assert len(list(follower.table.by_prefix.where(lambda _: True))) > 130


def test_a_table_without_an_update_is_seen_to_be_wrong(follower: Follower, kernel: Kernel) -> None:
    """So that the tests above can fail."""
    assert follower.after("route add 20.0.0.0/8 via 10.0.0.2")
    before: RouteTable = kernel.routes()
    assert follower.after(f"route replace 20.0.0.0/8 {TWO4.format(1, 2)}")
    assert before != follower.table
