"""Routes: the kernel's RTM_NEWROUTE messages as `Route` values, fast.

The whole table is read again after a change (ARCHITECTURE.md: much of what happens to a route is
never notified), so a dump must be cheap: 100,000 routes of three paths in well under a second, of
which the kernel itself takes a good part.

What makes it so: routes differ in their destination, hardly in anything else. All bytes of a
message but the destination are the key of a dictionary, and only the first message with such bytes
is parsed. For the others one `unpack`, one slice and one look-up are done. The fast path is thus a
memo of `parse_route`, which alone knows what the attributes mean.

Source: rtnetlink(7); fib_dump_info() in net/ipv4/fib_semantics.c, rt6_fill_node() in
net/ipv6/route.c.
"""

from __future__ import annotations

import gc
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from ..errors import MalformedMessage
from ..model import NextHop, Path, Prefix, Route, RouteKind
from . import wire

RTM_NEWROUTE = 24
RTM_GETROUTE = 26

RTA_DST = 1
RTA_SRC = 2
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PRIORITY = 6
RTA_METRICS = 8
RTA_MULTIPATH = 9
RTA_TABLE = 15
RTA_VIA = 18
RTA_NEWDST = 19
RTA_ENCAP_TYPE = 21
RTA_ENCAP = 22
RTA_NH_ID = 30

RTM_F_CLONED = 0x200
_RTAX_LOCK = 1
_RTAX_MTU = 2

TABLES = (254, 255, 253)
"""main, local and default: those that the default policy rules consult."""

_KINDS = {
    1: RouteKind.UNICAST,
    2: RouteKind.LOCAL,
    3: RouteKind.SPECIAL,  # broadcast
    4: RouteKind.LOCAL,  # anycast
    5: RouteKind.SPECIAL,  # multicast
    6: RouteKind.SPECIAL,  # blackhole
    7: RouteKind.SPECIAL,  # unreachable
    8: RouteKind.SPECIAL,  # prohibit
}
_NOT_CARRIED_OUT = frozenset({RTA_SRC, RTA_NEWDST, RTA_ENCAP_TYPE, RTA_ENCAP})
"""Attributes that ask for what the data path does not do: source routing, MPLS, tunnels."""

ROUTE_HEADER = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
NEXT_HOP_HEADER = struct.Struct("=HBBi")
"""rtnexthop: length, flags, hops (weight - 1), ifindex."""
_ADDRESS_SIZE: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}

_Shared = tuple[int, int, RouteKind, tuple[Path, ...], int, int, int, int] | None
"""All of a Route but its prefix, in order; None where the message is to be left out."""


def parse_route(message: bytes) -> Route | None:
    """One RTM_NEWROUTE message, without its netlink header, as a Route.

    None for what is not mirrored: cached (cloned) routes and other tables than main, local and
    default. MalformedMessage if the bytes are no such message.
    """
    if len(message) < ROUTE_HEADER.size:
        raise MalformedMessage(f"route message of {len(message)} bytes")
    family, bits, source_bits, tos, table, protocol, scope, kind, flags = ROUTE_HEADER.unpack_from(
        message
    )
    size = _ADDRESS_SIZE.get(family)
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
    # nothing at all where net.ipv4.nexthop_compat_mode is 0.
    paths, plain = ((), True) if nhid else _paths(found, flags & 0xFF)
    meaning = _KINDS.get(kind, RouteKind.UNSUPPORTED)
    plain = plain and not source_bits and not _NOT_CARRIED_OUT & found.keys()
    plain = plain and _plain_metrics(found.get(RTA_METRICS, b""))
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
    )


def _plain_metrics(metrics: bytes) -> bool:
    """Whether no metric of the route bears on forwarding: a path MTU of its own, or locked ones."""
    return not any(
        kind in (_RTAX_LOCK, _RTAX_MTU) for kind, _, _ in wire.attributes(metrics, 0, len(metrics))
    )


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
    return (address, True) if _ADDRESS_SIZE.get(family) == len(address) else (b"", False)


class RouteReader:
    """Collects the routes of one address family from dump datagrams (`take`) into `routes`."""

    def __init__(self, family: int) -> None:
        size = _ADDRESS_SIZE[family]
        # nlmsghdr.length, .type, .flags; rtmsg.dst_len; then all the rest of rtmsg and, in one
        # piece with it, RTA_TABLE; then RTA_DST with its header. It is the kernel's order of both
        # families; a message in another one (a default route has no RTA_DST) goes the slow way.
        self._start = struct.Struct(f"=IHH9xB18sI{size}s")
        self._destination = int.from_bytes(wire.attribute(RTA_DST, bytes(size))[:4], sys.byteorder)
        self._shared: dict[bytes, _Shared] = {}
        self.routes: list[Route] = []

    def take(self, datagram: bytes) -> int:
        """See `wire.Take`."""
        unpack, fixed, expected = self._start.unpack_from, self._start.size, self._destination
        shared, add, make = self._shared, self.routes.append, tuple.__new__
        at, size = 0, len(datagram)
        last = size - fixed
        while at <= last:
            length, kind, flags, bits, head, destination, address = unpack(datagram, at)
            end = at + length
            if (
                kind != RTM_NEWROUTE
                or destination != expected
                or flags & wire.NLM_F_DUMP_INTR
                or length < fixed
                or end > size
            ):
                stop = self._take_slowly(datagram, at)
                if stop is None:
                    return at
                at = stop
                continue
            key = head + datagram[at + fixed : end]
            try:
                rest = shared[key]
            except KeyError:
                route = parse_route(datagram[at + wire.HEADER_SIZE : end])
                rest = shared[key] = None if route is None else route[1:]
            if rest is not None:
                # Route(Prefix(address, bits), *rest), in half the time
                add(make(Route, (make(Prefix, (address, bits)), *rest)))
            at = (end + 3) & ~3
        while at < size:
            stop = self._take_slowly(datagram, at)
            if stop is None:
                return at
            at = stop
        return at

    def _take_slowly(self, datagram: bytes, start: int) -> int | None:
        """Take one message of any form; returns where the next one starts, None if not a route."""
        kind, flags, end = wire.check_header(datagram, start)
        if flags & wire.NLM_F_DUMP_INTR:
            raise wire.interrupted()
        if kind != RTM_NEWROUTE:
            return None
        route = parse_route(datagram[start + wire.HEADER_SIZE : end])
        if route is not None:
            self.routes.append(route)
        return (end + 3) & ~3


def dump_request(family: int, table: int = 0) -> bytes:
    """The body of a dump request for one family, and for one table (below 256) or all of them."""
    return ROUTE_HEADER.pack(family, 0, 0, 0, table, 0, 0, 0, 0)


def read_routes(connection: wire.Socket) -> tuple[Route, ...]:
    """All routes of the tables main, local and default, IPv4 then IPv6.

    Within a family they stand in the kernel's order, so of several for one prefix the one that the
    kernel prefers comes first.
    """
    with _no_garbage_collection():
        found: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            found += _read_family(connection, family)
        return tuple(found)


def _read_family(connection: wire.Socket, family: int) -> list[Route]:
    reader = RouteReader(family)

    def attempt() -> None:
        reader.routes.clear()
        connection.stream(RTM_GETROUTE, dump_request(family), reader.take, "routes")

    wire.uninterrupted(attempt)
    return reader.routes


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Put the cycle collector off: it would walk all routes again and again as their number grows,
    and tuples of bytes and numbers form no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def find_messages(
    connection: wire.Socket, wanted: Callable[[Route], bool], family: int, table: int
) -> list[bytes]:
    """The raw messages (without netlink header) of those routes of a table that `wanted` likes."""
    found: list[bytes] = []

    def take(datagram: bytes) -> int:
        for kind, flags, start, end in wire.messages(datagram):
            if flags & wire.NLM_F_DUMP_INTR:
                raise wire.interrupted()
            if kind != RTM_NEWROUTE:
                return start
            message = datagram[start + wire.HEADER_SIZE : end]
            route = parse_route(message)
            if route is not None and wanted(route):
                found.append(message)
        return len(datagram)

    def attempt() -> None:
        found.clear()
        connection.stream(RTM_GETROUTE, dump_request(family, table), take, "routes")

    wire.uninterrupted(attempt)
    return found
