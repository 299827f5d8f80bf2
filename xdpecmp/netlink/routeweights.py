"""Setting the weights of a multipath route, and nothing else about it.

A route has more to it than `Route` holds (preferred source, metrics, realms, preference …). So the
kernel's own message is taken from a dump, the weights are written over in place, and the message is
sent back as a replacement of the same route (same prefix, table, metric and TOS).

Source: inet_rtm_newroute() and fib_create_info() in net/ipv4, ip6_route_multipath_add() in
net/ipv6/route.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from ..errors import RouteNotFound, RouteNotWeighable
from ..model.values import Route
from . import wire
from .routes import (
    CACHE_EXPIRES,
    NEXT_HOP_HEADER,
    ROUTE_HEADER,
    RTA_CACHEINFO,
    RTA_MULTIPATH,
    RTA_NH_ID,
    find_messages,
    next_hops,
    parse_route,
)
from .rtnetlink import RTM_NEWROUTE, RTNH_F_ONLINK, RTNH_F_PERVASIVE

_RTA_EXPIRES = 23
_KEPT_FLAGS = RTNH_F_PERVASIVE | RTNH_F_ONLINK
"""The others tell a state; the kernel refuses to be told."""
MAX_WEIGHT = 256
"""rtnexthop.rtnh_hops, a byte, is the weight - 1."""


def check_multipath(route: Route) -> None:
    """Raises RouteNotWeighable for a route without a choice of next hops."""
    if len(route.paths) < 2:
        family = "-6 " if route.prefix.family == 6 else ""
        raise RouteNotWeighable(
            f"{route.prefix} has one next hop only, so there is nothing to weigh",
            f"see it: ip {family}route show {route.prefix}",
        )


def check_weight(weight: int, whose: object, most: int = MAX_WEIGHT, group: int = 0) -> None:
    """Raises RouteNotWeighable for a weight that the kernel does not take. `whose`: the next hop;
    `group`: the id of the nexthop group that holds the weights, 0 for the route itself."""
    if not 1 <= weight <= most:
        holder = f"group (ip nexthop show id {group})" if group else "route (ip route replace)"
        raise RouteNotWeighable(
            f"weight {weight} for {whose} is outside 1 to {most}, what the kernel takes",
            f"to send a next hop nothing, remove it from the {holder}",
        )


def set_weights(connection: wire.Socket, route: Route, weights: Sequence[int]) -> None:
    """Give the paths of a route, in their order, these weights (1 to 256).

    The route has to be as the kernel has it, its weights apart: otherwise RouteNotFound, since the
    weights would go to other paths than the caller means. Raises RouteNotWeighable for a route
    without weights or for impossible weights, NotPermitted, KernelRefused.
    """
    _check(route, weights)
    messages = find_messages(connection, route.prefix, route.table)
    same = [message for message in messages if _same(route, parse_route(message))]
    # IPv4 may hold several routes alike in all that; the first is in use, and it is replaced.
    if not same or _hops(parse_route(same[0])) != _hops(route):
        raise RouteNotFound(
            f"the kernel has no route {route.prefix} with these next hops (any more)",
            f"look at it: xdpecmp routes {route.prefix}",
        )
    request = with_weights(same[0], weights)
    connection.tell(RTM_NEWROUTE, wire.NLM_F_REPLACE, request, f"route {route.prefix}")


def _check(route: Route, weights: Sequence[int]) -> None:
    if route.nhid:
        raise _held_by_nexthop_object()
    check_multipath(route)
    if len(weights) != len(route.paths):
        raise RouteNotWeighable(
            f"{len(weights)} weights for the {len(route.paths)} next hops of {route.prefix}"
        )
    for path, weight in zip(route.paths, weights, strict=True):
        check_weight(weight, path.nexthop)


def _held_by_nexthop_object() -> RouteNotWeighable:
    return RouteNotWeighable(
        "the route uses a nexthop object, which holds the weights",
        "change them there: xdpecmp weights does",
    )


def _same(route: Route, other: Route | None) -> bool:
    return other is not None and (
        (route.prefix, route.table, route.metric, route.tos, route.source_bits)
        == (other.prefix, other.table, other.metric, other.tos, other.source_bits)
    )


def _hops(route: Route | None) -> list[object]:
    return [path.nexthop for path in route.paths] if route else []


def with_weights(message: bytes, weights: Sequence[int]) -> bytes:
    """A dumped route message (without netlink header) as a request for other weights.

    Raises RouteNotWeighable if the route uses nexthop objects, or has no RTA_MULTIPATH.
    """
    fields = list(ROUTE_HEADER.unpack_from(message))
    fields[-1] &= _KEPT_FLAGS
    request = bytearray(ROUTE_HEADER.pack(*fields))
    weighed = False
    for kind, start, end in wire.attributes(message, ROUTE_HEADER.size, len(message)):
        value = message[start:end]
        if kind == RTA_NH_ID:
            raise _held_by_nexthop_object()
        if kind == RTA_MULTIPATH:
            value, weighed = _reweighed(value, weights), True
        if kind == RTA_CACHEINFO:  # a report of IPv6; its one setting goes by another name
            request += _expiry(value)
        else:
            request += wire.attribute(kind, value)
    if not weighed:
        raise RouteNotWeighable("the route is not a multipath route")
    return bytes(request)


def _reweighed(block: bytes, weights: Sequence[int]) -> bytes:
    changed = bytearray(block)
    for weight, (start, flags, _, ifindex, _) in zip(weights, next_hops(block), strict=True):
        (length,) = struct.unpack_from("=H", block, start)
        NEXT_HOP_HEADER.pack_into(changed, start, length, flags & _KEPT_FLAGS, weight - 1, ifindex)
    return bytes(changed)


def _expiry(cacheinfo: bytes) -> bytes:
    """RTA_EXPIRES in seconds for what is left of a route's life; nothing if it has no end."""
    ticks: int = CACHE_EXPIRES.unpack_from(cacheinfo)[0]
    if ticks <= 0:
        return b""
    seconds = max(1, ticks // os.sysconf("SC_CLK_TCK"))
    return wire.attribute(_RTA_EXPIRES, struct.pack("=I", seconds))
