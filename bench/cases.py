"""The rows of the first part, nanoseconds a packet: add one here and it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import packets
from .programs import BARE_REDIRECT, CHECKS, FLOOR, LOOK_UP, MINIMUM, REFERENCE, XDPECMP
from .router import MAC, PATHS, SOURCE4, SOURCE6, VLAN_DESTINATION4, VLAN_ID, destination

_SOURCES = {4: SOURCE4, 6: SOURCE6}

TABLE_SIZES = (1, 1_000, 100_000, 1_000_000)
"""Routes of the tables that destinations are spread over."""

_MINIMA = {MINIMUM: "kernel-exact minimum", LOOK_UP: "minimum and one look-up"}
"""Measured with destinations at random over the largest table."""

HARNESS = (FLOOR, CHECKS)
"""Programs that end in XDP_TX; all others redirect."""


@dataclass(frozen=True)
class Case:
    """A packet for a program."""

    name: str
    program: str
    frame: bytes
    family: int = 4
    paths: int = 2
    policy: int = 0
    table: int | None = None
    """The size of the table that destinations are spread over; None: always the same packet."""
    needs_vlan: bool = False

    @property
    def reference(self) -> str | None:
        """The name of the case that this one is compared with: on the same route or table."""
        if self.program in HARNESS:
            return None
        return _reference(self.family, self.paths, self.table)


def _reference(family: int, paths: int = 2, table: int | None = None) -> str:
    return f"reference IPv{family}{_suffix(paths, table)}"


def _suffix(paths: int = 2, table: int | None = None) -> str:
    """Two paths on a single route go without saying."""
    if table is not None:
        return f", {table:,} route{'s' * (table > 1)} at random"
    return "" if paths == 2 else f", {paths:,} path{'s' * (paths > 1)}"


def spread_name(program: str, family: int, table: int) -> str:
    """The name of the row of a program with destinations all over a table."""
    if program == FLOOR:
        return f"spreader IPv{family}"
    if program == REFERENCE:
        return _reference(family, table=table)
    if program in _MINIMA:
        return f"{_MINIMA[program]} IPv{family}{_suffix(table=table)}"
    return f"IPv{family} policy 0{_suffix(table=table)}"


def _udp(family: int, paths: int = 2) -> bytes:
    return packets.ethernet(MAC, packets.udp(_SOURCES[family], destination(family, paths)))


def _icmp_error(family: int) -> bytes:
    return packets.ethernet(MAC, packets.too_big(_SOURCES[family], destination(family, 2)))


def cases() -> Iterator[Case]:
    """The rows of the table, in its order."""
    yield Case("floor", FLOOR, _udp(4))
    for family in (4, 6):
        yield Case(f"checks IPv{family}", CHECKS, _udp(family), family)
        yield Case(f"bare redirect IPv{family}", BARE_REDIRECT, _udp(family), family)
        yield Case(f"kernel-exact minimum IPv{family}", MINIMUM, _udp(family), family)
    for family in (4, 6):
        for paths in PATHS:
            name = _reference(family, paths)
            yield Case(name, REFERENCE, _udp(family, paths), family, paths)
    for family in (4, 6):
        icmp = "ICMPv4" if family == 4 else "ICMPv6"
        for policy in (0, 1, 2, 3):
            yield Case(f"IPv{family} policy {policy}", XDPECMP, _udp(family), family, 2, policy)
            name = f"{icmp} error, policy {policy}"
            yield Case(name, XDPECMP, _icmp_error(family), family, 2, policy)
        for paths in PATHS:
            if paths != 2:  # which is the row above
                name = f"IPv{family} policy 0{_suffix(paths)}"
                yield Case(name, XDPECMP, _udp(family, paths), family, paths)
    tagged = packets.ethernet(MAC, packets.udp(SOURCE4, VLAN_DESTINATION4), VLAN_ID)
    yield Case("IPv4 policy 0, VLAN in and out", XDPECMP, tagged, needs_vlan=True)
    for family in (4, 6):
        for program in (REFERENCE, XDPECMP):
            for size in TABLE_SIZES:
                name = spread_name(program, family, size)
                yield Case(name, program, b"", family, table=size)
    for program in _MINIMA:
        name = spread_name(program, 4, TABLE_SIZES[-1])
        yield Case(name, program, b"", 4, table=TABLE_SIZES[-1])
