"""The bulk dump of routes: a million of them in the time that the kernel takes to tell them.

Routes differ in their destination, hardly in anything else. So messages of equal length that follow
one another are looked at together, as rows of an array: with the destination blanked out few
different rows are left, and `routes.parse_route`, which alone knows what attributes mean, is asked
once for each of them. What is not of the usual form is taken by itself.
"""

from __future__ import annotations

import socket

import numpy as np
from numpy.typing import NDArray

from ..model import Route
from ..packed import Keys, Numbers, as_keys, pack
from ..routetable import NOWHERE, RouteTable
from . import wire
from .routes import ADDRESS_SIZE, RTA_DST, RTM_GETROUTE, RTM_NEWROUTE, dump_request, parse_route

_FAMILY: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_LENGTH_BYTE = 17
"""Where rtmsg.dst_len is in a message, its header included."""
_DESTINATION = 36
"""Where RTA_DST is: behind nlmsghdr, rtmsg and RTA_TABLE, in both families. A default route has
none."""
_FEW = 8
"""Fewer messages of equal length are quicker taken one by one."""
_LEFT_OUT = 0xFFFFFFFF

_Words = NDArray[np.uint32]


class RouteReader:
    """Collects the routes of one address family from dump datagrams (`take`)."""

    def __init__(self, family: int, bodies: dict[Route, int]) -> None:
        """`bodies` collects what there is to routes but their prefix."""
        self._family, self._size = _FAMILY[family], ADDRESS_SIZE[family]
        self._bodies = bodies
        header = wire.attribute(RTA_DST, bytes(self._size))[:4]
        self._header = int(np.frombuffer(header, np.uint32)[0])
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
        at, size = 0, len(datagram)
        while at < size:
            rows = self._rows(datagram, at)
            if len(rows) < _FEW or not self._take_rows(rows):
                stop = self._take_one(datagram, at)
                if stop is None:
                    break
                at = stop
            else:
                at += rows.size * rows.itemsize
        return at

    def _rows(self, datagram: bytes, start: int) -> _Words:
        """The messages from `start` on that are routes of equal length, as rows of words."""
        kind, flags, end = wire.check_header(datagram, start)
        length = end - start
        shortest = _DESTINATION + 4 + self._size
        usable = kind == RTM_NEWROUTE and not flags & wire.NLM_F_DUMP_INTR
        if not usable or length % 4 or length < shortest or start % 4:
            return np.empty((0, 1), np.uint32)
        count = (len(datagram) - start) // length
        words = np.frombuffer(datagram, np.uint32, count * length // 4, start)
        rows = words.reshape(count, length // 4)
        alike = (rows[:, 0] == rows[0, 0]) & (rows[:, 1] == rows[0, 1])
        alike &= rows[:, _DESTINATION // 4] == self._header
        return rows if alike.all() else rows[: int(alike.argmin())]

    def _take_rows(self, rows: _Words) -> bool:
        """Take them all; False where chance would have it that they cannot be told apart."""
        size = self._size
        raw = rows.view(np.uint8)
        address = slice(_DESTINATION + 4, _DESTINATION + 4 + size)
        keys = np.concatenate([raw[:, address], raw[:, _LENGTH_BYTE, None]], axis=1)
        rest = rows[:, 4:].copy()  # without nlmsghdr
        blank = rest.view(np.uint8)
        blank[:, _LENGTH_BYTE - 16] = 0
        blank[:, address.start - 16 : address.stop - 16] = 0
        sums = rest.astype(np.uint64) @ _FACTORS[: rest.shape[1]]
        _, firsts, inverse = np.unique(sums, return_index=True, return_inverse=True)
        inverse = inverse.reshape(-1)
        if not np.array_equal(rest, rest[firsts][inverse]):
            return False
        known = [self._number(rest[first].tobytes()) for first in firsts.tolist()]
        numbers = np.array(known, np.uint32)[inverse]
        if _LEFT_OUT in known:
            kept = numbers != _LEFT_OUT
            keys, numbers = keys[kept], numbers[kept]
        self._keys.append(keys)
        self._numbers.append(numbers)
        return True

    def _number(self, blanked: bytes) -> int:
        if blanked not in self._known:
            route = parse_route(blanked)
            self._known[blanked] = _LEFT_OUT if route is None else self._intern(route)
        return self._known[blanked]

    def _intern(self, route: Route) -> int:
        body = route._replace(prefix=NOWHERE[self._family])
        return self._bodies.setdefault(body, len(self._bodies))

    def _take_one(self, datagram: bytes, start: int) -> int | None:
        """Take a message of any form; where the next one starts, None if it is no route."""
        kind, flags, end = wire.check_header(datagram, start)
        if flags & wire.NLM_F_DUMP_INTR:
            raise wire.interrupted()
        if kind != RTM_NEWROUTE:
            return None
        route = parse_route(datagram[start + wire.HEADER_SIZE : end])
        if route is not None:
            self._keys.append(np.frombuffer(pack(route.prefix), np.uint8)[None, :])
            self._numbers.append(np.array([self._intern(route)], np.uint32))
        return (end + 3) & ~3


_FACTORS = np.random.default_rng(7).integers(1, 1 << 63, 1 << 14, np.uint64) | np.uint64(1)
"""Rows are told apart by the sum of their words, each by a factor of its own. A message is shorter
than 64 KiB."""


def read_routes(connection: wire.Socket) -> RouteTable:
    """All routes of the tables main, local and default; those of one prefix are in the kernel's
    order, so the one that it prefers comes first."""
    bodies: dict[Route, int] = {}
    keys, numbers = {}, {}
    for family, number in _FAMILY.items():
        reader = RouteReader(family, bodies)

        def attempt(reader: RouteReader = reader, family: int = family) -> None:
            reader.clear()
            connection.stream(RTM_GETROUTE, dump_request(family), reader.take, "routes")

        wire.uninterrupted(attempt)
        keys[number], numbers[number] = reader.result()
    return RouteTable.build(keys, numbers, list(bodies))
