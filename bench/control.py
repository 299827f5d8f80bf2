"""The control plane's times: attach, and a route change on its way into the data path."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Any

from tests.netns import Namespace
from xdpecmp.instance import Instance
from xdpecmp.maps import Maps
from xdpecmp.model import Prefix

from .router import BenchError, add_plain_routes, attached, plain_route, router

ROUTES = 1000
_GIVE_UP_SECONDS = 5.0


def measure(
    attaches: int, changes: int, advance: Callable[[], object]
) -> tuple[list[float], list[float]]:
    """Seconds of each attach, from exec to exit, and of each route change, from `ip route replace`
    to the first packet that could go by it; with 1,000 routes."""
    attach_seconds, change_seconds = [], []
    with router("control", 0) as inside:
        add_plain_routes(inside.namespace, ROUTES)
        for last in (attaches - 1 - i for i in range(attaches)):
            with attached(inside.namespace) as seconds:
                attach_seconds.append(seconds)
                advance()
                if not last:
                    change_seconds = _changes(inside.namespace, changes, advance)
    return attach_seconds, change_seconds


def _changes(namespace: Namespace, count: int, advance: Callable[[], object]) -> list[float]:
    with namespace.enter():
        maps = Instance().open_maps()
    with maps:
        seconds = []
        for i in range(count):
            seconds.append(_change(namespace, maps, i % ROUTES, 3 + i % 250))
            advance()
    return seconds


def _change(namespace: Namespace, maps: Maps, number: int, weight: int) -> float:
    """Give one route's first next hop another weight; watch the map for it.

    The clock starts when `ip` has ended: the kernel has had the route since shortly before.
    """
    route = plain_route(number, weight)
    network = ipaddress.ip_network(route.split()[0])
    prefix = Prefix(network.network_address.packed, network.prefixlen)
    namespace.ip(f"route replace {route}")
    begin = time.perf_counter()
    while _first_weight(maps, prefix) != weight:
        if time.perf_counter() - begin > _GIVE_UP_SECONDS:
            raise BenchError(f"{network}: a new weight is not in the data path after 5 s")
    return time.perf_counter() - begin


def _first_weight(maps: Maps, prefix: Prefix) -> int:
    """The weight of the first path that packets to this prefix go by now."""
    number = maps.group_of(prefix)
    if number is None:
        return 0
    path: Any = maps["paths"].entries[maps["groups"].entries[number].first]
    return int(path.weight) + 1
