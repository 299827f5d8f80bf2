"""The bulk dump of routes: a million of them in the time that the kernel takes to tell them.

Routes differ in their destination, hardly in anything else. So the messages of equal length in a
datagram are looked at together, as rows of an array: with the destination blanked out few different
rows are left, and `routes.parse_route`, which alone knows what attributes mean, is asked once for
each of them. What is not of the usual form is taken alone.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..model.packed import Keys, Numbers, as_keys, pack
from ..model.routetable import NOWHERE, RouteTable
from ..model.values import Route
from . import wire
from .routes import RTA_DST, dump_request, parse_route
from .rtnetlink import ADDRESS_SIZE, RTM_GETROUTE, RTM_NEWROUTE

_FAMILY: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_LENGTH_BYTE = 17
"""Where rtmsg.dst_len is in a message, its header included."""
_DESTINATION = 36
"""Where RTA_DST is: behind nlmsghdr, rtmsg and RTA_TABLE, in both families. A default route has
none."""
_FEW = 32
"""Fewer messages of equal length are quicker taken one by one."""
_LEFT_OUT = 0xFFFFFFFF
_LENGTH_KIND_FLAGS = struct.Struct("=IHH")


class RouteReader:
    """Collects the routes of one address family from dump datagrams (`take`)."""

    def __init__(self, family: int, bodies: dict[Route, int]) -> None:
        """`bodies` collects what there is to routes but their prefix."""
        self._family, self._size = _FAMILY[family], ADDRESS_SIZE[family]
        self._bodies = bodies
        self._header_bytes = wire.attribute(RTA_DST, bytes(self._size))[:4]
        self._header = int(np.frombuffer(self._header_bytes, np.uint32)[0])
        self._known: dict[bytes, int] = {}
        """By the bytes of a message, its destination blanked out: the number of the body."""
        self._keys: list[NDArray[np.uint8]] = []
        self._numbers: list[Numbers] = []

    def clear(self) -> None:
        """Forget the routes."""
        self._keys.clear()
        self._numbers.clear()

    def result(self) -> tuple[Keys, Numbers]:
        """The routes' prefixes and bodies, in the kernel's order."""
        empty = np.empty((0, self._size + 1), np.uint8)
        keys = as_keys(self._family, np.concatenate([empty, *self._keys]))
        return keys, np.concatenate([np.empty(0, np.uint32), *self._numbers])

    def take(self, datagram: bytes) -> int:
        """See `wire.Take`."""
        alike, end = self._walk(datagram)
        count = sum(map(len, alike.values()))
        keys = np.empty((count, self._size + 1), np.uint8)
        numbers = np.empty(count, np.uint32)
        for length, messages in alike.items():
            places = [place for place, _ in messages]
            starts = [start for _, start in messages]
            found = self._take_rows(datagram, length, starts) if len(starts) >= _FEW else None
            if found is None:
                for place, start in messages:
                    keys[place], numbers[place] = self._take_one(datagram, start, start + length)
            else:
                keys[places], numbers[places] = found
        kept = numbers != _LEFT_OUT
        self._keys.append(keys[kept])
        self._numbers.append(numbers[kept])
        return end

    @staticmethod
    def _walk(datagram: bytes) -> tuple[dict[int, list[tuple[int, int]]], int]:
        """By length the messages that are routes, up to the first one that is none: its place
        in the datagram's order and its offset; and the offset of their end."""
        unpack, size = _LENGTH_KIND_FLAGS.unpack_from, len(datagram)
        alike: dict[int, list[tuple[int, int]]] = {}
        start = place = 0
        while start + wire.HEADER_SIZE <= size:
            length, kind, flags = unpack(datagram, start)
            if flags & wire.NLM_F_DUMP_INTR:
                raise wire.interrupted()
            if kind != RTM_NEWROUTE or length < wire.HEADER_SIZE or start + length > size:
                break
            if length in alike:
                alike[length].append((place, start))
            else:
                alike[length] = [(place, start)]
            start += (length + 3) & ~3
            place += 1
        if start < size:
            kind, _, _ = wire.check_header(datagram, start)  # raises what is wrong with it
        return alike, min(start, size)

    def _take_rows(
        self, datagram: bytes, length: int, starts: list[int]
    ) -> tuple[NDArray[np.uint8], Numbers] | None:
        """Prefixes and bodies of messages of equal length; None if they are unusual, or chance
        would have it that they cannot be told apart."""
        first = _DESTINATION + 4
        if length % 4 or length < first + self._size:
            return None
        words = np.frombuffer(datagram, np.uint32, len(datagram) // 4)
        rows = words[np.array(starts)[:, None] // 4 + np.arange(length // 4)]
        if (rows[:, _DESTINATION // 4] != self._header).any():
            return None
        raw = rows.view(np.uint8)
        address = slice(first, first + self._size)
        keys = np.concatenate([raw[:, address], raw[:, _LENGTH_BYTE, None]], axis=1)
        raw[:, _LENGTH_BYTE] = 0
        raw[:, address] = 0
        rest = rows[:, wire.HEADER_SIZE // 4 :]
        sums = rest.astype(np.uint64) @ _FACTORS[: rest.shape[1]]
        _, firsts, inverse = np.unique(sums, return_index=True, return_inverse=True)
        inverse = inverse.reshape(-1)
        if not np.array_equal(rest, rest[firsts[inverse]]):
            return None
        known = [self._number(rest[first].tobytes()) for first in firsts.tolist()]
        return keys, np.array(known, np.uint32)[inverse]

    def _take_one(self, datagram: bytes, start: int, end: int) -> tuple[NDArray[np.uint8], int]:
        """Prefix and body of a message of any form."""
        head, first = start + wire.HEADER_SIZE, start + _DESTINATION + 4
        message = datagram[head:end]
        if datagram[first - 4 : first] == self._header_bytes and first + self._size <= end:
            blanked = bytearray(message)
            blanked[_LENGTH_BYTE - wire.HEADER_SIZE] = 0
            blanked[first - head : first - head + self._size] = bytes(self._size)
            packed = datagram[first : first + self._size] + bytes((message[1],))
            return np.frombuffer(packed, np.uint8), self._number(bytes(blanked))
        route = parse_route(message)
        if route is None:
            return np.zeros(self._size + 1, np.uint8), _LEFT_OUT
        return np.frombuffer(pack(route.prefix), np.uint8), self._intern(route)

    def _number(self, blanked: bytes) -> int:
        if blanked not in self._known:
            route = parse_route(blanked)
            self._known[blanked] = _LEFT_OUT if route is None else self._intern(route)
        return self._known[blanked]

    def _intern(self, route: Route) -> int:
        body = route._replace(prefix=NOWHERE[self._family])
        return self._bodies.setdefault(body, len(self._bodies))


_FACTORS = np.random.default_rng(7).integers(1, 1 << 63, 1 << 14, np.uint64) | np.uint64(1)
"""Rows are told apart by the sum of their words, each by its own factor. A message is shorter
than 64 KiB."""


def read_routes(connection: wire.Socket, meanwhile: Callable[[], None]) -> RouteTable:
    """All routes of the tables main, local and default; those of one prefix are in the kernel's
    order, so the one that it prefers comes first. `meanwhile` is called every now and then, and
    must not use the connection."""
    bodies: dict[Route, int] = {}
    keys, numbers = {}, {}
    for family, number in _FAMILY.items():
        reader = RouteReader(family, bodies)

        def take(datagram: bytes, reader: RouteReader = reader) -> int:
            end = reader.take(datagram)
            meanwhile()
            return end

        def attempt(
            reader: RouteReader = reader, family: int = family, take: wire.Take = take
        ) -> None:
            reader.clear()
            connection.stream(RTM_GETROUTE, dump_request(family), take, "routes")

        wire.uninterrupted(attempt)
        keys[number], numbers[number] = reader.result()
    return RouteTable.build(keys, numbers, list(bodies))
