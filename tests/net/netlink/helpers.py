"""What several of the netlink tests need: looking routes up, waiting for events."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from ipaddress import ip_address

from testbed.netns import Namespace
from testbed.waiting import PATIENCE, wait_until
from xdpecmp.model.values import NextHop, Prefix, Route
from xdpecmp.model.values import Path as RoutePath
from xdpecmp.netlink import Changes, Kernel, Monitor

DEADLINE_S = 5.0 * PATIENCE


def find(kernel: Kernel, prefix: str) -> list[Route]:
    """The routes of a prefix in the kernel's order."""
    return [r for r in kernel.routes() if r.prefix == Prefix.parse(prefix)]


def only(kernel: Kernel, prefix: str) -> Route:
    """The one route of a prefix."""
    (route,) = find(kernel, prefix)
    return route


def hop(via: str, ifindex: int, weight: int = 1, flags: int = 0) -> RoutePath:
    return RoutePath(NextHop(ip_address(via).packed if via else b"", ifindex), weight, flags)


def expect(monitor: Monitor, condition: Callable[[Changes], bool]) -> Changes:
    """Wait for an event, by poll with a deadline."""
    end = time.monotonic() + DEADLINE_S
    poller = select.poll()
    poller.register(monitor, select.POLLIN)
    seen = Changes()
    while not condition(seen):
        left = end - time.monotonic()
        assert left > 0, f"only {seen}"
        if poller.poll(left * 1000):
            seen |= monitor.drain()
    return seen


def lose_carrier(kernel: Kernel, peer: Namespace, *nets: str) -> None:
    """Take eth0's carrier away. The FIB hears of it later than the link (linkwatch: up to 1 s)."""
    peer.ip("link set peer0 down")

    def heard() -> bool:
        return all(only(kernel, net).paths[0].linkdown for net in nets)

    wait_until(heard, f"{nets} linkdown")
