"""What is measured: add a row and it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import packets
from .programs import FLOOR, REFERENCE, XDPECMP
from .router import MAC, PATHS, SOURCE4, SOURCE6, destination

_SOURCES = {4: SOURCE4, 6: SOURCE6}


@dataclass(frozen=True)
class Case:
    """A packet for a program."""

    name: str
    program: str
    frame: bytes
    family: int
    paths: int = 2
    policy: int = 0

    @property
    def reference(self) -> str:
        """The name of the case that this one is compared with: on the same route."""
        return _reference(self.family, self.paths)


def _reference(family: int, paths: int) -> str:
    return f"reference IPv{family}{_suffix(paths)}"


def _suffix(paths: int) -> str:
    """Two paths go without saying."""
    return "" if paths == 2 else f", {paths} path{'s' * (paths > 1)}"


def _udp(family: int, paths: int = 2) -> bytes:
    return packets.ethernet(MAC, packets.udp(_SOURCES[family], destination(family, paths)))


def _icmp_error(family: int) -> bytes:
    return packets.ethernet(MAC, packets.too_big(_SOURCES[family], destination(family, 2)))


def cases() -> Iterator[Case]:
    """The rows of the table, in its order."""
    yield Case("floor", FLOOR, _udp(4), 4)
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
