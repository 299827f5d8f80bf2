"""`Monitor` says what kind of thing changed, in time, and survives a storm."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from testbed.netns import Namespace
from tests.net.netlink.helpers import expect
from xdpecmp.netlink import Changes, Kernel

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("route add 20.0.0.0/8 via 10.0.0.2", "updates"),
        ("route add fd77::/64 via fd00::2", "updates"),
        ("addr add 10.0.0.9/24 dev eth0", "routes"),
        ("addr add fd00::9/64 dev eth0", "routes"),
        ("nexthop add id 5 via 10.0.0.2 dev eth0", "nexthop_updates"),
        ("nexthop add id 5 blackhole", "nexthop_updates"),
        ("link set eth0 mtu 1400", "links"),
        ("link set eth0 down", "routes"),
        ("link set eth0 down", "nexthops"),
        ("neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev eth0", "neighbour_updates"),
        ("neigh add fd00::2 lladdr 02:00:00:00:00:01 dev eth0", "neighbour_updates"),
        ("rule add from 10.0.0.0/8 table 100", "rules"),
        ("-6 rule add from fd00::/8 table 100", "rules"),
        ("xfrm policy add dir fwd src 10.9.0.0/16 dst 10.8.0.0/16 action block", "settings"),
        ("xfrm policy setdefault fwd block", "settings"),
    ],
)
def test_monitor(router: Namespace, kernel: Kernel, arguments: str, what: str) -> None:
    with kernel.monitor() as monitor:
        monitor.drain()
        router.ip(arguments)
        changes = expect(monitor, lambda changes: bool(getattr(changes, what)))
        assert not changes.lost
        assert not monitor.drain()


@pytest.mark.parametrize(
    "key",
    [
        "net.ipv4.conf.eth0.forwarding",
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.eth0.ignore_routes_with_linkdown",
        "net.ipv6.conf.all.forwarding",
    ],
)
def test_monitor_sees_forwarding_sysctls(router: Namespace, kernel: Kernel, key: str) -> None:
    with kernel.monitor() as monitor:
        router.sysctl(key, 1)
        expect(monitor, lambda changes: changes.settings)


def test_monitor_ignores_other_tables(router: Namespace, kernel: Kernel) -> None:
    with kernel.monitor() as monitor:
        monitor.drain()
        for table in (100, 1000):
            router.ip(f"route add 20.0.0.0/8 via 10.0.0.2 table {table}")
        router.ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev eth0")  # comes last
        heard = expect(monitor, lambda changes: bool(changes.neighbour_updates))
        assert replace(heard, neighbour_updates=()) == Changes()


def test_monitor_survives_an_overrun(router: Namespace, kernel: Kernel) -> None:
    with kernel.monitor() as monitor:
        rtnetlink, *_ = monitor._sources[0]
        rtnetlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        batch = "\n".join(f"route add 20.0.{i}.0/24 via 10.0.0.2" for i in range(200))
        router.run("ip", "-batch", "-", input=batch)
        assert expect(monitor, lambda changes: changes.lost).lost
        monitor.drain()
        router.ip("rule add from 10.0.0.0/8 table 100")
        assert expect(monitor, lambda changes: changes.rules).rules
