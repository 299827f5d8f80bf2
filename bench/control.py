"""The control plane's times: attach, and a route change on its way into the data path."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Any

from tests.netns import Namespace
from xdpecmp.instance import Instance
from xdpecmp.maps import Maps
from xdpecmp.model import Prefix, Route
from xdpecmp.netlink import Kernel

from .router import BenchError, add_plain_routes, attached, plain_route, router

ROUTES = 1000
_GIVE_UP_SECONDS = 5.0
_LOOK_SECONDS = 0.0003


def measure(
    attaches: int, changes: int, advance: Callable[[], object]
) -> tuple[list[float], list[float]]:
    """Seconds of each attach, from exec to exit, and of each route change, from when the
    kernel has it to the first packet that could go by it; with 1,000 routes."""
    attach_seconds, change_seconds = [], []
    with router("control", 0, paths=()) as inside:
        add_plain_routes(inside.namespace, ROUTES)
        for last in (attaches - 1 - i for i in range(attaches)):
            with attached(inside.namespace) as seconds:
                attach_seconds.append(seconds)
                advance()
                if not last:
                    change_seconds = _changes(inside.namespace, changes, advance)
    return attach_seconds, change_seconds


def _changes(namespace: Namespace, count: int, advance: Callable[[], object]) -> list[float]:
    with namespace.enter(), Kernel() as kernel, Instance().open_maps() as maps:
        routes = {route.prefix: route for route in kernel.routes()}
        seconds = []
        for i in range(count):
            network = ipaddress.ip_network(plain_route(i % ROUTES, 1).split()[0])
            prefix = Prefix(network.network_address.packed, network.prefixlen)
            seconds.append(_change(kernel, maps, routes[prefix], 3 + i % 250))
            advance()
    return seconds


def _change(kernel: Kernel, maps: Maps, route: Route, weight: int) -> float:
    """Give one route's first next hop another weight; watch the map for it.

    The clock starts when the kernel has the route. The watching sleeps between its looks: the
    agent has two processors to share with the rest of the machine.
    """
    kernel.set_weights(route, [weight, *(path.weight for path in route.paths[1:])])
    begin = time.perf_counter()
    while _first_weight(maps, route.prefix) != weight:
        if time.perf_counter() - begin > _GIVE_UP_SECONDS:
            raise BenchError(f"{route.prefix}: a new weight is not in the data path after 5 s")
        time.sleep(_LOOK_SECONDS)
    return time.perf_counter() - begin


def _first_weight(maps: Maps, prefix: Prefix) -> int:
    """The weight of the first path that packets to this prefix go by now."""
    number = maps.group_of(prefix)
    if number is None:
        return 0
    path: Any = maps["paths"].entries[maps["groups"].entries[number].first]
    return int(path.weight) + 1
