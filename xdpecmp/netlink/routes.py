"""Routes: the kernel's RTM_NEWROUTE messages as `Route` values. Whole tables: see `routedump`.

Source: rtnetlink(7); fib_dump_info() in net/ipv4/fib_semantics.c, rt6_fill_node() in
net/ipv6/route.c.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

from ..errors import MalformedMessage
from ..model.values import NextHop, Path, Prefix, Route, RouteKind
from . import wire
from .rtnetlink import (
    ADDRESS_SIZE,
    RT_TABLE_DEFAULT,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTN_ANYCAST,
    RTN_BLACKHOLE,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_PROHIBIT,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    family_of,
)

RTA_DST = 1
RTA_SRC = 2
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PRIORITY = 6
RTA_METRICS = 8
RTA_MULTIPATH = 9
RTA_CACHEINFO = 12
RTA_TABLE = 15
RTA_VIA = 18
RTA_NEWDST = 19
RTA_ENCAP_TYPE = 21
RTA_ENCAP = 22
RTA_NH_ID = 30

RTM_F_CLONED = 0x200
_RTAX_LOCK = 1
_RTAX_MTU = 2

TABLES = (RT_TABLE_MAIN, RT_TABLE_LOCAL, RT_TABLE_DEFAULT)
"""main, local and default: those that the default policy rules consult."""

_KINDS = {
    RTN_UNICAST: RouteKind.UNICAST,
    RTN_LOCAL: RouteKind.LOCAL,
    RTN_BROADCAST: RouteKind.SPECIAL,
    RTN_ANYCAST: RouteKind.LOCAL,
    RTN_MULTICAST: RouteKind.SPECIAL,
    RTN_BLACKHOLE: RouteKind.SPECIAL,
    RTN_UNREACHABLE: RouteKind.SPECIAL,
    RTN_PROHIBIT: RouteKind.SPECIAL,
}
_NOT_CARRIED_OUT = frozenset({RTA_SRC, RTA_NEWDST, RTA_ENCAP_TYPE, RTA_ENCAP})
"""Attributes that ask for what the data path does not do: source routing, MPLS, tunnels."""

ROUTE_HEADER = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
NEXT_HOP_HEADER = struct.Struct("=HBBi")
"""rtnexthop: length, flags, hops (weight - 1), ifindex."""
CACHE_EXPIRES = struct.Struct("=8xi")
"""rta_cacheinfo.rta_expires: clock ticks; below 0 if they are over, 0 = no end."""

_REMEMBERED = 1 << 14
"""So many messages a RouteMemo keeps."""


def parse_route(message: bytes) -> Route | None:
    """One RTM_NEWROUTE message, without its netlink header, as a Route.

    None for what is not mirrored: cached (cloned) routes and other tables than main, local and
    default. UNSUPPORTED if it makes no sense except for its destination; MalformedMessage if not
    even that can be told.
    """
    try:
        return _parse(message)
    except MalformedMessage:
        return _doubt(message)


def _doubt(message: bytes) -> Route | None:
    """What makes no sense is for Linux to handle, as long as it can be told for which packets: that
    comes first. A route that was left out would have them take a shorter prefix."""
    found: dict[int, bytes] = {}
    if len(message) >= ROUTE_HEADER.size:
        with suppress(MalformedMessage):
            for kind, start, end in wire.attributes(message, ROUTE_HEADER.size, len(message)):
                found[kind] = message[start:end]
    kept = b"".join(
        wire.attribute(kind, found[kind])
        for kind in (RTA_TABLE, RTA_DST, RTA_PRIORITY)
        if kind in found
    )
    if message[1:2] != b"\0" and RTA_DST not in found:
        raise MalformedMessage("route message of which the destination cannot be told")
    return _parse(message[: ROUTE_HEADER.size] + kept)  # without next hops: UNSUPPORTED


def _parse(message: bytes) -> Route | None:
    if len(message) < ROUTE_HEADER.size:
        raise MalformedMessage(f"route message of {len(message)} bytes")
    family, bits, source_bits, tos, table, protocol, scope, kind, flags = ROUTE_HEADER.unpack_from(
        message
    )
    size = ADDRESS_SIZE.get(family)
    if size is None:
        raise MalformedMessage(f"route of address family {family}")
    found = wire.attribute_map(message, ROUTE_HEADER.size, len(message))
    if RTA_TABLE in found:
        table = wire.number(found[RTA_TABLE])
    if flags & RTM_F_CLONED or table not in TABLES:
        return None
    address = found.get(RTA_DST, bytes(size))
    if len(address) != size:
        raise MalformedMessage(f"route to an address of {len(address)} bytes")
    nhid = wire.number(found.get(RTA_NH_ID, bytes(4)))
    # What a message shows of a nexthop object is for old programs: weights cut to a byte, and
    # nothing at all if net.ipv4.nexthop_compat_mode is 0.
    paths, plain = ((), True) if nhid else _paths(found, flags & 0xFF)
    meaning = _KINDS.get(kind, RouteKind.UNSUPPORTED)
    plain = plain and not _NOT_CARRIED_OUT & found.keys()
    plain = plain and _plain_metrics(found.get(RTA_METRICS, b""))
    plain = plain and _lasts(found.get(RTA_CACHEINFO, b""))
    if not plain or (meaning is RouteKind.UNICAST and not paths and not nhid):
        meaning = RouteKind.UNSUPPORTED
    return Route(
        prefix=Prefix(address, bits),
        table=table,
        metric=wire.number(found.get(RTA_PRIORITY, bytes(4))),
        kind=meaning,
        paths=paths,
        protocol=protocol,
        scope=scope,
        tos=tos,
        nhid=nhid,
        source_bits=source_bits,
    )


def _plain_metrics(metrics: bytes) -> bool:
    """Whether no metric of the route bears on forwarding: its own path MTU, or locked ones."""
    return not any(
        kind in (_RTAX_LOCK, _RTAX_MTU) for kind, _, _ in wire.attributes(metrics, 0, len(metrics))
    )


def _lasts(cacheinfo: bytes) -> bool:
    """Whether the route has no end. One that has (of a router advertisement) ends without an event:
    the kernel passes it over from that moment on, and announces it up to 30 s later."""
    return len(cacheinfo) < CACHE_EXPIRES.size or CACHE_EXPIRES.unpack_from(cacheinfo) == (0,)


def _paths(found: dict[int, bytes], flags: int) -> tuple[tuple[Path, ...], bool]:
    """The paths of a route, and whether they are something that the data path carries out."""
    if RTA_MULTIPATH in found:
        return _multipath(found[RTA_MULTIPATH])
    if RTA_OIF not in found:
        return (), True
    via, known = via_of(found)
    nexthop = NextHop(via, wire.number(found[RTA_OIF]))
    return (Path(nexthop, 1, flags),), known


@lru_cache(maxsize=1 << 14)
def _multipath(block: bytes) -> tuple[tuple[Path, ...], bool]:
    """As `_paths`, for an RTA_MULTIPATH: routes that differ in metric often share their paths."""
    plain, paths = True, []
    for _, hop_flags, hops, ifindex, inner in next_hops(block):
        via, known = via_of(inner)
        plain = plain and known and not _NOT_CARRIED_OUT & inner.keys()
        paths.append(Path(NextHop(via, ifindex), hops + 1, hop_flags))
    return tuple(paths), plain


def kind_of(message: bytes) -> RouteKind:
    """The kind of route in a message that is the answer to a single question. MalformedMessage if
    it is too short to be one."""
    if len(message) < ROUTE_HEADER.size:
        raise MalformedMessage(f"route message of {len(message)} bytes")
    return _KINDS.get(ROUTE_HEADER.unpack_from(message)[7], RouteKind.UNSUPPORTED)


def next_hops(block: bytes) -> Iterator[tuple[int, int, int, int, dict[int, bytes]]]:
    """Walk RTA_MULTIPATH: (offset in the block, flags, hops, ifindex, attributes) of each path."""
    start = 0
    while len(block) - start >= NEXT_HOP_HEADER.size:
        length, flags, hops, ifindex = NEXT_HOP_HEADER.unpack_from(block, start)
        if length < NEXT_HOP_HEADER.size or start + length > len(block):
            raise MalformedMessage(f"next hop of {length} bytes")
        inner = wire.attribute_map(block, start + NEXT_HOP_HEADER.size, start + length)
        yield start, flags, hops, ifindex, inner
        start += (length + 3) & ~3


def via_of(found: dict[int, bytes]) -> tuple[bytes, bool]:
    """The gateway's packed address or b"", and whether it is of a family that we know."""
    if RTA_GATEWAY in found:
        gateway = found[RTA_GATEWAY]
        if len(gateway) not in (4, 16):
            raise MalformedMessage(f"gateway address of {len(gateway)} bytes")
        return gateway, True
    if RTA_VIA not in found:
        return b"", True
    # struct rtvia: the address family as u16, then the address.
    family, address = wire.number(found[RTA_VIA][:2]), found[RTA_VIA][2:]
    return (address, True) if ADDRESS_SIZE.get(family) == len(address) else (b"", False)


class RouteMemo:
    """`parse_route` for whole messages of one address family that come again and again, with
    another destination: what was parsed once is looked up from then on."""

    def __init__(self, family: int) -> None:
        size = ADDRESS_SIZE[family]
        # behind nlmsghdr: rtmsg.dst_len; then the rest of rtmsg and, in one piece with it,
        # RTA_TABLE; then RTA_DST with its header; it is the kernel's order in both families
        self._start = struct.Struct(f"=17xB18sI{size}s")
        self._destination = int.from_bytes(wire.attribute(RTA_DST, bytes(size))[:4], sys.byteorder)
        self._known: dict[bytes, Route | None] = {}

    def parse(self, message: bytes) -> Route | None:
        """As `parse_route`, of a message with its netlink header."""
        start = self._start
        if len(message) < start.size:
            return parse_route(message[wire.HEADER_SIZE :])
        bits, head, destination, address = start.unpack_from(message)
        if destination != self._destination:
            return parse_route(message[wire.HEADER_SIZE :])
        key = head + message[start.size :]
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = parse_route(message[wire.HEADER_SIZE :])
        route = self._known[key]
        # Route(Prefix(address, bits), *route[1:]), in half the time
        make = tuple.__new__
        return route and make(Route, (make(Prefix, (address, bits)), *route[1:]))


def dump_request(family: int, table: int = 0) -> bytes:
    """The body of a dump request for one family, and for one table (below 256) or all of them."""
    return ROUTE_HEADER.pack(family, 0, 0, 0, table, 0, 0, 0, 0)


def read_routes_to(connection: wire.Socket, prefix: Prefix) -> list[Route]:
    """The routes of one prefix in the tables main, local and default, in the kernel's order."""
    return [route for route in map(parse_route, find_messages(connection, prefix)) if route]


def find_messages(connection: wire.Socket, prefix: Prefix, table: int = 0) -> list[bytes]:
    """The raw messages (without netlink header) of the routes of one prefix, of one table or all.

    The kernel has no question for that, so all routes go by; but few are parsed.
    """
    found: list[bytes] = []
    family = family_of(prefix.address)

    def take(datagram: bytes) -> int:
        for kind, flags, start, end in wire.messages(datagram):
            if flags & wire.NLM_F_DUMP_INTR:
                raise wire.interrupted()
            if kind != RTM_NEWROUTE:
                return start
            message = datagram[start + wire.HEADER_SIZE : end]
            if message[1:2] != length or (prefix.length and prefix.address not in message):
                continue
            route = parse_route(message)
            if route is not None and route.prefix == prefix:
                found.append(message)
        return len(datagram)

    def attempt() -> None:
        found.clear()
        connection.stream(RTM_GETROUTE, dump_request(family, table), take, "routes")

    length = bytes((prefix.length,))
    wire.uninterrupted(attempt)
    return found
